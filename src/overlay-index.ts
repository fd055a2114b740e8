// The index: where the copy of a lower file with several names is found by each of them. A copy's
// name there is made of the lower file's handle; in an attribute the copy says how many more names
// than links it has, since a name gets its link only when something is done to it.
//
// With `nfsExport` all copies are there, since a file handle made of the mount is that of the lower
// file. A copied directory is stood for by one whose attribute has the handle of the copy; what was
// removed by a whiteout, so that its handle does not bring it back.

import {
  AT_REMOVEDIR,
  AT_SYMLINK_NOFOLLOW,
  LINUX_DIRENT64_NAME,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  linux_dirent64,
  stat,
} from "./abi-linux.ts";
import { EISDIR, ENODATA, ENOENT, errnoMessage, EXDEV } from "./errno.ts";
import { log } from "./log.ts";
import { map, PAGE_SIZE, smallMemory, type Address } from "./memory.ts";
import { EntryName } from "./overlay-name.ts";
import { NODE_INDEXED } from "./overlay-node-record.ts";
import { indexNameOf, PATH_UPPER } from "./overlay-origin.ts";
import { OverlayWork } from "./overlay-work.ts";
import type { OverlayXattrs } from "./overlay-xattrs.ts";
import {
  close,
  fstat,
  getdents64,
  mkdirat,
  mknodat,
  munmap,
  newfstatat,
  openat,
  renameat2,
  unlinkat,
} from "./syscall.ts";

// Scratch memory of the thread, for all overlays that it serves.
const indexName = new EntryName();
/** Of what is made for the index: the last temporary name may be that of a copy. */
const entryName = new EntryName();
const entryStat = smallMemory(stat.sizeof);

/** How many names a copy has that has not got its own yet: as many as the lower file has links. */
const UNFINISHED = "L+0";

export abstract class OverlayIndex extends OverlayWork {
  /** Whether a lower file of this mode, with so many links, gets a place in the index. */
  protected getsIndexed(mode: number, links: number): boolean {
    if (this.share.indexSlot === 0 || (mode & S_IFMT) === S_IFDIR) return false;
    return this.config.nfsExport || links > 1;
  }

  /** Whether a node is a lower file with several names, of which the index keeps account. */
  protected isLinkedBelow(node: number): boolean {
    const { nodes, files, share } = this;
    if (share.indexSlot === 0 || nodes.upper(node) !== 0 || nodes.type(node) === S_IFDIR)
      return false;
    const slot = nodes.top(node);
    const fd = files.inodes.acquire(slot);
    const isKnown = fd >= 0 && fstat(fd, this.stat.address) >= 0;
    files.inodes.release(slot);
    return isKnown && this.stat.view.getUint32(stat.st_nlink, true) > 1;
  }

  /**
   * Gives the finished copy its name in the index, by which the lower file's other names lead to
   * it.
   */
  protected publishIndexed(made: number, hasName: boolean, from: number, layer: number): number {
    const { files, share } = this;
    const length = this.origins.encode(from, layer);
    if (length === 0 || !indexName.setText(this.origins.name(length))) return -EXDEV;
    let result = this.xattrs.writeText(made, "nlink", UNFINISHED);
    const dirfd = files.inodes.acquire(share.indexSlot);
    if (result >= 0) result = dirfd;
    if (result >= 0)
      result = hasName
        ? renameat2(
            share.workFd,
            this.temporaryName.address,
            dirfd,
            indexName.address,
            RENAME_NOREPLACE,
          )
        : this.files.linkFd(made, dirfd, indexName.address);
    files.inodes.release(share.indexSlot);
    return result;
  }

