// The known names of an overlay's nodes: records, chains of buckets, and pieces of long names.

import { expect, test } from "bun:test";
import { OVERLAY_NAME_BUCKETS } from "../src/limits.ts";
import { PAGE_SIZE, type Memory } from "../src/memory.ts";
import type { EntryName } from "../src/overlay-name.ts";
import { NameTable, type NameAreas } from "../src/overlay-names.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import { munmap } from "../src/syscall.ts";
import { entryName } from "./support-overlay-nodes.ts";

class Fixture implements Disposable {
  readonly names: NameTable;
  readonly memory: Memory;
  readonly areas: NameAreas;
  readonly #release: () => void;

  constructor() {
    const layout = new SharedLayout();
    const areas = NameTable.areas(layout);
    const memory = createShared(layout);
    this.#release = () => munmap(memory.address, memory.size);
    this.names = new NameTable(memory, areas);
    this.memory = memory;
    this.areas = areas;
  }

  [Symbol.dispose](): void {
    this.#release();
  }
}

/** Around the sizes at which a further record begins: 32 bytes, then 56 each. */
const LENGTHS = [1, 31, 32, 33, 87, 88, 89, 144, 145, 254, 255];
const named = (length: number, last = "z"): string => "x".repeat(length - 1) + last;

test.each(LENGTHS)("a name of %d bytes is found again, and only it", (length) => {
  using fixture = new Fixture();
  const { names } = fixture;
  const record = names.add(7, entryName(named(length)), 42, 9);
  expect(names.find(7, entryName(named(length)))).toBe(record);
  expect(names.find(8, entryName(named(length)))).toBe(0);
  expect(names.find(7, entryName(named(length, "y")))).toBe(0);
  if (length > 1) expect(names.find(7, entryName(named(length - 1)))).toBe(0);
  if (length < 255) expect(names.find(7, entryName(`${named(length)}z`))).toBe(0);
  expect([names.parent(record), names.node(record), names.sibling(record)]).toEqual([7, 42, 9]);
  const read = entryName("something that is longer than it may be");
  names.read(record, read);
  expect(read.text).toBe(named(length));
  names.remove(record);
  expect(names.find(7, entryName(named(length)))).toBe(0);
});

test("names are bytes: none is taken for another that looks alike", () => {
  using fixture = new Fixture();
  const { names } = fixture;
  const texts = ["\x80", "\xc2\x80", "\xff", "a\x01", "a", "A"];
  const records = texts.map((text, index) => names.add(1, entryName(text), index + 1, 0));
  expect(texts.map((text) => names.find(1, entryName(text)))).toEqual(records);
});

test("what a name took is used again, pieces included", () => {
  using fixture = new Fixture();
  const { names } = fixture;
  const long = entryName(named(255));
  const first = names.add(1, long, 1, 0);
  names.remove(first);
  const records = new Set<number>();
  for (let times = 0; times < 1000; times++) {
    const record = names.add(1, long, 1, 0);
    records.add(record);
    names.remove(record);
  }
  // The name and its four pieces.
  expect(records.size).toBeLessThanOrEqual(5);
});

test("names that share a bucket are told apart, whichever goes first", () => {
  using fixture = new Fixture();
  const { names } = fixture;
  const count = 20_000;
  const records = Array.from({ length: count }, (_, index) =>
    names.add(3, entryName(`file-${index}`), index + 1, 0),
  );
  for (let index = 0; index < count; index += 2) names.remove(records[index]!);
  for (let index = 0; index < count; index++) {
    const expected = index % 2 === 0 ? 0 : records[index]!;
    expect(names.find(3, entryName(`file-${index}`))).toBe(expected);
  }
});

test("names are found whatever the number of buckets, by another worker too", () => {
  using fixture = new Fixture();
  const { names, memory, areas } = fixture;
  const other = new NameTable(memory, areas);
  const count = 5000;
  const nameOf = (index: number): EntryName => entryName(`name ${index}`);
  const records: number[] = [];
  for (let index = 0; index < count; index++) {
    records.push(names.add(index % 7, nameOf(index), index + 1, 0));
    for (const known of [0, index >> 1, index])
      expect(other.find(known % 7, nameOf(known))).toBe(records[known]!);
  }
  expect(new Set(records).size).toBe(count);
  for (let index = 0; index < count; index++)
    expect(names.find(index % 7, nameOf(index))).toBe(records[index]!);
});

test("few names have few pages of buckets", () => {
  using fixture = new Fixture();
  const { names, memory, areas } = fixture;
  for (let index = 0; index < 10_000; index++) names.add(1, entryName(`name ${index}`), 1, 0);
  const first = areas.buckets >> 2;
  const used = memory.i32.subarray(first, first + OVERLAY_NAME_BUCKETS);
  const pages = new Set<number>();
  for (let index = 0; index < used.length; index++)
    if (used[index] !== 0) pages.add(Math.floor(((first + index) * 4) / PAGE_SIZE));
  // As many as 10,000 words take, where they begin within a page.
  expect(pages.size).toBeLessThanOrEqual(Math.ceil((10_000 * 4) / PAGE_SIZE) + 1);
});
