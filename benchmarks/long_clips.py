"""Quality of a long clip of the built-in model: seams between windows, lip sync, identity, colors and memory.

    python benchmarks/long_clips.py
    python benchmarks/long_clips.py --seconds 60 --overlap 8 12 16 --video long.mp4 --json long.json

A voice that the model was not trained on speaks sentence after sentence. One clip is generated for each overlap, with
the same noise. `start` and `end` are the first and the last ten seconds. Lip sync is measured against the jaw opening
that is predicted from the audio (docs/nano.md).
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

from humo.analysis.face_mesh import FaceMesh
from humo.analysis.lip_sync import correlation, jaw_from_audio
from humo.analysis.mesh_track import track_faces
from humo.checkpoints.model_folder import BUILTIN_MODEL
from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE, TEMPORAL_STRIDE
from humo.inference.inputs import GenerationInputs
from humo.media.audio import AudioTrack
from humo.media.face_identity import FaceIdentity
from humo.media.image import load_image
from humo.media.video import VideoFormat, write_video
from humo.plan import GenerationPlan, resolve
from humo.request import parse_request
from humo.runtime.loading import load_pipeline
from humo.synthetic.speech.synthesis import installed_voices, synthesize

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PROMPT = "A middle-aged woman with red hair cut in a bob, wearing a plain yellow hoodie, speaks outdoors by the sea."
SENTENCES = (
    "Nobody at the station knew why the last train had left so early that evening.",
    "We put the lanterns on the wall, one by one, and waited for the wind to settle.",
    "My grandmother kept every letter in a wooden box under the window.",
    "After the rain the whole valley smelled of bread, smoke and apples.",
    "If you listen long enough, the old house begins to speak in its own way.",  # word kept: spoken text
)
SEGMENT_SECONDS = 10
"""Length of the parts at the start and the end that are compared."""


@dataclass(frozen=True)
class SegmentMetrics:
    """Metrics of a part of the clip.

    Args:
        mouth_jaw_corr: correlation of mouth opening and predicted jaw opening.
        id_distance: distance of the face embeddings to that of the reference image.
        colors: mean red, green and blue, 0..255.
    """

    mouth_jaw_corr: float
    id_distance: float
    colors: tuple[float, float, float]


@dataclass(frozen=True)
class ClipMetrics:
    """Metrics of one clip.

    Args:
        overlap: frames that windows share.
        windows: number of windows.
        seam: median change between frames at window borders, relative to all other frames.
        seam_of_latents: the same, relative to the borders of latent frames inside windows.
        face_detection_rate: share of frames with a face.
        start, end: the first and the last ten seconds.
        seconds: time for each second of the clip.
        peak_bytes: peak memory of the process so far.
    """

    overlap: int
    windows: int
    seam: float
    seam_of_latents: float
    face_detection_rate: float
    start: SegmentMetrics
    end: SegmentMetrics
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
    """Return the first frame of each window after the first, without its overlap."""
    return [TEMPORAL_STRIDE * window.start + 1 for window in plan.windows[1:]]


def measure(
    plan: GenerationPlan, frames: NDArray[np.uint8], jaw: NDArray[np.float64], image: Any, seconds: float
) -> ClipMetrics:
    """Return all metrics of a clip."""
    track = track_faces(frames, FaceMesh())
    change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    at_border = np.zeros(len(change), bool)
    at_border[[number - 1 for number in borders(plan)]] = True
    latent = np.arange(len(change)) % TEMPORAL_STRIDE == 0
    identity = FaceIdentity()
    reference = identity.embed(np.asarray(image))
    assert reference is not None
    mouth = track.mouth_aspect
    length = SEGMENT_SECONDS * FRAMES_PER_SECOND

    def measure_segment(frames_of_segment: slice) -> SegmentMetrics:
        embedding = identity.embed_all(frames[frames_of_segment])
        red, green, blue = (float(value) for value in frames[frames_of_segment].mean(axis=(0, 1, 2)))
        return SegmentMetrics(
            mouth_jaw_corr=0.0
            if mouth is None
            else round(correlation(mouth[frames_of_segment], jaw[frames_of_segment]), 3),
            id_distance=float("nan") if embedding is None else round(float(np.linalg.norm(embedding - reference)), 3),
            colors=(round(red, 1), round(green, 1), round(blue, 1)),
        )

    assert plan.request.overlap is not None
    return ClipMetrics(
        overlap=plan.request.overlap,
        windows=len(plan.windows),
        seam=round(float(np.median(change[at_border]) / np.median(change[~at_border])), 3),
        seam_of_latents=round(float(np.median(change[at_border]) / np.median(change[latent & ~at_border])), 3),
        face_detection_rate=round(track.detection_rate, 3),
        start=measure_segment(slice(0, length)),
        end=measure_segment(slice(len(frames) - length, len(frames))),
        seconds=round(seconds / (len(frames) / FRAMES_PER_SECOND), 2),
        peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


def main() -> None:
    """Generate the clips, and print their metrics."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--overlap", type=int, nargs="+", default=[8])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--model", default=str(BUILTIN_MODEL))
    parser.add_argument("--video", metavar="FILE", help="write the last clip")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    pipeline = load_pipeline(Path(options.model))
    image, audio = load_image(EXAMPLES / "woman.png"), say(options.seconds)
    results: list[ClipMetrics] = []
    for overlap in options.overlap:
        fields = {"prompt": PROMPT, "images": ["woman"], "audio": "said", "overlap": overlap, "steps": options.steps}
        plan = resolve(parse_request(fields), pipeline.preset, len(audio))
        start = time.perf_counter()
        frames = np.stack(list(pipeline.generate_frames(GenerationInputs(plan, [image], audio))))
        seconds = time.perf_counter() - start
        jaw = jaw_from_audio(pipeline.encode_audio(audio, plan.geometry))
        results.append(measure(plan, frames, jaw, image, seconds))
        print(results[-1], flush=True)
    if options.video:
        write_video(
            Path(options.video),
            frames,
            VideoFormat(frames.shape[2], frames.shape[1]),
            metadata={},
            track=AudioTrack(audio[None], SAMPLE_RATE),
        )
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(one) for one in results], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
