// Copying files up: what is changed must be in the upper layer.
//
// A copy is made ready in the work directory, with everything that belongs to it, and only then
// gets its name, in one step: at any time there is the lower file or the whole copy. A node's lock
// is held while it is copied, so that this is done once; the directories above come first, one by
// one. Only to get its name a copy takes the lock of its directory as well.

import {
  AT_EMPTY_PATH,
  AT_SYMLINK_NOFOLLOW,
  O_CREAT,
  O_EXCL,
  O_NOATIME,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  O_TMPFILE,
  O_WRONLY,
  RENAME_NOREPLACE,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  stat,
  timespec,
} from "./abi-linux.ts";
import { ENOSPC, EOPNOTSUPP, EPERM, EROFS } from "./errno.ts";
import { SYMLINK_TARGET_MAX } from "./limits.ts";
import { log } from "./log.ts";
import { cstring, smallMemory, type Memory } from "./memory.ts";
import { copyContents } from "./overlay-contents.ts";
import { OverlayIndex } from "./overlay-index.ts";
import { EntryName } from "./overlay-name.ts";
import { NODE_INDEXED, NODE_METACOPY, NODE_ORIGIN, NODE_PROTECTED } from "./overlay-node-record.ts";
import { hostProtection, storeProtection } from "./overlay-protattr.ts";
import { DOT, EMPTY } from "./passthrough-base.ts";
import { copyU64, readU64 } from "./request.ts";
import {
  close,
  fchmod,
  fchmodat,
  fchownat,
  fstat,
  fsync,
  getxattr,
  mkdirat,
  mknodat,
  readlinkat,
  renameat2,
  setxattr,
  symlinkat,
  ftruncate,
  utimensat,
} from "./syscall.ts";

const CAPABILITY = cstring("security.capability");

// Scratch memory of the thread, for all overlays that it serves.
const source = smallMemory(stat.sizeof);
const times = smallMemory(2 * timespec.sizeof);
const parentTimes = smallMemory(2 * timespec.sizeof);
const capability = smallMemory(64);
const target = smallMemory(SYMLINK_TARGET_MAX + 1);
const copyName = new EntryName();

/** How much of a file is copied up. */
export type Extent = 0 | 1 | 2;
/** Attributes, and the data unless `metacopy` leaves it for later. */
export const ATTRIBUTES = 0;
/** All of it. */
export const DATA = 1;
/** All but the data, which is about to be cut off. */
export const NO_DATA = 2;

export abstract class OverlayCopyUp extends OverlayIndex {
  /** Whether the work directory's file system has files without names; found out at the first. */
  #hasTmpfile = true;

  /**
   * Makes sure that an acquired node is in the upper layer. Returns the upper slot, or -errno:
   * EROFS if there is no such layer.
   */
  protected copyUp(node: number, extent: Extent = ATTRIBUTES): number {
    const { nodes } = this;
    if (this.#isUp(node, extent)) return nodes.upper(node);
    if (this.share.workFd < 0) return -EROFS;
    const way = [node];
    let parent = nodes.nameOf(node, copyName);
    while (parent !== 0 && nodes.upper(parent) === 0) {
      way.push(parent);
      parent = nodes.nameOf(parent, copyName);
    }
    for (let next = way.pop(); next !== undefined; next = way.pop()) {
      const result = this.#copyUpOne(next, next === node ? extent : ATTRIBUTES);
      if (result < 0) return result;
    }
    return nodes.upper(node);
  }

  /** As `copyUp`, under this name of those that the node may have. */
  protected copyUpAs(parent: number, name: EntryName, node: number, extent: Extent): number {
    if (this.nodes.upper(node) === 0) this.nodes.preferName(parent, name);
    return this.copyUp(node, extent);
  }

  #isUp(node: number, extent: Extent): boolean {
    const { nodes } = this;
    if (nodes.upper(node) === 0) return false;
    return extent === ATTRIBUTES || !(nodes.flags(node) & NODE_METACOPY);
  }

  #copyUpOne(node: number, extent: Extent): number {
    const { nodes } = this;
    nodes.lock(node);
    let result = 0;
    if (!this.#isUp(node, extent))
      result = nodes.upper(node) === 0 ? this.#copy(node, extent) : this.#copyData(node, extent);
    nodes.unlock(node);
    return result;
  }

