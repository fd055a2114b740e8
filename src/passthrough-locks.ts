// POSIX and BSD locks. They are taken on the source's own files, so that they hold against programs
// that use the source directly.
//
// A POSIX lock belongs to a process and an inode; the kernel names the process by a lock owner. For
// each pair that has locks there is a record with a descriptor of its own, and the lock is an open
// file description lock on it (fcntl(2), F_OFD_SETLK): the host then sees what the process would
// have done, and closing the descriptor drops all of them, which is what closing a file does to a
// process's POSIX locks. A BSD lock is taken on the handle's own descriptor.
//
// Nobody blocks. A request for a lock that is held gets a wait record and is answered later: by the
// worker that drops a lock, or by the main thread (LockWaiters), which tries again from time to
// time because locks may be held on the source itself.

import { fuse_out_header } from "./abi-fuse.ts";
import {
  F_OFD_GETLK,
  F_OFD_SETLK,
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  LOCK_EX,
  LOCK_NB,
  LOCK_SH,
  LOCK_UN,
  SEEK_SET,
  flock as flock_struct,
} from "./abi-linux.ts";
import { EACCES, EAGAIN, EDEADLK, EINTR, ENOLCK } from "./errno.ts";
import { OFFSET_MAX, type Context, type FileLock, type LockOwner } from "./filesystem.ts";
import { LOCK_BUCKETS, LOCK_WAITERS_MAX, LOCKS_MAX, MISSED_INTERRUPTS_MAX } from "./limits.ts";
import { Lock } from "./lock.ts";
import { smallMemory, type Memory } from "./memory.ts";
import type { InodeTable } from "./passthrough-inodes.ts";
import { readI64, writeU64 } from "./request.ts";
import { RecordTable, type SharedLayout } from "./shared-table.ts";
import { f64, i32, struct, u32 } from "./struct.ts";
import { close, fcntl, flock, write } from "./syscall.ts";

const owner_record = struct("owner_record", {
  next: u32,
  pins: i32,
  fd: i32,
  nodeid: u32,
  owner_low: u32,
  owner_high: u32,
  /** The process, for F_GETLK. */
  pid: u32,
  /** The handle that the owner last locked through. */
  fh: u32,
});
const NEXT = owner_record.next >> 2;
const FD = owner_record.fd >> 2;
const NODEID = owner_record.nodeid >> 2;
const OWNER_LOW = owner_record.owner_low >> 2;
const OWNER_HIGH = owner_record.owner_high >> 2;
const PID = owner_record.pid >> 2;
const FH = owner_record.fh >> 2;

const wait_record = struct("wait_record", {
  next: u32,
  pins: i32,
  /** 0 free, WAITING or INTERRUPTED. */
  state: u32,
  /** The owner_record of a POSIX lock, 0 for a BSD lock. */
  owner: u32,
  /** What the lock is taken on. */
  fd: i32,
  /** F_RDLCK or F_WRLCK. */
  type: u32,
  unique_low: u32,
  unique_high: u32,
  start: f64,
  end: f64,
  /** Where the answer is written to. */
  device: i32,
  /** Waiters are served in the order they came. */
  ticket: u32,
});
const STATE = wait_record.state >> 2;
const WAIT_OWNER = wait_record.owner >> 2;
const WAIT_FD = wait_record.fd >> 2;
const TYPE = wait_record.type >> 2;
const UNIQUE_LOW = wait_record.unique_low >> 2;
const UNIQUE_HIGH = wait_record.unique_high >> 2;
const START = wait_record.start >> 3;
const END = wait_record.end >> 3;
const DEVICE = wait_record.device >> 2;
const TICKET = wait_record.ticket >> 2;

const WAITING = 1;
const INTERRUPTED = 2;

// In place of the description of a lock.
const NONE = "none";
const UNKNOWN = "unknown";

const locks_header = struct("locks_header", {
  lock: u32,
  /** How many requests wait. */
  waiting: u32,
  /** Where the next interrupt that found nobody waiting is noted. */
  missed_hand: u32,
  ticket: u32,
  /** Held from looking for a deadlock to waiting. */
  wait_lock: u32,
  pad: u32,
});
const WAITING_COUNT = locks_header.waiting >> 2;
const MISSED_HAND = locks_header.missed_hand >> 2;
const NEXT_TICKET = locks_header.ticket >> 2;

