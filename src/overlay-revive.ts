// Finding a node again by a nodeid that an earlier daemon has shown (see overlay-lasting.ts), or
// this one before it has forgotten the node.
//
// Of a file it takes no name: it is the host inode that the nodeid stands for, or the copy that the
// index has of it. A directory has to have its way up: it is looked up from the root, by the names
// that it and those above it have in their layers; where a lower one has been copied up, the way
// goes on in the upper layer.

import { O_DIRECTORY, O_NOFOLLOW, O_PATH, S_IFDIR, stat } from "./abi-linux.ts";
import { FUSE_ROOT_ID } from "./abi-fuse.ts";
import { ENOENT, ESTALE } from "./errno.ts";
import type { Context } from "./filesystem.ts";
import { FILE_HANDLE_MAX } from "./limits.ts";
import { cstring, map, PAGE_SIZE, smallMemory, type Memory } from "./memory.ts";
import type { OverlayShare } from "./overlay-base.ts";
import { OverlayDirectories } from "./overlay-directories.ts";
import type { NodeIdentities, Role } from "./overlay-lasting.ts";
import { EntryName } from "./overlay-name.ts";
import { FILE } from "./overlay-probe.ts";
import type { ServingThread } from "./passthrough.ts";
import { takeHandle } from "./passthrough-devices.ts";
import { hostHandle, isLasting, lastingNodeid, tagOf } from "./passthrough-lasting.ts";
import type { EntryOut } from "./reply.ts";
import { readU64 } from "./request.ts";
import { close, fstat, readlinkat } from "./syscall.ts";

const DOT_DOT = cstring("..");
const FLAGS = O_PATH | O_DIRECTORY;
const SLASH = 0x2f;

// Scratch memory of the thread, for all overlays that it serves.
const handle = smallMemory(8 + FILE_HANDLE_MAX);
const step = new EntryName();
const path = map(PAGE_SIZE);

export abstract class OverlayRevive extends OverlayDirectories {
  constructor(memory: Memory, share: OverlayShare, thread: ServingThread) {
    super(memory, share, thread);
    const { identities } = this;
    if (identities !== undefined)
      this.shownNodes = {
        shown: (node) => this.#shown(identities, node),
        known: (nodeid) => this.#known(identities, nodeid),
      };
  }

