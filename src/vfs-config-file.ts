// The file of `vfs --config`: JSON as docs/vfs-config.schema.json describes it. All that is wrong
// with it is said at once, each with its line.

import { parseTree, type Node, type ParseError, type ParseErrorCode } from "jsonc-parser";
import { IdMapError, parseIdRange, type IdMapOptions, type IdRange } from "./id-map.ts";
import { MOUNTS_MAX } from "./limits.ts";
import { ConfigError, type PassthroughConfig } from "./passthrough-config.ts";
import {
  backendConfig,
  idMapOptions,
  not,
  readOverlayMount,
  refuseIds,
  validateDirectory,
  validateIds,
  validatePath,
  type CommandLine,
  type OptionValues,
  type OverlayMountConfig,
  type VfsConfig,
  type VfsMountConfig,
} from "./vfs-config.ts";

const BACKENDS = ["passthrough", "overlay"] as const;
/** How much of a wrong value a message shows. */
const SHOWN_MAX = 60;

/**
 * Reads the text of a configuration file. `file` is its absolute path, for messages (FILE:LINE: …)
 * and for sources that are relative to its directory. Throws ConfigError with all that is wrong, in
 * a line each.
 */
export function parseVfsConfig(text: string, file: string, commandLine: CommandLine): VfsConfig {
  const problems = new Problems(text, file);
  const values = new ObjectValues(parseJson(problems), "the file", problems);
  values.ignore("$schema");
  const before = problems.count;
  const ids = readGlobalIds(values, problems, commandLine);
  const sound = problems.count === before ? ids : undefined;
  const mounts = readMounts(values, problems, { ...commandLine, ids: sound });
  values.refuseTheRest(commandLine);
  problems.throwIfAny();
  return { mounts, ids };
}

function readMounts(
  values: ObjectValues,
  problems: Problems,
  commandLine: CommandLine,
): VfsMountConfig[] {
  const nodes = values.array("mounts", "objects") ?? [];
  const tooMany = nodes[MOUNTS_MAX];
  if (tooMany !== undefined) {
    problems.add(tooMany.offset, `there are ${nodes.length} mounts; ${MOUNTS_MAX} are the most`);
    return [];
  }
  const firstOf = new Map<string, Node>();
  return nodes.flatMap((node) => {
    if (node.type !== "object") {
      const kind = problems.describe(node);
      problems.add(node.offset, `a mount must be an object with its path, not ${kind}`);
      return [];
    }
    const own = new ObjectValues(node, "a mount", problems);
    const mount = readMount(own, node, problems, commandLine);
    if (mount === undefined) return [];
    const first = firstOf.get(mount.path);
    if (first !== undefined)
      problems.add(
        own.offset("path"),
        `${JSON.stringify(mount.path)} is the path of two mounts, ` +
          `the first at line ${problems.lineOf(first.offset)}`,
      );
    firstOf.set(mount.path, first ?? node);
    return [mount];
  });
}

/** Undefined if something is wrong with it that has been added to the problems. */
function readMount(
  values: ObjectValues,
  node: Node,
  problems: Problems,
  commandLine: CommandLine,
): VfsMountConfig | undefined {
  const before = problems.count;
  const path = values.required("path");
  if (path !== undefined) values.check("path", () => validatePath(path));
  const backend = values.required("backend");
  if (backend !== undefined) values.choice("backend", BACKENDS);
  if (backend === "overlay") return readOverlay(path, values, problems, commandLine);
  const source = values.required("source");
  if (source !== undefined) values.check("source", () => validateDirectory('"source"', source));
  let passthrough: PassthroughConfig | undefined;
  try {
    const absolute = source?.startsWith("/") === true ? source : `${problems.directory}${source}`;
    passthrough = backendConfig(absolute, values, commandLine.connection);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    // What is missing or wrong may be all that is contradictory.
    if (problems.count === before) problems.add(node.offset, error.message);
  }
  const beforeIds = problems.count;
  const ids = idMapOptions(values);
  if (problems.count === beforeIds)
    values.check(undefined, () => validateIds(ids, commandLine.ids));
  values.refuseTheRest(commandLine);
  if (path === undefined || passthrough === undefined) return undefined;
  return { path, passthrough, ids };
}

function readOverlay(
  path: string | undefined,
  values: ObjectValues,
  problems: Problems,
  commandLine: CommandLine,
): OverlayMountConfig | undefined {
  const list = values.required("options");
  let mount: OverlayMountConfig | undefined;
  if (path !== undefined && list !== undefined)
    values.check("options", () => {
      const resolve = (directory: string): string =>
        directory.startsWith("/") ? directory : `${problems.directory}${directory}`;
      mount = readOverlayMount(path, list, { where: "", resolve, commandLine });
    });
  values.refuseTheRest(commandLine);
  return mount;
}

