// Operations on the contents of files: opening, reading, writing, locking.
//
// Where the kernel allows it, files are opened for FUSE passthrough: the kernel then reads, writes
// and maps the host file by itself. That is decided once for an inode and holds for all who have it
// open, because the kernel refuses a mixture. A file opened so for reading has no descriptor here
// until one is needed.

import {
  FOPEN_DIRECT_IO,
  FOPEN_KEEP_CACHE,
  FOPEN_PARALLEL_DIRECT_WRITES,
  FOPEN_PASSTHROUGH,
  FUSE_OPEN_KILL_SUIDGID,
  FUSE_PASSTHROUGH,
  FUSE_RELEASE_FLOCK_UNLOCK,
  FUSE_WRITE_KILL_SUIDGID,
  MAX_RW_COUNT,
} from "./abi-fuse.ts";
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  FS_IOC_FSGETXATTR,
  FS_IOC_FSSETXATTR,
  FS_IOC_GETFLAGS,
  FS_IOC_SETFLAGS,
  F_SETFL,
  F_UNLCK,
  O_ACCMODE,
  O_APPEND,
  O_CREAT,
  O_DIRECT,
  O_EXCL,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  O_TMPFILE,
  O_TRUNC,
  O_WRONLY,
  S_IFDIR,
  S_IFREG,
  fsxattr,
  pollfd,
  stat,
} from "./abi-linux.ts";
import {
  EAGAIN,
  EBADF,
  EEXIST,
  EFBIG,
  EINVAL,
  EISDIR,
  ENOSPC,
  ENOSYS,
  ENOTTY,
  ENXIO,
  EPERM,
} from "./errno.ts";
import {
  REPLY_LATER,
  type Connection,
  type Context,
  type DataIn,
  type FileLock,
  type LockOwner,
} from "./filesystem.ts";
import { FILE_OFFSET_MAX } from "./limits.ts";
import { smallMemory } from "./memory.ts";
import { Notifier } from "./notify.ts";
import { PassthroughAttributes } from "./passthrough-attributes.ts";
import { Backings } from "./passthrough-backings.ts";
import { DOT } from "./passthrough-base.ts";
import type { DataOut, EntryOut, OpenOut } from "./reply.ts";
import { readU64, writeU64, type Bytes, type Name } from "./request.ts";
import {
  close,
  copy_file_range,
  dup,
  fallocate,
  fcntl,
  fdatasync,
  fstat,
  fsync,
  ioctl,
  lseek,
  ppoll,
} from "./syscall.ts";

// Scratch memory of the thread, for all file systems that it serves.
const offsets = smallMemory(16);
const pollScratch = smallMemory(pollfd.sizeof);
const ioctlScratch = smallMemory(64);

/** Flags of an open file that can be changed, and that say how it is read and written. */
const CHANGEABLE_FLAGS = O_APPEND | O_DIRECT;

export abstract class PassthroughFiles extends PassthroughAttributes {
  readonly #backings = new Backings();
  #notifier: Notifier | undefined;
  readonly #offsets = offsets;
  readonly #poll = pollScratch;
  readonly #ioctl = ioctlScratch;
  /** Whether closing a descriptor can report an error that the caller must hear of. */
  protected closeReports = true;

  override connected(connection: Connection, device: number): void {
    super.connected(connection, device);
    if (connection.flags2 & FUSE_PASSTHROUGH) this.#backings.device = device;
    if (device >= 0) this.#notifier = new Notifier(device, connection.translation);
  }

  protected override closeBacking(id: number): void {
    this.#backings.close(id);
  }

  // --- Opening and closing ---

  override open(
    context: Context,
    nodeid: number,
    flags: number,
    fuseFlags: number,
    out: OpenOut,
  ): number {
    if (this.config.noOpen) return this.withoutOpen;
    if (this.config.sealSize && flags & O_TRUNC) return -EPERM;
    const inode = this.inodes.acquire(nodeid);
    const result = inode < 0 ? inode : this.#open(context, nodeid, inode, flags, fuseFlags, out);
    this.inodes.release(nodeid);
    return result;
  }

