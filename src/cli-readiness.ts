// What a process that was started to be the daemon in the background has to tell the first one; see
// cli-background.ts.

import { AT_FDCWD, O_CLOEXEC, O_RDWR, S_IFMT, S_IFREG, stat } from "./abi-linux.ts";
import { DECLINED, READY, READY_FD } from "./cli-background.ts";
import { cstring, smallMemory } from "./memory.ts";
import { close, dup3, fcntl, fstat, openat, write } from "./syscall.ts";

const STDERR = 2;
const F_SETFD = 2;
const FD_CLOEXEC = 1;

export class Readiness {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Lets the first process return. False if it is gone, so that nobody knows of the mount. */
  tell(): boolean {
    detachStderr();
    return this.#send(READY);
  }

  /** Has the first process do itself what the command line asks for. */
  decline(): void {
    this.#send(DECLINED);
  }

  #send(value: number): boolean {
    const byte = smallMemory(1);
    byte.bytes[0] = value;
    const written = write(this.#fd, byte.address, 1);
    close(this.#fd);
    return written === 1;
  }
}

/** Undefined in a process that was not started for that. */
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
  if (isFile(STDERR)) return;
  const fd = openat(AT_FDCWD, cstring("/dev/null").address, O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return;
  dup3(fd, STDERR, 0);
  close(fd);
}

function isFile(fd: number): boolean {
  const { address, view } = smallMemory(stat.sizeof);
  const error = fstat(fd, address);
  return error === 0 && (view.getUint32(stat.st_mode, true) & S_IFMT) === S_IFREG;
}
