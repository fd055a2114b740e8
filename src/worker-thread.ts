// The main thread's side of a worker: how it is started, what it is told, and what it says.
// It is a Worker of the web, since each thread takes 5 ms to load node:worker_threads.

import type { Connection } from "./filesystem.ts";
import type { Format, Level, OnceLevel } from "./log.ts";
import type { MountedPlace, MountOptions } from "./mount.ts";
import type { Place } from "./mount-point.ts";

/** What a worker is told. */
export type WorkerTask = ServeTask | MountTask | UnmountTask;

/** To get ready to serve; it begins when it is told what, by a ServeOrder. */
export interface ServeTask {
  readonly role: "serve";
  /** Its number, from 0 on. */
  readonly worker: number;
  /** The memory that all threads share, and where in it their activity and the mounts are. */
  readonly memory: { readonly address: number; readonly size: number };
  readonly areas: DaemonAreas;
  /** Whether what is mounted stays the same. */
  readonly fixed: boolean;
  readonly logLevel: Level;
  readonly logFormat: Format;
  readonly debug: boolean;
}

export interface ServeOrder {
  readonly device: number;
  /** The CPUs whose queues it serves by io_uring; none to serve `device`. */
  readonly queues: readonly number[];
  /** The CPUs that it runs on; none for all. */
  readonly cpus: readonly number[];
  readonly connection: Connection;
}

/** Where in shared memory the threads of the daemon meet. */
export interface DaemonAreas {
  readonly activity: number;
  readonly readers: number;
  readonly vfs: number;
}

/** To mount in another mount namespace. */
interface MountTask {
  readonly role: "mount";
  readonly options: MountOptions;
  readonly sources: readonly Place[];
  readonly device: number;
}

interface UnmountTask {
  readonly role: "unmount";
  readonly place: MountedPlace;
  readonly fusermount: string | undefined;
  readonly how: "normal" | "lazy" | "if dead";
}

/** What a worker says. */
export type WorkerMessage =
  | { readonly type: "ready" }
  /** The mount is gone. */
  | { readonly type: "ended" }
  | { readonly type: "failed"; readonly reason: string }
  /** The waiters for locks are to be looked at. */
  | { readonly type: "locks" }
  /** To be logged, if no worker has said so before. */
  | { readonly type: "once"; readonly level: OnceLevel; readonly message: string }
  | { readonly type: "mounted"; readonly mounted: MountedPlace }
  | { readonly type: "unmounted"; readonly result: number };

/** Hears what a worker says, and a "failed" if it dies without a word. */
type Hear = (message: WorkerMessage) => void;

/** A thread that does one task. It takes a while to start, so it can be had before there is one. */
export class WorkerThread {
  readonly #worker: Worker;
  #hear: Hear | undefined;

  constructor() {
    this.#worker = new Worker(new URL("./worker-main.ts", import.meta.url));
    this.#worker.addEventListener("error", ({ message }) => {
      if (this.#hear === undefined) throw new Error(message);
      this.#hear({ type: "failed", reason: message });
    });
  }

  run(task: WorkerTask, hear: Hear): void {
    this.#hear = hear;
    this.#worker.addEventListener("message", ({ data }: MessageEvent<WorkerMessage>) => hear(data));
    this.#worker.postMessage(task);
  }

  /** What to serve, for one that was told to get ready. */
  serve(order: ServeOrder): void {
    this.#worker.postMessage(order);
  }
}
