// How a file system's own numbers are shown to the kernel. Alone, a file system shows its nodeids,
// inode numbers and owners as they are; where several are served as one (vfs.ts), each is given
// nodeids and inode numbers that no other has, and owners may be mapped.
//
// A request's answer is written through the one Translation of its exchange, which the VFS sets
// before it passes the request on.

import { FUSE_ROOT_ID } from "./abi-fuse.ts";
import type { IdMap } from "./id-map.ts";
import { MOUNTED_NODEID_MAX } from "./limits.ts";

/** Nodeids that are shown in place of a file system's own, such as a later daemon knows. */
export interface ShownNodes {
  /** What the kernel is to call a node. */
  shown(node: number): number;
  /** The node that the kernel calls so; 0 if the file system does not know it now. */
  known(nodeid: number): number;
}

export class Translation {
  /** Added to every nodeid but the root's. */
  nodeBase = 0;
  /** What the root's nodeid becomes. */
  rootNode = FUSE_ROOT_ID;
  /**
   * The root's generation, whatever its file system says. That of the whole mount's root is 0: at
   * another, Linux 5.14 to 6.8 give it up as one whose number was used again.
   */
  rootGeneration = 0;
  /** Added by XOR to the upper 32 bits of inode numbers. */
  inoMask = 0;
  /** In place of `nodeBase`, for all but the root. */
  nodes: ShownNodes | undefined;
  /** From internal ids to external ones; undefined for ids that stay as they are. */
  ids: IdMap | undefined;

  /**
   * The nodeid that the kernel knows; 0, for "none", stays 0. Throws RangeError for one that would
   * be taken for another file system's.
   */
  node(nodeid: number): number {
    if (nodeid === FUSE_ROOT_ID) return this.rootNode;
    if (this.nodes !== undefined && nodeid !== 0) return this.nodes.shown(nodeid);
    if (nodeid >= MOUNTED_NODEID_MAX && this.nodeBase !== 0) tooLarge(nodeid);
    return nodeid === 0 ? 0 : this.nodeBase + nodeid;
  }

  /** Makes this translate as another one does. */
  become(other: Translation): void {
    this.nodeBase = other.nodeBase;
    this.rootNode = other.rootNode;
    this.rootGeneration = other.rootGeneration;
    this.inoMask = other.inoMask;
    this.nodes = other.nodes;
    this.ids = other.ids;
  }
}

function tooLarge(nodeid: number): never {
  throw new RangeError(
    `nodeid ${nodeid} of a file system that is one of several is not below 2**32`,
  );
}
