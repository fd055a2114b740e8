// The daemon when something in it goes wrong: the mount never hangs, and everybody is told. An
// executable is built for it that has bugs.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { offerIoUring, whyNoIoUring, whyNoMounts } from "../support-mount.ts";
import { Namespace, type How } from "../support-namespace.ts";
import { Child, procText, User } from "./lifecycle-daemon.ts";
import { NotifySocket } from "./lifecycle-socket.ts";

setDefaultTimeout(60_000);

let base = "";
beforeAll(async () => {
  base = await mkdtemp("/tmp/fuse-backend-test-");
  await chmod(base, 0o755);
  await Bun.build({
    entrypoints: ["main.ts", "worker-main.ts"].map((file) =>
      resolve(import.meta.dir, "faulty", file),
    ),
    splitting: true,
    compile: { outfile: `${base}/faulty`, autoloadBunfig: false, autoloadDotenv: false },
  });
});
afterAll(() => rm(base, { recursive: true, force: true }));

const CASES = [
  { ioUring: "off", whyNot: whyNoMounts },
  { ioUring: "on", whyNot: whyNoIoUring },
].filter(({ whyNot }) => whyNot === undefined);

describe.each(CASES)("a daemon with a bug, io_uring $ioUring", ({ ioUring }) => {
  let takeBack = (): void => {};
  beforeAll(() => {
    if (ioUring === "on") takeBack = offerIoUring("Y");
  });
  afterAll(() => takeBack());

  async function serveFaulty(
    space: Namespace,
    options: readonly string[],
    how: How = {},
  ): Promise<Child> {
    const places = [`${space.base}/src`, `${space.base}/mnt`];
    const line = [`${base}/faulty`, "passthrough", `--io-uring=${ioUring}`, ...options, ...places];
    const daemon = new Child(space.start(line, how));
    await daemon.said(/FUSE 7\.\d+ with/);
    return daemon;
  }

  /**
   * Runs a shell script that uses $mnt; never waits for it in a way that a hanging mount could
   * stop.
   */
  function use(space: Namespace, script: string): Child {
    return new Child(space.start(["sh", "-c", `mnt=$1/mnt; ${script}`, "sh", space.base]));
  }

  test.each([[1], [3]])("in a worker ends with the reason and unmounts: %d workers", async (n) => {
    await using space = await Namespace.create();
    using socket = new NotifySocket(`${space.base}/notify`);
    const how = { env: { NOTIFY_SOCKET: socket.path } };
    const daemon = await serveFaulty(space, [`--workers=${n}`], how);
    const caller = use(space, 'stat "$mnt/fault-assertion" 2>&1');
    expect(await daemon.ended()).toBe(1);
    expect(daemon.output).toMatch(
      /error: a worker failed, so \S*\/mnt is unmounted; AssertionError: the invariant of the test\n/,
    );
    expect(await caller.ended()).toBe(1);
    expect(caller.output).toMatch(/not connected|connection abort/);
    expect(space.mounts()).toEqual([]);
    expect(await socket.receive()).toStartWith("READY=1");
    expect(await socket.receive()).toBe("STOPPING=1");
  });

  test.each([[1], [3]])("ends also while the mount is in use: %d workers", async (workers) => {
    await using space = await Namespace.create();
    const options = [`--workers=${workers}`, "--writeback", "--cache=always"];
    const daemon = await serveFaulty(space, options);
    const user = await User.start(space, 'exec 3>"$mnt/file"; cd "$mnt"; pause; ls 2>&1');
    use(space, 'stat "$mnt/fault-assertion"');
    expect(await daemon.ended()).toBe(1);
    expect(daemon.output).toContain("AssertionError: the invariant of the test\n");
    expect(space.mounts()).toEqual([]);
    expect(await user.resume()).toMatch(/not connected|connection abort/);
  });

  test("of a user ends too, with the mount", async () => {
    await using space = await Namespace.create();
    const daemon = await serveFaulty(space, ["--workers=1"], { asUser: true });
    const line = ["sh", "-c", 'cd "$1/mnt"; stat fault-assertion 2>&1', "sh", space.base];
    const caller = new Child(space.start(line, { asUser: true }));
    expect(await daemon.ended()).toBe(1);
    expect(await caller.ended()).toBe(1);
    expect(caller.output).toMatch(/not connected|connection abort/);
    expect(space.mounts()).toEqual([]);
  });

  test("in the background ends too", async () => {
    await using space = await Namespace.create();
    const places = [`${space.base}/src`, `${space.base}/mnt`];
    const options = ["--background", `--pid-file=${space.base}/pid`, `--io-uring=${ioUring}`];
    const run = space.run([`${base}/faulty`, "passthrough", ...options, ...places]);
    expect(run.exitCode).toBe(0);
    expect(await use(space, 'stat "$mnt/fault-assertion"').ended()).toBe(1);
    await space.waitForMounts(0);
  });

  test("that is an ordinary error costs the caller an EIO, and is logged", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, "content");
    const daemon = await serveFaulty(space, ["--workers=1"]);
    const caller = use(space, 'stat "$mnt/fault-error" 2>&1; cat "$mnt/file"');
    expect(await caller.ended()).toBe(0);
    expect(caller.output).toMatch(/Input\/output error\ncontent$/);
    expect(daemon.output).toMatch(
      /\nfuse-backend: error: LOOKUP failed by a bug .*: TypeError: the bug of the test\n {4}at /,
    );
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
  });

  test("that keeps a worker from answering keeps no signal from ending it", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, "content");
    const daemon = await serveFaulty(space, ["--workers=2"]);
    const caller = use(space, 'echo start; stat "$mnt/fault-hang" 2>&1');
    await caller.said("start");
    // That there is an answer shows that the other worker has nothing to do with it.
    expect(space.run(["cat", `${space.base}/mnt/file`]).stdout).toBe("content");
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(await caller.ended()).toBe(1);
    expect(caller.output).toMatch(/not connected|connection abort/);
    expect(space.mounts()).toEqual([]);
  });

  test.each([["SIGTERM"], ["SIGKILL"]] as const)(
    "that keeps data from being written back: a second signal ends it, %s",
    async (second) => {
      await using space = await Namespace.create();
      using socket = new NotifySocket(`${space.base}/notify`);
      const how = { env: { NOTIFY_SOCKET: socket.path } };
      const options = ["--workers=2", "--writeback", "--cache=always"];
      const daemon = await serveFaulty(space, options, how);
      expect(await socket.receive()).toStartWith("READY=1");
      const writer = use(
        space,
        `exec python3 -c '
import os, sys
fd = os.open(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT)
os.write(fd, b"fault-hang" + b" " * 100)
print("written", flush=True)
os.close(fd)' "$mnt"`,
      );
      await writer.said("written");
      daemon.signal("SIGTERM");
      expect(await socket.receive()).toBe("STOPPING=1");
      await waitForChild(daemon.pid, "sync");
      expect(space.mounts()).toHaveLength(1);
      // Signals in quick succession are one.
      const sending = setInterval(() => daemon.signal(second), 20);
      expect(await daemon.ended()).toBe(second === "SIGKILL" ? "SIGKILL" : 1);
      clearInterval(sending);
      await writer.ended();
      if (second === "SIGKILL") return;
      expect(daemon.output).toContain("SIGTERM again: ending without waiting");
      expect(space.mounts()).toEqual([]);
    },
  );

  async function waitForChild(pid: number, name: string): Promise<void> {
    const names = (): string[] =>
      procText(`${pid}/task/${pid}/children`)
        .split(" ")
        .map((child) => procText(`${child}/comm`).trim());
    while (!names().includes(name)) await new Promise(setImmediate);
  }
});
