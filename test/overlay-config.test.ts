// The options of an overlay: how lists are read, what follows from what, and what is refused.

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { IdMapOptions } from "../src/id-map.ts";
import {
  escapeLayer,
  parseLowerdir,
  splitOverlayList,
  takeOverlayOptions,
  type OverlayConfig,
} from "../src/overlay-config.ts";
import { ConfigError } from "../src/passthrough-config.ts";

const UPPER = "lowerdir=/l,upperdir=/u,workdir=/w";

/** What a list is understood as, with paths as they are given. */
function read(list: string): OverlayConfig {
  const { overlay, rest } = takeOverlayOptions([list], "");
  expect(rest).toEqual([]);
  return overlay.config((path) => path);
}

function ids(list: string): IdMapOptions | undefined {
  return takeOverlayOptions([list], "").overlay.ids();
}

function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error("not refused");
}

describe("an overlay", () => {
  test("has the documented defaults", () => {
    expect(read(UPPER)).toEqual({
      lower: ["/l"],
      data: [],
      upper: "/u",
      work: "/w",
      redirectDir: "on",
      index: false,
      nfsExport: false,
      metacopy: false,
      xino: "auto",
      userxattr: false,
      volatile: false,
      fsync: true,
      uuid: "auto",
      timeout: 86_400,
      staticNlink: false,
      noacl: false,
      noxattrs: false,
      writeback: false,
      kernelPassthrough: true,
      xattrPermissions: 0,
      fastIno: false,
      aufsWhiteouts: true,
      explicit: [],
    });
  });

  test("without an upper layer leaves out what is only for one", () => {
    const config = read("lowerdir=/l,volatile,index=on,uuid=on,redirect_dir=on");
    expect(config).toMatchObject({
      upper: undefined,
      work: undefined,
      volatile: false,
      index: false,
      nfsExport: false,
      uuid: "null",
      redirectDir: "follow",
    });
  });

  const understood: [string, Partial<OverlayConfig>][] = [
    ["redirect_dir=on", { redirectDir: "on", explicit: ["redirectDir"] }],
    ["redirect-dir=follow", { redirectDir: "follow" }],
    ["redirect_dir=nofollow", { redirectDir: "nofollow" }],
    ["redirect_dir=off", { redirectDir: "follow" }],
    ["redirect_dir=off,userxattr", { redirectDir: "nofollow", userxattr: true }],
    ["userxattr", { redirectDir: "nofollow", userxattr: true, explicit: ["userxattr"] }],
    ["index=on", { index: true }],
    ["metacopy=on", { metacopy: true, redirectDir: "on" }],
    ["metacopy=off,redirect_dir=off", { metacopy: false, redirectDir: "follow" }],
    ["nfs_export=off", {}],
    ["nfs_export=on", { nfsExport: true, index: true }],
    ["xino=on,uuid=null", { xino: "on", uuid: "null", explicit: ["xino", "uuid"] }],
    ["verity=off", {}],
    ["volatile", { volatile: true, fsync: false }],
    ["volatile,fsync=0", { volatile: true, fsync: false }],
    ["fsync=volatile", { volatile: true, fsync: false }],
    ["fsync=0", { volatile: false, fsync: false }],
    ["sync=0", { fsync: false }],
    ["fsync=1", { fsync: true }],
    ["fsync=auto", { fsync: true }],
    ["timeout=0", { timeout: 0 }],
    ["timeout=1000000000.5", { timeout: 1_000_000_000.5 }],
    ["static_nlink,noacl,fast_ino=1", { staticNlink: true, noacl: true, fastIno: true }],
    ["fast_ino_check=0", { fastIno: false }],
    ["noxattrs=1", { noxattrs: true, noacl: true }],
    ["noxattrs=0", { noxattrs: false, noacl: false }],
    ["writeback=1", { writeback: true, kernelPassthrough: false }],
    ["writeback=0", { writeback: false, kernelPassthrough: true }],
    ["xattr_permissions=2", { xattrPermissions: 2 }],
    ["aufs_whiteouts=off", { aufsWhiteouts: false }],
    ["threaded=1,kernel_cache,splice_read,max_write=65536,private,rslave", {}],
    ["volatile,,volatile,xino=on,xino=on", { volatile: true, xino: "on" }],
  ];
  test.each(understood)("understands %s", (list, expected) => {
    expect(read(`${UPPER},${list}`)).toMatchObject(expected);
  });

  const dataLayers: [string, string[], string[]][] = [
    ["lowerdir=/a:/b::/c::/d", ["/a", "/b"], ["/c", "/d"]],
    ["lowerdir+=/a,lowerdir+=/b:b,datadir+=/c", ["/a", "/b:b"], ["/c"]],
    ["lowerdir=/a,datadir+=/c,datadir+=/d", ["/a"], ["/c", "/d"]],
  ];
  test.each(dataLayers)("has layers of data only: %s", (list, lower, data) => {
    expect(read(`${list},metacopy=on`)).toMatchObject({ lower, data });
  });

  test("leaves what is of the mount", () => {
    const lists = [`ro,${UPPER},fsname=a\\,b`, 'context="u:r:t:s0:c1,c2",sync,volatile'];
    const { overlay, rest } = takeOverlayOptions(lists, "");
    expect(rest).toEqual(["ro", "fsname=a\\,b", 'context="u:r:t:s0:c1,c2"', "sync"]);
    expect(overlay.config((path) => `/root${path}`)).toMatchObject({
      lower: ["/root/l"],
      upper: "/root/u",
      work: "/root/w",
      volatile: true,
    });
  });

  const layers = (count: number): string =>
    Array.from({ length: count }, (_, n) => `/${n}`).join(":");
  test("has up to 500 lower layers", () => {
    expect(read(`lowerdir=${layers(500)}`).lower).toHaveLength(500);
    expect(refusal(() => read(`lowerdir=${layers(501)}`))).toBe(
      "there are 501 lower layers; 500 are the most",
    );
    expect(refusal(() => read(`lowerdir=${layers(500)}::/d,metacopy=on`))).toMatch(
      /^there are 501/,
    );
  });
});

