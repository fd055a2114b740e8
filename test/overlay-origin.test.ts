// Where an upper file comes from, as the kernel's overlayfs writes it and as we do.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { lstatSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import * as abi from "../src/abi-linux.ts";
import { ENODATA } from "../src/errno.ts";
import { smallMemory } from "../src/memory.ts";
import { Origins, type HandleLayer } from "../src/overlay-origin.ts";
import * as sys from "../src/syscall.ts";
import { close, lgetxattr, must, open } from "./mount/calls.ts";
import { shell } from "./mount/shell.ts";
import { Disk, overlaySystems, whyNoOverlays } from "./support-overlay.ts";

const NAMES = ["file", "directory", "link", "fifo"];
const statMemory = smallMemory(abi.stat.sizeof);
const uuidMemory = smallMemory(24);

/** The layer at a path, as overlay.ts opens it. */
function layerAt(path: string): HandleLayer {
  const mountFd = must<number>(open(path, abi.O_RDONLY | abi.O_DIRECTORY));
  expect(sys.ioctl(mountFd, abi.FS_IOC_GETFSUUID, uuidMemory.address)).toBe(0);
  return { mountFd, uuid: Buffer.from(uuidMemory.bytes.subarray(1, 17)).toString("hex") };
}

const bytesOf = (origins: Origins, length: number): string =>
  Buffer.from(origins.encoded.bytes.subarray(0, length)).toString("latin1");

describe.skipIf(whyNoOverlays !== undefined)("an origin", () => {
  let disk: Disk;
  let origins: Origins;
  const at = (name: string): string => `${disk.path}/${name}`;
  const encode = (name: string): number => {
    const fd = must<number>(open(at(name), abi.O_PATH | abi.O_NOFOLLOW));
    const length = origins.encode(fd, 0);
    close(fd);
    return length;
  };
  /** The inode number of what is found, or -errno. */
  const decode = (length: number, mode: number): number => {
    const copy = smallMemory(256);
    copy.bytes.set(origins.encoded.bytes.subarray(0, length));
    const fd = origins.decode(copy, length, mode, statMemory);
    if (fd < 0) return fd;
    sys.close(fd);
    return Number(statMemory.view.getBigUint64(abi.stat.st_ino, true));
  };

  beforeAll(async () => {
    disk = await Disk.start("64M");
    for (const name of ["lower", "upper", "work", "mnt"]) mkdirSync(at(name));
    await shell(`cd ${at("lower")}; echo x > file; mkdir directory; ln -s file link; mkfifo fifo`);
    origins = new Origins([layerAt(at("lower"))]);
  });
  afterAll(async () => {
    await disk[Symbol.asyncDispose]();
  });

  test("is, byte by byte, what the kernel's overlayfs stores at the same copy-up", async () => {
    const layers = { lower: [at("lower")], upper: at("upper"), work: at("work") };
    const mount = await overlaySystems.kernel.mount(layers, [], at("mnt"));
    await shell(`cd ${at("mnt")}; chown -h 7:7 ${NAMES.join(" ")}`);
    await mount.unmount();
    for (const name of NAMES) {
      const stored = must<string>(
        lgetxattr(at(`upper/${name}`), "trusted.overlay.origin") as string,
      );
      const length = encode(`lower/${name}`);
      expect(origins.name(length)).toBe(Buffer.from(stored, "latin1").toString("hex"));
    }
  });

  test("leads back to the file", () => {
    for (const name of NAMES) {
      const { ino, mode } = lstatSync(at(`lower/${name}`));
      expect(decode(encode(`lower/${name}`), mode)).toBe(ino);
    }
  });

  test("leads nowhere if the file is gone, or is not of the type it should be", () => {
    writeFileSync(at("lower/gone"), "");
    const length = encode("lower/gone");
    expect(decode(length, abi.S_IFDIR)).toBe(-ENODATA);
    expect(decode(length, abi.S_IFREG)).toBeGreaterThan(0);
    rmSync(at("lower/gone"));
    expect(decode(length, abi.S_IFREG)).toBe(-ENODATA);
  });

  test("leads nowhere if it is of another file system, or is damaged", () => {
    const damage = (index: number, bits: number): number => {
      const length = encode("lower/file");
      const { bytes } = origins.encoded;
      bytes[index] = bytes[index]! ^ bits;
      return decode(length, abi.S_IFREG);
    };
    for (const [index, bits] of [
      [0, 1], // version
      [1, 1], // magic
      [2, 1], // length
      [3, 1], // byte order
      [3, 8], // a flag that nobody knows
      [4, 0x40], // type of the handle
      [5, 1], // the file system's uuid
    ] as const)
      expect([index, damage(index, bits)]).toEqual([index, -ENODATA]);
    const length = encode("lower/file");
    for (const wrong of [0, 5, 21, length - 1, length + 1])
      expect(decode(wrong, abi.S_IFREG)).toBe(-ENODATA);
    // The same bytes are sound with the flag of a file in the upper layer.
    expect(encode("lower/file")).toBe(length);
    origins.encoded.bytes[3] = 4;
    expect(decode(length, abi.S_IFREG)).toBe(statSync(at("lower/file")).ino);
  });

  test("names the index's entries in hexadecimal", () => {
    const length = encode("lower/file");
    const name = origins.name(length);
    expect(name).toBe(Buffer.from(bytesOf(origins, length), "latin1").toString("hex"));
    expect(name).toMatch(/^00fb[0-9a-f]+$/);
  });

  test("is found in whichever layer of several it is, once a file system", async () => {
    await using other = await Disk.start("16M");
    writeFileSync(`${other.path}/file`, "");
    const layers = [layerAt(at("lower")), layerAt(at("upper")), layerAt(other.path)];
    const both = new Origins(layers);
    const fd = must<number>(open(`${other.path}/file`, abi.O_PATH));
    const length = both.encode(fd, 2);
    close(fd);
    const copy = smallMemory(256);
    copy.bytes.set(both.encoded.bytes.subarray(0, length));
    const found = both.decode(copy, length, abi.S_IFREG, statMemory);
    expect(found).toBeGreaterThanOrEqual(0);
    sys.close(found);
    expect(Number(statMemory.view.getBigUint64(abi.stat.st_ino, true))).toBe(
      statSync(`${other.path}/file`).ino,
    );
    for (const { mountFd } of layers) close(mountFd);
  });

  test("is not to be had where files have no handles", () => {
    const fd = must<number>(open("/proc/self/maps", abi.O_PATH));
    expect(origins.encode(fd, 0)).toBe(0);
    close(fd);
  });
});
