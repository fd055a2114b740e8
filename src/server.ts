// The server: takes a request that lies in memory, has the file system do it, and leaves the reply
// in memory. It knows no transport, so it runs without a kernel.
//
// What it does for an opcode is a row of the table in operations.ts.

import { FUSE_SETXATTR, fuse_in_header } from "./abi-fuse.ts";
import { AssertionError } from "./assert.ts";
import { EINVAL, EIO, ENAMETOOLONG, ENOSYS } from "./errno.ts";
import { Exchange } from "./exchange.ts";
import { REPLY_LATER, type Connection, type FileSystem } from "./filesystem.ts";
import { SYMLINK_TARGET_MAX, XATTR_NAME_MAX } from "./limits.ts";
import { log } from "./log.ts";
import {
  LOOKUP_ENTRY,
  NONE,
  PLACEHOLDER,
  TWO_ENTRIES,
  XATTR,
  opcodeName,
  table,
  type Operation,
} from "./operations.ts";
import type { Reply } from "./reply.ts";
import type { Name, Request } from "./request.ts";

/** Sees every request: `before` it is done, and `after`, with the result and how long it took. */
export interface MetricsHook {
  before(opcode: number): void;
  /** `result` is -errno or >= 0; `nanoseconds` since `before`. */
  after(opcode: number, result: number, nanoseconds: number): void;
}

/** A request and its reply: those of a server, or of the handshake, before there is one. */
export interface Traced {
  readonly request: Request;
  readonly reply: Reply;
  /** How long the argument struct of SETXATTR is. */
  readonly setxattrSize: number;
}

/** Sees every request, when its header was read, and every reply whole: the debug printer. */
export interface Tracer {
  request(traced: Traced): void;
  /** `length` is that of the reply, 0 if there is none yet. */
  reply(traced: Traced, length: number): void;
}

export interface ServerOptions {
  metrics?: MetricsHook | undefined;
  tracer?: Tracer | undefined;
}

export class Server extends Exchange {
  /** Whether the request that was handled last is answered by somebody else, later. */
  repliesLater = false;
  readonly #metrics: MetricsHook | undefined;
  readonly #tracer: Tracer | undefined;

  /** `device` takes late answers, if the transport has such a descriptor. */
  constructor(
    fs: FileSystem,
    connection: Connection,
    request: Request,
    reply: Reply,
    device = -1,
    options: ServerOptions = {},
  ) {
    super(fs, connection, request, reply, device);
    fs.connected(connection, device);
    this.#metrics = options.metrics;
    this.#tracer = options.tracer;
  }

  /**
   * Serves the request of `length` bytes in `this.request`. Returns the length of the reply, 0 for
   * none.
   */
  handle(length: number): number {
    const request = this.request;
    this.repliesLater = false;
    if (!request.begin(length)) return this.#refuseHeader(length);
    const row = table[request.opcode];
    if (this.#tracer !== undefined) this.#tracer.request(this);
    const metrics = this.#metrics;
    let result: number;
    if (metrics === undefined) {
      result = this.#run(row);
    } else {
      metrics.before(request.opcode);
      const start = Bun.nanoseconds();
      result = this.#run(row);
      metrics.after(request.opcode, result, Bun.nanoseconds() - start);
    }
    this.repliesLater = result === REPLY_LATER;
    const replied =
      this.repliesLater || row?.silent === true
        ? 0
        : this.reply.end(request.uniqueLow, request.uniqueHigh, result);
    if (this.#tracer !== undefined) this.#tracer.reply(this, replied);
    return replied;
  }

  #run(row: Operation | undefined): number {
    if (row === undefined) return -ENOSYS;
    const context = this.context;
    const request = this.request;
    context.uid = request.uid;
    context.gid = request.gid;
    context.pid = request.pid;
    context.uniqueLow = request.uniqueLow;
    context.uniqueHigh = request.uniqueHigh;
    const taken = this.#take(row);
    if (taken !== 0) return taken;
    if (row.replySize > 0) this.reply.clear(row.replySize);
    try {
      const result = row.run(this);
      return row.replySize < 0 || result < 0 || result === REPLY_LATER ? result : row.replySize;
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      log.error(`${row.name} failed by a bug of the file system, the caller gets EIO`, error);
      return -EIO;
    }
  }

  /** Takes struct, names and extensions out of the request; 0 or -errno. */
  #take(row: Operation): number {
    const request = this.request;
    const size = request.opcode === FUSE_SETXATTR ? this.setxattrSize : row.structSize;
    if (!request.takeStruct(size)) return this.#malformed(row, "too short");
    if (row.names !== NONE) {
      if (!request.takeName(this.name)) return this.#malformed(row, "name without end");
      if (row.names === XATTR) {
        if (this.name.length > XATTR_NAME_MAX) return -ENAMETOOLONG;
      } else if (row.names !== PLACEHOLDER) {
        const wrong = this.#checkEntry(row, this.name);
        if (wrong !== 0) return wrong;
        if (row.names >= TWO_ENTRIES) {
          if (!request.takeName(this.secondName)) return this.#malformed(row, "name without end");
          if (row.names === TWO_ENTRIES) {
            const wrongToo = this.#checkEntry(row, this.secondName);
            if (wrongToo !== 0) return wrongToo;
          } else if (this.secondName.length > SYMLINK_TARGET_MAX) {
            return -ENAMETOOLONG;
          }
        }
      }
    }
    const extensions = this.context.extensions;
    extensions.clear();
    if (request.hasExtensions && !request.takeExtensions(extensions))
      return this.#malformed(row, "extension block");
    return 0;
  }

  /** A name of a directory's entry. The kernel never sends others; a virtual machine may. */
  #checkEntry(row: Operation, name: Name): number {
    if (!name.isEntry) return this.#malformed(row, "not a name");
    if (row.names !== LOOKUP_ENTRY && name.isDots) return this.#malformed(row, "`.` or `..`");
    return 0;
  }

  #malformed(row: Operation, what: string): number {
    log.warnLimited(`malformed ${row.name} request: ${what}; answered with EINVAL`);
    return -EINVAL;
  }

  /** Without a sound header there is no telling whom to answer, unless `unique` was there. */
  #refuseHeader(length: number): number {
    log.warnLimited(`malformed request of ${length} bytes: no sound header`);
    const request = this.request;
    if (length < fuse_in_header.sizeof || table[request.opcode]?.silent === true) return 0;
    return this.reply.end(request.uniqueLow, request.uniqueHigh, -EINVAL);
  }

  /** The request being served, for the log. */
  describe(): string {
    const { opcode, nodeid, pid } = this.request;
    return `${opcodeName(opcode)} of node ${nodeid} from process ${pid}`;
  }
}
