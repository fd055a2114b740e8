// The configuration file of `vfs`: what it means, and what is said of a wrong one.

import { describe, expect, test } from "bun:test";
import { DIRECTORY_OPTIONS } from "../src/cli-options.ts";
import type { IdMapOptions } from "../src/id-map.ts";
import { CACHE_POLICIES, ConfigError, FILE_HANDLES } from "../src/passthrough-config.ts";
import {
  validatePath,
  type CommandLine,
  type ConnectionConfig,
  type VfsConfig,
} from "../src/vfs-config.ts";
import { parseVfsConfig } from "../src/vfs-config-file.ts";
import schema from "../docs/vfs-config.schema.json";
import { DEFAULTS } from "./support-passthrough.ts";

const FILE = "/etc/fuse/vfs.json";
const CONNECTION: ConnectionConfig = {
  writeback: undefined,
  xattr: undefined,
  noOpen: undefined,
  noOpendir: undefined,
  killprivV2: undefined,
  kernelPassthrough: undefined,
  locks: undefined,
};

/** Options of the command line. */
const SPELLED = new Map([
  ["workers", "--workers"],
  ["ro", "-o ro"],
]);

/** What the command line says. */
interface Said {
  readonly connection?: Partial<ConnectionConfig>;
  readonly ids?: IdMapOptions;
}

function parse(text: string, { connection, ids }: Said = {}): VfsConfig {
  const commandLine: CommandLine = {
    connection: { ...CONNECTION, ...connection },
    ids,
    spelled: (name) => SPELLED.get(name),
  };
  return parseVfsConfig(text, FILE, commandLine);
}

/** A file with one mount that has these members besides the necessary ones. */
function withMember(member: string): string {
  return `{
  "mounts": [
    {
      "path": "/a", "backend": "passthrough", "source": "/src",
      ${member}
    }
  ]
}`;
}

/** The lines that refuse a file. */
function refusal(text: string, said: Said = {}): string[] {
  try {
    parse(text, said);
  } catch (error) {
    if (error instanceof ConfigError) return error.message.split("\n");
    throw error;
  }
  throw new Error("not refused");
}

const range = (internal: number, external: number, length: number) => ({
  internal,
  external,
  length,
});

describe("a file", () => {
  test("may have no mounts", () => {
    expect(parse('{ "mounts": [] }')).toEqual({ mounts: [], ids: undefined });
  });

  test("has the defaults of passthrough", () => {
    const { mounts } = parse(
      '{"$schema": 7, "mounts": [{"path": "/", "backend": "passthrough", "source": "/src"}]}',
    );
    expect(mounts).toEqual([
      {
        path: "/",
        ids: undefined,
        passthrough: DEFAULTS,
      },
    ]);
  });

  test.each([
    ['"cache": "always"', { cache: "always", attrTimeout: 86_400 }],
    ['"attr-timeout": 0.25', { attrTimeout: 0.25, dirAttrTimeout: 0.25, entryTimeout: 5 }],
    ['"entry-timeout": 1e1', { entryTimeout: 10 }],
    ['"dir-attr-timeout": 7', { dirAttrTimeout: 7, attrTimeout: 5 }],
    ['"dir-entry-timeout": 0', { dirEntryTimeout: 0, entryTimeout: 5 }],
    ['"readdir": false', { noReaddir: true }],
    ['"no-readdir": true', { noReaddir: true }],
    ['"no-readdir": false', { noReaddir: false }],
    ['"inode-file-handles": "never"', { inodeFileHandles: "never" }],
    ['"seal-size": true', { sealSize: true, kernelPassthrough: false }],
    ['"mntid": true', { mntid: true }],
    ['"use-host-ino": true', { useHostIno: true }],
    ['"allow-direct-io": false', { allowDirectIo: false, kernelPassthrough: false }],
    ['"dax-file-size": 4096', { daxFileSize: 4096 }],
    [String.raw`"c\u0061che": "never"`, { cache: "never" }],
  ])("may say %s of a mount", (member, expected) => {
    expect(parse(withMember(member)).mounts[0]?.passthrough).toMatchObject(expected);
  });

  test("finds a source beside itself", () => {
    const sourceOf = (source: string): string | undefined =>
      parse(`{"mounts": [{"path": "/a", "backend": "passthrough", "source": "${source}"}]}`)
        .mounts[0]?.passthrough?.source;
    expect(sourceOf("data")).toBe("/etc/fuse/data");
    expect(sourceOf("../data/")).toBe("/etc/fuse/../data/");
    expect(sourceOf("/data")).toBe("/data");
  });

  test("may have mounts below each other, in any order", () => {
    const paths = ["/a/b", "/", "/a", "/a/b/c", "/ab", String.raw`/\u00e4 b/...`];
    const mounts = paths.map((path) => `{"path":"${path}","backend":"passthrough","source":"/s"}`);
    expect(parse(`{"mounts": [${mounts.join()}]}`).mounts.map(({ path }) => path)).toEqual([
      ...paths.slice(0, -1),
      "/ä b/...",
    ]);
  });

  test("applies to every mount what the command line says of the connection", () => {
    const connection = { writeback: true, xattr: false, locks: false, killprivV2: false };
    const { mounts } = parse(withMember('"cache": "always"'), { connection });
    expect(mounts[0]?.passthrough).toMatchObject({ ...connection, kernelPassthrough: false });
  });
});

