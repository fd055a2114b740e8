// Which workers read /dev/fuse. The kernel hands a request to the reader that has waited longest:
// with several readers those of one process go round the CPUs, and a wake-up there takes longer
// than most requests. So only as many read as there is work for, and the others stand by:
//
// - A reader stands by when request after request comes from one process, which waits for answers.
// - A reader calls one back when requests of other processes wait by the time it is done with one,
//   or when it can't go on before what waits is done (see Activity.settle).
// - One of those who stand by, the watcher, looks every few milliseconds whether all readers are
//   stuck with what they have in hand, and then reads itself. While nothing happens it sleeps.

import { fuse_in_header, FUSE_READ, FUSE_WRITE } from "./abi-fuse.ts";
import { FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE, POLLIN, timespec } from "./abi-linux.ts";
import type { Activity, Queue } from "./activity.ts";
import {
  READERS_LOOK_MS,
  READERS_MISSING_REQUESTS,
  READERS_OTHER_WEIGHT,
  READERS_PATIENCE_LOOKS,
  READERS_PATIENCE_MAX,
  READERS_QUEUE_LOOK_REQUESTS,
  READERS_QUIET_LOOKS,
  READERS_SPARE_REQUESTS,
} from "./limits.ts";
import { smallMemory, type Memory } from "./memory.ts";
import type { Request } from "./request.ts";
import type { SharedLayout } from "./shared-table.ts";
import { struct, u32 } from "./struct.ts";
import { futex, pollFor, ppoll } from "./syscall.ts";

const readers_state = struct("readers_state", {
  /** How many workers read, or have what they read in hand. */
  reading: u32,
  /** Whether the watcher is to read: a reader has more than it can do. */
  called: u32,
  /** Whether one of those who stand by is the watcher, and whether it sleeps until a request. */
  watched: u32,
  asleep: u32,
  /** After how many requests readers stand by, if that is more than usual. */
  patience: u32,
  /** The process that the last request came from. */
  pid: u32,
  closed: u32,
  /** Futexes, which count up: of the watcher, and of the others who stand by. */
  watcher_bell: u32,
  bell: u32,
});

// As indices of words from the state on.
const READING = readers_state.reading >> 2;
const CALLED = readers_state.called >> 2;
const WATCHED = readers_state.watched >> 2;
const ASLEEP = readers_state.asleep >> 2;
const PATIENCE = readers_state.patience >> 2;
const PID = readers_state.pid >> 2;
const CLOSED = readers_state.closed >> 2;
const WATCHER_BELL = readers_state.watcher_bell >> 2;
const BELL = readers_state.bell >> 2;

const EVERYBODY = 2 ** 31 - 1;

const lookTime = smallMemory(timespec.sizeof);
lookTime.view.setUint32(timespec.tv_nsec, READERS_LOOK_MS * 1e6, true);

export class Readers implements Queue {
  readonly #memory: Memory;
  readonly #words: Int32Array;
  readonly #state: number;
  readonly #activity: Activity;
  readonly #poll: Memory;
  /** Requests until the queue is looked at again, and whether one was in it when it was now. */
  #untilLook = READERS_QUEUE_LOOK_REQUESTS;
  #isWaiting = false;
  /** Counts requests for which one more reader was missing, and those for which it was too many. */
  #missing = 0;
  #spare = 0;
  /** Whether it reads because the others were stuck, and has got nothing yet. */
  #helps = false;

  static area(layout: SharedLayout): number {
    return layout.area("readers", readers_state.sizeof);
  }

