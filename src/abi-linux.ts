// Linux constants and structs of this machine's architecture, from the kernel's uapi headers.

import { array, i32, i64, struct, u16, u32, u64, u8 } from "./struct.ts";

export const AT_FDCWD = -100;
export const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_EACCESS = 0x200;
export const AT_REMOVEDIR = 0x200;
export const AT_SYMLINK_FOLLOW = 0x400;
export const AT_EMPTY_PATH = 0x1000;
export const AT_STATX_SYNC_TYPE = 0x6000;

export const O_ACCMODE = 0o3;
export const O_RDONLY = 0o0;
export const O_WRONLY = 0o1;
export const O_RDWR = 0o2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_NOCTTY = 0o400;
export const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_NONBLOCK = 0o4000;
export const O_DSYNC = 0o10000;
export const O_NOATIME = 0o1000000;
export const O_CLOEXEC = 0o2000000;
export const O_SYNC = 0o4010000;
export const O_PATH = 0o10000000;

const arm64 = process.arch === "arm64";
export const O_DIRECT = arm64 ? 0o200000 : 0o40000;
export const O_LARGEFILE = arm64 ? 0o400000 : 0o100000;
export const O_DIRECTORY = arm64 ? 0o40000 : 0o200000;
export const O_NOFOLLOW = arm64 ? 0o100000 : 0o400000;
/** Includes O_DIRECTORY, as the kernel's O_TMPFILE does. */
export const O_TMPFILE = 0o20000000 | O_DIRECTORY;

export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;
export const S_ISUID = 0o4000;
export const S_ISGID = 0o2000;
export const S_IXGRP = 0o010;

export const NAME_MAX = 255;
export const PATH_MAX = 4096;
export const XATTR_SIZE_MAX = 65536;
export const XATTR_LIST_MAX = 65536;

export const UTIME_NOW = (1 << 30) - 1;
export const UTIME_OMIT = (1 << 30) - 2;

export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;
export const RENAME_WHITEOUT = 4;

// Types in linux_dirent64, which are those of st_mode shifted by 12.
export const DT_UNKNOWN = 0;
export const DT_CHR = 2;
export const DT_DIR = 4;
export const DT_REG = 8;
export const DT_WHT = 14;

export const SEEK_SET = 0;
export const SEEK_CUR = 1;
export const SEEK_END = 2;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

export const FALLOC_FL_KEEP_SIZE = 0x01;
export const FALLOC_FL_PUNCH_HOLE = 0x02;
export const FALLOC_FL_COLLAPSE_RANGE = 0x08;
export const FALLOC_FL_ZERO_RANGE = 0x10;
export const FALLOC_FL_INSERT_RANGE = 0x20;
export const FALLOC_FL_UNSHARE_RANGE = 0x40;

export const F_GETFL = 3;
export const F_SETFL = 4;
export const F_SETPIPE_SZ = 1031;
export const F_OFD_GETLK = 36;
export const F_OFD_SETLK = 37;
export const F_OFD_SETLKW = 38;
export const F_RDLCK = 0;
export const F_WRLCK = 1;
export const F_UNLCK = 2;
/** fsetxattr(2) fails if the attribute is there. */
export const XATTR_CREATE = 1;

export const LOCK_SH = 1;
export const LOCK_EX = 2;
export const LOCK_NB = 4;
export const LOCK_UN = 8;

export const POLLIN = 0x01;
export const POLLPRI = 0x02;
export const POLLOUT = 0x04;
export const POLLERR = 0x08;
export const POLLHUP = 0x10;

export const CLONE_FS = 0x200;
export const CLONE_NEWNS = 0x20000;
export const RLIMIT_NOFILE = 7;
export const PR_SET_PDEATHSIG = 1;

export const CAP_CHOWN = 0;
export const CAP_DAC_OVERRIDE = 1;
export const CAP_DAC_READ_SEARCH = 2;
export const CAP_FOWNER = 3;
export const CAP_FSETID = 4;
export const CAP_SETGID = 6;
export const CAP_SETUID = 7;
export const CAP_SYS_ADMIN = 21;
export const _LINUX_CAPABILITY_VERSION_3 = 0x20080522;

export const FUTEX_WAIT_PRIVATE = 128;
export const FUTEX_WAKE_PRIVATE = 129;

