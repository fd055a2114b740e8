// The two directories of a mount, before it is made: where they really are, what is there, and
// whether one lies inside the other. A daemon that finds its own mount below its source waits for
// itself for good.

import {
  AT_EMPTY_PATH,
  AT_FDCWD,
  AT_SYMLINK_NOFOLLOW,
  O_CLOEXEC,
  O_PATH,
  S_IFDIR,
  S_IFMT,
  statx,
} from "./abi-linux.ts";
import { EACCES, ECANCELED, ECONNABORTED, ENOENT, ENOTCONN, errnoMessage } from "./errno.ts";
import { DYING_STEP_US, DYING_STEPS } from "./limits.ts";
import { cstring, passingString, smallMemory, type Address } from "./memory.ts";
import { findMount, isFuse, readMountinfo, type MountEntry } from "./mount-info.ts";
import { readProc, readProcLink } from "./proc.ts";
import { MountError } from "./mount-options.ts";
import { close, openat, ppoll, statx as statxAt } from "./syscall.ts";

/** Where a path leads, whether anything is there or not. */
export interface Place {
  /** The path as it was given. */
  readonly given: string;
  /** The path without symbolic links. */
  readonly path: string;
  /**
   * The file system (`major:minor`) and the path within it, which all bind mounts have in common.
   */
  readonly device: string;
  readonly inside: string;
}

export type Mountpoint =
  | { readonly kind: "missing" }
  | { readonly kind: "not a directory" }
  /** An ordinary directory. */
  | { readonly kind: "directory" }
  /** The root of a mount that works. */
  | { readonly kind: "live"; readonly entry: MountEntry }
  /** The root of a FUSE mount whose daemon is gone. */
  | { readonly kind: "dead"; readonly entry: MountEntry };

const AT_STATX_FORCE_SYNC = 0x2000;
const AT_STATX_DONT_SYNC = 0x4000;
const STATX_TYPE = 1;
const statxBuffer = smallMemory(statx.sizeof);
const empty = cstring("");

/**
 * Finds where a path leads. What does not exist yet counts as below the last directory that does.
 * `path` is absolute. `mountinfo` is the present one, where a caller has read it already.
 */
export function locate(path: string, mountinfo?: string): Place {
  const names = path.split("/").filter((name) => name !== "");
  const missing: string[] = [];
  for (;;) {
    const existing = `/${names.join("/")}`;
    const fd = openat(AT_FDCWD, passingString(existing), O_PATH | O_CLOEXEC, 0);
    if (fd >= 0) {
      try {
        return place(path, fd, missing, mountinfo ?? readMountinfo());
      } finally {
        close(fd);
      }
    }
    const name = names.pop();
    if (fd !== -ENOENT || name === undefined || name === "." || name === "..")
      throw new MountError(`cannot find ${existing}: ${errnoMessage(fd)}`);
    missing.unshift(name);
  }
}

function place(given: string, fd: number, missing: readonly string[], mountinfo: string): Place {
  const real = realPath(fd);
  const entry = mountOf(fd, mountinfo);
  const below = entry.mountpoint === "/" ? real : real.slice(entry.mountpoint.length);
  return {
    given,
    path: join(real, ...missing),
    device: entry.device,
    inside: join(entry.root, below, ...missing),
  };
}

function realPath(fd: number): string {
  const path = readProcLink(`self/fd/${fd}`);
  if (path?.startsWith("/") !== true)
    throw new MountError(`cannot tell the path of descriptor ${fd}: /proc/self/fd says ${path}`);
  return path;
}

/** The mount that an open descriptor is on. */
function mountOf(fd: number, mountinfo: string): MountEntry {
  const id = Number(/^mnt_id:\s*(\d+)$/m.exec(readProc(`self/fdinfo/${fd}`))?.[1]);
  const entry = findMount(mountinfo, id);
  if (entry === undefined)
    throw new MountError(`cannot find ${realPath(fd)} in /proc/self/mountinfo (mount ${id})`);
  return entry;
}

/**
 * The file system at a path as `major:minor`; undefined if nothing is there. It takes no
 * descriptor, and the daemon of a FUSE mount is not asked.
 */
