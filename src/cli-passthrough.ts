// The command `passthrough`: from its arguments to the options of the daemon.

import { resolve } from "node:path";
import { absolute, checkPath, daemonOptions, type Circumstances } from "./cli-daemon.ts";
import type { MountSettings } from "./cli-mount-options.ts";
import { UsageError, type Given } from "./cli-parse.ts";
import type { DaemonOptions } from "./daemon.ts";
import { backendConfig, connectionConfig, idMapOptions } from "./vfs-config.ts";

/** Throws UsageError or ConfigError. */
export function passthroughOptions(
  positionals: readonly string[],
  given: Given,
  settings: MountSettings,
  circumstances: Circumstances,
): DaemonOptions {
  const [source, mountpoint] = sourceAndMountpoint(positionals);
  const passthrough = backendConfig(absolute(source), given, connectionConfig(given));
  const mounts = [{ path: "/", passthrough, ids: idMapOptions(given) }];
  return daemonOptions(
    { vfs: { mounts, ids: undefined }, reload: undefined, dynamic: false },
    mountpoint,
    given,
    settings,
    { ...circumstances, fsname: circumstances.fsname ?? resolve(source) },
  );
}

function sourceAndMountpoint(positionals: readonly string[]): [string, string] {
  const [source, mountpoint, surplus] = positionals;
  if (source === undefined) throw new UsageError("SRC and MNT are missing");
  if (mountpoint === undefined) throw new UsageError("MNT is missing");
  if (surplus !== undefined)
    throw new UsageError(`there is more than SRC and MNT, namely "${surplus}"`);
  for (const path of [source, mountpoint]) checkPath("SRC and MNT", path);
  return [source, mountpoint];
}
