// Several directories under one mount, through the built executable: what is seen where, mounts
// that come and go by SIGHUP while they are used, and owners that are mapped as the kernel's own
// idmapped mounts do it.

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  closeSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { mkdir } from "node:fs/promises";
import { configureVfs, EXECUTABLE, whyNoMounts, type VfsMounts } from "../support-mount.ts";
import { Namespace, type Run } from "../support-namespace.ts";
import { idmapped, userNamespace } from "./idmapped.ts";
import { Child, User } from "./lifecycle-daemon.ts";

setDefaultTimeout(120_000);

const onMounts = describe.skipIf(whyNoMounts !== undefined);

/** A daemon that serves what a configuration file says, in a mount namespace of its own. */
class Served implements AsyncDisposable {
  readonly space: Namespace;
  readonly daemon: Child;
  readonly config: string;

  private constructor(space: Namespace, daemon: Child, config: string) {
    this.space = space;
    this.daemon = daemon;
    this.config = config;
  }

  /** `mounts` are the paths and the directories below the base, which are made. */
  static async start(mounts: Mounts, ...options: string[]): Promise<Served> {
    return Served.#begin(mounts, options, ({ daemon }) => daemon.said(/FUSE 7\.\d+ with/));
  }

  /** As `start`, but the daemon has mounted only: it answers nothing yet, or has just begun to. */
  static async mounting(mounts: Mounts): Promise<Served> {
    return Served.#begin(mounts, [], ({ space }) => space.waitForMounts(1));
  }

  static async #begin(
    mounts: Mounts,
    options: readonly string[],
    until: (served: Served) => Promise<unknown>,
  ): Promise<Served> {
    const space = await Namespace.create();
    try {
      const config = `${space.base}/config.json`;
      await configure(config, mounts);
      const line = [EXECUTABLE, "vfs", "--config", config, "-o", "allow_other"];
      const daemon = new Child(space.start([...line, ...options, `${space.base}/mnt`]));
      const served = new Served(space, daemon, config);
      await until(served);
      return served;
    } catch (error) {
      await space[Symbol.asyncDispose]();
      throw error;
    }
  }

  async reload(mounts: Mounts): Promise<void> {
    await configure(this.config, mounts);
    this.daemon.signal("SIGHUP");
  }

  run(script: string): Run {
    const line = [
      "bash",
      "-c",
      `base=$1 mnt=$1/mnt; cd "$mnt"; ${script}`,
      "bash",
      this.space.base,
    ];
    return this.space.run(line);
  }

  /** What it writes; it must succeed. */
  output(script: string): string {
    const { exitCode, stdout, stderr } = this.run(script);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    return stdout;
  }

  /** How many descriptors the daemon has for what is mounted: on the directories, and of /proc. */
  get descriptors(): number {
    const directory = `/proc/${this.daemon.pid}/fd`;
    return readdirSync(directory).filter((name) => {
      try {
        const path = readlinkSync(`${directory}/${name}`);
        return path.startsWith(this.space.base) || path.startsWith("/proc/");
      } catch {
        return false; // it was closed meanwhile
      }
    }).length;
  }

  /** How many stretches of shared memory it has. */
  get mappings(): number {
    const maps = readFileSync(`/proc/${this.daemon.pid}/maps`, "latin1");
    return maps.match(/memfd:fuse-backend/g)?.length ?? 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.space[Symbol.asyncDispose]();
  }
}

/** Paths, and the directories that are mounted there with their options. */
type Mounts = Record<string, string | VfsMounts[string]>;

async function configure(file: string, mounts: Mounts): Promise<void> {
  const list = Object.entries(mounts).map(([path, given]) => {
    return [path, typeof given === "string" ? { source: given } : given] as const;
  });
  await configureVfs(file, Object.fromEntries(list));
}

