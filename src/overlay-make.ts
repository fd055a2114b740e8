// Making files: they are made in the upper layer.
//
// Where a whiteout is in the way, the new file is made in a stage: a directory in the work
// directory that has what a new file takes from its directory (group, default ACL). From there it
// takes the whiteout's place in one step, so that at no time the lower file is seen.

import {
  AT_EMPTY_PATH,
  AT_REMOVEDIR,
  AT_SYMLINK_NOFOLLOW,
  O_EXCL,
  O_NOFOLLOW,
  O_PATH,
  RENAME_EXCHANGE,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_ISGID,
  stat,
} from "./abi-linux.ts";
import { EEXIST, EINVAL, ENAMETOOLONG, ENOENT, EPERM, ESTALE } from "./errno.ts";
import type { Context } from "./filesystem.ts";
import { cstring, smallMemory, type Address } from "./memory.ts";
import { DATA } from "./overlay-copy-up.ts";
import { OverlayList } from "./overlay-list.ts";
import { EntryName } from "./overlay-name.ts";
import { NODE_ORIGIN } from "./overlay-node-record.ts";
import { UPPER_LAYER } from "./overlay-override.ts";
import { isWhiteoutName, whiteoutPath } from "./overlay-whiteout.ts";
import { EMPTY } from "./passthrough-base.ts";
import type { EntryOut, OpenOut } from "./reply.ts";
import type { Name } from "./request.ts";
import {
  close,
  fchmodat,
  fchownat,
  fstat,
  getxattr,
  mkdirat,
  renameat2,
  setxattr,
  unlinkat,
} from "./syscall.ts";

const DEFAULT_ACL = cstring("system.posix_acl_default");
const ACL_MAX = 65_536;

// Scratch memory of the thread, for all overlays that it serves.
const acl = smallMemory(ACL_MAX);
const stageStat = smallMemory(stat.sizeof);
const stageName = new EntryName();

export abstract class OverlayMake extends OverlayList {
  override symlink(
    context: Context,
    parent: number,
    name: Name,
    target: Name,
    entry: EntryOut,
  ): number {
    return this.#make(context, parent, name, S_IFLNK, 0, 0, target, entry);
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
    // It would be a whiteout.
    if ((mode & S_IFMT) === S_IFCHR && rdev === 0) return -EPERM;
    return this.#make(context, parent, name, mode, rdev, umask, undefined, entry);
  }

  override mkdir(
    context: Context,
    parent: number,
    name: Name,
    mode: number,
    umask: number,
    entry: EntryOut,
  ): number {
    const full = S_IFDIR | (mode & ~S_IFMT);
    return this.#make(context, parent, name, full, 0, umask, undefined, entry);
  }

