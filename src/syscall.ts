// Linux system calls, straight to the kernel: a stub of machine code moves the arguments into the
// kernel's registers and returns what the kernel returned, so every function here gives `>= 0`
// or `-errno`. libc's errno is not involved: it may be overwritten between the call and the look.
//
// One typed function a call. The engine's coercion checks nothing, so TypeScript is the only
// argument check: pass integers, addresses as numbers, 64-bit values below 2**53.

import { FFIType, linkSymbols, type Pointer } from "bun:ffi";
import { pollfd, timespec } from "./abi-linux.ts";
import {
  makeExecutable,
  map,
  PAGE_SIZE,
  smallMemory,
  type Address,
  type Memory,
} from "./memory.ts";

// prettier-ignore
const X64 = {
  read: 0, write: 1, close: 3, fstat: 5, lseek: 8, munmap: 11, ioctl: 16, pread64: 17, pwrite64: 18,
  readv: 19, writev: 20, madvise: 28, dup: 32, getpid: 39, socket: 41, sendmsg: 46, recvmsg: 47,
  socketpair: 53, kill: 62, fcntl: 72, flock: 73, fsync: 74, fdatasync: 75, truncate: 76, ftruncate: 77,
  fchdir: 81, fchmod: 91, umask: 95, geteuid: 107, getegid: 108, setgroups: 116,
  setresuid: 117, setresgid: 119, capget: 125, capset: 126, statfs: 137, fstatfs: 138, prctl: 157,
  mount: 165, umount2: 166, gettid: 186, setxattr: 188, fsetxattr: 190, getxattr: 191,
  fgetxattr: 193, listxattr: 194, flistxattr: 196, removexattr: 197, fremovexattr: 199, futex: 202,
  sched_setaffinity: 203,  getdents64: 217, tgkill: 234, openat: 257, mkdirat: 258, mknodat: 259, fchownat: 260,
  newfstatat: 262, unlinkat: 263, linkat: 265, symlinkat: 266, readlinkat: 267, fchmodat: 268, faccessat: 269,
  ppoll: 271, unshare: 272, splice: 275, utimensat: 280, fallocate: 285, eventfd2: 290, dup3: 292,
  pipe2: 293, prlimit64: 302, name_to_handle_at: 303, open_by_handle_at: 304, syncfs: 306,
  setns: 308, renameat2: 316, memfd_create: 319, copy_file_range: 326, statx: 332,
} as const;

// prettier-ignore
const ARM64: Record<keyof typeof X64, number> = {
  read: 63, write: 64, close: 57, fstat: 80, lseek: 62, munmap: 215, ioctl: 29, pread64: 67,
  pwrite64: 68, readv: 65, writev: 66, madvise: 233, dup: 23, getpid: 172, socket: 198, sendmsg: 211,
  recvmsg: 212, socketpair: 199, kill: 129, fcntl: 25, flock: 32, fsync: 82, fdatasync: 83,
  truncate: 45, ftruncate: 46, fchdir: 50, fchmod: 52, umask: 166, geteuid: 175, getegid: 177,
  setgroups: 159, setresuid: 147, setresgid: 149, capget: 90, capset: 91, statfs: 43,
  fstatfs: 44, prctl: 167, mount: 40, umount2: 39, gettid: 178, setxattr: 5, fsetxattr: 7,
  getxattr: 8, fgetxattr: 10, listxattr: 11, flistxattr: 13, removexattr: 14, fremovexattr: 16,
  futex: 98, sched_setaffinity: 122, getdents64: 61, tgkill: 131, openat: 56, mkdirat: 34, mknodat: 33, fchownat: 54,
  newfstatat: 79, unlinkat: 35, linkat: 37, symlinkat: 36, readlinkat: 78, fchmodat: 53, faccessat: 48,
  ppoll: 73, unshare: 97, splice: 76, utimensat: 88, fallocate: 47, eventfd2: 19, dup3: 24, pipe2: 59,
  prlimit64: 261, name_to_handle_at: 264, open_by_handle_at: 265, syncfs: 267, setns: 268,
  renameat2: 276, memfd_create: 279, copy_file_range: 285, statx: 291,
};

