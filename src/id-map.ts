// User and group ids as they lie in a backend ("internal", ids of the host) and as callers see
// them ("external"), mapped by ranges as in user_namespaces(7) and on idmapped mounts.
//
// - A map is one-to-one within its ranges. An id outside of every range is shown as OVERFLOW_ID,
//   and cannot be used: towards the backend it is -EOVERFLOW, so that nothing gets a wrong owner.
// - A squash is one id in place of all of them, in both directions.
// - A kind of ids (users, groups) without either stays as it is.
// - 4294967295 is "no id", which system calls take for "unchanged". No range or squash has it.
//
// Ids are unsigned 32-bit numbers throughout: no bit operations on them.

import { EINVAL, EOVERFLOW } from "./errno.ts";
import { ID_RANGES_MAX } from "./limits.ts";

/** `length` ids from `internal` on in the backend are those from `external` on for callers. */
export interface IdRange {
  readonly internal: number;
  readonly external: number;
  readonly length: number;
}

/**
 * Plain data, so that it can be sent to other threads as JSON. Without ranges and squash of a kind,
 * ids of that kind stay as they are.
 */
export interface IdMapOptions {
  readonly uids: readonly IdRange[];
  readonly gids: readonly IdRange[];
  /** Every id becomes this one, both ways. Not together with ranges of its kind. */
  readonly squashUid?: number | undefined;
  readonly squashGid?: number | undefined;
  /**
   * What is used in the backend if that is another id than the squash shows. The default is the
   * squash itself. It arises from squashing what is mapped (see `composeIdMaps`).
   */
  readonly squashUidInternal?: number | undefined;
  readonly squashGidInternal?: number | undefined;
}

/** A map that cannot be; for people, it says which range is wrong and why. */
export class IdMapError extends Error {
  override name = "IdMapError";
}

/** What the kernel shows for an id without a mapping (/proc/sys/kernel/overflowuid). */
export const OVERFLOW_ID = 65534;

const NO_ID = 2 ** 32 - 1;
const ID_MAX = NO_ID - 1;
const NOT_MAPPED = -1;

export class IdMap {
  readonly #users: KindMap;
  readonly #groups: KindMap;

  /** Throws IdMapError if the options contradict themselves. */
  constructor(options: IdMapOptions) {
    this.#users = new KindMap(usersOf(options));
    this.#groups = new KindMap(groupsOf(options));
  }

  /** Whether user ids have ranges or a squash; otherwise nothing has to be done about them. */
  get mapsUids(): boolean {
    return this.#users.maps;
  }

  get mapsGids(): boolean {
    return this.#groups.maps;
  }

  /** OVERFLOW_ID if outside of every range. */
  uidToExternal(id: number): number {
    const external = this.#users.toExternal(id);
    return external === NOT_MAPPED ? OVERFLOW_ID : external;
  }

  gidToExternal(id: number): number {
    const external = this.#groups.toExternal(id);
    return external === NOT_MAPPED ? OVERFLOW_ID : external;
  }

  /** -EOVERFLOW if outside of every range. */
  uidToInternal(id: number): number {
    const internal = this.#users.toInternal(id);
    return internal === NOT_MAPPED ? -EOVERFLOW : internal;
  }

  gidToInternal(id: number): number {
    const internal = this.#groups.toInternal(id);
    return internal === NOT_MAPPED ? -EOVERFLOW : internal;
  }

  /** Whether an internal id has an external one; OVERFLOW_ID may be that one, too. */
  hasUid(internalId: number): boolean {
    return internalId !== NO_ID && this.#users.toExternal(internalId) !== NOT_MAPPED;
  }

  hasGid(internalId: number): boolean {
    return internalId !== NO_ID && this.#groups.toExternal(internalId) !== NOT_MAPPED;
  }
}

/**
 * One map for a caller who is seen through two: `inner` lies at the backend, and `outer` is applied
 * by whoever is nearer to the caller, so that `inner`'s external ids are `outer`'s internal ones.
 * Plain data again. Throws IdMapError if no id of a kind would be left.
 *
 * Ranges are intersected. A squash on either side makes the whole a squash:
 * - of the outer map: all is shown as its id, and what that id is in the inner map is used;
 * - of the inner map: its id is used, and shown as what it is in the outer map. Every caller is
 *   squashed then, also one whose id the outer map by itself would refuse.
 */
