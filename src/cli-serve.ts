// Running the daemon as a process among others: in the foreground or the background, with a pid
// file, known to the service manager.

import { startInBackground } from "./cli-background.ts";
import type { Readiness } from "./cli-readiness.ts";
import type { DaemonOptions } from "./daemon.ts";
import { log } from "./log.ts";
import { notifyServiceManager } from "./notify-ready.ts";

/**
 * Serves until the end, and returns the exit code. `ready` is to be called when the mount answers,
 * `stopping` when the end begins.
 */
export type RunDaemon = (
  options: DaemonOptions,
  ready: () => void,
  stopping: () => void,
) => Promise<number>;

/**
 * Returns the exit code: of the daemon, or in the background that of its start. The process that is
 * to be the daemon in the background has `readiness`.
 */
export async function serve(
  options: DaemonOptions,
  runDaemon: RunDaemon,
  readiness: Readiness | undefined,
): Promise<number> {
  if (options.background && readiness === undefined) return (await startInBackground()) ?? 1;
  // The paths are absolute by now, and a daemon keeps no directory busy.
  if (readiness !== undefined) process.chdir("/");
  if (options.pidFile !== undefined) pidFileModule().checkPidFile(options.pidFile);
  let failed = false;
  const ready = (): void => {
    try {
      if (options.pidFile !== undefined) pidFileModule().writePidFile(options.pidFile);
    } catch (error) {
      failed = true;
      log.error(`cannot write the pid file ${options.pidFile}: ${(error as Error).message}`);
    }
    if (!failed) notifyServiceManager(`READY=1\nMAINPID=${process.pid}`);
    if (!failed && readiness?.tell() === false) {
      failed = true;
      log.error("whoever started this was gone before the mount answered");
    }
    if (failed) process.kill(process.pid, "SIGTERM");
  };
  const code = await runDaemon(options, ready, () => notifyServiceManager("STOPPING=1"));
  return failed ? 1 : code;
}

/** Loaded only where there is to be such a file: the start is to be quick. */
function pidFileModule(): typeof import("./cli-pid-file.ts") {
  return require("./cli-pid-file.ts");
}
