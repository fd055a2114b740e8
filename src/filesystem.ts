// What a file system is to the server: one method an operation, called with decoded arguments, that
// writes its answer into the objects it is handed and returns a number.
//
//   `>= 0`         success (what the number means is said at each method, if anything)
//   `-errno`       failure
//   REPLY_LATER    the answer comes from somewhere else: see `Context.device`
//
// Methods are called one after the other on a worker's thread; arguments and out objects are reused
// and must not be kept. Throwing means a bug: the request fails with EIO and the log says why.
//
// Lookup counts. Every EntryOut with a nodeid other than 0 that reaches the kernel adds one to the
// node's lookup count: from lookup, mknod, mkdir, symlink, link, create, tmpfile, and from
// readdirplus for every entry but `.` and `..`. `forget` takes counts off. A nodeid stays valid
// until its count is 0. The root, FUSE_ROOT_ID, is never forgotten.

import { ENOSYS, ESTALE } from "./errno.ts";
import type {
  AttrReply,
  DataOut,
  DirectoryOut,
  EntryOut,
  OpenOut,
  Reply,
  StatfsOut,
  StatxReply,
} from "./reply.ts";
import { Extensions, type Bytes, type Name } from "./request.ts";
import { pwrite64 } from "./syscall.ts";
import { Translation, type ShownNodes } from "./translation.ts";

/** The request is answered later, on `Context.device`, by `Context.uniqueLow` and `uniqueHigh`. */
export const REPLY_LATER = -0x80000000;

/** `fh` where the kernel names no open handle. */
export const NO_HANDLE = -1;

/** Who asks. */
export class Context {
  /**
   * Of the caller, for the operations that create something; may be FUSE_INVALID_UIDGID otherwise.
   */
  uid = 0;
  gid = 0;
  /** The calling thread, 0 if it is of another pid namespace. */
  pid = 0;
  /** The request's identity, for `interrupt` and for late answers. */
  uniqueLow = 0;
  uniqueHigh = 0;
  /**
   * The descriptor that a late answer is written to, a header without more in one write(2); -1 if
   * the transport has none.
   */
  device = -1;
  /** Of the creating operations: supplementary groups and security attributes. */
  readonly extensions = new Extensions();
  /** How what is answered is shown to the kernel; for file systems that pass requests on. */
  translation = new Translation();
}

/** Data to be written, as it lies in the request. */
export class DataIn {
  readonly bytes: Bytes;

  constructor(bytes: Bytes) {
    this.bytes = bytes;
  }

  get length(): number {
    return this.bytes.length;
  }

  /** Writes all of it to a file. Returns the number of bytes written, or -errno. */
  writeTo(fd: number, offset: number): number {
    return pwrite64(fd, this.bytes.address, this.bytes.length, offset);
  }
}

/** Which attributes to change (FATTR_* in `valid`), and to what. */
export class AttrChanges {
  valid = 0;
  fh = NO_HANDLE;
  size = 0;
  mode = 0;
  uid = 0;
  gid = 0;
  /** Whole seconds since 1970, and nanoseconds. */
  atime = 0;
  atimeNsec = 0;
  mtime = 0;
  mtimeNsec = 0;
  ctime = 0;
  ctimeNsec = 0;
}

/** Identifies whoever holds a lock: 64 arbitrary bits. */
export class LockOwner {
  low = 0;
  high = 0;
}

/**
 * struct fuse_file_lock: bytes `start` to `end`, both included; `end` is OFFSET_MAX for "to the
 * end".
 */
export class FileLock {
  start = 0;
  end = 0;
  /** F_RDLCK, F_WRLCK or F_UNLCK. */
  type = 0;
  pid = 0;
}

/** The largest offset; as a double it is 2**63. */
export const OFFSET_MAX = 2 ** 63;

