"""Reads tensors out of safetensors, GGUF and torch files piece by piece: no whole file, and no pickled object."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from humo.errors import CheckpointError
from humo.quantization.formats import GGML_TYPES

if TYPE_CHECKING:
    import torch

DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes an element, by the safetensors format's own words for element types."""

CHUNK_BYTES = 32 * 2**20
"""Bytes read at a time."""

QUANT_TYPES_KEY = "humo.blocks"
"""In the metadata of our safetensors files: tensors of bytes that are GGUF's blocks, {name: [type, shape]}."""

MAPPED_BYTES = 128 * 2**20
"""Bytes read from a mapped torch file before it is mapped anew: pages that were read stay resident until then."""

MAX_HEADER_BYTES = 100 * 2**20
"""Longest header in bytes that the safetensors format allows."""

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
GGUF_SUFFIX = ".gguf"

_GIT_LFS = b"version https://git-lfs"
DOWNLOAD_AGAIN = "download it again"
CHECK_PATH = "check the path and its permissions"
_DTYPES = "give bf16, fp16, fp32 or fp8 weights"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as it lies in a file.

    Args:
        dtype: element type, in the safetensors format's words (``BF16``), or one of GGUF's types of blocks (``Q4_K``).
        shape: its sizes.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def unit_bytes(self) -> int:
        """Bytes that belong together: an element, or a block."""
        return GGML_TYPES[self.dtype].type_size if self.dtype in GGML_TYPES else DTYPE_BYTES[self.dtype]

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        elements = math.prod(self.shape)
        return elements // (GGML_TYPES[self.dtype].block_size if self.dtype in GGML_TYPES else 1) * self.unit_bytes


class WeightFile(Protocol):
    """A file of named tensors.

    ``tensors`` lists them; ``others`` names the values in it that are no tensors; ``metadata`` is what else it says.
    """

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, StoredTensor]: ...

    @property
    def non_tensors(self) -> tuple[str, ...]: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """The raw little-endian bytes of a tensor, a whole number of elements at a time.

        A chunk is valid until the next one is asked for.
        """
        ...


class SafetensorsFile:
    """A .safetensors file; only its header is held.

    Args:
        path: the file.

    Raises:
        CheckpointError: no such file, not of this format, damaged, or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.non_tensors: tuple[str, ...] = ()
        self.tensors, self._offsets, self.metadata = _read_header(path)

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """See `WeightFile.chunks`."""
        return read_chunks(self.path, self._offsets[name], self.tensors[name], chunk_bytes)

    def read_bytes(self, name: str, begin: int, length: int) -> bytes:
        """Some of a tensor's bytes.

        Raises:
            CheckpointError: the file ends before them.
        """
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._offsets[name] + begin)
            found = file.read(length)
        if len(found) < length:
            raise CheckpointError(str(self.path), "ended while it was being read", DOWNLOAD_AGAIN)
        return found


def read_chunks(path: Path, begin: int, tensor: StoredTensor, chunk_bytes: int) -> Iterator[memoryview]:
    """A tensor's bytes, a whole number of elements or blocks at a time.

    Args:
        path: of the file.
        begin: where the tensor begins in it, in bytes.
        tensor: which.
        chunk_bytes: read at a time.

    Raises:
        CheckpointError: the file ends before the tensor does.
    """
    left = tensor.bytes
    most = max(chunk_bytes // tensor.unit_bytes, 1) * tensor.unit_bytes
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        buffer = memoryview(bytearray(min(left, most)))
        while left:
            read = file.readinto(buffer[: min(left, most)]) or 0
            while read % tensor.unit_bytes or not read:  # a short read inside an element, or the end
                more = file.readinto(buffer[read : read + tensor.unit_bytes - read % tensor.unit_bytes]) or 0
                if not more:
                    raise CheckpointError(str(path), "ended while it was being read", DOWNLOAD_AGAIN)
                read += more
            yield buffer[:read]
            left -= read


def check_not_lfs_pointer(path: Path, start: bytes) -> None:
    """Refuse a file that only says where the weights are.

    Args:
        path: of the file.
        start: its first bytes.

    Raises:
        CheckpointError: it does.
    """
    if start.startswith(_GIT_LFS[:8]):
        raise CheckpointError(str(path), "is a Git LFS pointer, not the weights", "fetch it with `git lfs pull`")


def _read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, int], dict[str, str]]:
    """Tensors of a safetensors file, the offset in bytes at which each begins, and the metadata."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            check_not_lfs_pointer(path, start)
            if len(start) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(str(path), "is not a whole safetensors file", DOWNLOAD_AGAIN)
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", None) or {}
            blocks = json.loads(metadata.get(QUANT_TYPES_KEY, "{}"))
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror or error})", CHECK_PATH) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(str(path), "has a damaged safetensors header", DOWNLOAD_AGAIN) from error
    tensors: dict[str, StoredTensor] = {}
    begins: dict[str, int] = {}
    end_of_data = 8 + length
    for name, entry in header.items():
        try:
            dtype, shape = blocks[name] if name in blocks else (entry["dtype"], entry["shape"])
            tensor = StoredTensor(dtype, tuple(int(size) for size in shape))
            begin, end = entry["data_offsets"]
            fits = end - begin == tensor.bytes and begin >= 0
        except (KeyError, TypeError, ValueError) as error:
            problem = f"holds {name!r} in a form that is not known ({entry!r:.80})"
            raise CheckpointError(str(path), problem, _DTYPES) from error
        if not fits:
            raise CheckpointError(str(path), f"gives {name!r} a size that its shape contradicts", DOWNLOAD_AGAIN)
        tensors[name] = tensor
        begins[name] = 8 + length + begin
        end_of_data = max(end_of_data, 8 + length + end)
    if size < end_of_data:
        problem = f"is cut short: {size} bytes of {end_of_data}"
        raise CheckpointError(str(path), problem, DOWNLOAD_AGAIN)
    return tensors, begins, metadata


