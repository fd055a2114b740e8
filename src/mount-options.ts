// What a mount is told: the options of mount(8) and of fuse that the kernel or fusermount3 carries
// out.

import {
  MS_DIRSYNC,
  MS_NOATIME,
  MS_NODEV,
  MS_NOEXEC,
  MS_NOSUID,
  MS_RDONLY,
  MS_RELATIME,
  MS_SYNCHRONOUS,
} from "./abi-linux.ts";

/** How a mount is made: the fuse options and where. */
export interface MountOptions {
  readonly mountpoint: string;
  /** Shown as the source of the mount in /proc/mounts. The default is the source directory. */
  readonly fsname: string;
  /** Shown as `fuse.SUBTYPE`. The default is "fuse-backend". */
  readonly subtype: string;
  readonly allowOther: boolean;
  readonly autoUnmount: boolean;
  readonly readOnly: boolean;
  readonly suid: boolean;
  readonly dev: boolean;
  readonly exec: boolean;
  readonly noatime: boolean;
  /** The largest read in bytes; 0 for the kernel's default. */
  readonly maxRead: number;
  /**
   * Further options handed to the kernel as they are (`sync`, `dirsync`, `nodiratime`,
   * `relatime`…): MS_* bits.
   */
  readonly extraFlags: number;
  /** Labels of SELinux (`context="…"`), which the kernel takes as options. The default is none. */
  readonly labels?: readonly string[] | undefined;
  /** The helper for users who are not root. The default is fusermount3 on the PATH. */
  readonly fusermount: string | undefined;
  /** Mount in the mount namespace of this process. */
  readonly mountNamespacePid: number | undefined;
  /** Clean up a dead mount at the mountpoint first. */
  readonly replace: boolean;
}

/** Options of a mount at `mountpoint`, with defaults as fuse users know them. */
export function mountOptions(
  mountpoint: string,
  given: Partial<Omit<MountOptions, "mountpoint">> = {},
): MountOptions {
  return {
    mountpoint,
    fsname: "fuse-backend",
    subtype: "fuse-backend",
    allowOther: false,
    autoUnmount: false,
    readOnly: false,
    suid: false,
    dev: false,
    exec: true,
    noatime: false,
    maxRead: 0,
    extraFlags: 0,
    fusermount: undefined,
    mountNamespacePid: undefined,
    replace: false,
    ...given,
  };
}

/** Something that a person has to put right before there can be a mount. */
export class MountError extends Error {
  override name = "MountError";
}

export function mountType(options: MountOptions): string {
  return `fuse.${options.subtype}`;
}

/** The MS_* flags of mount(2). */
export function mountFlags(options: MountOptions): number {
  return (
    options.extraFlags |
    (options.readOnly ? MS_RDONLY : 0) |
    (options.suid ? 0 : MS_NOSUID) |
    (options.dev ? 0 : MS_NODEV) |
    (options.exec ? 0 : MS_NOEXEC) |
    (options.noatime ? MS_NOATIME : 0)
  );
}

/**
 * The options of the file system that the kernel's fuse reads, besides the descriptor and its
 * owner.
 */
export function fuseOptions(options: MountOptions): string[] {
  // The kernel checks permissions by mode, owner and ACL, as on the directory that is served.
  const list = ["default_permissions"];
  if (options.allowOther) list.push("allow_other");
  if (options.maxRead > 0) list.push(`max_read=${options.maxRead}`);
  list.push(...(options.labels ?? []));
  return list;
}

// fusermount3 knows these of the flags that have no option of their own here; relatime is what it
// does anyway.
const HELPER_FLAGS = MS_SYNCHRONOUS | MS_DIRSYNC | MS_RELATIME;

/** The `-o` list that fusermount3 is given. */
export function helperOptions(options: MountOptions): string[] {
  if ((options.extraFlags & ~HELPER_FLAGS) !== 0)
    throw new MountError(
      "fusermount3 cannot set nodiratime, strictatime or nosymfollow: " +
        "leave them out, or mount as root",
    );
  const list = [
    options.readOnly ? "ro" : "rw",
    options.suid ? "suid" : "nosuid",
    options.dev ? "dev" : "nodev",
    options.exec ? "exec" : "noexec",
    ...fuseOptions(options),
    `fsname=${escapeOption(options.fsname)}`,
    `subtype=${escapeOption(options.subtype)}`,
  ];
  if (options.noatime) list.push("noatime");
  if ((options.extraFlags & MS_SYNCHRONOUS) !== 0) list.push("sync");
  if ((options.extraFlags & MS_DIRSYNC) !== 0) list.push("dirsync");
  return list;
}

function escapeOption(text: string): string {
  return text.replace(/[\\,]/g, "\\$&");
}
