// Overlay mounts for tests, by whoever provides them: the kernel, whose overlayfs is the oracle,
// our executable, or fuse-overlayfs as a peer. And a private ext4 on which the layers lie.
//
// OVERLAY_SUT=kernel|fuse-overlayfs|ours chooses the system under test; OVERLAY_EXECUTABLE is
// another executable of ours.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, chmodSync, existsSync } from "node:fs";
import {
  MNT_DETACH,
  MS_NOATIME,
  MS_NODIRATIME,
  MS_STRICTATIME,
  UMOUNT_NOFOLLOW,
} from "../src/abi-linux.ts";
import { EBUSY, errnoName } from "../src/errno.ts";
import { cstring } from "../src/memory.ts";
import { mount, umount2 } from "../src/syscall.ts";
import { shell } from "./mount/shell.ts";
import { EXECUTABLE, MountDaemon, whyNoMounts } from "./support-mount.ts";

/** The directories that an overlay is made of. */
export interface OverlayLayers {
  /** From the uppermost to the lowest, as in `lowerdir=`. */
  readonly lower: readonly string[];
  /** Without it the mount is read-only. */
  readonly upper?: string | undefined;
  readonly work?: string | undefined;
}

export interface OverlayMount {
  readonly mountpoint: string;
  /** The daemon's process, or -1 where the kernel does it. */
  readonly pid: number;
  /** What the daemon has written. */
  readonly output: string;
  /** Throws if the daemon has ended by itself. */
  check(): void;
  /** Unmounts, and waits until the daemon has ended; throws if it did not end well. */
  unmount(): Promise<void>;
  /** Ends it the hard way, whatever state it is in. */
  kill(): Promise<void>;
}

/** Somebody who mounts overlays. */
export interface OverlaySystem {
  readonly name: string;
  /** `options` are those of the kernel's overlayfs: `redirect_dir=on`. */
  mount(
    layers: OverlayLayers,
    options: readonly string[],
    mountpoint: string,
  ): Promise<OverlayMount>;
}

/** The text after `-o`. */
export function overlayOptions(
  { lower, upper, work }: OverlayLayers,
  options: readonly string[],
): string {
  const parts = [`lowerdir=${lower.join(":")}`];
  if (upper !== undefined) parts.push(`upperdir=${upper}`);
  if (work !== undefined) parts.push(`workdir=${work}`);
  return [...parts, ...options].join(",");
}

/** Options that are not for the file system but for the mount. */
const KERNEL_FLAGS: Readonly<Record<string, number>> = {
  ro: 1,
  noatime: MS_NOATIME,
  nodiratime: MS_NODIRATIME,
  strictatime: MS_STRICTATIME,
};
const BUSY_TIMEOUT_MS = 10_000;

const kernel: OverlaySystem = {
  name: "kernel",
  async mount(layers, options, mountpoint) {
    const data = overlayOptions(
      layers,
      options.filter((option) => KERNEL_FLAGS[option] === undefined),
    );
    const [type, place, text] = ["overlay", mountpoint, data].map((word) => cstring(word).address);
    const flags = options.reduce((bits, option) => bits | (KERNEL_FLAGS[option] ?? 0), 0);
    const attempt = (): number => mount(type!, place!, type!, flags, text!);
    // Another process may have taken the mount before this one along into its own mount namespace,
    // and tells nobody when it has gone.
    const deadline = performance.now() + BUSY_TIMEOUT_MS;
    let error = attempt();
    while (error === -EBUSY && performance.now() < deadline) {
      await Bun.sleep(10);
      error = attempt();
    }
    if (error < 0) throw new Error(`the kernel's overlay with ${data}: ${errnoName(error)}`);
    const unmount = (flags: number): void => {
      const failure = umount2(cstring(mountpoint).address, flags | UMOUNT_NOFOLLOW);
      if (failure < 0) throw new Error(`unmounting ${mountpoint}: ${errnoName(failure)}`);
    };
    return {
      mountpoint,
      pid: -1,
      output: "",
      check() {},
      async unmount() {
        unmount(0);
      },
      async kill() {
        if (isMounted(mountpoint)) unmount(MNT_DETACH);
      },
    };
  },
};

