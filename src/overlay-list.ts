// What is in a directory, over all of its layers: a list of entries in the form of getdents64(2),
// in memory of this thread.
//
// Each layer adds the names that none above it has; whiteouts take names out that layers below
// have. The order is that of the layers and, within each, the host's, so it is the same as long as
// nothing changes.

import {
  AT_SYMLINK_NOFOLLOW,
  DT_CHR,
  DT_DIR,
  DT_REG,
  DT_UNKNOWN,
  DT_WHT,
  LINUX_DIRENT64_NAME,
  O_NOATIME,
  O_NOFOLLOW,
  O_PATH,
  linux_dirent64,
  stat,
} from "./abi-linux.ts";
import { isDotsAt, nameLengthAt } from "./dirents.ts";
import { MAX_WRITE, OVERLAY_LIST_KEPT } from "./limits.ts";
import { map, smallMemory, type Memory } from "./memory.ts";
import { EntryName, nameHash } from "./overlay-name.ts";
import { NODE_IMPURE, STACK_XWHITEOUTS } from "./overlay-node-record.ts";
import { OverlayProtection } from "./overlay-protection.ts";
import { isWhiteoutAt, PREFIX_LENGTH } from "./overlay-whiteout.ts";
import { MARK_WHITEOUT } from "./overlay-xattrs.ts";
import { readU64, writeU64 } from "./request.ts";
import { roundUp } from "./struct.ts";
import { close, getdents64, munmap, newfstatat } from "./syscall.ts";

const { d_ino, d_off, d_reclen, d_type } = linux_dirent64;
const NAME = LINUX_DIRENT64_NAME;
/**
 * Types take half of a byte. The other half says how many layers above have nothing of the name,
 * which saves whoever looks it up next to look there.
 */
export const TYPE_MASK = 15;
export const ABOVE_SHIFT = 4;
const ABOVE_MAX = 15;
const FIRST_SIZE = 1 << 18;
const FIRST_SLOTS = 1 << 10;

// Scratch memory of the thread, for all overlays that it serves.
const scan = map(MAX_WRITE);
const entryStat = smallMemory(stat.sizeof);
const entryName = new EntryName();

/** Entries one after the other, and a hash table over their names. */
class EntryList {
  memory = map(FIRST_SIZE);
  length = 0;
  /** How many there are, after `finish`. */
  count = 0;
  /** How many of them are whiteouts. */
  whiteouts = 0;
  /** Offsets of entries, plus 1. */
  #slots = new Int32Array(FIRST_SLOTS);
  #indexed = 0;

  clear(): void {
    if (this.memory.size > OVERLAY_LIST_KEPT) {
      munmap(this.memory.address, this.memory.size);
      this.memory = map(FIRST_SIZE);
      this.#slots = new Int32Array(FIRST_SLOTS);
    } else if (this.#indexed > 0) {
      this.#slots.fill(0);
    }
    this.#indexed = 0;
    this.length = 0;
    this.whiteouts = 0;
  }

  /**
   * Adds an entry whose name lies at `at` of `from`; its inode number has to be set. Returns where.
   */
  add(from: Memory, at: number, nameLength: number, type: number): number {
    const size = roundUp(NAME + nameLength + 1, 8);
    if (this.length + size > this.memory.size) this.#grow();
    const { view, bytes } = this.memory;
    const entry = this.length;
    view.setUint16(entry + d_reclen, size, true);
    view.setUint8(entry + d_type, type);
    for (let index = 0; index < nameLength; index++)
      bytes[entry + NAME + index] = from.bytes[at + index]!;
    bytes.fill(0, entry + NAME + nameLength, entry + size);
    this.length += size;
    if (type === DT_WHT) this.whiteouts++;
    return entry;
  }

