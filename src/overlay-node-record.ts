// What is kept of an overlay's files in shared memory (see overlay-nodes.ts): the records, and
// where their parts are as indices of words.

import { array, f64, i32, struct, u32, u8 } from "./struct.ts";

export const node_record = struct("node_record", {
  /** The next free record. */
  next: u32,
  pins: i32,
  lookups: f64,
  /** What is shown as st_ino. */
  ino_low: u32,
  ino_high: u32,
  /** The host inode in the upper layer, 0 if there is none. */
  upper: u32,
  /** The first of its host inodes in lower layers, 0 if there are none. */
  stack: u32,
  /** Its first known name. */
  names: u32,
  /** How many known names lie in it. */
  children: u32,
  /** Held while it is copied up, opened, renamed or removed. */
  lock: u32,
  /** Counts what happens to the upper directory. */
  version: u32,
  /** How often the record was used for another (see generationOf). */
  generation: u32,
  /** The file type, S_IFMT bits. */
  type: u32,
  /** NODE_*. */
  flags: u32,
  /** Its place in the ring of forgotten nodes; 0 if the kernel knows it. */
  retained: u32,
  state: u32,
  /** Of an inode in the index: how many more links it has than the upper inode. */
  links: i32,
});

/** A name of a node in a directory. The text goes on in chunks if it does not fit. */
export const name_record = struct("name_record", {
  /** The next in the bucket's chain, or the next free record. */
  next: u32,
  pins: i32,
  parent: u32,
  node: u32,
  /** The node's next name. */
  sibling: u32,
  hash: u32,
  length: u32,
  /** The first chunk of what did not fit, 0 for none. */
  more: u32,
  text: array(u8, 32),
});

/** A further piece of a name, in a record of the same table. */
export const name_chunk = struct("name_chunk", { next: u32, pins: i32, text: array(u8, 56) });

/** A host inode in a lower layer. */
export const stack_record = struct("stack_record", {
  /** The one below, or the next free record. */
  next: u32,
  pins: i32,
  slot: u32,
  /** The index of the layer in the lower 16 bits, STACK_* above. */
  layer: u32,
});

// As indices of words in a record.
export const LOOKUPS = node_record.lookups >> 2;
export const INO_LOW = node_record.ino_low >> 2;
export const INO_HIGH = node_record.ino_high >> 2;
export const UPPER = node_record.upper >> 2;
export const STACK = node_record.stack >> 2;
export const NAMES = node_record.names >> 2;
export const CHILDREN = node_record.children >> 2;
export const VERSION = node_record.version >> 2;
export const GENERATION = node_record.generation >> 2;
export const TYPE = node_record.type >> 2;
export const FLAGS = node_record.flags >> 2;
export const RETAINED = node_record.retained >> 2;
export const STATE = node_record.state >> 2;
export const LINKS = node_record.links >> 2;

export const NEXT = name_record.next >> 2;
export const PARENT = name_record.parent >> 2;
export const NODE = name_record.node >> 2;
export const SIBLING = name_record.sibling >> 2;
export const HASH = name_record.hash >> 2;
export const LENGTH = name_record.length >> 2;
export const MORE = name_record.more >> 2;

export const SLOT = stack_record.slot >> 2;
export const LAYER = stack_record.layer >> 2;

export const ALIVE = 1;

/** The upper file holds attributes only; its data is in the last of the stack. */
export const NODE_METACOPY = 1;
/** The upper directory is marked as holding files that were copied up (overlay.impure). */
export const NODE_IMPURE = 2;
/** The inode has its place in the index. */
export const NODE_INDEXED = 4;
/** The upper file is known by the lower one that it was copied up from. */
export const NODE_ORIGIN = 8;
/** It may not be changed, or only be added to, though the host does not know (see protattr). */
export const NODE_IMMUTABLE = 16;
export const NODE_APPEND = 32;
export const NODE_PROTECTED = NODE_IMMUTABLE | NODE_APPEND;

/** The layer's directory may have whiteouts that are files with an attribute. */
export const STACK_XWHITEOUTS = 1 << 16;
export const STACK_LAYER = 0xffff;
