// Runs a public test suite of file systems against the built executable and says what fails that
// does not fail without it:
//
//   bun scripts/conformance.ts pjdfstest PATH
//   bun scripts/conformance.ts xfstests PATH --baseline ext4.log
//   bun scripts/conformance.ts unionmount PATH
//
// The suite is installed by the user at PATH and not changed; how to do that is in
// docs/conformance.md. Here is what each needs around it (mounts, a helper for mount(8), a
// configuration), and a watch on tests that hang.

import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  createWriteStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { MARKER, mountsBelow, shellQuote, Target, unmountLazily } from "./bench-target.ts";
import {
  compare,
  isComplete,
  parseBaseline,
  parseExclusions,
  parsers,
  UsageError,
  type Comparison,
  type Report,
  type Status,
  type Suite,
  type SuiteResults,
} from "./conformance-results.ts";

const HELP = `Usage: bun scripts/conformance.ts pjdfstest|xfstests|unionmount PATH [options]

  --executable FILE  what is tested. The default is dist/fuse-backend
  -o LIST            further mount options, separated by commas (cache=always,workers=1). Repeatable
  --dir DIR          the directories that are served lie below this one. The default is a temporary
                     directory
  --overlay          run pjdfstest or xfstests on an overlay, which unionmount always is: of an empty
                     lower and an empty upper directory
  --peer             the executable is another implementation of overlays, which is called as
                     fuse-overlayfs is, and without the kernel's options
  --tests LIST       only these, separated by commas: chmod/05.t, generic/001, rmdir
  --group GROUP      the tests of xfstests to run. The default is generic/quick
  --exclude FILE     tests to leave out, a line each: the name and the reason
  --baseline FILE    failures that do not count: results of this program (--json) on the bare file
                     system, or what prove or check printed there
  --bare             run pjdfstest on the bare directory, or on the kernel's overlay, and unionmount
                     on the kernel's overlay: for a baseline
  --timeout SECONDS  how long a test may take. The default is 600
  --results DIR      keep what the suite writes here. The default is a temporary directory, kept if
                     tests fail
  --json FILE        write the result of every test
`;

/** Names the type of the mounts, fuse.NAME, so that an installed helper is left alone. */
const HELPER_NAME = "fuse-backend-test";
const HELPER = `/sbin/mount.fuse.${HELPER_NAME}`;
const ROOT = resolve(import.meta.dirname, "..");

export interface ConformanceOptions {
  readonly suite: Suite;
  readonly path: string;
  readonly executable: string;
  readonly mountOptions: readonly string[];
  readonly overlay: boolean;
  readonly peer: boolean;
  readonly dir: string | undefined;
  readonly tests: readonly string[];
  readonly group: string;
  readonly exclude: string | undefined;
  readonly baseline: string | undefined;
  readonly bare: boolean;
  readonly timeoutSeconds: number;
  readonly results: string | undefined;
  readonly json: string | undefined;
}

// --- arguments

const TEST_NAMES: Record<Suite, RegExp> = {
  pjdfstest: /^[\w-]+(\/\d+\.t)?$/,
  unionmount: /^[\w-]+$/,
  xfstests: /^[\w-]+\/[\w-]+$/,
};

export function parseConformanceArguments(argv: readonly string[]): ConformanceOptions | "help" {
  const { values, positionals } = readArguments(argv);
  if (values.help === true) return "help";
  const [suite, path, ...surplus] = positionals;
  if (suite !== "pjdfstest" && suite !== "xfstests" && suite !== "unionmount")
    throw new UsageError(
      `the suite must be pjdfstest, xfstests or unionmount, not "${suite ?? ""}"`,
    );
  if (path === undefined) throw new UsageError(`where ${suite} is installed is missing`);
  if (surplus.length > 0) throw new UsageError(`surplus arguments: ${surplus.join(" ")}`);
  const timeout = Number(values.timeout ?? "600");
  if (!(Number.isInteger(timeout) && timeout > 0))
    throw new UsageError(`--timeout must be a whole number of seconds, not "${values.timeout}"`);
  const tests = (values.tests ?? "").split(",").filter((name) => name !== "");
  for (const name of tests)
    if (!TEST_NAMES[suite].test(name))
      throw new UsageError(`--tests: "${name}" is no test of ${suite}`);
  if (suite === "xfstests" && values.bare === true)
    throw new UsageError("--bare is not for xfstests: see docs/conformance.md");
  if (suite !== "xfstests" && values.group !== undefined)
    throw new UsageError("--group is for xfstests");
  return {
    suite,
    path: resolve(path),
    executable: resolve(values.executable ?? join(ROOT, "dist/fuse-backend")),
    mountOptions: values.option ?? [],
    overlay: values.overlay === true || suite === "unionmount",
    peer: values.peer === true,
    dir: values.dir,
    tests,
    group: values.group ?? "generic/quick",
    exclude: values.exclude,
    baseline: values.baseline,
    bare: values.bare === true,
    timeoutSeconds: timeout,
    results: values.results,
    json: values.json,
  };
}

