// A table of inodes over a private directory, as one worker uses it, for tests without a mount.

import { expect } from "bun:test";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { AT_FDCWD, O_CLOEXEC, O_NOFOLLOW, O_PATH, stat } from "../src/abi-linux.ts";
import { cstring, smallMemory, type Memory } from "../src/memory.ts";
import { InodeTable, type InodeOptions } from "../src/passthrough-inodes.ts";
import { ProcFds } from "../src/passthrough-proc.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import { close, fstat, munmap, openat } from "../src/syscall.ts";

const proc = new ProcFds(ProcFds.openDirectory());
/** The struct stat that was asked for last. */
export const statMemory: Memory = smallMemory(stat.sizeof);

export function openPath(path: string): number {
  return openat(AT_FDCWD, cstring(path).address, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
}

/** A table of inodes over a directory of its own. */
export class Fixture implements Disposable {
  readonly directory: string;
  readonly inodes: InodeTable;
  readonly #release: () => void;

  constructor(ringSize: number, options: Partial<InodeOptions> = {}) {
    this.directory = mkdtempSync("/tmp/fuse-backend-inodes-");
    const layout = new SharedLayout();
    const all: InodeOptions = {
      fileHandles: "auto",
      mntid: false,
      useHostIno: false,
      dropsForgotten: false,
      handleKey: null,
      ...options,
    };
    const areas = InodeTable.areas(layout, ringSize);
    const memory = createShared(layout);
    this.#release = () => munmap(memory.address, memory.size);
    this.inodes = new InodeTable(memory, areas, all, proc);
    expect(this.inodes.addRoot(openPath(this.directory))).toBe(0);
  }

  /** The descriptors of the directory and of what is in it, and the paths behind them. */
  get descriptors(): Map<number, string> {
    const found = new Map<number, string>();
    for (const name of readdirSync("/proc/self/fd")) {
      let path: string;
      try {
        path = readlinkSync(`/proc/self/fd/${name}`);
      } catch {
        continue; // Something else has just been closed.
      }
      if (`${path}/`.startsWith(`${this.directory}/`)) found.set(Number(name), path);
    }
    return found;
  }

  /** The descriptors that the table has of files in the directory, and their inode numbers. */
  get cached(): Map<number, bigint> {
    const files = [...this.descriptors].filter(([, path]) => path !== this.directory);
    return new Map(files.map(([fd]) => [fd, inodeNumber(fd)]));
  }

  at(name: string): string {
    return `${this.directory}/${name}`;
  }

  make(...names: string[]): void {
    for (const name of names) writeFileSync(this.at(name), name);
  }

  /** What a LOOKUP does; `ino` stands for the file's inode number. */
  lookup(name: string, ino?: bigint): number {
    const { inodes } = this;
    const { moment } = inodes;
    const fd = openPath(this.at(name));
    if (fd < 0) return fd;
    fstat(fd, statMemory.address);
    if (ino !== undefined) statMemory.view.setBigUint64(stat.st_ino, ino, true);
    const known = inodes.wasKnown ? inodes.recall(statMemory, moment) : 0;
    if (known === 0) return inodes.remember(fd, statMemory);
    close(fd);
    return known;
  }

  /** What a LOOKUP does that would take a descriptor from another inode. */
  identify(name: string): number {
    const { inodes } = this;
    if (!inodes.identifies) return this.lookup(name);
    const result = inodes.identify(AT_FDCWD, cstring(this.at(name)).address, statMemory);
    const known = result > 0 ? inodes.rememberIdentified(statMemory) : result;
    return known === 0 ? this.lookup(name) : known;
  }

  /** Uses an inode. The inode number of what its descriptor leads to, or -errno. */
  use(nodeid: number): bigint | number {
    const fd = this.inodes.acquire(nodeid);
    const result = fd < 0 ? fd : inodeNumber(fd);
    this.inodes.release(nodeid);
    return result;
  }

  /** What an UNLINK does. */
  unlink(name: string): void {
    const held = this.inodes.hasEvicted ? this.#rescue(name) : 0;
    unlinkSync(this.at(name));
    this.inodes.release(held);
  }

  rename(from: string, to: string): void {
    const held = this.inodes.hasEvicted && existsSync(this.at(to)) ? this.#rescue(to) : 0;
    renameSync(this.at(from), this.at(to));
    this.inodes.release(held);
  }

  #rescue(name: string): number {
    const { inodes } = this;
    const { moment } = inodes;
    const fd = openPath(this.at(name));
    fstat(fd, statMemory.address);
    const rescued = inodes.tryRescue(statMemory, moment);
    if (rescued < 0) return inodes.rescue(fd, statMemory);
    close(fd);
    return rescued;
  }

  [Symbol.dispose](): void {
    for (const fd of this.descriptors.keys()) close(fd);
    this.#release();
    rmSync(this.directory, { recursive: true });
  }
}

/** Of the file behind a descriptor. */
export function inodeNumber(fd: number): bigint {
  fstat(fd, statMemory.address);
  return statMemory.view.getBigUint64(stat.st_ino, true);
}

export const ino = (path: string): bigint => statSync(path, { bigint: true }).ino;

/** Whether files can be opened by file handle where the tests run. */
export const hasHandles = ((): boolean => {
  using fixture = new Fixture(3);
  return fixture.inodes.hasFileHandles;
})();
if (!hasHandles)
  console.warn("some tests are skipped: /tmp has no file handles that can be opened");
