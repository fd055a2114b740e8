// The operations of the protocol. Every opcode is one row of the table at the end: its name, what
// the request consists of, how large the answer is, and a function of a few lines that passes the
// arguments on to the file system. All policy is in the file system.

import * as abi from "./abi-fuse.ts";
import { EINVAL } from "./errno.ts";
import type { Exchange } from "./exchange.ts";
import { NO_HANDLE, REPLY_LATER } from "./filesystem.ts";
import { SYMLINK_TARGET_MAX } from "./limits.ts";
import { log } from "./log.ts";

// What names a request carries behind its struct.
export const NONE = 0;
/** An entry of a directory, where `.` and `..` may be asked for. */
export const LOOKUP_ENTRY = 1;
export const ENTRY = 2;
export const XATTR = 3;
/** A name that means nothing. */
export const PLACEHOLDER = 4;
export const TWO_ENTRIES = 5;
/** An entry and the text of a symbolic link. */
export const ENTRY_AND_TARGET = 6;

export interface Operation {
  readonly name: string;
  /** The size of the argument struct. */
  readonly structSize: number;
  readonly names: number;
  /** The size of the answer; -1 if it varies, and `run` returns it. */
  readonly replySize: number;
  /** The kernel expects no reply. */
  readonly silent: boolean;
  run(exchange: Exchange): number;
}

function lookup(s: Exchange): number {
  return s.fs.lookup(s.context, s.nodeid, s.name, s.entry.place(s.reply.body));
}

function forget(s: Exchange): number {
  s.fs.forget(s.nodeid, s.u64(abi.fuse_forget_in.nlookup));
  return 0;
}

function batchForget(s: Exchange): number {
  const { request, bytes } = s;
  const count = s.u32(abi.fuse_batch_forget_in.count);
  const { sizeof, nodeid, nlookup } = abi.fuse_forget_one;
  if (!request.takeBytes(bytes, count * sizeof)) return malformedBody(s);
  const first = abi.fuse_batch_forget_in.sizeof;
  for (let index = 0; index < count; index++) {
    const at = first + index * sizeof;
    s.fs.forget(request.u64(at + nodeid), request.u64(at + nlookup));
  }
  return 0;
}

function getattr(s: Exchange): number {
  const { getattr_flags, fh } = abi.fuse_getattr_in;
  const handle = s.u32(getattr_flags) & abi.FUSE_GETATTR_FH ? s.u64(fh) : NO_HANDLE;
  return s.fs.getattr(s.context, s.nodeid, handle, s.attr.place(s.reply.body));
}

function setattr(s: Exchange): number {
  const { request, changes } = s;
  const f = abi.fuse_setattr_in;
  changes.valid = s.u32(f.valid);
  changes.fh = changes.valid & abi.FATTR_FH ? s.u64(f.fh) : NO_HANDLE;
  changes.size = s.u64(f.size);
  changes.mode = s.u32(f.mode);
  changes.uid = s.u32(f.uid);
  changes.gid = s.u32(f.gid);
  changes.atime = request.i64(f.atime);
  changes.atimeNsec = s.u32(f.atimensec);
  changes.mtime = request.i64(f.mtime);
  changes.mtimeNsec = s.u32(f.mtimensec);
  changes.ctime = request.i64(f.ctime);
  changes.ctimeNsec = s.u32(f.ctimensec);
  return s.fs.setattr(s.context, s.nodeid, changes, s.attr.place(s.reply.body));
}

function statx(s: Exchange): number {
  const { getattr_flags, fh, sx_flags, sx_mask } = abi.fuse_statx_in;
  const handle = s.u32(getattr_flags) & abi.FUSE_GETATTR_FH ? s.u64(fh) : NO_HANDLE;
  return s.fs.statx(s.context, s.nodeid, handle, s.u32(sx_flags), s.u32(sx_mask), s.statxOut);
}

function readlink(s: Exchange): number {
  return s.fs.readlink(s.context, s.nodeid, s.out.open(SYMLINK_TARGET_MAX));
}

function symlink(s: Exchange): number {
  const entry = s.entry.place(s.reply.body);
  return s.fs.symlink(s.context, s.nodeid, s.name, s.secondName, entry);
}

function mknod(s: Exchange): number {
  const { mode, rdev, umask } = abi.fuse_mknod_in;
  const entry = s.entry.place(s.reply.body);
  return s.fs.mknod(s.context, s.nodeid, s.name, s.u32(mode), s.u32(rdev), s.u32(umask), entry);
}

