"""The two folder layouts, diffusers and published: where the weights and settings of each component are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from humo.checkpoints.keymap import Naming
from humo.checkpoints.signatures import ComponentName

MODEL_INDEX = "model_index.json"
"""File that every model folder has: its preset, and the classes of its components."""

FILES = "files"
"""Key of a model folder's index: component -> path of the file with its weights, which is read as it is."""

MANIFEST = "manifest.json"
"""File of a model folder with the checksums of all others."""


QUANTIZATION_CONFIG = "quantization_config"
"""Key of a ``config.json`` that describes quantized weights; diffusers reads it, too."""

HUMO_QUANTIZATION = {"quant_method": "humo"}
"""Value of that key if `humo.quantization.linear` reads the blocks.

diffusers has no such method and refuses it, so that it never loads the bytes as weights.
"""


@dataclass(frozen=True, slots=True)
class ComponentPath:
    """Location of a component in a layout.

    Args:
        folder: under the model folder.
        stem: of its weights files.
        sharded: whether large weights are split.
    """

    folder: str
    stem: str
    sharded: bool = True


DIFFUSERS_LAYOUT: Mapping[ComponentName, ComponentPath] = {
    ComponentName.TRANSFORMER: ComponentPath("transformer", "diffusion_pytorch_model"),
    ComponentName.AUTOENCODER: ComponentPath("vae", "diffusion_pytorch_model"),
    ComponentName.TEXT_ENCODER: ComponentPath("text_encoder", "model"),
    ComponentName.AUDIO_ENCODER: ComponentPath("audio_encoder", "model"),
}
"""Component -> its path in the diffusers layout."""

PUBLISHED_LAYOUT: Mapping[ComponentName, ComponentPath] = {
    ComponentName.AUTOENCODER: ComponentPath("Wan2.1-T2V-1.3B", "Wan2.1_VAE", sharded=False),
    ComponentName.TEXT_ENCODER: ComponentPath("Wan2.1-T2V-1.3B", "models_t5_umt5-xxl-enc-bf16", sharded=False),
    ComponentName.AUDIO_ENCODER: ComponentPath("whisper-large-v3", "model"),
}
"""Component -> its path in the released tree, except the transformer, whose path depends on the family."""

PUBLISHED_TRANSFORMER: Mapping[str, ComponentPath] = {
    "humo-17b": ComponentPath("HuMo/HuMo-17B", "humo"),
    "humo-1.7b": ComponentPath("HuMo/HuMo-1.7B", "ema", sharded=False),
}
"""Family -> path of its transformer in the released tree."""

TOKENIZER_FOLDER = {Naming.DIFFUSERS: "tokenizer", Naming.PUBLISHED: "Wan2.1-T2V-1.3B/google/umt5-xxl"}
"""Layout -> folder of the tokenizer."""

FEATURE_FOLDER = {Naming.DIFFUSERS: "feature_extractor", Naming.PUBLISHED: "whisper-large-v3"}
"""Layout -> folder of the feature extractor's settings."""

SCHEDULER_FOLDER = "scheduler"
"""Folder of the scheduler's settings in the diffusers layout."""

COMPONENTS: Mapping[str, tuple[str, str]] = {
    "transformer": ("humo.model.transformer", "HuMoTransformer3DModel"),
    "vae": ("diffusers", "AutoencoderKLWan"),
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "tokenizer": ("transformers", "T5Tokenizer"),
    "audio_encoder": ("humo.model.audio", "SpeechEncoder"),
    "feature_extractor": ("transformers", "WhisperFeatureExtractor"),
    "scheduler": ("diffusers", "UniPCMultistepScheduler"),
}
"""Folder -> library and class of its contents, as ``model_index.json`` names them.

Classes of this package are named with their module: diffusers looks for a class's base beside it, and refuses ``humo``.
"""

WRITTEN_NAMES = frozenset({*COMPONENTS, MODEL_INDEX, MANIFEST, "HuMo", "Wan2.1-T2V-1.3B", "whisper-large-v3"})
"""Names that a conversion writes at the top of its folder, in either layout."""


def component_path(component: ComponentName, naming: Naming, family: str | None) -> ComponentPath:
    """Return where a component is written.

    Args:
        component: its name.
        naming: the layout.
        family: the transformer's preset.
    """
    if naming is Naming.DIFFUSERS:
        return DIFFUSERS_LAYOUT[component]
    return (
        PUBLISHED_TRANSFORMER[family]
        if component is ComponentName.TRANSFORMER and family
        else PUBLISHED_LAYOUT[component]
    )


def model_index(preset: str) -> dict[str, Any]:
    """Return the contents of ``model_index.json``.

    Args:
        preset: name of the family.
    """
    return {
        "_class_name": "HuMoPipeline",
        "_diffusers_version": library_version("diffusers"),
        "preset": preset,
        **{folder: list(names) for folder, names in COMPONENTS.items()},
    }


def scheduler_config() -> dict[str, Any]:
    """Return the settings of UniPC on the rectified flow, as in the published runs.

    **Source:** github.com/Phantom-video/HuMo at 17094e9: ``humo/models/utils/fm_solvers_unipc.py``,
    ``FlowUniPCMultistepScheduler.__init__`` (order 2, bh2, predicting x0, lower order at the end), and
    ``humo/configs/inference/generate.yaml`` (shift 5).
    """
    return {
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": library_version("diffusers"),
        "num_train_timesteps": 1000,
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 5.0,
        "lower_order_final": True,
        "disable_corrector": [],
        "final_sigmas_type": "zero",
        "thresholding": False,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "trained_betas": None,
        "rescale_betas_zero_snr": False,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "use_dynamic_shifting": False,
    }


def feature_config(mel_bins: int) -> dict[str, Any]:
    """Return the settings of Whisper-large-v3's feature extractor, for sources that hold the encoder alone.

    Args:
        mel_bins: bands of the log-mel spectrogram.
    """
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": mel_bins,
        "sampling_rate": 16000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": 30,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def tokenizer_config() -> dict[str, Any]:
    """Return the settings of umT5's tokenizer, for sources that hold its sentence pieces alone."""
    return {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "extra_ids": 300,
        "model_max_length": 512,
    }


def library_version(name: str) -> str:
    """Return the installed version of a library without importing it.

    Args:
        name: of its distribution.
    """
    try:
        return version(name)
    except PackageNotFoundError:
        return "0.0.0"
