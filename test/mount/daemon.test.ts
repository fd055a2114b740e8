// The life of a daemon that root has started: how it begins and how it ends, with nothing lost and
// nothing left behind, whoever ends it.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readProc } from "../../src/proc.ts";
import { EXECUTABLE, whyNoMounts } from "../support-mount.ts";
import { Namespace } from "../support-namespace.ts";
import { abort, Child, command, processEnd, serve, User, saidOfDead } from "./lifecycle-daemon.ts";
import { NotifySocket } from "./lifecycle-socket.ts";

setDefaultTimeout(60_000);

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** The signals do what they do by default, however the tests were started. */
const DEFAULT_SIGNALS = ["env", "--default-signal=INT,TERM,HUP"];

/** A daemon that is not in the namespace itself. */
function elsewhere(line: readonly string[]): Child {
  return new Child(Bun.spawn([...line], { stdio: ["ignore", "pipe", "pipe"] }));
}

describe.skipIf(whyNoMounts !== undefined)("a signal", () => {
  test.each(SIGNALS)("%s unmounts, and the exit code is 0", async (signal) => {
    await using space = await Namespace.create();
    const daemon = await serve(space, [], { prefix: DEFAULT_SIGNALS });
    daemon.signal(signal);
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toEndWith(`${signal}: unmounted ${space.base}/mnt\n`);
    expect(space.mounts()).toEqual([]);
  });

  test("unmounts where the program runs from its sources, too", async () => {
    await using space = await Namespace.create();
    const program = [process.execPath, join(import.meta.dir, "../../src/main.ts")];
    const [, ...words] = command(space);
    const daemon = new Child(space.start([...DEFAULT_SIGNALS, ...program, ...words]));
    await daemon.said(/FUSE 7\.\d+ with/);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(space.mounts()).toEqual([]);
  });

  test("that was ignored at the start stays so, as nohup(1) wants it", async () => {
    await using space = await Namespace.create();
    const daemon = await serve(space, [], { prefix: ["env", "--ignore-signal=HUP"] });
    daemon.signal("SIGHUP");
    expect(readFileSync(`/proc/${daemon.pid}/status`, "utf8")).toMatch(/^SigIgn:.*1$/m);
    expect(space.run(["ls", `${space.base}/mnt`]).exitCode).toBe(0);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).not.toContain("SIGHUP");
  });

  test("that comes with others at once, as when a terminal closes, counts once", async () => {
    await using space = await Namespace.create();
    const daemon = await serve(space, [], { prefix: DEFAULT_SIGNALS });
    for (const signal of [...SIGNALS, ...SIGNALS]) daemon.signal(signal);
    expect(await daemon.ended()).toBe(0);
    expect(space.mounts()).toEqual([]);
  });

  test("at the moment of mounting leaves no mount", async () => {
    await using space = await Namespace.create();
    for (const signal of SIGNALS) {
      const daemon = new Child(space.start([...DEFAULT_SIGNALS, ...command(space)]));
      await space.waitForMounts(1);
      daemon.signal(signal);
      expect(await daemon.ended()).toBe(0);
      expect(space.mounts()).toEqual([]);
    }
  });
});

describe.skipIf(whyNoMounts !== undefined)("a mount in use", () => {
  const SIZE = 3_000_000;

  test.each([
    ["as a working directory", 'cd "$mnt/dir"; pause; ls 2>&1'],
    ["by an open file", 'exec 3<"$mnt/file"; pause; cat <&3 2>&1'],
  ])("%s is unmounted lazily, which is said, with exit code 0", async (_, script) => {
    await using space = await Namespace.create();
    await mkdir(`${space.base}/src/dir`);
    await writeFile(`${space.base}/src/file`, "content");
    const daemon = await serve(space, ["--no-kernel-passthrough"]);
    const user = await User.start(space, script);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toMatch(
      /\nfuse-backend: warn: SIGTERM: \S*\/mnt is in use; it is unmounted lazily, .*\n$/,
    );
    expect(space.mounts()).toEqual([]);
    expect(await user.resume()).toMatch(/not connected|connection abort/);
  });

  // A program that has not closed the file: closing hands over what was written.
  const python = (work: string): string => `exec python3 -c '
import mmap, os, sys
fd = os.open(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT)
${work}
print("paused", flush=True)
open(sys.argv[2]).read()' "$mnt" "$fifo"`;
  const WRITING = python(`os.write(fd, b"x" * ${SIZE})`);
  const MAPPING = python(`os.truncate(fd, ${SIZE})
memory = mmap.mmap(fd, ${SIZE})
memory[:] = b"x" * ${SIZE}`);
  /** Of the file behind the mount. */
  const isComplete = (space: Namespace): boolean =>
    readFileSync(`${space.base}/src/file`).equals(Buffer.alloc(SIZE, "x"));
  const cached = ["--cache=always", "--writeback"];
  test.each([
    ["written", cached, WRITING],
    ["mapped with --writeback", cached, MAPPING],
    ["mapped without", ["--no-kernel-passthrough"], MAPPING],
    // The mount can be unmounted then, and goes on elsewhere.
    [
      "written at a bind mount",
      cached,
      `mkdir "$1/bound"; mount --bind "$mnt" "$1/bound"; mnt=$1/bound; ${WRITING}`,
    ],
    [
      "written in a copy of the namespace",
      cached,
      WRITING.replace("exec", "exec unshare --mount --propagation private"),
    ],
  ])("loses nothing that was %s before", async (_, options, script) => {
    await using space = await Namespace.create();
    const daemon = await serve(space, options);
    await User.start(space, script);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(isComplete(space)).toBe(true);
  });

  test("in another namespace loses nothing that was written before", async () => {
    await using space = await Namespace.create();
    const options = [...cached, `--mount-namespace=${space.pid}`];
    const daemon = elsewhere(command(space, ...options));
    await daemon.said("FUSE 7");
    await User.start(space, WRITING);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toContain("is in use; it is unmounted lazily");
    expect(space.mounts()).toEqual([]);
    expect(isComplete(space)).toBe(true);
  });
});

