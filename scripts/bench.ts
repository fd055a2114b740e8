// Measures the built executable against the bare directory and against its peers:
//
//   bun scripts/bench.ts --quick --only metadata
//
// Daemons stay mounted over all rounds. A round runs every scenario on one target after the other,
// and only what was measured in the same round is compared: a cell is the median over the rounds of
// how fast the target is as a share of the bare directory (1 is as fast), with the lowest and the
// highest round. Durations are compared by their inverse. `--list` shows the figures.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { cpus, release, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { endWorkers, FULL, QUICK, SCENARIOS, type Bench, type Scenario } from "./bench-figures.ts";
import {
  KERNEL_SPEC,
  OURS_SPEC,
  OVERLAY_SCENARIOS,
  OverlayTarget,
  PEER_SPEC,
} from "./bench-overlay.ts";
import { columns, markdown, record, table, type Results } from "./bench-statistics.ts";
import { mountsBelow, shellQuote, Target, type TargetSpec } from "./bench-target.ts";
import { describeVfsCost, measureVfs } from "./bench-vfs.ts";

const HELP = `Usage: bun scripts/bench.ts [options]

  --dir DIR          measure below this directory. The default is a temporary directory
  --only LIST        figures or groups of them, separated by commas. The default is all
  --list             show groups and figures, and end
  --rounds N         the default is 5, or 2 with --quick
  --quick            smaller amounts
  --timeout SECONDS  how long the kernel keeps names and attributes, for every daemon that can be
                     told: {timeout} in a command. The default is 5
  --ours COMMAND     in place of "dist/fuse-backend passthrough"; NAME=COMMAND for a variant beside
                     it. Repeatable. {src} and {mnt} stand for the directory and the mount point
  --peer NAME=COMMAND  a further daemon; it must stay in the foreground. Repeatable
  --no-peers         without bindfs and mergerfs, or fuse-overlayfs
  --cpu              also show the daemon's processor time, user+system, each operation or in all
  --json FILE        write all measurements
  --markdown         show the table in Markdown
  --overlay          overlays instead: the kernel's, ours and fuse-overlayfs, side by side. Commands
                     have {options} in place of {src}. Without --timeout
  --vfs              what the VFS costs instead, as its share of a stat(2) on a mount; only with
                     --dir, --json and --rounds, whose default then is 21
`;

/** The arguments make no sense. */
export class UsageError extends Error {
  override name = "UsageError";
}

export interface BenchOptions {
  readonly dir: string | undefined;
  readonly figures: ReadonlySet<string>;
  readonly rounds: number;
  readonly quick: boolean;
  readonly timeout: number;
  readonly ours: readonly TargetSpec[];
  readonly peers: readonly TargetSpec[];
  readonly findPeers: boolean;
  readonly cpu: boolean;
  readonly json: string | undefined;
  readonly markdown: boolean;
  /** What the VFS costs instead of everything else. */
  readonly vfs: boolean;
  /** Overlays instead of directories. */
  readonly overlay: boolean;
}

const WITH_VFS = ["vfs", "dir", "json", "rounds"];
const BARE_SPEC: TargetSpec = { name: "bare", role: "bare", command: undefined, note: "" };
const EXECUTABLE = resolve(import.meta.dirname, "../dist/fuse-backend");

export function parseBenchArguments(
  argv: readonly string[],
): BenchOptions | "help" | "list" | "list-overlay" {
  const { values } = readArguments(argv);
  if (values.help === true) return "help";
  if (values.list === true) return values.overlay === true ? "list-overlay" : "list";
  const isVfs = values.vfs === true;
  const others = Object.keys(values).filter((name) => !WITH_VFS.includes(name));
  if (isVfs && others.length > 0)
    throw new UsageError(`--vfs and --${others[0]} exclude each other`);
  const overlay = values.overlay === true;
  if (overlay && values.timeout !== undefined)
    throw new UsageError("--overlay and --timeout exclude each other");
  const roundsByDefault = isVfs ? "21" : values.quick === true ? "2" : "5";
  const source = overlay ? "{options}" : "{src}";
  const ours = (values.ours ?? []).map((text) => namedCommand(text, source, "ours", "ours"));
  const peers = (values.peer ?? []).map((text) => namedCommand(text, source, "peer"));
  const bare = overlay ? KERNEL_SPEC : BARE_SPEC;
  const options: BenchOptions = {
    dir: values.dir,
    figures: chooseFigures(values.only, scenariosOf(overlay)),
    rounds: positive("--rounds", values.rounds ?? roundsByDefault, true),
    quick: values.quick === true,
    timeout: positive("--timeout", values.timeout ?? "5", false),
    ours: ours.some(({ name }) => name === "ours")
      ? ours
      : [overlay ? OURS_SPEC : defaultOurs(), ...ours],
    peers,
    findPeers: values["no-peers"] !== true,
    cpu: values.cpu === true,
    json: values.json,
    markdown: values.markdown === true,
    vfs: isVfs,
    overlay,
  };
  const names = [bare, ...options.ours, ...peers].map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new UsageError(`two targets are called ${twice}`);
  return options;
}

