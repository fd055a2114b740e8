// The mounts that this thread sees: /proc/thread-self/mountinfo, proc_pid_mountinfo(5).

import { AT_FDCWD, O_CLOEXEC, O_DIRECTORY, O_PATH, O_RDONLY } from "./abi-linux.ts";
import { errnoMessage } from "./errno.ts";
import { cstring, map, passingString, type Memory } from "./memory.ts";
import { close, openat, read, readlinkat } from "./syscall.ts";

export interface MountEntry {
  readonly id: number;
  readonly parent: number;
  /** `major:minor` of the file system. */
  readonly device: string;
  /** The directory of the file system that is seen at the mount point; not "/" for a bind mount. */
  readonly root: string;
  readonly mountpoint: string;
  /** The options of this mount, such as `rw,nosuid`. */
  readonly options: string;
  /** `ext4`, `fuse.sshfs`. */
  readonly type: string;
  readonly source: string;
  /** The options of the file system. */
  readonly superOptions: string;
}

/** The text of mountinfo as entries, in the kernel's order. Lines that are none are left out. */
export function parseMountinfo(text: string): MountEntry[] {
  return text.split("\n").flatMap((line) => parseLine(line) ?? []);
}

// 36 35 98:0 /root /mountpoint rw,noatime [optional fields] - type source rw,errors=continue
function parseLine(line: string): MountEntry | undefined {
  const fields = line.split(" ");
  const dash = fields.indexOf("-", 6);
  if (dash < 0 || fields.length < dash + 3) return undefined;
  const field = (index: number): string => unescapeOctal(fields[index] ?? "");
  return {
    id: Number(fields[0]),
    parent: Number(fields[1]),
    device: field(2),
    root: field(3),
    mountpoint: field(4),
    options: field(5),
    type: field(dash + 1),
    source: field(dash + 2),
    superOptions: field(dash + 3),
  };
}

/**
 * The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
 */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** The entry of the mount with a number, in the text of mountinfo, of which there may be much. */
export function findMount(text: string, id: number): MountEntry | undefined {
  const lines = `\n${text}\n`;
  const start = lines.indexOf(`\n${id} `) + 1;
  return start === 0 ? undefined : parseLine(lines.slice(start, lines.indexOf("\n", start)));
}

export function readMountinfo(): string {
  return readProc("thread-self/mountinfo");
}

export function readMounts(): MountEntry[] {
  return parseMountinfo(readMountinfo());
}

/** Type `fuse`, `fuse.something` or `fuseblk`. */
export function isFuse(entry: MountEntry): boolean {
  return /^fuse(blk)?(\.|$)/.test(entry.type);
}

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
  chunk ??= map(CHUNK_SIZE);
  const fd = openat(openProc(), passingString(name), O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) throw new Error(`cannot read /proc/${name}: ${errnoMessage(fd)}`);
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
