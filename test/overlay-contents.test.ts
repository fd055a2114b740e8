// Copying the contents of files on the host: within a file system, from one to another, and with
// holes, which stay holes.

import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { statSync, truncateSync, writeFileSync } from "node:fs";
import * as abi from "../src/abi-linux.ts";
import { EBADF, ENOSPC } from "../src/errno.ts";
import { copyContents } from "../src/overlay-contents.ts";
import { closeAll, lseek, must, open, pread, pwrite } from "./mount/calls.ts";
import { pattern } from "./mount/posix-place.ts";
import { missing, shell } from "./mount/shell.ts";
import { whyNoMounts } from "./support-mount.ts";
import { Disk } from "./support-overlay.ts";

const MIB = 1 << 20;
const GIB = 2 ** 30;
/** Where data begins depends on the size of blocks. */
const BLOCK_MAX = 4096;

describe.skipIf(whyNoMounts !== undefined)("contents", () => {
  let disk: Disk;
  /** Another file system, and one without holes nor copy_file_range(2). */
  let tmpfs = "";
  let ramfs = "";

  beforeAll(async () => {
    disk = await Disk.start("64M");
    [tmpfs, ramfs] = [`${disk.base}/tmpfs`, `${disk.base}/ramfs`];
    await shell(
      `mkdir ${tmpfs} ${ramfs}; mount -t tmpfs tests ${tmpfs}; mount -t ramfs tests ${ramfs}`,
    );
  });
  afterEach(closeAll);
  afterAll(async () => {
    await shell(`umount -l ${tmpfs} ${ramfs}`);
    await disk[Symbol.asyncDispose]();
  });

  const WAYS = [
    "disk to disk",
    "disk to tmpfs",
    "tmpfs to disk",
    "tmpfs to tmpfs",
    "ramfs to disk",
    "disk to ramfs",
  ];
  const places = (way: string): [string, string] => {
    const roots: Record<string, string> = { disk: disk.path, tmpfs, ramfs };
    const [from, to] = way.split(" to ");
    return [`${roots[from!]}/from`, `${roots[to!]}/to`];
  };
  /** Copies by path, and returns a descriptor of the copy. */
  const copy = (from: string, to: string, size = statSync(from).size): number => {
    const source = must<number>(open(from, abi.O_RDONLY));
    const target = must<number>(open(to, abi.O_RDWR | abi.O_CREAT | abi.O_TRUNC));
    expect(copyContents(source, target, size, statSync(from).blocks)).toBe(0);
    return target;
  };

  test.each(WAYS)("are the same from %s, whatever their size", (way) => {
    const [from, to] = places(way);
    for (const size of [0, 1, 4095, 4096, 4097, 65_536, 65_537, MIB, 3 * MIB + 5]) {
      writeFileSync(from, pattern(size, size), "latin1");
      const fd = copy(from, to);
      expect(statSync(to).size).toBe(size);
      expect(pread(fd, 4 * MIB, 0)).toEqual(pread(must(open(from, abi.O_RDONLY)), 4 * MIB, 0));
    }
  });

  test.each(WAYS)("are copied as far as is wanted from %s", (way) => {
    const [from, to] = places(way);
    writeFileSync(from, "0123456789");
    expect(pread(copy(from, to, 4), 100, 0)).toBe("0123");
  });

  test.each(WAYS.filter((way) => !way.includes("ramfs")))(
    "beyond 4 GiB, with holes, from %s",
    (way) => {
      const [from, to] = places(way);
      writeFileSync(from, "");
      const size = 6 * GIB + 123;
      const file = must<number>(open(from, abi.O_RDWR));
      const pieces = [
        [MIB, "begin"],
        [4 * GIB - 3, "across 4 GiB"],
        [5 * GIB, "beyond"],
      ] as const;
      for (const [at, text] of pieces) pwrite(file, text, at);
      truncateSync(from, size);
      const fd = copy(from, to);
      expect(statSync(to).size).toBe(size);
      expect(statSync(to).blocks).toBeLessThanOrEqual(statSync(from).blocks + 64);
      for (const [at, text] of pieces) expect(pread(fd, text.length, at)).toBe(text);
      const dataFrom = (of: number, at: number): number =>
        Math.floor(lseek(of, at, abi.SEEK_DATA) / BLOCK_MAX);
      for (const at of [0, 2 * MIB]) expect(dataFrom(fd, at)).toBe(dataFrom(file, at));
      expect(pread(fd, 100, size - 5)).toBe("\0\0\0\0\0");
    },
  );

  test.each([32 * 1024, 100 * GIB])("that are one hole are one hole, %d bytes", (size) => {
    const [from, to] = places("disk to tmpfs");
    writeFileSync(from, "");
    truncateSync(from, size);
    const fd = copy(from, to);
    expect(statSync(to)).toMatchObject({ size, blocks: 0 });
    expect(pread(fd, 1, size / 2)).toBe("\0");
  });

  test.skipIf(missing("mkfs.xfs"))(
    "share their blocks where the file system can do that",
    async () => {
      const xfs = `${disk.base}/xfs`;
      await shell(
        `mkdir ${xfs}; truncate -s 400M ${tmpfs}/image; mkfs.xfs -q -m reflink=1 ${tmpfs}/image
      mount -o loop ${tmpfs}/image ${xfs}`,
      );
      try {
        writeFileSync(`${xfs}/from`, Buffer.alloc(64 * MIB, "x"));
        const free = async (): Promise<number> =>
          Number(await shell(`sync -f ${xfs}; stat -f -c %f ${xfs}`));
        const before = await free();
        const fd = copy(`${xfs}/from`, `${xfs}/to`, 64 * MIB - 1);
        expect(before - (await free())).toBeLessThan(MIB / 4096);
        expect(statSync(`${xfs}/to`).size).toBe(64 * MIB - 1);
        expect(pread(fd, 3, 64 * MIB - 3)).toBe("xx");
      } finally {
        closeAll();
        await shell(`umount ${xfs}; rm ${tmpfs}/image`);
      }
    },
  );

  test("that became shorter meanwhile end in zeros", () => {
    for (const way of ["disk to disk", "ramfs to disk"]) {
      const [from, to] = places(way);
      writeFileSync(from, "short");
      expect(pread(copy(from, to, 10), 100, 0)).toBe("short\0\0\0\0\0");
    }
  });

  test("that do not fit, or can't be read, are an error", () => {
    const [from, to] = places("tmpfs to disk");
    writeFileSync(from, Buffer.alloc(80 * MIB, "x"));
    const source = must<number>(open(from, abi.O_RDONLY));
    const target = must<number>(open(to, abi.O_RDWR | abi.O_CREAT | abi.O_TRUNC));
    const { blocks } = statSync(from);
    expect(copyContents(source, target, 80 * MIB, blocks)).toBe(-ENOSPC);
    truncateSync(to, 0);
    const blind = must<number>(open(from, abi.O_WRONLY));
    for (const size of [10, MIB]) expect(copyContents(blind, target, size, blocks)).toBe(-EBADF);
  });
});
