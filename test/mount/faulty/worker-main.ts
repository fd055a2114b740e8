// The worker with bugs that tests can call up: operations fail at certain names.

import { AssertionError } from "../../../src/assert.ts";
import { PassthroughFs } from "../../../src/passthrough.ts";

const FAULTS: Readonly<Record<string, () => void>> = {
  "fault-assertion": () => {
    throw new AssertionError("the invariant of the test");
  },
  "fault-error": () => {
    throw new TypeError("the bug of the test");
  },
  "fault-hang": () => {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  },
};

const { lookup, write } = PassthroughFs.prototype;
PassthroughFs.prototype.lookup = function (context, parent, name, entry) {
  FAULTS[name.toString()]?.();
  return lookup.call(this, context, parent, name, entry);
};
// A write has no name; its data does.
PassthroughFs.prototype.write = function (...args) {
  FAULTS[new TextDecoder().decode(args[6].bytes.bytes.subarray(0, 64)).trim()]?.();
  return write.apply(this, args);
};

await import("../../../src/worker-main.ts");
