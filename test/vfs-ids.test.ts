// Owners that are other ones outside than in a file system: callers, attributes, ACLs, and files
// whose owner has no id outside, through a server without a kernel.

import { describe, expect, test } from "bun:test";
import * as abi from "../src/abi-fuse.ts";
import { O_RDONLY, O_RDWR, O_TRUNC, RENAME_NOREPLACE, RENAME_WHITEOUT } from "../src/abi-linux.ts";
import { EACCES, EINVAL, EOVERFLOW, EPERM } from "../src/errno.ts";
import type { IdMapOptions } from "../src/id-map.ts";
import { Vfs, type VfsOptions } from "../src/vfs.ts";
import { hex } from "./support-server.ts";
import { encode, ROOT, TinyFs, VfsHarness, type Answer, type Caller } from "./support-vfs.ts";

/** Users from 100000 on and groups from 200000 on are those from 0 on, a thousand of them. */
const MAP: IdMapOptions = {
  uids: [{ internal: 100_000, external: 0, length: 1000 }],
  gids: [{ internal: 200_000, external: 0, length: 1000 }],
};
const OVERFLOW = { uid: 65_534, gid: 65_534 };
const R_OK = 4;
const W_OK = 2;

class Fixture {
  readonly fs = new TinyFs({ uid: 100_000, gid: 200_000 });
  readonly harness: VfsHarness;
  readonly root: number;

  constructor(ids: IdMapOptions | undefined = MAP, options: VfsOptions = {}) {
    this.harness = new VfsHarness(new Vfs(options));
    this.harness.vfs.mount(this.fs, "/m", ids);
    this.fs.add("ours", { uid: 100_005, gid: 200_006 });
    this.fs.add("foreign", { uid: 42, gid: 200_006 });
    this.fs.add("foreign-group", { uid: 100_005, gid: 42 });
    const directory = this.fs.add("foreign-dir/", { uid: 42, gid: 42 });
    this.fs.add("inside", { uid: 100_005, gid: 200_006 }, directory);
    this.root = this.node("/");
  }

  node(path: string): number {
    return this.harness.walk(`/m${path}`).nodeid;
  }

  /** Owner and size of what the file system has. */
  owner(name: string): { uid: number; gid: number } {
    const { uid, gid } = this.fs.nodes.get(this.fs.nodes.get(ROOT)!.entries.get(name)!)!;
    return { uid, gid };
  }

  chown(path: string, ids: { uid?: number; gid?: number }): Answer {
    const valid =
      (ids.uid === undefined ? 0 : abi.FATTR_UID) | (ids.gid === undefined ? 0 : abi.FATTR_GID);
    const how = encode(abi.fuse_setattr_in, { valid, ...ids });
    return this.harness.ask(abi.FUSE_SETATTR, this.node(path), how);
  }

  truncate(path: string): number {
    const how = encode(abi.fuse_setattr_in, { valid: abi.FATTR_SIZE, size: 1 });
    return this.harness.ask(abi.FUSE_SETATTR, this.node(path), how).error;
  }

  rename2(flags: number, caller: Caller, name = "ours"): number {
    const how = encode(abi.fuse_rename2_in, { newdir: this.root, flags });
    return this.harness.askAs(caller, abi.FUSE_RENAME2, this.root, how, name, "new").error;
  }

  setxattr(path: string, name: string, value: Uint8Array): number {
    const how = encode(abi.fuse_setxattr_in, { size: value.length }).slice(0, 8);
    return this.harness.ask(abi.FUSE_SETXATTR, this.node(path), how, name, value).error;
  }

  getxattr(path: string, name: string, size = 256): Answer {
    const how = encode(abi.fuse_getxattr_in, { size });
    return this.harness.ask(abi.FUSE_GETXATTR, this.node(path), how, name);
  }
}

