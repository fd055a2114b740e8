// The background. A process with threads cannot be split by fork, so the executable starts itself
// again in a session of its own with the same arguments, and waits for a byte over a socket, whose
// number is in the environment. This is the first process; cli-readiness.ts is for the second.

/** In the environment of a process that was started to be the daemon. */
export const READY_FD = "FUSE_BACKEND_READY_FD";
/** What the second process tells the first: the mount answers; or this is not for it. */
export const READY = 0;
export const DECLINED = 1;

/** The number that the socket has in the second process. */
const CHILD_READY_FD = 3;

/**
 * Starts the daemon. Returns 0 when its mount answers, its exit code if it ended before, and
 * undefined if the command line does not ask for a daemon in the background.
 */
export async function startInBackground(): Promise<number | undefined> {
  const child = Bun.spawn(["/proc/self/exe", ...ownScript(), ...process.argv.slice(2)], {
    argv0: process.argv0,
    detached: true,
    stdio: ["ignore", "ignore", "inherit", "pipe"],
    env: { ...process.env, [READY_FD]: String(CHILD_READY_FD) },
  });
  const socket = Bun.file(child.stdio[CHILD_READY_FD] as number).stream();
  const { value } = await socket.getReader().read();
  if (value?.[0] === READY) return 0;
  if (value?.[0] === DECLINED) return undefined;
  const code = await child.exited;
  if (child.signalCode !== null) {
    const { writeError } = await import("./log.ts");
    writeError(`fuse-backend: the daemon was killed by ${child.signalCode} while it started\n`);
  }
  // It may have been told to end before it was ready; but nothing is mounted.
  return code === 0 ? 1 : code;
}

/** Run by `bun`, and not compiled, the program is a script that bun has to be given. */
function ownScript(): string[] {
  return Bun.main.startsWith("/$bunfs/") ? [] : [Bun.main];
}
