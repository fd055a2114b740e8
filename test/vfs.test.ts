// The VFS over small file systems in memory, served without a kernel: what is seen where, mounts
// that come and go, threads that serve the same, and notifications. That every opcode is passed on
// is in vfs-routing.test.ts, options in vfs-options.test.ts, the mapping of owners in
// vfs-ids.test.ts.

import { describe, expect, test } from "bun:test";
import * as abi from "../src/abi-fuse.ts";
import { DT_DIR, S_IFDIR } from "../src/abi-linux.ts";
import { EBUSY, EEXIST, EIO, ENODEV, ENOENT, ESTALE, EXDEV } from "../src/errno.ts";
import type { Connection } from "../src/filesystem.ts";
import { IdMapError } from "../src/id-map.ts";
import { MOUNTS_MAX } from "../src/limits.ts";
import { Notifier } from "../src/notify.ts";
import { Vfs, VfsError, type VfsState } from "../src/vfs.ts";
import { CONNECTION, hex } from "./support-server.ts";
import { APART, encode, ROOT, TinyFs, twoMounts, VfsHarness } from "./support-vfs.ts";

/** The message of the VfsError that is thrown. */
function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(VfsError);
    return (error as VfsError).message;
  }
  throw new Error("nothing was thrown");
}

describe("what is mounted", () => {
  test("has the same root in LOOKUP, GETATTR, READDIR and READDIRPLUS", () => {
    const { harness, a } = twoMounts();
    Object.assign(a.nodes.get(ROOT)!, { mode: S_IFDIR | 0o750, uid: 5, gid: 6, size: 99 });
    const entry = harness.lookup(ROOT, "a").entry;
    expect(entry.attr).toMatchObject({ mode: S_IFDIR | 0o750, nlink: 1, uid: 5, gid: 6, size: 99 });
    expect(harness.getattr(entry.nodeid).attr).toEqual(entry.attr);
    expect(harness.statx(entry.nodeid).statx).toEqual(entry.attr);
    const named = harness
      .readdir(ROOT)
      .listed(false)
      .find(({ name }) => name === "a")!;
    expect(named).toMatchObject({ ino: entry.attr.ino, type: DT_DIR });
    const listed = harness
      .readdirplus(ROOT)
      .listed(true)
      .find(({ name }) => name === "a")!;
    expect(listed).toMatchObject({ ino: entry.attr.ino, type: DT_DIR, entry });
  });

  test("shows attributes that its file system leaves out as 0, whatever others have", () => {
    const { harness, a, b } = twoMounts();
    Object.assign(a.nodes.get(ROOT)!, { uid: 5, gid: 6, size: 99 });
    expect(harness.walk("/a").attr).toMatchObject({ uid: 5, gid: 6, size: 99 });
    expect(b.nodes.get(ROOT)).toMatchObject({ uid: 0, gid: 0, size: 0 });
    expect(harness.walk("/b").attr).toMatchObject({ uid: 0, gid: 0, size: 0 });
    const [, , , listed] = harness.readdirplus(ROOT).listed(true);
    expect(listed!.entry!.attr).toMatchObject({ uid: 0, gid: 0, size: 0 });
  });

  test("shares no nodeid and no inode number with others that call theirs the same", () => {
    const { harness, a, b } = twoMounts();
    for (const fs of [a, b]) {
      const directory = fs.add("dir/");
      fs.add("deep", {}, directory);
      // An inode number may use all but the upper 8 bits.
      fs.add("large", { ino: 2 ** 53 - 1 }, directory);
    }
    const paths = ["", "/file", "/dir", "/dir/deep", "/dir/large"];
    const all = ["/", ...paths.flatMap((path) => [`/a${path}`, `/b${path}`])];
    const entries = all.map((path) => harness.walk(path));
    expect(new Set(entries.map(({ nodeid }) => nodeid)).size).toBe(all.length);
    expect(new Set(entries.map(({ attr }) => attr.ino)).size).toBe(all.length);
    for (const { nodeid, attr } of entries) expect(harness.getattr(nodeid).attr).toEqual(attr);
    for (const mount of ["/a", "/b"]) {
      const listed = harness.readdir(harness.walk(`${mount}/dir`).nodeid).listed(false);
      const inos = Object.fromEntries(listed.map(({ name, ino }) => [name, ino]));
      expect(inos).toEqual({
        ".": harness.walk(`${mount}/dir`).attr.ino,
        "..": harness.walk(mount).attr.ino,
        deep: harness.walk(`${mount}/dir/deep`).attr.ino,
        large: harness.walk(`${mount}/dir/large`).attr.ino,
      });
    }
  });

  test("is led out of by `..`, and not by `.`", () => {
    const harness = new VfsHarness();
    const { vfs } = harness;
    vfs.mount(new TinyFs(), "/x/a");
    vfs.mount(new TinyFs(), "/x/a/b");
    const [x, a, b] = ["/x", "/x/a", "/x/a/b"].map((path) => harness.walk(path).nodeid);
    const up = (node: number): number => harness.lookup(node, "..").entry.nodeid;
    expect([up(b!), up(a!), up(x!), up(ROOT)]).toEqual([a!, x!, ROOT, ROOT]);
    for (const node of [x!, a!, b!, ROOT])
      expect(harness.lookup(node, ".").entry.nodeid).toBe(node);
  });

  test("at / is the root, and led out of by nothing", () => {
    const harness = new VfsHarness();
    const fs = new TinyFs();
    fs.add("file");
    harness.vfs.mount(fs, "/");
    expect(harness.getattr(ROOT).attr.ino & 0xffffn).toBe(1000n);
    expect(harness.lookup(ROOT, "..").entry.nodeid).toBe(ROOT);
    expect(
      harness
        .readdir(ROOT)
        .listed(false)
        .map(({ name }) => name),
    ).toEqual([".", "..", "file"]);
    const { nodeid } = harness.lookup(ROOT, "file").entry;
    expect(nodeid).toBeGreaterThan(APART);
    expect(harness.getattr(nodeid).error).toBe(0);
  });
});

