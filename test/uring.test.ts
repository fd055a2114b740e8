// The ring, by operations that need no FUSE, and the plan of who serves what.

import { describe, expect, test } from "bun:test";
import { FUSE_OVER_IO_URING } from "../src/abi-fuse.ts";
import { IORING_OP_NOP, IORING_OP_READ, io_uring_sqe } from "../src/abi-uring.ts";
import { cpuList, planCrews } from "../src/daemon-crews.ts";
import { EBADF } from "../src/errno.ts";
import { RING_SUBMISSIONS } from "../src/limits.ts";
import { smallMemory } from "../src/memory.ts";
import { close, pipe2, write } from "../src/syscall.ts";
import { Ring, tryRing } from "../src/uring.ts";
import { CONNECTION } from "./support-server.ts";

const whyNot = tryRing() < 0 ? "this system gives no rings" : undefined;
if (whyNot !== undefined) console.warn(`tests of the ring are skipped: ${whyNot}`);

function withRing(work: (ring: Ring) => void): void {
  const ring = Ring.create();
  if (typeof ring === "number") throw new Error(`no ring: ${ring}`);
  try {
    work(ring);
  } finally {
    ring.close();
  }
}

describe.skipIf(whyNot !== undefined)("a ring", () => {
  test("gives each completion what its submission was given, also when it has gone round", () => {
    withRing((ring) => {
      for (let number = 0; number < 10 * RING_SUBMISSIONS; number++) {
        ring.submission(IORING_OP_NOP, -1, 0x7fff0000 + number);
        expect(ring.enter(1)).toBe(1);
        expect(ring.next()).toBe(true);
        expect([ring.userData, ring.result]).toEqual([0x7fff0000 + number, 0]);
        expect(ring.next()).toBe(false);
      }
    });
  });

  test("hands over several submissions at once, as many as there is room for", () => {
    withRing((ring) => {
      for (let number = 0; number < RING_SUBMISSIONS; number++)
        ring.submission(IORING_OP_NOP, -1, number);
      expect(() => ring.submission(IORING_OP_NOP, -1, 0)).toThrow("there is room");
      expect(ring.enter(1)).toBe(RING_SUBMISSIONS);
      const seen: number[] = [];
      while (ring.next()) seen.push(ring.userData);
      expect(seen).toEqual(Array.from({ length: RING_SUBMISSIONS }, (_, number) => number));
    });
  });

  test("waits for what is read from a pipe, and says why something fails", () => {
    withRing((ring) => {
      const fds = smallMemory(8);
      expect(pipe2(fds.address, 0)).toBe(0);
      const [from, to] = [fds.i32[0]!, fds.i32[1]!];
      const buffer = smallMemory(16);
      const read = (fd: number, userData: number): void => {
        const at = ring.submission(IORING_OP_READ, fd, userData);
        const { view } = ring.submissions;
        view.setBigUint64(at + io_uring_sqe.addr, BigInt(buffer.address), true);
        view.setUint32(at + io_uring_sqe.len, buffer.size, true);
      };
      read(from, 1);
      expect(ring.enter(0)).toBe(1);
      expect(ring.next()).toBe(false);
      expect(write(to, fds.address, 8)).toBe(8);
      expect(ring.enter(1)).toBe(0);
      expect(ring.next()).toBe(true);
      expect([ring.userData, ring.result]).toEqual([1, 8]);
      expect(buffer.i32[0]).toBe(from);
      close(from);
      close(to);
      read(from, 2);
      ring.enter(1);
      expect(ring.next()).toBe(true);
      expect([ring.userData, ring.result]).toEqual([2, -EBADF]);
    });
  });
});

describe("the plan of workers", () => {
  test("is one crew for /dev/fuse", () => {
    expect(planCrews({ ...CONNECTION, flags2: 0 }, 3)).toEqual([
      { workers: [0, 1, 2], queues: [], cpus: [] },
    ]);
  });

  test.each([1, 2, 64])("has each CPU's queue served once by %d workers with rings", (workers) => {
    const [device, ...rings] = planCrews({ ...CONNECTION, flags2: FUSE_OVER_IO_URING }, workers);
    expect(device).toEqual({ workers: [rings.length], queues: [], cpus: [] });
    expect(rings.length).toBeLessThanOrEqual(workers);
    expect(rings.map((crew) => crew.workers)).toEqual(rings.map((_, index) => [index]));
    const queues = rings.flatMap((crew) => crew.queues).toSorted((a, b) => a - b);
    expect(queues.length).toBeGreaterThan(0);
    expect(queues).toEqual(queues.map((_, index) => index));
    for (const { queues: own, cpus } of rings) {
      expect(cpus.length).toBeGreaterThan(0);
      expect(own).toEqual(expect.arrayContaining([...cpus]));
    }
  });

  test("reads the kernel's lists of CPUs", () => {
    expect(cpuList("0-3,8,10-11\n")).toEqual([0, 1, 2, 3, 8, 10, 11]);
    expect(cpuList("0\n")).toEqual([0]);
  });
});
