"""LoRA files of every kind and naming: results equal those of changes that are merged in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from humo import HuMoError, HuMoTransformer3DModel
from humo.checkpoints.architecture import TransformerArchitecture
from humo.inference.adapters import LoraAdapters
from humo.inference.lora_file import LoraFile, read_lora
from humo.quantization.linear import replace_with_quantized_linear
from humo.quantization.quantize import quantize
from humo.runtime.loading import load_pipeline, load_streamed
from tests import quantized_files
from tests.tiny import save_tiny_model, tiny_transformer

RANK = 3
LINEAR = {  # published layer -> ours
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.v": "blocks.1.attn2.to_v",
    "blocks.0.audio_cross_attn_wrapper.audio_cross_attn.k": "blocks.0.attn_audio.to_k",
    "blocks.1.self_attn.o": "blocks.1.attn1.to_out.0",
    "blocks.0.ffn.2": "blocks.0.ffn.net.2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}
EMBEDDER = "condition_embedder.time_embedder"
QUERY = "blocks.0.self_attn.q"
State = dict[str, Tensor]


def network(preset: str = "humo-1.7b") -> HuMoTransformer3DModel:
    """A tiny network; always the same weights."""
    return tiny_transformer(preset)


def architecture(of: HuMoTransformer3DModel) -> TransformerArchitecture:
    """Return its sizes."""
    names = TransformerArchitecture.__dataclass_fields__.keys() & of.config.keys()
    return TransformerArchitecture(**({name: of.config[name] for name in names} | {"patch_size": (1, 2, 2)}))


def predict(of: HuMoTransformer3DModel) -> Tensor:
    """Return one pass on fixed input."""
    generator = torch.Generator().manual_seed(1)
    weight_type = next(of.parameters()).dtype
    inputs = (
        torch.randn(1, of.config.in_channels, 2, 4, 4, generator=generator),
        torch.tensor([300.0]),
        torch.randn(1, 6, of.config.text_dim, generator=generator),
        torch.randn(1, 2, 8, 5, of.config.audio_width, generator=generator),
    )
    with torch.no_grad():
        velocity: Tensor = of(*(one.to(weight_type) for one in inputs)).sample
    return velocity


def merged(changes: Mapping[str, Callable[[Tensor], Tensor]], preset: str = "humo-1.7b") -> Tensor:
    """Return a pass of the network whose parameters were changed by hand, each by a function of itself in float64."""
    changed = network(preset)
    parameters = dict(changed.named_parameters())
    with torch.no_grad():
        for name, change in changes.items():
            parameters[name].copy_(change(parameters[name].double()))
    return predict(changed)


def adapted(file: LoraFile, strength: float = 1.0, preset: str = "humo-1.7b") -> Tensor:
    """Return a pass of the network with the LoRA beside it."""
    plain = network(preset)
    before = predict(plain)
    adapters = LoraAdapters(plain)
    adapters.add("style", file, strength)
    result = predict(plain)
    assert not torch.allclose(result, before, atol=1e-3), "the LoRA changes something"
    adapters.clear()
    assert torch.equal(predict(plain), before), "nothing is left of it"
    return result


def read(state: State, **settings: object) -> LoraFile:
    return read_lora(state, architecture(network()), **settings)  # type: ignore[arg-type]


def _random(*shape: int, seed: int = 0, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _layer(ours: str) -> tuple[int, int]:
    out, into = network().get_submodule(ours).weight.shape
    return out, into


def low_rank(
    names: Callable[[str], tuple[str, str, str]], alpha: float | None = None
) -> tuple[State, dict[str, Tensor]]:
    """Return a file's tensors for every layer of `LINEAR` and what they come to, by our layer."""
    state: State = {}
    deltas = {}
    for seed, (published, ours) in enumerate(LINEAR.items()):
        out, into = _layer(ours)
        down, up = _random(RANK, into, seed=seed), _random(out, RANK, seed=seed + 100)
        name_down, name_up, name_alpha = names(published)
        state |= {name_down: down, name_up: up}
        if alpha is not None:
            state[name_alpha] = torch.tensor(alpha)
        deltas[ours] = (1 if alpha is None else alpha / RANK) * (up.double() @ down.double())
    return state, deltas


def plus(deltas: Mapping[str, Tensor], strength: float = 1.0) -> dict[str, Callable[[Tensor], Tensor]]:
    return {f"{layer}.weight": partial(torch.add, strength * delta) for layer, delta in deltas.items()}


