"""Time of one pass of HuMo's network, compared with diffusers' Wan transformer and with its matrix products alone.

    python benchmarks/network_pass.py
    python benchmarks/network_pass.py --size wide --layers 2 --threads 2       # the width of HuMo-1.7B
    python benchmarks/network_pass.py --dtype bfloat16 --threads 1 --rounds 11 --layers 2 --json network_pass.json

HuMo's network runs as in a generation, where the keys and values of text and audio are computed once for all timesteps.
Before anything is timed, the Wan transformer with audio layers must give the same output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from compute_limit import ComputeLimit
from diffusers_baseline import cast_weights, with_audio, without_audio
from timing import Case, alternate, arguments, check_equal, report
from torch import Tensor

from humo import HuMoTransformer3DModel

BOUNDS = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest allowed max |difference| / max |output|; diffusers keeps the residual stream in bfloat16."""

TIMESTEP = 700.0
"""Timestep of the pass, in 0..1000; the time does not depend on it."""


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of a network and of its input.

    Args:
        heads, head_dim: their product is the width.
        ffn_dim: inner width of the feed-forward.
        text_dim, text_length: the text's width and positions.
        audio_width: width of the audio encoder's features.
        frames, rows, columns: tokens in each dimension; a token covers 2 x 2 latent pixels of one frame.
    """

    heads: int
    head_dim: int
    ffn_dim: int
    text_dim: int
    text_length: int
    audio_width: int
    frames: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """Tokens of the whole sequence."""
        return self.frames * self.rows * self.columns


SIZES = {
    "middle": Size(12, 64, 4480, 4096, 512, 1280, frames=6, rows=20, columns=24),  # half as wide as HuMo-1.7B
    "wide": Size(12, 128, 8960, 4096, 512, 1280, frames=6, rows=20, columns=24),  # as wide as HuMo-1.7B
    "tiny": Size(2, 24, 64, 24, 32, 16, frames=3, rows=2, columns=3),
}


def build(size: Size, layers: int) -> HuMoTransformer3DModel:
    """Return HuMo's network with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: HuMoTransformer3DModel = HuMoTransformer3DModel(
            num_attention_heads=size.heads,
            attention_head_dim=size.head_dim,
            in_channels=16,
            text_dim=size.text_dim,
            text_length=size.text_length,
            ffn_dim=size.ffn_dim,
            num_layers=layers,
            audio_width=size.audio_width,
        )
    network.eval()
    return network


def inputs(size: Size, network: HuMoTransformer3DModel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return random latents (1, C, F, H, W), the timestep (1,), text (1, L, D) and audio (1, F, W, N, D)."""
    generator = torch.Generator().manual_seed(1)
    config = network.config
    latents = torch.randn(1, config.in_channels, size.frames, 2 * size.rows, 2 * size.columns, generator=generator)
    text = torch.randn(1, size.text_length, size.text_dim, generator=generator)
    windows = (1, size.frames, config.audio_window, config.audio_bands, config.audio_width)
    return latents, torch.tensor([TIMESTEP]), text, torch.randn(windows, generator=generator)


@torch.no_grad()
def compare(size: Size, layers: int, dtype: str, rounds: int) -> Case:
    """Check that the outputs agree, in float32 and in ``dtype``, then time them."""
    network = build(size, layers)
    audio_wan, wan = with_audio(network), without_audio(network)
    latents, time, text, audio = inputs(size, network)
    check_equal(network(latents, time, text, audio).sample, audio_wan(latents, time, text, audio), BOUNDS["float32"])
    precision: torch.dtype = getattr(torch, dtype)
    for one in (network, audio_wan, wan):
        cast_weights(one, precision)
    text = text.to(precision)
    cross_attention_kv = network.cross_attention_kv(text, audio)
    difference = check_equal(
        network(latents, time, cross_attention_kv=cross_attention_kv).sample,
        audio_wan(latents, time, text, audio),
        BOUNDS[dtype],
    )
    candidates: dict[str, Callable[[], Tensor]] = {
        "humo": lambda: network(latents, time, cross_attention_kv=cross_attention_kv),
        "Wan with audio layers": lambda: audio_wan(latents, time, text, audio),
        "Wan without audio": lambda: wan(latents.to(precision), time, text),
        "its matrix products and attention alone": ComputeLimit(network, cross_attention_kv, latents),
    }
    return Case(
        name=f"{layers}-layer network pass, {dtype}",
        settings={**asdict(size), "tokens": size.tokens, "layers": layers, "dtype": dtype, "rounds": rounds},
        differences={"Wan with audio layers": difference},
        seconds=alternate(candidates, rounds),
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, and return its measurements."""
    parser = arguments(__doc__, rounds=9, layers=4)
    parser.add_argument("--dtype", choices=BOUNDS, default="float32", help="precision of the blocks (default float32)")
    parser.add_argument("--size", choices=SIZES, default="middle", help="wide is HuMo-1.7B's, tiny for trying out")
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    case = compare(SIZES[options.size], options.layers, options.dtype, options.rounds)
    return report("network_pass", [case], options.json)


if __name__ == "__main__":
    main()
