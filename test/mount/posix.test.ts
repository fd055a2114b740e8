// Every POSIX case on a bare directory and on mounts of several configurations: both see the same.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { Mount, offerIoUring, whyNoIoUring, whyNoMounts, withMount } from "../support-mount.ts";
import { kernelDifference, posixCases } from "./posix-cases.ts";
import { PosixRunner } from "./posix-runner.ts";

const CONFIGURATIONS: readonly (readonly string[])[] = [
  [],
  ["--cache", "never"],
  ["--cache", "always", "--workers", "1"],
  ["--no-kernel-passthrough"],
  ["--cache", "always", "--writeback"],
  ...(whyNoIoUring === undefined ? [["--io-uring", "on"]] : []),
];

/** Longer than a process may take to answer, so that it is that which fails. */
const TIMEOUT_MS = 60_000;

/** A runner that is replaced by a new one after it hung or crashed. */
class Runners implements Disposable {
  readonly #name: string;
  #runner: PosixRunner | undefined;

  constructor(name: string) {
    this.#name = name;
  }
  get(): PosixRunner {
    if (!this.#runner?.alive) this.#runner = new PosixRunner(this.#name);
    return this.#runner;
  }
  [Symbol.dispose](): void {
    this.#runner?.kill();
  }
}

let bareBase = "";
const bareRunners = new Runners("the bare directory's process");
const bareResults = new Map<string, Promise<unknown>>();
const directoryNames = new Map(
  Object.keys(posixCases).map((name, index) => [name, `case-${index}`]),
);

/** What a case sees on the bare directory. It is run once. */
function bareResult(name: string): Promise<unknown> {
  const directory = `${bareBase}/${directoryNames.get(name)}`;
  const running = bareResults.get(name) ?? bareRunners.get().run(name, directory, directory);
  bareResults.set(name, running);
  return running;
}

beforeAll(() => {
  bareBase = mkdtempSync("/tmp/fuse-backend-bare-");
  chmodSync(bareBase, 0o755); // Other users pass through.
});

afterAll(() => {
  bareRunners[Symbol.dispose]();
  rmSync(bareBase, { recursive: true, force: true });
});

describe.skipIf(whyNoMounts !== undefined).each(CONFIGURATIONS.map((options) => ({ options })))(
  "like the bare directory, with options: $options",
  ({ options }) => {
    let mount: Mount;
    const runners = new Runners("the mount's process");

    let takeBack = (): void => {};

    beforeAll(async () => {
      if (options.includes("--io-uring")) takeBack = offerIoUring("Y");
      mount = await Mount.start({ options });
    });
    afterAll(async () => {
      takeBack();
      runners[Symbol.dispose]();
      await mount?.[Symbol.asyncDispose]();
    });

    test.each(Object.keys(posixCases))(
      "%s",
      async (name) => {
        await mount.during(async () => {
          const directory = directoryNames.get(name) ?? "";
          const [bare, mounted] = await Promise.all([
            bareResult(name),
            runners
              .get()
              .run(name, `${mount.mountpoint}/${directory}`, `${mount.source}/${directory}`),
          ]);
          const difference = kernelDifference(name, options);
          if (difference === undefined) expect(mounted).toEqual(bare);
          else if ("mounted" in difference) expect(mounted).toEqual(difference.mounted);
        });
      },
      TIMEOUT_MS,
    );
  },
);

test.skipIf(whyNoMounts !== undefined)("a read-only mount refuses every change", async () => {
  using runner = new PosixRunner("the read-only mount's process");
  await withMount({ options: ["-o", "ro"] }, async ({ source, mountpoint }) => {
    writeFileSync(`${source}/f`, "data");
    mkdirSync(`${source}/d`);
    const { allowed, refused } = (await runner.run("read-only", mountpoint, source)) as {
      allowed: unknown[];
      refused: string[];
    };
    expect(allowed).toEqual(["data", 0]);
    expect(new Set(refused)).toEqual(new Set(["EROFS"]));
  });
});
