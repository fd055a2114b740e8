// The overlay's files in shared memory: who is known, for how long, and by which names.

import { describe, expect, test } from "bun:test";
import { FUSE_ROOT_ID as ROOT } from "../src/abi-fuse.ts";
import { OVERLAY_RETAINED_MAX } from "../src/limits.ts";
import { EntryName } from "../src/overlay-name.ts";
import { entryName, NodesFixture, ROOT_SLOT } from "./support-overlay-nodes.ts";

const a = entryName("a");
const b = entryName("b");

describe("a node", () => {
  test("has what was found, the lower layers from the top", () => {
    using fixture = new NodesFixture();
    const { nodes } = fixture;
    const node = fixture.lookup(ROOT, "d", { upper: 2, lower: [3, 4, 5], isDirectory: true });
    expect(nodes.acquire(node)).toBe(true);
    expect([nodes.upper(node), nodes.top(node)]).toEqual([2, 2]);
    const stack = [];
    for (let record = nodes.stack(node); record !== 0; record = nodes.below(record))
      stack.push([nodes.slot(record), nodes.layer(record)]);
    expect(stack).toEqual([
      [3, 0],
      [4, 1],
      [5, 2],
    ]);
    expect(nodes.owner(2)).toBe(node);
    nodes.release(node);
  });

  test("is the same for all names of a file, and for one that was just made", () => {
    using fixture = new NodesFixture();
    const { nodes } = fixture;
    const node = fixture.lookup(ROOT, "a", { upper: 2 });
    expect(fixture.lookup(ROOT, "b", { upper: 2 })).toBe(node);
    expect(fixture.slots.get(2)).toBe(1);
    expect(nodes.addMade(ROOT, entryName("c"), fixture.find({ upper: 2 }))).toBe(node);
    expect(nodes.addNameless(fixture.find({ upper: 2 }))).toBe(node);
  });

  test("is another one where each name is a file of its own", () => {
    using fixture = new NodesFixture();
    const one = fixture.lookup(ROOT, "a", { lower: [2], key: 0 });
    const other = fixture.lookup(ROOT, "b", { lower: [2], key: 0 });
    expect(other).not.toBe(one);
    expect(fixture.slots.get(2)).toBe(2);
    expect(fixture.nodes.owner(2)).toBe(0);
  });

  test("is not made out of what is out of date", () => {
    using fixture = new NodesFixture();
    const { nodes } = fixture;
    const version = nodes.version(ROOT);
    nodes.changed(ROOT);
    expect(nodes.add(ROOT, version, a, fixture.find({ upper: 2, lower: [3] }))).toBe(0);
    expect(nodes.count).toBe(1);
    expect([...fixture.slots.keys()]).toEqual([ROOT_SLOT]);
  });

  test("that comes after another of the same number has another generation", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const first = fixture.lookup(ROOT, "a", { upper: 2 });
    const generation = nodes.generation(first);
    nodes.forget(first, 1);
    const second = fixture.lookup(ROOT, "a", { upper: 2 });
    expect(second).toBe(first);
    expect(nodes.generation(second)).not.toBe(generation);
  });

  test("has its upper part from when it is copied up, and what is shown stays", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const node = fixture.lookup(ROOT, "a", { lower: [2] });
    nodes.setIno(node, 77, 1);
    fixture.find({ upper: 9 });
    nodes.setUpper(node, 9);
    expect([nodes.top(node), nodes.owner(9), nodes.owner(2)]).toEqual([9, node, node]);
    expect([nodes.inoLow(node), nodes.inoHigh(node)]).toEqual([77, 1]);
    fixture.find({ upper: 10 });
    expect(nodes.replaceUpper(node, 10)).toBe(9);
    expect([nodes.top(node), nodes.owner(10), nodes.owner(9)]).toEqual([10, node, 0]);
    nodes.forget(node, 1);
    expect([nodes.owner(10), nodes.owner(2)]).toEqual([0, 0]);
    expect([...fixture.slots.keys()]).toEqual([ROOT_SLOT, 9]);
  });
});

