// The FUSE wire protocol, as in the kernel's include/uapi/linux/fuse.h, version 7.45. Names are the
// kernel's own. All numbers are little-endian on the machines we run on, as the kernel's are.

import { array, i32, i64, struct, u16, u32, u64 } from "./struct.ts";

export const FUSE_KERNEL_VERSION = 7;
export const FUSE_KERNEL_MINOR_VERSION = 45;
/** The oldest minor version whose requests are understood. */
export const FUSE_KERNEL_MINOR_VERSION_MIN = 27;

/** The node that is the root of the mount. */
export const FUSE_ROOT_ID = 1;

// enum fuse_opcode
export const FUSE_LOOKUP = 1;
export const FUSE_FORGET = 2;
export const FUSE_GETATTR = 3;
export const FUSE_SETATTR = 4;
export const FUSE_READLINK = 5;
export const FUSE_SYMLINK = 6;
export const FUSE_MKNOD = 8;
export const FUSE_MKDIR = 9;
export const FUSE_UNLINK = 10;
export const FUSE_RMDIR = 11;
export const FUSE_RENAME = 12;
export const FUSE_LINK = 13;
export const FUSE_OPEN = 14;
export const FUSE_READ = 15;
export const FUSE_WRITE = 16;
export const FUSE_STATFS = 17;
export const FUSE_RELEASE = 18;
export const FUSE_FSYNC = 20;
export const FUSE_SETXATTR = 21;
export const FUSE_GETXATTR = 22;
export const FUSE_LISTXATTR = 23;
export const FUSE_REMOVEXATTR = 24;
export const FUSE_FLUSH = 25;
export const FUSE_INIT = 26;
export const FUSE_OPENDIR = 27;
export const FUSE_READDIR = 28;
export const FUSE_RELEASEDIR = 29;
export const FUSE_FSYNCDIR = 30;
export const FUSE_GETLK = 31;
export const FUSE_SETLK = 32;
export const FUSE_SETLKW = 33;
export const FUSE_ACCESS = 34;
export const FUSE_CREATE = 35;
export const FUSE_INTERRUPT = 36;
export const FUSE_BMAP = 37;
export const FUSE_DESTROY = 38;
export const FUSE_IOCTL = 39;
export const FUSE_POLL = 40;
export const FUSE_NOTIFY_REPLY = 41;
export const FUSE_BATCH_FORGET = 42;
export const FUSE_FALLOCATE = 43;
export const FUSE_READDIRPLUS = 44;
export const FUSE_RENAME2 = 45;
export const FUSE_LSEEK = 46;
export const FUSE_COPY_FILE_RANGE = 47;
export const FUSE_SETUPMAPPING = 48;
export const FUSE_REMOVEMAPPING = 49;
export const FUSE_SYNCFS = 50;
export const FUSE_TMPFILE = 51;
export const FUSE_STATX = 52;
export const FUSE_COPY_FILE_RANGE_64 = 53;
export const CUSE_INIT = 4096;

/** One past the highest opcode served. */
export const FUSE_OPCODE_LIMIT = 54;

// INIT flags. The upper half travels in `flags2` and needs FUSE_INIT_EXT; each half is a set of its
// own here, because a number's bitwise operators see 32 bits.

// flags
export const FUSE_ASYNC_READ = 1 << 0;
export const FUSE_POSIX_LOCKS = 1 << 1;
export const FUSE_FILE_OPS = 1 << 2;
export const FUSE_ATOMIC_O_TRUNC = 1 << 3;
export const FUSE_EXPORT_SUPPORT = 1 << 4;
export const FUSE_BIG_WRITES = 1 << 5;
export const FUSE_DONT_MASK = 1 << 6;
export const FUSE_SPLICE_WRITE = 1 << 7;
export const FUSE_SPLICE_MOVE = 1 << 8;
export const FUSE_SPLICE_READ = 1 << 9;
export const FUSE_FLOCK_LOCKS = 1 << 10;
export const FUSE_HAS_IOCTL_DIR = 1 << 11;
export const FUSE_AUTO_INVAL_DATA = 1 << 12;
export const FUSE_DO_READDIRPLUS = 1 << 13;
export const FUSE_READDIRPLUS_AUTO = 1 << 14;
export const FUSE_ASYNC_DIO = 1 << 15;
export const FUSE_WRITEBACK_CACHE = 1 << 16;
export const FUSE_NO_OPEN_SUPPORT = 1 << 17;
export const FUSE_PARALLEL_DIROPS = 1 << 18;
export const FUSE_HANDLE_KILLPRIV = 1 << 19;
export const FUSE_POSIX_ACL = 1 << 20;
export const FUSE_ABORT_ERROR = 1 << 21;
export const FUSE_MAX_PAGES = 1 << 22;
export const FUSE_CACHE_SYMLINKS = 1 << 23;
export const FUSE_NO_OPENDIR_SUPPORT = 1 << 24;
export const FUSE_EXPLICIT_INVAL_DATA = 1 << 25;
export const FUSE_MAP_ALIGNMENT = 1 << 26;
export const FUSE_SUBMOUNTS = 1 << 27;
export const FUSE_HANDLE_KILLPRIV_V2 = 1 << 28;
export const FUSE_SETXATTR_EXT = 1 << 29;
export const FUSE_INIT_EXT = 1 << 30;
export const FUSE_INIT_RESERVED = 1 << 31;

