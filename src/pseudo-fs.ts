// The read-only tree of directories at whose places file systems are mounted (see vfs.ts). It has
// nothing but directories, and answers as a read-only file system does.
//
// Its state is a list of plain data, so that several threads can serve the same tree. A nodeid
// stands for the same directory for ever and is never used again.

import { FUSE_ROOT_ID } from "./abi-fuse.ts";
import {
  AT_STATX_SYNC_TYPE,
  DT_DIR,
  NAME_MAX,
  O_ACCMODE,
  O_RDONLY,
  O_TRUNC,
  S_IFDIR,
  STATX_BASIC_STATS,
  STATX_BTIME,
  statx,
} from "./abi-linux.ts";
import {
  EEXIST,
  EINVAL,
  EISDIR,
  ENODATA,
  ENOENT,
  ENOTTY,
  EOPNOTSUPP,
  EROFS,
  ESTALE,
} from "./errno.ts";
import { FileSystem, type Context, type Wishes } from "./filesystem.ts";
import { PSEUDO_TIMEOUT } from "./limits.ts";
import { PAGE_SIZE, smallMemory, type Memory } from "./memory.ts";
import type {
  AttrOut,
  AttrReply,
  DataOut,
  DirectoryOut,
  EntryOut,
  OpenOut,
  StatfsOut,
  StatxReply,
} from "./reply.ts";
import { writeU64, type Bytes, type Name } from "./request.ts";

/** A directory as plain data; the root is not in the list. */
export interface PseudoDirectory {
  readonly nodeid: number;
  readonly parent: number;
  readonly name: string;
}

/** What is mounted on the directories of the tree. */
export interface Covers {
  /**
   * If something is mounted on the directory: puts the inode number of its root at `ino` of
   * `memory`, fills `entry` if there is one, and returns true.
   */
  show(
    context: Context,
    nodeid: number,
    entry: EntryOut | undefined,
    memory: Memory,
    ino: number,
  ): boolean;
}

interface Node extends PseudoDirectory {
  /** Of its path: in another daemon its number may be that of another directory. */
  readonly generation: number;
  readonly bytes: Uint8Array;
  readonly children: Node[];
}

const MODE = S_IFDIR | 0o555;
const W_OK = 2;

// An entry being listed, for all trees of the thread: inode number, cookie, name.
const listed = smallMemory(16 + NAME_MAX);
const INO = 0;
const COOKIE = 8;
const NAME = 16;
const statxScratch = smallMemory(statx.sizeof);

const encoder = new TextEncoder();

function makeNode(nodeid: number, generation: number, parent: number, name: string): Node {
  return { nodeid, generation, parent, name, bytes: encoder.encode(name), children: [] };
}

const makeRoot = (): Node => makeNode(FUSE_ROOT_ID, 0, FUSE_ROOT_ID, "");

export class PseudoFs extends FileSystem {
  readonly #nodes = new Map<number, Node>();
  readonly #covers: Covers;
  #next = FUSE_ROOT_ID + 1;
  /** Seconds since 1970: when the tree was made. */
  readonly #since: number;

  constructor(covers: Covers, since = Math.floor(Date.now() / 1000)) {
    super();
    this.#covers = covers;
    this.#since = since;
    this.#nodes.set(FUSE_ROOT_ID, makeRoot());
  }

  // --- The tree ---

  /** All directories but the root, parents first. */
  get directories(): PseudoDirectory[] {
    return [...this.#nodes.values()]
      .filter(({ nodeid }) => nodeid !== FUSE_ROOT_ID)
      .map(({ nodeid, parent, name }) => ({ nodeid, parent, name }));
  }

  /** Makes the tree consist of these, parents first. */
  set directories(list: readonly PseudoDirectory[]) {
    this.#nodes.clear();
    this.#nodes.set(FUSE_ROOT_ID, makeRoot());
    for (const { nodeid, parent, name } of list) this.#add(nodeid, parent, name);
  }

  #add(nodeid: number, parent: number, name: string): Node {
    const above = this.#nodes.get(parent)!;
    const generation = Bun.hash.crc32(`/${name}`, above.generation);
    const node = makeNode(nodeid, generation, parent, name);
    this.#nodes.set(nodeid, node);
    above.children.push(node);
    this.#next = Math.max(this.#next, nodeid + 1);
    return node;
  }

  /** The nodeid of the directory at a path, made with its parents if it is missing. */
  ensure(components: readonly string[]): number {
    let node = this.#nodes.get(FUSE_ROOT_ID)!;
    for (const name of components)
      node =
        node.children.find((child) => child.name === name) ??
        this.#add(this.#next, node.nodeid, name);
    return node.nodeid;
  }

  /** The nodeid of the directory at a path, 0 if there is none. */
  find(components: readonly string[]): number {
    let node: Node | undefined = this.#nodes.get(FUSE_ROOT_ID);
    for (const name of components) node = node?.children.find((child) => child.name === name);
    return node?.nodeid ?? 0;
  }

