"""Number of threads: one for the built-in model, all for the published ones, and the user's if given."""

from __future__ import annotations

import pytest
import torch

from humo.checkpoints.architecture import TransformerArchitecture
from humo.checkpoints.hubs.catalog import RELEASED_ARCHITECTURES
from humo.checkpoints.model_folder import BUILTIN_MODEL, NETWORK, open_model_folder
from humo.geometry import Geometry
from humo.runtime.threads import choose_threads, set_threads


def network(name: str) -> TransformerArchitecture:
    builtin = open_model_folder(BUILTIN_MODEL).architectures
    architecture = (builtin if name == "humo-nano" else RELEASED_ARCHITECTURES[name])[NETWORK]
    assert isinstance(architecture, TransformerArchitecture)
    return architecture


@pytest.mark.parametrize(
    ("name", "geometry", "threads"),
    [
        ("humo-nano", Geometry(96, 96, 25), 1),
        ("humo-nano", Geometry(128, 96, 25, 2), 1),
        ("humo-1.7b", Geometry(832, 480, 97), 16),
        ("humo-17b", Geometry(832, 480, 97), 16),
        ("humo-1.7b", Geometry(96, 64, 5), 3),
    ],
)
def test_small_products_are_computed_by_few_threads(name: str, geometry: Geometry, threads: int) -> None:
    assert choose_threads(network(name), geometry, 16) == threads


def test_a_number_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    set_threads(network("humo-nano"), Geometry(96, 96, 25))
    assert torch.get_num_threads() == before
