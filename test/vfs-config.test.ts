// The configuration of `vfs`: what its file may say, and how errors in it are told.

import { describe, expect, test } from "bun:test";
import schema from "../docs/vfs-config.schema.json";
import { VFS_MOUNT_OPTIONS, VFS_OPTIONS } from "../src/cli-options.ts";
import { findOption } from "../src/cli-parse.ts";
import { ConfigError, passthroughConfig } from "../src/passthrough-config.ts";
import { parseVfsConfig, validatePath, type CommandLine } from "../src/vfs-config.ts";

const commandLine: CommandLine = {
  connection: {
    writeback: undefined,
    xattr: undefined,
    noOpen: undefined,
    noOpendir: undefined,
    killprivV2: undefined,
    kernelPassthrough: undefined,
    locks: false,
  },
  ids: undefined,
  spelled: (name) => (findOption(name, VFS_OPTIONS).option === undefined ? undefined : `--${name}`),
};

const parse = (text: string, given = commandLine) => parseVfsConfig(text, "/etc/vfs.json", given);

function refusal(text: string, given = commandLine): string[] {
  try {
    parse(text, given);
  } catch (error) {
    if (error instanceof ConfigError) return error.message.split("\n");
    throw error;
  }
  throw new Error("not refused");
}

/** A file with one mount that has these members too. */
const withOne = (members: string): string =>
  `{ "mounts": [\n{ "path": "/a", "backend": "passthrough", "source": "/s", ${members} }\n] }`;

describe("a configuration file", () => {
  test("says what is mounted where, with options and maps", () => {
    const text = `{
      "$schema": "vfs-config.schema.json",
      "mounts": [
        { "path": "/", "backend": "passthrough", "source": "/srv/one" },
        { "path": "/a/b", "backend": "passthrough", "source": "two", "cache": "always",
          "no-readdir": true, "uid-map": ["1000:0:1", "5:5:5"], "squash-gid": 7 }
      ],
      "gid-map": ["0:0:10"]
    }`;
    expect(parse(text)).toEqual({
      mounts: [
        {
          path: "/",
          passthrough: passthroughConfig({ source: "/srv/one", locks: false }),
          ids: undefined,
        },
        {
          path: "/a/b",
          passthrough: passthroughConfig({
            source: "/etc/two",
            cache: "always",
            noReaddir: true,
            locks: false,
          }),
          ids: {
            uids: [
              { internal: 1000, external: 0, length: 1 },
              { internal: 5, external: 5, length: 5 },
            ],
            gids: [],
            squashUid: undefined,
            squashGid: 7,
          },
        },
      ],
      ids: {
        uids: [],
        gids: [{ internal: 0, external: 0, length: 10 }],
        squashUid: undefined,
        squashGid: undefined,
      },
    });
    expect(parse('{"mounts": []}').mounts).toEqual([]);
  });

  test.each([
    ["", /^\/etc\/vfs\.json:1: /],
    ["[]", /^\/etc\/vfs\.json:1: the file must be an object, not an array$/],
    ["{}", /^\/etc\/vfs\.json:1: the file must have "mounts"$/],
    ['{\n  "mounts": [],\n}', /^\/etc\/vfs\.json:3: .*comma/],
    ['{ "mounts": []\n // none\n}', /^\/etc\/vfs\.json:2: JSON has no comments$/],
    ['{\n"mounts": [],\n"others": []\n}', /^\/etc\/vfs\.json:3: the file has no "others"$/],
    [withOne('"cache": "some"'), /:2: "cache" must be one of .*, not "some"$/],
    [withOne('"attr-timeout": "5"'), /:2: "attr-timeout" must be a number of seconds.*, not "5"$/],
    [withOne('"seal-size": 1'), /:2: "seal-size" must be true or false, not 1$/],
    [withOne('"uid-map": ["1:2"]'), /:2: "uid-map": /],
    [withOne('"uid-map": ["0:0:5", "3:10:5"]'), /:2: "uid-map": /],
    [withOne('"uid-map": ["0:0:5"], "squash-uid": 1'), /:2: "uid-map": /],
    [withOne('"writeback": true'), /:2: "writeback" is the same for all mounts.*--writeback/],
    [withOne('"workers": 2'), /:2: "workers" is the same for all mounts.*--workers/],
    [withOne('"path": "/b"'), /:2: "path" is given twice, first at line 2$/],
    [withOne('"typo": 1'), /:2: a mount has no "typo"$/],
    ['{"mounts": [{}]}', /:1: a mount must have a "path"$/],
  ])("is refused with file and line: %j", (text, reason) => {
    expect(refusal(text)[0]).toMatch(reason);
  });

  test("is refused for all that is wrong with it at once", () => {
    const text = `{ "mounts": [
      { "path": "a", "backend": "passthrough", "source": "/s" },
      { "path": "/b", "backend": "other", "source": "/s" },
      { "path": "/c", "backend": "passthrough", "source": "/s" },
      { "path": "/c", "backend": "passthrough", "source": "/t" }
    ] }`;
    const lines = refusal(text);
    expect(lines.map((line) => /:(\d+): /.exec(line)?.[1])).toEqual(["2", "3", "5"]);
    expect(lines[2]).toContain("the first at line 4");
  });

  test("has as many mounts as there can be, and not one more", () => {
    const mounts = Array.from({ length: 256 }, (_, index) => ({
      path: `/${index}`,
      backend: "passthrough",
      source: "/s",
    }));
    expect(parse(JSON.stringify({ mounts: mounts.slice(0, 255) })).mounts).toHaveLength(255);
    expect(refusal(JSON.stringify({ mounts }))[0]).toMatch(
      /there are 256 mounts; 255 are the most/,
    );
  });

  test("agrees with the schema about names", () => {
    const { properties } = schema;
    const own = properties.mounts.items.properties;
    for (const name of Object.keys(own)) {
      const isOption = findOption(name, VFS_MOUNT_OPTIONS).option !== undefined;
      expect({ name, known: isOption || ["path", "backend", "source"].includes(name) }).toEqual({
        name,
        known: true,
      });
    }
    for (const { name } of VFS_MOUNT_OPTIONS) expect(Object.keys(own)).toContain(name);
    const ids = ["uid-map", "gid-map", "squash-uid", "squash-gid"];
    expect(Object.keys(properties).toSorted()).toEqual(["$schema", "mounts", ...ids].toSorted());
  });
});

describe("the path of a mount", () => {
  test.each(["/", "/a", "/a/b", "/ä b", "/a.b", `/${"x".repeat(255)}`])("may be %j", (path) => {
    expect(() => validatePath(path)).not.toThrow();
  });

  test.each([
    ["a", /does not begin with a slash; write "\/a"/],
    ["", /does not begin with a slash/],
    ["/a/", /ends with a slash; write "\/a"/],
    ["//a", /two slashes in a row; write "\/a"/],
    ["/a/../b", /the name "\.\."/],
    ["/./a", /the name "\."/],
    ["/a\0b", /NUL/],
    [`/${"x".repeat(256)}`, /has 256 bytes; 255 are the most/],
  ])("is refused as %j", (path, reason) => {
    expect(() => validatePath(path)).toThrow(reason);
    expect(() => validatePath(path)).toThrow(ConfigError);
  });
});
