// What is left when things go wrong: the daemon is killed, the disk is full.

import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import * as abi from "../../src/abi-linux.ts";
import { ENOSPC } from "../../src/errno.ts";
import { whyNoMounts, withMount } from "../support-mount.ts";
import { Actor } from "./actor.ts";
import { pattern } from "./posix-place.ts";
import { missing, shell } from "./shell.ts";

const TIMEOUT_MS = 60_000;
const NEW = abi.O_CREAT | abi.O_EXCL | abi.O_RDWR;
const CONFIGURATIONS: readonly (readonly string[])[] = [
  [],
  ["--no-kernel-passthrough"],
  ["--cache", "always", "--writeback"],
];

describe.skipIf(whyNoMounts !== undefined).each(CONFIGURATIONS.map((options) => ({ options })))(
  "after kill -9, with options: $options",
  ({ options }) => {
    test(
      "what was fsynced is there, and the mount works again",
      () =>
        withMount({ options }, async (mount) => {
          using writer = new Actor("the writer");
          const at = (index: number): string => `${mount.mountpoint}/f${index}`;
          const contents = (index: number): string => pattern(100 + index * 997, index);
          for (let index = 0; index < 50; index++) {
            const fd = await writer.call("open", at(index), NEW);
            await writer.call("write", fd, contents(index));
            expect(await writer.call("fsync", fd)).toBe(0);
            if (index % 2 === 0) await writer.call("close", fd);
          }
          // In the middle of work, with requests on their way. Data alone could go past the daemon.
          const busy = (async () => {
            for (let index = 1000; (await writer.call("tryOpen", at(index), NEW)) >= 0; index++);
          })();
          await writer.call("stat", at(0));
          process.kill(mount.pid, "SIGKILL");
          await busy;
          let dead: unknown;
          // ECONNABORTED, ECANCELED: while the kernel takes back what came by io_uring.
          do dead = await writer.call("tryOpen", at(0), abi.O_RDONLY);
          while (dead === -103 || dead === -125);
          expect(dead).toBe(-107); // ENOTCONN
          await mount.kill();

          await mount.run();
          for (let index = 0; index < 50; index++) {
            expect(readFileSync(at(index), "latin1") === contents(index)).toBe(true);
            expect(readFileSync(`${mount.source}/f${index}`, "latin1") === contents(index)).toBe(
              true,
            );
          }
          expect(await shell("echo again > f0; cat f0", { cwd: mount.mountpoint })).toBe("again\n");
        }),
      TIMEOUT_MS,
    );

    test(
      "a process that waits for a lock gets an error",
      () =>
        withMount({ options }, async (mount) => {
          using holder = new Actor("the holder");
          using waiter = new Actor("the waiter");
          const path = `${mount.mountpoint}/f`;
          const range = { type: abi.F_WRLCK, start: 0, length: 0 };
          const held = await holder.call("open", path, NEW);
          const waited = await waiter.call("open", path, abi.O_RDWR);
          expect(await holder.call("setLock", held, 6, range)).toBe(0);
          const waiting = waiter.call("setLock", waited, 7, range);
          await waiter.blocked();
          await mount.kill();
          expect(await waiting).toBeLessThan(0);
        }),
      TIMEOUT_MS,
    );
  },
);

