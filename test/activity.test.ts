// What the workers are doing: waiting for what others have in hand.

import { expect, test } from "bun:test";
import { Activity } from "../src/activity.ts";
import { SETTLE_QUEUED } from "../src/limits.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import { runShared } from "./shared-worker.ts";

const ROUNDS = 20;

function makeActivities(): [Activity, Activity] {
  const layout = new SharedLayout();
  const area = Activity.area(layout);
  const memory = createShared(layout);
  return [new Activity(memory, area, 0), new Activity(memory, area, 1)];
}

test("requests that nobody has read yet are waited for", () => {
  const [activity] = makeActivities();
  let waiting = 3;
  activity.queue = { callForWaiting: () => waiting-- > 0 };
  activity.settle();
  expect(waiting).toBe(-1);
});

test("requests that come all the time are not", () => {
  const [activity, other] = makeActivities();
  let done = 0;
  activity.queue = {
    callForWaiting() {
      other.begin();
      other.end();
      done++;
      return true;
    },
  };
  activity.settle();
  expect(done).toBe(SETTLE_QUEUED + 1);
});

test("a request that a worker has read but not begun is waited for", async () => {
  const layout = new SharedLayout();
  const area = Activity.area(layout);
  const sent = layout.area("sent", 4);
  const served = layout.area("served", 4);
  const memory = createShared(layout);
  const { address, size } = memory;
  const activity = new Activity(memory, area, 0);
  activity.enter();
  const task = { name: "serve", activity: area, sent, served, rounds: ROUNDS } as const;
  const worker = runShared({ address, size, ...task });
  await worker.started;
  let missed = 0;
  for (let round = 1; round <= ROUNDS; round++) {
    Atomics.store(memory.i32, sent >> 2, round);
    activity.settle();
    if (Atomics.load(memory.i32, served >> 2) !== round) missed++;
    while (Atomics.load(memory.i32, served >> 2) !== round) await Bun.sleep(0);
  }
  await worker.done;
  // Not all: it waits for some milliseconds only, and on a busy machine that may be too short.
  expect(missed).toBeLessThan(ROUNDS / 2);
});
