// POSIX cases: opening and creating files, who may, and what a new file is like.

import * as abi from "../../src/abi-linux.ts";
import { setresuid } from "../../src/syscall.ts";
import { Actor } from "./actor.ts";
import * as c from "./calls.ts";
import {
  acl,
  ACL_ACCESS,
  ACL_DEFAULT,
  alice,
  bob,
  contents,
  directory,
  file,
  kind,
  links,
  mode,
  owner,
  size,
  STAFF,
  type Cases,
} from "./posix-place.ts";

const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_DIRECT, O_PATH } = abi;
const NEW = O_CREAT | O_EXCL | O_RDWR;
const R_OK = 4;
const W_OK = 2;
const X_OK = 1;
const self = (fd: number): string => `/proc/self/fd/${fd}`;
const staff = { ...alice, groups: [STAFF] };

export const openCases: Cases = {
  "O_EXCL refuses whatever exists, even a dangling link": ({ at }) => {
    file(at("file"));
    directory(at("directory"));
    c.symlink("nowhere", at("link"));
    return ["file", "directory", "link", "new"].map((name) => c.tryOpen(at(name), NEW));
  },

  "O_CREAT through a dangling link makes its target": ({ at }) => {
    c.symlink("target", at("link"));
    return [c.tryOpen(at("link"), O_CREAT | O_WRONLY), kind(at("link")), kind(at("target"))];
  },

  "O_TRUNC empties a file, also when it is opened for reading": ({ at }) => {
    file(at("a"), "12345");
    file(at("b"), "12345");
    return [
      c.tryOpen(at("a"), O_WRONLY | O_TRUNC),
      c.tryOpen(at("b"), O_RDONLY | O_TRUNC),
      size(at("a")),
      size(at("b")),
    ];
  },

  "O_TRUNC needs the permission to write": ({ at }) => {
    file(at("f"), "12345", 0o444);
    return [c.as(alice, () => c.tryOpen(at("f"), O_RDONLY | O_TRUNC)), size(at("f"))];
  },

  "O_TRUNC shows at once in a descriptor opened before": ({ at }) => {
    file(at("f"), "12345");
    const fd = c.open(at("f"), O_RDWR);
    c.read(fd, 2);
    c.tryOpen(at("f"), O_WRONLY | O_TRUNC);
    return [size(fd), c.read(fd, 10), c.write(fd, "x"), contents(at("f"))];
  },

  "O_APPEND writes at the end wherever the offset is": ({ at }) => {
    file(at("f"), "start ");
    const fd = c.open(at("f"), O_RDWR | O_APPEND);
    const first = c.write(fd, "one ");
    c.lseek(fd, 0, abi.SEEK_SET);
    const second = c.write(fd, "two ");
    // Linux appends here too, whatever POSIX says.
    const third = c.pwrite(fd, "three ", 0);
    return [first, second, third, c.lseek(fd, 0, abi.SEEK_CUR), contents(at("f"))];
  },

  "O_APPEND can be set and cleared later": ({ at }) => {
    file(at("f"), "abc");
    const fd = c.open(at("f"), O_RDWR);
    const set = c.setFlags(fd, O_APPEND);
    c.write(fd, "d");
    const cleared = c.setFlags(fd, 0);
    c.lseek(fd, 0, abi.SEEK_SET);
    c.write(fd, "A");
    return [set, cleared, contents(at("f"))];
  },

  "O_TRUNC leaves the set-user-ID and set-group-ID bits of a file that it makes": ({
    at,
    directory: dir,
  }) => {
    c.chmod(dir, 0o777);
    return [alice, { uid: 0, gid: 0 }].map((who) => {
      const path = at(`f${who.uid}`);
      const open = (): number => c.tryOpen(path, O_CREAT | O_TRUNC | O_WRONLY, 0o6755);
      const made = [c.as(who, open), mode(path)];
      return [...made, c.as(who, open), mode(path)];
    });
  },

  "several processes append and nothing is lost": async ({ at }) => {
    file(at("f"));
    const writers = Array.from({ length: 3 }, (_, index) => new Actor(`writer ${index}`));
    try {
      await Promise.all(
        writers.map(async (writer, index) => {
          const fd = await writer.call("open", at("f"), O_WRONLY | O_APPEND);
          const lines = Array.from({ length: 100 }, (_, line) => `${index} ${line}`.padEnd(20));
          await Promise.all(lines.map((line) => writer.call("write", fd, line)));
        }),
      );
      const all = new Set<string | number>();
      const fd = c.open(at("f"), O_RDONLY);
      for (let line = 0; line < 300; line++) all.add(c.pread(fd, 20, line * 20));
      return [size(at("f")), all.size];
    } finally {
      for (const writer of writers) writer.kill();
    }
  },

  "one of several processes wins O_EXCL": async ({ at }) => {
    const rivals = [new Actor("rival 1"), new Actor("rival 2")];
    try {
      let winners = 0;
      for (let round = 0; round < 50; round++) {
        const path = at(`f${round}`);
        const fds = await Promise.all(rivals.map((rival) => rival.call("tryOpen", path, NEW)));
        winners += fds.filter((fd) => fd >= 0).length;
      }
      return winners;
    } finally {
      for (const rival of rivals) rival.kill();
    }
  },

  "O_DIRECT reads and writes whole blocks": ({ at }) => {
    const fd = c.open(at("f"), NEW | O_DIRECT);
    const block = "0123456789abcdef".repeat(256);
    return [
      c.pwrite(fd, block, 0),
      c.pwrite(fd, block, 8192),
      c.pread(fd, 4096, 8192),
      c.pread(fd, 4096, 4096),
      c.pread(fd, 8192, 8192),
      c.pread(fd, 4096, 12_288),
      c.pread(fd, 4096, 1 << 20),
      size(fd),
    ];
  },

  "O_DIRECT refuses an offset and a size that are no multiple of a block": ({ at }) => {
    const fd = c.open(at("f"), NEW | O_DIRECT);
    c.pwrite(fd, "x".repeat(8192), 0);
    return [
      c.readSkewed(fd, 4096, 100, 0),
      c.readSkewed(fd, 100, 0, 0),
      c.writeSkewed(fd, 100, 0, 0),
      c.writeSkewed(fd, 4096, 100, 0),
    ];
  },

  "O_DIRECT and cached descriptors see each other's writes": ({ at }) => {
    file(at("f"), "a".repeat(8192));
    const direct = c.open(at("f"), O_RDWR | O_DIRECT);
    const cached = c.open(at("f"), O_RDWR);
    const before = c.pread(cached, 4, 4094);
    c.pwrite(direct, "b".repeat(4096), 4096);
    const between = c.pread(cached, 4, 4094);
    c.pwrite(cached, "c", 4096);
    return [before, between, c.pread(direct, 4096, 4096)];
  },

  "O_DIRECT can be set and cleared later": ({ at }) => {
    file(at("f"), "a".repeat(8192));
    const fd = c.open(at("f"), O_RDWR);
    const set = c.setFlags(fd, O_DIRECT);
    const whole = c.readSkewed(fd, 4096, 4096, 0);
    return [set, whole, c.setFlags(fd, 0), c.readSkewed(fd, 100, 1, 0)];
  },

  "O_DIRECT set later refuses what is no whole block": ({ at }) => {
    file(at("f"), "a".repeat(8192));
    const fd = c.open(at("f"), O_RDWR);
    c.setFlags(fd, O_DIRECT);
    return c.readSkewed(fd, 100, 1, 0);
  },

  "O_PATH gives a place in the tree and no access": ({ at }) => {
    file(at("f"), "secret", 0o600);
    return c.as(alice, () => {
      const fd = c.open(at("f"), O_PATH);
      return [
        fd >= 0,
        mode(fd),
        c.read(fd, 1),
        c.write(fd, "x"),
        c.fchmod(fd, 0o777),
        c.ftruncate(fd, 0),
        c.fgetxattr(fd, "user.x"),
        c.tryOpen(self(fd), O_RDONLY),
        c.stat(self(fd)) !== -2,
      ];
    });
  },

  "O_NOFOLLOW refuses a link, with O_PATH it opens it": ({ at }) => {
    file(at("f"));
    c.symlink("f", at("link"));
    const fd = c.open(at("link"), O_PATH | abi.O_NOFOLLOW);
    return [
      c.tryOpen(at("link"), O_RDONLY | abi.O_NOFOLLOW),
      c.tryOpen(at("link"), O_WRONLY | O_CREAT | abi.O_NOFOLLOW),
      c.tryOpen(at("f"), O_RDONLY | abi.O_NOFOLLOW),
      mode(fd),
    ];
  },

  "O_DIRECTORY opens directories only": ({ at }) => {
    file(at("f"));
    directory(at("d"));
    c.symlink("d", at("link"));
    return [
      c.tryOpen(at("f"), O_RDONLY | abi.O_DIRECTORY),
      c.tryOpen(at("d"), O_RDONLY | abi.O_DIRECTORY),
      c.tryOpen(at("link"), O_RDONLY | abi.O_DIRECTORY),
      c.tryOpen(at("link"), O_RDONLY | abi.O_DIRECTORY | abi.O_NOFOLLOW),
      c.tryOpen(at("new"), O_RDONLY | O_CREAT | abi.O_DIRECTORY),
    ];
  },

  "a directory can't be opened for writing": ({ at }) => {
    directory(at("d"));
    const flags = [O_WRONLY, O_RDWR, O_RDONLY | O_CREAT, O_RDONLY | O_TRUNC, O_RDONLY];
    return flags.map((flag) => c.tryOpen(at("d"), flag));
  },

  "O_TMPFILE has no name until it is linked": ({ at, directory: dir }) => {
    const fd = c.open(dir, abi.O_TMPFILE | O_RDWR, 0o640);
    c.write(fd, "nameless");
    const before = [links(fd), mode(fd), c.list(dir)];
    const linked = c.link(self(fd), at("named"), abi.AT_SYMLINK_FOLLOW);
    return [before, linked, links(fd), contents(at("named")), mode(at("named")), c.list(dir)];
  },

  "O_TMPFILE with O_EXCL can't be linked": ({ at, directory: dir }) => {
    const fd = c.open(dir, abi.O_TMPFILE | O_RDWR | O_EXCL, 0o600);
    return [fd >= 0, c.link(self(fd), at("named"), abi.AT_SYMLINK_FOLLOW)];
  },

  "O_TMPFILE belongs to the user who makes it": ({ directory: dir }) => {
    c.chmod(dir, 0o777);
    const made = c.as(alice, () => c.open(dir, abi.O_TMPFILE | O_RDWR, 0o666));
    const found = c.must<c.Stat>(c.fstat(made));
    return [found.uid, found.gid, mode(made), c.tryOpen(dir, abi.O_TMPFILE | O_RDONLY)];
  },

  "O_NOATIME is for the owner and root": ({ at }) => {
    file(at("f"));
    c.chown(at("f"), bob.uid, bob.gid);
    const open = (): number => c.tryOpen(at("f"), O_RDONLY | abi.O_NOATIME);
    return [open(), c.as(bob, open), c.as(alice, open)];
  },

  "O_SYNC and O_DSYNC write": ({ at }) => {
    const fd = c.open(at("f"), NEW | abi.O_SYNC);
    const other = c.open(at("f"), O_WRONLY | abi.O_DSYNC | O_APPEND);
    return [c.write(fd, "abc"), c.write(other, "def"), contents(at("f"))];
  },

  "the umask is taken off the modes of new things": ({ at }) =>
    [0o000, 0o022, 0o077, 0o777].map((mask) => {
      c.umask(mask);
      c.open(at(`f${mask}`), NEW, 0o666);
      c.open(at(`s${mask}`), NEW, 0o6777);
      c.mkdir(at(`d${mask}`), 0o1777);
      c.mknod(at(`p${mask}`), abi.S_IFIFO | 0o666);
      return ["f", "s", "d", "p"].map((name) => mode(at(`${name}${mask}`)));
    }),

  "new things belong to who makes them": ({ at, directory: dir }) => {
    c.chmod(dir, 0o777);
    c.as(alice, () => {
      c.open(at("f"), NEW, 0o644);
      c.mkdir(at("d"));
      c.symlink("x", at("l"));
      c.mknod(at("p"), abi.S_IFIFO | 0o600);
    });
    return ["f", "d", "l", "p"].map((name) => owner(at(name)));
  },

  "a set-group-ID directory hands down its group": ({ at }) => {
    directory(at("d"));
    c.chown(at("d"), 0, STAFF);
    c.chmod(at("d"), 0o2777);
    c.as(alice, () => {
      c.open(at("d/f"), NEW, 0o644);
      c.mkdir(at("d/d"));
      c.symlink("x", at("d/l"));
    });
    return ["f", "d", "l"].map((name) => [owner(at(`d/${name}`)), mode(at(`d/${name}`))]);
  },

  "set-group-ID on a new file is only for members of its group": ({ at }) => {
    directory(at("d"));
    c.chown(at("d"), 0, STAFF);
    c.chmod(at("d"), 0o2777);
    c.as(alice, () => c.open(at("d/stranger"), NEW, 0o2775));
    c.as(staff, () => c.open(at("d/member"), NEW, 0o2775));
    return [mode(at("d/stranger")), mode(at("d/member"))];
  },

  "a default ACL takes the place of the umask": ({ at, directory: dir }) => {
    c.umask(0o077);
    const value = acl(
      ["owner", 7],
      ["user", 6, bob.uid],
      ["owningGroup", 5],
      ["mask", 7],
      ["other", 4],
    );
    const set = c.setxattr(dir, ACL_DEFAULT, value);
    c.open(at("f"), NEW, 0o664);
    c.mkdir(at("d"), 0o775);
    c.mknod(at("p"), abi.S_IFIFO | 0o660);
    return [
      set,
      ["f", "d", "p"].map((name) => [mode(at(name)), c.getxattr(at(name), ACL_ACCESS)]),
      c.getxattr(at("d"), ACL_DEFAULT) === value,
      c.getxattr(at("f"), ACL_DEFAULT),
    ];
  },

  "supplementary groups give access": ({ at }) => {
    directory(at("d"));
    c.chown(at("d"), 0, STAFF);
    c.chmod(at("d"), 0o770);
    const attempt = (name: string): number => c.tryOpen(at(`d/${name}`), NEW);
    const crowd = Array.from({ length: 40 }, (_, index) => STAFF + 1 + index);
    return [
      c.as(alice, () => attempt("a")),
      c.as(staff, () => attempt("b")),
      c.as({ ...alice, groups: crowd }, () => attempt("c")),
      c.as({ ...alice, groups: [...crowd, STAFF] }, () => attempt("d")),
      owner(at("d/b")),
    ];
  },

  "the permission bits decide who opens how": ({ at }) => {
    const people = [alice, staff, bob, { uid: 0, gid: 0 }];
    return [0o000, 0o400, 0o200, 0o600, 0o040, 0o060, 0o004, 0o006, 0o077, 0o707].map((bits) => {
      const path = file(at(bits.toString(8)));
      c.chown(path, bob.uid, STAFF);
      c.chmod(path, bits);
      const tries = people.map((who) =>
        c.as(who, () => [O_RDONLY, O_WRONLY, O_RDWR].map((flags) => c.tryOpen(path, flags))),
      );
      return [bits.toString(8), ...tries];
    });
  },

  "access(2) goes by the real user, AT_EACCESS by the effective one": ({ at }) => {
    const path = file(at("f"), "", 0o640);
    const ask = (): number[] => [
      c.access(path, R_OK),
      c.eaccess(path, R_OK),
      c.eaccess(path, W_OK),
    ];
    const asRoot = ask();
    c.must(setresuid(alice.uid, 0, 0));
    const asRealAlice = ask();
    c.must(setresuid(0, 0, 0));
    return [asRoot, asRealAlice, c.as(alice, ask), c.access(at("missing"), 0)];
  },

  "access(2) by everybody, for every kind of access": ({ at }) =>
    [0o000, 0o444, 0o222, 0o111, 0o750, 0o057].map((bits) => {
      const path = file(at(bits.toString(8)));
      c.chown(path, bob.uid, STAFF);
      c.chmod(path, bits);
      const ask = (): number[] => [R_OK, W_OK, X_OK, R_OK | W_OK].map((how) => c.access(path, how));
      return [ask(), c.as(alice, ask), c.as(staff, ask), c.as(bob, ask)];
    }),

  "a directory without x hides what is in it, without r its names": ({ at }) => {
    directory(at("d"));
    file(at("d/f"), "data");
    return [0o000, 0o004, 0o001, 0o005].map((bits) => {
      c.chmod(at("d"), bits);
      return c.as(alice, () => [c.list(at("d")), kind(at("d/f")), c.tryOpen(at("d/f"), O_RDONLY)]);
    });
  },

  "creating needs the permission to write in the directory": ({ at }) => {
    directory(at("d"));
    file(at("d/f"));
    return c.as(alice, () => [
      c.tryOpen(at("d/new"), NEW),
      c.mkdir(at("d/new")),
      c.symlink("x", at("d/new")),
      c.link(at("d/f"), at("d/new")),
      c.mknod(at("d/new"), abi.S_IFIFO | 0o644),
      c.rename(at("d/f"), at("d/new")),
      c.unlink(at("d/f")),
    ]);
  },

  "missing components, and files in their place": ({ at }) => {
    file(at("f"));
    return [
      c.tryOpen(at("missing"), O_RDONLY),
      c.tryOpen(at("missing/x"), O_CREAT | O_WRONLY),
      c.tryOpen(at("f/x"), O_RDONLY),
      c.tryOpen(at("f/x"), O_CREAT | O_WRONLY),
      c.tryOpen(at("f/"), O_RDONLY),
      c.tryOpen(at("new/"), O_CREAT | O_WRONLY),
      c.mkdir(at("missing/x")),
      c.mkdir(at("f/x")),
      kind(at("f/")),
      c.tryOpen("", O_RDONLY),
    ];
  },

  "F_GETFL tells how a file was opened": ({ at }) => {
    file(at("f"));
    const told = O_APPEND | O_DIRECT | abi.O_NONBLOCK | abi.O_SYNC | abi.O_NOATIME | abi.O_ACCMODE;
    const flags = [O_RDONLY, O_WRONLY | O_APPEND, O_RDWR | abi.O_NONBLOCK, O_RDWR | abi.O_SYNC];
    return [...flags, O_RDONLY | abi.O_NOATIME, O_RDWR | O_DIRECT].map(
      (flag) => c.getFlags(c.open(at("f"), flag)) & told,
    );
  },

  "a descriptor reads and writes only as it was opened": ({ at }) => {
    file(at("f"), "abc");
    const reader = c.open(at("f"), O_RDONLY);
    const writer = c.open(at("f"), O_WRONLY);
    return [
      c.write(reader, "x"),
      c.read(writer, 1),
      c.ftruncate(reader, 0),
      c.fallocate(reader, 0, 0, 10),
      c.fchmod(reader, 0o600),
      c.fsync(reader),
      mode(at("f")),
    ];
  },

  "a file made without permissions is writable by its descriptor": ({ at, directory: dir }) => {
    c.chmod(dir, 0o777);
    return c.as(alice, () => {
      const fd = c.open(at("f"), NEW, 0o000);
      return [
        c.write(fd, "abc"),
        c.pread(fd, 3, 0),
        c.ftruncate(fd, 2),
        c.tryOpen(at("f"), O_RDONLY),
        mode(fd),
      ];
    });
  },

  "a descriptor keeps its access when the permissions go": ({ at }) => {
    file(at("f"), "abc", 0o666);
    return c.as(alice, () => {
      const fd = c.open(at("f"), O_RDWR);
      c.become({ uid: 0, gid: 0 });
      c.chmod(at("f"), 0);
      c.chown(at("f"), bob.uid, bob.gid);
      c.become(alice);
      return [c.pread(fd, 3, 0), c.pwrite(fd, "X", 0), c.ftruncate(fd, 2), c.fsync(fd)];
    });
  },

  "dup shares the offset, a second open has its own": ({ at }) => {
    file(at("f"), "0123456789");
    const fd = c.open(at("f"), O_RDONLY);
    const same = c.dup(fd);
    const other = c.open(at("f"), O_RDONLY);
    return [c.read(fd, 3), c.read(same, 3), c.read(other, 3)];
  },

  "a FIFO without a reader, a socket and a device are opened as such": ({ at }) => {
    c.mknod(at("fifo"), abi.S_IFIFO | 0o644);
    c.mknod(at("socket"), abi.S_IFSOCK | 0o644);
    c.mknod(at("null"), abi.S_IFCHR | 0o666, 0x103);
    c.mknod(at("no driver"), abi.S_IFCHR | 0o666, 0xfff01);
    const fd = c.open(at("null"), O_RDWR);
    return [
      c.tryOpen(at("fifo"), O_WRONLY | abi.O_NONBLOCK),
      c.tryOpen(at("fifo"), O_RDONLY | abi.O_NONBLOCK),
      c.tryOpen(at("socket"), O_RDONLY),
      [c.write(fd, "gone"), c.read(fd, 1)],
      c.tryOpen(at("no driver"), O_RDONLY),
    ];
  },

  "a FIFO carries data between processes": async ({ at }) => {
    c.mknod(at("fifo"), abi.S_IFIFO | 0o644);
    using other = new Actor("the reader");
    const opening = other.call("open", at("fifo"), O_RDONLY);
    const fd = c.open(at("fifo"), O_WRONLY);
    const theirs = await opening;
    const written = c.write(fd, "through the pipe");
    const got = await other.call("read", theirs, 100);
    c.close(fd);
    return [written, got, await other.call("read", theirs, 100)];
  },

  "many descriptors of one file": ({ at }) => {
    file(at("f"), "abc");
    const fds = Array.from({ length: 500 }, () => c.open(at("f"), O_RDWR));
    const all = fds.every((fd, index) => fd >= 0 && c.pwrite(fd, "x", index) === 1);
    return [all, size(at("f")), new Set(fds.map((fd) => c.pread(fd, 500, 0))).size];
  },

  "a kernel file handle opens the file again, also after a rename": ({ at, directory: dir }) => {
    file(at("f"), "found");
    const handle = c.nameToHandle(at("f"));
    if (typeof handle === "number") return handle;
    c.rename(at("f"), at("g"));
    const root = c.open(dir, O_RDONLY | abi.O_DIRECTORY);
    return c.read(c.openByHandle(root, handle, O_RDWR), 10);
  },
};
