// File handles of an overlay that outlive its mount (nfs_export=on), as those of the kernel's do,
// and what is stored for them.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import * as abi from "../../src/abi-linux.ts";
import { errnoName } from "../../src/errno.ts";
import { EXECUTABLE } from "../support-mount.ts";
import {
  daemonMount,
  Disk,
  overlaySystems,
  whyNoOverlays,
  type OverlaySystem,
} from "../support-overlay.ts";
import { Actor } from "./actor.ts";
import { must } from "./calls.ts";
import { Stage } from "./overlay-stage.ts";
import { SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

setDefaultTimeout(SHELL_TEST_TIMEOUT_MS);

const { kernel, ours } = overlaySystems;
const RELEASE_TIMEOUT_MS = 10_000;
const OPTIONS = ["nfs_export=on", "redirect_dir=on"];
let disk: Disk;
let actor: Actor;
beforeAll(async () => {
  if (whyNoOverlays !== undefined) return;
  disk = await Disk.start();
  actor = new Actor("who has handles of an overlay");
});
afterAll(async () => {
  actor?.kill();
  await disk?.[Symbol.asyncDispose]();
});

const MAKE = `
  mkdir -p l2/low/sub/deep l2/both l1/both u/both u/up/sub l1/top l2/gone/sub l2/twice l1/twice
  for file in l2/low/file l2/low/sub/file l2/low/sub/deep/file l1/both/l1 l2/both/l2 u/both/u
  do echo $file > $file; done
  for file in u/up/sub/file u/c l1/b l2/a l2/gone/file l2/gone/sub/file l1/top/file l2/dropped
  do echo $file > $file; done
  echo lower > l2/same; echo upper > l1/same; echo 2 > l2/twice/2; echo 1 > l1/twice/1
  mkdir -p l2/both/deep/er; echo deep > l2/both/deep/file
  echo linked > l2/link1; ln l2/link1 l2/link2; ln -s a l2/symlink; mkfifo l2/fifo`;

const NAMES = `
  low low/file low/sub low/sub/file low/sub/deep low/sub/deep/file
  both both/l1 both/l2 both/u both/deep both/deep/file both/deep/er
  up up/sub up/sub/file top top/file twice twice/1
  a b c same link1 link2 gone gone/file gone/sub gone/sub/file dropped symlink fifo`
  .trim()
  .split(/\s+/);

/** What is done, with a new mount after each: what every handle opens must be as it is expected. */
const STEPS = [
  "true",
  "echo more >> low/sub/file; chmod 600 a; touch both/new; mkdir low/made; echo x > low/made/file",
  "mv low/sub/deep moved; mv low/file low/renamed; mv up/sub/file up/file; mv top both/",
  "rm -r gone; rm dropped b; rm link1; echo new > b; mkdir gone",
  "mv low other; mv both low; echo more >> other/sub/file; echo more >> moved/file; rm link2",
  "rm -r other; mkdir -p other/sub; echo new > other/sub/file; mv a same; rm symlink; rmdir gone",
];

/** Those of what there is under NAMES. */
async function handlesOf(stage: Stage): Promise<Map<string, string>> {
  const handles = new Map<string, string>();
  for (const name of NAMES) {
    const handle = await actor.call("nameToHandle", stage.at(name));
    if (typeof handle === "string") handles.set(name, handle);
  }
  return handles;
}

/** An O_PATH descriptor of what a handle is of, or -errno. */
async function opened(stage: Stage, handle: string): Promise<number> {
  const root = must<number>(await actor.call("open", stage.mountpoint, abi.O_RDONLY));
  const path = Number(await actor.call("openByHandle", root, handle, abi.O_PATH));
  await actor.call("close", root);
  return path;
}

/**
 * The error of a handle once the kernel has let go of the inode. Before, it opens the file without
 * asking; it lets go when RELEASE is answered, which close(2) does not wait for.
 */
async function errorAfterRelease(stage: Stage, handle: string): Promise<string> {
  const deadline = performance.now() + RELEASE_TIMEOUT_MS;
  for (;;) {
    const path = await opened(stage, handle);
    if (path < 0) return errnoName(path);
    await actor.call("close", path);
    if (performance.now() > deadline) return "still opens";
  }
}

/** What a handle opens: of a directory what is in it, of a file its contents. */
async function reached(stage: Stage, handle: string): Promise<string> {
  const path = await opened(stage, handle);
  if (path < 0) return errnoName(path);
  const magic = `/proc/self/fd/${path}`;
  const { mode } = must<{ mode: number }>(await actor.call("fstat", path));
  let shown = mode.toString(8);
  if ((mode & abi.S_IFMT) === abi.S_IFDIR) shown += ` ${String(await actor.call("list", magic))}`;
  if ((mode & abi.S_IFMT) === abi.S_IFREG) {
    const open = must<number>(await actor.call("open", magic, abi.O_RDONLY));
    shown += ` ${String(await actor.call("read", open, 100))}`;
    await actor.call("close", open);
  }
  await actor.call("close", path);
  return shown;
}

async function mounted<T>(stage: Stage, by: OverlaySystem, work: () => Promise<T>): Promise<T> {
  await stage.mount(OPTIONS, by);
  const result = await work();
  await stage.unmount();
  return result;
}

describe.skipIf(whyNoOverlays !== undefined)("with nfs_export=on", () => {
  test("handles open the same as with the kernel, whatever happens to the files", async () => {
    await using theirs = await Stage.start(disk, MAKE);
    await using own = await Stage.start(disk, `cp -a ${theirs.base}/. .`);
    const sides = [
      { stage: theirs, by: kernel },
      { stage: own, by: ours },
    ];
    const seen: Record<string, string>[][] = [];
    for (const { stage, by } of sides) {
      const handles = await mounted(stage, by, () => handlesOf(stage));
      const steps: Record<string, string>[] = [];
      for (const step of STEPS) {
        await mounted(stage, by, () => stage.do(step));
        const found: Record<string, string> = {};
        await mounted(stage, by, async () => {
          for (const [name, handle] of handles) found[name] = await reached(stage, handle);
        });
        steps.push(found);
      }
      seen.push(steps);
    }
    for (const [index, step] of STEPS.entries()) {
      const [expected, found] = seen.map((steps) => steps[index]);
      expect([step, found]).toEqual([step, expected]);
    }
  });

  test("what is stored is what the kernel stores, and each goes on with the other's", async () => {
    const all = STEPS.join("\n");
    const stored = async (stage: Stage): Promise<string> => {
      // Names in the index are handles, which differ from copy to copy.
      // All whiteouts of the kernel's are links of one, which it has there too.
      const index = await stage.run("find w/index -name '00fb*' -printf '%y %s\\n' | sort");
      const nlink = await stage.run("find u -type f | sort | xargs getfattr -d -m overlay.nlink");
      return index + nlink;
    };
    // Merged directories that were not copied up the kernel enters into the index when their handle
    // is taken, or that of what is in them.
    await using theirs = await Stage.start(disk, `${MAKE}; rm -r u/both`);
    await using own = await Stage.start(disk, `cp -a ${theirs.base}/. .`);
    await mounted(theirs, kernel, () => theirs.do(all));
    await mounted(own, ours, () => own.do(all));
    expect(await stored(own)).toBe(await stored(theirs));
    const tree = await mounted(own, ours, () => own.tree());
    for (const [stage, by] of [
      [theirs, kernel],
      [own, kernel],
      [theirs, ours],
    ] as const)
      // Of a copied file, the kernel counts its place in the index as a link after another mount.
      expect(withoutLinks(await mounted(stage, by, () => stage.tree()))).toBe(withoutLinks(tree));
  });

  test("what is written by a handle is in the file, and not in the lower one", async () => {
    await using stage = await Stage.start(disk, MAKE);
    const handles = await mounted(stage, ours, () => handlesOf(stage));
    await mounted(stage, ours, async () => {
      for (const name of ["low/sub/deep/file", "link1", "c", "both/l2"]) {
        const fd = await openAgain(stage, handles.get(name)!, abi.O_WRONLY | abi.O_APPEND);
        expect([name, await actor.call("write", fd, "more\n")]).toEqual([name, 5]);
        await actor.call("close", fd);
      }
    });
    expect(await stage.run("cat l2/low/sub/deep/file l2/link1 l2/both/l2")).not.toContain("more");
    const lines = "low/sub/deep/file link1 link2 c both/l2";
    for (let round = 0; round < 2; round++)
      await mounted(stage, ours, async () => {
        expect(await stage.do(`tail -qn 1 ${lines} | uniq -c`)).toMatch(/^ *5 more\n$/);
        expect(await stage.do("stat -c %h low/sub/deep/file link1 link2 c both/l2")).toBe(
          "1\n2\n2\n1\n1\n",
        );
      });
    await mounted(stage, ours, () => stage.do("rm low/sub/deep/file link1"));
    await mounted(stage, ours, async () => {
      expect(await reached(stage, handles.get("low/sub/deep/file")!)).toBe("ESTALE");
      expect(await reached(stage, handles.get("link1")!)).toContain("more");
      expect(await stage.do("ls low/sub/deep; stat -c %h link2")).toBe("1\n");
    });
  });

  test("what was removed can be changed by whoever has it open, and does not come back", async () => {
    await using stage = await Stage.start(disk, MAKE);
    const handles = await mounted(stage, ours, () => handlesOf(stage));
    await mounted(stage, ours, async () => {
      const file = must<number>(await actor.call("open", stage.at("dropped"), abi.O_RDWR));
      const low = must<number>(await actor.call("open", stage.at("a"), abi.O_RDONLY));
      const directory = must<number>(await actor.call("open", stage.at("gone"), abi.O_RDONLY));
      await stage.do("rm -r dropped a gone");
      expect(await actor.call("write", file, "more")).toBe(4);
      expect(await actor.call("fchmod", low, 0o600)).toBe(0);
      expect(await actor.call("fchmod", directory, 0o700)).toBe(0);
      for (const fd of [file, low, directory]) await actor.call("close", fd);
      for (const name of ["dropped", "a", "gone", "gone/file"])
        expect([name, await errorAfterRelease(stage, handles.get(name)!)]).toEqual([
          name,
          "ESTALE",
        ]);
    });
    await mounted(stage, kernel, () => stage.do("test ! -e dropped -a ! -e a -a ! -e gone"));
  });

  test("handles end with a mount without the option, which keeps no index of what it does", async () => {
    await using stage = await Stage.start(disk, MAKE);
    const handles = await mounted(stage, ours, () => handlesOf(stage));
    await stage.mount(["redirect_dir=on"], ours);
    await stage.do("echo more >> low/file; rm b");
    await stage.unmount();
    await mounted(stage, ours, async () => {
      for (const name of ["low", "low/file", "b", "c"])
        expect([name, await reached(stage, handles.get(name)!)]).toEqual([name, "ESTALE"]);
      expect(await stage.do("tail -n 1 low/file")).toBe("more\n");
    });
  });

  test("what a copy-up that was not finished has left does not matter", async () => {
    await using stage = await Stage.start(disk, MAKE);
    const handles = await mounted(stage, ours, async () => {
      const taken = await handlesOf(stage);
      await stage.do("chmod 700 low/sub; chmod 600 low/sub/file");
      return taken;
    });
    // The copies have gone, but what the index has of them is there.
    await stage.run("rm -r u/low");
    await mounted(stage, ours, async () => {
      expect(await reached(stage, handles.get("low/sub")!)).toBe("40755 deep,file");
      expect(await reached(stage, handles.get("low/sub/deep")!)).toBe("40755 file");
      await stage.do("mkdir low/sub/new");
      expect(await reached(stage, handles.get("low/sub")!)).toBe("40755 deep,file,new");
    });
    await mounted(stage, ours, async () =>
      expect(await reached(stage, handles.get("low/sub")!)).toBe("40755 deep,file,new"),
    );
  });

  test("a copy that is in the index alone, since nobody has finished it, is dropped", async () => {
    await using stage = await Stage.start(disk, MAKE);
    await mounted(stage, ours, async () => {
      await stage.do("echo more >> a; echo more >> low/file");
    });
    // As if the daemon had been killed before the first copy got its name.
    await stage.run("setfattr -n trusted.overlay.nlink -v L+0 u/a; rm u/a");
    await mounted(stage, ours, async () => {
      expect(await stage.do("cat a; tail -n 1 low/file")).toBe("l2/a\nmore\n");
    });
    await mounted(stage, kernel, async () => {
      expect(await stage.do("cat a; tail -n 1 low/file")).toBe("l2/a\nmore\n");
    });
  });

  test("handles that were made up open nothing", async () => {
    await using stage = await Stage.start(disk, `${MAKE}; echo secret > outside`);
    const outside = must<{ ino: string }>(await actor.call("lstat", `${stage.base}/outside`)).ino;
    await mounted(stage, ours, async () => {
      const handles = await handlesOf(stage);
      for (const name of ["low/file", "c", "low", "up"]) {
        const bytes = Buffer.from(handles.get(name)!, "latin1");
        for (let bit = 0; bit < 8 * (bytes.length - BEGIN); bit++) {
          const changed = Buffer.from(bytes);
          changed[BEGIN + (bit >> 3)]! ^= 1 << (bit & 7);
          const found = await reached(stage, changed.toString("latin1"));
          expect([name, bit, found]).toEqual([name, bit, expect.stringMatching(/^E/)]);
        }
        bytes.writeUInt32LE(Number(outside), BEGIN);
        expect(await reached(stage, bytes.toString("latin1"))).toBe("ESTALE");
      }
    });
  });

  test("handles of more files than there are descriptors", async () => {
    await using stage = await Stage.start(
      disk,
      "mkdir l1/many; for n in $(seq 300); do mkdir l1/many/$n; echo $n > l1/many/$n/file; done",
    );
    const numbers = Array.from({ length: 300 }, (_, index) => String(index + 1));
    const limited: OverlaySystem = {
      name: "with few descriptors",
      mount: ({ lower, upper, work }, options, mountpoint) =>
        daemonMount(mountpoint, [
          "prlimit",
          "--nofile=128",
          EXECUTABLE,
          "overlay",
          "-o",
          [`lowerdir=${lower.join(":")},upperdir=${upper},workdir=${work}`, ...options].join(","),
          mountpoint,
        ]),
    };
    const handles = await mounted(stage, limited, async () => {
      const taken: string[] = [];
      for (const number of numbers)
        taken.push(
          must<string>(
            (await actor.call("nameToHandle", stage.at(`many/${number}/file`))) as string,
          ),
        );
      return taken;
    });
    await mounted(stage, limited, async () => {
      for (const [index, handle] of handles.entries())
        expect(await reached(stage, handle)).toBe(`100644 ${index + 1}\n`);
    });
  });
});

/** Where the nodeid begins in a handle as `nameToHandle` has it: size and type come before. */
const BEGIN = 8;

/** A tree without the numbers of links of files. */
function withoutLinks(tree: string): string {
  return tree.replace(/^(.* \d+:\d+) \d+ (\d+ )/gm, "$1 $2");
}

/** Opens a handle. Returns the descriptor. */
async function openAgain(stage: Stage, handle: string, flags: number): Promise<number> {
  const root = must<number>(await actor.call("open", stage.mountpoint, abi.O_RDONLY));
  const fd = must<number>(await actor.call("openByHandle", root, handle, flags));
  await actor.call("close", root);
  return fd;
}
