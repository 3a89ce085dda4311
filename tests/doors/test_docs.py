"""The documentation is a site without warnings, and what it tells people to type works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from reference.__main__ import write

from humo.cli import main

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_without_warnings_and_asks_nobody_else(tmp_path: Path) -> None:
    for name in ("docs", "mkdocs.yml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    write(tmp_path / "docs" / "reference")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list((tmp_path / "docs").rglob("*.md")))
    for page in pages:
        loaded = re.findall(
            r"""<(?:script|img|link|iframe)[^>]+(?:src|href)=["']?(https?:[^"' >]+)""", page.read_text()
        )
        assert not loaded, page


def test_the_film_of_the_guide_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (film,) = re.findall(r"```yaml\n(# film.yaml.*?)```", (ROOT / "docs" / "films.md").read_text(), re.DOTALL)
    shutil.copytree(ROOT / "examples", tmp_path, dirs_exist_ok=True)
    (tmp_path / "film.yaml").write_text(film)
    monkeypatch.chdir(tmp_path)
    words = ["batch", "film.yaml", "--output-dir", "film", "--frames", "5", "--steps", "1"]
    assert main(words) == 0
    assert sorted(path.name for path in (tmp_path / "film").iterdir()) == ["one.mp4", "three.mp4", "two.mp4"]


def test_the_map_names_every_module() -> None:
    """A row's names are in the folder of its first one; a row that ends in dots stands for more."""
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "README.md").read_text().split("## Map")[1], re.MULTILINE)
    told, more = set(), set()
    for row in rows:
        folder = ""
        for name in re.findall(r"`([\w/]+)`", row):
            folder = name.rpartition("/")[0] or folder
            told.add(f"{folder}/{name.rpartition('/')[2]}".removeprefix("/"))
        more |= {folder} if row.endswith("...") else set()
    source = ROOT / "src" / "humo"
    modules = {path.relative_to(source).with_suffix("") for path in source.rglob("*.py") if path.stem[0] != "_"}
    assert {str(one) for one in modules if str(one.parent) not in more} - told == set()
    assert told - {str(one) for one in modules} == {"reference/"}
