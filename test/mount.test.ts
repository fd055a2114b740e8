// Making and ending mounts: the functions by themselves, and the executable as root, as a user,
// called by mount(8), in the background, and killed.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { dlopen } from "bun:ffi";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import {
  AF_UNIX,
  MNT_DETACH,
  MS_DIRSYNC,
  MS_NODIRATIME,
  MS_RELATIME,
  MS_STRICTATIME,
} from "../src/abi-linux.ts";
import { EBUSY, EINVAL } from "../src/errno.ts";
import { cstring, smallMemory } from "../src/memory.ts";
import { findMount, parseMountinfo, readMounts } from "../src/mount-info.ts";
import { fuseOptions, helperOptions, mountFlags, mountOptions } from "../src/mount-options.ts";
import { inspectMountpoint, isInside, locate } from "../src/mount-point.ts";
import {
  mount,
  MountError,
  prepareMount,
  remount,
  unmount,
  type MountOptions,
} from "../src/mount.ts";
import { notifyServiceManager } from "../src/notify-ready.ts";
import { close, mount as mountAt, socket, umount2 } from "../src/syscall.ts";
import { EXECUTABLE, whyNoMounts } from "./support-mount.ts";
import { Namespace, USER } from "./support-namespace.ts";

const MS_BIND = 4096;
const SOCK_DGRAM = 2;
const MSG_DONTWAIT = 0x40;

const OPTIONS = mountOptions("/mnt", { fsname: "/src" });

describe("mountinfo", () => {
  test("is read with octal escapes, optional fields and empty sources", () => {
    const text = [
      String.raw`36 35 98:0 /a\040b /mnt/tab\011\134\012\043 rw,noatime shared:1 master:2 ` +
        String.raw`- fuse.x src\040dir rw,errors=continue`,
      "37 36 0:40 / /m ro - fuse  rw,user_id=0",
      "38 1 0:5 / / rw propagate_from:3 - ext4 /dev/sda1 rw",
      "not a line",
      "",
    ].join("\n");
    expect(parseMountinfo(text)).toEqual([
      {
        id: 36,
        parent: 35,
        device: "98:0",
        root: "/a b",
        mountpoint: "/mnt/tab\t\\\n#",
        options: "rw,noatime",
        type: "fuse.x",
        source: "src dir",
        superOptions: "rw,errors=continue",
      },
      expect.objectContaining({ id: 37, type: "fuse", source: "", superOptions: "rw,user_id=0" }),
      expect.objectContaining({ id: 38, parent: 1, type: "ext4", mountpoint: "/" }),
    ]);
  });

  test("tells of one mount, by its number", () => {
    const text = "6 1 0:5 / /other rw - ext4 a rw\n36 6 0:6 / /mnt rw - ext4 36 rw\n";
    for (const each of [text, text.trimEnd()]) {
      expect(findMount(each, 6)).toMatchObject({ id: 6, mountpoint: "/other" });
      expect(findMount(each, 36)).toMatchObject({ id: 36, source: "36", superOptions: "rw" });
      expect(findMount(each, 3)).toBeUndefined();
      expect(findMount(each, 1)).toBeUndefined();
    }
  });

  test("of this process has its root", () => {
    expect(readMounts().some(({ mountpoint }) => mountpoint === "/")).toBe(true);
  });
});

describe("options", () => {
  test("become what fusermount3 takes", () => {
    const options = {
      ...OPTIONS,
      fsname: String.raw`a,b\c`,
      readOnly: true,
      exec: false,
      noatime: true,
      allowOther: true,
      maxRead: 4096,
      extraFlags: MS_DIRSYNC | MS_RELATIME,
    };
    expect(helperOptions(options)).toEqual([
      "ro",
      "nosuid",
      "nodev",
      "noexec",
      "default_permissions",
      "allow_other",
      "max_read=4096",
      String.raw`fsname=a\,b\\c`,
      "subtype=fuse-backend",
      "noatime",
      "dirsync",
    ]);
  });

  test.each([MS_NODIRATIME, MS_STRICTATIME])("that it can't take are refused: %d", (flag) => {
    expect(() => helperOptions({ ...OPTIONS, extraFlags: flag })).toThrow(/fusermount3 cannot set/);
  });

  test("are nosuid, nodev and default_permissions unless said otherwise", () => {
    expect(mountFlags(OPTIONS)).toBe(2 | 4);
    expect(mountFlags({ ...OPTIONS, suid: true, dev: true })).toBe(0);
    expect(fuseOptions(OPTIONS)).toEqual(["default_permissions"]);
  });
});

