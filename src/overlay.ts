// The overlay file system: a userspace overlayfs, compatible on disk with the kernel's.

import {
  AT_REMOVEDIR,
  EXT4_SUPER_MAGIC,
  FS_IOC_GETFSUUID,
  MOUNT_ATTR_NOATIME,
  MOUNT_ATTR_RDONLY,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  S_IFCHR,
  S_IFREG,
  stat,
  statfs,
} from "./abi-linux.ts";
import { FUSE_ATOMIC_O_TRUNC, FUSE_PASSTHROUGH, FUSE_POSIX_ACL, FUSE_ROOT_ID } from "./abi-fuse.ts";
import { assert } from "./assert.ts";
import { EEXIST, EINVAL, ENODATA, ENOENT, ENOTEMPTY, errnoMessage } from "./errno.ts";
import type { Wishes } from "./filesystem.ts";
import { cstring, smallMemory, type Memory } from "./memory.ts";
import { type LayerShare, type OverlayShare } from "./overlay-base.ts";
import type { OverlayConfig } from "./overlay-config.ts";
import { Found } from "./overlay-found.ts";
import { dropUnfinished } from "./overlay-index.ts";
import { NODE_IMPURE } from "./overlay-node-record.ts";
import { Overrides, UPPER_LAYER, type Override } from "./overlay-override.ts";
import { NameFilters } from "./overlay-name-filter.ts";
import { NodeTable } from "./overlay-nodes.ts";
import { Origins } from "./overlay-origin.ts";
import { removeTree } from "./overlay-remove.ts";
import { OverlayRevive } from "./overlay-revive.ts";
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
import { DOT, openInodes, passthroughAreas } from "./passthrough-base.ts";
import type { InodeTable } from "./passthrough-inodes.ts";
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

const WORK = cstring("work");
const INDEX = cstring("index");
const TEST = cstring("#test");
const INCOMPAT = cstring("work/incompat");
const VOLATILE = cstring("work/incompat/volatile");
const DIRTY = cstring("work/incompat/volatile/dirty");
const UUID_SIZE = 16;
const KEY_SIZE = 32;
const NO_UUID = "00000000000000000000000000000000";

export class OverlayFs extends OverlayRevive {
  override init(wishes: Wishes, offeredFlags: number, offeredFlags2: number): void {
    super.init(wishes, offeredFlags, offeredFlags2);
    if (wishes.flags2 & offeredFlags2 & FUSE_PASSTHROUGH)
      wishes.maxStackDepth = this.share.isStacked ? 2 : 1;
    if (this.config.noacl) wishes.flags &= ~FUSE_POSIX_ACL;
    // Set-id bits that are in an attribute only go if the kernel asks for it.
    if (this.overrides !== undefined) wishes.flags &= ~FUSE_ATOMIC_O_TRUNC;
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
  const filters = NameFilters.areas(layout);
  const memory = createShared(layout);
  const files: PassthroughShare = {
    config: filesConfig(config),
    areas,
    descriptors,
    procFd: ProcFds.openDirectory(),
    dropsForgotten: true,
  };
  const opening = new Opening(config, memory, files);
  const share = { ...opening.open(times), config, files, nodes, filters };
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
    killprivV2: config.xattrPermissions === 0,
  });
}

/** What there is where things are made ready. */
type WorkShare = Pick<
  OverlayShare,
  "workFd" | "indexSlot" | "makesDevices" | "hasXattrs" | "handleKey"
>;

/** Opens what an overlay is made of. */
class Opening {
  readonly #config: OverlayConfig;
  readonly #inodes: InodeTable;
  readonly #proc: ProcFds;
  readonly #xattrs: OverlayXattrs;
  readonly #stat = smallMemory(stat.sizeof);
  readonly #figures = smallMemory(statfs.sizeof);
  readonly #uuid = smallMemory(24);
  #isStacked = false;
  #isExt4 = true;
  #upper = 0;

  constructor(config: OverlayConfig, memory: Memory, files: PassthroughShare) {
    this.#config = config;
    const proc = new ProcFds(files.procFd);
    this.#proc = proc;
    this.#inodes = openInodes(memory, files, proc);
    this.#xattrs = new OverlayXattrs(proc, config.userxattr, config.xattrPermissions !== 0);
  }

