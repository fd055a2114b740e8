// The table of inodes: who is known under which number, and the bounded cache of descriptors, on
// files of a private directory and with a cache of a few descriptors.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { linkSync, lstatSync, statSync, symlinkSync, unlinkSync } from "node:fs";
import { AT_FDCWD, S_IFLNK, S_IFREG, stat } from "../src/abi-linux.ts";
import { FUSE_ROOT_ID } from "../src/abi-fuse.ts";
import { ENFILE, ENOENT, ESTALE } from "../src/errno.ts";
import { DEVICES_MAX, IDLE_BACKINGS_MAX, RETAINED_MAX } from "../src/limits.ts";
import { cstring } from "../src/memory.ts";
import type { Registrar } from "../src/passthrough-inode-record.ts";
import { dup, fstat, newfstatat } from "../src/syscall.ts";
import { Fixture, hasHandles, ino, inodeNumber, openPath, statMemory } from "./support-inodes.ts";

// On a loaded machine everything takes its time.
setDefaultTimeout(60_000);

const needsHandles = test.skipIf(!hasHandles);

describe("an inode", () => {
  test("is the same one for every name of the file, and counts its lookups", () => {
    using f = new Fixture(8);
    f.make("a", "b");
    linkSync(f.at("a"), f.at("c"));
    const a = f.lookup("a");
    expect(f.lookup("b")).not.toBe(a);
    expect([f.lookup("a"), f.lookup("c")]).toEqual([a, a]);
    expect(f.inodes.count).toBe(3);
    expect(f.inodes.type(a)).toBe(S_IFREG);
    expect(f.use(a)).toBe(ino(f.at("a")));
    expect(f.cached.size).toBe(2);

    f.inodes.forget(a, 2);
    expect(f.cached.size).toBe(2);
    f.inodes.forget(a, 1);
    expect([...f.cached.values()]).toEqual([ino(f.at("b"))]);
  });

  test("that the kernel can't know is gone: ESTALE", () => {
    using f = new Fixture(8);
    f.make("a");
    for (const nodeid of [0, 3, 1000, 2 ** 40]) {
      expect(f.use(nodeid)).toBe(-ESTALE);
      expect(f.inodes.forget(nodeid, 1)).toBe(0);
      expect(f.inodes.lockOwners(nodeid)).toBe(0);
    }
    expect(f.lookup("a")).toBe(2);
    expect(f.lookup("missing")).toBe(-ENOENT);
  });

  test("of the root is never forgotten", () => {
    using f = new Fixture(8);
    f.inodes.forget(FUSE_ROOT_ID, 1000);
    expect(f.use(FUSE_ROOT_ID)).toBe(ino(f.directory));
  });

  test("that is forgotten while a request uses it goes when the request is done", () => {
    using f = new Fixture(8);
    f.make("a", "b");
    const a = f.lookup("a");
    const generation = f.inodes.generation(a);
    const fd = f.inodes.acquire(a);
    f.inodes.forget(a, 1);
    expect(inodeNumber(fd)).toBe(ino(f.at("a")));
    expect(f.lookup("b")).not.toBe(a);
    f.inodes.release(a);
    expect(f.cached.has(fd)).toBe(false);
    expect(f.use(a)).toBe(-ESTALE);
    expect(f.lookup("a")).toBe(a); // the number is free again
    expect(f.inodes.generation(a)).not.toBe(generation);
  });

  test("that is gone can be asked for any number of times, and its number is given out once", () => {
    using f = new Fixture(8, { fileHandles: "never" });
    f.make("a", "b");
    const a = f.lookup("a");
    f.inodes.forget(a, 1);
    for (let times = 0; times < 3; times++) expect(f.use(a)).toBe(-ESTALE);
    expect(f.inodes.count).toBe(1);
    expect(f.lookup("a")).not.toBe(f.lookup("b"));
  });

  test("has an inode number that is its device's own, unless the host's is wanted", () => {
    using f = new Fixture(8);
    using host = new Fixture(8, { useHostIno: true });
    f.make("a");
    expect(f.inodes.inoOffset(f.lookup("a"))).toBe(0);
    const offsets = [f, host].map(({ inodes, directory }) => {
      const fd = openPath(directory);
      fstat(fd, statMemory.address);
      statMemory.view.setBigUint64(stat.st_dev, 0x1234n, true); // as if it lay somewhere else
      return inodes.inoOffset(inodes.remember(fd, statMemory));
    });
    expect(offsets).toEqual([1 << 14, 0]);
  });

  test("is refused when there are too many file systems, and leaks no descriptor", () => {
    using f = new Fixture(8);
    const before = f.descriptors.size;
    const forged = (device: number): number => {
      const fd = openPath(f.directory);
      fstat(fd, statMemory.address);
      statMemory.view.setBigUint64(stat.st_dev, BigInt(device), true);
      const nodeid = f.inodes.remember(fd, statMemory);
      if (nodeid > 0) f.inodes.forget(nodeid, 1);
      return nodeid;
    };
    for (let device = 1; device < DEVICES_MAX; device++) expect(forged(-device)).toBeGreaterThan(0);
    // Each device keeps one, to open file handles.
    const perDevice = hasHandles ? 1 : 0;
    expect(f.descriptors.size).toBe(before + (DEVICES_MAX - 1) * perDevice);
    expect(forged(-DEVICES_MAX)).toBe(-ENFILE);
    expect(forged(-1)).toBeGreaterThan(0);
    expect(f.descriptors.size).toBe(before + (DEVICES_MAX - 1) * perDevice);
  });
});

