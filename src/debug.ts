// The debug printer: each request and each reply as one line, with the kernel's names for opcodes,
// fields, flags and errors. It knows layouts and constants by the tables below and decodes for
// itself, so that it shows malformed requests as well. It allocates freely: it runs only with
// --debug.
//
//   > OPEN unique=12 nodeid=3 uid=0 gid=0 pid=77 flags=O_RDWR|O_LARGEFILE open_flags=0
//   < OPEN unique=12 fh=9 open_flags=FOPEN_KEEP_CACHE
//
// Of replies only what is not zero is shown. Lines of several workers mix; `unique` tells what
// belongs together.

import * as abi from "./abi-fuse.ts";
import * as linux from "./abi-linux.ts";
import { errnoName } from "./errno.ts";
import { log } from "./log.ts";
import type { Reply } from "./reply.ts";
import { Extensions, type Request } from "./request.ts";
import { opcodeName } from "./operations.ts";
import type { Traced, Tracer } from "./server.ts";
import { roundUp, typeOf, type Layout, type Type } from "./struct.ts";

/** Prints all that a server takes and gives; to the log, at level debug, unless told otherwise. */
export class DebugTracer implements Tracer {
  readonly #say: (line: string) => void;

  constructor(say: (line: string) => void = log.debug) {
    this.#say = say;
  }

  request({ request, setxattrSize }: Traced): void {
    this.#say(describeRequest(request, setxattrSize));
  }

  reply({ request, reply }: Traced, length: number): void {
    if (length > 0) this.#say(describeReply(request, reply, length));
    else if (!UNANSWERED.has(request.opcode)) this.#say(`${begin("<", request)} answered later`);
  }
}

/** The kernel's INIT request, of which the header was read, for the handshake. */
export function describeInitIn(request: Request): string {
  return describeRequest(request, 0);
}

/** The answer to INIT, as it lies in the reply. */
export function describeInitOut(reply: Reply): string {
  return `< INIT ${fields(reply.view, reply.body, typeOf(abi.fuse_init_out), { all: false })}`;
}

/** INIT flags by name. */
export function initFlagNames(flags: number, flags2: number): string[] {
  return [...flagNames(INIT_FLAGS, flags), ...flagNames(INIT_FLAGS2, flags2)];
}

// How numbers are shown.

type Format = (value: bigint) => string;
type Constants = readonly (readonly [name: string, value: number])[];

const decimal: Format = (value) => String(value);
const octal: Format = (value) => `0${value.toString(8)}`;
const signed: Format = (value) => String(BigInt.asIntN(64, value));
const hex: Format = (value) => `0x${value.toString(16)}`;

/** The constants of a module whose names begin so; those with the most bits first, and no masks. */
function constants(module: Record<string, unknown>, prefix: string): Constants {
  const found: [string, number][] = [];
  for (const [name, value] of Object.entries(module))
    if (name.startsWith(prefix) && typeof value === "number" && !NOT_FLAGS.has(name))
      found.push([name, value]);
  const bits = (value: number): number => value.toString(2).replaceAll("0", "").length;
  return found.toSorted(([, a], [, b]) => bits(b) - bits(a) || a - b);
}

const NOT_FLAGS = new Set(["O_ACCMODE", "O_RDONLY", "FUSE_IOCTL_MAX_IOV", "FUSE_SETXATTR_EXT"]);

function flagNames(table: Constants, value: number): string[] {
  const names: string[] = [];
  let rest = value | 0;
  for (const [name, flag] of table) {
    if (flag === 0 || (rest & flag) !== flag) continue;
    names.push(name);
    rest &= ~flag;
  }
  if (rest !== 0) names.push(`0x${(rest >>> 0).toString(16)}`);
  return names;
}

function flags(table: Constants): Format {
  return (value) => flagNames(table, Number(value)).join("|") || "0";
}

