"""``humo evaluate benchmark``: generate the clips of a rendered test set again and compare them with ground truth.

    generate        each clip from its caption, a reference image of the person and its audio (mode TIA); then TA
    lip sync        mouth aspect in the face mesh against the true jaw curve, and against those of other clips
    identity        distance to the reference image, and top-1 retrieval among sixteen people
    attributes      classes that a network trained on rendered clips predicts from the frames
    upper bounds    the same metrics of the true clips, and of the true clips through the autoencoder

The voices and sentences of the test clips are in no training clip. Seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from humo.analysis.face_mesh import FaceMesh
from humo.analysis.lip_sync import MIN_JAW_STD, correlation, correlation_by_lag
from humo.analysis.mesh_track import Frames, MeshTrack, track_faces
from humo.analysis.stability import temporal_flicker
from humo.errors import RequestError
from humo.evaluation.attribute_classifier import (
    ATTRIBUTES,
    AttributeClassifier,
    attribute_value,
    load_classifier,
)
from humo.geometry import snap_frames
from humo.inference.pipeline import HuMoPipeline
from humo.media.audio import load_audio
from humo.media.face_identity import Embedding, FaceIdentity
from humo.media.image import load_image, to_pixels
from humo.media.video import read_video
from humo.progress import Progress
from humo.training.config import DataConfig
from humo.training.dataset import ClipFiles, read_attributes, read_truth, scan_corpus

MODES = ("TIA", "TA")
"""Modes in which clips are generated."""

SPLITS = {"seen": "test-seen", "unseen": "test"}
"""Group -> split of the corpus: people of the training set in new looks; people that are not in the training set."""

GALLERY_SIZE = 16
"""Number of people among whom ``id_top1`` searches."""

BATCH_SIZE = 4
"""Number of clips that are generated at once."""

REFERENCE_PREFIX = "reference_"
"""Prefix of the columns of truth/attributes.parquet that describe the reference image."""

CHANGING_ATTRIBUTES = ("clothes_colour", "background")  # word kept: column of corpora
"""Attributes in which a reference image may differ from its clip."""

Metrics = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Sample:
    """One test clip with its ground truth.

    Args:
        clip: its files.
        group: ``seen`` or ``unseen``.
        person: number of the identity.
        attributes: attribute -> value, of the clip.
        reference_attributes: the same of the reference image, for `CHANGING_ATTRIBUTES`.
        frames: of the true clip, (F, H, W, 3).
        jaw: true jaw curve, (F,).
    """

    clip: ClipFiles
    group: str
    person: str
    attributes: Mapping[str, str]
    reference_attributes: Mapping[str, str]
    frames: Frames
    jaw: NDArray[np.float64]


def load_samples(folder: str, count: int, frames: int) -> list[Sample]:
    """Load the first test clips with audio, half of them of each group.

    Args:
        folder: rendered corpus with clips of the test splits.
        count: number of clips of both groups together.
        frames: number of frames to read of each clip.

    Raises:
        RequestError: a split has too few clips.
    """
    data = DataConfig(folder=folder)
    corpus = scan_corpus(data)
    reference_columns = (f"{REFERENCE_PREFIX}{name}" for name in CHANGING_ATTRIBUTES)
    columns = ("person", "has_sound", *ATTRIBUTES, *reference_columns)  # word kept: column of corpora
    samples: list[Sample] = []
    for group, split in SPLITS.items():
        clips = corpus.clips.get(split, ())
        rows = read_attributes(data, clips, columns) if clips else {}
        with_audio = [clip for clip in clips if rows[clip.name][1] == "True"][: count // 2]
        if len(with_audio) < count // 2:
            command = f"humo data render {folder} --clips {2 * count} --split {split}"
            problem = f"{folder!r} has {len(with_audio)} clips of split {split!r} with audio, fewer than {count // 2}"
            raise RequestError("--data", problem, f"render more: {command}")
        samples += [
            _load_sample(clip, group, dict(zip(columns, rows[clip.name], strict=True)), frames) for clip in with_audio
        ]
    return samples


def _load_sample(clip: ClipFiles, group: str, row: Mapping[str, str], frames: int) -> Sample:
    """Read a clip's frames and jaw curve; ``row`` holds its columns of truth/attributes.parquet."""
    assert clip.truth is not None
    curve = read_truth(clip.truth).mouth
    assert curve is not None
    return Sample(
        clip,
        group,
        row["person"],
        {name: attribute_value(name, row[name]) for name in ATTRIBUTES},
        {name: row[f"{REFERENCE_PREFIX}{name}"] for name in CHANGING_ATTRIBUTES},
        read_video(clip.video).frames[:frames],
        curve[:frames, 0].astype(np.float64),
    )


