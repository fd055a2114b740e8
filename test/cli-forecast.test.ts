// What is started before the command line is read: another process, workers.

import { expect, test } from "bun:test";
import { READY_FD } from "../src/cli-background.ts";
import { goesToBackground, workersToStart } from "../src/cli-forecast.ts";

const WITHOUT_RINGS = () => false;
const WITH_RINGS = () => true;
const OWN_NAME = "/usr/bin/fuse-backend";
const LINK = "/usr/bin/fuse-overlayfs";
const FOR_HELP = [
  ["passthrough", "--background", "--help"],
  ["overlay", "-h"],
  ["--version"],
  ["/src", "/mnt", "-o", "rw"],
  [],
];

test("a command that serves in the foreground gets its workers early", () => {
  for (const args of [
    ["passthrough", "--cache", "always", "/src", "/mnt"],
    ["overlay", "-o", "lowerdir=/a", "/mnt"],
    ["vfs", "--config", "/etc/mounts.json"],
  ]) {
    expect(goesToBackground(OWN_NAME, args, {})).toBe(false);
    expect(workersToStart(args, {}, WITHOUT_RINGS)).toBe(1);
    expect(workersToStart(args, {}, WITH_RINGS)).toBe(2);
  }
});

test("if it says whether there are rings, one", () => {
  const said = (...option: string[]) => ["passthrough", ...option, "/src", "/mnt"];
  expect(workersToStart(said("--io-uring", "off"), {}, WITH_RINGS)).toBe(1);
  expect(workersToStart(said("--io-uring=off"), {}, WITH_RINGS)).toBe(1);
});

test("where nothing is served, nothing starts early", () => {
  for (const args of FOR_HELP) {
    expect(goesToBackground(OWN_NAME, args, {})).toBe(false);
    expect(workersToStart(args, {}, WITH_RINGS)).toBe(0);
  }
});

test("in the background another process serves, as a link does unless told not to", () => {
  expect(goesToBackground(OWN_NAME, ["passthrough", "--background", "/s", "/m"], {})).toBe(true);
  expect(goesToBackground(LINK, ["-o", "lowerdir=/a", "/mnt"], {})).toBe(true);
  expect(goesToBackground(LINK, ["-f", "-o", "lowerdir=/a", "/mnt"], {})).toBe(false);
  expect(goesToBackground(LINK, ["--version"], {})).toBe(false);
});

test("the process that was started to be the daemon serves, however it is called", () => {
  const environment = { [READY_FD]: "3" };
  for (const args of [
    ["-o", "lowerdir=/a", "/mnt"],
    ["passthrough", "--background", "/src", "/mnt"],
  ]) {
    expect(goesToBackground(OWN_NAME, args, environment)).toBe(false);
    expect(goesToBackground(LINK, args, environment)).toBe(false);
    expect(workersToStart(args, environment, WITHOUT_RINGS)).toBe(1);
    expect(workersToStart(args, environment, WITH_RINGS)).toBe(2);
  }
});
