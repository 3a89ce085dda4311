"""Fixture with the golden vectors, and a summary of the distances from them."""

from pathlib import Path

import pytest

from tests.parity.published import MEASURED, Golden


@pytest.fixture(scope="session")
def published(golden: Path) -> Golden:
    """Return the golden vectors and their models."""
    return Golden(golden)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the largest distance of each comparison, after a run in one process."""
    for what, (largest, bound) in sorted(MEASURED.items()):
        terminalreporter.write_line(f"{what:50} {largest:8.1e}  at most {bound:.0e}")
