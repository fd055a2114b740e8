// Overlays for tests that say by scripts what the layers are and what is done: the same on the
// kernel's overlay and on ours, of which each must then show what the other has left.

import { mkdirSync, rmSync } from "node:fs";
import { expect } from "bun:test";
import {
  overlaySystem,
  overlaySystems,
  type Disk,
  type OverlayMount,
  type OverlaySystem,
} from "../support-overlay.ts";
import { shell } from "./shell.ts";

const { kernel } = overlaySystems;
let count = 0;

/** Layers on a disk: l1 (the topmost), l2 … and u and w, mounted on mnt. */
export class Stage implements AsyncDisposable {
  readonly base: string;
  readonly #lower: readonly string[];
  #mount: OverlayMount | undefined;

  /** `lower`: the names of the lower layers, from the top. */
  private constructor(base: string, lower: readonly string[]) {
    this.base = base;
    this.#lower = lower.map((name) => `${base}/${name}`);
    for (const name of [...lower, "u", "w", "mnt"])
      mkdirSync(`${base}/${name}`, { recursive: true });
  }

  /** `make` is a script that fills the layers. */
  static async start(
    disk: Disk,
    make = "true",
    lower: readonly string[] = ["l1", "l2"],
  ): Promise<Stage> {
    const stage = new Stage(`${disk.path}/stage-${count++}`, lower);
    await stage.run(make);
    return stage;
  }

  get mountpoint(): string {
    return `${this.base}/mnt`;
  }

  get daemon(): OverlayMount {
    if (this.#mount === undefined) throw new Error("nothing is mounted");
    return this.#mount;
  }

  at(name: string): string {
    return `${this.mountpoint}/${name}`;
  }

  /** Runs a script beside the layers. */
  run(script: string): Promise<string> {
    return shell(script, { cwd: this.base });
  }

  /** Runs a script on the mount. */
  do(script: string): Promise<string> {
    return shell(script, { cwd: this.mountpoint });
  }

  async mount(
    options: readonly string[] = [],
    by: OverlaySystem = overlaySystem(),
    {
      isReadOnly = false,
      lower = this.#lower,
    }: { isReadOnly?: boolean; lower?: readonly string[] } = {},
  ): Promise<void> {
    const layers = isReadOnly
      ? { lower }
      : { lower, upper: `${this.base}/u`, work: `${this.base}/w` };
    this.#mount = await by.mount(layers, options, this.mountpoint);
  }

  async unmount(): Promise<void> {
    await this.daemon.unmount();
    this.#mount = undefined;
  }

  /** What an overlay of these layers shows: one line a file, and what is in it. */
  tree(): Promise<string> {
    return this.do(TREE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#mount?.kill();
    rmSync(this.base, { recursive: true, force: true });
  }
}

// The number of links of directories, and all of inode numbers, are matters of other tests.
const TREE = `
  find . -mindepth 1 \\( -type d -printf '%P d %m %U:%G\\n' -o -printf '%P %y %m %U:%G %n %s %l\\n' \\) | sort
  find . -type f -print0 | sort -z | xargs -0 -r sha1sum`;

interface Comparison {
  readonly make?: string;
  readonly lower?: readonly string[];
  /** Of both mounts. */
  readonly options?: readonly string[];
  /** Done on the mount; what it prints is compared. */
  readonly script?: string | ((stage: Stage) => Promise<string>);
  readonly isReadOnly?: boolean;
}

/**
 * Does the same on an overlay of the kernel and on ours. Both must print and show the same, also
 * when they are mounted again, and by the other. Returns what was printed.
 */
export async function compare(
  disk: Disk,
  { make = "true", lower, options = [], script = "true", isReadOnly = false }: Comparison,
): Promise<string> {
  await using theirs = await Stage.start(disk, make, lower);
  await using ours = await Stage.start(disk, `cp -a ${theirs.base}/. .`, lower);
  const system = overlaySystem();
  const how = { isReadOnly };
  await theirs.mount(options, kernel, how);
  await ours.mount(options, system, how);
  const run = (stage: Stage): Promise<string> =>
    typeof script === "string" ? stage.do(script) : script(stage);
  const printed = await run(theirs);
  expect(await run(ours)).toBe(printed);
  const tree = await theirs.tree();
  expect(await ours.tree()).toBe(tree);
  await theirs.unmount();
  await ours.unmount();
  // Ours again, each of them by the other.
  for (const [stage, by] of [
    [ours, system],
    [ours, kernel],
    [theirs, system],
  ] as const) {
    await stage.mount(options, by, how);
    expect(await stage.tree()).toBe(tree);
    await stage.unmount();
  }
  return printed;
}
