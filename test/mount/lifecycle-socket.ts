// The socket on which a service manager is told that a daemon is ready, or stops: sd_notify(3).

import { dlopen } from "bun:ffi";
import { AF_UNIX, pollfd, POLLIN } from "../../src/abi-linux.ts";
import { smallMemory } from "../../src/memory.ts";
import { close, ppoll, read, socket } from "../../src/syscall.ts";

const SOCK_DGRAM = 2;
const SUN_PATH_OFFSET = 2;
const POLL_US = 20_000;
const TIMEOUT_MS = 20_000;

const libc = dlopen("libc.so.6", { bind: { args: ["i32", "u64", "u32"], returns: "i32" } }).symbols;

export class NotifySocket implements Disposable {
  readonly path: string;
  readonly #fd: number;
  readonly #message = smallMemory(4096);
  readonly #polled = smallMemory(pollfd.sizeof);

  constructor(path: string) {
    this.path = path;
    this.#fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    const name = new TextEncoder().encode(path);
    const address = smallMemory(SUN_PATH_OFFSET + 108);
    address.view.setUint16(0, AF_UNIX, true);
    address.bytes.set(name, SUN_PATH_OFFSET);
    if (libc.bind(this.#fd, address.address, SUN_PATH_OFFSET + name.length + 1) !== 0)
      throw new Error(`cannot bind a socket to ${path}`);
  }

  /** The next message. The event loop goes on meanwhile. */
  async receive(): Promise<string> {
    const deadline = performance.now() + TIMEOUT_MS;
    while (!this.hasMessage(POLL_US)) {
      if (performance.now() > deadline) throw new Error(`no message on ${this.path}`);
      await new Promise(setImmediate);
    }
    const size = read(this.#fd, this.#message.address, this.#message.size);
    return new TextDecoder().decode(this.#message.bytes.subarray(0, Math.max(size, 0)));
  }

  /** Whether there is a message, waiting up to so many microseconds. */
  hasMessage(patience = 0): boolean {
    this.#polled.view.setInt32(pollfd.fd, this.#fd, true);
    this.#polled.view.setUint16(pollfd.events, POLLIN, true);
    return ppoll(this.#polled.address, 1, patience) === 1;
  }

  [Symbol.dispose](): void {
    close(this.#fd);
  }
}
