"""From prompts to text embeddings: clean, tokenize, encode by umT5, cut at the true length.

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
    """A prompt with broken Unicode mended, HTML entities resolved (twice, as published) and white space collapsed."""
    mended = ftfy.fix_text(prompt)
    return " ".join(html.unescape(html.unescape(mended)).split())


def tokenize(prompts: list[str], tokenizer: Any, length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (B, L) with L the longest prompt's true length, at most ``length``."""
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
    """Embeddings (B, L, D) of tokens, zero where the mask is."""
    hidden: Tensor = encoder(ids_BL, attention_mask=mask_BL).last_hidden_state
    return hidden * mask_BL.unsqueeze(-1)


@torch.no_grad()
def encode_text(prompts: list[str], tokenizer: Any, encoder: Any, length: int, device: torch.device) -> Tensor:
    """Embeddings (B, L, D) of prompts, L at most ``length`` positions, zeros after each one's true length.

    Args:
        prompts: as written.
        tokenizer: the text encoder's own.
        encoder: `UMT5EncoderModel`.
        length: longest text kept, in tokens; longer prompts are cut there, as published.
        device: where the encoder is.
    """
    ids, mask = tokenize(prompts, tokenizer, length)
    return encode_tokens(ids.to(device), mask.to(device), encoder)
