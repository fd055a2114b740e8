// Files that the kernel makes, in /proc and /sys. They are read by system calls of our own: to load
// node:fs takes a thread that starts 5 ms.

import { AT_FDCWD, O_CLOEXEC, O_DIRECTORY, O_PATH, O_RDONLY } from "./abi-linux.ts";
import { errnoMessage } from "./errno.ts";
import { cstring, map, passingString, type Memory } from "./memory.ts";
import { close, openat, read, readlinkat } from "./syscall.ts";

// /proc is opened once and then used by descriptor: a thread that moves to another mount namespace
// may find none there, or that of other processes.
let proc = -1;

/** Called before a thread leaves its mount namespace. */
export function openProc(): number {
  if (proc >= 0) return proc;
  proc = openat(AT_FDCWD, cstring("/proc").address, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  if (proc < 0) throw new Error(`cannot open /proc: ${errnoMessage(proc)}; it must be mounted`);
  return proc;
}

const CHUNK_SIZE = 64 * 1024;
let chunk: Memory | undefined;

/** The content of a file below /proc. */
export function readProc(name: string): string {
  return readText(`/proc/${name}`, openProc(), name);
}

/** The content of a file whose size nobody knows before, as of those below /sys. */
export function readText(path: string, dirfd: number = AT_FDCWD, name: string = path): string {
  chunk ??= map(CHUNK_SIZE);
  const fd = openat(dirfd, passingString(name), O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) throw new Error(`cannot read ${path}: ${errnoMessage(fd)}`);
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const size = read(fd, chunk.address, CHUNK_SIZE);
    if (size <= 0) break;
    text += decoder.decode(chunk.bytes.subarray(0, size), { stream: true });
  }
  close(fd);
  return text;
}

/** A field of /proc/PID/status, which is `status`; empty if it has none of that name. */
export function statusField(status: string, name: string): string {
  return new RegExp(`^${name}:[ \t]*(.*?)[ \t]*$`, "m").exec(status)?.[1] ?? "";
}

/** A field of /proc/PID/status that is a set, such as CapEff: member N is bit N. */
export function statusSet(status: string, name: string): bigint {
  return BigInt(`0x${statusField(status, name) || "0"}`);
}

/** Whether the process of a /proc/PID/status has an effective capability, CAP_…. */
export function hasCapability(status: string, capability: number): boolean {
  return ((statusSet(status, "CapEff") >> BigInt(capability)) & 1n) === 1n;
}

/** Where a symbolic link below /proc leads; undefined if it is not there. */
export function readProcLink(name: string): string | undefined {
  chunk ??= map(CHUNK_SIZE);
  const size = readlinkat(openProc(), passingString(name), chunk.address, CHUNK_SIZE);
  return size < 0 ? undefined : new TextDecoder().decode(chunk.bytes.subarray(0, size));
}
