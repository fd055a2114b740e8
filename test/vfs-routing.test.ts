// Every opcode through the VFS: that it reaches the file system whose node it names, with that
// one's own numbers; and what is answered where there is no file system any more, or one that does
// not know the operation. The requests are those of the server's tests, which have every opcode.

import { describe, expect, test } from "bun:test";
import * as abi from "../src/abi-fuse.ts";
import {
  EINVAL,
  EIO,
  ENODATA,
  ENOLCK,
  ENOSYS,
  ENOTTY,
  EOPNOTSUPP,
  EPERM,
  ESTALE,
  EXDEV,
} from "../src/errno.ts";
import type { FileSystem } from "../src/filesystem.ts";
import { table } from "../src/operations.ts";
import { readU64, writeU64 } from "../src/request.ts";
import type { ShownNodes } from "../src/translation.ts";
import { Vfs } from "../src/vfs.ts";
import { CASES, type Case } from "./server-cases.ts";
import { fakeFileSystem, hex, outHeader, recorded, type Answers } from "./support-server.ts";
import { APART, ROOT, TinyFs, VfsHarness } from "./support-vfs.ts";

const HEADER = abi.fuse_in_header.sizeof;
const OUT = abi.fuse_out_header.sizeof;

/** What names no node: everybody is told. */
const FOR_ALL = ["INTERRUPT", "DESTROY"];
/** Where the argument struct names another node. */
const SECOND_NODE: Readonly<Record<string, number>> = {
  RENAME: abi.fuse_rename_in.newdir,
  RENAME2: abi.fuse_rename2_in.newdir,
  LINK: abi.fuse_link_in.oldnodeid,
  COPY_FILE_RANGE: abi.fuse_copy_file_range_in.nodeid_out,
  COPY_FILE_RANGE_64: abi.fuse_copy_file_range_in.nodeid_out,
};

const operationOf = (request: Uint8Array): string => table[request[4]!]!.name;
const rows = CASES.map((row) => [row.name, row] as const);

interface Recording {
  readonly fs: FileSystem;
  readonly calls: unknown[][];
}

/** A file system that remembers how it is called. */
function recording(answers: Answers = {}): Recording {
  const calls: unknown[][] = [];
  const fs = fakeFileSystem((method, args) => {
    calls.push([method, ...args.map(recorded).filter((argument) => argument !== undefined)]);
    const answer = answers[method] as ((...args: unknown[]) => number) | undefined;
    return answer === undefined ? 0 : answer(...args);
  });
  return { fs, calls };
}

/** The request with its nodes made those of a mount; `second` for the second one, if it is not. */
function sentTo(row: Case, id: number, second = id): Uint8Array {
  const request = hex(row.request);
  const view = new DataView(request.buffer);
  const move = (at: number, to: number): void => writeU64(view, at, to * APART + readU64(view, at));
  const operation = operationOf(request);
  const other = SECOND_NODE[operation];
  move(abi.fuse_in_header.nodeid, id);
  if (other !== undefined) move(HEADER + other, second);
  if (operation === "BATCH_FORGET")
    for (let at = HEADER + abi.fuse_batch_forget_in.sizeof; at < request.length; at += 16)
      move(at, id);
  return request;
}

