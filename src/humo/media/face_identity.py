"""Embed faces as 128 numbers that are close for images of one person (dlib's residual network).

**Source:** dlib's face recognition model (public domain), from the package ``face_recognition_models``.
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from humo.errors import DependencyError

DETECTION_SIDE_PIXELS = 256
"""Pixels of a frame's longer side for face detection."""

EMBEDDING_SIZE = 128
"""Size of an embedding."""

Embedding = NDArray[np.float64]


class FaceIdentity:
    """dlib's face detector, landmarks and embedding, loaded at first use.

    Raises:
        DependencyError: at first use, if dlib or its models are not installed.
    """

    def embed(self, frame: NDArray[np.uint8]) -> Embedding | None:
        """The embedding (`EMBEDDING`,) of the largest face of a frame (H, W, 3), if one is found."""
        detector, landmarks, recognizer = self._networks
        scale = DETECTION_SIDE_PIXELS / max(frame.shape[:2])
        size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
        image = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        faces = detector(image, 0)
        if not faces:
            return None
        largest = max(faces, key=lambda face: face.area())
        return np.asarray(recognizer.compute_face_descriptor(image, landmarks(image, largest)))

    def embed_all(self, frames: NDArray[np.uint8], count: int = 8) -> Embedding | None:
        """Return the mean embedding of ``count`` evenly spaced frames (F, H, W, 3), over those with a face."""
        picks = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
        embeddings = [one for pick in picks if (one := self.embed(frames[pick])) is not None]
        return np.mean(embeddings, axis=0) if embeddings else None

    @cached_property
    def _networks(self) -> tuple[Any, Any, Any]:
        package = find_spec("face_recognition_models")  # its own import needs what setuptools no longer has
        try:
            import dlib
        except ImportError as error:
            raise _missing("dlib") from error
        if package is None or not package.submodule_search_locations:
            raise _missing("face_recognition_models")
        folder = Path(next(iter(package.submodule_search_locations))) / "models"
        return (
            dlib.get_frontal_face_detector(),
            dlib.shape_predictor(str(folder / "shape_predictor_68_face_landmarks.dat")),
            dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat")),
        )


def _missing(name: str) -> DependencyError:
    return DependencyError("evaluate", f"{name} is not installed", "pip install 'humo-video[evaluate]'")
