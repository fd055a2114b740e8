// What tests of the VFS share: a server over a Vfs, without a kernel, that is sent encoded requests
// and whose replies are decoded; and a small file system in memory with nodeids, inode numbers and
// owners of its own, which counts lookups and remembers what it was told.

import * as abi from "../src/abi-fuse.ts";
import { O_EXCL, O_TRUNC, S_IFDIR, S_IFMT, S_IFREG, statx } from "../src/abi-linux.ts";
import { EEXIST, ENODATA, ENOENT } from "../src/errno.ts";
import {
  FileSystem,
  type AttrChanges,
  type AttrReply,
  type Connection,
  type Context,
  type DataIn,
  type DataOut,
  type DirectoryOut,
  type EntryOut,
  type Name,
  type OpenOut,
  type StatxReply,
} from "../src/filesystem.ts";
import { map, smallMemory, type Memory } from "../src/memory.ts";
import { Reply, type AttrOut } from "../src/reply.ts";
import { readU64, Request, writeU64, type Bytes } from "../src/request.ts";
import { Server } from "../src/server.ts";
import { typeOf, type Layout } from "../src/struct.ts";
import { Vfs, type VfsOptions } from "../src/vfs.ts";
import { CONNECTION } from "./support-server.ts";

export const ROOT = abi.FUSE_ROOT_ID;
/** How far the nodeids of a mount are from those of the next. */
export const APART = 2 ** 32;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The bytes of a struct with the given values, 0 elsewhere. */
export function encode<Names extends string>(
  layout: Layout<Names>,
  values: { readonly [Field in Names]?: number },
): Uint8Array {
  const bytes = new Uint8Array(layout.sizeof);
  const view = new DataView(bytes.buffer);
  for (const { name, offset, type } of typeOf(layout).fields!) {
    const value = values[name as Names];
    if (value === undefined) continue;
    if (type.size === 8) writeU64(view, offset, value);
    else view.setUint32(offset, value, true);
  }
  return bytes;
}

export interface Caller {
  readonly uid?: number;
  readonly gid?: number;
  /** Supplementary groups, in an extension block. */
  readonly groups?: readonly number[];
}

function encodeGroups(groups: readonly number[]): Uint8Array {
  const size = Math.ceil((12 + 4 * groups.length) / 8) * 8;
  return new Uint8Array(
    Uint32Array.from({ length: size / 4 }, (_, index) =>
      index < 3 ? [size, abi.FUSE_EXT_GROUPS, groups.length][index]! : (groups[index - 3] ?? 0),
    ).buffer,
  );
}

/** A request: strings are names and get their NUL. */
export function encodeRequest(
  opcode: number,
  nodeid: number,
  parts: readonly (Uint8Array | string)[],
  { uid = 0, gid = 0, groups }: Caller = {},
): Uint8Array {
  const body = parts.map((part) => (typeof part === "string" ? encoder.encode(`${part}\0`) : part));
  const extensions = groups === undefined ? new Uint8Array(0) : encodeGroups(groups);
  const header = encode(abi.fuse_in_header, { opcode, unique: 77, nodeid, uid, gid, pid: 1 });
  const request = new Uint8Array(Buffer.concat([header, ...body, extensions]));
  const view = new DataView(request.buffer);
  view.setUint32(abi.fuse_in_header.len, request.length, true);
  view.setUint16(abi.fuse_in_header.total_extlen, extensions.length / 8, true);
  return request;
}

export interface Attr {
  readonly ino: bigint;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
}

export interface Entry {
  readonly nodeid: number;
  readonly attr: Attr;
  readonly entryTimeout: number;
}

export interface Listed {
  readonly name: string;
  readonly ino: bigint;
  readonly cookie: number;
  readonly type: number;
  /** READDIRPLUS only. */
  readonly entry?: Entry;
}

function decodeAttr(view: DataView, at: number): Attr {
  const { ino, mode, nlink, uid, gid, size } = abi.fuse_attr;
  const u32 = (field: number): number => view.getUint32(at + field, true);
  return {
    ino: view.getBigUint64(at + ino, true),
    mode: u32(mode),
    nlink: u32(nlink),
    uid: u32(uid),
    gid: u32(gid),
    size: readU64(view, at + size),
  };
}

