// Its program, which has no faults.

export { run } from "../../../src/program.ts";
