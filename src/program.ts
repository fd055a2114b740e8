// The program: the command line, and the daemon if it asks for one.

import { main } from "./cli.ts";
import { offersRings } from "./uring-offer.ts";
import { WorkerThread } from "./worker-thread.ts";

/** Runs it with threads of workers that have been started before. Returns the exit code. */
export function run(args: readonly string[], workers: WorkerThread[]): Promise<number> {
  return main(process.argv0, args, async (options, ...given) => {
    // With io_uring two are needed at least: for a ring, and for /dev/fuse or another ring.
    const needed = options.ioUring !== "off" && offersRings() === true ? 2 : 1;
    while (workers.length < needed) workers.push(new WorkerThread());
    // Loaded only now, since the command line may ask for less.
    const { runDaemon } = await import("./daemon.ts");
    return runDaemon(options, ...given, workers);
  });
}
