// What all operations of the overlay rest on: the shared state, the scratch memory of this worker,
// and how a node becomes an entry or an attribute of a reply.
//
// The operations are in overlay-probe.ts, overlay-lookup.ts, overlay-work.ts, overlay-index.ts,
// overlay-copy-up.ts, overlay-protection.ts, overlay-list.ts, overlay-make.ts, overlay-remove.ts,
// overlay-rename.ts, overlay-attributes.ts, overlay-files.ts, overlay-directories.ts and
// overlay-revive.ts, each a class that extends the one before; overlay.ts is the whole.

import { FUSE_ROOT_ID } from "./abi-fuse.ts";
import { O_DSYNC, S_IFDIR, S_IFMT, S_IFREG, stat } from "./abi-linux.ts";
import { FileSystem } from "./filesystem.ts";
import { FILE_HANDLE_MAX } from "./limits.ts";
import { smallMemory, type Memory } from "./memory.ts";
import type { OverlayConfig } from "./overlay-config.ts";
import { Found } from "./overlay-found.ts";
import { NodeIdentities } from "./overlay-lasting.ts";
import { LayerFiles } from "./overlay-layers.ts";
import type { FilterAreas } from "./overlay-name-filter.ts";
import { EntryName } from "./overlay-name.ts";
import { NODE_INDEXED, NODE_METACOPY } from "./overlay-node-record.ts";
import { NodeTable, type NodeAreas } from "./overlay-nodes.ts";
import { Origins, type HandleLayer } from "./overlay-origin.ts";
import { OverriddenFiles, Overrides, UPPER_LAYER, type Override } from "./overlay-override.ts";
import { OverlayXattrs } from "./overlay-xattrs.ts";
import type { PassthroughShare, ServingThread } from "./passthrough.ts";
import { takeHandle } from "./passthrough-devices.ts";
import type { AttrOut, AttrReply, EntryOut } from "./reply.ts";
import { fstat } from "./syscall.ts";

/** A lower layer. */
export interface LayerShare extends HandleLayer {
  /** The slot of its root. */
  readonly root: number;
}

/** What a worker is given to serve the same overlay as the others. Plain data. */
export interface OverlayShare {
  readonly config: OverlayConfig;
  readonly files: PassthroughShare;
  readonly nodes: NodeAreas;
  readonly filters: FilterAreas;
  /** The lower layers from the top, then those of data only. */
  readonly layers: readonly LayerShare[];
  /** Of the directory where things are made ready; -1 without an upper layer. */
  readonly workFd: number;
  /** Of the index; 0 if there is none. */
  readonly indexSlot: number;
  /** Whether whiteouts can be devices; otherwise they are files `.wh.NAME`. */
  readonly makesDevices: boolean;
  /** Whether all files can be opened by handle, so that those which are forgotten can be kept. */
  readonly retains: boolean;
  /** Whether a layer lies on a file system that is itself stacked on others. */
  readonly isStacked: boolean;
  /** Whether the upper layer keeps the overlay's own attributes. */
  readonly hasXattrs: boolean;
  /** With `nfsExport`: for nodeids that a later daemon knows, in hexadecimal. Otherwise null. */
  readonly handleKey: string | null;
  /**
   * With `xattrPermissions`: in which attribute owner and mode of files are, in the upper layer and
   * then in the lower ones. Otherwise undefined.
   */
  readonly overrides: readonly Override[] | undefined;
}

// Scratch memory of the thread, for all overlays that it serves.
const statScratch = smallMemory(stat.sizeof);
const handle = smallMemory(8 + FILE_HANDLE_MAX);

