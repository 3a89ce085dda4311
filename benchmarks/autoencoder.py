"""Time and memory of Wan's autoencoder in HuMo's chunks of frames, compared with diffusers on a whole video.

    python benchmarks/autoencoder.py --threads 2
    python benchmarks/autoencoder.py --size published --rounds 3 --json autoencoder.json

Weights and pixels are random. Both outputs must agree before anything is timed. Memory is the peak resident memory of
a separate process at two lengths; each chunk is discarded, as `humo generate` writes it to the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from disk_offload_memory import peak_memory
from timing import Case, alternate, arguments, check_equal, report
from torch import Tensor

from humo.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE, latent_frames_of
from humo.model.autoencoder import StreamingDecoder, StreamingEncoder

BOUND = 1e-4  # on max |difference| / max |output|
MEBIBYTE = 2**20
MAX_MEMORY_RATIO = 1.1
"""Largest ratio of both memories that counts as independent of the length."""


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of an autoencoder and of its videos.

    Args:
        base_dim: width of the first level; Wan's is 96.
        side: height and width in pixels.
        frames: frames of the timed video, and of the shorter video whose memory is measured; 4k + 1.
        longer: frames of the longer video whose memory is measured; 4k + 1.
    """

    base_dim: int
    side: int
    frames: int
    longer: int


SIZES = {
    "small": Size(base_dim=48, side=96, frames=17, longer=129),
    "published": Size(base_dim=96, side=96, frames=17, longer=129),
    "tiny": Size(base_dim=4, side=16, frames=5, longer=9),
}


def build(size: Size) -> AutoencoderKLWan:
    """Return an autoencoder with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae: AutoencoderKLWan = AutoencoderKLWan(base_dim=size.base_dim).eval().requires_grad_(False)
    return vae


def pixels(size: Size, frames: int) -> Iterator[Tensor]:
    """Yield a random video in chunks: one frame (1, 3, 1, H, W), then four at a time."""
    generator = torch.Generator().manual_seed(1)
    for count in [1] + [TEMPORAL_STRIDE] * (latent_frames_of(frames) - 1):
        yield torch.rand(1, 3, count, size.side, size.side, generator=generator) * 2 - 1


def latents(size: Size, vae: AutoencoderKLWan, frames: int) -> Iterator[Tensor]:
    """Yield random latent frames (1, C, 1, H, W)."""
    generator, side = torch.Generator().manual_seed(2), size.side // SPATIAL_STRIDE
    for _ in range(latent_frames_of(frames)):
        yield torch.randn(1, vae.config.z_dim, 1, side, side, generator=generator)


DIRECTIONS = ("encoding", "decoding")


def in_chunks(convert: Callable[[Tensor], Tensor], chunks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the output of each chunk."""
    return (convert(chunk) for chunk in chunks)


@torch.no_grad()
def compare(size: Size, rounds: int, directions: Sequence[str]) -> list[Case]:
    """Check that the outputs agree, then time the named directions."""
    vae = build(size)
    video, coded = torch.cat([*pixels(size, size.frames)], dim=2), torch.cat([*latents(size, vae, size.frames)], dim=2)

    def encode() -> Tensor:
        output = in_chunks(StreamingEncoder(vae), pixels(size, size.frames))
        return torch.cat([*output], dim=2)

    def decode() -> Tensor:
        output = in_chunks(StreamingDecoder(vae), iter(coded.split(1, dim=2)))
        return torch.cat([*output], dim=2)

    pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "encoding": (encode, lambda: vae.encode(video).latent_dist.mode()),
        "decoding": (decode, lambda: vae.decode(coded).sample),
    }
    return [
        Case(
            name=f"{name} {size.frames} frames of {size.side} x {size.side}",
            settings={**asdict(size), "rounds": rounds},
            differences={"diffusers": check_equal(ours(), theirs(), BOUND)},
            seconds=alternate({"humo": ours, "diffusers": theirs}, rounds),
        )
        for name, (ours, theirs) in pairs.items()
        if name in directions
    ]


@torch.no_grad()
def alone(name: str, what: str, frames: int) -> None:
    """Encode or decode a video in this process, whose memory is measured."""
    size = SIZES[name]
    vae = build(size)
    if what == "encoding":
        output = in_chunks(StreamingEncoder(vae), pixels(size, frames))
    else:
        output = in_chunks(StreamingDecoder(vae), latents(size, vae, frames))
    for chunk in output:
        assert chunk.isfinite().all()


def memory(name: str, threads: int | None, directions: Sequence[str]) -> list[dict[str, Any]]:
    """Return the peak resident bytes of the named directions, at both lengths."""
    size, rows = SIZES[name], []
    for what in directions:
        row: dict[str, Any] = {"what": what}
        for frames in (size.frames, size.longer):
            command = [__file__, "--alone", name, what, str(frames)]
            row[str(frames)] = peak_memory(command + ([] if threads is None else [str(threads)]))[0]
        row["ratio"] = round(row[str(size.longer)] / row[str(size.frames)], 3)
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, and return its measurements."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--size", choices=SIZES, default="small", help="published is Wan's width, tiny for trying out")
    parser.add_argument(
        "--what", choices=DIRECTIONS, nargs="+", default=DIRECTIONS, help="directions to measure (default both)"
    )
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    size = SIZES[options.size]
    result = report("autoencoder", compare(size, options.rounds, options.what), None)
    result["memory"] = memory(options.size, options.threads, options.what)
    print(f"\n| memory | {size.frames} frames, MiB | {size.longer} frames, MiB | ratio | |\n|---|---|---|---|---|")
    for row in result["memory"]:
        short, long = (row[str(frames)] / MEBIBYTE for frames in (size.frames, size.longer))
        word = "independent of the length" if row["ratio"] <= MAX_MEMORY_RATIO else "GROWS WITH THE LENGTH"
        print(f"| {row['what']} | {short:.0f} | {long:.0f} | {row['ratio']:.2f} | {word} |")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        if len(sys.argv) > 5:
            torch.set_num_threads(int(sys.argv[5]))
        alone(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
