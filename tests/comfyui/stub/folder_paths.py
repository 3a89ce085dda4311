"""ComfyUI's folders of models."""

from __future__ import annotations

FILES: dict[str, dict[str, str]] = {}
"""Kind of model -> name of a file -> its path; a test fills it."""

models_dir = "models"
"""Folder of all models."""

folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {}
"""Kind of model -> folders and suffixes; a test fills it."""


def get_filename_list(folder_name: str) -> list[str]:
    """Return the names of the files of a kind."""
    return [*FILES.get(folder_name, {})]


def get_full_path(folder_name: str, filename: str) -> str | None:
    """Return the path of a file of a kind."""
    return FILES.get(folder_name, {}).get(filename)
