// The table of open files: what a handle is good for, and when its descriptor goes.

import { describe, expect, test } from "bun:test";
import { readlinkSync } from "node:fs";
import { O_RDONLY, O_RDWR } from "../src/abi-linux.ts";
import { EBADF, ENFILE } from "../src/errno.ts";
import { HANDLES_MAX } from "../src/limits.ts";
import { cstring } from "../src/memory.ts";
import { HandleTable } from "../src/passthrough-handles.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import { close, memfd_create } from "../src/syscall.ts";

const names = new Map<number, string>();
let count = 0;

/** A descriptor that is known again: its number may soon be that of another one. */
function newDescriptor(): number {
  const name = `handle-${++count}`;
  const fd = memfd_create(cstring(name).address, 0);
  names.set(fd, `/memfd:${name} (deleted)`);
  return fd;
}

function isOpen(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === names.get(fd);
  } catch {
    return false;
  }
}

/** The tables of `count` workers in the same memory. */
function tables(count: number): HandleTable[] {
  const layout = new SharedLayout();
  const areas = HandleTable.areas(layout);
  const memory = createShared(layout);
  return Array.from({ length: count }, () => new HandleTable(memory, areas));
}
const table = (): HandleTable => tables(1)[0]!;

describe("a handle", () => {
  test("is the same to all workers", () => {
    const [one, other] = tables(2);
    const fd = newDescriptor();
    const fh = one!.open(7, fd, O_RDWR);
    expect(other!.acquire(fh, 7)).toBe(true);
    expect([other!.fd(fh), other!.flags(fh), other!.count]).toEqual([fd, O_RDWR, 1]);
    other!.release(fh);
    expect(other!.close(fh, 7)).toBe(0);
    expect(isOpen(fd)).toBe(false);
    expect(one!.count).toBe(0);
  });

  test("is refused with another inode, when it was never given out, and after it was closed", () => {
    const handles = table();
    const fh = handles.open(7, newDescriptor(), O_RDONLY);
    for (const [wrong, nodeid] of [
      [fh, 8],
      [fh + 1, 7],
      [0, 7],
      [2 ** 40, 7],
    ] as const) {
      expect(handles.acquire(wrong, nodeid)).toBe(false);
      expect(handles.close(wrong, nodeid)).toBe(-EBADF);
    }
    expect(handles.acquire(fh, 7)).toBe(true);
    handles.release(fh);
    expect(handles.close(fh, 7)).toBe(0);
    expect(handles.acquire(fh, 7)).toBe(false);
  });

  test("can be closed twice, and its number is still given out once", () => {
    const handles = table();
    const fh = handles.open(7, -1, O_RDONLY);
    expect([1, 2, 3].map(() => handles.close(fh, 7))).toEqual([0, -EBADF, -EBADF]);
    expect(handles.count).toBe(0);
    const next = [1, 2, 3].map(() => handles.open(8, -1, O_RDONLY));
    expect(new Set(next).size).toBe(3);
    expect(handles.count).toBe(3);
  });

  test("that is closed while it is used keeps its descriptor until that is over", () => {
    const handles = table();
    const fd = newDescriptor();
    const fh = handles.open(7, fd, O_RDONLY);
    expect(handles.acquire(fh, 7)).toBe(true);
    expect(handles.close(fh, 7)).toBe(0);
    expect(handles.acquire(fh, 7)).toBe(false);
    expect(handles.close(fh, 7)).toBe(-EBADF);
    expect([isOpen(fd), handles.fd(fh), handles.count]).toEqual([true, fd, 1]);
    handles.release(fh);
    expect([isOpen(fd), handles.count]).toEqual([false, 0]);
  });

  test("gets its descriptor from the first worker that needs one; that of the second is closed", () => {
    const [one, other] = tables(2);
    const fh = one!.open(7, -1, O_RDONLY);
    expect(one!.fd(fh)).toBe(-1);
    const [first, second] = [newDescriptor(), newDescriptor()];
    expect(one!.setFd(fh, first)).toBe(first);
    expect(other!.setFd(fh, second)).toBe(first);
    expect([isOpen(first), isOpen(second), other!.fd(fh)]).toEqual([true, false, first]);
    one!.close(fh, 7);
    expect(isOpen(first)).toBe(false);
  });

  test("of a directory knows the cookie that its descriptor stands at, of 64 bits", () => {
    const handles = table();
    const fh = handles.open(7, -1, O_RDONLY);
    expect(handles.isAt(fh, 0, 0)).toBe(true);
    handles.setCookie(fh, 0xfffffffe, 0x7fffffff);
    expect(handles.isAt(fh, 0xfffffffe, 0x7fffffff)).toBe(true);
    expect(handles.isAt(fh, 0xfffffffe, 0)).toBe(false);
    expect(handles.isAt(fh, 0, 0x7fffffff)).toBe(false);
    handles.close(fh, 7);
    expect(handles.open(7, -1, O_RDONLY)).toBe(fh);
    expect(handles.isAt(fh, 0, 0)).toBe(true);
  });

  test("is given out again with nothing left of the one before", () => {
    const handles = table();
    const fh = handles.open(7, newDescriptor(), O_RDWR);
    handles.setFlags(fh, O_RDONLY);
    handles.close(fh, 7);
    expect(handles.open(9, -1, O_RDWR)).toBe(fh);
    expect([handles.fd(fh), handles.flags(fh)]).toEqual([-1, O_RDWR]);
    expect(handles.acquire(fh, 7)).toBe(false);
    expect(handles.acquire(fh, 9)).toBe(true);
  });
});

test("when there are too many handles, the descriptor stays with the caller", () => {
  const handles = table();
  for (let fh = 1; fh <= HANDLES_MAX; fh++) handles.open(7, -1, O_RDONLY);
  expect(handles.count).toBe(HANDLES_MAX);
  const fd = newDescriptor();
  expect(handles.open(7, fd, O_RDONLY)).toBe(-ENFILE);
  expect(close(fd)).toBe(0);
  expect(handles.close(HANDLES_MAX, 7)).toBe(0);
  expect(handles.open(7, -1, O_RDONLY)).toBe(HANDLES_MAX);
});
