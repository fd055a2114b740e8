// Locks without a mount: two processes, of which each is a lock owner, and a program that uses the
// source itself. Answers to those who waited go into a pipe in the place of the device.

import { describe, expect, test } from "bun:test";
import { fuse_out_header } from "../src/abi-fuse.ts";
import {
  AT_FDCWD,
  F_OFD_GETLK,
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDWR,
  flock as flock_struct,
} from "../src/abi-linux.ts";
import { EAGAIN, EDEADLK, EINTR } from "../src/errno.ts";
import { Context, FileLock, LockOwner, OFFSET_MAX } from "../src/filesystem.ts";
import { cstring, smallMemory } from "../src/memory.ts";
import { LockTable, LockWaiters } from "../src/passthrough-locks.ts";
import { writeU64 } from "../src/request.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import { close, fcntl, getpid, openat, pipe2, read } from "../src/syscall.ts";
import { Fixture } from "./support-inodes.ts";

const F_SETLK = 6;
const FH = 50;

interface Answer {
  readonly unique: number;
  readonly error: number;
}

class Locks implements Disposable {
  readonly fixture = new Fixture(64);
  readonly table: LockTable;
  /** How often the main thread was told to look. */
  changes = 0;
  readonly #pipe = smallMemory(8);
  readonly #answers = smallMemory(1024);
  readonly #range = smallMemory(flock_struct.sizeof);