describe("with few descriptors", () => {
  const NAMES = ["a", "b", "c", "d", "e", "f"];

  needsHandles("an inode that has lost its own is opened again when it is used", () => {
    using f = new Fixture(3);
    f.make(...NAMES);
    const nodeids = NAMES.map((name) => f.lookup(name));
    expect(f.inodes.hasEvicted).toBe(true);
    for (const round of [1, 2]) {
      for (const [index, nodeid] of nodeids.entries())
        expect([round, f.use(nodeid)]).toEqual([round, ino(f.at(NAMES[index]!))]);
      expect(f.cached.size).toBe(3);
    }
    for (const nodeid of nodeids) f.inodes.forget(nodeid, 1);
    expect(f.cached.size).toBe(0);
    expect(f.inodes.hasEvicted).toBe(false);
  });

  needsHandles("one that was used is spared once", () => {
    using f = new Fixture(3);
    f.make(...NAMES);
    const [a, b, c] = ["a", "b", "c"].map((name) => f.lookup(name));
    for (const used of [a, c]) f.use(used!);
    f.lookup("d");
    const left = [...f.cached.values()];
    expect(left).toContain(ino(f.at("a")));
    expect(left).not.toContain(ino(f.at("b")));
    expect(f.use(b!)).toBe(ino(f.at("b")));
  });

  needsHandles("one that is in use keeps it, even if that are more than there may be", () => {
    using f = new Fixture(3);
    f.make(...NAMES);
    const held = NAMES.map((name) => {
      const nodeid = f.lookup(name);
      return [nodeid, f.inodes.acquire(nodeid)] as const;
    });
    expect(f.cached.size).toBe(NAMES.length);
    for (const [index, [, fd]] of held.entries())
      expect(inodeNumber(fd)).toBe(ino(f.at(NAMES[index]!)));
    for (const [nodeid] of held) f.inodes.release(nodeid);
    expect(f.inodes.relieve()).toBe(true);
    expect(f.cached.size).toBe(3); // those without a place stay
    for (const [nodeid] of held) f.inodes.forget(nodeid, 1);
    expect(f.cached.size).toBe(0);
    expect(f.inodes.relieve()).toBe(false);
  });

  needsHandles("a file stays in reach when its name is removed or another takes its place", () => {
    using f = new Fixture(3);
    f.make(...NAMES);
    const inos = NAMES.map((name) => ino(f.at(name)));
    const nodeids = NAMES.map((name) => f.lookup(name));
    f.unlink("a");
    f.rename("c", "b");
    for (const [index, nodeid] of nodeids.entries()) expect(f.use(nodeid)).toBe(inos[index]!);
    expect(f.lookup("b")).toBe(nodeids[2]!);
    f.make("a");
    expect(nodeids).not.toContain(f.lookup("a"));
  });

  needsHandles("what is being removed keeps its descriptor until it is gone", () => {
    using f = new Fixture(3);
    f.make(...NAMES);
    const a = f.lookup("a");
    const number = ino(f.at("a"));
    const fd = openPath(f.at("a"));
    fstat(fd, statMemory.address);
    const rescued = f.inodes.rescue(fd, statMemory);
    expect(rescued).toBe(a);
    // Another worker needs descriptors just now.
    for (const name of NAMES) f.lookup(name);
    while (f.inodes.relieve());
    unlinkSync(f.at("a"));
    f.inodes.release(rescued);
    for (const name of NAMES.slice(1)) f.lookup(name);
    expect(f.use(a)).toBe(number);
  });

  needsHandles("a file that has got the number of another one is not taken for it", () => {
    using f = new Fixture(3);
    f.make(...NAMES);
    const number = ino(f.at("a"));
    const a = f.lookup("a");
    const generation = f.inodes.generation(a);
    for (const name of NAMES.slice(1)) f.lookup(name);
    // "a" has no descriptor any more; as if it were removed on the host and its number given to
    // "new".
    f.make("new");
    const other = f.lookup("new", number);
    expect(other).not.toBe(a);
    expect(f.lookup("new", number)).toBe(other);
    unlinkSync(f.at("a"));
    expect(f.use(a)).toBe(-ESTALE);
    f.inodes.forget(a, 1);
    expect(f.lookup("new", number)).toBe(other);
    expect([other, f.inodes.generation(other)]).not.toEqual([a, generation]);
  });

  test("file handles that are not wanted are not used: every inode keeps its descriptor", () => {
    using f = new Fixture(3, { fileHandles: "never" });
    f.make(...NAMES);
    for (const name of NAMES) f.lookup(name);
    expect(f.cached.size).toBe(NAMES.length);
    expect(f.inodes.hasFileHandles).toBe(false);
    expect(f.inodes.hasEvicted).toBe(false);
    expect(f.inodes.relieve()).toBe(false);
  });
});

