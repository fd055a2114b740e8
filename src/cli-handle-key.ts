// The file of --handle-key: made at the first start, with a key that nobody else can read.

import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { isInside, locate } from "./mount-point.ts";
import { ConfigError } from "./passthrough-config.ts";

const KEY_SIZE = 32;
const OWNER_ONLY = 0o600;
const OTHERS = 0o077;

/** The key in hexadecimal. `source` is the directory that is served. Throws ConfigError. */
export function readHandleKey(path: string, source: string): string {
  if (isInside(locate(path), locate(source)))
    throw wrong(path, `it lies inside ${source}, where users of the mount may read it`);
  let fd: number;
  try {
    fd = openOrMake(path);
  } catch (error) {
    throw wrong(path, (error as Error).message);
  }
  try {
    const { uid, mode } = fstatSync(fd);
    if ((mode & constants.S_IFMT) !== constants.S_IFREG) throw wrong(path, "it is not a file");
    if (uid !== process.geteuid!() || (mode & OTHERS) !== 0)
      throw wrong(path, "others may read or change it; give it to its user alone, with mode 600");
    const key = readFileSync(fd);
    if (key.length !== KEY_SIZE)
      throw wrong(path, `a key has ${KEY_SIZE} bytes; one is made where there is no file`);
    return key.toString("hex");
  } finally {
    closeSync(fd);
  }
}

function wrong(path: string, why: string): ConfigError {
  return new ConfigError(`--handle-key ${path}: ${why}`);
}

function openOrMake(path: string): number {
  const flags = constants.O_RDONLY | constants.O_NONBLOCK;
  try {
    return openSync(path, flags);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  make(path);
  return openSync(path, flags);
}

/** Under its name the file is always complete, and who comes first makes it. */
function make(path: string): void {
  const unfinished = `${path}.${process.pid}`;
  const fd = openSync(unfinished, "wx", OWNER_ONLY);
  try {
    writeFileSync(fd, crypto.getRandomValues(new Uint8Array(KEY_SIZE)));
    fsyncSync(fd);
    linkSync(unfinished, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    closeSync(fd);
    unlinkSync(unfinished);
  }
}
