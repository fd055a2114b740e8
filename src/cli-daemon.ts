// What the commands have in common: from their arguments to the options of the daemon, but for what
// is served.

import type { MountSettings } from "./cli-mount-options.ts";
import { IO_URING, LOG_FORMATS } from "./cli-options.ts";
import { UsageError, type Given } from "./cli-parse.ts";
import type { DaemonOptions } from "./daemon.ts";
import { WORKERS_MAX } from "./limits.ts";
import { LOG_LEVELS, type Level } from "./log.ts";
import type { MountOptions } from "./mount-options.ts";
import { validateDirectory } from "./vfs-config.ts";

const DEFAULT_SUBTYPE = "fuse-backend";
const PID_MAX = 2 ** 22;
const REQUEST_TIMEOUT_MAX = 2 ** 16 - 1;

/** What depends on how the command was called. */
export interface Circumstances {
  /** The default of fsname; otherwise the command has its own. */
  readonly fsname?: string;
  /** The default of subtype. */
  readonly subtype?: string;
  /** Whether suid and dev are on unless turned off. */
  readonly privileges: boolean;
  readonly background: boolean;
  readonly logLevel: Level;
}

/** Reads the arguments of a command. Throws UsageError or ConfigError. */
export type ReadCommand = (
  positionals: readonly string[],
  given: Given,
  settings: MountSettings,
  circumstances: Circumstances,
) => DaemonOptions;

/** Throws UsageError. */
export function daemonOptions(
  mountpoint: string,
  given: Given,
  settings: MountSettings,
  circumstances: Circumstances & { readonly fsname: string },
): Omit<DaemonOptions, "vfs" | "reload" | "dynamic"> {
  const mount: MountOptions = {
    mountpoint: absolute(mountpoint),
    fsname: settings.fsname ?? circumstances.fsname,
    subtype: settings.subtype ?? circumstances.subtype ?? DEFAULT_SUBTYPE,
    allowOther: settings.allowOther ?? false,
    autoUnmount: settings.autoUnmount ?? false,
    readOnly: settings.readOnly ?? false,
    suid: settings.suid ?? circumstances.privileges,
    dev: settings.dev ?? circumstances.privileges,
    exec: settings.exec ?? true,
    noatime: settings.noatime ?? false,
    maxRead: settings.maxRead ?? 0,
    extraFlags: settings.extraFlags,
    labels: settings.labels,
    fusermount: fusermountPath(given.text("fusermount")),
    mountNamespacePid: given.whole("mount-namespace", 1, PID_MAX),
    replace: given.switch("replace") ?? false,
  };
  if (mount.autoUnmount && mount.mountNamespacePid !== undefined)
    throw new UsageError(
      "-o auto_unmount and --mount-namespace exclude each other: " +
        "a mount can only be watched in our own namespace",
    );
  const pidFile = given.text("pid-file");
  return {
    mount,
    workers: given.whole("workers", 1, WORKERS_MAX) ?? defaultWorkers(),
    ioUring: given.choice("io-uring", IO_URING) ?? "auto",
    background: circumstances.background,
    pidFile: pidFile === undefined ? undefined : absolute(pidFile),
    logLevel: given.choice("log-level", LOG_LEVELS) ?? circumstances.logLevel,
    logFormat: given.choice("log-format", LOG_FORMATS) ?? "text",
    debug: given.switch("debug") ?? false,
    requestTimeout: given.whole("request-timeout", 0, REQUEST_TIMEOUT_MAX) ?? 0,
  };
}

/** A worker a CPU; two at least, so that one request that takes long doesn't hold up the others. */
export function defaultWorkers(): number {
  return Math.max(2, Math.min(navigator.hardwareConcurrency, 8));
}

/** Refuses positionals that are not just the directories of these names. */
export function checkDirectories(positionals: readonly string[], names: readonly string[]): void {
  const missing = names.slice(positionals.length);
  if (missing.length > 0)
    throw new UsageError(`${missing.join(" and ")} ${missing.length === 1 ? "is" : "are"} missing`);
  const surplus = positionals[names.length];
  if (surplus !== undefined)
    throw new UsageError(`there is more than ${names.join(" and ")}, namely "${surplus}"`);
  for (const [index, name] of names.entries()) validateDirectory(name, positionals[index]!);
}

/** Not normalised: behind a symbolic link, `..` is not what it seems. */
export function absolute(path: string): string {
  return path.startsWith("/") ? path : `${process.cwd()}/${path}`;
}

/** A name without a slash is looked for on the PATH. */
function fusermountPath(given: string | undefined): string | undefined {
  return given?.includes("/") === true ? absolute(given) : given;
}
