// Acting as the caller: what is created is the caller's, and afterwards the thread is itself again.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { CAP_FSETID } from "../src/abi-linux.ts";
import { EACCES, EOVERFLOW } from "../src/errno.ts";
import { Credentials } from "../src/passthrough-credentials.ts";
import { getegid, geteuid, umask } from "../src/syscall.ts";
import { runScenario } from "./credentials-worker.ts";

// On a loaded machine everything takes its time.
setDefaultTimeout(60_000);

const directory = mkdtempSync("/tmp/fuse-backend-credentials-"); // 0700, of root
afterAll(() => rmSync(directory, { recursive: true }));

const isRoot = geteuid() === 0;

describe.skipIf(!isRoot)("as root", () => {
  test("files belong to the caller, have its umask, and may lie where only root may go", async () => {
    const root = "0:0";
    const created = (during: string): unknown => ({ assumed: 0, during, after: root });
    expect(await runScenario("create", directory)).toEqual([
      created("61001:61002 644"),
      created("61003:0 660"),
      created("0:61002 666"),
      created("0:0 600"),
      created("61001:61002 666"),
      { assumed: -EOVERFLOW, during: undefined, after: root },
    ]);
  });

  test("the supplementary groups decide where the caller would lose root's capabilities", async () => {
    chmodSync(directory, 0o755);
    mkdirSync(`${directory}/shared`);
    chownSync(`${directory}/shared`, 0, 61_100);
    chmodSync(`${directory}/shared`, 0o770);
    const after = "0:0";
    expect(await runScenario("withoutCapabilities", directory)).toEqual([
      { assumed: 0, during: -EACCES, after },
      { assumed: 0, during: "61001:61001 666", after },
      { assumed: 0, during: -EACCES, after },
      { assumed: 0, during: "0:0 666", after },
    ]);
  });

  test("other threads stay who they are, with their own umask", async () => {
    const mask = umask(0o022);
    let thread = "";
    const seen = await runScenario("apart", directory, (tid) => {
      thread = readFileSync(`/proc/self/task/${tid}/status`, "latin1");
      expect([geteuid(), getegid()]).toEqual([0, 0]);
      expect(umask(0o022)).toBe(0o022);
    });
    umask(mask);
    expect(/^Uid:\s*(.*)/m.exec(thread)?.[1]?.split("\t")).toEqual(["0", "61001", "0", "61001"]);
    expect(seen).toEqual({ assumed: 0, during: "61001:61001 27", after: "0:0" });
  });
});

test.skipIf(!isRoot)("a user who may become others is that user again afterwards", () => {
  const program = `
    const { Credentials } = await import("${import.meta.dir}/../src/passthrough-credentials.ts");
    const { Context } = await import("${import.meta.dir}/../src/filesystem.ts");
    const { getegid, geteuid } = await import("${import.meta.dir}/../src/syscall.ts");
    const credentials = new Credentials();
    credentials.prepare();
    const seen = [];
    for (const [uid, gid] of [[61001, 61002], [0, 0], [65534, 65533]]) {
      const context = Object.assign(new Context(), { uid, gid });
      seen.push(credentials.assume(context, 0), geteuid(), getegid());
      credentials.restore(context);
      seen.push(geteuid(), getegid());
    }
    console.log(seen.join(" "));
  `;
  const capabilities = "+setuid,+setgid,+setpcap,+dac_override";
  const user = ["setpriv", "--reuid=65534", "--regid=65533", "--clear-groups"];
  const may = [`--inh-caps=${capabilities}`, `--ambient-caps=${capabilities}`];
  const { stdout, stderr } = Bun.spawnSync([...user, ...may, process.execPath, "-e", program]);
  expect([stdout.toString().trim(), stderr.toString()]).toEqual([
    "0 61001 61002 65534 65533 0 0 0 65534 65533 0 65534 65533 65534 65533",
    "",
  ]);
});

describe("what a caller may", () => {
  const credentials = new Credentials();
  const own = getegid();

  test("is read from its process", async () => {
    expect(credentials.callerHas(process.pid, CAP_FSETID)).toBe(isRoot);
    expect(credentials.callerIsIn(process.pid, own)).toBe(true);
    expect(credentials.callerIsIn(process.pid, own + 54_321)).toBe(false);
    const user = ["setpriv", "--reuid=65534", "--regid=61001", "--groups=61002,61003", "cat"];
    await using child = Bun.spawn(isRoot ? user : ["cat"], { stdio: ["pipe", "pipe", "inherit"] });
    child.stdin.write("x");
    void child.stdin.flush();
    for await (const _ of child.stdout) break; // It is who it will be.
    expect(credentials.callerHas(child.pid, CAP_FSETID)).toBe(false);
    const groups = [61_001, 61_002, 61_003, 6100, 61_004].filter((gid) =>
      credentials.callerIsIn(child.pid, gid),
    );
    expect(groups).toEqual(isRoot ? [61_001, 61_002, 61_003] : []);
  });

  test("is nothing for processes that can't be seen", () => {
    for (const pid of [0, 2 ** 30]) {
      expect(credentials.callerHas(pid, CAP_FSETID)).toBe(false);
      expect(credentials.callerIsIn(pid, own)).toBe(false);
    }
  });
});
