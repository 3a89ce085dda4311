"""Selection of the weights that a stage trains: parameter groups by name, trained in full or with LoRA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from torch import nn

from humo.errors import DependencyError, RequestError
from humo.model.transformer import HuMoTransformer3DModel
from humo.training.config import LoRASettings, ParameterGroup

PARAMETER_PATTERNS: Mapping[ParameterGroup, str] = MappingProxyType(
    {
        "all": r"transformer\.",
        "self_attention": r"transformer\.blocks\.\d+\.attn1\.",
        "text_attention": r"transformer\.blocks\.\d+\.(attn2|norm2)\.",
        "audio": r"transformer\.(audio_proj|blocks\.\d+\.(attn_audio|norm_audio))\.",
        "feed_forward": r"transformer\.blocks\.\d+\.(ffn\.|scale_shift_table)",
        "embeddings": r"transformer\.(patch_embedding|condition_embedder)\.",
        "output": r"transformer\.(proj_out\.|scale_shift_table)",
        "guidance": r"transformer\.guidance_embedder\.",
        "focus": r"focus\.",
        "lips": r"lips\.",
        "identity": r"identity\.",
    }
)
"""Parameter group -> regular expression that its parameters' names in a `TrainingModel` start with.

Every parameter is in exactly one group besides ``all``.

**Source:** paper (arXiv 2509.08519), progressive training: stage 1 (subject preservation) trains self-attention; stage
2 (audio-visual sync) trains self-attention and the audio modules.
"""

AUXILIARY_HEADS: frozenset[ParameterGroup] = frozenset({"focus", "lips", "identity"})
"""Parameter groups of the auxiliary heads, which are not exported."""

NOT_LORA: tuple[ParameterGroup, ...] = ("guidance", *sorted(AUXILIARY_HEADS))
"""Parameter groups that are trained in full even with LoRA, since they are trained from scratch."""

_LORA = ".lora_"


def in_groups(name: str, groups: Iterable[ParameterGroup]) -> bool:
    """Return whether a parameter is in one of the groups."""
    return any(re.match(PARAMETER_PATTERNS[group], name) for group in groups)


def parameter_names(model: nn.Module, groups: Sequence[ParameterGroup], *, lora: bool = False) -> list[str]:
    """Return the names of the parameters to train.

    Args:
        model: the training model.
        groups: parameter groups of a stage.
        lora: train LoRA weights and the groups of `NOT_LORA` alone.

    Raises:
        RequestError: the groups have no such parameter.
    """
    names = [
        name
        for name, _ in model.named_parameters()
        if in_groups(name, groups) and (not lora or _LORA in name or in_groups(name, NOT_LORA))
    ]
    if not names:
        problem = f"parameter groups {', '.join(groups)} have no trainable weight"
        raise RequestError("train", problem, f"add one of {', '.join(PARAMETER_PATTERNS)}")
    return names


def freeze_except(model: nn.Module, names: Iterable[str]) -> None:
    """Freeze all parameters except those of these names."""
    trained = set(names)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in trained)


def add_lora(transformer: HuMoTransformer3DModel, groups: Iterable[ParameterGroup], lora: LoRASettings) -> None:
    """Add LoRA to every linear layer of the parameter groups, with peft. It has no effect before it is trained.

    Raises:
        DependencyError: peft is not installed.
        RequestError: the groups have no linear layer.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise DependencyError("lora", "peft is not installed", "pip install 'humo-video[train]'") from error
    selected = tuple(groups)
    layers = [
        name
        for name, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear)
        and in_groups(f"transformer.{name}.weight", selected)
        and not in_groups(f"transformer.{name}.weight", NOT_LORA)
    ]
    if not layers:
        problem = f"parameter groups {', '.join(selected)} have no linear layer"
        raise RequestError("lora", problem, "add self_attention, text_attention, audio or feed_forward to train")
    transformer.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=layers))
