// The differential test of overlays: the same layers and the same random operations, by root and by
// an ordinary user in lock-step, on an overlay of the kernel and on one of the system under test.
// Both must give the same results and the same files, also after mounts again; in the end each
// mounts the layers of the other, and must show what the other has shown.
//
// A round has many trees, below the root of one mount, so that few mounts do for many sequences. A
// sequence that fails is tried alone and made as short as possible by leaving steps out.
//
// Where the kernel's overlay is one of several truths, nothing is compared:
// - size and number of links of directories, and their ctime: they depend on what lies in the upper
//   layer and how it came there;
// - ctime of files that have or had several names: with an index, the kernel gives the copy each of
//   them when it is used;
// - ctime of a file that loses set-group-id when its ACL is removed: the kernel leaves it;
// - chmod(2) to the mode that a file has already, and renames onto directories that are not empty:
//   the kernel copies up all the same;
// - removing an ACL that is not there: the kernel says so of files in lower layers only, and which
//   are there depends on the names by which a file was copied up that has several;
// - holes in files that were copied up: see `seekData` in overlay-operations.ts;
// - what a descriptor that only reads sees through mmap(2) after a copy-up: the kernel maps the old
//   file, whereas read(2) reads the new one;
// - changes by descriptor of a file whose last name is gone: the kernel copies it up, and its name
//   is
//   there again after the next mount, or that fails because another file has its name;
// - names that are listed, but not there: the kernel lists the whiteouts of a directory which is in
//   one layer only;
// - inode numbers in lists, where the kernel's differ from those of stat(2);
// - with metacopy=on, the time of modification where the kernel has the time at which it has copied
//   the data, and the other the file's own;
// - with nfs_export=on, the number of links of files: after the next mount, the kernel counts the
//   index as one more of a file that was copied up;
// - inode numbers themselves. But a file that keeps its number in the kernel's overlay, through an
//   operation or another mount, keeps it in the other; and the same files share one. With
//   nfs_export=on, the other's file handles open the same files after another mount. Of the kernel
//   none are taken, since that copies directories up.

import { chmodSync, mkdirSync, rmSync } from "node:fs";
import { EINVAL, EISDIR, ENOENT } from "../../src/errno.ts";
import {
  Disk,
  isMounted,
  type OverlayLayers,
  type OverlayMount,
  type OverlaySystem,
  overlaySystems,
} from "../support-overlay.ts";
import type { Inode } from "./differential-actor.ts";
import { LISTED_ONLY, type Operation } from "./differential-operations.ts";
import {
  Actors,
  DifferentialFailure,
  explain,
  print,
  shorten,
  type Difference,
} from "./differential-sides.ts";
import { makeSteps, type LayerStep, type OverlayStep } from "./overlay-operations.ts";
import { Random } from "./random.ts";

export interface OverlaySetup {
  readonly seed: number;
  /** Sequences a round, and operations a sequence. */
  readonly trees: number;
  readonly operations: number;
}

/** The options of both mounts, unless told otherwise. */
export const OVERLAY_CONFIGURATIONS: readonly (readonly string[])[] = [
  ["redirect_dir=off", "index=off", "metacopy=off", "xino=off"],
  ["redirect_dir=on", "index=off", "metacopy=off", "xino=off"],
  ["redirect_dir=nofollow", "index=on", "metacopy=off", "xino=auto"],
  ["redirect_dir=on", "index=on", "metacopy=off", "xino=on"],
  ["redirect_dir=on", "index=on", "metacopy=off", "xino=on", "nfs_export=on"],
  ["redirect_dir=on", "index=off", "metacopy=on", "xino=off"],
  ["redirect_dir=on", "index=on", "metacopy=on", "xino=on"],
];

const CHECKPOINT_INTERVAL = 40;
const SIDES = [0, 1] as const;
/** The side that is not the kernel's. */
const OTHER = 1;
/** Upper layers that a run may get on top of its first, by "rotate". */
const ROTATIONS_MAX = 2;
const LAYERS_MAX = 4;

/** What all trees of a round have in common. */
export interface OverlayRun {
  /** With the upper one. */
  readonly layers: number;
  readonly trees: readonly (readonly OverlayStep[])[];
}

export interface OverlayDifference extends Difference {
  /** The tree in which it is, or -1 for the mount as a whole. */
  readonly tree: number;
}

export class OverlayDifferential implements AsyncDisposable {
  readonly #system: OverlaySystem;
  readonly #options: readonly string[];
  readonly #disk: Disk;
  readonly #actors: Actors;
  #run = 0;
  #output = "";

