// Compares every constant and struct layout of the ABI files with the system's own C headers: a
// generated C program prints what the compiler says of each, and the numbers must agree.
//
// What a header does not know (it may be older than the protocol we speak) is found by compiling a
// probe of one line an item: the lines in error are unknown. Those must be in the short lists
// below. FUSE_HEADER=/path/to/fuse_kernel.h takes another header in the place of <linux/fuse.h>.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import * as fuse from "../src/abi-fuse.ts";
import * as linux from "../src/abi-linux.ts";
import * as errno from "../src/errno.ts";
import * as memory from "../src/memory.ts";
import * as uring from "../src/abi-uring.ts";
import { typeOf, type Field, type Layout } from "../src/struct.ts";

const compiler = Bun.which("cc") ?? Bun.which("gcc");
const fuseHeader = process.env["FUSE_HEADER"];

/** Headers that can be included together; the first unit that knows a name is believed. */
const UNITS: Record<string, readonly string[]> = {
  fuse: [
    "<stdint.h>",
    "<sys/ioctl.h>",
    fuseHeader === undefined ? "<linux/fuse.h>" : `"${fuseHeader}"`,
  ],
  uring: ["<linux/io_uring.h>"],
  kernel: [
    "<asm/errno.h>",
    "<asm/mman.h>",
    "<asm/poll.h>",
    "<asm/socket.h>",
    "<asm/stat.h>",
    "<asm/statfs.h>",
    "<linux/capability.h>",
    "<linux/falloc.h>",
    "<linux/fcntl.h>",
    "<linux/fs.h>",
    "<linux/futex.h>",
    "<linux/limits.h>",
    "<linux/magic.h>",
    "<linux/mount.h>",
    "<linux/openat2.h>",
    "<linux/prctl.h>",
    "<linux/resource.h>",
    "<linux/sched.h>",
    "<linux/stat.h>",
    "<linux/time_types.h>",
    "<linux/uio.h>",
    "<linux/xattr.h>",
  ],
  xfs: ["<xfs/xfs.h>"],
  libc: [
    "<dirent.h>",
    "<fcntl.h>",
    "<poll.h>",
    "<sys/eventfd.h>",
    "<sys/file.h>",
    "<sys/mman.h>",
    "<sys/mount.h>",
    "<sys/socket.h>",
    "<sys/stat.h>",
  ],
};

/** Structs that C calls otherwise than we do. */
const C_NAMES: Record<string, string> = {
  cap_header: "__user_cap_header_struct",
  cap_data: "__user_cap_data_struct",
  linux_dirent64: "dirent64",
  timespec: "__kernel_timespec",
};

/** Constants that no uapi header has, or that are ours. */
const NOT_IN_HEADERS: Record<string, number> = {
  FUSE_KERNEL_MINOR_VERSION_MIN: 27,
  FUSE_OPCODE_LIMIT: 54,
  FUSE_UNIQUE_RESEND_HIGH: 0x80000000, // The upper half of FUSE_UNIQUE_RESEND.
  FUSE_COMPAT_INIT_IN_SIZE: 16,
  MAX_RW_COUNT: 0x7ffff000, // Of the kernel's include/linux/fs.h, with pages of 4 KiB.
  PAGE_SIZE: 4096,
  AT_STATX_SYNC_TYPE: 0x6000,
  LINUX_DIRENT64_NAME: 19,
  FS_IOC_GETFSUUID: 0x80111500, // Of linux/fs.h since 6.9.
  SQE128_SIZE: 128,
  SQE_CMD: 48,
};

