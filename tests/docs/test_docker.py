"""The Dockerfiles pass the linter and run nothing as root."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_dockerfile_passes_the_linter(path: Path) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter is not None
    done = subprocess.run([linter, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    users = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("USER")]
    assert users[-1:] == ["1000"]


def test_the_dockerfiles_differ_in_torch_alone() -> None:
    cpu, cuda = (path.read_text().split("FROM", 1)[1] for path in FILES)
    different = [(one, other) for one, other in zip(cpu.splitlines(), cuda.splitlines(), strict=True) if one != other]
    assert [one.partition("whl/")[2] for pair in different for one in pair] == ["cpu \\", "cu126 \\"]
