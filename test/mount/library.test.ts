// File systems of one's own, mounted with the library: the examples, and what notifications, the
// metrics hook and the end of a mount come to on a real mount.

import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  setDefaultTimeout,
  test,
} from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { MNT_DETACH, O_RDONLY, POLLIN, POLLOUT, UMOUNT_NOFOLLOW } from "../../src/abi-linux.ts";
import { EBUSY, EIO, ENAMETOOLONG, ENOENT, ENOSYS, ENOTCONN, ENOTDIR } from "../../src/errno.ts";
import { cstring } from "../../src/memory.ts";
import { umount2 } from "../../src/syscall.ts";
import { whyNoMounts } from "../support-mount.ts";
import { Actor } from "./actor.ts";
import { must, type Stat } from "./calls.ts";
import { LibraryProgram } from "./library-program.ts";
import { shell, SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

setDefaultTimeout(SHELL_TEST_TIMEOUT_MS);

const ROOT = 1;
const onMounts = describe.skipIf(whyNoMounts !== undefined);

let base = "";
const mountpoint = (): string => `${base}/mnt`;
const at = (name: string): string => `${base}/mnt/${name}`;

beforeEach(() => {
  base = mkdtempSync("/tmp/fuse-backend-library-");
  mkdirSync(mountpoint());
});
afterEach(() => {
  const path = cstring(mountpoint()).address;
  while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) >= 0);
  rmSync(base, { recursive: true });
});

const isMounted = (): boolean =>
  readFileSync("/proc/self/mountinfo", "latin1").includes(` ${mountpoint()} `);

