"""Read tensors from GGUF files, as ComfyUI-GGUF and similar tools write them for image and video networks.

    "GGUF"  version  number of tensors  number of values  |  values: name, type, value  |  tensors: name, sizes, type,
    offset  |  padding  |  the tensors' bytes, aligned

Tensors have the names of the file that was quantized, which are HuMo's published ones. Shapes differ in three ways:
- sizes are stored in reverse order;
- files that llama.cpp's tool wrote lack leading sizes of 1, which `humo.checkpoints.conversion_plan` restores;
- a matrix whose rows are not a whole number of blocks may be stored flat, with its sizes in
  ``comfy.gguf.orig_shape.NAME``.

The architecture that a file declares (``wan``; ``pig`` in calcuis's files) is not read: its tensors identify it.

**Source:** the format: ``docs/gguf.md`` of ggml (https://github.com/ggml-org/ggml). ComfyUI-GGUF
(https://github.com/city96/ComfyUI-GGUF): ``loader.py`` (reverse order, ``orig_shape``, prefix
``model.diffusion_model.``, architectures), ``tools/convert.py`` (unchanged names), ``tools/fix_5d_tensors.py`` (five
sizes of the patch embedding, which ggml does not support), issue 136 (missing sizes).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from humo.checkpoints.formats.base import (
    CHECK_PATH,
    CHUNK_BYTES,
    DOWNLOAD_AGAIN,
    StoredTensor,
    check_not_lfs_pointer,
    read_bytes,
    read_chunks,
)
from humo.errors import CheckpointError
from humo.quantization.formats import GGML_TYPES

GGUF_SUFFIX = ".gguf"
"""Suffix of GGUF files."""

MAGIC = b"GGUF"
"""First bytes of a GGUF file."""

VERSIONS = (2, 3)
"""Versions that can be read; version 1 counted in 32 bits and is older than any video model."""

ALIGNMENT = 32
"""Default alignment of tensors in bytes."""

MAX_DIMENSIONS = 8
"""Most dimensions of a tensor; more mean a damaged header."""

TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 30: "BF16",
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS",
}  # fmt: skip
"""ggml's number of a type -> its name; names of floats are those of the safetensors format."""

UNSUPPORTED_TYPES: Mapping[int, str] = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
"""ggml's number of a type that is not supported -> its name in messages."""

