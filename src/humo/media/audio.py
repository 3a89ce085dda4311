"""Sound in: any file FFmpeg's libraries read, as mono 16 kHz for the network and as it was for the finished video."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soxr
from av.container import InputContainer

from humo.errors import MediaError
from humo.files import check_file, os_error_text
from humo.geometry import SAMPLE_RATE
from humo.limits import MAX_AUDIO_SECONDS

CONTAINERS = (
    "aac,ac3,aiff,amr,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,nut,ogg,w64,wav,webm,wv,3gp,m4a,mp4"
)
"""FFmpeg's names of the containers that are opened. No playlists: those make it open further files that they name."""

OPEN_OPTIONS = {"format_whitelist": CONTAINERS, "skip_frame": "all"}
"""How a file is opened: no picture of a video in it is decoded, which FFmpeg else does to see what there is."""

_FULL_SCALE = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}
"""What 1.0 is in whole-number samples; 24-bit sound is decoded into the upper bits of 32."""

logger = logging.getLogger(__name__)

AudioSamples = npt.NDArray[np.float32]
AudioChunks = Generator[tuple[AudioSamples, int], None, None]
AudioSource = str | Path | npt.NDArray[np.generic] | tuple[npt.NDArray[np.generic], int]


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file holds: ``seconds``, ``sample_rate`` (Hz), ``channels``, and its length at 16 kHz."""

    seconds: float
    sample_rate: int
    channels: int
    num_samples: int


@dataclass(frozen=True, eq=False)
class AudioTrack:
    """Sound for the finished video: ``samples`` (1 or 2, n) float32 and ``sample_rate`` in Hz."""

    samples: AudioSamples
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return float(self.samples.shape[1] / self.sample_rate)


def probe_audio(path: str | Path, *, field: str = "audio", max_seconds: float = MAX_AUDIO_SECONDS) -> AudioInfo:
    """Measure a sound file without keeping it: every sample is decoded and counted, as a header's length may lie.

    Args:
        path: a sound file, or a video file with sound.
        field: the user's word for it, for the message.
        max_seconds: longest sound allowed.

    Returns:
        its length; ``num_samples`` is exactly the length that `load_audio` returns.

    Raises:
        MediaError: as `load_audio`.
    """
    count, channels, rate = 0, 0, 0
    for chunk, rate in _check_duration(_decode(Path(path), field), field, max_seconds):  # noqa: B007
        channels = chunk.shape[0]
        count += chunk.shape[1]
    return AudioInfo(count / rate, rate, channels, _resampled_length(count, rate))


def load_audio(source: AudioSource, *, field: str = "audio", max_seconds: float = MAX_AUDIO_SECONDS) -> AudioSamples:
    """Read a sound as mono 16 kHz.

    A file's first sound track is taken from its first sample on, wherever its clock starts. Memory is that of the
    result, whatever the source's rate and channels.

    Args:
        source: a sound file, a video file with sound, an array (n,) at 16 kHz, or an array and its rate in Hz,
            the array (n,), (channels, n) or (n, channels), float or whole numbers of full scale.
        field: the user's word for it, for the message.
        max_seconds: longest sound allowed; decoding stops there.

    Returns:
        (n,) float32; sound that is mono 16 kHz already is returned bit for bit.

    Raises:
        MediaError: missing, empty, damaged, without sound, with values that are not finite, or too long.

    **Source:** ``librosa.load(path, sr=16000)`` as the published code calls it: the mean of the channels, soxr's
    "HQ" filter, and a length of ceil(n * 16000 / rate).
    """
    parts: list[AudioSamples] = []
    resampler: soxr.ResampleStream | None = None
    count = 0
    rate = 0
    for chunk, rate in _check_duration(_stream(source, field), field, max_seconds):
        mono = chunk.mean(axis=0) if len(chunk) > 1 else chunk[0]
        count += len(mono)
        if rate != SAMPLE_RATE:
            resampler = resampler or soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
            mono = resampler.resample_chunk(mono)
        parts.append(mono)
    if resampler is not None:
        parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return pad_or_trim(np.concatenate(parts), _resampled_length(count, rate))


def load_audio_track(source: AudioSource, *, seconds: float, field: str = "audio") -> AudioTrack:
    """Read a sound at its own rate, cut or filled up with silence to a length.

    Sound of more than two channels becomes mono.

    Args:
        source: as for `load_audio`.
        seconds: length of the result; nothing after it is decoded.
        field: the user's word for it, for the message.

    Raises:
        MediaError: as `load_audio`.
    """
    parts: list[AudioSamples] = []
    wanted, count, rate = 0, 0, 0
    with closing(_stream(source, field)) as chunks:
        for chunk, rate in chunks:
            wanted = round(seconds * rate)
            parts.append(chunk if len(chunk) <= 2 else chunk.mean(axis=0, keepdims=True))
            count += chunk.shape[1]
            if count >= wanted:
                break
    return AudioTrack(pad_or_trim(np.concatenate(parts, axis=1), wanted), rate)


def pad_or_trim(samples: AudioSamples, length: int) -> AudioSamples:
    """Cut the last axis, or fill it up with silence, to ``length``."""
    missing = length - samples.shape[-1]
    if missing <= 0:
        return samples[..., :length]
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])


@contextmanager
def open_media(path: Path, field: str) -> Iterator[InputContainer]:
    """A sound or video file for reading.

    Args:
        path: the file.
        field: the user's word for it, for the message.

    Raises:
        MediaError: missing, empty, not sound or video, or damaged where it is read inside the block.
    """
    check_file(path, field)
    try:
        opened = av.open(str(path.absolute()), options=OPEN_OPTIONS, metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError) as error:
        remedy = "give a WAV, MP3, M4A, FLAC or MP4 file; this one is of another kind or damaged"
        raise MediaError(field, f"{path.name!r} is not sound or video that can be read", remedy) from error
    try:
        with opened as container:
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(
            field, f"{path.name!r} cannot be decoded ({os_error_text(error)})", "convert it again from its source"
        ) from error


def _resampled_length(count: int, rate: int) -> int:
    return math.ceil(count * (SAMPLE_RATE / rate))


def _stream(source: AudioSource, field: str) -> AudioChunks:
    if isinstance(source, np.ndarray):
        return _from_array(source, SAMPLE_RATE, field)
    if isinstance(source, tuple):
        return _from_array(*source, field)
    return _decode(Path(source), field)


def _check_duration(chunks: AudioChunks, field: str, max_seconds: float) -> AudioChunks:
    count = 0
    for chunk, rate in chunks:
        count += chunk.shape[1]
        if count > max_seconds * rate:
            raise MediaError(field, f"the sound is longer than {max_seconds:g} seconds", "cut it into parts")
        yield chunk, rate


def _decode(path: Path, field: str) -> AudioChunks:
    """(channels, n) chunks of a file's first sound track and their one rate; at least one chunk."""
    form: tuple[int, int] | None = None
    damaged: av.error.FFmpegError | None = None
    with open_media(path, field) as container:
        if not container.streams.audio:
            raise MediaError(field, f"{path.name!r} has no sound", "give a file with a sound track")
        for packet in container.demux(container.streams.audio[0]):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                damaged = damaged or error
                continue
            for frame in frames:
                if damaged:
                    raise damaged
                raw = frame.to_ndarray()
                planes = raw if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels).T
                samples = _to_float(planes, frame.format.name.rstrip("p"))
                if form not in (None, (len(samples), frame.sample_rate)):
                    problem = f"{path.name!r} changes its channels or sample rate on the way"
                    raise MediaError(field, problem, "convert it to one WAV file")
                form = (len(samples), frame.sample_rate)
                _check_finite(samples, field, repr(path.name))
                yield samples, frame.sample_rate
    if form is None:
        raise MediaError(field, f"{path.name!r} holds no sound", "give another file; this one may be cut short")
    if damaged:
        logger.warning("%s: the end of %s is damaged and is left out", field, path.name)


