// What a look at the layers found under a name, before it is a node. One for a thread, used again
// and again.

import { OVERLAY_LAYERS_MAX } from "./limits.ts";

export class Found {
  /** The host inode in the upper layer, 0 if there is none. */
  upper = 0;
  /** How many host inodes in lower layers. */
  count = 0;
  /** They, from the top, and the layers that they are in with STACK_* flags. */
  readonly slots = new Int32Array(OVERLAY_LAYERS_MAX + 1);
  readonly layers = new Int32Array(OVERLAY_LAYERS_MAX + 1);
  /** Type and permissions of the topmost. */
  mode = 0;
  /** What is shown as st_ino. */
  inoLow = 0;
  inoHigh = 0;
  /** The host inode that it is the only node of, 0 if it is just one of several. */
  key = 0;
  /** What a later daemon will know it by: one of the host inodes, and whether its tag was made. */
  identity = 0;
  isTagged = false;
  /** NODE_*. */
  flags = 0;
  /** With NODE_INDEXED: how many more links it has than the upper inode. */
  links = 0;

  clear(): void {
    this.upper = 0;
    this.count = 0;
    this.mode = 0;
    this.inoLow = 0;
    this.inoHigh = 0;
    this.key = 0;
    this.identity = 0;
    this.isTagged = false;
    this.flags = 0;
    this.links = 0;
  }

  add(slot: number, layer: number): void {
    this.slots[this.count] = slot;
    this.layers[this.count] = layer;
    this.count++;
  }

  get isEmpty(): boolean {
    return this.upper === 0 && this.count === 0;
  }
}
