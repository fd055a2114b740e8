// What the differential test of overlays does beyond the operations that all share: it makes the
// layers, and looks where an overlay can go wrong. The paths are the same in layers and mount, so
// that almost everything is in several layers.

import * as abi from "../../src/abi-linux.ts";
import { EEXIST, ENODATA, ENXIO } from "../../src/errno.ts";
import * as c from "./calls.ts";
import {
  ACLS,
  chooseOperations,
  directoryPath,
  FILES,
  filePath,
  MODES,
  offset,
  path,
  row,
  SIZES,
  slot,
  table,
  twoPaths,
  XATTRS,
  type Operation,
  type Row,
  type Table,
} from "./differential-operations.ts";
import type { World } from "./differential-world.ts";
import { ACL_ACCESS, ACL_DEFAULT, alice, bob, pattern, STAFF } from "./posix-place.ts";
import type { Random } from "./random.ts";

/** Makes something in a layer, before the mount. Layer 0 is the upper one, 1 the one below it. */
export type LayerStep = readonly ["layer", layer: number, name: string, ...args: unknown[]];
/** Unmounts and mounts again; "rotate" with a new upper layer on top of the one until then. */
export type MountStep = readonly ["remount" | "rotate"];
export type OverlayStep = LayerStep | MountStep | Operation;

/** Names that overlays use themselves. */
const PRIVATE_XATTRS = [
  "trusted.overlay.a",
  "trusted.overlay.opaque",
  "trusted.overlay.overlay.a",
  "user.overlay.a",
];
const OWNERS = [0, 0, alice.uid, bob.uid];
const GROUPS = [0, alice.gid, STAFF];

/** The directories that lead to `path`. */
function makeParents(world: World, name: string): void {
  const parts = name.split("/").slice(0, -1);
  for (const [index] of parts.entries()) {
    const parent = `${world.root}/${parts.slice(0, index + 1).join("/")}`;
    if (c.mkdir(parent) === 0) c.chmod(parent, 0o777);
  }
}

/** A path in a layer, without a look at it. */
function inLayer(world: World, name: string): string {
  makeParents(world, name);
  return `${world.root}/${name}`;
}

/** Old times for everything below `root`, so that they can be told from new ones. */
function makeOld(root: string): number {
  let count = 0;
  const walk = (name: string): void => {
    const here = `${root}${name}`;
    const found = c.lstat(here);
    if (typeof found === "number") return;
    if ((found.mode & abi.S_IFMT) === abi.S_IFDIR)
      for (const child of c.must(c.list(here)) as string[]) walk(`${name}/${child}`);
    count++;
    const time: c.Time = [1_200_000_000 + count, Bun.hash.crc32(name) % 1_000_000_000];
    c.must(c.utimens(here, [time, time], abi.AT_SYMLINK_NOFOLLOW));
  };
  walk("");
  return count;
}

/** Owner and mode of what is in a layer, in this order: chown takes set-user-ID bits. */
function own(file: string, uid: number, gid: number, mode: number): number {
  return c.lchown(file, uid, gid) || c.chmod(file, mode);
}

