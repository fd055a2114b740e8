// Whether this process is going to serve, as far as that shows before the command line is read: a
// worker takes longer to start than everything else, and so starts first. A wrong forecast costs
// time and nothing else.

/** In the environment of a process that was started to be the daemon, see cli-background.ts. */
export const READY_FD = "FUSE_BACKEND_READY_FD";

const SERVING = ["passthrough", "overlay", "vfs"];
/** With these another process serves, or none. */
const ELSEWHERE = ["--background", "--help", "-h", "--version"];

export function expectsToServe(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): boolean {
  if (environment[READY_FD] !== undefined) return true;
  return SERVING.includes(args[0] ?? "") && !args.some((word) => ELSEWHERE.includes(word));
}
