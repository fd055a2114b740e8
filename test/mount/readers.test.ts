// Which workers read /dev/fuse: no more than there is work for, and never too few.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { whyNoMounts, withMount, type Mount } from "../support-mount.ts";
import { Disk } from "../support-overlay.ts";
import { shell, SHELL_TEST_TIMEOUT_MS, start } from "./shell.ts";

setDefaultTimeout(SHELL_TEST_TIMEOUT_MS);

/** Two readers; every stat(2) of `dir/f` is a request, and none of `dir`. */
const OPTIONS = [
  ["--io-uring", "off", "--workers", "2"],
  ["--attr-timeout", "0", "--dir-attr-timeout", "1000", "--dir-entry-timeout", "1000"],
].flat();
const MANY = 3000;

/** Makes many requests as one process. */
function askAlone({ mountpoint }: Mount): void {
  for (let time = 0; time < MANY; time++) statSync(`${mountpoint}/dir/f`);
}

function makeFile(source: string): void {
  mkdirSync(`${source}/dir`);
  writeFileSync(`${source}/dir/f`, "");
}

/** How often each of the daemon's workers has let another thread run, as for each request. */
function switches({ pid }: Mount): Map<string, number> {
  const tasks = `/proc/${pid}/task`;
  const workers = readdirSync(tasks).filter(
    (thread) => readFileSync(`${tasks}/${thread}/comm`, "latin1") === "Worker\n",
  );
  return new Map(
    workers.map((thread) => {
      const status = readFileSync(`${tasks}/${thread}/status`, "latin1");
      const counts = status.matchAll(/^(?:non)?voluntary_ctxt_switches:\s*(\d+)/gm);
      return [thread, [...counts].reduce((sum, [, count]) => sum + Number(count), 0)];
    }),
  );
}

/** The most that one of two workers has done so while `work` was done, and the other. */
async function switchesDuring(mount: Mount, work: () => unknown): Promise<[number, number]> {
  const before = switches(mount);
  await work();
  const [most = 0, least = 0] = [...switches(mount)]
    .map(([thread, count]) => count - (before.get(thread) ?? 0))
    .sort((a, b) => b - a);
  return [most, least];
}

/** Waits until both workers do. */
async function untilQuiet(mount: Mount): Promise<void> {
  const turn = (): Promise<unknown> => shell("true");
  while ((await switchesDuring(mount, turn))[0] > 0);
}

/** Waits until both workers are there. */
async function untilStarted(mount: Mount): Promise<void> {
  while (switches(mount).size < 2) await new Promise(setImmediate);
}

describe.skipIf(whyNoMounts !== undefined)("of two workers", () => {
  test("one reads what one process asks, and both what several ask at the same time", () =>
    withMount({ options: OPTIONS }, async (mount) => {
      makeFile(mount.source);
      await untilStarted(mount);
      askAlone(mount);
      const [most, least] = await switchesDuring(mount, () => askAlone(mount));
      expect(most).toBeGreaterThan(MANY / 2);
      expect(least).toBeLessThan(MANY / 4);
      const stat = `stat ${Array.from({ length: MANY }, () => "dir/f").join(" ")} > /dev/null`;
      const together = `for n in 1 2 3 4; do ${stat} & done; wait`;
      const both = await switchesDuring(mount, () => shell(together, { cwd: mount.mountpoint }));
      expect(both[1]).toBeGreaterThan(MANY / 10);
    }));

  test.each(["watches", "sleeps"])(
    "the one that %s reads when the other is stuck",
    async (state) => {
      await using disk = await Disk.start("64M");
      makeFile(disk.path);
      await withMount({ source: disk.path, options: OPTIONS }, async (mount) => {
        await untilStarted(mount);
        askAlone(mount);
        if (state === "sleeps") await untilQuiet(mount);
        await shell(`fsfreeze --freeze ${disk.path}`);
        let stuck: Bun.Subprocess | undefined;
        try {
          stuck = start("mkdir new", { cwd: mount.mountpoint });
          const looked = await shell(
            'for n in 1 2 3 4; do (timeout 10 stat "dir/$n" 2>&1 | grep -c "No such file") & done; wait',
            { cwd: mount.mountpoint },
          );
          expect(looked).toBe("1\n1\n1\n1\n");
        } finally {
          await shell(`fsfreeze --unfreeze ${disk.path}`);
        }
        expect(await stuck.exited).toBe(0);
      });
    },
  );
});
