// The command line: what is understood, what is refused and how. Nothing is mounted here.

import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MS_DIRSYNC, MS_NODIRATIME, MS_SYNCHRONOUS } from "../src/abi-linux.ts";
import { defaultWorkers } from "../src/cli-daemon.ts";
import { renderHelp } from "../src/cli-help.ts";
import {
  DIRECTORY_OPTIONS,
  OVERLAY_OPTIONS,
  PASSTHROUGH_OPTIONS,
  VFS_OPTIONS,
} from "../src/cli-options.ts";
import { UsageError } from "../src/cli-parse.ts";
import { main, readCommandLine } from "../src/cli.ts";
import type { DaemonOptions, MountOptions } from "../src/daemon.ts";
import type { IdMapOptions } from "../src/id-map.ts";
import { ConfigError, type PassthroughConfig } from "../src/passthrough-config.ts";
import { geteuid } from "../src/syscall.ts";
import type { PassthroughMountConfig } from "../src/vfs-config.ts";
import { DEFAULTS } from "./support-passthrough.ts";

const isRoot = geteuid() === 0;

function read(...args: string[]): ReturnType<typeof readCommandLine> {
  return readCommandLine("fuse-backend", args);
}

function served(request: ReturnType<typeof readCommandLine>): DaemonOptions {
  if (request.kind !== "serve") throw new Error(`not to be served: ${request.kind}`);
  return request.options;
}

/** What `passthrough ARGS /src /mnt` is understood as. */
function passthrough(...args: string[]): DaemonOptions {
  return served(read("passthrough", ...args, "/src", "/mnt"));
}

/** What `vfs ARGS /mnt` is understood as. */
function vfs(...args: string[]): DaemonOptions {
  return served(read("vfs", ...args, "/mnt"));
}

/** What one --mount is understood as. */
function mounted(text: string, ...args: string[]): PassthroughMountConfig {
  const { mounts } = vfs("--mount", text, ...args).vfs;
  expect(mounts).toHaveLength(1);
  const [mount] = mounts;
  if (mount?.passthrough === undefined) throw new Error(`not a passthrough: ${text}`);
  return mount;
}

function helper(name: string, ...args: string[]): DaemonOptions {
  return served(readCommandLine(name, ["/src", "/mnt", ...args]));
}

/** The configuration of the only directory that is served. */
function configOf({ vfs }: DaemonOptions): PassthroughConfig {
  expect(vfs.mounts).toHaveLength(1);
  return vfs.mounts[0]!.passthrough!;
}

/** The message that refuses the command line. */
function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof UsageError || error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error("not refused");
}

const IDS: [string, IdMapOptions][] = [
  [
    "uid-map=100000:0:65536,gid-map=1:2:3,gid-map=4294967294:0:1",
    {
      uids: [{ internal: 100_000, external: 0, length: 65_536 }],
      gids: [
        { internal: 1, external: 2, length: 3 },
        { internal: 4_294_967_294, external: 0, length: 1 },
      ],
    },
  ],
  [
    "squash-uid=0,squash-gid=4294967294",
    { uids: [], gids: [], squashUid: 0, squashGid: 2 ** 32 - 2 },
  ],
];

const WRONG_IDS: [string[], RegExp][] = [
  [["--uid-map=0"], /^--uid-map: "0" is not a range of ids: write INTERNAL:EXTERNAL:LENGTH/],
  [["-o", "gid_map=0:1:0"], /^-o gid_map: the range of ids "0:1:0" must have a length/],
  [["--gid-map=4294967295:0:1"], /^--gid-map: .* must have an internal id/],
  [["--uid-map=0:0:2", "--uid-map=1:5:1"], /^--uid-map: .* overlap/],
  [["--squash-uid=5", "--uid-map=0:0:2"], /^--uid-map: .* leave one of them out/],
  [["--squash-gid=4294967295"], /--squash-gid must be a whole number from 0 to 4294967294/],
  [["--squash-uid=root"], /--squash-uid must be a whole number/],
  [["--squash-uid=1", "--squash-uid=1"], /--squash-uid is given twice/],
  [["--squash-uid=1", "-osquash_uid=1"], /--squash-uid is given twice, also as -o squash_uid/],
];

