"""HuMo: generate a video of a person speaking from a text prompt, reference images and an audio track."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from humo.errors import HuMoError
    from humo.inference.pipeline import HuMoPipeline
    from humo.jobs.export import save_video
    from humo.model.audio import SpeechEncoder
    from humo.model.transformer import HuMoTransformer3DModel
    from humo.request import GenerateRequest

__version__ = "0.1.0"

__all__ = [
    "GenerateRequest",
    "HuMoError",
    "HuMoPipeline",
    "HuMoTransformer3DModel",
    "SpeechEncoder",
    "__version__",
    "save_video",
]

_HOMES = {
    "GenerateRequest": "humo.request",
    "HuMoPipeline": "humo.inference.pipeline",
    "HuMoTransformer3DModel": "humo.model.transformer",
    "HuMoError": "humo.errors",
    "SpeechEncoder": "humo.model.audio",
    "save_video": "humo.jobs.export",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: ``import humo`` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'humo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, those not yet imported included."""
    return sorted({*globals(), *__all__})
