// The channel over io_uring: requests of the CPUs that a worker looks after, in its ring. A request
// goes to the queue of the CPU that it comes from, so a worker that runs there answers it without
// waking up another CPU. Documentation/filesystems/fuse-io-uring.rst has the protocol.
//
// An entry is a page and a payload. The kernel puts a request in pieces into both; they are put
// together for the server, before the payload if there is one. Without it, as for READ, the answer
// is built in the payload; otherwise elsewhere, and copied, because names and data to be written
// lie in the payload until the request is done.
//
// An entry is taken until its request is answered. So that requests that wait for a lock do not use
// up the queue, an entry is added for each. Their answers come from any thread through a pipe: only
// the ring's own thread may answer.
//
// With the answer, the queue has one entry too many, and the kernel can't be told to do without it.
// It would put a request there that comes while we are stuck with another one, and that another
// worker could take otherwise. So a request of our making is left unanswered in it: the entry is
// spare until the next request has to wait.
//
// The kernel hands over a request when it is made, if there is an entry, and otherwise when an
// answer comes in; a new entry does not make it look for requests that wait already. So a new entry
// is given such a request: FUSE_NOTIFY_RETRIEVE of no data, which the kernel answers by a
// NOTIFY_REPLY in the queue of the CPU that we are on. It takes a regular file, which the one that
// somebody waits to lock is.
//
// Forgets, interrupts and notifications do not come this way: another worker reads /dev/fuse.

import {
  FUSE_NOTIFY_RETRIEVE,
  FUSE_REQUEST_TIMEOUT,
  fuse_in_header,
  fuse_notify_retrieve_out,
  fuse_out_header,
} from "./abi-fuse.ts";
import { O_CLOEXEC, iovec } from "./abi-linux.ts";
import {
  FUSE_IO_URING_CMD_COMMIT_AND_FETCH,
  FUSE_IO_URING_CMD_REGISTER,
  IORING_OP_READ,
  IORING_OP_URING_CMD,
  SQE_CMD,
  fuse_uring_cmd_req,
  fuse_uring_ent_in_out,
  fuse_uring_req_header,
  io_uring_sqe,
} from "./abi-uring.ts";
import type { Activity } from "./activity.ts";
import { assert } from "./assert.ts";
import { ECONNABORTED, EINTR, ENODEV, ENOTCONN, errnoMessage } from "./errno.ts";
import type { Connection, FileSystem } from "./filesystem.ts";
import { CPUS_MAX, MAX_WRITE, RING_ENTRIES_MAX } from "./limits.ts";
import { map, PAGE_SIZE, smallMemory, type Memory } from "./memory.ts";
import { readProc, statusSet } from "./proc.ts";
import { Reply } from "./reply.ts";
import { copyU64, Request } from "./request.ts";
import { Server } from "./server.ts";
import { GONE, SERVED, type ChannelOptions } from "./session.ts";
import { gettid, pipe2, sched_setaffinity, write } from "./syscall.ts";
import { Ring } from "./uring.ts";

const PAYLOAD = PAGE_SIZE;
const ENTRY_SIZE = PAYLOAD + MAX_WRITE;
/** Where in an entry's page a request without payload is put together. */
const TOGETHER = PAGE_SIZE / 2;
const IN_OUT = fuse_uring_req_header.ring_ent_in_out;
/** What stands for the pipe where completions carry the number of an entry. */
const ANSWERS = RING_ENTRIES_MAX;

/** What marks requests of our making: the highest two bits of their unique numbers. */
const NUDGE = 1;

// Why an entry is kept from the kernel: it is not, its request waits to be answered, it is spare.
const NOT_KEPT = 0;
const WAITS = 1;
const SPARE = 2;

/** The part of a mount that a worker looks after. */
export interface RingPlace {
  /** The CPUs whose requests it serves. */
  readonly queues: readonly number[];
  /** Those that it runs on, as far as they are to be had. */
  readonly cpus: readonly number[];
}

export class UringChannel {
  readonly #device: number;
  readonly #ring: Ring;
  readonly #memory: Memory;
  /** Where answers to requests with a payload are built. */
  readonly #aside: number;
  readonly #server: Server;
  readonly #activity: Activity | undefined;
  readonly #answersFrom: number;
  readonly #answersTo: number;
  readonly #answers = map(PAGE_SIZE);
  readonly #cpus: readonly number[];
  readonly #nudge: Memory;
  /** By entry: the queue, and why it is kept. */
  readonly #queue = new Uint16Array(RING_ENTRIES_MAX);
  readonly #kept = new Uint8Array(RING_ENTRIES_MAX);
  #entries = 0;
  /** Whether requests may be left unanswered: the kernel gives up on none. */
  readonly #mayBeSpare: boolean;

