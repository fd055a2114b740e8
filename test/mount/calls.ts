// System calls as the tests on mounts use them: by name, on strings and plain objects, so that they
// can be made in another process as well (actor.ts), and their results compared and printed.
//
// A path, a name and a stretch of data is a string of bytes: one character below 256 a byte. What
// fails gives -errno. Every descriptor that is opened here is kept in a list, until it is closed or
// `closeAll`.

import { dlopen, FFIType, read as peek, type Pointer } from "bun:ffi";
import { createHash } from "node:crypto";
import * as abi from "../../src/abi-linux.ts";
import { errnoName } from "../../src/errno.ts";
import { map, Memory, PROT_READ, PROT_WRITE, type Address } from "../../src/memory.ts";
import * as sys from "../../src/syscall.ts";

export const F_GETLK = 5;
export const F_SETLK = 6;
export const F_SETLKW = 7;
export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;
export const FS_IMMUTABLE_FL = 0x10;
export const FS_APPEND_FL = 0x20;
export const FS_NODUMP_FL = 0x40;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MS_SYNC = 4;

// What src/syscall.ts has no use for. libc keeps errno a thread; nothing runs between call and
// look.
const libc = dlopen("libc.so.6", {
  __errno_location: { args: [], returns: "ptr" },
  chdir: { args: ["u64"], returns: "i32" },
  getcwd: { args: ["u64", "u64"], returns: "u64" },
  lgetxattr: { args: ["u64", "u64", "u64", "u64"], returns: "i32" },
  llistxattr: { args: ["u64", "u64", "u64"], returns: "i32" },
  lremovexattr: { args: ["u64", "u64"], returns: "i32" },
  lsetxattr: { args: ["u64", "u64", "u64", "u64", "i32"], returns: "i32" },
  mmap: { args: ["u64", "u64", "i32", "i32", "i32", "u64"], returns: FFIType.i64_fast },
  msync: { args: ["u64", "u64", "i32"], returns: "i32" },
  sendfile: { args: ["i32", "i32", "u64", "u64"], returns: "i32" },
  siginterrupt: { args: ["i32", "i32"], returns: "i32" },
  truncate: { args: ["u64", "i64"], returns: "i32" },
}).symbols;
const errnoAddress = libc.__errno_location() as Pointer;
const checked = (result: number): number => (result === -1 ? -peek.i32(errnoAddress, 0) : result);

const BUFFER_SIZE = 4 << 20;
const buffer = map(BUFFER_SIZE);
const pathA = map(2 * abi.PATH_MAX);
const pathB = map(2 * abi.PATH_MAX);
const nameBuffer = map(4096);
const valueBuffer = map(2 * abi.XATTR_SIZE_MAX);
const record = map(4096);

function put(memory: Memory, text: string): Address {
  memory.bytes[Buffer.from(memory.bytes.buffer).write(text, 0, "latin1")] = 0;
  return memory.address;
}

function take(memory: Memory, length: number): string {
  return Buffer.from(memory.bytes.buffer, 0, length).toString("latin1");
}

const a = (path: string): Address => put(pathA, path);
const b = (path: string): Address => put(pathB, path);

/** The value of a call that must not fail. */
export function must<T>(result: T | number): T {
  if (typeof result === "number" && result < 0) throw new Error(errnoName(result));
  return result as T;
}

// Descriptors

const descriptors = new Set<number>();

function opened(fd: number): number {
  if (fd >= 0) descriptors.add(fd);
  return fd;
}

export function openat(dirfd: number, path: string, flags: number, mode = 0o644): number {
  return opened(sys.openat(dirfd, a(path), flags | abi.O_CLOEXEC, mode));
}
export const open = (path: string, flags: number, mode = 0o644): number =>
  openat(abi.AT_FDCWD, path, flags, mode);
export const dup = (fd: number): number => opened(sys.dup(fd));

export function close(fd: number): number {
  descriptors.delete(fd);
  return sys.close(fd);
}

export function closeAll(): void {
  for (const fd of descriptors) sys.close(fd);
  descriptors.clear();
}

