// The options of an overlay, one by one: that each does something, or says that it can't.

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { Disk, overlaySystems, type OverlayLayers, type OverlayMount } from "../support-overlay.ts";
import { EXECUTABLE, whyNoMounts } from "../support-mount.ts";
import { shell } from "./shell.ts";

const { ours, kernel } = overlaySystems;
const UUID = "getfattr -e hex -n trusted.overlay.uuid";

let disk: Disk;
let layers: OverlayLayers & { readonly upper: string; readonly work: string };
let mounted: OverlayMount | undefined;

beforeEach(async () => {
  if (whyNoMounts !== undefined) return;
  disk = await Disk.start("64M");
  const at = (name: string): string => `${disk.path}/${name}`;
  layers = { lower: [at("lower")], upper: at("upper"), work: at("work") };
  await below("mkdir lower upper work ../mnt lower/dir; echo old > lower/file; : > lower/dir/in");
});

afterEach(async () => {
  await mounted?.kill();
  mounted = undefined;
  if (whyNoMounts === undefined) await disk[Symbol.asyncDispose]();
});

const mountpoint = (): string => `${disk.base}/mnt`;
const on = (script: string): Promise<string> => shell(script, { cwd: mountpoint() });
const below = (script: string): Promise<string> => shell(script, { cwd: disk.path });

async function mount(options: string, by = ours): Promise<void> {
  const list = options.split(",").filter((option) => option !== "");
  mounted = await by.mount(layers, list, mountpoint());
  await on("ls"); // It answers.
}

async function unmount(): Promise<void> {
  await mounted?.unmount();
  mounted = undefined;
}

/** Mounts, looks, and unmounts. */
async function look(options: string, script: string, by = ours): Promise<string> {
  await mount(options, by);
  const seen = await on(script);
  await unmount();
  return seen;
}

/** What the program says when it does not mount. */
async function refusal(options: string, prefix: readonly string[] = []): Promise<string> {
  const { lower, upper, work } = layers;
  const list = `lowerdir=${lower.join(":")},upperdir=${upper},workdir=${work},${options}`;
  const command = [...prefix, EXECUTABLE, "overlay", "-o", list, mountpoint()];
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  const text = await new Response(child.stderr).text();
  expect(await child.exited).toBe(2);
  return text;
}

describe.skipIf(whyNoMounts !== undefined)("uuid", () => {
  const stored = (): Promise<string> => below(`${UUID} upper 2>/dev/null | grep = || echo none`);

  test("is made for a new upper layer, and stays", async () => {
    await look("", "ls");
    const first = await stored();
    expect(first).toMatch(/=0x[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}\n$/);
    await look("", "touch file");
    await look("uuid=on", "ls");
    expect(await stored()).toBe(first);
    await look("", "ls", kernel);
    expect(await stored()).toBe(first);
  });

  test("is what the kernel has made", async () => {
    await look("uuid=on", "ls", kernel);
    const first = await stored();
    expect(first).toMatch(/=0x[0-9a-f]{32}\n$/);
    await look("uuid=on", "ls");
    expect(await stored()).toBe(first);
  });

  for (const option of ["uuid=null", "uuid=off"])
    test(`${option}: is not made`, async () => {
      await look(option, "touch file");
      expect(await stored()).toBe("none\n");
      // By default, one that was used without does without.
      await look("", "ls");
      expect(await stored()).toBe("none\n");
      await look("uuid=on", "ls");
      expect(await stored()).toMatch(/=0x[0-9a-f]{32}\n$/);
    });
});

