// POSIX cases: extended attributes and access control lists.

import * as abi from "../../src/abi-linux.ts";
import * as c from "./calls.ts";
import {
  acl,
  ACL_ACCESS,
  ACL_DEFAULT,
  alice,
  bob,
  directory,
  file,
  mode,
  owner,
  pattern,
  STAFF,
  zoo,
  type Cases,
} from "./posix-place.ts";

const { O_RDONLY, O_WRONLY, O_RDWR } = abi;
const { XATTR_CREATE, XATTR_REPLACE } = c;
const NAMES = ["user.x", "trusted.x", "security.x"];
const CAPABILITY = "\x01\0\0\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/** rwxrwx--- for the owner and one more user. */
const shared = (permissions: number): string =>
  acl(
    ["owner", 6],
    ["user", permissions, alice.uid],
    ["owningGroup", 0],
    ["mask", 7],
    ["other", 0],
  );

export const xattrCases: Cases = {
  "attributes are set, read, listed and removed": ({ at }) => {
    file(at("f"));
    directory(at("d"));
    return ["f", "d"].map((name) => [
      NAMES.map((attribute) => c.setxattr(at(name), attribute, `the value of ${attribute}`)),
      c.listxattr(at(name)),
      NAMES.map((attribute) => c.getxattr(at(name), attribute)),
      NAMES.map((attribute) => c.xattrSize(at(name), attribute)),
      c.setxattr(at(name), "user.x", "another"),
      c.getxattr(at(name), "user.x"),
      NAMES.map((attribute) => c.removexattr(at(name), attribute)),
      NAMES.map((attribute) => c.getxattr(at(name), attribute)),
      c.listxattr(at(name)),
    ]);
  },

  "XATTR_CREATE and XATTR_REPLACE": ({ at }) => {
    file(at("f"));
    return [
      c.setxattr(at("f"), "user.x", "1", XATTR_REPLACE),
      c.setxattr(at("f"), "user.x", "2", XATTR_CREATE),
      c.setxattr(at("f"), "user.x", "3", XATTR_CREATE),
      c.setxattr(at("f"), "user.x", "4", XATTR_REPLACE),
      c.setxattr(at("f"), "user.x", "5", XATTR_REPLACE | XATTR_CREATE),
      c.setxattr(at("f"), "user.x", "6", 8),
      c.getxattr(at("f"), "user.x"),
    ];
  },

  "buffers too small for an attribute or the list": ({ at }) => {
    file(at("f"));
    c.setxattr(at("f"), "user.x", "0123456789");
    return [
      [1, 9, 10, 11].map((size) => c.getxattr(at("f"), "user.x", size)),
      [1, 6, 7, 8].map((size) => c.listxattr(at("f"), size)),
      c.getxattr(at("f"), "user.missing", 1),
      c.removexattr(at("f"), "user.missing"),
    ];
  },

  "values: empty, binary, and of every length": ({ at }) => {
    file(at("f"));
    return [0, 1, 255, 256, 1000, 3000].map((length) => {
      const value = pattern(length);
      return [
        c.setxattr(at("f"), "user.x", value),
        c.getxattr(at("f"), "user.x") === value,
        c.xattrSize(at("f"), "user.x"),
      ];
    });
  },

  "values too long for the file system, and for Linux": ({ at }) => {
    file(at("f"));
    const lengths = [4000, 5000, 65_536, 65_537];
    return lengths.map((length) => c.setxattr(at("f"), "user.x", "v".repeat(length)));
  },

  "names: too long, empty, without a namespace, of an unknown one": ({ at }) => {
    file(at("f"));
    const names = [`user.${"n".repeat(250)}`, `user.${"n".repeat(251)}`, "", "user.", "user", "x"];
    return [...names, "unknown.x", "system.x", "user.\xff\x01"].map((name) => [
      c.setxattr(at("f"), name, "v"),
      c.getxattr(at("f"), name),
      c.removexattr(at("f"), name),
    ]);
  },

  "fifty attributes": ({ at }) => {
    file(at("f"));
    for (let index = 0; index < 50; index++)
      c.must(c.setxattr(at("f"), `user.n${index}`, `${index}`));
    for (let index = 0; index < 50; index += 2) c.must(c.removexattr(at("f"), `user.n${index}`));
    return [c.listxattr(at("f")), c.getxattr(at("f"), "user.n7")];
  },

  "attributes of every kind of file": (place) => {
    const { at } = place;
    return zoo(place).map((name) => [
      name,
      NAMES.map((attribute) => c.lsetxattr(at(name), attribute, "v")),
      NAMES.map((attribute) => c.lgetxattr(at(name), attribute)),
      c.llistxattr(at(name)),
      c.lremovexattr(at(name), "trusted.x"),
    ]);
  },

  "attributes through links are the target's": ({ at }) => {
    file(at("f"));
    c.symlink("f", at("l"));
    return [
      c.setxattr(at("l"), "user.x", "v"),
      c.getxattr(at("f"), "user.x"),
      c.llistxattr(at("l")),
    ];
  },

  "attributes by descriptor": ({ at }) => {
    file(at("f"));
    const reader = c.open(at("f"), O_RDONLY);
    return [
      c.fsetxattr(reader, "user.x", "v"),
      c.fgetxattr(reader, "user.x"),
      c.fgetxattr(c.open(at("f"), O_WRONLY), "user.x"),
      c.fsetxattr(c.open(at("f"), abi.O_PATH), "user.x", "w"),
    ];
  },

  "who may use attributes": ({ at }) => {
    file(at("private"), "", 0o600);
    file(at("readable"), "", 0o644);
    file(at("writable"), "", 0o666);
    return ["private", "readable", "writable"].map((name) => {
      for (const attribute of NAMES) c.setxattr(at(name), attribute, "v");
      return c.as(alice, () => [
        NAMES.map((attribute) => c.getxattr(at(name), attribute)),
        NAMES.map((attribute) => c.setxattr(at(name), attribute, "w")),
        NAMES.map((attribute) => c.removexattr(at(name), attribute)),
      ]);
    });
  },

  "trusted attributes are listed for root only": ({ at }) => {
    file(at("f"));
    for (const attribute of NAMES) c.setxattr(at("f"), attribute, "v");
    return [c.listxattr(at("f")), c.as(alice, () => c.listxattr(at("f")))];
  },

  "user attributes of a sticky directory are its owner's": ({ at }) => {
    directory(at("d"));
    c.chown(at("d"), bob.uid, bob.gid);
    c.chmod(at("d"), 0o1777);
    const attempt = (): number => c.setxattr(at("d"), "user.x", "v");
    return [c.as(alice, attempt), c.as(bob, attempt)];
  },

  "security.capability is checked and kept": ({ at }) => {
    file(at("f"), "", 0o755);
    return [
      c.setxattr(at("f"), "security.capability", "nonsense"),
      c.setxattr(at("f"), "security.capability", CAPABILITY),
      c.getxattr(at("f"), "security.capability"),
      c.as(alice, () => c.setxattr(at("f"), "security.capability", CAPABILITY)),
      c.removexattr(at("f"), "security.capability"),
      c.getxattr(at("f"), "security.capability"),
    ];
  },

  "attributes move with a rename and are shared by links": ({ at }) => {
    file(at("a"));
    c.setxattr(at("a"), "user.x", "v");
    c.link(at("a"), at("b"));
    c.rename(at("a"), at("c"));
    return [c.getxattr(at("b"), "user.x"), c.getxattr(at("c"), "user.x")];
  },

  "a named user's entry gives and takes access": ({ at }) => {
    return [0, 2, 4, 6].map((permissions) => {
      const path = file(at(`f${permissions}`), "data", 0o600);
      const value = shared(permissions);
      const set = c.setxattr(path, ACL_ACCESS, value);
      const open = (): number[] => [O_RDONLY, O_WRONLY, O_RDWR].map((how) => c.tryOpen(path, how));
      const same = c.getxattr(path, ACL_ACCESS) === value;
      return [set, same, mode(path), c.as(alice, open), c.as(bob, open)];
    });
  },

  "named groups, and the mask over them": ({ at }) => {
    const path = file(at("f"), "data", 0o600);
    const member = { ...bob, groups: [STAFF] };
    return [7, 4, 2, 0].map((mask) => {
      const value = acl(
        ["owner", 6],
        ["owningGroup", 0],
        ["group", 6, STAFF],
        ["mask", mask],
        ["other", 0],
      );
      const set = c.setxattr(path, ACL_ACCESS, value);
      const open = (): number[] => [O_RDONLY, O_WRONLY].map((how) => c.tryOpen(path, how));
      return [set, mode(path), c.as(member, open), c.as(bob, open)];
    });
  },

  "chmod changes the mask, and the owner's and others' entries": ({ at }) => {
    const path = file(at("f"), "data", 0o600);
    c.setxattr(path, ACL_ACCESS, shared(6));
    return [0o640, 0o600, 0o777].map((bits) => [
      c.chmod(path, bits),
      mode(path),
      c.getxattr(path, ACL_ACCESS),
      c.as(alice, () => [c.tryOpen(path, O_RDONLY), c.tryOpen(path, O_WRONLY)]),
    ]);
  },

  "an ACL that says no more than the mode is not kept": ({ at }) => {
    const path = file(at("f"), "", 0o600);
    const set = c.setxattr(path, ACL_ACCESS, acl(["owner", 6], ["owningGroup", 4], ["other", 4]));
    return [set, mode(path), c.getxattr(path, ACL_ACCESS), c.listxattr(path)];
  },

  "an ACL is removed": ({ at }) => {
    const path = file(at("f"), "", 0o600);
    c.setxattr(path, ACL_ACCESS, shared(6));
    const listed = c.listxattr(path);
    const removed = c.removexattr(path, ACL_ACCESS);
    return [
      listed,
      removed,
      c.getxattr(path, ACL_ACCESS),
      mode(path),
      c.as(alice, () => c.tryOpen(path, O_RDONLY)),
    ];
  },

  "setting an ACL is for the owner": ({ at }) => {
    file(at("f"), "", 0o666);
    directory(at("d"), 0o777);
    c.chown(at("f"), bob.uid, bob.gid);
    const attempt = (): unknown => [
      c.setxattr(at("f"), ACL_ACCESS, shared(4)),
      c.removexattr(at("f"), ACL_ACCESS),
      c.setxattr(at("d"), ACL_DEFAULT, shared(4)),
    ];
    return [c.as(alice, attempt), c.as(bob, attempt)];
  },

  "malformed ACLs, and default ACLs of files": ({ at }) => {
    file(at("f"));
    c.symlink("f", at("l"));
    return [
      c.setxattr(at("f"), ACL_ACCESS, "nonsense"),
      c.setxattr(at("f"), ACL_ACCESS, acl(["owner", 6])),
      c.setxattr(
        at("f"),
        ACL_ACCESS,
        acl(["owner", 6], ["user", 6, 5], ["owningGroup", 4], ["other", 4]),
      ),
      c.setxattr(at("f"), ACL_DEFAULT, shared(4)),
      c.lsetxattr(at("l"), ACL_ACCESS, shared(4)),
      mode(at("f")),
    ];
  },

  "default ACLs are handed down through directories": ({ at }) => {
    directory(at("d"));
    c.chown(at("d"), bob.uid, bob.gid);
    const entries = [
      ["owner", 7],
      ["user", 5, alice.uid],
      ["owningGroup", 1],
      ["mask", 7],
      ["other", 1],
    ] as const;
    c.setxattr(at("d"), ACL_DEFAULT, acl(...entries));
    const made = c.as(bob, () => [
      c.mkdir(at("d/e"), 0o777),
      c.mkdir(at("d/e/f"), 0o700),
      c.tryOpen(at("d/e/f/g"), abi.O_CREAT | O_RDWR, 0o666),
      c.symlink("x", at("d/e/l")),
    ]);
    return [
      made,
      ["d/e", "d/e/f", "d/e/f/g"].map((name) => [
        mode(at(name)),
        owner(at(name)),
        c.getxattr(at(name), ACL_ACCESS),
        c.getxattr(at(name), ACL_DEFAULT),
      ]),
    ];
  },

  "O_TMPFILE takes the default ACL": ({ at }) => {
    directory(at("d"));
    c.setxattr(at("d"), ACL_DEFAULT, shared(6));
    const fd = c.open(at("d"), abi.O_TMPFILE | O_RDWR, 0o666);
    return [mode(fd), c.fgetxattr(fd, ACL_ACCESS)];
  },

  "a default ACL leaves set-group-ID, also to an owner who is not in the group": ({ at }) => {
    const path = directory(at("d"), 0o755);
    c.chown(path, alice.uid, STAFF);
    c.chmod(path, 0o2755);
    const set = c.as(alice, () => c.setxattr(path, ACL_DEFAULT, shared(4)));
    return [set, mode(path)];
  },

  "setting an ACL takes set-group-ID when the owner is not in the group": ({ at }) => {
    const path = file(at("f"));
    c.chown(path, alice.uid, STAFF);
    c.chmod(path, 0o2755);
    const set = c.as(alice, () => c.setxattr(path, ACL_ACCESS, shared(4)));
    return [set, mode(path)];
  },
};
