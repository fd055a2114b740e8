// A short run of the differential test with every configuration, of one file system and of several
// under one mount, some of which come and go. `bun scripts/differential.ts` runs
// longer ones.
//
// DIFFERENTIAL_SEED=N repeats a round. Without it the seeds are the same every time.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { O_CREAT, O_RDWR } from "../../src/abi-linux.ts";
import { whyNoMounts } from "../support-mount.ts";
import { CONFIGURATIONS, DifferentialTest, VFS_CONFIGURATIONS } from "./differential.ts";
import { makeOperations, MOUNT, UNMOUNT } from "./differential-operations.ts";
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

test("a sequence on several file systems has them come and go, and concerns two at a time", () => {
  const profile = { holes: true, writeback: false, mounts: ["one", "two"], hasRoot: true };
  const operations = makeOperations(new Random(1), OPERATIONS, profile);
  const names = operations.map(([, name]) => name);
  for (const name of [MOUNT, UNMOUNT]) expect(count(names, name)).toBeGreaterThan(5);
  for (const name of ["renameAcross", "linkAcross", "copyAcross"])
    expect(count(names, name)).toBeGreaterThan(5);
  for (const [, name, from, to] of operations.filter(([, each]) => each === "renameAcross"))
    expect([name, placeOf(from)]).not.toEqual([name, placeOf(to)]);
});

const count = <T>(all: readonly T[], one: T): number => all.filter((each) => each === one).length;
const placeOf = (path: unknown): string => String(path).split("/")[0]!;

const configurations = [...CONFIGURATIONS, ...VFS_CONFIGURATIONS].map((configuration) => ({
  configuration,
  what: JSON.stringify(configuration),
}));

describe.skipIf(whyNoMounts !== undefined).each(configurations)(
  "random operations give the same on the mount: $what",
  ({ configuration }) => {
    let differential: DifferentialTest;

    beforeAll(async () => {
      differential = await DifferentialTest.start(configuration);
    });
    afterAll(async () => {
      await differential?.[Symbol.asyncDispose]();
    });

    test.each(SEEDS)(
      "seed %d",
      async (seed) => {
        await differential.round({ seed, operations: OPERATIONS });
      },
      TIMEOUT_MS,
    );
  },
);

describe.skipIf(whyNoMounts !== undefined)("the differential test itself", () => {
  test(
    "finds a mount that refuses what the bare directory allows",
    async () => {
      await using differential = await DifferentialTest.start({ options: ["-o", "ro"] });
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
    "finds that a file of a file system that is gone is not EIO",
    async () => {
      // What the kernel passes through goes on without the daemon.
      const options = ["--kernel-passthrough"];
      await using differential = await DifferentialTest.start({
        options,
        mounts: { "/one": {} },
      });
      const difference = await differential.run([
        [0, "open", 0, "one/a", O_CREAT | O_RDWR, 0o600],
        [0, UNMOUNT, "one"],
      ]);
      expect(difference).toMatchObject({ after: 2, expected: [[[0]], []], actual: [[[0, 1]], []] });
    },
    TIMEOUT_MS,
  );

  test(
    "has file systems go with files open, and come back as they were",
    async () => {
      await using differential = await DifferentialTest.start({
        options: [],
        mounts: { "/one": {}, "/two": {} },
      });
      const difference = await differential.run([
        [0, "open", 0, "one/a", O_CREAT | O_RDWR, 0o600],
        [1, "list", "one/d"],
        [0, UNMOUNT, "one"],
        [0, "write", 0, 100, 1],
        [0, "stat", "one/a"],
        [0, "names"],
        [0, MOUNT, "one"],
        [0, "names"],
        [0, "renameAcross", "one/a", "two/a"],
        [0, "linkAcross", "one/a", "two/a"],
        [0, "copyAcross", "one/a", 0, "two/a", 100],
        [0, "stat", "one/a"],
      ]);
      expect(difference).toBeUndefined();
    },
    TIMEOUT_MS,
  );

  test(
    "makes a failing sequence short",
    async () => {
      await using differential = await DifferentialTest.start({ options: ["-o", "ro"] });
      const round = differential.round({ seed: 1, operations: 50 });
      await expect(round).rejects.toThrow(/As short as it gets:\n\[\n\[\d,"\w+"[^\n]*\]\n\]/);
    },
    TIMEOUT_MS,
  );
});