export function deviceAt(path: string): string | undefined {
  const flags = AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC;
  const error = statxAt(AT_FDCWD, passingString(path), flags, 0, statxBuffer.address);
  if (error < 0) return undefined;
  const { view } = statxBuffer;
  const [major, minor] = [statx.stx_dev_major, statx.stx_dev_minor];
  return `${view.getUint32(major, true)}:${view.getUint32(minor, true)}`;
}

/** True at a FUSE mount whose daemon is gone. It takes no descriptor. */
export function isDead(path: string): boolean {
  const flags = AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC;
  return typeAt(AT_FDCWD, passingString(path), flags) === -ENOTCONN;
}

/**
 * Has the kernel ask for the type of a file. Where a daemon has just died, its requests may be
 * taken back before the mount counts as dead.
 */
function typeAt(dirfd: number, path: Address, flags: number): number {
  for (let step = 0; ; step++) {
    const error = statxAt(dirfd, path, flags, STATX_TYPE, statxBuffer.address);
    const isDying = error === -ECONNABORTED || error === -ECANCELED;
    if (!isDying || step === DYING_STEPS) return error;
    ppoll(0, 0, DYING_STEP_US);
  }
}

function join(...parts: string[]): string {
  return `/${parts
    .join("/")
    .split("/")
    .filter((name) => name !== "")
    .join("/")}`;
}

function contains(directory: string, path: string): boolean {
  return directory === path || directory === "/" || path.startsWith(`${directory}/`);
}

/** True if `inner` is `outer` or lies below it, by its path or through a bind mount. */
export function isInside(inner: Place, outer: Place): boolean {
  return (
    contains(outer.path, inner.path) ||
    (outer.device === inner.device && contains(outer.inside, inner.inside))
  );
}

/** What there is at an absolute path. */
export function inspectMountpoint(path: string): Mountpoint {
  const fd = openat(AT_FDCWD, passingString(path), O_PATH | O_CLOEXEC, 0);
  if (fd === -ENOENT) return { kind: "missing" };
  if (fd < 0) throw new MountError(`cannot look at ${path}: ${errnoMessage(fd)}`);
  try {
    const entry = mountOf(fd, readMountinfo());
    const isRoot = entry.mountpoint === realPath(fd);
    // A dead mount may still answer from the kernel's cache, unless asked to go to the daemon.
    const flags = AT_EMPTY_PATH | AT_STATX_FORCE_SYNC;
    const error = typeAt(fd, empty.address, flags);
    if (error === -ENOTCONN && isRoot && isFuse(entry)) return { kind: "dead", entry };
    // Nobody but its owner may look at a user's FUSE mount, not even root.
    if (error === -EACCES && isRoot && isFuse(entry)) return { kind: "live", entry };
    if (error < 0) throw new MountError(`cannot look at ${path}: ${errnoMessage(error)}`);
    const mode = statxBuffer.view.getUint16(statx.stx_mode, true);
    if ((mode & S_IFMT) !== S_IFDIR) return { kind: "not a directory" };
    return isRoot ? { kind: "live", entry } : { kind: "directory" };
  } finally {
    close(fd);
  }
}

/** Makes the directory and those above it, if they are missing. */
export function createDirectory(path: string): void {
  // Loaded only here: that takes a thread 5 ms.
  const { mkdirSync } = process.getBuiltinModule("node:fs");
  try {
    mkdirSync(path, { recursive: true, mode: 0o755 });
  } catch (error) {
    throw new MountError(`cannot create the directory ${path}: ${(error as Error).message}`);
  }
}

/** Creates the source if it is missing, and finds where it is. */
export function prepareSource(path: string): Place {
  const found = inspectMountpoint(path);
  if (found.kind === "missing") createDirectory(path);
  if (found.kind === "not a directory")
    throw new MountError(`cannot serve ${path}: it is not a directory`);
  if (found.kind === "dead")
    throw new MountError(
      `cannot serve ${path}: it is a dead FUSE mount (${found.entry.type}); ` +
        `clean it up with: umount -l ${path}`,
    );
  return locate(path);
}