const layerTable: Table = {
  layerFile: row(
    10,
    (r) => [
      filePath(r),
      r.pick(SIZES),
      r.below(1000),
      r.chance(15) ? offset(r) : 0,
      r.pick(MODES),
      r.pick(OWNERS),
      r.pick(GROUPS),
    ],
    (w, p, size, seed, hole, mode, uid, gid) => {
      const fd = c.open(inLayer(w, p), abi.O_RDWR | abi.O_CREAT | abi.O_EXCL, 0o600);
      if (fd < 0) return fd;
      const written = c.pwrite(fd, pattern(size, seed), hole);
      c.close(fd);
      return written < 0 ? written : own(`${w.root}/${p}`, uid, gid, mode);
    },
  ),
  layerDirectory: row(
    5,
    (r) => [directoryPath(r), r.pick([0o777, 0o777, ...MODES]), r.pick(OWNERS), r.pick(GROUPS)],
    (w, p, mode, uid, gid) => {
      const directory = inLayer(w, p);
      const error = c.mkdir(directory);
      return error < 0 && error !== -EEXIST ? error : own(directory, uid, gid, mode);
    },
  ),
  layerOpaque: row(
    3,
    (r) => [directoryPath(r)],
    (w, p) => {
      const directory = inLayer(w, p);
      if (c.mkdir(directory) === 0) c.chmod(directory, 0o777);
      const found = c.lstat(directory);
      const isDirectory = typeof found !== "number" && (found.mode & abi.S_IFMT) === abi.S_IFDIR;
      return isDirectory ? c.setxattr(directory, "trusted.overlay.opaque", "y") : "no directory";
    },
  ),
  layerWhiteout: row(
    4,
    (r) => [path(r)],
    (w, p) => c.mknod(inLayer(w, p), abi.S_IFCHR, 0),
  ),
  layerSymlink: row(
    4,
    (r) => [r.pick(["a", "d", "../a", "d/e/a", "nowhere"]), path(r), r.pick(OWNERS)],
    (w, to, p, uid) => c.symlink(to, inLayer(w, p)) || c.lchown(`${w.root}/${p}`, uid, uid),
  ),
  layerNode: row(
    2,
    (r) => [
      filePath(r),
      r.pick([abi.S_IFIFO, abi.S_IFSOCK, abi.S_IFCHR, abi.S_IFBLK]),
      r.pick(MODES),
    ],
    (w, p, type, mode) => {
      const isDevice = type === abi.S_IFCHR || type === abi.S_IFBLK;
      const file = inLayer(w, p);
      return c.mknod(file, type | 0o600, isDevice ? 0x103 : 0) || c.chmod(file, mode);
    },
  ),
  layerLink: row(
    6,
    (r) => [filePath(r), filePath(r)],
    (w, from, to) => c.link(`${w.root}/${from}`, inLayer(w, to)),
  ),
  layerXattr: row(
    5,
    (r) => [path(r), r.pick(XATTRS), r.below(300)],
    (w, p, name, size) => c.lsetxattr(`${w.root}/${p}`, name, pattern(size)),
  ),
  layerAcl: row(
    4,
    (r) => [path(r), r.pick([ACL_ACCESS, ACL_DEFAULT]), r.below(ACLS.length)],
    // Not through a link, which could lead to another layer.
    (w, p, name, index) => c.lsetxattr(`${w.root}/${p}`, name, ACLS[index] ?? ""),
  ),
};

function theirs(name: string): Row {
  const operation = table[name];
  if (operation === undefined) throw new Error(`there is no operation "${name}"`);
  return operation;
}

/** An operation that is left out where `isExcepted`. */
function except(row: Row, isExcepted: (...given: Parameters<Row["run"]>) => boolean): Row {
  return { ...row, run: (w, args) => (isExcepted(w, args) ? "left out" : row.run(w, args)) };
}

/**
 * An operation on a slot that is left out for what has no name any more: the kernel's copy-up gives
 * it a name again, or fails if something else has that, a whiteout for instance.
 */
function withoutGoneNodes(name: string): Row {
  return except(theirs(name), (w, args) => {
    const fd = w.fd(Number(args[0]));
    // Its number of links is that of the lower layer.
    return fd >= 0 && String(c.readlink(`/proc/self/fd/${fd}`)).endsWith(" (deleted)");
  });
}

const hasMode = (found: c.Stat | number, mode: number): boolean =>
  typeof found !== "number" && (found.mode & 0o7777) === mode;

const isDirectoryAt = (file: string): boolean => {
  const found = c.lstat(file);
  return typeof found !== "number" && (found.mode & abi.S_IFMT) === abi.S_IFDIR;
};

const { mmapRead: _, mmapWrite: __, lseek: ___, rename: ____, ...shared } = table;

