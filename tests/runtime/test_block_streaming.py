"""Weights that wait on the disk or on the host: the same clips, no more blocks on the device than said, every order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from humo import HuMoPipeline
from humo.checkpoints.formats.safetensors_file import SafetensorsFile
from humo.errors import CheckpointError
from humo.inference.inputs import GenerationInputs
from humo.plan import GenerationPlan, resolve
from humo.request import OffloadName, parse_request
from humo.runtime.allocation_tracker import track_allocations
from humo.runtime.block_streaming import BlockStream, RowEmbedding, streamed_numbers
from humo.runtime.disk_blocks import DiskBlocks, WeightStore
from humo.runtime.host_blocks import ALIGNMENT, DirectCopies, HostBlocks, PackedBlock, pin
from humo.runtime.loading import cast_to, load_pipeline, load_streamed
from humo.runtime.offload import apply_placement, pack
from humo.runtime.placement import Placement
from tests.calls import HEIGHT, RED, WIDTH, tone
from tests.tiny import save_tiny_model

SAMPLES = tone(12)
COUNT = 6
"""Blocks of the networks here."""


def plan_of(pipeline: HuMoPipeline) -> GenerationPlan:
    fields = {"prompt": "a man, who sings", "images": ["red"], "audio": "tone", "steps": 3, "seed": 3}
    fields |= {"width": WIDTH, "height": HEIGHT, "frames": 9}
    return resolve(parse_request(fields), pipeline.preset, len(SAMPLES))


# -- clips ------------------------------------------------------------------------------------------------------------

PLACEMENTS = {
    "disk": Placement("disk"),
    "disk, one block stays": Placement("disk", resident_blocks=1),
    "model": Placement("model"),
    "group": Placement("group"),
    "group, one block stays": Placement("group", resident_blocks=1),
    "group, all blocks stay": Placement("group", resident_blocks=2),
}


def placed(folder: Path, placement: Placement, dtype: str = "float32") -> HuMoPipeline:
    """A pipeline on a CPU that stands for a GPU."""
    if placement.offload == "disk":
        return load_pipeline(
            folder, device="cpu", dtype=dtype, offload="disk", resident_blocks=placement.resident_blocks
        )
    pipeline = load_pipeline(folder, device="cpu", dtype=dtype)
    apply_placement(pipeline, placement, "cpu")
    return pipeline


@pytest.mark.parametrize("preset", ["humo-1.7b", "humo-17b"])
@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_clip_is_the_same_wherever_weights_wait(tmp_path: Path, preset: str, name: str) -> None:
    folder = save_tiny_model(tmp_path / "model", preset)
    whole, streamed = load_pipeline(folder, device="cpu", dtype="float32"), placed(folder, PLACEMENTS[name])
    clip = GenerationInputs(plan_of(whole), [RED], SAMPLES)
    expected = whole.generate_latents(clip)
    for _ in range(2):
        assert torch.allclose(streamed.generate_latents(clip), expected, atol=1e-6)
    list(streamed.generate_frames(clip))
    assert not at_hand(streamed)


@pytest.mark.parametrize("name", ["disk", "group"])
def test_a_clip_is_much_the_same_in_half_precision(tmp_path: Path, name: str) -> None:
    folder = save_tiny_model(tmp_path / "model", "humo-17b")
    whole, streamed = (
        load_pipeline(folder, device="cpu", dtype="bfloat16"),
        placed(folder, PLACEMENTS[name], "bfloat16"),
    )
    clip = GenerationInputs(plan_of(whole), [RED], SAMPLES)
    assert torch.allclose(streamed.generate_latents(clip), whole.generate_latents(clip), atol=2e-2)


def at_hand(pipeline: HuMoPipeline) -> list[str]:
    """Weights of blocks that are in memory."""
    parts = (pipeline.transformer.blocks, pipeline.text_encoder.encoder.block, pipeline.audio_encoder.layers)
    return [name for part in parts for name, weight in part.named_parameters() if weight.device.type != "meta"]


def test_one_component_has_blocks_on_the_device_at_a_time(tmp_path: Path) -> None:
    pipeline = placed(save_tiny_model(tmp_path / "model", "humo-1.7b"), PLACEMENTS["model"])
    lists = [pipeline.text_encoder.encoder.block, pipeline.audio_encoder.layers, pipeline.transformer.blocks]
    loaded: list[tuple[bool, ...]] = []
    for blocks in lists:
        blocks[-1].register_forward_hook(
            lambda *_: loaded.append(tuple(any(not one.is_meta for one in part.parameters()) for part in lists))
        )
    pipeline.generate_latents(GenerationInputs(plan_of(pipeline), [RED], SAMPLES))
    text, audio, network = (True, False, False), (False, True, False), (False, False, True)
    assert [one for one, _ in groupby(loaded)] == [text, audio, network]


def test_the_token_embedding_and_the_blocks_are_no_longer_in_the_modules(tmp_path: Path) -> None:
    pipeline = placed(save_tiny_model(tmp_path / "model", "humo-1.7b"), PLACEMENTS["group"])
    assert not at_hand(pipeline)
    names = {name for name, _ in pipeline.text_encoder.named_parameters()}
    assert not any("shared" in name or "embed_tokens" in name for name in names)


# -- the order of loading ---------------------------------------------------------------------------------------------


@given(blocks=st.integers(1, 50), resident=st.integers(0, 60))
def test_streamed_blocks_are_evenly_spread(blocks: int, resident: int) -> None:
    streamed = sorted(streamed_numbers(blocks, resident))
    assert len(streamed) == max(0, blocks - resident)
    following = [*streamed[1:], *(number + blocks for number in streamed[:1])]
    distances = {after - before for before, after in zip(streamed, following, strict=True)}
    assert len(distances) <= 2
    assert max(distances, default=0) - min(distances, default=0) <= 1


class Recorded:
    """A source of blocks that records its loads."""

    def __init__(self, weights: Sequence[dict[str, Tensor]]) -> None:
        self._weights = weights
        self.loads: list[int] = []
        self.loaded: set[int] = set()

    def start(self, number: int, *, keep: bool) -> None:
        if number not in self.loaded:
            self.loads.append(number)
            self.loaded.add(number)

    def finish(self, number: int, *, keep: bool) -> dict[str, Tensor]:
        self.start(number, keep=keep)
        return self._weights[number]

    def free(self, number: int) -> None:
        self.loaded.remove(number)

    def release(self) -> None:
        self.loaded.clear()


def linear_layers() -> tuple[nn.ModuleList, list[dict[str, Tensor]]]:
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(COUNT)).requires_grad_(False)
    return layers, [{name: one.clone() for name, one in layer.state_dict().items()} for layer in layers]


def run(layers: nn.ModuleList, x: Tensor | None = None) -> Tensor:
    x = torch.ones(2, 3) if x is None else x
    for layer in layers:
        x = layer(x)
    return x


@pytest.mark.parametrize("resident", [0, 1, 3, COUNT - 1, COUNT])
def test_each_pass_loads_the_streamed_blocks_once_and_one_ahead(resident: int) -> None:
    layers, weights = linear_layers()
    expected, source = run(layers), Recorded(weights)
    stream = BlockStream(layers, source, cyclic=True)
    stream.keep(resident)
    most: list[int] = []
    for layer in layers:
        layer.register_forward_hook(lambda *_: most.append(len(source.loaded)))
    for _ in range(3):
        assert run(layers).equal(expected)
    streamed = COUNT - resident
    assert len(source.loads) == COUNT + 2 * streamed + min(1, streamed if streamed > 1 else 0)
    assert max(most) <= resident + min(2, streamed)
    stream.release()
    assert all(weight.is_meta for weight in layers.parameters())
    assert not source.loaded


def test_a_stream_that_is_not_cyclic_ends_empty() -> None:
    layers, weights = linear_layers()
    expected, source = run(layers), Recorded(weights)
    BlockStream(layers, source, cyclic=False)
    for _ in range(2):
        assert run(layers).equal(expected)
        assert not source.loaded
    assert source.loads == [*range(COUNT)] * 2


def test_what_a_block_leaves_when_it_fails_is_nothing() -> None:
    layers, weights = linear_layers()
    BlockStream(layers, Recorded(weights), cyclic=False)
    with pytest.raises(RuntimeError):
        layers[0](torch.ones(1, 7))
    assert layers[0].weight.is_meta


def test_fewer_blocks_can_stay_from_one_pass_to_the_next() -> None:
    layers, weights = linear_layers()
    expected, source = run(layers), Recorded(weights)
    stream = BlockStream(layers, source, cyclic=True)
    for resident in (4, 2, 0, 5, None):
        stream.keep(resident)
        assert run(layers).equal(expected)
        assert len(source.loaded) <= (COUNT if resident is None else resident + 2)


# -- blocks on the host -----------------------------------------------------------------------------------------------


def test_a_packed_block_has_its_weights_in_one_buffer() -> None:
    weights = {
        "a": torch.randn(3, 5),
        "b": torch.randint(-128, 127, (7, 3), dtype=torch.int8),
        "c": torch.randn(9).bfloat16(),
        "d": torch.randn(()),
    }
    packed = PackedBlock(weights)
    assert all(view.equal(weights[name]) for name, view in packed.views(packed.buffer.clone()).items())
    assert packed.buffer.numel() < sum(one.nbytes for one in weights.values()) + len(weights) * ALIGNMENT


def test_packing_leaves_no_second_copy() -> None:
    layer = nn.Linear(500, 500).requires_grad_(False)
    packed = pack(layer)
    assert all(one.is_meta for one in layer.parameters())
    assert packed.buffer.numel() >= 4 * 500 * 501


class Late(DirectCopies):
    """A device whose copies end as late as they may: when a computation waits for them."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.pending: dict[int, tuple[Tensor, Tensor]] = {}
        self.copies = self.mark_count = 0
        self.computed: dict[int, int] = {}
        """Address of a buffer -> mark of the computation that used it last."""

    def copy(self, target: Tensor, source: Tensor, after: Any) -> int:
        assert after == self.computed.get(target.data_ptr()), "the copy may overwrite what is still computed with"
        self.copies += 1
        self.pending[self.copies] = (target, source)
        return self.copies

    def wait(self, copied: int) -> None:
        for number in [one for one in self.pending if one <= copied]:  # of one stream, in order
            target, source = self.pending.pop(number)
            target.copy_(source)

    def mark(self) -> int:
        self.mark_count += 1
        return self.mark_count


