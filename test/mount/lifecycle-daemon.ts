// The daemon and the programs that use its mount, as processes in a mount namespace of their own:
// what they say, how they end.

import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { EXECUTABLE } from "../support-mount.ts";
import type { How, Namespace } from "../support-namespace.ts";

const TIMEOUT_MS = 20_000;

/** A process whose output is collected as it comes. */
export class Child {
  readonly #process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly #listeners = new Set<() => void>();
  readonly #closed: Promise<unknown>;
  #output = "";
  #isClosed = false;

  constructor(process: Bun.Subprocess<"ignore", "pipe", "pipe">) {
    this.#process = process;
    const streams = [process.stdout, process.stderr];
    this.#closed = Promise.all(streams.map((stream) => this.#collect(stream))).then(() => {
      this.#isClosed = true;
      this.#tell();
    });
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** What it has written so far, to standard output and standard error. */
  get output(): string {
    return this.#output;
  }

  get hasEnded(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  signal(name: NodeJS.Signals): void {
    this.#process.kill(name);
  }

  /** Waits until it has written something so many times. */
  async said(what: RegExp | string, times = 1): Promise<void> {
    const all =
      typeof what === "string" ? RegExp(RegExp.escape(what), "g") : RegExp(what, `${what.flags}g`);
    const hasSaid = (): boolean => [...this.#output.matchAll(all)].length >= times;
    await this.#until(() => hasSaid() || this.#isClosed, `say ${what}`);
    if (!hasSaid()) throw new Error(`it ended without saying ${what}; it said:\n${this.#output}`);
  }

  /** Its exit code, or the signal that ended it; all of its output is there then. */
  async ended(): Promise<number | string> {
    await this.#until(() => this.#isClosed, "end");
    await this.#closed;
    const code = await this.#process.exited;
    return this.#process.signalCode ?? code;
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    if (condition()) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const listener = (): void => void (condition() && resolve());
    const timer = setTimeout(() => {
      reject(new Error(`waited in vain for it to ${what}; it said:\n${this.#output}`));
    }, TIMEOUT_MS);
    this.#listeners.add(listener);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      this.#listeners.delete(listener);
    }
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }

  async #collect(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      this.#output += decoder.decode(chunk, { stream: true });
      this.#tell();
    }
  }
}

/** The arguments that serve src at mnt. */
export function command(space: Namespace, ...options: string[]): string[] {
  return [EXECUTABLE, "passthrough", ...options, `${space.base}/src`, `${space.base}/mnt`];
}

/** Starts a daemon; resolves when it says that it has mounted. */
export async function serve(
  space: Namespace,
  options: readonly string[] = [],
  how: How & { prefix?: readonly string[] } = {},
): Promise<Child> {
  const line = [...(how.prefix ?? []), ...command(space, ...options)];
  const daemon = new Child(space.start(line, how));
  await daemon.said(/FUSE 7\.\d+ with/);
  return daemon;
}

const PRELUDE = `
src=$1/src mnt=$1/mnt fifo=$2
pause() { echo paused; read -r _ <"$fifo"; }
`;

/** A shell script that uses $src and $mnt, and pauses in between. */
export class User extends Child {
  readonly #fifo: string;

  private constructor(process: Bun.Subprocess<"ignore", "pipe", "pipe">, fifo: string) {
    super(process);
    this.#fifo = fifo;
  }

  /** Resolves when the script has called `pause`. */
  static async start(space: Namespace, script: string, how: How = {}): Promise<User> {
    const fifo = `${space.base}/fifo-${Bun.randomUUIDv7()}`;
    const made = space.run(["mkfifo", "-m", "666", fifo]);
    if (made.exitCode !== 0) throw new Error(made.stderr);
    const line = ["sh", "-c", PRELUDE + script, "sh", space.base, fifo];
    const user = new User(space.start(line, how), fifo);
    await user.said("paused\n");
    return user;
  }

  /** Lets it go on, and returns what it says from there to its end. */
  async resume(): Promise<string> {
    const before = this.output.length;
    await writeFile(this.#fifo, "\n");
    await this.ended();
    return this.output.slice(before);
  }
}

/**
 * What ls says of the mount when its daemon was killed. The kernel may take requests back before it
 * calls the mount dead, if they came by io_uring.
 */
export function saidOfDead(space: Namespace, how: How = {}): string {
  for (;;) {
    const { stderr } = space.run(["ls", `${space.base}/mnt`], how);
    if (!/Operation canceled|connection abort/.test(stderr)) return stderr;
  }
}

/** Ends the connection of the only mount as an administrator can. */
export function abort(space: Namespace, how: How = {}): void {
  const [mount] = space.mounts();
  const connection = mount?.device.split(":")[1];
  const control = `/sys/fs/fuse/connections/${connection}`;
  // Only root may mount the file system of control files, where nobody has yet.
  const mountControl = '[ -e "$1" ] || mount -t fusectl none /sys/fs/fuse/connections';
  const mounted = space.run(["sh", "-ec", mountControl, "sh", control]);
  if (mounted.exitCode !== 0) throw new Error(mounted.stderr);
  const run = space.run(["sh", "-ec", 'echo 1 >"$1/abort"', "sh", control], how);
  if (run.exitCode !== 0) throw new Error(run.stderr);
}

/** The content of a file below /proc; "" if the process is gone. */
export function procText(name: string): string {
  try {
    return readFileSync(`/proc/${name}`, "utf8");
  } catch {
    return "";
  }
}

/** Waits for the end of a process that is not our child. */
export async function processEnd(pid: number): Promise<void> {
  // A zombie has no command line.
  while (procText(`${pid}/cmdline`) !== "") await new Promise(setImmediate);
}
