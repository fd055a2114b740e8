// Which workers serve what. Of /dev/fuse all of them read, and whoever has time takes the next
// request. Of io_uring each looks after the queues of some CPUs, and one reads /dev/fuse, for what
// does not come by the ring.

import { FUSE_OVER_IO_URING } from "./abi-fuse.ts";
import { errnoMessage } from "./errno.ts";
import type { Connection } from "./filesystem.ts";
import { CPUS_MAX, RING_QUEUES_MAX, WORKERS_MAX } from "./limits.ts";
import { readProc, readText, statusField } from "./proc.ts";
import { tryRing } from "./uring.ts";
import { NOT_OFFERED, offersRings } from "./uring-offer.ts";

/** Whether requests come by io_uring; "auto": if the kernel offers it. */
export type IoUring = "auto" | "on" | "off";

/** Workers that serve the same, and so can stand in for one another. */
export interface Crew {
  /** Their numbers; the crew grows when all of them are stuck. */
  readonly workers: number[];
  /** Numbers of the CPUs whose queues they serve; none for /dev/fuse. */
  readonly queues: readonly number[];
  /** Where they run; none for wherever they like. */
  readonly cpus: readonly number[];
}

/**
 * Plans `workers` workers, and one more for /dev/fuse where there are rings. The first numbers are
 * of those without whom nobody is answered, since they start first.
 */
export function planCrews(connection: Connection, workers: number): Crew[] {
  if (!(connection.flags2 & FUSE_OVER_IO_URING))
    return [{ workers: range(0, workers), queues: [], cpus: [] }];
  const { possible, allowed } = cpusOfThisProcess();
  const rings = ringsFor(workers);
  const queues: number[][] = range(0, rings).map(() => []);
  const cpus: number[][] = range(0, rings).map(() => []);
  for (let cpu = 0; cpu < possible; cpu++) {
    const place = allowed.indexOf(cpu);
    // CPUs that are close together in number often are so in other ways.
    const ring = place < 0 ? cpu % rings : Math.floor((place * rings) / allowed.length);
    queues[ring]!.push(cpu);
    if (place >= 0) cpus[ring]!.push(cpu);
  }
  return [
    { workers: [rings], queues: [], cpus: [] },
    ...queues.map((own, ring) => ({ workers: [ring], queues: own, cpus: cpus[ring]! })),
  ];
}

/** Why there can be no rings, for a person; undefined if there can. */
export function whyNoRings(workers: number): string | undefined {
  if (offersRings() === false) return NOT_OFFERED;
  const result = tryRing();
  if (result < 0)
    return (
      `this process may not use io_uring (${errnoMessage(result)}): ` +
      "look at the sysctl kernel.io_uring_disabled, and at the seccomp profile of the container"
    );
  const { possible } = cpusOfThisProcess();
  if (possible <= CPUS_MAX && Math.ceil(possible / ringsFor(workers)) <= RING_QUEUES_MAX)
    return undefined;
  return `${workers} workers are too few for the queues of ${possible} CPUs`;
}

function ringsFor(workers: number): number {
  return Math.min(workers, WORKERS_MAX - 1, cpusOfThisProcess().allowed.length);
}

/** How many CPUs there may come to be, and those that this process may run on. */
function cpusOfThisProcess(): { possible: number; allowed: readonly number[] } {
  const possible = cpuList(readText("/sys/devices/system/cpu/possible"));
  const allowed = cpuList(statusField(readProc("self/status"), "Cpus_allowed_list"));
  return { possible: possible.length, allowed };
}

/** The numbers in a list such as "0-3,8". */
export function cpuList(list: string): number[] {
  return list
    .trim()
    .split(",")
    .flatMap((part) => {
      const [first = 0, last = first] = part.split("-").map(Number);
      return range(first, last + 1);
    });
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}
