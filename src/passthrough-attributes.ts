// Operations on what a file is, not on what is in it: attributes, extended attributes, ACLs, file
// system figures.

import {
  FATTR_ATIME,
  FATTR_ATIME_NOW,
  FATTR_GID,
  FATTR_KILL_SUIDGID,
  FATTR_MODE,
  FATTR_MTIME,
  FATTR_MTIME_NOW,
  FATTR_SIZE,
  FATTR_UID,
  FUSE_SETXATTR_ACL_KILL_SGID,
} from "./abi-fuse.ts";
import {
  AT_EMPTY_PATH,
  AT_STATX_SYNC_TYPE,
  AT_SYMLINK_NOFOLLOW,
  CAP_FSETID,
  CAP_SYS_ADMIN,
  O_ACCMODE,
  O_DIRECTORY,
  O_RDONLY,
  S_IFLNK,
  S_IFREG,
  S_ISGID,
  S_ISUID,
  UTIME_NOW,
  UTIME_OMIT,
  stat,
  statfs,
  statx,
  timespec,
} from "./abi-linux.ts";
import { EBADF, EFBIG, EINVAL, EISDIR, ENOSYS, EPERM, EACCES } from "./errno.ts";
import { NO_HANDLE, type AttrChanges, type Context } from "./filesystem.ts";
import { FILE_OFFSET_MAX } from "./limits.ts";
import { smallMemory, type Memory } from "./memory.ts";
import { DOT, EMPTY } from "./passthrough-base.ts";
import { PassthroughNames } from "./passthrough-names.ts";
import type { AttrReply, DataOut, StatfsOut, StatxReply } from "./reply.ts";
import { readU64, writeU64, type Bytes, type Name } from "./request.ts";
import {
  close,
  fchmodat,
  fchmodat2,
  fchownat,
  fstat,
  fstatfs,
  ftruncate,
  getxattr,
  listxattr,
  removexattr,
  setxattr,
  statx as statxCall,
  syncfs,
  truncate,
  utimensat,
} from "./syscall.ts";

const UNCHANGED = -1;
const TRUSTED = "trusted.";
export const ACCESS_ACL = new TextEncoder().encode("system.posix_acl_access");
/** Everything that SETATTR can change. */
const FATTR_ALL = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME;

// Scratch memory of the thread, for all file systems that it serves.
const times = smallMemory(2 * timespec.sizeof);
const statxScratch = smallMemory(statx.sizeof);
const statfsScratch = smallMemory(statfs.sizeof);

export abstract class PassthroughAttributes extends PassthroughNames {
  readonly #times = times;
  readonly #statx = statxScratch;
  readonly #statfs = statfsScratch;
  /** fchmodat2(2) is of Linux 6.6. */
  #hasFchmodat2 = true;

  /** The inode's own descriptor does as well as the handle's, which may not even be open. */
  override getattr(_context: Context, nodeid: number, _fh: number, out: AttrReply): number {
    const fd = this.inodes.acquire(nodeid);
    const result = fd < 0 ? fd : fstat(fd, this.stat.address);
    if (result >= 0) this.showAttr(nodeid, out);
    this.inodes.release(nodeid);
    return result;
  }

