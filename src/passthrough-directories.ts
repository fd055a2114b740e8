// Operations on directories as lists of entries. The cookies are the host's own, so they are as
// stable as the host's: the kernel brings one, and reading goes on from there.

import { FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, FUSE_ROOT_ID } from "./abi-fuse.ts";
import {
  LINUX_DIRENT64_NAME,
  O_DIRECTORY,
  O_RDONLY,
  SEEK_SET,
  S_IFDIR,
  linux_dirent64,
  stat,
} from "./abi-linux.ts";
import { isDotsAt, nameLengthAt } from "./dirents.ts";
import { EBADF, EINVAL, ENOENT, ENOSYS, ENOTDIR } from "./errno.ts";
import type { Context } from "./filesystem.ts";
import { MAX_WRITE } from "./limits.ts";
import { map } from "./memory.ts";
import { DOT } from "./passthrough-base.ts";
import { PassthroughFiles } from "./passthrough-files.ts";
import type { DirectoryOut, OpenOut } from "./reply.ts";
import { copyU64 } from "./request.ts";
import { close, fdatasync, fstat, fsync, getdents64, lseek } from "./syscall.ts";

/**
 * getdents64(2) refuses a buffer that the next entry does not fit in: the longest name and then
 * some.
 */
const SMALLEST_BUFFER = 512;
/** A plain entry is at most a third longer in a reply than getdents64 writes it. */
const PLAIN_SHARE = 3 / 4;
/** With its attributes, an entry of a short name takes six times as much. */
const PLUS_SHARE = 1 / 6;

// Scratch memory of the thread, for all file systems that it serves.
const entriesScratch = map(MAX_WRITE);

export abstract class PassthroughDirectories extends PassthroughFiles {
  readonly #entries = entriesScratch;

  override opendir(_context: Context, nodeid: number, _flags: number, out: OpenOut): number {
    if (this.config.noOpendir) return this.withoutOpendir;
    const inode = this.inodes.acquire(nodeid);
    let fd = inode;
    if (inode >= 0) fd = this.openAt(inode, DOT.address, O_RDONLY | O_DIRECTORY, 0);
    this.inodes.release(nodeid);
    if (fd < 0) return fd;
    const fh = this.handles.open(nodeid, fd, O_RDONLY | O_DIRECTORY);
    if (fh < 0) {
      close(fd);
      return fh;
    }
    out.fh = fh;
    const { cache } = this.config;
    if (cache === "always" || cache === "metadata")
      out.openFlags = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;
    return 0;
  }

  override releasedir(_context: Context, nodeid: number, fh: number, _flags: number): number {
    return this.config.noOpendir ? -ENOSYS : this.handles.close(fh, nodeid);
  }

  override fsyncdir(_context: Context, nodeid: number, fh: number, dataOnly: boolean): number {
    const fd = this.#useDirectory(nodeid, fh);
    const result = fd < 0 ? fd : dataOnly ? fdatasync(fd) : fsync(fd);
    this.#doneDirectory(fh, fd);
    return result;
  }

  override readdir(
    _context: Context,
    nodeid: number,
    fh: number,
    offsetLow: number,
    offsetHigh: number,
    out: DirectoryOut,
  ): number {
    return this.#list(nodeid, fh, offsetLow, offsetHigh, out, false);
  }

  override readdirplus(
    _context: Context,
    nodeid: number,
    fh: number,
    offsetLow: number,
    offsetHigh: number,
    out: DirectoryOut,
  ): number {
    return this.#list(nodeid, fh, offsetLow, offsetHigh, out, true);
  }

