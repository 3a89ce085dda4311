"""HuMo in ComfyUI: words, pictures and a sound in, a talking video out."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
