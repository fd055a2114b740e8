// The daemon: mounts, lets workers serve, and ends when it is told to or when the mount is gone.
// The main thread never waits in a system call: it keeps signals, late answers, and the reasons why
// something ended.

import { MS_NODIRATIME, MS_STRICTATIME } from "./abi-linux.ts";
import { errnoMessage, EBUSY, EINVAL } from "./errno.ts";
import type { Connection } from "./filesystem.ts";
import { log, type Format, type Level } from "./log.ts";
import type { Memory } from "./memory.ts";
import {
  mount,
  openDevice,
  prepareMount,
  type MountOptions,
  type NamespaceMount,
} from "./mount.ts";
import { prepareSource } from "./mount-point.ts";
import {
  PassthroughFs,
  sharePassthrough,
  type PassthroughConfig,
  type PassthroughShare,
} from "./passthrough.ts";
import type { AccessTimes } from "./passthrough-source.ts";
import { cloneDevice, describeConnection, handshake } from "./session.ts";
import { spawnWorker, type WorkerMessage, type WorkerTask } from "./worker.ts";

export type { MountOptions } from "./mount.ts";

/** Everything that `fuse-backend passthrough` was told. */
export interface DaemonOptions {
  readonly passthrough: PassthroughConfig;
  readonly mount: MountOptions;
  readonly workers: number;
  readonly background: boolean;
  readonly pidFile: string | undefined;
  readonly logLevel: Level;
  readonly logFormat: Format;
  readonly debug: boolean;
  /** Seconds, 0 for never. */
  readonly requestTimeout: number;
}

/** How the daemon's work came to an end. */
type Ending =
  | { readonly how: "unmounted" }
  | { readonly how: "signal"; readonly signal: string }
  | { readonly how: "failed"; readonly reason: string };

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Serves until the end. Returns the exit code. `ready` is called when the mount answers requests.
 */
export async function runDaemon(options: DaemonOptions, ready: () => void): Promise<number> {
  const { logLevel, logFormat, debug } = options;
  log.configure({ level: debug ? "debug" : logLevel, format: logFormat });
  const daemon = new Daemon(options);
  // From here on a signal must not leave a mount without a daemon.
  for (const signal of SIGNALS) process.on(signal, () => daemon.end({ how: "signal", signal }));
  process.on("uncaughtException", (error) =>
    daemon.end({ how: "failed", reason: error.stack ?? String(error) }),
  );
  return daemon.run(ready);
}

class Daemon {
  readonly #options: DaemonOptions;
  readonly #source: string;
  #mountpoint: string;
  #namespace: NamespaceMount | undefined;
  #mounted = false;
  #ending: Ending | undefined;
  #ended: ((ending: Ending) => void) | undefined;

  constructor(options: DaemonOptions) {
    this.#options = options;
    this.#source = options.passthrough.source;
    this.#mountpoint = options.mount.mountpoint;
  }

  /** The first reason to end is the one that counts; the same signal again ends without waiting. */
  end(ending: Ending): void {
    if (this.#ending !== undefined) {
      if (this.#ending.how === "signal" && ending.how === "signal") {
        log.warn(`${ending.signal} again: ending without waiting for the unmount`);
        process.exit(1);
      }
      return;
    }
    this.#ending = ending;
    this.#ended?.(ending);
  }

