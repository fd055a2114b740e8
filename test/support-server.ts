// What tests of the server share: requests written as hexadecimal, a file system that records how
// it is called, a server without a kernel, and a generator of broken requests with the rules that
// every answer must keep. The generator is deterministic: a seed gives the same requests again.

import { fuse_in_header, fuse_out_header, FUSE_INTERRUPT } from "../src/abi-fuse.ts";
import { assert } from "../src/assert.ts";
import { EIO } from "../src/errno.ts";
import {
  AttrChanges,
  Context,
  DataIn,
  FileLock,
  FileSystem,
  LockOwner,
  REPLY_LATER,
  type Connection,
} from "../src/filesystem.ts";
import { Memory, map } from "../src/memory.ts";
import { DataOut, DirectoryOut, Reply } from "../src/reply.ts";
import { Bytes, Name, Request } from "../src/request.ts";
import { Server, type ServerOptions } from "../src/server.ts";

/** Bytes written as hexadecimal digits, with text in quotes: `hex("2c000000", "'foo' 00")`. */
export function hex(...parts: string[]): Uint8Array {
  const bytes: number[] = [];
  for (const [token] of parts.join(" ").matchAll(/'[^']*'|[^\s']+/g)) {
    if (token.startsWith("'")) bytes.push(...new TextEncoder().encode(token.slice(1, -1)));
    else if (/^([0-9a-f]{2})+$/.test(token)) bytes.push(...Uint8Array.fromHex(token));
    else throw new Error(`not hexadecimal: ${token}`);
  }
  return Uint8Array.from(bytes);
}

export type Method = Exclude<keyof FileSystem, "init" | "connected" | "shownNodes">;
const OWN: readonly (string | symbol)[] = ["init", "connected", "shownNodes"];
/** What a fake file system does when it is called. */
export type Answers = { readonly [M in Method]?: FileSystem[M] };

/** A file system all of whose methods end in `onCall`, with what they were called with. */
export function fakeFileSystem(onCall: (method: Method, args: unknown[]) => number): FileSystem {
  class Fake extends FileSystem {}
  return new Proxy(new Fake(), {
    get: (target, key) =>
      OWN.includes(key) || typeof key === "symbol"
        ? Reflect.get(target, key)
        : (...args: unknown[]) => onCall(key as Method, args),
  });
}

/** A copy of an argument that stays as it is; undefined for what is only written to. */
export function recorded(argument: unknown): unknown {
  if (argument instanceof Name) return argument.toString();
  if (argument instanceof Bytes) return argument.bytes.slice();
  if (argument instanceof DataIn) return argument.bytes.bytes.slice();
  if (argument instanceof DataOut) return { limit: argument.limit };
  if (argument instanceof DirectoryOut) return { room: argument.room };
  for (const kind of [AttrChanges, LockOwner, FileLock])
    if (argument instanceof kind) return { ...argument };
  return typeof argument === "object" ? undefined : argument;
}

export interface Caller {
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly unique: [low: number, high: number];
  readonly groups: number[];
  readonly securityContexts: [name: string, value: string][];
}

function callerOf(
  { uid, gid, pid, uniqueLow, uniqueHigh, extensions }: Context,
  memory: Memory,
): Caller {
  const groups: number[] = [];
  for (let index = 0; index < extensions.groupCount; index++)
    groups.push(memory.view.getUint32(extensions.groups - memory.address + 4 * index, true));
  const securityContexts = extensions.securityContexts.map(({ name, value }): [string, string] => [
    name.toString(),
    value.bytes.toHex(),
  ]);
  return { uid, gid, pid, unique: [uniqueLow, uniqueHigh], groups, securityContexts };
}

export const CONNECTION: Connection = { minor: 45, flags: 0, flags2: 0, maxWrite: 1 << 20 };

/** A server with its memory, and what it called its file system with. */
export class Harness {
  readonly server: Server;
  /** Method and arguments of each call, without the context and what is only written to. */
  readonly calls: unknown[][] = [];
  readonly callers: Caller[] = [];
  readonly #memory = map(1 << 16);

