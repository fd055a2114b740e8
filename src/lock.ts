// A lock between workers: one 32-bit word of shared memory and futex(2). The word is 0 when free, 1
// when held, 2 when held and somebody may be waiting. For short stretches without blocking system
// calls.

import { FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE } from "./abi-linux.ts";
import type { Memory } from "./memory.ts";
import { futex } from "./syscall.ts";

const FREE = 0;
const HELD = 1;
const CONTENDED = 2;

/** The holder is most likely running on another processor and done within this many looks. */
const SPINS = 200;

/** A lock at a place of its own. */
export class Lock {
  readonly #memory: Memory;
  readonly #offset: number;

  /** The lock at byte `offset`, a multiple of 4, of `memory`. Zeroed memory is a free lock. */
  constructor(memory: Memory, offset: number) {
    this.#memory = memory;
    this.#offset = offset;
  }

  acquire(): void {
    acquireLock(this.#memory, this.#offset);
  }

  release(): void {
    releaseLock(this.#memory, this.#offset);
  }
}

/** The same for a lock that is part of a record. */
export function acquireLock(memory: Memory, offset: number): void {
  const words = memory.i32;
  const index = offset >> 2;
  if (Atomics.compareExchange(words, index, FREE, HELD) !== FREE) wait(memory, offset);
}

export function releaseLock(memory: Memory, offset: number): void {
  if (Atomics.exchange(memory.i32, offset >> 2, FREE) === CONTENDED)
    futex(memory.address + offset, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

function wait(memory: Memory, offset: number): void {
  const words = memory.i32;
  const index = offset >> 2;
  for (let spin = 0; spin < SPINS; spin++)
    if (
      Atomics.load(words, index) === FREE &&
      Atomics.compareExchange(words, index, FREE, HELD) === FREE
    )
      return;
  while (Atomics.exchange(words, index, CONTENDED) !== FREE)
    futex(memory.address + offset, FUTEX_WAIT_PRIVATE, CONTENDED, 0, 0, 0);
}
