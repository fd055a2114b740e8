// Names in a buffer of entries, as getdents64(2) fills it.

import type { Memory } from "./memory.ts";

const DOT = 0x2e;

/** How long the name at `at` is, in bytes, which a NUL ends. */
export function nameLengthAt({ bytes }: Memory, at: number): number {
  let length = 0;
  while (bytes[at + length] !== 0) length++;
  return length;
}

/** Whether the name at `at`, of this length in bytes, is `.` or `..`. */
export function isDotsAt({ bytes }: Memory, at: number, length: number): boolean {
  return bytes[at] === DOT && (length === 1 || (length === 2 && bytes[at + 1] === DOT));
}
