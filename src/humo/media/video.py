"""Videos out and in: MP4 with H.264 picture and AAC sound, whole or not there at all."""

from __future__ import annotations

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
"""x264's constant rate factor, 0 (lossless) to 51: the value held to be free of visible loss."""

ENCODER_THREADS = 4
"""x264 decides differently with another number of threads; a fixed one gives the same frames on every machine."""

ENCODER_PARAMETERS = "mbtree=0"
"""x264's own options. Its macroblock tree (AVX-512 code) was measured to give other frames in 1 of 20 encodings of the
same frames; without it 1500 were the same."""

AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
"""Hz that AAC can hold; sound of another rate is resampled to 48 000."""

AAC_CHANNEL_BITS = 128_000
"""Bits a second and channel of sound."""

AAC_SAMPLE_BITS = 6
"""Most that AAC can spend on a sample (6144 bits on 1024), which is less at low sample rates."""

AAC_CODER = "fast"
"""FFmpeg's other one, "twoloop", turns 5 ms of a sound that starts at once into noise (measured: 30 against 57 dB)."""

BT709 = 1
"""H.273's code of BT.709, the same number for primaries, transfer curve and matrix."""

LIMITED_RANGE = 1
"""FFmpeg's code of luma 16..235: what players expect of H.264."""

FRAGMENTED_MP4 = "+frag_keyframe+empty_moov+default_base_moof"
"""FFmpeg's flags of an MP4 whose pieces can be played as they come."""

_SCALER_FLAGS = 0x2 | 0x40000 | 0x80000
"""swscale flags bilinear, accurate rounding, bit exact: the same colours with and without vector instructions."""

_MAX_BYTES_PER_PIXEL = 0.75
"""Measured: 0.67 for random noise at `CRF`, which no picture exceeds."""

_BYTES_PER_FRAME = 8_000
"""Sound (256 kbit/s) and index of one frame, with room."""

_HEADER_BYTES = 4_000_000
"""Header and record of how the video was made, with room."""

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class VideoClip:
    """``frames`` (F, H, W, 3) uint8, ``frames_per_second``, and the sound cut to the frames, if any."""

    frames: Frame
    frames_per_second: float
    track: AudioTrack | None


def to_uint8(video: npt.NDArray[np.float32]) -> Frame:
    """A decoded video (3, F, H, W) in [-1, 1] as bytes (F, H, W, 3).

    Raises:
        MediaError: values that are not numbers.

    **Source:** the published writer: clipped, scaled to 0..255, cut (not rounded) to whole numbers.
    """
    if not np.isfinite(video).all():
        raise MediaError("video", "the decoded frames hold NaN or infinite values", "use another dtype or seed")
    scaled = (np.clip(video, -1, 1) * np.float32(0.5) + np.float32(0.5)) * np.float32(255)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(1, 2, 3, 0))


def estimate_video_bytes(width: int, height: int, frames: int) -> int:
    """Bytes that a video cannot exceed, even of pure noise; real ones take a tenth.

    Args:
        width: pixels.
        height: pixels.
        frames: their number.
    """
    return _HEADER_BYTES + frames * (_BYTES_PER_FRAME + round(width * height * _MAX_BYTES_PER_PIXEL))


def check_writable(path: Path, *, bytes_needed: int, field: str = "output") -> None:
    """Make sure, before the work, that a video can be written; of missing folders, that they can be made.

    Args:
        path: the video to be.
        bytes_needed: free space that it takes.
        field: the user's word for it, for the message.

    Raises:
        StorageError: not a .mp4 name, a folder's name, a folder that cannot be made or written, or too little space.
    """
    if path.suffix.lower() != ".mp4":
        raise StorageError(field, f"{path.name!r} does not end in .mp4", "name the video something.mp4")
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
        raise StorageError(field, f"{str(path)!r} is a folder", "give a file's name inside it")
    if free < bytes_needed:
        problem = f"{str(folder)!r} has {free / 1e6:.0f} MB free, up to {bytes_needed / 1e6:.0f} MB are needed"
        raise StorageError(field, problem, "free some space or choose another disk")


