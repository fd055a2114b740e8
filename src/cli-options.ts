// The options of the command line as a table: what the parser accepts and what --help lists. A
// switch is named for what it turns on, and has an opposite, --no-NAME.

import type { IoUring } from "./daemon-crews.ts";
import { CACHE_POLICIES, FILE_HANDLES } from "./passthrough-config.ts";
import { LOG_LEVELS, type Format } from "./log.ts";

export const IO_URING = ["auto", "on", "off"] as const satisfies readonly IoUring[];
export const LOG_FORMATS = ["text", "json"] as const satisfies readonly Format[];

export interface Option {
  readonly name: string;
  readonly short?: string;
  /** What stands for the value in the help; without it, the option is a switch. */
  readonly value?: string;
  /** The values there are, if it is one of a few. */
  readonly choices?: readonly string[];
  /** A switch that is on unless it is turned off; the help then shows --no-NAME. */
  readonly on?: true;
  /** May be given more than once. */
  readonly repeatable?: true;
  /** Not for use within -o; and if it is a switch, it has no opposite. */
  readonly commandLineOnly?: true;
  readonly help: string;
}

/** Of the only directory that is served. */
const HANDLE_KEY: Option = {
  name: "handle-key",
  value: "FILE",
  help:
    "File handles (NFS, open_by_handle_at) go on to work with the next daemon that is given this " +
    "FILE, for a SRC on ext4. It is made if it is missing, with a key that must stay secret. " +
    "The default is that handles end with the daemon.",
};

/** Of one directory that is served. */
const DIRECTORY: readonly Option[] = [
  {
    name: "cache",
    choices: CACHE_POLICIES,
    value: "POLICY",
    help:
      "What the kernel keeps: nothing; names and attributes; also data until a changed file is " +
      'opened again; or everything, for a SRC that nobody else changes. The default is "auto".',
  },
  {
    name: "attr-timeout",
    value: "SECONDS",
    help:
      "How long attributes are valid. The default is 5, with cache=never 0, with cache=metadata " +
      "and cache=always 86400.",
  },
  {
    name: "entry-timeout",
    value: "SECONDS",
    help: "How long names are valid. The default is as for --attr-timeout.",
  },
  {
    name: "dir-attr-timeout",
    value: "SECONDS",
    help: "How long attributes of directories are valid. The default is that of --attr-timeout.",
  },
  {
    name: "dir-entry-timeout",
    value: "SECONDS",
    help: "How long names of directories are valid. The default is that of --entry-timeout.",
  },
  {
    name: "readdir",
    on: true,
    help: "Directories look empty, though names can be looked up. The default is to list them.",
  },
  {
    name: "inode-file-handles",
    choices: FILE_HANDLES,
    value: "WHEN",
    help:
      "Know inodes by kernel file handles, so that a big tree needs few descriptors: where it " +
      'can be done, or fail, or not at all. The default is "auto".',
  },
  {
    name: "seal-size",
    help: "Nothing may change the size of a file. The default is that it may change.",
  },
  {
    name: "mntid",
    help:
      "A file that is seen through several mounts below SRC is a different inode in each. " +
      "The default is one inode.",
  },
  {
    name: "use-host-ino",
    help:
      "Show SRC's inode numbers also where several file systems below it use the same. " +
      "The default is to make them distinct.",
  },
  {
    name: "allow-direct-io",
    on: true,
    help: "Leave out O_DIRECT when files are opened in SRC. The default is to pass it on.",
  },
  {
    name: "dax-file-size",
    value: "BYTES",
    help: "Use files of at least this size through DAX, in a virtual machine. The default is none.",
  },
];

/** What is agreed with the kernel, once for everything under one mount point. */
const CONNECTION: readonly Option[] = [
  {
    name: "writeback",
    help:
      "The kernel collects writes and sends them later; for a SRC that nobody else changes. " +
      "The default is to write through.",
  },
  {
    name: "xattr",
    on: true,
    help: "No extended attributes and POSIX ACLs. The default is to have them.",
  },
  {
    name: "open",
    on: true,
    help: "Files are used without OPEN and RELEASE; needs cache=always. The default is with.",
  },
  {
    name: "opendir",
    on: true,
    help:
      "Directories are used without OPENDIR and RELEASEDIR; needs cache=always or " +
      "cache=metadata. The default is with.",
  },
  {
    name: "killpriv-v2",
    on: true,
    help:
      "Set-user-id bits are cleared by a request of their own instead of together with the " +
      "write. The default is together.",
  },
  {
    name: "kernel-passthrough",
    on: true,
    help:
      "Data goes through the daemon even where the kernel could read and write SRC by itself. " +
      "The default is past the daemon, as root.",
  },
  {
    name: "locks",
    on: true,
    help:
      "Locks hold among the users of MNT only. The default is that they also hold against " +
      "programs that use SRC itself.",
  },
];

/** Of one directory, and also of all that are served together. */
const ID_MAPS: readonly Option[] = [
  {
    name: "uid-map",
    value: "INTERNAL:EXTERNAL:LENGTH",
    repeatable: true,
    help:
      "LENGTH user ids of SRC from INTERNAL on are shown as those from EXTERNAL on, and what " +
      "callers with these make belongs to those. All others are shown as 65534 and can't be " +
      "used. May be repeated. The default is to leave ids as they are.",
  },
  {
    name: "gid-map",
    value: "INTERNAL:EXTERNAL:LENGTH",
    repeatable: true,
    help: "Likewise for group ids. May be repeated. The default is to leave ids as they are.",
  },
  {
    name: "squash-uid",
    value: "ID",
    help:
      "Everything belongs to this user, in SRC and as it is shown; not together with " +
      "--uid-map. The default is to leave ids as they are.",
  },
  {
    name: "squash-gid",
    value: "ID",
    help: "Likewise for the group. The default is to leave ids as they are.",
  },
];

