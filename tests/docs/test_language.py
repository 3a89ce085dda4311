"""The tool that holds the language finds what it should find, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import retired_words
from tools.retired_words import CHECKED, ROOT, in_name, in_prose, in_python, in_test_names, long_lines, long_sentences


def test_no_retired_word_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert retired_words.main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ["WorkerTold", "_told", "load_sound", "BEST_FLOOR", "found", "quantised", "walks"])
def test_an_identifier_with_a_retired_word_is_found(name: str) -> None:
    assert [word for word, _ in in_name(name)] == [name]


@pytest.mark.parametrize("name", ["not_found", "foundation", "early", "header", "soundex", "walker_id", "wordings"])
def test_other_identifiers_are_left_alone(name: str) -> None:
    assert not [*in_name(name)]


def test_published_names_stay() -> None:
    source = 'import os\nfor _ in os.walk("."):\n    pass\nx = math.floor(2) + file.tell()\nconv(stride=2)\n'
    assert not [*in_python(source)]


def test_comments_strings_and_docstrings_are_read() -> None:
    source = '"""What is told."""\nx = "a deaf pass"  # goes on\ny = f"{x} pictures"\n'
    assert {word for _, word, _ in in_python(source)} >= {"What", "told", "deaf", "goes on", "pictures"}


def test_a_kept_word_stays_in_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retired_words, "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text('seed("walk")  # word kept: the random stream depends on it\nname("walk")\n')
    assert [finding.line for finding in retired_words.check_file(path)] == [2]


def test_names_of_tests_are_sentences_without_retired_words() -> None:
    source = "def test_a_clip_goes_on_from_its_last_frame() -> None:\n    walk = 1\n"
    assert [word for _, word, _ in in_test_names(source)] == ["goes on"]


def test_british_spelling_is_found() -> None:
    assert len([*in_prose("normalised colours, neighbouring grey cells; a licence, analysed")]) == 6
    assert not [*in_prose("noise, otherwise, precise, synthesis, emphasis, exercise, a license")]


def test_long_lines_of_pages_are_found_but_for_tables() -> None:
    assert [number for number, *_ in long_lines(f"{'word ' * 21}\n| {'word ' * 21}|\n{'x' * 120}\n")] == [1]


def test_every_path_is_there() -> None:
    assert not [path for path in CHECKED if path != "SECURITY.md" and not (ROOT / path).exists()]


def test_bodies_of_tests_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retired_words, "ROOT", tmp_path)
    path = tmp_path / "tests" / "test_module.py"
    path.parent.mkdir()
    path.write_text('def test_a_clip_is_long() -> None:\n    told = "a deaf pass"\n')
    assert {finding.word for finding in retired_words.check_file(path)} == {"told", "deaf"}


WORD = "word "


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (WORD * 25 + "end.", [1]),
        (WORD * 24 + "end.", []),
        (f"{WORD * 13}\n{WORD * 13}", [1]),
        (f"{WORD * 13}. {WORD * 13}", []),
        (f"{WORD * 13}\n\n{WORD * 13}", []),
        (f"- {WORD * 13}\n- {WORD * 13}", []),
        (f"| {WORD * 13} | {WORD * 13} |\n| {WORD * 26} |", [2]),
        (f"`{WORD * 26}`", []),
        (f"[{WORD * 13}]({WORD * 13})", []),
        (f"```text\n{WORD * 26}\n```", []),
        (f"    {WORD * 26}", []),
    ],
)
def test_sentences_of_pages_are_short(text: str, lines: list[int]) -> None:
    assert [number for number, _, _ in long_sentences(text)] == lines
