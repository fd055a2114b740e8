// Maps of user and group ids: by examples, against models that try every id, and POSIX ACLs byte
// by byte. fast-check prints the seed of a failure, which `fc.assert`'s options take again.

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { EINVAL, EOVERFLOW } from "../src/errno.ts";
import {
  composeIdMaps,
  IdMap,
  IdMapError,
  mapAcl,
  OVERFLOW_ID,
  parseIdRange,
  type IdMapOptions,
  type IdRange,
} from "../src/id-map.ts";
import { hex } from "./support-server.ts";

const NO_ID = 0xffffffff;
const ID_MAX = 0xfffffffe;

const range = (internal: number, external: number, length: number): IdRange => ({
  internal,
  external,
  length,
});
const users = (...uids: IdRange[]): IdMapOptions => ({ uids, gids: [] });
const CONTAINER: IdMapOptions = {
  uids: [range(100000, 0, 65536)],
  gids: [range(200000, 0, 1000), range(5, 1000, 1)],
};

/** What a person reads. */
function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(IdMapError);
    return (error as IdMapError).message;
  }
  throw new Error("nothing was thrown");
}

// Few ids, so that ranges meet often; and as many at the upper end, where 32 bits are full.
const SMALL = 24;
const HIGH = ID_MAX - SMALL + 1;
const nearIds = [...Array(SMALL + 4).keys()].flatMap((id) => [id, HIGH - 4 + id]);
const ids = [...nearIds, OVERFLOW_ID, 2 ** 31 - 1, 2 ** 31, NO_ID].filter((id) => id <= NO_ID);

const smallId = fc
  .tuple(fc.nat(SMALL - 1), fc.boolean())
  .map(([id, high]) => id + (high ? HIGH : 0));
const anyRange = fc
  .tuple(smallId, smallId, fc.integer({ min: 1, max: 8 }))
  .map(([internal, external, length]) => range(internal, external, length));
/** Sound ones: what would overlap or reach beyond the end is left out. */
const soundRanges = fc.array(anyRange, { minLength: 1, maxLength: 8 }).map((list) => {
  const kept: IdRange[] = [];
  for (const each of list) if (modelAccepts([...kept, each])) kept.push(each);
  return kept;
});
const nonEmpty = soundRanges.filter((list) => list.length > 0);
const nothing = fc.constant({ ranges: [] as IdRange[], squash: undefined });
const kind = fc.oneof(
  { weight: 4, arbitrary: nonEmpty.map((ranges) => ({ ranges, squash: undefined })) },
  { weight: 1, arbitrary: smallId.map((squash) => ({ ranges: [] as IdRange[], squash })) },
  { weight: 1, arbitrary: nothing },
);
const anyMap = fc.tuple(kind, kind).map(([forUsers, forGroups]): IdMapOptions => ({
  uids: forUsers.ranges,
  gids: forGroups.ranges,
  squashUid: forUsers.squash,
  squashGid: forGroups.squash,
}));

/** Whether ranges may be together, found by going through every id. */
function modelAccepts(ranges: readonly IdRange[]): boolean {
  const internal = new Set<number>();
  const external = new Set<number>();
  for (const each of ranges)
    for (let index = 0; index < each.length; index++) {
      if (each.internal + index > ID_MAX || each.external + index > ID_MAX) return false;
      if (internal.has(each.internal + index) || external.has(each.external + index)) return false;
      internal.add(each.internal + index);
      external.add(each.external + index);
    }
  return true;
}

/** The pairs of a map, internal id to external id. */
function modelPairs(ranges: readonly IdRange[]): Map<number, number> {
  const pairs = new Map<number, number>();
  for (const each of ranges)
    for (let index = 0; index < each.length; index++)
      pairs.set(each.internal + index, each.external + index);
  return pairs;
}

