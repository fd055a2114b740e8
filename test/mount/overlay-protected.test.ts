// Immutable and append-only files: what may be done with them on an overlay is what the kernel's
// overlayfs allows, and either finds them as the other has left them.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import * as abi from "../../src/abi-linux.ts";
import { errnoName } from "../../src/errno.ts";
import {
  Disk,
  overlaySystem,
  whyNoOverlays,
  type OverlayLayers,
  type OverlaySystem,
} from "../support-overlay.ts";
import * as c from "./calls.ts";

const KERNEL = overlaySystem("kernel");
const OURS = overlaySystem("ours");

/** Opens, has something done, and closes. */
function withFd(path: string, flags: number, work: (fd: number) => number): number {
  const fd = c.open(path, flags);
  if (fd < 0) return fd;
  const result = work(fd);
  c.close(fd);
  return result;
}
const opened = (path: string, flags: number): number => withFd(path, flags, () => 0);
const PROTECTED = c.FS_IMMUTABLE_FL | c.FS_APPEND_FL;
const flagsOf = (path: string): number =>
  withFd(path, abi.O_RDONLY, (fd) => c.getFileFlags(fd) & PROTECTED);
const setFlags = (path: string, flags: number): number =>
  withFd(path, abi.O_RDONLY, (fd) => c.setFileFlags(fd, (c.getFileFlags(fd) & ~PROTECTED) | flags));

type Attempt = (path: string) => number;

/** With a file, each of which is tried with another one. */
const WITH_FILES: Readonly<Record<string, Attempt>> = {
  "open for reading": (f) => opened(f, abi.O_RDONLY),
  "open for writing": (f) => opened(f, abi.O_WRONLY),
  "open for appending": (f) => opened(f, abi.O_WRONLY | abi.O_APPEND),
  "open for both and appending": (f) => opened(f, abi.O_RDWR | abi.O_APPEND),
  "open and empty": (f) => opened(f, abi.O_WRONLY | abi.O_APPEND | abi.O_TRUNC),
  append: (f) => withFd(f, abi.O_WRONLY | abi.O_APPEND, (fd) => c.write(fd, "more")),
  "append and truncate": (f) => withFd(f, abi.O_WRONLY | abi.O_APPEND, (fd) => c.ftruncate(fd, 1)),
  "append and allocate": (f) =>
    withFd(f, abi.O_WRONLY | abi.O_APPEND, (fd) => c.fallocate(fd, 0, 0, 100)),
  "append and punch": (f) =>
    withFd(f, abi.O_WRONLY | abi.O_APPEND, (fd) =>
      c.fallocate(fd, abi.FALLOC_FL_PUNCH_HOLE | abi.FALLOC_FL_KEEP_SIZE, 0, 4096),
    ),
  truncate: (f) => c.truncate(f, 1),
  "the same mode": (f) => c.chmod(f, 0o644),
  "another mode": (f) => c.chmod(f, 0o600),
  "another owner": (f) => c.chown(f, 1, 1),
  "times of now": (f) => c.utimens(f),
  "own times": (f) =>
    c.utimens(f, [
      [1, 0],
      [2, 0],
    ]),
  "a new attribute": (f) => c.setxattr(f, "user.new", "x"),
  "an attribute's value": (f) => c.setxattr(f, "user.old", "x"),
  "remove an attribute": (f) => c.removexattr(f, "user.old"),
  "remove no attribute": (f) => c.removexattr(f, "user.none"),
  link: (f) => c.link(f, `${f}-link`),
  rename: (f) => c.rename(f, `${f}-renamed`),
  "rename over it": (f) => c.rename(`${f}-other`, f),
  exchange: (f) => c.rename(`${f}-other`, f, abi.RENAME_EXCHANGE),
  unlink: (f) => c.unlink(f),
  "become free": (f) => setFlags(f, 0) || c.unlink(f),
  "become free after a change": (f) => {
    opened(f, abi.O_WRONLY | abi.O_APPEND);
    return setFlags(f, 0) || c.truncate(f, 1);
  },
};

