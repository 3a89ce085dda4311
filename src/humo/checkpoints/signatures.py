"""Identify a weights file by the names of its tensors: a component of HuMo, or another model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from humo.checkpoints.architecture import SpeechEncoderArchitecture


class ComponentName(StrEnum):
    """Component of the model that has weights; the value is its folder in the diffusers layout."""

    TRANSFORMER = "transformer"
    AUTOENCODER = "vae"
    TEXT_ENCODER = "text_encoder"
    AUDIO_ENCODER = "audio_encoder"


@dataclass(frozen=True, slots=True)
class Signature:
    """A known model, and the tensor names that identify its files.

    Args:
        title: name in messages.
        patterns: regular expressions, each of which must match a tensor's name.
        component: the component of HuMo that it is or resembles; None for another kind of model.
        fits: whether it is that component.
        remedy: remedy of the error if it is not.
    """

    title: str
    patterns: tuple[str, ...]
    component: ComponentName | None = None
    fits: bool = False
    remedy: str = ""


_TAKE_HUMO = "take HuMo-17B or HuMo-1.7B"
_TAKE_VAE = "take Wan2.1_VAE.pth"
_TAKE_TEXT = "take models_t5_umt5-xxl-enc-bf16.pth"
_TAKE_SPEECH = "take openai/whisper-large-v3 in transformers format"

SIGNATURES = (
    Signature(
        "a LoRA, which is not a model",
        (r"\.lora_(A|B|a|b|up|down)\b|\.diff(_b)?$",),
        remedy="do not convert it: a LoRA needs no conversion",
    ),
    Signature("Wan2.2 S2V", (r"(^|\.)casual_audio_encoder\.",), ComponentName.TRANSFORMER, False, _TAKE_HUMO),
    Signature("Wan2.1 VACE", (r"(^|\.)vace_(blocks|patch_embedding)\.",), ComponentName.TRANSFORMER, False, _TAKE_HUMO),
    Signature("Wan2.2 Animate", (r"(^|\.)face_adapter\.",), ComponentName.TRANSFORMER, False, _TAKE_HUMO),
    Signature("a camera-controlled Wan", (r"(^|\.)control_adapter\.",), ComponentName.TRANSFORMER, False, _TAKE_HUMO),
    Signature(
        "HuMo's transformer",
        (r"(^|\.)audio_proj\.(audio_proj_glob_1\.layer|proj_1)\.weight$", r"(^|\.)patch_embedding\.weight$"),
        ComponentName.TRANSFORMER,
        True,
    ),
    Signature(
        "a diffusers-format Wan without HuMo's audio layers",
        (r"(^|\.)condition_embedder\.", r"blocks\.0\.attn1\."),
        ComponentName.TRANSFORMER,
        False,
        _TAKE_HUMO,
    ),
    Signature(
        "Wan2.1 without HuMo's audio layers",
        (r"(^|\.)patch_embedding\.weight$", r"blocks\.0\.self_attn\.q\."),
        ComponentName.TRANSFORMER,
        False,
        _TAKE_HUMO,
    ),
    Signature(
        "a FLUX or HunyuanVideo transformer",
        (r"(^|\.)double_blocks\.0\.",),
        ComponentName.TRANSFORMER,
        False,
        _TAKE_HUMO,
    ),
    Signature(
        "Wan2.2's autoencoder",
        (r"encoder\.downsamples\.0\.downsamples\.|encoder\.down_blocks\.0\.resnets\.0\.norm1\.gamma",),
        ComponentName.AUTOENCODER,
        False,
        _TAKE_VAE,
    ),
    Signature(
        "Wan2.1's autoencoder",
        (
            r"encoder\.(downsamples\.0\.residual\.0|down_blocks\.0\.norm1)\.gamma$",
            r"decoder\.(upsamples\.0\.residual\.0|up_blocks\.0\.resnets\.0\.norm1)\.gamma$",
        ),
        ComponentName.AUTOENCODER,
        True,
    ),
    Signature(
        "an autoencoder for images",
        (r"encoder\.down(_blocks)?\.0\.(block|resnets)\.",),
        ComponentName.AUTOENCODER,
        False,
        _TAKE_VAE,
    ),
    Signature(
        "umT5's encoder",
        (r"block(s\.1\.pos_embedding\.|\.1\.layer\.0\.SelfAttention\.relative_attention_bias\.)",),
        ComponentName.TEXT_ENCODER,
        True,
    ),
    Signature(
        "a T5 that is not umT5: its layers share one table of positions",
        (r"SelfAttention\.relative_attention_bias\.|^pos_embedding\.embedding\.",),
        ComponentName.TEXT_ENCODER,
        False,
        _TAKE_TEXT,
    ),
    Signature(
        "a CLIP encoder",
        (r"(^|\.)(text_model|vision_model|visual|textual)\.",),
        ComponentName.TEXT_ENCODER,
        False,
        _TAKE_TEXT,
    ),
    Signature(
        "Whisper in OpenAI's own format",
        (r"encoder\.blocks\.0\.attn\.query\.",),
        ComponentName.AUDIO_ENCODER,
        False,
        _TAKE_SPEECH,
    ),
    Signature(
        "a wav2vec2 encoder",
        (r"(^|\.)feature_extractor\.conv_layers\.",),
        ComponentName.AUDIO_ENCODER,
        False,
        _TAKE_SPEECH,
    ),
    Signature(
        "Whisper's encoder",
        (r"(^|encoder\.)conv1\.weight$", r"(^|encoder\.)layers\.0\.self_attn\.k_proj\.weight$"),
        ComponentName.AUDIO_ENCODER,
        True,
    ),
)
"""Known models; the first one that matches identifies a file."""

ANCHORS: Mapping[ComponentName, str] = {
    ComponentName.TRANSFORMER: r"patch_embedding\.weight",
    ComponentName.AUTOENCODER: r"encoder\.(?:conv1|conv_in)\.weight",
    ComponentName.TEXT_ENCODER: r"(?:token_embedding|shared|encoder\.embed_tokens)\.weight",
    ComponentName.AUDIO_ENCODER: r"conv1\.weight",
}
"""Component -> a tensor that it has under any naming; the text before its name is the file's prefix."""

