// The background. A process with threads cannot be split by fork, so the executable starts itself
// again in a session of its own with the same arguments, and waits for a byte over a pipe: the
// mount answers. The pipe's number is in the environment, which also tells the second process what
// it is.

import { fstatSync } from "node:fs";
import { AT_FDCWD, O_CLOEXEC, O_RDWR } from "./abi-linux.ts";
import { READY_FD } from "./cli-forecast.ts";
import { EINTR, errnoMessage } from "./errno.ts";
import { writeError } from "./log.ts";
import { cstring, smallMemory } from "./memory.ts";
import { close, dup3, fcntl, openat, pipe2, read, write } from "./syscall.ts";

/** The descriptor number that the pipe has in the second process. */
const CHILD_READY_FD = 3;
const STDERR = 2;
const F_SETFD = 2;
const FD_CLOEXEC = 1;

/** Starts the daemon. Returns 0 when its mount answers, or else its exit code. */
export async function startInBackground(): Promise<number> {
  const pipe = smallMemory(8);
  const error = pipe2(pipe.address, O_CLOEXEC);
  if (error < 0) throw new Error(`cannot make a pipe: ${errnoMessage(error)}`);
  const [readEnd, writeEnd] = [pipe.view.getInt32(0, true), pipe.view.getInt32(4, true)];
  const child = Bun.spawn(["/proc/self/exe", ...ownScript(), ...process.argv.slice(2)], {
    argv0: process.argv0,
    detached: true,
    stdio: ["ignore", "ignore", "inherit", writeEnd],
    env: { ...process.env, [READY_FD]: String(CHILD_READY_FD) },
  });
  close(writeEnd);
  let received: number;
  do received = read(readEnd, pipe.address, 1);
  while (received === -EINTR);
  if (received === 1) return 0;
  const code = await child.exited;
  if (child.signalCode !== null)
    writeError(`fuse-backend: the daemon was killed by ${child.signalCode} while it started\n`);
  // It may have been told to end before it was ready; but nothing is mounted.
  return code === 0 ? 1 : code;
}

/** Run by `bun`, and not compiled, the program is a script that bun has to be given. */
function ownScript(): string[] {
  return Bun.main.startsWith("/$bunfs/") ? [] : [Bun.main];
}

/** What the second process has to tell the first. */
export class Readiness {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Lets the first process return. False if it is gone, so that nobody knows of the mount. */
  tell(): boolean {
    detachStderr();
    const byte = smallMemory(1);
    const written = write(this.#fd, byte.address, 1);
    close(this.#fd);
    return written === 1;
  }
}

/** In the second process: leaves what the first one may need back, such as its directory. */
export function takeReadiness(): Readiness | undefined {
  const text = process.env[READY_FD];
  if (text === undefined) return undefined;
  delete process.env[READY_FD];
  const fd = Number(text);
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return undefined;
  return new Readiness(fd);
}

/**
 * Only a log file is written on: someone may wait for the end of a pipe, and a terminal is for
 * others.
 */
function detachStderr(): void {
  if (fstatSync(STDERR).isFile()) return;
  const fd = openat(AT_FDCWD, cstring("/dev/null").address, O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return;
  dup3(fd, STDERR, 0);
  close(fd);
}
