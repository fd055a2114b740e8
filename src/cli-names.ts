// The names that tell what the program is to do: those of commands, and those that it is called by.

/** The commands that serve. */
export const COMMAND_NAMES = ["passthrough", "overlay", "vfs"] as const;

/** The last part of a name that asks for arguments as fuse-overlayfs has them, or undefined. */
export function overlayLinkName(invokedAs: string): string | undefined {
  const name = invokedAs.slice(invokedAs.lastIndexOf("/") + 1);
  return /overlay(fs)?$/.test(name) ? name : undefined;
}

/**
 * NAME of `mount.fuse.NAME`, "" for `mount.fuse`, undefined if the program was called by another
 * name.
 */
export function mountHelperName(invokedAs: string): string | undefined {
  const name = invokedAs.slice(invokedAs.lastIndexOf("/") + 1);
  return /^mount\.fuse3?(?:\.(.*))?$/s
    .exec(name)
    ?.slice(1)
    .map((suffix) => suffix ?? "")[0];
}
