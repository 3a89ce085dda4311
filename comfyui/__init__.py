"""HuMo nodes for ComfyUI: generate a video of a person speaking or singing from text, images and audio."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"
"""Folder with the extension of ComfyUI's page, which fills in a preset's values."""

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
