// The work directory, where what is to be in the upper layer is made ready under a name of its own,
// and the marks that upper directories get.

import {
  AT_REMOVEDIR,
  O_CLOEXEC,
  O_CREAT,
  O_NOFOLLOW,
  O_WRONLY,
  S_IFDIR,
  S_IFMT,
} from "./abi-linux.ts";
import { cstring, type Address } from "./memory.ts";
import { OverlayLookup } from "./overlay-lookup.ts";
import { EntryName } from "./overlay-name.ts";
import { NODE_IMPURE } from "./overlay-node-record.ts";
import { OPAQUE_FILE } from "./overlay-whiteout.ts";
import { close, unlinkat } from "./syscall.ts";

const YES = cstring("y");

// Scratch memory of the thread, for all overlays that it serves.
const temporaryName = new EntryName();

export abstract class OverlayWork extends OverlayLookup {
  /** A name that nothing in the work directory has, also in `name`. */
  protected temporary(name: EntryName = temporaryName): Address {
    name.setText(`#${this.nodes.temporary().toString(16)}`);
    return name.address;
  }

  /** The last temporary name that was not put elsewhere. */
  protected get temporaryName(): EntryName {
    return temporaryName;
  }

  /** Removes what was made under the last temporary name. */
  protected removeTemporary(mode: number): void {
    const flags = (mode & S_IFMT) === S_IFDIR ? AT_REMOVEDIR : 0;
    unlinkat(this.share.workFd, temporaryName.address, flags);
  }

  /** The upper directory `dirfd` of a node has something that was copied up. */
  protected markImpure(node: number, dirfd: number): number {
    if (!this.share.hasXattrs || this.nodes.flags(node) & NODE_IMPURE) return 0;
    const result = this.xattrs.write(dirfd, "impure", YES.address, 1);
    if (result >= 0) this.nodes.setFlags(node, NODE_IMPURE);
    return result;
  }

  /** The upper directory `dirfd` hides all below it. */
  protected setOpaque(dirfd: number): number {
    if (this.share.hasXattrs) return this.xattrs.write(dirfd, "opaque", YES.address, 1);
    const flags = O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW;
    const fd = this.files.openAt(dirfd, OPAQUE_FILE.address, flags, 0o600);
    if (fd < 0) return fd;
    return close(fd);
  }
}
