// Several file systems under one mount: each is mounted at a path of a read-only tree, and a
// request goes to the one whose node it is for. What is mounted where is in vfs-mounts.ts; here are
// the operations, each passed on with what has to be looked at on the way:
//
// - What concerns two nodes of different file systems is refused with EXDEV.
// - What one file system does not know (ENOSYS) must not have the kernel stop asking all of them.
// - Owners are mapped, and files whose owner has no id outside are not changed: what happens then
//   is what happens on the kernel's own idmapped mounts.

import { FATTR_GID, FATTR_SIZE, FATTR_UID, FUSE_ROOT_ID } from "./abi-fuse.ts";
import {
  FALLOC_FL_COLLAPSE_RANGE,
  FALLOC_FL_INSERT_RANGE,
  FALLOC_FL_KEEP_SIZE,
  O_ACCMODE,
  O_APPEND,
  O_EXCL,
  O_RDONLY,
  O_TRUNC,
  RENAME_WHITEOUT,
} from "./abi-linux.ts";
import {
  EACCES,
  EBUSY,
  EEXIST,
  EINVAL,
  ENODATA,
  ENOLCK,
  ENOSYS,
  ENOTTY,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  ESTALE,
  EXDEV,
} from "./errno.ts";
import type {
  AttrChanges,
  Context,
  DataIn,
  FileLock,
  FileSystem,
  LockOwner,
} from "./filesystem.ts";
import type {
  AttrReply,
  DataOut,
  DirectoryOut,
  EntryOut,
  OpenOut,
  StatfsOut,
  StatxReply,
} from "./reply.ts";
import type { Bytes, Name } from "./request.ts";
import {
  hidesEntries,
  isAcl,
  isForeign,
  isForeignEntry,
  isStranger,
  mapAclBytes,
  sizeOf,
  statxByGetattr,
} from "./vfs-attributes.ts";
import { overflowing, VfsMounts, type Served } from "./vfs-mounts.ts";

export type { VfsMount, VfsOptions, VfsState } from "./vfs-mounts.ts";
export { VfsError } from "./vfs-path.ts";

const W_OK = 2;

export class Vfs extends VfsMounts {
  // --- Names ---

  override lookup(context: Context, parent: number, name: Name, entry: EntryOut): number {
    const served = this.route(context, parent);
    const node = this.node;
    if (node === FUSE_ROOT_ID && served.mount.id > 0) {
      const found = this.#lookupFromRoot(served, context, name, entry);
      if (found <= 0) return found;
    }
    if (served.fs.shownNodes !== undefined && name.isDots && name.length === 1)
      return this.#lookupItself(served.fs, context, parent, name, entry);
    return served.fs.lookup(context, node, name, entry);
  }