describe("passthrough", () => {
  test("has the documented defaults", () => {
    const { vfs, ...rest } = passthrough();
    expect({ passthrough: configOf(passthrough()), ...rest }).toEqual({
      passthrough: DEFAULTS,
      reload: undefined,
      dynamic: false,
      mount: {
        mountpoint: "/mnt",
        fsname: "/src",
        subtype: "fuse-backend",
        allowOther: false,
        autoUnmount: false,
        readOnly: false,
        suid: false,
        dev: false,
        exec: true,
        noatime: false,
        maxRead: 0,
        extraFlags: 0,
        fusermount: undefined,
        mountNamespacePid: undefined,
        replace: false,
      },
      workers: defaultWorkers(),
      ioUring: "auto",
      background: false,
      pidFile: undefined,
      logLevel: "info",
      logFormat: "text",
      debug: false,
      requestTimeout: 0,
    });
    expect(vfs.mounts.map(({ path, ids }) => ({ path, ids }))).toEqual([
      { path: "/", ids: undefined },
    ]);
    expect(vfs.ids).toBeUndefined();
    expect(defaultWorkers()).toBeWithin(2, 9);
  });

  test("makes paths absolute without touching what symbolic links would change", () => {
    const options = served(
      read("passthrough", "--pid-file=run/pid", "--fusermount", "./f", "a/../b", "c"),
    );
    const cwd = process.cwd();
    expect(configOf(options).source).toBe(`${cwd}/a/../b`);
    expect(options.mount.mountpoint).toBe(`${cwd}/c`);
    expect(options.mount.fsname).toBe(`${cwd}/b`);
    expect(options.mount.fusermount).toBe(`${cwd}/./f`);
    expect(options.pidFile).toBe(`${cwd}/run/pid`);
    expect(passthrough("--fusermount=fusermount3").mount.fusermount).toBe("fusermount3");
  });

  // Each with the option that its use needs, so that nothing contradicts it.
  const configs: [string, string[], Partial<PassthroughConfig>][] = [
    ["cache=never", [], { cache: "never", attrTimeout: 0, dirEntryTimeout: 0 }],
    ["cache=always", [], { cache: "always", attrTimeout: 86_400 }],
    ["attr-timeout=0.25", [], { attrTimeout: 0.25, dirAttrTimeout: 0.25, entryTimeout: 5 }],
    ["entry-timeout=.5", [], { entryTimeout: 0.5, dirEntryTimeout: 0.5 }],
    ["dir-attr-timeout=7", [], { dirAttrTimeout: 7, attrTimeout: 5 }],
    ["dir-entry-timeout=0", [], { dirEntryTimeout: 0, entryTimeout: 5 }],
    ["writeback", [], { writeback: true, kernelPassthrough: false }],
    ["no-writeback", [], { writeback: false }],
    ["no-xattr", [], { xattr: false }],
    ["xattr", [], { xattr: true }],
    ["no-open", ["--cache=always"], { noOpen: true, kernelPassthrough: false }],
    ["open", [], { noOpen: false }],
    ["no-opendir", ["--cache=metadata"], { noOpendir: true }],
    ["no-readdir", [], { noReaddir: true }],
    ["no-killpriv-v2", [], { killprivV2: false }],
    ["inode-file-handles=never", [], { inodeFileHandles: "never" }],
    ["seal-size", [], { sealSize: true }],
    ["mntid", [], { mntid: true }],
    ["use-host-ino", [], { useHostIno: true }],
    ["no-allow-direct-io", [], { allowDirectIo: false }],
    ["dax-file-size=4096", [], { daxFileSize: 4096 }],
    ["no-kernel-passthrough", [], { kernelPassthrough: false }],
    ["no-locks", [], { locks: false }],
  ];
  test.each(configs)("understands %s as an option and within -o", (option, needed, expected) => {
    const underscores = option.replaceAll("-", "_");
    for (const args of [[`--${option}`], ["-o", option], [`-onoatime,${underscores}`]])
      expect(configOf(passthrough(...needed, ...args))).toMatchObject(expected);
  });

  const daemon: [string, Partial<DaemonOptions>][] = [
    ["workers=3", { workers: 3 }],
    ["io-uring=off", { ioUring: "off" }],
    ["request-timeout=30", { requestTimeout: 30 }],
    ["pid-file=/run/pid", { pidFile: "/run/pid" }],
    ["log-level=debug", { logLevel: "debug" }],
    ["log-format=json", { logFormat: "json" }],
    ["debug", { debug: true }],
  ];
  test.each(daemon)("understands %s as an option and within -o", (option, expected) => {
    for (const args of [[`--${option}`], ["-o", option.replace("-", "_")]])
      for (const options of [passthrough(...args), vfs("--mount=/=passthrough:/src", ...args)])
        expect(options).toMatchObject(expected);
  });

  test.each(IDS)("understands %j as options and within -o", (list, ids) => {
    const options = list.split(",").map((option) => `--${option}`);
    for (const args of [options, ["-o", list.replaceAll("-", "_")]])
      expect(passthrough(...args).vfs).toMatchObject({ mounts: [{ ids }], ids: undefined });
  });

  test("adds up the ranges of options and of -o", () => {
    const { mounts } = passthrough("-o", "uid-map=5:6:1", "--uid-map=1:2:3").vfs;
    expect(mounts[0]?.ids?.uids).toEqual([
      { internal: 1, external: 2, length: 3 },
      { internal: 5, external: 6, length: 1 },
    ]);
  });

  const mounts: [string, Partial<MountOptions>][] = [
    ["allow_other", { allowOther: true }],
    ["allow-other", { allowOther: true }],
    ["auto_unmount", { autoUnmount: true }],
    ["ro", { readOnly: true }],
    ["suid,dev", { suid: true, dev: true }],
    ["noexec", { exec: false }],
    ["noatime", { noatime: true }],
    ["fsname=a=b", { fsname: "a=b" }],
    [String.raw`fsname=a\,b\\c,ro`, { fsname: String.raw`a,b\c`, readOnly: true }],
    ["subtype=other", { subtype: "other" }],
    ["max_read=65536", { maxRead: 65_536 }],
    ["sync,dirsync,nodiratime", { extraFlags: MS_SYNCHRONOUS | MS_DIRSYNC | MS_NODIRATIME }],
    ["replace", { replace: true }],
    ["mount_namespace=42", { mountNamespacePid: 42 }],
    // The last one counts, as with mount(8).
    ["ro,rw", { readOnly: false }],
    ["suid,nosuid,nodev,dev", { suid: false, dev: true }],
    ["sync,async", { extraFlags: 0 }],
    // For others than the file system.
    [
      "defaults,auto,noauto,user,users,user=joe,owner,group,_netdev,nofail,x-systemd.automount," +
        "X-mount.mkdir,comment=hi,default_permissions",
      { suid: false, readOnly: false },
    ],
    [",,ro,", { readOnly: true }],
  ];
  test.each(mounts)("understands -o %s", (list, expected) => {
    expect(passthrough("-o", list).mount).toMatchObject(expected);
  });

  test("adds up several -o, the last one counting", () => {
    const options = passthrough("-o", "ro,cache=never", "--options=cache=always,noatime");
    expect(options.mount).toMatchObject({ readOnly: true, noatime: true });
    expect(configOf(options).cache).toBe("always");
  });

  test("takes what follows -- as a path", () => {
    const options = served(read("passthrough", "--", "-o", "--help"));
    expect(configOf(options).source).toBe(`${process.cwd()}/-o`);
    expect(options.mount.mountpoint).toBe(`${process.cwd()}/--help`);
  });

  const wrong: [string[], RegExp][] = [
    [["--no-such-option"], /unknown option --no-such-option/],
    [["--no-no-open"], /unknown option/],
    [["--no-cache"], /unknown option --no-cache/],
    [["--no-help"], /unknown option --no-help/],
    [["--no-background"], /unknown option/],
    [["-x"], /unknown option -x/],
    [["-ox=1"], /unknown option -o x=1/],
    [["-o", "nonempty"], /unknown option -o nonempty/],
    [["-o", "background"], /unknown option -o background/],
    [["-o", "remount"], /mount\(8\)/],
    [["-o", "ro=1"], /takes no value/],
    [["-o", "writeback=yes"], /takes no value/],
    [["-o", "cache"], /needs a value: cache=POLICY/],
    [["-o", "fsname="], /needs a value/],
    [["-o", "max_read=-1"], /max_read must be a whole number/],
    [["--cache=auto", "--cache=auto"], /--cache is given twice/],
    [["--writeback", "--no-writeback"], /--no-writeback is given twice/],
    [["--background", "--background"], /given twice/],
    [["--cache=auto", "-o", "cache=auto"], /--cache is given twice, also as -o cache/],
    [["--cache="], /--cache needs a value: POLICY/],
    [["--cache", "--writeback"], /--writeback looks like an option.*write --cache=--writeback$/],
    [["-o", "-x"], /-x looks like an option.*write -o-x$/],
    [
      ["--cache=sometimes"],
      /--cache must be one of never, metadata, auto, always, not "sometimes"/,
    ],
    [["-o", "cache=sometimes"], /-o cache must be one of/],
    [["--writeback=yes"], /takes no value, not "yes"/],
    [["--attr-timeout=soon"], /must be a number of seconds/],
    [["--attr-timeout=-1"], /must be a number of seconds/],
    [["--attr-timeout=1e3"], /must be a number of seconds/],
    [["--attr-timeout=4294967296"], /timeout must be/],
    [["--workers=0"], /whole number from 1/],
    [["--workers=1.5"], /whole number/],
    [["--workers=1000"], /whole number/],
    [["--dax-file-size=4k"], /whole number/],
    [["--request-timeout=65536"], /from 0 to 65535/],
    [["--mount-namespace=self"], /whole number/],
    [["--log-level=loud"], /error, warn, info, debug/],
    [["--writeback", "--cache=never"], /writeback needs cached data/],
    [["--writeback", "--kernel-passthrough"], /exclude each other/],
    [["--no-open"], /no-open needs cache=always/],
    [["-o", "auto_unmount", "--mount-namespace=1"], /exclude each other/],
    [["surplus"], /more than SRC and MNT, namely "\/mnt"/],
    [["--", "a", "b"], /more than SRC and MNT/],
  ];
  test.each([...wrong, ...WRONG_IDS])("refuses %j", (args, message) => {
    expect(refusal(() => passthrough(...args))).toMatch(message);
  });

  const incomplete: [string[], RegExp][] = [
    [["passthrough"], /SRC and MNT are missing/],
    [["passthrough", "/src"], /MNT is missing/],
    [["passthrough", "/src", ""], /must not be empty/],
    [["passthrough", "/src", "/m\u{fffd}"], /not valid UTF-8/],
    [["passthrough", "/src", "/mnt", "--cache"], /--cache needs a value/],
    [["passthrough", "/src", "/mnt", "-o"], /-o needs a value/],
    [["passthrough", "/src", "/mnt", "--mount=/a=passthrough:/b"], /unknown option --mount/],
    [["vfs"], /MNT is missing/],
    [["vfs", "/mnt"], /nothing to serve: give --mount PATH=passthrough:SRC or --config FILE/],
    [["vfs", "--mount=/a=passthrough:/b", ""], /MNT must not be empty/],
    [["vfs", "--mount=/a=passthrough:/b", "/m\u{fffd}"], /not valid UTF-8/],
    [["vfs", "/mnt", "--mount"], /--mount needs a value: PATH=passthrough:SRC/],
    [["vfs", "--mount=/a=passthrough:/b", "/mnt", "c"], /more than MNT, namely "c"/],
    [["vfs", "--mount=/a=passthrough:/b", "--config=/c", "/mnt"], /exclude each other/],
    [["vfs", "--config=/c", "--config=/d", "/mnt"], /--config is given twice/],
    [["vfs", "-o", "config=/c", "/mnt"], /unknown option -o config/],
    [[], /a command is missing/],
    [["overlaid"], /unknown command "overlaid"/],
    [["--cache=auto", "passthrough"], /unknown option --cache/],
    [["--help", "overlaid"], /unknown command/],
  ];
  test.each(incomplete)("refuses the command line %j", (args, message) => {
    expect(refusal(() => read(...args))).toMatch(message);
  });
});

