// What the kernel's overlayfs does with access times and positions in directories. It is put to the
// same tests as we are.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import * as abi from "../../src/abi-linux.ts";
import { cstring, map } from "../../src/memory.ts";
import { close, getdents64, lseek, openat } from "../../src/syscall.ts";
import { Disk, overlaySystem, whyNoOverlays } from "../support-overlay.ts";
import { shell } from "./shell.ts";

const SYSTEMS = [overlaySystem("kernel"), overlaySystem("ours")];
const PAST = 1_000_000;
const FUTURE = Math.floor(Date.now() / 1000) + 36_000;

let disk: Disk;
let upper = "";
let lower = "";
let mountpoint = "";

/** Has an overlay mounted while `work` is done; its layers are empty but for what `make` makes. */
async function mounted(
  system: (typeof SYSTEMS)[number],
  options: readonly string[],
  make: () => void,
  work: () => void,
): Promise<void> {
  for (const name of ["upper", "lower", "work"]) {
    rmSync(`${disk.path}/${name}`, { recursive: true, force: true });
    mkdirSync(`${disk.path}/${name}`);
  }
  make();
  const layers = { lower: [lower], upper, work: `${disk.path}/work` };
  const mount = await system.mount(layers, options, mountpoint);
  try {
    work();
    await mount.unmount();
  } finally {
    await mount.kill();
  }
}

describe.skipIf(whyNoOverlays !== undefined)("as the kernel's overlayfs", () => {
  beforeAll(async () => {
    disk = await Disk.start();
    upper = `${disk.path}/upper`;
    lower = `${disk.path}/lower`;
    mountpoint = `${disk.base}/mnt`;
    mkdirSync(mountpoint);
  });
  afterAll(async () => {
    await disk?.[Symbol.asyncDispose]();
  });

  // Whether reading changes the atime: of a file whose atime is older than its mtime, of one whose
  // atime is later, of a directory whose atime is older.
  for (const [options, changes] of [
    [[], [true, false, true]],
    [["noatime"], [false, false, false]],
    [["nodiratime"], [true, false, false]],
    [["strictatime"], [true, true, true]],
    [
      ["strictatime", "nodiratime"],
      [true, true, false],
    ],
    [
      ["strictatime", "ro"],
      [false, false, false],
    ],
  ] as const)
    for (const below of ["relatime", "noatime", "strictatime"])
      for (const system of SYSTEMS)
        test(`${system.name}: -o ${options.join(",") || "defaults"} on a ${below} mount`, async () => {
          await shell(`mount -o remount,${below} ${disk.path}`);
          const make = (): void => {
            for (const layer of [upper, lower]) {
              const own = `${layer}/${layer === upper ? "u" : "l"}`;
              mkdirSync(own);
              for (const [name, atime] of [
                ["older", PAST],
                ["later", FUTURE],
              ] as const) {
                writeFileSync(`${own}/${name}`, "data");
                utimesSync(`${own}/${name}`, atime, PAST + 1);
              }
              utimesSync(own, PAST, PAST + 1);
            }
          };
          const atime = (path: string): number => statSync(path).atimeMs / 1000;
          await mounted(system, options, make, () => {
            for (const name of ["u", "l"])
              for (const file of ["older", "later"])
                expect(readFileSync(`${mountpoint}/${name}/${file}`, "utf8")).toBe("data");
            for (const name of ["u", "l"])
              expect(readdirSync(`${mountpoint}/${name}`)).toHaveLength(2);
            const changed = (directory: string): boolean[] => [
              atime(`${directory}/older`) !== PAST,
              atime(`${directory}/later`) !== FUTURE,
              atime(directory) !== PAST,
            ];
            expect(changed(`${mountpoint}/u`)).toEqual([...changes]);
            expect(changed(`${upper}/u`)).toEqual([...changes]);
            expect(changed(`${lower}/l`)).toEqual([false, false, false]);
          });
        });

  for (const system of SYSTEMS)
    test(`${system.name}: there is an entry at any position up to the last entry's`, async () => {
      const make = (): void => {
        for (const layer of [upper, lower])
          for (let index = 0; index < 100; index++)
            writeFileSync(`${layer}/${"name".repeat(1 + (index % 9))}-${index}`, "");
      };
      await mounted(system, [], make, () => {
        const fd = openat(
          abi.AT_FDCWD,
          cstring(mountpoint).address,
          abi.O_RDONLY | abi.O_DIRECTORY,
          0,
        );
        const entries = map(65_536);
        const read = (): number => getdents64(fd, entries.address, entries.size);
        const { d_off, d_reclen } = abi.linux_dirent64;
        let last = 0;
        let count = 0;
        for (let length = read(); length > 0; length = read())
          for (let at = 0; at < length; at += entries.view.getUint16(at + d_reclen, true)) {
            const next = Number(entries.view.getBigUint64(at + d_off, true));
            if (at + entries.view.getUint16(at + d_reclen, true) < length) last = next;
            count++;
          }
        expect(count).toBe(102);
        for (let position = 0; position <= last; position++) {
          expect(lseek(fd, position, abi.SEEK_SET)).toBe(position);
          expect(read()).toBeGreaterThan(0);
        }
        close(fd);
      });
    });
});
