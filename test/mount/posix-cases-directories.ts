// POSIX cases: reading directories.

import * as abi from "../../src/abi-linux.ts";
import * as c from "./calls.ts";
import { alice, directory, file, inode, kind, zoo, type Cases, type Place } from "./posix-place.ts";

const { O_RDONLY, O_WRONLY, O_PATH, O_DIRECTORY, SEEK_SET } = abi;

/**
 * A directory of `count` empty files; the names, sorted. Ten names are one file: ext4 takes very
 * long to make thousands of inodes soon after thousands were removed.
 */
function crowd({ at }: Place, count: number): string[] {
  directory(at("d"));
  const names = Array.from({ length: count }, (_, index) => `entry-${index}`);
  for (const [index, name] of names.entries())
    if (index % 10 === 0) file(at(`d/${name}`));
    else c.must(c.link(at(`d/${names[index - 1]}`), at(`d/${name}`)));
  return names.sort();
}

const openDirectory = (path: string): number => c.must(c.open(path, O_RDONLY | O_DIRECTORY));

const names = (entries: c.DirectoryEntry[] | number): string[] =>
  c.must<c.DirectoryEntry[]>(entries).map(({ name }) => name);
const real = (all: string[]): string[] => all.filter((name) => name !== "." && name !== "..");
const sorted = (entries: c.DirectoryEntry[] | number): string[] => real(names(entries)).sort();
const same = (a: string[], b: string[]): boolean => a.join("\n") === b.join("\n");

