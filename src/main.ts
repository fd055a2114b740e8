// The executable. A worker runs it too, since it is one file; each loads what it needs, as the
// start is to be quick.

import type { WorkerTask } from "./worker-thread.ts";

if (Bun.isMainThread) {
  const { main } = await import("./cli.ts");
  const code = await main(process.argv0, process.argv.slice(2), async (...given) => {
    const { WorkerThread } = await import("./worker-thread.ts");
    // It starts while the daemon mounts.
    const worker = new WorkerThread();
    const { runDaemon } = await import("./daemon.ts");
    return runDaemon(...given, worker);
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
