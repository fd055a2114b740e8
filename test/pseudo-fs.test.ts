// The tree of directories at whose places file systems are mounted: that it answers every operation
// as a read-only file system does, and can be listed while it changes.

import { describe, expect, test } from "bun:test";
import * as abi from "../src/abi-fuse.ts";
import { AT_STATX_SYNC_TYPE, DT_DIR, O_RDONLY, O_RDWR, S_IFDIR } from "../src/abi-linux.ts";
import {
  EEXIST,
  EINVAL,
  EIO,
  EISDIR,
  ENODATA,
  ENOENT,
  ENOTTY,
  EOPNOTSUPP,
  EROFS,
  ESTALE,
} from "../src/errno.ts";
import { FileSystem } from "../src/filesystem.ts";
import { PSEUDO_TIMEOUT } from "../src/limits.ts";
import { table } from "../src/operations.ts";
import { PseudoFs } from "../src/pseudo-fs.ts";
import { readU64, writeU64 } from "../src/request.ts";
import { Vfs } from "../src/vfs.ts";
import { CASES } from "./server-cases.ts";
import { hex, outHeader } from "./support-server.ts";
import { encode, ROOT, TinyFs, VfsHarness } from "./support-vfs.ts";

/** Something mounted at each of `paths`. */
function tree(...paths: string[]): VfsHarness {
  const harness = new VfsHarness();
  for (const path of paths) harness.vfs.mount(new TinyFs(), path);
  return harness;
}

const names = (harness: VfsHarness, node: number): string[] =>
  harness
    .readdir(node)
    .listed(false)
    .map(({ name }) => name);

/** What a request to a directory of the tree is answered with; the others succeed. */
const ERRORS: Readonly<Record<string, number>> = {
  LOOKUP: -ENOENT,
  "LOOKUP of .. for export": 0,
  READLINK: -EINVAL,
  SETATTR: -EROFS,
  SYMLINK: -EROFS,
  MKNOD: -EROFS,
  MKDIR: -EROFS,
  UNLINK: -EROFS,
  RMDIR: -EROFS,
  RENAME: -EROFS,
  RENAME2: -EROFS,
  LINK: -EROFS,
  OPEN: -EROFS,
  CREATE: -EROFS,
  TMPFILE: -EROFS,
  READ: -EISDIR,
  WRITE: -EROFS,
  FALLOCATE: -EROFS,
  COPY_FILE_RANGE: -EROFS,
  COPY_FILE_RANGE_64: -EROFS,
  LSEEK: -EINVAL,
  SETXATTR: -EROFS,
  GETXATTR: -ENODATA,
  REMOVEXATTR: -EROFS,
  ACCESS: -EROFS,
  GETLK: -EINVAL,
  SETLK: -EINVAL,
  SETLKW: -EINVAL,
  BMAP: -EINVAL,
  IOCTL: -ENOTTY,
  SETUPMAPPING: -EOPNOTSUPP,
  REMOVEMAPPING: -EOPNOTSUPP,
};

