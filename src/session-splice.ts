// Answering large reads with one copy less: the file's pages go into a pipe, behind the header of
// the reply, and from the pipe to the kernel (splice(2)). Measured at 1.3 times the rate of pread
// and write for sequential reads of a cached file; writing gains nothing by it.

import { fuse_out_header } from "./abi-fuse.ts";
import { F_SETPIPE_SZ, O_CLOEXEC, O_NONBLOCK } from "./abi-linux.ts";
import { PAGE_SIZE, smallMemory } from "./memory.ts";
import type { Reply, Splice } from "./reply.ts";
import { writeU64, type Request } from "./request.ts";
import { close, fcntl, pipe2, read, splice, write } from "./syscall.ts";
import { SPLICE_MIN, SPLICE_PIPE_SIZE } from "./limits.ts";

export class SplicePipe implements Splice {
  readonly #request: Request;
  readonly #reply: Reply;
  readonly #readEnd: number;
  readonly #writeEnd: number;
  readonly #offset = smallMemory(8);
  /** The most that fits behind the header, which takes a page's place in the pipe. */
  readonly #max: number;
  /** How many bytes of reply lie in the pipe. */
  pending = 0;

  /** Undefined if there is no pipe to be had. */
  static create(request: Request, reply: Reply): SplicePipe | undefined {
    const fds = smallMemory(8);
    if (pipe2(fds.address, O_CLOEXEC | O_NONBLOCK) < 0) return undefined;
    const [readEnd, writeEnd] = [fds.i32[0]!, fds.i32[1]!];
    const size = fcntl(writeEnd, F_SETPIPE_SZ, SPLICE_PIPE_SIZE);
    if (size >= SPLICE_PIPE_SIZE) return new SplicePipe(request, reply, readEnd, writeEnd);
    close(readEnd);
    close(writeEnd);
    return undefined;
  }

  private constructor(request: Request, reply: Reply, readEnd: number, writeEnd: number) {
    this.#request = request;
    this.#reply = reply;
    this.#readEnd = readEnd;
    this.#writeEnd = writeEnd;
    // A range that does not begin at a page boundary takes a page more.
    this.#max = SPLICE_PIPE_SIZE - 2 * PAGE_SIZE;
  }

  /**
   * Puts the reply with `size` bytes of the file into the pipe; `size`, or -1 if they are to be
   * copied: it is too little to gain by it, or the file ends before.
   */
  take(fd: number, offset: number, size: number): number {
    if (size < SPLICE_MIN || size > this.#max) return -1;
    const reply = this.#reply;
    const { uniqueLow, uniqueHigh } = this.#request;
    reply.end(uniqueLow, uniqueHigh, size);
    writeU64(this.#offset.view, 0, offset);
    const header = write(this.#writeEnd, reply.address, fuse_out_header.sizeof);
    const taken = splice(fd, this.#offset.address, this.#writeEnd, 0, size, 0);
    this.pending = Math.max(header, 0) + Math.max(taken, 0);
    if (taken === size && header === fuse_out_header.sizeof) return size;
    this.discard();
    return -1;
  }

  /** Sends what is pending. Returns what the kernel says of it. */
  send(device: number): number {
    const result = splice(this.#readEnd, 0, device, 0, this.pending, 0);
    if (result === this.pending) this.pending = 0;
    else this.discard();
    return result;
  }

  /** Empties the pipe, into the body of the reply. */
  discard(): void {
    while (this.pending > 0) {
      const length = read(this.#readEnd, this.#reply.bodyAddress, this.pending);
      if (length <= 0) break;
      this.pending -= length;
    }
    this.pending = 0;
  }
}
