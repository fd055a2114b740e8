// The command `passthrough`: one directory.

import { resolve } from "node:path";
import { absolute, checkDirectories, daemonOptions, type ReadCommand } from "./cli-daemon.ts";
import { backendConfig, connectionConfig, idMapOptions } from "./vfs-config.ts";

export const passthroughOptions: ReadCommand = (positionals, given, settings, circumstances) => {
  checkDirectories(positionals, ["SRC", "MNT"]);
  const [source, mountpoint] = positionals as [string, string];
  const passthrough = backendConfig(absolute(source), given, connectionConfig(given));
  const fsname = circumstances.fsname ?? resolve(source);
  return {
    vfs: { mounts: [{ path: "/", passthrough, ids: idMapOptions(given) }], ids: undefined },
    reload: undefined,
    dynamic: false,
    ...daemonOptions(mountpoint, given, settings, { ...circumstances, fsname }),
  };
};
