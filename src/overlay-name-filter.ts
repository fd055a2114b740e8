// Which layers of a directory may have a name, in memory that all workers share. Lower layers do
// not change, so what their directories were once seen to hold spares looking for a name in each.
//
// A filter is a hash table of fingerprints, each with a position: 1 is the topmost lower directory,
// and at 0, the upper one, are the names that files `.wh.NAME` hide. Filters are written one behind
// the other into a ring, over the oldest ones. To read one takes no lock: whoever has read it looks
// at how far the ring has come meanwhile, and if the filter may have been written over, nothing is
// known.

import { assert } from "./assert.ts";
import {
  OVERLAY_FILTER_FIRST,
  OVERLAY_FILTER_MAX,
  OVERLAY_FILTER_PLACES,
  OVERLAY_FILTER_SIZE,
  OVERLAY_FILTER_WORTH,
} from "./limits.ts";
import { Lock } from "./lock.ts";
import { map, type Memory } from "./memory.ts";
import { nameHash, type EntryName } from "./overlay-name.ts";
import type { SharedLayout } from "./shared-table.ts";
import { array, struct, u32 } from "./struct.ts";

const filters_header = struct("filters_header", {
  lock: u32,
  /** How many units were ever taken, modulo 2^32; the next filter begins there. */
  head: u32,
  spare: array(u32, 14),
});

/** By number of node, modulo their count. Several nodes may have to share one. */
const filter_place = struct("filter_place", {
  /** The unit at which the filter begins, 0 for none. */
  start: u32,
  /** How many looks into layers were for nothing. */
  wasted: u32,
});

const filter_header = struct("filter_header", {
  node: u32,
  generation: u32,
  /** The number of entries minus 1, a power of two less 1. */
  mask: u32,
  /** The first position of a lower directory whose names are not in it. */
  end: u32,
  /** 1 if the names that upper files `.wh.NAME` hide are in it, 0 if not. */
  has_hidden: u32,
  spare: array(u32, 11),
});

/** Filters take a whole number of units: the header is one. */
const UNIT_WORDS = filter_header.sizeof >> 2;
const UNITS = OVERLAY_FILTER_SIZE / filter_header.sizeof;
/**
 * How far the ring may have come for a filter to be whole: one of the largest less than around, so
 * that it does not matter in which order the processor reads.
 */
const UNITS_WHOLE = UNITS - 1 - (2 * OVERLAY_FILTER_MAX) / UNIT_WORDS;
/** An entry is a fingerprint, and in the lower bits the position plus 1. */
const POSITION = 0x1ff;
const FINGERPRINT = ~POSITION;
/** Behind every position. */
export const POSITIONS_END = 0x200;
const ENTRIES_MIN = UNIT_WORDS;

const NODE = filter_header.node >> 2;
const GENERATION = filter_header.generation >> 2;
const MASK = filter_header.mask >> 2;
const FILTER_END = filter_header.end >> 2;
const HAS_HIDDEN = filter_header.has_hidden >> 2;
const START = filter_place.start >> 2;
const WASTED = filter_place.wasted >> 2;

/** Where the filters' areas lie in shared memory. */
export interface FilterAreas {
  readonly header: number;
  readonly places: number;
  readonly ring: number;
}

// Scratch memory of the thread: the names of the filter that is being made, each a hash and a
// position.
const made = map(8 * OVERLAY_FILTER_MAX).i32;

export class NameFilters {
  readonly #words: Int32Array;
  readonly #lock: Lock;
  readonly #head: number;
  readonly #places: number;
  readonly #ring: number;
  /** The directory that a name is sought in, and the name's hash. */
  #node = 0;
  #hash = 0;
  /** The index of the filter's first word, 0 if there is none, and the unit at which it begins. */
  #filter = 0;
  #start = 0;
  /** How many entries the filter that is being made has. */
  #count = 0;

  static areas(layout: SharedLayout): FilterAreas {
    return {
      header: layout.area("name filters", filters_header.sizeof),
      places: layout.area("places of name filters", OVERLAY_FILTER_PLACES * filter_place.sizeof),
      ring: layout.area("ring of name filters", OVERLAY_FILTER_SIZE),
    };
  }

  constructor(memory: Memory, areas: FilterAreas) {
    this.#words = memory.i32;
    this.#lock = new Lock(memory, areas.header + filters_header.lock);
    this.#head = (areas.header + filters_header.head) >> 2;
    this.#places = areas.places >> 2;
    this.#ring = areas.ring >> 2;
  }

