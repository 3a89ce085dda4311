"""Clips longer than one window: the windows, the prefix from one to the next, resuming an interrupted run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.configuration_utils import FrozenDict
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from humo import HuMoPipeline
from humo.errors import RequestError
from humo.geometry import Window, split_into_windows
from humo.inference.denoise import PrefixLatents
from humo.inference.inputs import GenerationInputs
from humo.inference.long_video import overlap_weights, window_noise
from humo.inference.predictor import VelocityPredictor
from humo.inference.window_cache import DiskWindowCache
from humo.model.autoencoder import ShortcutAutoencoder, StreamingDecoder, StreamingEncoder, to_blocks
from humo.plan import GenerationPlan, resolve
from humo.progress import Event
from humo.request import parse_request
from tests.calls import HEIGHT, RED, WIDTH, tone


@given(st.integers(1, 400), st.integers(2, 30), st.data())
def test_windows_cover_a_clip_and_have_the_overlap(latents: int, longest: int, data: st.DataObject) -> None:
    shared = data.draw(st.integers(0, longest - 2))
    windows = split_into_windows(latents, longest, shared)
    assert windows[0].start == 0
    assert windows[-1].end == latents
    assert all(1 <= one.latent_frames <= longest for one in windows)
    for before, after in itertools.pairwise(windows):
        assert after.start + 1 + after.overlap == before.end, "the anchor frame, then the overlap"
        assert after.latent_frames > 1 + shared, "new latent frames"
    longer = split_into_windows(latents + 50, longest, shared)
    assert longer[: len(windows) - 1] == windows[:-1], "windows do not depend on the length of the clip after them"


def test_an_overlap_without_new_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="leave nothing new"):
        split_into_windows(20, 7, 6)


def test_noise_depends_on_the_latent_frame_only() -> None:
    first = torch.randn(2, 3, 7 + 1, 2, 2, generator=torch.Generator().manual_seed(0))
    seeds = [(5, 0), (5, 1)]
    assert window_noise(first, Window(0, 7), 1, seeds).equal(first)
    one, other = (window_noise(first, window, 1, seeds) for window in (Window(4, 7), Window(8, 5)))
    assert one[:, :, :3].equal(first[:, :, 4:7])
    assert one[:, :, 4:7].equal(other[:, :, :3]), "latent frames 8 to 10 in both"
    assert one[:, :, -1:].equal(first[:, :, -1:])
    assert not one[0, :, 4].equal(one[1, :, 4])
    everything = torch.cat([window_noise(first, Window(0, 7), 1, seeds), one[:, :, 3:]], dim=2)
    assert abs(float(everything.mean())) < 0.2
    assert 0.9 < float(everything.std()) < 1.1


def test_prefix_latents_are_blended_by_their_weights() -> None:
    random = torch.Generator().manual_seed(0)
    noisy, velocity = torch.randn(2, 1, 3, 6, 2, 2, generator=random)
    known = torch.randn(1, 3, 3, 2, 2, generator=random)
    level = torch.tensor(0.7)
    blended = PrefixLatents(known, torch.tensor([1.0, 0.5, 0.0])).blend(velocity, noisy, level)
    data, plain = noisy - level * blended, noisy - level * velocity
    assert torch.allclose(data[:, :, 0], known[:, :, 0], atol=1e-6)
    assert torch.allclose(data[:, :, 1], (known[:, :, 1] + plain[:, :, 1]) / 2, atol=1e-6)
    assert torch.allclose(data[:, :, 2:], plain[:, :, 2:], atol=1e-6)
    assert overlap_weights(4).tolist() == [1.0, 1.0, 0.75, 0.5, 0.25]
    assert overlap_weights(0).tolist() == [1.0]


class RecordingCache:
    """Records every window, and returns none."""

    def __init__(self) -> None:
        self.windows: list[torch.Tensor] = []

    def get(self, number: int) -> torch.Tensor | None:
        return None

    def put(self, number: int, latents: torch.Tensor) -> None:
        self.windows.append(latents)


def test_a_continuation_network_receives_the_prefix_latents(
    pipeline: HuMoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second window on the prefix is clean at every step and stays; the mean of the first window stays too."""
    plan = plan_of(pipeline, 25)
    inputs: list[torch.Tensor] = []
    run_pass, config = VelocityPredictor._run_pass, pipeline.transformer.config

    def record(predictor: VelocityPredictor, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        inputs.append(latents)
        return run_pass(predictor, latents, *rest)

    monkeypatch.setattr(VelocityPredictor, "_run_pass", record)
    monkeypatch.setattr(pipeline.transformer, "_internal_dict", FrozenDict(config | {"continuation": True}))
    recording = RecordingCache()
    segments = list(pipeline.generate_from_seed(GenerationInputs(plan, [RED], AUDIO), window_cache=recording))
    window, after = plan.windows[0], plan.windows[1]
    passes = len(inputs) // len(plan.windows)
    known = inputs[passes][:, :, : 1 + after.overlap]
    assert all(latents[:, :, : 1 + after.overlap].equal(known) for latents in inputs[passes : 2 * passes])
    assert not inputs[1][:, :, :1].equal(inputs[passes - 1][:, :, :1])
    assert window.latent_frames - after.overlap == segments[0].latents.shape[2]
    assert torch.allclose(segments[1].latents[:, :, : after.overlap], known[:, :, 1:], atol=1e-5)
    mean = recording.windows[0].mean(dim=(2, 3, 4))
    for latents, window in zip(recording.windows[1:], plan.windows[1:], strict=True):
        assert torch.allclose(latents[:, :, 1 + window.overlap :].mean(dim=(2, 3, 4)), mean, atol=1e-5)


@pytest.mark.parametrize("parts", [[1] * 6, [2, 4], [1, 3, 2]])
def test_decoding_in_pieces_equals_decoding_at_once(pipeline: HuMoPipeline, parts: list[int]) -> None:
    torch.manual_seed(0)
    small = ShortcutAutoencoder(base_dim=4, decoder_base_dim=4, z_dim=8, deblocking=(0.1, 0.5)).eval()
    for vae in (pipeline.vae, small):
        latents = torch.randn(1, vae.config.z_dim, 6, 4, 2)
        with torch.no_grad():
            whole = vae.decode(latents).sample
            decoder = StreamingDecoder(vae)
            pieces = [decoder(part) for part in latents.split(parts, dim=2)]
        assert [piece.shape[2] for piece in pieces] == [4 * parts[0] - 3, *(4 * count for count in parts[1:])]
        assert torch.allclose(torch.cat(pieces, dim=2), whole, atol=1e-5)


def test_deblocked_frames_are_clipped() -> None:
    torch.manual_seed(0)
    vae = ShortcutAutoencoder(base_dim=4, decoder_base_dim=4, z_dim=8, deblocking=(1.0, 2.0)).eval()
    with torch.no_grad():
        video = vae.decode(20 * torch.randn(1, 8, 4, 2, 2)).sample
    assert video.abs().max() == 1.0


@pytest.mark.parametrize("parts", [[1, 4, 4, 8], [9, 8], [17]])
def test_encoding_in_pieces_equals_encoding_at_once(pipeline: HuMoPipeline, parts: list[int]) -> None:
    torch.manual_seed(0)
    small = ShortcutAutoencoder(base_dim=4, decoder_base_dim=4, z_dim=8).eval()
    video = torch.rand(1, 3, sum(parts), 32, 16) * 2 - 1
    for vae in (pipeline.vae, small):
        with torch.no_grad():
            whole = AutoencoderKLWan._encode(vae, video).chunk(2, dim=1)[0]
            if vae is small:
                whole = whole + vae.linear_encoder(to_blocks(video)).movedim(-1, 1)
            encoder = StreamingEncoder(vae)
            pieces = [encoder(part) for part in video.split(parts, dim=2)]
        assert torch.allclose(torch.cat(pieces, dim=2), whole, atol=1e-5)


def test_streaming_moves_offloaded_weights_to_their_device() -> None:
    """accelerate's hook runs when the autoencoder itself is called, which streaming does not do."""
    called: list[nn.Module] = []

    class Waiting:
        def pre_forward(self, module: nn.Module) -> None:
            called.append(module)

    vae = ShortcutAutoencoder(base_dim=4, decoder_base_dim=4, z_dim=8).eval()
    vae._hf_hook = Waiting()
    with torch.no_grad():
        StreamingDecoder(vae)(StreamingEncoder(vae)(torch.zeros(1, 3, 1, 16, 16)))
    assert called == [vae, vae]


AUDIO = tone(57)


def plan_of(pipeline: HuMoPipeline, frames: int, **fields: object) -> GenerationPlan:
    request = {"prompt": "x", "images": ["red"], "audio": "speech", "steps": 3, "window": 13, "overlap": 4, "seed": 3}
    request |= {"width": WIDTH, "height": HEIGHT, "frames": frames, **fields}
    return resolve(parse_request(request), pipeline.preset, len(AUDIO))


def frames_of(pipeline: HuMoPipeline, plan: GenerationPlan, **options: Any) -> list[NDArray[np.uint8]]:
    return list(pipeline.generate_frames(GenerationInputs(plan, [RED], AUDIO), **options))


def test_a_long_clip_has_all_frames_and_its_start_does_not_depend_on_its_length(pipeline: HuMoPipeline) -> None:
    """The first window equals the short clip, except for the overlap, which the second window generates again."""
    long = frames_of(pipeline, plan_of(pipeline, 41))
    assert len(long) == 41
    assert {frame.shape for frame in long} == {(HEIGHT, WIDTH, 3)}
    longer = frames_of(pipeline, plan_of(pipeline, 57))
    assert all(np.array_equal(one, other) for one, other in zip(long[:33], longer[:33], strict=True))
    plain = frames_of(pipeline, plan_of(pipeline, 13))
    assert all(np.array_equal(one, other) for one, other in zip(long[:9], plain[:9], strict=True))


def test_a_clip_that_fits_one_window_equals_one_without_windows(pipeline: HuMoPipeline) -> None:
    fits, alone = plan_of(pipeline, 13), plan_of(pipeline, 13, window=None, overlap=None)
    assert len(fits.windows) == len(alone.windows) == 1
    assert np.array_equal(frames_of(pipeline, fits), frames_of(pipeline, alone))


def test_every_window_gets_its_own_part_of_the_audio(pipeline: HuMoPipeline) -> None:
    plan = plan_of(pipeline, 41)
    conditions = pipeline.prepare_conditions(GenerationInputs(plan, [RED], AUDIO))
    slots = plan.geometry.reference_slots
    assert conditions.audio.shape[1] == 11 + slots
    for window in plan.windows:
        part = conditions.within(window, slots)
        assert part.audio[:, :-slots].equal(conditions.audio[:, window.start : window.end])
        assert not part.audio[:, -slots:].any()
        latents = pipeline.prepare_latents(plan.window_geometry, torch.Generator())[
            :, :, : window.latent_frames + slots
        ]
        assert part.image.shape[2] in (slots, latents.shape[2])


def test_progress_counts_the_steps_of_all_windows(pipeline: HuMoPipeline) -> None:
    events: list[Event] = []
    plan = plan_of(pipeline, 25)
    frames_of(pipeline, plan, callback=events.append)
    assert len(plan.windows) == 3
    assert [event.done for event in events if event.phase == "denoise"] == list(range(10))
    assert {event.total for event in events if event.phase == "denoise"} == {9}
    assert events[-1] == Event("decode", 3, 3)


def test_a_long_clip_may_end_early(pipeline: HuMoPipeline) -> None:
    """The clean latents predicted in the second window are the end of the clip."""
    events: list[Event] = []
    plan = plan_of(pipeline, 41)
    frames = frames_of(pipeline, plan, callback=events.append, should_stop=lambda: events[-1].done == 4)
    assert len(frames) == 9 + 12, "the first window's finished frames, and the second's"


def test_an_interrupted_run_resumes_from_its_last_window(pipeline: HuMoPipeline, tmp_path: Path) -> None:
    plan = plan_of(pipeline, 41)
    whole = frames_of(pipeline, plan)

    class StoppedError(Exception):
        pass

    steps: list[int] = []

    def stop(event: Event) -> None:
        if event.phase == "denoise" and event.done:
            steps.append(event.done)
            if event.done == 8:
                raise StoppedError

    window_cache = DiskWindowCache(tmp_path / "windows", "this clip")
    with pytest.raises(StoppedError):
        frames_of(pipeline, plan, callback=stop, window_cache=window_cache)
    assert len(list((tmp_path / "windows").iterdir())) == 2
    resumed_events: list[Event] = []
    resumed = frames_of(pipeline, plan, callback=resumed_events.append, window_cache=window_cache)
    assert np.array_equal(resumed, whole)
    assert next(event.done for event in resumed_events if event.phase == "denoise" and event.done) == 7
    other = DiskWindowCache(tmp_path / "windows", "another clip")
    assert other.get(0) is None, "windows of another clip are ignored"
    (tmp_path / "windows" / "00000.safetensors").write_bytes(b"cut")
    assert window_cache.get(0) is None
    window_cache.clear()
    assert not (tmp_path / "windows").exists()


def test_a_pipeline_call_generates_long_clips_too(pipeline: HuMoPipeline) -> None:
    plan = plan_of(pipeline, 25)
    expected = frames_of(pipeline, plan)
    output = pipeline(
        "x",
        images=[RED],
        audio=AUDIO,
        width=WIDTH,
        height=HEIGHT,
        num_frames=25,
        num_inference_steps=3,
        window=13,
        overlap=4,
        generator=torch.Generator().manual_seed(3),
    )
    assert np.array_equal([np.asarray(frame) for frame in output.frames[0]], expected)
    with pytest.raises(RequestError, match=r"^window: 20 frames are not 4k \+ 1"):
        pipeline("x", num_frames=25, window=20)
