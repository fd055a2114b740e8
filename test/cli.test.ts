// The command line: what is understood, what is refused and how. Nothing is mounted here.

import { describe, expect, test } from "bun:test";
import { MS_DIRSYNC, MS_NODIRATIME, MS_SYNCHRONOUS } from "../src/abi-linux.ts";
import { renderHelp } from "../src/cli-help.ts";
import { PASSTHROUGH_OPTIONS } from "../src/cli-options.ts";
import { UsageError } from "../src/cli-parse.ts";
import { defaultWorkers } from "../src/cli-daemon.ts";
import { readCommandLine } from "../src/cli.ts";
import type { DaemonOptions, MountOptions } from "../src/daemon.ts";
import { ConfigError, type PassthroughConfig } from "../src/passthrough-config.ts";
import { geteuid } from "../src/syscall.ts";

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

function helper(name: string, ...args: string[]): DaemonOptions {
  return served(readCommandLine(name, ["/src", "/mnt", ...args]));
}

/** The configuration of the only directory that is served. */
function configOf({ vfs }: DaemonOptions): PassthroughConfig {
  expect(vfs.mounts).toHaveLength(1);
  return vfs.mounts[0]!.passthrough;
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

describe("passthrough", () => {
  test("has the documented defaults", () => {
    const { vfs, ...rest } = passthrough();
    expect({ passthrough: configOf(passthrough()), ...rest }).toEqual({
      passthrough: {
        source: "/src",
        cache: "auto",
        attrTimeout: 5,
        entryTimeout: 5,
        dirAttrTimeout: 5,
        dirEntryTimeout: 5,
        writeback: false,
        xattr: true,
        noOpen: false,
        noOpendir: false,
        noReaddir: false,
        killprivV2: true,
        inodeFileHandles: "auto",
        sealSize: false,
        mntid: false,
        useHostIno: false,
        allowDirectIo: true,
        daxFileSize: null,
        kernelPassthrough: true,
        locks: true,
      },
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
    ["request-timeout=30", { requestTimeout: 30 }],
    ["pid-file=/run/pid", { pidFile: "/run/pid" }],
    ["log-level=debug", { logLevel: "debug" }],
    ["log-format=json", { logFormat: "json" }],
    ["debug", { debug: true }],
  ];
  test.each(daemon)("understands %s as an option and within -o", (option, expected) => {
    for (const args of [[`--${option}`], ["-o", option.replace("-", "_")]])
      expect(passthrough(...args)).toMatchObject(expected);
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
  test.each(wrong)("refuses %j", (args, message) => {
    expect(refusal(() => passthrough(...args))).toMatch(message);
  });

  const incomplete: [string[], RegExp][] = [
    [["passthrough"], /SRC and MNT are missing/],
    [["passthrough", "/src"], /MNT is missing/],
    [["passthrough", "/src", ""], /must not be empty/],
    [["passthrough", "/src", "/m\u{fffd}"], /not valid UTF-8/],
    [["passthrough", "/src", "/mnt", "--cache"], /--cache needs a value/],
    [["passthrough", "/src", "/mnt", "-o"], /-o needs a value/],
    [[], /a command is missing/],
    [["overlaid"], /unknown command "overlaid"/],
    [["--cache=auto", "passthrough"], /unknown option --cache/],
    [["--help", "overlaid"], /unknown command/],
  ];
  test.each(incomplete)("refuses the command line %j", (args, message) => {
    expect(refusal(() => read(...args))).toMatch(message);
  });
});

describe("vfs", () => {
  const vfs = (...args: string[]): DaemonOptions => served(read("vfs", ...args, "/mnt"));

  test("has the mounts that --mount says, each with options of its own", () => {
    const options = vfs(
      "--mount=/a=passthrough:one,cache=always,uid-map=0:100:1,no_readdir",
      "--mount=/x/b=passthrough:/two\\,three",
      "--writeback",
      "--no-kernel-passthrough",
      "--gid-map=5:6:7",
      "-ogid_map=50:60:7,allow_other",
    );
    const [one, two] = options.vfs.mounts;
    expect([one?.path, two?.path]).toEqual(["/a", "/x/b"]);
    expect(one?.passthrough).toMatchObject({
      source: `${process.cwd()}/one`,
      cache: "always",
      noReaddir: true,
      writeback: true,
    });
    expect(one?.ids?.uids).toEqual([{ internal: 0, external: 100, length: 1 }]);
    expect(two?.passthrough).toMatchObject({ source: "/two,three", cache: "auto" });
    expect(options.vfs.ids?.gids).toEqual([
      { internal: 5, external: 6, length: 7 },
      { internal: 50, external: 60, length: 7 },
    ]);
    expect(options).toMatchObject({ dynamic: true, reload: undefined });
    expect(options.mount).toMatchObject({ fsname: "fuse-backend-vfs", allowOther: true });
  });

  test.each([
    [["/mnt"], /what to serve is missing/],
    [["--mount", "/a=passthrough:/x"], /MNT is missing/],
    [["--mount", "/a=passthrough:/x", "/mnt", "/more"], /more than MNT, namely "\/more"/],
    [["--mount", "/a", "/mnt"], /must be PATH=passthrough:DIR/],
    [["--mount", "/a=overlay:/x", "/mnt"], /must be PATH=passthrough:DIR/],
    [["--mount", "a=passthrough:/x", "/mnt"], /does not begin with a slash/],
    [["--mount", "/a=passthrough:", "/mnt"], /DIR must not be empty/],
    [["--mount", "/a=passthrough:/x,typo=1", "/mnt"], /unknown option typo=1/],
    [["--mount", "/a=passthrough:/x,cache=some", "/mnt"], /cache must be one of/],
    [["--mount", "/a=passthrough:/x,mntid,mntid", "/mnt"], /mntid is given twice/],
    [["--mount", "/a=passthrough:/x,writeback", "/mnt"], /same for all mounts: give --writeback/],
    [["--mount", "/a=passthrough:/x", "--mount", "/a=passthrough:/y", "/mnt"], /two are at \/a/],
    [["--mount", "/a=passthrough:/x", "--config", "/c", "/mnt"], /exclude each other/],
    [
      ["--config", "/does/not/exist", "/mnt"],
      /cannot read the configuration: .*\/does\/not\/exist/,
    ],
    [["--uid-map", "1:2", "--mount", "/a=passthrough:/x", "/mnt"], /--uid-map: /],
    [["--cache=always", "--mount", "/a=passthrough:/x", "/mnt"], /unknown option --cache/],
  ])("refuses %j", (args, reason) => {
    expect(refusal(() => read("vfs", ...args))).toMatch(reason);
  });

  test("maps ids for passthrough as well", () => {
    const [only] = passthrough("--uid-map=0:100:5", "-o", "squash_gid=7").vfs.mounts;
    expect(only?.ids).toMatchObject({
      uids: [{ internal: 0, external: 100, length: 5 }],
      squashGid: 7,
    });
    expect(refusal(() => passthrough("--uid-map=0:0:5", "--uid-map=2:9:1"))).toMatch(/--uid-map: /);
  });

  test("has a help of its own", async () => {
    const help = await renderHelp("vfs", "1.2.3");
    expect(help).toContain("--mount=<PATH=passthrough:DIR[,OPTION...]>");
    expect(help).not.toContain("--cache");
    expect(help).toContain("SIGHUP");
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
  ];
  test.each(helps)("%j asks for help", (args, command) => {
    expect(read(...args)).toEqual({ kind: "help", command });
  });

  test("the help names every option with its default, in 100 columns", async () => {
    const help = await renderHelp("passthrough", "1.2.3");
    const flowing = help.replaceAll(/\s+/g, " ");
    for (const { name, on, help: description } of PASSTHROUGH_OPTIONS) {
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
  });

  test("the help of the program names every command", async () => {
    expect(await renderHelp(undefined, "1.2.3")).toMatch(/^ *passthrough {4}Serve/m);
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
