"""Sensitivity of metrics: how each moves when a true clip is damaged in one way.

    python benchmarks/metric_sensitivity.py people --clips 12
    python benchmarks/metric_sensitivity.py people --metrics sync_c.latentsync,iqa.musiq_spaq --json table.json

`people` is a folder of `humo data render` with test clips. Every damaged clip is written and read again, as a model's
video is. A metric that `EXPECTED` names has to move that way in the mean; the program fails otherwise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from humo.evaluation.case_sources import read_source
from humo.evaluation.cases import Case
from humo.evaluation.context import CaseContext
from humo.evaluation.metric import Metric
from humo.evaluation.registry import METRICS, SUITES
from humo.evaluation.runner import measure_one
from humo.geometry import FRAMES_PER_SECOND
from humo.media.audio import AudioTrack
from humo.media.clip_reader import TimedClip, read_clip
from humo.media.video import Frame, VideoFormat, write_video

SHIFT_FRAMES = 3
"""Frames by which audio is late in `shifted_audio`."""

FLICKER = 8
"""Gray levels by which every second frame is brighter in `flicker`."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Input of the metrics: frames, audio, and the case with its reference."""

    frames: Frame
    audio: AudioTrack
    case: Case


Damage = Callable[[Clip, Clip], Clip]
"""Takes a clip and another person's clip, and returns the damaged one."""


def blur(clip: Clip, other: Clip) -> Clip:
    """Blur every frame by 2 % of its height."""
    radius = 0.02 * clip.frames.shape[1]
    frames = [np.asarray(Image.fromarray(one).filter(ImageFilter.GaussianBlur(radius))) for one in clip.frames]
    return replace(clip, frames=np.stack(frames))


def swapped_audio(clip: Clip, other: Clip) -> Clip:
    """Take the audio of another clip."""
    return replace(clip, audio=other.audio.fit(clip.audio.seconds))


def shifted_audio(clip: Clip, other: Clip) -> Clip:
    """Let the mouth be late: audio starts earlier."""
    cut = round(SHIFT_FRAMES / FRAMES_PER_SECOND * clip.audio.sample_rate)
    samples = np.concatenate([clip.audio.samples[:, cut:], np.zeros_like(clip.audio.samples[:, :cut])], axis=1)
    return replace(clip, audio=AudioTrack(samples, clip.audio.sample_rate))


def other_person(clip: Clip, other: Clip) -> Clip:
    """Take the reference of another person."""
    return replace(clip, case=replace(clip.case, references=other.case.references))


def flicker(clip: Clip, other: Clip) -> Clip:
    """Brighten every second frame."""
    added = FLICKER * (np.arange(len(clip.frames)) % 2)[:, None, None, None]
    return replace(clip, frames=np.clip(clip.frames.astype(np.int16) + added, 0, 255).astype(np.uint8))


def cut(clip: Clip, other: Clip) -> Clip:
    """Continue with another person's clip from the middle on."""
    half = len(clip.frames) // 2
    return replace(clip, frames=np.concatenate([clip.frames[:half], other.frames[half : len(clip.frames)]]))


def still(clip: Clip, other: Clip) -> Clip:
    """Show the first frame all the time."""
    return replace(clip, frames=np.repeat(clip.frames[:1], len(clip.frames), axis=0))


def hidden_face(clip: Clip, other: Clip) -> Clip:
    """Cover the frame with gray."""
    return replace(clip, frames=np.full_like(clip.frames, 128))


def color_ramp(clip: Clip, other: Clip) -> Clip:
    """Let the frames become redder and darker."""
    ramp = np.linspace(0, 1, len(clip.frames))[:, None, None, None]
    tint = np.array([1.0, 0.6, 0.5])
    return replace(clip, frames=np.round(clip.frames * (1 - ramp + ramp * tint)).astype(np.uint8))


DAMAGES: dict[str, Damage] = {
    "none": lambda clip, other: clip,
    "blur": blur,
    "other audio": swapped_audio,
    "mouth 3 frames late": shifted_audio,
    "other person": other_person,
    "flicker": flicker,
    "cut": cut,
    "still": still,
    "hidden face": hidden_face,
    "color ramp": color_ramp,
}
"""Name -> damage."""

