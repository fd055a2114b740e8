// What a VFS asks the kernel for at INIT, out of what its file systems wish for, and what its
// options do.

import { describe, expect, test } from "bun:test";
import * as abi from "../src/abi-fuse.ts";
import {
  FALLOC_FL_COLLAPSE_RANGE,
  FALLOC_FL_INSERT_RANGE,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  O_APPEND,
  O_CREAT,
  O_RDWR,
  O_TRUNC,
} from "../src/abi-linux.ts";
import { EIO, ENOSYS, EPERM, EROFS } from "../src/errno.ts";
import { FileSystem, type Wishes } from "../src/filesystem.ts";
import { Vfs, type VfsOptions } from "../src/vfs.ts";
import { encode, ROOT, TinyFs, twoMounts, VfsHarness } from "./support-vfs.ts";

/** What a Vfs with these mounts asks for, when all wish for `first` before. */
function agreed(
  options: VfsOptions,
  wishes: readonly Partial<Wishes>[],
  first: Partial<Wishes> = {},
): Wishes {
  const vfs = new Vfs(options);
  for (const [index, own] of wishes.entries()) {
    class Wishing extends FileSystem {
      override init(asked: Wishes): void {
        asked.flags |= own.flags ?? 0;
        asked.flags2 |= own.flags2 ?? 0;
        const { flags: _flags, flags2: _flags2, ...rest } = own;
        Object.assign(asked, rest);
      }
    }
    vfs.mount(new Wishing(), `/${index}`);
  }
  const asked: Wishes = {
    flags: 0,
    flags2: 0,
    maxStackDepth: 0,
    requestTimeout: 0,
    maxBackground: 64,
    congestionThreshold: 48,
    maxReadahead: 1 << 20,
    ...first,
  };
  vfs.init(asked, -1, -1);
  return asked;
}

describe("INIT", () => {
  const { FUSE_ASYNC_READ, FUSE_POSIX_ACL, FUSE_WRITEBACK_CACHE, FUSE_AUTO_INVAL_DATA } = abi;

  test("asks for what all of them wish for", () => {
    const one = { flags: FUSE_ASYNC_READ | FUSE_POSIX_ACL, flags2: abi.FUSE_SECURITY_CTX };
    const two = { flags: FUSE_ASYNC_READ | FUSE_WRITEBACK_CACHE, flags2: abi.FUSE_SECURITY_CTX };
    const both = agreed({}, [one, two]);
    expect([both.flags, both.flags2]).toEqual([FUSE_ASYNC_READ, abi.FUSE_SECURITY_CTX]);
    const same = agreed({}, [one, one]);
    expect([same.flags, same.flags2]).toEqual([one.flags, one.flags2]);
    expect(agreed({}, [one]).flags).toBe(one.flags);
    expect(agreed({}, [one, {}])).toMatchObject({ flags: 0, flags2: 0 });
  });

  test("asks for what was asked for before in any case", () => {
    const first = { flags: abi.FUSE_MAX_PAGES, flags2: abi.FUSE_REQUEST_TIMEOUT };
    expect(agreed({}, [{}, { flags: FUSE_ASYNC_READ }], first)).toMatchObject(first);
    expect(agreed({}, [], first)).toMatchObject(first);
  });

  test("has data checked more often if one of them needs it", () => {
    expect(agreed({}, [{ flags: FUSE_AUTO_INVAL_DATA }, {}]).flags).toBe(FUSE_AUTO_INVAL_DATA);
  });

  test("takes the deepest stack and the lowest limits", () => {
    const one = { maxStackDepth: 2, maxBackground: 10, congestionThreshold: 9, maxReadahead: 4096 };
    const two = { maxStackDepth: 1, maxBackground: 20, congestionThreshold: 5, maxReadahead: 8192 };
    expect(agreed({}, [one, two])).toMatchObject({
      maxStackDepth: 2,
      maxBackground: 10,
      congestionThreshold: 5,
      maxReadahead: 4096,
    });
  });

  test("lets requests take as long as who takes longest", () => {
    const timeout = (...wishes: number[]): number =>
      agreed(
        {},
        wishes.map((requestTimeout) => ({ requestTimeout })),
      ).requestTimeout;
    expect(timeout(60, 90)).toBe(90);
    expect(timeout(60, 0)).toBe(0);
    expect(agreed({}, [{}, {}], { requestTimeout: 30 }).requestTimeout).toBe(30);
  });

  test("asks what `wishes` says while nothing is mounted", () => {
    const wishes = (asked: Wishes, offered: number): void => {
      asked.flags |= offered & FUSE_ASYNC_READ;
    };
    expect(agreed({ wishes }, []).flags).toBe(FUSE_ASYNC_READ);
    expect(agreed({ wishes }, [{ flags: FUSE_POSIX_ACL }]).flags).toBe(FUSE_POSIX_ACL);
    expect(agreed({}, [])).toMatchObject({ flags: 0, flags2: 0 });
  });

  test("leaves out the writeback cache and killpriv v2 if told to", () => {
    const flags = FUSE_WRITEBACK_CACHE | abi.FUSE_HANDLE_KILLPRIV_V2;
    expect(agreed({}, [{ flags }]).flags).toBe(flags);
    expect(agreed({ killprivV2: true }, [{ flags }]).flags).toBe(flags);
    expect(agreed({ noWriteback: true }, [{ flags }]).flags).toBe(abi.FUSE_HANDLE_KILLPRIV_V2);
    expect(agreed({ killprivV2: false }, [{ flags }]).flags).toBe(FUSE_WRITEBACK_CACHE);
    const wishes = (asked: Wishes): void => void (asked.flags |= flags);
    expect(agreed({ wishes, noWriteback: true, killprivV2: false }, []).flags).toBe(0);
  });

  test("says that there is no OPEN or OPENDIR, and has the kernel truncate without it", () => {
    const { FUSE_NO_OPEN_SUPPORT, FUSE_NO_OPENDIR_SUPPORT, FUSE_ATOMIC_O_TRUNC } = abi;
    const flags = FUSE_ATOMIC_O_TRUNC;
    expect(agreed({}, [{ flags }]).flags).toBe(flags);
    expect(agreed({ noOpen: true }, [{ flags }]).flags).toBe(FUSE_NO_OPEN_SUPPORT);
    expect(agreed({ noOpendir: true }, [{ flags }]).flags).toBe(flags | FUSE_NO_OPENDIR_SUPPORT);
    // What is said by one of them is so for its files.
    const without = { flags: flags | FUSE_NO_OPEN_SUPPORT };
    expect(agreed({}, [without]).flags).toBe(FUSE_NO_OPEN_SUPPORT);
    expect(agreed({}, [without, { flags }]).flags).toBe(0);
  });

  test("does not let the kernel write by itself where sizes are sealed", () => {
    const flags2 = abi.FUSE_PASSTHROUGH | abi.FUSE_SECURITY_CTX;
    expect(agreed({ sealSize: true }, [{ flags2 }]).flags2).toBe(abi.FUSE_SECURITY_CTX);
  });

  test("has the kernel say who the caller is wherever ids are mapped", () => {
    const flags2 = abi.FUSE_ALLOW_IDMAP;
    const ids = { uids: [{ internal: 1, external: 2, length: 1 }], gids: [] };
    expect(agreed({}, [{ flags2 }]).flags2).toBe(flags2);
    expect(agreed({ ids }, [{ flags2 }]).flags2).toBe(0);
  });
});

