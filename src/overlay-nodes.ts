// The overlay's files, in memory that all workers share. A nodeid is the number of a record.
//
// A node holds where the file is: its host inode in the upper layer, and those in the lower layers
// (of a directory all that are merged, otherwise the one that is seen). Host inodes are numbers of
// records of passthrough-inodes.ts ("slots"); a node owns one lookup of each. What lies below never
// changes during a node's life; the upper inode comes once, when the file is copied up.
//
// A node also has its known names, each in a directory that is a node: by them a lookup finds the
// node again, a copy goes where it belongs, and a directory knows its way up.
//
// Invariants, under `#lock`: a node with lookups, names of others in it, or a place in the ring of
// forgotten nodes is alive; each name is on the chain of its bucket and on its node's list; the
// owner of a slot, if it has one, is alive.
//
// `version` counts what happens to a directory's upper part. Who looks at the layers reads it
// before; if it has changed when the result is entered, somebody was faster and the look is taken
// again.

import { S_IFMT } from "./abi-linux.ts";
import { FUSE_ROOT_ID } from "./abi-fuse.ts";
import { ENFILE } from "./errno.ts";
import {
  INODES_MAX,
  OVERLAY_NODES_MAX,
  OVERLAY_RETAINED_MAX,
  OVERLAY_STACK_MAX,
} from "./limits.ts";
import { acquireLock, Lock, releaseLock } from "./lock.ts";
import type { Memory } from "./memory.ts";
import type { Found } from "./overlay-found.ts";
import { NodeIdentities, type IdentityAreas } from "./overlay-lasting.ts";
import type { EntryName } from "./overlay-name.ts";
import { NameTable, type NameAreas } from "./overlay-names.ts";
import {
  ALIVE,
  CHILDREN,
  FLAGS,
  GENERATION,
  INO_HIGH,
  INO_LOW,
  LAYER,
  LINKS,
  LOOKUPS,
  NAMES,
  NEXT,
  node_record,
  RETAINED,
  SLOT,
  STACK,
  STACK_LAYER,
  stack_record,
  STATE,
  TYPE,
  UPPER,
  VERSION,
} from "./overlay-node-record.ts";
import { generationOf, RecordTable, type SharedLayout } from "./shared-table.ts";
import { array, struct, u32 } from "./struct.ts";

const nodes_header = struct("nodes_header", {
  lock: u32,
  retained_hand: u32,
  /** For the names of temporary files. */
  temporary: u32,
  spare: array(u32, 13),
});

/** Where the nodes' areas lie in shared memory. */
export interface NodeAreas {
  readonly header: number;
  readonly nodes: number;
  readonly names: NameAreas;
  readonly stacks: number;
  readonly owners: number;
  readonly retained: number;
  readonly identities: IdentityAreas;
}

export class NodeTable {
  readonly #memory: Memory;
  readonly #words: Int32Array;
  readonly #nodes: RecordTable;
  readonly #names: NameTable;
  readonly #stacks: RecordTable;
  readonly #lock: Lock;
  readonly #header: number;
  readonly #owners: number;
  readonly #retained: number;
  readonly #retains: boolean;
  readonly #forgetSlot: (slot: number) => void;
  readonly #identities: NodeIdentities | undefined;
  /** Slots that lost their node, to be forgotten when the lock is let go. */
  readonly #doomed: number[] = [];

  static areas(layout: SharedLayout): NodeAreas {
    return {
      header: layout.area("nodes", nodes_header.sizeof),
      nodes: layout.area("node records", RecordTable.size(node_record, OVERLAY_NODES_MAX)),
      names: NameTable.areas(layout),
      stacks: layout.area("stack records", RecordTable.size(stack_record, OVERLAY_STACK_MAX)),
      owners: layout.area("owners of host inodes", (INODES_MAX + 1) * 4),
      retained: layout.area("retained nodes", (OVERLAY_RETAINED_MAX + 1) * 4),
      identities: NodeIdentities.areas(layout),
    };
  }