function mkdir(s: Exchange): number {
  const { mode, umask } = abi.fuse_mkdir_in;
  const entry = s.entry.place(s.reply.body);
  return s.fs.mkdir(s.context, s.nodeid, s.name, s.u32(mode), s.u32(umask), entry);
}

function unlink(s: Exchange): number {
  return s.fs.unlink(s.context, s.nodeid, s.name);
}

function rmdir(s: Exchange): number {
  return s.fs.rmdir(s.context, s.nodeid, s.name);
}

function rename(s: Exchange): number {
  const newdir = s.u64(abi.fuse_rename_in.newdir);
  return s.fs.rename(s.context, s.nodeid, s.name, newdir, s.secondName, 0);
}

function rename2(s: Exchange): number {
  const { newdir, flags } = abi.fuse_rename2_in;
  return s.fs.rename(s.context, s.nodeid, s.name, s.u64(newdir), s.secondName, s.u32(flags));
}

function link(s: Exchange): number {
  const node = s.u64(abi.fuse_link_in.oldnodeid);
  return s.fs.link(s.context, node, s.nodeid, s.name, s.entry.place(s.reply.body));
}

function open(s: Exchange): number {
  const { flags, open_flags } = abi.fuse_open_in;
  s.opened.clear();
  const result = s.fs.open(s.context, s.nodeid, s.u32(flags), s.u32(open_flags), s.opened);
  s.putOpened(0);
  return result;
}

function create(s: Exchange): number {
  const f = abi.fuse_create_in;
  s.opened.clear();
  const result = s.fs.create(
    s.context,
    s.nodeid,
    s.name,
    s.u32(f.flags),
    s.u32(f.mode),
    s.u32(f.umask),
    s.u32(f.open_flags),
    s.entry.place(s.reply.body),
    s.opened,
  );
  s.putOpened(abi.fuse_entry_out.sizeof);
  return result;
}

/** TMPFILE carries the placeholder that the VFS gives to a file without a name: "/". */
function tmpfile(s: Exchange): number {
  const { flags, mode, umask } = abi.fuse_create_in;
  s.opened.clear();
  const entry = s.entry.place(s.reply.body);
  const { context, nodeid, opened } = s;
  const result = s.fs.tmpfile(
    context,
    nodeid,
    s.u32(flags),
    s.u32(mode),
    s.u32(umask),
    entry,
    opened,
  );
  s.putOpened(abi.fuse_entry_out.sizeof);
  return result;
}

function read(s: Exchange): number {
  const { fh, offset, size, flags } = abi.fuse_read_in;
  const out = s.out.open(s.u32(size));
  return s.fs.read(s.context, s.nodeid, s.u64(fh), s.u64(offset), s.u32(flags), out);
}

function write(s: Exchange): number {
  const { fh, offset, size, write_flags, flags } = abi.fuse_write_in;
  if (!s.request.takeBytes(s.bytes, s.u32(size))) return malformedBody(s);
  const written = s.fs.write(
    s.context,
    s.nodeid,
    s.u64(fh),
    s.u64(offset),
    s.u32(flags),
    s.u32(write_flags),
    s.data,
  );
  s.reply.u32(abi.fuse_write_out.size, written);
  return written;
}

function flush(s: Exchange): number {
  const { fh, lock_owner } = abi.fuse_flush_in;
  return s.fs.flush(s.context, s.nodeid, s.u64(fh), s.takeOwner(lock_owner));
}

function isDataOnly(s: Exchange): boolean {
  return (s.u32(abi.fuse_fsync_in.fsync_flags) & abi.FUSE_FSYNC_FDATASYNC) !== 0;
}

function fsync(s: Exchange): number {
  return s.fs.fsync(s.context, s.nodeid, s.u64(abi.fuse_fsync_in.fh), isDataOnly(s));
}

function fsyncdir(s: Exchange): number {
  return s.fs.fsyncdir(s.context, s.nodeid, s.u64(abi.fuse_fsync_in.fh), isDataOnly(s));
}

function release(s: Exchange): number {
  const { fh, flags, release_flags, lock_owner } = abi.fuse_release_in;
  const owner = s.takeOwner(lock_owner);
  return s.fs.release(s.context, s.nodeid, s.u64(fh), s.u32(flags), s.u32(release_flags), owner);
}

