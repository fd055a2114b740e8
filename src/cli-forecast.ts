// What can be told before the command line is read, which takes a while: whether the daemon goes to
// the background, so that this process need not load what it is made of, and whether it will need a
// worker before its mount answers: threads take longer to start than everything else. A wrong
// forecast costs time, and at most the memory of a thread that waits.

import { READY_FD } from "./cli-background.ts";
import { COMMAND_NAMES, overlayLinkName } from "./cli-names.ts";

/** With these nothing is served. */
const ASKS = ["--help", "-h", "--version", "-V"];

/** Whether another process will be the daemon, see cli-background.ts. */
export function goesToBackground(
  invokedAs: string,
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): boolean {
  if (environment[READY_FD] !== undefined || args.some((word) => ASKS.includes(word))) return false;
  if (overlayLinkName(invokedAs) !== undefined) return !args.includes("-f");
  return isCommand(args) && args.includes("--background");
}

/** Whether this process will need a worker, that is, whose mount can't answer before. */
export function needsWorker(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): boolean {
  if (environment[READY_FD] !== undefined) return true;
  return isCommand(args) && !args.some((word) => ASKS.includes(word));
}

function isCommand(args: readonly string[]): boolean {
  return COMMAND_NAMES.some((name) => name === args[0]);
}