describe.skipIf(whyNoMounts !== undefined)("a mount that others end", () => {
  test("lazily is served until its last user is gone", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, "content");
    const daemon = await serve(space);
    const user = await User.start(space, 'cd "$mnt"; pause; cat file');
    expect(space.run(["umount", "-l", `${space.base}/mnt`]).exitCode).toBe(0);
    expect(await user.resume()).toBe("content");
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toEndWith(`${space.base}/mnt was unmounted\n`);
  });

  test("by force ends it, in use or not", async () => {
    await using space = await Namespace.create();
    const idle = await serve(space);
    expect(space.run(["umount", "-f", `${space.base}/mnt`]).exitCode).toBe(0);
    expect(await idle.ended()).toBe(0);
    const busy = await serve(space);
    await User.start(space, 'cd "$mnt"; pause');
    expect(space.run(["umount", "-f", `${space.base}/mnt`]).stderr).toContain("busy");
    expect(await busy.ended()).toBe(0);
    expect(space.mounts()).toEqual([]);
  });

  test("by aborting the connection is not left behind dead", async () => {
    await using space = await Namespace.create();
    const daemon = await serve(space);
    const user = await User.start(space, 'cd "$mnt"; pause; ls 2>&1');
    abort(space);
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toMatch(/warn: the connection of \S*\/mnt was aborted; unmounted it\n$/);
    expect(space.mounts()).toEqual([]);
    expect(await user.resume()).toMatch(/not connected|connection abort/);
  });

  test("in another namespace by aborting the connection is not left behind dead", async () => {
    await using space = await Namespace.create();
    const daemon = elsewhere(command(space, `--mount-namespace=${space.pid}`));
    await daemon.said("FUSE 7");
    abort(space);
    expect(await daemon.ended()).toBe(0);
    expect(space.mounts()).toEqual([]);
  });

  test("and replace by their own is not taken for the daemon's", async () => {
    await using space = await Namespace.create();
    const first = await serve(space);
    first.signal("SIGSTOP");
    // -c: it does not look at the mount, which nobody would answer.
    expect(space.run(["umount", "-c", "-i", `${space.base}/mnt`]).exitCode).toBe(0);
    await serve(space, ["-o", "fsname=second"]);
    first.signal("SIGCONT");
    expect(await first.ended()).toBe(0);
    expect(space.mounts()).toMatchObject([{ source: "second" }]);
    expect(space.run(["ls", `${space.base}/mnt`]).exitCode).toBe(0);
  });

  test("by mounting over it stays, and so does what is over it", async () => {
    await using space = await Namespace.create();
    const below = await serve(space);
    const above = await serve(space, ["-o", "fsname=above"]);
    below.signal("SIGTERM");
    expect(await below.ended()).toBe(1);
    expect(below.output).toMatch(
      /\nfuse-backend: cannot unmount \S*\/mnt: above \(fuse.fuse-backend\) is mounted over it; .*\n$/,
    );
    expect(space.run(["ls", `${space.base}/mnt`]).exitCode).toBe(0);
    above.signal("SIGTERM");
    expect(await above.ended()).toBe(0);
  });
});

