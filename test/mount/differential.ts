// The differential test: the same random operations, by root and by an ordinary user in lock-step,
// on a plain directory and on a mount. Both must give the same results and the same files;
// checkpoints compare the whole trees, also with the source behind the mount.
//
// A sequence that fails is made as short as possible by leaving operations out.

import { chmod, mkdir } from "node:fs/promises";
import { Mount } from "../support-mount.ts";
import { makeOperations, type Operation, type Profile } from "./differential-operations.ts";
import {
  Actors,
  DifferentialFailure,
  explain,
  print,
  shorten,
  type Difference,
} from "./differential-sides.ts";
import { Random } from "./random.ts";

export interface DifferentialSetup {
  /** Options of the daemon. */
  readonly options: readonly string[];
  readonly seed: number;
  /** How many operations a round has. */
  readonly operations: number;
}

/** The options that the test is run with, unless told otherwise. */
export const CONFIGURATIONS: readonly (readonly string[])[] = [
  [],
  ["--cache", "never", "--workers", "1"],
  ["--cache", "metadata"],
  ["--cache", "always", "--workers", "4"],
  ["--no-kernel-passthrough"],
  ["--inode-file-handles", "never"],
  ["--cache", "always", "--writeback"],
];

const CHECKPOINT_INTERVAL = 100;

/** The actors and directories of both sides. */
export class DifferentialTest implements AsyncDisposable {
  readonly #bare: string;
  readonly #options: readonly string[];
  #mount: Mount;
  readonly #actors = new Actors("plain", "bare", "mounted");
  #trial = 0;

  private constructor(bare: string, mount: Mount, options: readonly string[]) {
    this.#bare = bare;
    this.#mount = mount;
    this.#options = options;
  }

  static async start(options: readonly string[]): Promise<DifferentialTest> {
    const mount = await Mount.start({ options });
    const bare = `${mount.base}/bare`;
    await mkdir(bare);
    return new DifferentialTest(bare, mount, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#actors.kill();
    await this.#mount[Symbol.asyncDispose]();
  }

  get #profile(): { writeback: boolean } {
    return { writeback: this.#options.includes("--writeback") };
  }

  /**
   * One round of random operations. Throws DifferentialFailure with a short sequence that fails.
   */
  async round(setup: DifferentialSetup): Promise<void> {
    const profile: Profile = { ...this.#profile, holes: setup.seed % 2 === 0 };
    const operations = makeOperations(new Random(setup.seed), setup.operations, profile);
    const difference = await this.run(operations);
    if (difference === undefined) return;
    const short = await shorten(
      operations.slice(0, difference.after),
      async (fewer) => (await this.run(fewer))?.after,
    );
    const shown = (await this.run(short)) ?? difference;
    throw new DifferentialFailure(
      `seed ${setup.seed} with ${setup.operations} operations and options ` +
        `${JSON.stringify(setup.options)} differs after ${difference.after} operations.\n` +
        `As short as it gets:\n${await print(short)}\n\n${this.explain(shown)}`,
    );
  }

  /** What differs, for a reader. */
  explain(difference: Difference): string {
    const differs = explain(difference, "bare", "mounted");
    return `${differs}\nThe daemon wrote:\n${this.#mount.output}`;
  }

  /** Does the operations in new directories on both sides. */
  async run(operations: readonly Operation[]): Promise<Difference | undefined> {
    await this.#prepare();
    // One directory more, for the links that lead upwards.
    const name = `trial-${this.#trial++}/root`;
    const [bare, source] = [`${this.#bare}/${name}`, `${this.#mount.source}/${name}`];
    const mounted = `${this.#mount.mountpoint}/${name}`;
    for (const directory of [bare, source]) {
      await mkdir(directory, { recursive: true });
      await chmod(directory, 0o777);
    }
    await this.#actors.start([bare, mounted]);
    try {
      return await this.#steps(operations, { bare, mounted, source });
    } catch (error) {
      // A process that hangs, or dies with its mount.
      const what = error instanceof Error ? error.message : String(error);
      return { after: operations.length, what, expected: undefined, actual: undefined };
    }
  }

  async #steps(
    operations: readonly Operation[],
    places: { bare: string; mounted: string; source: string },
  ): Promise<Difference | undefined> {
    const { writeback } = this.#profile;
    for (const [index, operation] of operations.entries()) {
      const [user, name] = operation;
      const outcomes = await this.#actors.both(user, (actor) => actor.perform(operation));
      const [expected, actual] = writeback ? outcomes.map(withoutTimes) : outcomes;
      const after = index + 1;
      if (!Bun.deepEquals(expected, actual))
        return { after, what: `operation ${after}, ${name}`, expected, actual };
      if (after % CHECKPOINT_INTERVAL === 0 || after === operations.length) {
        const difference = await this.#compareTrees(places, after);
        if (difference !== undefined) return difference;
      }
    }
    return undefined;
  }

  async #compareTrees(
    { bare, mounted, source }: { bare: string; mounted: string; source: string },
    after: number,
  ): Promise<Difference | undefined> {
    const places = [bare, mounted] as const;
    const trees: Record<string, unknown>[] = await this.#actors.both(0, (actor, side) =>
      actor.snapshot(places[side]),
    );
    trees.push(await this.#actors.of(0, 0).snapshot(source));
    const [expected = {}, shown = {}, behind = {}] = this.#profile.writeback
      ? trees.map(withoutTimes)
      : trees;
    for (const [tree, what] of [
      [shown, "the mount's tree"],
      [behind, "the source's tree"],
    ] as const)
      for (const name of Object.keys({ ...expected, ...tree }))
        if (!Bun.deepEquals(expected[name], tree[name]))
          return {
            after,
            what: `"${name}" in ${what}`,
            expected: expected[name],
            actual: tree[name],
          };
    return undefined;
  }

  /** Replaces what did not survive the run before. */
  async #prepare(): Promise<void> {
    try {
      this.#mount.check();
    } catch {
      await this.#mount.kill();
      await this.#mount.run();
    }
    this.#actors.prepare();
  }
}

/** With writeback the kernel keeps times itself, to the clock tick. */
function withoutTimes<T>(value: T): T {
  const isTime = (key: string): boolean => key === "times" || key === "mtime";
  return JSON.parse(
    JSON.stringify(value, (key, part: unknown) => (isTime(key) ? undefined : part)),
  ) as T;
}
