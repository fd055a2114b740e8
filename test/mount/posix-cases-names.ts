// POSIX cases: the names of files: links, renames, removal, special files, directories.

import { createConnection, createServer } from "node:net";
import * as abi from "../../src/abi-linux.ts";
import * as c from "./calls.ts";
import {
  alice,
  bob,
  changes,
  contents,
  directory,
  file,
  inode,
  kind,
  links,
  mode,
  owner,
  size,
  STAFF,
  zoo,
  type Cases,
  type Place,
} from "./posix-place.ts";

const { O_RDONLY, O_RDWR, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT } = abi;

/** One thing of every kind that a rename may find at either end. */
function make(what: string, path: string): void {
  if (what === "file") file(path, path.slice(-3));
  else if (what === "empty directory") directory(path);
  else if (what === "full directory") file(`${directory(path)}/inside`);
  else if (what === "link") c.symlink("nowhere", path);
}
const ENDS = ["missing", "file", "empty directory", "full directory", "link"];

/** Renames each kind of thing over each. */
function renameMatrix({ at }: Place, flags: number): unknown {
  return ENDS.map((from, row) =>
    ENDS.map((to, column) => {
      const [a, b] = [at(`a${row}${column}`), at(`b${row}${column}`)];
      make(from, a);
      make(to, b);
      return [c.rename(a, b, flags), kind(a), kind(b), c.list(b)].join(" ");
    }),
  );
}

