// What a VFS (vfs.ts) has to know of its files itself: whether their owners can be shown, and how
// large they are. It asks their file systems, into memory of its own that the kernel never sees.
//
// Files whose owner has no id outside are treated as on the kernel's own idmapped mounts.

import {
  FATTR_GID,
  FATTR_UID,
  FUSE_INVALID_UIDGID,
  fuse_attr,
  fuse_attr_out,
  fuse_entry_out,
} from "./abi-fuse.ts";
import { STATX_BASIC_STATS, statx, statx_timestamp } from "./abi-linux.ts";
import { NO_HANDLE, type Context, type FileSystem } from "./filesystem.ts";
import { mapAcl, type IdMap } from "./id-map.ts";
import { XATTR_SIZE_MAX } from "./limits.ts";
import { map, PAGE_SIZE, smallMemory, type Memory } from "./memory.ts";
import { AttrReply, DataOut, EntryOut, Reply, type StatxReply } from "./reply.ts";
import { copyU64, readU64, type Name } from "./request.ts";
import type { Served } from "./vfs-mounts.ts";

const OWNER = FATTR_UID | FATTR_GID;
const ATTR = fuse_attr_out.attr;

// Scratch memory of the thread, for all that it serves. What is put there is not translated.
const attrScratch = smallMemory(fuse_attr_out.sizeof);
const entryScratch = smallMemory(fuse_entry_out.sizeof);
const statxScratch = smallMemory(statx.sizeof);
const ownAttr = new AttrReply(attrScratch.view);
const ownEntry = new EntryOut(entryScratch.view);
const ownXattr = new DataOut(new Reply(map(XATTR_SIZE_MAX + PAGE_SIZE), 0));

/** Has a file system put the attributes of a node into `attrScratch`; what it leaves out is 0. */
function ask(fs: FileSystem, context: Context, node: number, fh = NO_HANDLE): number {
  attrScratch.bytes.fill(0);
  return fs.getattr(context, node, fh, ownAttr.place(0));
}

/** The size of a file, or -errno. */
export function sizeOf(fs: FileSystem, context: Context, node: number): number {
  const result = ask(fs, context, node);
  return result < 0 ? result : readU64(attrScratch.view, ATTR + fuse_attr.size);
}

/** Whether the caller has no id inside. */
export function isStranger({ ids }: Served, { uid, gid }: Context): boolean {
  if (ids === undefined || uid === FUSE_INVALID_UIDGID) return false;
  return ids.uidToInternal(uid) < 0 || ids.gidToInternal(gid) < 0;
}

/** Whether the owner or the group of a node, or what `which` names of them, can't be shown. */
export function isForeign(
  { fs, ids }: Served,
  context: Context,
  node: number,
  which = OWNER,
): boolean {
  if (ids === undefined || which === 0 || ask(fs, context, node) < 0) return false;
  return !mapsOwner(ids, attrScratch, ATTR, which);
}

/** The same for an entry of a directory. */
export function isForeignEntry(
  { fs, ids }: Served,
  context: Context,
  parent: number,
  name: Name,
): boolean {
  if (ids === undefined) return false;
  entryScratch.bytes.fill(0);
  if (fs.lookup(context, parent, name, ownEntry.place(0)) < 0) return false;
  const node = readU64(entryScratch.view, fuse_entry_out.nodeid);
  if (node === 0) return false;
  fs.forget(node, 1);
  return !mapsOwner(ids, entryScratch, fuse_entry_out.attr, OWNER);
}

function mapsOwner(ids: IdMap, { view }: Memory, at: number, which: number): boolean {
  if (which & FATTR_UID && !ids.hasUid(view.getUint32(at + fuse_attr.uid, true))) return false;
  return !(which & FATTR_GID) || ids.hasGid(view.getUint32(at + fuse_attr.gid, true));
}

/** Answers STATX with what GETATTR says, for a file system that knows no other. */
export function statxByGetattr(
  fs: FileSystem,
  context: Context,
  node: number,
  fh: number,
  out: StatxReply,
): number {
  const result = ask(fs, context, node, fh);
  if (result < 0) return result;
  const { view } = attrScratch;
  const to = statxScratch.view;
  const copyU32 = (from: number, at: number): void =>
    to.setUint32(at, view.getUint32(from, true), true);
  statxScratch.bytes.fill(0);
  to.setUint32(statx.stx_mask, STATX_BASIC_STATS, true);
  to.setUint16(statx.stx_mode, view.getUint32(ATTR + fuse_attr.mode, true), true);
  for (const name of ["blksize", "nlink", "uid", "gid"] as const)
    copyU32(ATTR + fuse_attr[name], statx[`stx_${name}`]);
  for (const name of ["ino", "size", "blocks"] as const)
    copyU64(view, ATTR + fuse_attr[name], to, statx[`stx_${name}`]);
  for (const name of ["atime", "mtime", "ctime"] as const) {
    const at = statx[`stx_${name}`];
    copyU64(view, ATTR + fuse_attr[name], to, at + statx_timestamp.tv_sec);
    copyU32(ATTR + fuse_attr[`${name}nsec`], at + statx_timestamp.tv_nsec);
  }
  const rdev = view.getUint32(ATTR + fuse_attr.rdev, true);
  to.setUint32(statx.stx_rdev_major, (rdev >>> 8) & 0xfff, true);
  to.setUint32(statx.stx_rdev_minor, (rdev & 0xff) | ((rdev >>> 12) & 0xfff00), true);
  const { attr_valid, attr_valid_nsec } = fuse_attr_out;
  out.attrTimeout = readU64(view, attr_valid) + view.getUint32(attr_valid_nsec, true) / 1e9;
  out.copyStatx(statxScratch);
  return 0;
}

const encoder = new TextEncoder();
const ACLS = ["system.posix_acl_access", "system.posix_acl_default"].map((name) =>
  encoder.encode(name),
);

export function isAcl(name: Name): boolean {
  return name.is(ACLS[0]!) || name.is(ACLS[1]!);
}

/** Maps the ids of an ACL in place. Returns its length, which may be less then, or -errno. */
export function mapAclBytes(acl: Uint8Array, ids: IdMap, towards: "internal" | "external"): number {
  const view = new DataView(acl.buffer, acl.byteOffset, acl.length);
  return mapAcl(view, 0, acl.length, ids, towards);
}

/** Whether an ACL has entries that can't be shown, and would be lost if it were replaced. */
export function hidesEntries(
  fs: FileSystem,
  ids: IdMap,
  context: Context,
  node: number,
  name: Name,
): boolean {
  const out = ownXattr.open(XATTR_SIZE_MAX);
  const length = fs.getxattr(context, node, name, out);
  return length > 0 && mapAclBytes(out.bytes.subarray(0, length), ids, "external") !== length;
}
