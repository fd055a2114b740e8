// The operations of the differential test. Each is one row of the table: how often it comes, how
// its arguments are chosen, and what it does. Operations are plain data: lists of a process, a name
// and arguments.
//
// An operation names files by paths below the directory under test, and open files by slots of the
// process that does it. Any operation can be left out of a sequence: a slot that was not filled is
// just EBADF.

import * as abi from "../../src/abi-linux.ts";
import { EACCES, ENOENT } from "../../src/errno.ts";
import { geteuid } from "../../src/syscall.ts";
import * as c from "./calls.ts";
import { acl, ACL_ACCESS, ACL_DEFAULT, alice, bob, pattern, STAFF } from "./posix-place.ts";
import { isDirectory, type World } from "./differential-world.ts";
import type { Random } from "./random.ts";

export type Operation = readonly [process: number, name: string, ...args: unknown[]];

/** Where operations are done. */
export interface Places {
  /** Directories that are file systems of their own, which come and go; none unless given. */
  readonly mounts?: readonly string[];
  /** Whether there is a file system above them, in which operations are done in the directory r. */
  readonly hasRoot?: boolean;
}

/** What a sequence may contain, where the truth depends on more than the sequence. */
export interface Profile extends Places {
  /**
   * SEEK_DATA and SEEK_HOLE, and no fallocate that allocates: what ext4 says of allocated but
   * unwritten blocks depends on what happens to be in its cache.
   */
  readonly holes: boolean;
  /** The kernel collects writes: the source knows them only after fsync. */
  readonly writeback: boolean;
}

/** The operations by which a file system comes and goes; whoever has them done knows how. */
export const MOUNT = "mount";
export const UNMOUNT = "unmount";
/** The directory for operations in the file system above the others. */
export const ROOT_PLACE = "r";

// Where operations look for files and for directories; now and then each finds the other there.
export const FILES = ["a", "b", "d/a", "d/b", "d/e/a", "f/a"];
export const DIRECTORIES = ["d", "d/e", "f", "f/d"];
const SLOTS = 3;
export const SIZES = [0, 1, 100, 511, 4096, 4097, 8192, 20_000];
export const MODES = [
  0o600, 0o644, 0o666, 0o777, 0o777, 0o777, 0o400, 0o4755, 0o2775, 0o6777, 0o1777, 0,
];
export const XATTRS = ["user.a", "user.b", "trusted.a", "security.a"];
export const ACLS = [
  acl(["owner", 7], ["owningGroup", 5], ["other", 5]),
  acl(["owner", 7], ["user", 7, alice.uid], ["owningGroup", 5], ["mask", 7], ["other", 0]),
  acl(["owner", 6], ["owningGroup", 4], ["group", 7, STAFF], ["mask", 5], ["other", 4]),
];
const COMMANDS = [c.F_SETLK, abi.F_OFD_SETLK];
const LOCKS = [abi.F_RDLCK, abi.F_WRLCK, abi.F_UNLCK];
const TARGETS = ["a", "d", "d/a", "../a", "e/a", "nowhere", "x".repeat(300), "loop"];

export interface Row {
  readonly weight: number;
  readonly make: (random: Random, profile: Profile) => readonly unknown[];
  readonly run: (world: World, args: readonly unknown[]) => unknown;
}

const parentOf = (full: string): string => full.slice(0, full.lastIndexOf("/"));
const exists = (found: c.Stat | number): found is c.Stat => typeof found !== "number";
/** Links may also lead to other file systems; "../a" is in what they hang on, if it is one. */
const targets = ({ mounts = [], hasRoot = false }: Profile): string[] => {
  const own = mounts.length > 0 && !hasRoot ? TARGETS.filter((to) => to !== "../a") : TARGETS;
  return [...own, ...mounts.flatMap((name) => [`../${name}/a`, `../${name}/d`])];
};
/** What is checked before it is seen that two file systems are concerned differs: not for root. */
const isRoot = (): boolean => geteuid() === 0;