describe("ids", () => {
  test("of a mount and of all are told apart", () => {
    const text = `{
      "mounts": [
        {
          "path": "/a", "backend": "passthrough", "source": "/src",
          "uid-map": ["1000:0:1", "2000:1:9"], "squash-gid": 100
        },
        { "path": "/b", "backend": "passthrough", "source": "/src" }
      ],
      "gid-map": ["100:200:10"], "squash-uid": 0
    }`;
    const { mounts, ids } = parse(text);
    expect(mounts.map((mount) => mount.ids)).toEqual([
      { uids: [range(1000, 0, 1), range(2000, 1, 9)], gids: [], squashGid: 100 },
      undefined,
    ]);
    expect(ids).toEqual({ uids: [], gids: [range(100, 200, 10)], squashUid: 0 });
  });

  const all = (members: string): string => `{ "mounts": [],\n ${members} }`;

  test("of all are those of the file and of the command line", () => {
    const ids: IdMapOptions = { uids: [range(0, 100, 10)], gids: [], squashGid: 5 };
    expect(parse(all('"uid-map": ["50:200:10"]'), { ids }).ids).toEqual({
      uids: [range(0, 100, 10), range(50, 200, 10)],
      gids: [],
      squashGid: 5,
    });
    expect(parse(all('"$schema": ""'), { ids }).ids).toEqual(ids);
  });

  test("of the file and of the command line must not contradict each other", () => {
    const ids: IdMapOptions = { uids: [range(0, 100, 10)], gids: [], squashGid: 5 };
    expect(refusal(all('"squash-gid": 6'), { ids })).toEqual([
      `${FILE}:2: "squash-gid": is given on the command line, too: leave one of them out`,
    ]);
    expect(refusal(all('"uid-map": ["5:200:10"]'), { ids })).toEqual([
      `${FILE}:2: "uid-map": together with the command line, the ranges of user ids ` +
        '"0:100:10" and "5:200:10" overlap: both have the internal id 5',
    ]);
    expect(refusal(all('"squash-uid": 6'), { ids })).toEqual([
      `${FILE}:2: "squash-uid": together with the command line, user ids are both squashed to 6 ` +
        "and mapped by ranges: leave one of them out",
    ]);
  });

  test("of a mount must leave something of those of all", () => {
    const ids: IdMapOptions = { uids: [range(0, 100, 10)], gids: [] };
    const [line, ...others] = refusal(withMember('"uid-map": ["0:500:10"]'), { ids });
    expect(line).toStartWith(`${FILE}:3: its ids do not go with those of all mounts: `);
    expect(others).toEqual([]);
  });
});

