// A file system with one file. Run it with `bun examples/hello.ts MOUNTPOINT`, read
// MOUNTPOINT/hello, and end it with Ctrl-C or `umount MOUNTPOINT`.

import {
  FUSE_ROOT_ID,
  FileSystem,
  errno,
  linux,
  mountFileSystem,
  type AttrOut,
  type AttrReply,
  type Context,
  type DataOut,
  type DirectoryOut,
  type EntryOut,
  type Name,
} from "../src/index.ts";

const HELLO_ID = 2;
const NAME = "hello";
const TEXT = new TextEncoder().encode("Hello, world!\n");
const TIMEOUT = 60;

/** readdir's types of entries. */
const DT_DIR = 4;
const DT_REG = 8;

class Hello extends FileSystem {
  override lookup(_context: Context, parent: number, name: Name, entry: EntryOut): number {
    if (parent !== FUSE_ROOT_ID || name.toString() !== NAME) return -errno.ENOENT;
    entry.nodeid = HELLO_ID;
    entry.entryTimeout = TIMEOUT;
    entry.attrTimeout = TIMEOUT;
    this.#describe(HELLO_ID, entry.attr);
    return 0;
  }

  override getattr(_context: Context, nodeid: number, _fh: number, out: AttrReply): number {
    out.attrTimeout = TIMEOUT;
    this.#describe(nodeid, out.attr);
    return 0;
  }

  override read(
    _context: Context,
    _nodeid: number,
    _fh: number,
    offset: number,
    _flags: number,
    out: DataOut,
  ): number {
    const part = TEXT.subarray(offset, offset + out.limit);
    out.bytes.set(part);
    return part.length;
  }

  override readdir(
    _context: Context,
    _nodeid: number,
    _fh: number,
    offset: number,
    _offsetHigh: number,
    out: DirectoryOut,
  ): number {
    const entries = [
      [".", FUSE_ROOT_ID, DT_DIR],
      ["..", FUSE_ROOT_ID, DT_DIR],
      [NAME, HELLO_ID, DT_REG],
    ] as const;
    for (const [index, [name, ino, type]] of entries.entries()) {
      if (index < offset) continue;
      const bytes = new TextEncoder().encode(name);
      if (!out.begin(bytes.length)) break;
      out.add(bytes, ino, index + 1, type);
    }
    return 0;
  }

  #describe(nodeid: number, attr: AttrOut): void {
    attr.ino = nodeid;
    attr.mode = nodeid === FUSE_ROOT_ID ? linux.S_IFDIR | 0o755 : linux.S_IFREG | 0o444;
    attr.nlink = nodeid === FUSE_ROOT_ID ? 2 : 1;
    attr.size = nodeid === FUSE_ROOT_ID ? 0 : TEXT.length;
  }
}

const mountpoint = process.argv[2];
if (mountpoint === undefined) throw new Error("usage: bun examples/hello.ts MOUNTPOINT");
const mounted = mountFileSystem(new Hello(), mountpoint);
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => mounted.unmount());
await mounted.closed;