  /**
   * Serves a part of the mount behind `device` on the calling thread. Requests come when the queues
   * of all CPUs are served. Throws if the kernel gives no ring.
   */
  constructor(
    device: number,
    fs: FileSystem,
    connection: Connection,
    { queues, cpus }: RingPlace,
    options: ChannelOptions = {},
  ) {
    const ring = Ring.create();
    if (typeof ring === "number")
      throw new Error(`cannot create a ring of io_uring: ${errnoMessage(ring)}`);
    this.#ring = ring;
    this.#device = device;
    this.#memory = map((RING_ENTRIES_MAX + 1) * ENTRY_SIZE);
    this.#aside = RING_ENTRIES_MAX * ENTRY_SIZE + PAYLOAD;
    [this.#answersFrom, this.#answersTo] = makePipe();
    const request = new Request(this.#memory, TOGETHER);
    const reply = new Reply(this.#memory, this.#aside - fuse_out_header.sizeof, MAX_WRITE);
    this.#cpus = cpus;
    this.#nudge = makeNudge();
    this.#activity = options.activity;
    this.#activity?.enter();
    this.#mayBeSpare = !hasTimeout(connection);
    this.#server = new Server(fs, connection, request, reply, device, options);
    this.#readAnswers();
    for (const queue of queues) this.#register(queue);
    runOn(cpus);
  }

  /** Takes a request from the ring, has it handled, and answers; or waits for the next. */
  serveOne(): number {
    const ring = this.#ring;
    if (!ring.next()) {
      const taken = ring.enter(1);
      if (taken < 0 && taken !== -EINTR)
        throw new Error(`cannot wait for the ring: ${errnoMessage(taken)}`);
      return SERVED;
    }
    const { userData, result } = ring;
    if (userData === ANSWERS) {
      this.#sendAnswers(result);
      return SERVED;
    }
    if (result < 0) {
      if (result === -ENOTCONN || result === -ENODEV || result === -ECONNABORTED) return GONE;
      throw new Error(`the kernel refuses an answer in the ring: ${errnoMessage(result)}`);
    }
    const activity = this.#activity;
    if (activity !== undefined) activity.begin();
    this.#serve(userData);
    // Who waits for this answer is not to wait for the next one too.
    if (ring.isReady) ring.enter(0);
    if (activity !== undefined) activity.end();
    return SERVED;
  }

  #serve(entry: number): void {
    const server = this.#server;
    const { request, reply } = server;
    const { bytes, view } = this.#memory;
    const page = entry * ENTRY_SIZE;
    const payload = page + PAYLOAD;
    const payloadSize = view.getUint32(page + IN_OUT + fuse_uring_ent_in_out.payload_sz, true);
    if (view.getUint32(page + fuse_in_header.unique + 4, true) >>> 30 === NUDGE) {
      if (this.#mayBeSpare && this.#hasAnother(entry)) this.#kept[entry] = SPARE;
      else this.#commitResult(entry, 0);
      return;
    }
    const length = view.getUint32(page + fuse_in_header.len, true);
    const head = length - payloadSize;
    assert(head >= fuse_in_header.sizeof && payloadSize <= MAX_WRITE, "a request in the ring");
    const base = payloadSize > 0 ? payload - head : page + TOGETHER;
    bytes.copyWithin(base, page, page + fuse_in_header.sizeof);
    const struct = page + fuse_uring_req_header.op_in;
    if (head > fuse_in_header.sizeof)
      bytes.copyWithin(base + fuse_in_header.sizeof, struct, struct + head - fuse_in_header.sizeof);
    request.base = base;
    const body = payloadSize > 0 ? this.#aside : payload;
    reply.moveTo(body - fuse_out_header.sizeof);
    server.context.device = this.#mayWait(entry) ? this.#answersTo : -1;
    const replyLength = server.handle(length);
    if (server.repliesLater) {
      this.#hold(entry);
      return;
    }
    // Nobody waits for the answer to a NOTIFY_REPLY, but the entry is to be free again.
    const sent =
      replyLength > 0 ? replyLength : reply.end(request.uniqueLow, request.uniqueHigh, 0);
    const size = sent - fuse_out_header.sizeof;
    if (body !== payload && size > 0) bytes.copyWithin(payload, body, body + size);
    bytes.copyWithin(page, reply.base, body);
    view.setUint32(page + IN_OUT + fuse_uring_ent_in_out.payload_sz, size, true);
    this.#commit(entry);
  }

  /** Hands the answer in `entry` over, and the entry back. */
  #commit(entry: number): void {
    const at = this.#command(FUSE_IO_URING_CMD_COMMIT_AND_FETCH, entry);
    const { u32 } = this.#memory;
    const from = (entry * ENTRY_SIZE + IN_OUT + fuse_uring_ent_in_out.commit_id) >> 2;
    const to = (at + SQE_CMD + fuse_uring_cmd_req.commit_id) >> 2;
    const submissions = this.#ring.submissions.u32;
    submissions[to] = u32[from]!;
    submissions[to + 1] = u32[from + 1]!;
  }

  /** Answers the request in `entry` without the server. */
  #commitResult(entry: number, result: number): void {
    const page = entry * ENTRY_SIZE;
    const { view } = this.#memory;
    view.setUint32(page + fuse_out_header.len, fuse_out_header.sizeof, true);
    view.setInt32(page + fuse_out_header.error, result, true);
    view.setUint32(page + IN_OUT + fuse_uring_ent_in_out.payload_sz, 0, true);
    this.#commit(entry);
  }

  #command(command: number, entry: number): number {
    const { view } = this.#ring.submissions;
    const at = this.#ring.submission(IORING_OP_URING_CMD, this.#device, entry);
    view.setUint32(at + io_uring_sqe.cmd_op, command, true);
    view.setUint16(at + SQE_CMD + fuse_uring_cmd_req.qid, this.#queue[entry]!, true);
    return at;
  }

  /** Gives the kernel one more entry for a queue. */
  #register(queue: number): void {
    const entry = this.#entries++;
    this.#queue[entry] = queue;
    const page = this.#memory.address + entry * ENTRY_SIZE;
    const buffers = smallMemory(2 * iovec.sizeof);
    buffers.view.setBigUint64(iovec.iov_base, BigInt(page), true);
    buffers.view.setBigUint64(iovec.iov_len, BigInt(fuse_uring_req_header.sizeof), true);
    const second = iovec.sizeof;
    buffers.view.setBigUint64(second + iovec.iov_base, BigInt(page + PAYLOAD), true);
    buffers.view.setBigUint64(second + iovec.iov_len, BigInt(MAX_WRITE), true);
    const at = this.#command(FUSE_IO_URING_CMD_REGISTER, entry);
    const { view } = this.#ring.submissions;
    view.setBigUint64(at + io_uring_sqe.addr, BigInt(buffers.address), true);
    view.setUint32(at + io_uring_sqe.len, 2, true);
    this.#ring.enter(0);
  }

