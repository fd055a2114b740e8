// The differential test: the same random operations, by root and by an ordinary user in lock-step,
// on a plain directory and on a mount, or on several file systems under one of either. Both must
// give the same results and the same files; checkpoints compare the whole trees, also with the
// source behind the mount.
//
// A sequence that fails is made as short as possible by leaving operations out.

import { errnoName } from "../../src/errno.ts";
import { DifferentialActor } from "./differential-actor.ts";
import { PlainGround, VfsGround, type Ground, type Mounts } from "./differential-grounds.ts";
import {
  makeOperations,
  MOUNT,
  UNMOUNT,
  type Operation,
  type Profile,
} from "./differential-operations.ts";
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
const SHRINK_TIME_MS = 40_000;
const PRINTED_OPERATIONS = 100;
const USERS = [0, 1];

/** The first difference between the two sides. */
export interface Difference {
  /** How many operations had been done, the one that differed included. */
  readonly after: number;
  readonly what: string;
  readonly bare: unknown;
  readonly mounted: unknown;
}

export class DifferentialFailure extends Error {
  override name = "DifferentialFailure";
}

/** The actors and directories of both sides. */
export class DifferentialTest implements AsyncDisposable {
  readonly #ground: Ground;
  readonly #configuration: Configuration;
  #actors: DifferentialActor[] = [];

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
    for (const actor of this.#actors) actor.kill();
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
    const short = await this.#shrink(operations.slice(0, difference.after));
    const shown = (await this.run(short)) ?? difference;
    throw new DifferentialFailure(
      `seed ${setup.seed} with ${setup.operations} operations and ` +
        `${JSON.stringify(this.#configuration)} differs after ${difference.after} operations.\n` +
        `As short as it gets:\n${await print(short)}\n\n${this.explain(shown)}`,
    );
  }

  /** What differs, for a reader: with the names of errors, and without what is equal. */
  explain({ what, bare, mounted }: Difference): string {
    const lines = [`Different: ${what}`];
    const compare = (path: string, a: unknown, b: unknown): void => {
      if (Bun.deepEquals(a, b)) return;
      if (isObject(a) && isObject(b))
        for (const key of Object.keys({ ...a, ...b })) compare(`${path}.${key}`, a[key], b[key]);
      else lines.push(`  ${path}: bare ${shown(a)}, mounted ${shown(b)}`);
    };
    compare("", bare, mounted);
    return `${lines.join("\n")}\nThe daemon wrote:\n${this.#ground.output}`;
  }

  /** Does the operations in new directories on both sides. */
  async run(operations: readonly Operation[]): Promise<Difference | undefined> {
    const { bare, mounted } = await this.#ground.begin();
    this.#prepare();
    const { mounts } = this.#profile;
    for (const user of USERS) {
      await this.#actor(0, user).start(bare, user === 0, mounts);
      await this.#actor(1, user).start(mounted, user === 0, mounts);
    }
    try {
      return await this.#steps(operations);
    } catch (error) {
      // A process that hangs, or dies with its mount.
      const what = error instanceof Error ? error.message : String(error);
      return { after: operations.length, what, bare: undefined, mounted: undefined };
    }
  }

  async #steps(operations: readonly Operation[]): Promise<Difference | undefined> {
    const { writeback } = this.#profile;
    for (const [index, operation] of operations.entries()) {
      const [, name] = operation;
      const [bare, mounted] = (await this.#perform(operation)).map((outcome) =>
        writeback ? withoutTimes(outcome) : outcome,
      );
      const after = index + 1;
      if (!Bun.deepEquals(bare, mounted))
        return { after, what: `operation ${after}, ${name}`, bare, mounted };
      const isTurn = after % CHECKPOINT_INTERVAL === 0 || name === MOUNT || name === UNMOUNT;
      if (isTurn || after === operations.length) {
        const difference = await this.#compareTrees(after);
        if (difference !== undefined) return difference;
      }
    }
    return undefined;
  }

  /** Does an operation on both sides; what came of it there. */
  async #perform(operation: Operation): Promise<readonly [bare: unknown, mounted: unknown]> {
    const [user, name, what] = operation;
    if (name !== MOUNT && name !== UNMOUNT)
      return await Promise.all([
        this.#actor(0, user).perform(operation),
        this.#actor(1, user).perform(operation),
      ]);
    const actors = ([0, 1] as const).map((side) => USERS.map((each) => this.#actor(side, each)));
    const outcomes = await this.#ground.change(name, String(what), [actors[0]!, actors[1]!]);
    return [outcomes.bare, outcomes.mounted];
  }

  async #compareTrees(after: number): Promise<Difference | undefined> {
    for (const { what, bare, other, side } of this.#ground.trees()) {
      const trees = await Promise.all([
        this.#actor(0, 0).snapshot(bare),
        this.#actor(side, 0).snapshot(other),
      ]);
      const [expected = {}, found = {}] = this.#profile.writeback ? trees.map(withoutTimes) : trees;
      for (const name of Object.keys({ ...expected, ...found }))
        if (!Bun.deepEquals(expected[name], found[name]))
          return {
            after,
            what: `"${name}" in ${what}`,
            bare: expected[name],
            mounted: found[name],
          };
    }
    return undefined;
  }

  /** Leaves operations out as long as what is left still fails. */
  async #shrink(operations: readonly Operation[]): Promise<readonly Operation[]> {
    const deadline = performance.now() + SHRINK_TIME_MS;
    let shortest = operations;
    for (let size = Math.ceil(operations.length / 2); size >= 1; size = Math.floor(size / 2))
      for (let end = shortest.length; end > 0 && performance.now() < deadline; end -= size) {
        const fewer = shortest.toSpliced(Math.max(0, end - size), Math.min(size, end));
        const difference = await this.run(fewer);
        if (difference !== undefined) shortest = fewer.slice(0, difference.after);
        end = Math.min(end, shortest.length + size);
      }
    return shortest;
  }

  /** Replaces what did not survive the run before. */
  #prepare(): void {
    this.#actors = this.#actors.filter(({ alive }) => alive);
    if (this.#actors.length === 2 * USERS.length) return;
    for (const actor of this.#actors) actor.kill();
    this.#actors = ["bare", "mounted"].flatMap((side) =>
      ["root", "user"].map((user) => new DifferentialActor(`the ${side} side's ${user}`)),
    );
  }

  #actor(side: 0 | 1, user: number): DifferentialActor {
    const actor = this.#actors[side * USERS.length + user];
    if (actor === undefined) throw new Error("the actors are not there");
    return actor;
  }
}

/** With writeback the kernel keeps times itself, to the clock tick. */
function withoutTimes<T>(value: T): T {
  const isTime = (key: string): boolean => key === "times" || key === "mtime";
  return JSON.parse(
    JSON.stringify(value, (key, part: unknown) => (isTime(key) ? undefined : part)),
  ) as T;
}

/** A sequence as it is for a replay: here, or if it is long, in a file. */
async function print(operations: readonly Operation[]): Promise<string> {
  const text = `[\n${operations.map((each) => JSON.stringify(each)).join(",\n")}\n]`;
  if (operations.length <= PRINTED_OPERATIONS) return text;
  const file = `/tmp/fuse-backend-differential-${process.pid}.json`;
  await Bun.write(file, text);
  return `${operations.length} operations, in ${file}`;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;
const shown = (value: unknown): string =>
  typeof value === "number" && value < 0 ? errnoName(value) : JSON.stringify(value);
