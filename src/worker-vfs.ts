// The mounts of the daemon as a worker serves them: its own view of each, made when the main thread
// has published it (see daemon-vfs.ts).

import { Memory } from "./memory.ts";
import { PassthroughFs, type PassthroughShare, type ServingThread } from "./passthrough.ts";
import { Vfs, type VfsMount, type VfsState } from "./vfs.ts";
import type { VfsShare } from "./vfs-share.ts";

/** What workers are told: what is mounted where, and how to serve it. */
export interface Published {
  readonly state: VfsState;
  readonly backends: { readonly [mountId: string]: PublishedBackend };
}

export interface PublishedBackend {
  readonly share: PassthroughShare;
  readonly memory: { readonly address: number; readonly size: number };
}

export class WorkerVfs {
  readonly vfs: Vfs;
  readonly #share: VfsShare;
  readonly #thread: ServingThread;
  readonly #backends = new Map<number, PassthroughFs>();

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

  #make({ id }: VfsMount, { share, memory }: PublishedBackend): PassthroughFs {
    const fs = new PassthroughFs(new Memory(memory.address, memory.size), share, this.#thread);
    this.#backends.set(id, fs);
    return fs;
  }
}