  private constructor(system: OverlaySystem, options: readonly string[], disk: Disk) {
    this.#system = system;
    this.#options = options;
    this.#disk = disk;
    this.#actors = new Actors("overlay", "kernel", system.name);
  }

  /** `options` are given to both mounts. */
  static async start(
    system: OverlaySystem,
    options: readonly string[],
  ): Promise<OverlayDifferential> {
    return new OverlayDifferential(system, options, await Disk.start());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#actors.kill();
    await this.#disk[Symbol.asyncDispose]();
  }

  /** The layers and steps of a seed. */
  make({ seed, trees, operations }: OverlaySetup): OverlayRun {
    const random = new Random(seed);
    const layers = 2 + random.below(LAYERS_MAX - 1);
    // The index belongs to one upper layer.
    const rotates = !this.#options.includes("index=on");
    const make = (): OverlayStep[] => makeSteps(random, { layers, operations, rotates });
    return { layers, trees: Array.from({ length: trees }, make) };
  }

  /**
   * One round of random sequences. Throws DifferentialFailure with a short sequence that fails.
   */
  async round(setup: OverlaySetup): Promise<void> {
    const run = this.make(setup);
    const difference = await this.run(run);
    if (difference === undefined) return;
    const text =
      `seed ${setup.seed} with ${setup.trees} trees of ${setup.operations} operations and options ` +
      `${this.#options.join(",")} differs in tree ${difference.tree} after ${difference.after} ` +
      `steps.\n${this.explain(difference)}\nRepeat it by\n  bun scripts/differential.ts ` +
      `--overlay ${this.#system.name} --options=${this.#options.join(",")} ` +
      `--seed ${setup.seed} --rounds 1 --trees ${setup.trees} --operations ${setup.operations}\n`;
    throw new DifferentialFailure(text + (await this.#short(run, difference)));
  }

  /** The tree that differs, alone and as short as it gets. */
  async #short({ layers, trees }: OverlayRun, { tree, after }: Difference & { tree: number }) {
    const alone = (steps: readonly OverlayStep[]): Promise<OverlayDifference | undefined> =>
      this.run({ layers, trees: [steps] });
    const whole = trees[tree]?.slice(0, after) ?? trees.flat();
    if ((await alone(whole)) === undefined) return "It does not differ alone.";
    const short = await shorten(whole, async (fewer) => (await alone(fewer))?.after);
    const shown = await alone(short);
    return (
      `As short as it gets, with ${layers} layers (--layers ${layers} --replay FILE):\n` +
      `${await print(short)}\n\n${shown === undefined ? "not every time" : this.explain(shown)}`
    );
  }

  /** What differs, for a reader. */
  explain(difference: Difference): string {
    const differs = explain(difference, "kernel", this.#system.name);
    return this.#output === "" ? differs : `${differs}\nThe daemon wrote:\n${this.#output}`;
  }

  /** Makes new layers on both sides and does all steps. */
  async run(run: OverlayRun): Promise<OverlayDifference | undefined> {
    this.#actors.prepare();
    this.#output = "";
    const base = `${this.#disk.path}/run-${this.#run++}`;
    const stacks = [
      new Stack(`${base}/kernel`, run.layers, overlaySystems.kernel, this.#options),
      new Stack(`${base}/other`, run.layers, this.#system, this.#options),
    ] as const;
    const trial = new Trial(this.#actors, stacks, run, this.#options);
    try {
      return await trial.result();
    } catch (error) {
      // A process that hangs, or dies with its mount.
      const what = error instanceof Error ? error.message : String(error);
      return { ...trial.position, what, expected: undefined, actual: undefined };
    } finally {
      this.#output = stacks[1].output;
      if (!trial.isOver) this.#actors.kill(); // They hold the mounts.
      for (const stack of stacks) await stack.kill();
      rmSync(base, { recursive: true, force: true });
    }
  }
}

/** The layers of one side, and their mount. */
class Stack {
  readonly mountpoint: string;
  readonly #base: string;
  readonly system: OverlaySystem;
  readonly #options: readonly string[];
  /** From the upper one to the lowest. */
  readonly #layers: string[] = [];
  #mount: OverlayMount | undefined;
  #uppers = 0;

  constructor(base: string, layers: number, system: OverlaySystem, options: readonly string[]) {
    this.#base = base;
    this.system = system;
    this.#options = options;
    this.mountpoint = `${base}/mnt`;
    mkdirSync(this.mountpoint, { recursive: true });
    for (let layer = layers - 1; layer >= 1; layer--) this.#layers.unshift(this.#make(`l${layer}`));
    this.rotate();
  }

  get layers(): readonly string[] {
    return this.#layers;
  }
  get output(): string {
    return this.#mount?.output ?? "";
  }
  get rotations(): number {
    return this.#uppers - 1;
  }

  /** Makes the upper layer a lower one, and a new upper layer. */
  rotate(): void {
    mkdirSync(`${this.#base}/work${this.#uppers}`);
    this.#layers.unshift(this.#make(`u${this.#uppers++}`));
  }

  #make(name: string): string {
    const directory = `${this.#base}/${name}`;
    mkdirSync(directory);
    chmodSync(directory, 0o777);
    return directory;
  }

  async mount(system = this.system): Promise<void> {
    const [upper, ...lower] = this.#layers;
    const layers: OverlayLayers = { lower, upper, work: `${this.#base}/work${this.#uppers - 1}` };
    this.#mount = await system.mount(layers, this.#options, this.mountpoint);
  }
  async unmount(): Promise<void> {
    await this.#mount?.unmount();
  }
  async kill(): Promise<void> {
    if (isMounted(this.mountpoint)) await this.#mount?.kill();
  }
}

/** One run, until the first difference. */
class Trial {
  readonly #actors: Actors;
  readonly #stacks: readonly [Stack, Stack];
  readonly #run: OverlayRun;
  position = { tree: -1, after: 0 };
  /** Whether the mounts have been taken off. */
  isOver = false;

  readonly #hasMetacopy: boolean;
  readonly #hasIndex: boolean;
  readonly #isExported: boolean;

  constructor(
    actors: Actors,
    stacks: readonly [Stack, Stack],
    run: OverlayRun,
    options: readonly string[],
  ) {
    this.#hasMetacopy = options.includes("metacopy=on");
    this.#hasIndex = options.includes("index=on");
    this.#isExported = options.includes("nfs_export=on");
    this.#actors = actors;
    this.#stacks = stacks;
    this.#run = run;
  }

  get #mountpoints(): readonly [string, string] {
    return [this.#stacks[0].mountpoint, this.#stacks[1].mountpoint];
  }

  async result(): Promise<OverlayDifference | undefined> {
    return (
      (await this.#makeLayers()) ??
      (await this.#mounts((stack) => stack.mount())) ??
      (await this.#steps()) ??
      (await this.#compareTrees("")) ??
      (await this.#crossMount())
    );
  }

  #differs(what: string, expected: unknown, actual: unknown): OverlayDifference | undefined {
    if (Bun.deepEquals(expected, actual)) return undefined;
    if (this.#hasMetacopy && Bun.deepEquals(withoutCopyTime(expected, actual), actual))
      return undefined;
    if (this.#isExported && Bun.deepEquals(withoutLinks(expected), withoutLinks(actual)))
      return undefined;
    return { ...this.position, what, expected, actual };
  }

  async #mounts(work: (stack: Stack) => Promise<void>): Promise<undefined> {
    for (const stack of this.#stacks) await work(stack);
  }

  async #makeLayers(): Promise<OverlayDifference | undefined> {
    for (let layer = this.#run.layers - 1; layer >= 0; layer--) {
      const isLowest = layer === this.#run.layers - 1;
      for (const [tree, steps] of this.#run.trees.entries()) {
        const mine = steps.filter((step): step is LayerStep => step[0] === "layer");
        const here = mine.filter((step) => step[1] === layer);
        if (!isLowest && here.length === 0) continue;
        const directories = this.#inLayers(layer, `/t${tree}`);
        for (const directory of directories) {
          mkdirSync(directory);
          chmodSync(directory, 0o777);
        }
        await this.#actors.start(directories);
        for (const [, , ...operation] of here) {
          this.position = { tree, after: steps.length };
          const difference = await this.#perform([0, ...operation]);
          if (difference !== undefined) return difference;
        }
      }
      await this.#actors.start(this.#inLayers(layer, ""));
      await this.#perform([0, "makeOld"]);
    }
    return undefined;
  }

  #inLayers(layer: number, path: string): [string, string] {
    const [a, b] = this.#stacks;
    return [`${a.layers[layer]}${path}`, `${b.layers[layer]}${path}`];
  }

  async #steps(): Promise<OverlayDifference | undefined> {
    for (const [tree, steps] of this.#run.trees.entries()) {
      const directories = this.#mountpoints.map((path) => `${path}/t${tree}`) as [string, string];
      await this.#actors.start(directories);
      for (const [index, step] of steps.entries()) {
        if (step[0] === "layer") continue;
        this.position = { tree, after: index + 1 };
        const isMount = step[0] === "remount" || step[0] === "rotate";
        const difference = isMount
          ? await this.#remount(step[0] === "rotate")
          : await this.#perform(step as Operation);
        if (difference !== undefined) return difference;
        if (isMount) await this.#actors.start(directories);
        if ((index + 1) % CHECKPOINT_INTERVAL > 0 && index + 1 < steps.length) continue;
        const seen = await this.#compareTrees(`/t${tree}`);
        if (seen !== undefined) return seen;
      }
    }
    return undefined;
  }

  async #perform(operation: Operation): Promise<OverlayDifference | undefined> {
    const [expected, actual] = await this.#actors.both(operation[0], (actor) =>
      actor.perform(operation),
    );
    const what = `step ${this.position.after}, ${operation[1]}`;
    const [one, other] = this.#keepsCtime(operation)
      ? [expected, actual]
      : [expected, actual].map(withoutCtime);
    const results = [one, withListed(other, one)]
      .map((each) => withoutOffset(operation, each))
      .map((each) => withoutSideEffects(operation, each));
    return this.#differs(what, comparable(results[0]), comparable(results[1]));
  }

  /** Whether both must agree on what an operation does to the ctime of its files. */
  #keepsCtime([, name]: Operation): boolean {
    // The kernel may copy the data only now.
    const isLate = this.#hasMetacopy && name === "open";
    const steps = this.#run.trees[this.position.tree] ?? [];
    const has = (what: string): boolean =>
      steps.some((step: readonly unknown[]) => step.includes(what));
    const hasLinksBelow = has("layerLink") || (has("link") && has("rotate"));
    return !isLate && !(this.#hasIndex && hasLinksBelow) && name !== "removexattr";
  }

  async #compareTrees(path: string): Promise<OverlayDifference | undefined> {
    const [expected, actual] = await this.#snapshots(path);
    return this.#compare(expected, actual, "the mount's tree");
  }

  async #snapshots(path: string): Promise<[Tree, Tree]> {
    const both = await this.#actors.both(0, (actor, side) =>
      actor.snapshot(`${this.#mountpoints[side]}${path}`),
    );
    return both.map((tree) => {
      const there = Object.entries(tree).filter(([, found]) => found !== -ENOENT);
      return comparable(Object.fromEntries(there));
    }) as [Tree, Tree];
  }

  #compare(expected: Tree, actual: Tree, where: string): OverlayDifference | undefined {
    for (const name of Object.keys({ ...expected, ...actual })) {
      const difference = this.#differs(`"${name}" in ${where}`, expected[name], actual[name]);
      if (difference !== undefined) return this.#inTree(name, difference);
    }
    return undefined;
  }

  /** A difference that was seen in the mount as a whole. */
  #inTree(name: string, difference: OverlayDifference): OverlayDifference {
    const tree = Number(/^\/t(\d+)/.exec(name)?.[1] ?? -1);
    const steps = this.#run.trees[tree];
    return steps === undefined ? difference : { ...difference, tree, after: steps.length };
  }

