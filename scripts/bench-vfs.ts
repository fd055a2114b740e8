// What the VFS costs: the same GETATTR requests to a server over a passthrough file system alone,
// and over one that is mounted in a VFS, by turns in one process and without the kernel; and what
// a stat(2) that the kernel asks the daemon about takes on a mount. The VFS's share is the
// difference of the first two in the third.
//
//   bun scripts/bench-vfs.ts [--rounds N] DIRECTORY

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { FUSE_GETATTR, FUSE_LOOKUP, fuse_getattr_in, fuse_in_header } from "../src/abi-fuse.ts";
import { AT_FDCWD, AT_SYMLINK_NOFOLLOW, stat } from "../src/abi-linux.ts";
import { Activity } from "../src/activity.ts";
import type { FileSystem } from "../src/filesystem.ts";
import { cstring, smallMemory } from "../src/memory.ts";
import { Credentials } from "../src/passthrough-credentials.ts";
import { passthroughConfig, PassthroughFs, sharePassthrough } from "../src/passthrough.ts";
import { Server } from "../src/server.ts";
import { makeBuffers } from "../src/session.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import { newfstatat } from "../src/syscall.ts";
import { Vfs } from "../src/vfs.ts";
import { Target } from "./bench-target.ts";

const REQUESTS = 20_000;
const EXECUTABLE = resolve(import.meta.dirname, "../dist/fuse-backend");

function passthrough(source: string): PassthroughFs {
  const layout = new SharedLayout();
  const area = Activity.area(layout);
  const activity = new Activity(createShared(layout), area, -1);
  const { memory, share } = sharePassthrough(passthroughConfig({ source }));
  const credentials = new Credentials();
  const thread = { activity, credentials, locksChanged: () => {}, relieve: () => false };
  return new PassthroughFs(memory, share, thread);
}

/** A server that is asked by bytes in memory. */
class Asked {
  readonly #server: Server;
  readonly #reply: ReturnType<typeof makeBuffers>["reply"];
  readonly #request: ReturnType<typeof makeBuffers>["request"];

  constructor(fs: FileSystem) {
    const { request, reply } = makeBuffers();
    const connection = { minor: 45, flags: 0, flags2: 0, maxWrite: 1 << 20 };
    this.#server = new Server(fs, connection, request, reply);
    this.#request = request;
    this.#reply = reply;
  }

  ask(opcode: number, nodeid: number, body: Uint8Array): number {
    const { memory, base } = this.#request;
    const length = fuse_in_header.sizeof + body.length;
    memory.bytes.fill(0, base, base + fuse_in_header.sizeof);
    memory.view.setUint32(base + fuse_in_header.len, length, true);
    memory.view.setUint32(base + fuse_in_header.opcode, opcode, true);
    memory.view.setBigUint64(base + fuse_in_header.nodeid, BigInt(nodeid), true);
    memory.bytes.set(body, base + fuse_in_header.sizeof);
    return this.#server.handle(length);
  }

  /** The nodeid of an entry of the root. */
  lookup(name: string): number {
    this.ask(FUSE_LOOKUP, 1, new TextEncoder().encode(`${name}\0`));
    return Number(this.#reply.view.getBigUint64(this.#reply.body, true));
  }

  /** Nanoseconds that each of many GETATTR takes. */
  time(nodeid: number): number {
    const body = new Uint8Array(fuse_getattr_in.sizeof);
    const start = Bun.nanoseconds();
    for (let count = 0; count < REQUESTS; count++) this.ask(FUSE_GETATTR, nodeid, body);
    return (Bun.nanoseconds() - start) / REQUESTS;
  }
}

function timeStat(path: string): number {
  const { address } = cstring(path);
  const buffer = smallMemory(stat.sizeof);
  const start = Bun.nanoseconds();
  for (let count = 0; count < REQUESTS; count++)
    newfstatat(AT_FDCWD, address, buffer.address, AT_SYMLINK_NOFOLLOW);
  return (Bun.nanoseconds() - start) / REQUESTS;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;
}

const { values, positionals } = parseArgs({
  options: { rounds: { type: "string", default: "21" } },
  allowPositionals: true,
});
const base = mkdtempSync(join(resolve(positionals[0] ?? "/tmp"), "fuse-backend-vfs-"));
const source = join(base, "src");
mkdirSync(source);
writeFileSync(join(source, "file"), "data");
const command = `'${EXECUTABLE}' passthrough --cache=never {src} {mnt}`;
const spec = { name: "mounted", role: "ours", command, note: "" } as const;
const target = new Target(spec, base, 0, source);
try {
  const alone = new Asked(passthrough(source));
  const vfs = new Vfs();
  vfs.mount(passthrough(source), "/");
  const within = new Asked(vfs);
  const nodes = [alone.lookup("file"), within.lookup("file")] as const;
  await target.start();
  const times: Record<"alone" | "within" | "mounted" | "cost", number[]> = {
    alone: [],
    within: [],
    mounted: [],
    cost: [],
  };
  for (let round = 0; round < Number(values.rounds) + 1; round++) {
    const without = alone.time(nodes[0]);
    const inVfs = within.time(nodes[1]);
    const mounted = timeStat(join(target.path, "file"));
    if (round === 0) continue; // the code is compiled while it runs
    times.alone.push(without);
    times.within.push(inVfs);
    times.mounted.push(mounted);
    times.cost.push((inVfs - without) / mounted);
  }
  const ns = (list: readonly number[]): string => `${median(list).toFixed(0)} ns`;
  console.log(`GETATTR in the server: ${ns(times.alone)} alone, ${ns(times.within)} in a VFS`);
  console.log(`stat(2) on a mount: ${ns(times.mounted)}`);
  console.log(`the VFS's share: ${(100 * median(times.cost)).toFixed(1)} %`);
} finally {
  await target.stop();
  rmSync(base, { recursive: true, force: true });
}
