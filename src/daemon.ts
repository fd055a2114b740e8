// The daemon: mounts, lets workers serve, and ends when it is told to or when the mount is gone.
// The main thread never waits in a system call: it keeps signals, late answers, and the reasons why
// something ended.

import { FUSE_OVER_IO_URING } from "./abi-fuse.ts";
import { Activity } from "./activity.ts";
import { MS_NODIRATIME, MS_STRICTATIME } from "./abi-linux.ts";
import { errnoMessage, EBUSY, EINVAL } from "./errno.ts";
import type { Connection } from "./filesystem.ts";
import { SIGNAL_AGAIN_MS, STUCK_CHECK_MS, WORKERS_GROWN_MAX, WORKERS_MAX } from "./limits.ts";
import { log, type Format, type Level } from "./log.ts";
import {
  mount,
  MountError,
  mountedPlace,
  openDevice,
  pathToMounted,
  prepareMount,
  refuseNesting,
  unmountPlace,
  type MountedPlace,
  type MountOptions,
} from "./mount.ts";
import { helperPath } from "./mount-fusermount.ts";
import { readProc } from "./proc.ts";
import { locate, prepareSource } from "./mount-point.ts";
import { planCrews, whyNoRings, type Crew, type IoUring } from "./daemon-crews.ts";
import { DaemonVfs } from "./daemon-vfs.ts";
import { checkLayers } from "./overlay-source.ts";
import { PassthroughFs } from "./passthrough.ts";
import { Credentials } from "./passthrough-credentials.ts";
import type { AccessTimes } from "./passthrough-source.ts";
import { cloneDevice, describeConnection, handshake } from "./session.ts";
import { Readers } from "./session-readers.ts";
import { runOn } from "./session-uring.ts";
import { createShared, SharedLayout } from "./shared-table.ts";
import { NOT_OFFERED } from "./uring-offer.ts";
import {
  sourceName,
  type ConnectionConfig,
  type VfsConfig,
  type VfsMountConfig,
} from "./vfs-config.ts";
import { VfsShare } from "./vfs-share.ts";
import {
  WorkerThread,
  type ServeOrder,
  type ServeTask,
  type WorkerMessage,
  type WorkerTask,
} from "./worker-thread.ts";

export type { MountOptions } from "./mount.ts";

/** Everything that the command line says. */
export interface DaemonOptions {
  /** What is served: for `passthrough` one mount at `/`. */
  readonly vfs: VfsConfig;
  /**
   * Gives the configuration anew when SIGHUP asks for it; throws ConfigError. Without it SIGHUP
   * ends the daemon.
   */
  readonly reload: (() => VfsConfig) | undefined;
  /** Whether mounts may come and go. */
  readonly dynamic: boolean;
  /** What mounts that come later have in common. */
  readonly common?: ConnectionConfig;
  readonly mount: MountOptions;
  readonly workers: number;
  readonly ioUring: IoUring;
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

/** A worker that gets ready to serve. */
interface PreparedWorker {
  readonly thread: WorkerThread;
  /** Resolves when it serves, or has failed. */
  readonly ready: Promise<void>;
}

/** Those that end it, with their numbers: signal(7). */
const SIGNALS = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 };
type Signal = keyof typeof SIGNALS;

/**
 * Serves until the end. Returns the exit code. `ready` is called when the mount answers requests,
 * `stopping` when the end begins, for whatever reason. `workers` are threads of workers that were
 * started before, and taken out when they get something to do.
 */
export async function runDaemon(
  options: DaemonOptions,
  ready: () => void,
  stopping: () => void = () => {},
  workers: WorkerThread[] = [],
): Promise<number> {
  const { logLevel, logFormat, debug } = options;
  log.configure({ level: debug ? "debug" : logLevel, format: logFormat });
  const daemon = new Daemon(options, stopping, workers);
  // From here on a signal must not leave a mount without a daemon.
  for (const signal of Object.keys(SIGNALS) as Signal[])
    if (signal === "SIGTERM" || !isIgnored(signal)) process.on(signal, () => daemon.signal(signal));
  process.on("uncaughtException", (error) =>
    daemon.end({ how: "failed", reason: error.stack ?? String(error) }),
  );
  return daemon.run(ready);
}

/** Whoever started us may see to it that a signal does not end us: nohup(1), or `&` in a shell. */
function isIgnored(signal: Signal): boolean {
  const mask = /^SigIgn:\s*([0-9a-f]+)$/m.exec(readProc("self/status"))?.[1] ?? "0";
  return ((BigInt(`0x${mask}`) >> BigInt(SIGNALS[signal] - 1)) & 1n) === 1n;
}