  async #remount(rotates: boolean): Promise<OverlayDifference | undefined> {
    const before = await this.#inodes();
    await this.#actors.start(["/", "/"]);
    await this.#mounts((stack) => stack.unmount());
    if (rotates && this.#stacks[0].rotations < ROTATIONS_MAX)
      for (const stack of this.#stacks) stack.rotate();
    await this.#mounts((stack) => stack.mount());
    // Before anything is looked up by its name.
    const opened = this.#isExported ? await this.#opened(before[OTHER]) : undefined;
    const after = await this.#inodes();
    for (const name of Object.keys({ ...before[0], ...before[1] })) {
      const kept = SIDES.map((side) => before[side][name]?.ino === after[side][name]?.ino);
      if (opened !== undefined && opened[name] !== after[OTHER][name]?.ino)
        return this.#differs(
          `what the handle of "${name}" opens after a remount`,
          "it",
          opened[name],
        );
      const listed = SIDES.map((side) => after[side][name]?.isListed);
      if (kept[0] === true && kept[1] !== true)
        return this.#differs(`the inode number of "${name}" after a remount`, "kept", "another");
      const where = `type and inode number of "${name}" in its directory's list`;
      const difference = this.#differs(`${where}, if they are the file's`, listed[0], listed[1]);
      if (difference !== undefined) return difference;
    }
    return undefined;
  }

