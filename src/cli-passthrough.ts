// The command `passthrough`: one directory.

import { resolve } from "node:path";
import { absolute, checkDirectories, daemonOptions, type ReadCommand } from "./cli-daemon.ts";
import { readHandleKey } from "./cli-handle-key.ts";
import { backendConfig, connectionConfig, idMapOptions } from "./vfs-config.ts";

export const passthroughOptions: ReadCommand = (positionals, given, settings, circumstances) => {
  checkDirectories(positionals, ["SRC", "MNT"]);
  const [source, mountpoint] = positionals as [string, string];
  const keyFile = given.text("handle-key");
  const handleKey =
    keyFile === undefined ? null : readHandleKey(absolute(keyFile), absolute(source));
  const passthrough = backendConfig(absolute(source), given, connectionConfig(given), handleKey);
  const fsname = circumstances.fsname ?? resolve(source);
  return {
    vfs: { mounts: [{ path: "/", passthrough, ids: idMapOptions(given) }], ids: undefined },
    reload: undefined,
    dynamic: false,
    ...daemonOptions(mountpoint, given, settings, { ...circumstances, fsname }),
  };
};
