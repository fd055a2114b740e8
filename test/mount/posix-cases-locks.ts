// POSIX cases: locks of all three kinds, between processes and descriptors, on the mount and past
// it.

import { setTimeout as delay } from "node:timers/promises";
import * as abi from "../../src/abi-linux.ts";
import { Actor } from "./actor.ts";
import * as c from "./calls.ts";
import { file, type Case, type Cases, type Place } from "./posix-place.ts";

const {
  F_RDLCK,
  F_WRLCK,
  F_UNLCK,
  LOCK_SH,
  LOCK_EX,
  LOCK_NB,
  LOCK_UN,
  O_RDONLY,
  O_WRONLY,
  O_RDWR,
} = abi;
const { F_SETLK, F_SETLKW, F_GETLK } = c;
const { F_OFD_SETLK, F_OFD_SETLKW, F_OFD_GETLK } = abi;

const whole = (type: number): c.LockRange => ({ type, start: 0, length: 0 });
const range = (type: number, start: number, length: number): c.LockRange => ({
  type,
  start,
  length,
});

interface Pair extends Place {
  /** Another process, and its descriptor of the same file. */
  readonly other: Actor;
  readonly theirs: number;
  /** This process's descriptor. */
  readonly fd: number;
}

/** A case with the file "f" open in this process and in another. */
function pair(work: (pair: Pair) => unknown, flags = O_RDWR, past = false): Case {
  return async (place) => {
    const path = file(place.at("f"), "0123456789");
    using other = new Actor("the other process");
    const theirs = await other.call("open", past ? place.behind("f") : path, flags);
    const fd = c.open(path, O_RDWR);
    return await work({ ...place, other, theirs, fd });
  };
}

/** What a question for a lock answers, with "other" for the other process's id. */
function found(lock: c.LockFound | number, other: Actor): unknown {
  if (typeof lock === "number") return lock;
  const who = { [other.pid]: "other", [process.pid]: "this", [-1]: "an open file" }[lock.pid];
  return lock.type === F_UNLCK
    ? "free"
    : [lock.type, lock.start, lock.length, who ?? `process ${lock.pid}`];
}