describe("refused is", () => {
  const texts: [string, string][] = [
    ["", "1: a value is expected here; there is no comma behind the last element"],
    ["\n\n[]", "3: the file must be an object, not an array"],
    ["7", "1: the file must be an object, not 7"],
    ["{}", '1: the file must have "mounts"'],
    ['\n{ "mounts": {} }', '2: "mounts" must be an array of objects, not an object'],
    ['{ "mounts": [\n"/a"] }', '2: a mount must be an object with its path, not "/a"'],
    [
      '{ "mounts": [],\n}',
      "2: a name in double quotes is expected here; there is no comma behind the last member",
    ],
    ['{ "mounts": [\n],\n\n // none\n "a": 1 }', "4: JSON has no comments"],
    ['/* none */{ "mounts": [] }', "1: JSON has no comments"],
    ['{ "mounts": []\n "squash-uid": 1 }', "2: a comma is missing"],
    ['{ "mounts"\n [] }', "2: a colon is missing"],
    ['{ "mounts": []', "1: a closing brace } is missing"],
    ['{ "mounts": [', "1: a closing bracket ] is missing"],
    ['{ "mounts": [] }\n{}', "2: the file goes on behind its end"],
    ['\u{feff}{ "mounts": [] }', "1: this is not JSON"],
    ["{\n'mounts': [] }", "2: this is not JSON"],
    ['{ "mounts": ["\n"] }', "1: a string has no end in its line"],
    [
      String.raw`{ "mounts": ["\q"] }`,
      String.raw`1: behind a backslash there must be one of " \ / b f n r t u`,
    ],
    [
      String.raw`{ "mounts": ["\u12"] }`,
      String.raw`1: \u must be followed by four hexadecimal digits`,
    ],
    [
      '{ "mounts": ["\t"] }',
      String.raw`1: a control character must be written as \u and four hexadecimal digits`,
    ],
    ["[".repeat(1_000_000), "1: the file is nested too deeply"],
    ['{ "mounts": [],\n "mounts": [] }', '2: "mounts" is given twice, first at line 1'],
    ['{ "mounts": [],\n "mount": [] }', '2: "mount" is not an option of the file'],
    ['{ "mounts": [],\n "cache": "auto" }', '2: "cache" is not an option of the file'],
    [
      '{ "mounts": [],\n "workers": 4 }',
      '2: "workers" is the same for all mounts: leave it out, and give --workers on the command line',
    ],
    [
      '{ "mounts": [],\n "squash-uid": 4294967295 }',
      '2: "squash-uid" must be a whole number from 0 to 4294967294, not 4294967295',
    ],
    [
      '{ "mounts": [\n{\n"backend": "passthrough", "source": "/s" }] }',
      '2: a mount must have a "path"',
    ],
    ['{ "mounts": [\n{\n"path": "/a", "source": "/s" }] }', '2: a mount must have a "backend"'],
    [
      '{ "mounts": [\n{\n"path": "/a", "backend": "passthrough" }] }',
      '2: a mount must have a "source"',
    ],
    [
      '{ "mounts": [{ "path": "/a",\n"backend": "btrfs", "source": "/s" }] }',
      '2: "backend" must be one of passthrough, overlay, not "btrfs"',
    ],
    [
      '{ "mounts": [{ "path": "/a", "backend": "overlay",\n"options": "lowerdir=/a,upperdir=/b" }] }',
      "2: upperdir needs a workdir: give workdir=DIR, an empty directory on the same file system",
    ],
    [
      '{ "mounts": [{ "path": "/a", "backend": "overlay",\n"options": "lowerdir=/a,cache=no" }] }',
      '2: unknown option "cache=no" of an overlay',
    ],
    [
      '{ "mounts": [{ "path": "/a", "backend": "passthrough",\n"source": "" }] }',
      '2: "source" must not be empty: give the path of a directory',
    ],
    [
      String.raw`{ "mounts": [{ "path": "/a", "backend": "passthrough", "source": "/\u0000" }] }`,
      String.raw`1: "source" "/\u0000" has a NUL in it`,
    ],
    [
      String.raw`{ "mounts": [{ "path": "/a", "backend": "passthrough", "source": "/\ud800" }] }`,
      String.raw`1: "source" "/\ud800" is not valid UTF-8; use it by a symbolic link whose path is`,
    ],
    [
      '{ "mounts": [{\n"path": "a", "backend": "passthrough", "source": "/s" }] }',
      '2: "a" cannot be the path of a mount: it does not begin with a slash; write "/a"',
    ],
    [
      `{ "mounts": [
        { "path": "/a", "backend": "passthrough", "source": "/s" },
        { "path": "/b", "backend": "passthrough", "source": "/s" },
        {
          "backend": "passthrough", "source": "/s",
          "path": "/a" }] }`,
      '6: "/a" is the path of two mounts, the first at line 2',
    ],
  ];
  test.each(texts)("%j", (text, line) => {
    expect(refusal(text)).toEqual([`${FILE}:${line}`]);
  });

  const members: [string, string][] = [
    [
      '"cache": "sometimes"',
      '"cache" must be one of never, metadata, auto, always, not "sometimes"',
    ],
    ['"cache": null', '"cache" must be one of never, metadata, auto, always, not null'],
    [
      '"inode-file-handles": true',
      '"inode-file-handles" must be one of auto, always, never, not true',
    ],
    [
      '"attr-timeout": "5"',
      '"attr-timeout" must be a number of seconds, such as 5 or 0.5, not "5"',
    ],
    ['"attr-timeout": -1', '"attr-timeout" must be a number of seconds, such as 5 or 0.5, not -1'],
    [
      '"dax-file-size": 0.5',
      '"dax-file-size" must be a whole number from 0 to 9007199254740991, not 0.5',
    ],
    [
      '"dax-file-size": 1e999',
      '"dax-file-size" must be a whole number from 0 to 9007199254740991, not 1e999',
    ],
    ['"seal-size": "yes"', '"seal-size" must be true or false, not "yes"'],
    ['"no-readdir": 1', '"no-readdir" must be true or false, not 1'],
    [
      '"no-readdir": true, "readdir": true',
      '"readdir" says again what "no-readdir" said at line 5',
    ],
    ['"path": "/b"', '"path" is given twice, first at line 4'],
    ['"no-cache": true', '"no-cache" is not an option of a mount'],
    ['"attr_timeout": 5', '"attr_timeout" is not an option of a mount'],
    [String.raw`"\n": 5`, String.raw`"\n" is not an option of a mount`],
    ['"__proto__": {}', '"__proto__" is not an option of a mount'],
    ['"constructor": 1', '"constructor" is not an option of a mount'],
    ['"$schema": ""', '"$schema" is not an option of a mount'],
    [
      '"workers": 4',
      '"workers" is the same for all mounts: leave it out, and give --workers on the command line',
    ],
    [
      '"ro": true',
      '"ro" is the same for all mounts: leave it out, and give -o ro on the command line',
    ],
    ['"uid-map": "0:1:2"', '"uid-map" must be an array of "INTERNAL:EXTERNAL:LENGTH", not "0:1:2"'],
    ['"uid-map": [0]', '"uid-map" must have strings in it, not 0'],
    [
      '"gid-map": ["0:1"]',
      '"gid-map": "0:1" is not a range of ids: write INTERNAL:EXTERNAL:LENGTH, such as ' +
        "100000:0:65536 to show the 65536 ids from 100000 on as those from 0 on",
    ],
    [
      '"gid-map": ["0:1:0"]',
      '"gid-map": the range of ids "0:1:0" must have a length that is a whole number of at least 1',
    ],
    [
      '"gid-map": ["0:1:5", "5:3:5"]',
      '"gid-map": the ranges of group ids "0:1:5" and "5:3:5" overlap: both have the external id 3',
    ],
    [
      '"uid-map": ["0:1:5"], "squash-uid": 7',
      '"uid-map": user ids are both squashed to 7 and mapped by ranges: leave one of them out',
    ],
    [
      '"squash-uid": "root"',
      '"squash-uid" must be a whole number from 0 to 4294967294, not "root"',
    ],
    [
      `"cache": "${"x".repeat(100)}"`,
      `"cache" must be one of never, metadata, auto, always, not "${"x".repeat(59)}…`,
    ],
  ];
  test.each(members)("in a mount, %s", (member, message) => {
    expect(refusal(withMember(member))).toEqual([`${FILE}:5: ${message}`]);
  });

  test("a contradiction, also one with the command line", () => {
    expect(refusal(withMember('"attr-timeout": 4294967296'))).toEqual([
      `${FILE}:3: a timeout must be a number of seconds from 0 up to 4294967295`,
    ]);
    expect(refusal(withMember('"mntid": true'), { connection: { noOpen: true } })).toEqual([
      `${FILE}:3: no-open needs cache=always: ` +
        "without opening, nothing tells the kernel that a file has changed",
    ]);
    const connection = { kernelPassthrough: true };
    expect(refusal(withMember('"seal-size": true'), { connection })).toEqual([
      `${FILE}:3: seal-size and kernel passthrough exclude each other: ` +
        "writes must be seen to be refused",
    ]);
  });

  test("more than 255 mounts", () => {
    const mounts = (count: number): string => {
      const lines = Array.from(
        { length: count },
        (_, index) => `{"path":"/${index}","backend":"passthrough","source":"/s"}`,
      );
      return `{"mounts":[\n${lines.join(",\n")}\n]}`;
    };
    expect(parse(mounts(255)).mounts).toHaveLength(255);
    expect(refusal(mounts(256))).toEqual([`${FILE}:257: there are 256 mounts; 255 are the most`]);
  });

  test("everything that is wrong, in the order of the lines", () => {
    const text = `{
      "workers": 1,
      "mounts": [
        { "path": "/a/", "backend": "passthrough" },
        { "path": "/b", "backend": "passthrough", "source": "/s",
          "mntid": 1,
          "cache": 2 },
        3
      ],
      "squash-uid": -1
    }`;
    expect(refusal(text)).toEqual([
      `${FILE}:2: "workers" is the same for all mounts: leave it out, ` +
        "and give --workers on the command line",
      `${FILE}:4: a mount must have a "source"`,
      `${FILE}:4: "/a/" cannot be the path of a mount: it ends with a slash; write "/a"`,
      `${FILE}:6: "mntid" must be true or false, not 1`,
      `${FILE}:7: "cache" must be one of never, metadata, auto, always, not 2`,
      `${FILE}:8: a mount must be an object with its path, not 3`,
      `${FILE}:10: "squash-uid" must be a whole number from 0 to 4294967294, not -1`,
    ]);
  });
});