SCALARS: Mapping[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Number of a value's type -> its `struct` format."""

STRING, ARRAY = 8, 9
"""Numbers of the types of strings and arrays."""

INTEGERS = "BbHhIiQq"
"""`struct` formats of integers."""

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Prefix of the values that have the sizes of a tensor stored flat."""


class GgufFile:
    """A .gguf file, of which only the header is in memory.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file does not exist, has another format, is damaged or truncated, or has a type that is
            not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.non_tensors: tuple[str, ...] = ()
        self.metadata: dict[str, str] = {}
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                self.tensors, self._offsets = _HeaderReader(path, file, size).read()
        except OSError as error:
            raise CheckpointError(str(path), f"cannot be read ({error.strerror or error})", CHECK_PATH) from error

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """See `WeightFile.chunks`."""
        return read_chunks(self.path, self._offsets[name], self.tensors[name], chunk_bytes)

    def read_bytes(self, name: str, begin: int, length: int) -> bytes:
        """See `WeightFile.read_bytes`."""
        return read_bytes(self.path, self._offsets[name] + begin, length)


class _HeaderReader:
    """Reads the header of a file.

    Args:
        path: of the file.
        file: opened, at its start.
        size: of the file in bytes.
    """

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size

    def read(self) -> tuple[dict[str, StoredTensor], dict[str, int]]:
        """Return the tensors, and their offsets in bytes."""
        start = self._file.read(8)
        check_not_lfs_pointer(self._path, start)
        if len(start) < 8 or not start.startswith(MAGIC):
            raise CheckpointError(str(self._path), "is not a complete GGUF file", DOWNLOAD_AGAIN)
        version = int.from_bytes(start[4:], "little")
        if version not in VERSIONS:
            problem = f"has GGUF version {version}, or another byte order"
            raise CheckpointError(str(self._path), problem, "take a little-endian file of version 2 or 3")
        tensors, values = self._number("Q"), self._number("Q")
        alignment, shapes = self._values(values)
        entries = [self._entry() for _ in range(tensors)]
        data = -(-self._file.tell() // alignment) * alignment
        stored_tensors: dict[str, StoredTensor] = {}
        offsets: dict[str, int] = {}
        for name, shape, type_number, offset in entries:
            stored_tensors[name] = self._tensor(name, shapes.get(name, shape), shape, type_number)
            offsets[name] = data + offset
            if (end := offsets[name] + stored_tensors[name].bytes) > self._size:
                problem = f"is truncated: it has {self._size} bytes, but {name!r} ends at {end}"
                raise CheckpointError(str(self._path), problem, DOWNLOAD_AGAIN)
        if len(stored_tensors) < len(entries):
            raise CheckpointError(str(self._path), "has two tensors of one name", DOWNLOAD_AGAIN)
        return stored_tensors, offsets

    def _values(self, count: int) -> tuple[int, dict[str, tuple[int, ...]]]:
        """Return the alignment, and the shapes of tensors that are stored flat."""
        alignment = ALIGNMENT
        shapes: dict[str, tuple[int, ...]] = {}
        for _ in range(count):
            name = self._text()
            value = self._value(self._number("I"))
            if name == "general.alignment" and len(value) == 1 and value[0] > 0:
                alignment = value[0]
            elif name.startswith(ORIGINAL_SHAPE):
                shapes[name.removeprefix(ORIGINAL_SHAPE)] = value
        return alignment, shapes

    def _value(self, type_number: int) -> tuple[int, ...]:
        """Return a value's numbers if they are integers; other values are skipped."""
        if type_number == STRING:
            self._take(self._number("Q"))
            return ()
        if type_number == ARRAY:
            type_number, count = self._number("I"), self._number("Q")
            if type_number == STRING:
                for _ in range(count):
                    self._take(self._number("Q"))
                return ()
        else:
            count = 1
        if type_number not in SCALARS:
            raise self._damaged()
        letter = SCALARS[type_number]
        raw = self._take(count * struct.calcsize(f"<{letter}"))
        return struct.unpack(f"<{count}{letter}", raw) if letter in INTEGERS and count <= MAX_DIMENSIONS else ()

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return a tensor's name, shape, type and offset."""
        name, dimensions = self._text(), self._number("I")
        if dimensions > MAX_DIMENSIONS:
            raise self._damaged()
        sizes = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        return name, tuple(reversed(sizes)), self._number("I"), self._number("Q")

    def _tensor(self, name: str, shape: tuple[int, ...], stored: tuple[int, ...], type_number: int) -> StoredTensor:
        if type_number not in TYPES:
            type_name = UNSUPPORTED_TYPES.get(type_number, "an unknown type")
            problem = f"stores {name!r} as {type_name} (number {type_number} of ggml), which is not supported"
            remedy = f"take a file of {', '.join(GGML_TYPES)}, F16 or BF16"
            raise CheckpointError(str(self._path), problem, remedy)
        type_name = TYPES[type_number]
        whole_blocks = type_name not in GGML_TYPES or (
            bool(stored) and stored[-1] % GGML_TYPES[type_name].block_size == 0
        )
        if not whole_blocks or math.prod(shape) != math.prod(stored) or min(shape, default=1) < 1:
            problem = f"gives {name!r} the shape {shape}, which {type_name} stored as {stored} cannot have"
            raise CheckpointError(str(self._path), problem, DOWNLOAD_AGAIN)
        return StoredTensor(type_name, shape)

    def _text(self) -> str:
        try:
            return self._take(self._number("Q")).decode()
        except UnicodeDecodeError as error:
            raise self._damaged() from error

    def _number(self, letter: str) -> int:
        (number,) = struct.unpack(f"<{letter}", self._take(struct.calcsize(f"<{letter}")))
        return int(number)

    def _take(self, count: int) -> bytes:
        """Return the next bytes; a count beyond the end of the file must not allocate that much memory."""
        if count > self._size - self._file.tell():
            raise self._damaged()
        return self._file.read(count)

    def _damaged(self) -> CheckpointError:
        return CheckpointError(str(self._path), "has a damaged or truncated GGUF header", DOWNLOAD_AGAIN)
