// What can be tested of the scripts without running what they run: arguments, statistics, and the
// parsers of what other programs print.

import { describe, expect, test } from "bun:test";
import {
  parseBenchArguments,
  UsageError as BenchUsageError,
  warmUpTurns,
} from "../scripts/bench.ts";
import { parseFio, SCENARIOS } from "../scripts/bench-figures.ts";
import {
  columns,
  formatRatio,
  markdown,
  median,
  ratios,
  record,
  shortNumber,
  spread,
  table,
  type Results,
} from "../scripts/bench-statistics.ts";
import { fillCommand, parseCpu, parseRollup, shellQuote } from "../scripts/bench-target.ts";
import { parseConformanceArguments } from "../scripts/conformance.ts";
import {
  compare,
  isComplete,
  parseBaseline,
  parseCheck,
  parseExclusions,
  parseProve,
  parseUnionmount,
  UsageError as ConformanceUsageError,
} from "../scripts/conformance-results.ts";

describe("the arguments of bench.ts", () => {
  test.each([
    ["an unknown option", ["--fast"]],
    ["a surplus argument", ["metadata"]],
    ["a missing value", ["--rounds"]],
    ["a word for a number", ["--rounds", "many"]],
    ["no rounds", ["--rounds", "0"]],
    ["half a round", ["--rounds", "1.5"]],
    ["a negative time-out", ["--timeout", "-1"]],
    ["an empty time-out", ["--timeout", ""]],
    ["an unknown figure", ["--only", "create,speed"]],
    ["an empty figure", ["--only", "create,"]],
    ["the beginning of a figure's name", ["--only", "crea"]],
    ["a peer without a name", ["--peer", "true {src} {mnt}"]],
    ["a peer without its mount point", ["--peer", "x=true {src}"]],
    ["ours without its source", ["--ours", "true {mnt}"]],
    ["two targets of one name", ["--peer", "x=a {src} {mnt}", "--peer", "x=b {src} {mnt}"]],
    ["a peer called bare", ["--peer", "bare=a {src} {mnt}"]],
    ["a time-out of overlays", ["--overlay", "--timeout", "1"]],
    ["a source of overlays", ["--overlay", "--peer", "x=a {src} {mnt}"]],
    ["a peer called kernel", ["--overlay", "--peer", "kernel=a {options} {mnt}"]],
    ["a figure of overlays among the others", ["--only", "copy-up"]],
    ["overlays beside the VFS's cost", ["--vfs", "--overlay"]],
    ["figures beside the VFS's cost", ["--vfs", "--only", "create"]],
  ])("%s is refused", (_, argv) => {
    expect(() => parseBenchArguments(argv)).toThrow(BenchUsageError);
  });

  test("names of figures, their beginnings up to a hyphen, and groups choose figures", () => {
    const chosen = (only: string): string[] => {
      const options = parseBenchArguments(["--only", only]);
      return typeof options === "string" ? [] : [...options.figures];
    };
    expect(chosen("stat-4")).toEqual(["stat-4"]);
    expect(chosen("create")).toEqual(["create-1", "create-4"]);
    expect(chosen("fio-read-1")).toEqual(["fio-read-1-cold", "fio-read-1-warm"]);
    expect(chosen("tree")).toContain("untar");
    expect(chosen("rm,start")).toEqual(["rm", "start"]);
  });

  test("what the VFS costs takes more rounds, unless told otherwise", () => {
    expect(parseBenchArguments([])).toMatchObject({ vfs: false, rounds: 5 });
    expect(parseBenchArguments(["--vfs"])).toMatchObject({ vfs: true, rounds: 21 });
    expect(parseBenchArguments(["--vfs", "--dir", "/x", "--rounds", "3"])).toMatchObject({
      vfs: true,
      rounds: 3,
    });
  });

  test("overlays have figures of their own, and layers for a source", () => {
    const options = parseBenchArguments(["--overlay", "--only", "copy-up-small,lookup-100"]);
    if (typeof options === "string") throw new Error(options);
    expect([...options.figures]).toEqual(["copy-up-small", "copy-up-small-volatile", "lookup-100"]);
    expect(options.ours[0]?.command).toContain("overlay -o {options} {mnt}");
    expect(parseBenchArguments(["--overlay", "--list"])).toBe("list-overlay");
  });

  test("a command without a name replaces ours, one with a name stands beside it", () => {
    const names = (argv: string[]): string[] => {
      const options = parseBenchArguments(argv);
      return typeof options === "string" ? [] : options.ours.map(({ name }) => name);
    };
    expect(names([])).toEqual(["ours"]);
    expect(names(["--ours", "A=1 prog {src} {mnt}"])).toEqual(["ours", "A"]);
    expect(names(["--ours", "/bin/prog --x=1 {src} {mnt}"])).toEqual(["ours"]);
  });
});

