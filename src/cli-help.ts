// What --help prints. citty lays it out; it is loaded only for this, since starting must be quick.

import { renderUsage, type ArgsDef, type CommandDef } from "citty";
import {
  DIRECTORY_OPTIONS,
  GLOBAL_OPTIONS,
  OVERLAY_OPTIONS,
  PASSTHROUGH_OPTIONS,
  VFS_OPTIONS,
  type Option,
} from "./cli-options.ts";

const COLUMNS = 100;

const MAIN_META = {
  name: "fuse-backend",
  description: "Serve directories through FUSE",
};

const MOUNT_OPTIONS_HELP = `
MOUNT OPTIONS

  Given with -o, as with mount(8): separated by commas, \`_\` or \`-\` within a name, the last
  one counts. All options above but --options, --mount, --config, --background, --help and
  --version can be given here too: -o workers=4,no_xattr.

  allow_other       Others may use the mount. The default is only who mounts it, and not even root.
  auto_unmount      The mount goes when the daemon is gone, however it ended. The default is that it
                    stays after a crash.
  ro, rw            Read only, or not. The default is rw.
  suid, nosuid      Set-user-id bits count, or not. The default is nosuid, but suid if root mounts
                    by mount(8). suid is for root.
  dev, nodev        Device files work, or not. The default is nodev, but dev if root mounts
                    by mount(8). dev is for root.
  exec, noexec      Programs can be run, or not. The default is exec.
  noatime, atime    Access times are not updated, or are. The default is atime.
  nodiratime, relatime, strictatime, sync, dirsync, nosymfollow
                    As with mount(8), and their opposites. The default is relatime.
  fsname=NAME       The source that /proc/mounts shows. The default is SRC, or fuse-backend-vfs.
  subtype=NAME      The type that it shows is fuse.NAME. The default is fuse-backend.
  max_read=BYTES    The largest read. The default is the kernel's.

  default_permissions is always on: the kernel checks permissions. defaults, auto, noauto, user,
  users, owner, group, _netdev, nofail, comment=... and x-... are for others, and ignored.
`;

const ENDING = `
Every switch has its opposite: --writeback and --no-writeback, --xattr and --no-xattr.

SIGINT, SIGTERM and SIGHUP unmount, and so it ends, as by umount MNT. Exit codes: 0, 1 if something
failed, 2 if the command line is wrong.
`;

const MOUNTS_HELP = `
MOUNTS

  --mount PATH=passthrough:SRC[,OPTION...] serves SRC, which is created if missing, at PATH of the
  tree that MNT shows. PATH is / or such as /a/b; directories that only lead there are read only. A
  comma in SRC is written \\, and a backslash \\\\. Options are those of one mount, as in -o:
  --mount /a/b=passthrough:/srv/b,cache=always,no_readdir

  --mount PATH=overlay:LIST serves an overlay there; LIST is as the -o of fuse-backend overlay:
  --mount /a=overlay:lowerdir=/l1:/l2,upperdir=/u,workdir=/w

  --config FILE says the same in JSON; a relative "source" is from the directory of FILE:

    {
      "mounts": [
        { "path": "/a/b", "backend": "passthrough", "source": "/srv/b", "cache": "always" }
      ],
      "uid-map": ["100000:0:65536"]
    }

  Switches are true or false, numbers are numbers, "uid-map" and "gid-map" are lists. Beside
  "mounts", "uid-map", "gid-map", "squash-uid" and "squash-gid" are for all mounts, on top of their
  own, as --uid-map and the others are. Of one mount, by --mount or in FILE, there are:

`;

const RELOAD = `
With --config, SIGHUP does not end it: the file is read again. What was added is mounted, what was
removed is unmounted, what has changed is said. A file with an error changes nothing.
`;

const AS_HELPER = `
Linked as /sbin/mount.fuse.fuse-backend, it serves mount -t fuse.fuse-backend SRC MNT -o LIST and
lines of /etc/fstab. There -o remount changes the flags of a mount that is in place.
`;

const OVERLAY_HELP = `
OVERLAY OPTIONS

  Given with -o as well. A comma, colon or backslash in a path has a backslash before it.

  lowerdir=DIR[:DIR...][::DIR...]
                    The layers below, the topmost first; behind :: those that only have data, for
                    which metacopy=on is needed. lowerdir+=DIR and datadir+=DIR give one each.
  upperdir=DIR      Where changes go. The default is none: nothing can be changed.
  workdir=DIR       An empty directory on the same file system as upperdir, and needed with it.
  redirect_dir=on|follow|nofollow|off
                    Directories of lower layers can be renamed; or others' renames are followed;
                    or not even that. The default is on, with userxattr nofollow.
  index=on|off      Hard links in lower layers stay together. The default is off.
  nfs_export=on|off File handles (NFS) outlive the daemon; index=on with it. The default is off.
  metacopy=on|off   A change of owner or mode copies no data. The default is off.
  xino=on|auto|off  Inode numbers last from mount to mount. The default is auto, if possible.
  uuid=auto|on|null|off
                    An identity stored in the upper layer. The default is auto.
  userxattr         Use user.overlay attributes, not trusted.overlay. The default is to do so
                    where trusted ones are not allowed.
  volatile          Write nothing through to the disk; after a crash upperdir is to be thrown away.
                    The default is to do what programs ask for. fsync=0 is less: upperdir is not
                    marked.
  timeout=SECONDS   How long the kernel keeps names and attributes. The default is 86400.
  uidmapping=STORED:SHOWN:LENGTH[:...], gidmapping=STORED:SHOWN:LENGTH[:...]
                    Ids in the layers are shown as others. The default is to leave them.
  squash_to_uid=ID, squash_to_gid=ID, squash_to_root
                    Everything is shown as theirs. The default is to leave ids as they are.
  noacl             No POSIX ACLs. The default is to have them, unless xattr_permissions is given.
  noxattrs=0|1      No extended attributes for users. The default is 0.
  writeback=0|1     The kernel collects writes and sends them later. The default is 0.
  xattr_permissions=0|1|2
                    Owner and mode are in the inode, or in an attribute security.fuseoverlayfs or
                    user.fuseoverlayfs. The default is 0.
  static_nlink      Directories have one link. The default is to count.
  fast_ino=0|1      Listings show inode numbers without looking at files. The default is 0.
  aufs_whiteouts=on|off
                    .wh.NAME in a layer hides NAME in those below. The default is on.
  threaded=0|1, kernel_cache, splice_read, splice_write, splice_move, max_write=BYTES, private,
  slave, shared, rprivate, rslave, rshared
                    Ignored.
`;

