"""Process that runs tasks for `ChildProcess`: one line of JSON in, one out, until the standard input closes.

``python -m humo.data.stage_process``. A task runs under limits of memory and CPU time. Everything that libraries print
goes to stderr.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import Any, TextIO

from humo.data.tasks import Ending, Values
from humo.errors import CheckpointError, DependencyError, HuMoError, StorageError
from humo.files import DISK_FULL_ERRORS, os_error_text

STAGES = {
    "inventory": ("humo.data.inventory", "inspect_source"),
    "scan": ("humo.data.scan", "scan_unit"),
    "score": ("humo.data.score", "score_clip"),
    "reference": ("humo.data.references", "cut_out_references"),
    "portrait": ("humo.data.references", "inspect_portrait"),
}
"""Stage -> module and function of its work on one item. The function takes and returns plain values."""

_STORAGE_ERRORS = DISK_FULL_ERRORS | {errno.EROFS, errno.EACCES, errno.EPERM}


def run_stage(stage: str, payload: Values) -> Values:
    """Return the result of a stage for one item."""
    module, function = STAGES[stage]
    result: Values = getattr(import_module(module), function)(payload)
    return result


def attempt(stage: str, payload: Values) -> Values:
    """Return the outcome of a stage for one item, as plain values: a result, or why there is none."""
    started = time.process_time()
    try:
        outcome: Values = {"ending": "done", "result": run_stage(stage, payload)}
    except MemoryError:
        outcome = {"ending": "memory", "reason": "needs more memory than is allowed"}
    except (DependencyError, CheckpointError) as error:  # a package or weights are missing
        outcome = {"ending": "dependency", "reason": str(error), "result": _parts(error)}
    except StorageError as error:
        outcome = {"ending": "storage", "reason": str(error), "result": _parts(error)}
    except HuMoError as error:
        outcome = {"ending": "error", "reason": error.problem}
    except OSError as error:
        ending: Ending = "storage" if error.errno in _STORAGE_ERRORS else "error"
        outcome = {"ending": ending, "reason": os_error_text(error)}
    except Exception as error:  # noqa: BLE001 - whatever fails for one item, the next may succeed
        outcome = {"ending": "error", "reason": " ".join(f"{type(error).__name__}: {error}".split())}
    return outcome | {"cpu_seconds": round(time.process_time() - started, 4)}


def _parts(error: HuMoError) -> Values:
    return {"field": error.field, "problem": error.problem, "remedy": error.remedy}


def limit_resources(memory_bytes: int, cpu_seconds: float) -> None:
    """Limit what this process may use from now on: memory beyond the present size, and CPU time beyond the present."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + cpu_seconds) + 2
    for limit, value in (
        (resource.RLIMIT_AS, _address_space() + memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space() -> int:
    """Return the bytes of address space that this process has."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _read_tasks(tasks: queue.Queue[str]) -> None:
    """Pass on lines of the standard input; end the process when it closes, whatever else runs."""
    for line in sys.stdin:
        tasks.put(line)
    os._exit(0)


def _protocol_stream() -> TextIO:
    """Return the stream for outcomes, and send everything else that is printed to stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def main() -> int:
    """Run tasks until the standard input closes."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    replies = _protocol_stream()
    _silence_decoders()
    tasks: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_tasks, args=(tasks,), daemon=True).start()
    while True:
        task: dict[str, Any] = json.loads(tasks.get())
        limit_resources(task["memory_bytes"], task["cpu_seconds"])
        reply = attempt(task["stage"], task["payload"])
        print(json.dumps(reply, ensure_ascii=False), file=replies, flush=True)


def _silence_decoders() -> None:
    """Keep FFmpeg's warnings from the standard error, where the reason of a crash should stand."""
    import av.logging

    av.logging.set_level(av.logging.FATAL)


if __name__ == "__main__":
    sys.exit(main())
