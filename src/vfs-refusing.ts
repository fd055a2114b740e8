// A file system that refuses everything with one error: stands in for one that is not there any
// more, or whose caller can't be served.

import { FileSystem } from "./filesystem.ts";

/** What has nothing to refuse: it is told, not asked. */
const SILENT = new Set(["constructor", "init", "connected", "destroy", "forget", "notifyReply"]);
/** What lets go of something, which is gone already. */
const ENDING = new Set(["release", "releasedir"]);

/** Answers every operation with `-errno`, but for those that only let go of something. */
export function refusing(errno: number): FileSystem {
  class Refusing extends FileSystem {}
  for (const name of Object.getOwnPropertyNames(FileSystem.prototype)) {
    const result = ENDING.has(name) ? 0 : -errno;
    if (!SILENT.has(name)) Object.defineProperty(Refusing.prototype, name, { value: () => result });
  }
  return new Refusing();
}
