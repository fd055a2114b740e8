// One measuring process of scripts/bench.ts: makes system calls on files, as fast as one process
// can, and says how long they took. It makes them by src/syscall.ts and not by node:fs, so that
// what is measured is the file system and not a library; all paths are in memory before the clock
// starts.
//
// Dialogue, a line each way over standard input and output, one process serving many jobs:
//
//   > {"step":"create",...}     a Job
//   < ready                     everything is prepared
//   > go                        all processes get this at the same moment
//   < {"start":…,"end":…}       an Outcome

import { dlopen } from "bun:ffi";
import { readSync, writeSync } from "node:fs";
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  AT_SYMLINK_NOFOLLOW,
  linux_dirent64,
  LINUX_DIRENT64_NAME,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_PATH,
  O_RDONLY,
  O_TRUNC,
  O_WRONLY,
  timespec,
} from "../src/abi-linux.ts";
import { EEXIST, ENOENT, errnoMessage } from "../src/errno.ts";
import { cstring, map, smallMemory, type Address, type Memory } from "../src/memory.ts";
import * as sys from "../src/syscall.ts";

export const STEPS = [
  "mkdir",
  "create",
  "fill",
  "stat",
  "missing",
  "list",
  "readdir",
  "change",
  "open",
  "rename",
  "unlink",
  "rmdir",
] as const;
export type Step = (typeof STEPS)[number];

export interface Job {
  readonly step: Step;
  /** The directory that everything is below. */
  readonly root: string;
  /** The process's own directory in `root`, so that processes meet in the file system only. */
  readonly own: string;
  readonly directories: number;
  readonly filesPerDirectory: number;
  /** What the files are called before their number. */
  readonly prefix: string;
}

export interface Outcome {
  /** CLOCK_MONOTONIC in nanoseconds, so that the clocks of several processes compare. */
  readonly start: number;
  readonly end: number;
  readonly operations: number;
  readonly error?: string;
}

/** What `rename` calls the files. */
export const RENAMED = "renamed";
const FILL_BYTES = 1024;
const BUFFER_BYTES = 65_536;

const buffer = map(BUFFER_BYTES);
const statBuffer = map(4096);

/** Addresses of NUL-terminated paths, all in one stretch of memory. */
function paths(names: string[]): Address[] {
  const encoded = names.map((name) => Buffer.from(`${name}\0`));
  const memory = map(Math.max(1, Buffer.concat(encoded).length));
  let offset = 0;
  return encoded.map((bytes) => {
    memory.bytes.set(bytes, offset);
    offset += bytes.length;
    return memory.address + offset - bytes.length;
  });
}

interface Prepared {
  readonly root: number;
  readonly directories: Address[];
  readonly files: Address[];
  readonly renamed: Address[];
}

function prepare(job: Job, rootPath: Memory): Prepared {
  const directories: string[] = [];
  for (let index = 0; index < job.directories; index++) directories.push(`${job.own}/d${index}`);
  const files = (prefix: string): string[] =>
    directories.flatMap((directory) =>
      Array.from({ length: job.filesPerDirectory }, (_, index) => `${directory}/${prefix}${index}`),
    );
  return {
    root: check(sys.openat(AT_FDCWD, rootPath.address, O_PATH | O_DIRECTORY, 0), job.root),
    directories: paths([job.own, ...directories]),
    files: paths(files(job.prefix)),
    renamed: job.step === "rename" ? paths(files(RENAMED)) : [],
  };
}

function check(result: number, what: string): number {
  if (result < 0) throw new Error(`${what}: ${errnoMessage(result)}`);
  return result;
}

