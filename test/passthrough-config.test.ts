// The options of a passthrough file system: defaults, and what can't be meant.

import { describe, expect, test } from "bun:test";
import { ConfigError, passthroughConfig } from "../src/passthrough-config.ts";
import { DEFAULTS } from "./support-passthrough.ts";

type Given = Omit<Parameters<typeof passthroughConfig>[0], "source">;
const configure = (given: Given = {}) => passthroughConfig({ source: "/src", ...given });

describe("by default", () => {
  test("everything is as documented", () => {
    expect(configure()).toEqual(DEFAULTS);
  });

  test("an option that is undefined is as if it were not given", () => {
    expect(configure({ cache: undefined, locks: undefined })).toEqual(configure());
  });

  test.each([
    ["never", 0],
    ["metadata", 86_400],
    ["auto", 5],
    ["always", 86_400],
  ] as const)("timeouts follow cache=%s", (cache, timeout) => {
    const { attrTimeout, entryTimeout, dirAttrTimeout, dirEntryTimeout } = configure({ cache });
    expect([attrTimeout, entryTimeout, dirAttrTimeout, dirEntryTimeout]).toEqual(
      Array.from({ length: 4 }, () => timeout),
    );
  });

  test("those of directories follow those of files", () => {
    expect(configure({ attrTimeout: 0.5, entryTimeout: 0 })).toMatchObject({
      dirAttrTimeout: 0.5,
      dirEntryTimeout: 0,
    });
    expect(configure({ attrTimeout: 1, dirAttrTimeout: 0 })).toMatchObject({
      attrTimeout: 1,
      dirAttrTimeout: 0,
    });
  });

  test.each([
    [{ writeback: true }],
    [{ noOpen: true, cache: "always" }],
    [{ sealSize: true }],
    [{ allowDirectIo: false }],
  ] satisfies [Given][])("there is no kernel passthrough with %j", (given) => {
    expect(configure(given).kernelPassthrough).toBe(false);
  });
});

const TIMEOUT = "a timeout must be a number of seconds from 0 up to 4294967295";
const DAX = "dax-file-size must be a whole number of bytes";

describe("refused are", () => {
  test.each([
    [{ attrTimeout: -1 }, TIMEOUT],
    [{ entryTimeout: Number.NaN }, TIMEOUT],
    [{ dirAttrTimeout: 2 ** 32 }, TIMEOUT],
    [{ dirEntryTimeout: Infinity }, TIMEOUT],
    [
      { writeback: true, cache: "never" },
      "writeback needs cached data, and cache=never keeps none",
    ],
    [
      { writeback: true, cache: "metadata" },
      "writeback needs cached data, and cache=metadata keeps none",
    ],
    [
      { writeback: true, kernelPassthrough: true },
      "writeback and kernel passthrough exclude each other",
    ],
    [
      { noOpen: true, cache: "always", kernelPassthrough: true },
      "no-open and kernel passthrough exclude each other",
    ],
    [
      { noOpen: true, cache: "auto" },
      "no-open needs cache=always: without opening, nothing tells the kernel that a file has changed",
    ],
    [
      { noOpen: true, cache: "metadata" },
      "no-open needs cache=always: without opening, nothing tells the kernel that a file has changed",
    ],
    [
      { noOpendir: true },
      "no-opendir needs cache=always or cache=metadata: the kernel then caches directories for good",
    ],
    [
      { noOpendir: true, cache: "never" },
      "no-opendir needs cache=always or cache=metadata: the kernel then caches directories for good",
    ],
    [
      { sealSize: true, kernelPassthrough: true },
      "seal-size and kernel passthrough exclude each other: writes must be seen to be refused",
    ],
    [
      { allowDirectIo: false, kernelPassthrough: true },
      "without allow-direct-io there is no kernel passthrough: the kernel would pass O_DIRECT on",
    ],
    [{ sealSize: true, writeback: true }, "seal-size and writeback exclude each other"],
    [{ daxFileSize: -1 }, DAX],
    [{ daxFileSize: 0.5 }, DAX],
    [{ daxFileSize: 2 ** 53 }, DAX],
  ] satisfies [Given, string][])("%j", (given, message) => {
    expect(() => configure(given)).toThrow(ConfigError);
    expect(() => configure(given)).toThrow(new Error(message));
  });
});

describe("accepted are", () => {
  test.each([
    [{ attrTimeout: 0, entryTimeout: 0.001, dirAttrTimeout: 2 ** 32 - 1 }],
    [{ writeback: true }],
    [{ writeback: true, cache: "always", kernelPassthrough: false }],
    [{ noOpen: true, noOpendir: true, cache: "always" }],
    [{ noOpendir: true, cache: "metadata" }],
    [{ noReaddir: true, sealSize: true, mntid: true, useHostIno: true }],
    [{ daxFileSize: 0 }],
    [{ kernelPassthrough: true, cache: "never" }],
  ] satisfies [Given][])("%j", (given) => {
    expect(configure(given)).toMatchObject(given);
  });
});