/** Exactly one of the constants. */
function oneOf(table: Constants): Format {
  return (value) => table.find(([, known]) => BigInt(known) === value)?.[0] ?? decimal(value);
}

const OPEN_FLAGS = constants(linux, "O_");
const openFlags: Format = (value) => {
  const names = flagNames(OPEN_FLAGS, Number(value));
  // O_RDONLY is no bit, but the absence of two.
  return (Number(value) & linux.O_ACCMODE) === 0
    ? ["O_RDONLY", ...names].join("|")
    : names.join("|");
};

function named<Module>(module: Module, ...names: (keyof Module & string)[]): Constants {
  return names.map((name) => [name, Number(module[name])]);
}

// prettier-ignore
const INIT_FLAGS = named(abi,
  "FUSE_ASYNC_READ", "FUSE_POSIX_LOCKS", "FUSE_FILE_OPS", "FUSE_ATOMIC_O_TRUNC",
  "FUSE_EXPORT_SUPPORT", "FUSE_BIG_WRITES", "FUSE_DONT_MASK", "FUSE_SPLICE_WRITE",
  "FUSE_SPLICE_MOVE", "FUSE_SPLICE_READ", "FUSE_FLOCK_LOCKS", "FUSE_HAS_IOCTL_DIR",
  "FUSE_AUTO_INVAL_DATA", "FUSE_DO_READDIRPLUS", "FUSE_READDIRPLUS_AUTO", "FUSE_ASYNC_DIO",
  "FUSE_WRITEBACK_CACHE", "FUSE_NO_OPEN_SUPPORT", "FUSE_PARALLEL_DIROPS", "FUSE_HANDLE_KILLPRIV",
  "FUSE_POSIX_ACL", "FUSE_ABORT_ERROR", "FUSE_MAX_PAGES", "FUSE_CACHE_SYMLINKS",
  "FUSE_NO_OPENDIR_SUPPORT", "FUSE_EXPLICIT_INVAL_DATA", "FUSE_MAP_ALIGNMENT", "FUSE_SUBMOUNTS",
  "FUSE_HANDLE_KILLPRIV_V2", "FUSE_SETXATTR_EXT", "FUSE_INIT_EXT", "FUSE_INIT_RESERVED",
);
// prettier-ignore
const INIT_FLAGS2 = named(abi,
  "FUSE_SECURITY_CTX", "FUSE_HAS_INODE_DAX", "FUSE_CREATE_SUPP_GROUP", "FUSE_HAS_EXPIRE_ONLY",
  "FUSE_DIRECT_IO_ALLOW_MMAP", "FUSE_PASSTHROUGH", "FUSE_NO_EXPORT_SUPPORT", "FUSE_HAS_RESEND",
  "FUSE_ALLOW_IDMAP", "FUSE_OVER_IO_URING", "FUSE_REQUEST_TIMEOUT",
);

