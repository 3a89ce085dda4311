"""Weights of published networks that measure videos: where they come from, their checksums and licenses.

Nothing is downloaded while measuring: ``humo evaluate weights get`` does it. A file whose checksum differs is refused
before it is loaded. Files may also be copied by hand to ``FOLDER/NAME/FILE``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from humo.checkpoints.formats.safetensors_file import SafetensorsFile
from humo.checkpoints.hubs.catalog import RemoteFile
from humo.checkpoints.hubs.download import Hub
from humo.environment import models_folder
from humo.errors import CheckpointError
from humo.files import atomic_write, hash_file

ACCEPTED_FILE = "accepted-licenses.json"
"""File in `weights_folder` with the licenses that the user accepted."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of published weights.

    Args:
        name: file name in the folder of its `Weights`.
        repository: owner/name on Hugging Face; a whole address for a file elsewhere.
        path: path in the repository.
        bytes: size, rounded where only that is published; 0 if it is small or not known.
        sha256: checksum; empty if it is not known in advance: then the hub's is compared at the download.
    """

    name: str
    repository: str
    path: str
    bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """Published weights of one network.

    Args:
        title: the network and what it was trained on.
        license: in a few words, with the license of the copy that is downloaded.
        commercial: ``yes``, ``no`` or ``unclear``: whether commercial use is allowed.
        files: all files, the weights first.
        source: a page about them.
    """

    title: str
    license: str
    commercial: str
    files: tuple[WeightFile, ...]
    source: str

    @property
    def bytes(self) -> int:
        """Size of all files as far as it is known."""
        return sum(file.bytes for file in self.files)


_INSIGHTFACE = "public-data/insightface"
_LATENTSYNC = "ByteDance/LatentSync-1.5"
_VIDEOREWARD_PROMPTS = (
    "https://raw.githubusercontent.com/KwaiVGI/VideoAlign/219ab9db64c045e5181a2202d11f686439351292/prompt_template.py"
)
_LAION = (
    "https://raw.githubusercontent.com/LAION-AI/aesthetic-predictor/6d122adad522ab246644d9dc1c6d7a3810ee255f/"
    "sa_0_4_vit_l_14_linear.pth"
)

WEIGHTS: Mapping[str, Weights] = {
    "clip_vit_l_14": Weights(
        "OpenAI CLIP ViT-L/14",
        "MIT",
        "yes",
        (
            WeightFile(
                "model.safetensors",
                "openai/clip-vit-large-patch14",
                "model.safetensors",
                1_710_540_580,
                "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
            ),
        ),
        "https://github.com/openai/CLIP",
    ),
    "laion_aesthetic": Weights(
        "LAION's linear aesthetic head on CLIP ViT-L/14",
        "MIT",
        "yes",
        (
            WeightFile(
                "sa_0_4_vit_l_14_linear.pth",
                _LAION,
                "",
                4_071,
                "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
            ),
        ),
        "https://github.com/LAION-AI/aesthetic-predictor",
    ),
    "musiq_spaq": Weights(
        "MUSIQ, trained on SPAQ",
        "Apache-2.0 as published by Google; the converted copy comes from a project under PolyForm Noncommercial",
        "unclear",
        (
            WeightFile(
                "musiq_spaq_ckpt-358bb6af.pth",
                "chaofengc/IQA-PyTorch-Weights",
                "musiq_spaq_ckpt-358bb6af.pth",
                108_500_000,
                "358bb6af275e28ea56821d44fb55c6cb83645db11f394d3ad65b2d149965ab50",
            ),
        ),
        "https://github.com/google-research/google-research/tree/master/musiq",
    ),
    "dinov2_base": Weights(
        "DINOv2 ViT-B/14",
        "Apache-2.0",
        "yes",
        (WeightFile("model.safetensors", "facebook/dinov2-base", "model.safetensors", 346_000_000),),
        "https://github.com/facebookresearch/dinov2",
    ),
    "syncnet_v2": Weights(
        "SyncNet v2, trained on BBC broadcasts",
        "not stated for the weights (code: MIT)",
        "unclear",
        (
            WeightFile(
                "syncnet_v2.model",
                _LATENTSYNC,
                "auxiliary/syncnet_v2.model",
                54_573_114,
                "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
            ),
        ),
        "https://www.robots.ox.ac.uk/~vgg/software/lipsync/",
    ),
    "sfd_face": Weights(
        "S3FD face detector, trained on WIDER FACE",
        "not stated for the weights (code: MIT)",
        "unclear",
        (
            WeightFile(
                "sfd_face.pth",
                _LATENTSYNC,
                "auxiliary/sfd_face.pth",
                89_844_381,
                "d54a87c2b7543b64729c9a25eafd188da15fd3f6e02f0ecec76ae1b30d86c491",
            ),
        ),
        "https://www.robots.ox.ac.uk/~vgg/software/lipsync/",
    ),
    "curricular_r101": Weights(
        "CurricularFace IR-101, trained on Glint360K",
        "Apache-2.0 of the repository; the training data is for non-commercial research",
        "unclear",
        (
            WeightFile(
                "glint360k_curricular_face_r101_backbone.bin",
                "BestWishYsh/OpenS2V-Weight",
                "glint360k_curricular_face_r101_backbone.bin",
                261_000_000,
                "aa54ae6dc9f7ac6e262809f1a81d6108e221952bf836aee4cb677ef19246c6ec",
            ),
        ),
        "https://github.com/PKU-YuanGroup/OpenS2V-Nexus",
    ),
    "scrfd_10g": Weights(
        "InsightFace's detector SCRFD-10GF with key points (det_10g.onnx of buffalo_l)",
        "InsightFace: non-commercial research only",
        "no",
        (
            WeightFile(
                "det_10g.onnx",
                _INSIGHTFACE,
                "models/buffalo_l/det_10g.onnx",
                16_923_827,
                "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
            ),
        ),
        "https://github.com/deepinsight/insightface/tree/master/model_zoo",
    ),
    "glint_r100": Weights(
        "InsightFace's ArcFace R100, trained on Glint360K (glintr100.onnx of antelopev2)",
        "InsightFace: non-commercial research only",
        "no",
        (
            WeightFile(
                "glintr100.onnx",
                _INSIGHTFACE,
                "models/antelopev2/glintr100.onnx",
                260_665_334,
                "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
            ),
        ),
        "https://github.com/deepinsight/insightface/tree/master/model_zoo",
    ),
    "arcface_r50": Weights(
        "InsightFace's ArcFace R50, trained on WebFace600K (w600k_r50.onnx of buffalo_l)",
        "InsightFace: non-commercial research only",
        "no",
        (
            WeightFile(
                "w600k_r50.onnx",
                _INSIGHTFACE,
                "models/buffalo_l/w600k_r50.onnx",
                174_000_000,
                "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
            ),
        ),
        "https://github.com/deepinsight/insightface/tree/master/model_zoo",
    ),
    "videoreward": Weights(
        "VideoReward: Qwen2-VL-2B with LoRA and a reward head",
        "MIT (VideoReward), Apache-2.0 (Qwen2-VL-2B)",
        "yes",
        (
            WeightFile(
                "model.pth",
                "KlingTeam/VideoReward",
                "checkpoint-11352/model.pth",
                5_031_072_529,
                "48375908e6112de9f0248402db156a23b480709a6960b091c598c6f4c88d21b9",
            ),
            WeightFile("model_config.json", "KlingTeam/VideoReward", "model_config.json"),
            WeightFile("config.json", "Qwen/Qwen2-VL-2B-Instruct", "config.json"),
            WeightFile("tokenizer.json", "Qwen/Qwen2-VL-2B-Instruct", "tokenizer.json"),
            WeightFile(
                "prompt_template.py",
                _VIDEOREWARD_PROMPTS,
                "",
                10_760,
                "8fb42f91fd7440a1c9a377e78f36d67da6132eb348f402eecbeb57e41f138ae9",
            ),
        ),
        "https://github.com/KlingTeam/VideoReward",
    ),
}
"""Name -> published weights."""


def weights_folder() -> Path:
    """Return the folder of these weights: ``HUMO_EVAL_WEIGHTS``, or ``evaluation`` in the folder of models."""
    own = os.environ.get("HUMO_EVAL_WEIGHTS")
    return Path(own).expanduser() if own else models_folder() / ".evaluation"


def missing_files(name: str) -> list[Path]:
    """Return the files of weights that are not there."""
    paths = [weights_folder() / name / file.name for file in WEIGHTS[name].files]
    return [path for path in paths if not path.is_file()]


def check_weights(name: str) -> None:
    """Compare the checksums of all files of weights.

    Raises:
        CheckpointError: a file is missing, or its checksum differs.
    """
    for index in range(len(WEIGHTS[name].files)):
        weights_file(name, index)


def weights_checksum(name: str) -> str:
    """Return the SHA-256 of weights' first file: the known one, or that of the file on this machine.

    Raises:
        CheckpointError: it is not known in advance, and the file is missing.
    """
    known = WEIGHTS[name].files[0].sha256
    return known or _checksum(_existing(name, WEIGHTS[name].files[0]))


def weights_file(name: str, index: int = 0) -> Path:
    """Return the path of a file of weights after comparing its checksum.

    Args:
        name: of `WEIGHTS`.
        index: number of the file.

    Raises:
        CheckpointError: it is missing, or its checksum differs.
    """
    file = WEIGHTS[name].files[index]
    path = _existing(name, file)
    if file.sha256 and _checksum(path) != file.sha256:
        problem = f"{file.name!r} has the checksum {_checksum(path)[:12]}..., not {file.sha256[:12]}..."
        raise CheckpointError(name, problem, f"delete {str(path)!r} and run `humo evaluate weights get {name}`")
    return path


def load_weights(name: str) -> dict[str, Any]:
    """Return the tensors of weights as float32, after comparing the checksum; no pickled code is run.

    Raises:
        CheckpointError: the file is missing, another one, or damaged.
    """
    import torch

    path = weights_file(name)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        SafetensorsFile(path)  # names what is wrong with a damaged file
        tensors: Any = load_file(path)
    else:
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            problem = f"{path.name!r} cannot be loaded ({str(error).splitlines()[0]})"
            raise CheckpointError(name, problem, f"run `humo evaluate weights get {name}` again") from error
    if "state_dict" in tensors:
        tensors = tensors["state_dict"]
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def download_weights(name: str, hub: Hub, on_bytes: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Download weights that are missing, and compare their checksums.

    Args:
        name: of `WEIGHTS`.
        hub: where repositories come from.
        on_bytes: called with the bytes done and in total.

    Raises:
        CheckpointError: the hub cannot be reached, or a checksum differs.
    """
    entry, done = WEIGHTS[name], 0

    def on_file_bytes(count: int) -> None:
        on_bytes(done + count, entry.bytes)

    for file in entry.files:
        target = weights_folder() / name / file.name
        if not target.is_file():
            _download(file, target, hub, on_file_bytes)
        done += file.bytes
        on_bytes(done, entry.bytes)


