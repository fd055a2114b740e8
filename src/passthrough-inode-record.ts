// What is kept of an inode in shared memory (see passthrough-inodes.ts): the record, where its
// parts are as indices of words, and what hangs on it: counts, and the registration for FUSE
// passthrough.

import { S_IFMT, stat } from "./abi-linux.ts";
import { CTIME_SETTLED_MS, FILE_HANDLE_MAX, IDLE_BACKINGS_MAX, INODES_MAX } from "./limits.ts";
import { Lock } from "./lock.ts";
import { smallMemory, type Memory } from "./memory.ts";
import { readI64 } from "./request.ts";
import { generationOf, RecordTable } from "./shared-table.ts";
import { array, f64, i32, struct, u32, u64, u8 } from "./struct.ts";

export const inode_record = struct("inode_record", {
  /** The next in the bucket's chain, or the next free record. */
  next: u32,
  pins: i32,
  fd: i32,
  /** Its place in the ring of descriptors; 0 if it has none. */
  place: u32,
  ino: u64,
  lookups: f64,
  device: u32,
  /** How often the record was used for another (see generationOf). */
  generation: u32,
  /** Not 0 if it was used since the ring's hand last came by. */
  recent: u32,
  /** ALIVE and KEEP, and the file type (S_IFMT bits). */
  state: u32,
  /** FUSE passthrough: > 0 the backing id, -1 not backed, 0 never opened. */
  backing: i32,
  /** How many handles are open. */
  opens: u32,
  /** How many lock owners hold or want POSIX locks. */
  lock_owners: u32,
  // struct file_handle of name_to_handle_at(2); handle_bytes is 0 if it was not taken yet.
  handle_bytes: u32,
  handle_type: i32,
  handle: array(u8, FILE_HANDLE_MAX),
  /** Its place in the ring of forgotten inodes; 0 if the kernel knows it. */
  retained: u32,
  /** How many handles may be mapped for writing past us. */
  mappable: u32,
  /** How many handles are open for writing. */
  writers: u32,
  /**
   * Of an inode with a descriptor: which attachment that was. Without: when it was last changed, in
   * seconds, the lower half.
   */
  since: u32,
  /** And nanoseconds, 0 if that time is not to be relied on. */
  ctime_nsec: u32,
});

// As indices of words in a record.
export const NEXT = inode_record.next >> 2;
export const FD = inode_record.fd >> 2;
export const PLACE = inode_record.place >> 2;
export const INO_LOW = inode_record.ino >> 2;
export const INO_HIGH = INO_LOW + 1;
export const LOOKUPS = inode_record.lookups >> 2;
export const DEVICE = inode_record.device >> 2;
export const GENERATION = inode_record.generation >> 2;
export const RECENT = inode_record.recent >> 2;
export const STATE = inode_record.state >> 2;
export const BACKING = inode_record.backing >> 2;
export const OPENS = inode_record.opens >> 2;
export const LOCK_OWNERS = inode_record.lock_owners >> 2;
export const HANDLE_BYTES = inode_record.handle_bytes >> 2;
export const RETAINED = inode_record.retained >> 2;
export const MAPPABLE = inode_record.mappable >> 2;
export const WRITERS = inode_record.writers >> 2;
export const SINCE = inode_record.since >> 2;
export const CTIME_NSEC = inode_record.ctime_nsec >> 2;
export const HANDLE_WORDS = 2 + FILE_HANDLE_MAX / 4;

export const ALIVE = 1;
/** The descriptor must stay: the file can't be opened again. */
export const KEEP = 2;

export const inodes_header = struct("inodes_header", {
  lock: u32,
  /** Where the ring's hand is. */
  hand: u32,
  /** Inodes without a descriptor. */
  evicted: u32,
  /** How many passthrough registrations are kept for inodes that no one has open. */
  idle_backings: u32,
  /** Where the hand of the ring of forgotten inodes is. */
  retained_hand: u32,
  /** How often an inode was given a descriptor; goes round. */
  attachments: u32,
});

// As indices of words from the header on.
export const HAND = inodes_header.hand >> 2;
export const EVICTED = inodes_header.evicted >> 2;
export const IDLE_BACKINGS = inodes_header.idle_backings >> 2;
export const RETAINED_HAND = inodes_header.retained_hand >> 2;
export const ATTACHMENTS = inodes_header.attachments >> 2;

/** Registers files for FUSE passthrough. */
export interface Registrar {
  /** Returns a backing id > 0 for the file behind `fd`, or -1. */
  register(fd: number): number;
  close(id: number): void;
}

// Scratch memory of the thread, for all file systems that it serves.
const handleScratch = smallMemory(8 + FILE_HANDLE_MAX);

/** The records, and what hangs on an inode as long as the kernel knows it. */
export class InodeRecords {
  protected readonly memory: Memory;
  protected readonly words: Int32Array;
  protected readonly table: RecordTable;
  protected readonly lock: Lock;
  /** Where inodes_header lies, as an index of `words`. */
  protected readonly header: number;
  /** struct file_handle of some file, to compare with. */
  protected readonly handle = handleScratch;

  /** `areas` says where header and records lie. */
  constructor(memory: Memory, areas: { header: number; records: number }) {
    this.memory = memory;
    this.words = memory.i32;
    this.table = new RecordTable(memory, areas.records, inode_record, INODES_MAX);
    this.lock = new Lock(memory, areas.header + inodes_header.lock);
    this.header = areas.header >> 2;
  }

