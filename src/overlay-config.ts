// The options of an overlay, with their defaults and the rules between them; fs/overlayfs/params.c
// of the kernel. All values are plain data, so that a configuration can be handed to the workers.
//
// They are read from lists such as mount(8) has them, with the names that the kernel and
// fuse-overlayfs use:
//
//     lowerdir=/top:/below::/data,upperdir=/u,workdir=/w,redirect_dir=on,volatile
//
// A backslash takes from the character behind it what it would mean: `\,` is a comma in a path,
// `\:` a colon, `\\` a backslash. `:` separates layers, the topmost first, and `::` comes before
// each layer that has only the data of metadata copies. `lowerdir+=` and `datadir+=` give one layer
// each, in which a colon is a colon.

import {
  composeIdMaps,
  IdMapError,
  parseIdRange,
  type IdMapOptions,
  type IdRange,
} from "./id-map.ts";
import { OVERLAY_LAYERS_MAX } from "./limits.ts";
import { ConfigError } from "./passthrough-config.ts";

/**
 * Renames of directories that have something in a lower layer.
 *
 * - `on`: the new name says where the rest is (`redirect` attributes are made and followed).
 * - `follow`: not possible (EXDEV), but what others have renamed so is found.
 * - `nofollow`: not possible, and what has a `redirect` can't be used (EPERM).
 */
export type RedirectDir = "on" | "follow" | "nofollow";
const REDIRECT_DIR = ["on", "follow", "nofollow", "off"] as const;

/** Inode numbers that stay from mount to mount: or nothing, otherwise as far as possible. */
export type Xino = "on" | "off" | "auto";
const XINO = ["on", "off", "auto"] as const;

/** Whether the overlay has an identity of its own, stored in the upper layer. */
export type OverlayUuid = "auto" | "on" | "null" | "off";
const UUID = ["auto", "on", "null", "off"] as const;

/**
 * Where owner and mode of a file are: in the inode (0), or in an attribute, for upper file systems
 * where the inode can't have them: as root `security.fuseoverlayfs.override_stat` (1), or
 * `user.fuseoverlayfs.override_stat` (2).
 */
export type XattrPermissions = 0 | 1 | 2;

/** What may have been asked for by name; otherwise it is given up where it can't be had. */
export type OverlayFeature = "redirectDir" | "index" | "metacopy" | "xino" | "uuid" | "userxattr";

export interface OverlayConfig {
  /** The lower layers, the topmost first; absolute paths. At least one. */
  readonly lower: readonly string[];
  /** Layers below these that nothing is looked up in: they have data that metacopies refer to. */
  readonly data: readonly string[];
  /** Where changes go. Without it nothing can be changed. */
  readonly upper: string | undefined;
  /** A directory on the same file system as `upper`, for what is not ready; set if that is. */
  readonly work: string | undefined;
  /** The default is "on" with an upper layer, otherwise "follow"; with `userxattr` "nofollow". */
  readonly redirectDir: RedirectDir;
  /** Hard links stay hard links when they are copied up. The default is false. */
  readonly index: boolean;
  /**
   * File handles of the mount outlive the daemon. The default is false; with it `index` is true and
   * `metacopy` false.
   */
  readonly nfsExport: boolean;
  /** A change of metadata copies no data up. The default is false. */
  readonly metacopy: boolean;
  /** The default is "auto". */
  readonly xino: Xino;
  /**
   * The overlay's own attributes are `user.overlay.*` instead of `trusted.overlay.*`. The default
   * is false, until it turns out that the latter can't be had (see overlay-source.ts).
   */
  readonly userxattr: boolean;
  /** Nothing is synchronised, and the upper layer is no good after a crash. Default false. */
  readonly volatile: boolean;
  /** fsync(2) and the like reach the upper layer. The default is true, with `volatile` false. */
  readonly fsync: boolean;
  /** The default is "auto". */
  readonly uuid: OverlayUuid;
  /** How long the kernel may keep names and attributes, in seconds. The default is 86400. */
  readonly timeout: number;
  /** Directories have one link, so that nobody has to count. The default is false. */
  readonly staticNlink: boolean;
  /** No POSIX ACLs. The default is false, with `noxattrs` true. */
  readonly noacl: boolean;
  /** Users of the mount have no extended attributes. The default is false. */
  readonly noxattrs: boolean;
  /** The kernel collects writes. Excludes FUSE passthrough. The default is false. */
  readonly writeback: boolean;
  /** Reads and writes of open files go past the server. The default is true without writeback. */
  readonly kernelPassthrough: boolean;
  /** The default is 0. */
  readonly xattrPermissions: XattrPermissions;
  /** Directories may be listed with the inode numbers that lie there. The default is false. */
  readonly fastIno: boolean;
  /**
   * `.wh.NAME` and `.wh..wh..opq` in a layer hide NAME and everything below, as AUFS has it:
   * so containers-storage unpacks images for a mount program. The default is true.
   */
  readonly aufsWhiteouts: boolean;
  /** What was asked for by name, and must not be given up. */
  readonly explicit: readonly OverlayFeature[];
}

