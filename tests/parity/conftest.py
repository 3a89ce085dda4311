"""The golden vectors as a fixture, and the report of the distances from them."""

from pathlib import Path

import pytest

from tests.parity.published import MEASURED, Golden


@pytest.fixture(scope="session")
def published(golden: Path) -> Golden:
    """The golden vectors and the models behind them."""
    return Golden(golden)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After a run in one process: the largest distance found for each thing compared."""
    for what, (found, bound) in sorted(MEASURED.items()):
        terminalreporter.write_line(f"{what:50} {found:8.1e}  at most {bound:.0e}")