function readArguments(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      strict: true,
      allowPositionals: false,
      options: {
        dir: { type: "string" },
        only: { type: "string" },
        list: { type: "boolean" },
        rounds: { type: "string" },
        quick: { type: "boolean" },
        timeout: { type: "string" },
        ours: { type: "string", multiple: true },
        peer: { type: "string", multiple: true },
        "no-peers": { type: "boolean" },
        cpu: { type: "boolean" },
        json: { type: "string" },
        markdown: { type: "boolean" },
        vfs: { type: "boolean" },
        overlay: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function positive(option: string, text: string, whole: boolean): number {
  const value = Number(text);
  const valid = text.trim() !== "" && Number.isFinite(value) && value >= (whole ? 1 : 0);
  if (!valid || (whole && !Number.isInteger(value)))
    throw new UsageError(
      `${option} must be ${whole ? "a whole number from 1" : "a number from 0"}, not "${text}"`,
    );
  return value;
}

/** `NAME=COMMAND`, or `COMMAND` alone where there is a name to fall back on. */
function namedCommand(
  text: string,
  source: "{src}" | "{options}",
  role: "ours" | "peer",
  fallback?: string,
): TargetSpec {
  const match = /^([\w.+-]+)=(.*)$/s.exec(text);
  const name = match?.[1] ?? fallback;
  const command = match?.[2] ?? text;
  if (name === undefined)
    throw new UsageError(`--${role} must be NAME='command with ${source} {mnt}', not "${text}"`);
  for (const needed of [source, "{mnt}"])
    if (!command.includes(needed))
      throw new UsageError(`the command of ${name} lacks ${needed}: "${command}"`);
  return { name, role, command, note: "as the command says" };
}

/**
 * Names of figures, parts of names up to a hyphen (`create` for create-1 and create-4), or groups.
 */
function chooseFigures(only: string | undefined, scenarios: readonly Scenario[]): Set<string> {
  const all = scenarios.flatMap(({ group, figures }) => figures.map((name) => ({ group, name })));
  if (only === undefined) return new Set(all.map(({ name }) => name));
  const chosen = new Set<string>();
  for (const item of only.split(",")) {
    const found = all.filter(
      ({ group, name }) => group === item || name === item || name.startsWith(`${item}-`),
    );
    if (item === "" || found.length === 0)
      throw new UsageError(`--only: no figure or group is called "${item}"; --list shows them`);
    for (const { name } of found) chosen.add(name);
  }
  return chosen;
}

function defaultOurs(): TargetSpec {
  const timeouts = "--attr-timeout {timeout} --entry-timeout {timeout}";
  return {
    name: "ours",
    role: "ours",
    command: `${shellQuote(EXECUTABLE)} passthrough ${timeouts} {src} {mnt}`,
    note: "names and attributes {timeout} s, data until a changed file is opened again",
  };
}

const scenariosOf = (overlay: boolean): readonly Scenario[] =>
  overlay ? OVERLAY_SCENARIOS : SCENARIOS;

/** Peers from the distribution, told to cache as long as the others. */
function installedPeers(overlay: boolean): TargetSpec[] {
  const known: TargetSpec[] = [
    {
      name: "bindfs",
      role: "peer",
      command:
        "bindfs -f --multithreaded " +
        "-o attr_timeout={timeout},entry_timeout={timeout},auto_cache {src} {mnt}",
      note: "names and attributes {timeout} s, data until a changed file is opened again",
    },
    {
      name: "mergerfs",
      role: "peer",
      command:
        "mergerfs -f -o cache.attr={timeout},cache.entry={timeout} " +
        "-o cache.files=auto-full,minfreespace=0 {src} {mnt}",
      note: "names and attributes {timeout} s, data until a changed file is opened again",
    },
  ];
  return (overlay ? [PEER_SPEC] : known).filter(({ name }) => Bun.which(name) !== null);
}

/** What must be put away however the run ends. */
interface Held {
  readonly directory: string;
  readonly targets: Target[];
}
let held: Held | undefined;

function putAway(): void {
  if (held === undefined) return;
  const { directory, targets } = held;
  held = undefined;
  endWorkers();
  for (const target of targets) target.stopNow();
  for (const path of mountsBelow(directory)) spawnSync("umount", ["-l", path]);
  if (mountsBelow(directory).length > 0)
    console.error(`bench: something is still mounted below ${directory}; it stays`);
  else rmSync(directory, { recursive: true, force: true });
}

/** A new directory to measure in, which is removed however the run ends. */
function makeDirectory(options: BenchOptions, targets: Target[]): string {
  const usesBuild = options.ours.some(({ command }) => command?.includes(EXECUTABLE) === true);
  if (usesBuild && !existsSync(EXECUTABLE))
    throw new Error(`there is no ${EXECUTABLE}: build it by "npm run build"`);
  if (options.dir !== undefined) mkdirSync(options.dir, { recursive: true });
  const directory = mkdtempSync(join(resolve(options.dir ?? tmpdir()), "fuse-backend-bench-"));
  held = { directory, targets };
  return directory;
}

function makeTargets(options: BenchOptions): Target[] {
  const targets: Target[] = [];
  const directory = makeDirectory(options, targets);
  const named = new Set(options.peers.map(({ name }) => name));
  const found = options.findPeers
    ? installedPeers(options.overlay).filter(({ name }) => !named.has(name))
    : [];
  const specs: TargetSpec[] = [
    options.overlay ? KERNEL_SPEC : BARE_SPEC,
    ...options.ours,
    ...found,
    ...options.peers,
  ];
  const Kind = options.overlay ? OverlayTarget : Target;
  for (const spec of specs) targets.push(new Kind(spec, directory, options.timeout));
  return targets;
}

async function measure(options: BenchOptions, targets: readonly Target[], results: Results) {
  const scenarios = scenariosOf(options.overlay).filter(({ figures }) =>
    figures.some((name) => options.figures.has(name)),
  );
  const bench: Bench = {
    directory: held?.directory ?? "",
    sizes: options.quick ? QUICK : FULL,
    timeout: options.timeout,
    wanted: options.figures,
    report: (name, target, result) => {
      record(results, name, target, result);
      if ("error" in result) console.error(`bench: ${name} on ${target} fails: ${result.error}`);
    },
  };
  for (const target of targets) {
    await target.start();
    for (const scenario of scenarios) await scenario.setUp?.(bench, target);
  }
  if (!options.overlay) await warmUp(bench, scenarios, targets);
  for (let round = 0; round < options.rounds; round++) {
    for (const scenario of scenarios) {
      console.error(`bench: round ${round + 1}/${options.rounds}: ${scenario.figures.join(" ")}`);
      for (const target of rotated(targets, round)) await runScenario(bench, scenario, target);
    }
  }
}

/** Another one begins each round, so that nobody always has the disk that is busiest. */
function rotated<Item>(items: readonly Item[], by: number): Item[] {
  const start = by % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}

async function runScenario(bench: Bench, scenario: Scenario, target: Target): Promise<void> {
  try {
    await target.start();
    await scenario.run(bench, target);
  } catch (error) {
    console.error(`bench: ${(error as Error).message}`);
  }
}

/** About 120,000 requests each, with the full amounts. */
const WARM_UP_TURNS = 4;

/**
 * What daemons do before `scenarios` are measured, turn by turn: they are measured as they are
 * after a while, with their code compiled and their tables grown. Nothing where the kernel moves
 * the data, or for new daemons.
 */
export function warmUpTurns(scenarios: readonly Scenario[]): Scenario[][] {
  const trees = scenarios.filter(({ group }) => group === "tree");
  if (trees.length === 0 && !scenarios.some(({ group }) => group === "metadata")) return [];
  const metadata = SCENARIOS.filter(({ group }) => group === "metadata");
  // What programs do with trees takes more kinds of requests, but one turn is many of each.
  return Array.from({ length: WARM_UP_TURNS }, (_, turn) =>
    turn === 0 ? [...metadata, ...trees] : metadata,
  );
}

async function warmUp(bench: Bench, scenarios: readonly Scenario[], targets: readonly Target[]) {
  const turns = warmUpTurns(scenarios);
  const wanted = new Set(turns.flat().flatMap(({ figures }) => figures));
  const quiet: Bench = { ...bench, wanted, report: () => {} };
  for (const [turn, warming] of turns.entries()) {
    console.error(`bench: warming up, ${turn + 1}/${turns.length}`);
    for (const scenario of warming)
      for (const target of targets) await runScenario(quiet, scenario, target);
  }
}

function machine(directory: string): string {
  const model = cpus()[0]?.model ?? "unknown processor";
  return `${cpus().length} × ${model}, Linux ${release()}, ${fileSystem(directory).type}`;
}

function fileSystem(directory: string): { source: string; type: string } {
  const parameters = ["-n", "-o", "SOURCE,FSTYPE", "-T", directory];
  const { stdout } = spawnSync("findmnt", parameters, { encoding: "utf8" });
  const [source = "", type = "unknown file system"] = (stdout ?? "").trim().split(/\s+/);
  return { source, type };
}

/** Things about the machine that would make figures mean something else. */
function warn(directory: string): void {
  if (process.getuid?.() !== 0)
    console.error("bench: only root can drop the caches: the cold figures are not cold");
  const { source, type } = fileSystem(directory);
  const journals = existsSync("/proc/fs/jbd2") ? readdirSync("/proc/fs/jbd2") : [];
  const device = source.replace("/dev/", "");
  if (type === "ext4" && !journals.some((name) => name.startsWith(`${device}-`)))
    console.error(
      `bench: the ext4 on ${source} has no journal. Without one it avoids, slowly, the inodes ` +
        "deleted a moment ago: the create figures say little; use another file system by --dir",
    );
}

function describe(options: BenchOptions, targets: readonly Target[], where: string): string {
  const lines = targets
    .filter(({ spec }) => spec.command !== undefined)
    .map(({ spec }) => {
      const fill = (text: string): string => text.replaceAll("{timeout}", `${options.timeout}`);
      const command = fill(spec.command ?? "").replaceAll(shellQuote(EXECUTABLE), "fuse-backend");
      return `- ${spec.name}: \`${command}\` (caches: ${fill(spec.note)})`;
    });
  const amount = options.quick ? "quick amounts" : "full amounts";
  return [`${where}; ${options.rounds} rounds, ${amount}`, ...lines].join("\n");
}

async function main(options: BenchOptions): Promise<void> {
  const targets = makeTargets(options);
  const results: Results = new Map();
  const where = machine(held?.directory ?? "");
  warn(held?.directory ?? "");
  await measure(options, targets, results);
  const rows = table({
    results,
    targets: targets.map(({ spec }) => spec),
    cpu: options.cpu,
  });
  const description = describe(options, targets, where);
  console.log(`${description}\n\n${options.markdown ? markdown(rows) : columns(rows)}`);
  if (options.json !== undefined) {
    const plain = [...results].map(([name, by]) => [name, Object.fromEntries(by)] as const);
    const measurements = Object.fromEntries(plain);
    const specs = targets.map(({ spec }) => spec);
    const report = {
      machine: where,
      rounds: options.rounds,
      timeout: options.timeout,
      specs,
      measurements,
    };
    writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`);
  }
}

async function mainVfs(options: BenchOptions): Promise<void> {
  const targets: Target[] = [];
  const directory = makeDirectory(options, targets);
  const cost = await measureVfs(directory, options.rounds, (target) => targets.push(target));
  console.log(`${machine(directory)}; ${options.rounds} rounds\n\n${describeVfsCost(cost)}`);
  if (options.json !== undefined)
    writeFileSync(
      options.json,
      `${JSON.stringify({ machine: machine(directory), ...cost }, null, 2)}\n`,
    );
}

function listFigures(overlay: boolean): string {
  const groups = Map.groupBy(scenariosOf(overlay), ({ group }) => group);
  return [...groups]
    .map(([group, list]) => `${group}: ${list.flatMap(({ figures }) => figures).join(" ")}`)
    .join("\n");
}

if (import.meta.main) {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.once(signal, () => {
      putAway();
      process.exit(130);
    });
  let code = 0;
  try {
    const options = parseBenchArguments(process.argv.slice(2));
    if (options === "help") console.log(HELP);
    else if (options === "list") console.log(listFigures(false));
    else if (options === "list-overlay") console.log(listFigures(true));
    else await (options.vfs ? mainVfs(options) : main(options));
  } catch (error) {
    console.error(`bench: ${(error as Error).message}`);
    code = error instanceof UsageError ? 2 : 1;
  } finally {
    putAway();
  }
  process.exit(code);
}
