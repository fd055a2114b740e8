// Making and ending FUSE mounts. As root by mount(2) and umount2(2), as a user through fusermount3,
// in another process's mount namespace on a thread that moves there. Failures to mount are
// MountErrors, which say what to do; unmounting returns 0 or -errno.

import {
  AT_FDCWD,
  CLONE_FS,
  CLONE_NEWNS,
  MNT_DETACH,
  O_CLOEXEC,
  O_RDONLY,
  O_RDWR,
  UMOUNT_NOFOLLOW,
} from "./abi-linux.ts";
import { assert } from "./assert.ts";
import { EACCES, EINVAL, ENODEV, ENOENT, ENXIO, EPERM, ESRCH, errnoMessage } from "./errno.ts";
import { cstring } from "./memory.ts";
import { mountWithHelper, unmountWithHelper } from "./mount-fusermount.ts";
import { startWatcher } from "./mount-watcher.ts";
import { isFuse, readMounts } from "./mount-info.ts";
import { openProc, readProcLink } from "./proc.ts";
import {
  fuseOptions,
  mountFlags,
  mountType,
  MountError,
  type MountOptions,
} from "./mount-options.ts";
import {
  createDirectory,
  deviceAt,
  inspectMountpoint,
  isDead,
  isInside,
  locate,
  prepareSource,
  type Place,
} from "./mount-point.ts";
import {
  close,
  getegid,
  geteuid,
  mount as mountAt,
  openat,
  setns,
  umount2,
  unshare,
} from "./syscall.ts";

export { MountError, type MountOptions } from "./mount-options.ts";

const DEVICE = "/dev/fuse";
const MS_REMOUNT = 32;

/** Opens a new connection to the kernel, which a mount is then given. */
export function openDevice(): number {
  const fd = openat(AT_FDCWD, cstring(DEVICE).address, O_RDWR | O_CLOEXEC, 0);
  if (fd >= 0) return fd;
  const advice =
    fd === -ENOENT || fd === -ENODEV || fd === -ENXIO
      ? "load the module with modprobe fuse, or give the container --device /dev/fuse"
      : "the user needs read and write permission; a container needs --device /dev/fuse";
  throw new MountError(`cannot open ${DEVICE}: ${errnoMessage(fd)}; ${advice}`);
}

/**
 * Makes both directories ready: creates what is missing, cleans up a dead mount if told to, refuses
 * one inside the other. Returns the real path of the mount point, to mount and unmount by.
 */
export function prepareMount(sources: readonly string[], options: MountOptions): string {
  for (const source of sources) refuseNesting(locate(source), locate(options.mountpoint));
  return prepareMountpoint(options, sources.map(prepareSource));
}

/** Makes the mount point ready as `prepareMount` does. `sources` are the directories served. */
export function prepareMountpoint(options: MountOptions, sources: readonly Place[] = []): string {
  const place = locate(options.mountpoint);
  for (const source of sources) refuseNesting(source, place);
  let found = inspectMountpoint(place.path);
  while (found.kind === "dead" && options.replace) {
    const error = unmount(place.path, "lazy", options.fusermount);
    if (error < 0)
      throw new MountError(`cannot unmount the dead mount ${place.path}: ${errnoMessage(error)}`);
    found = inspectMountpoint(place.path);
  }
  if (found.kind === "missing") createDirectory(place.path);
  if (found.kind === "not a directory")
    throw new MountError(`cannot mount on ${place.path}: it is not a directory`);
  if (found.kind === "dead")
    throw new MountError(
      `cannot mount on ${place.path}: a dead mount is there ` +
        `(${found.entry.type} of ${found.entry.source}, whose daemon is gone); give --replace ` +
        `(or -o replace) to clean it up, or do it with: umount -l ${place.path}`,
    );
  if (
    found.kind === "live" &&
    found.entry.type === mountType(options) &&
    found.entry.source === options.fsname
  )
    throw new MountError(
      `cannot mount on ${place.path}: ${options.fsname} is already mounted there; ` +
        `unmount it first with: umount ${place.path}`,
    );
  return place.path;
}