describe.skipIf(whyNoMounts !== undefined || missing("mount", "umount", "mkfs.ext4"))(
  "on a full disk",
  () => {
    let base = "";
    afterEach(async () => {
      await shell(`umount -l ${base}/disk || true`);
      rmSync(base, { recursive: true, force: true });
    });

    /** A file system of 8 MB, as a source. */
    async function disk(kind: "tmpfs" | "ext4"): Promise<string> {
      base = mkdtempSync("/tmp/fuse-backend-disk-");
      mkdirSync(`${base}/disk`);
      if (kind === "tmpfs")
        await shell(`mount -t tmpfs -o size=8m,mode=755,nr_inodes=200 none ${base}/disk`);
      else
        await shell(
          `truncate -s 8M ${base}/image; mkfs.ext4 -q -m 0 -O ^has_journal ${base}/image
        mount -o loop ${base}/image ${base}/disk`,
        );
      return `${base}/disk`;
    }

    /** Writes 64 KiB pieces until it fails: the error, and what fsync and close say then. */
    async function fill(path: string): Promise<{ errors: number[]; pieces: number }> {
      using writer = new Actor("the writer");
      const fd = await writer.call("open", path, NEW);
      const piece = "x".repeat(65_536);
      const errors: number[] = [];
      let pieces = 0;
      while (errors.length === 0 && pieces < 1000) {
        const written = await writer.call("write", fd, piece);
        if (written < 0) errors.push(written);
        else pieces++;
      }
      errors.push(await writer.call("fsync", fd), await writer.call("close", fd));
      return { errors, pieces };
    }

    for (const kind of ["tmpfs", "ext4"] as const)
      for (const options of [[], ["--no-kernel-passthrough"]])
        test(
          `${kind}: a write fails with ENOSPC where it should, with options: ${options.join(" ")}`,
          async () => {
            const source = await disk(kind);
            const bare = await fill(`${source}/bare`);
            rmSync(`${source}/bare`);
            await withMount({ options, source }, async ({ mountpoint }) => {
              const mounted = await fill(`${mountpoint}/mounted`);
              expect(bare.errors).toEqual([-ENOSPC, 0, 0]);
              expect(mounted).toEqual(bare);
              // What is removed can be used again, once the kernel's FORGET has arrived.
              const again = "rm mounted; until echo room > new; do :; done 2> /dev/null; cat new";
              expect(await shell(again, { cwd: mountpoint })).toBe("room\n");
            });
          },
          TIMEOUT_MS,
        );

    for (const kind of ["tmpfs", "ext4"] as const)
      test(
        `${kind}: with writeback, ENOSPC is reported by write, fsync or close`,
        async () => {
          const source = await disk(kind);
          const options = ["--cache", "always", "--writeback"];
          await withMount({ options, source }, async ({ mountpoint }) => {
            using writer = new Actor("the writer");
            const fd = await writer.call("open", `${mountpoint}/f`, NEW);
            const results: number[] = [];
            // Less than the disk has, then more.
            for (let piece = 0; piece < 20; piece++) {
              results.push(await writer.call("write", fd, "x".repeat(1 << 20)));
              if (results.at(-1)! < 0) break;
            }
            results.push(await writer.call("fsync", fd), await writer.call("close", fd));
            expect(results).toContain(-ENOSPC);
            // Every failure is of this kind, and reported once it is known.
            expect(new Set(results.filter((result) => result < 0))).toEqual(new Set([-ENOSPC]));
            const small = await writer.call("open", `${mountpoint}/small`, NEW);
            await writer.call("write", small, "x".repeat(1 << 20));
            expect(await writer.call("close", small)).toBe(-ENOSPC);
          });
        },
        TIMEOUT_MS,
      );

    test(
      "tmpfs: no inode is left",
      async () => {
        const source = await disk("tmpfs");
        await withMount({ source }, async ({ mountpoint }) => {
          using writer = new Actor("the writer");
          let made = 0;
          while (made < 300 && (await writer.call("mkdir", `${mountpoint}/d${made}`)) === 0) made++;
          expect(made).toBeLessThan(200);
          expect([
            await writer.call("mkdir", `${mountpoint}/d`),
            await writer.call("tryOpen", `${mountpoint}/f`, NEW),
            await writer.call("symlink", "x", `${mountpoint}/l`),
            await writer.call("mknod", `${mountpoint}/p`, abi.S_IFIFO | 0o644),
          ]).toEqual([-ENOSPC, -ENOSPC, -ENOSPC, -ENOSPC]);
          // The FORGET that frees the inode comes after the next request, or at the same time.
          for (let round = 0; round < 100; round++) {
            expect(await writer.call("rmdir", `${mountpoint}/d${round}`)).toBe(0);
            expect(await writer.call("mkdir", `${mountpoint}/new${round}`)).toBe(0);
          }
        });
      },
      TIMEOUT_MS,
    );

    test(
      "ext4: fallocate and copy_file_range fail with ENOSPC",
      async () => {
        const source = await disk("ext4");
        await withMount({ source }, async ({ mountpoint }) => {
          using writer = new Actor("the writer");
          writeFileSync(`${mountpoint}/from`, pattern(1 << 20), "latin1");
          const fd = await writer.call("open", `${mountpoint}/f`, NEW);
          expect(await writer.call("fallocate", fd, 0, 0, 100 << 20)).toBe(-ENOSPC);
          await writer.call("ftruncate", fd, 0);
          const from = await writer.call("open", `${mountpoint}/from`, abi.O_RDONLY);
          let result = 0;
          for (let offset = 0; result >= 0 && offset < 20 << 20; offset += 1 << 20)
            result = await writer.call("copyFileRange", from, 0, fd, offset, 1 << 20);
          expect(result).toBe(-ENOSPC);
        });
      },
      TIMEOUT_MS,
    );
  },
);
