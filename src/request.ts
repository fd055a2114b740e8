// One FUSE request in memory: struct fuse_in_header, the opcode's argument struct, names, data, and
// at the very end the extension block. This is the only place that checks the bounds of what came
// in: `begin` checks the header, `take…` check what follows. After `takeStruct(size)` succeeded,
// the accessors (`u32`, `u64`) may be used for offsets below `size`.
//
// Failing to take something leaves the request `malformed`; the server answers EINVAL.

import {
  FUSE_EXT_GROUPS,
  FUSE_MAX_NR_SECCTX,
  fuse_ext_header,
  fuse_in_header,
  fuse_secctx,
  fuse_secctx_header,
  fuse_supp_groups,
} from "./abi-fuse.ts";
import type { Address, Memory } from "./memory.ts";
import { roundUp } from "./struct.ts";

/** Some bytes of a request. Valid until the request is answered. */
export class Bytes {
  address: Address = 0;
  length = 0;
  readonly #memory: Memory;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** One of them, by its index below `length`. */
  byte(index: number): number {
    return this.#memory.bytes[this.address - this.#memory.address + index]!;
  }

  /** The bytes themselves; the view shares the request's memory. */
  get bytes(): Uint8Array {
    const start = this.address - this.#memory.address;
    return this.#memory.bytes.subarray(start, start + this.length);
  }
}

const decoder = new TextDecoder();
const DOT = 0x2e;
const SLASH = 0x2f;

/** A name in a request: NUL-terminated in place, so that `address` can go to a system call. */
export class Name extends Bytes {
  /** The name as text; bytes that are not UTF-8 become U+FFFD. */
  override toString(): string {
    return decoder.decode(this.bytes);
  }

  /** Whether it consists of these bytes. */
  is(bytes: Uint8Array): boolean {
    if (this.length !== bytes.length) return false;
    for (let index = 0; index < bytes.length; index++)
      if (this.byte(index) !== bytes[index]) return false;
    return true;
  }

  /** Whether it is `.` or `..`. */
  get isDots(): boolean {
    const { length } = this;
    return length > 0 && length <= 2 && this.byte(0) === DOT && this.byte(length - 1) === DOT;
  }

  /** Whether it can stand for an entry of a directory: not empty and without a slash. */
  get isEntry(): boolean {
    const { length } = this;
    for (let index = 0; index < length; index++) if (this.byte(index) === SLASH) return false;
    return length > 0;
  }
}

export class Request {
  readonly memory: Memory;
  /** Where the request begins in `memory`. */
  base: number;
  readonly #view: DataView;

  opcode = 0;
  uniqueLow = 0;
  uniqueHigh = 0;
  /** Node ids are given out by our file systems, all below 2**53. */
  nodeid = 0;
  uid = 0;
  gid = 0;
  pid = 0;

  /** Where the argument struct begins. */
  #struct = 0;
  /** Where the next name or data begins. */
  #cursor = 0;
  #end = 0;
  #extensionsEnd = 0;

  constructor(memory: Memory, base: number) {
    this.memory = memory;
    this.base = base;
    this.#view = memory.view;
  }

  get address(): Address {
    return this.memory.address + this.base;
  }

  /** Begins to read a request of `length` bytes; false if there is no sound header. */
  begin(length: number): boolean {
    if (length < fuse_in_header.sizeof) return false;
    const view = this.#view;
    const base = this.base;
    this.opcode = view.getUint32(base + fuse_in_header.opcode, true);
    this.uniqueLow = view.getUint32(base + fuse_in_header.unique, true);
    this.uniqueHigh = view.getUint32(base + fuse_in_header.unique + 4, true);
    this.nodeid = readU64(view, base + fuse_in_header.nodeid);
    this.uid = view.getUint32(base + fuse_in_header.uid, true);
    this.gid = view.getUint32(base + fuse_in_header.gid, true);
    this.pid = view.getUint32(base + fuse_in_header.pid, true);
    const extensions = view.getUint16(base + fuse_in_header.total_extlen, true) * 8;
    this.#struct = base + fuse_in_header.sizeof;
    this.#cursor = this.#struct;
    this.#extensionsEnd = base + length;
    this.#end = this.#extensionsEnd - extensions;
    return view.getUint32(base + fuse_in_header.len, true) === length && this.#end >= this.#struct;
  }

  /** Takes the argument struct. */
  takeStruct(size: number): boolean {
    this.#cursor = this.#struct + size;
    return this.#cursor <= this.#end;
  }

  /** A field of the argument struct, by its offset. */
  u32(field: number): number {
    return this.#view.getUint32(this.#struct + field, true);
  }

