// The file systems that lie below the source, in memory that all workers share: which device an
// inode is on, and whether inodes of that device can be opened by their kernel file handle.

import {
  AT_EMPTY_PATH,
  AT_SYMLINK_NOFOLLOW,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
  STATX_MNT_ID,
  stat,
  statx,
} from "./abi-linux.ts";
import { ENFILE, EOPNOTSUPP } from "./errno.ts";
import { DEVICES_MAX, FILE_HANDLE_MAX } from "./limits.ts";
import { Lock } from "./lock.ts";
import { cstring, smallMemory, type Address, type Memory } from "./memory.ts";
import type { FileHandles } from "./passthrough-config.ts";
import type { ProcFds } from "./passthrough-proc.ts";
import type { SharedLayout } from "./shared-table.ts";
import { i32, struct, u32, u64 } from "./struct.ts";
import {
  close,
  name_to_handle_at,
  open_by_handle_at,
  openat,
  statx as statxCall,
} from "./syscall.ts";

const devices_header = struct("devices_header", { lock: u32, count: u32 });
const COUNT = devices_header.count >> 2;

const device_record = struct("device_record", {
  dev: u64,
  /** With the mntid option; 0 otherwise. */
  mount_id: u64,
  /** For open_by_handle_at. */
  mount_fd: i32,
  /** Whether file handles can be had. */
  has_handles: u32,
});
const DEV = device_record.dev >> 2;
const MOUNT_ID = device_record.mount_id >> 2;
const MOUNT_FD = device_record.mount_fd >> 2;
const HAS_HANDLES = device_record.has_handles >> 2;
const RECORD_WORDS = device_record.sizeof >> 2;

const EMPTY = cstring("");
const DOT = cstring(".");
const mountId = smallMemory(8);

// Types of file handles (linux/exportfs.h).
export const FILEID_INO32_GEN = 1;
const FILEID_INO64_GEN = 0x81;
const FILEID_BTRFS_WITHOUT_PARENT = 0x4d;

/**
 * Puts the struct file_handle of the file behind `fd` into `handle`; false if it has none, or too
 * large a one.
 */
export function takeHandle(fd: number, handle: Memory): boolean {
  return takeHandleAt(fd, EMPTY.address, handle, AT_EMPTY_PATH) === 0;
}

/** The same for what `path` names below `dirfd`, not followed. Returns 0 or -errno. */
export function takeHandleAt(dirfd: number, path: Address, handle: Memory, flags = 0): number {
  const { address, bytes, i32: words } = handle;
  bytes.fill(0);
  words[0] = FILE_HANDLE_MAX;
  return name_to_handle_at(dirfd, path, address, mountId.address, flags);
}

/**
 * Whether a handle begins with the inode number, as those of most file systems do
 * (linux/exportfs.h): ext4, XFS, btrfs.
 */
export function beginsWithIno({ i32: handle }: Memory): boolean {
  const type = handle[1]!;
  if (type === FILEID_INO32_GEN) return handle[0] === 8;
  return type === FILEID_INO64_GEN || type === FILEID_BTRFS_WITHOUT_PARENT;
}

/** Whether a handle that begins with the inode number has the one in `from`. */
export function isHandleOf({ i32: handle }: Memory, { i32: from }: Memory): boolean {
  const high = handle[1] === FILEID_INO32_GEN ? 0 : handle[3];
  return from[stat.st_ino >> 2] === handle[2] && from[(stat.st_ino >> 2) + 1] === high;
}

export interface DeviceAreas {
  readonly header: number;
  readonly records: number;
}

export interface DeviceOptions {
  readonly fileHandles: FileHandles;
  /** Whether two mounts of one file system count as two devices. */
  readonly mntid: boolean;
}

// Scratch memory of the thread, for all file systems that it serves.
const handleScratch = smallMemory(8 + FILE_HANDLE_MAX);
const statxScratch = smallMemory(statx.sizeof);

export class DeviceTable {
  readonly #words: Int32Array;
  readonly #lock: Lock;
  readonly #header: number;
  readonly #records: number;
  readonly #options: DeviceOptions;
  readonly #proc: ProcFds;
  readonly #handle = handleScratch;
  readonly #statx = statxScratch;
  /** The one that was found last; most files lie on one. */
  #last = 0;

  static areas(layout: SharedLayout): DeviceAreas {
    return {
      header: layout.area("devices", devices_header.sizeof),
      records: layout.area("device records", DEVICES_MAX * device_record.sizeof),
    };
  }

  constructor(memory: Memory, areas: DeviceAreas, options: DeviceOptions, proc: ProcFds) {
    this.#words = memory.i32;
    this.#lock = new Lock(memory, areas.header + devices_header.lock);
    this.#header = areas.header >> 2;
    this.#records = areas.records >> 2;
    this.#options = options;
    this.#proc = proc;
  }

