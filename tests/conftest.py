"""Settings and models shared by all tests."""

import os
import signal

# The golden values were computed with AVX2 kernels; others round sums differently (1e-6 in the decoder). MKL, besides,
# takes other kernels on Intel's processors than on AMD's, unless it is asked for the same results on both.
# Read by torch when it is first imported; without effect on other processors.
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.outside import allowed_folders, refuse_reads_beside

if TYPE_CHECKING:
    from humo import HuMoPipeline

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("HUMO_GOLDEN", REPOSITORY / "tests" / "parity" / "data" / "vectors"))


def pytest_configure() -> None:
    """Let tests send interrupts: shells start background commands with interrupts ignored, and children inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _nothing_beside_the_repository(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fail each test that reads a file beside the repository."""
    refuse_reads_beside(REPOSITORY, [*allowed_folders(), tmp_path_factory.getbasetemp()])


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keys and models of the tests, and of the processes they start, never lie in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUMO_IDENTITY", str(tmp_path_factory.mktemp("identity")))
        patch.setenv("HUMO_MODELS", str(tmp_path_factory.mktemp("own-models")))
        patch.setenv("HUMO_TIMINGS", str(tmp_path_factory.mktemp("timings") / "timings.json"))
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of golden values: tests/parity/data/vectors, or HUMO_GOLDEN."""
    if not (GOLDEN / "meta.json").is_file():
        pytest.fail(f"HUMO_GOLDEN: {GOLDEN} has no meta.json; unset it, or name a folder of golden values")
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the 1.7B family with tiny random weights."""
    from tests.tiny import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-1.7b", "humo-1.7b")


@pytest.fixture(scope="session")
def tiny_model_folder_17b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the 17B family with tiny random weights."""
    from tests.tiny import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-17b", "humo-17b")


@pytest.fixture(scope="module", params=("humo-1.7b", "humo-17b"))
def pipeline(request: pytest.FixtureRequest) -> "HuMoPipeline":
    """A tiny pipeline of each family; tests do not change it."""
    from tests.tiny import tiny_pipeline

    return tiny_pipeline(request.param)


@pytest.fixture(scope="module")
def small() -> "HuMoPipeline":
    """A tiny pipeline of the 1.7B family; tests do not change it."""
    from tests.tiny import tiny_pipeline

    return tiny_pipeline("humo-1.7b")


@pytest.fixture(scope="module")
def large() -> "HuMoPipeline":
    """A tiny pipeline of the 17B family; tests do not change it."""
    from tests.tiny import tiny_pipeline

    return tiny_pipeline("humo-17b")