  open(
    times: AccessTimes | undefined,
  ): Omit<OverlayShare, "config" | "files" | "nodes" | "filters"> {
    const { lower, data } = this.#config;
    const work = this.#openWritten(times);
    const layers = [...lower, ...data].map((path) => this.#openLayer(path));
    if (work.indexSlot !== 0) this.#checkOrigin(layers, lower[0]!);
    if (this.#config.nfsExport) this.#checkExport(work, layers);
    const roots = [this.#upper, ...layers.map(({ root }) => root)].filter((slot) => slot !== 0);
    const retains = roots.every((slot) => this.#inodes.canReopen(slot));
    if (this.#upper !== 0) this.#settleIdentity(work.hasXattrs, retains);
    const overrides = this.#config.xattrPermissions === 0 ? undefined : this.#overrides(layers);
    return { ...work, layers, retains, isStacked: this.#isStacked, overrides };
  }

  #openWritten(times: AccessTimes | undefined): WorkShare {
    const { upper, work } = this.#config;
    if (upper === undefined || work === undefined)
      return { workFd: -1, indexSlot: 0, makesDevices: true, hasXattrs: true, handleKey: null };
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
    const isKnown = fstatfs(fd, this.#figures.address) >= 0;
    const type = isKnown ? readU64(this.#figures.view, statfs.f_type) : 0;
    this.#isStacked ||= STACKED_FILE_SYSTEMS.has(type);
    this.#isExt4 &&= type === EXT4_SUPER_MAGIC;
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

  /** What was asked for by name, and can't be had, is refused. */
  #settleIdentity(hasXattrs: boolean, hasHandles: boolean): void {
    const { xino, uuid, upper } = this.#config;
    if (xino === "on" && !(hasXattrs && hasHandles))
      throw new ConfigError(
        "xino=on cannot be had: which lower file an upper one comes from is known by its file " +
          "handle, and a layer's file system has none, or they are not for this user; leave it out",
      );
    const fd = this.#inodes.acquire(this.#upper);
    const result = fd < 0 ? fd : hasXattrs ? this.#settleUuid(fd) : 0;
    this.#inodes.release(this.#upper);
    if (result < 0 && uuid === "on")
      throw new ConfigError(
        `uuid=on cannot be had: upperdir=${upper} does not store it: ${errnoMessage(result)}`,
      );
  }

  /** As the kernel: an upper layer that was used without an identity gets none by `auto`. */
  #settleUuid(fd: number): number {
    const { uuid } = this.#config;
    if (uuid !== "on" && uuid !== "auto") return 0;
    const stored = this.#xattrs.read(fd, "uuid");
    if (stored !== -ENODATA) return stored === UUID_SIZE ? 0 : stored < 0 ? stored : -EINVAL;
    if (uuid === "auto" && this.#xattrs.marks(fd) & MARK_IMPURE) return 0;
    const { bytes, address } = this.#uuid;
    crypto.getRandomValues(bytes.subarray(0, UUID_SIZE));
    // Version 4, variant 1: of random numbers (RFC 9562).
    bytes[6] = (bytes[6]! & 0x0f) | 0x40;
    bytes[8] = (bytes[8]! & 0x3f) | 0x80;
    return this.#xattrs.write(fd, "uuid", address, UUID_SIZE);
  }

  /** A lower layer was written with such attributes if its root has one. */
  #overrides(layers: readonly LayerShare[]): Override[] {
    const lower = layers.map(({ root }) => {
      const fd = this.#inodes.acquire(root);
      const override = fd < 0 ? 0 : Overrides.find(this.#proc, fd);
      this.#inodes.release(root);
      return override;
    });
    return [this.#upper === 0 ? 0 : this.#overrideUpper(), ...lower];
  }

  #overrideUpper(): Override {
    const { xattrPermissions, upper } = this.#config;
    const fd = this.#inodes.acquire(this.#upper);
    const found = fd < 0 ? 0 : Overrides.find(this.#proc, fd);
    // Of users' attributes there are two, and the layer goes on with that which it has.
    const override = xattrPermissions === 2 && found === 3 ? found : xattrPermissions;
    let result = fd < 0 ? fd : fstat(fd, this.#stat.address);
    const overrides = new Overrides(this.#proc, [override]);
    const { view } = this.#stat;
    const mode = view.getUint32(stat.st_mode, true);
    if (result >= 0 && !overrides.read(fd, UPPER_LAYER, mode)) {
      const uid = view.getUint32(stat.st_uid, true);
      result = overrides.write(fd, uid, view.getUint32(stat.st_gid, true), mode);
    }
    this.#inodes.release(this.#upper);
    if (result >= 0) return override;
    throw new ConfigError(
      `xattr_permissions=${xattrPermissions} cannot be had, since upperdir=${upper} does not take ` +
        `the attribute: ${errnoMessage(result)}; leave it out, or use another file system`,
    );
  }

  #openWork(dirfd: number, work: string): WorkShare {
    const workFd = this.#makeDirectory(dirfd, WORK, work);
    this.#refuseIncompatible(dirfd, work);
    this.#clean(dirfd, work);
    const fresh = this.#makeDirectory(dirfd, WORK, work);
    close(workFd);
    if (this.#config.volatile) this.#markVolatile(dirfd, work);
    return {
      workFd: fresh,
      indexSlot: this.#config.index ? this.#addIndex(dirfd, work) : 0,
      makesDevices: this.#canMakeDevices(fresh),
      hasXattrs: this.#hasXattrs(fresh),
      handleKey: this.#handleKey(dirfd, work),
    };
  }

  /**
   * What is in `incompat` says that the upper layer is not like others. It stays when a volatile
   * mount ends, since what was written may reach the disk later, or never.
   */
  #refuseIncompatible(dirfd: number, work: string): void {
    if (faccessat(dirfd, VOLATILE.address, 0) === 0)
      throw new ConfigError(
        `the overlay of workdir=${work} was volatile, so its upper layer is incomplete if the ` +
          "machine has gone down since: begin with new directories, or, if it has not, remove " +
          `${work}/work/incompat/volatile`,
      );
    const result = unlinkat(dirfd, INCOMPAT.address, AT_REMOVEDIR);
    if (result === -ENOTEMPTY || result === -EEXIST)
      throw new ConfigError(
        `the overlay of workdir=${work} was used in a way that is not known here, by what is in ` +
          `${work}/work/incompat: use what it was used with, or begin with new directories`,
      );
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
    let result = mkdirat(dirfd, VOLATILE.address, 0o700);
    if (result >= 0) result = mknodat(dirfd, DIRTY.address, S_IFREG | 0o600, 0);
    if (result < 0)
      throw new ConfigError(`cannot mark workdir=${work} as volatile: ${errnoMessage(result)}`);
  }

  #addIndex(dirfd: number, work: string): number {
    const index = this.#makeDirectory(dirfd, INDEX, work);
    if (this.#config.nfsExport) dropUnfinished(index, this.#xattrs);
    close(index);
    const fd = openat(dirfd, INDEX.address, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    return this.#addSlot(fd, `${work}/index`);
  }

  /**
   * By which nodeids are known, made at the first mount, and nobody's who sees the mount only. What
   * is copied up and removed without `nfsExport` is not in the index, so with such a mount all
   * handles end.
   */
  #handleKey(dirfd: number, work: string): string | null {
    if (!this.#config.nfsExport) {
      this.#xattrs.remove(dirfd, "handle-key");
      return null;
    }
    const { value } = this.#xattrs;
    let length = this.#xattrs.read(dirfd, "handle-key");
    if (length === -ENODATA) {
      crypto.getRandomValues(value.bytes.subarray(0, KEY_SIZE));
      const result = this.#xattrs.write(dirfd, "handle-key", value.address, KEY_SIZE);
      length = result < 0 ? result : KEY_SIZE;
    }
    if (length !== KEY_SIZE)
      throw new ConfigError(
        `nfs_export=on cannot be had: workdir=${work} does not keep the key of file handles: ` +
          (length < 0 ? errnoMessage(length) : "its attribute overlay.handle-key is not one"),
      );
    return value.bytes.subarray(0, KEY_SIZE).toHex();
  }

  /** Throws ConfigError where file handles can't outlive the daemon. */
  #checkExport({ makesDevices }: WorkShare, layers: readonly LayerShare[]): void {
    const roots = [this.#upper, ...layers.map(({ root }) => root)];
    const isOne = roots.every((root) => this.#inodes.numberOf(root) >= 0);
    const why = !this.#inodes.hasFileHandles
      ? "opening files by their handles is not allowed (CAP_DAC_READ_SEARCH)"
      : !this.#isExt4 || !isOne
        ? "all layers must be on one file system that opens files by their number, as ext4 does"
        : makesDevices
          ? undefined
          : "no device nodes can be made for whiteouts";
    if (why !== undefined)
      throw new ConfigError(`nfs_export=on cannot be had: ${why}; leave it out`);
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