  override statx(
    _context: Context,
    nodeid: number,
    _fh: number,
    flags: number,
    mask: number,
    out: StatxReply,
  ): number {
    const fd = this.inodes.acquire(nodeid);
    const sync = (flags & AT_STATX_SYNC_TYPE) | AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
    const result = fd < 0 ? fd : statxCall(fd, EMPTY.address, sync, mask, this.#statx.address);
    if (result >= 0) {
      out.attrTimeout = this.config.attrTimeout;
      const offset = this.inodes.inoOffset(nodeid);
      if (offset !== 0) this.#statx.i32[(statx.stx_ino >> 2) + 1]! ^= offset;
      out.copyStatx(this.#statx);
    }
    this.inodes.release(nodeid);
    return result;
  }

  override setattr(context: Context, nodeid: number, changes: AttrChanges, out: AttrReply): number {
    const fd = this.inodes.acquire(nodeid);
    let result = fd < 0 ? fd : 0;
    const { valid } = changes;
    if (result >= 0 && valid & FATTR_MODE) result = this.#chmod(fd, changes.mode);
    if (result >= 0 && valid & (FATTR_UID | FATTR_GID)) {
      const uid = valid & FATTR_UID ? changes.uid : UNCHANGED;
      const gid = valid & FATTR_GID ? changes.gid : UNCHANGED;
      result = fchownat(fd, EMPTY.address, uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
    }
    if (result >= 0 && valid & FATTR_SIZE) result = this.#setSize(context, nodeid, fd, changes);
    if (result >= 0 && (valid & FATTR_ALL) === 0) result = this.#killUnasked(context, nodeid, fd);
    if (result >= 0 && valid & (FATTR_ATIME | FATTR_MTIME)) result = this.#setTimes(fd, changes);
    if (result >= 0) result = fstat(fd, this.stat.address);
    if (result >= 0) this.showAttr(nodeid, out);
    this.inodes.release(nodeid);
    return result;
  }

  /**
   * The kernel does not say why privileges go. Somebody writes, who has the file open; or chown(2)
   * changes nobody, and that is not for strangers where it takes bits away.
   */
  #killUnasked(context: Context, nodeid: number, fd: number): number {
    if (this.inodes.type(nodeid) === S_IFREG && !this.inodes.hasWriters(nodeid)) {
      const result = fstat(fd, this.stat.address);
      if (result < 0) return result;
      const { view } = this.stat;
      const bits = view.getUint32(stat.st_mode, true) & (S_ISUID | S_ISGID);
      const uid = view.getUint32(stat.st_uid, true);
      if (bits !== 0 && !this.config.noOpen && !this.credentials.callerOwns(context.pid, uid))
        return -EPERM;
    }
    return this.killPrivileges(context, nodeid, fd);
  }

  /**
   * With killpriv v2, a SETATTR that changes nothing is how the kernel tells that privileges are to
   * be taken off a file: before it writes to the file itself (FUSE passthrough), before FALLOCATE
   * and COPY_FILE_RANGE, and at a chown(2) to nobody. The host does the same at such a chown, but
   * for our groups and capabilities; what differs is a set-group-id bit without the right to
   * execute.
   */
  protected killPrivileges(context: Context, nodeid: number, fd: number): number {
    const flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
    let result = fchownat(fd, EMPTY.address, UNCHANGED, UNCHANGED, flags);
    if (result < 0 || this.inodes.type(nodeid) !== S_IFREG) return result;
    result = fstat(fd, this.stat.address);
    if (result < 0) return result;
    const { view } = this.stat;
    const mode = view.getUint32(stat.st_mode, true);
    const gid = view.getUint32(stat.st_gid, true);
    if (!(mode & S_ISGID) || this.keepsSgid(context, gid)) return 0;
    return this.#chmod(fd, mode & 0o7777 & ~S_ISGID);
  }

  /** Whether set-group-id stays when the caller changes a file of the group `gid`. */
  protected keepsSgid({ pid }: Context, gid: number): boolean {
    const { credentials } = this;
    return credentials.callerHas(pid, CAP_FSETID) || credentials.callerIsIn(pid, gid);
  }

  #chmod(fd: number, mode: number): number {
    if (this.#hasFchmodat2) {
      const result = fchmodat2(fd, EMPTY.address, mode, AT_EMPTY_PATH);
      if (result !== -ENOSYS) return result;
      this.#hasFchmodat2 = false;
    }
    return fchmodat(this.proc.dirfd, this.proc.name(fd), mode);
  }

  /**
   * Takes set-user-id and set-group-id off a file that is about to be written to, if it has them.
   */
  protected killSetIdBits(context: Context, nodeid: number, fd: number): number {
    const result = fstat(fd, this.stat.address);
    if (result < 0) return result;
    const mode = this.stat.view.getUint32(stat.st_mode, true);
    return mode & (S_ISUID | S_ISGID) ? this.killPrivileges(context, nodeid, fd) : 0;
  }

  #setSize(context: Context, nodeid: number, fd: number, changes: AttrChanges): number {
    const { size, valid, fh } = changes;
    if (this.config.sealSize) return -EPERM;
    if (size > FILE_OFFSET_MAX) return -EFBIG;
    // truncate(2) on a link of /proc would open a device or FIFO.
    const type = this.inodes.type(nodeid);
    if (type !== S_IFREG) return type === S_IFLNK ? -EINVAL : -EISDIR;
    if (valid & FATTR_KILL_SUIDGID) {
      const killed = this.killSetIdBits(context, nodeid, fd);
      if (killed < 0) return killed;
    }
    if (fh !== NO_HANDLE && this.handles.acquire(fh, nodeid)) {
      const open = this.handles.fd(fh);
      const writable = open >= 0 && (this.handles.flags(fh) & O_ACCMODE) !== O_RDONLY;
      const result = writable ? ftruncate(open, size) : -EBADF;
      this.handles.release(fh);
      if (writable) return result;
    }
    return truncate(this.proc.path(fd), size);
  }

