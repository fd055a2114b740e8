// Telling the service manager that the daemon serves, or ends: sd_notify(3), a datagram to the
// socket that NOTIFY_SOCKET names. Without that variable nothing happens.

import { AF_UNIX, iovec, msghdr, O_CLOEXEC } from "./abi-linux.ts";
import { EINVAL } from "./errno.ts";
import { cstring, smallMemory } from "./memory.ts";
import { close, sendmsg, socket } from "./syscall.ts";

const SOCK_DGRAM = 2;
const SUN_PATH_OFFSET = 2;
const SUN_PATH_MAX = 108;

/**
 * Sends lines such as `READY=1` or `STOPPING=1`. Returns 0, or `-errno`: a service manager that
 * doesn't listen is no reason to fail.
 */
export function notifyServiceManager(
  lines: string,
  address = process.env["NOTIFY_SOCKET"],
): number {
  if (address === undefined || address === "") return 0;
  const name = socketName(address);
  if (name === undefined) return -EINVAL;
  const fd = socket(AF_UNIX, SOCK_DGRAM | O_CLOEXEC, 0);
  if (fd < 0) return fd;
  const text = cstring(lines);
  const vector = smallMemory(iovec.sizeof);
  vector.view.setBigUint64(iovec.iov_base, BigInt(text.address), true);
  vector.view.setBigUint64(iovec.iov_len, BigInt(Buffer.byteLength(lines)), true);
  const message = smallMemory(msghdr.sizeof);
  message.view.setBigUint64(msghdr.msg_name, BigInt(name.address), true);
  message.view.setUint32(msghdr.msg_namelen, name.length, true);
  message.view.setBigUint64(msghdr.msg_iov, BigInt(vector.address), true);
  message.view.setBigUint64(msghdr.msg_iovlen, 1n, true);
  const sent = sendmsg(fd, message.address, 0);
  close(fd);
  return Math.min(sent, 0);
}

/**
 * A sockaddr_un. An address that begins with `@` is abstract: a NUL byte takes its place, and none
 * ends it.
 */
function socketName(address: string): { address: number; length: number } | undefined {
  const path = new TextEncoder().encode(address);
  const abstract = address.startsWith("@");
  if (!(abstract || address.startsWith("/")) || path.length >= SUN_PATH_MAX) return undefined;
  const memory = smallMemory(SUN_PATH_OFFSET + SUN_PATH_MAX);
  memory.view.setUint16(0, AF_UNIX, true);
  memory.bytes.set(path, SUN_PATH_OFFSET);
  if (abstract) memory.bytes[SUN_PATH_OFFSET] = 0;
  return {
    address: memory.address,
    length: SUN_PATH_OFFSET + path.length + (abstract ? 0 : 1),
  };
}
