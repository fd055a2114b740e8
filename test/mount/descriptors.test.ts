// Inodes without descriptors, on a real mount: big trees with few descriptors, files that are used
// when their name is gone, file handles of the mount, and several file systems below the source.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import * as abi from "../../src/abi-linux.ts";
import { EMFILE, ENOENT, EOPNOTSUPP, ESTALE, EXDEV } from "../../src/errno.ts";
import { cstring } from "../../src/memory.ts";
import * as sys from "../../src/syscall.ts";
import { EXECUTABLE, memoryOf, Mount, whyNoMounts, type MountSetup } from "../support-mount.ts";
import { Actor } from "./actor.ts";
import { must, type Stat } from "./calls.ts";
import { COUNT_FILES, dropCaches, shell, SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

setDefaultTimeout(SHELL_TEST_TIMEOUT_MS);

const LIMIT = 256;
const FEW = ["prlimit", `--nofile=${LIMIT}:${LIMIT}`];
/** The kernel asks for attributes each time, but does not look up again a name that it removes. */
const ASK_ATTRIBUTES = ["--attr-timeout", "0", "--entry-timeout", "3600"];
/** The kernel asks for everything each time. */
const ASK_ALWAYS = ["--attr-timeout", "0", "--entry-timeout", "0"];
/** More files than descriptors: looking them up takes those of all others. */
const CROWD = 2 * LIMIT;

const MS_REMOUNT = 32;
const RDWR = abi.O_RDWR;
const PATH = abi.O_PATH | abi.O_NOFOLLOW;

const onMounts = describe.skipIf(whyNoMounts !== undefined);

/** A mount, somebody who uses it, and a way to take the daemon's descriptors away. */
class Pressed implements AsyncDisposable {
  readonly mount: Mount;
  readonly actor: Actor;

  private constructor(mount: Mount) {
    this.mount = mount;
    this.actor = new Actor();
  }

  static async start(setup: MountSetup): Promise<Pressed> {
    return new Pressed(await Mount.start({ prefix: FEW, ...setup }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.actor.kill();
    await this.mount[Symbol.asyncDispose]();
  }

  /** By way of the mount, and behind it. */
  at(name: string): string {
    return `${this.mount.mountpoint}/${name}`;
  }
  behind(name: string): string {
    return `${this.mount.source}/${name}`;
  }

  make(name: string, data = name): void {
    writeFileSync(this.behind(name), data);
  }

  /** How many descriptors the daemon has. */
  get descriptors(): number {
    return readdirSync(`/proc/${this.mount.pid}/fd`).length;
  }

  /** How many of them are of files below the source; the others come as workers need them. */
  get heldFiles(): number {
    const directory = `/proc/${this.mount.pid}/fd`;
    const held = readdirSync(directory).filter((fd) => {
      try {
        return readlinkSync(`${directory}/${fd}`).startsWith(this.behind(""));
      } catch {
        return false; // Closed in the meantime.
      }
    });
    return held.length;
  }

  /** Has the daemon look up so many other files that no inode keeps a cached descriptor. */
  async press(): Promise<void> {
    const { mountpoint, source } = this.mount;
    const seen = await shell(`
      crowd=$(mktemp -d ${source}/crowd-XXXXXX); cd $crowd; touch {1..${CROWD}}
      cd ${mountpoint}/\${crowd##*/}; ${COUNT_FILES}
    `);
    expect(seen).toBe(`${CROWD}\n`);
  }

  /** Has the kernel forget what nobody uses: a remount drops the names that it keeps. */
  forget(): void {
    const { address } = cstring(this.mount.mountpoint);
    expect(sys.mount(0, address, 0, MS_REMOUNT, 0)).toBe(0);
  }

  /** Waits until the daemon holds at most so many files: FORGETs come when the kernel likes. */
  async untilHeld(count: number): Promise<void> {
    const deadline = performance.now() + 10_000;
    while (this.heldFiles > count) {
      if (performance.now() > deadline) throw new Error(`there are still ${this.heldFiles}`);
      await new Promise(setImmediate);
    }
  }

  async stat(name: string): Promise<Stat> {
    return must<Stat>(await this.actor.call("lstat", this.at(name)));
  }
  async fstat(fd: number): Promise<Stat> {
    return must<Stat>(await this.actor.call("fstat", fd));
  }
  async open(name: string, flags: number): Promise<number> {
    return must<number>(await this.actor.call("open", this.at(name), flags));
  }
  async read(name: string): Promise<string> {
    const fd = await this.open(name, abi.O_RDONLY);
    const data = await this.actor.call("pread", fd, 100, 0);
    await this.actor.call("close", fd);
    return must<string>(data);
  }
  /** Opens a file handle of the mount: a descriptor, or -errno. */
  async openHandle(handle: string, flags = abi.O_RDONLY): Promise<number> {
    const root = await this.open("", abi.O_RDONLY | abi.O_DIRECTORY);
    const fd = await this.actor.call("openByHandle", root, handle, flags);
    await this.actor.call("close", root);
    return fd;
  }
  async handle(name: string): Promise<string> {
    return must<string>(await this.actor.call("nameToHandle", this.at(name)));
  }
}

onMounts("a tree of 20,000 files with 256 descriptors", () => {
  test("is walked by several at once, and forgotten again", async () => {
    await using pressed = await Pressed.start({ options: ["--workers", "4"] });
    const { mount } = pressed;
    await mount.during(async () => {
      const fill = "mkdir {1..200}; for d in *; do (cd $d; touch {1..100}); done";
      await shell(`mkdir warm tree; touch warm/{1..500}; cd tree; ${fill}`, { cwd: mount.source });
      const walk = async (): Promise<void> => {
        const walks = [1, 2, 3].map(() => shell(COUNT_FILES, { cwd: pressed.at("tree") }));
        for (const counted of walks) expect(await counted).toBe("20000\n");
        // The cache is in use, and leaves room for other descriptors.
        expect(pressed.descriptors).toBeGreaterThan(LIMIT / 2);
        expect(pressed.descriptors).toBeLessThan(LIMIT);
      };
      const forget = async (): Promise<void> => {
        pressed.forget();
        await pressed.untilHeld(0);
      };
      // First a few files, many times: compiled code is most of the memory.
      for (let round = 0; round < 30; round++) {
        await shell(COUNT_FILES, { cwd: pressed.at("warm") });
        await forget();
      }
      const before = memoryOf(mount.pid);
      await walk();
      const walked = memoryOf(mount.pid);
      expect(walked - before).toBeLessThan(32 * 1024);
      for (let round = 0; round < 5; round++) {
        await forget();
        await walk();
      }
      await forget();
      expect(memoryOf(mount.pid) - before).toBeLessThan(32 * 1024);
      // Less than 200 bytes for each file of each round.
      expect(memoryOf(mount.pid) - walked).toBeLessThan(16 * 1024);
    });
  });

  test("leaves no room for as many open files, which then fail, and nothing else does", async () => {
    await using pressed = await Pressed.start({ options: ["--no-kernel-passthrough"] });
    const { mount, actor } = pressed;
    await mount.during(async () => {
      for (let index = 0; index <= LIMIT; index++) pressed.make(String(index), "");
      await pressed.press();
      const fds: number[] = [];
      for (let index = 0; index <= LIMIT; index++) {
        const fd = await actor.call("open", pressed.at(String(index)), RDWR);
        if (fd < 0) expect(fd).toBe(-EMFILE);
        else fds.push(fd);
      }
      // The cache has given way, but for what the daemon itself needs.
      expect(fds.length).toBeGreaterThan(LIMIT - 60);
      expect(fds.length).toBeLessThan(LIMIT);
      for (const fd of fds) await actor.call("close", fd);
      await pressed.untilHeld(LIMIT / 2);
      expect(await pressed.read("7")).toBe("");
    });
  });
});

onMounts.each([
  ["the kernel reading and writing files", []],
  ["the daemon reading and writing files", ["--no-kernel-passthrough"]],
] as const)("with few descriptors and %s", (_name, options) => {
  let pressed: Pressed;
  beforeAll(async () => {
    pressed = await Pressed.start({ options: [...ASK_ATTRIBUTES, ...options] });
  });
  afterAll(async () => {
    await pressed?.[Symbol.asyncDispose]();
  });
  const during = (work: () => Promise<void>): Promise<void> => pressed.mount.during(work);

  test("an open file is used on when it was removed", () =>
    during(async () => {
      const { actor } = pressed;
      pressed.make("open");
      const { ino } = await pressed.stat("open");
      const fd = await pressed.open("open", RDWR);
      await pressed.press();
      expect(await actor.call("unlink", pressed.at("open"))).toBe(0);
      await pressed.press();
      expect(await pressed.fstat(fd)).toMatchObject({ nlink: 0, ino, size: 4 });
      expect(await actor.call("pwrite", fd, "more", 4)).toBe(4);
      expect(await actor.call("pread", fd, 100, 0)).toBe("openmore");
      expect(await actor.call("ftruncate", fd, 2)).toBe(0);
      await pressed.press();
      expect(await pressed.fstat(fd)).toMatchObject({ nlink: 0, ino, size: 2 });
      await actor.call("close", fd);
    }));

  test("a file that is only held by O_PATH is known on when it was removed", () =>
    during(async () => {
      const { actor } = pressed;
      pressed.make("path");
      const fd = await pressed.open("path", PATH);
      await pressed.press();
      expect(await actor.call("unlink", pressed.at("path"))).toBe(0);
      await pressed.press();
      expect(await pressed.fstat(fd)).toMatchObject({ nlink: 0, size: 4 });
      const again = must<number>(await actor.call("open", `/proc/self/fd/${fd}`, abi.O_RDONLY));
      expect(await actor.call("read", again, 100)).toBe("path");
      for (const each of [fd, again]) await actor.call("close", each);
    }));

  test("a directory is the working directory on when it was removed", () =>
    during(async () => {
      const { actor } = pressed;
      mkdirSync(pressed.behind("cwd"));
      expect(await actor.call("chdir", pressed.at("cwd"))).toBe(0);
      await pressed.press();
      expect(await actor.call("rmdir", pressed.at("cwd"))).toBe(0);
      await pressed.press();
      expect(must<Stat>(await actor.call("stat", ".")).nlink).toBe(0);
      expect(await actor.call("tryOpen", "new", RDWR | abi.O_CREAT)).toBe(-ENOENT);
      expect(await actor.call("getcwd")).toBe(-ENOENT);
      await actor.call("chdir", "/");
    }));

  test("a file that another one has replaced is used on, and so is the other", () =>
    during(async () => {
      const { actor } = pressed;
      for (const name of ["target", "source"]) pressed.make(name);
      const [target, source] = [await pressed.open("target", PATH), await pressed.stat("source")];
      await pressed.press();
      expect(await actor.call("rename", pressed.at("source"), pressed.at("target"))).toBe(0);
      await pressed.press();
      expect(await pressed.fstat(target)).toMatchObject({ nlink: 0, size: 6 });
      expect((await pressed.stat("target")).ino).toBe(source.ino);
      expect(await pressed.read("target")).toBe("source");
      await actor.call("close", target);
    }));

  test("files are the same under all their names, old and new", () =>
    during(async () => {
      const { actor } = pressed;
      pressed.make("one");
      mkdirSync(pressed.behind("directory"));
      const { ino } = await pressed.stat("one");
      const fd = await pressed.open("one", PATH);
      await pressed.press();
      expect(await actor.call("link", pressed.at("one"), pressed.at("two"))).toBe(0);
      await pressed.press();
      const moved = pressed.at("directory/three");
      expect(await actor.call("rename", pressed.at("one"), moved)).toBe(0);
      await pressed.press();
      expect(await pressed.stat("two")).toMatchObject({ ino, nlink: 2 });
      expect(await pressed.stat("directory/three")).toMatchObject({ ino, nlink: 2 });
      expect(await actor.call("unlink", moved)).toBe(0);
      await pressed.press();
      expect(await pressed.fstat(fd)).toMatchObject({ ino, nlink: 1 });
      expect(await actor.call("unlink", pressed.at("two"))).toBe(0);
      await pressed.press();
      expect(await pressed.fstat(fd)).toMatchObject({ ino, nlink: 0 });
      await actor.call("close", fd);
    }));
});

onMounts("a file handle of the mount", () => {
  let pressed: Pressed;
  beforeAll(async () => {
    pressed = await Pressed.start({ options: ASK_ALWAYS });
  });
  afterAll(async () => {
    await pressed?.[Symbol.asyncDispose]();
  });
  const during = (work: () => Promise<void>): Promise<void> => pressed.mount.during(work);

  test("opens the file when kernel and daemon have forgotten it", () =>
    during(async () => {
      const { actor } = pressed;
      mkdirSync(pressed.behind("d"));
      pressed.make("d/f", "contents");
      const { ino } = await pressed.stat("d/f");
      const [file, directory] = [await pressed.handle("d/f"), await pressed.handle("d")];
      expect(pressed.heldFiles).toBe(2);
      pressed.forget();
      await pressed.untilHeld(0);

      const fd = must<number>(await pressed.openHandle(file, RDWR));
      expect(await actor.call("read", fd, 100)).toBe("contents");
      expect((await pressed.fstat(fd)).ino).toBe(ino);
      expect(await actor.call("pwrite", fd, "C", 0)).toBe(1);
      await actor.call("close", fd);
      expect(await pressed.read("d/f")).toBe("Contents");
      const dirfd = must<number>(await pressed.openHandle(directory));
      expect(await actor.call("openat", dirfd, "f", abi.O_RDONLY)).toBeGreaterThan(0);
      await actor.call("closeAll");
    }));

  test("of a file that is gone is stale, also when its inode number is another file's", () =>
    during(async () => {
      const { actor } = pressed;
      pressed.make("gone");
      const handle = await pressed.handle("gone");
      expect(await actor.call("unlink", pressed.at("gone"))).toBe(0);
      pressed.forget();
      expect(await pressed.openHandle(handle)).toBe(-ESTALE);
      for (let index = 0; index < 20; index++) {
        pressed.make(`new-${index}`);
        await pressed.stat(`new-${index}`);
      }
      expect(await pressed.openHandle(handle)).toBe(-ESTALE);
    }));

  test("of a file that is gone is stale while it is open, as the host's is", () =>
    during(async () => {
      const { actor } = pressed;
      pressed.make("used");
      const handle = await pressed.handle("used");
      const fd = await pressed.open("used", abi.O_RDONLY);
      expect(await actor.call("unlink", pressed.at("used"))).toBe(0);
      pressed.forget();
      // The kernel has the inode itself, and does not need the daemon.
      const again = await pressed.openHandle(handle);
      if (again < 0) expect(again).toBe(-ESTALE);
      else expect(await pressed.fstat(again)).toMatchObject({ nlink: 0 });
      expect(await actor.call("read", fd, 100)).toBe("used");
      await actor.call("closeAll");
    }));
});

onMounts("a file handle of one of several mounts", () => {
  test("opens the file when the kernel has forgotten it, and the way to it", async () => {
    const mounts = { "/one": { source: "one" }, "/tree/two": { source: "two" } };
    await using pressed = await Pressed.start({ mounts });
    const { mount, actor } = pressed;
    await mount.during(async () => {
      for (const source of ["one", "two"]) {
        mkdirSync(`${mount.base}/${source}/d/e`, { recursive: true });
        writeFileSync(`${mount.base}/${source}/d/e/f`, source);
      }
      const below = ["", "/d", "/d/e", "/d/e/f"];
      const names = ["", "tree", ...["one", "tree/two"].flatMap((at) => below.map((n) => at + n))];
      const known = new Map<string, { handle: string; ino: string }>();
      for (const name of names)
        known.set(name, {
          handle: await pressed.handle(name),
          ino: (await pressed.stat(name)).ino,
        });
      for (const [name, { handle, ino }] of known) {
        await dropCaches();
        const fd = await pressed.openHandle(handle);
        expect([name, fd]).toEqual([name, expect.any(Number)]);
        expect((await pressed.fstat(must<number>(fd))).ino).toBe(ino);
        await actor.call("close", fd);
      }
      // Nothing was taken for something else on the way.
      for (const name of names) expect((await pressed.stat(name)).ino).toBe(known.get(name)!.ino);
      await actor.call("closeAll");
    });
  });
});

onMounts("a file handle of a mount that is gone", () => {
  test("is stale in the next, and not of another file that has its number there", async () => {
    await using pressed = await Pressed.start({ options: ASK_ALWAYS });
    const { mount, actor } = pressed;
    await mount.during(async () => {
      pressed.make("one");
      pressed.make("other");
      const handle = await pressed.handle("one");
      await mount.kill();
      await mount.run();
      await pressed.stat("other");
      expect(await pressed.openHandle(handle)).toBe(-ESTALE);
      await actor.call("closeAll");
    });
  });
});

onMounts("a file that is deleted on the source", () => {
  test("is not taken for the one that gets its inode number", async () => {
    await using pressed = await Pressed.start({ options: ASK_ALWAYS });
    const { mount } = pressed;
    await mount.during(async () => {
      pressed.make("old", "old contents");
      const { ino } = await pressed.stat("old");
      const fd = await pressed.open("old", PATH);
      await pressed.press(); // The daemon does not hold it any more.
      rmSync(pressed.behind("old"));
      let name = "";
      for (let index = 0; index < 100 && name === ""; index++) {
        pressed.make(`new-${index}`, "new");
        if ((await pressed.stat(`new-${index}`)).ino === ino) name = `new-${index}`;
      }
      if (name === "") return console.warn("no inode number was reused, so nothing was shown");
      expect(await pressed.read(name)).toBe("new");
      expect(await pressed.actor.call("fstat", fd)).toBe(-ESTALE);
      expect(await pressed.stat(name)).toMatchObject({ ino, size: 3, nlink: 1 });
    });
  });
});

describe.skipIf(whyNoMounts !== undefined)("several file systems below the source", () => {
  let base = "";
  const source = (name = ""): string => `${base}/src/${name}`;

  beforeAll(async () => {
    base = mkdtempSync("/tmp/fuse-backend-several-");
    await shell(`
      cd ${base}; chmod 755 .; mkdir -p src/{one,two,bind,plain}; cd src
      mount -t tmpfs -o mode=755 tests one
      mount -t tmpfs -o mode=755 tests two
      mount --bind plain bind
      for d in . one two plain; do echo $d > $d/file; mkdir $d/d; done
    `);
  });
  afterAll(async () => {
    await shell(`cd ${base}/src; umount -l one two bind; rm -r ${base}`);
  });

  const inos = async (pressed: Pressed, ...names: string[]): Promise<string[]> =>
    Promise.all(names.map(async (name) => (await pressed.stat(name)).ino));
  const host = (name: string): string => String(statSync(source(name)).ino);

  test("have inode numbers of their own, which stay the same", async () => {
    await using pressed = await Pressed.start({ source: source(), options: ASK_ALWAYS });
    await pressed.mount.during(async () => {
      // Both are tmpfs, so the host's numbers are the same.
      expect(host("one/file")).toBe(host("two/file"));
      const names = ["", "file", "one", "one/file", "two", "two/file", "plain/file"];
      const before = await inos(pressed, ...names);
      expect(new Set(before).size).toBe(names.length);
      expect(before[1]).toBe(host("file"));
      expect(await inos(pressed, "bind/file")).toEqual([before.at(-1)!]);
      pressed.forget();
      await pressed.press();
      expect(await inos(pressed, ...names)).toEqual(before);
    });
  });

  test("are crossed into, and nothing is moved or linked from one to another", async () => {
    await using pressed = await Pressed.start({ source: source() });
    await pressed.mount.during(async () => {
      const { actor } = pressed;
      expect(await pressed.read("one/file")).toBe("one\n");
      const fd = await pressed.open("two/new", RDWR | abi.O_CREAT);
      expect(await actor.call("write", fd, "data")).toBe(4);
      await actor.call("close", fd);
      expect(readFileSync(source("two/new"), "latin1")).toBe("data");
      const [from, to] = [pressed.at("two/new"), pressed.at("one/new")];
      expect(await actor.call("rename", from, to)).toBe(-EXDEV);
      expect(await actor.call("link", from, to)).toBe(-EXDEV);
      expect(await actor.call("unlink", from)).toBe(0);
      const figures = await actor.call("statfs", pressed.at("one"));
      expect(figures).toEqual(await actor.call("statfs", source("one")));
      await pressed.press();
      expect(await pressed.read("two/file")).toBe("two\n");
      expect(await actor.call("list", pressed.at("one"))).toEqual(["d", "file"]);
    });
  });

  test("show the host's inode numbers if that is wanted", async () => {
    const options = ["--use-host-ino", ...ASK_ALWAYS];
    await using pressed = await Pressed.start({ source: source(), options });
    await pressed.mount.during(async () => {
      const names = ["file", "one", "one/file", "two/file", "two/d"];
      expect(await inos(pressed, ...names)).toEqual(names.map(host));
      expect(await pressed.read("one/file")).toBe("one\n");
      expect(await pressed.read("two/file")).toBe("two\n");
    });
  });

  test("are also told apart by their mounts if that is wanted", async () => {
    const options = ["--mntid", ...ASK_ALWAYS];
    await using pressed = await Pressed.start({ source: source(), options });
    await pressed.mount.during(async () => {
      const names = ["plain/file", "bind/file", "plain", "bind", "one/file"];
      expect(new Set(await inos(pressed, ...names)).size).toBe(names.length);
      const fd = await pressed.open("bind/file", RDWR);
      expect(await pressed.actor.call("pwrite", fd, "P", 0)).toBe(1);
      expect(await pressed.read("plain/file")).toBe("Plain\n");
      await pressed.press();
      expect(await pressed.read("bind/file")).toBe("Plain\n");
      expect(await pressed.actor.call("pwrite", fd, "p", 0)).toBe(1);
      await pressed.actor.call("close", fd);
      // From one mount to the other nothing can be moved, as on the host.
      const [from, to] = [pressed.at("bind/file"), pressed.at("plain/new")];
      expect(await pressed.actor.call("rename", from, to)).toBe(-EXDEV);
    });
  });
});

onMounts("file handles", () => {
  test("that must be had are, where there are some", async () => {
    const options = ["--inode-file-handles", "always", ...ASK_ALWAYS];
    await using pressed = await Pressed.start({ options });
    await pressed.mount.during(async () => {
      pressed.make("f");
      await pressed.press();
      expect(pressed.descriptors).toBeLessThan(LIMIT);
      expect(await pressed.read("f")).toBe("f");
    });
  });

  test("that must be had refuse what has none, a source and a directory in it", async () => {
    const base = mkdtempSync("/tmp/fuse-backend-handles-");
    try {
      await shell(`mkdir ${base}/ramfs; mount -t ramfs tests ${base}/ramfs; touch ${base}/f`);
      const options = ["--inode-file-handles", "always"];
      const command = [EXECUTABLE, "passthrough", ...options, `${base}/ramfs`, `${base}/mnt`];
      const { exitCode, stderr } = Bun.spawnSync(command, { timeout: 20_000 });
      expect(stderr.toString()).toMatch(
        /cannot use the source directory \S+ramfs: .*; its file system has no file handles/,
      );
      expect(exitCode).not.toBe(0);
      await using pressed = await Pressed.start({ source: base, options });
      await pressed.mount.during(async () => {
        expect(await pressed.read("f")).toBe("");
        expect(await pressed.actor.call("lstat", pressed.at("ramfs"))).toBe(-EOPNOTSUPP);
      });
    } finally {
      await shell(`umount -l ${base}/ramfs; rm -r ${base}`);
    }
  });

  test("that are not wanted leave every inode a descriptor, until there are no more", async () => {
    const options = ["--inode-file-handles", "never"];
    await using pressed = await Pressed.start({ options });
    const { mount, actor } = pressed;
    await mount.during(async () => {
      mkdirSync(pressed.behind("d"));
      const names = Array.from({ length: LIMIT }, (_, index) => `d/${index}`);
      for (const name of names) pressed.make(name);
      const handle = await pressed.handle(names[0]!);
      const results = [];
      for (const name of names) results.push(await actor.call("lstat", pressed.at(name)));
      const failed = results.filter((result) => typeof result === "number");
      expect(new Set(failed)).toEqual(new Set([-EMFILE]));
      expect(results.length - failed.length).toBeGreaterThan(LIMIT / 2);

      pressed.forget();
      await pressed.untilHeld(LIMIT / 4);
      // What was forgotten is gone, however often it is asked for, and its number is free once.
      for (let times = 0; times < 3; times++)
        expect(await pressed.openHandle(handle)).toBe(-ESTALE);
      const inos = names.slice(-50).map(async (name) => (await pressed.stat(name)).ino);
      expect(new Set(await Promise.all(inos)).size).toBe(50);
      for (const name of names.slice(-50)) expect(await pressed.read(name)).toBe(name);
    });
  });
});