describe("forgetting", () => {
  test("takes as many lookups as it says, and no more than there are", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const node = fixture.lookup(ROOT, "a", { upper: 2 });
    fixture.lookup(ROOT, "a", { upper: 2 });
    nodes.forget(node, 1);
    expect(nodes.has(ROOT, a)).toBe(true);
    nodes.forget(node, 5);
    expect(nodes.has(ROOT, a)).toBe(false);
    expect([...fixture.slots.keys()]).toEqual([ROOT_SLOT]);
    nodes.forget(node, 1);
    nodes.forget(12_345, 1);
    nodes.forget(ROOT, 100);
    expect(nodes.count).toBe(1);
  });

  test("keeps who is acquired until it is let go", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const node = fixture.lookup(ROOT, "a", { upper: 2, lower: [3] });
    expect(nodes.acquire(node)).toBe(true);
    nodes.forget(node, 1);
    expect(nodes.has(ROOT, a)).toBe(false);
    expect(nodes.upper(node)).toBe(2);
    expect(fixture.slots.get(2)).toBe(1);
    expect(nodes.acquire(node)).toBe(false);
    nodes.release(node);
    nodes.release(node);
    expect([...fixture.slots.keys()]).toEqual([ROOT_SLOT]);
    expect(nodes.count).toBe(1);
  });

  test("keeps directories as long as something in them is known", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const outer = fixture.lookup(ROOT, "outer", { upper: 2, isDirectory: true });
    const inner = fixture.lookup(outer, "inner", { upper: 3, isDirectory: true });
    const file = fixture.lookup(inner, "file", { upper: 4 });
    nodes.forget(outer, 1);
    nodes.forget(inner, 1);
    const name = new EntryName();
    expect(nodes.nameOf(file, name)).toBe(inner);
    expect(name.text).toBe("file");
    expect(nodes.nameOf(inner, name)).toBe(outer);
    expect(nodes.nameOf(outer, name)).toBe(ROOT);
    expect(nodes.nameOf(ROOT, name)).toBe(0);
    nodes.forget(file, 1);
    expect(nodes.count).toBe(1);
    expect([...fixture.slots.keys()]).toEqual([ROOT_SLOT]);
  });

  test("lets go of all directories that a file with several names is in", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const directories = [2, 3, 4].map((upper) =>
      fixture.lookup(ROOT, `d${upper}`, { upper, isDirectory: true }),
    );
    const file = fixture.lookup(directories[0]!, "f", { upper: 9 });
    for (const directory of directories.slice(1)) nodes.addName(directory, a, file);
    for (const directory of directories) nodes.forget(directory, 1);
    expect(nodes.count).toBe(5);
    nodes.forget(file, 1);
    expect(nodes.count).toBe(1);
  });

  test("leaves the last ones findable, as who they were", () => {
    using fixture = new NodesFixture();
    const { nodes } = fixture;
    const node = fixture.lookup(ROOT, "a", { upper: 2 });
    const generation = nodes.generation(node);
    nodes.forget(node, 1);
    expect(nodes.acquire(node)).toBe(true);
    nodes.release(node);
    expect(nodes.child(ROOT, a)).toBe(node);
    expect(nodes.generation(node)).toBe(generation);
    expect(fixture.slots.get(2)).toBe(1);
  });

  test("leaves none that has no name any more", () => {
    using fixture = new NodesFixture();
    const { nodes } = fixture;
    const open = fixture.lookup(ROOT, "a", { upper: 2 });
    nodes.removeName(ROOT, a);
    expect(nodes.acquire(open)).toBe(true);
    nodes.release(open);
    nodes.forget(open, 1);
    const forgotten = fixture.lookup(ROOT, "b", { upper: 3 });
    nodes.forget(forgotten, 1);
    nodes.removeName(ROOT, b);
    expect(nodes.count).toBe(1);
    expect([...fixture.slots.keys()]).toEqual([ROOT_SLOT]);
  });

  test("drops the oldest forgotten ones when there are too many", () => {
    using fixture = new NodesFixture();
    const { nodes } = fixture;
    const more = 10;
    const name = entryName("");
    for (let index = 0; index < OVERLAY_RETAINED_MAX + more; index++) {
      name.setText(`f${index}`);
      const node = nodes.addMade(ROOT, name, fixture.find({ upper: 2 + index }));
      nodes.forget(node, 1);
    }
    expect(nodes.count).toBe(1 + OVERLAY_RETAINED_MAX);
    expect(nodes.has(ROOT, entryName(`f${more - 1}`))).toBe(false);
    expect(nodes.has(ROOT, entryName(`f${more}`))).toBe(true);
    expect(fixture.slots.size).toBe(1 + OVERLAY_RETAINED_MAX);
  });
});

