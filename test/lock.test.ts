// The lock between threads.

import { expect, setDefaultTimeout, test } from "bun:test";
import { Lock } from "../src/lock.ts";
import { map } from "../src/memory.ts";
import { runShared } from "./shared-worker.ts";

// On a loaded machine everything takes its time.
setDefaultTimeout(60_000);

const LOCK = 64;
const COUNTER = 128;
const CONTENDED = 2;

test("no increment of a million is lost between four threads", async () => {
  const memory = map(4096);
  const { address, size } = memory;
  const task = { name: "count", address, size, lock: LOCK, counter: COUNTER } as const;
  const workers = Array.from({ length: 4 }, () => runShared({ ...task, times: 250_000 }));
  await Promise.all(workers.map(({ done }) => done));
  expect(memory.i32[COUNTER >> 2]).toBe(1_000_000);
  expect(memory.i32[LOCK >> 2]).toBe(0);
});

test("who waits for the lock gets it when it is released, and not before", async () => {
  const memory = map(4096);
  const { address, size } = memory;
  const lock = new Lock(memory, LOCK);
  lock.acquire();
  const waiter = runShared({ name: "take", address, size, lock: LOCK, counter: COUNTER });
  // The waiter leaves this mark before it goes to sleep.
  while (Atomics.load(memory.i32, LOCK >> 2) !== CONTENDED) await new Promise(setImmediate);
  expect(memory.i32[COUNTER >> 2]).toBe(0);
  lock.release();
  await waiter.done;
  expect(memory.i32[COUNTER >> 2]).toBe(1);
  expect(memory.i32[LOCK >> 2]).toBe(0);
});

test("locks in one memory are independent", () => {
  const memory = map(4096);
  const first = new Lock(memory, 0);
  const second = new Lock(memory, 4);
  first.acquire();
  second.acquire(); // It would wait for ever.
  first.release();
  expect([memory.i32[0], memory.i32[1]]).toEqual([0, 1]);
  second.release();
  first.acquire();
  expect([memory.i32[0], memory.i32[1]]).toEqual([1, 0]);
});
