// The table of inodes against a simple model of it: random lookups, forgets, uses, and changes of
// the directory give what the model says, with a cache of three descriptors.

import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, linkSync } from "node:fs";
import fc from "fast-check";
import { ENOENT, ESTALE } from "../src/errno.ts";
import { Fixture, hasHandles, ino } from "./support-inodes.ts";

// On a loaded machine everything takes its time.
setDefaultTimeout(60_000);

const RING = 3;
const NAMES = ["a", "b", "c", "d", "e", "f"] as const;

interface File {
  readonly ino: bigint;
  names: number;
}

interface Known {
  readonly file: File;
  lookups: number;
}

/** What is done; `which` and `other` choose a name or a nodeid out of those there are. */
interface Step {
  readonly what: keyof typeof steps;
  readonly which: number;
  readonly other: number;
}

class Model {
  readonly fixture: Fixture;
  readonly files = new Map<string, File>();
  readonly known = new Map<number, Known>();
  /** What was forgotten and should be the same when it is known again. */
  readonly retained = new Map<number, File>();
  /** The nodeids that requests use at the moment. */
  readonly held: number[] = [];
  /** Which file a pair of nodeid and generation stands for, for good. */
  readonly #identities = new Map<string, File>();

  constructor(fixture: Fixture) {
    this.fixture = fixture;
  }

  name({ which }: Step): string {
    return NAMES[which % NAMES.length]!;
  }

  otherName({ other }: Step): string {
    return NAMES[other % NAMES.length]!;
  }

  nodeid({ which }: Step): number | undefined {
    return [...this.known.keys()][which % this.known.size];
  }

  /** A name of `file` is gone. */
  lost(file: File | undefined): void {
    if (file !== undefined) file.names--;
  }