/** Where nodeids and inode numbers lie in the body of an answer. */
function numbersIn(operation: string, body: DataView): { nodes: number[]; inos: number[] } {
  const entry = (at: number): { nodes: number[]; inos: number[] } => ({
    nodes: [at + abi.fuse_entry_out.nodeid],
    inos: [at + abi.fuse_entry_out.attr + abi.fuse_attr.ino],
  });
  switch (operation) {
    case "LOOKUP":
    case "SYMLINK":
    case "MKNOD":
    case "MKDIR":
    case "LINK":
    case "CREATE":
    case "TMPFILE":
      return entry(0);
    case "GETATTR":
    case "SETATTR":
      return { nodes: [], inos: [abi.fuse_attr_out.attr + abi.fuse_attr.ino] };
    case "STATX":
      return { nodes: [], inos: [abi.fuse_statx_out.stat + abi.fuse_statx.ino] };
    case "READDIR":
    case "READDIRPLUS": {
      const plus = operation === "READDIRPLUS";
      const found = { nodes: [] as number[], inos: [] as number[] };
      for (let at = 0; at < body.byteLength;) {
        const { nodes, inos } = entry(at);
        const dirent = at + (plus ? abi.fuse_direntplus.dirent : 0);
        if (plus) found.nodes.push(...nodes);
        found.inos.push(...(plus ? inos : []), dirent + abi.fuse_dirent.ino);
        const length = body.getUint32(dirent + abi.fuse_dirent.namelen, true);
        at = Math.ceil((dirent + abi.fuse_dirent.sizeof + length) / 8) * 8;
      }
      return found;
    }
    default:
      return { nodes: [], inos: [] };
  }
}

/** The reply that a file system alone gives, with the numbers that a mount shows. */
function shownBy(row: Case, id: number): string | undefined {
  if (row.reply === undefined) return undefined;
  const reply = hex(row.reply);
  const failed = outHeader(reply).error !== 0;
  const body = new DataView(reply.buffer, OUT);
  const { nodes, inos } = numbersIn(operationOf(hex(row.request)), body);
  if (!failed) {
    for (const at of nodes) writeU64(body, at, id * APART + readU64(body, at));
    const mask = BigInt(id) << 56n;
    for (const at of inos) body.setBigUint64(at, body.getBigUint64(at, true) ^ mask, true);
  }
  return reply.toHex();
}

test("the cases are of every opcode of the table", () => {
  const cased = new Set(CASES.map(({ request }) => operationOf(hex(request))));
  const all = table.flatMap((row) => (row === undefined ? [] : [row.name]));
  expect(all.filter((name) => !cased.has(name))).toEqual([]);
});

describe("each opcode reaches the file system that its node is of", () => {
  test.each(rows)("%s", (_name, row) => {
    const harness = new VfsHarness(new Vfs(), row.flags);
    const [other, own, third] = [recording(row.answers), recording(row.answers), recording()];
    harness.vfs.mount(other.fs, "/other");
    const id = harness.vfs.mount(own.fs, "/own");
    harness.vfs.mount(third.fs, "/own/third");
    const reply = harness.serve(sentTo(row, id));
    expect(own.calls).toEqual(row.calls);
    expect(reply?.toHex()).toBe(shownBy(row, id));
    const forAll = FOR_ALL.includes(operationOf(hex(row.request)));
    for (const { calls } of [other, third]) expect(calls).toEqual(forAll ? row.calls : []);
  });
});

describe("what names nodes of two mounts, or of a mount and the tree, is refused with EXDEV", () => {
  const pairs = rows.filter(([, row]) => operationOf(hex(row.request)) in SECOND_NODE);
  test.each(pairs)("%s", (_name, row) => {
    const harness = new VfsHarness();
    const { vfs } = harness;
    const [one, two] = [recording(), recording()];
    const ids = [vfs.mount(one.fs, "/one"), vfs.mount(two.fs, "/two"), 0];
    for (const from of ids)
      for (const to of ids)
        if (from !== to)
          expect(outHeader(harness.serve(sentTo(row, from, to))!).error).toBe(-EXDEV);
    expect([...one.calls, ...two.calls]).toEqual([]);
  });

  test("and they cover every operation with two nodes", () => {
    expect(new Set(pairs.map(([, row]) => operationOf(hex(row.request)))).size).toBe(
      Object.keys(SECOND_NODE).length,
    );
  });
});

