// Open files and directories, in memory that all workers share. A file handle (`fh`) is the number
// of a record. The record holds the descriptor on the host; a file that the kernel reads and writes
// by itself (FUSE passthrough) is opened on the host only when an operation needs a descriptor of
// it.

import { EBADF } from "./errno.ts";
import { HANDLES_MAX } from "./limits.ts";
import { Lock } from "./lock.ts";
import type { Memory } from "./memory.ts";
import { RecordTable, type SharedLayout } from "./shared-table.ts";
import { array, i32, struct, u32 } from "./struct.ts";
import { close } from "./syscall.ts";

const handle_record = struct("handle_record", {
  next: u32,
  pins: i32,
  /** The descriptor on the host, -1 if there is none yet. */
  fd: i32,
  nodeid_low: u32,
  nodeid_high: u32,
  /** O_* as the file was opened. */
  flags: u32,
  /** Of a directory: the cookie at which its descriptor stands. */
  cookie_low: u32,
  cookie_high: u32,
  is_open: u32,
  spare: array(u32, 7),
});

const FD = handle_record.fd >> 2;
const NODEID_LOW = handle_record.nodeid_low >> 2;
const NODEID_HIGH = handle_record.nodeid_high >> 2;
const FLAGS = handle_record.flags >> 2;
const COOKIE_LOW = handle_record.cookie_low >> 2;
const COOKIE_HIGH = handle_record.cookie_high >> 2;
const IS_OPEN = handle_record.is_open >> 2;

export interface HandleAreas {
  readonly lock: number;
  readonly records: number;
}

export class HandleTable {
  readonly #words: Int32Array;
  readonly #table: RecordTable;
  readonly #lock: Lock;

  static areas(layout: SharedLayout): HandleAreas {
    return {
      lock: layout.area("handles", 4),
      records: layout.area("handle records", RecordTable.size(handle_record, HANDLES_MAX)),
    };
  }

  constructor(memory: Memory, areas: HandleAreas) {
    this.#words = memory.i32;
    this.#table = new RecordTable(memory, areas.records, handle_record, HANDLES_MAX);
    this.#lock = new Lock(memory, areas.lock);
  }

  /** How many handles are open. */
  get count(): number {
    return this.#table.count;
  }

  /**
   * A new handle, which owns `fd` (-1 for none yet); -ENFILE if there are too many, `fd` stays open
   * then.
   */
  open(nodeid: number, fd: number, flags: number): number {
    this.#lock.acquire();
    const fh = this.#table.allocate();
    this.#lock.release();
    if (fh < 0) return fh;
    const at = this.#table.at(fh);
    const words = this.#words;
    words[at + FD] = fd;
    words[at + NODEID_LOW] = nodeid;
    words[at + NODEID_HIGH] = Math.floor(nodeid / 2 ** 32);
    words[at + FLAGS] = flags;
    words[at + COOKIE_LOW] = 0;
    words[at + COOKIE_HIGH] = 0;
    words[at + IS_OPEN] = 1;
    return fh;
  }

  /**
   * Pins the handle, so that it is not closed while it is used; `release` has to follow if this
   * gave true. False if there is no such handle of that inode: EBADF.
   */
  acquire(fh: number, nodeid: number): boolean {
    if (!this.#table.has(fh)) return false;
    const at = this.#table.at(fh);
    const words = this.#words;
    if (this.#table.pin(fh) && words[at + IS_OPEN] === 1 && words[at + NODEID_LOW] === (nodeid | 0))
      return true;
    this.release(fh);
    return false;
  }

  release(fh: number): void {
    if (this.#table.unpin(fh)) this.#bury(fh);
  }

  /** Closes the handle and its descriptor, once nobody uses it any more. Returns 0 or -EBADF. */
  close(fh: number, nodeid: number): number {
    if (!this.acquire(fh, nodeid)) return -EBADF;
    const at = this.#table.at(fh);
    // Of two requests to close the same handle, one is the first.
    if (Atomics.exchange(this.#words, at + IS_OPEN, 0) === 1) this.#table.close(fh);
    this.release(fh);
    return 0;
  }

  /** Closes every descriptor, when the file system is served no more. */
  closeAll(): void {
    for (let fh = 1; fh < this.#table.used; fh++) {
      const at = this.#table.at(fh);
      if (this.#words[at + IS_OPEN] === 1 && this.#words[at + FD]! >= 0)
        close(this.#words[at + FD]!);
    }
  }

  #bury(fh: number): void {
    const fd = this.#words[this.#table.at(fh) + FD]!;
    this.#lock.acquire();
    this.#table.free(fh);
    this.#lock.release();
    if (fd >= 0) close(fd);
  }

  /** The descriptor of an acquired handle, -1 if it has none yet. */
  fd(fh: number): number {
    return Atomics.load(this.#words, this.#table.at(fh) + FD);
  }

  /** The inode of a handle that is or was open; 0 if there is no such handle. */
  inode(fh: number): number {
    return this.#table.has(fh) ? this.#words[this.#table.at(fh) + NODEID_LOW]! >>> 0 : 0;
  }

  /** An acquired handle is one of another inode from now on. */
  setInode(fh: number, nodeid: number): void {
    this.#words[this.#table.at(fh) + NODEID_LOW] = nodeid;
  }

  /** O_* as an acquired handle was opened. */
  flags(fh: number): number {
    return this.#words[this.#table.at(fh) + FLAGS]!;
  }

  setFlags(fh: number, flags: number): void {
    this.#words[this.#table.at(fh) + FLAGS] = flags;
  }

  /**
   * Gives an acquired handle its descriptor. Returns the one it has: another worker may have been
   * first.
   */
  setFd(fh: number, fd: number): number {
    const before = Atomics.compareExchange(this.#words, this.#table.at(fh) + FD, -1, fd);
    if (before === -1) return fd;
    close(fd);
    return before;
  }

  /** Whether the directory's descriptor stands at this cookie. */
  isAt(fh: number, cookieLow: number, cookieHigh: number): boolean {
    const at = this.#table.at(fh);
    return (
      this.#words[at + COOKIE_LOW] === (cookieLow | 0) &&
      this.#words[at + COOKIE_HIGH] === (cookieHigh | 0)
    );
  }

  setCookie(fh: number, cookieLow: number, cookieHigh: number): void {
    const at = this.#table.at(fh);
    this.#words[at + COOKIE_LOW] = cookieLow;
    this.#words[at + COOKIE_HIGH] = cookieHigh;
  }
}
