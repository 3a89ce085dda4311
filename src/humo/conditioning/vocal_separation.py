"""Separation of the voice from a song or a noisy recording by an MDX-Net in ONNX form (Kim_Vocal_2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from humo.errors import CheckpointError, DependencyError, MediaError
from humo.media.audio import AudioSamples

SAMPLE_RATE = 44_100
"""Sample rate in Hz that the separators were trained on."""

HOP = 1024
"""AudioSamples between two columns of the spectrogram, the same for all MDX-Nets of this kind."""

FFT_SIZES = {3072: 7680, 2560: 5120}
"""Frequency bins of the network -> FFT size of its training. Networks of 2048 bins exist for several FFT sizes."""

COMPENSATION = 1.009
"""Factor that restores the loudness of Kim_Vocal_2's result."""

OVERLAP = 0.25
"""Fraction of a chunk that the next one repeats."""

SILENT_BINS = 3
"""Number of lowest bins (below about 17 Hz) that are set to zero in the network's input."""


class VocalSeparator:
    """Separates the voice from a recording.

    Args:
        path: the ONNX file. Its input and output are (batch, 4, bins, columns): real and imaginary parts of the left,
            then of the right spectrogram. A free number of columns is set to 256.
        fft_size: FFT size, for networks whose number of bins does not determine it.
        compensation: factor on the result.

    Raises:
        DependencyError: onnxruntime is not installed.
        CheckpointError: the file is missing, damaged, or another network.

    **Source:** Kim_Vocal_2's published parameters: FFT 7680, hop 1024, 3072 bins, 256 columns, compensation 1.009. Its
    common runner overlaps chunks by a quarter under a Hann window.
    """

    def __init__(self, path: str | Path, *, fft_size: int | None = None, compensation: float = COMPENSATION) -> None:
        path = Path(path)
        self.name = path.name
        self.compensation = np.float32(compensation)
        self.session = _open(path)
        bins, columns = self._input_size()
        size = FFT_SIZES.get(bins) if fft_size is None else fft_size
        if size is None:
            raise CheckpointError(self.name, f"has {bins} bins, which do not determine its FFT size", "give fft_size")
        if size < 2 * (bins - 1) or size % 2:
            raise CheckpointError(self.name, f"has {bins} bins, which FFT size {size} does not yield", "give fft_size")
        self.fft_size = size
        self.bins = bins
        self.chunk = HOP * (columns - 1)
        if self.chunk <= 2 * self.fft_size:
            problem = f"has {columns} columns, too few for its FFT size"
            raise CheckpointError(self.name, problem, "give an MDX-Net of 256 columns")
        self.fft_window = torch.hann_window(self.fft_size)

    def separate(self, samples: AudioSamples, sample_rate: int) -> AudioSamples:
        """Return the voice in the shape and at the sample rate of the recording.

        Args:
            samples: (1 or 2, n).
            sample_rate: Hz.

        Raises:
            MediaError: the audio is empty, or has more than two channels.
            CheckpointError: the network fails, or its output is not a spectrogram.
        """
        if samples.ndim != 2 or len(samples) not in (1, 2) or not samples.size or sample_rate < 1:
            problem = f"audio of shape {samples.shape} at {sample_rate} Hz is neither mono nor stereo, or empty"
            raise MediaError("vocal_separator", problem, "give (1 or 2, n) samples")
        stereo = np.repeat(samples, 2, axis=0) if len(samples) == 1 else samples
        voice = _resample(
            self._separate_overlapping(_resample(stereo, sample_rate, SAMPLE_RATE)), SAMPLE_RATE, sample_rate
        )
        voice = _fit(voice, samples.shape[1]) * self.compensation
        return voice.mean(axis=0, keepdims=True) if len(samples) == 1 else voice

    def _separate_overlapping(self, mix: AudioSamples) -> AudioSamples:
        """Separate (2, n) at 44.1 kHz in overlapping chunks, and average these under a window."""
        margin = self.fft_size // 2
        step = self.chunk - 2 * margin
        end = margin + mix.shape[1]
        length = end + step + margin - mix.shape[1] % step
        padded = np.pad(mix, ((0, 0), (margin, length + self.chunk - end)))
        total, weight = np.zeros((2, length), np.float32), np.zeros(length, np.float32)
        for start in range(0, end, int((1 - OVERLAP) * self.chunk)):
            span = slice(start, min(start + self.chunk, length))
            window = np.hanning(span.stop - start).astype(np.float32)
            total[:, span] += self._separate_chunk(padded[:, start : start + self.chunk])[:, : len(window)] * window
            weight[span] += window
        voice: AudioSamples = np.divide(total, weight, out=total, where=weight > 0)[:, margin:end]
        return voice

    def _separate_chunk(self, mix: AudioSamples) -> AudioSamples:
        spectrum = torch.stft(
            torch.from_numpy(mix), self.fft_size, HOP, window=self.fft_window, pad_mode="reflect", return_complex=True
        )
        channels = torch.view_as_real(spectrum).permute(0, 3, 1, 2).flatten(0, 1)[None, :, : self.bins].contiguous()
        channels[:, :, :SILENT_BINS] = 0
        try:
            (voice,) = self.session.run(None, {self.session.get_inputs()[0].name: channels.numpy()})
        except Exception as error:
            raise CheckpointError(self.name, f"the network fails ({error})", "give an MDX-Net separator") from error
        if voice.shape != tuple(channels.shape) or not np.isfinite(voice).all():
            problem = "the network's output is not a spectrogram of finite values"
            raise CheckpointError(self.name, problem, "download the file again")
        pairs = torch.from_numpy(voice)[0].unflatten(0, (2, 2)).permute(0, 2, 3, 1).contiguous()
        filled = torch.nn.functional.pad(torch.view_as_complex(pairs), (0, 0, 0, spectrum.shape[1] - self.bins))
        samples: AudioSamples = torch.istft(
            filled, self.fft_size, HOP, window=self.fft_window, length=self.chunk
        ).numpy()
        return samples

    def _input_size(self) -> tuple[int, int]:
        """Return the bins and columns of the network's input."""
        ends = [*self.session.get_inputs(), *self.session.get_outputs()]
        shape = list(ends[0].shape) if ends else []
        if len(ends) != 2 or len(shape) != 4 or shape[1] != 4 or not isinstance(shape[2], int):
            problem = f"its inputs and outputs are {[(end.name, end.shape) for end in ends]}"
            raise CheckpointError(self.name, problem, "give an MDX-Net of one input (batch, 4, bins, columns)")
        return shape[2], shape[3] if isinstance(shape[3], int) else 256


def _open(path: Path) -> Any:
    """Open an onnxruntime session on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "vocal_separator", "onnxruntime is not installed", "install it with: pip install 'humo-video[vocals]'"
        ) from error
    if not path.is_file():
        raise CheckpointError(
            "vocal_separator", f"there is no file {str(path)!r}", "give the path of a file such as Kim_Vocal_2.onnx"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CheckpointError(
            "vocal_separator", f"{path.name!r} is not an ONNX network ({error})", "download the file again"
        ) from error


def _resample(samples: AudioSamples, source: int, target: int) -> AudioSamples:
    if source == target:
        return samples
    resampled: AudioSamples = soxr.resample(samples.T, source, target, quality="HQ").T
    return np.ascontiguousarray(resampled)


def _fit(samples: AudioSamples, length: int) -> AudioSamples:
    return np.pad(samples, ((0, 0), (0, max(0, length - samples.shape[1]))))[:, :length]