  #setTimes(fd: number, changes: AttrChanges): number {
    const { valid } = changes;
    const { view, address } = this.#times;
    const { sizeof, tv_sec, tv_nsec } = timespec;
    const atimeNsec =
      valid & FATTR_ATIME_NOW ? UTIME_NOW : valid & FATTR_ATIME ? changes.atimeNsec : UTIME_OMIT;
    const mtimeNsec =
      valid & FATTR_MTIME_NOW ? UTIME_NOW : valid & FATTR_MTIME ? changes.mtimeNsec : UTIME_OMIT;
    writeU64(view, tv_sec, changes.atime);
    writeU64(view, tv_nsec, atimeNsec);
    writeU64(view, sizeof + tv_sec, changes.mtime);
    writeU64(view, sizeof + tv_nsec, mtimeNsec);
    return utimensat(fd, EMPTY.address, address, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
  }

  /**
   * The permission bits, for callers that don't check them themselves; our mounts let the kernel do
   * it, with groups, ACLs and capabilities.
   */
  override access(context: Context, nodeid: number, mask: number): number {
    const fd = this.inodes.acquire(nodeid);
    const result = fd < 0 ? fd : fstat(fd, this.stat.address);
    this.inodes.release(nodeid);
    return result < 0 ? result : checkPermission(context, this.stat, mask);
  }

