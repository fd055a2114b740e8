// The command `overlay`: layers seen as one directory. Its options are the kernel's and those of
// fuse-overlayfs, within -o (see overlay-config.ts).
//
// Called by a name that ends in `overlay` or `overlayfs`, as by a link, the program takes arguments
// as fuse-overlayfs does, so that it can be the mount_program of containers-storage: `-o LIST MNT`,
// in the background, with set-user-id bits and for everybody if root mounts it.

import { absolute, checkDirectories, daemonOptions, type ReadCommand } from "./cli-daemon.ts";
import { readMountOptions, type MountSettings } from "./cli-mount-options.ts";
import { LINK_OPTIONS } from "./cli-options.ts";
import { parseArguments, UsageError } from "./cli-parse.ts";
import type { DaemonOptions } from "./daemon.ts";
import { takeOverlayOptions, type OverlayOptions } from "./overlay-config.ts";
import { geteuid } from "./syscall.ts";
import { overlayMount } from "./vfs-config.ts";

const FSNAME = "overlay";

/** Reads the rest of the command line, once the options of the overlay itself are taken out. */
export function overlayOptions(overlay: OverlayOptions): ReadCommand {
  return (positionals, given, settings, circumstances) => {
    // A name that is shown as the source may come first, as with mount(8).
    const names = positionals.length > 1 ? ["NAME", "MNT"] : ["MNT"];
    checkDirectories(positionals, names);
    const mountpoint = positionals.at(-1)!;
    const name = positionals.length > 1 ? positionals[0] : undefined;
    const kernelPassthrough = given.switch("kernel-passthrough");
    const mount = overlayMount("/", overlay, absolute, { kernelPassthrough });
    const fsname = name ?? circumstances.fsname ?? FSNAME;
    // Without an upper layer nothing can be changed; the kernel's overlayfs is read-only then, too.
    const readOnly = settings.readOnly === true || mount.overlay.upper === undefined;
    return {
      vfs: { mounts: [mount], ids: undefined },
      reload: undefined,
      dynamic: false,
      ...daemonOptions(mountpoint, given, { ...settings, readOnly }, { ...circumstances, fsname }),
    };
  };
}

/** The arguments of a program that is called `name`, as fuse-overlayfs takes them. */
export function readOverlayLink(
  name: string,
  args: readonly string[],
): "help" | "version" | DaemonOptions {
  const { positionals, given, asks } = parseArguments(args, LINK_OPTIONS);
  if (asks !== undefined) return asks;
  const isRoot = geteuid() === 0;
  const settings: MountSettings = {
    extraFlags: 0,
    allowOther: isRoot,
    suid: isRoot,
    noatime: true,
  };
  const { overlay, rest } = takeOverlayOptions(given.list("options"), "-o ");
  given.add(readMountOptions(rest, settings, LINK_OPTIONS));
  if (settings.remount === true) throw new UsageError("-o remount is for mount(8)");
  const foreground = given.has("foreground") || given.switch("debug") === true;
  return overlayOptions(overlay)(positionals, given, settings, {
    fsname: name,
    subtype: name,
    privileges: false,
    background: !foreground,
    logLevel: foreground ? "info" : "warn",
  });
}
