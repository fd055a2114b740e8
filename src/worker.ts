// A worker: one thread that serves requests until the mount is gone. The executable is one file, so a worker
// runs the same program; main.ts sends it here.

import { parentPort } from "node:worker_threads";
import { DebugTracer } from "./debug.ts";
import type { Connection } from "./filesystem.ts";
import { log, type Format, type Level } from "./log.ts";
import { Memory } from "./memory.ts";
import { PassthroughFs, type PassthroughShare } from "./passthrough.ts";
import { serve } from "./session.ts";

/** What a worker is told. */
export interface WorkerTask {
  readonly role: "serve";
  readonly device: number;
  readonly connection: Connection;
  readonly memory: { readonly address: number; readonly size: number };
  readonly share: PassthroughShare;
  readonly logLevel: Level;
  readonly logFormat: Format;
  readonly debug: boolean;
}

/** What a worker says. */
export type WorkerMessage =
  | { readonly type: "ready" }
  | { readonly type: "ended" }
  | { readonly type: "failed"; readonly reason: string }
  | { readonly type: "locks" };

/** Does what the worker was told. */
export function runWorker(task: WorkerTask): void {
  log.configure({ level: task.logLevel, format: task.logFormat });
  const say = (message: WorkerMessage): void => parentPort?.postMessage(message);
  try {
    const memory = new Memory(task.memory.address, task.memory.size);
    const fs = new PassthroughFs(memory, task.share, () => say({ type: "locks" }));
    say({ type: "ready" });
    serve(task.device, fs, task.connection, task.debug ? { tracer: new DebugTracer() } : {});
    say({ type: "ended" });
  } catch (error) {
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
    say({ type: "failed", reason });
  }
}
