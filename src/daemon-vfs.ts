// What the daemon serves: the mounts of its VFS. The main thread makes and ends them; the workers
// learn of it through shared memory and make their own view of each (see `WorkerVfs`).
//
// Ending a mount: from the moment it is published, every request finds it gone. Workers may still
// have one in hand that found it there, so its descriptors are closed and its memory is freed only
// when each of them has ended that request.

import { FUSE_ALLOW_IDMAP } from "./abi-fuse.ts";
import type { Activity } from "./activity.ts";
import { errnoMessage } from "./errno.ts";
import type { Connection, Wishes } from "./filesystem.ts";
import type { IdMapOptions } from "./id-map.ts";
import { log } from "./log.ts";
import type { Memory } from "./memory.ts";
import { Notifier } from "./notify.ts";
import { OverlayClaim } from "./overlay-claim.ts";
import { settleOverlay } from "./overlay-source.ts";
import { passthroughConfig, sharePassthrough, wish, type ServingThread } from "./passthrough.ts";
import type { LockWaiters } from "./passthrough-locks.ts";
import type { AccessTimes } from "./passthrough-source.ts";
import { munmap } from "./syscall.ts";
import {
  sourceName,
  type ConnectionConfig,
  type VfsConfig,
  type VfsMountConfig,
} from "./vfs-config.ts";
import { Vfs } from "./vfs.ts";
import type { VfsShare } from "./vfs-share.ts";
import {
  makeBackend,
  overlayModule,
  type BackendFs,
  type Published,
  type PublishedBackend,
  type PublishedShare,
} from "./worker-vfs.ts";

/** A file system that is, or is about to be, mounted. */
interface Backend {
  readonly config: VfsMountConfig;
  readonly published: PublishedBackend;
  readonly fs: BackendFs;
  readonly waiters: LockWaiters | undefined;
  readonly mapped: Memory;
  /** Of an overlay. */
  readonly claim: OverlayClaim | undefined;
}

/** How long is waited before it is looked again whether a request has ended. */
const SHORTEST_PAUSE_MS = 1;
const LONGEST_PAUSE_MS = 64;

/** The mounts, on the main thread. */
export class DaemonVfs {
  readonly vfs: Vfs;
  readonly #share: VfsShare;
  readonly #activity: Activity;
  readonly #thread: ServingThread;
  readonly #times: AccessTimes;
  #device = -1;
  readonly #ids: IdMapOptions | undefined;
  /** By the numbers of their mounts. */
  readonly #backends = new Map<number, Backend>();
  #notifier: Notifier | undefined;

