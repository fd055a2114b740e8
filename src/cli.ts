// The command line: which command, what it is told, and the exit code: 0, 1 if something failed, 2
// if the command line is wrong.

import { version } from "../package.json";
import type { ReadCommand } from "./cli-daemon.ts";
import { readMountOptions, type MountSettings } from "./cli-mount-options.ts";
import { readMountHelper } from "./cli-mount-helper.ts";
import { mountHelperName, overlayLinkName, type COMMAND_NAMES } from "./cli-names.ts";
import {
  GLOBAL_OPTIONS,
  MISPLACED_OPTIONS,
  OVERLAY_OPTIONS,
  PASSTHROUGH_OPTIONS,
  VFS_OPTIONS,
  type Option,
} from "./cli-options.ts";
import { parseArguments, UsageError } from "./cli-parse.ts";
import { overlayOptions, readOverlayLink } from "./cli-overlay.ts";
import { passthroughOptions } from "./cli-passthrough.ts";
import { takeReadiness } from "./cli-readiness.ts";
import { serve, type RunDaemon } from "./cli-serve.ts";
import { vfsOptions } from "./cli-vfs.ts";
import type { DaemonOptions } from "./daemon.ts";
import { writeError } from "./log.ts";
import { MountError } from "./mount-options.ts";
import { takeOverlayOptions } from "./overlay-config.ts";
import { ConfigError } from "./passthrough-config.ts";

/** What serves something: its options, and how they become the daemon's. */
interface Command {
  readonly table: readonly Option[];
  /** Takes out of the lists of -o what is the command's own. */
  readonly take: (lists: readonly string[]) => Taken;
}

interface Taken {
  readonly rest: readonly string[];
  readonly read: ReadCommand;
}

const takeNothing =
  (read: ReadCommand) =>
  (lists: readonly string[]): Taken => ({ rest: lists, read });

const COMMANDS: Readonly<Record<string, Command>> = {
  passthrough: { table: PASSTHROUGH_OPTIONS, take: takeNothing(passthroughOptions) },
  overlay: {
    table: OVERLAY_OPTIONS,
    take: (lists) => {
      const { overlay, rest } = takeOverlayOptions(lists, "-o ");
      return { rest, read: overlayOptions(overlay) };
    },
  },
  vfs: { table: [...VFS_OPTIONS, ...MISPLACED_OPTIONS], take: takeNothing(vfsOptions) },
} satisfies Record<(typeof COMMAND_NAMES)[number], Command>;

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
    const readiness = takeReadiness();
    const request = readCommandLine(invokedAs, args);
    const isBackground = request.kind === "serve" && request.options.background;
    if (readiness !== undefined && !isBackground) {
      readiness.decline();
      return 0;
    }
    if (request.kind === "serve") return await serve(request.options, runDaemon, readiness);
    if (request.kind === "version") console.log(`fuse-backend ${version}`);
    if (request.kind === "help") {
      const { renderHelp } = await import("./cli-help.ts");
      console.log(await renderHelp(request.command, version));
    }
    return 0;
  } catch (error) {
    const implied = impliedCommand(invokedAs);
    return report(error, implied === undefined ? args : [implied]);
  }
}

/** The command that a name asks for by itself. */
function impliedCommand(invokedAs: string): string | undefined {
  if (mountHelperName(invokedAs) !== undefined) return "passthrough";
  return overlayLinkName(invokedAs) === undefined ? undefined : "overlay";
}

/** Throws UsageError or ConfigError if the command line is wrong. */
export function readCommandLine(invokedAs: string, args: readonly string[]): Request {
  const helper = mountHelperName(invokedAs);
  if (helper !== undefined) return requestOf(readMountHelper(helper, args), "passthrough");
  const link = overlayLinkName(invokedAs);
  if (link !== undefined) return requestOf(readOverlayLink(link, args), "overlay");
  const commandAt = args.findIndex((argument) => !argument.startsWith("-"));
  const { asks } = parseArguments(commandAt < 0 ? args : args.slice(0, commandAt), GLOBAL_OPTIONS);
  if (asks === "version") return { kind: "version" };
  const name = args[commandAt];
  const command = name === undefined || !Object.hasOwn(COMMANDS, name) ? undefined : COMMANDS[name];
  if (name !== undefined && command === undefined)
    throw new UsageError(`unknown command "${name}"`);
  if (asks === "help") return { kind: "help", command: name };
  if (name === undefined || command === undefined) throw new UsageError("a command is missing");
  return readCommand(name, command, args.slice(commandAt + 1));
}

function requestOf(
  wanted: "help" | "version" | DaemonOptions | undefined,
  command: string,
): Request {
  if (wanted === "help") return { kind: "help", command };
  if (wanted === "version") return { kind: "version" };
  return wanted === undefined ? { kind: "nothing" } : { kind: "serve", options: wanted };
}

function readCommand(name: string, { table, take }: Command, args: readonly string[]): Request {
  const { positionals, given, asks } = parseArguments(args, table);
  if (asks === "help") return { kind: "help", command: name };
  if (asks === "version") return { kind: "version" };
  const settings: MountSettings = { extraFlags: 0 };
  const { rest, read } = take(given.list("options"));
  given.add(readMountOptions(rest, settings, table));
  if (settings.remount === true) throw new UsageError("-o remount is for mount(8)");
  const options = read(positionals, given, settings, {
    privileges: false,
    background: given.switch("background") ?? false,
    logLevel: "info",
  });
  return { kind: "serve", options };
}

/** `args` tell which command's help is of use. */
function report(error: unknown, args: readonly string[]): number {
  if (error instanceof UsageError || error instanceof ConfigError) {
    const command = args.find((argument) => Object.hasOwn(COMMANDS, argument));
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