// flags2
export const FUSE_SECURITY_CTX = 1 << 0;
export const FUSE_HAS_INODE_DAX = 1 << 1;
export const FUSE_CREATE_SUPP_GROUP = 1 << 2;
export const FUSE_HAS_EXPIRE_ONLY = 1 << 3;
export const FUSE_DIRECT_IO_ALLOW_MMAP = 1 << 4;
export const FUSE_PASSTHROUGH = 1 << 5;
export const FUSE_NO_EXPORT_SUPPORT = 1 << 6;
export const FUSE_HAS_RESEND = 1 << 7;
export const FUSE_ALLOW_IDMAP = 1 << 8;
export const FUSE_OVER_IO_URING = 1 << 9;
export const FUSE_REQUEST_TIMEOUT = 1 << 10;

// FATTR_*: which fields of fuse_setattr_in are meant
export const FATTR_MODE = 1 << 0;
export const FATTR_UID = 1 << 1;
export const FATTR_GID = 1 << 2;
export const FATTR_SIZE = 1 << 3;
export const FATTR_ATIME = 1 << 4;
export const FATTR_MTIME = 1 << 5;
export const FATTR_FH = 1 << 6;
export const FATTR_ATIME_NOW = 1 << 7;
export const FATTR_MTIME_NOW = 1 << 8;
export const FATTR_LOCKOWNER = 1 << 9;
export const FATTR_CTIME = 1 << 10;
export const FATTR_KILL_SUIDGID = 1 << 11;

// FOPEN_*: fuse_open_out.open_flags
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;
export const FOPEN_NONSEEKABLE = 1 << 2;
export const FOPEN_CACHE_DIR = 1 << 3;
export const FOPEN_STREAM = 1 << 4;
export const FOPEN_NOFLUSH = 1 << 5;
export const FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6;
export const FOPEN_PASSTHROUGH = 1 << 7;

export const FUSE_GETATTR_FH = 1 << 0;
export const FUSE_LK_FLOCK = 1 << 0;
export const FUSE_RELEASE_FLUSH = 1 << 0;
export const FUSE_RELEASE_FLOCK_UNLOCK = 1 << 1;
export const FUSE_WRITE_CACHE = 1 << 0;
export const FUSE_WRITE_LOCKOWNER = 1 << 1;
export const FUSE_WRITE_KILL_SUIDGID = 1 << 2;
export const FUSE_READ_LOCKOWNER = 1 << 1;
export const FUSE_IOCTL_COMPAT = 1 << 0;
export const FUSE_IOCTL_UNRESTRICTED = 1 << 1;
export const FUSE_IOCTL_RETRY = 1 << 2;
export const FUSE_IOCTL_32BIT = 1 << 3;
export const FUSE_IOCTL_DIR = 1 << 4;
export const FUSE_IOCTL_COMPAT_X32 = 1 << 5;
export const FUSE_IOCTL_MAX_IOV = 256;
export const FUSE_POLL_SCHEDULE_NOTIFY = 1 << 0;
export const FUSE_FSYNC_FDATASYNC = 1 << 0;
export const FUSE_ATTR_SUBMOUNT = 1 << 0;
export const FUSE_ATTR_DAX = 1 << 1;
export const FUSE_OPEN_KILL_SUIDGID = 1 << 0;
export const FUSE_SETXATTR_ACL_KILL_SGID = 1 << 0;
export const FUSE_EXPIRE_ONLY = 1 << 0;
export const FUSE_SETUPMAPPING_FLAG_WRITE = 1 << 0;
export const FUSE_SETUPMAPPING_FLAG_READ = 1 << 1;

// enum fuse_ext_type: up to FUSE_MAX_NR_SECCTX the type is a number of security contexts
export const FUSE_MAX_NR_SECCTX = 31;
export const FUSE_EXT_GROUPS = 32;

