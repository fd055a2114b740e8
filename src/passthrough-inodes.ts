// The inodes that the kernel knows, in memory that all workers share. A nodeid is the number of a
// record.
//
// A record holds who the inode is (host inode number and device), how often the kernel has looked
// it up, and how to get at it: an O_PATH descriptor, or a kernel file handle, or both. Descriptors
// are a cache: the ring has a place for each, and when it is full the hand evicts the next one that
// was not used since it last came by, after its file handle was taken. Where handles can't be had,
// every inode keeps its descriptor.
//
// Invariants, under `lock`: an inode with lookups is on the chain of its bucket, unless another
// file has got its inode number since; `fd < 0` only with a handle; an inode's place in the ring
// names the inode.
//
// Using a descriptor takes no lock: `acquire` pins the record, `release` unpins it; a pinned
// record's descriptor is not closed.

import { AT_SYMLINK_NOFOLLOW, O_CLOEXEC, O_NOFOLLOW, O_PATH, S_IFMT, stat } from "./abi-linux.ts";
import { FUSE_ROOT_ID } from "./abi-fuse.ts";
import { assert } from "./assert.ts";
import { EMFILE, ENFILE, ENOENT, EOPNOTSUPP, EOVERFLOW, ESTALE } from "./errno.ts";
import { DESCRIPTORS_RELIEVED, INODE_BUCKETS, INODES_MAX, RETAINED_MAX } from "./limits.ts";
import { smallMemory, type Address, type Memory } from "./memory.ts";
import {
  DeviceTable,
  beginsWithIno,
  isHandleOf,
  takeHandle,
  takeHandleAt,
  type DeviceAreas,
  type DeviceOptions,
} from "./passthrough-devices.ts";
import { InodeChains, type ChainAreas } from "./passthrough-inode-chains.ts";
import {
  ALIVE,
  ATTACHMENTS,
  BACKING,
  DEVICE,
  EVICTED,
  FD,
  GENERATION,
  HAND,
  HANDLE_BYTES,
  IDLE_BACKINGS,
  INO_HIGH,
  INO_LOW,
  inode_record,
  inodes_header,
  KEEP,
  LOCK_OWNERS,
  LOOKUPS,
  MAPPABLE,
  NEXT,
  OPENS,
  PLACE,
  RECENT,
  RETAINED,
  RETAINED_HAND,
  SINCE,
  STATE,
  WRITERS,
} from "./passthrough-inode-record.ts";
import { hostHandle, isLasting, tagOf, Tags } from "./passthrough-lasting.ts";
import type { ProcFds } from "./passthrough-proc.ts";
import { RecordTable, type SharedLayout } from "./shared-table.ts";
import { close, fstat, newfstatat, open_by_handle_at } from "./syscall.ts";

/** Where the inodes' areas lie in shared memory. */
export interface InodeAreas extends ChainAreas {
  readonly devices: DeviceAreas;
  readonly ring: number;
  readonly ringSize: number;
  readonly retained: number;
}

export interface InodeOptions extends DeviceOptions {
  readonly useHostIno: boolean;
  /** Whether inodes are dropped as soon as they are forgotten. */
  readonly dropsForgotten: boolean;
  /** For nodeids that a later daemon knows. */
  readonly handleKey: string | null;
}

// Scratch memory of the thread, for all file systems that it serves.
const statScratch = smallMemory(stat.sizeof);

export class InodeTable extends InodeChains {
  readonly #lookups: Float64Array;
  readonly #devices: DeviceTable;
  readonly #ring: number;
  readonly #ringSize: number;
  readonly #retained: number;
  readonly #options: InodeOptions;
  readonly #stat = statScratch;
  /** Whether the inode that was remembered last was known already. */
  wasKnown = false;
  /** Whether files could be told by their handles so far. */
  #canIdentify = true;

  static areas(layout: SharedLayout, ringSize: number): InodeAreas {
    return {
      header: layout.area("inodes", inodes_header.sizeof),
      records: layout.area("inode records", RecordTable.size(inode_record, INODES_MAX)),
      buckets: layout.area("inode buckets", INODE_BUCKETS * 4),
      devices: DeviceTable.areas(layout),
      ring: layout.area("descriptor ring", (ringSize + 1) * 4),
      retained: layout.area("retained inodes", (RETAINED_MAX + 1) * 4),
      tags: Tags.area(layout, INODES_MAX),
      ringSize,
    };
  }

