// What POSIX cases are made of: a case is a function that does something in a new directory and
// returns what it saw. It is run on a bare directory and on a mount, and has to see the same.

import * as abi from "../../src/abi-linux.ts";
import {
  chmod,
  close,
  fchmod,
  fstat,
  lstat,
  must,
  mkdir,
  open,
  read,
  stat,
  symlink,
  mknod,
  write,
  type Credentials,
  type Stat,
} from "./calls.ts";

/** Where a case works. */
export class Place {
  readonly directory: string;
  /** The same directory by the side of the mount; on the bare one it is the same. */
  readonly source: string;

  constructor(directory: string, source: string) {
    this.directory = directory;
    this.source = source;
  }

  // Properties, so that a case can take them out of the place.
  readonly at = (name: string): string => `${this.directory}/${name}`;
  readonly behind = (name: string): string => `${this.source}/${name}`;
}

/**
 * What it returns has to be JSON. Negative integers are shown as errnos. Throwing is a result too.
 * Descriptors need not be closed; credentials, umask and working directory are put back.
 */
export type Case = (place: Place) => unknown;
export type Cases = Readonly<Record<string, Case>>;

export const alice: Credentials = { uid: 61_001, gid: 61_001 };
export const bob: Credentials = { uid: 61_002, gid: 61_002 };
/** A group that owns nothing and has nobody until a case says so. */
export const STAFF = 61_100;

/** A new file with contents and exactly this mode. Fails if it exists. */
export function file(path: string, data = "", mode = 0o644): string {
  const fd = must(open(path, abi.O_WRONLY | abi.O_CREAT | abi.O_EXCL, mode));
  if (data !== "" && write(fd, data) !== data.length) throw new Error(`a short write to ${path}`);
  if (mode & 0o022) must(fchmod(fd, mode)); // The umask has taken these bits.
  close(fd);
  return path;
}

export function directory(path: string, mode = 0o755): string {
  must(mkdir(path, mode));
  if (mode & 0o022) must(chmod(path, mode));
  return path;
}

export function contents(path: string): string | number {
  const fd = open(path, abi.O_RDONLY);
  if (fd < 0) return fd;
  const data = read(fd, 4 << 20);
  close(fd);
  return data;
}

const octal = (mode: number): string => (mode & 0o7777).toString(8).padStart(4, "0");

/** The permission bits of a path, not following links, or of a descriptor. */
export function mode(of: string | number): string | number {
  const found = typeof of === "string" ? lstat(of) : fstat(of);
  return typeof found === "number" ? found : octal(found.mode);
}

export const owner = (path: string): string => {
  const { uid, gid } = must<Stat>(lstat(path));
  return `${uid}:${gid}`;
};

export const size = (of: string | number): number =>
  must<Stat>(typeof of === "string" ? lstat(of) : fstat(of)).size;
export const links = (of: string | number): number =>
  must<Stat>(typeof of === "string" ? lstat(of) : fstat(of)).nlink;
export const inode = (path: string): string => must<Stat>(lstat(path)).ino;

const KINDS: Record<number, string> = {
  [abi.S_IFREG]: "file",
  [abi.S_IFDIR]: "directory",
  [abi.S_IFLNK]: "link",
  [abi.S_IFIFO]: "fifo",
  [abi.S_IFSOCK]: "socket",
  [abi.S_IFCHR]: "character device",
  [abi.S_IFBLK]: "block device",
};
export function kind(path: string): string | number {
  const found = lstat(path);
  return typeof found === "number" ? found : (KINDS[found.mode & abi.S_IFMT] ?? "unknown");
}

/** Something of each kind in a directory; returns the names. */
export function zoo({ at }: { at(name: string): string }): string[] {
  file(at("file"), "data");
  directory(at("directory"));
  must(symlink("file", at("link")));
  must(mknod(at("fifo"), abi.S_IFIFO | 0o644));
  must(mknod(at("socket"), abi.S_IFSOCK | 0o644));
  must(mknod(at("null"), abi.S_IFCHR | 0o644, 0x103));
  must(mknod(at("block"), abi.S_IFBLK | 0o644, 0x7fe));
  return ["file", "directory", "link", "fifo", "socket", "null", "block"];
}

/** `length` bytes in which every stretch is different. */
export function pattern(length: number, seed = 1): string {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes.toString("latin1");
}

/** Which times of a path `work` has changed. */
export function changes(path: string, work: () => unknown): { mtime: boolean; ctime: boolean } {
  const before = must<Stat>(stat(path));
  work();
  const after = must<Stat>(stat(path));
  const differ = (name: "mtime" | "ctime"): boolean => before[name].join() !== after[name].join();
  return { mtime: differ("mtime"), ctime: differ("ctime") };
}

/** The value of a POSIX ACL's extended attribute. `id` is only of named users and groups. */
export function acl(
  ...entries: readonly (readonly [tag: keyof typeof ACL_TAGS, permissions: number, id?: number])[]
): string {
  const bytes = Buffer.alloc(4 + 8 * entries.length);
  bytes.writeUInt32LE(2, 0);
  for (const [index, [tag, permissions, id = 0xffffffff]] of entries.entries()) {
    bytes.writeUInt16LE(ACL_TAGS[tag], 4 + 8 * index);
    bytes.writeUInt16LE(permissions, 6 + 8 * index);
    bytes.writeUInt32LE(id, 8 + 8 * index);
  }
  return bytes.toString("latin1");
}
const ACL_TAGS = { owner: 1, user: 2, owningGroup: 4, group: 8, mask: 0x10, other: 0x20 };
export const ACL_ACCESS = "system.posix_acl_access";
export const ACL_DEFAULT = "system.posix_acl_default";