describe("an option", () => {
  const open = (harness: VfsHarness, node: number, flags = 0): number =>
    harness.ask(abi.FUSE_OPEN, node, encode(abi.fuse_open_in, { flags })).error;
  const opendir = (harness: VfsHarness, node: number): number =>
    harness.ask(abi.FUSE_OPENDIR, node, encode(abi.fuse_open_in, {})).error;

  test("noOpen: OPEN is answered with ENOSYS and no file system is asked", () => {
    const { harness, a } = twoMounts({ noOpen: true }, abi.FUSE_NO_OPEN_SUPPORT);
    expect(open(harness, harness.walk("/a/file").nodeid)).toBe(-ENOSYS);
    expect(a.opened).toBe(0);
    expect(opendir(harness, ROOT)).toBe(0);
  });

  test("noOpendir: OPENDIR is answered with ENOSYS, also in the tree", () => {
    const { harness } = twoMounts({ noOpendir: true }, abi.FUSE_NO_OPENDIR_SUPPORT);
    for (const path of ["/", "/a"])
      expect(opendir(harness, harness.walk(path).nodeid)).toBe(-ENOSYS);
    expect(open(harness, harness.walk("/a/file").nodeid)).toBe(0);
  });

  test("noOpen, noOpendir: not where the kernel would take ENOSYS for an error", () => {
    const { harness } = twoMounts({ noOpen: true, noOpendir: true });
    expect(opendir(harness, harness.walk("/a").nodeid)).toBe(0);
    expect(open(harness, harness.walk("/a/file").nodeid)).toBe(0);
  });

  test("noReaddir: directories look empty, and their entries are found", () => {
    const { harness } = twoMounts({ noReaddir: true });
    for (const path of ["/", "/a"]) {
      expect(harness.readdir(harness.walk(path).nodeid).listed(false)).toEqual([]);
      expect(harness.readdirplus(harness.walk(path).nodeid).listed(true)).toEqual([]);
    }
    harness.walk("/a/file");
  });

  test("fixed: the one file system keeps its numbers, and has its owners mapped", () => {
    const uids = [{ internal: 100, external: 0, length: 10 }];
    const harness = new VfsHarness(new Vfs({ fixed: true, ids: { uids, gids: [] } }));
    const fs = new TinyFs({ uid: 100, gid: 0 });
    fs.add("file", { uid: 103 }, fs.add("dir/", { uid: 100 }));
    harness.vfs.mount(fs, "/");
    const entry = harness.walk("/dir/file");
    expect(entry).toMatchObject({ nodeid: 3, attr: { ino: 1002n, uid: 3 } });
    expect(harness.getattr(3).attr).toEqual(entry.attr);
    expect(harness.getattr(ROOT).attr).toMatchObject({ ino: 1000n, uid: 0 });
    const [self, up] = harness.readdir(2).listed(false);
    expect([self!.ino, up!.ino]).toEqual([1001n, 1000n]);
    expect(fs.connections[0]!.translation!.node(3)).toBe(3);
    harness.forget(3, 1);
    expect(fs.lookups).toEqual(new Map([[2, 1]]));
  });

  describe("sealSize: nothing changes a file's size", () => {
    const write =
      (offset: number, length: number, flags = 0) =>
      (harness: VfsHarness): number => {
        const how = encode(abi.fuse_write_in, { offset, size: length, flags });
        const node = harness.walk("/a/file").nodeid;
        return harness.ask(abi.FUSE_WRITE, node, how, new Uint8Array(length)).error;
      };
    const allocate = (mode: number, offset: number, length: number) => (harness: VfsHarness) => {
      const how = encode(abi.fuse_fallocate_in, { mode, offset, length });
      return harness.ask(abi.FUSE_FALLOCATE, harness.walk("/a/file").nodeid, how).error;
    };
    const truncate = (harness: VfsHarness): number => {
      const how = encode(abi.fuse_setattr_in, { valid: abi.FATTR_SIZE, size: 3 });
      return harness.ask(abi.FUSE_SETATTR, harness.walk("/a/file").nodeid, how).error;
    };
    const copy =
      (off_out: number, len: number) =>
      (harness: VfsHarness): number => {
        const nodeid_out = harness.walk("/a/file").nodeid;
        const how = encode(abi.fuse_copy_file_range_in, { nodeid_out, off_out, len });
        return harness.ask(abi.FUSE_COPY_FILE_RANGE, nodeid_out, how).error;
      };
    const create =
      (name: string, flags: number) =>
      (harness: VfsHarness): number => {
        const how = encode(abi.fuse_create_in, { flags });
        return harness.ask(abi.FUSE_CREATE, harness.walk("/a").nodeid, how, name).error;
      };
    const openWith =
      (flags: number) =>
      (harness: VfsHarness): number =>
        open(harness, harness.walk("/a/file").nodeid, flags);

    // The file has 10 bytes.
    const changing: [string, (harness: VfsHarness) => number][] = [
      ["SETATTR of the size", truncate],
      ["OPEN with O_TRUNC", openWith(O_RDWR | O_TRUNC)],
      ["CREATE with O_TRUNC of what is there", create("file", O_RDWR | O_CREAT | O_TRUNC)],
      ["WRITE beyond the end", write(8, 3)],
      ["WRITE with O_APPEND", write(0, 1, O_APPEND)],
      ["FALLOCATE beyond the end", allocate(0, 5, 6)],
      ["FALLOCATE that collapses a range", allocate(FALLOC_FL_COLLAPSE_RANGE, 0, 5)],
      ["FALLOCATE that inserts a range", allocate(FALLOC_FL_INSERT_RANGE, 0, 5)],
      ["COPY_FILE_RANGE beyond the end", copy(8, 3)],
    ];
    test.each(changing)("%s fails with EPERM", (_name, act) => {
      const { harness, a } = twoMounts({ sealSize: true });
      expect(act(harness)).toBe(-EPERM);
      expect(a.nodes.get(2)!.size).toBe(10);
    });

    const punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const others: [string, (harness: VfsHarness) => number][] = [
      ["OPEN", openWith(O_RDWR)],
      ["CREATE of what is there", create("file", O_RDWR | O_CREAT)],
      ["CREATE with O_TRUNC of a new file", create("new", O_RDWR | O_CREAT | O_TRUNC)],
      ["WRITE up to the end", write(7, 3)],
      ["FALLOCATE up to the end", allocate(0, 5, 5)],
      ["FALLOCATE beyond the end that keeps the size", allocate(FALLOC_FL_KEEP_SIZE, 5, 50)],
      ["FALLOCATE that punches a hole", allocate(punch, 5, 50)],
      ["COPY_FILE_RANGE up to the end", copy(5, 5)],
    ];
    test.each(others)("%s goes on as ever", (_name, act) => {
      const { harness } = twoMounts({ sealSize: true });
      expect(act(harness)).toBe(0);
    });

    test("the tree and what is gone fail as they do otherwise", () => {
      const { harness } = twoMounts({ sealSize: true });
      const how = encode(abi.fuse_write_in, { size: 1 });
      const { nodeid } = harness.walk("/a/file");
      harness.vfs.umount("/a");
      expect(harness.ask(abi.FUSE_WRITE, nodeid, how, "").error).toBe(-EIO);
      expect(harness.ask(abi.FUSE_WRITE, ROOT, how, "").error).toBe(-EROFS);
    });
  });
});