describe("--help and --version", () => {
  const versions: [string[]][] = [
    [["--version"]],
    [["-V"]],
    [["--version", "passthrough"]],
    [["passthrough", "--version"]],
    [["passthrough", "--cache=auto", "-V", "--no-such-option"]],
  ];
  test.each(versions)("%j asks for the version", (args) => {
    expect(read(...args)).toEqual({ kind: "version" });
  });

  const helps: [string[], string | undefined][] = [
    [["--help"], undefined],
    [["-h"], undefined],
    [["--help", "passthrough"], "passthrough"],
    [["passthrough", "-h"], "passthrough"],
    [["passthrough", "/src", "--help"], "passthrough"],
    [["vfs", "--help"], "vfs"],
    [["--help", "vfs"], "vfs"],
    [["overlay", "--help"], "overlay"],
  ];
  test.each(helps)("%j asks for help", (args, command) => {
    expect(read(...args)).toEqual({ kind: "help", command });
  });

  test.each([
    ["passthrough", PASSTHROUGH_OPTIONS],
    ["overlay", OVERLAY_OPTIONS],
    ["vfs", VFS_OPTIONS],
  ])(
    "the help of %s names every option with its default, in 100 columns",
    async (command, table) => {
      const help = await renderHelp(command, "1.2.3");
      const flowing = help.replaceAll(/\s+/g, " ");
      for (const { name, on, help: description } of table) {
        expect(help).toMatch(new RegExp(`--${on ? "no-" : ""}${name}[ =\n]`));
        expect(flowing).toContain(description);
        if (name !== "help" && name !== "version")
          expect(description).toMatch(/ The default is .*\.$/);
      }
      expect(help).toContain("v1.2.3");
      // oxlint-disable-next-line no-control-regex
      expect(help).not.toMatch(/\u001B/);
      const long = help.split("\n").filter((line) => line.length > 100 || /\s$/.test(line));
      expect(long).toEqual([]);
    },
  );

  test("the help of vfs names every option of a mount", async () => {
    const help = await renderHelp("vfs", "1.2.3");
    const flowing = help.replaceAll(/\s+/g, " ");
    for (const { name, on, help: description } of DIRECTORY_OPTIONS) {
      expect(help).toMatch(new RegExp(`^ +${on ? "no-" : ""}${name}[ =]`, "m"));
      expect(flowing).toContain(description);
    }
  });

  test("the help of the program names every command", async () => {
    const help = await renderHelp(undefined, "1.2.3");
    expect(help).toMatch(/^ *passthrough {4}Serve/m);
    expect(help).toMatch(/^ *overlay {4}Serve/m);
    expect(help).toMatch(/^ *vfs {4}Serve/m);
  });
});