/** Ranges of the file and of the command line add up; a squash can be in one of them. */
function readGlobalIds(
  values: ObjectValues,
  problems: Problems,
  { ids: other }: CommandLine,
): IdMapOptions | undefined {
  const before = problems.count;
  const own = idMapOptions(values);
  if (own === undefined || other === undefined || problems.count > before) return own ?? other;
  const twice = "is given on the command line, too: leave one of them out";
  if (own.squashUid !== undefined && other.squashUid !== undefined)
    values.refuse("squash-uid", twice);
  if (own.squashGid !== undefined && other.squashGid !== undefined)
    values.refuse("squash-gid", twice);
  const both: IdMapOptions = {
    uids: [...other.uids, ...own.uids],
    gids: [...other.gids, ...own.gids],
    squashUid: own.squashUid ?? other.squashUid,
    squashGid: own.squashGid ?? other.squashGid,
  };
  if (problems.count === before) refuseIds(both, values, "together with the command line, ");
  return both;
}

// A const enum of the library, whose names are lost when each file is compiled by itself.
const PARSE_ERRORS: Readonly<Record<ParseErrorCode, string>> = {
  1: "this is not JSON",
  2: "this is not a number of JSON",
  3: "a name in double quotes is expected here; there is no comma behind the last member",
  4: "a value is expected here; there is no comma behind the last element",
  5: "a colon is missing",
  6: "a comma is missing",
  7: "a closing brace } is missing",
  8: "a closing bracket ] is missing",
  9: "the file goes on behind its end",
  10: "JSON has no comments",
  11: "a comment has no end, and JSON has no comments",
  12: "a string has no end in its line",
  13: "a number has no end",
  14: "\\u must be followed by four hexadecimal digits",
  15: 'behind a backslash there must be one of " \\ / b f n r t u',
  16: "a control character must be written as \\u and four hexadecimal digits",
};

/** The object that the file is. What follows the first error of syntax is of no use. */
function parseJson(problems: Problems): Node {
  const errors: ParseError[] = [];
  let root: Node | undefined;
  try {
    root = parseTree(problems.text, errors, { disallowComments: true });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    problems.add(0, "the file is nested too deeply");
  }
  const [first] = errors;
  if (first !== undefined) problems.add(first.offset, PARSE_ERRORS[first.error]);
  else if (root !== undefined && root.type !== "object")
    problems.add(root.offset, `the file must be an object, not ${problems.describe(root)}`);
  problems.throwIfAny();
  return root!;
}

/** What is wrong with a file, each with its place. */
class Problems {
  readonly text: string;
  readonly #file: string;
  readonly #found: { readonly offset: number; readonly message: string }[] = [];

  constructor(text: string, file: string) {
    this.text = text;
    this.#file = file;
  }

  /** With a slash at its end. */
  get directory(): string {
    return this.#file.slice(0, this.#file.lastIndexOf("/") + 1);
  }
  get count(): number {
    return this.#found.length;
  }
  add(offset: number, message: string): void {
    this.#found.push({ offset, message });
  }
  lineOf(offset: number): number {
    return this.text.slice(0, offset).split("\n").length;
  }
  /** A value as the file has it, or the beginning of it. */
  describe({ type, offset, length }: Node): string {
    if (type === "object" || type === "array") return `an ${type}`;
    const whole = this.text.slice(offset, offset + length);
    return whole.length > SHOWN_MAX ? `${whole.slice(0, SHOWN_MAX)}…` : whole;
  }
  throwIfAny(): void {
    if (this.#found.length === 0) return;
    const inOrder = this.#found.toSorted((a, b) => a.offset - b.offset);
    throw new ConfigError(
      inOrder
        .map(({ offset, message }) => `${this.#file}:${this.lineOf(offset)}: ${message}`)
        .join("\n"),
    );
  }
}

/** The members of an object, each asked for by its name and type. */
class ObjectValues implements OptionValues {
  readonly #node: Node;
  /** What the object is, for messages. */
  readonly #what: string;
  readonly #problems: Problems;
  readonly #members = new Map<string, { readonly offset: number; readonly value: Node }>();
  readonly #asked = new Set<string>();

  constructor(node: Node, what: string, problems: Problems) {
    this.#node = node;
    this.#what = what;
    this.#problems = problems;
    for (const { offset, children } of node.children ?? []) {
      const [key, value] = children ?? [];
      // The syntax is right, so each member has both.
      if (key === undefined || value === undefined) continue;
      const name = String(key.value);
      const first = this.#members.get(name);
      if (first === undefined) this.#members.set(name, { offset, value });
      else this.#addTwice(offset, name, first.offset);
    }
  }