PREFIXES = [
    "",
    "diffusion_model.",
    "model.diffusion_model.",
    "transformer.",
    "base_model.model.",
    "base_model.model.diffusion_model.",
    "pipe.dit.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("pair", [("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora_A.default", "lora_B.default")])
def test_low_rank_changes_are_exact_under_every_prefix(prefix: str, pair: tuple[str, str]) -> None:
    down, up = pair
    state, deltas = low_rank(
        lambda layer: (f"{prefix}{layer}.{down}.weight", f"{prefix}{layer}.{up}.weight", f"{prefix}{layer}.alpha"), 8.0
    )
    assert torch.allclose(adapted(read(state)), merged(plus(deltas)), atol=1e-5)


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_unet__"])
def test_underscored_names_are_read(prefix: str) -> None:
    state, deltas = low_rank(
        lambda layer: tuple(  # type: ignore[arg-type,return-value]
            f"{prefix}{layer.replace('.', '_')}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")
        ),
        2.0,
    )
    assert torch.allclose(adapted(read(state)), merged(plus(deltas)), atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_diffusers_names_are_read_with_their_alpha(prefix: str) -> None:
    state, deltas = low_rank(
        lambda layer: (
            f"{prefix}{LINEAR[layer]}.lora_A.weight",
            f"{prefix}{LINEAR[layer]}.lora_B.weight",
            f"{prefix}{LINEAR[layer]}.alpha",
        ),
        16.0,
    )
    assert torch.allclose(adapted(read(state)), merged(plus(deltas)), atol=1e-5)


def test_rank_and_alpha_of_diffusers_metadata_are_used() -> None:
    state, deltas = low_rank(
        lambda layer: (f"transformer.{LINEAR[layer]}.lora_A.weight", f"transformer.{LINEAR[layer]}.lora_B.weight", "")
    )
    config = {"transformer.r": 3, "transformer.lora_alpha": 12, "transformer.alpha_pattern": {"proj_out": 3}}
    lora = read(state, config=config)
    scaled = {layer: delta * (1 if layer == "proj_out" else 4) for layer, delta in deltas.items()}
    assert torch.allclose(adapted(lora), merged(plus(scaled)), atol=1e-5)


@pytest.mark.parametrize("alpha", [8.0, 1.0])
def test_alpha_is_applied_to_fp8_factors_without_rounding(alpha: float) -> None:
    state, _ = low_rank(lambda layer: (f"{layer}.lora_down.weight", f"{layer}.lora_up.weight", f"{layer}.alpha"), alpha)
    state = {key: tensor.to(torch.float8_e4m3fn) if tensor.ndim else tensor for key, tensor in state.items()}
    deltas = {
        ours: alpha / RANK * (state[f"{layer}.lora_up.weight"].double() @ state[f"{layer}.lora_down.weight"].double())
        for layer, ours in LINEAR.items()
    }
    assert torch.allclose(adapted(read(state)), merged(plus(deltas)), atol=1e-5)


@pytest.mark.parametrize("strength", [0.5, -0.7, 2.0])
def test_strength_scales_every_kind_of_change(strength: float) -> None:
    state, deltas = low_rank(lambda layer: (f"{layer}.lora_A.weight", f"{layer}.lora_B.weight", ""))
    bias, table = _random(48, seed=7), _random(1, 6, 48, seed=8)
    state |= {"blocks.0.self_attn.q.diff_b": bias, "blocks.1.diff_m": table}
    changes = plus(deltas, strength) | {
        "blocks.0.attn1.to_q.bias": lambda own: own + strength * bias,
        "blocks.1.scale_shift_table": lambda own: own + strength * table,
    }
    assert torch.allclose(adapted(read(state), strength), merged(changes), atol=1e-5)


def test_whole_differences_of_weights_norms_biases_and_tables_are_added() -> None:
    """The parts of the step-distilled LoRA in common use."""
    out, into = _layer("blocks.0.attn1.to_q")
    tensors = {
        "diffusion_model.blocks.0.self_attn.q.diff": ("blocks.0.attn1.to_q.weight", _random(out, into)),
        "diffusion_model.blocks.0.self_attn.q.diff_b": ("blocks.0.attn1.to_q.bias", _random(out, seed=1)),
        "diffusion_model.blocks.0.self_attn.norm_q.diff": ("blocks.0.attn1.norm_q.weight", _random(48, seed=2)),
        "diffusion_model.blocks.1.norm3.diff": ("blocks.1.norm2.weight", _random(48, seed=3)),
        "diffusion_model.blocks.1.norm3.diff_b": ("blocks.1.norm2.bias", _random(48, seed=4)),
        "diffusion_model.blocks.1.diff_m": ("blocks.1.scale_shift_table", _random(1, 6, 48, seed=5)),
        "diffusion_model.head.diff_m": ("scale_shift_table", _random(1, 2, 48, seed=6)),
        "diffusion_model.patch_embedding.diff_b": ("patch_embedding.bias", _random(48, seed=7)),
        "diffusion_model.time_embedding.0.diff_b": (
            f"{EMBEDDER}.linear_1.bias",
            _random(48, seed=8),
        ),
    }
    lora = read({key: tensor for key, (_, tensor) in tensors.items()})
    changes = {name: partial(torch.add, tensor) for name, tensor in tensors.values()}
    assert torch.allclose(adapted(lora), merged(changes), atol=1e-5)


def test_only_a_bias_may_change() -> None:
    bias = _random(48)
    lora = read({"blocks.0.self_attn.q.diff_b": bias})
    assert torch.allclose(adapted(lora), merged({"blocks.0.attn1.to_q.bias": lambda own: own + bias}), atol=1e-5)


def test_a_convolution_takes_low_rank_and_whole_changes() -> None:
    kernel = network().patch_embedding.weight.shape
    down, up = _random(RANK, *kernel[1:]), _random(kernel[0], RANK, 1, 1, 1, seed=1)
    state = {"patch_embedding.lora_down.weight": down, "patch_embedding.lora_up.weight": up}
    delta = (up.double().flatten(1) @ down.double().flatten(1)).reshape(kernel)
    assert torch.allclose(adapted(read(state)), merged({"patch_embedding.weight": lambda own: own + delta}), atol=1e-5)


def test_a_patch_embedding_of_other_channels_is_ignored_with_a_note() -> None:
    state, deltas = low_rank(lambda layer: (f"{layer}.lora_A.weight", f"{layer}.lora_B.weight", ""))
    state["patch_embedding.lora_down.weight"] = _random(RANK, 36, 1, 2, 2)
    state["patch_embedding.lora_up.weight"] = _random(48, RANK, 1, 1, 1)
    lora = read(state)
    (line,) = lora.layout.describe_ignored("style.safetensors")
    assert "2 tensors are ignored" in line
    assert "patch_embedding" in line
    assert torch.allclose(adapted(lora), merged(plus(deltas)), atol=1e-5)


def test_a_factor_between_the_two_is_multiplied_in() -> None:
    out, into = _layer("blocks.0.attn1.to_q")
    down, mid, up = _random(RANK, into), _random(RANK, RANK, 1, 1, seed=1), _random(out, RANK, seed=2)
    state = {
        "blocks.0.self_attn.q.lora_down.weight": down,
        "blocks.0.self_attn.q.lora_mid.weight": mid,
        "blocks.0.self_attn.q.lora_up.weight": up,
    }
    delta = up.double() @ mid.double()[:, :, 0, 0] @ down.double()
    assert torch.allclose(adapted(read(state)), merged(plus({"blocks.0.attn1.to_q": delta})), atol=1e-5)


def test_loha_is_exact() -> None:
    out, into = _layer("blocks.0.ffn.net.2")
    parts = [_random(out, RANK), _random(RANK, into, seed=1), _random(out, RANK, seed=2), _random(RANK, into, seed=3)]
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    state = {f"diffusion_model.blocks.0.ffn.2.{name}": part for name, part in zip(names, parts, strict=True)}
    state["diffusion_model.blocks.0.ffn.2.alpha"] = torch.tensor(6.0)
    one, two, three, four = (part.double() for part in parts)
    delta = 6 / RANK * (one @ two) * (three @ four)
    assert torch.allclose(adapted(read(state)), merged(plus({"blocks.0.ffn.net.2": delta})), atol=1e-5)


@pytest.mark.parametrize("form", ["whole", "low rank"])
def test_lokr_is_exact(form: str) -> None:
    out, into = _layer("blocks.0.ffn.net.2")
    first, second = _random(4, 4), _random(out // 4, into // 4, seed=1)
    name = "lora_unet_blocks_0_ffn_2"
    state = {f"{name}.lokr_w1": first, f"{name}.alpha": torch.tensor(5.0)}
    scale = 1.0
    if form == "whole":
        state[f"{name}.lokr_w2"] = second
    else:
        left, right = _random(out // 4, RANK, seed=2), _random(RANK, into // 4, seed=3)
        state |= {f"{name}.lokr_w2_a": left, f"{name}.lokr_w2_b": right}
        second, scale = left.double() @ right.double(), 5 / RANK
    delta = scale * torch.kron(first.double(), second.double())
    assert torch.allclose(adapted(read(state)), merged(plus({"blocks.0.ffn.net.2": delta})), atol=1e-5)


@pytest.mark.parametrize("form", ["dora_scale", "lora_magnitude_vector.weight", "columns"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_dora_is_exact_under_both_key_forms(form: str, strength: float) -> None:
    out, into = _layer("blocks.0.ffn.net.2")
    down, up = _random(RANK, into), _random(out, RANK, seed=1)
    magnitude = 1 + _random(1, into, seed=2) if form == "columns" else 1 + _random(out, seed=2)
    stored = magnitude[:, None] if form == "dora_scale" else magnitude
    part = "dora_scale" if form == "columns" else form
    layer = "diffusion_model.blocks.0.ffn.2"
    state = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, f"{layer}.{part}": stored}

    def change(weight: Tensor) -> Tensor:
        total = weight + up.double() @ down.double()
        if form == "columns":
            total = total / total.norm(dim=0, keepdim=True) * magnitude.double()
        else:
            total = total / total.norm(dim=1, keepdim=True) * magnitude.double()[:, None]
        result: Tensor = weight + strength * (total - weight)
        return result

    assert torch.allclose(adapted(read(state), strength), merged({"blocks.0.ffn.net.2.weight": change}), atol=1e-5)


def test_several_loras_add_up_and_one_call_can_scale_them() -> None:
    first, deltas = low_rank(lambda layer: (f"{layer}.lora_A.weight", f"{layer}.lora_B.weight", ""))
    second = {"blocks.0.self_attn.q.diff": _random(*_layer("blocks.0.attn1.to_q"), seed=9)}
    plain = network()
    adapters = LoraAdapters(plain)
    adapters.add("one", read(first), 0.5)
    adapters.add("two", read(second))
    total = {layer: 0.5 * delta for layer, delta in deltas.items()}
    total["blocks.0.attn1.to_q"] = total["blocks.0.attn1.to_q"] + second["blocks.0.self_attn.q.diff"].double()
    assert torch.allclose(predict(plain), merged(plus(total)), atol=1e-5)
    with adapters.scaled(0.25):
        assert torch.allclose(predict(plain), merged(plus(total, 0.25)), atol=1e-5)
    assert torch.allclose(predict(plain), merged(plus(total)), atol=1e-5)
    adapters.set_strengths({"two": 1.0})
    assert dict(adapters.strengths) == {"two": 1.0}
    adapters.add("two", read(first))  # hot-swap
    assert torch.allclose(predict(plain), merged(plus(deltas)), atol=1e-5)
    with pytest.raises(HuMoError, match="did you mean 'two'"):
        adapters.set_strengths({"tow": 1.0})


IMAGE_BRANCH = [
    "diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight",
    "diffusion_model.blocks.0.cross_attn.v_img.diff_b",
    "diffusion_model.blocks.0.cross_attn.norm_k_img.diff",
    "diffusion_model.img_emb.proj.1.lora_up.weight",
    "transformer.blocks.0.attn2.add_k_proj.lora_A.weight",
    "lora_unet_blocks_0_cross_attn_k_img.lora_down.weight",
]


def test_keys_of_the_image_encoder_branch_are_ignored_and_counted_in_one_line() -> None:
    state, deltas = low_rank(lambda layer: (f"{layer}.lora_A.weight", f"{layer}.lora_B.weight", ""))
    lora = read(state | dict.fromkeys(IMAGE_BRANCH, torch.ones(RANK, 48)))
    (line,) = lora.layout.describe_ignored("style.safetensors")
    assert line.startswith(f"style.safetensors: {len(IMAGE_BRANCH)} tensors are ignored: the image encoder branch")
    assert torch.allclose(adapted(lora), merged(plus(deltas)), atol=1e-5)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"double_blocks.0.img_attn.lora_A.weight": (3, 3)}, "belong to no layer of this network"),
        (
            {f"{QUERY}.lora_A.weight": (3, 64), f"{QUERY}.lora_B.weight": (64, 3)},
            "another size",
        ),
        (
            {f"blocks.{n}.self_attn.q.{part}.weight": (3, 48) for n in range(40) for part in ("lora_A",)},
            "a network of 40 blocks",
        ),
        ({"blocks.0.self_attn.q.lora_A.weight": (3, 48)}, "do not fit together"),
        ({"blocks.0.self_attn.q.alpha": ()}, "changes no layer"),
        ({"blocks.0.self_attn.q.dora_scale": (48,)}, "do not fit together"),
    ],
    ids=["another model", "another width", "more blocks", "half a pair", "nothing", "magnitudes alone"],
)
def test_a_file_that_does_not_fit_is_reported_in_one_line(state: dict[str, tuple[int, ...]], problem: str) -> None:
    with pytest.raises(HuMoError, match=problem) as refused:
        read({key: torch.ones(shape) for key, shape in state.items()}, name="style.safetensors")
    assert "\n" not in str(refused.value)
    assert "style.safetensors" in str(refused.value)


