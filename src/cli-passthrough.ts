// The command `passthrough`: one directory.

import { absolute, checkDirectories, daemonOptions, type ReadCommand } from "./cli-daemon.ts";
import { backendConfig, connectionConfig, idMapOptions } from "./vfs-config.ts";

export const passthroughOptions: ReadCommand = (positionals, given, settings, circumstances) => {
  checkDirectories(positionals, ["SRC", "MNT"]);
  const [source, mountpoint] = positionals as [string, string];
  const path = absolute(source);
  const keyFile = given.text("handle-key");
  const handleKey =
    keyFile === undefined ? null : handleKeyModule().readHandleKey(absolute(keyFile), path);
  const passthrough = backendConfig(path, given, connectionConfig(given), handleKey);
  const fsname = circumstances.fsname ?? shown(path);
  return {
    vfs: { mounts: [{ path: "/", passthrough, ids: idMapOptions(given) }], ids: undefined },
    reload: undefined,
    dynamic: false,
    ...daemonOptions(mountpoint, given, settings, { ...circumstances, fsname }),
  };
};

/** How an absolute path is shown. What removes `..` is loaded only where there is some. */
function shown(path: string): string {
  const isClean = !/\/\.{0,2}(?=\/|$)/.test(path);
  return isClean ? path : process.getBuiltinModule("node:path").resolve(path);
}

/** Loaded only where there is a key: the start is to be quick. */
function handleKeyModule(): typeof import("./cli-handle-key.ts") {
  return require("./cli-handle-key.ts");
}