  /**
   * `forgetSlot` takes one lookup off a host inode. `retains`: forgotten nodes are kept, which only
   * does where their host inodes need no descriptors. `identities`, if a later daemon is to know
   * them.
   */
  constructor(
    memory: Memory,
    areas: NodeAreas,
    retains: boolean,
    forgetSlot: (slot: number) => void,
    identities?: NodeIdentities,
  ) {
    this.#retains = retains;
    this.#identities = identities;
    this.#memory = memory;
    this.#words = memory.i32;
    this.#nodes = new RecordTable(memory, areas.nodes, node_record, OVERLAY_NODES_MAX);
    this.#names = new NameTable(memory, areas.names);
    this.#stacks = new RecordTable(memory, areas.stacks, stack_record, OVERLAY_STACK_MAX);
    this.#lock = new Lock(memory, areas.header + nodes_header.lock);
    this.#header = areas.header >> 2;
    this.#owners = areas.owners >> 2;
    this.#retained = areas.retained >> 2;
    this.#forgetSlot = forgetSlot;
  }

  /** How many nodes there are, forgotten ones included. */
  get count(): number {
    return this.#nodes.count;
  }

  /** A number for a temporary name that no other worker gets. */
  temporary(): number {
    return Atomics.add(this.#words, this.#header + (nodes_header.temporary >> 2), 1) >>> 0;
  }

  // --- Using a node ---

  /** Pins the node. False if there is none of that number; in any case `release` has to follow. */
  acquire(nodeid: number): boolean {
    if (!this.#nodes.has(nodeid)) return false;
    return this.#nodes.pin(nodeid) && this.#words[this.#nodes.at(nodeid) + STATE] === ALIVE;
  }

  release(nodeid: number): void {
    if (!this.#nodes.has(nodeid) || !this.#nodes.unpin(nodeid)) return;
    this.#lock.acquire();
    this.#bury(nodeid);
    this.#unlock();
  }

  /**
   * The lock of an acquired node: held while it is copied up, opened, or loses a name. Of two, the
   * lower number comes first, but a directory's after that of what is in it; none is taken while a
   * table's lock is held.
   */
  lock(nodeid: number): void {
    acquireLock(this.#memory, this.#nodes.at(nodeid) * 4 + node_record.lock);
  }

  unlock(nodeid: number): void {
    releaseLock(this.#memory, this.#nodes.at(nodeid) * 4 + node_record.lock);
  }

  /** The upper host inode, 0 if there is none. */
  upper(nodeid: number): number {
    return Atomics.load(this.#words, this.#nodes.at(nodeid) + UPPER);
  }

  /** The first record of the stack of lower host inodes, 0 if there are none. */
  stack(nodeid: number): number {
    return this.#words[this.#nodes.at(nodeid) + STACK]!;
  }

  /** The record below in the stack, 0 at its end. */
  below(record: number): number {
    return this.#words[this.#stacks.at(record) + NEXT]!;
  }

  /** The host inode of a stack's record. */
  slot(record: number): number {
    return this.#words[this.#stacks.at(record) + SLOT]!;
  }

  /** The index of the record's layer. */
  layer(record: number): number {
    return this.#words[this.#stacks.at(record) + LAYER]! & STACK_LAYER;
  }

  /** STACK_* of the record. */
  stackFlags(record: number): number {
    return this.#words[this.#stacks.at(record) + LAYER]! & ~STACK_LAYER;
  }

  /** The topmost host inode: what attributes are read from. */
  top(nodeid: number): number {
    const upper = this.upper(nodeid);
    if (upper !== 0) return upper;
    const stack = this.stack(nodeid);
    return stack === 0 ? 0 : this.slot(stack);
  }

  type(nodeid: number): number {
    return this.#words[this.#nodes.at(nodeid) + TYPE]!;
  }

  flags(nodeid: number): number {
    return Atomics.load(this.#words, this.#nodes.at(nodeid) + FLAGS);
  }

  setFlags(nodeid: number, flags: number): void {
    Atomics.or(this.#words, this.#nodes.at(nodeid) + FLAGS, flags);
  }

  clearFlags(nodeid: number, flags: number): void {
    Atomics.and(this.#words, this.#nodes.at(nodeid) + FLAGS, ~flags);
  }

  generation(nodeid: number): number {
    return generationOf(this.#memory, this.#words[this.#nodes.at(nodeid) + GENERATION]!);
  }

  inoLow(nodeid: number): number {
    return this.#words[this.#nodes.at(nodeid) + INO_LOW]!;
  }

  inoHigh(nodeid: number): number {
    return this.#words[this.#nodes.at(nodeid) + INO_HIGH]!;
  }

  /** Of an inode in the index: how many more links it has than the upper inode. */
  links(nodeid: number): number {
    return this.#words[this.#nodes.at(nodeid) + LINKS]!;
  }

  setLinks(nodeid: number, links: number): void {
    this.#words[this.#nodes.at(nodeid) + LINKS] = links;
  }

  version(nodeid: number): number {
    return Atomics.load(this.#words, this.#nodes.at(nodeid) + VERSION);
  }

  /** Something happened in the upper directory. */
  changed(nodeid: number): void {
    Atomics.add(this.#words, this.#nodes.at(nodeid) + VERSION, 1);
  }

  /** The node that a host inode belongs to, 0 if none. */
  owner(slot: number): number {
    return this.#words[this.#owners + slot]!;
  }

  // --- Finding and making ---

  /** The root: the first node, which is never forgotten. */
  addRoot(found: Found): number {
    this.#lock.acquire();
    const node = this.#make(found);
    this.#words[this.#nodes.at(node) + CHILDREN] = 1; // itself, for good
    this.#unlock();
    return node;
  }

  /** The node that is known to have this name, with 1 added to its lookup count; 0 if none is. */
  child(parent: number, name: EntryName): number {
    this.#lock.acquire();
    const record = this.#names.find(parent, name);
    const node = record === 0 ? 0 : this.#names.node(record);
    if (node !== 0) this.#lookUp(node);
    this.#lock.release();
    return node;
  }

  /** Whether the name is known. */
  has(parent: number, name: EntryName): boolean {
    this.#lock.acquire();
    const record = this.#names.find(parent, name);
    this.#lock.release();
    return record !== 0;
  }

  /** Adds 1 to the lookup count of an acquired node. */
  again(nodeid: number): void {
    this.#lock.acquire();
    this.#lookUp(nodeid);
    this.#lock.release();
  }

  /**
   * Enters what was found under a name, and adds 1 to the node's lookup count. Takes over the
   * lookups of the slots in `found`, also when it fails. Returns the nodeid, 0 if the directory has
   * changed since it had `version`, or -errno.
   */
  add(parent: number, version: number, name: EntryName, found: Found): number {
    this.#lock.acquire();
    let node = 0;
    if (this.version(parent) === version) node = this.#enter(parent, name, found);
    else this.#abandon(found);
    this.#unlock();
    return node;
  }

  /**
   * The same for what was just made, and is there whatever else has changed. Returns it or -errno.
   */
  addMade(parent: number, name: EntryName, found: Found): number {
    this.#lock.acquire();
    const node = this.#enter(parent, name, found);
    this.#unlock();
    return node;
  }

  #enter(parent: number, name: EntryName, found: Found): number {
    const known = this.#names.find(parent, name);
    let node: number;
    if (known !== 0) {
      node = this.#names.node(known);
      this.#abandon(found);
    } else {
      node = this.#adopt(found);
      if (node > 0 && !this.#addName(parent, name, node)) {
        this.#dropIfUnused(node);
        node = -ENFILE;
      }
    }
    if (node > 0) this.#lookUp(node);
    return node;
  }

  /** The same for what has no name: a temporary file. */
  addNameless(found: Found): number {
    this.#lock.acquire();
    const node = this.#adopt(found);
    if (node > 0) this.#lookUp(node);
    this.#unlock();
    return node;
  }

  /** The node of these host inodes: one that owns them, or a new one. */
  #adopt(found: Found): number {
    const key = found.key;
    const owner = key === 0 ? 0 : this.#words[this.#owners + key]!;
    if (owner === 0) return this.#make(found);
    this.#abandon(found);
    return owner;
  }

  #make(found: Found): number {
    const words = this.#words;
    const node = this.#nodes.allocate();
    const stack = node < 0 ? node : this.#makeStack(found);
    if (stack < 0) {
      if (node > 0) {
        this.#nodes.close(node);
        this.#nodes.free(node);
      }
      this.#abandon(found);
      return stack;
    }
    const at = this.#nodes.at(node);
    this.#memory.f64[(at + LOOKUPS) >> 1] = 0;
    words[at + INO_LOW] = found.inoLow;
    words[at + INO_HIGH] = found.inoHigh;
    words[at + UPPER] = found.upper;
    words[at + STACK] = stack;
    words[at + NAMES] = 0;
    words[at + CHILDREN] = 0;
    words[at + VERSION] = 0;
    words[at + GENERATION]!++;
    words[at + TYPE] = found.mode & S_IFMT;
    words[at + FLAGS] = found.flags;
    words[at + LINKS] = found.links;
    words[at + RETAINED] = 0;
    words[at + STATE] = ALIVE;
    if (found.upper !== 0) words[this.#owners + found.upper] = node;
    if (found.key !== 0) words[this.#owners + found.key] = node;
    if (this.#identities !== undefined) {
      this.#identities.enter(node, found);
      if (found.identity !== 0) words[this.#owners + found.identity] = node;
    }
    return node;
  }

  /** Returns the first record, 0 for none, -errno. */
  #makeStack(found: Found): number {
    const words = this.#words;
    let below = 0;
    for (let index = found.count - 1; index >= 0; index--) {
      const record = this.#stacks.allocate();
      if (record < 0) {
        this.#freeStack(below);
        return record;
      }
      const at = this.#stacks.at(record);
      words[at + NEXT] = below;
      words[at + SLOT] = found.slots[index]!;
      words[at + LAYER] = found.layers[index]!;
      below = record;
    }
    return below;
  }

  #freeStack(first: number): void {
    let record = first;
    while (record !== 0) {
      const next = this.below(record);
      this.#stacks.close(record);
      this.#stacks.free(record);
      record = next;
    }
  }

  /** Gives the lookups of what was found back. */
  #abandon(found: Found): void {
    if (found.upper !== 0) this.#doomed.push(found.upper);
    for (let index = 0; index < found.count; index++) this.#doomed.push(found.slots[index]!);
  }

  /** Gives the acquired node its upper host inode, whose lookup it takes over. */
  setUpper(nodeid: number, slot: number): void {
    this.#lock.acquire();
    this.#words[this.#owners + slot] = nodeid;
    Atomics.store(this.#words, this.#nodes.at(nodeid) + UPPER, slot);
    this.#lock.release();
  }

  /**
   * Its upper directory was replaced by another. Returns the slot that it had, 0 if it still needs
   * that.
   */
  replaceUpper(nodeid: number, slot: number): number {
    const before = this.upper(nodeid);
    this.setUpper(nodeid, slot);
    if (before === this.#identities?.slot(nodeid)) return 0;
    this.#lock.acquire();
    if (before !== 0) this.#words[this.#owners + before] = 0;
    this.#lock.release();
    return before;
  }

  setIno(nodeid: number, low: number, high: number): void {
    const at = this.#nodes.at(nodeid);
    this.#words[at + INO_LOW] = low;
    this.#words[at + INO_HIGH] = high;
  }

  // --- Lookup counts ---

  /** Takes `count` off the lookup count; at 0 the node is kept among the last forgotten ones. */
  forget(nodeid: number, count: number): void {
    if (!this.#nodes.has(nodeid) || nodeid === FUSE_ROOT_ID) return;
    const at = this.#nodes.at(nodeid);
    const counts = this.#memory.f64;
    this.#lock.acquire();
    if (this.#words[at + STATE] === ALIVE && this.#words[at + RETAINED] === 0) {
      const left = Math.max(0, counts[(at + LOOKUPS) >> 1]! - count);
      counts[(at + LOOKUPS) >> 1] = left;
      if (left === 0) this.#retain(nodeid);
    }
    this.#unlock();
  }

  #lookUp(node: number): void {
    const at = this.#nodes.at(node);
    this.#memory.f64[(at + LOOKUPS) >> 1]! += 1;
    const place = this.#words[at + RETAINED]!;
    if (place === 0) return;
    this.#words[this.#retained + place] = 0;
    this.#words[at + RETAINED] = 0;
  }

  #retain(node: number): void {
    const words = this.#words;
    // What has no name any more is not to be found again.
    if (!this.#retains || words[this.#nodes.at(node) + NAMES] === 0) {
      this.#dropIfUnused(node);
      return;
    }
    const hand = this.#header + (nodes_header.retained_hand >> 2);
    const place = (words[hand]! % OVERLAY_RETAINED_MAX) + 1;
    words[hand] = place;
    const oldest = words[this.#retained + place]!;
    words[this.#retained + place] = node;
    words[this.#nodes.at(node) + RETAINED] = place;
    if (oldest === 0) return;
    words[this.#nodes.at(oldest) + RETAINED] = 0;
    this.#dropIfUnused(oldest);
  }

  /** Ends the node if nothing holds it: no lookup, no name in it, no place in the ring. */
  #dropIfUnused(nodeid: number): void {
    let node = nodeid;
    while (node !== 0) {
      const at = this.#nodes.at(node);
      const isUsed =
        this.#memory.f64[(at + LOOKUPS) >> 1] !== 0 ||
        this.#words[at + CHILDREN] !== 0 ||
        this.#words[at + RETAINED] !== 0 ||
        this.#words[at + STATE] !== ALIVE;
      if (isUsed) return;
      node = this.#drop(node);
    }
  }

  /** Returns a directory that may be of no use any more either, or 0. */
  #drop(node: number): number {
    const words = this.#words;
    const at = this.#nodes.at(node);
    let parent = 0;
    while (words[at + NAMES] !== 0) {
      const record = words[at + NAMES]!;
      // Of several names in several directories, the others' go now.
      if (parent !== 0) this.#dropIfUnused(parent);
      parent = this.#removeName(record);
    }
    words[at + STATE] = 0;
    this.#disown(words[at + UPPER]!, node);
    for (let record = this.stack(node); record !== 0; record = this.below(record))
      this.#disown(this.slot(record), node);
    this.#disown(this.#replaced(node), node);
    if (this.#nodes.close(node)) this.#bury(node);
    return parent;
  }

  /** The upper directory that the node had before, where it is still known by that; otherwise 0. */
  #replaced(node: number): number {
    const slot = this.#identities?.slot(node) ?? 0;
    if (slot === this.upper(node)) return 0;
    for (let record = this.stack(node); record !== 0; record = this.below(record))
      if (this.slot(record) === slot) return 0;
    return slot;
  }

  #disown(slot: number, node: number): void {
    if (slot !== 0 && this.#words[this.#owners + slot] === node)
      this.#words[this.#owners + slot] = 0;
  }

  /** Frees what a node that was dropped, and that nobody has pinned, holds. */
  #bury(node: number): void {
    const words = this.#words;
    const at = this.#nodes.at(node);
    if (words[at + UPPER] !== 0) this.#doomed.push(words[at + UPPER]!);
    for (let record = this.stack(node); record !== 0; record = this.below(record))
      this.#doomed.push(this.slot(record));
    const replaced = this.#replaced(node);
    if (replaced !== 0) this.#doomed.push(replaced);
    this.#freeStack(this.stack(node));
    this.#nodes.free(node);
  }

  #unlock(): void {
    this.#lock.release();
    while (this.#doomed.length > 0) this.#forgetSlot(this.#doomed.pop()!);
  }

  // --- Names ---

  /** Another name for an acquired node. False if there are too many. */
  addName(parent: number, name: EntryName, node: number): boolean {
    this.#lock.acquire();
    const added = this.#addName(parent, name, node);
    this.#lock.release();
    return added;
  }

  /** The name does not lead to its node any more. */
  removeName(parent: number, name: EntryName): void {
    this.#lock.acquire();
    const record = this.#names.find(parent, name);
    if (record !== 0) {
      const node = this.#names.node(record);
      this.#removeName(record);
      this.#dropIfUnused(parent);
      this.#endIfNameless(node);
    }
    this.#unlock();
  }

  /** A name that the node had is another one now; what had that one has lost it. */
  moveName(parent: number, name: EntryName, newParent: number, newName: EntryName): void {
    this.#lock.acquire();
    const lost = this.#names.find(newParent, newName);
    const record = this.#names.find(parent, name);
    const node = record === 0 ? 0 : this.#names.node(record);
    if (lost !== 0) {
      const victim = this.#names.node(lost);
      this.#removeName(lost);
      this.#endIfNameless(victim);
    }
    if (record !== 0) {
      this.#addName(newParent, newName, node);
      this.#removeName(record);
      this.#dropIfUnused(parent);
    }
    this.#unlock();
  }

  exchangeNames(parent: number, name: EntryName, newParent: number, newName: EntryName): void {
    this.#lock.acquire();
    const one = this.#names.find(parent, name);
    const other = this.#names.find(newParent, newName);
    const oneNode = one === 0 ? 0 : this.#names.node(one);
    const otherNode = other === 0 ? 0 : this.#names.node(other);
    if (one !== 0) this.#removeName(one);
    if (other !== 0) this.#removeName(other);
    if (oneNode !== 0) this.#addName(newParent, newName, oneNode);
    if (otherNode !== 0) this.#addName(parent, name, otherNode);
    this.#unlock();
  }

  /** A forgotten node that lost its last name can't be found again. */
  #endIfNameless(node: number): void {
    const at = this.#nodes.at(node);
    const place = this.#words[at + RETAINED]!;
    if (this.#words[at + NAMES] !== 0 || place === 0) return;
    this.#words[this.#retained + place] = 0;
    this.#words[at + RETAINED] = 0;
    this.#dropIfUnused(node);
  }

  /** Puts a name of the node into `name`. Returns the directory that it is in, 0 if it has none. */
  nameOf(nodeid: number, name: EntryName): number {
    this.#lock.acquire();
    const record = this.#words[this.#nodes.at(nodeid) + NAMES]!;
    const parent = record === 0 ? 0 : this.#names.parent(record);
    if (record !== 0) this.#names.read(record, name);
    this.#lock.release();
    return parent;
  }

  /** Of the names of a node, `nameOf` is to give this one. */
  preferName(parent: number, name: EntryName): void {
    this.#lock.acquire();
    const record = this.#names.find(parent, name);
    if (record !== 0) {
      this.#takeOffList(record);
      const first = this.#nodes.at(this.#names.node(record)) + NAMES;
      this.#names.setSibling(record, this.#words[first]!);
      this.#words[first] = record;
    }
    this.#lock.release();
  }

  #addName(parent: number, name: EntryName, node: number): boolean {
    const words = this.#words;
    const at = this.#nodes.at(node) + NAMES;
    const record = this.#names.add(parent, name, node, words[at]!);
    if (record === 0) return false;
    words[at] = record;
    words[this.#nodes.at(parent) + CHILDREN]!++;
    return true;
  }

  /** Returns the directory that it was in. */
  #removeName(record: number): number {
    const parent = this.#names.parent(record);
    this.#takeOffList(record);
    this.#names.remove(record);
    this.#words[this.#nodes.at(parent) + CHILDREN]!--;
    return parent;
  }

  /** Off the list of its node's names. */
  #takeOffList(record: number): void {
    const names = this.#names;
    const words = this.#words;
    const first = this.#nodes.at(names.node(record)) + NAMES;
    if (words[first] === record) {
      words[first] = names.sibling(record);
    } else {
      let before = words[first]!;
      while (names.sibling(before) !== record) before = names.sibling(before);
      names.setSibling(before, names.sibling(record));
    }
  }
}