const mountTable: Table = {
  ...shared,
  open: { ...theirs("open"), weight: 24 },
  linkSlot: withoutGoneNodes("linkSlot"),
  /** A lower file that has the mode already is not copied up, by the kernel it is. */
  chmod: except(theirs("chmod"), (w, args) =>
    hasMode(c.stat(w.at(String(args[0]))), Number(args[1])),
  ),
  fchmod: except(withoutGoneNodes("fchmod"), (w, args) =>
    hasMode(c.fstat(w.fd(Number(args[0]))), Number(args[1])),
  ),
  futimens: withoutGoneNodes("futimens"),
  fsetxattr: withoutGoneNodes("fsetxattr"),
  /** Of an ACL that is not there the result says whether the file is in the upper layer. */
  removexattr: except(theirs("removexattr"), (w, args) => {
    const name = String(args[1]);
    const isAcl = name === ACL_ACCESS || name === ACL_DEFAULT;
    return isAcl && c.getxattr(w.at(String(args[0])), name) === -ENODATA;
  }),
  /** Copying up may fill holes, as the kernel does between stretches of data. */
  seek: row(
    3,
    (r) => [slot(r), offset(r) - 100, r.pick([0, 1, 2])],
    (w, s, at, whence) => {
      const found = c.fstat(w.fd(s));
      const isDirectory = typeof found !== "number" && (found.mode & abi.S_IFMT) === abi.S_IFDIR;
      return isDirectory ? "left out" : c.lseek(w.fd(s), at, whence);
    },
  ),
  seekData: row(
    2,
    (r) => [slot(r), offset(r)],
    (w, s, at) => {
      const fd = w.fd(s);
      const found = c.fstat(fd);
      if (typeof found === "number" || (found.mode & abi.S_IFMT) !== abi.S_IFREG) return "left out";
      const before = c.lseek(fd, 0, abi.SEEK_CUR);
      const data = c.lseek(fd, at, abi.SEEK_DATA);
      if (before >= 0) c.lseek(fd, before, abi.SEEK_SET);
      if (data < 0 && data !== -ENXIO) return data;
      if (at >= found.size) return data;
      const hole = c.pread(fd, (data < 0 ? found.size : data) - at, at);
      if (typeof hole === "number") return hole;
      const length = (data < 0 ? found.size : data) - at;
      return hole === c.shown("\0".repeat(length)) ? "only zeros are left out" : "data is left out";
    },
  ),
  /** After a copy-up, a mapping by a descriptor that only reads is of the kernel's old file. */
  mapAndWrite: row(
    3,
    (r) => [slot(r), r.below(5) * 4096, r.pick(SIZES), r.below(1000), r.chance(20)],
    (w, s, at, size, seed, isPrivate) => {
      const fd = w.fd(s);
      const found = c.fstat(fd);
      const room = typeof found === "number" ? 1 : Math.min(size, found.size - at);
      if (room <= 0) return "no room";
      if (isPrivate && fd >= 0 && (c.getFlags(fd) & abi.O_ACCMODE) !== abi.O_RDWR)
        return "left out";
      return c.mmapWrite(fd, at, pattern(room, seed), { isPrivate });
    },
  ),
  mmapFile: row(
    2,
    (r) => [filePath(r), r.below(3) * 4096, r.pick(SIZES)],
    (w, p, at, size) => {
      const fd = c.open(w.at(p), abi.O_RDONLY | abi.O_NONBLOCK);
      if (fd < 0) return fd;
      const found = c.fstat(fd);
      const end = typeof found === "number" ? 0 : Math.min(size, found.size - at);
      const data = end <= 0 ? "nothing" : c.mmapRead(fd, at, end);
      c.close(fd);
      return data;
    },
  ),
  /** And whether the file keeps its inode number, which `seen` can't know. */
  move: row(
    10,
    (r) => [...twoPaths(r), r.pick([0, 0, 0, 0, 1, 2, 2, 4])],
    (w, from, to, flags) => {
      const inode = (file: string): string => {
        const found = c.lstat(file);
        return typeof found === "number" ? "" : found.ino;
      };
      const [source, target] = [w.at(from), w.at(to)];
      const before = [inode(source), inode(target)];
      // The kernel copies up what it then can't rename.
      const listed = isDirectoryAt(source) && isDirectoryAt(target) ? c.list(target) : [];
      const isThere = (name: string): boolean => typeof c.lstat(`${target}/${name}`) !== "number";
      if (!Array.isArray(listed) || listed.some(isThere)) return "left out";
      const error = c.rename(source, target, flags);
      if (error < 0) return error;
      return before[0] === inode(target) && (flags !== 2 || before[1] === inode(source));
    },
  ),
  openDirectory: row(
    3,
    (r) => [slot(r), directoryPath(r)],
    (w, s, p) => w.fill(s, c.open(w.at(p), abi.O_RDONLY | abi.O_DIRECTORY)),
  ),
  temporary: row(
    2,
    (r) => [slot(r), directoryPath(r), r.pick(MODES)],
    (w, s, p, mode) => w.fill(s, c.open(w.at(p), abi.O_TMPFILE | abi.O_RDWR, mode)),
  ),
  whiteout: row(
    1,
    (r) => [filePath(r)],
    (w, p) => c.mknod(w.at(p), abi.S_IFCHR | 0o600, 0),
  ),
  privateXattr: row(
    2,
    (r) => [r.pick(["set", "get", "remove"]), path(r), r.pick(PRIVATE_XATTRS)],
    (w, how, p, name) => {
      if (how === "set") return c.lsetxattr(w.at(p), name, "x");
      return how === "get" ? c.lgetxattr(w.at(p), name) : c.lremovexattr(w.at(p), name);
    },
  ),
  statfs: row(
    1,
    (r) => [path(r)],
    (w, p) => {
      const found = c.statfs(w.at(p));
      if (typeof found === "number") return found;
      const { f_bsize, f_blocks, f_files, f_namelen, f_frsize } = found;
      return { f_bsize, f_blocks, f_files, f_namelen, f_frsize };
    },
  ),
};

