// One request of each opcode (and form) as the bytes that the kernel sends, what the file system
// must be called with, and the bytes of the reply. Everything is written out, so that a mistake in
// our layouts can't hide in the test.

import { map } from "../src/memory.ts";
import type {
  AttrOut,
  AttrReply,
  DataOut,
  DirectoryOut,
  EntryOut,
  OpenOut,
  StatfsOut,
} from "../src/reply.ts";
import type { Answers } from "./support-server.ts";

export interface Case {
  readonly name: string;
  /** INIT flags agreed on. */
  readonly flags?: number;
  readonly request: string;
  /**
   * What the file system is called with, but for the context; a list, if it is called more than
   * once.
   */
  readonly calls: unknown[][];
  readonly answers?: Answers;
  /** Undefined if there is none. */
  readonly reply?: string;
}

/** unique, node 9, uid 1000, gid 1001, pid 77, no extensions. */
export const FROM = "1122334455667788 0900000000000000 e8030000 e9030000 4d000000 0000 0000";
/** No error, unique. */
export const OK = "00000000 1122334455667788";
const DONE = `10000000 ${OK}`;
const HANDLE = "0807060504000000";
const FH = 0x0405060708;
const SETXATTR_EXT = 1 << 29;

const ATTR = `0a00000000000000 0b00000000000000 0c00000000000000
  0d00000000000000 0e00000000000000 feffffffffffffff 01000000 02000000 03000000
  a4810000 02000000 d0070000 d1070000 01080000 00100000 02000000`;

function fillAttr(attr: AttrOut): void {
  attr.ino = 10;
  attr.size = 11;
  attr.blocks = 12;
  attr.atime(13, 1);
  attr.mtime(14, 2);
  attr.ctime(-2, 3);
  attr.mode = 0o100644;
  attr.nlink = 2;
  attr.uid = 2000;
  attr.gid = 2001;
  attr.rdev = 0x801;
  attr.blksize = 4096;
  attr.flags = 2;
}

const ENTRY = `0201000000000000 0300000000000000 0100000000000000 0200000000000000
  0065cd1d 80b2e60e ${ATTR}`;

export function fillEntry(entry: EntryOut): number {
  entry.nodeid = 0x0102;
  entry.generation = 3;
  entry.entryTimeout = 1.5;
  entry.attrTimeout = 2.25;
  fillAttr(entry.attr);
  return 0;
}

const ATTR_OUT = `0100000000000000 0065cd1d 00000000 ${ATTR}`;

function fillAttrReply(out: AttrReply): number {
  out.attrTimeout = 1.5;
  fillAttr(out.attr);
  return 0;
}

const OPEN_OUT = `${HANDLE} 03000000 05000000`;

function fillOpen(out: OpenOut): number {
  out.fh = FH;
  out.openFlags = 3;
  out.backingId = 5;
  return 0;
}

function giveBytes(out: DataOut, text: string): number {
  out.bytes.set(new TextEncoder().encode(text));
  return text.length;
}

function fillStatfs(out: StatfsOut): number {
  out.blocks = 1;
  out.bfree = 2;
  out.bavail = 3;
  out.files = 4;
  out.ffree = 5;
  out.bsize = 6;
  out.namelen = 255;
  out.frsize = 8;
  return 0;
}

function fillDirectory(out: DirectoryOut): number {
  for (const [index, name] of ["a", "12345678", "never reached"].entries()) {
    if (!out.begin(name.length)) break;
    fillEntry(out.entry);
    out.add(new TextEncoder().encode(name), 0x21 + index, 0x31 + index, 8);
  }
  return 0;
}

/** struct statx of the kernel, the bytes 0 to 255. */
const statx = map(4096);
for (let index = 0; index < 256; index++) statx.bytes[index] = index;
const STATX_COMMON = Array.from({ length: 0x90 }, (_, index) =>
  index.toString(16).padStart(2, "0"),
).join("");
const STATX_OUT = `0100000000000000 0065cd1d 00000000 ${"00".repeat(16)}
  ${STATX_COMMON} ${"00".repeat(112)}`;

