// Where the executable begins: what takes long is started first, and the program is loaded while it
// starts. The program is a file of its own in the executable, or it would be loaded before.

import { startInBackground } from "./cli-background.ts";
import { goesToBackground, workersToStart } from "./cli-forecast.ts";
import { WorkerThread } from "./worker-thread.ts";

const args = process.argv.slice(2);
if (goesToBackground(process.argv0, args, process.env)) {
  const code = await startInBackground();
  if (code !== undefined) process.exit(code);
}
const workers = Array.from({ length: workersToStart(args, process.env) }, () => new WorkerThread());
const program = new URL("./program.ts", import.meta.url).href;
const { run } = (await import(program)) as typeof import("./program.ts");
process.exit(await run(args, workers));
