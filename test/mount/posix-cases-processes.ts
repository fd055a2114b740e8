// POSIX cases: running programs from the file system.

import { spawnSync } from "node:child_process";
import { copyFileSync } from "node:fs";
import * as abi from "../../src/abi-linux.ts";
import * as c from "./calls.ts";
import { alice, bob, contents, directory, file, mode, type Cases } from "./posix-place.ts";

const { O_RDONLY, O_WRONLY, O_RDWR } = abi;

interface Outcome {
  status: number | null;
  output: string;
  error?: string | undefined;
}

/** Runs a program as somebody, without the surroundings that differ. */
function run(
  path: string,
  args: string[] = [],
  who: Partial<c.Credentials> = {},
  cwd = "/",
): Outcome {
  const { uid, gid } = who;
  const ended = spawnSync(path, args, {
    ...(uid === undefined || gid === undefined ? {} : { uid, gid }),
    cwd,
    encoding: "latin1",
    timeout: 10_000,
  });
  const error = (ended.error as NodeJS.ErrnoException | undefined)?.code;
  return { status: ended.status, output: ended.stdout?.trim() ?? "", ...(error ? { error } : {}) };
}

function program(from: string, to: string, bits = 0o755): string {
  copyFileSync(from, to);
  c.must(c.chmod(to, bits));
  return to;
}

export const processCases: Cases = {
  "programs and scripts run": ({ at }) => [
    run(program("/bin/echo", at("echo")), ["a", "b"]),
    run(file(at("script"), "#!/bin/sh\necho by $1\n", 0o755), ["hand"]),
    run(file(at("plain"), "#!/bin/sh\necho no\n", 0o644)),
    run(file(at("broken"), "#!/nowhere/sh\n", 0o755)),
  ],

  "who may run a program": ({ at }) =>
    [0o700, 0o711, 0o744, 0o755].map((bits) =>
      run(program("/bin/true", at(`p${bits}`), bits), [], alice),
    ),

  "a set-user-ID program runs as its owner": ({ at }) => {
    const path = program("/usr/bin/id", at("id"));
    c.chown(path, alice.uid, alice.gid);
    c.chmod(path, 0o6755);
    return [run(path, ["-u"], bob), run(path, ["-g"], bob), run(path, ["-ru"], bob)];
  },

  "a running program can't be written to, a written one not run": ({ at }) => {
    const path = program("/bin/sleep", at("sleep"));
    const running = Bun.spawn([path, "100"]);
    try {
      const busy = [c.tryOpen(path, O_WRONLY), c.truncate(path, 0), c.tryOpen(path, O_RDONLY)];
      running.kill("SIGKILL");
      while (
        c.tryOpen(path, O_RDWR) === -26 &&
        running.exitCode === null &&
        running.signalCode === null
      )
        spawnSync("true"); // Its end takes a moment to let go of the file.
      const fd = c.open(path, O_WRONLY);
      const refused = run(path, ["0"]);
      c.close(fd);
      return [busy, refused, run(path, ["0"])];
    } finally {
      running.kill("SIGKILL");
    }
  },

  "a running program can be replaced by a rename, and removed": ({ at }) => {
    const path = program("/bin/sleep", at("sleep"));
    const running = Bun.spawn([path, "100"]);
    try {
      file(at("new"), "#!/bin/sh\necho new\n", 0o755);
      const replaced = c.rename(at("new"), path);
      return [replaced, run(path), c.unlink(path), running.exitCode];
    } finally {
      running.kill("SIGKILL");
    }
  },

  "a shell works in a directory": ({ at }) => {
    directory(at("d"));
    const script =
      "set -e; echo one > a; cat a >> b; cat a >> b; mv b c; ln -s c l; cat l; mkdir -p x/y; " +
      "cp -a c l x/y; (cd x && tar cf - y) | tar xf -; ls -R; rm -r x; pwd -P | sed 's:.*/::'";
    return run("/bin/sh", ["-c", script], {}, at("d"));
  },

  "a descriptor's path is seen in /proc": ({ at, directory: dir }) => {
    file(at("f"));
    const fd = c.open(at("f"), O_RDONLY);
    const path = (): string => String(c.readlink(`/proc/self/fd/${fd}`)).replace(dir, "");
    const before = path();
    c.rename(at("f"), at("g"));
    const renamed = path();
    c.unlink(at("g"));
    return [before, renamed, path()];
  },

  "an open file can be opened again by /proc": ({ at }) => {
    file(at("f"), "data", 0o400);
    const fd = c.open(at("f"), O_RDONLY);
    c.unlink(at("f"));
    return [contents(`/proc/self/fd/${fd}`), mode(fd)];
  },
};
