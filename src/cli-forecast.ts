// How many workers this process will need before its mount answers, as far as that shows before the
// command line is read: threads take longer to start than everything else, and so start first. A
// wrong forecast costs time, and at most the memory of a thread that waits.

import { readFileSync } from "node:fs";

/** In the environment of a process that was started to be the daemon, see cli-background.ts. */
export const READY_FD = "FUSE_BACKEND_READY_FD";

const SERVING = ["passthrough", "overlay", "vfs"];
/** With these another process serves, or none. */
const ELSEWHERE = ["--background", "--help", "-h", "--version"];
const ENABLE_URING = "/sys/module/fuse/parameters/enable_uring";

export function workersToStart(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): number {
  if (!expectsToServe(args, environment)) return 0;
  // With io_uring there are always two at least: for a ring, and for /dev/fuse or another ring.
  const mayHaveRings = !args.some((word) => word.startsWith("--io-uring"));
  return mayHaveRings && hasUring() ? 2 : 1;
}

function expectsToServe(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): boolean {
  if (environment[READY_FD] !== undefined) return true;
  return SERVING.includes(args[0] ?? "") && !args.some((word) => ELSEWHERE.includes(word));
}

function hasUring(): boolean {
  try {
    return readFileSync(ENABLE_URING, "latin1").startsWith("Y");
  } catch {
    return false; // an older kernel
  }
}
