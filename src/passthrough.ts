// The passthrough file system: a directory of the host, served as it is.

import * as abi from "./abi-fuse.ts";
import {
  BTRFS_SUPER_MAGIC,
  ECRYPTFS_SUPER_MAGIC,
  EXT4_SUPER_MAGIC,
  F2FS_SUPER_MAGIC,
  OVERLAYFS_SUPER_MAGIC,
  RAMFS_MAGIC,
  RLIMIT_NOFILE,
  TMPFS_MAGIC,
  XFS_SUPER_MAGIC,
  rlimit,
  statfs,
} from "./abi-linux.ts";
import { EIO, errnoMessage } from "./errno.ts";
import type { Connection, Wishes } from "./filesystem.ts";
import { smallMemory, type Memory } from "./memory.ts";
import { closeBacking } from "./passthrough-backings.ts";
import {
  openInodes,
  passthroughAreas,
  type PassthroughShare,
  type ServingThread,
} from "./passthrough-base.ts";
import { ConfigError, type PassthroughConfig } from "./passthrough-config.ts";
import { PassthroughDirectories } from "./passthrough-directories.ts";
import type { InodeTable } from "./passthrough-inodes.ts";
import { LockWaiters } from "./passthrough-locks.ts";
import { ProcFds } from "./passthrough-proc.ts";
import { openSource, type AccessTimes } from "./passthrough-source.ts";
import { readU64 } from "./request.ts";
import { createShared, SharedLayout } from "./shared-table.ts";
import { close, fstatfs, prlimit64 } from "./syscall.ts";

export { passthroughConfig, ConfigError, type PassthroughConfig } from "./passthrough-config.ts";
export type { PassthroughShare, ServingThread } from "./passthrough-base.ts";

/**
 * File systems whose close(2) has nothing to report: what is written is in the page cache, and
 * stays.
 */
const LOCAL_FILE_SYSTEMS = new Set([
  EXT4_SUPER_MAGIC,
  XFS_SUPER_MAGIC,
  BTRFS_SUPER_MAGIC,
  F2FS_SUPER_MAGIC,
  TMPFS_MAGIC,
  RAMFS_MAGIC,
]);
/** File systems that are stacked on others. */
export const STACKED_FILE_SYSTEMS = new Set([OVERLAYFS_SUPER_MAGIC, ECRYPTFS_SUPER_MAGIC]);

// Scratch memory of the thread, for all file systems that it serves.
const figures = smallMemory(statfs.sizeof);
const limit = smallMemory(rlimit.sizeof);

/** What a passthrough asks of the kernel; `privileged` is whether it may become somebody else. */
export function wish(wishes: Wishes, config: PassthroughConfig, privileged: boolean): void {
  const wants = (wanted: boolean, flag: number): number => (wanted ? flag : 0);
  wishes.flags |=
    abi.FUSE_ASYNC_READ |
    abi.FUSE_EXPORT_SUPPORT |
    abi.FUSE_BIG_WRITES |
    abi.FUSE_DONT_MASK |
    abi.FUSE_HAS_IOCTL_DIR |
    abi.FUSE_DO_READDIRPLUS |
    abi.FUSE_READDIRPLUS_AUTO |
    abi.FUSE_ASYNC_DIO |
    abi.FUSE_PARALLEL_DIROPS |
    abi.FUSE_CACHE_SYMLINKS |
    abi.FUSE_SETXATTR_EXT |
    wants(config.cache === "auto", abi.FUSE_AUTO_INVAL_DATA) |
    wants(config.locks, abi.FUSE_POSIX_LOCKS | abi.FUSE_FLOCK_LOCKS) |
    wants(config.writeback, abi.FUSE_WRITEBACK_CACHE) |
    // Without OPEN nobody truncates in it: the kernel has to ask for that by SETATTR.
    wants(config.noOpen, abi.FUSE_NO_OPEN_SUPPORT) |
    wants(!config.noOpen, abi.FUSE_ATOMIC_O_TRUNC) |
    wants(config.noOpendir, abi.FUSE_NO_OPENDIR_SUPPORT) |
    wants(config.killprivV2 && privileged, abi.FUSE_HANDLE_KILLPRIV_V2) |
    wants(config.xattr, abi.FUSE_POSIX_ACL);
  wishes.flags2 |=
    abi.FUSE_CREATE_SUPP_GROUP |
    abi.FUSE_DIRECT_IO_ALLOW_MMAP |
    abi.FUSE_ALLOW_IDMAP |
    wants(config.xattr, abi.FUSE_SECURITY_CTX) |
    wants(config.kernelPassthrough && privileged, abi.FUSE_PASSTHROUGH);
}

