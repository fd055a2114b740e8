// The process in which POSIX cases run: requests { name, directory, source } in, what the case saw
// out.

import { errnoName } from "../../src/errno.ts";
import * as c from "./calls.ts";
import { failure, LineProcess, writeLine } from "./line-process.ts";
import { posixCases, readOnlyCase } from "./posix-cases.ts";
import { Place } from "./posix-place.ts";

export class PosixRunner extends LineProcess {
  constructor(name: string) {
    super(new URL(import.meta.url), name);
  }

  /** What the case `name` sees in `directory`, a new one unless it is "read-only". */
  async run(name: string, directory: string, source: string): Promise<unknown> {
    return await this.request({ name, directory, source });
  }
}

async function runCase(name: string, place: Place): Promise<unknown> {
  try {
    if (name === "read-only") return readOnlyCase(place);
    const run = posixCases[name];
    if (run === undefined) throw new Error(`there is no case "${name}"`);
    c.must(c.mkdir(place.directory));
    return await run(place);
  } catch (error) {
    return failure(error);
  } finally {
    c.become({ uid: 0, gid: 0 });
    c.umask(0o022);
    c.must(c.chdir("/"));
    c.closeAll();
  }
}

/** Puts the names of errors in place of their numbers, for the reader of a comparison. */
function named(value: unknown): unknown {
  if (typeof value === "number") return value < 0 && value > -4096 ? errnoName(value) : value;
  if (Array.isArray(value)) return value.map(named);
  if (typeof value !== "object" || value === null) return value ?? null;
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, named(part)]));
}

if (import.meta.main) {
  c.umask(0o022);
  for await (const line of console) {
    if (line === "") continue; // The end.
    const { name, directory, source } = JSON.parse(line) as Record<string, string>;
    const place = new Place(directory ?? "", source ?? "");
    writeLine(JSON.stringify(named(await runCase(name ?? "", place))));
  }
  process.exit(0);
}
