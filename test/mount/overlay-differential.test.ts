// A short run of the differential test of overlays with every configuration. Longer ones:
// `bun scripts/differential.ts --overlay ours`.
//
// DIFFERENTIAL_SEED=N repeats a round. Without it the seeds are the same every time.
// OVERLAY_SUT=kernel|fuse-overlayfs puts others to the test.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  overlaySystem,
  overlaySystems,
  whyNoOverlays,
  type OverlaySystem,
} from "../support-overlay.ts";
import { OVERLAY_CONFIGURATIONS, OverlayDifferential } from "./overlay-differential.ts";
import type { OverlayStep } from "./overlay-operations.ts";

const given = process.env["DIFFERENTIAL_SEED"];
const SEEDS = given === undefined ? [1, 2, 3, 4, 5] : [Number(given)];
const ROUND = { trees: 10, operations: 60 };
/** A failure is made short, which takes its time. */
const TIMEOUT_MS = 120_000;

/** The kernel's overlay, but with these options too. */
function withOptions(...more: string[]): OverlaySystem {
  const { kernel } = overlaySystems;
  return {
    name: `kernel with ${more.join(",")}`,
    mount: (layers, options, mountpoint) => kernel.mount(layers, [...options, ...more], mountpoint),
  };
}

describe
  .skipIf(whyNoOverlays !== undefined)
  .each(OVERLAY_CONFIGURATIONS.map((options) => ({ options })))(
  "random operations give the same as on the kernel's overlay, with options: $options",
  (setup) => {
    let differential: OverlayDifferential;

    beforeAll(async () => {
      differential = await OverlayDifferential.start(overlaySystem(), setup.options);
    });
    afterAll(async () => {
      await differential?.[Symbol.asyncDispose]();
    });

    test.each(SEEDS)(
      "seed %d",
      async (seed) => {
        await differential.round({ ...ROUND, seed });
      },
      TIMEOUT_MS,
    );
  },
);

describe.skipIf(whyNoOverlays !== undefined)("the differential test of overlays itself", () => {
  const find = async (other: OverlaySystem, options: string[], tree: OverlayStep[]) => {
    await using differential = await OverlayDifferential.start(other, options);
    const difference = await differential.run({ layers: 2, trees: [tree] });
    return difference === undefined ? "none" : differential.explain(difference);
  };

  test("gives the same sequences for a seed again", async () => {
    await using differential = await OverlayDifferential.start(overlaySystems.kernel, []);
    const make = (seed: number): string => JSON.stringify(differential.make({ ...ROUND, seed }));
    expect(make(7)).toBe(make(7));
    expect(make(7)).not.toBe(make(8));
  });

  test("finds nothing between the kernel's overlay and the kernel's", async () => {
    await using differential = await OverlayDifferential.start(overlaySystems.kernel, []);
    await differential.round({ ...ROUND, seed: 1 });
  });

  test("finds a result that differs", async () => {
    const found = await find(
      withOptions("redirect_dir=on"),
      ["redirect_dir=off"],
      [
        ["layer", 1, "layerDirectory", "d", 0o777, 0, 0],
        [0, "move", "d", "f", 0],
      ],
    );
    expect(found).toContain("step 2, move");
    expect(found).toContain("kernel EXDEV");
  });

  test("finds layers that the other does not understand", async () => {
    const keepsNothing: OverlaySystem = {
      name: "another upper layer",
      mount: (layers, options, mountpoint) =>
        overlaySystems.kernel.mount(
          { ...layers, upper: layers.work, work: layers.upper },
          options,
          mountpoint,
        ),
    };
    const found = await find(
      keepsNothing,
      [],
      [
        ["layer", 1, "layerFile", "a", 100, 1, 0, 0o644, 0, 0],
        [0, "unlink", "a"],
      ],
    );
    expect(found).not.toBe("none");
  });

  test(
    "makes a failing sequence short",
    async () => {
      await using differential = await OverlayDifferential.start(withOptions("redirect_dir=on"), [
        "redirect_dir=off",
      ]);
      const round = differential.round({ ...ROUND, seed: 1 });
      await expect(round).rejects.toThrow(
        /As short as it gets, .*:\n\[\n\["layer".*\n(.*\n){1,5}\]/,
      );
    },
    TIMEOUT_MS,
  );
});