describe("a map of ids", () => {
  test("turns ids of its ranges around, and no others", () => {
    const map = new IdMap(CONTAINER);
    expect([map.mapsUids, map.mapsGids]).toEqual([true, true]);
    expect([100000, 101000, 165535].map((id) => map.uidToExternal(id))).toEqual([0, 1000, 65535]);
    expect([0, 1000, 65535].map((id) => map.uidToInternal(id))).toEqual([100000, 101000, 165535]);
    for (const id of [0, 99999, 165536, ID_MAX, NO_ID]) {
      expect(map.uidToExternal(id)).toBe(OVERFLOW_ID);
      expect(map.hasUid(id)).toBe(false);
    }
    for (const id of [65536, 100000, ID_MAX, NO_ID]) expect(map.uidToInternal(id)).toBe(-EOVERFLOW);
    expect([5, 200999, 201000].map((id) => map.gidToExternal(id))).toEqual([1000, 999, 65534]);
    expect([999, 1000, 1001].map((id) => map.gidToInternal(id))).toEqual([200999, 5, -EOVERFLOW]);
    expect([4, 5, 6].map((id) => map.hasGid(id))).toEqual([false, true, false]);
  });

  test("tells an id that is shown as the overflow id from one without a mapping", () => {
    const map = new IdMap(users(range(7, OVERFLOW_ID, 1)));
    expect([7, 8].map((id) => map.uidToExternal(id))).toEqual([OVERFLOW_ID, OVERFLOW_ID]);
    expect([7, 8].map((id) => map.hasUid(id))).toEqual([true, false]);
    expect(map.uidToInternal(OVERFLOW_ID)).toBe(7);
  });

  test("leaves ids of a kind without ranges as they are", () => {
    const map = new IdMap(users(range(1, 2, 1)));
    expect(map.mapsGids).toBe(false);
    const groupsOnly = new IdMap({ uids: [], gids: [range(1, 2, 1)] });
    expect([groupsOnly.mapsUids, groupsOnly.mapsGids]).toEqual([false, true]);
    for (const id of [0, 2 ** 31, ID_MAX, NO_ID]) {
      expect(map.gidToExternal(id)).toBe(id);
      expect(map.gidToInternal(id)).toBe(id);
      expect(map.hasGid(id)).toBe(id !== NO_ID);
      expect(groupsOnly.uidToExternal(id)).toBe(id);
      expect(groupsOnly.uidToInternal(id)).toBe(id);
      expect(groupsOnly.hasUid(id)).toBe(id !== NO_ID);
    }
  });

  test("knows ids of 32 bits", () => {
    const map = new IdMap(users(range(0, 2 ** 31, 2 ** 31 - 1), range(2 ** 31, 0, 2 ** 31 - 1)));
    expect(map.uidToExternal(0)).toBe(2 ** 31);
    expect(map.uidToExternal(2 ** 31 - 2)).toBe(ID_MAX);
    expect(map.uidToExternal(ID_MAX)).toBe(2 ** 31 - 2);
    expect(map.uidToInternal(ID_MAX)).toBe(2 ** 31 - 2);
    expect(map.uidToInternal(NO_ID)).toBe(-EOVERFLOW);
    const whole = new IdMap(users(range(0, 0, NO_ID)));
    expect(whole.uidToExternal(ID_MAX)).toBe(ID_MAX);
    expect(whole.uidToInternal(NO_ID)).toBe(-EOVERFLOW);
  });

  test("squashes every id, but not the lack of one", () => {
    const map = new IdMap({ uids: [], gids: [], squashUid: 1000, squashGid: 0 });
    expect([map.mapsUids, map.mapsGids]).toEqual([true, true]);
    for (const id of [0, 1000, ID_MAX]) {
      expect([map.uidToExternal(id), map.uidToInternal(id), map.hasUid(id)]).toEqual([
        1000,
        1000,
        true,
      ]);
      expect([map.gidToExternal(id), map.gidToInternal(id), map.hasGid(id)]).toEqual([0, 0, true]);
    }
    expect([map.uidToExternal(NO_ID), map.uidToInternal(NO_ID)]).toEqual([OVERFLOW_ID, -EOVERFLOW]);
    expect(map.hasUid(NO_ID)).toBe(false);
  });

  test("squashes to one id outside and another inside", () => {
    const map = new IdMap({ uids: [], gids: [], squashUid: 0, squashUidInternal: 100000 });
    expect([5, 100000].map((id) => map.uidToExternal(id))).toEqual([0, 0]);
    expect([5, 100000].map((id) => map.uidToInternal(id))).toEqual([100000, 100000]);
    expect(map.mapsGids).toBe(false);
  });

  test("does as the model does, and its inverse undoes it", () => {
    fc.assert(
      fc.property(nonEmpty, nonEmpty, (uids, gids) => {
        const map = new IdMap({ uids, gids });
        const swapped = ({ internal, external, length }: IdRange): IdRange =>
          range(external, internal, length);
        const inverse = new IdMap({ uids: uids.map(swapped), gids: gids.map(swapped) });
        const [uidPairs, gidPairs] = [modelPairs(uids), modelPairs(gids)];
        for (const id of ids) {
          const [uid, gid] = [uidPairs.get(id), gidPairs.get(id)];
          expect(map.uidToExternal(id)).toBe(uid ?? OVERFLOW_ID);
          expect(map.gidToExternal(id)).toBe(gid ?? OVERFLOW_ID);
          expect(map.hasUid(id)).toBe(uid !== undefined);
          expect(map.hasGid(id)).toBe(gid !== undefined);
          expect(inverse.uidToInternal(id)).toBe(uid ?? -EOVERFLOW);
          expect(inverse.gidToInternal(id)).toBe(gid ?? -EOVERFLOW);
          if (uid !== undefined) expect(map.uidToInternal(uid)).toBe(id);
          if (gid !== undefined) expect(map.gidToInternal(gid)).toBe(id);
        }
      }),
    );
  });

  test("refuses ranges exactly when an id would be twice in them, or is none", () => {
    let accepted = 0;
    let refused = 0;
    fc.assert(
      fc.property(fc.array(anyRange, { maxLength: 5 }), (ranges) => {
        const sound = modelAccepts(ranges);
        if (sound) accepted++;
        else refused++;
        if (sound) new IdMap(users(...ranges));
        else expect(() => new IdMap(users(...ranges))).toThrow(IdMapError);
        if (sound) new IdMap({ uids: [], gids: ranges });
        else expect(() => new IdMap({ uids: [], gids: ranges })).toThrow(IdMapError);
      }),
      { numRuns: 500 },
    );
    // Both have to happen for this to show anything.
    expect(Math.min(accepted, refused)).toBeGreaterThan(50);
  });

  test("stays the same when it is sent as JSON", () => {
    fc.assert(
      fc.property(anyMap, (options) => {
        const map = new IdMap(options);
        const sent = new IdMap(JSON.parse(JSON.stringify(options)) as IdMapOptions);
        for (const id of ids) {
          expect(sent.uidToExternal(id)).toBe(map.uidToExternal(id));
          expect(sent.gidToInternal(id)).toBe(map.gidToInternal(id));
        }
      }),
    );
  });

  test("has up to 340 ranges of a kind", () => {
    const ranges = (count: number): IdRange[] =>
      Array.from({ length: count }, (_, index) => range(3 * index, 10 * (count - index), 2));
    const map = new IdMap(users(...ranges(340)));
    for (const each of ranges(340)) {
      expect(map.uidToExternal(each.internal + 1)).toBe(each.external + 1);
      expect(map.uidToExternal(each.internal + 2)).toBe(OVERFLOW_ID);
      expect(map.uidToInternal(each.external + 1)).toBe(each.internal + 1);
      expect(map.uidToInternal(each.external + 2)).toBe(-EOVERFLOW);
    }
    expect(refusal(() => new IdMap({ uids: [], gids: ranges(341) }))).toBe(
      "341 ranges of group ids are too many: 340 are allowed",
    );
  });

  test.each<[string, IdMapOptions]>([
    [
      'the ranges of user ids "0:0:10" and "9:100:5" overlap: both have the internal id 9',
      users(range(9, 100, 5), range(0, 0, 10)),
    ],
    [
      'the ranges of group ids "0:7:1" and "5:7:2" overlap: both have the external id 7',
      { uids: [], gids: [range(0, 7, 1), range(5, 7, 2)] },
    ],
    [
      'the range of user ids "0:0:0" must have a length that is a whole number of at least 1',
      users(range(0, 0, 0)),
    ],
    [
      'the range of user ids "0:0:1.5" must have a length that is a whole number of at least 1',
      users(range(0, 0, 1.5)),
    ],
    [
      'the range of user ids "-1:0:1" must have an internal id that is a whole number ' +
        "from 0 to 4294967294",
      users(range(-1, 0, 1)),
    ],
    [
      'the range of user ids "0:NaN:1" must have an external id that is a whole number ' +
        "from 0 to 4294967294",
      users(range(0, NaN, 1)),
    ],
    [
      'the range of user ids "0:4294967294:2" reaches beyond the last external id, ' +
        "which is 4294967294",
      users(range(0, ID_MAX, 2)),
    ],
    [
      "user ids are both squashed to 0 and mapped by ranges: leave one of them out",
      { ...CONTAINER, squashUid: 0 },
    ],
    [
      "group ids cannot be squashed to 4294967295: ids go from 0 to 4294967294",
      { uids: [], gids: [], squashGid: NO_ID },
    ],
    [
      "user ids cannot be squashed to -1: ids go from 0 to 4294967294",
      { uids: [], gids: [], squashUid: 0, squashUidInternal: -1 },
    ],
    [
      "every user id would be squashed to 5 inside, but to nothing outside",
      { uids: [], gids: [], squashUidInternal: 5 },
    ],
  ])("is refused: %s", (message, options) => {
    expect(refusal(() => new IdMap(options))).toBe(message);
    expect(refusal(() => composeIdMaps(options, undefined))).toBe(message);
    expect(refusal(() => composeIdMaps({ uids: [], gids: [] }, options))).toBe(message);
  });
});