function readArguments(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      strict: true,
      allowPositionals: true,
      options: {
        executable: { type: "string" },
        option: { type: "string", short: "o", multiple: true },
        overlay: { type: "boolean" },
        peer: { type: "boolean" },
        dir: { type: "string" },
        tests: { type: "string" },
        group: { type: "string" },
        exclude: { type: "string" },
        baseline: { type: "string" },
        bare: { type: "boolean" },
        timeout: { type: "string" },
        results: { type: "string" },
        json: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

// --- running

/** What must be put away however the run ends. */
interface Held {
  readonly directory: string;
  helper: boolean;
  target?: Target;
  suitePid?: number;
}
let held: Held | undefined;

function putAway(): void {
  if (held === undefined) return;
  const { directory, helper, target, suitePid } = held;
  held = undefined;
  if (suitePid !== undefined) for (const pid of [...descendants(suitePid), suitePid]) kill(pid);
  target?.stopNow();
  for (const path of mountsBelow(directory)) unmountLazily(path);
  // A daemon in the background that is stuck; the others end by themselves now.
  for (const pid of processes()) if (commandLine(pid).includes(`${directory}/`)) kill(pid);
  if (helper) rmSync(HELPER, { force: true });
  if (mountsBelow(directory).length > 0)
    console.error(`conformance: something is still mounted below ${directory}; it stays`);
  else rmSync(directory, { recursive: true, force: true });
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}

function processes(): number[] {
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number);
}

/** Empty for a process that has ended meanwhile. */
function procFile(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "utf8");
  } catch {
    return "";
  }
}

const commandLine = (pid: number): string => procFile(pid, "cmdline").replaceAll("\0", " ");

/** The processes that a process has started, and theirs. */
function descendants(ancestor: number): number[] {
  const children = new Map<number, number[]>();
  for (const pid of processes()) {
    const text = procFile(pid, "stat");
    const parent = Number(text.slice(text.lastIndexOf(")") + 2).split(" ")[1]);
    children.set(parent, [...(children.get(parent) ?? []), pid]);
  }
  const found: number[] = [];
  const visit = (pid: number): void => {
    for (const child of children.get(pid) ?? []) {
      found.push(child);
      visit(child);
    }
  };
  visit(ancestor);
  return found;
}

/**
 * Ends all requests of the mounts below a directory: the last resort against a daemon that is
 * stuck.
 */
function abortConnections(directory: string): void {
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const [, , device = "", , path = ""] = line.split(" ");
    const control = `/sys/fs/fuse/connections/${device.split(":")[1]}/abort`;
    if (path.startsWith(`${directory}/`) && existsSync(control)) writeFileSync(control, "1");
  }
}

interface Command {
  readonly program: string;
  readonly parameters: readonly string[];
  readonly cwd: string;
  readonly environment: Record<string, string>;
}

const SECOND_ATTEMPT_SECONDS = 30;

interface SuiteOutput {
  readonly text: string;
  /** The tests that were ended. */
  readonly timedOut: ReadonlySet<string>;
}

/**
 * Runs the suite and returns what it printed. A suite prints something whenever a test begins or
 * ends, so that silence for too long is a test that hangs: its processes are killed, then its
 * mounts aborted.
 */
