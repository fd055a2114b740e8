// The known names of an overlay's nodes, in memory that all workers share: each stands for a node
// in a directory that is a node. A name is found by a hash of both; the text goes on in further
// records if it is long.
//
// There are about as many buckets as there were names at most: when these get more, the next bucket
// is split in two (linear hashing). In buckets for all that there may be, nearly each of the first
// thousand names would be the first in its page, and a page fault costs more than a lookup should.
//
// The caller holds the lock of the nodes.

import { OVERLAY_NAME_BUCKETS, OVERLAY_NAMES_MAX } from "./limits.ts";
import { PAGE_SIZE, type Memory } from "./memory.ts";
import { nameHash, type EntryName } from "./overlay-name.ts";
import {
  HASH,
  LENGTH,
  MORE,
  name_chunk,
  name_record,
  NEXT,
  NODE,
  PARENT,
  SIBLING,
} from "./overlay-node-record.ts";
import { RecordTable, type SharedLayout } from "./shared-table.ts";
import { struct, u32 } from "./struct.ts";

/** How many buckets there are at first: a page of them. A power of two. */
const BUCKETS_MIN = PAGE_SIZE >> 2;

const buckets_header = struct("buckets_header", {
  /** How many buckets there are beyond BUCKETS_MIN. */
  added: u32,
});
/** Where the buckets begin: in a cache line of their own. */
const BUCKETS_AT = 64;

export interface NameAreas {
  readonly records: number;
  readonly buckets: number;
}

export class NameTable {
  readonly #memory: Memory;
  readonly #words: Int32Array;
  readonly #names: RecordTable;
  /** As indices of words: the count of added buckets, and the first bucket. */
  readonly #added: number;
  readonly #buckets: number;

  static areas(layout: SharedLayout): NameAreas {
    return {
      records: layout.area("name records", RecordTable.size(name_record, OVERLAY_NAMES_MAX)),
      buckets: layout.area("name buckets", BUCKETS_AT + OVERLAY_NAME_BUCKETS * 4),
    };
  }

  constructor(memory: Memory, areas: NameAreas) {
    this.#memory = memory;
    this.#words = memory.i32;
    this.#names = new RecordTable(memory, areas.records, name_record, OVERLAY_NAMES_MAX);
    this.#added = (areas.buckets + buckets_header.added) >> 2;
    this.#buckets = (areas.buckets + BUCKETS_AT) >> 2;
  }

