// What must hold of an overlay when things go wrong: the daemon is killed in the middle, the upper
// layer is full or read-only, the layers are changed behind its back.
//
// OVERLAY_SUT=kernel|fuse-overlayfs puts others to the test; the kernel can't be killed.
// OVERLAY_KILLS=N kills N times per test, FAULTS_SEED=N at the same moments again, more or less.

import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import * as abi from "../../src/abi-linux.ts";
import { ENOSPC, EROFS } from "../../src/errno.ts";
import {
  Disk,
  overlaySystem,
  overlaySystems,
  whyNoOverlays,
  type OverlayLayers,
  type OverlayMount,
} from "../support-overlay.ts";
import { Actor } from "./actor.ts";
import { DifferentialActor } from "./differential-actor.ts";
import type { Operation } from "./differential-operations.ts";
import { makeSteps, type OverlayStep } from "./overlay-operations.ts";
import { pattern } from "./posix-place.ts";
import { Random } from "./random.ts";
import { shell } from "./shell.ts";

const system = overlaySystem();
const KILLS = Number(process.env["OVERLAY_KILLS"] ?? 100);
const SEED = Number(process.env["FAULTS_SEED"] ?? Date.now() % 1e9);
const OPTIONS = ["redirect_dir=on", "index=off", "metacopy=off"];
/** Directories are in the index too, then, and whiteouts of what was removed. */
const EXPORTED = ["redirect_dir=on", "nfs_export=on"];
const TIMEOUT_MS = 300_000;
/** The kill comes at some time while the work is done, or when it is just done. */
const KILL_WITHIN = 1.3;
const MEASUREMENTS = 3;
const FILE_SIZE = 300_000;
const OLD = pattern(FILE_SIZE, 7);

/** Layers on a disk, the mount of the system under test, and somebody who uses it. */
class Scene implements AsyncDisposable {
  readonly disk: Disk;
  readonly layers: OverlayLayers & { readonly upper: string; readonly work: string };
  readonly mountpoint: string;
  #actor = new Actor("the user of the overlay");
  #mount: OverlayMount | undefined;

  private constructor(disk: Disk, upperBase = disk.path) {
    this.disk = disk;
    const [upper, work] = [`${upperBase}/upper`, `${upperBase}/work`];
    this.layers = { lower: [`${disk.path}/lower`], upper, work };
    this.mountpoint = `${disk.base}/mnt`;
    for (const directory of [upper, work, `${disk.path}/lower`, this.mountpoint])
      mkdirSync(directory);
  }

  /** `upperBase` is where the upper layer and its work directory are: elsewhere than the lower. */
  static async start(upperBase?: string): Promise<Scene> {
    return new Scene(await Disk.start(), upperBase);
  }

  get lower(): string {
    return `${this.disk.path}/lower`;
  }
  get mount(): OverlayMount {
    if (this.#mount === undefined) throw new Error("nothing is mounted");
    return this.#mount;
  }
  get actor(): Actor {
    if (!this.#actor.alive) this.#actor = new Actor("the next user of the overlay");
    return this.#actor;
  }

  at(name: string): string {
    return `${this.mountpoint}/${name}`;
  }

  async start(by = system, options = OPTIONS): Promise<void> {
    this.#mount = await by.mount(this.layers, options, this.mountpoint);
  }

  /** Kills the daemon `delay` milliseconds after the beginning of `work`. */
  async killDuring(delay: number, work: () => Promise<unknown>): Promise<void> {
    const working = work().catch(() => {});
    const start = performance.now();
    // The event loop goes on, so that the request gets out.
    while (performance.now() - start < delay) await new Promise(setImmediate);
    await this.mount.kill();
    await working;
    await this.actor.call("closeAll");
  }

  async contents(name: string): Promise<string | number> {
    const fd = await this.actor.call("open", this.at(name), abi.O_RDONLY);
    if (fd < 0) return fd;
    const data = await this.actor.call("pread", fd, 2 * FILE_SIZE, 0);
    await this.actor.call("close", fd);
    return data;
  }

  /** What a read of these contents gives. */
  async shown(data: string): Promise<string | number> {
    return await this.actor.call("shown", data);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#actor.kill();
    await this.#mount?.kill();
    await this.disk[Symbol.asyncDispose]();
  }
}

/** What is left where the overlay makes temporary files, but for what belongs into the index. */
function leftovers({ layers }: Scene): string[] {
  return ["work", "index"].flatMap((name) => {
    try {
      return readdirSync(`${layers.work}/${name}`).filter((entry) => !entry.startsWith("00fb"));
    } catch {
      return [];
    }
  });
}

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.[Symbol.asyncDispose]();
  scene = undefined;
});

