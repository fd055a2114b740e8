// The server without a kernel: sound requests of every opcode, malformed ones, and random ones by
// the hundred thousand (FUZZ_SEED replays, FUZZ_COUNT makes it longer).

import { afterAll, beforeEach, describe, expect, mock, spyOn, test } from "bun:test";
import { AssertionError } from "../src/assert.ts";
import { EINVAL, EIO, ENAMETOOLONG, ENOSYS } from "../src/errno.ts";
import { REPLY_LATER } from "../src/filesystem.ts";
import { log } from "../src/log.ts";
import { Request, type Bytes, type Extensions, type Name } from "../src/request.ts";
import { opcodeName } from "../src/operations.ts";
import { CASES, fillEntry, FROM, OK } from "./server-cases.ts";
import { chooseSeed, Harness, hex, outHeader, ServerFuzzer } from "./support-server.ts";

const CORPUS = CASES.map(({ request }) => hex(request));
const FORGET = 2;
const NOTIFY_REPLY = 41;
const BATCH_FORGET = 42;

const warn = spyOn(log, "warnLimited");
const error = spyOn(log, "error");
beforeEach(() => {
  warn.mockClear().mockImplementation(() => {});
  error.mockClear().mockImplementation(() => {});
});
afterAll(() => mock.restore());

/** The error in a reply to our requests, which must be nothing but a header. */
function errorOf(reply: Uint8Array | undefined): number {
  expect(reply).toBeDefined();
  const { length, len, error } = outHeader(reply!);
  expect({ length, len }).toEqual({ length: 16, len: 16 });
  return error;
}

/** `request` with its `len` made right. */
function withLength(request: Uint8Array): Uint8Array {
  const copy = request.slice();
  if (copy.length >= 4) new DataView(copy.buffer).setUint32(0, copy.length, true);
  return copy;
}

function isSilent(opcode: number): boolean {
  return opcode === FORGET || opcode === NOTIFY_REPLY || opcode === BATCH_FORGET;
}

describe("each opcode is decoded, done and answered", () => {
  test.each(CASES.map((row) => [row.name, row] as const))("%s", (_name, row) => {
    const harness = new Harness(row.answers, row.flags);
    const reply = harness.serve(hex(row.request));
    expect(harness.calls).toEqual(row.calls);
    expect(reply?.toHex()).toBe(row.reply === undefined ? undefined : hex(row.reply).toHex());
    for (const caller of harness.callers)
      expect(caller).toEqual({
        uid: 1000,
        gid: 1001,
        pid: 77,
        unique: [0x44332211, 0x88776655],
        groups: [],
        securityContexts: [],
      });
    expect(warn).not.toHaveBeenCalled();
  });

  test("the cases cover the whole table", () => {
    const covered = new Set(CORPUS.map((request) => request[4]!));
    for (let opcode = 0; opcode < 64; opcode++)
      if (opcodeName(opcode) !== `opcode ${opcode}` && opcodeName(opcode) !== "INIT")
        expect({ opcode, covered: covered.has(opcode) }).toEqual({ opcode, covered: true });
    expect(covered.size).toBe(50);
  });

  test("opcodes that there are not get ENOSYS", () => {
    const harness = new Harness();
    for (const opcode of ["00", "07", "13", "1a", "36", "00 10", "ff ff ff ff"]) {
      const code = hex(opcode, "000000").toHex().slice(0, 8);
      expect(errorOf(harness.serve(hex("28000000", code, FROM)))).toBe(-ENOSYS);
    }
    expect(harness.calls).toEqual([]);
  });

  test("nothing of an earlier reply is left in a later one", () => {
    const harness = new Harness({ lookup: (_context, _parent, _name, entry) => fillEntry(entry) });
    harness.serve(hex("2c000000 01000000", FROM, "'foo' 00"));
    const reply = harness.serve(hex(`38000000 03000000 ${FROM}`, "00".repeat(16)));
    expect(reply?.toHex()).toBe(hex(`78000000 ${OK}`, "00".repeat(104)).toHex());
  });
});

// MKDIR of `dir`, with an extension block of 12 units behind the name, where nothing is aligned.
const MKDIR = `94000000 09000000 1122334455667788 0900000000000000 e8030000 e9030000 4d000000
  0c00 0000 ff010000 12000000 'dir' 00`;
const CONTEXTS = `40000000 02000000
  0a000000 00000000 'security.selinux' 00 'user_u:s0' 00 0000000000
  01000000 00000000 'smack' 00 '_' 00`;
const GROUPS = "20000000 20000000 04000000 64000000 65000000 66000000 67000000 00000000";
const UNKNOWN = `40000000 21000000 ${"ff".repeat(56)}`;