  constructor(memory: Memory, areas: InodeAreas, options: InodeOptions, proc: ProcFds) {
    super(memory, areas, options.handleKey);
    this.#lookups = memory.f64;
    this.#devices = new DeviceTable(memory, areas.devices, options, proc);
    this.#ring = areas.ring >> 2;
    this.#ringSize = areas.ringSize;
    this.#retained = areas.retained >> 2;
    this.#options = options;
  }

  /** Makes the descriptor `fd` the root. Returns 0, or -errno. */
  addRoot(fd: number): number {
    const result = fstat(fd, this.#stat.address);
    if (result < 0) return result;
    const root = this.remember(fd, this.#stat);
    if (root < 0) return root;
    assert(root === FUSE_ROOT_ID, "the root is the first inode");
    this.#keep(root);
    return 0;
  }

  /** Whether inodes of the root's device can be opened by file handle. */
  get hasFileHandles(): boolean {
    return this.#devices.hasHandles(0);
  }

  /** How many inodes the kernel knows. */
  get count(): number {
    return this.table.count;
  }

  /**
   * The inode's descriptor, an O_PATH one, or -errno (ESTALE: the inode is gone). In any case
   * `release` has to follow, and until then the descriptor stays open.
   */
  acquire(nodeid: number): number {
    const table = this.table;
    if (!table.has(nodeid)) return -ESTALE;
    const words = this.words;
    const at = table.at(nodeid);
    const open = table.pin(nodeid);
    const fd = words[at + FD]!;
    if (!open || fd < 0 || !(words[at + STATE]! & ALIVE)) return this.#reacquire(nodeid);
    words[at + RECENT] = 1;
    return fd;
  }

  release(nodeid: number): void {
    if (this.table.has(nodeid) && this.table.unpin(nodeid)) {
      this.lock.acquire();
      this.#bury(nodeid);
      this.lock.release();
    }
  }

  /** Opens an evicted inode again. */
  #reacquire(nodeid: number): number {
    const words = this.words;
    const at = this.table.at(nodeid);
    this.lock.acquire();
    let fd = -ESTALE;
    if (words[at + STATE]! & ALIVE) {
      fd = words[at + FD]!;
      if (fd < 0) {
        fd = this.#openByHandle(nodeid, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0) this.#attach(nodeid, fd);
      }
    }
    this.lock.release();
    return fd;
  }

  /** Under the lock. */
  #openByHandle(nodeid: number, flags: number): number {
    const at = this.table.at(nodeid);
    const handle = this.memory.address + (at + HANDLE_BYTES) * 4;
    return this.#openHandle(this.words[at + DEVICE]!, handle, flags);
  }

  #openHandle(device: number, handle: Address, flags: number): number {
    const mountFd = this.#devices.mountFd(device);
    let fd = open_by_handle_at(mountFd, handle, flags);
    while ((fd === -EMFILE || fd === -ENFILE) && this.#relieve())
      fd = open_by_handle_at(mountFd, handle, flags);
    return fd;
  }

  /**
   * Gives up some cached descriptors, when the process has run out of them. False if there are none
   * to give.
   */
  relieve(): boolean {
    this.lock.acquire();
    const relieved = this.#relieve();
    this.lock.release();
    return relieved;
  }

