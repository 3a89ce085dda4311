"""Peak memory of a full-size model with ``--offload disk``, compared with the estimate of `humo plan`.

    python benchmarks/disk_offload_memory.py --folder FOLDER                     # HuMo-1.7B generates: 18 GB of disk
    python benchmarks/disk_offload_memory.py --folder FOLDER --model humo-17b    # a pass of HuMo-17B: 36 GB

The weights are random, because memory does not depend on them, and nothing is downloaded. HuMo-1.7B generates a small
video from a prompt, an image and audio in two steps, with the command line. HuMo-17B runs one pass of its network, with
small other components. Each runs in a separate process whose peak resident memory is measured.

The estimate is an upper bound: a slow disk has read less of the next block than the estimate assumes. The
estimate is to be measured, not the disk. So the largest component of HuMo-1.7B, its text encoder of 11 GB, is read into
the page cache before, and each block of HuMo-17B waits until the next one is read.
"""

from __future__ import annotations

import argparse
import json
import os
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import environment, positive
from transformers import T5Tokenizer

from humo.checkpoints.architecture import Architecture, SpeechEncoderArchitecture
from humo.checkpoints.formats.base import StoredTensor
from humo.checkpoints.formats.writer import TensorToWrite, write_json, write_weights
from humo.checkpoints.hubs.catalog import RELEASED_ARCHITECTURES, UMT5_XXL, WAN_AUTOENCODER, WHISPER_LARGE_V3
from humo.checkpoints.keymap import tensor_names
from humo.checkpoints.layout import DIFFUSERS_LAYOUT, MODEL_INDEX, feature_config, model_index, scheduler_config
from humo.geometry import Geometry
from humo.presets import find_preset
from humo.runtime.memory_estimate import MemoryEstimate, estimate_memory
from humo.runtime.placement import Placement
from humo.runtime.placement_choice import PROCESS_BYTES

ROOT = Path(__file__).resolve().parents[1]
GIBIBYTE = 2**30
MEMORY_LIMITS = {"humo-1.7b": 4 * GIBIBYTE, "humo-17b": 8 * GIBIBYTE}
"""Target for the peak memory of each model."""

FRAME = {"width": 160, "height": 96, "frames": 5}
PATTERN_VALUES = 2**24
LONG_PROMPT = "a woman talks and " * 40
"""A prompt of the maximal number of tokens: the tokenizer of this benchmark has one token a letter."""

NETWORK_PASS = """
import sys, torch
from pathlib import Path
from humo.runtime.loading import load_streamed
pipeline = load_streamed(Path(sys.argv[1]), device="cpu", dtype=torch.float32)
net, config = pipeline.transformer, pipeline.transformer.config
source = pipeline.execution.streamed._networks[0]._source
for block in net.blocks:
    block.register_forward_pre_hook(lambda *_: source.wait())
width, height, frames = map(int, sys.argv[2:])
latents, text = torch.randn(1, config.in_channels, frames, height // 8, width // 8), torch.randn(1, 12, config.text_dim)
audio = torch.randn(1, frames, config.audio_window, config.audio_bands, config.audio_width)
with torch.no_grad():
    out = net(latents, torch.tensor([500.0]), text, audio).sample
assert out.isfinite().all()
"""


def structures_of(model: str) -> Mapping[str, Architecture]:
    """Return the components to create; the encoders of HuMo-17B, which do not run, have one layer each."""
    if model == "humo-1.7b":
        return RELEASED_ARCHITECTURES[model]
    small: dict[str, Architecture] = {
        "text_encoder": replace(UMT5_XXL, num_layers=1, vocab_size=1000),
        "audio_encoder": replace(WHISPER_LARGE_V3, encoder_layers=1),
        "vae": replace(WAN_AUTOENCODER, base_dim=16),
    }
    return {**RELEASED_ARCHITECTURES[model], **small}


