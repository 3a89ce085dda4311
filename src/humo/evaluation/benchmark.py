"""``humo evaluate nano``, the whole story: clips are made anew, and measured against the true ones.

    each clip   from its caption, the picture of the same person elsewhere, and its sound: the mode TIA; then TA
    lips        the mouth's aspect in the mesh against the true jaw curve, and against those of other clips
    person      distance to the picture, and whether it is the nearest of sixteen
    words       what a reader trained on true clips reads off the frames
    ceilings    the same of the true clips, and of the true clips through the autoencoder

Voices and sentences are held out in both splits; the seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from humo.errors import RequestError
from humo.evaluation.attribute_classifier import ATTRIBUTES, AttributeReader, open_reader, shown
from humo.evaluation.face_mesh import FaceMesh
from humo.evaluation.metrics import LEAST_MOTION, Frames, Watched, correlation, lagged, psnr, unrest, watch
from humo.geometry import snap_frames
from humo.inference.pipeline import HuMoPipeline
from humo.media.audio import load_sound
from humo.media.face_identity import Embedding, FaceIdentity
from humo.media.image import load_image, to_pixels
from humo.media.video import read_video
from humo.training.config import Data
from humo.training.dataset import ClipFiles, read_attributes, read_truth, scan

MODES = ("TIA", "TA")
"""In which clips are made."""

SPLITS = {"seen": "test-seen", "unseen": "test"}
"""People trained on, in new looks; people never seen."""

CROWD = 16
"""People of whom the right one has to be the nearest."""

BATCH = 4
"""Clips made at once."""

REFERENCE = "reference_"
"""Columns of what the reference picture shows begin so."""

Progress = Callable[[str, int, int], None]
Figures = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One clip to be made anew.

    Args:
        clip: its files.
        group: seen or unseen.
        person: number of the identity.
        words: attribute -> value, of the clip.
        pictured: the same, of the reference picture.
        frames: true ones, (F, H, W, 3).
        jaw: true curve, (F,).
    """

    clip: ClipFiles
    group: str
    person: str
    words: Mapping[str, str]
    pictured: Mapping[str, str]
    frames: Frames
    jaw: NDArray[np.float64]


