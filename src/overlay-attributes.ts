// Operations on what a file is: attributes and extended attributes.

import {
  FATTR_ATIME,
  FATTR_ATIME_NOW,
  FATTR_FH,
  FATTR_GID,
  FATTR_LOCKOWNER,
  FATTR_MODE,
  FATTR_MTIME,
  FATTR_MTIME_NOW,
  FATTR_SIZE,
  FATTR_UID,
} from "./abi-fuse.ts";
import {
  S_IFREG,
  S_ISGID,
  stat,
  statx,
  AT_EMPTY_PATH,
  AT_STATX_SYNC_TYPE,
  AT_SYMLINK_NOFOLLOW,
} from "./abi-linux.ts";
import { ENODATA, ENOSYS, EOPNOTSUPP, EPERM, ERANGE, EROFS, ESTALE } from "./errno.ts";
import type { AttrChanges, Context } from "./filesystem.ts";
import { XATTR_NAME_MAX } from "./limits.ts";
import { smallMemory } from "./memory.ts";
import { ATTRIBUTES, DATA, NO_DATA } from "./overlay-copy-up.ts";
import { NODE_APPEND, NODE_IMMUTABLE, NODE_METACOPY } from "./overlay-node-record.ts";
import { OverlayRename } from "./overlay-rename.ts";
import { EMPTY } from "./passthrough-base.ts";
import { ACCESS_ACL, checkPermission } from "./passthrough-attributes.ts";
import type { AttrReply, DataOut, StatfsOut, StatxReply } from "./reply.ts";
import { Name, writeU64, type Bytes } from "./request.ts";
import { getxattr, statx as statxCall } from "./syscall.ts";
import { isAcl } from "./vfs-attributes.ts";

const ACL = "system.posix_acl_";

// Scratch memory of the thread, for all overlays that it serves.
const layerName = smallMemory(XATTR_NAME_MAX + 1);
const statxScratch = smallMemory(statx.sizeof);

export abstract class OverlayAttributes extends OverlayRename {
  /** What users' attributes that look like ours are called in a layer. */
  readonly #layerName = new Name(layerName);

  override getattr(_context: Context, nodeid: number, _fh: number, out: AttrReply): number {
    const result = this.nodes.acquire(nodeid) ? this.showAttr(nodeid, out) : -ESTALE;
    this.nodes.release(nodeid);
    return result;
  }

  override statx(
    _context: Context,
    nodeid: number,
    _fh: number,
    flags: number,
    mask: number,
    out: StatxReply,
  ): number {
    const { nodes, files } = this;
    const isThere = nodes.acquire(nodeid);
    const slot = isThere ? nodes.top(nodeid) : 0;
    const fd = isThere ? files.inodes.acquire(slot) : -ESTALE;
    const how = (flags & AT_STATX_SYNC_TYPE) | AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
    const result = fd < 0 ? fd : statxCall(fd, EMPTY.address, how, mask, statxScratch.address);
    if (result >= 0) {
      statxScratch.i32[statx.stx_ino >> 2] = nodes.inoLow(nodeid);
      statxScratch.i32[(statx.stx_ino >> 2) + 1] = nodes.inoHigh(nodeid);
      this.overrides?.showStatx(fd, this.layerOf(nodeid, slot), statxScratch);
      const links = statx.stx_nlink >> 2;
      statxScratch.u32[links] = this.linksOf(nodeid, statxScratch.u32[links]!);
      if (nodes.flags(nodeid) & NODE_METACOPY)
        writeU64(statxScratch.view, statx.stx_blocks, this.dataBlocks(nodeid));
      out.attrTimeout = this.attrTimeout(nodeid);
      out.copyStatx(statxScratch);
    }
    if (isThere) files.inodes.release(slot);
    nodes.release(nodeid);
    return result;
  }

