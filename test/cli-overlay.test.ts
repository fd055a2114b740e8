// The command line of overlays: the command, the link that is called as fuse-overlayfs is, mount(8)
// and --mount of vfs. Nothing is mounted here.

import { describe, expect, test } from "bun:test";
import { defaultWorkers } from "../src/cli-daemon.ts";
import { UsageError } from "../src/cli-parse.ts";
import { readCommandLine } from "../src/cli.ts";
import type { DaemonOptions } from "../src/daemon.ts";
import { fuseOptions } from "../src/mount-options.ts";
import type { OverlayConfig } from "../src/overlay-config.ts";
import { ConfigError } from "../src/passthrough-config.ts";
import { geteuid } from "../src/syscall.ts";

const isRoot = geteuid() === 0;
const LIST = "lowerdir=/l1:/l2,upperdir=/u,workdir=/w";

function called(name: string, ...args: string[]): DaemonOptions {
  const request = readCommandLine(name, args);
  if (request.kind !== "serve") throw new Error(`not to be served: ${request.kind}`);
  return request.options;
}

function overlay(...args: string[]): DaemonOptions {
  return called("fuse-backend", "overlay", ...args);
}

function configOf({ vfs }: DaemonOptions): OverlayConfig {
  const [mount, ...others] = vfs.mounts;
  expect(others).toEqual([]);
  if (mount?.overlay === undefined) throw new Error("not an overlay");
  return mount.overlay;
}