function opendir(s: Exchange): number {
  s.opened.clear();
  const result = s.fs.opendir(s.context, s.nodeid, s.u32(abi.fuse_open_in.flags), s.opened);
  s.putOpened(0);
  return result;
}

function readdir(s: Exchange): number {
  const { fh, offset, size } = abi.fuse_read_in;
  const out = s.dirents.open(s.u32(size));
  const { context, nodeid } = s;
  const result = s.fs.readdir(context, nodeid, s.u64(fh), s.u32(offset), s.u32(offset + 4), out);
  return result < 0 ? result : out.length;
}

function readdirplus(s: Exchange): number {
  const { fh, offset, size } = abi.fuse_read_in;
  const out = s.direntsPlus.open(s.u32(size));
  const { context, nodeid } = s;
  const handle = s.u64(fh);
  const result = s.fs.readdirplus(context, nodeid, handle, s.u32(offset), s.u32(offset + 4), out);
  return result < 0 ? result : out.length;
}

function releasedir(s: Exchange): number {
  const { fh, flags } = abi.fuse_release_in;
  return s.fs.releasedir(s.context, s.nodeid, s.u64(fh), s.u32(flags));
}

function statfs(s: Exchange): number {
  return s.fs.statfs(s.context, s.nodeid, s.statfs);
}

function setxattr(s: Exchange): number {
  const { size, flags, setxattr_flags } = abi.fuse_setxattr_in;
  if (!s.request.takeBytes(s.bytes, s.u32(size))) return malformedBody(s);
  const extra = s.setxattrSize > setxattr_flags ? s.u32(setxattr_flags) : 0;
  return s.fs.setxattr(s.context, s.nodeid, s.name, s.bytes, s.u32(flags), extra);
}

/** GETXATTR and LISTXATTR answer with the value or, when asked for 0 bytes, with its size. */
function answerXattr(s: Exchange, wanted: number, size: number): number {
  if (wanted > 0 || size < 0) return size;
  s.reply.clear(abi.fuse_getxattr_out.sizeof);
  s.reply.u32(abi.fuse_getxattr_out.size, size);
  return abi.fuse_getxattr_out.sizeof;
}

function getxattr(s: Exchange): number {
  const wanted = s.u32(abi.fuse_getxattr_in.size);
  const size = s.fs.getxattr(s.context, s.nodeid, s.name, s.out.open(wanted));
  return answerXattr(s, wanted, size);
}

function listxattr(s: Exchange): number {
  const wanted = s.u32(abi.fuse_getxattr_in.size);
  return answerXattr(s, wanted, s.fs.listxattr(s.context, s.nodeid, s.out.open(wanted)));
}

function removexattr(s: Exchange): number {
  return s.fs.removexattr(s.context, s.nodeid, s.name);
}

function access(s: Exchange): number {
  return s.fs.access(s.context, s.nodeid, s.u32(abi.fuse_access_in.mask));
}

function getlk(s: Exchange): number {
  const { fh, owner } = abi.fuse_lk_in;
  const lock = s.takeLock();
  const result = s.fs.getlk(s.context, s.nodeid, s.u64(fh), s.takeOwner(owner), lock);
  const at = abi.fuse_lk_out.lk;
  s.reply.u64(at + abi.fuse_file_lock.start, lock.start);
  // OFFSET_MAX is not a double; it is the only end that large.
  if (lock.end < Number.MAX_SAFE_INTEGER) {
    s.reply.u64(at + abi.fuse_file_lock.end, lock.end);
  } else {
    s.reply.u32(at + abi.fuse_file_lock.end, 0xffffffff);
    s.reply.u32(at + abi.fuse_file_lock.end + 4, 0x7fffffff);
  }
  s.reply.u32(at + abi.fuse_file_lock.type, lock.type);
  s.reply.u32(at + abi.fuse_file_lock.pid, lock.pid);
  return result;
}

function setLock(s: Exchange, wait: boolean): number {
  const { fh, owner, lk_flags } = abi.fuse_lk_in;
  const isFlock = (s.u32(lk_flags) & abi.FUSE_LK_FLOCK) !== 0;
  const lock = s.takeLock();
  const handle = s.u64(fh);
  return s.fs.setlk(s.context, s.nodeid, handle, s.takeOwner(owner), lock, isFlock, wait);
}

