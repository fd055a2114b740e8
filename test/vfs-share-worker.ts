// A thread that reads what another one publishes, as fast as it can, and says how often it found
// something that was never published.

import { parentPort, workerData } from "node:worker_threads";
import { Memory } from "../src/memory.ts";
import { VfsShare } from "../src/vfs-share.ts";

export interface ReadTask {
  readonly address: number;
  readonly size: number;
  readonly offset: number;
}

export interface ReadResult {
  readonly reads: number;
  /** Texts that were torn, or freed while they were read. */
  readonly wrong: number;
}

/** What is published in the end. */
export const LAST = "last";

/** The text that is published as number `round`: it says itself how it must be. */
export function textOf(round: number): string {
  return `${round} `.repeat(1 + (round % 5) * 1000);
}

if (parentPort !== null && workerData !== null) {
  const { address, size, offset } = workerData as ReadTask;
  const share = new VfsShare(new Memory(address, size), offset);
  parentPort.postMessage("started");
  let reads = 0;
  let wrong = 0;
  for (let text = ""; text !== LAST;) {
    if (!share.isNews) continue;
    text = share.read();
    reads++;
    if (text !== LAST && text !== textOf(Number.parseInt(text, 10))) wrong++;
  }
  parentPort.postMessage({ reads, wrong } satisfies ReadResult);
}