  get #bucketCount(): number {
    return BUCKETS_MIN + this.#words[this.#added]!;
  }

  #bucket(hash: number): number {
    const buckets = this.#bucketCount;
    const mask = 0xffffffff >>> Math.clz32(buckets - 1);
    const bucket = hash & mask;
    // What is not there yet is still in the bucket that it will be split off.
    return this.#buckets + (bucket < buckets ? bucket : bucket & (mask >> 1));
  }

  /** Splits the next bucket in two, by one more bit of the hashes. */
  #split(): void {
    const words = this.#words;
    const added = this.#bucketCount;
    const bit = 1 << (31 - Math.clz32(added));
    let link = this.#buckets + added - bit;
    let moved = 0;
    let record = words[link]!;
    while (record !== 0) {
      const at = this.#names.at(record);
      const next = words[at + NEXT]!;
      if ((words[at + HASH]! & bit) !== 0) {
        words[link] = next;
        words[at + NEXT] = moved;
        moved = record;
      } else link = at + NEXT;
      record = next;
    }
    words[this.#buckets + added] = moved;
    words[this.#added]!++;
  }

  /** The node that a record stands for. */
  node(record: number): number {
    return this.#words[this.#names.at(record) + NODE]!;
  }

  /** The directory that the name is in. */
  parent(record: number): number {
    return this.#words[this.#names.at(record) + PARENT]!;
  }

  /** The record of the node's next name, 0 for none. */
  sibling(record: number): number {
    return this.#words[this.#names.at(record) + SIBLING]!;
  }

  setSibling(record: number, sibling: number): void {
    this.#words[this.#names.at(record) + SIBLING] = sibling;
  }

  /** The record of a name in a directory, 0 if it is not known. */
  find(parent: number, name: EntryName): number {
    const words = this.#words;
    const hash = hashOf(parent, name);
    let record = words[this.#bucket(hash)]!;
    while (record !== 0) {
      const at = this.#names.at(record);
      if (
        words[at + HASH] === hash &&
        words[at + PARENT] === parent &&
        words[at + LENGTH] === name.length &&
        this.#isNamed(record, name)
      )
        return record;
      record = words[at + NEXT]!;
    }
    return 0;
  }

  /** Returns the record, 0 if there are too many. */
  add(parent: number, name: EntryName, node: number, sibling: number): number {
    const words = this.#words;
    const record = this.#names.allocate();
    if (record < 0) return 0;
    const at = this.#names.at(record);
    words[at + MORE] = 0;
    if (!this.#write(record, name)) {
      this.#free(record);
      return 0;
    }
    const hash = hashOf(parent, name);
    const bucket = this.#bucket(hash);
    words[at + NEXT] = words[bucket]!;
    words[bucket] = record;
    words[at + PARENT] = parent;
    words[at + NODE] = node;
    words[at + HASH] = hash;
    words[at + LENGTH] = name.length;
    words[at + SIBLING] = sibling;
    const buckets = this.#bucketCount;
    if (buckets < this.#names.count && buckets < OVERLAY_NAME_BUCKETS) this.#split();
    return record;
  }

  /** Frees a record that is on no node's list any more. */
  remove(record: number): void {
    const words = this.#words;
    const at = this.#names.at(record);
    let link = this.#bucket(words[at + HASH]!);
    while (words[link] !== record) link = this.#names.at(words[link]!) + NEXT;
    words[link] = words[at + NEXT]!;
    this.#free(record);
  }

  #free(first: number): void {
    let chunk = this.#words[this.#names.at(first) + MORE]!;
    this.#names.close(first);
    this.#names.free(first);
    while (chunk !== 0) {
      const next = this.#words[this.#names.at(chunk) + NEXT]!;
      this.#names.close(chunk);
      this.#names.free(chunk);
      chunk = next;
    }
  }

  /** The text of a record lies at `text` of it, then at the text of each chunk. */
  #write(record: number, name: EntryName): boolean {
    const { bytes } = this.#memory;
    const words = this.#words;
    let at = this.#names.at(record) * 4 + name_record.text;
    let end = at + name_record.sizeof - name_record.text;
    let link = this.#names.at(record) + MORE;
    for (let index = 0; index < name.length; index++) {
      if (at === end) {
        const chunk = this.#names.allocate();
        if (chunk < 0) return false;
        words[this.#names.at(chunk) + NEXT] = 0;
        words[link] = chunk;
        link = this.#names.at(chunk) + NEXT;
        at = this.#names.at(chunk) * 4 + name_chunk.text;
        end = at + name_chunk.sizeof - name_chunk.text;
      }
      bytes[at++] = name.bytes[index]!;
    }
    return true;
  }

  /** Puts the text into `name`. */
  read(record: number, name: EntryName): void {
    const { bytes } = this.#memory;
    const length = this.#words[this.#names.at(record) + LENGTH]!;
    let at = this.#names.at(record) * 4 + name_record.text;
    let end = at + name_record.sizeof - name_record.text;
    let next = this.#words[this.#names.at(record) + MORE]!;
    for (let index = 0; index < length; index++) {
      if (at === end) {
        at = this.#names.at(next) * 4 + name_chunk.text;
        end = at + name_chunk.sizeof - name_chunk.text;
        next = this.#words[this.#names.at(next) + NEXT]!;
      }
      name.bytes[index] = bytes[at++]!;
    }
    name.bytes[length] = 0;
    name.length = length;
  }

  #isNamed(record: number, name: EntryName): boolean {
    const { bytes } = this.#memory;
    let at = this.#names.at(record) * 4 + name_record.text;
    let end = at + name_record.sizeof - name_record.text;
    let next = this.#words[this.#names.at(record) + MORE]!;
    for (let index = 0; index < name.length; index++) {
      if (at === end) {
        at = this.#names.at(next) * 4 + name_chunk.text;
        end = at + name_chunk.sizeof - name_chunk.text;
        next = this.#words[this.#names.at(next) + NEXT]!;
      }
      if (bytes[at++] !== name.bytes[index]) return false;
    }
    return true;
  }
}

function hashOf(parent: number, name: EntryName): number {
  return nameHash(name.bytes, 0, name.length, Math.imul(parent, 0x9e3779b1));
}