function setlk(s: Exchange): number {
  return setLock(s, false);
}

function setlkw(s: Exchange): number {
  return setLock(s, true);
}

/** An interrupt is answered only to ask for it again. */
function interrupt(s: Exchange): number {
  const { unique } = abi.fuse_interrupt_in;
  const result = s.fs.interrupt(s.context, s.u32(unique), s.u32(unique + 4));
  return result < 0 ? result : REPLY_LATER;
}

function bmap(s: Exchange): number {
  const { blocksize, block } = abi.fuse_bmap_in;
  const result = s.fs.bmap(s.context, s.nodeid, s.u32(blocksize), s.u64(block));
  if (result >= 0) s.reply.u64(abi.fuse_bmap_out.block, result);
  return result < 0 ? result : 0;
}

function destroy(s: Exchange): number {
  s.fs.destroy();
  return 0;
}

function ioctl(s: Exchange): number {
  const { fh, flags, cmd, in_size, out_size } = abi.fuse_ioctl_in;
  if (!s.request.takeBytes(s.bytes, s.u32(in_size))) return malformedBody(s);
  const out = s.ioctlOut.open(s.u32(out_size));
  s.reply.clear(abi.fuse_ioctl_out.sizeof);
  const { context, nodeid, bytes } = s;
  const length = s.fs.ioctl(context, nodeid, s.u64(fh), s.u32(flags), s.u32(cmd), bytes, out);
  return length < 0 ? length : abi.fuse_ioctl_out.sizeof + length;
}

function poll(s: Exchange): number {
  const { fh, kh, flags, events } = abi.fuse_poll_in;
  const { context, nodeid } = s;
  const handle = s.u64(fh);
  const ready = s.fs.poll(context, nodeid, handle, s.u64(kh), s.u32(flags), s.u32(events));
  s.reply.u32(abi.fuse_poll_out.revents, ready);
  return ready < 0 ? ready : 0;
}

function fallocate(s: Exchange): number {
  const { fh, mode, offset, length } = abi.fuse_fallocate_in;
  const handle = s.u64(fh);
  return s.fs.fallocate(s.context, s.nodeid, handle, s.u32(mode), s.u64(offset), s.u64(length));
}

function lseek(s: Exchange): number {
  const { fh, offset, whence } = abi.fuse_lseek_in;
  const from = s.request.i64(offset);
  const result = s.fs.lseek(s.context, s.nodeid, s.u64(fh), from, s.u32(whence));
  if (result < 0) return result;
  s.reply.u64(abi.fuse_lseek_out.offset, result);
  return 0;
}

function copyRange(s: Exchange, length: number): number {
  const { fh_in, off_in, nodeid_out, fh_out, off_out, flags } = abi.fuse_copy_file_range_in;
  return s.fs.copyFileRange(
    s.context,
    s.nodeid,
    s.u64(fh_in),
    s.u64(off_in),
    s.u64(nodeid_out),
    s.u64(fh_out),
    s.u64(off_out),
    length,
    s.u32(flags),
  );
}

/** The answer has 32 bits for the number of bytes, as that of WRITE. */
function copyFileRange(s: Exchange): number {
  const length = Math.min(s.u64(abi.fuse_copy_file_range_in.len), abi.MAX_RW_COUNT);
  const copied = copyRange(s, length);
  s.reply.u32(abi.fuse_write_out.size, copied);
  return copied;
}

function copyFileRange64(s: Exchange): number {
  const copied = copyRange(s, s.u64(abi.fuse_copy_file_range_in.len));
  if (copied >= 0) s.reply.u64(abi.fuse_copy_file_range_out.bytes_copied, copied);
  return copied < 0 ? copied : 0;
}

function syncfs(s: Exchange): number {
  return s.fs.syncfs(s.context, s.nodeid);
}

function setupmapping(s: Exchange): number {
  const { fh, foffset, len, flags, moffset } = abi.fuse_setupmapping_in;
  const { context, nodeid } = s;
  const handle = s.u64(fh);
  return s.fs.setupmapping(
    context,
    nodeid,
    handle,
    s.u64(foffset),
    s.u64(len),
    s.u64(flags),
    s.u64(moffset),
  );
}

