// Workers: threads that block in system calls so that the main thread need not. Most serve requests
// until the mount is gone; some do one thing, such as unmounting, and end. The executable is one
// file, so a worker runs the same program, and main.ts sends it here.

import { parentPort, Worker } from "node:worker_threads";
import { Activity } from "./activity.ts";
import type { Connection } from "./filesystem.ts";
import { log, type Format, type Level, type OnceLevel } from "./log.ts";
import { Memory } from "./memory.ts";
import {
  mountInNamespace,
  MountError,
  unmountPlace,
  type MountedPlace,
  type MountOptions,
} from "./mount.ts";
import type { Place } from "./mount-point.ts";
import { Credentials } from "./passthrough-credentials.ts";
import { Channel, GONE } from "./session.ts";
import { UringChannel } from "./session-uring.ts";
import { VfsShare } from "./vfs-share.ts";
import { WorkerVfs } from "./worker-vfs.ts";

/** What a worker is told. */
export type WorkerTask = ServeTask | MountTask | UnmountTask;

export interface ServeTask {
  readonly role: "serve";
  /** Its number, from 0 on. */
  readonly worker: number;
  readonly device: number;
  /** The CPUs whose queues it serves by io_uring; none to serve `device`. */
  readonly queues: readonly number[];
  /** The CPUs that it runs on; none for all. */
  readonly cpus: readonly number[];
  readonly connection: Connection;
  /** The memory that all threads share, and where in it their activity and the mounts are. */
  readonly memory: { readonly address: number; readonly size: number };
  readonly areas: DaemonAreas;
  /** Whether what is mounted stays the same. */
  readonly fixed: boolean;
  readonly logLevel: Level;
  readonly logFormat: Format;
  readonly debug: boolean;
}

/** Where in shared memory the threads of the daemon meet. */
export interface DaemonAreas {
  readonly activity: number;
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

/** Starts a worker. `hear` gets what it says, and a "failed" if it dies without a word. */
export function spawnWorker(task: WorkerTask, hear: (message: WorkerMessage) => void): void {
  const isCompiled = Bun.main.startsWith("/$bunfs/");
  const entry = isCompiled ? Bun.main : new URL("./main.ts", import.meta.url);
  const worker = new Worker(entry, { workerData: task });
  worker.on("message", hear);
  worker.on("error", (error) => hear({ type: "failed", reason: reasonFor(error) }));
}

/** Does what the worker was told. */
export async function runWorker(task: WorkerTask): Promise<void> {
  const say = (message: WorkerMessage): void => parentPort?.postMessage(message);
  try {
    if (task.role === "serve") await serveTask(task, say);
    else if (task.role === "mount")
      say({ type: "mounted", mounted: mountInNamespace(task.options, task.sources, task.device) });
    else say({ type: "unmounted", result: unmountPlace(task.place, task.how, task.fusermount) });
  } catch (error) {
    say({ type: "failed", reason: reasonFor(error) });
  }
}

function reasonFor(error: unknown): string {
  if (error instanceof MountError) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

async function serveTask(task: ServeTask, say: (message: WorkerMessage) => void): Promise<void> {
  log.configure({
    level: task.debug ? "debug" : task.logLevel,
    format: task.logFormat,
    sayOnce: (level, message) => say({ type: "once", level, message }),
  });
  const memory = new Memory(task.memory.address, task.memory.size);
  const activity = new Activity(memory, task.areas.activity, task.worker);
  const credentials = new Credentials();
  credentials.prepare();
  const thread = { activity, credentials, locksChanged: () => say({ type: "locks" }) };
  const tracer = task.debug ? new (await import("./debug.ts")).DebugTracer() : undefined;
  // What is looked at meanwhile must not be unmapped, as during a request.
  activity.begin();
  const { vfs } = new WorkerVfs(new VfsShare(memory, task.areas.vfs), thread, task.fixed);
  const { device, connection, queues, cpus } = task;
  const options = { tracer, activity };
  const channel =
    queues.length > 0
      ? new UringChannel(device, vfs, connection, { queues, cpus }, options)
      : new Channel(device, vfs, connection, options);
  activity.end();
  say({ type: "ready" });
  while (channel.serveOne() !== GONE);
  say({ type: "ended" });
}