describe("two maps, one behind the other,", () => {
  test("are the one that there is", () => {
    expect(composeIdMaps(undefined, undefined)).toBeUndefined();
    expect(composeIdMaps(CONTAINER, undefined)).toEqual(CONTAINER);
    expect(composeIdMaps(undefined, CONTAINER)).toEqual(CONTAINER);
    const none = { uids: [], gids: [] };
    expect(composeIdMaps(CONTAINER, none)).toEqual(CONTAINER);
    expect(composeIdMaps(none, CONTAINER)).toEqual(CONTAINER);
    expect(composeIdMaps(none, none)).toEqual(none);
  });

  test("map what both map, in as few ranges as will do", () => {
    const inner = users(range(100000, 0, 10), range(200000, 10, 10));
    expect(composeIdMaps(inner, users(range(5, 1005, 10)))).toEqual(
      users(range(100005, 1005, 5), range(200000, 1010, 5)),
    );
    expect(
      composeIdMaps(users(range(0, 50, 20)), users(range(60, 10, 10), range(50, 0, 10))),
    ).toEqual(users(range(0, 0, 20)));
  });

  test("squash to what the outer one says, and use what that is in the inner one", () => {
    const outer = { uids: [], gids: [], squashUid: 0, squashGid: 1000 };
    const map = new IdMap(composeIdMaps(CONTAINER, outer)!);
    expect([3, 100000, ID_MAX].map((id) => map.uidToExternal(id))).toEqual([0, 0, 0]);
    expect([3, 100000, ID_MAX].map((id) => map.uidToInternal(id))).toEqual([
      100000, 100000, 100000,
    ]);
    expect([map.gidToExternal(77), map.gidToInternal(77)]).toEqual([1000, 5]);
    // A third one in front goes the same way.
    const third = new IdMap(composeIdMaps(composeIdMaps(CONTAINER, outer), users(range(0, 9, 1)))!);
    expect([third.uidToExternal(3), third.uidToInternal(9)]).toEqual([9, 100000]);
  });

  test("take what the outer squash uses, not what it shows, to the inner ranges", () => {
    const outer = { uids: [], gids: [], squashUid: 70000, squashUidInternal: 9 };
    const map = new IdMap(composeIdMaps(CONTAINER, outer)!);
    expect([map.uidToExternal(3), map.uidToInternal(3)]).toEqual([70000, 100009]);
  });

  test("squash to what the inner one says, and show what that is in the outer one", () => {
    const inner = { uids: [], gids: [], squashUid: 100007, squashGid: 5 };
    const map = new IdMap(composeIdMaps(inner, CONTAINER)!);
    expect([map.uidToExternal(3), map.uidToInternal(3)]).toEqual([7, 100007]);
    // The outer map by itself would refuse this one.
    expect(map.uidToInternal(70000)).toBe(100007);
    expect([map.gidToExternal(3), map.gidToInternal(3)]).toEqual([1000, 5]);
  });

  test("that both squash show the outer id and use the inner one", () => {
    const inner = { uids: [], gids: [], squashUid: 1, squashUidInternal: 2 };
    const outer = { uids: [], gids: [], squashUid: 3, squashUidInternal: 4 };
    expect(composeIdMaps(inner, outer)).toEqual({
      uids: [],
      gids: [],
      squashUid: 3,
      squashUidInternal: 2,
    });
    expect(
      composeIdMaps({ ...outer, squashUidInternal: 3 }, { uids: [], gids: [], squashUid: 3 }),
    ).toEqual({ uids: [], gids: [], squashUid: 3 });
  });

  test.each<[string, IdMapOptions, IdMapOptions]>([
    [
      "the two maps have no user id in common: " +
        "no external id of the inner one is an internal id of the outer one",
      users(range(0, 100, 10)),
      users(range(110, 0, 10), range(0, 50, 10)),
    ],
    [
      "the outer map squashes every user to 70000, which is in none of " +
        "the inner map's ranges of external user ids: nobody could own anything",
      CONTAINER,
      { uids: [], gids: [], squashUid: 70000 },
    ],
    [
      "the inner map squashes every group to 6, which is in none of " +
        "the outer map's ranges of internal group ids: nobody would own anything",
      { uids: [], gids: [], squashGid: 6 },
      CONTAINER,
    ],
  ])("are refused: %s", (message, inner, outer) => {
    expect(refusal(() => composeIdMaps(inner, outer))).toBe(message);
  });

  test("are refused when they come to too many ranges", () => {
    const inner = Array.from({ length: 340 }, (_, index) => range(20 * index, 10 * index, 10));
    const outer = Array.from({ length: 340 }, (_, index) => range(10 * index + 5, 20 * index, 10));
    expect(refusal(() => composeIdMaps(users(...inner), users(...outer)))).toBe(
      "679 ranges of user ids are too many: 340 are allowed",
    );
  });

  test("do what they do one after the other", () => {
    let composed = 0;
    fc.assert(
      fc.property(anyMap, anyMap, (innerOptions, outerOptions) => {
        const inner = new IdMap(innerOptions);
        const outer = new IdMap(outerOptions);
        let options: IdMapOptions;
        try {
          options = composeIdMaps(innerOptions, outerOptions)!;
        } catch (error) {
          expect(error).toBeInstanceOf(IdMapError);
          // Then there is a kind of which no id can be shown or none can be used.
          const shown = (id: number): boolean[] => [
            inner.hasUid(id) && outer.hasUid(inner.uidToExternal(id)),
            inner.hasGid(id) && outer.hasGid(inner.gidToExternal(id)),
          ];
          const used = (id: number): boolean[] => [
            throughBoth(outer.uidToInternal(id), (middle) => inner.uidToInternal(middle)) >= 0,
            throughBoth(outer.gidToInternal(id), (middle) => inner.gidToInternal(middle)) >= 0,
          ];
          const lacking = [0, 1].some(
            (kind) => ids.every((id) => !shown(id)[kind]) || ids.every((id) => !used(id)[kind]),
          );
          expect(lacking).toBe(true);
          return;
        }
        composed++;
        const both = new IdMap(options);
        for (const id of ids.filter((each) => each !== NO_ID)) {
          const [uid, gid] = [inner.uidToExternal(id), inner.gidToExternal(id)];
          // A squash shows also what had no mapping behind it.
          const uidShown = outerOptions.squashUid !== undefined || inner.hasUid(id);
          const gidShown = outerOptions.squashGid !== undefined || inner.hasGid(id);
          expect(both.uidToExternal(id)).toBe(uidShown ? outer.uidToExternal(uid) : OVERFLOW_ID);
          expect(both.gidToExternal(id)).toBe(gidShown ? outer.gidToExternal(gid) : OVERFLOW_ID);
          expect(both.hasUid(id)).toBe(uidShown && outer.hasUid(uid));
          expect(both.hasGid(id)).toBe(gidShown && outer.hasGid(gid));
          expect(both.uidToInternal(id)).toBe(
            innerOptions.squashUid ??
              throughBoth(outer.uidToInternal(id), (middle) => inner.uidToInternal(middle)),
          );
          expect(both.gidToInternal(id)).toBe(
            innerOptions.squashGid ??
              throughBoth(outer.gidToInternal(id), (middle) => inner.gidToInternal(middle)),
          );
        }
      }),
      { numRuns: 500 },
    );
    expect(composed).toBeGreaterThan(50);
  });
});

