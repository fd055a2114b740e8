// Looking names up in the layers: which host inodes make up a file.
//
// The upper layer comes first, then the lower ones from the top. What is not a directory hides all
// below it; so do whiteouts and opaque directories. Directories of the same name are merged. A
// directory that was renamed says by its redirect where its lower parts are.

import {
  AT_SYMLINK_NOFOLLOW,
  O_NOFOLLOW,
  O_PATH,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
  stat,
} from "./abi-linux.ts";
import { EIO, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, ESTALE } from "./errno.ts";
import type { Context } from "./filesystem.ts";
import { log } from "./log.ts";
import { EntryName } from "./overlay-name.ts";
import {
  NODE_IMPURE,
  NODE_INDEXED,
  NODE_METACOPY,
  NODE_ORIGIN,
  STACK_LAYER,
  STACK_XWHITEOUTS,
} from "./overlay-node-record.ts";
import { indexNameOf, PATH_UPPER } from "./overlay-origin.ts";
import {
  DIRECTORY,
  FILE,
  NOTHING,
  NOWHERE,
  OverlayProbe,
  UPPER,
  WHITEOUT,
} from "./overlay-probe.ts";
import { storedProtection } from "./overlay-protattr.ts";
import { isWhiteoutName } from "./overlay-whiteout.ts";
import {
  MARK_IMPURE,
  MARK_METACOPY,
  MARK_OPAQUE,
  MARK_ORIGIN,
  MARK_PROTATTR,
  MARK_REDIRECT,
  MARK_WHITEOUT,
  MARK_XWHITEOUTS,
} from "./overlay-xattrs.ts";
import type { EntryOut } from "./reply.ts";
import { readU64, type Name } from "./request.ts";
import { close, fstat, newfstatat } from "./syscall.ts";

// Scratch memory of the thread, for all overlays that it serves.
const component = new EntryName();

export abstract class OverlayLookup extends OverlayProbe {
  override lookup(_context: Context, parent: number, name: Name, entry: EntryOut): number {
    if (!this.nodes.acquire(parent)) {
      this.nodes.release(parent);
      return -ESTALE;
    }
    let node = -ENAMETOOLONG;
    if (name.isDots) node = this.#findDots(parent, name.length);
    else if (this.name.set(name)) node = this.find(parent, this.name);
    this.nodes.release(parent);
    if (node === -ENOENT) {
      entry.nodeid = 0;
      entry.entryTimeout = this.config.timeout;
      return 0;
    }
    return node < 0 ? node : this.enterFound(node, entry, this.statSlot);
  }

  /**
   * Fills `entry` with a node that was just looked up; if that fails the lookup is taken back.
   * `statSlot` is as for `enter`.
   */
  protected enterFound(node: number, entry: EntryOut, statSlot = 0): number {
    const result = this.enter(node, entry, statSlot);
    if (result < 0) {
      this.nodes.forget(node, 1);
      entry.nodeid = 0;
    }
    return result;
  }

  override forget(nodeid: number, count: number): void {
    this.nodes.forget(nodeid, count);
  }