/** What makes something, at a directory: all that there are. */
const MAKING: readonly [string, (harness: VfsHarness, node: number, caller: Caller) => Answer][] = [
  ["MKDIR", (h, node, c) => h.askAs(c, abi.FUSE_MKDIR, node, hex("ed010000 00000000"), "new")],
  [
    "MKNOD",
    (h, node, c) => h.askAs(c, abi.FUSE_MKNOD, node, hex("a4810000", "00".repeat(12)), "new"),
  ],
  ["SYMLINK", (h, node, c) => h.askAs(c, abi.FUSE_SYMLINK, node, "new", "target")],
  ["CREATE", (h, node, c) => h.askAs(c, abi.FUSE_CREATE, node, new Uint8Array(16), "new")],
  ["TMPFILE", (h, node, c) => h.askAs(c, abi.FUSE_TMPFILE, node, new Uint8Array(16), "/")],
];

describe("owners are shown as their external ids", () => {
  test("in LOOKUP, GETATTR, STATX and READDIRPLUS", () => {
    const fixture = new Fixture();
    const { harness, root } = fixture;
    const entry = harness.lookup(root, "ours").entry;
    expect(entry.attr).toMatchObject({ uid: 5, gid: 6 });
    expect(harness.getattr(entry.nodeid).attr).toEqual(entry.attr);
    expect(harness.statx(entry.nodeid).statx).toEqual(entry.attr);
    const listed = harness.readdirplus(root).listed(true);
    expect(listed.find(({ name }) => name === "ours")!.entry!.attr).toEqual(entry.attr);
    expect(fixture.owner("ours")).toEqual({ uid: 100_005, gid: 200_006 });
  });

  test("and those of what has none as 65534", () => {
    const { harness, root } = new Fixture();
    const attr = (name: string) => harness.lookup(root, name).entry.attr;
    expect(attr("foreign")).toMatchObject({ uid: OVERFLOW.uid, gid: 6 });
    expect(attr("foreign-group")).toMatchObject({ uid: 5, gid: OVERFLOW.gid });
    expect(harness.statx(harness.lookup(root, "foreign-dir").entry.nodeid).statx).toMatchObject(
      OVERFLOW,
    );
  });

  test("of the root of a mount in the tree, and not of the tree itself", () => {
    const { harness } = new Fixture();
    expect(harness.walk("/m").attr).toMatchObject({ uid: 0, gid: 0 });
    const listed = harness.readdirplus(ROOT).listed(true);
    expect(listed.at(-1)!.entry!.attr).toMatchObject({ uid: 0, gid: 0 });
    expect(harness.getattr(ROOT).attr).toMatchObject({ uid: 0, gid: 0 });
  });

  test("and other mounts keep theirs", () => {
    const { harness } = new Fixture();
    const other = new TinyFs({ uid: 100_005, gid: 42 });
    other.add("file", { uid: 100_005, gid: 7 });
    harness.vfs.mount(other, "/m/other");
    expect(harness.walk("/m/other").attr).toMatchObject({ uid: 100_005, gid: 42 });
    expect(harness.walk("/m/other/file").attr).toMatchObject({ uid: 100_005, gid: 7 });
    expect(harness.walk("/m/ours").attr).toMatchObject({ uid: 5, gid: 6 });
  });
});