onMounts("several directories under one mount", () => {
  test("are each at their path, in a tree that can't be changed", async () => {
    await using served = await Served.start({ "/a": "one", "/x/b": { source: "two" } });
    const said = served.output(`
      echo one >"$base/one/file"; echo two >x/b/file
      cat a/file "$base/two/file"; ls; ls x; stat -c '%A %U %F' . x
      for try in "touch new" "mkdir x/new" "rmdir x" "rmdir a" "chmod 777 ." "mv x y" \\
        "ln a/file link" "setfattr -n user.x -v y ."; do
        $try 2>&1 | sed 's/.*: //'; done; df --output=size . | tail -1`);
    const refused = [
      ...Array<string>(6).fill("Read-only file system"),
      "Invalid cross-device link",
    ];
    expect(said.replaceAll(/ +/g, " ").trimEnd().split("\n")).toEqual([
      "one",
      "two",
      "a",
      "x",
      "b",
      "dr-xr-xr-x root directory",
      "dr-xr-xr-x root directory",
      ...refused,
      "Read-only file system",
      " 0",
    ]);
  });

  test("are different file systems to who moves or links files between them", async () => {
    await using served = await Served.start({ "/a": "one", "/b": "two" });
    const said = served.output(`
      echo content >a/file; chmod 640 a/file; mkdir a/dir; echo inner >a/dir/inner
      ln a/file b/file 2>&1 | grep -o 'Invalid cross-device link'
      python3 -c 'import os
for call in (os.rename, os.link):
  try: call("a/file", "b/file")
  except OSError as error: print(error.strerror)
with open("a/file", "rb") as a, open("b/copy", "wb") as b:
  try: os.copy_file_range(a.fileno(), b.fileno(), 100)
  except OSError as error: print(error.strerror)
  else: print("copied")'
      mv a/file a/dir b; ls a; cat b/file b/dir/inner; stat -c %a b/file; cp -a b/dir a; cat a/dir/inner`);
    expect(said).toBe(
      "Invalid cross-device link\n".repeat(3) + "copied\ncontent\ninner\n640\ninner\n",
    );
  });

  test("have no inode number in common, and each file has one everywhere", async () => {
    await using served = await Served.start({ "/a": "one", "/b": "one", "/c/d": "two" });
    const listed = served.output(`
      mkdir "$base/one/sub"; touch "$base/one/"{x,y,sub/z} "$base/two/"{x,y}
      find . -mindepth 1 -printf '%i %p\\n' | sort -k2
      echo; find . -mindepth 1 | sort | xargs stat -c '%i %n'
      echo; ls -iU a b c/d`);
    const [found, stats, read] = listed.split("\n\n");
    expect(stats).toBe(found!);
    const numbers = found!.split("\n").map((line) => line.split(" ")[0]);
    expect(new Set(numbers).size).toBe(numbers.length);
    for (const [, number] of read!.matchAll(/^ *(\\d+) /gm)) expect(numbers).toContain(number);
  });

  test("are seen below one that is mounted at the root", async () => {
    await using served = await Served.start({ "/": "root", "/a": "one" });
    expect(
      served.output(`
        echo below >"$base/root/file"; mkdir "$base/root/a"; echo hidden >"$base/root/a/file"
        echo shown >"$base/one/file"; cat file a/file; cd a/..; cat file; mv a/file .; cat file`),
    ).toBe("below\nshown\nbelow\nshown\n");
  });
});

