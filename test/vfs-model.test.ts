// The VFS against a simple model of it: random mounts, unmounts and lookups give what the model
// says is seen at each path, on the thread that mounts and on one that follows it. fast-check
// prints the seed of a failure, which `fc.assert`'s options take again.

import { expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { EIO, ENOENT, ESTALE } from "../src/errno.ts";
import { Vfs, type VfsState } from "../src/vfs.ts";
import { APART, ROOT, TinyFs, VfsHarness, type Entry } from "./support-vfs.ts";

// On a loaded machine everything takes its time.
setDefaultTimeout(60_000);

/** The fewer names there are, the more mounts are on and below each other. */
const NAMES = ["a", "b"] as const;
const path = fc
  .array(fc.constantFrom(...NAMES), { maxLength: 3 })
  .map((names) => `/${names.join("/")}`);

/** A file system with directories of the same names. Gives the nodeid of each path in it. */
function makeFs(): { fs: TinyFs; nodes: ReadonlyMap<string, number> } {
  const fs = new TinyFs();
  const nodes = new Map([["", ROOT]]);
  nodes.set("/a", fs.add("a/"));
  nodes.set("/a/b", fs.add("b/", {}, nodes.get("/a")));
  nodes.set("/a/b/a", fs.add("a", {}, nodes.get("/a/b")));
  return { fs, nodes };
}

interface Mount {
  readonly id: number;
  readonly path: string;
  readonly fs: TinyFs;
  readonly nodes: ReadonlyMap<string, number>;
}

/** What is seen at a path: a node of a mount, or a directory of the tree. */
type Seen = { readonly mount: Mount; readonly inside: string } | { readonly directory: string };

const under = (parent: string, name: string): string =>
  parent === "/" ? `/${name}` : `${parent}/${name}`;

class Model {
  readonly mounts: Mount[] = [];

  /** Whether the tree has a directory at a path: something is mounted there or below. */
  hasDirectory(at: string): boolean {
    const begin = at === "/" ? "/" : `${at}/`;
    return at === "/" || this.mounts.some(({ path: on }) => `${on}/`.startsWith(begin));
  }

  top(at: string): Mount | undefined {
    return this.mounts.findLast(({ path: on }) => on === at);
  }

  #inTree(at: string): Seen | undefined {
    const mount = this.top(at);
    if (mount !== undefined) return { mount, inside: "" };
    return this.hasDirectory(at) ? { directory: at } : undefined;
  }

  /** Names of the tree come before those of what is mounted. */
  #child(seen: Seen, name: string): Seen | undefined {
    const inTree = "directory" in seen ? seen.directory : seen.inside === "" ? seen.mount.path : "";
    const found = inTree === "" ? undefined : this.#inTree(under(inTree, name));
    if (found !== undefined || "directory" in seen) return found;
    const inside = `${seen.inside}/${name}`;
    return seen.mount.nodes.has(inside) ? { mount: seen.mount, inside } : undefined;
  }

  walk(to: string): Seen | undefined {
    let seen = this.#inTree("/");
    for (const name of to.split("/").filter((one) => one !== ""))
      seen = seen && this.#child(seen, name);
    return seen;
  }
}

class Run {
  readonly model = new Model();
  readonly harness = new VfsHarness();
  readonly #follower = new VfsHarness();
  readonly #made = new Map<number, TinyFs>();
  /** What was looked up: whose it was, by nodeid. */
  readonly #known = new Map<number, { entry: Entry; seen: Seen }>();

  mount(at: string): void {
    const { fs, nodes } = makeFs();
    const id = this.harness.vfs.mount(fs, at);
    expect(this.#made.has(id)).toBe(false);
    this.#made.set(id, fs);
    this.model.mounts.push({ id, path: at, fs, nodes });
  }

  umount(at: string): void {
    const top = this.model.top(at);
    if (top === undefined) {
      expect(() => this.harness.vfs.umount(at)).toThrow(`nothing is mounted at ${at}`);
      return;
    }
    expect(this.harness.vfs.umount(at)).toBe(top.fs);
    this.model.mounts.splice(this.model.mounts.indexOf(top), 1);
  }

  /** Walks as the kernel does; the last answer, or the first that is an error. */
  #find(harness: VfsHarness, to: string): Entry | number {
    let entry: Entry = { nodeid: ROOT, attr: harness.getattr(ROOT).attr, entryTimeout: 0 };
    for (const name of to.split("/").filter((one) => one !== "")) {
      const answer = harness.lookup(entry.nodeid, name);
      if (answer.error !== 0) return answer.error;
      entry = answer.entry;
    }
    return entry;
  }