  /**
   * A directory that was copied up has its name before it is in the index; one that is looked up
   * and is not there, for whatever reason, is entered by this too.
   */
  protected override indexMerged(upper: number, lower: number, layer: number): boolean {
    const { origins, xattrs } = this;
    const stored = xattrs.read(upper, "origin");
    const isOther = stored > 0 && !origins.isEncoded(xattrs.value, stored, lower, layer);
    if (isOther || (stored <= 0 && stored !== -ENODATA)) return false;
    const length = origins.encode(lower, layer);
    if (length === 0 || !indexName.setText(origins.name(length))) return false;
    if (stored < 0 && xattrs.write(upper, "origin", origins.encoded.address, length) < 0)
      return false;
    return this.#publishDirectory(upper) >= 0;
  }

  /** What stands in the index for the directory `made`. One that an earlier copy left goes. */
  #publishDirectory(made: number): number {
    const { files, share } = this;
    const temporary = this.temporary(entryName);
    let result = mkdirat(share.workFd, temporary, 0o700);
    if (result < 0) return result;
    const fd = files.openAt(share.workFd, temporary, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    const length = fd < 0 ? 0 : this.origins.encode(made, 0, PATH_UPPER);
    result = fd < 0 ? fd : length === 0 ? -EXDEV : 0;
    if (result >= 0) result = this.xattrs.write(fd, "upper", this.origins.encoded.address, length);
    if (fd >= 0) close(fd);
    if (result >= 0) result = this.#replaceIndexed(temporary);
    if (result < 0) unlinkat(share.workFd, temporary, AT_REMOVEDIR);
    return result;
  }