describe("refused is", () => {
  const lists: [string, RegExp][] = [
    ["", /^a lower layer is missing: give lowerdir=DIR/],
    ["upperdir=/u,workdir=/w", /^a lower layer is missing/],
    ["lowerdir=/l,upperdir=/u", /^upperdir needs a workdir: give workdir=DIR/],
    ["lowerdir=/l,workdir=/w", /^workdir is of no use without an upperdir/],
    ["lowerdir", /^lowerdir needs a value/],
    ["lowerdir=", /^lowerdir needs a value/],
    ["lowerdir=:/a", /^lowerdir has an empty layer in ":\/a"/],
    ["lowerdir=/a:", /^lowerdir has an empty layer in "\/a:"/],
    ["lowerdir=::/a", /^lowerdir has an empty layer/],
    ["lowerdir=/a:::/b", /^lowerdir has 3 colons in a row/],
    ["lowerdir=/a::/b:/c", /^lowerdir has a layer behind one of data only/],
    ["lowerdir=/a::/b", /^layers of data only .* need metacopy=on$/],
    ["lowerdir=/a,datadir+=/b,lowerdir+=/c", /^lowerdir\+ must come before the layers of data/],
    ["lowerdir+=/a,lowerdir=/b", /^lowerdir cannot be mixed with lowerdir\+/],
    ["lowerdir+=", /^lowerdir\+ needs a value/],
    ["lowerdir=/a,lowerdir=/b", /^lowerdir is given twice, as "\/a" and as "\/b"/],
    [`${UPPER},upperdir=/v`, /^upperdir is given twice, as "\/u" and as "\/v": leave one/],
    [`${UPPER},xino=on,xino=off`, /^xino is given twice/],
    [`${UPPER},volatile=1`, /^volatile takes no value, not "1"/],
    [`${UPPER},xino`, /^xino must be one of on, off, auto, not ""/],
    [`${UPPER},redirect_dir=yes`, /^redirect_dir must be one of on, follow, nofollow, off/],
    [`${UPPER},index=1`, /^index must be one of on, off, not "1"/],
    [`${UPPER},writeback=on`, /^writeback must be one of 0, 1, not "on"/],
    [`${UPPER},uuid=random`, /^uuid must be one of auto, on, null, off/],
    [`${UPPER},xattr_permissions=3`, /^xattr_permissions must be one of 0, 1, 2/],
    [`${UPPER},fsync=strict`, /^fsync must be one of 0, 1, auto, volatile/],
    [`${UPPER},timeout=soon`, /^timeout must be a number of seconds, such as 5 or 0.5/],
    [`${UPPER},timeout=4294967296`, /^timeout must be .* up to 4294967295$/],
    [`${UPPER},verity=require`, /^verity is not supported/],
    [`${UPPER},verity=maybe`, /^verity must be one of off, on, require/],
    [`${UPPER},plugins=/p.so`, /^plugins is not supported/],
    [`${UPPER},ino32_t`, /^ino32_t is not supported/],
    [`${UPPER},allow_root`, /^allow_root is not supported: give allow_other/],
    [`${UPPER},override_creds`, /^override_creds is not supported/],
    [`${UPPER},metacopy=on,redirect_dir=nofollow`, /^metacopy=on needs redirect_dir=on/],
    [`${UPPER},metacopy=on,redirect_dir=follow`, /^metacopy=on needs redirect_dir=on/],
    ["lowerdir=/l,metacopy=on,redirect_dir=off", /^metacopy=on needs redirect_dir=on/],
    ["lowerdir=/l,nfs_export=on", /^nfs_export=on needs an upper layer/],
    [`${UPPER},nfs_export=on,index=off`, /^nfs_export=on and index=off exclude each other/],
    [`${UPPER},nfs_export=on,metacopy=on`, /^nfs_export=on and metacopy=on exclude each other/],
    [`${UPPER},nfs_export=on,userxattr`, /^nfs_export=on needs trusted.overlay attributes/],
    [`${UPPER},nfs_export=on,xattr_permissions=2`, /^nfs_export=on needs .* owners in the inodes/],
    [`${UPPER},userxattr,redirect_dir=on`, /^userxattr and redirect_dir=on exclude each other/],
    [`${UPPER},userxattr,redirect_dir=follow`, /^userxattr and redirect_dir=follow exclude/],
    [`${UPPER},userxattr,metacopy=on`, /^userxattr and metacopy=on exclude each other/],
    [`${UPPER},volatile,fsync=1`, /^volatile and fsync=1 exclude each other/],
    [`${UPPER},uidmapping=0:1`, /^uidmapping must be triples STORED:SHOWN:LENGTH/],
    [`${UPPER},uidmapping=0:1:0`, /^uidmapping: the range of ids "0:1:0" must have a length/],
    [`${UPPER},gidmapping=a:b:c`, /^gidmapping: "a:b:c" is not a range of ids/],
    [`${UPPER},squash_to_uid=root`, /^squash_to_uid must be an id/],
    [`${UPPER},squash_to_gid=4294967295`, /^squash_to_gid must be an id/],
  ];
  test.each(lists)("%s", (list, message) => {
    expect(refusal(() => read(list))).toMatch(message);
  });

  test("writeback together with kernel passthrough", () => {
    const { overlay } = takeOverlayOptions([`${UPPER},writeback=1`], "");
    const config = (): unknown => overlay.config((path) => path, { kernelPassthrough: true });
    expect(refusal(config)).toBe("writeback and kernel passthrough exclude each other");
  });

  test("an option by how it was written", () => {
    expect(refusal(() => takeOverlayOptions(["redirect-dir=1"], "-o "))).toMatch(
      /^-o redirect-dir must be one of/,
    );
  });
});