/**
 * The result of what may concern two file systems. On a mount the kernel looks for everything else
 * that is wrong before it asks the daemon, and elsewhere after: which of several errors is told is
 * only compared where EXDEV is the only one.
 */
const acrossMounts = (
  from: string | undefined,
  to: string | undefined,
  isOnlyError: () => boolean,
  act: () => number,
): number | string => {
  const isAcross = from !== undefined && to !== undefined && from !== to;
  const compares = !isAcross || isOnlyError();
  const result = act();
  return compares || result >= 0 ? result : "refused";
};

export function row<const Args extends readonly unknown[]>(
  weight: number,
  make: (random: Random, profile: Profile) => Args,
  run: (world: World, ...args: Args) => unknown,
): Row {
  return { weight, make, run: (world, args) => run(world, ...(args as unknown as Args)) };
}

/** The directories that operations are done in, with a slash. */
function placesOf({ mounts = [], hasRoot = false }: Places): string[] {
  const below = mounts.map((name) => `${name}/`);
  return mounts.length === 0 ? [""] : hasRoot ? [...below, `${ROOT_PLACE}/`] : below;
}
function place(random: Random, places: Places): string {
  const all = placesOf(places);
  return all.length === 1 ? all[0]! : random.pick(all);
}

const file = (random: Random): string => random.pick(random.chance(88) ? FILES : DIRECTORIES);
const directory = (random: Random): string => random.pick(random.chance(88) ? DIRECTORIES : FILES);
const either = (random: Random): string => random.pick([...FILES, ...DIRECTORIES]);
export const filePath = (random: Random, places: Places = {}): string =>
  place(random, places) + file(random);
export const directoryPath = (random: Random, places: Places = {}): string =>
  place(random, places) + directory(random);
export const path = (random: Random, places: Places = {}): string =>
  place(random, places) + either(random);
export const slot = (random: Random): number => random.below(SLOTS);
/** Two files, or two directories, or anything. */
export const twoPaths = (random: Random, places: Places = {}): [string, string] => {
  const choose = random.pick([file, file, directory, either]);
  const from = place(random, places);
  const isAcross = places.mounts !== undefined && random.chance(30);
  const to = isAcross ? place(random, places) : from;
  return [from + choose(random), to + choose(random)];
};
/** The same, in different places. */
function twoPlaces(random: Random, profile: Profile): [string, string] {
  const places = placesOf(profile);
  const from = random.pick(places);
  const to = random.pick(places.filter((other) => other !== from));
  const choose = random.pick([file, file, file, directory]);
  return [from + choose(random), to + choose(random)];
}
const onPath = (random: Random, profile: Profile): [string] => [path(random, profile)];
const onFile = (random: Random, profile: Profile): [string] => [filePath(random, profile)];
const onDirectory = (random: Random, profile: Profile): [string] => [
  directoryPath(random, profile),
];
const onSlot = (random: Random): [number] => [slot(random)];
export const offset = (random: Random): number =>
  random.chance(50) ? random.below(40_000) : random.below(30) * 4096;

export function openFlags(random: Random): number {
  const { O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_NOFOLLOW, O_DIRECTORY, O_DIRECT } = abi;
  // A FIFO must not block.
  let flags =
    random.pick([abi.O_RDONLY, abi.O_WRONLY, abi.O_RDWR, abi.O_RDWR, abi.O_RDWR]) | abi.O_NONBLOCK;
  if (random.chance(75)) flags |= O_CREAT;
  const some: [number, number][] = [
    [8, O_EXCL],
    [15, O_TRUNC],
    [15, O_APPEND],
    [4, O_NOFOLLOW],
    [4, O_DIRECTORY],
    [5, O_DIRECT],
    [2, abi.O_PATH],
  ];
  for (const [percent, flag] of some) if (random.chance(percent)) flags |= flag;
  return random.chance(4) ? abi.O_TMPFILE | abi.O_RDWR : flags;
}