  /** The kernel was told that `nodeid` is `file`. */
  found(nodeid: number, file: File): void {
    const before = this.known.get(nodeid);
    if (before === undefined) {
      const elsewhere = [...this.known.values()].some((known) => known.file === file);
      expect(elsewhere).toBe(false);
      expect(this.held).not.toContain(nodeid);
      const forgotten = [...this.retained].find(([, other]) => other === file);
      if (forgotten !== undefined) expect(nodeid).toBe(forgotten[0]);
      this.retained.delete(nodeid);
    } else {
      expect(before.file).toBe(file);
    }
    this.known.set(nodeid, { file, lookups: (before?.lookups ?? 0) + 1 });
    const identity = `${nodeid} ${this.fixture.inodes.generation(nodeid)}`;
    expect(this.#identities.get(identity) ?? file).toBe(file);
    this.#identities.set(identity, file);
  }

  forget(nodeid: number, count: number): void {
    const known = this.known.get(nodeid)!;
    this.fixture.inodes.forget(nodeid, count);
    known.lookups -= count;
    if (known.lookups > 0) return;
    this.known.delete(nodeid);
    // A removed one can't be opened again, so nothing is kept of it.
    if (known.file.names > 0) this.retained.set(nodeid, known.file);
  }

  release(nodeid: number): void {
    this.held.splice(this.held.indexOf(nodeid), 1);
    this.fixture.inodes.release(nodeid);
  }

  /** What holds at any time. `calm`: nothing was ever in use beyond a step. */
  check(calm: boolean): void {
    const { inodes, cached } = this.fixture;
    const open = new Set(cached.values());
    expect(open.size).toBe(cached.size); // one descriptor an inode
    const known = [...this.known.values()];
    expect(inodes.hasEvicted).toBe(known.some(({ file }) => !open.has(file.ino)));
    const removed = known.filter(({ file }) => file.names === 0);
    for (const { file } of removed) expect(open).toContain(file.ino);
    if (calm) expect(open.size).toBeLessThanOrEqual(RING + removed.length);
  }

  end(): void {
    while (this.held.length > 0) this.release(this.held[0]!);
    for (const [nodeid, { lookups }] of this.known) this.forget(nodeid, lookups);
    expect(this.fixture.inodes.hasEvicted).toBe(false);
    expect(this.fixture.inodes.count).toBeGreaterThanOrEqual(1 + this.retained.size);
    const left = [...this.fixture.cached.values()];
    const forgotten = [...this.retained.values()].map((file) => file.ino);
    for (const number of left) expect(forgotten).toContain(number);
    expect(left.length).toBeLessThanOrEqual(RING);
  }
}

function look(model: Model, step: Step, way: "lookup" | "identify"): void {
  const name = model.name(step);
  const file = model.files.get(name);
  const nodeid = model.fixture[way](name);
  if (file === undefined) expect(nodeid).toBe(-ENOENT);
  else model.found(nodeid, file);
}

const steps = {
  make(model: Model, step: Step): void {
    const name = model.name(step);
    if (model.files.has(name)) return;
    model.fixture.make(name);
    model.files.set(name, { ino: ino(model.fixture.at(name)), names: 1 });
  },

  lookup: (model: Model, step: Step): void => look(model, step, "lookup"),

  identify: (model: Model, step: Step): void => look(model, step, "identify"),

  forget(model: Model, step: Step): void {
    const nodeid = model.nodeid(step);
    // The kernel does not forget what it makes requests about.
    if (nodeid === undefined || model.held.includes(nodeid)) return;
    model.forget(nodeid, 1 + (step.other % model.known.get(nodeid)!.lookups));
  },

  use(model: Model, step: Step): void {
    const nodeid = model.nodeid(step);
    if (nodeid !== undefined)
      expect(model.fixture.use(nodeid)).toBe(model.known.get(nodeid)!.file.ino);
  },

  /** As a file handle of the mount does. */
  useForgotten(model: Model, { which }: Step): void {
    const [nodeid, file] = [...model.retained][which % model.retained.size] ?? [];
    if (nodeid === undefined || file === undefined) return;
    const found = model.fixture.use(nodeid);
    // It may have had a descriptor when it was removed.
    if (file.names > 0 || found !== -ESTALE) expect(found).toBe(file.ino);
  },

  hold(model: Model, step: Step): void {
    const nodeid = model.nodeid(step);
    if (nodeid === undefined || model.held.length >= RING + 2) return;
    expect(model.fixture.inodes.acquire(nodeid)).toBeGreaterThanOrEqual(0);
    model.held.push(nodeid);
  },

  release(model: Model, { which }: Step): void {
    if (model.held.length > 0) model.release(model.held[which % model.held.length]!);
  },

  unlink(model: Model, step: Step): void {
    const name = model.name(step);
    if (!model.files.has(name)) return;
    model.fixture.unlink(name);
    model.lost(model.files.get(name));
    model.files.delete(name);
  },

  rename(model: Model, step: Step): void {
    const [from, to] = [model.name(step), model.otherName(step)];
    const file = model.files.get(from);
    // Names of one file are left alone by rename(2).
    if (file === undefined || model.files.get(to) === file) return;
    model.fixture.rename(from, to);
    model.lost(model.files.get(to));
    model.files.set(to, file);
    model.files.delete(from);
  },

  link(model: Model, step: Step): void {
    const [from, to] = [model.name(step), model.otherName(step)];
    const file = model.files.get(from);
    if (file === undefined || existsSync(model.fixture.at(to))) return;
    linkSync(model.fixture.at(from), model.fixture.at(to));
    file.names++;
    model.files.set(to, file);
  },

  relieve({ fixture }: Model): void {
    fixture.inodes.relieve();
  },
};

const CALM = ["make", "lookup", "forget", "use", "unlink", "rename", "link", "relieve"] as const;
const ALL = [...CALM, "lookup", "make", "hold", "release", "useForgotten"] as const;

test.skipIf(!hasHandles).each([
  ["nothing is in use for long", CALM],
  ["some are in use, and forgotten ones are asked for", ALL],
] as const)("does as the model does while %s", (_name, kinds) => {
  const step = fc.record({ what: fc.constantFrom(...kinds), which: fc.nat(60), other: fc.nat(60) });
  fc.assert(
    fc.property(fc.array(step, { size: "max", maxLength: 120 }), (sequence) => {
      using fixture = new Fixture(RING);
      const model = new Model(fixture);
      for (const each of sequence) {
        steps[each.what](model, each);
        model.check(kinds === CALM);
      }
      model.end();
    }),
    { numRuns: 60 },
  );
});
