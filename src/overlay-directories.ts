// Operations on directories as lists of entries. The list is put together when reading begins, and
// lies in a memfd that is the handle's descriptor: so every worker goes on where another stopped,
// and an open directory stays as it was, whatever happens in it.
//
// A cookie is the number of an entry, so that with any cookie up to the last one there is something
// to read. The memfd begins with how many entries there are and where each of them lies.

import { FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE } from "./abi-fuse.ts";
import {
  LINUX_DIRENT64_NAME,
  MFD_CLOEXEC,
  O_CLOEXEC,
  O_DIRECTORY,
  O_RDONLY,
  S_IFDIR,
  linux_dirent64,
} from "./abi-linux.ts";
import { isDotsAt, nameLengthAt } from "./dirents.ts";
import { EBADF, ENOENT, ENOTDIR, ESTALE } from "./errno.ts";
import type { Context } from "./filesystem.ts";
import { MAX_WRITE } from "./limits.ts";
import { cstring, map, smallMemory, type Address } from "./memory.ts";
import { OverlayFiles } from "./overlay-files.ts";
import { ABOVE_SHIFT, TYPE_MASK } from "./overlay-list.ts";
import { EntryName } from "./overlay-name.ts";
import { DOT } from "./passthrough-base.ts";
import type { DirectoryOut, OpenOut } from "./reply.ts";
import { close, dup3, fdatasync, fsync, memfd_create, pread64, pwrite64 } from "./syscall.ts";

const { d_ino, d_off, d_reclen, d_type } = linux_dirent64;
const NAME = LINUX_DIRENT64_NAME;
/** The longest entry, and the shortest. */
const ENTRY_MAX = 280;
const ENTRY_MIN = 24;
const LIST_NAME = cstring("fuse-backend-directory");

// Scratch memory of the thread, for all overlays that it serves.
const page = map(MAX_WRITE);
const place = smallMemory(8);
const listedName = new EntryName();

export abstract class OverlayDirectories extends OverlayFiles {
  /** The version of the directory at hand that its list is of; -1 if it has changed since. */
  #listed = -1;

  override opendir(_context: Context, nodeid: number, _flags: number, out: OpenOut): number {
    const { nodes, files } = this;
    let result = nodes.acquire(nodeid) ? 0 : -ESTALE;
    if (result >= 0 && nodes.type(nodeid) !== S_IFDIR) result = -ENOTDIR;
    if (result >= 0) result = files.handles.open(nodeid, -1, O_RDONLY | O_DIRECTORY);
    nodes.release(nodeid);
    if (result < 0) return result;
    out.fh = result;
    out.openFlags = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;
    return 0;
  }

  override releasedir(_context: Context, nodeid: number, fh: number, _flags: number): number {
    return this.files.handles.close(fh, nodeid);
  }

  override fsyncdir(_context: Context, nodeid: number, _fh: number, dataOnly: boolean): number {
    const { nodes, files } = this;
    const isThere = nodes.acquire(nodeid);
    const upper = isThere && this.config.fsync ? nodes.upper(nodeid) : 0;
    let result = isThere ? 0 : -ESTALE;
    if (upper !== 0) {
      const inode = files.inodes.acquire(upper);
      result = inode < 0 ? inode : files.openAt(inode, DOT.address, O_RDONLY | O_DIRECTORY, 0);
      files.inodes.release(upper);
    }
    nodes.release(nodeid);
    if (result <= 0) return result;
    const synced = dataOnly ? fdatasync(result) : fsync(result);
    close(result);
    return synced;
  }

  override readdir(
    _context: Context,
    nodeid: number,
    fh: number,
    offsetLow: number,
    offsetHigh: number,
    out: DirectoryOut,
  ): number {
    return this.#read(nodeid, fh, offsetLow, offsetHigh, out, false);
  }

  override readdirplus(
    _context: Context,
    nodeid: number,
    fh: number,
    offsetLow: number,
    offsetHigh: number,
    out: DirectoryOut,
  ): number {
    return this.#read(nodeid, fh, offsetLow, offsetHigh, out, true);
  }