def evaluate(
    pipeline: HuMoPipeline,
    folder: str,
    count: int,
    progress: Progress = lambda name, done, total: None,
    *,
    modes: Sequence[str] = MODES,
    seeds: int = 1,
    **settings: Any,
) -> Metrics:
    """Measure a model, and the true clips beside it.

    Args:
        pipeline: the model.
        folder: rendered corpus with clips of the test splits.
        count: number of clips, half of them of people that are not in the training set.
        progress: called with (phase, done, total).
        modes: modes in which clips are generated.
        seeds: number of times that each clip is generated, each time with another seed.
        settings: arguments of the pipeline's call that replace the model's defaults.

    Returns:
        row (``ground_truth``, ``reconstruction`` or a mode) -> group (``seen``, ``unseen`` or ``all``) -> metric ->
        value. Rates and correlations are in 0..1. With several seeds a value is the mean over them, and ``..._std``
        their standard deviation.

    Raises:
        HuMoError: the corpus has too few clips, or a package is missing.
    """
    frames = int(settings.get("num_frames") or pipeline.preset.trained_frames)
    samples = load_samples(folder, count, frames)
    evaluator = Evaluator(samples)
    rows: dict[str, list[list[Frames]]] = {
        "ground_truth": [[sample.frames for sample in samples]],
        "reconstruction": [[reconstruct(sample.frames, pipeline) for sample in samples]],
    }
    for mode in modes:
        rows[mode] = [
            generate_clips(pipeline, samples, mode, progress, run * len(samples), **settings) for run in range(seeds)
        ]
    report: Metrics = {}
    for row, runs in rows.items():
        measured = [evaluator.measure_all(clips, partial(progress, f"measure {row}")) for clips in runs]
        report[row] = {}
        for group in (*SPLITS, "all"):
            indices = [number for number, sample in enumerate(samples) if group in (sample.group, "all")]
            report[row][group] = mean_and_std([evaluator.metrics(row, clips, indices) for clips in measured])
    return report


