"""The documentation builds as a site without warnings, and its lists equal the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from humo.cli.main import main
from tools import module_table
from tools.docs_reference.__main__ import write

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
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


def test_the_shots_of_the_prompting_guide_are_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (shots,) = re.findall(r"```yaml\n(# shots.yaml.*?)```", (ROOT / "docs" / "prompting.md").read_text(), re.DOTALL)
    shutil.copytree(ROOT / "examples", tmp_path, dirs_exist_ok=True)
    (tmp_path / "shots.yaml").write_text(shots)
    monkeypatch.chdir(tmp_path)
    arguments = ["batch", "shots.yaml", "--output-dir", "shots", "--frames", "5", "--steps", "1"]
    assert main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "shots").iterdir()) == ["one.mp4", "three.mp4", "two.mp4"]


def test_the_map_names_every_package_and_every_module_of_the_vocabulary() -> None:
    tree = (ROOT / "README.md").read_text().split("## Map")[1].split("```")[1]
    source = ROOT / "src" / "humo"
    packages = {path.parent.name for path in source.glob("*/__init__.py")}
    modules = {path.name for path in source.glob("[!_]*.py")}
    assert set(re.findall(r"^[├└]── (\w+)/", tree, re.MULTILINE)) == packages
    assert set(re.findall(r"\w+\.py", tree)) == modules


def test_the_architecture_page_lists_every_module_of_a_package_once() -> None:
    page = module_table.PAGE.read_text(encoding="utf-8")
    assert module_table.updated(page) == page, "run python -m tools.module_table"
    listed = re.findall(r"`(\w+)`", module_table.table().replace("the command `humo`", "").replace("`Conditions`", ""))
    assert len(listed) == len([*module_table.SOURCE.rglob("[!_]*.py")])
