// What the VFS costs, for scripts/bench.ts: the same GETATTR requests to a server over one file
// system alone, and over the same that is mounted in a VFS, by turns in one process and without the
// kernel; and what a stat(2) that the kernel asks the daemon about takes on a mount. The share of
// the VFS is the difference of the first two in the third, all of the same round.

import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { FUSE_GETATTR, FUSE_LOOKUP, fuse_getattr_in, fuse_in_header } from "../src/abi-fuse.ts";
import { AT_FDCWD, AT_SYMLINK_NOFOLLOW, stat } from "../src/abi-linux.ts";
import type { FileSystem } from "../src/filesystem.ts";
import { cstring, smallMemory } from "../src/memory.ts";
import { Server } from "../src/server.ts";
import { makeBuffers } from "../src/session.ts";
import { newfstatat } from "../src/syscall.ts";
import { Vfs } from "../src/vfs.ts";
import { passthroughFs } from "../test/support-passthrough.ts";
import { median } from "./bench-statistics.ts";
import { shellQuote, Target } from "./bench-target.ts";

const REQUESTS = 20_000;
const EXECUTABLE = resolve(import.meta.dirname, "../dist/fuse-backend");

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

/** What was measured, round by round: nanoseconds, and the VFS's share. */
export interface VfsCost {
  readonly alone: readonly number[];
  readonly within: readonly number[];
  readonly mounted: readonly number[];
  readonly cost: readonly number[];
}

/**
 * Measures below `directory`, which is the caller's to remove; `hold` is given the mount, to be
 * stopped however this ends.
 */
export async function measureVfs(
  directory: string,
  rounds: number,
  hold: (target: Target) => void,
): Promise<VfsCost> {
  const source = join(directory, "src");
  mkdirSync(source);
  writeFileSync(join(source, "file"), "data");
  const command = `${shellQuote(EXECUTABLE)} passthrough --cache=never {src} {mnt}`;
  const spec = { name: "mounted", role: "ours", command, note: "" } as const;
  const target = new Target(spec, directory, 0, source);
  hold(target);
  const alone = new Asked(passthroughFs(source));
  const vfs = new Vfs();
  vfs.mount(passthroughFs(source), "/");
  const within = new Asked(vfs);
  const nodes = [alone.lookup("file"), within.lookup("file")] as const;
  await target.start();
  const measured = Array.from({ length: rounds + 1 }, () => {
    const times = [alone.time(nodes[0]), within.time(nodes[1])] as const;
    return [...times, timeStat(join(target.path, "file"))] as const;
  }).slice(1); // The code is compiled while it runs.
  return {
    alone: measured.map(([time]) => time),
    within: measured.map(([, time]) => time),
    mounted: measured.map(([, , time]) => time),
    cost: measured.map(([without, inVfs, mounted]) => (inVfs - without) / mounted),
  };
}

/** For a person. */
export function describeVfsCost({ alone, within, mounted, cost }: VfsCost): string {
  const ns = (list: readonly number[]): string => `${median(list).toFixed(0)} ns`;
  return [
    `GETATTR in the server: ${ns(alone)} alone, ${ns(within)} in a VFS`,
    `stat(2) on a mount: ${ns(mounted)}`,
    `the VFS's share: ${(100 * median(cost)).toFixed(1)} %`,
  ].join("\n");
}
