// What the daemon says of itself, in lines for people and for programs, and of every request.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { EXECUTABLE, whyNoMounts } from "../support-mount.ts";
import { Namespace } from "../support-namespace.ts";
import { Child, command, serve, User } from "./lifecycle-daemon.ts";

setDefaultTimeout(60_000);

describe.skipIf(whyNoMounts !== undefined)("the log", () => {
  test("says what is mounted where, and what was negotiated", async () => {
    await using space = await Namespace.create();
    const daemon = await serve(space, ["--workers=3", "--cache=always"]);
    expect(daemon.output).toMatch(
      /^fuse-backend: mounted (\S+)\/src on \1\/mnt: 3 workers, cache=always\nfuse-backend: FUSE 7\.\d+ with (.+, )*shared locks(, .+)*\n$/,
    );
    const other = await serveOnTop(space, ["--no-locks", "--no-xattr", "--workers=1"]);
    expect(other.output).toMatch(/ on \S*\/mnt2: 1 worker, cache=auto\n/);
    expect(other.output).not.toMatch(/shared locks|POSIX ACLs/);
  });

  test("in JSON is an object a line, with time, level, name and message", async () => {
    await using space = await Namespace.create();
    const daemon = await serve(space, ["--log-format=json"]);
    await User.start(space, 'cd "$mnt"; pause');
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    const lines = daemon.output.trimEnd().split("\n");
    const entries = lines.map((line) => JSON.parse(line) as Record<string, string>);
    expect(entries.map(({ level }) => level)).toEqual(["info", "info", "warn"]);
    for (const entry of entries) {
      expect(Object.keys(entry)).toEqual(["time", "level", "name", "message"]);
      expect(entry["name"]).toBe("fuse-backend");
      expect(Math.abs(Date.now() - Date.parse(entry["time"]!))).toBeLessThan(60_000);
    }
    const { base } = space;
    expect(entries[0]!["message"]).toStartWith(`mounted ${base}/src on ${base}/mnt: `);
    expect(entries[1]!["message"]).toMatch(/^FUSE 7\.\d+ with /);
    expect(entries[2]!["message"]).toContain("is in use; it is unmounted lazily");
  });

  test.each([
    ["error", /^$/],
    ["warn", /^fuse-backend: warn: SIGTERM: \S+ is in use; [^\n]*\n$/],
    ["info", /^fuse-backend: mounted .*\nfuse-backend: FUSE 7.*\nfuse-backend: warn: .*\n$/],
  ])("has only lines from %s on", async (level, expected) => {
    await using space = await Namespace.create();
    const pidFile = `${space.base}/pid`;
    const options = [`--log-level=${level}`, `--pid-file=${pidFile}`];
    const daemon = new Child(space.start(command(space, ...options)));
    while (!existsSync(pidFile)) await new Promise(setImmediate);
    await User.start(space, 'cd "$mnt"; pause');
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toMatch(expected);
  });

  test("tells a fallback once, whichever workers it happens to", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, "content");
    await serve(space);
    // The kernel does not stack FUSE passthrough on itself.
    const daemon = await serveOnTop(space, ["--workers=4"]);
    const script = 'for i in $(seq 64); do cat "$1/mnt2/file" & done; wait';
    const run = space.run(["sh", "-c", script, "sh", space.base]);
    expect(run.stdout).toBe("content".repeat(64));
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    const lines = daemon.output.split("\n");
    expect(lines.filter((line) => line.includes("by the daemon, not by the kernel"))).toHaveLength(
      1,
    );
  });

  test("with --debug has every request and reply by name", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/some file`, "content");
    const daemon = await serve(space, ["--debug", "--no-kernel-passthrough"]);
    const script =
      'cat "$1/mnt/some file"; ls "$1/mnt/none"; mkdir -m 700 "$1/mnt/dir"; ls "$1/mnt"';
    expect(space.run(["sh", "-c", script, "sh", space.base]).stdout).toBe(
      "contentdir\nsome file\n",
    );
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    for (const expected of [
      /> INIT unique=\d+ .*FUSE_/,
      /> LOOKUP unique=\d+ nodeid=1 (uid=0 gid=0 )?pid=\d+ "some file"\n/,
      /< LOOKUP unique=\d+ nodeid=2 .* size=7 .* mode=0100644 /,
      /> LOOKUP unique=\d+ .*"none"\n/,
      /< LOOKUP unique=\d+ ENOENT\n/,
      /> OPEN unique=\d+ nodeid=2 .*flags=O_RDONLY/,
      /> READ unique=\d+ nodeid=2 .*offset=0/,
      /< READ unique=\d+ 7 bytes\n/,
      /> MKDIR unique=\d+ nodeid=1 .*mode=0700 .*"dir"/,
      /< READDIRPLUS unique=\d+ 4 entries, .*"dir"/,
      /> RELEASE unique=/,
    ])
      expect(daemon.output).toMatch(expected);
    expectPairs(daemon.output);
  });

  test("with --debug and JSON is still an object a line", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/\u001b[31m "name" \n`, "");
    const daemon = await serve(space, ["--debug", "--log-format=json"]);
    expect(space.run(["ls", "-l", `${space.base}/mnt`]).exitCode).toBe(0);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    const messages = daemon.output
      .trimEnd()
      .split("\n")
      .map((line) => (JSON.parse(line) as { message: string }).message);
    const lookup = messages.find((message) => message.includes("name"));
    expect(lookup).toContain(String.raw`"\u001b[31m \"name\" \n"`);
  });

  /** Serves mnt at mnt2. */
  async function serveOnTop(space: Namespace, options: readonly string[]): Promise<Child> {
    const places = [`${space.base}/mnt`, `${space.base}/mnt2`];
    const daemon = new Child(space.start([EXECUTABLE, "passthrough", ...options, ...places]));
    await daemon.said(/FUSE 7\.\d+ with/);
    return daemon;
  }

  /** That every reply follows a request of the same name and number. */
  function expectPairs(output: string): void {
    const open = new Set<string>();
    let replies = 0;
    for (const [, direction, what] of output.matchAll(/([<>]) ([A-Z_]+ unique=\d+)/g)) {
      if (direction === ">") open.add(what!);
      else expect(open.delete(what!)).toBe(true);
      replies += direction === "<" ? 1 : 0;
    }
    expect(replies).toBeGreaterThan(10);
    expect([...open].filter((what) => !/^(BATCH_)?FORGET|^INTERRUPT/.test(what))).toEqual([]);
  }
});
