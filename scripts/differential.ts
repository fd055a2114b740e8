// Runs the differential test for as long as you like: random operations on a plain directory and on
// a mount must give the same results. Needs root and dist/fuse-backend.
//
//   bun scripts/differential.ts
//       ten rounds of 1000 operations, with each set of options
//   bun scripts/differential.ts --rounds 1000 --operations 5000
//   bun scripts/differential.ts --seed 42 --rounds 1 --options='--cache never'
//       repeats one round
//   bun scripts/differential.ts --vfs
//       several file systems under one mount, some of which come and go
//   bun scripts/differential.ts --mounts='{"/": {}, "/one": {"cache": "never"}}' --replay FILE
//       these file systems with their options; a JSON list of operations, as a failure prints it
//
//   bun scripts/differential.ts --overlay ours --rounds 100 --trees 10 --operations 60
//       random sequences on overlays, against the kernel's; --overlay kernel and --overlay
//       fuse-overlayfs test others. --options is a list for -o, --replay goes with --layers
//
// FUSE_BACKEND_DAEMON='bindfs -f {src} {mnt}' tests another daemon.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  CONFIGURATIONS,
  DifferentialTest,
  VFS_CONFIGURATIONS,
  type Configuration,
} from "../test/mount/differential.ts";
import type { Mounts } from "../test/mount/differential-grounds.ts";
import type { Operation } from "../test/mount/differential-operations.ts";
import { OVERLAY_CONFIGURATIONS, OverlayDifferential } from "../test/mount/overlay-differential.ts";
import type { OverlayStep } from "../test/mount/overlay-operations.ts";
import { overlaySystem } from "../test/support-overlay.ts";

const { values } = parseArgs({
  options: {
    layers: { type: "string", default: "2" },
    mounts: { type: "string" },
    operations: { type: "string" },
    options: { type: "string" },
    overlay: { type: "string" },
    replay: { type: "string" },
    rounds: { type: "string", default: "10" },
    seed: { type: "string", default: String(Date.now() % 1e9) },
    trees: { type: "string", default: "10" },
    vfs: { type: "boolean", default: false },
  },
});

interface Running extends AsyncDisposable {
  /** One round, or the replay of a file. Throws if there is a difference. */
  round(seed: number): Promise<void>;
  replay(text: string): Promise<string>;
}

/** One of the sets of options, for a reader, and how the test is run with it. */
interface Chosen {
  readonly what: string;
  start(): Promise<Running>;
}

const NO_DIFFERENCE = "no difference";

async function startPlain(configuration: Configuration): Promise<Running> {
  const test = await DifferentialTest.start(configuration);
  const operations = Number(values.operations ?? 1000);
  return {
    round: (seed) => test.round({ seed, operations }),
    async replay(text) {
      const difference = await test.run(JSON.parse(text) as Operation[]);
      return difference === undefined ? NO_DIFFERENCE : test.explain(difference);
    },
    [Symbol.asyncDispose]: () => test[Symbol.asyncDispose](),
  };
}

async function startOverlay(name: string, options: readonly string[]): Promise<Running> {
  const test = await OverlayDifferential.start(overlaySystem(name), options);
  const operations = Number(values.operations ?? 60);
  return {
    round: (seed) => test.round({ seed, operations, trees: Number(values.trees) }),
    async replay(text) {
      const trees = [JSON.parse(text) as OverlayStep[]];
      const difference = await test.run({ layers: Number(values.layers), trees });
      return difference === undefined ? NO_DIFFERENCE : test.explain(difference);
    },
    [Symbol.asyncDispose]: () => test[Symbol.asyncDispose](),
  };
}

function configurations(options: readonly string[] | undefined): readonly Configuration[] {
  if (values.mounts !== undefined)
    return [{ options: options ?? [], mounts: JSON.parse(values.mounts) as Mounts }];
  if (values.vfs)
    return VFS_CONFIGURATIONS.map((each) => (options === undefined ? each : { ...each, options }));
  return options === undefined ? CONFIGURATIONS : [{ options }];
}

function chosen(): readonly Chosen[] {
  const { overlay } = values;
  const separator = overlay === undefined ? " " : ",";
  const given = values.options?.split(separator).filter((option) => option !== "");
  if (overlay !== undefined)
    return (given === undefined ? OVERLAY_CONFIGURATIONS : [given]).map((options) => ({
      what: JSON.stringify(options),
      start: () => startOverlay(overlay, options),
    }));
  return configurations(given).map((configuration) => ({
    what: JSON.stringify(configuration),
    start: () => startPlain(configuration),
  }));
}

async function rounds(test: Running, what: string): Promise<void> {
  const [first, count] = [Number(values.seed), Number(values.rounds)];
  for (let seed = first; seed < first + count; seed++) await test.round(seed);
  console.log(`${count} rounds from seed ${first}: no difference with ${what}`);
}

async function replay(test: Running, file: string): Promise<void> {
  const answer = await test.replay(readFileSync(file, "utf8"));
  console.log(answer);
  if (answer !== NO_DIFFERENCE) process.exitCode = 1;
}

let running: Running | undefined;
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, async () => {
    await running?.[Symbol.asyncDispose]();
    process.exit(1);
  });

for (const { what, start } of chosen()) {
  await using test = await start();
  running = test;
  try {
    await (values.replay === undefined ? rounds(test, what) : replay(test, values.replay));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
}
