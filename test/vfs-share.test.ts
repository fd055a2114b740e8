// What is mounted where, handed from the thread that mounts to those that serve.

import { expect, setDefaultTimeout, test } from "bun:test";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import type { Memory } from "../src/memory.ts";
import { VfsShare } from "../src/vfs-share.ts";
import { LAST, textOf, type ReadResult, type ReadTask } from "./vfs-share-worker.ts";

// On a loaded machine everything takes its time.
setDefaultTimeout(60_000);

function area(): { memory: Memory; offset: number; share: () => VfsShare } {
  const layout = new SharedLayout();
  layout.area("another", 100);
  const offset = VfsShare.area(layout);
  const memory = createShared(layout);
  return { memory, offset, share: () => new VfsShare(memory, offset) };
}

test("nothing is news until something is published, and then it is once", () => {
  const { share } = area();
  const [main, worker] = [share(), share()];
  expect(worker.isNews).toBe(false);
  main.publish("one");
  expect(worker.isNews).toBe(true);
  expect(worker.read()).toBe("one");
  expect(worker.isNews).toBe(false);
  main.publish("two");
  main.publish("three");
  expect(worker.isNews).toBe(true);
  expect(worker.read()).toBe("three");
  expect(worker.isNews).toBe(false);
});

test("every reader has its own news, also one who comes late", () => {
  const { share } = area();
  const [main, first] = [share(), share()];
  main.publish("text");
  expect(first.read()).toBe("text");
  const late = share();
  expect([first.isNews, late.isNews]).toEqual([false, true]);
  expect(late.read()).toBe("text");
  // What is not news can be read again.
  expect(first.read()).toBe("text");
});

test("the same text published again is news", () => {
  const { share } = area();
  const [main, worker] = [share(), share()];
  for (let times = 0; times < 3; times++) {
    main.publish("same");
    expect(worker.isNews).toBe(true);
    expect(worker.read()).toBe("same");
  }
});

test("texts may be of any length, and of any characters", () => {
  const { share } = area();
  const [main, worker] = [share(), share()];
  for (const text of ["x".repeat(100_000), "short", "", "é 漢 \u{1f600}\n\0", "y".repeat(4096)]) {
    main.publish(text);
    expect(worker.read()).toBe(text);
  }
});

test("threads read whole texts, while others are published over them", async () => {
  const { memory, offset, share } = area();
  const main = share();
  const { address, size } = memory;
  const task: ReadTask = { address, size, offset };
  const readers = [1, 2].map(() => {
    const url = new URL("./vfs-share-worker.ts", import.meta.url).href;
    const worker = new Worker(url, { workerData: task } as WorkerOptions);
    const started = Promise.withResolvers<void>();
    const done = Promise.withResolvers<ReadResult>();
    worker.addEventListener("message", ({ data }) => {
      if (data === "started") started.resolve();
      else done.resolve(data as ReadResult);
    });
    worker.addEventListener("error", ({ message }) => done.reject(new Error(message)));
    return { started: started.promise, done: done.promise };
  });
  await Promise.all(readers.map(({ started }) => started));
  for (let round = 0; round < 3000; round++) main.publish(textOf(round));
  main.publish(LAST);
  for (const { reads, wrong } of await Promise.all(readers.map(({ done }) => done))) {
    expect(wrong).toBe(0);
    expect(reads).toBeGreaterThan(0);
  }
});
