// The daemon of faulty workers.

import "../../../src/main.ts";
