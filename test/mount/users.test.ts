// The daemon of a user who is not root, through fusermount3: nothing that the user may not do, and
// everything else as for root.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { chmod, chown, mkdir, writeFile } from "node:fs/promises";
import { EXECUTABLE, whyNoMounts } from "../support-mount.ts";
import { Namespace, USER, type Run } from "../support-namespace.ts";
import {
  abort,
  command,
  processEnd,
  serve,
  User,
  type Child,
  saidOfDead,
} from "./lifecycle-daemon.ts";

setDefaultTimeout(60_000);

const NOBODY = { asUser: true };

function serveAsUser(
  space: Namespace,
  options: readonly string[] = [],
  prefix: readonly string[] = [],
): Promise<Child> {
  return serve(space, options, { asUser: true, prefix });
}

/** Runs a shell script that uses $src and $mnt. */
function use(space: Namespace, script: string, asUser = true): Run {
  const line = ["sh", "-c", `src=$1/src mnt=$1/mnt; ${script}`, "sh", space.base];
  return space.run(line, { asUser });
}

/** What it writes; it must succeed. */
function output(space: Namespace, script: string): string {
  const { exitCode, stdout, stderr } = use(space, script);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
  return stdout;
}

async function executable(path: string, script: string): Promise<string> {
  await writeFile(path, `#!/bin/sh\n${script}\n`);
  await chmod(path, 0o755);
  return path;
}

