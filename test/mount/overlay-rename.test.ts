// Renaming on an overlay: everything to everywhere, as the kernel's does it.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Disk, overlaySystems, whyNoOverlays } from "../support-overlay.ts";
import { errnoName } from "../../src/errno.ts";
import { Actor } from "./actor.ts";
import { compare, Stage } from "./overlay-stage.ts";
import { SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

setDefaultTimeout(SHELL_TEST_TIMEOUT_MS);

let disk: Disk;
beforeAll(async () => {
  if (whyNoOverlays === undefined) disk = await Disk.start("2G");
});
afterAll(async () => {
  await disk?.[Symbol.asyncDispose]();
});

/** Of each kind of thing one, by its name. */
const MAKE = `
  for layer in l1 l2; do
    mkdir -p $layer/both/sub; echo $layer > $layer/both/$layer; echo $layer > $layer/both/same
  done
  mkdir -p l2/low/sub l2/empty-low u/up/sub u/over l2/over l2/hidden
  echo low > l2/low/file; echo up > u/up/file; echo up > u/over/up; echo low > l2/over/low
  echo low > l2/file-low; echo up > u/file-up; echo low > l2/file-both; echo up > u/file-both
  echo gone > l2/gone; mknod u/gone c 0 0; echo hidden > l2/hidden/file; mknod u/hidden c 0 0
  mkdir -p l2/cleared u/cleared; echo x > l2/cleared/x; mknod u/cleared/x c 0 0
  mkdir u/empty-up; ln -s low l2/link; mkfifo l2/fifo`;
const THINGS = [
  "both",
  "low",
  "up",
  "over",
  "empty-low",
  "empty-up",
  "cleared",
  "file-low",
  "file-up",
  "file-both",
  "link",
  "fifo",
];
const TARGETS = [...THINGS, "gone", "hidden", "none", "low/inside", "up/inside", "both/same"];

type Rename = readonly [flags: number, from: string, to: string];

const NOREPLACE = 1;
const EXCHANGE = 2;
const WHITEOUT = 4;

const every = (flags: number, things: readonly string[], targets: readonly string[]): Rename[] =>
  things.flatMap((from) => targets.map((to) => [flags, from, to] as const));

/** Does each rename(2) in a directory of its own, on the kernel's overlay and on ours. */
async function compareRenames(renames: readonly Rename[], options: string[]): Promise<string> {
  const make = `
    (mkdir model; cd model; mkdir l1 l2 u; ${MAKE})
    for i in $(seq 0 ${renames.length - 1}); do for l in l1 l2 u; do cp -a model/$l $l/$i; done; done`;
  const script = async (stage: Stage): Promise<string> => {
    using actor = new Actor();
    const lines = [];
    for (const [index, [flags, from, to]] of renames.entries()) {
      const at = (name: string): string => stage.at(`${index}/${name}`);
      const result = await actor.call("rename", at(from), at(to), flags);
      lines.push(`${flags}: ${from} ${to} ${result === 0 ? "done" : errnoName(result)}`);
    }
    return lines.join("\n");
  };
  return await compare(disk, { make, script, options });
}

describe.skipIf(whyNoOverlays !== undefined)("rename", () => {
  test("of everything to everywhere is as on the kernel's overlay", async () => {
    const printed = await compareRenames(
      [
        ...every(0, THINGS, TARGETS),
        ...every(NOREPLACE, ["both", "file-low"], ["both", "up", "none", "gone", "cleared"]),
        ...every(EXCHANGE, ["both", "low", "up", "file-low", "file-up"], THINGS),
        ...every(EXCHANGE, ["both", "file-low"], ["none", "gone", "low/inside", "both/same"]),
        ...[WHITEOUT, 8, NOREPLACE | EXCHANGE].flatMap((flags) =>
          every(flags, ["file-low", "up"], ["none", "file-up"]),
        ),
      ],
      ["redirect_dir=on"],
    );
    expect(printed).toContain("0: both none done");
    expect(printed).toContain("2: both low done");
    expect(printed).toContain("4: up none EINVAL");
  });

  test("of directories of lower layers is EXDEV where it is not wanted", async () => {
    const things = ["both", "low", "up", "cleared", "file-low"];
    const printed = await compareRenames(
      [...every(0, things, ["none", "gone", "empty-up"]), ...every(EXCHANGE, ["up"], things)],
      ["redirect_dir=off"],
    );
    expect(printed).toContain("0: low none EXDEV");
    expect(printed).toContain("2: up both EXDEV");
  });

  test("by mv goes on by copying where directories can't be renamed", async () => {
    const script = `
      mv both moved; mv low up/moved; mv up/moved low2; ls -R; mkdir both; echo new > both/new; cat moved/l2 low2/file`;
    await compare(disk, { make: MAKE, options: ["redirect_dir=off"], script });
  });

  test("back and forth leaves what was there, over mounts again", async () => {
    await using stage = await Stage.start(disk, MAKE);
    const options = ["redirect_dir=on"];
    await stage.mount(options);
    const tree = await stage.tree();
    const rounds = [
      "mv both x; mv low both; mv x low",
      "mv both/sub sub; mv low both/low",
      "mv both/low x; mv both low; mv x both; mv sub low/sub",
    ];
    for (const script of rounds) {
      await stage.do(script);
      const after = await stage.tree();
      await stage.unmount();
      await stage.mount(options, overlaySystems.kernel);
      expect(await stage.tree()).toBe(after);
      await stage.unmount();
      await stage.mount(options);
      expect(await stage.tree()).toBe(after);
    }
    expect(await stage.tree()).toBe(tree);
  });

  test("keeps what is open or a working directory", async () => {
    await using stage = await Stage.start(disk, MAKE);
    await stage.mount(["redirect_dir=on"]);
    expect(
      await stage.do(`
        exec 3< low/file 4< both/same; cd both/sub; mv ../../low ../../low2; mv ../../both ../../low2/both
        cat <&3; cat <&4; echo here > new; cd ../..; pwd | grep -o 'low2$'; cat both/sub/new`),
    ).toBe("low\nl1\nlow2\nhere\n");
  });

  test("into a directory of a name that is too long for a redirect is EXDEV", async () => {
    const long = "d".repeat(100);
    const make = `mkdir -p l1/${long}/${long}/${long}/sub; echo x > l1/${long}/${long}/${long}/sub/file`;
    const script = `
      mv ${long}/${long}/${long}/sub moved; cat moved/file; ls ${long}/${long}/${long}`;
    await compare(disk, { make, options: ["redirect_dir=on"], script });
  });
});
