// How threads that serve learn what is mounted where: the thread that mounts publishes a text in
// shared memory, and the others read it when the number beside it has changed, which they look at
// before each request. So nobody needs to wake a thread that waits for requests.

import { Lock } from "./lock.ts";
import { map, Memory } from "./memory.ts";
import type { SharedLayout } from "./shared-table.ts";
import { f64, struct, u32 } from "./struct.ts";
import { munmap } from "./syscall.ts";

const vfs_header = struct("vfs_header", {
  lock: u32,
  /** How often something was published. */
  epoch: u32,
  /** Where the text lies, and how long it is in bytes. */
  address: f64,
  length: u32,
  pad: u32,
});

export class VfsShare {
  readonly #words: Int32Array;
  readonly #doubles: Float64Array;
  readonly #lock: Lock;
  readonly #epochAt: number;
  readonly #addressAt: number;
  readonly #lengthAt: number;
  #seen = 0;
  /** What was published last; only on the thread that publishes. */
  #text: Memory | undefined;

  static area(layout: SharedLayout): number {
    return layout.area("vfs", vfs_header.sizeof);
  }

  constructor(memory: Memory, offset: number) {
    this.#words = memory.i32;
    this.#doubles = memory.f64;
    this.#lock = new Lock(memory, offset + vfs_header.lock);
    this.#epochAt = (offset + vfs_header.epoch) >> 2;
    this.#addressAt = (offset + vfs_header.address) >> 3;
    this.#lengthAt = (offset + vfs_header.length) >> 2;
  }

  /** For one thread. */
  publish(text: string): void {
    const bytes = new TextEncoder().encode(text);
    const memory = map(Math.max(1, bytes.length));
    memory.bytes.set(bytes);
    this.#lock.acquire();
    const old = this.#text;
    this.#text = memory;
    this.#doubles[this.#addressAt] = memory.address;
    this.#words[this.#lengthAt] = bytes.length;
    Atomics.add(this.#words, this.#epochAt, 1);
    this.#lock.release();
    if (old !== undefined) munmap(old.address, old.size);
  }

  /** Whether something was published that this thread has not read. */
  get isNews(): boolean {
    return Atomics.load(this.#words, this.#epochAt) !== this.#seen;
  }

  read(): string {
    this.#lock.acquire();
    this.#seen = Atomics.load(this.#words, this.#epochAt);
    const length = this.#words[this.#lengthAt]!;
    const text = new Memory(this.#doubles[this.#addressAt]!, Math.max(1, length));
    // Taken over before the lock is let go: the next to publish frees it.
    const copy = new TextDecoder().decode(text.bytes.subarray(0, length));
    this.#lock.release();
    return copy;
  }
}
