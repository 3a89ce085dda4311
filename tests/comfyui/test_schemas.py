"""IDs, inputs and outputs of the nodes, and the source of their limits."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any, get_args

import pytest

from humo.geometry import SIZE_MULTIPLE
from humo.guidance import MODES
from humo.request import GenerateRequest
from tests.comfyui.conftest import STUB
from tests.comfyui.executor import Comfy
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from comfy_api.latest import io

FOLDER = REPOSITORY / "comfyui"
IDS = {"HuMo_LoadModel", "HuMo_Settings", "HuMo_LoRA", "HuMo_Sampler", "HuMo_Decode"}
"""Workflow files name nodes by these IDs, which therefore do not change after a release."""

ELSEWHERE = {
    "images": "sockets of HuMo_Sampler",
    "audio": "a socket of HuMo_Sampler",
    "loras": "HuMo_LoRA",
    "seconds": "frames",
    "aspect": "width and height",
    "consent_by": "a service",
    "tf32": "no node; torch's setting is for the whole process, ComfyUI's other nodes included",
    "vocal_separator": "no node; ComfyUI has its own separators",
    "output": "SaveVideo",
    "sidecar": "SaveVideo",
    "consent": "SaveVideo",
    "provenance": "HuMo_Decode",
}
"""Fields of a request without a widget, and what sets them instead."""

NUMBERS = [
    name
    for name, schema in GenerateRequest.model_json_schema()["properties"].items()
    if any("minimum" in option for option in schema.get("anyOf", [schema]))
]

LOADED_AS_COMFYUI_LOADS_IT = """
import asyncio, importlib.util, sys
sys.path.insert(0, {stub!r})
name = {folder!r}.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, {folder!r} + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
nodes = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
print(*sorted(node.GET_SCHEMA().node_id for node in nodes))
heavy = {{"torch", "numpy", "PIL", "diffusers", "transformers", "av"}} & sys.modules.keys()
assert not heavy, heavy
"""


def number_schema(name: str) -> dict[str, Any]:
    """Return a number field's JSON schema."""
    schema = GenerateRequest.model_json_schema()["properties"][name]
    number: dict[str, Any] = next(option for option in schema.get("anyOf", [schema]) if "minimum" in option)
    return number


def widgets(comfy: Comfy) -> dict[str, io.Input]:
    """Return the widgets of all nodes that are fields of a request."""
    inputs = [one for node_id in comfy.nodes for one in comfy.inputs(node_id).values()]
    return {one.id: one for one in inputs if hasattr(one, "default") and one.id in GenerateRequest.model_fields}


def accepts(name: str, value: Any) -> bool:
    """Return whether a request accepts a value."""
    try:
        GenerateRequest.model_validate({"prompt": "p", name: value})
    except ValueError:
        return False
    return True


def test_the_folder_loads_as_in_comfyui_without_importing_torch() -> None:
    program = LOADED_AS_COMFYUI_LOADS_IT.format(stub=str(STUB), folder=str(FOLDER))
    command = [sys.executable, "-W", "error", "-c", program]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=STUB)
    assert completed.returncode == 0, completed.stderr
    assert set(completed.stdout.split()) == IDS


def test_node_ids_are_stable(comfy: Comfy) -> None:
    assert set(comfy.nodes) == IDS
    assert all(node_id.startswith("HuMo_") for node_id in comfy.nodes)


def test_every_field_of_a_request_has_a_widget_or_a_node(comfy: Comfy) -> None:
    assert GenerateRequest.model_fields.keys() - widgets(comfy).keys() <= ELSEWHERE.keys()
    assert not widgets(comfy).keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in ELSEWHERE])
def test_number_limits_come_from_the_request(name: str, comfy: Comfy) -> None:
    one, limits = widgets(comfy)[name], number_schema(name)
    low, high, step, default = (getattr(one, key) for key in ("min", "max", "step", "default"))
    assert high == limits["maximum"]
    assert accepts(name, high)
    assert accepts(name, limits["minimum"])
    assert one.io_type == {"integer": "INT", "number": "FLOAT"}[limits["type"]]
    assert (low, default) == (0, 0) if name == "frames" else (low == limits["minimum"] and accepts(name, default))
    if limits["type"] == "integer" and name != "frames":
        assert accepts(name, default + step), "one step from the defaults value is valid"