def _from_array(array: npt.NDArray[np.generic], rate: int, field: str) -> AudioChunks:
    if rate < 1:
        raise MediaError(field, f"its sample rate is {rate} Hz", "give samples a second")
    if array.ndim not in (1, 2) or array.size == 0:
        raise MediaError(
            field, f"the given array has shape {array.shape}", "allowed are (n,), (channels, n), (n, channels)"
        )
    kind = "flt" if array.dtype.kind == "f" else f"{array.dtype.kind.replace('i', 's')}{8 * array.dtype.itemsize}"
    if kind != "flt" and kind not in _FULL_SCALE:
        raise MediaError(field, f"the given array has type {array.dtype}", "allowed are float, int16, int32 and uint8")
    channels_last = array.ndim == 2 and array.shape[0] > array.shape[1]
    channels = array.T if channels_last else np.atleast_2d(array)
    samples = _to_float(channels, kind)
    _check_finite(samples, field, "the given array")
    yield samples, rate


def _to_float(samples: npt.NDArray[np.generic], kind: str) -> AudioSamples:
    """Float32 of full scale 1.0 from samples of one of FFmpeg's formats, as soundfile scales them."""
    values = samples.astype(np.float32)
    if kind not in _FULL_SCALE:
        return values
    scale = np.float32(_FULL_SCALE[kind])
    return (values - scale if kind == "u8" else values) / scale


def _check_finite(samples: AudioSamples, field: str, name: str) -> None:
    if not np.isfinite(samples).all():
        raise MediaError(field, f"{name} has samples that are not numbers (NaN or infinite)", "export it again")
