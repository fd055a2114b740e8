// What scripts/bench.ts measures. A scenario is what is done on one target in one go: it yields one
// figure or several, each measured only if wanted, and cleans up behind itself. The rounds call the
// scenarios target by target, so that all targets do the same under the same conditions.

import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, linkSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { RENAMED, type Job, type Outcome, type Step } from "./bench-metadata.ts";
import type { Result, Sample } from "./bench-statistics.ts";
import { Target, type TargetSpec } from "./bench-target.ts";

const COMMAND_LIMIT_MS = 180_000;
const DIRECTORIES = 20;
export const MIB = 1024 * 1024;

/** How much is done; the quick sizes are for profiling. */
export interface Sizes {
  /** Files of one process when it is alone, and when it is one of several. */
  readonly filesAlone: number;
  readonly filesTogether: number;
  readonly treeFiles: number;
  readonly walkedFiles: number;
  readonly fioBytes: number;
  readonly fioSeconds: number;
  /** Files of 4 KiB that an overlay copies up. */
  readonly copiedFiles: number;
  /** Those that it copies up before, unmeasured: each is synced, which is slow to wait for. */
  readonly warmUpCopies: number;
  /** Of the large file that it copies up. */
  readonly copiedBytes: number;
  /** Entries of a directory that is merged from two layers. */
  readonly mergedEntries: number;
}

export const FULL: Sizes = {
  filesAlone: 4000,
  filesTogether: 2000,
  treeFiles: 3000,
  walkedFiles: 100_000,
  fioBytes: 128 * MIB,
  fioSeconds: 2,
  copiedFiles: 1000,
  warmUpCopies: 8000,
  copiedBytes: 256 * MIB,
  mergedEntries: 10_000,
};
export const QUICK: Sizes = {
  filesAlone: 3000,
  filesTogether: 1500,
  treeFiles: 800,
  walkedFiles: 20_000,
  fioBytes: 64 * MIB,
  fioSeconds: 1,
  copiedFiles: 500,
  warmUpCopies: 1000,
  copiedBytes: 64 * MIB,
  mergedEntries: 10_000,
};

export interface Bench {
  /** Where everything lies; on the file system that is measured. */
  readonly directory: string;
  readonly sizes: Sizes;
  readonly timeout: number;
  readonly wanted: ReadonlySet<string>;
  readonly report: (figure: string, target: string, result: Result) => void;
}

export interface Scenario {
  readonly group: string;
  readonly figures: readonly string[];
  /** Once for each target, before the rounds. */
  setUp?(bench: Bench, target: Target): Promise<void>;
  run(bench: Bench, target: Target): Promise<void>;
}

// --- conditions

/** Everything written is on the disk, and the kernel has forgotten what it cached; needs root. */
export async function cold(target: Target, what: "all" | "inodes" = "all"): Promise<void> {
  spawnSync("sync", ["-f", target.source]);
  if (process.getuid?.() === 0)
    writeFileSync("/proc/sys/vm/drop_caches", what === "all" ? "3" : "2");
  await target.settle();
}

/** Runs one figure and reports it, with how much processor time the daemon took. */
export async function figure(
  bench: Bench,
  target: Target,
  name: string,
  measure: () => Promise<Sample & { operations?: number }>,
): Promise<void> {
  const before = target.cpuSeconds();
  let result: Result;
  try {
    const { value, unit, operations } = await measure();
    const after = target.cpuSeconds();
    const each = unit === "s" ? 1 : 1e6 / (operations ?? 1);
    const cpu = {
      user: (after.user - before.user) * each,
      system: (after.system - before.system) * each,
    };
    result = target.spec.role === "bare" ? { value, unit } : { value, unit, cpu };
  } catch (error) {
    result = { error: (error as Error).message };
  }
  if (bench.wanted.has(name)) bench.report(name, target.name, result);
  else if ("error" in result) throw new Error(`${name} on ${target.name}: ${result.error}`);
}

// --- metadata: system calls from one process and from four

const crew: Worker[] = [];

/** A child that runs scripts/bench-metadata.ts. */
class Worker {
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  #wake: (() => void) | undefined;
  #text = "";