export const directoryCases: Cases = {
  "a directory lists itself and its parent": ({ at }) => {
    directory(at("d"));
    directory(at("d/e"));
    const entries = c.must<c.DirectoryEntry[]>(c.getAllDents(openDirectory(at("d/e"))));
    const find = (name: string): c.DirectoryEntry | undefined =>
      entries.find((entry) => entry.name === name);
    return [
      entries.length,
      find(".")?.ino === inode(at("d/e")),
      find("..")?.ino === inode(at("d")),
      find(".")?.type,
      find("..")?.type,
    ];
  },

  "inode numbers and kinds of entries are those of the files": (place) => {
    const { at } = place;
    zoo(place);
    const entries = c.must<c.DirectoryEntry[]>(c.getAllDents(openDirectory(place.directory)));
    return entries
      .filter(({ name }) => name !== "..")
      .map(({ name, ino, type }) => [name, kind(at(name)), type, ino === inode(at(name))].join())
      .sort();
  },

  "ten thousand entries, each once, with a large and a small buffer": (place) => {
    const all = crowd(place, 10_000);
    return [32_768, 1024, 280].map((size) => {
      const entries = c.getAllDents(openDirectory(place.at("d")), size);
      return [names(entries).length, same(sorted(entries), all)];
    });
  },

  "three thousand entries can be looked at and removed": (place) => {
    const all = crowd(place, 3000);
    const found = all.filter((name) => kind(place.at(`d/${name}`)) === "file").length;
    const removed = all.filter((name) => c.unlink(place.at(`d/${name}`)) === 0).length;
    return [found, removed, c.list(place.at("d")), c.rmdir(place.at("d"))];
  },

  "a cookie leads back to its place": (place) => {
    crowd(place, 1000);
    const fd = openDirectory(place.at("d"));
    const all = c.must<c.DirectoryEntry[]>(c.getAllDents(fd, 4096));
    return [0, 1, 2, 500, 998, 1000].map((index) => {
      c.must(c.lseek(fd, all[index]?.next ?? "", SEEK_SET));
      return same(names(c.getAllDents(fd, 1024)), names(all.slice(index + 1)));
    });
  },

  "a cookie is good for another descriptor too": (place) => {
    crowd(place, 1000);
    const all = c.must<c.DirectoryEntry[]>(c.getAllDents(openDirectory(place.at("d"))));
    const fd = openDirectory(place.at("d"));
    c.must(c.lseek(fd, all[700]?.next ?? "", SEEK_SET));
    return same(names(c.getAllDents(fd)), names(all.slice(701)));
  },

  "a cookie survives removals before and after it": (place) => {
    const { at } = place;
    crowd(place, 1000);
    const fd = openDirectory(at("d"));
    const all = c.must<c.DirectoryEntry[]>(c.getAllDents(fd));
    const order = names(all);
    for (const name of real(order).filter((_, index) => index % 3 === 0)) c.unlink(at(`d/${name}`));
    c.must(c.lseek(fd, all[500]?.next ?? "", SEEK_SET));
    const left = order.slice(501).filter((name) => kind(at(`d/${name}`)) !== -2);
    // What was removed may be shown until the directory is read from its beginning again.
    const found = names(c.getAllDents(fd)).filter((name) => kind(at(`d/${name}`)) !== -2);
    return same(found, left);
  },

  "going back to the beginning shows what is new": (place) => {
    const { at } = place;
    crowd(place, 10);
    const fd = openDirectory(at("d"));
    const before = sorted(c.getAllDents(fd)).length;
    file(at("d/new"));
    c.unlink(at("d/entry-3"));
    c.lseek(fd, 0, SEEK_SET);
    return [before, sorted(c.getAllDents(fd))];
  },

  "files removed while a directory is read": (place) => {
    const { at } = place;
    const all = crowd(place, 2000);
    const fd = openDirectory(at("d"));
    const seen = new Set<string>();
    let twice = 0;
    for (;;) {
      const some = real(names(c.getdents(fd, 2048)));
      if (some.length === 0) break;
      for (const name of some) {
        if (seen.has(name)) twice++;
        seen.add(name);
        c.unlink(at(`d/${name}`));
      }
    }
    return [twice, seen.size === all.length, c.list(at("d"))];
  },

  "files made while a directory is read don't hide others": (place) => {
    const { at } = place;
    const all = crowd(place, 1000);
    const fd = openDirectory(at("d"));
    const seen: string[] = [];
    for (let round = 0; ; round++) {
      const some = names(c.getdents(fd, 2048)).filter((name) => name.startsWith("entry"));
      if (some.length === 0) break;
      seen.push(...some);
      if (round < 20) file(at(`d/new-${round}`));
    }
    return [same(seen.sort(), all), (c.list(at("d")) as string[]).length > 1000];
  },

  "a file is found at once after a listing without it": ({ at, directory: dir }) => {
    const before = [c.list(dir), kind(at("f"))];
    file(at("f"));
    const between = [c.list(dir), kind(at("f"))];
    c.unlink(at("f"));
    return [before, between, c.list(dir), kind(at("f"))];
  },

  "two descriptors read on their own, a duplicate shares": (place) => {
    crowd(place, 100);
    const fd = openDirectory(place.at("d"));
    const other = openDirectory(place.at("d"));
    const same = c.dup(fd);
    const first = names(c.getdents(fd, 512));
    const second = names(c.getdents(other, 512));
    const third = names(c.getdents(same, 512));
    return [first.join() === second.join(), first.join() === third.join()];
  },

  "a buffer too small for an entry": (place) => {
    const { at } = place;
    directory(at("d"));
    file(at(`d/${"n".repeat(255)}`));
    const fd = openDirectory(at("d"));
    const dots = [c.getdents(fd, 24), c.getdents(fd, 24)].map((entries) =>
      typeof entries === "number" ? entries : entries.length,
    );
    return [dots.length, c.getdents(openDirectory(at("d")), 10)];
  },

  "only directories opened for reading are listed": ({ at }) => {
    file(at("f"));
    directory(at("d"));
    return [
      c.getdents(c.open(at("f"), O_RDONLY)),
      c.getdents(c.open(at("d"), O_PATH)),
      c.getdents(c.open(at("f"), O_WRONLY)),
      c.read(openDirectory(at("d")), 10),
      c.write(openDirectory(at("d")), "x"),
      c.ftruncate(openDirectory(at("d")), 0),
    ];
  },

  "a removed directory lists nothing": ({ at }) => {
    directory(at("d"));
    const fd = openDirectory(at("d"));
    c.rmdir(at("d"));
    return [c.getdents(fd), c.openat(fd, "f", abi.O_CREAT | O_WRONLY), c.fsync(fd)];
  },

  "a directory open while it is renamed lists on": (place) => {
    const { at } = place;
    const all = crowd(place, 500);
    const fd = openDirectory(at("d"));
    const first = names(c.getdents(fd, 1024));
    c.rename(at("d"), at("e"));
    return same([...real(first), ...sorted(c.getAllDents(fd))].sort(), all);
  },

  "directories of others": ({ at }) => {
    for (const bits of [0o700, 0o711, 0o744, 0o755]) {
      directory(at(`d${bits}`));
      file(at(`d${bits}/f`));
      c.chmod(at(`d${bits}`), bits);
    }
    return c.as(alice, () =>
      [0o700, 0o711, 0o744, 0o755].map((bits) => [c.list(at(`d${bits}`)), kind(at(`d${bits}/f`))]),
    );
  },

  "fsync and fdatasync of directories": ({ at }) => {
    directory(at("d"));
    const fd = openDirectory(at("d"));
    return [c.fsync(fd), c.fdatasync(fd), c.syncfs(fd)];
  },

  "openat by a directory's descriptor": ({ at }) => {
    directory(at("d"));
    const fd = openDirectory(at("d"));
    const path = c.open(at("d"), O_PATH);
    return [
      c.openat(fd, "f", abi.O_CREAT | O_WRONLY) >= 0,
      c.openat(path, "f", O_RDONLY) >= 0,
      c.openat(path, "../d/f", O_RDONLY) >= 0,
      c.openat(c.open(at("d/f"), O_RDONLY), "x", O_RDONLY),
    ];
  },

  "names that come and go a thousand times": ({ at, directory: dir }) => {
    let wrong = 0;
    for (let round = 0; round < 1000; round++) {
      const name = `f${round % 7}`;
      file(at(name));
      if (kind(at(name)) !== "file") wrong++;
      c.rename(at(name), at("g"));
      if (kind(at(name)) !== -2) wrong++;
      c.unlink(at("g"));
    }
    return [wrong, c.list(dir)];
  },
};
