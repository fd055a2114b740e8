// How an overlay is mounted and by whom: as a mount program, once at a time, with the attributes
// that can be had. What it shows is not of interest here.

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, symlink } from "node:fs/promises";
import { MNT_DETACH, UMOUNT_NOFOLLOW } from "../../src/abi-linux.ts";
import { cstring } from "../../src/memory.ts";
import { parseMountinfo, type MountEntry } from "../../src/mount-info.ts";
import { umount2 } from "../../src/syscall.ts";
import { EXECUTABLE, whyNoMounts } from "../support-mount.ts";

interface Ran {
  readonly exitCode: number;
  readonly stderr: string;
}

let base = "";
const at = (name: string): string => `${base}/${name}`;
const options = (more = ""): string =>
  `lowerdir=${at("l1")}:${at("l2")},upperdir=${at("u")},workdir=${at("w")}${more}`;

beforeEach(async () => {
  base = await mkdtemp("/tmp/fuse-backend-test-");
  for (const name of ["l1", "l2", "u", "w", "mnt"]) await mkdir(at(name));
  await symlink(EXECUTABLE, at("fuse-overlayfs"));
});

afterEach(async () => {
  while (umount(at("mnt")) === 0);
  await ended();
  await rm(base, { recursive: true, force: true });
});

function umount(path: string): number {
  return umount2(cstring(path).address, MNT_DETACH | UMOUNT_NOFOLLOW);
}

/** Of the daemon of the mount, if it has written its number. */
function pid(): number | undefined {
  return existsSync(at("pid")) ? Number(readFileSync(at("pid"), "utf8")) : undefined;
}