  constructor() {
    const program = join(import.meta.dirname, "bench-metadata.ts");
    this.#child = spawn(process.execPath, [program], { stdio: ["pipe", "pipe", "inherit"] });
    this.#child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      const lines = (this.#text + chunk).split("\n");
      this.#text = lines.pop() ?? "";
      this.#lines.push(...lines);
      this.#wake?.();
    });
    this.#child.once("exit", () => {
      this.#lines.push(JSON.stringify({ error: "the measuring process ended" }));
      this.#wake?.();
    });
  }

  send(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  async line(): Promise<string> {
    while (this.#lines.length === 0) await new Promise<void>((wake) => (this.#wake = wake));
    return this.#lines.shift() ?? "";
  }

  end(): void {
    this.#child.kill("SIGKILL");
  }
}

export function endWorkers(): void {
  for (const worker of crew.splice(0)) worker.end();
}

/** All workers prepare, start together, and the time is from the first start to the last end. */
export async function runTogether(
  jobs: readonly Job[],
): Promise<{ seconds: number; operations: number }> {
  while (crew.length < jobs.length) crew.push(new Worker());
  const workers = crew.slice(0, jobs.length);
  workers.forEach((worker, index) => worker.send(JSON.stringify(jobs[index])));
  const answers = await Promise.all(workers.map((worker) => worker.line()));
  const ready = workers.filter((_, index) => answers[index] === "ready");
  for (const worker of ready) worker.send("go");
  const ends = await Promise.all(ready.map((worker) => worker.line()));
  const refused = answers.filter((answer) => answer !== "ready");
  const outcomes = [...refused, ...ends].map((line) => JSON.parse(line) as Outcome);
  const error = outcomes.find((outcome) => outcome.error !== undefined)?.error;
  if (error !== undefined) throw new Error(error);
  const start = Math.min(...outcomes.map((outcome) => outcome.start));
  const end = Math.max(...outcomes.map((outcome) => outcome.end));
  const operations = outcomes.reduce((sum, outcome) => sum + outcome.operations, 0);
  return { seconds: (end - start) / 1e9, operations };
}

function metadata(processes: number): Scenario {
  const measured: Step[] = ["create", "stat", "readdir", "open", "rename", "unlink"];
  return {
    group: "metadata",
    figures: measured.map((step) => `${step}-${processes}`),
    async run(bench, target) {
      const files = processes === 1 ? bench.sizes.filesAlone : bench.sizes.filesTogether;
      const jobs = (step: Step, prefix = "file", root = target.path): Job[] =>
        Array.from({ length: processes }, (_, index) => ({
          step,
          root,
          own: `metadata-${processes}-${index}`,
          directories: DIRECTORIES,
          filesPerDirectory: Math.ceil(files / DIRECTORIES),
          prefix,
        }));
      const measure = (step: Step, prefix?: string): Promise<void> =>
        figure(bench, target, `${step}-${processes}`, async () => {
          const { seconds, operations } = await runTogether(jobs(step, prefix));
          return { value: operations / seconds, unit: "/s", operations };
        });
      const wanted = (step: Step): boolean => bench.wanted.has(`${step}-${processes}`);

      for (let index = 0; index < processes; index++)
        rmSync(join(target.source, `metadata-${processes}-${index}`), {
          recursive: true,
          force: true,
        });
      await cold(target, "inodes");
      await runTogether(jobs("mkdir"));
      await measure("create");
      for (const step of ["stat", "readdir"] as const) {
        if (!wanted(step)) continue;
        await cold(target);
        await measure(step);
      }
      if (wanted("open")) {
        // Behind the back of the daemon, which may know nothing of the files when that happens.
        await runTogether(jobs("fill", "file", target.source));
        await cold(target, "inodes");
        await runTogether(jobs("open"));
        await measure("open");
      }
      if (wanted("rename")) await measure("rename");
      await measure("unlink", wanted("rename") ? RENAMED : undefined);
      await runTogether(jobs("rmdir"));
    },
  };
}

// --- fio: the data itself

interface FioReport {
  readonly jobs?: readonly {
    readonly error: number;
    readonly read: { readonly bw_bytes: number; readonly total_ios: number };
    readonly write: { readonly bw_bytes: number; readonly total_ios: number };
  }[];
}

export type FioMode = "read" | "write" | "randread" | "randwrite";

/** Bytes a second over all jobs, and the number of reads or writes. */
export function parseFio(text: string): { bandwidth: number; operations: number } {
  const report = JSON.parse(text.slice(text.indexOf("{"))) as FioReport;
  const jobs = report.jobs ?? [];
  if (jobs.length === 0) throw new Error("fio reported no job");
  const failed = jobs.find((job) => job.error !== 0);
  if (failed !== undefined) throw new Error(`fio reported error ${failed.error}`);
  let bandwidth = 0;
  let operations = 0;
  for (const { read, write } of jobs) {
    bandwidth += read.bw_bytes + write.bw_bytes;
    operations += read.total_ios + write.total_ios;
  }
  return { bandwidth, operations };
}

export const FIO_JOBS = 4;

/** For the time that is set, or `once`: to the end of the files, and of random blocks a quarter. */
export async function runFio(
  bench: Bench,
  directory: string,
  mode: FioMode,
  jobs: number,
  once: boolean,
) {
  const { fioBytes, fioSeconds } = bench.sizes;
  const random = mode.startsWith("rand");
  const timed = ["--time_based", `--runtime=${fioSeconds}`];
  const amount = random ? [`--io_size=${fioBytes / 4}`] : [];
  const { output } = await command("fio", [
    "--name=data",
    `--directory=${directory}`,
    "--filename_format=data.$jobnum",
    `--rw=${mode}`,
    `--bs=${random ? "4k" : "1m"}`,
    `--size=${fioBytes}`,
    `--numjobs=${jobs}`,
    "--ioengine=psync",
    // fio would otherwise drop the cache of each file itself, and preallocate.
    "--invalidate=0",
    "--fallocate=none",
    "--norandommap",
    "--group_reporting",
    "--output-format=json",
    ...(once ? amount : timed),
  ]);
  return parseFio(output);
}

function fio(mode: FioMode, jobs: number, state: "cold" | "warm"): Scenario {
  const name = `fio-${mode}-${jobs}-${state}`;
  return {
    group: "fio",
    figures: [name],
    // The files are the same everywhere: where a file lies on the disk makes a difference when it
    // is cold.
    async setUp(bench, target) {
      for (let index = 0; index < FIO_JOBS; index++) {
        const file = `data.${index}`;
        const common = join(bench.directory, file);
        if (!existsSync(common))
          writeFileSync(common, Buffer.alloc(bench.sizes.fioBytes, "fuse-backend "));
        const own = join(target.source, file);
        if (!existsSync(own)) linkSync(common, own);
      }
    },
    async run(bench, target) {
      await cold(target);
      if (state === "warm") await runFio(bench, target.path, "read", jobs, true);
      // Reading for longer would fill the cache, and then read from it.
      const once = state === "cold" && mode.endsWith("read");
      await figure(bench, target, name, async () => {
        const { bandwidth, operations } = await runFio(bench, target.path, mode, jobs, once);
        return { value: bandwidth / MIB, unit: "MiB/s", operations };
      });
    },
  };
}

function fioScenarios(): Scenario[] {
  const all: Scenario[] = [];
  for (const mode of ["read", "write", "randread", "randwrite"] as const)
    for (const jobs of [1, FIO_JOBS])
      for (const state of ["cold", "warm"] as const) all.push(fio(mode, jobs, state));
  return all;
}

// --- trees: what people do with them

/**
 * Runs a program to its end. Throws what it wrote, if it ends with a code that is not in `codes`.
 */
export async function command(
  program: string,
  parameters: readonly string[],
  {
    codes = [0],
    environment = {},
  }: { codes?: number[]; environment?: Record<string, string> } = {},
): Promise<{ seconds: number; output: string }> {
  const started = performance.now();
  const child = spawn(program, parameters, {
    cwd: "/",
    env: { ...process.env, LC_ALL: "C", ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  let errors = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text));
  const limit = setTimeout(() => child.kill("SIGKILL"), COMMAND_LIMIT_MS);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("close", resolve).once("error", reject);
  }).finally(() => clearTimeout(limit));
  const seconds = (performance.now() - started) / 1000;
  if (code !== null && codes.includes(code)) return { seconds, output };
  const why = code === null ? `stopped after ${Math.round(seconds)} s` : `ended with ${code}`;
  throw new Error(`${program} ${why}: ${errors.slice(0, 300).trim()}`);
}

