// Nodes that a later daemon knows (nfs_export), so that file handles made of the mount outlive this
// one: by a tag, as passthrough-lasting.ts has it, of one of the node's host inodes.
//
// Which one it is stays the same as long as there is the file: the lower one of what has no copy,
// and of a copy that the index leads to; otherwise the upper one. Both lie on one file system, so
// the tag also says which it is: an upper file is changed where it is, a lower one never.

import { OVERLAY_NODES_MAX } from "./limits.ts";
import type { Memory } from "./memory.ts";
import type { Found } from "./overlay-found.ts";
import { tagOf, Tags } from "./passthrough-lasting.ts";
import type { SharedLayout } from "./shared-table.ts";

export type Role = "upper" | "lower";

export interface IdentityAreas {
  readonly tags: number;
  readonly slots: number;
}

export class NodeIdentities {
  readonly #tags: Tags;
  readonly #words: Int32Array;
  readonly #slots: number;

  static areas(layout: SharedLayout): IdentityAreas {
    return {
      tags: Tags.area(layout, OVERLAY_NODES_MAX),
      slots: layout.area("identities", (OVERLAY_NODES_MAX + 1) * 4),
    };
  }

  /** `key` is 32 bytes in hexadecimal. */
  constructor(memory: Memory, areas: IdentityAreas, key: string) {
    this.#tags = new Tags(memory, areas.tags, key);
    this.#words = memory.i32;
    this.#slots = areas.slots >> 2;
  }

  /** The host inode that a node is known by. */
  slot(node: number): number {
    return this.#words[this.#slots + node]!;
  }

  /** What is in the nodeid; 0 if it is the node's own number. */
  tag(node: number): number {
    return this.#tags.of(node);
  }

  /** Of a node that has a tag. */
  generation(node: number): number {
    return this.#tags.generation(node);
  }

  /** A new node is known by what was found, whose tag was made last if it has one. */
  enter(node: number, { identity, isTagged }: Found): void {
    this.#words[this.#slots + node] = identity;
    if (isTagged) this.#tags.set(node);
    else this.#tags.clear(node);
  }

  /** Makes the tag of the file of a struct file_handle. False if it has none. */
  make(handle: Memory, role: Role): boolean {
    return this.#tags.make(handle, role) !== 0;
  }

  /** As what the file of a struct file_handle was shown by `nodeid`; undefined if it was not. */
  roleOf(handle: Memory, nodeid: number): Role | undefined {
    const tag = tagOf(nodeid);
    return (["lower", "upper"] as const).find((role) => this.#tags.make(handle, role) === tag);
  }
}