/** Whether a process runs; one that nobody has asked about yet how it ended does not. */
function runs(process: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${process}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** Resolves when the daemon is gone, which it is soon after its mount. */
async function ended(): Promise<void> {
  const daemon = pid();
  const deadline = performance.now() + 5000;
  while (daemon !== undefined && runs(daemon) && performance.now() < deadline) await Bun.sleep(5);
  if (daemon !== undefined && runs(daemon)) process.kill(daemon, "SIGKILL");
}

async function run(...command: string[]): Promise<Ran> {
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  const stderr = await new Response(child.stderr).text();
  return { exitCode: await child.exited, stderr };
}

/** As podman and buildah do it. */
function mountProgram(list = options()): Promise<Ran> {
  return run(at("fuse-overlayfs"), `--pid-file=${at("pid")}`, "-o", list, at("mnt"));
}

function mounted(): MountEntry | undefined {
  const text = readFileSync("/proc/self/mountinfo", "utf8");
  return parseMountinfo(text).findLast(({ mountpoint }) => mountpoint === at("mnt"));
}

describe.skipIf(whyNoMounts !== undefined)("a mount program", () => {
  test("returns when it is mounted", async () => {
    expect(await mountProgram()).toEqual({ exitCode: 0, stderr: "" });
    const entry = mounted();
    expect(entry).toMatchObject({ type: "fuse.fuse-overlayfs", source: "fuse-overlayfs" });
    expect(entry?.options.split(",")).toEqual(expect.arrayContaining(["nodev", "noatime"]));
    expect(entry?.options).not.toMatch(/nosuid/);
    expect(entry?.superOptions).toMatch(/allow_other/);
  });

  test.each([["-f"], ["--foreground"], ["-fd"]])("serves until the end with %s", async (option) => {
    const command = [at("fuse-overlayfs"), option, "-o", options(), at("mnt")];
    const child = Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    const reader = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
    let said = "";
    while (!said.includes(": FUSE 7")) said += (await reader.read()).value!;
    expect(mounted()).toBeDefined();
    child.kill("SIGTERM");
    while (!said.includes("SIGTERM: unmounted")) said += (await reader.read()).value!;
    expect(await child.exited).toBe(0);
    // One process, and no other that has said the same before.
    expect(said.match(/: FUSE 7/g)).toHaveLength(1);
    expect(mounted()).toBeUndefined();
  });

  test("answers --version with its own", async () => {
    const child = Bun.spawnSync([at("fuse-overlayfs"), "--version"]);
    expect(child.stdout.toString()).toMatch(/^fuse-backend \d+\.\d+\.\d+\n$/);
    expect(child.exitCode).toBe(0);
    const unusual = Bun.spawnSync([at("fuse-overlayfs"), "-fV"]);
    expect(unusual.stdout.toString()).toBe(child.stdout.toString());
  });

  test("fails with a reason, and code 2 where the command line is wrong", async () => {
    const { exitCode, stderr } = await mountProgram(options(",nonsense"));
    expect(stderr).toBe(
      "fuse-backend: unknown option -o nonsense; see fuse-backend overlay --help\n",
    );
    expect(exitCode).toBe(2);
    const missing = await mountProgram(`lowerdir=${at("none")}`);
    expect(missing.stderr).toMatch(/cannot open lowerdir=.*\/none: no such file or directory/);
    expect(missing.exitCode).toBe(2);
    expect(mounted()).toBeUndefined();
  });

  test("has the upper layer to itself", async () => {
    expect(await mountProgram()).toEqual({ exitCode: 0, stderr: "" });
    const other = await run(EXECUTABLE, "overlay", "-o", options(), at("other"));
    expect(other.stderr).toMatch(/upperdir=.*\/u is in use by another mount: unmount that first/);
    expect(other.exitCode).toBe(2);
  });

  test("can be mounted again at once when it is unmounted", async () => {
    for (let round = 0; round < 5; round++) {
      expect(await mountProgram()).toEqual({ exitCode: 0, stderr: "" });
      expect(umount(at("mnt"))).toBe(0);
    }
  });

  test("can be mounted again when its daemon was killed", async () => {
    expect(await mountProgram()).toEqual({ exitCode: 0, stderr: "" });
    process.kill(pid()!, "SIGKILL");
    expect(umount(at("mnt"))).toBe(0);
    expect(await mountProgram()).toEqual({ exitCode: 0, stderr: "" });
  });
});

describe.skipIf(whyNoMounts !== undefined)("an overlay", () => {
  /** Runs a script in a mount namespace of its own; `$0` is the executable, `$1` the list. */
  function inNamespace(script: string, flags = "-m"): Promise<Ran> {
    return run("unshare", flags, "sh", "-c", `cd ${base}; ${script}`, EXECUTABLE, options());
  }
  /** Serves until the mount answers, and then ends. */
  const SERVE =
    'timeout --preserve-status -s TERM 20 "$0" overlay --pid-file=pid -o "$1$2" mnt & ' +
    "until grep -q ' [^ ]*/mnt fuse' /proc/self/mounts || ! kill -0 $!; do :; done 2>/dev/null; " +
    "while [ ! -s pid ] && kill -0 $! 2>/dev/null; do :; done; umount mnt 2>/dev/null; wait $!";

  test("is refused the upper layer of the kernel's", async () => {
    const { exitCode, stderr } = await inNamespace(
      'mount -t overlay overlay -o "$1" mnt && exec "$0" overlay -o "$1" other',
    );
    expect(stderr).toMatch(/upperdir=.*\/u is in use by the overlay that is mounted on .*\/mnt:/);
    expect(exitCode).toBe(2);
  });

  test("uses attributes of users where trusted ones are not allowed", async () => {
    const { exitCode, stderr } = await inNamespace(SERVE, "-Urm");
    expect(stderr).toMatch(/with user\.overlay attributes, since trusted ones are not allowed/);
    expect(exitCode).toBe(0);
  });

  test("refuses what takes trusted attributes there", async () => {
    const { exitCode, stderr } = await inNamespace(`set -- "$1" ,metacopy=on; ${SERVE}`, "-Urm");
    expect(stderr).toMatch(/metacopy=on cannot be had: it takes trusted\.overlay attributes/);
    expect(exitCode).toBe(2);
  });

  const RAMFS =
    "mkdir r; mount -t ramfs ramfs r; mkdir r/u r/w; " +
    'set -- "lowerdir=$PWD/l1,upperdir=$PWD/r/u,workdir=$PWD/r/w"';
  test("does without attributes where there are none", async () => {
    const { exitCode, stderr } = await inNamespace(`${RAMFS}; ${SERVE}`);
    expect(stderr).toMatch(/r\/u stores no extended attributes .*: directories can't be opaque/);
    expect(exitCode).toBe(0);
  });

  test("refuses what takes attributes there", async () => {
    const { exitCode, stderr } = await inNamespace(`${RAMFS} ,index=on,xino=auto; ${SERVE}`);
    expect(stderr).toMatch(/index=on cannot be had: .*r\/u stores no extended attributes/);
    expect(exitCode).toBe(2);
  });

  test("is refused a read-only upper layer", async () => {
    const { exitCode, stderr } = await inNamespace(
      `mount --bind "$PWD" "$PWD"; mount -o remount,bind,ro "$PWD"; cd "$PWD"; ` +
        '"$0" overlay -o "$1" /mnt',
    );
    expect(stderr).toMatch(/upperdir=.*\/u is on a read-only file system: leave upperdir/);
    expect(exitCode).toBe(2);
  });
});
