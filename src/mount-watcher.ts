// auto_unmount: a process that outlives the daemon and takes a dead mount away, however the daemon
// ended. It is a shell of a few hundred KB. The helper of libfuse has such a mode too, but in its
// version 3.14 it leaves the mounts of users in place, which it is not allowed to look at, and at
// all times those in use.

import { O_CLOEXEC } from "./abi-linux.ts";
import { errnoMessage } from "./errno.ts";
import { smallMemory } from "./memory.ts";
import { findFusermount, helperPath } from "./mount-fusermount.ts";
import { MountError, type MountOptions } from "./mount-options.ts";
import { close, geteuid, pipe2 } from "./syscall.ts";

// Waits for the end of its input, and unmounts if the daemon has left a mount behind that answers
// no more. Another one may be there by then, which is left alone.
const SCRIPT = `
trap "" HUP INT TERM
cat >/dev/null
case $(stat -f -- "$1" 2>&1 >/dev/null) in
*"not connected" | *"connection abort")
  shift
  exec "$@"
esac
`;

/** Starts it. The descriptor that is returned stays open as long as the daemon is there. */
export function startWatcher(options: MountOptions): number {
  const unmount =
    geteuid() === 0 ? ["umount", "-l"] : [findFusermount(options.fusermount), "-u", "-z"];
  const pipe = smallMemory(8);
  const error = pipe2(pipe.address, O_CLOEXEC);
  if (error < 0) throw new MountError(`cannot make a pipe: ${errnoMessage(error)}`);
  const [readEnd, writeEnd] = [pipe.view.getInt32(0, true), pipe.view.getInt32(4, true)];
  const { mountpoint } = options;
  try {
    const child = Bun.spawn(["/bin/sh", "-c", SCRIPT, "sh", mountpoint, ...unmount, mountpoint], {
      stdio: [readEnd, "ignore", "ignore"],
      // A session of its own: what ends the daemon from a terminal doesn't end it.
      detached: true,
      cwd: "/",
      env: { LC_ALL: "C", PATH: helperPath() },
    });
    child.unref();
    return writeEnd;
  } catch (failure) {
    close(writeEnd);
    throw new MountError(`cannot start /bin/sh for auto_unmount: ${(failure as Error).message}`);
  } finally {
    close(readEnd);
  }
}
