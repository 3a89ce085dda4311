"""Environment variables, default folders, and the default address of the service."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8848
"""Where the service listens unless it is told otherwise."""


def models_folder() -> Path:
    """Where downloaded and imported models lie: ``HUMO_MODELS``, or a folder in the user's cache."""
    own = os.environ.get("HUMO_MODELS")
    return Path(own).expanduser() if own else Path.home() / ".cache" / "humo" / "models"


def identity_folder() -> Path:
    """Where the key lies that signs videos: ``HUMO_IDENTITY``, or a folder in the user's configuration."""
    own = os.environ.get("HUMO_IDENTITY")
    return Path(own).expanduser() if own else Path.home() / ".config" / "humo" / "identity"


def server_folder() -> Path:
    """Where the service keeps its jobs and videos: ``HUMO_SERVER``, or a folder in the user's data."""
    own = os.environ.get("HUMO_SERVER")
    return Path(own).expanduser() if own else Path.home() / ".local" / "share" / "humo" / "server"


def hub_name() -> str:
    """Where models are downloaded from: ``HUMO_HUB``, or Hugging Face."""
    return os.environ.get("HUMO_HUB") or "huggingface"


def modelscope_endpoint() -> str | None:
    """The address of ModelScope, where ``MODELSCOPE_ENDPOINT`` names another, as its own client reads it."""
    return os.environ.get("MODELSCOPE_ENDPOINT") or None
