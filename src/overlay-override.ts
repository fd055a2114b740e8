// Owner, group and permissions of files in an attribute, for upper layers whose inodes can't have
// them, and for users who can't set them; as fuse-overlayfs stores them (xattr_permissions). The
// value is `UID:GID:MODE`, the last in octal. What follows behind another colon, a file type by
// containers-storage, is left alone.
//
// Only regular files and directories have the attribute: others can't have one that begins with
// `user.`. Their inodes are given what they take. The inode of what has it belongs to the daemon,
// which can use it, has no set-id bits, and otherwise the permissions that the attribute says.

import {
  AT_EMPTY_PATH,
  AT_SYMLINK_NOFOLLOW,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_ISGID,
  stat,
  statx,
} from "./abi-linux.ts";
import {
  FATTR_ATIME,
  FATTR_GID,
  FATTR_MODE,
  FATTR_MTIME,
  FATTR_SIZE,
  FATTR_UID,
} from "./abi-fuse.ts";
import type { AttrChanges, Context } from "./filesystem.ts";
import { cstring, smallMemory, type Memory } from "./memory.ts";
import { LayerFiles } from "./overlay-layers.ts";
import type { PassthroughShare, ServingThread } from "./passthrough.ts";
import { EMPTY } from "./passthrough-base.ts";
import type { ProcFds } from "./passthrough-proc.ts";
import type { AttrReply, EntryOut, OpenOut } from "./reply.ts";
import type { Name } from "./request.ts";
import { fchmodat, fchownat, fstat, getegid, geteuid, getxattr, setxattr } from "./syscall.ts";

/** Which attribute a layer's files have; 0 for none. */
export type Override = 0 | 1 | 2 | 3;

/** By Override. The first is only for root, the last is containers-storage's. */
const NAMES: readonly (Memory | undefined)[] = [
  undefined,
  cstring("security.fuseoverlayfs.override_stat"),
  cstring("user.fuseoverlayfs.override_stat"),
  cstring("user.containers.override_stat"),
];
/** What users may not touch where such attributes mean something. */
export const OVERRIDE_PREFIXES = ["security.fuseoverlayfs.", "user.containers.override_"] as const;

/** As the number of a layer: the upper one. The lower ones begin with 0. */
export const UPPER_LAYER = -1;

const VALUE_MAX = 128;
const COLON = 0x3a;
const ZERO = 0x30;
const MINUS = 0x2d;
const PERMISSIONS = 0o7777;
const OWNERSHIP = FATTR_MODE | FATTR_UID | FATTR_GID;
const OTHERS = FATTR_SIZE | FATTR_ATIME | FATTR_MTIME;

// Scratch memory of the thread, for all overlays that it serves.
const value = smallMemory(VALUE_MAX);
const statScratch = smallMemory(stat.sizeof);

/** The attributes of the layers' files. */
export class Overrides {
  readonly #proc: ProcFds;
  readonly #layers: readonly Override[];
  // What `read` found.
  uid = 0;
  gid = 0;
  /** Without the file type. */
  mode = 0;
  /** Where `#number` goes on in `value`, which ends at `#end`. */
  #at = 0;
  #end = 0;

  /** `layers`: what the upper layer has, and then the lower ones from the top. */
  constructor(proc: ProcFds, layers: readonly Override[]) {
    this.#proc = proc;
    this.#layers = layers;
  }

  /** Which attribute is found on the root of a layer, which says that its files have it. */
  static find(proc: ProcFds, root: number): Override {
    for (const kind of [1, 2, 3] as const)
      if (getxattr(proc.path(root), NAMES[kind]!.address, value.address, VALUE_MAX) >= 0)
        return kind;
    return 0;
  }

  /** Whether what has the type in `mode` can have the attribute. */
  static isFor(mode: number): boolean {
    const type = mode & S_IFMT;
    return type === S_IFREG || type === S_IFDIR;
  }

  /** The permissions of the inode itself where the attribute says `mode`. */
  static inodeMode(mode: number): number {
    return (mode & 0o777) | ((mode & S_IFMT) === S_IFDIR ? 0o700 : 0o600);
  }

