"""How soon a running service refuses files that would be enormous, and how soon a worker is free after a cancel.

    python benchmarks/refusals.py
    python benchmarks/refusals.py --rounds 9 --cancels 9 --json refusals.json

Each file goes to ``POST /v1/videos`` as a client sends it. Time is from the call to its response; memory is what the
service and all its processes together have at most more than before (proportional set size, looked at all the while).
A cancelled job is a long one of the model inside the package, with another waiting: time is from the call of
``cancel`` until the other is in progress.
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
LOOK_SECONDS = 0.01
"""Between two looks at memory."""

POLL_SECONDS = 0.02
"""Between two looks at a job."""

PAUSE_SECONDS = 1.5
"""Before each file, in which the service is left alone."""

WARM_STEPS = 20
"""Of a long job, before it is cancelled."""

MEGABYTE = 2**20


@dataclass
class Measured:
    """Something that was measured several times.

    Args:
        name: of it, for people.
        bytes: of the file.
        seconds: of each round.
        megabytes: more than before, of each round.
        response: what the client is told.
    """

    name: str
    bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    response: str = ""

    @property
    def row(self) -> str:
        """Of the table."""
        times = f"{median(self.seconds):.2f} | {min(self.seconds):.2f} to {max(self.seconds):.2f}"
        memory = f"{max(self.megabytes):.0f}" if self.megabytes else ""
        return f"| {self.name} | {self.bytes / 1e3:.0f} | {times} | {memory} |"


TABLE_HEAD = "| what | file, kB | seconds | lowest to highest | MiB more at most |\n|---|---|---|---|---|"


def files() -> dict[str, tuple[str, str, Callable[[], bytes]]]:
    """Name -> the field and file name it is sent under, and how it is made."""
    from tests.server.bombs import black_mp4, png, silent_opus, wav
    from tests.server.conftest import EXAMPLES

    image = (EXAMPLES / "woman.png").read_bytes()
    return {
        "an hour of opus, 700 MB when decoded": ("audio", "a.opus", lambda: silent_opus(3600)),
        "a PNG of 1.2 GB": ("image", "a.png", lambda: png(20_000, 20_000)),
        "a PNG of 432 MB": ("image", "a.png", lambda: png(12_000, 12_000)),
        "an MP4 of 5 GB, as a sound": ("audio", "a.mp4", lambda: black_mp4(4096, 200)),
        "an MP4, as a picture": ("image", "a.mp4", lambda: black_mp4(4096, 10)),
        "a PNG cut short": ("image", "a.png", lambda: image[:3000]),
        "a WAV cut short": ("audio", "a.wav", lambda: wav(1.0)[:30]),
        "a GIF's head on a script": ("image", "a.gif", lambda: b"GIF89a/*" + b"*/=0;alert(1);" * 1000),
        "a playlist": ("audio", "a.m3u8", lambda: b"#EXTM3U\nhttp://127.0.0.1/a\nfile:///etc/passwd\n"),
    }


class Memory:
    """What a process and all below it take, looked at all the while."""

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self._ends = threading.Event()
        self.most = 0.0

    def now(self) -> float:
        """Bytes: memory that is shared counts once."""
        total = 0.0
        for one in (self._process, *self._process.children(recursive=True)):
            try:
                total += one.memory_full_info().pss
            except psutil.Error:  # it has ended meanwhile
                continue
        return total

    def __enter__(self) -> Memory:
        self.before = self.now()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ends.wait(LOOK_SECONDS):
            self.most = max(self.most, self.now() - self.before)


def refuse(running: Running, found: Measured, field_name: str, file_name: str, content: bytes) -> None:
    """Send a file, and measure.

    Raises:
        ArithmeticError: it was not refused: there is nothing to measure.
    """
    time.sleep(PAUSE_SECONDS)
    with Memory(running.process.pid) as memory:
        begin = time.perf_counter()
        response = httpx.post(
            f"{running.address}/v1/videos",
            data={"prompt": "x", "consent": "true"},
            files=[(field_name, (file_name, content))],
            timeout=120,
        )
        found.seconds.append(time.perf_counter() - begin)
    if response.status_code != 400:
        raise ArithmeticError(f"{found.name} was answered with {response.status_code}, not refused")
    found.megabytes.append(memory.most / MEGABYTE)
    found.response = response.json()["error"]["message"]


def cancel(running: Running, found: Measured, steps: Measured) -> None:
    """Cancel a long job, and measure until the next is taken."""
    long, other = running.submit(frames=25, steps=900), running.submit()
    while (running.retrieve(long)["humo"]["step"] or 0) < WARM_STEPS:
        time.sleep(POLL_SECONDS)
    first, start = running.retrieve(long)["humo"]["step"], time.perf_counter()
    time.sleep(1.0)
    passed, taken = running.retrieve(long)["humo"]["step"] - first, time.perf_counter() - start
    begin = time.perf_counter()
    httpx.post(f"{running.address}/v1/videos/{long}/cancel")
    while running.retrieve(other)["humo"]["state"] == "queued":
        time.sleep(POLL_SECONDS)
    found.seconds.append(time.perf_counter() - begin)
    steps.seconds.append(taken / max(1, passed))
    running.wait(other, "completed")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=5, help="times that each file is sent (default 5)")
    parser.add_argument("--cancels", type=positive, default=5, help="jobs to cancel (default 5)")
    parser.add_argument("--only", metavar="WORDS", default="", help="files whose name holds these words alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    options = parser.parse_args(argv)
    sys.path.append(str(ROOT))
    from tests.server.running import Running

    made = {name: (place, title, make()) for name, (place, title, make) in files().items() if options.only in name}
    refusals = {name: Measured(name, len(content)) for name, (_, _, content) in made.items()}
    cancels, steps = Measured("from cancel until the next job is taken"), Measured("a step of that job, by itself")
    with tempfile.TemporaryDirectory() as folder:
        running = Running(Path(folder) / "service").start()
        running.wait(running.submit(), "completed")  # everything is loaded
        names = list(made)
        for turn in range(options.rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                refuse(running, refusals[name], *made[name])
        for _ in range(options.cancels):
            cancel(running, cancels, steps)
        running.stop()
    rows = [*refusals.values(), cancels, steps]
    result = {"benchmark": "refusals", "environment": environment(), "measured": [asdict(one) for one in rows]}
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    for one in refusals.values():
        print(f"{one.name}: {one.response}")
    print("\n".join(["", TABLE_HEAD, *(one.row for one in rows)]))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
