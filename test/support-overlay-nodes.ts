// A table of an overlay's nodes as one worker uses it, for tests without layers: host inodes are
// only numbers ("slots"), whose lookups are counted.

import { S_IFDIR, S_IFREG } from "../src/abi-linux.ts";
import { Found } from "../src/overlay-found.ts";
import { EntryName } from "../src/overlay-name.ts";
import { NodeTable } from "../src/overlay-nodes.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";
import { munmap } from "../src/syscall.ts";

export const ROOT_SLOT = 1;

/** What a look at the layers finds. */
export interface Finding {
  readonly upper?: number;
  readonly lower?: readonly number[];
  /** The slot that it is the only node of; the topmost if it is not given, 0 for none. */
  readonly key?: number;
  readonly isDirectory?: boolean;
}

export class NodesFixture implements Disposable {
  readonly nodes: NodeTable;
  /** How many lookups of each slot are held. */
  readonly slots = new Map<number, number>();
  readonly #release: () => void;
  readonly #found = new Found();

  constructor(retains = true) {
    const layout = new SharedLayout();
    const areas = NodeTable.areas(layout);
    const memory = createShared(layout);
    this.#release = () => munmap(memory.address, memory.size);
    this.nodes = new NodeTable(memory, areas, retains, (slot) => this.#forget(slot));
    this.nodes.addRoot(this.find({ upper: ROOT_SLOT, isDirectory: true }));
  }

  /** Fills a `Found`, and takes a lookup of each slot. */
  find({ upper = 0, lower = [], key, isDirectory = false }: Finding): Found {
    const found = this.#found;
    found.clear();
    found.upper = upper;
    for (const [layer, slot] of lower.entries()) found.add(slot, layer);
    found.mode = (isDirectory ? S_IFDIR : S_IFREG) | 0o644;
    found.key = key ?? (upper === 0 ? (lower[0] ?? 0) : upper);
    for (const slot of [upper, ...lower])
      if (slot !== 0) this.slots.set(slot, (this.slots.get(slot) ?? 0) + 1);
    return found;
  }

  #forget(slot: number): void {
    const left = (this.slots.get(slot) ?? 0) - 1;
    if (left < 0) throw new Error(`slot ${slot} is forgotten more often than looked up`);
    if (left === 0) this.slots.delete(slot);
    else this.slots.set(slot, left);
  }

  /** What a LOOKUP does. */
  lookup(parent: number, name: string, finding: Finding): number {
    const { nodes } = this;
    const entry = entryName(name);
    const known = nodes.child(parent, entry);
    if (known !== 0) return known;
    return nodes.add(parent, nodes.version(parent), entry, this.find(finding));
  }

  [Symbol.dispose](): void {
    this.#release();
  }
}

/** A name whose characters are bytes. */
export function entryName(text: string): EntryName {
  const name = new EntryName();
  if (!name.setText(text)) throw new Error(`too long: ${text}`);
  return name;
}
