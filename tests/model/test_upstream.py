"""Private names of libraries exist and behave as expected, and are imported in one module only."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import humo
from humo.model import upstream
from humo.model.caches import is_hooked
from tests.tiny import tiny_audio_encoder, tiny_transformer

SOURCES = Path(humo.__file__).parent
ADAPTER = SOURCES / "model" / "upstream.py"
LIBRARIES = {"diffusers", "transformers", "peft", "accelerate", "huggingface_hub", "safetensors"}
PUBLIC = {  # documented modules: their names are kept from release to release
    "diffusers",
    "diffusers.configuration_utils",
    "diffusers.loaders",
    "diffusers.models.modeling_outputs",
    "diffusers.utils",
    "transformers",
    "transformers.utils",
    "peft",
    "accelerate",
    "huggingface_hub",
    "huggingface_hub.errors",
    "huggingface_hub.utils",
    "safetensors",
    "safetensors.torch",
    "safetensors.numpy",
}

checks: dict[str, Callable[[Path], None]] = {}


def checks_name(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register the test of a name in `humo.model.upstream`."""

    def register(check: Callable[[Path], None]) -> Callable[[Path], None]:
        checks[name] = check
        return check

    return register


def some(*shape: int, seed: int = 0) -> Tensor:
    """Return a random tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@checks_name("fetch_lora")
def _reads_safetensors_and_passes_tensors_through(folder: Path) -> None:
    state = {"transformer.proj_out.lora_A.weight": some(2, 3)}
    save_file(state, folder / "style.safetensors")
    options = dict.fromkeys(("cache_dir", "proxies", "local_files_only", "token", "revision", "subfolder"))
    agent = {"file_type": "attn_procs_weights", "framework": "pytorch"}
    for source, name in ((str(folder), "style.safetensors"), (state, None)):
        fetched, _ = upstream.fetch_lora(
            source,
            weight_name=name,
            use_safetensors=True,
            force_download=False,
            user_agent=agent,
            allow_pickle=False,
            **options,
        )
        assert torch.equal(fetched["transformer.proj_out.lora_A.weight"], state["transformer.proj_out.lora_A.weight"])


@checks_name("AttentionMixin")
def _knows_every_attention_of_the_network(_: Path) -> None:
    transformer = tiny_transformer("humo-1.7b")
    assert isinstance(transformer, upstream.AttentionMixin)
    assert set(transformer.attn_processors) == {
        f"blocks.{block}.{part}.processor" for block in (0, 1) for part in ("attn1", "attn2", "attn_audio")
    }


@checks_name("AttentionModuleMixin")
def _gives_an_attention_its_backend(_: Path) -> None:
    attention = tiny_transformer("humo-1.7b").blocks[0].attn1
    assert isinstance(attention, upstream.AttentionModuleMixin)
    attention.set_attention_backend("_native_math")
    assert attention.processor._attention_backend == "_native_math"


@checks_name("AttentionBackendName")
def _names_the_kernels_of_attention(_: Path) -> None:
    names = upstream.AttentionBackendName
    kernels = (names._NATIVE_EFFICIENT, names._NATIVE_CUDNN, names.FLASH, names._FLASH_3, names.SAGE, names.XFORMERS)
    assert len({names.NATIVE, *kernels}) == 7
    query = some(1, 5, 2, 8)
    expected = upstream.dispatch_attention_fn(query, query, query)
    assert upstream.dispatch_attention_fn(query, query, query, backend=names.NATIVE).equal(expected)


@checks_name("check_attention_backend")
def _raises_where_the_package_of_a_kernel_is_missing(_: Path) -> None:
    upstream.check_attention_backend(upstream.AttentionBackendName.NATIVE)
    if find_spec("sageattention") is None:
        with pytest.raises(RuntimeError, match="sageattention"):
            upstream.check_attention_backend(upstream.AttentionBackendName.SAGE)


@checks_name("DecoderOutput")
def _holds_a_sample(_: Path) -> None:
    assert upstream.DecoderOutput(sample=some(2, 3)).sample.shape == (2, 3)


@checks_name("FeedForward")
def _is_two_linears_around_a_gelu_in_its_tanh_form(_: Path) -> None:
    layer = upstream.FeedForward(6, inner_dim=10, activation_fn="gelu-approximate")
    x = some(2, 6)
    hidden = F.gelu(layer.net[0].proj(x), approximate="tanh")
    assert layer.net[2].weight.shape == (6, 10)
    torch.testing.assert_close(layer(x), layer.net[2](hidden), rtol=0, atol=1e-6)


@checks_name("dispatch_attention_fn")
def _is_attention_over_positions_before_heads(_: Path) -> None:
    q, k, v = some(2, 5, 3, 4), some(2, 7, 3, 4, seed=1), some(2, 7, 3, 4, seed=2)
    weights = torch.einsum("bsnd,blnd->bnsl", q, k).div(math.sqrt(4)).softmax(-1)
    expected = torch.einsum("bnsl,blnd->bsnd", weights, v)
    for backend in (None, "native", "_native_math"):
        out = upstream.dispatch_attention_fn(q, k, v, backend=backend, parallel_config=None)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


@checks_name("PixArtAlphaTextProjection")
def _is_two_linears_around_a_gelu(_: Path) -> None:
    layer = upstream.PixArtAlphaTextProjection(6, 10, act_fn="gelu_tanh")
    x = some(2, 3, 6)
    hidden = F.gelu(layer.linear_1(x), approximate="tanh")
    torch.testing.assert_close(layer(x), layer.linear_2(hidden), rtol=0, atol=1e-6)


@checks_name("TimestepEmbedding")
def _is_two_linears_around_a_silu(_: Path) -> None:
    layer = upstream.TimestepEmbedding(in_channels=6, time_embed_dim=10)
    x = some(2, 6)
    torch.testing.assert_close(layer(x), layer.linear_2(F.silu(layer.linear_1(x))), rtol=0, atol=1e-6)


@checks_name("FP32LayerNorm")
def _computes_in_float32_and_gives_the_precision_it_was_given(_: Path) -> None:
    layer = upstream.FP32LayerNorm(64, 1e-6, elementwise_affine=False)
    x = (100 + some(4, 64)).bfloat16()
    out = layer(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, F.layer_norm(x.float(), (64,), eps=1e-6).bfloat16())
    affine = upstream.FP32LayerNorm(64, 1e-6, elementwise_affine=True)
    nn.init.constant_(affine.weight, 2.0)
    nn.init.constant_(affine.bias, 1.0)
    torch.testing.assert_close(affine(x.float()), 2 * layer(x.float()) + 1, rtol=0, atol=1e-5)


@checks_name("apply_lora_scale")
def _scales_lora_layers_by_a_keyword_of_the_call(_: Path) -> None:
    from peft import LoraConfig

    transformer = tiny_transformer("humo-1.7b")
    latents, time, text = some(1, 16, 2, 4, 4), torch.tensor([500.0]), some(1, 6, transformer.config.text_dim)
    audio = some(1, 2, 8, 5, transformer.config.audio_width)

    @torch.no_grad()
    def predict(**keywords: object) -> Tensor:
        velocity: Tensor = transformer(latents, time, text, audio, **keywords).sample
        return velocity

    plain = predict()
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["proj_out"], init_lora_weights=False))
    change = predict() - plain  # the last layer is linear, so its LoRA's effect is, too
    assert change.abs().max() > 1e-3
    torch.testing.assert_close(predict(attention_kwargs={"scale": 0.5}) - plain, change / 2, rtol=0, atol=1e-5)
    torch.testing.assert_close(predict(attention_kwargs={"scale": 0.0}), plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(predict() - plain, change, rtol=0, atol=1e-5)


@checks_name("WhisperEncoder")
@torch.no_grad()
def _gives_its_embeddings_every_layer_and_the_normed_end(_: Path) -> None:
    encoder = tiny_audio_encoder()
    assert isinstance(encoder, upstream.WhisperEncoder)
    captured: dict[str, Tensor] = {}
    encoder.layer_norm.register_forward_hook(lambda module, inputs, output: captured.update(normed=output))
    encoder.layers[0].register_forward_pre_hook(lambda module, inputs: captured.update(embedded=inputs[0]))
    states = encoder(some(1, 80, 3000), output_hidden_states=True).hidden_states
    assert len(states) == encoder.config.encoder_layers + 1
    assert {state.shape for state in states} == {(1, 1500, encoder.config.d_model)}
    assert torch.equal(states[0], captured["embedded"])
    assert torch.equal(states[-1], captured["normed"])


@checks_name("apply_group_offloading")
@torch.no_grad()
def _streams_blocks_through_a_device(_: Path) -> None:
    layers = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(4)))
    expected = layers(torch.ones(1, 3))
    upstream.apply_group_offloading(
        layers,
        onload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=False,
    )
    assert layers(torch.ones(1, 3)).equal(expected)
    assert any(is_hooked(layer) for layer in layers.modules()), "by which it is known"


@checks_name("TransformerBlockRegistry")
@checks_name("TransformerBlockMetadata")
def _names_the_stream_of_a_block_for_caches(_: Path) -> None:
    block = tiny_transformer("humo-1.7b").blocks[0]
    metadata = upstream.TransformerBlockRegistry.get(type(block))
    assert isinstance(metadata, upstream.TransformerBlockMetadata)
    stream = some(1, 2, 3)
    assert metadata._get_parameter_from_args_kwargs("hidden_states", (stream, "text"), {}) is stream
    assert metadata.return_encoder_hidden_states_index is None


@pytest.mark.parametrize("name", sorted(upstream.__all__))
def test_a_private_name_behaves_as_expected(name: str, tmp_path: Path) -> None:
    checks[name](tmp_path)


def test_every_import_of_the_module_is_in_its_all_and_tested() -> None:
    taken = {name for _, _, name in imports(ADAPTER)}
    assert taken == set(upstream.__all__) == set(checks)


def imports(path: Path) -> Iterator[tuple[str, str, str]]:
    """(module, name, name here) of what a file takes from the libraries, deferred imports included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [(node.module, alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [(alias.name, "", alias.asname or alias.name) for alias in node.names]
        else:
            continue
        yield from (one for one in names if one[0].split(".")[0] in LIBRARIES)


def private(path: Path) -> list[str]:
    """Return the private names that a file uses, by import or as an attribute of a module."""
    taken = [f"{module}.{name}" for module, name, _ in imports(path) if module not in PUBLIC or name.startswith("_")]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            parent = ast.unparse(node.value)
            if dotted.split(".")[0] in {"diffusers", "transformers"} and "." in parent and parent not in PUBLIC:
                taken.append(dotted)
    return taken


def test_private_names_are_imported_in_one_module_only() -> None:
    files = sorted(SOURCES.rglob("*.py"))
    assert len(files) > 20
    private_names = {str(path.relative_to(SOURCES)): private(path) for path in files if path != ADAPTER}
    assert {name: used for name, used in private_names.items() if used} == {}


def test_private_imports_of_every_form_are_detected(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    lines = {
        "from diffusers.models.attention import FeedForward": True,
        "def later():\n    from transformers.models.whisper.modeling_whisper import WhisperEncoder": True,
        "import diffusers.models.embeddings": True,
        "from diffusers.utils import _private": True,
        "import diffusers\nx = diffusers.models.attention.FeedForward": True,
        "from diffusers import DiffusionPipeline\nfrom transformers.utils import logging": False,
    }
    for source, is_private in lines.items():
        file.write_text(source)
        assert bool(private(file)) is is_private, source
