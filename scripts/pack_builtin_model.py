"""Convert a trained model folder to the built-in model: all weights in float16, optionally with another decoder.

    python scripts/pack_builtin_model.py runs/nano/model src/humo/assets/nano [runs/nano-vae/vae]

The third argument is an autoencoder whose decoder alone was trained further. Its latents are the same, so it can
replace the autoencoder that the network was trained with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from humo.checkpoints.manifest import write_manifest
from humo.checkpoints.model_folder import open_model_folder
from humo.model.autoencoder import open_autoencoder
from humo.runtime.loading import load_pipeline

MAX_BYTES = 64 * 10**6
"""Largest size of the built-in model's weights."""


def main(source: str, target: Path, autoencoder: str | None = None) -> None:
    """Write the folder and print the size of its components; exit with an error if they are too large."""
    pipeline = load_pipeline(Path(source))
    if autoencoder is not None:
        replacement = open_autoencoder(autoencoder).float()
        before, after = pipeline.vae.state_dict(), replacement.state_dict()
        for name in ("linear_encoder.weight", "encoder.conv_out.weight", "quant_conv.weight"):
            if not torch.equal(before[name].half(), after[name].half()):
                sys.exit(f"{autoencoder}: its encoder differs ({name}), so the network was not trained on its latents")
        pipeline.vae = replacement
    for name in ("transformer", "vae", "text_encoder", "audio_encoder"):
        getattr(pipeline, name).half()
    pipeline.save_pretrained(str(target))
    for path in (target / "model_index.json", *target.glob("*/config.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("_name_or_path", None)  # a path on the machine that trained it
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    write_manifest(target)
    folder = open_model_folder(target)
    for name, component in folder.components.items():
        print(f"{name:18} {component.bytes / 1e6:6.2f} MB")
    print(f"{'total':18} {folder.bytes / 1e6:6.2f} MB of at most {MAX_BYTES / 1e6:g}")
    if folder.bytes > MAX_BYTES:
        sys.exit(f"{target}: {folder.bytes / 1e6:.2f} MB are more than {MAX_BYTES / 1e6:g} MB")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
