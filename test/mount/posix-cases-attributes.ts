// POSIX cases: times, modes, owners, flags, and what the file system says of itself.

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
} from "./posix-place.ts";

const { O_RDONLY, O_WRONLY, O_RDWR, O_APPEND, O_TRUNC } = abi;
const { FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NODUMP_FL, NOW, OMIT } = c;
const staff = { ...alice, groups: [STAFF] };

/** Access and modification time, not following links. */
const times = (path: string): unknown => {
  const { atime, mtime } = c.must<c.Stat>(c.lstat(path));
  return [atime, mtime].map(([seconds, nanoseconds]) =>
    // Around now: the exact time differs from run to run.
    Math.abs(Date.now() / 1000 - seconds) < 1000 ? "now" : `${seconds} s ${nanoseconds} ns`,
  );
};

/** Does `work` with flags set on a path, and takes them off again, or nobody could remove it. */
function flagged<T>(path: string, flags: number, work: () => T): T | number {
  const fd = c.open(path, O_RDONLY);
  const old = c.getFileFlags(fd);
  const error = c.setFileFlags(fd, old | flags);
  if (error < 0) return error;
  try {
    return work();
  } finally {
    c.setFileFlags(fd, old);
  }
}

export const attributeCases: Cases = {
  "utimensat sets times to the nanosecond": ({ at }) => {
    file(at("f"));
    const moments: c.Time[] = [
      [0, 0],
      [1, 1],
      [1_234_567_890, 123_456_789],
      [1_234_567_890, 999_999_999],
      [-1, 0],
      [-1, 500_000_000],
      [-2_147_483_648, 0],
      [2_147_483_647, 999_999_999],
      [2_147_483_648, 0],
      [4_294_967_296, 7],
      [15_032_385_530, 0],
    ];
    return moments.map((time) => [
      c.utimens(at("f"), [time, [time[0] + 5, time[1]]]),
      times(at("f")),
    ]);
  },

  "times out of the file system's range are brought into it": ({ at }) => {
    file(at("f"));
    const moments: c.Time[] = [
      [15_032_385_536, 0],
      [99_999_999_999, 0],
      [-99_999_999_999, 0],
    ];
    return moments.map((time) => [c.utimens(at("f"), [time, time]), times(at("f"))]);
  },

  "utimensat leaves a time out, or takes the present": ({ at }) => {
    file(at("f"));
    const results: unknown[] = [];
    for (const pair of [
      [
        [5, 5],
        [6, 6],
      ],
      [OMIT, [7, 7]],
      [[8, 8], OMIT],
      [OMIT, OMIT],
      [NOW, OMIT],
      [OMIT, NOW],
    ] as [c.Time, c.Time][])
      results.push(c.utimens(at("f"), pair), times(at("f")));
    c.utimens(at("f"), [
      [5, 5],
      [6, 6],
    ]);
    return [...results, c.utimens(at("f")), times(at("f"))];
  },

  "utimensat refuses nanoseconds out of range": ({ at }) => {
    file(at("f"));
    return [
      c.utimens(at("f"), [
        [0, 1_000_000_000],
        [0, 0],
      ]),
      c.utimens(at("f"), [
        [0, -1],
        [0, 0],
      ]),
      c.utimens(at("missing"), [
        [0, 0],
        [0, 0],
      ]),
    ];
  },

  "utimensat of every kind of file, and of links themselves": (place) => {
    const { at } = place;
    const all = zoo(place);
    const set = all.map((name, index) =>
      c.utimens(
        at(name),
        [
          [index, 1],
          [index, 2],
        ],
        abi.AT_SYMLINK_NOFOLLOW,
      ),
    );
    const followed = c.utimens(at("link"), [
      [77, 0],
      [78, 0],
    ]);
    return [set, followed, all.map((name) => [name, times(at(name))])];
  },

  "who may set times": ({ at }) => {
    const attempt = (path: string): unknown =>
      [alice, bob].map((who) =>
        c.as(who, () => [
          c.utimens(path, [
            [1, 1],
            [2, 2],
          ]),
          c.utimens(path, [NOW, OMIT]),
          c.utimens(path, [OMIT, OMIT]),
          c.utimens(path),
        ]),
      );
    return [0o600, 0o644, 0o666, 0o400].map((bits) => {
      const path = file(at(bits.toString(8)));
      c.chown(path, bob.uid, bob.gid);
      c.chmod(path, bits);
      return attempt(path);
    });
  },

  "futimens through a descriptor for reading": ({ at }) => {
    file(at("f"));
    const fd = c.open(at("f"), O_RDONLY);
    return [
      c.futimens(fd, [
        [3, 3],
        [4, 4],
      ]),
      times(at("f")),
      c.futimens(c.open(at("f"), abi.O_PATH), [NOW, NOW]),
    ];
  },

  "times set explicitly stay after writing, closing and renaming": ({ at }) => {
    file(at("f"));
    const fd = c.open(at("f"), O_WRONLY);
    c.write(fd, "data");
    c.futimens(fd, [
      [3, 3],
      [4, 4],
    ]);
    const open = times(at("f"));
    c.close(fd);
    c.rename(at("f"), at("g"));
    c.link(at("g"), at("h"));
    c.chmod(at("h"), 0o600);
    return [open, times(at("g"))];
  },

  "changes of attributes change ctime alone": ({ at }) => {
    file(at("f"));
    const change = (work: () => unknown): unknown => changes(at("f"), work);
    return [
      change(() => c.chmod(at("f"), 0o600)),
      change(() => c.chmod(at("f"), 0o600)),
      change(() => c.chown(at("f"), alice.uid, -1)),
      change(() => c.setxattr(at("f"), "user.x", "1")),
      change(() => c.getxattr(at("f"), "user.x")),
      change(() => c.removexattr(at("f"), "user.x")),
      change(() => c.link(at("f"), at("g"))),
      change(() => c.unlink(at("g"))),
      change(() => c.utimens(at("f"), [[1, 1], OMIT])),
      change(() => c.tryOpen(at("f"), O_RDONLY)),
      change(() => c.stat(at("f"))),
    ];
  },

  "chmod sets every bit": ({ at }) => {
    file(at("f"));
    directory(at("d"));
    const results: unknown[] = [];
    for (const name of ["f", "d"])
      for (let bit = 0; bit <= 12; bit++)
        results.push(c.chmod(at(name), (1 << bit) & 0o7777), mode(at(name)));
    return [...results, c.chmod(at("f"), 0o7777), mode(at("f"))];
  },

  "chmod is for the owner": ({ at }) => {
    file(at("f"));
    c.chown(at("f"), bob.uid, bob.gid);
    const attempt = (): number => c.chmod(at("f"), 0o777);
    return [c.as(alice, attempt), c.as(bob, attempt), c.chmod(at("missing"), 0o777), mode(at("f"))];
  },

  "chmod follows links, and leaves the links alone": ({ at }) => {
    file(at("f"));
    c.symlink("f", at("l"));
    c.symlink("nowhere", at("dangling"));
    return [
      c.chmod(at("l"), 0o600),
      mode(at("f")),
      mode(at("l")),
      c.lchmod(at("l"), 0o600),
      c.lchmod(at("f"), 0o640),
      mode(at("f")),
      c.chmod(at("dangling"), 0o600),
    ];
  },

  "chmod by an owner outside the group takes set-group-ID": ({ at }) => {
    const attempt = (who: c.Credentials, name: string): unknown => {
      const path = file(at(name));
      c.chown(path, alice.uid, STAFF);
      return [c.as(who, () => c.chmod(path, 0o6755)), mode(path)];
    };
    return [
      attempt(alice, "stranger"),
      attempt(staff, "member"),
      attempt({ uid: 0, gid: 0 }, "root"),
    ];
  },

  "fchmod through a descriptor for reading, and on directories": ({ at }) => {
    file(at("f"));
    directory(at("d"));
    return [
      c.fchmod(c.open(at("f"), O_RDONLY), 0o4711),
      mode(at("f")),
      c.fchmod(c.open(at("d"), O_RDONLY), 0o1700),
      mode(at("d")),
    ];
  },

  "chown by root": (place) => {
    const { at } = place;
    const all = zoo(place);
    return all.map((name, index) => {
      const results = [c.lchown(at(name), 1000 + index, 2000 + index), owner(at(name))];
      results.push(c.lchown(at(name), -1, 3000), owner(at(name)));
      results.push(c.lchown(at(name), 4000, -1), owner(at(name)));
      return [...results, c.lchown(at(name), -1, -1), owner(at(name))];
    });
  },

  "chown follows links unless told not to": ({ at }) => {
    file(at("f"));
    c.symlink("f", at("l"));
    return [
      c.chown(at("l"), 5, 6),
      owner(at("f")),
      owner(at("l")),
      c.lchown(at("l"), 7, 8),
      owner(at("l")),
    ];
  },

  "chown by users: only the group, only to one of theirs": ({ at }) => {
    file(at("f"));
    c.chown(at("f"), alice.uid, alice.gid);
    return c.as(staff, () => [
      c.chown(at("f"), bob.uid, -1),
      c.chown(at("f"), -1, bob.gid),
      c.chown(at("f"), alice.uid, STAFF),
      owner(at("f")),
      c.chown(at("f"), -1, -1),
      c.as(bob, () => c.chown(at("f"), -1, bob.gid)),
    ]);
  },

  "chown takes set-user-ID and set-group-ID off files": ({ at }) =>
    [0o6755, 0o6745, 0o4700, 0o2755, 0o2745, 0o2655].map((bits) => {
      const results: unknown[] = [];
      for (const [who, group] of [
        [{ uid: 0, gid: 0 }, 77],
        [staff, STAFF],
        [{ uid: 0, gid: 0 }, -1],
      ] as const) {
        const path = file(at(`${bits}${who.uid}${group}`));
        c.chown(path, alice.uid, alice.gid);
        c.chmod(path, bits);
        results.push(
          c.as(who, () => c.chown(path, -1, group)),
          mode(path),
        );
      }
      return results;
    }),

  "a chown that changes nothing changes ctime": (place) =>
    zoo(place)
      .filter((name) => name !== "link")
      .map((name) => [name, changes(place.at(name), () => c.chown(place.at(name), -1, -1))]),

  "a chown that changes nothing is no way to take a stranger's set-user-ID bit": ({ at }) => {
    // Nobody has had it open. Until a writer's RELEASE, which close(2) does not wait for, it could
    // be the writer who asks.
    const path = at("f");
    return [
      c.mknod(path, abi.S_IFREG | 0o4755),
      c.as(alice, () => c.chown(path, -1, -1)),
      mode(path),
    ];
  },

  "chown leaves the bits of directories": ({ at }) => {
    directory(at("d"));
    c.chmod(at("d"), 0o6755);
    return [c.chown(at("d"), alice.uid, STAFF), mode(at("d")), owner(at("d"))];
  },

  "large user and group numbers": ({ at }) => {
    file(at("f"));
    return [
      c.chown(at("f"), 0x7fffffff, 0x7ffffffe),
      owner(at("f")),
      c.chown(at("f"), -2, -2),
      owner(at("f")),
    ];
  },

  "statx tells the birth time, which stays": ({ at }) => {
    file(at("f"));
    const born = (): string => {
      const found = c.statx(at("f"));
      return typeof found === "number" ? String(found) : `${found.mask} ${found.btime.join()}`;
    };
    const before = born();
    c.utimens(at("f"), [
      [1, 1],
      [2, 2],
    ]);
    c.chmod(at("f"), 0o600);
    const found = c.must<{ mask: number; size: number; btime: c.Time }>(c.statx(at("f")));
    return [
      before === born(),
      found.mask,
      Math.abs(found.btime[0] - Date.now() / 1000) < 1000,
      c.statx(at("missing")),
    ];
  },

  "stat agrees by path and by descriptor, for every kind": (place) => {
    const { at } = place;
    return zoo(place).map((name) => {
      const fd = c.open(at(name), abi.O_PATH | abi.O_NOFOLLOW);
      const { dev, ino, ...rest } = c.must<c.Stat>(c.lstat(at(name)));
      const by = c.must<c.Stat>(c.fstat(fd));
      const sameDevice = dev === c.must<c.Stat>(c.stat(place.directory)).dev;
      const { mode: bits, nlink, uid, gid, rdev, size: bytes, blksize } = rest;
      return [name, sameDevice, ino === by.ino, bits, nlink, uid, gid, rdev, bytes, blksize];
    });
  },

  "statfs tells the sizes of the file system": ({ directory: dir }) => {
    const found = c.must<Record<string, number>>(c.statfs(dir));
    const { f_bsize, f_frsize, f_namelen, f_blocks, f_bfree = 0, f_files, f_ffree = 0 } = found;
    return [f_bsize, f_frsize, f_namelen, f_blocks, f_files, f_bfree > 0, f_ffree > 0];
  },

  "file flags are set and read": ({ at }) => {
    file(at("f"));
    directory(at("d"));
    return ["f", "d"].map((name) => {
      const fd = c.open(at(name), O_RDONLY);
      const before = c.getFileFlags(fd);
      const set = c.setFileFlags(fd, before | FS_NODUMP_FL);
      const extended = c.fsGetXattr(fd);
      const during = c.getFileFlags(fd);
      return [before, set, extended, during, c.setFileFlags(fd, before), c.getFileFlags(fd)];
    });
  },

  "file flags of others, and of what has none": ({ at }) => {
    file(at("f"), "", 0o666);
    c.mknod(at("p"), abi.S_IFIFO | 0o666);
    return [
      c.as(alice, () => {
        const fd = c.open(at("f"), O_RDWR);
        return [
          c.getFileFlags(fd),
          c.setFileFlags(fd, FS_NODUMP_FL),
          c.setFileFlags(fd, FS_IMMUTABLE_FL),
        ];
      }),
      c.getFileFlags(c.open(at("p"), O_RDWR)),
      c.getFileFlags(c.open(at("f"), abi.O_PATH)),
    ];
  },

  "the owner sets flags, but not the privileged ones": ({ at }) => {
    file(at("f"));
    c.chown(at("f"), alice.uid, alice.gid);
    return c.as(alice, () => {
      const fd = c.open(at("f"), O_RDWR);
      const flags = c.getFileFlags(fd);
      return [
        c.setFileFlags(fd, flags | FS_NODUMP_FL),
        c.setFileFlags(fd, flags | FS_IMMUTABLE_FL),
        c.setFileFlags(fd, flags | FS_APPEND_FL),
        c.getFileFlags(fd),
      ];
    });
  },

  "an immutable file can't be changed": ({ at }) => {
    file(at("f"), "data");
    const writer = c.open(at("f"), O_RDWR);
    const results = flagged(at("f"), FS_IMMUTABLE_FL, () => [
      c.tryOpen(at("f"), O_WRONLY),
      c.tryOpen(at("f"), O_RDONLY),
      c.truncate(at("f"), 0),
      c.chmod(at("f"), 0o600),
      c.chown(at("f"), 1, 1),
      c.utimens(at("f"), [
        [1, 1],
        [2, 2],
      ]),
      c.link(at("f"), at("g")),
      c.rename(at("f"), at("g")),
      c.unlink(at("f")),
      c.setxattr(at("f"), "user.x", "1"),
      c.ftruncate(writer, 1),
      c.fallocate(writer, 0, 0, 100),
      contents(at("f")),
    ]);
    return [results, c.tryOpen(at("f"), O_WRONLY), c.unlink(at("f"))];
  },

  "an append-only file takes appends": ({ at }) => {
    file(at("f"), "data");
    return flagged(at("f"), FS_APPEND_FL, () => [
      c.tryOpen(at("f"), O_WRONLY),
      c.tryOpen(at("f"), O_WRONLY | O_APPEND | O_TRUNC),
      c.write(c.open(at("f"), O_WRONLY | O_APPEND), " more"),
      c.truncate(at("f"), 0),
      c.unlink(at("f")),
      contents(at("f")),
    ]);
  },

  "an immutable directory keeps its names": ({ at }) => {
    directory(at("d"));
    file(at("d/f"), "data");
    const results = flagged(at("d"), FS_IMMUTABLE_FL, () => [
      c.tryOpen(at("d/new"), abi.O_CREAT | O_WRONLY),
      c.mkdir(at("d/new")),
      c.symlink("x", at("d/new")),
      c.unlink(at("d/f")),
      c.rename(at("d/f"), at("f")),
      c.write(c.open(at("d/f"), O_WRONLY), "DATA"),
      c.rmdir(at("d")),
    ]);
    return [results, contents(at("d/f")), kind(at("d"))];
  },

  "an unknown ioctl": ({ at }) => {
    file(at("f"));
    directory(at("d"));
    return [c.unknownIoctl(c.open(at("f"), O_RDWR)), c.unknownIoctl(c.open(at("d"), O_RDONLY))];
  },

  "many hard links": ({ at }) => {
    file(at("f"));
    for (let index = 0; index < 1000; index++) c.must(c.link(at("f"), at(`l${index}`)));
    const before = links(at("f"));
    for (let index = 0; index < 1000; index++) c.must(c.unlink(at(`l${index}`)));
    return [before, links(at("f"))];
  },

  "attributes changed by one descriptor show by another": ({ at }) => {
    file(at("f"), "abc");
    c.link(at("f"), at("g"));
    const fd = c.open(at("f"), O_RDWR);
    const other = c.open(at("g"), O_RDWR);
    c.fchmod(fd, 0o640);
    c.ftruncate(fd, 1);
    c.fsetxattr(fd, "user.x", "v");
    return [
      mode(other),
      size(other),
      c.fgetxattr(other, "user.x"),
      inode(at("f")) === inode(at("g")),
    ];
  },
};