  #open(
    context: Context,
    nodeid: number,
    inode: number,
    flags: number,
    fuseFlags: number,
    out: OpenOut,
  ): number {
    const type = this.inodes.type(nodeid);
    // The kernel opens devices, FIFOs and sockets by itself. Whoever asks us to must not get there.
    if (type !== S_IFREG) return type === S_IFDIR ? -EISDIR : -ENXIO;
    // Only what reads needs no descriptor: with others the host may have something against it.
    const needsFd = this.#backings.device < 0 || (flags & (O_ACCMODE | O_TRUNC)) !== O_RDONLY;
    let fd = -1;
    if (needsFd) {
      if (fuseFlags & FUSE_OPEN_KILL_SUIDGID) {
        const killed = this.killSetIdBits(context, nodeid, inode);
        if (killed < 0) return killed;
      }
      fd = this.reopen(inode, this.hostFlags(flags));
      if (fd === -EPERM && this.collects && flags & O_APPEND) {
        // An append-only file: the host insists on O_APPEND, so the kernel must not collect writes.
        fd = this.reopen(inode, this.hostFlags(flags) | O_APPEND);
        out.openFlags = FOPEN_DIRECT_IO;
      }
      if (fd < 0) return fd;
    }
    const result = this.#finishOpen(nodeid, inode, fd, flags, out);
    if (result < 0 && fd >= 0) close(fd);
    // From now on the times may change without the kernel's FUSE noticing: it must not keep them.
    if (out.backingId > 0 && isMappable(flags)) this.tellChanged(nodeid);
    return result;
  }

  /** The kernel is not to keep the attributes that it has of an inode. */
  protected tellChanged(nodeid: number): void {
    this.#notifier?.invalInode(nodeid, -1);
  }

  /** The kernel is not to keep what it has read of a directory. */
  protected tellListChanged(nodeid: number): void {
    this.#notifier?.invalInode(nodeid, 0, 0);
  }

  /**
   * Makes the handle and says how the kernel is to use the file. Takes over `given`, -1 if there is
   * none, if it succeeds.
   */
  #finishOpen(nodeid: number, inode: number, given: number, flags: number, out: OpenOut): number {
    let fd = given;
    const usesKernel = this.#backings.device >= 0;
    const may = this.mayBack(nodeid);
    const backing = usesKernel ? this.inodes.openBacked(nodeid, inode, this.#backings, may) : -1;
    if (backing < 0 && fd < 0) fd = this.reopen(inode, this.hostFlags(flags));
    const opened = backing > 0 || fd >= 0;
    const fh = opened ? this.handles.open(nodeid, fd, this.hostFlags(flags)) : fd;
    if (fh < 0) {
      if (given < 0 && fd >= 0) close(fd);
      if (usesKernel) this.inodes.closeBacked(nodeid, this.#backings);
      return fh;
    }
    out.fh = fh;
    if ((flags & O_ACCMODE) !== O_RDONLY) this.inodes.countWriters(nodeid, 1);
    if (backing > 0) {
      out.openFlags = FOPEN_PASSTHROUGH;
      out.backingId = backing;
      if (isMappable(flags)) this.inodes.countMappable(nodeid, 1);
    } else {
      const { cache } = this.config;
      if (cache === "always") out.openFlags |= FOPEN_KEEP_CACHE;
      else if (cache !== "auto") out.openFlags |= FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    }
    return 0;
  }

  /** Whether the kernel may read and write the inode by itself if it is opened now. */
  protected mayBack(_nodeid: number): boolean {
    return true;
  }

  override create(
    context: Context,
    parent: number,
    name: Name,
    flags: number,
    mode: number,
    umask: number,
    fuseFlags: number,
    entry: EntryOut,
    out: OpenOut,
  ): number {
    if (this.config.noOpen) return -ENOSYS;
    const dirfd = this.inodes.acquire(parent);
    let fd = dirfd < 0 ? dirfd : this.credentials.assume(context, umask);
    let existed = false;
    try {
      // O_NONBLOCK: if it is a FIFO by now, opening must not wait for its other end.
      const host = this.hostFlags(flags) | O_CREAT | O_NOFOLLOW | O_NONBLOCK;
      if (fd >= 0) fd = this.openAt(dirfd, name.address, host | O_EXCL, mode);
      if (fd === -ENOSPC && this.settled())
        fd = this.openAt(dirfd, name.address, host | O_EXCL, mode);
      if (fd === -EEXIST && !(flags & O_EXCL)) {
        existed = true; // Somebody was faster, on the host.
        const truncates = this.config.sealSize && (flags & O_TRUNC) !== 0;
        fd = truncates ? -EPERM : this.openAt(dirfd, name.address, host, mode);
      }
    } finally {
      this.credentials.restore(context);
    }
    const kill = existed && (fuseFlags & FUSE_OPEN_KILL_SUIDGID) !== 0;
    const result = fd < 0 ? fd : this.#enterOpened(context, fd, flags, kill, entry, out);
    if (result < 0 && fd >= 0) {
      if (!existed) this.takeBack(fd, dirfd, name.address, 0);
      close(fd);
    }
    this.inodes.release(parent);
    return result;
  }

  override tmpfile(
    context: Context,
    parent: number,
    flags: number,
    mode: number,
    umask: number,
    entry: EntryOut,
    out: OpenOut,
  ): number {
    const dirfd = this.inodes.acquire(parent);
    let fd = dirfd < 0 ? dirfd : this.credentials.assume(context, umask);
    try {
      const host = this.hostFlags(flags & ~O_TMPFILE) | O_TMPFILE;
      if (fd >= 0) fd = this.openAt(dirfd, DOT.address, host | (flags & O_EXCL), mode);
    } finally {
      this.credentials.restore(context);
    }
    const result = fd < 0 ? fd : this.#enterOpened(context, fd, flags, false, entry, out);
    if (result < 0 && fd >= 0) close(fd);
    this.inodes.release(parent);
    return result;
  }

  /**
   * Enters the file that was just opened as `fd`, which it takes over if it succeeds; `kill` takes
   * privileges off.
   */
  #enterOpened(
    context: Context,
    fd: number,
    flags: number,
    kill: boolean,
    entry: EntryOut,
    out: OpenOut,
  ): number {
    const path = this.reopen(fd, O_PATH);
    let result = path < 0 ? path : this.label(context, path);
    let nodeid = 0;
    if (result >= 0) {
      nodeid = this.enterFd(path, entry);
      result = nodeid;
    } else if (path >= 0) {
      close(path);
    }
    if (result >= 0 && this.inodes.type(nodeid) !== S_IFREG) {
      this.forget(nodeid, 1);
      result = -ENXIO;
    }
    if (result < 0) return result;
    const inode = this.inodes.acquire(nodeid);
    // With O_TRUNC, in case that the file was there after all.
    result = inode >= 0 && kill ? this.killSetIdBits(context, nodeid, inode) : inode;
    if (result >= 0) result = this.#finishOpen(nodeid, inode, fd, flags, out);
    if (result >= 0 && this.inodes.isMappable(nodeid)) entry.attrTimeout = 0;
    this.inodes.release(nodeid);
    if (result < 0) this.forget(nodeid, 1);
    return result;
  }

  override release(
    _context: Context,
    nodeid: number,
    fh: number,
    _flags: number,
    releaseFlags: number,
    _owner: LockOwner,
  ): number {
    if (this.config.noOpen) return -ENOSYS;
    this.locks.dropHandle(nodeid, fh);
    this.#countRelease(nodeid, fh);
    const result = this.handles.close(fh, nodeid);
    if (releaseFlags & FUSE_RELEASE_FLOCK_UNLOCK) this.locks.flockDropped();
    return result;
  }

  #countRelease(nodeid: number, fh: number): void {
    if (!this.handles.acquire(fh, nodeid)) return;
    const flags = this.handles.flags(fh);
    if ((flags & O_ACCMODE) !== O_RDONLY) this.inodes.countWriters(nodeid, -1);
    if (this.#backings.device >= 0) {
      if (this.inodes.isBacked(nodeid) && isMappable(flags)) this.inodes.countMappable(nodeid, -1);
      this.inodes.closeBacked(nodeid, this.#backings);
    }
    this.handles.release(fh);
  }

  /**
   * Counts an acquired handle that only reads, and is not backed, as one of another inode: see
   * overlay-layers.ts.
   */
  protected moveHandle(fh: number, from: number, to: number): void {
    if (this.#backings.device >= 0) {
      this.inodes.openBacked(to, -1, this.#backings, false);
      this.inodes.closeBacked(from, this.#backings);
    }
    this.handles.setInode(fh, to);
  }

  override flush(_context: Context, nodeid: number, fh: number, owner: LockOwner): number {
    this.locks.drop(nodeid, owner);
    // Where nobody's locks have to be dropped either, the kernel need not ask again.
    if (!this.closeReports) return this.config.locks ? 0 : -ENOSYS;
    if (this.config.noOpen) return 0;
    // Some file systems (NFS) write back when a descriptor is closed, and only then say what went
    // wrong.
    if (!this.handles.acquire(fh, nodeid)) return -EBADF;
    const fd = this.handles.fd(fh);
    const copy = fd < 0 ? -1 : dup(fd);
    this.handles.release(fh);
    return copy < 0 ? 0 : close(copy);
  }

  /**
   * The descriptor to use for a request, pinned; -errno if there is none. `done` has to follow with
   * what this returned. Without handles (no-open) the file is opened for the one request.
   */
  #use(nodeid: number, fh: number, flags: number): number {
    if (this.config.noOpen) {
      const inode = this.inodes.acquire(nodeid);
      const isFile = inode >= 0 && this.inodes.type(nodeid) === S_IFREG;
      const fd = inode < 0 ? inode : isFile ? this.reopen(inode, flags) : -EBADF;
      this.inodes.release(nodeid);
      return fd;
    }
    if (!this.handles.acquire(fh, nodeid)) return -EBADF;
    const fd = this.handleFd(fh, nodeid);
    if (fd < 0) this.handles.release(fh);
    return fd;
  }

  #done(fh: number, fd: number): void {
    if (fd < 0) return;
    if (this.config.noOpen) close(fd);
    else this.handles.release(fh);
  }

  // --- Reading and writing ---

  /** What fcntl(2), F_SETFL, changed on the mount is changed on the host when it matters. */
  #followFlags(fh: number, fd: number, flags: number): void {
    if (this.config.noOpen) return;
    const wanted = this.hostFlags(flags) & CHANGEABLE_FLAGS;
    const before = this.handles.flags(fh);
    if ((before & CHANGEABLE_FLAGS) === wanted) return;
    if (fcntl(fd, F_SETFL, wanted) === 0)
      this.handles.setFlags(fh, (before & ~CHANGEABLE_FLAGS) | wanted);
  }

  override read(
    _context: Context,
    nodeid: number,
    fh: number,
    offset: number,
    flags: number,
    out: DataOut,
  ): number {
    if (offset > FILE_OFFSET_MAX) return 0;
    const fd = this.#use(nodeid, fh, O_RDONLY);
    if (fd >= 0) this.#followFlags(fh, fd, flags);
    const result = fd < 0 ? fd : out.readFrom(fd, offset);
    this.#done(fh, fd);
    return result;
  }

  override write(
    context: Context,
    nodeid: number,
    fh: number,
    offset: number,
    flags: number,
    writeFlags: number,
    data: DataIn,
  ): number {
    if (offset + data.length > FILE_OFFSET_MAX) return -EFBIG;
    const fd = this.#use(nodeid, fh, O_WRONLY);
    if (fd < 0) return fd;
    this.#followFlags(fh, fd, flags);
    // Appending goes to the end that the file has by then, which the kernel need not know.
    const end = flags & O_APPEND ? Infinity : offset + data.length;
    let result = this.config.sealSize ? this.#checkSize(fd, end) : 0;
    if (result >= 0 && writeFlags & FUSE_WRITE_KILL_SUIDGID)
      result = this.killSetIdBits(context, nodeid, fd);
    if (result >= 0) result = data.writeTo(fd, offset);
    this.#done(fh, fd);
    return result;
  }

  /** EPERM if `end` lies beyond the end of a file whose size is sealed. */
  #checkSize(fd: number, end: number): number {
    const result = fstat(fd, this.stat.address);
    if (result < 0) return result;
    return end > readU64(this.stat.view, stat.st_size) ? -EPERM : 0;
  }

  override fsync(_context: Context, nodeid: number, fh: number, dataOnly: boolean): number {
    const fd = this.#use(nodeid, fh, O_RDONLY);
    const result = fd < 0 ? fd : dataOnly ? fdatasync(fd) : fsync(fd);
    this.#done(fh, fd);
    return result;
  }

  override fallocate(
    _context: Context,
    nodeid: number,
    fh: number,
    mode: number,
    offset: number,
    length: number,
  ): number {
    if (offset + length > FILE_OFFSET_MAX) return -EFBIG;
    const fd = this.#use(nodeid, fh, O_WRONLY);
    if (fd < 0) return fd;
    let result = 0;
    if (this.config.sealSize && !(mode & FALLOC_FL_KEEP_SIZE)) {
      const keepsSize = (mode & ~FALLOC_FL_ZERO_RANGE) === 0 || (mode & FALLOC_FL_PUNCH_HOLE) !== 0;
      result = keepsSize ? this.#checkSize(fd, offset + length) : -EPERM;
    }
    if (result >= 0) result = fallocate(fd, mode, offset, length);
    this.#done(fh, fd);
    return result;
  }

  override lseek(
    _context: Context,
    nodeid: number,
    fh: number,
    offset: number,
    whence: number,
  ): number {
    const fd = this.#use(nodeid, fh, O_RDONLY);
    const result = fd < 0 ? fd : lseek(fd, offset, whence);
    this.#done(fh, fd);
    return result;
  }

  override copyFileRange(
    _context: Context,
    nodeidIn: number,
    fhIn: number,
    offsetIn: number,
    nodeidOut: number,
    fhOut: number,
    offsetOut: number,
    length: number,
    flags: number,
  ): number {
    if (offsetOut + length > FILE_OFFSET_MAX) length = FILE_OFFSET_MAX - offsetOut;
    if (length < 0) return -EFBIG;
    const from = this.#use(nodeidIn, fhIn, O_RDONLY);
    const to = this.#use(nodeidOut, fhOut, O_WRONLY);
    let result = from < 0 ? from : to < 0 ? to : 0;
    if (result >= 0 && this.config.sealSize) result = this.#checkSize(to, offsetOut + length);
    if (result >= 0) {
      const { view, address } = this.#offsets;
      writeU64(view, 0, offsetIn);
      writeU64(view, 8, offsetOut);
      const size = Math.min(length, MAX_RW_COUNT);
      result = copy_file_range(from, address, to, address + 8, size, flags);
    }
    this.#done(fhOut, to);
    this.#done(fhIn, from);
    return result;
  }

  // --- Locks ---

  override getlk(
    _context: Context,
    nodeid: number,
    _fh: number,
    owner: LockOwner,
    lock: FileLock,
  ): number {
    if (!this.config.locks) return -ENOSYS;
    const index = this.#lockOwner(nodeid, owner);
    if (index < 0) return index;
    const { start, end, type } = lock;
    let result = this.locks.test(nodeid, index, lock);
    if (result === 0 && lock.type !== F_UNLCK) {
      // What stands in the way may be of a file that was just closed.
      this.thread.activity.settle();
      lock.start = start;
      lock.end = end;
      lock.type = type;
      result = this.locks.test(nodeid, index, lock);
    }
    this.locks.unpin(index);
    return result;
  }

  override setlk(
    context: Context,
    nodeid: number,
    fh: number,
    owner: LockOwner,
    lock: FileLock,
    isFlock: boolean,
    wait: boolean,
  ): number {
    if (!this.config.locks) return -ENOSYS;
    return isFlock
      ? this.#setFlock(context, nodeid, fh, lock, wait)
      : this.#setPosix(context, nodeid, fh, owner, lock, wait);
  }

  #setPosix(
    context: Context,
    nodeid: number,
    fh: number,
    owner: LockOwner,
    lock: FileLock,
    wait: boolean,
  ): number {
    if (lock.type === F_UNLCK && this.inodes.lockOwners(nodeid) === 0) return 0;
    const index = this.#lockOwner(nodeid, owner);
    if (index < 0) return index;
    let result = this.locks.set(index, fh, lock);
    if (result === -EAGAIN && !wait) {
      this.thread.activity.settle();
      result = this.locks.set(index, fh, lock);
    }
    if (result === -EAGAIN && wait) {
      result = this.locks.wait(context, index, -1, lock);
      if (result === 0) result = REPLY_LATER;
    }
    this.locks.unpin(index);
    return result;
  }

  #setFlock(context: Context, nodeid: number, fh: number, lock: FileLock, wait: boolean): number {
    const fd = this.#use(nodeid, fh, O_RDONLY);
    if (fd < 0) return fd;
    let result = this.locks.setFlock(fd, lock.type);
    if (result === -EAGAIN && !wait) {
      this.thread.activity.settle();
      result = this.locks.setFlock(fd, lock.type);
    }
    if (result === -EAGAIN && wait) {
      result = this.locks.wait(context, 0, fd, lock);
      if (result === 0) result = REPLY_LATER;
    }
    this.#done(fh, fd);
    return result;
  }

  /** The pinned record of a lock owner, made if there is none; -errno. */
  #lockOwner(nodeid: number, owner: LockOwner): number {
    const known = this.locks.find(nodeid, owner);
    if (known !== 0) return known;
    const inode = this.inodes.acquire(nodeid);
    let fd = inode;
    if (inode >= 0 && this.inodes.type(nodeid) !== S_IFREG) fd = -EINVAL;
    else if (inode >= 0) {
      fd = this.reopen(inode, O_RDWR);
      // Read locks can be had on what can't be written to.
      if (fd < 0) fd = this.reopen(inode, O_RDONLY);
    }
    const index = fd < 0 ? fd : this.locks.add(nodeid, owner, fd);
    this.inodes.release(nodeid);
    return index;
  }

  override interrupt(_context: Context, uniqueLow: number, uniqueHigh: number): number {
    this.locks.interrupt(uniqueLow, uniqueHigh);
    return 0;
  }

  // --- ioctl and poll ---

  /** The ioctls that read and change a file's flags; a directory's too. */
  override ioctl(
    _context: Context,
    nodeid: number,
    fh: number,
    _flags: number,
    command: number,
    data: Bytes,
    out: DataOut,
  ): number {
    const size = ioctlSize(command);
    if (size === 0) return -ENOTTY;
    const isSet = command === FS_IOC_SETFLAGS || command === FS_IOC_FSSETXATTR;
    if (isSet ? data.length < size : out.limit < size) return -EINVAL;
    const fd = this.#use(nodeid, fh, O_RDONLY);
    if (fd < 0) return fd;
    const memory = this.#ioctl;
    memory.bytes.fill(0);
    if (isSet) memory.bytes.set(data.bytes.subarray(0, size));
    const result = ioctl(fd, command, memory.address);
    this.#done(fh, fd);
    // The kernel keeps the attributes, though their ctime has changed.
    if (result >= 0 && isSet) this.tellChanged(nodeid);
    if (result < 0 || isSet) return result;
    out.bytes.set(memory.bytes.subarray(0, size));
    return size;
  }

  override poll(
    _context: Context,
    nodeid: number,
    fh: number,
    _kh: number,
    _flags: number,
    events: number,
  ): number {
    const fd = this.#use(nodeid, fh, O_RDONLY);
    if (fd < 0) return fd;
    const { view, address } = this.#poll;
    view.setInt32(pollfd.fd, fd, true);
    view.setUint16(pollfd.events, events, true);
    view.setUint16(pollfd.revents, 0, true);
    const result = ppoll(address, 1, 0);
    this.#done(fh, fd);
    return result < 0 ? result : view.getUint16(pollfd.revents, true);
  }
}

/** Whether a file opened with these flags can be mapped for writing. */
function isMappable(flags: number): boolean {
  return (flags & O_ACCMODE) === O_RDWR;
}

/**
 * How many bytes an ioctl that we pass on carries; 0 for others. Flags are 32 bits, whatever the
 * number says.
 */
function ioctlSize(command: number): number {
  switch (command) {
    case FS_IOC_GETFLAGS:
    case FS_IOC_SETFLAGS:
      return 4;
    case FS_IOC_FSGETXATTR:
    case FS_IOC_FSSETXATTR:
      return fsxattr.sizeof;
    default:
      return 0;
  }
}
