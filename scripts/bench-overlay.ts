// What `scripts/bench.ts --overlay` measures: overlays of the kernel, of ours and of peers over the
// same lower layers, each with an upper layer of its own. Every scenario mounts anew, with an empty
// upper layer, because a layer must not change behind a mount. Before what is measured it does a
// little of the same, so that no daemon is measured while its code is compiled; but for `lookup`,
// which is about mounts that were just made.

import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  openSync,
  closeSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join, resolve } from "node:path";
import {
  archive,
  cold,
  command,
  figure,
  FIO_JOBS,
  generateTree,
  makeArchive,
  MIB,
  runFio,
  runTogether,
  type Bench,
  type FioMode,
  type Scenario,
} from "./bench-figures.ts";
import { RENAMED, type Job, type Step } from "./bench-metadata.ts";
import { MARKER, shellQuote, Target, type TargetSpec } from "./bench-target.ts";

const EXECUTABLE = resolve(import.meta.dirname, "../dist/fuse-backend");
const DIRECTORIES = 20;
const COPIED_BYTES = 4096;
const LAYERS = [1, 10, 100];

/** `mount` ends at once, and a target is a process that lasts as long as its mount. */
const KERNEL =
  `sh -c 'mount -t overlay -o "$0" overlay "$1" && ` +
  `exec findmnt --poll=umount --first-only "$1"' {options} {mnt}`;

export const KERNEL_SPEC: TargetSpec = {
  name: "kernel",
  role: "bare",
  command: KERNEL,
  note: "in the kernel",
};
export const OURS_SPEC: TargetSpec = {
  name: "ours",
  role: "ours",
  command: `${shellQuote(EXECUTABLE)} overlay -o {options} {mnt}`,
  note: "until something changes",
};
export const PEER_SPEC: TargetSpec = {
  name: "fuse-overlayfs",
  role: "peer",
  command: "fuse-overlayfs -f -o {options} {mnt}",
  note: "until something changes",
};

/** A place for one overlay at a time. */
export class OverlayTarget extends Target {
  readonly #directory: string;
  #options = "";

  constructor(spec: TargetSpec, directory: string, timeout: number) {
    super(spec, directory, timeout);
    this.#directory = directory;
  }