/** The same with a directory, in which there is a file, an empty directory and one that is not. */
const WITH_DIRECTORIES: Readonly<Record<string, Attempt>> = {
  list: (d) => (c.list(d) as string[]).length,
  "make a file": (d) => opened(`${d}/new`, abi.O_WRONLY | abi.O_CREAT),
  "make a directory": (d) => c.mkdir(`${d}/new`),
  "make a pipe": (d) => c.mknod(`${d}/new`, abi.S_IFIFO | 0o600),
  "make a symbolic link": (d) => c.symlink("to", `${d}/new`),
  "make a link": (d) => c.link(`${d}-other/file`, `${d}/new`),
  "make a nameless file": (d) => opened(d, abi.O_TMPFILE | abi.O_RDWR),
  "move in": (d) => c.rename(`${d}-other/file`, `${d}/new`),
  "move over": (d) => c.rename(`${d}-other/file`, `${d}/file`),
  "move within": (d) => c.rename(`${d}/file`, `${d}/renamed`),
  "move out": (d) => c.rename(`${d}/file`, `${d}-other/new`),
  exchange: (d) => c.rename(`${d}/file`, `${d}-other/file`, abi.RENAME_EXCHANGE),
  "move a directory over": (d) => c.rename(`${d}-other/empty`, `${d}/empty`),
  unlink: (d) => c.unlink(`${d}/file`),
  "remove an empty directory": (d) => c.rmdir(`${d}/empty`),
  "remove a full directory": (d) => c.rmdir(`${d}/full`),
  "remove it": (d) => c.rmdir(d),
  "rename it": (d) => c.rename(d, `${d}-renamed`),
  "move it": (d) => c.rename(d, `${d}-other/moved`),
  "another mode": (d) => c.chmod(d, 0o700),
  "a new attribute": (d) => c.setxattr(d, "user.new", "x"),
  "write to a file in it": (d) =>
    withFd(`${d}/file`, abi.O_WRONLY | abi.O_TRUNC, (fd) => c.write(fd, "new")),
  "make something two levels below": (d) => c.mkdir(`${d}/full/new`),
  "make something after a file was written": (d) => {
    withFd(`${d}/file`, abi.O_WRONLY, (fd) => c.write(fd, "new"));
    return opened(`${d}/new`, abi.O_WRONLY | abi.O_CREAT);
  },
  "become free": (d) => setFlags(d, 0) || c.unlink(`${d}/file`),
};

function makeFile(path: string): void {
  writeFileSync(path, "data");
  c.setxattr(path, "user.old", "old");
}

function makeDirectory(path: string): void {
  for (const name of ["", "/empty", "/full"]) mkdirSync(path + name);
  for (const name of ["/file", "/full/inner"]) makeFile(path + name);
}

const files = Object.entries(WITH_FILES).map(([label, attempt], index) => ({
  label: `file: ${label}`,
  attempt,
  name: `f${index}`,
  make: makeFile,
}));
const directories = Object.entries(WITH_DIRECTORIES).map(([label, attempt], index) => ({
  label: `directory: ${label}`,
  attempt,
  name: `d${index}`,
  make: makeDirectory,
}));
const subjects = [...files, ...directories];

/** Makes the files below `base`, and beside each another one; none is protected. */
function makeSubjects(base: string): void {
  for (const { name, make } of subjects)
    for (const suffix of ["", "-other"]) make(`${base}/${name}${suffix}`);
}

const protect = (base: string, flags: number): void => {
  for (const { name } of subjects) expect(setFlags(`${base}/${name}`, flags)).toBe(0);
};