WRAPPERS = frozenset(
    {"model", "module", "state_dict", "params", "net", "generator", "ema", "ema_model", "model_ema"}
    | {"diffusion_model", "dit", "transformer", "vae", "first_stage_model", "text_encoder", "audio_encoder", "encoder"}
)
"""Names that a prefix can consist of."""

DROPPED: tuple[tuple[ComponentName | None, str, str], ...] = (
    (None, r"(^|\.)(optimizer|optimizers|optim|lr_scheduler|grad_scaler)\b", "state of the training, not of the model"),
    (
        None,
        r"(^|\.)(num_updates|n_averaged|decay|initted|step|global_step|iteration|epoch)$",
        "bookkeeping of training",
    ),
    (None, r"(^|\.)scaled_fp8$", "marks a file of scaled fp8 weights"),
    (None, r"\.(scale_input|input_scale)$", "scales activations for fp8 arithmetic, which is not used here"),
    (None, r"\.comfy_quant$", "names the quantization, which conversion undoes"),
    (ComponentName.TRANSFORMER, r"mask|predictor", "used in training only: it predicts the face mask"),
    (ComponentName.TEXT_ENCODER, r"(^|\.)encoder\.embed_tokens\.weight$", "the same table as the shared embedding"),
    (ComponentName.TEXT_ENCODER, r"(^|\.)(decoder\.|lm_head\.)", "T5's decoder is not used"),
    (ComponentName.TEXT_ENCODER, r"^spiece_model$", "the tokenizer: written into its own folder"),
    (ComponentName.AUDIO_ENCODER, r"(^|\.)(decoder\.|proj_out\.)", "Whisper's decoder is not used"),
)
"""Tensors that are not converted: component (or any), name, reason."""

OTHER_WHISPERS = {
    (384, 4): "whisper-tiny",
    (512, 6): "whisper-base",
    (768, 12): "whisper-small",
    (1024, 24): "whisper-medium",
}
"""(width, encoder layers) of the Whisper models that are not large."""

OTHER_LARGE_WHISPERS = {2: "a distilled whisper-large", 4: "whisper-large-v3-turbo"}
"""Decoder layers of the Whisper models whose encoders are as large as large-v3's."""


def recognize(names: Iterable[str]) -> Signature | None:
    """Return the known model that has these tensors; None if no known model resembles the file.

    Args:
        names: of all its tensors.
    """
    text = "\n".join(names)
    for signature in SIGNATURES:
        if all(re.search(pattern, text, re.MULTILINE) for pattern in signature.patterns):
            return signature
    return None


def find_prefixes(component: ComponentName, names: Iterable[str]) -> list[str]:
    """Return the prefixes of a component's names in a file, the best first: averaged weights before raw ones.

    Args:
        component: what the file was recognized as.
        names: of all its tensors.
    """
    matches = {
        match[1]
        for name in names
        if (match := re.fullmatch(rf"((?:\w+\.)*?){ANCHORS[component]}", name))
        and WRAPPERS.issuperset(match[1].split(".")[:-1])
    }
    return sorted(matches, key=lambda prefix: ("ema" not in prefix, len(prefix), prefix))


def drop_reason(component: ComponentName, name: str) -> str:
    """Return why a tensor is not converted; empty if there is no reason.

    Args:
        component: what the file holds.
        name: of the tensor in the file.
    """
    return next(
        (reason for owner, pattern, reason in DROPPED if owner in (None, component) and re.search(pattern, name)), ""
    )


def name_other_whisper(architecture: SpeechEncoderArchitecture, names: Iterable[str]) -> str:
    """Return the name of a known Whisper other than large-v3; empty if it is none.

    Args:
        architecture: of its encoder.
        names: of all tensors in its file, the decoder's too.
    """
    width, layers = architecture.d_model, architecture.encoder_layers
    if (width, layers) in OTHER_WHISPERS:
        return OTHER_WHISPERS[width, layers]
    if width != 1280:
        return ""
    if architecture.num_mel_bins == 80:
        return "whisper-large or whisper-large-v2, which take 80 mel bands instead of 128"
    decoder = {matches[1] for name in names if (matches := re.search(r"(?:^|\.)decoder\.layers\.(\d+)\.", name))}
    return OTHER_LARGE_WHISPERS.get(len(decoder), "")
