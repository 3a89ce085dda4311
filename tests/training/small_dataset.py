"""A small dataset (six clips of noise with a tone, with reference images, captions and ground truth), and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from humo.media.audio import AudioTrack
from humo.media.video import VideoFormat, write_video
from humo.training.config import Recipe
from humo.training.metrics_log import read_log
from humo.training.recipe_file import parse_recipe

SIDE, FRAMES = 32, 13
"""Pixels; frames of each clip."""

NETWORK = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "ffn_dim": 64,
    "num_layers": 5,
    "freq_dim": 32,
    "text_length": 32,
    "audio_hidden_dim": 16,
    "audio_tokens": 4,
    "audio_token_dim": 20,
}


Change = dict[str, Any]
STAGES: list[Change] = [
    {"name": "text to video", "steps": 2, "train": ["all"]},
    {"name": "subject", "steps": 2, "train": ["self_attention"]},
    {"name": "sync", "steps": 2, "train": ["self_attention", "audio", "focus", "lips"], "audio_prob": [0.5, 1.0]},
]


def make_dataset(folder: Path, clips: int = 6, *, silent: tuple[int, ...] = (5,), truth: bool = True) -> Path:
    """Write the dataset."""
    for name in ("video", "reference_image", "truth"):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"clip{number}" for number in range(clips)]
    for number, name in enumerate(names):
        write_clip(folder / "video" / f"{name}.mp4", random, pitch=None if number in silent else 200 + 90 * number)
        pattern = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pattern).resize((SIDE, SIDE)).save(folder / "reference_image" / f"{name}.png")
        face = np.zeros((FRAMES, SIDE, SIDE), bool)
        face[:, :16, : 16 + number] = True  # the first one's is a token
        mouth = random.random((FRAMES, 3)).astype(np.float32)
        if truth:
            np.savez(folder / "truth" / f"{name}.npz", face=np.packbits(face, axis=-1), mouth=mouth)
    rows = {
        "video": [f"{name}.mp4" for name in names],
        "text": [f"a person number {number} speaks" for number in range(clips)],
        "paraphrases": [[f"number {number}", "somebody"] for number in range(clips)],
    }
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "video_caption.parquet")
    return folder


def write_clip(path: Path, random: np.random.Generator, pitch: float | None, frames: int = FRAMES) -> None:
    """Write a clip of slowly changing colors, with a tone if a pitch is given."""
    base = random.integers(40, 215, (2, 4, 4, 3))
    mixed = [base[0] + (base[1] - base[0]) * step / frames for step in range(frames)]
    enlarged = [np.kron(one, np.ones((SIDE // 4, SIDE // 4, 1))).astype(np.uint8) for one in mixed]
    track = None
    if pitch is not None:
        seconds = np.arange(16_000 * frames // 25) / 16_000
        track = AudioTrack((np.sin(seconds * 2 * np.pi * pitch) * 0.3).astype(np.float32)[None], 16_000)
    write_video(path, enlarged, VideoFormat(SIDE, SIDE), metadata={}, track=track)


def values(data: Path, model: Path, output: Path, /, **changes: Any) -> dict[str, Any]:
    """Return a recipe of one stage that trains everything, as plain values."""
    stage = {
        "name": "all",
        "steps": 4,
        "train": ["all"],
        "frames": [9],
        "batch_size": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
    }
    return {
        "output": str(output),
        "model": {"folder": str(model), "preset": "humo-1.7b", "network": NETWORK},
        "data": {"folder": str(data), "resolutions": [[SIDE, SIDE]]},
        "stages": [stage],
        "tensorboard": False,
    } | changes


def recipe(data: Path, model: Path, output: Path, /, **changes: Any) -> Recipe:
    """Return the same as a validated recipe."""
    return parse_recipe(values(data, model, output, **changes))


def stages(**changes: Any) -> list[Change]:
    """Return three small stages in the published order."""
    return [
        stage | {"frames": [5, 9], "batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 0} | changes
        for stage in STAGES
    ]


def logged_losses(output: Path) -> list[tuple[float, ...]]:
    """Return the logged losses of each step of a run."""
    return [
        (row["step"], row["loss"], row["loss_focus"], row["loss_lips"], row["grad_norm"]) for row in read_log(output)
    ]