describe("names", () => {
  test("move, and the node that had the new one has lost it", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const directory = fixture.lookup(ROOT, "d", { upper: 2, isDirectory: true });
    const [one, other] = [
      fixture.lookup(ROOT, "a", { upper: 3 }),
      fixture.lookup(directory, "b", { upper: 4 }),
    ];
    nodes.moveName(ROOT, a, directory, b);
    const name = new EntryName();
    expect(nodes.nameOf(one, name)).toBe(directory);
    expect(name.text).toBe("b");
    expect(nodes.nameOf(other, name)).toBe(0);
    expect(nodes.has(ROOT, a)).toBe(false);
    nodes.forget(other, 1);
    expect(nodes.count).toBe(3);
    nodes.forget(one, 1);
    nodes.forget(directory, 1);
    expect(nodes.count).toBe(1);
  });

  test("move when only one of the two is known", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const victim = fixture.lookup(ROOT, "b", { upper: 3 });
    nodes.moveName(ROOT, a, ROOT, b);
    expect(nodes.has(ROOT, b)).toBe(false);
    nodes.forget(victim, 1);
    const moved = fixture.lookup(ROOT, "a", { upper: 4 });
    nodes.moveName(ROOT, a, ROOT, b);
    expect(nodes.child(ROOT, b)).toBe(moved);
  });

  test("are exchanged between directories, also if only one is known", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const directory = fixture.lookup(ROOT, "d", { upper: 2, isDirectory: true });
    const one = fixture.lookup(ROOT, "a", { upper: 3 });
    const other = fixture.lookup(directory, "b", { upper: 4 });
    nodes.exchangeNames(ROOT, a, directory, b);
    expect(nodes.child(ROOT, a)).toBe(other);
    expect(nodes.child(directory, b)).toBe(one);
    nodes.removeName(ROOT, a);
    nodes.exchangeNames(ROOT, a, directory, b);
    expect(nodes.child(ROOT, a)).toBe(one);
    expect(nodes.has(directory, b)).toBe(false);
  });

  test("of a file go one by one", () => {
    using fixture = new NodesFixture(false);
    const { nodes } = fixture;
    const node = fixture.lookup(ROOT, "first", { upper: 2 });
    for (const name of ["a", "b", "c"]) nodes.addName(ROOT, entryName(name), node);
    for (const name of ["b", "first", "c"]) nodes.removeName(ROOT, entryName(name));
    const name = new EntryName();
    expect(nodes.nameOf(node, name)).toBe(ROOT);
    expect(name.text).toBe("a");
    nodes.removeName(ROOT, a);
    expect(nodes.nameOf(node, name)).toBe(0);
    nodes.removeName(ROOT, a);
    nodes.forget(node, 1);
    expect(nodes.count).toBe(1);
  });
});

test("names of temporary files are not given twice", () => {
  using fixture = new NodesFixture();
  const given = Array.from({ length: 100 }, () => fixture.nodes.temporary());
  expect(new Set(given).size).toBe(100);
});
