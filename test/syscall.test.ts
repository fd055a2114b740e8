// System calls whose traps the functions for them keep from their callers.

import { expect, test } from "bun:test";
import { ppoll } from "../src/syscall.ts";

test("ppoll waits as long as it is told, each time", () => {
  const start = performance.now();
  for (let times = 0; times < 5; times++) expect(ppoll(0, 0, 2000)).toBe(0);
  ppoll(0, 0, 0);
  expect(performance.now() - start).toBeGreaterThanOrEqual(10);
  const late = performance.now();
  expect(ppoll(0, 0, 1_000_001)).toBe(0);
  expect(performance.now() - late).toBeGreaterThanOrEqual(1000);
});
