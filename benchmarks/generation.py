"""Time of a small generation by HuMo's pipeline, compared with the published loop around diffusers' Wan transformer.

    python benchmarks/generation.py
    python benchmarks/generation.py --family humo-1.7b --steps 20 --rounds 9 --json generation.json
    python benchmarks/generation.py --family humo-nano --threads 2     # the built-in teacher

A prompt, a reference image and audio (prompt and audio as embeddings) become a video of 25 frames of 96 x 96 pixels.
The published loop runs every pass of its guidance formula. Before anything is timed, both videos must agree.

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
from diffusers_baseline import WanWithAudio, with_audio
from PIL import Image
from timing import Case, alternate, arguments, check_equal, positive, report
from torch import Tensor, nn

from humo import HuMoPipeline, HuMoTransformer3DModel
from humo.checkpoints.model_folder import BUILTIN_TEACHER
from humo.conditioning.audio import audio_windows
from humo.conditioning.image import decode_video, encode_blank, encode_references
from humo.geometry import Geometry
from humo.presets import HUMO_1_7B, HUMO_17B, HUMO_NANO, Preset, ReferenceInjection, find_preset
from humo.runtime.loading import load_pipeline

BOUND = 1e-4
"""Largest allowed max |difference| / max |video| in float32; each condition changes the video more than that."""

SEED, STEPS = 7, 10
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of a model and of its clip.

    Args:
        heads, head_dim: their product is the network's width.
        ffn_dim: inner width of the feed-forward.
        text_dim, text_length: the text's width and positions.
        audio_width, audio_token_dim: width of the audio encoder's features, and of an audio token.
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

Pass = Callable[[bool, bool, bool], Tensor]
"""(text, image, audio), each kept or null -> velocity."""

Guide = Callable[[Pass, float], Tensor]


def guide_17b(velocity: Pass, timestep: float) -> Tensor:
    """Apply the published guidance of HuMo-17B with all three conditions: three passes.

    **Source:** `forward_tia` in ``humo/generate.py`` of github.com/Phantom-video/HuMo at 17094e9; paper
    (arXiv 2509.08519), time-adaptive classifier-free guidance.
    """
    early = timestep > 980
    full, no_audio, base = velocity(True, True, True), velocity(True, True, False), velocity(False, early, False)
    return 5.5 * (full - no_audio) + (5.0 if early else 3.0) * (no_audio - base) + base


def guide_1_7b(velocity: Pass, timestep: float) -> Tensor:
    """Apply the published guidance of HuMo-1.7B with all three conditions: four passes.

    **Source:** `forward_tia` in ``humo/generate_1_7B.py`` of github.com/Phantom-video/HuMo at 17094e9.
    """
    return constant_guidance(velocity, text=7.5, audio=7.5, image=4.0)


def guide_nano(velocity: Pass, timestep: float) -> Tensor:
    """Apply the same formula with the scales of the built-in model."""
    return constant_guidance(velocity, text=2.0, audio=3.0, image=2.0)


def constant_guidance(velocity: Pass, text: float, audio: float, image: float) -> Tensor:
    """Add one scaled difference for each condition: text, audio, then image."""
    full, no_image = velocity(True, True, True), velocity(True, False, True)
    text_only, base = velocity(True, False, False), velocity(False, False, False)
    return image * (full - no_image) + audio * (no_image - text_only) + text * (text_only - base) + base


PUBLISHED: dict[str, Guide] = {
    HUMO_17B.name: guide_17b,
    HUMO_1_7B.name: guide_1_7b,
    HUMO_NANO.name: guide_nano,
}


@dataclass(frozen=True)
class Inputs:
    """Inputs of a video.

    Args:
        image: reference image.
        prompt_embeds, negative_prompt_embeds: (1, L, D).
        audio_embeds: (T, N, D).
    """

    image: Image.Image
    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor
    audio_embeds: Tensor


def build(preset: Preset, size: Size, layers: int) -> HuMoPipeline:
    """Return a pipeline of a family with random weights, without encoders because its inputs are embeddings."""
    if preset is HUMO_NANO:
        pipeline = load_pipeline(BUILTIN_TEACHER, device="cpu")
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
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


def random_inputs(size: Size, config: Any) -> Inputs:
    """Return random inputs, with prompts shorter than the network's text length."""
    generator = torch.Generator().manual_seed(1)
    length, width = config.text_length, config.text_dim
    pixels = torch.randint(0, 256, (size.height, size.width, 3), generator=generator, dtype=torch.uint8)
    return Inputs(
        image=Image.fromarray(pixels.numpy()),
        prompt_embeds=torch.randn(1, length // 4, width, generator=generator),
        negative_prompt_embeds=torch.randn(1, length // 5, width, generator=generator),
        audio_embeds=torch.randn(size.frames, config.audio_bands, config.audio_width, generator=generator),
    )


def run_pipeline(
    pipeline: HuMoPipeline, size: Size, steps: int, inputs: Inputs, *, batch_passes: bool | None = None
) -> Tensor:
    """Return the video (1, F, 3, H, W) in [0, 1] of HuMo's pipeline."""
    video: Tensor = pipeline(
        images=[inputs.image],
        prompt_embeds=inputs.prompt_embeds,
        negative_prompt_embeds=inputs.negative_prompt_embeds,
        audio_embeds=inputs.audio_embeds,
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
    """The published denoising loop around diffusers' network; autoencoder and solver are the pipeline's.

    The latents of the blank video are computed once in the constructor, as the published code reads them from a file.
    """

    def __init__(self, pipeline: HuMoPipeline, network: WanWithAudio, size: Size) -> None:
        self.geometry = Geometry(size.width, size.height, size.frames, references=1)
        self.network, self.vae, self.preset = network, pipeline.vae, pipeline.preset
        self.text_length = pipeline.transformer.config.text_length
        shape = self.geometry.latent_frames, self.geometry.latent_height, self.geometry.latent_width
        self.blank_BCLHW = encode_blank(*shape, self.vae, CPU)

    @torch.no_grad()
    def __call__(self, steps: int, inputs: Inputs) -> Tensor:
        """Return the video (1, F, 3, H, W) in [0, 1]."""
        geometry, guide = self.geometry, PUBLISHED[self.preset.name]
        reference = encode_references([inputs.image], self.vae, geometry.width, geometry.height, CPU)
        text, no_text = self._padded(inputs.prompt_embeds), self._padded(inputs.negative_prompt_embeds)
        audio = audio_windows(inputs.audio_embeds, geometry.video_latent_frames, geometry.reference_slots)[None]
        no_audio = torch.zeros_like(audio)
        join = (
            self._concat_channels
            if self.preset.reference_injection is ReferenceInjection.CHANNEL_CONCAT
            else self._replace_frame
        )

        latents = torch.randn(self.blank_BCLHW.shape, generator=torch.Generator().manual_seed(SEED))
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.preset.shift
        )
        scheduler.set_timesteps(sigmas=np.linspace(0.9990000128746033, 0.0, steps + 1)[:-1])
        for timestep in scheduler.timesteps:
            model_inputs = {True: join(latents, reference), False: join(latents, None)}

            def velocity(
                with_text: bool,
                with_image: bool,
                with_audio: bool,
                time: Tensor = timestep,
                model_inputs: Any = model_inputs,
            ) -> Tensor:
                out: Tensor = self.network(
                    model_inputs[with_image],
                    time[None],
                    text if with_text else no_text,
                    audio if with_audio else no_audio,
                )
                return out

            guided = guide(velocity, float(timestep))
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        video = decode_video(latents[:, :, : geometry.video_latent_frames], self.vae).clamp(-1, 1)
        return (video / 2 + 0.5).transpose(1, 2)

    def _padded(self, text_BLD: Tensor) -> Tensor:
        return F.pad(text_BLD, (0, 0, 0, self.text_length - text_BLD.shape[1]))

    def _concat_channels(self, latents_BCLHW: Tensor, reference: Tensor | None) -> Tensor:
        """Concatenate the reference latents and a mask of their frame as further channels (HuMo-17B)."""
        image, mask = self.blank_BCLHW.clone(), torch.zeros_like(self.blank_BCLHW[:, :4])
        mask[:, :, -1] = 1
        if reference is not None:
            image[:, :, -1:] = reference
        return torch.cat([latents_BCLHW, mask, image], dim=1)

    def _replace_frame(self, latents_BCLHW: Tensor, reference: Tensor | None) -> Tensor:
        """Replace the last latent frame with the reference latents (HuMo-1.7B)."""
        whole = latents_BCLHW.clone()
        whole[:, :, -1:] = 0 if reference is None else reference
        return whole


def counted(network: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Return the output of a run, and how many passes of the network it made."""
    passes: list[None] = []
    handle = network.register_forward_hook(lambda *_: passes.append(None))
    output = run()
    handle.remove()
    return output, len(passes)


def compare(preset: Preset, size: Size, layers: int, steps: int, rounds: int) -> Case:
    """Check that the videos agree, then time them."""
    pipeline = build(preset, size, layers)
    network = with_audio(pipeline.transformer)
    loop, inputs = PublishedLoop(pipeline, network, size), random_inputs(size, pipeline.transformer.config)
    candidates: dict[str, Callable[[], Tensor]] = {
        "humo": lambda: run_pipeline(pipeline, size, steps, inputs),
        "published loop": lambda: loop(steps, inputs),
        "humo, one pass at a time": lambda: run_pipeline(pipeline, size, steps, inputs, batch_passes=False),
    }
    video = candidates["humo"]()
    pass_by_pass, passes = counted(pipeline.transformer, candidates["humo, one pass at a time"])
    published_video, published_passes = counted(network, candidates["published loop"])
    differences = {
        "published loop": check_equal(published_video, video, BOUND),
        "humo, one pass at a time": check_equal(pass_by_pass, video, BOUND),
    }
    return Case(
        name=f"generation, {preset.name}, {passes} passes compared with {published_passes}",
        settings={
            **asdict(size),
            "tokens": loop.geometry.tokens,
            "layers": pipeline.transformer.config.num_layers,
            "steps": steps,
            "passes": passes,
            "published_passes": published_passes,
            "rounds": rounds,
        },
        differences=differences,
        seconds=alternate(candidates, rounds),
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, and return its measurements."""
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
