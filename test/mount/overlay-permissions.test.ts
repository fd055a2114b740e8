// Owners and modes in attributes (xattr_permissions): what is shown, what is stored, and that
// fuse-overlayfs reads and writes the same.

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  Disk,
  overlaySystems,
  type OverlayLayers,
  type OverlayMount,
  type OverlaySystem,
} from "../support-overlay.ts";
import { EXECUTABLE, whyNoMounts } from "../support-mount.ts";
import { Namespace } from "../support-namespace.ts";
import { missing, shell } from "./shell.ts";

const { ours } = overlaySystems;
const theirs = overlaySystems["fuse-overlayfs"];
const NAMES = {
  1: "security.fuseoverlayfs.override_stat",
  2: "user.fuseoverlayfs.override_stat",
} as const;
const CONTAINERS = "user.containers.override_stat";
const noPeer = missing("fuse-overlayfs");

let disk: Disk;
let layers: OverlayLayers;
let mounted: OverlayMount | undefined;

beforeEach(async () => {
  if (whyNoMounts !== undefined) return;
  disk = await Disk.start("64M");
  const at = (name: string): string => `${disk.path}/${name}`;
  layers = { lower: [at("lower")], upper: at("upper"), work: at("work") };
  await shell(
    `mkdir lower upper work ../mnt lower/dir; echo old > lower/file; echo in > lower/dir/in
    ln -s file lower/link; chown -h 7:8 lower/link; chown 1000:1001 lower/file; chmod 4755 lower/file
    chown 5:6 lower/dir; chmod 2775 lower/dir`,
    { cwd: disk.path },
  );
});

afterEach(async () => {
  await mounted?.kill();
  mounted = undefined;
  if (whyNoMounts === undefined) await disk[Symbol.asyncDispose]();
});

const mountpoint = (): string => `${disk.base}/mnt`;

async function mount(kind: number, by: OverlaySystem = ours): Promise<void> {
  mounted = await by.mount(layers, kind === 0 ? [] : [`xattr_permissions=${kind}`], mountpoint());
}

async function unmount(): Promise<void> {
  await mounted?.unmount();
  mounted = undefined;
}

/** Runs a script on the mount. */
const on = (script: string): Promise<string> => shell(script, { cwd: mountpoint() });
const below = (script: string): Promise<string> => shell(script, { cwd: disk.path });
const asUser = (script: string): Promise<string> =>
  on(`setpriv --reuid 1234 --regid 1235 --clear-groups sh -euc '${script}'`);

const LIST = "find . -printf '%p %U:%G %m %y %l\\n' | sort";

const CHANGES = `
  chown 33:44 file; chmod 640 file
  chown 9:10 dir; chmod 2770 dir; echo new > dir/new; mkdir dir/sub
  mkdir open; chmod 1777 open`;

