// What a person is told: lines on standard error, as text or as JSON. Workers block in system
// calls, where a stream would never be flushed, so each line is one write(2).

import { createConsola, type LogLevel } from "consola/core";
import { LIMITED_LINES_PER_MINUTE } from "./limits.ts";
import { map } from "./memory.ts";
import { write } from "./syscall.ts";

export const LOG_LEVELS = ["error", "warn", "info", "debug"] as const;
export type Level = (typeof LOG_LEVELS)[number];
export type Format = "text" | "json";
export type OnceLevel = "info" | "warn";

// consola's numbers: errors are 0, warnings 1, info 3, debug 4.
const CONSOLA_LEVELS: Record<Level, LogLevel> = { error: 0, warn: 1, info: 3, debug: 4 };

const STDERR = 2;
const line = map(16 * 4096);
const encoder = new TextEncoder();

/** Writes `text` to standard error at once; what does not fit in 64 KiB is cut off. */
export function writeError(text: string): void {
  const { written } = encoder.encodeInto(text, line.bytes);
  write(STDERR, line.address, written);
}

let format: Format = "text";
let name = "fuse-backend";

const consola = createConsola({
  throttle: 0, // Held-back repetitions would wait for a timer that a blocked worker never runs.
  reporters: [
    {
      log({ type, args, date }) {
        const message = args.join(" ");
        if (format === "json")
          writeError(`${JSON.stringify({ time: date, level: type, name, message })}\n`);
        else writeError(`${name}: ${type === "info" ? "" : `${type}: `}${message}\n`);
      },
    },
  ],
});

const said = new Set<string>();
let sayOnce: ((level: OnceLevel, message: string) => void) | undefined;
let minute = 0;
let limitedLines = 0;

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

export const log = {
  /**
   * Sets the level, format and the name lines begin with, for this thread. `sayOnce` takes the
   * lines of `once` to the thread that says them, where there are several.
   */
  configure(options: {
    level?: Level;
    format?: Format;
    name?: string;
    sayOnce?: (level: OnceLevel, message: string) => void;
  }): void {
    if (options.level !== undefined) consola.level = CONSOLA_LEVELS[options.level];
    if (options.format !== undefined) format = options.format;
    if (options.name !== undefined) name = options.name;
    if (options.sayOnce !== undefined) sayOnce = options.sayOnce;
  },

  debug(message: string): void {
    consola.debug(message);
  },
  info(message: string): void {
    consola.info(message);
  },
  warn(message: string): void {
    consola.warn(message);
  },
  /** With an error, its stack follows. */
  error(message: string, error?: unknown): void {
    consola.error(error === undefined ? message : `${message}: ${describe(error)}`);
  },

  /** Says it the first time, and never again. */
  once(level: OnceLevel, message: string): void {
    if (said.has(message)) return;
    said.add(message);
    if (sayOnce === undefined) consola[level](message);
    else sayOnce(level, message);
  },

  /** For what untrusted input can cause: a bounded number of lines a minute. */
  warnLimited(message: string): void {
    const now = Math.floor(performance.now() / 60_000);
    if (now !== minute) {
      minute = now;
      limitedLines = 0;
    }
    limitedLines++;
    if (limitedLines <= LIMITED_LINES_PER_MINUTE) consola.warn(message);
    if (limitedLines === LIMITED_LINES_PER_MINUTE)
      consola.warn("further lines of this kind are left out for up to a minute");
  },
};