const DAEMON: readonly Option[] = [
  {
    name: "workers",
    value: "N",
    help:
      "Threads that serve requests; with --io-uring, there is one more, but no more than CPUs. " +
      "The default is the number of CPUs, from 2 to 8.",
  },
  {
    name: "io-uring",
    choices: IO_URING,
    value: "WHEN",
    help:
      "Take requests by io_uring, on the CPU that they come from, which answers them sooner " +
      "(Linux 6.14 and later, if the parameter enable_uring of the module fuse is Y). The " +
      'default is "auto", where the kernel offers it.',
  },
  {
    name: "request-timeout",
    value: "SECONDS",
    help:
      "The kernel gives the mount up if a request takes longer (Linux 6.14 and later). " +
      "The default is 0, never.",
  },
  {
    name: "background",
    commandLineOnly: true,
    help:
      "Return when the mount answers, and serve in the background. Log lines go on if standard " +
      "error is a file, otherwise they end there. The default is to stay in the foreground.",
  },
  {
    name: "pid-file",
    value: "FILE",
    help: "Write the process id here once mounted, and remove it at the end. The default is none.",
  },
  {
    name: "replace",
    help:
      'Clean up a dead mount ("Transport endpoint is not connected") at MNT first. ' +
      "The default is to refuse.",
  },
  {
    name: "fusermount",
    value: "PATH",
    help: "The helper for users who are not root. The default is fusermount3 on the PATH.",
  },
  {
    name: "mount-namespace",
    value: "PID",
    help: "Mount in the mount namespace of this process (as root). The default is our own.",
  },
  {
    name: "log-level",
    choices: LOG_LEVELS,
    value: "LEVEL",
    help: 'The least that is logged. The default is "info", and "warn" if called by mount(8).',
  },
  {
    name: "log-format",
    choices: LOG_FORMATS,
    value: "FORMAT",
    help: 'Lines for people or for programs. The default is "text".',
  },
  {
    name: "debug",
    help: "Print every request and reply. The default is not to.",
  },
];

/** The mount options themselves, a comma list. */
export const MOUNT_OPTIONS: Option = {
  name: "options",
  short: "o",
  value: "LIST",
  repeatable: true,
  commandLineOnly: true,
  help: "Mount options separated by commas, see below. The default is nosuid,nodev.",
};

const ENDING: readonly Option[] = [
  { name: "help", short: "h", commandLineOnly: true, help: "Print this help." },
  { name: "version", short: "V", commandLineOnly: true, help: "Print the version." },
];

export const PASSTHROUGH_OPTIONS: readonly Option[] = [
  MOUNT_OPTIONS,
  ...DIRECTORY,
  HANDLE_KEY,
  ...CONNECTION,
  ...ID_MAPS,
  ...DAEMON,
  ...ENDING,
];

/** Of one of the directories that `vfs` serves: within --mount, and in the file. */
export const DIRECTORY_OPTIONS: readonly Option[] = [...DIRECTORY, ...ID_MAPS];

/** What is agreed with the kernel for an overlay; the rest is in its own list of -o. */
const OVERLAY: readonly Option[] = [
  {
    name: "kernel-passthrough",
    on: true,
    help:
      "Data goes through the daemon even where the kernel could read and write the files of the " +
      "layers by itself. The default is past the daemon, as root, but through it with writeback.",
  },
];

export const OVERLAY_OPTIONS: readonly Option[] = [
  MOUNT_OPTIONS,
  ...OVERLAY,
  ...DAEMON.map((option) => (option.name === "log-level" ? { ...option, short: "l" } : option)),
  ...ENDING,
];

/** Of a link that is called as fuse-overlayfs is. */
export const LINK_OPTIONS: readonly Option[] = [
  MOUNT_OPTIONS,
  { name: "foreground", short: "f", commandLineOnly: true, help: "Do not go to the background." },
  { name: "single-thread", short: "s", commandLineOnly: true, help: "Ignored; see --workers." },
  ...OVERLAY,
  ...DAEMON.filter(({ name }) => name !== "background").map((option) =>
    option.name === "debug" ? { ...option, short: "d" } : option,
  ),
  ...ENDING,
];

const VFS: readonly Option[] = [
  {
    name: "mount",
    value: "PATH=passthrough:SRC",
    repeatable: true,
    commandLineOnly: true,
    help:
      "Serve the directory SRC at PATH below MNT, with options of its own; or an overlay, by " +
      "PATH=overlay:LIST; see below. May be repeated. The default is what --config says.",
  },
  {
    name: "config",
    value: "FILE",
    commandLineOnly: true,
    help:
      "Serve what this file says, see below; it is read again at SIGHUP. Data then goes through " +
      "the daemon, unless --kernel-passthrough is given. The default is none, but --mount.",
  },
];

export const VFS_OPTIONS: readonly Option[] = [
  ...VFS,
  MOUNT_OPTIONS,
  ...CONNECTION,
  ...ID_MAPS,
  ...DAEMON,
  ...ENDING,
];

/** What `vfs` does not take for all directories together. */
export const MISPLACED_OPTIONS: readonly Option[] = DIRECTORY;

/** What there is before a command. */
export const GLOBAL_OPTIONS = ENDING;
