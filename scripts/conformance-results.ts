// What scripts/conformance.ts makes of a suite's output: results by test, from what prove and the
// check of xfstests print, and how they compare with those of a baseline.

/** The arguments make no sense. */
export class UsageError extends Error {
  override name = "UsageError";
}

export type Suite = "pjdfstest" | "unionmount" | "xfstests";
export type Status = "pass" | "fail" | "notrun" | "excluded";

export interface TestResult {
  readonly status: Status;
  /** Why it did not pass, as the suite says. */
  readonly detail: string;
}
export type SuiteResults = Map<string, TestResult>;

/**
 * Lines of a test's name and the reason; `#` begins a comment. A test without a reason is refused.
 */
export function parseExclusions(text: string): Map<string, string> {
  const reasons = new Map<string, string>();
  for (const line of text.split("\n")) {
    const content = line.replace(/^\s*#.*$/, "").trim();
    if (content === "") continue;
    const [name = "", ...reason] = content.split(/\s+/);
    if (reason.length === 0) throw new UsageError(`${name} is excluded without a reason`);
    reasons.set(name, reason.join(" "));
  }
  return reasons;
}

/**
 * The output of prove: `…/tests/chmod/05.t .. ok`, and for a failure the reason a line further
 * down.
 */
export function parseProve(text: string): SuiteResults {
  const results: SuiteResults = new Map();
  let open: string | undefined;
  for (const line of text.split("\n")) {
    if (/^Test Summary Report|^Files=\d+|^All tests successful/.test(line)) break;
    const start = /^(?:.*\/)?([\w-]+\/\d+\.t) \.+ ?(.*)$/.exec(line);
    const [, name, rest = ""] = start ?? [];
    if (name === undefined) {
      const failure = /^\s*(Failed \d+\/\d+ subtests|Dubious, .*|Parse errors: .*)/.exec(line)?.[1];
      const earlier = open === undefined ? undefined : results.get(open);
      if (open !== undefined && earlier?.status === "fail" && failure !== undefined)
        results.set(open, {
          status: "fail",
          detail: [earlier.detail, failure.trim()].filter((part) => part !== "").join("; "),
        });
      continue;
    }
    open = name;
    results.set(name, proveResult(rest.trim()));
  }
  return results;
}

function proveResult(rest: string): TestResult {
  if (/^ok\b/.test(rest)) return { status: "pass", detail: "" };
  const skipped = /^skipped(?:: (.*))?$/.exec(rest);
  if (skipped !== null) return { status: "notrun", detail: skipped[1] ?? "" };
  return { status: "fail", detail: rest };
}

/**
 * The output of xfstests' check: `generic/001  4s ...  3s`, and at the end the list of failures.
 */
export function parseCheck(text: string): SuiteResults {
  const results: SuiteResults = new Map();
  for (const line of text.split("\n")) {
    const [, name, rest = ""] = /^([a-z\d]+\/\d+)(?:\s+(.*))?$/.exec(line) ?? [];
    if (name !== undefined) results.set(name, checkResult(rest));
    const failures = /^Failures: (.*)$/.exec(line)?.[1];
    for (const failed of failures?.trim().split(/\s+/) ?? [])
      if (results.get(failed)?.status !== "fail")
        results.set(failed, { status: "fail", detail: "listed as a failure" });
  }
  return results;
}

function checkResult(line: string): TestResult {
  const rest = line.replace(/^\d+s \.\.\.\s*/, "").trim();
  const notRun = /\[not run\]\s*(.*)$/.exec(rest);
  if (notRun !== null) return { status: "notrun", detail: notRun[1] ?? "" };
  if (rest.includes("[expunged]")) return { status: "excluded", detail: "" };
  if (/^\d+s$/.test(rest)) return { status: "pass", detail: "" };
  return { status: "fail", detail: rest };
}

/** A line each: `ov=1/rmdir ... ok`, or `failed:` and what the suite has written last. */
export function parseUnionmount(text: string): SuiteResults {
  const lines = text.matchAll(/^([\w=-]+\/[\w-]+) \.\.\. (ok|failed: ?(.*))$/gm);
  return new Map(
    [...lines].map(([, name = "", outcome, detail = ""]) => [
      name,
      { status: outcome === "ok" ? "pass" : "fail", detail },
    ]),
  );
}

const LAST_LINES: Record<Suite, RegExp> = {
  pjdfstest: /^Result: (PASS|FAIL|NOTESTS)$/m,
  unionmount: /^That was unionmount\.$/m,
  xfstests: /^(Passed all \d+ tests|Failed \d+ of \d+ tests)$/m,
};

/** Whether the suite came to its end, by what it prints last. */
export function isComplete(suite: Suite, text: string): boolean {
  return LAST_LINES[suite].test(text);
}

export const parsers = {
  pjdfstest: parseProve,
  unionmount: parseUnionmount,
  xfstests: parseCheck,
} as const;

export interface Report {
  readonly suite: Suite;
  readonly results: Record<string, TestResult>;
}

/** Results of this program, or the output of the suite. */
export function parseBaseline(suite: Suite, text: string): SuiteResults {
  if (!text.trimStart().startsWith("{")) return parsers[suite](text);
  const report = JSON.parse(text) as Report;
  if (report.suite !== suite) throw new UsageError(`the baseline is one of ${report.suite}`);
  return new Map(Object.entries(report.results));
}

export interface Comparison {
  /** Failures that the baseline does not have. */
  readonly newFailures: string[];
  readonly knownFailures: string[];
  /** Not run here, although they pass in the baseline. */
  readonly newlyNotRun: string[];
}

export function compare(results: SuiteResults, baseline: SuiteResults | undefined): Comparison {
  const names = (status: Status): string[] =>
    [...results].filter(([, result]) => result.status === status).map(([name]) => name);
  const inBaseline = (name: string, status: Status): boolean =>
    baseline?.get(name)?.status === status;
  const failures = names("fail");
  return {
    newFailures: failures.filter((name) => !inBaseline(name, "fail")),
    knownFailures: failures.filter((name) => inBaseline(name, "fail")),
    newlyNotRun: names("notrun").filter((name) => inBaseline(name, "pass")),
  };
}
