"""Write and read videos: MP4 with H.264 video and AAC audio. A file is written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soxr
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from humo.errors import DependencyError, MediaError, StorageError
from humo.files import atomic_write, create_parents, os_error_text
from humo.media.audio import AudioTrack, load_audio_track, open_media, pad_or_trim

CRF = 18
"""x264's constant rate factor, 0 (lossless) to 51; 18 is generally considered visually lossless."""

ENCODER_THREADS = 4
"""Threads of x264. Its decisions depend on their number; a fixed number gives the same frames on every machine."""

ENCODER_PARAMETERS = "mbtree=0"
"""Options of x264. With its macroblock tree (AVX-512 code), 1 of 20 encodings of the same frames differed;
without it 1500 were equal."""

AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
"""Sample rates in Hz that AAC supports; audio of another rate is resampled to 48 000."""

AAC_CHANNEL_BITS = 128_000
"""AAC bit rate per channel, in bits per second."""

AAC_SAMPLE_BITS = 6
"""Most bits that AAC can spend on a sample (6144 bits on 1024); this limits the bit rate at low sample rates."""

AAC_CODER = "fast"
"""FFmpeg's AAC coder. The other one, "twoloop", turns 5 ms of a sudden onset into noise (30 against 57 dB)."""

BT709 = 1
"""Code of BT.709 in H.273; the same for primaries, transfer curve and matrix."""

LIMITED_RANGE = 1
"""FFmpeg's code of luma 16..235, which players expect of H.264."""

FRAGMENTED_MP4 = "+frag_keyframe+empty_moov+default_base_moof"
"""FFmpeg's flags of a fragmented MP4 (ISO BMFF), which can be played while it is written."""

SCALER_FLAGS = 0x2 | 0x40000 | 0x80000
"""swscale flags bilinear, accurate rounding, bit exact: the same colors with and without vector instructions."""

MAX_NAME_BYTES = 255 - len("..windows")
"""Largest name of a video in bytes: file systems allow 255, and the folder of its windows has a longer name."""

_MAX_BYTES_PER_PIXEL = 0.75
"""Upper bound of bytes per pixel at `CRF`; random noise, the worst case, takes 0.67."""

_BYTES_PER_FRAME = 8_000
"""Upper bound of bytes per frame for audio (256 kbit/s) and index."""

_HEADER_BYTES = 4_000_000
"""Upper bound of bytes for the header and the generation record."""

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """Size, rate and quality of a video to write.

    Args:
        width, height: pixels, even.
        frames_per_second: exact.
        crf: x264's constant rate factor; lower is better and larger.
    """

    width: int
    height: int
    frames_per_second: int = 25
    crf: int = CRF


@dataclass(frozen=True, eq=False)
class VideoClip:
    """A video in memory.

    Args:
        frames: (F, H, W, 3) uint8.
        frames_per_second: its rate.
        track: its audio, cut to the frames' duration; None without audio.
    """

    frames: Frame
    frames_per_second: float
    track: AudioTrack | None


def to_uint8(video: npt.NDArray[np.float32]) -> Frame:
    """Convert a decoded video (3, F, H, W) in [-1, 1] to uint8 (F, H, W, 3).

    Raises:
        MediaError: values that are not finite.

    **Source:** ``tensor_to_video`` in ``humo/models/utils/utils.py`` of the published code: values are clipped, scaled
    to 0..255 and truncated (not rounded).
    """
    if not np.isfinite(video).all():
        raise MediaError("video", "has NaN or infinite values after decoding", "use another --dtype or --seed")
    scaled = (np.clip(video, -1, 1) * np.float32(0.5) + np.float32(0.5)) * np.float32(255)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(1, 2, 3, 0))


def estimate_video_bytes(width: int, height: int, frames: int) -> int:
    """Return an upper bound of a video's bytes, reached by pure noise; real videos take a tenth.

    Args:
        width: pixels.
        height: pixels.
        frames: number of frames.
    """
    return _HEADER_BYTES + frames * (_BYTES_PER_FRAME + round(width * height * _MAX_BYTES_PER_PIXEL))


def check_writable(path: Path, *, bytes_needed: int, field: str = "output") -> None:
    """Check before generation that a video can be written and that missing folders can be created.

    Args:
        path: the video.
        bytes_needed: disk space that it takes.
        field: name of the output in error messages.

    Raises:
        StorageError: not a .mp4 name, a folder's name, a folder that cannot be created or written, or too little space.
    """
    if (length := len(os.fsencode(path.name))) > MAX_NAME_BYTES:
        raise StorageError(field, f"its name has {length} bytes", f"give a name of at most {MAX_NAME_BYTES} bytes")
    if path.suffix.lower() != ".mp4":
        raise StorageError(field, f"{path.name!r} does not end in .mp4", "give a name that ends in .mp4")
    folder = path.parent
    try:
        with suppress(FileNotFoundError):
            path.lstat()
        with create_parents(path):
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".part") as trial:
                trial.write(b"\0")
            free = shutil.disk_usage(folder).free
    except (OSError, ValueError) as error:
        problem = f"{str(path)!r} cannot be written ({os_error_text(error)})"
        raise StorageError(field, problem, "choose a folder you may write to") from error
    if path.is_dir():
        raise StorageError(field, f"{str(path)!r} is a folder", "give the name of a file in it")
    if free < bytes_needed:
        problem = f"{str(folder)!r} has {free / 1e6:.0f} MB free, up to {bytes_needed / 1e6:.0f} MB are needed"
        raise StorageError(field, problem, "free some space or choose another disk")


