"""How a job shows on a terminal, in a log, to another program (``--json``), or not at all (``--quiet``)."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from humo.progress import Event, Phase

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from humo.errors import HumoError

SECONDS_BETWEEN_LINES = 5.0  # between two lines about one phase, where there is no terminal


class Quiet:
    """Says nothing but what went wrong, on stderr. The others say more."""

    def note(self, text: str) -> None:
        """Something was decided for the user and is worth saying."""

    def progress(self, event: Event) -> None:
        """A step was done; a `humo.progress.Listener`."""

    def result(self, text: str, values: dict[str, Any], kind: str = "result") -> None:
        """Something is finished: a line for people, values for programs."""

    def error(self, error: HumoError | str, **values: Any) -> None:
        """Something went wrong."""
        self.close()
        print(_one_line(f"humo: {error}"), file=sys.stderr)

    def close(self) -> None:
        """Nothing more is in progress."""


class Lines(Quiet):
    """Plain lines on stderr, for logs: each phase when it ends, and every few seconds between."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._said = time.monotonic()

    def note(self, text: str) -> None:
        """A line on stderr."""
        print(_one_line(f"note: {text}"), file=sys.stderr)

    def progress(self, event: Event) -> None:
        """A line when a phase ends or some seconds have gone by."""
        self._pace.take(event)
        now = time.monotonic()
        if event.done >= event.total or now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            print(f"{event.phase} {event.done}/{event.total}{self._pace.words()}", file=sys.stderr, flush=True)

    def result(self, text: str, values: dict[str, Any], kind: str = "result") -> None:
        """A line on stdout."""
        self.close()
        print(text, flush=True)


class Bar(Lines):
    """A bar on a terminal, one a phase."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._tasks: dict[Phase, TaskID] = {}

    def note(self, text: str) -> None:
        """A line above the bars."""
        if self._progress is None:
            super().note(text)
        else:
            self._progress.console.print(_one_line(f"note: {text}"), markup=False, highlight=False)

    def progress(self, event: Event) -> None:
        """Move the phase's bar."""
        progress = self._progress or self._start()
        if event.phase not in self._tasks:
            self._tasks[event.phase] = progress.add_task(event.phase, total=event.total, words="")
        self._pace.take(event)
        words = self._pace.words() if event.phase == "denoise" else ""
        progress.update(self._tasks[event.phase], completed=event.done, total=event.total, words=words)

    def close(self) -> None:
        """Leave the bars as they are, and begin anew with the next job."""
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._tasks = None, {}

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self._progress = Progress(*columns, console=Console(file=sys.stderr))
        self._progress.start()
        return self._progress


class Json(Quiet):
    """One JSON object a line on stdout; what went wrong is on stderr, too."""

    def __init__(self) -> None:
        self._pace = Pace()

    def note(self, text: str) -> None:
        """``{"event": "note"}``."""
        _write({"event": "note", "text": text}, sys.stdout)

    def progress(self, event: Event) -> None:
        """``{"event": "progress"}`` with the phase, units done and in all, and the pace."""
        self._pace.take(event)
        values = {"phase": event.phase, "done": event.done, "total": event.total}
        _write({"event": "progress", **values, **self._pace.values()}, sys.stdout)

    def result(self, text: str, values: dict[str, Any], kind: str = "result") -> None:
        """``{"event": "result"}``, or another kind, with the values."""
        _write({"event": kind, **values}, sys.stdout)

    def error(self, error: HumoError | str, **values: Any) -> None:
        """``{"event": "error"}`` with the class, field, problem and remedy."""
        parts = {"kind": type(error).__name__} if isinstance(error, Exception) else {"kind": "failed"}
        told = {name: getattr(error, name) for name in ("field", "problem", "remedy") if hasattr(error, name)}
        _write({"event": "error", **parts, **told, "message": str(error), **values}, sys.stdout)
        super().error(error)


class Pace:
    """Seconds a unit takes in the phase that is on, and the seconds left."""

    def __init__(self) -> None:
        self._phase: Phase | None = None
        self._since = 0.0
        self._first = 0
        self._event = Event("load", 0, 0)
        self._now = 0.0

    def take(self, event: Event) -> None:
        """Take notice of a step."""
        self._now, self._event = time.monotonic(), event
        if event.phase != self._phase:
            self._phase, self._since, self._first = event.phase, self._now, event.done

    def values(self) -> dict[str, float]:
        """``seconds_per_unit`` and ``seconds_left``, once a unit is done."""
        done = self._event.done - self._first
        if done < 1:
            return {}
        each = (self._now - self._since) / done
        return {
            "seconds_per_unit": round(each, 3),
            "seconds_left": round(each * (self._event.total - self._event.done)),
        }

    def words(self) -> str:
        """The same for people."""
        values = self.values()
        if not values:
            return ""
        minutes, seconds = divmod(int(values["seconds_left"]), 60)
        return f", {values['seconds_per_unit']:.2f} s each, {minutes}:{seconds:02} left"


def choose_console(*, as_json: bool, quiet: bool) -> Quiet:
    """The console for what was asked and where stderr goes."""
    if as_json:
        return Json()
    if quiet:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Lines()


def table(rows: dict[str, object]) -> str:
    """Names and values in two columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:{width}}  {_one_line(str(value))}" for name, value in rows.items())


def _write(values: dict[str, Any], stream: TextIO) -> None:
    print(json.dumps(values, ensure_ascii=False), file=stream, flush=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())
