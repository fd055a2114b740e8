// What tests of the passthrough file system share: its documented defaults, and one that is served
// without a kernel.

import { Activity } from "../src/activity.ts";
import { Credentials } from "../src/passthrough-credentials.ts";
import {
  passthroughConfig,
  PassthroughFs,
  sharePassthrough,
  type PassthroughConfig,
} from "../src/passthrough.ts";
import { createShared, SharedLayout } from "../src/shared-table.ts";

/** What serves /src if no option is given. */
export const DEFAULTS: PassthroughConfig = {
  source: "/src",
  cache: "auto",
  attrTimeout: 5,
  entryTimeout: 5,
  dirAttrTimeout: 5,
  dirEntryTimeout: 5,
  writeback: false,
  xattr: true,
  noOpen: false,
  noOpendir: false,
  noReaddir: false,
  killprivV2: true,
  inodeFileHandles: "auto",
  handleKey: null,
  sealSize: false,
  mntid: false,
  useHostIno: false,
  allowDirectIo: true,
  daxFileSize: null,
  kernelPassthrough: true,
  locks: true,
};

/** A passthrough file system of this thread alone. */
export function passthroughFs(
  source: string,
  options: Partial<PassthroughConfig> = {},
): PassthroughFs {
  const layout = new SharedLayout();
  const area = Activity.area(layout);
  const activity = new Activity(createShared(layout), area, -1);
  const { memory, share } = sharePassthrough(passthroughConfig({ source, ...options }));
  const credentials = new Credentials();
  const thread = { activity, credentials, locksChanged: () => {}, relieve: () => false };
  return new PassthroughFs(memory, share, thread);
}
