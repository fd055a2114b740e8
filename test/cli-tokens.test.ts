// The words of command lines, against node:util's parseArgs: any words, put together of what has a
// meaning.

import { expect, test } from "bun:test";
import { parseArgs } from "node:util";
import fc from "fast-check";
import { tokenize, type Token } from "../src/cli-tokens.ts";

const TABLE = [
  { name: "option", short: "o", value: "LIST" },
  { name: "cache", value: "POLICY" },
  { name: "debug", short: "d" },
  { name: "no-debug" },
];

function byNode(args: string[]): Token[] {
  const options = Object.fromEntries(
    TABLE.map(({ name, ...option }) => {
      const type = "value" in option ? ("string" as const) : ("boolean" as const);
      return [name, "short" in option ? { type, short: option.short } : { type }];
    }),
  );
  const { tokens } = parseArgs({ args, options, strict: false, tokens: true });
  return tokens.flatMap((token): Token[] => {
    if (token.kind === "positional") return [{ kind: "positional", value: token.value }];
    if (token.kind === "option-terminator") return [];
    const { name, rawName, value, inlineValue } = token;
    return [{ kind: "option", name, spelled: rawName, value, inline: inlineValue === true }];
  });
}

const piece = fc.constantFrom(
  "-",
  "--",
  "=",
  "o",
  "d",
  "x",
  "option",
  "cache",
  "debug",
  "no-",
  "é",
);
const word = fc.array(piece, { maxLength: 5 }).map((pieces) => pieces.join(""));

test("words are split into options and values as by parseArgs", () => {
  fc.assert(
    fc.property(fc.array(word, { maxLength: 6 }), (args) => {
      expect(tokenize(args, TABLE)).toEqual(byNode(args));
    }),
    { numRuns: 5000 },
  );
});
