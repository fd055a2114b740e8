// Operations on the contents of files. A handle is one of the layers' files (overlay-layers.ts): it
// says itself which inode it was opened on. When the file is copied up, handles that were opened on
// the lower one are moved to the copy at their next use.
//
// FUSE passthrough: the kernel goes on with the host file that a handle was opened with, so a lower
// file is not opened so, unless nothing can be copied up. An upper file is, if no handle of its
// lower one is open, because all handles of an inode have to be of one kind.

import {
  FALLOC_FL_KEEP_SIZE,
  FS_APPEND_FL,
  FS_IMMUTABLE_FL,
  FS_IOC_FSGETXATTR,
  FS_IOC_FSSETXATTR,
  FS_IOC_GETFLAGS,
  FS_IOC_SETFLAGS,
  FS_XFLAG_APPEND,
  FS_XFLAG_IMMUTABLE,
  O_ACCMODE,
  O_APPEND,
  O_RDONLY,
  O_TRUNC,
  S_IFDIR,
} from "./abi-linux.ts";
import { EBADF, EISDIR, EPERM, ESTALE } from "./errno.ts";
import type { Connection, Context, DataIn, LockOwner, Wishes } from "./filesystem.ts";
import { OverlayAttributes } from "./overlay-attributes.ts";
import { DATA, NO_DATA } from "./overlay-copy-up.ts";
import { NODE_APPEND, NODE_IMMUTABLE, NODE_PROTECTED } from "./overlay-node-record.ts";
import { storeProtection } from "./overlay-protattr.ts";
import { DOT } from "./passthrough-base.ts";
import type { DataOut, OpenOut } from "./reply.ts";
import type { Bytes } from "./request.ts";
import { close } from "./syscall.ts";

export abstract class OverlayFiles extends OverlayAttributes {
  override init(wishes: Wishes, offeredFlags: number, offeredFlags2: number): void {
    this.files.init(wishes, offeredFlags, offeredFlags2);
  }

  override connected(connection: Connection, device: number): void {
    this.files.connected(connection, device);
  }

  override open(
    context: Context,
    nodeid: number,
    flags: number,
    fuseFlags: number,
    out: OpenOut,
  ): number {
    const { nodes, files } = this;
    let result = nodes.acquire(nodeid) ? 0 : -ESTALE;
    if (result >= 0 && nodes.type(nodeid) === S_IFDIR) result = -EISDIR;
    const isWrite = (flags & O_ACCMODE) !== O_RDONLY || (flags & O_TRUNC) !== 0;
    if (result >= 0 && isWrite)
      result = this.mayWrite(nodeid, (flags & (O_APPEND | O_TRUNC)) === O_APPEND);
    if (result >= 0 && isWrite) result = this.copyUp(nodeid, flags & O_TRUNC ? NO_DATA : DATA);
    if (result >= 0) {
      // What kind of handle it becomes is decided, and counted, before another one is opened.
      nodes.lock(nodeid);
      const slot = this.dataSlot(nodeid);
      files.mayOpenBacked = this.mayOpenBacked(flags) && this.#isBackable(nodeid, slot);
      result = files.open(context, slot, flags, fuseFlags, out);
      files.mayOpenBacked = true;
      nodes.unlock(nodeid);
    }
    nodes.release(nodeid);
    return result;
  }

