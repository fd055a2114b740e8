// What the workers are doing, in memory that all threads share: for each worker a counter that is
// odd while it has a request in hand, and even while it waits for one.
//
// The kernel hands out requests in order, but two workers may finish them in another. Mostly that
// does not matter, since whoever waits for an answer has nothing to compare it with; but nobody
// waits for RELEASE and FORGET, and what they release must be free for whoever asks next. A FORGET
// the kernel even hands out after requests that came later. See `settle`.

import { SETTLE_QUEUED, SETTLE_STEPS, SETTLE_STEP_US, WORKERS_MAX } from "./limits.ts";
import type { Memory } from "./memory.ts";
import { readProc } from "./proc.ts";
import type { SharedLayout } from "./shared-table.ts";
import { gettid, ppoll } from "./syscall.ts";

/** A cache line for each, so that workers do not slow one another down. */
const STRIDE_WORDS = 16;
// What else is in a worker's line: the number of its thread, whether it waits for the others, and
// whether it takes no requests at the moment.
const THREAD = 1;
const SETTLING = 2;
const STANDS_BY = 3;

const ALL_WORKERS = Array.from({ length: WORKERS_MAX }, (_, worker) => worker);

/** What workers have done since: "stuck" if each still has the request that it had. */
type Seen = "quiet" | "active" | "stuck";

/** Of requests that others could read as well. */
export interface Queue {
  /** Whether requests wait that other workers will read: one more is called to do that. */
  callForWaiting(): boolean;
}

export class Activity {
  /** What this worker reads from, where others may stand by. */
  queue: Queue | undefined;
  readonly #words: Int32Array;
  readonly #first: number;
  readonly #own: number;
  /** What the counters were when they were last looked at. */
  readonly #seen = new Int32Array(WORKERS_MAX);

  static area(layout: SharedLayout): number {
    return layout.area("activity", WORKERS_MAX * STRIDE_WORDS * 4);
  }

  /** `worker` is the number of the worker that it is for; -1 only to watch. */
  constructor(memory: Memory, offset: number, worker: number) {
    this.#words = memory.i32;
    this.#first = offset >> 2;
    this.#own = worker;
  }

  #at(worker: number): number {
    return this.#first + worker * STRIDE_WORDS;
  }

  /** To be called on the worker's own thread before it serves. */
  enter(): void {
    this.#words[this.#at(this.#own) + THREAD] = gettid();
  }

  /** The worker has got a request. */
  begin(): void {
    Atomics.add(this.#words, this.#at(this.#own), 1);
  }

  /** It is done with it. */
  end(): void {
    Atomics.add(this.#words, this.#at(this.#own), 1);
  }

  /**
   * Waits until every request that the kernel had sent before is done, some milliseconds at most.
   * For the case that something is still taken that may just be given back.
   */
  settle(): void {
    for (let worker = 0; worker < WORKERS_MAX; worker++)
      this.#seen[worker] = Atomics.load(this.#words, this.#at(worker));
    // Two that wait are not to wait for each other.
    Atomics.store(this.#words, this.#at(this.#own) + SETTLING, 1);
    let isQueued = true;
    for (let step = 0; step < SETTLE_STEPS; step++) {
      // First: what is read in between makes somebody busy.
      isQueued &&= this.#isQueued();
      if (!isQueued && !this.#isBusy()) break;
      ppoll(0, 0, SETTLE_STEP_US);
    }
    Atomics.store(this.#words, this.#at(this.#own) + SETTLING, 0);
  }

  /** Whether requests from when `#seen` was taken may still wait to be read. */
  #isQueued(): boolean {
    const { queue } = this;
    return queue !== undefined && !ALL_WORKERS.some(this.#hasDoneMany) && queue.callForWaiting();
  }

  /** Whether a worker has done so many requests since `#seen` that one from then is among them. */
  readonly #hasDoneMany = (worker: number): boolean => {
    const now = Atomics.load(this.#words, this.#at(worker));
    return ((now - this.#seen[worker]!) | 0) > 2 * SETTLE_QUEUED; // both ends of a request count
  };

  /** Whether another worker may still have requests to do from when `#seen` was taken. */
  #isBusy(): boolean {
    for (let worker = 0; worker < WORKERS_MAX; worker++) {
      const at = this.#at(worker);
      const thread = this.#words[at + THREAD]!;
      if (thread === 0 || worker === this.#own) continue;
      const now = Atomics.load(this.#words, at);
      if (this.#hasDoneMany(worker)) continue;
      if (Atomics.load(this.#words, at + SETTLING) !== 0) continue;
      // A worker that has read a request, but has not come to say so, does not sleep; nor does one
      // that is about to read the next.
      if (now & 1 || !isAsleep(thread)) return true;
    }
    return false;
  }

  // --- Of several who read requests from the same queue (session-readers.ts)

  /** The worker takes no requests, or does again. */
  standBy(isStandingBy: boolean): void {
    Atomics.store(this.#words, this.#at(this.#own) + STANDS_BY, isStandingBy ? 1 : 0);
  }

  #reads(worker: number): boolean {
    const at = this.#at(worker);
    return (
      worker !== this.#own && this.#words[at + THREAD] !== 0 && this.#words[at + STANDS_BY] === 0
    );
  }

  /** What the other workers that take requests have done since the last look. */
  lookAtReaders(): Seen {
    return this.#look(ALL_WORKERS.filter((worker) => this.#reads(worker)));
  }

  /**
   * For another thread: gives a function that tells whether every request that was in hand at the
   * time of this call is done.
   */
  untilDone(): () => boolean {
    const before = Array.from({ length: WORKERS_MAX }, (_, worker) =>
      Atomics.load(this.#words, this.#at(worker)),
    );
    return () =>
      before.every(
        (seen, worker) => !(seen & 1) || Atomics.load(this.#words, this.#at(worker)) !== seen,
      );
  }

  /** Whether each of these workers still has the request that it had at the last call. */
  areStuck(workers: readonly number[]): boolean {
    return this.#look(workers) === "stuck";
  }

  #look(workers: readonly number[]): Seen {
    let isQuiet = true;
    let isStuck = true;
    for (const worker of workers) {
      const now = Atomics.load(this.#words, this.#at(worker));
      const isSame = now === this.#seen[worker];
      if (!isSame || now & 1) isQuiet = false;
      if (!isSame || !(now & 1)) isStuck = false;
      this.#seen[worker] = now;
    }
    return isStuck ? "stuck" : isQuiet ? "quiet" : "active";
  }
}

/** Whether a thread of this process waits in the kernel. */
function isAsleep(thread: number): boolean {
  try {
    const status = readProc(`self/task/${thread}/stat`);
    return status.slice(status.lastIndexOf(")") + 2).startsWith("S");
  } catch {
    return true; // it has ended
  }
}
