// The handshake and the loop over the device, with a socket in the place of /dev/fuse: like the
// device it hands over one message with each read and each write.

import { afterEach, describe, expect, test } from "bun:test";
import * as abi from "../src/abi-fuse.ts";
import { AF_UNIX, F_SETFL, O_NONBLOCK } from "../src/abi-linux.ts";
import { DebugTracer } from "../src/debug.ts";
import { FileSystem, type Connection, type Wishes } from "../src/filesystem.ts";
import { map, smallMemory } from "../src/memory.ts";
import {
  Channel,
  describeConnection,
  GONE,
  handshake,
  IDLE,
  SERVED,
  type SessionOptions,
} from "../src/session.ts";
import { close, fcntl, read, socket, socketpair, write } from "../src/syscall.ts";
import { CONNECTION, hex } from "./support-server.ts";

const SOCK_SEQPACKET = 5;
const buffer = map(4096);

/** A socket whose other end is the kernel's. */
class Device {
  readonly fd: number;
  readonly #kernel: number;

  constructor() {
    const fds = smallMemory(8);
    expect(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds.address)).toBe(0);
    [this.fd, this.#kernel] = [fds.i32[0]!, fds.i32[1]!];
    fcntl(this.#kernel, F_SETFL, O_NONBLOCK);
  }

  send(...message: string[]): void {
    const bytes = hex(...message);
    buffer.bytes.set(bytes);
    expect(write(this.#kernel, buffer.address, bytes.length)).toBe(bytes.length);
  }

  /**
   * The next message that was written to the device, in hexadecimal; undefined if there is none.
   */
  receive(): string | undefined {
    const length = read(this.#kernel, buffer.address, buffer.size);
    return length < 0 ? undefined : buffer.bytes.slice(0, length).toHex();
  }

  hangUp(): void {
    close(this.#kernel);
  }
}

const devices: Device[] = [];
function device(): Device {
  const made = new Device();
  devices.push(made);
  return made;
}
afterEach(() => {
  for (const { fd } of devices) close(fd);
  for (const each of devices.splice(0)) each.hangUp();
});

/** A file system with wishes; it keeps what it was offered. */
class Wishing extends FileSystem {
  readonly #wishes: Partial<Wishes>;
  offered: [flags: number, flags2: number] | undefined;

  constructor(wishes: Partial<Wishes> = {}) {
    super();
    this.#wishes = wishes;
  }

  override init(wishes: Wishes, offeredFlags: number, offeredFlags2: number): void {
    this.offered = [offeredFlags, offeredFlags2];
    const { flags = 0, flags2 = 0, ...others } = this.#wishes;
    wishes.flags |= flags;
    wishes.flags2 |= flags2;
    Object.assign(wishes, others);
  }
}

// opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
const HEADER = "1a000000 0200000000000000 0000000000000000 00000000 00000000 00000000 0000 0000";
const UNIQUE = "0200000000000000";
/** The rest of the long form. */
const UNUSED = "00".repeat(44);
const REPLY = `50000000 00000000 ${UNIQUE}`;
const REPLY_END = "00".repeat(22);

function answers(fs: FileSystem, request: string[], options: Partial<SessionOptions> = {}) {
  const { fd } = device();
  const at = devices.at(-1)!;
  at.send(...request);
  const connection = handshake(fd, fs, { requestTimeout: 0, ...options });
  return { connection, reply: at.receive() };
}

describe("INIT is answered", () => {
  // ASYNC_READ, BIG_WRITES, ABORT_ERROR, MAX_PAGES, and others that nobody wants.
  const OFFERED = "ffff7f00";

  test("for 7.27 in the short form, with its minor version and without a second set of flags", () => {
    const fs = new Wishing({ flags: abi.FUSE_ASYNC_READ, flags2: abi.FUSE_PASSTHROUGH });
    const request = `38000000 ${HEADER} 07000000 1b000000 00000200 ${OFFERED}`;
    const { connection, reply } = answers(fs, [request], { requestTimeout: 60 });
    const begin = "07000000 1b000000 00000200 01006000 4000 3000 00001000 01000000";
    expect(reply).toBe(hex(REPLY, begin, "0001 0000 00000000 00000000 0000", REPLY_END).toHex());
    expect(connection).toEqual({
      minor: 27,
      flags: abi.FUSE_ASYNC_READ | abi.FUSE_ABORT_ERROR | abi.FUSE_MAX_PAGES,
      flags2: 0,
      maxWrite: 1 << 20,
    });
    expect(fs.offered).toEqual([0x7fffff, 0]);
  });

  test("for 7.31, which does not know all that is wished", () => {
    const fs = new Wishing({ flags: abi.FUSE_SETXATTR_EXT | abi.FUSE_WRITEBACK_CACHE });
    const request = `38000000 ${HEADER} 07000000 1f000000 00000100 00000100`;
    const { connection, reply } = answers(fs, [request]);
    const begin = "07000000 1f000000 00000100 00000100 4000 3000 00001000 01000000";
    expect(reply).toBe(hex(REPLY, begin, "0001 0000 00000000 00000000 0000", REPLY_END).toHex());
    expect(connection).toMatchObject({ minor: 31, flags: abi.FUSE_WRITEBACK_CACHE, flags2: 0 });
  });

  test("for 7.36 with a second set of flags, if something of it is wished", () => {
    const request = `68000000 ${HEADER} 07000000 24000000 00000200 01000040 01000000 ${UNUSED}`;
    const plain = answers(new Wishing(), [request]);
    expect(plain.connection).toMatchObject({ minor: 36, flags: 0, flags2: 0 });
    const fs = new Wishing({ flags2: abi.FUSE_SECURITY_CTX | abi.FUSE_ALLOW_IDMAP });
    const { connection, reply } = answers(fs, [request]);
    expect(fs.offered).toEqual([0x40000001, 1]);
    expect(connection).toMatchObject({
      flags: abi.FUSE_INIT_EXT,
      flags2: abi.FUSE_SECURITY_CTX,
    });
    const begin = "07000000 24000000 00000200 00000040 4000 3000 00001000 01000000";
    expect(reply).toBe(hex(REPLY, begin, "0001 0000 01000000 00000000 0000", REPLY_END).toHex());
  });

  test("for 7.45 with FUSE passthrough and a time limit for requests", () => {
    const fs = new Wishing({
      flags2: abi.FUSE_PASSTHROUGH,
      maxStackDepth: 2,
      maxBackground: 0x1234,
      congestionThreshold: 0x2345,
      maxReadahead: 4096,
    });
    const request = `68000000 ${HEADER} 07000000 2d000000 00000200 00006040 20040000 ${UNUSED}`;
    const { connection, reply } = answers(fs, [request], { requestTimeout: 0x102 });
    const begin = "07000000 2d000000 00100000 00006040 3412 4523 00001000 01000000";
    expect(reply).toBe(hex(REPLY, begin, "0001 0000 20040000 02000000 0201", REPLY_END).toHex());
    expect(connection.flags2).toBe(abi.FUSE_PASSTHROUGH | abi.FUSE_REQUEST_TIMEOUT);
  });

  test("for a newer kernel with the version that we know", () => {
    const request = `68000000 ${HEADER} 07000000 63000000 00000200 00000000 00000000 ${UNUSED}`;
    const { connection, reply } = answers(new Wishing(), [request]);
    expect(connection.minor).toBe(45);
    expect(reply?.slice(32, 48)).toBe("070000002d000000");
  });

  test("without the fields of what the kernel does not offer", () => {
    const fs = new Wishing({ flags2: abi.FUSE_PASSTHROUGH, maxStackDepth: 2 });
    const request = `68000000 ${HEADER} 07000000 2d000000 00000200 00000040 00000000 ${UNUSED}`;
    const { reply } = answers(fs, [request], { requestTimeout: 60 });
    const begin = "07000000 2d000000 00000200 00000000 4000 3000 00001000 01000000";
    expect(reply).toBe(hex(REPLY, begin, "0001 0000 00000000 00000000 0000", REPLY_END).toHex());
  });

  test("and both can be seen", () => {
    const lines: string[] = [];
    const tracer = new DebugTracer((line) => lines.push(line));
    const request = `68000000 ${HEADER} 07000000 2d000000 00000200 00006040 20000000 ${UNUSED}`;
    answers(new Wishing({ flags2: abi.FUSE_PASSTHROUGH, maxStackDepth: 1 }), [request], { tracer });
    expect(lines).toEqual([
      "> INIT unique=2 nodeid=0 uid=0 gid=0 pid=0 major=7 minor=45 max_readahead=131072 " +
        "flags=FUSE_ABORT_ERROR|FUSE_MAX_PAGES|FUSE_INIT_EXT flags2=FUSE_PASSTHROUGH",
      "< INIT unique=2 major=7 minor=45 max_readahead=131072 " +
        "flags=FUSE_ABORT_ERROR|FUSE_MAX_PAGES|FUSE_INIT_EXT max_background=64 " +
        "congestion_threshold=48 max_write=1048576 time_gran=1 max_pages=256 " +
        "flags2=FUSE_PASSTHROUGH max_stack_depth=1",
    ]);
  });
});

describe("a kernel of another version", () => {
  test("8 is told ours, and asks again", () => {
    const at = device();
    at.send(`68000000 ${HEADER} 08000000 00000000 00000200 00000000 00000000 ${UNUSED}`);
    at.send(`68000000 ${HEADER} 07000000 2d000000 00000200 00000000 00000000 ${UNUSED}`);
    expect(handshake(at.fd, new Wishing(), { requestTimeout: 0 }).minor).toBe(45);
    expect(at.receive()).toBe(hex(REPLY, "07000000 2d000000", "00".repeat(56)).toHex());
    expect(at.receive()?.slice(32, 48)).toBe("070000002d000000");
    expect(at.receive()).toBeUndefined();
  });

  test.each([
    ["6", "06000000 63000000"],
    ["7.26", "07000000 1a000000"],
  ])("%s is refused with EPROTO", (_name, version) => {
    const at = device();
    at.send(`38000000 ${HEADER} ${version} 00000200 00000000`);
    expect(() => handshake(at.fd, new Wishing(), { requestTimeout: 0 })).toThrow(
      "the kernel's FUSE protocol is older than 7.27: Linux 4.18 or newer is needed",
    );
    expect(at.receive()).toBe(hex("10000000 b9ffffff", UNIQUE).toHex());
  });
});

describe("the handshake fails", () => {
  const run = (at: Device) => handshake(at.fd, new Wishing(), { requestTimeout: 0 });

  test.each([
    ["is something else", `28000000 ${HEADER.replace("1a", "26")}`],
    ["lies about its length", `39000000 ${HEADER} 07000000 2d000000 00000200 00000000`],
    ["ends early", `34000000 ${HEADER} 07000000 2d000000 00000200`],
    ["has no header", "28000000 1a000000"],
  ])("when the first request %s", (_name, request) => {
    const at = device();
    at.send(request);
    expect(() => run(at)).toThrow("the kernel's first request on /dev/fuse is not INIT");
    expect(at.receive()).toBeUndefined();
  });

  test("when the device can't be read from or written to", () => {
    const closed = device();
    close(closed.fd);
    expect(() => run(closed)).toThrow(/cannot read from \/dev\/fuse: .*EBADF/);
    const gone = device();
    gone.send(`38000000 ${HEADER} 07000000 1b000000 00000200 00000000`);
    gone.hangUp();
    expect(() => run(gone)).toThrow(/cannot answer INIT: .*EPIPE/);
  });
});

test("what came of the handshake can be told to a person", () => {
  const describe = (flags: number, flags2: number): string =>
    describeConnection({ minor: 45, flags, flags2, maxWrite: 0 } satisfies Connection);
  expect(describe(0, 0)).toBe("FUSE 7.45 with no special features");
  expect(describe(abi.FUSE_POSIX_ACL | abi.FUSE_POSIX_LOCKS, abi.FUSE_PASSTHROUGH)).toBe(
    "FUSE 7.45 with kernel passthrough, POSIX ACLs, shared locks",
  );
});

describe("a channel", () => {
  const getattr = `38000000 03000000 ${UNIQUE} 0100000000000000 ${"00".repeat(16)} ${"00".repeat(16)}`;

  test("reads a request, has it handled, and writes the answer", () => {
    const at = device();
    const channel = new Channel(at.fd, new Wishing(), CONNECTION);
    at.send(getattr);
    at.send(getattr.replace("38000000", "37000000"));
    expect(channel.serveOne()).toBe(SERVED);
    expect(at.receive()).toBe(hex("10000000 daffffff", UNIQUE).toHex()); // ENOSYS
    expect(channel.serveOne()).toBe(SERVED);
    expect(at.receive()).toBe(hex("10000000 eaffffff", UNIQUE).toHex()); // EINVAL
  });

  test("says when there is nothing to do, and when the mount is gone", () => {
    const at = device();
    fcntl(at.fd, F_SETFL, O_NONBLOCK);
    expect(new Channel(at.fd, new Wishing(), CONNECTION).serveOne()).toBe(IDLE);
    const unconnected = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    expect(new Channel(unconnected, new Wishing(), CONNECTION).serveOne()).toBe(GONE); // ENOTCONN
    close(unconnected);
  });

  test("fails when the device does", () => {
    const channel = new Channel(-1, new Wishing(), CONNECTION);
    expect(() => channel.serveOne()).toThrow(/cannot read from \/dev\/fuse: .*EBADF/);
  });
});