export function composeIdMaps(
  inner: IdMapOptions | undefined,
  outer: IdMapOptions | undefined,
): IdMapOptions | undefined {
  // Each has to be sound by itself before its ranges may be intersected.
  if (inner !== undefined) new IdMap(inner);
  if (outer !== undefined) new IdMap(outer);
  if (inner === undefined || outer === undefined) return inner ?? outer;
  const users = composeKind(usersOf(inner), usersOf(outer));
  const groups = composeKind(groupsOf(inner), groupsOf(outer));
  const options: IdMapOptions = {
    uids: users.ranges,
    gids: groups.ranges,
    squashUid: users.squash,
    squashGid: groups.squash,
    squashUidInternal: users.squashInternal,
    squashGidInternal: groups.squashInternal,
  };
  new IdMap(options);
  return options;
}

/** `INTERNAL:EXTERNAL:LENGTH` in decimal. Throws IdMapError. */
export function parseIdRange(text: string): IdRange {
  const numbers = /^(\d+):(\d+):(\d+)$/.exec(text);
  if (numbers === null)
    throw new IdMapError(
      `"${text}" is not a range of ids: write INTERNAL:EXTERNAL:LENGTH, ` +
        `such as 100000:0:65536 to show the 65536 ids from 100000 on as those from 0 on`,
    );
  const [, internal, external, length] = numbers;
  const range: IdRange = {
    internal: Number(internal),
    external: Number(external),
    length: Number(length),
  };
  const problem = rangeProblem(range);
  if (problem !== undefined) throw new IdMapError(`the range of ids "${text}" ${problem}`);
  return range;
}

// The extended attributes system.posix_acl_access and _default (linux/posix_acl_xattr.h): a u32
// version, then entries of u16 tag, u16 permissions and u32 id, all little endian.
const ACL_VERSION = 2;
const ACL_HEADER_SIZE = 4;
const ACL_ENTRY_SIZE = 8;
const ACL_ENTRY_PERM = 2;
const ACL_ENTRY_ID = 4;
const ACL_USER_OBJ = 0x01;
const ACL_USER = 0x02;
const ACL_GROUP_OBJ = 0x04;
const ACL_GROUP = 0x08;
const ACL_MASK = 0x10;
const ACL_OTHER = 0x20;

/**
 * Maps the ids of the POSIX ACL that lies in `view` at `at`, in place. An entry of somebody who has
 * no external id is left out: nobody outside can be meant by it, and FUSE takes no ACL with "no id"
 * in it. Returns the length of what is then there, or -EINVAL for an ACL that is malformed or,
 * towards internal, names an id outside of every range, as setxattr(2) on an idmapped mount does.
 */
export function mapAcl(
  view: DataView,
  at: number,
  length: number,
  map: IdMap,
  towards: "internal" | "external",
): number {
  if (length === 0) return 0;
  if (length < ACL_HEADER_SIZE || (length - ACL_HEADER_SIZE) % ACL_ENTRY_SIZE !== 0) return -EINVAL;
  if (view.getUint32(at, true) !== ACL_VERSION) return -EINVAL;
  let kept = at + ACL_HEADER_SIZE;
  for (let entry = kept; entry < at + length; entry += ACL_ENTRY_SIZE) {
    const tag = view.getUint16(entry, true);
    const id = mapAclId(tag, view.getUint32(entry + ACL_ENTRY_ID, true), map, towards);
    if (id === -EOVERFLOW && towards === "external") continue;
    if (id < 0) return -EINVAL;
    view.setUint16(kept, tag, true);
    view.setUint16(kept + ACL_ENTRY_PERM, view.getUint16(entry + ACL_ENTRY_PERM, true), true);
    view.setUint32(kept + ACL_ENTRY_ID, id, true);
    kept += ACL_ENTRY_SIZE;
  }
  return kept - at;
}