describe("what is made belongs to the caller", () => {
  test.each(MAKING)("%s", (_name, make) => {
    const { harness, root, fs } = new Fixture();
    const { entry } = make(harness, root, { uid: 7, gid: 8 });
    expect(entry.attr).toMatchObject({ uid: 7, gid: 8 });
    expect(fs.creators).toMatchObject([{ uid: 100_007, gid: 200_008 }]);
  });

  test.each(MAKING)("%s: a caller without an id inside gets EOVERFLOW", (_name, make) => {
    const { harness, root, fs } = new Fixture();
    for (const caller of [{ uid: 1000 }, { gid: 1000 }, { uid: abi.FUSE_INVALID_UIDGID }])
      expect(make(harness, root, caller).error).toBe(-EOVERFLOW);
    expect(fs.creators).toEqual([]);
  });

  test.each(MAKING)("%s: a directory whose owner is foreign refuses it", (_name, make) => {
    const fixture = new Fixture();
    const { harness, fs } = fixture;
    expect(make(harness, fixture.node("/foreign-dir"), { uid: 7, gid: 8 }).error).toBe(-EACCES);
    expect(fs.creators).toEqual([]);
  });

  test("and supplementary groups are mapped, those without an id inside left out", () => {
    const { harness, root, fs } = new Fixture();
    const make = (name: string, groups: number[]): void => {
      const caller = { uid: 7, gid: 8, groups };
      const how = encode(abi.fuse_mkdir_in, {});
      expect(harness.askAs(caller, abi.FUSE_MKDIR, root, how, name).error).toBe(0);
    };
    // The length of the name decides whether the groups are aligned.
    make("a", [5, 2000, 0, 999, 1000]);
    make("abc", [1]);
    make("abcd", [2000]);
    expect(fs.creators.map(({ groups }) => groups)).toEqual([
      [200_005, 200_000, 200_999],
      [200_001],
      [],
    ]);
  });

  test("chown gives files to whom the caller names, and to nobody without an id inside", () => {
    const fixture = new Fixture();
    expect(fixture.chown("/ours", { uid: 9 }).attr).toMatchObject({ uid: 9, gid: 6 });
    expect(fixture.chown("/ours", { gid: 10 }).attr).toMatchObject({ uid: 9, gid: 10 });
    expect(fixture.owner("ours")).toEqual({ uid: 100_009, gid: 200_010 });
    for (const ids of [{ uid: 1000 }, { gid: 1000 }, { uid: 1, gid: 1000 }, { uid: 100_005 }])
      expect(fixture.chown("/ours", ids).error).toBe(-EOVERFLOW);
    expect(fixture.owner("ours")).toEqual({ uid: 100_009, gid: 200_010 });
  });
});

describe("renaming and linking", () => {
  const STRANGER = { uid: 5000, gid: 5000 };
  /** As the kernel says for what makes nothing, on mounts that it maps itself. */
  const NOBODY = { uid: abi.FUSE_INVALID_UIDGID, gid: abi.FUSE_INVALID_UIDGID };

  test("is refused to a caller without an id inside, with EOVERFLOW", () => {
    const { harness, root } = new Fixture();
    const how = encode(abi.fuse_rename_in, { newdir: root });
    const rename = harness.askAs(STRANGER, abi.FUSE_RENAME, root, how, "ours", "new");
    const node = harness.lookup(root, "ours").entry.nodeid;
    const which = encode(abi.fuse_link_in, { oldnodeid: node });
    const link = harness.askAs(STRANGER, abi.FUSE_LINK, root, which, "new");
    expect([rename.error, link.error]).toEqual([-EOVERFLOW, -EOVERFLOW]);
    expect(harness.lookup(root, "new").error).not.toBe(0);
  });

  test("does not need to know the caller, unless it makes a whiteout", () => {
    expect(new Fixture().rename2(RENAME_NOREPLACE, NOBODY)).toBe(0);
    expect(new Fixture().rename2(RENAME_WHITEOUT, NOBODY)).toBe(-EOVERFLOW);
    expect(new Fixture().rename2(RENAME_WHITEOUT, { uid: 1, gid: 1 })).toBe(0);
    expect(new Fixture().rename2(RENAME_WHITEOUT, STRANGER)).toBe(-EOVERFLOW);
  });
});

