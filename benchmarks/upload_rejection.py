"""Time in which a running service rejects bad files, and in which a worker is free after a cancel.

    python benchmarks/upload_rejection.py
    python benchmarks/upload_rejection.py --rounds 9 --cancels 9 --json upload_rejection.json

Each file is sent to ``POST /v1/videos``. Time is from the request to its response. Memory is the largest growth of the
proportional set size of the service with all its processes. For the cancel, a long job of the built-in model runs while
another one waits. Time is from the ``cancel`` request until the other job is in progress.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx
import psutil
from timing import environment, positive

if TYPE_CHECKING:
    from tests.server.running import Running

ROOT = Path(__file__).resolve().parents[1]
MEMORY_POLL_SECONDS = 0.01
"""Interval at which memory is read."""

POLL_SECONDS = 0.02
"""Interval at which the state of a job is read."""

PAUSE_SECONDS = 1.5
"""Pause before each file."""

WARM_STEPS = 20
"""Steps of the long job before it is cancelled."""

MEBIBYTE = 2**20


@dataclass
class Measurement:
    """Repeated measurements of one case.

    Args:
        name: name of the case, for the table.
        bytes: size of the file.
        seconds: time of each round.
        mebibytes: growth of memory in each round.
        message: error message of the response.
    """

    name: str
    bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    message: str = ""

    @property
    def row(self) -> str:
        """Row of the table."""
        times = f"{median(self.seconds):.2f} | {min(self.seconds):.2f} to {max(self.seconds):.2f}"
        memory = f"{max(self.mebibytes):.0f}" if self.mebibytes else ""
        return f"| {self.name} | {self.bytes / 1e3:.0f} | {times} | {memory} |"


TABLE_HEAD = "| case | file, kB | median, s | min to max | memory growth, MiB |\n|---|---|---|---|---|"


def files() -> dict[str, tuple[str, str, Callable[[], bytes]]]:
    """Return, by name, the field and file name of each file, and a function that creates it."""
    from tests.server.bombs import black_mp4, png, silent_opus, wav
    from tests.server.conftest import EXAMPLES

    image = (EXAMPLES / "woman.png").read_bytes()
    return {
        "an hour of opus, 700 MB when decoded": ("audio", "a.opus", lambda: silent_opus(3600)),
        "a PNG of 1.2 GB": ("image", "a.png", lambda: png(20_000, 20_000)),
        "a PNG of 432 MB": ("image", "a.png", lambda: png(12_000, 12_000)),
        "an MP4 of 5 GB, as audio": ("audio", "a.mp4", lambda: black_mp4(4096, 200)),
        "an MP4, as an image": ("image", "a.mp4", lambda: black_mp4(4096, 10)),
        "a truncated PNG": ("image", "a.png", lambda: image[:3000]),
        "a truncated WAV": ("audio", "a.wav", lambda: wav(1.0)[:30]),
        "a script with the signature of a GIF": ("image", "a.gif", lambda: b"GIF89a/*" + b"*/=0;alert(1);" * 1000),
        "a playlist": ("audio", "a.m3u8", lambda: b"#EXTM3U\nhttp://127.0.0.1/a\nfile:///etc/passwd\n"),
    }


class Memory:
    """Measures the largest growth of memory of a process with its children, within a block."""

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self._stopping = threading.Event()
        self.growth = 0.0

    def now(self) -> float:
        """Return the proportional set size in bytes, which counts shared memory once."""
        total = 0.0
        for one in (self._process, *self._process.children(recursive=True)):
            try:
                total += one.memory_full_info().pss
            except psutil.Error:  # it ended meanwhile
                continue
        return total

    def __enter__(self) -> Memory:
        self.before = self.now()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._stopping.wait(MEMORY_POLL_SECONDS):
            self.growth = max(self.growth, self.now() - self.before)


def send_bad_file(running: Running, measurement: Measurement, field_name: str, file_name: str, content: bytes) -> None:
    """Send a file, and measure its rejection.

    Raises:
        ArithmeticError: it was not rejected.
    """
    time.sleep(PAUSE_SECONDS)
    with Memory(running.process.pid) as memory:
        start = time.perf_counter()
        response = httpx.post(
            f"{running.address}/v1/videos",
            data={"prompt": "x", "consent": "true"},
            files=[(field_name, (file_name, content))],
            timeout=120,
        )
        measurement.seconds.append(time.perf_counter() - start)
    if response.status_code != 400:
        raise ArithmeticError(f"{measurement.name} got status {response.status_code} instead of a rejection")
    measurement.mebibytes.append(memory.growth / MEBIBYTE)
    measurement.message = response.json()["error"]["message"]


def cancel(running: Running, measurement: Measurement, steps: Measurement) -> None:
    """Cancel a long job, and measure the time until the next one runs."""
    long, other = running.submit(frames=25, steps=900), running.submit()
    while (running.retrieve(long)["humo"]["step"] or 0) < WARM_STEPS:
        time.sleep(POLL_SECONDS)
    first, step_start = running.retrieve(long)["humo"]["step"], time.perf_counter()
    time.sleep(1.0)
    passed, taken = running.retrieve(long)["humo"]["step"] - first, time.perf_counter() - step_start
    start = time.perf_counter()
    httpx.post(f"{running.address}/v1/videos/{long}/cancel")
    while running.retrieve(other)["humo"]["state"] == "queued":
        time.sleep(POLL_SECONDS)
    measurement.seconds.append(time.perf_counter() - start)
    steps.seconds.append(taken / max(1, passed))
    running.wait(other, "completed")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, and return its measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=5, help="number of times that each file is sent (default 5)")
    parser.add_argument("--cancels", type=positive, default=5, help="jobs to cancel (default 5)")
    parser.add_argument("--only", metavar="TEXT", default="", help="send only files whose name contains TEXT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    options = parser.parse_args(argv)
    sys.path.append(str(ROOT))
    from tests.server.running import Running

    contents = {name: (place, title, make()) for name, (place, title, make) in files().items() if options.only in name}
    rejections = {name: Measurement(name, len(content)) for name, (_, _, content) in contents.items()}
    cancels, steps = (
        Measurement("from cancel until the next job runs"),
        Measurement("one denoising step of the cancelled job"),
    )
    with tempfile.TemporaryDirectory() as folder:
        running = Running(Path(folder) / "service").start()
        running.wait(running.submit(), "completed")  # loads the model
        names = list(contents)
        for number in range(options.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                send_bad_file(running, rejections[name], *contents[name])
        for _ in range(options.cancels):
            cancel(running, cancels, steps)
        running.stop()
    rows = [*rejections.values(), cancels, steps]
    result = {"benchmark": "upload_rejection", "environment": environment(), "measured": [asdict(one) for one in rows]}
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    for one in rejections.values():
        print(f"{one.name}: {one.message}")
    print("\n".join(["", TABLE_HEAD, *(one.row for one in rows)]))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
