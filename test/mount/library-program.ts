// A program that mounts a file system of its own, for the tests of the library: a directory of
// files that change behind the kernel's back, as the requests on standard input want it. The kernel
// may keep everything for a long time, so that it takes a notification to make it look again.

import {
  errno,
  FileSystem,
  FOPEN_KEEP_CACHE,
  FUSE_EXPLICIT_INVAL_DATA,
  FUSE_HAS_EXPIRE_ONLY,
  FUSE_HAS_RESEND,
  FUSE_POLL_SCHEDULE_NOTIFY,
  FUSE_ROOT_ID,
  fuse_out_header,
  linux,
  mountFileSystem,
  REPLY_LATER,
  type AttrOut,
  type AttrReply,
  type Bytes,
  type Connection,
  type Context,
  type DataOut,
  type EntryOut,
  type MetricsHook,
  type Mounted,
  type Name,
  type Notifier,
  type OpenOut,
  type Wishes,
} from "../../src/index.ts";
import { smallMemory } from "../../src/memory.ts";
import { opcodeName } from "../../src/operations.ts";
import { write } from "../../src/syscall.ts";
import { answered, failure, LineProcess, writeLine } from "./line-process.ts";

const TIMEOUT = 86_400;

interface File {
  readonly id: number;
  data: Uint8Array;
  isReady: boolean;
}

/** A request that is not answered yet. */
interface Held {
  readonly uniqueLow: number;
  readonly uniqueHigh: number;
  readonly device: number;
}

/** Who waits for something to happen, and what has happened before anybody waited. */
class Events<T> {
  readonly #happened: T[] = [];
  readonly #waiting: ((event: T) => void)[] = [];

  add(event: T): void {
    const first = this.#waiting.shift();
    if (first === undefined) this.#happened.push(event);
    else first(event);
  }

  next(): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<T>();
    if (this.#happened.length > 0) resolve(this.#happened.shift()!);
    else this.#waiting.push(resolve);
    return promise;
  }
}

class Shelf extends FileSystem {
  readonly names = new Map<string, File>();
  readonly #files = new Map<number, File>();
  minor = 0;
  readonly held = new Events<Held>();
  readonly retrieved = new Events<{ unique: number; offset: number; text: string }>();
  readonly polled = new Events<number>();
  readonly forgotten = new Events<number>();

  /** A new file, in the place of what had the name. Returns its nodeid. */
  put(name: string, text: string): number {
    const id = FUSE_ROOT_ID + 1 + this.#files.size;
    const file = { id, data: Buffer.from(text), isReady: false };
    this.#files.set(id, file);
    this.names.set(name, file);
    return id;
  }

  file(nodeid: number): File {
    return this.#files.get(nodeid)!;
  }

  override init(wishes: Wishes): void {
    wishes.flags |= FUSE_EXPLICIT_INVAL_DATA;
    wishes.flags2 |= FUSE_HAS_EXPIRE_ONLY | FUSE_HAS_RESEND;
  }

  override connected(connection: Connection): void {
    this.minor = connection.minor;
  }

  /** "held" is answered when it is asked for, "bug" is one. */
  override lookup(context: Context, _parent: number, name: Name, entry: EntryOut): number {
    const text = name.toString();
    if (text === "bug") throw new Error("this is a bug");
    if (text === "held") {
      this.held.add({ ...context });
      return REPLY_LATER;
    }
    const file = this.names.get(text);
    entry.entryTimeout = TIMEOUT;
    entry.attrTimeout = TIMEOUT;
    if (file === undefined) return 0; // and the kernel remembers that there is none
    entry.nodeid = file.id;
    this.#describe(file.id, entry.attr);
    return 0;
  }

  override forget(nodeid: number): void {
    this.forgotten.add(nodeid);
  }

  override getattr(_context: Context, nodeid: number, _fh: number, out: AttrReply): number {
    out.attrTimeout = TIMEOUT;
    this.#describe(nodeid, out.attr);
    return 0;
  }

  #describe(nodeid: number, attr: AttrOut): void {
    const file = this.#files.get(nodeid);
    attr.ino = nodeid;
    attr.nlink = 1;
    attr.mode = file === undefined ? linux.S_IFDIR | 0o755 : linux.S_IFREG | 0o644;
    attr.size = file?.data.length ?? 0;
  }

  override open(
    _context: Context,
    _nodeid: number,
    _flags: number,
    _fuseFlags: number,
    out: OpenOut,
  ): number {
    out.openFlags = FOPEN_KEEP_CACHE;
    return 0;
  }

  override read(
    _context: Context,
    nodeid: number,
    _fh: number,
    offset: number,
    _flags: number,
    out: DataOut,
  ): number {
    const part = this.file(nodeid).data.subarray(offset, offset + out.limit);
    out.bytes.set(part);
    return part.length;
  }

  override poll(
    _context: Context,
    nodeid: number,
    _fh: number,
    kh: number,
    flags: number,
    events: number,
  ): number {
    if (flags & FUSE_POLL_SCHEDULE_NOTIFY) this.polled.add(kh);
    return this.file(nodeid).isReady ? events & linux.POLLIN : 0;
  }

  override notifyReply(
    uniqueLow: number,
    _uniqueHigh: number,
    _nodeid: number,
    offset: number,
    data: Bytes,
  ): void {
    const text = Buffer.from(data.bytes).toString("latin1");
    this.retrieved.add({ unique: uniqueLow, offset, text });
  }
}