// enum fuse_notify_code: travels in fuse_out_header.error, with unique 0
export const FUSE_NOTIFY_POLL = 1;
export const FUSE_NOTIFY_INVAL_INODE = 2;
export const FUSE_NOTIFY_INVAL_ENTRY = 3;
export const FUSE_NOTIFY_STORE = 4;
export const FUSE_NOTIFY_RETRIEVE = 5;
export const FUSE_NOTIFY_DELETE = 6;
export const FUSE_NOTIFY_RESEND = 7;
export const FUSE_NOTIFY_INC_EPOCH = 8;
export const FUSE_NOTIFY_PRUNE = 9;

/** In the upper half of `unique`: the request was sent before, and is sent again. */
export const FUSE_UNIQUE_RESEND_HIGH = 0x80000000;

/** Stands for a uid or gid where the kernel gives none (on idmapped mounts). */
export const FUSE_INVALID_UIDGID = 0xffffffff;

/** The smallest buffer that the kernel accepts for reading a request. */
export const FUSE_MIN_READ_BUFFER = 8192;

/** Where COPY_FILE_RANGE, with its 32-bit answer, must stop: the last page below 2**31. */
export const MAX_RW_COUNT = 0x7ffff000;

// ioctls on /dev/fuse
export const FUSE_DEV_IOC_CLONE = 0x8004e500;
export const FUSE_DEV_IOC_BACKING_OPEN = 0x4010e501;
export const FUSE_DEV_IOC_BACKING_CLOSE = 0x4004e502;