  lookup(to: string): void {
    const found = this.#find(this.harness, to);
    const seen = this.model.walk(to);
    if (seen === undefined) return expect(found).toBe(-ENOENT);
    if (typeof found === "number") throw new Error(`${to}: error ${found}`);
    const { nodeid, attr } = found;
    if ("directory" in seen) {
      if (seen.directory === "/") expect(nodeid).toBe(ROOT);
      expect(nodeid).toBeLessThan(APART);
      expect(Number(attr.ino)).toBe(nodeid);
    } else {
      const inner = seen.mount.nodes.get(seen.inside)!;
      const isRoot = seen.mount.path === "/" && inner === ROOT;
      expect(nodeid).toBe(isRoot ? ROOT : seen.mount.id * APART + inner);
      expect(attr.ino).toBe((BigInt(seen.mount.id % 256) << 56n) + BigInt(999 + inner));
    }
    // A number stands for one thing for ever, but for that of the root.
    const before = this.#known.get(nodeid);
    if (before !== undefined && nodeid !== ROOT) expect(before.seen).toEqual(seen);
    this.#known.set(nodeid, { entry: found, seen });
    expect(this.harness.vfs.rootfs(to)).toBe(this.model.top(to)?.fs as TinyFs);
  }

  /** What is known goes on being answered, as long as it is there. */
  use(which: number): void {
    const [nodeid, known] = [...this.#known][which % this.#known.size] ?? [];
    if (nodeid === undefined || known === undefined || nodeid === ROOT) return;
    const answer = this.harness.getattr(nodeid);
    if ("directory" in known.seen) {
      const now = this.model.hasDirectory(known.seen.directory);
      if (!now) expect(answer.error).toBe(-ESTALE);
      // It may be there again, with another number.
      else expect([0, -ESTALE]).toContain(answer.error);
    } else if (this.model.mounts.includes(known.seen.mount)) {
      expect(answer.attr).toEqual(known.entry.attr);
    } else {
      expect(answer.error).toBe(-EIO);
    }
  }

  follow(to: string): void {
    const { vfs } = this.harness;
    const state = JSON.parse(JSON.stringify(vfs.state)) as VfsState;
    this.#follower.vfs.adopt(state, () => makeFs().fs);
    expect(this.#follower.vfs.state).toEqual(vfs.state);
    expect(this.#find(this.#follower, to)).toEqual(this.#find(this.harness, to));
  }

  /** What holds at any time. */
  check(): void {
    const { directories, mounts } = this.harness.vfs.state;
    expect(mounts.map(({ id }) => id)).toEqual(this.model.mounts.map(({ id }) => id));
    const byNode = new Map([[ROOT, "/"]]);
    for (const { nodeid, parent, name } of directories)
      byNode.set(nodeid, under(byNode.get(parent)!, name));
    expect(mounts.map(({ node }) => byNode.get(node))).toEqual(
      this.model.mounts.map(({ path: at }) => at),
    );
    for (const at of byNode.values()) expect(this.model.hasDirectory(at)).toBe(true);
  }
}

const step = fc.oneof(
  fc.record({ what: fc.constant("mount" as const), path }),
  fc.record({ what: fc.constant("umount" as const), path }),
  fc.record({ what: fc.constant("lookup" as const), path }),
  fc.record({ what: fc.constant("lookup" as const), path }),
  fc.record({ what: fc.constant("follow" as const), path }),
  fc.record({ what: fc.constant("use" as const), which: fc.nat(100) }),
);

test("does as the model does, whatever is mounted and unmounted", () => {
  fc.assert(
    fc.property(fc.array(step, { size: "max", maxLength: 100 }), (sequence) => {
      const run = new Run();
      for (const each of sequence) {
        if (each.what === "use") run.use(each.which);
        else run[each.what](each.path);
        run.check();
      }
    }),
    { numRuns: 100 },
  );
});

test("the model notices a VFS that does something else", () => {
  const forgetful = new Run();
  forgetful.mount("/a");
  const { vfs } = forgetful.harness;
  expect(vfs).toBeInstanceOf(Vfs);
  vfs.umount("/a");
  expect(() => forgetful.lookup("/a")).toThrow();
  expect(() => forgetful.check()).toThrow();
});
