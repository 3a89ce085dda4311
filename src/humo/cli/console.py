"""Print progress, notes, results and errors: a bar on a terminal, lines in a log, JSON lines, or errors only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from humo.progress import Event

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from humo.errors import HuMoError

SECONDS_BETWEEN_LINES = 5.0
"""Seconds between two lines about one phase, where there is no terminal."""


BYTES = "bytes"
"""Unit of progress that is shown in megabytes."""


JOB = "job"
"""Name of the bar of a whole job."""


LOADING = Event("load", 0, 1)
"""First event of a job; nothing can be shown while libraries are imported after it."""


class Quiet:
    """Prints errors only, on stderr; the base of the other consoles, which print results on stdout."""

    def __init__(self) -> None:
        self._out = sys.stdout

    def note(self, text: str) -> None:
        """Print a decision that was made for the user."""

    def start_row(self, row: int, name: str) -> None:
        """Start a row of a batch: the progress that follows is that of the row."""

    def start(self, text: str, values: dict[str, Any]) -> None:
        """Show what is about to be done."""

    def progress(self, event: Event) -> None:
        """Show the progress of a job; a `humo.progress.ProgressCallback`."""

    def step(self, name: str, done: int, total: int, unit: str = "") -> None:
        """Show that ``done`` of ``total`` units of a phase ``name`` are finished."""

    def result(self, text: str, values: dict[str, Any], kind: str = "result") -> None:
        """Print a result: a line for people, values for programs."""

    def error(self, error: HuMoError | str, **values: Any) -> None:
        """Print an error."""
        self.close()
        print(_one_line(f"humo: {error}"), file=sys.stderr)

    def close(self) -> None:
        """Close the progress display."""


class Lines(Quiet):
    """Prints plain lines on stderr, for logs: at the end of each phase, and every few seconds before."""

    def __init__(self) -> None:
        super().__init__()
        self._pace = RateMeter()
        self._printed_at = time.monotonic()

    def note(self, text: str) -> None:
        """Print a line on stderr."""
        print(_one_line(f"note: {text}"), file=sys.stderr)

    def start(self, text: str, values: dict[str, Any]) -> None:
        """Print a line on stderr."""
        self.close()
        print(_one_line(text), file=sys.stderr, flush=True)

    def start_row(self, row: int, name: str) -> None:
        """Print a line on stderr."""
        self.close()
        print(_one_line(f"row {row} ({name})"), file=sys.stderr, flush=True)

    def step(self, name: str, done: int, total: int, unit: str = "") -> None:
        """Print a line when a phase ends or some seconds have passed."""
        self._pace.update(name, done, total)
        self._print(f"{name} {_share(done, total, unit)}{self._pace.text(unit)}", is_end=done >= total)

    def progress(self, event: Event) -> None:
        """Print a line when loading starts, when a phase of the job ends, or when some seconds have passed."""
        text = f"{event.fraction:4.0%}  {event.phase} {event.done}/{event.total}{_time_left(event)}"
        self._print(text, is_end=event.done == event.total or event == LOADING)

    def _print(self, text: str, *, is_end: bool) -> None:
        now = time.monotonic()
        if is_end or now - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._printed_at = now
            print(text, file=sys.stderr, flush=True)

    def result(self, text: str, values: dict[str, Any], kind: str = "result") -> None:
        """Print a line on stdout."""
        self.close()
        print(text, file=self._out, flush=True)


class Bar(Lines):
    """Shows progress bars on a terminal: one for a whole job, or one per phase of another task."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        if self._progress is None:
            super().note(text)
        else:
            self._progress.console.print(_one_line(f"note: {text}"), markup=False, highlight=False)

    def step(self, name: str, done: int, total: int, unit: str = "") -> None:
        """Move the bar of that phase."""
        self._pace.update(name, done, total)
        self._move(name, name, done, total, _share(done, total, unit) + self._pace.text(unit))

    def progress(self, event: Event) -> None:
        """Move the bar of the job."""
        text = f"{event.fraction:.0%}, {event.done}/{event.total}{_time_left(event)}"
        self._move(JOB, event.phase, event.fraction, 1.0, text)

    def _move(self, bar: str, title: str, done: float, total: float, text: str) -> None:
        progress = self._progress or self._start()
        if bar not in self._tasks:
            self._tasks[bar] = progress.add_task(title, total=total, text="")
        progress.update(self._tasks[bar], description=title, completed=done, total=total, text=text)

    def close(self) -> None:
        """Leave the bars as they are; the next job starts new ones."""
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._tasks = None, {}

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:8}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        self._progress = Progress(*columns, console=Console(file=sys.stderr))
        self._progress.start()
        return self._progress


