// Fuzzes the server for as long as you like: random and broken requests, millions of them, against
// the rules that the tests check on fewer. What fails is printed with its seed.
//
//   bun scripts/fuzz-server.ts [SECONDS]        10 unless said; FUZZ_SEED=N begins there

import { AssertionError } from "../src/assert.ts";
import { log } from "../src/log.ts";
import { CASES } from "../test/server-cases.ts";
import { chooseSeed, hex, ServerFuzzer } from "../test/support-server.ts";

const ROUND = 100_000;

log.configure({ level: "error" });
const seconds = Number(process.argv[2] ?? 10);
if (!(seconds > 0)) {
  console.error("usage: bun scripts/fuzz-server.ts [SECONDS]");
  process.exit(2);
}

const corpus = CASES.map(({ request }) => hex(request));
const end = performance.now() + seconds * 1000;
let requests = 0;
let reached = 0;
for (let seed = chooseSeed(); performance.now() < end; seed++) {
  const fuzzer = new ServerFuzzer(seed, corpus);
  try {
    fuzzer.run(ROUND);
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    console.error(`FUZZ_SEED=${seed}: ${String(error)}`);
    console.error(cause instanceof AssertionError ? cause.message : cause);
    process.exit(1);
  }
  requests += ROUND;
  reached += fuzzer.reached;
}
console.log(`${requests} requests, ${reached} calls of the file system, every answer well-formed`);
