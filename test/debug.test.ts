// What the debug printer says of requests and replies, sound and malformed.

import { describe, expect, spyOn, test } from "bun:test";
import { DebugTracer, describeInitIn, describeInitOut, initFlagNames } from "../src/debug.ts";
import { REPLY_LATER } from "../src/filesystem.ts";
import { log } from "../src/log.ts";
import { map } from "../src/memory.ts";
import { Reply } from "../src/reply.ts";
import { Request } from "../src/request.ts";
import { CASES, FROM } from "./server-cases.ts";
import {
  chooseSeed,
  Harness,
  hex,
  Random,
  RequestGenerator,
  type Answers,
} from "./support-server.ts";

const CALLER = "unique=9833440827789222417 nodeid=9 uid=1000 gid=1001 pid=77";

/** The lines that are printed when `request` is served. */
function traced(request: Uint8Array, answers: Answers = {}, flags = 0): string[] {
  const lines: string[] = [];
  const tracer = new DebugTracer((line) => lines.push(line));
  new Harness(answers, flags, { tracer }).serve(request);
  return lines;
}

function tracedCase(name: string): string[] {
  const row = CASES.find((candidate) => candidate.name === name)!;
  return traced(hex(row.request), row.answers, row.flags);
}

const ATTR =
  "attr={ino=10 size=11 blocks=12 atime=13 mtime=14 ctime=-2 atimensec=1 " +
  "mtimensec=2 ctimensec=3 mode=0100644 nlink=2 uid=2000 gid=2001 rdev=0x801 blksize=4096 " +
  "flags=FUSE_ATTR_DAX}";
const ENTRY =
  "nodeid=258 generation=3 entry_valid=1 attr_valid=2 entry_valid_nsec=500000000 " +
  `attr_valid_nsec=250000000 ${ATTR}`;