  /**
   * Makes a request in the queue of `entry`, behind which come those that wait there, by the file
   * of the request in `entry`.
   */
  #wake(entry: number): void {
    const { view } = this.#nudge;
    const body = fuse_out_header.sizeof;
    const count = body + fuse_notify_retrieve_out.notify_unique;
    // The last bit of a unique number has a meaning of its own.
    view.setUint32(count, (view.getUint32(count, true) + 2) >>> 0, true);
    const node = entry * ENTRY_SIZE + fuse_in_header.nodeid;
    copyU64(this.#memory.view, node, view, body + fuse_notify_retrieve_out.nodeid);
    runOn([this.#queue[entry]!]);
    write(this.#device, this.#nudge.address, view.byteLength);
    runOn(this.#cpus);
  }

  // --- Late answers ---

  /** Whether the request in `entry` may wait, since its queue has or can have another entry. */
  #mayWait(entry: number): boolean {
    const isRoom = this.#entries < RING_ENTRIES_MAX;
    return isRoom || this.#hasAnother(entry) || this.#another(entry, SPARE) >= 0;
  }

  /** The request in `entry` waits. Sees to it that its queue has another entry. */
  #hold(entry: number): void {
    this.#kept[entry] = WAITS;
    if (!this.#hasAnother(entry)) {
      const spare = this.#another(entry, SPARE);
      if (spare >= 0) {
        this.#kept[spare] = NOT_KEPT;
        this.#commitResult(spare, 0);
      } else {
        this.#register(this.#queue[entry]!);
        this.#wake(entry);
      }
    }
    // The kernel says nothing of a signal that came before the request did.
    const { fs, request, context } = this.#server;
    if (hasSignal(request.pid)) fs.interrupt(context, request.uniqueLow, request.uniqueHigh);
  }

  /** Whether the kernel has another entry of the queue. */
  #hasAnother(entry: number): boolean {
    return this.#another(entry, NOT_KEPT) >= 0;
  }

  /** Another entry of the queue that is `kept` so; -1 if there is none. */
  #another(entry: number, kept: number): number {
    const queue = this.#queue[entry];
    for (let other = 0; other < this.#entries; other++)
      if (other !== entry && this.#queue[other] === queue && this.#kept[other] === kept)
        return other;
    return -1;
  }

  #readAnswers(): void {
    const at = this.#ring.submission(IORING_OP_READ, this.#answersFrom, ANSWERS);
    const { view } = this.#ring.submissions;
    view.setBigUint64(at + io_uring_sqe.addr, BigInt(this.#answers.address), true);
    view.setUint32(at + io_uring_sqe.len, PAGE_SIZE, true);
  }

  /** Passes on the answers, `length` bytes of them: each is a header and nothing else. */
  #sendAnswers(length: number): void {
    if (length < 0 && length !== -EINTR)
      throw new Error(`cannot read late answers: ${errnoMessage(length)}`);
    for (let at = 0; at < length; at += fuse_out_header.sizeof) {
      const entry = this.#waiting(at);
      if (entry < 0) continue;
      const { view } = this.#answers;
      const size = view.getUint32(at + fuse_out_header.len, true);
      assert(size === fuse_out_header.sizeof, "a late answer is a header");
      this.#kept[entry] = NOT_KEPT;
      // Before the answer, with which the file may go.
      if (this.#mayBeSpare && this.#hasAnother(entry)) this.#wake(entry);
      this.#commitResult(entry, view.getInt32(at + fuse_out_header.error, true));
      this.#ring.enter(0);
    }
    this.#readAnswers();
  }

  /** The entry whose request the answer at `at` is for, -1 if there is none. */
  #waiting(at: number): number {
    const { u32 } = this.#memory;
    const answer = (at + fuse_out_header.unique) >> 2;
    const low = this.#answers.u32[answer];
    const high = this.#answers.u32[answer + 1];
    for (let entry = 0; entry < this.#entries; entry++) {
      const unique = (entry * ENTRY_SIZE + fuse_in_header.unique) >> 2;
      if (this.#kept[entry] === WAITS && u32[unique] === low && u32[unique + 1] === high)
        return entry;
    }
    return -1;
  }
}

function makePipe(): [from: number, to: number] {
  const fds = smallMemory(8);
  const result = pipe2(fds.address, O_CLOEXEC);
  if (result < 0) throw new Error(`cannot create a pipe: ${errnoMessage(result)}`);
  return [fds.i32[0]!, fds.i32[1]!];
}

/** FUSE_NOTIFY_RETRIEVE of no data; the node is to be filled in, the unique number counted up. */
function makeNudge(): Memory {
  const body = fuse_out_header.sizeof;
  const memory = smallMemory(body + fuse_notify_retrieve_out.sizeof);
  const { view } = memory;
  view.setUint32(fuse_out_header.len, view.byteLength, true);
  view.setInt32(fuse_out_header.error, FUSE_NOTIFY_RETRIEVE, true);
  const unique = body + fuse_notify_retrieve_out.notify_unique;
  view.setUint32(unique + 4, ((NUDGE << 30) | gettid()) >>> 0, true);
  return memory;
}

/** Whether the kernel ends the mount if a request takes too long: by our wish or its settings. */
function hasTimeout({ flags2 }: Connection): boolean {
  const isSet = (name: string): boolean => {
    try {
      return Number(readProc(`sys/fs/fuse/${name}`)) > 0;
    } catch {
      return false; // an older kernel
    }
  };
  const settings = ["default_request_timeout", "max_request_timeout"];
  return (flags2 & FUSE_REQUEST_TIMEOUT) !== 0 || settings.some(isSet);
}

/** Whether a thread is about to handle a signal. */
function hasSignal(thread: number): boolean {
  if (thread === 0) return false;
  let status: string;
  try {
    status = readProc(`${thread}/status`);
  } catch {
    return false; // it has ended
  }
  const pending = statusSet(status, "SigPnd") | statusSet(status, "ShdPnd");
  return (pending & ~statusSet(status, "SigBlk")) !== 0n;
}

let mask: Memory | undefined;

/** Lets the calling thread run on these CPUs only, if any of them are to be had. */
export function runOn(cpus: readonly number[]): void {
  mask ??= smallMemory(CPUS_MAX / 8);
  mask.bytes.fill(0);
  for (const cpu of cpus) mask.bytes[cpu >> 3]! |= 1 << (cpu & 7);
  sched_setaffinity(0, mask.size, mask.address);
}
