// The library: what a program imports to serve a file system.
//
// A file system is a class that extends FileSystem; mountFileSystem mounts it. See examples/.

export * from "./abi-fuse.ts";
export * as errno from "./errno.ts";
export * as linux from "./abi-linux.ts";
export { runDaemon, type DaemonOptions } from "./daemon.ts";
export {
  AttrChanges,
  Context,
  DataIn,
  FileLock,
  FileSystem,
  LockOwner,
  NO_HANDLE,
  OFFSET_MAX,
  REPLY_LATER,
  type Connection,
  type Wishes,
} from "./filesystem.ts";
export { IdMapError, type IdMapOptions, type IdRange } from "./id-map.ts";
export { mountOptions, MountError, type MountOptions } from "./mount-options.ts";
export { Mounted, mountFileSystem, type MountedOptions } from "./mounted.ts";
export { Notifier, type TakeMessage } from "./notify.ts";
export {
  ConfigError,
  PassthroughFs,
  passthroughConfig,
  sharePassthrough,
  type PassthroughConfig,
} from "./passthrough.ts";
export {
  AttrOut,
  AttrReply,
  DataOut,
  DirectoryOut,
  EntryOut,
  OpenOut,
  Reply,
  StatfsOut,
  StatxReply,
} from "./reply.ts";
export { Bytes, Name, Request } from "./request.ts";
export {
  Server,
  type MetricsHook,
  type ServerOptions,
  type Traced,
  type Tracer,
} from "./server.ts";
export { Channel, cloneDevice, handshake, makeBuffers } from "./session.ts";
export type { ShownNodes } from "./translation.ts";
export { Vfs, VfsError, type VfsOptions } from "./vfs.ts";
