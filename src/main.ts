// The executable. A worker runs it too, since it is one file; each loads what it needs, as the
// start is to be quick.

import type { WorkerTask } from "./worker-thread.ts";

if (Bun.isMainThread) {
  const args = process.argv.slice(2);
  const { workersToStart } = await import("./cli-forecast.ts");
  const { WorkerThread } = await import("./worker-thread.ts");
  // They start while the command line is read and the daemon mounts.
  const workers = Array.from(
    { length: workersToStart(args, process.env) },
    () => new WorkerThread(),
  );
  const { main } = await import("./cli.ts");
  const code = await main(process.argv0, args, async (...given) => {
    // At the latest while the daemon mounts.
    if (workers.length === 0) workers.push(new WorkerThread());
    const { runDaemon } = await import("./daemon.ts");
    return runDaemon(...given, workers);
  });
  process.exit(code);
} else {
  // Listened for at once: what comes while nobody listens is lost.
  const told = new Promise<MessageEvent<WorkerTask>>((resolve) =>
    addEventListener("message", resolve, { once: true }),
  );
  const { runTask } = await import("./worker.ts");
  const { data } = await told;
  await runTask(data);
}
