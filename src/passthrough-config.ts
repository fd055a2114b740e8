// The options of a passthrough file system, with their defaults and the rules between them. All
// values are plain data, so that a configuration can be handed to the workers.

/**
 * What the kernel may keep of what it has read.
 *
 * - `never`: nothing of a file's data, and no attributes or entries beyond the request. For
 *   directories that others change without our knowledge.
 * - `metadata`: entries, attributes and directory contents as `always`, data as `never`.
 * - `auto`: data until the file is opened again and has changed meanwhile (close-to-open
 *   consistency).
 * - `always`: everything, over opens. Only for directories that nobody else changes.
 */
export type CachePolicy = "never" | "metadata" | "auto" | "always";
export const CACHE_POLICIES = ["never", "metadata", "auto", "always"] as const;

export type FileHandles = "auto" | "always" | "never";
export const FILE_HANDLES = ["auto", "always", "never"] as const;

export interface PassthroughConfig {
  /** The directory that is served. */
  readonly source: string;
  /** The default is "auto". */
  readonly cache: CachePolicy;
  /**
   * How long attributes are valid, in seconds; fractions allowed. The default is 5, but 0 with
   * cache "never" and 86400 with "metadata" and "always".
   */
  readonly attrTimeout: number;
  /** How long entries (names) are valid, likewise. */
  readonly entryTimeout: number;
  /** For directories, in place of `attrTimeout`. The default is the same. */
  readonly dirAttrTimeout: number;
  /** For directories, in place of `entryTimeout`. The default is the same. */
  readonly dirEntryTimeout: number;
  /**
   * The kernel collects writes and sends them later. Only if nobody else writes to the directory;
   * all files must be readable. Excludes FUSE passthrough. The default is false.
   */
  readonly writeback: boolean;
  /** Extended attributes and POSIX ACLs. The default is true. */
  readonly xattr: boolean;
  /** Files are used without OPEN and RELEASE. The default is false. */
  readonly noOpen: boolean;
  /** Directories are used without OPENDIR and RELEASEDIR. The default is false. */
  readonly noOpendir: boolean;
  /** Directories look empty, though their entries can be looked up. The default is false. */
  readonly noReaddir: boolean;
  /**
   * Writing, truncating and changing the owner clear set-user-id bits in the server, which saves a
   * request for every write. The default is true.
   */
  readonly killprivV2: boolean;
  /**
   * Inodes without a descriptor are known by their kernel file handle: "auto" where it can be had,
   * "always" or fail, "never" (every inode keeps a descriptor). The default is "auto".
   */
  readonly inodeFileHandles: FileHandles;
  /**
   * File handles of the mount (name_to_handle_at(2), NFS) are known to every later daemon with the
   * same key: 32 bytes in hexadecimal, that users of the mount don't know, as who knows it can make
   * handles of all files on the file system of `source`, which must be ext4. Only if this is the
   * only file system that is served. The default is null: handles end with the daemon.
   */
  readonly handleKey: string | null;
  /** Nothing may change a file's size. The default is false. */
  readonly sealSize: boolean;
  /**
   * Files seen through different mounts below the source are different inodes. The default is
   * false.
   */
  readonly mntid: boolean;
  /**
   * Shows the host's inode numbers also where file systems are mounted below the source and a
   * number may then occur twice. The default is false.
   */
  readonly useHostIno: boolean;
  /** O_DIRECT reaches the host; otherwise it is left out when opening. The default is true. */
  readonly allowDirectIo: boolean;
  /** Files of this size in bytes and larger are used through DAX (virtiofs only); null for none. */
  readonly daxFileSize: number | null;
  /**
   * Reads, writes and mappings go past the server, straight to the file (FUSE passthrough). Default
   * true.
   */
  readonly kernelPassthrough: boolean;
  /**
   * Locks are taken on the source's files, so that they hold against programs that use the source
   * itself. When false the kernel keeps them, among the users of the mount. The default is true.
   */
  readonly locks: boolean;
}

const DEFAULT_TIMEOUT = 5;
const LONG_TIMEOUT = 86_400;