/** What every request came to, by the name of its opcode. */
class Metrics implements MetricsHook {
  seen: Record<string, number[]> = {};
  #running = -1;
  /** Whether each `after` came with the `before` of the same request, and a time. */
  inOrder = true;

  before(opcode: number): void {
    this.#running = opcode;
  }

  after(opcode: number, result: number, nanoseconds: number): void {
    this.inOrder &&= opcode === this.#running && nanoseconds > 0 && nanoseconds < 60e9;
    (this.seen[opcodeName(opcode)] ??= []).push(result);
  }
}

const shelf = new Shelf();
const metrics = new Metrics();
let mounted: Mounted | undefined;

/** Calls a method of the notifier; data is given as text. What came of it: 0 or -errno. */
function notify(method: keyof Notifier, given: unknown[]): Promise<number> {
  const args = method === "store" ? [...given.slice(0, 2), Buffer.from(String(given[2]))] : given;
  return mounted!.notify((notifier) => Reflect.apply(notifier[method], notifier, args));
}

let notified = Promise.resolve(0);

/** What can be asked for. */
const requests = {
  mount(path: string): number {
    mounted = mountFileSystem(shelf, path, { metrics, allowOther: true });
    return shelf.minor;
  },
  put: (name: string, text: string): number => shelf.put(name, text),
  /** Gives the file other contents. */
  change(name: string, text: string): void {
    shelf.names.get(name)!.data = Buffer.from(text);
  },
  remove: (name: string): boolean => shelf.names.delete(name),
  ready(name: string): void {
    shelf.names.get(name)!.isReady = true;
  },
  notify: (method: keyof Notifier, ...args: unknown[]): Promise<number> => notify(method, args),
  /** The same in two steps: other requests may come between. */
  startNotify(method: keyof Notifier, ...args: unknown[]): void {
    notified = notify(method, args);
  },
  notified: () => notified,
  retrieved: () => shelf.retrieved.next(),
  /** The kernel's handle of the next poll that wants to be told. */
  polled: () => shelf.polled.next(),
  forgotten: () => shelf.forgotten.next(),
  /** The next request that is held back. */
  held: () => shelf.held.next(),
  /** Answers a request that was held back: there is no such name. */
  answer({ uniqueLow, uniqueHigh, device }: Held): number {
    const { address, view } = smallMemory(fuse_out_header.sizeof);
    view.setUint32(fuse_out_header.len, fuse_out_header.sizeof, true);
    view.setInt32(fuse_out_header.error, -errno.ENOENT, true);
    view.setUint32(fuse_out_header.unique, uniqueLow, true);
    view.setUint32(fuse_out_header.unique + 4, uniqueHigh, true);
    return write(device, address, fuse_out_header.sizeof);
  },
  /** The results of all requests since this was last asked. */
  seen(): { seen: Record<string, number[]>; inOrder: boolean } {
    const { seen, inOrder } = metrics;
    metrics.seen = {};
    return { seen, inOrder };
  },
  unmount(): void {
    mounted!.unmount();
  },
  async closed(): Promise<string> {
    await mounted!.closed;
    return "closed";
  },
} as const;

type Requests = typeof requests;

export class LibraryProgram extends LineProcess {
  constructor() {
    super(new URL(import.meta.url), "the program with the library");
  }

  async ask<K extends keyof Requests>(
    name: K,
    ...args: Parameters<Requests[K]>
  ): Promise<Awaited<ReturnType<Requests[K]>>> {
    return answered<Awaited<ReturnType<Requests[K]>>>(await this.request([name, ...args]));
  }
}

async function serve([name, ...args]: [keyof Requests, ...never[]]): Promise<unknown> {
  try {
    return await (requests[name] as (...args: never[]) => unknown)(...args);
  } catch (error) {
    return failure(error);
  }
}

if (import.meta.main) {
  for await (const line of console) {
    if (line === "") continue; // The end.
    writeLine(JSON.stringify((await serve(JSON.parse(line))) ?? null));
  }
  process.exit(0);
}
