// Where the executable begins: what takes long is started first, and the program is loaded while it
// starts.

import { startInBackground } from "./cli-background.ts";
import { goesToBackground, needsWorker } from "./cli-forecast.ts";
import { WorkerThread } from "./worker-thread.ts";

const args = process.argv.slice(2);
if (goesToBackground(process.argv0, args, process.env)) {
  const code = await startInBackground();
  if (code !== undefined) process.exit(code);
}
const workers = needsWorker(args, process.env) ? [new WorkerThread()] : [];
const { run } = await import("./program.ts");
process.exit(await run(args, workers));