describe("lookup counts", () => {
  const forgets = (...list: [number, number][]): Uint8Array[] => [
    encode(abi.fuse_batch_forget_in, { count: list.length }),
    ...list.map(([nodeid, nlookup]) => encode(abi.fuse_forget_one, { nodeid, nlookup })),
  ];

  test("are taken off by FORGET and BATCH_FORGET where they belong", () => {
    const { harness, a, b } = twoMounts();
    const [inA, inB] = ["/a/file", "/b/file"].map((path) => harness.walk(path).nodeid);
    for (let time = 0; time < 4; time++) harness.walk("/a/file");
    harness.walk("/b/file");
    expect([a.lookups, b.lookups]).toEqual([new Map([[2, 5]]), new Map([[2, 2]])]);
    harness.forget(inA!, 3);
    expect([a.lookups, b.lookups]).toEqual([new Map([[2, 2]]), new Map([[2, 2]])]);
    harness.tell(abi.FUSE_BATCH_FORGET, 0, ...forgets([inA!, 1], [inB!, 2], [inA!, 1]));
    expect([a.lookups.size, b.lookups.size]).toEqual([0, 0]);
  });

  test("of READDIRPLUS are like those of LOOKUP", () => {
    const { harness, a } = twoMounts();
    const root = harness.walk("/a").nodeid;
    const [, , file] = harness.readdirplus(root).listed(true);
    expect(a.lookups).toEqual(new Map([[2, 1]]));
    harness.forget(file!.entry!.nodeid, 1);
    expect(a.lookups.size).toBe(0);
  });

  test("are not kept for the roots of mounts, for the tree, and for what is gone", () => {
    const { harness, a } = twoMounts();
    const root = harness.walk("/a").nodeid;
    const file = harness.walk("/a/file").nodeid;
    const before = new Map(a.lookups);
    harness.tell(abi.FUSE_BATCH_FORGET, 0, ...forgets([root, 5], [ROOT, 1], [77, 1]));
    harness.forget(root, 1);
    expect(a.lookups).toEqual(before);
    harness.vfs.umount("/a");
    harness.forget(file, 1);
    expect(a.lookups).toEqual(before);
  });
});