  override setattr(context: Context, nodeid: number, changes: AttrChanges, out: AttrReply): number {
    const { nodes, files } = this;
    let result = nodes.acquire(nodeid) ? this.#maySet(nodeid, changes) : -ESTALE;
    if (result >= 0 && !this.#changesNothing(nodeid, changes)) {
      const { valid, size } = changes;
      const extent = valid & FATTR_SIZE ? (size === 0 ? NO_DATA : DATA) : ATTRIBUTES;
      const slot = this.copyUp(nodeid, extent);
      result = slot < 0 ? slot : files.setattr(context, slot, changes, out);
    }
    if (result >= 0) result = this.showAttr(nodeid, out);
    nodes.release(nodeid);
    return result;
  }

  /** Whether a protected file may change so. Returns 0 or -EPERM. */
  #maySet(node: number, { valid }: AttrChanges): number {
    const protection = this.protection(node);
    if (protection === 0) return 0;
    const isOpen = (valid & FATTR_FH) !== 0;
    const isSized = (valid & FATTR_SIZE) !== 0;
    // Through a handle that was opened when it was allowed, it still is. Times are only set so when
    // the kernel has collected writes.
    if (isOpen) return isSized && protection & NODE_APPEND ? -EPERM : 0;
    const isTouch =
      (valid & (FATTR_ATIME | FATTR_ATIME_NOW)) !== FATTR_ATIME &&
      (valid & (FATTR_MTIME | FATTR_MTIME_NOW)) !== FATTR_MTIME;
    const isOther = (valid & (FATTR_MODE | FATTR_UID | FATTR_GID)) !== 0;
    return protection & NODE_IMMUTABLE || isSized || isOther || !isTouch ? -EPERM : 0;
  }

  /** It has the mode that is asked for already: no reason to copy a lower file up. */
  #changesNothing(node: number, changes: AttrChanges): boolean {
    const { nodes, stat: memory } = this;
    const asked = changes.valid & ~(FATTR_FH | FATTR_LOCKOWNER);
    if (asked !== FATTR_MODE || nodes.upper(node) !== 0 || this.share.workFd < 0) return false;
    if (this.statNode(node) < 0) return false;
    return ((memory.view.getUint32(stat.st_mode, true) ^ changes.mode) & 0o7777) === 0;
  }

  override readlink(context: Context, nodeid: number, out: DataOut): number {
    const { nodes } = this;
    const result = nodes.acquire(nodeid)
      ? this.files.readlink(context, nodes.top(nodeid), out)
      : -ESTALE;
    nodes.release(nodeid);
    return result;
  }

  override access(context: Context, nodeid: number, mask: number): number {
    const { nodes } = this;
    const isThere = nodes.acquire(nodeid);
    let result = isThere ? this.statNode(nodeid) : -ESTALE;
    if (result >= 0) result = checkPermission(context, this.stat, mask);
    if (result >= 0 && mask & 2 && this.share.workFd < 0 && nodes.type(nodeid) === S_IFREG)
      result = -EROFS;
    nodes.release(nodeid);
    return result;
  }

  /** Of the upper layer, or of the topmost. */
  override statfs(context: Context, _nodeid: number, out: StatfsOut): number {
    return this.files.statfs(context, this.nodes.top(1), out);
  }

  override syncfs(context: Context, _nodeid: number): number {
    const upper = this.nodes.upper(1);
    return upper === 0 || !this.config.fsync ? 0 : this.files.syncfs(context, upper);
  }

  // --- Extended attributes ---

  override getxattr(context: Context, nodeid: number, name: Name, out: DataOut): number {
    const { nodes } = this;
    if (this.config.noxattrs) return -ENOSYS;
    const inLayer = this.#toLayer(name);
    if (inLayer === undefined) return -ENODATA;
    const result = nodes.acquire(nodeid)
      ? this.files.getxattr(context, nodes.top(nodeid), inLayer, out)
      : -ESTALE;
    nodes.release(nodeid);
    return result;
  }

  override setxattr(
    context: Context,
    nodeid: number,
    name: Name,
    value: Bytes,
    flags: number,
    extraFlags: number,
  ): number {
    const { nodes } = this;
    if (this.config.noxattrs) return -ENOSYS;
    const inLayer = this.#toLayer(name);
    if (inLayer === undefined) return isAcl(name) ? -EOPNOTSUPP : -EPERM;
    const allowed = nodes.acquire(nodeid) ? this.mayChange(nodeid) : -ESTALE;
    const slot = allowed < 0 ? allowed : this.copyUp(nodeid);
    const result =
      slot < 0 ? slot : this.files.setxattr(context, slot, inLayer, value, flags, extraFlags);
    nodes.release(nodeid);
    return result;
  }

  override removexattr(context: Context, nodeid: number, name: Name): number {
    const { nodes, files } = this;
    if (this.config.noxattrs) return -ENOSYS;
    const inLayer = this.#toLayer(name);
    if (inLayer === undefined) return -ENODATA;
    let result = nodes.acquire(nodeid) ? this.mayChange(nodeid) : -ESTALE;
    if (result >= 0 && name.is(ACCESS_ACL)) result = this.#killStrangersSgid(context, nodeid);
    // Nothing is copied up for what is not there.
    if (result >= 0 && nodes.upper(nodeid) === 0) {
      const slot = nodes.top(nodeid);
      const fd = files.inodes.acquire(slot);
      result = fd < 0 ? fd : getxattr(files.proc.path(fd), inLayer.address, 0, 0);
      files.inodes.release(slot);
    }
    if (result >= 0) result = this.copyUp(nodeid);
    if (result >= 0) result = files.removexattr(context, result, inLayer);
    nodes.release(nodeid);
    return result;
  }

  /**
   * The kernel tells us when an ACL that is set takes set-group-id away, but not of one that is
   * removed, where its own overlayfs does the same. Returns 0 or -errno.
   */
  #killStrangersSgid(context: Context, node: number): number {
    const { files } = this;
    const { view } = this.stat;
    const known = this.statNode(node);
    if (known < 0 || !(view.getUint32(stat.st_mode, true) & S_ISGID)) return known;
    if (files.keepsSgid(context, view.getUint32(stat.st_gid, true))) return 0;
    const slot = this.copyUp(node);
    const fd = slot < 0 ? slot : files.inodes.acquire(slot);
    const result = fd < 0 ? fd : files.killSgid(fd);
    if (slot >= 0) files.inodes.release(slot);
    return result;
  }

  override listxattr(context: Context, nodeid: number, out: DataOut): number {
    const { nodes } = this;
    const length = nodes.acquire(nodeid)
      ? this.files.listxattr(context, nodes.top(nodeid), out)
      : -ESTALE;
    nodes.release(nodeid);
    return out.limit > 0 && length > 0 ? this.#hidePrivate(out.bytes, length) : length;
  }

  /** Leaves the overlay's own names out. Those of users only become shorter. */
  #hidePrivate(list: Uint8Array, length: number): number {
    const text = Buffer.from(list.buffer, list.byteOffset, length).toString("latin1");
    const names = text.split("\0").filter((name) => name !== "");
    const shown = names
      .map((name) => this.xattrs.toUser(name))
      .filter((name) => name !== undefined && !(this.config.noacl && name.startsWith(ACL)));
    if (shown.length === names.length && shown.every((name, index) => name === names[index]))
      return length;
    const bytes = Buffer.from(shown.map((name) => `${name}\0`).join(""), "latin1");
    if (bytes.length > length) return -ERANGE;
    list.set(bytes);
    return bytes.length;
  }

  /** What a user's attribute is called in a layer; undefined if it is not for users. */
  #toLayer(name: Name): Name | undefined {
    // 't', 'u': of the overlay's own, and of most others, this is all that is needed.
    const first = name.byte(0);
    const isOther = first !== 0x74 && first !== 0x75;
    if (isOther && !this.config.noacl) return name;
    if (this.config.noacl && isAcl(name)) return undefined;
    const text = Buffer.from(name.bytes).toString("latin1");
    if (!this.xattrs.isPrivate(text)) return name;
    const inLayer = this.xattrs.toLayer(text);
    if (inLayer === text || inLayer.length > XATTR_NAME_MAX) return undefined;
    layerName.bytes.set(Buffer.from(`${inLayer}\0`, "latin1"));
    this.#layerName.address = layerName.address;
    this.#layerName.length = inLayer.length;
    return this.#layerName;
  }
}
