// A lock between workers: one 32-bit word of shared memory and futex(2). The word is 0 when free, 1
// when held, 2 when held and somebody may be waiting. For short stretches without blocking system
// calls.

import { FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE } from "./abi-linux.ts";
import type { Address, Memory } from "./memory.ts";
import { futex } from "./syscall.ts";

const FREE = 0;
const HELD = 1;
const CONTENDED = 2;

/** The holder is most likely running on another processor and done within this many looks. */
const SPINS = 200;

export class Lock {
  readonly #words: Int32Array;
  readonly #index: number;
  readonly #address: Address;

  /** The lock at byte `offset`, a multiple of 4, of `memory`. Zeroed memory is a free lock. */
  constructor(memory: Memory, offset: number) {
    this.#words = memory.i32;
    this.#index = offset >> 2;
    this.#address = memory.address + offset;
  }

  acquire(): void {
    if (Atomics.compareExchange(this.#words, this.#index, FREE, HELD) !== FREE) this.#wait();
  }

  release(): void {
    if (Atomics.exchange(this.#words, this.#index, FREE) === CONTENDED)
      futex(this.#address, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
  }

  #wait(): void {
    const words = this.#words;
    const index = this.#index;
    for (let spin = 0; spin < SPINS; spin++)
      if (
        Atomics.load(words, index) === FREE &&
        Atomics.compareExchange(words, index, FREE, HELD) === FREE
      )
        return;
    while (Atomics.exchange(words, index, CONTENDED) !== FREE)
      futex(this.#address, FUTEX_WAIT_PRIVATE, CONTENDED, 0, 0, 0);
  }
}