class TorchFile:
    """A .pth file, mapped into memory, tensors only.

    Nested dictionaries are flattened: ``{"ema": {"a.weight": ...}}`` holds ``ema.a.weight``.

    Args:
        path: the file.

    Raises:
        CheckpointError: not a torch file, damaged, or one that holds pickled code.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._mapped: dict[str, torch.Tensor] = {}
        self._read = 0
        self.tensors: dict[str, StoredTensor] = {}
        non_tensors = self._map()
        words = _dtype_names()
        for name, tensor in self._mapped.items():
            if tensor.dtype not in words:
                problem = f"holds {name!r} as {tensor.dtype}, which is not supported"
                raise CheckpointError(str(path), problem, _DTYPES)
            self.tensors[name] = StoredTensor(words[tensor.dtype], tuple(tensor.shape))
        self.non_tensors = tuple(non_tensors)
        self._mapped = {}

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """See `WeightFile.chunks`."""
        import torch

        stored = self.tensors[name]
        step = max(1, chunk_bytes // DTYPE_BYTES[stored.dtype])
        for begin in range(0, math.prod(stored.shape), step):
            if not self._mapped or self._read >= MAPPED_BYTES:
                self._mapped = {}  # unmap before mapping again
                self._map()
                self._read = 0
            piece = self._mapped[name].detach().reshape(-1)[begin : begin + step]
            self._read += piece.numel() * piece.element_size()
            yield piece.contiguous().view(torch.uint8).numpy().data

    def _map(self) -> list[str]:
        """Map the file; returns the names of what is no tensor."""
        non_tensors: list[str] = []
        self._mapped = dict(_flatten(_torch_load(self.path), "", non_tensors))
        return non_tensors


def _torch_load(path: Path) -> Any:
    """What a torch file holds, mapped, with no code run."""
    import torch

    try:
        with path.open("rb") as file:
            start = file.read(len(_GIT_LFS))
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror or error})", CHECK_PATH) from error
    check_not_lfs_pointer(path, start)
    if not start.startswith(b"PK"):
        raise CheckpointError(str(path), "is not a torch file (damaged, or older than torch 1.6)", DOWNLOAD_AGAIN)
    try:
        return torch.load(str(path), map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        problem = "holds pickled code" + (f" ({named[1]})" if named else "") + ", which is never run"
        raise CheckpointError(str(path), problem, "ask its author for a safetensors file") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(str(path), "is a damaged torch file or one cut short", DOWNLOAD_AGAIN) from error


def _flatten(value: Any, name: str, non_tensors: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of nested dictionaries and lists under dotted names."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name or "tensor", value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key), non_tensors)
    elif isinstance(value, list | tuple) and any(isinstance(inner, torch.Tensor | Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _flatten(inner, f"{name}.{index}" if name else str(index), non_tensors)
    else:
        non_tensors.append(name or "value")


def torch_dtypes() -> dict[str, torch.dtype]:
    """The safetensors format's words and torch's element types."""
    import torch

    return {
        "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64,
        "F32": torch.float32, "I32": torch.int32, "U32": torch.uint32,
        "F16": torch.float16, "BF16": torch.bfloat16, "I16": torch.int16, "U16": torch.uint16,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
        "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip


def _dtype_names() -> dict[torch.dtype, str]:
    return {dtype: word for word, dtype in torch_dtypes().items()}


class WeightSet:
    """One or more files that together hold the tensors of one model.

    Args:
        path: what stands for them in messages: the only file, or the index.
        files: the files.

    Raises:
        CheckpointError: a tensor that lies in two of them.
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
                    problem = f"{name!r} lies in {self._file[name].path.name} and in {file.path.name}"
                    raise CheckpointError(str(path), problem, "keep the shards of one model in one folder")
                self.tensors[name] = tensor
                self._file[name] = file

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """See `WeightFile.chunks`."""
        return self._file[name].chunks(name, chunk_bytes)

    def load(self, name: str) -> torch.Tensor:
        """A whole tensor: for scales and other small ones."""
        import torch

        data = bytearray().join(self.chunks(name))
        tensor = self.tensors[name]
        return torch.frombuffer(data, dtype=torch.uint8).view(torch_dtypes()[tensor.dtype]).reshape(tensor.shape)


def read_index(path: Path) -> tuple[Path, ...]:
    """The shards that an ``.index.json`` names.

    Args:
        path: the index.

    Raises:
        CheckpointError: not an index, or a shard is missing.
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
        problem = f"names {len(shards)} files, of which {len(missing)} are not there: {', '.join(missing[:3])}"
        raise CheckpointError(str(path), problem, "download the missing ones into the same folder")
    return shards


def open_weights(path: Path) -> WeightSet:
    """Open a weights file, or all that an index names.

    Args:
        path: ``.safetensors``, ``.safetensors.index.json``, ``.gguf``, or a torch file.

    Raises:
        CheckpointError: see `SafetensorsFile`, `GgufFile`, `TorchFile`, `read_index`.
    """
    from humo.checkpoints.formats.gguf_file import GgufFile

    if path.suffix == ".json":
        return WeightSet(path, tuple(SafetensorsFile(shard) for shard in read_index(path)))
    if path.suffix in TORCH_SUFFIXES:
        return WeightSet(path, (TorchFile(path),))
    if path.suffix == GGUF_SUFFIX:
        return WeightSet(path, (GgufFile(path),))
    return WeightSet(path, (SafetensorsFile(path),))
