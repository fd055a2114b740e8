// The executable. A worker runs it too, since it is one file.

import { main } from "./cli.ts";

if (Bun.isMainThread) {
  const code = await main(process.argv0, process.argv.slice(2), async (...given) => {
    const { runDaemon } = await import("./daemon.ts");
    return runDaemon(...given);
  });
  process.exit(code);
} else {
  const { workerData } = await import("node:worker_threads");
  const { runWorker } = await import("./worker.ts");
  runWorker(workerData);
}