/** The error of the first step, or what the second makes of it. */
function throughBoth(first: number, second: (id: number) => number): number {
  return first < 0 ? first : second(first);
}

describe("a range as text", () => {
  test("has three numbers", () => {
    expect(parseIdRange("100000:0:65536")).toEqual(range(100000, 0, 65536));
    expect(parseIdRange("0:4294967294:1")).toEqual(range(0, ID_MAX, 1));
    expect(parseIdRange("007:8:9")).toEqual(range(7, 8, 9));
  });

  test("comes back from what it was written as", () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(), fc.integer({ min: 1 }), (internal, external, length) => {
        const text = `${internal}:${external}:${length}`;
        expect(parseIdRange(text)).toEqual(range(internal, external, length));
      }),
    );
  });

  test.each([
    "",
    "1",
    "1:2",
    "1:2:3:4",
    "1:2:",
    "a:b:c",
    "-1:0:1",
    "1:2:0x10",
    "1: 2:3",
    "1.5:0:1",
    "1:2:3\n",
    "1:2:1e3",
  ])("is not %j", (text) => {
    expect(refusal(() => parseIdRange(text))).toBe(
      `"${text}" is not a range of ids: write INTERNAL:EXTERNAL:LENGTH, ` +
        "such as 100000:0:65536 to show the 65536 ids from 100000 on as those from 0 on",
    );
  });

  test.each([
    ["1:2:0", "must have a length that is a whole number of at least 1"],
    ["4294967295:0:1", "must have an internal id that is a whole number from 0 to 4294967294"],
    ["0:4294967295:1", "must have an external id that is a whole number from 0 to 4294967294"],
    ["1:0:4294967295", "reaches beyond the last internal id, which is 4294967294"],
    [`1:2:${"9".repeat(30)}`, "reaches beyond the last internal id, which is 4294967294"],
  ])("has to make sense: %s", (text, problem) => {
    expect(refusal(() => parseIdRange(text))).toBe(`the range of ids "${text}" ${problem}`);
  });
});