  #shown(identities: NodeIdentities, node: number): number {
    const tag = identities.tag(node);
    if (tag === 0) return node;
    return lastingNodeid(tag, this.files.inodes.numberOf(identities.slot(node)));
  }

  #known(identities: NodeIdentities, nodeid: number): number {
    if (!isLasting(nodeid)) return nodeid;
    const node = this.nodes.owner(this.files.inodes.numbered(nodeid));
    return node !== 0 && identities.tag(node) === tagOf(nodeid) ? node : 0;
  }

  override revive(_context: Context, nodeid: number, entry: EntryOut): number {
    const { identities } = this;
    if (identities === undefined || !isLasting(nodeid)) return -ESTALE;
    const fd = this.files.inodes.openHandle(hostHandle(nodeid));
    if (fd < 0) return fd;
    const role = takeHandle(fd, handle) ? identities.roleOf(handle, nodeid) : undefined;
    const isThere =
      role !== undefined &&
      fstat(fd, this.stat.address) >= 0 &&
      this.stat.view.getUint32(stat.st_nlink, true) > 0;
    let node = -ESTALE;
    if (!isThere) close(fd);
    else if (this.statType === S_IFDIR) node = this.#connect(fd, role);
    else node = this.#findFile(fd, role);
    if (node < 0) return node === -ENOENT ? -ESTALE : node;
    if (this.#shown(identities, node) === nodeid) return this.enterFound(node, entry);
    this.nodes.forget(node, 1);
    return -ESTALE;
  }

  /** The node of a file that is no directory. Takes over `fd`. Returns the node or -errno. */
  #findFile(fd: number, role: Role): number {
    const { found } = this;
    found.clear();
    let result = this.probeOpened(fd);
    if (result >= 0) result = role === "upper" ? this.takeUpper(FILE) : this.takeLower(FILE, 0);
    if (result >= 0 && role === "lower" && !this.#hasNames()) result = -ESTALE;
    if (result < 0) {
      this.abandon();
      return result;
    }
    this.identifyFound();
    return this.nodes.addNameless(found);
  }

  /** Whether a lower file that was just found still has a name, as far as the index knows. */
  #hasNames(): boolean {
    const { found } = this;
    if (this.lookInIndex() !== 0) return false;
    return found.upper === 0 || this.nlink + found.links > 0;
  }

  /** The node of a directory, looked up from the root. Takes over `fd`. Returns it or -errno. */
  #connect(fd: number, role: Role): number {
    const names: string[] = [];
    const layer = this.#climb(fd, role, names);
    if (layer < 0 || role === "upper") return layer < 0 ? layer : this.#walkDown(names);
    // The nearest of it and those above it that was copied up tells where the way goes on.
    for (let below = 0; below < names.length; below++) {
      const copy = this.#copyOf(names.slice(below).reverse().join("/"), layer);
      if (copy === -ENOENT) continue;
      const way = names.slice(0, below);
      const result = copy < 0 ? copy : this.#climb(copy, "upper", way);
      return result < 0 ? result : this.#walkDown(way);
    }
    return this.#walkDown(names);
  }

  /**
   * Adds the names of a directory and of those above it to `names`, up to the root of the layer.
   * Takes over `fd`. Returns the number of the layer, 0 for the upper one, or -errno.
   */
  #climb(fd: number, role: Role, names: string[]): number {
    let at = fd;
    while (at >= 0) {
      const layer = this.#rootOf(at, role);
      if (layer >= 0) {
        close(at);
        return layer;
      }
      const up = this.#takeName(at) ? this.files.openAt(at, DOT_DOT.address, FLAGS, 0) : -ESTALE;
      close(at);
      at = up;
      names.push(step.text);
    }
    return at;
  }

  /** The last of `names` comes first. */
  #walkDown(names: string[]): number {
    const { nodes } = this;
    let node: number = FUSE_ROOT_ID;
    while (node > 0 && names.length > 0) {
      step.setText(names.pop()!);
      const next = nodes.acquire(node) ? this.find(node, step) : -ESTALE;
      nodes.release(node);
      nodes.forget(node, 1);
      node = next;
    }
    return node;
  }

  /**
   * The upper directory that the lower ones with this path, `names`, in the layers up to number
   * `last` were copied up to, an O_PATH descriptor. -ENOENT: they were not, or not to the end;
   * -ESTALE: it was removed.
   */
  #copyOf(names: string, last: number): number {
    const { inodes } = this.files;
    if (names.length >= path.size) return -ESTALE;
    path.bytes[Buffer.from(path.bytes.buffer, path.bytes.byteOffset).write(names, "latin1")] = 0;
    for (let layer = 0; layer <= last; layer++) {
      const { root } = this.share.layers[layer]!;
      const dirfd = inodes.acquire(root);
      const lower =
        dirfd < 0 ? dirfd : this.files.openAt(dirfd, path.address, FLAGS | O_NOFOLLOW, 0);
      inodes.release(root);
      if (lower < 0) continue;
      const copy = this.#indexedCopy(lower);
      close(lower);
      if (copy !== -ENOENT) return copy;
    }
    return -ENOENT;
  }

  /** What the index has of a lower directory; as `#copyOf`. */
  #indexedCopy(lower: number): number {
    const { origins, xattrs } = this;
    const encoded = origins.encode(lower, 0);
    const length = encoded === 0 ? -ENOENT : this.readIndexed(origins.name(encoded));
    if (length < 0) return -ENOENT;
    if (length === 0) return -ESTALE;
    const upper = origins.handleIn(xattrs.value, length);
    const fd = upper === 0 ? -ESTALE : this.files.inodes.openHandle(upper);
    return fd === -ESTALE ? -ENOENT : fd;
  }

  /** The number of the layer whose root it is, 0 if it is the upper one's; otherwise -1. */
  #rootOf(fd: number, role: Role): number {
    const { nodes } = this;
    const { inodes } = this.files;
    if (fstat(fd, this.stat.address) < 0) return -1;
    const ino = readU64(this.stat.view, stat.st_ino);
    if (role === "upper") return ino === inodes.numberOf(nodes.upper(FUSE_ROOT_ID)) ? 0 : -1;
    return this.share.layers.findIndex(({ root }) => ino === inodes.numberOf(root));
  }

  /** Puts the name of a directory into `step`. False if it can't be told. */
  #takeName(fd: number): boolean {
    const { proc } = this.files;
    const length = readlinkat(proc.dirfd, proc.name(fd), path.address, path.size);
    const slash = length < 0 ? -1 : path.bytes.lastIndexOf(SLASH, length - 1);
    return slash >= 0 && slash < length - 1 && step.setFrom(path, slash + 1, length - slash - 1);
  }
}