  /**
   * `.` and `..`, for NFS export. What has no name was removed, though the kernel may still use it;
   * or it was found by a handle that lasts, and is by `revive` again.
   */
  #findDots(node: number, length: number): number {
    const parent = this.isRoot(node) ? node : this.nodes.nameOf(node, this.name);
    if (parent === 0) return -ESTALE;
    const found = length === 1 ? node : parent;
    this.statSlot = 0;
    this.nodes.again(found);
    return found;
  }

  /**
   * The node of a name in an acquired directory, with 1 added to its lookup count. Of the
   * directory's own layers, the first `above` are known to have had nothing of that name when its
   * version was `listed`. Returns the node, or -errno (ENOENT).
   */
  protected find(parent: number, name: EntryName, above = 0, listed = 0): number {
    const { nodes, found } = this;
    this.statSlot = 0;
    for (;;) {
      const known = nodes.child(parent, name);
      if (known !== 0) return known;
      const version = nodes.version(parent);
      const result = this.#look(parent, name, version === listed ? above : 0);
      this.sought(parent);
      if (result < 0) {
        this.abandon();
        if (version === nodes.version(parent)) return result;
        continue;
      }
      this.identifyFound();
      const node = nodes.add(parent, version, name, found);
      if (node !== 0) return node;
    }
  }

  protected abandon(): void {
    const { found, files } = this;
    if (found.upper !== 0) files.forgetSlot(found.upper);
    for (let index = 0; index < found.count; index++) files.forgetSlot(found.slots[index]!);
    found.clear();
  }

  /** Fills `found` with what the layers have under a name. Returns 0 or -errno. */
  #look(parent: number, name: EntryName, above: number): number {
    const { found, nodes } = this;
    found.clear();
    if (nodes.type(parent) !== S_IFDIR) return -ENOTDIR;
    if (this.hidesPrefix && isWhiteoutName(name)) return -ENOENT;
    this.seek(parent, name);
    const upper = nodes.upper(parent);
    const stack = nodes.stack(parent);
    let goesOn = true;
    let redirect: string | undefined;
    let skipped = above;
    if (upper !== 0 && skipped > 0) {
      skipped--;
    } else if (upper !== 0) {
      const kind = this.probe(UPPER, upper, name, stack === 0);
      if (kind < 0) return kind;
      if (kind === WHITEOUT) return -ENOENT;
      if (kind !== NOTHING) {
        const result = this.takeUpper(kind);
        if (result < 0) return result;
        goesOn = result === 1;
        if (this.marks & MARK_REDIRECT && goesOn) {
          redirect = this.#readRedirect(this.slot);
          if (redirect === undefined) return -EPERM;
        }
      }
    }
    if (goesOn && redirect === undefined && stack !== 0) {
      const result = this.#lookBelow(parent, name, skipped);
      if (result < 0) return result;
    } else if (goesOn && redirect !== undefined) {
      const result = this.#follow(redirect, parent, -1);
      if (result < 0) return result;
    }
    if (found.isEmpty) return -ENOENT;
    return this.#finish();
  }

  /** Enters the upper part. Returns 1 if more may lie below, 0 if not, -errno. */
  protected takeUpper(kind: number): number {
    const { found } = this;
    found.upper = this.slot;
    found.mode = this.mode;
    found.key = this.slot;
    this.foundIno(this.slot, this.stat);
    if (this.marks & MARK_IMPURE) found.flags |= NODE_IMPURE;
    if (this.marks & MARK_PROTATTR) found.flags |= this.#storedProtection();
    if (kind === DIRECTORY) return this.marks & MARK_OPAQUE ? 0 : 1;
    if (this.marks & MARK_ORIGIN) this.#identify();
    if (!(this.marks & MARK_METACOPY)) return 0;
    if (!this.config.metacopy) return this.#refuse("metadata copy");
    found.flags |= NODE_METACOPY;
    return 1;
  }

  #storedProtection(): number {
    const { inodes } = this.files;
    const fd = inodes.acquire(this.slot);
    const found = fd < 0 ? 0 : storedProtection(this.xattrs, fd);
    inodes.release(this.slot);
    return found;
  }

  /**
   * Goes down a directory's stack, without its first `skipped`, until something hides what is
   * below.
   */
  #lookBelow(parent: number, name: EntryName, skipped: number): number {
    const { nodes } = this;
    let position = UPPER;
    let next = this.nextPosition(UPPER + 1 + skipped);
    for (let record = nodes.stack(parent); record !== 0; record = nodes.below(record)) {
      if (++position < next) continue;
      next = this.nextPosition(position + 1);
      const isLast = nodes.below(record) === 0;
      const leads = this.#mayLeadBelow(nodes.layer(record));
      const kind = this.probe(position, nodes.slot(record), name, isLast, leads);
      if (kind < 0) return kind;
      if (kind === NOTHING) continue;
      if (kind === WHITEOUT) return 0;
      const result = this.takeLower(kind, nodes.layer(record));
      if (result < 0) return result;
      if (result === 0) return 0;
      if (this.marks & MARK_REDIRECT) {
        const redirect = this.#readRedirect(this.slot);
        if (redirect === undefined) return -EPERM;
        return this.#follow(redirect, parent, nodes.layer(record));
      }
    }
    return 0;
  }

  /** Whether a directory may lead to layers below its own, also where its parent has no part. */
  #mayLeadBelow(layer: number): boolean {
    return this.config.redirectDir !== "nofollow" && layer < this.config.lower.length - 1;
  }

  /** Enters a lower part. Returns 1 if more may lie below, 0 if not, -errno. */
  protected takeLower(kind: number, layer: number): number {
    const { found, files } = this;
    const isDirectory = kind === DIRECTORY;
    const isFirst = found.isEmpty;
    // Only directories go on under directories, and only data under a metadata copy.
    const wantsFile = (found.flags & NODE_METACOPY) !== 0;
    if (!isFirst && (wantsFile ? isDirectory : !isDirectory)) {
      files.forgetSlot(this.slot);
      return 0;
    }
    if (found.count === 0 && (isFirst || isDirectory)) this.foundIno(this.slot, this.stat);
    if (isFirst) {
      found.mode = this.mode;
      const isAlone = isDirectory || this.nlink === 1 || this.config.index;
      found.key = isAlone ? this.slot : 0;
    }
    const flags = this.marks & MARK_XWHITEOUTS ? STACK_XWHITEOUTS : 0;
    found.add(this.slot, layer | flags);
    if (isDirectory) return this.marks & MARK_OPAQUE ? 0 : 1;
    if (!(this.marks & MARK_METACOPY)) return 0;
    if (!this.config.metacopy) return this.#refuse("metadata copy");
    if (isFirst) found.flags |= NODE_METACOPY;
    return 1;
  }

  #refuse(what: string): number {
    log.warnLimited(`refused to follow a ${what} in a layer, because of the mount's options`);
    return -EPERM;
  }

  /** What is known once all layers were looked at. */
  #finish(): number {
    const { found } = this;
    const isFile = (found.mode & S_IFMT) !== S_IFDIR;
    if (isFile && found.flags & NODE_METACOPY && found.count === (found.upper === 0 ? 1 : 0))
      return -EIO; // the data is missing
    if (this.share.indexSlot === 0) return 0;
    if (isFile) return Math.min(0, this.lookInIndex());
    if (this.config.nfsExport && found.upper !== 0 && found.count > 0) this.#identifyDirectory();
    return 0;
  }

  // --- Who an upper file is ---

  /** The upper file has an origin: its inode number is that of the lower file it comes from. */
  #identify(): void {
    const { inodes } = this.files;
    const own = this.nlink;
    const upper = inodes.acquire(this.slot);
    const length = upper < 0 ? upper : this.xattrs.read(upper, "origin");
    inodes.release(this.slot);
    if (length <= 0) return;
    this.statSlot = 0;
    const fd = this.origins.decode(this.xattrs.value, length, this.mode, this.stat);
    if (fd < 0) return;
    const nlink = this.stat.view.getUint32(stat.st_nlink, true);
    const slot = inodes.remember(fd, this.stat);
    if (slot < 0) return;
    // Of several names of a lower file, each may have been copied up on its own.
    if (nlink === 1 || this.config.index) {
      this.foundIno(slot, this.stat);
      this.found.flags |= NODE_ORIGIN;
    }
    const { index, nfsExport } = this.config;
    const isIndexed = nfsExport
      ? this.#leadsHere(indexNameOf(this.xattrs.value, length))
      : index && nlink > 1;
    if (isIndexed) this.#countLinks(this.slot, own, nlink);
    // A later daemon knows the file by the lower one.
    if (isIndexed && nfsExport) this.found.add(slot, 0);
    else this.files.forgetSlot(slot);
  }

  /** Whether what the index has under a name is the upper file that was just found. */
  #leadsHere(name: string): boolean {
    const ino = this.files.inodes.numberOf(this.slot);
    return this.statIndexed(name) && readU64(this.stat.view, stat.st_ino) === ino;
  }

  /** Fills `stat` with what the index has under a name. False if there is nothing. */
  protected statIndexed(name: string): boolean {
    const { inodes } = this.files;
    const { indexSlot } = this.share;
    const dirfd = inodes.acquire(indexSlot);
    const { address } = this.stat;
    const isThere =
      dirfd >= 0 &&
      component.setText(name) &&
      newfstatat(dirfd, component.address, address, AT_SYMLINK_NOFOLLOW) >= 0;
    inodes.release(indexSlot);
    return isThere;
  }

  /** What the file of a lower slot is called in the index; undefined if it has no handle. */
  protected indexedName(slot: number, layer: number): string | undefined {
    const { inodes } = this.files;
    const fd = inodes.acquire(slot);
    const length = fd < 0 ? 0 : this.origins.encode(fd, layer);
    inodes.release(slot);
    return length === 0 ? undefined : this.origins.name(length);
  }

  /**
   * A lower file with several names may have been copied up by another of them, and with
   * `nfsExport` any by none. Returns 0; 1 if the index says that it was removed; or -errno.
   */
  protected lookInIndex(): number {
    const { found } = this;
    if (found.upper !== 0 || found.count !== 1) return 0;
    if (this.nlink < 2 && !this.config.nfsExport) return 0;
    const name = this.indexedName(found.slots[0]!, found.layers[0]! & STACK_LAYER);
    if (name === undefined || !component.setText(name)) return 0;
    const { inoLow, inoHigh } = found;
    const lowerLinks = this.nlink;
    const kind = this.probe(UPPER, this.share.indexSlot, component, true);
    if (kind !== FILE) return kind === WHITEOUT ? 1 : Math.min(0, kind);
    // The copy is what is seen, under this name too.
    this.#countLinks(this.slot, this.nlink, lowerLinks);
    found.upper = this.slot;
    found.key = this.slot;
    found.mode = this.mode;
    found.flags |= NODE_ORIGIN;
    if (this.marks & MARK_PROTATTR) found.flags |= this.#storedProtection();
    if (this.marks & MARK_METACOPY) {
      if (!this.config.metacopy) return this.#refuse("metadata copy");
      found.flags |= NODE_METACOPY;
    }
    found.inoLow = inoLow;
    found.inoHigh = inoHigh;
    return 0;
  }

  /** A merged directory is known by its lower part, if the index leads from there to the upper. */
  #identifyDirectory(): void {
    const { found } = this;
    const { inodes } = this.files;
    const [slot, layer] = [found.slots[0]!, found.layers[0]! & STACK_LAYER];
    const lower = inodes.acquire(slot);
    const upper = inodes.acquire(found.upper);
    const isIndexed =
      lower >= 0 &&
      upper >= 0 &&
      (this.#isIndexedAs(upper, lower, layer) || this.indexMerged(upper, lower, layer));
    inodes.release(found.upper);
    inodes.release(slot);
    if (isIndexed) found.flags |= NODE_INDEXED;
  }

  #isIndexedAs(upper: number, lower: number, layer: number): boolean {
    const { origins } = this;
    const encoded = origins.encode(lower, layer);
    const length = encoded === 0 ? -ENOENT : this.readIndexed(origins.name(encoded));
    return length > 0 && origins.isEncoded(this.xattrs.value, length, upper, 0, PATH_UPPER);
  }

  /** Puts a directory that has always been in the upper layer into the index. False if it fails. */
  protected abstract indexMerged(upper: number, lower: number, layer: number): boolean;

  /**
   * Reads what the index has of a lower directory into the value of `xattrs`: the handle of the
   * upper one. Returns its length; 0 if that was removed; or -errno (ENOENT: there is none).
   */
  protected readIndexed(name: string): number {
    const { inodes } = this.files;
    const { indexSlot } = this.share;
    const dirfd = inodes.acquire(indexSlot);
    let fd = component.setText(name) ? dirfd : -ENOENT;
    if (fd >= 0) fd = this.files.openAt(dirfd, component.address, O_PATH | O_NOFOLLOW, 0);
    inodes.release(indexSlot);
    if (fd < 0) return fd;
    const isDirectory = fstat(fd, this.stat.address) >= 0 && this.statType === S_IFDIR;
    const length = isDirectory ? this.xattrs.read(fd, "upper") : 0;
    close(fd);
    return length;
  }

  /**
   * How many names an inode of the index has in the overlay is stored with it, as a difference to
   * the links of the upper inode (U) or of the lower one (L).
   */
  #countLinks(slot: number, upperLinks: number, lowerLinks: number): void {
    const { inodes } = this.files;
    const fd = inodes.acquire(slot);
    const text = fd < 0 ? undefined : this.xattrs.readText(fd, "nlink");
    inodes.release(slot);
    const [, base, difference] = /^([UL])([+-]\d+)$/.exec(text ?? "") ?? [];
    this.found.flags |= NODE_INDEXED;
    this.found.links = base === undefined ? 0 : Number(difference);
    if (base === "L") this.found.links += lowerLinks - upperLinks;
  }

  // --- Redirects ---

  /** The redirect of a file that was just found; undefined if it is not to be followed. */
  #readRedirect(slot: number): string | undefined {
    const { inodes } = this.files;
    const fd = inodes.acquire(slot);
    const text = fd < 0 ? undefined : this.xattrs.readText(fd, "redirect");
    inodes.release(slot);
    const follows = this.config.redirectDir !== "nofollow";
    if (follows && text !== undefined && isRedirect(text)) return text;
    this.#refuse("redirect");
    return undefined;
  }

  /**
   * Goes on below layer number `above` (-1: the upper one) where a redirect says: a name in the
   * same directory, or a path from the roots of the layers.
   */
  #follow(from: string, parent: number, above: number): number {
    const { nodes, found, share } = this;
    let redirect = from;
    const isAbsolute = redirect.startsWith("/");
    let record = nodes.stack(isAbsolute ? 1 : parent);
    for (; record !== 0; record = nodes.below(record)) {
      const layer = nodes.layer(record);
      if (layer <= above) continue;
      const kind = this.#walk(nodes.slot(record), redirect);
      if (kind < 0) return kind;
      if (this.#walkRedirect !== undefined) redirect = this.#walkRedirect;
      if (kind === WHITEOUT) return 0;
      if (kind === NOTHING) {
        if (this.#walkStops) return 0;
        continue;
      }
      const result = this.takeLower(kind, layer);
      if (result <= 0) return result;
      if (this.#walkStops) return 0;
      if (this.marks & MARK_REDIRECT) {
        const next = this.#readRedirect(this.slot);
        if (next === undefined) return -EPERM;
        if (!next.startsWith("/") && !isAbsolute) redirect = next;
        else if (next.startsWith("/")) return this.#follow(next, parent, layer);
        else redirect = redirect.slice(0, redirect.lastIndexOf("/") + 1) + next;
      }
    }
    const lacksData = found.flags & NODE_METACOPY && share.config.data.length > 0;
    return lacksData ? this.#lookInData(redirect) : 0;
  }

  #walkStops = false;
  #walkRedirect: string | undefined;

  /**
   * Goes along a path from a directory of a layer. Returns what kind of thing is at its end.
   * `#walkRedirect` is the path for the layers below, if directories on the way have redirects.
   */
  #walk(root: number, path: string): number {
    const parts = path.split("/").filter((part) => part !== "");
    let directory = root;
    let kind: number = NOTHING;
    let below = "";
    let isRedirected = false;
    let index = 0;
    this.#walkStops = false;
    for (; ; index++) {
      const part = parts[index]!;
      kind = component.setText(part) ? this.probe(NOWHERE, directory, component, false) : NOTHING;
      if (directory !== root) this.files.forgetSlot(directory);
      if (kind < 0 || index === parts.length - 1) break;
      if (kind !== DIRECTORY) {
        if (kind === FILE) {
          this.files.forgetSlot(this.slot);
          this.#walkStops = true;
          kind = NOTHING;
        }
        break;
      }
      directory = this.slot;
      // What is hidden below a directory on the way is hidden as well.
      if (this.marks & MARK_OPAQUE) this.#walkStops = true;
      const redirect = this.marks & MARK_REDIRECT ? this.#readRedirect(directory) : part;
      if (redirect === undefined) {
        this.files.forgetSlot(directory);
        return -EPERM;
      }
      isRedirected ||= (this.marks & MARK_REDIRECT) !== 0;
      below = redirect.startsWith("/") ? redirect : `${below}/${redirect}`;
    }
    this.#walkRedirect = isRedirected ? [below, ...parts.slice(index)].join("/") : undefined;
    return kind;
  }

  /** The data of a metadata copy, in the layers that have only that. */
  #lookInData(redirect: string): number {
    const { config, share } = this;
    if (!redirect.startsWith("/")) return 0;
    for (let layer = config.lower.length; layer < share.layers.length; layer++) {
      const kind = this.#walk(share.layers[layer]!.root, redirect);
      if (kind < 0) return kind;
      if (kind === DIRECTORY) this.files.forgetSlot(this.slot);
      if (kind === FILE) {
        this.found.add(this.slot, layer);
        return 0;
      }
    }
    return 0;
  }

  // --- What is below a name ---

  /**
   * Whether a lower layer has something under a name in an acquired directory, so that removing the
   * upper file has to leave a whiteout. Returns 1, 0 or -errno.
   */
  protected hasLower(parent: number, name: EntryName): number {
    const { nodes, files } = this;
    this.seek(parent, name);
    let position = UPPER;
    let next = this.nextPosition(UPPER + 1);
    let kind: number = NOTHING;
    for (
      let record = nodes.stack(parent);
      record !== 0 && kind === NOTHING;
      record = nodes.below(record)
    ) {
      if (++position < next) continue;
      next = this.nextPosition(position + 1);
      kind = this.probe(position, nodes.slot(record), name, nodes.below(record) === 0);
    }
    this.sought(parent);
    if (kind < 0) return kind;
    const isThere = kind === FILE || kind === DIRECTORY;
    if (isThere) files.forgetSlot(this.slot);
    return isThere ? 1 : 0;
  }

  /** Whether the upper directory has a whiteout under a name. */
  protected isWhiteout(dirfd: number, name: EntryName): boolean {
    const { stat: memory } = this;
    const flags = AT_SYMLINK_NOFOLLOW;
    if (newfstatat(dirfd, name.address, memory.address, flags) < 0)
      return this.hasWhiteoutFile(dirfd, name);
    if (this.statType === S_IFCHR) return readU64(memory.view, stat.st_rdev) === 0;
    if (this.statType !== S_IFREG || memory.view.getUint32(stat.st_size, true) !== 0) return false;
    const fd = this.files.openAt(dirfd, name.address, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0) return false;
    const marks = this.xattrs.marks(fd);
    close(fd);
    return (marks & MARK_WHITEOUT) !== 0;
  }
}

/** Whether a redirect is a name, or an absolute path, and stays in its layer. */
function isRedirect(text: string): boolean {
  const names = text.startsWith("/") ? text.slice(1).split("/") : [text];
  return names.every((name) => name !== "" && name !== "." && name !== ".." && !name.includes("/"));
}