describe("a request and its reply are shown with names and fields", () => {
  const fh = "fh=17264150280";
  const cases: Record<string, [request: string, reply: string | null]> = {
    LOOKUP: [`"foo"`, ENTRY],
    "LOOKUP of .. for export": [`".."`, "ENOENT"],
    FORGET: ["nlookup=3", null],
    SETATTR: [
      "valid=FATTR_MODE|FATTR_UID|FATTR_GID|FATTR_SIZE|FATTR_ATIME|FATTR_MTIME|FATTR_FH|" +
        "FATTR_ATIME_NOW|FATTR_MTIME_NOW|FATTR_LOCKOWNER|FATTR_CTIME|FATTR_KILL_SUIDGID " +
        `${fh} size=4096 lock_owner=0x0 atime=1 mtime=-1 ctime=3 atimensec=4 ` +
        "mtimensec=5 ctimensec=6 mode=0755 uid=2000 gid=2001",
      `attr_valid=1 attr_valid_nsec=500000000 ${ATTR}`,
    ],
    READLINK: ["", `"target"`],
    SYMLINK: [`"link" "../target"`, ENTRY],
    MKNOD: [`mode=060666 rdev=0x103 umask=022 "dev"`, ENTRY],
    UNLINK: [`"foo"`, "ok"],
    RMDIR: [`"foo"`, "ENOTEMPTY"],
    RENAME2: [`newdir=12 flags=RENAME_EXCHANGE "a" "bc"`, "ok"],
    OPEN: [
      "flags=O_RDWR|O_TRUNC|O_LARGEFILE open_flags=FUSE_OPEN_KILL_SUIDGID",
      `${fh} open_flags=FOPEN_DIRECT_IO|FOPEN_KEEP_CACHE backing_id=5`,
    ],
    READ: [
      `${fh} offset=65536 size=4096 read_flags=FUSE_READ_LOCKOWNER lock_owner=0xa7a6a5a4a3a2a1a0 ` +
        "flags=O_WRONLY|O_LARGEFILE",
      "4 bytes",
    ],
    WRITE: [
      `${fh} offset=4294967296 size=5 write_flags=FUSE_WRITE_KILL_SUIDGID ` +
        "lock_owner=0xa7a6a5a4a3a2a1a0 flags=O_WRONLY|O_LARGEFILE + 5 bytes",
      "size=5",
    ],
    "SETXATTR with the short struct": [`size=3 flags=1 "user.x" + 3 bytes`, "ok"],
    "SETXATTR with FUSE_SETXATTR_EXT": [
      `size=3 flags=2 setxattr_flags=FUSE_SETXATTR_ACL_KILL_SGID "user.x" + 3 bytes`,
      "ok",
    ],
    GETXATTR: [`size=64 "user.x"`, "5 bytes"],
    "GETXATTR of the size": [`size=0 "user.x"`, "size=5"],
    LISTXATTR: ["size=64", String.raw`"user.x\u0000"`],
    "LISTXATTR of the size": ["size=0", "size=7"],
    OPENDIR: [
      "flags=O_RDONLY|O_NONBLOCK|O_LARGEFILE|O_DIRECTORY open_flags=0",
      `${fh} open_flags=FOPEN_DIRECT_IO|FOPEN_KEEP_CACHE backing_id=5`,
    ],
    READDIR: [
      `${fh} offset=17940079176890708721 size=64 read_flags=0 lock_owner=0x0 ` +
        "flags=O_RDONLY|O_NONBLOCK|O_LARGEFILE|O_DIRECTORY",
      `2 entries, 64 bytes: "a" "12345678"`,
    ],
    GETLK: [
      `${fh} owner=0xb7b6b5b4a3a2a1a0 lk={start=1 end=9223372036854775807 type=F_WRLCK pid=77} ` +
        "lk_flags=0",
      "lk={start=2 end=9223372036854775807 type=F_RDLCK pid=78}",
    ],
    CREATE: [
      `flags=O_RDWR|O_CREAT|O_EXCL|O_TRUNC|O_LARGEFILE mode=0100644 umask=022 ` +
        `open_flags=FUSE_OPEN_KILL_SUIDGID "new"`,
      `${ENTRY} ${fh} open_flags=FOPEN_DIRECT_IO|FOPEN_KEEP_CACHE backing_id=5`,
    ],
    INTERRUPT: ["unique=3761405300425564705", null],
    "INTERRUPT of what is not here yet": ["unique=3761405300425564705", "EAGAIN"],
    IOCTL: [
      `${fh} flags=0 cmd=0x40086602 arg=0x1cafe0000 in_size=4 out_size=8 + 4 bytes`,
      "6 bytes",
    ],
    POLL: [`${fh} kh=5 flags=FUSE_POLL_SCHEDULE_NOTIFY events=POLLIN|POLLOUT`, "revents=POLLOUT"],
    BATCH_FORGET: ["count=2 {nodeid=10 nlookup=1} {nodeid=11 nlookup=4294967296}", null],
    FALLOCATE: [
      `${fh} offset=4096 length=4294967296 mode=FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE`,
      "EOPNOTSUPP",
    ],
    READDIRPLUS: [
      `${fh} offset=0 size=384 read_flags=0 lock_owner=0x0 ` +
        "flags=O_RDONLY|O_NONBLOCK|O_LARGEFILE|O_DIRECTORY",
      `2 entries, 320 bytes: "a"=258 "12345678"=258`,
    ],
    LSEEK: [`${fh} offset=4294967296 whence=SEEK_HOLE`, "offset=2147483647"],
    REMOVEMAPPING: ["count=2 {moffset=4096 len=8192} {moffset=12288 len=16384}", "ok"],
  };
  test.each(Object.entries(cases))("%s", (name, [request, reply]) => {
    const opcode = name.split(" ")[0]!;
    const lines = [`> ${opcode} ${CALLER}${request === "" ? "" : ` ${request}`}`];
    if (reply !== null) lines.push(`< ${opcode} unique=9833440827789222417 ${reply}`);
    expect(tracedCase(name)).toEqual(lines);
  });

  test("every opcode has its fields shown", () => {
    for (const { name, request, answers, flags } of CASES) {
      const [line] = traced(hex(request), answers, flags);
      const body = hex(request).length - 40;
      expect({ name, malformed: line!.includes("malformed") }).toEqual({ name, malformed: false });
      // Data that the printer has no fields for is told by its length.
      const left = Number(/\+ (\d+) bytes/.exec(line!)?.[1] ?? 0);
      expect({ name, left: left < body || body === 0 }).toEqual({ name, left: true });
      expect(left).toBeLessThanOrEqual(5);
    }
  });

  test("a request for which the kernel tells no ids, as on idmapped mounts", () => {
    const from = FROM.replace("e8030000 e9030000", "ffffffff ffffffff");
    const [line] = traced(hex("2c000000 01000000", from, "'foo' 00"));
    expect(line).toBe(`> LOOKUP unique=9833440827789222417 nodeid=9 pid=77 "foo"`);
  });

  test("an answer that comes later", () => {
    const row = CASES.find(({ name }) => name === "SETLKW")!;
    const lines = traced(hex(row.request), { setlk: () => REPLY_LATER });
    expect(lines[1]).toBe("< SETLKW unique=9833440827789222417 answered later");
  });

  test("a directory of many entries is cut short", () => {
    const request = hex(CASES.find(({ name }) => name === "READDIR")!.request);
    new DataView(request.buffer).setUint32(56, 4096, true);
    const lines = traced(request, {
      readdir(_context, _nodeid, _fh, _low, _high, out) {
        for (let index = 0; index < 20 && out.begin(1); index++)
          out.add(Uint8Array.of(0x61 + index), 1, 1, 8);
        return 0;
      },
    });
    expect(lines[1]).toContain(`20 entries, 640 bytes: "a" "b" "c"`);
    expect(lines[1]).toEndWith(`"p" and 4 more`);
  });

  test("an extension block", () => {
    const [line] = traced(
      hex(
        `74000000 09000000 1122334455667788 0900000000000000 e8030000 e9030000 4d000000 0800 0000`,
        "ff010000 12000000 'dir' 00",
        "21000000 01000000 02000000 00000000 'security.smack' 00 '_' 00 00000000000000",
        "14000000 20000000 02000000 64000000 65000000 00000000",
      ),
    );
    expect(line).toEndWith(
      String.raw`mode=0777 umask=022 "dir" groups=100,101 "security.smack"="_\u0000"`,
    );
  });
});

