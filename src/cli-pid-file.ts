// The file that says which process the daemon is.

import { accessSync, constants, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** Fails before there is a mount instead of after. */
export function checkPidFile(path: string): void {
  try {
    accessSync(dirname(path), constants.W_OK);
  } catch (error) {
    throw new Error(`cannot write the pid file ${path}: ${(error as Error).message}`);
  }
}

/** Under its name the file is always complete. It goes when the process does. */
export function writePidFile(path: string): void {
  const text = `${process.pid}\n`;
  const unfinished = `${path}.${process.pid}`;
  writeFileSync(unfinished, text);
  renameSync(unfinished, path);
  process.once("exit", () => {
    try {
      if (readFileSync(path, "utf8") === text) rmSync(path);
    } catch {
      // Someone else has removed it.
    }
  });
}