describe("a file whose owner has no id outside", () => {
  const names = ["foreign", "foreign-group"];

  test.each(names)("%s is read, and not opened for writing", (name) => {
    const fixture = new Fixture();
    const open = (flags: number): number => {
      const how = encode(abi.fuse_open_in, { flags });
      return fixture.harness.ask(abi.FUSE_OPEN, fixture.node(`/${name}`), how).error;
    };
    const access = (mask: number): number => {
      const how = encode(abi.fuse_access_in, { mask });
      return fixture.harness.ask(abi.FUSE_ACCESS, fixture.node(`/${name}`), how).error;
    };
    expect([open(O_RDONLY), open(O_RDWR), open(O_RDONLY | O_TRUNC)]).toEqual([0, -EACCES, -EACCES]);
    expect([access(R_OK), access(W_OK), access(R_OK | W_OK)]).toEqual([0, -EACCES, -EACCES]);
    expect(fixture.fs.opened).toBe(1);
  });

  test("is not written to where there is no OPEN that could be refused", () => {
    const fixture = new Fixture(MAP, { noOpen: true });
    const write = (path: string): number => {
      const how = encode(abi.fuse_write_in, { size: 1 });
      return fixture.harness.ask(abi.FUSE_WRITE, fixture.node(path), how, "").error;
    };
    expect([write("/foreign"), write("/ours")]).toEqual([-EACCES, 0]);
  });

  test.each(names)("%s is not changed, removed, renamed, linked, or replaced", (name) => {
    const { harness, root, fs } = new Fixture();
    const node = harness.lookup(root, name).entry.nodeid;
    const before = [...fs.nodes.get(ROOT)!.entries];
    const size = encode(abi.fuse_setattr_in, { valid: abi.FATTR_SIZE, size: 1 });
    expect(harness.ask(abi.FUSE_SETATTR, node, size).error).toBe(-EOVERFLOW);
    expect(harness.ask(abi.FUSE_UNLINK, root, name).error).toBe(-EOVERFLOW);
    expect(harness.ask(abi.FUSE_RMDIR, root, name).error).toBe(-EOVERFLOW);
    expect(harness.rename(root, name, root, "new")).toBe(-EOVERFLOW);
    expect(harness.rename(root, "ours", root, name)).toBe(-EOVERFLOW);
    expect(harness.link(node, root, "new").error).toBe(-EOVERFLOW);
    expect([...fs.nodes.get(ROOT)!.entries]).toEqual(before);
  });

  test("in a directory of such an owner, nothing is removed, renamed or linked", () => {
    const fixture = new Fixture();
    const { harness, root } = fixture;
    const directory = fixture.node("/foreign-dir");
    expect(harness.ask(abi.FUSE_UNLINK, directory, "inside").error).toBe(-EACCES);
    expect(harness.rename(directory, "inside", root, "new")).toBe(-EACCES);
    expect(harness.rename(root, "ours", directory, "new")).toBe(-EACCES);
    expect(harness.link(fixture.node("/ours"), directory, "new").error).toBe(-EACCES);
    expect(fixture.truncate("/foreign-dir/inside")).toBe(0);
  });

  test("is given an owner who has one, as far as there was none", () => {
    const uid = 1;
    const gid = 2;
    expect(new Fixture().chown("/foreign", { uid }).attr).toMatchObject({ uid, gid: 6 });
    expect(new Fixture().chown("/foreign", { gid }).error).toBe(-EOVERFLOW);
    expect(new Fixture().chown("/foreign-group", { gid }).attr).toMatchObject({ uid: 5, gid });
    expect(new Fixture().chown("/foreign-group", { uid }).error).toBe(-EOVERFLOW);
    expect(new Fixture().chown("/foreign-dir", { uid }).error).toBe(-EOVERFLOW);
    expect(new Fixture().chown("/foreign-dir", { uid, gid }).attr).toMatchObject({ uid, gid });
  });

  test("keeps its xattrs, which can be read", () => {
    const fixture = new Fixture();
    const foreign = fixture.fs.nodes.get(3)!;
    foreign.xattrs.set("user.x", hex("'value'"));
    expect(fixture.setxattr("/foreign", "user.x", hex("'other'"))).toBe(-EPERM);
    const node = fixture.node("/foreign");
    expect(fixture.harness.ask(abi.FUSE_REMOVEXATTR, node, "user.x").error).toBe(-EPERM);
    expect(fixture.getxattr("/foreign", "user.x").body).toEqual(hex("'value'"));
  });

  test("leaves no lookup behind where it is only looked at", () => {
    const { harness, root, fs } = new Fixture();
    const before = new Map(fs.lookups);
    harness.ask(abi.FUSE_UNLINK, root, "foreign");
    harness.ask(abi.FUSE_UNLINK, root, "missing");
    harness.rename(root, "ours", root, "foreign");
    expect(fs.lookups).toEqual(before);
  });

  test("is known by what its file system says, and not by what another one has said", () => {
    const { harness, root } = new Fixture();
    const zero: IdMapOptions = { uids: [{ internal: 0, external: 0, length: 1 }], gids: [] };
    const other = new TinyFs();
    other.add("file");
    harness.vfs.mount(other, "/other", zero);
    // Its file system says nothing about the owner, which is 0 then.
    const node = harness.walk("/other/file").nodeid;
    const how = encode(abi.fuse_open_in, { flags: O_RDWR });
    harness.ask(abi.FUSE_OPEN, harness.lookup(root, "foreign").entry.nodeid, how);
    expect(harness.ask(abi.FUSE_OPEN, node, how).error).toBe(0);
  });
});

