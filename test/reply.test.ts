// The bounded writer of replies, by itself.

import { describe, expect, test } from "bun:test";
import { lstatSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import fc from "fast-check";
import { FUSE_ROOT_ID, fuse_attr, fuse_entry_out } from "../src/abi-fuse.ts";
import { AT_FDCWD, AT_SYMLINK_NOFOLLOW } from "../src/abi-linux.ts";
import { AssertionError } from "../src/assert.ts";
import { cstring, map, Memory } from "../src/memory.ts";
import { AttrOut, DataOut, DirectoryOut, EntryOut, Reply } from "../src/reply.ts";
import { newfstatat } from "../src/syscall.ts";

const BODY = 16;

/** A reply with room for `capacity` bytes of body and no more. */
function replyOf(capacity: number): Reply {
  return new Reply(new Memory(map(1 << 16).address, BODY + capacity), 0);
}

test("a reply can be as large as its memory, and no larger", () => {
  const reply = replyOf(64);
  expect(reply.end(1, 2, 64)).toBe(80);
  expect(() => reply.end(1, 2, 65)).toThrow(AssertionError);
});

test("data out has the room that was asked for, or what there is", () => {
  const reply = replyOf(64);
  expect(new DataOut(reply).open(10).limit).toBe(10);
  expect(new DataOut(reply).open(65).limit).toBe(64);
  expect(new DataOut(reply, 16).open(0xffffffff).limit).toBe(48);
  expect(new DataOut(reply, 16).open(20).bytes.length).toBe(20);
});

describe("attributes", () => {
  test("taken from a struct stat are those of the file", () => {
    const directory = mkdtempSync("/tmp/fuse-backend-reply-");
    try {
      const stat = map(4096);
      const view = map(4096).view;
      const attr = new AttrOut(view);
      attr.place(8);
      writeFileSync(`${directory}/file`, "text", { mode: 0o604 });
      utimesSync(`${directory}/file`, -3.5, 1234567890.125);
      symlinkSync("target", `${directory}/link`);
      for (const path of [`${directory}/file`, `${directory}/link`, "/dev/null", directory]) {
        const flags = AT_SYMLINK_NOFOLLOW;
        expect(newfstatat(AT_FDCWD, cstring(path).address, stat.address, flags)).toBe(0);
        attr.copyStat(stat);
        const expected = lstatSync(path, { bigint: true });
        const u64 = (field: number): bigint => view.getBigUint64(8 + field, true);
        const u32 = (field: number): bigint => BigInt(view.getUint32(8 + field, true));
        const time = (field: number, nsec: number): bigint =>
          view.getBigInt64(8 + field, true) * 1_000_000_000n + u32(nsec);
        expect({
          ino: u64(fuse_attr.ino),
          size: u64(fuse_attr.size),
          blocks: u64(fuse_attr.blocks),
          atime: time(fuse_attr.atime, fuse_attr.atimensec),
          mtime: time(fuse_attr.mtime, fuse_attr.mtimensec),
          ctime: time(fuse_attr.ctime, fuse_attr.ctimensec),
          mode: u32(fuse_attr.mode),
          nlink: u32(fuse_attr.nlink),
          uid: u32(fuse_attr.uid),
          gid: u32(fuse_attr.gid),
          rdev: u32(fuse_attr.rdev),
          blksize: u32(fuse_attr.blksize),
        }).toEqual({
          ino: expected.ino,
          size: expected.size,
          blocks: expected.blocks,
          atime: expected.atimeNs,
          mtime: expected.mtimeNs,
          ctime: expected.ctimeNs,
          mode: expected.mode,
          nlink: expected.nlink,
          uid: expected.uid,
          gid: expected.gid,
          rdev: expected.rdev,
          blksize: expected.blksize,
        });
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test("come with the generation that was set, but for the root, whose is 0", () => {
    const view = map(4096).view;
    const entry = new EntryOut(view).place(0);
    for (const [nodeid, shown] of [
      [FUSE_ROOT_ID, 0n],
      [FUSE_ROOT_ID + 1, 7n],
      [2 ** 32 + FUSE_ROOT_ID, 7n],
    ] as const) {
      entry.nodeid = nodeid;
      entry.generation = 7;
      expect(view.getBigUint64(fuse_entry_out.generation, true)).toBe(shown);
    }
  });

  test("may be kept for fractions of a second", () => {
    const view = map(4096).view;
    const entry = new EntryOut(view).place(0);
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 ** 31 }),
        fc.integer({ min: 0, max: 999 }),
        (s, ms) => {
          entry.attrTimeout = s + ms / 1000;
          const seconds = view.getBigUint64(fuse_entry_out.attr_valid, true);
          const nanoseconds = view.getUint32(fuse_entry_out.attr_valid_nsec, true);
          expect(seconds).toBe(BigInt(s));
          expect(Math.abs(nanoseconds - ms * 1e6)).toBeLessThan(1000);
          expect(nanoseconds).toBeLessThan(1e9);
        },
      ),
    );
  });
});

describe("a directory's entries", () => {
  test.each([false, true])(
    "never fill more than was asked for, nor than there is (plus: %p)",
    (plus) => {
      const name = new Uint8Array(255).fill(0x6e);
      const lengths = fc.array(fc.integer({ min: 1, max: 255 }), { maxLength: 40 });
      fc.assert(
        fc.property(fc.integer({ min: 0, max: 4096 }), lengths, (wanted, list) => {
          const out = new DirectoryOut(replyOf(2048), plus).open(wanted);
          for (const length of list) {
            const before = out.length;
            const size = (((plus ? 152 : 24) + length + 7) >> 3) << 3;
            expect(out.entrySize(length)).toBe(size);
            const fits = before + size <= Math.min(wanted, 2048);
            expect(out.begin(length)).toBe(fits);
            expect(out.length).toBe(before);
            if (!fits) break;
            out.add(name.subarray(0, length), 1, 2, 8);
            expect(out.length).toBe(before + size);
          }
        }),
      );
    },
  );

  test("one that is begun and not added leaves no trace", () => {
    const reply = replyOf(1024);
    const out = new DirectoryOut(reply, true).open(1024);
    out.begin(3);
    out.entry.nodeid = 0xffff;
    out.begin(1);
    out.add(Uint8Array.of(0x61), 1, 2, 8);
    expect(reply.view.getBigUint64(BODY, true)).toBe(0n);
    expect(out.length).toBe(160);
  });

  test("copied from what getdents64 gave keep all 64 bits of their cookies", () => {
    const from = map(4096);
    from.view.setBigUint64(64, 0xfedcba9876543210n, true);
    from.view.setBigUint64(72, 0x7fffffffffffffffn, true);
    from.bytes.set(Uint8Array.of(0x61, 0x62, 0x63), 100);
    const reply = replyOf(64);
    const out = new DirectoryOut(reply, false).open(64);
    expect(out.begin(3)).toBeTrue();
    out.commit(from, 100, 3, 64, 72, 4);
    expect(reply.view.getBigUint64(BODY, true)).toBe(0xfedcba9876543210n);
    expect(reply.view.getBigUint64(BODY + 8, true)).toBe(0x7fffffffffffffffn);
    expect(reply.memory.bytes.slice(BODY + 16, BODY + 32).toHex()).toBe(
      "03000000040000006162630000000000",
    );
  });
});