/** By struct and field, or by field alone; everything else is decimal. */
const FORMATS: Readonly<Record<string, Format>> = {
  atime: signed,
  mtime: signed,
  ctime: signed,
  mode: octal,
  umask: octal,
  rdev: hex,
  owner: hex,
  lock_owner: hex,
  sx_flags: hex,
  sx_mask: hex,
  "fuse_access_in.mask": octal,
  "fuse_attr.flags": flags(constants(abi, "FUSE_ATTR_")),
  "fuse_create_in.flags": openFlags,
  "fuse_create_in.open_flags": flags(constants(abi, "FUSE_OPEN_")),
  "fuse_fallocate_in.mode": flags(constants(linux, "FALLOC_FL_")),
  "fuse_file_lock.type": oneOf(named(linux, "F_RDLCK", "F_WRLCK", "F_UNLCK")),
  "fuse_fsync_in.fsync_flags": flags(constants(abi, "FUSE_FSYNC_")),
  "fuse_getattr_in.getattr_flags": flags(constants(abi, "FUSE_GETATTR_")),
  "fuse_init_in.flags": flags(INIT_FLAGS),
  "fuse_init_in.flags2": flags(INIT_FLAGS2),
  "fuse_init_out.flags": flags(INIT_FLAGS),
  "fuse_init_out.flags2": flags(INIT_FLAGS2),
  "fuse_ioctl_in.arg": hex,
  "fuse_ioctl_in.cmd": hex,
  "fuse_ioctl_in.flags": flags(constants(abi, "FUSE_IOCTL_")),
  "fuse_lk_in.lk_flags": flags(constants(abi, "FUSE_LK_")),
  "fuse_lseek_in.whence": oneOf(constants(linux, "SEEK_")),
  "fuse_open_in.flags": openFlags,
  "fuse_open_in.open_flags": flags(constants(abi, "FUSE_OPEN_")),
  "fuse_open_out.open_flags": flags(constants(abi, "FOPEN_")),
  "fuse_poll_in.events": flags(constants(linux, "POLL")),
  "fuse_poll_in.flags": flags(constants(abi, "FUSE_POLL_")),
  "fuse_poll_out.revents": flags(constants(linux, "POLL")),
  "fuse_read_in.flags": openFlags,
  "fuse_read_in.read_flags": flags(constants(abi, "FUSE_READ_")),
  "fuse_release_in.flags": openFlags,
  "fuse_release_in.release_flags": flags(constants(abi, "FUSE_RELEASE_")),
  "fuse_rename2_in.flags": flags(constants(linux, "RENAME_")),
  "fuse_setattr_in.valid": flags(constants(abi, "FATTR_")),
  "fuse_setupmapping_in.flags": flags(constants(abi, "FUSE_SETUPMAPPING_FLAG_")),
  "fuse_setxattr_in.setxattr_flags": flags(constants(abi, "FUSE_SETXATTR_")),
  "fuse_statx_in.getattr_flags": flags(constants(abi, "FUSE_GETATTR_")),
  "fuse_write_in.flags": openFlags,
  "fuse_write_in.write_flags": flags(constants(abi, "FUSE_WRITE_")),
};

const ZERO = /^0[0x]?0?$/;
const HIDDEN = /^_*(pad|padding|spare|unused|dummy|reserved)\d*$/;

interface Shown {
  /** Zeros too. */
  readonly all: boolean;
  /** How many bytes of the struct there are; older ones are shorter. */
  readonly size?: number;
}

/** `name=value` of each field of the struct at `at`; nested structs in braces. */
function fields(view: DataView, at: number, type: Type, { all, size = type.size }: Shown): string {
  const shown: string[] = [];
  for (const field of type.fields ?? []) {
    const { name, offset, type: fieldType } = field;
    if (HIDDEN.test(name) || fieldType.count !== undefined) continue;
    if (offset + fieldType.size > size) break;
    if (fieldType.fields !== undefined) {
      shown.push(`${name}={${fields(view, at + offset, fieldType, { all })}}`);
      continue;
    }
    const format = FORMATS[`${type.name}.${name}`] ?? FORMATS[name] ?? decimal;
    const value = format(scalar(view, at + offset, fieldType));
    if (all || !ZERO.test(value)) shown.push(`${name}=${value}`);
  }
  return shown.join(" ");
}

function scalar(view: DataView, at: number, { name, size }: Type): bigint {
  if (name === "i64") return view.getBigInt64(at, true);
  if (size === 8) return view.getBigUint64(at, true);
  if (name === "i32") return BigInt(view.getInt32(at, true));
  if (size === 4) return BigInt(view.getUint32(at, true));
  return BigInt(size === 2 ? view.getUint16(at, true) : view.getUint8(at));
}

// What requests and replies consist of.

/** How what follows the structs of a reply is shown. */
type Rest = "text" | "dirents" | "direntsplus";

interface Shape {
  readonly in?: Layout;
  /** How many names follow `in`. */
  readonly names?: number;
  /** What repeats after that. */
  readonly each?: Layout;
  readonly out?: readonly Layout[];
  readonly rest?: Rest;
}

