// Looking at the layers of an overlay before it is mounted, as ovl_fill_super of the kernel does:
// whether they are there, whether one lies in another, and what the upper layer can store. What it
// can't is given up with a warning, unless it was asked for by name.

import {
  AT_FDCWD,
  CAP_SYS_ADMIN,
  O_CLOEXEC,
  O_DIRECTORY,
  O_PATH,
  O_RDONLY,
  XATTR_CREATE,
} from "./abi-linux.ts";
import { EEXIST, EOPNOTSUPP, EPERM, EROFS, errnoMessage } from "./errno.ts";
import { log } from "./log.ts";
import { cstring, passingString } from "./memory.ts";
import { readMountinfo } from "./mount-info.ts";
import { hasCapability, readProc, readProcLink } from "./proc.ts";
import { isInside, locate, type Place } from "./mount-point.ts";
import type { OverlayConfig } from "./overlay-config.ts";
import { ConfigError } from "./passthrough-config.ts";
import { close, fremovexattr, fsetxattr, openat } from "./syscall.ts";

/** A directory that an overlay is made of, and the option that names it. */
export interface LayerDirectory {
  readonly option: "lowerdir" | "datadir" | "upperdir" | "workdir";
  readonly path: string;
}

/** The upper layer and its work directory first, then the lower ones from the top. */
export function overlayDirectories(config: OverlayConfig): LayerDirectory[] {
  const { upper, work, lower, data } = config;
  return [
    ...(upper === undefined ? [] : [{ option: "upperdir" as const, path: upper }]),
    ...(work === undefined ? [] : [{ option: "workdir" as const, path: work }]),
    ...lower.map((path) => ({ option: "lowerdir" as const, path })),
    ...data.map((path) => ({ option: "datadir" as const, path })),
  ];
}

/** How an overlay is called in messages: by its upper layer, or else its topmost one. */
export function overlayName({ upper, lower }: OverlayConfig): string {
  return upper ?? lower[0]!;
}

/**
 * Refuses layers that are missing or lie in each other, and a mount point below one of them, where
 * the daemon would find its own mount. `mountpoint` is undefined if it is in another namespace.
 * Throws ConfigError.
 */
export function checkLayers(config: OverlayConfig, mountpoint: string | undefined): void {
  const directories = overlayDirectories(config);
  for (const directory of directories) close(openDirectory(directory));
  // Once for all, and now: to open one may have been what mounted it.
  const mountinfo = readMountinfo();
  const places = directories.map((directory) => {
    return { ...directory, place: locate(directory.path, mountinfo) };
  });
  checkNesting(places);
  if (mountpoint !== undefined) checkMountpoint(places, locate(mountpoint));
}

type LocatedLayer = LayerDirectory & { readonly place: Place };

/** Where a lower layer may not be, with the kernel either: in any other, nor the work directory. */
function checkNesting(layers: readonly LocatedLayer[]): void {
  const [upper, work] = ["upperdir", "workdir"].map((name) =>
    layers.find(({ option }) => option === name),
  );
  if (upper !== undefined && work !== undefined) {
    if (isInside(work.place, upper.place)) throw nested(work, upper);
    if (isInside(upper.place, work.place)) throw nested(upper, work);
    if (work.place.device !== upper.place.device)
      throw new ConfigError(
        `workdir=${work.path} is not on the file system of upperdir=${upper.path}: ` +
          "files are moved from one to the other; give a workdir beside the upperdir",
      );
  }
  const taken = new Map<string, LocatedLayer>();
  for (const layer of layers.toReversed())
    taken.set(keyOf(layer.place.device, layer.place.inside), layer);
  for (const layer of layers) {
    const { device, inside } = layer.place;
    const own = keyOf(device, inside);
    const isLower = layer.option === "lowerdir" || layer.option === "datadir";
    const first = taken.get(own);
    if (isLower && first !== undefined && first !== layer) throw nested(layer, first);
    const outer = isLower
      ? ancestors(inside).find((path) => taken.has(keyOf(device, path)))
      : undefined;
    if (outer !== undefined) throw nested(layer, taken.get(keyOf(device, outer))!);
  }
}

function keyOf(device: string, inside: string): string {
  return `${device} ${inside}`;
}

/** The directories above an absolute path, from the nearest on. */
function ancestors(path: string): string[] {
  const names = path.split("/").filter((name) => name !== "");
  return names.map((_, index) => `/${names.slice(0, names.length - 1 - index).join("/")}`);
}

function nested(inner: LocatedLayer, outer: LocatedLayer): ConfigError {
  const same = isInside(outer.place, inner.place);
  return new ConfigError(
    `${inner.option}=${inner.path} ${same ? "is the directory of" : "lies inside of"} ` +
      `${outer.option}=${outer.path}: the layers of an overlay must be apart; ` +
      "give a directory of its own for each",
  );
}