  /** Removes the directories that neither are used nor have others in them. */
  prune(isUsed: (nodeid: number) => boolean): void {
    const leaves = [...this.#nodes.values()].reverse(); // children after their parents
    for (const { nodeid, parent, children } of leaves) {
      if (nodeid === FUSE_ROOT_ID || children.length > 0 || isUsed(nodeid)) continue;
      const siblings = this.#nodes.get(parent)!.children;
      siblings.splice(
        siblings.findIndex((child) => child.nodeid === nodeid),
        1,
      );
      this.#nodes.delete(nodeid);
    }
  }

  /** The nodeid of an entry of a directory, 0 if there is none. */
  child(parent: number, name: Name): number {
    const children = this.#nodes.get(parent)?.children ?? [];
    for (const { nodeid, bytes } of children) if (name.is(bytes)) return nodeid;
    return 0;
  }

  /** The names and nodeids of a directory's entries. */
  children(nodeid: number): readonly PseudoDirectory[] {
    return this.#nodes.get(nodeid)?.children ?? [];
  }

  /** The generation of a directory's path, 0 for the root's. */
  generationOf(nodeid: number): number {
    return this.#nodes.get(nodeid)?.generation ?? 0;
  }

  parentOf(nodeid: number): number {
    return this.#nodes.get(nodeid)?.parent ?? 0;
  }

  // --- What is asked of a file system ---

  override init(_wishes: Wishes): void {}

  /** Fills `entry` with a directory of the tree, or with what is mounted there. */
  enter(context: Context, nodeid: number, entry: EntryOut): number {
    const node = this.#nodes.get(nodeid);
    if (node === undefined) return -ESTALE;
    entry.entryTimeout = PSEUDO_TIMEOUT;
    if (this.#covers.show(context, nodeid, entry, listed, INO)) return 0;
    entry.nodeid = nodeid;
    entry.generation = node.generation;
    entry.attrTimeout = PSEUDO_TIMEOUT;
    this.#describe(node, entry.attr);
    return 0;
  }

  #describe(node: Node, attr: AttrOut): void {
    attr.ino = node.nodeid;
    attr.mode = MODE;
    attr.nlink = 2 + node.children.length;
    attr.blksize = PAGE_SIZE;
    attr.atime(this.#since, 0);
    attr.mtime(this.#since, 0);
    attr.ctime(this.#since, 0);
  }

  override lookup(context: Context, parent: number, name: Name, entry: EntryOut): number {
    const node = this.#nodes.get(parent);
    if (node === undefined) return -ESTALE;
    if (name.isDots) return this.enter(context, name.length === 1 ? parent : node.parent, entry);
    const child = this.child(parent, name);
    return child === 0 ? -ENOENT : this.enter(context, child, entry);
  }

  override getattr(_context: Context, nodeid: number, _fh: number, out: AttrReply): number {
    const node = this.#nodes.get(nodeid);
    if (node === undefined) return -ESTALE;
    out.attrTimeout = PSEUDO_TIMEOUT;
    this.#describe(node, out.attr);
    return 0;
  }

  override statx(
    _context: Context,
    nodeid: number,
    _fh: number,
    flags: number,
    _mask: number,
    out: StatxReply,
  ): number {
    const node = this.#nodes.get(nodeid);
    if (node === undefined) return -ESTALE;
    if ((flags & AT_STATX_SYNC_TYPE) === AT_STATX_SYNC_TYPE) return -EINVAL;
    const { view, bytes } = statxScratch;
    bytes.fill(0);
    view.setUint32(statx.stx_mask, STATX_BASIC_STATS | STATX_BTIME, true);
    view.setUint32(statx.stx_blksize, PAGE_SIZE, true);
    view.setUint32(statx.stx_nlink, 2 + node.children.length, true);
    view.setUint16(statx.stx_mode, MODE, true);
    writeU64(view, statx.stx_ino, nodeid);
    for (const time of [statx.stx_atime, statx.stx_btime, statx.stx_ctime, statx.stx_mtime])
      writeU64(view, time, this.#since);
    out.attrTimeout = PSEUDO_TIMEOUT;
    out.copyStatx(statxScratch);
    return 0;
  }

  override access(_context: Context, _nodeid: number, mask: number): number {
    return mask & W_OK ? -EROFS : 0;
  }

  override statfs(_context: Context, _nodeid: number, out: StatfsOut): number {
    out.bsize = PAGE_SIZE;
    out.frsize = PAGE_SIZE;
    out.namelen = NAME_MAX;
    out.files = this.#nodes.size;
    return 0;
  }

  override opendir(_context: Context, nodeid: number, _flags: number, out: OpenOut): number {
    out.fh = 0;
    return this.#nodes.has(nodeid) ? 0 : -ESTALE;
  }

  override readdir(
    context: Context,
    nodeid: number,
    _fh: number,
    offsetLow: number,
    _offsetHigh: number,
    out: DirectoryOut,
  ): number {
    return this.#list(context, nodeid, offsetLow, out, false);
  }

  override readdirplus(
    context: Context,
    nodeid: number,
    _fh: number,
    offsetLow: number,
    _offsetHigh: number,
    out: DirectoryOut,
  ): number {
    return this.#list(context, nodeid, offsetLow, out, true);
  }

  /**
   * The cookies of `.` and `..` are 1 and 2, that of a child is its nodeid and one: they stay right
   * when others come and go.
   */
  #list(context: Context, nodeid: number, after: number, out: DirectoryOut, plus: boolean): number {
    const node = this.#nodes.get(nodeid);
    if (node === undefined) return 0; // it was removed: nothing is in it any more
    if (after < 1 && !this.#addEntry(context, nodeid, ".", 1, out, false)) return 0;
    if (after < 2 && !this.#addEntry(context, node.parent, "..", 2, out, false)) return 0;
    for (const child of node.children) {
      const cookie = child.nodeid + 1;
      if (cookie <= after) continue;
      if (!this.#addEntry(context, child.nodeid, child.bytes, cookie, out, plus)) break;
    }
    return 0;
  }

  /** Adds an entry; false if it does not fit. */
  #addEntry(
    context: Context,
    nodeid: number,
    name: string | Uint8Array,
    cookie: number,
    out: DirectoryOut,
    plus: boolean,
  ): boolean {
    if (!out.begin(name.length)) return false;
    if (typeof name === "string") encoder.encodeInto(name, listed.bytes.subarray(NAME));
    else listed.bytes.set(name, NAME);
    writeU64(listed.view, COOKIE, cookie);
    if (plus) this.enter(context, nodeid, out.entry);
    const isItself = cookie === 1;
    if (isItself || !this.#covers.show(context, nodeid, undefined, listed, INO))
      writeU64(listed.view, INO, nodeid);
    out.commit(listed, NAME, name.length, INO, COOKIE, DT_DIR);
    return true;
  }

  override fsyncdir(): number {
    return 0;
  }

  override syncfs(): number {
    return 0;
  }

  override readlink(): number {
    return -EINVAL;
  }

  override getxattr(_context: Context, _nodeid: number, _name: Name, _out: DataOut): number {
    return -ENODATA;
  }

  override listxattr(): number {
    return 0;
  }

  override open(_context: Context, _nodeid: number, flags: number): number {
    return (flags & (O_ACCMODE | O_TRUNC)) === O_RDONLY ? -EISDIR : -EROFS;
  }

  override read(): number {
    return -EISDIR;
  }

  override lseek(): number {
    return -EINVAL;
  }

  override bmap(): number {
    return -EINVAL;
  }

  override ioctl(): number {
    return -ENOTTY;
  }

  override poll(
    _context: Context,
    _nodeid: number,
    _fh: number,
    _kh: number,
    _flags: number,
    events: number,
  ): number {
    return events;
  }

  override flush(): number {
    return 0;
  }

  override fsync(): number {
    return 0;
  }

  override getlk(): number {
    return -EINVAL;
  }

  override setlk(): number {
    return -EINVAL;
  }

  override setupmapping(): number {
    return -EOPNOTSUPP;
  }

  override removemapping(): number {
    return -EOPNOTSUPP;
  }

  // Everything that would change something.

  override setattr(): number {
    return -EROFS;
  }

  override setxattr(
    _context: Context,
    _nodeid: number,
    _name: Name,
    _value: Bytes,
    _flags: number,
  ): number {
    return -EROFS;
  }

  override removexattr(): number {
    return -EROFS;
  }

  #refuseNew(parent: number, name: Name): number {
    return this.child(parent, name) === 0 ? -EROFS : -EEXIST;
  }

  override symlink(_context: Context, parent: number, name: Name): number {
    return this.#refuseNew(parent, name);
  }

  override mknod(_context: Context, parent: number, name: Name): number {
    return this.#refuseNew(parent, name);
  }

  override mkdir(_context: Context, parent: number, name: Name): number {
    return this.#refuseNew(parent, name);
  }

  override create(_context: Context, parent: number, name: Name): number {
    return this.#refuseNew(parent, name);
  }

  override link(_context: Context, _nodeid: number, newParent: number, newName: Name): number {
    return this.#refuseNew(newParent, newName);
  }

  override tmpfile(): number {
    return -EROFS;
  }

  override unlink(): number {
    return -EROFS;
  }

  override rmdir(): number {
    return -EROFS;
  }

  override rename(): number {
    return -EROFS;
  }

  override write(): number {
    return -EROFS;
  }

  override fallocate(): number {
    return -EROFS;
  }

  override copyFileRange(): number {
    return -EROFS;
  }
}
