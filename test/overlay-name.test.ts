// Names as the overlay hands them around: copies of any bytes, at an address of their own.

import { expect, test } from "bun:test";
import { cstring, smallMemory } from "../src/memory.ts";
import { EntryName } from "../src/overlay-name.ts";
import { Name } from "../src/request.ts";

const ANY = String.fromCharCode(...Array.from({ length: 255 }, (_, index) => index + 1));

test("a name is any bytes, up to 255", () => {
  const name = new EntryName();
  for (const text of ["a", ".", "\xff\xfe", ANY]) {
    expect(name.setText(text)).toBe(true);
    expect(name.text).toBe(text);
    expect(name.length).toBe(text.length);
    expect(name.bytes[text.length]).toBe(0);
  }
});

test("what is longer is refused, and the name stays what it was", () => {
  const name = new EntryName();
  name.setText("before");
  const long = `${ANY}x`;
  const memory = smallMemory(512);
  memory.bytes.fill(0x78);
  const requested = new Name(memory);
  requested.address = memory.address;
  requested.length = 256;
  expect(name.setText(long)).toBe(false);
  expect(name.setFrom(memory, 0, 256)).toBe(false);
  expect(name.set(requested)).toBe(false);
  expect(name.text).toBe("before");
  requested.length = 255;
  expect(name.set(requested)).toBe(true);
  expect(name.text).toBe("x".repeat(255));
});

test("a shorter name leaves nothing of a longer one", () => {
  const name = new EntryName();
  name.setText(ANY);
  name.setFrom(cstring("abcdef"), 1, 3);
  expect(name.text).toBe("bcd");
  expect(name.bytes[3]).toBe(0);
});

test("a copy does not change with the original", () => {
  const [one, other] = [new EntryName(), new EntryName()];
  one.setText("one");
  other.copy(one);
  one.setText("changed");
  expect(other.text).toBe("one");
  expect(other.bytes[3]).toBe(0);
  expect(other.address).not.toBe(one.address);
});