describe("paths", () => {
  test.each(["/", "/a", "/a/b", "/...", "/.a", "/ä", `/${"x".repeat(255)}`, "/a b\n", "/a=,:\\"])(
    "%j is one",
    (path) => {
      expect(() => validatePath(path)).not.toThrow();
    },
  );

  test.each([
    ["", 'it does not begin with a slash; write "/"'],
    ["a/b", 'it does not begin with a slash; write "/a/b"'],
    ["//", 'it ends with a slash; write "/"'],
    ["/a/", 'it ends with a slash; write "/a"'],
    ["/a//b", 'it has two slashes in a row; write "/a/b"'],
    ["//a", 'it has two slashes in a row; write "/a"'],
    ["/a/./b", `the name "." is every directory's; write where it leads`],
    ["/a/..", `the name ".." is every directory's; write where it leads`],
    ["/a\0b", String.raw`the name "a\u0000b" has a NUL in it`],
    ["/a\u{fffd}", 'the name "a\u{fffd}" is not valid UTF-8'],
    [`/${"ä".repeat(128)}`, `the name "${"ä".repeat(128)}" has 256 bytes; 255 are the most`],
  ])("%j is none", (path, problem) => {
    expect(() => validatePath(path)).toThrow(
      new ConfigError(`${JSON.stringify(path)} cannot be the path of a mount: ${problem}`),
    );
  });
});

