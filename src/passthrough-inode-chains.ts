// Finding the record of an inode: by its number on the host, in chains of those with the same hash,
// and by the nodeid that is shown to the kernel, where that is not the record's own number.

import { stat } from "./abi-linux.ts";
import { INODE_BUCKETS } from "./limits.ts";
import { PAGE_SIZE, type Memory } from "./memory.ts";
import { DEVICE, INO_HIGH, INO_LOW, InodeRecords, NEXT } from "./passthrough-inode-record.ts";
import { isLasting, lastingNodeid, tagOf, Tags } from "./passthrough-lasting.ts";

/** A page of buckets is for inode numbers that differ in so many lower bits only. */
const BLOCK_BITS = Math.log2(PAGE_SIZE / 4);

export interface ChainAreas {
  readonly header: number;
  readonly records: number;
  readonly buckets: number;
  readonly tags: number;
}

export class InodeChains extends InodeRecords {
  readonly #buckets: number;
  /** What is in nodeids that a later daemon knows. */
  protected readonly tags: Tags | undefined;

  constructor(memory: Memory, areas: ChainAreas, handleKey: string | null) {
    super(memory, areas);
    this.#buckets = areas.buckets >> 2;
    if (handleKey !== null) this.tags = new Tags(memory, areas.tags, handleKey);
  }

  // --- By the number on the host; under the lock ---

  /**
   * The index in `words` of the bucket's first link. Files that were made together have numbers
   * close together: they share a page of buckets, since the first touch of each page is dear.
   */
  #bucket(low: number, high: number, device: number): number {
    const within = low & ((1 << BLOCK_BITS) - 1);
    const block = (low >>> BLOCK_BITS) ^ Math.imul(high, 0x9e3779b1);
    let hash = Math.imul(block, 0x85ebca6b) ^ Math.imul(device, 0xc2b2ae35);
    hash ^= hash >>> 15;
    return this.#buckets + ((hash ^ within) & (INODE_BUCKETS - 1));
  }

  /** Of the file whose struct stat is `from`. */
  protected bucketOf({ i32: from }: Memory, device: number): number {
    return this.#bucket(from[stat.st_ino >> 2]!, from[(stat.st_ino >> 2) + 1]!, device);
  }

  /** The inode with the number in `from`, 0 if there is none. */
  protected find(from: Memory, device: number): number {
    return this.#findNumber(from.i32[stat.st_ino >> 2]!, from.i32[(stat.st_ino >> 2) + 1]!, device);
  }

  #findNumber(low: number, high: number, device: number): number {
    const words = this.words;
    let index = words[this.#bucket(low, high, device)]!;
    while (index !== 0) {
      const at = this.table.at(index);
      if (
        words[at + INO_LOW] === low &&
        words[at + INO_HIGH] === high &&
        words[at + DEVICE] === device
      )
        return index;
      index = words[at + NEXT]!;
    }
    return 0;
  }

  protected unhash(index: number): void {
    const words = this.words;
    const at = this.table.at(index);
    const bucket = this.#bucket(words[at + INO_LOW]!, words[at + INO_HIGH]!, words[at + DEVICE]!);
    let link = bucket;
    while (words[link] !== 0 && words[link] !== index) link = this.table.at(words[link]!) + NEXT;
    if (words[link] === index) words[link] = words[at + NEXT]!;
  }

  // --- By the nodeid that is shown ---

  /** Tags a new inode of the root's device, whose handle is in `handle`. Under the lock. */
  protected tag(index: number, device: number): void {
    const tags = this.tags;
    if (tags === undefined || device !== 0) return;
    const tag = tags.make(this.handle);
    const ino = this.words[this.table.at(index) + INO_LOW]!;
    if (tag !== 0 && this.#findTagged(tag, ino) === 0) tags.set(index);
  }

  /** The inode on the root's device that has the host's inode number in `nodeid`, 0 if none. */
  numbered(nodeid: number): number {
    this.lock.acquire();
    const index = this.#findNumber(nodeid | 0, 0, 0);
    this.lock.release();
    return index;
  }

  /** The host's inode number of an inode on the root's device, if it has 32 bits; otherwise -1. */
  numberOf(index: number): number {
    const at = this.table.at(index);
    const isShort = this.words[at + DEVICE] === 0 && this.words[at + INO_HIGH] === 0;
    return isShort ? this.words[at + INO_LOW]! >>> 0 : -1;
  }

  /** Under the lock; 0 if there is none. */
  #findTagged(tag: number, ino: number): number {
    const words = this.words;
    let index = words[this.#bucket(ino, 0, 0)]!;
    for (; index !== 0; index = words[this.table.at(index) + NEXT]!)
      if (words[this.table.at(index) + INO_LOW] === ino && this.tags?.of(index) === tag) break;
    return index;
  }

  /** What the kernel is to call an inode. */
  shown(index: number): number {
    const tag = this.tags?.of(index) ?? 0;
    return tag === 0 ? index : lastingNodeid(tag, this.words[this.table.at(index) + INO_LOW]!);
  }

  /** The inode that the kernel calls so; 0 if it is not known. */
  known(nodeid: number): number {
    if (!isLasting(nodeid)) return nodeid;
    this.lock.acquire();
    const index = this.#findTagged(tagOf(nodeid), nodeid | 0);
    this.lock.release();
    return index;
  }

  override generation(nodeid: number): number {
    const tags = this.tags;
    return tags !== undefined && tags.of(nodeid) !== 0
      ? tags.generation(nodeid)
      : super.generation(nodeid);
  }
}
