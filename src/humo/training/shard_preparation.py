"""Preparation of training on shards: encoded speeches, statistics, and rendering during training.

Shape suffixes: S speeches, T audio rows (25 a second), N audio bands, D width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from humo.conditioning.audio import encode_audio
from humo.distributed.process_group import ProcessGroup
from humo.errors import RequestError
from humo.progress import Progress
from humo.synthetic.shards import (
    SPEECH_FRAMES,
    SPEECHES,
    ShardConfig,
    read_config,
    read_speeches,
    rendering_processes,
    shard_numbers,
)
from humo.training.auxiliary_heads import MOUTH_VALUES
from humo.training.collate import MIN_STD
from humo.training.config import DataConfig, RenderConfig, Stage
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.shard_source import ShardFolderReader
from humo.training.tensor_files import FileDigests, digest, read_tensors, write_tensors

WAIT_SECONDS = 2.0
"""Seconds between two listings of a folder that has too few shards."""

SPEECHES_PER_FILE = 25
"""Number of speeches in a file of the cache; an interrupted encoding continues after the last file."""


def encode_speeches(
    folder: Path, encoders: FrozenEncoders, cache: Path, progress: Progress, max_speeches: int | None = None
) -> Tensor:
    """Return audio rows (S, T, N, D) in float16 of the speeches of a folder of shards; they are cached.

    Args:
        folder: folder of shards.
        encoders: source of the audio encoder.
        cache: folder of the cache.
        progress: called with ("audio", done, total).
        max_speeches: number of speeches to encode, rounded up to full files; by default all.
    """
    digests = FileDigests(cache / "digests.json")
    weights = (digests.of(encoders.folder(name)) for name in ("audio_encoder", "feature_extractor"))
    key = digest(*weights, encoders.audio_bands, digests.of(folder / SPEECHES))
    rows_folder = cache / f"speeches-{key[:16]}"
    rows_folder.mkdir(parents=True, exist_ok=True)
    speeches, chunks = read_speeches(folder / SPEECHES), []
    count = len(speeches.audio)
    if max_speeches is not None:
        count = min(count, SPEECHES_PER_FILE * math.ceil(max_speeches / SPEECHES_PER_FILE))
    for start in range(0, count, SPEECHES_PER_FILE):
        path = rows_folder / f"{start:05}.safetensors"
        if not path.is_file():
            rows = []
            for number, audio in enumerate(speeches.audio[start : start + SPEECHES_PER_FILE], start):
                progress("audio", number, count)
                samples = audio.astype(np.float32) / np.iinfo(np.int16).max
                encoded = encode_audio(
                    samples, encoders.feature_extractor, encoders.audio_encoder, encoders.audio_bands
                )
                rows.append(F.pad(encoded.cpu(), (0, 0, 0, 0, 0, SPEECH_FRAMES - len(encoded))).half())
            write_tensors(path, {"rows": torch.stack(rows)})
        chunks.append(read_tensors(path)["rows"])
    return torch.cat(chunks)


def shard_statistics(reader: ShardFolderReader, cache: Path) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations (2, ...) of mouth curves and of face embeddings of the first shard.

    They are cached.
    """
    path = cache / "shard-statistics.safetensors"
    if not path.is_file():
        file = next(iter(reader.shards.values())).file
        mouth, identity = file.get_tensor("mouth").view(-1, MOUTH_VALUES), file.get_tensor("identity")
        cache.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"mouth": _mean_and_std(mouth), "identity": _mean_and_std(identity)})
    statistics = read_tensors(path)
    return statistics["mouth"], statistics["identity"]


def _mean_and_std(rows: Tensor) -> Tensor:
    """Return mean and standard deviation (2, width) of rows without NaN; 0 and 1 if there are fewer than two."""
    rows = rows[~rows.isnan().any(dim=1)]
    if len(rows) < 2:
        return torch.stack([torch.zeros(rows.shape[1]), torch.ones(rows.shape[1])])
    return torch.stack([rows.mean(dim=0), rows.std(dim=0).clamp(min=MIN_STD)])


@contextmanager
def rendering(data: DataConfig, group: ProcessGroup, progress: Progress) -> Iterator[None]:
    """Render shards during the ``with`` block if the recipe has render settings.

    The block starts as soon as there are enough shards.

    Args:
        data: data settings of the recipe.
        group: all processes; the main process starts the rendering processes.
        progress: called with ("render", done, total) before the block starts.

    Raises:
        RequestError: a rendering process ended before there were enough shards.
    """
    settings, folder = data.render, Path(data.folder)
    with ExitStack() as stack:
        if settings is not None and group.is_main:
            processes = stack.enter_context(
                rendering_processes(folder, build_shard_config(settings), settings.workers, keep=settings.keep_last)
            )
            while (count := len(shard_numbers(folder))) < settings.min_shards:
                progress("render", count, settings.min_shards)
                if any(not process.is_alive() for process in processes):
                    raise RequestError("data.render", "a rendering process has ended", "see its error message above")
                time.sleep(WAIT_SECONDS)
        group.barrier()
        yield


def build_shard_config(settings: RenderConfig) -> ShardConfig:
    """Return the configuration of the shards that a recipe renders."""
    return ShardConfig(
        seed=settings.seed,
        sizes=settings.sizes,
        takes=settings.takes,
        take_frames=settings.take_frames,
        double_every=settings.double_every,
        speeches=settings.speeches,
        people=settings.identities,
        people_per_shard=settings.people_per_shard,
        closeness=settings.closeup,
        articulation=settings.articulation,
    )


def check_shards(data: DataConfig, stages: Sequence[Stage]) -> dict[str, Any]:
    """Return number of shards, takes and frames, without rendering anything.

    Raises:
        RequestError: the takes are shorter than a stage's shortest length.
        StorageError: the folder has no shards.
    """
    folder = Path(data.folder)
    config = build_shard_config(data.render) if data.render is not None else read_config(folder)
    for stage in stages:
        if stage.frames[0] > config.take_frames:
            problem = f"needs {stage.frames[0]} frames, and takes have {config.take_frames}"
            raise RequestError(f"stage {stage.name!r}", problem, "lower frames, or render longer takes")
    return {"shards": len(shard_numbers(folder)), "takes": config.takes, "take_frames": config.take_frames}
