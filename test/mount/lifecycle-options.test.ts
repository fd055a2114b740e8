// The options of -o, from the command line of the executable and of mount(8) to what the kernel
// shows and does.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmod, copyFile, mkdir, symlink, writeFile } from "node:fs/promises";
import { EXECUTABLE, whyNoMounts } from "../support-mount.ts";
import { Namespace, USER, type Run } from "../support-namespace.ts";
import { serve, User } from "./lifecycle-daemon.ts";

setDefaultTimeout(60_000);

/** Runs a shell script that uses $mnt. */
function use(space: Namespace, script: string, asUser = false): Run {
  return space.run(["sh", "-c", `mnt=$1/mnt; ${script}`, "sh", space.base], { asUser });
}

/** The options that /proc/mounts has for the mount. */
function shown(space: Namespace): string[] {
  const [line] = space.run(["grep", ` ${space.base}/mnt `, "/proc/self/mounts"]).stdout.split("\n");
  return line!.split(" ")[3]!.split(",");
}

const AS_USER = `setpriv --reuid=${USER} --regid=${USER} --clear-groups`;
const SUID = `${AS_USER} "$mnt/id" -u`;
const NODE = 'echo data >"$mnt/null"';
const PROGRAM = '"$mnt/id" -u';
const OTHER = `${AS_USER} cat "$mnt/file"`;
const LINK = 'cat "$mnt/link"';
const WRITE = 'touch "$mnt/new"; mkdir "$mnt/newdir"; rm "$mnt/file"';
const DENIED = /denied/i;

describe.skipIf(whyNoMounts !== undefined)("a mount option is shown and holds", () => {
  /** Options, what of it is in /proc/mounts, what is not, a script, and what it says. */
  const options: [string, string[], string[], string, RegExp | string][] = [
    ["rw", ["rw"], ["ro"], WRITE, ""],
    ["ro", ["ro"], ["rw"], WRITE, /^(.*Read-only file system\n){3}$/],
    ["defaults", ["nosuid", "nodev", "relatime", "user_id=0"], ["noexec"], PROGRAM, "0\n"],
    ["allow_other", ["allow_other", "nosuid"], [], SUID, `${USER}\n`],
    ["allow_other,suid", ["allow_other"], ["nosuid"], SUID, "0\n"],
    ["rw,nodev", ["nodev"], [], NODE, DENIED],
    ["dev", [], ["nodev"], NODE, ""],
    ["noexec", ["noexec"], [], PROGRAM, DENIED],
    ["noexec,exec", [], ["noexec"], PROGRAM, "0\n"],
    ["user=nobody", ["default_permissions"], ["allow_other"], OTHER, DENIED],
    ["allow_other,nofail", ["allow_other", "default_permissions"], [], OTHER, "content"],
    ["nosymfollow", ["nosymfollow"], [], LINK, /Too many levels of symbolic links/],
    ["noatime,sync", ["noatime", "sync"], ["relatime"], LINK, "content"],
    ["dirsync,nodiratime", ["dirsync", "nodiratime"], [], WRITE, ""],
    ["strictatime", [], ["relatime", "noatime"], LINK, "content"],
  ];
  test.each(options)("-o %s", async (list, has, hasNot, script, says) => {
    await using space = await Namespace.create();
    const { base } = space;
    await writeFile(`${base}/src/file`, "content");
    await symlink("file", `${base}/src/link`);
    await copyFile("/usr/bin/id", `${base}/src/id`);
    await chmod(`${base}/src/id`, 0o4755);
    expect(space.run(["mknod", "-m", "666", `${base}/src/null`, "c", "1", "3"]).exitCode).toBe(0);
    await serve(space, ["-o", list]);
    expect(shown(space)).toEqual(expect.arrayContaining(has));
    expect(shown(space).filter((option) => hasNot.includes(option))).toEqual([]);
    const { stdout, stderr } = use(space, script);
    if (typeof says === "string") expect(stdout + stderr).toBe(says);
    else expect(stderr).toMatch(says);
  });

  test("-o fsname, subtype", async () => {
    await using space = await Namespace.create();
    await serve(space, ["-o", String.raw`fsname=a\,b c#d,subtype=other.name`]);
    const line = space.run(["grep", ` ${space.base}/mnt `, "/proc/self/mounts"]).stdout;
    expect(line).toStartWith(String.raw`a,b\040c\043d ${space.base}/mnt fuse.other.name rw,`);
    expect(use(space, 'df --output=source,fstype "$mnt"').stdout).toMatch(
      /\na,b c#d +fuse.other.name\n$/,
    );
  });

  test("-o max_read, by which no request is larger", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, Buffer.alloc(1 << 20, "x"));
    const daemon = await serve(space, ["-omax_read=16384", "--no-kernel-passthrough", "--debug"]);
    expect(shown(space)).toContain("max_read=16384");
    expect(use(space, 'cat "$mnt/file" | wc -c').stdout).toBe(`${1 << 20}\n`);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    const sizes = [...daemon.output.matchAll(/> READ .* size=(\d+)/g)].map(([, size]) =>
      Number(size),
    );
    expect(sizes).toHaveLength((1 << 20) / 16_384);
    expect(Math.max(...sizes)).toBe(16_384);
  });
});

