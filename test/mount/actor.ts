// A process that makes system calls for a test: another user, another owner of locks, one that may
// block. The script half reads requests [name, ...arguments] from standard input and makes the call
// of this name of calls.ts. It reads in a blocking way, without the event loop, so that signals
// find it in the system call.

import { map } from "../../src/memory.ts";
import * as sys from "../../src/syscall.ts";
import * as calls from "./calls.ts";
import { answered, failure, LineProcess, writeLine } from "./line-process.ts";

type Calls = typeof calls;
type Call = {
  [K in keyof Calls]: Calls[K] extends (...args: never[]) => unknown ? K : never;
}[keyof Calls];

const SIGUSR1 = 10;
/** The system call of an actor with nothing to do: a read of standard input. */
const IDLE = process.arch === "arm64" ? "63 0x0" : "0 0x0";

export class Actor extends LineProcess {
  constructor(name = "an actor") {
    super(new URL(import.meta.url), name);
  }

  async call<K extends Call>(
    name: K,
    ...args: Parameters<Calls[K]>
  ): Promise<ReturnType<Calls[K]>> {
    return answered(await this.request([name, ...args]));
  }

  /** Waits until the call in progress sits in the kernel: three looks in a row find it there. */
  async blocked(): Promise<void> {
    let before = "";
    for (let look = 0, alike = 0; look < 100_000; look++) {
      const now = this.syscall();
      alike = now === before && now !== "running" && !now.startsWith(IDLE) ? alike + 1 : 0;
      if (alike === 2) return;
      before = now;
      await new Promise(setImmediate);
    }
    throw new Error(`${this.name} does not block`);
  }

  /** Sends a signal that makes the call in progress fail with EINTR. */
  interrupt(): void {
    process.kill(this.pid, SIGUSR1);
  }
}

/**
 * Answers the requests that come from standard input, in the process of the script, until it ends.
 */
export function serve<Request>(answer: (request: Request) => unknown): void {
  process.on("SIGUSR1", () => {});
  calls.interruptBy(SIGUSR1);
  const input = map(1 << 20);
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const length = sys.read(0, input.address, input.size);
    if (length <= 0) return;
    const text = rest + decoder.decode(input.bytes.subarray(0, length), { stream: true });
    const lines = text.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      let reply: unknown;
      try {
        reply = answer(JSON.parse(line) as Request) ?? null;
      } catch (error) {
        reply = failure(error);
      }
      writeLine(JSON.stringify(reply));
    }
  }
}

if (import.meta.main) {
  serve(([name, ...args]: [Call, ...never[]]) => {
    const call = calls[name] as (...args: never[]) => unknown;
    return call(...args);
  });
  process.exit(0);
}
