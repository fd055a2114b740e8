// A thread that acts as callers do, for the test of credentials: those are of one thread alone. It
// runs a scenario by name and says what it saw.

import { parentPort, workerData } from "node:worker_threads";
import { AT_FDCWD, O_CREAT, O_EXCL, O_WRONLY, stat } from "../src/abi-linux.ts";
import { Context } from "../src/filesystem.ts";
import { cstring, smallMemory } from "../src/memory.ts";
import { Credentials } from "../src/passthrough-credentials.ts";
import { close, fstat, getegid, geteuid, gettid, openat, prctl, umask } from "../src/syscall.ts";

export interface Scenario {
  readonly name: keyof typeof scenarios;
  readonly directory: string;
  /**
   * Two words: the first is not 0 when the thread acts as a caller, the second when it may go on.
   */
  readonly signals: SharedArrayBuffer;
}

/**
 * Runs a scenario in a thread of its own; `during` while the thread acts as a caller, if it waits.
 */
export async function runScenario<T>(
  name: Scenario["name"],
  directory: string,
  during: (tid: number) => void = () => {},
): Promise<T> {
  const signals = new SharedArrayBuffer(8);
  const worker = new Worker(import.meta.url, {
    workerData: { name, directory, signals } satisfies Scenario,
  } as WorkerOptions);
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  worker.addEventListener("message", ({ data }) => {
    if (!("waiting" in data)) return resolve(data.result);
    try {
      during(data.waiting);
    } catch (error) {
      reject(error);
    }
    Atomics.store(new Int32Array(signals), 1, 1);
    Atomics.notify(new Int32Array(signals), 1);
  });
  worker.addEventListener("error", ({ message }) => reject(new Error(message)));
  return await promise;
}

const SECBIT_NO_SETUID_FIXUP_LOCKED = 1 << 3;
const PR_SET_SECUREBITS = 28;

class Thread {
  readonly directory: string;
  readonly #signals: Int32Array;
  readonly #stat = smallMemory(stat.sizeof);

  constructor({ directory, signals }: Scenario) {
    this.directory = directory;
    this.#signals = new Int32Array(signals);
  }

  /** Makes a file with mode 0666: "uid:gid mode", or -errno. */
  make(name: string): string | number {
    const flags = O_WRONLY | O_CREAT | O_EXCL;
    const fd = openat(AT_FDCWD, cstring(`${this.directory}/${name}`).address, flags, 0o666);
    if (fd < 0) return fd;
    fstat(fd, this.#stat.address);
    const { view } = this.#stat;
    const [uid, gid] = [view.getUint32(stat.st_uid, true), view.getUint32(stat.st_gid, true)];
    close(fd);
    return `${uid}:${gid} ${(view.getUint32(stat.st_mode, true) & 0o7777).toString(8)}`;
  }

  ids(): string {
    return `${geteuid()}:${getegid()}`;
  }

  /** Lets the main thread look. */
  pause(): void {
    parentPort?.postMessage({ waiting: gettid() });
    Atomics.wait(this.#signals, 1, 0);
  }
}

function caller(uid: number, gid: number, ...groups: number[]): Context {
  const context = new Context();
  context.uid = uid;
  context.gid = gid;
  const list = smallMemory(4 * groups.length + 8);
  list.u32.set(groups);
  context.extensions.groups = list.address;
  context.extensions.groupCount = groups.length;
  return context;
}

/** What `work` gives while the thread acts as the caller, and what the thread is after. */
function acting<T>(
  thread: Thread,
  credentials: Credentials,
  context: Context,
  mask: number,
  work: () => T,
): { assumed: number; during: T | undefined; after: string } {
  const assumed = credentials.assume(context, mask);
  const during = assumed === 0 ? work() : undefined;
  credentials.restore(context);
  return { assumed, during, after: thread.ids() };
}

const scenarios = {
  create(thread: Thread): unknown {
    const credentials = new Credentials();
    credentials.prepare();
    const make = (uid: number, gid: number, mask: number, name: string): unknown =>
      acting(thread, credentials, caller(uid, gid), mask, () => thread.make(name));
    return [
      make(61_001, 61_002, 0o022, "alice"),
      make(61_003, 0, 0o007, "bob"),
      make(0, 61_002, 0, "root-of-group"),
      make(0, 0, 0o077, "root"),
      make(61_001, 61_002, 0, "alice-again"),
      make(0xffffffff, 61_001, 0, "nobody"),
    ];
  },

  /** Where the kernel does not let capabilities stay when the user id changes. */
  withoutCapabilities(thread: Thread): unknown {
    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP_LOCKED, 0, 0, 0);
    const credentials = new Credentials();
    credentials.prepare();
    const make = (context: Context, name: string): unknown =>
      acting(thread, credentials, context, 0, () => thread.make(name));
    return [
      make(caller(61_001, 61_001), "shared/alice"),
      make(caller(61_001, 61_001, 5, 61_100), "shared/staff"),
      make(caller(61_001, 61_001, 5), "shared/other"),
      make(caller(0, 0), "shared/root"),
    ];
  },

  apart(thread: Thread): unknown {
    const credentials = new Credentials();
    credentials.prepare();
    const context = caller(61_001, 61_001);
    return acting(thread, credentials, context, 0o027, () => {
      thread.pause();
      const mask = umask(0o027);
      return `${thread.ids()} ${mask.toString(8)}`;
    });
  },
};

if (workerData !== null && parentPort !== null) {
  const scenario = workerData as Scenario;
  parentPort.postMessage({ result: scenarios[scenario.name](new Thread(scenario)) });
}
