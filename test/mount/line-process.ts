// A script in a process of its own that answers requests: a line of JSON in, a line of JSON out, in
// order. Whoever works on a mount does it in one of these, so that a mount that hangs costs a
// time-out and not the test run: after a time-out the process is killed and nobody waits for it.

import { readFileSync } from "node:fs";
import { map } from "../../src/memory.ts";
import * as sys from "../../src/syscall.ts";

const DEFAULT_TIMEOUT_MS = 20_000;

interface Waiting {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** An answer that says that the request failed. */
export interface Failure {
  readonly failed: string;
}

export class LineProcess {
  readonly name: string;
  readonly #process: Bun.Subprocess<"pipe", "pipe", "inherit">;
  readonly #waiting: Waiting[] = [];
  #ended: Error | undefined;

  /** Runs the script at `url` by Bun. `name` is for messages. */
  constructor(url: URL, name: string) {
    this.name = name;
    // The path goes by argument, so that Bun's own `-e` and the like can't interfere.
    this.#process = Bun.spawn([process.execPath, url.pathname], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    void this.#read();
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** False once the process has ended or was killed. */
  get alive(): boolean {
    return this.#ended === undefined;
  }

  async request(request: unknown, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<unknown> {
    if (this.#ended !== undefined) throw this.#ended;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#waiting.push({ resolve, reject });
    const timer = setTimeout(() => {
      const where = this.syscall();
      this.kill(
        `${this.name} did not answer within ${timeoutMs} ms; it is in system call ${where}`,
      );
    }, timeoutMs);
    try {
      this.#process.stdin.write(`${JSON.stringify(request)}\n`);
      void this.#process.stdin.flush();
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The number of the system call that the main thread is in, then its arguments; or "running". */
  syscall(): string {
    try {
      return readFileSync(`/proc/${this.pid}/syscall`, "latin1").trim();
    } catch {
      return "unknown: it has ended";
    }
  }

  kill(reason = `${this.name} was killed`): void {
    this.#end(new Error(reason));
    this.#process.kill("SIGKILL");
  }

  [Symbol.dispose](): void {
    this.kill();
  }

  #end(error: Error): void {
    this.#ended ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of this.#process.stdout) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#waiting.shift()?.resolve(JSON.parse(line));
    }
    this.#end(new Error(`${this.name} ended unexpectedly`));
  }
}

/** An error thrown while a request was served, as an answer. */
export function failure(error: unknown): Failure {
  return { failed: error instanceof Error ? error.message : String(error) };
}

/** The answer, unless it says that the request failed. */
export function answered<T>(answer: unknown): T {
  if (typeof answer === "object" && answer !== null && "failed" in answer)
    throw new Error(String(answer.failed));
  return answer as T;
}

const output = map(1 << 20);

/** Sends an answer, in the process of the script. */
export function writeLine(text: string): void {
  const bytes = new TextEncoder().encode(`${text}\n`);
  for (let at = 0; at < bytes.length;) {
    const piece = bytes.subarray(at, at + output.size);
    output.bytes.set(piece);
    const length = sys.write(1, output.address, piece.length);
    if (length <= 0) process.exit(1); // Nobody wants to know any more.
    at += length;
  }
}