  /** Puts what the work directory has as `temporary` into the index, instead of what is there. */
  #replaceIndexed(temporary: Address): number {
    const { inodes } = this.files;
    const { indexSlot, workFd } = this.share;
    const dirfd = inodes.acquire(indexSlot);
    let result = dirfd;
    if (dirfd >= 0)
      result = renameat2(workFd, temporary, dirfd, indexName.address, RENAME_EXCHANGE);
    if (result === -ENOENT) result = renameat2(workFd, temporary, dirfd, indexName.address, 0);
    else if (result >= 0 && unlinkat(workFd, temporary, 0) === -EISDIR)
      unlinkat(workFd, temporary, AT_REMOVEDIR);
    inodes.release(indexSlot);
    return result;
  }

  /** Takes back what `publishIndexed` did. */
  protected removeFromIndex(): void {
    const { inodes } = this.files;
    const dirfd = inodes.acquire(this.share.indexSlot);
    if (dirfd >= 0) unlinkat(dirfd, indexName.address, 0);
    inodes.release(this.share.indexSlot);
  }

  /** The node is in the index from now on: its copy is `made`, and it has `links`. */
  protected beginLinks(node: number, made: number, links: number): void {
    this.nodes.setFlags(node, NODE_INDEXED);
    if (fstat(made, this.stat.address) < 0) return;
    this.#keepLinks(node, made, links - this.stat.view.getUint32(stat.st_nlink, true));
  }

  /** How many more links the inode has than the upper one, which is `fd`. */
  #keepLinks(node: number, fd: number, links: number): void {
    this.nodes.setLinks(node, links);
    this.xattrs.writeText(fd, "nlink", `U${links < 0 ? "" : "+"}${links}`);
  }

  /**
   * Under the node's lock: an inode of the index, known by a name that only a lower directory has,
   * gets that name in the upper directory `dirfd`. Returns 0 or -errno.
   */
  protected linkUp(node: number, parent: number, dirfd: number, name: EntryName): number {
    if (!(this.nodes.flags(node) & NODE_INDEXED)) return 0;
    if (newfstatat(dirfd, name.address, this.stat.address, AT_SYMLINK_NOFOLLOW) >= 0) return 0;
    const { inodes } = this.files;
    const upper = this.nodes.upper(node);
    const fd = inodes.acquire(upper);
    let result = fd < 0 ? fd : this.markImpure(parent, dirfd);
    if (result >= 0) result = this.files.linkFd(fd, dirfd, name.address);
    if (result >= 0) this.#keepLinks(node, fd, this.nodes.links(node) - 1);
    if (result >= 0) this.files.tellChanged(upper);
    inodes.release(upper);
    return result;
  }

  /**
   * Under the node's lock: a node has lost a name. An inode of the index leaves that with its last;
   * with `nfsExport` there is a whiteout then.
   */
  protected unlinked(node: number): void {
    const { nodes, files } = this;
    const isIndexed = (nodes.flags(node) & NODE_INDEXED) !== 0;
    const isLower = nodes.upper(node) === 0;
    if (nodes.type(node) === S_IFDIR ? isIndexed || isLower : isLower) {
      this.#hideLower(node);
      return;
    }
    if (!isIndexed) return;
    const upper = nodes.upper(node);
    const fd = files.inodes.acquire(upper);
    const isKnown = fd >= 0 && fstat(fd, this.stat.address) >= 0;
    const links = this.stat.view.getUint32(stat.st_nlink, true) + nodes.links(node);
    if (isKnown && links <= 0) this.#leaveIndex(node, fd);
    files.inodes.release(upper);
  }

  #leaveIndex(node: number, fd: number): void {
    const { inodes } = this.files;
    const length = this.xattrs.read(fd, "origin");
    if (length <= 0) return;
    if (!indexName.setText(indexNameOf(this.xattrs.value, length))) return;
    let result: number;
    if (this.config.nfsExport) {
      result = this.#hide();
    } else {
      const dirfd = inodes.acquire(this.share.indexSlot);
      result = dirfd < 0 ? dirfd : unlinkat(dirfd, indexName.address, 0);
      inodes.release(this.share.indexSlot);
    }
    if (result >= 0) this.nodes.setLinks(node, this.nodes.links(node) + 1);
  }

  /** Whether a lower file has been removed, by what the index says. */
  protected wasRemoved(from: number, layer: number): boolean {
    const length = this.config.nfsExport ? this.origins.encode(from, layer) : 0;
    return length > 0 && this.statIndexed(this.origins.name(length)) && this.statType === S_IFCHR;
  }

  /** The handle of a node's lower file is not to bring it back. */
  #hideLower(node: number): void {
    if (!this.config.nfsExport) return;
    const { nodes } = this;
    const record = nodes.stack(node);
    const name = this.indexedName(nodes.slot(record), nodes.layer(record));
    if (name !== undefined && indexName.setText(name)) this.#hide();
  }

  /** Puts a whiteout into the index. Returns 0 or -errno. */
  #hide(): number {
    const { workFd } = this.share;
    const temporary = this.temporary(entryName);
    let result = mknodat(workFd, temporary, S_IFCHR, 0);
    if (result < 0) return result;
    result = this.#replaceIndexed(temporary);
    if (result < 0) {
      unlinkat(workFd, temporary, 0);
      log.warnLimited(`file handles may bring back what was removed: ${errnoMessage(result)}`);
    }
    return result;
  }
}

/**
 * Takes copies out of the index `dirfd` that were entered when the daemon was killed, and so have
 * no name: nobody has seen them, and the kernel's overlayfs would take the file for a removed one.
 */
export function dropUnfinished(dirfd: number, xattrs: OverlayXattrs): void {
  const entries = map(16 * PAGE_SIZE);
  const { view, address, size } = entries;
  const fill = (): number => getdents64(dirfd, address, size);
  for (let read = fill(); read > 0; read = fill())
    for (let at = 0; at < read; at += view.getUint16(at + linux_dirent64.d_reclen, true))
      dropIfUnfinished(dirfd, address + at + LINUX_DIRENT64_NAME, xattrs);
  munmap(address, size);
}

function dropIfUnfinished(dirfd: number, name: Address, xattrs: OverlayXattrs): void {
  if (newfstatat(dirfd, name, entryStat.address, AT_SYMLINK_NOFOLLOW) < 0) return;
  if (entryStat.view.getUint32(stat.st_nlink, true) !== 1) return;
  const fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
  if (fd < 0) return;
  if (xattrs.readText(fd, "nlink") === UNFINISHED) unlinkat(dirfd, name, 0);
  close(fd);
}