describe("the service manager", () => {
  const libc = dlopen("libc.so.6", {
    bind: { args: ["i32", "u64", "u32"], returns: "i32" },
    recv: { args: ["i32", "u64", "u64", "i32"], returns: "i32" },
  }).symbols;

  /** A bound datagram socket; `receive` gives what has arrived, "" for nothing. */
  function listen(name: string): { receive: () => string; end: () => void } {
    const fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    const bytes = new TextEncoder().encode(name);
    const address = smallMemory(110);
    address.view.setUint16(0, AF_UNIX, true);
    address.bytes.set(bytes, 2);
    expect(libc.bind(fd, address.address, 2 + bytes.length + (name.startsWith("\0") ? 0 : 1))).toBe(
      0,
    );
    const received = smallMemory(256);
    return {
      receive: () => {
        const size = libc.recv(fd, received.address, 256, MSG_DONTWAIT);
        return new TextDecoder().decode(received.bytes.subarray(0, Math.max(size, 0)));
      },
      end: () => close(fd),
    };
  }

  test("is told at a path and at an abstract address", async () => {
    const base = await mkdtemp("/tmp/fuse-backend-test-");
    const abstract = `fuse-backend-test-${process.pid}`;
    const [byPath, byName] = [listen(`${base}/notify`), listen(`\0${abstract}`)];
    try {
      expect(notifyServiceManager("READY=1\nMAINPID=7", `${base}/notify`)).toBe(0);
      expect(byPath.receive()).toBe("READY=1\nMAINPID=7");
      expect(notifyServiceManager("STOPPING=1", `@${abstract}`)).toBe(0);
      expect(byName.receive()).toBe("STOPPING=1");
      expect(byPath.receive()).toBe("");
    } finally {
      byPath.end();
      byName.end();
      await rm(base, { recursive: true });
    }
  });

  test("that isn't there, or is somewhere else, is no failure", () => {
    expect(notifyServiceManager("READY=1", "")).toBe(0);
    expect(notifyServiceManager("READY=1", "/nonexistent/notify")).toBeLessThan(0);
    expect(notifyServiceManager("READY=1", "vsock:2:1")).toBe(-EINVAL);
    expect(notifyServiceManager("READY=1", `/${"x".repeat(200)}`)).toBe(-EINVAL);
  });
});

