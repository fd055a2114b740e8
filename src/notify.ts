// Notifications: what a file system tells the kernel unasked (FUSE_NOTIFY_* of linux/fuse.h), when
// files change behind its back or waiting is over. Each is one write to the mount's device.
//
// Every method returns 0 or -errno. ENOENT means that the kernel does not know the node (or name),
// so that there is nothing to do; EINVAL that this kernel is older than the notification, or the
// offset is out of range; ENOTCONN or ENODEV that the mount is gone.
//
// The deadlock rule: the kernel carries a notification out before `write` returns, and for that
// takes locks that it may be holding for a request. invalEntry and delete lock the parent
// directory, as lookups, creations and removals in it do; invalInode and store wait for the pages
// that reads and writes of the file hold. So never notify about a node out of a method that serves
// a request on it, nor while holding a lock that such a method may be waiting for: do it on another
// thread. Where one thread serves all requests, it must not do it at all, since any request that it
// has not read yet may be the one: `Mounted.notify` has another thread do it.
//
// What is longer than MAX_WRITE goes in several messages; the first error ends it.
//
// The descriptor may be used by any number of threads; a Notifier belongs to the thread that made
// it.

import * as abi from "./abi-fuse.ts";
import { PATH_MAX } from "./abi-linux.ts";
import { ENAMETOOLONG } from "./errno.ts";
import { MAX_WRITE } from "./limits.ts";
import { map } from "./memory.ts";
import { writeU64 } from "./request.ts";
import { write } from "./syscall.ts";
import { Translation } from "./translation.ts";

const HEADER = abi.fuse_out_header.sizeof;
const NAME_BYTES_MAX = PATH_MAX - 1;
const ENTRY_NAME = HEADER + abi.fuse_notify_inval_entry_out.sizeof;
const DELETE_NAME = HEADER + abi.fuse_notify_delete_out.sizeof;
const STORE_DATA = HEADER + abi.fuse_notify_store_out.sizeof;
const PRUNE_LIST = HEADER + abi.fuse_notify_prune_out.sizeof;
const PRUNE_MAX = MAX_WRITE / 8;

const encoder = new TextEncoder();

/** Where notifications are put together, by all of a thread: it makes one at a time. */
const message = map(STORE_DATA + MAX_WRITE);

/** Takes a notification, to be sent by somebody else: 0 or -errno. The bytes are only lent. */
export type TakeMessage = (message: Uint8Array) => number;

export class Notifier {
  readonly #to: number | TakeMessage;
  readonly #translation: Translation;
  readonly #message = message;
  readonly #view = this.#message.view;
  readonly #entryName = this.#message.bytes.subarray(ENTRY_NAME, ENTRY_NAME + NAME_BYTES_MAX);
  readonly #deleteName = this.#message.bytes.subarray(DELETE_NAME, DELETE_NAME + NAME_BYTES_MAX);

  /**
   * `to` is the mount's /dev/fuse, or a clone of it (see `Context.device`), or takes what is sent.
   */
  constructor(to: number | TakeMessage, translation = new Translation()) {
    this.#to = to;
    this.#translation = translation;
  }

  /** A file polled with FUSE_POLL_SCHEDULE_NOTIFY is ready; `kh` came with the poll. */
  poll(kh: number): number {
    this.#u64(HEADER + abi.fuse_notify_poll_wakeup_out.kh, kh);
    return this.#send(abi.FUSE_NOTIFY_POLL, HEADER + abi.fuse_notify_poll_wakeup_out.sizeof);
  }

  /**
   * The node's attributes have changed and, from `offset` on for `length` bytes (0: to the end),
   * its data. A negative offset leaves cached data alone. Dirty pages are written back first. The
   * default is all.
   */
  invalInode(nodeid: number, offset = 0, length = 0): number {
    const { ino, off, len, sizeof } = abi.fuse_notify_inval_inode_out;
    this.#node(HEADER + ino, nodeid);
    this.#u64(HEADER + off, offset);
    this.#u64(HEADER + len, length);
    return this.#send(abi.FUSE_NOTIFY_INVAL_INODE, HEADER + sizeof);
  }

  /**
   * `name` in directory `parent` may stand for something else now, or for nothing: the kernel looks
   * it up again. With `expireOnly` (FUSE_HAS_EXPIRE_ONLY) only its timeout ends; what is mounted on
   * it stays.
   */
  invalEntry(parent: number, name: string | Uint8Array, expireOnly = false): number {
    const { parent: at, namelen, flags, sizeof } = abi.fuse_notify_inval_entry_out;
    const length = this.#name(this.#entryName, name);
    if (length < 0) return length;
    this.#node(HEADER + at, parent);
    this.#u32(HEADER + namelen, length);
    this.#u32(HEADER + flags, expireOnly ? abi.FUSE_EXPIRE_ONLY : 0);
    return this.#send(abi.FUSE_NOTIFY_INVAL_ENTRY, HEADER + sizeof + length + 1);
  }

