// A mount namespace for tests, with a directory of its own. What is mounted in it disturbs nobody
// and is gone with its last process; users may use /dev/fuse in it, which some keep for root.

import { closeSync, openSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { chmod, chown, mkdir, mkdtemp, rm } from "node:fs/promises";
import { pollfd } from "../src/abi-linux.ts";
import { smallMemory } from "../src/memory.ts";
import { parseMountinfo, type MountEntry } from "../src/mount-info.ts";
import { ppoll } from "../src/syscall.ts";

/** Nobody, by his number on every distribution. */
export const USER = 65534;

const COMMAND_TIMEOUT_MS = 20_000;
const WAIT_TIMEOUT_MS = 10_000;
const POLL_US = 20_000;
const POLLPRI = 2;

// Mounts of others that are copied into it would outlive their unmounting.
const SETUP = `
set -e
awk '$3 ~ /^fuse\\./ { print $2 }' /proc/self/mounts | while read -r mounted; do
  umount -l "$mounted" 2>/dev/null || true # Whose directory is removed meanwhile is gone.
done
mkdir "$1/dev"
mount -t tmpfs -o mode=755 tests "$1/dev"
mknod -m 666 "$1/dev/fuse" c 10 229
mount --bind "$1/dev/fuse" /dev/fuse
echo ready
exec sleep infinity
`;

export interface Run {
  readonly exitCode: number | string;
  readonly stdout: string;
  readonly stderr: string;
}

export interface How {
  /** As a user instead of root. */
  readonly asUser?: boolean;
  readonly env?: Record<string, string>;
}

export class Namespace implements AsyncDisposable {
  readonly base: string;
  /** A process in it that does nothing else. */
  readonly pid: number;
  readonly #started: Bun.Subprocess[] = [];

  private constructor(base: string, pid: number) {
    this.base = base;
    this.pid = pid;
  }

  /** With the directories src and mnt below `base`, which the user owns. */
  static async create(): Promise<Namespace> {
    const base = await mkdtemp("/tmp/fuse-backend-test-");
    await chmod(base, 0o755);
    for (const name of ["src", "mnt"]) {
      await mkdir(`${base}/${name}`);
      await chown(`${base}/${name}`, USER, USER);
    }
    const unshare = ["unshare", "--mount", "--propagation", "private"];
    const anchor = Bun.spawn([...unshare, "sh", "-c", SETUP, "sh", base], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    for await (const _ of anchor.stdout) return new Namespace(base, anchor.pid);
    await rm(base, { recursive: true, force: true });
    throw new Error("cannot make a mount namespace: see the messages above");
  }

  /** Runs a command in it to its end. */
  run(command: readonly string[], how: How = {}): Run {
    const { exitCode, signalCode, stdout, stderr } = Bun.spawnSync(this.#command(command, how), {
      stdio: ["ignore", "pipe", "pipe"],
      timeout: COMMAND_TIMEOUT_MS,
      killSignal: "SIGKILL",
      env: { ...process.env, ...how.env },
    });
    return {
      exitCode: signalCode ?? exitCode,
      stdout: stdout.toString(),
      stderr: stderr.toString(),
    };
  }

  /** Starts a command in it; `pid` is that of the command itself. */
  start(command: readonly string[], how: How = {}): Bun.Subprocess<"ignore", "pipe", "pipe"> {
    const child = Bun.spawn(this.#command(command, how), {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...how.env },
    });
    this.#started.push(child);
    return child;
  }

  /** What is mounted below the directory, except its devices. */
  mounts(pid = this.pid): MountEntry[] {
    return parseMountinfo(readFileSync(`/proc/${pid}/mountinfo`, "utf8")).filter(
      ({ mountpoint }) =>
        mountpoint.startsWith(`${this.base}/`) && mountpoint !== `${this.base}/dev`,
    );
  }

  /** Waits until as many mounts are there. The kernel reports a change as a priority event. */
  async waitForMounts(count: number): Promise<MountEntry[]> {
    const fd = openSync(`/proc/${this.pid}/mountinfo`, "r");
    const polled = smallMemory(pollfd.sizeof);
    const deadline = performance.now() + WAIT_TIMEOUT_MS;
    try {
      for (;;) {
        const mounts = this.mounts();
        if (mounts.length === count) return mounts;
        if (performance.now() > deadline)
          throw new Error(`waited for ${count} mounts; there are ${JSON.stringify(mounts)}`);
        polled.view.setInt32(pollfd.fd, fd, true);
        polled.view.setUint16(pollfd.events, POLLPRI, true);
        ppoll(polled.address, 1, POLL_US);
        await new Promise(setImmediate);
      }
    } finally {
      closeSync(fd);
    }
  }

  /** Ends what is in it, and what was started in it and has gone elsewhere. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#started) child.kill("SIGKILL");
    for (const pid of this.#processes()) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended by itself.
      }
    }
    await rm(this.base, { recursive: true, force: true });
  }

  #processes(): number[] {
    const own = namespaceOf(this.pid);
    const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
    return pids.map(Number).filter((pid) => own !== undefined && namespaceOf(pid) === own);
  }

  #command(command: readonly string[], how: How): string[] {
    const user = ["setpriv", `--reuid=${USER}`, `--regid=${USER}`, "--clear-groups", "--"];
    return ["nsenter", `--mount=/proc/${this.pid}/ns/mnt`, ...(how.asUser ? user : []), ...command];
  }
}

function namespaceOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`);
  } catch {
    return undefined;
  }
}