export const MFD_CLOEXEC = 1;
export const EFD_CLOEXEC = O_CLOEXEC;
export const EFD_NONBLOCK = O_NONBLOCK;

// mount(2), umount2(2)
export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_NOEXEC = 8;
export const MS_SYNCHRONOUS = 16;
export const MS_DIRSYNC = 128;
export const MS_NOATIME = 1024;
export const MS_NODIRATIME = 2048;
export const MS_RELATIME = 1 << 21;
export const MS_STRICTATIME = 1 << 24;
export const MNT_DETACH = 2;
export const UMOUNT_NOFOLLOW = 8;

// open_tree(2), mount_setattr(2)
export const AT_RECURSIVE = 0x8000;
export const OPEN_TREE_CLONE = 1;
export const OPEN_TREE_CLOEXEC = O_CLOEXEC;
export const MOUNT_ATTR__ATIME = 0x70;
export const MOUNT_ATTR_RDONLY = 0x01;
export const MOUNT_ATTR_NOATIME = 0x10;
export const MOUNT_ATTR_STRICTATIME = 0x20;
export const MOUNT_ATTR_NODIRATIME = 0x80;

// ioctls on files
export const FICLONE = 0x40049409;
export const FS_IOC_GETFSUUID = 0x80111500;
export const FS_IOC_GETFLAGS = 0x80086601;
export const FS_IOC_SETFLAGS = 0x40086602;
export const FS_IOC_FSGETXATTR = 0x801c581f;
export const FS_IOC_FSSETXATTR = 0x401c5820;
export const FS_IMMUTABLE_FL = 0x10;
export const FS_APPEND_FL = 0x20;
export const FS_XFLAG_IMMUTABLE = 0x08;
export const FS_XFLAG_APPEND = 0x10;
export const FS_CASEFOLD_FL = 0x40000000;
export const FS_IOC_GETVERSION = 0x80087601;

export const XFS_IOC_FSGEOMETRY_V1 = 0x80705864;
export const XFS_FSOP_GEOM_FLAGS_DIRV2CI = 1 << 12;

export const AF_UNIX = 1;
export const SOCK_STREAM = 1;
export const SOL_SOCKET = 1;
export const SCM_RIGHTS = 1;
export const MSG_CMSG_CLOEXEC = 0x40000000;

export const STATX_BASIC_STATS = 0x7ff;
export const STATX_BTIME = 0x800;
export const STATX_MNT_ID = 0x1000;
export const STATX_ATTR_IMMUTABLE = 0x10;
export const STATX_ATTR_APPEND = 0x20;

/** struct stat of stat(2), by architecture. */
export const stat = arm64
  ? struct("stat", {
      st_dev: u64,
      st_ino: u64,
      st_mode: u32,
      st_nlink: u32,
      st_uid: u32,
      st_gid: u32,
      st_rdev: u64,
      __pad1: u64,
      st_size: i64,
      st_blksize: i32,
      __pad2: i32,
      st_blocks: i64,
      st_atime: i64,
      st_atime_nsec: u64,
      st_mtime: i64,
      st_mtime_nsec: u64,
      st_ctime: i64,
      st_ctime_nsec: u64,
      __unused4: u32,
      __unused5: u32,
    })
  : struct("stat", {
      st_dev: u64,
      st_ino: u64,
      st_nlink: u64,
      st_mode: u32,
      st_uid: u32,
      st_gid: u32,
      __pad0: u32,
      st_rdev: u64,
      st_size: i64,
      st_blksize: i64,
      st_blocks: i64,
      st_atime: u64,
      st_atime_nsec: u64,
      st_mtime: u64,
      st_mtime_nsec: u64,
      st_ctime: u64,
      st_ctime_nsec: u64,
      __unused: array(i64, 3),
    });

export const statx_timestamp = struct("statx_timestamp", {
  tv_sec: i64,
  tv_nsec: u32,
  __reserved: i32,
});

