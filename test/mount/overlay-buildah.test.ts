// Container images: buildah makes one of several layers, with an overlay of ours as its storage
// driver's mount program and with the kernel's, and both images must hold the same.
//
// OVERLAY_MOUNT_PROGRAM=/usr/bin/fuse-overlayfs puts another program to the test.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, symlinkSync } from "node:fs";
import { EXECUTABLE } from "../support-mount.ts";
import { comparable } from "./overlay-differential.ts";
import { Disk, whyNoOverlays } from "../support-overlay.ts";
import { DifferentialActor } from "./differential-actor.ts";
import { missing, shell, SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

const OTHER = process.env["OVERLAY_MOUNT_PROGRAM"];

/** The base image: a shell, and something of everything that the layers above change. */
const BASE = `
  mkdir -p "$m/bin" "$m/etc" "$m/kept/deep" "$m/gone/deep" "$m/again" "$m/moved/deep" "$m/tmp"
  cp /bin/busybox "$m/bin/busybox"
  for name in sh ls cat cp mv rm mkdir ln chmod chown touch test; do
    ln -s busybox "$m/bin/$name"
  done
  for name in kept/a kept/deep/b gone/a gone/deep/b again/old moved/a moved/deep/b; do
    echo "$name" > "$m/$name"
  done
  ln "$m/kept/a" "$m/kept/link"
  echo replaced > "$m/replaced"
  echo removed > "$m/removed"
  echo appended > "$m/appended"
  echo linked > "$m/linked"
  ln "$m/linked" "$m/linked-too"
  ln -s kept "$m/directory-or-link"
  mkdir "$m/file-or-directory"
  echo inside > "$m/file-or-directory/inside"
  mkfifo "$m/fifo"
  cp "$m/bin/busybox" "$m/bin/setuid"
  chown 7:8 "$m/bin/setuid"
  chmod 6755 "$m/bin/setuid"
  chmod 1777 "$m/tmp"
  setfattr -n user.base -v base "$m/kept/a"
  setfattr -n user.base -v base "$m/kept"
  cp "$m/bin/busybox" "$m/bin/capable"
  setcap cap_net_raw+ep "$m/bin/capable"
  chown -R 61001:61002 "$m/moved"`;

/** What is done in containers, a layer each. */
const LAYERS = [
  `echo new > /replaced.new
  mv /replaced.new /replaced
  rm /removed
  rm -r /gone /again
  echo more >> /appended
  mv /moved /renamed
  ln /kept/deep/b /linked-in
  echo changed >> /linked-too
  chmod 4711 /kept/deep/b
  mkdir /fresh
  echo fresh > /fresh/file`,
  `mkdir /again
  echo new > /again/new
  rm /directory-or-link
  mkdir /directory-or-link
  echo inside > /directory-or-link/inside
  rm -r /file-or-directory
  echo file > /file-or-directory
  mv /fresh /renamed/fresh
  mkdir /gone
  chmod 2750 /renamed
  chown 61003:61004 /appended
  rm /linked`,
  `mv /renamed/deep /deep
  rm -r /kept/deep
  echo last > /last
  ln -s /last /again/last
  touch /gone/a`,
];

class Builder {
  readonly #base: string;
  readonly #program: string | undefined;
  readonly #actor = new DifferentialActor("who looks at the image");

  constructor(base: string, program: string | undefined) {
    this.#base = base;
    this.#program = program;
    mkdirSync(base);
  }

  /** Runs a script in which \`b\` is buildah on this builder's own storage. */
  async run(script: string): Promise<string> {
    const option = this.#program === undefined ? "" : `overlay.mount_program=${this.#program}`;
    return await shell(
      `b() {
        buildah --root '${this.#base}/root' --runroot '${this.#base}/run' \\
          --storage-driver overlay --storage-opt '${option}' "$@"
      }
      ${script}`,
      { env: { HOME: this.#base, TMPDIR: this.#base } },
    );
  }

  /** Makes the base and the layers on top of it, an image each: image-0, image-1 … */
  async build(): Promise<void> {
    await this.run(`c=$(b from scratch); m=$(b mount "$c"); ${BASE}
      b umount "$c"; b commit -q "$c" image-0; b rm "$c"`);
    for (const [index, layer] of LAYERS.entries())
      await this.run(`c=$(b from --pull=never localhost/image-${index})
        b run --isolation=chroot --network=host "$c" /bin/sh -c 'set -e; ${layer}'
        b commit -q "$c" image-${index + 1}; b rm "$c"`);
  }

  /** What is in an image, and the type of the file system by which it was seen. */
  async look(image: string): Promise<{ type: string; tree: Record<string, unknown> }> {
    const output = await this.run(`c=$(b from --pull=never localhost/${image})
      m=$(b mount "$c"); stat -f -c %T "$m"; echo "$c"; echo "$m"`);
    const [type = "", container = "", mountpoint = ""] = output.trim().split("\n").slice(-3);
    const tree = await this.#actor.snapshot(mountpoint);
    await this.run(`b umount ${container}; b rm ${container}`);
    const entries = Object.entries(tree).map(([name, found]) => [name, comparable(found)]);
    return { type, tree: Object.fromEntries(entries) as Record<string, unknown> };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.run("b rm -a; b umount -a").catch(() => {});
    this.#actor.kill();
  }
}

describe.skipIf(
  whyNoOverlays !== undefined || missing("buildah", "busybox", "setfattr", "setcap", "mkfs.ext4"),
)("container images by buildah", () => {
  let disk: Disk;
  let kernel: Builder;
  let ours: Builder;

  beforeAll(async () => {
    disk = await Disk.start();
    kernel = new Builder(`${disk.path}/kernel`, undefined);
    // Called by such a name, the executable takes the parameters of fuse-overlayfs.
    const link = `${disk.base}/fuse-overlayfs`;
    symlinkSync(OTHER ?? EXECUTABLE, link);
    ours = new Builder(`${disk.path}/ours`, link);
  });
  afterAll(async () => {
    await kernel?.[Symbol.asyncDispose]();
    await ours?.[Symbol.asyncDispose]();
    await disk?.[Symbol.asyncDispose]();
  });

  test(
    "an image of several layers is the same as by the kernel's overlay",
    async () => {
      await Promise.all([kernel.build(), ours.build()]);
      for (const [index] of [BASE, ...LAYERS].entries()) {
        const expected = await kernel.look(`image-${index}`);
        const actual = await ours.look(`image-${index}`);
        if (OTHER === undefined)
          expect([expected.type, actual.type]).toEqual(["overlayfs", "fuseblk"]);
        expect(actual.tree).toEqual(expected.tree);
        expect(Object.keys(actual.tree).length).toBeGreaterThan(30);
      }
    },
    3 * SHELL_TEST_TIMEOUT_MS,
  );

  test(
    "layers of one are the other's layers: an archive of one image makes the same image",
    async () => {
      const archive = `${disk.base}/image.tar`;
      await ours.run(`b push -q localhost/image-${LAYERS.length} oci-archive:${archive}:moved`);
      await kernel.run(`b pull -q oci-archive:${archive}; b tag localhost/moved localhost/again`);
      const expected = await kernel.look(`image-${LAYERS.length}`);
      expect((await kernel.look("again")).tree).toEqual(expected.tree);
    },
    2 * SHELL_TEST_TIMEOUT_MS,
  );
});
