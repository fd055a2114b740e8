// One FUSE reply in memory: struct fuse_out_header, then the opcode's answer, built in place where
// the channel sends it from. This is the only place that checks that an answer fits.

import {
  fuse_attr,
  fuse_attr_out,
  fuse_dirent,
  fuse_direntplus,
  fuse_entry_out,
  fuse_kstatfs,
  fuse_out_header,
  fuse_statx,
  fuse_statx_out,
} from "./abi-fuse.ts";
import { stat } from "./abi-linux.ts";
import { assert } from "./assert.ts";
import { EIO } from "./errno.ts";
import type { Address, Memory } from "./memory.ts";
import { copyU64, readU64, writeU64 } from "./request.ts";
import { roundUp } from "./struct.ts";
import { pread64 } from "./syscall.ts";
import { Translation } from "./translation.ts";

/** Errors from here on are internal to the kernel. */
const ERRNO_LIMIT = 512;

/** A way to answer with a file's data that does not lead through the reply's memory. */
export interface Splice {
  /** Takes `size` bytes of the file into the reply: `size`, or -1 if they have to be copied. */
  take(fd: number, offset: number, size: number): number;
}

export class Reply {
  /** Set by the channel if it has one. */
  splice: Splice | undefined;
  readonly memory: Memory;
  /** Where the reply begins in `memory`, and where its body does. */
  base: number;
  body: number;
  /** How many bytes of body can be sent. */
  readonly capacity: number;
  readonly view: DataView;
  /** How the numbers of the file system that answers are shown. */
  readonly translation = new Translation();

  constructor(memory: Memory, base: number, capacity?: number) {
    this.memory = memory;
    this.base = base;
    this.body = base + fuse_out_header.sizeof;
    this.capacity = capacity ?? memory.size - this.body;
    this.view = memory.view;
  }

  get address(): Address {
    return this.memory.address + this.base;
  }

  /** Has the next reply built at another place of `memory`. */
  moveTo(base: number): void {
    this.base = base;
    this.body = base + fuse_out_header.sizeof;
  }

  get bodyAddress(): Address {
    return this.memory.address + this.body;
  }

  /** `length` bytes of body to fill in, zeroed. */
  clear(length: number): void {
    this.memory.bytes.fill(0, this.body, this.body + length);
  }

  u32(field: number, value: number): void {
    this.view.setUint32(this.body + field, value, true);
  }

  u64(field: number, value: number): void {
    writeU64(this.view, this.body + field, value);
  }

  /**
   * Ends the reply with a body of `result` bytes, or with an error if `result` is negative.
   * Returns the length of the whole.
   */
  end(uniqueLow: number, uniqueHigh: number, result: number): number {
    assert(result <= this.capacity, "an answer fits in the reply");
    const view = this.view;
    const length = fuse_out_header.sizeof + (result > 0 ? result : 0);
    // The kernel refuses its own internal errors, which some file systems let out (ENOTSUPP), and
    // the caller would wait for ever.
    const error = result > -ERRNO_LIMIT ? Math.min(result, 0) : -EIO;
    view.setUint32(this.base + fuse_out_header.len, length, true);
    view.setInt32(this.base + fuse_out_header.error, error, true);
    view.setUint32(this.base + fuse_out_header.unique, uniqueLow, true);
    view.setUint32(this.base + fuse_out_header.unique + 4, uniqueHigh, true);
    return length;
  }
}

/** Bytes that a file system gives back: file data, a link's target, attribute values. */
export class DataOut {
  readonly #reply: Reply;
  /** Where the data lies behind the body's begin. */
  readonly #skip: number;
  /** The most that the caller takes. */
  limit = 0;

  constructor(reply: Reply, skip = 0) {
    this.#reply = reply;
    this.#skip = skip;
  }