/** The default of redirect_dir is the mount's; "off" is as in Debian's kernels. */
export type OverlayGiven = {
  readonly [Key in Exclude<keyof OverlayConfig, "explicit" | "redirectDir">]?:
    OverlayConfig[Key] | undefined;
} & { readonly redirectDir?: (typeof REDIRECT_DIR)[number] | undefined };

const DEFAULT_TIMEOUT = 86_400;
const TIMEOUT_MAX = 2 ** 32 - 1;
const ID_MAX = 2 ** 32 - 2;

/** Fills in the defaults. Throws ConfigError for a combination that makes no sense. */
export function overlayConfig(given: OverlayGiven): OverlayConfig {
  const { upper, work, userxattr = false, noxattrs = false, writeback = false } = given;
  const hasUpper = upper !== undefined;
  const metacopy = given.metacopy ?? false;
  const nfsExport = given.nfsExport ?? false;
  const xattrPermissions = given.xattrPermissions ?? 0;
  const config: OverlayConfig = {
    lower: given.lower ?? [],
    data: given.data ?? [],
    upper,
    work,
    redirectDir: redirectDir(given),
    // Without an upper layer there is nothing that these would be for.
    index: hasUpper && (given.index ?? nfsExport),
    nfsExport,
    volatile: hasUpper && (given.volatile ?? false),
    uuid: !hasUpper && given.uuid === "on" ? "null" : (given.uuid ?? "auto"),
    metacopy,
    xino: given.xino ?? "auto",
    userxattr,
    fsync: given.fsync ?? given.volatile !== true,
    timeout: given.timeout ?? DEFAULT_TIMEOUT,
    staticNlink: given.staticNlink ?? false,
    noacl: xattrPermissions !== 0 || (given.noacl ?? noxattrs),
    noxattrs,
    writeback,
    kernelPassthrough: given.kernelPassthrough ?? !writeback,
    xattrPermissions,
    fastIno: given.fastIno ?? false,
    aufsWhiteouts: given.aufsWhiteouts ?? true,
    explicit: FEATURES.filter((feature) => given[feature] !== undefined),
  };
  for (const [wrong, why] of contradictions(given, config)) if (wrong) throw new ConfigError(why);
  return config;
}

const FEATURES: readonly OverlayFeature[] = [
  "redirectDir",
  "index",
  "metacopy",
  "xino",
  "uuid",
  "userxattr",
];

function redirectDir(given: OverlayGiven): RedirectDir {
  const { redirectDir: asked, upper, userxattr } = given;
  if (asked === "off") return userxattr ? "nofollow" : "follow";
  if (asked === "on") return upper === undefined ? "follow" : "on";
  if (asked !== undefined) return asked;
  if (userxattr === true) return "nofollow";
  return upper === undefined ? "follow" : "on";
}