describe("the statistics of bench.ts", () => {
  const rate = (value: number): { value: number; unit: string } => ({ value, unit: "/s" });
  const duration = (value: number): { value: number; unit: string } => ({ value, unit: "s" });

  test("the median is the middle one, or between the middle two", () => {
    expect(median([9, 1, 5])).toBe(5);
    expect(median([10, 1, 2, 3])).toBe(2.5);
    expect(spread([])).toBeUndefined();
    expect(spread([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3, count: 3 });
  });

  test("ratios are formed within a round, not between medians", () => {
    const bare = [rate(100), rate(10), rate(1000)];
    const ours = [rate(50), rate(2), rate(900)];
    expect(ratios(ours, bare)).toEqual({ median: 0.5, min: 0.2, max: 0.9, count: 3 });
  });

  test("of durations, the shorter one is the faster one", () => {
    expect(ratios([duration(4)], [duration(1)])?.median).toBe(0.25);
  });

  test("rounds in which one failed are left out, and the rest stays aligned", () => {
    const bare = [rate(10), rate(20), rate(40)];
    const ours = [rate(5), { error: "fails" }, rate(10)];
    expect(ratios(ours, bare)).toEqual({ median: 0.375, min: 0.25, max: 0.5, count: 2 });
    expect(ratios([{ error: "fails" }], bare)).toBeUndefined();
  });

  test("numbers are short", () => {
    expect([0.12345, 12.345, 9876.5, 10_432, 2_345_678].map(shortNumber)).toEqual([
      "0.123",
      "12.3",
      "9880",
      "10.4k",
      "2.35M",
    ]);
    expect(formatRatio(spread([0.5, 0.25, 1]))).toBe("0.50 (0.25–1.00)");
    expect(formatRatio(spread([0.5]))).toBe("0.50");
  });

  const specs = [
    { name: "bare", role: "bare" },
    { name: "ours", role: "ours" },
    { name: "slow", role: "peer" },
    { name: "fast", role: "peer" },
  ] as const;

  test("a table compares with the bare directory and with the best peer of each figure", () => {
    const results: Results = new Map();
    for (const [target, value] of Object.entries({ bare: 1000, ours: 500, slow: 100, fast: 250 }))
      record(results, "create", target, rate(value));
    record(results, "untar", "bare", duration(1));
    record(results, "untar", "ours", duration(4));
    record(results, "untar", "slow", { error: "too many open files" });
    record(results, "untar", "fast", duration(2));
    record(results, "memory", "ours", { value: 30, unit: "MiB" });
    record(results, "memory", "fast", { value: 3, unit: "MiB" });
    const rows = table({ results, targets: specs, cpu: false });
    expect(rows).toEqual([
      ["figure", "bare", "ours to bare", "slow to bare", "fast to bare", "ours to best peer"],
      ["create", "1000 /s", "0.50", "0.10", "0.25", "2.00 fast"],
      ["untar", "1 s", "0.25", "fails", "0.50", "0.50 fast"],
      ["memory", "", "30 MiB", "", "3 MiB", ""],
    ]);
    expect(markdown(rows).split("\n").slice(0, 3)).toEqual([
      "| figure | bare | ours to bare | slow to bare | fast to bare | ours to best peer |",
      "|---|--:|--:|--:|--:|--:|",
      "| create | 1000 /s | 0.50 | 0.10 | 0.25 | 2.00 fast |",
    ]);
    expect(
      columns([
        ["a", "bb"],
        ["ccc", "d"],
      ]),
    ).toBe("a    bb\nccc  d");
  });

  test("processor time stands beside the ratio, averaged over the rounds", () => {
    const results: Results = new Map();
    for (const system of [10, 20]) {
      record(results, "stat", "bare", rate(100));
      record(results, "stat", "ours", { ...rate(50), cpu: { user: 1, system } });
    }
    const [, row] = table({ results, targets: specs.slice(0, 2), cpu: true });
    expect(row?.[2]).toBe("0.50 (0.50–0.50) 1.0+15.0 µs");
  });
});

describe("before bench.ts measures", () => {
  const groups = (...names: string[]) =>
    warmUpTurns(SCENARIOS.filter(({ group }) => names.includes(group))).map((turn) =>
      turn.map(({ group }) => group),
    );

  test("metadata alone is a warm-up for metadata", () => {
    expect(groups("metadata", "daemon")).toEqual(Array(4).fill(["metadata", "metadata"]));
  });
  test("daemons that are to do trees alone are warm too, and have done trees", () => {
    const [first, ...later] = groups("tree");
    expect(first).toEqual(["metadata", "metadata", "tree"]);
    expect(later).toEqual(Array(3).fill(["metadata", "metadata"]));
  });
  test("nothing is done where it makes no difference", () => {
    expect(groups("fio", "daemon")).toEqual([]);
  });
});

describe("what bench.ts reads", () => {
  test("fio's report is summed over its jobs, behind whatever fio says first", () => {
    const job = {
      error: 0,
      read: { bw_bytes: 10, total_ios: 3 },
      write: { bw_bytes: 1, total_ios: 2 },
    };
    const text = `fio: a note\n${JSON.stringify({ jobs: [job, job] })}`;
    expect(parseFio(text)).toEqual({ bandwidth: 22, operations: 10 });
    const failed = JSON.stringify({ jobs: [{ ...job, error: 24 }] });
    expect(() => parseFio(failed)).toThrow("error 24");
    expect(() => parseFio("{}")).toThrow("no job");
  });

  test("processor time is found behind a name with spaces and parentheses", () => {
    const before = "17 (a) b (c) S 1 2 3 4 5 6 7 8 9 10";
    expect(parseCpu(`${before} 250 1300 0 0 20`)).toEqual({ user: 2.5, system: 13 });
  });

  test("memory is read in MiB", () => {
    const text =
      "00400000-7ffd r--p 0 0:0 0 [rollup]\nRss:      2048 kB\nPss:  512 kB\nPss_Dirty: 1 kB\n";
    expect(parseRollup(text)).toEqual({ rss: 2, pss: 0.5 });
  });

  test("paths are put into a command as one word each", () => {
    const command = fillCommand("run -t {timeout} {src} {mnt}", {
      src: "/a b",
      mnt: "/it's",
      timeout: 5,
    });
    const words = Bun.spawnSync(["sh", "-c", command.replace("run", "printf '%s\\n'")]);
    expect(words.stdout.toString()).toBe("-t\n5\n/a b\n/it's\n");
    expect(shellQuote("x")).toBe("'x'");
  });
});

describe("the arguments of conformance.ts", () => {
  test.each([
    ["no suite", []],
    ["an unknown suite", ["ltp", "/suite"]],
    ["no path", ["pjdfstest"]],
    ["a surplus argument", ["pjdfstest", "/suite", "chmod"]],
    ["an unknown option", ["pjdfstest", "/suite", "--quick"]],
    ["no time at all", ["pjdfstest", "/suite", "--timeout", "0"]],
    ["a word for a time", ["pjdfstest", "/suite", "--timeout", "soon"]],
    ["a test of the other suite", ["pjdfstest", "/suite", "--tests", "generic/001"]],
    ["a test outside of the suite", ["xfstests", "/suite", "--tests", "../../x"]],
    ["a group of pjdfstest", ["pjdfstest", "/suite", "--group", "quick"]],
    ["xfstests without a block device", ["xfstests", "/suite", "--bare"]],
    ["a group of unionmount", ["unionmount", "/suite", "--group", "quick"]],
    ["a number for a case of unionmount", ["unionmount", "/suite", "--tests", "rmdir/01.t"]],
  ])("%s is refused", (_, argv) => {
    expect(() => parseConformanceArguments(argv)).toThrow(ConformanceUsageError);
  });

  test("options and defaults", () => {
    const argv = [
      "xfstests",
      "/suite",
      "--tests",
      "generic/001,generic/002",
      "-o",
      "a",
      "-o",
      "b,c",
    ];
    expect(parseConformanceArguments(argv)).toMatchObject({
      suite: "xfstests",
      path: "/suite",
      tests: ["generic/001", "generic/002"],
      mountOptions: ["a", "b,c"],
      group: "generic/quick",
      timeoutSeconds: 600,
    });
  });

  test("unionmount is run on overlays, the others if they are told to", () => {
    const overlay = (...argv: string[]): unknown => {
      const options = parseConformanceArguments(argv);
      return options === "help" ? options : options.overlay;
    };
    expect(overlay("unionmount", "/suite")).toBe(true);
    expect(overlay("pjdfstest", "/suite")).toBe(false);
    expect(overlay("xfstests", "/suite", "--overlay")).toBe(true);
  });

  test("every exclusion has a reason", () => {
    const text = "# of this machine\n\ngeneric/394 needs CAP_SYS_RESOURCE\n";
    expect([...parseExclusions(text)]).toEqual([["generic/394", "needs CAP_SYS_RESOURCE"]]);
    expect(() => parseExclusions("generic/001\n")).toThrow("without a reason");
  });
});

test("the lines of unionmount are understood", () => {
  const text = `ov/rmdir ... ok
ov=1/rename-dir ... failed: /base/m/a: Unexpected error: Invalid cross-device link
verify/open-plain ... `;
  expect([...parseUnionmount(text)]).toEqual([
    ["ov/rmdir", { status: "pass", detail: "" }],
    [
      "ov=1/rename-dir",
      { status: "fail", detail: "/base/m/a: Unexpected error: Invalid cross-device link" },
    ],
  ]);
  expect(isComplete("unionmount", text)).toBe(false);
  expect(isComplete("unionmount", `${text}ok\nThat was unionmount.\n`)).toBe(true);
});

const PROVE = `/suite/tests/chmod/00.t ............ ok
/suite/tests/chmod/05.t ............ 
Failed 4/14 subtests 
/suite/tests/chown/00.t ............ skipped: only for some
/suite/tests/open/22.t ............. Dubious, test returned 137 (wstat 35072, 0x8900)
Failed 7/10 subtests 
/suite/tests/rename/00.t ........... ok    3512 ms

Test Summary Report
-------------------
/suite/tests/chmod/05.t          (Wstat: 0 Tests: 14 Failed: 4)
  Failed tests:  5-6, 10-11
Files=5, Tests=40, 213 wallclock secs ( 2.19 usr  0.60 sys = 2.79 CPU)
Result: FAIL
`;

const CHECK = `FSTYP         -- fuse
PLATFORM      -- Linux/x86_64 host 6.18.0

generic/001  4s ...  3s
generic/002         1s
generic/003        - output mismatch (see /results/generic/003.out.bad)
    --- tests/generic/003.out
    +++ /results/generic/003.out.bad
    @@ -1,2 +1,5 @@
generic/026        [not run] fuse does not define maximum ACL count
generic/398        [failed, exit status 1]- output mismatch (see /results/generic/398.out.bad)
generic/421        [expunged]
generic/475  9s ... 12s
Ran: generic/001 generic/002 generic/003 generic/026 generic/398 generic/475
Not run: generic/026
Failures: generic/003 generic/398 generic/475
Failed 3 of 6 tests
`;

describe("what the suites print", () => {
  test("prove's lines become results, with the reason from the line below", () => {
    expect(Object.fromEntries(parseProve(PROVE))).toEqual({
      "chmod/00.t": { status: "pass", detail: "" },
      "chmod/05.t": { status: "fail", detail: "Failed 4/14 subtests" },
      "chown/00.t": { status: "notrun", detail: "only for some" },
      "open/22.t": {
        status: "fail",
        detail: "Dubious, test returned 137 (wstat 35072, 0x8900); Failed 7/10 subtests",
      },
      "rename/00.t": { status: "pass", detail: "" },
    });
    expect(isComplete("pjdfstest", PROVE)).toBe(true);
    expect(isComplete("pjdfstest", PROVE.replace("Result: FAIL", ""))).toBe(false);
  });

  test("check's lines become results, and its list of failures is believed over the line", () => {
    const mismatch = "output mismatch (see /results/generic/";
    expect(Object.fromEntries(parseCheck(CHECK))).toEqual({
      "generic/001": { status: "pass", detail: "" },
      "generic/002": { status: "pass", detail: "" },
      "generic/003": { status: "fail", detail: `- ${mismatch}003.out.bad)` },
      "generic/026": { status: "notrun", detail: "fuse does not define maximum ACL count" },
      "generic/398": {
        status: "fail",
        detail: `[failed, exit status 1]- ${mismatch}398.out.bad)`,
      },
      "generic/421": { status: "excluded", detail: "" },
      "generic/475": { status: "fail", detail: "listed as a failure" },
    });
    expect(isComplete("xfstests", CHECK)).toBe(true);
    expect(isComplete("xfstests", CHECK.slice(0, 300))).toBe(false);
  });

  test("a test that was cut off while it ran has not passed", () => {
    expect(parseCheck("generic/013  5s ... ").get("generic/013")?.status).toBe("fail");
    expect(parseProve("tests/open/00.t ... ").get("open/00.t")?.status).toBe("fail");
  });

  test("only failures that the baseline does not have are new", () => {
    const baseline = parseBaseline("xfstests", CHECK);
    const results = parseCheck(CHECK.replace("generic/001  4s ...  3s", "generic/001 [failed]"));
    results.set("generic/002", { status: "notrun", detail: "no such feature" });
    expect(compare(results, baseline)).toEqual({
      newFailures: ["generic/001"],
      knownFailures: ["generic/003", "generic/398", "generic/475"],
      newlyNotRun: ["generic/002"],
    });
    expect(compare(results, undefined).newFailures).toHaveLength(4);
  });

  test("a baseline may be a JSON file of the same suite", () => {
    const results = { "chmod/05.t": { status: "fail", detail: "" } };
    const text = JSON.stringify({ suite: "pjdfstest", results });
    expect(parseBaseline("pjdfstest", text).get("chmod/05.t")?.status).toBe("fail");
    expect(() => parseBaseline("xfstests", text)).toThrow(ConformanceUsageError);
  });
});
