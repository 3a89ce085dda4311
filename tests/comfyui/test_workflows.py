"""The workflow files name existing nodes and sockets, and generate a video."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui.executor import STOCK, WORKFLOWS, Comfy, Workflow, load_audio, widget_values

SAMPLER = "HuMo_Sampler"


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> Workflow:
    """One of the workflow files."""
    path: Path = request.param
    read: Workflow = json.loads(path.read_text())
    return read


def sockets_of(comfy: Comfy, node_type: str) -> tuple[dict[str, str], list[str]]:
    """Return a node's inputs with their types, and the types of its outputs."""
    if node_type in comfy.nodes:
        inputs = {name: one.get_io_type() for name, one in comfy.inputs(node_type).items()}
        return inputs, comfy.outputs(node_type)
    return STOCK[node_type]["inputs"], STOCK[node_type]["outputs"]


def test_one_workflow_has_an_image_and_one_has_none() -> None:
    assert [path.stem for path in WORKFLOWS] == ["text-audio", "text-image-audio"]
    types = [{node["type"] for node in json.loads(path.read_text())["nodes"]} for path in WORKFLOWS]
    assert ["LoadImage" in of_one for of_one in types] == [False, True]
    assert all({"LoadAudio", "SaveVideo"} <= of_one for of_one in types)


def test_nodes_and_sockets_exist(workflow: Workflow, comfy: Comfy) -> None:
    for node in workflow["nodes"]:
        inputs, outputs = sockets_of(comfy, node["type"])
        assert {one["name"]: one["type"] for one in node["inputs"]}.items() <= inputs.items(), node["type"]
        assert [one["type"] for one in node["outputs"]] == outputs, node["type"]
        assert len(node["widgets_values"]) == len(comfy.widgets_of(node["type"])), node["type"]
    ids = [node["id"] for node in workflow["nodes"]]
    assert len(set(ids)) == len(ids)
    assert workflow["last_node_id"] == max(ids)


def test_links_join_sockets_of_one_type_and_are_recorded_at_both_ends(workflow: Workflow, comfy: Comfy) -> None:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, slot, kind in workflow["links"]:
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][slot]["type"] == kind
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == link
        assert nodes[source]["order"] < nodes[target]["order"]
    known = {link[0] for link in workflow["links"]}
    assert {one["link"] for node in workflow["nodes"] for one in node["inputs"]} - {None} == known
    assert {link for node in workflow["nodes"] for one in node["outputs"] for link in one["links"]} == known
    assert workflow["last_link_id"] == max(known)


def test_required_sockets_are_linked_and_widgets_have_the_presets_values(workflow: Workflow, comfy: Comfy) -> None:
    for node in workflow["nodes"]:
        if node["type"] not in comfy.nodes:
            continue
        linked = {one["name"] for one in node["inputs"] if one["link"] is not None}
        values = widget_values(node, comfy.widgets_of(node["type"]))
        for name, one in comfy.inputs(node["type"]).items():
            assert one.optional or name in linked or values[name], (node["type"], name)
        if node["type"] == SAMPLER:
            assert values.pop("control_after_generate") == "fixed"
            del values["prompt"]
            assert values == {name: vars(comfy.inputs(SAMPLER)[name])["default"] for name in values}


def test_a_workflow_generates_a_video_with_audio(workflow: Workflow, comfy: Comfy) -> None:
    short = copy.deepcopy(workflow)
    sampler = next(node for node in short["nodes"] if node["type"] == SAMPLER)
    names = comfy.widgets_of(SAMPLER)
    for name, value in {"frames": 5, "steps": 2}.items():
        sampler["widgets_values"][names.index(name)] = value
    (saved,) = comfy.run_workflow(short)
    video = saved.get_components()
    assert video.images.shape == (5, 96, 96, 3)
    assert video.images.std() > 0.01
    assert video.frame_rate == 25
    audio: dict[str, Any] = load_audio("woman.wav")
    assert video.audio["sample_rate"] == audio["sample_rate"]
    assert video.audio["waveform"].equal(audio["waveform"][..., : audio["sample_rate"] // 5])