  async #inodes() {
    return await this.#actors.both(0, (actor, side) =>
      actor.inodes(this.#mountpoints[side], this.#isExported && side === OTHER),
    );
  }

  /** What the other's handles open. */
  async #opened(of: Inodes) {
    const entries = Object.entries(of).flatMap(([name, { handle }]) =>
      typeof handle === "string" ? [[name, handle] as const] : [],
    );
    const [, opened] = await this.#actors.both(0, (actor, side) =>
      actor.opened(this.#mountpoints[side], side === OTHER ? Object.fromEntries(entries) : {}),
    );
    return opened;
  }

  /** Each mounts the layers of the other. */
  async #crossMount(): Promise<OverlayDifference | undefined> {
    const before = await this.#snapshots("");
    await this.#actors.start(["/", "/"]);
    const [theirs, others] = this.#stacks;
    await this.#mounts((stack) => stack.unmount());
    await theirs.mount(others.system);
    await others.mount(theirs.system);
    const after = await this.#snapshots("");
    await this.#mounts((stack) => stack.unmount());
    this.isOver = true;
    return (
      this.#compare(before[0], after[0], "the kernel's layers, mounted by the other") ??
      this.#compare(before[1], after[1], "the other's layers, mounted by the kernel")
    );
  }
}

type Tree = Record<string, unknown>;
type Inodes = Readonly<Record<string, Inode>>;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;

