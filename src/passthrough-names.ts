// Operations on names: looking up, creating, linking, renaming, removing.

import {
  AT_EMPTY_PATH,
  AT_REMOVEDIR,
  AT_SYMLINK_FOLLOW,
  AT_SYMLINK_NOFOLLOW,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  RENAME_WHITEOUT,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  stat,
} from "./abi-linux.ts";
import { FUSE_ROOT_ID } from "./abi-fuse.ts";
import { EINVAL, ENOENT, ENOSPC, ESTALE } from "./errno.ts";
import type { Context } from "./filesystem.ts";
import { SYMLINK_TARGET_MAX } from "./limits.ts";
import { cstring, type Address } from "./memory.ts";
import { PassthroughBase, EMPTY } from "./passthrough-base.ts";
import type { DataOut, EntryOut } from "./reply.ts";
import type { Name } from "./request.ts";
import {
  close,
  fstat,
  linkat,
  mkdirat,
  mknodat,
  newfstatat,
  readlinkat,
  renameat2,
  setxattr,
  symlinkat,
  unlinkat,
} from "./syscall.ts";

const DOT_DOT = cstring("..");

function makeAt(
  dirfd: number,
  name: Address,
  mode: number,
  rdev: number,
  target: Name | undefined,
): number {
  if (target !== undefined) return symlinkat(target.address, dirfd, name);
  const isDirectory = (mode & S_IFMT) === S_IFDIR;
  return isDirectory ? mkdirat(dirfd, name, mode & ~S_IFMT) : mknodat(dirfd, name, mode, rdev);
}

export abstract class PassthroughNames extends PassthroughBase {
  override lookup(_context: Context, parent: number, name: Name, entry: EntryOut): number {
    const dirfd = this.inodes.acquire(parent);
    let result = dirfd;
    if (dirfd >= 0) {
      if (name.isDots) result = this.#enterDots(parent, dirfd, name.length, entry);
      else result = this.enter(dirfd, name.address, entry);
      if (result === -ENOENT && this.#remembersMissing) {
        entry.nodeid = 0;
        entry.entryTimeout = this.config.entryTimeout;
        result = 0;
      }
    }
    this.inodes.release(parent);
    return result;
  }

