// The directories that scripts/bench.ts compares: the bare one, and one served by each daemon. A
// daemon is a child process that stays in the foreground; it is known by its process id only, and
// ended by it.

import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { POLLPRI } from "../src/abi-linux.ts";
import { pollFor, ppoll } from "../src/syscall.ts";

/** A file in every served directory: when it can be seen at the mount point, the mount answers. */
export const MARKER = ".answers";
const START_LIMIT_MS = 15_000;
const STOP_LIMIT_MS = 5000;
const MOUNT_WAIT_US = 20_000;

export type Role = "bare" | "ours" | "peer";

export interface TargetSpec {
  readonly name: string;
  readonly role: Role;
  /**
   * For a shell, with `{src}`, `{mnt}` and `{timeout}` to be filled in; none for the bare
   * directory.
   */
  readonly command: string | undefined;
  /** What the daemon lets the kernel cache, for the reader of the results. */
  readonly note: string;
}

/** A word as a POSIX shell reads it back. */
export function shellQuote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

export function fillCommand(
  command: string,
  values: { src: string; mnt: string; timeout: number },
): string {
  return command
    .replaceAll("{src}", shellQuote(values.src))
    .replaceAll("{mnt}", shellQuote(values.mnt))
    .replaceAll("{timeout}", String(values.timeout));
}

/** The mount points below a directory, itself included, the latest first. */
export function mountsBelow(directory: string): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .map((path) =>
      path.replace(/\\([0-7]{3})/g, (_, code) => String.fromCharCode(parseInt(code, 8))),
    )
    .filter((path) => path === directory || path.startsWith(`${directory}/`))
    .reverse();
}

/** Waits for mounts to come or go: proc_pid_mountinfo(5). */
class MountWatch implements Disposable {
  readonly #fd = openSync("/proc/self/mountinfo", "r");
  readonly #poll = pollFor(this.#fd, POLLPRI);

