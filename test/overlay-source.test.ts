// What is looked at before an overlay is mounted: where its layers are, what the upper one can
// store, and whether somebody else has it. Nothing is mounted here.

import { afterAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OverlayClaim } from "../src/overlay-claim.ts";
import { overlayConfig, type OverlayConfig, type OverlayGiven } from "../src/overlay-config.ts";
import { checkLayers, settleOverlay } from "../src/overlay-source.ts";
import { ConfigError } from "../src/passthrough-config.ts";
import { geteuid } from "../src/syscall.ts";

const base = mkdtempSync(join(tmpdir(), "fuse-backend-overlay-"));
afterAll(() => rmSync(base, { recursive: true, force: true }));

for (const name of ["l1/below", "l2", "u/below", "w", "free"])
  mkdirSync(join(base, name), { recursive: true });
writeFileSync(join(base, "file"), "");
symlinkSync("l1", join(base, "link"));
const at = (name: string): string => join(base, name);

function config(given: OverlayGiven = {}): OverlayConfig {
  const lower = [at("l1"), at("l2")];
  return overlayConfig({ lower, upper: at("u"), work: at("w"), ...given });
}

function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof ConfigError) return error.message.replaceAll(`${base}/`, "");
    throw error;
  }
  throw new Error("not refused");
}

describe("layers", () => {
  test("are fine beside each other", () => {
    checkLayers(config(), at("free"));
    checkLayers(config(), undefined);
    checkLayers(config({ lower: [at("link")] }), at("missing/mnt"));
  });

  test("may be mounted on", () => {
    checkLayers(config(), at("l1"));
    checkLayers(config(), at("u"));
  });

  // With the whole of a tree below, the upper layer may lie in it, as the kernel has it.
  test("may be below the upper one", () => {
    checkLayers(config({ lower: [base] }), undefined);
  });

  const apart = "the layers of an overlay must be apart";
  const wrong: [string, OverlayGiven, string][] = [
    ["missing", { lower: [at("none")] }, "cannot open lowerdir=none: no such file or directory"],
    ["no directory", { upper: at("file") }, "cannot open upperdir=file: not a directory"],
    [
      "in the upper",
      { work: at("u/below") },
      `workdir=u/below lies inside of upperdir=u: ${apart}`,
    ],
    ["the upper itself", { work: at("u") }, `workdir=u is the directory of upperdir=u: ${apart}`],
    [
      "in the work",
      { upper: at("u/below"), work: at("u") },
      "upperdir=u/below lies inside of workdir=u",
    ],
    [
      "below and upper",
      { lower: [at("l1"), at("u")] },
      "lowerdir=u is the directory of upperdir=u",
    ],
    [
      "below in the upper",
      { lower: [at("u/below")] },
      "lowerdir=u/below lies inside of upperdir=u",
    ],
    ["below in the work", { lower: [at("w")] }, "lowerdir=w is the directory of workdir=w"],
    [
      "twice",
      { lower: [at("l1"), at("l2"), at("link")] },
      "lowerdir=link is the directory of lowerdir=l1",
    ],
    [
      "in another",
      { lower: [at("l1"), at("l1/below")] },
      "lowerdir=l1/below lies inside of lowerdir=l1",
    ],
    [
      "of data only, and another",
      { data: [at("l2")], metacopy: true },
      "datadir=l2 is the directory of lowerdir=l2",
    ],
  ];
  test.each(wrong)("are refused: %s", (_, given, message) => {
    expect(refusal(() => checkLayers(config(given), undefined))).toStartWith(message);
  });

  test("are refused if the mount point is below one", () => {
    expect(refusal(() => checkLayers(config(), at("l1/below")))).toStartWith(
      "cannot mount on l1/below, which lies inside of lowerdir=l1",
    );
    expect(refusal(() => checkLayers(config(), at("w/missing")))).toStartWith(
      "cannot mount on w/missing, which lies inside of workdir=w",
    );
  });

  const other = "/dev/shm";
  const isOther = existsSync(other) && statSync(other).dev !== statSync(base).dev;
  test.skipIf(!isOther)("are refused if the work directory is on another file system", () => {
    const work = mkdtempSync(join(other, "fuse-backend-overlay-"));
    try {
      expect(refusal(() => checkLayers(config({ work }), undefined))).toStartWith(
        `workdir=${work} is not on the file system of upperdir=u`,
      );
    } finally {
      rmSync(work, { recursive: true });
    }
  });
});

function attributesOf(path: string): string {
  return Bun.spawnSync(["getfattr", "-d", "-m", "-", path]).stdout.toString();
}

describe("what the upper layer can store", () => {
  test("is found out without a trace", () => {
    const settled = settleOverlay(config());
    expect(settled.userxattr).toBe(geteuid() !== 0);
    expect(attributesOf(at("w"))).toBe("");
    expect(settleOverlay(config({ userxattr: true }))).toEqual(config({ userxattr: true }));
    expect(attributesOf(at("w"))).toBe("");
  });

  test.skipIf(geteuid() !== 0)("leaves everything as it is where all can be had", () => {
    for (const given of [{}, { metacopy: true }, { index: true, xino: "on" }] as const)
      expect(settleOverlay(config(given))).toEqual(config(given));
    const readOnly = overlayConfig({ lower: [at("l1")] });
    expect(settleOverlay(readOnly)).toEqual(readOnly);
  });
});

describe("a claim", () => {
  const inUse = "upperdir=u is in use by another mount: unmount that first";

  test("excludes another, until it is released", () => {
    const claim = new OverlayClaim(config());
    expect(refusal(() => new OverlayClaim(config()))).toStartWith(inUse);
    claim.release();
    const next = new OverlayClaim(config());
    next.release();
  });

  test("is of the work directory too", () => {
    const claim = new OverlayClaim(config());
    try {
      const other = config({ upper: at("free") });
      expect(refusal(() => new OverlayClaim(other))).toStartWith("workdir=w is in use by another");
    } finally {
      claim.release();
    }
  });

  test("is not needed to read", () => {
    const claim = new OverlayClaim(config());
    try {
      new OverlayClaim(overlayConfig({ lower: [at("u"), at("l1")] })).release();
    } finally {
      claim.release();
    }
  });

  test("waits for one that is about to end", async () => {
    const script = 'echo held; sleep 0.2; echo "released"';
    const holder = Bun.spawn(["flock", at("u"), "sh", "-c", script], { stdout: "pipe" });
    const reader = holder.stdout.getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toBe("held\n");
    const claim = new OverlayClaim(config());
    // It was over before, not because of it.
    expect(new TextDecoder().decode((await reader.read()).value)).toBe("released\n");
    claim.release();
    expect(await holder.exited).toBe(0);
  });
});
