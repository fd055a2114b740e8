// The known names of an overlay's nodes: records, chains of buckets, and pieces of long names.

import { expect, test } from "bun:test";
import { NameTable } from "../src/overlay-names.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import { munmap } from "../src/syscall.ts";
import { entryName } from "./support-overlay-nodes.ts";

class Fixture implements Disposable {
  readonly names: NameTable;
  readonly #release: () => void;

  constructor() {
    const layout = new SharedLayout();
    const areas = NameTable.areas(layout);
    const memory = createShared(layout);
    this.#release = () => munmap(memory.address, memory.size);
    this.names = new NameTable(memory, areas);
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
  // Among so many, a hundred share a bucket of the two million with another.
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
