// Looking into one directory of a layer: what it has under a name, and which names it has at all.

import {
  AT_SYMLINK_NOFOLLOW,
  BTRFS_SUPER_MAGIC,
  EROFS_SUPER_MAGIC_V1,
  EXT4_SUPER_MAGIC,
  F2FS_SUPER_MAGIC,
  FS_CASEFOLD_FL,
  FS_IOC_GETFLAGS,
  LINUX_DIRENT64_NAME,
  O_DIRECTORY,
  O_NOATIME,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  OVERLAYFS_SUPER_MAGIC,
  SQUASHFS_MAGIC,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  TMPFS_MAGIC,
  XFS_FSOP_GEOM_FLAGS_DIRV2CI,
  XFS_IOC_FSGEOMETRY_V1,
  XFS_SUPER_MAGIC,
  linux_dirent64,
  stat,
  statfs,
  xfs_fsop_geom_v1,
} from "./abi-linux.ts";
import { isDotsAt, nameLengthAt } from "./dirents.ts";
import { ENOENT, EPERM } from "./errno.ts";
import { map, PAGE_SIZE, smallMemory, type Memory } from "./memory.ts";
import { OverlayBase, type OverlayShare } from "./overlay-base.ts";
import { NameFilters, POSITIONS_END } from "./overlay-name-filter.ts";
import type { EntryName } from "./overlay-name.ts";
import {
  fitsWhiteout,
  isWhiteoutAt,
  OPAQUE_FILE,
  PREFIX_LENGTH,
  whiteoutPath,
} from "./overlay-whiteout.ts";
import { MARK_OPAQUE, MARK_WHITEOUT } from "./overlay-xattrs.ts";
import type { ServingThread } from "./passthrough.ts";
import { DOT } from "./passthrough-base.ts";
import { readU64 } from "./request.ts";
import { close, faccessat, fstat, fstatfs, getdents64, ioctl, newfstatat } from "./syscall.ts";

// What there is of a name in a layer.
export const NOTHING = 0;
export const FILE = 1;
export const DIRECTORY = 2;
export const WHITEOUT = 3;

// Where a directory is among those of a node; the topmost lower one is at 1.
export const UPPER = 0;
export const NOWHERE = -1;

/** File systems that list all names that can be looked up, but see `listsAllNames`. */
const LISTING_FILE_SYSTEMS = new Set([
  EXT4_SUPER_MAGIC,
  XFS_SUPER_MAGIC,
  BTRFS_SUPER_MAGIC,
  F2FS_SUPER_MAGIC,
  TMPFS_MAGIC,
  SQUASHFS_MAGIC,
  EROFS_SUPER_MAGIC_V1,
  OVERLAYFS_SUPER_MAGIC,
]);
/** About what an entry takes in a buffer, in bytes. */
const ENTRY_SIZE = 40;

// Scratch memory of the thread, for all overlays that it serves.
const whiteoutStat = smallMemory(stat.sizeof);
const entries = map(16 * PAGE_SIZE);
const figures = smallMemory(Math.max(statfs.sizeof, xfs_fsop_geom_v1.sizeof));

export abstract class OverlayProbe extends OverlayBase {
  readonly #filters: NameFilters;
  // What `probe` found besides the kind.
  protected slot = 0;
  protected marks = 0;
  protected nlink = 0;
  protected mode = 0;
  /** The slot whose struct stat the last `find` has left in `stat`; 0 if none. */
  protected statSlot = 0;
  /** Looks into layers that a filter would have spared. */
  #wasted = 0;
  /** How many names may still be read for a filter. */
  #left = 0;

  constructor(memory: Memory, share: OverlayShare, thread: ServingThread) {
    super(memory, share, thread);
    this.#filters = new NameFilters(memory, share.filters);
  }

  /** Whether names that begin with `.wh.` are not for users. */
  protected get hidesPrefix(): boolean {
    return this.config.aufsWhiteouts || !this.share.makesDevices;
  }

  // --- What a directory has under a name ---

  /**
   * What a layer has under a name. Fills `slot`, `marks`, `mode`, `nlink` and `stat` if it is a
   * file or a directory. `position`: where the directory is among those of the node that was sought
   * in last; `isLast`: nothing is below that it could hide; `leads`: but a directory may lead
   * there. Returns NOTHING, FILE, DIRECTORY, WHITEOUT or -errno.
   */
  protected probe(
    position: number,
    directory: number,
    name: EntryName,
    isLast: boolean,
    leads = false,
  ): number {
    const { files } = this;
    const dirfd = files.inodes.acquire(directory);
    let kind = dirfd;
    if (dirfd >= 0) {
      const isUpper = position === UPPER;
      kind = files.inodes.identifies ? this.#identify(dirfd, name, isUpper, isLast) : NOTHING;
      if (kind === NOTHING) {
        const fd = files.openAt(dirfd, name.address, O_PATH | O_NOFOLLOW, 0);
        kind = fd < 0 ? fd : this.#classify(dirfd, name, fd, isUpper, isLast, leads);
      }
      if (kind === -ENOENT) {
        if (position > UPPER) this.#wasted++;
        kind = !isLast && this.#hidesByFile(position, dirfd, name) ? WHITEOUT : NOTHING;
      }
    }
    files.inodes.release(directory);
    return kind;
  }

