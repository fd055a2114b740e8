// The differential test: the same random operations, by root and by an ordinary user in lock-step,
// on a plain directory and on a mount, or on several file systems under one of either. Both must
// give the same results and the same files; checkpoints compare the whole trees, also with the
// source behind the mount.
//
// A sequence that fails is made as short as possible by leaving operations out.

import {
  PlainGround,
  VfsGround,
  type Ground,
  type Mounts,
  type Outcomes,
} from "./differential-grounds.ts";
import {
  makeOperations,
  MOUNT,
  UNMOUNT,
  type Operation,
  type Profile,
} from "./differential-operations.ts";
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
  readonly seed: number;
  /** How many operations a round has. */
  readonly operations: number;
}

/** What the test is run on. */
export interface Configuration {
  /** Options of the daemon. */
  readonly options: readonly string[];
  /** Several file systems under one mount. */
  readonly mounts?: Mounts;
}

/** The options that the test is run with, unless told otherwise. */
export const CONFIGURATIONS: readonly Configuration[] = [
  { options: [] },
  { options: ["--cache", "never", "--workers", "1"] },
  { options: ["--cache", "metadata"] },
  { options: ["--cache", "always", "--workers", "4"] },
  { options: ["--no-kernel-passthrough"] },
  { options: ["--inode-file-handles", "never"] },
  { options: ["--cache", "always", "--writeback"] },
];

/** The same for several file systems. */
export const VFS_CONFIGURATIONS: readonly Configuration[] = [
  { options: [], mounts: { "/one": {}, "/two": {} } },
  {
    options: ["--workers", "4"],
    mounts: { "/": {}, "/one": { cache: "always" }, "/two": { cache: "never" } },
  },
  {
    options: ["--workers", "1"],
    mounts: { "/one": { cache: "metadata" }, "/two": { "inode-file-handles": "never" } },
  },
];

const CHECKPOINT_INTERVAL = 100;

/** The actors and directories of both sides. */
export class DifferentialTest implements AsyncDisposable {
  readonly #ground: Ground;
  readonly #configuration: Configuration;
  readonly #actors = new Actors("plain", "bare", "mounted");

  private constructor(ground: Ground, configuration: Configuration) {
    this.#ground = ground;
    this.#configuration = configuration;
  }

  static async start(configuration: Configuration): Promise<DifferentialTest> {
    const { options, mounts } = configuration;
    const ground =
      mounts === undefined ? await PlainGround.start(options) : new VfsGround(options, mounts);
    return new DifferentialTest(ground, configuration);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#actors.kill();
    await this.#ground[Symbol.asyncDispose]();
  }

  get #profile(): Omit<Profile, "holes"> {
    return {
      writeback: this.#configuration.options.includes("--writeback"),
      ...this.#ground.profile,
    };
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
      `seed ${setup.seed} with ${setup.operations} operations and ` +
        `${JSON.stringify(this.#configuration)} differs after ${difference.after} operations.\n` +
        `As short as it gets:\n${await print(short)}\n\n${this.explain(shown)}`,
    );
  }

  /** What differs, for a reader. */
  explain(difference: Difference): string {
    const differs = explain(difference, "bare", "mounted");
    return `${differs}\nThe daemon wrote:\n${this.#ground.output}`;
  }

  /** Does the operations in new directories on both sides. */
  async run(operations: readonly Operation[]): Promise<Difference | undefined> {
    const directories = await this.#ground.begin();
    this.#actors.prepare();
    await this.#actors.start(directories, this.#profile.mounts);
    try {
      return await this.#steps(operations);
    } catch (error) {
      // A process that hangs, or dies with its mount.
      const what = error instanceof Error ? error.message : String(error);
      return { after: operations.length, what, expected: undefined, actual: undefined };
    }
  }

  async #steps(operations: readonly Operation[]): Promise<Difference | undefined> {
    const { writeback } = this.#profile;
    for (const [index, operation] of operations.entries()) {
      const [, name] = operation;
      const outcomes = await this.#perform(operation);
      const [expected, actual] = writeback ? outcomes.map(withoutTimes) : outcomes;
      const after = index + 1;
      if (!Bun.deepEquals(expected, actual))
        return { after, what: `operation ${after}, ${name}`, expected, actual };
      const isTurn = after % CHECKPOINT_INTERVAL === 0 || name === MOUNT || name === UNMOUNT;
      if (isTurn || after === operations.length) {
        const difference = await this.#compareTrees(after);
        if (difference !== undefined) return difference;
      }
    }
    return undefined;
  }

  /** Does an operation on both sides; what came of it there. */
  async #perform(operation: Operation): Promise<Outcomes> {
    const [user, name, what] = operation;
    if (name === MOUNT || name === UNMOUNT)
      return await this.#ground.change(name, String(what), this.#actors);
    return await this.#actors.both(user, (actor) => actor.perform(operation));
  }

  async #compareTrees(after: number): Promise<Difference | undefined> {
    for (const { what, bare, other, side } of this.#ground.trees()) {
      const trees = await Promise.all([
        this.#actors.of(0, 0).snapshot(bare),
        this.#actors.of(side, 0).snapshot(other),
      ]);
      const [expected = {}, found = {}] = this.#profile.writeback ? trees.map(withoutTimes) : trees;
      for (const name of Object.keys({ ...expected, ...found }))
        if (!Bun.deepEquals(expected[name], found[name]))
          return {
            after,
            what: `"${name}" in ${what}`,
            expected: expected[name],
            actual: found[name],
          };
    }
    return undefined;
  }
}

/** With writeback the kernel keeps times itself, to the clock tick. */
function withoutTimes<T>(value: T): T {
  const isTime = (key: string): boolean => key === "times" || key === "mtime";
  return JSON.parse(
    JSON.stringify(value, (key, part: unknown) => (isTime(key) ? undefined : part)),
  ) as T;
}