describe("a directory of the tree answers", () => {
  test.each(CASES.map((row) => [row.name, row] as const))("%s", (name, row) => {
    const harness = new VfsHarness(new Vfs(), row.flags);
    harness.vfs.mount(new TinyFs(), "/a/b");
    const request = hex(row.request);
    const view = new DataView(request.buffer);
    const { nodeid } = harness.walk("/a");
    writeU64(view, abi.fuse_in_header.nodeid, nodeid);
    expect(readU64(view, abi.fuse_in_header.nodeid)).toBe(nodeid);
    const reply = harness.serve(request);
    if (reply === undefined) return;
    const operation = table[request[4]!]!.name;
    const { error, len } = outHeader(reply);
    expect({ [name]: error }).toEqual({ [name]: ERRORS[name] ?? ERRORS[operation] ?? 0 });
    const { replySize } = table[request[4]!]!;
    if (error === 0 && replySize >= 0) expect(len).toBe(16 + replySize);
  });

  test("EEXIST if something is to be made where something is", () => {
    const harness = tree("/a/b", "/a/c/d");
    const { nodeid } = harness.walk("/a");
    const make = (name: string): number[] => [
      harness.ask(abi.FUSE_MKDIR, nodeid, encode(abi.fuse_mkdir_in, {}), name).error,
      harness.ask(abi.FUSE_MKNOD, nodeid, encode(abi.fuse_mknod_in, {}), name).error,
      harness.ask(abi.FUSE_CREATE, nodeid, encode(abi.fuse_create_in, {}), name).error,
      harness.ask(abi.FUSE_SYMLINK, nodeid, name, "target").error,
      harness.link(ROOT, nodeid, name).error,
    ];
    for (const name of ["b", "c"]) expect(make(name)).toEqual([1, 2, 3, 4, 5].map(() => -EEXIST));
    expect(make("new")).toEqual([1, 2, 3, 4, 5].map(() => -EROFS));
  });

  test("ACCESS and OPEN by what is asked for", () => {
    const harness = tree("/a/b");
    const access = (mask: number): number =>
      harness.ask(abi.FUSE_ACCESS, ROOT, encode(abi.fuse_access_in, { mask })).error;
    expect([0, 1, 4, 5, 2, 7].map(access)).toEqual([0, 0, 0, 0, -EROFS, -EROFS]);
    const open = (flags: number): number =>
      harness.ask(abi.FUSE_OPEN, ROOT, encode(abi.fuse_open_in, { flags })).error;
    expect([O_RDONLY, O_RDWR].map(open)).toEqual([-EISDIR, -EROFS]);
  });

  test("STATFS with the length of names and the number of directories", () => {
    const { body } = tree("/a/b", "/c").ask(abi.FUSE_STATFS, ROOT);
    const view = new DataView(body.buffer);
    const { files, namelen, bsize, frsize, blocks, bfree } = abi.fuse_kstatfs;
    expect([files, blocks, bfree].map((field) => readU64(view, field))).toEqual([4, 0, 0]);
    expect([namelen, bsize, frsize].map((field) => view.getUint32(field, true))).toEqual([
      255, 4096, 4096,
    ]);
  });

  test("OPENDIR without a handle, and GETXATTR and LISTXATTR without anything", () => {
    const harness = tree("/a/b");
    const opened = harness.ask(abi.FUSE_OPENDIR, ROOT, encode(abi.fuse_open_in, {}));
    expect(opened.body.toHex()).toBe("00".repeat(16));
    for (const size of [0, 64]) {
      const how = encode(abi.fuse_getxattr_in, { size });
      expect(harness.ask(abi.FUSE_GETXATTR, ROOT, how, "user.x").error).toBe(-ENODATA);
      const list = harness.ask(abi.FUSE_LISTXATTR, ROOT, how);
      expect(list.body.toHex()).toBe(size === 0 ? "0000000000000000" : "");
    }
  });
});

describe("attributes", () => {
  test("are those of a directory that only root could write to, with a link for each in it", () => {
    const before = Math.floor(Date.now() / 1000);
    const harness = tree("/a/b", "/a/c/d", "/a/e");
    const entry = harness.walk("/a");
    const { ino } = entry.attr;
    expect(entry).toEqual({
      nodeid: Number(ino),
      entryTimeout: PSEUDO_TIMEOUT,
      attr: { ino, mode: S_IFDIR | 0o555, nlink: 5, uid: 0, gid: 0, size: 0 },
    });
    const answer = harness.getattr(entry.nodeid);
    expect(answer.attr).toEqual(entry.attr);
    expect(harness.statx(entry.nodeid).statx).toEqual(entry.attr);
    const view = new DataView(answer.body.buffer);
    expect(readU64(view, abi.fuse_attr_out.attr_valid)).toBe(PSEUDO_TIMEOUT);
    const mtime = readU64(view, abi.fuse_attr_out.attr + abi.fuse_attr.mtime);
    expect(mtime).toBeWithin(before, before + 10);
  });

  test("are given with the time of birth by STATX, which knows how current they are to be", () => {
    const harness = tree("/a");
    const ask = (sx_flags: number) =>
      harness.ask(abi.FUSE_STATX, ROOT, encode(abi.fuse_statx_in, { sx_flags }));
    const { body } = ask(0);
    const view = new DataView(body.buffer);
    const at = abi.fuse_statx_out.stat;
    expect(view.getUint32(at + abi.fuse_statx.mask, true)).toBe(0xfff);
    const [birth, change] = [abi.fuse_statx.btime, abi.fuse_statx.ctime].map((field) =>
      readU64(view, at + field),
    );
    expect(birth).toBe(change!);
    expect(birth).toBeGreaterThan(0);
    expect(ask(AT_STATX_SYNC_TYPE).error).toBe(-EINVAL);
  });
});

