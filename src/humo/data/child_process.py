"""A child process that runs one task at a time, is killed when it takes too long, and is replaced when it dies."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import IO, Any

import psutil

from humo.data.tasks import Ending, Limits, Outcome, Task

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that keep a process to one thread: workers, not threads, fill the processors."""

POLL_SECONDS = 0.5
"""Seconds between two looks at the CPU time of a child."""

LAST_WORDS_BYTES = 2000
"""Bytes at the end of the standard error in which the last line is looked for."""


class ChildProcess:
    """A process for tasks. It starts with the first task and again after each death.

    Args:
        limits: limits of a task.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "humo.data.stage_process")
    """Command line of the process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile(mode="a+b")  # noqa: SIM115 - lives as long as this object

    def run(self, task: Task) -> Outcome:
        """Run a task and return its outcome; never raises on account of the task."""
        process = self._start()
        self._errors.truncate(0)
        limits = {"memory_bytes": self.limits.memory_bytes, "cpu_seconds": self.limits.cpu_seconds(task)}
        line = json.dumps({"stage": task.stage, "payload": task.payload, **limits}, ensure_ascii=False) + "\n"
        try:
            assert process.stdin is not None
            process.stdin.write(line.encode())
            process.stdin.flush()
            reply = self._await_reply(process, task)
        except (BrokenPipeError, ConnectionError):
            reply = None
        if isinstance(reply, Outcome):
            return reply
        if reply is None:
            return self._death(process, task)
        if reply["ending"] == "memory":  # what is left of it in this process would count against the next task
            self._end()
        return Outcome(**reply)

    def close(self) -> None:
        """End the process; afterwards no task can run."""
        self._end()
        self._errors.close()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | dict.fromkeys(ONE_THREAD, "1"),
        )
        return self._process

    def _await_reply(self, process: subprocess.Popen[bytes], task: Task) -> dict[str, Any] | Outcome | None:
        """Return the reply, a timeout's outcome, or None if the process died."""
        assert process.stdout is not None
        stream = process.stdout.fileno()
        start, cpu_start = time.monotonic(), _cpu_seconds(process.pid)
        received = b""
        while not received.endswith(b"\n"):
            ready, _, _ = select.select([stream], [], [], POLL_SECONDS)
            if ready:
                chunk = os.read(stream, 1 << 20)
                if not chunk:
                    return None
                received += chunk
                continue
            used = _cpu_seconds(process.pid) - cpu_start
            if used > self.limits.cpu_seconds(task):
                return self._timeout(f"took more than {self.limits.cpu_seconds(task):.0f} s of CPU time")
            if time.monotonic() - start > self.limits.wall_seconds(task):
                return self._timeout(f"gave no result within {self.limits.wall_seconds(task):.0f} s")
        reply: dict[str, Any] = json.loads(received)
        return reply

    def _timeout(self, reason: str) -> Outcome:
        self._end()
        return Outcome("timeout", reason=reason, last_words=self._last_words())

    def _death(self, process: subprocess.Popen[bytes], task: Task) -> Outcome:
        code = process.wait()
        self._end()
        ending: Ending = "crash"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            reason = f"the process was ended by {name}"
            if -code == getattr(signal, "SIGXCPU", None):
                ending, reason = "timeout", f"took more than {self.limits.cpu_seconds(task):.0f} s of CPU time"
        else:
            reason = f"the process exited with code {code}"
        return Outcome(ending, reason=reason, last_words=self._last_words())

    def _last_words(self) -> str:
        if self._errors.closed:
            return ""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LAST_WORDS_BYTES))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-1].split()) if lines else ""


def _cpu_seconds(process_id: int) -> float:
    """Return the CPU time of a process in seconds; 0 if it has ended."""
    try:
        times = psutil.Process(process_id).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