export function time(random: Random): c.Time {
  if (random.chance(20)) return random.pick([c.NOW, c.OMIT]);
  return [random.pick([0, 5, -7, 1e9, 3e9, 8e9]) + random.below(100), random.below(1e9)];
}

/**
 * Whether this is a chown to nobody of a file with set-user-ID or set-group-ID bits. Only its owner
 * may do that, but through FUSE it looks as the taking of the bits before a write does.
 */
const isIdle = (found: c.Stat | number, uid: number, gid: number): boolean =>
  uid === -1 && gid === -1 && typeof found !== "number" && (found.mode & 0o6000) !== 0;

const isDirect = (fd: number): boolean => fd >= 0 && (c.getFlags(fd) & abi.O_DIRECT) !== 0;

/**
 * Whether this is a write with O_DIRECT of something else than whole blocks. ext4 refuses it, but
 * may have written the blocks that are already allocated, which depends on what was written back by
 * then.
 */
const isHalfBlocked = (fd: number, at: number, size: number): boolean =>
  isDirect(fd) && (at % 4096 !== 0 || size % 4096 !== 0);

/** Maps at most what the file has: beyond is SIGBUS. */
function mappable(fd: number, at: number, length: number): number {
  const found = c.fstat(fd);
  return typeof found === "number" ? 1 : Math.max(0, Math.min(length, found.size - at));
}

/** Ends what `list` says of a name that is listed, but not there. */
export const LISTED_ONLY = " is not there";

function list(fd: number, directory: string): unknown {
  const entries = fd < 0 ? fd : c.getAllDents(fd);
  if (typeof entries === "number") return entries;
  return entries
    .map(({ name, ino, type }) => {
      const found = c.lstat(`${directory}/${name}`);
      // What lies in a directory without the right to search is a whiteout if it is a device.
      const isUnseen = found === -EACCES && type === abi.DT_CHR;
      if (found === -ENOENT || isUnseen) return `${name}${LISTED_ONLY}`;
      // The parent of the directory under test is another on both sides.
      const same = name === ".." || typeof found === "number" ? "" : found.ino === ino;
      return `${name} ${type} ${same}`;
    })
    .sort();
}

const lock = (random: Random): c.LockRange => ({
  type: random.pick(LOCKS),
  start: random.below(10) * 10,
  length: random.below(4) * 10,
});

const { FALLOC_FL_KEEP_SIZE: KEEP, FALLOC_FL_PUNCH_HOLE: PUNCH, FALLOC_FL_ZERO_RANGE: ZERO } = abi;

function rename(w: World, from: string, to: string, flags: number): number | string {
  // On ext4 it changes the directories' times even if it fails, as over a directory with files.
  const isWhiteout = (flags & abi.RENAME_WHITEOUT) !== 0;
  if (isWhiteout && isDirectory(c.lstat(w.at(from)))) return "left out";
  const [a, b] = [w.at(from), w.at(to)];
  const isOnlyError = (): boolean => {
    const [source, target] = [c.lstat(a), c.lstat(b)];
    const fits = !exists(target) || isDirectory(source) === isDirectory(target);
    return isRoot() && flags === 0 && exists(source) && fits;
  };
  const [here, there] = [w.mountAt(parentOf(a)), w.mountAt(parentOf(b))];
  return acrossMounts(here, there, isOnlyError, () => c.rename(a, b, flags));
}

function link(w: World, from: string, to: string, flags: number): number | string {
  const [a, b] = [w.at(from), w.at(to)];
  const follow = (flags & abi.AT_SYMLINK_FOLLOW) !== 0;
  const isOnlyError = (): boolean => {
    const source = follow ? c.stat(a) : c.lstat(a);
    return isRoot() && exists(source) && !isDirectory(source) && !exists(c.lstat(b));
  };
  const [here, there] = [w.mountAt(a, follow), w.mountAt(parentOf(b))];
  return acrossMounts(here, there, isOnlyError, () => c.link(a, b, flags));
}

