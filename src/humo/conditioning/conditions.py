"""Text, image and audio conditions in one value; guidance and training dropout replace each by its null condition.

Shape suffixes: B batch, L text positions, D width, F latent frames of the whole sequence, W rows a window, N bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from humo.geometry import Window
from humo.model.audio import null_audio_like

Keep = bool | Tensor
"""True keeps a condition, False replaces it by its null condition; a tensor (B,) has one boolean per item."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of the network, each with its null condition.

    Args:
        text, null_text: (B, L, D) embeddings of the prompt and the negative prompt, zeros after the true length.
        image, null_image: the image condition with and without references (`model.reference`), equal in shape.
        audio: (B, F, W, N, D) windows of encoder rows, zeros on reference slots; the null condition is zeros.
    """

    text: Tensor
    null_text: Tensor
    image: Tensor
    null_image: Tensor
    audio: Tensor

    def keep(self, *, text: Keep = True, image: Keep = True, audio: Keep = True) -> Conditions:
        """Return the conditions with some replaced by their null conditions.

        Args:
            text, image, audio: True keeps the condition, False replaces it; or one boolean per item of the batch, (B,).
        """
        length = max(self.text.shape[1], self.null_text.shape[1])
        return replace(
            self,
            text=_select(text, pad_text(self.text, length), pad_text(self.null_text, length)),
            image=_select(image, self.image, self.null_image),
            audio=_select(audio, self.audio, null_audio_like(self.audio)),
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditions:
        """Return the conditions on a device, the texts in the blocks' dtype."""
        return Conditions(
            text=self.text.to(device, dtype),
            null_text=self.null_text.to(device, dtype),
            image=self.image.to(device),
            null_image=self.null_image.to(device),
            audio=self.audio.to(device),
        )

    def within(self, window: Window, slots: int) -> Conditions:
        """Return the conditions of a window of a long clip.

        Args:
            window: of latent frames.
            slots: reference slots at the end of the sequence.
        """

        def cut_image(image: Tensor) -> Tensor:
            if image.shape[2] == slots:  # references only
                return image
            return torch.cat([image[:, :, : window.latent_frames], image[:, :, -slots:]], dim=2)

        return replace(
            self,
            image=cut_image(self.image),
            null_image=cut_image(self.null_image),
            audio=torch.cat([self.audio[:, window.start : window.end], self.audio[:, -slots:]], dim=1),
        )


def stack(conditions: Sequence[Conditions]) -> Conditions:
    """Join the conditions of several requests, or of several guidance passes, to one batch."""
    length = max(text.shape[1] for item in conditions for text in (item.text, item.null_text))
    return Conditions(
        text=torch.cat([pad_text(item.text, length) for item in conditions]),
        null_text=torch.cat([pad_text(item.null_text, length) for item in conditions]),
        image=torch.cat([item.image for item in conditions]),
        null_image=torch.cat([item.null_image for item in conditions]),
        audio=torch.cat([item.audio for item in conditions]),
    )


def pad_text(text_BLD: Tensor, length: int) -> Tensor:
    """Pad text with zeros to ``length`` positions. The network pads in the same way, so results do not change."""
    return F.pad(text_BLD, (0, 0, 0, length - text_BLD.shape[1]))


def _select(keep: Keep, value: Tensor, null: Tensor) -> Tensor:
    if isinstance(keep, bool):
        return value if keep else null
    return torch.where(keep.view(-1, *[1] * (value.ndim - 1)), value, null)