  async run(ready: () => void): Promise<number> {
    const { passthrough: config } = this.#options;
    const inNamespace = this.#options.mount.mountNamespacePid !== undefined;
    if (!inNamespace) this.#mountpoint = prepareMount(this.#source, this.#options.mount);
    const { memory, share } = sharePassthrough(config, accessTimes(this.#options.mount));
    const device = inNamespace ? await this.#mountInNamespace() : this.#mount();
    try {
      const fs = new PassthroughFs(memory, share, () => {});
      const { debug, requestTimeout } = this.#options;
      // Loaded only if it is wanted: the start is to be quick.
      const tracer = debug ? new (await import("./debug.ts")).DebugTracer() : undefined;
      const connection = handshake(device, fs, { requestTimeout, tracer });
      const waiters = fs.lockWaiters();
      const ended = new Promise<Ending>((resolve) => {
        this.#ended = resolve;
        if (this.#ending !== undefined) resolve(this.#ending);
      });
      await this.#startWorkers(device, connection, memory, share, () => waiters.changed());
      if (this.#ending === undefined) {
        this.#tellMounted(connection);
        ready();
      }
      const ending = await ended;
      waiters.stop();
      return await this.#finish(ending);
    } catch (error) {
      await this.#unmount("lazy");
      throw error;
    }
  }

  #mount(): number {
    const device = mount({ ...this.#options.mount, mountpoint: this.#mountpoint });
    this.#mounted = true;
    return device;
  }

  async #mountInNamespace(): Promise<number> {
    const device = openDevice();
    const source = prepareSource(this.#source);
    const { mount: options } = this.#options;
    const message = await ask({ role: "mount", options, source, device });
    if (message.type !== "mounted") throw new Error(reasonOf(message));
    this.#namespace = message.mounted;
    this.#mountpoint = message.mounted.mountpoint;
    this.#mounted = true;
    return device;
  }

  /** Resolves when all are about to serve. */
  async #startWorkers(
    device: number,
    connection: Connection,
    memory: Memory,
    share: PassthroughShare,
    locksChanged: () => void,
  ): Promise<void> {
    const { logLevel, logFormat, debug, workers: count } = this.#options;
    const { address, size } = memory;
    let serving = count;
    const starting: Promise<void>[] = [];
    for (let index = 0; index < count; index++) {
      const task: WorkerTask = {
        role: "serve",
        device: index === 0 ? device : cloneDevice(device),
        connection,
        memory: { address, size },
        share,
        logLevel,
        logFormat,
        debug,
      };
      starting.push(
        new Promise((resolve) => {
          spawnWorker(task, (message) => {
            if (message.type === "ready") resolve();
            else if (message.type === "locks") locksChanged();
            else if (message.type === "ended" && --serving === 0) this.end({ how: "unmounted" });
            else if (message.type === "failed") {
              resolve();
              this.end({ how: "failed", reason: reasonOf(message) });
            }
          });
        }),
      );
    }
    await Promise.all(starting);
  }

  #tellMounted(connection: Connection): void {
    const { workers } = this.#options;
    const { cache } = this.#options.passthrough;
    log.info(
      `mounted ${this.#source} on ${this.#mountpoint}: ` +
        `${workers} ${workers === 1 ? "worker" : "workers"}, cache=${cache}`,
    );
    log.info(describeConnection(connection));
  }

  async #finish(ending: Ending): Promise<number> {
    if (ending.how === "unmounted") {
      log.info(`${this.#mountpoint} was unmounted`);
      return 0;
    }
    if (ending.how === "failed") {
      log.error(`a worker failed, so ${this.#mountpoint} is unmounted; ${ending.reason}`);
      await this.#unmount("lazy");
      return 1;
    }
    const error = await this.#unmount("normal");
    if (error === 0 || error === -EINVAL) {
      log.info(`${ending.signal}: unmounted ${this.#mountpoint}`);
      return 0;
    }
    if (error === -EBUSY) {
      log.warn(
        `${ending.signal}: ${this.#mountpoint} is in use; it is unmounted lazily, ` +
          "and what still uses it gets errors from now on",
      );
      const lazily = await this.#unmount("lazy");
      if (lazily === 0) return 0;
      log.error(`cannot unmount ${this.#mountpoint} lazily: ${errnoMessage(lazily)}`);
      return 1;
    }
    log.error(`cannot unmount ${this.#mountpoint}: ${errnoMessage(error)}`);
    return 1;
  }

  /** In a worker of its own, since it waits for requests to be answered. Returns 0 or -errno. */
  async #unmount(how: "normal" | "lazy"): Promise<number> {
    if (!this.#mounted) return 0;
    const { fusermount } = this.#options.mount;
    const message = await ask({
      role: "unmount",
      mountpoint: this.#mountpoint,
      namespace: this.#namespace,
      fusermount,
      how,
    });
    if (message.type !== "unmounted") throw new Error(reasonOf(message));
    return message.result;
  }
}

function accessTimes(options: MountOptions): AccessTimes {
  const { noatime, extraFlags } = options;
  return {
    noatime,
    strictatime: (extraFlags & MS_STRICTATIME) !== 0,
    nodiratime: (extraFlags & MS_NODIRATIME) !== 0,
  };
}

/** Has a worker do one thing. Resolves with its answer. */
function ask(task: WorkerTask): Promise<WorkerMessage> {
  return new Promise((resolve) => spawnWorker(task, resolve));
}

function reasonOf(message: WorkerMessage): string {
  return message.type === "failed" ? message.reason : `unexpected message "${message.type}"`;
}
