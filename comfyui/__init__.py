"""HuMo nodes for ComfyUI: generate a video of a person speaking or singing from text, images and audio."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