const ENTRY = [abi.fuse_entry_out];
const CREATED = [abi.fuse_entry_out, abi.fuse_open_out];

const SHAPES: Readonly<Record<number, Shape>> = {
  [abi.FUSE_INIT]: { in: abi.fuse_init_in, out: [abi.fuse_init_out] },
  [abi.FUSE_LOOKUP]: { names: 1, out: ENTRY },
  [abi.FUSE_FORGET]: { in: abi.fuse_forget_in },
  [abi.FUSE_GETATTR]: { in: abi.fuse_getattr_in, out: [abi.fuse_attr_out] },
  [abi.FUSE_SETATTR]: { in: abi.fuse_setattr_in, out: [abi.fuse_attr_out] },
  [abi.FUSE_READLINK]: { rest: "text" },
  [abi.FUSE_SYMLINK]: { names: 2, out: ENTRY },
  [abi.FUSE_MKNOD]: { in: abi.fuse_mknod_in, names: 1, out: ENTRY },
  [abi.FUSE_MKDIR]: { in: abi.fuse_mkdir_in, names: 1, out: ENTRY },
  [abi.FUSE_UNLINK]: { names: 1 },
  [abi.FUSE_RMDIR]: { names: 1 },
  [abi.FUSE_RENAME]: { in: abi.fuse_rename_in, names: 2 },
  [abi.FUSE_LINK]: { in: abi.fuse_link_in, names: 1, out: ENTRY },
  [abi.FUSE_OPEN]: { in: abi.fuse_open_in, out: [abi.fuse_open_out] },
  [abi.FUSE_READ]: { in: abi.fuse_read_in },
  [abi.FUSE_WRITE]: { in: abi.fuse_write_in, out: [abi.fuse_write_out] },
  [abi.FUSE_STATFS]: { out: [abi.fuse_statfs_out] },
  [abi.FUSE_RELEASE]: { in: abi.fuse_release_in },
  [abi.FUSE_FSYNC]: { in: abi.fuse_fsync_in },
  [abi.FUSE_SETXATTR]: { in: abi.fuse_setxattr_in, names: 1 },
  [abi.FUSE_GETXATTR]: { in: abi.fuse_getxattr_in, names: 1 },
  [abi.FUSE_LISTXATTR]: { in: abi.fuse_getxattr_in, rest: "text" },
  [abi.FUSE_REMOVEXATTR]: { names: 1 },
  [abi.FUSE_FLUSH]: { in: abi.fuse_flush_in },
  [abi.FUSE_OPENDIR]: { in: abi.fuse_open_in, out: [abi.fuse_open_out] },
  [abi.FUSE_READDIR]: { in: abi.fuse_read_in, rest: "dirents" },
  [abi.FUSE_RELEASEDIR]: { in: abi.fuse_release_in },
  [abi.FUSE_FSYNCDIR]: { in: abi.fuse_fsync_in },
  [abi.FUSE_GETLK]: { in: abi.fuse_lk_in, out: [abi.fuse_lk_out] },
  [abi.FUSE_SETLK]: { in: abi.fuse_lk_in },
  [abi.FUSE_SETLKW]: { in: abi.fuse_lk_in },
  [abi.FUSE_ACCESS]: { in: abi.fuse_access_in },
  [abi.FUSE_CREATE]: { in: abi.fuse_create_in, names: 1, out: CREATED },
  [abi.FUSE_INTERRUPT]: { in: abi.fuse_interrupt_in },
  [abi.FUSE_BMAP]: { in: abi.fuse_bmap_in, out: [abi.fuse_bmap_out] },
  [abi.FUSE_IOCTL]: { in: abi.fuse_ioctl_in, out: [abi.fuse_ioctl_out] },
  [abi.FUSE_POLL]: { in: abi.fuse_poll_in, out: [abi.fuse_poll_out] },
  [abi.FUSE_NOTIFY_REPLY]: { in: abi.fuse_notify_retrieve_in },
  [abi.FUSE_BATCH_FORGET]: { in: abi.fuse_batch_forget_in, each: abi.fuse_forget_one },
  [abi.FUSE_FALLOCATE]: { in: abi.fuse_fallocate_in },
  [abi.FUSE_READDIRPLUS]: { in: abi.fuse_read_in, rest: "direntsplus" },
  [abi.FUSE_RENAME2]: { in: abi.fuse_rename2_in, names: 2 },
  [abi.FUSE_LSEEK]: { in: abi.fuse_lseek_in, out: [abi.fuse_lseek_out] },
  [abi.FUSE_COPY_FILE_RANGE]: { in: abi.fuse_copy_file_range_in, out: [abi.fuse_write_out] },
  [abi.FUSE_SETUPMAPPING]: { in: abi.fuse_setupmapping_in },
  [abi.FUSE_REMOVEMAPPING]: { in: abi.fuse_removemapping_in, each: abi.fuse_removemapping_one },
  [abi.FUSE_SYNCFS]: { in: abi.fuse_syncfs_in },
  [abi.FUSE_TMPFILE]: { in: abi.fuse_create_in, names: 1, out: CREATED },
  [abi.FUSE_STATX]: { in: abi.fuse_statx_in, out: [abi.fuse_statx_out] },
  [abi.FUSE_COPY_FILE_RANGE_64]: {
    in: abi.fuse_copy_file_range_in,
    out: [abi.fuse_copy_file_range_out],
  },
};