/**
 * What the oracle says, with the other's time of modification where it has that of a copy-up.
 */
function withoutCopyTime(expected: unknown, actual: unknown): unknown {
  if (!isObject(expected) || !isObject(actual) || Array.isArray(expected)) return expected;
  const entries = Object.entries(expected).map(([key, part]) => {
    const isCopyTime = key === "mtime" && part === "now";
    return [key, isCopyTime ? actual[key] : withoutCopyTime(part, actual[key])] as const;
  });
  const copied = Object.fromEntries(entries);
  if (expected["mtime"] === "now" && "changed" in expected) copied["changed"] = actual["changed"];
  return copied;
}

/** A directory that was listed may stand where the kernel's read(2) finds fault with the offset. */
function withoutOffset(operation: Operation, value: unknown): unknown {
  if (operation[1] !== "read" || !isObject(value) || value["result"] !== -EINVAL) return value;
  return { ...value, result: -EISDIR };
}

/** A rename that fails has copied up what it would have renamed, by the kernel sooner. */
function withoutSideEffects(operation: Operation, value: unknown): unknown {
  const failed = isObject(value) && typeof value["result"] === "number" && value["result"] < 0;
  return operation[1] === "move" && failed ? { result: value["result"] } : value;
}

/** What `list` says, where the kernel lists another inode number than stat(2) has. */
function withListed(actual: unknown, expected: unknown): unknown {
  if (Array.isArray(actual) && Array.isArray(expected))
    return actual.map((each, index) =>
      expected[index] === String(each).replace(/ true$/, " false") ? expected[index] : each,
    );
  if (!isObject(actual) || !isObject(expected)) return actual;
  const { result } = actual;
  return {
    ...actual,
    result: Array.isArray(result) ? withListed(result, expected["result"]) : result,
  };
}

function withoutCtime(value: unknown): unknown {
  if (!isObject(value) || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, part]) =>
      key === "changed" && Array.isArray(part) ? [key, part[0]] : [key, withoutCtime(part)],
    ),
  );
}

/** With what comes of the number of links, see `comparable`. */
function withoutLinks(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutLinks);
  if (!isObject(value)) return value;
  const entries = Object.entries(value).filter(([key]) => key !== "nlink");
  return withoutCtime(Object.fromEntries(entries.map(([key, part]) => [key, withoutLinks(part)])));
}

/** What was seen, without what may differ: see above. */
export function comparable(value: unknown): unknown {
  if (Array.isArray(value))
    return value.filter((each) => typeof each !== "string" || !each.endsWith(LISTED_ONLY));
  if (!isObject(value)) return value;
  const mode = value["mode"];
  const isDirectory = typeof mode === "string" && mode.length === 5 && mode.startsWith("4");
  const entries = Object.entries(value).map(([key, part]) => [key, comparable(part)] as const);
  const hasNames = typeof value["nlink"] === "number" && value["nlink"] > 1;
  if (!isDirectory && !hasNames) return Object.fromEntries(entries);
  const left = isDirectory ? entries.filter(([key]) => key !== "size" && key !== "nlink") : entries;
  return withoutCtime(Object.fromEntries(left));
}