interface Property {
  readonly $ref?: string;
  readonly type?: string;
  readonly enum?: readonly string[];
  readonly examples?: readonly unknown[];
}

/** A value that the schema has for an example, or a valid one. */
function example(property: Property): unknown {
  const definitions: Readonly<Record<string, Property>> = schema.$defs;
  const definition = definitions[property.$ref?.replace("#/$defs/", "") ?? ""];
  const { enum: choices, examples, type } = definition ?? property;
  return type === "boolean" ? true : (choices?.[0] ?? examples?.[0]);
}

describe("an overlay", () => {
  const list = "lowerdir=l1:/l2,upperdir=u,workdir=../w,uidmapping=0:1000:1,volatile";
  const one = (options: string): string =>
    JSON.stringify({ mounts: [{ path: "/a", backend: "overlay", options }] });

  test("has its options in a list, with paths relative to the file", () => {
    const [mount] = parse(one(list)).mounts;
    expect(mount?.overlay).toMatchObject({
      lower: ["/etc/fuse/l1", "/l2"],
      upper: "/etc/fuse/u",
      work: "/etc/fuse/../w",
      volatile: true,
    });
    const uids = [{ internal: 0, external: 1000, length: 1 }];
    expect(mount).toMatchObject({ path: "/a", ids: { uids, gids: [] } });
  });

  test("has no source, and no options of a directory", () => {
    const text = '{ "mounts": [\n{ "path": "/a", "backend": "overlay",\n"source": "/s" }] }';
    expect(refusal(text)).toEqual([
      `${FILE}:2: a mount must have a "options"`,
      `${FILE}:3: "source" is not an option of a mount`,
    ]);
  });

  test("is in the schema", () => {
    const { properties, required } = schema.$defs.overlay;
    expect(required).toEqual(Object.keys(properties));
    const [options] = properties.options.examples;
    expect(parse(one(options!)).mounts[0]?.overlay?.lower).toEqual(["/srv/base"]);
    expect(properties.backend.enum).toEqual(["overlay"]);
  });
});