describe.skipIf(whyNoMounts !== undefined)("a mount whose daemon was killed", () => {
  test("is replaced also while it is in use, by option and by -o", async () => {
    await using space = await Namespace.create();
    for (const options of [["--replace"], ["-o", "replace"]]) {
      const daemon = await serve(space, [...options, "-o", "allow_other"]);
      await User.start(space, 'cd "$mnt"; pause');
      daemon.signal("SIGKILL");
      expect(await daemon.ended()).toBe("SIGKILL");
      expect(saidOfDead(space)).toContain("not connected");
    }
    const daemon = await serve(space, ["--replace"]);
    expect(space.mounts()).toHaveLength(1);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(space.mounts()).toEqual([]);
  });

  test("is no source", async () => {
    await using space = await Namespace.create();
    const daemon = await serve(space);
    daemon.signal("SIGKILL");
    await daemon.ended();
    const line = [EXECUTABLE, "passthrough", `${space.base}/mnt`, `${space.base}/other`];
    const refused = space.run(line);
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toMatch(
      /^fuse-backend: cannot serve \S*\/mnt: it is a dead FUSE mount .*umount -l \S*\/mnt\n$/,
    );
  });

  test("is told from one that lives, which --replace leaves alone", async () => {
    await using space = await Namespace.create();
    const daemon = await serve(space);
    const refused = space.run(command(space, "--replace"));
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toContain("is already mounted there");
    expect(daemon.hasEnded).toBe(false);
    expect(space.mounts()).toHaveLength(1);
  });

  test("has no watcher any more if the daemon ended properly", async () => {
    await using space = await Namespace.create();
    const daemon = await serve(space, ["-o", "auto_unmount"]);
    const children = readProc(`${daemon.pid}/task/${daemon.pid}/children`);
    const [watcher] = children.trim().split(" ");
    expect(readProc(`${watcher}/cmdline`)).toStartWith("/bin/sh");
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    await processEnd(Number(watcher));
    expect(space.mounts()).toEqual([]);
  });
});

