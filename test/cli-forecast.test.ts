// How many workers start before the command line is read.

import { expect, test } from "bun:test";
import { READY_FD, workersToStart } from "../src/cli-forecast.ts";

const WITHOUT_RINGS = () => false;
const WITH_RINGS = () => true;

test("a command that serves in the foreground gets its workers early", () => {
  for (const args of [
    ["passthrough", "--cache", "always", "/src", "/mnt"],
    ["overlay", "-o", "lowerdir=/a", "/mnt"],
    ["vfs", "--config", "/etc/mounts.json"],
  ]) {
    expect(workersToStart(args, {}, WITHOUT_RINGS)).toBe(1);
    expect(workersToStart(args, {}, WITH_RINGS)).toBe(2);
  }
});

test("if it says whether there are rings, one", () => {
  const said = (...option: string[]) => ["passthrough", ...option, "/src", "/mnt"];
  expect(workersToStart(said("--io-uring", "off"), {}, WITH_RINGS)).toBe(1);
  expect(workersToStart(said("--io-uring=off"), {}, WITH_RINGS)).toBe(1);
});

test("where another process serves, or none, no worker starts early", () => {
  for (const args of [
    ["passthrough", "--background", "/src", "/mnt"],
    ["passthrough", "--help"],
    ["overlay", "-h"],
    ["--version"],
    ["/src", "/mnt", "-o", "rw"],
    [],
  ])
    expect(workersToStart(args, {}, WITH_RINGS)).toBe(0);
});

test("the process that was started to be the daemon serves, however it is called", () => {
  const environment = { [READY_FD]: "3" };
  for (const args of [
    ["-o", "lowerdir=/a", "/mnt"],
    ["passthrough", "--background", "/src", "/mnt"],
  ]) {
    expect(workersToStart(args, environment, WITHOUT_RINGS)).toBe(1);
    expect(workersToStart(args, environment, WITH_RINGS)).toBe(2);
  }
});
