// Overlays without an upper layer.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Disk, overlaySystems, whyNoOverlays } from "../support-overlay.ts";
import { compare, Stage } from "./overlay-stage.ts";
import { SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

setDefaultTimeout(SHELL_TEST_TIMEOUT_MS);

const { ours } = overlaySystems;
let disk: Disk;
beforeAll(async () => {
  if (whyNoOverlays === undefined) disk = await Disk.start();
});
afterAll(async () => {
  await disk?.[Symbol.asyncDispose]();
});

describe.skipIf(whyNoOverlays !== undefined)("an overlay without an upper layer", () => {
  test("can't be changed in any way", async () => {
    const make = "mkdir -p l1/d l2/d; echo x > l1/f; echo y > l2/d/g; ln -s f l1/link";
    const script = `
      for what in 'touch new' 'mkdir new' 'rm f' 'rmdir d' 'mv f g' 'mv d e' 'ln f g' 'ln -s f g' 'mkfifo p' \\
        'chmod 600 f' 'chown 1 f' 'touch f' 'truncate -s 0 f' 'setfattr -n user.x -v y f' 'mv f link'; do
        { $what 2>&1 || true; } | grep -o 'Read-only file system' || echo "not $what"
      done
      cat f link d/g`;
    await compare(disk, { make, script, isReadOnly: true });
  });

  test("is mounted read-only, as the kernel's is", async () => {
    await compare(disk, {
      make: "true",
      script: "findmnt -no OPTIONS --target . | cut -d, -f1",
      isReadOnly: true,
    });
    await using stage = await Stage.start(disk, "true");
    await stage.mount(["rw"], ours, { isReadOnly: true });
    expect(await stage.do("findmnt -no OPTIONS --target . | cut -d, -f1")).toBe("ro\n");
  });

  test("can be of one layer alone", async () => {
    await using stage = await Stage.start(disk, "mkdir l1/d; echo x > l1/d/f; mknod l1/w c 0 0", [
      "l1",
    ]);
    await stage.mount([], ours, { isReadOnly: true });
    expect(
      await stage.do("find . | sort; cat d/f; stat -c %h d; touch d/f 2>/dev/null || echo no"),
    ).toBe(".\n./d\n./d/f\nx\n2\nno\n");
  });
});