/** A pipe of this process: the end to read from and the end to write to. */
export function pipe(): [number, number] {
  must(sys.pipe2(record.address, abi.O_CLOEXEC));
  const ends: [number, number] = [record.i32[0] ?? -1, record.i32[1] ?? -1];
  ends.forEach(opened);
  return ends;
}

/** 0 if the file can be opened, or -errno. */
export function tryOpen(path: string, flags: number, mode = 0o644): number {
  const fd = open(path, flags, mode);
  if (fd >= 0) close(fd);
  return Math.min(fd, 0);
}

// Data

const clamp = (size: number): number => Math.min(size, BUFFER_SIZE);
/** Data as a string, but a digest of what is long. */
const result = (length: number): string | number =>
  length < 0 ? length : length <= 256 ? take(buffer, length) : digest(length);
/** What a read of `data` gives. */
export const shown = (data: string): string | number => {
  put(buffer, data);
  return result(data.length);
};
const digest = (length: number): string =>
  `${length} bytes, ${createHash("md5").update(buffer.bytes.subarray(0, length)).digest("hex")}`;

export const read = (fd: number, size: number): string | number =>
  result(sys.read(fd, buffer.address, clamp(size)));
export const pread = (fd: number, size: number, offset: number): string | number =>
  result(sys.pread64(fd, buffer.address, clamp(size), offset));
export const write = (fd: number, data: string): number =>
  sys.write(fd, put(buffer, data), data.length);
export const pwrite = (fd: number, data: string, offset: number): number =>
  sys.pwrite64(fd, put(buffer, data), data.length, offset);
/** Reads and writes with the memory `skew` bytes off a page's beginning, for O_DIRECT. */
export const readSkewed = (fd: number, size: number, offset: number, skew: number): number =>
  sys.pread64(fd, buffer.address + skew, size, offset);
export const writeSkewed = (fd: number, size: number, offset: number, skew: number): number =>
  sys.pwrite64(fd, buffer.address + skew, size, offset);

/** `pieces` in one writev(2). */
export function writev(fd: number, pieces: readonly string[]): number {
  let offset = 0;
  put(buffer, pieces.join(""));
  for (const [index, piece] of pieces.entries()) {
    const at = index * abi.iovec.sizeof;
    record.view.setBigUint64(at, BigInt(buffer.address + offset), true);
    record.view.setBigUint64(at + 8, BigInt(piece.length), true);
    offset += piece.length;
  }
  return sys.writev(fd, record.address, pieces.length);
}

export const lseek = (fd: number, offset: number | string, whence: number): number =>
  sys.lseek(fd, typeof offset === "string" ? BigInt(offset) : offset, whence);
export const fsync = (fd: number): number => sys.fsync(fd);
export const fdatasync = (fd: number): number => sys.fdatasync(fd);
export const syncfs = (fd: number): number => sys.syncfs(fd);
export const ftruncate = (fd: number, size: number): number => sys.ftruncate(fd, size);
export const truncate = (path: string, size: number): number =>
  checked(libc.truncate(a(path), size));
export const fallocate = (fd: number, mode: number, offset: number, length: number): number =>
  sys.fallocate(fd, mode, offset, length);

export function copyFileRange(
  fdIn: number,
  offsetIn: number,
  fdOut: number,
  offsetOut: number,
  size: number,
): number {
  record.view.setBigInt64(0, BigInt(offsetIn), true);
  record.view.setBigInt64(8, BigInt(offsetOut), true);
  return sys.copy_file_range(fdIn, record.address, fdOut, record.address + 8, size, 0);
}
export const sendfile = (fdOut: number, fdIn: number, size: number): number =>
  checked(libc.sendfile(fdOut, fdIn, 0, size));
export const splice = (fdIn: number, fdOut: number, size: number): number =>
  sys.splice(fdIn, 0, fdOut, 0, size, 0);

function mapped<T>(
  fd: number,
  offset: number,
  length: number,
  protection: number,
  flags: number,
  use: (memory: Memory) => T,
): T | number {
  const address = checked(Number(libc.mmap(0, length, protection, flags, fd, offset)));
  if (address < 0) return address;
  const value = use(new Memory(address, length));
  sys.munmap(address, length);
  return value;
}

