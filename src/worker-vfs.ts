// The mounts of the daemon as a worker serves them: its own view of each, made when the main thread
// has published it (see daemon-vfs.ts).

import { Memory } from "./memory.ts";
import type { OverlayFs, OverlayShare } from "./overlay.ts";
import { PassthroughFs, type PassthroughShare, type ServingThread } from "./passthrough.ts";
import { Vfs, type VfsMount, type VfsState } from "./vfs.ts";
import type { VfsShare } from "./vfs-share.ts";

/** What workers are told: what is mounted where, and how to serve it. */
export interface Published {
  readonly state: VfsState;
  readonly backends: { readonly [mountId: string]: PublishedBackend };
}

export type PublishedBackend = PublishedShare & {
  readonly memory: { readonly address: number; readonly size: number };
};

/** What kind of file system it is, and what its threads share besides the memory. */
export type PublishedShare =
  | { readonly kind: "passthrough"; readonly share: PassthroughShare }
  | { readonly kind: "overlay"; readonly share: OverlayShare };

/** A file system that the daemon serves. */
export type BackendFs = PassthroughFs | OverlayFs;

/** What makes overlays, loaded when there is one: the start of others is to be quick. */
export function overlayModule(): typeof import("./overlay.ts") {
  return require("./overlay.ts");
}

/** A thread's own view of a file system that all share. */
export function makeBackend(
  published: PublishedShare,
  memory: Memory,
  thread: ServingThread,
): BackendFs {
  return published.kind === "overlay"
    ? new (overlayModule().OverlayFs)(memory, published.share, thread)
    : new PassthroughFs(memory, published.share, thread);
}

export class WorkerVfs {
  readonly vfs: Vfs;
  readonly #share: VfsShare;
  readonly #thread: ServingThread;
  readonly #backends = new Map<number, BackendFs>();

  constructor(share: VfsShare, thread: Omit<ServingThread, "relieve">, fixed: boolean) {
    this.#share = share;
    this.#thread = {
      activity: thread.activity,
      credentials: thread.credentials,
      locksChanged: () => thread.locksChanged(),
      relieve: () => [...this.#backends.values()].some((fs) => fs.relieve()),
    };
    this.vfs = new Vfs({ fixed, refresh: () => this.#refresh() });
    this.#refresh();
  }

  #refresh(): void {
    if (!this.#share.isNews) return;
    const { state, backends } = JSON.parse(this.#share.read()) as Published;
    for (const id of this.#backends.keys())
      if (backends[id] === undefined) this.#backends.delete(id);
    this.vfs.adopt(state, (mount) => this.#make(mount, backends[mount.id]!));
  }

  #make({ id }: VfsMount, backend: PublishedBackend): BackendFs {
    const memory = new Memory(backend.memory.address, backend.memory.size);
    const fs = makeBackend(backend, memory, this.#thread);
    this.#backends.set(id, fs);
    return fs;
  }
}
