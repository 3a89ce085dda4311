"""Environment variables, default folders, and the default address of the service."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8848
"""Default address of `humo serve`."""

LORAS_FOLDER = "loras"
"""Folder of LoRAs beside the models; no model has this name."""


def models_folder() -> Path:
    """Return the folder of downloaded and imported models: ``HUMO_MODELS``, or a folder in the user's cache."""
    own = os.environ.get("HUMO_MODELS")
    return Path(own).expanduser() if own else Path.home() / ".cache" / "humo" / "models"


def loras_folder() -> Path:
    """Return the folder of downloaded and imported LoRAs, inside that of the models."""
    return models_folder() / LORAS_FOLDER


def presets_file() -> Path:
    """Return the TOML file of the user's own presets: ``HUMO_PRESETS``, or a file in the user's configuration."""
    own = os.environ.get("HUMO_PRESETS")
    return Path(own).expanduser() if own else Path.home() / ".config" / "humo" / "presets.toml"


def identity_folder() -> Path:
    """Return the folder of the key that signs videos: ``HUMO_IDENTITY``, or a folder in the user's configuration."""
    own = os.environ.get("HUMO_IDENTITY")
    return Path(own).expanduser() if own else Path.home() / ".config" / "humo" / "identity"


def timings_file() -> Path:
    """Return the file of what earlier videos took: ``HUMO_TIMINGS``, or a file in the user's cache."""
    own = os.environ.get("HUMO_TIMINGS")
    return Path(own).expanduser() if own else Path.home() / ".cache" / "humo" / "timings.json"


def server_folder() -> Path:
    """Return the folder of the service's jobs and videos: ``HUMO_SERVER``, or a folder in the user's data."""
    own = os.environ.get("HUMO_SERVER")
    return Path(own).expanduser() if own else Path.home() / ".local" / "share" / "humo" / "server"


def hub_name() -> str:
    """Return the hub that models are downloaded from: ``HUMO_HUB``, or ``huggingface``."""
    return os.environ.get("HUMO_HUB") or "huggingface"


def modelscope_endpoint() -> str | None:
    """Return the address of ModelScope in ``MODELSCOPE_ENDPOINT``, the variable of ModelScope's own client; or None."""
    return os.environ.get("MODELSCOPE_ENDPOINT") or None


def modelscope_token() -> str | None:
    """Return the access token in ``MODELSCOPE_API_TOKEN``, the variable of ModelScope's own client; or None."""
    return os.environ.get("MODELSCOPE_API_TOKEN") or None