/** A file is made where there is nothing: few would exist otherwise. */
function makeIfMissing(w: World, path: string): void {
  const full = `${w.root}/${path}`;
  if (exists(c.lstat(full))) return;
  const fd = c.open(full, abi.O_CREAT | abi.O_EXCL | abi.O_WRONLY, 0o666);
  if (fd < 0) return;
  c.write(fd, pattern(5000, path.length));
  c.close(fd);
}

/**
 * The kernel's FUSE copies by itself what the daemon refuses with EXDEV, as it does between the
 * bind mounts of one file system.
 */
function copyAcross(w: World, from: string, start: number, to: string, size: number): unknown {
  makeIfMissing(w, from);
  makeIfMissing(w, to);
  const input = c.open(w.at(from), abi.O_RDONLY | abi.O_NONBLOCK);
  const output = c.open(w.at(to), abi.O_RDWR | abi.O_NONBLOCK);
  const fds = [input, output].filter((fd) => fd >= 0);
  const result = fds.length < 2 ? [input, output] : c.copyFileRange(input, start, output, 0, size);
  for (const fd of fds) c.close(fd);
  return typeof result === "number" ? result : result.map((fd) => Math.min(fd, 0));
}

/** A row for each operation, by its name. */
export type Table = Readonly<Record<string, Row>>;

