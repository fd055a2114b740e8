// Copying the contents of a file on the host: shared blocks where the file system can do that,
// otherwise within the kernel, and holes stay holes.

import { FICLONE, SEEK_DATA, SEEK_HOLE } from "./abi-linux.ts";
import { EINVAL, EIO, ENOSYS, ENXIO, EOPNOTSUPP, EPERM, EXDEV } from "./errno.ts";
import { MAX_WRITE } from "./limits.ts";
import { map, smallMemory, type Memory } from "./memory.ts";
import { writeU64 } from "./request.ts";
import { copy_file_range, ftruncate, ioctl, lseek, pread64, pwrite64 } from "./syscall.ts";

/** What one call copies at most, in bytes. */
const STEP = 1 << 30;
/** Up to so many bytes without holes, the kernel takes longer to copy than we do. */
const COPIED_BY_HAND = 1 << 16;

// Scratch memory of the thread, for all overlays that it serves.
const fromOffset = smallMemory(8);
const toOffset = smallMemory(8);
let buffer: Memory | undefined;

/**
 * Copies the first `size` bytes of `from`, which takes `blocks` of 512 bytes, to `to`, which is
 * empty. Returns 0 or -errno.
 */
export function copyContents(from: number, to: number, size: number, blocks: number): number {
  if (size === 0) return 0;
  const isWhole = size <= blocks * 512;
  if (isWhole && size <= COPIED_BY_HAND) {
    const done = copyByHand(from, to, 0, size);
    return done < 0 || done === size ? Math.min(0, done) : ftruncate(to, size);
  }
  if (ioctl(to, FICLONE, from) === 0) return ftruncate(to, size);
  let at = 0;
  let reached = 0;
  while (at < size) {
    const data = lseek(from, at, SEEK_DATA);
    if (data === -ENXIO) break; // a hole up to the end
    // A file system that does not know of holes has data throughout.
    const start = data < 0 ? at : Math.min(data, size);
    const hole = data < 0 ? size : lseek(from, start, SEEK_HOLE);
    const end = hole < 0 ? size : Math.min(hole, size);
    reached = copyRange(from, to, start, end);
    if (reached < 0) return reached;
    at = Math.max(end, start);
    if (end <= start) break;
  }
  // A hole at the end is not copied.
  return reached === size ? 0 : ftruncate(to, size);
}

/** Returns how far it came, or -errno. */
function copyRange(from: number, to: number, start: number, end: number): number {
  for (let at = start; at < end;) {
    writeU64(fromOffset.view, 0, at);
    writeU64(toOffset.view, 0, at);
    const wanted = Math.min(end - at, STEP);
    const copied = copy_file_range(from, fromOffset.address, to, toOffset.address, wanted, 0);
    if (CANT.has(copied)) return copyByHand(from, to, at, end);
    if (copied < 0) return copied;
    if (copied === 0) return copyByHand(from, to, at, end);
    at += copied;
  }
  return end;
}

/** What copy_file_range(2) says where it does not work. */
const CANT = new Set([-EXDEV, -EINVAL, -EOPNOTSUPP, -ENOSYS, -EPERM, -EIO]);

/** Returns how far it came, or -errno. */
function copyByHand(from: number, to: number, start: number, end: number): number {
  buffer ??= map(MAX_WRITE);
  for (let at = start; at < end;) {
    const read = pread64(from, buffer.address, Math.min(end - at, buffer.size), at);
    if (read < 0) return read;
    if (read === 0) return at; // it became shorter: the rest is zeros
    for (let done = 0; done < read;) {
      const written = pwrite64(to, buffer.address + done, read - done, at + done);
      if (written < 0) return written;
      done += written;
    }
    at += read;
  }
  return end;
}
