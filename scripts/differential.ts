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

const { values } = parseArgs({
  options: {
    mounts: { type: "string" },
    operations: { type: "string", default: "1000" },
    options: { type: "string" },
    replay: { type: "string" },
    rounds: { type: "string", default: "10" },
    seed: { type: "string", default: String(Date.now() % 1e9) },
    vfs: { type: "boolean", default: false },
  },
});

const options = values.options?.split(" ").filter((option) => option !== "");

function chosen(): readonly Configuration[] {
  if (values.mounts !== undefined)
    return [{ options: options ?? [], mounts: JSON.parse(values.mounts) as Mounts }];
  if (values.vfs)
    return VFS_CONFIGURATIONS.map((each) => (options === undefined ? each : { ...each, options }));
  return options === undefined ? CONFIGURATIONS : [{ options }];
}

async function rounds(test: DifferentialTest, configuration: Configuration): Promise<void> {
  const [first, count] = [Number(values.seed), Number(values.rounds)];
  for (let seed = first; seed < first + count; seed++)
    await test.round({ seed, operations: Number(values.operations) });
  console.log(
    `${count} rounds from seed ${first}: no difference with ${JSON.stringify(configuration)}`,
  );
}

async function replay(test: DifferentialTest, file: string): Promise<void> {
  const operations = JSON.parse(readFileSync(file, "utf8")) as Operation[];
  const difference = await test.run(operations);
  console.log(difference === undefined ? "no difference" : test.explain(difference));
  if (difference !== undefined) process.exitCode = 1;
}

let running: DifferentialTest | undefined;
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, async () => {
    await running?.[Symbol.asyncDispose]();
    process.exit(1);
  });

for (const configuration of chosen()) {
  await using test = await DifferentialTest.start(configuration);
  running = test;
  try {
    await (values.replay === undefined ? rounds(test, configuration) : replay(test, values.replay));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
}