  /** Its generation: with the nodeid, unique over the life of the mount (`generationOf`). */
  generation(nodeid: number): number {
    return generationOf(this.memory, this.words[this.table.at(nodeid) + GENERATION]!);
  }

  /** The file type (S_IFMT bits) of an inode that is acquired. */
  type(nodeid: number): number {
    return this.words[this.table.at(nodeid) + STATE]! & S_IFMT;
  }

  /** How many handles of the acquired inode are open, whatever they are for. */
  opens(nodeid: number): number {
    return Atomics.load(this.words, this.table.at(nodeid) + OPENS);
  }

  /** Whether the inode, which is open, has a backing id. */
  isBacked(nodeid: number): boolean {
    return this.words[this.table.at(nodeid) + BACKING]! > 0;
  }

  /**
   * Counts handles through which the kernel may change the file's times without telling anybody:
   * files that are open for reading and writing past us can be mapped.
   */
  countMappable(nodeid: number, change: number): void {
    Atomics.add(this.words, this.table.at(nodeid) + MAPPABLE, change);
  }

  /** Counts handles that are open for writing. */
  countWriters(nodeid: number, change: number): void {
    Atomics.add(this.words, this.table.at(nodeid) + WRITERS, change);
  }

  hasWriters(nodeid: number): boolean {
    return this.words[this.table.at(nodeid) + WRITERS] !== 0;
  }

  isMappable(nodeid: number): boolean {
    return this.words[this.table.at(nodeid) + MAPPABLE] !== 0;
  }

  /** How many lock owners there are. */
  lockOwners(nodeid: number): number {
    return this.table.has(nodeid) ? this.words[this.table.at(nodeid) + LOCK_OWNERS]! : 0;
  }

  countLockOwners(nodeid: number, change: number): void {
    Atomics.add(this.words, this.table.at(nodeid) + LOCK_OWNERS, change);
  }

  // --- Which file a record is of; under the lock ---

  protected hasFd(index: number): boolean {
    return this.words[this.table.at(index) + FD]! >= 0;
  }

  /** Whether the file whose struct stat is `from` was last changed when the inode was. */
  protected isUnchanged(index: number, from: Memory): boolean {
    const words = this.words;
    const at = this.table.at(index);
    return (
      words[at + CTIME_NSEC] !== 0 &&
      words[at + CTIME_NSEC] === from.i32[stat.st_ctime_nsec >> 2] &&
      words[at + SINCE] === from.i32[stat.st_ctime >> 2]
    );
  }

  /** Whether the file handle of the inode is the one in `handle`. */
  protected isOfHandle(index: number): boolean {
    const own = this.table.at(index) + HANDLE_BYTES;
    const handle = this.handle.i32;
    const length = 2 + ((handle[0]! + 3) >> 2);
    for (let word = 0; word < length; word++)
      if (handle[word] !== this.words[own + word]) return false;
    return true;
  }

  /**
   * A file that gets the inode's number later is changed later: the time of the last change tells
   * them apart. Not if that was just now, since the clock of files is coarse, and not on a file
   * system that counts in seconds.
   */
  protected noteChange(index: number, { view, i32 }: Memory): void {
    const words = this.words;
    const at = this.table.at(index);
    const nanoseconds = i32[stat.st_ctime_nsec >> 2]!;
    const age = Date.now() - (readI64(view, stat.st_ctime) * 1000 + nanoseconds / 1e6);
    words[at + SINCE] = i32[stat.st_ctime >> 2]!;
    words[at + CTIME_NSEC] = age > CTIME_SETTLED_MS ? nanoseconds : 0;
  }

  protected setHandle(index: number): void {
    const at = this.table.at(index) + HANDLE_BYTES;
    for (let word = 0; word < HANDLE_WORDS; word++) this.words[at + word] = this.handle.i32[word]!;
  }

  // --- Registrations for FUSE passthrough ---

  /**
   * Counts an open of the acquired inode. The first one decides for as long as it is open: it is
   * backed if it `may` be, and `registrar` gives it a backing id. Returns the id, or -1 if it is
   * not backed.
   */
  openBacked(nodeid: number, fd: number, registrar: Registrar, may = true): number {
    const at = this.table.at(nodeid);
    const words = this.words;
    this.lock.acquire();
    if (words[at + OPENS] === 0) {
      const kept = words[at + BACKING]!;
      if (kept > 0) words[this.header + IDLE_BACKINGS]!--;
      if (!may) {
        if (kept > 0) registrar.close(kept);
        words[at + BACKING] = -1;
      } else if (kept <= 0) {
        words[at + BACKING] = registrar.register(fd);
      }
    }
    words[at + OPENS]!++;
    const backing = words[at + BACKING]!;
    this.lock.release();
    return backing;
  }

  /**
   * Counts a close. With the last one the backing id is kept, for the next to open, if there are
   * not too many.
   */
  closeBacked(nodeid: number, registrar: Registrar): void {
    const at = this.table.at(nodeid);
    const words = this.words;
    this.lock.acquire();
    if (words[at + STATE]! & ALIVE && --words[at + OPENS]! === 0 && words[at + BACKING]! > 0) {
      if (words[this.header + IDLE_BACKINGS]! < IDLE_BACKINGS_MAX) {
        words[this.header + IDLE_BACKINGS]!++;
      } else {
        registrar.close(words[at + BACKING]!);
        words[at + BACKING] = 0;
      }
    }
    this.lock.release();
  }
}
