// The channel over /dev/fuse: the INIT handshake, and the loop that reads a request, has the server
// handle it, and writes the reply. Each worker runs the loop on a descriptor of its own, a clone of
// the mount's.

import {
  FUSE_ABORT_ERROR,
  FUSE_ALLOW_IDMAP,
  FUSE_COMPAT_INIT_IN_SIZE,
  FUSE_DEV_IOC_CLONE,
  FUSE_DO_READDIRPLUS,
  FUSE_HANDLE_KILLPRIV_V2,
  FUSE_INIT,
  FUSE_INIT_EXT,
  FUSE_KERNEL_MINOR_VERSION,
  FUSE_KERNEL_MINOR_VERSION_MIN,
  FUSE_KERNEL_VERSION,
  FUSE_MAX_PAGES,
  FUSE_OVER_IO_URING,
  FUSE_PASSTHROUGH,
  FUSE_POSIX_ACL,
  FUSE_POSIX_LOCKS,
  FUSE_REQUEST_TIMEOUT,
  FUSE_WRITEBACK_CACHE,
  fuse_init_in,
  fuse_init_out,
  fuse_out_header,
} from "./abi-fuse.ts";
import { AT_FDCWD, O_CLOEXEC, O_RDWR } from "./abi-linux.ts";
import {
  EAGAIN,
  ECONNABORTED,
  EINTR,
  EIO,
  ENODEV,
  ENOENT,
  ENOTCONN,
  EPROTO,
  errnoMessage,
} from "./errno.ts";
import type { Activity } from "./activity.ts";
import type { Connection, FileSystem, Wishes } from "./filesystem.ts";
import {
  CONGESTION_THRESHOLD,
  MAX_BACKGROUND,
  MAX_PAGES,
  MAX_WRITE,
  REPLY_BASE,
  REPLY_SIZE,
  REQUEST_BASE,
  REQUEST_SIZE,
} from "./limits.ts";
import { log } from "./log.ts";
import { cstring, map, smallMemory } from "./memory.ts";
import { Reply } from "./reply.ts";
import { Request } from "./request.ts";
import { Server, type ServerOptions, type Tracer } from "./server.ts";
import type { Readers } from "./session-readers.ts";
import { SplicePipe } from "./session-splice.ts";
import { ioctl, openat, read, write } from "./syscall.ts";

/** What the handshake is to see to, beside what the file system wishes. */
export interface SessionOptions {
  /**
   * Seconds after which the kernel aborts the connection over an unanswered request; 0 for never.
   */
  readonly requestTimeout: number;
  /** Whether requests may come by io_uring. */
  readonly ioUring?: boolean;
  /** Sees the handshake. */
  readonly tracer?: Tracer | undefined;
}

/** The buffers of one thread that serves. */
export function makeBuffers(): { request: Request; reply: Reply } {
  return {
    request: new Request(map(REQUEST_SIZE), REQUEST_BASE),
    reply: new Reply(map(REPLY_SIZE), REPLY_BASE),
  };
}

const READ_SIZE = REQUEST_SIZE - REQUEST_BASE;

/**
 * Answers the kernel's INIT on the descriptor of a new mount, for `fs`. Blocks until the request is
 * there, which is at once after mounting. Throws if the kernel speaks another protocol.
 */
export function handshake(device: number, fs: FileSystem, options: SessionOptions): Connection {
  const { request, reply } = makeBuffers();
  const traced = { request, reply, setxattrSize: 0 };
  for (;;) {
    let length: number;
    do length = read(device, request.address, READ_SIZE);
    while (length === -EINTR || length === -EAGAIN);
    if (length < 0) throw new Error(`cannot read from /dev/fuse: ${errnoMessage(length)}`);
    const isInit = request.begin(length) && request.opcode === FUSE_INIT;
    options.tracer?.request(traced);
    if (!isInit || !request.takeStruct(FUSE_COMPAT_INIT_IN_SIZE))
      throw new Error("the kernel's first request on /dev/fuse is not INIT");
    const connection = answerInit(request, reply, fs, options);
    const result = connection === null ? -EPROTO : fuse_init_out.sizeof;
    const sent = reply.end(request.uniqueLow, request.uniqueHigh, result);
    options.tracer?.reply(traced, sent);
    const written = write(device, reply.address, sent);
    if (written < 0) throw new Error(`cannot answer INIT: ${errnoMessage(written)}`);
    if (connection === null)
      throw new Error(
        "the kernel's FUSE protocol is older than 7.27: Linux 4.18 or newer is needed",
      );
    if (connection !== "again") return connection;
  }
}