describe.skipIf(whyNoMounts !== undefined)("mount(8)", () => {
  const TYPE = "fuse.backend-test";

  /** A namespace in which the executable is the helper of the type, and `fstab` has these lines. */
  async function withHelper(fstab: readonly string[] = []): Promise<Namespace> {
    const space = await Namespace.create();
    const { base } = space;
    await mkdir(`${base}/sbin`);
    await symlink(EXECUTABLE, `${base}/sbin/mount.${TYPE}`);
    expect(space.run(["mount", "--bind", `${base}/sbin`, "/sbin"]).exitCode).toBe(0);
    const lines = fstab.map((line) => `${line.replaceAll("BASE", base)}\n`);
    await writeFile(`${base}/fstab`, lines.join(""));
    return space;
  }

  test("mounts all lines of fstab, and says what of them failed", async () => {
    await using space = await withHelper([
      `BASE/src BASE/mnt ${TYPE} cache=always,writeback,allow_other,x-systemd.requires=a 0 0`,
      `BASE/src BASE/ro ${TYPE} ro,noexec,nofail,workers=3 0 0`,
      `BASE/src BASE/src/inside ${TYPE} defaults 0 0`,
      `BASE/src BASE/unwanted ${TYPE} noauto 0 0`,
    ]);
    await mkdir(`${space.base}/ro`);
    await mkdir(`${space.base}/src/inside`);
    const all = space.run(["mount", "-a", "-T", `${space.base}/fstab`]);
    expect(all.exitCode).toBe(64); // Some succeeded, some failed: mount(8).
    expect(all.stderr).toMatch(/^fuse-backend: cannot mount .* lies inside .*\n/m);
    expect(space.mounts()).toMatchObject([
      { mountpoint: `${space.base}/mnt`, options: "rw,relatime" },
      { mountpoint: `${space.base}/ro`, options: "ro,noexec,relatime" },
    ]);
    // A second time there is nothing to do but the one that failed.
    expect(space.run(["mount", "-a", "-T", `${space.base}/fstab`]).stdout).toBe("");
    expect(space.mounts()).toHaveLength(2);
    for (const name of ["mnt", "ro"])
      expect(space.run(["umount", `${space.base}/${name}`]).exitCode).toBe(0);
    expect(space.mounts()).toEqual([]);
  });

  test("remounts a mount that is in use, and the files stay open", async () => {
    await using space = await withHelper([`BASE/src BASE/mnt ${TYPE} noauto,noatime 0 0`]);
    const [fstab, mountpoint] = [`${space.base}/fstab`, `${space.base}/mnt`];
    await writeFile(`${space.base}/src/file`, "content");
    expect(space.run(["mount", "-T", fstab, mountpoint])).toMatchObject({ exitCode: 0 });
    const user = await User.start(space, 'exec 3<"$mnt/file"; pause; cat <&3; echo x >"$mnt/new"');
    expect(space.run(["mount", "-T", fstab, "-o", "remount,ro,nodev", mountpoint])).toMatchObject({
      exitCode: 0,
      stderr: "",
    });
    expect(space.mounts()[0]?.options).toBe("ro,nodev,noatime");
    expect(await user.resume()).toMatch(/^content.*Read-only file system/s);
    expect(space.run(["mount", "-o", "remount,rw", mountpoint]).exitCode).toBe(0);
    expect(use(space, 'touch "$mnt/new"').stderr).toBe("");
  });

  test("says why it can't remount what is not mounted", async () => {
    await using space = await withHelper();
    const line = [`${space.base}/sbin/mount.${TYPE}`, `${space.base}/src`, `${space.base}/mnt`];
    const refused = space.run([...line, "-o", "remount,ro"]);
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toMatch(
      /^fuse-backend: cannot remount \S*\/mnt: no FUSE file system is mounted there\n$/,
    );
  });

  test("with -f mounts nothing, with -v is told more", async () => {
    await using space = await withHelper();
    const line = ["-t", TYPE, `${space.base}/src`, `${space.base}/mnt`];
    expect(space.run(["mount", "-f", ...line]).exitCode).toBe(0);
    expect(space.mounts()).toEqual([]);
    const quiet = space.run(["mount", ...line]);
    expect(quiet).toEqual({ exitCode: 0, stdout: "", stderr: "" });
    expect(space.run(["umount", `${space.base}/mnt`]).exitCode).toBe(0);
    const verbose = space.run(["mount", "-v", ...line]);
    expect(verbose.exitCode).toBe(0);
    expect(verbose.stderr).toMatch(/^fuse-backend: mounted \S*\/src on \S*\/mnt: /m);
  });

  test("as the wrong type says so", async () => {
    await using space = await withHelper();
    const line = ["-t", `${TYPE}-typo`, `${space.base}/src`, `${space.base}/mnt`];
    expect(space.run(["mount", ...line]).exitCode).not.toBe(0);
    expect(space.mounts()).toEqual([]);
  });
});
