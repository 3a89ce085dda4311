"""Sharpness of the face in a clip.

**Source:** the variance of the Laplacian as a measure of focus (Pech-Pacheco et al., "Diatom autofocusing in
brightfield microscopy", 2000).
"""

from __future__ import annotations

import numpy as np

from humo.analysis.face_mesh import Face, Frame
from humo.analysis.opencv import opencv

FACE_SIDE = 128
"""Largest side in pixels of the image of a face in which sharpness is measured."""


def face_sharpness(frame: Frame, face: Face) -> float:
    """Return the deviation of the Laplacian of a face over that of the image, so that a dark face is not a blurred one.

    Args:
        frame: (H, W, 3).
        face: from `face_mesh.FaceMesh.detect`.
    """
    cv2 = opencv()
    left, top, right, bottom = (max(0, round(value)) for value in face.box)
    patch = cv2.cvtColor(
        np.ascontiguousarray(frame[top : max(bottom, top + 1), left : max(right, left + 1)]), cv2.COLOR_RGB2GRAY
    )
    if max(patch.shape) > FACE_SIDE:
        scale = FACE_SIDE / max(patch.shape)
        size = (max(8, round(patch.shape[1] * scale)), max(8, round(patch.shape[0] * scale)))
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    laplacian = cv2.Laplacian(patch, cv2.CV_64F)
    return float(laplacian.std() / max(1.0, float(patch.std())))
