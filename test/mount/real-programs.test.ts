// Programs that people use, on a mount: what they write must be what is read, on the mount and in
// the source.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { Mount, whyNoMounts, withMount } from "../support-mount.ts";
import { missing, shell, SHELL_TEST_TIMEOUT_MS } from "./shell.ts";

const CONFIGURATIONS: readonly (readonly string[])[] = [
  [],
  ["--cache", "always", "--writeback"],
  ["--cache", "never", "--no-kernel-passthrough"],
];

/**
 * A shell function that makes a tree with every kind of file, attribute and name; it takes a
 * directory.
 */
const MAKE_TREE = `
make_tree() {
  mkdir -p "$1"/{lib,bin,deep/er/and/deeper,empty}
  for i in $(seq 200); do seq $i $((i * 7)) > "$1/lib/file $i.txt"; done
  head -c 300000 /dev/urandom > "$1/bin/data"
  cp /bin/true "$1/bin/true"; chmod 4755 "$1/bin/true"
  ln "$1/bin/data" "$1/deep/hard link"
  ln -s ../bin/data "$1/lib/link"; ln -s nowhere "$1/lib/dangling"
  printf x > "$1/deep/"$'\\xfftab\\tnew\\nline'
  mkfifo "$1/deep/fifo"
  truncate -s 10M "$1/deep/sparse"; printf end >> "$1/deep/sparse"
  chown 12:34 "$1/deep/sparse"; chmod 1777 "$1/empty"; chmod 2750 "$1/deep"
  touch -d '2001-02-03 04:05:06.789012345' "$1/bin/data"
  setfattr -n user.note -v 'a note' "$1/bin/data"
  setfattr -n trusted.note -v 'for root' "$1/lib"
  setfacl -m u:1:rwx,g:2:r "$1/bin/true"; setfacl -d -m u:1:rx "$1/lib"
  find "$1" -depth -type d -exec touch -d '2002-02-02 02:02:02.5' {} +
}`;

/** Everything find knows of a tree but inode numbers and the times that reading changes. */
const DESCRIBE = `
find . -printf '%P|%y|%m|%U|%G|%n|%l|%T@|' \\( -type d -printf '\\n' -o -printf '%s\\n' \\) |
  LC_ALL=C sort`;
const CHECKSUMS = `find . -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum`;
const ATTRIBUTES = `
getfattr -R -h -m - -d . | LC_ALL=C sort; getfacl -R -p . | sed 's,^# file:.*,,'`;

function programTest(name: string, programs: string[], work: () => Promise<void>): void {
  test.skipIf(missing(...programs))(name, work, SHELL_TEST_TIMEOUT_MS);
}

