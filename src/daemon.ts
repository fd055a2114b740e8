// The daemon (see below).
import type { Format, Level } from "./log.ts";
import type { PassthroughConfig } from "./passthrough-config.ts";

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
  /** Further options handed to the kernel as they are (`sync`, `dirsync`, `nodiratime`, `relatime`…): MS_* bits. */
  readonly extraFlags: number;
  /** The helper for users who are not root. The default is fusermount3 on the PATH. */
  readonly fusermount: string | undefined;
  /** Mount in the mount namespace of this process. */
  readonly mountNamespacePid: number | undefined;
  /** Clean up a dead mount at the mountpoint first. */
  readonly replace: boolean;
}

/** Everything that `fuse-backend passthrough` was told. */
export interface DaemonOptions {
  readonly passthrough: PassthroughConfig;
  readonly mount: MountOptions;
  readonly workers: number;
  readonly background: boolean;
  readonly pidFile: string | undefined;
  readonly logLevel: Level;
  readonly logFormat: Format;
  readonly debug: boolean;
  /** Seconds, 0 for never. */
  readonly requestTimeout: number;
}