describe("without a descriptor of the file", () => {
  const statOf = (path: string): void => {
    expect(newfstatat(AT_FDCWD, cstring(path).address, statMemory.address, 0)).toBe(0);
  };

  test("an inode that has its own is known, and the lookup counts", () => {
    using f = new Fixture(8);
    f.make("a", "b");
    const a = f.lookup("a");
    const { moment } = f.inodes;
    statOf(f.at("a"));
    expect(f.inodes.recall(statMemory, moment)).toBe(a);
    f.inodes.forget(a, 1);
    expect(f.cached.size).toBe(1);
    f.inodes.forget(a, 1);
    expect(f.cached.size).toBe(0);
    statOf(f.at("b"));
    expect(f.inodes.recall(statMemory, moment)).toBe(0);
  });

  test("one that has got it since may be another file, which has got the number", () => {
    using f = new Fixture(8);
    f.make("a", "b");
    const { moment } = f.inodes;
    statOf(f.at("a"));
    f.lookup("b", ino(f.at("a")));
    statOf(f.at("a"));
    expect(f.inodes.recall(statMemory, moment)).toBe(0);
    expect(f.inodes.tryRescue(statMemory, moment)).toBe(-1);
    expect(f.inodes.recall(statMemory, f.inodes.moment)).toBeGreaterThan(0);
  });

  needsHandles(
    "one that has none is known by the time of its last change, if that is long ago",
    () => {
      using f = new Fixture(8);
      const fd = openPath(import.meta.path);
      fstat(fd, statMemory.address);
      const old = f.inodes.remember(fd, statMemory);
      f.make("new");
      const young = f.lookup("new");
      for (const nodeid of [old, young]) f.inodes.forget(nodeid, 1);
      const { moment } = f.inodes;
      statOf(import.meta.path);
      expect(f.inodes.recall(statMemory, moment)).toBe(old);
      expect(f.inodes.hasEvicted).toBe(true);
      expect(f.use(old)).toBe(ino(import.meta.path));
      expect(f.inodes.hasEvicted).toBe(false);
      statOf(f.at("new"));
      expect(f.inodes.recall(statMemory, moment)).toBe(0);
      expect(f.lookup("new")).toBe(young);
    },
  );

  needsHandles("it is told whether a file that loses its name has to be opened for that", () => {
    using f = new Fixture(3);
    const names = ["a", "b", "c", "d"];
    f.make(...names, "unknown");
    const [a, , , d] = names.map((name) => f.lookup(name));
    const { moment } = f.inodes;
    const tried = (name: string): number => {
      statOf(f.at(name));
      return f.inodes.tryRescue(statMemory, moment);
    };
    expect([tried("unknown"), tried("a"), tried("d")]).toEqual([0, -1, d!]);
    for (let more = 0; more < 3; more++) f.use(a!); // "d" is pinned meanwhile
    while (f.inodes.relieve());
    expect([...f.cached.values()]).toEqual([ino(f.at("d"))]);
    f.inodes.release(d!);
  });
});

