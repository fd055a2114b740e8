// What layers say about each other: whiteouts, opaque directories, redirects and metadata copies,
// whoever has made them.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Disk, overlaySystems, whyNoOverlays } from "../support-overlay.ts";
import { compare, Stage } from "./overlay-stage.ts";
import { SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

setDefaultTimeout(SHELL_TEST_TIMEOUT_MS);

let disk: Disk;
beforeAll(async () => {
  if (whyNoOverlays === undefined) disk = await Disk.start();
});
afterAll(async () => {
  await disk?.[Symbol.asyncDispose]();
});

const { kernel } = overlaySystems;
/** Lower layers with a file of each name. */
const files = (layer: string, ...names: string[]): string =>
  names
    .map((name) => `mkdir -p ${layer}/$(dirname ${name}); echo ${layer} > ${layer}/${name}`)
    .join("\n");

describe.skipIf(whyNoOverlays !== undefined)("a whiteout", () => {
  test("that is a device hides what is below, in any layer, and is hidden from above", async () => {
    const make = `
      ${files("l3", "a", "b", "c", "d/x", "d/y", "e/x")}
      ${files("l1", "c")}
      mknod l2/a c 0 0; mknod l2/c c 0 0; mkdir l2/d; mknod l2/d/x c 0 0; mknod l2/e c 0 0
      mknod u/b c 0 0; mknod l3/alone c 0 0; mknod u/nothing c 0 0`;
    const lower = ["l1", "l2", "l3"];
    const printed = await compare(disk, {
      make,
      lower,
      script: "ls; cat c; ls d; cat a || echo none",
    });
    expect(printed).toBe("c\nd\nl1\ny\nnone\n");
  });

  test("below a directory is not what is seen of it", async () => {
    const make = "mkdir -m 2700 u/d u/e l1/e; mknod l1/d c 0 0; mknod l2/d c 0 0; mknod l2/e c 0 0";
    const script = "stat -c '%n %F %a' d e; ls -l; stat -c '%n %F %a' d e";
    expect(await compare(disk, { make, script })).toContain("d directory 2700\n");
  });

  test("that is a file with an attribute does so in a directory that is marked", async () => {
    const make = `
      ${files("l2", "d/a", "d/b", "d/full")}
      mkdir l1/d; : > l1/d/a; setfattr -n trusted.overlay.whiteout l1/d/a
      echo full > l1/d/full; setfattr -n trusted.overlay.whiteout l1/d/full
      setfattr -n trusted.overlay.opaque -v x l1 l1/d`;
    const printed = await compare(disk, { make, script: "ls d; cat d/full; ls d/a || echo none" });
    expect(printed).toBe("b\nfull\nfull\nnone\n");
  });

  test("that is a file with an attribute can be replaced", async () => {
    const make = `
      ${files("l2", "d/a", "d/b")}; mkdir l1/d
      for name in a b; do : > l1/d/$name; setfattr -n trusted.overlay.whiteout l1/d/$name; done
      setfattr -n trusted.overlay.opaque -v x l1 l1/d`;
    await compare(disk, { make, script: "echo new > d/a; mkdir d/b; echo new > d/b/x; ls -R" });
  });

  test("that is a file of AUFS hides what is below, but not what is beside it", async () => {
    await using stage = await Stage.start(
      disk,
      `${files("l2", "a", "b", "c", "d/x", "e/x", ".wh")}
      : > l1/.wh.a; : > l1/.wh.b; echo l1 > l1/b; mkdir l1/d l1/e; : > l1/d/.wh..wh..opq; : > u/.wh.c
      mkdir u/e; : > u/e/.wh.x`,
    );
    await stage.mount();
    expect(await stage.do("ls -A; cat b; ls -A d e")).toBe(
      [".wh", "b", "d", "e", "l1", "d:", "", "e:", ""].join("\n"),
    );
    expect(
      await stage.do("ls .wh.a 2>/dev/null || echo none; touch .wh.x 2>/dev/null || echo no"),
    ).toBe("none\nno\n");
    expect(await stage.do("echo new > a; cat a; rm b; ls -A; rm -r d e; mkdir d; ls -A d")).toBe(
      "new\n.wh\na\nd\ne\n",
    );
    await stage.unmount();
    await stage.mount();
    expect(await stage.do("ls -A; cat a")).toBe(".wh\na\nd\nnew\n");
  });

  test("of AUFS is a file like others where that is wanted", async () => {
    await using stage = await Stage.start(disk, `${files("l2", "a")}; echo x > l1/.wh.a`);
    await stage.mount(["aufs_whiteouts=off"]);
    expect(await stage.do("ls -A; cat .wh.a; echo y > .wh.b; mv .wh.a .wh.c; ls -A")).toBe(
      ".wh.a\na\nx\n.wh.b\n.wh.c\na\n",
    );
  });
});

describe.skipIf(whyNoOverlays !== undefined)("an opaque directory", () => {
  test.each([
    ["the kernel's mark", "setfattr -n trusted.overlay.opaque -v y"],
    ["no mark at all", "true"],
    ["a mark that says no", "setfattr -n trusted.overlay.opaque -v n"],
  ])("is known by %s, in the upper layer and in lower ones", async (_name, mark) => {
    const make = `
      ${files("l2", "a/low", "b/low", "c/d/low", "a/sub/x")}
      ${files("l1", "a/mid", "b/mid", "c/d/mid")}
      ${files("u", "b/up")}
      ${mark} l1/a; ${mark} u/b; ${mark} l1/c`;
    const script = "ls -R; rm a/mid; echo x > a/low; mkdir -p a/sub; ls -R a";
    await compare(disk, { make, script });
  });

  test.each(["user.overlay.opaque", "user.fuseoverlayfs.opaque"])(
    "is known by %s, as fuse-overlayfs writes it",
    async (name) => {
      await using stage = await Stage.start(
        disk,
        `${files("l2", "a/low")}; ${files("l1", "a/mid")}; setfattr -n ${name} -v y l1/a`,
      );
      await stage.mount();
      expect(await stage.do("ls a")).toBe("mid\n");
    },
  );
});

describe.skipIf(whyNoOverlays !== undefined)("a renamed directory", () => {
  const options = ["redirect_dir=on"];

  test("is found below by whichever made it, over several layers and in renamed ones", async () => {
    const make = `${files("l1", "a/b/c/mid", "a/top")}; ${files("l2", "a/b/c/low", "a/b/low", "z/low")}`;
    const script = `
      mv a/b a/b2; mv a/b2 b3; mv a a2; mv b3 a2/b4; mv a2/b4/c a2/c; mv z a2/b4/z
      mkdir a; mv a2 a/inner; echo new > a/inner/c/new; find . | sort`;
    await compare(disk, { make, options, script });
  });

  test("is found through layers that were renamed in themselves", async () => {
    // Each session makes a layer on top of the ones before.
    await using stage = await Stage.start(
      disk,
      files("s0", "x/y/c/deep", "x/y/c/d/e/deep", "x/y/side"),
      ["s0"],
    );
    const sessions = [
      "mv x a; mv a/y a/b",
      "mv a/b/c e; mv a/b f",
      "mv e/d f/d; echo new > f/d/new",
      "mkdir g; mv f g/h; mv g/h/d/e g/i",
    ];
    let lower = [`${stage.base}/s0`];
    for (const [index, script] of sessions.entries())
      for (const isCheck of [false, true]) {
        if (isCheck) {
          await stage.run(`mv u s${index + 1}; rm -rf w; mkdir u w`);
          lower = [`${stage.base}/s${index + 1}`, ...lower];
        }
        await stage.mount(options, overlaySystems.ours, { lower });
        if (!isCheck) await stage.do(script);
        const tree = await stage.tree();
        await stage.unmount();
        await stage.mount(options, kernel, { lower });
        expect(await stage.tree()).toBe(tree);
        await stage.unmount();
      }
    await stage.mount(options, overlaySystems.ours, { lower });
    expect(await stage.do("find . -type f | sort")).toBe(
      "./e/deep\n./g/h/d/new\n./g/h/side\n./g/i/deep\n",
    );
  });

  test("is not followed where that is not wanted", async () => {
    const make = `
      ${files("l1", "a/x")}; mkdir u/b; mknod u/a c 0 0; setfattr -n trusted.overlay.redirect -v a u/b`;
    for (const value of ["nofollow", "follow"]) {
      await using stage = await Stage.start(disk, make, ["l1"]);
      const found = [];
      for (const by of [kernel, overlaySystems.ours]) {
        await stage.mount([`redirect_dir=${value}`], by);
        found.push(await stage.do("ls b 2>&1 || true; mv b c 2>&1 || true; ls c 2>&1 || true"));
        await stage.unmount();
        await stage.run(
          "rm -rf u w; mkdir u w; mkdir u/b; mknod u/a c 0 0; setfattr -n trusted.overlay.redirect -v a u/b",
        );
      }
      expect(found[1]).toBe(found[0]!);
    }
  });

  test.each(["/", "a/b", "", "/none", "none", "../x", "/a/../a", "//a"])(
    "with the redirect %j is as with the kernel",
    async (redirect) => {
      const make = `
        ${files("l1", "a/x", "a/b/x")}; mkdir u/r; touch u/r/own
        setfattr -n trusted.overlay.redirect -v ${JSON.stringify(redirect)} u/r`;
      const results = [];
      for (const by of [kernel, overlaySystems.ours]) {
        await using stage = await Stage.start(disk, make, ["l1"]);
        await stage.mount(options, by);
        results.push(await stage.do("ls r 2>/dev/null || echo refused"));
        await stage.unmount();
      }
      expect(results[1]).toBe(results[0]!);
    },
  );
});

describe.skipIf(whyNoOverlays !== undefined)("a metadata copy", () => {
  const options = ["metacopy=on", "redirect_dir=on"];
  const big = (name: string): string =>
    `mkdir -p $(dirname ${name}); head -c 100000 /dev/zero | tr '\\0' x > ${name}`;

  test("has the data of the file below, also renamed, linked, and when it gets its own", async () => {
    const make = `${big("l2/a")}; ${big("l2/d/b")}; ${big("l1/c")}; ln l2/a l2/a2`;
    const script = `
      chmod 600 a c; chown 7:8 d/b; mv a z; mv d e; ln e/b linked; setfattr -n user.x -v y c
      echo more >> c; : > z; touch -d @1000000000 e/b; md5sum e/b linked c z; stat -c '%n %a %s %Y' e/b`;
    await compare(disk, { make, options, script });
  });

  test("in a lower layer is followed further down", async () => {
    await using stage = await Stage.start(
      disk,
      `${big("s0/d/a")}; ${big("s0/b")}; ${big("s0/c")}`,
      ["s0"],
    );
    let lower = [`${stage.base}/s0`];
    for (const [index, script] of [
      "chmod 600 d/a b; chown 1:1 c",
      "mv d e; mv b e/b; chown 3:4 e/a",
      "chmod 4 e/b",
    ].entries()) {
      await stage.mount(options, index % 2 === 0 ? kernel : overlaySystems.ours, { lower });
      await stage.do(script);
      const tree = await stage.tree();
      await stage.unmount();
      for (const by of [kernel, overlaySystems.ours]) {
        await stage.mount(options, by, { lower });
        expect(await stage.tree()).toBe(tree);
        await stage.unmount();
      }
      await stage.run(`mv u s${index + 1}; rm -rf w; mkdir u w`);
      lower = [`${stage.base}/s${index + 1}`, ...lower];
    }
  });

  test("whose data is missing can't be opened, nor one where they are not wanted", async () => {
    const make = `${big("l2/a")}; : > u/gone; truncate -s 10 u/gone; setfattr -n trusted.overlay.metacopy u/gone
      : > u/a; truncate -s 100000 u/a; setfattr -n trusted.overlay.metacopy u/a`;
    for (const given of [options, ["metacopy=off"]]) {
      const results = [];
      for (const by of [kernel, overlaySystems.ours]) {
        await using stage = await Stage.start(disk, make);
        await stage.mount(given, by);
        results.push(
          await stage.do("cat gone >/dev/null 2>&1 || echo no; cat a 2>/dev/null | md5sum || true"),
        );
        await stage.unmount();
      }
      expect(results[1]).toBe(results[0]!);
    }
  });

  test("has its data in a layer that nothing else is looked up in", async () => {
    // Files that the kernel has copied up, whose data then lies by itself.
    await using stage = await Stage.start(
      disk,
      `${big("s0/d/a")}; ${big("s0/b")}; ${big("s0/only")}; mkdir data`,
      ["s0"],
    );
    await stage.mount(options, kernel, { lower: [`${stage.base}/s0`] });
    await stage.do("chown 5:6 d/a b; mv d/a moved; mv b d/b2");
    await stage.unmount();
    await stage.run("mv u meta; mv s0/* data; rm -rf w; mkdir u w");
    const lower = [`${stage.base}/meta`, "", `${stage.base}/data`];
    const trees = [];
    for (const by of [kernel, overlaySystems.ours]) {
      await stage.mount(options, by, { lower });
      trees.push(await stage.tree());
      await stage.do("chmod 640 moved; echo more >> d/b2; tail -c 5 d/b2");
      trees.push(await stage.tree());
      await stage.unmount();
      for (const again of [kernel, overlaySystems.ours]) {
        await stage.mount(options, again, { lower });
        expect(await stage.tree()).toBe(trees.at(-1)!);
        await stage.unmount();
      }
      await stage.run("rm -rf u w; mkdir u w");
    }
    expect(trees.slice(2)).toEqual(trees.slice(0, 2));
    expect(trees[0]).not.toContain("only");
  });
});

describe.skipIf(whyNoOverlays !== undefined)("many layers", () => {
  test("up to 500 are one, and changes go over all of them", async () => {
    const names = Array.from({ length: 500 }, (_, index) => `l${index + 1}`);
    await using stage = await Stage.start(
      disk,
      `for i in $(seq 500); do mkdir -p l$i/d; echo $i > l$i/f$i; echo $i > l$i/d/common; echo $i > l$i/d/$((i % 50)); done
      mknod l250/f400 c 0 0; rm -r l300/d; mknod l300/d c 0 0`,
      names,
    );
    await stage.mount(["redirect_dir=on"]);
    const script =
      "ls | wc -l; ls d | wc -l; cat d/common f1 f500 d/7; ls f400 2>/dev/null || echo none";
    expect(await stage.do(script)).toBe("500\n51\n1\n1\n500\n7\nnone\n");
    await stage.do("rm f500; mv d e; echo new > e/common; rm e/7");
    await stage.unmount();
    await stage.mount(["redirect_dir=on"]);
    expect(await stage.do("ls | wc -l; ls e | wc -l; cat e/common e/8")).toBe("499\n50\nnew\n8\n");
  });
});

describe.skipIf(whyNoOverlays !== undefined)("names", () => {
  const BYTES = `$(printf '\\001\\377\\302 \\n*x')`;
  const LONG = "n".repeat(255);

  test("are any bytes, up to 255 of them", async () => {
    const make = `mkdir -p "l1/${BYTES}"; echo x > "l1/${BYTES}/${LONG}"; echo y > l2/${LONG}; echo z > "l2/${BYTES}z"`;
    const script = `
      echo more >> "${BYTES}/${LONG}"; rm ${LONG}; echo new > ${LONG}; mv "${BYTES}" "other${BYTES}"; rm "${BYTES}z"
      mkdir "${BYTES}z"; ls -b -R; touch ${LONG}x 2>/dev/null || echo too long`;
    await compare(disk, { make, options: ["redirect_dir=on"], script });
  });

  test("make deep trees", async () => {
    const depth = 120;
    const make = `p=l1; for i in $(seq ${depth}); do p=$p/dir$i; mkdir $p; echo $i > $p/file; done`;
    const script = `
      cd $(printf 'dir%d/' $(seq ${depth})); echo changed >> file; rm ../file; mv ../../file ../moved; cd ../..
      mv dir${depth - 1} renamed 2>/dev/null; cat renamed/dir${depth}/file; pwd | wc -c > /dev/null`;
    await compare(disk, { make, options: ["redirect_dir=on"], script });
  });
});

describe.skipIf(whyNoOverlays !== undefined)("many layers", () => {
  const lower = Array.from({ length: 12 }, (_, index) => `l${index + 1}`);

  test("are searched for what each of them has, however often and whatever was in vain", async () => {
    const make = `
      for n in $(seq 12); do
        mkdir -p l$n/d/merged
        for i in $(seq $n 12 480); do echo l$n > l$n/d/f$i; done
        echo l$n > l$n/d/merged/of$n; echo l$n > l$n/d/everywhere
        mknod l$n/d/f$((n + 24)) c 0 0 2>/dev/null || true
        mknod l$n/d/gone$n c 0 0
      done
      echo below > l12/d/gone3; echo above > l1/d/gone12
      mkdir l5/d/hides l8/d/hides; echo x > l8/d/hides/x; setfattr -n trusted.overlay.opaque -v y l5/d/hides`;
    const script = `
      for round in 1 2; do
        for i in $(seq 0 500); do cat d/f$i 2>/dev/null || echo none; done
        cat d/everywhere; for n in $(seq 12); do cat d/merged/of$n d/gone$n 2>/dev/null || echo none; done
        ls d/hides; ls d | wc -l
      done
      for i in $(seq 0 3 500); do rm -f d/f$i; done; rm d/everywhere; rm -r d/merged; mkdir d/merged
      for i in $(seq 0 500); do cat d/f$i 2>/dev/null || echo none; done; ls d/merged | wc -l
      for i in $(seq 0 9 500); do echo new > d/f$i; mv d/f$i d/g$i; done; ls d | md5sum`;
    await compare(disk, { make, lower, script });
  });

  test("below an upper directory that is too large to be read are seen whole", async () => {
    const make = `
      for d in u l1 l2; do mkdir $d/d; seq -f $d/d/$d%g 700 | xargs touch; done
      : > u/d/.wh.l2700; : > l1/d/.wh.l2699`;
    await using stage = await Stage.start(disk, make);
    await stage.mount();
    const names = "d/l1700 d/l2698 d/l2699 d/l2700";
    const look = `for n in ${names}; do if test -e $n; then echo $n; fi; done`;
    const seen = "d/l1700\nd/l2698\n";
    const missing = "$(seq -f d/none%g 400)";
    expect(await stage.do(`(stat ${missing} 2>&1 || true) | wc -l; ${look}`)).toBe(`400\n${seen}`);
    expect(await stage.do(`stat d/l1* d/l2* | grep -c File; ${look}`)).toBe(`1398\n${seen}`);
  });

  test("with files of AUFS hide what they say, also in a directory whose names were read", async () => {
    const make = `
      ${files("l1", "d/one")}
      ${files("l2", "d/two", "d/.wh.three", "d/.wh.four")}
      ${files("l3", "d/three", "d/.wh.five")}
      ${files("l4", "d/three", "d/four", "d/five", "d/six")}
      mkdir u/d; : > u/d/.wh.six`;
    await using stage = await Stage.start(disk, make, lower);
    await stage.mount();
    const look =
      "for n in none one two three four five six; do cat d/$n 2>/dev/null || echo no $n; done";
    const seen = "no none\nl1\nl2\nno three\nno four\nno five\nno six\n";
    expect(await stage.do(`${look}; ${look}`)).toBe(seen + seen);
    expect(
      await stage.do("echo new > d/six; cat d/six; rm d/six; cat d/six 2>/dev/null || echo no"),
    ).toBe("new\nno\n");
  });
});
