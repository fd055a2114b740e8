// Builds dist/fuse-backend, one executable with the runtime in it, and runs it: a build can go wrong
// without the bundler saying so.

import { mkdirSync, rmSync } from "node:fs";
import { resolve } from "node:path";
import { version } from "../package.json";

const root = resolve(import.meta.dir, "..");
const executable = resolve(root, process.argv[2] ?? "dist/fuse-backend");

async function build(): Promise<void> {
  mkdirSync(resolve(executable, ".."), { recursive: true });
  rmSync(executable, { force: true });
  const result = await Bun.build({
    entrypoints: [resolve(root, "src/main.ts")],
    compile: {
      outfile: executable,
      // A daemon must not run or read what lies in the directory that it is started in.
      autoloadDotenv: false,
      autoloadBunfig: false,
      autoloadPackageJson: false,
      autoloadTsconfig: false,
    },
    format: "esm", // Bytecode of modules with import.meta needs it.
    bytecode: true,
    minify: true,
    sourcemap: "linked",
  });
  for (const message of result.logs) console.error(String(message));
}

function expectRun(args: string[], exitCode: number, output: RegExp): void {
  const run = Bun.spawnSync([executable, ...args], { env: {}, timeout: 10_000 });
  const said = `${run.stdout}${run.stderr}`;
  if (run.exitCode !== exitCode || !output.test(said))
    throw new Error(
      `${executable} ${args.join(" ")} ended with ${run.exitCode ?? run.signalCode}, expected ${exitCode} and ${output}; it said:\n${said}`,
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
  const megabytes = Math.round(Bun.file(executable).size / 1e6);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`built ${executable}: fuse-backend ${version}, ${megabytes} MB, in ${seconds} s`);
} catch (error) {
  console.error(`the build failed: ${error instanceof Error ? error.message : error}`);
  if (error instanceof AggregateError) for (const each of error.errors) console.error(String(each));
  rmSync(executable, { force: true });
  process.exit(1);
}