describe("of a mount that is gone", () => {
  test.each(rows)("%s says so, and reaches nobody", (_name, row) => {
    const harness = new VfsHarness(new Vfs(), row.flags);
    const [old, next] = [recording(), recording()];
    const id = harness.vfs.mount(old.fs, "/a");
    harness.vfs.umount("/a");
    const nextId = harness.vfs.mount(next.fs, "/a");
    expect(nextId).not.toBe(id);
    const operation = operationOf(hex(row.request));
    const reply = harness.serve(sentTo(row, id));
    expect(old.calls).toEqual([]);
    if (FOR_ALL.includes(operation)) return;
    expect(next.calls).toEqual([]);
    const lets = operation === "RELEASE" || operation === "RELEASEDIR";
    if (row.reply === undefined) expect(reply).toBeUndefined();
    else expect(outHeader(reply!).error).toBe(lets ? 0 : -EIO);
  });
});

/** What the kernel is told instead of ENOSYS; 0 where doing nothing is right. */
const INSTEAD: Readonly<Record<string, number>> = {
  SETATTR: -EPERM,
  SYMLINK: -EPERM,
  MKNOD: -EPERM,
  MKDIR: -EPERM,
  UNLINK: -EPERM,
  RMDIR: -EPERM,
  RENAME: -EPERM,
  RENAME2: -EINVAL,
  LINK: -EPERM,
  OPEN: 0,
  RELEASE: 0,
  OPENDIR: 0,
  RELEASEDIR: 0,
  FLUSH: 0,
  FSYNC: 0,
  FSYNCDIR: 0,
  SYNCFS: 0,
  STATFS: 0,
  ACCESS: 0,
  POLL: 0,
  SETXATTR: -EOPNOTSUPP,
  GETXATTR: -EOPNOTSUPP,
  LISTXATTR: -EOPNOTSUPP,
  REMOVEXATTR: -EOPNOTSUPP,
  TMPFILE: -EOPNOTSUPP,
  FALLOCATE: -EOPNOTSUPP,
  COPY_FILE_RANGE: -EOPNOTSUPP,
  COPY_FILE_RANGE_64: -EOPNOTSUPP,
  GETLK: -ENOLCK,
  SETLK: -ENOLCK,
  SETLKW: -ENOLCK,
  LSEEK: -EINVAL,
  BMAP: -EINVAL,
  IOCTL: -ENOTTY,
};
/** The kernel does not remember that these were not known. */
const NOT_REMEMBERED = [
  "LOOKUP",
  "GETATTR",
  "READLINK",
  "READ",
  "WRITE",
  "READDIR",
  "READDIRPLUS",
  "SETUPMAPPING",
  "REMOVEMAPPING",
  "INTERRUPT",
];
/**
 * Of this the kernel remembers it, and makes files by MKNOD and OPEN from then on, as it has to
 * for this file system.
 */
const FALLS_BACK = ["CREATE"];

/** Knows nothing. */
const ignorant = fakeFileSystem((method) =>
  method === "forget" || method === "notifyReply" || method === "destroy" ? 0 : -ENOSYS,
);

