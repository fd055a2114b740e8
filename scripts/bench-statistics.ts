// What scripts/bench.ts makes of its measurements: ratios within a round, their medians over the
// rounds, and tables of them. Only figures of the same round are compared, so that what changes on
// the machine from minute to minute falls out.

/**
 * One measurement: a rate, a duration in "s", or a quantity in another unit. Failures are results
 * too.
 */
export interface Sample {
  readonly value: number;
  readonly unit: string;
  /**
   * The daemon's processor time: in seconds for a duration, else in microseconds for each
   * operation.
   */
  readonly cpu?: { readonly user: number; readonly system: number };
}
export interface Failure {
  readonly error: string;
}
export type Result = Sample | Failure;

/** Results by figure, by target, by round. */
export type Results = Map<string, Map<string, Result[]>>;

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly count: number;
}

export function record(results: Results, figure: string, target: string, result: Result): void {
  const byTarget = results.get(figure) ?? new Map<string, Result[]>();
  results.set(figure, byTarget);
  byTarget.set(target, [...(byTarget.get(target) ?? []), result]);
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2;
}

/** Undefined for no values at all. */
export function spread(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined;
  return {
    median: median(values),
    min: Math.min(...values),
    max: Math.max(...values),
    count: values.length,
  };
}

const isSample = (result: Result | undefined): result is Sample =>
  result !== undefined && "value" in result;

export function samples(results: readonly Result[] | undefined): Sample[] {
  return (results ?? []).filter(isSample);
}

/** More is better: a duration counts by its inverse. */
const speed = ({ value, unit }: Sample): number => (unit === "s" ? 1 / value : value);

/**
 * How fast `over` is as a share of `under`, round by round, without rounds in which one of them
 * failed.
 */
export function ratios(
  over: readonly Result[] | undefined,
  under: readonly Result[] | undefined,
): Spread | undefined {
  const values: number[] = [];
  (over ?? []).forEach((result, round) => {
    const other = under?.[round];
    if (isSample(result) && isSample(other) && other.value > 0)
      values.push(speed(result) / speed(other));
  });
  return spread(values);
}

/** Three significant digits, with k and M for thousands and millions. */
export function shortNumber(value: number): string {
  if (value >= 999_500) return `${trim(value / 1e6)}M`;
  if (value >= 9995) return `${trim(value / 1e3)}k`;
  return trim(value);
}

const trim = (value: number): string => String(Number(value.toPrecision(3)));

export function formatRatio(value: Spread | undefined): string {
  if (value === undefined) return "";
  if (value.count === 1) return value.median.toFixed(2);
  return `${value.median.toFixed(2)} (${value.min.toFixed(2)}–${value.max.toFixed(2)})`;
}

export function formatValue(list: readonly Sample[]): string {
  const value = spread(list.map((sample) => sample.value));
  return value === undefined ? "" : `${shortNumber(value.median)} ${list[0]?.unit ?? ""}`.trim();
}

export interface TableInput {
  readonly results: Results;
  /** In the order of the columns. */
  readonly targets: readonly { readonly name: string; readonly role: "bare" | "ours" | "peer" }[];
  readonly cpu: boolean;
}

const failed = (list: readonly Result[] | undefined): boolean =>
  list !== undefined && list.length > 0 && samples(list).length === 0;

/**
 * Heads and rows: a figure a row, a target a column, and what the first of ours is to the best
 * peer.
 */
export function table({ results, targets, cpu }: TableInput): string[][] {
  const bare = targets.find(({ role }) => role === "bare")?.name ?? "";
  const daemons = targets.filter(({ role }) => role !== "bare");
  const ours = daemons.find(({ role }) => role === "ours")?.name;
  const peers = daemons.filter(({ role }) => role === "peer").map(({ name }) => name);
  const compared = ours !== undefined && peers.length > 0;
  const head = ["figure", bare, ...daemons.map(({ name }) => `${name} to ${bare}`)];
  if (compared) head.push(`${ours} to ${peers.length === 1 ? peers[0] : "best peer"}`);
  const rows = [...results].map(([figure, byTarget]) => {
    const cells = daemons.map(({ name }) => cell(byTarget.get(name), byTarget.get(bare), cpu));
    const row = [figure, formatValue(samples(byTarget.get(bare))), ...cells];
    if (compared) row.push(bestPeer(byTarget, ours, peers));
    return row;
  });
  return [head, ...rows];
}

function cell(
  own: readonly Result[] | undefined,
  bare: readonly Result[] | undefined,
  cpu: boolean,
): string {
  if (failed(own)) return "fails";
  const text = bare === undefined ? formatValue(samples(own)) : formatRatio(ratios(own, bare));
  const used = samples(own).flatMap((sample) => sample.cpu ?? []);
  if (!cpu || used.length === 0) return text;
  // The kernel counts in ticks of 10 ms: over all rounds, the remainders even out.
  const mean = (values: number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const user = mean(used.map((each) => each.user));
  const system = mean(used.map((each) => each.system));
  return own?.some((result) => isSample(result) && result.unit === "s")
    ? `${text} ${user.toFixed(2)}+${system.toFixed(2)} s`
    : `${text} ${user.toFixed(1)}+${system.toFixed(1)} µs`;
}

/** Only for speeds: of a quantity such as memory, less is better, and the reader sees it. */
function bestPeer(byTarget: Map<string, Result[]>, ours: string, peers: readonly string[]): string {
  const isSpeed = (name: string): boolean =>
    samples(byTarget.get(name)).some(({ unit }) => unit.endsWith("/s") || unit === "s");
  const ranked = peers
    .filter((name) => isSpeed(name))
    .map((name) => ({ name, value: ratios(byTarget.get(ours), byTarget.get(name)) }))
    .sort((a, b) => (a.value?.median ?? Infinity) - (b.value?.median ?? Infinity));
  const best = ranked[0];
  return best?.value === undefined
    ? ""
    : peers.length === 1
      ? formatRatio(best.value)
      : `${formatRatio(best.value)} ${best.name}`;
}

export function markdown(rows: readonly string[][]): string {
  const [head = [], ...body] = rows;
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const rule = `|${head.map((_, index) => (index === 0 ? "---" : "--:")).join("|")}|`;
  return [line(head), rule, ...body.map(line)].join("\n");
}

/** Columns in line, for a terminal. */
export function columns(rows: readonly string[][]): string {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((text, index) => (widths[index] = Math.max(widths[index] ?? 0, text.length)));
  return rows
    .map((row) =>
      row
        .map((text, index) => text.padEnd(widths[index] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
