// The process that does the operations of the differential test, as root or as an ordinary user,
// and takes snapshots of whole trees.

import * as abi from "../../src/abi-linux.ts";
import { serve } from "./actor.ts";
import * as c from "./calls.ts";
import {
  performOperation,
  plainTable,
  type Operation,
  type Table,
} from "./differential-operations.ts";
import { exactly, World, type Lost } from "./differential-world.ts";
import { answered, LineProcess } from "./line-process.ts";
import { overlayTable } from "./overlay-operations.ts";
import { alice, STAFF } from "./posix-place.ts";

/** The operations that are asked for: those of the table of this name. */
export type Rows = "plain" | "overlay";
const TABLES: Record<Rows, Table> = { plain: plainTable, overlay: overlayTable };

type Request =
  | {
      readonly start: string;
      readonly isRoot: boolean;
      readonly rows: Rows;
      readonly mounts: readonly string[];
    }
  | { readonly mounted: string }
  | { readonly unmounted: string; readonly uses: boolean }
  | { readonly operation: Operation }
  | { readonly snapshot: string }
  | { readonly inodes: string; readonly hasHandles: boolean }
  | { readonly opened: string; readonly handles: Readonly<Record<string, string>> };

export class DifferentialActor extends LineProcess {
  constructor(name: string) {
    super(new URL(import.meta.url), name);
  }

  /** Forgets everything, and works in `directory` from now on; `mounts` are in it. */
  async start(
    directory: string,
    isRoot: boolean,
    rows: Rows,
    mounts: readonly string[] = [],
  ): Promise<void> {
    await this.#ask({ start: directory, isRoot, rows, mounts });
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

  /** The inode numbers of everything below `directory`, and file handles if they are wanted. */
  async inodes(directory: string, hasHandles: boolean): Promise<Record<string, Inode>> {
    return await this.#ask({ inodes: directory, hasHandles });
  }

  /** The inode number of what each handle opens, or -errno; `mountpoint` is where they are from. */
  async opened(
    mountpoint: string,
    handles: Readonly<Record<string, string>>,
  ): Promise<Record<string, string | number>> {
    return await this.#ask({ opened: mountpoint, handles });
  }

  async #ask<T>(request: Request): Promise<T> {
    return answered(await this.request(request));
  }
}

/** The inode number of a file, and whether the list of its directory says the same. */
export interface Inode {
  readonly ino: string;
  readonly isListed: boolean;
  readonly handle: string | number | undefined;
}

function inodes(path: string, hasHandles: boolean): Record<string, Inode> {
  const all: Record<string, Inode> = {};
  const walk = (name: string): void => {
    const fd = c.open(`${path}${name}`, abi.O_RDONLY | abi.O_DIRECTORY);
    const entries = fd < 0 ? [] : c.must(c.getAllDents(fd));
    c.close(fd);
    for (const { name: child, ino, type } of entries as c.DirectoryEntry[]) {
      if (child === "." || child === "..") continue;
      const found = c.lstat(`${path}${name}/${child}`);
      if (typeof found === "number") continue;
      const isListed = found.ino === ino && type === (found.mode & abi.S_IFMT) >> 12;
      const handle = hasHandles ? c.nameToHandle(`${path}${name}/${child}`) : undefined;
      all[`${name}/${child}`] = { ino: found.ino, isListed, handle };
      if ((found.mode & abi.S_IFMT) === abi.S_IFDIR) walk(`${name}/${child}`);
    }
  };
  walk("");
  return all;
}

function opened(
  mountpoint: string,
  handles: Readonly<Record<string, string>>,
): Record<string, string | number> {
  const root = c.open(mountpoint, abi.O_RDONLY | abi.O_DIRECTORY);
  const found = Object.entries(handles).map(([name, handle]) => {
    const fd = c.openByHandle(root, handle, abi.O_PATH);
    const stat = fd < 0 ? fd : c.fstat(fd);
    if (fd >= 0) c.close(fd);
    return [name, typeof stat === "number" ? stat : stat.ino] as const;
  });
  c.close(root);
  return Object.fromEntries(found);
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
  let rows = plainTable;
  serve((request: Request) => {
    if ("operation" in request) return performOperation(world, request.operation, rows);
    if ("snapshot" in request) return snapshot(request.snapshot);
    if ("inodes" in request) return inodes(request.inodes, request.hasHandles);
    if ("opened" in request) return opened(request.opened, request.handles);
    if ("mounted" in request) return world.mounted(request.mounted);
    if ("unmounted" in request)
      return world.unmounted(request.unmounted, request.uses ? use : () => []);
    c.closeAll();
    c.become({ uid: 0, gid: 0 });
    c.umask(0o022);
    world = new World(request.start, request.mounts);
    rows = TABLES[request.rows];
    if (!request.isRoot) c.become({ ...alice, groups: [STAFF] });
    return null;
  });
  process.exit(0);
}