class Daemon {
  readonly #options: DaemonOptions;
  readonly #stopping: () => void;
  /** They start already; the first to serve get them. */
  readonly #earlyWorkers: WorkerThread[];
  /** What is served, for a person. */
  readonly #source: string;
  /** What is mounted, once it is served. */
  readonly #served = Promise.withResolvers<DaemonVfs>();
  #reloading = this.#served.promise;
  #mountpoint: string;
  #place: MountedPlace | undefined;
  /** How many workers there were, and are. */
  #started = 0;
  #serving = 0;
  #ending: Ending | undefined;
  #endingSince = 0;
  #ended: ((ending: Ending) => void) | undefined;

  constructor(options: DaemonOptions, stopping: () => void, workers: WorkerThread[]) {
    this.#options = options;
    this.#stopping = stopping;
    this.#earlyWorkers = workers;
    const { mounts } = options.vfs;
    this.#source = options.dynamic
      ? `${mounts.length} ${mounts.length === 1 ? "file system" : "file systems"}`
      : sourceName(mounts[0]!);
    this.#mountpoint = options.mount.mountpoint;
  }

  signal(signal: Signal): void {
    const { reload } = this.#options;
    if (signal === "SIGHUP" && reload !== undefined) this.#reload(reload);
    else this.end({ how: "signal", signal });
  }

