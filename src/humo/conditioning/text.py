"""Text conditions: prompts are cleaned, tokenized, encoded by umT5 and cut at their true length.

**Source:** ``humo/models/wan_modules/t5.py``, ``T5EncoderModel.__call__``; ``tokenizers.py``, ``HuggingfaceTokenizer``.
Text embeddings are cut at the prompt's true length; the network pads with zeros.
"""

from __future__ import annotations

import html
from typing import Any

import ftfy
import torch
from torch import Tensor


def clean(prompt: str) -> str:
    """Repair broken Unicode, resolve HTML entities (twice, as published) and collapse white space."""
    repaired = ftfy.fix_text(prompt)
    return " ".join(html.unescape(html.unescape(repaired)).split())


def tokenize(prompts: list[str], tokenizer: Any, length: int) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, both (B, L), with L the true length of the longest prompt, at most ``length``."""
    batch = tokenizer(
        [clean(prompt) for prompt in prompts],
        padding="longest",
        truncation=True,
        max_length=length,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return batch.input_ids, batch.attention_mask


def encode_tokens(ids_BL: Tensor, mask_BL: Tensor, encoder: Any) -> Tensor:
    """Return the embeddings (B, L, D) of tokens, zero where the mask is zero."""
    hidden: Tensor = encoder(ids_BL, attention_mask=mask_BL).last_hidden_state
    return hidden * mask_BL.unsqueeze(-1)


@torch.no_grad()
def encode_text(prompts: list[str], tokenizer: Any, encoder: Any, length: int, device: torch.device) -> Tensor:
    """Return the embeddings (B, L, D) of prompts, zeros after the true length of each.

    Args:
        prompts: prompts as the user wrote them.
        tokenizer: tokenizer of the text encoder.
        encoder: `UMT5EncoderModel`.
        length: maximum length in tokens; longer prompts are truncated, as published.
        device: device of the encoder.
    """
    ids, mask = tokenize(prompts, tokenizer, length)
    return encode_tokens(ids.to(device), mask.to(device), encoder)
