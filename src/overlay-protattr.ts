// That a file may not be changed (immutable) or only be added to (append-only), as chattr(1) sets
// it.
//
// A file of the upper layer can't be so on the host: it could not get its name nor attributes of
// the overlay's own, and nothing could be copied up into such a directory. So there it is the
// attribute `overlay.protattr`, a text of `a` and `i`, as the kernel's overlayfs keeps it since
// 5.15.

import {
  AT_EMPTY_PATH,
  AT_SYMLINK_NOFOLLOW,
  STATX_ATTR_APPEND,
  STATX_ATTR_IMMUTABLE,
  statx,
} from "./abi-linux.ts";
import { log } from "./log.ts";
import { smallMemory } from "./memory.ts";
import { NODE_APPEND, NODE_IMMUTABLE } from "./overlay-node-record.ts";
import type { OverlayXattrs } from "./overlay-xattrs.ts";
import { EMPTY } from "./passthrough-base.ts";
import { statx as statxCall } from "./syscall.ts";

// Scratch memory of the thread.
const attributes = smallMemory(statx.sizeof);

/** What the host says of a file: NODE_IMMUTABLE, NODE_APPEND or both; 0 if it says nothing. */
export function hostProtection(fd: number): number {
  const flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
  if (statxCall(fd, EMPTY.address, flags, 0, attributes.address) < 0) return 0;
  const found = attributes.view.getUint32(statx.stx_attributes, true);
  return (
    (found & STATX_ATTR_IMMUTABLE ? NODE_IMMUTABLE : 0) |
    (found & STATX_ATTR_APPEND ? NODE_APPEND : 0)
  );
}

/** What the attribute of an upper file says. */
export function storedProtection(xattrs: OverlayXattrs, fd: number): number {
  let found = 0;
  for (const letter of xattrs.readText(fd, "protattr") ?? "") {
    if (letter === "i") found |= NODE_IMMUTABLE;
    else if (letter === "a") found |= NODE_APPEND;
    else {
      log.warnLimited(`a file in the upper layer has a protattr that is not known: "${letter}"`);
      break;
    }
  }
  return found;
}

/** Returns 0 or -errno. */
export function storeProtection(xattrs: OverlayXattrs, fd: number, protection: number): number {
  if (protection === 0) return xattrs.remove(fd, "protattr");
  const append = protection & NODE_APPEND ? "a" : "";
  const immutable = protection & NODE_IMMUTABLE ? "i" : "";
  return xattrs.writeText(fd, "protattr", append + immutable);
}
