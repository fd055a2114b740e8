// What is mounted where in a VFS (vfs.ts), and whose a request is.
//
// A node's number says whose it is: above 2**32 the number of the mount, below what the file system
// itself calls it. Handles are only used together with a node, so they are passed on as they are.
// Inode numbers get the mount's place among the others in their upper 8 bits, so that no two files
// share one as long as those of the file systems are below 2**56. All this is done where answers
// are written (translation.ts), and so is the mapping of owners.
//
// Mounts come and go while requests are served. What is known of an unmounted file system answers
// with EIO, until the kernel has let go of it; its numbers are not used again.

import {
  FUSE_ALLOW_IDMAP,
  FUSE_ATOMIC_O_TRUNC,
  FUSE_AUTO_INVAL_DATA,
  FUSE_DONT_MASK,
  FUSE_HANDLE_KILLPRIV,
  FUSE_HANDLE_KILLPRIV_V2,
  FUSE_NO_OPENDIR_SUPPORT,
  FUSE_NO_OPEN_SUPPORT,
  FUSE_POSIX_LOCKS,
  FUSE_PASSTHROUGH,
  FUSE_ROOT_ID,
  FUSE_WRITEBACK_CACHE,
  fuse_attr,
  fuse_attr_out,
} from "./abi-fuse.ts";
import { EIO, ENOSYS, EOVERFLOW } from "./errno.ts";
import { FileSystem, NO_HANDLE, type Connection, type Context, type Wishes } from "./filesystem.ts";
import { composeIdMaps, IdMap, type IdMapOptions } from "./id-map.ts";
import {
  CONGESTION_THRESHOLD,
  MAX_BACKGROUND,
  MOUNT_IDS_MAX,
  MOUNT_SLOTS,
  MOUNTED_NODEID_MAX,
  MOUNTS_MAX,
  PSEUDO_TIMEOUT,
} from "./limits.ts";
import { smallMemory, type Memory } from "./memory.ts";
import type { Notifier } from "./notify.ts";
import { PseudoFs, type Covers, type PseudoDirectory } from "./pseudo-fs.ts";
import { AttrReply, type EntryOut } from "./reply.ts";
import { copyU64 } from "./request.ts";
import { Translation } from "./translation.ts";
import { pathComponents, VfsError } from "./vfs-path.ts";
import { refusing } from "./vfs-refusing.ts";

export interface VfsOptions {
  /** Of every mount, on top of its own. */
  readonly ids?: IdMapOptions | undefined;
  /**
   * Files are used without OPEN and RELEASE, directories without OPENDIR and RELEASEDIR: all file
   * systems must be able to. The default is false.
   */
  readonly noOpen?: boolean;
  readonly noOpendir?: boolean;
  /** The kernel does not collect writes, even if all want it to. The default is false. */
  readonly noWriteback?: boolean;
  /** Directories look empty, though their entries can be looked up. The default is false. */
  readonly noReaddir?: boolean;
  /** Nothing may change a file's size. The default is false. */
  readonly sealSize?: boolean;
  /** False if set-user-id bits are not to be cleared in the server. The default is true. */
  readonly killprivV2?: boolean;
  /** What to ask the kernel for while nothing is mounted yet. */
  readonly wishes?: ((wishes: Wishes, offered: number, offered2: number) => void) | undefined;
  /**
   * The one file system, mounted at `/`, stays the only one: then its nodeids and inode numbers are
   * shown as they are, and what it does not know (ENOSYS) is told to the kernel, which does not ask
   * again.
   */
  readonly fixed?: boolean;
  /** Called before each request, for a thread that may have to `adopt` what another one mounted. */
  readonly refresh?: (() => void) | undefined;
}

/** One mount as plain data. */
export interface VfsMount {
  /** Below MOUNT_IDS_MAX; no two mounts ever have the same. */
  readonly id: number;
  /** Among those that are mounted, from 1 to MOUNTS_MAX: marks its inode numbers. */
  readonly place: number;
  /** The directory of the tree that it covers. */
  readonly node: number;
  /** How owners are mapped: the mount's own map and the one of all. */
  readonly ids: IdMapOptions | undefined;
}

