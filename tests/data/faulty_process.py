"""The process of the stages, with items that crash, hang, or use up memory: their names say which."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from humo.data import stage_process

_run_stage = stage_process.run_stage


def run_stage(stage: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Fail as the item's path says; do the work of every other item."""
    path = str(payload.get("path", ""))
    if "crash" in path:
        print("the decoder is broken", file=sys.stderr, flush=True)
        os.abort()
    while "hang" in path:
        time.sleep(1)
    while "spin" in path:
        pass
    if "hog" in path:
        blocks = [bytearray(100 * 2**20) for _ in range(200)]
        return {"blocks": len(blocks)}
    if stage == "echo":
        return {"path": path, "process": os.getpid()}
    return _run_stage(stage, payload)


stage_process.run_stage = run_stage

if __name__ == "__main__":
    sys.exit(stage_process.main())