  #grow(): void {
    const larger = map(2 * this.memory.size);
    larger.bytes.set(this.memory.bytes.subarray(0, this.length));
    munmap(this.memory.address, this.memory.size);
    this.memory = larger;
  }

  /** Whether there is an entry of this name. */
  has(from: Memory, at: number, nameLength: number): boolean {
    return this.#slots[this.#place(from, at, nameLength)] !== 0;
  }

  /** Lets `has` find the entry. */
  index(entry: number): void {
    if (2 * this.#indexed >= this.#slots.length) this.#rehash();
    const { memory } = this;
    this.#slots[this.#place(memory, entry + NAME, nameLengthAt(memory, entry + NAME))] = entry + 1;
    this.#indexed++;
  }

  #place(from: Memory, at: number, nameLength: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let place = nameHash(from.bytes, at, nameLength) & mask;
    while (slots[place] !== 0 && !this.#isNamed(slots[place]! - 1, from, at, nameLength))
      place = (place + 1) & mask;
    return place;
  }

  #isNamed(entry: number, from: Memory, at: number, nameLength: number): boolean {
    const { bytes } = this.memory;
    for (let index = 0; index < nameLength; index++)
      if (bytes[entry + NAME + index] !== from.bytes[at + index]) return false;
    return bytes[entry + NAME + nameLength] === 0;
  }

  #rehash(): void {
    const old = this.#slots;
    this.#slots = new Int32Array(4 * old.length);
    for (const slot of old) {
      if (slot === 0) continue;
      const at = slot - 1 + NAME;
      this.#slots[this.#place(this.memory, at, nameLengthAt(this.memory, at))] = slot;
    }
  }

  /** Takes the whiteouts out and gives each entry its cookie: the number of the next one. */
  finish(): void {
    const { view, bytes } = this.memory;
    let to = 0;
    this.count = 0;
    for (let at = 0; at < this.length;) {
      const size = view.getUint16(at + d_reclen, true);
      if (view.getUint8(at + d_type) !== DT_WHT) {
        if (to !== at) bytes.copyWithin(to, at, at + size);
        this.count++;
        writeU64(view, to + d_off, this.count);
        to += size;
      }
      at += size;
    }
    this.length = to;
  }

  /**
   * Writes behind the entries how many there are, and where each begins, as u32, if `base` is where
   * the first one does. Returns how many bytes that takes.
   */
  writePlaces(base: number): number {
    const size = 4 * (this.count + 1);
    if (this.length + size > this.memory.size) this.#grow();
    const { view } = this.memory;
    let place = this.length;
    view.setUint32(place, this.count, true);
    for (let at = 0; at < this.length; at += view.getUint16(at + d_reclen, true)) {
      place += 4;
      view.setUint32(place, base + at, true);
    }
    return size;
  }
}

export abstract class OverlayList extends OverlayProtection {
  protected readonly list = entryList;
  /** O_NOATIME, unless the access time of the directory at hand is to change. */
  #openFlags = 0;
  /** How many layers were listed before the one at hand, or as many as can be noted. */
  #above = 0;

  /**
   * Puts what is in the acquired directory into `list`. An inode number of 0 says that it takes a
   * lookup to know it. `isRead`: somebody reads it, which the upper directory's access time is to
   * show. Returns the length in bytes or -errno.
   */
  protected listDirectory(node: number, isRead: boolean): number {
    const { nodes, list } = this;
    list.clear();
    this.#addDots(node);
    this.#openFlags = isRead ? 0 : O_NOATIME;
    const upper = nodes.upper(node);
    const stack = nodes.stack(node);
    // A file that was copied up, or a directory that is merged, has another's inode number.
    const isPure = stack === 0 && !(nodes.flags(node) & NODE_IMPURE);
    const isIno = isPure || this.config.fastIno;
    this.#above = 0;
    let result = upper === 0 ? 0 : this.#addLayer(upper, isIno, stack === 0, false);
    this.#openFlags = O_NOATIME;
    for (let record = stack; record !== 0 && result >= 0; record = nodes.below(record)) {
      const isLast = nodes.below(record) === 0;
      const flags = nodes.stackFlags(record);
      result = this.#addLayer(nodes.slot(record), true, isLast, (flags & STACK_XWHITEOUTS) !== 0);
    }
    if (result < 0) return result;
    list.finish();
    return list.length;
  }

  /** Whether nothing is in the acquired directory. Returns 1, 0 or -errno. */
  protected isEmpty(node: number): number {
    const length = this.listDirectory(node, false);
    if (length < 0) return length;
    const { view } = this.list.memory;
    const dot = view.getUint16(d_reclen, true);
    return length === dot + view.getUint16(dot + d_reclen, true) ? 1 : 0;
  }