describe.skipIf(whyNoMounts !== undefined)("a start", () => {
  test("makes the directories that are missing", async () => {
    await using space = await Namespace.create();
    const { base } = space;
    const places = [`${base}/new/src/deep`, `${base}/new/mnt/deep`];
    const line = [EXECUTABLE, "passthrough", "--background", ...places];
    expect(space.run(["sh", "-c", 'umask 077; exec "$@"', "sh", ...line]).exitCode).toBe(0);
    expect(space.run(["touch", `${places[1]}/file`]).exitCode).toBe(0);
    expect(readdirSync(places[0]!)).toEqual(["file"]);
    expect(statSync(`${base}/new`).mode & 0o777).toBe(0o700);
  });

  test.each([
    ["the mount point in the source", "src", "src/mnt"],
    ["the source in the mount point", "mnt/src", "mnt"],
    ["the source itself", "src", "src"],
    ["a way into the source", "src", "link/mnt"],
  ])("is refused with %s", async (_, source, mountpoint) => {
    await using space = await Namespace.create();
    await symlink("src", `${space.base}/link`);
    const places = [`${space.base}/${source}`, `${space.base}/${mountpoint}`];
    const refused = space.run([EXECUTABLE, "passthrough", ...places]);
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toMatch(
      /^fuse-backend: cannot mount .* (lies inside|is the same directory as) .*\n$/,
    );
    expect(readdirSync(`${space.base}/src`)).toEqual([]);
    expect(readdirSync(`${space.base}/mnt`)).toEqual([]);
  });

  test.each([
    ["a mount point that is a file", [], "src", "file", /it is not a directory/],
    ["a mount point below a file", [], "src", "file/mnt", /not a directory \(ENOTDIR\)/],
    ["a mount point that can't be made", [], "src", "../../proc/none/mnt", /cannot create/],
    ["a source below a file", [], "file/src", "mnt", /not a directory \(ENOTDIR\)/],
    ["a pid file in no directory", ["--pid-file=none/pid"], "src", "mnt", /cannot write the pid/],
    ["a pid file that is a directory", ["--pid-file=src"], "src", "mnt", /cannot write the pid/],
    ["no process to find the namespace of", ["--mount-namespace=4194304"], "src", "mnt", /no such/],
    ["a wrong command line", ["--cache=none"], "src", "mnt", /--cache must be one of/],
  ])("fails with %s, in the background too", async (_, options, source, mountpoint, reason) => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/file`, "");
    const places = [source, mountpoint].map((path) => `${space.base}/${path}`);
    for (const background of [[], ["--background"]]) {
      const line = [EXECUTABLE, "passthrough", ...background, ...options, ...places];
      const failed = space.run(["env", "-C", space.base, ...line]);
      expect(failed.exitCode).toBe(options[0] === "--cache=none" ? 2 : 1);
      const said = failed.stderr.trimEnd().split("\n");
      expect(said.filter((text) => reason.test(text))).toHaveLength(1);
      expect(said.every((text) => text.startsWith("fuse-backend: "))).toBe(true);
      expect(space.mounts()).toEqual([]);
    }
  });

  test("takes relative paths from where it was started, in the background too", async () => {
    await using space = await Namespace.create();
    const options = ["--background", "--pid-file=pid", "./src/../src", "mnt/"];
    const run = space.run(["env", "-C", space.base, EXECUTABLE, "passthrough", ...options]);
    expect(run).toMatchObject({ exitCode: 0, stdout: "" });
    expect(space.mounts()).toMatchObject([
      { source: `${space.base}/src`, mountpoint: `${space.base}/mnt` },
    ]);
    expect(readFileSync(`${space.base}/pid`, "utf8")).toMatch(/^\d+\n$/);
  });

  test("in the foreground replaces a stale pid file, and removes it at the end", async () => {
    await using space = await Namespace.create();
    const file = `${space.base}/pid`;
    await writeFile(file, "1\n");
    const daemon = await serve(space, [`--pid-file=${file}`]);
    // It is written after the line that says that the daemon has mounted.
    while (readFileSync(file, "utf8") === "1\n") await new Promise(setImmediate);
    expect(readFileSync(file, "utf8")).toBe(`${daemon.pid}\n`);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(existsSync(file)).toBe(false);
  });

  test("works with a umask, which the files do not get", async () => {
    await using space = await Namespace.create();
    const shell = ["sh", "-c", 'umask 077; exec "$@"', "sh"];
    await serve(space, [], { prefix: shell });
    const script = 'umask 0; mkdir "$1/mnt/dir"; touch "$1/mnt/file"';
    expect(space.run(["sh", "-c", script, "sh", space.base]).exitCode).toBe(0);
    expect(statSync(`${space.base}/src/dir`).mode & 0o777).toBe(0o777);
    expect(statSync(`${space.base}/src/file`).mode & 0o777).toBe(0o666);
  });

  test("works without standard input, output and error", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, "content");
    const shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"];
    const daemon = new Child(space.start([...shell, ...command(space, "--debug")]));
    await space.waitForMounts(1);
    expect(space.run(["cat", `${space.base}/mnt/file`]).stdout).toBe("content");
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toBe("");
  });

  test("goes on when nobody reads what it says any more", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, "content");
    const reader = 'exec "$@" 2>&1 | { read -r line; echo "$line"; }';
    const line = ["sh", "-c", reader, "sh", ...command(space, "--debug")];
    const shell = new Child(space.start(line));
    await shell.said("\n");
    await space.waitForMounts(1);
    for (let round = 0; round < 3; round++)
      expect(space.run(["cat", `${space.base}/mnt/file`]).stdout).toBe("content");
    expect(space.run(["umount", `${space.base}/mnt`]).exitCode).toBe(0);
    await shell.ended();
  });
});

describe.skipIf(whyNoMounts !== undefined)("the service manager", () => {
  test("is told when the mount answers, and when it stops", async () => {
    await using space = await Namespace.create();
    using socket = new NotifySocket(`${space.base}/notify`);
    const daemon = await serve(space, [], { env: { NOTIFY_SOCKET: socket.path } });
    expect(await socket.receive()).toBe(`READY=1\nMAINPID=${daemon.pid}`);
    expect(socket.hasMessage()).toBe(false);
    daemon.signal("SIGTERM");
    expect(await socket.receive()).toBe("STOPPING=1");
    expect(await daemon.ended()).toBe(0);
    expect(socket.hasMessage()).toBe(false);
  });

  test("is told of the process in the background, before the first one returns", async () => {
    await using space = await Namespace.create();
    using socket = new NotifySocket(`${space.base}/notify`);
    const options = ["--background", `--pid-file=${space.base}/pid`];
    const run = space.run(command(space, ...options), { env: { NOTIFY_SOCKET: socket.path } });
    expect(run.exitCode).toBe(0);
    expect(socket.hasMessage()).toBe(true);
    const pid = readFileSync(`${space.base}/pid`, "utf8").trim();
    expect(await socket.receive()).toBe(`READY=1\nMAINPID=${pid}`);
    expect(space.run(["umount", `${space.base}/mnt`]).exitCode).toBe(0);
    expect(await socket.receive()).toBe("STOPPING=1");
  });

  test("is not told of a start that failed", async () => {
    await using space = await Namespace.create();
    using socket = new NotifySocket(`${space.base}/notify`);
    const line = command(space, `--pid-file=${space.base}/src`);
    const failed = space.run(line, { env: { NOTIFY_SOCKET: socket.path } });
    expect(failed.exitCode).toBe(1);
    expect(await socket.receive()).toBe("STOPPING=1");
    expect(socket.hasMessage()).toBe(false);
  });
});