describe("a POSIX ACL", () => {
  const map = new IdMap(CONTAINER);
  const entry = (...entries: string[]): string => ["02000000", ...entries].join(" ");
  // user::rw-, user:1000:r--, group::r--, group:1000:rw-, mask::rw-, other::---, from outside.
  const OUTSIDE = entry(
    "0100 0600 ffffffff",
    "0200 0400 e8030000",
    "0400 0400 ffffffff",
    "0800 0600 e8030000",
    "1000 0600 ffffffff",
    "2000 0000 ffffffff",
  );
  // The same with user 101000 and group 5.
  const INSIDE = entry(
    "0100 0600 ffffffff",
    "0200 0400 888a0100",
    "0400 0400 ffffffff",
    "0800 0600 05000000",
    "1000 0600 ffffffff",
    "2000 0000 ffffffff",
  );

  /** What becomes of an ACL that lies at an odd place among other bytes, which must stay. */
  function mapped(text: string, towards: "internal" | "external", through = map): number | string {
    const acl = hex(text);
    const bytes = new Uint8Array(acl.length + 32).fill(0x55);
    const view = new DataView(bytes.buffer, 8);
    bytes.set(acl, 8 + 5);
    const result = mapAcl(view, 5, acl.length, through, towards);
    expect(bytes.subarray(0, 13)).toEqual(new Uint8Array(13).fill(0x55));
    expect(bytes.subarray(13 + acl.length)).toEqual(new Uint8Array(19).fill(0x55));
    return result >= 0 ? bytes.subarray(13, 13 + result).toHex() : result;
  }
  const plain = (text: string): string => text.replaceAll(" ", "");

  test("has the ids of its user and group entries mapped, both ways", () => {
    expect(mapped(OUTSIDE, "internal")).toBe(plain(INSIDE));
    expect(mapped(INSIDE, "external")).toBe(plain(OUTSIDE));
  });

  test("keeps the ids of a kind that is not mapped", () => {
    const through = new IdMap(users(range(101000, 1000, 1)));
    expect(mapped(entry("0200 0400 e8030000", "0800 0600 feffffff"), "internal", through)).toBe(
      plain(entry("0200 0400 888a0100", "0800 0600 feffffff")),
    );
  });

  test("leaves out who has no id outside", () => {
    const rest = ["0100 0600 ffffffff", "0200 0400 888a0100", "2000 0400 ffffffff"] as const;
    const [first, known, last] = rest;
    expect(
      mapped(entry(first, "0200 0400 07000000", known, "0800 0600 07000000", last), "external"),
    ).toBe(mapped(entry(...rest), "external") as string);
    expect(mapped(entry("0200 0400 07000000"), "external")).toBe("02000000");
    // One that is mapped to the overflow id is shown as that.
    const through = new IdMap(users(range(7, OVERFLOW_ID, 1)));
    expect(mapped(entry("0200 0400 07000000"), "external", through)).toBe(
      plain(entry("0200 0400 feff0000")),
    );
  });

  test.each([
    ["a user", "0200 0400 00000100"],
    ["a group", "0800 0400 00000100"],
    ["no user", "0200 0400 ffffffff"],
    ["no group", "0800 0400 ffffffff"],
  ])("is refused with %s that is outside of every range", (_what, text) => {
    expect(mapped(entry(text), "internal")).toBe(-EINVAL);
    expect(mapped(entry("0100 0600 ffffffff", text, "2000 0000 ffffffff"), "internal")).toBe(
      -EINVAL,
    );
  });

  test("may have no entries, or be none at all", () => {
    for (const towards of ["internal", "external"] as const) {
      expect(mapped("02000000", towards)).toBe("02000000");
      expect(mapped("", towards)).toBe("");
    }
  });

  test.each([
    ["half a version", "0200"],
    ["another version", "01000000"],
    ["a version with high bits", "02000080"],
    ["half an entry", "02000000 01000600"],
    ["an entry and a byte", "02000000 01000600 ffffffff 00"],
    ["an unknown tag", "02000000 40000600 e8030000"],
    ["two tags in one", "02000000 0a000600 e8030000"],
    ["no tag", "02000000 00000600 e8030000"],
  ])("is malformed with %s", (_what, text) => {
    expect(mapped(text, "internal")).toBe(-EINVAL);
    expect(mapped(text, "external")).toBe(-EINVAL);
  });

  test("comes back as it was from every map that has its ids", () => {
    const tag = fc.constantFrom(0x01, 0x02, 0x04, 0x08, 0x10, 0x20);
    const entries = fc.array(fc.tuple(tag, fc.nat(7), fc.nat()), { maxLength: 12 });
    fc.assert(
      fc.property(nonEmpty, nonEmpty, entries, (uids, gids, list) => {
        const through = new IdMap({ uids, gids });
        const [innerUids, innerGids] = [modelPairs(uids), modelPairs(gids)].map((pairs) => [
          ...pairs.keys(),
        ]) as [number[], number[]];
        const bytes = new Uint8Array(4 + 8 * list.length);
        const view = new DataView(bytes.buffer);
        view.setUint32(0, 2, true);
        for (const [index, [tagOf, permissions, which]] of list.entries()) {
          const known = tagOf === 0x08 ? innerGids : innerUids;
          const id = tagOf === 0x02 || tagOf === 0x08 ? known[which % known.length]! : NO_ID;
          view.setUint16(4 + 8 * index, tagOf, true);
          view.setUint16(6 + 8 * index, permissions, true);
          view.setUint32(8 + 8 * index, id, true);
        }
        const before = bytes.slice();
        expect(mapAcl(view, 0, bytes.length, through, "external")).toBe(bytes.length);
        expect(mapAcl(view, 0, bytes.length, through, "internal")).toBe(bytes.length);
        expect(bytes).toEqual(before);
      }),
    );
  });
});