/**
 * Reads through a mapping. `offset` is a multiple of the page size; the file must reach that far.
 */
export function mmapRead(fd: number, offset: number, length: number): string | number {
  return mapped(fd, offset, length, PROT_READ, MAP_SHARED, (memory) => {
    buffer.bytes.set(memory.bytes);
    return result(length);
  });
}

/** Writes through a shared mapping, or through a private one, and what the mapping then shows. */
export function mmapWrite(
  fd: number,
  offset: number,
  data: string,
  { isPrivate = false, sync = false } = {},
): string | number {
  const flags = isPrivate ? MAP_PRIVATE : MAP_SHARED;
  return mapped(fd, offset, data.length, PROT_READ | PROT_WRITE, flags, (memory) => {
    put(memory, data.slice(0, -1));
    memory.bytes[data.length - 1] = data.charCodeAt(data.length - 1);
    if (sync) must(checked(libc.msync(memory.address, data.length, MS_SYNC)));
    buffer.bytes.set(memory.bytes);
    return result(data.length);
  });
}

// Attributes

export type Time = readonly [seconds: number, nanoseconds: number];

export interface Stat {
  readonly dev: number;
  readonly ino: string;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly size: number;
  readonly blksize: number;
  readonly blocks: number;
  readonly atime: Time;
  readonly mtime: Time;
  readonly ctime: Time;
}

const field = (layout: object, name: string): number =>
  (layout as Record<string, number>)[name] ?? 0;
const big = (offset: number): number => Number(record.view.getBigInt64(offset, true));

function takeStat(error: number): Stat | number {
  if (error < 0) return error;
  const { stat } = abi;
  const word = (offset: number): number => record.view.getUint32(offset, true);
  const time = (name: string): Time => [
    big(field(stat, `st_${name}`)),
    big(field(stat, `st_${name}_nsec`)),
  ];
  return {
    dev: big(stat.st_dev),
    ino: record.view.getBigUint64(stat.st_ino, true).toString(),
    mode: word(stat.st_mode),
    nlink: word(stat.st_nlink),
    uid: word(stat.st_uid),
    gid: word(stat.st_gid),
    rdev: big(stat.st_rdev),
    size: big(stat.st_size),
    blksize: word(stat.st_blksize),
    blocks: big(stat.st_blocks),
    atime: time("atime"),
    mtime: time("mtime"),
    ctime: time("ctime"),
  };
}

export const stat = (path: string): Stat | number =>
  takeStat(sys.newfstatat(abi.AT_FDCWD, a(path), record.address, 0));
export const lstat = (path: string): Stat | number =>
  takeStat(sys.newfstatat(abi.AT_FDCWD, a(path), record.address, abi.AT_SYMLINK_NOFOLLOW));
export const fstat = (fd: number): Stat | number => takeStat(sys.fstat(fd, record.address));

/** The birth time, and the type and size as statx(2) tells them. */
export function statx(path: string): { mask: number; size: number; btime: Time } | number {
  const { statx: layout, statx_timestamp } = abi;
  const mask = abi.STATX_BASIC_STATS | abi.STATX_BTIME;
  const error = sys.statx(abi.AT_FDCWD, a(path), 0, mask, record.address);
  if (error < 0) return error;
  const nanoseconds = layout.stx_btime + statx_timestamp.tv_nsec;
  return {
    mask: record.view.getUint32(layout.stx_mask, true) & mask,
    size: big(layout.stx_size),
    btime: [big(layout.stx_btime), record.view.getUint32(nanoseconds, true)],
  };
}

export function statfs(path: string): Record<string, number> | number {
  const fd = sys.openat(abi.AT_FDCWD, a(path), abi.O_PATH, 0);
  if (fd < 0) return fd;
  const error = sys.fstatfs(fd, record.address);
  sys.close(fd);
  if (error < 0) return error;
  const names = ["f_bsize", "f_blocks", "f_bfree", "f_files", "f_ffree", "f_namelen", "f_frsize"];
  return Object.fromEntries(names.map((name) => [name, big(field(abi.statfs, name))]));
}