/** What was agreed on at INIT. */
export interface Connection {
  readonly minor: number;
  /** Flags and flags2 that both sides have. */
  readonly flags: number;
  readonly flags2: number;
  /** The most that a WRITE or READ carries, in bytes. */
  readonly maxWrite: number;
  /** How nodeids are shown to the kernel, for notifications; as they are where this is missing. */
  readonly translation?: Translation | undefined;
}

/** What a file system wants of the kernel, out of what the kernel offers. */
export interface Wishes {
  /** INIT flags; those that the kernel does not offer are left out. */
  flags: number;
  flags2: number;
  /** How deep the backing file systems of FUSE passthrough may be stacked. */
  maxStackDepth: number;
  /** Seconds after which the kernel gives up on a request; 0 for never. */
  requestTimeout: number;
  /** The most requests that the kernel lets run in the background, and when it holds back. */
  maxBackground: number;
  congestionThreshold: number;
  /** Bytes to read ahead; the kernel's own limit if it is lower. */
  maxReadahead: number;
}

export abstract class FileSystem {
  /** Nodeids to show to the kernel in place of its own, if it is the only one that is served. */
  shownNodes: ShownNodes | undefined = undefined;

  /** Before the first request: ask for features in `wishes`. `offered…` is what the kernel has. */
  init(_wishes: Wishes, _offeredFlags: number, _offeredFlags2: number): void {}

  /**
   * What came of the wishes. Called on every worker before it serves. `device` is the worker's
   * descriptor of /dev/fuse; -1 on other transports.
   */
  connected(_connection: Connection, _device: number): void {}

  /** The mount is gone; no method is called any more. */
  destroy(): void {}

  /**
   * Finds `name` in directory `parent` and fills `entry`; adds 1 to the node's lookup count. With
   * FUSE_EXPORT_SUPPORT also `.` and `..`. ENOENT if there is none, or success with nodeid 0 and a
   * timeout so that the kernel remembers.
   */
  lookup(_context: Context, _parent: number, _name: Name, _entry: EntryOut): number {
    return -ENOSYS;
  }

  /**
   * LOOKUP of `.` in a node that `shownNodes` does not know: what an earlier daemon has shown as
   * `nodeid`. Fills `entry` as `lookup` does. ESTALE if there is none.
   */
  revive(_context: Context, _nodeid: number, _entry: EntryOut): number {
    return -ESTALE;
  }

  /** Takes `count` off the lookup count; it can't fail. */
  forget(_nodeid: number, _count: number): void {}

  /** `fh` is NO_HANDLE unless the caller has the file open. */
  getattr(_context: Context, _nodeid: number, _fh: number, _out: AttrReply): number {
    return -ENOSYS;
  }

  /** Changes what `changes.valid` names and gives all attributes as they are then. */
  setattr(_context: Context, _nodeid: number, _changes: AttrChanges, _out: AttrReply): number {
    return -ENOSYS;
  }

  /**
   * As getattr, with what `mask` (STATX_*) wants: the time of birth above all. `flags` is
   * AT_STATX_*.
   */
  statx(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _flags: number,
    _mask: number,
    _out: StatxReply,
  ): number {
    return -ENOSYS;
  }

  /** Returns the length of the target, written without a NUL. */
  readlink(_context: Context, _nodeid: number, _out: DataOut): number {
    return -ENOSYS;
  }

  /** Adds 1 to the new node's lookup count, as the others that create do. */
  symlink(
    _context: Context,
    _parent: number,
    _name: Name,
    _target: Name,
    _entry: EntryOut,
  ): number {
    return -ENOSYS;
  }

  /** `mode` holds the type; `umask` is to be applied unless a default ACL says otherwise. */
  mknod(
    _context: Context,
    _parent: number,
    _name: Name,
    _mode: number,
    _rdev: number,
    _umask: number,
    _entry: EntryOut,
  ): number {
    return -ENOSYS;
  }

  mkdir(
    _context: Context,
    _parent: number,
    _name: Name,
    _mode: number,
    _umask: number,
    _entry: EntryOut,
  ): number {
    return -ENOSYS;
  }

