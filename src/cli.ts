// The command line: which command, what it is told, and the exit code: 0, 1 if something failed, 2
// if the command line is wrong.

import { version } from "../package.json";
import { readMountOptions, type MountSettings } from "./cli-mount-options.ts";
import { mountHelperName, readMountHelper } from "./cli-mount-helper.ts";
import { GLOBAL_OPTIONS, PASSTHROUGH_OPTIONS } from "./cli-options.ts";
import { parseArguments, UsageError } from "./cli-parse.ts";
import { passthroughOptions } from "./cli-passthrough.ts";
import { serve, type RunDaemon } from "./cli-serve.ts";
import type { DaemonOptions } from "./daemon.ts";
import { writeError } from "./log.ts";
import { MountError } from "./mount-options.ts";
import { ConfigError } from "./passthrough-config.ts";

const COMMANDS = ["passthrough"];

/** What the command line asks for. */
export type Request =
  | { readonly kind: "serve"; readonly options: DaemonOptions }
  | { readonly kind: "help"; readonly command: string | undefined }
  | { readonly kind: "version" }
  | { readonly kind: "nothing" };

/** Runs the program, called by the name `invokedAs`, and returns the exit code. */
export async function main(
  invokedAs: string,
  args: readonly string[],
  runDaemon: RunDaemon,
): Promise<number> {
  try {
    const request = readCommandLine(invokedAs, args);
    if (request.kind === "serve") return await serve(request.options, runDaemon);
    if (request.kind === "version") console.log(`fuse-backend ${version}`);
    if (request.kind === "help") {
      const { renderHelp } = await import("./cli-help.ts");
      console.log(await renderHelp(request.command, version));
    }
    return 0;
  } catch (error) {
    return report(error, mountHelperName(invokedAs) === undefined ? args : COMMANDS);
  }
}

/** Throws UsageError or ConfigError if the command line is wrong. */
export function readCommandLine(invokedAs: string, args: readonly string[]): Request {
  const helper = mountHelperName(invokedAs);
  if (helper !== undefined) {
    const wanted = readMountHelper(helper, args);
    if (wanted === "help") return { kind: "help", command: "passthrough" };
    if (wanted === "version") return { kind: "version" };
    return wanted === undefined ? { kind: "nothing" } : { kind: "serve", options: wanted };
  }
  const commandAt = args.findIndex((argument) => !argument.startsWith("-"));
  const { asks } = parseArguments(commandAt < 0 ? args : args.slice(0, commandAt), GLOBAL_OPTIONS);
  if (asks === "version") return { kind: "version" };
  const command = args[commandAt];
  if (command !== undefined && !COMMANDS.includes(command))
    throw new UsageError(`unknown command "${command}"`);
  if (asks === "help") return { kind: "help", command };
  if (command === undefined) throw new UsageError("a command is missing");
  return passthrough(args.slice(commandAt + 1));
}

function passthrough(args: readonly string[]): Request {
  const { positionals, given, asks } = parseArguments(args, PASSTHROUGH_OPTIONS);
  if (asks === "help") return { kind: "help", command: "passthrough" };
  if (asks === "version") return { kind: "version" };
  const settings: MountSettings = { extraFlags: 0 };
  given.add(readMountOptions(given.list("options"), settings, PASSTHROUGH_OPTIONS));
  if (settings.remount === true) throw new UsageError("-o remount is for mount(8)");
  const options = passthroughOptions(positionals, given, settings, {
    privileges: false,
    background: given.switch("background") ?? false,
    logLevel: "info",
  });
  return { kind: "serve", options };
}

/** `args` tell which command's help is of use. */
function report(error: unknown, args: readonly string[]): number {
  if (error instanceof UsageError || error instanceof ConfigError) {
    const command = COMMANDS.find((name) => args.includes(name));
    const hint = ["fuse-backend", command, "--help"].filter((word) => word !== undefined).join(" ");
    writeError(`fuse-backend: ${error.message}; see ${hint}\n`);
    return 2;
  }
  // Where a stack would help nobody, a plain Error was thrown; others are bugs.
  const forPeople = error instanceof MountError || (error as Error).constructor === Error;
  const { message, stack } = error as Error;
  writeError(`fuse-backend: ${forPeople ? message : (stack ?? message)}\n`);
  return 1;
}
