// The debug printer: each request and each reply as one line, with the kernel's names for opcodes, fields,
// flags and errors. It knows layouts and constants by the tables below, and decodes for itself, so that it
// shows malformed requests as well. It allocates freely: it runs only with --debug.
//
//   > OPEN unique=12 nodeid=3 uid=0 gid=0 pid=77 flags=O_RDWR|O_LARGEFILE open_flags=0
//   < OPEN unique=12 fh=9 open_flags=FOPEN_KEEP_CACHE
//
// Of replies only what is not zero is shown. Lines of several workers mix; `unique` tells what belongs
// together.

import * as abi from "./abi-fuse.ts";
import * as linux from "./abi-linux.ts";
import { errnoName } from "./errno.ts";
import { log } from "./log.ts";
import type { Reply } from "./reply.ts";
import { Extensions, type Request } from "./request.ts";
import { opcodeName, type Server, type Tracer } from "./server.ts";
import { typeOf, type Layout, type Type } from "./struct.ts";

/** Prints all that a server takes and gives; to the log, at level debug, unless told otherwise. */
export class DebugTracer implements Tracer {
  readonly #say: (line: string) => void;

  constructor(say: (line: string) => void = log.debug) {
    this.#say = say;
  }

  request(server: Server): void {
    this.#say(describeRequest(server.request, server.setxattrSize));
  }

  reply(server: Server, length: number): void {
    const { request, reply } = server;
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
  return (Number(value) & linux.O_ACCMODE) === 0 ? ["O_RDONLY", ...names].join("|") : names.join("|");
};

function named(...names: (keyof typeof abi)[]): Constants {
  return names.map((name) => [name, abi[name] as number]);
}

// prettier-ignore
const INIT_FLAGS = named(
  "FUSE_ASYNC_READ", "FUSE_POSIX_LOCKS", "FUSE_FILE_OPS", "FUSE_ATOMIC_O_TRUNC", "FUSE_EXPORT_SUPPORT",
  "FUSE_BIG_WRITES", "FUSE_DONT_MASK", "FUSE_SPLICE_WRITE", "FUSE_SPLICE_MOVE", "FUSE_SPLICE_READ",
  "FUSE_FLOCK_LOCKS", "FUSE_HAS_IOCTL_DIR", "FUSE_AUTO_INVAL_DATA", "FUSE_DO_READDIRPLUS",
  "FUSE_READDIRPLUS_AUTO", "FUSE_ASYNC_DIO", "FUSE_WRITEBACK_CACHE", "FUSE_NO_OPEN_SUPPORT",
  "FUSE_PARALLEL_DIROPS", "FUSE_HANDLE_KILLPRIV", "FUSE_POSIX_ACL", "FUSE_ABORT_ERROR", "FUSE_MAX_PAGES",
  "FUSE_CACHE_SYMLINKS", "FUSE_NO_OPENDIR_SUPPORT", "FUSE_EXPLICIT_INVAL_DATA", "FUSE_MAP_ALIGNMENT",
  "FUSE_SUBMOUNTS", "FUSE_HANDLE_KILLPRIV_V2", "FUSE_SETXATTR_EXT", "FUSE_INIT_EXT", "FUSE_INIT_RESERVED",
);
// prettier-ignore
const INIT_FLAGS2 = named(
  "FUSE_SECURITY_CTX", "FUSE_HAS_INODE_DAX", "FUSE_CREATE_SUPP_GROUP", "FUSE_HAS_EXPIRE_ONLY",
  "FUSE_DIRECT_IO_ALLOW_MMAP", "FUSE_PASSTHROUGH", "FUSE_NO_EXPORT_SUPPORT", "FUSE_HAS_RESEND",
  "FUSE_ALLOW_IDMAP", "FUSE_OVER_IO_URING", "FUSE_REQUEST_TIMEOUT",
);

/** By struct and field, or by field alone; everything else is decimal. */
const FORMATS: Readonly<Record<string, Format>> = {
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
  "fuse_file_lock.type": oneOf(named3("F_RDLCK", "F_WRLCK", "F_UNLCK")),
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
    const value = scalar(view, at + offset, fieldType);
    if (value === 0n && !all) continue;
    const format = FORMATS[`${type.name}.${name}`] ?? FORMATS[name] ?? decimal;
    shown.push(`${name}=${format(value)}`);
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

/** How what follows the structs is shown. */
type Rest = "bytes" | "text" | "names" | "dirents" | "direntsplus";

interface Shape {
  readonly in?: Layout;
  /** How many names follow. */
  readonly names?: number;
  /** What repeats to the end of the request. */
  readonly each?: Layout;
  readonly out?: readonly Layout[];
  readonly rest?: Rest;
}
