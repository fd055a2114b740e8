// The table of an overlay's nodes against a simple model of it: random lookups, forgets, uses, and
// changes of the tree give what the model says, and no host inode is looked up longer than needed.

import { expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { FUSE_ROOT_ID as ROOT } from "../src/abi-fuse.ts";
import { EntryName } from "../src/overlay-name.ts";
import { entryName, NodesFixture, ROOT_SLOT } from "./support-overlay-nodes.ts";

// On a loaded machine everything takes its time.
setDefaultTimeout(60_000);

const NAMES = ["a", "b", "c", "x".repeat(200)] as const;
const FIRST_LOWER = 10_000;

/** A file of the tree. */
interface File {
  readonly slot: number;
  readonly isDirectory: boolean;
  /** What is in a directory. */
  readonly entries: Map<string, File>;
}

/** What is known of a file. */
interface Known {
  readonly file: File;
  lookups: number;
  isRetained: boolean;
  /** Where it has a known name: directories' nodeids and names. */
  readonly names: Set<string>;
}

interface Step {
  readonly what: keyof typeof steps;
  readonly which: number;
  readonly other: number;
  readonly name: number;
  readonly otherName: number;
}

const keyOf = (parent: number, name: string): string => `${parent}/${name}`;

class Model {
  readonly fixture: NodesFixture;
  readonly retains: boolean;
  readonly known = new Map<number, Known>();
  /** The nodeids that requests use at the moment, and what they stand for. */
  readonly held: { nodeid: number; file: File }[] = [];
  #slots = ROOT_SLOT;

  constructor(retains: boolean) {
    this.retains = retains;
    this.fixture = new NodesFixture(retains);
    const root = { slot: ROOT_SLOT, isDirectory: true, entries: new Map() };
    this.known.set(ROOT, { file: root, lookups: Infinity, isRetained: false, names: new Set() });
  }

  newFile(isDirectory: boolean): File {
    return { slot: ++this.#slots, isDirectory, entries: new Map() };
  }

  finding(file: File): Parameters<NodesFixture["find"]>[0] {
    const { slot, isDirectory } = file;
    return { upper: slot, lower: [FIRST_LOWER + slot, 2 * FIRST_LOWER + slot], isDirectory };
  }

  /** What the kernel knows, and may make requests about. */
  lookedUp(isDirectory?: boolean): number[] {
    return [...this.known]
      .filter(([, { lookups }]) => lookups > 0)
      .filter(([, { file }]) => isDirectory === undefined || file.isDirectory === isDirectory)
      .map(([nodeid]) => nodeid);
  }

  directory(which: number): number {
    const all = this.lookedUp(true);
    return all[which % all.length]!;
  }

  file(nodeid: number): File {
    return this.known.get(nodeid)!.file;
  }

  nodeOf(file: File): number | undefined {
    return [...this.known].find(([, known]) => known.file === file)?.[0];
  }

  /** The node that is known by a name. */
  named(parent: number, name: string): number | undefined {
    const key = keyOf(parent, name);
    return [...this.known].find(([, { names }]) => names.has(key))?.[0];
  }

  /** The kernel was told that a name is `nodeid`. */
  found(nodeid: number, file: File, parent?: number, name?: string): void {
    const before = this.known.get(nodeid);
    const known = before ?? { file, lookups: 0, isRetained: false, names: new Set<string>() };
    expect(known.file).toBe(file);
    if (before === undefined) {
      expect(this.nodeOf(file)).toBeUndefined();
      expect(this.held.some((each) => each.nodeid === nodeid)).toBe(false);
      this.known.set(nodeid, known);
    }
    known.lookups++;
    known.isRetained = false;
    if (parent !== undefined && name !== undefined) known.names.add(keyOf(parent, name));
  }

  lose(parent: number, name: string): void {
    const nodeid = this.named(parent, name);
    if (nodeid === undefined) return;
    const known = this.known.get(nodeid)!;
    known.names.delete(keyOf(parent, name));
    if (known.names.size === 0) known.isRetained = false;
    this.settle();
  }

  gain(parent: number, name: string, nodeid: number | undefined): void {
    if (nodeid !== undefined) this.known.get(nodeid)?.names.add(keyOf(parent, name));
  }

  /** Takes out who is of no use, until nobody is. */
  settle(): void {
    for (let isSettled = false; !isSettled;) {
      isSettled = true;
      for (const [nodeid, { lookups, isRetained }] of this.known) {
        const hasChildren = [...this.known.values()].some(({ names }) =>
          [...names].some((key) => key.startsWith(`${nodeid}/`)),
        );
        if (lookups > 0 || isRetained || hasChildren) continue;
        this.known.delete(nodeid);
        isSettled = false;
      }
    }
  }

  forget(nodeid: number, count: number): void {
    const known = this.known.get(nodeid)!;
    this.fixture.nodes.forget(nodeid, count);
    known.lookups -= count;
    if (known.lookups > 0) return;
    known.isRetained = this.retains && known.names.size > 0;
    this.settle();
  }

  /** What holds at any time. */
  check(): void {
    const { nodes, slots } = this.fixture;
    const expected = new Set<number>();
    for (const [nodeid, { file, names }] of this.known) {
      const name = new EntryName();
      const parent = nodes.nameOf(nodeid, name);
      if (names.size === 0) expect(parent).toBe(0);
      else expect(names).toContain(keyOf(parent, name.text));
      expected.add(file.slot);
      for (const each of NAMES)
        expect(nodes.has(nodeid, entryName(each))).toBe(this.named(nodeid, each) !== undefined);
    }
    for (const { file } of this.held) expected.add(file.slot);
    const uppers = [...slots].filter(([slot]) => slot < FIRST_LOWER);
    expect(new Set(uppers.map(([slot]) => slot))).toEqual(expected);
    // Who was dropped while in use, and is known again, has them twice.
    for (const [slot, lookups] of uppers) {
      const holders = new Set(
        this.held.filter(({ file }) => file.slot === slot).map((h) => h.nodeid),
      );
      const nodeid = [...this.known].find(([, { file }]) => file.slot === slot)?.[0];
      if (nodeid !== undefined) holders.add(nodeid);
      expect(lookups).toBe(holders.size);
    }
  }

  end(): void {
    while (this.held.length > 0) steps.release(this, { which: 0 });
    for (const nodeid of this.lookedUp())
      if (nodeid !== ROOT) this.forget(nodeid, this.known.get(nodeid)!.lookups);
    this.check();
    expect(this.fixture.nodes.count).toBe(this.known.size);
    if (!this.retains) expect(this.fixture.slots.size).toBe(1);
  }
}

const steps = {
  make(model: Model, { which, other, name: choice }: Step): void {
    const parent = model.directory(which);
    const name = NAMES[choice]!;
    const { entries } = model.file(parent);
    if (entries.has(name)) return;
    const file = model.newFile(other % 2 === 0);
    entries.set(name, file);
    const { nodes } = model.fixture;
    nodes.changed(parent);
    const found = model.fixture.find(model.finding(file));
    model.found(nodes.addMade(parent, entryName(name), found), file, parent, name);
  },

  /** What an open(2) with O_TMPFILE does. */
  makeNameless(model: Model): void {
    const file = model.newFile(false);
    model.found(model.fixture.nodes.addNameless(model.fixture.find(model.finding(file))), file);
  },

  lookup(model: Model, { which, name: choice }: Step): void {
    const parent = model.directory(which);
    const name = NAMES[choice]!;
    const file = model.file(parent).entries.get(name);
    const known = model.named(parent, name);
    if (file === undefined) return expect(known).toBeUndefined();
    const nodeid = model.fixture.lookup(parent, name, model.finding(file));
    if (known !== undefined) expect(nodeid).toBe(known);
    model.found(nodeid, file, parent, name);
  },

  forget(model: Model, { which, other }: Step): void {
    const all = model.lookedUp().filter((nodeid) => nodeid !== ROOT);
    const nodeid = all[which % all.length];
    if (nodeid !== undefined) model.forget(nodeid, 1 + (other % model.known.get(nodeid)!.lookups));
  },

  link(model: Model, { which, other, name: choice }: Step): void {
    const files = model.lookedUp(false);
    const nodeid = files[other % files.length];
    const parent = model.directory(which);
    const name = NAMES[choice]!;
    const { entries } = model.file(parent);
    if (nodeid === undefined || entries.has(name)) return;
    entries.set(name, model.file(nodeid));
    expect(model.fixture.nodes.addName(parent, entryName(name), nodeid)).toBe(true);
    model.gain(parent, name, nodeid);
  },

  remove(model: Model, { which, name: choice }: Step): void {
    const parent = model.directory(which);
    const name = NAMES[choice]!;
    const { entries } = model.file(parent);
    if ((entries.get(name)?.entries.size ?? 1) > 0 && entries.get(name)?.isDirectory !== false)
      return;
    entries.delete(name);
    model.fixture.nodes.removeName(parent, entryName(name));
    model.lose(parent, name);
  },

  rename(model: Model, step: Step): void {
    const [parent, newParent] = [model.directory(step.which), model.directory(step.other)];
    const [name, newName] = [NAMES[step.name]!, NAMES[step.otherName]!];
    const file = model.file(parent).entries.get(name);
    const victim = model.file(newParent).entries.get(newName);
    if (file === undefined || file === victim || contains(file, model.file(newParent))) return;
    if (
      victim !== undefined &&
      (victim.isDirectory !== file.isDirectory || victim.entries.size > 0)
    )
      return;
    model.file(newParent).entries.set(newName, file);
    model.file(parent).entries.delete(name);
    model.fixture.nodes.moveName(parent, entryName(name), newParent, entryName(newName));
    const nodeid = model.named(parent, name);
    model.lose(newParent, newName);
    model.gain(newParent, newName, nodeid);
    model.known.get(nodeid ?? 0)?.names.delete(keyOf(parent, name));
    model.settle();
  },

  exchange(model: Model, step: Step): void {
    const [parent, newParent] = [model.directory(step.which), model.directory(step.other)];
    const [name, newName] = [NAMES[step.name]!, NAMES[step.otherName]!];
    const [one, other] = [model.file(parent), model.file(newParent)];
    const [first, second] = [one.entries.get(name), other.entries.get(newName)];
    if (first === undefined || second === undefined || first === second) return;
    if (contains(first, other) || contains(second, one)) return;
    one.entries.set(name, second);
    other.entries.set(newName, first);
    model.fixture.nodes.exchangeNames(parent, entryName(name), newParent, entryName(newName));
    const [node, newNode] = [model.named(parent, name), model.named(newParent, newName)];
    model.known.get(node ?? 0)?.names.delete(keyOf(parent, name));
    model.known.get(newNode ?? 0)?.names.delete(keyOf(newParent, newName));
    model.gain(newParent, newName, node);
    model.gain(parent, name, newNode);
  },

  hold(model: Model, { which }: Step): void {
    const all = model.lookedUp();
    const nodeid = all[which % all.length]!;
    if (nodeid === ROOT || model.held.length > 4) return;
    expect(model.fixture.nodes.acquire(nodeid)).toBe(true);
    model.held.push({ nodeid, file: model.file(nodeid) });
  },

  release(model: Model, { which }: Pick<Step, "which">): void {
    const [held] = model.held.splice(which % Math.max(1, model.held.length), 1);
    if (held !== undefined) model.fixture.nodes.release(held.nodeid);
  },
};

function contains(outer: File, file: File): boolean {
  return outer === file || [...outer.entries.values()].some((entry) => contains(entry, file));
}

const KINDS = Object.keys(steps) as (keyof typeof steps)[];
// Of what makes files known, more.
const CHOICES: (keyof typeof steps)[] = [...KINDS, "make", "lookup", "lookup", "forget"];

test.each([
  ["dropped", false],
  ["kept", true],
] as const)("does as the model does while what is forgotten is %s", (_name, retains) => {
  const step = fc.record({
    what: fc.constantFrom(...CHOICES),
    which: fc.nat(60),
    other: fc.nat(60),
    name: fc.nat(NAMES.length - 1),
    otherName: fc.nat(NAMES.length - 1),
  });
  fc.assert(
    fc.property(fc.array(step, { size: "max", maxLength: 150 }), (sequence) => {
      const model = new Model(retains);
      using _fixture = model.fixture;
      for (const each of sequence) {
        steps[each.what](model, each);
        model.check();
      }
      model.end();
    }),
    { numRuns: 60 },
  );
});
