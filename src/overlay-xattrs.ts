// The overlay's own attributes on the files of its layers, as the kernel's overlayfs keeps them
// (Documentation/filesystems/overlayfs.rst), and those that fuse-overlayfs writes.

import { AT_SYMLINK_NOFOLLOW, XATTR_LIST_MAX, XATTR_SIZE_MAX } from "./abi-linux.ts";
import { ENODATA, ENOSYS, EOPNOTSUPP, EPERM, ERANGE } from "./errno.ts";
import { cstring, map, smallMemory, type Address, type Memory } from "./memory.ts";
import { OVERRIDE_PREFIXES } from "./overlay-override.ts";
import type { ProcFds } from "./passthrough-proc.ts";
import { fsetxattr, getxattr, listxattr, listxattrat, removexattr, setxattr } from "./syscall.ts";

/** What a file is marked as. */
export const MARK_OPAQUE = 1;
/** A directory with whiteouts that are files with an attribute. */
export const MARK_XWHITEOUTS = 2;
export const MARK_REDIRECT = 4;
export const MARK_ORIGIN = 8;
export const MARK_METACOPY = 16;
export const MARK_WHITEOUT = 32;
export const MARK_IMPURE = 64;
export const MARK_NLINK = 128;
export const MARK_PROTATTR = 256;

const TRUSTED = "trusted.overlay.";
const USER = "user.overlay.";
const FUSE_OVERLAYFS = "user.fuseoverlayfs.";

const MARKS: readonly (readonly [name: string, mark: number])[] = [
  ["opaque", MARK_OPAQUE],
  ["redirect", MARK_REDIRECT],
  ["origin", MARK_ORIGIN],
  ["metacopy", MARK_METACOPY],
  ["whiteout", MARK_WHITEOUT],
  ["impure", MARK_IMPURE],
  ["nlink", MARK_NLINK],
  ["protattr", MARK_PROTATTR],
];

const T = 0x74;
const U = 0x75;

// Scratch memory of the thread, for all overlays that it serves.
const list = map(XATTR_LIST_MAX);
const value = map(XATTR_SIZE_MAX);
const byte = smallMemory(8);

export type PrivateName =
  | "opaque"
  | "redirect"
  | "origin"
  | "metacopy"
  | "impure"
  | "nlink"
  | "protattr"
  | "uuid"
  | "upper"
  | "handle-key";

export class OverlayXattrs {
  readonly #proc: ProcFds;
  readonly #hasOverrides: boolean;
  /** With the dot at its end. */
  readonly prefix: string;
  readonly #names: Readonly<Record<PrivateName, Memory>>;
  /** By the whole name, for names of this overlay. */
  readonly #marks: ReadonlyMap<string, number>;
  readonly #foreignOpaque = [`${TRUSTED}opaque`, `${USER}opaque`, `${FUSE_OVERLAYFS}opaque`];
  #hasListAt = true;
  /** The value that `read` found. */
  readonly value = value;

