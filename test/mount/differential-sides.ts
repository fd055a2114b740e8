// What differential tests have in common: the processes of both sides, what a difference is, and
// how a sequence that shows one is made short and printed.

import { errnoName } from "../../src/errno.ts";
import { DifferentialActor, type Rows } from "./differential-actor.ts";

const SHRINK_TIME_MS = 40_000;
const PRINTED_STEPS = 100;
/** Root, and an ordinary user. */
const USERS = [0, 1];

/** The first difference between the two sides. */
export interface Difference {
  /** How many steps had been done, the one that differed included. */
  readonly after: number;
  readonly what: string;
  /** What the oracle says. */
  readonly expected: unknown;
  readonly actual: unknown;
}

export class DifferentialFailure extends Error {
  override name = "DifferentialFailure";
}

/** A process for each user of each side. */
export class Actors {
  readonly #rows: Rows;
  readonly #sides: readonly [string, string];
  #all: DifferentialActor[] = [];

  /** `sides` are for messages: the oracle's name and the other's. */
  constructor(rows: Rows, ...sides: [string, string]) {
    this.#rows = rows;
    this.#sides = sides;
  }

  /** Replaces them if one did not survive the run before. */
  prepare(): void {
    const count = this.#sides.length * USERS.length;
    if (this.#all.length === count && this.#all.every(({ alive }) => alive)) return;
    this.kill();
    this.#all = this.#sides.flatMap((side) =>
      ["root", "user"].map((user) => new DifferentialActor(`the ${side} side's ${user}`)),
    );
  }

  of(side: 0 | 1, user: number): DifferentialActor {
    const actor = this.#all[side * USERS.length + user];
    if (actor === undefined) throw new Error("the actors are not there");
    return actor;
  }

  /** The answers of both sides' `user`, who work at the same time. */
  async both<T>(
    user: number,
    ask: (actor: DifferentialActor, side: 0 | 1) => Promise<T>,
  ): Promise<[T, T]> {
    return await Promise.all([ask(this.of(0, user), 0), ask(this.of(1, user), 1)]);
  }

  /** Those of one side. */
  all(side: 0 | 1): readonly DifferentialActor[] {
    return USERS.map((user) => this.of(side, user));
  }

  /**
   * Lets everybody forget everything, and work in these directories from now on; `mounts` are in
   * them.
   */
  async start(
    directories: readonly [string, string],
    mounts: readonly string[] = [],
  ): Promise<void> {
    for (const user of USERS)
      await this.both(user, (actor, side) =>
        actor.start(directories[side], user === 0, this.#rows, mounts),
      );
  }

  kill(): void {
    for (const actor of this.#all) actor.kill();
    this.#all = [];
  }
}

/**
 * Leaves steps out as long as what is left still fails. `run` gives the number of steps after which
 * it failed, if it did.
 */
export async function shorten<Step>(
  steps: readonly Step[],
  run: (steps: readonly Step[]) => Promise<number | undefined>,
): Promise<readonly Step[]> {
  const deadline = performance.now() + SHRINK_TIME_MS;
  let shortest = steps;
  for (let size = Math.ceil(steps.length / 2); size >= 1; size = Math.floor(size / 2))
    for (let end = shortest.length; end > 0 && performance.now() < deadline; end -= size) {
      const fewer = shortest.toSpliced(Math.max(0, end - size), Math.min(size, end));
      const after = await run(fewer);
      if (after !== undefined) shortest = fewer.slice(0, after);
      end = Math.min(end, shortest.length + size);
    }
  return shortest;
}

/** What differs, for a reader: with the names of errors, and without what is equal. */
export function explain(
  { what, expected, actual }: Difference,
  ...[oracle, other]: [string, string]
): string {
  const lines = [`Different: ${what}`];
  const compare = (path: string, a: unknown, b: unknown): void => {
    if (Bun.deepEquals(a, b)) return;
    if (isObject(a) && isObject(b))
      for (const key of Object.keys({ ...a, ...b })) compare(`${path}.${key}`, a[key], b[key]);
    else lines.push(`  ${path}: ${oracle} ${shown(a)}, ${other} ${shown(b)}`);
  };
  compare("", expected, actual);
  return lines.join("\n");
}

/** A sequence as it is for a replay: here, or if it is long, in a file. */
export async function print(steps: readonly unknown[]): Promise<string> {
  const text = `[\n${steps.map((each) => JSON.stringify(each)).join(",\n")}\n]`;
  if (steps.length <= PRINTED_STEPS) return text;
  const file = `/tmp/fuse-backend-differential-${process.pid}.json`;
  await Bun.write(file, text);
  return `${steps.length} operations, in ${file}`;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;
const shown = (value: unknown): string =>
  typeof value === "number" && value < 0 ? errnoName(value) : JSON.stringify(value);
