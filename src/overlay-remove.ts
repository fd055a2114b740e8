// Removing files: what a lower layer has is hidden by a whiteout.

import {
  AT_REMOVEDIR,
  LINUX_DIRENT64_NAME,
  O_CLOEXEC,
  O_CREAT,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  O_WRONLY,
  RENAME_EXCHANGE,
  SEEK_SET,
  S_IFCHR,
  S_IFDIR,
  linux_dirent64,
  stat,
} from "./abi-linux.ts";
import { isDotsAt, nameLengthAt } from "./dirents.ts";
import { EISDIR, ENAMETOOLONG, ENOTDIR, ENOTEMPTY, ESTALE } from "./errno.ts";
import type { Context } from "./filesystem.ts";
import { PAGE_SIZE, map, smallMemory, type Address, type Memory } from "./memory.ts";
import { DATA, setTimes } from "./overlay-copy-up.ts";
import { OverlayMake } from "./overlay-make.ts";
import { UPPER_LAYER } from "./overlay-override.ts";
import { fitsWhiteout, whiteoutPath } from "./overlay-whiteout.ts";
import type { EntryName } from "./overlay-name.ts";
import type { Name } from "./request.ts";
import {
  close,
  fstat,
  getdents64,
  lseek,
  mkdirat,
  mknodat,
  munmap,
  openat,
  renameat2,
  unlinkat,
} from "./syscall.ts";

// Scratch memory of the thread, for all overlays that it serves.
const clearedStat = smallMemory(stat.sizeof);

export abstract class OverlayRemove extends OverlayMake {
  override unlink(_context: Context, parent: number, name: Name): number {
    return this.#remove(parent, name, false);
  }

  override rmdir(_context: Context, parent: number, name: Name): number {
    return this.#remove(parent, name, true);
  }

