"""Import OpenCV, which is part of the extra ``evaluate``."""

from __future__ import annotations

from typing import Any

from humo.errors import DependencyError


def opencv() -> Any:
    """Return the module ``cv2``, limited to one thread so that results do not depend on the machine.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        remedy = "pip install 'humo-video[evaluate]'"
        raise DependencyError("evaluate", "opencv-python-headless is not installed", remedy) from error
    cv2.setNumThreads(1)
    return cv2
