// Mounting a file system of one's own: an object whose methods the kernel's requests call, on the
// thread that mounts it. For the directories of this machine there is the daemon, which uses
// several threads.

import { write } from "node:fs";
import { F_GETFL, F_SETFL, O_NONBLOCK, POLLIN } from "./abi-linux.ts";
import { EIO, ENOTCONN, errnoMessage } from "./errno.ts";
import type { FileSystem } from "./filesystem.ts";
import { BUSY_TURN_MS, IDLE_TURN_MS } from "./limits.ts";
import { mount, prepareMountpoint, unmount } from "./mount.ts";
import { mountOptions, MountError, type MountOptions } from "./mount-options.ts";
import { Notifier } from "./notify.ts";
import type { ServerOptions } from "./server.ts";
import { Channel, GONE, handshake, IDLE } from "./session.ts";
import { close, fcntl, pollFor, ppoll } from "./syscall.ts";

export interface MountedOptions extends ServerOptions, Partial<Omit<MountOptions, "mountpoint">> {
  /** Seconds after which the kernel gives up on an unanswered request. The default is 0, never. */
  readonly requestTimeout?: number;
}

/** A mount of this process. */
export class Mounted {
  readonly mountpoint: string;
  /**
   * Resolves when the mount is gone, by `unmount` or by umount(8); rejects if serving it failed.
   */
  readonly closed: Promise<void>;
  readonly #device: number;
  readonly #fusermount: string | undefined;
  #isOpen = true;
  readonly #messages: Uint8Array[] = [];
  readonly #notifier = new Notifier((message) => {
    this.#messages.push(message.slice());
    return 0;
  });
  #sending = Promise.resolve(0);

  /** Takes over `device`; `served` resolves when it has no more requests. */
  constructor(
    mountpoint: string,
    device: number,
    served: Promise<void>,
    fusermount: string | undefined,
  ) {
    this.mountpoint = mountpoint;
    this.closed = served.finally(() => this.#close());
    this.#device = device;
    this.#fusermount = fusermount;
  }

  /**
   * Tells the kernel what has changed without its doing, by the methods of a Notifier. What they
   * tell is sent afterwards, in order, by another thread: the kernel may have to wait for requests
   * that this thread serves. Resolves with 0, or with the -errno of the first that failed, after
   * which no more of these are sent; a negative result of `tell` stands for all.
   */
  notify(tell: (notifier: Notifier) => number): Promise<number> {
    this.#messages.length = 0;
    const told = tell(this.#notifier);
    const messages = told < 0 ? [] : this.#messages.splice(0);
    this.#sending = this.#sending.then(() => (told < 0 ? told : this.#send(messages)));
    return this.#sending;
  }

  async #send(messages: readonly Uint8Array[]): Promise<number> {
    for (const message of messages) {
      const result = this.#isOpen ? await writeElsewhere(this.#device, message) : -ENOTCONN;
      if (result < 0) return result;
    }
    return 0;
  }

  async #close(): Promise<void> {
    this.#isOpen = false;
    await this.#sending;
    close(this.#device);
  }

  /**
   * Unmounts, out of sight at once and for good when the last user is gone; then `closed` resolves.
   * Throws MountError.
   */
  unmount(): void {
    const result = unmount(this.mountpoint, "lazy", this.#fusermount);
    if (result < 0)
      throw new MountError(`cannot unmount ${this.mountpoint}: ${errnoMessage(result)}`);
  }
}

/**
 * Mounts `fs` on `mountpoint`, and serves it on the calling thread between the turns of its event
 * loop. Methods of `fs` must not use the mount themselves, nor may the thread in calls that wait
 * (node:fs's …Sync): nobody would answer. Throws MountError.
 */
export function mountFileSystem(
  fs: FileSystem,
  mountpoint: string,
  options: MountedOptions = {},
): Mounted {
  const { metrics, tracer, requestTimeout = 0, ...given } = options;
  const settings = mountOptions(mountpoint, given);
  const place = prepareMountpoint(settings);
  const device = mount({ ...settings, mountpoint: place });
  try {
    const connection = handshake(device, fs, { requestTimeout, tracer });
    const channel = new Channel(device, fs, connection, { metrics, tracer });
    return new Mounted(place, device, pump(device, channel), settings.fusermount);
  } catch (error) {
    unmount(place, "lazy", settings.fusermount);
    close(device);
    throw error;
  }
}

/** write(2) on one of the runtime's own threads. Resolves with 0 or -errno. */
function writeElsewhere(fd: number, message: Uint8Array): Promise<number> {
  return new Promise((resolve) => {
    write(fd, message, 0, message.length, null, (error) =>
      resolve(error === null ? 0 : (error.errno ?? -EIO)),
    );
  });
}

/** Serves until the mount is gone, and lets the event loop have its turns. */
async function pump(device: number, channel: Channel): Promise<void> {
  fcntl(device, F_SETFL, fcntl(device, F_GETFL, 0) | O_NONBLOCK);
  const poll = pollFor(device, POLLIN);
  for (;;) {
    const until = performance.now() + BUSY_TURN_MS;
    let state: number;
    do state = channel.serveOne();
    while (state !== IDLE && state !== GONE && performance.now() < until);
    if (state === GONE) return;
    // A signal ends the wait, so that its handler runs at once.
    if (state === IDLE) ppoll(poll.address, 1, IDLE_TURN_MS * 1000);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
