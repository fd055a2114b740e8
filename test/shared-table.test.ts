// Shared memory: its layout, and the tables of records in it.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { AssertionError } from "../src/assert.ts";
import { ENFILE } from "../src/errno.ts";
import { map } from "../src/memory.ts";
import { checkShared, createShared, RecordTable, SharedLayout } from "../src/shared-table.ts";
import { record, runShared } from "./shared-worker.ts";

// On a loaded machine everything takes its time.
setDefaultTimeout(60_000);

function layoutOf(...areas: readonly (readonly [name: string, size: number])[]): SharedLayout {
  const layout = new SharedLayout();
  for (const [name, size] of areas) layout.area(name, size);
  return layout;
}

function table(capacity: number): RecordTable {
  return new RecordTable(map(RecordTable.size(record, capacity)), 0, record, capacity);
}

describe("the layout", () => {
  test("gives areas that lie behind the header, on cache lines of their own, and don't overlap", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 10_000 })), (sizes) => {
        const layout = new SharedLayout();
        let end = 64;
        for (const size of sizes) {
          const offset = layout.area("area", size);
          expect(offset % 64).toBe(0);
          expect(offset).toBeGreaterThanOrEqual(end);
          end = offset + size;
        }
        expect(layout.size).toBe(end);
      }),
    );
  });

  test("of memory is recognised, and memory of another is refused", () => {
    const layout = layoutOf(["one", 100], ["two", 200]);
    const memory = createShared(layout);
    expect(() => checkShared(memory, layoutOf(["one", 100], ["two", 200]))).not.toThrow();
    const others = [
      layoutOf(["one", 100], ["two", 201]),
      layoutOf(["two", 100], ["one", 200]),
      layoutOf(["one", 100]),
      layoutOf(["one", 100], ["two", 200], ["three", 1]),
    ];
    for (const other of others) expect(() => checkShared(memory, other)).toThrow(AssertionError);
  });

  test("is checked together with magic and version", () => {
    const layout = layoutOf(["one", 100]);
    expect(() => checkShared(map(4096), layout)).toThrow("the shared state was made by another");
    for (const at of [0, 4]) {
      const memory = createShared(layout);
      memory.bytes[at]!++;
      expect(() => checkShared(memory, layout)).toThrow("the shared state was made by another");
    }
  });

  test("has memory that is as large as it says, and zero", () => {
    const layout = layoutOf(["one", 5000]);
    const memory = createShared(layout);
    expect(memory.size).toBeGreaterThanOrEqual(layout.size);
    expect(memory.bytes.subarray(64).every((byte) => byte === 0)).toBe(true);
  });
});

describe("records", () => {
  test("are numbered from 1, until there are no more", () => {
    const records = table(3);
    expect([1, 2, 3, 4].map(() => records.allocate())).toEqual([1, 2, 3, -ENFILE]);
    expect(records.count).toBe(3);
    expect(records.used).toBe(4);
    expect([-1, 0, 1, 3, 4, 2 ** 40].map((index) => records.has(index))).toEqual([
      false,
      false,
      true,
      true,
      false,
      false,
    ]);
  });

  test("keep what their last user left in them, except for the link", () => {
    const records = table(2);
    const index = records.allocate();
    const at = records.at(index);
    records.words.set([7, 0, 8, 9], at);
    expect(records.close(index)).toBe(true);
    records.free(index);
    expect(records.allocate()).toBe(index);
    expect([...records.words.subarray(at, at + 4)]).toEqual([0, 0, 8, 9]);
  });

  test("are never given out twice", () => {
    const CAPACITY = 5;
    // A number below 0.5 allocates, others free one of those in use.
    const choices = fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }));
    fc.assert(
      fc.property(choices, (steps) => {
        const records = table(CAPACITY);
        const inUse: number[] = [];
        for (const step of steps) {
          if (step < 0.5) {
            const index = records.allocate();
            if (inUse.length === CAPACITY) expect(index).toBe(-ENFILE);
            else expect(inUse).not.toContain(index);
            if (index > 0) inUse.push(index);
          } else if (inUse.length > 0) {
            const [index] = inUse.splice(Math.floor((step - 0.5) * 2 * inUse.length), 1);
            expect(records.close(index!)).toBe(true);
            records.free(index!);
          }
          expect(records.count).toBe(inUse.length);
        }
      }),
    );
  });
});