def write_video(
    path: Path,
    frames: Iterable[Frame],
    video_format: VideoFormat,
    *,
    metadata: Mapping[str, str],
    track: AudioTrack | None = None,
    sign_file: Callable[[Path], None] = lambda part: None,
    preview: Path | None = None,
    field: str = "output",
) -> int:
    """Write frames, as they come, and audio to an MP4 with its index at the front (fast start).

    The file appears at ``path`` when it is finished. On any error or interrupt, nothing is left behind.

    Args:
        path: the file; an existing one is replaced.
        frames: (H, W, 3) uint8 each, one or more.
        video_format: size, rate and quality.
        metadata: tags of the file.
        track: audio, cut or padded with silence to the frames' duration.
        sign_file: is called with the finished file before it gets its name.
        preview: file that can be played while it is written; it is removed when the video is finished.
        field: name of the output in error messages.

    Returns:
        the number of frames.

    Raises:
        MediaError: no frames, or one of another size or type.
        StorageError: the disk is full or cannot be written.
        DependencyError: this PyAV has no H.264 encoder.
    """
    _check_format(video_format)
    with atomic_write(path, field) as part:
        encoders: list[_Mp4Encoder] = []
        try:
            with _storage_errors(path, field):
                encoders.append(_Mp4Encoder(part, video_format, metadata, track))
                if preview is not None:
                    encoders.append(_Mp4Encoder(preview, video_format, metadata, track, fragmented=True))
            count = _encode(encoders, frames, video_format, path, field)
        finally:
            for encoder in encoders:
                encoder.close()
            if preview is not None:
                preview.unlink(missing_ok=True)
        with _storage_errors(path, field):
            sign_file(part)
    return count


def _check_format(video_format: VideoFormat) -> None:
    """Refuse a size that H.264 cannot hold, and a PyAV that cannot encode H.264."""
    width, height = video_format.width, video_format.height
    if width < 2 or height < 2 or width % 2 or height % 2:
        raise MediaError("size", f"{width} x {height} pixels cannot be encoded", "give an even width and height")
    if "libx264" not in av.codecs_available:
        problem = "this build of PyAV has no libx264"
        raise DependencyError("av", problem, "install it with: pip install --force-reinstall av")


def _encode(
    encoders: list[_Mp4Encoder], frames: Iterable[Frame], video_format: VideoFormat, path: Path, field: str
) -> int:
    """Encode all frames with each encoder and return their number."""
    shape = (video_format.height, video_format.width, 3)
    count = 0
    for frame in frames:
        if frame.shape != shape or frame.dtype != np.uint8:
            problem = f"frame {count} is {frame.dtype} of shape {frame.shape}"
            raise MediaError("frames", problem, f"give uint8 of shape {shape}")
        with _storage_errors(path, field):
            for encoder in encoders:
                encoder.add(frame)
        count += 1
    if not count:
        raise MediaError("frames", "is empty", "give one or more frames")
    with _storage_errors(path, field):
        for encoder in encoders:
            encoder.finish()
    return count


def read_frame(path: Path, number: int, *, field: str = "video") -> Frame:
    """Return a frame (H, W, 3) of a video, or its last one if the video is shorter.

    Args:
        path: the file.
        number: index of the frame, from 0.
        field: name of the input in error messages.

    Raises:
        MediaError: missing, damaged, or without a video stream.
    """
    with open_media(path, field, is_video=True) as container:
        decoded = islice(container.decode(video=0), number + 1) if container.streams.video else iter(())
        last = deque(decoded, maxlen=1)
    if not last:
        raise MediaError(field, f"{path.name!r} has no frames", "give another file; this one may be cut short")
    frame: Any = VideoReformatter().reformat(last[0], format="rgb24", interpolation=SCALER_FLAGS).to_ndarray()
    return np.asarray(frame, np.uint8)