/** What can be done in any file system. */
export const table: Table = {
  open: row(
    14,
    (r, p) => [slot(r), filePath(r, p), openFlags(r), r.pick(MODES)],
    (w, s, p, flags, mode) => w.fill(s, c.open(w.at(p), flags, mode)),
  ),
  close: row(4, onSlot, (w, s) => w.empty(s)),
  read: row(
    4,
    (r) => [slot(r), r.pick(SIZES)],
    (w, s, size) => c.read(w.fd(s), size),
  ),
  pread: row(
    6,
    (r) => [slot(r), r.pick(SIZES), offset(r)],
    (w, s, size, at) => c.pread(w.fd(s), size, at),
  ),
  write: row(
    6,
    (r) => [slot(r), r.pick(SIZES), r.below(1000)],
    (w, s, size, seed) => {
      const fd = w.fd(s);
      if (isHalfBlocked(fd, c.lseek(fd, 0, abi.SEEK_CUR), size)) return "left out";
      return c.write(fd, pattern(size, seed));
    },
  ),
  pwrite: row(
    8,
    (r) => [slot(r), r.pick(SIZES), r.below(1000), offset(r)],
    (w, s, size, seed, at) => {
      const fd = w.fd(s);
      return isHalfBlocked(fd, at, size) ? "left out" : c.pwrite(fd, pattern(size, seed), at);
    },
  ),
  lseek: row(
    3,
    (r, { holes }) => [
      slot(r),
      offset(r) - 100,
      r.pick(holes ? [0, 1, 2, abi.SEEK_DATA, abi.SEEK_HOLE] : [0, 1, 2]),
    ],
    // How far a directory goes is its file system's own affair.
    (w, s, at, whence) =>
      isDirectory(c.fstat(w.fd(s))) ? "left out" : c.lseek(w.fd(s), at, whence),
  ),
  truncate: row(
    3,
    (r, p) => [filePath(r, p), offset(r)],
    (w, p, size) => c.truncate(w.at(p), size),
  ),
  ftruncate: row(
    4,
    (r) => [slot(r), offset(r)],
    (w, s, size) => c.ftruncate(w.fd(s), size),
  ),
  fallocate: row(
    3,
    (r, { holes }) => [
      slot(r),
      holes ? KEEP | PUNCH : r.pick([0, KEEP, KEEP | PUNCH, ZERO, ZERO | KEEP]),
      offset(r),
      r.pick(SIZES),
    ],
    (w, s, mode, at, size) => c.fallocate(w.fd(s), mode, at, size),
  ),
  copyFileRange: row(
    3,
    (r) => [slot(r), offset(r), slot(r), offset(r), r.pick(SIZES)],
    (w, from, start, to, at, size) => {
      const fds = [w.fd(from), w.fd(to)] as const;
      // ext4 changes the times before it finds that O_DIRECT does not allow the copy.
      if (fds.some(isDirect)) return "left out";
      return c.copyFileRange(fds[0], start, fds[1], at, size);
    },
  ),
  mmapRead: row(
    2,
    (r) => [slot(r), r.below(5) * 4096, r.pick(SIZES)],
    (w, s, at, size) => c.mmapRead(w.fd(s), at, mappable(w.fd(s), at, size)),
  ),
  mmapWrite: row(
    3,
    (r) => [slot(r), r.below(5) * 4096, r.pick(SIZES), r.below(1000), r.chance(20)],
    (w, s, at, size, seed, isPrivate) => {
      const fd = w.fd(s);
      const room = mappable(fd, at, size);
      return room === 0 ? "no room" : c.mmapWrite(fd, at, pattern(room, seed), { isPrivate });
    },
  ),
  fsync: row(2, onSlot, (w, s) => c.fsync(w.fd(s))),
  fdatasync: row(1, onSlot, (w, s) => c.fdatasync(w.fd(s))),
  rename: row(8, (r, p) => [...twoPaths(r, p), r.pick([0, 0, 0, 1, 2, 4, 5])], rename),
  link: row(
    4,
    (r, p) => [filePath(r, p), filePath(r, p), r.pick([0, abi.AT_SYMLINK_FOLLOW])],
    link,
  ),
  linkSlot: row(
    2,
    (r, p) => [slot(r), path(r, p)],
    (w, s, to) => {
      const [fd, b] = [w.fd(s), w.at(to)];
      const isOnlyError = (): boolean => {
        const source = c.fstat(fd);
        const isThere = exists(source) && !isDirectory(source) && source.nlink > 0;
        return isRoot() && isThere && !exists(c.lstat(b));
      };
      return acrossMounts(w.mountIn(s), w.mountAt(parentOf(b)), isOnlyError, () =>
        c.link(`/proc/self/fd/${fd}`, b, abi.AT_SYMLINK_FOLLOW),
      );
    },
  ),
  unlink: row(4, onFile, (w, p) => c.unlink(w.at(p))),
  rmdir: row(2, onDirectory, (w, p) => c.rmdir(w.at(p))),
  mkdir: row(
    6,
    (r, p) => [directoryPath(r, p), r.pick(MODES)],
    (w, p, mode) => c.mkdir(w.at(p), mode),
  ),
  symlink: row(
    3,
    (r, p) => [r.pick(targets(p)), filePath(r, p)],
    (w, to, p) => c.symlink(to, w.at(p)),
  ),
  readlink: row(2, onPath, (w, p) => c.readlink(w.at(p))),
  mknod: row(
    2,
    (r, p) => [
      filePath(r, p),
      r.pick([0, abi.S_IFREG, abi.S_IFIFO, abi.S_IFSOCK, abi.S_IFCHR]),
      r.pick(MODES),
    ],
    // The device is /dev/null.
    (w, p, type, mode) => c.mknod(w.at(p), type | mode, type === abi.S_IFCHR ? 0x103 : 0),
  ),
  chmod: row(
    4,
    (r, p) => [path(r, p), r.pick(MODES)],
    (w, p, mode) => c.chmod(w.at(p), mode),
  ),
  fchmod: row(
    2,
    (r) => [slot(r), r.pick(MODES)],
    (w, s, mode) => c.fchmod(w.fd(s), mode),
  ),
  chown: row(
    4,
    (r, p) => [path(r, p), r.pick([-1, 0, alice.uid, bob.uid]), r.pick([-1, 0, alice.gid, STAFF])],
    (w, p, uid, gid) => {
      const full = w.at(p);
      return isIdle(c.stat(full), uid, gid) ? "left out" : c.chown(full, uid, gid);
    },
  ),
  lchown: row(
    1,
    (r, p) => [path(r, p), r.pick([-1, 0, alice.uid]), r.pick([-1, 0, alice.gid])],
    (w, p, uid, gid) => {
      const full = w.at(p);
      return isIdle(c.lstat(full), uid, gid) ? "left out" : c.lchown(full, uid, gid);
    },
  ),
  utimens: row(
    4,
    (r, p) => [path(r, p), time(r), time(r), r.pick([0, abi.AT_SYMLINK_NOFOLLOW])],
    (w, p, atime, mtime, flags) => c.utimens(w.at(p), [atime, mtime], flags),
  ),
  futimens: row(
    2,
    (r) => [slot(r), time(r), time(r)],
    (w, s, atime, mtime) => c.futimens(w.fd(s), [atime, mtime]),
  ),
  setxattr: row(
    4,
    (r, p) => [path(r, p), r.pick(XATTRS), r.below(300), r.pick([0, 0, 1, 2])],
    (w, p, name, size, flags) => c.setxattr(w.at(p), name, pattern(size), flags),
  ),
  lsetxattr: row(
    1,
    (r, p) => [path(r, p), r.pick(XATTRS)],
    (w, p, name) => c.lsetxattr(w.at(p), name, "value"),
  ),
  fsetxattr: row(
    1,
    (r) => [slot(r), r.pick(XATTRS)],
    (w, s, name) => c.fsetxattr(w.fd(s), name, "by slot"),
  ),
  getxattr: row(
    3,
    (r, p) => [path(r, p), r.pick([...XATTRS, ACL_ACCESS, ACL_DEFAULT]), r.pick([65_536, 10])],
    (w, p, name, size) => c.getxattr(w.at(p), name, size),
  ),
  fgetxattr: row(
    1,
    (r) => [slot(r), r.pick([...XATTRS, ACL_ACCESS])],
    (w, s, name) => c.fgetxattr(w.fd(s), name),
  ),
  listxattr: row(2, onPath, (w, p) => c.listxattr(w.at(p))),
  llistxattr: row(1, onPath, (w, p) => c.llistxattr(w.at(p))),
  removexattr: row(
    2,
    (r, p) => [path(r, p), r.pick([...XATTRS, ACL_ACCESS, ACL_DEFAULT])],
    (w, p, name) => c.removexattr(w.at(p), name),
  ),
  setAcl: row(
    3,
    (r, p) => [path(r, p), r.pick([ACL_ACCESS, ACL_DEFAULT]), r.below(ACLS.length)],
    (w, p, name, index) => c.setxattr(w.at(p), name, ACLS[index] ?? ""),
  ),
  list: row(4, onDirectory, (w, p) => {
    const fd = c.open(w.at(p), abi.O_RDONLY | abi.O_DIRECTORY);
    const found = list(fd, `${w.root}/${p}`);
    c.close(fd);
    return found;
  }),
  listSlot: row(2, onSlot, (w, s) => {
    const fd = w.fd(s);
    c.lseek(fd, 0, abi.SEEK_SET);
    return list(fd, `/proc/self/fd/${fd}`);
  }),
  stat: row(3, onPath, (w, p) => typeof c.stat(w.at(p))),
  access: row(
    2,
    (r, p) => [path(r, p), r.below(8)],
    (w, p, how) => c.access(w.at(p), how),
  ),
  contents: row(3, onFile, (w, p) => {
    const fd = c.open(w.at(p), abi.O_RDONLY | abi.O_NONBLOCK);
    const data = c.pread(fd, 1 << 20, 0);
    if (fd >= 0) c.close(fd);
    return fd < 0 ? fd : data;
  }),
  setLock: row(
    4,
    (r) => [slot(r), r.pick(COMMANDS), lock(r)],
    (w, s, command, range) => c.setLock(w.fd(s), command, range),
  ),
  getLock: row(
    2,
    (r) => [slot(r), lock(r)],
    (w, s, range) => {
      const found = c.getLock(w.fd(s), c.F_GETLK, { ...range, type: abi.F_WRLCK });
      return typeof found === "number" ? found : [found.type, found.start, found.length];
    },
  ),
  flock: row(
    2,
    (r) => [slot(r), r.pick([abi.LOCK_SH, abi.LOCK_EX, abi.LOCK_UN]) | abi.LOCK_NB],
    (w, s, operation) => c.flock(w.fd(s), operation),
  ),
  umask: row(
    1,
    (r) => [r.pick([0, 0o002, 0o022, 0o077])],
    (_, mask) => c.umask(mask),
  ),
};