  unlink(_context: Context, _parent: number, _name: Name): number {
    return -ENOSYS;
  }

  rmdir(_context: Context, _parent: number, _name: Name): number {
    return -ENOSYS;
  }

  /** `flags` is RENAME_*. Lookup counts stay as they are. */
  rename(
    _context: Context,
    _parent: number,
    _name: Name,
    _newParent: number,
    _newName: Name,
    _flags: number,
  ): number {
    return -ENOSYS;
  }

  /** A further name for `nodeid`; adds 1 to its lookup count. */
  link(
    _context: Context,
    _nodeid: number,
    _newParent: number,
    _newName: Name,
    _entry: EntryOut,
  ): number {
    return -ENOSYS;
  }

  /**
   * `flags` is O_*, without O_CREAT and O_EXCL; `fuseFlags` is FUSE_OPEN_*. ENOSYS: no handles
   * needed.
   */
  open(
    _context: Context,
    _nodeid: number,
    _flags: number,
    _fuseFlags: number,
    _out: OpenOut,
  ): number {
    return 0;
  }

  /**
   * Makes and opens a regular file; opens it if it is there and `flags` has no O_EXCL. Lookup count
   * + 1.
   */
  create(
    _context: Context,
    _parent: number,
    _name: Name,
    _flags: number,
    _mode: number,
    _umask: number,
    _fuseFlags: number,
    _entry: EntryOut,
    _out: OpenOut,
  ): number {
    return -ENOSYS;
  }

  /** Makes and opens a file without a name in the directory's file system. Lookup count + 1. */
  tmpfile(
    _context: Context,
    _parent: number,
    _flags: number,
    _mode: number,
    _umask: number,
    _entry: EntryOut,
    _out: OpenOut,
  ): number {
    return -ENOSYS;
  }

  /** Returns the number of bytes; fewer than `out.limit` only at the end of the file. */
  read(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _offset: number,
    _flags: number,
    _out: DataOut,
  ): number {
    return -ENOSYS;
  }

  /** Returns the number of bytes written. `writeFlags` is FUSE_WRITE_*. */
  write(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _offset: number,
    _flags: number,
    _writeFlags: number,
    _data: DataIn,
  ): number {
    return -ENOSYS;
  }

  /**
   * A descriptor of the handle was closed: drop the owner's POSIX locks, report what went wrong.
   */
  flush(_context: Context, _nodeid: number, _fh: number, _owner: LockOwner): number {
    return -ENOSYS;
  }

  fsync(_context: Context, _nodeid: number, _fh: number, _dataOnly: boolean): number {
    return -ENOSYS;
  }

  /** The last descriptor of the handle is gone. The result is ignored. */
  release(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _flags: number,
    _releaseFlags: number,
    _owner: LockOwner,
  ): number {
    return 0;
  }

  opendir(_context: Context, _nodeid: number, _flags: number, _out: OpenOut): number {
    return 0;
  }

  /** Adds entries from cookie `offset` on (0: the beginning) until one does not fit. */
  readdir(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _offsetLow: number,
    _offsetHigh: number,
    _out: DirectoryOut,
  ): number {
    return -ENOSYS;
  }

  /** As readdir, with a looked-up entry for each; `.` and `..` have nodeid 0. */
  readdirplus(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _offsetLow: number,
    _offsetHigh: number,
    _out: DirectoryOut,
  ): number {
    return -ENOSYS;
  }

  releasedir(_context: Context, _nodeid: number, _fh: number, _flags: number): number {
    return 0;
  }

  fsyncdir(_context: Context, _nodeid: number, _fh: number, _dataOnly: boolean): number {
    return -ENOSYS;
  }

  statfs(_context: Context, _nodeid: number, _out: StatfsOut): number {
    return -ENOSYS;
  }

  /** `extraFlags` is FUSE_SETXATTR_*. */
  setxattr(
    _context: Context,
    _nodeid: number,
    _name: Name,
    _value: Bytes,
    _flags: number,
    _extraFlags: number,
  ): number {
    return -ENOSYS;
  }