  override statfs(_context: Context, nodeid: number, out: StatfsOut): number {
    const fd = this.inodes.acquire(nodeid);
    const result = fd < 0 ? fd : fstatfs(fd, this.#statfs.address);
    this.inodes.release(nodeid);
    if (result < 0) return result;
    const { view } = this.#statfs;
    out.blocks = readU64(view, statfs.f_blocks);
    out.bfree = readU64(view, statfs.f_bfree);
    out.bavail = readU64(view, statfs.f_bavail);
    out.files = readU64(view, statfs.f_files);
    out.ffree = readU64(view, statfs.f_ffree);
    out.bsize = readU64(view, statfs.f_bsize);
    out.namelen = readU64(view, statfs.f_namelen);
    out.frsize = readU64(view, statfs.f_frsize);
    return 0;
  }

  override syncfs(_context: Context, nodeid: number): number {
    const fd = this.inodes.acquire(nodeid);
    // syncfs(2) refuses O_PATH descriptors.
    const directory = fd < 0 ? fd : this.openAt(fd, DOT.address, O_RDONLY | O_DIRECTORY, 0);
    this.inodes.release(nodeid);
    if (directory < 0) return directory;
    const result = syncfs(directory);
    close(directory);
    return result;
  }

  // --- Extended attributes, POSIX ACLs among them ---

  override setxattr(
    _context: Context,
    nodeid: number,
    name: Name,
    value: Bytes,
    flags: number,
    extraFlags: number,
  ): number {
    if (!this.config.xattr) return -ENOSYS;
    const fd = this.inodes.acquire(nodeid);
    let result = fd;
    if (fd >= 0) {
      const { address, length } = value;
      result = setxattr(this.proc.path(fd), name.address, address, length, flags);
      // The caller is not in the file's group. The kernel says it of default ACLs too, which have
      // no part in the mode.
      const kills = (extraFlags & FUSE_SETXATTR_ACL_KILL_SGID) !== 0 && name.is(ACCESS_ACL);
      if (result >= 0 && kills) result = this.killSgid(fd);
    }
    this.inodes.release(nodeid);
    return result;
  }

  /** Takes set-group-id off a file, if it has it. Returns 0 or -errno. */
  protected killSgid(fd: number): number {
    const result = fstat(fd, this.stat.address);
    if (result < 0) return result;
    const mode = this.stat.view.getUint32(stat.st_mode, true);
    return mode & S_ISGID ? this.#chmod(fd, mode & 0o7777 & ~S_ISGID) : 0;
  }

  override getxattr(_context: Context, nodeid: number, name: Name, out: DataOut): number {
    if (!this.config.xattr) return -ENOSYS;
    const fd = this.inodes.acquire(nodeid);
    const result = fd < 0 ? fd : getxattr(this.proc.path(fd), name.address, out.address, out.limit);
    this.inodes.release(nodeid);
    return result;
  }

  override listxattr(context: Context, nodeid: number, out: DataOut): number {
    if (!this.config.xattr) return -ENOSYS;
    const fd = this.inodes.acquire(nodeid);
    const result = fd < 0 ? fd : listxattr(this.proc.path(fd), out.address, out.limit);
    this.inodes.release(nodeid);
    return out.limit > 0 && result > 0 ? this.#hideTrusted(context, out.bytes, result) : result;
  }

  /**
   * File systems show the names of trusted attributes to privileged callers only. We are privileged
   * ourselves.
   */
  #hideTrusted(context: Context, list: Uint8Array, length: number): number {
    const names = Buffer.from(list.buffer, list.byteOffset, length);
    if (!names.includes(TRUSTED) || this.credentials.callerHas(context.pid, CAP_SYS_ADMIN))
      return length;
    let kept = 0;
    for (let at = 0; at < length;) {
      const end = names.indexOf(0, at) + 1;
      if (!names.subarray(at, end).toString("latin1").startsWith(TRUSTED)) {
        names.copyWithin(kept, at, end);
        kept += end - at;
      }
      at = end;
    }
    return kept;
  }

  override removexattr(_context: Context, nodeid: number, name: Name): number {
    if (!this.config.xattr) return -ENOSYS;
    const fd = this.inodes.acquire(nodeid);
    const result = fd < 0 ? fd : removexattr(this.proc.path(fd), name.address);
    this.inodes.release(nodeid);
    return result;
  }
}

/** Whether the mode of a struct stat grants what `mask` asks for. Returns 0 or -EACCES. */
export function checkPermission({ uid, gid }: Context, { view }: Memory, mask: number): number {
  const mode = view.getUint32(stat.st_mode, true);
  if (uid === 0) return mask & 1 && !(mode & 0o111) ? -EACCES : 0;
  const isOwner = uid === view.getUint32(stat.st_uid, true);
  const isGroup = gid === view.getUint32(stat.st_gid, true);
  const granted = isOwner ? mode >> 6 : isGroup ? mode >> 3 : mode;
  return (mask & 7 & ~granted) === 0 ? 0 : -EACCES;
}
