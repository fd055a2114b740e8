// Getting from an O_PATH descriptor to what only works on a path or on a real descriptor: the magic
// links of /proc/self/fd. Such a link leads to the very file that the descriptor stands for,
// whatever names it has now; nothing is looked up by name.

import { O_CLOEXEC, O_DIRECTORY, O_PATH } from "./abi-linux.ts";
import { AT_FDCWD } from "./abi-linux.ts";
import { errnoMessage } from "./errno.ts";
import { cstring, smallMemory, type Address } from "./memory.ts";
import { openat } from "./syscall.ts";

const PREFIX = "/proc/self/fd/";
const DIRECTORY = cstring(PREFIX);
const ZERO = 0x30;

// Scratch memory of the thread, for all file systems that it serves.
const pathScratch = smallMemory(PREFIX.length + 16);

export class ProcFds {
  /** A descriptor of /proc/self/fd, valid on every thread. */
  readonly dirfd: number;
  /** "/proc/self/fd/" and room for a number; the number alone is the path relative to `dirfd`. */
  readonly #path = pathScratch;

  constructor(dirfd: number) {
    this.dirfd = dirfd;
    new TextEncoder().encodeInto(PREFIX, this.#path.bytes);
  }

  static openDirectory(): number {
    const fd = openat(AT_FDCWD, DIRECTORY.address, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) throw new Error(`cannot open ${PREFIX}: ${errnoMessage(fd)}; is /proc mounted?`);
    return fd;
  }

  /** The path of `fd`, absolute. Valid until the next call. */
  path(fd: number): Address {
    this.#write(fd);
    return this.#path.address;
  }

  /** The path of `fd` relative to `dirfd`. Valid until the next call. */
  name(fd: number): Address {
    this.#write(fd);
    return this.#path.address + PREFIX.length;
  }

  /** Opens the file behind `fd` anew. */
  open(fd: number, flags: number): number {
    return openat(this.dirfd, this.name(fd), flags, 0);
  }

  #write(fd: number): void {
    const bytes = this.#path.bytes;
    let digits = 1;
    for (let rest = fd; rest >= 10; rest = (rest / 10) | 0) digits++;
    let at = PREFIX.length + digits;
    bytes[at] = 0;
    for (let rest = fd; at > PREFIX.length; rest = (rest / 10) | 0)
      bytes[--at] = ZERO + (rest % 10);
  }
}
