// Files whose names hide others, as AUFS has them. They are read wherever they are, and written
// where whiteouts can't be devices.

import { NAME_MAX } from "./abi-linux.ts";
import { cstring, smallMemory } from "./memory.ts";
import type { EntryName } from "./overlay-name.ts";

/** A file of this name hides the one whose name follows. */
const WHITEOUT_PREFIX = ".wh.";
export const PREFIX_LENGTH = WHITEOUT_PREFIX.length;
/** A directory with this file hides all below it. */
export const OPAQUE_FILE = cstring(".wh..wh..opq");

const whiteoutName = smallMemory(NAME_MAX + 1);
new TextEncoder().encodeInto(WHITEOUT_PREFIX, whiteoutName.bytes);

/** Whether a name says that another one is hidden. */
export function isWhiteoutName(name: EntryName): boolean {
  return isWhiteoutAt(name.bytes, 0, name.length);
}

/** The same for the name of `length` bytes at `at`. */
export function isWhiteoutAt(bytes: Uint8Array, at: number, length: number): boolean {
  return (
    length > PREFIX_LENGTH &&
    bytes[at] === 0x2e &&
    bytes[at + 1] === 0x77 &&
    bytes[at + 2] === 0x68 &&
    bytes[at + 3] === 0x2e
  );
}

/** Whether there can be a file `.wh.NAME`. */
export function fitsWhiteout(name: EntryName): boolean {
  return name.length + PREFIX_LENGTH <= NAME_MAX;
}

/** The address of `.wh.NAME`, valid until the next call. */
export function whiteoutPath(name: EntryName): number {
  for (let index = 0; index <= name.length; index++)
    whiteoutName.bytes[PREFIX_LENGTH + index] = name.bytes[index]!;
  return whiteoutName.address;
}
