"""Which weights a stage trains: named parts of the network, all of each or low-rank additions to its layers."""

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
"""Part -> the names of its weights in a `Learner` begin so. Together they are all of them.

**Source:** training.md: stage 1 trains self-attention alone; stage 2 that and the audio modules (cross-attention,
projection, face-location predictor).
"""

HEADS: frozenset[Part] = frozenset({"focus", "lips", "identity"})
"""Parts that only training knows; an export leaves them behind."""

WHOLE: tuple[Part, ...] = ("scales", *sorted(HEADS))
"""Parts that start from nothing, and are trained whole where others get low-rank additions."""

_LOW_RANK = ".lora_"


def matches(name: str, parts: Iterable[Part]) -> bool:
    """Whether a weight of a learner belongs to one of the parts."""
    return any(re.match(PATTERNS[part], name) for part in parts)


def tensor_names(learner: nn.Module, parts: Sequence[Part], *, low_rank: bool = False) -> list[str]:
    """The weights of a learner that belong to some parts.

    Args:
        learner: a `Learner`.
        parts: of a stage.
        low_rank: of the network, only its low-rank additions count, and what a student is told the scales by.

    Raises:
        RequestError: there are none.
    """
    names = [
        name
        for name, _ in learner.named_parameters()
        if matches(name, parts) and (not low_rank or _LOW_RANK in name or matches(name, WHOLE))
    ]
    if not names:
        raise RequestError("train", f"{', '.join(parts)} hold nothing that can be trained", "name another part")
    return names


def train_only(learner: nn.Module, names: Iterable[str]) -> None:
    """Freeze all weights but these."""
    wanted = set(names)
    for name, weight in learner.named_parameters():
        weight.requires_grad_(name in wanted)


def add_low_rank(transformer: HuMoTransformer3DModel, parts: Iterable[Part], lora: Lora) -> None:
    """Give every linear layer of the parts a low-rank addition that is zero at first, through peft.

    Raises:
        DependencyError: peft is not there.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise DependencyError("lora", "peft is not installed", "pip install humo-video[train]") from error
    wanted = tuple(parts)
    layers = [
        name
        for name, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear)
        and matches(f"transformer.{name}.weight", wanted)
        and not matches(f"transformer.{name}.weight", WHOLE)
    ]
    if not layers:
        raise RequestError("lora", f"{', '.join(wanted)} hold no linear layer", "name another part")
    transformer.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=layers))