/** Calls newer than the split of the tables have one number everywhere. */
const EVERYWHERE = {
  io_uring_setup: 425,
  io_uring_enter: 426,
  open_tree: 428,
  openat2: 437,
  faccessat2: 439,
  mount_setattr: 442,
  fchmodat2: 452,
  listxattrat: 465,
} as const;

const NR = { ...(process.arch === "arm64" ? ARM64 : X64), ...EVERYWHERE };

// The C calling convention brings the number first, then six arguments.
// prettier-ignore
const STUB_X64 = [
  0x48, 0x89, 0xf8, // mov rax, rdi
  0x48, 0x89, 0xf7, // mov rdi, rsi
  0x48, 0x89, 0xd6, // mov rsi, rdx
  0x48, 0x89, 0xca, // mov rdx, rcx
  0x4d, 0x89, 0xc2, // mov r10, r8
  0x4d, 0x89, 0xc8, // mov r8, r9
  0x4c, 0x8b, 0x4c, 0x24, 0x08, // mov r9, [rsp + 8]
  0x0f, 0x05, 0xc3, // syscall; ret
];
// prettier-ignore
const STUB_ARM64 = [
  0xaa0003e8, // mov x8, x0
  0xaa0103e0, 0xaa0203e1, 0xaa0303e2, // mov x0, x1; mov x1, x2; mov x2, x3
  0xaa0403e3, 0xaa0503e4, 0xaa0603e5, // mov x3, x4; mov x4, x5; mov x5, x6
  0xd4000001, 0xd65f03c0, // svc #0; ret
];

function makeStub(): Pointer {
  const code = map(PAGE_SIZE);
  if (process.arch === "arm64") code.u32.set(STUB_ARM64);
  else if (process.arch === "x64") code.bytes.set(STUB_X64);
  else throw new Error(`fuse-backend runs on x86-64 and arm64, not on ${process.arch}`);
  makeExecutable(code);
  return code.address as Pointer;
}

const ptr = makeStub();

const pollTimeout = smallMemory(timespec.sizeof);

// By how many arguments there are. They are linked for each thread, and that takes its time at the
// start: so all are i64, of which the kernel takes the part that it declares.
const raw = linkSymbols({
  call0: { ptr, args: ["i32"], returns: "i32" },
  call1: { ptr, args: ["i32", "i64"], returns: "i32" },
  call2: { ptr, args: ["i32", "i64", "i64"], returns: "i32" },
  call3: { ptr, args: ["i32", "i64", "i64", "i64"], returns: "i32" },
  call4: { ptr, args: ["i32", "i64", "i64", "i64", "i64"], returns: "i32" },
  call5: { ptr, args: ["i32", "i64", "i64", "i64", "i64", "i64"], returns: "i32" },
  call6: { ptr, args: ["i32", "i64", "i64", "i64", "i64", "i64", "i64"], returns: "i32" },
  wideCall3: { ptr, args: ["i32", "i64", "i64", "i64"], returns: FFIType.i64_fast },
}).symbols;

// What each does is in section 2 of the manual, under its name. A parameter that the manual types
// as a pointer is an Address; the last error of the call is the negative result.

export const read = (fd: number, buffer: Address, size: number): number =>
  raw.call3(NR.read, fd, buffer, size);
export const write = (fd: number, buffer: Address, size: number): number =>
  raw.call3(NR.write, fd, buffer, size);
export const readv = (fd: number, iov: Address, count: number): number =>
  raw.call3(NR.readv, fd, iov, count);
export const writev = (fd: number, iov: Address, count: number): number =>
  raw.call3(NR.writev, fd, iov, count);
export const pread64 = (fd: number, buffer: Address, size: number, offset: number): number =>
  raw.call4(NR.pread64, fd, buffer, size, offset);
export const pwrite64 = (fd: number, buffer: Address, size: number, offset: number): number =>
  raw.call4(NR.pwrite64, fd, buffer, size, offset);