describe("between file systems", () => {
  test("nothing is renamed or linked, and no data is copied", () => {
    const { harness, a, b } = twoMounts();
    const [rootA, rootB, fileA] = ["/a", "/b", "/a/file"].map((path) => harness.walk(path).nodeid);
    for (const [from, to] of [
      [rootA, rootB],
      [rootA, ROOT],
      [ROOT, rootA],
    ] as const)
      expect(harness.rename(from!, "file", to!, "new")).toBe(-EXDEV);
    expect(harness.link(fileA!, rootB!, "new").error).toBe(-EXDEV);
    expect(harness.link(fileA!, ROOT, "new").error).toBe(-EXDEV);
    expect(harness.rename(rootA!, "file", rootA!, "new")).toBe(0);
    expect(harness.link(fileA!, rootA!, "again").error).toBe(0);
    expect([...a.nodes.get(ROOT)!.entries.keys()]).toEqual(["new", "again"]);
    expect([...b.nodes.get(ROOT)!.entries.keys()]).toEqual(["file"]);
  });

  test("and data is copied within one", () => {
    const { harness } = twoMounts();
    const [inA, inB] = ["/a/file", "/b/file"].map((path) => harness.walk(path).nodeid);
    const copy = (nodeid_out: number): number => {
      const how = encode(abi.fuse_copy_file_range_in, { nodeid_out, len: 3 });
      return harness.ask(abi.FUSE_COPY_FILE_RANGE, inA!, how).error;
    };
    expect([copy(inA!), copy(inB!), copy(ROOT)]).toEqual([0, -EXDEV, -EXDEV]);
  });
});

describe("below what is mounted", () => {
  /** One file system at `path` and one at `path`/sub, where the first has a directory too. */
  function nested(path: string): { harness: VfsHarness; outer: TinyFs; inner: TinyFs; at: string } {
    const harness = new VfsHarness();
    const [outer, inner] = [new TinyFs(), new TinyFs()];
    outer.add("own");
    outer.add("hidden", {}, outer.add("sub/"));
    inner.add("file");
    harness.vfs.mount(outer, path);
    const at = path === "/" ? "" : path;
    harness.vfs.mount(inner, `${at}/sub`);
    return { harness, outer, inner, at };
  }

  test.each(["/", "/a", "/a/b"])("%s, mounts are found by name, before what is there", (path) => {
    const { harness, inner, outer, at } = nested(path);
    expect(harness.walk(`${at}/sub/file`).nodeid % APART).toBe(2);
    expect(inner.lookups).toEqual(new Map([[2, 1]]));
    const sub = harness.walk(`${at}/sub`).nodeid;
    expect(harness.lookup(sub, "hidden").error).toBe(-ENOENT);
    harness.walk(`${at}/own`);
    expect(outer.lookups).toEqual(new Map([[2, 1]]));
  });

  test.each(["/", "/a", "/a/b"])("%s, they go and what is there is seen again", (path) => {
    const { harness, outer, at } = nested(path);
    harness.vfs.umount(`${at}/sub`);
    harness.walk(`${at}/sub/hidden`);
    expect([...outer.lookups.keys()]).toEqual([3, 4]);
  });

  test("directories of the tree that lead to a mount are found, and not in deeper ones", () => {
    const harness = new VfsHarness();
    const [outer, inner] = [new TinyFs(), new TinyFs()];
    outer.add("x/", {}, outer.add("dir/"));
    harness.vfs.mount(outer, "/");
    harness.vfs.mount(inner, "/x/y");
    expect(harness.walk("/x").nodeid).toBeLessThan(APART);
    expect(harness.walk("/x/y").attr.ino & 0xffffn).toBe(1000n);
    expect(harness.lookup(harness.walk("/dir").nodeid, "x").entry.nodeid % APART).toBe(3);
  });

  test("a mount goes on being found when what is mounted above it goes", () => {
    const { harness } = nested("/a");
    harness.vfs.umount("/a");
    harness.walk("/a/sub/file");
    expect(harness.walk("/a").nodeid).toBeLessThan(APART);
    expect(harness.readdir(harness.walk("/a").nodeid).listed(false).at(-1)!.name).toBe("sub");
  });

  test("what is hidden is neither removed nor moved nor replaced by the name of a mount", () => {
    const { harness, outer } = nested("/a");
    const root = harness.walk("/a").nodeid;
    const own = harness.walk("/a/own").nodeid;
    const before = [...outer.nodes.get(ROOT)!.entries];
    expect(harness.ask(abi.FUSE_RMDIR, root, "sub").error).toBe(-EBUSY);
    expect(harness.ask(abi.FUSE_UNLINK, root, "sub").error).toBe(-EBUSY);
    expect(harness.rename(root, "sub", root, "moved")).toBe(-EBUSY);
    expect(harness.rename(root, "own", root, "sub")).toBe(-EBUSY);
    expect(harness.link(own, root, "sub").error).toBe(-EEXIST);
    expect(harness.ask(abi.FUSE_SYMLINK, root, "sub", "to").error).toBe(-EEXIST);
    const making = [
      [abi.FUSE_MKDIR, encode(abi.fuse_mkdir_in, {})],
      [abi.FUSE_MKNOD, encode(abi.fuse_mknod_in, {})],
      [abi.FUSE_CREATE, encode(abi.fuse_create_in, {})],
    ] as const;
    for (const [opcode, how] of making)
      expect(harness.ask(opcode, root, how, "sub").error).toBe(-EEXIST);
    expect([...outer.nodes.get(ROOT)!.entries]).toEqual(before);
    // Elsewhere the name is one like any other.
    const deeper = outer.add("deeper/");
    outer.add("sub", {}, deeper);
    const { nodeid } = harness.walk("/a/deeper");
    expect(harness.ask(abi.FUSE_UNLINK, nodeid, "sub").error).toBe(0);
    expect(harness.ask(abi.FUSE_UNLINK, root, "own").error).toBe(0);
  });
});