export const nameCases: Cases = {
  "rename over everything": (place) => renameMatrix(place, 0),
  "RENAME_NOREPLACE over everything": (place) => renameMatrix(place, RENAME_NOREPLACE),
  "RENAME_EXCHANGE of everything": (place) => renameMatrix(place, RENAME_EXCHANGE),
  "RENAME_WHITEOUT over everything": (place) => renameMatrix(place, RENAME_WHITEOUT),

  "RENAME_WHITEOUT leaves a device 0:0 behind": ({ at }) => {
    file(at("f"), "data");
    const error = c.rename(at("f"), at("g"), RENAME_WHITEOUT);
    const left = c.must<c.Stat>(c.lstat(at("f")));
    return [error, kind(at("f")), left.rdev, left.uid, mode(at("f")), contents(at("g"))];
  },

  "rename flags that exclude each other or don't exist": ({ at }) => {
    file(at("f"));
    file(at("g"));
    const flags = [RENAME_EXCHANGE | RENAME_NOREPLACE, RENAME_EXCHANGE | RENAME_WHITEOUT, 8, 1024];
    return flags.map((flag) => c.rename(at("f"), at("g"), flag));
  },

  "rename into a directory below itself": ({ at }) => {
    directory(at("d"));
    directory(at("d/e"));
    return [
      c.rename(at("d"), at("d/e/f")),
      c.rename(at("d"), at("d/e")),
      c.rename(at("d/e"), at("d")),
      c.rename(at("d"), at("d/e"), RENAME_EXCHANGE),
      c.rename(at("d"), at("d")),
      c.list(at("d")),
    ];
  },

  "rename of . and ..": ({ at }) => {
    directory(at("d"));
    return [
      c.rename(at("d/."), at("e")),
      c.rename(at("d/.."), at("e")),
      c.rename(at("d"), at("d/.")),
      c.rename(at("d"), at("e/..")),
    ];
  },

  "rename between two names of one file does nothing": ({ at }) => {
    file(at("a"));
    c.link(at("a"), at("b"));
    return [c.rename(at("a"), at("b")), kind(at("a")), kind(at("b")), links(at("a"))];
  },

  "rename between directories moves .. and link counts": ({ at }) => {
    for (const name of ["p", "q", "p/d"]) directory(at(name));
    const error = c.rename(at("p/d"), at("q/d"));
    return [error, links(at("p")), links(at("q")), inode(at("q/d/..")) === inode(at("q"))];
  },

  "RENAME_EXCHANGE between directories": ({ at }) => {
    for (const name of ["p", "q", "p/d"]) directory(at(name));
    file(at("q/f"), "data");
    const error = c.rename(at("p/d"), at("q/f"), RENAME_EXCHANGE);
    return [error, contents(at("p/d")), kind(at("q/f")), links(at("p")), links(at("q"))];
  },

  "rename changes ctime, and mtime of both directories": ({ at }) => {
    for (const name of ["p", "q"]) directory(at(name));
    file(at("p/f"));
    const changed: unknown[] = [];
    const renamed = (): number => c.rename(at("p/f"), at("q/f"));
    changed.push(changes(at("p"), () => changed.push(changes(at("q"), renamed))));
    const fd = c.open(at("q/f"), O_RDONLY);
    return [...changed, changes(`/proc/self/fd/${fd}`, () => c.rename(at("q/f"), at("q/g")))];
  },

  "what a rename replaces lives on while it is open": ({ at }) => {
    file(at("new"), "new");
    file(at("old"), "old");
    const fd = c.open(at("old"), O_RDWR);
    const error = c.rename(at("new"), at("old"));
    return [error, links(fd), c.pread(fd, 10, 0), c.pwrite(fd, "O", 0), contents(at("old"))];
  },

  "an open file follows its renames": ({ at }) => {
    file(at("a"), "abc");
    directory(at("d"));
    const fd = c.open(at("a"), O_RDWR);
    c.rename(at("a"), at("d/b"));
    c.rename(at("d"), at("e"));
    c.pwrite(fd, "X", 0);
    return [contents(at("e/b")), size(fd), links(fd)];
  },

  "renaming a directory into another needs write permission on itself": ({ at }) => {
    for (const name of ["p", "q"]) c.chmod(directory(at(name)), 0o777);
    directory(at("p/d"));
    file(at("p/f"));
    return c.as(alice, () => [
      c.rename(at("p/d"), at("p/e")),
      c.rename(at("p/e"), at("q/e")),
      c.rename(at("p/f"), at("q/f")),
    ]);
  },

  "a sticky directory protects others' files": ({ at }) => {
    c.chmod(directory(at("d")), 0o1777);
    c.chown(at("d"), bob.uid, bob.gid);
    const made = c.as(alice, () =>
      ["a", "b", "c", "e"].map((name) =>
        c.close(c.open(at(`d/${name}`), abi.O_CREAT | O_RDWR, 0o666)),
      ),
    );
    const other = { uid: bob.uid + 1, gid: bob.gid };
    return [
      made,
      c.as(other, () => [
        c.unlink(at("d/a")),
        c.rename(at("d/a"), at("d/x")),
        c.tryOpen(at("d/mine"), abi.O_CREAT | O_RDWR),
        c.rename(at("d/mine"), at("d/a")),
        c.unlink(at("d/mine")),
      ]),
      c.as(bob, () => c.unlink(at("d/a"))),
      c.as(alice, () => c.rename(at("d/b"), at("d/y"))),
      c.unlink(at("d/c")),
      c.list(at("d")),
    ];
  },

  "a hard link is the same file": ({ at }) => {
    file(at("a"), "abc");
    const changed = changes(at("a"), () => c.link(at("a"), at("b")));
    c.chmod(at("b"), 0o600);
    const fd = c.open(at("b"), O_RDWR);
    c.pwrite(fd, "X", 1);
    return [
      changed,
      links(at("a")),
      mode(at("a")),
      contents(at("a")),
      inode(at("a")) === inode(at("b")),
    ];
  },

  "link refuses directories, existing names and missing files": ({ at }) => {
    file(at("f"));
    directory(at("d"));
    return [
      c.link(at("d"), at("e")),
      c.link(at("f"), at("d")),
      c.link(at("f"), at("f")),
      c.link(at("missing"), at("x")),
      c.link(at("f"), at("missing/x")),
      c.link(at("f"), at("f/x")),
      links(at("f")),
    ];
  },

  "linking a symbolic link links itself, or its target": ({ at }) => {
    file(at("f"), "data");
    c.symlink("f", at("l"));
    return [
      c.link(at("l"), at("a")),
      c.link(at("l"), at("b"), abi.AT_SYMLINK_FOLLOW),
      kind(at("a")),
      kind(at("b")),
      links(at("f")),
      links(at("l")),
    ];
  },

  "every kind of file but directories can be linked": (place) => {
    const { at } = place;
    return zoo(place).map((name) => [
      name,
      c.link(at(name), at(`${name} 2`)),
      kind(at(`${name} 2`)),
    ]);
  },

  "linking what belongs to another": ({ at, directory: dir }) => {
    c.chmod(dir, 0o777);
    file(at("readable"), "", 0o644);
    file(at("writable"), "", 0o666);
    return c.as(alice, () => [
      c.link(at("readable"), at("x")) < 0 ? "refused" : "linked",
      c.link(at("writable"), at("y")),
    ]);
  },

  "unlink and rmdir refuse each other's kind": ({ at }) => {
    file(at("f"));
    directory(at("d"));
    c.symlink("d", at("l"));
    return [
      c.unlink(at("d")),
      c.rmdir(at("f")),
      c.rmdir(at("l")),
      c.unlink(at("f/")),
      c.unlink(at("missing")),
      c.rmdir(at("missing")),
      c.unlink(at("f/x")),
      c.rmdir(at("d/.")),
      c.rmdir(at("d/..")),
      c.unlink(at("d/.")),
      c.rmdir(at("d/")),
      c.unlink(at("l")),
      c.unlink(at("f")),
    ];
  },

  "a directory with something in it can't be removed": ({ at }) => {
    directory(at("d"));
    file(at("d/f"));
    return [c.rmdir(at("d")), c.unlink(at("d/f")), c.rmdir(at("d")), kind(at("d"))];
  },

  "an unlinked file works on through its descriptor": ({ at }) => {
    file(at("f"), "abcdef");
    const fd = c.open(at("f"), O_RDWR);
    c.unlink(at("f"));
    return [
      links(fd),
      c.pread(fd, 10, 0),
      c.pwrite(fd, "XYZ", 6),
      c.ftruncate(fd, 8),
      c.fallocate(fd, 0, 0, 100),
      size(fd),
      c.pread(fd, 8, 0),
      c.fchmod(fd, 0o4711),
      mode(fd),
      c.futimens(fd, [
        [1, 2],
        [3, 4],
      ]),
      c.must<c.Stat>(c.fstat(fd)).mtime,
      c.fsetxattr(fd, "user.x", "value"),
      c.fgetxattr(fd, "user.x"),
      c.fsync(fd),
      c.link(`/proc/self/fd/${fd}`, at("g"), abi.AT_SYMLINK_FOLLOW),
      c.stat(at("f")),
    ];
  },

  "a name can be taken again while its old file is open": ({ at }) => {
    file(at("f"), "old");
    const old = c.open(at("f"), O_RDWR);
    c.unlink(at("f"));
    file(at("f"), "new");
    const fd = c.open(at("f"), O_RDWR);
    return [c.pread(old, 9, 0), c.pread(fd, 9, 0), links(old), links(fd)];
  },

  "removing one of two names lowers the link count": ({ at }) => {
    file(at("a"), "abc");
    c.link(at("a"), at("b"));
    const fd = c.open(at("a"), O_RDONLY);
    const changed = changes(at("b"), () => c.unlink(at("a")));
    return [changed, links(fd), links(at("b")), c.unlink(at("b")), links(fd)];
  },

  "symbolic links of every length": ({ at }) =>
    [0, 1, 59, 60, 255, 256, 4094, 4095, 4096].map((length) => {
      const target = "t".repeat(length);
      const error = c.symlink(target, at(`l${length}`));
      const found = c.readlink(at(`l${length}`));
      return [
        length,
        error,
        found === target,
        typeof found === "number" ? found : size(at(`l${length}`)),
      ];
    }),

  "symbolic links: dangling, looping, relative, absolute, to directories": ({
    at,
    directory: dir,
  }) => {
    directory(at("d"));
    file(at("d/f"), "data");
    c.symlink("nowhere", at("dangling"));
    c.symlink("loop", at("loop"));
    c.symlink("d/f", at("relative"));
    c.symlink(`${dir}/d/f`, at("absolute"));
    c.symlink("d", at("directory"));
    c.symlink("../d/../relative", at("d/winding"));
    const names = ["dangling", "loop", "relative", "absolute", "directory/f", "d/winding", "d/f/x"];
    return names.map((name) => [contents(at(name)), typeof c.stat(at(name))]);
  },

  "forty symbolic links in a row are too many": ({ at }) => {
    file(at("l0"), "end");
    for (let index = 1; index <= 41; index++) c.symlink(`l${index - 1}`, at(`l${index}`));
    return [contents(at("l40")), contents(at("l41"))];
  },

  "readlink cuts off, and refuses what is no link": ({ at }) => {
    c.symlink("0123456789", at("l"));
    file(at("f"));
    return [c.readlink(at("l"), 4), c.readlink(at("l"), 0), c.readlink(at("f")), mode(at("l"))];
  },

  "symlink over an existing name": ({ at }) => {
    file(at("f"));
    c.symlink("x", at("l"));
    return [c.symlink("y", at("f")), c.symlink("y", at("l")), c.readlink(at("l"))];
  },

  "mknod makes every kind": ({ at }) =>
    [
      0,
      abi.S_IFREG,
      abi.S_IFIFO,
      abi.S_IFSOCK,
      abi.S_IFCHR,
      abi.S_IFBLK,
      abi.S_IFDIR,
      abi.S_IFLNK,
    ].map((type) => [
      c.mknod(at(`n${type}`), type | 0o640, 0x12345),
      kind(at(`n${type}`)),
      mode(at(`n${type}`)),
      ((found) => (typeof found === "number" ? found : found.rdev))(c.lstat(at(`n${type}`))),
      c.mknod(at(`n${type}`), type | 0o640, 0x12345),
    ]),

  "mknod of devices is for root, but for device 0:0": ({ at, directory: dir }) => {
    c.chmod(dir, 0o777);
    return c.as(alice, () => [
      c.mknod(at("a"), abi.S_IFCHR | 0o600, 0x103),
      c.mknod(at("b"), abi.S_IFBLK | 0o600, 0x103),
      c.mknod(at("c"), abi.S_IFCHR | 0o600, 0),
      c.mknod(at("d"), abi.S_IFSOCK | 0o600),
      c.mknod(at("e"), abi.S_IFREG | 0o600),
    ]);
  },

  "names of any bytes": ({ at, directory: dir }) => {
    const names: string[] = [];
    for (let byte = 1; byte < 256; byte++)
      if (byte !== 0x2f) names.push(`n${String.fromCharCode(byte)}`);
    names.push("...", " ", "\n", "-", "*", "\\", "\xff\xfe", "e\xcc\x81", "\xc3\xa9", "a ", " a");
    const made = names.map((name) => c.tryOpen(at(name), abi.O_CREAT | abi.O_EXCL | O_RDWR));
    const found = c.list(dir);
    return [
      made.every((fd) => fd === 0),
      found,
      names.every((name) => kind(at(name)) === "file"),
      names.every((name) => c.unlink(at(name)) === 0),
    ];
  },

  "names are as long as 255 bytes": ({ at, directory: dir }) => {
    const [long, longer] = ["n".repeat(255), "n".repeat(256)];
    directory(at("d"));
    return [
      c.tryOpen(at(long), abi.O_CREAT | O_RDWR),
      c.tryOpen(at(longer), abi.O_CREAT | O_RDWR),
      c.mkdir(at(longer)),
      c.symlink("x", at(longer)),
      c.link(at(long), at(longer)),
      c.rename(at(long), at(longer)),
      c.stat(at(longer)),
      c.unlink(at(longer)),
      c.rename(at(long), at("m".repeat(255))),
      (c.list(dir) as string[]).map((name) => name.length),
    ];
  },

  "large and small letters differ": ({ at, directory: dir }) => {
    file(at("name"), "small");
    file(at("NAME"), "large");
    return [contents(at("name")), contents(at("NAME")), c.list(dir)];
  },

  "mkdir over what exists": (place) => {
    const { at } = place;
    return [...zoo(place), ".", ".."].map((name) => c.mkdir(at(name)));
  },

  "mkdir keeps the sticky bit and takes a slash at the end": ({ at }) => [
    c.mkdir(at("a"), 0o1777),
    mode(at("a")),
    c.mkdir(at("b/"), 0o700),
    mode(at("b")),
    c.mkdir(at("c"), 0o6777),
    mode(at("c")),
  ],

  "a directory counts its subdirectories as links": ({ at }) => {
    directory(at("d"));
    const counts = [links(at("d"))];
    for (const name of ["x", "y", "z"]) directory(at(`d/${name}`));
    file(at("d/f"));
    counts.push(links(at("d")));
    c.rmdir(at("d/x"));
    c.rename(at("d/y"), at("y"));
    return [...counts, links(at("d"))];
  },

  "directories a hundred deep": ({ at }) => {
    const deep = Array.from({ length: 100 }, (_, index) => `d${index}`);
    for (let depth = 1; depth <= 100; depth++) directory(at(deep.slice(0, depth).join("/")));
    const bottom = at(deep.join("/"));
    file(`${bottom}/f`, "deep");
    return [contents(`${bottom}/f`), kind(`${bottom}/${"../".repeat(100)}d0`), c.list(bottom)];
  },

  "paths longer than PATH_MAX are reached step by step": ({ directory: dir }) => {
    const name = "d".repeat(200);
    c.must(c.chdir(dir));
    for (let depth = 0; depth < 30; depth++) {
      directory(name);
      c.must(c.chdir(name));
    }
    file("f", "very deep");
    const cwd = c.getcwd();
    return [contents("f"), c.list("."), typeof cwd === "string" ? "a path" : cwd];
  },

  "the working directory goes on after its removal": ({ at }) => {
    directory(at("d"));
    directory(at("d/e"));
    c.must(c.chdir(at("d/e")));
    const fd = c.open(".", O_RDONLY | abi.O_DIRECTORY);
    return [
      c.rmdir(at("d/e")),
      c.getcwd(),
      c.tryOpen("f", abi.O_CREAT | O_RDWR),
      c.mkdir("x"),
      c.getdents(fd),
      links(fd),
      kind("."),
      c.stat("missing"),
      typeof c.stat(".."),
      String(c.readlink("/proc/self/cwd")).endsWith("/d/e (deleted)"),
    ];
  },

  "the working directory follows a rename": ({ at, directory: dir }) => {
    directory(at("d"));
    directory(at("d/e"));
    c.must(c.chdir(at("d/e")));
    c.rename(at("d"), at("x"));
    const below = (path: string | number): string => String(path).replace(dir, "");
    return [below(c.getcwd()), below(c.readlink("/proc/self/cwd")), typeof c.stat("../../x/e")];
  },

  ".. leads up, across renames": ({ at }) => {
    directory(at("a"));
    directory(at("a/b"));
    directory(at("c"));
    const up = (path: string, parent: string): boolean => inode(at(path)) === inode(at(parent));
    const before = up("a/b/..", "a");
    c.rename(at("a/b"), at("c/b"));
    return [before, up("c/b/..", "c"), up("c/b/../..", ".")];
  },

  "making and removing names changes the directory's times": ({ at }) => {
    directory(at("d"));
    file(at("f"));
    const change = (work: () => unknown): unknown => changes(at("d"), work);
    return [
      change(() => file(at("d/f"))),
      change(() => c.link(at("f"), at("d/l"))),
      change(() => c.symlink("x", at("d/s"))),
      change(() => c.mknod(at("d/p"), abi.S_IFIFO | 0o644)),
      change(() => c.mkdir(at("d/e"))),
      change(() => c.rmdir(at("d/e"))),
      change(() => c.unlink(at("d/f"))),
      change(() => c.unlink(at("d/f"))),
      change(() => c.rename(at("d/l"), at("d/m"))),
    ];
  },

  "what fails to be made leaves the directory's times": ({ at }) => {
    directory(at("d"));
    file(at("d/f"));
    return changes(at("d"), () => [c.mkdir(at("d/f")), c.symlink("x", at("d/f"))]);
  },

  "a socket can be bound and connected to": async ({ at, directory: dir }) => {
    c.must(c.chdir(dir)); // The address has room for 107 bytes of path.
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const server = createServer((socket) => socket.end("hello")).on("error", reject);
    server.listen("socket", () =>
      createConnection("socket")
        .on("error", reject)
        .on("data", (data) => resolve(data.toString())),
    );
    const heard = await promise;
    const was = kind(at("socket"));
    server.close();
    return [heard, was];
  },

  "chown and set-group-ID on a directory reach what is made later": ({ at }) => {
    directory(at("d"));
    file(at("d/before"));
    c.chown(at("d"), alice.uid, STAFF);
    c.chmod(at("d"), 0o2775);
    file(at("d/after"));
    return [owner(at("d/before")), owner(at("d/after")), mode(at("d"))];
  },
};
