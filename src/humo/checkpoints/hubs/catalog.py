"""What can be downloaded, as values: for each published model the repositories and the files of them that it needs.

**Source:** the published README, which names these repositories on Hugging Face; that of Wan2.1, which names the same
on ModelScope. The copy of Whisper is of ModelScope's own account. Of HuMo no unchanged copy there could be established.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Repository:
    """Files of one repository.

    Args:
        repository: owner/name on Hugging Face.
        files: patterns of the files that are needed.
        licence: of these files.
        modelscope: owner/name on ModelScope; None where no copy is known.
    """

    repository: str
    files: tuple[str, ...]
    license: str
    modelscope: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Args:
        repository, name: where it is.
        bytes: its size.
        sha256: its sum, as the hub has it; None for a file that has none there, as small text files on Hugging Face.
    """

    repository: str
    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that can be downloaded.

    Args:
        title: for people.
        gigabytes: to be downloaded, about; what it really is the hub tells.
        needs: what it takes to run it, in a line.
        origins: where its parts come from.
        head_dim: channels of an attention head, where it is not the published 128.
    """

    title: str
    gigabytes: float
    requirements: str
    repositories: tuple[Repository, ...]
    head_dim: int | None = None


_AUTOENCODER_AND_TEXT = Repository(
    "Wan-AI/Wan2.1-T2V-1.3B",
    ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/*"),
    "Apache-2.0",
    "Wan-AI/Wan2.1-T2V-1.3B",
)
_SPEECH = Repository(
    "openai/whisper-large-v3",
    ("config.json", "model.safetensors", "preprocessor_config.json"),
    "MIT",
    "AI-ModelScope/whisper-large-v3",
)
_HUMO = "bytedance-research/HuMo"

CATALOG: Mapping[str, CatalogEntry] = {
    "humo-1.7b": CatalogEntry(
        "HuMo-1.7B",
        22.0,
        "a GPU of 32 GB as published; 480 pixels",
        (Repository(_HUMO, ("HuMo-1.7B/*",), "Apache-2.0"), _AUTOENCODER_AND_TEXT, _SPEECH),
    ),
    "humo-17b": CatalogEntry(
        "HuMo-17B",
        83.0,
        "several GPUs of 80 GB as published; 480 and 720 pixels",
        (Repository(_HUMO, ("HuMo-17B/*",), "Apache-2.0"), _AUTOENCODER_AND_TEXT, _SPEECH),
    ),
}
"""Name -> model. The names are those of the presets."""