describe.skipIf(whyNoOverlays !== undefined || system.name === "kernel")(
  `killed in the middle (FAULTS_SEED=${SEED})`,
  () => {
    /**
     * Kills the daemon in `work` on something that `make` has put into the lower layer, mounts
     * again, and checks what became of it; in the end also by the kernel.
     */
    async function killOften(
      make: (lower: string, index: number) => void,
      work: (scene: Scene, index: number) => Promise<unknown>,
      check: (scene: Scene, index: number) => Promise<"old" | "new">,
      options = OPTIONS,
    ): Promise<void> {
      const here = await Scene.start();
      scene = here;
      for (let index = 0; index < KILLS + MEASUREMENTS; index++) make(here.lower, index);
      const random = new Random(SEED);
      let limit = 0;
      for (let index = KILLS; index < KILLS + MEASUREMENTS; index++) {
        await here.start(system, options);
        const start = performance.now();
        await work(here, index);
        limit = Math.max(limit, (performance.now() - start) * KILL_WITHIN);
        await here.actor.call("closeAll");
        expect(await check(here, index)).toBe("new");
        await here.mount.unmount();
      }
      const seen: ("old" | "new")[] = [];
      for (let index = 0; index < KILLS; index++) {
        await here.start(system, options);
        await here.killDuring(random.fraction() * limit, () => work(here, index));
        await here.start(system, options);
        seen.push(await check(here, index));
        await here.mount.unmount();
      }
      console.log(`${seen.filter((each) => each === "old").length} of ${KILLS} are as before`);
      expect(leftovers(here)).toEqual([]);
      await here.start(overlaySystems.kernel, options);
      for (const [index, before] of seen.entries()) expect(await check(here, index)).toBe(before);
      await here.mount.unmount();
    }

    test(
      "copy-up: the file is the old one, or the new one",
      async () => {
        await killOften(
          (lower, index) => writeFileSync(`${lower}/f${index}`, OLD, "latin1"),
          async ({ actor, mountpoint }, index) => {
            const fd = await actor.call("open", `${mountpoint}/f${index}`, abi.O_WRONLY);
            await actor.call("pwrite", fd, "new!", 0);
            return await actor.call("fsync", fd);
          },
          async (here, index) => {
            const contents = await here.contents(`f${index}`);
            const isOld = contents === (await here.shown(OLD));
            if (!isOld) expect(contents).toBe(await here.shown(`new!${OLD.slice(4)}`));
            return isOld ? "old" : "new";
          },
        );
      },
      TIMEOUT_MS,
    );

    test(
      "rename of a file: it has the old name, or the new one",
      async () => {
        await killOften(
          (lower, index) => writeFileSync(`${lower}/f${index}`, OLD, "latin1"),
          ({ actor, mountpoint }, index) =>
            actor.call("rename", `${mountpoint}/f${index}`, `${mountpoint}/g${index}`),
          async (here, index) => {
            const old = await here.shown(OLD);
            const found = [await here.contents(`f${index}`), await here.contents(`g${index}`)];
            const isOld = found[0] === old;
            expect(found).toEqual(isOld ? [old, -2] : [-2, old]);
            return isOld ? "old" : "new";
          },
        );
      },
      TIMEOUT_MS,
    );

    test(
      "rename of a directory: it has the old name, or the new one, and all that is in it",
      async () => {
        await killOften(
          (lower, index) => {
            mkdirSync(`${lower}/d${index}`);
            for (const name of ["a", "b"]) writeFileSync(`${lower}/d${index}/${name}`, name);
          },
          ({ actor, mountpoint }, index) =>
            actor.call("rename", `${mountpoint}/d${index}`, `${mountpoint}/e${index}`),
          async (here, index) => {
            const found = [
              await here.actor.call("list", here.at(`d${index}`)),
              await here.actor.call("list", here.at(`e${index}`)),
            ];
            const isOld = Array.isArray(found[0]);
            expect(found).toEqual(isOld ? [["a", "b"], -2] : [-2, ["a", "b"]]);
            expect(await here.contents(`${isOld ? "d" : "e"}${index}/a`)).toBe("a");
            return isOld ? "old" : "new";
          },
          EXPORTED,
        );
      },
      TIMEOUT_MS,
    );

    test(
      "rmdir: the directory is there and empty, or gone",
      async () => {
        await killOften(
          (lower, index) => {
            mkdirSync(`${lower}/d${index}`);
            writeFileSync(`${lower}/d${index}/a`, "a");
          },
          async ({ actor, mountpoint }, index) => {
            await actor.call("unlink", `${mountpoint}/d${index}/a`);
            return await actor.call("rmdir", `${mountpoint}/d${index}`);
          },
          async (here, index) => {
            const found = await here.actor.call("list", here.at(`d${index}`));
            expect(["a", "", "-2"]).toContain(String(found));
            return found === -2 ? "new" : "old";
          },
          EXPORTED,
        );
      },
      TIMEOUT_MS,
    );
  },
);

