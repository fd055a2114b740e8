// A file system that keeps everything in memory: files and directories, without links. Run it with
// `bun examples/memory.ts MOUNTPOINT`, and end it with Ctrl-C or `umount MOUNTPOINT`; then all is
// gone.
//
// A nodeid stands for a Node. The kernel may know a node that has no name any more (an open file
// that was removed), so a node goes when it has neither a name nor lookups.

import {
  FATTR_ATIME,
  FATTR_GID,
  FATTR_MODE,
  FATTR_MTIME,
  FATTR_SIZE,
  FATTR_UID,
  FUSE_ROOT_ID,
  FileSystem,
  errno,
  linux,
  mountFileSystem,
  type AttrChanges,
  type AttrOut,
  type AttrReply,
  type Context,
  type DataIn,
  type DataOut,
  type DirectoryOut,
  type EntryOut,
  type Name,
} from "../src/index.ts";

const { S_IFDIR, S_IFMT, S_IFREG } = linux;

/** In seconds. Nobody but the kernel changes anything, so it may keep what it knows. */
const TIMEOUT = 86_400;
const SIZE_MAX = 2 ** 30;

interface Entry {
  readonly node: Node;
  /**
   * Its place in the directory, for reading on: it never changes, and grows from entry to entry.
   */
  readonly cookie: number;
}

type Time = [seconds: number, nanoseconds: number];

function now(): Time {
  const milliseconds = Date.now();
  return [Math.floor(milliseconds / 1000), (milliseconds % 1000) * 1e6];
}

class Node {
  readonly id: number;
  mode: number;
  uid: number;
  gid: number;
  hasName = false;
  lookups = 0;
  /** A file's contents, with room to grow. */
  data = new Uint8Array(0);
  size = 0;
  /** A directory's entries by name, and the directory that it is in. */
  readonly entries = new Map<string, Entry>();
  parent: Node = this;
  atime = now();
  mtime = now();

  constructor(id: number, mode: number, uid: number, gid: number) {
    this.id = id;
    this.mode = mode;
    this.uid = uid;
    this.gid = gid;
  }

  get isDirectory(): boolean {
    return (this.mode & S_IFMT) === S_IFDIR;
  }

  /** Makes the contents `size` bytes long; what is new is zero. */
  resize(size: number): void {
    if (size > this.data.length) {
      const larger = new Uint8Array(Math.min(SIZE_MAX, Math.max(size, 2 * this.size, 4096)));
      larger.set(this.data.subarray(0, this.size));
      this.data = larger;
    }
    this.data.fill(0, size, this.size);
    this.size = size;
    this.changed();
  }

  changed(): void {
    this.mtime = now();
  }
}

/** Names are bytes; as the key of a Map they are a character each. */
const key = (name: Name): string => Buffer.from(name.bytes).toString("latin1");

class MemoryFs extends FileSystem {
  readonly #nodes = new Map<number, Node>();
  #lastId = FUSE_ROOT_ID;
  #lastCookie = 2; // 1 and 2 are `.` and `..`

  constructor() {
    super();
    const root = new Node(FUSE_ROOT_ID, S_IFDIR | 0o755, process.getuid!(), process.getgid!());
    root.hasName = true;
    this.#nodes.set(root.id, root);
  }

