"""What the nodes are called, take and give, and where their limits come from."""

from __future__ import annotations

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
IDS = {"HuMo_LoadModel", "HuMo_Text", "HuMo_Pictures", "HuMo_Sound", "HuMo_Sampler", "HuMo_Decode"}
"""A workflow names a node by its id: none of these may ever change."""

ELSEWHERE = {
    "images": "HuMo_Pictures",
    "audio": "HuMo_Sound",
    "vocal_separator": "no node: ComfyUI has its own",
    "output": "SaveVideo",
    "sidecar": "SaveVideo",
    "consent": "SaveVideo",
    "provenance": "HuMo_Decode",
}
"""Fields of a request that are no widget, and who has their part."""

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


def number_of(name: str) -> dict[str, Any]:
    """A number field's JSON schema."""
    schema = GenerateRequest.model_json_schema()["properties"][name]
    found: dict[str, Any] = next(option for option in schema.get("anyOf", [schema]) if "minimum" in option)
    return found


def widgets(comfy: Comfy) -> dict[str, io.Input]:
    """Every widget of every node that is a field of a request."""
    inputs = [one for node_id in comfy.nodes for one in comfy.inputs(node_id).values()]
    return {one.id: one for one in inputs if hasattr(one, "default") and one.id in GenerateRequest.model_fields}


def accepts(name: str, value: Any) -> bool:
    """Whether a request takes a value."""
    try:
        GenerateRequest.model_validate({"prompt": "p", name: value})
    except ValueError:
        return False
    return True


def test_the_folder_loads_as_comfyui_loads_it_and_brings_no_torch() -> None:
    program = LOADED_AS_COMFYUI_LOADS_IT.format(stub=str(STUB), folder=str(FOLDER))
    command = [sys.executable, "-W", "error", "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=STUB)
    assert told.returncode == 0, told.stderr
    assert set(told.stdout.split()) == IDS


def test_node_ids_are_those_that_workflows_name(comfy: Comfy) -> None:
    assert set(comfy.nodes) == IDS
    assert all(node_id.startswith("HuMo_") for node_id in comfy.nodes)


def test_every_field_of_a_request_has_its_widget_or_its_node(comfy: Comfy) -> None:
    assert GenerateRequest.model_fields.keys() - widgets(comfy).keys() <= ELSEWHERE.keys()
    assert not widgets(comfy).keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("name", NUMBERS)
def test_the_limits_of_a_number_are_those_of_the_request(name: str, comfy: Comfy) -> None:
    one, limits = widgets(comfy)[name], number_of(name)
    low, high, step, default = (getattr(one, word) for word in ("min", "max", "step", "default"))
    assert high == limits["maximum"]
    assert accepts(name, high)
    assert accepts(name, limits["minimum"])
    # one value below the range stands for an empty field, and takes no allowed value's place
    assert low == default < limits["minimum"]
    assert not accepts(name, low)
    assert one.io_type == {"integer": "INT", "number": "FLOAT"}[limits["type"]]
    if limits["type"] == "integer":
        assert step in (limits.get("multipleOf", 1), 1)
        assert accepts(name, max(limits["minimum"], low + step)), "one step up from empty is allowed"
        assert (limits["minimum"] - low) % step == 0  # counting up from the empty value meets allowed values alone


def test_sizes_go_in_steps_that_the_network_knows(comfy: Comfy) -> None:
    for name in ("width", "height"):
        assert vars(widgets(comfy)[name])["step"] == SIZE_MULTIPLE


@pytest.mark.parametrize("name", ["device", "dtype"])
def test_a_choice_offers_what_the_request_knows(name: str, comfy: Comfy) -> None:
    assert vars(widgets(comfy)[name])["options"] == list(get_args(GenerateRequest.model_fields[name].annotation))


def test_the_mode_is_one_of_the_four_or_left_open(comfy: Comfy) -> None:
    one = vars(widgets(comfy)["mode"])
    assert one["options"] == ["auto", *MODES]
    assert one["default"] == "auto"


def test_the_help_of_a_widget_is_the_requests(comfy: Comfy) -> None:
    for name, one in widgets(comfy).items():
        assert one.tooltip is not None
        assert str(GenerateRequest.model_fields[name].description) in one.tooltip, name


def test_the_help_says_what_stands_for_an_empty_field(comfy: Comfy) -> None:
    for name in NUMBERS:
        one = vars(widgets(comfy)[name])
        assert f"; {one['default']:g}: " in one["tooltip"], one["tooltip"]


def test_all_but_the_prompt_may_be_left_out(comfy: Comfy) -> None:
    assert {name for name, one in widgets(comfy).items() if not one.optional} == {"prompt"}


def test_the_package_says_its_licence_and_what_it_needs() -> None:
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
