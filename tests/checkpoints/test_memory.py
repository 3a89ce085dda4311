"""Conversion needs the memory of a tensor, not of a file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from humo.checkpoints.architecture import TextEncoderArchitecture
from humo.checkpoints.keymap import tensor_names

ARCHITECTURE = TextEncoderArchitecture(
    vocab_size=8192,
    d_model=1024,
    d_kv=64,
    d_ff=2816,
    num_layers=22,
    num_heads=16,
    relative_attention_num_buckets=32,
)
"""Architecture of about 580 MB in bf16, with a largest tensor of 17 MB."""

ALLOWANCE_KIB = 180 * 1024
"""Memory beyond the import of torch: chunks of 32 MiB, one in float32, and the mapped part of a torch file."""

SCRIPT = """
import json, re, sys, torch
from humo.checkpoints.convert import convert
from humo.checkpoints.formats import torch_file

def peak():  # KiB; getrusage would count the parent's, which a child inherits
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

torch_file.MAPPED_BYTES = 64 * 2**20
base = peak()
report = convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3] or None)
print(json.dumps({"base": base, "peak": peak(), "bytes": report.bytes}))
"""


def _save_gguf(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write blocks of equal values in Q4_K, which are converted to bf16."""
    writer = gguf.GGUFWriter(path, "t5")
    for name, tensor in weights.items():
        whole = tensor.ndim == 2 and tensor.shape[1] % 256 == 0
        columns = tensor.shape[-1] // 256 * 144 if whole else tensor.shape[-1] * 2
        kind = gguf.GGMLQuantizationType.Q4_K if whole else gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, np.ones((*tensor.shape[:-1], columns), dtype=np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the kernel does not report a process's peak")
@pytest.mark.parametrize(("suffix", "dtype"), [(".safetensors", ""), (".pth", "fp16"), (".gguf", "")])
def test_the_peak_stays_far_below_the_size_of_the_file(suffix: str, dtype: str, tmp_path: Path) -> None:
    weights = {name.published: torch.ones(name.shape, dtype=torch.bfloat16) for name in tensor_names(ARCHITECTURE)}
    size = sum(2 * tensor.numel() for tensor in weights.values())
    source = tmp_path / f"text{suffix}"
    if suffix == ".pth":
        torch.save(weights, source)
    elif suffix == ".gguf":
        _save_gguf(weights, source)
    else:
        save_file(weights, source)
    del weights
    command = [sys.executable, "-c", SCRIPT, str(source), str(tmp_path / "out"), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path / "out")
    source.unlink()
    measured = json.loads(done.stdout)
    assert measured["bytes"] == size > 3 * 1024 * ALLOWANCE_KIB
    assert measured["peak"] - measured["base"] < ALLOWANCE_KIB, measured
