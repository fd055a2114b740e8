// Filters of the names in an overlay's directories: they may send somebody to look for nothing, but
// never keep anybody from what is there. fast-check prints the seed of a failure.

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  OVERLAY_FILTER_FIRST,
  OVERLAY_FILTER_MAX,
  OVERLAY_FILTER_PLACES,
  OVERLAY_FILTER_SIZE,
  OVERLAY_FILTER_WORTH,
  OVERLAY_LAYERS_MAX,
} from "../src/limits.ts";
import { NameFilters, POSITIONS_END } from "../src/overlay-name-filter.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import { munmap } from "../src/syscall.ts";
import { entryName } from "./support-overlay-nodes.ts";

const NODE = 7;
const GENERATION = 3;
/** A name, and the position of the directory that has it; 0 is for a hidden one. */
type Entry = readonly [name: string, position: number];

class Fixture implements Disposable {
  readonly filters: NameFilters;
  /** As two other workers have them. */
  readonly others: NameFilters;
  readonly slow: NameFilters;
  readonly #release: () => void;

  constructor() {
    const layout = new SharedLayout();
    const areas = NameFilters.areas(layout);
    const memory = createShared(layout);
    this.#release = () => munmap(memory.address, memory.size);
    this.filters = new NameFilters(memory, areas);
    this.others = new NameFilters(memory, areas);
    this.slow = new NameFilters(memory, areas);
  }

  make(
    entries: readonly Entry[],
    { node = NODE, end = POSITIONS_END, hasHidden = true, generation = GENERATION } = {},
  ): void {
    this.filters.begin();
    const bytes = Buffer.from(`..${entries.map(([name]) => name).join("")}`, "latin1");
    let at = 2;
    for (const [name, position] of entries) {
      this.filters.add(bytes, at, name.length, position);
      at += name.length;
    }
    this.filters.publish(node, generation, end, hasHidden);
  }

  seek(name: string, node = NODE, generation = GENERATION): NameFilters {
    this.others.seek(node, generation, entryName(name));
    return this.others;
  }

  /** All positions, from 1 up to `last`, at which somebody would look for the name. */
  looks(name: string, last: number): number[] {
    const filters = this.seek(name);
    const positions: number[] = [];
    for (let at = filters.next(1); at <= last; at = filters.next(at + 1)) positions.push(at);
    return positions;
  }

  [Symbol.dispose](): void {
    this.#release();
  }
}

const name = fc.string({ minLength: 1, maxLength: 8, unit: "grapheme-ascii" });
const entry = fc.tuple(name, fc.integer({ min: 0, max: OVERLAY_LAYERS_MAX }));

