"""Convert between frames, seconds, latent frames, tokens, audio samples and audio rows; no other module does.

The compression factors of the causal autoencoder and the patch size of the transformer are those of Wan2.1. HuMo's
training data have 25 frames a second. Whisper takes 16 kHz and has one encoder row per 320 samples.
"""

from __future__ import annotations

from dataclasses import dataclass

FRAMES_PER_SECOND = 25
TEMPORAL_STRIDE = 4  # frames per latent frame; the first latent frame holds one frame
SPATIAL_STRIDE = 8  # pixels per latent cell
VALUES_PER_LATENT = 3 * TEMPORAL_STRIDE * SPATIAL_STRIDE**2  # color values of the pixels that one latent stands for
PATCH = (1, 2, 2)  # latent (frames, rows, columns) per token
SIZE_MULTIPLE = SPATIAL_STRIDE * PATCH[1]  # pixels; width and height are multiples of it

SAMPLE_RATE = 16_000  # Hz; sample rate of Whisper's input
SAMPLES_PER_ENCODER_ROW = 320  # samples; Whisper outputs 50 rows a second
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_SECOND  # samples; one audio row per frame after resampling 50 -> 25
ENCODER_WINDOW_SAMPLES = 30 * SAMPLE_RATE  # samples; Whisper encodes 30 s at a time
ENCODER_WINDOW_ROWS = ENCODER_WINDOW_SAMPLES // SAMPLES_PER_ENCODER_ROW

AUDIO_WINDOW = 8  # audio rows per latent frame
AUDIO_LEAD = 5  # rows of the window before row 4i, the first one of the latent frame


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of one clip, in every unit.

    Args:
        width, height: pixels, multiples of 16.
        frames: 4k + 1.
        references: number of reference images; 0 still takes one (empty) slot.

    Raises:
        ValueError: the network does not support these sizes. Requests are checked before this.

    **Source:** published code, ``humo/generate.py``, ``Generator.inference``: ``target_shape`` and ``seq_len``.
    """

    width: int
    height: int
    frames: int
    references: int = 0

    def __post_init__(self) -> None:
        if self.width < SIZE_MULTIPLE or self.height < SIZE_MULTIPLE:
            raise ValueError(f"{self.width}x{self.height} is smaller than {SIZE_MULTIPLE} pixels")
        if self.width % SIZE_MULTIPLE or self.height % SIZE_MULTIPLE:
            raise ValueError(f"{self.width}x{self.height} is not a multiple of {SIZE_MULTIPLE} pixels")
        if self.frames < 1 or self.frames != snap_frames(self.frames):
            raise ValueError(f"{self.frames} frames are not {TEMPORAL_STRIDE}k + 1")
        if self.references < 0:
            raise ValueError(f"{self.references} references")

    @property
    def seconds(self) -> float:
        """Length of the clip in seconds."""
        return self.frames / FRAMES_PER_SECOND

    @property
    def video_latent_frames(self) -> int:
        """Number of latent frames of the video, without references."""
        return latent_frames_of(self.frames)

    @property
    def reference_slots(self) -> int:
        """Number of latent frames at the end of the sequence for references: one each, at least one."""
        return max(1, self.references)

    @property
    def latent_frames(self) -> int:
        """Number of latent frames of the whole sequence, video and references."""
        return self.video_latent_frames + self.reference_slots

    @property
    def latent_height(self) -> int:
        """Number of rows of a latent frame."""
        return self.height // SPATIAL_STRIDE

    @property
    def latent_width(self) -> int:
        """Number of columns of a latent frame."""
        return self.width // SPATIAL_STRIDE

    @property
    def tokens_per_frame(self) -> int:
        """Number of transformer tokens of one latent frame."""
        return (self.latent_height // PATCH[1]) * (self.latent_width // PATCH[2])

    @property
    def tokens(self) -> int:
        """Number of transformer tokens of the whole sequence."""
        return self.latent_frames // PATCH[0] * self.tokens_per_frame

    def latent_shape(self, channels: int) -> tuple[int, int, int, int]:
        """Return the shape (C, F, H, W) of the sequence that the network denoises."""
        return channels, self.latent_frames, self.latent_height, self.latent_width


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a long clip that is generated in one run of the denoising loop.

    The first latent frame of a window stands for one video frame, as in every clip. In all windows but the first, this
    frame is the last one that the previous window finished.

    Args:
        start: index of the first latent frame in the whole clip.
        latent_frames: number of latent frames.
        overlap: number of latent frames, after the first, that the previous window generated as well.
    """

    start: int
    latent_frames: int
    overlap: int = 0

    @property
    def end(self) -> int:
        """Index in the whole clip of the latent frame after the last one."""
        return self.start + self.latent_frames