/** Runs a daemon that mounts an overlay. */
export async function daemonMount(mountpoint: string, command: string[]): Promise<OverlayMount> {
  const daemon = new MountDaemon(mountpoint, () => command);
  try {
    await daemon.run();
  } catch (error) {
    await daemon.kill();
    throw error;
  }
  return daemon;
}

const ours: OverlaySystem = {
  name: "ours",
  mount(layers, options, mountpoint) {
    const executable = process.env["OVERLAY_EXECUTABLE"] ?? EXECUTABLE;
    const list = overlayOptions(layers, ["allow_other", "suid", "dev", ...options]);
    return daemonMount(mountpoint, [executable, "overlay", "-o", list, mountpoint]);
  },
};

const fuseOverlayfs: OverlaySystem = {
  name: "fuse-overlayfs",
  mount(layers, options, mountpoint) {
    // Of the others it knows none.
    const known = options.filter((option) => /^(ro$|xattr_permissions=)/.test(option));
    const list = overlayOptions(layers, ["allow_other", "suid", "dev", ...known]);
    return daemonMount(mountpoint, ["fuse-overlayfs", "-f", "-o", list, mountpoint]);
  },
};

export const overlaySystems = { kernel, ours, "fuse-overlayfs": fuseOverlayfs } as const;

/** The system of this name, or the one that OVERLAY_SUT names, or ours. */
export function overlaySystem(name = process.env["OVERLAY_SUT"] ?? "ours"): OverlaySystem {
  const system = (overlaySystems as Record<string, OverlaySystem>)[name];
  if (system !== undefined) return system;
  throw new Error(`"${name}" is none of ${Object.keys(overlaySystems).join(", ")}`);
}

export function isMounted(mountpoint: string): boolean {
  return readFileSync("/proc/self/mountinfo", "latin1").includes(` ${mountpoint} `);
}

/** Why overlays can't be compared with the kernel's here, or undefined if they can. */
export const whyNoOverlays: string | undefined =
  whyNoMounts ??
  (!readFileSync("/proc/filesystems", "latin1").includes("\toverlay\n")
    ? "the kernel has no overlayfs"
    : undefined);
if (whyNoOverlays !== undefined) console.warn(`tests of overlays are skipped: ${whyNoOverlays}`);

/** A private directory with a file system of its own in it. */
export class Disk implements AsyncDisposable {
  readonly base: string;
  /** Where the file system is mounted. Its `lost+found` is removed. */
  readonly path: string;
  readonly #image: string;

  private constructor(base: string, image: string) {
    this.base = base;
    this.path = `${base}/disk`;
    this.#image = image;
  }

  /** A new ext4 of `size`, as truncate(1) has it, with these features of mkfs.ext4(8). */
  static async start(size = "512M", features = "^has_journal"): Promise<Disk> {
    const base = mkdtempSync("/tmp/fuse-backend-overlay-");
    chmodSync(base, 0o755); // Other users pass through.
    // In memory, where there is room: a sync must not wait for a disk.
    const memory = existsSync("/dev/shm") ? mkdtempSync("/dev/shm/fuse-backend-overlay-") : base;
    const disk = new Disk(base, `${memory}/image`);
    mkdirSync(disk.path);
    try {
      await shell(
        `truncate -s ${size} ${disk.#image}
        mkfs.ext4 -q -m 0 -O ${features} ${disk.#image}
        mount -o loop ${disk.#image} ${disk.path}
        rmdir ${disk.path}/lost+found`,
      );
    } catch (error) {
      await disk[Symbol.asyncDispose]();
      throw error;
    }
    return disk;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    umount2(cstring(this.path).address, MNT_DETACH | UMOUNT_NOFOLLOW);
    const memory = this.#image.slice(0, this.#image.lastIndexOf("/"));
    for (const directory of new Set([this.base, memory]))
      rmSync(directory, { recursive: true, force: true });
  }
}