function refusal(...[name, ...args]: [string, ...string[]]): string {
  try {
    readCommandLine(name, args);
  } catch (error) {
    if (error instanceof UsageError || error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error("not refused");
}

describe("overlay", () => {
  test("is one file system at the root of the mount", () => {
    const { vfs, ...rest } = overlay("-o", LIST, "/mnt");
    expect(vfs.mounts).toHaveLength(1);
    expect(vfs.mounts[0]).toMatchObject({ path: "/", ids: undefined });
    expect(configOf(overlay("-o", LIST, "/mnt"))).toMatchObject({
      lower: ["/l1", "/l2"],
      upper: "/u",
      work: "/w",
      kernelPassthrough: true,
      aufsWhiteouts: true,
    });
    expect(rest).toMatchObject({
      reload: undefined,
      dynamic: false,
      workers: defaultWorkers(),
      background: false,
      logLevel: "info",
    });
    expect(rest.mount).toMatchObject({
      mountpoint: "/mnt",
      fsname: "overlay",
      subtype: "fuse-backend",
      allowOther: false,
      suid: false,
      dev: false,
    });
  });

  test("has relative paths from the working directory", () => {
    const config = configOf(overlay("-olowerdir=l1:../l2,upperdir=u,workdir=w", "mnt"));
    const here = process.cwd();
    expect(config).toMatchObject({
      lower: [`${here}/l1`, `${here}/../l2`],
      upper: `${here}/u`,
      work: `${here}/w`,
    });
  });

  test("takes a name before the mount point, and a level by -l", () => {
    const options = overlay("-o", LIST, "-l", "debug", "some name", "/mnt");
    expect(options.mount).toMatchObject({ fsname: "some name", mountpoint: "/mnt" });
    expect(options.logLevel).toBe("debug");
  });

  test("needs no upper layer", () => {
    expect(configOf(overlay("-o", "lowerdir=/l", "/mnt"))).toMatchObject({ upper: undefined });
  });

  test("takes what every mount and every daemon takes", () => {
    const list = `ro,${LIST},allow_other,suid,max_read=4096,workers=3,debug,fsname=a\\,b`;
    const options = overlay("--background", "--pid-file=/p", "-o", list, "/mnt");
    expect(options).toMatchObject({ workers: 3, debug: true, background: true, pidFile: "/p" });
    expect(options.mount).toMatchObject({
      readOnly: true,
      allowOther: true,
      suid: true,
      maxRead: 4096,
      fsname: "a,b",
    });
  });

  test("takes its options from several lists", () => {
    const args = ["-o", "lowerdir=/l", "-o", "ro,xino=on", "--no-kernel-passthrough", "/mnt"];
    expect(configOf(overlay(...args))).toMatchObject({ xino: "on", kernelPassthrough: false });
    expect(configOf(overlay("-o", `${LIST},no_kernel_passthrough`, "/mnt"))).toMatchObject({
      kernelPassthrough: false,
    });
  });

  test("passes mapped ids on", () => {
    const { vfs } = overlay("-o", `${LIST},uidmapping=0:1000:1:1:5000:9,squash_to_gid=7`, "/mnt");
    expect(vfs.mounts[0]?.ids).toEqual({
      uids: [
        { internal: 0, external: 1000, length: 1 },
        { internal: 1, external: 5000, length: 9 },
      ],
      gids: [],
      squashGid: 7,
    });
  });

  test("gives the kernel the labels of SELinux as they are", () => {
    const label = 'context="system_u:object_r:container_file_t:s0:c1,c2"';
    const { mount } = overlay("-o", `${LIST},${label},ro`, "/mnt");
    expect(fuseOptions(mount)).toContain(label);
    expect(mount.readOnly).toBe(true);
  });

  const wrong: [string[], RegExp][] = [
    [[], /^MNT is missing$/],
    [["/mnt"], /^a lower layer is missing/],
    [["-o", LIST], /^MNT is missing$/],
    [["-o", LIST, "a", "/mnt", "b"], /^there is more than NAME and MNT, namely "b"$/],
    [["-o", `${LIST},nonsense`, "/mnt"], /^unknown option -o nonsense$/],
    [["-o", `${LIST},cache=always`, "/mnt"], /^unknown option -o cache=always$/],
    [["-o", `${LIST},xino=1`, "/mnt"], /^-o xino must be one of on, off, auto/],
    [["-o", LIST, "-o", "upperdir=/v", "/mnt"], /^-o upperdir is given twice/],
    [["-o", `${LIST},writeback=1`, "--kernel-passthrough", "/mnt"], /exclude each other/],
    [["-o", `${LIST},remount`, "/mnt"], /^-o remount is for mount\(8\)$/],
    [["-o", "lowerdir=/a\0", "/mnt"], /has a NUL in it$/],
    [["--lowerdir=/l", "/mnt"], /^unknown option --lowerdir/],
    [["--uid-map=0:0:1", "-o", LIST, "/mnt"], /^unknown option --uid-map/],
  ];
  test.each(wrong)("refuses %j", (args, message) => {
    expect(refusal("fuse-backend", "overlay", ...args)).toMatch(message);
  });
});

describe("a link that is called as fuse-overlayfs is", () => {
  const name = "/usr/bin/fuse-overlayfs";

  test("goes to the background, and is for everybody if root mounts", () => {
    const options = called(name, "-o", LIST, "/mnt");
    expect(configOf(options)).toMatchObject({ lower: ["/l1", "/l2"] });
    expect(options).toMatchObject({ background: true, logLevel: "warn", debug: false });
    expect(options.mount).toMatchObject({
      mountpoint: "/mnt",
      fsname: "fuse-overlayfs",
      subtype: "fuse-overlayfs",
      allowOther: isRoot,
      suid: isRoot,
      dev: false,
      noatime: true,
    });
  });

  test.each(["overlay", "./my-overlayfs", "/opt/x.overlay"])("may be %s", (other) => {
    expect(configOf(called(other, "-olowerdir=/l", "/mnt")).lower).toEqual(["/l"]);
  });

  test.each(["fuse-backend", "overlayfs.real", "/overlay/fuse-backend"])("is not %s", (other) => {
    expect(refusal(other, "-o", LIST, "/mnt")).toMatch(/^unknown option -o|command/);
  });

  test("stays in the foreground by -f, and by -d with every request", () => {
    expect(called(name, "-f", "-o", LIST, "/mnt")).toMatchObject({ background: false });
    const debugging = { background: false, debug: true };
    expect(called(name, "-d", "-o", LIST, "/mnt")).toMatchObject(debugging);
    expect(called(name, "-o", `${LIST},debug`, "/mnt")).toMatchObject(debugging);
  });

  test("takes what containers-storage and buildah give", () => {
    const maps = "uidmapping=:0:100000:65536,gidmapping=:0:100000:65536";
    const list = `${LIST},nodev,fsync=0,volatile,${maps},xattr_permissions=2,private`;
    const options = called(name, "-o", list, "/merged");
    expect(configOf(options)).toMatchObject({ volatile: true, fsync: false, xattrPermissions: 2 });
    expect(options.vfs.mounts[0]?.ids?.uids).toEqual([
      { internal: 0, external: 100_000, length: 65_536 },
    ]);
    const readOnly = called(name, "-o", "lowerdir=/diff:/l1:/l2,ro,nodev", "/merged");
    expect(readOnly.mount.readOnly).toBe(true);
  });

  test("lets the list have the last word on the mount", () => {
    const { mount } = called(name, "-s", "-o", `${LIST},nosuid,atime,fsname=x`, "/mnt");
    expect(mount).toMatchObject({ suid: false, noatime: false, fsname: "x" });
  });

  test("takes a name before the mount point, as mount(8) gives it", () => {
    expect(called(name, "src", "/mnt", "-o", LIST).mount).toMatchObject({
      fsname: "src",
      mountpoint: "/mnt",
    });
  });

  test("answers --version and --help", () => {
    expect(readCommandLine(name, ["--version"])).toEqual({ kind: "version" });
    expect(readCommandLine(name, ["-V"])).toEqual({ kind: "version" });
    expect(readCommandLine(name, ["-h"])).toEqual({ kind: "help", command: "overlay" });
  });

  test("refuses what is unknown", () => {
    expect(refusal(name, "-o", `${LIST},nonsense`, "/mnt")).toMatch(/^unknown option -o nonsense/);
    expect(refusal(name, "--background", "-o", LIST, "/mnt")).toMatch(/^unknown option/);
    expect(refusal(name, "-o", LIST)).toMatch(/^MNT is missing/);
  });
});

describe("mount(8)", () => {
  test("mounts an overlay if the list has a lowerdir", () => {
    const options = called("/sbin/mount.fuse.fuse-backend", "src", "/mnt", "-o", `rw,${LIST},dev`);
    expect(configOf(options).upper).toBe("/u");
    expect(options).toMatchObject({ background: true });
    expect(options.mount).toMatchObject({ fsname: "src", dev: true });
    const other = called("mount.fuse.fuse-backend", "src", "/mnt", "-o", "ro,lowerdir+=/l");
    expect(configOf(other).lower).toEqual(["/l"]);
  });

  test("mounts a directory otherwise, with its own options", () => {
    const { vfs } = called("mount.fuse.fuse-backend", "/src", "/mnt", "-o", "writeback,xattr");
    expect(vfs.mounts[0]?.passthrough).toMatchObject({ source: "/src", writeback: true });
  });

  test("never does as fuse.fuse-overlayfs", () => {
    expect(refusal("mount.fuse.fuse-overlayfs", "/src", "/mnt")).toMatch(/lower layer is missing/);
  });

  test("can have it ignore what is unknown, but not what is wrong", () => {
    const sloppy = ["mount.fuse.x", "src", "/mnt", "-s", "-o"] as const;
    expect(configOf(called(...sloppy, `${LIST},nonsense`)).upper).toBe("/u");
    expect(refusal(...sloppy, `${LIST},xino=1`)).toMatch(/^-o xino must be/);
  });
});

describe("--mount of vfs", () => {
  function vfs(text: string, ...args: string[]): DaemonOptions {
    return called("fuse-backend", "vfs", "--mount", text, ...args, "/mnt");
  }

  test("serves an overlay at a path", () => {
    const { mounts } = vfs(`/a=overlay:${LIST},squash_to_uid=5`).vfs;
    expect(mounts[0]).toMatchObject({ path: "/a", ids: { squashUid: 5 } });
    expect(mounts[0]?.overlay).toMatchObject({ lower: ["/l1", "/l2"], upper: "/u" });
  });

  test("gives it what is agreed for all mounts", () => {
    const { mounts } = vfs(`/a=overlay:${LIST}`, "--writeback", "--no-xattr").vfs;
    expect(mounts[0]?.overlay).toMatchObject({
      writeback: true,
      kernelPassthrough: false,
      noxattrs: true,
    });
  });

  const wrong: [string, RegExp][] = [
    ["/a=overlay:/b", /^--mount \/a: unknown option "\/b" of an overlay$/],
    ["/a=overlay:lowerdir=/b,xino=1", /^--mount \/a: xino must be one of on, off, auto, not "1"$/],
    ["/a=overlay:lowerdir=/b,workers=1", /^--mount \/a: workers is .* give it as --workers$/],
    ["/a=overlay:xino=on", /^--mount \/a: a lower layer is missing/],
  ];
  test.each(wrong)("refuses %s", (text, message) => {
    expect(refusal("fuse-backend", "vfs", "--mount", text, "/mnt")).toMatch(message);
  });
});