describe.skipIf(whyNoOverlays !== undefined)("an upper layer that does not take more", () => {
  test(
    "full: a copy-up fails, the file stays as it is, and nothing of it is left",
    async () => {
      await using small = await Disk.start("8M");
      const here = await Scene.start(small.path);
      scene = here;
      const large = pattern(1 << 20, 3);
      for (let part = 0; part < 16; part++)
        writeFileSync(`${here.lower}/large`, large, { encoding: "latin1", flag: "a" });
      writeFileSync(`${here.lower}/small`, "small");
      await here.start();
      const { actor } = here;
      const before = await actor.call("lstat", here.at("large"));
      expect(await actor.call("open", here.at("large"), abi.O_RDWR)).toBe(-ENOSPC);
      expect(await actor.call("chmod", here.at("large"), 0o600)).toBe(-ENOSPC);
      expect(await actor.call("rename", here.at("large"), here.at("larger"))).toBe(-ENOSPC);
      expect(await actor.call("lstat", here.at("large"))).toEqual(before);
      expect(readdirSync(here.layers.upper)).toEqual([]);
      expect(leftovers(here)).toEqual([]);
      // There is room for this.
      expect(await actor.call("chmod", here.at("small"), 0o600)).toBe(0);
      expect(await actor.call("unlink", here.at("large"))).toBe(0);
      await here.mount.unmount();
    },
    TIMEOUT_MS,
  );

  test("read-only from the beginning: it can't be mounted", async () => {
    await using small = await Disk.start("8M");
    const here = await Scene.start(small.path);
    scene = here;
    await shell(`mount -o remount,ro ${small.path}`);
    await expect(here.start()).rejects.toThrow();
  });

  test("read-only later: nothing can be changed, everything read", async () => {
    await using small = await Disk.start("8M");
    const here = await Scene.start(small.path);
    scene = here;
    writeFileSync(`${here.lower}/a`, "a");
    writeFileSync(`${here.layers.upper}/b`, "b");
    await here.start();
    await shell(`mount -o remount,ro ${small.path}`);
    const { actor } = here;
    expect(await here.contents("a")).toBe("a");
    expect(await here.contents("b")).toBe("b");
    for (const name of ["a", "b"]) {
      expect(await actor.call("tryOpen", here.at(name), abi.O_RDWR)).toBe(-EROFS);
      expect(await actor.call("chmod", here.at(name), 0o600)).toBe(-EROFS);
      expect(await actor.call("unlink", here.at(name))).toBe(-EROFS);
      expect(await actor.call("rename", here.at(name), here.at("c"))).toBe(-EROFS);
    }
    expect(await actor.call("mkdir", here.at("d"))).toBe(-EROFS);
    await shell(`mount -o remount,rw ${small.path}`);
    expect(await actor.call("mkdir", here.at("d"))).toBe(0);
    expect(await actor.call("chmod", here.at("a"), 0o600)).toBe(0);
    await here.mount.unmount();
  });

  test("none at all: a read-only overlay", async () => {
    const here = await Scene.start();
    scene = here;
    writeFileSync(`${here.lower}/a`, "a");
    mkdirSync(`${here.disk.path}/lower2`);
    writeFileSync(`${here.disk.path}/lower2/b`, "b");
    const lower = [here.lower, `${here.disk.path}/lower2`];
    const mount = await system.mount({ lower }, [], here.mountpoint);
    const { actor } = here;
    expect(await actor.call("list", here.mountpoint)).toEqual(["a", "b"]);
    expect(await actor.call("tryOpen", here.at("a"), abi.O_RDWR)).toBe(-EROFS);
    expect(await actor.call("mkdir", here.at("d"))).toBe(-EROFS);
    expect(await actor.call("unlink", here.at("b"))).toBe(-EROFS);
    expect(await actor.call("setxattr", here.at("a"), "user.a", "x")).toBe(-EROFS);
    await mount.unmount();
  });
});

