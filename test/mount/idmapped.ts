// The kernel's own idmapped mounts, mount_setattr(2), for tests to compare with.

import { expect } from "bun:test";
import { openSync, statSync, writeFileSync } from "node:fs";
import * as abi from "../../src/abi-linux.ts";
import { cstring, smallMemory } from "../../src/memory.ts";
import { writeU64 } from "../../src/request.ts";
import { mount_setattr, open_tree } from "../../src/syscall.ts";

const MOUNT_ATTR_IDMAP = 0x100000;

/**
 * A user namespace in which the ids 61001 to 61010 are what outside of it are 62001 to 62010; root
 * is root. The descriptor keeps it.
 */
export async function userNamespace(): Promise<number> {
  const child = Bun.spawn(["unshare", "--user", "sleep", "infinity"]);
  try {
    const path = `/proc/${child.pid}/ns/user`;
    const own = statSync("/proc/self/ns/user").ino;
    while (statSync(path).ino === own) {
      expect(child.exitCode).toBeNull();
      await new Promise(setImmediate);
    }
    for (const map of ["uid_map", "gid_map"])
      writeFileSync(`/proc/${child.pid}/${map}`, "0 0 1\n61001 62001 10\n");
    return openSync(path, "r");
  } finally {
    child.kill("SIGKILL");
  }
}

/** A descriptor of an idmapped copy of the mount that `path` lies on, which is mounted nowhere. */
export function idmapped(path: string, namespace: number): number {
  const flags = abi.OPEN_TREE_CLONE | abi.OPEN_TREE_CLOEXEC;
  const tree = open_tree(abi.AT_FDCWD, cstring(path).address, flags);
  expect(tree).toBeGreaterThanOrEqual(0);
  const attributes = smallMemory(abi.mount_attr.sizeof);
  writeU64(attributes.view, abi.mount_attr.attr_set, MOUNT_ATTR_IDMAP);
  writeU64(attributes.view, abi.mount_attr.userns_fd, namespace);
  const { address, size } = attributes;
  expect(mount_setattr(tree, cstring("").address, abi.AT_EMPTY_PATH, address, size)).toBe(0);
  return tree;
}