export function refuseNesting(source: Place, mountpoint: Place): void {
  if (!isInside(mountpoint, source) && !isInside(source, mountpoint)) return;
  const [outer, inner] = isInside(mountpoint, source) ? [source, mountpoint] : [mountpoint, source];
  const relation = isInside(outer, inner) ? "is the same directory as" : "lies inside";
  throw new MountError(
    `cannot mount ${source.given} on ${mountpoint.given}: ` +
      `${inner.path} ${relation} ${outer.path}; choose a mount point outside of the source`,
  );
}

/** Mounts, and returns the /dev/fuse descriptor of the mount. The directories are ready. */
export function mount(options: MountOptions): number {
  const root = geteuid() === 0;
  if (!root && (options.suid || options.dev))
    throw new MountError("cannot mount with suid or dev: these options are for root");
  const watcher = options.autoUnmount ? startWatcher(options) : undefined;
  try {
    return root ? mountAsRoot(options) : mountWithHelper(options);
  } catch (error) {
    if (watcher !== undefined) close(watcher);
    throw error;
  }
}

function mountAsRoot(options: MountOptions): number {
  const device = openDevice();
  try {
    mountDevice(options, device);
    return device;
  } catch (error) {
    close(device);
    throw error;
  }
}

function mountDevice(options: MountOptions, device: number): void {
  const owner = [`fd=${device}`, "rootmode=40000", `user_id=${geteuid()}`, `group_id=${getegid()}`];
  const error = mountAt(
    cstring(options.fsname).address,
    cstring(options.mountpoint).address,
    cstring(mountType(options)).address,
    mountFlags(options),
    cstring([...owner, ...fuseOptions(options)].join(",")).address,
  );
  if (error < 0)
    throw new MountError(
      `cannot mount on ${options.mountpoint}: ${errnoMessage(error)}${mountAdvice(error, options)}`,
    );
}

function mountAdvice(error: number, { labels = [] }: MountOptions): string {
  if (error === -EPERM || error === -EACCES)
    return "; mounting needs CAP_SYS_ADMIN, which a container has only if it is given";
  if (error === -EINVAL && labels.length > 0)
    return `; ${labels.join(" and ")} needs a kernel with SELinux turned on, and a label that it has`;
  if (error === -ENODEV) return "; the kernel has no fuse: load the module with modprobe fuse";
  return "";
}

/** Changes the flags (ro, nosuid, noatime…) of a mount that is there. */
export function remount(options: MountOptions): void {
  const mountpoint = locate(options.mountpoint).path;
  const found = inspectMountpoint(mountpoint);
  if (found.kind !== "live" || !isFuse(found.entry))
    throw new MountError(`cannot remount ${mountpoint}: no FUSE file system is mounted there`);
  const error = mountAt(
    cstring(found.entry.source).address,
    cstring(mountpoint).address,
    cstring(found.entry.type).address,
    MS_REMOUNT | mountFlags(options),
    0,
  );
  if (error < 0) throw new MountError(`cannot remount ${mountpoint}: ${errnoMessage(error)}`);
}

/**
 * Unmounts, lazily (out of sight at once, for good when the last user is gone) or not if busy.
 * `fusermount` is the helper of users who are not root. Returns 0 or -errno: EBUSY, EINVAL if
 * nothing is mounted there.
 */
export function unmount(
  mountpoint: string,
  how: "normal" | "lazy",
  fusermount?: string | undefined,
): number {
  const error = umount2(
    cstring(mountpoint).address,
    UMOUNT_NOFOLLOW | (how === "lazy" ? MNT_DETACH : 0),
  );
  if (error !== -EPERM || geteuid() === 0) return error;
  return unmountWithHelper(mountpoint, how === "lazy", fusermount);
}

/** A mount that was made, to be found again when it is to be unmounted. */
export interface MountedPlace {
  readonly mountpoint: string;
  /** Its `major:minor`, which tells it from what others have mounted over it. */
  readonly device: string;
  /** Where it is, if it is in another mount namespace. */
  readonly namespace?: Namespace;
}

export interface Namespace {
  /** A process in it. */
  readonly pid: number;
  /** What identifies it, since the process may end and its number be used again. */
  readonly name: string;
}

