// The overlay file system: a userspace overlayfs, compatible on disk with the kernel's.

import {
  AT_REMOVEDIR,
  FS_IOC_GETFSUUID,
  MOUNT_ATTR_NOATIME,
  MOUNT_ATTR_RDONLY,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  S_IFCHR,
  stat,
  statfs,
} from "./abi-linux.ts";
import { FUSE_PASSTHROUGH, FUSE_ROOT_ID } from "./abi-fuse.ts";
import { assert } from "./assert.ts";
import { EEXIST, ENOENT, errnoMessage } from "./errno.ts";
import type { Wishes } from "./filesystem.ts";
import { cstring, smallMemory, type Memory } from "./memory.ts";
import { type LayerShare, type OverlayShare } from "./overlay-base.ts";
import type { OverlayConfig } from "./overlay-config.ts";
import { OverlayDirectories } from "./overlay-directories.ts";
import { Found } from "./overlay-found.ts";
import { NODE_IMPURE } from "./overlay-node-record.ts";
import { NodeTable } from "./overlay-nodes.ts";
import { Origins } from "./overlay-origin.ts";
import { removeTree } from "./overlay-remove.ts";
import { openDirectory } from "./overlay-source.ts";
import { openUpper } from "./overlay-upper.ts";
import { storedProtection } from "./overlay-protattr.ts";
import { MARK_IMPURE, MARK_PROTATTR, OverlayXattrs } from "./overlay-xattrs.ts";
import {
  ConfigError,
  descriptorLimit,
  passthroughConfig,
  STACKED_FILE_SYSTEMS,
  type PassthroughConfig,
  type PassthroughShare,
} from "./passthrough.ts";
import { passthroughAreas } from "./passthrough-base.ts";
import { InodeTable } from "./passthrough-inodes.ts";
import type { LockWaiters } from "./passthrough-locks.ts";
import { ProcFds } from "./passthrough-proc.ts";
import { openMountCopy, type AccessTimes } from "./passthrough-source.ts";
import { readU64 } from "./request.ts";
import { createShared, SharedLayout } from "./shared-table.ts";
import {
  close,
  faccessat,
  fstat,
  fstatfs,
  geteuid,
  ioctl,
  mkdirat,
  mknodat,
  openat,
  unlinkat,
} from "./syscall.ts";

export type { OverlayShare } from "./overlay-base.ts";

const DOT = cstring(".");
const WORK = cstring("work");
const INDEX = cstring("index");
const TEST = cstring("#test");
const INCOMPAT = cstring("work/incompat");
const VOLATILE = cstring("work/incompat/volatile");
const NO_UUID = "00000000000000000000000000000000";

export class OverlayFs extends OverlayDirectories {
  override init(wishes: Wishes, offeredFlags: number, offeredFlags2: number): void {
    super.init(wishes, offeredFlags, offeredFlags2);
    if (wishes.flags2 & offeredFlags2 & FUSE_PASSTHROUGH)
      wishes.maxStackDepth = this.share.isStacked ? 2 : 1;
  }

  /** Gives up cached descriptors, for others that need them. False if there are none to give. */
  relieve(): boolean {
    return this.files.relieve();
  }

  /**
   * Closes every descriptor, when no thread serves it any more. `device` is the mount's. After this
   * nothing of it may be called.
   */
  dispose(device: number): void {
    this.files.dispose(device);
    for (const { mountFd } of this.share.layers) close(mountFd);
    if (this.share.workFd >= 0) close(this.share.workFd);
  }

  /** Whether the kernel may know more files than there are descriptors. */
  get hasFileHandles(): boolean {
    return this.files.hasFileHandles;
  }

  /** Nobody else uses the layers' files, so the kernel keeps the locks. */
  lockWaiters(): LockWaiters | undefined {
    return undefined;
  }
}

/**
 * Opens the layers and makes the state that the workers will share. `times` says when the access
 * times of what is in the upper layer change. Throws ConfigError.
 */
export function shareOverlay(
  config: OverlayConfig,
  times?: AccessTimes,
): { memory: Memory; share: OverlayShare } {
  const layout = new SharedLayout();
  const descriptors = descriptorLimit();
  const areas = passthroughAreas(layout, descriptors);
  const nodes = NodeTable.areas(layout);
  const memory = createShared(layout);
  const files: PassthroughShare = {
    config: filesConfig(config),
    areas,
    descriptors,
    procFd: ProcFds.openDirectory(),
    dropsForgotten: true,
  };
  const opening = new Opening(config, memory, files);
  const share = { ...opening.open(times), config, files, nodes };
  opening.addRoot(new NodeTable(memory, nodes, share.retains, () => {}), share);
  return { memory, share };
}

/**
 * How the layers' files are served. Nobody else changes them, so the kernel keeps what it reads.
 */
