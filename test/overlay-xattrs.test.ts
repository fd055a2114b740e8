// The overlay's own attributes on files of the layers: what they say, and how those of its users
// are kept apart from them.

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { O_NOFOLLOW, O_PATH } from "../src/abi-linux.ts";
import { ENODATA } from "../src/errno.ts";
import {
  MARK_IMPURE,
  MARK_METACOPY,
  MARK_NLINK,
  MARK_OPAQUE,
  MARK_ORIGIN,
  MARK_PROTATTR,
  MARK_REDIRECT,
  MARK_WHITEOUT,
  MARK_XWHITEOUTS,
  OverlayXattrs,
} from "../src/overlay-xattrs.ts";
import { ProcFds } from "../src/passthrough-proc.ts";
import { closeAll, getxattr, listxattr, lsetxattr, must, open, setxattr } from "./mount/calls.ts";
import { whyNoMounts } from "./support-mount.ts";

const proc = new ProcFds(ProcFds.openDirectory());
const trusted = new OverlayXattrs(proc, false, false);
const user = new OverlayXattrs(proc, true, false);

let base = "";
let path = "";
beforeEach(() => {
  base = mkdtempSync("/tmp/fuse-backend-test-");
  path = `${base}/d`;
  mkdirSync(path);
});
afterEach(() => {
  closeAll();
  rmSync(base, { recursive: true, force: true });
});

const fdOf = (name = path): number => must<number>(open(name, O_PATH | O_NOFOLLOW));
const set = (name: string, value: string, on = path): void => void must(lsetxattr(on, name, value));

describe.skipIf(whyNoMounts !== undefined)("marks", () => {
  test.each([
    ["trusted.overlay.", trusted],
    ["user.overlay.", user],
  ] as const)("with %s are read by their names", (prefix, xattrs) => {
    const marks = {
      redirect: MARK_REDIRECT,
      origin: MARK_ORIGIN,
      metacopy: MARK_METACOPY,
      whiteout: MARK_WHITEOUT,
      impure: MARK_IMPURE,
      nlink: MARK_NLINK,
      protattr: MARK_PROTATTR,
    };
    let all = 0;
    expect(xattrs.marks(fdOf())).toBe(0);
    for (const [name, mark] of Object.entries(marks)) {
      set(prefix + name, "");
      expect(xattrs.marks(fdOf())).toBe((all |= mark));
    }
    set(`${prefix}uuid`, "x");
    expect(xattrs.marks(fdOf())).toBe(all);
  });

  test("of the other kind are not ours, but for being opaque", () => {
    set("user.overlay.redirect", "x");
    set("user.overlay.whiteout", "");
    expect(trusted.marks(fdOf())).toBe(0);
    set("trusted.overlay.redirect", "x");
    set("trusted.overlay.metacopy", "");
    expect(user.marks(fdOf())).toBe(MARK_REDIRECT | MARK_WHITEOUT);
  });

  test.each(["trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."])(
    "%sopaque is one letter",
    (prefix) => {
      for (const [value, mark] of [
        ["y", MARK_OPAQUE],
        ["x", MARK_XWHITEOUTS],
        ["n", 0],
        ["", 0],
        ["yes", 0],
      ] as const) {
        set(`${prefix}opaque`, value);
        for (const xattrs of [trusted, user]) expect(xattrs.marks(fdOf())).toBe(mark);
      }
    },
  );

  test("of a symbolic link are its own, not those of what it leads to", () => {
    symlinkSync("d", `${base}/link`);
    set("trusted.overlay.redirect", "x");
    expect(trusted.marks(fdOf(`${base}/link`))).toBe(0);
    set("trusted.overlay.origin", "x", `${base}/link`);
    expect(trusted.marks(fdOf(`${base}/link`))).toBe(MARK_ORIGIN);
  });

  test("are read, written and removed with any bytes", () => {
    const fd = fdOf();
    expect(trusted.readText(fd, "redirect")).toBeUndefined();
    expect(trusted.read(fd, "redirect")).toBe(-ENODATA);
    const text = "/a\xff\xc3\x28";
    expect(trusted.writeText(fd, "redirect", text)).toBe(0);
    expect(trusted.readText(fd, "redirect")).toBe(text);
    expect(getxattr(path, "trusted.overlay.redirect")).toBe(text);
    expect(trusted.remove(fd, "redirect")).toBe(0);
    expect(trusted.remove(fd, "redirect")).toBe(0);
    expect(listxattr(path)).toEqual([]);
  });
});

describe("attributes of users", () => {
  test.each([
    ["trusted.overlay.", trusted],
    ["user.overlay.", user],
  ] as const)("that begin with %s are set apart, however often", (prefix, xattrs) => {
    for (const name of ["opaque", "overlay.opaque", "overlay.overlay.x", ""]) {
      const inLayer = xattrs.toLayer(prefix + name);
      expect(inLayer).toBe(`${prefix}overlay.${name}`);
      expect(xattrs.toUser(inLayer)).toBe(prefix + name);
    }
    expect(xattrs.toUser(`${prefix}opaque`)).toBeUndefined();
    expect(xattrs.isPrivate(`${prefix}opaque`)).toBe(true);
  });

  test("are otherwise called what they are called", () => {
    for (const name of ["user.a", "trusted.a", "trusted.overlayer", "user.overlay.x"]) {
      expect(trusted.toLayer(name)).toBe(name);
      expect(trusted.toUser(name)).toBe(name);
    }
    expect(user.toUser("trusted.overlay.opaque")).toBe("trusted.overlay.opaque");
    for (const xattrs of [trusted, user])
      expect(xattrs.toUser("user.fuseoverlayfs.override_stat")).toBeUndefined();
  });

  test.skipIf(whyNoMounts !== undefined)("are copied, and ours are not", () => {
    const [from, to] = [`${base}/from`, `${base}/to`];
    for (const file of [from, to]) writeFileSync(file, "");
    const own = {
      "user.a": "1",
      "user.empty": "",
      "user.bytes": "\x01\x80\xff",
      "trusted.b": "2",
      "security.c": "3",
      "trusted.overlay.overlay.opaque": "y",
      "user.overlay.opaque": "y",
    };
    for (const [name, value] of Object.entries(own)) must(setxattr(from, name, value));
    for (const name of ["opaque", "origin", "metacopy", "redirect"])
      must(setxattr(from, `trusted.overlay.${name}`, "x"));
    must(setxattr(from, "user.fuseoverlayfs.override_stat", "0:0:644"));
    expect(trusted.copy(fdOf(from), fdOf(to))).toBe(0);
    const names = must(listxattr(to)) as string[];
    const copied = Object.fromEntries(names.map((name) => [name, getxattr(to, name)]));
    expect(copied).toEqual(own);
  });
});