  #place(node: number): number {
    return this.#places + (node % OVERLAY_FILTER_PLACES) * (filter_place.sizeof >> 2);
  }

  // --- Asking ---

  /** `next`, `mayHide` and `wasted` are about this name in this directory from now on. */
  seek(node: number, generation: number, name: EntryName): void {
    const words = this.#words;
    this.#node = node;
    this.#start = Atomics.load(words, this.#place(node) + START);
    this.#filter = 0;
    if (this.#start === 0) return;
    const at = this.#at(this.#start);
    if (words[at + NODE] !== node || words[at + GENERATION] !== generation) return;
    this.#filter = at;
    this.#hash = nameHash(name.bytes, 0, name.length);
  }

  /** The first position, from the lower one `from` on, whose directory has to be looked into. */
  next(from: number): number {
    if (this.#filter === 0) return from;
    const end = Math.max(from, this.#words[this.#filter + FILTER_END]!);
    let first = end;
    for (let step = 0, entry = this.#entry(0); entry !== 0; entry = this.#entry(++step)) {
      const position = (entry & POSITION) - 1;
      if (this.#isOfName(entry) && position >= from && position < first) first = position;
    }
    return this.#isWhole() ? first : from;
  }

  /** Whether the upper directory may have a file `.wh.NAME`. */
  mayHide(): boolean {
    if (this.#filter === 0 || this.#words[this.#filter + HAS_HIDDEN] === 0) return true;
    let may = false;
    for (let step = 0, entry = this.#entry(0); entry !== 0 && !may; entry = this.#entry(++step))
      may = this.#isOfName(entry) && (entry & POSITION) === 1;
    return may || !this.#isWhole();
  }

  #isOfName(entry: number): boolean {
    return ((entry ^ this.#hash) & FINGERPRINT) === 0;
  }

  /** The entry that is so many steps from where the name's would be; 0 if the name has no more. */
  #entry(step: number): number {
    const mask = this.#words[this.#filter + MASK]! & (2 * OVERLAY_FILTER_MAX - 1);
    if (step > mask) return 0; // written over while it is read
    return this.#words[this.#filter + UNIT_WORDS + ((this.#hash + step) & mask)]!;
  }

  /** Whether what was read of the filter was not written over meanwhile. */
  #isWhole(): boolean {
    const head = Atomics.load(this.#words, this.#head);
    if ((head - this.#start) >>> 0 <= UNITS_WHOLE) return true;
    this.#filter = 0;
    return false;
  }

  #at(start: number): number {
    return this.#ring + ((start >>> 0) % UNITS) * UNIT_WORDS;
  }

  // --- Learning ---

  /**
   * So many looks into layers of the directory were for nothing. Returns how many names it is worth
   * to read now for a filter, in proportion to all that was wasted; 0 for none.
   */
  wasted(looks: number): number {
    const words = this.#words;
    if (this.#filter !== 0 && words[this.#filter + FILTER_END] === POSITIONS_END) return 0;
    const at = this.#place(this.#node) + WASTED;
    const before = words[at]!;
    const now = Math.min(before + looks, OVERLAY_FILTER_MAX / OVERLAY_FILTER_WORTH);
    words[at] = now;
    const worth = now * OVERLAY_FILTER_WORTH;
    if (before === 0) return Math.max(worth, OVERLAY_FILTER_FIRST);
    // Again when it has become twice as much.
    const isMore = Math.clz32(now) !== Math.clz32(before);
    return isMore && worth > OVERLAY_FILTER_FIRST ? worth : 0;
  }

  begin(): void {
    this.#count = 0;
  }

  /**
   * There is a file of the name at `at` of `bytes` at a position; at 0 one that hides the name. At
   * most OVERLAY_FILTER_MAX of them.
   */
  add(bytes: Uint8Array, at: number, length: number, position: number): void {
    assert(this.#count < OVERLAY_FILTER_MAX, "a filter has room for what was worth to read");
    made[2 * this.#count] = nameHash(bytes, at, length);
    made[2 * this.#count++ + 1] = position;
  }

  /**
   * The directory has this filter from now on, with all names of lower directories before position
   * `end`; `hasHidden`: and with those that are hidden in the upper one.
   */
  publish(node: number, generation: number, end: number, hasHidden: boolean): void {
    const words = this.#words;
    let entries = ENTRIES_MIN;
    while (entries < 2 * this.#count) entries *= 2;
    this.#lock.acquire();
    const start = this.#take(1 + entries / UNIT_WORDS);
    const at = this.#at(start);
    words.fill(0, at, at + UNIT_WORDS + entries);
    words[at + NODE] = node;
    words[at + GENERATION] = generation;
    words[at + MASK] = entries - 1;
    words[at + FILTER_END] = end;
    words[at + HAS_HIDDEN] = hasHidden ? 1 : 0;
    for (let index = 0; index < this.#count; index++) {
      const hash = made[2 * index]!;
      let place = hash & (entries - 1);
      while (words[at + UNIT_WORDS + place] !== 0) place = (place + 1) & (entries - 1);
      words[at + UNIT_WORDS + place] = (hash & FINGERPRINT) | (made[2 * index + 1]! + 1);
    }
    const place = this.#place(node);
    if (end === POSITIONS_END) words[place + WASTED] = 0;
    Atomics.store(words, place + START, start);
    this.#lock.release();
  }

  /** Takes a stretch of the ring, so that filters which lie there are not believed any more. */
  #take(units: number): number {
    const words = this.#words;
    let start = Math.max(1, words[this.#head]! >>> 0);
    const left = UNITS - (start % UNITS);
    if (left < units) start += left;
    Atomics.store(words, this.#head, (start + units) | 0);
    return start | 0;
  }
}
