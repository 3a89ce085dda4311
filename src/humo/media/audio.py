"""Read audio with FFmpeg's libraries: mono 16 kHz for the network, and at its own rate for the finished video."""

from __future__ import annotations

import logging
import math
import wave
from collections.abc import Generator, Iterator, Sequence
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
"""FFmpeg's names of the containers that may be opened. Playlists are left out: they open further files by name."""

OPEN_OPTIONS = {"format_whitelist": CONTAINERS, "skip_frame": "all"}
"""FFmpeg options for opening a file. ``skip_frame`` keeps FFmpeg from decoding video frames while it probes streams."""

_FULL_SCALE = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}
"""Value of 1.0 in integer sample formats. 24-bit audio is decoded into the upper bits of 32."""

LAYOUTS = {3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""FFmpeg's usual channel layout for a number of channels above two."""

TRACK_CHANNELS = (1, 2, 6)
"""Numbers of channels that a finished video keeps; others are mixed down to stereo."""

CANCELLATION = 0.01
"""Energy of the mean of two channels, in units of theirs, below which they are taken to cancel each other out."""

logger = logging.getLogger(__name__)

AudioSamples = npt.NDArray[np.float32]
"""Samples (n,) or (channels, n), full scale 1.0."""

AudioChunks = Generator[tuple[AudioSamples, int], None, None]
AudioSource = str | Path | npt.NDArray[np.generic] | tuple[npt.NDArray[np.generic], int]


@dataclass(frozen=True)
class AudioInfo:
    """Length and format of an audio file.

    Args:
        seconds: its length.
        sample_rate: Hz.
        channels: their number.
        num_samples: its length in samples at 16 kHz.
    """

    seconds: float
    sample_rate: int
    channels: int
    num_samples: int


@dataclass(frozen=True, eq=False)
class AudioTrack:
    """Audio of a finished video.

    Args:
        samples: (1, 2 or 6, n) float32; six channels are FFmpeg's layout 5.1.
        sample_rate: Hz.
    """

    samples: AudioSamples
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return float(self.samples.shape[1] / self.sample_rate)

    def fit(self, seconds: float) -> AudioTrack:
        """Return the track cut, or padded with silence, to a length in seconds."""
        return AudioTrack(pad_or_trim(self.samples, round(seconds * self.sample_rate)), self.sample_rate)


@dataclass(frozen=True, eq=False)
class DecodedAudio:
    """An audio file, decoded once for both uses.

    Args:
        samples: (n,) mono at 16 kHz, the network's input, as `load_audio` returns it.
        track: the audio at its own rate for the video, as long as was asked for.
    """

    samples: AudioSamples
    track: AudioTrack


def probe_audio(path: str | Path, *, field: str = "audio", max_seconds: float = MAX_AUDIO_SECONDS) -> AudioInfo:
    """Return an audio file's length and format without keeping it.

    Every sample is decoded and counted, because the length in a header may be wrong.

    Args:
        path: an audio file, or a video file with audio.
        field: name of the input in error messages.
        max_seconds: longest audio allowed.

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
    """Read audio as mono 16 kHz.

    The default audio stream of a file is read from its first sample on, whatever its start time. Memory is that of the
    result, whatever the source's rate and channels. Two channels of opposite phase, whose mean is silent, are
    subtracted instead, with a warning.

    Args:
        source: an audio file, a video file with audio, an array (n,) at 16 kHz, or an array and its rate in Hz.
            Arrays are (n,), (channels, n) or (n, channels), float or integers of full scale.
        field: name of the input in error messages.
        max_seconds: longest audio allowed; decoding stops there.

    Returns:
        (n,) float32; audio that is mono 16 kHz already is returned bit for bit.

    Raises:
        MediaError: missing, empty, damaged, without audio, with values that are not finite, or too long.

    **Source:** ``librosa.load(path, sr=16000)`` as the published code calls it: the mean of two channels, soxr's "HQ"
    filter, and a length of ceil(n * 16000 / rate). More channels are mixed as `mix` says; their mean would be too
    quiet, because speech is in one of them.
    """
    mono = _Resampler(field)
    for chunk, rate in _check_duration(_stream(source, field), field, max_seconds):
        mono.add(chunk, rate)
    return mono.finish()


def load_audio_track(source: AudioSource, *, seconds: float, field: str = "audio") -> AudioTrack:
    """Read audio at its own rate, cut or padded with silence to a length.

    Audio keeps its channels if it has one of `TRACK_CHANNELS`, and otherwise becomes stereo.

    Args:
        source: as for `load_audio`.
        seconds: length of the result; nothing after it is decoded.
        field: name of the input in error messages.

    Raises:
        MediaError: as `load_audio`.
    """
    track = _TrackCollector(seconds)
    with closing(_stream(source, field)) as chunks:
        for chunk, rate in chunks:
            track.add(chunk, rate)
            if track.is_complete:
                break
    return track.finish().fit(seconds)


def decode_audio(path: str | Path, *, track_seconds: float = math.inf, field: str = "audio") -> DecodedAudio:
    """Decode an audio file once, for the network and for the video.

    Args:
        path: an audio file, or a video file with audio.
        track_seconds: seconds of the track that are kept at least, if there are as many; all of them by default.
        field: name of the input in error messages.

    Raises:
        MediaError: as `load_audio`.
    """
    mono, track = _Resampler(field), _TrackCollector(track_seconds)
    for chunk, rate in _check_duration(_decode(Path(path), field), field, MAX_AUDIO_SECONDS):
        mono.add(chunk, rate)
        if not track.is_complete:
            track.add(chunk, rate)
    return DecodedAudio(mono.finish(), track.finish())


def wav_length(path: Path, *, field: str = "audio") -> int:
    """Return the length of a WAV file in samples at 16 kHz, from its header alone.

    Args:
        path: a file of integer samples that this program wrote; `probe_audio` measures files from others.
        field: name of the input in error messages.

    Raises:
        MediaError: the file is missing.
    """
    check_file(path, field)
    with wave.open(str(path), "rb") as file:
        return _resampled_length(file.getnframes(), file.getframerate())


def mix(samples: AudioSamples, channels: int) -> AudioSamples:
    """Mix samples (c, n) down to (1, n) or (2, n); the levels of speech in the center stay as they are in stereo.

    Args:
        samples: of one channel or more; above two in the order of `LAYOUTS`.
        channels: 1 or 2, at most c.

    **Source:** ITU-R BS.775, downward mixing: center and surround channels at -3 dB in left and right, no LFE.
    """
    if len(samples) > 2:
        layout = av.AudioLayout(LAYOUTS[len(samples)]) if len(samples) in LAYOUTS else None
        names = [channel.name for channel in layout.channels] if layout else ["FL", "FR"] * len(samples)
        weights = [[_mix_weight(name, side) for name in names[: len(samples)]] for side in "LR"]
        samples = np.asarray(weights, np.float32) @ samples
    if channels == 2 or len(samples) == 1:
        return samples
    mono: AudioSamples = samples.mean(axis=0, keepdims=True)
    return mono


def _mix_weight(name: str, side: str) -> float:
    """Return the weight of a channel, by FFmpeg's name of it, in the left (L) or right (R) channel of stereo."""
    if name == f"F{side}":
        return 1.0
    if name in {"FC", f"B{side}", f"S{side}"}:
        return math.sqrt(0.5)
    return 0.5 if name == "BC" else 0.0


class _Resampler:
    """Mixes chunks down to mono and resamples them to 16 kHz.

    Args:
        field: name of the input in warnings.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self._mean, self._difference = _ChannelResampler(), _ChannelResampler()
        self._energy = 0.0
        self._count = self._rate = 0

    def add(self, chunk: AudioSamples, rate: int) -> None:
        """Take a chunk (channels, n) at a rate in Hz, the same for all chunks."""
        self._count, self._rate = self._count + chunk.shape[1], rate
        self._mean.add(mix(chunk, 1)[0], rate)
        if len(chunk) == 2:
            self._difference.add((chunk[0] - chunk[1]) / 2, rate)
            self._energy += float(np.square(chunk, dtype=np.float64).sum()) / 2

    def finish(self) -> AudioSamples:
        """Return the samples (n,) at 16 kHz."""
        voice = self._mean
        if self._mean.energy < CANCELLATION * self._energy:
            logger.warning("%s: the two channels cancel each other out; their difference is used", self._field)
            voice = self._difference
        return pad_or_trim(voice.finish(), _resampled_length(self._count, self._rate))


class _ChannelResampler:
    """Resamples one channel to 16 kHz chunk by chunk; ``energy`` is the sum of its squares before."""

    def __init__(self) -> None:
        self._parts: list[AudioSamples] = []
        self._resampler: soxr.ResampleStream | None = None
        self.energy = 0.0

    def add(self, samples: AudioSamples, rate: int) -> None:
        """Take samples (n,) at a rate in Hz, the same in all calls."""
        self.energy += float(np.square(samples, dtype=np.float64).sum())
        if rate != SAMPLE_RATE:
            if self._resampler is None:
                self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
            samples = self._resampler.resample_chunk(samples)
        self._parts.append(samples)

    def finish(self) -> AudioSamples:
        """Return the samples at 16 kHz."""
        if self._resampler is not None:
            self._parts.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        return np.concatenate(self._parts)


class _TrackCollector:
    """Keeps chunks at their own rate until there are enough.

    Args:
        seconds: enough.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._parts: list[AudioSamples] = []
        self._count = self._rate = 0
        self.is_complete = False

    def add(self, chunk: AudioSamples, rate: int) -> None:
        """Take a chunk (channels, n) at a rate in Hz, the same for all chunks."""
        self._parts.append(chunk if len(chunk) in TRACK_CHANNELS else mix(chunk, 2))
        self._count, self._rate = self._count + chunk.shape[1], rate
        self.is_complete = not math.isinf(self._seconds) and self._count >= round(self._seconds * rate)

    def finish(self) -> AudioTrack:
        """Return the track."""
        return AudioTrack(np.concatenate(self._parts, axis=1), self._rate)


def pad_or_trim(samples: AudioSamples, length: int) -> AudioSamples:
    """Cut the last axis, or pad it with silence, to ``length`` samples."""
    missing = length - samples.shape[-1]
    if missing <= 0:
        return samples[..., :length]
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])


