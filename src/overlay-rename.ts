// Renaming. What is renamed is in the upper layer then; the old name, if a lower layer has it too,
// becomes a whiteout in the same step.
//
// A directory that has parts in lower layers takes along where they are: its redirect is its old
// name, if it stays in the same directory, or else its old path from the root of the overlay.

import { RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, S_IFDIR } from "./abi-linux.ts";
import {
  EEXIST,
  EINVAL,
  EISDIR,
  ENAMETOOLONG,
  ENOENT,
  ENOTDIR,
  ENOTEMPTY,
  ESTALE,
  EXDEV,
} from "./errno.ts";
import type { Context } from "./filesystem.ts";
import { OVERLAY_REDIRECT_MAX } from "./limits.ts";
import { DATA } from "./overlay-copy-up.ts";
import { EntryName } from "./overlay-name.ts";
import { NODE_ORIGIN } from "./overlay-node-record.ts";
import { OverlayRemove } from "./overlay-remove.ts";
import { isWhiteoutName, whiteoutPath } from "./overlay-whiteout.ts";
import type { Name } from "./request.ts";
import { renameat2, unlinkat } from "./syscall.ts";

// Scratch memory of the thread, for all overlays that it serves.
const pathName = new EntryName();

export abstract class OverlayRename extends OverlayRemove {
  override rename(
    _context: Context,
    parent: number,
    name: Name,
    newParent: number,
    newName: Name,
    flags: number,
  ): number {
    // RENAME_WHITEOUT is refused by the kernel's overlayfs as well: nobody could see the whiteout.
    if (flags & ~(RENAME_EXCHANGE | RENAME_NOREPLACE)) return -EINVAL;
    const { nodes } = this;
    const isFrom = nodes.acquire(parent);
    const isTo = nodes.acquire(newParent);
    let result = isFrom && isTo ? 0 : -ESTALE;
    if (result >= 0 && !(this.name.set(name) && this.newName.set(newName))) result = -ENAMETOOLONG;
    if (result >= 0 && this.hidesPrefix && isWhiteoutName(this.newName)) result = -EINVAL;
    const node = result < 0 ? result : this.find(parent, this.name);
    const victim = node < 0 ? -ENOENT : this.find(newParent, this.newName);
    if (node < 0) result = node;
    else if (victim < 0 && victim !== -ENOENT) result = victim;
    else result = this.#renameNode(parent, newParent, node, Math.max(0, victim), flags);
    if (victim > 0) nodes.forget(victim, 1);
    if (node > 0) nodes.forget(node, 1);
    nodes.release(newParent);
    nodes.release(parent);
    return result;
  }

