// What is agreed on with the kernel, seen on real mounts: idmapped mounts, time limits, what the
// debug printer shows of it.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, mkdirSync, writeFileSync } from "node:fs";
import * as abi from "../../src/abi-linux.ts";
import { EACCES, EEXIST, EOVERFLOW } from "../../src/errno.ts";
import { close } from "../../src/syscall.ts";
import { Mount, whyNoMounts, withMount } from "../support-mount.ts";
import { Actor } from "./actor.ts";
import { must, type Stat } from "./calls.ts";
import { idmapped, userNamespace } from "./idmapped.ts";
import { ACL_ACCESS, acl as makeAcl } from "./posix-place.ts";
import { shell } from "./shell.ts";

setDefaultTimeout(60_000);

const onMounts = describe.skipIf(whyNoMounts !== undefined);
const WAIT_MS = 10_000;

/** Resolves when the daemon has written what is looked for; what it writes comes when it comes. */
async function said(mount: Mount, wanted: RegExp): Promise<string> {
  const deadline = performance.now() + WAIT_MS;
  for (;;) {
    const found = wanted.exec(mount.output);
    if (found !== null) return found[0];
    if (performance.now() > deadline) throw new Error(`${wanted} is not in:\n${mount.output}`);
    await new Promise(setImmediate);
  }
}

const ids = (of: Stat | number): string =>
  typeof of === "number" ? String(of) : `${of.uid}:${of.gid}`;

/**
 * What users see and do in the directory `place` of an idmapped mount, and what comes of it in the
 * same directory as it is, `behind`.
 */
async function useIdmapped(actor: Actor, place: string, behind: string) {
  const at = (name: string): string => `${place}/${name}`;
  const owner = async (path: string): Promise<string> => ids(await actor.call("lstat", path));
  const user = (uid: number, ...groups: number[]) =>
    actor.call("become", { uid, gid: uid, groups });
  const make = async (name: string): Promise<number> => {
    const flags = abi.O_WRONLY | abi.O_CREAT | abi.O_EXCL;
    return Math.min(0, await actor.call("tryOpen", at(name), flags, 0o640));
  };

  for (const [name, id] of [
    ["theirs", 61_001],
    ["strange", 50_000],
  ] as const) {
    writeFileSync(`${behind}/${name}`, name, { mode: 0o600 });
    must(await actor.call("chown", `${behind}/${name}`, id, id));
  }
  const seen = [await owner(at("theirs")), await owner(at("strange"))];

  await user(62_001);
  const made = [
    await make("file"),
    await actor.call("mkdir", at("directory")),
    await actor.call("symlink", "target", at("link")),
    await actor.call("mknod", at("fifo"), abi.S_IFIFO | 0o600),
    await actor.call("rename", at("theirs"), at("renamed")),
    await actor.call("chmod", at("renamed"), 0o640),
    await actor.call("tryOpen", at("renamed"), abi.O_RDWR),
    await actor.call("tryOpen", at("strange"), abi.O_RDONLY),
  ];
  const names = ["file", "directory", "link", "fifo", "renamed"];
  const owners: string[][] = [];
  for (const name of names) owners.push([await owner(at(name)), await owner(`${behind}/${name}`)]);

  await user(61_001);
  const stranger = [await make("no"), await actor.call("tryOpen", at("renamed"), abi.O_RDONLY)];
  await user(62_002, 62_001);
  const group = [await actor.call("tryOpen", at("renamed"), abi.O_RDONLY), await make("file")];
  await user(0);
  const list = (named: number): string =>
    makeAcl(["owner", 6], ["user", 4, named], ["owningGroup", 0], ["mask", 4], ["other", 0]);
  must(await actor.call("setxattr", at("renamed"), ACL_ACCESS, list(62_005)));
  const acl = [
    (await actor.call("getxattr", at("renamed"), ACL_ACCESS)) === list(62_005),
    (await actor.call("getxattr", `${behind}/renamed`, ACL_ACCESS)) === list(61_005),
  ];
  await user(62_005);
  acl.push((await actor.call("tryOpen", at("renamed"), abi.O_RDONLY)) === 0);

  await user(0);
  const given = [
    await actor.call("chown", at("file"), 62_003, 62_004),
    await owner(`${behind}/file`),
    await actor.call("chown", at("file"), 50_000, 50_000),
    await owner(`${behind}/file`),
    await make("of-root"),
    await owner(`${behind}/of-root`),
  ];
  return { seen, made, owners, stranger, group, acl, given };
}