  /** Under the node's lock. */
  #copy(node: number, extent: Extent): number {
    const { nodes, files } = this;
    const record = nodes.stack(node);
    const lower = nodes.slot(record);
    const parent = nodes.nameOf(node, copyName);
    const upperParent = parent === 0 ? 0 : nodes.upper(parent);
    const from = files.inodes.acquire(lower);
    const dirfd = upperParent === 0 ? -1 : files.inodes.acquire(upperParent);
    let result =
      from < 0 ? from : upperParent !== 0 && dirfd < 0 ? dirfd : fstat(from, source.address);
    if (result >= 0) this.overrides?.show(from, nodes.layer(record), source);
    // Whoever is about to change it has looked at that; what is in it can be changed anyway.
    const protection = result < 0 ? 0 : hostProtection(from);
    nodes.setFlags(node, protection);
    if (result >= 0)
      result = this.#copyFile(node, from, nodes.layer(record), extent, parent, dirfd);
    if (upperParent !== 0) files.inodes.release(upperParent);
    files.inodes.release(lower);
    return result;
  }

  /** `source` is the struct stat of `from`. Under no name if `dirfd` is -1. */
  #copyFile(
    node: number,
    from: number,
    layer: number,
    extent: Extent,
    parent: number,
    dirfd: number,
  ): number {
    const mode = source.view.getUint32(stat.st_mode, true);
    const isFile = (mode & S_IFMT) === S_IFREG;
    const isMetacopy = isFile && extent === ATTRIBUTES && this.#leavesData();
    const made = isFile ? this.#makeFile() : this.#makeOther(from, mode);
    if (made < 0) return made;
    const hasName = !isFile || !this.#hasTmpfile;
    let result = 0;
    if (isMetacopy) result = ftruncate(made, readU64(source.view, stat.st_size));
    else if (isFile && extent !== NO_DATA) result = this.#fillFrom(node, made);
    if (result >= 0) result = this.#dress(node, made, from, mode, layer, isMetacopy);
    if (result >= 0 && isFile && !isMetacopy && this.config.fsync) result = fsync(made);
    if (result >= 0)
      result = this.#place(node, made, hasName, from, layer, isMetacopy, parent, dirfd);
    else if (hasName) this.removeTemporary(mode);
    close(made);
    return result;
  }

  /** Gives the finished copy its names, and the node the copy. Returns 0 or -errno. */
  #place(
    node: number,
    made: number,
    hasName: boolean,
    from: number,
    layer: number,
    isMetacopy: boolean,
    parent: number,
    dirfd: number,
  ): number {
    const mode = source.view.getUint32(stat.st_mode, true);
    const links = source.view.getUint32(stat.st_nlink, true);
    const isGone = dirfd < 0 && this.wasRemoved(from, layer);
    const isIndexed = !isGone && this.getsIndexed(mode, links);
    // What can fail comes first: a copy that has a name is there.
    const slot = this.#enterCopy(made);
    let result = Math.min(0, slot);
    if (result >= 0 && isIndexed) result = this.publishIndexed(made, hasName, from, layer);
    const isInIndex = result >= 0 && isIndexed;
    if (result >= 0 && dirfd >= 0)
      result = this.#publish(made, hasName && !isIndexed, parent, dirfd);
    if (result < 0 && isInIndex) this.removeFromIndex();
    else if (hasName && !isInIndex && (result < 0 || dirfd < 0)) this.removeTemporary(mode);
    if (result >= 0) {
      this.#becomeUpper(node, slot, isMetacopy, parent);
      if (isIndexed) this.beginLinks(node, made, links);
      const isExported = this.config.nfsExport && (mode & S_IFMT) === S_IFDIR && !isGone;
      if (isExported && this.indexMerged(made, from, layer))
        this.nodes.setFlags(node, NODE_INDEXED);
    } else if (slot >= 0) {
      this.files.forgetSlot(slot);
    }
    return result;
  }

  #leavesData(): boolean {
    return this.config.metacopy && this.share.hasXattrs;
  }

  /** An empty file in the work directory; with a name if it can't do without. */
  #makeFile(): number {
    const { files, share } = this;
    if (this.#hasTmpfile) {
      const fd = files.openAt(share.workFd, DOT.address, O_TMPFILE | O_RDWR, 0o600);
      if (fd >= 0 || fd === -ENOSPC) return fd;
      this.#hasTmpfile = false;
    }
    const flags = O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW;
    return files.openAt(share.workFd, this.temporary(), flags, 0o600);
  }

  /** A directory, link or special file in the work directory. Returns an O_PATH descriptor. */
  #makeOther(from: number, mode: number): number {
    const { workFd } = this.share;
    const name = this.temporary();
    const type = mode & S_IFMT;
    let result: number;
    if (type === S_IFDIR) {
      result = mkdirat(workFd, name, 0o700);
    } else if (type === S_IFLNK) {
      const length = readlinkat(from, EMPTY.address, target.address, SYMLINK_TARGET_MAX);
      if (length < 0) return length;
      target.bytes[length] = 0;
      result = symlinkat(target.address, workFd, name);
    } else {
      const rdev = source.view.getUint32(stat.st_rdev, true);
      result = mknodat(workFd, name, type | 0o600, rdev);
    }
    if (result < 0) return result;
    const fd = this.files.openAt(workFd, name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0) this.removeTemporary(mode);
    return fd;
  }

  /** Copies the data of a node, which need not be where its attributes are. */
  #fillFrom(node: number, to: number): number {
    const { inodes } = this.files;
    const data = this.dataSlot(node);
    const from = inodes.acquire(data);
    const result = from < 0 ? from : this.#fill(from, to);
    inodes.release(data);
    return result;
  }

  #fill(from: number, to: number): number {
    const { files } = this;
    let fd = files.reopen(from, O_RDONLY | O_NOATIME);
    if (fd === -EPERM) fd = files.reopen(from, O_RDONLY);
    if (fd < 0) return fd;
    const { view } = source;
    const size = readU64(view, stat.st_size);
    const result = copyContents(fd, to, size, readU64(view, stat.st_blocks));
    close(fd);
    return result;
  }

  /** Gives the copy everything but its contents and its name. */
  #dress(
    node: number,
    to: number,
    from: number,
    mode: number,
    layer: number,
    isMetacopy: boolean,
  ): number {
    const { view } = source;
    const uid = view.getUint32(stat.st_uid, true);
    const gid = view.getUint32(stat.st_gid, true);
    let result = this.dress(to, from, uid, gid, mode);
    if (result >= 0 && this.#keepsOrigin(mode)) result = this.#writeOrigin(to, from, layer);
    if (result >= 0 && isMetacopy) result = this.xattrs.write(to, "metacopy", EMPTY.address, 0);
    if (result >= 0) result = this.#keepProtection(node, to);
    if (result >= 0) result = setTimes(to, source);
    return result;
  }

  #keepProtection(node: number, to: number): number {
    const protection = this.nodes.flags(node) & NODE_PROTECTED;
    if (protection === 0) return 0;
    const result = this.share.hasXattrs
      ? storeProtection(this.xattrs, to, protection)
      : -EOPNOTSUPP;
    if (result !== -EPERM && result !== -EOPNOTSUPP) return result;
    log.warnLimited("a file that may not be changed will be like any other at the next mount");
    return 0;
  }

  /**
   * Gives a file of the upper layer owner, group and mode, and the attributes of the file `from`.
   * Returns 0 or -errno.
   */
  protected dress(to: number, from: number, uid: number, gid: number, mode: number): number {
    const { overrides, xattrs, files } = this;
    let result = 0;
    if (overrides === undefined)
      result = fchownat(to, EMPTY.address, uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
    if (result >= 0) result = xattrs.copy(from, to);
    if (result < 0) return result;
    if (overrides !== undefined) return overrides.give(to, uid, gid, mode);
    if ((mode & S_IFMT) === S_IFLNK) return 0;
    if ((mode & S_IFMT) === S_IFREG) return fchmod(to, mode & 0o7777);
    return fchmodat(files.proc.dirfd, files.proc.name(to), mode & 0o7777);
  }

  /** A name of a lower file with several, copied up on its own, is a file of its own. */
  #keepsOrigin(mode: number): boolean {
    if ((mode & S_IFMT) === S_IFDIR || this.share.indexSlot !== 0) return true;
    return source.view.getUint32(stat.st_nlink, true) === 1;
  }

  #writeOrigin(to: number, from: number, layer: number): number {
    if (!this.share.hasXattrs) return 0;
    const length = this.origins.encode(from, layer);
    const { address } = this.origins.encoded;
    const isOpen = (source.view.getUint32(stat.st_mode, true) & S_IFMT) === S_IFREG;
    const result = isOpen
      ? this.xattrs.writeOpen(to, "origin", address, length)
      : this.xattrs.write(to, "origin", address, length);
    // Links and special files have no attributes that begin with `user.`.
    return result === -EPERM && this.config.userxattr ? 0 : result;
  }

  /** Gives the finished copy its name, which is in `copyName`. */
  #publish(made: number, hasName: boolean, parent: number, dirfd: number): number {
    let result = this.markImpure(parent, dirfd);
    if (result < 0) return result;
    // One at a time: who comes in between would take the time of another's change for the old one.
    this.nodes.lock(parent);
    const hasTimes = fstat(dirfd, this.stat.address) >= 0;
    if (hasTimes) keepTimes(this.stat, parentTimes);
    const name = copyName.address;
    if (hasName)
      result = renameat2(
        this.share.workFd,
        this.temporaryName.address,
        dirfd,
        name,
        RENAME_NOREPLACE,
      );
    else result = this.files.linkFd(made, dirfd, name);
    // Copying a file up is no change of its directory.
    if (result >= 0 && hasTimes) {
      const flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
      utimensat(dirfd, EMPTY.address, parentTimes.address, flags);
    }
    this.nodes.unlock(parent);
    if (result >= 0) this.nodes.changed(parent);
    return result;
  }

  /** The slot of a copy that is ready, or -errno. */
  #enterCopy(made: number): number {
    const { files } = this;
    const fd = files.reopen(made, O_PATH | O_NOFOLLOW);
    if (fd < 0) return fd;
    fstat(fd, files.stat.address);
    return files.slotOf(fd);
  }

  /** The node has `slot`, a copy that has got its name, as its upper part. */
  #becomeUpper(node: number, slot: number, isMetacopy: boolean, parent: number): void {
    const { files, nodes } = this;
    if (this.#keepsOrigin(nodes.type(node))) {
      nodes.setFlags(node, NODE_ORIGIN);
    } else {
      this.#takeIno(node, slot);
      // What the kernel keeps of the directory has the old number.
      if (parent !== 0) files.tellListChanged(nodes.upper(parent));
    }
    if (isMetacopy) nodes.setFlags(node, NODE_METACOPY);
    else nodes.clearFlags(node, NODE_METACOPY);
    nodes.setUpper(node, slot);
    // A copy has times of its own, and maybe another inode number.
    files.tellChanged(slot);
  }

  /** The node gets the inode number of the slot. */
  #takeIno(node: number, slot: number): void {
    const { inodes } = this.files;
    const fd = inodes.acquire(slot);
    const isKnown = fd >= 0 && fstat(fd, this.stat.address) >= 0;
    inodes.release(slot);
    if (!isKnown) return;
    this.foundIno(slot, this.stat);
    this.nodes.setIno(node, this.found.inoLow, this.found.inoHigh);
  }

  /** The attributes are there already: copies the data to where they are. Under the node's lock. */
  #copyData(node: number, extent: Extent): number {
    const { nodes, files } = this;
    const upper = nodes.upper(node);
    const data = this.dataSlot(node);
    const from = files.inodes.acquire(data);
    const to = files.inodes.acquire(upper);
    let result = from < 0 ? from : to < 0 ? to : fstat(to, source.address);
    const fd = result < 0 ? result : files.reopen(to, O_WRONLY);
    if (fd >= 0) {
      // Writing takes capabilities off a file, whoever writes.
      const { proc } = files;
      const { address: name } = CAPABILITY;
      const length = getxattr(proc.path(to), name, capability.address, capability.size);
      result = ftruncate(fd, 0);
      if (result >= 0 && extent !== NO_DATA) result = this.#fill(from, fd);
      if (result >= 0 && length > 0)
        result = setxattr(proc.path(to), name, capability.address, length, 0);
      if (result >= 0 && this.config.fsync) result = fsync(fd);
      if (result >= 0) result = setTimes(fd, source);
      if (result >= 0) result = this.xattrs.remove(to, "metacopy");
      if (result >= 0) nodes.clearFlags(node, NODE_METACOPY);
      files.tellChanged(upper);
      close(fd);
    } else {
      result = fd;
    }
    files.inodes.release(upper);
    files.inodes.release(data);
    return result;
  }
}

/** The times of a struct stat, as utimensat(2) takes them. */
function keepTimes(from: Memory, into: Memory): void {
  copyU64(from.view, stat.st_atime, into.view, timespec.tv_sec);
  copyU64(from.view, stat.st_atime_nsec, into.view, timespec.tv_nsec);
  copyU64(from.view, stat.st_mtime, into.view, timespec.sizeof + timespec.tv_sec);
  copyU64(from.view, stat.st_mtime_nsec, into.view, timespec.sizeof + timespec.tv_nsec);
}

/** Gives the file behind `fd` the times of a struct stat. Returns 0 or -errno. */
export function setTimes(fd: number, from: Memory): number {
  keepTimes(from, times);
  return utimensat(fd, EMPTY.address, times.address, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
}