def accepted_licenses() -> dict[str, str]:
    """Return the names of weights whose license the user accepted, with its text."""
    path = weights_folder() / ACCEPTED_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(text) for name, text in values.items()} if isinstance(values, dict) else {}


def accept_license(name: str) -> None:
    """Record that the user accepted the license of weights."""
    accepted = accepted_licenses() | {name: WEIGHTS[name].license}
    with atomic_write(weights_folder() / ACCEPTED_FILE, "--accept-license") as part:
        part.write_text(json.dumps(accepted, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _existing(name: str, file: WeightFile) -> Path:
    path = weights_folder() / name / file.name
    if not path.is_file():
        problem = f"the weights {file.name!r} are not in {str(path.parent)!r}"
        raise CheckpointError(name, problem, f"run `humo evaluate weights get {name}`")
    return path


@cache
def _hash(path: Path, size: int, changed: int) -> str:
    return hash_file(path)


def _checksum(path: Path) -> str:
    """Return the SHA-256 of a file, computed once in this process while it does not change."""
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


def _download(file: WeightFile, target: Path, hub: Hub, on_bytes: Callable[[int], None]) -> None:
    if file.repository.startswith("https://"):
        _download_address(file, target)
        expected = file.sha256
    else:
        remote = RemoteFile(file.repository, file.path, file.bytes, file.sha256 or None)
        if not file.sha256:
            listed = {one.name: one for one in hub.files(file.repository)}
            remote = listed.get(file.path, remote)
        expected = remote.sha256 or ""
        fetched = hub.download(remote, target.parent / ".download", on_bytes)
        target.parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(target)
    if expected and hash_file(target) != expected:
        target.unlink()
        problem = f"{file.name!r} has another checksum than expected, and was removed"
        raise CheckpointError(file.repository, problem, "run the command again, or use another --endpoint")


def _download_address(file: WeightFile, target: Path) -> None:
    """Download a small file from an address of its own."""
    import urllib.request

    if os.environ.get("HF_HUB_OFFLINE") not in (None, "", "0"):
        problem = "is not available locally, and HF_HUB_OFFLINE forbids downloads"
        raise CheckpointError(file.name, problem, f"unset it, or copy the file to {str(target)!r}")
    try:
        with urllib.request.urlopen(file.repository, timeout=60) as response, atomic_write(target, "weights") as part:
            part.write_bytes(response.read())
    except (OSError, ValueError) as error:
        remedy = f"run the command again, or copy the file to {str(target)!r}"
        raise CheckpointError(file.name, f"cannot be downloaded from {file.repository} ({error})", remedy) from error
