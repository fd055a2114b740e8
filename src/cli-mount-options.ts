// The lists of -o, as users of mount(8) and fuse know them: separated by commas, `-` or `_` within
// a name, a backslash before a comma that is meant. Of options that exclude each other the last one
// counts, since mount(8) appends its own list to that of /etc/fstab.

import {
  MS_DIRSYNC,
  MS_NODIRATIME,
  MS_RELATIME,
  MS_STRICTATIME,
  MS_SYNCHRONOUS,
} from "./abi-linux.ts";
import type { Option } from "./cli-options.ts";
import { findOption, Given, UsageError } from "./cli-parse.ts";

const MS_NOSYMFOLLOW = 256;
const MAX_READ_MAX = 2 ** 32 - 1;

/** What -o says of the mount itself; undefined where it says nothing. */
export interface MountSettings {
  fsname?: string;
  subtype?: string;
  allowOther?: boolean;
  autoUnmount?: boolean;
  readOnly?: boolean;
  suid?: boolean;
  dev?: boolean;
  exec?: boolean;
  noatime?: boolean;
  maxRead?: number;
  /** Change a mount that is there. */
  remount?: boolean;
  extraFlags: number;
}

type Keyword = (settings: MountSettings) => void;

const set =
  (values: Partial<MountSettings>): Keyword =>
  (settings) =>
    void Object.assign(settings, values);
const raise =
  (flag: number): Keyword =>
  (settings) =>
    void (settings.extraFlags |= flag);
const lower =
  (flag: number): Keyword =>
  (settings) =>
    void (settings.extraFlags &= ~flag);

const KEYWORDS: ReadonlyMap<string, Keyword> = new Map([
  ["ro", set({ readOnly: true })],
  ["rw", set({ readOnly: false })],
  ["suid", set({ suid: true })],
  ["nosuid", set({ suid: false })],
  ["dev", set({ dev: true })],
  ["nodev", set({ dev: false })],
  ["exec", set({ exec: true })],
  ["noexec", set({ exec: false })],
  ["noatime", set({ noatime: true })],
  ["atime", set({ noatime: false })],
  ["allow-other", set({ allowOther: true })],
  ["auto-unmount", set({ autoUnmount: true })],
  ["remount", set({ remount: true })],
  ["sync", raise(MS_SYNCHRONOUS)],
  ["async", lower(MS_SYNCHRONOUS)],
  ["dirsync", raise(MS_DIRSYNC)],
  ["nodiratime", raise(MS_NODIRATIME)],
  ["diratime", lower(MS_NODIRATIME)],
  ["relatime", raise(MS_RELATIME)],
  ["norelatime", lower(MS_RELATIME)],
  ["strictatime", raise(MS_STRICTATIME)],
  ["nostrictatime", lower(MS_STRICTATIME)],
  ["nosymfollow", raise(MS_NOSYMFOLLOW)],
  ["symfollow", lower(MS_NOSYMFOLLOW)],
]);

/**
 * What is for mount(8), systemd and desktops and no business of a file system; default_permissions
 * always is.
 */
const IGNORED = new RegExp(
  "^(default-permissions|defaults|(no)?(auto|users?|owner|group)|-netdev|nofail" +
    "|(user|comment)=.*|[xX]-.*)$",
  "s",
);
/**
 * What the kernel shows of a mount, and mount(8) passes on when it is mounted anew with other
 * flags.
 */
const SHOWN = /^(user-id|group-id|max-read|blksize)=/;

/**
 * Reads the lists into `settings`, and returns those options that could also be given by themselves
 * (`cache=always`). With `sloppy`, what is unknown is left out instead of refused.
 */
export function readMountOptions(
  lists: readonly string[],
  settings: MountSettings,
  table: readonly Option[],
  sloppy = false,
): Given {
  const given = new Given();
  const items = lists.flatMap(splitList);
  const remount = items.includes("remount");
  for (const item of items) {
    const { spelled, name, value } = readItem(item);
    const whole = value === undefined ? name : `${name}=${value}`;
    if (IGNORED.test(whole) || (remount && SHOWN.test(whole))) continue;
    const keyword = KEYWORDS.get(name);
    if (keyword !== undefined) {
      if (value !== undefined) throw new UsageError(`-o ${spelled} takes no value, not "${value}"`);
      keyword(settings);
    } else if (!readSetting(name, value, settings) && !setOption(given, item, table, "-o ")) {
      if (!sloppy) throw new UsageError(`unknown option -o ${item}`);
    }
  }
  return given;
}

/** An item of a list, NAME or NAME=VALUE: `spelled` as it was written, `name` as tables have it. */
function readItem(item: string): { spelled: string; name: string; value: string | undefined } {
  const equals = item.indexOf("=");
  const spelled = equals < 0 ? item : item.slice(0, equals);
  const value = equals < 0 ? undefined : item.slice(equals + 1);
  return { spelled, name: spelled.replaceAll("_", "-"), value };
}

/** Sets the option that an item is; false if the table has none. `where` begins messages. */
export function setOption(
  given: Given,
  item: string,
  table: readonly Option[],
  where: string,
): boolean {
  const { spelled, name, value } = readItem(item);
  const { option, positive } = findOption(name, table);
  if (option === undefined || option.commandLineOnly) return false;
  const isSwitch = option.value === undefined;
  if (isSwitch && value !== undefined)
    throw new UsageError(`${where}${spelled} takes no value, not "${value}"`);
  if (!isSwitch && (value === undefined || value === ""))
    throw new UsageError(`${where}${spelled} needs a value: ${spelled}=${option.value}`);
  if (option.repeatable) given.append(option.name, value ?? "");
  else given.set(option.name, { value: value ?? positive, spelled: `${where}${spelled}` });
  return true;
}

/** `fsname=`, `subtype=`, `max_read=`. */
function readSetting(name: string, value: string | undefined, settings: MountSettings): boolean {
  if (name !== "fsname" && name !== "subtype" && name !== "max-read") return false;
  if (value === undefined || value === "")
    throw new UsageError(`-o ${name.replace("-", "_")} needs a value`);
  if (name === "fsname") settings.fsname = value;
  if (name === "subtype") settings.subtype = value;
  if (name === "max-read") {
    const bytes = /^\d+$/.test(value) ? Number(value) : Number.NaN;
    if (!(bytes <= MAX_READ_MAX))
      throw new UsageError(
        `-o max_read must be a whole number of bytes up to ${MAX_READ_MAX}, not "${value}"`,
      );
    settings.maxRead = bytes;
  }
  return true;
}

/** At the commas, except those behind a backslash. Empty items are left out, as mount(8) does. */
export function splitList(list: string): string[] {
  const items = list.match(/(?:\\.|[^,\\]|\\$)+/gs) ?? [];
  return items.map((item) => item.replace(/\\([,\\])/g, "$1"));
}