  /**
   * Whether the kernel may keep that a name does not exist: only where nobody else makes it exist.
   */
  get #remembersMissing(): boolean {
    return this.config.cache === "always" || this.config.cache === "metadata";
  }

  /**
   * `.` and `..`, for NFS export. The root is its own parent, and what was moved out of it has
   * none.
   */
  #enterDots(nodeid: number, fd: number, length: number, entry: EntryOut): number {
    if (length === 1 || nodeid === FUSE_ROOT_ID) {
      return this.#enterAgain(this.reopen(fd, O_PATH), entry);
    }
    const parent = this.openAt(fd, DOT_DOT.address, O_PATH | O_DIRECTORY, 0);
    if (parent < 0) return parent;
    if (!this.#isInside(parent)) {
      close(parent);
      return -ESTALE;
    }
    return this.enterFd(parent, entry);
  }

  /** By a file handle, which does not bring back what was removed, even if somebody has it open. */
  #enterAgain(fd: number, entry: EntryOut): number {
    if (fd < 0) return fd;
    fstat(fd, this.stat.address);
    if (this.stat.view.getUint32(stat.st_nlink, true) > 0) return this.enterFd(fd, entry);
    close(fd);
    return -ESTALE;
  }

  override revive(_context: Context, nodeid: number, entry: EntryOut): number {
    return this.#enterAgain(this.inodes.openShown(nodeid), entry);
  }

  /** Whether the way up from directory `fd` comes past the root. */
  #isInside(fd: number): boolean {
    const root = this.inodes.acquire(FUSE_ROOT_ID);
    const rootId = root < 0 ? "" : this.#identity(root);
    let at = fd;
    let id = this.#identity(at);
    for (;;) {
      if (id === rootId) break;
      const up = this.openAt(at, DOT_DOT.address, O_PATH | O_DIRECTORY, 0);
      if (at !== fd) close(at);
      at = up;
      const upId = up < 0 ? id : this.#identity(up);
      if (upId === id) break; // the root of all directories, or an error
      id = upId;
    }
    if (at !== fd && at >= 0) close(at);
    this.inodes.release(FUSE_ROOT_ID);
    return id === rootId;
  }

  /** Device and inode number. */
  #identity(fd: number): string {
    return fstat(fd, this.stat.address) < 0 ? "?" : this.#statIdentity();
  }

  #statIdentity(): string {
    const { view } = this.stat;
    return `${view.getBigUint64(stat.st_dev, true)}:${view.getBigUint64(stat.st_ino, true)}`;
  }

  override readlink(_context: Context, nodeid: number, out: DataOut): number {
    const fd = this.inodes.acquire(nodeid);
    const length =
      fd < 0
        ? fd
        : readlinkat(fd, EMPTY.address, out.address, Math.min(out.limit, SYMLINK_TARGET_MAX));
    this.inodes.release(nodeid);
    return length === -ENOENT ? -EINVAL : length; // what readlink(2) says of other files
  }

  override symlink(
    context: Context,
    parent: number,
    name: Name,
    target: Name,
    entry: EntryOut,
  ): number {
    return this.make(context, parent, name, S_IFLNK, 0, 0, target, entry);
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
    return this.make(context, parent, name, mode, rdev, umask, undefined, entry);
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
    return this.make(context, parent, name, full, 0, umask, undefined, entry);
  }

  /** Makes what the type in `mode` says, as the caller; `target` is that of a symbolic link. */
  protected make(
    context: Context,
    parent: number,
    name: Name,
    mode: number,
    rdev: number,
    umask: number,
    target: Name | undefined,
    entry: EntryOut,
  ): number {
    const dirfd = this.inodes.acquire(parent);
    let result = dirfd < 0 ? dirfd : this.credentials.assume(context, umask);
    try {
      if (result >= 0) result = makeAt(dirfd, name.address, mode, rdev, target);
      if (result === -ENOSPC && this.settled())
        result = makeAt(dirfd, name.address, mode, rdev, target);
    } finally {
      this.credentials.restore(context);
    }
    const removal = (mode & S_IFMT) === S_IFDIR ? AT_REMOVEDIR : 0;
    if (result >= 0) result = this.#enterCreated(context, dirfd, name.address, removal, entry);
    this.inodes.release(parent);
    return result;
  }

  /** True, after what others have in hand is done: space may be freed that was just given back. */
  protected settled(): boolean {
    this.thread.activity.settle();
    return true;
  }

  /** Enters what was just made; takes it away again if its security attributes can't be set. */
  #enterCreated(
    context: Context,
    dirfd: number,
    name: Address,
    removal: number,
    entry: EntryOut,
  ): number {
    const fd = this.openAt(dirfd, name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0) return fd;
    const labelled = this.label(context, fd);
    if (labelled < 0) {
      this.takeBack(fd, dirfd, name, removal);
      close(fd);
      return labelled;
    }
    return this.enterFd(fd, entry);
  }

  /**
   * Removes the file behind `fd`, which was just made but can't be entered, if it still has that
   * name: who gets an error finds nothing new.
   */
  protected takeBack(fd: number, dirfd: number, name: Address, removal: number): void {
    const made = this.#identity(fd);
    const flags = AT_SYMLINK_NOFOLLOW;
    if (newfstatat(dirfd, name, this.stat.address, flags) === 0 && made === this.#statIdentity())
      unlinkat(dirfd, name, removal);
  }

  /** Sets the security attributes that came with the request on the file behind `fd`. */
  protected label(context: Context, fd: number): number {
    for (const { name, value } of context.extensions.securityContexts) {
      const result = setxattr(this.proc.path(fd), name.address, value.address, value.length, 0);
      if (result < 0) return result;
    }
    return 0;
  }

  override unlink(_context: Context, parent: number, name: Name): number {
    return this.#remove(parent, name, 0);
  }

  override rmdir(_context: Context, parent: number, name: Name): number {
    return this.#remove(parent, name, AT_REMOVEDIR);
  }

  #remove(parent: number, name: Name, flags: number): number {
    const dirfd = this.inodes.acquire(parent);
    let result = dirfd;
    if (dirfd >= 0) {
      const rescued = this.#rescue(dirfd, name.address);
      result = unlinkat(dirfd, name.address, flags);
      this.inodes.release(rescued);
    }
    this.inodes.release(parent);
    return result;
  }

  /**
   * What is about to lose a name may be in use and can't be opened again after: it needs a
   * descriptor, and to keep it until then. Returns what to release after, 0 for nothing.
   */
  #rescue(dirfd: number, name: Address): number {
    if (!this.inodes.hasEvicted) return 0;
    const { moment } = this.inodes;
    if (newfstatat(dirfd, name, this.stat.address, AT_SYMLINK_NOFOLLOW) < 0) return 0;
    const rescued = this.inodes.tryRescue(this.stat, moment);
    if (rescued >= 0) return rescued;
    const fd = this.openAt(dirfd, name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0) return 0;
    fstat(fd, this.stat.address);
    return this.inodes.rescue(fd, this.stat);
  }

  override rename(
    context: Context,
    parent: number,
    name: Name,
    newParent: number,
    newName: Name,
    flags: number,
  ): number {
    const from = this.inodes.acquire(parent);
    const to = this.inodes.acquire(newParent);
    let result = from < 0 ? from : to < 0 ? to : 0;
    if (result >= 0) {
      const rescued = this.#rescue(to, newName.address);
      result =
        flags & RENAME_WHITEOUT
          ? this.#renameWithWhiteout(context, from, name, to, newName, flags)
          : renameat2(from, name.address, to, newName.address, flags);
      this.inodes.release(rescued);
    }
    this.inodes.release(newParent);
    this.inodes.release(parent);
    return result;
  }

  /** The whiteout that stays behind belongs to the caller. */
  #renameWithWhiteout(
    context: Context,
    from: number,
    name: Name,
    to: number,
    newName: Name,
    flags: number,
  ): number {
    let result = this.credentials.assume(context, 0);
    try {
      if (result >= 0) result = renameat2(from, name.address, to, newName.address, flags);
    } finally {
      this.credentials.restore(context);
    }
    return result;
  }

  override link(
    _context: Context,
    nodeid: number,
    newParent: number,
    newName: Name,
    entry: EntryOut,
  ): number {
    const fd = this.inodes.acquire(nodeid);
    const dirfd = this.inodes.acquire(newParent);
    let result = fd < 0 ? fd : dirfd;
    if (result >= 0) result = this.linkFd(fd, dirfd, newName.address);
    if (result >= 0) result = this.enter(dirfd, newName.address, entry);
    this.inodes.release(newParent);
    this.inodes.release(nodeid);
    return result;
  }

  /** Another name for the file behind the O_PATH descriptor `fd`. */
  protected linkFd(fd: number, dirfd: number, newName: Address): number {
    const result = linkat(fd, EMPTY.address, dirfd, newName, AT_EMPTY_PATH);
    if (result !== -ENOENT) return result;
    // Without CAP_DAC_READ_SEARCH only the way over /proc is allowed.
    return linkat(this.proc.dirfd, this.proc.name(fd), dirfd, newName, AT_SYMLINK_FOLLOW);
  }

  override forget(nodeid: number, count: number): void {
    const backing = this.inodes.forget(nodeid, count);
    if (backing > 0) this.closeBacking(backing);
  }

  /** Ends a registration for FUSE passthrough. */
  protected abstract closeBacking(id: number): void;
}
