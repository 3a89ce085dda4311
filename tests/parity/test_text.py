"""The text encoder equals the published one where the mask is 1."""

import torch

from humo import HuMoPipeline
from humo.conditioning.text import encode_tokens
from tests.parity.published import FAMILIES, Golden, distance, within


@torch.no_grad()
def test_text_embeddings_equal_the_published_ones(published: Golden) -> None:
    vectors = published.tensors("text")
    pipeline = HuMoPipeline(None, None, published.text_encoder, None, None, None, None, next(iter(FAMILIES.values())))
    out = encode_tokens(vectors["ids"], vectors["mask"], pipeline.text_encoder)
    kept = vectors["mask"].bool()
    assert within(1e-6, "text encoder", out[kept], vectors["out"][kept])
    assert not out[~kept].any()


@torch.no_grad()
def test_padding_does_not_change_the_embeddings_of_a_prompt(published: Golden) -> None:
    vectors = published.tensors("text")
    pipeline = HuMoPipeline(None, None, published.text_encoder, None, None, None, None, next(iter(FAMILIES.values())))
    for ids, mask, out in zip(vectors["ids"], vectors["mask"], vectors["out"], strict=True):
        length = int(mask.sum())
        alone = encode_tokens(ids[None, :length], mask[None, :length], pipeline.text_encoder)
        assert distance(alone[0], out[:length]) <= 2e-6