/** What only makes sense where there are several file systems. */
const onMounts: Table = {
  names: row(
    2,
    () => [],
    (w) => c.list(w.root),
  ),
  renameAcross: row(8, twoPlaces, (w, from, to) => {
    makeIfMissing(w, from);
    return rename(w, from, to, 0);
  }),
  linkAcross: row(6, twoPlaces, (w, from, to) => {
    makeIfMissing(w, from);
    return link(w, from, to, 0);
  }),
  copyAcross: row(
    6,
    (r, p) => {
      const [from, to] = twoPlaces(r, p);
      return [from, r.below(3) * 1000, to, r.pick(SIZES)];
    },
    copyAcross,
  ),
};

/** Every operation that a process of the test of one or more file systems may be asked for. */
export const plainTable: Table = { ...table, ...onMounts };

/** `count` operations of two processes; now and then a file system goes, and comes back. */
export function makeOperations(random: Random, count: number, profile: Profile): Operation[] {
  const operations: Operation[] = placesOf(profile).flatMap((at) =>
    DIRECTORIES.map((name): Operation => [random.below(2), "mkdir", at + name, 0o777]),
  );
  const rows = profile.mounts === undefined ? table : plainTable;
  const more = Math.max(0, count - operations.length);
  return [...operations, ...chooseOperations(random, more, profile, rows)];
}