describe("a filter", () => {
  test("sends nobody past a directory that has the name", () => {
    using fixture = new Fixture();
    fc.assert(
      fc.property(
        fc.array(entry, { maxLength: 200 }),
        fc.integer({ min: 1, max: OVERLAY_LAYERS_MAX + 1 }),
        fc.array(name),
        (entries, end, more) => {
          fixture.make(entries, { end });
          for (const sought of [...entries.map(([text]) => text), ...more]) {
            const looks = new Set(fixture.looks(sought, OVERLAY_LAYERS_MAX));
            for (let at = end; at <= OVERLAY_LAYERS_MAX; at++) expect(looks.has(at)).toBeTrue();
            for (const [text, position] of entries)
              if (text === sought && position > 0) expect(looks.has(position)).toBeTrue();
          }
          for (const [text, position] of entries)
            if (position === 0) expect(fixture.seek(text).mayHide()).toBeTrue();
        },
      ),
      { numRuns: 50 },
    );
  });

  test("spares looking where the name is not", () => {
    using fixture = new Fixture();
    fixture.make([
      ["a", 3],
      ["a", 1],
      ["b", 2],
      ["c", 0],
    ]);
    expect(fixture.looks("a", 4)).toEqual([1, 3]);
    expect(fixture.looks("b", 4)).toEqual([2]);
    expect(fixture.looks("d", 4)).toEqual([]);
    expect(["a", "c", "d"].map((text) => fixture.seek(text).mayHide())).toEqual([
      false,
      true,
      false,
    ]);
  });

  test("says nothing of directories that were not read", () => {
    using fixture = new Fixture();
    fixture.make([["a", 1]], { end: 3, hasHidden: false });
    expect(fixture.looks("a", 4)).toEqual([1, 3, 4]);
    expect(fixture.looks("b", 4)).toEqual([3, 4]);
    expect(fixture.seek("b").mayHide()).toBeTrue();
  });

  test("is of its node only, and of no other that has its number later", () => {
    using fixture = new Fixture();
    const isUnknown = (filters: NameFilters): boolean => filters.next(1) === 1 && filters.mayHide();
    expect(isUnknown(fixture.seek("a"))).toBeTrue();
    fixture.make([["b", 2]]);
    expect(fixture.seek("a").next(1)).toBe(POSITIONS_END);
    expect(isUnknown(fixture.seek("a", NODE, GENERATION + 1))).toBeTrue();
    expect(isUnknown(fixture.seek("a", NODE + OVERLAY_FILTER_PLACES))).toBeTrue();
    fixture.make([["b", 3]], { node: NODE + OVERLAY_FILTER_PLACES });
    expect(isUnknown(fixture.seek("a"))).toBeTrue();
  });

  test("has no more names than there is room for", () => {
    using fixture = new Fixture();
    const many = Array.from({ length: OVERLAY_FILTER_MAX }, (): Entry => ["a", 1]);
    expect(() => fixture.make([...many, ["b", 1]])).toThrow("room");
  });

  test("may be as large as any, and is not believed once the ring has come around", () => {
    using fixture = new Fixture();
    const many = Array.from({ length: OVERLAY_FILTER_MAX }, (_, index): Entry => [`f${index}`, 1]);
    fixture.make([["first", 2]]);
    const { slow } = fixture;
    slow.seek(NODE, GENERATION, entryName("first"));
    expect([slow.next(1), slow.mayHide()]).toEqual([2, false]);
    fixture.make(many, { node: NODE + 1 });
    const some = many.filter((_, index) => index % 16 === 0);
    const wrong = some.filter(([text]) => fixture.seek(text, NODE + 1).next(1) !== 1);
    expect(wrong).toEqual([]);
    const around = Math.ceil(OVERLAY_FILTER_SIZE / (8 * OVERLAY_FILTER_MAX));
    for (let more = 0; more < around; more++) fixture.make(many, { node: NODE + 2 + more });
    // Also by who has found it before.
    for (const filters of [slow, fixture.seek("first")])
      expect([filters.next(1), filters.mayHide()]).toEqual([1, true]);
    const last = NODE + 1 + around;
    expect(fixture.seek("f1", last).next(1)).toBe(1);
    expect(fixture.seek("g1", last).next(1)).toBe(POSITIONS_END);
  });
});

describe("what it is worth to read", () => {
  test("is little at first, and then in proportion to what was wasted", () => {
    using fixture = new Fixture();
    const { filters } = fixture;
    filters.seek(NODE, GENERATION, entryName("a"));
    expect(filters.wasted(1)).toBe(OVERLAY_FILTER_FIRST);
    const worth = Array.from({ length: 3 * OVERLAY_FILTER_MAX }, () => filters.wasted(1));
    const attempts = worth.filter((names) => names > 0);
    expect(attempts[0]).toBe(2 * OVERLAY_FILTER_FIRST);
    expect(attempts.at(-1)).toBe(OVERLAY_FILTER_MAX);
    // Each time for twice as much, so that all together is not much more than the last.
    for (const [index, names] of attempts.slice(1).entries())
      expect(names).toBe(2 * attempts[index]!);
  });

  test("is more at once where one search wastes much", () => {
    using fixture = new Fixture();
    fixture.filters.seek(NODE, GENERATION, entryName("a"));
    expect(fixture.filters.wasted(100)).toBe(100 * OVERLAY_FILTER_WORTH);
  });

  test("is nothing where all is known already", () => {
    using fixture = new Fixture();
    const { filters } = fixture;
    filters.seek(NODE, GENERATION, entryName("a"));
    filters.wasted(5);
    fixture.make([["b", 2]]);
    filters.seek(NODE, GENERATION, entryName("a"));
    expect(filters.wasted(1000)).toBe(0);
    fixture.make([["b", 2]], { end: 3 });
    filters.seek(NODE, GENERATION, entryName("a"));
    expect(filters.wasted(1)).toBe(OVERLAY_FILTER_FIRST);
  });
});
