// The process that does the operations of the differential test, as root or as an ordinary user,
// and takes snapshots of whole trees.

import * as abi from "../../src/abi-linux.ts";
import { serve } from "./actor.ts";
import * as c from "./calls.ts";
import { performOperation, type Operation } from "./differential-operations.ts";
import { exactly, World, type Lost } from "./differential-world.ts";
import { answered, LineProcess } from "./line-process.ts";
import { alice, STAFF } from "./posix-place.ts";

type Request =
  | { readonly start: string; readonly isRoot: boolean; readonly mounts: readonly string[] }
  | { readonly mounted: string }
  | { readonly unmounted: string; readonly uses: boolean }
  | { readonly operation: Operation }
  | { readonly snapshot: string };

export class DifferentialActor extends LineProcess {
  constructor(name: string) {
    super(new URL(import.meta.url), name);
  }

  /** Forgets everything, and works in `directory` from now on; `mounts` are in it. */
  async start(directory: string, isRoot: boolean, mounts: readonly string[] = []): Promise<void> {
    await this.#ask({ start: directory, isRoot, mounts });
  }
  /** A file system has come. */
  async mounted(name: string): Promise<void> {
    await this.#ask({ mounted: name });
  }
  /**
   * Closes what is open of a file system that goes. `uses` is whether to use it once more before.
   */
  async unmounted(name: string, uses: boolean): Promise<Lost> {
    return await this.#ask({ unmounted: name, uses });
  }
  async perform(operation: Operation): Promise<unknown> {
    return await this.#ask({ operation });
  }
  /** Everything that can be seen of the tree at `directory`. */
  async snapshot(directory: string): Promise<Record<string, unknown>> {
    return await this.#ask({ snapshot: directory });
  }

  async #ask<T>(request: Request): Promise<T> {
    return answered(await this.request(request));
  }
}

/**
 * The kind of everything below `path`, its attributes, contents and extended attributes, by its
 * name.
 */
function snapshot(path: string): Record<string, unknown> {
  const fd = c.open(path, abi.O_RDONLY | abi.O_DIRECTORY);
  if (fd >= 0) {
    c.syncfs(fd);
    c.close(fd);
  }
  const all: Record<string, unknown> = {};
  const firstNames = new Map<string, string>();
  const walk = (name: string): void => {
    const here = `${path}${name}`;
    const found = c.lstat(here);
    if (typeof found === "number") {
      all[name] = found;
      return;
    }
    const { mode, nlink, uid, gid, rdev, size, mtime, ino } = found;
    const first = firstNames.get(ino) ?? name;
    firstNames.set(ino, first);
    const isFifo = (mode & abi.S_IFMT) === abi.S_IFIFO;
    const times = isFifo ? {} : { mtime: exactly(mtime) };
    const attributes = { mode: mode.toString(8), nlink, uid, gid, rdev, size, ...times };
    all[name] = { first, ...attributes, contents: contents(here, mode), xattrs: xattrs(here) };
    if ((mode & abi.S_IFMT) !== abi.S_IFDIR) return;
    const names = c.list(here);
    if (typeof names === "number") all[`${name}/`] = names;
    else for (const child of names) walk(`${name}/${child}`);
  };
  walk("");
  return all;
}

/** Asks the file system of an open file for what nobody else can do. */
function use(fd: number): number[] {
  const flags = c.getFlags(fd);
  const isWritten = (flags & abi.O_ACCMODE) !== abi.O_RDONLY && (flags & abi.O_DIRECT) === 0;
  return [c.fsync(fd), ...(isWritten ? [c.pwrite(fd, "x", 0)] : [])];
}

function contents(path: string, mode: number): unknown {
  if ((mode & abi.S_IFMT) === abi.S_IFLNK) return c.readlink(path);
  if ((mode & abi.S_IFMT) !== abi.S_IFREG) return null;
  const fd = c.open(path, abi.O_RDONLY);
  const data = c.pread(fd, 1 << 20, 0);
  c.close(fd);
  return data;
}

function xattrs(path: string): unknown {
  const names = c.llistxattr(path);
  return typeof names === "number" ? names : names.map((name) => [name, c.lgetxattr(path, name)]);
}

if (import.meta.main) {
  let world = new World("/nowhere");
  serve((request: Request) => {
    if ("operation" in request) return performOperation(world, request.operation);
    if ("snapshot" in request) return snapshot(request.snapshot);
    if ("mounted" in request) return world.mounted(request.mounted);
    if ("unmounted" in request)
      return world.unmounted(request.unmounted, request.uses ? use : () => []);
    c.closeAll();
    c.become({ uid: 0, gid: 0 });
    c.umask(0o022);
    world = new World(request.start, request.mounts);
    if (!request.isRoot) c.become({ ...alice, groups: [STAFF] });
    return null;
  });
  process.exit(0);
}
