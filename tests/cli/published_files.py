"""The published program's files as its users have them, written in our own hand: same keys, same kinds of values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def published_configuration(family: str = "1.7B", **generation: Any) -> dict[str, Any]:
    """The keys of a published ``generate.yaml`` with their published values."""
    small = family == "1.7B"
    scales = {"scale_t": 7.5, "scale_i": 4.0, "scale_a": 7.5} if small else {"scale_t": 5.0, "scale_a": 5.5}
    base = "Wan_1.3B" if small else "Wan_14B_I2V"
    return {
        "__object__": {"path": "humo.generate_1_7B" if small else "humo.generate", "name": "Generator"},
        "dit": {
            "model": {
                "__inherit__": f"humo/configs/models/{base}.yaml",
                "__object__": {"path": "humo.models.wan_modules.model_humo", "name": "WanModel"},
                "insert_audio": True,
            },
            "zero_vae_path": "weights/zero_vae_129frame.pt",
            "zero_vae_720p_path": "weights/zero_vae_720p_161frame.pt",
            "checkpoint_dir": "weights/HuMo/HuMo-1.7B/ema.pth" if small else "weights/HuMo/HuMo-17B",
            "compile": False,
            "init_with_meta_device": True,
            "gradient_checkpoint": True,
            "fsdp": {"sharding_strategy": "_HYBRID_SHARD_ZERO2"},
            "sp_size": 1 if small else 8,
        },
        "vae": {"checkpoint": "weights/Wan2.1_VAE.pth", "vae_stride": [4, 8, 8], "dtype": "bfloat16"},
        "text": {"t5_checkpoint": "weights/t5.pth", "dropout": 0.1, "fsdp": {"enabled": True}},
        "diffusion": {
            "schedule": {"type": "lerp", "T": 1000.0},
            "sampler": {"type": "euler", "prediction_type": "v_lerp"},
            "timesteps": {
                "training": {"type": "logitnormal", "loc": 0.0},
                "sampling": {"type": "uniform_trailing", "steps": 50, "shift": 5.0},
            },
        },
        "audio": {"vocal_separator": "weights/Kim_Vocal_2.onnx", "wav2vec_model": "weights/whisper-large-v3"},
        "generation": {
            "mode": "TIA",
            "extract_audio_feat": True,
            "seed": 666666,
            "frames": 97,
            "fps": 25,
            "height": 720,
            "width": 1280,
            "batch_size": 1,
            "output": {"dir": "output"},
            "positive_prompt": "examples/test_case.json",
            "sample_neg_prompt": "overexposed, still",
            **scales,
            **generation,
        },
    }


def write_yaml(path: Path, values: object) -> Path:
    """A YAML file of the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path