/** Requests that are right to have no reply. */
const UNANSWERED = new Set([
  abi.FUSE_FORGET,
  abi.FUSE_BATCH_FORGET,
  abi.FUSE_INTERRUPT,
  abi.FUSE_NOTIFY_REPLY,
]);

/** The most of what repeats that one line shows. */
const SHOWN_MAX = 16;

function begin(direction: "<" | ">", request: Request): string {
  const unique = (BigInt(request.uniqueHigh) << 32n) | BigInt(request.uniqueLow);
  return `${direction} ${opcodeName(request.opcode)} unique=${unique}`;
}

/** Only the header of `request` has been looked at. */
function describeRequest(request: Request, setxattrSize: number): string {
  const shape = SHAPES[request.opcode] ?? {};
  const { nodeid, uid, gid, pid } = request;
  const { view, bytes } = request.memory;
  const ids = uid === abi.FUSE_INVALID_UIDGID ? "" : `uid=${uid} gid=${gid} `;
  const parts = [begin(">", request), `nodeid=${nodeid} ${ids}pid=${pid}`];
  let at = request.base + abi.fuse_in_header.sizeof;
  const end = at + request.remaining;
  if (shape.in !== undefined) {
    const type = typeOf(shape.in);
    const size = structSize(request, type.size, setxattrSize);
    parts.push(fields(view, at, type, { all: true, size: Math.min(size, end - at) }));
    at += size;
  }
  for (let names = shape.names ?? 0; names > 0 && at < end; names--) {
    const nul = bytes.indexOf(0, at);
    const stop = nul < 0 ? end : Math.min(nul, end);
    parts.push(quote(bytes.subarray(at, stop)));
    at = stop + 1;
  }
  if (shape.each !== undefined) {
    const { sizeof } = shape.each;
    for (let shown = 0; shown < SHOWN_MAX && at + sizeof <= end; shown++, at += sizeof)
      parts.push(`{${fields(view, at, typeOf(shape.each), { all: true })}}`);
  }
  if (at < end) parts.push(`+ ${end - at} bytes`);
  if (at > end) parts.push("malformed");
  if (request.hasExtensions) parts.push(describeExtensions(request));
  return parts.filter((part) => part !== "").join(" ");
}

