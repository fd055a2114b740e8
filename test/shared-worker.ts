// What threads do in the tests of shared memory: each is a worker that is told where the memory
// lies.

import { parentPort, workerData } from "node:worker_threads";
import { Activity } from "../src/activity.ts";
import { Lock } from "../src/lock.ts";
import { Memory } from "../src/memory.ts";
import { RecordTable } from "../src/shared-table.ts";
import { i32, struct, u32 } from "../src/struct.ts";

export const record = struct("record", { next: u32, pins: i32, data: i32, more: i32 });

/** Adds 1 to a number `times` times, each time under the lock. */
interface CountTask {
  readonly name: "count";
  readonly lock: number;
  readonly counter: number;
  readonly times: number;
}

/** Takes the lock and leaves a 1 in `counter`. */
interface TakeTask {
  readonly name: "take";
  readonly lock: number;
  readonly counter: number;
}

/**
 * Pins and unpins the records of a table one after the other until `stop` is not 0, and counts in
 * `buried` for each record how often it was the one that has to free it.
 */
interface PinTask {
  readonly name: "pin";
  readonly table: number;
  readonly capacity: number;
  readonly stop: number;
  readonly buried: number;
}

/**
 * Serves a request for each new number in `sent`: says so only a while after, as if it came from
 * reading it, and leaves the number in `served` at its end. Ends after number `rounds`.
 */
interface ServeTask {
  readonly name: "serve";
  readonly activity: number;
  readonly sent: number;
  readonly served: number;
  readonly rounds: number;
}

export type SharedTask = { readonly address: number; readonly size: number } & (
  CountTask | TakeTask | PinTask | ServeTask
);

/** Does a task on a thread of its own. `started` and `done` resolve when it was begun and ended. */
export function runShared(task: SharedTask): { started: Promise<void>; done: Promise<void> } {
  const worker = new Worker(import.meta.url, { workerData: task } as WorkerOptions);
  const started = Promise.withResolvers<void>();
  const done = Promise.withResolvers<void>();
  worker.addEventListener("message", ({ data }) => (data === "started" ? started : done).resolve());
  worker.addEventListener("error", ({ message }) => done.reject(new Error(message)));
  return { started: started.promise, done: done.promise };
}

function perform(task: SharedTask): void {
  const memory = new Memory(task.address, task.size);
  const words = memory.i32;
  if (task.name === "pin") return pin(memory, task);
  if (task.name === "serve") return serve(memory, task);
  const lock = new Lock(memory, task.lock);
  const at = task.counter >> 2;
  if (task.name === "take") {
    lock.acquire();
    words[at] = 1;
    lock.release();
    return;
  }
  for (let done = 0; done < task.times; done++) {
    lock.acquire();
    words[at]! += 1;
    lock.release();
  }
}

function pin(memory: Memory, { table: offset, capacity, stop, buried }: PinTask): void {
  const words = memory.i32;
  const table = new RecordTable(memory, offset, record, capacity);
  while (Atomics.load(words, stop >> 2) === 0) {
    for (let index = 1; index <= capacity; index++) {
      table.pin(index);
      if (table.unpin(index)) Atomics.add(words, (buried >> 2) + index, 1);
    }
  }
}

function serve(memory: Memory, { activity: offset, sent, served, rounds }: ServeTask): void {
  const words = memory.i32;
  const activity = new Activity(memory, offset, 1);
  activity.enter();
  for (let round = 1; round <= rounds; round++) {
    // Without sleep: a worker that sleeps has no request.
    while (Atomics.load(words, sent >> 2) !== round);
    spin(0.3);
    activity.begin();
    spin(0.3);
    Atomics.store(words, served >> 2, round);
    activity.end();
  }
}

function spin(milliseconds: number): void {
  const end = performance.now() + milliseconds;
  while (performance.now() < end);
}

if (workerData !== null && parentPort !== null) {
  parentPort.postMessage("started");
  perform(workerData as SharedTask);
  parentPort.postMessage("done");
}