/** Every operation that a process of this test may be asked for. */
export const overlayTable: Table = {
  ...mountTable,
  ...layerTable,
  makeOld: row(
    0,
    () => [],
    (w) => makeOld(w.root),
  ),
};

const PROFILE = { holes: false, writeback: false };

/** Both processes open files that may be in the layers, and get to work with them. */
function openSome(random: Random): OverlayStep[] {
  return [0, 1].flatMap((process) =>
    [0, 1, 2].map((index): OverlayStep => {
      const how = random.pick([abi.O_RDONLY, abi.O_RDWR, abi.O_RDWR, abi.O_WRONLY | abi.O_APPEND]);
      return [process, "open", index, random.pick(FILES), how | abi.O_NONBLOCK, 0o644];
    }),
  );
}

/** What is in the layers of one tree, and then done to it. `layers` counts the upper one. */
export function makeSteps(
  random: Random,
  { layers, operations, rotates }: { layers: number; operations: number; rotates: boolean },
): OverlayStep[] {
  const steps: OverlayStep[] = [];
  for (let layer = layers - 1; layer >= 0; layer--) {
    // What is in the upper layer before the first mount comes from another overlay, or an archive.
    if (layer === 0 && random.chance(70)) continue;
    const isLowest = layer === layers - 1;
    const { layerWhiteout: _, ...seen } = layerTable;
    const { layerOpaque: __, ...plain } = seen;
    // The kernel takes a whiteout for a file in an upper directory that nothing is merged with.
    const rows = isLowest && random.chance(80) ? plain : layer === 0 ? seen : layerTable;
    for (const [, name, ...args] of chooseOperations(random, 3 + random.below(12), PROFILE, rows))
      steps.push(["layer", layer, name, ...args]);
  }
  steps.push(...openSome(random));
  for (const operation of chooseOperations(random, operations, PROFILE, mountTable)) {
    steps.push(operation);
    if (random.chance(0.4)) steps.push(["remount"]);
    if (rotates && random.chance(0.1)) steps.push(["rotate"]);
  }
  return steps;
}