  #read(
    nodeid: number,
    fh: number,
    offsetLow: number,
    offsetHigh: number,
    out: DirectoryOut,
    plus: boolean,
  ): number {
    const { nodes, files } = this;
    const { handles } = files;
    if (!handles.acquire(fh, nodeid)) return -EBADF;
    let result = nodes.acquire(nodeid) ? handles.fd(fh) : -ESTALE;
    const offset = offsetHigh * 2 ** 32 + offsetLow;
    if (result !== -ESTALE && (offset === 0 || result < 0)) result = this.#begin(nodeid, fh);
    if (result >= 0) {
      // What the list knows of layers holds as long as nothing was changed.
      this.#listed = handles.isAt(fh, nodes.version(nodeid), 1) ? nodes.version(nodeid) : -1;
      result = this.#fill(nodeid, result, offset, out, plus);
    }
    nodes.release(nodeid);
    handles.release(fh);
    return result;
  }

  /** Reading begins: makes the list, unless there is one and nothing has changed since. */
  #begin(nodeid: number, fh: number): number {
    const { nodes, files } = this;
    const { handles } = files;
    const version = nodes.version(nodeid);
    const open = handles.fd(fh);
    if (open >= 0 && handles.isAt(fh, version, 1)) return open;
    const length = this.listDirectory(nodeid, true);
    if (length < 0) return length;
    const fd = memfd_create(LIST_NAME.address, MFD_CLOEXEC);
    if (fd < 0) return fd;
    const { list } = this;
    const base = 4 * (list.count + 1);
    const places = list.writePlaces(base);
    const { address } = list.memory;
    let result = writeAll(fd, address + length, places, 0);
    if (result >= 0) result = writeAll(fd, address, length, base);
    if (result < 0) {
      close(fd);
      return result;
    }
    handles.setCookie(fh, version, 1);
    if (open < 0) return handles.setFd(fh, fd);
    dup3(fd, open, O_CLOEXEC);
    close(fd);
    return open;
  }

  #fill(nodeid: number, fd: number, cookie: number, out: DirectoryOut, plus: boolean): number {
    const { view } = page;
    for (let offset = findEntry(fd, cookie); ;) {
      if (offset <= 0) return offset;
      // An entry takes at least as much in a reply as in the list.
      const wanted = Math.min(page.size, Math.max(out.room, ENTRY_MAX));
      const read = pread64(fd, page.address, wanted, offset);
      if (read <= 0) return read;
      let at = 0;
      while (at + ENTRY_MIN <= read) {
        const size = view.getUint16(at + d_reclen, true);
        if (size < ENTRY_MIN || at + size > read) break;
        if (!this.#add(nodeid, at, out, plus)) return 0;
        at += size;
      }
      if (at === 0) return 0;
      offset += at;
    }
  }

  /** Adds the entry at `at` of the page; false if it does not fit any more. */
  #add(nodeid: number, at: number, out: DirectoryOut, plus: boolean): boolean {
    const { view } = page;
    const name = at + NAME;
    const length = nameLengthAt(page, name);
    const type = view.getUint8(at + d_type);
    const isDots = isDotsAt(page, name, length);
    if (!out.begin(length)) return false;
    const isUnknown =
      view.getUint32(at + d_ino, true) === 0 && view.getUint32(at + d_ino + 4, true) === 0;
    if (!isDots && (plus || isUnknown)) {
      const { nodes } = this;
      if (!listedName.setFrom(page, name, length)) return true;
      const node = this.find(nodeid, listedName, type >> ABOVE_SHIFT, this.#listed);
      if (node === -ENOENT) return true; // it was removed meanwhile
      if (node > 0) {
        view.setInt32(at + d_ino, nodes.inoLow(node), true);
        view.setInt32(at + d_ino + 4, nodes.inoHigh(node), true);
        // An entry that failed has nodeid 0: it was not looked up.
        if (plus) this.enterFound(node, out.entry, this.statSlot);
        else nodes.forget(node, 1);
      }
    }
    out.commit(page, name, length, at + d_ino, at + d_off, type & TYPE_MASK);
    return true;
  }
}

/** Returns 0 or -errno. */
function writeAll(fd: number, from: Address, length: number, offset: number): number {
  for (let done = 0; done < length;) {
    const written = pwrite64(fd, from + done, length - done, offset + done);
    if (written < 0) return written;
    done += written;
  }
  return 0;
}

/** Where the entry lies that a cookie stands for; 0 if it is behind the last, or -errno. */
function findEntry(fd: number, cookie: number): number {
  let read = pread64(fd, place.address, 4, 0);
  if (read < 4) return Math.min(0, read);
  const count = place.view.getUint32(0, true);
  if (cookie >= count) return 0;
  read = pread64(fd, place.address, 4, 4 * (cookie + 1));
  return read < 4 ? Math.min(0, read) : place.view.getUint32(0, true);
}