describe("ids", () => {
  const [root, user] = [
    { internal: 0, external: 1000, length: 1 },
    { internal: 1, external: 110_000, length: 65_536 },
  ];
  const maps: [string, IdMapOptions | undefined][] = [
    [UPPER, undefined],
    ["uidmapping=0:1000:1:1:110000:65536", { uids: [root, user], gids: [] }],
    ["gidmapping=:0:1000:1:1:110000:65536", { uids: [], gids: [root, user] }],
    ["uidmapping=0:1000:1,uidmapping=1:110000:65536", { uids: [root, user], gids: [] }],
    ["squash_to_root", { uids: [], gids: [], squashUid: 0, squashGid: 0 }],
    ["squash_to_uid=5,squash_to_root", { uids: [], gids: [], squashUid: 5, squashGid: 0 }],
    ["squash_to_gid=7", { uids: [], gids: [], squashGid: 7 }],
    [
      "uidmapping=0:1000:1,squash_to_uid=1000",
      { uids: [], gids: [], squashUid: 1000, squashUidInternal: 0 },
    ],
  ];
  test.each(maps)("of %s", (list, expected) => {
    expect(ids(list)).toEqual(expected);
  });

  test("that can't be mapped are refused", () => {
    expect(refusal(() => ids("uidmapping=0:0:2:1:5:1"))).toMatch(/^the ids cannot .* overlap/);
    expect(refusal(() => ids("uidmapping=0:1000:1,squash_to_uid=0"))).toMatch(/nobody could own/);
  });
});

describe("any path", () => {
  // What a path can't have is a NUL, and an empty one is none.
  const path = fc
    .array(fc.constantFrom("a", "/", "\\", ",", ":", "=", '"', "+", " ", "\n", "é", "𝄞"), {
      minLength: 1,
      maxLength: 12,
    })
    .map((parts) => parts.join(""));

  test("comes back from a list that it was escaped for", () => {
    fc.assert(
      fc.property(
        fc.array(path, { minLength: 1, maxLength: 5 }),
        fc.array(path, { maxLength: 3 }),
        path,
        path,
        (lower, data, upper, work) => {
          const all = [lower.map(escapeLayer).join(":"), ...data.map(escapeLayer)].join("::");
          const list =
            `volatile,lowerdir=${all},upperdir=${escapeLayer(upper)},` +
            `metacopy=on,workdir=${escapeLayer(work)}`;
          expect(read(list)).toMatchObject({ lower, data, upper, work });
          const each = [
            ...lower.map((one) => `lowerdir+=${escapeLayer(one)}`),
            ...data.map((one) => `datadir+=${escapeLayer(one)}`),
          ];
          expect(read(`${each.join(",")},metacopy=on`)).toMatchObject({ lower, data });
        },
      ),
    );
  });

  test("is either read or refused, however it is written", () => {
    fc.assert(
      fc.property(path, (text) => {
        const items = splitOverlayList(text);
        // Nothing is lost but the commas between the items.
        expect(items.join(",").length).toBeLessThanOrEqual(text.length);
        try {
          const { lower, data } = parseLowerdir(text);
          expect([...lower, ...data]).not.toContain("");
          expect(lower.length).toBeGreaterThan(0);
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError);
        }
      }),
    );
  });

  test("may end with a backslash, as the kernel reads it", () => {
    expect(parseLowerdir("/a\\")).toEqual({ lower: ["/a\\"], data: [] });
    expect(splitOverlayList("upperdir=/a\\")).toEqual(["upperdir=/a\\"]);
  });
});