/** The same tree every time: text files of 0.2 to 16 KiB in two levels of directories. */
export function generateTree(path: string, files: number): void {
  let state = 12_345;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    return (state >>> 8) % below;
  };
  const words = ["inode", "lookup", "layer", "mount", "entry", "handle", "reply", "table\n"];
  for (let index = 0; index < files; index++) {
    const directory = join(path, `part${index % 11}`, `module${index % 97}`);
    mkdirSync(directory, { recursive: true });
    const length = 200 + random(random(4) === 0 ? 16_000 : 4000);
    let text = `file ${index}\n`;
    while (text.length < length) text += `${words[random(words.length)]} `;
    writeFileSync(join(directory, `file${index}.txt`), text);
  }
}

export const archive = (bench: Bench): string => join(bench.directory, "tree.tar");
let archived = false;

export async function makeArchive(bench: Bench): Promise<void> {
  if (archived) return;
  archived = true;
  const tree = join(bench.directory, "tree");
  generateTree(tree, bench.sizes.treeFiles);
  await command("tar", ["-cf", archive(bench), "-C", bench.directory, "tree"]);
  rmSync(tree, { recursive: true });
}

const INCLUDE = "/usr/include";

const trees: Scenario = {
  group: "tree",
  figures: ["untar", "git-add", "git-status", "grep", "cp", "cp-include", "rm"],
  setUp: makeArchive,
  async run(bench, target) {
    const tree = join(target.path, "tree");
    const git = (...parameters: string[]): Promise<{ seconds: number }> =>
      command("git", ["-C", tree, "-c", "gc.auto=0", ...parameters], {
        environment: {
          GIT_CONFIG_NOSYSTEM: "1",
          GIT_CONFIG_GLOBAL: "/dev/null",
          GIT_AUTHOR_NAME: "bench",
          GIT_AUTHOR_EMAIL: "bench@localhost",
          GIT_COMMITTER_NAME: "bench",
          GIT_COMMITTER_EMAIL: "bench@localhost",
        },
      });
    const timed = (name: string, run: () => Promise<{ seconds: number }>): Promise<void> =>
      figure(bench, target, name, async () => ({ value: (await run()).seconds, unit: "s" }));
    const wanted = (name: string): boolean => bench.wanted.has(name);

    for (const left of ["tree", "copy", "include"])
      rmSync(join(target.source, left), { recursive: true, force: true });
    await cold(target, "inodes");
    await timed("untar", () => command("tar", ["-xf", archive(bench), "-C", target.path]));
    if (wanted("git-add") || wanted("git-status")) {
      await git("init", "-q");
      await timed("git-add", async () => {
        const add = await git("add", "-A");
        const commit = await git("commit", "-q", "-m", "all of it");
        return { seconds: add.seconds + commit.seconds };
      });
    }
    if (wanted("git-status")) {
      await cold(target);
      await timed("git-status", () => git("status", "--porcelain"));
    }
    if (wanted("grep")) {
      await cold(target);
      // Nothing matches, which grep tells by 1.
      await timed("grep", () => command("grep", ["-r", "no such text", tree], { codes: [1] }));
    }
    const copy = join(target.path, "copy");
    if (wanted("cp")) await timed("cp", () => command("cp", ["-a", tree, copy]));
    if (wanted("cp-include")) {
      const include = join(target.path, "include");
      await timed("cp-include", () => command("cp", ["-a", INCLUDE, include]));
      rmSync(join(target.source, "include"), { recursive: true, force: true });
    }
    const left = wanted("cp") ? [tree, copy] : [tree];
    await timed("rm", () => command("rm", ["-rf", ...left]));
  },
};

