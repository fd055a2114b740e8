// What is started before the command line is read: another process, a worker.

import { expect, test } from "bun:test";
import { READY_FD } from "../src/cli-background.ts";
import { goesToBackground, needsWorker } from "../src/cli-forecast.ts";
import { workersToStart } from "../src/program.ts";

const OWN_NAME = "/usr/bin/fuse-backend";
const LINK = "/usr/bin/fuse-overlayfs";
const FOR_HELP = [
  ["passthrough", "--background", "--help"],
  ["overlay", "-h"],
  ["--version"],
  ["/src", "/mnt", "-o", "rw"],
  [],
];

test("a command that serves in the foreground gets a worker early", () => {
  for (const args of [
    ["passthrough", "--cache", "always", "/src", "/mnt"],
    ["overlay", "-o", "lowerdir=/a", "/mnt"],
    ["vfs", "--config", "/etc/mounts.json"],
  ]) {
    expect(goesToBackground(OWN_NAME, args, {})).toBe(false);
    expect(needsWorker(args, {})).toBe(true);
  }
});

test("where nothing is served, nothing starts early", () => {
  for (const args of FOR_HELP) {
    expect(goesToBackground(OWN_NAME, args, {})).toBe(false);
    expect(needsWorker(args, {})).toBe(false);
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
    expect(needsWorker(args, environment)).toBe(true);
  }
});

test("with io_uring two workers start before the mount answers, unless it is not wanted", () => {
  const withRings = (): boolean => true;
  expect(workersToStart({ ioUring: "auto" }, withRings)).toBe(2);
  expect(workersToStart({ ioUring: "on" }, withRings)).toBe(2);
  expect(workersToStart({ ioUring: "off" }, withRings)).toBe(1);
  for (const offered of [false, undefined])
    expect(workersToStart({ ioUring: "auto" }, () => offered)).toBe(1);
});
