// That the benchmark of overlays measures something on each of its sides. Not how fast it is.

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { Disk, whyNoOverlays } from "../support-overlay.ts";

const SCRIPT = resolve(import.meta.dirname, "../../scripts/bench.ts");

interface Report {
  readonly measurements: Readonly<
    Record<string, Readonly<Record<string, readonly { readonly value?: number }[]>>>
  >;
}

test.skipIf(whyNoOverlays !== undefined)(
  "overlays are measured side by side, and nothing is left of them",
  async () => {
    await using disk = await Disk.start();
    const json = `${disk.base}/report.json`;
    const figures = ["copy-up-small", "missing-10", "list-merged", "start"].join(",");
    const options = ["--quick", "--rounds", "1", "--no-peers", "--only", figures];
    const run = Bun.spawn(
      [process.execPath, SCRIPT, "--overlay", "--dir", disk.path, "--json", json, ...options],
      { stdout: "pipe", stderr: "ignore" },
    );
    const table = await new Response(run.stdout).text();
    expect(await run.exited).toBe(0);
    expect(table).toMatch(/^figure +kernel +ours to kernel$/m);
    expect(table).toMatch(/^missing-10 +\S+ \/s +\d\.\d\d$/m);
    const { measurements } = JSON.parse(readFileSync(json, "utf8")) as Report;
    const names = Object.keys(measurements).sort();
    expect(names).toEqual([
      "copy-up-small",
      "copy-up-small-volatile",
      "list-merged-again",
      "list-merged-first",
      "missing-10",
      "start",
      "start-100",
    ]);
    for (const name of names)
      for (const side of ["kernel", "ours"])
        expect(measurements[name]?.[side]?.[0]?.value).toBeGreaterThan(0);
    expect(readdirSync(disk.path)).toEqual([]);
  },
  60_000,
);