describe("vfs", () => {
  const directory = mkdtempSync(join(tmpdir(), "fuse-backend-cli-"));
  const file = join(directory, "vfs.json");
  afterAll(() => rmSync(directory, { recursive: true }));

  test("has what passthrough has for each mount, and a source of its own", () => {
    const { vfs: config, ...rest } = vfs("--mount", "/=passthrough:/src");
    const { vfs: alone, ...restAlone } = passthrough();
    expect(config).toEqual(alone);
    expect(rest).toEqual({
      ...restAlone,
      dynamic: true,
      mount: { ...restAlone.mount, fsname: "fuse-backend-vfs" },
    });
    expect(vfs("--mount", "/=passthrough:/src", "-o", "fsname=x").mount.fsname).toBe("x");
  });

  test("serves several directories, in the order in which they are given", () => {
    const options = vfs(
      "--mount=/a=passthrough:one/../two,cache=always",
      "--background",
      "--mount",
      "/=passthrough:/src",
      "--mount=/a/b=passthrough:/src",
    );
    expect(options.vfs.mounts.map(({ path }) => path)).toEqual(["/a", "/", "/a/b"]);
    expect(options.vfs.mounts.map(({ passthrough: own }) => own?.source)).toEqual([
      `${process.cwd()}/one/../two`,
      "/src",
      "/src",
    ]);
    expect(options.vfs.mounts.map(({ passthrough: own }) => own?.cache)).toEqual([
      "always",
      "auto",
      "auto",
    ]);
    expect(options.background).toBe(true);
  });

  const sources: [string, string][] = [
    ["/a:b=c", "/a:b=c"],
    [String.raw`/a\,b,mntid`, "/a,b"],
    [String.raw`/a\\,mntid`, "/a\\"],
    [String.raw`/a\b\\\,c`, String.raw`/a\b\,c`],
    ["/a b\n", "/a b\n"],
  ];
  test.each(sources)("takes %j for a source", (text, source) => {
    expect(mounted(`/x=passthrough:${text}`).passthrough.source).toBe(source);
  });

  const options: [string, Partial<PassthroughConfig>][] = [
    ["cache=never", { cache: "never", attrTimeout: 0 }],
    ["attr_timeout=0.25,entry-timeout=7", { attrTimeout: 0.25, entryTimeout: 7 }],
    ["dir-attr-timeout=1,dir_entry_timeout=2", { dirAttrTimeout: 1, dirEntryTimeout: 2 }],
    ["no-readdir", { noReaddir: true }],
    ["readdir", { noReaddir: false }],
    ["inode-file-handles=always", { inodeFileHandles: "always" }],
    ["seal-size", { sealSize: true, kernelPassthrough: false }],
    ["mntid,use-host-ino", { mntid: true, useHostIno: true }],
    ["no-allow-direct-io", { allowDirectIo: false }],
    ["dax-file-size=1", { daxFileSize: 1 }],
  ];
  test.each(options)("understands %s of a mount", (list, expected) => {
    expect(mounted(`/a=passthrough:/src,${list}`).passthrough).toMatchObject(expected);
  });

  test.each(IDS)("understands %j of a mount, and of all", (list, ids) => {
    expect(mounted(`/a=passthrough:/src,${list}`).ids).toMatchObject(ids);
    const args = list.split(",").map((option) => `--${option}`);
    const config = vfs("--mount=/a=passthrough:/src", ...args).vfs;
    expect(config).toMatchObject({ mounts: [{ ids: undefined }], ids });
  });

  test("applies to all mounts what is agreed with the kernel once", () => {
    const { mounts } = vfs(
      "--mount=/a=passthrough:/src,cache=always",
      "--mount=/b=passthrough:/src,cache=always,attr-timeout=1",
      "--no-xattr",
      "-o",
      "no_open,no_opendir,no_killpriv_v2,no_locks",
    ).vfs;
    for (const mount of mounts)
      expect(mount.passthrough).toMatchObject({
        xattr: false,
        noOpen: true,
        noOpendir: true,
        killprivV2: false,
        locks: false,
        kernelPassthrough: false,
      });
  });

  const wrong: [string, RegExp][] = [
    ["/a", /^--mount must be PATH=passthrough:SRC.*, not "\/a"$/],
    ["/a=/b", /^--mount must be/],
    ["/a=/b,cache=a:b", /^--mount must be/],
    ["a=passthrough:/b", /^--mount a: "a" cannot be .* does not begin with a slash; write "\/a"$/],
    ["/a/=passthrough:/b", /^--mount \/a\/: .* ends with a slash; write "\/a"$/],
    ["/..=passthrough:/b", /^--mount \/..: .* the name ".."/],
    [
      "/a=btrfs:/b",
      /^--mount \/a: unknown backend "btrfs"; there are "passthrough" and "overlay"$/,
    ],
    ["/a=passthrough:", /^--mount \/a: SRC must not be empty/],
    ["/a=passthrough:,mntid", /^--mount \/a: SRC must not be empty/],
    ["/a=passthrough:/\u{fffd}", /^--mount \/a: SRC .* is not valid UTF-8/],
    ["/a=passthrough:/b,", /^--mount \/a: unknown option ""/],
    ["/a=passthrough:/b,c", /^--mount \/a: unknown option "c"; a comma that belongs to SRC/],
    ["/a=passthrough:/b,cache", /^--mount \/a: cache needs a value: cache=POLICY$/],
    ["/a=passthrough:/b,cache=x", /^--mount \/a: cache must be one of never.*, not "x"$/],
    ["/a=passthrough:/b,mntid=1", /^--mount \/a: mntid takes no value, not "1"$/],
    ["/a=passthrough:/b,mntid,no-mntid", /^--mount \/a: no-mntid is given twice$/],
    ["/a=passthrough:/b,attr-timeout=1,attr_timeout=1", /: attr_timeout is given twice$/],
    ["/a=passthrough:/b,attr-timeout=4294967296", /^--mount \/a: a timeout must be/],
    ["/a=passthrough:/b,uid-map=0", /^--mount \/a: uid-map: "0" is not a range of ids/],
    ["/a=passthrough:/b,uid-map=0:0:1,squash-uid=0", /^--mount \/a: uid-map: .* leave one of them/],
    [
      "/a=passthrough:/b,writeback",
      /^--mount \/a: writeback .* all mounts: give it as --writeback$/,
    ],
    ["/a=passthrough:/b,no_open", /: no_open is the same for all mounts: give it as --no-open$/],
    ["/a=passthrough:/b,workers=1", /: workers is the same for all mounts: give it as --workers$/],
    ["/a=passthrough:/b,allow_other", /: allow_other .* give it as -o allow-other$/],
    ["/a=passthrough:/b,config=c", /^--mount \/a: unknown option "config=c"/],
  ];
  test.each(wrong)("refuses --mount %s", (text, message) => {
    expect(refusal(() => mounted(text))).toMatch(message);
  });

  const wrongTogether: [string[], RegExp][] = [
    [["--mount=/a=passthrough:/b"], /^--mount \/a is given twice$/],
    [["--no-open"], /^--mount \/a: no-open needs cache=always/],
    [["--cache=auto"], /^--cache is for one mount: give it as --mount PATH=passthrough:SRC,cache…/],
    [["-o", "no_readdir"], /^-o no_readdir is for one mount: .*SRC,no_readdir… or in the file/],
    [["-o", "remount"], /mount\(8\)/],
    [["--no-mount"], /unknown option --no-mount/],
  ];
  test.each([...wrongTogether, ...WRONG_IDS])("refuses %j besides a mount", (args, message) => {
    expect(refusal(() => vfs("--mount=/a=passthrough:/src", ...args))).toMatch(message);
  });

  test("refuses ids of a mount that are none of those of all", () => {
    const one = "/a=passthrough:/src,uid-map=0:500:10";
    expect(refusal(() => mounted(one, "--uid-map=0:100:10"))).toMatch(
      /^--mount \/a: its ids do not go with those of all mounts: /,
    );
  });

  test("serves at most 255 directories", () => {
    const args = (count: number): string[] =>
      Array.from({ length: count }, (_, index) => `--mount=/${index}=passthrough:/src`);
    expect(vfs(...args(255)).vfs.mounts).toHaveLength(255);
    expect(refusal(() => vfs(...args(256)))).toBe("--mount is given 256 times; 255 are the most");
  });

  test("reads a file, and reads it again", () => {
    const text = (path: string): string =>
      `{"mounts": [{"path": "${path}", "backend": "passthrough", "source": "src"}]}`;
    writeFileSync(file, text("/a"));
    const args = ["--config", file, "--no-xattr", "--squash-uid=7"];
    const { vfs: config, reload, dynamic } = vfs(...args);
    expect(config.mounts).toMatchObject([
      { path: "/a", passthrough: { source: `${directory}/src`, xattr: false } },
    ]);
    expect(config.ids).toEqual({ uids: [], gids: [], squashUid: 7 });
    expect(dynamic).toBe(true);
    expect(reload?.()).toEqual(config);
    writeFileSync(file, text("/b"));
    expect(reload?.()).toEqual(vfs(...args).vfs);
    expect(reload?.().mounts).toMatchObject([{ path: "/b", passthrough: { xattr: false } }]);
    writeFileSync(file, text("c"));
    expect(refusal(() => reload?.())).toStartWith(`${file}:1: "c" cannot be the path of a mount`);
  });

  test("says of an option in the file that it belongs to the command line", () => {
    for (const [member, spelled] of [
      ['"no-open": true', "--no-open"],
      ['"pid-file": "/x"', "--pid-file"],
      ['"background": true', "--background"],
      ['"options": "ro"', "--options"],
      ['"max-read": 1', "-o max-read"],
    ]) {
      writeFileSync(file, `{"mounts": [],\n${member}}`);
      expect(refusal(() => vfs("--config", file))).toBe(
        `${file}:2: ${member?.split(":")[0]} is the same for all mounts: leave it out, ` +
          `and give ${spelled} on the command line`,
      );
    }
    for (const name of ["help", "version", "config", "mount"]) {
      writeFileSync(file, `{"mounts": [],\n"${name}": true}`);
      expect(refusal(() => vfs("--config", file))).toBe(
        `${file}:2: "${name}" is not an option of the file`,
      );
    }
  });

  test("refuses a file that is not there", () => {
    expect(refusal(() => vfs("--config", "/nonexistent/x.json"))).toMatch(
      /^cannot read the configuration \/nonexistent\/x.json: ENOENT/,
    );
  });

  test("a wrong command line or file has the exit code 2", async () => {
    const run = (...args: string[]): Promise<number> =>
      main("fuse-backend", args, () => Promise.reject(new Error("not to be run")));
    writeFileSync(file, "{}");
    expect(await run("vfs", "--config", file, "/mnt")).toBe(2);
    expect(await run("vfs", "--config", "/nonexistent/x.json", "/mnt")).toBe(2);
    expect(await run("vfs", "/mnt")).toBe(2);
    expect(await run("passthrough", "--uid-map=0", "/src", "/mnt")).toBe(2);
  });
});

