// The command `vfs`: several directories under one mount point, by --mount or by a file.
//
// --mount PATH=passthrough:SRC[,OPTION…] is split at the first `=`, and what follows the colon as
// the lists of -o are: `-` or `_` within a name, a backslash before a comma that is meant. PATH is
// taken as it is; one with a `=` in it can only be in a file. An overlay is PATH=overlay:LIST, with
// a LIST as in the -o of `overlay`. Unlike with -o, which mount(8) adds to, nothing may be given
// twice.

import { absolute, checkDirectories, daemonOptions, type ReadCommand } from "./cli-daemon.ts";
import { isMountOption, readItem, setOption, splitAtCommas } from "./cli-mount-options.ts";
import { DIRECTORY_OPTIONS, MISPLACED_OPTIONS, VFS_OPTIONS } from "./cli-options.ts";
import { findOption, Given, UsageError } from "./cli-parse.ts";
import { MOUNTS_MAX } from "./limits.ts";
import { ConfigError } from "./passthrough-config.ts";
import {
  backendConfig,
  connectionConfig,
  idMapOptions,
  readOverlayMount,
  validateDirectory,
  validateIds,
  validatePath,
  type CommandLine,
  type VfsConfig,
  type VfsMountConfig,
} from "./vfs-config.ts";

const FSNAME = "fuse-backend-vfs";
/** Part of the command line that are not for all mounts, but say what the mounts are. */
const MOUNTS = ["mount", "config", "help", "version"];

export const vfsOptions: ReadCommand = (positionals, given, settings, circumstances) => {
  refuseMisplaced(given);
  checkDirectories(positionals, ["MNT"]);
  const [mountpoint] = positionals as [string];
  const mounts = given.list("mount");
  const file = given.text("config");
  const connection = connectionConfig(given);
  // What the kernel reads and writes by itself it goes on with when the mount is gone.
  const byDefault = file === undefined ? undefined : false;
  const kernelPassthrough = connection.kernelPassthrough ?? byDefault;
  const commandLine: CommandLine = {
    connection: { ...connection, kernelPassthrough },
    ids: idMapOptions(given),
    spelled,
  };
  if (file !== undefined && mounts.length > 0)
    throw new UsageError("--mount and --config exclude each other: add the mounts to the file");
  if (file === undefined && mounts.length === 0)
    throw new UsageError(
      "there is nothing to serve: give --mount PATH=passthrough:SRC or --config FILE",
    );
  const fsname = circumstances.fsname ?? FSNAME;
  const options = daemonOptions(mountpoint, given, settings, { ...circumstances, fsname });
  if (file === undefined)
    return { vfs: readMounts(mounts, commandLine), reload: undefined, dynamic: true, ...options };
  // A daemon in the background leaves its directory, and may have to read the file again.
  const path = absolute(file);
  const read = (): VfsConfig => readConfigFile(path, commandLine);
  const common = commandLine.connection;
  return { vfs: read(), reload: read, dynamic: true, common, ...options };
};

function refuseMisplaced(given: Given): void {
  for (const { name } of MISPLACED_OPTIONS) {
    const written = given.spelled(name);
    if (written === undefined) continue;
    const bare = written.replace(/^(--|-o )/, "");
    throw new UsageError(
      `${written} is for one mount: give it as --mount PATH=passthrough:SRC,${bare}… ` +
        "or in the file of --config",
    );
  }
}

/** How an option that is for all mounts is given on the command line. */
function spelled(name: string): string | undefined {
  if (isMountOption(name)) return `-o ${name}`;
  const { option } = findOption(name, VFS_OPTIONS);
  return option === undefined || MOUNTS.includes(option.name) ? undefined : `--${name}`;
}

function readConfigFile(path: string, commandLine: CommandLine): VfsConfig {
  // What reads and parses it is loaded only where there is one: the start is to be quick.
  const { readFileSync } = process.getBuiltinModule("node:fs");
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new ConfigError(`cannot read the configuration ${path}: ${(error as Error).message}`);
  }
  const { parseVfsConfig } =
    require("./vfs-config-file.ts") as typeof import("./vfs-config-file.ts");
  return parseVfsConfig(text, path, commandLine);
}

function readMounts(texts: readonly string[], commandLine: CommandLine): VfsConfig {
  if (texts.length > MOUNTS_MAX)
    throw new UsageError(`--mount is given ${texts.length} times; ${MOUNTS_MAX} are the most`);
  const mounts = new Map<string, VfsMountConfig>();
  for (const text of texts) {
    const mount = readMount(text, commandLine);
    if (mounts.has(mount.path)) throw new UsageError(`--mount ${mount.path} is given twice`);
    mounts.set(mount.path, mount);
  }
  return { mounts: [...mounts.values()], ids: commandLine.ids };
}

function readMount(text: string, commandLine: CommandLine): VfsMountConfig {
  const [, path, rest] = /^([^=]*)=(.*)$/s.exec(text) ?? [];
  const [, backend, list] = /^([^:,]*):(.*)$/s.exec(rest ?? "") ?? [];
  if (path === undefined || backend === undefined || list === undefined)
    throw new UsageError(
      `--mount must be PATH=passthrough:SRC[,OPTION...], such as /data=passthrough:/srv/data, ` +
        `not "${text}"`,
    );
  const where = `--mount ${path}: `;
  try {
    validatePath(path);
    if (backend === "overlay")
      return readOverlayMount(path, list, { where, resolve: absolute, commandLine });
    if (backend !== "passthrough")
      throw new UsageError(`unknown backend "${backend}"; there are "passthrough" and "overlay"`);
    const [source = "", ...items] = splitAtCommas(list);
    validateDirectory("SRC", source);
    const given = readDirectoryOptions(items, where);
    const passthrough = backendConfig(absolute(source), given, commandLine.connection);
    const ids = idMapOptions(given);
    validateIds(ids, commandLine.ids);
    return { path, passthrough, ids };
  } catch (error) {
    if (!(error instanceof ConfigError || error instanceof UsageError)) throw error;
    // What is said of an option begins with that already.
    if (error.message.startsWith(where)) throw error;
    throw new UsageError(`${where}${error.message}`);
  }
}

function readDirectoryOptions(items: readonly string[], where: string): Given {
  const given = new Given();
  for (const text of items) {
    const item = readItem(text);
    const { option, positive } = findOption(item.name, DIRECTORY_OPTIONS);
    if (option === undefined) {
      const elsewhere = spelled(item.name);
      throw new UsageError(
        elsewhere === undefined
          ? `unknown option "${text}"; a comma that belongs to SRC is written \\,`
          : `${item.spelled} is the same for all mounts: give it as ${elsewhere}`,
      );
    }
    if (!option.repeatable && given.has(option.name))
      throw new UsageError(`${item.spelled} is given twice`);
    setOption(given, option, positive, item, where);
  }
  return given;
}