describe("an operation that one of several file systems does not know", () => {
  test.each(rows)("%s: the kernel may go on asking the others", (_name, row) => {
    const harness = new VfsHarness(new Vfs(), row.flags);
    const id = harness.vfs.mount(ignorant, "/a");
    const reply = harness.serve(sentTo(row, id));
    if (reply === undefined) return;
    const operation = operationOf(hex(row.request));
    // STATX is answered by GETATTR, which this one does not know either.
    const asIs = [...NOT_REMEMBERED, ...FALLS_BACK, "STATX"].includes(operation);
    const expected = operation === "DESTROY" ? 0 : asIs ? -ENOSYS : INSTEAD[operation];
    expect({ [operation]: outHeader(reply).error }).toEqual({ [operation]: expected! });
  });

  test.each(rows)("%s: told as it is if there is no other, and never will be", (_name, row) => {
    const harness = new VfsHarness(new Vfs({ fixed: true }), row.flags);
    const id = harness.vfs.mount(ignorant, "/");
    const reply = harness.serve(sentTo(row, id));
    const operation = operationOf(hex(row.request));
    if (reply === undefined || operation === "DESTROY") return;
    expect(outHeader(reply).error).toBe(-ENOSYS);
  });

  test("an ACL is one that is not there", () => {
    const harness = new VfsHarness();
    const id = harness.vfs.mount(ignorant, "/a");
    const get = (name: string): number =>
      harness.ask(abi.FUSE_GETXATTR, id * APART + 5, hex("40000000 00000000"), name).error;
    expect(get("system.posix_acl_access")).toBe(-ENODATA);
    expect(get("system.posix_acl_default")).toBe(-ENODATA);
    expect(get("user.x")).toBe(-EOPNOTSUPP);
  });

  test("POLL: all is ready", () => {
    const harness = new VfsHarness();
    const id = harness.vfs.mount(ignorant, "/a");
    const asked = hex("00".repeat(16), "00000000 05000000");
    const answer = harness.ask(abi.FUSE_POLL, id * APART + 5, asked);
    expect(answer.body.toHex()).toBe("0500000000000000");
  });

  test("STATX: answered by GETATTR", () => {
    const { answers } = CASES.find(({ name }) => name === "GETATTR")!;
    const one = recording({ ...answers, statx: () => -ENOSYS });
    const harness = new VfsHarness();
    const id = harness.vfs.mount(one.fs, "/a");
    const answer = harness.statx(id * APART + 5);
    expect(one.calls.map(([method]) => method)).toEqual(["statx", "getattr"]);
    const time = (seconds: string, nanoseconds: number): string =>
      `${seconds} 0${nanoseconds}000000 00000000`;
    const expected = hex(
      "0100000000000000 0065cd1d 00000000",
      "00".repeat(16),
      "ff070000 00100000 0000000000000000 02000000 d0070000 d1070000 a481 0000",
      `0a000000000000${id.toString(16).padStart(2, "0")} 0b00000000000000 0c00000000000000`,
      "0000000000000000",
      time("0d00000000000000", 1),
      "00".repeat(16),
      time("feffffffffffffff", 3),
      time("0e00000000000000", 2),
      "08000000 01000000 00000000 00000000",
      "00".repeat(112),
    );
    expect(answer.body.toHex()).toBe(expected.toHex());
  });

  test("READDIRPLUS: answered by READDIR, with names and no nodes", () => {
    const { answers } = CASES.find(({ name }) => name === "READDIR")!;
    const one = recording({ ...answers, readdirplus: () => -ENOSYS });
    const harness = new VfsHarness();
    const id = harness.vfs.mount(one.fs, "/a");
    const list = harness.readdirplus(id * APART + 5).listed(true);
    expect(list.map(({ name, entry }) => [name, entry!.nodeid])).toEqual([
      ["a", 0],
      ["12345678", 0],
      ["never reached", 0],
    ]);
  });
});

describe("an interrupt", () => {
  const row = CASES.find(({ name }) => name === "INTERRUPT")!;

  test("is answered with EAGAIN if one of all asks for it again", () => {
    const harness = new VfsHarness();
    const again = recording({ interrupt: () => -11 });
    harness.vfs.mount(again.fs, "/a");
    harness.vfs.mount(recording().fs, "/b");
    expect(outHeader(harness.serve(hex(row.request))!).error).toBe(-11);
  });

  test("reaches what another thread has mounted just now", () => {
    const late = recording();
    const harness = new VfsHarness(
      new Vfs({
        refresh: () => {
          if (harness.vfs.rootfs("/late") === undefined) harness.vfs.mount(late.fs, "/late");
        },
      }),
    );
    harness.serve(hex(row.request));
    expect(late.calls).toEqual(row.calls);
  });
});

