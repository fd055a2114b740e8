// A ring of io_uring(7) that one thread uses: it fills in submissions, hands them over and waits in
// one system call, and takes completions out of shared memory.

import {
  IORING_ENTER_GETEVENTS,
  IORING_OFF_SQ_RING,
  IORING_OFF_SQES,
  IORING_SETUP_CQSIZE,
  IORING_SETUP_DEFER_TASKRUN,
  IORING_SETUP_SINGLE_ISSUER,
  IORING_SETUP_SQE128,
  io_cqring_offsets,
  io_sqring_offsets,
  io_uring_cqe,
  io_uring_params,
  io_uring_sqe,
  SQE128_SIZE,
} from "./abi-uring.ts";
import { assert } from "./assert.ts";
import { RING_COMPLETIONS, RING_SUBMISSIONS } from "./limits.ts";
import { map, smallMemory, type Memory } from "./memory.ts";
import { close, io_uring_enter, io_uring_setup } from "./syscall.ts";

// Completions come to the thread when it waits for them, and at no other time: that is the
// cheapest, and what a loop of one thread needs.
const FLAGS =
  IORING_SETUP_SQE128 |
  IORING_SETUP_CQSIZE |
  IORING_SETUP_SINGLE_ISSUER |
  IORING_SETUP_DEFER_TASKRUN;

export class Ring {
  /** The submissions: fill in the one that `submission` gives. */
  readonly submissions: Memory;
  /** Of the completion that `next` took: what its submission was given, and the result. */
  userData = 0;
  result = 0;

  readonly #fd: number;
  readonly #words: Int32Array;
  readonly #sqTail: number;
  readonly #sqMask: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqes: number;
  #tail: number;
  #head: number;
  /** How many submissions are not handed over yet. */
  #pending = 0;

  /** A ring of the calling thread, which is the only one that may use it; or -errno. */
  static create(): Ring | number {
    const params = newParams();
    const fd = io_uring_setup(RING_SUBMISSIONS, params.address);
    return fd < 0 ? fd : new Ring(fd, params);
  }

  private constructor(fd: number, params: Memory) {
    const field = (at: number): number => params.view.getUint32(at, true);
    const sq = (name: keyof typeof io_sqring_offsets): number =>
      field(io_uring_params.sq_off + io_sqring_offsets[name]);
    const cq = (name: keyof typeof io_cqring_offsets): number =>
      field(io_uring_params.cq_off + io_cqring_offsets[name]);
    const submissions = field(io_uring_params.sq_entries);
    const completions = field(io_uring_params.cq_entries);
    const submissionsEnd = sq("array") + 4 * submissions;
    const completionsEnd = cq("cqes") + io_uring_cqe.sizeof * completions;
    const rings = map(Math.max(submissionsEnd, completionsEnd), fd, IORING_OFF_SQ_RING);
    this.submissions = map(submissions * SQE128_SIZE, fd, IORING_OFF_SQES);
    this.#fd = fd;
    this.#words = rings.i32;
    this.#sqTail = sq("tail") >> 2;
    this.#sqMask = rings.i32[sq("ring_mask") >> 2]!;
    this.#cqHead = cq("head") >> 2;
    this.#cqTail = cq("tail") >> 2;
    this.#cqMask = rings.i32[cq("ring_mask") >> 2]!;
    this.#cqes = cq("cqes") >> 2;
    this.#tail = this.#words[this.#sqTail]!;
    this.#head = this.#words[this.#cqHead]!;
    // Submissions are used in the order in which they lie.
    for (let index = 0; index < submissions; index++)
      this.#words[(sq("array") >> 2) + index] = index;
  }

  /**
   * Begins a submission: zeroed but for these fields. Returns where in `submissions` it lies.
   * `userData` is below 2**31: once a larger one has come by, the compiler takes all that is
   * reckoned from it for fractions, and a request takes a fifth longer.
   */
  submission(opcode: number, fd: number, userData: number): number {
    assert(this.#pending <= this.#sqMask, "there is room for a submission");
    const at = (this.#tail & this.#sqMask) * SQE128_SIZE;
    const { bytes, view } = this.submissions;
    bytes.fill(0, at, at + SQE128_SIZE);
    view.setUint8(at + io_uring_sqe.opcode, opcode);
    view.setInt32(at + io_uring_sqe.fd, fd, true);
    view.setInt32(at + io_uring_sqe.user_data, userData, true);
    this.#tail = (this.#tail + 1) | 0;
    this.#pending++;
    return at;
  }

  /** Whether there is a completion to take, without asking the kernel. */
  get isReady(): boolean {
    return Atomics.load(this.#words, this.#cqTail) !== this.#head;
  }

  /**
   * Hands over what was submitted, and waits for a completion if `wait` is 1. Returns how many
   * submissions the kernel has taken, or -errno; -EINTR if a signal ended the wait.
   */
  enter(wait: 0 | 1): number {
    Atomics.store(this.#words, this.#sqTail, this.#tail);
    const flags = wait === 0 ? 0 : IORING_ENTER_GETEVENTS;
    const taken = io_uring_enter(this.#fd, this.#pending, wait, flags);
    if (taken > 0) this.#pending -= taken;
    return taken;
  }

  /** Takes the next completion into `userData` and `result`; false if there is none. */
  next(): boolean {
    if (!this.isReady) return false;
    const at = this.#cqes + (this.#head & this.#cqMask) * (io_uring_cqe.sizeof >> 2);
    this.userData = this.#words[at + (io_uring_cqe.user_data >> 2)]!;
    this.result = this.#words[at + (io_uring_cqe.res >> 2)]!;
    this.#head = (this.#head + 1) | 0;
    Atomics.store(this.#words, this.#cqHead, this.#head);
    return true;
  }

  close(): void {
    close(this.#fd);
  }
}

/** Whether this process may have rings; 0 or -errno. */
export function tryRing(): number {
  const fd = io_uring_setup(1, newParams().address);
  if (fd >= 0) close(fd);
  return Math.min(fd, 0);
}

function newParams(): Memory {
  const params = smallMemory(io_uring_params.sizeof);
  params.view.setUint32(io_uring_params.flags, FLAGS, true);
  params.view.setUint32(io_uring_params.cq_entries, RING_COMPLETIONS, true);
  return params;
}
