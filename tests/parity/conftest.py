"""The golden vectors as a fixture."""

from pathlib import Path

import pytest

from tests.parity.published import Golden


@pytest.fixture(scope="session")
def published(golden: Path) -> Golden:
    """The golden vectors and the models behind them."""
    return Golden(golden)
