// What the differential test works on: a plain directory and a mount, or several file systems under
// one directory and the same under one mount, of which some come and go.

import { chmod, mkdir, rmdir } from "node:fs/promises";
import { EIO } from "../../src/errno.ts";
import { Mount, type VfsMounts } from "../support-mount.ts";
import { ROOT_PLACE, UNMOUNT, type Places } from "./differential-operations.ts";
import type { Actors } from "./differential-sides.ts";
import type { Lost } from "./differential-world.ts";

/** Two trees that have to be the same. */
export interface Trees {
  /** What the second is, for messages. */
  readonly what: string;
  readonly bare: string;
  readonly other: string;
  /** Whose actor looks at the second. */
  readonly side: 0 | 1;
}

/** Two outcomes that have to be the same. */
export type Outcomes = readonly [bare: unknown, mounted: unknown];

export interface Ground extends AsyncDisposable {
  /** What a sequence of operations may contain because of it. */
  readonly profile: Places;
  /** What the daemon has written. */
  readonly output: string;
  /** Makes new, empty directories on both sides, where the operations are done. */
  begin(): Promise<readonly [bare: string, mounted: string]>;
  /** What has to be the same at present. */
  trees(): readonly Trees[];
  /** Has a file system come or go on both sides, where `actors` work. */
  change(how: string, name: string, actors: Actors): Promise<Outcomes>;
}

/** A directory and a mount. */
export class PlainGround implements Ground {
  readonly profile = {};
  readonly #mount: Mount;
  #trial = 0;
  #trees: readonly Trees[] = [];

  private constructor(mount: Mount) {
    this.#mount = mount;
  }

  static async start(options: readonly string[]): Promise<PlainGround> {
    return new PlainGround(await Mount.start({ options }));
  }

  get output(): string {
    return this.#mount.output;
  }

  async begin(): Promise<[bare: string, mounted: string]> {
    await this.#revive();
    const { base, mountpoint } = this.#mount;
    // One directory more, for the links that lead upwards.
    const name = `trial-${this.#trial++}/root`;
    const [bare, source] = [`${base}/bare/${name}`, `${this.#mount.source}/${name}`];
    for (const directory of [bare, source]) await makeForAll(directory);
    const mounted = `${mountpoint}/${name}`;
    this.#trees = [
      { what: "the mount's tree", bare, other: mounted, side: 1 },
      { what: "the source's tree", bare, other: source, side: 0 },
    ];
    return [bare, mounted];
  }

  /** Replaces a daemon that did not survive the run before. */
  async #revive(): Promise<void> {
    try {
      this.#mount.check();
    } catch {
      await this.#mount.kill();
      await this.#mount.run();
    }
  }

  trees(): readonly Trees[] {
    return this.#trees;
  }

  change(): Promise<Outcomes> {
    throw new Error("there is one file system, which stays");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#mount[Symbol.asyncDispose]();
  }
}

/** Options of file systems by their paths on the mount: "/" if there is one, and names below. */
export type Mounts = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

/**
 * Several file systems under one mount. On the other side they are bind mounts, so that it is the
 * kernel that says EXDEV between them; what they hang on is one too, or a read-only tmpfs.
 */
export class VfsGround implements Ground {
  readonly profile: { readonly mounts: readonly string[]; readonly hasRoot: boolean };
  readonly #options: readonly string[];
  readonly #all: Mounts;
  #mount: Mount | undefined;
  /** Of those that come and go, those that are there. */
  readonly #present = new Set<string>();

  constructor(options: readonly string[], mounts: Mounts) {
    this.#options = options;
    this.#all = mounts;
    const names = Object.keys(mounts).map((path) => path.slice(1));
    this.profile = { mounts: names.filter((name) => name !== ""), hasRoot: names.includes("") };
  }

  get output(): string {
    return this.#mount?.output ?? "";
  }