/** What is mounted where, as plain data, for other threads that serve the same. */
export interface VfsState {
  readonly directories: readonly PseudoDirectory[];
  /** In the order in which they were mounted. */
  readonly mounts: readonly VfsMount[];
  /** Of the last mount that was made, even if it is gone. */
  readonly lastId: number;
}

export interface Served {
  readonly mount: VfsMount;
  readonly fs: FileSystem;
  readonly translation: Translation;
  readonly ids: IdMap | undefined;
  /** Whether the tree goes on below what is mounted: names there come before those of `fs`. */
  hasBelow: boolean;
}

/**
 * What a file system has to do its part for, if it was agreed on with the kernel: without that,
 * what is written, or who may do what, is not as it should be.
 */
const DUTIES: readonly (readonly [flag: number, name: string])[] = [
  [FUSE_ATOMIC_O_TRUNC, "truncating in OPEN"],
  [FUSE_DONT_MASK, "applying the umask"],
  [FUSE_WRITEBACK_CACHE, "the writeback cache"],
  [FUSE_POSIX_LOCKS, "locks (--no-locks at the start leaves them to the kernel)"],
  [FUSE_HANDLE_KILLPRIV, "clearing set-user-id bits"],
  [FUSE_HANDLE_KILLPRIV_V2, "clearing set-user-id bits when asked to"],
];

/** In place of a mount that is there no more. */
const gone = serve({ id: -1, place: 0, node: 0, ids: undefined }, refusing(EIO));
/** In place of the mount whose caller has no id inside. */
export const overflowing = serve(
  { id: -1, place: 0, node: 0, ids: undefined },
  refusing(EOVERFLOW),
);
// Scratch memory of the thread, for all that it serves.
/** Attributes of a root, as they are shown. */
const attrScratch = smallMemory(fuse_attr_out.sizeof);

function serve(mount: VfsMount, fs: FileSystem, isOnly = false): Served {
  const translation = new Translation();
  const map = mount.ids === undefined ? undefined : new IdMap(mount.ids);
  translation.ids = map;
  if (mount.id > 0 && !isOnly) {
    translation.nodeBase = mount.id * MOUNTED_NODEID_MAX;
    translation.rootNode =
      mount.node === FUSE_ROOT_ID ? FUSE_ROOT_ID : translation.nodeBase + FUSE_ROOT_ID;
    translation.inoMask = mount.place << 24;
  }
  if (isOnly) translation.nodes = fs.shownNodes;
  return { mount, fs, translation, ids: map, hasBelow: false };
}

