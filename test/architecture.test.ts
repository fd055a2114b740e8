// The shape of the source: which file may import which, what it may import from outside, and how
// files look. docs/architecture.md explains the layers.

import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
const LINES_MAX = 700;
const COLUMNS_MAX = 100;
/** The formatter sees to code; what it leaves longer are texts and tables. */
const CODE_COLUMNS_MAX = 140;

/**
 * The layers from top to bottom. A file imports from its own line, without circles, and from below.
 */
const LAYERS: readonly (readonly RegExp[])[] = [
  [/^main$/],
  [/^program$/],
  [/^cli(-.+)?$/],
  [/^index$/],
  [/^(daemon(-.+)?|mounted)$/],
  [/^worker(-.+)?$/],
  [/^vfs-config-file$/],
  [/^vfs-config$/],
  [/^overlay(-.+)?$/],
  [/^passthrough(-.+)?$/],
  [/^vfs(-attributes|-mounts|-path|-refusing)?$/],
  [/^pseudo-fs$/],
  [/^(virtiofs|vhost-user|virtqueue)$/],
  [/^session(-.+)?$/],
  [/^mount(-.+)?$/, /^notify-ready$/],
  [/^(debug|notify|metrics)$/],
  [/^server$/],
  [/^operations$/],
  [/^exchange$/],
  [/^filesystem$/],
  [/^reply$/],
  [/^request$/],
  [/^translation$/],
  [/^id-map$/],
  [/^log$/],
  [/^(activity|uring-offer|vfs-share)$/],
  [/^proc$/],
  [/^shared-table$/],
  [/^(lock|uring)$/],
  [/^syscall$/],
  [/^limits$/],
  [/^dirents$/],
  [/^memory$/],
  [/^abi-.+$/],
  [/^(struct|errno|assert)$/],
];

/** What is not of this project, and the files that may import it. */
const OUTSIDE: Readonly<Record<string, RegExp>> = {
  "bun:ffi": /^(memory|syscall)$/,
  citty: /^(main|cli(-.+)?)$/,
  "consola/core": /^log$/,
  "jsonc-parser": /^vfs-config-file$/,
  "node:fs": /^(cli(-.+)?|mount(ed|-.+)?)$/,
  "node:path": /^cli(-.+)?$/,
  "../package.json": /^(main|cli)$/,
};

interface Source {
  /** From the root of the project. */
  readonly path: string;
  readonly lines: readonly string[];
  readonly imports: readonly string[];
}

function sourcesIn(folder: string): Source[] {
  const names = readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" });
  return names
    .filter((name) => name.endsWith(".ts"))
    .toSorted()
    .map((name) => {
      const path = join(folder, name);
      const text = readFileSync(join(ROOT, path), "utf8");
      return { path, lines: text.split("\n"), imports: importsOf(text) };
    });
}

/** Every module that is named in an import, type imports too, or loaded when it is needed. */
function importsOf(text: string): string[] {
  const found = text.matchAll(
    /^(?:import|export)\b[^"';]*?\bfrom "([^"]+)"|^import "([^"]+)"|\b(?:import|require|getBuiltinModule)\("([^"]+)"\)/gm,
  );
  return [...found].map(([, from, bare, called]) => from ?? bare ?? called!);
}

const sources = sourcesIn("src");
const nameOf = (path: string): string => path.replace(/^.*\//, "").replace(/\.ts$/, "");
const layerOf = (name: string): number =>
  LAYERS.findIndex((layer) => layer.some((pattern) => pattern.test(name)));

/** The project's own files that a file imports, by name. */
function ownImports({ imports }: Source): string[] {
  return imports.filter((from) => from.startsWith("./")).map(nameOf);
}

describe("imports", () => {
  test("every file has its place in the layers", () => {
    const homeless = sources.map(({ path }) => path).filter((path) => layerOf(nameOf(path)) < 0);
    expect(homeless).toEqual([]);
  });

  test("go only downwards", () => {
    const upwards = sources.flatMap((source) =>
      ownImports(source)
        .filter((imported) => layerOf(imported) < layerOf(nameOf(source.path)))
        .map((imported) => `${source.path} imports ${imported}`),
    );
    expect(upwards).toEqual([]);
    // The test would also be content with finding no imports at all.
    expect(sources.flatMap(ownImports).length).toBeGreaterThan(100);
  });

  test("have no circles", () => {
    const graph = new Map(sources.map((source) => [nameOf(source.path), ownImports(source)]));
    const done = new Set<string>();
    const circles: string[] = [];
    const visit = (name: string, trail: readonly string[]): void => {
      if (trail.includes(name))
        circles.push([...trail.slice(trail.indexOf(name)), name].join(" → "));
      else if (!done.has(name))
        for (const next of graph.get(name) ?? []) visit(next, [...trail, name]);
      done.add(name);
    };
    for (const name of graph.keys()) visit(name, []);
    expect(circles).toEqual([]);
  });

  test("from outside are few, and each only where it belongs", () => {
    const strange = sources.flatMap(({ path, imports }) =>
      imports
        .filter((from) => !from.startsWith("./") && !OUTSIDE[from]?.test(nameOf(path)))
        .map((from) => `${path} imports ${from}`),
    );
    expect(strange).toEqual([]);
  });
});

describe("every file", () => {
  const files = [...sources, ...sourcesIn("test"), ...sourcesIn("scripts")];

  test("opens with a comment that says what it is", () => {
    const silent = files.filter(({ lines }) => !/^\/\/ \S|^#!/.test(lines[0]!));
    expect(silent.map(({ path }) => path)).toEqual([]);
  });

  test(`has at most ${LINES_MAX} lines`, () => {
    const long = files.filter(({ lines }) => lines.length > LINES_MAX + 1);
    expect(long.map(({ path, lines }) => `${path}: ${lines.length - 1}`)).toEqual([]);
  });

  test(`has at most ${COLUMNS_MAX} columns of comment`, () => {
    const isWide = (line: string): boolean =>
      [...line].length > (/^ *(\/\/|\/?\*)/.test(line) ? COLUMNS_MAX : CODE_COLUMNS_MAX);
    const wide = files.flatMap(({ path, lines }) =>
      lines.flatMap((line, index) => (isWide(line) ? [`${path}:${index + 1}`] : [])),
    );
    expect(wide).toEqual([]);
  });

  test("has a kebab-case name, and none in src lies in a folder", () => {
    const odd = files.filter(
      ({ path }) => !/^[a-z0-9-]+(\.test)?\.ts$/.test(path.split("/").at(-1)!),
    );
    expect(odd.map(({ path }) => path)).toEqual([]);
    expect(sources.filter(({ path }) => path.split("/").length > 2)).toEqual([]);
  });
});
