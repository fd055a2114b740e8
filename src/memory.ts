// Memory whose address never changes, for the kernel to read and write: page-aligned, zeroed,
// outside the JavaScript heap. Small typed arrays of the heap move when they are looked at
// in certain ways, so nothing of theirs is ever handed to a system call.

import { dlopen, FFIType, toArrayBuffer, type Pointer } from "bun:ffi";
import { roundUp } from "./struct.ts";

/** An address in this process. User addresses fit in 47 bits, so a number holds them exactly. */
export type Address = number;

export const PAGE_SIZE = 4096;

export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const PROT_EXEC = 4;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;

const libc = dlopen("libc.so.6", {
  mmap: { args: ["u64", "u64", "i32", "i32", "i32", "u64"], returns: FFIType.i64_fast },
  mprotect: { args: ["u64", "u64", "i32"], returns: "i32" },
}).symbols;

/** The views of one stretch of memory. They stay valid for the life of the process. */
export class Memory {
  readonly address: Address;
  readonly size: number;
  readonly view: DataView<ArrayBuffer>;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly i32: Int32Array<ArrayBuffer>;
  readonly u32: Uint32Array<ArrayBuffer>;
  readonly f64: Float64Array<ArrayBuffer>;

  /** `address` must stay mapped for `size` bytes and be aligned to 8. */
  constructor(address: Address, size: number) {
    const buffer = toArrayBuffer(address as Pointer, 0, size);
    this.address = address;
    this.size = size;
    this.view = new DataView(buffer);
    this.bytes = new Uint8Array(buffer);
    this.i32 = new Int32Array(buffer, 0, size >>> 2);
    this.u32 = new Uint32Array(buffer, 0, size >>> 2);
    this.f64 = new Float64Array(buffer, 0, size >>> 3);
  }
}

/**
 * New zeroed pages. `fd` maps a file (a memfd, a ring) from `offset` on, shared, instead of
 * anonymous private memory. Pages cost memory only once they are touched.
 */
export function map(size: number, fd = -1, offset = 0): Memory {
  const bytes = roundUp(size, PAGE_SIZE);
  const flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED | MAP_NORESERVE;
  const address = Number(libc.mmap(0, bytes, PROT_READ | PROT_WRITE, flags, fd, offset));
  if (address === -1) throw new Error(`cannot map ${bytes} bytes of memory`);
  return new Memory(address, bytes);
}

/** Makes a page filled with machine code executable, and no longer writable. */
export function makeExecutable(code: Memory): void {
  if (libc.mprotect(code.address, code.size, PROT_READ | PROT_EXEC) !== 0)
    throw new Error("cannot make a page executable: the system forbids it (SELinux? seccomp?)");
}

const encoder = new TextEncoder();

/** A NUL-terminated copy of a string or of bytes, for paths that are not hot. */
export function cstring(text: string | Uint8Array): Memory {
  const bytes = typeof text === "string" ? encoder.encode(text) : text;
  if (bytes.includes(0)) throw new Error("a path must not contain a NUL byte");
  const memory = smallMemory(bytes.length + 1);
  memory.bytes.set(bytes);
  return memory;
}

let passing: Memory | undefined;

/**
 * The address of such a copy in memory that the next call uses again: for a string that one system
 * call takes, where there may be many of them.
 */
export function passingString(text: string): Address {
  passing ??= map(4 * PAGE_SIZE);
  const { read, written } = encoder.encodeInto(text, passing.bytes.subarray(0, -1));
  if (read < text.length) return cstring(text).address;
  if (text.includes("\0")) throw new Error("a path must not contain a NUL byte");
  passing.bytes[written] = 0;
  return passing.address;
}

// Strings are short and few: they are cut from a page at a time, which is kept for good.
let page: Memory | undefined;
let pageUsed = 0;

/** Zeroed memory for a few bytes, aligned to 8, kept for the life of the process. */
export function smallMemory(size: number): Memory {
  const bytes = roundUp(size, 8);
  if (bytes > PAGE_SIZE / 2) return map(bytes);
  if (page === undefined || pageUsed + bytes > page.size) {
    page = map(16 * PAGE_SIZE);
    pageUsed = 0;
  }
  const memory = new Memory(page.address + pageUsed, bytes);
  pageUsed += bytes;
  return memory;
}