describe.skipIf(whyNoMounts !== undefined)("directories", () => {
  let base = "";
  beforeAll(async () => {
    base = await mkdtemp("/tmp/fuse-backend-test-");
    await mkdir(`${base}/src/inner`, { recursive: true });
    await mkdir(`${base}/srcs`);
    await mkdir(`${base}/bound`);
    await mkdir(`${base}/bound-inner`);
    await symlink(`${base}/src/inner`, `${base}/link`);
    await writeFile(`${base}/file`, "");
    bind(`${base}/src`, `${base}/bound`);
    bind(`${base}/src/inner`, `${base}/bound-inner`);
  });
  afterAll(async () => {
    for (const { mountpoint } of readMounts().toReversed())
      if (mountpoint.startsWith(`${base}/`)) umount2(cstring(mountpoint).address, MNT_DETACH);
    await rm(base, { recursive: true });
  });

  function bind(from: string, to: string): void {
    const [source, target] = [cstring(from).address, cstring(to).address];
    expect(mountAt(source, target, 0, MS_BIND, 0)).toBe(0);
  }

  /** A FUSE mount without a daemon; `device` is its descriptor. */
  async function mountedAt(name: string, options: Partial<MountOptions> = {}): Promise<number> {
    await mkdir(`${base}/${name}`);
    return mount({ ...OPTIONS, mountpoint: `${base}/${name}`, ...options });
  }

  test.each([
    ["src", "src", true],
    ["src/inner", "src", true],
    ["src/missing/deep", "src", true],
    ["link", "src", true],
    ["link/missing", "src", true],
    ["bound", "src", true],
    ["bound/inner", "src", true],
    ["src/inner", "bound", true],
    ["bound-inner", "src", true],
    ["bound-inner/missing", "bound", true],
    ["src", "src/inner", false],
    ["srcs", "src", false],
    ["missing", "src", false],
    ["src", "missing", false],
    ["bound", "bound-inner", false],
  ])("%s inside %s: %p", (inner, outer, expected) => {
    expect(isInside(locate(`${base}/${inner}`), locate(`${base}/${outer}`))).toBe(expected);
  });

  test("one inside the other is refused, and nothing is created", () => {
    const options = { ...OPTIONS, mountpoint: `${base}/src/mnt` };
    expect(() => prepareMount([`${base}/src`], options)).toThrow(/lies inside/);
    expect(() => prepareMount([`${base}/src/mnt/deep`], options)).toThrow(/lies inside/);
    expect(() => prepareMount([`${base}/src/mnt`], options)).toThrow(/is the same directory as/);
    expect(readdirSync(`${base}/src`)).toEqual(["inner"]);
  });

  test("are created if missing, and the mount point is found behind symbolic links", () => {
    const options = { ...OPTIONS, mountpoint: `${base}/link/new/mnt` };
    expect(prepareMount([`${base}/new/src`], options)).toBe(`${base}/src/inner/new/mnt`);
    expect(statSync(`${base}/new/src`).isDirectory()).toBe(true);
    expect(statSync(`${base}/src/inner/new/mnt`).isDirectory()).toBe(true);
  });

  test("what is there is told", async () => {
    expect(inspectMountpoint(`${base}/missing`)).toEqual({ kind: "missing" });
    expect(inspectMountpoint(`${base}/file`)).toEqual({ kind: "not a directory" });
    expect(inspectMountpoint(`${base}/src`)).toEqual({ kind: "directory" });
    expect(inspectMountpoint(`${base}/bound`)).toMatchObject({
      kind: "live",
      entry: { root: expect.any(String) },
    });
    close(await mountedAt("dead", { fsname: "the source" }));
    expect(inspectMountpoint(`${base}/dead`)).toMatchObject({
      kind: "dead",
      entry: { type: "fuse.fuse-backend", source: "the source" },
    });
  });

  test("that are none are refused", () => {
    const options = { ...OPTIONS, mountpoint: `${base}/srcs` };
    expect(() => prepareMount([`${base}/file`], options)).toThrow(/not a directory/);
    expect(() => prepareMount([`${base}/file/x`], options)).toThrow(/not a directory/);
    expect(() => prepareMount(["/proc/version/x"], options)).toThrow(MountError);
    expect(() => prepareMount([`${base}/src`], { ...options, mountpoint: `${base}/file` })).toThrow(
      /cannot mount on .*file: it is not a directory/,
    );
  });

  test("a dead mount is an error that says what to do, and replaced if told to", async () => {
    const options = { ...OPTIONS, mountpoint: `${base}/stacked` };
    await mkdir(options.mountpoint);
    for (let layer = 0; layer < 3; layer++) close(mount(options));
    expect(() => prepareMount([`${base}/src`], options)).toThrow(
      /dead mount.*--replace.*umount -l/,
    );
    expect(() =>
      prepareMount([`${base}/stacked`], { ...options, mountpoint: `${base}/m` }),
    ).toThrow(/cannot serve .*: it is a dead FUSE mount/);
    expect(prepareMount([`${base}/src`], { ...options, replace: true })).toBe(`${base}/stacked`);
    expect(inspectMountpoint(`${base}/stacked`)).toEqual({ kind: "directory" });
  });

  test("options reach the kernel", async () => {
    const device = await mountedAt("options", {
      fsname: "a,b c",
      subtype: "other",
      readOnly: true,
      suid: true,
      exec: false,
      noatime: true,
      allowOther: true,
      maxRead: 65_536,
      extraFlags: MS_DIRSYNC,
    });
    const entry = readMounts().find(({ mountpoint }) => mountpoint === `${base}/options`);
    expect(entry).toMatchObject({
      source: "a,b c",
      type: "fuse.other",
      options: "ro,nodev,noexec,noatime",
    });
    expect(entry?.superOptions.split(",")).toEqual(
      expect.arrayContaining([
        "ro",
        "dirsync",
        "user_id=0",
        "default_permissions",
        "allow_other",
        "max_read=65536",
      ]),
    );
    close(device);
  });

  test("unmounting says when nothing is mounted, and when the mount is in use", async () => {
    expect(unmount(`${base}/srcs`, "normal")).toBe(-EINVAL);
    await mkdir(`${base}/busy/inner`, { recursive: true });
    bind(`${base}/busy`, `${base}/busy`);
    const user = Bun.spawn(["sleep", "infinity"], { cwd: `${base}/busy/inner` });
    try {
      expect(unmount(`${base}/busy`, "normal")).toBe(-EBUSY);
      expect(unmount(`${base}/busy`, "lazy")).toBe(0);
      expect(unmount(`${base}/busy`, "normal")).toBe(-EINVAL);
    } finally {
      user.kill("SIGKILL");
      await user.exited;
    }
  });

  test("only a FUSE mount is mounted anew with other flags", () => {
    expect(() => remount({ ...OPTIONS, mountpoint: `${base}/bound` })).toThrow(
      /no FUSE file system/,
    );
    expect(() => remount({ ...OPTIONS, mountpoint: `${base}/srcs` })).toThrow(
      /no FUSE file system/,
    );
  });
});