onMounts("an idmapped mount", () => {
  test("gives the files that users make the ids that theirs stand for", async () => {
    const namespace = await userNamespace();
    using actor = new Actor();
    try {
      await withMount({}, async (mount) => {
        const features = await said(mount, /FUSE 7\.\d+ with .*\n/);
        if (!features.includes("idmapped mounts")) return console.warn("the kernel has none");
        const { source, mountpoint } = mount;
        const results = [];
        // As on an idmapped mount of the source's own file system.
        for (const name of ["bare", "mounted"]) {
          const tree = name === "bare" ? source : mountpoint;
          mkdirSync(`${source}/${name}`);
          must(await actor.call("chmod", `${source}/${name}`, 0o777));
          const fd = idmapped(`${tree}/${name}`, namespace);
          const way = `/proc/${process.pid}/fd/${fd}`;
          const directory = must<number>(await actor.call("open", way, abi.O_PATH));
          const place = `/proc/self/fd/${directory}`;
          results.push(await useIdmapped(actor, place, `${source}/${name}`));
          await actor.call("close", directory);
          close(fd);
        }
        const [bare, mounted] = results;
        expect(mounted).toEqual(bare!);
        const both = ["62001:62001", "61001:61001"];
        expect(mounted).toMatchObject({
          seen: ["62001:62001", "65534:65534"],
          made: [0, 0, 0, 0, 0, 0, 0, -EACCES],
          owners: [both, both, both, both, both],
          stranger: [-EOVERFLOW, -EACCES],
          group: [0, -EEXIST],
          acl: [true, true, true],
        });
        expect(mounted!.given.slice(0, 2)).toEqual([0, "61003:61004"]);
        expect(mounted!.given.at(-1)).toBe("0:0");
      });
    } finally {
      closeSync(namespace);
    }
  });
});

onMounts("of the handshake", () => {
  test("the debug printer shows both sides, and the features are named", async () => {
    await withMount({ options: ["--debug"] }, async (mount) => {
      const asked = await said(mount, /debug: > INIT .*\n/);
      const answered = await said(mount, /debug: < INIT .*\n/);
      expect(asked).toMatch(/ major=7 minor=\d+ max_readahead=\d+ flags=\S*FUSE_ASYNC_READ\S*\|/);
      expect(answered).toMatch(
        / major=7 minor=\d+ .*max_write=1048576 .*time_gran=1 .*max_pages=256/,
      );
      expect(answered).not.toContain("request_timeout");
      const flags = (line: string): Set<string> =>
        new Set(line.match(/(?<=flags2?=)\S+/g)!.flatMap((list) => list.split("|")));
      expect(flags(answered).difference(flags(asked))).toEqual(new Set());
      const features = await said(mount, /FUSE 7\.\d+ with .*\n/);
      expect(features.includes("idmapped mounts")).toBe(flags(answered).has("FUSE_ALLOW_IDMAP"));
      expect(features.includes("kernel passthrough")).toBe(flags(answered).has("FUSE_PASSTHROUGH"));
      // And from then on every request, by the worker that has it.
      writeFileSync(`${mount.source}/some-file`, "data");
      await shell(`test -s ${mount.mountpoint}/some-file`);
      const lookup = await said(mount, /> LOOKUP unique=(\d+) nodeid=1 .*"some-file"\n/);
      const unique = /unique=\d+/.exec(lookup)![0];
      expect(await said(mount, new RegExp(`< LOOKUP ${unique} nodeid=.*\n`))).toContain("size=4");
    });
  });

  test.each([
    ["with --no-locks, once", ["--no-locks"], 1],
    ["with locks, which go with a close, each time", [], 3],
  ])("closing a file is told to the daemon %s", (_, options, count) =>
    withMount({ options: [...options, "--debug"] }, async (mount) => {
      const path = `${mount.mountpoint}/file`;
      for (let time = 0; time < 3; time++) writeFileSync(path, "x");
      mkdirSync(`${mount.mountpoint}/after`);
      await said(mount, /< MKDIR unique=\d+ nodeid/);
      expect(mount.output.match(/> FLUSH /g)).toHaveLength(count);
    }),
  );

  test("a time limit for requests is part if it is wanted, where the kernel has it", async () => {
    await withMount({ options: ["--debug", "--request-timeout", "3600"] }, async (mount) => {
      const asked = await said(mount, /debug: > INIT .*\n/);
      const answered = await said(mount, /debug: < INIT .*\n/);
      const has = asked.includes("FUSE_REQUEST_TIMEOUT");
      expect(answered.includes("FUSE_REQUEST_TIMEOUT")).toBe(has);
      expect(answered.includes("request_timeout=3600")).toBe(has);
    });
  });

  test("DAX is no part, since the kernel has it for virtual machines only", async () => {
    await withMount({ options: ["--debug", "--dax-file-size", "1"] }, async (mount) => {
      writeFileSync(`${mount.source}/f`, "data");
      expect(await shell(`cat ${mount.mountpoint}/f`)).toBe("data");
      expect(await said(mount, /debug: < INIT .*\n/)).not.toContain("DAX");
      expect(await said(mount, /< LOOKUP .*size=4.*\n/)).not.toContain("DAX");
    });
  });
});
