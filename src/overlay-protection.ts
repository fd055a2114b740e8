// Who may change what: immutable and append-only files (overlay-protattr.ts). The kernel does not
// know which these are on a FUSE mount. The host checks it for what it knows to be so, as long as
// it is what is changed there; the rest is checked here, before anything is copied up.

import { EPERM } from "./errno.ts";
import { OverlayCopyUp } from "./overlay-copy-up.ts";
import { NODE_APPEND, NODE_IMMUTABLE, NODE_PROTECTED } from "./overlay-node-record.ts";
import { hostProtection } from "./overlay-protattr.ts";

export abstract class OverlayProtection extends OverlayCopyUp {
  /** What the host does not check of an acquired node: NODE_IMMUTABLE, NODE_APPEND. */
  protected protection(node: number): number {
    return this.nodes.upper(node) === 0
      ? this.wholeProtection(node)
      : this.nodes.flags(node) & NODE_PROTECTED;
  }

  /** The same with what the host checks. */
  protected wholeProtection(node: number): number {
    const { nodes, files } = this;
    const known = nodes.flags(node) & NODE_PROTECTED;
    // Without an upper layer everything is refused for another reason.
    if (known !== 0 || this.share.workFd < 0) return known;
    const slot = nodes.top(node);
    const fd = files.inodes.acquire(slot);
    const found = fd < 0 ? 0 : hostProtection(fd);
    files.inodes.release(slot);
    return found;
  }

  /** Whether its attributes and names may change. Returns 0 or -EPERM. */
  protected mayChange(node: number): number {
    return this.protection(node) === 0 ? 0 : -EPERM;
  }

  /** Whether something may be made in a directory, or added to a file. Returns 0 or -EPERM. */
  protected mayAdd(directory: number): number {
    return this.protection(directory) & NODE_IMMUTABLE ? -EPERM : 0;
  }

  /** Whether a file may be opened, and `isAppend`: only to add to it. Returns 0 or -EPERM. */
  protected mayWrite(node: number, isAppend: boolean): number {
    const found = this.protection(node);
    return found & NODE_IMMUTABLE || (found & NODE_APPEND && !isAppend) ? -EPERM : 0;
  }

  /**
   * Whether a directory may lose what is a node in it. The host is not asked by us whether a
   * directory with something in it may go, nor knows of a lower file that it is to be hidden.
   * Returns 0 or -EPERM.
   */
  protected mayRemove(directory: number, node: number): number {
    return this.wholeProtection(directory) | this.wholeProtection(node) ? -EPERM : 0;
  }
}
