"""ComfyUI's part in a run: check and pass the inputs of nodes, and execute workflow files."""

from __future__ import annotations

import inspect
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from comfy_api.latest import io

EXAMPLES = REPOSITORY / "examples"
LINK = object()
"""A linked input, whose value is unknown when inputs are checked."""

Workflow = dict[str, Any]

STOCK: dict[str, dict[str, Any]] = {
    "LoadImage": {"inputs": {}, "outputs": ["IMAGE", "MASK"], "widgets": ["image", "upload"]},
    "LoadAudio": {"inputs": {}, "outputs": ["AUDIO"], "widgets": ["audio", "audioUI", "upload"]},
    "SaveVideo": {"inputs": {"video": "VIDEO"}, "outputs": [], "widgets": ["filename_prefix", "format", "codec"]},
}
"""ComfyUI's own nodes in the workflows: linkable sockets, outputs, and widgets in the order of a file."""


def load_image(name: str) -> torch.Tensor:
    """IMAGE (1, H, W, 3) as ComfyUI's LoadImage returns it."""
    return torch.from_numpy(np.asarray(Image.open(EXAMPLES / name).convert("RGB")).astype(np.float32) / 255.0)[None]


def load_audio(name: str) -> dict[str, Any]:
    """AUDIO as ComfyUI's LoadAudio returns it, from a mono WAV file of 16 bits."""
    with wave.open(str(EXAMPLES / name)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return {
            "waveform": torch.from_numpy(samples / np.float32(2**15))[None, None],
            "sample_rate": file.getframerate(),
        }


class Comfy:
    """ComfyUI with one extension.

    Args:
        nodes: by their ids.
    """

    def __init__(self, nodes: dict[str, type[io.ComfyNode]]) -> None:
        self.nodes = nodes

    def inputs(self, node_id: str) -> dict[str, io.Input]:
        """Return a node's inputs by name."""
        return {one.id: one for one in self.nodes[node_id].GET_SCHEMA().inputs}

    def outputs(self, node_id: str) -> list[str]:
        """Return the types of a node's outputs."""
        return [one.io_type for one in self.nodes[node_id].GET_SCHEMA().outputs]

    def widgets(self, node_id: str) -> list[str]:
        """Return the names of a node's ``widgets_values`` in a workflow file, required ones first."""
        inputs = sorted(self.inputs(node_id).values(), key=lambda one: one.optional)
        names: list[str] = []
        for one in inputs:
            if hasattr(one, "default"):
                names.append(one.id)
            if getattr(one, "control_after_generate", None):
                names.append("control_after_generate")
        return names

    def check(self, node_id: str, **values: Any) -> list[str]:
        """Return the errors that ComfyUI reports before it runs anything, one line each: its own and the node's.

        ComfyUI does not check inputs that the node's ``validate_inputs`` takes, which are all of them if it takes
        ``**values``. It reports an error that is returned once for each of them, and one that is raised once.
        """
        node = self.nodes[node_id]
        own = "validate_inputs" in vars(node)
        parameters = inspect.signature(node.validate_inputs).parameters.values() if own else []
        takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
        named = list(self.inputs(node_id)) if takes_all else [one.name for one in parameters]
        errors: list[str] = []
        for name, one in self.inputs(node_id).items():
            if name not in values:
                errors += [] if one.optional else [f"{name} is missing"]
                continue
            value = values[name]
            if value is LINK or name in named:
                continue
            low, high, options = (getattr(one, key, None) for key in ("min", "max", "options"))
            if low is not None and value < low:
                errors.append(f"{name}: {value} smaller than min of {low}")
            if high is not None and value > high:
                errors.append(f"{name}: {value} bigger than max of {high}")
            if options is not None and value not in options:
                errors.append(f"{name}: {value!r} not in {options}")
        if own:
            checked = {name: None if values[name] is LINK else values[name] for name in named if name in values}
            try:
                answer = node.validate_inputs(**checked)
            except Exception as error:  # noqa: BLE001 - as ComfyUI does
                return [str(error)]
            errors += [] if answer is True else [f"{name} - {answer}" for name in checked]
        return errors

    def run(self, node_id: str, **values: Any) -> tuple[Any, ...]:
        """Execute a node in inference mode, as ComfyUI does, and return its outputs; open inputs are not passed."""
        unknown = values.keys() - self.inputs(node_id).keys()
        assert not unknown, f"{node_id} has no inputs {unknown}"
        with torch.inference_mode():
            result = self.nodes[node_id].execute(**values).result or ()
        assert len(result) == len(self.outputs(node_id))
        return result

    def run_workflow(self, workflow: Workflow) -> list[Any]:
        """Execute a workflow, and return the videos that it saves."""
        saved: list[Any] = []
        results: dict[int, tuple[Any, ...]] = {}
        for node in sorted(workflow["nodes"], key=lambda one: int(one["order"])):
            values = widget_values(node, self.widgets_of(node["type"]))
            linked = linked_inputs(node, workflow)
            if node["type"] in self.nodes:
                values.pop("control_after_generate", None)
                problems = self.check(node["type"], **values, **dict.fromkeys(linked, LINK))
                assert not problems, problems
            values |= {name: results[source][slot] for name, (source, slot) in linked.items()}
            results[node["id"]] = self._execute(node["type"], values, saved)
        return saved

    def widgets_of(self, node_type: str) -> list[str]:
        """Return the widgets of a node, HuMo's or ComfyUI's, in the order of a file."""
        return self.widgets(node_type) if node_type in self.nodes else list(STOCK[node_type]["widgets"])

    def _execute(self, node_type: str, values: dict[str, Any], saved: list[Any]) -> tuple[Any, ...]:
        if node_type in self.nodes:
            return self.run(node_type, **values)
        if node_type == "LoadImage":
            image = load_image(values["image"])
            return image, torch.zeros(1, *image.shape[1:3])
        if node_type == "LoadAudio":
            return (load_audio(values["audio"]),)
        assert node_type == "SaveVideo"
        saved.append(values["video"])
        return ()


def widget_values(node: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the values of a node's widgets by name."""
    return dict(zip(names, node["widgets_values"], strict=True))


def linked_inputs(node: dict[str, Any], workflow: Workflow) -> dict[str, tuple[int, int]]:
    """Return the sources of a node's linked inputs: (node, output)."""
    links = {link[0]: link for link in workflow["links"]}
    linked = {one["name"]: links[one["link"]] for one in node["inputs"] if one["link"] is not None}
    return {name: (link[1], link[2]) for name, link in linked.items()}


def saved_bytes(images: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the bytes that ComfyUI's SaveVideo writes for an IMAGE."""
    frames: np.ndarray[Any, np.dtype[np.uint8]] = torch.clamp(images * 255, min=0, max=255).to(torch.uint8).numpy()
    return frames


WORKFLOWS: list[Path] = sorted((REPOSITORY / "comfyui" / "workflows").glob("*.json"))
