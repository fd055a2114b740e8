// Finding a node again by a nodeid that an earlier daemon has shown (see overlay-lasting.ts), or
// this one before it has forgotten the node.
//
// Of a file it takes no name: it is the host inode that the nodeid stands for, or the copy that the
// index has of it. A directory has to have its way up: it is looked up from the root, by the names
// that it and those above it have in their layers; where a lower one has been copied up, the way
// goes on in the upper layer.

import { O_DIRECTORY, O_PATH, S_IFDIR, stat } from "./abi-linux.ts";
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
const link = map(PAGE_SIZE);

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
    let at = fd;
    let isUpper = role === "upper";
    while (at >= 0) {
      if (!isUpper) {
        const upper = this.#copyOf(at);
        isUpper = upper !== -ENOENT;
        if (isUpper) {
          close(at);
          at = upper;
          continue;
        }
      }
      if (this.#isRoot(at, isUpper)) break;
      const up = this.#takeName(at) ? this.files.openAt(at, DOT_DOT.address, FLAGS, 0) : -ESTALE;
      close(at);
      at = up;
      names.push(step.text);
    }
    if (at < 0) return at;
    close(at);
    return this.#walkDown(names);
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
   * The upper directory that a lower one was copied up to, an O_PATH descriptor. -ENOENT: it was
   * not, or not to the end; -ESTALE: it was removed.
   */
  #copyOf(lower: number): number {
    const { origins, xattrs } = this;
    const encoded = origins.encode(lower, 0);
    const length = encoded === 0 ? -ENOENT : this.readIndexed(origins.name(encoded));
    if (length < 0) return -ENOENT;
    if (length === 0) return -ESTALE;
    const upper = origins.handleIn(xattrs.value, length);
    const fd = upper === 0 ? -ESTALE : this.files.inodes.openHandle(upper);
    return fd === -ESTALE ? -ENOENT : fd;
  }

  /** Whether it is the root of the upper layer, or of a lower one. */
  #isRoot(fd: number, isUpper: boolean): boolean {
    const { nodes } = this;
    const { inodes } = this.files;
    if (fstat(fd, this.stat.address) < 0) return false;
    const ino = readU64(this.stat.view, stat.st_ino);
    if (isUpper) return ino === inodes.numberOf(nodes.upper(FUSE_ROOT_ID));
    let record = nodes.stack(FUSE_ROOT_ID);
    while (record !== 0 && ino !== inodes.numberOf(nodes.slot(record)))
      record = nodes.below(record);
    return record !== 0;
  }

  /** Puts the name of a directory into `step`. False if it can't be told. */
  #takeName(fd: number): boolean {
    const { proc } = this.files;
    const length = readlinkat(proc.dirfd, proc.name(fd), link.address, link.size);
    const slash = length < 0 ? -1 : link.bytes.lastIndexOf(SLASH, length - 1);
    return slash >= 0 && slash < length - 1 && step.setFrom(link, slash + 1, length - slash - 1);
  }
}
