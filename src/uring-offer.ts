// Whether the kernel offers FUSE over io_uring, as far as that can be told without mounting.

import { readText } from "./proc.ts";

const PARAMETER = "/sys/module/fuse/parameters/enable_uring";

/** What to tell a person who wants it. */
export const NOT_OFFERED = `the kernel does not offer it. It takes Linux 6.14, and as root: echo Y > ${PARAMETER}`;

/** Undefined on older kernels, and where the module is not loaded yet. */
export function offersRings(): boolean | undefined {
  try {
    return readText(PARAMETER).startsWith("Y");
  } catch {
    return undefined;
  }
}
