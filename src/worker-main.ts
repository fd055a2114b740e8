// What the thread of a worker runs.

import type { ServeOrder, WorkerTask } from "./worker-thread.ts";

// Listened for at once: what comes while nobody listens is lost.
const told = Promise.withResolvers<WorkerTask>();
const ordered = Promise.withResolvers<ServeOrder>();
addEventListener("message", ({ data }: MessageEvent<WorkerTask | ServeOrder>) => {
  if ("role" in data) told.resolve(data);
  else ordered.resolve(data);
});
const { runTask } = await import("./worker.ts");
await runTask(await told.promise, ordered.promise);