  /**
   * Returns the size of the value. With `out.limit` 0 only that; ERANGE if the value does not fit.
   */
  getxattr(_context: Context, _nodeid: number, _name: Name, _out: DataOut): number {
    return -ENOSYS;
  }

  /** As getxattr; the names, each with a NUL behind it. */
  listxattr(_context: Context, _nodeid: number, _out: DataOut): number {
    return -ENOSYS;
  }

  removexattr(_context: Context, _nodeid: number, _name: Name): number {
    return -ENOSYS;
  }

  /** `mask` is R_OK, W_OK, X_OK. Not called on mounts with default_permissions. */
  access(_context: Context, _nodeid: number, _mask: number): number {
    return -ENOSYS;
  }

  /** Puts into `lock` one that stands in the way of it, or F_UNLCK in its type. */
  getlk(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _owner: LockOwner,
    _lock: FileLock,
  ): number {
    return -ENOSYS;
  }

  /** Sets or drops a lock. `isFlock`: a BSD lock of the handle; `wait`: until it can be had. */
  setlk(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _owner: LockOwner,
    _lock: FileLock,
    _isFlock: boolean,
    _wait: boolean,
  ): number {
    return -ENOSYS;
  }

  /**
   * The caller of request `unique` was hit by a signal: end it with EINTR if it waits. EAGAIN asks
   * to be told again, for when the request is known to be on its way but not here yet.
   */
  interrupt(_context: Context, _uniqueLow: number, _uniqueHigh: number): number {
    return 0;
  }

  /** Returns the number of the block on the device. */
  bmap(_context: Context, _nodeid: number, _blockSize: number, _block: number): number {
    return -ENOSYS;
  }

  /**
   * An ioctl whose sizes its number tells. `data` is what the caller passes in; up to `out.limit`
   * bytes go back. Returns their number; the ioctl's own result is 0.
   */
  ioctl(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _flags: number,
    _command: number,
    _data: Bytes,
    _out: DataOut,
  ): number {
    return -ENOSYS;
  }

  /** Returns the events (POLL*) that are ready out of `events`. ENOSYS: always ready. */
  poll(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _kh: number,
    _flags: number,
    _events: number,
  ): number {
    return -ENOSYS;
  }

  /** `mode` is FALLOC_FL_*. */
  fallocate(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _mode: number,
    _offset: number,
    _length: number,
  ): number {
    return -ENOSYS;
  }

  /** SEEK_DATA and SEEK_HOLE. Returns the offset. */
  lseek(_context: Context, _nodeid: number, _fh: number, _offset: number, _whence: number): number {
    return -ENOSYS;
  }

  /** Returns the number of bytes copied. */
  copyFileRange(
    _context: Context,
    _nodeidIn: number,
    _fhIn: number,
    _offsetIn: number,
    _nodeidOut: number,
    _fhOut: number,
    _offsetOut: number,
    _length: number,
    _flags: number,
  ): number {
    return -ENOSYS;
  }

  syncfs(_context: Context, _nodeid: number): number {
    return -ENOSYS;
  }

  /** DAX: maps part of a file into the window shared with the guest. */
  setupmapping(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _fileOffset: number,
    _length: number,
    _flags: number,
    _windowOffset: number,
  ): number {
    return -ENOSYS;
  }

  removemapping(
    _context: Context,
    _nodeid: number,
    _windowOffset: number,
    _length: number,
  ): number {
    return -ENOSYS;
  }

  /** The kernel's answer to a RETRIEVE notification. */
  notifyReply(
    _uniqueLow: number,
    _uniqueHigh: number,
    _nodeid: number,
    _offset: number,
    _data: Bytes,
  ): void {}
}

export type {
  AttrReply,
  Bytes,
  DataOut,
  DirectoryOut,
  EntryOut,
  Name,
  OpenOut,
  Reply,
  StatfsOut,
  StatxReply,
};