export const lockCases: Cases = {
  "write locks exclude each other, read locks don't": pair(async ({ other, theirs, fd }) => {
    const results: unknown[] = [];
    for (const mine of [F_RDLCK, F_WRLCK])
      for (const their of [F_RDLCK, F_WRLCK]) {
        results.push(c.setLock(fd, F_SETLK, whole(mine)));
        results.push(await other.call("setLock", theirs, F_SETLK, whole(their)));
        c.setLock(fd, F_SETLK, whole(F_UNLCK));
        await other.call("setLock", theirs, F_SETLK, whole(F_UNLCK));
      }
    return results;
  }),

  "locks of ranges meet where they overlap": pair(async ({ other, theirs, fd }) => {
    c.setLock(fd, F_SETLK, range(F_WRLCK, 100, 50));
    const tries = [
      [0, 100],
      [0, 101],
      [149, 1],
      [150, 10],
      [150, 0],
      [120, 0],
      [1e12, 5],
    ];
    const results: unknown[] = [];
    for (const [start = 0, length = 0] of tries)
      results.push(await other.call("setLock", theirs, F_SETLK, range(F_RDLCK, start, length)));
    return results;
  }),

  "a range in the middle is unlocked and changed": pair(async ({ other, theirs, fd }) => {
    c.setLock(fd, F_SETLK, range(F_WRLCK, 0, 100));
    c.setLock(fd, F_SETLK, range(F_UNLCK, 40, 20));
    c.setLock(fd, F_SETLK, range(F_RDLCK, 80, 10));
    const results: unknown[] = [];
    for (const start of [0, 39, 40, 59, 60, 79, 80, 89, 90, 100])
      results.push(
        found(await other.call("getLock", theirs, F_GETLK, range(F_WRLCK, start, 1)), other),
        await other.call("setLock", theirs, F_SETLK, range(F_RDLCK, start, 1)),
        await other.call("setLock", theirs, F_SETLK, range(F_UNLCK, start, 1)),
      );
    return results;
  }),

  "F_GETLK names the lock in the way and its owner": pair(async ({ other, theirs, fd }) => {
    const ask = async (type: number): Promise<unknown> =>
      found(await other.call("getLock", theirs, F_GETLK, range(type, 5, 100)), other);
    const free = await ask(F_WRLCK);
    c.setLock(fd, F_SETLK, range(F_RDLCK, 10, 20));
    const read = [await ask(F_RDLCK), await ask(F_WRLCK)];
    c.setLock(fd, F_SETLK, range(F_WRLCK, 50, 0));
    return [free, read, await ask(F_RDLCK), found(c.getLock(fd, F_GETLK, whole(F_WRLCK)), other)];
  }),

  "a blocking lock waits until the other unlocks": pair(async ({ other, theirs, fd }) => {
    c.setLock(fd, F_SETLK, whole(F_WRLCK));
    const waiting = other.call("setLock", theirs, F_SETLKW, whole(F_WRLCK));
    await other.blocked();
    c.setLock(fd, F_SETLK, whole(F_UNLCK));
    return [await waiting, c.setLock(fd, F_SETLK, whole(F_RDLCK))];
  }),

  "a blocking lock waits until the other closes the file": pair(async ({ other, theirs, fd }) => {
    c.setLock(fd, F_SETLK, whole(F_WRLCK));
    const waiting = other.call("setLock", theirs, F_SETLKW, whole(F_RDLCK));
    await other.blocked();
    c.close(fd);
    return await waiting;
  }),

  "a signal interrupts the wait for a lock": pair(async ({ other, theirs, fd }) => {
    const results: unknown[] = [];
    for (const command of [F_SETLKW, F_OFD_SETLKW, F_SETLKW, F_OFD_SETLKW, F_SETLKW]) {
      c.setLock(fd, F_SETLK, whole(F_WRLCK));
      const waiting = other.call("setLock", theirs, command, whole(F_WRLCK));
      await other.blocked();
      other.interrupt();
      results.push(await waiting);
      c.setLock(fd, F_SETLK, whole(F_UNLCK));
      results.push(c.setLock(fd, F_SETLK, whole(F_WRLCK)));
    }
    return results;
  }),

  "a process killed while it waits leaves nothing behind": pair(
    async ({ at, other, theirs, fd }) => {
      c.setLock(fd, F_SETLK, whole(F_WRLCK));
      const waiting = other.call("setLock", theirs, F_SETLKW, whole(F_WRLCK)).catch(() => "killed");
      await other.blocked();
      other.kill();
      const end = await waiting;
      c.setLock(fd, F_SETLK, whole(F_UNLCK));
      using third = new Actor("a third process");
      const opened = await third.call("open", at("f"), O_RDWR);
      return [end, await third.call("setLock", opened, F_SETLKW, whole(F_WRLCK))];
    },
  ),

  "a process killed while it holds a lock loses it": pair(async ({ other, theirs, fd }) => {
    await other.call("setLock", theirs, F_SETLK, whole(F_WRLCK));
    const held = c.setLock(fd, F_SETLK, whole(F_RDLCK));
    other.kill();
    return [held, c.setLock(fd, F_SETLKW, whole(F_WRLCK))];
  }),

  "requests go on while others wait for locks": pair(async ({ at, other, theirs, fd }) => {
    c.setLock(fd, F_SETLK, whole(F_WRLCK));
    const crowd = Array.from({ length: 8 }, (_, index) => new Actor(`waiter ${index}`));
    // Who comes to hold the lock gives it up, so that all do, in whatever order.
    const wait = async (actor: Actor, opened: number, type: number): Promise<unknown[]> => [
      await actor.call("setLock", opened, F_SETLKW, whole(type)),
      await actor.call("setLock", opened, F_SETLK, whole(F_UNLCK)),
    ];
    try {
      const waiting = [wait(other, theirs, F_WRLCK)];
      await other.blocked();
      for (const waiter of crowd) {
        const opened = await waiter.call("open", at("f"), O_RDWR);
        waiting.push(wait(waiter, opened, F_RDLCK));
        await waiter.blocked();
      }
      file(at("g"), "goes on");
      const went = c.list(at("."));
      c.setLock(fd, F_SETLK, whole(F_UNLCK));
      return [went, await Promise.all(waiting)];
    } finally {
      for (const waiter of crowd) waiter.kill();
    }
  }),

  "closing any descriptor of the file gives up POSIX locks": pair(
    async ({ at, other, theirs, fd }) => {
      const second = c.open(at("f"), O_RDONLY);
      c.setLock(fd, F_SETLK, whole(F_WRLCK));
      const held = await other.call("setLock", theirs, F_SETLK, whole(F_WRLCK));
      c.close(second);
      return [held, await other.call("setLock", theirs, F_SETLK, whole(F_WRLCK))];
    },
  ),

  "closing a duplicate leaves OFD locks, closing the last gives them up": pair(
    async ({ at, other, theirs, fd }) => {
      const duplicate = c.dup(fd);
      const independent = c.open(at("f"), O_RDWR);
      const attempt = (): Promise<number> =>
        other.call("setLock", theirs, F_OFD_SETLK, whole(F_WRLCK));
      const results = [c.setLock(fd, F_OFD_SETLK, whole(F_WRLCK))];
      results.push(c.setLock(independent, F_OFD_SETLK, whole(F_RDLCK)), await attempt());
      c.close(independent);
      results.push(await attempt());
      c.close(duplicate);
      results.push(await attempt());
      c.close(fd);
      return [...results, await attempt()];
    },
  ),

  "OFD locks stand against POSIX locks of the same process": pair(({ at, other, fd }) => {
    const second = c.open(at("f"), O_RDWR);
    return [
      c.setLock(fd, F_OFD_SETLK, range(F_WRLCK, 10, 10)),
      c.setLock(second, F_SETLK, whole(F_RDLCK)),
      found(c.getLock(second, F_OFD_GETLK, whole(F_WRLCK)), other),
      c.setLock(fd, F_OFD_SETLK, whole(F_UNLCK)),
      c.setLock(second, F_SETLK, whole(F_RDLCK)),
    ];
  }),

  "F_GETLK names no owner of an OFD lock": pair(({ at, other, fd }) => {
    const second = c.open(at("f"), O_RDWR);
    const locked = c.setLock(fd, F_OFD_SETLK, range(F_WRLCK, 10, 10));
    return [locked, found(c.getLock(second, F_GETLK, whole(F_WRLCK)), other)];
  }),

  "a blocking OFD lock waits": pair(async ({ other, theirs, fd }) => {
    c.setLock(fd, F_OFD_SETLK, whole(F_WRLCK));
    const waiting = other.call("setLock", theirs, F_OFD_SETLKW, whole(F_WRLCK));
    await other.blocked();
    c.close(fd);
    return await waiting;
  }),

  "locks need the file opened as they are": ({ at }) => {
    file(at("f"));
    const reader = c.open(at("f"), O_RDONLY);
    const writer = c.open(at("f"), O_WRONLY);
    return [
      c.setLock(reader, F_SETLK, whole(F_WRLCK)),
      c.setLock(reader, F_SETLK, whole(F_RDLCK)),
      c.setLock(writer, F_SETLK, whole(F_RDLCK)),
      c.setLock(writer, F_OFD_SETLK, whole(F_WRLCK)),
      c.setLock(writer, F_SETLK, { type: 7, start: 0, length: 0 }),
      c.setLock(writer, F_SETLK, range(F_WRLCK, -5, 2)),
      c.setLock(c.open(at("f"), abi.O_PATH), F_SETLK, whole(F_RDLCK)),
    ];
  },

  "a deadlock of POSIX locks is refused": pair(async ({ other, theirs, fd }) => {
    c.setLock(fd, F_SETLK, range(F_WRLCK, 0, 1));
    await other.call("setLock", theirs, F_SETLK, range(F_WRLCK, 1, 1));
    const waiting = other.call("setLock", theirs, F_SETLKW, range(F_WRLCK, 0, 1));
    await other.blocked();
    const refused = c.setLock(fd, F_SETLK, range(F_WRLCK, 1, 1));
    c.setLock(fd, F_SETLK, whole(F_UNLCK));
    return [refused, await waiting];
  }),

  "flock: shared and exclusive": pair(async ({ other, theirs, fd }) => {
    const results: unknown[] = [];
    for (const mine of [LOCK_SH, LOCK_EX])
      for (const their of [LOCK_SH, LOCK_EX]) {
        results.push(c.flock(fd, mine | LOCK_NB));
        results.push(await other.call("flock", theirs, their | LOCK_NB));
        c.flock(fd, LOCK_UN);
        await other.call("flock", theirs, LOCK_UN);
      }
    return results;
  }),

  "flock belongs to the open file: duplicates share it, opens don't": pair(({ at, fd }) => {
    const duplicate = c.dup(fd);
    const second = c.open(at("f"), O_RDONLY);
    const results = [c.flock(fd, LOCK_EX | LOCK_NB), c.flock(duplicate, LOCK_EX | LOCK_NB)];
    results.push(c.flock(second, LOCK_SH | LOCK_NB));
    c.close(fd);
    results.push(c.flock(second, LOCK_SH | LOCK_NB));
    c.flock(duplicate, LOCK_UN);
    return [
      ...results,
      c.flock(second, LOCK_EX | LOCK_NB),
      c.flock(second, 0),
      c.flock(second, 77),
    ];
  }),

  "flock changes from exclusive to shared": pair(async ({ other, theirs, fd }) => [
    c.flock(fd, LOCK_EX),
    await other.call("flock", theirs, LOCK_SH | LOCK_NB),
    c.flock(fd, LOCK_SH),
    await other.call("flock", theirs, LOCK_SH | LOCK_NB),
    c.flock(fd, LOCK_EX | LOCK_NB),
  ]),

  "a blocking flock waits until the other unlocks or closes": pair(
    async ({ at, other, theirs, fd }) => {
      c.flock(fd, LOCK_EX);
      const waiting = other.call("flock", theirs, LOCK_EX);
      await other.blocked();
      c.close(fd);
      const first = await waiting;
      const again = c.open(at("f"), O_RDWR);
      const refused = c.flock(again, LOCK_SH | LOCK_NB);
      await other.call("flock", theirs, LOCK_UN);
      return [first, refused, c.flock(again, LOCK_SH)];
    },
  ),

  "a signal interrupts a blocking flock": pair(async ({ other, theirs, fd }) => {
    c.flock(fd, LOCK_EX);
    const waiting = other.call("flock", theirs, LOCK_SH);
    await other.blocked();
    other.interrupt();
    return [await waiting, c.flock(fd, LOCK_UN), c.flock(fd, LOCK_EX | LOCK_NB)];
  }),

  "flock of directories": ({ at, directory: dir }) => {
    const [first, second] = [c.open(dir, O_RDONLY), c.open(at("."), O_RDONLY)];
    return [c.flock(first, LOCK_EX | LOCK_NB), c.flock(second, LOCK_EX | LOCK_NB)];
  },

  "flock and POSIX locks don't meet": pair(async ({ other, theirs, fd }) => [
    c.flock(fd, LOCK_EX),
    await other.call("setLock", theirs, F_SETLK, whole(F_WRLCK)),
  ]),

  "locks go on after the file is unlinked": pair(async ({ at, other, theirs, fd }) => {
    c.unlink(at("f"));
    return [
      c.setLock(fd, F_SETLK, whole(F_WRLCK)),
      await other.call("setLock", theirs, F_SETLK, whole(F_WRLCK)),
    ];
  }),

  "POSIX locks hold against a program that uses the source": pair(
    async ({ other, theirs, fd }) => {
      const results: unknown[] = [c.setLock(fd, F_SETLK, range(F_WRLCK, 3, 4))];
      results.push(await other.call("setLock", theirs, F_SETLK, whole(F_RDLCK)));
      results.push(await other.call("setLock", theirs, F_SETLK, range(F_WRLCK, 100, 4)));
      results.push(c.setLock(fd, F_SETLK, range(F_RDLCK, 100, 1)));
      c.setLock(fd, F_SETLK, whole(F_UNLCK));
      return [...results, await other.call("setLock", theirs, F_SETLK, whole(F_WRLCK))];
    },
    O_RDWR,
    true,
  ),

  "flock holds against a program that uses the source": pair(
    async ({ other, theirs, fd }) => {
      const results: unknown[] = [c.flock(fd, LOCK_EX)];
      results.push(await other.call("flock", theirs, LOCK_SH | LOCK_NB));
      c.flock(fd, LOCK_UN);
      results.push(await other.call("flock", theirs, LOCK_EX | LOCK_NB));
      return [...results, c.flock(fd, LOCK_SH | LOCK_NB)];
    },
    O_RDWR,
    true,
  ),

  "a blocking lock waits for a program that uses the source": pair(
    async ({ at, behind, other: holder, theirs }) => {
      await holder.call("setLock", theirs, F_SETLK, whole(F_WRLCK));
      using waiter = new Actor("the waiter");
      const opened = await waiter.call("open", at("f"), O_RDWR);
      const waiting = waiter.call("setLock", opened, F_SETLKW, whole(F_WRLCK));
      await waiter.blocked();
      await holder.call("setLock", theirs, F_SETLK, whole(F_UNLCK));
      const got = await waiting;
      using third = new Actor("a third process");
      const past = await third.call("open", behind("f"), O_RDWR);
      return [got, await third.call("setLock", past, F_SETLK, whole(F_WRLCK))];
    },
    O_RDWR,
    true,
  ),

  "a hundred locks in turn by three processes": async ({ at }) => {
    file(at("counter"), "0".padEnd(8));
    const workers = Array.from({ length: 3 }, (_, index) => new Actor(`worker ${index}`));
    try {
      await Promise.all(
        workers.map(async (worker) => {
          const fd = await worker.call("open", at("counter"), O_RDWR);
          for (let round = 0; round < 34; round++) {
            c.must(await worker.call("setLock", fd, F_SETLKW, whole(F_WRLCK)));
            const count = Number(await worker.call("pread", fd, 8, 0));
            await delay(0); // Another's turn, if the lock did not hold.
            await worker.call("pwrite", fd, String(count + 1).padEnd(8), 0);
            c.must(await worker.call("setLock", fd, F_SETLK, whole(F_UNLCK)));
          }
        }),
      );
      return c.pread(c.open(at("counter"), O_RDONLY), 8, 0);
    } finally {
      for (const worker of workers) worker.kill();
    }
  },
};
