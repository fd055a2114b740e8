// Mounting and unmounting through fusermount3, the set-user-id helper of libfuse: the way of users
// who are not root. The helper makes the mount and sends its descriptor over the socket whose
// number it finds in _FUSE_COMMFD.

import {
  AF_UNIX,
  cmsghdr,
  iovec,
  MFD_CLOEXEC,
  msghdr,
  MSG_CMSG_CLOEXEC,
  O_CLOEXEC,
  SCM_RIGHTS,
  SOCK_STREAM,
  SOL_SOCKET,
} from "./abi-linux.ts";
import { EBUSY, EINTR, EINVAL, EPERM, errnoMessage } from "./errno.ts";
import { cstring, map, smallMemory } from "./memory.ts";
import { helperOptions, MountError, type MountOptions } from "./mount-options.ts";
import { close, memfd_create, pread64, recvmsg, socketpair } from "./syscall.ts";

const DEFAULT_HELPER = "fusermount3";
/** The descriptor number that the helper finds its end of the socket under. */
const HELPER_SOCKET = 3;
const HELPER_TEXT_MAX = 4096;

/** Mounts, and returns the /dev/fuse descriptor of the mount. */
export function mountWithHelper(options: MountOptions): number {
  const helper = findFusermount(options.fusermount);
  const list = helperOptions(options).join(",");
  const [ours, theirs] = makeSocketPair();
  const errors = memfd_create(cstring("fusermount-errors").address, MFD_CLOEXEC);
  try {
    const child = Bun.spawn([helper, "-o", list, "--", options.mountpoint], {
      stdio: ["ignore", "ignore", errors, theirs],
      env: { ...process.env, _FUSE_COMMFD: String(HELPER_SOCKET) },
    });
    // Nobody else waits for it: it has done its work when the descriptor is here.
    child.unref();
  } catch (error) {
    close(ours);
    close(errors);
    throw new MountError(`cannot start ${helper}: ${(error as Error).message}`);
  } finally {
    // Then the socket ends when the helper does.
    close(theirs);
  }
  const device = receiveDescriptor(ours);
  const said = readText(errors);
  close(errors);
  close(ours);
  if (device < 0) throw new MountError(helperFailure(helper, options.mountpoint, device, said));
  return device;
}

/** Returns 0 or `-errno`. */
export function unmountWithHelper(
  mountpoint: string,
  lazy: boolean,
  fusermount: string | undefined,
): number {
  const flags = lazy ? ["-u", "-z"] : ["-u"];
  const child = Bun.spawnSync([findFusermount(fusermount), ...flags, "--", mountpoint], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, LC_ALL: "C" },
  });
  if (child.exitCode === 0) return 0;
  const said = child.stderr.toString();
  if (/busy/i.test(said)) return -EBUSY;
  return /not found|not mounted|invalid argument/i.test(said) ? -EINVAL : -EPERM;
}

/** The path of the helper, by `--fusermount` or the PATH. */
export function findFusermount(given: string | undefined): string {
  const name = given ?? DEFAULT_HELPER;
  const found = Bun.which(name, { PATH: helperPath() });
  if (found !== null) return found;
  throw new MountError(
    given === undefined
      ? `cannot find ${name}, which mounts for users who are not root: ` +
          "install fuse3, or give its path with --fusermount"
      : `cannot find ${name}, given with --fusermount, or it is not executable`,
  );
}

/** mount(8) and systemd start programs with short or empty PATHs. */
export function helperPath(): string {
  return `${process.env["PATH"] ?? ""}:/usr/bin:/bin:/usr/sbin:/sbin`;
}

function helperFailure(helper: string, mountpoint: string, error: number, said: string): string {
  const what = `cannot mount on ${mountpoint} with ${helper}`;
  // It ends what it says with a newline, and begins with its own name.
  const reason = said.trim().replace(/^\S*fusermount3?: /, "");
  if (reason === "" && error === -EPERM) return `${what}: it ended without sending a descriptor`;
  if (reason === "") return `${what}: ${errnoMessage(error)}`;
  const advice = /fuse device not found|failed to open \/dev\/fuse/.test(reason)
    ? "; users need read and write permission on /dev/fuse"
    : "";
  return `${what}: ${reason.replaceAll("\n", "; ")}${advice}`;
}

function makeSocketPair(): [ours: number, theirs: number] {
  const pair = smallMemory(8);
  const error = socketpair(AF_UNIX, SOCK_STREAM | O_CLOEXEC, 0, pair.address);
  if (error < 0) throw new MountError(`cannot make a socket pair: ${errnoMessage(error)}`);
  return [pair.view.getInt32(0, true), pair.view.getInt32(4, true)];
}

/**
 * Waits for a descriptor. Returns it, or `-errno`; EPERM if the other end was closed without
 * sending one.
 */
export function receiveDescriptor(socket: number): number {
  const data = smallMemory(8);
  const vector = smallMemory(iovec.sizeof);
  vector.view.setBigUint64(iovec.iov_base, BigInt(data.address), true);
  vector.view.setBigUint64(iovec.iov_len, 1n, true);
  const control = smallMemory(cmsghdr.sizeof + 8);
  const message = smallMemory(msghdr.sizeof);
  message.view.setBigUint64(msghdr.msg_iov, BigInt(vector.address), true);
  message.view.setBigUint64(msghdr.msg_iovlen, 1n, true);
  message.view.setBigUint64(msghdr.msg_control, BigInt(control.address), true);
  message.view.setBigUint64(msghdr.msg_controllen, BigInt(control.size), true);
  let size: number;
  do size = recvmsg(socket, message.address, MSG_CMSG_CLOEXEC);
  while (size === -EINTR);
  if (size < 0) return size;
  const received =
    message.view.getBigUint64(msghdr.msg_controllen, true) >= BigInt(cmsghdr.sizeof + 4) &&
    control.view.getInt32(cmsghdr.cmsg_level, true) === SOL_SOCKET &&
    control.view.getInt32(cmsghdr.cmsg_type, true) === SCM_RIGHTS;
  return size > 0 && received ? control.view.getInt32(cmsghdr.sizeof, true) : -EPERM;
}

function readText(fd: number): string {
  const text = map(HELPER_TEXT_MAX);
  const size = pread64(fd, text.address, HELPER_TEXT_MAX, 0);
  return new TextDecoder().decode(text.bytes.subarray(0, Math.max(size, 0)));
}