  /** For a worker that will read `device`, and whose `activity` shows when it does. */
  constructor(memory: Memory, offset: number, activity: Activity, device: number) {
    this.#poll = pollFor(device, POLLIN);
    this.#memory = memory;
    this.#words = memory.i32;
    this.#state = offset >> 2;
    this.#activity = activity;
    activity.queue = this;
    Atomics.add(this.#words, this.#state + READING, 1);
  }

  /** To be called before each read; may take until there is work. */
  beforeRead(): void {
    const words = this.#words;
    const state = this.#state;
    if (this.#spare >= Math.max(READERS_SPARE_REQUESTS, words[state + PATIENCE]!)) {
      this.#spare = 0;
      this.#missing = 0;
      if (this.#leave()) this.#standBy();
    }
    if (words[state + WATCHED] === 0 || --this.#untilLook > 0) return;
    this.#untilLook = READERS_QUEUE_LOOK_REQUESTS;
    this.#isWaiting = this.#areWaiting();
  }

  #areWaiting(): boolean {
    return ppoll(this.#poll.address, 1, 0) > 0;
  }

  callForWaiting(): boolean {
    if (!this.#areWaiting()) return false;
    const isWatched = this.#words[this.#state + WATCHED] !== 0;
    if (isWatched) this.#call();
    return isWatched || this.#words[this.#state + READING]! > 1;
  }

  /** Gets the watcher to read. */
  #call(): void {
    Atomics.store(this.#words, this.#state + CALLED, 1);
    this.#ring(WATCHER_BELL, 1);
  }

  /** To be called when a request was read, before it is done. */
  afterRead({ memory: { view }, base }: Request): void {
    const words = this.#words;
    const state = this.#state;
    if (Atomics.load(words, state + ASLEEP) !== 0) {
      Atomics.store(words, state + ASLEEP, 0);
      this.#ring(WATCHER_BELL, 1);
    }
    const opcode = view.getUint32(base + fuse_in_header.opcode, true);
    const pid = view.getUint32(base + fuse_in_header.pid, true);
    const wasWaiting = this.#isWaiting;
    this.#isWaiting = false;
    if (pid === 0) return; // For nobody who would wait, such as FORGET.
    // The kernel does not wait for one piece of data before it asks for the next.
    const isData = opcode === FUSE_READ || opcode === FUSE_WRITE;
    const isAlone = pid === words[state + PID] && !isData;
    words[state + PID] = pid;
    if (this.#helps) {
      this.#helps = false;
      if (isAlone)
        this.#spare = READERS_PATIENCE_MAX; // Whoever waited has its answer now.
      else
        words[state + PATIENCE] = Math.min(READERS_PATIENCE_MAX, 8 * words[state + PATIENCE]! + 64);
    }
    this.#spare = isAlone ? this.#spare + 1 : Math.max(0, this.#spare - READERS_OTHER_WEIGHT);
    if (isAlone) this.#missing = Math.max(0, this.#missing - 1);
    else if (wasWaiting) this.#missing += READERS_OTHER_WEIGHT * READERS_QUEUE_LOOK_REQUESTS;
    if (this.#missing < READERS_MISSING_REQUESTS) return;
    this.#missing = 0;
    this.#call();
  }

  /** The mount is gone: all who stand by are to see that. */
  close(): void {
    Atomics.store(this.#words, this.#state + CLOSED, 1);
    this.#ring(WATCHER_BELL, EVERYBODY);
    this.#ring(BELL, EVERYBODY);
  }

  /** False for the last reader, who must stay. */
  #leave(): boolean {
    const words = this.#words;
    const at = this.#state + READING;
    for (;;) {
      const reading = Atomics.load(words, at);
      if (reading <= 1) return false;
      if (Atomics.compareExchange(words, at, reading, reading - 1) === reading) return true;
    }
  }

  #standBy(): void {
    const words = this.#words;
    const state = this.#state;
    this.#activity.standBy(true);
    if (this.#awaitWatch()) {
      this.#watch();
      Atomics.store(words, state + WATCHED, 0);
      this.#ring(BELL, 1);
    }
    this.#activity.standBy(false);
    Atomics.add(words, state + READING, 1);
  }

  /** Waits to become the watcher; false if the mount is gone. */
  #awaitWatch(): boolean {
    const words = this.#words;
    const state = this.#state;
    for (;;) {
      const bell = Atomics.load(words, state + BELL);
      if (words[state + CLOSED] !== 0) return false;
      if (Atomics.compareExchange(words, state + WATCHED, 0, 1) === 0) return true;
      this.#wait(BELL, bell, 0);
    }
  }

  /** Returns when one more is to read. */
  #watch(): void {
    const words = this.#words;
    const state = this.#state;
    const activity = this.#activity;
    let quiet = 0;
    for (let looks = 0; ; looks++) {
      const bell = Atomics.load(words, state + WATCHER_BELL);
      if (words[state + CLOSED] !== 0 || Atomics.exchange(words, state + CALLED, 0) !== 0) return;
      const sleeps = quiet >= READERS_QUIET_LOOKS;
      // Who begins a request after this wakes the watcher; who began one before is seen below.
      if (sleeps) Atomics.store(words, state + ASLEEP, 1);
      // The first look is there for the second to compare with.
      const seen = activity.lookAtReaders();
      if (seen === "stuck" && looks > 0) {
        this.#helps = true;
        return;
      }
      quiet = seen === "quiet" ? quiet + 1 : 0;
      if ((looks + 1) % READERS_PATIENCE_LOOKS === 0) words[state + PATIENCE]! >>= 3;
      this.#wait(WATCHER_BELL, bell, sleeps && quiet > 0 ? 0 : lookTime.address);
      Atomics.store(words, state + ASLEEP, 0);
    }
  }

  #ring(bell: number, count: number): void {
    const at = this.#state + bell;
    Atomics.add(this.#words, at, 1);
    futex(this.#memory.address + at * 4, FUTEX_WAKE_PRIVATE, count, 0, 0, 0);
  }

  #wait(bell: number, value: number, timeout: number): void {
    const at = this.#state + bell;
    futex(this.#memory.address + at * 4, FUTEX_WAIT_PRIVATE, value, timeout, 0, 0);
  }
}