describe("a pinned record", () => {
  test("is not closed by those who only try", () => {
    const records = table(1);
    const index = records.allocate();
    expect(records.pin(index)).toBe(true);
    expect(records.tryClose(index)).toBe(false);
    expect(records.pin(index)).toBe(true);
    expect([records.unpin(index), records.unpin(index)]).toEqual([false, false]);
    expect(records.tryClose(index)).toBe(true);
    expect(records.tryClose(index)).toBe(false);
    records.reopen(index);
    expect(records.pin(index)).toBe(true);
  });

  test("can be reopened while somebody waits who has tried to pin it", () => {
    const records = table(1);
    const index = records.allocate();
    expect(records.tryClose(index)).toBe(true);
    expect(records.pin(index)).toBe(false);
    records.reopen(index);
    expect(records.tryClose(index)).toBe(false); // the late pin counts
    expect(records.unpin(index)).toBe(false);
    expect(records.tryClose(index)).toBe(true);
  });

  test("that is closed is left to the last one to unpin it", () => {
    const records = table(1);
    const index = records.allocate();
    records.pin(index);
    records.pin(index);
    expect(records.close(index)).toBe(false);
    expect(records.pin(index)).toBe(false);
    expect([1, 2, 3].map(() => records.unpin(index))).toEqual([false, false, true]);
  });
});

describe("a free record", () => {
  test("can be pinned and unpinned by those who come late, without being freed again", () => {
    const records = table(2);
    const index = records.allocate();
    expect(records.close(index)).toBe(true);
    expect(records.pin(index)).toBe(false); // between the closing and the freeing
    expect(records.unpin(index)).toBe(false);
    records.free(index);
    expect(records.pin(index)).toBe(false);
    expect(records.unpin(index)).toBe(false);
    expect([records.allocate(), records.allocate()]).toEqual([1, 2]);
  });

  test("is given out in order while one who came late still has it pinned", () => {
    const records = table(1);
    const index = records.allocate();
    expect(records.close(index)).toBe(true);
    records.free(index);
    expect(records.pin(index)).toBe(false);
    expect(records.allocate()).toBe(index);
    expect(records.unpin(index)).toBe(false);
    expect(records.pin(index)).toBe(true);
    expect(records.close(index)).toBe(false);
    expect(records.unpin(index)).toBe(true);
  });
});

test("of all threads that use a record, exactly one sees that it has to free it", async () => {
  const CAPACITY = 200;
  const layout = new SharedLayout();
  const stop = layout.area("stop", 4);
  const buried = layout.area("buried", (CAPACITY + 1) * 4);
  const offset = layout.area("table", RecordTable.size(record, CAPACITY));
  const memory = createShared(layout);
  const { address, size } = memory;
  const records = new RecordTable(memory, offset, record, CAPACITY);
  for (let index = 1; index <= CAPACITY; index++) expect(records.allocate()).toBe(index);

  const task = { name: "pin", address, size, table: offset, capacity: CAPACITY, stop, buried };
  const workers = [1, 2, 3].map(() => runShared({ ...task, name: "pin" }));
  await Promise.all(workers.map(({ started }) => started));
  const counts = memory.i32.subarray(buried >> 2, (buried >> 2) + CAPACITY + 1);
  for (let index = 1; index <= CAPACITY; index++) {
    if (records.close(index)) Atomics.add(counts, index, 1);
    if (index % 10 === 0) await new Promise(setImmediate);
  }
  // Whoever had one pinned at the end has unpinned it when it stops.
  Atomics.store(memory.i32, stop >> 2, 1);
  await Promise.all(workers.map(({ done }) => done));
  expect([...counts.subarray(1)]).toEqual(Array.from({ length: CAPACITY }, () => 1));
});
