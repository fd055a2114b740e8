// Options of a passthrough file system, on one that is served without a kernel: by requests that
// the kernel sends only when somebody else has changed the source meanwhile, and with features that
// this kernel always has.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import * as abi from "../src/abi-fuse.ts";
import { O_APPEND, O_CREAT, O_EXCL, O_RDWR, O_TRUNC, O_WRONLY } from "../src/abi-linux.ts";
import { EEXIST, ENOSYS, EPERM } from "../src/errno.ts";
import type { Wishes } from "../src/filesystem.ts";
import type { PassthroughConfig } from "../src/passthrough.ts";
import { readU64 } from "../src/request.ts";
import { Vfs } from "../src/vfs.ts";
import { passthroughFs } from "./support-passthrough.ts";
import { encode, ROOT, VfsHarness } from "./support-vfs.ts";

let source = "";
let mask = 0;
beforeAll(() => {
  // What creates something on this thread takes the caller's.
  mask = process.umask();
  source = mkdtempSync("/tmp/fuse-backend-test-");
});
afterAll(() => {
  process.umask(mask);
  rmSync(source, { recursive: true, force: true });
});

/** Serves the source, which has one file with 10 bytes, over a connection with these features. */
function serve(options: Partial<PassthroughConfig>, flags = 0): VfsHarness {
  writeFileSync(`${source}/file`, "0123456789");
  const harness = new VfsHarness(new Vfs({ fixed: true }), flags);
  harness.vfs.mount(passthroughFs(source, options), "/");
  return harness;
}

const size = (): number => readFileSync(`${source}/file`).length;

describe("seal-size", () => {
  function opened(harness: VfsHarness, flags: number): { nodeid: number; fh: number } {
    const { nodeid } = harness.walk("/file");
    const { body } = harness.ask(abi.FUSE_OPEN, nodeid, encode(abi.fuse_open_in, { flags }));
    return { nodeid, fh: readU64(new DataView(body.buffer), abi.fuse_open_out.fh) };
  }
  const write = (harness: VfsHarness, flags: number, offset: number, length: number): number => {
    const { nodeid, fh } = opened(harness, flags);
    const how = encode(abi.fuse_write_in, { fh, offset, size: length, flags });
    return harness.ask(abi.FUSE_WRITE, nodeid, how, new Uint8Array(length)).error;
  };
  const create = (harness: VfsHarness, name: string, flags: number): number =>
    harness.ask(abi.FUSE_CREATE, ROOT, encode(abi.fuse_create_in, { flags, mode: 0o600 }), name)
      .error;

  test("refuses to append, also where the kernel has an old idea of the end", () => {
    const harness = serve({ sealSize: true });
    for (const offset of [0, 5, 10])
      expect(write(harness, O_WRONLY | O_APPEND, offset, 1)).toBe(-EPERM);
    expect(size()).toBe(10);
    expect(write(harness, O_WRONLY, 9, 1)).toBe(0);
    expect(write(harness, O_WRONLY, 10, 1)).toBe(-EPERM);
    expect(size()).toBe(10);
  });

  test("refuses CREATE with O_TRUNC of a file that is there by then", () => {
    const harness = serve({ sealSize: true });
    const flags = O_CREAT | O_RDWR;
    expect(create(harness, "file", flags | O_TRUNC)).toBe(-EPERM);
    expect(create(harness, "file", flags | O_TRUNC | O_EXCL)).toBe(-EEXIST);
    expect(create(harness, "file", flags)).toBe(0);
    expect(size()).toBe(10);
    expect(create(harness, "new", flags | O_TRUNC)).toBe(0);
  });

  test("is off by default", () => {
    const harness = serve({});
    expect(write(harness, O_WRONLY | O_APPEND, 0, 1)).toBe(0);
    expect(size()).toBe(11);
    expect(create(harness, "file", O_CREAT | O_RDWR | O_TRUNC)).toBe(0);
    expect(size()).toBe(0);
  });
});

describe("no-open and no-opendir", () => {
  const options = { noOpen: true, noOpendir: true, cache: "always" } as const;
  const ask = (harness: VfsHarness): number[] =>
    [
      [abi.FUSE_OPEN, "/file"],
      [abi.FUSE_OPENDIR, "/"],
    ].map(([opcode, path]) => {
      const { nodeid } = harness.walk(path as string);
      return harness.ask(opcode as number, nodeid, encode(abi.fuse_open_in, {})).error;
    });

  test("answer ENOSYS only to a kernel that does not pass it on", () => {
    const { FUSE_NO_OPEN_SUPPORT, FUSE_NO_OPENDIR_SUPPORT } = abi;
    expect(ask(serve(options, FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT))).toEqual([
      -ENOSYS,
      -ENOSYS,
    ]);
    expect(ask(serve(options, FUSE_NO_OPEN_SUPPORT))).toEqual([-ENOSYS, 0]);
    expect(ask(serve(options))).toEqual([0, 0]);
  });

  test("do without handles also where OPEN and OPENDIR succeed", () => {
    const harness = serve(options);
    const { nodeid } = harness.walk("/file");
    const read = encode(abi.fuse_read_in, { size: 100 });
    const { body } = harness.ask(abi.FUSE_READ, nodeid, read);
    expect(new TextDecoder().decode(body)).toBe("0123456789");
    const names = harness.readdir(ROOT).listed(false);
    expect(names.map(({ name }) => name)).toContain("file");
  });

  test.each([
    [true, abi.FUSE_NO_OPEN_SUPPORT],
    [false, abi.FUSE_ATOMIC_O_TRUNC],
  ])("noOpen %p: the kernel truncates where it is seen", (noOpen, expected) => {
    const wishes: Wishes = {
      flags: 0,
      flags2: 0,
      maxStackDepth: 0,
      requestTimeout: 0,
      maxBackground: 64,
      congestionThreshold: 48,
      maxReadahead: 0,
    };
    const { vfs } = serve({ cache: "always", noOpen });
    // Without a VFS around it.
    vfs.rootfs("/")!.init(wishes, -1, -1);
    expect(wishes.flags & (abi.FUSE_NO_OPEN_SUPPORT | abi.FUSE_ATOMIC_O_TRUNC)).toBe(expected);
  });
});