  #addDots(node: number): void {
    const { nodes } = this;
    const above = this.isRoot(node) ? node : nodes.nameOf(node, entryName) || node;
    this.#addDot(node, 1);
    this.#addDot(above, 2);
  }

  #addDot(node: number, length: number): void {
    const { list, nodes } = this;
    const entry = list.add(DOTS, 0, length, DT_DIR);
    const { view } = list.memory;
    view.setInt32(entry + d_ino, nodes.inoLow(node), true);
    view.setInt32(entry + d_ino + 4, nodes.inoHigh(node), true);
  }

  /** `isIno`: the host's inode numbers are those that are shown. */
  #addLayer(slot: number, isIno: boolean, isLast: boolean, hasXwhiteouts: boolean): number {
    const { files } = this;
    const fd = this.openListed(slot, this.#openFlags);
    if (fd < 0) return fd;
    const inoOffset = files.inodes.inoOffset(slot);
    const before = this.list.length;
    let read = getdents64(fd, scan.address, scan.size);
    for (; read > 0; read = getdents64(fd, scan.address, scan.size)) {
      const { view } = scan;
      for (let at = 0; at < read; at += view.getUint16(at + d_reclen, true))
        this.#addEntry(fd, at, isIno, inoOffset, isLast, hasXwhiteouts);
    }
    close(fd);
    if (!isLast) this.#indexFrom(before);
    this.#above = Math.min(this.#above + 1, ABOVE_MAX);
    return read;
  }

  /** Names are only looked up in layers above, so a layer's own are indexed when it is done. */
  #indexFrom(start: number): void {
    const { list } = this;
    const { view } = list.memory;
    for (let at = start; at < list.length; at += view.getUint16(at + d_reclen, true)) {
      // A file beside its own whiteout is there.
      const length = nameLengthAt(list.memory, at + NAME);
      if (!list.has(list.memory, at + NAME, length)) list.index(at);
    }
  }

  #addEntry(
    dirfd: number,
    at: number,
    isIno: boolean,
    inoOffset: number,
    isLast: boolean,
    hasXwhiteouts: boolean,
  ): void {
    const { list } = this;
    const length = nameLengthAt(scan, at + NAME);
    if (isDotsAt(scan, at + NAME, length)) return;
    if (this.hidesPrefix && isWhiteoutAt(scan.bytes, at + NAME, length)) {
      if (!isLast) this.#addWhiteout(at + NAME + PREFIX_LENGTH, length - PREFIX_LENGTH);
      return;
    }
    const type = this.#typeOf(dirfd, at, hasXwhiteouts);
    if (type === DT_WHT) {
      if (!isLast) this.#addWhiteout(at + NAME, length);
      return;
    }
    if (list.has(scan, at + NAME, length)) return;
    const entry = list.add(scan, at + NAME, length, type | (this.#above << ABOVE_SHIFT));
    const { view } = list.memory;
    const low = scan.view.getUint32(at + d_ino, true);
    const high = scan.view.getUint32(at + d_ino + 4, true);
    view.setUint32(entry + d_ino, isIno ? low : 0, true);
    view.setUint32(entry + d_ino + 4, isIno ? high ^ inoOffset : 0, true);
  }

  #addWhiteout(at: number, length: number): void {
    if (length > 0 && !this.list.has(scan, at, length)) this.list.add(scan, at, length, DT_WHT);
  }

  /** DT_* of the entry at `at`; DT_WHT for a whiteout. */
  #typeOf(dirfd: number, at: number, hasXwhiteouts: boolean): number {
    const type = scan.view.getUint8(at + d_type);
    if (type !== DT_CHR && type !== DT_UNKNOWN && !(type === DT_REG && hasXwhiteouts)) return type;
    const name = scan.address + at + NAME;
    const { view, address } = entryStat;
    if (newfstatat(dirfd, name, address, AT_SYMLINK_NOFOLLOW) < 0) return type;
    const found = (view.getUint32(stat.st_mode, true) >> 12) & 15;
    if (found === DT_CHR && readU64(view, stat.st_rdev) === 0) return DT_WHT;
    if (found !== DT_REG || !hasXwhiteouts || readU64(view, stat.st_size) !== 0) return found;
    const fd = this.files.openAt(dirfd, name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0) return found;
    const marks = this.xattrs.marks(fd);
    close(fd);
    return marks & MARK_WHITEOUT ? DT_WHT : found;
  }
}

const entryList = new EntryList();
const DOTS = smallMemory(8);
DOTS.bytes.set([0x2e, 0x2e]);