describe("listing", () => {
  test("has `.`, `..`, then what is in the directory, with the numbers that LOOKUP gives", () => {
    const harness = tree("/x/a", "/x/b/c", "/x/d");
    const { nodeid, attr } = harness.walk("/x");
    const list = harness.readdir(nodeid).listed(false);
    const inos = ["a", "b", "d"].map((name) => harness.walk(`/x/${name}`).attr.ino);
    expect(list.map(({ ino }) => ino)).toEqual([attr.ino, harness.walk("/").attr.ino, ...inos]);
    expect(list.map(({ name }) => name)).toEqual([".", "..", "a", "b", "d"]);
    expect(list.every(({ type }) => type === DT_DIR)).toBe(true);
    const plus = harness.readdirplus(nodeid).listed(true);
    expect(plus.map(({ entry: _entry, ...rest }) => rest)).toEqual(list);
    expect(plus.slice(0, 2).map(({ entry }) => entry!.nodeid)).toEqual([0, 0]);
    for (const { name, entry } of plus.slice(2)) expect(entry!).toEqual(harness.walk(`/x/${name}`));
  });

  test("shows for `..` the file system that is mounted there", () => {
    const harness = tree("/x", "/x/y/z");
    const { nodeid } = harness.walk("/x/y");
    const [, up] = harness.readdir(nodeid).listed(false);
    expect(up!.ino).toBe(harness.walk("/x").attr.ino);
  });

  test("shows for `.` the directory itself, also when something is mounted on it by now", () => {
    const harness = tree("/x/y");
    const { nodeid, attr } = harness.walk("/x");
    harness.vfs.mount(new TinyFs(), "/x");
    expect(harness.readdir(nodeid).listed(false)[0]!.ino).toBe(attr.ino);
    expect(harness.walk("/x").attr.ino).not.toBe(attr.ino);
  });

  test.each([false, true])("goes on where it was, whatever the buffer holds (plus: %p)", (plus) => {
    const harness = tree(...["a", "bb", "a-longer-name", "d"].map((name) => `/${name}`));
    const all: string[] = [];
    let cookie = 0;
    for (let rounds = 0; rounds < 10; rounds++) {
      const size = plus ? 200 : 50;
      const answer = plus
        ? harness.readdirplus(ROOT, cookie, size)
        : harness.readdir(ROOT, cookie, size);
      const list = answer.listed(plus);
      if (list.length === 0) break;
      all.push(...list.map(({ name }) => name));
      cookie = list.at(-1)!.cookie;
    }
    expect(all).toEqual([".", "..", "a", "bb", "a-longer-name", "d"]);
  });

  test("neither repeats nor leaves out what is there all the time while others come and go", () => {
    const harness = tree("/a", "/b", "/c", "/d");
    const first = harness.readdir(ROOT, 0, 130).listed(false);
    expect(first.map(({ name }) => name)).toEqual([".", "..", "a", "b"]);
    harness.vfs.umount("/b");
    harness.vfs.umount("/a");
    harness.vfs.mount(new TinyFs(), "/e");
    harness.vfs.mount(new TinyFs(), "/a");
    const rest = harness.readdir(ROOT, first.at(-1)!.cookie).listed(false);
    expect(rest.map(({ name }) => name)).toEqual(["c", "d", "e", "a"]);
  });

  test("of a directory that is gone gives nothing, and all else says ESTALE", () => {
    const harness = tree("/a/b");
    const { nodeid } = harness.walk("/a");
    harness.vfs.umount("/a/b");
    expect(names(harness, nodeid)).toEqual([]);
    expect(harness.getattr(nodeid).error).toBe(-ESTALE);
    expect(harness.statx(nodeid).error).toBe(-ESTALE);
    expect(harness.lookup(nodeid, "b").error).toBe(-ESTALE);
    expect(harness.lookup(nodeid, "..").error).toBe(-ESTALE);
    const opendir = harness.ask(abi.FUSE_OPENDIR, nodeid, encode(abi.fuse_open_in, {}));
    expect(opendir.error).toBe(-ESTALE);
  });
});

