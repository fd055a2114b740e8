// io_uring, and what FUSE makes of it: linux/io_uring.h, and the fuse_uring_… structs of
// linux/fuse.h. A ring is two arrays in memory shared with the kernel: submissions (SQEs), which
// io_uring_enter(2) hands over, and completions (CQEs).
//
// A daemon registers buffers, entries, with a queue of a CPU (FUSE_IO_URING_CMD_REGISTER). The
// command completes when there is a request in them: struct fuse_uring_req_header in the one
// buffer, what does not fit there in the other, the payload. FUSE_IO_URING_CMD_COMMIT_AND_FETCH
// answers it from the same buffers, and completes with the next request.

import { array, i32, struct, u16, u32, u64, u8 } from "./struct.ts";

export const IORING_SETUP_CQSIZE = 1 << 3;
export const IORING_SETUP_SQE128 = 1 << 10;
export const IORING_SETUP_SINGLE_ISSUER = 1 << 12;
export const IORING_SETUP_DEFER_TASKRUN = 1 << 13;

export const IORING_OFF_SQ_RING = 0;
export const IORING_OFF_SQES = 0x10000000;

export const IORING_ENTER_GETEVENTS = 1;

export const IORING_OP_NOP = 0;
export const IORING_OP_READ = 22;
export const IORING_OP_URING_CMD = 46;

export const io_sqring_offsets = struct("io_sqring_offsets", {
  head: u32,
  tail: u32,
  ring_mask: u32,
  ring_entries: u32,
  flags: u32,
  dropped: u32,
  array: u32,
  resv1: u32,
  reserved: u64,
});

export const io_cqring_offsets = struct("io_cqring_offsets", {
  head: u32,
  tail: u32,
  ring_mask: u32,
  ring_entries: u32,
  overflow: u32,
  cqes: u32,
  flags: u32,
  resv1: u32,
  reserved: u64,
});

export const io_uring_params = struct("io_uring_params", {
  sq_entries: u32,
  cq_entries: u32,
  flags: u32,
  sq_thread_cpu: u32,
  sq_thread_idle: u32,
  features: u32,
  wq_fd: u32,
  resv: array(u32, 3),
  sq_off: io_sqring_offsets,
  cq_off: io_cqring_offsets,
});

/**
 * With IORING_SETUP_SQE128 another 64 bytes follow; what comes after `file_index` is then the
 * command's own.
 */
export const io_uring_sqe = struct("io_uring_sqe", {
  opcode: u8,
  flags: u8,
  ioprio: u16,
  fd: i32,
  cmd_op: u32,
  __pad1: u32,
  addr: u64,
  len: u32,
  uring_cmd_flags: u32,
  user_data: u64,
  buf_index: u16,
  personality: u16,
  file_index: u32,
  addr3: u64,
  __pad2: u64,
});
/** The size of one with IORING_SETUP_SQE128, and where in it the command's own begins. */
export const SQE128_SIZE = 128;
export const SQE_CMD = io_uring_sqe.addr3;

export const io_uring_cqe = struct("io_uring_cqe", {
  user_data: u64,
  res: i32,
  flags: u32,
});

export const FUSE_IO_URING_CMD_REGISTER = 1;
export const FUSE_IO_URING_CMD_COMMIT_AND_FETCH = 2;

export const fuse_uring_ent_in_out = struct("fuse_uring_ent_in_out", {
  flags: u64,
  commit_id: u64,
  payload_sz: u32,
  padding: u32,
  reserved: u64,
});

export const fuse_uring_req_header = struct("fuse_uring_req_header", {
  /** struct fuse_in_header, and struct fuse_out_header of the answer. */
  in_out: array(u8, 128),
  /** The opcode's argument struct. */
  op_in: array(u8, 128),
  ring_ent_in_out: fuse_uring_ent_in_out,
});

/** The command's own part of a submission. */
export const fuse_uring_cmd_req = struct("fuse_uring_cmd_req", {
  flags: u64,
  commit_id: u64,
  qid: u16,
  padding: array(u8, 6),
});