onMounts("mounts that come and go", () => {
  test("follow the configuration on SIGHUP, and what changed is said", async () => {
    await using served = await Served.start({ "/a": "one", "/b": { source: "two" } });
    served.output("echo x >a/file; ls a b >/dev/null");
    await served.reload({ "/b": { source: "two", cache: "never" }, "/new/c": "three" });
    await served.daemon.said(/unmounted \/a\n/);
    expect(served.daemon.output).toMatch(/warn: \/b has changed .* stays as it was/);
    expect(served.daemon.output).toMatch(/mounted \S+\/three at \/new\/c\n/);
    expect(served.output(`ls; ls new; echo x >new/c/file; cat "$base/three/file"`)).toBe(
      "b\nnew\nc\nx\n",
    );
    expect(served.run("ls a").stderr).toContain("No such file or directory");
    // Back again, and the tree has no more than it needs.
    await served.reload({ "/a": "one" });
    await served.daemon.said(/unmounted \/new\/c\n/);
    expect(served.output("ls; cat a/file")).toBe("a\nx\n");
  });

  test("follow a SIGHUP that comes before the first are served", async () => {
    await using served = await Served.mounting({ "/a": "one" });
    await served.reload({ "/b": "two" });
    await served.daemon.said(/unmounted \/a\n/);
    expect(served.output("ls")).toBe("b\n");
  });

  test("are the same if there is none at first", async () => {
    await using served = await Served.start({});
    await served.daemon.said(/FUSE 7\.\d+ with .*POSIX ACLs, shared locks/);
    expect(served.output("ls -A")).toBe("");
    await served.reload({ "/a": "one" });
    await served.daemon.said(/mounted \S+\/one at \/a\n/);
    expect(
      served.output("echo x >a/f; setfacl -m u:nobody:r a/f; getfacl -c a/f | grep nobody; ls a"),
    ).toBe("user:nobody:r--\nf\n");
  });

  test("are all of what the command line says, also if there is none at first", async () => {
    const options = ["--no-killpriv-v2", "--no-locks", "--writeback"];
    await using served = await Served.start({}, ...options);
    await served.daemon.said(
      /FUSE 7\.\d+ with (io_uring, )?writeback cache, POSIX ACLs, readdirplus\n/,
    );
    await served.reload({ "/a": "one" });
    await served.daemon.said(/mounted \S+\/one at \/a\n/);
    expect(served.output("echo x >>a/file; echo y >>a/file; cat a/file")).toBe("x\ny\n");
  });

  test("stay as they are if the configuration is wrong", async () => {
    await using served = await Served.start({ "/a": "one" });
    for (const [text, reason] of [
      ['{\n "mounts": [\n  { "path": "/b", "backend": "passthrough" }\n ]\n}', /config\.json:3: /],
      ["{", /config\.json:\d+: /],
      [
        `{"mounts": [{"path": "/b", "backend": "passthrough", "source": "${served.space.base}/mnt"}]}`,
        /nothing was changed: /,
      ],
    ] as const) {
      const before = served.daemon.output.length;
      writeFileSync(served.config, text);
      served.daemon.signal("SIGHUP");
      await served.daemon.said(new RegExp(`^[^]{${before}}[^]*${reason.source}`));
    }
    expect(served.output("echo x >a/file; ls")).toBe("a\n");
    served.daemon.signal("SIGTERM");
    expect(await served.daemon.ended()).toBe(0);
  });

  test("can have ids mapped later if one had from the beginning, or there was none", async () => {
    const mapped = { source: "two", "uid-map": ["1000:0:1"], "gid-map": ["1000:0:1"] };
    await using served = await Served.start({ "/a": "one" });
    const isStrict = served.daemon.output.includes("idmapped mounts");
    await served.reload({ "/b": mapped });
    await served.daemon.said(isStrict ? /nothing was changed: cannot mount at \/b: / : / at \/b\n/);
    expect(served.output("ls")).toBe(isStrict ? "a\n" : "b\n");
    const script = `chown 1000:1000 "$base/two"; touch b/file; stat -c %u b/file "$base/two/file"`;
    for (const first of [{ "/a": { ...mapped, source: "one" } }, {}]) {
      await using other = await Served.start(first);
      await other.reload({ "/b": mapped });
      await other.daemon.said(/mounted \S+ at \/b\n/);
      expect(other.output(script)).toBe("0\n1000\n");
    }
  });

  test("can be overlays, if they do their part of what was agreed on", async () => {
    const overlay = (more = ""): VfsMounts[string] => ({
      backend: "overlay",
      options: `lowerdir=lower,upperdir=upper,workdir=work${more}`,
    });
    await using served = await Served.start({ "/a": "one" }, "--writeback", "--no-locks");
    served.output('cd "$base"; mkdir lower upper work; echo below >lower/file');
    await served.reload({ "/b": overlay(",writeback=0") });
    await served.daemon.said(/nothing was changed: cannot mount at \/b: .* the writeback cache\n/);
    expect(served.output("ls")).toBe("a\n");
    await served.reload({ "/b": overlay() });
    await served.daemon.said(/mounted .* at \/b\n/);
    expect(
      served.output(`cat b/file; echo x >>b/file; echo y >>b/file; rm b/file && ls b
        echo new >b/file; echo more >>b/file; cat b/file "$base/upper/file" "$base/lower/file"`),
    ).toBe("below\nnew\nmore\nnew\nmore\nbelow\n");
  });

  test("can't be overlays, which leave locks to the kernel, if locks are the daemon's", async () => {
    const overlay = { backend: "overlay", options: `lowerdir=${import.meta.dir}` };
    await using served = await Served.start({ "/a": "one" });
    await served.reload({ "/b": overlay });
    await served.daemon.said(/nothing was changed: cannot mount at \/b: .*--no-locks/);
    expect(served.output("ls")).toBe("a\n");
  });

  test("are of what the command line says after an overlay, too", async () => {
    const overlay = { backend: "overlay", options: `lowerdir=${import.meta.dir}` };
    await using served = await Served.start({ "/a": overlay }, "--no-killpriv-v2");
    await served.reload({ "/a": overlay, "/b": "one" });
    await served.daemon.said(/mounted \S+\/one at \/b\n/);
    expect(served.output("echo x >b/file; ls b; ls a | head -1")).toBe("file\nactor.ts\n");
  });

  test("leave EIO to who still has something of them, also to who waits for a lock", async () => {
    await using served = await Served.start({ "/a": "one", "/keep": "two" });
    const { space } = served;
    served.output("echo content >a/file; mkdir a/dir; echo kept >keep/file");
    const holder = await User.start(space, `exec 9>"$mnt/a/file"; flock 9; pause`);
    const waiter = await User.start(
      space,
      `cd "$mnt/a/dir"; exec 8<"$mnt/keep/file"; exec 7<>"$mnt/a/file"
       (flock 7; echo "flock: $?") & pause; ls . 2>&1; echo x >&7; cat <&8; wait`,
    );
    await served.reload({ "/keep": "two" });
    await served.daemon.said(/unmounted \/a\n/);
    const said = await waiter.resume();
    expect(said.match(/(Input\/output|I\/O) error/g)!.length).toBeGreaterThanOrEqual(3);
    expect(said).toContain("kept\n");
    expect(said).toMatch(/flock: (?!0)\d+/);
    await holder.resume();
    expect(readFileSync(`${space.base}/one/file`, "latin1")).toBe("");
    expect(served.output("cat keep/file")).toBe("kept\n");
  });

  test("ten thousand times, under load, leave no descriptor and no memory behind", async () => {
    const kept: Mounts = { "/keep": "kept" };
    const many = Object.fromEntries(Array.from({ length: 250 }, (_, n) => [`/m/${n}`, "many"]));
    await using served = await Served.start(kept);
    const { space, daemon } = served;
    served.output('echo kept >keep/file; mkdir -p "$base/many/dir"; echo x >"$base/many/dir/file"');
    const before = { descriptors: served.descriptors, mappings: served.mappings };
    const load = await User.start(
      space,
      `cd "$mnt"; (while [ ! -e "$1/stop" ]; do
         cat keep/file >>"$1/read"; cat m/7/dir/file m/200/dir/file; ls m/3 m/100; done >/dev/null 2>&1) &
       pause; touch "$1/stop"; wait`,
    );
    const rounds = 40;
    for (let round = 1; round <= rounds; round++) {
      await served.reload({ ...kept, ...many });
      await daemon.said(/mounted \S+ at \/m\/249\n/, round);
      expect(served.output("cat m/0/dir/file m/249/dir/file keep/file")).toBe("x\nx\nkept\n");
      await served.reload(kept);
      await daemon.said("unmounted /m/249\n", round);
    }
    await load.resume();
    const now = (): typeof before => ({
      descriptors: served.descriptors,
      mappings: served.mappings,
    });
    const deadline = performance.now() + 20_000;
    while (now().descriptors > before.descriptors && performance.now() < deadline)
      await new Promise(setImmediate);
    expect(before.mappings).toBeGreaterThan(0);
    // The file that was written above may not have been closed yet, before.
    expect(now().descriptors).toBeLessThanOrEqual(before.descriptors);
    expect(now().mappings).toBe(before.mappings);
    expect(new Set(readFileSync(`${space.base}/read`, "latin1").split("\n"))).toEqual(
      new Set(["kept", ""]),
    );
    expect(served.output("ls")).toBe("keep\n");
  });
});

