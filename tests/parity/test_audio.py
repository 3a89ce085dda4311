"""Audio features and windows equal the published ones; the rows of a short clip equal those of the whole audio."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from humo.conditioning.audio import _resample, _step, audio_windows, encode_audio
from humo.geometry import Geometry, audio_rows, audio_rows_needed, encoder_rows
from humo.media.audio import load_audio
from tests.parity.published import Golden, within

BANDS = 5


def test_features_and_windows_equal_the_published_ones(published: Golden) -> None:
    vectors = published.tensors("audio")
    for seconds in published.meta["audio_seconds"]:
        audio = load_audio(published.folder / f"sound_{seconds}s.wav")
        bands = vectors[f"features_{seconds}s"].shape[1]
        rows = encode_audio(audio, published.feature_extractor, published.audio_encoder, bands)
        assert within(1e-6, f"audio features, {seconds} s", rows, vectors[f"features_{seconds}s"])
        prefix = f"window_{seconds}s_"
        names = [name for name in vectors if name.startswith(prefix)]
        assert names
        for name in names:
            frames = int(name.removeprefix(prefix).removesuffix("f"))
            latents = Geometry(16, 16, frames).video_latent_frames
            windows = audio_windows(rows, latents, slots=0)
            assert within(1e-6, f"audio {name}", windows[..., : vectors[name].shape[-1]], vectors[name])


def test_the_rows_of_a_short_clip_equal_those_of_the_whole_audio(published: Golden) -> None:
    seconds = max(published.meta["audio_seconds"])
    audio = load_audio(published.folder / f"sound_{seconds}s.wav")
    whole = encode_audio(audio, published.feature_extractor, published.audio_encoder, BANDS)
    for frames in (1, 13, 97, len(whole) - 40):
        rows = audio_rows_needed(frames)
        part = encode_audio(audio, published.feature_extractor, published.audio_encoder, BANDS, rows)
        assert torch.equal(part, whole[:rows])


@pytest.mark.parametrize("samples", [640, 1280, 1919, 51_200, 507_200, 1_012_800, 57_600_000])
def test_resampling_is_torchs_interpolation_with_aligned_corners(samples: int) -> None:
    fast = encoder_rows(samples)
    slow = audio_rows(fast)
    rows = torch.randn(fast, 2, 3, generator=torch.Generator().manual_seed(samples))
    expected = F.interpolate(rows.flatten(1).T[None], size=slow, mode="linear", align_corners=True)[0].T
    ours = _resample(rows, _step(fast, slow), slow)
    assert torch.allclose(ours.flatten(1), expected, rtol=0, atol=2e-6)


def test_reference_slots_and_rows_outside_the_audio_are_zero() -> None:
    rows = torch.ones(20, BANDS, 2)
    windows = audio_windows(rows, latents=6, slots=2)
    assert windows.shape == (8, 8, BANDS, 2)
    mask = windows[:, :, 0, 0].numpy()
    assert np.array_equal(mask[0], [0, 0, 0, 0, 0, 1, 1, 1])
    assert np.array_equal(mask[1], [0, 1, 1, 1, 1, 1, 1, 1])
    assert np.array_equal(mask[5], [1, 1, 1, 1, 1, 0, 0, 0])
    assert not mask[6:].any()
