// What the workers share: one stretch of memory of a memfd, divided into areas by `SharedLayout`,
// and in it tables of fixed-size records. The memory begins with magic, version and a hash of the
// layout, so that state left by another version of the program is recognised and refused.

import { MFD_CLOEXEC } from "./abi-linux.ts";
import { assert } from "./assert.ts";
import { errnoMessage, ENFILE } from "./errno.ts";
import { cstring, map, type Memory } from "./memory.ts";
import { array, roundUp, struct, u32, u64, type Layout } from "./struct.ts";
import { close, ftruncate, memfd_create } from "./syscall.ts";

const MAGIC = 0x46425348; // "FBSH"
const VERSION = 1;
/** What /proc shows the memory as. */
const MEMORY_NAME = cstring("fuse-backend");

const shared_header = struct("shared_header", {
  magic: u32,
  version: u32,
  layout_hash: u32,
  /** Added to generations, so that file handles made by an earlier daemon are stale. */
  epoch: u32,
  spare: array(u64, 6),
});

/** Collects what is to be shared, then says where each part lies. */
export class SharedLayout {
  #size = shared_header.sizeof;
  #hash = 0x811c9dc5;

  /** Reserves an area of `size` bytes and returns its offset, a multiple of 64 (a cache line). */
  area(name: string, size: number): number {
    const offset = roundUp(this.#size, 64);
    this.#size = offset + size;
    assert(this.#size < 2 ** 31, "offsets in shared memory are 32-bit integers");
    for (const character of `${name}:${offset}:${size};`)
      this.#hash = Math.imul(this.#hash ^ character.charCodeAt(0), 0x01000193);
    return offset;
  }

  get size(): number {
    return this.#size;
  }

  get hash(): number {
    return this.#hash >>> 0;
  }
}

/** Shared memory, ready for use. The pages that are never touched cost nothing. */
export function createShared(layout: SharedLayout): Memory {
  const fd = memfd_create(MEMORY_NAME.address, MFD_CLOEXEC);
  if (fd < 0) throw new Error(`cannot create shared memory: ${errnoMessage(fd)}`);
  const size = roundUp(layout.size, 4096);
  const result = ftruncate(fd, size);
  if (result < 0) throw new Error(`cannot size shared memory: ${errnoMessage(result)}`);
  const memory = map(size, fd);
  close(fd);
  memory.view.setUint32(shared_header.magic, MAGIC, true);
  memory.view.setUint32(shared_header.version, VERSION, true);
  memory.view.setUint32(shared_header.layout_hash, layout.hash, true);
  const [random = 0] = crypto.getRandomValues(new Uint32Array(1));
  memory.view.setUint32(shared_header.epoch, random, true);
  return memory;
}

/**
 * The generation to show for a record that is used for the `turn`th time: with its number, unique
 * over the life of the memory, and most likely not one that was shown of other memory.
 */
export function generationOf(memory: Memory, turn: number): number {
  return (memory.u32[shared_header.epoch >> 2]! + turn) & 0x7fffffff;
}

/** Fails unless `memory` was made for exactly this layout. */
export function checkShared(memory: Memory, layout: SharedLayout): void {
  const view = memory.view;
  assert(
    view.getUint32(shared_header.magic, true) === MAGIC &&
      view.getUint32(shared_header.version, true) === VERSION &&
      view.getUint32(shared_header.layout_hash, true) === layout.hash,
    "the shared state was made by another version",
  );
}

const table_header = struct("table_header", {
  /** The first free record that was used before, 0 if there is none. */
  free: u32,
  /** One past the highest record ever used. */
  used: u32,
  /** How many are in use. */
  count: u32,
  pad: u32,
});

/** Added to a record's pins while it must not be pinned: while its descriptor goes, or for good. */
const CLOSED = -(2 ** 30);
/**
 * Added instead while it is free. Whoever still comes with its number then pins and unpins it
 * without effect, however often.
 */
const FREE = 2 * CLOSED;

/**
 * Records of one size, numbered from 1; 0 stands for none. The caller holds the lock that goes with
 * the table while it allocates and frees. A free record's first word links to the next free one.
 *
 * The second word counts pins: whoever uses what a record holds (a descriptor) pins it meanwhile,
 * without a lock, so that no other worker closes it. `close` keeps pins out; of it and the `unpin`s
 * after it exactly one gives true, when no pins are left, and its caller frees the record.
 */
export class RecordTable {
  readonly words: Int32Array;
  readonly capacity: number;
  readonly #wordsPerRecord: number;
  readonly #firstWord: number;
  readonly #header: number;

  static size(record: Layout, capacity: number): number {
    return 64 + (capacity + 1) * record.sizeof;
  }

  constructor(memory: Memory, offset: number, record: Layout, capacity: number) {
    assert(record.sizeof % 8 === 0, "records are aligned to 8");
    this.words = memory.i32;
    this.capacity = capacity;
    this.#wordsPerRecord = record.sizeof >> 2;
    this.#header = offset >> 2;
    this.#firstWord = (offset + 64) >> 2;
  }

  /** The index in `words` of a record's first word. */
  at(index: number): number {
    return this.#firstWord + index * this.#wordsPerRecord;
  }

  /** How many records are in use. */
  get count(): number {
    return this.words[this.#header + (table_header.count >> 2)]!;
  }

  /** One past the highest record ever used: the end for a walk over all. */
  get used(): number {
    return this.words[this.#header + (table_header.used >> 2)]! + 1;
  }

  /**
   * Takes a record, with what its last user left in it but for the first word; -ENFILE if there is
   * none.
   */
  allocate(): number {
    const words = this.words;
    const header = this.#header;
    let index = words[header + (table_header.free >> 2)]!;
    if (index !== 0) {
      words[header + (table_header.free >> 2)] = words[this.at(index)]!;
      // Not set to 0: late comers may be about to unpin it.
      Atomics.sub(words, this.at(index) + 1, FREE);
    } else {
      index = words[header + (table_header.used >> 2)]! + 1;
      if (index > this.capacity) return -ENFILE;
      words[header + (table_header.used >> 2)] = index;
    }
    words[header + (table_header.count >> 2)]!++;
    words[this.at(index)] = 0;
    return index;
  }

  /**
   * Whether `index` can be a record that is or was in use: what comes from outside must pass this.
   */
  has(index: number): boolean {
    return index > 0 && index < this.used;
  }

  /** False if the record is closed; then too `unpin` must follow. */
  pin(index: number): boolean {
    return Atomics.add(this.words, this.at(index) + 1, 1) >= 0;
  }

  /** True if this was the last pin of a closed record: then the caller has to free it. */
  unpin(index: number): boolean {
    return Atomics.sub(this.words, this.at(index) + 1, 1) - 1 === CLOSED && this.#claim(index);
  }

  /**
   * Closes the record if nobody has it pinned; false otherwise, and nothing has changed. Who
   * can't pin it meanwhile has to wait for `reopen` before unpinning it.
   */
  tryClose(index: number): boolean {
    return Atomics.compareExchange(this.words, this.at(index) + 1, 0, CLOSED) === 0;
  }

  /**
   * Closes the record for good. True if nobody has it pinned; otherwise the last `unpin` gives
   * true.
   */
  close(index: number): boolean {
    return Atomics.add(this.words, this.at(index) + 1, CLOSED) === 0 && this.#claim(index);
  }

  /** Of several that see a closed record without pins, the first is to free it. */
  #claim(index: number): boolean {
    return Atomics.compareExchange(this.words, this.at(index) + 1, CLOSED, FREE) === CLOSED;
  }

  reopen(index: number): void {
    Atomics.sub(this.words, this.at(index) + 1, CLOSED);
  }

  /** Gives a record back after `close` or `unpin` gave true. */
  free(index: number): void {
    const words = this.words;
    words[this.at(index)] = words[this.#header + (table_header.free >> 2)]!;
    words[this.#header + (table_header.free >> 2)] = index;
    words[this.#header + (table_header.count >> 2)]!--;
  }
}
