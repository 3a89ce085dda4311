"""The stand-in for ComfyUI, the nodes found as ComfyUI finds them, and a model of the package loaded by them."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from humo import HuMoPipeline
from tests.comfyui.executor import Comfy

STUB = Path(__file__).parent / "stub"


@pytest.fixture(scope="session")
def comfy() -> Iterator[Comfy]:
    """ComfyUI with our nodes; its modules are there as long as the tests of this folder run."""
    ours = ("comfy", "comfy_api", "comfyui")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(STUB), *sys.path])
        extension = asyncio.run(importlib.import_module("comfyui").comfy_entrypoint())
        nodes = asyncio.run(extension.get_node_list())
        yield Comfy({node.GET_SCHEMA().node_id: node for node in nodes})
    for name in [name for name in sys.modules if name.split(".")[0] in ours]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def model(comfy: Comfy) -> HuMoPipeline:
    """The embedded model's teacher, which takes every setting, as the node loads it."""
    (pipeline,) = comfy.run("HuMo_LoadModel", model="humo-nano-teacher", device="cpu", dtype="auto")
    assert isinstance(pipeline, HuMoPipeline)
    return pipeline


@pytest.fixture
def shown(comfy: Comfy) -> list[tuple[float, float]]:
    """What is shown on the progress bar from now on."""
    shown: list[tuple[float, float]] = importlib.import_module("comfy_api.latest").SHOWN
    shown.clear()
    return shown