  /**
   * `isUser`: the attributes begin with `user.`, where `trusted.` ones can't be had.
   * `hasOverrides`: owners and modes are in attributes, which are then not for users either.
   */
  constructor(proc: ProcFds, isUser: boolean, hasOverrides: boolean) {
    this.#proc = proc;
    this.#hasOverrides = hasOverrides;
    this.prefix = isUser ? USER : TRUSTED;
    const name = (text: PrivateName): Memory => cstring(this.prefix + text);
    this.#names = {
      opaque: name("opaque"),
      redirect: name("redirect"),
      origin: name("origin"),
      metacopy: name("metacopy"),
      impure: name("impure"),
      nlink: name("nlink"),
      protattr: name("protattr"),
      uuid: name("uuid"),
      upper: name("upper"),
      "handle-key": name("handle-key"),
    };
    this.#marks = new Map(MARKS.map(([text, mark]) => [this.prefix + text, mark]));
  }

  /** What the file behind `fd` (O_PATH will do) is marked as; 0 if its attributes can't be had. */
  marks(fd: number): number {
    const length = listxattr(this.#proc.path(fd), list.address, list.size);
    return length <= 0 ? 0 : this.#parse(fd, length);
  }

  /**
   * The same for a file that was just opened as `fd` under a name, which is faster. Before Linux
   * 6.13 there is no such call, some sandboxes refuse it, and an O_PATH descriptor in place of a
   * name will not do.
   */
  marksAt(dirfd: number, name: Address, fd: number): number {
    if (!this.#hasListAt) return this.marks(fd);
    const length = listxattrat(dirfd, name, AT_SYMLINK_NOFOLLOW, list.address, list.size);
    if (length === -ENOSYS || length === -EPERM) {
      this.#hasListAt = false;
      return this.marks(fd);
    }
    return length <= 0 ? 0 : this.#parse(fd, length);
  }

  /** Whether a file is known to be marked in no way, without a descriptor of it. */
  isUnmarkedAt(dirfd: number, name: Address): boolean {
    if (!this.#hasListAt) return false;
    const length = listxattrat(dirfd, name, AT_SYMLINK_NOFOLLOW, list.address, list.size);
    const { bytes } = list;
    for (let at = 0; at < length; at = bytes.indexOf(0, at) + 1)
      if (bytes[at] === T || bytes[at] === U) return false;
    return length >= 0;
  }

  #parse(fd: number, length: number): number {
    const { bytes } = list;
    let marks = 0;
    for (let at = 0; at < length;) {
      const end = bytes.indexOf(0, at);
      // Only `trusted.` and `user.` attributes can be ours.
      if (bytes[at] === T || bytes[at] === U) marks |= this.#mark(fd, at, end);
      at = end + 1;
    }
    return marks;
  }

  #mark(fd: number, start: number, end: number): number {
    const { buffer, byteOffset } = list.bytes;
    const name = Buffer.from(buffer, byteOffset + start, end - start).toString("latin1");
    if (this.#foreignOpaque.includes(name)) return this.#opaque(fd, name);
    return this.#marks.get(name) ?? 0;
  }

  /** `y`: nothing below is seen; `x`: there may be whiteouts that are files. */
  #opaque(fd: number, name: string): number {
    const length = getxattr(this.#proc.path(fd), cstringOf(name), byte.address, 1);
    if (length !== 1) return 0;
    return byte.bytes[0] === 0x79 ? MARK_OPAQUE : byte.bytes[0] === 0x78 ? MARK_XWHITEOUTS : 0;
  }

  /** Reads an attribute into `value`. Returns its length, or -errno (ENODATA). */
  read(fd: number, name: PrivateName): number {
    const { address, size } = this.value;
    return getxattr(this.#proc.path(fd), this.#names[name].address, address, size);
  }

  /** The value as text, each byte one character; undefined if there is none. */
  readText(fd: number, name: PrivateName): string | undefined {
    const length = this.read(fd, name);
    return length < 0
      ? undefined
      : Buffer.from(this.value.bytes.subarray(0, length)).toString("latin1");
  }

  /** Returns 0 or -errno. */
  write(fd: number, name: PrivateName, from: Address, length: number): number {
    return setxattr(this.#proc.path(fd), this.#names[name].address, from, length, 0);
  }

  /** The same for a descriptor that is not an O_PATH one: it takes no path. */
  writeOpen(fd: number, name: PrivateName, from: Address, length: number): number {
    return fsetxattr(fd, this.#names[name].address, from, length, 0);
  }

  /** The same with a text whose characters are bytes. */
  writeText(fd: number, name: PrivateName, text: string): number {
    const bytes = Buffer.from(text, "latin1");
    if (bytes.length > this.value.size) return -ERANGE;
    this.value.bytes.set(bytes);
    return this.write(fd, name, this.value.address, bytes.length);
  }

  remove(fd: number, name: PrivateName): number {
    const result = removexattr(this.#proc.path(fd), this.#names[name].address);
    return result === -ENODATA ? 0 : result;
  }

  // --- Attributes of the overlay's users ---

  /** Whether it belongs to the overlay, and is not for its users. */
  isPrivate(name: string): boolean {
    return (
      name.startsWith(this.prefix) ||
      name.startsWith(FUSE_OVERLAYFS) ||
      (this.#hasOverrides && OVERRIDE_PREFIXES.some((prefix) => name.startsWith(prefix)))
    );
  }

  /** What a user's attribute is called in a layer: those that look like ours are set apart. */
  toLayer(name: string): string {
    return name.startsWith(this.prefix)
      ? `${this.prefix}overlay.${name.slice(this.prefix.length)}`
      : name;
  }

  /** What a layer's attribute is called for users; undefined if it is not for them. */
  toUser(name: string): string | undefined {
    const escaped = `${this.prefix}overlay.`;
    if (name.startsWith(escaped)) return this.prefix + name.slice(escaped.length);
    return this.isPrivate(name) ? undefined : name;
  }

  /**
   * Copies the attributes of the file behind `from` to the one behind `to`, but the overlay's own.
   * Returns 0 or -errno.
   */
  copy(from: number, to: number): number {
    const length = listxattr(this.#proc.path(from), list.address, list.size);
    if (length === -EOPNOTSUPP || length === 0) return 0;
    if (length < 0) return length;
    const names = Buffer.from(list.bytes.buffer, list.bytes.byteOffset, length).toString("latin1");
    for (const name of names.split("\0")) {
      if (name === "" || this.toUser(name) === undefined) continue;
      const result = this.#copyOne(from, to, name);
      if (result < 0) return result;
    }
    return 0;
  }

  #copyOne(from: number, to: number, name: string): number {
    const address = cstringOf(name);
    const length = getxattr(this.#proc.path(from), address, value.address, value.size);
    if (length < 0) return length === -ENODATA ? 0 : length;
    const result = setxattr(this.#proc.path(to), address, value.address, length, 0);
    // An upper layer without a kind of attributes loses them, but not what grants or denies access.
    const isAcl = name.startsWith("system.posix_acl_") && !this.#hasOverrides;
    const mayLose = !name.startsWith("security.") && !isAcl;
    if (result === -EOPNOTSUPP && mayLose) return 0;
    // Labels and the like that this process may not set.
    return result === -EPERM && name.startsWith("trusted.") ? 0 : result;
  }
}

const nameScratch = smallMemory(256);

/** The address of a NUL-terminated copy, valid until the next call. */
function cstringOf(name: string): Address {
  const length = Math.min(name.length, 255);
  for (let index = 0; index < length; index++) nameScratch.bytes[index] = name.charCodeAt(index);
  nameScratch.bytes[length] = 0;
  return nameScratch.address;
}