  #relieve(): boolean {
    let freed = 0;
    for (let step = 0; step < 2 * this.#ringSize && freed < DESCRIPTORS_RELIEVED; step++) {
      const place = this.#nextPlace();
      if (this.words[this.#ring + place] !== 0 && this.#evict(place)) freed++;
    }
    return freed > 0;
  }

  /** Which moment it is, for `recall` and `tryRescue`. */
  get moment(): number {
    return this.words[this.header + ATTACHMENTS]!;
  }

  /**
   * The inode of the file whose struct stat `from` was asked for after `moment`, with 1 added to
   * its lookup count. Returns the nodeid, or 0 if it is not known or only a descriptor can tell.
   */
  recall(from: Memory, moment: number): number {
    const index = Math.max(0, this.#findByStat(from, moment));
    if (index !== 0) this.#countLookup(index);
    this.lock.release();
    return index;
  }

  #countLookup(index: number): void {
    const at = this.table.at(index);
    if (this.words[at + RETAINED] !== 0) this.#unretain(index);
    this.#lookups[(at + LOOKUPS) >> 1]! += 1;
  }

  /**
   * The inode of descriptor `fd` (O_PATH, not followed), whose struct stat is `from`: a known one
   * or a new one. Adds 1 to its lookup count. Takes over `fd`, also when it fails. Returns the
   * nodeid, or -errno.
   */
  remember(fd: number, from: Memory): number {
    const device = this.#devices.find(fd, from);
    if (device < 0) {
      close(fd);
      return device;
    }
    let index = this.#findSame(fd, from, device);
    this.wasKnown = index !== 0;
    if (index === 0) {
      index = this.#add(from, device);
      if (index < 0) {
        this.lock.release();
        close(fd);
        return index;
      }
      if (this.tags !== undefined && takeHandle(fd, this.handle)) this.tag(index, device);
    }
    this.#countLookup(index);
    const spare = this.hasFd(index);
    if (!spare) this.#attach(index, fd);
    this.lock.release();
    if (spare) close(fd);
    return index;
  }

  /**
   * Whether to identify files without opening them: as long as that can be done, and where a
   * descriptor would be taken from another inode.
   */
  get identifies(): boolean {
    const place = (this.words[this.header + HAND]! % this.#ringSize) + 1;
    return this.#canIdentify && this.words[this.#ring + place] !== 0;
  }

  /**
   * Fills `into` with the struct stat of what `path` names below `dirfd`, not followed, and notes
   * the file handle for `rememberIdentified`. Returns 1; 0 if it takes a descriptor to know which
   * file it is; or -errno. The handle comes first: if the file goes in between, it is stale.
   */
  identify(dirfd: number, path: Address, into: Memory): number {
    const taken = takeHandleAt(dirfd, path, this.handle);
    if (taken === -ENOENT) return taken;
    const hasNone = taken === -EOPNOTSUPP || taken === -EOVERFLOW;
    this.#canIdentify = taken >= 0 ? beginsWithIno(this.handle) : !hasNone;
    if (taken < 0 || !this.#canIdentify) return 0;
    const result = newfstatat(dirfd, path, into.address, AT_SYMLINK_NOFOLLOW);
    return result >= 0 && isHandleOf(this.handle, into) ? 1 : 0;
  }

  /**
   * The inode of the file that was identified last, whose struct stat is `from`: a known one or a
   * new one, without a descriptor. Adds 1 to its lookup count. Returns the nodeid, 0 if it takes a
   * descriptor, or -errno.
   */
  rememberIdentified(from: Memory): number {
    const device = this.#devices.known(from);
    if (device < 0 || !this.#devices.hasHandles(device)) return 0;
    this.lock.acquire();
    const known = this.find(from, device);
    let index = known;
    if (known === 0) {
      index = this.#add(from, device);
      if (index > 0) {
        this.setHandle(index);
        this.noteChange(index, from);
        this.tag(index, device);
      }
    } else if (!this.isOfHandle(known)) {
      index = 0;
    }
    if (index > 0) {
      this.wasKnown = known !== 0;
      this.#countLookup(index);
    }
    this.lock.release();
    return index;
  }

  /** A new inode, on the chain of its bucket. Returns the nodeid or -ENFILE. */
  #add(from: Memory, device: number): number {
    const index = this.table.allocate();
    if (index < 0) return index;
    this.#begin(index, from, device);
    const bucket = this.bucketOf(from, device);
    this.words[this.table.at(index) + NEXT] = this.words[bucket]!;
    this.words[bucket] = index;
    return index;
  }

  #begin(index: number, { i32: from }: Memory, device: number): void {
    const words = this.words;
    const at = this.table.at(index);
    words[at + FD] = -1;
    words[at + PLACE] = 0;
    words[at + INO_LOW] = from[stat.st_ino >> 2]!;
    words[at + INO_HIGH] = from[(stat.st_ino >> 2) + 1]!;
    this.#lookups[(at + LOOKUPS) >> 1] = 0;
    words[at + DEVICE] = device;
    words[at + GENERATION]!++;
    words[at + STATE] = ALIVE | (from[stat.st_mode >> 2]! & S_IFMT);
    words[at + BACKING] = 0;
    words[at + OPENS] = 0;
    words[at + LOCK_OWNERS] = 0;
    words[at + HANDLE_BYTES] = 0;
    words[at + RETAINED] = 0;
    words[at + MAPPABLE] = 0;
    words[at + WRITERS] = 0;
    words[this.header + EVICTED]!++; // until #attach
    this.tags?.clear(index);
  }

  /**
   * An O_PATH descriptor of the file on the root's device that a struct file_handle stands for, or
   * -errno.
   */
  openHandle(handle: Address): number {
    this.lock.acquire();
    const fd = this.#openHandle(0, handle, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    this.lock.release();
    return fd;
  }

  /** An O_PATH descriptor of the file that some daemon has shown as `nodeid`, or -errno. */
  openShown(nodeid: number): number {
    const { tags } = this;
    if (tags === undefined || !isLasting(nodeid)) return -ESTALE;
    const fd = this.openHandle(hostHandle(nodeid));
    if (fd < 0) return fd;
    if (takeHandle(fd, this.handle) && tags.make(this.handle) === tagOf(nodeid)) return fd;
    close(fd);
    return -ESTALE;
  }

  /**
   * Takes `count` off the lookup count; at 0 the kernel does not know the inode any more. Returns
   * the id of its FUSE passthrough registration, which the caller has to close, or 0.
   */
  forget(nodeid: number, count: number): number {
    if (!this.table.has(nodeid) || nodeid === FUSE_ROOT_ID) return 0;
    const at = this.table.at(nodeid);
    const words = this.words;
    let backing = 0;
    this.lock.acquire();
    if (words[at + STATE]! & ALIVE && words[at + RETAINED] === 0) {
      const left = Math.max(0, this.#lookups[(at + LOOKUPS) >> 1]! - count);
      this.#lookups[(at + LOOKUPS) >> 1] = left;
      if (left === 0) {
        backing = Math.max(0, words[at + BACKING]!);
        if (backing > 0 && words[at + OPENS] === 0) words[this.header + IDLE_BACKINGS]!--;
        words[at + BACKING] = 0;
        if (this.#options.dropsForgotten || !this.#retain(nodeid)) this.#drop(nodeid);
      }
    }
    this.lock.release();
    return backing;
  }

  // --- Forgotten inodes; under the lock ---
  //
  // A file handle that was made of the mount (name_to_handle_at(2), NFS) holds a nodeid and a
  // generation, and has to work also when the kernel has forgotten the inode meanwhile. So the
  // records of the last ones stay, with the host's file handle and without a descriptor.

  /** Keeps a forgotten inode; false if it can't be opened by file handle, or has been removed. */
  #retain(index: number): boolean {
    const words = this.words;
    const at = this.table.at(index);
    const fd = words[at + FD]!;
    if (!this.table.tryClose(index)) return false;
    const can = fd < 0 || this.#canReopen(index, fd);
    if (can) {
      if (fd >= 0) this.#detach(index);
      else words[this.header + EVICTED]!--;
      const place = (words[this.header + RETAINED_HAND]! % RETAINED_MAX) + 1;
      words[this.header + RETAINED_HAND] = place;
      const oldest = words[this.#retained + place]!;
      if (oldest !== 0) {
        this.#unretain(oldest);
        this.#drop(oldest);
      }
      words[this.#retained + place] = index;
      words[at + RETAINED] = place;
    }
    this.table.reopen(index);
    return can;
  }

  /** The kernel knows the inode again, or it is dropped. */
  #unretain(index: number): void {
    const words = this.words;
    const at = this.table.at(index);
    words[this.#retained + words[at + RETAINED]!] = 0;
    words[at + RETAINED] = 0;
    if (words[at + FD]! < 0) words[this.header + EVICTED]!++;
  }

  /** Ends an inode that nobody looks up or retains. */
  #drop(index: number): void {
    this.unhash(index);
    this.words[this.table.at(index) + STATE]! &= S_IFMT;
    if (this.table.close(index)) this.#bury(index);
  }

  /** Frees the record of an inode that was dropped and has no pins. */
  #bury(index: number): void {
    if (this.words[this.table.at(index) + FD]! >= 0) this.#detach(index);
    else this.words[this.header + EVICTED]!--;
    this.table.free(index);
  }

  /** Closes the descriptor. */
  #detach(index: number): void {
    const words = this.words;
    const at = this.table.at(index);
    close(words[at + FD]!);
    words[at + FD] = -1;
    if (words[at + PLACE] !== 0) words[this.#ring + words[at + PLACE]!] = 0;
    words[at + PLACE] = 0;
  }

  /**
   * Closes every descriptor, when the file system is served no more. `closeBacking` ends
   * registrations for FUSE passthrough.
   */
  closeAll(closeBacking: (id: number) => void): void {
    const words = this.words;
    for (let index = 1; index < this.table.used; index++) {
      const at = this.table.at(index);
      if (!(words[at + STATE]! & ALIVE)) continue;
      if (words[at + BACKING]! > 0) closeBacking(words[at + BACKING]!);
      if (words[at + FD]! >= 0) close(words[at + FD]!);
    }
    this.#devices.closeAll();
  }

  // --- What an inode is ---

  /**
   * What to add to the upper half of host inode numbers on this inode's device, so that they are
   * unique over the mount: 0 for the device of the root.
   */
  inoOffset(nodeid: number): number {
    if (this.#options.useHostIno) return 0;
    // The 8 bits above these tell file systems of a VFS apart.
    return this.words[this.table.at(nodeid) + DEVICE]! << 14;
  }

  /** Whether an inode that is alive is on a device whose inodes can be opened by file handle. */
  canReopen(nodeid: number): boolean {
    return this.#devices.hasHandles(this.words[this.table.at(nodeid) + DEVICE]!);
  }

  /** Whether some inodes that the kernel knows have no descriptor. */
  get hasEvicted(): boolean {
    return this.words[this.header + EVICTED]! > 0;
  }

  /**
   * What `rescue` does, for the file whose struct stat `from` was asked for after `moment`; -1 if
   * that takes a descriptor.
   */
  tryRescue(from: Memory, moment: number): number {
    let index = this.#findByStat(from, moment);
    if (index > 0) {
      if (this.words[this.table.at(index) + RETAINED] !== 0) index = 0;
      else if (this.hasFd(index)) this.table.pin(index);
      else index = -1;
    }
    this.lock.release();
    return index;
  }

  /**
   * A name of the file behind `fd`, whose struct stat is `from`, is about to be removed. If it is
   * an inode that has no descriptor, it gets this one, because a removed file can't be opened
   * again. Takes over `fd`. Returns the nodeid, pinned, so that the descriptor is there until the
   * name is gone: then `release` has to follow. 0 if the kernel does not know the file.
   */
  rescue(fd: number, from: Memory): number {
    const device = this.#devices.find(fd, from);
    let known = 0;
    let taken = false;
    if (device >= 0) {
      const index = this.#findSame(fd, from, device);
      const at = this.table.at(index);
      if (index !== 0 && this.words[at + RETAINED] === 0) {
        known = index;
        this.table.pin(index);
        taken = this.words[at + FD]! < 0;
        if (taken) this.#attach(index, fd);
      }
      this.lock.release();
    }
    if (!taken) close(fd);
    return known;
  }

  // --- Which inode a file is ---

  /**
   * Takes the lock, and finds the inode of the file whose struct stat `from` was asked for after
   * `moment`: 0 if it is not known, -1 if only a descriptor can tell. An inode that has had its
   * descriptor since before then has had its number too.
   */
  #findByStat(from: Memory, moment: number): number {
    const device = this.#devices.known(from);
    this.lock.acquire();
    if (device < 0) return -1;
    const index = this.find(from, device);
    if (index === 0) return 0;
    const since = this.words[this.table.at(index) + SINCE]!;
    const isSame = this.hasFd(index) ? ((moment - since) | 0) >= 0 : this.isUnchanged(index, from);
    return isSame ? index : -1;
  }

  /**
   * Takes the lock, and finds the inode of that number that is the file behind `fd`; 0 if there is
   * none. While an inode has a descriptor, its number can't have passed to another file; afterwards
   * the time of its last change tells, or else the file handle, and one of another file is found no
   * more.
   */
  #findSame(fd: number, from: Memory, device: number): number {
    this.lock.acquire();
    let index = this.find(from, device);
    if (index === 0 || this.hasFd(index) || this.isUnchanged(index, from)) return index;
    this.lock.release();
    const hasHandle = takeHandle(fd, this.handle);
    this.lock.acquire();
    index = this.find(from, device);
    if (index === 0 || this.hasFd(index) || (hasHandle && this.isOfHandle(index))) return index;
    // By its tag it can still be told from the other one.
    if (this.shown(index) === index) this.unhash(index);
    return 0;
  }

  // --- Descriptors and file handles; under the lock ---

  /** Gives an inode without descriptor this one. */
  #attach(index: number, fd: number): void {
    const words = this.words;
    const at = this.table.at(index);
    if (words[at + RETAINED] === 0) words[this.header + EVICTED]!--;
    words[at + FD] = fd;
    words[at + SINCE] = ++words[this.header + ATTACHMENTS]!;
    if (!this.#devices.hasHandles(words[at + DEVICE]!)) return;
    for (let step = 0; step < 2 * this.#ringSize; step++) {
      const place = this.#nextPlace();
      if (words[this.#ring + place] !== 0 && !this.#evict(place)) continue;
      words[this.#ring + place] = index;
      words[at + PLACE] = place;
      words[at + RECENT] = 0;
      return;
    }
    // Everything in the ring is in use at this moment: this one keeps its descriptor until it is
    // forgotten.
  }

  /** Takes the descriptor out of the ring, so that it stays until the inode is forgotten. */
  #keep(index: number): void {
    const words = this.words;
    const at = this.table.at(index);
    words[at + STATE]! |= KEEP;
    if (words[at + PLACE] !== 0) words[this.#ring + words[at + PLACE]!] = 0;
    words[at + PLACE] = 0;
  }

  #nextPlace(): number {
    const words = this.words;
    const place = words[this.header + HAND]! + 1;
    const next = place > this.#ringSize ? 1 : place;
    words[this.header + HAND] = next;
    return next;
  }

  /** Frees a place of the ring, by closing the descriptor or by letting it stay without a place. */
  #evict(place: number): boolean {
    const words = this.words;
    const index = words[this.#ring + place]!;
    const at = this.table.at(index);
    if (words[at + RECENT] !== 0) {
      words[at + RECENT] = 0;
      return false;
    }
    if (!this.table.tryClose(index)) return false;
    const fd = words[at + FD]!;
    if (this.#canReopen(index, fd)) {
      this.#detach(index);
      if (words[at + RETAINED] === 0) words[this.header + EVICTED]!++;
    } else {
      this.#keep(index);
    }
    this.table.reopen(index);
    return true;
  }

  /**
   * Makes sure that the inode has a file handle and a name, without which it can't be opened again,
   * and notes when it was last changed.
   */
  #canReopen(index: number, fd: number): boolean {
    const { address, i32: words } = this.#stat;
    if (fstat(fd, address) < 0 || words[stat.st_nlink >> 2] === 0) return false;
    if (!this.#storeHandle(index, fd)) return false; // and it keeps its descriptor
    this.noteChange(index, this.#stat);
    return true;
  }

  /** Makes sure that the inode behind `fd` has a file handle that can be opened. */
  #storeHandle(index: number, fd: number): boolean {
    if (!this.#devices.hasHandles(this.words[this.table.at(index) + DEVICE]!)) return false;
    if (this.words[this.table.at(index) + HANDLE_BYTES] !== 0) return true;
    if (!takeHandle(fd, this.handle)) return false;
    this.setHandle(index);
    return true;
  }
}
