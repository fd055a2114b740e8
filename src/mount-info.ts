// The mounts that this thread sees: /proc/thread-self/mountinfo, proc_pid_mountinfo(5).

import { readProc } from "./proc.ts";

export interface MountEntry {
  readonly id: number;
  readonly parent: number;
  /** `major:minor` of the file system. */
  readonly device: string;
  /** The directory of the file system that is seen at the mount point; not "/" for a bind mount. */
  readonly root: string;
  readonly mountpoint: string;
  /** The options of this mount, such as `rw,nosuid`. */
  readonly options: string;
  /** `ext4`, `fuse.sshfs`. */
  readonly type: string;
  readonly source: string;
  /** The options of the file system. */
  readonly superOptions: string;
}

/** The text of mountinfo as entries, in the kernel's order. Lines that are none are left out. */
export function parseMountinfo(text: string): MountEntry[] {
  return text.split("\n").flatMap((line) => parseLine(line) ?? []);
}

// 36 35 98:0 /root /mountpoint rw,noatime [optional fields] - type source rw,errors=continue
function parseLine(line: string): MountEntry | undefined {
  const fields = line.split(" ");
  const dash = fields.indexOf("-", 6);
  if (dash < 0 || fields.length < dash + 3) return undefined;
  const field = (index: number): string => unescapeOctal(fields[index] ?? "");
  return {
    id: Number(fields[0]),
    parent: Number(fields[1]),
    device: field(2),
    root: field(3),
    mountpoint: field(4),
    options: field(5),
    type: field(dash + 1),
    source: field(dash + 2),
    superOptions: field(dash + 3),
  };
}

/**
 * The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
 */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** The entry of the mount with a number, in the text of mountinfo, of which there may be much. */
export function findMount(text: string, id: number): MountEntry | undefined {
  const lines = `\n${text}\n`;
  const start = lines.indexOf(`\n${id} `) + 1;
  return start === 0 ? undefined : parseLine(lines.slice(start, lines.indexOf("\n", start)));
}

export function readMountinfo(): string {
  return readProc("thread-self/mountinfo");
}

export function readMounts(): MountEntry[] {
  return parseMountinfo(readMountinfo());
}

/** Type `fuse`, `fuse.something` or `fuseblk`. */
export function isFuse(entry: MountEntry): boolean {
  return /^fuse(blk)?(\.|$)/.test(entry.type);
}