describe.skipIf(whyNoOverlays !== undefined)("layers that change underneath", () => {
  test.each([1, 2, 3, 4, 5].map((add) => SEED + add))(
    "whatever an overlay shows then, it goes on (seed %d)",
    async (seed) => {
      const here = await Scene.start();
      scene = here;
      using user = new DifferentialActor("the user of the overlay");
      using vandal = new DifferentialActor("who changes the layers");
      const random = new Random(seed);
      const steps = makeSteps(random, { layers: 2, operations: 800, rotates: false });
      // Who reads a mapping of a file that gets shorter dies.
      const isOperation = (step: OverlayStep): step is Operation =>
        typeof step[0] === "number" && !/^m(map|apAnd)/.test(step[1]);
      const [used, changed] = [steps.slice(0, 400), steps.slice(400)].map((half) =>
        half.filter(isOperation),
      );
      const layers = [here.lower, here.layers.upper];
      for (const layer of layers) {
        await vandal.start(layer, true, "overlay");
        const rows = makeSteps(random, { layers: 1, operations: 0, rotates: false });
        for (const step of rows)
          if (step[0] === "layer") await vandal.perform([0, step[2], ...step.slice(3)]);
      }
      await here.start();
      await user.start(here.mountpoint, true, "overlay");
      for (const [index, operation] of (used ?? []).entries()) {
        if (index % 40 === 0) await vandal.start(random.pick(layers), true, "overlay");
        const other = changed?.[index];
        await Promise.all([
          user.perform(operation),
          other === undefined ? undefined : vandal.perform(other),
        ]);
      }
      await user.snapshot(here.mountpoint);
      await user.start("/", true, "overlay");
      here.mount.check();
      expect(await here.actor.call("mkdir", here.at("still-there"))).toBe(0);
      await here.mount.unmount();
    },
    TIMEOUT_MS,
  );

  test("a lower layer is replaced by a file, by a link, by nothing", async () => {
    const here = await Scene.start();
    scene = here;
    for (const name of ["a", "b", "c"]) {
      mkdirSync(`${here.lower}/${name}/deep`, { recursive: true });
      writeFileSync(`${here.lower}/${name}/deep/file`, name);
    }
    await here.start();
    const { actor } = here;
    for (const name of ["a", "b", "c"]) await here.contents(`${name}/deep/file`);
    for (const name of ["a", "b", "c"]) rmSync(`${here.lower}/${name}`, { recursive: true });
    writeFileSync(`${here.lower}/a`, "a file");
    const outside = mkdtempSync(`${here.disk.base}/outside-`);
    writeFileSync(`${outside}/secret`, "secret");
    symlinkSync(outside, `${here.lower}/b`);
    for (const name of ["a", "b", "c"]) {
      const result = await actor.call(
        "open",
        here.at(`${name}/deep/new`),
        abi.O_CREAT | abi.O_RDWR,
      );
      if (result >= 0) await actor.call("close", result);
      await actor.call("list", here.at(name));
      await actor.call("rename", here.at(`${name}/deep`), here.at(`${name}/deeper`));
    }
    expect(readdirSync(outside)).toEqual(["secret"]);
    here.mount.check();
    expect(await actor.call("mkdir", here.at("still-there"))).toBe(0);
    await here.mount.unmount();
  });
});