  #remove(parent: number, name: Name, isDirectory: boolean): number {
    const { nodes } = this;
    let result = nodes.acquire(parent) ? 0 : -ESTALE;
    if (result >= 0 && !this.name.set(name)) result = -ENAMETOOLONG;
    const node = result < 0 ? result : this.find(parent, this.name);
    let directory = node < 0 ? node : this.mayRemove(parent, node);
    // Nothing is copied up for what fails.
    if (directory >= 0 && nodes.upper(parent) === 0) directory = this.#mayGo(node, isDirectory);
    if (directory >= 0) directory = this.copyUp(parent);
    if (directory > 0) {
      // Whose other names stay is told how many they are.
      if (this.isLinkedBelow(node))
        result = Math.min(0, this.copyUpAs(parent, this.name, node, DATA));
      nodes.lock(node);
      if (result >= 0) result = this.#removeNode(parent, directory, node, isDirectory);
      if (result >= 0) {
        nodes.removeName(parent, this.name);
        nodes.changed(parent);
      }
      nodes.unlock(node);
    } else {
      result = directory;
    }
    if (node > 0) nodes.forget(node, 1);
    nodes.release(parent);
    return result;
  }

  /** Whether the node is of the type that is to be removed, and empty. Returns 0 or -errno. */
  #mayGo(node: number, isDirectory: boolean): number {
    if ((this.nodes.type(node) === S_IFDIR) !== isDirectory)
      return isDirectory ? -ENOTDIR : -EISDIR;
    if (!isDirectory) return 0;
    const empty = this.isEmpty(node);
    return empty === 0 ? -ENOTEMPTY : Math.min(0, empty);
  }

  /** Under the node's lock. */
  #removeNode(parent: number, directory: number, node: number, isDirectory: boolean): number {
    const { nodes, files } = this;
    const allowed = this.#mayGo(node, isDirectory);
    if (allowed < 0) return allowed;
    const upper = nodes.upper(node);
    const hasLower = upper === 0 ? 1 : this.hasLower(parent, this.name);
    if (hasLower < 0) return hasLower;
    const dirfd = files.inodes.acquire(directory);
    // Its descriptor has to be there before the name goes: what was removed can't be opened again.
    if (upper !== 0) files.inodes.acquire(upper);
    let result = dirfd < 0 ? dirfd : this.linkUp(node, parent, dirfd, this.name);
    if (result >= 0) result = this.#removeName(dirfd, upper !== 0, hasLower === 1, isDirectory);
    if (result >= 0) this.unlinked(node);
    if (upper !== 0) files.inodes.release(upper);
    files.inodes.release(directory);
    return result;
  }

  #removeName(dirfd: number, isUpper: boolean, hasLower: boolean, isDirectory: boolean): number {
    if (hasLower)
      return isUpper
        ? this.#replaceByWhiteout(dirfd, isDirectory)
        : this.makeWhiteout(dirfd, this.name);
    const name = this.name.address;
    const result = unlinkat(dirfd, name, isDirectory ? AT_REMOVEDIR : 0);
    if (result !== -ENOTEMPTY) return result;
    // There are whiteouts in it: it goes as a whole.
    const temporary = this.temporary();
    const moved = renameat2(dirfd, name, this.share.workFd, temporary, 0);
    if (moved >= 0) this.removeTree(temporary);
    return moved;
  }

  /** Makes a whiteout where the upper directory has nothing. */
  protected makeWhiteout(dirfd: number, name: EntryName): number {
    if (this.share.makesDevices) return mknodat(dirfd, name.address, S_IFCHR, 0);
    if (!fitsWhiteout(name)) return -ENAMETOOLONG;
    const flags = O_CREAT | O_WRONLY | O_NOFOLLOW;
    const fd = this.files.openAt(dirfd, whiteoutPath(name), flags, 0o600);
    return fd < 0 ? fd : close(fd);
  }

  /** In one step, if whiteouts are devices. */
  #replaceByWhiteout(dirfd: number, isDirectory: boolean): number {
    const { workFd, makesDevices } = this.share;
    const name = this.name.address;
    if (!makesDevices) {
      // As long as the file is there, it is seen beside its whiteout.
      const made = this.makeWhiteout(dirfd, this.name);
      return made < 0 ? made : this.#removeName(dirfd, true, false, isDirectory);
    }
    const temporary = this.temporary();
    const made = mknodat(workFd, temporary, S_IFCHR, 0);
    if (made < 0) return made;
    const flags = isDirectory ? RENAME_EXCHANGE : 0;
    const result = renameat2(workFd, temporary, dirfd, name, flags);
    if (result < 0) unlinkat(workFd, temporary, 0);
    else if (isDirectory) this.removeTree(temporary);
    return result;
  }

  /**
   * Puts an empty directory in the place of the upper directory of a node that is empty but for
   * whiteouts, so that another can take its place. Returns 0 or -errno.
   */
  protected clearUpper(node: number, dirfd: number, name: EntryName): number {
    const { nodes, files, share } = this;
    const upper = nodes.upper(node);
    const temporary = this.temporary();
    let result = mkdirat(share.workFd, temporary, 0o700);
    if (result < 0) return result;
    const old = files.inodes.acquire(upper);
    const fd = files.openAt(share.workFd, temporary, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    result = old < 0 ? old : fd;
    if (result >= 0) result = this.#dressLike(fd, old);
    if (result >= 0)
      result = renameat2(share.workFd, temporary, dirfd, name.address, RENAME_EXCHANGE);
    files.inodes.release(upper);
    if (result < 0) {
      if (fd >= 0) close(fd);
      unlinkat(share.workFd, temporary, AT_REMOVEDIR);
      return result;
    }
    this.removeTree(temporary);
    fstat(fd, files.stat.address);
    const slot = files.slotOf(fd);
    if (slot < 0) return slot;
    files.forgetSlot(nodes.replaceUpper(node, slot));
    return 0;
  }

  #dressLike(fd: number, old: number): number {
    const result = fstat(old, clearedStat.address);
    if (result < 0) return result;
    this.overrides?.show(old, UPPER_LAYER, clearedStat);
    const { view } = clearedStat;
    const uid = view.getUint32(stat.st_uid, true);
    const gid = view.getUint32(stat.st_gid, true);
    let done = this.dress(fd, old, uid, gid, view.getUint32(stat.st_mode, true));
    if (done >= 0) done = this.setOpaque(fd);
    return done < 0 ? done : setTimes(fd, clearedStat);
  }

  /**
   * Removes a directory of the work directory with the whiteouts in it. What can't be removed now
   * is removed at the next mount.
   */
  protected removeTree(name: Address): void {
    removeTree(this.share.workFd, name);
  }
}

/**
 * Removes the file or directory `name` of `dirfd` with all that is in it, as far as that is
 * possible. Returns 0 or -errno.
 */
export function removeTree(dirfd: number, name: Address): number {
  const result = unlinkat(dirfd, name, 0);
  if (result !== -EISDIR) return result;
  const removed = unlinkat(dirfd, name, AT_REMOVEDIR);
  if (removed !== -ENOTEMPTY) return removed;
  const fd = openDirectory(dirfd, name);
  if (fd < 0) return fd;
  const entries = map(16 * PAGE_SIZE);
  for (let read = fill(fd, entries); read > 0; read = fill(fd, entries)) {
    let isGone = 0;
    for (let at = 0; at < read; at += entries.view.getUint16(at + linux_dirent64.d_reclen, true)) {
      const entry = at + LINUX_DIRENT64_NAME;
      const isDots = isDotsAt(entries, entry, nameLengthAt(entries, entry));
      if (!isDots && removeTree(fd, entries.address + entry) >= 0) isGone++;
    }
    if (isGone === 0) break;
  }
  close(fd);
  munmap(entries.address, entries.size);
  return unlinkat(dirfd, name, AT_REMOVEDIR);
}

function openDirectory(dirfd: number, name: Address): number {
  return openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
}

/** From the beginning, since what was read before is gone. */
function fill(fd: number, into: Memory): number {
  lseek(fd, 0, SEEK_SET);
  return getdents64(fd, into.address, into.size);
}
