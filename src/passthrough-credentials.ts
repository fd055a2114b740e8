// Acting as the caller. What creates something does it with the caller's user and group id, so that
// it belongs to the caller.
//
// All of this is of the calling thread alone: raw system calls, not libc's, which change all
// threads. What was changed is put back in `finally`; if that fails the process ends, because
// anything it did from then on would be done with the wrong rights.

import { FUSE_INVALID_UIDGID } from "./abi-fuse.ts";
import {
  _LINUX_CAPABILITY_VERSION_3,
  cap_data,
  cap_header,
  CAP_FOWNER,
  CAP_SETUID,
  CLONE_FS,
} from "./abi-linux.ts";
import { assert } from "./assert.ts";
import { EOVERFLOW, EPERM } from "./errno.ts";
import type { Context } from "./filesystem.ts";
import { smallMemory } from "./memory.ts";
import { hasCapability, readProc, statusField } from "./proc.ts";
import {
  capget,
  getegid,
  geteuid,
  prctl,
  setgroups,
  setresgid,
  setresuid,
  umask,
  unshare,
} from "./syscall.ts";

const PR_SET_SECUREBITS = 28;
const SECBIT_NO_SETUID_FIXUP = 1 << 2;
const UNCHANGED = -1;

export class Credentials {
  /** Whether this thread may become somebody else. */
  readonly privileged: boolean;
  /** Who this thread is itself. */
  readonly #uid = geteuid();
  readonly #gid = getegid();
  /** Whether the capabilities stay when the user id changes. */
  #keepsCapabilities = false;
  #umask = -1;

  constructor() {
    const header = smallMemory(cap_header.sizeof);
    const capabilities = smallMemory(2 * cap_data.sizeof);
    header.view.setUint32(cap_header.version, _LINUX_CAPABILITY_VERSION_3, true);
    const got = capget(header.address, capabilities.address);
    assert(got === 0, "a thread can read its own capabilities");
    const effective = capabilities.view.getUint32(cap_data.effective, true);
    this.privileged = (effective & (1 << CAP_SETUID)) !== 0;
  }

  /**
   * Prepares the calling thread, which is to use this; it gets a umask and a working directory of
   * its own.
   */
  prepare(): void {
    // The kernel has checked what the caller may do (default_permissions), with all its groups and
    // capabilities, which we don't know. So the id changes and the capabilities stay.
    this.#keepsCapabilities =
      this.privileged && prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) === 0;
    unshare(CLONE_FS);
    umask(0);
    this.#umask = 0;
  }

  /**
   * From here until `restore`, what is created belongs to the caller, and `mask` is the umask.
   * Returns 0 or -errno; `restore` has to follow in any case.
   */
  assume(context: Context, mask: number): number {
    if (mask !== this.#umask) {
      umask(mask);
      this.#umask = mask;
    }
    const { uid, gid } = context;
    if (!this.privileged || (uid === this.#uid && gid === this.#gid)) return 0;
    if (uid === FUSE_INVALID_UIDGID || gid === FUSE_INVALID_UIDGID) return -EOVERFLOW;
    const { groupCount, groups } = context.extensions;
    let result = 0;
    if (!this.#keepsCapabilities) result = setgroups(groupCount, groups);
    if (result === 0) result = setresgid(UNCHANGED, gid, UNCHANGED);
    if (result === 0) result = setresuid(UNCHANGED, uid, UNCHANGED);
    return result === 0 ? 0 : -EPERM;
  }

  restore(context: Context): void {
    if (!this.privileged || (context.uid === this.#uid && context.gid === this.#gid)) return;
    const restored =
      setresuid(UNCHANGED, this.#uid, UNCHANGED) === 0 &&
      setresgid(UNCHANGED, this.#gid, UNCHANGED) === 0 &&
      (this.#keepsCapabilities || setgroups(0, 0) === 0);
    assert(restored, "credentials can be put back");
  }

  /**
   * Whether the calling thread `pid` has a capability. Slow, for what hardly ever happens: the
   * kernel does not say it, so /proc has to be read. A caller that we can't see has none.
   */
  callerHas(pid: number, capability: number): boolean {
    return hasCapability(statusOf(pid), capability);
  }

  /** Whether the calling thread `pid` may do what a file's owner may; as slow as `callerHas`. */
  callerOwns(pid: number, uid: number): boolean {
    const fsuid = statusField(statusOf(pid), "Uid").split(/\s+/)[3];
    return fsuid === String(uid) || this.callerHas(pid, CAP_FOWNER);
  }

  /** Whether the calling thread `pid` is in a group; as slow as `callerHas`. */
  callerIsIn(pid: number, gid: number): boolean {
    const status = statusOf(pid);
    const fsgid = statusField(status, "Gid").split(/\s+/)[3];
    return [fsgid, ...statusField(status, "Groups").split(/\s+/)].includes(String(gid));
  }
}

/** /proc/PID/status; empty if the thread is gone, or of another pid namespace. */
function statusOf(pid: number): string {
  if (pid === 0) return "";
  try {
    return readProc(`${pid}/status`);
  } catch {
    return "";
  }
}
