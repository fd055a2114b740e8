// C layouts as data: the rules of alignment, and what is recorded for those who print structs.

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { array, i32, i64, roundUp, struct, typeOf, u16, u32, u64, u8 } from "../src/struct.ts";

describe("a struct", () => {
  test("has each field at its natural alignment, and a size that keeps arrays aligned", () => {
    const mixed = struct("mixed", { a: u8, b: u16, c: u8, d: u32, e: u8, f: u64, g: u8 });
    expect(mixed).toEqual({ a: 0, b: 2, c: 4, d: 8, e: 12, f: 16, g: 24, sizeof: 32 });
  });

  test("nests with the alignment of its widest field", () => {
    const inner = struct("inner", { x: u8, y: i64 });
    const outer = struct("outer", { a: u8, inner, b: u8 });
    expect(outer).toEqual({ a: 0, inner: 8, b: 24, sizeof: 32 });
  });

  test("aligns an array as its elements", () => {
    const padded = struct("padded", { a: u8, list: array(u16, 3), b: u8, rest: array(u8, 5) });
    expect(padded).toEqual({ a: 0, list: 2, b: 8, rest: 9, sizeof: 14 });
  });

  test("knows its fields in order, with their types", () => {
    const pair = struct("pair", { first: i32, second: array(u64, 2) });
    const type = typeOf(pair);
    expect({ name: type.name, size: type.size, align: type.align }).toEqual({
      name: "pair",
      size: 24,
      align: 8,
    });
    expect(type.fields!.map(({ name, offset, type }) => [name, offset, type.name])).toEqual([
      ["first", 0, "i32"],
      ["second", 8, "u64[2]"],
    ]);
    expect(typeOf(struct("holder", { pair })).fields![0]!.type).toBe(type);
  });

  test("is told from other objects", () => {
    expect(() => typeOf({ sizeof: 4 })).toThrow(TypeError);
  });

  test("never overlaps its fields, wastes less than an alignment, and holds them all", () => {
    const types = fc.constantFrom(u8, u16, u32, i32, u64, i64, array(u8, 3), array(u32, 5));
    fc.assert(
      fc.property(fc.array(types, { minLength: 1, maxLength: 12 }), (list) => {
        const fields = Object.fromEntries(list.map((type, index) => [`field${index}`, type]));
        const type = typeOf(struct("random", fields));
        let end = 0;
        for (const field of type.fields!) {
          expect(field.offset % field.type.align).toBe(0);
          expect(field.offset).toBeGreaterThanOrEqual(end);
          expect(field.offset - end).toBeLessThan(field.type.align);
          end = field.offset + field.type.size;
        }
        expect(type.size).toBe(roundUp(end, type.align));
      }),
    );
  });
});

test("roundUp gives the next multiple of a power of two", () => {
  const number = fc.integer({ min: 0, max: 2 ** 30 });
  fc.assert(
    fc.property(number, fc.integer({ min: 0, max: 16 }), (value, power) => {
      const multiple = 2 ** power;
      expect(roundUp(value, multiple)).toBe(Math.ceil(value / multiple) * multiple);
    }),
  );
});