/** Each does its step for everything and returns the number of operations; a failure throws. */
const steps: Record<Step, (prepared: Prepared) => number> = {
  mkdir({ root, directories }) {
    for (const path of directories) {
      const result = sys.mkdirat(root, path, 0o755);
      if (result !== -EEXIST) check(result, "mkdir");
    }
    return directories.length;
  },

  create({ root, files }) {
    for (const path of files) {
      const fd = check(sys.openat(root, path, O_CREAT | O_EXCL | O_WRONLY, 0o644), "create");
      sys.close(fd);
    }
    return files.length;
  },

  fill({ root, files }) {
    for (const path of files) {
      const fd = check(sys.openat(root, path, O_WRONLY | O_TRUNC, 0), "open for writing");
      check(sys.write(fd, buffer.address, FILL_BYTES), "write");
      sys.close(fd);
    }
    return files.length;
  },

  stat({ root, files }) {
    for (const path of files)
      check(sys.newfstatat(root, path, statBuffer.address, AT_SYMLINK_NOFOLLOW), "stat");
    return files.length;
  },

  missing({ root, files }) {
    for (const path of files) {
      const result = sys.newfstatat(root, path, statBuffer.address, AT_SYMLINK_NOFOLLOW);
      if (result !== -ENOENT) throw new Error("stat: there is a file that should not be");
    }
    return files.length;
  },

  list: (prepared) => readDirectories(prepared, false),
  readdir: (prepared) => readDirectories(prepared, true),

  change({ root, files }) {
    for (const path of files) sys.close(check(sys.openat(root, path, O_WRONLY, 0), "change"));
    return files.length;
  },

  open({ root, files }) {
    for (const path of files) {
      const fd = check(sys.openat(root, path, O_RDONLY, 0), "open");
      check(sys.read(fd, buffer.address, 4096), "read");
      sys.close(fd);
    }
    return files.length;
  },

  rename({ root, files, renamed }) {
    for (let index = 0; index < files.length; index++)
      check(sys.renameat2(root, files[index] ?? 0, root, renamed[index] ?? 0, 0), "rename");
    return files.length;
  },

  unlink({ root, files }) {
    for (const path of files) check(sys.unlinkat(root, path, 0), "unlink");
    return files.length;
  },

  rmdir({ root, directories }) {
    for (const path of [...directories].reverse())
      check(sys.unlinkat(root, path, AT_REMOVEDIR), "rmdir");
    return directories.length;
  },
};

const DOT = 0x2e;

function readDirectories({ root, directories, files }: Prepared, stats: boolean): number {
  let found = 0;
  for (const path of directories.slice(1)) {
    const fd = check(sys.openat(root, path, O_RDONLY | O_DIRECTORY, 0), "open a directory");
    found += readEntries(fd, stats);
    sys.close(fd);
  }
  if (found !== files.length) throw new Error(`readdir: ${found} of ${files.length} files found`);
  return found;
}

/** Reads a directory to its end, with a stat of what it finds or not; returns how many that was. */
function readEntries(fd: number, stats: boolean): number {
  let found = 0;
  for (;;) {
    const filled = check(sys.getdents64(fd, buffer.address, BUFFER_BYTES), "readdir");
    if (filled === 0) return found;
    for (let at = 0; at < filled;) {
      const name = at + LINUX_DIRENT64_NAME;
      if (buffer.bytes[name] !== DOT) {
        const address = buffer.address + name;
        if (stats)
          check(sys.newfstatat(fd, address, statBuffer.address, AT_SYMLINK_NOFOLLOW), "stat");
        found++;
      }
      at += buffer.view.getUint16(at + linux_dirent64.d_reclen, true);
    }
  }
}

const CLOCK_MONOTONIC = 1;
const libc = dlopen("libc.so.6", {
  clock_gettime: { args: ["i32", "u64"], returns: "i32" },
}).symbols;
const clock = smallMemory(timespec.sizeof);

/**
 * The engine's own clocks count from the start of the process, so that those of two do not compare.
 */
function now(): number {
  libc.clock_gettime(CLOCK_MONOTONIC, clock.address);
  const seconds = Number(clock.view.getBigInt64(timespec.tv_sec, true));
  return seconds * 1e9 + Number(clock.view.getBigInt64(timespec.tv_nsec, true));
}

function serve(job: Job): Outcome {
  const start = now();
  try {
    const prepared = prepare(job, cstring(job.root));
    writeSync(1, "ready\n");
    readLine();
    return measure(job.step, prepared);
  } catch (error) {
    return { start, end: now(), operations: 0, error: String((error as Error).message) };
  }
}

function measure(step: Step, prepared: Prepared): Outcome {
  const start = now();
  try {
    const operations = steps[step](prepared);
    return { start, end: now(), operations };
  } finally {
    sys.close(prepared.root);
  }
}

let received = "";

/**
 * The next line of standard input, or undefined at its end. Blocks, so that "go" wakes it at once.
 */
function readLine(): string | undefined {
  const chunk = Buffer.alloc(4096);
  while (!received.includes("\n")) {
    const size = readSync(0, chunk, 0, chunk.length, null);
    if (size === 0) return undefined;
    received += chunk.toString("utf8", 0, size);
  }
  const end = received.indexOf("\n");
  const line = received.slice(0, end);
  received = received.slice(end + 1);
  return line;
}

if (import.meta.main) {
  for (let line = readLine(); line !== undefined; line = readLine())
    writeSync(1, `${JSON.stringify(serve(JSON.parse(line) as Job))}\n`);
}
