"""Whether a long clip stays what it was: seams, lips, the person, colours and memory, by the model inside the package.

    python benchmarks/long_clips.py
    python benchmarks/long_clips.py --seconds 60 --overlap 8 12 16 --video long.mp4 --json long.json

A sentence after sentence is said by a voice that the model was not trained on; one clip is made for each overlap, with
the same noise. `start` and `end` are the first and the last ten seconds. Lips are measured against what the sound
implies, which is a guess (docs/nano.md).
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.checkpoints.model_folder import BUILTIN_MODEL
from humo.evaluation.face_mesh import FaceMesh
from humo.evaluation.lip_sync import jaw_from_audio
from humo.evaluation.metrics import correlation, track_faces
from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE, TEMPORAL_STRIDE
from humo.inference.inputs import GenerationInputs
from humo.media.audio import AudioTrack
from humo.media.face_identity import FaceIdentity
from humo.media.image import load_image
from humo.media.video import VideoFormat, write_video
from humo.request import GenerationPlan, parse_request, resolve
from humo.runtime.loading import load_pipeline
from humo.synthetic.speech.synthesis import installed_voices, synthesize

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PROMPT = "A middle-aged woman with red hair cut in a bob, wearing a plain yellow hoodie, speaks outdoors by the sea."
SENTENCES = (
    "Nobody at the station knew why the last train had left so early that evening.",
    "We put the lanterns on the wall, one by one, and waited for the wind to settle.",
    "My grandmother kept every letter in a wooden box under the window.",
    "After the rain the whole valley smelled of bread, smoke and apples.",
    "If you listen long enough, the old house begins to speak in its own way.",
)
PART_SECONDS = 10


@dataclass(frozen=True)
class Part:
    """A stretch of the clip: lips, distance to the picture, mean colours (0..255)."""

    lips: float
    distance: float
    colours: tuple[float, float, float]


@dataclass(frozen=True)
class Figures:
    """Of one clip.

    Args:
        overlap: frames that windows share.
        windows: how many.
        seam: change between frames where a window's part ends, in that of all other frames (medians).
        seam_of_latents: the same in that of frames where any other latent frame ends.
        faces: share of frames with a face.
        start, end: the first and the last ten seconds.
        seconds: it took, for each second of the clip.
        peak_bytes: most memory of the process by then.
    """

    overlap: int
    windows: int
    seam: float
    seam_of_latents: float
    faces: float
    start: Part
    end: Part
    seconds: float
    peak_bytes: int


def say(seconds: float) -> NDArray[np.float32]:
    """Sentence after sentence, (samples,) at 16 kHz."""
    voice = next(voice for voice in installed_voices() if voice.is_held_out and voice.gender == "woman")
    parts: list[NDArray[np.float32]] = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        parts.append(synthesize(SENTENCES[len(parts) % len(SENTENCES)], voice).samples)
    return np.concatenate(parts)[: round(seconds * SAMPLE_RATE)]


def borders(plan: GenerationPlan) -> list[int]:
    """Numbers of the frames with which a window's own part begins."""
    return [TEMPORAL_STRIDE * window.start + 1 for window in plan.windows[1:]]


def measure(
    plan: GenerationPlan, frames: NDArray[np.uint8], jaw: NDArray[np.float64], picture: Any, took: float
) -> Figures:
    """All figures of a clip."""
    watched = track_faces(frames, FaceMesh())
    change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    at_border = np.zeros(len(change), bool)
    at_border[[number - 1 for number in borders(plan)]] = True
    latent = np.arange(len(change)) % TEMPORAL_STRIDE == 0
    identity = FaceIdentity()
    wanted = identity.embed(np.asarray(picture))
    assert wanted is not None
    mouth = watched.mouth_aspect
    length = PART_SECONDS * FRAMES_PER_SECOND

    def part(where: slice) -> Part:
        own = identity.embed_all(frames[where])
        red, green, blue = (float(value) for value in frames[where].mean(axis=(0, 1, 2)))
        return Part(
            lips=0.0 if mouth is None else round(correlation(mouth[where], jaw[where]), 3),
            distance=float("nan") if own is None else round(float(np.linalg.norm(own - wanted)), 3),
            colours=(round(red, 1), round(green, 1), round(blue, 1)),
        )

    assert plan.request.overlap is not None
    return Figures(
        overlap=plan.request.overlap,
        windows=len(plan.windows),
        seam=round(float(np.median(change[at_border]) / np.median(change[~at_border])), 3),
        seam_of_latents=round(float(np.median(change[at_border]) / np.median(change[latent & ~at_border])), 3),
        faces=round(watched.detection_rate, 3),
        start=part(slice(0, length)),
        end=part(slice(len(frames) - length, len(frames))),
        seconds=round(took / (len(frames) / FRAMES_PER_SECOND), 2),
        peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


def main() -> None:
    """Make the clips, and print their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--overlap", type=int, nargs="+", default=[8])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--model", default=str(BUILTIN_MODEL))
    parser.add_argument("--video", metavar="FILE", help="write the last clip")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    pipeline = load_pipeline(Path(options.model))
    picture, sound = load_image(EXAMPLES / "woman.png"), say(options.seconds)
    found: list[Figures] = []
    for overlap in options.overlap:
        fields = {"prompt": PROMPT, "images": ["woman"], "audio": "said", "overlap": overlap, "steps": options.steps}
        plan = resolve(parse_request(fields), pipeline.preset, len(sound))
        began = time.perf_counter()
        frames = np.stack(list(pipeline.generate_frames(GenerationInputs(plan, [picture], sound))))
        took = time.perf_counter() - began
        jaw = jaw_from_audio(pipeline.encode_audio(sound, plan.geometry))
        found.append(measure(plan, frames, jaw, picture, took))
        print(found[-1], flush=True)
    if options.video:
        write_video(
            Path(options.video),
            frames,
            VideoFormat(frames.shape[2], frames.shape[1]),
            metadata={},
            track=AudioTrack(sound[None], SAMPLE_RATE),
        )
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