  /** Returns when something has changed since the last call, and after a while in any case. */
  wait(): void {
    ppoll(this.#poll.address, 1, MOUNT_WAIT_US);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** Unmounts without waiting for whoever uses the mount. */
export function unmountLazily(path: string): void {
  const command = process.getuid?.() === 0 ? ["umount", "-l"] : ["fusermount3", "-u", "-z"];
  spawnSync(command[0] ?? "", [...command.slice(1), path], { stdio: "ignore" });
}

export class Target {
  readonly name: string;
  readonly spec: TargetSpec;
  /** The directory on the host. */
  readonly source: string;
  /** The directory that is measured: the mount point, or the source of the bare one. */
  readonly path: string;
  /** From exec to the first answer, in milliseconds. */
  startMs = 0;
  readonly #logFile: string;
  readonly #timeout: number;
  #daemon: ChildProcess | undefined;

  /** `source` serves an existing directory in place of an own one. */
  constructor(spec: TargetSpec, directory: string, timeout: number, source?: string) {
    this.spec = spec;
    this.name = spec.name;
    this.source = source ?? join(directory, spec.name, "src");
    this.path = spec.command === undefined ? this.source : join(directory, spec.name, "mnt");
    this.#logFile = join(directory, spec.name, "log");
    this.#timeout = timeout;
    mkdirSync(this.source, { recursive: true });
    mkdirSync(this.path, { recursive: true });
    writeFileSync(join(this.source, MARKER), "");
  }

  get pid(): number | undefined {
    return this.#daemon?.pid;
  }

  get running(): boolean {
    const daemon = this.#daemon;
    if (this.spec.command === undefined) return true;
    return daemon !== undefined && daemon.exitCode === null && daemon.signalCode === null;
  }

  /** Mounts, unless it is mounted; cleans up first after a daemon that has died. */
  async start(): Promise<void> {
    if (this.spec.command === undefined || this.running) return;
    if (this.#daemon !== undefined) {
      console.error(`bench: the daemon of ${this.name} ended by itself; starting it again`);
      this.stopNow();
    }
    const command = this.fill(this.spec.command);
    const log = openSync(this.#logFile, "a");
    using mounts = new MountWatch();
    const started = performance.now();
    this.#daemon = spawn("/bin/sh", ["-c", `exec ${command}`], {
      cwd: this.cwd,
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    while (mountsBelow(this.path).length === 0) {
      this.#checkStart(command, started);
      // Not by looking all the time, which would take a CPU from the daemon.
      mounts.wait();
      await Bun.sleep(0);
    }
    // Not a synchronous call: were the daemon stuck, nothing could end it any more.
    let answered = false;
    const answer = stat(join(this.path, MARKER)).then(() => (answered = true));
    answer.catch(() => {});
    while (!answered) {
      this.#checkStart(command, started);
      await Promise.race([answer, Bun.sleep(50)]);
    }
    this.startMs = performance.now() - started;
  }

  protected fill(command: string): string {
    return fillCommand(command, { src: this.source, mnt: this.path, timeout: this.#timeout });
  }

  /** Where the command runs. */
  protected get cwd(): string {
    return process.cwd();
  }

  #checkStart(command: string, started: number): void {
    const late = performance.now() - started > START_LIMIT_MS;
    if (this.running && !late) return;
    const what = late
      ? `did not answer within ${START_LIMIT_MS / 1000} s`
      : "ended instead of serving in the foreground";
    this.stopNow();
    throw new Error(`${this.name} ${what}: ${command}\n${this.log()}`);
  }

  /** Unmounts and waits until the daemon has ended. */
  async stop(): Promise<void> {
    const daemon = this.#daemon;
    if (daemon === undefined) return;
    unmountLazily(this.path);
    const ended = new Promise((resolve) => daemon.once("exit", resolve));
    if (this.running) await Promise.race([ended, Bun.sleep(STOP_LIMIT_MS)]);
    this.stopNow();
  }

  /** The same without waiting, for exits in a hurry. */
  stopNow(): void {
    while (this.spec.command !== undefined && mountsBelow(this.path).length > 0) {
      const before = mountsBelow(this.path).length;
      unmountLazily(this.path);
      if (mountsBelow(this.path).length === before) break;
    }
    if (this.running) this.#daemon?.kill("SIGKILL");
    this.#daemon = undefined;
  }

  /** The end of what the daemon wrote. */
  log(): string {
    return readFileSync(this.#logFile, "utf8").slice(-2000);
  }

  /**
   * The processor time the daemon has used so far, in seconds: its own, and the kernel's for it.
   */
  cpuSeconds(): { user: number; system: number } {
    if (this.pid === undefined) return { user: 0, system: 0 };
    return parseCpu(readFileSync(`/proc/${this.pid}/stat`, "utf8"));
  }

  /**
   * Waits until the daemon is idle: what the kernel tells it of dropped caches takes it a while.
   */
  async settle(): Promise<void> {
    let before = this.cpuSeconds();
    for (let tries = 0; tries < 200 && this.pid !== undefined; tries++) {
      await Bun.sleep(20);
      const now = this.cpuSeconds();
      if (now.user === before.user && now.system === before.system) return;
      before = now;
    }
  }

  /** Resident and proportional memory in MiB, and open descriptors. */
  footprint(): { rss: number; pss: number; descriptors: number } {
    const rollup = readFileSync(`/proc/${this.pid}/smaps_rollup`, "utf8");
    return { ...parseRollup(rollup), descriptors: readdirSync(`/proc/${this.pid}/fd`).length };
  }
}

/**
 * /proc/PID/stat: fields 14 and 15 in ticks of a hundredth of a second. The name may hold spaces.
 */
export function parseCpu(text: string): { user: number; system: number } {
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { user: Number(fields[11]) / 100, system: Number(fields[12]) / 100 };
}

export function parseRollup(text: string): { rss: number; pss: number } {
  const field = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1] ?? NaN) / 1024;
  return { rss: field("Rss"), pss: field("Pss") };
}