describe("an extension block", () => {
  test("brings security contexts and supplementary groups", () => {
    const harness = new Harness();
    expect(outHeader(harness.serve(hex(MKDIR, CONTEXTS, GROUPS))!).error).toBe(0);
    expect(harness.calls).toEqual([["mkdir", 9, "dir", 0o777, 0o22]]);
    expect(harness.callers[0]).toMatchObject({
      groups: [100, 101, 102, 103],
      securityContexts: [
        ["security.selinux", hex("'user_u:s0' 00").toHex()],
        ["smack", hex("'_'").toHex()],
      ],
    });
  });

  test("is gone with the next request", () => {
    const harness = new Harness();
    harness.serve(hex(MKDIR, CONTEXTS, GROUPS));
    harness.serve(hex(`34000000 09000000 ${FROM} ff010000 12000000 'dir' 00`));
    expect(harness.callers[1]).toMatchObject({ groups: [], securityContexts: [] });
  });

  test("may have records of a kind that is not known", () => {
    const harness = new Harness();
    expect(outHeader(harness.serve(hex(MKDIR, UNKNOWN, GROUPS))!).error).toBe(0);
    expect(harness.callers[0]).toMatchObject({ groups: [100, 101, 102, 103] });
  });

  test("may have no contexts, or one without a value", () => {
    const harness = new Harness();
    const empty = "13000000 01000000 00000000 00000000 'no' 00 0000000000";
    const none = "08000000 00000000";
    expect(outHeader(harness.serve(hex(MKDIR, empty, none, UNKNOWN))!).error).toBe(0);
    expect(harness.callers[0]).toMatchObject({ groups: [], securityContexts: [] });
  });

  test.each([
    ["is longer than the request", 36, "ffff"],
    ["reaches into the argument struct", 36, "0d00"],
    ["begins in the middle of a record", 36, "0b00"],
    ["has a record of size 0", 52, "00000000"],
    ["has a record smaller than its header", 116, "07000000"],
    ["has a record that is longer than the block", 116, "21000000"],
    ["has a record of 4 GiB", 52, "ffffffff"],
    ["has fewer contexts than it says", 56, "03000000"],
    ["has a context whose value is longer than the record", 60, "30000000"],
    ["has a context of 4 GiB", 60, "ffffffff"],
    ["has a context whose name has no end", 108, "ffffffffffffffff"],
    ["has fewer groups than it says", 124, "06000000"],
    ["has 2**32 - 1 groups", 124, "ffffffff"],
    ["has groups but no place for their number", 116, "08000000"],
  ])("is refused if it %s", (_what, at, lie) => {
    const request = hex(MKDIR, CONTEXTS, GROUPS);
    request.set(hex(lie), at);
    const harness = new Harness();
    expect(errorOf(harness.serve(request))).toBe(-EINVAL);
    expect(harness.calls).toEqual([]);
    expect(warn).toHaveBeenCalledTimes(1);
  });
});

