// Opening the upper layer and its work directory. When access times change is for the options of
// the overlay's mount to say, whatever those of the mount below are, as with the kernel's
// overlayfs: so both are opened through a private copy of that mount. It has to be one copy, since
// nothing can be moved from one mount to another.

import {
  MOUNT_ATTR__ATIME,
  MOUNT_ATTR_NODIRATIME,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  stat,
} from "./abi-linux.ts";
import { errnoMessage, ESTALE } from "./errno.ts";
import { log } from "./log.ts";
import { passingString, smallMemory } from "./memory.ts";
import { locate } from "./mount-point.ts";
import { openDirectory } from "./overlay-source.ts";
import { openMountCopy, timesAttributes, type AccessTimes } from "./passthrough-source.ts";
import { readU64 } from "./request.ts";
import { close, fstat, geteuid, openat } from "./syscall.ts";

/** O_PATH descriptors of the upper layer and of its work directory. */
export interface UpperDirectories {
  readonly upper: number;
  readonly work: number;
}

const NO_TIMES: AccessTimes = { noatime: false, strictatime: false, nodiratime: false };

// Scratch memory of the thread.
const expected = smallMemory(stat.sizeof);
const found = smallMemory(stat.sizeof);

/** Opens both. Without `times`, access times change as with `relatime`. Throws ConfigError. */
export function openUpper(
  upper: string,
  work: string,
  times: AccessTimes = NO_TIMES,
): UpperDirectories {
  const own = {
    upper: openDirectory({ option: "upperdir", path: upper }),
    work: openDirectory({ option: "workdir", path: work }),
  };
  // Only root may copy a mount.
  if (geteuid() !== 0) return own;
  const copied = openInCopy(own, locate(upper).path, locate(work).path, timesAttributes(times));
  if (typeof copied === "number") {
    const why = errnoMessage(copied);
    log.info(`access times change as on the mount of ${upper}, which can't be copied: ${why}`);
    return own;
  }
  close(own.upper);
  close(own.work);
  return copied;
}

/** The same directories in a copy of the mount that both lie on. Returns them or -errno. */
function openInCopy(
  own: UpperDirectories,
  upperPath: string,
  workPath: string,
  wanted: number,
): UpperDirectories | number {
  const above = commonDirectory(upperPath, workPath);
  const root = openMountCopy(above, wanted, MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME);
  if (root < 0) return root;
  const upper = openSame(root, upperPath, above, own.upper);
  const work = openSame(root, workPath, above, own.work);
  close(root);
  if (upper >= 0 && work >= 0) return { upper, work };
  if (upper >= 0) close(upper);
  if (work >= 0) close(work);
  return Math.min(upper, work);
}

/** The nearest directory that both absolute paths lie below. */
function commonDirectory(one: string, other: string): string {
  const others = other.split("/");
  const names = one.split("/");
  const end = names.findIndex((name, index) => name !== others[index]);
  return names.slice(0, end).join("/") || "/";
}

/** What is at `path`, which lies below `above`, in the copy of that; -ESTALE if it is not `own`. */
function openSame(root: number, path: string, above: string, own: number): number {
  const inside = above === "/" ? path.slice(1) : path.slice(above.length + 1);
  const flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  const fd = openat(root, passingString(inside), flags, 0);
  if (fd < 0) return fd;
  const isKnown = fstat(fd, found.address) >= 0 && fstat(own, expected.address) >= 0;
  // Another mount may lie between them, which a copy does not have.
  if (isKnown && isSame(stat.st_dev) && isSame(stat.st_ino)) return fd;
  close(fd);
  return -ESTALE;
}

function isSame(field: number): boolean {
  return readU64(found.view, field) === readU64(expected.view, field);
}
