// The bounded reader of requests, by itself: what is put into a request is what comes out of it,
// and 64-bit numbers are what they are in C.

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { map } from "../src/memory.ts";
import {
  Bytes,
  copyU64,
  Extensions,
  Name,
  readI64,
  readU64,
  Request,
  writeU64,
} from "../src/request.ts";
import { hex } from "./support-server.ts";

const memory = map(1 << 16);
const BASE = 72;

/** A request in memory whose header is sound; leftovers follow it. */
function place(parts: readonly Uint8Array[], extensions: Uint8Array): number {
  memory.bytes.fill(0x41);
  let at = BASE + 40;
  for (const part of [...parts, extensions]) {
    memory.bytes.set(part, at);
    at += part.length;
  }
  const length = at - BASE;
  memory.bytes.set(hex("00000000 01000000 0100000000000000 0100000000000000"), BASE);
  memory.bytes.set(hex("00000000 00000000 00000000 0000 0000"), BASE + 24);
  memory.view.setUint32(BASE, length, true);
  memory.view.setUint16(BASE + 36, extensions.length / 8, true);
  return length;
}

const NUL = Uint8Array.of(0);
const nameBytes = fc
  .uint8Array({ maxLength: 80 })
  .map((bytes) => bytes.filter((byte) => byte !== 0));

/** The record of an extension block, padded to 8. */
function record(type: number, body: readonly Uint8Array[]): Uint8Array {
  const size = 8 + body.reduce((sum, part) => sum + part.length, 0);
  const bytes = new Uint8Array((size + 7) & ~7);
  new DataView(bytes.buffer).setUint32(0, size, true);
  new DataView(bytes.buffer).setUint32(4, type, true);
  let at = 8;
  for (const part of body) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

const words = (...values: number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer);

/** A list of security contexts, each padded to 8 within the record. */
function contextRecord(contexts: readonly (readonly [Uint8Array, Uint8Array])[]): Uint8Array {
  const parts = contexts.flatMap(([name, value]) => {
    const size = 8 + name.length + 1 + value.length;
    return [words(value.length, 0), name, NUL, value, new Uint8Array(-size & 7)];
  });
  return record(contexts.length, parts);
}

describe("a request", () => {
  test("gives back its struct, names, data and extensions as they were put in", () => {
    const value = fc.uint8Array({ minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 0, maxLength: 64 }),
        fc.array(nameBytes, { maxLength: 3 }),
        fc.uint8Array({ maxLength: 200 }),
        fc.array(fc.tuple(nameBytes, value), { maxLength: 4 }),
        fc.option(fc.array(fc.nat(), { maxLength: 9 }), { nil: undefined }),
        (struct, names, data, contexts, groups) => {
          const blocks = [contexts.length > 0 ? contextRecord(contexts) : new Uint8Array(0)];
          if (groups !== undefined) blocks.push(record(32, [words(groups.length, ...groups)]));
          const extensions = Uint8Array.from(blocks.flatMap((block) => [...block]));
          const parts = [struct, ...names.flatMap((name) => [name, NUL]), data];

          const request = new Request(memory, BASE);
          expect(request.begin(place(parts, extensions))).toBeTrue();
          expect(request.takeStruct(struct.length)).toBeTrue();
          for (const name of names) {
            const taken = new Name(memory);
            expect(request.takeName(taken)).toBeTrue();
            expect(taken.bytes).toEqual(name);
          }
          const bytes = new Bytes(memory);
          expect(request.remaining).toBe(data.length);
          expect(request.takeBytes(bytes, data.length)).toBeTrue();
          expect(bytes.bytes).toEqual(data);
          expect(request.takeBytes(bytes, 1)).toBeFalse();

          const taken = new Extensions();
          expect(request.hasExtensions).toBe(extensions.length > 0);
          expect(request.takeExtensions(taken)).toBeTrue();
          expect(taken.securityContexts.map((context) => context.name.bytes)).toEqual(
            contexts.map(([name]) => name),
          );
          expect(taken.securityContexts.map((context) => context.value.bytes)).toEqual(
            contexts.map(([, text]) => text),
          );
          expect(taken.groupCount).toBe(groups?.length ?? 0);
          const first = taken.groups - memory.address;
          for (const [index, group] of (groups ?? []).entries())
            expect(memory.view.getUint32(first + 4 * index, true)).toBe(group);
        },
      ),
    );
  });

  test("shorter than its header is no request", () => {
    const request = new Request(memory, BASE);
    const length = place([], new Uint8Array(0));
    expect(length).toBe(40);
    expect(request.begin(40)).toBeTrue();
    for (const short of [0, 1, 39]) expect(request.begin(short)).toBeFalse();
  });

  test("does not find the end of a name in what follows it", () => {
    const request = new Request(memory, BASE);
    const length = place([hex("'abc'")], new Uint8Array(0));
    memory.bytes[BASE + length] = 0;
    request.begin(length);
    request.takeStruct(0);
    expect(request.takeName(new Name(memory))).toBeFalse();
  });

  test("does not find the end of a name in the extension block", () => {
    const request = new Request(memory, BASE);
    request.begin(place([hex("'abc'")], record(33, [])));
    request.takeStruct(0);
    expect(request.takeName(new Name(memory))).toBeFalse();
  });

  test("shows a name that is not UTF-8 with replacement characters, its bytes as they are", () => {
    const request = new Request(memory, BASE);
    request.begin(place([hex("'a' ff 'b' 00")], new Uint8Array(0)));
    request.takeStruct(0);
    const name = new Name(memory);
    expect(request.takeName(name)).toBeTrue();
    expect(String(name)).toBe("a\ufffdb");
    expect(name.bytes).toEqual(hex("'a' ff 'b'"));
  });
});

describe("64-bit numbers", () => {
  const view = new DataView(new ArrayBuffer(32));

  test("are read exactly below 2**53, and rounded as a conversion does above", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (value) => {
        view.setBigUint64(4, value, true);
        expect(readU64(view, 4)).toBe(Number(value));
        expect(Math.abs(readI64(view, 4) - Number(BigInt.asIntN(64, value)))).toBeLessThanOrEqual(
          Math.abs(Number(BigInt.asIntN(64, value))) / 2 ** 52,
        );
      }),
    );
  });

  test("signed ones are read exactly between -(2**53) and 2**53", () => {
    fc.assert(
      fc.property(fc.maxSafeInteger(), (value) => {
        view.setBigInt64(4, BigInt(value), true);
        expect(readI64(view, 4)).toBe(value);
      }),
    );
  });

  test("are written in two's complement", () => {
    fc.assert(
      fc.property(fc.maxSafeInteger(), (value) => {
        writeU64(view, 4, value);
        expect(view.getBigInt64(4, true)).toBe(BigInt(value));
      }),
    );
    writeU64(view, 4, 2 ** 63);
    expect(view.getBigUint64(4, true)).toBe(2n ** 63n);
  });

  test("are carried over bit by bit", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (value) => {
        view.setBigUint64(4, value, true);
        copyU64(view, 4, view, 20);
        expect(view.getBigUint64(20, true)).toBe(value);
      }),
    );
  });
});