function contradictions(given: OverlayGiven, config: OverlayConfig): [boolean, string][] {
  const { lower, data, upper, work } = config;
  const layers = lower.length + data.length;
  const redirect = given.redirectDir ?? "on";
  return [
    [
      lower.length === 0,
      "a lower layer is missing: give lowerdir=DIR, or lowerdir=TOP:BELOW for several",
    ],
    [
      layers > OVERLAY_LAYERS_MAX,
      `there are ${layers} lower layers; ${OVERLAY_LAYERS_MAX} are the most`,
    ],
    [
      upper !== undefined && work === undefined,
      "upperdir needs a workdir: give workdir=DIR, an empty directory on the same file system",
    ],
    [
      upper === undefined && work !== undefined,
      "workdir is of no use without an upperdir: give upperdir=DIR, or leave workdir out",
    ],
    [
      data.length > 0 && !config.metacopy,
      "layers of data only (behind :: or by datadir+) need metacopy=on",
    ],
    [
      config.metacopy && redirect !== "on" && !(upper === undefined && redirect === "follow"),
      `metacopy=on needs redirect_dir=on, and redirect_dir=${redirect} is given: ` +
        "leave one of them out",
    ],
    [
      config.userxattr && config.redirectDir !== "nofollow",
      `userxattr and redirect_dir=${redirect} exclude each other: the owners of files could ` +
        "say where else a directory is; leave one of them out",
    ],
    [
      config.userxattr && config.metacopy,
      "userxattr and metacopy=on exclude each other: the owners of files could say whose data " +
        "they have; leave one of them out",
    ],
    [
      config.nfsExport && upper === undefined,
      "nfs_export=on needs an upper layer, whose work directory keeps what handles are known by",
    ],
    [
      config.nfsExport && given.index === false,
      "nfs_export=on and index=off exclude each other: leave one of them out",
    ],
    [
      config.nfsExport && config.metacopy,
      "nfs_export=on and metacopy=on exclude each other: leave one of them out",
    ],
    [
      config.nfsExport && (config.userxattr || config.xattrPermissions !== 0),
      "nfs_export=on needs trusted.overlay attributes, and owners in the inodes: leave userxattr " +
        "and xattr_permissions out",
    ],
    [
      given.volatile === true && given.fsync === true,
      "volatile and fsync=1 exclude each other: leave one of them out",
    ],
    [
      config.writeback && config.kernelPassthrough,
      "writeback and kernel passthrough exclude each other",
    ],
    [
      !(config.timeout >= 0 && config.timeout <= TIMEOUT_MAX),
      `timeout must be a number of seconds from 0 up to ${TIMEOUT_MAX}`,
    ],
  ];
}