describe("the schema", () => {
  const top: Readonly<Record<string, Property>> = schema.properties;
  const mount = schema.$defs.mount;
  const properties: Readonly<Record<string, Property>> = mount.properties;
  const needed = { path: "/a", backend: "passthrough", source: "/s" };

  test.each(Object.keys(top))("knows %s, as the parser does", (name) => {
    const value = name === "mounts" ? [] : example(top[name]!);
    expect(value).toBeDefined();
    parse(JSON.stringify({ mounts: [], [name]: value }));
  });

  test.each(Object.keys(properties))("knows %s of a mount, as the parser does", (name) => {
    const value = example(properties[name]!);
    expect(value).toBeDefined();
    parse(JSON.stringify({ mounts: [{ ...needed, [name]: value }] }));
  });

  test("has all options of a mount, and nothing else", () => {
    const options = DIRECTORY_OPTIONS.flatMap(({ name, value }) =>
      value === undefined ? [name, `no-${name}`] : [name],
    );
    expect(Object.keys(properties).toSorted()).toEqual(
      [...Object.keys(needed), ...options].toSorted(),
    );
    const global = DIRECTORY_OPTIONS.filter(({ name }) => /uid|gid/.test(name));
    expect(Object.keys(top)).toEqual(["$schema", "mounts", ...global.map(({ name }) => name)]);
  });

  test("needs what the parser needs, and has its limits and choices", () => {
    expect(schema.required).toEqual(["mounts"]);
    expect(mount.required).toEqual(Object.keys(needed));
    expect(properties["cache"]?.enum).toEqual([...CACHE_POLICIES]);
    expect(properties["inode-file-handles"]?.enum).toEqual([...FILE_HANDLES]);
    expect(top["mounts"]).toHaveProperty("maxItems", 255);
    expect(schema.additionalProperties || mount.additionalProperties).toBe(false);
  });

  test("describes everything", () => {
    for (const property of [...Object.values(top), ...Object.values(properties)])
      expect(property).toHaveProperty("description");
  });

  test("has the parser's idea of a path", () => {
    const pattern = new RegExp(mount.properties.path.pattern, "u");
    for (const path of ["/", "/a", "/a/b", "/...", "/.a", "/a.", "/..a/b"]) {
      expect(path).toMatch(pattern);
      validatePath(path);
    }
    for (const path of ["", "a", "//", "/a/", "/a//b", "/.", "/../a", "/a/..", "/a\0"]) {
      expect(path).not.toMatch(pattern);
      expect(() => validatePath(path)).toThrow(ConfigError);
    }
  });
});