/** Mounting on a layer itself is fine: it is open by then, and stays what it is. */
function checkMountpoint(layers: readonly LocatedLayer[], mountpoint: Place): void {
  for (const { option, path, place } of layers) {
    if (!isInside(mountpoint, place) || isInside(place, mountpoint)) continue;
    throw new ConfigError(
      `cannot mount on ${mountpoint.given}, which lies inside of ${option}=${path}: ` +
        "the overlay would contain itself; choose a mount point outside of the layers",
    );
  }
}

/** A descriptor of a layer, with O_PATH unless `flags` say otherwise. Throws ConfigError. */
export function openDirectory({ option, path }: LayerDirectory, flags = O_PATH): number {
  const fd = openat(AT_FDCWD, passingString(path), flags | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd >= 0) return fd;
  throw new ConfigError(`cannot open ${option}=${path}: ${errnoMessage(fd)}`);
}

const TRUSTED = cstring("trusted.overlay.opaque");
const USER = cstring("user.overlay.opaque");
const VALUE = cstring("0");
/** The number of the first user namespace (PROC_USER_INIT_INO of linux/proc_ns.h). */
const FIRST_NAMESPACE = "user:[4026531837]";

/**
 * The configuration that can be served: with `userxattr` where `trusted.*` attributes are not for
 * us, and without what needs attributes where there are none. Throws ConfigError if something of
 * this was asked for by name, or if the upper layer can't be written.
 */
export function settleOverlay(config: OverlayConfig): OverlayConfig {
  const { upper, work, explicit } = config;
  if (upper === undefined || work === undefined)
    return config.userxattr || explicit.includes("userxattr") || mayUseTrusted()
      ? config
      : withUserxattr(config);
  const fd = openDirectory({ option: "workdir", path: work }, O_RDONLY);
  try {
    const stored = probe(fd, config.userxattr ? USER.address : TRUSTED.address);
    if (stored === 0) return config;
    if (stored === -EROFS)
      throw new ConfigError(
        `upperdir=${upper} is on a read-only file system: leave upperdir and workdir out ` +
          "for a mount that can't be changed",
      );
    const isOther = stored === -EPERM || stored === -EOPNOTSUPP;
    if (!config.userxattr && isOther && probe(fd, USER.address) === 0) return withUserxattr(config);
    return withoutXattrs(config, stored);
  } finally {
    close(fd);
  }
}

/** Whether a directory takes an attribute: 0 or -errno. */
function probe(fd: number, name: number): number {
  const error = fsetxattr(fd, name, VALUE.address, 1, XATTR_CREATE);
  if (error === -EEXIST) return 0;
  if (error === 0) fremovexattr(fd, name);
  return error;
}

/** Nobody sees `trusted.*` attributes without CAP_SYS_ADMIN in the first user namespace. */
function mayUseTrusted(): boolean {
  if (readProcLink("self/ns/user") !== FIRST_NAMESPACE) return false;
  return hasCapability(readProc("self/status"), CAP_SYS_ADMIN);
}

function withUserxattr(config: OverlayConfig): OverlayConfig {
  const { explicit, metacopy, nfsExport, redirectDir } = config;
  const wanted = [
    ...(nfsExport ? ["nfs_export=on"] : []),
    ...(explicit.includes("metacopy") && metacopy ? ["metacopy=on"] : []),
    ...(explicit.includes("redirectDir") && redirectDir === "on" ? ["redirect_dir=on"] : []),
  ];
  if (wanted.length > 0)
    throw new ConfigError(
      `${wanted.join(" and ")} cannot be had: it takes trusted.overlay attributes, which are for ` +
        "root outside of user namespaces; leave it out, and user.overlay attributes are used",
    );
  log.info(
    `${overlayName(config)}: with user.overlay attributes, since trusted ones are not allowed`,
  );
  return { ...config, userxattr: true, redirectDir: "nofollow", metacopy: false };
}

function withoutXattrs(config: OverlayConfig, error: number): OverlayConfig {
  const { explicit } = config;
  const wanted = [
    ["redirect_dir=on", explicit.includes("redirectDir") && config.redirectDir === "on"],
    ["index=on", explicit.includes("index") && config.index],
    ["nfs_export=on", config.nfsExport],
    ["metacopy=on", explicit.includes("metacopy") && config.metacopy],
    ["xino=on", explicit.includes("xino") && config.xino === "on"],
    ["uuid=on", explicit.includes("uuid") && config.uuid === "on"],
  ].flatMap(([name, isWanted]) => (isWanted === true ? [name] : []));
  const why = `${config.upper} stores no extended attributes (${errnoMessage(error)})`;
  if (wanted.length > 0)
    throw new ConfigError(
      `${wanted.join(", ")} cannot be had: ${why}; leave it out, or use another file system`,
    );
  log.warn(
    `${why}: directories can't be opaque nor renamed, and hard links are broken when they are changed`,
  );
  return {
    ...config,
    redirectDir: "nofollow",
    index: false,
    metacopy: false,
    xino: "off",
    uuid: "null",
  };
}
