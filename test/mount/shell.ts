// Programs that tests run: with a time-out that holds even if a program can't be killed, and with
// what it wrote in the error when it fails.

const TIMEOUT_MS = 100_000;

/** Longer than a program may take: for the tests that run one. */
export const SHELL_TEST_TIMEOUT_MS = TIMEOUT_MS + 10_000;

interface ShellOptions {
  readonly cwd?: string;
  readonly env?: Record<string, string>;
}

/** Starts a shell script that ends at the first failure. What it writes goes to `output`. */
export function start(
  script: string,
  { cwd = "/", env = {} }: ShellOptions = {},
): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  return Bun.spawn(["bash", "-euo", "pipefail", "-c", script], {
    cwd,
    env: { PATH: process.env["PATH"] ?? "", LC_ALL: "C.UTF-8", HOME: "/nonexistent", ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** What a shell script writes to standard output. Throws if it fails. */
export async function shell(script: string, options?: ShellOptions): Promise<string> {
  const child = start(script, options);
  const late = Promise.withResolvers<readonly [string, string, number]>();
  const timer = setTimeout(() => {
    child.kill("SIGKILL");
    late.resolve(["", "it took too long", -1]);
  }, TIMEOUT_MS);
  try {
    // A program that waits for a dead file system can't be killed, and holds its pipes open.
    const [output, errors, code] = await Promise.race([
      Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
        child.exited,
      ]),
      late.promise,
    ]);
    if (code !== 0)
      throw new Error(
        `this script ended with ${child.signalCode ?? code}:\n${script}\nIt wrote:\n` +
          `${output.slice(-4000)}\n${errors.slice(-4000)}`,
      );
    return output;
  } finally {
    clearTimeout(timer);
  }
}

/** Which of these programs are not installed; prints them as the reason for a skipped test. */
export function missing(...programs: string[]): boolean {
  const absent = programs.filter((program) => Bun.which(program) === null);
  if (absent.length > 0) console.warn(`a test is skipped: not installed: ${absent.join(", ")}`);
  return absent.length > 0;
}

/** Counts files by looking at each for its time. */
export const COUNT_FILES = "find . -type f -newermt 2001-01-01 | wc -l";

/** Has the kernel forget the inodes and names that nobody uses. */
export const dropCaches = (): Promise<string> => shell("echo 2 > /proc/sys/vm/drop_caches");