  /**
   * A file without marks is entered without a descriptor, which it would take from another. Returns
   * FILE, NOTHING if it has to be opened, or -errno.
   */
  #identify(dirfd: number, name: EntryName, isUpper: boolean, isLast: boolean): number {
    const { stat: memory } = this;
    const { inodes } = this.files;
    this.statSlot = 0;
    const result = inodes.identify(dirfd, name.address, memory);
    if (result <= 0) return result;
    const mode = memory.view.getUint32(stat.st_mode, true);
    const type = mode & S_IFMT;
    if (type !== S_IFREG && type !== S_IFLNK) return NOTHING;
    const mayBeMarked = this.#mayBeMarked(type, isUpper, isLast, false);
    if (mayBeMarked && !this.xattrs.isUnmarkedAt(dirfd, name.address)) return NOTHING;
    this.marks = 0;
    this.slot = inodes.rememberIdentified(memory);
    return this.slot <= 0 ? this.slot : this.#note(FILE, mode);
  }

  /** Returns the kind. */
  #note(kind: number, mode: number): number {
    const { stat: memory } = this;
    this.mode = mode;
    this.nlink = memory.view.getUint32(stat.st_nlink, true);
    if (this.overrides === undefined) this.statSlot = this.slot;
    return kind;
  }

  /** Takes over `fd`. */
  #classify(
    dirfd: number,
    name: EntryName,
    fd: number,
    isUpper: boolean,
    isLast: boolean,
    leads: boolean,
  ): number {
    const { stat: memory } = this;
    this.statSlot = 0;
    fstat(fd, memory.address);
    const mode = memory.view.getUint32(stat.st_mode, true);
    const type = mode & S_IFMT;
    let isWhiteout = type === S_IFCHR && readU64(memory.view, stat.st_rdev) === 0;
    this.marks = 0;
    if (!isWhiteout && this.#mayBeMarked(type, isUpper, isLast, leads)) {
      this.marks = this.xattrs.marksAt(dirfd, name.address, fd);
      if (type === S_IFREG && this.marks & MARK_WHITEOUT)
        isWhiteout = memory.view.getUint32(stat.st_size, true) === 0;
      if (type === S_IFDIR && !isLast && this.#hasOpaqueFile(fd)) this.marks |= MARK_OPAQUE;
    }
    if (isWhiteout) {
      close(fd);
      return WHITEOUT;
    }
    this.slot = this.files.inodes.remember(fd, memory);
    return this.slot < 0 ? this.slot : this.#note(type === S_IFDIR ? DIRECTORY : FILE, mode);
  }

  /**
   * Fills `slot`, `marks`, `mode` and `nlink` with what is behind an O_PATH descriptor, which it
   * takes over. Returns 0 or -errno.
   */
  protected probeOpened(fd: number): number {
    const { stat: memory } = this;
    this.statSlot = 0;
    fstat(fd, memory.address);
    this.marks = this.xattrs.marks(fd);
    this.slot = this.files.inodes.remember(fd, memory);
    if (this.slot < 0) return this.slot;
    this.#note(FILE, memory.view.getUint32(stat.st_mode, true));
    return 0;
  }

  /** Whether marks of a file of this type count. */
  #mayBeMarked(type: number, isUpper: boolean, isLast: boolean, leads: boolean): boolean {
    if (isUpper) return true;
    const isDirectory = type === S_IFDIR;
    if (isLast && !this.config.metacopy) return isDirectory && leads;
    return isDirectory || type === S_IFREG;
  }

  #hasOpaqueFile(fd: number): boolean {
    return this.config.aufsWhiteouts && faccessat(fd, OPAQUE_FILE.address, 0) === 0;
  }

  #hidesByFile(position: number, dirfd: number, name: EntryName): boolean {
    if (!this.hidesPrefix) return false;
    if (position === UPPER && this.#knowsHidden) {
      if (!this.#filters.mayHide()) return false;
      this.#wasted++;
    }
    return this.hasWhiteoutFile(dirfd, name);
  }

  /** Nobody makes files `.wh.NAME` in an upper layer that can have devices. */
  get #knowsHidden(): boolean {
    return this.share.makesDevices;
  }

  /** Whether the directory has a file `.wh.NAME`. */
  protected hasWhiteoutFile(dirfd: number, name: EntryName): boolean {
    if (!this.hidesPrefix || !fitsWhiteout(name)) return false;
    const flags = AT_SYMLINK_NOFOLLOW;
    return newfstatat(dirfd, whiteoutPath(name), whiteoutStat.address, flags) === 0;
  }

  // --- Which directories of a node may have a name ---

  /** A name is sought in an acquired directory. */
  protected seek(node: number, name: EntryName): void {
    this.#filters.seek(node, this.nodes.generation(node), name);
  }

  /** The first position, from a lower one on, at which the name has to be looked for. */
  protected nextPosition(from: number): number {
    return this.#filters.next(from);
  }

  /** The search is over. What was looked for in vain may be worth knowing where to look. */
  protected sought(node: number): void {
    if (this.#wasted === 0) return;
    const worth = this.#filters.wasted(this.#wasted);
    this.#wasted = 0;
    if (worth > 0) this.#makeFilter(node, worth);
  }

  /** Reads as many names of a directory as it is worth, from the top. */
  #makeFilter(node: number, worth: number): void {
    const { nodes } = this;
    const filters = this.#filters;
    const upper = nodes.upper(node);
    filters.begin();
    this.#left = worth;
    const hasHidden =
      upper === 0 || (this.hidesPrefix && this.#knowsHidden && this.#readNames(upper, UPPER));
    let position = UPPER + 1;
    let record = nodes.stack(node);
    while (record !== 0 && this.#readNames(nodes.slot(record), position)) {
      position++;
      record = nodes.below(record);
    }
    const end = record === 0 ? POSITIONS_END : position;
    if (hasHidden || end > UPPER + 1) filters.publish(node, nodes.generation(node), end, hasHidden);
  }

  /**
   * Adds the names in a host directory to the filter; of the upper one only those that are hidden.
   * False if they are too many, or can't be known.
   */
  #readNames(slot: number, position: number): boolean {
    const fd = this.openListed(slot, O_NOATIME);
    if (fd < 0) return false;
    const isRead = (position === UPPER || listsAllNames(fd)) && this.#addNames(fd, position);
    close(fd);
    return isRead;
  }

  #addNames(fd: number, position: number): boolean {
    const { view, bytes } = entries;
    for (;;) {
      const size = Math.min(entries.size, Math.max(PAGE_SIZE, this.#left * ENTRY_SIZE));
      const read = getdents64(fd, entries.address, size);
      if (read <= 0) return read === 0;
      for (let at = 0; at < read; at += view.getUint16(at + linux_dirent64.d_reclen, true)) {
        const name = at + LINUX_DIRENT64_NAME;
        const length = nameLengthAt(entries, name);
        if (isDotsAt(entries, name, length)) continue;
        if (this.#left === 0) return false;
        this.#left--;
        const hides = this.hidesPrefix && isWhiteoutAt(bytes, name, length);
        const prefix = hides ? PREFIX_LENGTH : 0;
        if (hides || position !== UPPER)
          this.#filters.add(bytes, name + prefix, length - prefix, position);
      }
    }
  }

  /** Opens a slot's directory to be listed. Returns the descriptor or -errno. */
  protected openListed(slot: number, flags: number): number {
    const { files } = this;
    const inode = files.inodes.acquire(slot);
    let fd = inode;
    if (inode >= 0) {
      fd = files.openAt(inode, DOT.address, O_RDONLY | O_DIRECTORY | flags, 0);
      // Access times are only spared by who owns the directory.
      if (fd === -EPERM) fd = files.openAt(inode, DOT.address, O_RDONLY | O_DIRECTORY, 0);
    }
    files.inodes.release(slot);
    return fd;
  }
}

/**
 * Whether a name can only be looked up in this directory as it is listed. Not where case does not
 * matter, which XFS says of the file system and others of the directory.
 */
function listsAllNames(fd: number): boolean {
  const { view, address } = figures;
  if (fstatfs(fd, address) < 0) return false;
  const type = readU64(view, statfs.f_type);
  if (!LISTING_FILE_SYSTEMS.has(type)) return false;
  if (ioctl(fd, XFS_IOC_FSGEOMETRY_V1, address) >= 0)
    return (view.getUint32(xfs_fsop_geom_v1.flags, true) & XFS_FSOP_GEOM_FLAGS_DIRV2CI) === 0;
  const hasFlags = ioctl(fd, FS_IOC_GETFLAGS, address) >= 0;
  return !hasFlags || (view.getUint32(0, true) & FS_CASEFOLD_FL) === 0;
}