export abstract class OverlayBase extends FileSystem {
  protected readonly config: OverlayConfig;
  protected readonly share: OverlayShare;
  protected readonly files: LayerFiles;
  protected readonly nodes: NodeTable;
  /** With `nfsExport`. */
  protected readonly identities: NodeIdentities | undefined;
  protected readonly xattrs: OverlayXattrs;
  protected readonly origins: Origins;
  /** Undefined where owners and modes are in the inodes of all layers. */
  protected readonly overrides: Overrides | undefined;
  protected readonly thread: ServingThread;
  protected readonly found = new Found();
  /** The names of the request at hand. */
  protected readonly name = new EntryName();
  protected readonly newName = new EntryName();
  protected readonly stat: Memory = statScratch;

  /** To be made on the thread that serves with it. */
  constructor(memory: Memory, share: OverlayShare, thread: ServingThread) {
    super();
    this.share = share;
    this.config = share.config;
    this.thread = thread;
    const { overrides } = share;
    const owner = (slot: number): number => this.nodes.owner(slot);
    this.files =
      overrides === undefined
        ? new LayerFiles(memory, share.files, thread, owner)
        : new OverriddenFiles(memory, share.files, thread, owner, overrides);
    this.files.syncs = this.config.fsync;
    if (overrides !== undefined) this.overrides = new Overrides(this.files.proc, overrides);
    const { nodes: areas, handleKey } = share;
    if (handleKey !== null)
      this.identities = new NodeIdentities(memory, areas.identities, handleKey);
    const forgetSlot = (slot: number): void => this.files.forgetSlot(slot);
    this.nodes = new NodeTable(memory, areas, share.retains, forgetSlot, this.identities);
    this.xattrs = new OverlayXattrs(
      this.files.proc,
      share.config.userxattr,
      overrides !== undefined,
    );
    this.origins = new Origins(share.layers);
  }

  /**
   * The inode number of the file behind a slot, whose struct stat is in `stat`, unique over the
   * mount, into `found`.
   */
  protected foundIno(slot: number, from: Memory): void {
    this.found.inoLow = from.i32[stat.st_ino >> 2]!;
    this.found.inoHigh = from.i32[(stat.st_ino >> 2) + 1]! ^ this.files.inodes.inoOffset(slot);
  }

  /** What was found is about to become a node: a later daemon has to know which one. */
  protected identifyFound(): void {
    const { identities, found } = this;
    if (identities === undefined) return;
    const { inodes } = this.files;
    const isLower = found.count > 0 && (found.upper === 0 || (found.flags & NODE_INDEXED) !== 0);
    const slot = isLower ? found.slots[0]! : found.upper;
    found.identity = slot;
    const fd = inodes.acquire(slot);
    found.isTagged =
      fd >= 0 &&
      inodes.numberOf(slot) >= 0 &&
      takeHandle(fd, handle) &&
      identities.make(handle, isLower ? "lower" : "upper");
    inodes.release(slot);
  }

  /** Where the contents of a file are. */
  protected dataSlot(node: number): number {
    const { nodes } = this;
    const upper = nodes.upper(node);
    if (upper !== 0 && !(nodes.flags(node) & NODE_METACOPY)) return upper;
    let record = nodes.stack(node);
    if (record === 0) return upper;
    for (let below = nodes.below(record); below !== 0; below = nodes.below(record)) record = below;
    return nodes.slot(record);
  }

  /**
   * Fills `entry` with an acquired or looked-up node. `statSlot`: the slot whose struct stat is in
   * `stat` already, 0 if none. Returns 0 or -errno.
   */
  protected enter(node: number, entry: EntryOut, statSlot = 0): number {
    const isThere = statSlot !== 0 && statSlot === this.nodes.top(node);
    const result = isThere ? 0 : this.statNode(node);
    if (result < 0) return result;
    entry.nodeid = node;
    entry.generation = this.generationOf(node);
    entry.entryTimeout = this.config.timeout;
    entry.attrTimeout = this.attrTimeout(node);
    this.#show(node, entry.attr);
    return 0;
  }