describe.skipIf(whyNoMounts !== undefined)("with xattr_permissions", () => {
  for (const kind of [1, 2] as const)
    describe(`${kind}`, () => {
      test("what was made, copied up and changed is shown as it is to be", async () => {
        await mount(kind);
        await on(CHANGES);
        await asUser("umask 027; cd open; echo a > a; mkdir d; ln -s a l; mkfifo f; chmod 4711 a");
        const shown = await on(LIST);
        expect(shown.trim().split("\n")).toEqual([
          ". 0:0 755 d ",
          "./dir 9:10 2770 d ",
          "./dir/in 0:0 644 f ",
          "./dir/new 0:10 644 f ",
          "./dir/sub 0:10 2755 d ",
          "./file 33:44 640 f ",
          "./link 7:8 777 l file",
          "./open 0:0 1777 d ",
          "./open/a 1234:1235 4711 f ",
          "./open/d 1234:1235 750 d ",
          "./open/f 1234:1235 640 p ",
          "./open/l 1234:1235 777 l a",
        ]);
        await unmount();
        await mount(kind);
        expect(await on(LIST)).toBe(shown);
      });

      test("is in the attribute, and the inode is the daemon's without set-id bits", async () => {
        await mount(kind);
        await on("chmod 4711 file; mkdir dir/sub; : > dir/none; chmod 0 dir/none");
        await unmount();
        const stored = await below(
          `cd upper; for f in . file dir/sub dir/none; do
            stat -c '%u:%g %a' $f; getfattr -h --only-values -n ${NAMES[kind]} $f; echo
          done`,
        );
        expect(stored.trim().split("\n")).toEqual(
          ["0:0 755", "0:0:755", "0:0 711", "1000:1001:4711", "0:0 755", "0:6:2755"].concat([
            "0:0 600",
            "0:6:0",
          ]),
        );
      });

      test("goes with whoever takes the place of a whiteout or an emptied directory", async () => {
        await mount(kind);
        await on("chmod 1777 .; rm -r dir; chown 9:10 .; chmod 3777 .");
        await asUser("mkdir dir; echo a > dir/a");
        expect(await on(LIST)).toContain("./dir 1234:10 2755 d");
        await on("mkdir empty; rm -r dir; mkdir dir; chown 3:4 dir empty; mv -T empty dir");
        expect(await on("stat -c '%u:%g %a' dir")).toBe("3:4 2755\n");
      });

      test("set-id bits go when somebody writes", async () => {
        await mount(kind);
        await on("chmod 777 .; cp file other; chown 1:1 file other; chmod 6777 file other");
        expect(await on("stat -c %a file other")).toBe("6777\n6777\n");
        await asUser("echo more >> file; : > other");
        expect(await on("stat -c %a file other")).toBe("777\n777\n");
        await on("chmod 4755 file; chown 2:2 file");
        expect(await on("stat -c '%a %u' file")).toBe("755 2\n");
        await on("chmod 4755 file; truncate -s 1 file");
        await unmount();
        await mount(kind);
        expect(await on("stat -c '%a %u' other")).toBe("777 1\n");
      });

      test("permissions count, and the attribute is not for users", async () => {
        await mount(kind);
        await on("chmod 600 file; chown 1234:0 dir; echo b > b; chown 1234:0 b");
        expect(await asUser("cat file 2>&1 || cat dir/in")).toMatch(/Permission denied\nin\n$/);
        for (const name of [...Object.values(NAMES), CONTAINERS]) {
          const set = `setfattr -n ${name} -v 0:0:4755`;
          expect(await on(`${set} b 2>&1 || getfattr -n ${name} b 2>&1 || :`)).toMatch(
            /Operation not permitted\n.*No such attribute/,
          );
        }
        expect(await on("getfattr -d -m - b file .")).toBe("");
        expect(await on("stat -c '%u %a' b")).toBe("1234 644\n");
      });

      test.skipIf(noPeer)(
        "fuse-overlayfs shows what was made here, and the other way",
        async () => {
          await mount(kind);
          await on(CHANGES);
          await asUser("umask 027; cd open; echo a > a; mkdir d; chmod 4711 a");
          let shown = await on(LIST);
          await unmount();
          await mount(kind, theirs);
          expect(await on(LIST)).toBe(shown);
          // It makes files with more permissions than it was asked for.
          await on(
            "chown 90:91 file; chmod 4750 dir/sub; mkdir their; chown 3:4 their; echo c > c",
          );
          shown = await on(LIST);
          expect(shown).toContain("./their 3:4 ");
          await unmount();
          await mount(kind);
          expect(await on(LIST)).toBe(shown);
        },
      );
    });

  test("a layer below that was written so is read so", async () => {
    await mount(2);
    await on("chown 33:44 file; chmod 6711 file; chown 1:2 dir");
    await unmount();
    await below("mv upper top; rm -r work; mkdir upper work");
    layers = { ...layers, lower: [`${disk.path}/top`, ...layers.lower] };
    await mount(1);
    expect(await on("stat -c '%u:%g %a' file dir")).toBe("33:44 6711\n1:2 2775\n");
    await on("touch file dir");
    expect(await on("stat -c '%u:%g %a' file dir")).toBe("33:44 6711\n1:2 2775\n");
    await unmount();
    expect(await below(`getfattr --only-values -n ${NAMES[1]} upper/file`)).toBe("33:44:6711");
  });

  test("an upper layer of containers-storage goes on as it is", async () => {
    await below(
      `for f in upper upper/made; do
        mkdir -p $f; setfattr -n ${CONTAINERS} -v 3:4:0750:dir $f
      done`,
    );
    await mount(2);
    expect(await on("stat -c '%u:%g %a' . made")).toBe("3:4 750\n3:4 750\n");
    await on("chown 5:6 made");
    await unmount();
    expect(await below(`getfattr --only-values -n ${CONTAINERS} upper/made`)).toBe("5:6:750");
  });

  test("what is not sound in an attribute leaves the inode as it is", async () => {
    await mount(2);
    await on(LIST);
    await unmount();
    const values = [
      "-2:4294967295:644",
      "1:2",
      "1:2:",
      "a:2:644",
      "1:2:9",
      "4294967296:1:1",
      "1::7",
    ];
    await below(
      values
        .map(
          (value, index) =>
            `: > upper/${index}; setfattr -n ${NAMES[2]} -v "${value}" upper/${index}`,
        )
        .join("\n"),
    );
    await mount(2);
    const [first, ...others] = (await on("stat -c '%u %a' ?")).trim().split("\n");
    expect(first).toBe("4294967294 644");
    expect(new Set(others)).toEqual(new Set(["0 644"]));
    expect(others).toHaveLength(values.length - 1);
  });

  test("0, such attributes mean nothing", async () => {
    await mount(2);
    await on("chown 33:44 file; chmod 6711 file");
    await unmount();
    await mount(0);
    expect(await on("stat -c '%u:%g %a' file")).toBe("0:0 711\n");
  });

  test("ids are stored as they are mapped", async () => {
    const options = ["xattr_permissions=2", "uidmapping=1000:0:100", "gidmapping=2000:0:100"];
    await below("chown 1005:2006 lower/file; chown 1000:2000 upper lower/dir");
    mounted = await ours.mount(layers, options, mountpoint());
    await on("chown 7:8 dir; chmod 600 file; : > new; chmod 777 .");
    await on("setpriv --reuid 9 --regid 10 --clear-groups sh -c ': > own'");
    expect(await on("stat -c '%n %u:%g' dir file new own")).toBe(
      "dir 7:8\nfile 5:6\nnew 0:0\nown 9:10\n",
    );
    await unmount();
    const stored = `cd upper; for f in dir file new own; do
        stat -c %u:%g $f; getfattr --only-values -n ${NAMES[2]} $f; echo; done`;
    expect((await below(stored)).trim().split("\n")).toEqual(
      ["0:0", "1007:2008:2775", "0:0", "1005:2006:600", "0:0", "1000:2000:644"].concat([
        "0:0",
        "1009:2010:644",
      ]),
    );
  });

  test("1, it is refused to who may not set the attribute", async () => {
    const list = `lowerdir=${layers.lower[0]},upperdir=${layers.upper},workdir=${layers.work}`;
    const script = `"$0" overlay -o ${list},xattr_permissions=1 ${mountpoint()} 2>&1 || :`;
    expect(await shell(`unshare -Urm sh -c '${script}' ${EXECUTABLE}`)).toMatch(
      /xattr_permissions=1 cannot be had, since upperdir=.* does not take the attribute: /,
    );
  });

  test("a user may keep owners and modes, as fuse-overlayfs does", async () => {
    await using namespace = await Namespace.create();
    const script = `
      cd "$1"; mkdir lower upper work mnt lower/dir; echo a > lower/file
      list=lowerdir=lower,upperdir=upper,workdir=work,xattr_permissions=2
      show() { (cd mnt; find . -printf '%p %U:%G %m %y\\n' | sort); umount mnt; wait; }
      serve() { "$@" -o $list mnt 2>> log & until mountpoint -q mnt; do kill -0 $! || cat log; done; }
      serve "$2" overlay
      chmod 4711 mnt/file; chmod 2750 mnt/dir; mkdir mnt/ro; chmod 1555 mnt/ro; : > mnt/ro/none
      chmod 0 mnt/ro/none
      show
      if [ -n "$3" ]; then serve "$3" -f; show; fi`;
    const { stdout, stderr } = namespace.run(
      ["unshare", "-Urm", "bash", "-c", script, "bash", namespace.base + "/src", EXECUTABLE].concat(
        noPeer ? "" : "fuse-overlayfs",
      ),
      { asUser: true },
    );
    const own = [". 0:0 755 d", "./dir 0:0 2750 d", "./file 0:0 4711 f", "./ro 0:0 1555 d"];
    const expected = [...own, "./ro/none 0:0 0 f"];
    expect([stderr, stdout.trim().split("\n")]).toEqual([
      "",
      noPeer ? expected : [...expected, ...expected],
    ]);
  });
});