test("a name that is known not to exist has no node, whoever says so", () => {
  const none = recording({
    lookup(_context, _parent, _name, entry) {
      entry.nodeid = 0;
      entry.entryTimeout = 9;
      return 0;
    },
  });
  const harness = new VfsHarness();
  const id = harness.vfs.mount(none.fs, "/a");
  const { entry } = harness.lookup(id * APART + ROOT, "missing");
  expect(entry).toMatchObject({ nodeid: 0, entryTimeout: 9 });
});

test("the root of a mount is node 1 to its file system, whatever it is to the kernel", () => {
  const harness = new VfsHarness();
  const [top, below] = [recording(), recording()];
  harness.vfs.mount(top.fs, "/");
  const id = harness.vfs.mount(below.fs, "/below");
  harness.getattr(ROOT);
  harness.getattr(id * APART + ROOT);
  expect(top.calls).toEqual([["getattr", 1, -1]]);
  expect(below.calls).toEqual([["getattr", 1, -1]]);
});

describe("nodes that are shown by other numbers", () => {
  const SHIFT = 2 ** 8;
  const apart = {
    shown: (node: number): number => SHIFT * APART + node,
    known: (nodeid: number): number => (nodeid >= SHIFT * APART ? nodeid - SHIFT * APART : 0),
  };

  function served(request: Uint8Array, row: Case, shownNodes?: ShownNodes): unknown[][] {
    const { fs, calls } = recording(row.answers);
    fs.shownNodes = shownNodes;
    const vfs = new Vfs({ fixed: true });
    vfs.mount(fs, "/");
    new VfsHarness(vfs, row.flags).serve(request);
    return calls;
  }

  test.each(rows)("%s: is asked of its own", (_name, row) => {
    const calls = served(sentTo(row, SHIFT), row, apart);
    expect(calls).toEqual(served(hex(row.request), row));
  });

  test("LOOKUP answers with the number that is shown", () => {
    const fs = new TinyFs();
    const file = fs.add("file");
    fs.shownNodes = apart;
    const harness = new VfsHarness(new Vfs({ fixed: true }));
    harness.vfs.mount(fs, "/");
    const { nodeid } = harness.lookup(ROOT, "file").entry;
    expect(nodeid).toBe(apart.shown(file));
    expect(harness.getattr(nodeid).error).toBe(0);
  });

  test("LOOKUP of `.` in one that is not known has it revived, and of nothing else", () => {
    const { fs, calls } = recording();
    fs.shownNodes = { ...apart, known: () => 0 };
    const harness = new VfsHarness(new Vfs({ fixed: true }));
    harness.vfs.mount(fs, "/");
    for (const name of [".", "..", "x"]) harness.lookup(5 * APART, name);
    expect(calls.map(([method, nodeid]) => [method, nodeid])).toEqual([
      ["revive", 5 * APART],
      ["lookup", 0],
      ["lookup", 0],
    ]);
  });

  test.each([
    ["was forgotten meanwhile", -ESTALE, [7], ["lookup", "revive"]],
    ["was forgotten, and its number is another's", 0, [7, 0], ["lookup", "forget", "revive"]],
    ["is still there", 0, [7, 7], ["lookup"]],
    ["can't be told of", -EIO, [7], ["lookup"]],
  ])("LOOKUP of `.` in one that %s", (_what, result, known, methods) => {
    const { fs, calls } = recording({ lookup: () => result });
    fs.shownNodes = { ...apart, known: () => known.shift() ?? 0 };
    const harness = new VfsHarness(new Vfs({ fixed: true }));
    harness.vfs.mount(fs, "/");
    harness.lookup(5 * APART, ".");
    const ids = { lookup: 7, forget: 7, revive: 5 * APART };
    expect(calls.map(([method, nodeid]) => [method, nodeid])).toEqual(
      methods.map((method) => [method, ids[method as keyof typeof ids]]),
    );
  });
});