def split_into_windows(latent_frames: int, window: int, overlap: int) -> tuple[Window, ...]:
    """Split a clip into overlapping windows.

    The position of a window does not depend on the length of the clip after it.

    Args:
        latent_frames: latent frames of the whole clip.
        window: largest number of latent frames of a window.
        overlap: latent frames that neighboring windows share, at most ``window - 2``.

    Raises:
        ValueError: the overlap is too large for the window.
    """
    if latent_frames > window and not 0 <= overlap <= window - 2:
        raise ValueError(f"{overlap} shared latent frames leave nothing new in windows of {window}")
    windows = [Window(0, min(latent_frames, window))]
    while (end := windows[-1].end) < latent_frames:
        start = end - overlap - 1
        windows.append(Window(start, min(window, latent_frames - start), overlap))
    return tuple(windows)


def snap_frames(frames: int) -> int:
    """Return the largest 4k + 1 that is not above ``frames`` (at least 1)."""
    return max(0, frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1


def round_up_frames(frames: int) -> int:
    """Return the smallest 4k + 1 that is not below ``frames``."""
    return snap_frames(frames + TEMPORAL_STRIDE - 1)


def latent_frames_of(frames: int) -> int:
    """Return the number of latent frames of ``frames`` (4k + 1) video frames."""
    return (frames - 1) // TEMPORAL_STRIDE + 1


def frames_of_samples(samples: int) -> int:
    """Return the number of whole frames in ``samples`` of 16 kHz audio."""
    return samples // SAMPLES_PER_FRAME


def frames_to_hold(samples: int) -> int:
    """Return the smallest 4k + 1 frames whose duration holds ``samples`` of 16 kHz audio."""
    return round_up_frames(-(-samples // SAMPLES_PER_FRAME))


def frames_of_seconds(seconds: float) -> int:
    """Return the number of whole frames in ``seconds``, with a tolerance for rounded decimals."""
    return int(seconds * FRAMES_PER_SECOND + 1e-6)


def encoder_rows(samples: int) -> int:
    """Return the rows (50 a second) that are kept of Whisper's output for 16 kHz audio: two per whole frame."""
    return 2 * frames_of_samples(samples)


def audio_rows(encoder_rows: int) -> int:
    """Return the rows (25 a second) after resampling ``encoder_rows`` (50 a second): half of them, or one less.

    For some lengths the published floating-point expression gives one row less (58 rows give 28). As the first and the
    last row are aligned, this shifts all rows, so it is kept.

    **Source:** published code, ``humo/utils/audio_processor_whisper.py``, ``linear_interpolation_fps``.
    """
    return int(encoder_rows / (SAMPLE_RATE / SAMPLES_PER_ENCODER_ROW) * FRAMES_PER_SECOND)


def audio_window(latent_frame: int) -> range:
    """Return the audio rows 4i - 5 .. 4i + 2 of latent frame i; rows outside the audio are zeros.

    The published code treats latent frame 0 separately (three rows of zeros, then rows -2 to 2). Rows -5 to -3 lie
    before the clip and are zeros as well, so one expression covers both cases.

    **Source:** published code, ``humo/generate.py``, ``Generator.get_audio_emb_window``.
    """
    start = TEMPORAL_STRIDE * latent_frame - AUDIO_LEAD
    return range(start, start + AUDIO_WINDOW)


def audio_rows_needed(frames: int) -> int:
    """Return the number of audio rows that a clip of ``frames`` uses, up to the last audio window."""
    return audio_window(latent_frames_of(frames) - 1).stop