describe("where descriptors are short", () => {
  needsHandles("a file is entered without one, and is opened when it is used", () => {
    using f = new Fixture(2);
    f.make("a", "b", "c", "d");
    expect(f.inodes.identifies).toBe(false);
    const [a, b] = ["a", "b"].map((name) => f.identify(name));
    expect(f.inodes.identifies).toBe(true);
    const before = [...f.cached.values()];
    const c = f.identify("c");
    expect([f.inodes.wasKnown, f.identify("c"), f.inodes.wasKnown]).toEqual([false, c, true]);
    expect(f.lookup("c")).toBe(c);
    expect(f.inodes.type(c)).toBe(S_IFREG);
    const d = f.identify("d");
    expect([...f.cached.values()]).not.toContain(ino(f.at("d")));
    expect(before).toEqual(["a", "b"].map((name) => ino(f.at(name))));
    expect(f.inodes.hasEvicted).toBe(true);
    const numbers = [a!, b!, c, d].map((nodeid) => f.use(nodeid));
    expect(numbers).toEqual(["a", "b", "c", "d"].map((name) => ino(f.at(name))));
    f.inodes.forget(c, 2);
    expect(f.identify("c")).toBe(c); // which still had a lookup
    for (const [nodeid, count] of [
      [a!, 1],
      [b!, 1],
      [c, 2],
      [d, 1],
    ] as const)
      f.inodes.forget(nodeid, count);
    expect([f.inodes.hasEvicted, f.cached.size]).toEqual([false, 0]);
  });

  needsHandles("what is not there is not, and what has gone since can't be used", () => {
    using f = new Fixture(2);
    f.make("a", "b", "c");
    f.identify("a");
    f.identify("b");
    expect(f.identify("none")).toBe(-ENOENT);
    const c = f.identify("c");
    unlinkSync(f.at("c"));
    expect(f.use(c)).toBe(-ESTALE);
    expect(f.identify("c")).toBe(-ENOENT);
    f.make("c");
    const other = f.identify("c");
    expect(other).not.toBe(c);
    expect(f.use(other)).toBe(ino(f.at("c")));
  });

  needsHandles("a link is entered itself, and not what it leads to", () => {
    using f = new Fixture(2);
    f.make("a", "b");
    symlinkSync("a", f.at("link"));
    const a = f.identify("a");
    f.identify("b");
    const link = f.identify("link");
    expect(link).not.toBe(a);
    expect(f.inodes.type(link)).toBe(S_IFLNK);
    expect(f.use(link)).toBe(lstatSync(f.at("link"), { bigint: true }).ino);
  });

  needsHandles("handles that do not begin with the inode number tell nothing", () => {
    using f = new Fixture(2);
    f.make("a", "b");
    for (const name of ["a", "b"]) f.identify(name);
    expect(f.inodes.identifies).toBe(true);
    const path = cstring("/proc/self/ns/user").address;
    expect(f.inodes.identify(AT_FDCWD, path, statMemory)).toBe(0);
    expect(f.inodes.identifies).toBe(false);
  });
});

