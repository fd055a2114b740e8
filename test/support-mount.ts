// A mount for tests: a private directory with the source and the mountpoint in it, and the daemon
// as a child process. Whatever happens, the end is a hard kill, a lazy unmount and the removal of
// the directory.
//
// FUSE_BACKEND_DAEMON replaces the daemon by another, to see whether a test or the daemon is wrong:
//   FUSE_BACKEND_DAEMON='bindfs -f {src} {mnt}' bun test test/mount/posix.test.ts
//   FUSE_BACKEND_DAEMON='/old/fuse-backend passthrough {options} {src} {mnt}' bun test test/mount
// In it, {config} is the configuration file where several directories are served.

import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rm } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { MNT_DETACH, pollfd, UMOUNT_NOFOLLOW } from "../src/abi-linux.ts";
import { errnoName } from "../src/errno.ts";
import { cstring, smallMemory } from "../src/memory.ts";
import { readProc, statusField } from "../src/proc.ts";
import { geteuid, ppoll, umount2 } from "../src/syscall.ts";
import { tryRing } from "../src/uring.ts";

export const EXECUTABLE = resolve(import.meta.dir, "../dist/fuse-backend");

const POLL_US = 20_000;
const MOUNT_TIMEOUT_MS = 10_000;
const END_TIMEOUT_MS = 10_000;

export interface MountSetup {
  /** Options of `fuse-backend passthrough`, in addition to `-o allow_other,suid,dev`. */
  readonly options?: readonly string[];
  /** Words before the daemon's command: a program that runs it, as prlimit does. */
  readonly prefix?: readonly string[];
  /** Serve this directory instead of a new one. It is not removed. */
  readonly source?: string;
  /** Serve these by `fuse-backend vfs` and a configuration file instead. */
  readonly mounts?: VfsMounts;
}

/**
 * Directories by their paths on the mount, relative to `base`, with their options in the
 * configuration file. What is missing is made. Another `backend` may have no source.
 */
export type VfsMounts = Readonly<
  Record<string, { readonly source?: string } & Readonly<Record<string, unknown>>>
>;

/** Writes the configuration file of `vfs`; sources are relative to its directory, and made. */
export async function configureVfs(file: string, mounts: VfsMounts): Promise<void> {
  const all = Object.entries(mounts);
  for (const [, { source }] of all)
    if (source !== undefined) await mkdir(resolve(dirname(file), source), { recursive: true });
  const list = all.map(([path, options]) => ({ path, backend: "passthrough", ...options }));
  await Bun.write(file, JSON.stringify({ mounts: list }, null, 2));
}

/** Why no test can mount here, or undefined if one can. */
export const whyNoMounts: string | undefined =
  geteuid() !== 0
    ? "mounts with allow_other and other users' files need root"
    : !existsSync("/dev/fuse")
      ? "there is no /dev/fuse"
      : undefined;
if (whyNoMounts !== undefined) console.warn(`tests on mounts are skipped: ${whyNoMounts}`);

const IO_URING = "/sys/module/fuse/parameters/enable_uring";

/** Why no mount can be served by io_uring, or undefined if one can. */
export const whyNoIoUring: string | undefined =
  whyNoMounts ??
  (!existsSync(IO_URING)
    ? "the kernel has no FUSE over io_uring"
    : tryRing() < 0
      ? "this system gives no rings"
      : undefined);
if (whyNoIoUring !== undefined) console.warn(`tests of io_uring are skipped: ${whyNoIoUring}`);

/** Has the kernel offer io_uring to new mounts, or not. Returns what makes it as it was before. */
export function offerIoUring(offer: "Y" | "N"): () => void {
  const before = readFileSync(IO_URING, "latin1");
  writeFileSync(IO_URING, offer);
  return () => writeFileSync(IO_URING, before);
}

export class Mount implements AsyncDisposable {
  /** The private directory: whatever a test puts here goes away with it. */
  readonly base: string;
  readonly source: string;
  readonly mountpoint: string;
  readonly #setup: MountSetup;
  #mounts: VfsMounts | undefined;
  readonly #daemon: MountDaemon;

  private constructor(base: string, setup: MountSetup) {
    this.base = base;
    this.source = setup.source ?? `${base}/src`;
    this.mountpoint = `${base}/mnt`;
    this.#setup = setup;
    this.#mounts = setup.mounts;
    this.#daemon = new MountDaemon(this.mountpoint, () => this.#command());
  }