/** The structs that were shorter once. */
function structSize(request: Request, size: number, setxattrSize: number): number {
  if (request.opcode === abi.FUSE_SETXATTR) return setxattrSize;
  return request.opcode === abi.FUSE_INIT ? Math.min(size, request.remaining) : size;
}

function describeExtensions(request: Request): string {
  const extensions = new Extensions();
  if (!request.takeExtensions(extensions)) return "malformed extensions";
  const { view, address } = request.memory;
  const { groups, groupCount, securityContexts } = extensions;
  const parts = securityContexts.map(
    ({ name, value }) => `${quote(name.bytes)}=${quote(value.bytes)}`,
  );
  if (groupCount > 0) {
    const list = Array.from({ length: groupCount }, (_, index) =>
      view.getUint32(groups - address + 4 * index, true),
    );
    parts.unshift(`groups=${list.join(",")}`);
  }
  return parts.join(" ");
}

function describeReply(request: Request, reply: Reply, length: number): string {
  const error = reply.view.getInt32(reply.base + abi.fuse_out_header.error, true);
  const parts = [begin("<", request)];
  if (error < 0) return `${parts[0]} ${errnoName(error)}`;
  const end = reply.base + length;
  let at = reply.body;
  const shape = SHAPES[request.opcode] ?? {};
  for (const layout of isSizeOnly(request) ? [abi.fuse_getxattr_out] : (shape.out ?? [])) {
    if (at + layout.sizeof > end) break;
    parts.push(fields(reply.view, at, typeOf(layout), { all: false }));
    at += layout.sizeof;
  }
  if (at < end && shape.rest === undefined) parts.push(`${end - at} bytes`);
  if (at < end && shape.rest === "text") parts.push(quote(reply.memory.bytes.subarray(at, end)));
  if (shape.rest === "dirents" || shape.rest === "direntsplus")
    parts.push(describeEntries(reply, at, end, shape.rest === "direntsplus"));
  const told = parts.filter((part) => part !== "");
  return told.length === 1 ? `${told[0]} ok` : told.join(" ");
}

/** GETXATTR and LISTXATTR of size 0 ask how large the answer would be. */
function isSizeOnly(request: Request): boolean {
  return (
    (request.opcode === abi.FUSE_GETXATTR || request.opcode === abi.FUSE_LISTXATTR) &&
    request.u32(abi.fuse_getxattr_in.size) === 0
  );
}

/** `3 entries, 120 bytes: "a" "b" "c"`. With READDIRPLUS each name is followed by its node. */
function describeEntries(reply: Reply, from: number, end: number, plus: boolean): string {
  const { view } = reply;
  const names: string[] = [];
  const skip = plus ? abi.fuse_direntplus.dirent : 0;
  let at = from;
  while (at + skip + abi.fuse_dirent.sizeof <= end) {
    const length = view.getUint32(at + skip + abi.fuse_dirent.namelen, true);
    const name = at + skip + abi.fuse_dirent.sizeof;
    const node = plus ? `=${view.getBigUint64(at + abi.fuse_entry_out.nodeid, true)}` : "";
    names.push(`${quote(reply.memory.bytes.subarray(name, Math.min(name + length, end)))}${node}`);
    at += roundUp(skip + abi.fuse_dirent.sizeof + length, 8);
  }
  const left = names.length - SHOWN_MAX;
  const shown = names.slice(0, SHOWN_MAX).join(" ");
  const more = left > 0 ? ` and ${left} more` : "";
  return `${names.length} entries, ${end - from} bytes${shown === "" ? "" : ": "}${shown}${more}`;
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** In quotes, with all that could upset a terminal escaped; what is not UTF-8 byte by byte. */
function quote(bytes: Uint8Array): string {
  let text: string;
  try {
    text = JSON.stringify(utf8.decode(bytes));
  } catch {
    text = `"${Array.from(bytes, escapeByte).join("")}"`;
  }
  return text.replaceAll(
    /[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function escapeByte(byte: number): string {
  const isPlain = byte >= 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x5c;
  return isPlain ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`;
}
