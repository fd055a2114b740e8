// The program: the command line, and the daemon if it asks for one.

import { main } from "./cli.ts";
import { WorkerThread } from "./worker-thread.ts";

/** Runs it with threads of workers that have been started before. Returns the exit code. */
export function run(args: readonly string[], workers: WorkerThread[]): Promise<number> {
  return main(process.argv0, args, async (...given) => {
    // At the latest while the daemon mounts.
    if (workers.length === 0) workers.push(new WorkerThread());
    // Loaded only now, since the command line may ask for less.
    const { runDaemon } = await import("./daemon.ts");
    return runDaemon(...given, workers);
  });
}
