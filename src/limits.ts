// Every limit of the project, and how they hang together.

import { FUSE_MIN_READ_BUFFER, fuse_in_header, fuse_write_in } from "./abi-fuse.ts";
import { assert } from "./assert.ts";
import { PAGE_SIZE } from "./memory.ts";

/** The longest target of a symbolic link, without its NUL. */
export const SYMLINK_TARGET_MAX = 4095;
/** The longest name of an extended attribute (XATTR_NAME_MAX of linux/limits.h). */
export const XATTR_NAME_MAX = 255;

/** The largest value of an extended attribute (XATTR_SIZE_MAX of linux/limits.h). */
export const XATTR_SIZE_MAX = 65_536;

/** The most data of one READ or WRITE. The kernel's default limit is 256 pages. */
export const MAX_WRITE = 1 << 20;
export const MAX_PAGES = MAX_WRITE / PAGE_SIZE;
/** Room for a request's structs, and for its data at a page boundary. */
export const REQUEST_SIZE = MAX_WRITE + 2 * PAGE_SIZE;
export const REPLY_SIZE = MAX_WRITE + 2 * PAGE_SIZE;
/** A pipe as large as an ordinary user may have it. */
export const SPLICE_PIPE_SIZE = 1 << 20;
/** Reads of less are copied. */
export const SPLICE_MIN = 1 << 15;
/** Where a request begins in its memory, so that WRITE data is aligned to a page, for O_DIRECT. */
export const REQUEST_BASE = PAGE_SIZE - fuse_in_header.sizeof - fuse_write_in.sizeof;
/** Where a reply begins in its memory, so that its body is aligned to a page. */
export const REPLY_BASE = PAGE_SIZE - 16;

/** Offsets are numbers, exact up to here: 8 PiB. What lies beyond is refused with EFBIG. */
export const FILE_OFFSET_MAX = Number.MAX_SAFE_INTEGER;

/**
 * What the kernel lets run in the background (readahead, writeback, forgets) before it holds back.
 */
export const MAX_BACKGROUND = 64;
export const CONGESTION_THRESHOLD = 48;

/** Inodes that the kernel may know at the same time. Each takes 128 bytes once it is used. */
export const INODES_MAX = 1 << 23;
/** Inodes that the kernel has forgotten, kept so that file handles of the mount stay valid. */
export const RETAINED_MAX = 1 << 16;
export const INODE_BUCKETS = 1 << 21;
/** File systems below SRC. */
export const DEVICES_MAX = 1024;
/** Open files and directories. Each takes 64 bytes once it is used. */
export const HANDLES_MAX = 1 << 19;
/** Pairs of an inode and a lock owner that hold or wait for POSIX locks. */
export const LOCKS_MAX = 1 << 16;
export const LOCK_BUCKETS = 1 << 12;
/** Requests that wait for a lock at the same time. */
export const LOCK_WAITERS_MAX = 1 << 12;
/** Interrupts that are remembered because the request they are for was not there yet. */
export const MISSED_INTERRUPTS_MAX = 64;
/** Inodes whose registration for FUSE passthrough is kept while no one has them open. */
export const IDLE_BACKINGS_MAX = 1 << 13;
/**
 * A file changed so long ago will have another time of change when it changes again: more than the
 * steps in which the kernel counts the time of files, which are of 10 ms at most.
 */
export const CTIME_SETTLED_MS = 50;
/** The largest kernel file handle kept; inodes with larger ones keep a descriptor. */
export const FILE_HANDLE_MAX = 40;

/**
 * The share of RLIMIT_NOFILE that cached O_PATH descriptors may take; the rest is for open files.
 */
export const DESCRIPTOR_CACHE_SHARE = 0.6;
export const DESCRIPTOR_CACHE_MIN = 64;
/** The share that inodes may take where descriptors can't be given up, for want of file handles. */
export const DESCRIPTOR_INODES_SHARE = 0.85;
/** Descriptors that no request gets: the main thread needs some to unmount, whatever is open. */
export const DESCRIPTORS_RESERVED = 24;
/** How many cached descriptors are given up at once when the process runs out. */
export const DESCRIPTORS_RELIEVED = 32;

/** CPUs that the kernel may know (NR_CPUS). */
export const CPUS_MAX = 8192;
/**
 * Entries of a worker that serves by io_uring: one for each queue, and one for each request that
 * waits for a lock. Each takes up to 1 MiB once it is used.
 */
export const RING_ENTRIES_MAX = 1 << 10;
/** Queues that a worker serves at most, so that locks have entries left. */
export const RING_QUEUES_MAX = RING_ENTRIES_MAX / 2;
export const RING_SUBMISSIONS = 64;
/** Room for a completion of every entry, and of the pipe. */
export const RING_COMPLETIONS = 2 * RING_ENTRIES_MAX;

/** File systems mounted at the same time under one mount point (vfs.ts). */
export const MOUNTS_MAX = 255;
/**
 * How many may come and go in all: nodeids, below 2**53, begin with the number of the mount, and
 * are not used twice.
 */
export const MOUNT_IDS_MAX = 2 ** 21;
/**
 * The table that finds a mount by its number, modulo this: so many more than mounts that a number
 * whose place in it is free is found soon.
 */
export const MOUNT_SLOTS = 4096;
/** Nodeids of a file system that is mounted with others are below this. */
export const MOUNTED_NODEID_MAX = 2 ** 32;
/** Seconds for which the tree of mounts is valid; the kernel is told of changes besides. */
export const PSEUDO_TIMEOUT = 5;

