// Queues that are lent. The kernel answers nobody before the queues of all CPUs are served, and a
// worker takes long to start. So the first worker serves all of them, and the others, when they are
// there, claim those that are theirs.
//
// An entry can't be taken back from the kernel, only answered. So a queue changes hands with a
// request: the first worker passes on what it finds in an entry of a claimed queue, unanswered, and
// the entry belongs to whose ring the answer comes from.

import { fuse_out_header } from "./abi-fuse.ts";
import { RING_QUEUES_MAX } from "./limits.ts";
import { smallMemory, type Address, type Memory } from "./memory.ts";
import type { SharedLayout } from "./shared-table.ts";
import { write } from "./syscall.ts";

// What a queue's word says; one more than a pipe's descriptor, if it is claimed by whoever reads
// that pipe.
const NOT_LENT = 0;
const LENT = -1;
/** The mount was gone while it was lent. */
const GONE = -2;

/** What the reader of the pipe gets. In an answer to a request, the length is not 0. */
export const PASSED_ON = 0;

/** In shared memory, for the threads of a daemon. */
export class LentQueues {
  readonly #words: Int32Array;
  readonly #first: number;
  readonly #message = smallMemory(fuse_out_header.sizeof);

  static area(layout: SharedLayout): number {
    return layout.area("lent_queues", RING_QUEUES_MAX * 4);
  }

  constructor(memory: Memory, offset: number) {
    this.#words = memory.i32;
    this.#first = offset >> 2;
  }

  /** To be called before there is a worker for any of them. */
  lend(queues: readonly number[]): void {
    for (const queue of queues) Atomics.store(this.#words, this.#first + queue, LENT);
  }

  isLent(queue: number): boolean {
    return Atomics.load(this.#words, this.#first + queue) !== NOT_LENT;
  }

  // --- The worker whose queue it is

  /**
   * Wants a queue back by the pipe with this end to write to. "free": it is not lent, or claimed by
   * another. "gone": nothing will come any more, since the mount is gone.
   */
  claim(queue: number, pipe: number): "claimed" | "free" | "gone" {
    const was = Atomics.compareExchange(this.#words, this.#first + queue, LENT, pipe + 1);
    return was === LENT ? "claimed" : was === GONE ? "gone" : "free";
  }

  // --- The worker that it is lent to

  /** The pipe of who claims the queue; -1 if nobody does. */
  claimant(queue: number): number {
    return Math.max(Atomics.load(this.#words, this.#first + queue) - 1, -1);
  }

  /** Passes an entry with a request on to the claimant. */
  passOn(queue: number, entry: Address): void {
    this.#tell(this.claimant(queue), queue, entry);
  }

  /** All entries of the queue have been passed on. */
  giveBack(queue: number): void {
    Atomics.store(this.#words, this.#first + queue, NOT_LENT);
  }

  /** The mount is gone: so it is for those who wait for a queue, which nothing else tells them. */
  end(queues: readonly number[]): void {
    for (const queue of queues) {
      if (!this.isLent(queue)) continue;
      const was = Atomics.exchange(this.#words, this.#first + queue, GONE);
      if (was > 0) this.#tell(was - 1, queue, 0);
    }
  }

  /** A write to a pipe of so few bytes is whole. */
  #tell(pipe: number, queue: number, entry: Address): void {
    const { view, address, size } = this.#message;
    view.setUint32(fuse_out_header.len, PASSED_ON, true);
    view.setInt32(fuse_out_header.error, queue, true);
    view.setBigUint64(fuse_out_header.unique, BigInt(entry), true);
    write(pipe, address, size);
  }
}