describe("an ACL", () => {
  const ACCESS = "system.posix_acl_access";
  const DEFAULT = "system.posix_acl_default";
  /** rwx for the owner, `user`, and nothing for others; `group` reads. */
  const acl = (user: number, group: number): Uint8Array => {
    const entries = [
      1,
      7,
      0xffffffff,
      2,
      6,
      user,
      4,
      5,
      0xffffffff,
      8,
      4,
      group,
      16,
      7,
      0xffffffff,
    ];
    entries.push(32, 0, 0xffffffff);
    const bytes = new Uint8Array(4 + (entries.length / 3) * 8);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, 2, true);
    for (let index = 0; index < entries.length / 3; index++) {
      view.setUint16(4 + 8 * index, entries[3 * index]!, true);
      view.setUint16(6 + 8 * index, entries[3 * index + 1]!, true);
      view.setUint32(8 + 8 * index, entries[3 * index + 2]!, true);
    }
    return bytes;
  };
  const ours = (fixture: Fixture): Map<string, Uint8Array> => fixture.fs.nodes.get(2)!.xattrs;

  test.each([ACCESS, DEFAULT])("%s is mapped both ways", (name) => {
    const fixture = new Fixture();
    expect(fixture.setxattr("/ours", name, acl(5, 6))).toBe(0);
    expect(ours(fixture).get(name)).toEqual(acl(100_005, 200_006));
    expect(fixture.getxattr("/ours", name).body).toEqual(acl(5, 6));
    // Asked for its size, it says so.
    expect(fixture.getxattr("/ours", name, 0).body.toHex()).toBe("3400000000000000");
  });

  test("with an id that has none inside is refused", () => {
    const fixture = new Fixture();
    expect(fixture.setxattr("/ours", ACCESS, acl(1000, 6))).toBe(-EINVAL);
    expect(fixture.setxattr("/ours", ACCESS, acl(5, 1000))).toBe(-EINVAL);
    expect(fixture.setxattr("/ours", ACCESS, hex("02000000 ff"))).toBe(-EINVAL);
    expect(ours(fixture).size).toBe(0);
  });

  test("is shown without entries that have no id outside, and then not replaced", () => {
    const fixture = new Fixture();
    const stored = acl(42, 200_006);
    ours(fixture).set(ACCESS, stored);
    const shown = acl(0, 6);
    const expected = new Uint8Array([...shown.subarray(0, 12), ...shown.subarray(20)]);
    expect(fixture.getxattr("/ours", ACCESS).body).toEqual(expected);
    expect(fixture.setxattr("/ours", ACCESS, acl(5, 6))).toBe(-EOVERFLOW);
    expect(ours(fixture).get(ACCESS)).toEqual(stored);
  });

  test("is a matter of these two names alone, and of mounts that map ids", () => {
    const fixture = new Fixture();
    expect(fixture.setxattr("/ours", "user.acl", acl(5, 6))).toBe(0);
    expect(ours(fixture).get("user.acl")).toEqual(acl(5, 6));
    expect(fixture.getxattr("/ours", "user.acl").body).toEqual(acl(5, 6));
    const plain = new TinyFs();
    plain.add("file");
    fixture.harness.vfs.mount(plain, "/m/plain");
    expect(fixture.setxattr("/plain/file", ACCESS, acl(5, 6))).toBe(0);
    expect(plain.nodes.get(2)!.xattrs.get(ACCESS)).toEqual(acl(5, 6));
    expect(fixture.getxattr("/plain/file", ACCESS).body).toEqual(acl(5, 6));
  });
});

