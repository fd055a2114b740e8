// The configuration of `vfs`: which directories are served at which paths of one tree. It comes
// from the command line, or from a file (vfs-config-file.ts).
//
// A mount has the options of `passthrough` that concern its directory alone. What is agreed with
// the kernel once, for all mounts together, is said on the command line (`ConnectionConfig`).
//
// Options are read in one way, from the command line or the file: a reader of `OptionValues` asks
// for them by name and type, and what nobody asked for is unknown.

import { composeIdMaps, IdMap, IdMapError, type IdMapOptions, type IdRange } from "./id-map.ts";
import {
  takeOverlayOptions,
  type OverlayConfig,
  type OverlayGiven,
  type OverlayOptions,
} from "./overlay-config.ts";
import { overlayName } from "./overlay-source.ts";
import {
  CACHE_POLICIES,
  ConfigError,
  FILE_HANDLES,
  passthroughConfig,
  type PassthroughConfig,
} from "./passthrough-config.ts";
import { isUtf8, pathComponents, VfsError } from "./vfs-path.ts";

/** A file system at a path of the tree. */
export type VfsMountConfig = PassthroughMountConfig | OverlayMountConfig;

interface MountConfig {
  /** Normalised absolute path in the tree: "/", "/a/b". */
  readonly path: string;
  readonly ids: IdMapOptions | undefined;
}

export interface PassthroughMountConfig extends MountConfig {
  readonly passthrough: PassthroughConfig;
  readonly overlay?: undefined;
}

export interface OverlayMountConfig extends MountConfig {
  readonly overlay: OverlayConfig;
  readonly passthrough?: undefined;
}

export interface VfsConfig {
  readonly mounts: readonly VfsMountConfig[];
  /** Of all mounts, on top of their own. */
  readonly ids: IdMapOptions | undefined;
}

/** What all mounts have in common, since it is agreed with the kernel once; undefined: default. */
export type ConnectionConfig = {
  readonly [
    Key in
      "writeback" | "xattr" | "noOpen" | "noOpendir" | "killprivV2" | "kernelPassthrough" | "locks"
  ]: PassthroughConfig[Key] | undefined;
};

/** What the command line says besides the file. */
export interface CommandLine {
  readonly connection: ConnectionConfig;
  readonly ids: IdMapOptions | undefined;
  /** How an option is given there, such as `--workers` or `-o ro`; undefined if it can't be. */
  readonly spelled: (name: string) => string | undefined;
}

/**
 * Options as they were given, by their names on the command line. What is not given is undefined. A
 * wrong value is refused: with an exception, or by remembering it and returning undefined.
 */
export interface OptionValues {
  switch(name: string): boolean | undefined;
  choice<Choice extends string>(name: string, choices: readonly Choice[]): Choice | undefined;
  seconds(name: string): number | undefined;
  whole(name: string, least: number, most: number): number | undefined;
  ranges(name: string): readonly IdRange[];
  /** Refuses an option's value for a reason of the caller's. */
  refuse(name: string, problem: string): void;
}

const ID_MAX = 2 ** 32 - 2;

/** The options of one directory. Throws ConfigError if they contradict each other. */
export function backendConfig(
  source: string,
  values: OptionValues,
  connection: ConnectionConfig,
  handleKey: string | null = null,
): PassthroughConfig {
  return passthroughConfig({
    source,
    handleKey,
    cache: values.choice("cache", CACHE_POLICIES),
    attrTimeout: values.seconds("attr-timeout"),
    entryTimeout: values.seconds("entry-timeout"),
    dirAttrTimeout: values.seconds("dir-attr-timeout"),
    dirEntryTimeout: values.seconds("dir-entry-timeout"),
    noReaddir: not(values.switch("readdir")),
    inodeFileHandles: values.choice("inode-file-handles", FILE_HANDLES),
    sealSize: values.switch("seal-size"),
    mntid: values.switch("mntid"),
    useHostIno: values.switch("use-host-ino"),
    allowDirectIo: values.switch("allow-direct-io"),
    daxFileSize: values.whole("dax-file-size", 0, Number.MAX_SAFE_INTEGER),
    ...connection,
  });
}

/** An overlay at `path`. `resolve` makes paths absolute. Throws ConfigError. */
export function overlayMount(
  path: string,
  overlay: OverlayOptions,
  resolve: (path: string) => string,
  defaults: OverlayGiven,
): OverlayMountConfig {
  const resolveValid = (directory: string): string => {
    validateDirectory("a layer", directory);
    return resolve(directory);
  };
  return { path, overlay: overlay.config(resolveValid, defaults), ids: overlay.ids() };
}