def write_video(
    path: Path,
    frames: Iterable[Frame],
    *,
    width: int,
    height: int,
    metadata: Mapping[str, str],
    track: AudioTrack | None = None,
    frames_per_second: int = 25,
    crf: int = CRF,
    seal: Callable[[Path], None] = lambda part: None,
    preview: Path | None = None,
    field: str = "output",
) -> int:
    """Write frames, as they come, and sound to an MP4 that starts playing before it is loaded.

    The file appears at ``path`` when it is whole; whatever goes wrong, an interrupt included, nothing is left behind.

    Args:
        path: the file; one that is there is replaced.
        frames: (H, W, 3) uint8 each, one or more.
        width: even, in pixels.
        height: even, in pixels.
        metadata: tags of the file.
        track: sound, cut or filled up with silence to the frames' duration.
        frames_per_second: exact.
        crf: x264's constant rate factor; less is better and larger.
        seal: called with the finished file before it takes its name, to sign it.
        preview: a file that can be played while it grows, and goes when the video is there.
        field: the user's word for the file, for the message.

    Returns:
        the number of frames.

    Raises:
        MediaError: no frames, or one of another size or type.
        StorageError: the disk is full or cannot be written.
        DependencyError: this PyAV has no H.264 encoder.
    """
    if width < 2 or height < 2 or width % 2 or height % 2:
        raise MediaError("size", f"{width} x {height} pixels", "give an even width and height")
    if "libx264" not in av.codecs_available:
        raise DependencyError(
            "av", "this build of PyAV has no libx264", "install it with: pip install --force-reinstall av"
        )
    count = 0
    with atomic_write(path, field) as part:
        movies: list[_Mp4Encoder] = []
        try:
            with _storage_errors(path, field):
                for place in (part, preview):
                    if place is not None:
                        grows = place is preview
                        movies.append(_Mp4Encoder(place, width, height, frames_per_second, crf, metadata, track, grows))
            for frame in frames:
                if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
                    problem = f"frame {count} is {frame.dtype} of shape {frame.shape}"
                    raise MediaError("frames", problem, f"give uint8 of shape ({height}, {width}, 3)")
                with _storage_errors(path, field):
                    for movie in movies:
                        movie.add(frame)
                count += 1
            if not count:
                raise MediaError("frames", "there are none", "give one or more")
            with _storage_errors(path, field):
                for movie in movies:
                    movie.finish()
        finally:
            for movie in movies:
                movie.abandon()
            if preview is not None:
                preview.unlink(missing_ok=True)
        with _storage_errors(path, field):
            seal(part)
    return count


def read_frame(path: Path, number: int, *, field: str = "video") -> Frame:
    """One frame (H, W, 3) of a video, the last one where it is shorter.

    Args:
        path: the file.
        number: of the frame, from 0 on.
        field: the user's word for it, for the message.

    Raises:
        MediaError: missing, damaged, or without picture.
    """
    with open_media(path, field) as container:
        pictures = islice(container.decode(video=0), number + 1) if container.streams.video else iter(())
        last = deque(pictures, maxlen=1)
    if not last:
        raise MediaError(field, f"{path.name!r} has no frames", "give another file; this one may be cut short")
    frame: Any = VideoReformatter().reformat(last[0], format="rgb24", interpolation=_SCALER_FLAGS).to_ndarray()
    return np.asarray(frame, np.uint8)


def read_video(path: Path, *, field: str = "video") -> VideoClip:
    """Read a whole video into memory.

    Args:
        path: the file.
        field: the user's word for it, for the message.

    Raises:
        MediaError: missing, damaged, or without picture.
    """
    with open_media(path, field) as container:
        if not container.streams.video or not container.streams.video[0].average_rate:
            raise MediaError(field, f"{path.name!r} has no moving picture", "give a video file")
        rate = container.streams.video[0].average_rate
        has_sound = bool(container.streams.audio)
        convert = VideoReformatter().reformat  # one for all: each sets itself up anew, ten times the work
        frames = [
            convert(picture, format="rgb24", interpolation=_SCALER_FLAGS).to_ndarray()
            for picture in container.decode(video=0)
        ]
    if not frames:
        raise MediaError(field, f"{path.name!r} has no frames", "give another file; this one may be cut short")
    track = load_audio_track(path, seconds=float(len(frames) / rate), field=field) if has_sound else None
    return VideoClip(np.stack(frames), float(rate), track)