describe.skipIf(whyNoMounts !== undefined)("a user's mount", () => {
  test("is read and written", async () => {
    await using space = await Namespace.create();
    await serveAsUser(space);
    const script = `
      cd "$mnt"
      mkdir -p a/b; cp -r /etc/fstab a/b/fstab; cmp /etc/fstab a/b/fstab
      head -c 3000000 /dev/urandom >large; cmp large "$src/large"
      echo more >>large; truncate -s 100 large; stat -c %s "$src/large"
      ln -s a/b link; ln a/b/fstab hard; mv hard moved; mkfifo fifo
      stat -c %h "$src/moved"; readlink "$src/link"; cmp link/fstab moved
      chmod 640 large; touch -d @1000 large; stat -c "%a %Y %U" "$src/large"
      rm -r a; ls`;
    expect(output(space, script)).toBe("100\n2\na/b\n640 1000 nobody\nfifo\nlarge\nlink\nmoved\n");
    expect(statSync(`${space.base}/src/large`).uid).toBe(USER);
  });

  test("has extended attributes", async () => {
    await using space = await Namespace.create();
    await serveAsUser(space);
    const script = `
      cd "$mnt"; touch file
      setfattr -n user.one -v first file; setfattr -n user.two -v second "$src/file"
      getfattr --absolute-names --only-values -n user.one "$src/file"
      getfattr --only-values -n user.two file
      setfattr -x user.one file; getfattr file | grep user`;
    expect(output(space, script)).toBe("firstsecond" + "user.two\n");
    expect(use(space, 'setfattr -n trusted.x -v y "$mnt/file"').stderr).toContain("not permitted");
  });

  test("has locks, also against those who use the source", async () => {
    await using space = await Namespace.create();
    await serveAsUser(space);
    await User.start(space, 'exec 9>"$mnt/file"; flock 9; pause', NOBODY);
    expect(use(space, 'flock -n "$mnt/file" true').exitCode).toBe(1);
    expect(use(space, 'flock -n "$src/file" true').exitCode).toBe(1);
    const posix = `python3 -c '
import fcntl, sys
file = open(sys.argv[1], "r+")
try: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as error: print(error.strerror)
else:
  print("locked", flush=True)
  open(sys.argv[2]).read()'`;
    const holder = await User.start(
      space,
      `touch "$mnt/x"; ${posix} "$mnt/x" "$fifo" & pause`,
      NOBODY,
    );
    await holder.said("locked");
    for (const side of ["mnt", "src"])
      expect(output(space, `${posix} "$${side}/x" /dev/null`)).toMatch(/temporarily unavailable/);
  });

  test("gives the user nothing that the source does not", async () => {
    await using space = await Namespace.create();
    const source = `${space.base}/src`;
    await writeFile(`${source}/secret`, "content", { mode: 0o600 });
    await writeFile(`${source}/readable`, "content", { mode: 0o644 });
    await mkdir(`${source}/roots`, { mode: 0o755 });
    await mkdir(`${source}/closed`, { mode: 0o700 });
    await serveAsUser(space);
    const attempts: [string, RegExp][] = [
      ['cat "$mnt/secret"', /Permission denied/],
      ['echo x >"$mnt/readable"', /denied/],
      ['touch "$mnt/roots/new"', /Permission denied/],
      ['ls "$mnt/closed"', /Permission denied/],
      ['chmod 777 "$mnt/secret"', /Operation not permitted/],
      ['touch "$mnt/own"; chown 0:0 "$mnt/own"', /Operation not permitted/],
      ['mknod "$mnt/node" c 1 3', /Operation not permitted/],
      ['rmdir "$mnt/roots/../closed/x"', /Permission denied/],
    ];
    for (const [script, reason] of attempts) expect(use(space, script).stderr).toMatch(reason);
    expect(output(space, 'cat "$mnt/readable"')).toBe("content");
    expect(readFileSync(`${source}/secret`, "latin1")).toBe("content");
    expect(readdirSync(`${source}/roots`)).toEqual([]);
  });

  test("is nobody else's, not even root's", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, "content");
    await serveAsUser(space);
    expect(use(space, 'cat "$mnt/file"', false).stderr).toContain("Permission denied");
    expect(output(space, 'cat "$mnt/file"')).toBe("content");
  });

  test("is for others if root allows that, with their permissions", async () => {
    await using space = await Namespace.create();
    if (!existsSync("/etc/fuse.conf")) return void console.warn("there is no /etc/fuse.conf");
    const conf = `${space.base}/fuse.conf`;
    await writeFile(conf, "");
    expect(space.run(["mount", "--bind", conf, "/etc/fuse.conf"]).exitCode).toBe(0);
    const refused = space.run(command(space, "-o", "allow_other"), NOBODY);
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toMatch(
      /^fuse-backend: cannot mount on \S+ with \S+: option allow_other only allowed if 'user_allow_other' is set in \/etc\/fuse.conf\n$/,
    );
    await writeFile(conf, "user_allow_other\n");
    await writeFile(`${space.base}/src/private`, "content", { mode: 0o600 });
    await chown(`${space.base}/src/private`, USER, USER);
    await writeFile(`${space.base}/src/public`, "content", { mode: 0o644 });
    await serveAsUser(space, ["-o", "allow_other"]);
    const other = ["setpriv", "--reuid=61001", "--regid=61001", "--clear-groups", "cat"];
    expect(space.run([...other, `${space.base}/mnt/public`]).stdout).toBe("content");
    expect(space.run([...other, `${space.base}/mnt/private`]).stderr).toMatch(/denied/);
    expect(space.run(["cat", `${space.base}/mnt/private`]).stdout).toBe("content");
  });

  test("does without what takes privileges, and says so", async () => {
    await using space = await Namespace.create();
    const daemon = await serveAsUser(space);
    await daemon.said(/no file handles of \S*\/src can be opened: .* descriptors, .* \d+\n/);
    expect(daemon.output).toMatch(/FUSE 7\.\d+ with .*shared locks/);
    expect(daemon.output).not.toMatch(/kernel passthrough|killpriv/);
    const line = command(space, "-o", "fsname=x", "--inode-file-handles=always");
    const refused = space.run(line, NOBODY);
    expect(refused.exitCode).not.toBe(0);
    expect(refused.stderr).toMatch(/\(EPERM\); .*file handles.*CAP_DAC_READ_SEARCH/);
    expect(space.mounts()).toHaveLength(1);
  });

  test("of more files than there are descriptors goes on, with errors for those too many", async () => {
    await using space = await Namespace.create();
    output(space, 'cd "$src"; for i in $(seq 400); do echo $i >file-$i; done');
    const daemon = await serveAsUser(space, [], ["prlimit", "--nofile=200:200"]);
    const all = use(space, 'ls -l "$mnt"');
    expect(all.stderr).toMatch(/file-\d+'?: Too many open files/);
    const names = output(space, 'ls "$mnt"').trim().split("\n");
    expect(names).toHaveLength(400);
    // What the kernel knows is in use like before.
    const known = names.filter((name) => !all.stderr.includes(`${name}'`));
    expect(known.length).toBeWithin(100, 190);
    for (const name of known.slice(0, 3)) {
      const script = `cat "$mnt/${name}"; echo x >>"$mnt/${name}"`;
      expect(output(space, script)).toBe(`${name.replace("file-", "")}\n`);
    }
    // What is removed makes room.
    output(space, `cd "$mnt"; rm ${known.slice(0, 50).join(" ")}`);
    const unknown = names.filter((name) => !known.includes(name));
    expect(output(space, `cat "$mnt/${unknown[0]}"`)).toMatch(/^\d+\n$/);
    use(space, 'ls -l "$mnt"');
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toEndWith(`SIGTERM: unmounted ${space.base}/mnt\n`);
    expect(space.mounts()).toEqual([]);
  });
});