  u64(field: number): number {
    return readU64(this.#view, this.#struct + field);
  }

  i64(field: number): number {
    return readI64(this.#view, this.#struct + field);
  }

  /** Takes bytes up to and without the next NUL; false if there is none. */
  takeName(name: Name): boolean {
    const bytes = this.memory.bytes;
    const start = this.#cursor;
    let end = start;
    while (end < this.#end && bytes[end] !== 0) end++;
    name.address = this.memory.address + start;
    name.length = end - start;
    this.#cursor = end + 1;
    return end < this.#end;
  }

  /** Takes the next `length` bytes. */
  takeBytes(data: Bytes, length: number): boolean {
    data.address = this.memory.address + this.#cursor;
    data.length = length;
    this.#cursor += length;
    return this.#cursor <= this.#end;
  }

  /** How much is left to take. */
  get remaining(): number {
    return this.#end - this.#cursor;
  }

  get hasExtensions(): boolean {
    return this.#end < this.#extensionsEnd;
  }

  /** Takes the extension block apart; false if a record does not fit in what surrounds it. */
  takeExtensions(into: Extensions): boolean {
    let at = this.#end;
    while (at < this.#extensionsEnd) {
      if (at + fuse_ext_header.sizeof > this.#extensionsEnd) return false;
      const size = this.#view.getUint32(at + fuse_ext_header.size, true);
      const type = this.#view.getUint32(at + fuse_ext_header.type, true);
      if (size < fuse_ext_header.sizeof || size > this.#extensionsEnd - at) return false;
      const taken =
        type === FUSE_EXT_GROUPS
          ? this.#takeGroups(at, size, into)
          : type > FUSE_MAX_NR_SECCTX || this.#takeContexts(at, size, into);
      if (!taken) return false;
      at += roundUp(size, 8);
    }
    return true;
  }

  #takeGroups(at: number, size: number, into: Extensions): boolean {
    const list = at + fuse_ext_header.sizeof + fuse_supp_groups.sizeof;
    if (list > at + size) return false;
    const count = this.#view.getUint32(list - fuse_supp_groups.sizeof, true);
    into.groupCount = count;
    into.groups = this.memory.address + list;
    into.memory = this.memory;
    return count <= (at + size - list) >>> 2;
  }

  /** A list of security contexts: its header has the form of fuse_ext_header. */
  #takeContexts(at: number, size: number, into: Extensions): boolean {
    const end = at + size;
    const count = this.#view.getUint32(at + fuse_secctx_header.nr_secctx, true);
    let next = at + fuse_secctx_header.sizeof;
    for (let index = 0; index < count; index++) {
      const start = next + fuse_secctx.sizeof;
      if (start > end) return false;
      const length = this.#view.getUint32(next + fuse_secctx.size, true);
      let nameEnd = start;
      while (nameEnd < end && this.memory.bytes[nameEnd] !== 0) nameEnd++;
      const value = nameEnd + 1;
      if (value > end || length > end - value) return false;
      if (length > 0) into.add(this.memory, start, nameEnd - start, value, length);
      next = value + length;
      next = at + roundUp(next - at, 8);
    }
    return true;
  }
}

/** What the extension block of a creating request brings. */
export class Extensions {
  /** Supplementary groups of the caller: this many u32 at `groups`. */
  groupCount = 0;
  groups: Address = 0;
  /** Where they lie. */
  memory: Memory | undefined;
  /** Security attributes to be set on what is created, as xattr names and values. */
  readonly securityContexts: { name: Name; value: Bytes }[] = [];

  clear(): void {
    this.groupCount = 0;
    if (this.securityContexts.length > 0) this.securityContexts.length = 0;
  }

  /** Replaces each group by what `map` makes of it, and leaves out those that it makes < 0. */
  mapGroups(map: (group: number) => number): void {
    const { memory } = this;
    if (this.groupCount === 0 || memory === undefined) return;
    const { view } = memory;
    const at = this.groups - memory.address;
    let kept = 0;
    for (let index = 0; index < this.groupCount; index++) {
      const mapped = map(view.getUint32(at + 4 * index, true));
      if (mapped >= 0) view.setUint32(at + 4 * kept++, mapped, true);
    }
    this.groupCount = kept;
  }

  add(memory: Memory, name: number, nameLength: number, value: number, valueLength: number): void {
    const context = { name: new Name(memory), value: new Bytes(memory) };
    context.name.address = memory.address + name;
    context.name.length = nameLength;
    context.value.address = memory.address + value;
    context.value.length = valueLength;
    this.securityContexts.push(context);
  }
}

const TWO_32 = 4294967296;

/** An unsigned 64-bit number; above 2**53 it is rounded. */
export function readU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
}

/** A signed 64-bit number; beyond 2**53 either way it is rounded. */
export function readI64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getInt32(at + 4, true) * TWO_32;
}

/** Writes a whole number, negative ones in two's complement. */
export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value, true);
  view.setUint32(at + 4, Math.floor(value / TWO_32), true);
}

/** Carries 64 bits over as they are. */
export function copyU64(from: DataView, fromAt: number, to: DataView, toAt: number): void {
  to.setUint32(toAt, from.getUint32(fromAt, true), true);
  to.setUint32(toAt + 4, from.getUint32(fromAt + 4, true), true);
}