describe.skipIf(whyNoMounts !== undefined)("the executable", () => {
  beforeAll(() => {
    if (!existsSync(EXECUTABLE))
      throw new Error(`${EXECUTABLE} is missing: build it with \`npm run build\``);
  });

  /** The arguments that serve src at mnt. */
  function command(space: Namespace, ...options: string[]): string[] {
    return [EXECUTABLE, "passthrough", ...options, `${space.base}/src`, `${space.base}/mnt`];
  }

  function inDirectory(directory: string, line: readonly string[]): string[] {
    return ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", directory, ...line];
  }

  async function outcome(
    daemon: Bun.Subprocess<"ignore", "pipe", "pipe">,
  ): Promise<{ code: number | string; stderr: string }> {
    const stderr = await new Response(daemon.stderr).text();
    const code = await daemon.exited;
    return { code: daemon.signalCode ?? code, stderr };
  }

  test("ends with 2 and one line if the command line is wrong", () => {
    const wrong = Bun.spawnSync([EXECUTABLE, "passthrough", "--nonsense"]);
    expect(wrong.exitCode).toBe(2);
    expect(wrong.stdout.toString()).toBe("");
    expect(wrong.stderr.toString()).toBe(
      "fuse-backend: unknown option --nonsense; see fuse-backend passthrough --help\n",
    );
  });

  test("neither runs nor reads what lies in the directory that it is started in", async () => {
    await using space = await Namespace.create();
    const { base } = space;
    await writeFile(`${base}/bunfig.toml`, 'preload = ["./preload.ts"]\n');
    await writeFile(`${base}/preload.ts`, "process.exit(9);\n");
    // With this it would take itself for the process in the background, and not return.
    await writeFile(`${base}/.env`, "FUSE_BACKEND_READY_FD=2\n");
    const run = space.run(inDirectory(base, command(space, "--background")));
    expect(run.exitCode).toBe(0);
    expect(space.mounts()).toHaveLength(1);
  });

  test("mounts as root, and unmounts at SIGTERM", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, "content");
    const daemon = space.start(command(space));
    const [entry] = await space.waitForMounts(1);
    expect(entry).toMatchObject({
      mountpoint: `${space.base}/mnt`,
      source: `${space.base}/src`,
      type: "fuse.fuse-backend",
      options: "rw,nosuid,nodev,relatime",
    });
    expect(space.run(["cat", `${space.base}/mnt/file`]).stdout).toBe("content");
    daemon.kill("SIGTERM");
    expect((await outcome(daemon)).code).toBe(0);
    expect(space.mounts()).toEqual([]);
  });

  test("ends with 0 when it is unmounted from outside", async () => {
    await using space = await Namespace.create();
    const daemon = space.start(command(space));
    await space.waitForMounts(1);
    expect(space.run(["umount", `${space.base}/mnt`]).exitCode).toBe(0);
    expect((await outcome(daemon)).code).toBe(0);
  });

  test("is not mounted twice at the same place", async () => {
    await using space = await Namespace.create();
    expect(space.run(command(space, "--background")).exitCode).toBe(0);
    const again = space.run(command(space, "--background"));
    expect(again.exitCode).toBe(1);
    expect(again.stderr).toMatch(/^fuse-backend: cannot mount on .* already mounted there; .*\n$/);
    expect(space.mounts()).toHaveLength(1);
  });

  describe("in the background", () => {
    test("returns when the mount answers, with a pid file that goes when it ends", async () => {
      await using space = await Namespace.create();
      await writeFile(`${space.base}/src/file`, "content");
      const pidFile = `${space.base}/pid`;
      // That this returns also shows that nothing holds the other end of its pipes.
      const run = space.run(command(space, "--background", `--pid-file=${pidFile}`));
      expect(run).toMatchObject({ exitCode: 0, stdout: "" });
      expect(space.run(["cat", `${space.base}/mnt/file`]).stdout).toBe("content");
      const pid = Number(readFileSync(pidFile, "utf8"));
      expect(readFileSync(`/proc/${pid}/cmdline`, "latin1")).toContain("passthrough");
      expect(readdirSync(space.base).filter((name) => name.startsWith("pid"))).toEqual(["pid"]);
      process.kill(pid, "SIGTERM");
      await space.waitForMounts(0);
      while (existsSync(pidFile)) await new Promise(setImmediate);
    });

    test("goes on writing a log file, and no terminal or pipe", async () => {
      await using space = await Namespace.create();
      const log = `${space.base}/log`;
      const shell = `exec "$@" 2>"${log}"`;
      const line = command(space, "--background", `--pid-file=${space.base}/pid`);
      expect(space.run(["sh", "-c", shell, "sh", ...line]).exitCode).toBe(0);
      expect(readFileSync(log, "utf8")).toContain("mounted");
      process.kill(Number(readFileSync(`${space.base}/pid`, "utf8")), "SIGTERM");
      await space.waitForMounts(0);
      while (!readFileSync(log, "utf8").includes("SIGTERM")) await new Promise(setImmediate);
    });

    test("keeps no directory busy", async () => {
      await using space = await Namespace.create();
      const pidFile = `${space.base}/pid`;
      const line = command(space, "--background", `--pid-file=${pidFile}`);
      expect(space.run(inDirectory(space.base, line)).exitCode).toBe(0);
      const pid = readFileSync(pidFile, "utf8").trim();
      const cwds = readdirSync(`/proc/${pid}/task`).map(
        (task) => space.run(["readlink", `/proc/${pid}/task/${task}/cwd`]).stdout,
      );
      expect(new Set(cwds)).toEqual(new Set(["/\n"]));
    });

    test("hands on the error and the exit code of a failed start", async () => {
      await using space = await Namespace.create();
      const options = ["--background", "--pid-file=/nonexistent/pid"];
      const noPidFile = space.run(command(space, ...options));
      expect(noPidFile.exitCode).toBe(1);
      expect(noPidFile.stderr).toMatch(/cannot write the pid file \/nonexistent\/pid: .*\n$/);
      const file = `${space.base}/file`;
      await writeFile(file, "");
      const noDirectory = space.run([EXECUTABLE, "passthrough", "--background", file, "/mnt"]);
      expect(noDirectory.exitCode).toBe(1);
      expect(noDirectory.stderr).toMatch(/^fuse-backend: .*it is not a directory\n$/);
      expect(space.mounts()).toEqual([]);
    });
  });

  describe("called by mount(8)", () => {
    const NAME = "mount.fuse.backend-test";

    /** A namespace in which mount(8) finds the executable as the helper of this type. */
    async function withHelper(): Promise<Namespace> {
      const space = await Namespace.create();
      await mkdir(`${space.base}/sbin`);
      await symlink(EXECUTABLE, `${space.base}/sbin/${NAME}`);
      expect(space.run(["mount", "--bind", `${space.base}/sbin`, "/sbin"]).exitCode).toBe(0);
      return space;
    }

    test("mounts with the source as given, its own options and those of mount(8)", async () => {
      await using space = await withHelper();
      await writeFile(`${space.base}/src/file`, "content");
      const list = "cache=always,attr_timeout=1,noatime,allow_other,nofail,_netdev,x-y=z,user";
      const type = ["-t", "fuse.backend-test"];
      const line = [...type, `${space.base}/src`, `${space.base}/mnt`, "-o", list];
      expect(space.run(["mount", ...line])).toEqual({ exitCode: 0, stdout: "", stderr: "" });
      expect(space.run(["cat", `${space.base}/mnt/file`]).stdout).toBe("content");
      expect(space.mounts()).toMatchObject([
        {
          type: "fuse.backend-test",
          source: `${space.base}/src`,
          options: "rw,nosuid,nodev,noexec,noatime",
        },
      ]);
      expect(space.run(["umount", `${space.base}/mnt`]).exitCode).toBe(0);
    });

    test("mounts a line of fstab, with suid and dev, and with other flags by remount", async () => {
      await using space = await withHelper();
      const fstab = `${space.base}/fstab`;
      const [source, mountpoint] = [`${space.base}/a\\040b`, `${space.base}/mnt`];
      await writeFile(fstab, `${source} ${mountpoint} fuse.backend-test noauto,cache=never 0 0\n`);
      expect(space.run(["mount", "-T", fstab, mountpoint])).toMatchObject({ exitCode: 0 });
      expect(space.mounts()).toMatchObject([
        { source: `${space.base}/a b`, options: "rw,relatime" },
      ]);
      expect(space.run(["mount", "-o", "remount,ro,nosuid", mountpoint])).toMatchObject({
        exitCode: 0,
      });
      expect(space.mounts()[0]?.options).toBe("ro,nosuid,relatime");
    });

    test("fails with the reason", async () => {
      await using space = await withHelper();
      const line = ["-t", "fuse.backend-test", `${space.base}/src`, `${space.base}/mnt`];
      const unknown = space.run(["mount", ...line, "-o", "nonsense"]);
      expect(unknown.exitCode).toBe(2);
      expect(unknown.stderr).toContain("unknown option -o nonsense");
      expect(space.mounts()).toEqual([]);
      expect(space.run(["mount", "-s", ...line, "-o", "nonsense"]).exitCode).toBe(0);
    });
  });

  describe("as a user", () => {
    test("mounts and unmounts through fusermount3", async () => {
      await using space = await Namespace.create();
      const daemon = space.start(command(space, "-o", String.raw`fsname=a\,b,noexec`), {
        asUser: true,
      });
      expect(await space.waitForMounts(1)).toMatchObject([
        {
          source: "a,b",
          type: "fuse.fuse-backend",
          options: "rw,nosuid,nodev,noexec,relatime",
          superOptions: expect.stringContaining(
            `user_id=${USER},group_id=${USER},default_permissions`,
          ),
        },
      ]);
      expect(space.run(["touch", `${space.base}/mnt/made`], { asUser: true }).exitCode).toBe(0);
      expect(existsSync(`${space.base}/src/made`)).toBe(true);
      daemon.kill("SIGTERM");
      expect((await outcome(daemon)).code).toBe(0);
      expect(space.mounts()).toEqual([]);
    });

    test.each([
      [["-o", "suid"], /cannot mount with suid or dev: these options are for root/],
      [["-o", "nodiratime"], /fusermount3 cannot set nodiratime/],
      [
        ["--fusermount=/nonexistent/helper"],
        /cannot find \/nonexistent\/helper, given with --fusermount/,
      ],
      [["--fusermount=/bin/false"], /with \/bin\/false: it ended without sending a descriptor/],
      [["--mount-namespace=1"], /cannot enter the mount namespace of process 1/],
    ])("is refused %j", async (options, message) => {
      await using space = await Namespace.create();
      const refused = space.run(command(space, ...options), { asUser: true });
      expect(refused.exitCode).toBe(1);
      expect(refused.stderr).toMatch(message);
      expect(refused.stderr.split("\n")).toHaveLength(2);
      expect(space.mounts()).toEqual([]);
    });

    test("is told the reason of fusermount3", async () => {
      await using space = await Namespace.create();
      await mkdir(`${space.base}/mnt/roots`);
      await chmod(`${space.base}/mnt/roots`, 0o755);
      const line = [EXECUTABLE, "passthrough", `${space.base}/src`, `${space.base}/mnt/roots`];
      const refused = space.run(line, { asUser: true });
      expect(refused.exitCode).toBe(1);
      expect(refused.stderr).toMatch(
        /^fuse-backend: cannot mount on .* with .*\/fusermount3: user has no write access to .*\n$/,
      );
    });
  });

  describe("killed the hard way", () => {
    test("leaves a dead mount, cleaned by --replace even if still cached", async () => {
      await using space = await Namespace.create();
      const daemon = space.start(command(space, "--cache=always"));
      await space.waitForMounts(1);
      expect(space.run(["stat", `${space.base}/mnt`]).exitCode).toBe(0);
      daemon.kill("SIGKILL");
      await daemon.exited;
      const refused = space.run(command(space, "--background"));
      expect(refused.exitCode).toBe(1);
      expect(refused.stderr).toMatch(/a dead mount is there .*--replace/);
      expect(space.run(command(space, "--background", "--replace")).exitCode).toBe(0);
      expect(space.mounts()).toHaveLength(1);
      expect(space.run(["ls", `${space.base}/mnt`]).exitCode).toBe(0);
    });

    test.each([[{ asUser: false }], [{ asUser: true }]])(
      "leaves none with auto_unmount, in use or not: %j",
      async (how) => {
        await using space = await Namespace.create();
        await mkdir(`${space.base}/src/inner`);
        const daemon = space.start(command(space, "-o", "auto_unmount"), how);
        await space.waitForMounts(1);
        const inner = `${space.base}/mnt/inner`;
        const user = space.start(
          ["sh", "-c", 'cd "$1" && echo there && exec sleep infinity', "sh", inner],
          how,
        );
        for await (const _ of user.stdout) break;
        daemon.kill("SIGKILL");
        expect(await space.waitForMounts(0)).toEqual([]);
      },
    );

    test("auto_unmount leaves a mount alone that has taken its place", async () => {
      await using space = await Namespace.create();
      const daemon = space.start(command(space, "-o", "auto_unmount"));
      await space.waitForMounts(1);
      const children = readFileSync(`/proc/${daemon.pid}/task/${daemon.pid}/children`, "utf8");
      const watcher = Number(children.trim());
      // A session of its own, where no signal of the daemon's terminal reaches it.
      expect(readFileSync(`/proc/${watcher}/stat`, "utf8").split(" ")[5]).toBe(String(watcher));
      expect(space.run(["mount", "-t", "tmpfs", "other", `${space.base}/mnt`]).exitCode).toBe(0);
      daemon.kill("SIGKILL");
      while (existsSync(`/proc/${watcher}`)) await new Promise(setImmediate);
      expect(space.mounts().map(({ type }) => type)).toEqual(["fuse.fuse-backend", "tmpfs"]);
    });
  });

  describe("in another mount namespace", () => {
    test("mounts there only, making the mount point there, and unmounts there", async () => {
      await using space = await Namespace.create();
      const there = `${space.base}/dev/deep/mnt`; // On a tmpfs of that namespace.
      const options = [`--mount-namespace=${space.pid}`, `${space.base}/src`, there];
      const daemon = Bun.spawn([EXECUTABLE, "passthrough", ...options], {
        stdio: ["ignore", "pipe", "pipe"],
      });
      expect(await space.waitForMounts(1)).toMatchObject([{ mountpoint: there }]);
      expect(space.mounts(process.pid)).toEqual([]);
      expect(existsSync(there)).toBe(false);
      daemon.kill("SIGTERM");
      expect((await outcome(daemon)).code).toBe(0);
      expect(space.mounts()).toEqual([]);
    });

    test("unmounts there also when the process is gone but not its namespace", async () => {
      await using space = await Namespace.create();
      const other = space.start(["sleep", "infinity"]);
      // The command has entered the namespace when it is no longer nsenter.
      while (!readFileSync(`/proc/${other.pid}/cmdline`, "latin1").startsWith("sleep"))
        await new Promise(setImmediate);
      const daemon = Bun.spawn(command(space, `--mount-namespace=${other.pid}`), {
        stdio: ["ignore", "pipe", "pipe"],
      });
      await space.waitForMounts(1);
      other.kill("SIGKILL");
      await other.exited;
      daemon.kill("SIGTERM");
      expect((await outcome(daemon)).code).toBe(0);
      expect(space.mounts()).toEqual([]);
    });

    test("refuses nesting through a bind mount there, and a missing process", async () => {
      await using space = await Namespace.create();
      await mkdir(`${space.base}/src/inner`);
      const inner = [`${space.base}/src/inner`, `${space.base}/mnt`];
      expect(space.run(["mount", "--bind", ...inner]).exitCode).toBe(0);
      const nested = Bun.spawnSync(command(space, `--mount-namespace=${space.pid}`));
      expect(nested.exitCode).toBe(1);
      expect(nested.stderr.toString()).toMatch(/^fuse-backend: cannot mount .* lies inside .*\n$/);
      const nobody = Bun.spawnSync(command(space, "--mount-namespace=4194304"));
      expect(nobody.exitCode).toBe(1);
      expect(nobody.stderr.toString()).toMatch(
        /^fuse-backend: .* of process 4194304: no such process.*\n$/,
      );
    });
  });
});
