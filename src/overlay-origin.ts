// Where an upper file comes from: the lower file that it was copied up from, in the attribute
// `overlay.origin`, as the kernel's overlayfs encodes it (struct ovl_fb of
// fs/overlayfs/overlayfs.h): the uuid of the lower file system and the file handle there. It keeps
// the inode number the same over a copy-up, and the hexadecimal form of it names what is in the
// index.

import { O_CLOEXEC, O_NOFOLLOW, O_PATH, S_IFMT, stat } from "./abi-linux.ts";
import { ENODATA } from "./errno.ts";
import { FILE_HANDLE_MAX } from "./limits.ts";
import { smallMemory, type Address, type Memory } from "./memory.ts";
import { takeHandle } from "./passthrough-devices.ts";
import { struct, u8, array } from "./struct.ts";
import { close, fstat, open_by_handle_at } from "./syscall.ts";

const ovl_fb = struct("ovl_fb", {
  version: u8,
  magic: u8,
  /** Of all of it, in bytes. */
  len: u8,
  flags: u8,
  type: u8,
  uuid: array(u8, 16),
});
const VERSION = 0;
const MAGIC = 0xfb;
/** The handle is of the upper file itself, as the index has it of directories. */
export const PATH_UPPER = 1 << 2;
/** The byte order matters, and is this machine's: little-endian. */
const KNOWN_FLAGS = PATH_UPPER;

export const ORIGIN_MAX = ovl_fb.sizeof + FILE_HANDLE_MAX;

/** A layer, for finding files by their handles. */
export interface HandleLayer {
  /** A descriptor on its file system that open_by_handle_at(2) takes. */
  readonly mountFd: number;
  /** Of its file system, 32 hexadecimal digits. */
  readonly uuid: string;
}

// Scratch memory of the thread, for all overlays that it serves.
const handle = smallMemory(8 + FILE_HANDLE_MAX);
const encoded = smallMemory(ORIGIN_MAX);

export class Origins {
  /** What `encode` made. */
  readonly encoded: Memory = encoded;
  readonly #layers: readonly HandleLayer[];
  readonly #uuids: readonly Uint8Array[];

  /** `layers` are the lower ones, from the top. */
  constructor(layers: readonly HandleLayer[]) {
    this.#layers = layers;
    this.#uuids = layers.map(({ uuid }) => Buffer.from(uuid, "hex"));
  }

  /**
   * Encodes the file behind `fd`, which is in lower layer number `layer`, into `encoded`. Returns
   * the number of bytes, 0 if its file system has no handles.
   */
  encode(fd: number, layer: number, flags = 0): number {
    if (!takeHandle(fd, handle)) return 0;
    const { view, bytes } = this.encoded;
    const length = handle.view.getUint32(0, true);
    view.setUint8(ovl_fb.version, VERSION);
    view.setUint8(ovl_fb.magic, MAGIC);
    view.setUint8(ovl_fb.len, ovl_fb.sizeof + length);
    view.setUint8(ovl_fb.flags, flags);
    view.setUint8(ovl_fb.type, handle.view.getInt32(4, true));
    bytes.set(this.#uuids[layer]!, ovl_fb.uuid);
    bytes.set(handle.bytes.subarray(8, 8 + length), ovl_fb.sizeof);
    return ovl_fb.sizeof + length;
  }

  /** Whether the first `length` bytes of `from` are what the file behind `fd` is encoded as. */
  isEncoded(from: Memory, length: number, fd: number, layer: number, flags = 0): boolean {
    if (this.encode(fd, layer, flags) !== length) return false;
    const own = this.encoded.bytes.subarray(0, length);
    return Buffer.compare(own, from.bytes.subarray(0, length)) === 0;
  }

  /** The name of what was encoded, in the index. */
  name(length: number): string {
    return indexNameOf(this.encoded, length);
  }

  /**
   * Opens (O_PATH) the lower file that the first `length` bytes of `from` stand for, if it is of
   * the type of `mode`. Returns the descriptor, whose struct stat is in `into`, or -ENODATA: there
   * is no such file any more, or none that this process may open.
   */
  decode(from: Memory, length: number, mode: number, into: Memory): number {
    if (this.handleIn(from, length) === 0) return -ENODATA;
    const { bytes } = from;
    for (let layer = 0; layer < this.#layers.length; layer++) {
      const { mountFd } = this.#layers[layer]!;
      if (mountFd < 0 || !this.#isOf(layer, bytes) || this.#isRepeated(layer)) continue;
      const fd = open_by_handle_at(mountFd, handle.address, O_PATH | O_NOFOLLOW | O_CLOEXEC);
      if (fd < 0) continue;
      const isType =
        fstat(fd, into.address) >= 0 && ((into.u32[stat.st_mode >> 2]! ^ mode) & S_IFMT) === 0;
      if (isType) return fd;
      close(fd);
    }
    return -ENODATA;
  }

  /**
   * The struct file_handle in the first `length` bytes of `from`, valid until the next call; 0 if
   * they are none.
   */
  handleIn({ view, bytes }: Memory, length: number): Address {
    const size = length - ovl_fb.sizeof;
    const isSound =
      size > 0 &&
      size <= FILE_HANDLE_MAX &&
      view.getUint8(ovl_fb.version) === VERSION &&
      view.getUint8(ovl_fb.magic) === MAGIC &&
      view.getUint8(ovl_fb.len) === length &&
      (view.getUint8(ovl_fb.flags) & ~KNOWN_FLAGS) === 0;
    if (!isSound) return 0;
    handle.view.setUint32(0, size, true);
    handle.view.setInt32(4, view.getUint8(ovl_fb.type), true);
    handle.bytes.set(bytes.subarray(ovl_fb.sizeof, length), 8);
    return handle.address;
  }

  #isOf(layer: number, bytes: Uint8Array): boolean {
    const uuid = this.#uuids[layer]!;
    for (let index = 0; index < uuid.length; index++)
      if (bytes[ovl_fb.uuid + index] !== uuid[index]) return false;
    return true;
  }

  /** Whether an earlier layer is on the same file system, where the handle was tried already. */
  #isRepeated(layer: number): boolean {
    const { uuid } = this.#layers[layer]!;
    return this.#layers.findIndex((other) => other.uuid === uuid) < layer;
  }
}

/** What an encoded origin of `length` bytes is called in the index. */
export function indexNameOf(encoded: Memory, length: number): string {
  const { buffer, byteOffset } = encoded.bytes;
  return Buffer.from(buffer, byteOffset, length).toString("hex");
}