describe.skipIf(whyNoMounts !== undefined)("a user out of descriptors", () => {
  test("who can't have a new file finds none left behind", async () => {
    await using space = await Namespace.create();
    await serveAsUser(space, [], ["prlimit", "--nofile=128:128"]);
    const script = `exec python3 -c '
import os, sys
failed = []
for index in range(200):
    path = sys.argv[1] + "/%d" % index
    try:
        # Held open, so that nothing is given back meanwhile.
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except OSError:
        failed.append(index)
print(*failed)' "$mnt"`;
    const failed = output(space, script).trim().split(" ");
    expect(failed.length).toBeWithin(50, 199);
    const left = readdirSync(`${space.base}/src`);
    expect(left.filter((name) => failed.includes(name))).toEqual([]);
    expect(left).toHaveLength(200 - failed.length);
  });
});

describe.skipIf(whyNoMounts !== undefined)("a user's mount ends", () => {
  test("by fusermount3 -u, and the daemon with 0", async () => {
    await using space = await Namespace.create();
    const daemon = await serveAsUser(space);
    expect(use(space, 'fusermount3 -u "$mnt"').exitCode).toBe(0);
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toEndWith(`${space.base}/mnt was unmounted\n`);
  });

  test("lazily if it is in use, with nothing lost", async () => {
    await using space = await Namespace.create();
    const daemon = await serveAsUser(space, ["--writeback", "--cache=always"]);
    const script = `exec python3 -c '
import os, sys
fd = os.open(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT)
os.write(fd, b"x" * 1000000)
print("paused", flush=True)
open(sys.argv[2]).read()' "$mnt" "$fifo"`;
    await User.start(space, script, NOBODY);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toContain("is in use; it is unmounted lazily");
    expect(space.mounts()).toEqual([]);
    expect(readFileSync(`${space.base}/src/file`).equals(Buffer.alloc(1_000_000, "x"))).toBe(true);
  });

  test("when its connection is aborted, and is not left behind dead", async () => {
    await using space = await Namespace.create();
    const daemon = await serveAsUser(space);
    abort(space, NOBODY);
    expect(await daemon.ended()).toBe(0);
    expect(daemon.output).toContain("was aborted; unmounted it\n");
    expect(space.mounts()).toEqual([]);
  });

  test("when the daemon is killed, and what is left is replaced", async () => {
    await using space = await Namespace.create();
    const daemon = await serveAsUser(space);
    daemon.signal("SIGKILL");
    await daemon.ended();
    expect(saidOfDead(space, { asUser: true })).toContain("not connected");
    const refused = space.run(command(space), NOBODY);
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toMatch(/a dead mount is there .*--replace/);
    await serveAsUser(space, ["--replace"]);
    expect(space.mounts()).toHaveLength(1);
    expect(output(space, 'ls "$mnt"')).toBe("");
  });
});

