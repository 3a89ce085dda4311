"""A terminal gets bars, a log gets a line now and then, a program gets JSON, and each gets the pace."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from humo.cli.console import BYTES, Bar, Json, Lines, Quiet, RateMeter, choose_console, table
from humo.errors import RequestError
from humo.progress import Event


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("humo.cli.console.time", clock)
    return clock


def test_the_pace_is_seconds_a_unit_and_seconds_left(clock: Clock) -> None:
    pace = RateMeter()
    pace.update("denoise", 0, 50)
    assert pace.values() == {}
    clock.now += 25
    pace.update("denoise", 10, 50)
    assert pace.values() == {"seconds_per_unit": 2.5, "seconds_left": 100.0}
    assert pace.text("") == ", 2.50 s each, 1:40 left"
    assert pace.text(BYTES) == ", 1:40 left"


def test_each_phase_has_its_own_pace(clock: Clock) -> None:
    pace = RateMeter()
    pace.update("load", 0, 1)
    clock.now += 60
    pace.update("denoise", 0, 4)
    clock.now += 2
    pace.update("denoise", 1, 4)
    assert pace.values() == {"seconds_per_unit": 2.0, "seconds_left": 6.0}


def test_a_log_gets_a_line_every_five_seconds_and_at_the_end_of_a_phase(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Lines()
    for step in range(21):
        console.progress(Event("denoise", step, 20, fraction=step / 25, seconds_left=25 - step))
        clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f" {4 * step}%  denoise {step}/20, 0:{25 - step:02} left" for step in (5, 10, 15, 20)]


def test_a_terminal_gets_one_bar_for_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    console = Bar()
    console.progress(Event("encode", 0, 3))
    console.progress(Event("encode", 3, 3))
    console.note("said [between] the bars")
    console.progress(Event("denoise", 1, 50))
    console.step("transformer", 250_000_000, 500_000_000, BYTES)
    console.close()
    text = capsys.readouterr().err
    assert "note: said [between] the bars" in text
    assert "encode" not in text.splitlines()[-2]
    assert "denoise" in text
    assert "1/50" in text
    assert "250/500 MB" in text


def test_a_program_gets_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = Json()
    console.note("one")
    console.progress(Event("write", 1, 2))
    console.result("for people", {"path": "ö.mp4"})
    console.error(RequestError("width", "90 is not allowed", "take 96"))
    output = capsys.readouterr()
    assert [json.loads(line)["event"] for line in output.out.splitlines()] == ["note", "progress", "result", "error"]
    assert '"path": "ö.mp4"' in output.out
    assert output.err == "humo: width: 90 is not allowed; take 96\n"


@pytest.mark.parametrize(
    ("console", "out", "err"),
    [
        (Lines, "", "row 3 (woman)\n"),
        (Bar, "", "row 3 (woman)\n"),
        (Json, '{"event": "row", "row": 3, "name": "woman", "status": "started"}\n', ""),
        (Quiet, "", ""),
    ],
)
def test_the_start_of_a_row_is_printed(
    console: type[Quiet], out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console().start_row(3, "woman")
    assert capsys.readouterr() == (out, err)


def test_an_error_of_many_lines_is_reported_in_one(capsys: pytest.CaptureFixture[str]) -> None:
    Quiet().error("first\n  second")
    assert capsys.readouterr().err == "humo: first second\n"


def test_the_console_is_chosen_by_what_was_asked_and_where_it_goes() -> None:
    assert type(choose_console(as_json=True, quiet=True)) is Json
    assert type(choose_console(as_json=False, quiet=True)) is Quiet
    assert type(choose_console(as_json=False, quiet=False)) is Lines


def test_a_table_is_two_columns() -> None:
    assert table({"a": 1, "long": "x\ny"}) == "a     1\nlong  x y"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "gbk", "cp437", "ascii", "ascii:strict", "utf-16"])
def test_json_is_json_in_every_encoding(encoding: str) -> None:
    name = "ß-é-\U0001f600-说"
    ran = subprocess.run(
        [sys.executable, "-m", "humo", "generate", "--json", "--prompt", "a", "--dry-run", "--model", name],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert ran.returncode == 2
    [line] = ran.stdout.decode(encoding.partition(":")[0]).splitlines()
    assert name in json.dumps(json.loads(line), ensure_ascii=False)