/** Lower layers of an overlay; the kernel's limit (OVL_MAX_STACK). */
export const OVERLAY_LAYERS_MAX = 500;
/**
 * How long is waited for the upper layer of an overlay that is in use: the daemon of a mount that
 * has just been unmounted takes a moment to end.
 */
export const OVERLAY_CLAIM_MS = 2000;
export const OVERLAY_CLAIM_STEP_MS = 5;

/** Files of an overlay that are known at the same time. Each takes 80 bytes once it is used. */
export const OVERLAY_NODES_MAX = 1 << 22;
/**
 * Those of them that the kernel has forgotten, kept so that file handles of the mount stay valid.
 */
export const OVERLAY_RETAINED_MAX = 1 << 16;
/** Their known names, and pieces of long ones. Each takes 64 bytes once it is used. */
export const OVERLAY_NAMES_MAX = 1 << 22;
export const OVERLAY_NAME_BUCKETS = 1 << 21;
/** Places of theirs in lower layers. Each takes 16 bytes once it is used. */
export const OVERLAY_STACK_MAX = 1 << 23;

/** Bytes for filters of the names in lower directories; each takes 8 to 16 for a name. */
export const OVERLAY_FILTER_SIZE = 1 << 23;
/** Directories that have a filter at the same time, at most. */
export const OVERLAY_FILTER_PLACES = 1 << 14;
/** The most names of a filter; larger directories have one of their topmost layers, or none. */
export const OVERLAY_FILTER_MAX = 1 << 16;
/** How many names are read for a filter once a look into a layer was for nothing. */
export const OVERLAY_FILTER_FIRST = 256;
/** How many more names it is worth to read for each such look: they take about as long. */
export const OVERLAY_FILTER_WORTH = 16;

/** Memory that a worker keeps for listing directories, in bytes; what takes more is given back. */
export const OVERLAY_LIST_KEPT = 1 << 24;
/** The longest redirect (OVL_REDIRECT_MAX). */
export const OVERLAY_REDIRECT_MAX = 256;

/** Ranges in a map of user or group ids; the kernel allows as many (UID_GID_MAP_MAX_EXTENTS). */
export const ID_RANGES_MAX = 340;

export const WORKERS_MAX = 64;
/** How many workers there are at most when more are started because all are stuck. */
export const WORKERS_GROWN_MAX = 16;
/** How often that is looked at. */
export const STUCK_CHECK_MS = 250;

// How many workers read /dev/fuse (session-readers.ts).
/** A reader stands by after so many requests of one process; one of another takes so many off. */
export const READERS_SPARE_REQUESTS = 32;
export const READERS_OTHER_WEIGHT = 4;
/**
 * A reader calls another back after so many requests of other processes that waited already. It
 * looks for them at each so many-th request; one of the same process as before takes one off.
 */
export const READERS_MISSING_REQUESTS = 64;
export const READERS_QUEUE_LOOK_REQUESTS = 4;
/** How often the watcher looks, and for how long while nothing happens. */
export const READERS_LOOK_MS = 2;
export const READERS_QUIET_LOOKS = 5;
/**
 * Where readers get stuck, they wait for up to so many more requests before they stand by; less
 * after so many looks without that.
 */
export const READERS_PATIENCE_MAX = 1 << 16;
export const READERS_PATIENCE_LOOKS = 128;

/** How long is waited for requests that other workers have in hand: so many times so long. */
export const SETTLE_STEPS = 200;
export const SETTLE_STEP_US = 100;
/** How many requests a worker may do before those: the ring has a queue, and FORGETs come late. */
export const SETTLE_QUEUED = 16;

/**
 * How long a thread that also has an event loop waits for requests, and serves them, in one turn.
 */
export const IDLE_TURN_MS = 10;
export const BUSY_TURN_MS = 5;

/** How long is waited for a mount to be dead whose daemon has just died: so many times so long. */
export const DYING_STEPS = 1000;
export const DYING_STEP_US = 1000;

/** A second signal sooner than this is part of the first: both come when a terminal closes. */
export const SIGNAL_AGAIN_MS = 1000;

/** Log lines about malformed input, a minute. */
export const LIMITED_LINES_PER_MINUTE = 20;

assert(REQUEST_BASE % 8 === 0 && REPLY_BASE % 8 === 0, "structs are aligned to 8 in their buffers");
assert(REQUEST_SIZE - REQUEST_BASE >= FUSE_MIN_READ_BUFFER, "the kernel's least read buffer");
assert(
  REQUEST_SIZE - REQUEST_BASE >= fuse_in_header.sizeof + fuse_write_in.sizeof + MAX_WRITE,
  "the largest WRITE fits in the request buffer",
);
assert(DESCRIPTOR_CACHE_SHARE < DESCRIPTOR_INODES_SHARE, "a full cache is no reason to refuse");
assert(MOUNTS_MAX < 2 ** 8, "the upper 8 bits of an inode number tell mounts apart");
assert(MOUNTS_MAX < MOUNT_SLOTS, "there is a slot for each mount and the tree");
assert(MOUNT_IDS_MAX * MOUNTED_NODEID_MAX <= 2 ** 53, "nodeids are exact as numbers");
assert(INODES_MAX < MOUNTED_NODEID_MAX, "inodes of a passthrough have nodeids that fit");
assert(OVERLAY_LAYERS_MAX + 1 < 2 ** 9, "a layer's position fits in an entry of a filter");
assert(OVERLAY_FILTER_MAX * 16 < OVERLAY_FILTER_SIZE, "the largest filter fits in the ring");
assert(INODES_MAX * 32 < 2 ** 31, "word indices of inode records are 32-bit integers");