describe("a malformed request does not reach the file system", () => {
  test.each(CASES.map((row) => [row.name, row] as const))("%s, cut at any length", (_name, row) => {
    const harness = new Harness(row.answers, row.flags);
    const whole = hex(row.request);
    for (let length = 0; length < whole.length; length++) {
      const cut = whole.subarray(0, length);
      for (const request of [withLength(cut), cut]) {
        const reply = harness.serve(request);
        if (length < 40 || isSilent(whole[4]!)) expect(reply).toBeUndefined();
        else expect(errorOf(reply)).toBe(-EINVAL);
      }
    }
    expect(harness.calls).toEqual([]);
  });

  test("when its length is not what was received", () => {
    const harness = new Harness();
    for (const length of ["00000000", "27000000", "2b000000", "2d000000", "ffffffff"])
      expect(errorOf(harness.serve(hex(length, "01000000", FROM, "'foo' 00")))).toBe(-EINVAL);
    expect(harness.serve(hex("31000000 02000000", FROM, "0300000000000000"))).toBeUndefined();
    expect(harness.calls).toEqual([]);
  });

  test.each([
    ["LOOKUP", "01000000", "", ""],
    ["SYMLINK", "06000000", "", "'target' 00"],
    ["MKNOD", "08000000", "b6610000 03010000 12000000 00000000", ""],
    ["MKDIR", "09000000", "ff010000 12000000", ""],
    ["UNLINK", "0a000000", "", ""],
    ["RMDIR", "0b000000", "", ""],
    ["RENAME, first", "0c000000", "0c00000000000000", "'b' 00"],
    ["RENAME, second", "0c000000", "0c00000000000000 'a' 00", ""],
    ["LINK", "0d000000", "0c00000000000000", ""],
    ["CREATE", "23000000", "c2820000 a4810000 12000000 01000000", ""],
    ["RENAME2, first", "2d000000", "0c00000000000000 02000000 00000000", "'b' 00"],
    ["RENAME2, second", "2d000000", "0c00000000000000 02000000 00000000 'a' 00", ""],
  ])("when a name can't be an entry's: %s", (name, opcode, before, after) => {
    const harness = new Harness();
    const names = ["00", "'/' 00", "'a/b' 00", "'/a' 00", "'..' '/' 00"];
    if (name !== "LOOKUP") names.push("'.' 00", "'..' 00");
    for (const bad of names) {
      const request = withLength(hex("00000000", opcode, FROM, before, bad, after));
      expect(errorOf(harness.serve(request))).toBe(-EINVAL);
    }
    expect(harness.calls).toEqual([]);
    for (const good of ["'...' 00", "'..a' 00", "'.a' 00", "ff 80 00"]) {
      const request = withLength(hex("00000000", opcode, FROM, before, good, after));
      expect(outHeader(harness.serve(request)!).error).toBe(0);
    }
    expect(harness.calls).toHaveLength(4);
  });

  test.each([
    ["WRITE", "10000000", `${"00".repeat(16)} SIZE ${"00".repeat(20)}`, "'hello'", -EINVAL],
    ["SETXATTR", "15000000", "SIZE 00000000 'user.x' 00", "'hello'", -EINVAL],
    ["IOCTL", "27000000", `${"00".repeat(24)} SIZE 00000000`, "'hello'", -EINVAL],
    ["NOTIFY_REPLY", "29000000", `${"00".repeat(16)} SIZE ${"00".repeat(20)}`, "'hello'", 0],
    ["BATCH_FORGET", "2a000000", "SIZE 00000000", "00".repeat(31), 0],
    ["REMOVEMAPPING", "31000000", "SIZE", "00".repeat(31), -EINVAL],
  ])("when it says more than it has: %s", (_name, opcode, before, data, expected) => {
    const harness = new Harness();
    const enough = opcode === "2a000000" || opcode === "31000000" ? 1 : 5;
    for (const size of [enough + 1, 65536, 0x7fffffff, 0x80000000, 0xffffffff]) {
      const digits = hex("00000000");
      new DataView(digits.buffer).setUint32(0, size, true);
      const body = before.replace("SIZE", digits.toHex());
      const reply = harness.serve(withLength(hex("00000000", opcode, FROM, body, data)));
      if (expected === 0) expect(reply).toBeUndefined();
      else expect(errorOf(reply)).toBe(expected);
    }
    expect(harness.calls).toEqual([]);
  });

  test("when the name of an attribute or the target of a link is too long", () => {
    const harness = new Harness();
    const xattr = (length: number): Uint8Array =>
      withLength(hex(`00000000 18000000 ${FROM} '${"x".repeat(length)}' 00`));
    expect(errorOf(harness.serve(xattr(256)))).toBe(-ENAMETOOLONG);
    const symlink = (length: number): Uint8Array =>
      withLength(hex(`00000000 06000000 ${FROM} 'link' 00 '${"x".repeat(length)}' 00`));
    expect(errorOf(harness.serve(symlink(4096)))).toBe(-ENAMETOOLONG);
    expect(harness.calls).toEqual([]);
    expect(errorOf(harness.serve(xattr(255)))).toBe(0);
    expect(outHeader(harness.serve(symlink(4095))!).error).toBe(0);
  });
});

const UNLINK = hex("2c000000 0a000000", FROM, "'foo' 00");
const READ = hex(`50000000 0f000000 ${FROM}`, "00".repeat(16), "00100000", "00".repeat(20));

describe("what the file system does wrong", () => {
  test("an exception is answered with EIO and logged", () => {
    const harness = new Harness({
      unlink: () => {
        throw new TypeError("a bug");
      },
    });
    expect(errorOf(harness.serve(UNLINK))).toBe(-EIO);
    expect(error).toHaveBeenCalledTimes(1);
    expect(String(error.mock.calls[0]![0])).toContain("UNLINK");
  });

  test("a broken invariant goes through to the worker", () => {
    const harness = new Harness({
      unlink: () => {
        throw new AssertionError("broken");
      },
    });
    expect(() => harness.serve(UNLINK)).toThrow(AssertionError);
  });

  test("an error that the kernel would not take becomes EIO", () => {
    expect(errorOf(new Harness({ unlink: () => -524 }).serve(UNLINK))).toBe(-EIO);
    expect(errorOf(new Harness({ unlink: () => -512 }).serve(UNLINK))).toBe(-EIO);
    expect(errorOf(new Harness({ unlink: () => -511 }).serve(UNLINK))).toBe(-511);
  });

  test("a number where none is expected is not taken for the length of an answer", () => {
    expect(errorOf(new Harness({ unlink: () => 7 }).serve(UNLINK))).toBe(0);
  });

  test("an answer that does not fit in the reply is a broken invariant", () => {
    expect(() => new Harness({ read: () => 1 << 16 }).serve(READ)).toThrow(AssertionError);
    expect(() => new Harness({ read: () => NaN }).serve(READ)).toThrow(AssertionError);
  });
});

