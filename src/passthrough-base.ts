// What all operations of the passthrough file system rest on: the shared state, the scratch memory
// of this worker, how a host file becomes an entry, and how a handle gets its descriptor.
//
// The operations are in passthrough-names.ts, passthrough-attributes.ts, passthrough-files.ts and
// passthrough-directories.ts, each a class that extends the one before; passthrough.ts is the
// whole.

import type { Activity } from "./activity.ts";
import { FUSE_NO_OPENDIR_SUPPORT, FUSE_NO_OPEN_SUPPORT, FUSE_WRITEBACK_CACHE } from "./abi-fuse.ts";
import {
  AT_SYMLINK_NOFOLLOW,
  O_ACCMODE,
  O_APPEND,
  O_CLOEXEC,
  O_CREAT,
  O_DIRECT,
  O_EXCL,
  O_NOCTTY,
  O_NOFOLLOW,
  O_PATH,
  O_RDWR,
  O_WRONLY,
  S_IFDIR,
  S_IFMT,
  stat,
} from "./abi-linux.ts";
import { EMFILE, ENFILE, ENOSYS } from "./errno.ts";
import { FileSystem, type Connection } from "./filesystem.ts";
import {
  DESCRIPTOR_CACHE_MIN,
  DESCRIPTOR_CACHE_SHARE,
  DESCRIPTOR_INODES_SHARE,
  DESCRIPTORS_RESERVED,
} from "./limits.ts";
import { cstring, smallMemory, type Address, type Memory } from "./memory.ts";
import type { PassthroughConfig } from "./passthrough-config.ts";
import type { Credentials } from "./passthrough-credentials.ts";
import { HandleTable, type HandleAreas } from "./passthrough-handles.ts";
import { InodeTable, type InodeAreas } from "./passthrough-inodes.ts";
import { LockTable, type LockAreas } from "./passthrough-locks.ts";
import { ProcFds } from "./passthrough-proc.ts";
import type { AttrReply, EntryOut } from "./reply.ts";
import { SharedLayout } from "./shared-table.ts";
import { close, fstat, newfstatat, openat } from "./syscall.ts";

/** Where the parts of the shared state lie. */
export interface PassthroughAreas {
  readonly inodes: InodeAreas;
  readonly handles: HandleAreas;
  readonly locks: LockAreas;
}

/** Lays the shared state out. `descriptors` is the most that the process may have open. */
export function passthroughAreas(layout: SharedLayout, descriptors: number): PassthroughAreas {
  const ring = Math.floor(descriptors * DESCRIPTOR_CACHE_SHARE);
  return {
    inodes: InodeTable.areas(layout, Math.max(DESCRIPTOR_CACHE_MIN, ring)),
    handles: HandleTable.areas(layout),
    locks: LockTable.areas(layout),
  };
}

/** What a worker is given to serve the same files as the others. Plain data. */
export interface PassthroughShare {
  readonly config: PassthroughConfig;
  readonly areas: PassthroughAreas;
  /** The most that the process may have open. */
  readonly descriptors: number;
  /** Of /proc/self/fd. */
  readonly procFd: number;
  /** Whether another file system keeps what the kernel has forgotten. */
  readonly dropsForgotten?: boolean;
}

/** The inodes that all threads share, for one of them. */
export function openInodes(memory: Memory, share: PassthroughShare, proc: ProcFds): InodeTable {
  const { config, areas, dropsForgotten = false } = share;
  const { mntid, useHostIno, inodeFileHandles: fileHandles, handleKey } = config;
  const options = { fileHandles, mntid, useHostIno, dropsForgotten, handleKey };
  return new InodeTable(memory, areas.inodes, options, proc);
}

/** What the passthrough file systems that one thread serves have in common. */
export interface ServingThread {
  readonly credentials: Credentials;
  readonly activity: Activity;
  /** Gets the main thread to look after the waiters for locks. */
  locksChanged(): void;
  /**
   * Gives up cached descriptors of the other file systems, when the process has run out of them.
   * False if there are none to give.
   */
  relieve(): boolean;
}