  /** `victim` is what has the new name, 0 for nothing. */
  #renameNode(
    parent: number,
    newParent: number,
    node: number,
    victim: number,
    flags: number,
  ): number {
    const { nodes } = this;
    const isExchange = (flags & RENAME_EXCHANGE) !== 0;
    if (victim !== 0 && flags & RENAME_NOREPLACE) return -EEXIST;
    if (victim === 0 && isExchange) return -ENOENT;
    if (node === victim) return 0;
    let allowed = this.mayRemove(parent, node);
    if (allowed >= 0)
      allowed = victim === 0 ? this.mayAdd(newParent) : this.mayRemove(newParent, victim);
    if (allowed < 0) return allowed;
    const isDirectory = nodes.type(node) === S_IFDIR;
    if (victim !== 0 && !isExchange && (nodes.type(victim) === S_IFDIR) !== isDirectory)
      return isDirectory ? -ENOTDIR : -EISDIR;
    if (!this.#canMove(node) || (isExchange && !this.#canMove(victim))) return -EXDEV;
    if (victim !== 0 && !isExchange && isDirectory) {
      const empty = this.isEmpty(victim);
      if (empty <= 0) return empty < 0 ? empty : -ENOTEMPTY;
    }
    const from = this.copyUp(parent);
    const to = from < 0 ? from : this.copyUp(newParent);
    let result = to < 0 ? to : nodes.upper(node) !== 0 ? 0 : 1;
    // What a lower layer has under the old name must not come out again.
    const hasLower = result < 0 ? result : result === 1 ? 1 : this.hasLower(parent, this.name);
    if (hasLower < 0) return hasLower;
    result = this.copyUpAs(parent, this.name, node, DATA);
    const isLost = isExchange || (victim !== 0 && this.isLinkedBelow(victim));
    if (result >= 0 && isLost) result = this.copyUpAs(newParent, this.newName, victim, DATA);
    if (result < 0) return result;
    this.#lockBoth(node, victim);
    result = this.#renameUpper(
      parent,
      newParent,
      node,
      victim,
      from,
      to,
      hasLower === 1,
      isExchange,
    );
    if (result >= 0) {
      if (isExchange) nodes.exchangeNames(parent, this.name, newParent, this.newName);
      else nodes.moveName(parent, this.name, newParent, this.newName);
      nodes.changed(parent);
      nodes.changed(newParent);
    }
    this.#unlockBoth(node, victim);
    return result;
  }

  #lockBoth(node: number, victim: number): void {
    const { nodes } = this;
    if (victim !== 0 && victim < node) nodes.lock(victim);
    nodes.lock(node);
    if (victim > node) nodes.lock(victim);
  }

  #unlockBoth(node: number, victim: number): void {
    this.nodes.unlock(node);
    if (victim !== 0) this.nodes.unlock(victim);
  }

  /** Directories with lower parts can't be renamed where redirects are not to be made. */
  #canMove(node: number): boolean {
    const { nodes, config, share } = this;
    if (nodes.type(node) !== S_IFDIR || nodes.stack(node) === 0) return true;
    return config.redirectDir === "on" && share.hasXattrs;
  }

  /**
   * Both are in the upper layer, or there is no victim; `from` and `to` are the upper directories.
   */
  #renameUpper(
    parent: number,
    newParent: number,
    node: number,
    victim: number,
    from: number,
    to: number,
    hasLower: boolean,
    isExchange: boolean,
  ): number {
    const { files, nodes } = this;
    const fromFd = files.inodes.acquire(from);
    const toFd = files.inodes.acquire(to);
    const upper = victim === 0 ? 0 : nodes.upper(victim);
    // What loses its name keeps its descriptor.
    if (upper !== 0) files.inodes.acquire(upper);
    let result = fromFd < 0 ? fromFd : toFd < 0 ? toFd : 0;
    const isSame = parent === newParent;
    if (result >= 0) result = this.linkUp(node, parent, fromFd, this.name);
    if (result >= 0 && upper !== 0) result = this.linkUp(victim, newParent, toFd, this.newName);
    if (result >= 0) result = this.#prepare(node, parent, this.name, newParent, isSame);
    if (result >= 0 && isExchange)
      result = this.#prepare(victim, newParent, this.newName, parent, isSame);
    if (result >= 0)
      result = this.#markBoth(node, newParent, toFd, isExchange ? victim : 0, parent, fromFd);
    if (result >= 0)
      result = isExchange
        ? renameat2(fromFd, this.name.address, toFd, this.newName.address, RENAME_EXCHANGE)
        : this.#move(node, victim, fromFd, toFd, hasLower);
    if (result >= 0 && victim !== 0 && !isExchange) this.unlinked(victim);
    if (upper !== 0) files.inodes.release(upper);
    files.inodes.release(to);
    files.inodes.release(from);
    return result;
  }

  #markBoth(
    node: number,
    newParent: number,
    toFd: number,
    victim: number,
    parent: number,
    fromFd: number,
  ): number {
    let result = this.#hasOrigin(node) ? this.markImpure(newParent, toFd) : 0;
    if (result >= 0 && victim !== 0 && this.#hasOrigin(victim))
      result = this.markImpure(parent, fromFd);
    return result;
  }

  #hasOrigin(node: number): boolean {
    return this.nodes.stack(node) !== 0 || (this.nodes.flags(node) & NODE_ORIGIN) !== 0;
  }

  #move(node: number, victim: number, fromFd: number, toFd: number, hasLower: boolean): number {
    const { nodes, share } = this;
    const isDirectory = nodes.type(node) === S_IFDIR;
    if (victim !== 0 && isDirectory) {
      const result = nodes.upper(victim) !== 0 ? this.clearUpper(victim, toFd, this.newName) : 0;
      if (result < 0) return result;
    }
    const name = this.name.address;
    const newName = this.newName.address;
    if (!share.makesDevices) return this.#moveWithFiles(fromFd, toFd, hasLower);
    // A directory can't take the place of a whiteout, but change places with it.
    const isHidden = isDirectory && !(victim !== 0 && nodes.upper(victim) !== 0);
    if (isHidden && this.isWhiteout(toFd, this.newName)) {
      const result = renameat2(fromFd, name, toFd, newName, RENAME_EXCHANGE);
      if (result >= 0 && !hasLower) unlinkat(fromFd, name, 0);
      return result;
    }
    if (!hasLower) return renameat2(fromFd, name, toFd, newName, 0);
    const result = renameat2(fromFd, name, toFd, newName, RENAME_WHITEOUT);
    if (result !== -EINVAL) return result;
    // A file system without RENAME_WHITEOUT.
    const moved = renameat2(fromFd, name, toFd, newName, 0);
    return moved < 0 ? moved : this.makeWhiteout(fromFd, this.name);
  }

  /** With whiteouts that are files: beside its whiteout a file is seen, so the order matters. */
  #moveWithFiles(fromFd: number, toFd: number, hasLower: boolean): number {
    let result = hasLower ? this.makeWhiteout(fromFd, this.name) : 0;
    if (result >= 0) result = renameat2(fromFd, this.name.address, toFd, this.newName.address, 0);
    if (result >= 0) unlinkat(toFd, whiteoutPath(this.newName), 0);
    return result;
  }

  /** A directory that is about to move says where its lower parts are, or that it has none. */
  #prepare(
    node: number,
    parent: number,
    name: EntryName,
    newParent: number,
    isSame: boolean,
  ): number {
    const { nodes, files } = this;
    if (nodes.type(node) !== S_IFDIR) return 0;
    const upper = nodes.upper(node);
    const fd = files.inodes.acquire(upper);
    let result = fd;
    if (fd >= 0) {
      if (nodes.stack(node) !== 0) result = this.#setRedirect(fd, parent, name, isSame);
      else if (nodes.stack(newParent) !== 0) result = this.setOpaque(fd);
      else result = 0;
    }
    files.inodes.release(upper);
    return result;
  }

  /** What a directory without a redirect would be looked up by stays what it is looked up by. */
  #setRedirect(fd: number, parent: number, name: EntryName, isSame: boolean): number {
    const before = this.xattrs.readText(fd, "redirect");
    if (before !== undefined && (isSame || before.startsWith("/"))) return 0;
    const own = before ?? name.text;
    const redirect = isSame ? own : this.#pathOf(parent, own);
    if (redirect === undefined || redirect.length > OVERLAY_REDIRECT_MAX) return -EXDEV;
    const result = this.xattrs.writeText(fd, "redirect", redirect);
    // Whoever renames copies, if it can't be done in one step.
    return result < 0 ? -EXDEV : 0;
  }

  /** The path in the lower layers of what is called `name` in a directory. */
  #pathOf(directory: number, name: string): string | undefined {
    const { nodes, files } = this;
    let path = `/${name}`;
    for (let node = directory; !this.isRoot(node);) {
      const parent = nodes.nameOf(node, pathName);
      if (parent === 0) return undefined;
      const upper = nodes.upper(node);
      const fd = upper === 0 ? -1 : files.inodes.acquire(upper);
      const redirect = fd < 0 ? undefined : this.xattrs.readText(fd, "redirect");
      if (upper !== 0) files.inodes.release(upper);
      if (redirect?.startsWith("/") === true) return redirect + path;
      path = `/${redirect ?? pathName.text}${path}`;
      node = parent;
    }
    return path;
  }
}