  /** Lets the file system give up to `wanted` bytes, or as many as a reply holds. */
  open(wanted: number): this {
    this.limit = Math.min(wanted, this.#reply.capacity - this.#skip);
    return this;
  }

  /** Where to write: `limit` bytes from here. */
  get address(): Address {
    return this.#reply.bodyAddress + this.#skip;
  }

  get bytes(): Uint8Array {
    const start = this.#reply.body + this.#skip;
    return this.#reply.memory.bytes.subarray(start, start + this.limit);
  }

  /** Reads from a file into the reply. Returns the number of bytes, or -errno. */
  readFrom(fd: number, offset: number): number {
    const { splice } = this.#reply;
    if (splice !== undefined && splice.take(fd, offset, this.limit) >= 0) return this.limit;
    return pread64(fd, this.address, this.limit, offset);
  }
}

/** struct fuse_attr of a reply. Every field is zero until it is set. */
export class AttrOut {
  readonly #view: DataView;
  readonly #translation: Translation;
  #at = 0;

  constructor(view: DataView, translation = new Translation()) {
    this.#view = view;
    this.#translation = translation;
  }

  /** Points it at a struct fuse_attr. */
  place(at: number): void {
    this.#at = at;
  }

  set ino(value: number) {
    writeU64(this.#view, this.#at + fuse_attr.ino, value);
    this.#maskIno();
  }
  /** In bytes. */
  set size(value: number) {
    writeU64(this.#view, this.#at + fuse_attr.size, value);
  }
  /** In units of 512 bytes. */
  set blocks(value: number) {
    writeU64(this.#view, this.#at + fuse_attr.blocks, value);
  }
  /** Type and permissions, as st_mode. */
  set mode(value: number) {
    this.#view.setUint32(this.#at + fuse_attr.mode, value, true);
  }
  set nlink(value: number) {
    this.#view.setUint32(this.#at + fuse_attr.nlink, value, true);
  }
  set uid(value: number) {
    const { ids } = this.#translation;
    const shown = ids === undefined ? value : ids.uidToExternal(value);
    this.#view.setUint32(this.#at + fuse_attr.uid, shown, true);
  }
  set gid(value: number) {
    const { ids } = this.#translation;
    const shown = ids === undefined ? value : ids.gidToExternal(value);
    this.#view.setUint32(this.#at + fuse_attr.gid, shown, true);
  }
  /** As the kernel's new_encode_dev: minor & 0xff | major << 8 | (minor & ~0xff) << 12. */
  set rdev(value: number) {
    this.#view.setUint32(this.#at + fuse_attr.rdev, value, true);
  }
  set blksize(value: number) {
    this.#view.setUint32(this.#at + fuse_attr.blksize, value, true);
  }
  /** FUSE_ATTR_*. */
  set flags(value: number) {
    this.#view.setUint32(this.#at + fuse_attr.flags, value, true);
  }
  /** Whole seconds since 1970, and nanoseconds below a second. */
  atime(seconds: number, nanoseconds: number): void {
    writeU64(this.#view, this.#at + fuse_attr.atime, seconds);
    this.#view.setUint32(this.#at + fuse_attr.atimensec, nanoseconds, true);
  }
  mtime(seconds: number, nanoseconds: number): void {
    writeU64(this.#view, this.#at + fuse_attr.mtime, seconds);
    this.#view.setUint32(this.#at + fuse_attr.mtimensec, nanoseconds, true);
  }
  ctime(seconds: number, nanoseconds: number): void {
    writeU64(this.#view, this.#at + fuse_attr.ctime, seconds);
    this.#view.setUint32(this.#at + fuse_attr.ctimensec, nanoseconds, true);
  }

  #maskIno(): void {
    const { inoMask } = this.#translation;
    const upper = this.#at + fuse_attr.ino + 4;
    if (inoMask !== 0)
      this.#view.setUint32(upper, this.#view.getUint32(upper, true) ^ inoMask, true);
  }

  /** Takes everything from a struct stat of the kernel. */
  copyStat(from: Memory): void {
    const view = this.#view;
    const source = from.view;
    const at = this.#at;
    copyU64(source, stat.st_ino, view, at + fuse_attr.ino);
    this.#maskIno();
    copyU64(source, stat.st_size, view, at + fuse_attr.size);
    copyU64(source, stat.st_blocks, view, at + fuse_attr.blocks);
    copyU64(source, stat.st_atime, view, at + fuse_attr.atime);
    copyU64(source, stat.st_mtime, view, at + fuse_attr.mtime);
    copyU64(source, stat.st_ctime, view, at + fuse_attr.ctime);
    view.setUint32(at + fuse_attr.atimensec, source.getUint32(stat.st_atime_nsec, true), true);
    view.setUint32(at + fuse_attr.mtimensec, source.getUint32(stat.st_mtime_nsec, true), true);
    view.setUint32(at + fuse_attr.ctimensec, source.getUint32(stat.st_ctime_nsec, true), true);
    view.setUint32(at + fuse_attr.mode, source.getUint32(stat.st_mode, true), true);
    view.setUint32(at + fuse_attr.nlink, source.getUint32(stat.st_nlink, true), true);
    this.uid = source.getUint32(stat.st_uid, true);
    this.gid = source.getUint32(stat.st_gid, true);
    view.setUint32(at + fuse_attr.rdev, source.getUint32(stat.st_rdev, true), true);
    view.setUint32(at + fuse_attr.blksize, source.getUint32(stat.st_blksize, true), true);
  }
}

/** Seconds, fractions allowed, as the protocol's pair of whole seconds and nanoseconds. */
function writeTimeout(view: DataView, at: number, atNsec: number, seconds: number): void {
  const whole = Math.floor(Math.min(seconds, 0xffffffff));
  writeU64(view, at, whole);
  view.setUint32(atNsec, Math.floor((seconds - whole) * 1e9), true);
}

/** struct fuse_attr_out: the attributes and how long the kernel may keep them. */
export class AttrReply {
  readonly attr: AttrOut;
  readonly #view: DataView;
  #at = 0;

  constructor(view: DataView, translation = new Translation()) {
    this.#view = view;
    this.attr = new AttrOut(view, translation);
  }

  place(at: number): this {
    this.#at = at;
    this.attr.place(at + fuse_attr_out.attr);
    return this;
  }

  /** In seconds. */
  set attrTimeout(seconds: number) {
    const at = this.#at;
    const { attr_valid, attr_valid_nsec } = fuse_attr_out;
    writeTimeout(this.#view, at + attr_valid, at + attr_valid_nsec, seconds);
  }
}

/** struct fuse_statx_out: the kernel's struct statx up to and with stx_dev_minor, and a timeout. */
export class StatxReply {
  readonly #reply: Reply;

  constructor(reply: Reply) {
    this.#reply = reply;
  }

  /** In seconds. */
  set attrTimeout(seconds: number) {
    const at = this.#reply.body;
    const { attr_valid, attr_valid_nsec } = fuse_statx_out;
    writeTimeout(this.#reply.view, at + attr_valid, at + attr_valid_nsec, seconds);
  }

  /** Takes what both structs have in common from a struct statx of the kernel. */
  copyStatx(from: Memory): void {
    const to = this.#reply.body + fuse_statx_out.stat;
    const common = from.bytes.subarray(0, fuse_statx.__spare2);
    this.#reply.memory.bytes.set(common, to);
    this.#translate(to);
  }

  #translate(at: number): void {
    const { view, translation } = this.#reply;
    const { ids, inoMask } = translation;
    const upper = at + fuse_statx.ino + 4;
    if (inoMask !== 0) view.setUint32(upper, view.getUint32(upper, true) ^ inoMask, true);
    if (ids === undefined) return;
    const { uid, gid } = fuse_statx;
    view.setUint32(at + uid, ids.uidToExternal(view.getUint32(at + uid, true)), true);
    view.setUint32(at + gid, ids.gidToExternal(view.getUint32(at + gid, true)), true);
  }
}

/** struct fuse_entry_out: a node, its attributes, and how long the kernel may keep either. */
export class EntryOut {
  readonly attr: AttrOut;
  readonly #view: DataView;
  readonly #translation: Translation;
  #at = 0;

  constructor(view: DataView, translation = new Translation()) {
    this.#view = view;
    this.#translation = translation;
    this.attr = new AttrOut(view, translation);
  }

  place(at: number): this {
    this.#at = at;
    this.attr.place(at + fuse_entry_out.attr);
    return this;
  }

  /** Zero with a timeout says that the name does not exist, and may be remembered as such. */
  set nodeid(value: number) {
    writeU64(this.#view, this.#at + fuse_entry_out.nodeid, this.#translation.node(value));
  }
  /**
   * With `nodeid`, which has to be set before, unique over the life of the mount: for file handles.
   * The root, which LOOKUP of `..` may find, keeps its own.
   */
  set generation(value: number) {
    const { rootNode, rootGeneration } = this.#translation;
    const isRoot = readU64(this.#view, this.#at + fuse_entry_out.nodeid) === rootNode;
    writeU64(this.#view, this.#at + fuse_entry_out.generation, isRoot ? rootGeneration : value);
  }
  /** Takes attributes and their timeout from a struct fuse_attr_out, as they are there. */
  copyAttrOut(from: Memory): void {
    const to = this.#view;
    const at = this.#at;
    const { attr_valid, attr_valid_nsec } = fuse_attr_out;
    copyU64(from.view, attr_valid, to, at + fuse_entry_out.attr_valid);
    const nsec = from.view.getUint32(attr_valid_nsec, true);
    to.setUint32(at + fuse_entry_out.attr_valid_nsec, nsec, true);
    for (let offset = 0; offset < fuse_attr.sizeof; offset += 4) {
      const word = from.view.getUint32(fuse_attr_out.attr + offset, true);
      to.setUint32(at + fuse_entry_out.attr + offset, word, true);
    }
  }

  /** In seconds. */
  set entryTimeout(seconds: number) {
    const at = this.#at;
    const { entry_valid, entry_valid_nsec } = fuse_entry_out;
    writeTimeout(this.#view, at + entry_valid, at + entry_valid_nsec, seconds);
  }
  /** In seconds. */
  set attrTimeout(seconds: number) {
    const at = this.#at;
    const { attr_valid, attr_valid_nsec } = fuse_entry_out;
    writeTimeout(this.#view, at + attr_valid, at + attr_valid_nsec, seconds);
  }
}

/** struct fuse_open_out. */
export class OpenOut {
  /** The handle that later requests bring; below 2**53. */
  fh = 0;
  /** FOPEN_*. */
  openFlags = 0;
  /** From FUSE_DEV_IOC_BACKING_OPEN, with FOPEN_PASSTHROUGH. */
  backingId = 0;

  clear(): void {
    this.fh = 0;
    this.openFlags = 0;
    this.backingId = 0;
  }
}

/** The entries of a directory, as READDIR and READDIRPLUS answer them. */
export class DirectoryOut {
  readonly #reply: Reply;
  readonly #plus: boolean;
  readonly #headerSize: number;
  #limit = 0;
  /** How many bytes are filled. */
  length = 0;
  /** The fuse_entry_out of the entry being added; READDIRPLUS only. */
  readonly entry: EntryOut;

  constructor(reply: Reply, plus: boolean) {
    this.#reply = reply;
    this.#plus = plus;
    this.#headerSize = plus ? fuse_direntplus.sizeof : fuse_dirent.sizeof;
    this.entry = new EntryOut(reply.view, reply.translation);
  }

  open(wanted: number): this {
    this.#limit = Math.min(wanted, this.#reply.capacity);
    this.length = 0;
    return this;
  }

  /** The most that can still be added. */
  get room(): number {
    return this.#limit - this.length;
  }

  /** How much an entry with a name of `nameLength` bytes takes. */
  entrySize(nameLength: number): number {
    return roundUp(this.#headerSize + nameLength, 8);
  }

  /**
   * Begins an entry and, with READDIRPLUS, clears and places `entry` for it; false if it does not
   * fit. `commit` adds it; without that the next `begin` takes its place.
   */
  begin(nameLength: number): boolean {
    const size = this.entrySize(nameLength);
    if (size > this.room) return false;
    const at = this.#reply.body + this.length;
    this.#reply.memory.bytes.fill(0, at, at + size);
    if (this.#plus) this.entry.place(at + fuse_direntplus.entry_out);
    return true;
  }

  #maskIno(dirent: number): void {
    const { view, translation } = this.#reply;
    const upper = dirent + fuse_dirent.ino + 4;
    if (translation.inoMask !== 0)
      view.setUint32(upper, view.getUint32(upper, true) ^ translation.inoMask, true);
  }

  /** Where the dirent of the entry being added lies in the reply's memory. */
  get #dirent(): number {
    return this.#reply.body + this.length + (this.#plus ? fuse_direntplus.dirent : 0);
  }

  /**
   * Adds the entry: `type` is DT_*; the name, the inode number and the cookie of what follows lie
   * in `from`, as getdents64 wrote them: 64-bit values are only carried over.
   */
  commit(
    from: Memory,
    name: number,
    nameLength: number,
    ino: number,
    off: number,
    type: number,
  ): void {
    const view = this.#reply.view;
    const at = this.#dirent;
    copyU64(from.view, ino, view, at + fuse_dirent.ino);
    this.#maskIno(at);
    copyU64(from.view, off, view, at + fuse_dirent.off);
    view.setUint32(at + fuse_dirent.namelen, nameLength, true);
    view.setUint32(at + fuse_dirent.type, type, true);
    const to = this.#reply.memory.bytes;
    const source = from.bytes;
    const start = at + fuse_dirent.sizeof;
    for (let index = 0; index < nameLength; index++) to[start + index] = source[name + index]!;
    this.length += this.entrySize(nameLength);
  }

  /**
   * Adds an entry from a file system's own objects. `nextOffset` is the cookie to go on after it.
   * With READDIRPLUS, `begin` must have succeeded and `entry` be filled.
   */
  add(name: Uint8Array, ino: number, nextOffset: number, type: number): void {
    const view = this.#reply.view;
    const at = this.#dirent;
    writeU64(view, at + fuse_dirent.ino, ino);
    this.#maskIno(at);
    writeU64(view, at + fuse_dirent.off, nextOffset);
    view.setUint32(at + fuse_dirent.namelen, name.length, true);
    view.setUint32(at + fuse_dirent.type, type, true);
    this.#reply.memory.bytes.set(name, at + fuse_dirent.sizeof);
    this.length += this.entrySize(name.length);
  }
}

/** struct fuse_kstatfs. */
export class StatfsOut {
  readonly #reply: Reply;

  constructor(reply: Reply) {
    this.#reply = reply;
  }

  set blocks(value: number) {
    this.#reply.u64(fuse_kstatfs.blocks, value);
  }
  set bfree(value: number) {
    this.#reply.u64(fuse_kstatfs.bfree, value);
  }
  set bavail(value: number) {
    this.#reply.u64(fuse_kstatfs.bavail, value);
  }
  set files(value: number) {
    this.#reply.u64(fuse_kstatfs.files, value);
  }
  set ffree(value: number) {
    this.#reply.u64(fuse_kstatfs.ffree, value);
  }
  set bsize(value: number) {
    this.#reply.u32(fuse_kstatfs.bsize, value);
  }
  set namelen(value: number) {
    this.#reply.u32(fuse_kstatfs.namelen, value);
  }
  set frsize(value: number) {
    this.#reply.u32(fuse_kstatfs.frsize, value);
  }
}
