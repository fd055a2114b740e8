// The words of a command line as options and positionals, by the rules of node:util's parseArgs.
// That takes 6 ms to load, and the start is to be quick. test/cli-tokens.test.ts compares the two.

import type { Option } from "./cli-options.ts";

export type Token =
  | { readonly kind: "positional"; readonly value: string }
  | {
      readonly kind: "option";
      /** Of the table, or as it was written if the table has none. */
      readonly name: string;
      /** As it was written: `--cache`, `-o`. */
      readonly spelled: string;
      readonly value: string | undefined;
      /** Whether the value is in the same word. */
      readonly inline: boolean;
    };

/** Options that are not in the table, or have no `value` there, take none from the next word. */
export function tokenize(
  args: readonly string[],
  table: readonly Pick<Option, "name" | "short" | "value">[],
): Token[] {
  const tokens: Token[] = [];
  const words = [...args];
  const add = (
    dashes: string,
    written: string,
    found: { readonly name: string; readonly value?: string } | undefined,
    inline?: string,
  ) => {
    const name = found?.name ?? written;
    const value = inline ?? (found?.value !== undefined ? words.shift() : undefined);
    const spelled = dashes + written;
    tokens.push({ kind: "option", name, spelled, value, inline: inline !== undefined });
  };
  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    if (word === "--") {
      for (const value of words) tokens.push({ kind: "positional", value });
      break;
    }
    if (word.startsWith("--")) {
      const equals = word.indexOf("=");
      const isInline = equals > "--".length;
      const written = word.slice("--".length, isInline ? equals : undefined);
      const found = table.find(({ name }) => name === written);
      add("--", written, found, isInline ? word.slice(equals + 1) : undefined);
    } else if (word.startsWith("-") && word !== "-") {
      // Several letters in one word, the last of which may have a value.
      for (let at = 1; at < word.length; at++) {
        const letter = word.charAt(at);
        const found = table.find(({ short }) => short === letter);
        const rest = found?.value !== undefined ? word.slice(at + 1) : "";
        add("-", letter, found, rest === "" ? undefined : rest);
        if (rest !== "") break;
      }
    } else {
      tokens.push({ kind: "positional", value: word });
    }
  }
  return tokens;
}
