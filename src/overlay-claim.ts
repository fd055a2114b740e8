// Having the upper layer and the work directory to ourselves: with two mounts writing to them, both
// would show nonsense. A lock by flock(2) on each of the directories is held as long as there is a
// descriptor, so that it ends with the process, however that ends. It means nothing to the kernel's
// overlayfs, which marks the directories in a way of its own that can't be seen from outside; its
// mounts are found in the list of mounts.

import { AT_FDCWD, LOCK_EX, LOCK_NB, O_RDONLY, statx as statxStruct } from "./abi-linux.ts";
import { EAGAIN, errnoMessage } from "./errno.ts";
import { OVERLAY_CLAIM_MS, OVERLAY_CLAIM_STEP_MS } from "./limits.ts";
import { log } from "./log.ts";
import { passingString, smallMemory } from "./memory.ts";
import { readMounts } from "./mount-info.ts";
import { unescapeLayer, type OverlayConfig } from "./overlay-config.ts";
import { openDirectory, overlayDirectories, type LayerDirectory } from "./overlay-source.ts";
import { ConfigError } from "./passthrough-config.ts";
import { readU64 } from "./request.ts";
import { close, flock, statx } from "./syscall.ts";

/** Directories that nobody else mounts for writing in the meantime. */
export class OverlayClaim {
  readonly #fds: number[] = [];

  /** Throws ConfigError if somebody has one of them. */
  constructor(config: OverlayConfig) {
    const written = overlayDirectories(config).filter(
      ({ option }) => option === "upperdir" || option === "workdir",
    );
    try {
      if (written.length > 0) refuseKernelMounts(written);
      for (const directory of written) this.#lock(directory);
    } catch (error) {
      this.release();
      throw error;
    }
  }

  #lock(directory: LayerDirectory): void {
    const fd = openDirectory(directory, O_RDONLY);
    this.#fds.push(fd);
    const until = performance.now() + OVERLAY_CLAIM_MS;
    let error: number;
    while ((error = flock(fd, LOCK_EX | LOCK_NB)) === -EAGAIN && performance.now() < until)
      Bun.sleepSync(OVERLAY_CLAIM_STEP_MS);
    if (error === -EAGAIN)
      throw new ConfigError(
        `${directory.option}=${directory.path} is in use by another mount: ` +
          "unmount that first, or give a directory of its own",
      );
    if (error < 0)
      log.warn(
        `${directory.option}=${directory.path} can't be locked against other mounts: ` +
          errnoMessage(error),
      );
  }

  release(): void {
    for (const fd of this.#fds.splice(0)) close(fd);
  }
}

function refuseKernelMounts(written: readonly LayerDirectory[]): void {
  const mounts = readMounts().filter(({ type }) => type === "overlay");
  if (mounts.length === 0) return;
  const own = new Map(written.map((directory) => [identity(directory.path), directory]));
  for (const { superOptions, mountpoint } of mounts)
    for (const [, path = ""] of superOptions.matchAll(
      /(?:^|,)(?:upper|work)dir=((?:\\.|[^\\,])*)/gs,
    )) {
      const directory = own.get(identity(unescapeLayer(path)));
      if (directory === undefined) continue;
      throw new ConfigError(
        `${directory.option}=${directory.path} is in use by the overlay that is mounted on ` +
          `${mountpoint}: unmount that first, or give a directory of its own`,
      );
    }
}

const AT_STATX_DONT_SYNC = 0x4000;
const STATX_INO = 0x100;
const buffer = smallMemory(statxStruct.sizeof);

/** File system and inode number of what is at a path; the path itself if nothing can be found. */
function identity(path: string): string {
  const address = buffer.address;
  if (statx(AT_FDCWD, passingString(path), AT_STATX_DONT_SYNC, STATX_INO, address) < 0) return path;
  const { view } = buffer;
  const major = view.getUint32(statxStruct.stx_dev_major, true);
  const minor = view.getUint32(statxStruct.stx_dev_minor, true);
  return `${major}:${minor} ${readU64(view, statxStruct.stx_ino)}`;
}