class Marking(HostBlocks):
    """Blocks on the host that record in their `Late` device which computation used a buffer last."""

    def free(self, number: int) -> None:
        buffers = [one.memory.data_ptr() for one in self._shared if one.holder == number]
        super().free(number)
        assert isinstance(self._copies, Late)
        self._copies.computed |= dict.fromkeys(buffers, self._copies.mark_count)


def on_host(layers: nn.ModuleList) -> BlockStream:
    copies = DirectCopies(torch.device("cpu"))
    return BlockStream(layers, HostBlocks([pack(layer) for layer in layers], copies), cyclic=True)


@pytest.mark.parametrize("resident", [0, 1, 4, COUNT])
def test_copies_end_before_the_computations_that_need_them(resident: int) -> None:
    layers, _ = linear_layers()
    expected, copies = run(layers), Late()
    stream = BlockStream(layers, Marking([pack(layer) for layer in layers], copies), cyclic=True)
    stream.keep(resident)
    for _ in range(3):
        for _ in range(2):
            assert run(layers).equal(expected)
        stream.release()
        assert not copies.pending, "memory is freed while a copy to it runs"
        copies.computed.clear()  # the buffers are new ones


@pytest.mark.parametrize("resident", [0, 1, 3, COUNT - 1, COUNT])
def test_the_device_has_two_blocks_beside_those_that_stay(resident: int) -> None:
    layers = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(COUNT)).requires_grad_(False)
    stream = on_host(layers)
    stream.keep(resident)
    block, x = 64 * 64 * 4, torch.ones(1, 64)
    with track_allocations((x,)) as stats:
        for _ in range(3):
            run(layers, x)
    assert stats.peak == block * (resident + min(2, COUNT - resident)) + 2 * x.nbytes
    stream.release()
    assert stats.live == 0