async function runSuite(
  command: Command,
  { timeoutSeconds }: ConformanceOptions,
  log: string,
): Promise<SuiteOutput> {
  const child = spawn(command.program, command.parameters, {
    cwd: command.cwd,
    env: { ...process.env, LC_ALL: "C", ...command.environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  if (held !== undefined && child.pid !== undefined) held.suitePid = child.pid;
  const file = createWriteStream(log);
  const timedOut = new Set<string>();
  let text = "";
  let attempts = 0;
  let deadline = performance.now() + timeoutSeconds * 1000;
  const take = (chunk: string): void => {
    text += chunk;
    attempts = 0;
    deadline = performance.now() + timeoutSeconds * 1000;
    file.write(chunk);
    process.stderr.write(chunk);
  };
  child.stdout.setEncoding("utf8").on("data", take);
  child.stderr.setEncoding("utf8").on("data", take);
  const watch = setInterval(() => {
    if (performance.now() < deadline || child.pid === undefined) return;
    deadline = performance.now() + SECOND_ATTEMPT_SECONDS * 1000;
    attempts++;
    const test = currentTest(text);
    timedOut.add(test);
    console.error(`\nconformance: ${test} takes too long; ending it (attempt ${attempts})`);
    if (attempts === 2 && held !== undefined) abortConnections(held.directory);
    for (const pid of descendants(child.pid)) kill(pid);
    if (attempts === 3) kill(child.pid);
  }, 1000);
  try {
    await new Promise((done, failed) => child.once("close", done).once("error", failed));
  } finally {
    clearInterval(watch);
    file.end();
    if (held !== undefined) delete held.suitePid;
  }
  return { text, timedOut };
}

/** The test whose line is not yet complete. */
function currentTest(text: string): string {
  const line = text.slice(text.lastIndexOf("\n") + 1);
  return /[\w=-]+\/[\w-]+(\.t)?(?=\s|$)/.exec(line)?.[0] ?? "the suite";
}

/** The layers of an overlay below a directory, all empty. */
function makeLayers(directory: string): void {
  for (const name of ["lower", "upper", "work"])
    mkdirSync(join(directory, name), { recursive: true });
}

function layerOptions(directory: string): string {
  const { lower, upper, work } = Object.fromEntries(
    ["lower", "upper", "work"].map((name) => [name, join(directory, name)]),
  );
  return `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
}

/** The command that stays in the foreground, if there is one to run. */
function pjdfstestMount(options: ConformanceOptions, source: string): string | undefined {
  const { bare, overlay, peer, mountOptions } = options;
  const executable = shellQuote(options.executable);
  if (overlay) {
    const list = (more: string[]): string =>
      shellQuote([layerOptions(source), ...more, ...mountOptions].join(","));
    // Someone who ends when the overlay is unmounted, as a daemon does.
    const wait = "while mountpoint -q {mnt}; do sleep 0.2; done";
    const kernel = `mount -t overlay overlay -o ${list([])} {mnt} && ${wait}`;
    if (bare) return `sh -c ${shellQuote(kernel)}`;
    const foreground = peer ? `${executable} -f` : `${executable} overlay`;
    return `${foreground} -o ${list(["allow_other", "suid", "dev"])} {mnt}`;
  }
  const list = ["allow_other,suid,dev", ...mountOptions].join(",");
  return bare ? undefined : `${executable} passthrough -o ${shellQuote(list)} {src} {mnt}`;
}

async function runPjdfstest(options: ConformanceOptions, results: string): Promise<SuiteOutput> {
  const { directory } = held ?? { directory: "" };
  const source = join(directory, "pjdfstest/src");
  if (options.overlay) {
    makeLayers(source);
    // By which bench-target.ts sees that the mount answers. Xfstests lists all files, so not there.
    writeFileSync(join(source, "lower", MARKER), "");
  }
  const command = pjdfstestMount(options, source);
  const role = options.bare ? "bare" : "ours";
  const target = new Target({ name: "pjdfstest", role, command, note: "" }, directory, 0);
  if (held !== undefined) held.target = target;
  await target.start();
  const cwd = join(target.path, "pjdfstest");
  mkdirSync(cwd);
  const tests = join(options.path, "tests");
  const chosen = options.tests.length > 0 ? options.tests : [""];
  const left = new Set(exclusions(options).keys());
  const files = chosen.flatMap((name) => testFiles(join(tests, name)));
  const parameters = files.filter((file) => !left.has(file.slice(tests.length + 1)));
  const prove = { program: "prove", parameters, cwd, environment: {} };
  const output = await runSuite(prove, options, join(results, "prove.log"));
  if (!target.running) throw new Error(`the daemon has ended: ${target.log()}`);
  await target.stop();
  return output;
}

function testFiles(path: string): string[] {
  if (path.endsWith(".t")) return [path];
  const entries = readdirSync(path, { recursive: true, encoding: "utf8" });
  return entries
    .filter((name) => name.endsWith(".t"))
    .map((name) => join(path, name))
    .sort();
}

function exclusions({ exclude }: ConformanceOptions): Map<string, string> {
  return exclude === undefined ? new Map() : parseExclusions(readFileSync(exclude, "utf8"));
}

function writeScript(path: string, lines: readonly string[], flag: "w" | "wx" = "w"): void {
  writeFileSync(path, `#!/bin/sh\n${lines.join("\n")}\n`, { flag });
  chmodSync(path, 0o755);
}

/**
 * xfstests mounts "devices" by mount(8), which calls a helper by the type of the mount, and
 * unmounts them by their names, for which umount(8) must not find a directory of that name. So a
 * device is a bare name, and the helper puts the directory of that name in its place, as SRC of the
 * executable's own mount helper.
 */
function installHelper(options: ConformanceOptions, directory: string): void {
  const link = join(directory, options.peer ? "fuse-overlayfs" : basename(HELPER));
  symlinkSync(options.executable, link);
  const quoted = shellQuote(link);
  // The suite of overlays brings layers itself.
  const layers =
    options.overlay && options.suite !== "unionmount" ? `-o "${layerOptions("$source")}"` : "";
  const passthrough = `exec ${quoted} "$source" "$mountpoint" "$@" -o "fsname=$name"`;
  const overlay = `exec ${quoted} "$name" "$mountpoint" ${layers} "$@"`;
  const peer = `exec ${quoted} ${layers} "$@" "$mountpoint"`;
  const lines = [
    `# Made by ${import.meta.filename}, which removes it at its end.`,
    "name=$1 mountpoint=$2",
    "shift 2",
    `source=${shellQuote(directory)}/$name`,
    options.peer ? peer : options.overlay ? overlay : passthrough,
  ];
  try {
    writeScript(HELPER, lines, "wx");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    throw new Error(`${HELPER} is there: another run goes on, or was killed; then remove the file`);
  }
  if (held !== undefined) held.helper = true;
}

/** A configuration for xfstests (HOST_OPTIONS), a shell script that its own scripts read. */
function writeConfig(options: ConformanceOptions, directory: string, results: string): string {
  const df = join(directory, "df");
  // The type of a mount is fuse.NAME, where xfstests wants to see FSTYP.
  writeScript(df, [`df "$@" | sed 's/ fuse\\.${HELPER_NAME} / fuse /'`]);
  const mountOptions = `-o ${["allow_other", ...options.mountOptions].join(",")}`;
  const settings: Record<string, string> = {
    FSTYP: "fuse",
    FUSE_SUBTYP: `.${HELPER_NAME}`,
    TEST_DEV: "fbtest",
    TEST_DIR: join(directory, "mnt-test"),
    SCRATCH_DEV: "fbscratch",
    SCRATCH_MNT: join(directory, "mnt-scratch"),
    TEST_FS_MOUNT_OPTS: mountOptions,
    MOUNT_OPTIONS: mountOptions,
    RESULT_BASE: results,
    DF_PROG: `${df} -T -P`,
  };
  for (const name of ["TEST_DIR", "SCRATCH_MNT"]) mkdirSync(settings[name] ?? "");
  for (const name of ["TEST_DEV", "SCRATCH_DEV"]) {
    const source = join(directory, settings[name] ?? "");
    mkdirSync(source);
    if (options.overlay) makeLayers(source);
  }
  const file = join(directory, "fuse.config");
  const lines = Object.entries(settings).map(
    ([name, value]) => `export ${name}=${shellQuote(value)}`,
  );
  writeFileSync(file, `${lines.join("\n")}\n`);
  return file;
}

async function runXfstests(options: ConformanceOptions, results: string): Promise<SuiteOutput> {
  const { directory } = held ?? { directory: "" };
  installHelper(options, directory);
  const config = writeConfig(options, directory, results);
  const chosen =
    options.tests.length > 0 ? options.tests : ["-g", options.group, "-x", "dangerous"];
  const left = [...exclusions(options).keys()];
  const leave = left.length > 0 ? ["-e", left.join(",")] : [];
  const command = {
    program: "./check",
    parameters: ["-fuse", ...leave, ...chosen],
    cwd: options.path,
    environment: { HOST_OPTIONS: config },
  };
  return runSuite(command, options, join(results, "check.log"));
}

/**
 * Runs each case of unionmount on its own, as the suite would end at the first that fails, and in
 * three ways: with two layers, with more that it makes on the way, and with checks of inode numbers
 * and links that only hold with an index.
 */
async function runUnionmount(options: ConformanceOptions, results: string): Promise<SuiteOutput> {
  const { directory } = held ?? { directory: "" };
  const base = join(directory, "base");
  mkdirSync(base);
  if (!options.bare) installHelper(options, directory);
  const cases = readdirSync(join(options.path, "tests"))
    .filter((name) => /^[a-z].*\.py$/.test(name))
    .map((name) => name.slice(0, -3))
    .sort();
  const left = exclusions(options);
  const lines = unionmountRuns(options.tests.length > 0 ? options.tests : cases, options)
    .filter(({ name }) => !left.has(name))
    .map(({ name, mountOptions, parameters }) =>
      ["run", name, mountOptions, ...parameters].map(shellQuote).join(" "),
    );
  const script = join(directory, "unionmount.sh");
  writeScript(script, [
    `cd ${shellQuote(options.path)} || exit 1`,
    `export UNIONMOUNT_BASEDIR=${shellQuote(base)}`,
    "run() {",
    "  name=$1",
    "  export UNIONMOUNT_MNTOPTIONS=$2",
    "  shift 2",
    `  log=${shellQuote(results)}/$(echo "$name" | tr / -).log`,
    '  printf "%s ... " "$name"',
    '  if ./run "$@" > "$log" 2>&1; then echo ok; else echo "failed: $(tail -n 1 "$log")"; fi',
    '  while mountpoint -q "$UNIONMOUNT_BASEDIR/m"; do',
    '    umount "$UNIONMOUNT_BASEDIR/m" || umount -l "$UNIONMOUNT_BASEDIR/m"',
    "  done",
    "}",
    ...lines,
    "echo That was unionmount.",
  ]);
  const command = { program: "sh", parameters: [script], cwd: options.path, environment: {} };
  return runSuite(command, options, join(results, "unionmount.log"));
}

/** What is run for each of these cases: the name of the test, and the parameters of the suite. */
function unionmountRuns(
  cases: readonly string[],
  { bare, peer, mountOptions }: ConformanceOptions,
) {
  const fuse = bare ? [] : [`--fuse=${HELPER_NAME}`];
  const ways = [
    { way: "ov", first: "--ov", more: [], index: false },
    { way: "ov=1", first: "--ov=1", more: [], index: false },
    { way: "verify", first: "--ov", more: ["--verify"], index: true },
  ];
  return ways.flatMap(({ way, first, more, index }) =>
    cases.map((name) => {
      // Renames of directories without a redirect: what must fail.
      const isExdev = name === "rename-exdev";
      // The suite gives these to the kernel itself.
      const own = bare || peer ? [] : ["allow_other", `redirect_dir=${isExdev ? "off" : "on"}`];
      if (own.length > 0 && index) own.push("index=on");
      return {
        name: `${way}/${name}`,
        mountOptions: ["rw", ...own, ...mountOptions].join(","),
        parameters: [first, ...fuse, ...more, ...(isExdev ? ["--xdev"] : []), name],
      };
    }),
  );
}

// --- the report

function summarise(results: SuiteResults, comparison: Comparison, reasons: Map<string, string>) {
  const count = (status: Status): number =>
    [...results.values()].filter((result) => result.status === status).length;
  const line = (name: string): string => `  ${name}  ${results.get(name)?.detail ?? ""}`.trimEnd();
  const list = (title: string, names: readonly string[]): string[] =>
    names.length === 0 ? [] : [`${title} (${names.length}):`, ...names.map(line)];
  const excluded = [...reasons].map(([name, reason]) => `  ${name}  ${reason}`);
  return [
    `${results.size} tests: ` +
      `${count("pass")} pass, ${count("fail")} fail, ${count("notrun")} not run`,
    ...list("Failures", comparison.newFailures),
    ...list("Failures that the baseline has too", comparison.knownFailures),
    ...list("Not run, although they pass in the baseline", comparison.newlyNotRun),
    ...(excluded.length > 0 ? ["Excluded:", ...excluded] : []),
  ].join("\n");
}

function checkInstallation({ suite, path, executable, bare }: ConformanceOptions): void {
  if (process.getuid?.() !== 0) throw new Error(`${suite} must be run by root`);
  const needed = { pjdfstest: "tests", unionmount: "run", xfstests: "check" }[suite];
  if (!existsSync(join(path, needed)))
    throw new Error(`there is no ${suite} in ${path}: ${join(path, needed)} is missing`);
  if (!bare && !existsSync(executable))
    throw new Error(`there is no ${executable}: build it by "npm run build"`);
  if (suite === "pjdfstest" && spawnSync("prove", ["--version"]).status !== 0)
    throw new Error("prove, which comes with Perl, can't be run");
}

/** Returns the exit code: 1 for failures that the baseline does not have. */
async function main(options: ConformanceOptions): Promise<number> {
  checkInstallation(options);
  const reasons = exclusions(options);
  const baseline =
    options.baseline === undefined
      ? undefined
      : parseBaseline(options.suite, readFileSync(options.baseline, "utf8"));
  if (options.dir !== undefined) mkdirSync(options.dir, { recursive: true });
  const parent = resolve(options.dir ?? tmpdir());
  held = { directory: mkdtempSync(join(parent, "fuse-backend-conformance-")), helper: false };
  // Tests act as users who must get to the mount points in it.
  chmodSync(held.directory, 0o755);
  const kept = options.results === undefined;
  const results = resolve(
    options.results ?? mkdtempSync(join(tmpdir(), "fuse-backend-conformance-results-")),
  );
  mkdirSync(results, { recursive: true });

  const run = { pjdfstest: runPjdfstest, unionmount: runUnionmount, xfstests: runXfstests }[
    options.suite
  ];
  const { text, timedOut } = await run(options, results);
  const found = parsers[options.suite](text);
  for (const name of timedOut) {
    const detail = [`took more than ${options.timeoutSeconds} s`, found.get(name)?.detail ?? ""];
    found.set(name, { status: "fail", detail: detail.filter((part) => part !== "").join("; ") });
  }
  const comparison = compare(found, baseline);
  console.log(summarise(found, comparison, reasons));
  if (options.json !== undefined) {
    const report: Report = { suite: options.suite, results: Object.fromEntries(found) };
    writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`);
  }
  const complete = isComplete(options.suite, text) && found.size > 0;
  if (!complete) console.error("conformance: the suite did not come to its end");
  const good = complete && comparison.newFailures.length === 0;
  if (good && kept) rmSync(results, { recursive: true });
  else console.error(`conformance: what the suite wrote is in ${results}`);
  return good ? 0 : 1;
}

if (import.meta.main) {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.once(signal, () => {
      putAway();
      process.exit(130);
    });
  let code = 0;
  try {
    const options = parseConformanceArguments(process.argv.slice(2));
    if (options === "help") console.log(HELP);
    else code = await main(options);
  } catch (error) {
    console.error(`conformance: ${(error as Error).message}`);
    code = error instanceof UsageError ? 2 : 1;
  } finally {
    putAway();
  }
  process.exit(code);
}