/** What a script says, and the owners of what it leaves, by the ids on the host. */
interface Seen {
  readonly said: string;
  readonly owners: string;
}

const AS = (uid: number): string => `setpriv --reuid=${uid} --regid=${uid} --clear-groups --`;

/**
 * Acts as root, as a user with an id inside (62001 stands for 61001) and as one without (70000), on
 * files of both and of nobody's.
 */
const SCRIPT = `
  try() { "$@" 2>&1 | sed 's/.*: //'; }
  ls -n . | tail -n +2 | awk '{ print $1, $3, $4, $9 }'
  for as in "" "${AS(62001)}" "${AS(62002)}" "${AS(70000)}"; do
    echo "as: $as"
    try $as touch made; try $as mkdir dir; try $as mkfifo fifo; try $as ln -s target link
    stat -c '%u %g %n' made dir fifo link 2>&1 | sed 's/.*: //'
    for file in inside outside both; do
      echo $file
      try $as cat $file
      try $as dd of=$file conv=notrunc status=none if=/dev/null bs=1 count=0
      try $as truncate -s 3 $file
      # To others than root the kernel's FUSE says EPERM before it asks anybody.
      [ -n "$as" ] || try chmod 666 $file
      try $as touch -d @1000 $file
      try $as setfattr -n user.test -v value $file
      try $as ln $file hard; try $as rm -f hard
      try $as mv $file moved; try $as mv moved $file
    done
    try $as rm -rf made dir fifo link
  done
  touch own; for to in 62005:62005 61005:61005 62005 70000 :62007 0:0; do
    try chown $to own; stat -c '%u %g' own; done
  touch acl; try setfacl -m u:62003:r,g:62004:w acl; getfacl -n acl 2>/dev/null
  try setfacl -m u:61003:r acl; getfacl -n acl 2>/dev/null
  try rm outside; try rm -r foreign; mkdir deep
  ${AS(62006)} bash -c 'cd deep && touch y' 2>&1 | sed 's/.*: //'
  chmod 777 deep; ${AS(62006)} touch deep/z; try ${AS(70000)} touch deep/x; ls -n deep | awk '{ print $1, $3, $4, $9 }'`;