describe.skipIf(whyNoMounts !== undefined).each(CONFIGURATIONS.map((options) => ({ options })))(
  "on a mount with options: $options",
  ({ options }) => {
    let mount: Mount;
    let directories = 0;

    beforeAll(async () => {
      mount = await Mount.start({ options });
    });
    afterAll(async () => {
      await mount?.[Symbol.asyncDispose]();
    });

    /**
     * Runs \`work\` with a new directory, by its paths on the mount, in the source, and elsewhere.
     */
    async function inDirectory(
      work: (places: { on: string; behind: string; beside: string }) => Promise<void>,
    ): Promise<void> {
      const name = `d${directories++}`;
      const beside = `${mount.base}/beside-${name}`;
      mkdirSync(`${mount.source}/${name}`);
      mkdirSync(beside);
      await mount.during(() =>
        work({ on: `${mount.mountpoint}/${name}`, behind: `${mount.source}/${name}`, beside }),
      );
    }

    const git = "git -c user.name=Test -c user.email=test@example.org -c init.defaultBranch=main";

    programTest("git: a repository reads the same through the mount", ["git"], () =>
      inDirectory(async ({ on, behind }) => {
        await shell(
          `${git} init -q .; for d in a b/c d; do mkdir -p $d; for i in $(seq 60); do ` +
            `seq $i 500 > $d/$i.txt; done; done; ln -s a/1.txt link; chmod 755 a/2.txt; ` +
            `${git} add -A; ${git} commit -qm first`,
          { cwd: behind },
        );
        const sums = "git -c safe.directory='*' ls-files -z | xargs -0 md5sum";
        const status = "git -c safe.directory='*' status --porcelain";
        const expected = await shell(sums, { cwd: behind });
        expect(expected.split("\n").length).toBe(182);
        expect(await shell(sums, { cwd: on })).toBe(expected);
        expect(await shell(status, { cwd: on })).toBe("");
      }),
    );

    programTest("git: init, add, commit, branch, merge, gc, clone under load", ["git"], () =>
      inDirectory(async ({ on, behind }) => {
        await shell(
          `mkdir repo noise; cd repo
          ( for i in $(seq 100); do echo $i > ../noise/$i; cat ../noise/* > /dev/null; done ) &
          ${git} init -q .
          for round in 1 2 3 4; do
            mkdir -p dir$round; for i in $(seq 80); do seq $round $((i * 20)) > dir$round/$i; done
            ${git} add -A; ${git} commit -qm "round $round"
          done
          ${git} checkout -q -b side HEAD~2
          echo side > side; ${git} add side; ${git} commit -qm side
          ${git} checkout -q main; ${git} merge -q -m merged side
          ${git} gc -q --aggressive --prune=now; ${git} fsck --strict
          ${git} clone -q . ../clone; wait`,
          { cwd: on },
        );
        const log = "git -c safe.directory='*' -C repo log --oneline | wc -l";
        expect((await shell(log, { cwd: on })).trim()).toBe("6");
        await shell("cd repo && git -c safe.directory='*' fsck --strict", { cwd: behind });
        await shell("diff -r --exclude=.git repo clone", { cwd: behind });
      }),
    );

    for (const journal of ["delete", "truncate", "wal"])
      programTest(`sqlite: two processes write at once, journal ${journal}`, ["sqlite3"], () =>
        inDirectory(async ({ on, behind }) => {
          const writer = (id: number): string =>
            `{ echo '.timeout 60000'; for i in $(seq 100); do ` +
            `echo "INSERT INTO t VALUES(${id}, $i, hex(randomblob(200)));"; done; } | ` +
            `sqlite3 -bail db`;
          await shell(
            `sqlite3 db 'PRAGMA journal_mode=${journal}; CREATE TABLE t(who, n, x)'
            (${writer(1)}) & first=$!; (${writer(2)}) & second=$!; wait $first; wait $second`,
            { cwd: on },
          );
          const check =
            "sqlite3 db 'PRAGMA integrity_check; SELECT who, count(*) FROM t GROUP BY who'";
          expect(await shell(check, { cwd: on })).toBe("ok\n1|100\n2|100\n");
          expect(await shell(check, { cwd: behind })).toBe("ok\n1|100\n2|100\n");
        }),
      );

    programTest("rsync -aHAX there and back", ["rsync", "setfattr", "setfacl"], () =>
      inDirectory(async ({ on, behind, beside }) => {
        await shell(
          `${MAKE_TREE}
          make_tree ${beside}/tree
          rsync -aHAX ${beside}/tree/ ${on}/copy/
          rsync -aHAX ${on}/copy/ ${beside}/back/`,
        );
        const compare = (a: string, b: string): Promise<string> =>
          shell(`rsync -aHAXnci --delete ${a}/ ${b}/`);
        expect(await compare(`${beside}/tree`, `${on}/copy`)).toBe("");
        expect(await compare(`${on}/copy`, `${beside}/tree`)).toBe("");
        expect(await compare(`${beside}/tree`, `${behind}/copy`)).toBe("");
        expect(await compare(`${beside}/tree`, `${beside}/back`)).toBe("");
      }),
    );

    programTest(
      "cp -a, find, md5sum, getfattr and getfacl show one tree",
      ["setfattr", "setfacl"],
      () =>
        inDirectory(async ({ on, behind, beside }) => {
          await shell(`${MAKE_TREE}\nmake_tree ${beside}/tree; cp -a ${beside}/tree ${on}/tree`);
          for (const look of [DESCRIBE, CHECKSUMS, ATTRIBUTES]) {
            const expected = await shell(look, { cwd: `${beside}/tree` });
            expect(expected.split("\n").length).toBeGreaterThan(5);
            expect(await shell(look, { cwd: `${on}/tree` })).toBe(expected);
            expect(await shell(look, { cwd: `${behind}/tree` })).toBe(expected);
          }
          await shell("rm -r tree", { cwd: on });
          expect(await shell("ls -A", { cwd: behind })).toBe("");
        }),
    );

    programTest("tar with attributes, ACLs and holes", ["tar", "setfattr", "setfacl"], () =>
      inDirectory(async ({ on, behind, beside }) => {
        const tar = "tar --xattrs --xattrs-include='*' --acls --numeric-owner -S";
        await shell(
          `${MAKE_TREE}
          make_tree ${beside}/tree
          ${tar} -C ${beside}/tree -cf ${on}/there.tar .; mkdir ${on}/there
          ${tar} -C ${on}/there -xpf ${on}/there.tar
          ${tar} -C ${on}/there -cf ${beside}/back.tar .; mkdir ${beside}/back
          ${tar} -C ${beside}/back -xpf ${beside}/back.tar
          # What the holes take, once it is all written out.
          sync -f ${on}/there; test $(du -k ${behind}/there/deep/sparse | cut -f1) -lt 100`,
        );
        for (const look of [DESCRIBE, CHECKSUMS, ATTRIBUTES]) {
          const expected = await shell(look, { cwd: `${beside}/tree` });
          expect(await shell(look, { cwd: `${on}/there` })).toBe(expected);
          expect(await shell(look, { cwd: `${beside}/back` })).toBe(expected);
        }
      }),
    );

    for (const [how, engine] of [
      ["pread and pwrite", "--ioengine=psync"],
      ["mappings", "--ioengine=mmap"],
      ["asynchronous direct I/O", "--ioengine=libaio --iodepth=8 --direct=1"],
      ["buffered appends and fsync", "--ioengine=psync --rw=write --fsync=16"],
    ] as const)
      programTest(`fio verifies what it wrote, by ${how}`, ["fio"], () =>
        inDirectory(async ({ on, behind }) => {
          const job = `fio --name=job --rw=randrw --bs=4k --size=8m --numjobs=2 --verify=crc32c`;
          const report = "--output-format=json --output=report --verify_fatal=1 --group_reporting";
          await shell(`${job} ${engine} --do_verify=1 ${report}`, { cwd: on });
          const report_ = JSON.parse(await shell("cat report", { cwd: on })) as {
            jobs: { error: number }[];
          };
          expect(report_.jobs.map(({ error }) => error)).toEqual([0]);
          expect(await shell(CHECKSUMS, { cwd: behind })).toBe(await shell(CHECKSUMS, { cwd: on }));
        }),
      );

    programTest("a tree of packages is copied, moved and removed", [], () =>
      inDirectory(async ({ on, behind, beside }) => {
        await shell(
          `mkdir -p tree/node_modules/.bin; cd tree/node_modules
          for p in $(seq 100); do
            mkdir -p package-$p/lib/internal
            echo "{\\"name\\":\\"package-$p\\"}" > package-$p/package.json
            for i in $(seq 8); do
              echo "export const a = $i;" > package-$p/lib/internal/module-$i.js
            done
            ln -s ../package-$p/lib/internal/module-1.js .bin/package-$p
          done`,
          { cwd: beside },
        );
        await shell(
          `cp -a ${beside}/tree tree; mv tree moved; cp -al moved linked
          diff -r ${beside}/tree moved; test $(find linked -type f -links 2 | wc -l) = 900
          rm -rf linked; test $(find moved -type f -links 1 | wc -l) = 900`,
          { cwd: on },
        );
        await shell(`diff -r ${beside}/tree moved`, { cwd: behind });
      }),
    );

    programTest("a small project is compiled and run", ["gcc", "make"], () =>
      inDirectory(async ({ on }) => {
        await shell(
          `for i in $(seq 20); do echo "int f$i(void) { return $i; }" > f$i.c; done
          { for i in $(seq 20); do echo "int f$i(void);"; done
            echo '#include <stdio.h>'; echo 'int main(void) { int sum = 0;'
            for i in $(seq 20); do echo "sum += f$i();"; done
            echo 'printf("%d\\n", sum); return 0; }'; } > main.c
          printf 'main: $(patsubst %%.c,%%.o,$(wildcard *.c))\\n\\t$(CC) -o $@ $^\\n' > Makefile
          make -s -j4`,
          { cwd: on },
        );
        expect(await shell("./main; make -q && echo up to date", { cwd: on })).toBe(
          "210\nup to date\n",
        );
      }),
    );

    programTest("python maps files and keeps a database", ["python3"], () =>
      inDirectory(async ({ on, behind }) => {
        const script = `
import mmap, multiprocessing, os, shelve, tempfile
def work(n):
    with open("counters", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        for i in range(1000):
            m[n * 8:n * 8 + 8] = (i + 1).to_bytes(8, "little")
        m.flush()
if __name__ == "__main__":
    with open("counters", "wb") as f: f.truncate(4096)
    with multiprocessing.Pool(4) as pool: pool.map(work, range(4))
    data = open("counters", "rb").read()
    print([int.from_bytes(data[n * 8:n * 8 + 8], "little") for n in range(4)])
    with shelve.open("shelf") as s:
        for i in range(200): s[str(i)] = list(range(i))
    with shelve.open("shelf") as s: print(len(s), sum(s["100"]))
    with tempfile.TemporaryFile(dir=".") as t:
        t.write(b"x" * 100000); t.seek(99999); print(t.read())
`;
        await Bun.write(`${behind}/script.py`, script);
        const output = await shell("python3 script.py", { cwd: on });
        expect(output).toBe("[1000, 1000, 1000, 1000]\n200 4950\nb'x'\n");
      }),
    );
  },
);

test.skipIf(whyNoMounts !== undefined || missing("prlimit"))(
  "a tree with far more files than the daemon may open is walked, again and again",
  () =>
    withMount({ prefix: ["prlimit", "--nofile=256:256"] }, async ({ source, mountpoint }) => {
      await shell("for d in $(seq 30); do mkdir $d; (cd $d; seq 100 | xargs touch); done", {
        cwd: source,
      });
      const count = "find . -type f -size 0 | wc -l; ls -lR . | wc -l; cat */* | wc -c";
      const expected = await shell(count, { cwd: source });
      for (let round = 0; round < 3; round++)
        expect(await shell(count, { cwd: mountpoint })).toBe(expected);
    }),
  SHELL_TEST_TIMEOUT_MS,
);