function filesConfig(config: OverlayConfig): PassthroughConfig {
  const { timeout } = config;
  return passthroughConfig({
    source: config.upper ?? config.lower[0]!,
    cache: "always",
    attrTimeout: timeout,
    entryTimeout: timeout,
    xattr: !config.noxattrs,
    writeback: config.writeback,
    kernelPassthrough: config.kernelPassthrough,
    locks: false,
  });
}

/** What there is where things are made ready. */
type WorkShare = Pick<OverlayShare, "workFd" | "indexSlot" | "makesDevices" | "hasXattrs">;

/** Opens what an overlay is made of. */
class Opening {
  readonly #config: OverlayConfig;
  readonly #inodes: InodeTable;
  readonly #xattrs: OverlayXattrs;
  readonly #stat = smallMemory(stat.sizeof);
  readonly #figures = smallMemory(statfs.sizeof);
  readonly #uuid = smallMemory(24);
  #isStacked = false;
  #upper = 0;

  constructor(config: OverlayConfig, memory: Memory, files: PassthroughShare) {
    this.#config = config;
    const proc = new ProcFds(files.procFd);
    const { mntid, useHostIno, inodeFileHandles: fileHandles } = files.config;
    const options = { fileHandles, mntid, useHostIno };
    this.#inodes = new InodeTable(memory, files.areas.inodes, options, proc);
    this.#xattrs = new OverlayXattrs(proc, config.userxattr);
  }