def make_model(folder: Path, model: str) -> None:
    """Create a model folder whose weights repeat one pattern of small random numbers."""
    if (folder / MODEL_INDEX).is_file():
        return
    values = torch.randn(PATTERN_VALUES, generator=torch.Generator().manual_seed(0)) * 0.02
    for name, architecture in structures_of(model).items():
        component_folder = folder / name
        write_json(component_folder / "config.json", architecture.config())
        is_float32 = name in ("vae", "audio_encoder")  # float32, as published
        stem = next(place.stem for place in DIFFUSERS_LAYOUT.values() if place.folder == name)
        write_weights(
            component_folder, stem, outputs(architecture, values.to(torch.float32 if is_float32 else torch.bfloat16))
        )
        if isinstance(architecture, SpeechEncoderArchitecture):
            write_json(
                folder / "feature_extractor" / "preprocessor_config.json", feature_config(architecture.num_mel_bins)
            )
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    T5Tokenizer(vocab=[(piece, -float(n)) for n, piece in enumerate(pieces)], extra_ids=0).save_pretrained(
        str(folder / "tokenizer")
    )
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler_config())
    write_json(folder / MODEL_INDEX, model_index(model))  # last, as it marks the folder as complete


def outputs(architecture: Architecture, pattern: torch.Tensor) -> list[TensorToWrite]:
    """Return the tensors of a component, with the dtype and bytes of the pattern."""
    data = pattern.view(torch.uint8).numpy().data
    dtype_name = {torch.float32: "F32", torch.bfloat16: "BF16"}[pattern.dtype]

    def pieces(size: int) -> Iterator[memoryview]:
        for begin in range(0, size, len(data)):
            yield data[: min(len(data), size - begin)]

    stored = ((name.diffusers, StoredTensor(dtype_name, name.shape)) for name in tensor_names(architecture))
    return [TensorToWrite(name, tensor, partial(pieces, tensor.bytes)) for name, tensor in stored]


def read_once(folder: Path) -> None:
    """Read weights into the page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            while file.read(2**24):
                pass


def peak_memory(arguments: list[str]) -> tuple[int, float]:
    """Run Python, and return its peak resident bytes and its seconds.

    Raises:
        RuntimeError: the process failed.
    """
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], env=os.environ | {"PYTHONWARNINGS": "ignore"}, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{arguments[:3]} ended with {process.returncode}")
    return usage.ru_maxrss * 1024, time.monotonic() - start


def input_options() -> list[str]:
    """Return the options for image and audio."""
    return [*("--image", str(ROOT / "examples" / "woman.png")), *("--audio", str(ROOT / "examples" / "woman.wav"))]


def run(folder: Path, model: str) -> Iterator[tuple[str, Any]]:
    """Yield the measurements by name."""
    preset = find_preset(model)
    geometry = Geometry(**FRAME, references=1)
    estimate = estimate_memory(structures_of(model), geometry, preset.reference_injection, torch.float32, 3)
    if model == "humo-1.7b":
        size = [word for name, value in FRAME.items() for word in (f"--{name}", str(value))]
        command = ["-m", "humo", "generate", "--model", str(folder), "--offload", "disk", "--prompt", LONG_PROMPT]
        command += [*input_options(), *size, "--steps", "2", "--output", str(folder / "out.mp4"), "--quiet"]
        predicted = disk_bytes(estimate)
        read_once(folder / "text_encoder")
    else:
        latents = geometry.latent_frames
        command = ["-c", NETWORK_PASS, str(folder), str(geometry.width), str(geometry.height), str(latents)]
        predicted = disk_bytes(estimate, phase="denoise")
    measured, seconds = peak_memory(command)
    yield "predicted", predicted
    yield "measured", measured
    yield "ratio", round(predicted / measured, 3)
    yield "seconds", round(seconds, 1)
    yield "within_limit", measured < MEMORY_LIMITS[model]


def disk_bytes(estimate: MemoryEstimate, phase: str | None = None) -> int:
    """Return the estimate for ``--offload disk`` on a CPU, of one phase or of the largest one."""
    phases = Placement("disk").device_bytes(estimate, shared_memory=True)
    return PROCESS_BYTES + (max(phases.values()) if phase is None else phases[phase])


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, and return its measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder for the random weights, which are kept")
    parser.add_argument("--model", choices=list(MEMORY_LIMITS), default="humo-1.7b")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads of torch")
    parser.add_argument("--json", type=Path, help="write all measurements to FILE")
    options = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    folder = options.folder / options.model
    make_model(folder, options.model)
    measurements = dict(run(folder, options.model))
    for name, value in measurements.items():
        print(f"{name:10} {value / 1e9:.2f} GB" if name in ("predicted", "measured") else f"{name:10} {value}")
    result = {
        "benchmark": "disk_offload_memory",
        "environment": environment(),
        "model": options.model,
        **measurements,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