  #isBackable(node: number, slot: number): boolean {
    const { nodes, files } = this;
    if (this.share.workFd < 0) return true;
    if (slot !== nodes.upper(node)) return false;
    // Of a metadata copy in a lower layer, the data that is open lies further down.
    for (let record = nodes.stack(node); record !== 0; record = nodes.below(record))
      if (files.inodes.opens(nodes.slot(record)) !== 0) return false;
    return true;
  }

  override release(
    context: Context,
    _nodeid: number,
    fh: number,
    flags: number,
    releaseFlags: number,
    owner: LockOwner,
  ): number {
    const slot = this.files.handles.inode(fh);
    return this.files.release(context, slot, fh, flags, releaseFlags, owner);
  }

  /** The slot that a handle is to be used on, after it has followed its file to the upper layer. */
  #follow(nodeid: number, fh: number): number {
    const { nodes, files } = this;
    const slot = files.handles.inode(fh);
    if (slot === 0) return -EBADF;
    let result = slot;
    if (nodes.acquire(nodeid)) {
      const data = this.dataSlot(nodeid);
      if (data !== slot) {
        nodes.lock(nodeid);
        const moved = files.handles.inode(fh) === slot ? files.rebind(fh, data) : 0;
        nodes.unlock(nodeid);
        result = moved < 0 ? moved : data;
      }
    } else {
      result = -ESTALE;
    }
    nodes.release(nodeid);
    return result;
  }

  override read(
    context: Context,
    nodeid: number,
    fh: number,
    offset: number,
    flags: number,
    out: DataOut,
  ): number {
    const slot = this.#follow(nodeid, fh);
    return slot < 0 ? slot : this.files.read(context, slot, fh, offset, flags, out);
  }

  override write(
    context: Context,
    nodeid: number,
    fh: number,
    offset: number,
    flags: number,
    writeFlags: number,
    data: DataIn,
  ): number {
    const slot = this.#follow(nodeid, fh);
    if (slot < 0) return slot;
    return this.files.write(context, slot, fh, offset, flags, writeFlags, data);
  }

  override flush(context: Context, nodeid: number, fh: number, owner: LockOwner): number {
    const slot = this.#follow(nodeid, fh);
    return slot < 0 ? slot : this.files.flush(context, slot, fh, owner);
  }

  override fsync(context: Context, nodeid: number, fh: number, dataOnly: boolean): number {
    if (!this.config.fsync) return 0;
    const slot = this.#follow(nodeid, fh);
    return slot < 0 ? slot : this.files.fsync(context, slot, fh, dataOnly);
  }

  override fallocate(
    context: Context,
    nodeid: number,
    fh: number,
    mode: number,
    offset: number,
    length: number,
  ): number {
    const slot = this.#follow(nodeid, fh);
    const isAdding = (mode & ~FALLOC_FL_KEEP_SIZE) === 0;
    if (slot >= 0 && this.mayWrite(nodeid, isAdding) < 0) return -EPERM;
    return slot < 0 ? slot : this.files.fallocate(context, slot, fh, mode, offset, length);
  }

  override lseek(
    context: Context,
    nodeid: number,
    fh: number,
    offset: number,
    whence: number,
  ): number {
    const slot = this.#follow(nodeid, fh);
    return slot < 0 ? slot : this.files.lseek(context, slot, fh, offset, whence);
  }

  override copyFileRange(
    context: Context,
    nodeidIn: number,
    fhIn: number,
    offsetIn: number,
    nodeidOut: number,
    fhOut: number,
    offsetOut: number,
    length: number,
    flags: number,
  ): number {
    const from = this.#follow(nodeidIn, fhIn);
    const to = from < 0 ? from : this.#follow(nodeidOut, fhOut);
    if (to < 0) return to;
    if (this.mayAdd(nodeidOut) < 0) return -EPERM;
    const { files } = this;
    return files.copyFileRange(context, from, fhIn, offsetIn, to, fhOut, offsetOut, length, flags);
  }

  override poll(
    context: Context,
    nodeid: number,
    fh: number,
    kh: number,
    flags: number,
    events: number,
  ): number {
    const slot = this.#follow(nodeid, fh);
    return slot < 0 ? slot : this.files.poll(context, slot, fh, kh, flags, events);
  }

  override ioctl(
    context: Context,
    nodeid: number,
    fh: number,
    flags: number,
    command: number,
    data: Bytes,
    out: DataOut,
  ): number {
    const { nodes } = this;
    const isSet = command === FS_IOC_SETFLAGS || command === FS_IOC_FSSETXATTR;
    let result = nodes.acquire(nodeid) ? 0 : -ESTALE;
    if (result >= 0 && isSet) result = this.copyUp(nodeid, DATA);
    const protection = isSet && result >= 0 ? this.#takeProtection(command, data) : 0;
    if (result >= 0 && nodes.type(nodeid) === S_IFDIR)
      result = this.#ioctlDirectory(context, nodeid, flags, command, data, out);
    else if (result >= 0) {
      const slot = this.#follow(nodeid, fh);
      result = slot < 0 ? slot : this.files.ioctl(context, slot, fh, flags, command, data, out);
    }
    if (result >= 0 && isSet) result = this.#protect(nodeid, protection);
    else if (result > 0) this.#showProtection(nodeid, command, out);
    nodes.release(nodeid);
    return result;
  }

  /**
   * Takes immutable and append-only out of the flags that the host is to set, if the upper layer
   * can store them: NODE_*.
   */
  #takeProtection(command: number, { bytes }: Bytes): number {
    if (!this.share.hasXattrs) return 0;
    const flags = bytes[0] ?? 0;
    const [immutable, append] = protectionFlags(command);
    bytes[0] = flags & ~(immutable | append);
    return (flags & immutable ? NODE_IMMUTABLE : 0) | (flags & append ? NODE_APPEND : 0);
  }

  /** An upper node has this protection from now on. Returns 0 or -errno. */
  #protect(node: number, protection: number): number {
    const { nodes, files } = this;
    if (protection === (nodes.flags(node) & NODE_PROTECTED)) return 0;
    const slot = nodes.upper(node);
    const fd = files.inodes.acquire(slot);
    let result = Math.min(0, fd);
    if (result >= 0 && this.share.hasXattrs) result = storeProtection(this.xattrs, fd, protection);
    files.inodes.release(slot);
    if (result < 0) return result;
    nodes.clearFlags(node, NODE_PROTECTED & ~protection);
    nodes.setFlags(node, protection);
    return 0;
  }

  #showProtection(node: number, command: number, { bytes }: DataOut): void {
    if (command !== FS_IOC_GETFLAGS && command !== FS_IOC_FSGETXATTR) return;
    const found = this.nodes.flags(node);
    const [immutable, append] = protectionFlags(command);
    bytes[0] =
      (bytes[0] ?? 0) |
      (found & NODE_IMMUTABLE ? immutable : 0) |
      (found & NODE_APPEND ? append : 0);
  }

  /** The handle of a directory is a list, so it is opened for the one call. */
  #ioctlDirectory(
    context: Context,
    nodeid: number,
    flags: number,
    command: number,
    data: Bytes,
    out: DataOut,
  ): number {
    const { files } = this;
    const slot = this.nodes.top(nodeid);
    const inode = files.inodes.acquire(slot);
    const fd = inode < 0 ? inode : files.openAt(inode, DOT.address, O_RDONLY, 0);
    files.inodes.release(slot);
    if (fd < 0) return fd;
    const fh = files.handles.open(slot, fd, O_RDONLY);
    if (fh < 0) {
      close(fd);
      return fh;
    }
    const result = files.ioctl(context, slot, fh, flags, command, data, out);
    files.handles.close(fh, slot);
    return result;
  }
}

/** What immutable and append-only are in the first byte that such an ioctl carries. */
function protectionFlags(command: number): readonly [immutable: number, append: number] {
  return command === FS_IOC_GETFLAGS || command === FS_IOC_SETFLAGS ? FLAGS : XFLAGS;
}
const FLAGS = [FS_IMMUTABLE_FL, FS_APPEND_FL] as const;
const XFLAGS = [FS_XFLAG_IMMUTABLE, FS_XFLAG_APPEND] as const;