/** What the id of an entry becomes; -EOVERFLOW if it has no other, -EINVAL for an unknown tag. */
function mapAclId(tag: number, id: number, map: IdMap, towards: "internal" | "external"): number {
  const inwards = towards === "internal";
  switch (tag) {
    case ACL_USER:
      if (inwards) return map.uidToInternal(id);
      return map.hasUid(id) ? map.uidToExternal(id) : -EOVERFLOW;
    case ACL_GROUP:
      if (inwards) return map.gidToInternal(id);
      return map.hasGid(id) ? map.gidToExternal(id) : -EOVERFLOW;
    case ACL_USER_OBJ:
    case ACL_GROUP_OBJ:
    case ACL_MASK:
    case ACL_OTHER:
      return id;
    default:
      return -EINVAL; // what we don't know may hold an id
  }
}

/** What the options say of users or of groups. */
interface Kind {
  /** For messages. */
  readonly name: "user" | "group";
  readonly ranges: readonly IdRange[];
  readonly squash: number | undefined;
  readonly squashInternal: number | undefined;
}

function usersOf({ uids, squashUid, squashUidInternal }: IdMapOptions): Kind {
  return { name: "user", ranges: uids, squash: squashUid, squashInternal: squashUidInternal };
}

function groupsOf({ gids, squashGid, squashGidInternal }: IdMapOptions): Kind {
  return { name: "group", ranges: gids, squash: squashGid, squashInternal: squashGidInternal };
}

/** Ids of one kind in both directions; NOT_MAPPED where there is none. */
class KindMap {
  readonly maps: boolean;
  /** Triples of the first id, what it becomes, and the length, in the order of the first ids. */
  readonly #outwards: Uint32Array;
  readonly #inwards: Uint32Array;
  readonly #squashes: boolean;
  readonly #shown: number;
  readonly #used: number;

  constructor(kind: Kind) {
    const { ranges, squash, squashInternal } = kind;
    checkSquash(kind);
    checkRanges(kind);
    this.maps = ranges.length > 0 || squash !== undefined;
    this.#squashes = squash !== undefined;
    this.#shown = squash ?? NOT_MAPPED;
    this.#used = squashInternal ?? this.#shown;
    const outwards = ranges.toSorted((a, b) => a.internal - b.internal);
    const inwards = ranges.toSorted((a, b) => a.external - b.external);
    this.#outwards = Uint32Array.from(outwards.flatMap((r) => [r.internal, r.external, r.length]));
    this.#inwards = Uint32Array.from(inwards.flatMap((r) => [r.external, r.internal, r.length]));
  }

