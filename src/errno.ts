// Error numbers of Linux on x86-64 and arm64 (asm-generic/errno.h), positive as in C. Functions
// that can fail return `>= 0`, or the negated number.

export const EPERM = 1;
export const ENOENT = 2;
export const ESRCH = 3;
export const EINTR = 4;
export const EIO = 5;
export const ENXIO = 6;
export const E2BIG = 7;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const EEXIST = 17;
export const EXDEV = 18;
export const ENODEV = 19;
export const ENOTDIR = 20;
export const EISDIR = 21;
export const EINVAL = 22;
export const ENFILE = 23;
export const EMFILE = 24;
export const ENOTTY = 25;
export const ETXTBSY = 26;
export const EFBIG = 27;
export const ENOSPC = 28;
export const ESPIPE = 29;
export const EROFS = 30;
export const EMLINK = 31;
export const EPIPE = 32;
export const ERANGE = 34;
export const EDEADLK = 35;
export const ENAMETOOLONG = 36;
export const ENOLCK = 37;
export const ENOSYS = 38;
export const ENOTEMPTY = 39;
export const ELOOP = 40;
export const ENODATA = 61;
export const EPROTO = 71;
export const EOVERFLOW = 75;
export const ENOTSOCK = 88;
export const EOPNOTSUPP = 95;
export const ECONNABORTED = 103;
export const ENOTCONN = 107;
export const ETIMEDOUT = 110;
export const ESTALE = 116;
export const EDQUOT = 122;
export const ECANCELED = 125;

const table: Record<number, readonly [name: string, message: string]> = {
  [EPERM]: ["EPERM", "operation not permitted"],
  [ENOENT]: ["ENOENT", "no such file or directory"],
  [ESRCH]: ["ESRCH", "no such process"],
  [EINTR]: ["EINTR", "interrupted"],
  [EIO]: ["EIO", "input/output error"],
  [ENXIO]: ["ENXIO", "no such device or address"],
  [E2BIG]: ["E2BIG", "argument list too long"],
  [EBADF]: ["EBADF", "bad file descriptor"],
  [EAGAIN]: ["EAGAIN", "try again"],
  [ENOMEM]: ["ENOMEM", "out of memory"],
  [EACCES]: ["EACCES", "permission denied"],
  [EFAULT]: ["EFAULT", "bad address"],
  [EBUSY]: ["EBUSY", "device or resource busy"],
  [EEXIST]: ["EEXIST", "file exists"],
  [EXDEV]: ["EXDEV", "cross-device link"],
  [ENODEV]: ["ENODEV", "no such device"],
  [ENOTDIR]: ["ENOTDIR", "not a directory"],
  [EISDIR]: ["EISDIR", "is a directory"],
  [EINVAL]: ["EINVAL", "invalid argument"],
  [ENFILE]: ["ENFILE", "too many open files in the system"],
  [EMFILE]: ["EMFILE", "too many open files"],
  [ENOTTY]: ["ENOTTY", "inappropriate ioctl"],
  [ETXTBSY]: ["ETXTBSY", "text file busy"],
  [EFBIG]: ["EFBIG", "file too large"],
  [ENOSPC]: ["ENOSPC", "no space left on device"],
  [ESPIPE]: ["ESPIPE", "illegal seek"],
  [EROFS]: ["EROFS", "read-only file system"],
  [EMLINK]: ["EMLINK", "too many links"],
  [EPIPE]: ["EPIPE", "broken pipe"],
  [ERANGE]: ["ERANGE", "result too large"],
  [EDEADLK]: ["EDEADLK", "resource deadlock avoided"],
  [ENAMETOOLONG]: ["ENAMETOOLONG", "file name too long"],
  [ENOLCK]: ["ENOLCK", "no locks available"],
  [ENOSYS]: ["ENOSYS", "function not implemented"],
  [ENOTEMPTY]: ["ENOTEMPTY", "directory not empty"],
  [ELOOP]: ["ELOOP", "too many levels of symbolic links"],
  [ENODATA]: ["ENODATA", "no data available"],
  [EPROTO]: ["EPROTO", "protocol error"],
  [EOVERFLOW]: ["EOVERFLOW", "value too large"],
  [ENOTSOCK]: ["ENOTSOCK", "not a socket"],
  [EOPNOTSUPP]: ["EOPNOTSUPP", "operation not supported"],
  [ECONNABORTED]: ["ECONNABORTED", "connection aborted"],
  [ENOTCONN]: ["ENOTCONN", "transport endpoint is not connected"],
  [ETIMEDOUT]: ["ETIMEDOUT", "timed out"],
  [ESTALE]: ["ESTALE", "stale file handle"],
  [EDQUOT]: ["EDQUOT", "disk quota exceeded"],
  [ECANCELED]: ["ECANCELED", "operation canceled"],
};

/** `ENOENT` for 2 or -2; `errno 999` for a number without a name here. */
export function errnoName(errno: number): string {
  return table[Math.abs(errno)]?.[0] ?? `errno ${Math.abs(errno)}`;
}

/** `no such file or directory (ENOENT)` for 2 or -2. */
export function errnoMessage(errno: number): string {
  const entry = table[Math.abs(errno)];
  return entry === undefined ? errnoName(errno) : `${entry[1]} (${entry[0]})`;
}