export const access = (path: string, mode: number): number =>
  sys.faccessat(abi.AT_FDCWD, a(path), mode);
export const eaccess = (path: string, mode: number): number =>
  sys.faccessat2(abi.AT_FDCWD, a(path), mode, abi.AT_EACCESS);
export const chmod = (path: string, mode: number): number =>
  sys.fchmodat2(abi.AT_FDCWD, a(path), mode, 0);
export const lchmod = (path: string, mode: number): number =>
  sys.fchmodat2(abi.AT_FDCWD, a(path), mode, abi.AT_SYMLINK_NOFOLLOW);
export const fchmod = (fd: number, mode: number): number => sys.fchmod(fd, mode);
export const chown = (path: string, uid: number, gid: number): number =>
  sys.fchownat(abi.AT_FDCWD, a(path), uid, gid, 0);
export const lchown = (path: string, uid: number, gid: number): number =>
  sys.fchownat(abi.AT_FDCWD, a(path), uid, gid, abi.AT_SYMLINK_NOFOLLOW);

export const NOW: Time = [0, abi.UTIME_NOW];
export const OMIT: Time = [0, abi.UTIME_OMIT];

function putTimes(times: readonly [Time, Time]): Address {
  for (const [index, value] of times.flat().entries())
    record.view.setBigInt64(index * 8, BigInt(value), true);
  return record.address;
}

/** Sets the times of access and modification; without `times`, both to now. */
export const utimens = (path: string, times?: readonly [Time, Time], flags = 0): number =>
  sys.utimensat(abi.AT_FDCWD, a(path), times === undefined ? 0 : putTimes(times), flags);
export const futimens = (fd: number, times: readonly [Time, Time]): number =>
  sys.utimensat(fd, 0, putTimes(times), 0);

// Names

export const mkdir = (path: string, mode = 0o755): number =>
  sys.mkdirat(abi.AT_FDCWD, a(path), mode);
export const mknod = (path: string, mode: number, device = 0): number =>
  sys.mknodat(abi.AT_FDCWD, a(path), mode, device);
export const symlink = (target: string, path: string): number =>
  sys.symlinkat(a(target), abi.AT_FDCWD, b(path));
export const link = (path: string, newPath: string, flags = 0): number =>
  sys.linkat(abi.AT_FDCWD, a(path), abi.AT_FDCWD, b(newPath), flags);
export const unlink = (path: string): number => sys.unlinkat(abi.AT_FDCWD, a(path), 0);
export const rmdir = (path: string): number =>
  sys.unlinkat(abi.AT_FDCWD, a(path), abi.AT_REMOVEDIR);
export const rename = (path: string, newPath: string, flags = 0): number =>
  sys.renameat2(abi.AT_FDCWD, a(path), abi.AT_FDCWD, b(newPath), flags);
export const chdir = (path: string): number => checked(libc.chdir(a(path)));
export const getcwd = (): string | number => {
  if (Number(libc.getcwd(buffer.address, abi.PATH_MAX)) === 0) return -peek.i32(errnoAddress, 0);
  return take(buffer, buffer.bytes.indexOf(0));
};

export function readlink(path: string, size: number = abi.PATH_MAX): string | number {
  const length = sys.readlinkat(abi.AT_FDCWD, a(path), buffer.address, size);
  return length < 0 ? length : take(buffer, length);
}

export interface DirectoryEntry {
  readonly name: string;
  readonly ino: string;
  readonly type: number;
  /** Where the directory goes on after this entry, for lseek. */
  readonly next: string;
}

/** One getdents64(2) with room for `size` bytes. */
export function getdents(fd: number, size = 32_768): DirectoryEntry[] | number {
  const length = sys.getdents64(fd, buffer.address, size);
  if (length < 0) return length;
  const entries: DirectoryEntry[] = [];
  const { linux_dirent64: layout } = abi;
  for (let at = 0; at < length; at += buffer.view.getUint16(at + layout.d_reclen, true)) {
    const start = at + abi.LINUX_DIRENT64_NAME;
    entries.push({
      name: Buffer.from(buffer.bytes.subarray(start, buffer.bytes.indexOf(0, start))).toString(
        "latin1",
      ),
      ino: buffer.view.getBigUint64(at + layout.d_ino, true).toString(),
      type: buffer.view.getUint8(at + layout.d_type),
      next: buffer.view.getBigInt64(at + layout.d_off, true).toString(),
    });
  }
  return entries;
}

