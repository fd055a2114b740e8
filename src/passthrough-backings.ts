// FUSE passthrough: host files that the kernel reads, writes and maps by itself are registered with
// it, on the worker's /dev/fuse.

import {
  FUSE_DEV_IOC_BACKING_CLOSE,
  FUSE_DEV_IOC_BACKING_OPEN,
  fuse_backing_map,
} from "./abi-fuse.ts";
import { errnoMessage } from "./errno.ts";
import { log } from "./log.ts";
import { smallMemory } from "./memory.ts";
import type { Registrar } from "./passthrough-inode-record.ts";
import { ioctl } from "./syscall.ts";

// Scratch memory of the thread, for all file systems that it serves.
const backingMap = smallMemory(fuse_backing_map.sizeof);
const backingId = smallMemory(8);

/** Registers files on this worker's /dev/fuse. */
export class Backings implements Registrar {
  readonly #map = backingMap;
  /** -1 while there is no FUSE passthrough. */
  device = -1;

  register(fd: number): number {
    this.#map.view.setInt32(fuse_backing_map.fd, fd, true);
    const id = ioctl(this.device, FUSE_DEV_IOC_BACKING_OPEN, this.#map.address);
    if (id > 0) return id;
    const why = errnoMessage(id);
    log.once("info", `some files are read and written by the daemon, not by the kernel: ${why}`);
    return -1;
  }

  close(id: number): void {
    closeBacking(this.device, id);
  }
}

/** Ends a registration. */
export function closeBacking(device: number, id: number): void {
  backingId.view.setUint32(0, id, true);
  ioctl(device, FUSE_DEV_IOC_BACKING_CLOSE, backingId.address);
}