  /**
   * Reads what the attribute of the file behind `fd` says, whose type is in `mode`. False if there
   * is none, or nothing sound in it: then the inode counts.
   */
  read(fd: number, layer: number, mode: number): boolean {
    const name = NAMES[this.#layers[layer + 1]!];
    if (name === undefined || !Overrides.isFor(mode)) return false;
    const length = getxattr(this.#proc.path(fd), name.address, value.address, VALUE_MAX);
    this.#at = 0;
    this.#end = length;
    const uid = this.#number(10);
    const gid = this.#number(10);
    const permissions = this.#number(8);
    if (permissions < 0 || gid < 0 || uid < 0) return false;
    this.uid = uid;
    this.gid = gid;
    this.mode = permissions & PERMISSIONS;
    return true;
  }

  /** The number that begins at `#at`, and ends at a colon or with the value; -1 if it is none. */
  #number(base: number): number {
    const { bytes } = value;
    // Ids have 32 bits, and fuse-overlayfs takes them for signed.
    const isNegative = this.#at < this.#end && bytes[this.#at] === MINUS;
    const first = isNegative ? this.#at + 1 : this.#at;
    let at = first;
    let number = 0;
    for (; at < this.#end && bytes[at] !== COLON && bytes[at] !== 0; at++) {
      const digit = bytes[at]! - ZERO;
      if (digit < 0 || digit >= base) return -1;
      number = number * base + digit;
    }
    this.#at = at + 1;
    if (at === first || number > 0xffffffff) return -1;
    return isNegative ? -number >>> 0 : number;
  }

  /** Puts what the attribute says in the place of what fstat(2) said of `fd`. */
  show(fd: number, layer: number, memory: Memory): void {
    const { view } = memory;
    const mode = view.getUint32(stat.st_mode, true);
    if (!this.read(fd, layer, mode)) return;
    view.setUint32(stat.st_mode, (mode & S_IFMT) | this.mode, true);
    view.setUint32(stat.st_uid, this.uid, true);
    view.setUint32(stat.st_gid, this.gid, true);
  }

  /** The same for statx(2). */
  showStatx(fd: number, layer: number, memory: Memory): void {
    const { view } = memory;
    const mode = view.getUint16(statx.stx_mode, true);
    if (!this.read(fd, layer, mode)) return;
    view.setUint16(statx.stx_mode, (mode & S_IFMT) | this.mode, true);
    view.setUint32(statx.stx_uid, this.uid, true);
    view.setUint32(statx.stx_gid, this.gid, true);
  }

  /** Sets the attribute of a file of the upper layer, which can have it. Returns 0 or -errno. */
  write(fd: number, uid: number, gid: number, mode: number): number {
    const name = NAMES[this.#layers[0]!]!;
    let length = put(0, uid, 10);
    value.bytes[length++] = COLON;
    length = put(length, gid, 10);
    value.bytes[length++] = COLON;
    length = put(length, mode & PERMISSIONS, 8);
    return setxattr(this.#proc.path(fd), name.address, value.address, length, 0);
  }

  /**
   * Gives a file of the upper layer its owner, group and mode: the attribute if it can have it,
   * otherwise the inode, as far as that is possible. Returns 0 or -errno.
   */
  give(fd: number, uid: number, gid: number, mode: number): number {
    const isLink = (mode & S_IFMT) === S_IFLNK;
    if (!Overrides.isFor(mode)) {
      fchownat(fd, EMPTY.address, uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
      if (!isLink) this.#chmod(fd, mode & PERMISSIONS);
      return 0;
    }
    const result = this.write(fd, uid, gid, mode);
    // The attribute is what counts. Other users of the host get no more than it grants.
    if (result >= 0) this.#chmod(fd, Overrides.inodeMode(mode));
    return result;
  }

  #chmod(fd: number, mode: number): void {
    fchmodat(this.#proc.dirfd, this.#proc.name(fd), mode);
  }
}

/** Writes the digits of a number into `value`. Returns where they end. */
function put(at: number, number: number, base: number): number {
  let digits = 1;
  for (let rest = number; rest >= base; rest = Math.floor(rest / base)) digits++;
  let rest = number;
  for (let index = at + digits; index > at; rest = Math.floor(rest / base))
    value.bytes[--index] = ZERO + (rest % base);
  return at + digits;
}

/** The layers' files where those of the upper one have such attributes. */
export class OverriddenFiles extends LayerFiles {
  readonly #overrides: Overrides;
  readonly #ownUid = geteuid();
  readonly #ownGid = getegid();
  // Whose the file is that is being made, and its type and permissions; -1 while there is none.
  #uid = 0;
  #gid = 0;
  #mode = -1;

  constructor(
    memory: Memory,
    share: PassthroughShare,
    thread: ServingThread,
    nodeOf: (slot: number) => number,
    layers: readonly Override[],
  ) {
    super(memory, share, thread, nodeOf);
    this.#overrides = new Overrides(this.proc, layers);
  }

  /**
   * The daemon makes files as itself: begins to make one as `context` asks for it. Returns the mode
   * to make it with.
   */
  #begin(context: Context, parent: number, mode: number, umask: number): number {
    const isDirectory = (mode & S_IFMT) === S_IFDIR;
    this.#uid = context.uid;
    this.#gid = context.gid;
    this.#mode = (mode & S_IFMT) === S_IFLNK ? mode : mode & ~umask;
    const fd = this.inodes.acquire(parent);
    if (
      fd >= 0 &&
      this.#overrides.read(fd, UPPER_LAYER, S_IFDIR) &&
      this.#overrides.mode & S_ISGID
    ) {
      this.#gid = this.#overrides.gid;
      if (isDirectory) this.#mode |= S_ISGID;
    }
    this.inodes.release(parent);
    context.uid = this.#ownUid;
    context.gid = this.#ownGid;
    return Overrides.isFor(mode) ? Overrides.inodeMode(this.#mode) : this.#mode & ~S_IFMT;
  }

  #end(context: Context, result: number): number {
    context.uid = this.#uid;
    context.gid = this.#gid;
    this.#mode = -1;
    return result;
  }

  /** Comes before anybody can see what was made; if it fails, that is taken away again. */
  protected override label(context: Context, fd: number): number {
    const result = super.label(context, fd);
    if (result < 0 || this.#mode === -1) return result;
    return this.#overrides.give(fd, this.#uid, this.#gid, this.#mode);
  }

  protected override enterFd(fd: number, entry: EntryOut): number {
    const slot = super.enterFd(fd, entry);
    if (slot < 0) return slot;
    const inode = this.inodes.acquire(slot);
    if (inode >= 0 && this.#overrides.read(inode, UPPER_LAYER, this.enteredMode)) {
      const { uid, gid, mode } = this.#overrides;
      entry.attr.uid = uid;
      entry.attr.gid = gid;
      entry.attr.mode = (this.enteredMode & S_IFMT) | mode;
    }
    this.inodes.release(slot);
    return slot;
  }

  override make(
    context: Context,
    parent: number,
    name: Name,
    mode: number,
    rdev: number,
    umask: number,
    target: Name | undefined,
    entry: EntryOut,
  ): number {
    const asked = (mode & S_IFMT) === S_IFLNK ? mode | 0o777 : mode;
    const made = (mode & S_IFMT) | this.#begin(context, parent, asked, umask);
    return this.#end(context, super.make(context, parent, name, made, rdev, 0, target, entry));
  }

  override create(
    context: Context,
    parent: number,
    name: Name,
    flags: number,
    mode: number,
    umask: number,
    fuseFlags: number,
    entry: EntryOut,
    out: OpenOut,
  ): number {
    const made = this.#begin(context, parent, S_IFREG | (mode & PERMISSIONS), umask);
    const result = super.create(context, parent, name, flags, made, 0, fuseFlags, entry, out);
    return this.#end(context, result);
  }

  override tmpfile(
    context: Context,
    parent: number,
    flags: number,
    mode: number,
    umask: number,
    entry: EntryOut,
    out: OpenOut,
  ): number {
    const made = this.#begin(context, parent, S_IFREG | (mode & PERMISSIONS), umask);
    return this.#end(context, super.tmpfile(context, parent, flags, made, 0, entry, out));
  }

  /** Of a file of the upper layer. The kernel asks for set-id bits to go by their mode. */
  override setattr(context: Context, slot: number, changes: AttrChanges, out: AttrReply): number {
    const { valid } = changes;
    if (valid & OWNERSHIP) {
      const fd = this.inodes.acquire(slot);
      const result = fd < 0 ? fd : this.#setOwnership(fd, changes);
      this.inodes.release(slot);
      changes.valid = valid & ~OWNERSHIP;
      if (result < 0 || !(valid & OTHERS)) return result;
    }
    return super.setattr(context, slot, changes, out);
  }

  #setOwnership(fd: number, changes: AttrChanges): number {
    const result = fstat(fd, statScratch.address);
    if (result < 0) return result;
    const { view } = statScratch;
    this.#overrides.show(fd, UPPER_LAYER, statScratch);
    const { valid } = changes;
    const mode = view.getUint32(stat.st_mode, true);
    const uid = valid & FATTR_UID ? changes.uid : view.getUint32(stat.st_uid, true);
    const gid = valid & FATTR_GID ? changes.gid : view.getUint32(stat.st_gid, true);
    const given = valid & FATTR_MODE ? (mode & S_IFMT) | (changes.mode & PERMISSIONS) : mode;
    return this.#overrides.give(fd, uid, gid, given);
  }
}