@given(order=st.lists(st.integers(0, COUNT - 1), max_size=30), resident=st.integers(0, COUNT))
def test_blocks_may_be_called_in_any_order(order: list[int], resident: int) -> None:
    layers, _ = linear_layers()
    x = torch.ones(2, 3)
    expected = [layer(x) for layer in layers]
    stream = on_host(layers)
    stream.keep(resident)
    for number in order:
        assert layers[number](x).equal(expected[number])


def test_memory_is_not_pinned_without_cuda() -> None:
    if not torch.cuda.is_available():
        assert not pin(torch.zeros(10, dtype=torch.uint8))


# -- blocks on the disk -----------------------------------------------------------------------------------------------


class Counting(WeightStore):
    """Records what is read."""

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
    names = [{name: f"layers.{n}.{name}" for name in ("weight", "bias")} for n in range(4)]
    source = DiskBlocks(store, names, cast_to("cpu", torch.float32))
    stream = BlockStream(layers, source, cyclic=cyclic)
    for passes in (1, 2):
        x = expected = torch.ones(1, 3)
        for number, layer in enumerate(layers):
            x = layer(x)
            expected = expected @ tensors[f"layers.{number}.weight"].T + tensors[f"layers.{number}.bias"]
            assert all(weight.is_meta for weight in layers.parameters())
        assert torch.allclose(x, expected)
        source.wait()
        assert len(store.read_names) == 2 * (4 * passes + cyclic)
    stream.release()
    layers[0](torch.ones(1, 3))
    assert store.read_names[-1].startswith(("layers.0", "layers.1"))


def test_rows_are_those_of_the_matrix(weights: Path) -> None:
    store = WeightStore([SafetensorsFile(weights)])
    embedding = RowEmbedding(lambda rows: store.read_rows("layers.2.weight", rows).double())
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


def test_weights_of_eight_bits_are_streamed_as_quantized_weights_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(
        CheckpointError,
        match="stores 'a' as F8_E4M3, which cannot be streamed; convert it with humo convert --dtype bf16",
    ):
        WeightStore([SafetensorsFile(path)]).read("a")
    assert WeightStore([SafetensorsFile(path)], quantized=["a"]).read("a").dtype == torch.int8


def test_a_folder_is_streamed_from_its_own_function(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "humo-1.7b")
    offload: OffloadName = "disk"
    one, other = load_streamed(folder, device="cpu", dtype=torch.float32), load_pipeline(folder, offload=offload)
    assert not at_hand(one)
    assert not at_hand(other)