describe("no reply", () => {
  test("is sent when the answer comes later", () => {
    const late = (): number => REPLY_LATER;
    const answers = {
      lookup: late,
      unlink: late,
      read: late,
      write: late,
      setlk: late,
      open: late,
    };
    const harness = new Harness({ ...answers, create: late, flush: late, fsync: late });
    const names = [
      "LOOKUP",
      "UNLINK",
      "READ",
      "WRITE",
      "SETLKW",
      "OPEN",
      "CREATE",
      "FLUSH",
      "FSYNC",
    ];
    for (const row of CASES.filter(({ name }) => names.includes(name)))
      expect({ [row.name]: harness.serve(hex(row.request)) }).toEqual({ [row.name]: undefined });
    expect(harness.calls).toHaveLength(names.length);
  });

  test("is sent for what the kernel waits for no reply to, even if it fails", () => {
    const fail = (): never => {
      throw new Error("a bug");
    };
    const harness = new Harness({ forget: fail, notifyReply: fail });
    for (const row of CASES.filter(({ request }) => isSilent(hex(request)[4]!)))
      expect(harness.serve(hex(row.request))).toBeUndefined();
    expect(harness.calls).toHaveLength(3);
    expect(error).toHaveBeenCalledTimes(3);
  });
});

describe("who watches", () => {
  test("the metrics hook sees each request before and after, with its result and time", () => {
    const seen: unknown[] = [];
    let spent = -1;
    const metrics = {
      before: (opcode: number): void => void seen.push(opcode),
      after(opcode: number, result: number, nanoseconds: number): void {
        seen.push([opcode, result]);
        spent = nanoseconds;
      },
    };
    const harness = new Harness({ unlink: () => -2, read: () => 3 }, 0, { metrics });
    harness.serve(UNLINK);
    harness.serve(READ);
    harness.serve(hex("28000000 07000000", FROM));
    harness.serve(hex("28000000 01000000", FROM));
    expect(seen).toEqual([10, [10, -2], 15, [15, 3], 7, [7, -ENOSYS], 1, [1, -EINVAL]]);
    expect(spent).toBeGreaterThanOrEqual(0);
  });

  test("the tracer sees each request before it is done, and each reply's length", () => {
    const seen: unknown[] = [];
    const tracer = {
      request: (): void => void seen.push(harness.calls.length),
      reply: (_server: unknown, length: number): void => void seen.push(`reply of ${length}`),
    };
    const harness: Harness = new Harness({ read: () => 3 }, 0, { tracer });
    harness.serve(READ);
    harness.serve(hex("30000000 02000000", FROM, "0300000000000000"));
    expect(seen).toEqual([0, "reply of 19", 1, "reply of 0"]);
  });
});

describe("random requests", () => {
  test("get a well-formed answer or none, and the file system only what is in them", () => {
    const seed = chooseSeed();
    const count = Number(process.env["FUZZ_COUNT"] ?? 250_000);
    console.log(`replay with FUZZ_SEED=${seed} FUZZ_COUNT=${count}`);
    const fuzzer = new ServerFuzzer(seed, CORPUS);
    fuzzer.run(count);
    // A good part must get past the checks, or they are all that is tested.
    expect(fuzzer.reached).toBeGreaterThan(count / 4);
  });

  // What the fuzzer is worth: it must notice a reader that lets through what it should not.
  class TrustsLengths extends Request {
    override takeBytes(data: Bytes, length: number): boolean {
      super.takeBytes(data, length);
      return true;
    }
  }
  class TrustsNames extends Request {
    override takeName(name: Name): boolean {
      super.takeName(name);
      return true;
    }
  }
  class TrustsExtensions extends Request {
    override takeExtensions(into: Extensions): boolean {
      super.takeExtensions(into);
      return true;
    }
  }
  class TrustsStructs extends Request {
    override takeStruct(size: number): boolean {
      super.takeStruct(size);
      return true;
    }
  }
  test.each([TrustsLengths, TrustsNames, TrustsExtensions, TrustsStructs])(
    "bring to light a reader that trusts: %p",
    (Trusting) => {
      expect(() => new ServerFuzzer(1, CORPUS, Trusting).run(50_000)).toThrow("request ");
    },
  );
});