  get #base(): string {
    return this.#mount?.base ?? "";
  }
  get #bare(): string {
    return `${this.#base}/bare`;
  }
  /** The directory of a file system; that of the root has no name. */
  #source(side: "src" | "bare-src", name: string): string {
    return `${this.#base}/${side}/${name === "" ? "root" : name}`;
  }

  /** What is to be mounted at present. */
  get #wanted(): VfsMounts {
    const names = [...(this.profile.hasRoot ? [""] : []), ...this.#present];
    return Object.fromEntries(
      names.map((name) => {
        const source = `src/${name === "" ? "root" : name}`;
        return [`/${name}`, { ...this.#all[`/${name}`], source }];
      }),
    );
  }

  async begin(): Promise<[bare: string, mounted: string]> {
    await this[Symbol.asyncDispose]();
    const { mounts, hasRoot } = this.profile;
    for (const name of mounts) this.#present.add(name);
    this.#mount = await Mount.start({ options: this.#options, mounts: this.#wanted });
    for (const side of ["src", "bare-src"] as const) {
      for (const name of mounts) await makeForAll(this.#source(side, name));
      if (!hasRoot) continue;
      for (const name of mounts) await makeForAll(`${this.#source(side, "")}/${name}`);
      await makeForAll(`${this.#source(side, "")}/${ROOT_PLACE}`);
    }
    await mkdir(this.#bare);
    if (hasRoot) run("mount", "--bind", this.#source("bare-src", ""), this.#bare);
    else run("mount", "-t", "tmpfs", "-o", "ro,mode=755", "none", this.#bare);
    for (const name of mounts) await this.#mountBare(name);
    return [this.#bare, this.#mount.mountpoint];
  }

  async #mountBare(name: string): Promise<void> {
    await this.#changeTree(() => mkdir(`${this.#bare}/${name}`));
    run("mount", "--bind", this.#source("bare-src", name), `${this.#bare}/${name}`);
  }

  async #unmountBare(name: string): Promise<void> {
    run("umount", `${this.#bare}/${name}`);
    await this.#changeTree(() => rmdir(`${this.#bare}/${name}`));
  }

  /** Without a file system above, names are only there as long as something is mounted there. */
  async #changeTree(work: () => Promise<unknown>): Promise<void> {
    if (this.profile.hasRoot) return;
    run("mount", "-o", "remount,rw", this.#bare);
    await work();
    run("mount", "-o", "remount,ro", this.#bare);
  }

  trees(): readonly Trees[] {
    const { mounts, hasRoot } = this.profile;
    const mounted = this.#mount?.mountpoint ?? "";
    const seen = (at: string): Trees => ({
      what: `the mount's tree at /${at}`,
      bare: `${this.#bare}/${at}`,
      other: `${mounted}/${at}`,
      side: 1,
    });
    const behind = (name: string): Trees => ({
      what: `the source's tree of /${name}`,
      bare: this.#source("bare-src", name),
      other: this.#source("src", name),
      side: 0,
    });
    return [
      ...(hasRoot ? [seen("")] : [...this.#present].map(seen)),
      ...(hasRoot ? ["", ...mounts] : mounts).map(behind),
    ];
  }

  async change(how: string, name: string, actors: Actors): Promise<Outcomes> {
    const goes = how === UNMOUNT;
    // What is left of a sequence may mount or unmount twice.
    if (goes !== this.#present.has(name)) return [null, null];
    return goes ? await this.#go(name, actors) : await this.#come(name, actors);
  }

  async #come(name: string, actors: Actors): Promise<Outcomes> {
    this.#present.add(name);
    await this.#mountBare(name);
    await this.#mount?.reload(this.#wanted);
    for (const actor of [...actors.all(0), ...actors.all(1)]) await actor.mounted(name);
    return [null, null];
  }

  /**
   * The kernel does not unmount what is in use, so there it is closed before. On the mount it is
   * used once more, after, and must give EIO.
   */
  async #go(name: string, actors: Actors): Promise<Outcomes> {
    this.#present.delete(name);
    const closed = await Promise.all(actors.all(0).map((actor) => actor.unmounted(name, false)));
    await this.#unmountBare(name);
    await this.#mount?.reload(this.#wanted);
    const lost = await Promise.all(actors.all(1).map((actor) => actor.unmounted(name, true)));
    return [closed, lost.map(withoutEio)];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const mount = this.#mount;
    this.#mount = undefined;
    if (mount === undefined) return;
    Bun.spawnSync(["umount", "--recursive", "--lazy", `${mount.base}/bare`]);
    await mount[Symbol.asyncDispose]();
  }
}

/** Slots and what was not EIO. */
function withoutEio(lost: Lost): Lost {
  return lost.map(([slot, ...results]) => [slot, ...results.filter((result) => result !== -EIO)]);
}

async function makeForAll(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  await chmod(directory, 0o777);
}

function run(...command: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(command, { stdio: ["ignore", "ignore", "pipe"] });
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString().trim()}`);
}
