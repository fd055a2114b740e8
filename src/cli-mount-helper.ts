// Called by mount(8) as mount.fuse.NAME: `SRC MNT [-sfnv] [-o LIST] [-t TYPE]`. It returns when the
// mount answers, with the daemon in the background.

import { readMountOptions, type MountSettings } from "./cli-mount-options.ts";
import { GLOBAL_OPTIONS, MOUNT_OPTIONS, PASSTHROUGH_OPTIONS, type Option } from "./cli-options.ts";
import { parseArguments } from "./cli-parse.ts";
import { passthroughOptions } from "./cli-passthrough.ts";
import type { DaemonOptions } from "./daemon.ts";
import { remount } from "./mount.ts";
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
 * NAME of `mount.fuse.NAME`, "" for `mount.fuse`, undefined if the program was called by another
 * name.
 */
export function mountHelperName(invokedAs: string): string | undefined {
  const name = invokedAs.slice(invokedAs.lastIndexOf("/") + 1);
  return /^mount\.fuse3?(?:\.(.*))?$/s
    .exec(name)
    ?.slice(1)
    .map((suffix) => suffix ?? "")[0];
}

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
  const lists = given.list("options");
  const daemonGiven = readMountOptions(lists, settings, PASSTHROUGH_OPTIONS, given.has("sloppy"));
  const subtype = /^fuse\.(.+)$/s.exec(given.text("type") ?? "")?.[1] ?? name;
  const options = passthroughOptions(positionals, daemonGiven, settings, {
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