  /** The kernel only names nodes that it has looked up and not forgotten. */
  #node(nodeid: number): Node {
    const node = this.#nodes.get(nodeid);
    if (node === undefined) throw new Error(`there is no node ${nodeid}`);
    return node;
  }

  // --- Names ---

  override lookup(_context: Context, parent: number, name: Name, entry: EntryOut): number {
    const found = this.#node(parent).entries.get(key(name));
    return found === undefined ? -errno.ENOENT : this.#enter(found.node, entry);
  }

  /** Tells the kernel about a node, which it thereby has looked up. */
  #enter(node: Node, entry: EntryOut): number {
    node.lookups++;
    entry.nodeid = node.id;
    entry.entryTimeout = TIMEOUT;
    entry.attrTimeout = TIMEOUT;
    describe(node, entry.attr);
    return 0;
  }

  override forget(nodeid: number, count: number): void {
    const node = this.#node(nodeid);
    node.lookups -= count;
    this.#dropIfUnused(node);
  }

  #dropIfUnused(node: Node): void {
    if (!node.hasName && node.lookups <= 0) this.#nodes.delete(node.id);
  }

  #add(parent: Node, name: string, node: Node): void {
    parent.entries.set(name, { node, cookie: ++this.#lastCookie });
    node.hasName = true;
    node.parent = parent;
    parent.changed();
  }

  #remove(parent: Node, name: string, node: Node): void {
    parent.entries.delete(name);
    node.hasName = false;
    parent.changed();
    this.#dropIfUnused(node);
  }

  #make(context: Context, parentId: number, name: Name, mode: number, entry: EntryOut): number {
    const parent = this.#node(parentId);
    if (parent.entries.has(key(name))) return -errno.EEXIST;
    const node = new Node(++this.#lastId, mode, context.uid, context.gid);
    this.#nodes.set(node.id, node);
    this.#add(parent, key(name), node);
    return this.#enter(node, entry);
  }

  /** Files that are made by open(2) come here too, since there is no `create`. */
  override mknod(
    context: Context,
    parent: number,
    name: Name,
    mode: number,
    _rdev: number,
    _umask: number,
    entry: EntryOut,
  ): number {
    if ((mode & S_IFMT) !== S_IFREG) return -errno.EPERM;
    return this.#make(context, parent, name, mode, entry);
  }

  override mkdir(
    context: Context,
    parent: number,
    name: Name,
    mode: number,
    _umask: number,
    entry: EntryOut,
  ): number {
    return this.#make(context, parent, name, S_IFDIR | mode, entry);
  }

  override unlink(_context: Context, parent: number, name: Name): number {
    const node = this.#node(parent).entries.get(key(name))?.node;
    if (node === undefined) return -errno.ENOENT;
    if (node.isDirectory) return -errno.EISDIR;
    this.#remove(this.#node(parent), key(name), node);
    return 0;
  }

  override rmdir(_context: Context, parent: number, name: Name): number {
    const node = this.#node(parent).entries.get(key(name))?.node;
    if (node === undefined) return -errno.ENOENT;
    if (!node.isDirectory) return -errno.ENOTDIR;
    if (node.entries.size > 0) return -errno.ENOTEMPTY;
    this.#remove(this.#node(parent), key(name), node);
    return 0;
  }

  /** The kernel has seen to it that no directory comes to lie in itself. */
  override rename(
    _context: Context,
    parentId: number,
    name: Name,
    newParentId: number,
    newName: Name,
    flags: number,
  ): number {
    const [parent, newParent] = [this.#node(parentId), this.#node(newParentId)];
    const node = parent.entries.get(key(name))?.node;
    const target = newParent.entries.get(key(newName))?.node;
    if (node === undefined) return -errno.ENOENT;
    if (flags & ~linux.RENAME_NOREPLACE) return -errno.EINVAL;
    if (flags & linux.RENAME_NOREPLACE && target !== undefined) return -errno.EEXIST;
    if (target === node) return 0;
    if (target !== undefined) {
      if (target.isDirectory && target.entries.size > 0) return -errno.ENOTEMPTY;
      this.#remove(newParent, key(newName), target);
    }
    parent.entries.delete(key(name));
    parent.changed();
    this.#add(newParent, key(newName), node);
    return 0;
  }

  override readdir(
    _context: Context,
    nodeid: number,
    _fh: number,
    offset: number,
    _offsetHigh: number,
    out: DirectoryOut,
  ): number {
    const directory = this.#node(nodeid);
    const add = (name: string, node: Node, cookie: number): boolean => {
      if (cookie <= offset) return true;
      const bytes = Buffer.from(name, "latin1");
      if (!out.begin(bytes.length)) return false;
      out.add(bytes, node.id, cookie, (node.mode & S_IFMT) >> 12);
      return true;
    };
    if (!add(".", directory, 1) || !add("..", directory.parent, 2)) return 0;
    for (const [name, { node, cookie }] of directory.entries) if (!add(name, node, cookie)) break;
    return 0;
  }

  // --- Attributes and contents ---

  override getattr(_context: Context, nodeid: number, _fh: number, out: AttrReply): number {
    out.attrTimeout = TIMEOUT;
    describe(this.#node(nodeid), out.attr);
    return 0;
  }

  override setattr(
    _context: Context,
    nodeid: number,
    changes: AttrChanges,
    out: AttrReply,
  ): number {
    const node = this.#node(nodeid);
    const { valid } = changes;
    if (valid & FATTR_SIZE && changes.size > SIZE_MAX) return -errno.EFBIG;
    if (valid & FATTR_SIZE) node.resize(changes.size);
    if (valid & FATTR_MODE) node.mode = (node.mode & S_IFMT) | (changes.mode & ~S_IFMT);
    if (valid & FATTR_UID) node.uid = changes.uid;
    if (valid & FATTR_GID) node.gid = changes.gid;
    // For "now" the kernel sends the time too.
    if (valid & FATTR_ATIME) node.atime = [changes.atime, changes.atimeNsec];
    if (valid & FATTR_MTIME) node.mtime = [changes.mtime, changes.mtimeNsec];
    out.attrTimeout = TIMEOUT;
    describe(node, out.attr);
    return 0;
  }

  override read(
    _context: Context,
    nodeid: number,
    _fh: number,
    offset: number,
    _flags: number,
    out: DataOut,
  ): number {
    const { data, size } = this.#node(nodeid);
    const part = data.subarray(offset, Math.min(offset + out.limit, size));
    out.bytes.set(part);
    return part.length;
  }

  override write(
    _context: Context,
    nodeid: number,
    _fh: number,
    offset: number,
    _flags: number,
    _writeFlags: number,
    data: DataIn,
  ): number {
    const node = this.#node(nodeid);
    const end = offset + data.length;
    if (end > SIZE_MAX) return -errno.EFBIG;
    if (end > node.size) node.resize(end);
    node.data.set(data.bytes.bytes, offset);
    node.changed();
    return data.length;
  }
}

function describe(node: Node, attr: AttrOut): void {
  attr.ino = node.id;
  attr.mode = node.mode;
  attr.nlink = Number(node.hasName);
  attr.uid = node.uid;
  attr.gid = node.gid;
  attr.size = node.size;
  attr.blocks = Math.ceil(node.size / 512);
  attr.atime(...node.atime);
  attr.mtime(...node.mtime);
  attr.ctime(...node.mtime);
}

const mountpoint = process.argv[2];
if (mountpoint === undefined) throw new Error("usage: bun examples/memory.ts MOUNTPOINT");
const mounted = mountFileSystem(new MemoryFs(), mountpoint);
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => mounted.unmount());
await mounted.closed;