describe.skipIf(whyNoMounts !== undefined)("volatile", () => {
  test("leaves its mark, however it ends", async () => {
    await look("volatile", "echo a > new");
    expect(existsSync(`${layers.work}/work/incompat/volatile`)).toBe(true);
    expect(await refusal("volatile")).toMatch(
      /was volatile, so its upper layer is incomplete if the machine has gone down since/,
    );
    expect(await refusal("index=off")).toMatch(/remove .*\/work\/work\/incompat\/volatile/);
    await below("rm -r work/work/incompat/volatile");
    expect(await look("volatile", "cat new")).toBe("a\n");
  });

  test("is as the kernel marks it", async () => {
    await look("volatile", "ls", kernel);
    expect(await refusal("index=off")).toMatch(/was volatile/);
    await below("rm -r work/work/incompat/volatile");
    await look("volatile", "ls");
    await expect(mount("", kernel)).rejects.toThrow(/EINVAL/);
  });

  test("other marks are respected", async () => {
    await below("mkdir -p work/work/incompat/other");
    expect(await refusal("index=off")).toMatch(/in a way that is not known here/);
    expect(existsSync(`${layers.work}/work/incompat/other`)).toBe(true);
  });

  for (const [option, syncs] of [
    ["volatile", false],
    ["fsync=0", false],
    ["fsync=1", true],
    ["", true],
  ] as const)
    test(`${option || "nothing"}: what is opened to be synchronised ${syncs ? "is" : "is not"}`, async () => {
      await mount(`no_kernel_passthrough${option && `,${option}`}`);
      const child = Bun.spawn(["dd", "of=new", "oflag=sync", "status=none", "bs=1"], {
        cwd: mountpoint(),
        stdin: "pipe",
        stdout: "ignore",
        stderr: "inherit",
      });
      void child.stdin.write("a");
      void child.stdin.flush();
      const { pid } = mounted!;
      const flags = (): string[] =>
        readdirSync(`/proc/${pid}/fd`)
          .filter((fd) => readlinkOrNothing(`/proc/${pid}/fd/${fd}`).endsWith("/new"))
          .map(
            (fd) =>
              /^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))![1]!,
          )
          .filter((text) => Number.parseInt(text, 8) & 1); // For writing.
      while (flags().length === 0 && mounted !== undefined) await new Promise(setImmediate);
      expect(flags().map((text) => (Number.parseInt(text, 8) & 0o4010000) !== 0)).toEqual([syncs]);
      void child.stdin.end();
      expect(await child.exited).toBe(0);
    });
});

function readlinkOrNothing(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // It was closed meanwhile.
  }
}

describe.skipIf(whyNoMounts !== undefined)("extended attributes", () => {
  test("noacl: ACLs are neither seen nor made, and stay where they are", async () => {
    await below("setfacl -m u:1234:rw lower/file; setfacl -d -m u:1234:rwx lower/dir");
    await mount("noacl");
    expect(await on("getfacl -cp file")).toBe("user::rw-\ngroup::rw-\nother::r--\n\n");
    expect(await on("getfattr -d -m - file dir")).toBe("");
    expect(await on("setfacl -m u:1:r file 2>&1 || :")).toMatch(/Operation not supported/);
    await on("setfattr -n user.a -v b file; chmod 646 file");
    await unmount();
    expect(await look("", "getfacl -cp file; getfacl -cp dir")).toMatch(
      /user:1234:rw-[^]*default:user:1234:rwx/,
    );
  });

  test("ACLs are there without it", async () => {
    await below("setfacl -m u:1234:rw lower/file");
    await mount("");
    expect(await on("setfacl -m u:1:r file; getfacl -cnp file")).toMatch(
      /user:1:r--\nuser:1234:rw-/,
    );
  });

  test("noxattrs: there are none, and nothing is copied up for them", async () => {
    await below("setfattr -n user.a -v b lower/file");
    await mount("noxattrs");
    expect(await on("getfattr -d -m - file 2>&1 || :")).not.toMatch(/user\.a/);
    const attempts = "setfattr -n user.c -v d file 2>&1 || setfattr -x user.a file 2>&1 || :";
    expect(await on(attempts)).toMatch(/^(setfattr: file: Operation not supported\n){2}$/);
    expect(readdirSync(layers.upper)).toEqual([]);
  });
});

describe.skipIf(whyNoMounts !== undefined)("inode numbers", () => {
  test("xino=on: stay, copied up or not", async () => {
    const numbers = "stat -c '%n %i' file dir dir/in";
    await mount("xino=on");
    const first = await on(numbers);
    expect(await on(`touch file dir; ${numbers}`)).toBe(first);
    await unmount();
    expect(await look("xino=on", numbers)).toBe(first);
  });

  test("xino=on: is refused where files can't be found again by handle", async () => {
    const user = await refusal("xino=on", ["unshare", "-Urm"]);
    expect(user).toMatch(/xino=on cannot be had: .* file handle/);
  });

  test("fast_ino: may be listed as they lie there", async () => {
    await below("cd lower/dir; for i in {1..3000}; do echo > file-with-a-long-name-$i; done");
    await look("", "touch dir/*");
    // Of the first ones the kernel asks for attributes, too, so that they have to be looked at.
    // ls(1) looks at every file.
    const script = "import os\nfor e in os.scandir('dir'): print(e.name, e.inode())";
    const listed = `python3 -c "${script}" | sort`;
    const lying = (await below("cd upper; " + listed)).split("\n");
    const asLying = (seen: string): number =>
      seen.split("\n").filter((line, index) => line === lying[index] && line.includes("file"))
        .length;
    expect(asLying(await look("", listed))).toBe(0);
    expect(asLying(await look("fast_ino=1", listed))).toBeGreaterThan(1000);
  });
});