def read_video(path: Path, *, field: str = "video") -> VideoClip:
    """Read a whole video into memory.

    Args:
        path: the file.
        field: name of the input in error messages.

    Raises:
        MediaError: missing, damaged, or without a video stream.
    """
    with open_media(path, field, is_video=True) as container:
        if not container.streams.video or not container.streams.video[0].average_rate:
            raise MediaError(field, f"{path.name!r} has no video stream", "give a video file")
        rate = container.streams.video[0].average_rate
        with_audio = bool(container.streams.audio)
        convert = VideoReformatter().reformat  # one for all frames: setting one up takes ten times as long as a frame
        frames = [
            convert(frame, format="rgb24", interpolation=SCALER_FLAGS).to_ndarray()
            for frame in container.decode(video=0)
        ]
    if not frames:
        raise MediaError(field, f"{path.name!r} has no frames", "give another file; this one may be cut short")
    track = load_audio_track(path, seconds=float(len(frames) / rate), field=field) if with_audio else None
    return VideoClip(np.stack(frames), float(rate), track)


def has_audio(path: Path, *, field: str = "video") -> bool:
    """Return whether a video has an audio stream.

    Raises:
        MediaError: missing or damaged.
    """
    with open_media(path, field, is_video=True) as container:
        return bool(container.streams.audio)


def read_metadata(path: Path, *, field: str = "video") -> dict[str, str]:
    """Return the tags of an audio or video file.

    Raises:
        MediaError: missing or damaged.
    """
    with open_media(path, field, is_video=True) as container:
        return dict(container.metadata)


class _Mp4Encoder:
    """An MP4 being written; each frame is muxed with its share of the audio.

    Args:
        path: the file.
        video_format: size, rate and quality.
        metadata: tags of the file.
        track: audio, if any.
        fragmented: write a file that can be played before it is finished.
    """

    def __init__(
        self,
        path: Path,
        video_format: VideoFormat,
        metadata: Mapping[str, str],
        track: AudioTrack | None,
        fragmented: bool = False,
    ) -> None:
        rate = video_format.frames_per_second
        options = {"movflags": FRAGMENTED_MP4 if fragmented else "+faststart+use_metadata_tags"}
        self._container: OutputContainer = av.open(str(path.absolute()), "w", format="mp4", options=options)
        self._container.metadata.update(metadata)
        self._time_base = Fraction(1, rate)
        encoder = {"crf": str(video_format.crf), "x264-params": ENCODER_PARAMETERS}
        if fragmented:  # no frame waits for later ones, and a fragment ends every second
            encoder |= {"preset": "veryfast", "tune": "zerolatency", "g": str(rate)}
        self._video = self._container.add_stream("libx264", rate=rate, options=encoder)
        self._video.width, self._video.height, self._video.pix_fmt = video_format.width, video_format.height, "yuv420p"
        context = self._video.codec_context
        context.time_base, context.thread_count = self._time_base, ENCODER_THREADS
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        self._reformatter = VideoReformatter()
        self._num_frames = self._num_samples = 0
        self._track = track and _resample_for_aac(track)
        if self._track:
            channels, sample_rate = len(self._track.samples), self._track.sample_rate
            self._layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
            self._audio = self._container.add_stream(
                "aac", rate=sample_rate, layout=self._layout, options={"aac_coder": AAC_CODER}
            )
            self._audio.bit_rate = channels * min(AAC_CHANNEL_BITS, AAC_SAMPLE_BITS * sample_rate)

    def add(self, pixels: Frame) -> None:
        """Encode a frame and its share of the audio."""
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(pixels, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=SCALER_FLAGS,
        )
        frame.pts, frame.time_base = self._num_frames, self._time_base
        self._num_frames += 1
        self._mux_video(frame)
        if self._track:
            start, end = self._num_samples, round(self._num_frames * self._time_base * self._track.sample_rate)
            samples = pad_or_trim(self._track.samples[:, start:end], end - start)
            audio = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self._layout)
            audio.sample_rate, audio.time_base = self._track.sample_rate, Fraction(1, self._track.sample_rate)
            audio.pts = start
            self._num_samples = end
            self._container.mux(self._audio.encode(audio))

    def finish(self) -> None:
        """Flush the encoders and write the index."""
        self._mux_video(None)
        if self._track:
            self._container.mux(self._audio.encode(None))
        self._container.close()

    def close(self) -> None:
        """Close the file even after an error; after `finish` this does nothing."""
        with suppress(av.error.FFmpegError):
            self._container.close()

    def _mux_video(self, frame: av.VideoFrame | None) -> None:
        for packet in self._video.encode(frame):
            packet.duration = packet.duration or 1
            self._container.mux(packet)


def _resample_for_aac(track: AudioTrack) -> AudioTrack:
    """Return the track at a sample rate that AAC supports."""
    if track.sample_rate in AAC_RATES:
        return track
    return AudioTrack(soxr.resample(track.samples.T, track.sample_rate, 48_000, quality="HQ").T, 48_000)


@contextmanager
def _storage_errors(path: Path, field: str) -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        problem = f"{str(path)!r} cannot be written ({os_error_text(error)})"
        raise StorageError(field, problem, "free some space or choose another disk") from error
