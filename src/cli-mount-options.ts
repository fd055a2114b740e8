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
  /** The labels of SELinux, as the kernel is given them. */
  labels?: readonly string[];
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

/** What SELinux takes for itself: context="system_u:object_r:t:s0:c1,c2". */
const LABEL = /^(fs|def|root)?context=/;

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
  for (const text of items) {
    const item = readItem(text);
    const { spelled, name, value } = item;
    const whole = value === undefined ? name : `${name}=${value}`;
    if (IGNORED.test(whole) || (remount && SHOWN.test(whole))) continue;
    if (LABEL.test(text)) {
      settings.labels = [...(settings.labels ?? []), text];
      continue;
    }
    const keyword = KEYWORDS.get(name);
    if (keyword !== undefined) {
      if (value !== undefined) throw new UsageError(`-o ${spelled} takes no value, not "${value}"`);
      keyword(settings);
    } else if (!readSetting(name, value, settings)) {
      const { option, positive } = findOption(name, table);
      if (option !== undefined && !option.commandLineOnly)
        setOption(given, option, positive, item, "-o ");
      else if (!sloppy) throw new UsageError(`unknown option -o ${text}`);
    }
  }
  return given;
}

/** An item of a list: NAME or NAME=VALUE. */
export interface Item {
  /** The name as it was written. */
  readonly spelled: string;
  /** The name as tables have it. */
  readonly name: string;
  readonly value: string | undefined;
}

export function readItem(text: string): Item {
  const equals = text.indexOf("=");
  const spelled = equals < 0 ? text : text.slice(0, equals);
  const value = equals < 0 ? undefined : text.slice(equals + 1);
  return { spelled, name: spelled.replaceAll("_", "-"), value };
}

/** Sets the option that an item is, as `findOption` found it. `where` begins messages. */
export function setOption(
  given: Given,
  option: Option,
  positive: boolean,
  item: Item,
  where: string,
): void {
  const spelled = `${where}${item.spelled}`;
  const isSwitch = option.value === undefined;
  if (isSwitch && item.value !== undefined)
    throw new UsageError(`${spelled} takes no value, not "${item.value}"`);
  if (!isSwitch && (item.value === undefined || item.value === ""))
    throw new UsageError(`${spelled} needs a value: ${item.spelled}=${option.value}`);
  const value = { value: item.value ?? positive, spelled };
  if (option.repeatable) given.append(option.name, value);
  else given.set(option.name, value);
}

/** Whether a name, spelled with `-`, is one of an option that only -o has. */
export function isMountOption(name: string): boolean {
  return KEYWORDS.has(name) || SETTINGS.includes(name);
}

const SETTINGS: readonly string[] = ["fsname", "subtype", "max-read"];

/** `fsname=`, `subtype=`, `max_read=`. */
function readSetting(name: string, value: string | undefined, settings: MountSettings): boolean {
  if (!SETTINGS.includes(name)) return false;
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

/** At the commas, except those behind a backslash or within the quotation marks of a label. */
export function splitAtCommas(list: string): string[] {
  const items = [...list.matchAll(/(?:^|,)((?:[a-z]*context="[^"]*")?(?:\\.|[^,\\]|\\$)*)/gs)];
  return items.map(([, item = ""]) => item.replace(/\\([,\\])/g, "$1"));
}

/** As mount(8) reads it: empty items are left out. */
function splitList(list: string): string[] {
  return splitAtCommas(list).filter((item) => item !== "");
}