  /**
   * `name` in directory `parent`, which was node `child`, was deleted: as invalEntry, and inotify
   * sees it. Also ENOENT if the name stands for another node; ENOTEMPTY or EBUSY if the kernel
   * still needs it.
   */
  delete(parent: number, child: number, name: string | Uint8Array): number {
    const { parent: at, child: childAt, namelen, sizeof } = abi.fuse_notify_delete_out;
    const length = this.#name(this.#deleteName, name);
    if (length < 0) return length;
    this.#node(HEADER + at, parent);
    this.#node(HEADER + childAt, child);
    this.#u32(HEADER + namelen, length);
    this.#u32(HEADER + abi.fuse_notify_delete_out.padding, 0);
    return this.#send(abi.FUSE_NOTIFY_DELETE, HEADER + sizeof + length + 1);
  }

  /** Puts `bytes` into the kernel's cache of the file, which grows if need be. */
  store(nodeid: number, offset: number, bytes: Uint8Array): number {
    const { nodeid: at, offset: offsetAt, size, padding } = abi.fuse_notify_store_out;
    let done = 0;
    do {
      const length = Math.min(bytes.length - done, MAX_WRITE);
      const part = length === bytes.length ? bytes : bytes.subarray(done, done + length);
      this.#node(HEADER + at, nodeid);
      this.#u64(HEADER + offsetAt, offset + done);
      this.#u32(HEADER + size, length);
      this.#u32(HEADER + padding, 0);
      this.#message.bytes.set(part, STORE_DATA);
      const result = this.#send(abi.FUSE_NOTIFY_STORE, STORE_DATA + length);
      if (result < 0) return result;
      done += length;
    } while (done < bytes.length);
    return 0;
  }

  /**
   * Asks for `size` bytes of the file out of the kernel's cache. What is there of them comes later,
   * as `FileSystem.notifyReply` with `notifyUnique`, a number of the caller's choice.
   */
  retrieve(notifyUnique: number, nodeid: number, offset: number, size: number): number {
    const f = abi.fuse_notify_retrieve_out;
    this.#u64(HEADER + f.notify_unique, notifyUnique);
    this.#node(HEADER + f.nodeid, nodeid);
    this.#u64(HEADER + f.offset, offset);
    this.#u32(HEADER + f.size, size);
    this.#u32(HEADER + f.padding, 0);
    return this.#send(abi.FUSE_NOTIFY_RETRIEVE, HEADER + f.sizeof);
  }

  /**
   * Has the kernel send every request again that was read and not answered (FUSE_HAS_RESEND): for a
   * daemon that has taken over from a dead one. Their `unique` has FUSE_UNIQUE_RESEND set.
   */
  resend(): number {
    return this.#send(abi.FUSE_NOTIFY_RESEND, HEADER);
  }

  /** Ends the timeouts of all names that the kernel knows, at once. */
  incEpoch(): number {
    return this.#send(abi.FUSE_NOTIFY_INC_EPOCH, HEADER);
  }

  /**
   * Asks the kernel to let go of these nodes if no one uses them; forgets follow for those it
   * drops.
   */
  prune(nodeids: ArrayLike<number>): number {
    const { count, padding, spare } = abi.fuse_notify_prune_out;
    for (let first = 0; first < nodeids.length; first += PRUNE_MAX) {
      const part = Math.min(nodeids.length - first, PRUNE_MAX);
      this.#u32(HEADER + count, part);
      this.#u32(HEADER + padding, 0);
      this.#u64(HEADER + spare, 0);
      for (let index = 0; index < part; index++)
        this.#node(PRUNE_LIST + 8 * index, nodeids[first + index]!);
      const result = this.#send(abi.FUSE_NOTIFY_PRUNE, PRUNE_LIST + 8 * part);
      if (result < 0) return result;
    }
    return 0;
  }

  #u32(at: number, value: number): void {
    this.#view.setUint32(at, value, true);
  }

  #u64(at: number, value: number): void {
    writeU64(this.#view, at, value);
  }

  #node(at: number, nodeid: number): void {
    this.#u64(at, this.#translation.node(nodeid));
  }

  /** Puts the name where it belongs in the message, and a NUL behind it; its length or -errno. */
  #name(place: Uint8Array, name: string | Uint8Array): number {
    let length = name.length;
    if (length > place.length) return -ENAMETOOLONG;
    if (typeof name === "string") {
      const { read, written } = encoder.encodeInto(name, place);
      if (read < name.length) return -ENAMETOOLONG;
      length = written;
    } else {
      place.set(name);
    }
    this.#message.bytes[place.byteOffset + length] = 0;
    return length;
  }

  /** Sends the message: a notification is a reply to no request, with its code for an error. */
  #send(code: number, length: number): number {
    this.#u32(abi.fuse_out_header.len, length);
    this.#u32(abi.fuse_out_header.error, code);
    this.#u64(abi.fuse_out_header.unique, 0);
    const { address, bytes } = this.#message;
    const to = this.#to;
    const sent =
      typeof to === "number" ? write(to, address, length) : to(bytes.subarray(0, length));
    return Math.min(sent, 0);
  }
}