/** Constants newer than the 7.37 of Debian 12's header, by the protocol's minor version. */
const NEWER_CONSTANTS: Record<string, number> = {
  // 7.38
  FUSE_EXPIRE_ONLY: 1,
  FUSE_CREATE_SUPP_GROUP: 1 << (34 - 32),
  FUSE_HAS_EXPIRE_ONLY: 1 << (35 - 32),
  FOPEN_PARALLEL_DIRECT_WRITES: 64,
  FUSE_MAX_NR_SECCTX: 31,
  FUSE_EXT_GROUPS: 32,
  // 7.39
  FUSE_STATX: 52,
  FUSE_DIRECT_IO_ALLOW_MMAP: 1 << (36 - 32),
  // 7.40
  FUSE_PASSTHROUGH: 1 << (37 - 32),
  FUSE_NO_EXPORT_SUPPORT: 1 << (38 - 32),
  FUSE_HAS_RESEND: 1 << (39 - 32),
  FOPEN_PASSTHROUGH: 128,
  FUSE_NOTIFY_RESEND: 7,
  FUSE_DEV_IOC_BACKING_OPEN: 0x4010e501,
  FUSE_DEV_IOC_BACKING_CLOSE: 0x4004e502,
  // 7.41 to 7.45
  FUSE_ALLOW_IDMAP: 1 << (40 - 32),
  FUSE_INVALID_UIDGID: 0xffffffff,
  FUSE_OVER_IO_URING: 1 << (41 - 32),
  FUSE_REQUEST_TIMEOUT: 1 << (42 - 32),
  FUSE_NOTIFY_INC_EPOCH: 8,
  FUSE_NOTIFY_PRUNE: 9,
  FUSE_COPY_FILE_RANGE_64: 53,
};

/** Of FUSE over io_uring, 7.42: sizes and constants of ours that headers may not have. */
const NEWER_URING: Record<string, number> = {
  FUSE_IO_URING_CMD_REGISTER: 1,
  FUSE_IO_URING_CMD_COMMIT_AND_FETCH: 2,
  fuse_uring_ent_in_out: 32,
  fuse_uring_req_header: 288,
  fuse_uring_cmd_req: 24,
};

/** Structs newer than 7.37, with their sizes. */
const NEWER_STRUCTS: Record<string, number> = {
  fuse_ext_header: 8,
  fuse_supp_groups: 4,
  fuse_sx_time: 16,
  fuse_statx: 256,
  fuse_statx_in: 24,
  fuse_statx_out: 288,
  fuse_copy_file_range_out: 8,
  fuse_notify_prune_out: 16,
  fuse_backing_map: 16,
};

/** Fields newer than 7.37, with their offsets; before, they were padding. */
const NEWER_FIELDS: Record<string, number> = {
  "fuse_in_header.total_extlen": 36,
  "fuse_notify_inval_entry_out.flags": 12,
  "fuse_open_out.backing_id": 12,
  "fuse_init_out.max_stack_depth": 36,
  "fuse_init_out.request_timeout": 40,
};

/** Padding has no name worth comparing: it changes when a new field is cut from it. */
const PADDING = /^_*(pad|padding|spare|unused|dummy|reserved)\d*$/;

/** Followed in C by an array, that ours leave out and C counts. */
const SIZE_DIFFERS = new Set(["linux_dirent64"]);

interface Item {
  readonly name: string;
  /** What C is to print, a whole number. */
  readonly expression: string;
  readonly value: number;
}

function constantsOf(module: Record<string, unknown>): Item[] {
  const constants: Item[] = [];
  for (const [name, value] of Object.entries(module))
    if (typeof value === "number" && /^_?[A-Z0-9_]+$/.test(name))
      constants.push({ name, expression: name, value });
  return constants;
}

function structsOf(module: Record<string, unknown>): Map<string, readonly Field[]> {
  const structs = new Map<string, readonly Field[]>();
  for (const [name, value] of Object.entries(module))
    if (typeof value === "object" && value !== null && "sizeof" in value)
      structs.set(name, typeOf(value as Layout).fields!);
  return structs;
}

function sizeOf(module: Record<string, unknown>, name: string): number {
  return (module[name] as Layout).sizeof;
}