  constructor() {
    const layout = new SharedLayout();
    const areas = LockTable.areas(layout);
    const changed = (): void => void this.changes++;
    this.table = new LockTable(createShared(layout), areas, this.fixture.inodes, changed);
    pipe2(this.#pipe.address, O_NONBLOCK | O_CLOEXEC);
  }

  /** The nodeid of a new file. */
  file(name = "f"): number {
    this.fixture.make(name);
    return this.fixture.lookup(name);
  }

  open(name = "f"): number {
    const path = cstring(this.fixture.at(name));
    return openat(AT_FDCWD, path.address, O_RDWR | O_CLOEXEC, 0);
  }

  /** The pinned record of process `process` and file `nodeid`. */
  owner(process: number, nodeid: number, name = "f"): number {
    const owner = lockOwner(process);
    const found = this.table.find(nodeid, owner);
    return found === 0 ? this.table.add(nodeid, owner, this.open(name)) : found;
  }

  /** A process sets a lock on bytes `start` to `end`: 0 or -errno. */
  set(process: number, nodeid: number, type: number, [start, end] = ALL, fh = FH): number {
    const index = this.owner(process, nodeid);
    const result = this.table.set(index, fh, lock(type, start, end, process));
    this.table.unpin(index);
    return result;
  }

  /** The same as a request `unique` that waits. */
  wait(unique: number, process: number, nodeid: number, type: number, [start, end] = ALL): number {
    const index = this.owner(process, nodeid);
    const wanted = lock(type, start, end, process);
    expect(this.table.set(index, FH, wanted)).toBe(-EAGAIN);
    const result = this.table.wait(this.context(unique), index, -1, wanted);
    this.table.unpin(index);
    return result;
  }

  /** What stands in the way: [type, start, end, process], or "nothing". */
  test(process: number, nodeid: number, type: number, [start, end] = ALL): unknown {
    const index = this.owner(process, nodeid);
    const found = lock(type, start, end, process);
    expect(this.table.test(nodeid, index, found)).toBe(0);
    this.table.unpin(index);
    return found.type === F_UNLCK ? "nothing" : [found.type, found.start, found.end, found.pid];
  }

  /** A lock by a program that uses the file itself; it is of this process. */
  lockOnSource(fd: number, type: number): number {
    const { view, address } = this.#range;
    this.#range.bytes.fill(0);
    view.setUint16(flock_struct.l_type, type, true);
    writeU64(view, flock_struct.l_len, 0);
    return fcntl(fd, F_SETLK, address);
  }

  context(unique: number): Context {
    const context = new Context();
    context.uniqueLow = unique;
    context.uniqueHigh = -1;
    context.device = this.#pipe.i32[1]!;
    return context;
  }

  /** Tries for all who wait, and gives the answers that came since the last look. */
  retry(): Answer[] {
    this.table.retry();
    return this.answers();
  }

  answers(): Answer[] {
    const { view, address, size } = this.#answers;
    const length = read(this.#pipe.i32[0]!, address, size);
    const found: Answer[] = [];
    for (let at = 0; at < length; at += fuse_out_header.sizeof) {
      expect(view.getUint32(at + fuse_out_header.len, true)).toBe(fuse_out_header.sizeof);
      expect(view.getInt32(at + fuse_out_header.unique + 4, true)).toBe(-1);
      const unique = view.getUint32(at + fuse_out_header.unique, true);
      found.push({ unique, error: view.getInt32(at + fuse_out_header.error, true) });
    }
    return found;
  }

  /** How many descriptors of files there are, beside those of the inodes. */
  get descriptors(): number {
    return this.fixture.cached.size - (this.fixture.inodes.count - 1);
  }

  [Symbol.dispose](): void {
    for (const fd of [this.#pipe.i32[0]!, this.#pipe.i32[1]!]) close(fd);
    this.fixture[Symbol.dispose]();
  }
}

const ALL: readonly [number, number] = [0, OFFSET_MAX];

function lockOwner(process: number): LockOwner {
  const owner = new LockOwner();
  // As the kernel's: any bits may be set.
  owner.low = 0xffff0000 + process;
  owner.high = 0x80000000;
  return owner;
}

function lock(type: number, start: number, end: number, pid: number): FileLock {
  const made = new FileLock();
  Object.assign(made, { type, start, end, pid });
  return made;
}

const [ONE, TWO, THREE] = [1001, 1002, 1003];

/** Before Linux 6.5, who has which of several locks that are alike is not to be found out. */
const testOfAlike = test.skipIf(
  ((): boolean => {
    using locks = new Locks();
    locks.file();
    const fd = locks.open();
    const question = smallMemory(flock_struct.sizeof);
    question.view.setUint16(flock_struct.l_type, F_UNLCK, true);
    const result = fcntl(fd, F_OFD_GETLK, question.address);
    close(fd);
    return result < 0;
  })(),
);

describe("a process", () => {
  test("shares a file with readers, and has it alone as a writer", () => {
    using locks = new Locks();
    const f = locks.file();
    expect(locks.set(ONE, f, F_RDLCK)).toBe(0);
    expect(locks.set(TWO, f, F_RDLCK)).toBe(0);
    expect(locks.set(TWO, f, F_WRLCK)).toBe(-EAGAIN);
    expect(locks.set(ONE, f, F_UNLCK)).toBe(0);
    expect(locks.set(TWO, f, F_WRLCK)).toBe(0);
    expect(locks.set(ONE, f, F_RDLCK)).toBe(-EAGAIN);
  });

  test("locks ranges, which it can change and give up in parts", () => {
    using locks = new Locks();
    const f = locks.file();
    const far = 2 ** 40;
    expect(locks.set(ONE, f, F_WRLCK, [10, 19])).toBe(0);
    expect(locks.set(TWO, f, F_WRLCK, [0, 9])).toBe(0);
    expect(locks.set(TWO, f, F_WRLCK, [20, far])).toBe(0);
    expect(locks.set(TWO, f, F_WRLCK, [19, 19])).toBe(-EAGAIN);
    expect(locks.set(ONE, f, F_UNLCK, [15, OFFSET_MAX])).toBe(0);
    expect(locks.set(TWO, f, F_WRLCK, [15, 19])).toBe(0);
    expect(locks.test(THREE, f, F_WRLCK, [12, 30])).toEqual([F_WRLCK, 10, 14, ONE]);
    expect(locks.test(ONE, f, F_WRLCK, [15, far])).toEqual([F_WRLCK, 15, far, TWO]);
    expect(locks.test(ONE, f, F_WRLCK, [far + 1, OFFSET_MAX])).toBe("nothing");
  });

  test("is told who stands in its way, and what", () => {
    using locks = new Locks();
    const f = locks.file();
    expect(locks.test(ONE, f, F_WRLCK)).toBe("nothing");
    locks.set(ONE, f, F_RDLCK, [5, OFFSET_MAX]);
    expect(locks.test(ONE, f, F_WRLCK)).toBe("nothing");
    expect(locks.test(TWO, f, F_RDLCK)).toBe("nothing");
    expect(locks.test(TWO, f, F_WRLCK)).toEqual([F_RDLCK, 5, OFFSET_MAX, ONE]);
  });

  testOfAlike("is told one of several with the same lock", () => {
    using locks = new Locks();
    const f = locks.file();
    locks.set(ONE, f, F_RDLCK);
    locks.set(TWO, f, F_RDLCK);
    const [type, start, end, pid] = locks.test(THREE, f, F_WRLCK) as number[];
    expect([type, start, end]).toEqual([F_RDLCK, 0, OFFSET_MAX]);
    expect([ONE, TWO]).toContain(pid!);
  });

  test("does not get what a program holds on the source, and is told its process", () => {
    using locks = new Locks();
    const f = locks.file();
    const fd = locks.open();
    expect(locks.lockOnSource(fd, F_WRLCK)).toBe(0);
    expect(locks.set(ONE, f, F_RDLCK)).toBe(-EAGAIN);
    expect(locks.test(ONE, f, F_RDLCK)).toEqual([F_WRLCK, 0, OFFSET_MAX, getpid()]);
    expect(locks.lockOnSource(fd, F_UNLCK)).toBe(0);
    expect(locks.set(ONE, f, F_RDLCK)).toBe(0);
    expect(locks.lockOnSource(fd, F_WRLCK)).toBe(-EAGAIN);
    close(fd);
  });

  test("loses its locks, and nobody else theirs, when it closes the file", () => {
    using locks = new Locks();
    const [f, g] = [locks.file("f"), locks.file("g")];
    locks.set(ONE, f, F_WRLCK, [0, 9]);
    locks.set(TWO, f, F_WRLCK, [10, 19]);
    const other = locks.owner(ONE, g, "g");
    locks.table.set(other, FH, lock(F_WRLCK, 0, 9, ONE));
    locks.table.unpin(other);
    expect(locks.descriptors).toBe(3);
    locks.table.drop(f, lockOwner(ONE));
    expect(locks.descriptors).toBe(2);
    expect(locks.table.find(f, lockOwner(ONE))).toBe(0);
    expect(locks.test(THREE, f, F_WRLCK, [0, 99])).toEqual([F_WRLCK, 10, 19, TWO]);
    expect(locks.fixture.inodes.lockOwners(f)).toBe(2); // TWO, and THREE who asked
    expect(locks.fixture.inodes.lockOwners(g)).toBe(1);
    locks.table.drop(f, lockOwner(ONE)); // again, with nothing to drop
    expect(locks.fixture.inodes.lockOwners(f)).toBe(2);
  });

  test("keeps its descriptor while a request uses it, though it has closed the file", () => {
    using locks = new Locks();
    const f = locks.file();
    const index = locks.owner(ONE, f);
    locks.table.drop(f, lockOwner(ONE));
    expect(locks.descriptors).toBe(1);
    locks.table.unpin(index);
    expect(locks.descriptors).toBe(0);
  });

  test("of two workers that make its record at the same time, one closes its descriptor", () => {
    using locks = new Locks();
    const f = locks.file();
    const first = locks.table.add(f, lockOwner(ONE), locks.open());
    expect(locks.table.add(f, lockOwner(ONE), locks.open())).toBe(first);
    expect(locks.descriptors).toBe(1);
    expect(locks.fixture.inodes.lockOwners(f)).toBe(1);
  });

  test("that is an open file loses the locks that it took through its handle", () => {
    using locks = new Locks();
    const f = locks.file();
    locks.set(ONE, f, F_WRLCK, [0, 9], 51);
    locks.set(TWO, f, F_WRLCK, [10, 19], 52);
    locks.table.dropHandle(f, 51);
    expect(locks.test(THREE, f, F_WRLCK, [0, 99])).toEqual([F_WRLCK, 10, 19, TWO]);
    locks.table.dropHandle(f, 51);
    expect(locks.descriptors).toBe(2);
  });
});

describe("who waits", () => {
  test("gets the lock when it is free, in the order of coming", () => {
    using locks = new Locks();
    const f = locks.file();
    locks.set(ONE, f, F_WRLCK);
    expect(locks.wait(7, TWO, f, F_WRLCK)).toBe(0);
    expect(locks.wait(8, THREE, f, F_WRLCK)).toBe(0);
    expect(locks.table.waiting).toBe(2);
    expect(locks.retry()).toEqual([]);

    locks.set(ONE, f, F_UNLCK);
    expect(locks.answers()).toEqual([{ unique: 7, error: 0 }]); // at once
    expect(locks.test(ONE, f, F_RDLCK)).toEqual([F_WRLCK, 0, OFFSET_MAX, TWO]);
    expect(locks.retry()).toEqual([]);
    locks.table.drop(f, lockOwner(TWO));
    expect(locks.retry()).toEqual([{ unique: 8, error: 0 }]);
    expect(locks.table.waiting).toBe(0);
  });

  test("gets a shared lock when the writer becomes a reader", () => {
    using locks = new Locks();
    const f = locks.file();
    locks.set(ONE, f, F_WRLCK);
    expect(locks.wait(7, TWO, f, F_RDLCK)).toBe(0);
    locks.set(ONE, f, F_RDLCK);
    expect(locks.answers()).toEqual([{ unique: 7, error: 0 }]);
  });

  test("is answered once when it is interrupted, and gets nothing", () => {
    using locks = new Locks();
    const f = locks.file();
    locks.set(ONE, f, F_WRLCK);
    locks.wait(7, TWO, f, F_WRLCK);
    locks.table.interrupt(7, 0); // another request: the upper half differs
    expect(locks.retry()).toEqual([]);
    locks.table.interrupt(7, -1);
    expect(locks.retry()).toEqual([{ unique: 7, error: -EINTR }]);
    locks.set(ONE, f, F_UNLCK);
    expect(locks.retry()).toEqual([]);
    expect(locks.test(ONE, f, F_WRLCK)).toBe("nothing");
  });

  test("is interrupted also if the interrupt comes before it waits", () => {
    using locks = new Locks();
    const f = locks.file();
    locks.set(ONE, f, F_WRLCK);
    locks.table.interrupt(7, 0);
    locks.table.interrupt(8, -1);
    expect(locks.wait(7, TWO, f, F_WRLCK)).toBe(0);
    expect(locks.wait(8, THREE, f, F_WRLCK)).toBe(0);
    expect(locks.retry()).toEqual([{ unique: 8, error: -EINTR }]);
    expect(locks.table.waiting).toBe(1);
  });

  test("is refused where processes would wait for each other", () => {
    using locks = new Locks();
    const f = locks.file();
    locks.set(ONE, f, F_WRLCK, [1, 1]);
    locks.set(TWO, f, F_WRLCK, [2, 2]);
    locks.set(THREE, f, F_WRLCK, [3, 3]);
    expect(locks.wait(7, ONE, f, F_WRLCK, [2, 2])).toBe(0);
    expect(locks.wait(8, TWO, f, F_WRLCK, [3, 3])).toBe(0);
    expect(locks.wait(9, THREE, f, F_WRLCK, [1, 1])).toBe(-EDEADLK);
    expect(locks.table.waiting).toBe(2);
    expect(locks.set(THREE, f, F_UNLCK)).toBe(0);
    expect(locks.retry()).toEqual([{ unique: 8, error: 0 }]);
  });

  testOfAlike("is refused where two readers both want to become the writer", () => {
    using locks = new Locks();
    const f = locks.file();
    locks.set(ONE, f, F_RDLCK);
    locks.set(TWO, f, F_RDLCK);
    expect(locks.wait(7, ONE, f, F_WRLCK)).toBe(0);
    expect(locks.wait(8, TWO, f, F_WRLCK)).toBe(-EDEADLK);
  });

  testOfAlike("is told so also when the circle is closed while it waits", () => {
    using locks = new Locks();
    const f = locks.file();
    locks.set(ONE, f, F_RDLCK, [1, 1]);
    locks.set(TWO, f, F_RDLCK, [1, 1]);
    locks.set(THREE, f, F_WRLCK, [3, 3]);
    // It waits for the two readers, of which one after the other is the first in its way.
    expect(locks.wait(7, THREE, f, F_WRLCK, [1, 1])).toBe(0);
    const waits = [ONE, TWO].map((process) => locks.wait(process, process, f, F_WRLCK, [3, 3]));
    expect(waits.filter((result) => result === -EDEADLK)).toHaveLength(1);
    const free = waits[0] === 0 ? TWO : ONE;
    const waiting = waits[0] === 0 ? ONE : TWO;
    expect(locks.retry()).toEqual([]);
    expect(locks.set(free, f, F_UNLCK)).toBe(0);
    const answers = locks.retry();
    expect(answers).toHaveLength(1);
    expect(answers[0]!.error).toBe(-EDEADLK);
    expect([7, waiting]).toContain(answers[0]!.unique);
  });

  test("for a BSD lock gets it when the other one is gone", () => {
    using locks = new Locks();
    locks.file();
    const [one, two] = [locks.open(), locks.open()];
    expect(locks.table.setFlock(one, F_WRLCK)).toBe(0);
    expect(locks.table.setFlock(two, F_RDLCK)).toBe(-EAGAIN);
    expect(locks.table.wait(locks.context(7), 0, two, lock(F_RDLCK, ...ALL, TWO))).toBe(0);
    expect(locks.retry()).toEqual([]);
    expect(locks.table.setFlock(one, F_UNLCK)).toBe(0);
    expect(locks.retry()).toEqual([{ unique: 7, error: 0 }]);
    expect(locks.table.setFlock(one, F_RDLCK)).toBe(0);
    expect(locks.table.setFlock(one, F_WRLCK)).toBe(-EAGAIN);
    for (const fd of [one, two]) close(fd);
  });

  test("for what a program holds on the source gets it without anybody telling", async () => {
    using locks = new Locks();
    const f = locks.file();
    const fd = locks.open();
    locks.lockOnSource(fd, F_WRLCK);
    locks.wait(7, ONE, f, F_WRLCK);
    const waiters = new LockWaiters(locks.table);
    waiters.changed();
    expect(locks.answers()).toEqual([]);
    locks.lockOnSource(fd, F_UNLCK);
    while (locks.table.waiting > 0) await new Promise(setImmediate);
    expect(locks.answers()).toEqual([{ unique: 7, error: 0 }]);
    waiters.stop();
    close(fd);
  });
});