/** At the commas, except those behind a backslash. Backslashes stay; empty items are left out. */
export function splitOverlayList(list: string): string[] {
  // A label of SELinux has commas between quotation marks: context="s,c".
  const items = list.matchAll(/(?:(?<=^|,)[a-z]*context="[^"]*"|\\.|[^,\\]|\\$)+/gs);
  return [...items].map(([item]) => item);
}

/**
 * Takes the options of an overlay out of lists, and leaves what is for others. `where` begins
 * messages. Throws ConfigError.
 */
export function takeOverlayOptions(
  lists: readonly string[],
  where: string,
): { overlay: OverlayOptions; rest: string[] } {
  const overlay = new OverlayOptions();
  const rest = lists.flatMap(splitOverlayList).filter((item) => {
    const [spelled = "", ...values] = item.split("=");
    const value = values.length === 0 ? undefined : values.join("=");
    return !overlay.take(spelled.replaceAll("_", "-"), value, `${where}${spelled}`);
  });
  return { overlay, rest };
}

/** What a path is written as within a list, so that nothing in it separates. */
export function escapeLayer(path: string): string {
  return path.replace(/[\\:,]/g, "\\$&");
}

/** Takes the backslashes away. */
export function unescapeLayer(text: string): string {
  return text.replace(/\\(.)/gs, "$1");
}

/** The layers of `lowerdir=`. Throws ConfigError, for a message that begins with "lowerdir". */
export function parseLowerdir(text: string): { lower: string[]; data: string[] } {
  const lower: string[] = [];
  const data: string[] = [];
  // Alternately what separates and a path; the first has nothing before it.
  for (const [, colons = "", path = ""] of text.matchAll(/(:*)((?:\\.|[^:\\]|\\$)*)/gs)) {
    if (colons === "" && path === "") continue;
    const quoted = JSON.stringify(text);
    if (colons.length > 2)
      throw new ConfigError(
        `has ${colons.length} colons in a row in ${quoted}: ` +
          "write : before a layer, and :: before one of data only",
      );
    if (path === "" || (colons !== "" && lower.length === 0))
      throw new ConfigError(
        `has an empty layer in ${quoted}: a colon belongs between two paths, ` +
          "and one that is part of a path is written \\:",
      );
    if (colons === ":" && data.length > 0)
      throw new ConfigError(
        `has a layer behind one of data only in ${quoted}: ` +
          "those come last, each with :: before it",
      );
    (colons === "::" ? data : lower).push(unescapeLayer(path));
  }
  return { lower, data };
}

type Mutable<Type> = { -readonly [Key in keyof Type]: Type[Key] };

/** What has been read so far. */
interface Read {
  readonly given: Mutable<OverlayGiven>;
  readonly uids: IdRange[];
  readonly gids: IdRange[];
  squashRoot: boolean;
  squashUid: number | undefined;
  squashGid: number | undefined;
}

/** Takes an option's value; throws ConfigError, whose message the option's name comes before. */
type Reader = (read: Read, value: string | undefined) => void;

function needed(value: string | undefined): string {
  if (value === undefined || value === "") throw new ConfigError("needs a value");
  return value;
}

const path =
  (key: "upper" | "work"): Reader =>
  ({ given }, value) =>
    void (given[key] = unescapeLayer(needed(value)));

const layer =
  (key: "lower" | "data"): Reader =>
  ({ given }, value) => {
    if (key === "lower" && (given.data?.length ?? 0) > 0)
      throw new ConfigError("must come before the layers of data only: datadir+ and ::");
    given[key] = [...(given[key] ?? []), unescapeLayer(needed(value))];
  };

function pick<Choice extends string>(value: string | undefined, from: readonly Choice[]): Choice {
  const choice = from.find((candidate) => candidate === value);
  if (choice !== undefined) return choice;
  throw new ConfigError(`must be one of ${from.join(", ")}, not "${value ?? ""}"`);
}

const onOff =
  (key: "index" | "metacopy" | "nfsExport" | "aufsWhiteouts"): Reader =>
  ({ given }, value) =>
    void (given[key] = pick(value, ["on", "off"]) === "on");

const flag =
  (key: "userxattr" | "volatile" | "staticNlink" | "noacl"): Reader =>
  ({ given }, value) => {
    if (value !== undefined) throw new ConfigError(`takes no value, not "${value}"`);
    given[key] = true;
  };

/** `NAME=0`, `NAME=1`, and `NAME` for the latter. */
const bit =
  (key: "noxattrs" | "writeback" | "fastIno"): Reader =>
  ({ given }, value) =>
    void (given[key] = pick(value ?? "1", ["0", "1"]) === "1");

const fsync: Reader = ({ given }, value) => {
  const how = pick(value, ["0", "1", "auto", "volatile"]);
  if (how === "volatile") given.volatile = true;
  else given.fsync = how !== "0";
};

const seconds: Reader = ({ given }, value) => {
  if (!/^(\d+(\.\d*)?|\.\d+)$/.test(value ?? ""))
    throw new ConfigError(`must be a number of seconds, such as 5 or 0.5, not "${value ?? ""}"`);
  given.timeout = Number(value);
};

const ranges =
  (key: "uids" | "gids"): Reader =>
  (read, value) => {
    // containers-storage begins with a colon.
    const numbers = needed(value).replace(/^:/, "").split(":");
    if (numbers.length % 3 !== 0)
      throw new ConfigError(
        `must be triples STORED:SHOWN:LENGTH, joined by colons, not "${value}"`,
      );
    for (let at = 0; at < numbers.length; at += 3)
      read[key].push(parseIdRange(numbers.slice(at, at + 3).join(":")));
  };

const squash =
  (key: "squashUid" | "squashGid"): Reader =>
  (read, value) => {
    const id = /^\d+$/.test(value ?? "") ? Number(value) : Number.NaN;
    if (!(id <= ID_MAX))
      throw new ConfigError(`must be an id, a number from 0 to ${ID_MAX}, not "${value ?? ""}"`);
    read[key] = id;
  };

const refuse =
  (why: string): Reader =>
  () => {
    throw new ConfigError(why);
  };

const verity: Reader = (_read, value) => {
  if (pick(value, ["off", "on", "require"]) !== "off")
    throw new ConfigError("is not supported: digests of lower files are not checked; leave it out");
};

/** What is of no concern here; `threaded` is said by the number of workers. */
const ignore: Reader = () => {};

/** By names with `-` for `_`. */
const READERS: ReadonlyMap<string, Reader> = new Map<string, Reader>([
  [
    "lowerdir",
    ({ given }, value) => {
      if (given.lower !== undefined || given.data !== undefined)
        throw new ConfigError("cannot be mixed with lowerdir+ and datadir+: give those alone");
      Object.assign(given, parseLowerdir(needed(value)));
    },
  ],
  ["lowerdir+", layer("lower")],
  ["datadir+", layer("data")],
  ["upperdir", path("upper")],
  ["workdir", path("work")],
  ["redirect-dir", ({ given }, value) => void (given.redirectDir = pick(value, REDIRECT_DIR))],
  ["index", onOff("index")],
  ["metacopy", onOff("metacopy")],
  ["nfs-export", onOff("nfsExport")],
  ["xino", ({ given }, value) => void (given.xino = pick(value, XINO))],
  ["uuid", ({ given }, value) => void (given.uuid = pick(value, UUID))],
  ["verity", verity],
  ["userxattr", flag("userxattr")],
  ["volatile", flag("volatile")],
  ["fsync", fsync],
  ["timeout", seconds],
  ["static-nlink", flag("staticNlink")],
  ["noacl", flag("noacl")],
  ["noxattrs", bit("noxattrs")],
  ["writeback", bit("writeback")],
  ["fast-ino", bit("fastIno")],
  ["fast-ino-check", bit("fastIno")],
  [
    "xattr-permissions",
    ({ given }, value) =>
      void (given.xattrPermissions = Number(pick(value, ["0", "1", "2"])) as XattrPermissions),
  ],
  ["aufs-whiteouts", onOff("aufsWhiteouts")],
  ["uidmapping", ranges("uids")],
  ["gidmapping", ranges("gids")],
  ["squash-to-root", (read) => void (read.squashRoot = true)],
  ["squash-to-uid", squash("squashUid")],
  ["squash-to-gid", squash("squashGid")],
  ["threaded", ignore],
  ["kernel-cache", ignore],
  ["splice-read", ignore],
  ["splice-write", ignore],
  ["splice-move", ignore],
  ["max-write", ignore],
  ["private", ignore],
  ["rprivate", ignore],
  ["slave", ignore],
  ["rslave", ignore],
  ["shared", ignore],
  ["rshared", ignore],
  ["plugins", refuse("is not supported: mount what a plugin would fetch, and give its path")],
  ["ino32-t", refuse("is not supported: inode numbers have 64 bits; leave it out")],
  ["allow-root", refuse("is not supported: give allow_other")],
  ["override-creds", refuse("is not supported: layers are used as the user who mounts")],
]);

/** What may be given more than once; every other option only if it says the same again. */
const REPEATABLE = new Set(["lowerdir+", "datadir+", "uidmapping", "gidmapping"]);

/** Options of an overlay as they come, one after the other. */
export class OverlayOptions {
  readonly #values = new Map<string, string | undefined>();
  readonly #read: Read = {
    given: {},
    uids: [],
    gids: [],
    squashRoot: false,
    squashUid: undefined,
    squashGid: undefined,
  };

  /**
   * Takes NAME or NAME=VALUE; `name` has `-` for each `_`, `value` its backslashes. `spelled` is
   * how messages call it. False if it is none of an overlay's. Throws ConfigError.
   */
  take(name: string, value: string | undefined, spelled: string): boolean {
    // fuse-overlayfs's sync=0 is not mount(8)'s sync.
    const known = name === "sync" && value !== undefined ? "fsync" : name;
    const reader = READERS.get(known);
    if (reader === undefined) return false;
    if (!REPEATABLE.has(known) && this.#values.has(known)) {
      const first = this.#values.get(known);
      if (first === value) return true;
      const both = [first, value].map((one) =>
        one === undefined ? "without a value" : `"${one}"`,
      );
      throw new ConfigError(
        `${spelled} is given twice, as ${both.join(" and as ")}: leave one of them out`,
      );
    }
    this.#values.set(known, value);
    try {
      reader(this.#read, value);
    } catch (error) {
      if (!(error instanceof ConfigError || error instanceof IdMapError)) throw error;
      throw new ConfigError(
        `${spelled}${error instanceof IdMapError ? ": " : " "}${error.message}`,
      );
    }
    return true;
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** With paths as `resolve` makes them, on top of `defaults`. Throws ConfigError. */
  config(resolve: (path: string) => string, defaults: OverlayGiven = {}): OverlayConfig {
    const { lower = [], data = [], upper, work, ...rest } = this.#read.given;
    return overlayConfig({
      ...defaults,
      ...rest,
      lower: lower.map(resolve),
      data: data.map(resolve),
      upper: upper === undefined ? undefined : resolve(upper),
      work: work === undefined ? undefined : resolve(work),
    });
  }

  /**
   * How ids in the layers and ids as they are shown hang together; undefined if they are the same.
   * A squash is on top of the ranges. Throws ConfigError.
   */
  ids(): IdMapOptions | undefined {
    const { uids, gids, squashRoot } = this.#read;
    const root = squashRoot ? 0 : undefined;
    const { squashUid = root, squashGid = root } = this.#read;
    const ranges = uids.length + gids.length > 0 ? { uids, gids } : undefined;
    const squashes = squashUid !== undefined || squashGid !== undefined;
    try {
      return composeIdMaps(
        ranges,
        squashes ? { uids: [], gids: [], squashUid, squashGid } : undefined,
      );
    } catch (error) {
      if (!(error instanceof IdMapError)) throw error;
      throw new ConfigError(`the ids cannot be mapped so: ${error.message}`);
    }
  }
}
