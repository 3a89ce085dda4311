"""LoRAs that a workflow may name: those of ComfyUI's folders, and those that `humo models` installed."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from humo.checkpoints.hubs.catalog import LORAS
from humo.checkpoints.lora_store import SUFFIX, installed_loras


def lora_files() -> dict[str, str]:
    """Return name -> file. A file of ComfyUI that a preset of humo needs has that preset's name as well."""
    names = [name for name in folder_paths.get_filename_list("loras") if name.endswith(SUFFIX)]
    files = {name: str(folder_paths.get_full_path("loras", name)) for name in names}
    for name, entry in LORAS.items():
        own = next((file for file in files.values() if Path(file).name == entry.file), None)
        if own is not None:
            files[name] = own
    return files | {name: str(path) for name, path in installed_loras().items()}
