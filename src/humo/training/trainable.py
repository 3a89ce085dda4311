"""Selection of the weights that a stage trains: parameter groups by name, trained in full or with LoRA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from torch import nn

from humo.errors import DependencyError, RequestError
from humo.model.transformer import HuMoTransformer3DModel
from humo.training.config import Lora, Part

PATTERNS: Mapping[Part, str] = MappingProxyType(
    {
        "all": r"transformer\.",
        "self_attention": r"transformer\.blocks\.\d+\.attn1\.",
        "text_attention": r"transformer\.blocks\.\d+\.(attn2|norm2)\.",
        "audio": r"transformer\.(audio_proj|blocks\.\d+\.(attn_audio|norm_audio))\.",
        "feed_forward": r"transformer\.blocks\.\d+\.(ffn\.|scale_shift_table)",
        "embeddings": r"transformer\.(patch_embedding|condition_embedder)\.",
        "output": r"transformer\.(proj_out\.|scale_shift_table)",
        "scales": r"transformer\.scale_embedder\.",
        "focus": r"focus\.",
        "lips": r"lips\.",
        "identity": r"identity\.",
    }
)
"""Parameter group -> regular expression that its parameters' names in a `Learner` start with.

Every parameter is in exactly one group besides ``all``.

**Source:** paper (arXiv 2509.08519), progressive training: stage 1 (subject preservation) trains self-attention; stage
2 (audio-visual sync) trains self-attention and the audio modules.
"""

HEADS: frozenset[Part] = frozenset({"focus", "lips", "identity"})
"""Parameter groups of the auxiliary heads, which are not exported."""

WHOLE: tuple[Part, ...] = ("scales", *sorted(HEADS))
"""Parameter groups that are trained in full even with LoRA, since they are trained from scratch."""

_LOW_RANK = ".lora_"


def matches(name: str, parts: Iterable[Part]) -> bool:
    """Return whether a parameter is in one of the groups."""
    return any(re.match(PATTERNS[part], name) for part in parts)


def tensor_names(learner: nn.Module, parts: Sequence[Part], *, low_rank: bool = False) -> list[str]:
    """Return the names of the parameters to train.

    Args:
        learner: the training model.
        parts: parameter groups of a stage.
        low_rank: train LoRA weights and the groups of `WHOLE` alone.

    Raises:
        RequestError: the groups have no such parameter.
    """
    names = [
        name
        for name, _ in learner.named_parameters()
        if matches(name, parts) and (not low_rank or _LOW_RANK in name or matches(name, WHOLE))
    ]
    if not names:
        problem = f"parameter groups {', '.join(parts)} have no trainable weight"
        raise RequestError("train", problem, f"add one of {', '.join(PATTERNS)}")
    return names


def train_only(learner: nn.Module, names: Iterable[str]) -> None:
    """Freeze all parameters except those of these names."""
    trained = set(names)
    for name, weight in learner.named_parameters():
        weight.requires_grad_(name in trained)


def add_low_rank(transformer: HuMoTransformer3DModel, parts: Iterable[Part], lora: Lora) -> None:
    """Add LoRA to every linear layer of the parameter groups, with peft. It has no effect before it is trained.

    Raises:
        DependencyError: peft is not installed.
        RequestError: the groups have no linear layer.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise DependencyError("lora", "peft is not installed", "pip install humo-video[train]") from error
    groups = tuple(parts)
    layers = [
        name
        for name, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear)
        and matches(f"transformer.{name}.weight", groups)
        and not matches(f"transformer.{name}.weight", WHOLE)
    ]
    if not layers:
        problem = f"parameter groups {', '.join(groups)} have no linear layer"
        raise RequestError("lora", problem, "add self_attention, text_attention, audio or feed_forward to train")
    transformer.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=layers))