describe.skipIf(whyNoMounts !== undefined)("attributes", () => {
  for (const [options, expected] of [
    ["timeout=0", "4\n"],
    ["timeout=100", "2\n"],
  ] as const)
    test(`${options}: ${expected === "4\n" ? "are asked for each time" : "are kept"}`, async () => {
      await below("echo x > upper/f");
      await mount(`${options},no_kernel_passthrough`);
      expect(await on("stat -c %s f")).toBe("2\n");
      await below("echo y >> upper/f");
      expect(await on("stat -c %s f")).toBe(expected);
    });
});

describe.skipIf(whyNoMounts !== undefined)("directories", () => {
  test("static_nlink: have one link, new ones too", async () => {
    await mount("static_nlink");
    await on("mkdir -p new/one new/two dir/one");
    expect(await on("stat -c %h . new new/one dir")).toBe("1\n1\n1\n1\n");
  });

  test("have their links without it", async () => {
    await mount("");
    await on("mkdir -p new/one new/two");
    expect(await on("stat -c %h new new/one")).toBe("4\n2\n");
  });

  for (const [option, found] of [
    ["redirect_dir=on", "in\n"],
    ["redirect_dir=follow", "in\n"],
    ["redirect_dir=off", "in\n"],
    ["redirect_dir=nofollow", "no"],
  ] as const)
    test(`${option}: renamed by others ${found === "no" ? "can't be used" : "are found"}`, async () => {
      await look("redirect_dir=on", "mv dir moved");
      const seen = await look(option, "ls moved 2>&1 || :");
      if (found === "no") expect(seen).toMatch(/Operation not permitted/);
      else expect(seen).toBe(found);
      const rename = await look(option, "mkdir -p other; mv -T moved again 2>&1 || :");
      expect(rename === "").toBe(found !== "no");
    });

  test("redirect_dir=follow: are not renamed but copied", async () => {
    await mount("redirect_dir=follow");
    const rename =
      "import os, sys\ntry: os.rename('dir', 'moved')\nexcept OSError as e: print(e.errno)";
    expect(await on(`python3 -c "${rename}"`)).toBe("18\n");
  });
});

describe.skipIf(whyNoMounts !== undefined)("metacopy", () => {
  test("on: a change of the mode copies no data, which off does not follow", async () => {
    expect(await look("metacopy=on", "chmod 600 file; cat file")).toBe("old\n");
    expect(await below("stat -c %s upper/file; tr -d '\\0' < upper/file")).toBe("4\n");
    expect(await look("metacopy=on", "cat file")).toBe("old\n");
    expect(await look("metacopy=off", "cat file 2>&1 || :")).toMatch(/Operation not permitted/);
  });

  test("data layers have data, and nothing else is looked up in them", async () => {
    await below(
      `mkdir -p data/deep; echo data > data/deep/object; : > data/unseen
      : > lower/there; truncate -s 5 lower/there; setfattr -n trusted.overlay.metacopy lower/there
      setfattr -n trusted.overlay.redirect -v /deep/object lower/there`,
    );
    layers = { ...layers, lower: [`${layers.lower[0]}::${disk.path}/data`] };
    expect(await look("metacopy=on", "ls; cat there")).toBe("dir\nfile\nthere\ndata\n");
    await look("metacopy=on", "echo more >> there");
    expect(await below("cat upper/there")).toBe("data\nmore\n");
  });
});

describe.skipIf(whyNoMounts !== undefined)("ids", () => {
  test("uidmapping and gidmapping: are shown as others, and stored as they are", async () => {
    await below("chown 1005:1006 lower/file");
    await mount("uidmapping=1000:0:100:0:1000:1,gidmapping=1000:0:100:0:1000:1");
    expect(await on("stat -c %u:%g file dir")).toBe("5:6\n1000:1000\n");
    await on("chown 7:8 file; : > new");
    await unmount();
    expect(await below("stat -c %u:%g upper/file upper/new")).toBe("1007:1008\n1000:1000\n");
  });

  test("squash_to_uid and squash_to_gid: are all one", async () => {
    await below("chown 1005:1006 lower/file");
    await mount("squash_to_uid=3,squash_to_gid=4");
    expect(await on(": > new; stat -c %u:%g file dir new")).toBe("3:4\n3:4\n3:4\n");
  });
});

describe.skipIf(whyNoMounts !== undefined)("timeout", () => {
  for (const [option, seen] of [
    ["timeout=0", "new\n"],
    ["timeout=86400", "old\n"],
  ] as const)
    test(`${option}: ${seen.trim()} attributes of a layer that was changed by other hands`, async () => {
      await below("chmod 600 lower/file");
      await mount(option);
      expect(await on("stat -c %a file")).toBe("600\n");
      await below("chmod 644 lower/file");
      expect(await on("stat -c %a file")).toBe(seen === "new\n" ? "644\n" : "600\n");
    });
});