test("where a file system can't say what its root is, the directory that it covers is seen", () => {
  class Rootless extends FileSystem {
    override getattr(): number {
      return -EIO;
    }
  }
  const harness = new VfsHarness();
  harness.vfs.mount(new Rootless(), "/a");
  const { nodeid, attr } = harness.walk("/a");
  expect(attr.mode).toBe(S_IFDIR | 0o555);
  expect(names(harness, nodeid)).toEqual([".", ".."]);
  const listed = harness.readdirplus(ROOT).listed(true).at(-1)!;
  expect(listed).toMatchObject({ name: "a", ino: attr.ino, entry: { nodeid } });
});

describe("the tree by itself", () => {
  const make = (): PseudoFs => new PseudoFs({ show: () => false });

  test("makes what is missing of a path, and finds what is there", () => {
    const fs = make();
    expect(fs.find([])).toBe(ROOT);
    expect(fs.find(["a"])).toBe(0);
    expect(fs.ensure([])).toBe(ROOT);
    const deep = fs.ensure(["a", "b", "c"]);
    expect(fs.ensure(["a", "b", "c"])).toBe(deep);
    const other = fs.ensure(["a", "c"]);
    expect(fs.find(["a", "c"])).toBe(other);
    expect(fs.find(["a", "c", "c"])).toBe(0);
    expect(fs.parentOf(deep)).toBe(fs.find(["a", "b"]));
    expect(fs.parentOf(ROOT)).toBe(ROOT);
    expect(fs.parentOf(99)).toBe(0);
    expect(fs.children(fs.find(["a"])).map(({ name }) => name)).toEqual(["b", "c"]);
  });

  test("removes what is neither used nor holds what is used, and never gives a nodeid twice", () => {
    const fs = make();
    const [deep, used] = [fs.ensure(["a", "b", "c"]), fs.ensure(["a", "x", "y"])];
    fs.ensure(["z"]);
    fs.prune((nodeid) => nodeid === used);
    expect(fs.directories.map(({ name }) => name)).toEqual(["a", "x", "y"]);
    expect(fs.ensure(["a", "b", "c"])).toBeGreaterThan(deep);
    fs.prune(() => false);
    expect(fs.directories).toEqual([]);
    expect(fs.ensure(["a"])).toBe(10);
  });

  test("shows a generation that stands for the path, whichever tree it is in", () => {
    const generationOf = (path: string, ...paths: string[]): bigint =>
      tree(...paths).lookup(ROOT, path).generation;
    expect(generationOf("a", "/a/x")).toBe(generationOf("a", "/b/x", "/a/x"));
    expect(generationOf("a", "/a/x")).not.toBe(generationOf("b", "/b/x"));
  });

  test("is the same again when it is made from its directories", () => {
    const fs = make();
    for (const path of ["a/b", "c", "a/d/e"]) fs.ensure(path.split("/"));
    const copy = make();
    copy.ensure(["gone"]);
    copy.directories = fs.directories;
    expect(copy.directories).toEqual(fs.directories);
    expect(copy.find(["a", "d", "e"])).toBe(fs.find(["a", "d", "e"]));
    expect(copy.find(["gone"])).toBe(0);
    expect(copy.ensure(["new"])).toBe(fs.ensure(["new"]));
  });
});