/** An overlay among other mounts, by a list as in the -o of `overlay`. Throws ConfigError. */
export function readOverlayMount(
  path: string,
  list: string,
  how: {
    /** Begins messages about an option. */
    readonly where: string;
    readonly resolve: (path: string) => string;
    readonly commandLine: CommandLine;
  },
): OverlayMountConfig {
  const { connection, ids, spelled } = how.commandLine;
  const { overlay, rest } = takeOverlayOptions([list], how.where);
  for (const item of rest) {
    const name = item.replace(/=.*$/s, "");
    const elsewhere = spelled(name.replaceAll("_", "-"));
    throw new ConfigError(
      elsewhere === undefined
        ? `unknown option ${JSON.stringify(item)} of an overlay`
        : `${how.where}${name} is the same for all mounts: give it as ${elsewhere}`,
    );
  }
  const { writeback, kernelPassthrough, xattr } = connection;
  const defaults = { writeback, kernelPassthrough, noxattrs: xattr === false };
  const mount = overlayMount(path, overlay, how.resolve, defaults);
  if (mount.overlay.nfsExport)
    throw new ConfigError(
      `${how.where}nfs_export=on is for an overlay that is mounted alone: leave it out`,
    );
  validateIds(mount.ids, ids);
  return mount;
}

export function connectionConfig(values: OptionValues): ConnectionConfig {
  return {
    writeback: values.switch("writeback"),
    xattr: values.switch("xattr"),
    noOpen: not(values.switch("open")),
    noOpendir: not(values.switch("opendir")),
    killprivV2: values.switch("killpriv-v2"),
    kernelPassthrough: values.switch("kernel-passthrough"),
    locks: values.switch("locks"),
  };
}

/** Undefined if ids stay as they are. */
export function idMapOptions(values: OptionValues): IdMapOptions | undefined {
  const [uids, gids] = [values.ranges("uid-map"), values.ranges("gid-map")];
  const squashUid = values.whole("squash-uid", 0, ID_MAX);
  const squashGid = values.whole("squash-gid", 0, ID_MAX);
  const options: IdMapOptions = { uids, gids, squashUid, squashGid };
  refuseIds(options, values, "");
  const none = uids.length === 0 && gids.length === 0;
  return none && squashUid === undefined && squashGid === undefined ? undefined : options;
}

/** What a mount shows, for a person: the directory that it is of. */
export function sourceName({ passthrough, overlay }: VfsMountConfig): string {
  return overlay === undefined ? passthrough.source : overlayName(overlay);
}

/** Throws ConfigError if a mount's own map and that of all mounts leave no id. */
export function validateIds(own: IdMapOptions | undefined, all: IdMapOptions | undefined): void {
  try {
    composeIdMaps(own, all);
  } catch (error) {
    if (!(error instanceof IdMapError)) throw error;
    throw new ConfigError(`its ids do not go with those of all mounts: ${error.message}`);
  }
}

/** Throws ConfigError if nothing can be mounted at a path in the tree. */
export function validatePath(path: string): void {
  try {
    pathComponents(path);
  } catch (error) {
    if (!(error instanceof VfsError)) throw error;
    throw new ConfigError(error.message);
  }
}

/** Throws ConfigError if no directory can have this path. `name` is what is given with it. */
export function validateDirectory(name: string, path: string): void {
  const quoted = JSON.stringify(path);
  if (path === "") throw new ConfigError(`${name} must not be empty: give the path of a directory`);
  if (path.includes("\0")) throw new ConfigError(`${name} ${quoted} has a NUL in it`);
  if (!isUtf8(path))
    throw new ConfigError(
      `${name} ${quoted} is not valid UTF-8; use it by a symbolic link whose path is`,
    );
}

/** Refuses users or groups whose ids can't be mapped so. `circumstance` begins the reason. */
export function refuseIds(options: IdMapOptions, values: OptionValues, circumstance: string): void {
  const { uids, gids, squashUid, squashGid } = options;
  for (const [name, kind] of [
    ["uid-map", { uids, gids: [], squashUid }],
    ["gid-map", { uids: [], gids, squashGid }],
  ] as const)
    try {
      new IdMap(kind);
    } catch (error) {
      if (!(error instanceof IdMapError)) throw error;
      values.refuse(name, `${circumstance}${error.message}`);
    }
}

/** Of an option that is also there as its opposite. */
export function not(value: boolean | undefined): boolean | undefined {
  return value === undefined ? undefined : !value;
}