test("what a name covers that leads back to the tree does not become known by READDIRPLUS", () => {
  const harness = new VfsHarness();
  const [outer, inner] = [new TinyFs(), new TinyFs()];
  const covered = outer.add("sub/");
  outer.add("file", {}, covered);
  outer.add("other/");
  harness.vfs.mount(outer, "/");
  harness.vfs.mount(inner, "/sub/deep");
  const names = ["sub", "other"];
  const known = (): unknown[] =>
    harness
      .readdirplus(ROOT)
      .listed(true)
      .filter(({ name }) => names.includes(name))
      .map(({ name, entry }) => [name, entry!.nodeid]);
  expect(known()).toEqual([
    ["sub", 0],
    ["other", 0],
  ]);
  expect(outer.lookups).toEqual(new Map());
  harness.walk("/sub/deep");
  // Where nothing is hidden the entries come with all they have.
  harness.vfs.umount("/sub/deep");
  expect(known()).toEqual(names.map((name) => [name, harness.walk(`/${name}`).nodeid]));
});

describe("mount", () => {
  test.each([
    ["", "does not begin with a slash"],
    ["a", "does not begin with a slash"],
    ["//", "ends with a slash"],
    ["/a/", "ends with a slash"],
    ["/a//b", "has two slashes in a row"],
    ["/.", `the name "." is every directory's`],
    ["/a/../b", `the name ".." is every directory's`],
    ["/a\0b", "NUL"],
    [`/${"x".repeat(256)}`, "has 256 bytes; 255 are the most"],
    [`/${"é".repeat(128)}`, "has 256 bytes; 255 are the most"],
  ])("refuses the path %j", (path, why) => {
    const vfs = new Vfs();
    for (const act of [() => vfs.mount(new TinyFs(), path), () => vfs.umount(path)])
      expect(refusal(act)).toContain(why);
    expect(vfs.state).toEqual({ directories: [], mounts: [], lastId: 0 });
  });

  test("takes names of 255 bytes, of characters beyond ASCII, and odd ones", () => {
    const harness = new VfsHarness();
    for (const name of ["x".repeat(255), "é".repeat(127), "...", " ", "-", "a\nb"]) {
      harness.vfs.mount(new TinyFs(), `/${name}`);
      expect(harness.walk(`/${name}`).attr.ino & 0xffffn).toBe(1000n);
    }
    const names = harness
      .readdir(ROOT)
      .listed(false)
      .map(({ name }) => name);
    expect(names.slice(2)).toEqual(["x".repeat(255), "é".repeat(127), "...", " ", "-", "a\nb"]);
  });

  test("refuses a map of ids that contradicts itself, and nothing has changed", () => {
    const vfs = new Vfs();
    const twice = { internal: 0, external: 0, length: 2 };
    const map = { uids: [twice, twice], gids: [] };
    expect(() => vfs.mount(new TinyFs(), "/a/b", map)).toThrow(IdMapError);
    expect(vfs.state).toEqual({ directories: [], mounts: [], lastId: 0 });
  });

  test("takes 255 mounts and says why it refuses one more", () => {
    const harness = new VfsHarness();
    const { vfs } = harness;
    for (let index = 0; index < MOUNTS_MAX; index++) vfs.mount(new TinyFs(), `/m${index}`);
    expect(MOUNTS_MAX).toBe(255);
    expect(refusal(() => vfs.mount(new TinyFs(), "/one-more"))).toBe(
      "cannot mount at /one-more: there are 255 mounts already",
    );
    const inos = new Set<bigint>();
    for (let index = 0; index < MOUNTS_MAX; index++) inos.add(harness.walk(`/m${index}`).attr.ino);
    expect(inos.size).toBe(MOUNTS_MAX);
    expect(harness.lookup(ROOT, "one-more").error).toBe(-ENOENT);
    vfs.umount("/m100");
    vfs.mount(new TinyFs(), "/one-more");
    expect(inos.has(harness.walk("/one-more").attr.ino)).toBe(true);
  });

  test("gives directories of the tree to what needs them, and umount takes them off again", () => {
    const harness = new VfsHarness();
    const { vfs } = harness;
    const names = (): string[] => vfs.state.directories.map(({ name }) => name);
    vfs.mount(new TinyFs(), "/a/b/c");
    vfs.mount(new TinyFs(), "/a/b");
    vfs.mount(new TinyFs(), "/a/d");
    expect(names()).toEqual(["a", "b", "c", "d"]);
    vfs.umount("/a/b/c");
    expect(names()).toEqual(["a", "b", "d"]);
    const a = harness.walk("/a").nodeid;
    vfs.umount("/a/b");
    expect(names()).toEqual(["a", "d"]);
    vfs.umount("/a/d");
    expect(names()).toEqual([]);
    expect(harness.lookup(ROOT, "a").error).toBe(-ENOENT);
    expect(harness.getattr(a).error).toBe(-ESTALE);
    vfs.mount(new TinyFs(), "/a/b/c");
    expect(harness.walk("/a").nodeid).not.toBe(a);
  });

  test("covers what is mounted before at the same path, and umount reveals it", () => {
    const harness = new VfsHarness();
    const { vfs } = harness;
    for (const path of ["/", "/a", "/a/b"]) {
      const [lower, upper] = [new TinyFs(), new TinyFs()];
      lower.add("lower");
      upper.add("upper");
      vfs.mount(lower, path);
      const at = path === "/" ? "" : path;
      const before = harness.walk(`${at}/lower`);
      vfs.mount(upper, path);
      expect(vfs.rootfs(path)).toBe(upper);
      harness.walk(`${at}/upper`);
      expect(harness.lookup(harness.walk(path).nodeid, "lower").error).toBe(-ENOENT);
      // Who has it open goes on using it.
      expect(harness.getattr(before.nodeid).attr).toEqual(before.attr);
      expect(vfs.umount(path)).toBe(upper);
      expect(harness.walk(`${at}/lower`).nodeid).toBe(before.nodeid);
      expect(vfs.umount(path)).toBe(lower);
      expect(refusal(() => vfs.umount(path))).toBe(`nothing is mounted at ${path}`);
    }
  });

  test("says by rootfs and mountId what is seen at a path", () => {
    const { harness, a, b } = twoMounts();
    const { vfs } = harness;
    expect([vfs.rootfs("/a"), vfs.rootfs("/b")]).toEqual([a, b]);
    expect([vfs.rootfs("/"), vfs.rootfs("/a/file"), vfs.rootfs("/c")]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    expect(vfs.mountId("/a")).toBe(Math.floor(harness.walk("/a").nodeid / APART));
    expect(vfs.mountId("/")).toBeUndefined();
    expect(refusal(() => vfs.rootfs("a"))).toContain("slash");
  });

  test("tells a file system of the connection, before or after there is one", () => {
    const vfs = new Vfs();
    const [early, late] = [new TinyFs(), new TinyFs()];
    vfs.mount(early, "/early");
    expect(early.connections).toEqual([]);
    const harness = new VfsHarness(vfs);
    vfs.mount(late, "/late");
    for (const { connections } of [early, late]) expect(connections).toMatchObject([CONNECTION]);
    harness.ask(abi.FUSE_DESTROY, 0);
    expect([early.destroyed, late.destroyed]).toEqual([1, 1]);
  });
});

describe("umount", () => {
  test("leaves EIO to nodes and handles, but for what lets go of them", () => {
    const { harness } = twoMounts();
    const [root, file] = ["/a", "/a/file"].map((path) => harness.walk(path).nodeid);
    harness.vfs.umount("/a");
    expect(harness.lookup(ROOT, "a").error).toBe(-ENOENT);
    for (const node of [root!, file!]) {
      expect(harness.getattr(node).error).toBe(-EIO);
      const read = encode(abi.fuse_read_in, { fh: 3, size: 10 });
      expect(harness.ask(abi.FUSE_READ, node, read).error).toBe(-EIO);
      const release = encode(abi.fuse_release_in, { fh: 3 });
      expect(harness.ask(abi.FUSE_RELEASE, node, release).error).toBe(0);
      expect(harness.ask(abi.FUSE_RELEASEDIR, node, release).error).toBe(0);
    }
    expect(harness.lookup(root!, "..").error).toBe(-EIO);
    harness.walk("/b/file");
  });

  test("gives numbers that no later mount has, however many come and go", () => {
    const harness = new VfsHarness();
    const { vfs } = harness;
    vfs.mount(new TinyFs(), "/stays");
    const fs = new TinyFs();
    fs.add("file");
    const nodes: number[] = [];
    const checkRest = (rest: number[]): void => {
      const errors = new Set(rest.map((nodeid) => harness.getattr(nodeid).error));
      expect([...errors]).toEqual([-EIO]);
    };
    for (let round = 0; round < 3000; round++) {
      vfs.mount(fs, "/a/b");
      nodes.push(harness.walk("/a/b/file").nodeid);
      // Some of the last had the same place among the mounts.
      if (round % 100 === 99) checkRest(nodes.slice(-300, -1));
      expect(vfs.umount("/a/b")).toBe(fs);
    }
    expect(new Set(nodes).size).toBe(3000);
    vfs.mount(fs, "/a/b");
    checkRest(nodes);
    expect(vfs.state.directories).toHaveLength(3);
    harness.walk("/stays");
  });
});

describe("adopt", () => {
  /** As it comes to another thread. */
  const sent = (state: VfsState): VfsState => JSON.parse(JSON.stringify(state)) as VfsState;

  test("serves the same nodes and directories as the one that mounted", () => {
    const { harness } = twoMounts();
    const { vfs } = harness;
    vfs.mount(new TinyFs(), "/c/d");
    vfs.mount(new TinyFs(), "/c/d/e");
    const files = new Map<number, TinyFs>();
    const other = new VfsHarness();
    other.vfs.adopt(sent(vfs.state), ({ id }) => {
      const fs = new TinyFs();
      fs.add("file", { size: 10 });
      files.set(id, fs);
      return fs;
    });
    expect(files.size).toBe(4);
    for (const path of ["/", "/a", "/a/file", "/b/file", "/c", "/c/d", "/c/d/e"])
      expect(other.walk(path)).toMatchObject({
        nodeid: harness.walk(path).nodeid,
        attr: { ino: harness.walk(path).attr.ino },
      });
    expect(other.readdir(ROOT).body).toEqual(harness.readdir(ROOT).body);
    expect(other.vfs.state).toEqual(vfs.state);
    for (const { connections } of files.values()) expect(connections).toHaveLength(1);
  });

  test("drops what is gone, keeps what stays, and makes only what is new", () => {
    const { harness, b } = twoMounts();
    const { vfs } = harness;
    const made: number[] = [];
    const other = new VfsHarness();
    const follow = (): void =>
      other.vfs.adopt(sent(vfs.state), ({ id }) => {
        made.push(id);
        return new TinyFs();
      });
    follow();
    const old = other.walk("/a").nodeid;
    const kept = other.vfs.rootfs("/b");
    vfs.umount("/a");
    vfs.mount(b, "/new/a");
    follow();
    expect(made).toEqual([1, 2, 3]);
    expect(other.vfs.rootfs("/b")).toBe(kept!);
    expect(other.getattr(old).error).toBe(-EIO);
    expect(other.lookup(ROOT, "a").error).toBe(-ENOENT);
    expect(other.walk("/new/a").nodeid).toBe(harness.walk("/new/a").nodeid);
    follow();
    expect(made).toEqual([1, 2, 3]);
  });

  test("is called before a request whose node has just been mounted", () => {
    const vfs = new Vfs();
    const other = new VfsHarness(
      new Vfs({ refresh: () => other.vfs.adopt(sent(vfs.state), () => new TinyFs()) }),
    );
    const id = vfs.mount(new TinyFs(), "/a");
    expect(other.getattr(id * APART + ROOT).error).toBe(0);
    vfs.umount("/a");
    expect(other.getattr(id * APART + ROOT).error).toBe(-EIO);
    expect(other.lookup(ROOT, "a").error).toBe(-ENOENT);
  });
});

describe("notifications", () => {
  /** The messages that `notify` sends. */
  function sent(connection: Partial<Connection>, notify: (notifier: Notifier) => number): string[] {
    const messages: string[] = [];
    const take = (message: Uint8Array): number => messages.push(message.toHex());
    expect(notify(new Notifier(take, connection.translation))).toBe(0);
    return messages;
  }
  const invalInode = (node: string): string =>
    hex(`28000000 02000000 ${"00".repeat(8)} ${node} ${"00".repeat(16)}`).toHex();
  const invalEntry = (parent: string, name: string, expires = false): string => {
    const length = name.length.toString(16).padStart(2, "0");
    const size = (0x21 + name.length).toString(16).padStart(2, "0");
    const flags = expires ? "01000000" : "00000000";
    const head = `${size}000000 03000000 ${"00".repeat(8)}`;
    return hex(`${head} ${parent} ${length}000000 ${flags} '${name}' 00`).toHex();
  };
  const EPOCH = hex(`10000000 08000000 ${"00".repeat(8)}`).toHex();

  test("of a mounted file system name nodes as the kernel knows them, also its root", () => {
    const { harness, a, b } = twoMounts();
    const top = new TinyFs();
    harness.vfs.mount(top, "/");
    const tell = (fs: TinyFs): string[] =>
      sent(fs.connections[0]!, (notifier) => notifier.invalInode(5) + notifier.invalInode(ROOT));
    expect(tell(a)).toEqual(["0500000001000000", "0100000001000000"].map(invalInode));
    expect(tell(b)).toEqual(["0500000002000000", "0100000002000000"].map(invalInode));
    expect(tell(top)).toEqual(["0500000003000000", "0100000000000000"].map(invalInode));
    const removed = sent(a.connections[0]!, (notifier) => notifier.delete(ROOT, 5, "x"));
    expect(removed[0]).toContain("01000000010000000500000001000000");
  });

  test("invalidate tells of the name, in the node that is seen there, and what leads to it", () => {
    const vfs = new Vfs();
    const tell = (path: string): string[] => sent({}, (notifier) => vfs.invalidate(notifier, path));
    const root = "0100000000000000";
    vfs.mount(new TinyFs(), "/a");
    expect(tell("/a")).toEqual([EPOCH, invalEntry(root, "a")]);
    vfs.mount(new TinyFs(), "/a/b");
    // The kernel knows /a as the root of mount 1.
    const inA = invalEntry("0100000001000000", "b");
    expect(tell("/a/b")).toEqual([EPOCH, invalEntry(root, "a", true), inA]);
    vfs.umount("/a/b");
    expect(tell("/a/b")).toEqual([EPOCH, invalEntry(root, "a", true), inA]);
    vfs.mount(new TinyFs(), "/x/y/z");
    const x = vfs.state.directories.find(({ name }) => name === "x")!.nodeid;
    const [first, second, third, fourth] = tell("/x/y/z");
    expect([first, second]).toEqual([EPOCH, invalEntry(root, "x", true)]);
    expect(third).toBe(invalEntry(`0${x}00000000000000`, "y", true));
    expect(fourth).toContain("7a00");
    // What led there is gone, too.
    vfs.umount("/x/y/z");
    expect(tell("/x/y/z")).toEqual([EPOCH, invalEntry(root, "x", true)]);
  });

  test("invalidate tells of the root, and gives errors on", () => {
    const vfs = new Vfs();
    const attributes = `28000000 02000000 ${"00".repeat(8)} 0100000000000000 ${"ff".repeat(8)}`;
    expect(sent({}, (notifier) => vfs.invalidate(notifier, "/"))).toEqual([
      EPOCH,
      hex(`${attributes} ${"00".repeat(8)}`).toHex(),
    ]);
    const failing = new Notifier(() => -ENODEV);
    expect(vfs.invalidate(failing, "/a")).toBe(-ENODEV);
    expect(refusal(() => vfs.invalidate(failing, "a"))).toContain("slash");
  });
});
