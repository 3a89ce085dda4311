"""Rotary positions: the angle of each token in time, height and width."""

from __future__ import annotations

import pytest
import torch

from humo.model.attention import ROPE_THETA, apply_rotary_emb, rotary_embedding


def test_pairs_of_channels_are_rotated_by_the_angle_of_their_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Complex and real arithmetic (used by torch.compile) equal the formula in float64."""
    head_dim, frames, rows, columns = 24, 3, 2, 4
    rotary = rotary_embedding(head_dim, frames, rows, columns, torch.device("cpu"))
    x = torch.randn(2, frames * rows * columns, 5, head_dim)
    places = torch.cartesian_prod(*(torch.arange(length) for length in (frames, rows, columns))).double()
    parts = []
    for axis, dim in enumerate((8, 8, 8)):
        parts.append(torch.outer(places[:, axis], ROPE_THETA ** -(torch.arange(0, dim, 2).double() / dim)))
    angle = torch.cat(parts, dim=1)[:, None]
    even, odd = x[..., 0::2].double(), x[..., 1::2].double()
    expected = torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], dim=-1)
    turned = apply_rotary_emb(x, rotary)
    assert torch.allclose(turned.double(), expected.flatten(-2), atol=1e-5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(apply_rotary_emb(x, rotary), turned, atol=1e-6)
