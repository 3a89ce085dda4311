"""Input files of a job, each decoded once: where their length is needed first, and used again where they are encoded.

No torch.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from humo.errors import DependencyError
from humo.geometry import FRAMES_PER_SECOND, frames_of_seconds, round_up_frames

if TYPE_CHECKING:
    from PIL.Image import Image

    from humo.media.audio import AudioSamples, AudioTrack, DecodedAudio
    from humo.request import GenerateRequest


SILENCE = 1e-3
"""Largest amplitude, of 1, of silent audio."""


@dataclass(frozen=True, eq=False)
class JobInputs:
    """Decoded input files.

    Args:
        images: RGB reference images, in order.
        audio: the audio file, or None.
    """

    images: tuple[Image, ...] = ()
    audio: DecodedAudio | None = None

    @property
    def num_audio_samples(self) -> int | None:
        """Length of the audio in samples at 16 kHz, or None without audio."""
        return None if self.audio is None else len(self.audio.samples)

    @property
    def is_silent(self) -> bool:
        """True if there is audio, and it is too quiet for anybody to notice."""
        return self.audio is not None and float(abs(self.audio.samples).max(initial=0.0)) < SILENCE

    @property
    def num_bytes(self) -> int:
        """Memory that the inputs take."""
        images = sum(3 * image.width * image.height for image in self.images)
        return images + (0 if self.audio is None else self.audio.samples.nbytes + self.audio.track.samples.nbytes)

    def network_audio(self, separator: str | None) -> AudioSamples | None:
        """Return the samples (n,) at 16 kHz that the network follows, or None without audio.

        Args:
            separator: ONNX file of a vocal separator; with one, the samples are those of the voice alone.
        """
        if self.audio is None or separator is None:
            return None if self.audio is None else self.audio.samples
        from humo.conditioning.vocal_separation import VocalSeparator
        from humo.media.audio import load_audio, mix

        track = self.audio.track
        vocals = VocalSeparator(separator).separate(mix(track.samples, 2), track.sample_rate)
        return load_audio((vocals, track.sample_rate), field="audio")

    def video_audio(self, seconds: float) -> AudioTrack | None:
        """Return the track of a video of that length, or None without audio."""
        return None if self.audio is None else self.audio.track.fit(seconds)


def load_inputs(request: GenerateRequest) -> JobInputs:
    """Decode the files that a request's mode uses.

    Raises:
        MediaError: a file cannot be read.
    """
    from humo.media.audio import decode_audio
    from humo.media.image import load_image

    mode = request.mode or "TIA"
    images = tuple(load_image(path, field="images") for path in request.images) if "I" in mode else ()
    if request.audio is None or "A" not in mode:
        return JobInputs(images)
    return JobInputs(images, decode_audio(request.audio, track_seconds=_track_seconds(request), field="audio"))


def stored_audio_length(request: GenerateRequest) -> int | None:
    """Check that a request's files exist, and return its audio's length in samples at 16 kHz, without decoding.

    Args:
        request: its audio is a WAV file that this program wrote, so that its header can be trusted.

    Raises:
        MediaError: a file is missing.
    """
    from humo.files import check_file
    from humo.media.audio import wav_length

    mode = request.mode or "TIA"
    for path in request.images if "I" in mode else ():
        check_file(Path(path), "images")
    return None if request.audio is None or "A" not in mode else wav_length(Path(request.audio), field="audio")


def _track_seconds(request: GenerateRequest) -> float:
    """Seconds of the audio track that the video or the vocal separator needs at most."""
    if request.vocal_separator is not None:
        return math.inf
    if request.frames is not None:
        return request.frames / FRAMES_PER_SECOND
    if request.seconds is not None:
        return round_up_frames(frames_of_seconds(request.seconds)) / FRAMES_PER_SECOND
    return math.inf


def check_separator(path: str) -> None:
    """Refuse a vocal separator that cannot be run.

    Raises:
        MediaError: there is no such file.
        DependencyError: onnxruntime is not installed.
    """
    from humo.files import check_file

    check_file(Path(path), "vocal_separator")
    if importlib.util.find_spec("onnxruntime") is None:
        problem = "needs onnxruntime, which is not installed"
        raise DependencyError("vocal_separator", problem, "pip install 'humo-video[vocals]'")
