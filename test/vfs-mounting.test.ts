// What a VFS agrees on with file systems that are mounted while it serves, the numbers that it
// gives, and what happens to a mount that fails half-way.

import { describe, expect, spyOn, test } from "bun:test";
import * as abi from "../src/abi-fuse.ts";
import { EIO, ENOENT } from "../src/errno.ts";
import {
  FileSystem,
  type Connection,
  type Context,
  type EntryOut,
  type Name,
  type Wishes,
} from "../src/filesystem.ts";
import { MOUNTED_NODEID_MAX, MOUNTS_MAX } from "../src/limits.ts";
import { log } from "../src/log.ts";
import { Vfs, VfsError } from "../src/vfs.ts";
import { CONNECTION } from "./support-server.ts";
import { APART, ROOT, TinyFs, VfsHarness } from "./support-vfs.ts";

/** Wishes for `flags` out of what is offered, and remembers what that was. */
class Wishing extends TinyFs {
  readonly offered: number[][] = [];
  readonly #flags: number;

  constructor(flags: number) {
    super();
    this.#flags = flags;
  }

  override init(wishes: Wishes, flags: number, flags2: number): void {
    this.offered.push([flags, flags2]);
    wishes.flags |= this.#flags;
  }
}

describe("a file system that is mounted later", () => {
  const { FUSE_ASYNC_READ, FUSE_ATOMIC_O_TRUNC, FUSE_DONT_MASK, FUSE_WRITEBACK_CACHE } = abi;

  test("is asked for its wishes out of what was agreed on, and told of it, once", () => {
    const agreed = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC;
    const { vfs } = new VfsHarness(new Vfs(), agreed);
    const fs = new Wishing(FUSE_ATOMIC_O_TRUNC | FUSE_WRITEBACK_CACHE);
    vfs.mount(fs, "/late");
    expect(fs.offered).toEqual([[agreed, 0]]);
    expect(fs.connections).toMatchObject([{ flags: agreed }]);
  });

  test.each([
    [FUSE_ATOMIC_O_TRUNC, "truncating in OPEN"],
    [FUSE_DONT_MASK, "applying the umask"],
    [FUSE_WRITEBACK_CACHE, "the writeback cache"],
    [abi.FUSE_HANDLE_KILLPRIV, "clearing set-user-id bits"],
    [abi.FUSE_HANDLE_KILLPRIV_V2, "clearing set-user-id bits when asked to"],
  ])("is refused if it does not do its part of feature %d", (flag, name) => {
    const { vfs } = new VfsHarness(new Vfs(), flag | FUSE_ASYNC_READ);
    const fs = new Wishing(0);
    expect(() => vfs.mount(fs, "/a/b")).toThrow(
      new VfsError(
        "cannot mount at /a/b: its file system does not know of what was agreed on with the " +
          `kernel before: ${name}`,
      ),
    );
    expect(fs.connections).toEqual([]);
    expect(vfs.state).toMatchObject({ directories: [], mounts: [] });
    vfs.mount(new Wishing(flag), "/a/b");
  });
});

test("ids can't be mapped later where the kernel does not say who the caller is", () => {
  const ids = { uids: [{ internal: 1, external: 2, length: 1 }], gids: [] };
  const connect = (flags2: number): Vfs => {
    const vfs = new Vfs();
    vfs.connected({ ...CONNECTION, flags2 }, -1);
    return vfs;
  };
  const vfs = connect(abi.FUSE_ALLOW_IDMAP);
  expect(() => vfs.mount(new TinyFs(), "/a", ids)).toThrow(
    "cannot mount at /a: its ids can't be mapped, since no mount had that from the beginning",
  );
  expect(vfs.state.mounts).toEqual([]);
  vfs.mount(new TinyFs(), "/a");
  connect(0).mount(new TinyFs(), "/a", ids);
});

