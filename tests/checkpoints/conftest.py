"""The released tree, small, made once."""

from pathlib import Path

import pytest

from tests.checkpoints import released


@pytest.fixture(scope="session")
def released_tree(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both families and all they share, as people download them."""
    weights = tmp_path_factory.mktemp("released") / "weights"
    released.save_17b(weights / "HuMo" / "HuMo-17B")
    released.save_1_7b(weights / "HuMo" / "HuMo-1.7B")
    released.save_shared(weights)
    return weights