function layoutsOf(module: Record<string, unknown>): Item[] {
  const items: Item[] = [];
  for (const [name, fields] of structsOf(module)) {
    const type = `struct ${C_NAMES[name] ?? name}`;
    if (!SIZE_DIFFERS.has(name))
      items.push({ name, expression: `sizeof(${type})`, value: sizeOf(module, name) });
    for (const field of fields) {
      if (PADDING.test(field.name)) continue;
      const member = `${name}.${field.name}`;
      const offset = `offsetof(${type}, ${field.name})`;
      const size = `sizeof(((${type} *)0)->${field.name})`;
      items.push({ name: member, expression: offset, value: field.offset });
      items.push({ name: `sizeof ${member}`, expression: size, value: field.type.size });
    }
  }
  return items;
}

let directory = "";
beforeAll(() => void (directory = mkdtempSync("/tmp/fuse-backend-abi-")));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

async function compile(source: string, flags: string[]): Promise<string> {
  const child = Bun.spawn([compiler!, "-x", "c", "-w", "-fmax-errors=0", ...flags, "-"], {
    stdin: new Blob([source]),
    stderr: "pipe",
    env: { ...process.env, LC_ALL: "C" },
  });
  return await new Response(child.stderr).text();
}

/** What C says of each item that the unit's headers know, by name. */
async function ask(unit: string, items: readonly Item[]): Promise<Map<string, bigint>> {
  const includes = ["<stddef.h>", "<stdio.h>", ...UNITS[unit]!]
    .map((header) => `#include ${header}\n`)
    .join("");
  const head = `#define _GNU_SOURCE\n${includes}`;
  const probe = items.map(
    (item, index) => `long long f${index}(void) { return ${item.expression}; }`,
  );
  const firstLine = head.split("\n").length;
  const errors = await compile(`${head}${probe.join("\n")}\n`, ["-fsyntax-only"]);
  const unknown = new Set<number>();
  for (const [, line] of errors.matchAll(/^<stdin>:(\d+):\d+: error: /gm))
    unknown.add(Number(line) - firstLine);
  if (/fatal error/.test(errors)) throw new Error(`a header is missing:\n${errors}`);

  const known = items.filter((_, index) => !unknown.has(index));
  const prints = known.map(({ expression }) => `  printf("%lld\\n", (long long)(${expression}));`);
  const program = `${head}int main(void) {\n${prints.join("\n")}\n  return 0;\n}\n`;
  const executable = `${directory}/${unit}`;
  const problems = await compile(program, ["-o", executable]);
  if (problems !== "") throw new Error(problems);
  const printed = (await Bun.$`${executable}`.text()).trim().split("\n");
  return new Map(known.map((item, index) => [item.name, BigInt(printed[index]!)]));
}

interface Comparison {
  readonly compared: number;
  readonly wrong: string[];
  readonly unknown: Map<string, number>;
}

/** Compares each item with the first of the units that knows it. */
async function compare(items: readonly Item[], units: readonly string[]): Promise<Comparison> {
  const unknown = new Map(items.map((item) => [item.name, item.value]));
  const wrong: string[] = [];
  for (const unit of units) {
    const rest = items.filter((item) => unknown.has(item.name));
    const said = await ask(unit, rest);
    for (const { name, value } of rest) {
      const actual = said.get(name);
      if (actual === undefined) continue;
      unknown.delete(name);
      // INIT flags of the upper half are numbered from 0 in ours, because they travel in flags2.
      const expected = actual > 0xffffffffn ? actual >> 32n : actual;
      if (BigInt(value) !== expected) wrong.push(`${name} is ${expected} in C, ${value} here`);
    }
  }
  return { compared: items.length - unknown.size, wrong, unknown };
}