@pytest.mark.parametrize("name", ["humo-17b", "humo-1.7b", "humo-nano", "humo-nano-teacher"])
def test_the_page_fills_in_the_values_of_the_chosen_preset(name: str, comfy: Comfy) -> None:
    sampler = comfy.inputs("HuMo_Sampler")
    table = sampler["preset"].as_dict()["humo"]
    preset = importlib.import_module("comfyui.fields").model_presets()[name]
    assert set(table) == set(vars(sampler["preset"])["options"])
    assert (table[name]["width"], table[name]["steps"], table[name]["shift"]) == (
        preset.width,
        preset.steps,
        preset.shift,
    )
    assert (table[name]["window"], table[name]["scale_text"]) == (preset.trained_frames, preset.scales.text)
    assert set(table[name]) <= set(sampler), "each value has a widget"


def test_a_preset_of_requests_fills_in_its_values_as_well(comfy: Comfy) -> None:
    values = comfy.inputs("HuMo_Sampler")["preset"].as_dict()["humo"]["lightx2v"]
    assert (values["steps"], values["shift"], values["scale_text"], values["spacing"]) == (6, 8.0, 1.0, "simple")


def test_a_new_node_shows_the_values_of_the_built_in_model(comfy: Comfy) -> None:
    sampler = comfy.inputs("HuMo_Sampler")
    defaults = {name: vars(one)["default"] for name, one in sampler.items() if hasattr(one, "default")}
    assert sampler["preset"].as_dict()["humo"][defaults["preset"]].items() <= defaults.items()
    assert vars(comfy.inputs("HuMo_LoadModel")["model"])["default"] == "humo-nano"


def test_the_page_script_names_nodes_and_widgets_that_exist(comfy: Comfy) -> None:
    script = (FOLDER / "web" / "humo.js").read_text()
    for node_id, name in re.findall(r"(HuMo_\w+): \"(\w+)\"", script):
        assert "humo" in comfy.inputs(node_id)[name].as_dict()


def test_sizes_step_by_the_networks_multiple(comfy: Comfy) -> None:
    for name in ("width", "height"):
        assert vars(widgets(comfy)[name])["step"] == SIZE_MULTIPLE


@pytest.mark.parametrize("name", ["device", "dtype"])
def test_choices_come_from_the_request(name: str, comfy: Comfy) -> None:
    assert vars(widgets(comfy)[name])["options"] == list(get_args(GenerateRequest.model_fields[name].annotation))


def test_the_mode_is_one_of_the_four_or_open(comfy: Comfy) -> None:
    one = vars(widgets(comfy)["mode"])
    assert one["options"] == ["auto", *MODES]
    assert one["default"] == "auto"


def test_tooltips_contain_the_requests_descriptions(comfy: Comfy) -> None:
    for name, one in widgets(comfy).items():
        if name in ("model", "preset"):  # menus of their own
            continue
        assert one.tooltip is not None
        assert str(GenerateRequest.model_fields[name].description) in one.tooltip, name


def test_only_the_prompt_is_required(comfy: Comfy) -> None:
    assert {name for name, one in widgets(comfy).items() if not one.optional} == {"prompt"}


def test_the_package_declares_its_license_and_requirements() -> None:
    described = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    project = described["project"]
    assert project["license"] == {"text": "GPL-3.0-or-later"}
    assert (FOLDER / "LICENSE").read_text().split()[:5] == ["GNU", "GENERAL", "PUBLIC", "LICENSE", "Version"]
    assert "comfyui" not in project["name"].lower()
    assert {"PublisherId", "DisplayName"} <= described["tool"]["comfy"].keys()
    assert (FOLDER / "requirements.txt").read_text().split() == project["dependencies"]
    core = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert [needed.partition(">")[0] for needed in project["dependencies"]] == [core["name"]]
    assert core["license"] == "Apache-2.0"
