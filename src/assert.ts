// Assertions that stay on in production: a broken invariant ends the process instead of going on
// with damaged state.

/** Ends with an error when `condition` does not hold; `message` says which invariant it was. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

export class AssertionError extends Error {
  override name = "AssertionError";
}
