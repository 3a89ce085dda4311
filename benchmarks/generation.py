"""A whole small generation by HuMo's pipeline against the published loop around diffusers' Wan with audio layers.

    python benchmarks/generation.py
    python benchmarks/generation.py --family humo-1.7b --steps 20 --rounds 9 --json generation.json
    python benchmarks/generation.py --family humo-nano --threads 2     # the guided model inside the package

Words, a picture and a sound (the words and the sound as embeddings) become a video of 25 frames of 96 x 96 pixels.
The published loop runs every pass its guidance formula names. Before anything is timed, both must give the same video.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence, F frames, H, W size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from PIL import Image
from plain_wan import WanWithAudio, with_audio
from timing import Case, agreed, alternate, arguments, positive, report
from torch import Tensor, nn

from humo import HuMoPipeline, HuMoTransformer3DModel
from humo.checkpoints.model_folder import BUILTIN_TEACHER
from humo.conditioning.audio import audio_windows
from humo.conditioning.image import decode_video, encode_blank, encode_references
from humo.geometry import Geometry
from humo.presets import HUMO_1_7B, HUMO_17B, HUMO_NANO, Preset, ReferenceInjection, find_preset
from humo.runtime.loading import load_pipeline

BOUND = 1e-4  # on max |difference| of the videos / max |video|, float32; each condition moves the video more than that
SEED, STEPS = 7, 10
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of a model and of its clip.

    Args:
        heads, head_dim: their product is the network's width.
        ffn_dim: inner width of the feed-forward.
        text_dim, text_length: the text's width and positions.
        audio_width, audio_token_dim: of a row of the audio encoder, and of an audio token.
        vae_dim: width of the autoencoder's first level.
        width, height: pixels.
        frames: 4k + 1.
    """

    heads: int
    head_dim: int
    ffn_dim: int
    text_dim: int
    text_length: int
    audio_width: int
    audio_token_dim: int
    vae_dim: int
    width: int
    height: int
    frames: int


SIZES = {
    "small": Size(6, 32, 1120, 256, 512, 80, 192, vae_dim=8, width=96, height=96, frames=25),
    "tiny": Size(2, 24, 64, 24, 32, 16, 20, vae_dim=4, width=32, height=32, frames=5),
}

Pass = Callable[[bool, bool, bool], Tensor]  # (text, image, audio) kept or not -> velocity
Guide = Callable[[Pass, float], Tensor]


def guide_17b(velocity: Pass, timestep: float) -> Tensor:
    """The published formula of HuMo-17B with all three conditions: three passes.

    **Source:** method.md, 5.
    """
    early = timestep > 980
    full, mute, base = velocity(True, True, True), velocity(True, True, False), velocity(False, early, False)
    return 5.5 * (full - mute) + (5.0 if early else 3.0) * (mute - base) + base


def guide_1_7b(velocity: Pass, timestep: float) -> Tensor:
    """The published formula of HuMo-1.7B with all three conditions: four passes.

    **Source:** method.md, 5.
    """
    return constant(velocity, text=7.5, audio=7.5, image=4.0)


def guide_nano(velocity: Pass, timestep: float) -> Tensor:
    """The same formula with the scales of the model inside the package."""
    return constant(velocity, text=2.0, audio=3.0, image=2.0)


def constant(velocity: Pass, text: float, audio: float, image: float) -> Tensor:
    """A term for each condition, the picture's on top."""
    full, faceless = velocity(True, True, True), velocity(True, False, True)
    mute, base = velocity(True, False, False), velocity(False, False, False)
    return image * (full - faceless) + audio * (faceless - mute) + text * (mute - base) + base


PUBLISHED: dict[str, Guide] = {
    HUMO_17B.name: guide_17b,
    HUMO_1_7B.name: guide_1_7b,
    HUMO_NANO.name: guide_nano,
}


@dataclass(frozen=True)
class Inputs:
    """What the video is made from: a picture, embeddings (1, L, D) of both prompts, audio rows (T, N, D)."""

    picture: Image.Image
    text: Tensor
    no_text: Tensor
    audio_rows: Tensor