def _every_kind(of: HuMoTransformer3DModel) -> State:
    """Return a file with each kind of change, for a network of any width."""

    state: State = {}
    for seed, (published, ours) in enumerate(LINEAR.items()):
        out, into = of.get_submodule(ours).weight.shape
        state[f"{published}.lora_down.weight"] = _random(RANK, into, seed=seed)
        state[f"{published}.lora_up.weight"] = _random(out, RANK, seed=seed + 50, scale=0.1)
        state[f"{published}.alpha"] = torch.tensor(5.0)
    width = of.get_submodule("blocks.0.attn1.to_q").weight.shape[0]
    state["blocks.0.self_attn.q.dora_scale"] = 1 + _random(width, 1, seed=3)
    state["blocks.0.self_attn.k.diff"] = _random(width, width, seed=4, scale=0.05)
    state["blocks.1.self_attn.k.lokr_w1"] = _random(4, 4, seed=5)
    state["blocks.1.self_attn.k.lokr_w2"] = _random(width // 4, width // 4, seed=6, scale=0.1)
    state["blocks.1.self_attn.q.diff_b"] = _random(width, seed=7)
    state["blocks.1.self_attn.norm_q.diff"] = _random(width, seed=8)
    state["blocks.1.diff_m"] = _random(1, 6, width, seed=9)
    return state


def test_quantized_layers_support_every_kind_of_change() -> None:
    packed, unpacked = quantized_files.network("humo-1.7b"), quantized_files.network("humo-1.7b")
    matrices = {name for name, _ in packed.named_parameters() if name.startswith("blocks") and ".attn1.to_" in name}
    matrices = {name for name in matrices if name.endswith(".weight")}
    weights = {name: packed.get_parameter(name).detach().clone() for name in matrices}
    replace_with_quantized_linear(packed, dict.fromkeys(matrices, ("Q8_0", 0)))
    for name, weight in weights.items():
        layer = packed.get_submodule(name.removesuffix(".weight"))
        layer.weight.data = quantize(weight, "Q8_0")
        unpacked.get_parameter(name).data = layer.dequantized_weight(torch.float32)
    lora = read_lora(_every_kind(unpacked), architecture(unpacked))
    adapters = LoraAdapters(unpacked)
    adapters.add("style", lora)
    parameters = dict(unpacked.named_parameters())
    for name in adapters.changed_parameters():
        parameters[name].data = adapters.merged(name, parameters[name].data)
    adapters.clear()
    expected = predict(unpacked)
    plain = predict(packed)
    LoraAdapters(packed).add("style", lora)
    assert torch.allclose(predict(packed), expected, atol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-2)


def test_a_network_streamed_from_disk_supports_every_kind_of_change(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "humo-1.7b")
    streamed = load_streamed(folder, device="cpu", dtype=torch.float32)
    whole = load_pipeline(folder, device="cpu", dtype="float32")
    state = _every_kind(whole.transformer)
    for one in (streamed, whole):
        one.load_lora_weights(dict(state), adapter_name="style")
    expected = predict(whole.transformer)
    whole.fuse_lora()
    for _ in range(2):
        assert torch.allclose(predict(streamed.transformer), expected, atol=1e-5)
        assert torch.allclose(predict(whole.transformer), expected, atol=1e-5)
    with pytest.raises(HuMoError, match="offloaded or streamed"):
        streamed.fuse_lora()
    whole.unfuse_lora()
    for one in (streamed, whole):
        one.unload_lora_weights()
    assert torch.equal(predict(streamed.transformer), predict(whole.transformer))
