// Workers: threads that block in system calls so that the main thread need not. Most serve requests
// until the mount is gone; some do one thing, such as unmounting, and end.

import { FUSE_OVER_IO_URING } from "./abi-fuse.ts";
import { Activity } from "./activity.ts";
import { log } from "./log.ts";
import { Memory } from "./memory.ts";
import { mountInNamespace, MountError, unmountPlace } from "./mount.ts";
import { Credentials } from "./passthrough-credentials.ts";
import { Channel, GONE } from "./session.ts";
import { Readers } from "./session-readers.ts";
import { UringChannel } from "./session-uring.ts";
import { VfsShare } from "./vfs-share.ts";
import type { ServeOrder, ServeTask, WorkerMessage, WorkerTask } from "./worker-thread.ts";
import { WorkerVfs } from "./worker-vfs.ts";

/** Does what the worker was told; `order` tells what to serve, if it is to serve. */
export async function runTask(task: WorkerTask, order: Promise<ServeOrder>): Promise<void> {
  const say = (message: WorkerMessage): void => postMessage(message);
  try {
    if (task.role === "serve") await serveTask(task, order, say);
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

async function serveTask(
  task: ServeTask,
  order: Promise<ServeOrder>,
  say: (message: WorkerMessage) => void,
): Promise<void> {
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
  activity.end();
  const { device, connection, queues, cpus } = await order;
  const hasRings = (connection.flags2 & FUSE_OVER_IO_URING) !== 0;
  const readers = hasRings ? undefined : new Readers(memory, task.areas.readers, activity, device);
  const options = { tracer, activity, readers };
  const channel =
    queues.length > 0
      ? new UringChannel(device, vfs, connection, { queues, cpus }, options)
      : new Channel(device, vfs, connection, options);
  Bun.unsafe.setJITPolicy(1); // The start is over, see scripts/build.ts.
  say({ type: "ready" });
  while (channel.serveOne() !== GONE);
  readers?.close();
  say({ type: "ended" });
}
