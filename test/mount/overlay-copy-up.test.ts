// Copying up while files are in use: who has a file open sees what becomes of it, it is copied
// once, and with everything that belongs to it.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import * as abi from "../../src/abi-linux.ts";
import { Disk, whyNoOverlays } from "../support-overlay.ts";
import { Actor } from "./actor.ts";
import { must, type Stat } from "./calls.ts";
import { compare, Stage } from "./overlay-stage.ts";
import { SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

setDefaultTimeout(SHELL_TEST_TIMEOUT_MS);

let disk: Disk;
let actor: Actor;
beforeAll(async () => {
  if (whyNoOverlays !== undefined) return;
  disk = await Disk.start();
  actor = new Actor("who has files open");
});
afterAll(async () => {
  actor?.kill();
  await disk?.[Symbol.asyncDispose]();
});

const open = async (path: string, flags: number): Promise<number> =>
  must<number>(await actor.call("open", path, flags));
const sizeOf = async (fd: number): Promise<number> =>
  must<Stat>(await actor.call("fstat", fd)).size;

const WAYS = [
  ["with kernel passthrough", []],
  ["without kernel passthrough", ["no_kernel_passthrough"]],
  ["with writeback", ["writeback=1", "no_kernel_passthrough"]],
] as const;

describe.skipIf(whyNoOverlays !== undefined).each(WAYS)("an open file, %s", (_name, options) => {
  test("opened before the copy-up shows what is written after it", async () => {
    await using stage = await Stage.start(disk, "echo old text > l2/f");
    await stage.mount(options);
    const before = await open(stage.at("f"), abi.O_RDONLY);
    expect(await actor.call("read", before, 3)).toBe("old");
    expect(await actor.call("mmapRead", before, 0, 3)).toBe("old");
    const writer = await open(stage.at("f"), abi.O_RDWR);
    expect(await actor.call("pread", before, 100, 0)).toBe("old text\n");
    expect(await actor.call("pwrite", writer, "new text, longer", 0)).toBe(16);
    expect(await actor.call("pread", before, 100, 0)).toBe("new text, longer");
    expect(await actor.call("read", before, 100)).toBe(" text, longer");
    expect(await actor.call("mmapRead", before, 0, 8)).toBe("new text");
    expect(await sizeOf(before)).toBe(16);
    expect(await actor.call("lseek", before, 0, abi.SEEK_END)).toBe(16);
    const after = await open(stage.at("f"), abi.O_RDONLY);
    expect(await actor.call("pwrite", writer, "NEW", 0)).toBe(3);
    for (const fd of [before, after, writer]) {
      expect(await actor.call("pread", fd, 100, 0)).toBe("NEW text, longer");
      expect(await actor.call("mmapRead", fd, 0, 3)).toBe("NEW");
    }
    expect(await actor.call("ftruncate", writer, 3)).toBe(0);
    for (const fd of [before, after]) {
      expect(await actor.call("pread", fd, 100, 0)).toBe("NEW");
      expect(await sizeOf(fd)).toBe(3);
    }
    await actor.call("closeAll");
    expect(await stage.do("cat f")).toBe("NEW");
    await stage.unmount();
    expect(await stage.run("cat u/f l2/f")).toBe("NEWold text\n");
  });

  test("can be opened for writing while a metadata copy of a lower layer is read", async () => {
    await using stage = await Stage.start(
      disk,
      `echo data > l2/f; : > l1/f; truncate -s 5 l1/f; setfattr -n trusted.overlay.metacopy l1/f`,
    );
    await stage.mount([...options, "metacopy=on", "redirect_dir=on"]);
    const reader = await open(stage.at("f"), abi.O_RDONLY);
    expect(await actor.call("pread", reader, 100, 0)).toBe("data\n");
    const writer = await open(stage.at("f"), abi.O_RDWR);
    expect(await actor.call("pwrite", writer, "DA", 0)).toBe(2);
    expect(await actor.call("pread", reader, 100, 0)).toBe("DAta\n");
    expect(await actor.call("pread", writer, 100, 0)).toBe("DAta\n");
    await actor.call("closeAll");
  });

  test("goes on when its name is gone, be it copied up or not", async () => {
    await using stage = await Stage.start(disk, "for f in a b c; do echo $f > l2/$f; done");
    await stage.mount(options);
    const [a, b, c] = [
      await open(stage.at("a"), abi.O_RDONLY),
      await open(stage.at("b"), abi.O_RDWR),
      await open(stage.at("c"), abi.O_RDONLY),
    ];
    await stage.do("rm a b; mv c d; rm d; echo new > a");
    for (const [fd, text] of [
      [a, "a\n"],
      [b, "b\n"],
      [c, "c\n"],
    ] as const) {
      expect(await actor.call("pread", fd, 100, 0)).toBe(text);
      // Without an index, a lower file keeps its links, as with the kernel's.
      const { nlink } = must<Stat>(await actor.call("fstat", fd));
      if (fd !== a) expect(nlink).toBe(0);
    }
    expect(await actor.call("pwrite", b, "written", 0)).toBe(7);
    expect(await actor.call("pread", b, 100, 0)).toBe("written");
    // The file is changed, not one of its name.
    expect(await actor.call("fchmod", a, 0o600)).toBe(0);
    expect(must<Stat>(await actor.call("fstat", a)).mode & 0o777).toBe(0o600);
    await actor.call("closeAll");
    expect(await stage.do("ls; cat a; stat -c %a a")).toBe("a\nnew\n644\n");
    await stage.unmount();
    expect(await stage.run("ls w/work")).toBe("");
  });
});

describe.skipIf(whyNoOverlays !== undefined)("many at the same time", () => {
  const MANY = 8;
  test("copy one file up once, and all write to the copy", async () => {
    await using stage = await Stage.start(
      disk,
      "mkdir -p l2/d/e; head -c 3000000 /dev/zero > l2/d/e/f",
    );
    await stage.mount();
    const actors = Array.from({ length: MANY }, (_, index) => new Actor(`writer ${index}`));
    try {
      const path = stage.at("d/e/f");
      const fds = await Promise.all(actors.map((each) => each.call("open", path, abi.O_RDWR)));
      const written = actors.map((each, index) =>
        each.call("pwrite", fds[index]!, String(index), index),
      );
      expect(await Promise.all(written)).toEqual(fds.map(() => 1));
      expect(await actors[0]!.call("pread", fds[0]!, MANY, 0)).toBe("01234567");
    } finally {
      await Promise.all(actors.map((each) => each.call("closeAll")));
      for (const each of actors) each.kill();
    }
    await stage.unmount();
    expect(
      await stage.run(
        "head -c 8 u/d/e/f; stat -c ' %s %h' u/d/e/f; find u -type f | wc -l; ls -A w/work",
      ),
    ).toBe("01234567 3000000 1\n1\n");
  });

  test("copy files of one directory up, and the directory once", async () => {
    await using stage = await Stage.start(
      disk,
      "mkdir -p l2/d/e; for i in $(seq 80); do echo $i > l2/d/e/$i; done; setfattr -n user.x -v y l2/d/e; touch -d @1000000000 l2/d/e",
    );
    await stage.mount();
    const actors = Array.from({ length: MANY }, (_, index) => new Actor(`changer ${index}`));
    try {
      const all = actors.map(async (each, index) => {
        for (let file = 1 + index; file <= 80; file += MANY)
          expect(await each.call("chmod", stage.at(`d/e/${file}`), 0o600)).toBe(0);
      });
      await Promise.all(all);
    } finally {
      await Promise.all(actors.map((each) => each.call("closeAll")));
      for (const each of actors) each.kill();
    }
    expect(
      await stage.do(
        "cat d/e/* | sort -n | tail -1; find d -type f -perm 600 | wc -l; stat -c %Y d/e",
      ),
    ).toBe("80\n80\n1000000000\n");
    await stage.unmount();
    expect(
      await stage.run("ls u/d/e | wc -l; getfattr --only-values -n user.x u/d/e; ls -A w/work"),
    ).toBe("80\ny");
  });
});

describe.skipIf(whyNoOverlays !== undefined)("a copy", () => {
  test("has owner, mode, ACLs, capabilities, attributes and times of the original", async () => {
    const make = `
      cd l2; mkdir d; touch plain suid caps acl d/f; ln -s x link; mkfifo fifo; mknod dev c 1 3
      chown -h 7:8 suid link fifo dev d; chmod 6755 suid; chmod 3770 d; setcap cap_net_raw+ep caps
      setfacl -m u:61001:r--,m::rw- acl; setfacl -m u:61001:rwx d; setfacl -d -m g:61002:r-x d
      setfattr -n user.x -v y plain; setfattr -n trusted.x -v z plain; setfattr -h -n trusted.x -v z link
      touch -h -d @1000000000.123456789 plain suid caps acl link fifo dev d`;
    const show = `
      stat -c '%n %f %u %g %t %T %y' plain suid caps acl link fifo dev d d/f
      getfacl -p acl d d/f; getcap caps; getfattr -d -m - plain; getfattr -h -d -m trusted.x link`;
    const script = `
      ${show}; for f in plain suid acl caps; do mv $f $f.x; mv $f.x $f; done; mv fifo x; mv x fifo; mv dev x; mv x dev
      mv link x; mv x link; touch -d @1000000001 d/f; ${show}`;
    await compare(disk, { make, script });
  });

  test("loses what a write takes away", async () => {
    const make = "cd l2; echo x > suid; echo x > caps; chmod 6755 suid; setcap cap_net_raw+ep caps";
    const script = `
      chmod 777 .; setpriv --reuid=61001 --regid=61001 --clear-groups true
      echo y >> caps; getcap caps; chown 1 suid; stat -c %a suid; echo y >> suid; stat -c %a suid`;
    await compare(disk, { make, script });
  });

  test("loses set-group-id with its ACL, by somebody who is not in the group", async () => {
    const make = `
      cd l2; for f in stranger member root none none.root; do
        echo x > $f; chown 61001:61002 $f; chmod 6775 $f; [[ $f = none* ]] || setfacl -m u:61003:r $f
      done`;
    const script = `
      as() { setpriv --reuid=61001 --regid=61001 "$@"; }
      remove="setfattr -x system.posix_acl_access"
      as --clear-groups $remove stranger
      as --clear-groups $remove none || echo "there is none"
      as --groups=61002 $remove member
      $remove root none.root || echo "there is none"
      stat -c '%n %a' *; getfacl -p *`;
    await compare(disk, { make, script });
  });
});

describe.skipIf(whyNoOverlays !== undefined)("nothing is copied up", () => {
  test("for a directory that can't be removed, since it is not empty", async () => {
    const make = "mkdir -p l2/d/full/inner l2/d/empty l1/d/full";
    const script = async (stage: Stage): Promise<string> => {
      const failed = await stage.do("rmdir d/full 2>&1 || true");
      expect(await stage.run("ls u")).toBe("");
      return failed + (await stage.do("rmdir d/empty")) + (await stage.run("find u | sort"));
    };
    expect(await compare(disk, { make, script })).toContain("Directory not empty");
  });
});

describe.skipIf(whyNoOverlays !== undefined)("what is made over a whiteout", () => {
  test("takes group, default ACL and mode from its directory, as elsewhere", async () => {
    const make = `
      mkdir l2/d l2/sgid l2/both; for d in d sgid both; do
        for f in file dir link fifo made; do echo x > l2/$d/$f; done
      done
      setfacl -d -m u:61001:rwx,g::r-x,o::--- l2/d l2/both; chgrp 61002 l2/sgid l2/both; chmod 2777 l2/sgid l2/both; chmod 777 l2/d`;
    const things = (tag: string): string =>
      `umask 027; for d in d sgid both; do
        echo new > $d/file${tag}; mkdir $d/dir${tag}; ln -s x $d/link${tag}; mkfifo $d/fifo${tag}; ln $d/file${tag} $d/made${tag}
      done`;
    const script = `
      for d in d sgid both; do rm $d/*; done
      setpriv --reuid=61003 --regid=61003 --clear-groups bash -euc '${things("")}; ${things(".new")}'
      stat -c '%n %f %u %g' */*; getfacl -p d/file both/dir both/dir.new sgid/dir; ls -A both/dir`;
    await compare(disk, { make, script });
  });
});
