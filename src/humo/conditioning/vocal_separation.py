"""The voice out of a song or a noisy recording, by an MDX-Net separator in ONNX form (Kim_Vocal_2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch

from humo.errors import CheckpointError, DependencyError, MediaError

SAMPLE_RATE = 44_100
"""Hz that the separators were trained on."""

HOP = 1024
"""Samples between two columns of the spectrogram, the same for all MDX-Nets of this form."""

FFT_SIZES = {3072: 7680, 2560: 5120}
"""Frequency bins of the network -> FFT size it was trained with. Networks of 2048 bins exist for several."""

COMPENSATION = 1.009
"""Loudness that Kim_Vocal_2 takes away, given back."""

OVERLAP = 0.25
"""Share of a chunk that the next one covers again."""

SILENT_BINS = 3
"""Lowest bins (below about 17 Hz) that the network is never given."""

Samples = npt.NDArray[np.float32]


class VocalSeparator:
    """Takes the voice out of a recording.

    Args:
        path: the ONNX file: in and out (batch, 4, bins, columns), the channels real and imaginary parts of the left,
            then of the right spectrogram; columns may be free, then they are 256.
        fft_size: FFT size of a network whose number of bins does not tell it.
        compensation: factor on the result.

    Raises:
        DependencyError: onnxruntime is not installed.
        CheckpointError: no such file, damaged, or a network of another form.

    **Source:** Kim_Vocal_2's published parameters: FFT 7680, hop 1024, 3072 bins, 256 columns, compensation 1.009;
    chunks overlapped by a quarter under a Hann window, as its common runner does it.
    """

    def __init__(self, path: str | Path, *, fft_size: int | None = None, compensation: float = COMPENSATION) -> None:
        path = Path(path)
        self.name = path.name
        self.compensation = np.float32(compensation)
        self.session = _open(path)
        bins, columns = self._form()
        size = FFT_SIZES.get(bins) if fft_size is None else fft_size
        if size is None:
            raise CheckpointError(self.name, f"has {bins} bins, which do not tell its FFT size", "give fft_size")
        if size < 2 * (bins - 1) or size % 2:
            raise CheckpointError(self.name, f"has {bins} bins, which FFT size {size} does not give", "give fft_size")
        self.fft_size = size
        self.bins = bins
        self.chunk = HOP * (columns - 1)
        if self.chunk <= 2 * self.fft_size:
            raise CheckpointError(
                self.name, f"has {columns} columns, too few for its FFT", "give an MDX-Net of 256 columns"
            )
        self.fft_window = torch.hann_window(self.fft_size)

    def separate(self, samples: Samples, sample_rate: int) -> Samples:
        """The voice alone, at the same rate and length.

        Args:
            samples: (1 or 2, n).
            sample_rate: Hz.

        Returns:
            as many channels as given.

        Raises:
            MediaError: an empty sound, or more than two channels.
            CheckpointError: the network fails or gives what is no sound.
        """
        if samples.ndim != 2 or len(samples) not in (1, 2) or not samples.size or sample_rate < 1:
            raise MediaError(
                "vocal_separator", f"a sound of shape {samples.shape} at {sample_rate} Hz", "give (1 or 2, n)"
            )
        stereo = np.repeat(samples, 2, axis=0) if len(samples) == 1 else samples
        voice = _resample(self._overlapped(_resample(stereo, sample_rate, SAMPLE_RATE)), SAMPLE_RATE, sample_rate)
        voice = _fit(voice, samples.shape[1]) * self.compensation
        return voice.mean(axis=0, keepdims=True) if len(samples) == 1 else voice

    def _overlapped(self, mix: Samples) -> Samples:
        """(2, n) at 44.1 kHz, chunk by chunk under a window whose overlapping sums are divided out."""
        margin = self.fft_size // 2
        whole = self.chunk - 2 * margin
        heard = margin + mix.shape[1]
        length = heard + whole + margin - mix.shape[1] % whole
        padded = np.pad(mix, ((0, 0), (margin, length + self.chunk - heard)))
        total, weight = np.zeros((2, length), np.float32), np.zeros(length, np.float32)
        for start in range(0, heard, int((1 - OVERLAP) * self.chunk)):
            part = slice(start, min(start + self.chunk, length))
            window = np.hanning(part.stop - start).astype(np.float32)
            total[:, part] += self._separate_chunk(padded[:, start : start + self.chunk])[:, : len(window)] * window
            weight[part] += window
        voice: Samples = np.divide(total, weight, out=total, where=weight > 0)[:, margin:heard]
        return voice

    def _separate_chunk(self, mix: Samples) -> Samples:
        spectrum = torch.stft(
            torch.from_numpy(mix), self.fft_size, HOP, window=self.fft_window, pad_mode="reflect", return_complex=True
        )
        given = torch.view_as_real(spectrum).permute(0, 3, 1, 2).flatten(0, 1)[None, :, : self.bins].contiguous()
        given[:, :, :SILENT_BINS] = 0
        try:
            (voice,) = self.session.run(None, {self.session.get_inputs()[0].name: given.numpy()})
        except Exception as error:
            raise CheckpointError(self.name, f"the network fails ({error})", "give an MDX-Net separator") from error
        if voice.shape != tuple(given.shape) or not np.isfinite(voice).all():
            raise CheckpointError(self.name, "the network gives no spectrogram of finite values", "get the file again")
        parts = torch.from_numpy(voice)[0].unflatten(0, (2, 2)).permute(0, 2, 3, 1).contiguous()
        filled = torch.nn.functional.pad(torch.view_as_complex(parts), (0, 0, 0, spectrum.shape[1] - self.bins))
        sound: Samples = torch.istft(filled, self.fft_size, HOP, window=self.fft_window, length=self.chunk).numpy()
        return sound

    def _form(self) -> tuple[int, int]:
        """Bins and columns of the network."""
        ends = [*self.session.get_inputs(), *self.session.get_outputs()]
        shape = list(ends[0].shape) if ends else []
        if len(ends) != 2 or len(shape) != 4 or shape[1] != 4 or not isinstance(shape[2], int):
            problem = f"its inputs and outputs are {[(end.name, end.shape) for end in ends]}"
            raise CheckpointError(self.name, problem, "give an MDX-Net of one input (batch, 4, bins, columns)")
        return shape[2], shape[3] if isinstance(shape[3], int) else 256


def _open(path: Path) -> Any:
    """An onnxruntime session on the processor."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "vocal_separator", "onnxruntime is not installed", "install it with: pip install 'humo-video[vocals]'"
        ) from error
    if not path.is_file():
        raise CheckpointError("vocal_separator", f"there is no file {str(path)!r}", "give the path of Kim_Vocal_2.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal: errors are raised, and need not be printed too
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CheckpointError(
            "vocal_separator", f"{path.name!r} is not an ONNX network ({error})", "get the file again"
        ) from error


def _resample(samples: Samples, source: int, target: int) -> Samples:
    if source == target:
        return samples
    resampled: Samples = soxr.resample(samples.T, source, target, quality="HQ").T
    return np.ascontiguousarray(resampled)


def _fit(samples: Samples, length: int) -> Samples:
    return np.pad(samples, ((0, 0), (0, max(0, length - samples.shape[1]))))[:, :length]