EXPECTED: dict[tuple[str, str], str] = {
    ("face_detection_rate", "hidden face"): "down",
    ("sharpness", "blur"): "down",
    ("mouth_jaw_corr", "other audio"): "down",
    ("mouth_jaw_corr", "mouth 3 frames late"): "down",
    ("mouth_jaw_corr", "still"): "down",
    ("av_offset", "mouth 3 frames late"): "up",
    ("mouth_true_jaw_corr", "still"): "down",
    ("id_dlib", "other person"): "up",
    ("id_drift_dlib", "cut"): "up",
    ("temporal_flicker", "flicker"): "up",
    ("flicker_ratio", "flicker"): "up",
    ("cuts", "cut"): "up",
    ("motion", "still"): "down",
    ("color_drift", "color ramp"): "up",
    ("psnr", "blur"): "down",
    ("psnr", "color ramp"): "down",
    ("iqa.musiq_spaq", "blur"): "down",
    ("aes.vbench", "blur"): "down",
    ("id.curricular", "other person"): "down",
    ("id.glint", "other person"): "down",
    ("clip_i.vit_l_14", "other person"): "down",
    ("dino_i.v2_base", "other person"): "down",
    ("sync_c.mocha", "other audio"): "down",
    ("sync_d.mocha", "other audio"): "up",
    ("sync_c.latentsync", "other audio"): "down",
}
"""(metric, damage) -> how the metric has to move."""


def load_clips(folder: Path, count: int) -> list[Clip]:
    """Return the first test clips with audio, one of each person in turn."""
    clips = []
    for case in read_source(folder, count).cases:
        assert case.truth_video is not None
        clip: TimedClip = read_clip(case.truth_video)
        if clip.audio is not None:
            clips.append(Clip(clip.frames, clip.audio, replace(case, audio=None)))
    return clips


def measure_damaged(
    clips: Sequence[Clip], metrics: Sequence[Metric], damages: Sequence[str]
) -> dict[str, dict[str, list[float | None]]]:
    """Return damage -> metric -> value of each clip."""
    table: dict[str, dict[str, list[float | None]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for name in damages:
            table[name] = {metric.name: [] for metric in metrics}
            for number, clip in enumerate(clips):
                other = next(one for one in [*clips[number + 1 :], *clips] if one.case.person != clip.case.person)
                damaged = DAMAGES[name](clip, other)
                height, width = damaged.frames.shape[1:3]
                write_video(path, damaged.frames, VideoFormat(width, height), metadata={}, track=damaged.audio)
                context = CaseContext(damaged.case, path)
                for metric in metrics:
                    table[name][metric.name].append(measure_one(metric, context, "").value)
    return table


def mean_difference(table: Any, metric: str, damage: str) -> float | None:
    """Return the mean of a metric's change over clips that have both values."""
    pairs = zip(table["none"][metric], table[damage][metric], strict=True)
    deltas = [after - before for before, after in pairs if before is not None and after is not None]
    return float(np.mean(deltas)) if deltas else None


def unexpected(table: Any) -> list[str]:
    """Return the expectations that do not hold."""
    problems = []
    for (metric, damage), direction in EXPECTED.items():
        if damage not in table or metric not in table[damage]:
            continue
        delta = mean_difference(table, metric, damage)
        if delta is None or delta == 0 or (delta > 0) != (direction == "up"):
            problems.append(f"{metric} does not go {direction} with {damage!r}: {delta}")
    return problems


def markdown(table: Any) -> str:
    """Return the table with the mean of the true clips and the mean change of each damage; expected ones are bold."""
    damages = [name for name in table if name != "none"]
    lines = [f"| metric | true clips | {' | '.join(damages)} |", "|---" * (len(damages) + 2) + "|"]
    for metric, values in table["none"].items():
        present = [value for value in values if value is not None]
        cells = [f"{np.mean(present):.3g}" if present else "–"]
        for damage in damages:
            delta = mean_difference(table, metric, damage)
            text = "no value" if delta is None else f"{delta:+.3g}"
            cells.append(f"**{text}**" if (metric, damage) in EXPECTED else text)
        lines.append(f"| `{metric}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, and fail if a metric moves the wrong way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="a folder of humo data render with test clips")
    parser.add_argument("--clips", type=int, default=12, help="number of clips (default 12)")
    parser.add_argument("--metrics", default=",".join(SUITES["rendered"].metrics), help="names, separated by commas")
    parser.add_argument("--json", type=Path, help="write all values")
    options = parser.parse_args(arguments)
    metrics = [METRICS[name] for name in options.metrics.split(",")]
    table = measure_damaged(load_clips(options.folder, options.clips), metrics, list(DAMAGES))
    print(markdown(table))
    result = {"clips": options.clips, "values": table, "unexpected": unexpected(table)}
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for problem in result["unexpected"]:
        print(problem)
    return result


if __name__ == "__main__":
    raise SystemExit(bool(main()["unexpected"]))
