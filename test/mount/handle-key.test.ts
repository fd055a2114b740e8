// File handles that outlive the daemon (--handle-key), on an ext4 of their own.

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { O_PATH, O_RDONLY } from "../../src/abi-linux.ts";
import { ESTALE } from "../../src/errno.ts";
import {
  EXECUTABLE,
  whyNoMounts,
  withMount,
  type Mount,
  type MountSetup,
} from "../support-mount.ts";
import { Disk } from "../support-overlay.ts";
import * as c from "./calls.ts";

// In a handle as `nameToHandle` has it: size and type, then nodeid and generation.
const INO = 8;
const TAG = 12;
const GENERATION = 16;
const FILES = 256;

describe.skipIf(whyNoMounts !== undefined)("with a key", () => {
  let disk: Disk;
  let source = "";
  beforeAll(async () => {
    // Without a journal, the number of a removed file is not used again for a while.
    disk = await Disk.start("512M", "has_journal");
  });
  afterAll(async () => {
    await disk?.[Symbol.asyncDispose]();
  });
  beforeEach(() => {
    source = mkdtempSync(`${disk.path}/src-`);
  });

  const withKey = (
    work: (mount: Mount) => Promise<void>,
    { options = [], ...setup }: MountSetup = {},
  ): Promise<void> =>
    withMount(
      { source, options: ["--handle-key", `${disk.base}/key`, ...options], ...setup },
      work,
    );

  const handle = (path: string): string => c.must(c.nameToHandle(path));
  const ino = (path: string): number => Number(c.must(c.lstat(path)).ino);

  async function again(mount: Mount): Promise<void> {
    await mount.kill();
    await mount.run();
  }

  /** The inode number of what a handle opens, or -errno. */
  function reached({ mountpoint }: Mount, of: string): number {
    const mountFd = c.open(mountpoint, O_RDONLY);
    const fd = c.openByHandle(mountFd, of, O_PATH);
    const stat = fd < 0 ? fd : c.fstat(fd);
    const found = typeof stat === "number" ? stat : Number(stat.ino);
    if (fd >= 0) c.close(fd);
    c.close(mountFd);
    return found;
  }

  test.each([[[]], [["--io-uring", "off", "--workers", "1"]]])(
    "handles go on to work, with options: %j",
    (options) =>
      withKey(
        async (mount) => {
          const at = (name: string): string => `${mount.mountpoint}/${name}`;
          mkdirSync(at("directory/below"), { recursive: true });
          writeFileSync(at("directory/below/file"), "content");
          symlinkSync("nowhere", at("link"));
          const names = ["", "directory", "directory/below", "directory/below/file", "link"];
          const handles = names.map((name) => handle(at(name)));
          const numbers = names.map((name) => ino(at(name)));
          await mount.kill();
          renameSync(`${source}/directory/below`, `${source}/moved`);
          await mount.run();
          expect(handles.map((each) => reached(mount, each))).toEqual(numbers);
          const mountFd = c.open(mount.mountpoint, O_RDONLY);
          const fd = c.openByHandle(mountFd, handles[3]!, O_RDONLY);
          expect(readFileSync(`/proc/self/fd/${fd}`, "utf8")).toBe("content");
          c.close(fd);
          c.close(mountFd);
          // They are what one gets by the name.
          expect(handle(at("moved/file"))).toBe(handles[3]!);
        },
        { options },
      ),
  );

  test("the handle of what was removed is stale, also if its number is used again", () =>
    withKey(async (mount) => {
      const path = `${mount.mountpoint}/file`;
      writeFileSync(path, "old");
      const old = handle(path);
      const number = ino(`${source}/file`);
      await mount.kill();
      rmSync(`${source}/file`);
      await mount.run();
      expect(reached(mount, old)).toBe(-ESTALE);
      writeFileSync(path, "new");
      expect(ino(`${source}/file`)).toBe(number);
      expect(reached(mount, old)).toBe(-ESTALE);
      expect(reached(mount, handle(path))).toBe(ino(path));
      await again(mount);
      expect(reached(mount, old)).toBe(-ESTALE);
      expect(readFileSync(path, "utf8")).toBe("new");
    }));

  test("a number that is used again while the old file is known is another file", () =>
    withKey(
      async (mount) => {
        const at = (name: string): string => `${mount.mountpoint}/${name}`;
        writeFileSync(at("file"), "old");
        const [old, number] = [handle(at("file")), ino(at("file"))];
        // More files than there are descriptors: an open one would keep its number.
        for (let index = 0; index < FILES; index++) writeFileSync(at(`more-${index}`), "");
        rmSync(`${source}/file`); // past the mount
        writeFileSync(`${source}/other`, "new");
        expect(ino(`${source}/other`)).toBe(number);
        expect(readFileSync(at("other"), "utf8")).toBe("new");
        expect(handle(at("other"))).not.toBe(old);
        expect(reached(mount, handle(at("other")))).toBe(number);
        expect(reached(mount, old)).toBe(-ESTALE);
        for (let index = 0; index < FILES; index++) rmSync(at(`more-${index}`));
        expect(reached(mount, handle(at("other")))).toBe(number);
      },
      {
        options: ["--cache=never", "--no-kernel-passthrough"],
        prefix: ["prlimit", `--nofile=${FILES}`],
      },
    ));

  test("a handle that was made up opens nothing, inside of the source or outside", () =>
    withKey(async (mount) => {
      const path = `${mount.mountpoint}/file`;
      writeFileSync(path, "content");
      writeFileSync(`${source}/other`, "content");
      writeFileSync(`${disk.path}/outside`, "secret");
      const good = handle(path);
      await again(mount);
      const changed = (at: number, bytes: string): string =>
        good.slice(0, at) + bytes + good.slice(at + bytes.length);
      const withNumber = (number: number): string =>
        changed(INO, Buffer.from(Uint32Array.of(number).buffer).toString("latin1"));
      const flipped = (at: number): string =>
        changed(at, String.fromCharCode(good.charCodeAt(at) ^ 1));
      for (const bad of [
        withNumber(ino(`${source}/other`)),
        withNumber(ino(`${disk.path}/outside`)),
        withNumber(2),
        withNumber(0xffffffff),
        flipped(TAG),
        flipped(GENERATION),
        changed(TAG, "\0\0\0\0"),
        changed(TAG, "\xff\xff\xff\xff"),
      ])
        expect(reached(mount, bad)).toBe(-ESTALE);
      expect(reached(mount, good)).toBe(ino(path));
    }));

  test("handles by another key are stale", async () => {
    let old = "";
    await withKey(async (mount) => {
      writeFileSync(`${mount.mountpoint}/file`, "content");
      old = handle(`${mount.mountpoint}/file`);
    });
    const options = ["--handle-key", `${disk.base}/other-key`];
    await withMount({ source, options }, async (mount) => {
      expect(reached(mount, old)).toBe(-ESTALE);
    });
  });

  function refusal(...options: string[]): string {
    const line = [EXECUTABLE, "passthrough", ...options, `${disk.base}/mnt`];
    const { exitCode, stderr } = Bun.spawnSync(line);
    expect(exitCode).toBe(2);
    return stderr.toString();
  }

  test("its file is made for its user alone", async () => {
    const path = `${disk.base}/made`;
    await withMount({ source, options: ["--handle-key", path] }, async () => {
      const { mode, size } = c.must(c.stat(path));
      expect([mode & 0o7777, size]).toEqual([0o600, 32]);
    });
    chmodSync(path, 0o640);
    expect(refusal("--handle-key", path, source)).toContain(
      `--handle-key ${path}: others may read or change it; give it to its user alone`,
    );
  });

  test("what can't be meant is refused", () => {
    expect(refusal(`--handle-key=${source}/key`, source)).toContain(`it lies inside ${source}`);
    expect(refusal(`--handle-key=${disk.path}`, source)).toContain("it is not a file");
    writeFileSync(`${disk.base}/short`, "short", { mode: 0o600 });
    expect(refusal(`--handle-key=${disk.base}/short`, source)).toContain("a key has 32 bytes");
    const none = "/nonexistent/key";
    expect(refusal(`--handle-key=${none}`, source)).toContain(`${none}: ENOENT`);
    const good = `--handle-key=${disk.base}/key`;
    expect(refusal(good, "--inode-file-handles=never", source)).toContain("needs file handles");
    // /proc has no handles of this kind, and /dev/shm opens none by the number alone.
    const shared = mkdtempSync("/dev/shm/fuse-backend-test-");
    try {
      expect(refusal(good, shared)).toContain(`file handles of ${shared} can't outlive the daemon`);
    } finally {
      rmSync(shared, { recursive: true });
    }
  });
});
