"""A made-up dataset and its encoded clips, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.training.made_up import make_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips, the last of them silent."""
    return make_dataset(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture
def own_dataset(dataset: Path, tmp_path: Path) -> Path:
    """A copy that a test may harm."""
    return Path(shutil.copytree(dataset, tmp_path / "clips"))