describe.skipIf(compiler === null)("against the system's headers", () => {
  test("every FUSE constant has the kernel's value", async () => {
    const items = constantsOf(fuse).filter(({ name }) => name !== "FUSE_KERNEL_MINOR_VERSION");
    const { wrong, unknown, compared } = await compare(items, ["fuse"]);
    expect(wrong).toEqual([]);
    const allowed = { ...NOT_IN_HEADERS, ...NEWER_CONSTANTS };
    for (const [name, value] of unknown)
      expect({ [name]: value }).toEqual({ [name]: allowed[name]! });
    expect(compared).toBeGreaterThan(130);
  });

  test("every FUSE struct has the kernel's size, offsets and field sizes", async () => {
    const { wrong, unknown, compared } = await compare(layoutsOf(fuse), ["fuse"]);
    expect(wrong).toEqual([]);
    for (const [item, value] of unknown) {
      const member = item.replace("sizeof ", "");
      const struct = member.split(".")[0]!;
      if (struct in NEWER_STRUCTS) continue; // Their sizes are tested below.
      const isOffset = item === member;
      expect(NEWER_FIELDS).toHaveProperty([member], isOffset ? value : expect.any(Number));
    }
    expect(compared).toBeGreaterThan(400);
  });

  test("every Linux constant has the kernel's value", async () => {
    const items = [...constantsOf(linux), ...constantsOf(memory)];
    const { wrong, unknown, compared } = await compare(items, ["kernel", "libc", "xfs"]);
    expect(wrong).toEqual([]);
    for (const [name, value] of unknown)
      expect({ [name]: value }).toEqual({ [name]: NOT_IN_HEADERS[name]! });
    expect(compared).toBeGreaterThan(100);
  });

  test("every Linux struct has the kernel's size, offsets and field sizes", async () => {
    const { wrong, unknown, compared } = await compare(layoutsOf(linux), ["kernel", "libc", "xfs"]);
    expect(wrong).toEqual([]);
    expect([...unknown.keys()]).toEqual([]);
    expect(compared).toBeGreaterThan(150);
  });

  test("everything of io_uring is the kernel's", async () => {
    const items = [...constantsOf(uring), ...layoutsOf(uring)];
    const { wrong, unknown, compared } = await compare(items, ["uring", "fuse"]);
    expect(wrong).toEqual([]);
    const allowed = { ...NOT_IN_HEADERS, ...NEWER_URING };
    for (const name of unknown.keys())
      expect(allowed).toHaveProperty([name.replace("sizeof ", "").split(".")[0]!]);
    expect(compared).toBeGreaterThan(70);
  });

  test("the name of a directory entry begins where C's does", async () => {
    const expression = "offsetof(struct dirent64, d_name)";
    const said = await ask("libc", [{ name: "d_name", expression, value: 0 }]);
    expect(said.get("d_name")).toBe(BigInt(linux.LINUX_DIRENT64_NAME));
  });

  test("every error number has the kernel's value", async () => {
    const { wrong, unknown } = await compare(constantsOf(errno), ["kernel"]);
    expect(wrong).toEqual([]);
    expect([...unknown.keys()]).toEqual([]);
  });
});

test("an error number is shown with its own name", () => {
  for (const { name, value } of constantsOf(errno)) {
    expect(errno.errnoName(value)).toBe(name);
    expect(errno.errnoName(-value)).toBe(name);
    expect(errno.errnoMessage(value)).toEndWith(` (${name})`);
  }
  expect(errno.errnoName(-999)).toBe("errno 999");
});

test("what both sides of STATX share lies at the same offsets, so that it is copied whole", () => {
  const kernel = new Map(
    typeOf(linux.statx).fields!.map((field) => [field.name.replace("stx_", ""), field.offset]),
  );
  const wire = typeOf(fuse.fuse_statx).fields!.filter((field) => !field.name.startsWith("__"));
  for (const { name, offset } of wire)
    expect({ name, offset }).toEqual({ name, offset: kernel.get(name)! });
  expect(wire.length).toBe(19);
});

test("what is newer than the system's header is as in the protocol", () => {
  for (const { name, value } of constantsOf(uring))
    if (name in NEWER_URING) expect({ name, value }).toEqual({ name, value: NEWER_URING[name]! });
  for (const name of structsOf(uring).keys())
    if (name in NEWER_URING) expect(sizeOf(uring, name)).toBe(NEWER_URING[name]!);
  for (const [name, size] of Object.entries(NEWER_STRUCTS))
    expect({ name, size: sizeOf(fuse, name) }).toEqual({ name, size });
});
