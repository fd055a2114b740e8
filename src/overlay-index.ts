// The index: where the copy of a lower file with several names is found by each of them. A copy's
// name there is made of the lower file's handle; in an attribute the copy says how many more names
// than links it has, since a name gets its link only when something is done to it.

import { AT_SYMLINK_NOFOLLOW, RENAME_NOREPLACE, S_IFDIR, S_IFMT, stat } from "./abi-linux.ts";
import { EXDEV } from "./errno.ts";
import { EntryName } from "./overlay-name.ts";
import { NODE_INDEXED } from "./overlay-node-record.ts";
import { indexNameOf } from "./overlay-origin.ts";
import { OverlayWork } from "./overlay-work.ts";
import { fstat, newfstatat, renameat2, unlinkat } from "./syscall.ts";

// Scratch memory of the thread, for all overlays that it serves.
const indexName = new EntryName();

export abstract class OverlayIndex extends OverlayWork {
  /** Whether a lower file of this mode, with so many links, gets a place in the index. */
  protected getsIndexed(mode: number, links: number): boolean {
    return this.share.indexSlot !== 0 && (mode & S_IFMT) !== S_IFDIR && links > 1;
  }

  /** Whether a node is a lower file that gets a place in the index when it is copied up. */
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
    // Until all of its names are there, the lower file's links count.
    let result = this.xattrs.writeText(made, "nlink", "L+0");
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
   * Under the node's lock: an inode of the index has lost a name; with the last it leaves the
   * index.
   */
  protected unlinked(node: number): void {
    const { nodes, files } = this;
    if (!(nodes.flags(node) & NODE_INDEXED)) return;
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
    const dirfd = inodes.acquire(this.share.indexSlot);
    if (dirfd >= 0 && unlinkat(dirfd, indexName.address, 0) >= 0)
      this.nodes.setLinks(node, this.nodes.links(node) + 1);
    inodes.release(this.share.indexSlot);
  }
}
