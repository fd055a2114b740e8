// Where something can be mounted in the tree of a VFS: "/", or `/NAME/NAME…` with names that a
// directory can have.

/** What a person did wrong: a path that can't be mounted at, or nothing mounted there. */
export class VfsError extends Error {
  override name = "VfsError";
}

const COMPONENT_BYTES_MAX = 255;

/** The components of a path like `/a/b`; none for `/`. Throws VfsError. */
export function pathComponents(path: string): string[] {
  if (path === "/") return [];
  const components = path.split("/").slice(1);
  const problem = wrongWithSlashes(path, components) ?? wrongWithAny(components);
  if (problem !== undefined)
    throw new VfsError(`${JSON.stringify(path)} cannot be the path of a mount: ${problem}`);
  return components;
}

function wrongWithSlashes(path: string, components: readonly string[]): string | undefined {
  const names = path.split("/").filter((name) => name !== "");
  const instead = JSON.stringify(`/${names.join("/")}`);
  if (!path.startsWith("/")) return `it does not begin with a slash; write ${instead}`;
  if (components.at(-1) === "") return `it ends with a slash; write ${instead}`;
  if (components.includes("")) return `it has two slashes in a row; write ${instead}`;
  return undefined;
}

function wrongWithAny(components: readonly string[]): string | undefined {
  return components.map(wrongWithName).find((problem) => problem !== undefined);
}

function wrongWithName(name: string): string | undefined {
  const quoted = JSON.stringify(name);
  if (name === "." || name === "..")
    return `the name ${quoted} is every directory's; write where it leads`;
  if (name.includes("\0")) return `the name ${quoted} has a NUL in it`;
  if (!isUtf8(name)) return `the name ${quoted} is not valid UTF-8`;
  const bytes = Buffer.byteLength(name);
  if (bytes <= COMPONENT_BYTES_MAX) return undefined;
  return `the name ${quoted} has ${bytes} bytes; ${COMPONENT_BYTES_MAX} are the most`;
}

/** The runtime puts U+FFFD in place of what it can't decode. */
export function isUtf8(text: string): boolean {
  return text.isWellFormed() && !text.includes("\u{fffd}");
}