/** Every entry from where `fd` stands to the end. */
export function getAllDents(fd: number, size?: number): DirectoryEntry[] | number {
  const all: DirectoryEntry[] = [];
  for (;;) {
    const some = getdents(fd, size);
    if (typeof some === "number") return some;
    if (some.length === 0) return all;
    all.push(...some);
  }
}

/** The names in a directory, sorted, without `.` and `..`. */
export function list(path: string): string[] | number {
  const fd = open(path, abi.O_RDONLY | abi.O_DIRECTORY);
  if (fd < 0) return fd;
  const entries = getAllDents(fd);
  close(fd);
  if (typeof entries === "number") return entries;
  const names = entries.map(({ name }) => name).filter((name) => name !== "." && name !== "..");
  return names.sort();
}

/** The kernel's file handle of a path, as bytes with the type before them. */
export function nameToHandle(path: string): string | number {
  record.u32[0] = 128;
  const mountId = record.address + 1024;
  const error = sys.name_to_handle_at(abi.AT_FDCWD, a(path), record.address, mountId, 0);
  return error < 0 ? error : take(record, 8 + (record.u32[0] ?? 0));
}
export const openByHandle = (mountFd: number, handle: string, flags: number): number =>
  opened(sys.open_by_handle_at(mountFd, put(record, handle), flags));

// Extended attributes

export function setxattr(path: string, name: string, value: string, flags = 0): number {
  put(valueBuffer, value);
  return sys.setxattr(a(path), put(nameBuffer, name), valueBuffer.address, value.length, flags);
}
export function lsetxattr(path: string, name: string, value: string): number {
  put(valueBuffer, value);
  const { address } = valueBuffer;
  return checked(libc.lsetxattr(a(path), put(nameBuffer, name), address, value.length, 0));
}
export function fsetxattr(fd: number, name: string, value: string): number {
  put(valueBuffer, value);
  return sys.fsetxattr(fd, put(nameBuffer, name), valueBuffer.address, value.length, 0);
}
const value = (length: number): string | number =>
  length < 0 ? length : take(valueBuffer, length);
export const getxattr = (path: string, name: string, size = abi.XATTR_SIZE_MAX): string | number =>
  value(sys.getxattr(a(path), put(nameBuffer, name), valueBuffer.address, size));
/** How long the value is, asked with a size of 0. */
export const xattrSize = (path: string, name: string): number =>
  sys.getxattr(a(path), put(nameBuffer, name), 0, 0);
export const lgetxattr = (path: string, name: string): string | number => {
  const { address } = valueBuffer;
  const size = abi.XATTR_SIZE_MAX;
  return value(checked(libc.lgetxattr(a(path), put(nameBuffer, name), address, size)));
};
export const fgetxattr = (fd: number, name: string): string | number =>
  value(sys.fgetxattr(fd, put(nameBuffer, name), valueBuffer.address, abi.XATTR_SIZE_MAX));
const names = (length: number): string[] | number =>
  length < 0 ? length : take(valueBuffer, length).split("\0").slice(0, -1).sort();
export const listxattr = (path: string, size = abi.XATTR_LIST_MAX): string[] | number =>
  names(sys.listxattr(a(path), valueBuffer.address, size));
export const llistxattr = (path: string): string[] | number =>
  names(checked(libc.llistxattr(a(path), valueBuffer.address, abi.XATTR_LIST_MAX)));
export const removexattr = (path: string, name: string): number =>
  sys.removexattr(a(path), put(nameBuffer, name));
export const lremovexattr = (path: string, name: string): number =>
  checked(libc.lremovexattr(a(path), put(nameBuffer, name)));

// Locks

export interface LockRange {
  /** F_RDLCK, F_WRLCK or F_UNLCK. */
  readonly type: number;
  readonly start: number;
  /** 0 for up to the end of the file, however far it grows. */
  readonly length: number;
}
export interface LockFound extends LockRange {
  readonly pid: number;
}