/**
 * Fills the reply. Null: the protocol is too old. "again": of another major version, the kernel
 * asks anew.
 */
function answerInit(
  request: Request,
  reply: Reply,
  fs: FileSystem,
  options: SessionOptions,
): Connection | null | "again" {
  const major = request.u32(fuse_init_in.major);
  const kernelMinor = request.u32(fuse_init_in.minor);
  reply.clear(fuse_init_out.sizeof);
  reply.u32(fuse_init_out.major, FUSE_KERNEL_VERSION);
  reply.u32(fuse_init_out.minor, FUSE_KERNEL_MINOR_VERSION);
  if (major > FUSE_KERNEL_VERSION) return "again";
  if (major < FUSE_KERNEL_VERSION || kernelMinor < FUSE_KERNEL_MINOR_VERSION_MIN) return null;
  const minor = Math.min(kernelMinor, FUSE_KERNEL_MINOR_VERSION);
  const offered = request.u32(fuse_init_in.flags);
  const extended = (offered & FUSE_INIT_EXT) !== 0 && request.takeStruct(fuse_init_in.sizeof);
  const offered2 = extended ? request.u32(fuse_init_in.flags2) : 0;
  const maxReadahead = request.u32(fuse_init_in.max_readahead);
  const wishes: Wishes = {
    flags: FUSE_MAX_PAGES | FUSE_ABORT_ERROR,
    flags2:
      (options.requestTimeout > 0 ? FUSE_REQUEST_TIMEOUT : 0) |
      (options.ioUring === true ? FUSE_OVER_IO_URING : 0),
    maxStackDepth: 0,
    requestTimeout: options.requestTimeout,
    maxBackground: MAX_BACKGROUND,
    congestionThreshold: CONGESTION_THRESHOLD,
    maxReadahead,
  };
  fs.init(wishes, offered, offered2);
  const flags2 = wishes.flags2 & offered2;
  const flags = (wishes.flags & offered) | (flags2 !== 0 ? FUSE_INIT_EXT : 0);
  const view = reply.view;
  const at = reply.body;
  reply.u32(fuse_init_out.minor, minor);
  reply.u32(fuse_init_out.max_readahead, Math.min(maxReadahead, wishes.maxReadahead));
  reply.u32(fuse_init_out.flags, flags);
  reply.u32(fuse_init_out.flags2, flags2);
  view.setUint16(at + fuse_init_out.max_background, wishes.maxBackground, true);
  view.setUint16(at + fuse_init_out.congestion_threshold, wishes.congestionThreshold, true);
  reply.u32(fuse_init_out.max_write, MAX_WRITE);
  reply.u32(fuse_init_out.time_gran, 1);
  view.setUint16(at + fuse_init_out.max_pages, MAX_PAGES, true);
  if (flags2 & FUSE_PASSTHROUGH) reply.u32(fuse_init_out.max_stack_depth, wishes.maxStackDepth);
  if (flags2 & FUSE_REQUEST_TIMEOUT)
    view.setUint16(at + fuse_init_out.request_timeout, wishes.requestTimeout, true);
  return { minor, flags, flags2, maxWrite: MAX_WRITE };
}

/** What came of the handshake, for a person. */
export function describeConnection(connection: Connection): string {
  const { minor, flags, flags2 } = connection;
  const features: [boolean, string][] = [
    [(flags2 & FUSE_OVER_IO_URING) !== 0, "io_uring"],
    [(flags2 & FUSE_PASSTHROUGH) !== 0, "kernel passthrough"],
    [(flags & FUSE_WRITEBACK_CACHE) !== 0, "writeback cache"],
    [(flags & FUSE_POSIX_ACL) !== 0, "POSIX ACLs"],
    [(flags & FUSE_POSIX_LOCKS) !== 0, "shared locks"],
    [(flags & FUSE_HANDLE_KILLPRIV_V2) !== 0, "killpriv v2"],
    [(flags & FUSE_DO_READDIRPLUS) !== 0, "readdirplus"],
    [(flags2 & FUSE_ALLOW_IDMAP) !== 0, "idmapped mounts"],
  ];
  const named = features.filter(([has]) => has).map(([, name]) => name);
  return `FUSE 7.${minor} with ${named.join(", ") || "no special features"}`;
}