  /** Makes what the type in `mode` says; `target` is that of a symbolic link. */
  #make(
    context: Context,
    parent: number,
    name: Name,
    mode: number,
    rdev: number,
    umask: number,
    target: Name | undefined,
    entry: EntryOut,
  ): number {
    const { files } = this;
    const isDirectory = (mode & S_IFMT) === S_IFDIR;
    const directory = this.#begin(parent, name);
    let result = directory;
    if (directory > 0) {
      result = files.make(context, directory, name, mode, rdev, umask, target, entry);
      if (result === -EEXIST) {
        const stage = this.#stage(directory);
        if (stage < 0) result = stage;
        else result = files.make(context, stage, name, mode, rdev, umask, target, entry);
        if (result >= 0 && isDirectory) result = this.#hideBelow(files.entered);
        result = this.#leaveStage(stage, directory, result, isDirectory);
      } else if (result >= 0 && isDirectory && this.nodes.stack(parent) !== 0) {
        // Nothing is below, but so nobody needs to look; it does no harm if that can't be said.
        this.#hideBelow(files.entered);
      }
    }
    return this.#end(parent, directory, result, entry);
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
    const directory = this.#begin(parent, name);
    const { files } = this;
    const host = flags | O_EXCL;
    files.mayOpenBacked = this.mayOpenBacked(flags);
    let result = directory;
    if (directory > 0) {
      result = files.create(context, directory, name, host, mode, umask, fuseFlags, entry, out);
      if (result === -EEXIST) {
        const stage = this.#stage(directory);
        if (stage < 0) result = stage;
        else result = files.create(context, stage, name, host, mode, umask, fuseFlags, entry, out);
        result = this.#leaveStage(stage, directory, result, false);
      }
    }
    files.mayOpenBacked = true;
    return this.#end(parent, directory, result, entry);
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
    const { nodes, files } = this;
    this.#wasStaged = false;
    let result = nodes.acquire(parent) ? this.mayAdd(parent) : -ESTALE;
    if (result >= 0) result = this.copyUp(parent);
    if (result > 0) result = files.tmpfile(context, result, flags, mode, umask, entry, out);
    if (result >= 0) {
      this.#takeMade();
      result = this.#enterMade(nodes.addNameless(this.found), entry);
    }
    nodes.release(parent);
    return result;
  }

  /** Whether what was made last came by a stage. */
  #wasStaged = false;

  /** Takes the request's name. Returns the slot of the upper directory, or -errno. */
  #begin(parent: number, name: Name): number {
    const { nodes } = this;
    this.#wasStaged = false;
    if (!nodes.acquire(parent)) return -ESTALE;
    if (!this.name.set(name)) return -ENAMETOOLONG;
    if (this.hidesPrefix && isWhiteoutName(this.name)) return -EINVAL;
    const allowed = this.mayAdd(parent);
    return allowed < 0 ? allowed : this.copyUp(parent);
  }

  /** Makes a node of what was made, if `result` says so, and lets go of `parent`. */
  #end(parent: number, directory: number, made: number, entry: EntryOut): number {
    const { nodes } = this;
    let result = made;
    if (result >= 0) {
      if (!this.share.makesDevices) this.removeWhiteoutFile(directory, this.name);
      nodes.changed(parent);
      this.#takeMade();
      result = this.#enterMade(nodes.addMade(parent, this.name, this.found), entry);
    } else {
      entry.nodeid = 0;
    }
    nodes.release(parent);
    return result;
  }

  #takeMade(): void {
    const { found, files } = this;
    found.clear();
    found.upper = files.entered;
    found.key = files.entered;
    found.mode = files.enteredMode;
    found.inoLow = files.enteredInoLow;
    found.inoHigh = files.enteredInoHigh;
    this.identifyFound();
  }

  #enterMade(node: number, entry: EntryOut): number {
    if (node < 0) {
      entry.nodeid = 0;
      return node;
    }
    // What came by a stage has changed since its attributes were read, and directories may be shown
    // otherwise than they are.
    if (this.#wasStaged || this.config.staticNlink) return this.enterFound(node, entry);
    entry.nodeid = node;
    entry.generation = this.generationOf(node);
    return 0;
  }

  /** A new upper directory hides what may be below it. */
  #hideBelow(slot: number): number {
    const fd = this.files.inodes.acquire(slot);
    const result = fd < 0 ? fd : this.setOpaque(fd);
    this.files.inodes.release(slot);
    return result;
  }

  /** Removes the file `.wh.NAME` of an upper directory. */
  protected removeWhiteoutFile(directory: number, name: EntryName): void {
    const dirfd = this.files.inodes.acquire(directory);
    if (dirfd >= 0) unlinkat(dirfd, whiteoutPath(name), 0);
    this.files.inodes.release(directory);
  }

  // --- The stage ---

  /** A stage for the upper directory, if `name` is a whiteout there. Returns its slot or -errno. */
  #stage(directory: number): number {
    const { files } = this;
    const dirfd = files.inodes.acquire(directory);
    let result = dirfd < 0 ? dirfd : this.isWhiteout(dirfd, this.name) ? 0 : -EEXIST;
    if (result >= 0) result = this.#makeStage(dirfd);
    files.inodes.release(directory);
    return result;
  }

  #makeStage(dirfd: number): number {
    const { files } = this;
    const { workFd } = this.share;
    const name = this.temporary();
    let result = mkdirat(workFd, name, 0o700);
    if (result < 0) return result;
    const fd = files.openAt(workFd, name, O_PATH | O_NOFOLLOW, 0);
    result = fd < 0 ? fd : this.#dressStage(fd, dirfd);
    if (result < 0) {
      if (fd >= 0) close(fd);
      unlinkat(workFd, name, AT_REMOVEDIR);
      return result;
    }
    stageName.copy(this.temporaryName);
    fstat(fd, files.stat.address);
    return files.slotOf(fd);
  }

  #dressStage(fd: number, dirfd: number): number {
    const { proc } = this.files;
    let result = fstat(dirfd, stageStat.address);
    if (result < 0) return result;
    const { view } = stageStat;
    if (this.overrides !== undefined) {
      // Who makes a file looks there for the directory's group.
      if (!this.overrides.read(dirfd, UPPER_LAYER, S_IFDIR)) return 0;
      const { uid, gid, mode } = this.overrides;
      return this.overrides.write(fd, uid, gid, mode);
    }
    if (view.getUint32(stat.st_mode, true) & S_ISGID) {
      const gid = view.getUint32(stat.st_gid, true);
      result = fchownat(fd, EMPTY.address, -1, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
      if (result >= 0) result = fchmodat(proc.dirfd, proc.name(fd), 0o700 | S_ISGID);
      if (result < 0) return result;
    }
    const { address } = DEFAULT_ACL;
    const length = getxattr(proc.path(dirfd), address, acl.address, ACL_MAX);
    if (length <= 0) return 0;
    return setxattr(proc.path(fd), address, acl.address, length, 0);
  }

  /**
   * What was made in a stage, if `result` says so, takes the place of the whiteout. The stage goes
   * in any case.
   */
  #leaveStage(stage: number, directory: number, made: number, isDirectory: boolean): number {
    if (stage < 0) return stage;
    this.#wasStaged = true;
    const { files, share } = this;
    const from = files.inodes.acquire(stage);
    const to = files.inodes.acquire(directory);
    const name = this.name.address;
    let result = made;
    if (result >= 0)
      result = from < 0 ? from : to < 0 ? to : this.replace(from, name, to, name, isDirectory);
    if (from >= 0) {
      // The whiteout, or what could not be moved.
      if (unlinkat(from, name, 0) < 0) unlinkat(from, name, AT_REMOVEDIR);
    }
    unlinkat(share.workFd, stageName.address, AT_REMOVEDIR);
    files.inodes.release(directory);
    files.inodes.release(stage);
    files.forgetSlot(stage);
    if (made >= 0 && result < 0) files.forgetSlot(files.entered);
    return result;
  }

  /** Moves a file to where a whiteout is; the whiteout of a directory is left in its stead. */
  protected replace(
    from: number,
    name: Address,
    to: number,
    newName: Address,
    isDirectory: boolean,
  ): number {
    if (!isDirectory) return renameat2(from, name, to, newName, 0);
    const result = renameat2(from, name, to, newName, RENAME_EXCHANGE);
    return result === -ENOENT ? renameat2(from, name, to, newName, 0) : result;
  }

  // --- Links ---

  override link(
    _context: Context,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryOut,
  ): number {
    const { nodes } = this;
    const isThere = nodes.acquire(nodeid);
    const directory = this.#begin(newParent, newName);
    let result = isThere ? directory : -ESTALE;
    if (result > 0 && this.mayChange(nodeid) < 0) result = -EPERM;
    if (result > 0) result = this.copyUp(nodeid, DATA);
    if (result > 0) result = this.#link(nodeid, result, newParent, directory);
    if (result >= 0) {
      if (!this.share.makesDevices) this.removeWhiteoutFile(directory, this.name);
      nodes.changed(newParent);
      nodes.addName(newParent, this.name, nodeid);
      nodes.again(nodeid);
      result = this.enterFound(nodeid, entry);
    }
    nodes.release(newParent);
    nodes.release(nodeid);
    return result;
  }

  #link(node: number, slot: number, parent: number, directory: number): number {
    const { files, share, nodes } = this;
    const fd = files.inodes.acquire(slot);
    const dirfd = files.inodes.acquire(directory);
    let result = fd < 0 ? fd : dirfd < 0 ? dirfd : 0;
    if (result >= 0 && nodes.flags(node) & NODE_ORIGIN) result = this.markImpure(parent, dirfd);
    if (result >= 0) result = files.linkFd(fd, dirfd, this.name.address);
    if (result === -EEXIST && this.isWhiteout(dirfd, this.name)) {
      result = files.linkFd(fd, share.workFd, this.temporary());
      const temporary = this.temporaryName.address;
      if (result >= 0) {
        result = renameat2(share.workFd, temporary, dirfd, this.name.address, 0);
        if (result < 0) unlinkat(share.workFd, temporary, 0);
      }
    }
    files.inodes.release(directory);
    files.inodes.release(slot);
    return result;
  }
}
