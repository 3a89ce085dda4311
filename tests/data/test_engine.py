"""Engine and journal: items that kill their process are named and left out, the others are not touched."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from humo.data.child_process import ChildProcess
from humo.data.engine import LocalPool, run_tasks
from humo.data.journal import JOURNAL, Journal, folder_lock
from humo.data.tasks import Limits, Outcome, Task
from humo.errors import StorageError

LIMITS = Limits(base_seconds=1.0, seconds_factor=0.0, wall_factor=100.0, memory_bytes=2**28)
IMPATIENT = Limits(base_seconds=1.0, seconds_factor=0.0, wall_factor=3.0, memory_bytes=2**28)


@pytest.fixture(autouse=True)
def _faulty_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChildProcess, "command", (sys.executable, "-m", "tests.data.faulty_process"))


def _run(names: list[str], limits: Limits = LIMITS) -> dict[str, Outcome]:
    pool = LocalPool(1, limits)
    outcomes: dict[str, Outcome] = {}
    tasks = [Task("echo", name, name, {"path": name}, seconds=0.0) for name in names]
    try:
        run_tasks(tasks, pool, lambda task, outcome: outcomes.update({task.key: outcome}), limits)
    finally:
        pool.close()
    return outcomes


@pytest.mark.parametrize(
    ("name", "ending", "reason"),
    [
        ("crash", "crash", "SIGABRT"),
        ("hang", "timeout", "gave no result within 3 s"),
        ("spin", "timeout", "CPU time"),
        ("hog", "memory", "memory"),
    ],
)
def test_an_item_that_kills_its_process_is_left_out_after_two_tries(name: str, ending: str, reason: str) -> None:
    outcomes = _run(["a", name, "b"], IMPATIENT if name == "hang" else LIMITS)
    assert outcomes[name].ending == ending
    assert outcomes[name].tries == 2
    assert reason in outcomes[name].reason
    assert outcomes["a"].ending == outcomes["b"].ending == "done"


def test_the_last_line_of_a_crashed_process_is_kept() -> None:
    assert "the decoder is broken" in _run(["crash"])["crash"].last_words


def test_a_process_is_kept_from_item_to_item() -> None:
    outcomes = _run(["a", "b", "c"])
    assert len({outcome.result["process"] for outcome in outcomes.values()}) == 1


def test_the_journal_finds_its_lines_again_without_an_unfinished_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("scan", "aa", {"value": 1})
    journal.add("scan", "bb", {"value": 2})
    journal.add("scan", "aa", {"value": 3})
    journal.close()
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"stage": "scan", "key": "cc", "va')
    reopened = Journal(tmp_path)
    assert ("scan", "aa") in reopened
    assert ("scan", "cc") not in reopened
    reopened.add("scan", "dd", {"value": 4})
    assert [line["value"] for line in reopened.lines("scan")] == [3, 2, 4]
    reopened.close()
    assert all(json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines())


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        with pytest.raises(StorageError, match="another run") as caught, folder_lock(tmp_path):
            pass
        assert "\n" not in str(caught.value)
    with folder_lock(tmp_path):
        pass