describe("a forgotten inode", () => {
  needsHandles("has no descriptor, but can be used, and is the same when it is known again", () => {
    using f = new Fixture(3);
    f.make("a");
    const a = f.lookup("a");
    const generation = f.inodes.generation(a);
    f.inodes.forget(a, 1);
    expect(f.cached.size).toBe(0);
    expect(f.inodes.hasEvicted).toBe(false);
    expect(f.use(a)).toBe(ino(f.at("a")));
    expect(f.inodes.hasEvicted).toBe(false);
    expect([f.lookup("a"), f.inodes.generation(a)]).toEqual([a, generation]);
    f.inodes.forget(a, 1);
    unlinkSync(f.at("a"));
    expect(f.use(a)).toBe(-ESTALE);
  });

  needsHandles("is not taken for a file that has got its number", () => {
    using f = new Fixture(3);
    f.make("a", "new"); // most likely with the same time of change
    const number = ino(f.at("a"));
    const a = f.lookup("a");
    f.inodes.forget(a, 1);
    expect(f.lookup("new", number)).not.toBe(a);
  });

  needsHandles("that was changed long ago is told by that time, and by its handle after", () => {
    using f = new Fixture(3);
    const [file, other] = [import.meta.path, `${import.meta.dirname}/support-inodes.ts`];
    const { ino: number, ctimeNs } = statSync(file, { bigint: true });
    /** Looks a path up as if it had that inode number, and that time of change. */
    const lookup = (path: string, changed: bigint): number => {
      const fd = openPath(path);
      fstat(fd, statMemory.address);
      statMemory.view.setBigUint64(stat.st_ino, number, true);
      statMemory.view.setBigUint64(stat.st_ctime, changed / 1_000_000_000n, true);
      statMemory.view.setBigUint64(stat.st_ctime_nsec, changed % 1_000_000_000n, true);
      return f.inodes.remember(fd, statMemory);
    };
    const nodeid = lookup(file, ctimeNs);
    const forgetAndLookup = (path: string, changed: bigint): number => {
      f.inodes.forget(nodeid, 1);
      return lookup(path, changed);
    };
    expect(forgetAndLookup(file, ctimeNs)).toBe(nodeid);
    expect(forgetAndLookup(file, ctimeNs + 1n)).toBe(nodeid);
    expect(forgetAndLookup(other, ctimeNs)).toBe(nodeid); // nobody looks at its handle
    expect(forgetAndLookup(other, ctimeNs + 1n)).not.toBe(nodeid);
  });

  needsHandles("is not kept if it has no name any more", () => {
    using f = new Fixture(3);
    f.make("a");
    const a = f.lookup("a");
    f.unlink("a");
    f.inodes.forget(a, 1);
    expect(f.inodes.count).toBe(1);
    expect(f.use(a)).toBe(-ESTALE);
  });

  needsHandles(`is kept among the last ${RETAINED_MAX}, and no longer`, () => {
    using f = new Fixture(3);
    f.make("first", "second", "other");
    const [first, second] = ["first", "second"].map((name) => f.lookup(name));
    for (const nodeid of [first!, second!]) f.inodes.forget(nodeid, 1);
    // The same file again and again, as if it were others.
    const original = ino(f.at("other"));
    const forgetAnother = (index: number): number => {
      const nodeid = f.lookup("other", original + BigInt(index));
      f.inodes.forget(nodeid, 1);
      return nodeid;
    };
    for (let index = 2; index < RETAINED_MAX; index++) forgetAnother(index);
    expect(f.inodes.count).toBe(1 + RETAINED_MAX);
    expect(f.use(second!)).toBe(ino(f.at("second"))); // and it has a descriptor again
    forgetAnother(1);
    expect(f.use(first!)).toBe(-ESTALE);
    const last = forgetAnother(0);
    expect(f.use(second!)).toBe(-ESTALE);
    expect(f.use(last)).toBe(original);
    expect(f.inodes.count).toBe(1 + RETAINED_MAX);
    expect([...f.cached.values()]).toEqual([original]);
    expect(f.inodes.hasEvicted).toBe(false);
  });
});

