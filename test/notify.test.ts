// The bytes of each notification, caught in a memfd in the place of the device.

import { describe, expect, test } from "bun:test";
import { EBADF, ENAMETOOLONG } from "../src/errno.ts";
import { MAX_WRITE } from "../src/limits.ts";
import { cstring, map } from "../src/memory.ts";
import { Notifier } from "../src/notify.ts";
import { close, memfd_create, pread64 } from "../src/syscall.ts";
import { hex } from "./support-server.ts";

const caught = map(2 * MAX_WRITE);

/** Everything that `notify` writes. */
function sent(notify: (notifier: Notifier) => number, expected = 0): Uint8Array {
  const fd = memfd_create(cstring("device").address, 0);
  try {
    expect(notify(new Notifier(fd))).toBe(expected);
    const length = pread64(fd, caught.address, caught.size, 0);
    return caught.bytes.slice(0, length);
  } finally {
    close(fd);
  }
}

const UNIQUE_0 = "0000000000000000";

describe("a notification is written as", () => {
  const cases: [string, (notifier: Notifier) => number, string][] = [
    ["poll", (n) => n.poll(0x0102030405), `18000000 01000000 ${UNIQUE_0} 0504030201000000`],
    [
      "invalInode of everything",
      (n) => n.invalInode(9),
      `28000000 02000000 ${UNIQUE_0} 0900000000000000 0000000000000000 0000000000000000`,
    ],
    [
      "invalInode of the attributes only",
      (n) => n.invalInode(9, -1),
      `28000000 02000000 ${UNIQUE_0} 0900000000000000 ffffffffffffffff 0000000000000000`,
    ],
    [
      "invalInode of a range beyond 4 GiB",
      (n) => n.invalInode(9, 2 ** 32, 4096),
      `28000000 02000000 ${UNIQUE_0} 0900000000000000 0000000001000000 0010000000000000`,
    ],
    [
      "invalEntry",
      (n) => n.invalEntry(1, "foo"),
      `24000000 03000000 ${UNIQUE_0} 0100000000000000 03000000 00000000 'foo' 00`,
    ],
    [
      "invalEntry that only expires, of a name in UTF-8",
      (n) => n.invalEntry(1, "é", true),
      `23000000 03000000 ${UNIQUE_0} 0100000000000000 02000000 01000000 c3a9 00`,
    ],
    [
      "invalEntry of a name that is not UTF-8",
      (n) => n.invalEntry(1, Uint8Array.of(0xff)),
      `22000000 03000000 ${UNIQUE_0} 0100000000000000 01000000 00000000 ff 00`,
    ],
    [
      "store",
      (n) => n.store(9, 4096, hex("'data'")),
      `2c000000 04000000 ${UNIQUE_0} 0900000000000000 0010000000000000 04000000 00000000 'data'`,
    ],
    [
      "store of nothing",
      (n) => n.store(9, 0, new Uint8Array(0)),
      `28000000 04000000 ${UNIQUE_0} 0900000000000000 0000000000000000 00000000 00000000`,
    ],
    [
      "retrieve",
      (n) => n.retrieve(77, 9, 4096, 100),
      `30000000 05000000 ${UNIQUE_0} 4d00000000000000 0900000000000000 0010000000000000
        64000000 00000000`,
    ],
    [
      "delete",
      (n) => n.delete(1, 9, "foo"),
      `2c000000 06000000 ${UNIQUE_0} 0100000000000000 0900000000000000 03000000 00000000 'foo' 00`,
    ],
    ["resend", (n) => n.resend(), `10000000 07000000 ${UNIQUE_0}`],
    ["incEpoch", (n) => n.incEpoch(), `10000000 08000000 ${UNIQUE_0}`],
    [
      "prune",
      (n) => n.prune([9, 2 ** 40]),
      `30000000 09000000 ${UNIQUE_0} 02000000 00000000 0000000000000000
        0900000000000000 0000000000010000`,
    ],
  ];
  test.each(cases)("%s", (_name, notify, expected) => {
    expect(sent(notify).toHex()).toBe(hex(expected).toHex());
  });
});

test("one notifier sends one after the other, none of which shows in the next", () => {
  const bytes = sent((notifier) => {
    notifier.store(-1, -1, new Uint8Array(64).fill(0xff));
    notifier.delete(1, 9, "a long name, longer than the next");
    notifier.invalEntry(1, "x");
    return notifier.delete(1, 9, "y");
  });
  expect(bytes.subarray(104 + 74).toHex()).toBe(
    hex(
      `22000000 03000000 ${UNIQUE_0} 0100000000000000 01000000 00000000 'x' 00`,
      `2a000000 06000000 ${UNIQUE_0} 0100000000000000 0900000000000000 01000000 00000000 'y' 00`,
    ).toHex(),
  );
});

test("data longer than a WRITE is stored in several messages", () => {
  const data = new Uint8Array(MAX_WRITE + 3).map((_, index) => index * 7);
  const bytes = sent((notifier) => notifier.store(9, 5, data));
  const second = 40 + MAX_WRITE;
  expect(bytes.length).toBe(second + 43);
  expect(Buffer.compare(bytes.subarray(40, second), data.subarray(0, MAX_WRITE))).toBe(0);
  expect(bytes.subarray(second).toHex()).toBe(
    hex(
      `2b000000 04000000 ${UNIQUE_0} 0900000000000000 0500100000000000 03000000 00000000`,
      data.subarray(MAX_WRITE).toHex(),
    ).toHex(),
  );
});

test("more nodes than fit in a message are pruned in several, and none with no message", () => {
  const perMessage = MAX_WRITE / 8;
  const nodeids = Float64Array.from({ length: perMessage + 1 }, (_, index) => index + 1);
  const bytes = sent((notifier) => notifier.prune(nodeids));
  expect(bytes.subarray(32 + MAX_WRITE).toHex()).toBe(
    hex(
      `28000000 09000000 ${UNIQUE_0} 01000000 00000000 0000000000000000 0100020000000000`,
    ).toHex(),
  );
  expect(sent((notifier) => notifier.prune([])).length).toBe(0);
});

test("a name that no file can have is refused without asking the kernel", () => {
  const longest = "n".repeat(4095);
  expect(sent((notifier) => notifier.invalEntry(1, longest)).length).toBe(16 + 16 + 4096);
  expect(sent((notifier) => notifier.invalEntry(1, `${longest}n`), -ENAMETOOLONG).length).toBe(0);
  expect(sent((n) => n.delete(1, 2, "é".repeat(2048)), -ENAMETOOLONG).length).toBe(0);
  expect(sent((n) => n.delete(1, 2, new Uint8Array(4096)), -ENAMETOOLONG).length).toBe(0);
});

test("what the kernel says of the write is the result", () => {
  const notifier = new Notifier(-1);
  expect(notifier.incEpoch()).toBe(-EBADF);
  expect(notifier.store(9, 0, hex("'data'"))).toBe(-EBADF);
  expect(notifier.prune([1])).toBe(-EBADF);
});