  #useDirectory(nodeid: number, fh: number): number {
    if (!this.config.noOpendir)
      return this.handles.acquire(fh, nodeid) ? this.handles.fd(fh) : -EBADF;
    const inode = this.inodes.acquire(nodeid);
    let fd = inode;
    if (inode >= 0) {
      const isDirectory = this.inodes.type(nodeid) === S_IFDIR;
      fd = isDirectory ? this.openAt(inode, DOT.address, O_RDONLY | O_DIRECTORY, 0) : -ENOTDIR;
    }
    this.inodes.release(nodeid);
    return fd;
  }

  #doneDirectory(fh: number, fd: number): void {
    if (fd < 0) return;
    if (this.config.noOpendir) close(fd);
    else this.handles.release(fh);
  }

  #list(
    nodeid: number,
    fh: number,
    offsetLow: number,
    offsetHigh: number,
    out: DirectoryOut,
    plus: boolean,
  ): number {
    if (this.config.noReaddir) return 0;
    const fd = this.#useDirectory(nodeid, fh);
    let result = fd;
    if (fd >= 0) {
      const standsThere = !this.config.noOpendir && this.handles.isAt(fh, offsetLow, offsetHigh);
      result = standsThere ? 0 : seek(fd, offsetLow, offsetHigh);
      if (result >= 0) result = this.#fill(nodeid, fd, fh, out, plus);
    }
    this.#doneDirectory(fh, fd);
    return result;
  }

  /** Reads entries into the reply and remembers where the descriptor stands then. */
  #fill(nodeid: number, fd: number, fh: number, out: DirectoryOut, plus: boolean): number {
    const { view, address, size } = this.#entries;
    const inoOffset = this.inodes.inoOffset(nodeid);
    for (;;) {
      // As much as will fit, so that nothing is read twice.
      const share = Math.floor(out.room * (plus ? PLUS_SHARE : PLAIN_SHARE));
      const wanted = Math.min(size, Math.max(SMALLEST_BUFFER, share));
      const read = getdents64(fd, address, wanted);
      if (read <= 0) return out.length > 0 ? 0 : read === -EINVAL ? 0 : read;
      for (let at = 0; at < read; at += view.getUint16(at + linux_dirent64.d_reclen, true)) {
        if (inoOffset !== 0) this.#entries.u32[(at >> 2) + 1]! ^= inoOffset;
        const added = this.#add(nodeid, fd, at, out, plus);
        if (added < 0) return this.#stopBefore(fd, fh, at);
      }
      this.#stand(fh, read);
      if (out.room < SMALLEST_BUFFER) return 0;
    }
  }

  /** The reply is full: the descriptor goes back to before the entry at `at`. */
  #stopBefore(fd: number, fh: number, at: number): number {
    const { view } = this.#entries;
    const last = this.#previous(at);
    if (last < 0) return this.#standUnknown(fh);
    const cookie = last + linux_dirent64.d_off;
    const low = view.getUint32(cookie, true);
    const high = view.getUint32(cookie + 4, true);
    const result = seek(fd, low, high);
    if (!this.config.noOpendir) this.handles.setCookie(fh, low, high);
    return result < 0 ? result : 0;
  }

  /** The entry before the one at `at`, -1 if it is the first of the buffer. */
  #previous(at: number): number {
    let last = -1;
    const { view } = this.#entries;
    for (let next = 0; next < at; next += view.getUint16(next + linux_dirent64.d_reclen, true))
      last = next;
    return last;
  }

  /** The descriptor stands behind the last of the `read` bytes of entries. */
  #stand(fh: number, read: number): void {
    if (this.config.noOpendir) return;
    const { view } = this.#entries;
    const cookie = this.#previous(read) + linux_dirent64.d_off;
    this.handles.setCookie(fh, view.getUint32(cookie, true), view.getUint32(cookie + 4, true));
  }

  /** No cookie of the kernel's is like this one, so the next request seeks. */
  #standUnknown(fh: number): number {
    if (!this.config.noOpendir) this.handles.setCookie(fh, 0xffffffff, 0xffffffff);
    return 0;
  }

  /** Adds the entry at `at` of the buffer; -1 if it does not fit any more. */
  #add(nodeid: number, dirfd: number, at: number, out: DirectoryOut, plus: boolean): number {
    const entries = this.#entries;
    const { view, address } = entries;
    const name = at + LINUX_DIRENT64_NAME;
    const length = nameLengthAt(entries, name);
    const dots = isDotsAt(entries, name, length);
    if (!out.begin(length)) return -1;
    if (dots && nodeid === FUSE_ROOT_ID && length === 2) this.#showRoot(at);
    if (plus && !dots) {
      // What can't be entered has nodeid 0: not looked up. What was removed meanwhile is left out.
      if (this.enter(dirfd, address + name, out.entry) === -ENOENT) return 0;
    }
    const type = view.getUint8(at + linux_dirent64.d_type);
    out.commit(entries, name, length, at + linux_dirent64.d_ino, at + linux_dirent64.d_off, type);
    return 0;
  }

  /** The root is its own parent: what lies above it is nobody's business. */
  #showRoot(at: number): void {
    const root = this.inodes.acquire(FUSE_ROOT_ID);
    if (root >= 0 && fstat(root, this.stat.address) >= 0)
      copyU64(this.stat.view, stat.st_ino, this.#entries.view, at + linux_dirent64.d_ino);
    this.inodes.release(FUSE_ROOT_ID);
  }
}

/** Cookies are arbitrary 64-bit numbers, which a double can't hold. */
function seek(fd: number, low: number, high: number): number {
  const result =
    high < 0x200000
      ? lseek(fd, high * 2 ** 32 + low, SEEK_SET)
      : lseek(fd, BigInt.asIntN(64, (BigInt(high) << 32n) | BigInt(low)), SEEK_SET);
  return result < 0 ? result : 0;
}