describe("a registration for FUSE passthrough", () => {
  /** Gives out ids from 100 on. */
  class Registry implements Registrar {
    readonly open = new Set<number>();
    refuse = false;
    #next = 100;
    register(): number {
      if (this.refuse) return -1;
      this.open.add(this.#next);
      return this.#next++;
    }
    close(id: number): void {
      expect(this.open.delete(id)).toBe(true);
    }
  }

  test("serves all who have the file open, is kept for the next, and ends with the inode", () => {
    using f = new Fixture(8);
    f.make("a");
    const registry = new Registry();
    const a = f.lookup("a");
    const open = (): number => f.inodes.openBacked(a, 0, registry);
    expect([open(), open()]).toEqual([100, 100]);
    f.inodes.closeBacked(a, registry);
    f.inodes.closeBacked(a, registry);
    expect(open()).toBe(100);
    f.inodes.closeBacked(a, registry);
    expect([...registry.open]).toEqual([100]);
    expect(f.inodes.forget(a, 1)).toBe(100); // the caller closes it
    expect(f.lookup("a")).toBe(a);
    expect(open()).toBe(101);
  });

  test("that is refused is refused to all, until nobody has the file open", () => {
    using f = new Fixture(8);
    f.make("a");
    const registry = new Registry();
    const a = f.lookup("a");
    registry.refuse = true;
    expect(f.inodes.openBacked(a, 0, registry)).toBe(-1);
    registry.refuse = false;
    expect(f.inodes.openBacked(a, 0, registry)).toBe(-1);
    f.inodes.closeBacked(a, registry);
    f.inodes.closeBacked(a, registry);
    expect(f.inodes.openBacked(a, 0, registry)).toBe(100);
  });

  test(`is not kept for more than ${IDLE_BACKINGS_MAX} that no one has open`, () => {
    using f = new Fixture(8, { fileHandles: "never" });
    const registry = new Registry();
    const fd = openPath(f.directory);
    fstat(fd, statMemory.address);
    const nodeids: number[] = [];
    for (let index = 0; index <= IDLE_BACKINGS_MAX; index++) {
      statMemory.view.setBigUint64(stat.st_ino, BigInt(1000 + index), true);
      const nodeid = f.inodes.remember(dup(fd), statMemory);
      expect(f.inodes.openBacked(nodeid, 0, registry)).toBe(100 + index);
      f.inodes.closeBacked(nodeid, registry);
      nodeids.push(nodeid);
    }
    expect(registry.open.size).toBe(IDLE_BACKINGS_MAX);
    // With one that is forgotten or used there is room for another.
    registry.close(f.inodes.forget(nodeids[0]!, 1));
    f.inodes.openBacked(nodeids[1]!, 0, registry);
    for (const nodeid of nodeids.slice(-1)) {
      f.inodes.openBacked(nodeid, 0, registry);
      f.inodes.closeBacked(nodeid, registry);
    }
    expect(registry.open.size).toBe(IDLE_BACKINGS_MAX);
  });
});