export const fuse_attr = struct("fuse_attr", {
  ino: u64,
  size: u64,
  blocks: u64,
  atime: u64,
  mtime: u64,
  ctime: u64,
  atimensec: u32,
  mtimensec: u32,
  ctimensec: u32,
  mode: u32,
  nlink: u32,
  uid: u32,
  gid: u32,
  rdev: u32,
  blksize: u32,
  flags: u32,
});
export const fuse_sx_time = struct("fuse_sx_time", { tv_sec: i64, tv_nsec: u32, __reserved: i32 });
export const fuse_statx = struct("fuse_statx", {
  mask: u32,
  blksize: u32,
  attributes: u64,
  nlink: u32,
  uid: u32,
  gid: u32,
  mode: u16,
  __spare0: array(u16, 1),
  ino: u64,
  size: u64,
  blocks: u64,
  attributes_mask: u64,
  atime: fuse_sx_time,
  btime: fuse_sx_time,
  ctime: fuse_sx_time,
  mtime: fuse_sx_time,
  rdev_major: u32,
  rdev_minor: u32,
  dev_major: u32,
  dev_minor: u32,
  __spare2: array(u64, 14),
});
export const fuse_kstatfs = struct("fuse_kstatfs", {
  blocks: u64,
  bfree: u64,
  bavail: u64,
  files: u64,
  ffree: u64,
  bsize: u32,
  namelen: u32,
  frsize: u32,
  padding: u32,
  spare: array(u32, 6),
});
export const fuse_file_lock = struct("fuse_file_lock", {
  start: u64,
  end: u64,
  type: u32,
  pid: u32,
});
export const fuse_in_header = struct("fuse_in_header", {
  len: u32,
  opcode: u32,
  unique: u64,
  nodeid: u64,
  uid: u32,
  gid: u32,
  pid: u32,
  total_extlen: u16,
  padding: u16,
});
export const fuse_out_header = struct("fuse_out_header", { len: u32, error: i32, unique: u64 });
export const fuse_entry_out = struct("fuse_entry_out", {
  nodeid: u64,
  generation: u64,
  entry_valid: u64,
  attr_valid: u64,
  entry_valid_nsec: u32,
  attr_valid_nsec: u32,
  attr: fuse_attr,
});
export const fuse_forget_in = struct("fuse_forget_in", { nlookup: u64 });
export const fuse_forget_one = struct("fuse_forget_one", { nodeid: u64, nlookup: u64 });
export const fuse_batch_forget_in = struct("fuse_batch_forget_in", { count: u32, dummy: u32 });
export const fuse_getattr_in = struct("fuse_getattr_in", {
  getattr_flags: u32,
  dummy: u32,
  fh: u64,
});
export const fuse_attr_out = struct("fuse_attr_out", {
  attr_valid: u64,
  attr_valid_nsec: u32,
  dummy: u32,
  attr: fuse_attr,
});
export const fuse_statx_in = struct("fuse_statx_in", {
  getattr_flags: u32,
  reserved: u32,
  fh: u64,
  sx_flags: u32,
  sx_mask: u32,
});
export const fuse_statx_out = struct("fuse_statx_out", {
  attr_valid: u64,
  attr_valid_nsec: u32,
  flags: u32,
  spare: array(u64, 2),
  stat: fuse_statx,
});
export const fuse_mknod_in = struct("fuse_mknod_in", {
  mode: u32,
  rdev: u32,
  umask: u32,
  padding: u32,
});
export const fuse_mkdir_in = struct("fuse_mkdir_in", { mode: u32, umask: u32 });
export const fuse_rename_in = struct("fuse_rename_in", { newdir: u64 });
export const fuse_rename2_in = struct("fuse_rename2_in", { newdir: u64, flags: u32, padding: u32 });
export const fuse_link_in = struct("fuse_link_in", { oldnodeid: u64 });
export const fuse_setattr_in = struct("fuse_setattr_in", {
  valid: u32,
  padding: u32,
  fh: u64,
  size: u64,
  lock_owner: u64,
  atime: u64,
  mtime: u64,
  ctime: u64,
  atimensec: u32,
  mtimensec: u32,
  ctimensec: u32,
  mode: u32,
  unused4: u32,
  uid: u32,
  gid: u32,
  unused5: u32,
});
export const fuse_open_in = struct("fuse_open_in", { flags: u32, open_flags: u32 });
export const fuse_create_in = struct("fuse_create_in", {
  flags: u32,
  mode: u32,
  umask: u32,
  open_flags: u32,
});
export const fuse_open_out = struct("fuse_open_out", { fh: u64, open_flags: u32, backing_id: i32 });
export const fuse_release_in = struct("fuse_release_in", {
  fh: u64,
  flags: u32,
  release_flags: u32,
  lock_owner: u64,
});
export const fuse_flush_in = struct("fuse_flush_in", {
  fh: u64,
  unused: u32,
  padding: u32,
  lock_owner: u64,
});
export const fuse_read_in = struct("fuse_read_in", {
  fh: u64,
  offset: u64,
  size: u32,
  read_flags: u32,
  lock_owner: u64,
  flags: u32,
  padding: u32,
});
export const fuse_write_in = struct("fuse_write_in", {
  fh: u64,
  offset: u64,
  size: u32,
  write_flags: u32,
  lock_owner: u64,
  flags: u32,
  padding: u32,
});
export const fuse_write_out = struct("fuse_write_out", { size: u32, padding: u32 });
export const fuse_statfs_out = struct("fuse_statfs_out", { st: fuse_kstatfs });
export const fuse_fsync_in = struct("fuse_fsync_in", { fh: u64, fsync_flags: u32, padding: u32 });
/** Only the first 8 bytes are there unless FUSE_SETXATTR_EXT was negotiated. */
export const fuse_setxattr_in = struct("fuse_setxattr_in", {
  size: u32,
  flags: u32,
  setxattr_flags: u32,
  padding: u32,
});
export const fuse_getxattr_in = struct("fuse_getxattr_in", { size: u32, padding: u32 });
export const fuse_getxattr_out = struct("fuse_getxattr_out", { size: u32, padding: u32 });
export const fuse_lk_in = struct("fuse_lk_in", {
  fh: u64,
  owner: u64,
  lk: fuse_file_lock,
  lk_flags: u32,
  padding: u32,
});
export const fuse_lk_out = struct("fuse_lk_out", { lk: fuse_file_lock });
export const fuse_access_in = struct("fuse_access_in", { mask: u32, padding: u32 });
/** Only the first 16 bytes are there before 7.36. */
export const fuse_init_in = struct("fuse_init_in", {
  major: u32,
  minor: u32,
  max_readahead: u32,
  flags: u32,
  flags2: u32,
  unused: array(u32, 11),
});
export const fuse_init_out = struct("fuse_init_out", {
  major: u32,
  minor: u32,
  max_readahead: u32,
  flags: u32,
  max_background: u16,
  congestion_threshold: u16,
  max_write: u32,
  time_gran: u32,
  max_pages: u16,
  map_alignment: u16,
  flags2: u32,
  max_stack_depth: u32,
  request_timeout: u16,
  unused: array(u16, 11),
});
export const fuse_interrupt_in = struct("fuse_interrupt_in", { unique: u64 });
export const fuse_bmap_in = struct("fuse_bmap_in", { block: u64, blocksize: u32, padding: u32 });
export const fuse_bmap_out = struct("fuse_bmap_out", { block: u64 });
export const fuse_ioctl_in = struct("fuse_ioctl_in", {
  fh: u64,
  flags: u32,
  cmd: u32,
  arg: u64,
  in_size: u32,
  out_size: u32,
});
export const fuse_ioctl_iovec = struct("fuse_ioctl_iovec", { base: u64, len: u64 });
export const fuse_ioctl_out = struct("fuse_ioctl_out", {
  result: i32,
  flags: u32,
  in_iovs: u32,
  out_iovs: u32,
});
export const fuse_poll_in = struct("fuse_poll_in", { fh: u64, kh: u64, flags: u32, events: u32 });
export const fuse_poll_out = struct("fuse_poll_out", { revents: u32, padding: u32 });
export const fuse_fallocate_in = struct("fuse_fallocate_in", {
  fh: u64,
  offset: u64,
  length: u64,
  mode: u32,
  padding: u32,
});
export const fuse_lseek_in = struct("fuse_lseek_in", {
  fh: u64,
  offset: u64,
  whence: u32,
  padding: u32,
});
export const fuse_lseek_out = struct("fuse_lseek_out", { offset: u64 });
export const fuse_copy_file_range_in = struct("fuse_copy_file_range_in", {
  fh_in: u64,
  off_in: u64,
  nodeid_out: u64,
  fh_out: u64,
  off_out: u64,
  len: u64,
  flags: u64,
});
export const fuse_copy_file_range_out = struct("fuse_copy_file_range_out", { bytes_copied: u64 });
export const fuse_setupmapping_in = struct("fuse_setupmapping_in", {
  fh: u64,
  foffset: u64,
  len: u64,
  flags: u64,
  moffset: u64,
});
export const fuse_removemapping_in = struct("fuse_removemapping_in", { count: u32 });
export const fuse_removemapping_one = struct("fuse_removemapping_one", { moffset: u64, len: u64 });
export const fuse_syncfs_in = struct("fuse_syncfs_in", { padding: u64 });
/** Followed by the name of the attribute with its NUL, then `size` bytes of value. */
export const fuse_secctx = struct("fuse_secctx", { size: u32, padding: u32 });
export const fuse_secctx_header = struct("fuse_secctx_header", { size: u32, nr_secctx: u32 });
export const fuse_ext_header = struct("fuse_ext_header", { size: u32, type: u32 });
/** Followed by `nr_groups` u32. */
export const fuse_supp_groups = struct("fuse_supp_groups", { nr_groups: u32 });
/** Followed by the name, padded to a multiple of 8. */
export const fuse_dirent = struct("fuse_dirent", { ino: u64, off: u64, namelen: u32, type: u32 });
/** Followed by the name, padded to a multiple of 8. */
export const fuse_direntplus = struct("fuse_direntplus", {
  entry_out: fuse_entry_out,
  dirent: fuse_dirent,
});
export const fuse_notify_poll_wakeup_out = struct("fuse_notify_poll_wakeup_out", { kh: u64 });
export const fuse_notify_inval_inode_out = struct("fuse_notify_inval_inode_out", {
  ino: u64,
  off: i64,
  len: i64,
});
export const fuse_notify_inval_entry_out = struct("fuse_notify_inval_entry_out", {
  parent: u64,
  namelen: u32,
  flags: u32,
});
export const fuse_notify_delete_out = struct("fuse_notify_delete_out", {
  parent: u64,
  child: u64,
  namelen: u32,
  padding: u32,
});
export const fuse_notify_store_out = struct("fuse_notify_store_out", {
  nodeid: u64,
  offset: u64,
  size: u32,
  padding: u32,
});
export const fuse_notify_retrieve_out = struct("fuse_notify_retrieve_out", {
  notify_unique: u64,
  nodeid: u64,
  offset: u64,
  size: u32,
  padding: u32,
});
export const fuse_notify_retrieve_in = struct("fuse_notify_retrieve_in", {
  dummy1: u64,
  offset: u64,
  size: u32,
  dummy2: u32,
  dummy3: u64,
  dummy4: u64,
});
export const fuse_notify_prune_out = struct("fuse_notify_prune_out", {
  count: u32,
  padding: u32,
  spare: u64,
});
export const fuse_backing_map = struct("fuse_backing_map", { fd: i32, flags: u32, padding: u64 });

/** What fuse_setxattr_in occupies without FUSE_SETXATTR_EXT. */
export const FUSE_COMPAT_SETXATTR_IN_SIZE = 8;
/** What fuse_init_in occupies before FUSE_INIT_EXT (7.36). */
export const FUSE_COMPAT_INIT_IN_SIZE = 16;