function putLock({ type, start, length }: LockRange): Address {
  record.bytes.fill(0, 0, abi.flock.sizeof);
  record.view.setUint16(abi.flock.l_type, type, true);
  record.view.setBigInt64(abi.flock.l_start, BigInt(start), true);
  record.view.setBigInt64(abi.flock.l_len, BigInt(length), true);
  return record.address;
}

/** `command` is F_SETLK, F_SETLKW, F_OFD_SETLK or F_OFD_SETLKW. */
export const setLock = (fd: number, command: number, range: LockRange): number =>
  sys.fcntl(fd, command, putLock(range));

/**
 * What stands against `range`: type F_UNLCK if nothing does. `command` is F_GETLK or F_OFD_GETLK.
 */
export function getLock(fd: number, command: number, range: LockRange): LockFound | number {
  const error = sys.fcntl(fd, command, putLock(range));
  if (error < 0) return error;
  return {
    type: record.view.getUint16(abi.flock.l_type, true),
    start: big(abi.flock.l_start),
    length: big(abi.flock.l_len),
    pid: record.view.getInt32(abi.flock.l_pid, true),
  };
}
export const flock = (fd: number, operation: number): number => sys.flock(fd, operation);

// Others

export const getFlags = (fd: number): number => sys.fcntl(fd, abi.F_GETFL, 0);
export const setFlags = (fd: number, flags: number): number => sys.fcntl(fd, abi.F_SETFL, flags);

/** The flags of chattr(1). */
export function getFileFlags(fd: number): number {
  record.u32[0] = 0;
  const error = sys.ioctl(fd, abi.FS_IOC_GETFLAGS, record.address);
  return error < 0 ? error : (record.u32[0] ?? 0);
}
export function setFileFlags(fd: number, flags: number): number {
  record.u32[0] = flags;
  return sys.ioctl(fd, abi.FS_IOC_SETFLAGS, record.address);
}
/** Project and flags of a file by FS_IOC_FSGETXATTR. */
export function fsGetXattr(fd: number): { xflags: number; project: number } | number {
  const error = sys.ioctl(fd, abi.FS_IOC_FSGETXATTR, record.address);
  if (error < 0) return error;
  const word = (offset: number): number => record.view.getUint32(offset, true);
  return { xflags: word(abi.fsxattr.fsx_xflags), project: word(abi.fsxattr.fsx_projid) };
}
/** An ioctl that nobody knows. */
export const unknownIoctl = (fd: number): number => sys.ioctl(fd, 0x4321, record.address);

/** What poll(2) says at once of `fd`. */
export function poll(fd: number, events: number): number {
  record.bytes.fill(0, 0, 64);
  record.i32[0] = fd;
  record.view.setUint16(abi.pollfd.events, events, true);
  const error = sys.ppoll(record.address, 1, 0);
  return error < 0 ? error : record.view.getUint16(abi.pollfd.revents, true);
}

export const umask = (mask: number): number => sys.umask(mask);
export const getpid = (): number => sys.getpid();

/**
 * Makes `signal`, which this process handles, interrupt system calls instead of restarting them.
 */
export const interruptBy = (signal: number): number => libc.siginterrupt(signal, 1);

// Credentials

export interface Credentials {
  readonly uid: number;
  readonly gid: number;
  readonly groups?: readonly number[];
}

/**
 * Turns this thread into another user, or with uid 0 back into root: the saved user id stays 0,
 * without taking part in any permission check.
 */
export function become({ uid, gid, groups = [] }: Credentials): void {
  must(sys.setresuid(0, 0, 0));
  groups.forEach((group, index) => {
    record.u32[index] = group;
  });
  must(sys.setgroups(groups.length, record.address));
  must(sys.setresgid(gid, gid, gid));
  must(sys.setresuid(uid, uid, 0));
}

/** Does `work` as another user. */
export function as<T>(credentials: Credentials, work: () => T): T {
  become(credentials);
  try {
    return work();
  } finally {
    become({ uid: 0, gid: 0 });
  }
}
