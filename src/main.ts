// The executable. It loads what it needs when it needs it, as the start is to be quick.

import { workersToStart } from "./cli-forecast.ts";
import { WorkerThread } from "./worker-thread.ts";

const args = process.argv.slice(2);
// They start while the command line is read and the daemon mounts.
const workers = Array.from({ length: workersToStart(args, process.env) }, () => new WorkerThread());
const { main } = await import("./cli.ts");
const code = await main(process.argv0, args, async (...given) => {
  // At the latest while the daemon mounts.
  if (workers.length === 0) workers.push(new WorkerThread());
  const { runDaemon } = await import("./daemon.ts");
  return runDaemon(...given, workers);
});
process.exit(code);