describe("what could upset a terminal or a reader is escaped", () => {
  const cases: [string, string][] = [
    ["1b '[2J' 00", String.raw`"\u001b[2J"`],
    ["'a' 0a 'b' 00", String.raw`"a\nb"`],
    ["'say \"hi\"' 00", String.raw`"say \"hi\""`],
    ["ff 'a' 22 5c 00", String.raw`"\xffa\x22\x5c"`],
    ["c2 9b '31m' 00", String.raw`"\u009b31m"`],
    ["e2 80 ae 'gpj.exe' 00", String.raw`"\u202egpj.exe"`],
    ["'grün' 00", `"grün"`],
  ];
  test.each(cases)("%s", (bytes, shown) => {
    const request = hex("00000000 01000000", FROM, bytes);
    request[0] = request.length;
    expect(traced(request)[0]).toEndWith(` pid=77 ${shown}`);
  });
});

describe("INIT", () => {
  const FLAGS = ["FUSE_ASYNC_READ", "FUSE_BIG_WRITES", "FUSE_INIT_EXT"];
  const FLAGS2 = ["FUSE_PASSTHROUGH", "FUSE_REQUEST_TIMEOUT"];

  function initRequest(bytes: Uint8Array): string {
    const memory = map(4096);
    memory.bytes.set(bytes, 8);
    const request = new Request(memory, 8);
    expect(request.begin(bytes.length)).toBeTrue();
    return describeInitIn(request);
  }

  test("is shown with its flags by name", () => {
    const body = "07000000 2d000000 00000200 21000040 20040000";
    expect(initRequest(hex("68000000 1a000000", FROM, body, "00".repeat(44)))).toBe(
      `> INIT ${CALLER} major=7 minor=45 max_readahead=131072 flags=${FLAGS.join("|")} ` +
        `flags2=${FLAGS2.join("|")}`,
    );
    expect(initFlagNames(0x40000021, 0x420)).toEqual([...FLAGS, ...FLAGS2]);
  });

  test("of an old kernel has no second flags", () => {
    const body = "07000000 1b000000 00000200 21000000";
    expect(initRequest(hex("38000000 1a000000", FROM, body))).toBe(
      `> INIT ${CALLER} major=7 minor=27 max_readahead=131072 ` +
        "flags=FUSE_ASYNC_READ|FUSE_BIG_WRITES",
    );
  });

  test("is answered with what is not zero, and flags that have no name as a number", () => {
    const reply = new Reply(map(4096), 8);
    const body =
      "07000000 2d000000 00000200 21000040 40003000 00001000 01000000 0001 0000 20040080";
    reply.memory.bytes.set(hex(body, "00".repeat(28)), reply.body);
    expect(describeInitOut(reply)).toBe(
      `< INIT major=7 minor=45 max_readahead=131072 flags=${FLAGS.join("|")} max_background=64 ` +
        "congestion_threshold=48 max_write=1048576 time_gran=1 max_pages=256 " +
        `flags2=${FLAGS2.join("|")}|0x80000000`,
    );
  });
});

test("random and broken requests are shown without failing", () => {
  const quiet = spyOn(log, "warnLimited").mockImplementation(() => {});
  const seed = chooseSeed();
  console.log(`replay with FUZZ_SEED=${seed}`);
  const corpus = CASES.map(({ request }) => hex(request));
  const generator = new RequestGenerator(new Random(seed), corpus);
  let lines = 0;
  const tracer = new DebugTracer((line) => {
    expect(line).toMatch(/^[<>] /);
    expect(line).not.toContain("\n");
    lines++;
  });
  const harness = new Harness({}, 0, { tracer });
  for (let index = 0; index < 10_000; index++) harness.serve(generator.next());
  expect(lines).toBeGreaterThan(10_000);
  quiet.mockRestore();
});