describe("a mount that fails", () => {
  class Failing extends TinyFs {
    readonly at: "init" | "connected";
    constructor(at: "init" | "connected") {
      super();
      this.at = at;
    }
    override init(): void {
      if (this.at === "init") throw new Error("no such luck");
    }
    override connected(connection: Connection): void {
      if (this.at === "connected") throw new Error("no such luck");
      super.connected(connection);
    }
  }

  test.each(["init", "connected"] as const)("in %s leaves nothing behind", (at) => {
    const harness = new VfsHarness();
    const { vfs } = harness;
    vfs.mount(new TinyFs(), "/a/stays");
    const before = vfs.state;
    expect(() => vfs.mount(new Failing(at), "/a/fails/here")).toThrow("no such luck");
    expect({ ...vfs.state, lastId: 0 }).toEqual({ ...before, lastId: 0 });
    expect(vfs.rootfs("/a/fails/here")).toBeUndefined();
    expect(harness.lookup(harness.walk("/a").nodeid, "fails").error).toBe(-ENOENT);
    const fs = new TinyFs();
    vfs.mount(fs, "/a/fails/here");
    expect(vfs.rootfs("/a/fails/here")).toBe(fs);
    harness.walk("/a/fails/here");
  });

  test("in a thread that adopts it is not there either", () => {
    const { vfs } = new VfsHarness();
    vfs.mount(new TinyFs(), "/a");
    const follower = new VfsHarness();
    const adopt = () => follower.vfs.adopt(vfs.state, () => new Failing("connected"));
    expect(adopt).toThrow("no such luck");
    expect(follower.vfs.state.mounts).toEqual([]);
  });
});

describe("numbers of mounts", () => {
  test("are not wasted while nearly all places are taken, and tell inode numbers apart", () => {
    const harness = new VfsHarness();
    const { vfs } = harness;
    for (let index = 1; index < MOUNTS_MAX; index++) vfs.mount(new TinyFs(), `/m${index}`);
    const rounds = 10_000;
    for (let round = 0; round < rounds; round++) {
      vfs.mount(new TinyFs(), "/other");
      if (round % 1000 === 0) {
        const inos = vfs.state.mounts.map(({ place }) => place);
        expect(new Set(inos).size).toBe(MOUNTS_MAX);
        expect(Math.min(...inos)).toBe(1);
        expect(Math.max(...inos)).toBe(MOUNTS_MAX);
        harness.walk("/other");
      }
      vfs.umount("/other");
    }
    // Some are passed over, because their slots are taken: those of the mounts that stay, at most.
    const used = vfs.state.lastId;
    expect(used).toBeLessThan(MOUNTS_MAX + 1.2 * rounds);
    expect(harness.walk("/m1").nodeid).toBe(APART + 1);
  });

  test("are not given again by a thread that takes over from another", () => {
    const first = new VfsHarness();
    first.vfs.mount(new TinyFs(), "/stays");
    for (let round = 0; round < 5; round++) {
      first.vfs.mount(new TinyFs(), "/gone");
      first.vfs.umount("/gone");
    }
    const second = new VfsHarness();
    second.vfs.adopt(first.vfs.state, () => new TinyFs());
    expect(second.vfs.mount(new TinyFs(), "/new")).toBe(7);
    expect(second.vfs.state.lastId).toBe(7);
  });
});

describe("a nodeid that does not fit beside those of others", () => {
  class Huge extends FileSystem {
    nodeid = 0;
    override lookup(_context: Context, _parent: number, _name: Name, entry: EntryOut): number {
      entry.nodeid = this.nodeid;
      return 0;
    }
  }

  test("is answered with EIO and said in the log, and not taken for another mount's", () => {
    const harness = new VfsHarness();
    const fs = new Huge();
    harness.vfs.mount(fs, "/a");
    harness.vfs.mount(new TinyFs(), "/b");
    const root = APART + 1;
    using said = spyOn(log, "error").mockImplementation(() => {});
    fs.nodeid = MOUNTED_NODEID_MAX - 1;
    expect(harness.lookup(root, "x").entry.nodeid).toBe(2 * APART - 1);
    expect(said).not.toHaveBeenCalled();
    for (const nodeid of [MOUNTED_NODEID_MAX, 2 * MOUNTED_NODEID_MAX + 5, 2 ** 60]) {
      fs.nodeid = nodeid;
      expect(harness.lookup(root, "x").error).toBe(-EIO);
    }
    expect(said).toHaveBeenCalledTimes(3);
    expect(String(said.mock.calls[0]![1])).toBe(
      "RangeError: nodeid 4294967296 of a file system that is one of several is not below 2**32",
    );
  });

  test("is one like any other where there is only one file system", () => {
    const harness = new VfsHarness(new Vfs({ fixed: true }));
    const fs = new Huge();
    harness.vfs.mount(fs, "/");
    fs.nodeid = 2 ** 40 + 1;
    expect(harness.lookup(ROOT, "x").entry.nodeid).toBe(fs.nodeid);
  });
});