  protected override fill(text: string): string {
    return super.fill(text.replaceAll("{options}", shellQuote(this.#options)));
  }

  /** Layers are given relative to it: the kernel takes no more than a page of options. */
  protected override get cwd(): string {
    return this.#directory;
  }

  /** Each scenario mounts what it needs. */
  override async start(): Promise<void> {}

  /** Runs `use` on an overlay over the layers with an empty upper one, from the top. */
  async mounted(layers: readonly string[], use: () => Promise<void>, more = ""): Promise<void> {
    const own = (name: string): string => join(this.name, name);
    for (const name of ["upper", "work"]) {
      rmSync(join(this.#directory, own(name)), { recursive: true, force: true });
      mkdirSync(join(this.#directory, own(name)));
    }
    const lower = layers.join(":");
    this.#options = `lowerdir=${lower},upperdir=${own("upper")},workdir=${own("work")}${more}`;
    try {
      await super.start();
      await use();
    } finally {
      await this.stop();
    }
  }
}

// --- Layers, which all targets share

/** Makes the layers of a name if they are not there yet. Returns them, relative to the bench's. */
function layers(
  bench: Bench,
  name: string,
  count: number,
  fill: (paths: readonly string[]) => void,
): string[] {
  const relative = Array.from({ length: count }, (_, index) => join("layers", name, `${index}`));
  const paths = relative.map((path) => join(bench.directory, path));
  if (existsSync(join(bench.directory, "layers", name))) return relative;
  for (const path of paths) {
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, MARKER), "");
  }
  fill(paths);
  return relative;
}

/** The files of a job, by turns in one layer and in the next; all layers have its directories. */
function spread(paths: readonly string[], job: Job, contents: string): void {
  let count = 0;
  for (let number = 0; number < job.directories; number++) {
    const directory = join(job.own, `d${number}`);
    for (const path of paths) mkdirSync(join(path, directory), { recursive: true });
    for (let index = 0; index < job.filesPerDirectory; index++) {
      const path = paths[count++ % paths.length] ?? "";
      writeFileSync(join(path, directory, `${job.prefix}${index}`), contents);
    }
  }
}

const job = (target: Target, step: Step, own: string, files: number, more?: Partial<Job>): Job => ({
  step,
  root: target.path,
  own,
  directories: DIRECTORIES,
  filesPerDirectory: Math.ceil(files / DIRECTORIES),
  prefix: "file",
  ...more,
});

const rate = (bench: Bench, target: Target, name: string, jobs: readonly Job[]): Promise<void> =>
  figure(bench, target, name, async () => {
    const { seconds, operations } = await runTogether(jobs);
    return { value: operations / seconds, unit: "/s", operations };
  });

const WARM_UP_FILES = 8000;
const WARM_UP_TURNS = 2;

// --- Copying up

function copyUp(kind: "small" | "large", isVolatile: boolean): Scenario {
  const name = `copy-up-${kind}${isVolatile ? "-volatile" : ""}`;
  return {
    group: "copy-up",
    figures: [name],
    async run(bench, target: OverlayTarget) {
      const warm = job(target, "change", "warm", bench.sizes.warmUpCopies);
      const small = job(target, "change", "small", bench.sizes.copiedFiles);
      const lower = layers(bench, "copied", 1, (paths) => {
        for (const each of [warm, small]) spread(paths, each, "x".repeat(COPIED_BYTES));
        writeLarge(join(paths[0] ?? "", "large"), bench.sizes.copiedBytes);
      });
      const more = isVolatile ? ",volatile" : "";
      await target.mounted(
        lower,
        async () => {
          await runTogether([warm]);
          await cold(target, "inodes");
          if (kind === "small") return rate(bench, target, name, [small]);
          const large = join(target.path, "large");
          await command("cat", [large]);
          await figure(bench, target, name, async () => {
            const started = performance.now();
            closeSync(openSync(large, "r+"));
            const seconds = (performance.now() - started) / 1000;
            return { value: bench.sizes.copiedBytes / MIB / seconds, unit: "MiB/s" };
          });
        },
        more,
      );
    },
  };
}

function writeLarge(path: string, bytes: number): void {
  const chunk = Buffer.alloc(MIB, "fuse-backend ");
  const fd = openSync(path, "w");
  for (let done = 0; done < bytes; done += MIB) writeSync(fd, chunk);
  closeSync(fd);
}

// --- Looking up through many layers

function lookup(count: number): Scenario {
  const steps = [
    ["stat", `lookup-${count}`],
    ["missing", `missing-${count}`],
  ] as const;
  return {
    group: "lookup",
    figures: steps.map(([, name]) => name),
    async run(bench, target: OverlayTarget) {
      const files = bench.sizes.filesAlone;
      const lower = layers(bench, `many-${count}`, count, (paths) =>
        spread(paths, job(target, "stat", "tree", files), ""),
      );
      for (const [step, name] of steps) {
        if (!bench.wanted.has(name)) continue;
        const prefix = step === "missing" ? "none" : "file";
        await target.mounted(lower, () =>
          rate(bench, target, name, [job(target, step, "tree", files, { prefix })]),
        );
      }
    },
  };
}

// --- Merged directories

const AGAIN = 5;

function readdir(step: "list" | "readdir"): Scenario {
  const name = step === "list" ? "list-merged" : "list-stat-merged";
  return {
    group: "readdir",
    figures: [`${name}-first`, `${name}-again`],
    async run(bench, target: OverlayTarget) {
      const one = { directories: 1, filesPerDirectory: bench.sizes.mergedEntries };
      const lower = layers(bench, "merged", 2, (paths) => {
        spread(paths, job(target, step, "warm", WARM_UP_FILES), "");
        spread(paths, job(target, step, "tree", 0, one), "");
      });
      await target.mounted(lower, async () => {
        await runTogether([job(target, step, "warm", WARM_UP_FILES)]);
        const jobs = [job(target, step, "tree", 0, one)];
        await rate(bench, target, `${name}-first`, jobs);
        await figure(bench, target, `${name}-again`, async () => {
          let total = { seconds: 0, operations: 0 };
          for (let time = 0; time < AGAIN; time++) {
            const { seconds, operations } = await runTogether(jobs);
            total = {
              seconds: total.seconds + seconds,
              operations: total.operations + operations,
            };
          }
          const { seconds, operations } = total;
          return { value: operations / seconds, unit: "/s", operations };
        });
      });
    },
  };
}

// --- Metadata

/** New files in merged directories, and lower ones. */
function metadata(processes: number): Scenario {
  const named = (name: string): string => `${name}-${processes}`;
  const names = ["create", "stat", "open", "rename", "unlink"];
  return {
    group: "metadata",
    figures: [...names, "stat-lower", "open-lower", "unlink-lower"].map(named),
    async run(bench, target: OverlayTarget) {
      const { filesAlone, filesTogether } = bench.sizes;
      const files = processes === 1 ? filesAlone : filesTogether;
      const owns = Array.from({ length: processes }, (_, index) => `own${index}`);
      const lower = layers(bench, named("metadata"), 2, (paths) => {
        for (let turn = 0; turn < WARM_UP_TURNS; turn++)
          for (const warm of warmJobs(target, "stat", warmLower(turn))) spread(paths, warm, "x");
        for (const own of owns)
          spread(paths, job(target, "stat", own, files, { prefix: "lower" }), "x");
      });
      const jobs = (step: Step, prefix: string): Job[] =>
        owns.map((own) => job(target, step, own, files, { prefix }));
      const measure = (name: string, step: Step, prefix: string): Promise<void> =>
        rate(bench, target, named(name), jobs(step, prefix));
      await target.mounted(lower, async () => {
        await warmUp(target);
        await cold(target, "inodes");
        await measure("create", "create", "file");
        await cold(target, "inodes");
        await measure("stat", "stat", "file");
        await measure("stat-lower", "stat", "lower");
        await runTogether(jobs("fill", "file"));
        await cold(target, "inodes");
        await runTogether(jobs("open", "file"));
        await measure("open", "open", "file");
        await runTogether(jobs("open", "lower"));
        await measure("open-lower", "open", "lower");
        await measure("rename", "rename", "file");
        await measure("unlink", "unlink", RENAMED);
        await measure("unlink-lower", "unlink", "lower");
      });
    },
  };
}

/** Two processes, so that every worker has as much to do. */
const warmJobs = (target: Target, step: Step, prefix: string): Job[] =>
  ["warm0", "warm1"].map((own) => job(target, step, own, WARM_UP_FILES, { prefix }));

/** A lower file can be removed only once, so each turn has its own. */
const warmLower = (turn: number): string => `lower${turn}-`;

async function warmUp(target: Target): Promise<void> {
  const run = (step: Step, prefix: string): Promise<unknown> =>
    runTogether(warmJobs(target, step, prefix));
  for (let turn = 0; turn < WARM_UP_TURNS; turn++) {
    for (const step of ["create", "stat", "fill", "open", "rename"] as const)
      await run(step, "file");
    await run("unlink", RENAMED);
    for (const step of ["stat", "open", "unlink"] as const) await run(step, warmLower(turn));
  }
}

// --- Trees

const treeFigures = ["untar", "find-lower", "git-status-lower", "grep-lower", "rm-lower"];

const GIT = {
  GIT_CONFIG_NOSYSTEM: "1",
  GIT_CONFIG_GLOBAL: "/dev/null",
  GIT_AUTHOR_NAME: "bench",
  GIT_AUTHOR_EMAIL: "bench@localhost",
  GIT_COMMITTER_NAME: "bench",
  GIT_COMMITTER_EMAIL: "bench@localhost",
};

/** A repository, and the same tree again for something to be done with before it is measured. */
function makeRepository(path: string, files: number): void {
  for (const name of ["tree", "warm"]) {
    const tree = join(path, name);
    generateTree(tree, name === "warm" ? Math.min(files, 500) : files);
    const git = (...parameters: string[]): unknown =>
      spawnSync("git", ["-C", tree, "-c", "gc.auto=0", ...parameters], {
        env: { ...process.env, ...GIT },
      });
    git("init", "-q");
    git("add", "-A");
    git("commit", "-q", "-m", "all of it");
  }
}

const trees: Scenario = {
  group: "tree",
  figures: treeFigures,
  setUp: makeArchive,
  async run(bench, target: OverlayTarget) {
    const lower = layers(bench, "repository", 1, ([path = ""]) =>
      makeRepository(path, bench.sizes.treeFiles),
    );
    const of = (name: string): Readonly<Record<string, () => Promise<{ seconds: number }>>> => {
      const tree = join(target.path, name);
      return {
        untar: () => command("tar", ["-xf", archive(bench), "-C", join(target.path, "new", name)]),
        "find-lower": () => command("find", [tree, "-size", "+1G"]),
        "git-status-lower": () =>
          command("git", ["-C", tree, "status", "--porcelain"], { environment: GIT }),
        "grep-lower": () => command("grep", ["-r", "no such text", tree], { codes: [1] }),
        "rm-lower": () => command("rm", ["-rf", tree]),
      };
    };
    await target.mounted(lower, async () => {
      for (const name of ["warm", "tree"])
        mkdirSync(join(target.path, "new", name), { recursive: true });
      for (const run of Object.values(of("warm"))) await run();
      for (const [name, run] of Object.entries(of("tree"))) {
        if (!bench.wanted.has(name)) continue;
        await cold(target, "inodes");
        await figure(bench, target, name, async () => ({
          value: (await run()).seconds,
          unit: "s",
        }));
      }
    });
  },
};

// --- Data

function data(
  mode: FioMode,
  jobs: number,
  state: "cold" | "warm",
  where: "lower" | "upper",
): Scenario {
  const name = `fio-${mode}-${jobs}-${state}-${where}`;
  return {
    group: "fio",
    figures: [name],
    async run(bench, target: OverlayTarget) {
      const fill = (directory: string): void => {
        mkdirSync(directory);
        for (let index = 0; index < FIO_JOBS; index++)
          writeLarge(join(directory, `data.${index}`), bench.sizes.fioBytes);
      };
      const lower = layers(bench, "data", 1, ([path = ""]) => fill(join(path, "lower")));
      await target.mounted(lower, async () => {
        const directory = join(target.path, where);
        if (where === "upper") fill(directory);
        await cold(target);
        if (state === "warm") await runFio(bench, directory, "read", jobs, true);
        const once = state === "cold" && mode.endsWith("read");
        await figure(bench, target, name, async () => {
          const { bandwidth, operations } = await runFio(bench, directory, mode, jobs, once);
          return { value: bandwidth / MIB, unit: "MiB/s", operations };
        });
      });
    },
  };
}

function dataScenarios(): Scenario[] {
  const all: Scenario[] = [];
  for (const mode of ["read", "write", "randread", "randwrite"] as const)
    for (const where of ["lower", "upper"] as const)
      for (const jobs of [1, FIO_JOBS])
        for (const state of ["cold", "warm"] as const)
          // A lower file that is written to is an upper one.
          if (where === "upper" || mode.endsWith("read")) all.push(data(mode, jobs, state, where));
  return all;
}

// --- The daemon by itself

function start(count: number): Scenario {
  const name = count === 1 ? "start" : `start-${count}`;
  return {
    group: "daemon",
    figures: [name],
    async run(bench, target: OverlayTarget) {
      const lower = layers(bench, name, count, () => {});
      await target.mounted(lower, async () =>
        bench.report(name, target.name, { value: target.startMs, unit: "ms" }),
      );
    },
  };
}

const memory: Scenario = {
  group: "daemon",
  figures: ["memory-idle", "memory-walked", "rss-walked", "descriptors"],
  async run(bench, target: OverlayTarget) {
    if (target.spec.role === "bare") return;
    const tell = (name: string, value: number, unit: string): void => {
      if (bench.wanted.has(name)) bench.report(name, target.name, { value, unit });
    };
    const files = bench.sizes.walkedFiles;
    const walked = job(target, "readdir", "tree", files, {
      directories: 100,
      filesPerDirectory: Math.ceil(files / 100),
    });
    const lower = layers(bench, "walked", 2, (paths) => spread(paths, walked, ""));
    await target.mounted(lower, async () => {
      tell("memory-idle", target.footprint().pss, "MiB");
      await runTogether([walked]);
      await target.settle();
      const { rss, pss, descriptors } = target.footprint();
      tell("memory-walked", pss, "MiB");
      tell("rss-walked", rss, "MiB");
      tell("descriptors", descriptors, "");
    });
  },
};

export const OVERLAY_SCENARIOS: readonly Scenario[] = [
  copyUp("small", false),
  copyUp("small", true),
  copyUp("large", false),
  copyUp("large", true),
  ...LAYERS.map((count) => lookup(count)),
  readdir("list"),
  readdir("readdir"),
  metadata(1),
  metadata(4),
  trees,
  ...dataScenarios(),
  start(1),
  start(100),
  memory,
];