/** Fills in the defaults. Throws ConfigError for a combination that makes no sense. */
export function passthroughConfig(
  given: { source: string } & Partial<{
    [Key in keyof PassthroughConfig]: PassthroughConfig[Key] | undefined;
  }>,
): PassthroughConfig {
  const cache = given.cache ?? "auto";
  const timeout = cache === "never" ? 0 : cache === "auto" ? DEFAULT_TIMEOUT : LONG_TIMEOUT;
  const attrTimeout = given.attrTimeout ?? timeout;
  const entryTimeout = given.entryTimeout ?? timeout;
  const config: PassthroughConfig = {
    source: given.source,
    cache,
    attrTimeout,
    entryTimeout,
    dirAttrTimeout: given.dirAttrTimeout ?? attrTimeout,
    dirEntryTimeout: given.dirEntryTimeout ?? entryTimeout,
    writeback: given.writeback ?? false,
    xattr: given.xattr ?? true,
    noOpen: given.noOpen ?? false,
    noOpendir: given.noOpendir ?? false,
    noReaddir: given.noReaddir ?? false,
    killprivV2: given.killprivV2 ?? true,
    inodeFileHandles: given.inodeFileHandles ?? "auto",
    handleKey: given.handleKey ?? null,
    sealSize: given.sealSize ?? false,
    mntid: given.mntid ?? false,
    useHostIno: given.useHostIno ?? false,
    allowDirectIo: given.allowDirectIo ?? true,
    daxFileSize: given.daxFileSize ?? null,
    kernelPassthrough:
      given.kernelPassthrough ??
      !(given.writeback || given.noOpen || given.sealSize || given.allowDirectIo === false),
    locks: given.locks ?? true,
  };
  for (const [wrong, why] of contradictions(config)) if (wrong) throw new ConfigError(why);
  return config;
}

/** An option, or a combination of options, that can't be meant. */
export class ConfigError extends Error {
  override name = "ConfigError";
}

function contradictions(config: PassthroughConfig): [boolean, string][] {
  const timeouts = [
    config.attrTimeout,
    config.entryTimeout,
    config.dirAttrTimeout,
    config.dirEntryTimeout,
  ];
  return [
    [
      timeouts.some((seconds) => !(seconds >= 0 && seconds < 2 ** 32)),
      "a timeout must be a number of seconds from 0 up to 4294967295",
    ],
    [
      config.writeback && (config.cache === "never" || config.cache === "metadata"),
      `writeback needs cached data, and cache=${config.cache} keeps none`,
    ],
    [
      config.writeback && config.kernelPassthrough,
      "writeback and kernel passthrough exclude each other",
    ],
    [
      config.noOpen && config.kernelPassthrough,
      "no-open and kernel passthrough exclude each other",
    ],
    [
      config.noOpen && config.cache !== "always",
      "no-open needs cache=always: without opening, nothing tells the kernel that a file has changed",
    ],
    [
      config.noOpendir && config.cache !== "always" && config.cache !== "metadata",
      "no-opendir needs cache=always or cache=metadata: the kernel then caches directories for good",
    ],
    [
      config.sealSize && config.kernelPassthrough,
      "seal-size and kernel passthrough exclude each other: writes must be seen to be refused",
    ],
    [
      !config.allowDirectIo && config.kernelPassthrough,
      "without allow-direct-io there is no kernel passthrough: the kernel would pass O_DIRECT on",
    ],
    [
      config.handleKey !== null && !/^[0-9a-f]{64}$/.test(config.handleKey),
      "a handle-key is 32 bytes, in hexadecimal",
    ],
    [
      config.handleKey !== null && config.inodeFileHandles === "never",
      "handle-key needs file handles, and inode-file-handles=never has none",
    ],
    [config.sealSize && config.writeback, "seal-size and writeback exclude each other"],
    [
      config.daxFileSize !== null &&
        !(Number.isSafeInteger(config.daxFileSize) && config.daxFileSize >= 0),
      "dax-file-size must be a whole number of bytes",
    ],
  ];
}