  toExternal(id: number): number {
    if (!this.maps) return id;
    if (this.#squashes) return id === NO_ID ? NOT_MAPPED : this.#shown;
    return translate(this.#outwards, id);
  }

  toInternal(id: number): number {
    if (!this.maps) return id;
    if (this.#squashes) return id === NO_ID ? NOT_MAPPED : this.#used;
    return translate(this.#inwards, id);
  }
}

function translate(triples: Uint32Array, id: number): number {
  // Ranges before `low` begin at or below the id, those from `high` on above it.
  let low = 0;
  let high = triples.length / 3;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (triples[3 * middle]! <= id) low = middle + 1;
    else high = middle;
  }
  if (low === 0) return NOT_MAPPED;
  const found = 3 * (low - 1);
  const distance = id - triples[found]!;
  return distance < triples[found + 2]! ? triples[found + 1]! + distance : NOT_MAPPED;
}

function composeKind(inner: Kind, outer: Kind): Kind {
  const { name } = inner;
  if (!isMapped(inner)) return outer;
  if (!isMapped(outer)) return inner;
  if (inner.squash === undefined && outer.squash === undefined)
    return { ...inner, ranges: intersect(inner, outer) };
  const shown = outer.squash ?? new KindMap(outer).toExternal(inner.squash!);
  if (shown === NOT_MAPPED)
    throw new IdMapError(
      `the inner map squashes every ${name} to ${inner.squash}, which is in none of ` +
        `the outer map's ranges of internal ${name} ids: nobody would own anything`,
    );
  const middle = outer.squashInternal ?? outer.squash;
  const used =
    inner.squashInternal ?? inner.squash ?? new KindMap(inner).toInternal(middle ?? NO_ID);
  if (used === NOT_MAPPED)
    throw new IdMapError(
      `the outer map squashes every ${name} to ${middle}, which is in none of ` +
        `the inner map's ranges of external ${name} ids: nobody could own anything`,
    );
  return {
    name,
    ranges: [],
    squash: shown,
    squashInternal: used === shown ? undefined : used,
  };
}

function isMapped({ ranges, squash }: Kind): boolean {
  return ranges.length > 0 || squash !== undefined;
}

/** Where the inner ranges' external ids meet the outer ranges' internal ones. */
function intersect(inner: Kind, outer: Kind): IdRange[] {
  const pieces: IdRange[] = [];
  for (const near of inner.ranges)
    for (const far of outer.ranges) {
      const first = Math.max(near.external, far.internal);
      const end = Math.min(near.external + near.length, far.internal + far.length);
      if (first >= end) continue;
      pieces.push({
        internal: near.internal + (first - near.external),
        external: far.external + (first - far.internal),
        length: end - first,
      });
    }
  // No ranges would mean that ids stay as they are: the opposite.
  if (pieces.length === 0)
    throw new IdMapError(
      `the two maps have no ${inner.name} id in common: ` +
        `no external id of the inner one is an internal id of the outer one`,
    );
  return joined(pieces);
}

/** The same ranges in order, those that continue each other on both sides made one. */
function joined(ranges: readonly IdRange[]): IdRange[] {
  const result: IdRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.internal - b.internal)) {
    const last = result.at(-1);
    const continues =
      last !== undefined &&
      last.internal + last.length === range.internal &&
      last.external + last.length === range.external;
    if (continues) result[result.length - 1] = { ...last, length: last.length + range.length };
    else result.push(range);
  }
  return result;
}

function checkSquash({ name, ranges, squash, squashInternal }: Kind): void {
  if (squash === undefined && squashInternal !== undefined)
    throw new IdMapError(
      `every ${name} id would be squashed to ${squashInternal} inside, but to nothing outside`,
    );
  if (squash === undefined) return;
  for (const id of [squash, squashInternal ?? squash])
    if (!isId(id))
      throw new IdMapError(`${name} ids cannot be squashed to ${id}: ids go from 0 to ${ID_MAX}`);
  if (ranges.length > 0)
    throw new IdMapError(
      `${name} ids are both squashed to ${squash} and mapped by ranges: leave one of them out`,
    );
}

function checkRanges({ name, ranges }: Kind): void {
  if (ranges.length > ID_RANGES_MAX)
    throw new IdMapError(
      `${ranges.length} ranges of ${name} ids are too many: ${ID_RANGES_MAX} are allowed`,
    );
  for (const range of ranges) {
    const problem = rangeProblem(range);
    if (problem !== undefined)
      throw new IdMapError(`the range of ${name} ids "${spelled(range)}" ${problem}`);
  }
  for (const side of ["internal", "external"] as const) {
    const sorted = ranges.toSorted((a, b) => a[side] - b[side]);
    for (const [index, range] of sorted.entries()) {
      const next = sorted[index + 1];
      if (next !== undefined && next[side] < range[side] + range.length)
        throw new IdMapError(
          `the ranges of ${name} ids "${spelled(range)}" and "${spelled(next)}" overlap: ` +
            `both have the ${side} id ${next[side]}`,
        );
    }
  }
}

/** What is wrong with a range by itself, to follow its name in a message. */
function rangeProblem(range: IdRange): string | undefined {
  const { length } = range;
  if (!Number.isInteger(length) || length < 1)
    return "must have a length that is a whole number of at least 1";
  for (const side of ["internal", "external"] as const) {
    if (!isId(range[side]))
      return `must have an ${side} id that is a whole number from 0 to ${ID_MAX}`;
    if (range[side] + length - 1 > ID_MAX)
      return `reaches beyond the last ${side} id, which is ${ID_MAX}`;
  }
  return undefined;
}

function isId(id: number): boolean {
  return Number.isInteger(id) && id >= 0 && id <= ID_MAX;
}

function spelled({ internal, external, length }: IdRange): string {
  return `${internal}:${external}:${length}`;
}