// --- the daemon by itself

const walkedTree = (bench: Bench): string => join(bench.directory, "walked");
const walkJob = (bench: Bench, step: Step, root: string): Job => ({
  step,
  root,
  own: "tree",
  directories: 100,
  filesPerDirectory: Math.ceil(bench.sizes.walkedFiles / 100),
  prefix: "file",
});
let walkedMade = false;

const daemon: Scenario = {
  group: "daemon",
  figures: ["start", "memory-idle", "memory-walked", "rss-walked", "descriptors"],
  async setUp(bench) {
    if (walkedMade) return;
    walkedMade = true;
    const root = walkedTree(bench);
    mkdirSync(root, { recursive: true });
    await runTogether([walkJob(bench, "mkdir", root)]);
    await runTogether([walkJob(bench, "create", root)]);
  },
  async run(bench, target) {
    if (target.spec.command === undefined) return;
    const spec: TargetSpec = { ...target.spec, name: `${target.name}-fresh` };
    const fresh = new Target(spec, bench.directory, bench.timeout, walkedTree(bench));
    const told = new Set<string>();
    const tell = (name: string, result: Result): void => {
      told.add(name);
      if (bench.wanted.has(name)) bench.report(name, target.name, result);
    };
    try {
      await fresh.start();
      tell("start", { value: fresh.startMs, unit: "ms" });
      tell("memory-idle", { value: fresh.footprint().pss, unit: "MiB" });
      if (!daemon.figures.some((name) => !told.has(name) && bench.wanted.has(name))) return;
      await runTogether([walkJob(bench, "readdir", fresh.path)]);
      await fresh.settle();
      const { rss, pss, descriptors } = fresh.footprint();
      tell("memory-walked", { value: pss, unit: "MiB" });
      tell("rss-walked", { value: rss, unit: "MiB" });
      tell("descriptors", { value: descriptors, unit: "" });
    } catch (error) {
      const failure = { error: (error as Error).message };
      for (const name of daemon.figures) if (!told.has(name)) tell(name, failure);
    } finally {
      await fresh.stop();
    }
  },
};

export const SCENARIOS: readonly Scenario[] = [
  metadata(1),
  metadata(4),
  ...fioScenarios(),
  trees,
  daemon,
];