function removemapping(s: Exchange): number {
  const { sizeof, moffset, len } = abi.fuse_removemapping_one;
  const count = s.u32(abi.fuse_removemapping_in.count);
  if (!s.request.takeBytes(s.bytes, count * sizeof)) return malformedBody(s);
  for (let index = 0; index < count; index++) {
    const at = abi.fuse_removemapping_in.sizeof + index * sizeof;
    const { context, nodeid } = s;
    const result = s.fs.removemapping(context, nodeid, s.u64(at + moffset), s.u64(at + len));
    if (result < 0) return result;
  }
  return 0;
}

function notifyReply(s: Exchange): number {
  const { offset, size } = abi.fuse_notify_retrieve_in;
  const { uniqueLow, uniqueHigh } = s.request;
  if (!s.request.takeBytes(s.bytes, s.u32(size))) return malformedBody(s);
  s.fs.notifyReply(uniqueLow, uniqueHigh, s.nodeid, s.u64(offset), s.bytes);
  return 0;
}

function malformedBody(s: Exchange): number {
  const name = table[s.request.opcode]?.name ?? "";
  log.warnLimited(`malformed ${name} request: shorter than it says; answered with EINVAL`);
  return -EINVAL;
}

export const table: (Operation | undefined)[] = Array.from({ length: abi.FUSE_OPCODE_LIMIT });

function row(
  opcode: number,
  name: string,
  argument: { readonly sizeof: number } | null,
  names: number,
  reply: { readonly sizeof: number } | null,
  run: (exchange: Exchange) => number,
  silent = false,
): void {
  const structSize = argument?.sizeof ?? 0;
  table[opcode] = { name, structSize, names, replySize: reply?.sizeof ?? 0, silent, run };
}

const SILENT = true;
const VARIES = { sizeof: -1 };
const created = { sizeof: abi.fuse_entry_out.sizeof + abi.fuse_open_out.sizeof };