describe("called by mount(8)", () => {
  test.each([
    ["/sbin/mount.fuse.fuse-backend", "fuse-backend"],
    ["mount.fuse.other", "other"],
    ["./mount.fuse3.a.b", "a.b"],
    ["mount.fuse", "fuse-backend"],
  ])("%s serves in the background as fuse.%s", (name, subtype) => {
    const options = helper(name, "-o", "rw");
    expect(options.background).toBe(true);
    expect(options.logLevel).toBe("warn");
    expect(options.mount.subtype).toBe(subtype);
  });

  test("names like it are another program's", () => {
    for (const name of ["mount.fusex", "umount.fuse.a", "fuse-backend", "/mount.fuse.a/b"])
      expect(refusal(() => readCommandLine(name, ["/src", "/mnt"]))).toMatch(/unknown command/);
  });

  test("shows the source as it was given", () => {
    const options = served(readCommandLine("mount.fuse.x", ["some name", "/mnt"]));
    expect(options.mount.fsname).toBe("some name");
    expect(configOf(options).source).toBe(`${process.cwd()}/some name`);
    expect(helper("mount.fuse.x", "-o", "fsname=other").mount.fsname).toBe("other");
  });

  test("takes the type from -t, and the options of the daemon from -o", () => {
    const options = helper(
      "mount.fuse.x",
      "-t",
      "fuse.y",
      "-n",
      "-v",
      "-o",
      "cache=always,workers=3",
    );
    expect(options).toMatchObject({ workers: 3, logLevel: "info" });
    expect(options.mount.subtype).toBe("y");
    expect(configOf(options).cache).toBe("always");
  });

  test.if(isRoot)("lets root use devices and set-user-id programs unless told otherwise", () => {
    expect(helper("mount.fuse.x").mount).toMatchObject({ suid: true, dev: true });
    const list = "rw,noexec,nosuid,nodev,user";
    const expected = { suid: false, dev: false, exec: false };
    expect(helper("mount.fuse.x", "-o", list).mount).toMatchObject(expected);
  });

  test.each(IDS)("understands %j", (list, ids) => {
    expect(helper("mount.fuse.x", "-o", list).vfs).toMatchObject({ mounts: [{ ids }] });
  });

  test("-f does nothing, -s leaves out what is unknown", () => {
    expect(readCommandLine("mount.fuse.x", ["-f", "/src", "/mnt"])).toEqual({ kind: "nothing" });
    expect(helper("mount.fuse.x", "-s", "-o", "nonsense,ro").mount.readOnly).toBe(true);
    expect(refusal(() => helper("mount.fuse.x", "-o", "nonsense,ro"))).toMatch(/nonsense/);
  });

  test("refuses what mount(8) would not give", () => {
    expect(refusal(() => helper("mount.fuse.x", "--background"))).toMatch(/unknown option/);
    expect(refusal(() => helper("mount.fuse.x", "surplus"))).toMatch(/more than SRC and MNT/);
    expect(refusal(() => readCommandLine("mount.fuse.x", ["/src"]))).toMatch(/MNT is missing/);
  });
});
