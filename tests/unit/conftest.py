"""Tiny pipelines shared by the tests of the pipeline."""

from __future__ import annotations

import pytest
from tests.calls import FAMILIES
from tests.tiny import tiny_pipeline

from humo import HuMoPipeline


@pytest.fixture(scope="module", params=FAMILIES)
def pipeline(request: pytest.FixtureRequest) -> HuMoPipeline:
    """One of each family; tests do not change it."""
    return tiny_pipeline(request.param)


@pytest.fixture(scope="module")
def small() -> HuMoPipeline:
    """The 1.7B family's; tests do not change it."""
    return tiny_pipeline("humo-1.7b")


@pytest.fixture(scope="module")
def large() -> HuMoPipeline:
    """The 17B family's; tests do not change it."""
    return tiny_pipeline("humo-17b")
