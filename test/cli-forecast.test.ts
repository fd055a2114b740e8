// Whether a worker starts before the command line is read.

import { readFileSync } from "node:fs";
import { expect, test } from "bun:test";
import { READY_FD, workersToStart } from "../src/cli-forecast.ts";

const parameter = "/sys/module/fuse/parameters/enable_uring";
const whereServed = readFileSync(parameter, "latin1").startsWith("Y") ? 2 : 1;

test("a command that serves in the foreground gets its workers early", () => {
  for (const args of [
    ["passthrough", "--cache", "always", "/src", "/mnt"],
    ["overlay", "-o", "lowerdir=/a", "/mnt"],
    ["vfs", "--config", "/etc/mounts.json"],
  ])
    expect(workersToStart(args, {})).toBe(whereServed);
});

test("if it says whether there are rings, one", () => {
  expect(workersToStart(["passthrough", "--io-uring", "off", "/src", "/mnt"], {})).toBe(1);
  expect(workersToStart(["passthrough", "--io-uring=off", "/src", "/mnt"], {})).toBe(1);
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
    expect(workersToStart(args, {})).toBe(0);
});

test("the process that was started to be the daemon serves, however it is called", () => {
  const environment = { [READY_FD]: "3" };
  expect(workersToStart(["-o", "lowerdir=/a", "/mnt"], environment)).toBe(whereServed);
  const again = ["passthrough", "--background", "/src", "/mnt"];
  expect(workersToStart(again, environment)).toBe(whereServed);
});