function decodeEntry(view: DataView, at: number): Entry {
  const { nodeid, entry_valid, attr } = abi.fuse_entry_out;
  return {
    nodeid: readU64(view, at + nodeid),
    attr: decodeAttr(view, at + attr),
    entryTimeout: readU64(view, at + entry_valid),
  };
}

/** A reply, taken apart as what it is said to be. */
export class Answer {
  /** -errno or 0. */
  readonly error: number;
  readonly body: Uint8Array;
  readonly #view: DataView;

  constructor(reply: Uint8Array) {
    this.error = new DataView(reply.buffer).getInt32(abi.fuse_out_header.error, true);
    this.body = reply.slice(abi.fuse_out_header.sizeof);
    this.#view = new DataView(this.body.buffer);
  }

  #mustBeThere(): DataView {
    if (this.error !== 0) throw new Error(`the answer is error ${this.error}`);
    return this.#view;
  }

  get entry(): Entry {
    return decodeEntry(this.#mustBeThere(), 0);
  }

  /** Of an entry. */
  get generation(): bigint {
    return this.#mustBeThere().getBigUint64(abi.fuse_entry_out.generation, true);
  }

  get attr(): Attr {
    return decodeAttr(this.#mustBeThere(), abi.fuse_attr_out.attr);
  }

  get statx(): Attr {
    const view = this.#mustBeThere();
    const at = abi.fuse_statx_out.stat;
    const { ino, mode, nlink, uid, gid, size } = abi.fuse_statx;
    return {
      ino: view.getBigUint64(at + ino, true),
      mode: view.getUint16(at + mode, true),
      nlink: view.getUint32(at + nlink, true),
      uid: view.getUint32(at + uid, true),
      gid: view.getUint32(at + gid, true),
      size: readU64(view, at + size),
    };
  }

  listed(plus: boolean): Listed[] {
    const view = this.#mustBeThere();
    const list: Listed[] = [];
    for (let at = 0; at < view.byteLength;) {
      const dirent = at + (plus ? abi.fuse_direntplus.dirent : 0);
      const { ino, off, namelen, type, sizeof } = abi.fuse_dirent;
      const length = view.getUint32(dirent + namelen, true);
      const start = dirent + sizeof;
      list.push({
        name: decoder.decode(this.body.subarray(start, start + length)),
        ino: view.getBigUint64(dirent + ino, true),
        cookie: readU64(view, dirent + off),
        type: view.getUint32(dirent + type, true),
        ...(plus ? { entry: decodeEntry(view, at) } : {}),
      });
      at = Math.ceil((start + length) / 8) * 8;
    }
    return list;
  }
}

/** A server over a Vfs. */
export class VfsHarness {
  readonly vfs: Vfs;
  readonly server: Server;
  readonly #memory = map(1 << 16);

  constructor(vfs = new Vfs(), flags = 0) {
    this.vfs = vfs;
    const request = new Request(this.#memory, 8);
    const connection: Connection = { ...CONNECTION, flags };
    this.server = new Server(vfs, connection, request, new Reply(map(1 << 16), 8));
  }

  /** Has `request` served; gives the reply, undefined if there is none. */
  serve(request: Uint8Array): Uint8Array | undefined {
    const { server } = this;
    this.#memory.bytes.fill(0xa5);
    this.#memory.bytes.set(request, server.request.base);
    // What an operation does not write must not be what another one has left.
    server.reply.memory.bytes.fill(0xa5);
    const length = server.handle(request.length);
    const { memory, base } = server.reply;
    return length === 0 ? undefined : memory.bytes.slice(base, base + length);
  }

  /** Sends what is never answered. */
  tell(opcode: number, nodeid: number, ...parts: (Uint8Array | string)[]): void {
    if (this.serve(encodeRequest(opcode, nodeid, parts)) !== undefined)
      throw new Error("there is an answer");
  }

  ask(opcode: number, nodeid: number, ...parts: (Uint8Array | string)[]): Answer {
    return this.askAs({}, opcode, nodeid, ...parts);
  }

  askAs(caller: Caller, opcode: number, nodeid: number, ...parts: (Uint8Array | string)[]): Answer {
    return new Answer(this.serve(encodeRequest(opcode, nodeid, parts, caller))!);
  }

  lookup(parent: number, name: string): Answer {
    return this.ask(abi.FUSE_LOOKUP, parent, name);
  }

  /** Looks up every name of a path. */
  walk(path: string): Entry {
    const names = path.split("/").filter((name) => name !== "");
    let entry: Entry = { nodeid: ROOT, attr: this.getattr(ROOT).attr, entryTimeout: 0 };
    for (const name of names) entry = this.lookup(entry.nodeid, name).entry;
    return entry;
  }

  getattr(nodeid: number): Answer {
    return this.ask(abi.FUSE_GETATTR, nodeid, encode(abi.fuse_getattr_in, {}));
  }

  statx(nodeid: number): Answer {
    return this.ask(abi.FUSE_STATX, nodeid, encode(abi.fuse_statx_in, { sx_mask: 0xfff }));
  }

  readdir(nodeid: number, offset = 0, size = 4096): Answer {
    return this.ask(abi.FUSE_READDIR, nodeid, encode(abi.fuse_read_in, { offset, size }));
  }

  readdirplus(nodeid: number, offset = 0, size = 4096): Answer {
    return this.ask(abi.FUSE_READDIRPLUS, nodeid, encode(abi.fuse_read_in, { offset, size }));
  }

  forget(nodeid: number, nlookup: number): void {
    this.tell(abi.FUSE_FORGET, nodeid, encode(abi.fuse_forget_in, { nlookup }));
  }

  rename(from: number, name: string, newdir: number, newName: string): number {
    const where = encode(abi.fuse_rename_in, { newdir });
    return this.ask(abi.FUSE_RENAME, from, where, name, newName).error;
  }

  link(oldnodeid: number, parent: number, name: string): Answer {
    return this.ask(abi.FUSE_LINK, parent, encode(abi.fuse_link_in, { oldnodeid }), name);
  }
}

export interface TinyNode {
  readonly ino: number;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  readonly entries: Map<string, number>;
  readonly xattrs: Map<string, Uint8Array>;
}

const statxScratch: Memory = smallMemory(statx.sizeof);

/** Nodes are numbered from 1 on, and inode numbers from 1000 on, in every one of them. */
export class TinyFs extends FileSystem {
  readonly nodes = new Map<number, TinyNode>();
  /** Lookup counts; those of the root are not kept. */
  readonly lookups = new Map<number, number>();
  readonly connections: Connection[] = [];
  /** The callers of what was made: ids and groups. */
  readonly creators: { uid: number; gid: number; groups: number[] }[] = [];
  /** How often a method was called that others than the kernel may call, too. */
  opened = 0;
  destroyed = 0;

  constructor(owner: { uid: number; gid: number } = { uid: 0, gid: 0 }) {
    super();
    this.#node(S_IFDIR | 0o755, owner);
  }

  #node(mode: number, { uid, gid }: { uid: number; gid: number }): number {
    const nodeid = this.nodes.size + 1;
    const [entries, xattrs] = [new Map<string, number>(), new Map<string, Uint8Array>()];
    const node = { ino: 999 + nodeid, mode, uid, gid, size: 0, entries, xattrs };
    this.nodes.set(nodeid, node);
    return nodeid;
  }

  /** Makes a file, or a directory if `name` ends in a slash; gives its nodeid. */
  add(name: string, change: Partial<TinyNode> = {}, parent = ROOT): number {
    const isDirectory = name.endsWith("/");
    const mode = isDirectory ? S_IFDIR | 0o755 : S_IFREG | 0o644;
    const nodeid = this.#node(mode, { uid: 0, gid: 0 });
    Object.assign(this.nodes.get(nodeid)!, change);
    this.nodes.get(parent)!.entries.set(isDirectory ? name.slice(0, -1) : name, nodeid);
    return nodeid;
  }

  override connected(connection: Connection): void {
    this.connections.push(connection);
  }

  override destroy(): void {
    this.destroyed++;
  }

  #describe(nodeid: number, attr: AttrOut): void {
    const node = this.nodes.get(nodeid)!;
    attr.ino = node.ino;
    attr.mode = node.mode;
    attr.nlink = 1;
    // As many file systems do: what is 0 is not set.
    if (node.uid !== 0) attr.uid = node.uid;
    if (node.gid !== 0) attr.gid = node.gid;
    if (node.size !== 0) attr.size = node.size;
  }

  #enter(nodeid: number, entry: EntryOut): number {
    if (nodeid !== ROOT) this.lookups.set(nodeid, (this.lookups.get(nodeid) ?? 0) + 1);
    entry.nodeid = nodeid;
    entry.entryTimeout = 60;
    this.#describe(nodeid, entry.attr);
    return 0;
  }

  override lookup(_context: Context, parent: number, name: Name, entry: EntryOut): number {
    if (name.isDots) return this.#enter(name.length === 1 ? parent : ROOT, entry);
    const nodeid = this.nodes.get(parent)!.entries.get(name.toString());
    return nodeid === undefined ? -ENOENT : this.#enter(nodeid, entry);
  }

  override forget(nodeid: number, count: number): void {
    const left = (this.lookups.get(nodeid) ?? 0) - count;
    if (left === 0) this.lookups.delete(nodeid);
    else this.lookups.set(nodeid, left);
  }

  override getattr(_context: Context, nodeid: number, _fh: number, out: AttrReply): number {
    this.#describe(nodeid, out.attr);
    return 0;
  }

  override setattr(
    _context: Context,
    nodeid: number,
    { valid, uid, gid, size }: AttrChanges,
    out: AttrReply,
  ): number {
    const node = this.nodes.get(nodeid)!;
    if (valid & abi.FATTR_UID) node.uid = uid;
    if (valid & abi.FATTR_GID) node.gid = gid;
    if (valid & abi.FATTR_SIZE) node.size = size;
    this.#describe(nodeid, out.attr);
    return 0;
  }

  override statx(
    _context: Context,
    nodeid: number,
    _fh: number,
    _flags: number,
    _mask: number,
    out: StatxReply,
  ): number {
    const { view, bytes } = statxScratch;
    const node = this.nodes.get(nodeid)!;
    bytes.fill(0);
    writeU64(view, statx.stx_ino, node.ino);
    writeU64(view, statx.stx_size, node.size);
    view.setUint16(statx.stx_mode, node.mode, true);
    view.setUint32(statx.stx_nlink, 1, true);
    view.setUint32(statx.stx_uid, node.uid, true);
    view.setUint32(statx.stx_gid, node.gid, true);
    out.copyStatx(statxScratch);
    return 0;
  }

  #make(context: Context, parent: number, name: Name, mode: number, entry: EntryOut): number {
    const { uid, gid, extensions } = context;
    const groups: number[] = [];
    for (let index = 0; index < extensions.groupCount; index++) {
      const at = extensions.groups - extensions.memory!.address + 4 * index;
      groups.push(extensions.memory!.view.getUint32(at, true));
    }
    this.creators.push({ uid, gid, groups });
    const { entries } = this.nodes.get(parent)!;
    if (entries.has(name.toString())) return -EEXIST;
    const nodeid = this.#node(mode, { uid, gid });
    entries.set(name.toString(), nodeid);
    return this.#enter(nodeid, entry);
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

  override mknod(
    context: Context,
    parent: number,
    name: Name,
    mode: number,
    _rdev: number,
    _umask: number,
    entry: EntryOut,
  ): number {
    return this.#make(context, parent, name, mode, entry);
  }

  override symlink(
    context: Context,
    parent: number,
    name: Name,
    _target: Name,
    entry: EntryOut,
  ): number {
    return this.#make(context, parent, name, 0o120777, entry);
  }

  override create(
    context: Context,
    parent: number,
    name: Name,
    flags: number,
    mode: number,
    _umask: number,
    _fuseFlags: number,
    entry: EntryOut,
    _out: OpenOut,
  ): number {
    const there = this.nodes.get(parent)!.entries.get(name.toString());
    if (there === undefined || flags & O_EXCL)
      return this.#make(context, parent, name, S_IFREG | mode, entry);
    if (flags & O_TRUNC) this.nodes.get(there)!.size = 0;
    return this.#enter(there, entry);
  }

  override tmpfile(
    { uid, gid }: Context,
    _parent: number,
    _flags: number,
    mode: number,
    _umask: number,
    entry: EntryOut,
    _out: OpenOut,
  ): number {
    this.creators.push({ uid, gid, groups: [] });
    return this.#enter(this.#node(S_IFREG | mode, { uid, gid }), entry);
  }

  override unlink(_context: Context, parent: number, name: Name): number {
    return this.nodes.get(parent)!.entries.delete(name.toString()) ? 0 : -ENOENT;
  }

  override rmdir(context: Context, parent: number, name: Name): number {
    return this.unlink(context, parent, name);
  }

  override rename(
    _context: Context,
    parent: number,
    name: Name,
    newParent: number,
    newName: Name,
  ): number {
    const { entries } = this.nodes.get(parent)!;
    const nodeid = entries.get(name.toString());
    if (nodeid === undefined) return -ENOENT;
    entries.delete(name.toString());
    this.nodes.get(newParent)!.entries.set(newName.toString(), nodeid);
    return 0;
  }

  override link(
    _context: Context,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryOut,
  ): number {
    this.nodes.get(newParent)!.entries.set(newName.toString(), nodeid);
    return this.#enter(nodeid, entry);
  }

  override open(): number {
    this.opened++;
    return 0;
  }

  override write(
    _context: Context,
    nodeid: number,
    _fh: number,
    offset: number,
    _flags: number,
    _writeFlags: number,
    { length }: DataIn,
  ): number {
    const node = this.nodes.get(nodeid)!;
    node.size = Math.max(node.size, offset + length);
    return length;
  }

  override fallocate(): number {
    return 0;
  }

  override copyFileRange(...args: Parameters<FileSystem["copyFileRange"]>): number {
    return args[7];
  }

  override access(): number {
    return 0;
  }

  override setxattr(_context: Context, nodeid: number, name: Name, value: Bytes): number {
    this.nodes.get(nodeid)!.xattrs.set(name.toString(), value.bytes.slice());
    return 0;
  }

  override getxattr(_context: Context, nodeid: number, name: Name, out: DataOut): number {
    const value = this.nodes.get(nodeid)!.xattrs.get(name.toString());
    if (value === undefined) return -ENODATA;
    if (out.limit > 0) out.bytes.set(value);
    return value.length;
  }

  override removexattr(_context: Context, nodeid: number, name: Name): number {
    return this.nodes.get(nodeid)!.xattrs.delete(name.toString()) ? 0 : -ENODATA;
  }

  #list(nodeid: number, after: number, out: DirectoryOut, plus: boolean): number {
    const all: [string, number][] = [
      [".", nodeid],
      ["..", ROOT],
    ];
    all.push(...this.nodes.get(nodeid)!.entries);
    for (const [index, [name, child]] of all.entries()) {
      if (index < after) continue;
      const { ino, mode } = this.nodes.get(child)!;
      if (!out.begin(name.length)) break;
      if (plus && index > 1) this.#enter(child, out.entry);
      out.add(encoder.encode(name), ino, index + 1, (mode & S_IFMT) >> 12);
    }
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
    return this.#list(nodeid, offset, out, false);
  }

  override readdirplus(
    _context: Context,
    nodeid: number,
    _fh: number,
    offset: number,
    _offsetHigh: number,
    out: DirectoryOut,
  ): number {
    return this.#list(nodeid, offset, out, true);
  }
}

/** Two file systems with the same numbers, at /a and /b. */
export function twoMounts(
  options: VfsOptions = {},
  flags = 0,
): {
  harness: VfsHarness;
  a: TinyFs;
  b: TinyFs;
} {
  const harness = new VfsHarness(new Vfs(options), flags);
  const [a, b] = [new TinyFs(), new TinyFs()];
  harness.vfs.mount(a, "/a");
  harness.vfs.mount(b, "/b");
  for (const fs of [a, b]) fs.add("file", { size: 10 });
  return { harness, a, b };
}