def psnr(a: Frames, b: Frames) -> float:
    """Return the peak signal-to-noise ratio of two clips in dB."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def mean_and_std(runs: Sequence[Metrics]) -> Metrics:
    """Return mean and standard deviation of each metric over runs; of one run, its metrics as they are."""
    if len(runs) == 1:
        return runs[0]
    merged: Metrics = {}
    for name in runs[0]:
        values = [run[name] for run in runs if name in run]
        merged |= {name: round(float(np.mean(values)), 4), f"{name}_std": round(float(np.std(values)), 4)}
    return merged


def generate_clips(
    pipeline: HuMoPipeline,
    samples: Sequence[Sample],
    mode: str,
    progress: Progress,
    first_seed: int = 0,
    **settings: Any,
) -> list[Frames]:
    """Generate a clip for each sample in a mode; seeds are consecutive from ``first_seed`` on."""
    clips: list[Frames] = []
    for start in range(0, len(samples), BATCH_SIZE):
        progress(f"generate {mode}", start, len(samples))
        batch = samples[start : start + BATCH_SIZE]
        output = pipeline(
            [sample.clip.captions[0] for sample in batch],
            images=[[load_image(sample.clip.reference)] for sample in batch] if "I" in mode else None,
            audio=[load_audio(sample.clip.video, field="audio") for sample in batch] if "A" in mode else None,
            generator=[torch.Generator().manual_seed(first_seed + start + number) for number in range(len(batch))],
            output_type="np",
            batch_passes=True,
            **({"num_frames": len(samples[0].frames)} | settings),
        )
        clips += [np.round(255 * clip).astype(np.uint8) for clip in output.frames]
    progress(f"generate {mode}", len(samples), len(samples))
    return clips


def reconstruct(frames: Frames, pipeline: HuMoPipeline) -> Frames:
    """Encode a clip with the autoencoder and decode it again."""
    length = snap_frames(len(frames))
    pixels = np.stack([to_pixels(frame) for frame in frames[:length]], axis=1)
    with torch.no_grad():
        latents = pipeline.vae.encode(torch.from_numpy(pixels)[None].to(pipeline.vae.device)).latent_dist.mode()
        video = pipeline.vae.decode(latents).sample[0].clamp(-1, 1)
    decoded: Frames = ((video.movedim(0, -1) + 1) * 127.5).round().byte().cpu().numpy()
    return decoded


@dataclass(frozen=True, eq=False)
class ClipMeasurement:
    """Measurements of one clip that all metrics are computed from.

    Args:
        track: face mesh of every frame.
        identity: mean face embedding; None if no face was recognized.
        attributes: attribute -> predicted class.
    """

    track: MeshTrack
    identity: Embedding | None
    attributes: Mapping[str, str]


class Evaluator:
    """Measures clips and compares them with the true clips.

    Args:
        samples: the test set.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self._mesh, self._recognizer, self._classifier = FaceMesh(), FaceIdentity(), load_classifier()
        self._gallery = [self._recognizer.embed(np.asarray(load_image(sample.clip.reference))) for sample in samples]
        self._true_flicker = [temporal_flicker(track_faces(sample.frames, self._mesh)) for sample in samples]

    @property
    def classifier(self) -> AttributeClassifier:
        """Classifier of attributes."""
        return self._classifier

    def measure_all(self, clips: Sequence[Frames], progress: Callable[[int, int], None]) -> list[ClipMeasurement]:
        """Call `measure` for each clip."""
        measurements = []
        for number, clip in enumerate(clips):
            progress(number, len(clips))
            measurements.append(self.measure(clip))
        progress(len(clips), len(clips))
        return measurements

    def measure(self, frames: Frames) -> ClipMeasurement:
        """Measure one clip (F, H, W, 3)."""
        track = track_faces(frames, self._mesh)
        return ClipMeasurement(track, self._recognizer.embed_all(frames), self._classifier.classify(frames))

    def metrics(self, row: str, measured: Sequence[ClipMeasurement], indices: Sequence[int]) -> Metrics:
        """Compute all metrics over some samples; a metric that no sample has is left out.

        Args:
            row: ``ground_truth``, ``reconstruction`` or a mode; identity is not measured in mode TA.
            measured: one measurement a sample.
            indices: samples to average over.
        """
        flicker = [temporal_flicker(measured[n].track) / self._true_flicker[n] for n in indices]
        metrics: Metrics = {
            "clips": len(indices),
            "face_detection_rate": _mean([measured[n].track.detection_rate for n in indices]),
            "temporal_flicker": float(np.median(flicker)),
            "psnr": _mean([psnr(measured[n].track.frames, self.samples[n].frames) for n in indices]),
            **self._lip_metrics(measured, indices),
        }
        if row != "TA":
            metrics |= self._identity_metrics(measured, indices)
        for name in ATTRIBUTES:
            metrics[name] = self._accuracy(name, measured, indices)
        for name in CHANGING_ATTRIBUTES:
            changed = [
                n for n in indices if self.samples[n].attributes[name] != self.samples[n].reference_attributes[name]
            ]
            metrics[f"{name}_changed"] = self._accuracy(name, measured, changed)
        return {name: value for name, value in metrics.items() if not np.isnan(value)}

    def _accuracy(self, name: str, measured: Sequence[ClipMeasurement], indices: Sequence[int]) -> float:
        """Return the fraction of samples whose predicted attribute is the true one."""
        return _mean([measured[n].attributes[name] == self.samples[n].attributes[name] for n in indices])

    def _lip_metrics(self, measured: Sequence[ClipMeasurement], indices: Sequence[int]) -> Metrics:
        """Compute the correlation of mouth and true jaw, that with the jaws of other samples, and the best lag.

        ``mouth_jaw_corr`` is not SyncNet's Sync-C. ``av_offset`` is positive where the mouth is late.
        """
        speaking = [n for n in indices if self.samples[n].jaw.std() > MIN_JAW_STD]
        matched, mismatched, by_lag = [], [], []
        for number in speaking:
            mouth = measured[number].track.mouth_aspect
            if mouth is None:
                matched.append(0.0)
                continue
            matched.append(correlation(mouth, self.samples[number].jaw))
            mismatched += [correlation(mouth, self.samples[other].jaw) for other in speaking if other != number]
            by_lag.append(correlation_by_lag(mouth, self.samples[number].jaw))
        mean = {lag: _mean([lags[lag] for lags in by_lag]) for lag in (by_lag[0] if by_lag else ())}
        offset = max(mean, key=lambda lag: mean[lag], default=0)
        return {"mouth_jaw_corr": _mean(matched), "mouth_jaw_corr_mismatched": _mean(mismatched), "av_offset": offset}

    def _identity_metrics(self, measured: Sequence[ClipMeasurement], indices: Sequence[int]) -> Metrics:
        """Compute the mean distance to the reference, and top-1 retrieval among `GALLERY_SIZE` people."""
        distances, hits = [], []
        for number in indices:
            identity, reference = measured[number].identity, self._gallery[number]
            if reference is None:
                continue
            if identity is None:
                hits.append(False)
                continue
            distance = float(np.linalg.norm(identity - reference))
            distances.append(distance)
            hits.append(all(distance < np.linalg.norm(identity - other) for other in self._other_people(number)))
        return {"id_distance": _mean(distances), "id_top1": _mean(hits)}

    def _other_people(self, number: int) -> list[Embedding]:
        """Return the references of the `GALLERY_SIZE` - 1 other people that follow a sample in the test set."""
        following = [(number + offset) % len(self.samples) for offset in range(1, len(self.samples))]
        person = self.samples[number].person
        others = [self._gallery[n] for n in following if self.samples[n].person != person]
        return [embedding for embedding in others if embedding is not None][: GALLERY_SIZE - 1]


def _mean(values: Sequence[float | bool]) -> float:
    """Return the mean rounded to four digits; NaN of no values."""
    return round(float(np.mean(values)), 4) if len(values) else float("nan")