describe.skipIf(whyNoOverlays !== undefined)("as the kernel's overlayfs", () => {
  let disk: Disk;
  beforeAll(async () => {
    disk = await Disk.start();
  });
  afterAll(async () => {
    c.closeAll();
    await disk?.[Symbol.asyncDispose]();
  });

  async function during<T>(
    system: OverlaySystem,
    layers: OverlayLayers,
    work: (mountpoint: string) => T,
  ): Promise<T> {
    const mountpoint = `${disk.base}/mnt`;
    mkdirSync(mountpoint, { recursive: true });
    const mount = await system.mount(layers, ["redirect_dir=on"], mountpoint);
    try {
      const result = work(mountpoint);
      await mount.unmount();
      return result;
    } finally {
      await mount.kill();
    }
  }

  function makeLayers(name: string): OverlayLayers & { readonly upper: string } {
    const base = `${disk.path}/${name}`;
    for (const part of ["", "/lower", "/upper", "/work"]) mkdirSync(base + part);
    return { lower: [`${base}/lower`], upper: `${base}/upper`, work: `${base}/work` };
  }

  const attempts = (base: string): Record<string, string> =>
    Object.fromEntries(
      subjects.map(({ label, name, attempt }) => {
        const result = attempt(`${base}/${name}`);
        return [label, result < 0 ? errnoName(result) : String(result)];
      }),
    );
  const allFlags = (base: string): Record<string, number> =>
    Object.fromEntries(subjects.map(({ label, name }) => [label, flagsOf(`${base}/${name}`)]));

  const FREEING = subjects.map(({ label }) => label).filter((label) => /become free/.test(label));

  const ways = {
    // Set on the host, in the lower layer or in the upper one.
    lower: async (_: OverlaySystem, layers: OverlayLayers, flag: number) => {
      makeSubjects(layers.lower[0]!);
      protect(layers.lower[0]!, flag);
    },
    upper: async (_: OverlaySystem, layers: OverlayLayers, flag: number) => {
      makeSubjects(layers.upper!);
      protect(layers.upper!, flag);
    },
    // Set on the overlay.
    "lower, by the overlay": async (system: OverlaySystem, layers: OverlayLayers, flag: number) => {
      makeSubjects(layers.lower[0]!);
      await during(system, layers, (base) => protect(base, flag));
    },
    "upper, by the overlay": async (system: OverlaySystem, layers: OverlayLayers, flag: number) =>
      await during(system, layers, (base) => {
        makeSubjects(base);
        protect(base, flag);
      }),
  };

  for (const [flagName, flag] of [
    ["immutable", c.FS_IMMUTABLE_FL],
    ["append-only", c.FS_APPEND_FL],
  ] as const)
    for (const [way, make] of Object.entries(ways))
      test(`${flagName} files of the ${way}`, async () => {
        const found: Record<string, unknown>[] = [];
        for (const system of [KERNEL, OURS]) {
          const layers = makeLayers(`${flagName} ${way} ${system.name}`.replaceAll(/\W/g, "-"));
          await make(system, layers, flag);
          const results = await during(system, layers, attempts);
          // What has become of them, for this one and for the other.
          const left = await during(system, layers, allFlags);
          // With us, what an upper file is on the host can be taken back; with the kernel it can't.
          if (way === "upper") for (const label of FREEING) delete results[label];
          const forOther = await during(system === OURS ? KERNEL : OURS, layers, allFlags);
          expect(forOther).toEqual(left);
          if (way === "upper") for (const label of FREEING) delete left[label];
          found.push({ results, left });
        }
        expect(found[1]).toEqual(found[0]!);
      });

  for (const [flagName, flag] of [
    ["immutable", c.FS_IMMUTABLE_FL],
    ["append-only", c.FS_APPEND_FL],
  ] as const)
    test(`${flagName}, with a file that was opened before`, async () => {
      const found: unknown[] = [];
      for (const system of [KERNEL, OURS]) {
        const layers = makeLayers(`open-${flagName}-${system.name}`);
        for (const name of ["f", "other"]) writeFileSync(`${layers.lower[0]}/${name}`, "data");
        const results = await during(system, layers, (base) => {
          const [fd, other] = ["f", "other"].map((name) => c.open(`${base}/${name}`, abi.O_RDWR));
          expect(setFlags(`${base}/f`, flag)).toBe(0);
          const copied = c.copyFileRange(other!, 0, fd!, 0, 4);
          const done = [
            copied,
            c.pwrite(fd!, "x", 0),
            c.fallocate(fd!, 0, 0, 100),
            c.fallocate(fd!, abi.FALLOC_FL_ZERO_RANGE, 0, 10),
            c.ftruncate(fd!, 1),
            c.fchmod(fd!, 0o600),
            c.futimens(fd!, [c.NOW, c.NOW]),
          ].map((result) => (result < 0 ? errnoName(result) : result));
          c.close(fd!);
          c.close(other!);
          return done;
        });
        found.push(results);
      }
      expect(found[1]).toEqual(found[0]);
    });

  test("what is set on the overlay protects at once", async () => {
    for (const system of [KERNEL, OURS]) {
      const layers = makeLayers(`at-once-${system.name}`);
      writeFileSync(`${layers.lower[0]}/f`, "data");
      await during(system, layers, (base) => {
        const path = `${base}/f`;
        expect(setFlags(path, c.FS_APPEND_FL)).toBe(0);
        expect(flagsOf(path)).toBe(c.FS_APPEND_FL);
        expect(errnoName(c.truncate(path, 0))).toBe("EPERM");
        expect(withFd(path, abi.O_WRONLY | abi.O_APPEND, (fd) => c.write(fd, "!"))).toBe(1);
        expect(setFlags(path, 0)).toBe(0);
        expect(readFileSync(path, "utf8")).toBe("data!");
        expect(c.truncate(path, 0)).toBe(0);
      });
      expect(flagsOf(`${layers.upper}/f`)).toBe(0);
      const name = "trusted.overlay.protattr";
      expect(errnoName(c.lgetxattr(`${layers.upper}/f`, name) as number)).toBe("ENODATA");
    }
  });
});