  /**
   * Mounts what the configuration says, before the first request. `times` says when access times
   * change, `dynamic` whether mounts may come and go, `common` what those that come later are like.
   * Throws ConfigError.
   */
  constructor(
    config: VfsConfig,
    options: { times: AccessTimes; dynamic: boolean; common: ConnectionConfig | undefined },
    share: VfsShare,
    thread: ServingThread,
  ) {
    this.#ids = config.ids;
    this.#share = share;
    this.#activity = thread.activity;
    this.#thread = thread;
    this.#times = options.times;
    // If all is mounted later, it is passthrough all the same. Of what caches allow, all is asked
    // for, and that data is checked as often as the strictest needs it.
    const wishes = (own: Wishes): void => {
      const later = passthroughConfig({ source: "/", cache: "always", ...options.common });
      wish(own, { ...later, cache: "auto" }, thread.credentials.privileged);
      own.flags2 &= ~FUSE_ALLOW_IDMAP; // They may have their ids mapped.
    };
    const killprivV2 = options.common?.killprivV2 ?? true; // Not every file system has the option.
    this.vfs = new Vfs({ ids: config.ids, fixed: !options.dynamic, wishes, killprivV2 });
    for (const backend of this.#open(config.mounts)) this.#mount(backend);
    this.#publish();
  }

  /** Opens what is to be mounted. Throws ConfigError; then nothing is left open. */
  #open(configs: readonly VfsMountConfig[]): Backend[] {
    const opened: Backend[] = [];
    try {
      for (const config of configs) opened.push(this.#openOne(config));
      return opened;
    } catch (error) {
      for (const backend of opened) this.#dispose(backend);
      throw error;
    }
  }

  #openOne(config: VfsMountConfig): Backend {
    const claim = config.overlay === undefined ? undefined : new OverlayClaim(config.overlay);
    try {
      const { memory: mapped, ...shared } = this.#makeShare(config);
      const fs = makeBackend(shared, mapped, this.#thread);
      const { address, size } = mapped;
      const published = { ...shared, memory: { address, size } };
      return { config, published, fs, waiters: fs.lockWaiters(), mapped, claim };
    } catch (error) {
      claim?.release();
      throw error;
    }
  }

  /** Opens what is served, and makes what its threads share. */
  #makeShare({
    passthrough,
    overlay,
  }: VfsMountConfig): PublishedShare & { readonly memory: Memory } {
    return overlay === undefined
      ? { kind: "passthrough", ...sharePassthrough(passthrough, this.#times) }
      : { kind: "overlay", ...overlayModule().shareOverlay(settleOverlay(overlay), this.#times) };
  }

  #mount(backend: Backend): void {
    const { path, ids } = backend.config;
    this.#backends.set(this.vfs.mount(backend.fs, path, ids), backend);
  }

  #publish(): void {
    const backends = Object.fromEntries(
      [...this.#backends].map(([id, { published }]) => [id, published]),
    );
    const published: Published = { state: this.vfs.state, backends };
    this.#share.publish(JSON.stringify(published));
  }

  /** From now on changes are told to the kernel. */
  connected(connection: Connection, device: number): void {
    this.#device = device;
    this.#notifier = new Notifier(device);
    this.vfs.connected(connection, device);
  }

  /**
   * Makes the mounts be as a new configuration says: mounts what was added, unmounts what was
   * removed, and says what changed, which stays as it was. Throws ConfigError or VfsError; then
   * nothing has changed.
   */
  async reload(config: VfsConfig): Promise<void> {
    const before = new Map([...this.#backends.values()].map(({ config: one }) => [one.path, one]));
    const wanted = new Set(config.mounts.map(({ path }) => path));
    const added = this.#open(config.mounts.filter(({ path }) => !before.has(path)));
    try {
      for (const { fs, config: one } of added) this.vfs.agree(fs, one.path, one.ids);
    } catch (error) {
      for (const backend of added) this.#dispose(backend);
      throw error;
    }
    const removed = [...before.keys()].filter((path) => !wanted.has(path));
    for (const mount of config.mounts) {
      const one = before.get(mount.path);
      if (one !== undefined && JSON.stringify(one) !== JSON.stringify(mount))
        log.warn(
          `${mount.path} has changed in the configuration and stays as it was; ` +
            "to have it changed, remove it, reload, and add it again",
        );
    }
    if (JSON.stringify(config.ids) !== JSON.stringify(this.#ids))
      log.warn("the mapping of ids has changed in the configuration and stays as it was");
    const ended = removed.map((path) => this.#end(path));
    for (const backend of added) this.#mount(backend);
    if (added.length + removed.length > 0) this.#publish();
    for (const path of [...removed, ...added.map((backend) => backend.config.path)])
      this.#tell(path);
    for (const backend of added) {
      const { path } = backend.config;
      log.info(`mounted ${sourceName(backend.config)} at ${path}`);
    }
    for (const path of removed) log.info(`unmounted ${path}`);
    await this.#bury(ended);
  }

  #end(path: string): Backend {
    const id = this.vfs.mountId(path)!;
    const backend = this.#backends.get(id)!;
    this.vfs.umount(path);
    this.#backends.delete(id);
    return backend;
  }

  #tell(path: string): void {
    if (this.#notifier === undefined) return;
    const result = this.vfs.invalidate(this.#notifier, path);
    if (result < 0) log.debug(`the kernel was not told about ${path}: ${errnoMessage(result)}`);
  }

  /** Ends what workers may still have in hand. */
  async #bury(backends: readonly Backend[]): Promise<void> {
    if (backends.length === 0) return;
    // Who waits for a lock is answered now; no one begins to wait any more.
    const isOver = this.#activity.untilDone();
    for (let pause = SHORTEST_PAUSE_MS; !isOver(); pause = Math.min(2 * pause, LONGEST_PAUSE_MS))
      await Bun.sleep(pause);
    for (const backend of backends) this.#dispose(backend);
  }

  #dispose({ fs, waiters, mapped, claim }: Backend): void {
    waiters?.stop();
    fs.dispose(this.#device);
    claim?.release();
    munmap(mapped.address, mapped.size);
  }

  /** The waiters for locks are to be looked at. */
  locksChanged(): void {
    for (const { waiters } of this.#backends.values()) waiters?.changed();
  }

  /** The file systems, for what is to be said about them. */
  get mounted(): readonly { config: VfsMountConfig; fs: BackendFs }[] {
    return [...this.#backends.values()];
  }

  stop(): void {
    for (const { waiters } of this.#backends.values()) waiters?.stop();
  }
}
