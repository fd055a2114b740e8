// What a POSIX file system on Linux does, as a map from names to cases (see posix-place.ts).

import * as abi from "../../src/abi-linux.ts";
import { attributeCases } from "./posix-cases-attributes.ts";
import { dataCases } from "./posix-cases-data.ts";
import { directoryCases } from "./posix-cases-directories.ts";
import { lockCases } from "./posix-cases-locks.ts";
import { nameCases } from "./posix-cases-names.ts";
import { openCases } from "./posix-cases-open.ts";
import { processCases } from "./posix-cases-processes.ts";
import { xattrCases } from "./posix-cases-xattrs.ts";
import {
  as,
  chmod,
  chown,
  link,
  mkdir,
  mknod,
  must,
  open,
  pread,
  removexattr,
  rename,
} from "./calls.ts";
import { rmdir, setxattr, symlink, truncate, tryOpen, unlink, utimens } from "./calls.ts";
import { alice, type Cases, type Place } from "./posix-place.ts";

export const posixCases: Cases = {
  ...openCases,
  ...nameCases,
  ...directoryCases,
  ...dataCases,
  ...attributeCases,
  ...xattrCases,
  ...lockCases,
  ...processCases,
};

export interface Difference {
  readonly why: string;
  /** Only with one of these options; otherwise always. */
  readonly with?: readonly string[];
  /** Not with one of these options. */
  readonly without?: readonly string[];
  /** What a mount shows instead; without it, the case only has to come to an end. */
  readonly mounted?: unknown;
}

/** The difference that a case may show on a mount with these options. */
export function kernelDifference(name: string, options: readonly string[]): Difference | undefined {
  const { [name]: difference } = kernelDifferences;
  const has = (some: readonly string[]): boolean => some.some((option) => options.includes(option));
  const { with: with_, without = [] } = difference ?? {};
  return (with_ === undefined || has(with_)) && !has(without) ? difference : undefined;
}

const LOCAL_TIMES = "with writeback the kernel keeps the times itself, to the clock tick";

/** Where the kernel's FUSE module decides by itself and no daemon is asked. */
const kernelDifferences: Readonly<Record<string, Difference>> = {
  "fallocate takes a range out and puts one in": {
    why: "fuse_file_fallocate() refuses both modes",
    mounted: Array.from({ length: 2 }).flatMap(() => [
      "EOPNOTSUPP",
      40_960,
      "40960 bytes, c526a04155a283f00e1c94a780a6ee71",
    ]),
  },
  "F_GETLK names no owner of an OFD lock": {
    why: "a lock request does not tell OFD locks from those of processes",
    mounted: [0, [abi.F_WRLCK, 10, 10, "this"]],
  },
  "O_DIRECT set later refuses what is no whole block": {
    without: ["--no-kernel-passthrough", "--writeback"],
    why: "the kernel reads by itself, from a file that was opened without O_DIRECT",
    mounted: 100,
  },
  "a write beyond the largest file": {
    with: ["--writeback"],
    why: "the cache takes it, and fsync reports the failure",
    mounted: [1, "EFBIG"],
  },
  "a hole takes no blocks": {
    with: ["--writeback"],
    why: "sending the pages later does not make the kernel ask for the attributes again",
  },
  "changes of attributes change ctime alone": { with: ["--writeback"], why: LOCAL_TIMES },
  "times out of the file system's range are brought into it": {
    with: ["--writeback"],
    why: LOCAL_TIMES,
  },
  "truncate by path to the size that a file has": { with: ["--writeback"], why: LOCAL_TIMES },
};

/** Everything that a read-only file system refuses; expects the file "f" and the directory "d". */
export function readOnlyCase({ at }: Place): unknown {
  const reader = must(open(at("f"), abi.O_RDONLY));
  return {
    allowed: [pread(reader, 4, 0), tryOpen(at("d"), abi.O_RDONLY)],
    refused: [
      tryOpen(at("f"), abi.O_WRONLY),
      tryOpen(at("f"), abi.O_RDONLY | abi.O_TRUNC),
      tryOpen(at("new"), abi.O_CREAT | abi.O_RDWR),
      tryOpen(at("d"), abi.O_TMPFILE | abi.O_RDWR),
      truncate(at("f"), 0),
      mkdir(at("new")),
      mknod(at("new"), abi.S_IFIFO | 0o644),
      symlink("x", at("new")),
      link(at("f"), at("new")),
      unlink(at("f")),
      rmdir(at("d")),
      rename(at("f"), at("new")),
      chmod(at("f"), 0o600),
      chown(at("f"), 1, 1),
      utimens(at("f")),
      setxattr(at("f"), "user.x", "v"),
      removexattr(at("f"), "user.x"),
      as(alice, () => tryOpen(at("f"), abi.O_WRONLY)),
    ],
  };
}
