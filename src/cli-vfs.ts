// The command `vfs`: from its arguments, and its configuration file, to the options of the daemon.

import { readFileSync } from "node:fs";
import { absolute, checkPath, daemonOptions, type Circumstances } from "./cli-daemon.ts";
import { setOption, splitList, type MountSettings } from "./cli-mount-options.ts";
import { VFS_MOUNT_OPTIONS, VFS_OPTIONS } from "./cli-options.ts";
import { findOption, Given, UsageError } from "./cli-parse.ts";
import type { DaemonOptions } from "./daemon.ts";
import { MOUNTS_MAX } from "./limits.ts";
import { ConfigError } from "./passthrough-config.ts";
import {
  backendConfig,
  connectionConfig,
  idMapOptions,
  parseVfsConfig,
  validateDirectory,
  validateIds,
  validatePath,
  type CommandLine,
  type VfsConfig,
  type VfsMountConfig,
} from "./vfs-config.ts";

const FSNAME = "fuse-backend-vfs";
const BACKEND = "passthrough:";

/** Throws UsageError or ConfigError. */
export function vfsOptions(
  positionals: readonly string[],
  given: Given,
  settings: MountSettings,
  circumstances: Circumstances,
): DaemonOptions {
  const [mountpoint, surplus] = positionals;
  if (mountpoint === undefined) throw new UsageError("MNT is missing");
  if (surplus !== undefined) throw new UsageError(`there is more than MNT, namely "${surplus}"`);
  checkPath("MNT", mountpoint);
  const { vfs, reload } = whatToServe(given);
  return daemonOptions({ vfs, reload, dynamic: true }, mountpoint, given, settings, {
    ...circumstances,
    fsname: circumstances.fsname ?? FSNAME,
  });
}

function whatToServe(given: Given): Pick<DaemonOptions, "vfs" | "reload"> {
  const texts = given.list("mount");
  const file = given.text("config");
  // What the kernel reads and writes by itself it goes on with when the mount is gone.
  const kernelPassthrough =
    given.switch("kernel-passthrough") ?? (file === undefined ? undefined : false);
  const connection = { ...connectionConfig(given), kernelPassthrough };
  const commandLine: CommandLine = { connection, ids: idMapOptions(given), spelled };
  if (file !== undefined && texts.length > 0)
    throw new UsageError("--config and --mount exclude each other: put all mounts into the file");
  if (file !== undefined) {
    checkPath("--config", file);
    const read = (): VfsConfig => readConfig(absolute(file), commandLine);
    return { vfs: read(), reload: read };
  }
  if (texts.length === 0)
    throw new UsageError(
      "what to serve is missing: give --mount PATH=passthrough:DIR, or --config",
    );
  if (texts.length > MOUNTS_MAX)
    throw new UsageError(`--mount is given ${texts.length} times; ${MOUNTS_MAX} are the most`);
  const mounts = texts.map((text) => readMount(text, commandLine));
  const twice = mounts.find(({ path }, index) => mounts.findIndex((m) => m.path === path) < index);
  if (twice !== undefined) throw new UsageError(`--mount: two are at ${twice.path}`);
  return { vfs: { mounts, ids: commandLine.ids }, reload: undefined };
}

/** How what is not for a single mount is given on the command line. */
function spelled(name: string): string | undefined {
  if (findOption(name, VFS_OPTIONS).option !== undefined) return `--${name}`;
  return name === "ro" || name === "allow-other" ? `-o ${name}` : undefined;
}

function readConfig(file: string, commandLine: CommandLine): VfsConfig {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new ConfigError(`cannot read the configuration: ${(error as Error).message}`);
  }
  return parseVfsConfig(text, file, commandLine);
}

/** PATH=passthrough:DIR[,OPTION[=VALUE]...] */
function readMount(text: string, commandLine: CommandLine): VfsMountConfig {
  const where = `--mount ${text}`;
  const [first = "", ...options] = splitList(text);
  const equals = first.indexOf("=");
  const path = first.slice(0, Math.max(0, equals));
  const backend = first.slice(equals + 1);
  if (equals < 0 || !backend.startsWith(BACKEND))
    throw new UsageError(`${where}: this must be PATH=passthrough:DIR[,OPTION...]`);
  try {
    validatePath(path);
    const directory = backend.slice(BACKEND.length);
    validateDirectory("DIR", directory);
    const given = readOptions(options);
    const passthrough = backendConfig(absolute(directory), given, commandLine.connection);
    const ids = idMapOptions(given);
    validateIds(ids, commandLine.ids);
    return { path, passthrough, ids };
  } catch (error) {
    if (error instanceof UsageError) throw new UsageError(`${where}: ${error.message}`);
    if (error instanceof ConfigError) throw new ConfigError(`${where}: ${error.message}`);
    throw error;
  }
}

function readOptions(items: readonly string[]): Given {
  const given = new Given();
  for (const item of items) {
    const own = new Given();
    if (setOption(own, item, VFS_MOUNT_OPTIONS, "")) {
      given.add(own);
      continue;
    }
    const name = item.replace(/=.*$/s, "").replaceAll("_", "-");
    const elsewhere = spelled(name);
    throw new UsageError(
      elsewhere === undefined
        ? `unknown option ${item}`
        : `${name} is the same for all mounts: give ${elsewhere} by itself`,
    );
  }
  return given;
}
