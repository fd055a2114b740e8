// What can be told before the command line is read, which takes a while: whether the daemon goes to
// the background, so that this process need not load what it is made of, and how many workers it
// will need before its mount answers: threads take longer to start than everything else. A wrong
// forecast costs time, and at most the memory of a thread that waits.

import { READY_FD } from "./cli-background.ts";
import { COMMAND_NAMES, overlayLinkName } from "./cli-names.ts";
import { offersRings } from "./uring-offer.ts";

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

/** How many workers this process will need, that is, whose mount can't answer before. */
export function workersToStart(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
  hasRings: () => boolean | undefined = offersRings,
): number {
  const isDaemon = environment[READY_FD] !== undefined;
  if (!isDaemon && (!isCommand(args) || args.some((word) => ASKS.includes(word)))) return 0;
  // With io_uring there are always two at least: for a ring, and for /dev/fuse or another ring.
  const isGiven = args.some((word) => word.startsWith("--io-uring"));
  return !isGiven && hasRings() === true ? 2 : 1;
}

function isCommand(args: readonly string[]): boolean {
  return COMMAND_NAMES.some((name) => name === args[0]);
}
