"""``humo evaluate video``: metrics of one finished video, without ground truth.

Lip sync is measured against the video's own audio, identity against a reference image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from humo.analysis.face_mesh import FaceMesh
from humo.analysis.lip_sync import MIN_JAW_STD, correlation, correlation_by_lag, predict_jaw
from humo.analysis.mesh_track import track_faces
from humo.errors import MediaError
from humo.geometry import FRAMES_PER_SECOND
from humo.media.audio import load_audio
from humo.media.face_identity import FaceIdentity
from humo.media.image import load_image
from humo.media.video import has_audio, read_video


def measure_video(path: Path, reference: Path | None = None) -> dict[str, float]:
    """Measure what needs no ground truth.

    Args:
        path: video with 25 frames a second.
        reference: image of the person that the video should show.

    Returns:
        ``face_detection_rate``: fraction of frames with a face. With audio, ``mouth_jaw_corr``: correlation of the
        mouth with the jaw curve that the audio predicts (not SyncNet's Sync-C). ``av_offset``: the lag in frames at
        which it is highest (positive: the mouth is late). With a reference, ``id_distance``: distance of dlib's face
        embeddings; below 0.4 the same person, above 0.6 another person. A metric that cannot be measured is left out.

    Raises:
        MediaError: a file cannot be read, the frame rate is wrong, or the reference shows no face.
    """
    video = read_video(path, field="FILE")
    if abs(video.frames_per_second - FRAMES_PER_SECOND) > 0.01:
        rate = f"{video.frames_per_second:g} frames a second"
        remedy = f"convert it: ffmpeg -i {path.name} -r {FRAMES_PER_SECOND} out.mp4"
        raise MediaError("FILE", f"{path.name!r} has {rate}, not {FRAMES_PER_SECOND}", remedy)
    track = track_faces(video.frames, FaceMesh())
    metrics: dict[str, float] = {"face_detection_rate": round(track.detection_rate, 4)}
    mouth = track.mouth_aspect
    if has_audio(path, field="FILE") and mouth is not None:
        jaw = predict_jaw(load_audio(path, field="FILE"))[: len(mouth)]
        if jaw.std() > MIN_JAW_STD:
            lags = correlation_by_lag(mouth, jaw)
            metrics["mouth_jaw_corr"] = round(correlation(mouth, jaw), 4)
            metrics["av_offset"] = max(lags, key=lambda lag: lags[lag])
    if reference is not None:
        recognizer = FaceIdentity()
        in_video = recognizer.embed_all(video.frames)
        in_reference = recognizer.embed(np.asarray(load_image(reference)))
        if in_reference is None:
            raise MediaError("--image", f"no face is detected in {reference.name!r}", "give an image of one face")
        if in_video is not None:
            metrics["id_distance"] = round(float(np.linalg.norm(in_video - in_reference)), 4)
    return metrics
