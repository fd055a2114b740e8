// POSIX cases: what is in files: reading, writing, sizes, holes, copies, mappings, syncing.

import { spawnSync } from "node:child_process";
import * as abi from "../../src/abi-linux.ts";
import { Actor } from "./actor.ts";
import * as c from "./calls.ts";
import {
  alice,
  bob,
  changes,
  contents,
  directory,
  file,
  mode,
  pattern,
  size,
  type Cases,
} from "./posix-place.ts";

const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_APPEND } = abi;
const { SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE } = abi;
const KEEP_SIZE = abi.FALLOC_FL_KEEP_SIZE;
const PUNCH_HOLE = abi.FALLOC_FL_PUNCH_HOLE;
const ZERO_RANGE = abi.FALLOC_FL_ZERO_RANGE;
const NEW = O_CREAT | O_EXCL | O_RDWR;
const GiB = 2 ** 30;
const POLLIN_OUT = abi.POLLIN | abi.POLLOUT;

/** A new file of `length` bytes of pattern, open. */
const filled = (path: string, length: number): number => {
  const fd = c.must(c.open(path, NEW));
  c.pwrite(fd, pattern(length), 0);
  return fd;
};

export const dataCases: Cases = {
  "reads end at the end of the file": ({ at }) => {
    file(at("f"), "0123456789");
    const fd = c.open(at("f"), O_RDONLY);
    return [c.read(fd, 4), c.read(fd, 100), c.read(fd, 1), c.pread(fd, 5, 100), c.read(fd, 0)];
  },

  "writing past the end leaves zeros": ({ at }) => {
    const fd = c.open(at("f"), NEW);
    return [c.pwrite(fd, "end", 5000), size(fd), c.pread(fd, 4096, 2000), c.pread(fd, 9, 4995)];
  },

  "megabytes in pieces of odd sizes": ({ at }) => {
    const fd = filled(at("f"), 3_000_000);
    const digests = [c.pread(fd, 4 << 20, 0)];
    for (const piece of [4095, 65_537, 1_000_003])
      for (let offset = 0; offset < 3_000_000; offset += piece * 5)
        digests.push(c.pread(fd, piece, offset));
    for (const [index, offset] of [17, 4096, 70_001, 2_999_000].entries())
      digests.push(c.pwrite(fd, pattern(9000 * (index + 1), index), offset));
    return [...digests, size(fd), c.pread(c.open(at("f"), O_RDONLY), 4 << 20, 0)];
  },

  "overlapping writes by two descriptors": ({ at }) => {
    const a = filled(at("f"), 20_000);
    const b = c.open(at("f"), O_RDWR);
    for (let round = 0; round < 50; round++) {
      c.pwrite(round % 2 ? a : b, pattern(3000, round), (round * 769) % 19_000);
      c.pread(round % 2 ? b : a, 20_000, 0);
    }
    return [c.pread(a, 30_000, 0), c.pread(b, 30_000, 0)];
  },

  "writev and an empty write": ({ at }) => {
    const fd = c.open(at("f"), NEW);
    const many = Array.from({ length: 100 }, (_, index) => `${index},`);
    return [c.writev(fd, many), c.write(fd, ""), size(fd), c.pread(fd, 1000, 0)];
  },

  "offsets beyond 4 GiB": ({ at }) => {
    const fd = c.open(at("f"), NEW);
    c.pwrite(fd, "far", 5 * GiB);
    c.pwrite(fd, "near", 0);
    c.lseek(fd, 5 * GiB - 1, SEEK_SET);
    return [size(fd), c.read(fd, 100), c.pread(fd, 4, 0), c.lseek(fd, -2, SEEK_END), c.read(fd, 9)];
  },

  "the largest file": ({ at }) => {
    const fd = c.open(at("f"), NEW);
    return [
      c.ftruncate(fd, 2 ** 45),
      c.fallocate(fd, 0, 2 ** 45, 1),
      c.ftruncate(fd, 15 * 1024 * GiB),
      size(fd),
      c.pread(fd, 3, 15 * 1024 * GiB - 1),
    ];
  },

  "a write beyond the largest file": ({ at }) => {
    const fd = c.open(at("f"), NEW);
    const written = c.pwrite(fd, "x", 2 ** 45);
    const synced = c.fsync(fd);
    c.syncfs(fd); // It would report the failure too, to whoever calls it next.
    return [written, synced];
  },

  "ftruncate shortens, lengthens with zeros, and keeps": ({ at }) => {
    const fd = filled(at("f"), 10_000);
    const results: unknown[] = [];
    for (const length of [5000, 12_000, 12_000, 1, 4097, 0, 10])
      results.push(c.ftruncate(fd, length), size(fd), c.pread(fd, 20_000, 0));
    return results;
  },

  "a page cut by ftruncate is zero when the file grows again": ({ at }) => {
    const fd = filled(at("f"), 8192);
    c.ftruncate(fd, 4100);
    c.ftruncate(fd, 8192);
    const other = c.open(at("f"), O_RDONLY);
    return [c.pread(fd, 4096, 4096), c.pread(other, 8192, 0)];
  },

  "truncate by path": ({ at }) => {
    file(at("f"), "0123456789", 0o644);
    directory(at("d"));
    c.symlink("f", at("l"));
    c.mknod(at("p"), abi.S_IFIFO | 0o644);
    return [
      c.truncate(at("l"), 5),
      size(at("f")),
      c.truncate(at("d"), 0),
      c.truncate(at("p"), 0),
      c.truncate(at("missing"), 0),
      c.truncate(at("f"), -1),
      c.as(alice, () => c.truncate(at("f"), 0)),
      contents(at("f")),
    ];
  },

  "a truncated file is short for everybody who has it open": ({ at }) => {
    const fd = filled(at("f"), 10_000);
    const reader = c.open(at("f"), O_RDONLY);
    c.pread(reader, 10_000, 0);
    c.truncate(at("f"), 3);
    return [c.pread(fd, 10, 0), c.pread(reader, 10, 0), size(reader)];
  },

  "fallocate makes room, with and without the size": ({ at }) => {
    const fd = filled(at("f"), 100);
    const results = [c.fallocate(fd, KEEP_SIZE, 0, 50_000), size(fd)];
    results.push(c.fallocate(fd, 0, 10_000, 10_000), size(fd));
    return [...results, c.pread(fd, 30_000, 0)];
  },

  "fallocate punches holes and writes zeros": ({ at }) => {
    const fd = filled(at("f"), 40_000);
    const results: unknown[] = [];
    const allocate = (flags: number, offset: number, length: number): void => {
      results.push(c.fallocate(fd, flags, offset, length), size(fd), c.pread(fd, 60_000, 0));
    };
    allocate(PUNCH_HOLE | KEEP_SIZE, 4096, 8192);
    allocate(PUNCH_HOLE | KEEP_SIZE, 20_001, 77);
    allocate(PUNCH_HOLE | KEEP_SIZE, 39_000, 100_000);
    allocate(ZERO_RANGE, 30_000, 2000);
    allocate(ZERO_RANGE | KEEP_SIZE, 39_500, 5000);
    allocate(ZERO_RANGE, 39_500, 5000);
    return results;
  },

  "fallocate refuses what makes no sense": ({ at }) => {
    const fd = filled(at("f"), 100);
    c.mknod(at("p"), abi.S_IFIFO | 0o644);
    return [
      c.fallocate(fd, 0, 0, 0),
      c.fallocate(fd, PUNCH_HOLE, 0, 10),
      c.fallocate(fd, PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, 10),
      c.fallocate(fd, 0x8000, 0, 10),
      c.fallocate(c.open(at("f"), O_RDONLY), 0, 0, 10),
      c.fallocate(c.open(at("p"), O_RDWR), 0, 0, 10),
      c.fallocate(c.open(at("."), O_RDONLY), 0, 0, 10),
      size(fd),
    ];
  },

  "fallocate takes a range out and puts one in": ({ at }) => {
    const fd = filled(at("f"), 40_960);
    const results: unknown[] = [];
    for (const flag of [abi.FALLOC_FL_COLLAPSE_RANGE, abi.FALLOC_FL_INSERT_RANGE])
      results.push(c.fallocate(fd, flag, 4096, 8192), size(fd), c.pread(fd, 60_000, 0));
    return results;
  },

  "SEEK_DATA and SEEK_HOLE find what is written": ({ at }) => {
    const fd = c.open(at("f"), NEW);
    for (const offset of [0, 65_536, 200_000, 5 * GiB]) c.pwrite(fd, "data", offset);
    c.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 196_608, 4096);
    c.ftruncate(fd, 6 * GiB);
    c.fsync(fd);
    const offsets = [
      0,
      1,
      4096,
      65_536,
      70_000,
      196_700,
      5 * GiB,
      5 * GiB + 4096,
      6 * GiB,
      7 * GiB,
    ];
    return offsets.map((offset) => [
      c.lseek(fd, offset, SEEK_DATA),
      c.lseek(fd, offset, SEEK_HOLE),
    ]);
  },

  "SEEK_DATA in an empty file, and before the beginning": ({ at }) => {
    const fd = c.open(at("f"), NEW);
    const empty = [c.lseek(fd, 0, SEEK_DATA), c.lseek(fd, 0, SEEK_HOLE)];
    c.write(fd, "x");
    c.fsync(fd);
    return [
      ...empty,
      c.lseek(fd, -1, SEEK_DATA),
      c.lseek(fd, 0, SEEK_HOLE),
      c.lseek(fd, 0, SEEK_CUR),
    ];
  },

  "lseek moves the offset, but not before the beginning": ({ at }) => {
    const fd = filled(at("f"), 100);
    const pipe = c.pipe();
    return [
      c.lseek(fd, 50, SEEK_SET),
      c.lseek(fd, -20, SEEK_CUR),
      c.lseek(fd, 10, SEEK_END),
      c.lseek(fd, -101, SEEK_END),
      c.lseek(fd, -1, SEEK_SET),
      c.lseek(fd, 0, 17),
      c.lseek(fd, 0, SEEK_CUR),
      c.lseek(pipe[0], 0, SEEK_SET),
    ];
  },

  "SEEK_END knows what another process has written": async ({ at }) => {
    const fd = filled(at("f"), 100);
    using other = new Actor();
    const theirs = await other.call("open", at("f"), O_WRONLY | O_APPEND);
    await other.call("write", theirs, "x".repeat(50));
    return [c.lseek(fd, 0, SEEK_END), size(fd), c.pread(fd, 100, 100)];
  },

  "a hole takes no blocks": ({ at }) => {
    const fd = c.open(at("f"), NEW);
    c.ftruncate(fd, 100 << 20);
    const blocks = (): number => c.must<c.Stat>(c.fstat(fd)).blocks;
    const before = blocks();
    c.pwrite(fd, "x".repeat(65_536), 50 << 20);
    c.fsync(fd);
    return [before, blocks(), c.pread(fd, 4096, 10 << 20)];
  },

  "copy_file_range within and between files": ({ at }) => {
    const from = filled(at("from"), 50_000);
    const to = c.open(at("to"), NEW);
    return [
      c.copyFileRange(from, 0, to, 0, 50_000),
      c.copyFileRange(from, 100, to, 60_000, 1234),
      c.copyFileRange(from, 49_000, to, 0, 5000),
      c.copyFileRange(from, 50_000, to, 0, 10),
      c.copyFileRange(from, 0, from, 100_000, 10_000),
      c.copyFileRange(from, 0, from, 5000, 10_000),
      c.copyFileRange(from, 0, to, 0, 0),
      c.pread(to, 100_000, 0),
      c.pread(from, 200_000, 0),
    ];
  },

  "copy_file_range refuses what can't be copied": ({ at }) => {
    const fd = filled(at("f"), 100);
    directory(at("d"));
    const target = file(at("to"));
    return [
      c.copyFileRange(fd, 0, c.open(target, O_RDONLY), 0, 10),
      c.copyFileRange(c.open(target, O_WRONLY), 0, fd, 0, 10),
      c.copyFileRange(fd, 0, c.open(target, O_WRONLY | O_APPEND), 0, 10),
      c.copyFileRange(c.open(at("d"), O_RDONLY), 0, fd, 0, 10),
      c.copyFileRange(fd, 0, c.pipe()[1], 0, 10),
    ];
  },

  "copy_file_range takes what was just written": ({ at }) => {
    const from = c.open(at("from"), NEW);
    const to = c.open(at("to"), NEW);
    c.pwrite(to, "z".repeat(10_000), 0);
    c.pread(to, 10_000, 0);
    c.pwrite(from, pattern(9000), 0);
    return [c.copyFileRange(from, 0, to, 500, 9000), c.pread(to, 10_000, 0)];
  },

  "sendfile and splice move data": ({ at }) => {
    const from = filled(at("from"), 50_000);
    const to = c.open(at("to"), NEW);
    c.lseek(from, 0, SEEK_SET);
    const [out, into] = c.pipe();
    const sent = c.sendfile(to, from, 40_000);
    const spliced = [c.splice(from, into, 5000), c.splice(out, to, 5000)];
    return [sent, spliced, c.pread(to, 50_000, 0), c.pread(from, 45_000, 0)];
  },

  "a shared mapping writes to the file": ({ at }) => {
    const fd = filled(at("f"), 20_000);
    return [
      c.mmapWrite(fd, 4096, "M".repeat(5000)),
      c.pread(fd, 20_000, 0),
      c.mmapWrite(fd, 0, "N".repeat(10), { sync: true }),
      c.pread(fd, 20, 0),
      c.mmapRead(fd, 4096, 4096),
      size(fd),
    ];
  },

  "a private mapping keeps its writes to itself": ({ at }) => {
    const fd = filled(at("f"), 4096);
    const before = c.pread(fd, 4096, 0);
    return [
      c.mmapWrite(fd, 0, "P".repeat(100), { isPrivate: true }),
      c.pread(fd, 4096, 0) === before,
      c.mmapWrite(c.open(at("f"), O_RDONLY), 0, "P", { isPrivate: true }),
    ];
  },

  "a mapping shows what was written before, and after a truncation": ({ at }) => {
    const fd = filled(at("f"), 8192);
    const results = [c.mmapRead(fd, 0, 8192)];
    c.pwrite(fd, "changed", 100);
    results.push(c.mmapRead(fd, 0, 200));
    c.ftruncate(fd, 150);
    c.ftruncate(fd, 8192);
    return [...results, c.mmapRead(fd, 0, 8192)];
  },

  "a mapping needs the file opened as it is used": ({ at }) => {
    filled(at("f"), 4096);
    directory(at("d"));
    return [
      c.mmapWrite(c.open(at("f"), O_RDONLY), 0, "x"),
      c.mmapWrite(c.open(at("f"), O_WRONLY), 0, "x"),
      c.mmapRead(c.open(at("f"), O_WRONLY), 0, 1),
      c.mmapRead(c.open(at("d"), O_RDONLY), 0, 1),
      c.mmapWrite(c.open(at("f"), O_WRONLY), 0, "x", { isPrivate: true }),
    ];
  },

  "another process sees what a mapping wrote": async ({ at }) => {
    const fd = filled(at("f"), 8192);
    using other = new Actor();
    const theirs = await other.call("open", at("f"), O_RDWR);
    const before = await other.call("mmapRead", theirs, 0, 8192);
    c.mmapWrite(fd, 0, "Q".repeat(8192));
    const after = await other.call("mmapRead", theirs, 0, 8192);
    await other.call("mmapWrite", theirs, 4096, "R".repeat(10));
    return [before, after, await other.call("pread", theirs, 4, 0), c.pread(fd, 12, 4094)];
  },

  "two processes see each other's writes at once": async ({ at }) => {
    const fd = filled(at("f"), 10);
    using other = new Actor();
    const theirs = await other.call("open", at("f"), O_RDWR);
    let wrong = 0;
    for (let round = 0; round < 100; round++) {
      const text = `round ${round}`.padEnd(4100);
      c.pwrite(fd, text, round);
      if ((await other.call("pread", theirs, 9, round)) !== text.slice(0, 9)) wrong++;
      await other.call("pwrite", theirs, "theirs", round);
      if (c.pread(fd, 6, round) !== "theirs") wrong++;
    }
    return [wrong, size(fd)];
  },

  "fsync, fdatasync and syncfs": ({ at }) => {
    const fd = filled(at("f"), 10_000);
    c.mknod(at("p"), abi.S_IFIFO | 0o644);
    const reader = c.open(at("f"), O_RDONLY);
    const fifo = c.open(at("p"), O_RDWR);
    return [
      [c.fsync(fd), c.fdatasync(fd), c.syncfs(fd)],
      [c.fsync(reader), c.fdatasync(reader), c.syncfs(reader)],
      [c.fsync(fifo), c.fdatasync(c.open(at("f"), abi.O_PATH))],
    ];
  },

  "a file-size limit ends a write with SIGXFSZ": ({ directory: dir }) => {
    const script = "ulimit -f 4; head -c 100000 /dev/zero > f; wc -c < f";
    const { status, stdout } = spawnSync("sh", ["-c", script], { cwd: dir, encoding: "latin1" });
    return [status, stdout.trim()];
  },

  "access past the end of a mapped file is SIGBUS": ({ at }) => {
    file(at("f"), "x".repeat(100));
    // The kernel's own answer is what counts, and Bun would catch the signal.
    const script =
      "import mmap,os,sys\nfd=os.open(sys.argv[1],os.O_RDWR)\nm=mmap.mmap(fd,100)\n" +
      "os.ftruncate(fd,0)\nprint(m[50])";
    const { status, signal } = spawnSync("/usr/bin/python3", ["-c", script, at("f")]);
    return [status, signal];
  },

  "poll says that a file is always ready": ({ at }) => {
    const fd = filled(at("f"), 10);
    directory(at("d"));
    return [c.poll(fd, POLLIN_OUT), c.poll(c.open(at("d"), O_RDONLY), abi.POLLIN)];
  },

  "writing changes the times, reading doesn't change mtime": ({ at }) => {
    const fd = filled(at("f"), 100);
    const past = (): number =>
      c.futimens(fd, [
        [1e9, 0],
        [1e9, 0],
      ]);
    const change = (work: () => unknown): unknown => {
      past();
      return changes(at("f"), work).mtime;
    };
    return [
      change(() => c.pwrite(fd, "x", 0)),
      change(() => c.pread(fd, 10, 0)),
      change(() => c.ftruncate(fd, 50)),
      change(() => c.ftruncate(fd, 50)),
      change(() => c.fallocate(fd, 0, 0, 1000)),
      change(() => c.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 10)),
      change(() => c.tryOpen(at("f"), O_WRONLY)),
      change(() => c.tryOpen(at("f"), O_WRONLY | O_TRUNC)),
      change(() => c.write(fd, "")),
      change(() => c.fsync(fd)),
    ];
  },

  "truncate by path to the size that a file has": ({ at }) => {
    file(at("f"), "0123456789");
    c.utimens(at("f"), [
      [1e9, 0],
      [1e9, 0],
    ]);
    return changes(at("f"), () => c.truncate(at("f"), 10)).mtime;
  },

  "writing takes the set-user-ID and set-group-ID bits, unless root does": ({ at }) => {
    const ways: [string, (fd: number, path: string) => unknown][] = [
      ["write", (fd) => c.write(fd, "x")],
      ["append", (_, path) => c.write(c.open(path, O_WRONLY | O_APPEND), "x")],
      ["ftruncate", (fd) => c.ftruncate(fd, 1)],
      ["truncate", (_, path) => c.truncate(path, 2)],
      ["O_TRUNC", (_, path) => c.tryOpen(path, O_WRONLY | O_TRUNC)],
      ["fallocate", (fd) => c.fallocate(fd, 0, 0, 100)],
      ["copy", (fd) => c.copyFileRange(fd, 0, fd, 10, 2)],
      ["read", (fd) => c.pread(fd, 1, 0)],
    ];
    const modes = [0o6777, 0o4777, 0o2777, 0o2767, 0o2666];
    return ways.map(([name, work]) => [
      name,
      ...[alice, { uid: 0, gid: 0 }].map((who) =>
        modes.map((bits, index) => {
          const path = file(at(`${name}${who.uid}${index}`), "data");
          c.chown(path, bob.uid, bob.gid);
          c.chmod(path, bits);
          c.as(who, () => work(c.open(path, O_RDWR), path));
          return mode(path);
        }),
      ),
    ]);
  },

  "members of its group leave set-group-ID on a file that the group can't run": ({ at }) => {
    const ways: ((path: string) => unknown)[] = [
      (path) => c.write(c.open(path, O_WRONLY), "x"),
      (path) => c.truncate(path, 2),
      (path) => c.tryOpen(path, O_WRONLY | O_TRUNC),
      (path) => c.fallocate(c.open(path, O_WRONLY), 0, 0, 100),
    ];
    return ways.map((work, index) =>
      [alice, { ...bob, groups: [alice.gid] }, bob].map((who) => {
        const path = file(at(`${index}-${who.uid}-${who.groups?.length}`), "data");
        c.chown(path, alice.uid, alice.gid);
        c.chmod(path, 0o6766);
        c.as(who, () => work(path));
        return mode(path);
      }),
    );
  },

  "file capabilities go when the file is written to": ({ at }) => {
    const capability = "\x01\0\0\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    const ways: ((path: string) => unknown)[] = [
      (path) => c.write(c.open(path, O_WRONLY), "x"),
      (path) => c.truncate(path, 1),
      (path) => c.chown(path, bob.uid, -1),
      (path) => c.read(c.open(path, O_RDONLY), 1),
    ];
    return ways.map((work, index) => {
      const path = file(at(`f${index}`), "data", 0o755);
      const set = c.setxattr(path, "security.capability", capability);
      work(path);
      return [set, c.getxattr(path, "security.capability") === capability];
    });
  },
};
