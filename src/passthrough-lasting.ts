// Nodeids that a later daemon knows, so that file handles made of the mount (name_to_handle_at(2),
// NFS) outlive this one.
//
// The kernel makes such a handle of a nodeid and a generation, and asks for its file by the nodeid
// alone, which therefore has to lead to the file. But numbers can be made up, and they must not
// lead to files that no daemon has shown, such as those outside of the source. So both hold parts
// of a tag, an HMAC of the host's own handle of the file, by a key that users of the mount don't
// know:
//
//     nodeid      21 bits of the tag, which we compare, and the host's inode number, 32 bits
//     generation  32 bits of the tag, which the kernel compares
//
// The generation that the host gives the inode has no room in there. So it takes a file system that
// opens files by their number alone, such as ext4; the tag tells whether that is the same file.

import { MOUNTED_NODEID_MAX } from "./limits.ts";
import { smallMemory, type Address, type Memory } from "./memory.ts";
import { FILEID_INO32_GEN } from "./passthrough-devices.ts";
import type { SharedLayout } from "./shared-table.ts";

const TAG_BITS = 21;
/** Of FILEID_INO32_GEN: inode number and generation. */
const HANDLE_SIZE = 8;

// Scratch memory of the thread, for all file systems that it serves.
const wanted = smallMemory(8 + HANDLE_SIZE);
// Of HMACs, Bun wants room for the longest that there is.
const digest = new Uint8Array(64);
const digestView = new DataView(digest.buffer);

/** Whether a nodeid is one that a later daemon knows, and not the number of a record. */
export function isLasting(nodeid: number): boolean {
  return nodeid >= MOUNTED_NODEID_MAX;
}

export function lastingNodeid(tag: number, ino: number): number {
  return tag * MOUNTED_NODEID_MAX + (ino >>> 0);
}

export function tagOf(nodeid: number): number {
  return Math.floor(nodeid / MOUNTED_NODEID_MAX);
}

/** A struct file_handle for whatever file the host has by the inode number in `nodeid`. */
export function hostHandle(nodeid: number): Address {
  wanted.i32.set([HANDLE_SIZE, FILEID_INO32_GEN, (nodeid % MOUNTED_NODEID_MAX) | 0, 0]);
  return wanted.address;
}

/** The tags of records, in memory that all threads share: two words each, the first 0 for none. */
export class Tags {
  readonly #words: Int32Array;
  readonly #first: number;
  readonly #key: Uint8Array;

  /** For the records of a table that has up to `records`. */
  static area(layout: SharedLayout, records: number): number {
    return layout.area("tags", (records + 1) * 8);
  }

  constructor(memory: Memory, area: number, key: string) {
    this.#words = memory.i32;
    this.#first = area >> 2;
    this.#key = Uint8Array.fromHex(key);
  }

  /** What is in the nodeid of a record; 0 if it is the record's own number. */
  of(index: number): number {
    return this.#words[this.#first + 2 * index]!;
  }

  /** Of a record that has a tag. */
  generation(index: number): number {
    return this.#words[this.#first + 2 * index + 1]! >>> 0;
  }

  clear(index: number): void {
    this.#words[this.#first + 2 * index] = 0;
  }

  /** Gives a record the tag that was made last. */
  set(index: number): void {
    const at = this.#first + 2 * index;
    this.#words[at] = this.#nodeidPart();
    this.#words[at + 1] = digestView.getInt32(4, true);
  }

  /**
   * Makes the tag of the file of a struct file_handle, as what `role` says, where a file may be
   * shown as one of several things. Returns its part in the nodeid, or 0.
   */
  make({ bytes, i32: words }: Memory, role = ""): number {
    if (words[0] !== HANDLE_SIZE || words[1] !== FILEID_INO32_GEN) return 0;
    const hasher = new Bun.CryptoHasher("sha256", this.#key);
    hasher
      .update(bytes.subarray(8, 8 + HANDLE_SIZE))
      .update(role)
      .digest(digest);
    return this.#nodeidPart();
  }

  #nodeidPart(): number {
    return digestView.getUint32(0, true) >>> (32 - TAG_BITS) || 1;
  }
}