function fill(directory: string): void {
  const script = `
    cd "$1"; chmod 777 .
    for file in inside outside both; do echo "$file" >$file; chmod 666 $file; done
    chown 61001:61001 inside; chown 5000:5000 outside; chown 61001:5000 both
    mkdir foreign; chmod 777 foreign; chown 5000:5000 foreign; touch foreign/x
    touch listed; setfacl -m u:61002:rw,u:5000:r,g:61003:x listed`;
  const { exitCode, stderr } = Bun.spawnSync(["bash", "-ec", script, "bash", directory]);
  expect({ exitCode, stderr: stderr.toString() }).toEqual({ exitCode: 0, stderr: "" });
}

function owners(directory: string): string {
  const script = `cd "$1"; find . -printf '%p %U %G %m\\n' | sort; getfacl -n acl listed 2>/dev/null`;
  return Bun.spawnSync(["bash", "-c", script, "bash", directory]).stdout.toString();
}

onMounts("owners that are mapped", () => {
  test("are what they are on the kernel's own idmapped mounts", async () => {
    await using space = await Namespace.create();
    const [bare, ours] = [`${space.base}/src/bare`, `${space.base}/src/ours`];
    for (const directory of [bare, ours]) {
      await mkdir(directory);
      fill(directory);
    }
    const namespace = await userNamespace();
    const tree = idmapped(bare, namespace);
    let oracle: Seen;
    try {
      const run = Bun.spawnSync(["bash", "-c", `cd /proc/self/fd/3; ${SCRIPT}`], {
        stdio: ["ignore", "pipe", "pipe", tree],
      });
      oracle = { said: run.stdout.toString() + run.stderr.toString(), owners: owners(bare) };
    } finally {
      closeSync(tree);
      closeSync(namespace);
    }
    const maps = ["uid", "gid"].flatMap((kind) =>
      ["0:0:1", "61001:62001:10"].flatMap((range) => [`--${kind}-map`, range]),
    );
    const line = [EXECUTABLE, "passthrough", "-o", "allow_other,suid,dev", ...maps];
    const daemon = new Child(space.start([...line, ours, `${space.base}/mnt`]));
    await daemon.said(/FUSE 7\.\d+ with/);
    const run = space.run(["bash", "-c", `cd "$1/mnt"; ${SCRIPT}`, "bash", space.base]);
    const seen: Seen = { said: run.stdout + run.stderr, owners: owners(ours) };
    expect(seen.said.split("\n")).toEqual(oracle.said.split("\n"));
    expect(seen.owners).toBe(oracle.owners);
    // The script has seen something of what it is about.
    expect(oracle.said).toContain("Value too large for defined data type");
    expect(statSync(`${ours}/own`).uid).toBe(0);
  });

  test("are one for all who are squashed", async () => {
    await using space = await Namespace.create();
    const line = [EXECUTABLE, "passthrough", "-o", "allow_other", "--squash-uid", "0"];
    const options = ["--squash-gid", "0", `${space.base}/src`, `${space.base}/mnt`];
    const daemon = new Child(space.start([...line, ...options]));
    await daemon.said(/FUSE 7\.\d+ with/);
    const script = `cd "$1/mnt"; touch "$1/src/theirs"; chown 1234:1234 "$1/src/theirs"; touch made
      stat -c '%u %g %n' *; stat -c '%u %g' "$1/src/made"`;
    const { stdout } = space.run(["bash", "-c", script, "bash", space.base]);
    expect(stdout).toBe("0 0 made\n0 0 theirs\n0 0\n");
  });
});
