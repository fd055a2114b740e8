// A name as the overlay hands it around: a copy, NUL-terminated, at an address of its own.

import { NAME_MAX } from "./abi-linux.ts";
import { smallMemory, type Address, type Memory } from "./memory.ts";
import type { Name } from "./request.ts";

export class EntryName {
  readonly #memory = smallMemory(NAME_MAX + 1);
  readonly bytes = this.#memory.bytes;
  length = 0;

  get address(): Address {
    return this.#memory.address;
  }

  /** Takes a name of a request. False if it is too long. */
  set(name: Name): boolean {
    const { length } = name;
    if (length > NAME_MAX) return false;
    for (let index = 0; index < length; index++) this.bytes[index] = name.byte(index);
    return this.#end(length);
  }

  /** Takes `length` bytes of `memory`. False if they are too many. */
  setFrom(memory: Memory, at: number, length: number): boolean {
    if (length > NAME_MAX) return false;
    for (let index = 0; index < length; index++) this.bytes[index] = memory.bytes[at + index]!;
    return this.#end(length);
  }

  /** Takes a text whose characters are bytes. False if it is too long. */
  setText(text: string): boolean {
    if (text.length > NAME_MAX) return false;
    for (let index = 0; index < text.length; index++) this.bytes[index] = text.charCodeAt(index);
    return this.#end(text.length);
  }

  copy(from: EntryName): void {
    this.bytes.set(from.bytes);
    this.length = from.length;
  }

  #end(length: number): boolean {
    this.bytes[length] = 0;
    this.length = length;
    return true;
  }

  /** Every byte as one character. */
  get text(): string {
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset, this.length).toString("latin1");
  }
}

const FNV_OFFSET_BASIS = 0x811c9dc5;

/**
 * The FNV-1a hash of a name, stirred, so that its lower and its upper bits can be used apart.
 * Another `salt`, a 32-bit integer, gives another hash.
 */
export function nameHash(bytes: Uint8Array, at: number, length: number, salt = 0): number {
  let hash = FNV_OFFSET_BASIS ^ salt;
  for (let index = 0; index < length; index++)
    hash = Math.imul(hash ^ bytes[at + index]!, 0x01000193);
  return hash ^ (hash >>> 15);
}
