// Where the executable begins: what takes long is started first, and the program is loaded while it
// starts.

import { startInBackground } from "./cli-background.ts";
import { goesToBackground, workersToStart } from "./cli-forecast.ts";
import { WorkerThread } from "./worker-thread.ts";

const args = process.argv.slice(2);
if (goesToBackground(process.argv0, args, process.env)) {
  const code = await startInBackground();
  if (code !== undefined) process.exit(code);
}
const workers = Array.from({ length: workersToStart(args, process.env) }, () => new WorkerThread());
const { run } = await import("./program.ts");
process.exit(await run(args, workers));
