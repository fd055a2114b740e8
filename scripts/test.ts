// `npm test`: installs what the tests need, checks the code, builds the executable and runs every
// test. The last line is "N passed, N failed". A missing Debian package is installed if we are
// root; tests that then still lack something say so and are skipped, which counts as a failure
// where CI is set.

import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const root = resolve(import.meta.dir, "..");

/** A program that tests run, and the Debian package that has it. */
const PROGRAMS: readonly (readonly [program: string, debianPackage: string])[] = [
  ["fusermount3", "fuse3"],
  ["gcc", "gcc"],
  ["fio", "fio"],
  ["git", "git"],
  ["sqlite3", "sqlite3"],
  ["rsync", "rsync"],
  ["setfacl", "acl"],
  ["setfattr", "attr"],
  ["setcap", "libcap2-bin"],
  ["mkfs.ext4", "e2fsprogs"],
  ["mkfs.xfs", "xfsprogs"],
  ["setpriv", "util-linux"],
  ["mount", "mount"],
  ["ps", "procps"],
  ["buildah", "buildah"],
  ["fuse-overlayfs", "fuse-overlayfs"],
  ["busybox", "busybox-static"],
  ["python3", "python3"],
];
const HEADERS: readonly (readonly [path: string, debianPackage: string])[] = [
  ["/usr/include/linux/fuse.h", "linux-libc-dev"],
  ["/usr/include/stdio.h", "libc6-dev"],
  ["/usr/include/xfs/xfs.h", "xfslibs-dev"],
];

/** A step of the whole: its name, and whether it went well. */
interface Outcome {
  readonly passed: number;
  readonly failed: number;
}

async function run(command: string[], quiet = false): Promise<number> {
  const child = Bun.spawn(command, {
    cwd: root,
    stdio: ["ignore", quiet ? "ignore" : "inherit", "inherit"],
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
  });
  return child.exited;
}

/** As one test: passed or failed. */
async function step(name: string, command: string[]): Promise<Outcome> {
  console.log(`\n# ${name}`);
  const failed = (await run(command)) !== 0;
  if (failed) console.log(`FAILED: ${name}: ${command.join(" ")}`);
  return { passed: failed ? 0 : 1, failed: failed ? 1 : 0 };
}

async function installMissing(): Promise<void> {
  const packages = [
    ...PROGRAMS.filter(([program]) => Bun.which(program) === null),
    ...(await Promise.all(
      HEADERS.map(async ([path, name]) => [path, name, await Bun.file(path).exists()] as const),
    ).then((all) => all.filter(([, , exists]) => !exists))),
  ].map(([, name]) => name);
  if (packages.length === 0) return;
  console.log(`# installing ${packages.join(", ")}`);
  if (process.getuid?.() !== 0 || Bun.which("apt-get") === null) {
    console.log("not root on Debian: some tests will be skipped");
    return;
  }
  const install = ["apt-get", "install", "-y", "--no-install-recommends", ...new Set(packages)];
  if ((await run(install, true)) === 0) return;
  await run(["apt-get", "update"], true);
  if ((await run(install, true)) !== 0) console.log("some packages could not be installed");
}

/** Runs `bun test` and counts what it did. */
async function unitTests(): Promise<Outcome> {
  console.log("\n# tests");
  const report = join(tmpdir(), `fuse-backend-tests-${process.pid}.xml`);
  const code = await run([
    process.execPath,
    "test",
    "--timeout=60000",
    "--reporter=junit",
    `--reporter-outfile=${report}`,
    ...process.argv.slice(2),
  ]);
  const xml = await Bun.file(report)
    .text()
    .catch(() => "");
  rmSync(report, { force: true });
  const total = /<testsuites[^>]*>/.exec(xml)?.[0] ?? "";
  const count = (name: string): number =>
    Number(new RegExp(`\\b${name}="(\\d+)"`).exec(total)?.[1] ?? 0);
  const skipped = count("skipped");
  const forbidden = process.env["CI"] !== undefined ? skipped : 0;
  if (skipped > 0)
    console.log(`${skipped} skipped${forbidden > 0 ? ", and CI must not skip" : ""}`);
  let failed = count("failures") + forbidden;
  // A run that ended with an error outside of any test has failed too.
  if (code !== 0 && failed === 0) failed = 1;
  return { passed: count("tests") - skipped - count("failures"), failed };
}

await installMissing();
const bun = process.execPath;
const outcomes = [
  await step("types", [bun, "x", "tsc", "--noEmit"]),
  await step("format", [bun, "fmt", "--check", "."]),
  await step("lint", [bun, "x", "oxlint", "--deny-warnings"]),
  await step("build", [bun, "scripts/build.ts"]),
  await unitTests(),
];
const passed = outcomes.reduce((sum, outcome) => sum + outcome.passed, 0);
const failed = outcomes.reduce((sum, outcome) => sum + outcome.failed, 0);
console.log(`\n${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