export const statx = struct("statx", {
  stx_mask: u32,
  stx_blksize: u32,
  stx_attributes: u64,
  stx_nlink: u32,
  stx_uid: u32,
  stx_gid: u32,
  stx_mode: u16,
  __spare0: u16,
  stx_ino: u64,
  stx_size: u64,
  stx_blocks: u64,
  stx_attributes_mask: u64,
  stx_atime: statx_timestamp,
  stx_btime: statx_timestamp,
  stx_ctime: statx_timestamp,
  stx_mtime: statx_timestamp,
  stx_rdev_major: u32,
  stx_rdev_minor: u32,
  stx_dev_major: u32,
  stx_dev_minor: u32,
  stx_mnt_id: u64,
  __spare: array(u64, 13),
});

// What statfs(2) says of the type of a file system.
export const EXT4_SUPER_MAGIC = 0xef53; // ext2 and ext3 too
export const XFS_SUPER_MAGIC = 0x58465342;
export const BTRFS_SUPER_MAGIC = 0x9123683e;
export const F2FS_SUPER_MAGIC = 0xf2f52010;
export const TMPFS_MAGIC = 0x01021994;
export const RAMFS_MAGIC = 0x858458f6;
export const SQUASHFS_MAGIC = 0x73717368;
export const EROFS_SUPER_MAGIC_V1 = 0xe0f5e1e2;
export const OVERLAYFS_SUPER_MAGIC = 0x794c7630;
export const ECRYPTFS_SUPER_MAGIC = 0xf15f;

/** struct xfs_fsop_geom_v1 of xfs/xfs_fs.h. */
export const xfs_fsop_geom_v1 = struct("xfs_fsop_geom_v1", {
  blocksize: u32,
  rtextsize: u32,
  agblocks: u32,
  agcount: u32,
  logblocks: u32,
  sectsize: u32,
  inodesize: u32,
  imaxpct: u32,
  datablocks: u64,
  rtblocks: u64,
  rtextents: u64,
  logstart: u64,
  uuid: array(u8, 16),
  sunit: u32,
  swidth: u32,
  version: i32,
  flags: u32,
  logsectsize: u32,
  rtsectsize: u32,
  dirblocksize: u32,
  __pad: u32,
});

export const statfs = struct("statfs", {
  f_type: i64,
  f_bsize: i64,
  f_blocks: u64,
  f_bfree: u64,
  f_bavail: u64,
  f_files: u64,
  f_ffree: u64,
  f_fsid: u64,
  f_namelen: i64,
  f_frsize: i64,
  f_flags: i64,
  f_spare: array(i64, 4),
});

/** Followed by the name with its NUL; the record is `d_reclen` bytes, and `d_name` starts at 19. */
export const linux_dirent64 = struct("linux_dirent64", {
  d_ino: u64,
  d_off: i64,
  d_reclen: u16,
  d_type: u8,
});
export const LINUX_DIRENT64_NAME = 19;

export const timespec = struct("timespec", { tv_sec: i64, tv_nsec: i64 });
export const flock = struct("flock", {
  l_type: u16,
  l_whence: u16,
  l_start: i64,
  l_len: i64,
  l_pid: i32,
});
export const iovec = struct("iovec", { iov_base: u64, iov_len: u64 });
export const pollfd = struct("pollfd", { fd: i32, events: u16, revents: u16 });
export const rlimit = struct("rlimit", { rlim_cur: u64, rlim_max: u64 });
export const open_how = struct("open_how", { flags: u64, mode: u64, resolve: u64 });
export const mount_attr = struct("mount_attr", {
  attr_set: u64,
  attr_clr: u64,
  propagation: u64,
  userns_fd: u64,
});
/** Followed by `handle_bytes` bytes. */
export const file_handle = struct("file_handle", { handle_bytes: u32, handle_type: i32 });
export const cap_header = struct("cap_header", { version: u32, pid: i32 });
export const cap_data = struct("cap_data", { effective: u32, permitted: u32, inheritable: u32 });
export const msghdr = struct("msghdr", {
  msg_name: u64,
  msg_namelen: u32,
  __pad0: u32,
  msg_iov: u64,
  msg_iovlen: u64,
  msg_control: u64,
  msg_controllen: u64,
  msg_flags: i32,
});
export const cmsghdr = struct("cmsghdr", { cmsg_len: u64, cmsg_level: i32, cmsg_type: i32 });
export const fsxattr = struct("fsxattr", {
  fsx_xflags: u32,
  fsx_extsize: u32,
  fsx_nextents: u32,
  fsx_projid: u32,
  fsx_cowextsize: u32,
  fsx_pad: array(u8, 8),
});