export const close = (fd: number): number => raw.call1(NR.close, fd);
export const dup = (fd: number): number => raw.call1(NR.dup, fd);
export const dup3 = (fd: number, newFd: number, flags: number): number =>
  raw.call3(NR.dup3, fd, newFd, flags);
export const openat = (dirfd: number, path: Address, flags: number, mode: number): number =>
  raw.call4(NR.openat, dirfd, path, flags, mode);
export const openat2 = (dirfd: number, path: Address, how: Address, size: number): number =>
  raw.call4(NR.openat2, dirfd, path, how, size);
export const fstat = (fd: number, stat: Address): number => raw.call2(NR.fstat, fd, stat);
export const newfstatat = (dirfd: number, path: Address, stat: Address, flags: number): number =>
  raw.call4(NR.newfstatat, dirfd, path, stat, flags);
export const statx = (
  dirfd: number,
  path: Address,
  flags: number,
  mask: number,
  statx: Address,
): number => raw.call5(NR.statx, dirfd, path, flags, mask, statx);
export const faccessat = (dirfd: number, path: Address, mode: number): number =>
  raw.call3(NR.faccessat, dirfd, path, mode);
export const faccessat2 = (dirfd: number, path: Address, mode: number, flags: number): number =>
  raw.call4(NR.faccessat2, dirfd, path, mode, flags);
export const readlinkat = (dirfd: number, path: Address, buffer: Address, size: number): number =>
  raw.call4(NR.readlinkat, dirfd, path, buffer, size);
export const symlinkat = (target: Address, dirfd: number, path: Address): number =>
  raw.call3(NR.symlinkat, target, dirfd, path);
export const linkat = (
  oldDirfd: number,
  oldPath: Address,
  newDirfd: number,
  newPath: Address,
  flags: number,
): number => raw.call5(NR.linkat, oldDirfd, oldPath, newDirfd, newPath, flags);
export const mkdirat = (dirfd: number, path: Address, mode: number): number =>
  raw.call3(NR.mkdirat, dirfd, path, mode);
export const mknodat = (dirfd: number, path: Address, mode: number, dev: number): number =>
  raw.call4(NR.mknodat, dirfd, path, mode, dev);
export const unlinkat = (dirfd: number, path: Address, flags: number): number =>
  raw.call3(NR.unlinkat, dirfd, path, flags);
export const renameat2 = (
  oldDirfd: number,
  oldPath: Address,
  newDirfd: number,
  newPath: Address,
  flags: number,
): number => raw.call5(NR.renameat2, oldDirfd, oldPath, newDirfd, newPath, flags);
export const fchmod = (fd: number, mode: number): number => raw.call2(NR.fchmod, fd, mode);
export const fchmodat = (dirfd: number, path: Address, mode: number): number =>
  raw.call3(NR.fchmodat, dirfd, path, mode);
export const fchmodat2 = (dirfd: number, path: Address, mode: number, flags: number): number =>
  raw.call4(NR.fchmodat2, dirfd, path, mode, flags);
export const fchownat = (
  dirfd: number,
  path: Address,
  uid: number,
  gid: number,
  flags: number,
): number => raw.call5(NR.fchownat, dirfd, path, uid, gid, flags);
export const utimensat = (dirfd: number, path: Address, times: Address, flags: number): number =>
  raw.call4(NR.utimensat, dirfd, path, times, flags);
export const truncate = (path: Address, size: number): number => raw.call2(NR.truncate, path, size);
export const ftruncate = (fd: number, size: number): number => raw.call2(NR.ftruncate, fd, size);
export const fallocate = (fd: number, mode: number, offset: number, length: number): number =>
  raw.call4(NR.fallocate, fd, mode, offset, length);
export const fsync = (fd: number): number => raw.call1(NR.fsync, fd);
export const fdatasync = (fd: number): number => raw.call1(NR.fdatasync, fd);
export const syncfs = (fd: number): number => raw.call1(NR.syncfs, fd);
export const fstatfs = (fd: number, statfs: Address): number => raw.call2(NR.fstatfs, fd, statfs);
export const getdents64 = (fd: number, buffer: Address, size: number): number =>
  raw.call3(NR.getdents64, fd, buffer, size);
