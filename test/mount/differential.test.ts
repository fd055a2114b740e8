// A short run of the differential test with every configuration. `bun scripts/differential.ts` runs
// longer ones.
//
// DIFFERENTIAL_SEED=N repeats a round. Without it the seeds are the same every time.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { whyNoMounts } from "../support-mount.ts";
import { CONFIGURATIONS, DifferentialTest } from "./differential.ts";
import { makeOperations } from "./differential-operations.ts";
import { Random } from "./random.ts";

const given = process.env["DIFFERENTIAL_SEED"];
const SEEDS = given === undefined ? [1, 2, 3, 4, 5] : [Number(given)];
const OPERATIONS = 600;
/** A failure is made short, which takes its time. */
const TIMEOUT_MS = 120_000;

test("a seed gives the same operations again", () => {
  const make = (seed: number): string =>
    JSON.stringify(makeOperations(new Random(seed), 100, { holes: true, writeback: false }));
  expect(make(7)).toBe(make(7));
  expect(make(7)).not.toBe(make(8));
});

describe.skipIf(whyNoMounts !== undefined).each(CONFIGURATIONS.map((options) => ({ options })))(
  "random operations give the same on the mount, with options: $options",
  ({ options }) => {
    let differential: DifferentialTest;

    beforeAll(async () => {
      differential = await DifferentialTest.start(options);
    });
    afterAll(async () => {
      await differential?.[Symbol.asyncDispose]();
    });

    test.each(SEEDS)(
      "seed %d",
      async (seed) => {
        await differential.round({ options, seed, operations: OPERATIONS });
      },
      TIMEOUT_MS,
    );
  },
);

describe.skipIf(whyNoMounts !== undefined)("the differential test itself", () => {
  test(
    "finds a mount that refuses what the bare directory allows",
    async () => {
      await using differential = await DifferentialTest.start(["-o", "ro"]);
      const difference = await differential.run([
        [0, "mkdir", "d", 0o755],
        [0, "stat", "d"],
      ]);
      expect(difference?.after).toBe(1);
      expect(differential.explain(difference!)).toContain("bare 0, mounted EROFS");
    },
    TIMEOUT_MS,
  );

  test(
    "makes a failing sequence short",
    async () => {
      await using differential = await DifferentialTest.start(["-o", "ro"]);
      const round = differential.round({ options: ["-o", "ro"], seed: 1, operations: 50 });
      await expect(round).rejects.toThrow(/As short as it gets:\n\[\n\[\d,"\w+"[^\n]*\]\n\]/);
    },
    TIMEOUT_MS,
  );
});