/** At least `count` operations out of `rows`, each as often as its weight says. */
export function chooseOperations(
  random: Random,
  count: number,
  profile: Profile,
  rows: Table,
): Operation[] {
  const { mounts = [] } = profile;
  const bag = Object.entries(rows).flatMap(([name, { weight }]) =>
    Array<string>(weight).fill(name),
  );
  const operations: Operation[] = [];
  const gone = new Set<string>();
  while (operations.length < count) {
    // What is gone comes back soon.
    if (mounts.length > 0 && random.chance(gone.size > 0 ? 8 : 3)) {
      const [name = random.pick(mounts)] = random.chance(20) ? [] : gone;
      operations.push([0, gone.has(name) ? MOUNT : UNMOUNT, name]);
      if (!gone.delete(name)) gone.add(name);
    }
    const process = random.below(2);
    const name = random.pick(bag);
    const args = rows[name]?.make(random, profile) ?? [];
    const [first, , whence] = args;
    if (profile.writeback && name === "lseek" && Number(whence) >= abi.SEEK_DATA)
      operations.push([process, "fsync", first]);
    operations.push([process, name, ...args]);
  }
  return operations;
}

/** Does an operation in this process: its result, and what became of the files it touched. */
export function performOperation(world: World, [, name, ...args]: Operation, rows: Table): unknown {
  const operation = rows[name];
  if (operation === undefined) throw new Error(`there is no operation "${name}"`);
  const result = operation.run(world, args);
  return { result, seen: world.seen() };
}
