// The files of an overlay's layers: a passthrough file system in whose inode table the files of all
// layers are. Its inodes are the "slots" of the overlay's nodes; its operations do the work on one
// file once it is known which one.

import { O_CLOEXEC, O_SYNC, O_TRUNC, stat } from "./abi-linux.ts";
import type { Connection, Context } from "./filesystem.ts";
import type { Address, Memory } from "./memory.ts";
import { PassthroughFs, type PassthroughShare, type ServingThread } from "./passthrough.ts";
import type { HandleTable } from "./passthrough-handles.ts";
import type { InodeTable } from "./passthrough-inodes.ts";
import type { ProcFds } from "./passthrough-proc.ts";
import type { EntryOut } from "./reply.ts";
import type { Name } from "./request.ts";
import { close, dup3 } from "./syscall.ts";
import { Translation } from "./translation.ts";

/** Notifications about a slot are about its node. */
class SlotTranslation extends Translation {
  readonly #nodeOf: (slot: number) => number;

  constructor(outer: Translation | undefined, nodeOf: (slot: number) => number) {
    super();
    if (outer !== undefined) this.become(outer);
    this.#nodeOf = nodeOf;
  }

  override node(slot: number): number {
    return super.node(this.#nodeOf(slot));
  }
}

export class LayerFiles extends PassthroughFs {
  declare readonly inodes: InodeTable;
  declare readonly handles: HandleTable;
  declare readonly proc: ProcFds;
  /** What `fstat` in the methods here goes to. */
  declare readonly stat: Memory;
  /** The slot that the last operation which made something has entered. */
  entered = 0;
  enteredInoLow = 0;
  enteredInoHigh = 0;
  enteredMode = 0;
  /** Whether the kernel may read and write what is opened next by itself. */
  mayOpenBacked = true;
  /** Whether O_SYNC and O_DSYNC count. */
  syncs = true;
  readonly #nodeOf: (slot: number) => number;

  /** `nodeOf` gives the node that a slot belongs to. */
  constructor(
    memory: Memory,
    share: PassthroughShare,
    thread: ServingThread,
    nodeOf: (slot: number) => number,
  ) {
    super(memory, share, thread);
    this.#nodeOf = nodeOf;
  }

  override connected(connection: Connection, device: number): void {
    const translation = new SlotTranslation(connection.translation, this.#nodeOf);
    super.connected({ ...connection, translation }, device);
  }

  override openAt(dirfd: number, path: Address, flags: number, mode: number): number {
    return super.openAt(dirfd, path, flags, mode);
  }

  override keepsSgid(context: Context, gid: number): boolean {
    return super.keepsSgid(context, gid);
  }

  override killSgid(fd: number): number {
    return super.killSgid(fd);
  }

  override reopen(fd: number, flags: number): number {
    return super.reopen(fd, flags);
  }

  protected override hostFlags(flags: number): number {
    const host = super.hostFlags(flags);
    return this.syncs ? host : host & ~O_SYNC;
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
    return super.make(context, parent, name, mode, rdev, umask, target, entry);
  }

  override linkFd(fd: number, dirfd: number, name: Address): number {
    return super.linkFd(fd, dirfd, name);
  }

  protected override enterFd(fd: number, entry: EntryOut): number {
    const slot = super.enterFd(fd, entry);
    this.entered = slot;
    // As it is shown: with what makes numbers unique over the mount.
    this.enteredInoLow = this.stat.i32[stat.st_ino >> 2]!;
    this.enteredInoHigh = this.stat.i32[(stat.st_ino >> 2) + 1]!;
    this.enteredMode = this.stat.u32[stat.st_mode >> 2]!;
    return slot;
  }

  override tellChanged(slot: number): void {
    super.tellChanged(slot);
  }

  override tellListChanged(slot: number): void {
    super.tellListChanged(slot);
  }

  protected override mayBack(_slot: number): boolean {
    return this.mayOpenBacked;
  }

  /** The O_PATH descriptor `fd`, which it takes over, as a slot, whose struct stat is in `stat`. */
  slotOf(fd: number): number {
    return this.inodes.remember(fd, this.stat);
  }

  /** Takes a lookup off a slot. */
  forgetSlot(slot: number): void {
    this.forget(slot, 1);
  }

  /**
   * The handle, which was opened on another inode, is one of `slot` from now on, which has the same
   * contents: what is read and written through it goes there. Returns 0 or -errno.
   */
  rebind(fh: number, slot: number): number {
    const before = this.handles.inode(fh);
    if (!this.handles.acquire(fh, before)) return 0; // somebody else did it, or closed it
    const inode = this.inodes.acquire(slot);
    const flags = this.handles.flags(fh);
    let fd = inode < 0 ? inode : this.reopen(inode, this.hostFlags(flags) & ~O_TRUNC);
    if (fd >= 0) {
      const open = this.handles.fd(fh);
      // Who is reading from the old file at this moment is done with it before it closes.
      if (open >= 0) {
        dup3(fd, open, O_CLOEXEC);
        close(fd);
      } else {
        fd = this.handles.setFd(fh, fd);
      }
      this.moveHandle(fh, before, slot);
    }
    this.inodes.release(slot);
    this.handles.release(fh);
    return fd < 0 ? fd : 0;
  }
}
