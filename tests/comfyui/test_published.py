"""The nodes in the published ComfyUI, through its HTTP interface, as its page uses it.

``COMFYUI`` names its folder (https://github.com/comfyanonymous/ComfyUI, 0.3.48 or later), ``COMFYUI_PYTHON`` a Python
with the requirements of both, by default the one that runs the tests.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.comfyui.executor import EXAMPLES, WORKFLOWS
from tests.comfyui.published import ComfyUI, running
from tests.comfyui_files import NETWORK, TEXT, save_comfyui_models

FOLDER = os.environ.get("COMFYUI", "")

pytestmark = pytest.mark.skipif(not FOLDER, reason="COMFYUI does not name a folder with the published ComfyUI")

SHORT = {"HuMo_Sampler": {"frames": 5, "steps": 2}}


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    base = tmp_path_factory.mktemp("comfyui")
    save_comfyui_models(base / "models")
    (base / "input").mkdir()
    for name in ("woman.png", "woman.wav"):
        shutil.copyfile(EXAMPLES / name, base / "input" / name)
    with running(Path(FOLDER), base, environment={"HUMO_MODELS": str(base / "humo")}) as comfy:
        yield comfy


def workflow(name: str) -> dict[str, Any]:
    """Return a workflow file."""
    read: dict[str, Any] = json.loads(next(path for path in WORKFLOWS if path.stem == name).read_text())
    return read


def video_of(comfy: ComfyUI, entry: dict[str, Any]) -> tuple[np.ndarray[Any, Any], int]:
    """Return the frames and the number of audio streams of the video that a run saved."""
    assert entry["status"]["status_str"] == "success", entry["status"]
    [saved] = [file for output in entry["outputs"].values() for file in output["images"]]
    data = comfy.get_bytes(f"/view?filename={saved['filename']}&subfolder={saved['subfolder']}&type={saved['type']}")
    with av.open(io.BytesIO(data), "r") as file:
        streams = len(file.streams.audio)
        assert file.streams.video[0].average_rate == 25
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]), streams


@pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS])
def test_a_workflow_file_generates_a_video_with_audio(comfy: ComfyUI, name: str) -> None:
    prompt = comfy.prompt_of(workflow(name), SHORT)
    frames, audio_streams = video_of(comfy, comfy.run(prompt))
    assert frames.shape == (5, 96, 96, 3)
    assert frames.std() > 5
    assert audio_streams == 1
    repeated = comfy.run(prompt)
    assert "execution_cached" in str(repeated["status"]["messages"])


def test_progress_and_previews_arrive_at_the_page(comfy: ComfyUI) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    prompt = comfy.prompt_of(workflow("text-audio"), {"HuMo_Sampler": {"frames": 5, "steps": 3, "seed": 5}})

    async def listen() -> tuple[list[dict[str, Any]], int]:
        steps, previews = [], 0
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{comfy.address}/ws?clientId=page") as ws:
            run = asyncio.get_running_loop().run_in_executor(None, comfy.run, prompt, "page")
            while not run.done():
                try:
                    message = await ws.receive(timeout=1)
                except TimeoutError:
                    continue
                if message.type == aiohttp.WSMsgType.BINARY:
                    previews += 1
                elif message.type == aiohttp.WSMsgType.TEXT and message.json()["type"] == "progress":
                    steps.append(message.json()["data"])
            video_of(comfy, await run)
        return steps, previews

    steps, previews = asyncio.run(listen())
    assert (3, 3, "4") in {(one["value"], one["max"], one["node"]) for one in steps}
    assert previews >= 3, "one for each step"


@pytest.mark.parametrize(
    ("node", "changes", "message"),
    [
        ("4", {"width": 40}, "width: 40 is not allowed; allowed: a whole number, 16 to 8192, a multiple of 16"),
        ("4", {"scale_text": -0.5}, "scale_text: -0.5 is not allowed; allowed: a number, 0 to 50"),
        ("4", {"overlap": 24}, "overlap: 24 frames leave no new frames in windows of 25; use at most 20"),
        ("4", {"window": 24}, "window: 24 frames are not 4k + 1; use 21"),
        ("4", {"window": 101}, "window: 101 frames are more than HuMo nano supports; use at most 25"),
        ("4", {"mode": "TIA"}, "mode: TIA needs images, and there are none"),
        ("4", {"prompt": ""}, "prompt: '' is not allowed"),
        ("4", {"preset": "humo-x"}, "preset: 'humo-x' is not known"),
        ("1", {"model": "nowhere"}, "nowhere"),
        ("1", {"dtype": "int3"}, "dtype: 'int3' is not known"),
        ("1", {"model": NETWORK.split("/")[1], "vae": "x.safetensors"}, "vae: 'x.safetensors' is not in ComfyUI's"),
    ],
)
def test_a_bad_field_is_shown_once_and_nothing_runs(
    comfy: ComfyUI, node: str, changes: dict[str, Any], message: str
) -> None:
    prompt = comfy.prompt_of(workflow("text-audio"), {})
    prompt[node]["inputs"] |= changes
    status, answer = comfy.post("/prompt", {"prompt": prompt})
    assert status == 400
    errors = [error for one in answer["node_errors"].values() for error in one["errors"]]
    assert len(errors) == 1, errors
    assert list(answer["node_errors"]) == [node]
    assert message in errors[0]["details"]
    assert "\n" not in errors[0]["details"]


def test_the_cancel_button_ends_a_run(comfy: ComfyUI) -> None:
    prompt = comfy.prompt_of(workflow("text-audio"), {"HuMo_Sampler": {"frames": 25, "steps": 900, "seed": 9}})
    _, answer = comfy.post("/prompt", {"prompt": prompt, "client_id": "test"})
    deadline = time.monotonic() + 300
    while not comfy.get("/queue")["queue_running"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(3)
    comfy.post("/interrupt", {})
    while answer["prompt_id"] not in (history := comfy.get(f"/history/{answer['prompt_id']}")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "execution_interrupted" in str(history[answer["prompt_id"]]["status"]["messages"])


def test_files_in_comfyuis_folders_are_offered_and_run_where_they_are(comfy: ComfyUI) -> None:
    file = NETWORK.split("/")[1]
    (kind, options) = comfy.get("/object_info/HuMo_LoadModel")["HuMo_LoadModel"]["input"]["optional"]["model"]
    choices = kind if isinstance(kind, list) else options["options"]
    assert file in choices
    assert options["humo"][file] == "humo-1.7b"
    small = {"width": 32, "height": 32, "frames": 5, "steps": 1, "window": 97, "overlap": 16, "shift": 5.0}
    changes: dict[str, dict[str, Any]] = {
        "HuMo_LoadModel": {"model": file, "text_encoder": TEXT.split("/")[1]},
        "HuMo_Sampler": {**small, "preset": "humo-1.7b", "negative_prompt": "blur"},
    }
    frames, _ = video_of(comfy, comfy.run(comfy.prompt_of(workflow("text-image-audio"), changes)))
    assert frames.shape == (5, 32, 32, 3)


def test_the_settings_node_connects_to_the_loader(comfy: ComfyUI) -> None:
    prompt = comfy.prompt_of(workflow("text-audio"), {"HuMo_Sampler": {"frames": 5, "steps": 2, "seed": 4}})
    settings: dict[str, Any] = {"tile": 0, "resident_blocks": 1, "attention": "sdpa", "compile": False}
    prompt["9"] = {"class_type": "HuMo_Settings", "inputs": settings}
    prompt["1"]["inputs"] |= {"settings": ["9", 0], "offload": "disk"}
    frames, _ = video_of(comfy, comfy.run(prompt))
    assert frames.shape == (5, 96, 96, 3)
    settings["attention"] = "sage"
    status, answer = comfy.post("/prompt", {"prompt": prompt})
    assert status == 400
    [error] = [error for one in answer["node_errors"].values() for error in one["errors"]]
    assert "attention: 'sage' is not installed" in error["details"]


def test_widgets_show_the_values_of_presets(comfy: ComfyUI) -> None:
    inputs = comfy.get("/object_info/HuMo_Sampler")["HuMo_Sampler"]["input"]["optional"]
    table = inputs["preset"][1]["humo"]
    assert (table["humo-17b"]["steps"], table["humo-17b"]["scale_audio"], table["humo-17b"]["width"]) == (50, 5.5, 832)
    assert inputs["width"][1]["default"] == table["humo-nano"]["width"] == 96
    page = comfy.get_bytes("/extensions/humo-nodes/humo.js").decode()
    assert "registerExtension" in page


def test_the_preset_of_another_model_is_refused_in_a_line(comfy: ComfyUI) -> None:
    prompt = comfy.prompt_of(workflow("text-audio"), {"HuMo_Sampler": {"preset": "humo-17b", "shift": 5.0}})
    entry = comfy.run(prompt)
    assert entry["status"]["status_str"] == "error"
    [failed] = [value for kind, value in entry["status"]["messages"] if kind == "execution_error"]
    problem = "preset: 'humo-17b' is not of the model, which is HuMo nano; choose humo-nano"
    assert failed["exception_message"].strip() == problem