describe.skipIf(whyNoMounts !== undefined)("a user's daemon", () => {
  test("uses the helper that it is given to mount and to unmount", async () => {
    await using space = await Namespace.create();
    const record = `${space.base}/record`;
    await writeFile(record, "");
    await chmod(record, 0o666);
    const script = `echo "$*" >>"${record}"; exec fusermount3 "$@"`;
    const helper = await executable(`${space.base}/my helper`, script);
    const daemon = await serveAsUser(space, [`--fusermount=${helper}`, "-o", "noexec"]);
    daemon.signal("SIGTERM");
    expect(await daemon.ended()).toBe(0);
    const [mounting, unmounting, ...more] = readFileSync(record, "utf8").trimEnd().split("\n");
    expect(mounting).toMatch(/^-o \S*\bnoexec\b\S* -- \S*\/mnt$/);
    expect(unmounting).toBe(`-u -- ${space.base}/mnt`);
    expect(more).toEqual([]);
  });

  test("that is killed while it starts in the background is no success", async () => {
    await using space = await Namespace.create();
    const helper = await executable(`${space.base}/killer`, "kill -9 $PPID");
    const killed = space.run(command(space, "--background", `--fusermount=${helper}`), NOBODY);
    expect(killed.exitCode).not.toBe(0);
    expect(killed.stderr).toMatch(/the daemon was killed by SIGKILL while it started\n$/);
    expect(space.mounts()).toEqual([]);
  });

  test("ends if whoever started it in the background is gone before it is ready", async () => {
    await using space = await Namespace.create();
    const script = `
      echo $PPID >"${space.base}/src/pid"
      kill -9 $(ps -o ppid= -p $PPID)
      exec fusermount3 "$@"`;
    const helper = await executable(`${space.base}/killer`, script);
    const killed = space.run(command(space, "--background", `--fusermount=${helper}`), NOBODY);
    expect(killed.exitCode).toBe("SIGKILL");
    await processEnd(Number(readFileSync(`${space.base}/src/pid`, "utf8")));
    expect(space.mounts()).toEqual([]);
  });

  test("serves in the background", async () => {
    await using space = await Namespace.create();
    await writeFile(`${space.base}/src/file`, "content");
    const run = space.run(command(space, "--background"), NOBODY);
    expect(run.exitCode).toBe(0);
    expect(output(space, 'cat "$mnt/file"')).toBe("content");
    expect(use(space, 'fusermount3 -u "$mnt"').exitCode).toBe(0);
    await space.waitForMounts(0);
  });

  test.each([
    ["a source that can't be made", "closed/src", "mnt"],
    ["a mount point that can't be made", "src", "closed/mnt"],
    ["a source that can't be entered", "closed/dir", "mnt"],
  ])("fails with %s", async (_, source, mountpoint) => {
    await using space = await Namespace.create();
    await mkdir(`${space.base}/closed/dir`, { recursive: true });
    await chmod(`${space.base}/closed`, 0o700);
    const places = [source, mountpoint].map((path) => `${space.base}/${path}`);
    for (const background of [[], ["--background"]]) {
      const failed = space.run([EXECUTABLE, "passthrough", ...background, ...places], NOBODY);
      expect(failed.exitCode).toBe(1);
      expect(failed.stderr).toMatch(
        /^fuse-backend: cannot .*\/closed\/\S*: .*(permission denied|EACCES).*\n$/,
      );
      expect(space.mounts()).toEqual([]);
    }
  });
});