  /** Mounts. The directory is removed again if that fails. */
  static async start(setup: MountSetup = {}): Promise<Mount> {
    const base = await mkdtemp("/tmp/fuse-backend-test-");
    const mount = new Mount(base, setup);
    try {
      await chmod(base, 0o755); // Other users pass through.
      await mkdir(mount.source, { recursive: true });
      await mkdir(mount.mountpoint);
      if (setup.mounts !== undefined) await configureVfs(mount.#config, setup.mounts);
      await mount.run();
      return mount;
    } catch (error) {
      await mount[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Starts the daemon; also again, after `kill`. */
  async run(): Promise<void> {
    await this.#daemon.run();
  }

  /** What the daemon has written. */
  get output(): string {
    return this.#daemon.output;
  }

  get pid(): number {
    return this.#daemon.pid;
  }

  /** Has what is mounted be something else, and waits until the daemon says so. */
  async reload(mounts: VfsMounts): Promise<void> {
    const before = this.#mounts ?? {};
    const gone = Object.keys(before).filter((path) => !(path in mounts));
    const come = Object.keys(mounts).filter((path) => !(path in before));
    this.#mounts = mounts;
    await configureVfs(this.#config, mounts);
    await this.#daemon.tell("SIGHUP", [
      ...gone.map((path) => `unmounted ${path}\n`),
      ...come.map((path) => ` at ${path}\n`),
    ]);
  }

  get #config(): string {
    return `${this.base}/vfs.json`;
  }

  /** Kills the daemon the hard way and takes the dead mount off. */
  async kill(): Promise<void> {
    await this.#daemon.kill();
  }

  /** Waits for the daemon to write something. */
  async said(text: string): Promise<void> {
    await this.#daemon.said(text);
  }

  /** Waits for the daemon to end by itself, because the mount is gone; it must have gone well. */
  async ended(): Promise<void> {
    await this.#daemon.ended();
  }

  /** Throws if the daemon has ended by itself: a crash that the test may not have noticed. */
  check(): void {
    this.#daemon.check();
  }

  /** Runs `work`; what the daemon wrote is shown if it fails. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    try {
      const value = await work();
      this.check();
      return value;
    } catch (error) {
      if (this.output !== "") console.error(`the daemon wrote:\n${this.output}`);
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await rm(this.base, { recursive: true, force: true });
  }

  #command(): string[] {
    const { options = [], prefix = [] } = this.#setup;
    const other = process.env["FUSE_BACKEND_DAEMON"];
    if (other === undefined && !existsSync(EXECUTABLE))
      throw new Error(`${EXECUTABLE} is missing: build it with \`npm run build\``);
    const places: Record<string, readonly string[]> = {
      "{options}": ["-o", "allow_other,suid,dev", ...options],
      "{src}": [this.source],
      "{mnt}": [this.mountpoint],
      "{config}": [this.#config],
    };
    const what = this.#mounts === undefined ? "passthrough" : "vfs --config {config}";
    const source = this.#mounts === undefined ? " {src}" : "";
    const command = other ?? `${EXECUTABLE} ${what} {options}${source} {mnt}`;
    return [...prefix, ...command.split(" ").flatMap((word) => places[word] ?? [word])];
  }
}

/** A process that serves one mount, and whatever it takes to be rid of both. */
export class MountDaemon {
  readonly mountpoint: string;
  readonly #command: () => readonly string[];
  #daemon: Bun.Subprocess<"ignore", "pipe", "pipe"> | undefined;
  #output = "";
  #stopped = false;
  /** Resolves when the daemon writes something. */
  #heard = Promise.withResolvers<void>();

  constructor(mountpoint: string, command: () => readonly string[]) {
    this.mountpoint = mountpoint;
    this.#command = command;
  }

  /** Starts the daemon; also again, after `kill`. */
  async run(): Promise<void> {
    this.#stopped = false;
    const daemon = Bun.spawn([...this.#command()], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.#daemon = daemon;
    for (const stream of [daemon.stdout, daemon.stderr]) void this.#collect(stream);
    await this.#mounted(daemon);
  }

  /** What the daemon has written. */
  get output(): string {
    return this.#output;
  }

  get pid(): number {
    return this.#daemon?.pid ?? -1;
  }

  /** Signals the daemon, and waits until it has written all of `texts` since then. */
  async tell(signal: NodeJS.Signals, texts: readonly string[]): Promise<void> {
    const start = this.#output.length;
    this.#daemon?.kill(signal);
    for (const text of texts) await this.said(text, start);
  }

  /** Waits for the daemon to write something, behind the first `start` characters. */
  async said(text: string, start = 0): Promise<void> {
    const deadline = performance.now() + END_TIMEOUT_MS;
    while (!this.#output.includes(text, start)) {
      this.check();
      const left = deadline - performance.now();
      if (left <= 0)
        throw new Error(
          `waited in vain for the daemon to say ${JSON.stringify(text)}; it said:\n${this.#output}`,
        );
      await Promise.race([this.#heard.promise, Bun.sleep(left)]);
    }
  }

  /** Kills the daemon the hard way and takes the dead mount off. */
  async kill(): Promise<void> {
    this.#stopped = true;
    const daemon = this.#daemon;
    daemon?.kill("SIGKILL");
    this.#detach();
    if (daemon !== undefined) await Promise.race([daemon.exited, Bun.sleep(END_TIMEOUT_MS)]);
  }

  /**
   * Unmounts, and waits until the daemon has ended by itself, as it has to: well. Throws if it does
   * not, or if the mount is in use.
   */
  async unmount(): Promise<void> {
    this.check();
    this.#stopped = true;
    const error = umount2(cstring(this.mountpoint).address, UMOUNT_NOFOLLOW);
    if (error < 0) throw new Error(`unmounting ${this.mountpoint}: ${errnoName(error)}`);
    await this.ended();
  }

  /** Waits for the daemon to end by itself, because the mount is gone; it must have gone well. */
  async ended(): Promise<void> {
    this.#stopped = true;
    const daemon = this.#daemon;
    if (daemon === undefined) return;
    const late = Bun.sleep(END_TIMEOUT_MS).then(() => "nothing, it still runs");
    const code = await Promise.race([daemon.exited, late]);
    if (code !== 0)
      throw new Error(`unmounted, the daemon ended with ${code}; it wrote:\n${this.#output}`);
  }

  /** Throws if the daemon has ended by itself: a crash that the test may not have noticed. */
  check(): void {
    const code = this.#daemon?.exitCode ?? this.#daemon?.signalCode;
    if (!this.#stopped && code !== null)
      throw new Error(`the daemon ended by itself with ${code}; it wrote:\n${this.#output}`);
  }

  #detach(): void {
    while (this.#isMounted() && umount2(cstring(this.mountpoint).address, DETACH) >= 0);
  }

  async #collect(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      this.#output += decoder.decode(chunk, { stream: true });
      this.#heard.resolve();
      this.#heard = Promise.withResolvers();
    }
  }

  #isMounted(): boolean {
    return readFileSync("/proc/self/mountinfo", "latin1").includes(` ${this.mountpoint} `);
  }

  /**
   * Waits for the mount to appear: the kernel reports a change of the mounts as a priority event.
   */
  async #mounted(daemon: Bun.Subprocess): Promise<void> {
    const fd = openSync("/proc/self/mountinfo", "r");
    const polled = smallMemory(pollfd.sizeof);
    const deadline = performance.now() + MOUNT_TIMEOUT_MS;
    try {
      while (!this.#isMounted()) {
        const { exitCode, signalCode } = daemon;
        if (exitCode !== null || signalCode !== null || performance.now() > deadline) {
          await Promise.race([daemon.exited, Bun.sleep(100)]);
          const code = exitCode ?? signalCode ?? "nothing, it still runs";
          throw new Error(`no mount at ${this.mountpoint}; exit code ${code}:\n${this.#output}`);
        }
        polled.i32[0] = fd;
        polled.view.setUint16(pollfd.events, POLLPRI, true);
        ppoll(polled.address, 1, POLL_US);
        await new Promise(setImmediate); // The daemon's end and its output are events.
      }
    } finally {
      closeSync(fd);
    }
  }
}

const POLLPRI = 2;
const DETACH = MNT_DETACH | UMOUNT_NOFOLLOW;

/** A mount for the time of `work`. */
export async function withMount<T>(
  setup: MountSetup,
  work: (mount: Mount) => Promise<T>,
): Promise<T> {
  await using mount = await Mount.start(setup);
  return await mount.during(() => work(mount));
}

/** Anonymous and shared memory of a process, in KiB. */
export function memoryOf(pid: number): number {
  const status = readProc(`${pid}/status`);
  return (
    Number.parseInt(statusField(status, "RssAnon")) +
    Number.parseInt(statusField(status, "RssShmem"))
  );
}