def find_cases(folder: str, count: int, frames: int) -> list[Case]:
    """The first clips with sound, half of each group.

    Args:
        folder: a synthetic corpus with clips of the test splits.
        count: of both groups together.
        frames: of each.

    Raises:
        RequestError: there are not as many.
    """
    data = Data(folder=folder)
    found = scan(data)
    plain = ("person", "has_sound", *ATTRIBUTES)
    pictured = tuple(f"{REFERENCE}{name}" for name in ("clothes_colour", "background"))
    cases: list[Case] = []
    for group, split in SPLITS.items():
        clips = found.clips.get(split, ())
        rows = read_attributes(data, clips, (*plain, *pictured)) if clips else {}
        heard = [clip for clip in clips if rows[clip.name][1] == "True"][: count // 2]
        if len(heard) < count // 2:
            more = f"humo data synth {folder} --clips {2 * count} --split {split}"
            raise RequestError("data", f"{folder!r} has {len(heard)} clips of {split} with sound", f"make more: {more}")
        for clip in heard:
            row = dict(zip((*plain, *pictured), rows[clip.name], strict=True))
            assert clip.truth is not None
            curve = read_truth(clip.truth).mouth
            assert curve is not None
            cases.append(
                Case(
                    clip,
                    group,
                    row["person"],
                    {name: shown(name, row[name]) for name in ATTRIBUTES},
                    {name.removeprefix(REFERENCE): row[name] for name in pictured},
                    read_video(clip.video).frames[:frames],
                    curve[:frames, 0].astype(np.float64),
                )
            )
    return cases


def evaluate(
    pipeline: HuMoPipeline,
    folder: str,
    count: int,
    progress: Progress = lambda name, done, total: None,
    *,
    modes: Sequence[str] = MODES,
    seeds: int = 1,
    **settings: Any,
) -> Figures:
    """Every figure of a model, beside those of the true clips.

    Args:
        pipeline: the model.
        folder: a synthetic corpus with clips of the test splits.
        count: clips, half of them of people never seen.
        progress: told (phase, done, total).
        modes: in which clips are made.
        seeds: times that each clip is made, from other noise.
        settings: of the calls that make the clips, where not the model's defaults.

    Returns:
        figure by measure, kind of clip and group; shares and correlations 0..1. With several seeds it is their mean,
        and ``..._spread`` is their standard deviation.

    Raises:
        HuMoError: the corpus has too few clips, or a package is missing.
    """
    frames = int(settings.get("num_frames") or pipeline.preset.trained_frames)
    cases = find_cases(folder, count, frames)
    eyes = Eyes(cases)
    kinds: dict[str, list[list[Frames]]] = {
        "true": [[case.frames for case in cases]],
        "autoencoder": [[round_trip(case.frames, pipeline) for case in cases]],
    }
    for mode in modes:
        kinds[mode] = [make(pipeline, cases, mode, progress, run * len(cases), **settings) for run in range(seeds)]
    figures: Figures = {}
    for kind, runs in kinds.items():
        looks = [eyes.look_at_all(clips, partial(progress, f"measure {kind}")) for clips in runs]
        figures[kind] = {}
        for group in (*SPLITS, "all"):
            chosen = [number for number, case in enumerate(cases) if group in (case.group, "all")]
            figures[kind][group] = _together([eyes.figures(kind, seen, chosen) for seen in looks])
    return figures


def _together(runs: Sequence[Figures]) -> Figures:
    """The mean of each figure over runs with other seeds, and its spread; of one run, its figures."""
    if len(runs) == 1:
        return runs[0]
    found: Figures = {}
    for name in runs[0]:
        values = [run[name] for run in runs if name in run]
        found |= {name: round(float(np.mean(values)), 4), f"{name}_spread": round(float(np.std(values)), 4)}
    return found


def make(
    pipeline: HuMoPipeline,
    cases: Sequence[Case],
    mode: str,
    progress: Progress,
    first_seed: int = 0,
    **settings: Any,
) -> list[Frames]:
    """The clips made anew in a mode, each from a seed of its own."""
    made: list[Frames] = []
    for start in range(0, len(cases), BATCH):
        progress(f"make {mode}", start, len(cases))
        several = cases[start : start + BATCH]
        output = pipeline(
            [case.clip.captions[0] for case in several],
            images=[[load_image(case.clip.reference)] for case in several] if "I" in mode else None,
            audio=[load_sound(case.clip.video, field="sound") for case in several] if "A" in mode else None,
            generator=[torch.Generator().manual_seed(first_seed + start + number) for number in range(len(several))],
            output_type="np",
            batch_passes=True,
            **({"num_frames": len(cases[0].frames)} | settings),
        )
        made += [np.round(255 * clip).astype(np.uint8) for clip in output.frames]
    progress(f"make {mode}", len(cases), len(cases))
    return made


def round_trip(frames: Frames, pipeline: HuMoPipeline) -> Frames:
    """A clip through the autoencoder."""
    length = snap_frames(len(frames))
    pixels = np.stack([to_pixels(frame) for frame in frames[:length]], axis=1)
    with torch.no_grad():
        latents = pipeline.vae.encode(torch.from_numpy(pixels)[None].to(pipeline.vae.device)).latent_dist.mode()
        video = pipeline.vae.decode(latents).sample[0].clamp(-1, 1)
    again: Frames = ((video.movedim(0, -1) + 1) * 127.5).round().byte().cpu().numpy()
    return again


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of a clip: its mesh, who it is, and the words read off it."""

    watched: Watched
    identity: Embedding | None
    read: Mapping[str, str]


class Eyes:
    """Looks at clips, and knows the true ones.

    Args:
        cases: all of them.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self._mesh, self._identity, self._reader = FaceMesh(), FaceIdentity(), open_reader()
        self._pictures = [self._identity.embed(np.asarray(load_image(case.clip.reference))) for case in cases]
        self._unrest = [unrest(watch(case.frames, self._mesh)) for case in cases]

    @property
    def reader(self) -> AttributeReader:
        """Of words."""
        return self._reader

    def look_at_all(self, clips: Sequence[Frames], progress: Callable[[int, int], None]) -> list[Seen]:
        """`look` at each."""
        seen = []
        for number, clip in enumerate(clips):
            progress(number, len(clips))
            seen.append(self.look(clip))
        progress(len(clips), len(clips))
        return seen

    def look(self, frames: Frames) -> Seen:
        """Everything that is to be seen of a clip."""
        return Seen(watch(frames, self._mesh), self._identity.embed_all(frames), self._reader.read(frames))

    def figures(self, kind: str, seen: Sequence[Seen], chosen: Sequence[int]) -> Figures:
        """All figures over some clips; one that none of them has is left out."""
        restless = [unrest(seen[number].watched) / self._unrest[number] for number in chosen]
        found: Figures = {
            "clips": len(chosen),
            "faces": _mean([seen[number].watched.found for number in chosen]),
            "unrest": float(np.median(restless)),
            "psnr": _mean([psnr(seen[number].watched.frames, self.cases[number].frames) for number in chosen]),
            **self._lips(seen, chosen),
        }
        if kind != "TA":
            found |= self._person(seen, chosen)
        for name in ATTRIBUTES:
            found[name] = _mean([seen[n].read[name] == self.cases[n].words[name] for n in chosen])
        for name in ("clothes_colour", "background"):
            other = [n for n in chosen if self.cases[n].words[name] != self.cases[n].pictured[name]]
            found[f"{name}_unlike_picture"] = _mean([seen[n].read[name] == self.cases[n].words[name] for n in other])
        return {name: value for name, value in found.items() if not np.isnan(value)}

    def _lips(self, seen: Sequence[Seen], chosen: Sequence[int]) -> Figures:
        """Correlation with the jaw curve at lag 0, with those of other clips, and the lag at which it is the best."""
        moving = [number for number in chosen if self.cases[number].jaw.std() > LEAST_MOTION]
        own, others, lags = [], [], []
        for number in moving:
            mouth = seen[number].watched.mouth
            if mouth is None:
                own.append(0.0)
                continue
            own.append(correlation(mouth, self.cases[number].jaw))
            others += [correlation(mouth, self.cases[other].jaw) for other in moving if other != number]
            lags.append(lagged(mouth, self.cases[number].jaw))
        mean = {lag: _mean([one[lag] for one in lags]) for lag in (lags[0] if lags else ())}
        best = max(mean, key=lambda lag: mean[lag], default=0)
        return {"lips": _mean(own), "lips_other_sound": _mean(others), "lips_best_lag": best}

    def _person(self, seen: Sequence[Seen], chosen: Sequence[int]) -> Figures:
        """Mean distance to the picture, share of clips nearer to it than to those of fifteen other people."""
        distances, nearest = [], []
        for number in chosen:
            identity, picture = seen[number].identity, self._pictures[number]
            if picture is None:
                continue
            if identity is None:
                nearest.append(False)
                continue
            crowd = [
                other
                for place in range(1, len(self.cases))
                if self.cases[n := (number + place) % len(self.cases)].person != self.cases[number].person
                and (other := self._pictures[n]) is not None
            ][: CROWD - 1]
            own = float(np.linalg.norm(identity - picture))
            distances.append(own)
            nearest.append(all(own < np.linalg.norm(identity - other) for other in crowd))
        return {"identity_distance": _mean(distances), "identity_nearest": _mean(nearest)}


def _mean(values: Sequence[float | bool]) -> float:
    """The mean, NaN of none."""
    return round(float(np.mean(values)), 4) if len(values) else float("nan")