  /** LOOKUP of `.` in a node that the file system may not know, or not for much longer. */
  #lookupItself(
    fs: FileSystem,
    context: Context,
    nodeid: number,
    name: Name,
    entry: EntryOut,
  ): number {
    const { node } = this;
    const result = node === 0 ? -ESTALE : fs.lookup(context, node, name, entry);
    if (result < 0 && result !== -ESTALE) return result;
    // Another thread may have done a FORGET since, and its number may be a new node's.
    if (result >= 0 && fs.shownNodes?.known(nodeid) === node) return result;
    if (result >= 0) fs.forget(node, 1);
    return fs.revive(context, nodeid, entry);
  }

  /** From the root of a mount the way leads back to the tree; 1 if not. */
  #lookupFromRoot(served: Served, context: Context, name: Name, entry: EntryOut): number {
    const { node } = served.mount;
    let nodeid = 0;
    if (name.isDots) nodeid = name.length === 2 ? this.pseudo.parentOf(node) : 0;
    else if (served.hasBelow) nodeid = this.pseudo.child(node, name);
    if (nodeid === 0 || nodeid === node) return 1;
    context.translation.become(this.tree.translation);
    return this.pseudo.enter(context, nodeid, entry);
  }

  override forget(nodeid: number, count: number): void {
    const { fs, mount } = this.find(nodeid);
    if (mount.id > 0 && this.node !== FUSE_ROOT_ID) fs.forget(this.node, count);
  }

  override readlink(context: Context, nodeid: number, out: DataOut): number {
    return this.route(context, nodeid).fs.readlink(context, this.node, out);
  }

  override symlink(
    context: Context,
    parent: number,
    name: Name,
    target: Name,
    entry: EntryOut,
  ): number {
    const served = this.routeNew(context, parent);
    const node = this.node;
    const refused = this.#mayMake(served, context, node, name);
    if (refused < 0) return refused;
    return this.known(served.fs.symlink(context, node, name, target, entry), -EPERM);
  }

  override mknod(
    context: Context,
    parent: number,
    name: Name,
    mode: number,
    rdev: number,
    umask: number,
    entry: EntryOut,
  ): number {
    const served = this.routeNew(context, parent);
    const node = this.node;
    const refused = this.#mayMake(served, context, node, name);
    if (refused < 0) return refused;
    return this.known(served.fs.mknod(context, node, name, mode, rdev, umask, entry), -EPERM);
  }

  override mkdir(
    context: Context,
    parent: number,
    name: Name,
    mode: number,
    umask: number,
    entry: EntryOut,
  ): number {
    const served = this.routeNew(context, parent);
    const node = this.node;
    const refused = this.#mayMake(served, context, node, name);
    if (refused < 0) return refused;
    return this.known(served.fs.mkdir(context, node, name, mode, umask, entry), -EPERM);
  }

  override unlink(context: Context, parent: number, name: Name): number {
    const served = this.route(context, parent);
    const node = this.node;
    const refused = this.#mayRemove(served, context, node, name);
    return refused < 0 ? refused : this.known(served.fs.unlink(context, node, name), -EPERM);
  }

  override rmdir(context: Context, parent: number, name: Name): number {
    const served = this.route(context, parent);
    const node = this.node;
    const refused = this.#mayRemove(served, context, node, name);
    return refused < 0 ? refused : this.known(served.fs.rmdir(context, node, name), -EPERM);
  }

  /** Whether a name leads back to the tree, whatever the file system has there. */
  #isOfTree({ mount, hasBelow }: Served, parent: number, name: Name): boolean {
    return hasBelow && parent === FUSE_ROOT_ID && this.pseudo.child(mount.node, name) !== 0;
  }

  #mayMake(served: Served, context: Context, parent: number, name: Name): number {
    if (this.#isOfTree(served, parent, name)) return -EEXIST;
    return isForeign(served, context, parent) ? -EACCES : 0;
  }

  #mayRemove(served: Served, context: Context, parent: number, name: Name): number {
    if (this.#isOfTree(served, parent, name)) return -EBUSY;
    if (served.ids === undefined) return 0;
    if (isForeign(served, context, parent)) return -EACCES;
    return isForeignEntry(served, context, parent, name) ? -EOVERFLOW : 0;
  }

  override rename(
    context: Context,
    parent: number,
    name: Name,
    newParent: number,
    newName: Name,
    flags: number,
  ): number {
    const to = this.find(newParent);
    const newNode = this.node;
    // Only what makes a whiteout says who the caller is.
    const makes = (flags & RENAME_WHITEOUT) !== 0;
    const served = makes ? this.routeNew(context, parent) : this.route(context, parent);
    const node = this.node;
    if (served !== to && served !== overflowing) return -EXDEV;
    let refused =
      !makes && isStranger(served, context)
        ? -EOVERFLOW
        : this.#mayRemove(served, context, node, name);
    if (refused === 0) refused = this.#mayRemove(served, context, newNode, newName);
    if (refused < 0) return refused;
    const result = served.fs.rename(context, node, name, newNode, newName, flags);
    return this.known(result, flags === 0 ? -EPERM : -EINVAL);
  }

  override link(
    context: Context,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryOut,
  ): number {
    const to = this.find(newParent);
    const newNode = this.node;
    const served = this.route(context, nodeid);
    const node = this.node;
    if (served !== to) return -EXDEV;
    if (isStranger(served, context)) return -EOVERFLOW;
    const refused = this.#mayMake(served, context, newNode, newName);
    if (refused < 0) return refused;
    if (isForeign(served, context, node)) return -EOVERFLOW;
    return this.known(served.fs.link(context, node, newNode, newName, entry), -EPERM);
  }

  // --- Attributes ---

  override getattr(context: Context, nodeid: number, fh: number, out: AttrReply): number {
    return this.route(context, nodeid).fs.getattr(context, this.node, fh, out);
  }

  override setattr(context: Context, nodeid: number, changes: AttrChanges, out: AttrReply): number {
    if (this.options.sealSize === true && changes.valid & FATTR_SIZE) return -EPERM;
    const served = this.route(context, nodeid);
    const node = this.node;
    if (served.ids !== undefined) {
      const refused = this.#mapChanges(served, context, node, changes);
      if (refused < 0) return refused;
    }
    return this.known(served.fs.setattr(context, node, changes, out), -EPERM);
  }

  #mapChanges(served: Served, context: Context, node: number, changes: AttrChanges): number {
    const ids = served.ids!;
    const { valid } = changes;
    if (valid & FATTR_UID) {
      changes.uid = ids.uidToInternal(changes.uid);
      if (changes.uid < 0) return -EOVERFLOW;
    }
    if (valid & FATTR_GID) {
      changes.gid = ids.gidToInternal(changes.gid);
      if (changes.gid < 0) return -EOVERFLOW;
    }
    // What becomes known need not have been so.
    const kept = ~valid & (FATTR_UID | FATTR_GID);
    return isForeign(served, context, node, kept) ? -EOVERFLOW : 0;
  }

  override statx(
    context: Context,
    nodeid: number,
    fh: number,
    flags: number,
    mask: number,
    out: StatxReply,
  ): number {
    const { fs } = this.route(context, nodeid);
    const { node } = this;
    const result = fs.statx(context, node, fh, flags, mask, out);
    const asks = result === -ENOSYS && this.options.fixed !== true;
    return asks ? statxByGetattr(fs, context, node, fh, out) : result;
  }

  override access(context: Context, nodeid: number, mask: number): number {
    const served = this.route(context, nodeid);
    const node = this.node;
    if (mask & W_OK && isForeign(served, context, node)) return -EACCES;
    return this.known(served.fs.access(context, node, mask), 0);
  }

  override statfs(context: Context, nodeid: number, out: StatfsOut): number {
    return this.known(this.route(context, nodeid).fs.statfs(context, this.node, out), 0);
  }

  override syncfs(context: Context, nodeid: number): number {
    return this.known(this.route(context, nodeid).fs.syncfs(context, this.node), 0);
  }

  override setxattr(
    context: Context,
    nodeid: number,
    name: Name,
    value: Bytes,
    flags: number,
    extraFlags: number,
  ): number {
    const served = this.route(context, nodeid);
    const node = this.node;
    const { ids } = served;
    if (ids !== undefined) {
      if (isForeign(served, context, node)) return -EPERM;
      const result = isAcl(name) ? mapAclBytes(value.bytes, ids, "internal") : 0;
      if (result < 0) return result;
      if (isAcl(name) && hidesEntries(served.fs, ids, context, node, name)) return -EOVERFLOW;
    }
    const result = served.fs.setxattr(context, node, name, value, flags, extraFlags);
    return this.known(result, -EOPNOTSUPP);
  }

  override getxattr(context: Context, nodeid: number, name: Name, out: DataOut): number {
    const { fs, ids } = this.route(context, nodeid);
    const result = fs.getxattr(context, this.node, name, out);
    if (ids !== undefined && result > 0 && out.limit > 0 && isAcl(name))
      return mapAclBytes(out.bytes.subarray(0, result), ids, "external");
    return this.known(result, isAcl(name) ? -ENODATA : -EOPNOTSUPP);
  }

  override listxattr(context: Context, nodeid: number, out: DataOut): number {
    return this.known(
      this.route(context, nodeid).fs.listxattr(context, this.node, out),
      -EOPNOTSUPP,
    );
  }

  override removexattr(context: Context, nodeid: number, name: Name): number {
    const served = this.route(context, nodeid);
    const node = this.node;
    if (isForeign(served, context, node)) return -EPERM;
    return this.known(served.fs.removexattr(context, node, name), -EOPNOTSUPP);
  }

  // --- Files ---

  override open(
    context: Context,
    nodeid: number,
    flags: number,
    fuseFlags: number,
    out: OpenOut,
  ): number {
    if (this.noOpen) return -ENOSYS;
    if (this.options.sealSize === true && flags & O_TRUNC) return -EPERM;
    const served = this.route(context, nodeid);
    const node = this.node;
    const writes = (flags & (O_ACCMODE | O_TRUNC)) !== O_RDONLY;
    if (writes && isForeign(served, context, node)) return -EACCES;
    return this.known(served.fs.open(context, node, flags, fuseFlags, out), 0);
  }

  override create(
    context: Context,
    parent: number,
    name: Name,
    flags: number,
    mode: number,
    umask: number,
    fuseFlags: number,
    entry: EntryOut,
    out: OpenOut,
  ): number {
    const served = this.routeNew(context, parent);
    const node = this.node;
    const refused = this.#mayMake(served, context, node, name);
    if (refused < 0) return refused;
    // A file that somebody else has made meanwhile must not lose what is in it.
    const keeps = this.options.sealSize === true && (flags & (O_TRUNC | O_EXCL)) === O_TRUNC;
    const how = keeps ? flags | O_EXCL : flags;
    const { fs } = served;
    const result = fs.create(context, node, name, how, mode, umask, fuseFlags, entry, out);
    return keeps && result === -EEXIST ? -EPERM : result;
  }

  override tmpfile(
    context: Context,
    parent: number,
    flags: number,
    mode: number,
    umask: number,
    entry: EntryOut,
    out: OpenOut,
  ): number {
    const served = this.routeNew(context, parent);
    const node = this.node;
    if (isForeign(served, context, node)) return -EACCES;
    const result = served.fs.tmpfile(context, node, flags, mode, umask, entry, out);
    return this.known(result, -EOPNOTSUPP);
  }

  override read(
    context: Context,
    nodeid: number,
    fh: number,
    offset: number,
    flags: number,
    out: DataOut,
  ): number {
    return this.route(context, nodeid).fs.read(context, this.node, fh, offset, flags, out);
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
    const served = this.route(context, nodeid);
    const node = this.node;
    // Without an open there was nothing to refuse before.
    if (this.options.noOpen === true && isForeign(served, context, node)) return -EACCES;
    const end = flags & O_APPEND ? Infinity : offset + data.length;
    const refused = this.#maySize(served, context, node, end);
    if (refused < 0) return refused;
    return served.fs.write(context, node, fh, offset, flags, writeFlags, data);
  }

  override flush(context: Context, nodeid: number, fh: number, owner: LockOwner): number {
    return this.known(this.route(context, nodeid).fs.flush(context, this.node, fh, owner), 0);
  }

  override fsync(context: Context, nodeid: number, fh: number, dataOnly: boolean): number {
    return this.known(this.route(context, nodeid).fs.fsync(context, this.node, fh, dataOnly), 0);
  }

  override release(
    context: Context,
    nodeid: number,
    fh: number,
    flags: number,
    releaseFlags: number,
    owner: LockOwner,
  ): number {
    const { fs } = this.route(context, nodeid);
    return this.known(fs.release(context, this.node, fh, flags, releaseFlags, owner), 0);
  }

  override fallocate(
    context: Context,
    nodeid: number,
    fh: number,
    mode: number,
    offset: number,
    length: number,
  ): number {
    const served = this.route(context, nodeid);
    const node = this.node;
    const moves = (mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) !== 0;
    const end = moves ? Infinity : mode & FALLOC_FL_KEEP_SIZE ? 0 : offset + length;
    const refused = this.#maySize(served, context, node, end);
    if (refused < 0) return refused;
    const result = served.fs.fallocate(context, node, fh, mode, offset, length);
    return this.known(result, -EOPNOTSUPP);
  }

  override lseek(
    context: Context,
    nodeid: number,
    fh: number,
    offset: number,
    whence: number,
  ): number {
    const { fs } = this.route(context, nodeid);
    return this.known(fs.lseek(context, this.node, fh, offset, whence), -EINVAL);
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
    const to = this.find(nodeidOut);
    const nodeOut = this.node;
    const served = this.route(context, nodeidIn);
    if (served !== to) return -EXDEV;
    const node = this.node;
    const refused = this.#maySize(served, context, nodeOut, offsetOut + length);
    if (refused < 0) return refused;
    const { fs } = served;
    return this.known(
      fs.copyFileRange(context, node, fhIn, offsetIn, nodeOut, fhOut, offsetOut, length, flags),
      -EOPNOTSUPP,
    );
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
    const { fs } = this.route(context, nodeid);
    return this.known(fs.ioctl(context, this.node, fh, flags, command, data, out), -ENOTTY);
  }

  override poll(
    context: Context,
    nodeid: number,
    fh: number,
    kh: number,
    flags: number,
    events: number,
  ): number {
    const { fs } = this.route(context, nodeid);
    return this.known(fs.poll(context, this.node, fh, kh, flags, events), events);
  }

  override bmap(context: Context, nodeid: number, blockSize: number, block: number): number {
    const { fs } = this.route(context, nodeid);
    return this.known(fs.bmap(context, this.node, blockSize, block), -EINVAL);
  }

  override setupmapping(
    context: Context,
    nodeid: number,
    fh: number,
    fileOffset: number,
    length: number,
    flags: number,
    windowOffset: number,
  ): number {
    const { fs } = this.route(context, nodeid);
    return fs.setupmapping(context, this.node, fh, fileOffset, length, flags, windowOffset);
  }

  override removemapping(
    context: Context,
    nodeid: number,
    windowOffset: number,
    length: number,
  ): number {
    return this.route(context, nodeid).fs.removemapping(context, this.node, windowOffset, length);
  }

  /** EPERM if changing a file up to `end` would change its size, and that is not allowed. */
  #maySize({ fs, mount }: Served, context: Context, node: number, end: number): number {
    if (this.options.sealSize !== true || end === 0 || mount.id === 0) return 0;
    const size = sizeOf(fs, context, node);
    return size < 0 ? size : end > size ? -EPERM : 0;
  }

  // --- Locks ---

  override getlk(
    context: Context,
    nodeid: number,
    fh: number,
    owner: LockOwner,
    lock: FileLock,
  ): number {
    const { fs } = this.route(context, nodeid);
    return this.known(fs.getlk(context, this.node, fh, owner, lock), -ENOLCK);
  }

  override setlk(
    context: Context,
    nodeid: number,
    fh: number,
    owner: LockOwner,
    lock: FileLock,
    isFlock: boolean,
    wait: boolean,
  ): number {
    const { fs } = this.route(context, nodeid);
    return this.known(fs.setlk(context, this.node, fh, owner, lock, isFlock, wait), -ENOLCK);
  }

  /** Nobody says whose request it is. */
  override interrupt(context: Context, uniqueLow: number, uniqueHigh: number): number {
    this.refresh();
    let result = 0;
    for (const { fs } of this.mounts) {
      const own = fs.interrupt(context, uniqueLow, uniqueHigh);
      if (own < 0) result = own;
    }
    return result;
  }

  // --- Directories ---

  override opendir(context: Context, nodeid: number, flags: number, out: OpenOut): number {
    if (this.noOpendir) return -ENOSYS;
    return this.known(this.route(context, nodeid).fs.opendir(context, this.node, flags, out), 0);
  }

  override readdir(
    context: Context,
    nodeid: number,
    fh: number,
    offsetLow: number,
    offsetHigh: number,
    out: DirectoryOut,
  ): number {
    if (this.options.noReaddir === true) return 0;
    const { fs } = this.route(context, nodeid);
    return fs.readdir(context, this.node, fh, offsetLow, offsetHigh, out);
  }

  override readdirplus(
    context: Context,
    nodeid: number,
    fh: number,
    offsetLow: number,
    offsetHigh: number,
    out: DirectoryOut,
  ): number {
    if (this.options.noReaddir === true) return 0;
    const { fs, hasBelow } = this.route(context, nodeid);
    const { node } = this;
    // An entry without a nodeid is a name and no more. The names that lead back to the tree must
    // not become known as what they cover.
    if (hasBelow && node === FUSE_ROOT_ID)
      return fs.readdir(context, node, fh, offsetLow, offsetHigh, out);
    const result = fs.readdirplus(context, node, fh, offsetLow, offsetHigh, out);
    return result === -ENOSYS ? fs.readdir(context, node, fh, offsetLow, offsetHigh, out) : result;
  }

  override releasedir(context: Context, nodeid: number, fh: number, flags: number): number {
    return this.known(this.route(context, nodeid).fs.releasedir(context, this.node, fh, flags), 0);
  }

  override fsyncdir(context: Context, nodeid: number, fh: number, dataOnly: boolean): number {
    return this.known(this.route(context, nodeid).fs.fsyncdir(context, this.node, fh, dataOnly), 0);
  }

  override notifyReply(
    uniqueLow: number,
    uniqueHigh: number,
    nodeid: number,
    offset: number,
    data: Bytes,
  ): void {
    const { fs } = this.find(nodeid);
    fs.notifyReply(uniqueLow, uniqueHigh, this.node, offset, data);
  }
}
