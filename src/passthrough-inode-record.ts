// What is kept of an inode in shared memory (see passthrough-inodes.ts): the record, and where its
// parts are as indices of words.

import { FILE_HANDLE_MAX } from "./limits.ts";
import { array, f64, i32, struct, u32, u64, u8 } from "./struct.ts";

export const inode_record = struct("inode_record", {
  /** The next in the bucket's chain, or the next free record. */
  next: u32,
  pins: i32,
  fd: i32,
  /** Its place in the ring of descriptors; 0 if it has none. */
  place: u32,
  ino: u64,
  lookups: f64,
  device: u32,
  generation: u32,
  /** The file type and permissions at the last lookup; the type never changes. */
  mode: u32,
  /** Not 0 if it was used since the ring's hand last came by. */
  recent: u32,
  state: u32,
  /** FUSE passthrough: > 0 the backing id, -1 not backed, 0 never opened. */
  backing: i32,
  /** How many handles are open. */
  opens: u32,
  /** How many lock owners hold or want POSIX locks. */
  lock_owners: u32,
  // struct file_handle of name_to_handle_at(2); handle_bytes is 0 if it was not taken yet.
  handle_bytes: u32,
  handle_type: i32,
  handle: array(u8, FILE_HANDLE_MAX),
  /** Its place in the ring of forgotten inodes; 0 if the kernel knows it. */
  retained: u32,
  /** How many handles may be mapped for writing past us. */
  mappable: u32,
  /** How many handles are open for writing. */
  writers: u32,
  spare: u32,
});

// As indices of words in a record.
export const NEXT = inode_record.next >> 2;
export const FD = inode_record.fd >> 2;
export const PLACE = inode_record.place >> 2;
export const INO_LOW = inode_record.ino >> 2;
export const INO_HIGH = INO_LOW + 1;
export const LOOKUPS = inode_record.lookups >> 2;
export const DEVICE = inode_record.device >> 2;
export const GENERATION = inode_record.generation >> 2;
export const MODE = inode_record.mode >> 2;
export const RECENT = inode_record.recent >> 2;
export const STATE = inode_record.state >> 2;
export const BACKING = inode_record.backing >> 2;
export const OPENS = inode_record.opens >> 2;
export const LOCK_OWNERS = inode_record.lock_owners >> 2;
export const HANDLE_BYTES = inode_record.handle_bytes >> 2;
export const RETAINED = inode_record.retained >> 2;
export const MAPPABLE = inode_record.mappable >> 2;
export const WRITERS = inode_record.writers >> 2;
export const HANDLE_WORDS = 2 + FILE_HANDLE_MAX / 4;

export const ALIVE = 1;
/** The descriptor must stay: the file can't be opened again. */
export const KEEP = 2;
