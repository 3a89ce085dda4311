"""Open a weight file of any format, or all files that an index names, as one set of tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from humo.checkpoints.formats.base import (
    CHECK_PATH,
    CHUNK_BYTES,
    DOWNLOAD_AGAIN,
    StoredTensor,
    WeightFile,
    torch_dtypes,
)
from humo.checkpoints.formats.gguf_file import GGUF_SUFFIX, GgufFile
from humo.checkpoints.formats.safetensors_file import SafetensorsFile
from humo.checkpoints.formats.torch_file import TORCH_SUFFIXES, TorchFile
from humo.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class WeightSet:
    """One or more files that together hold the tensors of one model.

    Args:
        path: their name in messages: the only file, or the index.
        files: the files.

    Raises:
        CheckpointError: two files hold the same tensor.
    """

    def __init__(self, path: Path, files: tuple[WeightFile, ...]) -> None:
        self.path = path
        self.files = files
        self.non_tensors = tuple(name for file in files for name in file.non_tensors)
        self.metadata = {key: value for file in files for key, value in file.metadata.items()}
        self.tensors: dict[str, StoredTensor] = {}
        self._file: dict[str, WeightFile] = {}
        for file in files:
            for name, tensor in file.tensors.items():
                if name in self._file:
                    problem = f"has {name!r} in both {self._file[name].path.name} and {file.path.name}"
                    raise CheckpointError(str(path), problem, "keep the shards of one model in one folder")
                self.tensors[name] = tensor
                self._file[name] = file

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """See `WeightFile.chunks`."""
        return self._file[name].chunks(name, chunk_bytes)

    def read_bytes(self, name: str, begin: int, length: int) -> bytes:
        """See `WeightFile.read_bytes`."""
        return self._file[name].read_bytes(name, begin, length)

    def load(self, name: str) -> torch.Tensor:
        """Return a tensor; use it for scales and other small tensors."""
        import torch

        data = bytearray().join(self.chunks(name))
        tensor = self.tensors[name]
        return torch.frombuffer(data, dtype=torch.uint8).view(torch_dtypes()[tensor.dtype]).reshape(tensor.shape)


def read_index(path: Path) -> tuple[Path, ...]:
    """Return the shards that an ``.index.json`` names.

    Args:
        path: the index.

    Raises:
        CheckpointError: the file is not an index, or a shard is missing.
    """
    try:
        table = json.loads(path.read_bytes())["weight_map"]
        names = sorted(set(table.values()))
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror or error})", CHECK_PATH) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(str(path), "is not an index of weights", DOWNLOAD_AGAIN) from error
    shards = tuple(path.parent / Path(name).name for name in names)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        problem = f"names {len(shards)} files, of which {len(missing)} do not exist: {', '.join(missing[:3])}"
        raise CheckpointError(str(path), problem, "download the missing ones into the same folder")
    return shards


def open_weights(path: Path) -> WeightSet:
    """Open a weights file, or all that an index names.

    Args:
        path: ``.safetensors``, ``.safetensors.index.json``, ``.gguf``, or a torch file.

    Raises:
        CheckpointError: see `SafetensorsFile`, `GgufFile`, `TorchFile`, `read_index`.
    """
    if path.suffix == ".json":
        return WeightSet(path, tuple(SafetensorsFile(shard) for shard in read_index(path)))
    if path.suffix in TORCH_SUFFIXES:
        return WeightSet(path, (TorchFile(path),))
    if path.suffix == GGUF_SUFFIX:
        return WeightSet(path, (GgufFile(path),))
    return WeightSet(path, (SafetensorsFile(path),))
