// The overlay file system. This is a placeholder for it: it can be mounted and has no files.

import { FileSystem } from "./filesystem.ts";
import { map, type Memory } from "./memory.ts";
import type { OverlayConfig } from "./overlay-config.ts";
import type { ServingThread } from "./passthrough-base.ts";
import type { LockWaiters } from "./passthrough-locks.ts";
import type { AccessTimes } from "./passthrough-source.ts";

/** What a worker is given to serve the same files as the others. Plain data. */
export interface OverlayShare {
  readonly config: OverlayConfig;
}

export class OverlayFs extends FileSystem {
  readonly config: OverlayConfig;

  constructor(_memory: Memory, share: OverlayShare, _thread: ServingThread) {
    super();
    this.config = share.config;
  }

  relieve(): boolean {
    return false;
  }

  dispose(_device: number): void {}

  lockWaiters(): LockWaiters | undefined {
    return undefined;
  }
}

/** Opens the layers and makes the state that the workers will share. Throws ConfigError. */
export function shareOverlay(
  config: OverlayConfig,
  _times?: AccessTimes,
): { memory: Memory; share: OverlayShare } {
  return { memory: map(1), share: { config } };
}