export const CASES: readonly Case[] = [
  {
    name: "LOOKUP",
    request: `2c000000 01000000 ${FROM} 'foo' 00`,
    calls: [["lookup", 9, "foo"]],
    answers: { lookup: (_context, _parent, _name, entry) => fillEntry(entry) },
    reply: `90000000 ${OK} ${ENTRY}`,
  },
  {
    name: "LOOKUP of .. for export",
    request: `2b000000 01000000 ${FROM} '..' 00`,
    calls: [["lookup", 9, ".."]],
    answers: { lookup: () => -2 },
    reply: "10000000 feffffff 1122334455667788",
  },
  {
    name: "FORGET",
    request: `30000000 02000000 ${FROM} 0300000000000000`,
    calls: [["forget", 9, 3]],
  },
  {
    name: "GETATTR",
    request: `38000000 03000000 ${FROM} 00000000 00000000 ${HANDLE}`,
    calls: [["getattr", 9, -1]],
    answers: { getattr: (_context, _nodeid, _fh, out) => fillAttrReply(out) },
    reply: `78000000 ${OK} ${ATTR_OUT}`,
  },
  {
    name: "GETATTR of a handle",
    request: `38000000 03000000 ${FROM} 01000000 00000000 ${HANDLE}`,
    calls: [["getattr", 9, FH]],
    answers: { getattr: () => -116 },
    reply: "10000000 8cffffff 1122334455667788",
  },
  {
    name: "SETATTR",
    request: `80000000 04000000 ${FROM} ff0f0000 00000000 ${HANDLE} 0010000000000000
      0000000000000000 0100000000000000 ffffffffffffffff 0300000000000000 04000000 05000000 06000000
      ed010000 00000000 d0070000 d1070000 00000000`,
    calls: [
      [
        "setattr",
        9,
        {
          valid: 0xfff,
          fh: FH,
          size: 4096,
          mode: 0o755,
          uid: 2000,
          gid: 2001,
          atime: 1,
          atimeNsec: 4,
          mtime: -1,
          mtimeNsec: 5,
          ctime: 3,
          ctimeNsec: 6,
        },
      ],
    ],
    answers: { setattr: (_context, _nodeid, _changes, out) => fillAttrReply(out) },
    reply: `78000000 ${OK} ${ATTR_OUT}`,
  },
  {
    name: "READLINK",
    request: `28000000 05000000 ${FROM}`,
    calls: [["readlink", 9, { limit: 4095 }]],
    answers: { readlink: (_context, _nodeid, out) => giveBytes(out, "target") },
    reply: `16000000 ${OK} 'target'`,
  },
  {
    name: "SYMLINK",
    request: `37000000 06000000 ${FROM} 'link' 00 '../target' 00`,
    calls: [["symlink", 9, "link", "../target"]],
    answers: { symlink: (_context, _parent, _name, _target, entry) => fillEntry(entry) },
    reply: `90000000 ${OK} ${ENTRY}`,
  },
  {
    name: "MKNOD",
    request: `3c000000 08000000 ${FROM} b6610000 03010000 12000000 00000000 'dev' 00`,
    calls: [["mknod", 9, "dev", 0o60666, 0x103, 0o22]],
    answers: { mknod: (_context, _parent, _name, _mode, _rdev, _umask, entry) => fillEntry(entry) },
    reply: `90000000 ${OK} ${ENTRY}`,
  },
  {
    name: "MKDIR",
    request: `34000000 09000000 ${FROM} ff010000 12000000 'dir' 00`,
    calls: [["mkdir", 9, "dir", 0o777, 0o22]],
    answers: { mkdir: (_context, _parent, _name, _mode, _umask, entry) => fillEntry(entry) },
    reply: `90000000 ${OK} ${ENTRY}`,
  },
  {
    name: "UNLINK",
    request: `2c000000 0a000000 ${FROM} 'foo' 00`,
    calls: [["unlink", 9, "foo"]],
    reply: DONE,
  },
  {
    name: "RMDIR",
    request: `2c000000 0b000000 ${FROM} 'foo' 00`,
    calls: [["rmdir", 9, "foo"]],
    answers: { rmdir: () => -39 },
    reply: "10000000 d9ffffff 1122334455667788",
  },
  {
    name: "RENAME",
    request: `35000000 0c000000 ${FROM} 0c00000000000000 'a' 00 'bc' 00`,
    calls: [["rename", 9, "a", 12, "bc", 0]],
    reply: DONE,
  },
  {
    name: "LINK",
    request: `34000000 0d000000 ${FROM} 0c00000000000000 'new' 00`,
    calls: [["link", 12, 9, "new"]],
    answers: { link: (_context, _nodeid, _parent, _name, entry) => fillEntry(entry) },
    reply: `90000000 ${OK} ${ENTRY}`,
  },
  {
    name: "OPEN",
    request: `30000000 0e000000 ${FROM} 02820000 01000000`,
    calls: [["open", 9, 0x8202, 1]],
    answers: { open: (_context, _nodeid, _flags, _fuseFlags, out) => fillOpen(out) },
    reply: `20000000 ${OK} ${OPEN_OUT}`,
  },
  {
    name: "READ",
    request: `50000000 0f000000 ${FROM} ${HANDLE} 0000010000000000 00100000 02000000
      a0a1a2a3a4a5a6a7 01800000 00000000`,
    calls: [["read", 9, FH, 65536, 0x8001, { limit: 4096 }]],
    answers: { read: (_context, _nodeid, _fh, _offset, _flags, out) => giveBytes(out, "data") },
    reply: `14000000 ${OK} 'data'`,
  },
  {
    name: "WRITE",
    request: `55000000 10000000 ${FROM} ${HANDLE} 0000000001000000 05000000 04000000
      a0a1a2a3a4a5a6a7 01800000 00000000 'hello'`,
    calls: [["write", 9, FH, 2 ** 32, 0x8001, 4, Uint8Array.from([104, 101, 108, 108, 111])]],
    answers: { write: () => 5 },
    reply: `18000000 ${OK} 05000000 00000000`,
  },
  {
    name: "STATFS",
    request: `28000000 11000000 ${FROM}`,
    calls: [["statfs", 9]],
    answers: { statfs: (_context, _nodeid, out) => fillStatfs(out) },
    reply: `60000000 ${OK} 0100000000000000 0200000000000000 0300000000000000 0400000000000000
      0500000000000000 06000000 ff000000 08000000 00000000 ${"00000000".repeat(6)}`,
  },
  {
    name: "RELEASE",
    request: `40000000 12000000 ${FROM} ${HANDLE} 02800000 03000000 a0a1a2a3b4b5b6b7`,
    calls: [["release", 9, FH, 0x8002, 3, { low: 0xa3a2a1a0, high: 0xb7b6b5b4 }]],
    reply: DONE,
  },
  {
    name: "FSYNC",
    request: `38000000 14000000 ${FROM} ${HANDLE} 00000000 00000000`,
    calls: [["fsync", 9, FH, false]],
    reply: DONE,
  },
  {
    name: "FSYNC of the data only",
    request: `38000000 14000000 ${FROM} ${HANDLE} 01000000 00000000`,
    calls: [["fsync", 9, FH, true]],
    reply: DONE,
  },
  {
    name: "SETXATTR with the short struct",
    request: `3a000000 15000000 ${FROM} 03000000 01000000 'user.x' 00 'abc'`,
    calls: [["setxattr", 9, "user.x", Uint8Array.from([97, 98, 99]), 1, 0]],
    reply: DONE,
  },
  {
    name: "SETXATTR with FUSE_SETXATTR_EXT",
    flags: SETXATTR_EXT,
    request: `42000000 15000000 ${FROM} 03000000 02000000 01000000 00000000 'user.x' 00 'abc'`,
    calls: [["setxattr", 9, "user.x", Uint8Array.from([97, 98, 99]), 2, 1]],
    reply: DONE,
  },
  {
    name: "GETXATTR",
    request: `37000000 16000000 ${FROM} 40000000 00000000 'user.x' 00`,
    calls: [["getxattr", 9, "user.x", { limit: 64 }]],
    answers: { getxattr: (_context, _nodeid, _name, out) => giveBytes(out, "value") },
    reply: `15000000 ${OK} 'value'`,
  },
  {
    name: "GETXATTR of the size",
    request: `37000000 16000000 ${FROM} 00000000 00000000 'user.x' 00`,
    calls: [["getxattr", 9, "user.x", { limit: 0 }]],
    answers: { getxattr: () => 5 },
    reply: `18000000 ${OK} 05000000 00000000`,
  },
  {
    name: "LISTXATTR",
    request: `30000000 17000000 ${FROM} 40000000 00000000`,
    calls: [["listxattr", 9, { limit: 64 }]],
    answers: { listxattr: (_context, _nodeid, out) => giveBytes(out, "user.x\0") },
    reply: `17000000 ${OK} 'user.x' 00`,
  },
  {
    name: "LISTXATTR of the size",
    request: `30000000 17000000 ${FROM} 00000000 00000000`,
    calls: [["listxattr", 9, { limit: 0 }]],
    answers: { listxattr: () => 7 },
    reply: `18000000 ${OK} 07000000 00000000`,
  },
  {
    name: "REMOVEXATTR",
    request: `2f000000 18000000 ${FROM} 'user.x' 00`,
    calls: [["removexattr", 9, "user.x"]],
    answers: { removexattr: () => -61 },
    reply: "10000000 c3ffffff 1122334455667788",
  },
  {
    name: "FLUSH",
    request: `40000000 19000000 ${FROM} ${HANDLE} 00000000 00000000 a0a1a2a3b4b5b6b7`,
    calls: [["flush", 9, FH, { low: 0xa3a2a1a0, high: 0xb7b6b5b4 }]],
    reply: DONE,
  },
  {
    name: "OPENDIR",
    request: `30000000 1b000000 ${FROM} 00880100 00000000`,
    calls: [["opendir", 9, 0x18800]],
    answers: { opendir: (_context, _nodeid, _flags, out) => fillOpen(out) },
    reply: `20000000 ${OK} ${OPEN_OUT}`,
  },
  {
    name: "READDIR",
    request: `50000000 1c000000 ${FROM} ${HANDLE} f1f2f3f4f5f6f7f8 40000000 00000000
      0000000000000000 00880100 00000000`,
    calls: [["readdir", 9, FH, 0xf4f3f2f1, 0xf8f7f6f5, { room: 64 }]],
    answers: { readdir: (_context, _nodeid, _fh, _low, _high, out) => fillNames(out) },
    reply: `50000000 ${OK}
      2100000000000000 3100000000000000 01000000 08000000 'a' 00000000000000
      2200000000000000 3200000000000000 08000000 08000000 '12345678'`,
  },
  {
    name: "RELEASEDIR",
    request: `40000000 1d000000 ${FROM} ${HANDLE} 00880100 00000000 0000000000000000`,
    calls: [["releasedir", 9, FH, 0x18800]],
    reply: DONE,
  },
  {
    name: "FSYNCDIR",
    request: `38000000 1e000000 ${FROM} ${HANDLE} 01000000 00000000`,
    calls: [["fsyncdir", 9, FH, true]],
    reply: DONE,
  },
  {
    name: "GETLK",
    request: `58000000 1f000000 ${FROM} ${HANDLE} a0a1a2a3b4b5b6b7
      0100000000000000 ffffffffffffff7f 01000000 4d000000 00000000 00000000`,
    calls: [
      [
        "getlk",
        9,
        FH,
        { low: 0xa3a2a1a0, high: 0xb7b6b5b4 },
        { start: 1, end: 2 ** 63, type: 1, pid: 77 },
      ],
    ],
    answers: {
      getlk(_context, _nodeid, _fh, _owner, lock) {
        lock.start = 2;
        lock.type = 0;
        lock.pid = 78;
        return 0;
      },
    },
    reply: `28000000 ${OK} 0200000000000000 ffffffffffffff7f 00000000 4e000000`,
  },
  {
    name: "SETLK of a BSD lock",
    request: `58000000 20000000 ${FROM} ${HANDLE} a0a1a2a3b4b5b6b7
      0000000000000000 ffffffffffffff7f 02000000 00000000 01000000 00000000`,
    calls: [
      [
        "setlk",
        9,
        FH,
        { low: 0xa3a2a1a0, high: 0xb7b6b5b4 },
        { start: 0, end: 2 ** 63, type: 2, pid: 0 },
        true,
        false,
      ],
    ],
    answers: { setlk: () => -11 },
    reply: "10000000 f5ffffff 1122334455667788",
  },
  {
    name: "SETLKW",
    request: `58000000 21000000 ${FROM} ${HANDLE} a0a1a2a3b4b5b6b7
      0a00000000000000 1300000000000000 00000000 4d000000 00000000 00000000`,
    calls: [
      [
        "setlk",
        9,
        FH,
        { low: 0xa3a2a1a0, high: 0xb7b6b5b4 },
        { start: 10, end: 19, type: 0, pid: 77 },
        false,
        true,
      ],
    ],
    reply: DONE,
  },
  {
    name: "ACCESS",
    request: `30000000 22000000 ${FROM} 06000000 00000000`,
    calls: [["access", 9, 6]],
    answers: { access: () => -13 },
    reply: "10000000 f3ffffff 1122334455667788",
  },
  {
    name: "CREATE",
    request: `3c000000 23000000 ${FROM} c2820000 a4810000 12000000 01000000 'new' 00`,
    calls: [["create", 9, "new", 0x82c2, 0o100644, 0o22, 1]],
    answers: {
      create: (_context, _parent, _name, _flags, _mode, _umask, _fuseFlags, entry, out) =>
        fillEntry(entry) + fillOpen(out),
    },
    reply: `a0000000 ${OK} ${ENTRY} ${OPEN_OUT}`,
  },
  {
    name: "INTERRUPT",
    request: `30000000 24000000 ${FROM} 2122232431323334`,
    calls: [["interrupt", 0x24232221, 0x34333231]],
  },
  {
    name: "INTERRUPT of what is not here yet",
    request: `30000000 24000000 ${FROM} 2122232431323334`,
    calls: [["interrupt", 0x24232221, 0x34333231]],
    answers: { interrupt: () => -11 },
    reply: "10000000 f5ffffff 1122334455667788",
  },
  {
    name: "BMAP",
    request: `38000000 25000000 ${FROM} 0700000000000000 00100000 00000000`,
    calls: [["bmap", 9, 4096, 7]],
    answers: { bmap: () => 0x0102030405 },
    reply: `18000000 ${OK} 0504030201000000`,
  },
  {
    name: "DESTROY",
    request: `28000000 26000000 ${FROM}`,
    calls: [["destroy"]],
    reply: DONE,
  },
  {
    name: "IOCTL",
    request: `4c000000 27000000 ${FROM} ${HANDLE} 00000000 02660840 0000feca01000000
      04000000 08000000 10203040`,
    calls: [["ioctl", 9, FH, 0, 0x40086602, Uint8Array.from([16, 32, 48, 64]), { limit: 8 }]],
    answers: {
      ioctl: (_context, _nodeid, _fh, _flags, _command, _data, out) => giveBytes(out, "result"),
    },
    reply: `26000000 ${OK} 00000000 00000000 00000000 00000000 'result'`,
  },
  {
    name: "POLL",
    request: `40000000 28000000 ${FROM} ${HANDLE} 0500000000000000 01000000 05000000`,
    calls: [["poll", 9, FH, 5, 1, 5]],
    answers: { poll: () => 4 },
    reply: `18000000 ${OK} 04000000 00000000`,
  },
  {
    name: "NOTIFY_REPLY",
    request: `55000000 29000000 ${FROM} 0000000000000000 0010000000000000 05000000 00000000
      0000000000000000 0000000000000000 'hello'`,
    calls: [
      ["notifyReply", 0x44332211, 0x88776655, 9, 4096, Uint8Array.from([104, 101, 108, 108, 111])],
    ],
  },
  {
    name: "BATCH_FORGET",
    request: `50000000 2a000000 ${FROM} 02000000 00000000 0a00000000000000 0100000000000000
      0b00000000000000 0000000001000000`,
    calls: [
      ["forget", 10, 1],
      ["forget", 11, 2 ** 32],
    ],
  },
  {
    name: "FALLOCATE",
    request: `48000000 2b000000 ${FROM} ${HANDLE} 0010000000000000
      0000000001000000 03000000 00000000`,
    calls: [["fallocate", 9, FH, 3, 4096, 2 ** 32]],
    answers: { fallocate: () => -95 },
    reply: "10000000 a1ffffff 1122334455667788",
  },
  {
    name: "READDIRPLUS",
    request: `50000000 2c000000 ${FROM} ${HANDLE} 0000000000000000 80010000 00000000
      0000000000000000 00880100 00000000`,
    calls: [["readdirplus", 9, FH, 0, 0, { room: 384 }]],
    answers: { readdirplus: (_context, _nodeid, _fh, _low, _high, out) => fillDirectory(out) },
    reply: `50010000 ${OK}
      ${ENTRY} 2100000000000000 3100000000000000 01000000 08000000 'a' 00000000000000
      ${ENTRY} 2200000000000000 3200000000000000 08000000 08000000 '12345678'`,
  },
  {
    name: "RENAME2",
    request: `3d000000 2d000000 ${FROM} 0c00000000000000 02000000 00000000 'a' 00 'bc' 00`,
    calls: [["rename", 9, "a", 12, "bc", 2]],
    reply: DONE,
  },
  {
    name: "LSEEK",
    request: `40000000 2e000000 ${FROM} ${HANDLE} 0000000001000000 04000000 00000000`,
    calls: [["lseek", 9, FH, 2 ** 32, 4]],
    answers: { lseek: () => 0x7fffffff },
    reply: `18000000 ${OK} ffffff7f00000000`,
  },
  {
    name: "LSEEK to before the file",
    request: `40000000 2e000000 ${FROM} ${HANDLE} fbffffffffffffff 03000000 00000000`,
    calls: [["lseek", 9, FH, -5, 3]],
    answers: { lseek: () => -6 },
    reply: "10000000 faffffff 1122334455667788",
  },
  {
    name: "COPY_FILE_RANGE of more than its answer can say",
    request: `60000000 2f000000 ${FROM} ${HANDLE} 0100000000000000 0c00000000000000 0d00000000000000
      0200000000000000 0000000001000000 0000000000000000`,
    calls: [["copyFileRange", 9, FH, 1, 12, 13, 2, 0x7ffff000, 0]],
    answers: { copyFileRange: () => 0x7ffff000 },
    reply: `18000000 ${OK} 00f0ff7f 00000000`,
  },
  {
    name: "SETUPMAPPING",
    request: `50000000 30000000 ${FROM} ${HANDLE} 0010000000000000 0020000000000000 0300000000000000
      0040000000000000`,
    calls: [["setupmapping", 9, FH, 0x1000, 0x2000, 3, 0x4000]],
    reply: DONE,
  },
  {
    name: "REMOVEMAPPING",
    request: `4c000000 31000000 ${FROM} 02000000 0010000000000000 0020000000000000
      0030000000000000 0040000000000000`,
    calls: [
      ["removemapping", 9, 0x1000, 0x2000],
      ["removemapping", 9, 0x3000, 0x4000],
    ],
    reply: DONE,
  },
  {
    name: "SYNCFS",
    request: `30000000 32000000 ${FROM} 0000000000000000`,
    calls: [["syncfs", 9]],
    reply: DONE,
  },
  {
    name: "TMPFILE, whose name is /",
    request: `3a000000 33000000 ${FROM} 02824100 a4810000 12000000 00000000 '/' 00`,
    calls: [["tmpfile", 9, 0x418202, 0o100644, 0o22]],
    answers: {
      tmpfile: (_context, _parent, _flags, _mode, _umask, entry, out) =>
        fillEntry(entry) + fillOpen(out),
    },
    reply: `a0000000 ${OK} ${ENTRY} ${OPEN_OUT}`,
  },
  {
    name: "STATX",
    request: `40000000 34000000 ${FROM} 01000000 00000000 ${HANDLE} 00200000 ff0f0000`,
    calls: [["statx", 9, FH, 0x2000, 0xfff]],
    answers: {
      statx(_context, _nodeid, _fh, _flags, _mask, out) {
        out.attrTimeout = 1.5;
        out.copyStatx(statx);
        return 0;
      },
    },
    reply: `30010000 ${OK} ${STATX_OUT}`,
  },
  {
    name: "COPY_FILE_RANGE_64",
    request: `60000000 35000000 ${FROM} ${HANDLE} 0100000000000000 0c00000000000000 0d00000000000000
      0200000000000000 0000000001000000 0000000000000000`,
    calls: [["copyFileRange", 9, FH, 1, 12, 13, 2, 2 ** 32, 0]],
    answers: { copyFileRange: () => 2 ** 32 },
    reply: `18000000 ${OK} 0000000001000000`,
  },
];

/** READDIR: the same names, without entries. */
function fillNames(out: DirectoryOut): number {
  for (const [index, name] of ["a", "12345678", "never reached"].entries()) {
    if (!out.begin(name.length)) break;
    out.add(new TextEncoder().encode(name), 0x21 + index, 0x31 + index, 8);
  }
  return 0;
}