export const fcntl = (fd: number, command: number, argument: number): number =>
  raw.call3(NR.fcntl, fd, command, argument);
export const flock = (fd: number, operation: number): number => raw.call2(NR.flock, fd, operation);
export const ioctl = (fd: number, request: number, argument: number): number =>
  raw.call3(NR.ioctl, fd, request, argument);

/** A struct pollfd, for `ppoll`. */
export function pollFor(fd: number, events: number): Memory {
  const memory = smallMemory(pollfd.sizeof);
  memory.view.setInt32(pollfd.fd, fd, true);
  memory.view.setUint16(pollfd.events, events, true);
  return memory;
}

/** ppoll(2) with all signals as they are; waits for at most so many microseconds. */
export function ppoll(fds: Address, count: number, timeoutUs: number): number {
  // The kernel takes off it what has passed, so that it is to be set each time.
  const { address, view } = pollTimeout;
  const seconds = Math.floor(timeoutUs / 1e6);
  view.setUint32(timespec.tv_sec, seconds, true);
  view.setUint32(timespec.tv_nsec, (timeoutUs - seconds * 1e6) * 1000, true);
  return raw.call5(NR.ppoll, fds, count, address, 0, 0);
}
export const setxattr = (
  path: Address,
  name: Address,
  value: Address,
  size: number,
  flags: number,
): number => raw.call5(NR.setxattr, path, name, value, size, flags);
export const getxattr = (path: Address, name: Address, value: Address, size: number): number =>
  raw.call4(NR.getxattr, path, name, value, size);
export const listxattr = (path: Address, list: Address, size: number): number =>
  raw.call3(NR.listxattr, path, list, size);
export const listxattrat = (
  dirfd: number,
  path: Address,
  flags: number,
  list: Address,
  size: number,
): number => raw.call5(NR.listxattrat, dirfd, path, flags, list, size);
export const removexattr = (path: Address, name: Address): number =>
  raw.call2(NR.removexattr, path, name);
export const fsetxattr = (
  fd: number,
  name: Address,
  value: Address,
  size: number,
  flags: number,
): number => raw.call5(NR.fsetxattr, fd, name, value, size, flags);
export const fgetxattr = (fd: number, name: Address, value: Address, size: number): number =>
  raw.call4(NR.fgetxattr, fd, name, value, size);
export const flistxattr = (fd: number, list: Address, size: number): number =>
  raw.call3(NR.flistxattr, fd, list, size);
export const fremovexattr = (fd: number, name: Address): number =>
  raw.call2(NR.fremovexattr, fd, name);
export const name_to_handle_at = (
  dirfd: number,
  path: Address,
  handle: Address,
  mountId: Address,
  flags: number,
): number => raw.call5(NR.name_to_handle_at, dirfd, path, handle, mountId, flags);
export const open_by_handle_at = (mountFd: number, handle: Address, flags: number): number =>
  raw.call3(NR.open_by_handle_at, mountFd, handle, flags);
export const setresuid = (ruid: number, euid: number, suid: number): number =>
  raw.call3(NR.setresuid, ruid, euid, suid);
export const setresgid = (rgid: number, egid: number, sgid: number): number =>
  raw.call3(NR.setresgid, rgid, egid, sgid);
export const setgroups = (count: number, groups: Address): number =>
  raw.call2(NR.setgroups, count, groups);
export const geteuid = (): number => raw.call0(NR.geteuid);
export const getegid = (): number => raw.call0(NR.getegid);
export const capget = (header: Address, data: Address): number =>
  raw.call2(NR.capget, header, data);
export const capset = (header: Address, data: Address): number =>
  raw.call2(NR.capset, header, data);
export const umask = (mask: number): number => raw.call1(NR.umask, mask);
export const prctl = (option: number, a: number, b: number, c: number, d: number): number =>
  raw.call5(NR.prctl, option, a, b, c, d);