export abstract class VfsMounts extends FileSystem implements Covers {
  protected readonly options: VfsOptions;
  protected readonly pseudo = new PseudoFs(this);
  protected readonly tree = serve({ id: 0, place: 0, node: 0, ids: undefined }, this.pseudo);
  /** By the mount's id modulo MOUNT_SLOTS; the tree is the first. */
  readonly #slots: Served[] = Array.from({ length: MOUNT_SLOTS }, () => gone);
  /** All mounts in their order, and what each directory of the tree is covered by on top. */
  protected mounts: readonly Served[] = [];
  readonly #tops = new Map<number, Served>();
  #root: Served = this.tree;
  #lastId = 0;
  /** What wishes begin from. */
  #first: Wishes = {
    flags: 0,
    flags2: 0,
    maxStackDepth: 0,
    requestTimeout: 0,
    maxBackground: MAX_BACKGROUND,
    congestionThreshold: CONGESTION_THRESHOLD,
    maxReadahead: 0,
  };
  #connection: Connection | undefined;
  /** Whether the kernel was told that it need not open files, and directories. */
  protected noOpen = false;
  protected noOpendir = false;
  readonly #refresh: (() => void) | undefined;
  #device = -1;
  /** Beside the mount that `route` found: the node as its file system calls it. */
  protected node = 0;
  readonly #shown = new Translation();
  readonly #rootAttr = new AttrReply(attrScratch.view, this.#shown);

  constructor(options: VfsOptions = {}) {
    super();
    this.options = options;
    this.#refresh = options.refresh;
    this.#slots[0] = this.tree;
  }

  // --- Mounting ---

  /**
   * Mounts `fs` at a path, over what is mounted there before. Missing directories of the tree are
   * made. Returns the number of the mount. The kernel has to be told by `invalidate`.
   *
   * Once the connection stands, `fs` is asked for its wishes out of what was agreed on, and told of
   * it, before it is mounted. Throws VfsError, also if something was agreed on that it would have
   * to do its part for and does not wish for; what `fs` throws itself is passed on. Then nothing
   * has changed.
   */
  mount(fs: FileSystem, path: string, ids?: IdMapOptions): number {
    const components = pathComponents(path);
    if (this.mounts.length >= MOUNTS_MAX)
      throw new VfsError(`cannot mount at ${path}: there are ${MOUNTS_MAX} mounts already`);
    const composed = composeIdMaps(ids, this.options.ids); // throws before anything has changed
    this.agree(fs, path, composed);
    const id = this.#freeId();
    const node = this.pseudo.ensure(components);
    try {
      this.#begin({ id, place: this.#freePlace(id), node, ids: composed }, fs);
    } catch (error) {
      this.#prune();
      throw error;
    }
    this.#arrange();
    return id;
  }

  /**
   * Asks `fs` for its wishes out of what was agreed on, if the connection stands, as `mount` does.
   * Throws VfsError if it could not be mounted with that.
   */
  agree(fs: FileSystem, path: string, ids?: IdMapOptions): void {
    if (this.#connection === undefined) return;
    const { flags, flags2 } = this.#connection;
    const own = { ...this.#first };
    fs.init(own, flags, flags2);
    if (ids !== undefined && flags2 & FUSE_ALLOW_IDMAP)
      throw new VfsError(
        `cannot mount at ${path}: its ids can't be mapped, since no mount had that from the ` +
          "beginning and the kernel does not say who the caller is",
      );
    const wrong = DUTIES.filter(([flag]) => (flags & ~own.flags & flag) !== 0);
    if (wrong.length > 0)
      throw new VfsError(
        `cannot mount at ${path}: its file system does not know of what was agreed on with the ` +
          `kernel before: ${wrong.map(([, name]) => name).join(", ")}`,
      );
  }

  #freeId(): number {
    let id = this.#lastId + 1;
    while (id % MOUNT_SLOTS === 0 || this.#slots[id % MOUNT_SLOTS] !== gone) id++;
    if (id >= MOUNT_IDS_MAX)
      throw new VfsError(`no more can be mounted: ${MOUNT_IDS_MAX} mounts have come and gone`);
    this.#lastId = id;
    return id;
  }

  /** One that is not taken, and was not a moment ago. */
  #freePlace(id: number): number {
    const taken = new Set(this.mounts.map(({ mount }) => mount.place));
    let place = (id - 1) % MOUNTS_MAX;
    while (taken.has(place + 1)) place = (place + 1) % MOUNTS_MAX;
    return place + 1;
  }

  #begin(mount: VfsMount, fs: FileSystem): void {
    const served = serve(mount, fs, this.options.fixed === true);
    served.translation.rootGeneration = this.pseudo.generationOf(mount.node);
    if (this.#connection !== undefined) this.#connect(served, this.#connection);
    this.#slots[mount.id % MOUNT_SLOTS] = served;
    this.mounts = [...this.mounts, served];
  }

  #connect({ fs, translation }: Served, connection: Connection): void {
    fs.connected({ ...connection, translation }, this.#device);
  }

  /**
   * Takes off what is mounted at a path, the last of several; what it covered is seen again.
   * Returns its file system, which gets no more requests. Throws VfsError if nothing is mounted
   * there.
   */
  umount(path: string): FileSystem {
    const top = this.#top(path);
    if (top === undefined) throw new VfsError(`nothing is mounted at ${path}`);
    this.#end(top);
    this.#prune();
    this.#arrange();
    return top.fs;
  }

  /** Removes directories of the tree that lead nowhere. */
  #prune(): void {
    this.pseudo.prune((nodeid) => this.mounts.some(({ mount }) => mount.node === nodeid));
  }

  #end(served: Served): void {
    this.#slots[served.mount.id % MOUNT_SLOTS] = gone;
    this.mounts = this.mounts.filter((each) => each !== served);
  }

  #top(path: string): Served | undefined {
    return this.#tops.get(this.pseudo.find(pathComponents(path)));
  }

  /** The file system that is seen at a path where something is mounted. */
  rootfs(path: string): FileSystem | undefined {
    return this.#top(path)?.fs;
  }

  /** The number of the mount that is seen at a path; undefined where nothing is mounted. */
  mountId(path: string): number | undefined {
    return this.#top(path)?.mount.id;
  }

  /** What is seen where, after mounts have changed. */
  #arrange(): void {
    this.#tops.clear();
    for (const served of this.mounts) this.#tops.set(served.mount.node, served);
    for (const served of this.mounts)
      served.hasBelow = this.pseudo.children(served.mount.node).length > 0;
    this.#root = this.#tops.get(FUSE_ROOT_ID) ?? this.tree;
  }

  get state(): VfsState {
    const mounts = this.mounts.map(({ mount }) => mount);
    return { directories: this.pseudo.directories, mounts, lastId: this.#lastId };
  }

  /** Serves what another thread mounted; `make` gives the file system of a mount that is new. */
  adopt(state: VfsState, make: (mount: VfsMount) => FileSystem): void {
    this.#lastId = Math.max(this.#lastId, state.lastId);
    this.pseudo.directories = state.directories;
    const stay = new Set(state.mounts.map(({ id }) => id));
    for (const served of this.mounts) if (!stay.has(served.mount.id)) this.#end(served);
    const known = new Set(this.mounts.map(({ mount }) => mount.id));
    for (const mount of state.mounts) if (!known.has(mount.id)) this.#begin(mount, make(mount));
    this.#arrange();
  }

  /**
   * Tells the kernel that what is seen at `path` has changed. Returns 0 or -errno. Kernels before
   * 6.16 go on with what they know of the root itself until it expires.
   */
  invalidate(notifier: Notifier, path: string): number {
    const components = pathComponents(path);
    const epoch = notifier.incEpoch();
    if (components.length === 0) return notifier.invalInode(FUSE_ROOT_ID, -1);
    let result = 0;
    // Directories of the tree that lead there may have come or gone with it.
    for (const [depth, name] of components.entries()) {
      const parent = this.pseudo.find(components.slice(0, depth));
      if (parent === 0) break;
      const shown = this.#tops.get(parent)?.translation.rootNode ?? parent;
      result = notifier.invalEntry(shown, name, depth < components.length - 1);
    }
    return epoch === 0 ? 0 : result;
  }

  // --- Finding whose a request is ---

  /** To be called first for each request. */
  protected refresh(): void {
    if (this.#refresh !== undefined) this.#refresh();
  }

  /** The mount that a node is of, with the node's number in it in `node`. */
  protected find(nodeid: number): Served {
    this.refresh();
    this.node = nodeid >>> 0;
    if (nodeid < MOUNTED_NODEID_MAX)
      return nodeid === FUSE_ROOT_ID || this.options.fixed === true ? this.#root : this.tree;
    const { nodes } = this.#root.translation;
    if (nodes !== undefined) {
      this.node = nodes.known(nodeid);
      return this.#root;
    }
    const id = Math.floor(nodeid / MOUNTED_NODEID_MAX);
    const served = this.#slots[id % MOUNT_SLOTS]!;
    return served.mount.id === id ? served : gone;
  }

  /** The same for a request: its answer will be shown as that mount's. */
  protected route(context: Context, nodeid: number): Served {
    const served = this.find(nodeid);
    context.translation.become(served.translation);
    return served;
  }

  /** The same for a request that makes something, which belongs to the caller. */
  protected routeNew(context: Context, nodeid: number): Served {
    const served = this.route(context, nodeid);
    const { ids } = served;
    if (ids === undefined) return served;
    const uid = ids.uidToInternal(context.uid);
    const gid = ids.gidToInternal(context.gid);
    if (uid < 0 || gid < 0) return overflowing;
    context.uid = uid;
    context.gid = gid;
    context.extensions.mapGroups((group) => ids.gidToInternal(group));
    return served;
  }

  /** What a file system does not know is not told to the kernel if others know it. */
  protected known(result: number, otherwise: number): number {
    return result === -ENOSYS && this.options.fixed !== true ? otherwise : result;
  }

  // --- The connection ---

  override init(wishes: Wishes, offered: number, offered2: number): void {
    const first = { ...wishes };
    this.#first = first;
    const all = this.mounts.map(({ fs }) => {
      const own: Wishes = { ...wishes };
      fs.init(own, offered, offered2);
      return own;
    });
    const any = all.reduce((flags, own) => flags | own.flags, 0);
    if (all.length === 0) this.options.wishes?.(wishes, offered, offered2);
    else {
      // What one of them does not ask for it can't deal with, but for checking data more often.
      wishes.flags =
        all.reduce((flags, own) => flags & own.flags, -1) | (any & FUSE_AUTO_INVAL_DATA);
      wishes.flags2 = all.reduce((flags, own) => flags & own.flags2, -1);
      // Who may take longer than the others, or as long as it likes, must not be cut off.
      const timeouts = all.map((own) => own.requestTimeout);
      wishes.requestTimeout = timeouts.includes(0) ? 0 : Math.max(...timeouts);
      wishes.maxStackDepth = Math.max(...all.map((own) => own.maxStackDepth));
      wishes.maxBackground = Math.min(...all.map((own) => own.maxBackground));
      wishes.congestionThreshold = Math.min(...all.map((own) => own.congestionThreshold));
      wishes.maxReadahead = Math.min(...all.map((own) => own.maxReadahead));
    }
    const { noOpen, noOpendir, noWriteback, killprivV2, sealSize } = this.options;
    if (noWriteback === true) wishes.flags &= ~FUSE_WRITEBACK_CACHE;
    if (killprivV2 === false) wishes.flags &= ~FUSE_HANDLE_KILLPRIV_V2;
    if (noOpen === true) wishes.flags |= FUSE_NO_OPEN_SUPPORT;
    // Who does without OPEN does not truncate in it: the kernel has to ask for that by SETATTR.
    if ((any | wishes.flags) & FUSE_NO_OPEN_SUPPORT) wishes.flags &= ~FUSE_ATOMIC_O_TRUNC;
    // What the kernel writes itself can't be looked at.
    if (sealSize === true) wishes.flags2 &= ~FUSE_PASSTHROUGH;
    if (noOpendir === true) wishes.flags |= FUSE_NO_OPENDIR_SUPPORT;
    // With it, only what makes something says who the caller is, and the map asks that of more.
    if (this.options.ids !== undefined || this.mounts.some(({ ids }) => ids !== undefined))
      wishes.flags2 &= ~FUSE_ALLOW_IDMAP;
    wishes.flags |= first.flags;
    wishes.flags2 |= first.flags2;
  }

  override connected(connection: Connection, device: number): void {
    this.#connection = connection;
    this.#device = device;
    const { noOpen, noOpendir } = this.options;
    this.noOpen = noOpen === true && (connection.flags & FUSE_NO_OPEN_SUPPORT) !== 0;
    this.noOpendir = noOpendir === true && (connection.flags & FUSE_NO_OPENDIR_SUPPORT) !== 0;
    for (const served of this.mounts) this.#connect(served, connection);
  }

  override destroy(): void {
    for (const { fs } of this.mounts) fs.destroy();
  }

  /** Covers: what is mounted on a directory of the tree. */
  show(
    context: Context,
    nodeid: number,
    entry: EntryOut | undefined,
    memory: Memory,
    ino: number,
  ): boolean {
    const top = this.#tops.get(nodeid);
    if (top === undefined) return false;
    this.#shown.become(top.translation);
    attrScratch.bytes.fill(0);
    const result = top.fs.getattr(context, FUSE_ROOT_ID, NO_HANDLE, this.#rootAttr.place(0));
    if (result < 0) return false;
    copyU64(attrScratch.view, fuse_attr_out.attr + fuse_attr.ino, memory.view, ino);
    if (entry !== undefined) {
      entry.nodeid = top.translation.rootNode;
      entry.generation = top.translation.rootGeneration;
      entry.entryTimeout = PSEUDO_TIMEOUT;
      entry.copyAttrOut(attrScratch);
    }
    return true;
  }
}
