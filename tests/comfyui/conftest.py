"""A stand-in for ComfyUI, the nodes loaded as ComfyUI loads them, and a built-in model."""

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
    """ComfyUI with HuMo's nodes; its modules are removed after the tests of this folder."""
    stub_modules = ("comfy", "comfy_api", "comfyui", "folder_paths")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(STUB), *sys.path])
        extension = asyncio.run(importlib.import_module("comfyui").comfy_entrypoint())
        nodes = asyncio.run(extension.get_node_list())
        yield Comfy({node.GET_SCHEMA().node_id: node for node in nodes})
    for name in [name for name in sys.modules if name.split(".")[0] in stub_modules]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def model(comfy: Comfy) -> HuMoPipeline:
    """The built-in teacher, which supports every setting, loaded by its node."""
    (pipeline,) = comfy.run("HuMo_LoadModel", model="humo-nano-teacher", device="cpu", dtype="auto")
    assert isinstance(pipeline, HuMoPipeline)
    return pipeline


@pytest.fixture
def bar_values(comfy: Comfy) -> list[tuple[float, float]]:
    """Values that the progress bar shows during the test."""
    values: list[tuple[float, float]] = importlib.import_module("comfy.utils").UPDATES
    values.clear()
    return values