  #at(device: number): number {
    return this.#records + device * RECORD_WORDS;
  }

  /** Whether inodes of the device can be opened by file handle. */
  hasHandles(device: number): boolean {
    return this.#words[this.#at(device) + HAS_HANDLES] !== 0;
  }

  /** A descriptor on the device, for open_by_handle_at(2); -1 if it has no file handles. */
  mountFd(device: number): number {
    return this.#words[this.#at(device) + MOUNT_FD]!;
  }

  /** Closes the descriptors for opening by file handle. */
  closeAll(): void {
    for (let device = 0; device < this.#words[this.#header + COUNT]!; device++)
      if (this.mountFd(device) >= 0) close(this.mountFd(device));
  }

  /**
   * The number of the device that `fd` lies on, whose struct stat is `from`. -errno: -ENFILE if
   * there are too many, or why file handles can't be had if they must be.
   */
  find(fd: number, from: Memory): number {
    const words = this.#words;
    const low = from.i32[stat.st_dev >> 2]!;
    const high = from.i32[(stat.st_dev >> 2) + 1]!;
    let mountLow = 0;
    let mountHigh = 0;
    if (this.#options.mntid) {
      const flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
      const result = statxCall(fd, EMPTY.address, flags, STATX_MNT_ID, this.#statx.address);
      if (result < 0) return result;
      mountLow = this.#statx.i32[statx.stx_mnt_id >> 2]!;
      mountHigh = this.#statx.i32[(statx.stx_mnt_id >> 2) + 1]!;
    }
    if (this.#isLast(low, high, mountLow, mountHigh)) return this.#last;
    this.#lock.acquire();
    const count = words[this.#header + COUNT]!;
    let device = 0;
    while (device < count && !this.#is(this.#at(device), low, high, mountLow, mountHigh)) device++;
    if (device === count) {
      const added = device < DEVICES_MAX ? this.#add(this.#at(device), fd, from) : -ENFILE;
      if (added < 0) {
        device = added;
      } else {
        const at = this.#at(device);
        words[at + DEV] = low;
        words[at + DEV + 1] = high;
        words[at + MOUNT_ID] = mountLow;
        words[at + MOUNT_ID + 1] = mountHigh;
        words[this.#header + COUNT] = device + 1;
      }
    }
    this.#lock.release();
    if (device >= 0) this.#last = device;
    return device;
  }

  /** The same without a descriptor; -1 if it is not the device that was found last. */
  known(from: Memory): number {
    const low = from.i32[stat.st_dev >> 2]!;
    const high = from.i32[(stat.st_dev >> 2) + 1]!;
    return !this.#options.mntid && this.#isLast(low, high, 0, 0) ? this.#last : -1;
  }

  /** Whether it is the device that was found last. */
  #isLast(low: number, high: number, mountLow: number, mountHigh: number): boolean {
    const last = this.#last;
    return (
      last < this.#words[this.#header + COUNT]! &&
      this.#is(this.#at(last), low, high, mountLow, mountHigh)
    );
  }

  #is(at: number, low: number, high: number, mountLow: number, mountHigh: number): boolean {
    const words = this.#words;
    return (
      words[at + DEV] === low &&
      words[at + DEV + 1] === high &&
      words[at + MOUNT_ID] === mountLow &&
      words[at + MOUNT_ID + 1] === mountHigh
    );
  }

  /** Finds out whether the device of `fd` has file handles that can be opened. */
  #add(at: number, fd: number, from: Memory): number {
    const words = this.#words;
    words[at + MOUNT_FD] = -1;
    words[at + HAS_HANDLES] = 0;
    if (this.#options.fileHandles === "never") return 0;
    const type = from.i32[stat.st_mode >> 2]! & S_IFMT;
    const flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
    let mountFd = -EOPNOTSUPP;
    if (type === S_IFDIR) mountFd = openat(fd, DOT.address, flags | O_DIRECTORY, 0);
    else if (type === S_IFREG) mountFd = this.#proc.open(fd, flags);
    let result = mountFd;
    if (mountFd >= 0) {
      const path = O_PATH | O_NOFOLLOW | O_CLOEXEC;
      const taken = takeHandle(fd, this.#handle);
      result = taken ? open_by_handle_at(mountFd, this.#handle.address, path) : -EOPNOTSUPP;
      if (result >= 0) {
        close(result);
        words[at + MOUNT_FD] = mountFd;
        words[at + HAS_HANDLES] = 1;
        return 0;
      }
      close(mountFd);
    }
    return this.#options.fileHandles === "always" ? result : 0;
  }
}
