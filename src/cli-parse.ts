// A strict reading of the command line: what is unknown, given twice, left over or without its
// value is refused instead of being guessed at. What was given is then asked for by name and type.

import type { Option } from "./cli-options.ts";
import { tokenize } from "./cli-tokens.ts";
import { IdMapError, parseIdRange, type IdRange } from "./id-map.ts";
import type { OptionValues } from "./vfs-config.ts";

/** The command line is wrong: exit code 2. */
export class UsageError extends Error {
  override name = "UsageError";
}

interface Value {
  /** A switch is true or false, everything else is text. */
  readonly value: string | boolean;
  /** As the person wrote it, for messages: `--cache`, `-o attr_timeout`. */
  readonly spelled: string;
}

export interface Arguments {
  readonly positionals: readonly string[];
  readonly given: Given;
  /** --help or --version was given: nothing else counts. */
  readonly asks: "help" | "version" | undefined;
}

/** The values of options, each by the name in the table. */
export class Given implements OptionValues {
  readonly #values = new Map<string, Value>();
  /** Of repeatable options. */
  readonly #lists = new Map<string, Value[]>();

  has(name: string): boolean {
    return this.spelled(name) !== undefined;
  }
  /** How an option was written, undefined if it was not given. */
  spelled(name: string): string | undefined {
    return (this.#values.get(name) ?? this.#lists.get(name)?.[0])?.spelled;
  }
  set(name: string, value: Value): void {
    this.#values.set(name, value);
  }
  append(name: string, value: Value): void {
    this.#lists.set(name, [...(this.#lists.get(name) ?? []), value]);
  }
  /** The values of a repeatable option. */
  list(name: string): readonly string[] {
    return (this.#lists.get(name) ?? []).map(({ value }) => String(value));
  }
  /** Takes over what `other` has; what both have is an error, unless it is repeatable. */
  add(other: Given): void {
    for (const [name, value] of other.#values) {
      const own = this.#values.get(name);
      if (own !== undefined)
        throw new UsageError(`${own.spelled} is given twice, also as ${value.spelled}`);
      this.#values.set(name, value);
    }
    for (const [name, values] of other.#lists) for (const value of values) this.append(name, value);
  }

  switch(name: string): boolean | undefined {
    const value = this.#values.get(name)?.value;
    return typeof value === "string" ? undefined : value;
  }
  text(name: string): string | undefined {
    const value = this.#values.get(name)?.value;
    return typeof value === "boolean" ? undefined : value;
  }
  choice<Choice extends string>(name: string, choices: readonly Choice[]): Choice | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const choice = choices.find((candidate) => candidate === text);
    return choice ?? this.#wrong(name, `must be one of ${choices.join(", ")}`);
  }
  /** A number of seconds, with a fraction if need be. */
  seconds(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    return /^\d+(\.\d+)?$|^\.\d+$/.test(text)
      ? Number(text)
      : this.#wrong(name, "must be a number of seconds, such as 5 or 0.5");
  }
  whole(name: string, least: number, most: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    return value >= least && value <= most
      ? value
      : this.#wrong(name, `must be a whole number from ${least} to ${most}`);
  }

  /** INTERNAL:EXTERNAL:LENGTH, each time that it is given. */
  ranges(name: string): readonly IdRange[] {
    return (this.#lists.get(name) ?? []).map(({ value, spelled }) => {
      try {
        return parseIdRange(String(value));
      } catch (error) {
        if (!(error instanceof IdMapError)) throw error;
        throw new UsageError(`${spelled}: ${error.message}`);
      }
    });
  }
  refuse(name: string, problem: string): never {
    throw new UsageError(`${this.spelled(name) ?? name}: ${problem}`);
  }

  #wrong(name: string, expected: string): never {
    const given = this.#values.get(name);
    throw new UsageError(`${given?.spelled ?? name} ${expected}, not "${given?.value}"`);
  }
}

/** Reads `args` by the table. */
export function parseArguments(args: readonly string[], table: readonly Option[]): Arguments {
  const given = new Given();
  const positionals: string[] = [];
  for (const token of tokenize(args, table)) {
    if (token.kind === "positional") {
      positionals.push(token.value);
      continue;
    }
    const { spelled } = token;
    const { option, positive } = findOption(token.name, table);
    if (option === undefined) throw new UsageError(`unknown option ${spelled}`);
    if (option.name === "help" || option.name === "version")
      return { positionals, given, asks: option.name };
    const value = readValue(option, spelled, token.value, token.inline);
    if (option.repeatable) {
      given.append(option.name, { value, spelled });
      continue;
    }
    if (given.has(option.name)) throw new UsageError(`${spelled} is given twice`);
    given.set(option.name, { value: option.value === undefined ? positive : value, spelled });
  }
  return { positionals, given, asks: undefined };
}

/** An option by its name, or a switch by `no-` and its name. */
export function findOption(
  name: string,
  table: readonly Option[],
): { option: Option | undefined; positive: boolean } {
  const option = table.find((candidate) => candidate.name === name);
  if (option !== undefined || !name.startsWith("no-")) return { option, positive: true };
  const opposite = table.find((candidate) => candidate.name === name.slice("no-".length));
  const has = opposite?.value === undefined && opposite?.commandLineOnly === undefined;
  return { option: has ? opposite : undefined, positive: false };
}

function readValue(
  option: Option,
  spelled: string,
  value: string | undefined,
  inline: boolean,
): string | boolean {
  if (option.value === undefined) {
    if (value !== undefined) throw new UsageError(`${spelled} takes no value, not "${value}"`);
    return true;
  }
  if (value === undefined || value === "")
    throw new UsageError(`${spelled} needs a value: ${option.value}`);
  if (!inline && value.startsWith("-"))
    throw new UsageError(
      `${spelled} needs a value, and ${value} looks like an option; ` +
        `if it is meant, write ${spelled}${spelled.startsWith("--") ? "=" : ""}${value}`,
    );
  return value;
}
