// Called by mount(8) as mount.fuse.NAME: `SRC MNT [-sfnv] [-o LIST] [-t TYPE]`. It returns when the
// mount answers, with the daemon in the background. With lowerdir in the list it is an overlay, and
// SRC is but its name.

import type { ReadCommand } from "./cli-daemon.ts";
import { readMountOptions, type MountSettings } from "./cli-mount-options.ts";
import { overlayLinkName } from "./cli-names.ts";
import {
  GLOBAL_OPTIONS,
  MOUNT_OPTIONS,
  OVERLAY_OPTIONS,
  PASSTHROUGH_OPTIONS,
  type Option,
} from "./cli-options.ts";
import { overlayOptions } from "./cli-overlay.ts";
import { parseArguments } from "./cli-parse.ts";
import { passthroughOptions } from "./cli-passthrough.ts";
import type { DaemonOptions } from "./daemon.ts";
import { remount } from "./mount.ts";
import { splitOverlayList, takeOverlayOptions } from "./overlay-config.ts";
import { geteuid } from "./syscall.ts";

/** What mount(8) may give. */
const HELPER_OPTIONS: readonly Option[] = [
  MOUNT_OPTIONS,
  { name: "sloppy", short: "s", commandLineOnly: true, help: "Ignore unknown mount options." },
  { name: "fake", short: "f", commandLineOnly: true, help: "Do everything but mount." },
  { name: "no-mtab", short: "n", commandLineOnly: true, help: "Do not write /etc/mtab." },
  { name: "verbose", short: "v", commandLineOnly: true, help: "Say what is done." },
  { name: "type", short: "t", value: "TYPE", commandLineOnly: true, help: "The type." },
  ...GLOBAL_OPTIONS,
];

/**
 * Whether the arguments ask for help or the version, else the daemon to start; undefined if there
 * is none.
 */
export function readMountHelper(
  name: string,
  args: readonly string[],
): "help" | "version" | DaemonOptions | undefined {
  const { positionals, given, asks } = parseArguments(args, HELPER_OPTIONS);
  if (asks !== undefined) return asks;
  const settings: MountSettings = { extraFlags: 0 };
  const { lists, table, read } = readLists(name, given.list("options"));
  const daemonGiven = readMountOptions(lists, settings, table, given.has("sloppy"));
  const subtype = /^fuse\.(.+)$/s.exec(given.text("type") ?? "")?.[1] ?? name;
  const options = read(positionals, daemonGiven, settings, {
    ...(positionals[0] === undefined ? {} : { fsname: positionals[0] }),
    ...(subtype === "" ? {} : { subtype }),
    // As with every file system that root mounts by mount(8), which itself says nosuid and nodev
    // for a user.
    privileges: geteuid() === 0,
    background: true,
    logLevel: given.has("verbose") ? "info" : "warn",
  });
  if (given.has("fake")) return undefined;
  if (settings.remount !== true) return options;
  remount(options.mount);
  return undefined;
}

const OVERLAY = /^lowerdir\+?=/;

/** What is served, and what of the lists says how it is mounted. */
function readLists(
  name: string,
  lists: readonly string[],
): { lists: readonly string[]; table: readonly Option[]; read: ReadCommand } {
  const isOverlay = lists.flatMap(splitOverlayList).some((item) => OVERLAY.test(item));
  if (!isOverlay && overlayLinkName(name) === undefined)
    return { lists, table: PASSTHROUGH_OPTIONS, read: passthroughOptions };
  const { overlay, rest } = takeOverlayOptions(lists, "-o ");
  return { lists: rest, table: OVERLAY_OPTIONS, read: overlayOptions(overlay) };
}