export interface LockAreas {
  readonly header: number;
  readonly buckets: number;
  readonly owners: number;
  readonly waiters: number;
  readonly missed: number;
}

// Scratch memory of the thread, for all file systems that it serves.
const flockScratch = smallMemory(flock_struct.sizeof);
const replyScratch = smallMemory(fuse_out_header.sizeof);

export class LockTable {
  readonly #words: Int32Array;
  readonly #doubles: Float64Array;
  readonly #lock: Lock;
  readonly #waitLock: Lock;
  readonly #header: number;
  readonly #missed: number;
  readonly #buckets: number;
  readonly #owners: RecordTable;
  readonly #waiters: RecordTable;
  readonly #inodes: InodeTable;
  readonly #flock = flockScratch;
  readonly #reply = replyScratch;
  /** Whether the kernel tells which locks a descriptor itself has: since Linux 6.5. */
  #tellsOwn = true;
  /**
   * Called when a request began to wait, so that it is looked at from time to time.
   */
  readonly #changed: () => void;

  static areas(layout: SharedLayout): LockAreas {
    return {
      header: layout.area("locks", locks_header.sizeof),
      buckets: layout.area("lock buckets", LOCK_BUCKETS * 4),
      owners: layout.area("lock owners", RecordTable.size(owner_record, LOCKS_MAX)),
      waiters: layout.area("lock waiters", RecordTable.size(wait_record, LOCK_WAITERS_MAX)),
      missed: layout.area("missed interrupts", MISSED_INTERRUPTS_MAX * 8),
    };
  }

  constructor(memory: Memory, areas: LockAreas, inodes: InodeTable, changed: () => void) {
    this.#words = memory.i32;
    this.#doubles = memory.f64;
    this.#lock = new Lock(memory, areas.header + locks_header.lock);
    this.#waitLock = new Lock(memory, areas.header + locks_header.wait_lock);
    this.#header = areas.header >> 2;
    this.#missed = areas.missed >> 2;
    this.#buckets = areas.buckets >> 2;
    this.#owners = new RecordTable(memory, areas.owners, owner_record, LOCKS_MAX);
    this.#waiters = new RecordTable(memory, areas.waiters, wait_record, LOCK_WAITERS_MAX);
    this.#inodes = inodes;
    this.#changed = changed;
  }

