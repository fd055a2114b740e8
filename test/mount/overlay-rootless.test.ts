// Overlays of ordinary users: in a user namespace, where they mount by themselves, and outside of
// one, where fusermount3 does it.

import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { symlinkSync } from "node:fs";
import { EXECUTABLE, whyNoMounts } from "../support-mount.ts";
import { Namespace } from "../support-namespace.ts";
import { missing } from "./shell.ts";

setDefaultTimeout(60_000);

let space: Namespace;
beforeEach(async () => {
  space = await Namespace.create();
  symlinkSync(EXECUTABLE, `${space.base}/fuse-overlayfs`);
});
afterEach(async () => {
  await space[Symbol.asyncDispose]();
});

/** `$1` is how to unmount. */
const SCRIPT = `
  set -eu; base=$0; unmount=$1; cd $base/src; mkdir -p l u w
  mkdir -p l/d/sub l/e l/empty; echo low > l/f; echo low > l/d/f; echo low > l/d/sub/f; echo low > l/e/f; ln -s f l/link
  start() { $base/fuse-overlayfs -o lowerdir=$base/src/l,upperdir=$base/src/u,workdir=$base/src/w $base/mnt; }
  stop() { cd $base; $unmount mnt; }
  start; cd $base/mnt
  echo more >> f; rm d/f; rmdir empty; mv d moved; rm -r e; mkdir e; echo new > e/new; mv link link2; ln f hard
  echo x > temporary; mv temporary e/f2; chmod 700 moved/sub; touch moved/sub/f; mkfifo fifo
  rm f; echo again > f; rm f; mkdir f; rmdir f; echo last > f; setfattr -n user.x -v y f
  show() {
    cd $base/mnt
    find . -mindepth 1 \\( -type l -printf '%P %l\\n' -o -type d -printf '%P %m\\n' \\
      -o -printf '%P %n %m\\n' \\) | sort
    cat f hard e/new moved/sub/f; getfattr --only-values -n user.x f; echo
  }
  before=$(show); echo "$before"; stop
  start; test "$(show)" = "$before" || { echo differs; show; }
  cd $base/mnt; setfattr -n user.x -v z f; rm -r moved; mv e d; rm hard; cat d/new; ls; stop
  echo "$(find $base/src/u -type c | wc -l) devices, $(find $base/src/u -name '.wh.*' | wc -l) files"
  ls -A $base/src/w/work`;

const SHOWN = `e 755
e/f2 1 644
e/new 1 644
f 1 644
fifo 1 644
hard 1 644
link2 f
moved 755
moved/sub 700
moved/sub/f 1 644
last
low
more
new
low
y
new
d
f
fifo
link2
`;

describe.skipIf(whyNoMounts !== undefined)("an overlay of an ordinary user", () => {
  const run = (unmount: string, ...prefix: string[]): string => {
    const command = [...prefix, "sh", "-c", SCRIPT, space.base, unmount];
    const { exitCode, stdout, stderr } = space.run(command, { asUser: true });
    expect([exitCode, stderr]).toEqual([0, ""]);
    return stdout;
  };

  test("in a user namespace is mounted by the user, changed, and mounted again", () => {
    const printed = run("umount", "unshare", "-rm");
    expect(printed).toStartWith(SHOWN);
    expect(printed.slice(SHOWN.length)).toBe("3 devices, 0 files\n");
  });

  test.skipIf(missing("fusermount3"))("outside of one is mounted by fusermount3", () => {
    const printed = run("fusermount3 -u");
    expect(printed).toStartWith(SHOWN);
    expect(printed.slice(SHOWN.length)).toBe("3 devices, 0 files\n");
  });
});