@contextmanager
def open_media(path: Path, field: str, *, is_video: bool = False) -> Iterator[InputContainer]:
    """Open an audio or video file for reading.

    Args:
        path: the file.
        field: name of the input in error messages.
        is_video: whether error messages ask for a video, not for audio.

    Raises:
        MediaError: missing, empty, neither audio nor video, or damaged where it is read inside the block.
    """
    check_file(path, field)
    try:
        opened = av.open(str(path.absolute()), options=OPEN_OPTIONS, metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError) as error:
        kind, formats = ("a video", "an MP4") if is_video else ("audio or video", "a WAV, MP3, M4A, FLAC or MP4")
        remedy = f"give {formats} file; this one has another format or is damaged"
        raise MediaError(field, f"{path.name!r} is not {kind} that can be read", remedy) from error
    try:
        with opened as container:
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(
            field, f"{path.name!r} cannot be decoded ({os_error_text(error)})", "convert it again from its original"
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
            raise MediaError(field, f"is longer than {max_seconds:g} seconds", "cut it into parts")
        yield chunk, rate


def default_audio_stream(container: InputContainer) -> av.AudioStream:
    """Return the audio track that players choose: the first one marked as default, else the first one."""
    streams = container.streams.audio
    marked = (stream for stream in streams if stream.disposition & av.stream.Disposition.default)
    return next(marked, streams[0])


def _decode(path: Path, field: str) -> AudioChunks:
    """Yield chunks (channels, n) of a file's default audio stream and their common rate; at least one chunk.

    Damaged packets are left out, as players do. Where the format changes, in files that are joined of pieces, samples
    are converted to the first format. What is lost or changed is logged.
    """
    first: av.AudioFrame | None = None
    decoded, damaged, converters = 0, 0, dict[tuple[int, int], av.AudioResampler]()
    with open_media(path, field) as container:
        if not container.streams.audio:
            raise MediaError(field, f"{path.name!r} has no audio stream", "give a file with audio")
        stream = default_audio_stream(container)
        if stream is not container.streams.audio[0]:
            number = container.streams.audio.index(stream) + 1
            logger.warning("%s: track %d of %s is used, its default one", field, number, path.name)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                damaged += 1
                continue
            decoded += 1
            for frame in frames:
                first = first or frame
                samples = planar_samples(frame)
                if (changed := _format_of(frame)) != _format_of(first):
                    if changed not in converters:
                        converters[changed] = av.AudioResampler("fltp", first.layout, first.sample_rate)
                    samples = _join(converters[changed].resample(frame), first.layout.nb_channels)
                _check_finite(samples, field, repr(path.name))
                yield samples, first.sample_rate
    if first is None:
        raise MediaError(field, f"{path.name!r} holds no samples", "give another file; this one may be cut short")
    if damaged > decoded:
        problem = f"{path.name!r} is damaged: {damaged} of {damaged + decoded} packets cannot be decoded"
        raise MediaError(field, problem, "convert it again from its original")
    if damaged:
        logger.warning("%s: damaged packets of %s are left out: %d", field, path.name, damaged)
    if converters:
        logger.warning("%s: %s changes its format; all of it is converted to the first", field, path.name)


def _format_of(frame: av.AudioFrame) -> tuple[int, int]:
    """Return number of channels and sample rate."""
    return frame.layout.nb_channels, frame.sample_rate


def _join(frames: Sequence[av.AudioFrame], channels: int) -> AudioSamples:
    """Join the samples of frames, which may be none at all."""
    return np.concatenate([np.zeros((channels, 0), np.float32), *map(planar_samples, frames)], axis=1)


def _from_array(array: npt.NDArray[np.generic], rate: int, field: str) -> AudioChunks:
    if rate < 1:
        raise MediaError(field, f"its sample rate of {rate} Hz is below 1", "give the rate in samples per second")
    if array.ndim not in (1, 2) or array.size == 0:
        raise MediaError(field, f"the given array has shape {array.shape}", "give (n,), (channels, n) or (n, channels)")
    sample_format = (
        "flt" if array.dtype.kind == "f" else f"{array.dtype.kind.replace('i', 's')}{8 * array.dtype.itemsize}"
    )
    if sample_format != "flt" and sample_format not in _FULL_SCALE:
        raise MediaError(field, f"the given array has type {array.dtype}", "give float, int16, int32 or uint8")
    channels_last = array.ndim == 2 and array.shape[0] > array.shape[1]
    channels = array.T if channels_last else np.atleast_2d(array)
    samples = _to_float(channels, sample_format)
    _check_finite(samples, field, "the given array")
    yield samples, rate


def planar_samples(frame: av.AudioFrame) -> AudioSamples:
    """Return a decoded frame's samples as (channels, n) float32 of full scale 1.0."""
    raw = frame.to_ndarray()
    planes = raw if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels).T
    return _to_float(planes, frame.format.name.rstrip("p"))


def _to_float(samples: npt.NDArray[np.generic], sample_format: str) -> AudioSamples:
    """Convert samples of one of FFmpeg's formats to float32 of full scale 1.0, as soundfile scales them."""
    values = samples.astype(np.float32)
    if sample_format not in _FULL_SCALE:
        return values
    scale = np.float32(_FULL_SCALE[sample_format])
    return (values - scale if sample_format == "u8" else values) / scale


def _check_finite(samples: AudioSamples, field: str, name: str) -> None:
    if not np.isfinite(samples).all():
        raise MediaError(field, f"{name} has samples that are not numbers (NaN or infinite)", "export it again")