  /** Ends all waiting with `result`, and all locks, when the file system is served no more. */
  endAll(result: number): void {
    const words = this.#words;
    this.#waitLock.acquire();
    for (let index = 1; index < this.#waiters.used; index++)
      if (words[this.#waiters.at(index) + STATE] !== 0) this.#answer(index, result);
    this.#waitLock.release();
    for (let bucket = 0; bucket < LOCK_BUCKETS; bucket++)
      for (let index = words[this.#buckets + bucket]!; index !== 0;) {
        const at = this.#owners.at(index);
        index = words[at + NEXT]!;
        close(words[at + FD]!);
      }
  }

  // --- Lock owners ---

  /** The record of the pair, pinned until `unpin`; 0 if there is none. */
  find(nodeid: number, owner: LockOwner): number {
    if (this.#inodes.lockOwners(nodeid) === 0) return 0;
    this.#lock.acquire();
    const index = this.#find(nodeid, owner);
    if (index !== 0) this.#owners.pin(index);
    this.#lock.release();
    return index;
  }

  /**
   * A record for the pair, which takes over `fd`; pinned until `unpin`. -ENOLCK if there are too
   * many.
   */
  add(nodeid: number, owner: LockOwner, fd: number): number {
    this.#lock.acquire();
    let index = this.#find(nodeid, owner);
    const isNew = index === 0;
    if (isNew) {
      index = this.#owners.allocate();
      if (index > 0) {
        const at = this.#owners.at(index);
        const bucket = this.#buckets + (nodeid & (LOCK_BUCKETS - 1));
        this.#words[at + FD] = fd;
        this.#words[at + NODEID] = nodeid;
        this.#words[at + OWNER_LOW] = owner.low;
        this.#words[at + OWNER_HIGH] = owner.high;
        this.#words[at + FH] = 0;
        this.#words[at + NEXT] = this.#words[bucket]!;
        this.#words[bucket] = index;
        this.#inodes.countLockOwners(nodeid, 1);
      }
    }
    if (index > 0) this.#owners.pin(index);
    this.#lock.release();
    if (!isNew || index < 0) close(fd);
    return index < 0 ? -ENOLCK : index;
  }

  unpin(index: number): void {
    if (this.#unpin(index)) this.#signal();
  }

  /** Whether the record was closed, and this the last pin: then its locks are gone. */
  #unpin(index: number): boolean {
    if (!this.#owners.unpin(index)) return false;
    const fd = this.#words[this.#owners.at(index) + FD]!;
    this.#lock.acquire();
    this.#owners.free(index);
    this.#lock.release();
    close(fd);
    return true;
  }

  /** Drops all POSIX locks that the owner has on the inode. */
  drop(nodeid: number, owner: LockOwner): void {
    if (this.#inodes.lockOwners(nodeid) === 0) return;
    this.#lock.acquire();
    const index = this.#find(nodeid, owner);
    if (index !== 0) this.#retire(nodeid, index);
    this.#lock.release();
    if (index !== 0) this.unpin(index);
  }

  /**
   * A handle is gone. The processes that had it open have dropped their POSIX locks before, one by
   * one. What is left are open file description locks: to them the handle itself is the owner, and
   * nobody told.
   */
  dropHandle(nodeid: number, fh: number): void {
    if (this.#inodes.lockOwners(nodeid) === 0) return;
    const words = this.#words;
    const dropped: number[] = [];
    this.#lock.acquire();
    let index = words[this.#buckets + (nodeid & (LOCK_BUCKETS - 1))]!;
    while (index !== 0) {
      const at = this.#owners.at(index);
      const next = words[at + NEXT]!;
      if (words[at + NODEID] === nodeid && words[at + FH] === fh) {
        this.#retire(nodeid, index);
        dropped.push(index);
      }
      index = next;
    }
    this.#lock.release();
    for (const each of dropped) this.unpin(each);
  }

  /**
   * Takes a record off its chain, pinned and closed: the caller's `unpin` frees it. Under the lock.
   */
  #retire(nodeid: number, index: number): void {
    this.#unlink(nodeid, index);
    this.#inodes.countLockOwners(nodeid, -1);
    this.#owners.pin(index);
    this.#owners.close(index);
  }

  #find(nodeid: number, owner: LockOwner): number {
    const words = this.#words;
    let index = words[this.#buckets + (nodeid & (LOCK_BUCKETS - 1))]!;
    while (index !== 0) {
      const at = this.#owners.at(index);
      if (
        words[at + NODEID] === nodeid &&
        words[at + OWNER_LOW] === (owner.low | 0) &&
        words[at + OWNER_HIGH] === (owner.high | 0)
      )
        return index;
      index = words[at + NEXT]!;
    }
    return 0;
  }

  #unlink(nodeid: number, index: number): void {
    const words = this.#words;
    let link = this.#buckets + (nodeid & (LOCK_BUCKETS - 1));
    while (words[link] !== index) link = this.#owners.at(words[link]!) + NEXT;
    words[link] = words[this.#owners.at(index) + NEXT]!;
  }

  // --- Taking locks ---

  /** Takes, changes or drops a POSIX lock of a pinned record, without waiting: 0, or -EAGAIN. */
  set(index: number, fh: number, lock: FileLock): number {
    const at = this.#owners.at(index);
    this.#words[at + PID] = lock.pid;
    this.#words[at + FH] = fh;
    const fd = this.#words[at + FD]!;
    // Who waits comes before who only arrives while a lock passes from one to the next.
    const contended = this.waiting > 0;
    if (contended) this.#waitLock.acquire();
    const result = this.#setRange(fd, lock.type, lock.start, lock.end);
    // A read lock may replace a write lock: that too lets others go on.
    const drops = result === 0 && lock.type !== F_WRLCK;
    if (contended && drops) this.#serve();
    if (contended) this.#waitLock.release();
    else if (drops) this.#signal();
    return result;
  }

  #setRange(fd: number, type: number, start: number, end: number): number {
    this.#fill(type, start, end);
    const result = fcntl(fd, F_OFD_SETLK, this.#flock.address);
    return result === -EACCES ? -EAGAIN : result;
  }

  /** Takes or drops a BSD lock on a handle's descriptor, without waiting. */
  setFlock(fd: number, type: number): number {
    const operation = type === F_UNLCK ? LOCK_UN : type === F_WRLCK ? LOCK_EX : LOCK_SH;
    const contended = this.waiting > 0;
    if (contended) this.#waitLock.acquire();
    const result = flock(fd, operation | LOCK_NB);
    const drops = result === 0 && type !== F_WRLCK;
    if (contended && drops) this.#serve();
    if (contended) this.#waitLock.release();
    else if (drops) this.#signal();
    return result;
  }

  /** A BSD lock went with its descriptor. */
  flockDropped(): void {
    this.#signal();
  }

  /**
   * Puts into `lock` one that stands in the way of the pinned record `index`, or F_UNLCK in its
   * type.
   */
  test(nodeid: number, index: number, lock: FileLock): number {
    const { start, end, type } = lock;
    const fd = this.#words[this.#owners.at(index) + FD]!;
    const result = this.#conflict(fd, type, start, end);
    if (result < 0) return result;
    const { view } = this.#flock;
    lock.type = view.getUint16(flock_struct.l_type, true);
    if (lock.type === F_UNLCK) return 0;
    lock.start = readI64(view, flock_struct.l_start);
    const length = readI64(view, flock_struct.l_len);
    lock.end = length === 0 ? OFFSET_MAX : lock.start + length - 1;
    const pid = view.getInt32(flock_struct.l_pid, true);
    if (pid > 0) {
      lock.pid = pid;
    } else {
      const blocker = this.#blocker(nodeid, fd, type, start, end);
      lock.pid = blocker === 0 ? 0 : this.#words[this.#owners.at(blocker) + PID]!;
    }
    return 0;
  }

  #fill(type: number, start: number, end: number): void {
    const { view } = this.#flock;
    view.setUint16(flock_struct.l_type, type, true);
    view.setUint16(flock_struct.l_whence, SEEK_SET, true);
    writeU64(view, flock_struct.l_start, start);
    writeU64(view, flock_struct.l_len, end >= Number.MAX_SAFE_INTEGER ? 0 : end - start + 1);
    view.setInt32(flock_struct.l_pid, 0, true);
  }

  /** Leaves in `#flock` what stands in the way of a lock on `fd`. */
  #conflict(fd: number, type: number, start: number, end: number): number {
    this.#fill(type, start, end);
    return fcntl(fd, F_OFD_GETLK, this.#flock.address);
  }

  /** The owner record whose lock stands in the way, 0 if it is not of this mount. */
  #blocker(nodeid: number, fd: number, type: number, start: number, end: number): number {
    const seen = this.#conflictKey(fd, type, start, end);
    if (seen === NONE || seen === UNKNOWN) return 0;
    const words = this.#words;
    this.#lock.acquire();
    let found = 0;
    let index = words[this.#buckets + (nodeid & (LOCK_BUCKETS - 1))]!;
    while (index !== 0 && found === 0) {
      const at = this.#owners.at(index);
      if (words[at + NODEID] === nodeid && words[at + FD] !== fd)
        if (this.#has(words[at + FD]!, seen, type, start, end)) found = index;
      index = words[at + NEXT]!;
    }
    this.#lock.release();
    return found;
  }

  /** Whether the lock that was `seen` from another descriptor is that of `fd`. */
  #has(fd: number, seen: string, type: number, start: number, end: number): boolean {
    const { view } = this.#flock;
    for (let from = start; this.#tellsOwn && from <= end;) {
      const own = this.#conflictKey(fd, F_UNLCK, from, end);
      if (own === seen) return true;
      if (own === NONE) return false;
      this.#tellsOwn = own !== UNKNOWN;
      // They come in the order of their ranges: on to the next.
      const length = readI64(view, flock_struct.l_len);
      from = length === 0 ? Infinity : readI64(view, flock_struct.l_start) + length;
    }
    // Then its own are those that can't be seen from it: of several locks that are alike, none.
    return !this.#tellsOwn && this.#conflictKey(fd, type, start, end) !== seen;
  }

  /**
   * Type and range of the lock that stands in the way, or with F_UNLCK of the first one of `fd`
   * itself.
   */
  #conflictKey(fd: number, type: number, start: number, end: number): string {
    if (this.#conflict(fd, type, start, end) < 0) return UNKNOWN;
    const { view } = this.#flock;
    const found = view.getUint16(flock_struct.l_type, true);
    if (found === F_UNLCK) return NONE;
    const from = view.getBigInt64(flock_struct.l_start, true);
    return `${found} ${from} ${view.getBigInt64(flock_struct.l_len, true)}`;
  }

  // --- Waiting ---

  /**
   * Lets the request wait for a POSIX lock of the pinned record `owner`, or if that is 0 a BSD lock
   * on `flockFd`. Returns 0, -ENOLCK if too many wait, -EDEADLK if it would wait for itself.
   */
  wait(context: Context, owner: number, flockFd: number, lock: FileLock): number {
    if (context.device < 0) return -ENOLCK;
    const fd = owner === 0 ? flockFd : this.#words[this.#owners.at(owner) + FD]!;
    const { type, start, end } = lock;
    this.#waitLock.acquire();
    const deadlock = owner !== 0 && this.#wouldDeadlock(owner, fd, type, start, end);
    const result = deadlock ? -EDEADLK : this.#enqueue(context, owner, fd, lock);
    this.#waitLock.release();
    if (result === 0) this.#changed();
    return result;
  }

  #enqueue(context: Context, owner: number, fd: number, lock: FileLock): number {
    const words = this.#words;
    this.#lock.acquire();
    const index = this.#waiters.allocate();
    if (index > 0) {
      const at = this.#waiters.at(index);
      if (owner !== 0) this.#owners.pin(owner);
      words[at + WAIT_OWNER] = owner;
      words[at + WAIT_FD] = fd;
      words[at + TYPE] = lock.type;
      words[at + UNIQUE_LOW] = context.uniqueLow;
      words[at + UNIQUE_HIGH] = context.uniqueHigh;
      this.#doubles[(at >> 1) + START] = lock.start;
      this.#doubles[(at >> 1) + END] = lock.end;
      words[at + DEVICE] = context.device;
      words[at + TICKET] = words[this.#header + NEXT_TICKET]!++;
      words[at + STATE] = this.#wasMissed(context) ? INTERRUPTED : WAITING;
      words[this.#header + WAITING_COUNT]!++;
    }
    this.#lock.release();
    return index > 0 ? 0 : -ENOLCK;
  }

  /**
   * Whether the owner of what stands in the way waits, over however many others, for a lock of
   * `owner`.
   */
  #wouldDeadlock(owner: number, fd: number, type: number, start: number, end: number): boolean {
    let nodeid = this.#words[this.#owners.at(owner) + NODEID]!;
    const process = this.#process(owner);
    for (let steps = 0; steps < LOCK_WAITERS_MAX; steps++) {
      const blocker = this.#blocker(nodeid, fd, type, start, end);
      if (blocker === 0) return false;
      if (this.#process(blocker) === process) return true;
      const at = this.#waitOf(this.#process(blocker));
      if (at === 0) return false;
      nodeid = this.#words[this.#owners.at(this.#words[at + WAIT_OWNER]!) + NODEID]!;
      fd = this.#words[at + WAIT_FD]!;
      type = this.#words[at + TYPE]!;
      start = this.#doubles[(at >> 1) + START]!;
      end = this.#doubles[(at >> 1) + END]!;
    }
    return false;
  }

  /** A process is known by its lock owner, which is the same for all its files. */
  #process(owner: number): string {
    const at = this.#owners.at(owner);
    return `${this.#words[at + OWNER_LOW]} ${this.#words[at + OWNER_HIGH]}`;
  }

  /** The first word of the wait record of a process's POSIX lock, 0 if it does not wait. */
  #waitOf(process: string): number {
    const words = this.#words;
    for (let index = 1; index < this.#waiters.used; index++) {
      const at = this.#waiters.at(index);
      const owner = words[at + WAIT_OWNER]!;
      if (words[at + STATE] === WAITING && owner !== 0 && this.#process(owner) === process)
        return at;
    }
    return 0;
  }

  /**
   * Ends the wait of a request. The interrupt may be read before the request has come to wait, by
   * another worker: then it is noted, and the request will not wait.
   */
  interrupt(uniqueLow: number, uniqueHigh: number): void {
    const words = this.#words;
    let found = false;
    this.#lock.acquire();
    for (let index = 1; index < this.#waiters.used; index++) {
      const at = this.#waiters.at(index);
      if (
        words[at + STATE] === WAITING &&
        words[at + UNIQUE_LOW] === (uniqueLow | 0) &&
        words[at + UNIQUE_HIGH] === (uniqueHigh | 0)
      ) {
        words[at + STATE] = INTERRUPTED;
        found = true;
      }
    }
    if (!found) {
      const place = words[this.#header + MISSED_HAND]!;
      words[this.#missed + 2 * place] = uniqueLow;
      words[this.#missed + 2 * place + 1] = uniqueHigh;
      words[this.#header + MISSED_HAND] = (place + 1) % MISSED_INTERRUPTS_MAX;
    }
    this.#lock.release();
    if (found) this.#signal();
  }

  /** Whether the request's interrupt was here before it. Under the lock. */
  #wasMissed(context: Context): boolean {
    const words = this.#words;
    for (let place = 0; place < MISSED_INTERRUPTS_MAX; place++) {
      const at = this.#missed + 2 * place;
      if (words[at] === (context.uniqueLow | 0) && words[at + 1] === (context.uniqueHigh | 0))
        return true;
    }
    return false;
  }

  /** Locks were dropped, or a wait was ended: whoever can go on does. */
  #signal(): void {
    if (this.waiting > 0) this.retry();
  }

  /** How many requests wait. */
  get waiting(): number {
    return Atomics.load(this.#words, this.#header + WAITING_COUNT);
  }

  /** Serves those who wait. Returns how many still do. */
  retry(): number {
    this.#waitLock.acquire();
    this.#serve();
    this.#waitLock.release();
    return this.waiting;
  }

  /**
   * Tries again for everyone who waits, in the order they came, and answers those who got their
   * lock, were interrupted, or would wait for ever. Under the wait lock.
   */
  #serve(): void {
    const ticket = (index: number): number => this.#words[this.#waiters.at(index) + TICKET]!;
    for (let dropped = true; dropped;) {
      dropped = false;
      const waiting: number[] = [];
      for (let index = 1; index < this.#waiters.used; index++)
        if (this.#words[this.#waiters.at(index) + STATE] !== 0) waiting.push(index);
      waiting.sort((a, b) => (ticket(a) - ticket(b)) | 0);
      for (const index of waiting) {
        const result = this.#retryOne(this.#waiters.at(index));
        if (result !== -EAGAIN && this.#answer(index, result)) dropped = true;
      }
    }
  }

  #retryOne(at: number): number {
    const words = this.#words;
    if (words[at + STATE] === INTERRUPTED) return -EINTR;
    const fd = words[at + WAIT_FD]!;
    const type = words[at + TYPE]!;
    const owner = words[at + WAIT_OWNER]!;
    if (owner === 0) return flock(fd, (type === F_RDLCK ? LOCK_SH : LOCK_EX) | LOCK_NB);
    const start = this.#doubles[(at >> 1) + START]!;
    const end = this.#doubles[(at >> 1) + END]!;
    const result = this.#setRange(fd, type, start, end);
    // Whom it waits for now may be another than when it came.
    const locked = result === -EAGAIN && this.#wouldDeadlock(owner, fd, type, start, end);
    return locked ? -EDEADLK : result;
  }

  /** Returns whether locks were dropped with the last pin of their owner. */
  #answer(index: number, result: number): boolean {
    const words = this.#words;
    const at = this.#waiters.at(index);
    const owner = words[at + WAIT_OWNER]!;
    const device = words[at + DEVICE]!;
    const { view, address } = this.#reply;
    view.setUint32(fuse_out_header.len, fuse_out_header.sizeof, true);
    view.setInt32(fuse_out_header.error, result, true);
    view.setInt32(fuse_out_header.unique, words[at + UNIQUE_LOW]!, true);
    view.setInt32(fuse_out_header.unique + 4, words[at + UNIQUE_HIGH]!, true);
    this.#lock.acquire();
    words[at + STATE] = 0;
    words[this.#header + WAITING_COUNT]!--;
    if (this.#waiters.close(index)) this.#waiters.free(index);
    this.#lock.release();
    write(device, address, fuse_out_header.sizeof);
    return owner !== 0 && this.#unpin(owner);
  }
}

const SHORTEST_PAUSE_MS = 1;
const LONGEST_PAUSE_MS = 64;

/** Looks after those who wait for locks, on the main thread's event loop. */
export class LockWaiters {
  readonly #locks: LockTable;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #pause = SHORTEST_PAUSE_MS;

  constructor(locks: LockTable) {
    this.#locks = locks;
  }

  /** Something has changed: tries at once. */
  changed(): void {
    this.#pause = SHORTEST_PAUSE_MS;
    this.#try();
  }

  #try(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#locks.retry() === 0) return;
    // Locks that are held on the source itself are dropped without our knowing.
    this.#timer = setTimeout(() => this.#try(), this.#pause);
    this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}