  constructor(answers: Answers = {}, flags = 0, options: ServerOptions = {}) {
    const fs = fakeFileSystem((method, args) => {
      this.calls.push([method, ...args.map(recorded).filter((argument) => argument !== undefined)]);
      if (args[0] instanceof Context) this.callers.push(callerOf(args[0], this.#memory));
      const answer = answers[method] as ((...args: unknown[]) => number) | undefined;
      return answer === undefined ? 0 : answer(...args);
    });
    const request = new Request(this.#memory, 8);
    const reply = new Reply(map(1 << 16), 8);
    this.server = new Server(fs, { ...CONNECTION, flags }, request, reply, -1, options);
  }

  /** Has `request` served; gives the reply, undefined if there is none. */
  serve(request: Uint8Array): Uint8Array | undefined {
    // What follows a request in its memory are the leftovers of others.
    this.#memory.bytes.fill(0xa5);
    this.#memory.bytes.set(request, this.server.request.base);
    const length = this.server.handle(request.length);
    const { memory, base } = this.server.reply;
    return length === 0 ? undefined : memory.bytes.slice(base, base + length);
  }
}

/** What stands in the reply's header, and how long all of it is. */
export function outHeader(reply: Uint8Array): { length: number; len: number; error: number } {
  const view = new DataView(reply.buffer, reply.byteOffset, reply.byteLength);
  return {
    length: reply.length,
    len: view.getUint32(fuse_out_header.len, true),
    error: view.getInt32(fuse_out_header.error, true),
  };
}

/** Numbers that look random and depend on the seed alone (Marsaglia's xorshift). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0 || 1;
    for (let round = 0; round < 8; round++) this.u32();
  }

  u32(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  /** From 0 to `limit` - 1. */
  below(limit: number): number {
    return this.u32() % limit;
  }

  /** True once in `times`. */
  oneIn(times: number): boolean {
    return this.below(times) === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

/** The seed to replay, or a new one. */
export function chooseSeed(): number {
  const wanted = process.env["FUZZ_SEED"];
  return wanted === undefined ? (Math.random() * 2 ** 31) >>> 0 : Number(wanted);
}

const REQUEST_MAX = 512;
const BODY = fuse_in_header.sizeof;

/** Values at which sizes and counts overflow. */
const EDGES = [0, 1, 2, 7, 8, 16, 40, 255, 256, 4096, 65536, 0x7fffffff, 0x80000000, 0xffffffff];

/** Makes requests out of sound ones: cut, damaged, mixed, with lies about their sizes. */
export class RequestGenerator {
  readonly #random: Random;
  readonly #corpus: readonly Uint8Array[];
  readonly #bytes = new Uint8Array(new ArrayBuffer(REQUEST_MAX));
  readonly #view = new DataView(this.#bytes.buffer);
  #length = 0;

  constructor(random: Random, corpus: readonly Uint8Array[]) {
    this.#random = random;
    this.#corpus = corpus;
  }

  /** The next request; valid until the next call. */
  next(): Uint8Array {
    const random = this.#random;
    this.#take(random.pick(this.#corpus));
    const kind = random.below(16);
    if (kind < 4) this.#length = random.below(this.#length + 1);
    else if (kind < 10) this.#damage();
    else if (kind < 12) this.#mix(random.pick(this.#corpus));
    else if (kind < 14) this.#randomBody();
    if (random.oneIn(4)) this.#extend();
    // Mostly the length is told right, so that what lies behind the header is reached.
    this.#view.setUint32(fuse_in_header.len, random.oneIn(32) ? this.#edge() : this.#length, true);
    return this.#bytes.subarray(0, this.#length);
  }

  #take(request: Uint8Array): void {
    this.#bytes.set(request);
    this.#length = request.length;
  }

  #edge(): number {
    return this.#random.oneIn(4)
      ? this.#length + this.#random.below(5) - 2
      : this.#random.pick(EDGES);
  }

  /** Writes odd values over some fields, mostly of the body. */
  #damage(): void {
    const random = this.#random;
    for (let times = 1 + random.below(4); times > 0; times--) {
      const from = random.oneIn(4) ? 0 : BODY;
      const at = from + random.below(Math.max(1, this.#length - from));
      if (random.oneIn(2)) this.#bytes[at] = random.oneIn(2) ? random.u32() : random.pick(DAMAGE);
      else if (at + 8 < REQUEST_MAX) this.#view.setUint32(at & ~3, this.#edge(), true);
    }
  }

  /** The header of one request with the body of another. */
  #mix(other: Uint8Array): void {
    const body = other.subarray(BODY + this.#random.below(4));
    this.#bytes.set(body, BODY);
    this.#length = BODY + body.length;
  }

  #randomBody(): void {
    this.#length = BODY + this.#random.below(120);
    for (let at = BODY; at < this.#length; at++) this.#bytes[at] = this.#random.u32();
    this.#view.setUint32(fuse_in_header.opcode, this.#random.below(60), true);
  }

  /** Adds an extension block, whose sizes and counts may be lies. */
  #extend(): void {
    const random = this.#random;
    if (this.#length < BODY || this.#length > REQUEST_MAX - 80) return;
    const units = random.below(9);
    const start = this.#length;
    this.#length += units * 8;
    for (let at = start; at + 8 <= this.#length; at += 4) {
      const value = random.oneIn(2) ? random.below(40) : random.oneIn(4) ? this.#edge() : 0;
      this.#view.setUint32(at, value, true);
    }
    if (units > 0) {
      const size = random.oneIn(4) ? this.#edge() : units * 8;
      this.#view.setUint32(start, size, true);
      this.#view.setUint32(start + 4, random.pick([0, 1, 2, 31, 32, 32, 33]), true);
    }
    const told = random.oneIn(8) ? random.u32() : units;
    this.#view.setUint16(fuse_in_header.total_extlen, told, true);
  }
}

/** NUL, `.`, `/` and bytes around them. */
const DAMAGE = [0x00, 0x2e, 0x2f, 0xff];

/** Serves generated requests and checks that every answer keeps the rules. */
export class ServerFuzzer {
  readonly #random: Random;
  readonly #generator: RequestGenerator;
  /** The request ends where its memory does, so that reading on is an error. */
  readonly #memory = new Memory(map(REQUEST_MAX).address, REQUEST_MAX);
  readonly #reply = new Reply(map(8192), 64);
  readonly #servers = new Map<number, Server>();
  readonly #Request: typeof Request;
  #length = 0;
  #result: number | undefined;
  /** How many requests reached the file system. */
  reached = 0;

  /** `RequestClass` is for showing that the fuzzer notices a broken one. */
  constructor(seed: number, corpus: readonly Uint8Array[], RequestClass = Request) {
    this.#random = new Random(seed);
    this.#generator = new RequestGenerator(this.#random, corpus);
    this.#Request = RequestClass;
    this.#reply.memory.bytes.fill(0x5a, 0, this.#reply.base);
  }

  run(count: number): void {
    for (let index = 0; index < count; index++) {
      const request = this.#generator.next();
      try {
        this.#serve(request);
      } catch (error) {
        throw new Error(`request ${index}, ${request.toHex()}`, { cause: error });
      }
    }
  }

  #serve(request: Uint8Array): void {
    this.#length = request.length;
    this.#memory.bytes.set(request, REQUEST_MAX - request.length);
    this.#result = undefined;
    const length = this.#serverFor(request.length).handle(request.length);
    if (length === 0) this.#checkSilence(request);
    else this.#checkReply(request, length);
    const { memory, base } = this.#reply;
    for (let at = 0; at < base; at++)
      assert(memory.bytes[at] === 0x5a, "nothing is written before the reply");
  }

  #serverFor(length: number): Server {
    let server = this.#servers.get(length);
    if (server === undefined) {
      const fs = fakeFileSystem((method, args) => this.#called(method, args));
      const request = new this.#Request(this.#memory, REQUEST_MAX - length);
      server = new Server(fs, { ...CONNECTION, flags: length % 2 ? -1 : 0 }, request, this.#reply);
      this.#servers.set(length, server);
    }
    return server;
  }

  #checkSilence(request: Uint8Array): void {
    if (request.length < BODY || this.#result === REPLY_LATER) return;
    const opcode = new DataView(request.buffer).getUint32(fuse_in_header.opcode, true);
    assert(SILENT.has(opcode) || opcode === FUSE_INTERRUPT, "every request but a few is answered");
  }

  #checkReply(request: Uint8Array, length: number): void {
    const view = this.#reply.view;
    const base = this.#reply.base;
    const error = view.getInt32(base + fuse_out_header.error, true);
    assert(request.length >= BODY, "what has no unique has no answer");
    assert(view.getUint32(base + fuse_out_header.len, true) === length, "len is what is sent");
    assert(length >= fuse_out_header.sizeof, "a reply has a header");
    assert(base + length <= view.byteLength, "a reply fits in its memory");
    assert(error > -512 && error <= 0, "the kernel takes only such errors");
    assert(error !== -EIO, "no request is a bug of ours");
    assert(error === 0 || length === fuse_out_header.sizeof, "an error has no body");
    if (this.#result !== undefined && this.#result < 0)
      assert(error === this.#result, "the file system's error is the answer");
    const asked = new DataView(request.buffer);
    for (const half of [0, 4])
      assert(
        view.getUint32(base + fuse_out_header.unique + half, true) ===
          asked.getUint32(fuse_in_header.unique + half, true),
        "the reply names its request",
      );
  }

  /** The file system: checks what it is handed, and does something of what it may do. */
  #called(method: Method, args: unknown[]): number {
    this.reached++;
    let names = 0;
    for (const argument of args) {
      if (argument instanceof Name) this.#checkName(argument, method, names++);
      else if (argument instanceof Bytes) this.#checkBytes(argument);
      else if (argument instanceof DataIn) this.#checkBytes(argument.bytes);
      else if (argument instanceof Context) this.#checkContext(argument);
      else if (typeof argument === "number") assert(Number.isInteger(argument), "whole numbers");
    }
    const random = this.#random;
    let result = random.oneIn(4) ? -random.pick(ERRORS) : 0;
    if (random.oneIn(64) && LATE.has(method)) result = REPLY_LATER;
    if (result === 0) result = this.#answer(args);
    // These have no result; several may come in a request, or one after an error.
    if (method !== "forget" && method !== "notifyReply" && method !== "destroy")
      this.#result = result;
    return result;
  }

  #answer(args: unknown[]): number {
    for (const argument of args) {
      if (argument instanceof DataOut) {
        const { memory } = this.#reply;
        assert(argument.address + argument.limit <= memory.address + memory.size, "room");
        const size = this.#random.below(argument.limit + 1);
        argument.bytes.fill(0xdd, 0, size);
        return size;
      }
      if (argument instanceof DirectoryOut) {
        for (let length = 1; length < 9 && argument.begin(length); length++)
          argument.add(ENTRY_NAME.subarray(0, length), length, length, 8);
      }
    }
    return 0;
  }

  #checkBytes({ address, length }: Bytes): void {
    const end = this.#memory.address + REQUEST_MAX;
    const start = end - this.#length + BODY;
    assert(address >= start && length >= 0 && address + length <= end, "data lies in the request");
  }

  /** The `index`-th name of a call. */
  #checkName(name: Name, method: Method, index: number): void {
    const text = this.#checkText(name);
    if (method.endsWith("xattr") || (method === "symlink" && index === 1)) return;
    assert(text !== "" && !text.includes("/"), "a name of an entry");
    assert(method === "lookup" || (text !== "." && text !== ".."), "only LOOKUP may ask for dots");
  }

  #checkText(name: Name): string {
    this.#checkBytes(name);
    const after = name.address + name.length - this.#memory.address;
    assert(this.#memory.bytes[after] === 0, "a name ends with its NUL, in the request");
    const text = name.toString();
    assert(!text.includes("\0"), "a name has no other NUL");
    return text;
  }

  #checkContext({ extensions }: Context): void {
    const end = this.#memory.address + REQUEST_MAX;
    const { groups, groupCount } = extensions;
    assert(groupCount === 0 || groups + 4 * groupCount <= end, "groups lie in the request");
    for (const { name, value } of extensions.securityContexts) {
      this.#checkText(name);
      this.#checkBytes(value);
    }
  }
}

const SILENT = new Set([2, 41, 42]);
/** The file system's errors; EIO is the server's own. */
const ERRORS = [1, 2, 13, 22, 28, 38, 39, 61, 95, 116, 511];
/** Operations that may be answered later: those whose result is passed on as it is. */
const LATE = new Set<Method>(["setlk", "read", "write", "flush", "fsync", "lookup", "open"]);
const ENTRY_NAME = new TextEncoder().encode("entry-name");