const AS_LINK = `
Called by a name that ends in overlay or overlayfs, such as a link, it takes arguments as
fuse-overlayfs does, -o LIST MNT, and so is a mount_program for podman and buildah: it goes to the
background (-f: it does not; -d: with --debug), as root with allow_other and suid, and with noatime.
Linked as /sbin/mount.fuse.fuse-backend, it serves mount -t fuse.fuse-backend NAME MNT -o LIST.
`;

/** The help of a command, or of the program without one. */
export async function renderHelp(command: string | undefined, version: string): Promise<string> {
  const main: CommandDef = {
    meta: { ...MAIN_META, version },
    args: argumentsOf(GLOBAL_OPTIONS),
    subCommands: { passthrough: PASSTHROUGH, overlay: OVERLAY, vfs: VFS },
  };
  if (command === undefined) return layOut(await renderUsage(main));
  if (command === "overlay") {
    const usage = layOut(await renderUsage(OVERLAY, main));
    return `${usage}${OVERLAY_HELP}${MOUNT_OPTIONS_HELP}${ENDING}${AS_LINK}`;
  }
  if (command !== "vfs") {
    const usage = layOut(await renderUsage(PASSTHROUGH, main));
    return `${usage}${MOUNT_OPTIONS_HELP}${ENDING}${AS_HELPER}`;
  }
  const usage = layOut(await renderUsage(VFS, main));
  const mounts = `${MOUNTS_HELP}${renderDirectoryOptions()}`;
  return `${usage}${mounts}${MOUNT_OPTIONS_HELP}${ENDING}${RELOAD}`;
}

/** What citty has no place for, in its form. */
function renderDirectoryOptions(): string {
  const rows = DIRECTORY_OPTIONS.map(({ name, on, value, choices, help }) => {
    const shown = choices?.join("|") ?? value;
    return { term: `${on ? "no-" : ""}${name}${shown === undefined ? "" : `=<${shown}>`}`, help };
  });
  const width = Math.max(...rows.map(({ term }) => term.length));
  return layOut(rows.map(({ term, help }) => `  ${term.padStart(width)}    ${help}\n`).join(""));
}

/** citty's lines are as long as they come, and coloured wherever they go. */
function layOut(usage: string): string {
  return Bun.stripANSI(usage)
    .split("\n")
    .map((line) => wrap(line.trimEnd()))
    .join("\n");
}

/** Breaks the second column of a line that is too long. */
function wrap(line: string): string {
  const indent = /^ +\S.*? {4}(?=\S)/.exec(line)?.[0].length ?? 0;
  const lines: string[] = [];
  let rest = line;
  while (indent > 0 && rest.length > COLUMNS) {
    const end = rest.lastIndexOf(" ", COLUMNS);
    lines.push(rest.slice(0, end));
    rest = " ".repeat(indent) + rest.slice(end + 1);
  }
  return [...lines, rest].join("\n");
}

const PASSTHROUGH: CommandDef = {
  meta: { name: "passthrough", description: "Serve the directory SRC at MNT" },
  args: {
    SRC: { type: "positional", description: "The directory to serve; created if missing" },
    MNT: { type: "positional", description: "Where to mount it; created if missing" },
    ...argumentsOf(PASSTHROUGH_OPTIONS),
  },
};

const OVERLAY: CommandDef = {
  meta: { name: "overlay", description: "Serve layers of directories as one at MNT" },
  args: {
    NAME: {
      type: "positional",
      required: false,
      description: "What is shown as the source of the mount; overlay if missing",
    },
    MNT: { type: "positional", description: "Where to mount it; created if missing" },
    ...argumentsOf(OVERLAY_OPTIONS),
  },
};

const VFS: CommandDef = {
  meta: { name: "vfs", description: "Serve several directories at paths of one tree at MNT" },
  args: {
    MNT: { type: "positional", description: "Where to mount the tree; created if missing" },
    ...argumentsOf(VFS_OPTIONS),
  },
};

function argumentsOf(options: readonly Option[]): ArgsDef {
  return Object.fromEntries(
    options.map(({ name, short, value, choices, on, help }) => [
      on ? `no-${name}` : name,
      {
        description: help,
        ...(short === undefined ? {} : { alias: short }),
        ...(choices !== undefined
          ? { type: "enum" as const, options: [...choices] }
          : value !== undefined
            ? { type: "string" as const, valueHint: value }
            : { type: "boolean" as const }),
      },
    ]),
  );
}
