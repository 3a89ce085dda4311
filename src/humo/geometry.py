"""All counting: frames, seconds, latent frames, tokens, sound samples and audio rows; nobody else divides.

Origins of the constants: Wan2.1 (strides of its causal autoencoder, patch of its transformer), HuMo's training data
(25 frames a second) and Whisper (16 kHz; one encoder row per 320 samples).
"""

from __future__ import annotations

from dataclasses import dataclass

FRAMES_PER_SECOND = 25
TEMPORAL_STRIDE = 4  # frames per latent frame, after the first, which stands alone
SPATIAL_STRIDE = 8  # pixels per latent cell
VALUES_PER_LATENT = 3 * TEMPORAL_STRIDE * SPATIAL_STRIDE**2  # red, green and blue of the pixels a latent stands for
PATCH = (1, 2, 2)  # latent (frames, rows, columns) per token
SIZE_MULTIPLE = SPATIAL_STRIDE * PATCH[1]  # pixels; width and height are multiples of it

SAMPLE_RATE = 16_000  # Hz, of the sound as Whisper takes it
SAMPLES_PER_ENCODER_ROW = 320  # samples: Whisper gives 50 rows a second
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_SECOND  # samples: one audio row a frame after resampling 50 -> 25
ENCODER_WINDOW_SAMPLES = 30 * SAMPLE_RATE  # samples: Whisper hears 30 s at a time
ENCODER_WINDOW_ROWS = ENCODER_WINDOW_SAMPLES // SAMPLES_PER_ENCODER_ROW

AUDIO_WINDOW = 8  # audio rows given to one latent frame
AUDIO_LEAD = 5  # of them, rows before the latent frame's first own row 4i


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of one clip, in every unit.

    Args:
        width, height: pixels, multiples of 16.
        frames: 4k + 1.
        references: reference pictures; 0 still takes one (empty) slot.

    Raises:
        ValueError: sizes that no network of this kind can have. Requests are checked before they come here.

    **Source:** method.md, 2 (published generate loop).
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
        """Latent frames of the video alone."""
        return latent_frames_of(self.frames)

    @property
    def reference_slots(self) -> int:
        """Latent frames at the end of the sequence that hold references: one each, at least one."""
        return max(1, self.references)

    @property
    def latent_frames(self) -> int:
        """Latent frames of the whole sequence, video and references."""
        return self.video_latent_frames + self.reference_slots

    @property
    def latent_height(self) -> int:
        """Rows of a latent frame."""
        return self.height // SPATIAL_STRIDE

    @property
    def latent_width(self) -> int:
        """Columns of a latent frame."""
        return self.width // SPATIAL_STRIDE

    @property
    def tokens_per_frame(self) -> int:
        """Transformer tokens of one latent frame."""
        return (self.latent_height // PATCH[1]) * (self.latent_width // PATCH[2])

    @property
    def tokens(self) -> int:
        """Transformer tokens of the whole sequence."""
        return self.latent_frames // PATCH[0] * self.tokens_per_frame

    def latent_shape(self, channels: int) -> tuple[int, int, int, int]:
        """(C, F, H, W) of the sequence the network denoises."""
        return channels, self.latent_frames, self.latent_height, self.latent_width


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a long clip that is made in one piece.

    Its first latent frame stands for one video frame, as in every clip: in all windows but the first it is the last
    frame of what is finished, as a still.

    Args:
        start: latent frame of the whole clip at which it begins.
        latents: how many latent frames it has.
        shared: of them, those after the first that the window before it has made, too.
    """

    start: int
    latent_frames: int
    overlap: int = 0

    @property
    def end(self) -> int:
        """Latent frame of the whole clip after its last one."""
        return self.start + self.latent_frames


def split_into_windows(latent_frames: int, window: int, overlap: int) -> tuple[Window, ...]:
    """The windows of a clip, overlapping, none longer than ``longest``.

    What comes before a window does not depend on how long the clip will be.

    Args:
        latents: of the whole clip.
        longest: latent frames a window may have.
        shared: latent frames that neighbours both make, at most ``longest - 2``.
    """
    if latent_frames > window and not 0 <= overlap <= window - 2:
        raise ValueError(f"{overlap} shared latent frames leave nothing new in windows of {window}")
    windows = [Window(0, min(latent_frames, window))]
    while (end := windows[-1].end) < latent_frames:
        start = end - overlap - 1
        windows.append(Window(start, min(window, latent_frames - start), overlap))
    return tuple(windows)


def snap_frames(frames: int) -> int:
    """The largest 4k + 1 not above ``frames`` (at least 1)."""
    return max(0, frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1


def latent_frames_of(frames: int) -> int:
    """Latent frames that hold ``frames`` (4k + 1) video frames."""
    return (frames - 1) // TEMPORAL_STRIDE + 1


def frames_of_samples(samples: int) -> int:
    """Whole frames that ``samples`` of 16 kHz sound last."""
    return samples // SAMPLES_PER_FRAME


def frames_of_seconds(seconds: float) -> int:
    """Whole frames in ``seconds``; a hair below a whole frame (rounding of decimals) still counts as that frame."""
    return int(seconds * FRAMES_PER_SECOND + 1e-6)


def encoder_rows(samples: int) -> int:
    """Rows (50 a second) kept of Whisper's output for ``samples`` of 16 kHz sound: two a whole frame."""
    return 2 * frames_of_samples(samples)


def audio_rows(encoder_rows: int) -> int:
    """Rows (25 a second) after resampling ``encoder_rows`` (50 a second): half of them, or one less.

    **Source:** the published ``int(rows / 50.0 * 25)``. In floating point some quotients come out a hair low (58 rows
    give 28), and as the first and last rows are aligned, one row less shifts all of them: kept as published.
    """
    return int(encoder_rows / (SAMPLE_RATE / SAMPLES_PER_ENCODER_ROW) * FRAMES_PER_SECOND)


def audio_window(latent_frame: int) -> range:
    """Audio rows 4i - 5 .. 4i + 2 that latent frame i hears; rows outside the sound are silent (zeros).

    **Source:** method.md, 3. The published code writes latent 0 apart (three zero rows, then rows -2..2); rows -5..-3
    lie before the clip and are zero all the same, so one line holds for both.
    """
    start = TEMPORAL_STRIDE * latent_frame - AUDIO_LEAD
    return range(start, start + AUDIO_WINDOW)


def audio_rows_needed(frames: int) -> int:
    """Audio rows a clip of ``frames`` can hear: those of its last window."""
    return audio_window(latent_frames_of(frames) - 1).stop