describe("two maps", () => {
  /** The first ten of what mounts show are those from 5000 on. */
  const GLOBAL: IdMapOptions = {
    uids: [{ internal: 0, external: 5000, length: 10 }],
    gids: [{ internal: 0, external: 6000, length: 10 }],
  };

  test("of a mount and of all are applied one after the other", () => {
    const { harness, root, fs } = new Fixture(MAP, { ids: GLOBAL });
    expect(harness.walk("/m/ours").attr).toMatchObject({ uid: 5005, gid: 6006 });
    const how = encode(abi.fuse_mkdir_in, {});
    const made = harness.askAs({ uid: 5009, gid: 6000 }, abi.FUSE_MKDIR, root, how, "new");
    expect(made.entry.attr).toMatchObject({ uid: 5009, gid: 6000 });
    expect(fs.creators).toMatchObject([{ uid: 100_009, gid: 200_000 }]);
    const stranger = harness.askAs({ uid: 5010, gid: 6000 }, abi.FUSE_MKDIR, root, how, "other");
    expect(stranger.error).toBe(-EOVERFLOW);
  });

  test("are one where a mount has none of its own", () => {
    const harness = new VfsHarness(new Vfs({ ids: GLOBAL }));
    harness.vfs.mount(new TinyFs({ uid: 3, gid: 4 }), "/m");
    expect(harness.walk("/m").attr).toMatchObject({ uid: 5003, gid: 6004 });
    expect(harness.walk("/").attr).toMatchObject({ uid: 0, gid: 0 });
  });

  test("are carried over as one to a thread that adopts the mounts", () => {
    const { harness } = new Fixture(MAP, { ids: GLOBAL });
    const other = new VfsHarness();
    const state = JSON.parse(JSON.stringify(harness.vfs.state)) as typeof harness.vfs.state;
    other.vfs.adopt(state, () => new TinyFs({ uid: 100_001, gid: 200_002 }));
    expect(other.walk("/m").attr).toMatchObject({ uid: 5001, gid: 6002 });
  });
});

test("a squash makes everybody one, both ways, and nothing is foreign", () => {
  const fixture = new Fixture({ uids: [], gids: [], squashUid: 7, squashGid: 8 });
  const { harness, root, fs } = fixture;
  for (const name of ["ours", "foreign", "foreign-group", "foreign-dir"])
    expect(harness.lookup(root, name).entry.attr).toMatchObject({ uid: 7, gid: 8 });
  const how = encode(abi.fuse_mkdir_in, {});
  const caller = { uid: 1234, gid: 5678, groups: [1, 2] };
  expect(harness.askAs(caller, abi.FUSE_MKDIR, root, how, "new").error).toBe(0);
  expect(fs.creators).toEqual([{ uid: 7, gid: 8, groups: [8, 8] }]);
  expect(fixture.chown("/foreign", { uid: 99 }).attr).toMatchObject({ uid: 7 });
  expect(fixture.owner("foreign").uid).toBe(7);
  expect(harness.ask(abi.FUSE_UNLINK, root, "foreign-group").error).toBe(0);
});

test("a map of users leaves groups as they are", () => {
  const { harness, root, fs } = new Fixture({ uids: MAP.uids, gids: [] });
  expect(harness.walk("/m/ours").attr).toMatchObject({ uid: 5, gid: 200_006 });
  const how = encode(abi.fuse_mkdir_in, {});
  const caller = { uid: 1, gid: 5678, groups: [1, 2] };
  expect(harness.askAs(caller, abi.FUSE_MKDIR, root, how, "new").error).toBe(0);
  expect(fs.creators).toEqual([{ uid: 100_001, gid: 5678, groups: [1, 2] }]);
  expect(harness.ask(abi.FUSE_UNLINK, root, "foreign-group").error).toBe(0);
});
