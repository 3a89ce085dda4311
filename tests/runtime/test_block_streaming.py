"""Weights that stay on the disk: the same clips, and never more than two blocks at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from humo import HuMoPipeline
from humo.checkpoints.formats.safetensors_file import SafetensorsFile
from humo.errors import CheckpointError
from humo.inference.inputs import GenerationInputs
from humo.plan import GenerationPlan, resolve
from humo.request import parse_request
from humo.runtime.block_streaming import BlockStream, DiskEmbedding, WeightStore
from humo.runtime.loading import cast_to, load_pipeline, load_streamed
from tests.calls import HEIGHT, RED, WIDTH, tone
from tests.tiny import save_tiny_model

SAMPLES = tone(12)


def plan_of(pipeline: HuMoPipeline) -> GenerationPlan:
    fields = {"prompt": "a man, who sings", "images": ["red"], "audio": "tone", "steps": 3, "seed": 3}
    fields |= {"width": WIDTH, "height": HEIGHT, "frames": 9}
    return resolve(parse_request(fields), pipeline.preset, len(SAMPLES))


@pytest.mark.parametrize("preset", ["humo-1.7b", "humo-17b"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_clip_is_the_same_whether_weights_are_at_hand_or_on_the_disk(tmp_path: Path, preset: str, dtype: str) -> None:
    folder = save_tiny_model(tmp_path / "model", preset)
    whole = load_pipeline(folder, device="cpu", dtype=dtype)
    streamed = load_streamed(folder, device="cpu", dtype=getattr(torch, dtype))
    clip = GenerationInputs(plan_of(whole), [RED], SAMPLES)
    for _ in range(2):
        latents, expected = streamed.generate_latents(clip), whole.generate_latents(clip)
        assert torch.allclose(latents, expected, atol=1e-6 if dtype == "float32" else 2e-2)
    list(streamed.generate_frames(clip))
    assert not at_hand(streamed)


def at_hand(pipeline: HuMoPipeline) -> list[str]:
    """Weights of blocks that are in memory."""
    parts = (pipeline.transformer.blocks, pipeline.text_encoder.encoder.block, pipeline.audio_encoder.layers)
    return [name for part in parts for name, weight in part.named_parameters() if weight.device.type != "meta"]


class Counting(WeightStore):
    """Knows what was read."""

    def __init__(self, path: Path) -> None:
        super().__init__([SafetensorsFile(path)])
        self.read_names: list[str] = []

    def read(self, name: str) -> Tensor:
        self.read_names.append(name)
        return super().read(name)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_file({f"layers.{n}.{name}": t for n in range(4) for name, t in nn.Linear(3, 3).state_dict().items()}, path)
    return path


@pytest.mark.parametrize("cyclic", [False, True])
def test_one_block_is_read_ahead_and_none_stays(weights: Path, cyclic: bool) -> None:
    store, tensors = Counting(weights), load_file(weights)
    with torch.device("meta"):
        layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(4)).requires_grad_(False)
    stream = BlockStream(
        {f"layers.{n}": one for n, one in enumerate(layers)}, store, cast_to("cpu", torch.float32), cyclic=cyclic
    )
    for passes in (1, 2):
        x = expected = torch.ones(1, 3)
        for number, layer in enumerate(layers):
            x = layer(x)
            expected = expected @ tensors[f"layers.{number}.weight"].T + tensors[f"layers.{number}.bias"]
            assert all(weight.is_meta for weight in layers.parameters())
        assert torch.allclose(x, expected)
        stream.wait()
        assert len(store.read_names) == 2 * (4 * passes + cyclic)
    stream.cancel_prefetch()
    layers[0](torch.ones(1, 3))
    assert store.read_names[-1].startswith(("layers.0", "layers.1"))


def test_what_a_block_leaves_when_it_fails_is_nothing(weights: Path) -> None:
    with torch.device("meta"):
        layer = nn.Linear(3, 3)
    BlockStream(
        {"layers.0": layer}, WeightStore([SafetensorsFile(weights)]), cast_to("cpu", torch.float32), cyclic=False
    )
    with pytest.raises(RuntimeError):
        layer(torch.ones(1, 7))
    assert layer.weight.is_meta


def test_rows_are_those_of_the_matrix(weights: Path) -> None:
    embedding = DiskEmbedding(WeightStore([SafetensorsFile(weights)]), "layers.2.weight", cast_to("cpu", torch.float64))
    indices = torch.tensor([[2, 0, 2], [1, 1, 0]])
    assert embedding(indices).equal(load_file(weights)["layers.2.weight"].double()[indices])


def test_missing_and_truncated_tensors_are_reported(weights: Path) -> None:
    store = WeightStore([SafetensorsFile(weights)])
    with pytest.raises(CheckpointError, match=r"layers\.9\.weight: is in none of the weights files"):
        store.read("layers.9.weight")
    store.read_rows("layers.3.weight", [2])
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 60)
    with pytest.raises(CheckpointError, match="ended while it was being read"):
        [store.read_rows(name, [2]) for name in (f"layers.{n}.weight" for n in range(4))]
    with pytest.raises(CheckpointError, match="ended while it was being read"):
        [store.read(f"layers.{n}.{name}") for n in range(4) for name in ("weight", "bias")]


def test_weights_of_eight_bits_are_not_streamed_yet(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(
        CheckpointError,
        match="stores 'a' as F8_E4M3, which cannot be streamed; convert it with humo convert --dtype bf16",
    ):
        WeightStore([SafetensorsFile(path)]).read("a")
