// How many workers this process will need before its mount answers, as far as that shows before the
// command line is read: threads take longer to start than everything else, and so start first. A
// wrong forecast costs time, and at most the memory of a thread that waits.

import { readFileSync } from "node:fs";

/** In the environment of a process that was started to be the daemon, see cli-background.ts. */
export const READY_FD = "FUSE_BACKEND_READY_FD";

/** The commands that serve. */
export const COMMAND_NAMES = ["passthrough", "overlay", "vfs"] as const;
/** With these another process serves, or none. */
const ELSEWHERE = ["--background", "--help", "-h", "--version"];

export function workersToStart(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
  hasRings: () => boolean = kernelHasRings,
): number {
  const isDaemon = environment[READY_FD] !== undefined;
  const isCommand = COMMAND_NAMES.some((name) => name === args[0]);
  if (!isDaemon && (!isCommand || args.some((word) => ELSEWHERE.includes(word)))) return 0;
  // With io_uring there are always two at least: for a ring, and for /dev/fuse or another ring.
  const isGiven = args.some((word) => word.startsWith("--io-uring"));
  return !isGiven && hasRings() ? 2 : 1;
}

function kernelHasRings(): boolean {
  try {
    return readFileSync("/sys/module/fuse/parameters/enable_uring", "latin1").startsWith("Y");
  } catch {
    return false; // an older kernel
  }
}
