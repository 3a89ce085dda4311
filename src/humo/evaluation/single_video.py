"""``humo evaluate clip``: one finished video: faces, lips against its own sound, the person against a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from humo.checkpoints.model_folder import EMBEDDED
from humo.conditioning.audio import encode_audio
from humo.errors import CheckpointError, MediaError
from humo.evaluation.face_mesh import FaceMesh
from humo.evaluation.lip_sync import implied_jaw
from humo.evaluation.metrics import LEAST_MOTION, correlation, lagged, watch
from humo.geometry import FRAMES_PER_SECOND
from humo.media.audio import load_sound
from humo.media.face_identity import FaceIdentity
from humo.media.image import load_image
from humo.media.video import has_sound, read_video

BANDS = 5
"""Of the audio encoder's states, as the network hears them."""


def measure_clip(path: Path, picture: Path | None = None) -> dict[str, float]:
    """What can be measured of a video without any truth.

    Args:
        path: 25 frames a second.
        picture: of the person it should show.

    Returns:
        ``faces``: share of frames with a face; where there is a sound, ``lips``: correlation of the mouth with the jaw
        that the sound implies, and ``lips_best_lag`` in frames (positive: the picture is late); where there is a
        picture, ``identity_distance``: below 0.4 the same person, above 0.6 another (dlib's 128 numbers).

    Raises:
        MediaError: a file cannot be read, or shows no face.
    """
    shown = read_video(path, field="FILE")
    if abs(shown.frames_per_second - FRAMES_PER_SECOND) > 0.01:
        rate = f"{shown.frames_per_second:g} frames a second"
        raise MediaError("FILE", f"{path.name!r} has {rate}", f"give one of {FRAMES_PER_SECOND}")
    watched = watch(shown.frames, FaceMesh())
    figures: dict[str, float] = {"faces": round(watched.found, 4)}
    mouth = watched.mouth
    if has_sound(path, field="FILE") and mouth is not None:
        jaw = implied_jaw(_rows(load_sound(path, field="FILE")))[: len(mouth)]
        if jaw.std() > LEAST_MOTION:
            lags = lagged(mouth, jaw)
            figures["lips"] = round(correlation(mouth, jaw), 4)
            figures["lips_best_lag"] = max(lags, key=lambda lag: lags[lag])
    if picture is not None:
        who = FaceIdentity()
        own, wanted = who.embed_all(shown.frames), who.embed(np.asarray(load_image(picture)))
        if wanted is None:
            raise MediaError("--image", f"{picture.name!r} shows no face that is found", "give another")
        if own is not None:
            figures["identity_distance"] = round(float(np.linalg.norm(own - wanted)), 4)
    return figures


def _rows(sound: Any) -> Any:
    """What the embedded model hears of a sound."""
    from transformers import WhisperFeatureExtractor
    from transformers.utils import logging

    from humo.model.audio import SpeechEncoder

    logging.disable_progress_bar()
    try:
        encoder: Any = SpeechEncoder.from_pretrained(str(EMBEDDED / "audio_encoder")).float().eval()
        extractor = WhisperFeatureExtractor.from_pretrained(str(EMBEDDED / "feature_extractor"))
    except OSError as error:
        raise CheckpointError("model", "the embedded audio encoder is missing", "install the whole package") from error
    return encode_audio(sound, extractor, encoder, BANDS)
