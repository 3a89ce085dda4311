"""Decoding of a clip's segments in their order, with smaller tiles where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from humo.conditioning.image import decode_video
from humo.model.autoencoder import StreamingDecoder
from humo.progress import never_stop


class SegmentDecoder:
    """Decodes the segments of a clip, each continuing after the one before.

    Args:
        vae: the autoencoder.
        make_room: is called before a segment; frees the network's weights on the device.
        on_out_of_memory: is called when the device's memory runs out in the first segment. True: tiles are smaller now.
    """

    def __init__(
        self, vae: Any, make_room: Callable[[], None], on_out_of_memory: Callable[[], bool] = never_stop
    ) -> None:
        self._vae, self._make_room, self._on_out_of_memory = vae, make_room, on_out_of_memory
        self._decoder = StreamingDecoder(vae)
        self._is_start = True

    @torch.no_grad()
    def __call__(self, latents: Tensor, *, is_last: bool, network_follows: bool = True) -> Tensor:
        """Decode normalized latents (B, C, k, H, W) to pixels (B, 3, 4k, 8 H, 8 W) in [-1, 1].

        Args:
            latents: of the segment; pixels of the first one have 3 frames fewer.
            is_last: no segment follows.
            network_follows: the network runs before the next segment; what decoding continues from waits on the host.
        """
        self._make_room()
        while True:
            try:
                decode = partial(self._decoder, is_last=is_last)
                video = decode_video(latents.to(self._vae.dtype), self._vae, decode).float()
                break
            except torch.OutOfMemoryError:
                if not self._is_start or not self._on_out_of_memory():
                    raise
                self._decoder = StreamingDecoder(self._vae)
        self._is_start = False
        if network_follows and not is_last:
            self._decoder.to_host()
        return video
