// A merged tree with many more files than the daemon may have descriptors.
//
// OVERLAY_FILES=1000000 takes so many files, spread over two layers.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync } from "node:fs";
import { EXECUTABLE, memoryOf } from "../support-mount.ts";
import {
  daemonMount,
  Disk,
  overlayOptions,
  whyNoOverlays,
  type OverlayMount,
} from "../support-overlay.ts";
import { COUNT_FILES, shell } from "./shell.ts";

const FILES = Number(process.env["OVERLAY_FILES"] ?? 20_000);
const DIRECTORIES = 100;
const LIMIT = 1024;
/** Of shared memory and the heap, in bytes. Records of inode, node, name and place take 280. */
const PER_FILE = 1000;
const HEAP = 64 << 20;

setDefaultTimeout(30_000 + FILES / 2);

let disk: Disk;
beforeAll(async () => {
  if (whyNoOverlays === undefined) disk = await Disk.start(`${2 + Math.ceil(FILES / 50_000)}G`); // ext4 has 65,536 inodes a GiB
});
afterAll(async () => {
  await disk?.[Symbol.asyncDispose]();
});

function serve(base: string, lower: string[]): Promise<OverlayMount> {
  for (const name of ["u", "w", "mnt"]) mkdirSync(`${base}/${name}`);
  const list = overlayOptions({ lower, upper: `${base}/u`, work: `${base}/w` }, [
    "redirect_dir=on",
  ]);
  const command = [
    "prlimit",
    `--nofile=${LIMIT}:${LIMIT}`,
    EXECUTABLE,
    "overlay",
    "-o",
    list,
    `${base}/mnt`,
  ];
  return daemonMount(`${base}/mnt`, command);
}

describe.skipIf(whyNoOverlays !== undefined)("with few descriptors", () => {
  test(`${FILES} files are walked, and used afterwards`, async () => {
    const each = Math.floor(FILES / DIRECTORIES / 2);
    for (const layer of ["l1", "l2"])
      await shell(
        `mkdir ${disk.path}/${layer}; cd ${disk.path}/${layer}
        for d in $(seq ${DIRECTORIES}); do mkdir $d; (cd $d; seq -f ${layer}-%.0f ${each} | xargs touch); done`,
      );
    const daemon = await serve(disk.path, [`${disk.path}/l1`, `${disk.path}/l2`]);
    try {
      const before = memoryOf(daemon.pid);
      const cwd = daemon.mountpoint;
      expect(await shell(COUNT_FILES, { cwd })).toBe(`${2 * DIRECTORIES * each}\n`);
      const taken = 1024 * (memoryOf(daemon.pid) - before);
      expect(taken).toBeLessThan(PER_FILE * FILES + HEAP);
      expect(readdirSync(`/proc/${daemon.pid}/fd`).length).toBeLessThan(LIMIT);
      const script = `
        for d in $(seq ${DIRECTORIES}); do echo x > $d/l1-1; rm $d/l2-1; mv $d/l1-2 $d/new; cat $d/l1-1; done | wc -l
        mv 1 one; cat one/new one/l2-2; rm -r 2; ls 3 | wc -l; ${COUNT_FILES}`;
      const left = (2 * each - 1) * DIRECTORIES - (2 * each - 1);
      expect(await shell(script, { cwd })).toBe(`${DIRECTORIES}\n${2 * each - 1}\n${left}\n`);
      // What the kernel forgets takes nothing but what is kept for file handles.
      await shell("echo 2 > /proc/sys/vm/drop_caches");
      expect(await shell(COUNT_FILES, { cwd })).toBe(`${left}\n`);
      expect(daemon.output).not.toMatch(/EMFILE|too many/i);
    } finally {
      await daemon.kill();
    }
  });
});