export const prlimit64 = (
  pid: number,
  resource: number,
  newLimit: Address,
  oldLimit: Address,
): number => raw.call4(NR.prlimit64, pid, resource, newLimit, oldLimit);
export const getpid = (): number => raw.call0(NR.getpid);
export const gettid = (): number => raw.call0(NR.gettid);
export const kill = (pid: number, signal: number): number => raw.call2(NR.kill, pid, signal);
export const tgkill = (tgid: number, tid: number, signal: number): number =>
  raw.call3(NR.tgkill, tgid, tid, signal);
export const unshare = (flags: number): number => raw.call1(NR.unshare, flags);
export const setns = (fd: number, type: number): number => raw.call2(NR.setns, fd, type);
export const fchdir = (fd: number): number => raw.call1(NR.fchdir, fd);
export const mount = (
  source: Address,
  target: Address,
  type: number,
  flags: number,
  data: Address,
): number => raw.call5(NR.mount, source, target, type, flags, data);
export const open_tree = (dirfd: number, path: Address, flags: number): number =>
  raw.call3(NR.open_tree, dirfd, path, flags);
export const mount_setattr = (
  dirfd: number,
  path: Address,
  flags: number,
  attributes: Address,
  size: number,
): number => raw.call5(NR.mount_setattr, dirfd, path, flags, attributes, size);
export const umount2 = (target: Address, flags: number): number =>
  raw.call2(NR.umount2, target, flags);
export const munmap = (address: Address, size: number): number =>
  raw.call2(NR.munmap, address, size);
export const madvise = (address: Address, size: number, advice: number): number =>
  raw.call3(NR.madvise, address, size, advice);
export const memfd_create = (name: Address, flags: number): number =>
  raw.call2(NR.memfd_create, name, flags);
export const eventfd2 = (count: number, flags: number): number =>
  raw.call2(NR.eventfd2, count, flags);
export const pipe2 = (fds: Address, flags: number): number => raw.call2(NR.pipe2, fds, flags);
export const socket = (domain: number, type: number, protocol: number): number =>
  raw.call3(NR.socket, domain, type, protocol);
export const socketpair = (domain: number, type: number, protocol: number, fds: Address): number =>
  raw.call4(NR.socketpair, domain, type, protocol, fds);
export const sendmsg = (fd: number, message: Address, flags: number): number =>
  raw.call3(NR.sendmsg, fd, message, flags);
export const recvmsg = (fd: number, message: Address, flags: number): number =>
  raw.call3(NR.recvmsg, fd, message, flags);
export const futex = (
  address: Address,
  operation: number,
  value: number,
  timeout: Address,
  address2: Address,
  value3: number,
): number => raw.call6(NR.futex, address, operation, value, timeout, address2, value3);
export const sched_setaffinity = (tid: number, size: number, mask: Address): number =>
  raw.call3(NR.sched_setaffinity, tid, size, mask);
export const io_uring_setup = (entries: number, params: Address): number =>
  raw.call2(NR.io_uring_setup, entries, params);
export const io_uring_enter = (fd: number, submit: number, wait: number, flags: number): number =>
  raw.call6(NR.io_uring_enter, fd, submit, wait, flags, 0, 0);
export const splice = (
  fdIn: number,
  offsetIn: Address,
  fdOut: number,
  offsetOut: Address,
  size: number,
  flags: number,
): number => raw.call6(NR.splice, fdIn, offsetIn, fdOut, offsetOut, size, flags);

/**
 * `offset` may be a bigint where a double can't hold it: directory cookies are 63-bit hashes.
 * Results above 2**53 are rounded.
 */
export const lseek = (fd: number, offset: number | bigint, whence: number): number =>
  Number(raw.wideCall3(NR.lseek, fd, offset, whence));

/** `size` must be below 2**31, so that the result fits. */
export const copy_file_range = (
  fdIn: number,
  offsetIn: Address,
  fdOut: number,
  offsetOut: Address,
  size: number,
  flags: number,
): number => raw.call6(NR.copy_file_range, fdIn, offsetIn, fdOut, offsetOut, size, flags);
