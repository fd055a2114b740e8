// Requests by io_uring: what only concerns them. That the files are the same is shown by the POSIX
// cases, and by all other tests where the kernel offers io_uring and it is taken by itself.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { readProc } from "../../src/proc.ts";
import { EXECUTABLE, Mount, offerIoUring, whyNoIoUring, withMount } from "../support-mount.ts";

setDefaultTimeout(60_000);

const ON = ["--io-uring", "on"];

/** Runs a command to its end. */
async function run(...line: string[]): Promise<string> {
  const child = Bun.spawn(line, { stdio: ["ignore", "pipe", "pipe"] });
  const [said, wrong] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if ((await child.exited) !== 0) throw new Error(`${line.join(" ")}: ${wrong}`);
  return said;
}

/** Has so many processes, started by `prefix`, wait for a lock and get it. */
async function waitForLocks(path: string, locks: number, prefix: readonly string[]): Promise<void> {
  const spawn = (script: string): Bun.Subprocess<"pipe", "pipe", "ignore"> =>
    Bun.spawn([...prefix, "flock", "-F", path, "sh", "-c", script], {
      stdio: ["pipe", "pipe", "ignore"],
    });
  const holder = spawn("echo got; read line");
  expect(new TextDecoder().decode((await holder.stdout.getReader().read()).value)).toBe("got\n");
  const waiters = Array.from({ length: locks }, () => spawn("exit 0"));
  const isWaiting = ({ pid }: Bun.Subprocess): boolean =>
    readProc(`${pid}/wchan`) === "request_wait_answer";
  while (!waiters.every(isWaiting)) await new Promise(setImmediate);
  holder.kill();
  for (const { exited } of waiters) expect(await exited).toBe(0);
}

describe.skipIf(whyNoIoUring !== undefined)("io_uring", () => {
  let takeBack = (): void => {};
  beforeAll(() => void (takeBack = offerIoUring("Y")));
  afterAll(() => takeBack());

  test("is taken by itself, or not at all if it is not wanted", async () => {
    await withMount({}, (mount) => mount.said("with io_uring"));
    await withMount({ options: ["--io-uring", "off"] }, async (mount) => {
      await mount.said("FUSE 7.");
      expect(mount.output).not.toContain("with io_uring");
    });
  });

  test("is refused with what to do if it must be and the kernel does not offer it", async () => {
    const base = mkdtempSync("/tmp/fuse-backend-refused-");
    for (const name of ["src", "mnt"]) mkdirSync(`${base}/${name}`);
    const offerAgain = offerIoUring("N");
    try {
      const daemon = Bun.spawnSync([
        EXECUTABLE,
        "passthrough",
        ...ON,
        `${base}/src`,
        `${base}/mnt`,
      ]);
      expect(daemon.exitCode).toBe(1);
      expect(daemon.stderr.toString()).toMatch(
        /--io-uring on: the kernel does not offer it\. .*enable_uring/,
      );
      expect(readFileSync("/proc/self/mounts", "latin1")).not.toContain(base);
      await withMount({}, async (mount) => {
        await mount.said("FUSE 7.");
        expect(mount.output).not.toContain("with io_uring");
      });
    } finally {
      offerAgain();
      rmSync(base, { recursive: true });
    }
  });

  test("is served on the CPU that asks", async () => {
    await withMount({ options: ON }, async (mount) => {
      await mount.said("with io_uring");
      const { pid } = mount;
      const cpus = readdirSync(`/proc/${pid}/task`).map(
        (task) =>
          /^Cpus_allowed_list:\s*(\S+)$/m.exec(
            readFileSync(`/proc/${pid}/task/${task}/status`, "latin1"),
          )![1]!,
      );
      const own = /^Cpus_allowed_list:\s*(\S+)$/m.exec(
        readFileSync("/proc/self/status", "latin1"),
      )![1]!;
      expect(cpus).toContain(own.split(/[-,]/)[0]!);
    });
  });

  test("goes on while a hundred requests of one CPU wait for a lock, and answers them", async () => {
    await withMount({ options: ON }, async ({ mountpoint }) => {
      const script = `
        exec 9>"$1/f"; flock 9
        for n in $(seq 100); do (flock 8; echo got; flock -u 8) 8>"$1/f" & done
        for n in $(seq 20); do echo "$n" >"$1/other$n"; rm "$1/other$n"; done
        echo free; flock -u 9; wait`;
      const said = await run("taskset", "-c", "0", "sh", "-c", script, "sh", mountpoint);
      expect(said).toBe(`free\n${"got\n".repeat(100)}`);
    });
  });

  test("that is aborted ends the daemon, also while requests wait for a lock", async () => {
    await using mount = await Mount.start({ options: ON });
    const { mountpoint } = mount;
    const [holder, waiter] = [1, 2].map(() =>
      Bun.spawn(["flock", "-F", `${mountpoint}/f`, "sh", "-c", "echo got; exec sleep 1000"], {
        stdio: ["ignore", "pipe", "ignore"],
      }),
    );
    try {
      const first = await Promise.race(
        [holder!, waiter!].map((child) => child.stdout.getReader().read()),
      );
      expect(new TextDecoder().decode(first.value)).toBe("got\n");
      // It is in use, so this only aborts the connection.
      Bun.spawnSync(["umount", "--force", mountpoint]);
      await mount.ended();
      expect(mount.output).toContain("was aborted");
      const [one, other] = [holder!, waiter!].map((child) => child.exited);
      expect(await Promise.race([one, other])).not.toBe(0);
    } finally {
      for (const child of [holder!, waiter!]) child.kill("SIGKILL");
    }
  });

  test.each([
    { what: "what was there before", locks: 0 },
    { what: "a CPU where locks were waited for", locks: 20 },
  ])("gets a further worker where one is stuck, also for $what", async ({ locks }) => {
    const image = `/tmp/fuse-backend-frozen-${process.pid}`;
    const disk = `${image}.disk`;
    await run("truncate", "--size=64M", image);
    await run("mkfs.ext4", "-q", image);
    await run("mkdir", disk);
    await run("mount", "-o", "loop", image, disk);
    const children: Bun.Subprocess[] = [];
    try {
      await run("mkdir", `${disk}/dir`, `${disk}/other`);
      await withMount({ source: disk, options: ON }, async (mount) => {
        const onFirst = ["taskset", "-c", "0"];
        await run("ls", `${mount.mountpoint}/dir`);
        await waitForLocks(`${mount.mountpoint}/file`, locks, onFirst);
        await run("fsfreeze", "--freeze", disk);
        try {
          children.push(Bun.spawn([...onFirst, "mkdir", `${mount.mountpoint}/other/new`]));
          const script =
            'for n in 1 2 3 4; do (ls "$1/dir/$n" 2>&1 | grep -c "No such file") & done; wait';
          const looking = run(...onFirst, "sh", "-c", script, "sh", mount.mountpoint);
          // Who waits for a daemon's answer can't be killed.
          const looked = await Promise.race([looking, Bun.sleep(10_000)]);
          expect(looked).toBe("1\n1\n1\n1\n");
          expect(mount.output).toContain("one more is started");
        } finally {
          await run("fsfreeze", "--unfreeze", disk);
          await Promise.all(children.map((child) => child.exited));
        }
      });
    } finally {
      await run("umount", "--lazy", disk);
      await run("rm", "-r", image, disk);
    }
  });
});