export const EMPTY = cstring("");
export const DOT = cstring(".");

// Scratch memory of the thread, for all file systems that it serves.
const statScratch = smallMemory(stat.sizeof);

export abstract class PassthroughBase extends FileSystem {
  protected readonly config: PassthroughConfig;
  protected readonly proc: ProcFds;
  protected readonly inodes: InodeTable;
  protected readonly handles: HandleTable;
  protected readonly locks: LockTable;
  protected readonly thread: ServingThread;
  protected readonly credentials: Credentials;
  protected readonly stat: Memory = statScratch;
  /**
   * What OPEN and OPENDIR answer where there are no handles: ENOSYS, by which the kernel stops
   * asking, only if it is known to take it so.
   */
  protected withoutOpen = 0;
  protected withoutOpendir = 0;
  /** Whether the kernel collects writes. */
  protected collects = false;
  /** The most that the process may have open. */
  readonly descriptors: number;
  /**
   * The numbers of descriptors at which requests fail, since the kernel gives the lowest that is
   * free.
   */
  readonly #inodesEnd: number;
  readonly #filesEnd: number;

  /**
   * To be made on the thread that serves with it, in the memory that `share.areas` was laid out
   * for.
   */
  constructor(memory: Memory, share: PassthroughShare, thread: ServingThread) {
    super();
    this.thread = thread;
    this.credentials = thread.credentials;
    const { config, areas } = share;
    this.config = config;
    this.descriptors = share.descriptors;
    this.#inodesEnd = this.descriptors * DESCRIPTOR_INODES_SHARE;
    this.#filesEnd = Math.max(this.#inodesEnd, this.descriptors - DESCRIPTORS_RESERVED);
    this.proc = new ProcFds(share.procFd);
    this.inodes = openInodes(memory, share, this.proc);
    if (config.handleKey !== null) this.shownNodes = this.inodes;
    this.handles = new HandleTable(memory, areas.handles);
    this.locks = new LockTable(memory, areas.locks, this.inodes, () => thread.locksChanged());
  }

  override connected({ flags }: Connection, _device: number): void {
    this.withoutOpen = flags & FUSE_NO_OPEN_SUPPORT ? -ENOSYS : 0;
    this.withoutOpendir = flags & FUSE_NO_OPENDIR_SUPPORT ? -ENOSYS : 0;
    this.collects = (flags & FUSE_WRITEBACK_CACHE) !== 0;
  }

  /** openat(2) that gives up cached descriptors when the process has run out of them. */
  protected openAt(dirfd: number, path: Address, flags: number, mode: number): number {
    let fd = this.#tryOpen(dirfd, path, flags | O_CLOEXEC, mode);
    while ((fd === -EMFILE || fd === -ENFILE) && (this.inodes.relieve() || this.thread.relieve()))
      fd = this.#tryOpen(dirfd, path, flags | O_CLOEXEC, mode);
    return fd;
  }

  #tryOpen(dirfd: number, path: Address, flags: number, mode: number): number {
    const fd = openat(dirfd, path, flags, mode);
    // What was just created can't be refused any more.
    if (fd < this.#inodesEnd || flags & O_CREAT) return fd;
    if (fd < this.#filesEnd && !(flags & O_PATH)) return fd;
    close(fd);
    return -EMFILE;
  }

  /**
   * Opens the file behind the O_PATH descriptor `fd` anew. The magic link must be followed: no
   * O_NOFOLLOW.
   */
  protected reopen(fd: number, flags: number): number {
    return this.openAt(this.proc.dirfd, this.proc.name(fd), flags & ~O_NOFOLLOW, 0);
  }

  /** The flags to open a host file with when the caller opened it with `flags`. */
  protected hostFlags(flags: number): number {
    let host = flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_NOFOLLOW);
    if (!this.config.allowDirectIo) host &= ~O_DIRECT;
    if (this.collects) {
      // The kernel reads pages to fill them up, and says itself where appended data goes.
      if ((host & O_ACCMODE) === O_WRONLY) host = (host & ~O_ACCMODE) | O_RDWR;
      host &= ~O_APPEND;
    }
    return host;
  }