export class PassthroughFs extends PassthroughDirectories {
  readonly #fsType: number;

  constructor(memory: Memory, share: PassthroughShare, thread: ServingThread) {
    super(memory, share, thread);
    const root = this.inodes.acquire(abi.FUSE_ROOT_ID);
    this.#fsType =
      root >= 0 && fstatfs(root, figures.address) >= 0 ? readU64(figures.view, statfs.f_type) : 0;
    this.inodes.release(abi.FUSE_ROOT_ID);
  }

  override init(wishes: Wishes, _offeredFlags: number, offeredFlags2: number): void {
    wish(wishes, this.config, this.credentials.privileged);
    if (wishes.flags2 & offeredFlags2 & abi.FUSE_PASSTHROUGH)
      wishes.maxStackDepth = STACKED_FILE_SYSTEMS.has(this.#fsType) ? 2 : 1;
  }

  override connected(connection: Connection, device: number): void {
    super.connected(connection, device);
    this.closeReports = !LOCAL_FILE_SYSTEMS.has(this.#fsType);
  }

  /** Gives up cached descriptors, for others that need them. False if there are none to give. */
  relieve(): boolean {
    return this.inodes.relieve();
  }

  /**
   * Ends what is left of it when no thread serves it any more: waits for locks end with EIO, and
   * every descriptor is closed. `device` is the mount's. After this nothing of it may be called.
   */
  dispose(device: number): void {
    this.locks.endAll(-EIO);
    this.handles.closeAll();
    this.inodes.closeAll((id) => closeBacking(device, id));
    close(this.proc.dirfd);
  }

  /** Whether the kernel may know more files of the source than there are descriptors. */
  get hasFileHandles(): boolean {
    return this.inodes.hasFileHandles;
  }

  /** What hangs on the locks of this file system, for the main thread. */
  lockWaiters(): LockWaiters {
    return new LockWaiters(this.locks);
  }
}

/**
 * Opens the source and makes the state that the workers will share. Throws ConfigError if that
 * fails.
 */
export function sharePassthrough(
  config: PassthroughConfig,
  times?: AccessTimes,
): { memory: Memory; share: PassthroughShare } {
  const root = openSource(config.source, times);
  const layout = new SharedLayout();
  const descriptors = descriptorLimit();
  const areas = passthroughAreas(layout, descriptors);
  const share = { config, areas, descriptors, procFd: ProcFds.openDirectory() };
  const memory = createShared(layout);
  const inodes = openInodes(memory, share, new ProcFds(share.procFd));
  const result = inodes.addRoot(root);
  if (result < 0)
    throw new ConfigError(
      `cannot use the source directory ${config.source}: ${errnoMessage(result)}` +
        (config.inodeFileHandles === "always"
          ? "; its file system has no file handles, or opening them is not allowed (CAP_DAC_READ_SEARCH)"
          : ""),
    );
  if (config.handleKey !== null) checkLastingHandles(config.source, root, inodes);
  return { memory, share };
}

/** Throws ConfigError where file handles can't outlive the daemon. */
function checkLastingHandles(source: string, root: number, inodes: InodeTable): void {
  const type = fstatfs(root, figures.address) < 0 ? 0 : readU64(figures.view, statfs.f_type);
  if (type !== EXT4_SUPER_MAGIC)
    throw new ConfigError(
      `file handles of ${source} can't outlive the daemon: they have to open files by their ` +
        "number, as those of ext4 do; leave handle-key out",
    );
  if (!inodes.hasFileHandles)
    throw new ConfigError(
      `file handles of ${source} can't outlive the daemon: ` +
        "opening them is not allowed (CAP_DAC_READ_SEARCH); leave handle-key out",
    );
}

/** How many descriptors the process may have open. */
export function descriptorLimit(): number {
  prlimit64(0, RLIMIT_NOFILE, 0, limit.address);
  return Math.min(readU64(limit.view, rlimit.rlim_cur), 2 ** 20);
}