class Json(Quiet):
    """Prints one JSON object per line on stdout; errors on stderr as well."""

    def __init__(self) -> None:
        super().__init__()
        self._pace = RateMeter()

    def note(self, text: str) -> None:
        """Print ``{"event": "note"}``."""
        _write({"event": "note", "text": text}, self._out)

    def start(self, text: str, values: dict[str, Any]) -> None:
        """Print ``{"event": "start"}``."""
        _write({"event": "start", **values}, self._out)

    def start_row(self, row: int, name: str) -> None:
        """Print ``{"event": "row", "status": "started"}``."""
        _write({"event": "row", "row": row, "name": name, "status": "started"}, self._out)

    def step(self, name: str, done: int, total: int, unit: str = "") -> None:
        """Print ``{"event": "progress"}`` with the phase, the units done and in total, and the rate."""
        self._pace.update(name, done, total)
        values = {"phase": name, "done": done, "total": total} | ({"unit": unit} if unit else {})
        _write({"event": "progress", **values, **self._pace.values()}, self._out)

    def progress(self, event: Event) -> None:
        """Print ``{"event": "progress"}`` with the phase, its units, and the share and seconds left of the job."""
        values = {"phase": event.phase, "done": event.done, "total": event.total}
        left = {} if event.seconds_left is None else {"seconds_left": event.seconds_left}
        _write({"event": "progress", **values, "fraction": round(event.fraction, 4), **left}, self._out)

    def result(self, text: str, values: dict[str, Any], kind: str = "result") -> None:
        """Print ``{"event": "result"}``, or another kind, with the values."""
        _write({"event": kind, **values}, self._out)

    def error(self, error: HuMoError | str, **values: Any) -> None:
        """Print ``{"event": "error"}`` with the class, field, problem and remedy."""
        parts = {"kind": type(error).__name__} if isinstance(error, Exception) else {"kind": "failed"}
        details = {name: getattr(error, name) for name in ("field", "problem", "remedy") if hasattr(error, name)}
        _write({"event": "error", **parts, **details, "message": str(error), **values}, self._out)
        super().error(error)


class RateMeter:
    """Measures seconds per unit of the current phase and estimates the seconds left."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._since = self._now = 0.0
        self._first = self._done = self._total = 0

    def update(self, name: str, done: int, total: int) -> None:
        """Count a step."""
        self._now, self._done, self._total = time.monotonic(), done, total
        if name != self._name:
            self._name, self._since, self._first = name, self._now, done

    def values(self) -> dict[str, float]:
        """Return ``seconds_per_unit`` and ``seconds_left``, once a unit is done."""
        done = self._done - self._first
        if done < 1:
            return {}
        each = (self._now - self._since) / done
        return {"seconds_per_unit": float(f"{each:.3g}"), "seconds_left": round(each * (self._total - self._done), 1)}

    def text(self, unit: str) -> str:
        """Return the same as text; of bytes, the time left alone."""
        values = self.values()
        if not values:
            return ""
        each = "" if unit == BYTES else f", {values['seconds_per_unit']:.2f} s each"
        return f"{each}, {_clock(values['seconds_left'])} left"


def choose_console(*, as_json: bool, quiet: bool) -> Quiet:
    """Return the console that fits the options and stderr."""
    if as_json:
        return Json()
    if quiet:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Lines()


def table(rows: Mapping[str, object]) -> str:
    """Format names and values in two columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:{width}}  {_one_line(str(value))}" for name, value in rows.items())


def _time_left(event: Event) -> str:
    return "" if event.seconds_left is None else f", {_clock(event.seconds_left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _share(done: int, total: int, unit: str) -> str:
    if unit == BYTES:
        return f"{done / 1e6:.0f}/{total / 1e6:.0f} MB"
    return f"{done}/{total}"


def _write(values: dict[str, Any], stream: TextIO) -> None:
    encoding = (stream.encoding or "").lower().replace("-", "")
    print(json.dumps(values, ensure_ascii=encoding != "utf8"), file=stream, flush=True)  # JSON in every encoding


def _one_line(text: str) -> str:
    return " ".join(text.split())