  /**
   * Looks `name` up in the directory `dirfd` and fills `entry`; the lookup count goes up by 1. A
   * file that the kernel knows is recognised without opening it. That is tried as long as it is
   * successful, because most who look things up again do it with many.
   */
  protected enter(dirfd: number, name: Address, entry: EntryOut): number {
    const { inodes } = this;
    if (inodes.wasKnown) {
      const { moment } = inodes;
      const result = newfstatat(dirfd, name, this.stat.address, AT_SYMLINK_NOFOLLOW);
      if (result < 0) return result;
      const nodeid = inodes.recall(this.stat, moment);
      if (nodeid !== 0) return this.#show(nodeid, entry);
    }
    if (inodes.identifies) {
      const result = inodes.identify(dirfd, name, this.stat);
      const nodeid = result > 0 ? inodes.rememberIdentified(this.stat) : result;
      if (nodeid !== 0) return nodeid < 0 ? nodeid : this.#show(nodeid, entry);
    }
    const fd = this.openAt(dirfd, name, O_PATH | O_NOFOLLOW, 0);
    return fd < 0 ? fd : this.enterFd(fd, entry);
  }

  /**
   * The same for the O_PATH descriptor `fd`, which it takes over. Returns the nodeid, or -errno.
   */
  protected enterFd(fd: number, entry: EntryOut): number {
    fstat(fd, this.stat.address);
    const nodeid = this.inodes.remember(fd, this.stat);
    return nodeid < 0 ? nodeid : this.#show(nodeid, entry);
  }

  #show(nodeid: number, entry: EntryOut): number {
    const isDirectory = (this.stat.view.getUint32(stat.st_mode, true) & S_IFMT) === S_IFDIR;
    const { config } = this;
    entry.nodeid = nodeid;
    entry.generation = this.inodes.generation(nodeid);
    entry.entryTimeout = isDirectory ? config.dirEntryTimeout : config.entryTimeout;
    entry.attrTimeout = this.#attrTimeout(nodeid, isDirectory);
    this.showIno(nodeid);
    entry.attr.copyStat(this.stat);
    return nodeid;
  }

  /** Puts what fstat found in `stat` into the reply. */
  protected showAttr(nodeid: number, out: AttrReply): void {
    const isDirectory = this.inodes.type(nodeid) === S_IFDIR;
    out.attrTimeout = this.#attrTimeout(nodeid, isDirectory);
    this.showIno(nodeid);
    out.attr.copyStat(this.stat);
  }

  #attrTimeout(nodeid: number, isDirectory: boolean): number {
    if (isDirectory) return this.config.dirAttrTimeout;
    return this.inodes.isMappable(nodeid) ? 0 : this.config.attrTimeout;
  }

  /** Replaces the host's inode number in `stat` by the one that is unique over the mount. */
  protected showIno(nodeid: number): void {
    const offset = this.inodes.inoOffset(nodeid);
    if (offset !== 0) this.stat.i32[(stat.st_ino >> 2) + 1]! ^= offset;
  }

  /**
   * The descriptor of an acquired handle, opened now if it was not needed before. Returns it, or
   * -errno.
   */
  protected handleFd(fh: number, nodeid: number): number {
    const open = this.handles.fd(fh);
    if (open >= 0) return open;
    const inode = this.inodes.acquire(nodeid);
    const fd = inode < 0 ? inode : this.reopen(inode, this.handles.flags(fh));
    this.inodes.release(nodeid);
    return fd < 0 ? fd : this.handles.setFd(fh, fd);
  }
}