/** Runs an example, a shell script on its mount when it is there, and ends it as a user would. */
async function withExample(name: string, script: string): Promise<string> {
  const program = `${import.meta.dir}/../../examples/${name}.ts`;
  const example = Bun.spawn([process.execPath, program, mountpoint()], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  try {
    while (!isMounted()) {
      expect(example.exitCode).toBeNull();
      await new Promise(setImmediate);
    }
    const output = await shell(script, { cwd: mountpoint() });
    example.kill("SIGTERM");
    expect(await example.exited).toBe(0);
    expect(isMounted()).toBe(false);
    return output;
  } finally {
    example.kill("SIGKILL");
  }
}

onMounts("the examples", () => {
  test("hello has one file", async () => {
    const script = "cat hello; ls -A; stat -c %s:%A hello; ! cat missing; ! touch hello";
    const output = await withExample("hello", `{ ${script}; } 2>&1`);
    expect(output).toMatch(
      /^Hello, world!\nhello\n14:-r--r--r--\n.*No such file.*\n.*not implemented.*\n$/,
    );
  });

  test("memory keeps files and directories", async () => {
    const script = `
        # Files grow, shrink and have holes; they can be used when their name is gone.
        printf one > f; printf two >> f; cat f; echo
        truncate -s 2 f; truncate -s 4 f; od -An -c f
        printf x | dd of=f bs=1 seek=100000 conv=notrunc status=none; stat -c %s f
        exec 3<> f; rm f; printf yz >&3; head -c 2 /proc/self/fd/3; echo; exec 3>&-
        # Directories are removed when they are empty, and replaced only then.
        mkdir -p d/sub e; ! rmdir d 2> /dev/null; ! mv -T e d 2> /dev/null; mv d/sub d/moved
        rmdir d/moved; mv -T e d; ls -A; rmdir d
        # Names change places.
        echo 1 > a; echo 2 > b; mv a b; cat b; ! mv -n missing b 2> /dev/null
        chmod 640 b; chown 12:34 b; touch -d 2001-02-03T04:05:06.123456789Z b
        TZ=UTC stat -c '%a %u %g %y' b; rm b
        # More entries than fit in one answer, and removing them while they are listed.
        seq 5000 | xargs touch; ls | wc -l; find . -name '*7' -delete; ls | wc -l; find . -delete
        ls -A | wc -l
        # A tree of real files.
        cp -r ${import.meta.dir}/../../src .; diff -r ${import.meta.dir}/../../src src && echo same
        git init -q .; git add src; git -c user.name=x -c user.email=x commit -qm m; git fsck 2>&1
        git status --porcelain | wc -l
      `;
    const output = await withExample("memory", script);
    expect(output.split("\n")).toEqual([
      "onetwo",
      "   o   n  \\0  \\0",
      "100001",
      "yz",
      "d",
      "1",
      "640 12 34 2001-02-03 04:05:06.123456789 +0000",
      "5000",
      "4500",
      "0",
      "same",
      "0",
      "",
    ]);
  });
});

onMounts("a mount of one's own", () => {
  let actor: Actor;
  let program: LibraryProgram;
  let minor = 0;

  beforeAll(() => void (actor = new Actor()));
  afterAll(() => actor?.kill());
  beforeEach(async () => {
    program = new LibraryProgram();
    minor = await program.ask("mount", mountpoint());
  });
  afterEach(() => program.kill());

  /** How large a file is, or -errno. */
  const size = async (name: string): Promise<number> => {
    const found = await actor.call("stat", at(name));
    return typeof found === "number" ? found : found.size;
  };
  const text = async (name: string): Promise<unknown> => {
    const fd = must<number>(await actor.call("open", at(name), O_RDONLY));
    const data = await actor.call("read", fd, 100);
    await actor.call("close", fd);
    return data;
  };
  /** How many requests of each kind there were since this was last asked, without FORGETs. */
  const requests = async (): Promise<Record<string, number>> => {
    const { seen } = await program.ask("seen");
    delete seen["FORGET"];
    delete seen["BATCH_FORGET"];
    return Object.fromEntries(
      Object.entries(seen).map(([name, results]) => [name, results.length]),
    );
  };

  describe("notified", () => {
    test("that a name stands for something else looks it up again", async () => {
      await program.ask("put", "a", "old");
      expect(await size("a")).toBe(3);
      await program.ask("put", "a", "newer");
      expect(await size("a")).toBe(3);
      expect(await program.ask("notify", "invalEntry", ROOT, "a")).toBe(0);
      expect(await size("a")).toBe(5);
    });

    test("that a name has come or gone looks it up again", async () => {
      expect(await size("a")).toBe(-ENOENT);
      await program.ask("put", "a", "data");
      expect(await size("a")).toBe(-ENOENT);
      expect(await program.ask("notify", "invalEntry", ROOT, "a")).toBe(0);
      expect(await size("a")).toBe(4);
      await program.ask("remove", "a");
      expect(await size("a")).toBe(4);
      expect(await program.ask("notify", "invalEntry", ROOT, "a")).toBe(0);
      expect(await size("a")).toBe(-ENOENT);
    });

    test("of what it does not know says so", async () => {
      expect(await program.ask("notify", "invalEntry", ROOT, "never-seen")).toBe(-ENOENT);
      expect(await program.ask("notify", "invalInode", 1234)).toBe(-ENOENT);
    });

    test("that a file has changed asks for its attributes and its data again", async () => {
      const a = await program.ask("put", "a", "one");
      expect([await text("a"), await size("a")]).toEqual(["one", 3]);
      await program.ask("change", "a", "three");
      await requests();
      expect([await size("a"), await text("a")]).toEqual([3, "one"]);
      expect(await requests()).not.toHaveProperty("READ");
      expect(await program.ask("notify", "invalInode", a)).toBe(0);
      expect([await size("a"), await text("a")]).toEqual([5, "three"]);
      expect(await requests()).toMatchObject({ GETATTR: 1, READ: 1 });
    });

    test("that only attributes have changed keeps the data", async () => {
      const a = await program.ask("put", "a", "one");
      await text("a");
      await program.ask("change", "a", "two");
      await requests();
      expect(await program.ask("notify", "invalInode", a, -1)).toBe(0);
      expect([await size("a"), await text("a")]).toEqual([3, "one"]);
      expect(await requests()).not.toHaveProperty("READ");
    });

    test("that a name's time is over asks whether it still stands for the same", async () => {
      await program.ask("put", "a", "one");
      await size("a");
      await requests();
      expect(await program.ask("notify", "invalEntry", ROOT, "a", true)).toBe(0);
      expect(await size("a")).toBe(3);
      expect(await requests()).toMatchObject({ LOOKUP: 1 });
      await size("a");
      expect(await requests()).toEqual({});
    });

    test("that a file was deleted forgets its name, if it is that file's", async () => {
      const a = await program.ask("put", "a", "one");
      const b = await program.ask("put", "b", "two");
      await size("a");
      await size("b");
      expect(await program.ask("notify", "delete", ROOT, b, "a")).toBe(-ENOENT);
      expect(await size("a")).toBe(3);
      await program.ask("remove", "a");
      expect(await size("a")).toBe(3);
      expect(await program.ask("notify", "delete", ROOT, a, "a")).toBe(0);
      expect(await size("a")).toBe(-ENOENT);
    });

    test("with data puts it into its cache, and gives it back when asked", async () => {
      const a = await program.ask("put", "a", "12345678");
      await size("a");
      expect(await program.ask("notify", "store", a, 0, "all new!")).toBe(0);
      expect(await text("a")).toBe("all new!");
      expect(await program.ask("notify", "store", a, 4, "--")).toBe(0);
      expect(await text("a")).toBe("all --w!");
      expect(await requests()).not.toHaveProperty("READ");
      expect(await program.ask("notify", "retrieve", 77, a, 1, 5)).toBe(0);
      expect(await program.ask("retrieved")).toEqual({ unique: 77, offset: 1, text: "ll --" });
    });

    test("to prune a file forgets it if no one uses it", async () => {
      if (minor < 45) return;
      const a = await program.ask("put", "a", "one");
      const b = await program.ask("put", "b", "two");
      const fd = must<number>(await actor.call("open", at("b"), O_RDONLY));
      await size("a");
      expect(await program.ask("notify", "prune", [b, a])).toBe(0);
      expect(await program.ask("forgotten")).toBe(a);
      expect(must<Stat>(await actor.call("fstat", fd)).size).toBe(3);
      await actor.call("close", fd);
    });

    test("of a new epoch looks every name up again", async () => {
      if (minor < 44) return;
      for (const name of ["a", "b"]) {
        await program.ask("put", name, "data");
        await size(name);
      }
      await requests();
      expect(await program.ask("notify", "incEpoch")).toBe(0);
      expect([await size("a"), await size("b"), await size("a")]).toEqual([4, 4, 4]);
      expect(await requests()).toEqual({ LOOKUP: 2 });
    });

    test("to send again what is not answered does so, and one answer is enough", async () => {
      const stat = actor.call("stat", at("held"));
      const first = await program.ask("held");
      expect(await program.ask("notify", "resend")).toBe(0);
      const second = await program.ask("held");
      expect(second.uniqueLow).toBe(first.uniqueLow);
      expect(second.uniqueHigh).not.toBe(first.uniqueHigh);
      await program.ask("answer", second);
      expect(await stat).toBe(-ENOENT);
      expect(await program.ask("notify", "resend")).toBe(0);
      expect(await size("missing")).toBe(-ENOENT);
    });

    test("that a file is ready wakes who polls it", async () => {
      await program.ask("put", "a", "data");
      const script = `
import os, select
poll = select.poll()
poll.register(os.open("${at("a")}", os.O_RDONLY), select.POLLIN)
print(poll.poll(30000)[0][1])`;
      const poller = Bun.spawn(["python3", "-c", script], { stdout: "pipe" });
      const kh = await program.ask("polled");
      await program.ask("ready", "a");
      expect(await program.ask("notify", "poll", kh)).toBe(0);
      expect((await new Response(poller.stdout).text()).trim()).toBe(String(POLLIN));
      expect(await poller.exited).toBe(0);
    });

    test("of a change waits for the requests in its way, which are served meanwhile", async () => {
      await program.ask("put", "a", "old");
      await size("a");
      const stat = actor.call("stat", at("held"));
      const held = await program.ask("held"); // The directory is locked.
      await program.ask("put", "a", "newer");
      await program.ask("startNotify", "invalEntry", ROOT, "a");
      expect(await program.ask("answer", held)).toBeGreaterThan(0);
      expect(await stat).toBe(-ENOENT);
      expect(await program.ask("notified")).toBe(0);
      expect(await size("a")).toBe(5);
    });

    test("by what makes no sense tells what is wrong, and goes on", async () => {
      const a = await program.ask("put", "a", "data");
      await size("a");
      expect(await program.ask("notify", "invalEntry", a, "a")).toBe(-ENOTDIR);
      expect(await program.ask("notify", "delete", ROOT, a, "n".repeat(5000))).toBe(-ENAMETOOLONG);
      expect(await program.ask("notify", "invalInode", a)).toBe(0);
    });
  });

  test("tells the metrics hook of every request, what came of it and how long it took", async () => {
    await program.ask("put", "a", "data");
    await program.ask("seen");
    expect(await size("a")).toBe(4);
    expect(await text("a")).toBe("data");
    expect(await actor.call("mkdir", at("d"))).toBe(-ENOSYS);
    const { seen, inOrder } = await program.ask("seen");
    expect(inOrder).toBe(true);
    expect(seen).toMatchObject({ OPEN: [16], READ: [4], MKDIR: [-ENOSYS] });
    expect(seen["LOOKUP"]).toEqual([128, 128]); // "a", and "d" that is not there
  });

  test("gives EIO for a method that throws, and goes on", async () => {
    await program.ask("put", "a", "data");
    expect(await size("bug")).toBe(-EIO);
    expect(await size("bug")).toBe(-EIO);
    expect(await size("a")).toBe(4);
    expect((await program.ask("seen")).seen["LOOKUP"]).toEqual([-EIO, -EIO, 128]);
  });

  test("answers what it is asked at once, and calls it has not waits for", async () => {
    await program.ask("put", "a", "data");
    const fd = must<number>(await actor.call("open", at("a"), O_RDONLY));
    expect(await actor.call("poll", fd, POLLIN | POLLOUT)).toBe(0);
    await program.ask("ready", "a");
    expect(await actor.call("poll", fd, POLLIN | POLLOUT)).toBe(POLLIN);
    await actor.call("close", fd);
  });

  test("is closed when it was unmounted, and nothing can be notified then", async () => {
    expect(isMounted()).toBe(true);
    await program.ask("unmount");
    expect(await program.ask("closed")).toBe("closed");
    expect(isMounted()).toBe(false);
    expect(await program.ask("notify", "invalInode", ROOT)).toBe(-ENOTCONN);
  });

  test("is closed when somebody else unmounts it", async () => {
    const closed = program.ask("closed");
    const { address } = cstring(mountpoint());
    let result: number;
    // Whoever looks at all mounts, like df, keeps it busy for a moment.
    while ((result = umount2(address, 0)) === -EBUSY) await new Promise(setImmediate);
    expect(result).toBe(0);
    expect(await closed).toBe("closed");
  });

  test("is out of sight when it is unmounted in use, and closed when that is over", async () => {
    await program.ask("put", "a", "data");
    const fd = must<number>(await actor.call("open", at("a"), O_RDONLY));
    await program.ask("unmount");
    expect(isMounted()).toBe(false);
    expect(await actor.call("read", fd, 100)).toBe("data");
    const closed = program.ask("closed");
    await actor.call("close", fd);
    expect(await closed).toBe("closed");
  });
});
