// Builds dist/fuse-backend, one executable with the runtime in it, and runs it: a build can go
// wrong without the bundler saying so.

import { mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { version } from "../package.json";

const root = resolve(import.meta.dir, "..");
const executable = resolve(root, process.argv[2] ?? "dist/fuse-backend");
mkdirSync(dirname(executable), { recursive: true });
// It gets its place when it has shown that it runs; until then the last one stays there. The source
// maps that are written beside it are in it as well.
const workplace = mkdtempSync(`${executable}.build-`);
const unproven = resolve(workplace, "fuse-backend");

async function build(): Promise<void> {
  const result = await Bun.build({
    entrypoints: ["main.ts", "worker-main.ts"].map((file) => resolve(root, "src", file)),
    splitting: true, // Each thread loads what it needs, when it needs it.
    compile: {
      outfile: unproven,
      jitPolicy: 20, // What runs once, at the start, is not worth compiling. Threads end it.
      // A daemon must not run or read what lies in the directory that it is started in.
      autoloadDotenv: false,
      autoloadBunfig: false,
      autoloadPackageJson: false,
      autoloadTsconfig: false,
    },
    format: "esm", // Bytecode of modules with import.meta needs it.
    bytecode: true,
    // The names of functions stay, for stack traces.
    minify: { whitespace: true, syntax: true, identifiers: false },
    sourcemap: "inline",
  });
  for (const message of result.logs) console.error(String(message));
}

function expectRun(args: string[], exitCode: number, output: RegExp): void {
  const run = Bun.spawnSync([unproven, ...args], { env: {}, timeout: 10_000 });
  const said = `${run.stdout}${run.stderr}`;
  if (run.exitCode !== exitCode || !output.test(said))
    throw new Error(
      `${unproven} ${args.join(" ")} ended with ${run.exitCode ?? run.signalCode}, ` +
        `expected ${exitCode} and ${output}; it said:\n${said}`,
    );
}

try {
  const start = performance.now();
  await build();
  expectRun(["--version"], 0, new RegExp(`^fuse-backend ${RegExp.escape(version)}\n$`));
  expectRun(["--help"], 0, /passthrough/);
  expectRun(["passthrough", "--help"], 0, /--cache.*--workers/s);
  expectRun(
    ["passthrough", "--no-such-option", "/src", "/mnt"],
    2,
    /unknown option --no-such-option/,
  );
  renameSync(unproven, executable);
  const megabytes = Math.round(Bun.file(executable).size / 1e6);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`built ${executable}: fuse-backend ${version}, ${megabytes} MB, in ${seconds} s`);
} catch (error) {
  console.error(`the build failed: ${error instanceof Error ? error.message : error}`);
  if (error instanceof AggregateError) for (const each of error.errors) console.error(String(each));
  process.exitCode = 1;
} finally {
  rmSync(workplace, { recursive: true, force: true });
}