/** The mount that was just made at `mountpoint`. */
export function mountedPlace(mountpoint: string, namespace?: Namespace): MountedPlace {
  const device = deviceAt(mountpoint);
  if (device === undefined) throw new MountError(`${mountpoint} was removed at once`);
  return { mountpoint, device, ...(namespace === undefined ? {} : { namespace }) };
}

/**
 * Mounts the connection `device` in the mount namespace of `options.mountNamespacePid`, where the
 * mount point is looked up and made ready as well. `source` was located in our own. The calling
 * thread stays in that namespace: it must be a worker that does nothing else and ends.
 */
export function mountInNamespace(
  options: MountOptions,
  sources: readonly Place[],
  device: number,
): MountedPlace {
  const pid = options.mountNamespacePid;
  assert(pid !== undefined, "mountInNamespace is given a process");
  const name = namespaceOf(pid);
  const error = name === undefined ? -ESRCH : enterNamespace(pid);
  if (name === undefined || error < 0)
    throw new MountError(
      `cannot enter the mount namespace of process ${pid}: ${errnoMessage(error)}; ` +
        "the process must be running, and this takes root",
    );
  const mountpoint = prepareMountpoint(options, sources);
  mountDevice({ ...options, mountpoint }, device);
  return mountedPlace(mountpoint, { pid, name });
}

/**
 * Unmounts it and nothing else: -EINVAL if it is gone. "if dead" is lazily, when its connection has
 * ended but it is still there. In another namespace the calling thread stays there, as with
 * `mountInNamespace`. Throws MountError if something else is mounted over it.
 */
export function unmountPlace(
  place: MountedPlace,
  how: "normal" | "lazy" | "if dead",
  fusermount: string | undefined,
): number {
  const { mountpoint, device, namespace } = place;
  if (namespace !== undefined) {
    const pid = findInNamespace(namespace);
    // With its last process a namespace ends, and its mounts with it.
    if (pid === undefined) return -EINVAL;
    const error = enterNamespace(pid);
    if (error < 0) return error;
  }
  if (deviceAt(mountpoint) === device) {
    // The number is used again: it may be that of a new mount.
    if (how === "if dead" && !isDead(mountpoint)) return -EINVAL;
    return unmount(mountpoint, how === "normal" ? "normal" : "lazy", fusermount);
  }
  const mounts = readMounts().filter((entry) => entry.mountpoint === mountpoint);
  const top = mounts.at(-1);
  if (top === undefined || !mounts.some((entry) => entry.device === device)) return -EINVAL;
  throw new MountError(
    `cannot unmount ${mountpoint}: ${top.source} (${top.type}) is mounted over it; ` +
      `unmount both with: umount ${mountpoint}; umount -l ${mountpoint}`,
  );
}

/** The path of the mount as this process can use it. */
export function pathToMounted({ mountpoint, namespace }: MountedPlace): string {
  if (namespace === undefined) return mountpoint;
  return `/proc/${findInNamespace(namespace) ?? namespace.pid}/root${mountpoint}`;
}

function enterNamespace(pid: number): number {
  assert(!Bun.isMainThread, "only a thread of its own goes to another mount namespace");
  const fd = openat(openProc(), cstring(`${pid}/ns/mnt`).address, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return fd;
  // A thread that shares its working directory with others may not change the namespace.
  const shared = unshare(CLONE_FS);
  const error = shared < 0 ? shared : setns(fd, CLONE_NEWNS);
  close(fd);
  return error;
}

function namespaceOf(pid: number | string): string | undefined {
  return readProcLink(`${pid}/ns/mnt`);
}

/** The process that the mount was made for, or any other in its namespace. */
function findInNamespace({ pid, name }: Namespace): number | undefined {
  if (namespaceOf(pid) === name) return pid;
  // Loaded only here: that takes a thread 5 ms.
  const { readdirSync } = process.getBuiltinModule("node:fs");
  const pids = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry));
  const found = pids.find((candidate) => namespaceOf(candidate) === name);
  return found === undefined ? undefined : Number(found);
}
