// Operations on what a file is: attributes and extended attributes.

import { FATTR_FH, FATTR_LOCKOWNER, FATTR_MODE, FATTR_SIZE } from "./abi-fuse.ts";
import {
  S_IFREG,
  stat,
  statx,
  AT_EMPTY_PATH,
  AT_STATX_SYNC_TYPE,
  AT_SYMLINK_NOFOLLOW,
} from "./abi-linux.ts";
import { ENODATA, EPERM, ERANGE, EROFS, ESTALE } from "./errno.ts";
import type { AttrChanges, Context } from "./filesystem.ts";
import { XATTR_NAME_MAX } from "./limits.ts";
import { smallMemory } from "./memory.ts";
import { EMPTY } from "./overlay-base.ts";
import { ATTRIBUTES, DATA, NO_DATA } from "./overlay-copy-up.ts";
import { NODE_METACOPY } from "./overlay-node-record.ts";
import { OverlayRename } from "./overlay-rename.ts";
import type { AttrReply, DataOut, StatfsOut, StatxReply } from "./reply.ts";
import { Name, writeU64, type Bytes } from "./request.ts";
import { fstat, getxattr, statx as statxCall } from "./syscall.ts";

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
    let result = nodes.acquire(nodeid) ? 0 : -ESTALE;
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

  /** It has the mode that is asked for already: no reason to copy a lower file up. */
  #changesNothing(node: number, changes: AttrChanges): boolean {
    const { nodes, files, stat: memory } = this;
    const asked = changes.valid & ~(FATTR_FH | FATTR_LOCKOWNER);
    if (asked !== FATTR_MODE || nodes.upper(node) !== 0 || this.share.workFd < 0) return false;
    const slot = nodes.top(node);
    const fd = files.inodes.acquire(slot);
    const result = fd < 0 ? fd : fstat(fd, memory.address);
    files.inodes.release(slot);
    if (result < 0) return false;
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
    let result = isThere ? this.files.access(context, nodes.top(nodeid), mask) : -ESTALE;
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
    const inLayer = this.#toLayer(name);
    if (inLayer === undefined) return -EPERM;
    const slot = nodes.acquire(nodeid) ? this.copyUp(nodeid) : -ESTALE;
    const result =
      slot < 0 ? slot : this.files.setxattr(context, slot, inLayer, value, flags, extraFlags);
    nodes.release(nodeid);
    return result;
  }

  override removexattr(context: Context, nodeid: number, name: Name): number {
    const { nodes, files } = this;
    const inLayer = this.#toLayer(name);
    if (inLayer === undefined) return -ENODATA;
    let result = nodes.acquire(nodeid) ? 0 : -ESTALE;
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
      .filter((name) => name !== undefined);
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
    if (first !== 0x74 && first !== 0x75) return name;
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
