"""A small dataset, written once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.training.small_dataset import make_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of six clips, the last of them without audio."""
    return make_dataset(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture
def own_dataset(dataset: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    return Path(shutil.copytree(dataset, tmp_path / "clips"))
