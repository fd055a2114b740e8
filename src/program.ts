// The program: the command line, and the daemon if it asks for one.

import { main } from "./cli.ts";
import type { DaemonOptions } from "./daemon.ts";
import { offersRings } from "./uring-offer.ts";
import { WorkerThread } from "./worker-thread.ts";

/** Runs it with threads of workers that have been started before. Returns the exit code. */
export function run(args: readonly string[], workers: WorkerThread[]): Promise<number> {
  return main(process.argv0, args, async (options, ...given) => {
    while (workers.length < workersToStart(options)) workers.push(new WorkerThread());
    // Loaded only now, since the command line may ask for less.
    const { runDaemon } = await import("./daemon.ts");
    return runDaemon(options, ...given, workers);
  });
}

/** How many workers are needed before the mount can answer, as far as that can be told by now. */
export function workersToStart(
  { ioUring }: Pick<DaemonOptions, "ioUring">,
  hasRings: () => boolean | undefined = offersRings,
): number {
  // With io_uring there are always two at least: for a ring, and for /dev/fuse or another ring.
  return ioUring !== "off" && hasRings() === true ? 2 : 1;
}