def has_audio(path: Path, *, field: str = "video") -> bool:
    """Whether a video has a sound track.

    Raises:
        MediaError: missing or damaged.
    """
    with open_media(path, field) as container:
        return bool(container.streams.audio)


def read_metadata(path: Path, *, field: str = "video") -> dict[str, str]:
    """A sound or video file's tags.

    Raises:
        MediaError: missing or damaged.
    """
    with open_media(path, field) as container:
        return dict(container.metadata)


class _Mp4Encoder:
    """An MP4 being written: each frame is muxed with the sound that belongs to it.

    One that grows can be played before it is finished.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        frames_per_second: int,
        crf: int,
        metadata: Mapping[str, str],
        track: AudioTrack | None,
        grows: bool,
    ) -> None:
        options = {"movflags": FRAGMENTED_MP4 if grows else "+faststart+use_metadata_tags"}
        self.container: OutputContainer = av.open(str(path.absolute()), "w", format="mp4", options=options)
        self.container.metadata.update(metadata)
        self.tick = Fraction(1, frames_per_second)
        encoder = {"crf": str(crf), "x264-params": ENCODER_PARAMETERS}
        if grows:  # no frame waits for those after it, and a piece of the file is whole every second
            encoder |= {"preset": "veryfast", "tune": "zerolatency", "g": str(frames_per_second)}
        self.picture = self.container.add_stream("libx264", rate=frames_per_second, options=encoder)
        self.picture.width, self.picture.height, self.picture.pix_fmt = width, height, "yuv420p"
        context = self.picture.codec_context
        context.time_base, context.thread_count = self.tick, ENCODER_THREADS
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        self.converter = VideoReformatter()
        self.count = 0
        self.heard = 0
        self.track = track and _resample_for_aac(track)
        if self.track:
            channels, rate = len(self.track.samples), self.track.sample_rate
            self.layout = "stereo" if channels == 2 else "mono"
            self.sound = self.container.add_stream(
                "aac", rate=rate, layout=self.layout, options={"aac_coder": AAC_CODER}
            )
            self.sound.bit_rate = channels * min(AAC_CHANNEL_BITS, AAC_SAMPLE_BITS * rate)

    def add(self, pixels: Frame) -> None:
        """Encode one frame and its sound."""
        picture = self.converter.reformat(
            av.VideoFrame.from_ndarray(pixels, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=_SCALER_FLAGS,
        )
        picture.pts, picture.time_base = self.count, self.tick
        self.count += 1
        self._mux_picture(picture)
        if self.track:
            until = round(self.count * self.tick * self.track.sample_rate)
            samples = pad_or_trim(self.track.samples[:, self.heard : until], until - self.heard)
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self.layout)
            sound.sample_rate, sound.time_base = self.track.sample_rate, Fraction(1, self.track.sample_rate)
            sound.pts = self.heard
            self.heard = until
            self.container.mux(self.sound.encode(sound))

    def finish(self) -> None:
        """Write what the encoders still hold, and the index."""
        self._mux_picture(None)
        if self.track:
            self.container.mux(self.sound.encode(None))
        self.container.close()

    def abandon(self) -> None:
        """Close the file, whatever became of it; after `finish` this does nothing."""
        with suppress(av.error.FFmpegError):
            self.container.close()

    def _mux_picture(self, picture: av.VideoFrame | None) -> None:
        for packet in self.picture.encode(picture):
            packet.duration = packet.duration or 1
            self.container.mux(packet)


def _resample_for_aac(track: AudioTrack) -> AudioTrack:
    """The track at a rate that AAC knows."""
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