  /** What tells a node from others that have had its nodeid. */
  protected generationOf(node: number): number {
    const { identities, nodes } = this;
    return identities !== undefined && identities.tag(node) !== 0
      ? identities.generation(node)
      : nodes.generation(node);
  }

  /** Fills `out` with the attributes of an acquired node. Returns 0 or -errno. */
  protected showAttr(node: number, out: AttrReply): number {
    const result = this.statNode(node);
    if (result < 0) return result;
    out.attrTimeout = this.attrTimeout(node);
    this.#show(node, out.attr);
    return 0;
  }

  /** Whether it has a part in a lower layer and one in another. */
  protected isMerged(node: number): boolean {
    const { nodes } = this;
    const stack = nodes.stack(node);
    return stack !== 0 && (nodes.upper(node) !== 0 || nodes.below(stack) !== 0);
  }

  /** Fills `stat` with what its topmost file is. Returns 0 or -errno. */
  protected statNode(node: number): number {
    const { inodes } = this.files;
    const slot = this.nodes.top(node);
    const fd = inodes.acquire(slot);
    const result = fd < 0 ? fd : fstat(fd, this.stat.address);
    if (result >= 0) this.overrides?.show(fd, this.layerOf(node, slot), this.stat);
    inodes.release(slot);
    return result;
  }

  /** The number of the layer that the node's topmost file, which is `slot`, is in. */
  protected layerOf(node: number, slot: number): number {
    const { nodes } = this;
    return slot === nodes.upper(node) ? UPPER_LAYER : nodes.layer(nodes.stack(node));
  }

  /** What is in `stat`, as it is to be seen. */
  #show(node: number, attr: AttrOut): void {
    const { stat: memory, nodes } = this;
    memory.i32[stat.st_ino >> 2] = nodes.inoLow(node);
    memory.i32[(stat.st_ino >> 2) + 1] = nodes.inoHigh(node);
    attr.copyStat(memory);
    attr.nlink = this.linksOf(node, memory.view.getUint32(stat.st_nlink, true));
    if (nodes.flags(node) & NODE_METACOPY) attr.blocks = this.dataBlocks(node);
  }

  /** How many links are shown of a node whose topmost host inode has `links`. */
  protected linksOf(node: number, links: number): number {
    const { nodes } = this;
    if (this.#showsOneLink(node)) return 1;
    const isIndexed = (nodes.flags(node) & NODE_INDEXED) !== 0 && nodes.upper(node) !== 0;
    return isIndexed ? links + nodes.links(node) : links;
  }

  /** Nobody counts the directories in a merged one; the kernel's overlayfs says 1 too. */
  #showsOneLink(node: number): boolean {
    return this.nodes.type(node) === S_IFDIR && (this.config.staticNlink || this.isMerged(node));
  }

  /** A file of which only the attributes were copied up takes the space of its data. */
  protected dataBlocks(node: number): number {
    const { view, address } = this.stat;
    const slot = this.dataSlot(node);
    const fd = this.files.inodes.acquire(slot);
    const isKnown = fd >= 0 && fstat(fd, address) >= 0;
    this.files.inodes.release(slot);
    return isKnown ? view.getUint32(stat.st_blocks, true) : 0;
  }

  /** What the kernel writes by itself it synchronises as the caller has asked for. */
  protected mayOpenBacked(flags: number): boolean {
    return this.config.fsync || !(flags & O_DSYNC);
  }

  /** How long the kernel may keep the attributes of a node, in seconds. */
  protected attrTimeout(node: number): number {
    if (this.nodes.type(node) !== S_IFREG) return this.config.timeout;
    const upper = this.nodes.upper(node);
    return upper !== 0 && this.files.inodes.isMappable(upper) ? 0 : this.config.timeout;
  }

  /** The file type in `stat`. */
  protected get statType(): number {
    return this.stat.view.getUint32(stat.st_mode, true) & S_IFMT;
  }

  protected isRoot(node: number): boolean {
    return node === FUSE_ROOT_ID;
  }
}
