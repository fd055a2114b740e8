// What the thread of a worker runs. The executable has it beside main.ts.

import type { WorkerTask } from "./worker-thread.ts";

// Listened for at once: what comes while nobody listens is lost.
const told = new Promise<MessageEvent<WorkerTask>>((resolve) =>
  addEventListener("message", resolve, { once: true }),
);
const { runTask } = await import("./worker.ts");
const { data } = await told;
await runTask(data);