  /** Where a member is, or the object. */
  offset(name?: string): number {
    return this.#members.get(name ?? "")?.offset ?? this.#node.offset;
  }
  ignore(name: string): void {
    this.#asked.add(name);
  }
  refuse(name: string, problem: string): void {
    // Ranges and a squash that exclude each other may be told of the one that is not there.
    const places = [name, name.replace(/^(.*)-map$/, "squash-$1")];
    const place = places.find((candidate) => this.#members.has(candidate)) ?? name;
    this.#problems.add(this.offset(place), `"${place}": ${problem}`);
  }
  /** Runs a check of a member, or of the object, that throws ConfigError. */
  check(name: string | undefined, validate: () => void): void {
    try {
      validate();
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      this.#problems.add(this.offset(name), error.message);
    }
  }

  /** A string that has to be there. */
  required(name: string): string | undefined {
    const value = this.#value(name);
    if (value === undefined)
      this.#problems.add(this.#node.offset, `${this.#what} must have a "${name}"`);
    else if (value.type !== "string") this.#wrong(name, "must be a string", value);
    else return String(value.value);
    return undefined;
  }
  /** An array that has to be there. */
  array(name: string, elements: string): readonly Node[] | undefined {
    const value = this.#value(name);
    if (value === undefined)
      this.#problems.add(this.#node.offset, `${this.#what} must have "${name}"`);
    else if (value.type !== "array") this.#wrong(name, `must be an array of ${elements}`, value);
    else return value.children ?? [];
    return undefined;
  }

  switch(name: string): boolean | undefined {
    const opposite = `no-${name}`;
    const positive = this.#boolean(name);
    const negative = this.#boolean(opposite);
    const [one, other] = [this.#members.get(name), this.#members.get(opposite)];
    if (one !== undefined && other !== undefined) {
      const [first, second] = one.offset < other.offset ? [one, other] : [other, one];
      const which = second === one ? name : opposite;
      const line = this.#problems.lineOf(first.offset);
      const also = second === one ? opposite : name;
      this.#problems.add(
        second.offset,
        `"${which}" says again what "${also}" said at line ${line}`,
      );
    }
    return positive ?? not(negative);
  }
  choice<Choice extends string>(name: string, choices: readonly Choice[]): Choice | undefined {
    const value = this.#value(name);
    if (value === undefined) return undefined;
    const choice = choices.find((candidate) => candidate === value.value);
    return choice ?? this.#wrong(name, `must be one of ${choices.join(", ")}`, value);
  }
  seconds(name: string): number | undefined {
    const value = this.#value(name);
    if (value === undefined) return undefined;
    return value.type === "number" && value.value >= 0
      ? Number(value.value)
      : this.#wrong(name, "must be a number of seconds, such as 5 or 0.5", value);
  }
  whole(name: string, least: number, most: number): number | undefined {
    const value = this.#value(name);
    if (value === undefined) return undefined;
    const fits = Number.isInteger(value.value) && value.value >= least && value.value <= most;
    return fits
      ? Number(value.value)
      : this.#wrong(name, `must be a whole number from ${least} to ${most}`, value);
  }
  ranges(name: string): IdRange[] {
    const value = this.#value(name);
    if (value === undefined) return [];
    if (value.type !== "array")
      this.#wrong(name, 'must be an array of "INTERNAL:EXTERNAL:LENGTH"', value);
    return (value.type === "array" ? (value.children ?? []) : []).flatMap((node) => {
      if (node.type !== "string") {
        const kind = this.#problems.describe(node);
        this.#problems.add(node.offset, `"${name}" must have strings in it, not ${kind}`);
        return [];
      }
      try {
        return [parseIdRange(String(node.value))];
      } catch (error) {
        if (!(error instanceof IdMapError)) throw error;
        this.#problems.add(node.offset, `"${name}": ${error.message}`);
        return [];
      }
    });
  }

  /** To be called when everything that there can be was asked for. */
  refuseTheRest({ spelled }: CommandLine): void {
    for (const [name, { offset }] of this.#members) {
      if (this.#asked.has(name)) continue;
      const elsewhere = spelled(name);
      this.#problems.add(
        offset,
        elsewhere === undefined
          ? `${JSON.stringify(name)} is not an option of ${this.#what}`
          : `"${name}" is the same for all mounts: leave it out, ` +
              `and give ${elsewhere} on the command line`,
      );
    }
  }

  #value(name: string): Node | undefined {
    this.#asked.add(name);
    return this.#members.get(name)?.value;
  }
  #boolean(name: string): boolean | undefined {
    const value = this.#value(name);
    if (value === undefined) return undefined;
    return value.type === "boolean"
      ? Boolean(value.value)
      : this.#wrong(name, "must be true or false", value);
  }
  #wrong(name: string, expected: string, value: Node): undefined {
    const offset = this.offset(name);
    this.#problems.add(offset, `"${name}" ${expected}, not ${this.#problems.describe(value)}`);
    return undefined;
  }
  #addTwice(offset: number, name: string, first: number): void {
    const line = this.#problems.lineOf(first);
    this.#problems.add(offset, `${JSON.stringify(name)} is given twice, first at line ${line}`);
  }
}
