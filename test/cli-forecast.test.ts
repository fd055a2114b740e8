// Whether a worker starts before the command line is read.

import { expect, test } from "bun:test";
import { expectsToServe, READY_FD } from "../src/cli-forecast.ts";

test("a command that serves in the foreground gets its worker early", () => {
  expect(expectsToServe(["passthrough", "--cache", "always", "/src", "/mnt"], {})).toBe(true);
  expect(expectsToServe(["overlay", "-o", "lowerdir=/a", "/mnt"], {})).toBe(true);
  expect(expectsToServe(["vfs", "--config", "/etc/mounts.json"], {})).toBe(true);
});

test("where another process serves, or none, no worker starts early", () => {
  expect(expectsToServe(["passthrough", "--background", "/src", "/mnt"], {})).toBe(false);
  expect(expectsToServe(["passthrough", "--help"], {})).toBe(false);
  expect(expectsToServe(["overlay", "-h"], {})).toBe(false);
  expect(expectsToServe(["--version"], {})).toBe(false);
  expect(expectsToServe(["/src", "/mnt", "-o", "rw"], {})).toBe(false);
  expect(expectsToServe([], {})).toBe(false);
});

test("the process that was started to be the daemon serves, however it is called", () => {
  const environment = { [READY_FD]: "3" };
  expect(expectsToServe(["-o", "lowerdir=/a", "/mnt"], environment)).toBe(true);
  expect(expectsToServe(["passthrough", "--background", "/src", "/mnt"], environment)).toBe(true);
});
