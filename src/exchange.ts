// One request and its reply while they are served: the request's fields by offset, and the objects
// that a file system is handed, all made once and used for every request.

import * as abi from "./abi-fuse.ts";
import {
  AttrChanges,
  Context,
  DataIn,
  FileLock,
  LockOwner,
  type Connection,
  type FileSystem,
} from "./filesystem.ts";
import {
  AttrReply,
  DataOut,
  DirectoryOut,
  EntryOut,
  OpenOut,
  type Reply,
  StatfsOut,
  StatxReply,
} from "./reply.ts";
import { Bytes, Name, type Request } from "./request.ts";

export class Exchange {
  readonly fs: FileSystem;
  readonly request: Request;
  readonly reply: Reply;
  readonly context = new Context();
  readonly name: Name;
  readonly secondName: Name;
  readonly bytes: Bytes;
  readonly data: DataIn;
  readonly changes = new AttrChanges();
  readonly owner = new LockOwner();
  readonly lock = new FileLock();
  readonly entry: EntryOut;
  readonly attr: AttrReply;
  readonly opened = new OpenOut();
  readonly out: DataOut;
  readonly ioctlOut: DataOut;
  readonly statxOut: StatxReply;
  readonly statfs: StatfsOut;
  readonly dirents: DirectoryOut;
  readonly direntsPlus: DirectoryOut;
  /** Whether SETXATTR requests come in the long form. */
  readonly setxattrSize: number;

  /** `device` takes late answers, if the transport has such a descriptor. */
  constructor(
    fs: FileSystem,
    connection: Connection,
    request: Request,
    reply: Reply,
    device: number,
  ) {
    this.fs = fs;
    this.request = request;
    this.reply = reply;
    this.context.device = device;
    this.name = new Name(request.memory);
    this.secondName = new Name(request.memory);
    this.bytes = new Bytes(request.memory);
    this.data = new DataIn(this.bytes);
    this.context.translation = reply.translation;
    this.entry = new EntryOut(reply.view, reply.translation);
    this.attr = new AttrReply(reply.view, reply.translation);
    this.out = new DataOut(reply);
    this.ioctlOut = new DataOut(reply, abi.fuse_ioctl_out.sizeof);
    this.statxOut = new StatxReply(reply);
    this.statfs = new StatfsOut(reply);
    this.dirents = new DirectoryOut(reply, false);
    this.direntsPlus = new DirectoryOut(reply, true);
    this.setxattrSize =
      connection.flags & abi.FUSE_SETXATTR_EXT
        ? abi.fuse_setxattr_in.sizeof
        : abi.FUSE_COMPAT_SETXATTR_IN_SIZE;
  }

  get nodeid(): number {
    return this.request.nodeid;
  }

  u32(field: number): number {
    return this.request.u32(field);
  }

  u64(field: number): number {
    return this.request.u64(field);
  }

  takeOwner(field: number): LockOwner {
    this.owner.low = this.request.u32(field);
    this.owner.high = this.request.u32(field + 4);
    return this.owner;
  }

  takeLock(): FileLock {
    const at = abi.fuse_lk_in.lk;
    const lock = this.lock;
    lock.start = this.u64(at + abi.fuse_file_lock.start);
    lock.end = this.u64(at + abi.fuse_file_lock.end);
    lock.type = this.u32(at + abi.fuse_file_lock.type);
    lock.pid = this.u32(at + abi.fuse_file_lock.pid);
    return lock;
  }

  /** Writes struct fuse_open_out at `at` in the body. */
  putOpened(at: number): void {
    const { fh, open_flags, backing_id } = abi.fuse_open_out;
    this.reply.u64(at + fh, this.opened.fh);
    this.reply.u32(at + open_flags, this.opened.openFlags);
    this.reply.u32(at + backing_id, this.opened.backingId);
  }
}