  open(times: AccessTimes | undefined): Omit<OverlayShare, "config" | "files" | "nodes"> {
    const { lower, data } = this.#config;
    const work = this.#openWritten(times);
    const layers = [...lower, ...data].map((path) => this.#openLayer(path));
    if (work.indexSlot !== 0) this.#checkOrigin(layers, lower[0]!);
    const roots = [this.#upper, ...layers.map(({ root }) => root)].filter((slot) => slot !== 0);
    const retains = roots.every((slot) => this.#inodes.canReopen(slot));
    return { ...work, layers, retains, isStacked: this.#isStacked };
  }

  #openWritten(times: AccessTimes | undefined): WorkShare {
    const { upper, work } = this.#config;
    if (upper === undefined || work === undefined)
      return { workFd: -1, indexSlot: 0, makesDevices: true, hasXattrs: true };
    const directories = openUpper(upper, work, times);
    // The first on its file system: files that are opened by handle are to be writable.
    this.#upper = this.#addSlot(directories.upper, upper);
    try {
      return this.#openWork(directories.work, work);
    } finally {
      close(directories.work);
    }
  }

  #addSlot(fd: number, path: string): number {
    if (fstatfs(fd, this.#figures.address) >= 0)
      this.#isStacked ||= STACKED_FILE_SYSTEMS.has(readU64(this.#figures.view, statfs.f_type));
    fstat(fd, this.#stat.address);
    const slot = this.#inodes.remember(fd, this.#stat);
    if (slot < 0) throw new ConfigError(`cannot use the layer ${path}: ${errnoMessage(slot)}`);
    return slot;
  }

  /** Nothing is written to a lower layer, be it by mistake, nor are its access times. */
  #openLayer(path: string): LayerShare {
    const wanted = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME;
    const copy = geteuid() === 0 ? openMountCopy(path, wanted) : -1;
    const fd = copy >= 0 ? copy : openDirectory({ option: "lowerdir", path });
    const mountFd = openat(fd, DOT.address, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (mountFd < 0)
      throw new ConfigError(`cannot read the layer ${path}: ${errnoMessage(mountFd)}`);
    return { root: this.#addSlot(fd, path), mountFd, uuid: this.#readUuid(mountFd) };
  }

  #readUuid(fd: number): string {
    const { bytes, address } = this.#uuid;
    const isOff = this.#config.uuid === "off";
    if (isOff || ioctl(fd, FS_IOC_GETFSUUID, address) < 0 || bytes[0] !== 16) return NO_UUID;
    return Buffer.from(bytes.subarray(1, 17)).toString("hex");
  }

  #openWork(dirfd: number, work: string): WorkShare {
    const workFd = this.#makeDirectory(dirfd, WORK, work);
    if (faccessat(dirfd, VOLATILE.address, 0) === 0)
      throw new ConfigError(
        `the overlay of workdir=${work} was volatile and did not end in order, so its upper ` +
          `layer may be incomplete: begin with new directories, or, if that is acceptable, ` +
          `remove ${work}/work/incompat/volatile`,
      );
    this.#clean(dirfd, work);
    const fresh = this.#makeDirectory(dirfd, WORK, work);
    close(workFd);
    if (this.#config.volatile) this.#markVolatile(dirfd, work);
    return {
      workFd: fresh,
      indexSlot: this.#config.index ? this.#addIndex(dirfd, work) : 0,
      makesDevices: this.#canMakeDevices(fresh),
      hasXattrs: this.#hasXattrs(fresh),
    };
  }

  #makeDirectory(dirfd: number, name: Memory, work: string): number {
    const made = mkdirat(dirfd, name.address, 0o700);
    const flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    const fd = made < 0 && made !== -EEXIST ? made : openat(dirfd, name.address, flags, 0);
    if (fd < 0) throw new ConfigError(`cannot use workdir=${work}: ${errnoMessage(fd)}`);
    return fd;
  }

  /** What was not finished when an earlier mount ended is of no use. */
  #clean(dirfd: number, work: string): void {
    const result = removeTree(dirfd, WORK.address);
    if (result < 0 && result !== -ENOENT)
      throw new ConfigError(`cannot clear ${work}/work: ${errnoMessage(result)}`);
  }

  #markVolatile(dirfd: number, work: string): void {
    mkdirat(dirfd, INCOMPAT.address, 0o700);
    const result = mkdirat(dirfd, VOLATILE.address, 0o700);
    if (result < 0)
      throw new ConfigError(`cannot mark workdir=${work} as volatile: ${errnoMessage(result)}`);
  }

  #addIndex(dirfd: number, work: string): number {
    close(this.#makeDirectory(dirfd, INDEX, work));
    const fd = openat(dirfd, INDEX.address, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    return this.#addSlot(fd, `${work}/index`);
  }

  /**
   * What is in the index is known by handles of the lower layer, so that has to be the same one.
   */
  #checkOrigin(layers: readonly LayerShare[], path: string): void {
    const origins = new Origins(layers);
    const root = this.#inodes.acquire(layers[0]!.root);
    const length = root < 0 ? 0 : origins.encode(root, 0);
    this.#inodes.release(layers[0]!.root);
    const { encoded } = origins;
    const upper = this.#inodes.acquire(this.#upper);
    const before = upper < 0 ? upper : this.#xattrs.read(upper, "origin");
    if (length > 0 && before < 0) this.#xattrs.write(upper, "origin", encoded.address, length);
    this.#inodes.release(this.#upper);
    const stored = this.#xattrs.value.bytes.subarray(0, Math.max(0, before));
    if (before <= 0 || Buffer.compare(stored, encoded.bytes.subarray(0, length)) === 0) return;
    throw new ConfigError(
      `upperdir=${this.#config.upper} was used over another lower layer than ${path}, and has an ` +
        "index of it: use that layer, or leave index=on out",
    );
  }

  #canMakeDevices(workFd: number): boolean {
    const made = mknodat(workFd, TEST.address, S_IFCHR, 0);
    if (made >= 0) unlinkat(workFd, TEST.address, 0);
    return made >= 0;
  }

  #hasXattrs(workFd: number): boolean {
    if (mkdirat(workFd, TEST.address, 0o700) < 0) return false;
    const fd = openat(workFd, TEST.address, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    const has = fd >= 0 && this.#xattrs.writeText(fd, "opaque", "y") >= 0;
    if (fd >= 0) close(fd);
    unlinkat(workFd, TEST.address, AT_REMOVEDIR);
    return has;
  }

  /** Makes the root out of the layers' roots. */
  addRoot(nodes: NodeTable, { layers }: OverlayShare): void {
    const found = new Found();
    const { lower } = this.#config;
    found.upper = this.#upper;
    for (const [layer] of lower.entries()) found.add(layers[layer]!.root, layer);
    const top = this.#upper === 0 ? found.slots[0]! : this.#upper;
    this.#statSlot(top);
    found.mode = this.#stat.u32[stat.st_mode >> 2]!;
    found.key = top;
    if (this.#upper !== 0) {
      const fd = this.#inodes.acquire(this.#upper);
      const marks = fd < 0 ? 0 : this.#xattrs.marks(fd);
      if (marks & MARK_IMPURE) found.flags |= NODE_IMPURE;
      if (marks & MARK_PROTATTR) found.flags |= storedProtection(this.#xattrs, fd);
      this.#inodes.release(this.#upper);
    }
    const first = found.slots[0]!;
    this.#statSlot(first);
    found.inoLow = this.#stat.i32[stat.st_ino >> 2]!;
    found.inoHigh = this.#stat.i32[(stat.st_ino >> 2) + 1]! ^ this.#inodes.inoOffset(first);
    const root = nodes.addRoot(found);
    assert(root === FUSE_ROOT_ID, "the root is the first node");
  }

  #statSlot(slot: number): void {
    const fd = this.#inodes.acquire(slot);
    if (fd >= 0) fstat(fd, this.#stat.address);
    this.#inodes.release(slot);
  }
}
