// Opening the directory that is served.
//
// Access times are the host's to keep, by the options of the mount that the source lies on. Where
// our own mount is told otherwise (noatime, strictatime, nodiratime), the source is opened through
// a private copy of its mount that has these options.

import {
  AT_EMPTY_PATH,
  AT_FDCWD,
  AT_RECURSIVE,
  MOUNT_ATTR__ATIME,
  MOUNT_ATTR_NOATIME,
  MOUNT_ATTR_NODIRATIME,
  MOUNT_ATTR_STRICTATIME,
  O_CLOEXEC,
  O_DIRECTORY,
  O_PATH,
  OPEN_TREE_CLOEXEC,
  OPEN_TREE_CLONE,
  mount_attr,
} from "./abi-linux.ts";
import { errnoMessage } from "./errno.ts";
import { log } from "./log.ts";
import { cstring, passingString, smallMemory } from "./memory.ts";
import { ConfigError } from "./passthrough-config.ts";
import { writeU64 } from "./request.ts";
import { close, geteuid, mount_setattr, open_tree, openat } from "./syscall.ts";

const argument = smallMemory(mount_attr.sizeof);
const EMPTY = cstring("");

/** When access times change. What is not set is as on the mount of the source. */
export interface AccessTimes {
  readonly noatime: boolean;
  readonly strictatime: boolean;
  readonly nodiratime: boolean;
}

/** An O_PATH descriptor of the directory. Throws ConfigError. */
export function openSource(source: string, times?: AccessTimes): number {
  // Only root may copy a mount.
  const wanted = times === undefined || geteuid() !== 0 ? 0 : timesAttributes(times);
  if (wanted !== 0) {
    const root = openMountCopy(source, wanted, 0, AT_RECURSIVE);
    if (root >= 0) return root;
    const why = errnoMessage(root);
    log.warn(`access times change as on the mount of ${source}, which can't be copied: ${why}`);
  }
  const root = openat(AT_FDCWD, passingString(source), O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  if (root >= 0) return root;
  throw new ConfigError(`cannot open the source directory ${source}: ${errnoMessage(root)}`);
}

/** MOUNT_ATTR_* of a mount whose access times change so. */
export function timesAttributes(times: AccessTimes): number {
  return (
    (times.noatime ? MOUNT_ATTR_NOATIME : times.strictatime ? MOUNT_ATTR_STRICTATIME : 0) |
    (times.nodiratime ? MOUNT_ATTR_NODIRATIME : 0)
  );
}

/**
 * A descriptor of the root of a copy of the mount that a directory lies on, from there on, with the
 * attributes `wanted` (MOUNT_ATTR_*) and without those `unwanted`; `below` is AT_RECURSIVE to have
 * the mounts below copied too. The copy is mounted nowhere, and goes with its last descriptor.
 * Returns -errno if that is not allowed.
 */
export function openMountCopy(path: string, wanted: number, unwanted = 0, below = 0): number {
  const flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | below;
  const root = open_tree(AT_FDCWD, passingString(path), flags);
  if (root < 0) return root;
  argument.bytes.fill(0);
  writeU64(argument.view, mount_attr.attr_set, wanted);
  const isTimed = (wanted & (MOUNT_ATTR_NOATIME | MOUNT_ATTR_STRICTATIME)) !== 0;
  const cleared = unwanted | (isTimed ? MOUNT_ATTR__ATIME : 0);
  writeU64(argument.view, mount_attr.attr_clr, cleared);
  const { address } = argument;
  const all = AT_EMPTY_PATH | below;
  const result = mount_setattr(root, EMPTY.address, all, address, mount_attr.sizeof);
  if (result === 0) return root;
  close(root);
  return result;
}
