"""Makes the embedded model of a trained one: every weight in float16, and (if given) another autoencoder's decoder.

    python scripts/pack_nano.py runs/nano/model src/humo/assets/nano [runs/nano-vae/vae]

An autoencoder whose decoder alone was trained further has the same latents, so it may take the place of the one that
the network was trained with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from humo.checkpoints.manifest import write_manifest
from humo.checkpoints.model_folder import open_model_folder
from humo.model.autoencoder import open_autoencoder
from humo.runtime.device import load_pipeline

MOST_BYTES = 64 * 10**6
"""What the embedded model may weigh."""


def main(source: str, target: Path, autoencoder: str | None = None) -> None:
    """Write the folder, and look at it."""
    pipeline = load_pipeline(Path(source))
    if autoencoder is not None:
        other = open_autoencoder(autoencoder).float()
        before, after = pipeline.vae.state_dict(), other.state_dict()
        for name in ("linear_encoder.weight", "encoder.conv_out.weight", "quant_conv.weight"):
            if not torch.equal(before[name].half(), after[name].half()):
                sys.exit(f"{autoencoder} has another encoder ({name}): the network was not trained on its latents")
        pipeline.vae = other
    for name in ("transformer", "vae", "text_encoder", "audio_encoder"):
        getattr(pipeline, name).half()
    pipeline.save_pretrained(str(target))
    for path in (target / "model_index.json", *target.glob("*/config.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("_name_or_path", None)  # where it lay on the machine that made it
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    write_manifest(target)
    folder = open_model_folder(target)
    for name, component in folder.components.items():
        print(f"{name:18} {component.bytes / 1e6:6.2f} MB")
    print(f"{'all':18} {folder.bytes / 1e6:6.2f} MB of at most {MOST_BYTES / 1e6:g}")
    if folder.bytes > MOST_BYTES:
        sys.exit("too large")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
