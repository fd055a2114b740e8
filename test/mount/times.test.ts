// Times that change without a request of FUSE's own: through mappings and ioctls, and on reading as
// the mount's options say. The attribute timeout is long, so that what is seen is not seen because
// it ran out.

import { describe, expect, test } from "bun:test";
import { rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { Mount, whyNoMounts, type MountSetup } from "../support-mount.ts";

const LONG = ["--attr-timeout", "3600"];

/**
 * Runs `work` with a mount in a child process of Python, which has mmap(2), and gives what it
 * prints.
 */
async function python(directory: string, program: string): Promise<unknown> {
  const child = Bun.spawn(["python3", "-c", program], { cwd: directory, stderr: "inherit" });
  const text = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  return JSON.parse(text);
}

async function mounted<T>(setup: MountSetup, work: (mount: Mount) => Promise<T>): Promise<T> {
  await using mount = await Mount.start(setup);
  return await mount.during(() => work(mount));
}

/** Writes through a mapping until the clock has moved on, and tells whether mtime and ctime did. */
const WRITE_MAPPED = `
import json, mmap, os
fd = os.open("f", FLAGS)
if os.fstat(fd).st_size == 0: os.write(fd, b"x" * 4096)
before = os.fstat(fd)
area = mmap.mmap(fd, 4096)
tick = os.open("tick", os.O_CREAT | os.O_WRONLY)
while True:
  os.utime(tick)
  if os.fstat(tick).st_mtime_ns > before.st_mtime_ns + 20_000_000: break
area[0:1] = b"y"
area.flush()
after = os.fstat(fd)
print(json.dumps([after.st_mtime_ns > before.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns]))
`;

describe.skipIf(whyNoMounts !== undefined)("times", () => {
  for (const [how, flags] of [
    ["just made", "os.O_RDWR | os.O_CREAT"],
    ["opened again", "os.O_RDWR"],
  ] as const)
    test(`a mapped write to a file ${how} shows in its times`, () =>
      mounted({ options: LONG }, async (mount) => {
        if (how === "opened again") {
          writeFileSync(`${mount.source}/f`, "x".repeat(4096));
          statSync(`${mount.mountpoint}/f`);
        }
        const changed = await python(mount.mountpoint, WRITE_MAPPED.replace("FLAGS", flags));
        expect(changed).toEqual([true, true]);
      }));

  test("changing a file's flags shows in its ctime", () =>
    mounted({ options: LONG }, async (mount) => {
      const path = `${mount.mountpoint}/f`;
      writeFileSync(path, "data");
      const before = statSync(path, { bigint: true }).ctimeNs;
      let after = before;
      // The host's clock for times moves in steps.
      for (let turn = 0; after === before && turn < 10_000; turn++) {
        expect(Bun.spawnSync(["chattr", turn % 2 === 0 ? "+d" : "-d", path]).exitCode).toBe(0);
        after = statSync(path, { bigint: true }).ctimeNs;
      }
      expect(after).toBeGreaterThan(before);
    }));

  const PAST = 1_000_000;
  for (const [option, changes] of [
    ["relatime", [true, false]],
    ["noatime", [false, false]],
    ["strictatime", [true, true]],
  ] as const)
    test(`with ${option} reading changes the atime as it says`, () =>
      mounted({ options: ["-o", option] }, async (mount) => {
        const path = `${mount.source}/f`;
        writeFileSync(path, "data");
        const results: boolean[] = [];
        // First the atime is older than mtime and ctime, and then it is later than either.
        for (const atime of [PAST, Date.now() / 1000 + 3600]) {
          utimesSync(path, atime, PAST + 1);
          const before = statSync(path, { bigint: true }).atimeNs;
          let now = before;
          for (let turn = 0; now === before && turn < 50; turn++) {
            expect(Bun.spawnSync(["cat", `${mount.mountpoint}/f`]).exitCode).toBe(0);
            now = statSync(path, { bigint: true }).atimeNs;
          }
          results.push(now !== before);
        }
        expect(results).toEqual([...changes]);
      }));

  test("running a program on a noatime mount leaves its atime", () =>
    mounted({ options: ["-o", "noatime"] }, async (mount) => {
      const program = `${mount.mountpoint}/true`;
      expect(Bun.spawnSync(["cp", "/bin/true", program]).exitCode).toBe(0);
      utimesSync(program, PAST, PAST);
      expect(Bun.spawnSync([program]).exitCode).toBe(0);
      expect(statSync(`${mount.source}/true`).atimeMs).toBe(PAST * 1000);
      rmSync(program);
    }));
});