  /**
   * One after the other, from when the first mounts are served. A bad configuration changes
   * nothing.
   */
  #reload(read: () => VfsConfig): void {
    this.#reloading = this.#reloading.then(async (mounts) => {
      if (this.#ending !== undefined) return mounts;
      try {
        const config = read();
        for (const mount of config.mounts) this.#refuseOwn(mount);
        await mounts.reload(config);
      } catch (error) {
        log.error(`nothing was changed: ${(error as Error).message}`);
      }
      return mounts;
    });
  }

  #refuseOwn({ passthrough, overlay }: VfsMountConfig): void {
    if (overlay !== undefined) checkLayers(overlay, this.#mountpoint);
    else refuseNesting(prepareSource(passthrough.source), locate(this.#mountpoint));
  }

  /** The first reason to end is the one that counts; a later signal ends without waiting. */
  end(ending: Ending): void {
    if (this.#ending !== undefined) {
      const isLater = performance.now() - this.#endingSince > SIGNAL_AGAIN_MS;
      if (ending.how === "signal" && isLater) this.#leave(ending.signal);
      return;
    }
    this.#ending = ending;
    this.#endingSince = performance.now();
    this.#stopping();
    this.#ended?.(ending);
  }

  /** Ends at once: what is not written back yet is lost. */
  #leave(signal: string): never {
    log.warn(`${signal} again: ending without waiting for what is written`);
    try {
      // Only a thread of its own gets to another namespace, which would have to be waited for.
      if (this.#place !== undefined && this.#place.namespace === undefined)
        unmountPlace(this.#place, "lazy", this.#options.mount.fusermount);
    } finally {
      process.exit(1);
    }
  }

  async run(ready: () => void): Promise<number> {
    const { vfs: config, dynamic, common } = this.#options;
    const sources = config.mounts.flatMap(({ passthrough }) => passthrough?.source ?? []);
    const noRings = this.#whyNoRings();
    const inNamespace = this.#options.mount.mountNamespacePid !== undefined;
    for (const { overlay } of config.mounts)
      if (overlay !== undefined) checkLayers(overlay, inNamespace ? undefined : this.#mountpoint);
    if (!inNamespace) this.#mountpoint = prepareMount(sources, this.#options.mount);
    const layout = new SharedLayout();
    const areas = {
      activity: Activity.area(layout),
      readers: Readers.area(layout),
      vfs: VfsShare.area(layout),
    };
    const memory = createShared(layout);
    const activity = new Activity(memory, areas.activity, -1);
    const times = accessTimes(this.#options.mount);
    const how = { times, dynamic, common };
    const mounts = new DaemonVfs(config, how, new VfsShare(memory, areas.vfs), {
      activity,
      credentials: new Credentials(),
      locksChanged: () => {},
      relieve: () => false,
    });
    const { address, size } = memory;
    const task = { memory: { address, size }, areas, fixed: !dynamic };
    const locksChanged = (): void => mounts.locksChanged();
    const prepare = (worker: number): PreparedWorker =>
      this.#prepareWorker({ ...task, worker }, locksChanged);
    // Those that have started already get ready meanwhile.
    const prepared = [...this.#earlyWorkers.keys()].map(prepare);
    const device = inNamespace ? await this.#mountInNamespace(sources) : this.#mount();
    try {
      const { debug, requestTimeout } = this.#options;
      // Loaded only if it is wanted: the start is to be quick.
      const tracer = debug ? new (await import("./debug.ts")).DebugTracer() : undefined;
      const ioUring = noRings === undefined;
      const connection = handshake(device, mounts.vfs, { requestTimeout, ioUring, tracer });
      this.#checkRings(connection);
      mounts.connected(connection, device);
      const ended = new Promise<Ending>((resolve) => {
        this.#ended = resolve;
        if (this.#ending !== undefined) resolve(this.#ending);
      });
      const start = async (worker: number, { queues, cpus }: Crew): Promise<void> => {
        const own = worker === 0 ? device : cloneDevice(device);
        const order = { device: own, connection, queues, cpus };
        await this.#startWorker(prepared[worker] ?? prepare(worker), order);
      };
      const crews = planCrews(connection, this.#options.workers);
      // To answer, one worker of each crew is enough, and with rings none need read /dev/fuse. The
      // others wait, since they would keep those from starting.
      const rings = crews.filter(({ queues }) => queues.length > 0);
      const answering = rings.length > 0 ? rings : crews;
      await Promise.all(answering.map((crew) => start(crew.workers[0]!, crew)));
      const relief = this.#relieve(activity, crews, start);
      if (this.#ending === undefined) {
        this.#tellMounted(connection, mounts);
        ready();
        Bun.unsafe.setJITPolicy(1); // The start is over, see scripts/build.ts.
        for (const crew of crews)
          for (const worker of crew.workers.slice(answering.includes(crew) ? 1 : 0))
            start(worker, crew).catch(warnNotStarted);
      }
      this.#served.resolve(mounts);
      const ending = await ended;
      await this.#reloading;
      mounts.stop();
      try {
        return await this.#finish(ending);
      } finally {
        clearInterval(relief);
      }
    } catch (error) {
      await this.#unmount("lazy");
      throw error;
    }
  }

  #mount(): number {
    const device = mount({ ...this.#options.mount, mountpoint: this.#mountpoint });
    this.#place = mountedPlace(this.#mountpoint);
    return device;
  }

  async #mountInNamespace(directories: readonly string[]): Promise<number> {
    const device = openDevice();
    const sources = directories.map(prepareSource);
    const { mount: options } = this.#options;
    const message = await ask({ role: "mount", options, sources, device });
    if (message.type !== "mounted") throw new Error(reasonOf(message));
    this.#place = message.mounted;
    this.#mountpoint = message.mounted.mountpoint;
    return device;
  }

  /** Takes a thread that has started, or starts one. */
  #prepareWorker(
    task: Omit<ServeTask, "role" | "logLevel" | "logFormat" | "debug">,
    locksChanged: () => void,
  ): PreparedWorker {
    const { logLevel, logFormat, debug } = this.#options;
    const thread = this.#earlyWorkers.shift() ?? new WorkerThread();
    const { promise: ready, resolve } = Promise.withResolvers<void>();
    thread.run({ ...task, role: "serve", logLevel, logFormat, debug }, (message) => {
      if (message.type === "ready") resolve();
      else if (message.type === "locks") locksChanged();
      else if (message.type === "once") log.once(message.level, message.message);
      else if (message.type === "ended" && --this.#serving === 0) this.end({ how: "unmounted" });
      else if (message.type === "failed") {
        resolve();
        this.end({ how: "failed", reason: reasonOf(message) });
      }
    });
    return { thread, ready };
  }

  /** Resolves when it serves. */
  #startWorker({ thread, ready }: PreparedWorker, order: ServeOrder): Promise<void> {
    this.#serving++;
    this.#started++;
    thread.serve(order);
    return ready;
  }

  /**
   * Starts one more worker whenever all have been at the same request for a while: a slow disk,
   * say.
   */
  #relieve(
    activity: Activity,
    crews: readonly Crew[],
    start: (worker: number, crew: Crew) => Promise<void>,
  ): Timer {
    return setInterval(() => {
      // To be unmounted, the mount still has to answer.
      if (this.#ending !== undefined && this.#ending.how !== "signal") return;
      for (const crew of crews) {
        const { workers, queues } = crew;
        const isStuck = activity.areStuck(workers);
        if (!isStuck || workers.length >= WORKERS_GROWN_MAX || this.#started >= WORKERS_MAX)
          continue;
        const whose = queues.length > 0 ? ` of CPU ${queues.join(", ")}` : "";
        log.info(
          `all ${workers.length} workers${whose} have slow requests in hand: one more is started`,
        );
        const worker = this.#started;
        workers.push(worker);
        start(worker, crew)
          .then(() => this.#rouse(crew, crews))
          .catch(warnNotStarted);
      }
    }, STUCK_CHECK_MS);
  }

  /**
   * Has a request come from each of the crew's CPUs: a new worker is handed what comes then, and
   * with its answers what was there before. By other processes, since they wait for the daemon.
   */
  #rouse({ queues }: Crew, crews: readonly Crew[]): void {
    if (this.#place === undefined) return;
    const line = ["stat", "-f", pathToMounted(this.#place)];
    for (const queue of queues) {
      runOn([queue]);
      try {
        Bun.spawn(line, { env: { PATH: helperPath() }, stdio: ["ignore", "ignore", "ignore"] });
      } finally {
        runOn(crews.flatMap(({ cpus }) => cpus));
      }
    }
  }

  /** Why requests are not to come by io_uring. Throws MountError if they must. */
  #whyNoRings(): string | undefined {
    const { ioUring, workers } = this.#options;
    if (ioUring === "off") return "it is not wanted";
    const reason = whyNoRings(workers);
    if (ioUring === "on" && reason !== undefined) throw new MountError(`--io-uring on: ${reason}`);
    return reason;
  }

  #checkRings({ flags2 }: Connection): void {
    if (this.#options.ioUring === "on" && !(flags2 & FUSE_OVER_IO_URING))
      throw new MountError(`--io-uring on: ${NOT_OFFERED}`);
  }

  #tellMounted(connection: Connection, { mounted }: DaemonVfs): void {
    const { workers, dynamic } = this.#options;
    const cache = dynamic ? "" : describeCache(mounted[0]!.config);
    log.info(
      `mounted ${this.#source} on ${this.#mountpoint}: ` +
        `${workers} ${workers === 1 ? "worker" : "workers"}${cache}`,
    );
    if (dynamic)
      for (const { config } of mounted)
        log.info(`${config.path} is ${sourceName(config)}${describeCache(config)}`);
    log.info(describeConnection(connection));
    for (const { config, fs } of mounted) {
      if (config.passthrough === undefined || !(fs instanceof PassthroughFs)) continue;
      const { source, inodeFileHandles } = config.passthrough;
      if (!fs.hasFileHandles && inodeFileHandles !== "never")
        log.info(
          `no file handles of ${source} can be opened: ` +
            `what is in use takes descriptors, of which there are ${fs.descriptors}`,
        );
    }
  }

  async #finish(ending: Ending): Promise<number> {
    if (ending.how === "unmounted") {
      const left = await this.#unmount("if dead");
      if (left === 0) log.warn(`the connection of ${this.#mountpoint} was aborted; unmounted it`);
      else log.info(`${this.#mountpoint} was unmounted`);
      return 0;
    }
    if (ending.how === "failed") {
      log.error(`a worker failed, so ${this.#mountpoint} is unmounted; ${ending.reason}`);
      await this.#unmount("lazy");
      return 1;
    }
    await this.#sync();
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

  /**
   * Has the kernel hand over what programs have written and mapped: with the daemon gone, it would
   * be lost wherever the mount is still in use. By another process: a thread of the daemon that
   * waited for the daemon's answers could not be killed.
   */
  async #sync(): Promise<void> {
    if (this.#place === undefined) return;
    try {
      const line = ["sync", "-f", pathToMounted(this.#place)];
      const env = { PATH: helperPath(), LC_ALL: "C" };
      const child = Bun.spawn(line, { env, stdio: ["ignore", "ignore", "pipe"] });
      const said = await new Response(child.stderr).text();
      if ((await child.exited) !== 0) throw new Error(said.trim());
    } catch (error) {
      const { message } = error as Error;
      log.warn(`cannot see to it that everything written reaches ${this.#source}: ${message}`);
    }
  }

  /** In a worker of its own, since it waits for requests to be answered. Returns 0 or -errno. */
  async #unmount(how: "normal" | "lazy" | "if dead"): Promise<number> {
    const place = this.#place;
    if (place === undefined) return 0;
    const { fusermount } = this.#options.mount;
    const message = await ask({ role: "unmount", place, fusermount, how });
    if (message.type !== "unmounted") throw new MountError(reasonOf(message));
    return message.result;
  }
}

function warnNotStarted(error: Error): void {
  log.warn(`no worker was started: ${error.message}`);
}

function describeCache({ passthrough }: VfsMountConfig): string {
  return passthrough === undefined ? "" : `, cache=${passthrough.cache}`;
}

function accessTimes(options: MountOptions): AccessTimes {
  const { noatime, readOnly, extraFlags } = options;
  return {
    noatime: noatime || readOnly,
    strictatime: (extraFlags & MS_STRICTATIME) !== 0,
    nodiratime: (extraFlags & MS_NODIRATIME) !== 0,
  };
}

/** Has a worker do one thing. Resolves with its answer. */
function ask(task: WorkerTask): Promise<WorkerMessage> {
  return new Promise((resolve) => new WorkerThread().run(task, resolve));
}

function reasonOf(message: WorkerMessage): string {
  return message.type === "failed" ? message.reason : `unexpected message "${message.type}"`;
}