/**
 * A further descriptor of the mount behind `device`, with a queue of its own for what is being
 * processed.
 */
export function cloneDevice(device: number): number {
  const fd = openat(AT_FDCWD, cstring("/dev/fuse").address, O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) throw new Error(`cannot open /dev/fuse: ${errnoMessage(fd)}`);
  const argument = smallMemory(8);
  argument.view.setUint32(0, device, true);
  const result = ioctl(fd, FUSE_DEV_IOC_CLONE, argument.address);
  if (result < 0) throw new Error(`cannot clone /dev/fuse: ${errnoMessage(result)}`);
  return fd;
}

/** What `Channel.serveOne` did. */
export const SERVED = 0;
/** There was no request; only if the descriptor does not block. */
export const IDLE = 1;
/** The mount is gone. */
export const GONE = 2;

export interface ChannelOptions extends ServerOptions {
  /** Where it is noted that there is a request in hand. */
  readonly activity?: Activity | undefined;
  /** The others who read the same queue, where there are any. */
  readonly readers?: Readers | undefined;
}

/** One descriptor of /dev/fuse, with a server behind it. */
export class Channel {
  readonly #device: number;
  readonly #server: Server;
  readonly #pipe: SplicePipe | undefined;
  readonly #activity: Activity | undefined;
  readonly #readers: Readers | undefined;

  constructor(
    device: number,
    fs: FileSystem,
    connection: Connection,
    options: ChannelOptions = {},
  ) {
    const { request, reply } = makeBuffers();
    this.#pipe = SplicePipe.create(request, reply);
    reply.splice = this.#pipe;
    this.#activity = options.activity;
    this.#activity?.enter();
    this.#readers = options.readers;
    this.#device = device;
    this.#server = new Server(fs, connection, request, reply, device, options);
  }

  /** Reads a request, has it handled, and writes the reply. */
  serveOne(): number {
    const device = this.#device;
    const { request } = this.#server;
    const readers = this.#readers;
    if (readers !== undefined) readers.beforeRead();
    const length = read(device, request.address, READ_SIZE);
    if (length < 0) {
      // ENOENT: the request was interrupted before it could be read.
      if (length === -EINTR || length === -ENOENT) return SERVED;
      if (length === -EAGAIN) return IDLE;
      // ECONNABORTED: somebody aborted the connection, with FUSE_ABORT_ERROR negotiated.
      if (length === -ENODEV || length === -ENOTCONN || length === -ECONNABORTED) return GONE;
      throw new Error(`cannot read from /dev/fuse: ${errnoMessage(length)}`);
    }
    const activity = this.#activity;
    if (activity !== undefined) activity.begin();
    if (readers !== undefined) readers.afterRead(request);
    const replyLength = this.#server.handle(length);
    if (replyLength > 0) {
      const written = this.#send(replyLength);
      if (written < 0) this.#afterFailedReply(written);
    }
    if (activity !== undefined) activity.end();
    return SERVED;
  }

  #send(length: number): number {
    const { request, reply } = this.#server;
    const pipe = this.#pipe;
    if (pipe !== undefined && pipe.pending > 0) {
      if (pipe.pending === length) return pipe.send(this.#device);
      // The file system took data and then answered with an error, or with data of its own.
      pipe.discard();
      if (length > fuse_out_header.sizeof)
        length = reply.end(request.uniqueLow, request.uniqueHigh, -EIO);
    }
    return write(this.#device, reply.address, length);
  }

  /**
   * ENOENT: the caller is gone, and nobody waits. EINVAL and the like: our reply was wrong, and is
   * a bug.
   */
  #afterFailedReply(result: number): void {
    if (result === -ENOENT || result === -ENODEV || result === -EINTR) return;
    const server = this.#server;
    const { request, reply } = server;
    log.error(`the kernel refuses the reply to ${server.describe()}: ${errnoMessage(result)}`);
    const length = reply.end(request.uniqueLow, request.uniqueHigh, -EIO);
    write(this.#device, reply.address, length);
  }
}
