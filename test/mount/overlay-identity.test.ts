// Who a file of an overlay is: its inode number, its links, and handles of it, whatever happens to
// it between two looks.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync } from "node:fs";
import * as abi from "../../src/abi-linux.ts";
import { ESTALE } from "../../src/errno.ts";
import { Disk, overlaySystems, whyNoOverlays } from "../support-overlay.ts";
import { Actor } from "./actor.ts";
import { must, type DirectoryEntry, type Stat } from "./calls.ts";
import { compare, Stage } from "./overlay-stage.ts";
import { dropCaches, shell, SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

setDefaultTimeout(SHELL_TEST_TIMEOUT_MS);

const { kernel, ours } = overlaySystems;
let disk: Disk;
let actor: Actor;
beforeAll(async () => {
  if (whyNoOverlays !== undefined) return;
  disk = await Disk.start();
  actor = new Actor("who looks at an overlay");
});
afterAll(async () => {
  actor?.kill();
  await disk?.[Symbol.asyncDispose]();
});

const inoOf = async (path: string): Promise<string> =>
  must<Stat>(await actor.call("lstat", path)).ino;

/** Name and inode number of each entry, `.` and `..` too, as getdents64(2) tells them. */
async function listed(path: string): Promise<Map<string, string>> {
  const fd = must<number>(await actor.call("open", path, abi.O_RDONLY | abi.O_DIRECTORY));
  const entries = must<DirectoryEntry[]>(await actor.call("getAllDents", fd));
  await actor.call("close", fd);
  return new Map(entries.map(({ name, ino }) => [name, String(ino)]));
}

const MAKE = `
  mkdir -p l1/both l2/both l2/low/sub u/up u/both
  echo x > l2/low/file; echo x > l1/both/l1; echo x > l2/both/l2; echo x > u/both/u
  echo x > l2/a; echo x > l1/b; echo x > u/c; ln -s a l2/link; mkfifo l2/fifo; echo x > l2/both/same; echo x > l1/both/same`;
const ALL = [
  "",
  "both",
  "low",
  "up",
  "low/sub",
  "low/file",
  "both/l1",
  "both/l2",
  "both/u",
  "both/same",
  "a",
  "b",
  "c",
  "link",
  "fifo",
];

describe.skipIf(whyNoOverlays !== undefined)("an inode number", () => {
  const numbers = async (stage: Stage): Promise<Record<string, string>> => {
    const entries = [];
    for (const name of ALL) entries.push([name, await inoOf(stage.at(name))] as const);
    return Object.fromEntries(entries);
  };
  /** What is listed is what is seen by stat(2), both ways of listing. */
  const checkLists = async (stage: Stage): Promise<void> => {
    for (const directory of ["", "both", "low", "up"]) {
      const found = await listed(stage.at(directory));
      if (directory === "") found.delete(".."); // That leads out of the mount.
      for (const [name, ino] of found)
        expect([directory, name, ino]).toEqual([
          directory,
          name,
          await inoOf(stage.at(`${directory}/${name}`)),
        ]);
    }
  };

  test("stays over changes, mounts again, and forgetting; lists have the same ones", async () => {
    await using stage = await Stage.start(disk, MAKE);
    await stage.mount();
    const before = await numbers(stage);
    expect(new Set(Object.values(before)).size).toBe(ALL.length);
    await checkLists(stage);
    await stage.unmount();
    for (const script of [
      "true",
      "chmod 700 low/file a both both/l2; touch -h link; echo y >> b; echo y > both/same",
      "touch low/sub fifo up; chown 1:1 .",
    ]) {
      await stage.mount();
      await stage.do(script);
      expect(await numbers(stage)).toEqual(before);
      await dropCaches();
      await checkLists(stage);
      expect(await numbers(stage)).toEqual(before);
      await stage.unmount();
    }
  });

  test("goes along with a rename", async () => {
    await using stage = await Stage.start(disk, MAKE);
    const options = ["redirect_dir=on"];
    await stage.mount(options);
    const before = await numbers(stage);
    const moved = {
      low: "up/low2",
      "low/file": "up/low2/file",
      both: "both2",
      "both/l1": "both2/l1",
      a: "up/a2",
      link: "link2",
    };
    await stage.do("mv low up/low2; mv both both2; mv a up/a2; mv link link2");
    for (const isAgain of [false, true]) {
      if (isAgain) {
        await stage.unmount();
        await stage.mount(options);
      }
      for (const [from, to] of Object.entries(moved))
        expect([to, await inoOf(stage.at(to))]).toEqual([to, before[from]!]);
    }
  });

  test("is another one for another file of the same name", async () => {
    await using stage = await Stage.start(disk, MAKE);
    await stage.mount();
    const before = await inoOf(stage.at("a"));
    await stage.do("rm a; echo new > a");
    expect(await inoOf(stage.at("a"))).not.toBe(before);
  });

  test("is unique where layers are on several file systems, and stays", async () => {
    await using other = await Disk.start("64M");
    const tmpfs = `${disk.base}/tmpfs`;
    mkdirSync(tmpfs);
    await shell(`mount -t tmpfs tests ${tmpfs}`);
    try {
      // New file systems of one kind give the same numbers to their first files.
      for (const root of [disk.path, other.path, tmpfs])
        await shell(
          `mkdir ${root}/lx; cd ${root}/lx; mkdir d; for i in $(seq 20); do echo ${root} > d/${root.replaceAll("/", "_")}-$i; done`,
        );
      await using stage = await Stage.start(disk, "true");
      const lower = [disk.path, other.path, tmpfs].map((root) => `${root}/lx`);
      await stage.mount([], ours, { lower });
      const before = await listed(stage.at("d"));
      before.delete("..");
      expect(before.size).toBe(61);
      expect(new Set(before.values()).size).toBe(61);
      for (const [name, ino] of before) expect(await inoOf(stage.at(`d/${name}`))).toBe(ino);
      await stage.do("for f in d/*; do echo more >> $f; done");
      await stage.unmount();
      await stage.mount([], ours, { lower });
      for (const [name, ino] of before)
        expect([name, await inoOf(stage.at(`d/${name}`))]).toEqual([name, ino]);
    } finally {
      await shell(`umount -l ${tmpfs}; rm -r ${disk.path}/lx`);
    }
  });
});

describe.skipIf(whyNoOverlays !== undefined)("hard links in a lower layer", () => {
  const MAKE_LINKS = `
    mkdir l1/d; echo x > l1/a; ln l1/a l1/b; ln l1/a l1/d/c; echo y > l2/e; ln l2/e l2/f`;
  const SHOW =
    "stat -c '%n %h %s' a b d/c e f new d/moved 2>/dev/null || true; cat a b d/c e f new d/moved 2>/dev/null || true;";
  const STEPS = [
    "echo 1 >> b",
    "rm a",
    "ln d/c new",
    "mv b d/moved",
    "rm d/c",
    "chmod 600 e; rm e",
    "rm new",
    "rm d/moved f",
  ];

  test("stay together with an index, with the right number right after each change", async () => {
    const script = STEPS.map((step) => `${step}; ${SHOW}`).join("\n");
    await compare(disk, { make: MAKE_LINKS, options: ["index=on"], script: SHOW + script });
  });

  test("stay together over mounts again, by turns by the kernel's overlay and by ours", async () => {
    const printed = [];
    for (const turns of [
      [kernel, kernel],
      [ours, ours],
      [ours, kernel],
      [kernel, ours],
    ]) {
      await using stage = await Stage.start(disk, MAKE_LINKS);
      const lines = [];
      for (const [index, step] of STEPS.entries()) {
        await stage.mount(["index=on"], turns[index % 2]);
        lines.push(await stage.do(`${SHOW} ${step}; ${SHOW}`));
        await stage.unmount();
      }
      printed.push(lines);
    }
    for (const lines of printed.slice(1)) expect(lines).toEqual(printed[0]!);
  });

  test("are files of their own without an index, once they are changed", async () => {
    const script = `stat -c '%n %h' a b d/c; echo 1 >> b; cat a b d/c; stat -c '%n %h' a b d/c; rm a; cat b d/c`;
    await compare(disk, { make: MAKE_LINKS, options: ["index=off"], script });
  });

  test("are as they were when a copy can't get its name, and are copied the next time", async () => {
    const make = `${MAKE_LINKS}; chmod 755 l1/d; setfattr -n user.a -v b l1/d`;
    const look = "stat -c '%n %h %a' a b d/c";
    const script = async (stage: Stage): Promise<string> => {
      await stage.do("touch d/new");
      await stage.run("chattr +i u/d");
      const failed = await stage
        .do(`chmod 600 d/c && echo done || echo failed; ${look}`)
        .finally(() => stage.run("chattr -i u/d"));
      expect(failed).toStartWith("failed\n");
      return failed + (await stage.do(`chmod 600 d/c; ${look}`));
    };
    await compare(disk, { make, options: ["index=on"], script });
  });

  test.each(["rm a", "mv a moved", "mv e a", "mv -n a d/moved; rm b"])(
    "are copied up under the name at hand: %s",
    async (change) => {
      const script = async (stage: Stage): Promise<string> => {
        await stage.do(`stat a b d/c; ${change}`);
        return stage.run("find u -printf '%P %y\\n' | sort");
      };
      await compare(disk, { make: MAKE_LINKS, options: ["index=on"], script });
    },
  );

  test("have the number of links in every kind of stat(2)", async () => {
    await using stage = await Stage.start(disk, MAKE_LINKS);
    await stage.mount(["index=on"]);
    // Which asks for the time of birth makes another request of the kernel's than which does not.
    const look = "stat -c %h b; stat -c '%h %W' b | cut -d' ' -f1; ls -l b | cut -d' ' -f2;";
    expect(await stage.do(`echo 1 >> a; ${look} rm d/c; ${look}`)).toBe("3\n3\n3\n2\n2\n2\n");
  });
});

test.skipIf(whyNoOverlays !== undefined)(
  "a metadata copy takes the space of its data in every kind of stat(2)",
  async () => {
    await using stage = await Stage.start(disk, "head -c 100000 /dev/urandom > l2/f; sync l2/f");
    await stage.mount(["metacopy=on", "redirect_dir=on"]);
    const blocks = await stage.do("stat -c %b f");
    expect(Number(blocks)).toBeGreaterThanOrEqual(196);
    const again = await stage.do("chmod 600 f; stat -c '%b %W' f | cut -d' ' -f1; stat -c %b f");
    expect(again).toBe(blocks + blocks);
  },
);

describe.skipIf(whyNoOverlays !== undefined)("a file handle of an overlay", () => {
  test("opens the file when kernel and daemon have forgotten it, also after changes", async () => {
    await using stage = await Stage.start(disk, MAKE);
    await stage.mount(["redirect_dir=on"]);
    const names = ["low/file", "low", "both/u", "both", "a", ""];
    const handles = new Map<string, string>();
    for (const name of names)
      handles.set(name, must<string>((await actor.call("nameToHandle", stage.at(name))) as string));
    const inos = new Map<string, string>();
    for (const name of names) inos.set(name, await inoOf(stage.at(name)));
    const look = async (): Promise<void> => {
      await dropCaches();
      const root = must<number>(
        await actor.call("open", stage.mountpoint, abi.O_RDONLY | abi.O_DIRECTORY),
      );
      for (const [name, handle] of handles) {
        const fd = must<number>(await actor.call("openByHandle", root, handle, abi.O_RDONLY));
        expect([name, must<Stat>(await actor.call("fstat", fd)).ino]).toEqual([
          name,
          inos.get(name)!,
        ]);
      }
      await actor.call("closeAll");
    };
    await look();
    await stage.do("echo more >> a; mv low up/low2; chmod 700 both");
    await look();
  });

  test("is stale in the next mount, and not of another file that has its number there", async () => {
    await using stage = await Stage.start(disk, MAKE);
    await stage.mount();
    const handle = must<string>((await actor.call("nameToHandle", stage.at("a"))) as string);
    await stage.unmount();
    await stage.mount();
    await stage.do("stat low");
    const root = must<number>(
      await actor.call("open", stage.mountpoint, abi.O_RDONLY | abi.O_DIRECTORY),
    );
    expect(await actor.call("openByHandle", root, handle, abi.O_RDONLY)).toBe(-ESTALE);
    await actor.call("closeAll");
  });

  test("of a file that is gone is stale, also when there is one of its name", async () => {
    await using stage = await Stage.start(disk, MAKE);
    await stage.mount();
    const handle = must<string>((await actor.call("nameToHandle", stage.at("a"))) as string);
    await stage.do("rm a; echo new > a");
    await dropCaches();
    const root = must<number>(
      await actor.call("open", stage.mountpoint, abi.O_RDONLY | abi.O_DIRECTORY),
    );
    expect(await actor.call("openByHandle", root, handle, abi.O_RDONLY)).toBe(-ESTALE);
    await actor.call("closeAll");
  });
});