// INIT is not here: the session answers it before there is a server (see session.ts).
// prettier-ignore
{
  row(abi.FUSE_LOOKUP, "LOOKUP", null, LOOKUP_ENTRY, abi.fuse_entry_out, lookup);
  row(abi.FUSE_FORGET, "FORGET", abi.fuse_forget_in, NONE, null, forget, SILENT);
  row(abi.FUSE_GETATTR, "GETATTR", abi.fuse_getattr_in, NONE, abi.fuse_attr_out, getattr);
  row(abi.FUSE_SETATTR, "SETATTR", abi.fuse_setattr_in, NONE, abi.fuse_attr_out, setattr);
  row(abi.FUSE_READLINK, "READLINK", null, NONE, VARIES, readlink);
  row(abi.FUSE_SYMLINK, "SYMLINK", null, ENTRY_AND_TARGET, abi.fuse_entry_out, symlink);
  row(abi.FUSE_MKNOD, "MKNOD", abi.fuse_mknod_in, ENTRY, abi.fuse_entry_out, mknod);
  row(abi.FUSE_MKDIR, "MKDIR", abi.fuse_mkdir_in, ENTRY, abi.fuse_entry_out, mkdir);
  row(abi.FUSE_UNLINK, "UNLINK", null, ENTRY, null, unlink);
  row(abi.FUSE_RMDIR, "RMDIR", null, ENTRY, null, rmdir);
  row(abi.FUSE_RENAME, "RENAME", abi.fuse_rename_in, TWO_ENTRIES, null, rename);
  row(abi.FUSE_LINK, "LINK", abi.fuse_link_in, ENTRY, abi.fuse_entry_out, link);
  row(abi.FUSE_OPEN, "OPEN", abi.fuse_open_in, NONE, abi.fuse_open_out, open);
  row(abi.FUSE_READ, "READ", abi.fuse_read_in, NONE, VARIES, read);
  row(abi.FUSE_WRITE, "WRITE", abi.fuse_write_in, NONE, abi.fuse_write_out, write);
  row(abi.FUSE_STATFS, "STATFS", null, NONE, abi.fuse_statfs_out, statfs);
  row(abi.FUSE_RELEASE, "RELEASE", abi.fuse_release_in, NONE, null, release);
  row(abi.FUSE_FSYNC, "FSYNC", abi.fuse_fsync_in, NONE, null, fsync);
  row(abi.FUSE_SETXATTR, "SETXATTR", abi.fuse_setxattr_in, XATTR, null, setxattr);
  row(abi.FUSE_GETXATTR, "GETXATTR", abi.fuse_getxattr_in, XATTR, VARIES, getxattr);
  row(abi.FUSE_LISTXATTR, "LISTXATTR", abi.fuse_getxattr_in, NONE, VARIES, listxattr);
  row(abi.FUSE_REMOVEXATTR, "REMOVEXATTR", null, XATTR, null, removexattr);
  row(abi.FUSE_FLUSH, "FLUSH", abi.fuse_flush_in, NONE, null, flush);
  row(abi.FUSE_OPENDIR, "OPENDIR", abi.fuse_open_in, NONE, abi.fuse_open_out, opendir);
  row(abi.FUSE_READDIR, "READDIR", abi.fuse_read_in, NONE, VARIES, readdir);
  row(abi.FUSE_RELEASEDIR, "RELEASEDIR", abi.fuse_release_in, NONE, null, releasedir);
  row(abi.FUSE_FSYNCDIR, "FSYNCDIR", abi.fuse_fsync_in, NONE, null, fsyncdir);
  row(abi.FUSE_GETLK, "GETLK", abi.fuse_lk_in, NONE, abi.fuse_lk_out, getlk);
  row(abi.FUSE_SETLK, "SETLK", abi.fuse_lk_in, NONE, null, setlk);
  row(abi.FUSE_SETLKW, "SETLKW", abi.fuse_lk_in, NONE, null, setlkw);
  row(abi.FUSE_ACCESS, "ACCESS", abi.fuse_access_in, NONE, null, access);
  row(abi.FUSE_CREATE, "CREATE", abi.fuse_create_in, ENTRY, created, create);
  row(abi.FUSE_INTERRUPT, "INTERRUPT", abi.fuse_interrupt_in, NONE, null, interrupt);
  row(abi.FUSE_BMAP, "BMAP", abi.fuse_bmap_in, NONE, abi.fuse_bmap_out, bmap);
  row(abi.FUSE_DESTROY, "DESTROY", null, NONE, null, destroy);
  row(abi.FUSE_IOCTL, "IOCTL", abi.fuse_ioctl_in, NONE, VARIES, ioctl);
  row(abi.FUSE_POLL, "POLL", abi.fuse_poll_in, NONE, abi.fuse_poll_out, poll);
  row(abi.FUSE_NOTIFY_REPLY, "NOTIFY_REPLY", abi.fuse_notify_retrieve_in, NONE, null, notifyReply, SILENT);
  row(abi.FUSE_BATCH_FORGET, "BATCH_FORGET", abi.fuse_batch_forget_in, NONE, null, batchForget, SILENT);
  row(abi.FUSE_FALLOCATE, "FALLOCATE", abi.fuse_fallocate_in, NONE, null, fallocate);
  row(abi.FUSE_READDIRPLUS, "READDIRPLUS", abi.fuse_read_in, NONE, VARIES, readdirplus);
  row(abi.FUSE_RENAME2, "RENAME2", abi.fuse_rename2_in, TWO_ENTRIES, null, rename2);
  row(abi.FUSE_LSEEK, "LSEEK", abi.fuse_lseek_in, NONE, abi.fuse_lseek_out, lseek);
  row(abi.FUSE_COPY_FILE_RANGE, "COPY_FILE_RANGE", abi.fuse_copy_file_range_in, NONE, abi.fuse_write_out, copyFileRange);
  row(abi.FUSE_SETUPMAPPING, "SETUPMAPPING", abi.fuse_setupmapping_in, NONE, null, setupmapping);
  row(abi.FUSE_REMOVEMAPPING, "REMOVEMAPPING", abi.fuse_removemapping_in, NONE, null, removemapping);
  row(abi.FUSE_SYNCFS, "SYNCFS", abi.fuse_syncfs_in, NONE, null, syncfs);
  row(abi.FUSE_TMPFILE, "TMPFILE", abi.fuse_create_in, PLACEHOLDER, created, tmpfile);
  row(abi.FUSE_STATX, "STATX", abi.fuse_statx_in, NONE, abi.fuse_statx_out, statx);
  row(abi.FUSE_COPY_FILE_RANGE_64, "COPY_FILE_RANGE_64", abi.fuse_copy_file_range_in, NONE, abi.fuse_copy_file_range_out, copyFileRange64);
}

/** `LOOKUP` for FUSE_LOOKUP. */
export function opcodeName(opcode: number): string {
  if (opcode === abi.FUSE_INIT) return "INIT";
  return table[opcode]?.name ?? `opcode ${opcode}`;
}