def build(preset: Preset, size: Size, layers: int) -> HuMoPipeline:
    """A pipeline of that family with random weights; its inputs come as embeddings, so it has no encoders."""
    if preset is HUMO_NANO:
        whole = load_pipeline(BUILTIN_TEACHER, device="cpu")
        whole.set_progress_bar_config(disable=True)
        return whole
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = HuMoTransformer3DModel(
            num_attention_heads=size.heads,
            attention_head_dim=size.head_dim,
            in_channels=36 if preset.reference_injection is ReferenceInjection.CHANNEL_CONCAT else 16,
            text_dim=size.text_dim,
            text_length=size.text_length,
            ffn_dim=size.ffn_dim,
            num_layers=layers,
            audio_width=size.audio_width,
            audio_token_dim=size.audio_token_dim,
        ).eval()
        vae = AutoencoderKLWan(base_dim=size.vae_dim, num_res_blocks=1).eval()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    pipeline = HuMoPipeline(transformer, vae, None, None, None, None, scheduler, preset=preset.name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def inputs(size: Size, config: Any) -> Inputs:
    """Random ones; the prompts are shorter than the network's text length, as prompts are."""
    generator = torch.Generator().manual_seed(1)
    length, width = config.text_length, config.text_dim
    pixels = torch.randint(0, 256, (size.height, size.width, 3), generator=generator, dtype=torch.uint8)
    return Inputs(
        picture=Image.fromarray(pixels.numpy()),
        text=torch.randn(1, length // 4, width, generator=generator),
        no_text=torch.randn(1, length // 5, width, generator=generator),
        audio_rows=torch.randn(size.frames, config.audio_bands, config.audio_width, generator=generator),
    )


def by_pipeline(
    pipeline: HuMoPipeline, size: Size, steps: int, given: Inputs, *, batch_passes: bool | None = None
) -> Tensor:
    """The video (1, F, 3, H, W) in [0, 1], by HuMo's pipeline."""
    video: Tensor = pipeline(
        images=[given.picture],
        prompt_embeds=given.text,
        negative_prompt_embeds=given.no_text,
        audio_embeds=given.audio_rows,
        width=size.width,
        height=size.height,
        num_frames=size.frames,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(SEED),
        batch_passes=batch_passes,
        output_type="pt",
    ).frames
    return video


class PublishedLoop:
    """The same generation as the published code does it, around the plain network; autoencoder and solver are shared.

    The latents of the blank video are made once, here: the published code reads them from a file.
    """

    def __init__(self, pipeline: HuMoPipeline, network: WanWithAudio, size: Size) -> None:
        self.geometry = Geometry(size.width, size.height, size.frames, references=1)
        self.network, self.vae, self.preset = network, pipeline.vae, pipeline.preset
        self.text_length = pipeline.transformer.config.text_length
        shape = self.geometry.latent_frames, self.geometry.latent_height, self.geometry.latent_width
        self.blank_BCLHW = encode_blank(*shape, self.vae, CPU)

    @torch.no_grad()
    def __call__(self, steps: int, given: Inputs) -> Tensor:
        """The video (1, F, 3, H, W) in [0, 1]."""
        geometry, guide = self.geometry, PUBLISHED[self.preset.name]
        reference = encode_references([given.picture], self.vae, geometry.width, geometry.height, CPU)
        text, no_text = self._padded(given.text), self._padded(given.no_text)
        audio = audio_windows(given.audio_rows, geometry.video_latent_frames, geometry.reference_slots)[None]
        no_audio = torch.zeros_like(audio)
        join = (
            self._beside if self.preset.reference_injection is ReferenceInjection.CHANNEL_CONCAT else self._overwritten
        )

        latents = torch.randn(self.blank_BCLHW.shape, generator=torch.Generator().manual_seed(SEED))
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.preset.shift
        )
        scheduler.set_timesteps(sigmas=np.linspace(0.9990000128746033, 0.0, steps + 1)[:-1])
        for timestep in scheduler.timesteps:
            seen = {True: join(latents, reference), False: join(latents, None)}

            def velocity(
                with_text: bool, with_image: bool, with_audio: bool, time: Tensor = timestep, seen: Any = seen
            ) -> Tensor:
                out: Tensor = self.network(
                    seen[with_image],
                    time[None],
                    text if with_text else no_text,
                    audio if with_audio else no_audio,
                )
                return out

            total = guide(velocity, float(timestep))
            latents = scheduler.step(total, timestep, latents, return_dict=False)[0]
        video = decode_video(latents[:, :, : geometry.video_latent_frames], self.vae).clamp(-1, 1)
        return (video / 2 + 0.5).transpose(1, 2)

    def _padded(self, text_BLD: Tensor) -> Tensor:
        return F.pad(text_BLD, (0, 0, 0, self.text_length - text_BLD.shape[1]))

    def _beside(self, latents_BCLHW: Tensor, reference: Tensor | None) -> Tensor:
        """The picture's latents and a mask of its slot as further channels: HuMo-17B."""
        image, mask = self.blank_BCLHW.clone(), torch.zeros_like(self.blank_BCLHW[:, :4])
        mask[:, :, -1] = 1
        if reference is not None:
            image[:, :, -1:] = reference
        return torch.cat([latents_BCLHW, mask, image], dim=1)

    def _overwritten(self, latents_BCLHW: Tensor, reference: Tensor | None) -> Tensor:
        """The picture's latents in place of the last frame: HuMo-1.7B."""
        whole = latents_BCLHW.clone()
        whole[:, :, -1:] = 0 if reference is None else reference
        return whole


def counted(network: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What a run gives, and how often it passed through the network."""
    passes: list[None] = []
    handle = network.register_forward_hook(lambda *_: passes.append(None))
    output = run()
    handle.remove()
    return output, len(passes)


def compare(preset: Preset, size: Size, layers: int, steps: int, rounds: int) -> Case:
    """Check that the videos agree, then time."""
    pipeline = build(preset, size, layers)
    network = with_audio(pipeline.transformer)
    loop, given = PublishedLoop(pipeline, network, size), inputs(size, pipeline.transformer.config)
    contestants: dict[str, Callable[[], Tensor]] = {
        "humo": lambda: by_pipeline(pipeline, size, steps, given),
        "published loop": lambda: loop(steps, given),
        "humo, pass by pass": lambda: by_pipeline(pipeline, size, steps, given, batch_passes=False),
    }
    video = contestants["humo"]()
    one_by_one, passes = counted(pipeline.transformer, contestants["humo, pass by pass"])
    published, published_passes = counted(network, contestants["published loop"])
    apart = {
        "published loop": agreed(published, video, BOUND),
        "humo, pass by pass": agreed(one_by_one, video, BOUND),
    }
    return Case(
        name=f"generation, {preset.name}, {passes} passes against {published_passes}",
        settings={
            **asdict(size),
            "tokens": loop.geometry.tokens,
            "layers": pipeline.transformer.config.num_layers,
            "steps": steps,
            "passes": passes,
            "published_passes": published_passes,
            "rounds": rounds,
        },
        differences=apart,
        seconds=alternate(contestants, rounds),
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    parser = arguments(__doc__, rounds=5, layers=6)
    parser.add_argument("--family", choices=[*PUBLISHED, "both"], default="both", help="both, or one, or humo-nano")
    parser.add_argument("--steps", type=positive, help="denoising steps (default 10; of humo-nano its own 16)")
    parser.add_argument("--size", choices=SIZES, default="small", help="tiny is for trying out (default small)")
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    families = [HUMO_17B.name, HUMO_1_7B.name] if options.family == "both" else [options.family]
    cases = []
    for name in families:
        preset = find_preset(name)
        steps = options.steps or (preset.steps if preset is HUMO_NANO else STEPS)
        cases.append(compare(preset, SIZES[options.size], options.layers, steps, options.rounds))
    return report("generation", cases, options.json)


if __name__ == "__main__":
    main()
