// Where the processes of the differential test do their operations: the files that they have open,
// and what an operation has done to the files that it touched.

import * as abi from "../../src/abi-linux.ts";
import * as c from "./calls.ts";

interface Slot {
  readonly fd: number;
  /** The mount that it is a file of; "" for what they hang on. */
  readonly mount: string;
  /** Whether its file system is asked when it is used. */
  readonly asks: boolean;
}

/** What was open when its file system went away: by slots, what came of using it. */
export type Lost = readonly (readonly [slot: number, ...results: number[]])[];

/** Where and by whom operations are done, and what they touch. */
export class World {
  readonly root: string;
  /** What is mounted below the root at present. */
  readonly #mounts: Set<string>;
  readonly #slots = new Map<number, Slot>();
  readonly #touched: { name: string; look: () => c.Stat | number; before: c.Stat | number }[] = [];

  constructor(root: string, mounts: readonly string[] = []) {
    this.root = root;
    this.#mounts = new Set(mounts);
  }

  /** The file at a path. It and its directory are looked at before the operation and after it. */
  at(path: string): string {
    const full = `${this.root}/${path}`;
    this.#touch(path, () => c.lstat(full));
    const parent = full.slice(0, full.lastIndexOf("/"));
    this.#touch(`${path}/..`, () => c.lstat(parent));
    return full;
  }

  /** The descriptor in a slot, or -1. */
  fd(slot: number): number {
    const fd = this.#slots.get(slot)?.fd ?? -1;
    this.#touch(`slot ${slot}`, () => c.fstat(fd));
    return fd;
  }

  /** Puts what was opened into a slot, and closes what was there. */
  fill(slot: number, fd: number): number {
    if (fd < 0) return fd;
    this.empty(slot);
    this.#slots.set(slot, { fd, mount: this.#mountOf(fd), asks: asks(fd) });
    return 0;
  }

  empty(slot: number): number {
    const fd = this.#slots.get(slot)?.fd ?? -1;
    this.#slots.delete(slot);
    return c.close(fd);
  }

  /** A file system has come. */
  mounted(name: string): void {
    this.#mounts.add(name);
  }

  /**
   * A file system is going, or gone: closes what is open of it. `use` says what to do with it
   * before: of those that ask their file system when they are used, and of no others.
   */
  unmounted(name: string, use: (fd: number) => number[]): Lost {
    this.#mounts.delete(name);
    const lost = [...this.#slots].filter(([, { mount }]) => mount === name);
    return lost
      .toSorted(([one], [other]) => one - other)
      .map(([slot, { fd, asks }]) => {
        const results = asks ? use(fd) : [];
        this.empty(slot);
        return [slot, ...results];
      });
  }

  #mountOf(fd: number): string {
    if (this.#mounts.size === 0) return "";
    const path = c.readlink(`/proc/self/fd/${fd}`);
    const [name = ""] = String(path)
      .slice(this.root.length + 1)
      .split("/", 1);
    return this.#mounts.has(name) ? name : "";
  }

  /** The mount that a file is of: undefined if there is none. */
  mountAt(full: string, follow = true): string | undefined {
    if (this.#mounts.size === 0) return "";
    const fd = c.open(full, abi.O_PATH | (follow ? 0 : abi.O_NOFOLLOW));
    const mount = fd < 0 ? undefined : this.#mountOf(fd);
    if (fd >= 0) c.close(fd);
    return mount;
  }

  /** The mount of what is in a slot. */
  mountIn(slot: number): string | undefined {
    return this.#slots.get(slot)?.mount;
  }

  /** What the operation has done to the files that it touched. */
  seen(): Record<string, unknown> {
    return Object.fromEntries(
      this.#touched.splice(0).map(({ name, look, before }) => [name, describe(look(), before)]),
    );
  }

  #touch(name: string, look: () => c.Stat | number): void {
    this.#touched.push({ name, look, before: look() });
  }
}

/** A time as it is, if somebody has set it; the clock's own time differs from run to run. */
export function exactly([seconds, nanoseconds]: c.Time): string {
  const isNow = Math.abs(seconds - Date.now() / 1000) < 1e6;
  return isNow ? "now" : `${seconds}.${nanoseconds}`;
}

/** Whether it is open in a file system: FIFOs and devices are the kernel's own. */
function asks(fd: number): boolean {
  const found = c.fstat(fd);
  const type = typeof found === "number" ? 0 : found.mode & abi.S_IFMT;
  return (type === abi.S_IFREG || type === abi.S_IFDIR) && (c.getFlags(fd) & abi.O_PATH) === 0;
}

export const isDirectory = (found: c.Stat | number): boolean =>
  typeof found !== "number" && (found.mode & abi.S_IFMT) === abi.S_IFDIR;

function describe(after: c.Stat | number, before: c.Stat | number): unknown {
  if (typeof after === "number") return after;
  const { mode, nlink, uid, gid, rdev, size, mtime } = after;
  const differs = (name: "ctime" | "mtime"): boolean | "another file" =>
    typeof before === "number" || before.ino !== after.ino
      ? "another file"
      : before[name].join() !== after[name].join();
  const times = { mtime: exactly(mtime), changed: [differs("mtime"), differs("ctime")] };
  const attributes = { mode: mode.toString(8), nlink, uid, gid, rdev, size };
  // FIFOs are the kernel's own: FUSE keeps no time of what goes through them.
  return (mode & abi.S_IFMT) === abi.S_IFIFO ? attributes : { ...attributes, times };
}
