"""VideoReward: Qwen2-VL rates a video's visual quality, motion quality and text alignment at three special tokens.

**Source:** Liu et al., "Improving Video Generation with Human Feedback" (arXiv 2501.13918), and its code,
https://github.com/KlingTeam/VideoReward: ``trainer.py`` (``Qwen2VLRewardModelBT``), ``inference.py``,
``vision_process.py``. As there, positions of tokens count one by one, without Qwen2-VL's rows and columns.

Shape suffixes: F frames, C channels, H height, W width, P patches, L tokens, D width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRAMES_PER_SECOND = 2.0
"""Frames a second that are rated."""

MIN_FRAMES, MAX_FRAMES = 4, 768
"""Least and largest number of frames."""

PATCH, MERGED, TEMPORAL = 14, 2, 2
"""Side of a patch in pixels, patches along each axis that are merged, frames of a patch."""

MIN_PIXELS, MAX_PIXELS = 128 * 28 * 28, 200_704
"""Least and largest number of pixels of a frame."""

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of red, green and blue in the training images."""

REWARD_TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
"""Tokens at which visual quality, motion quality and text alignment are read."""

CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|>{video}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
)
"""Qwen2-VL's chat template for a video and a text."""

VIDEO_TOKEN = "<|video_pad|>"

_OLD_NAMES = (
    (re.compile(r"^model\.(?!visual\.|language_model\.)"), "model.language_model."),
    (re.compile(r"^visual\."), "model.visual."),
)
"""Names of parameters before transformers 4.52 -> after it."""


class VideoReward(nn.Module):
    """Qwen2-VL with a linear head.

    Args:
        config: transformers' ``Qwen2VLConfig``.
        outputs: values of the head at each token; with three, the value of a token is the one of its own number.
    """

    def __init__(self, config: Any, outputs: int = 1) -> None:
        from transformers import Qwen2VLModel

        super().__init__()
        self.model = Qwen2VLModel(config)
        self.rm_head = nn.Linear(config.text_config.hidden_size, outputs, bias=False)
        self.video_token = config.video_token_id

    def forward(
        self, tokens_L: Tensor, patches_PD: Tensor, grid: tuple[int, int, int], reward_tokens: Tensor
    ) -> Tensor:
        """Return the scores of visual quality, motion quality and text alignment, (3,).

        Args:
            tokens_L: token ids of the chat.
            patches_PD: from `patchify`.
            grid: patches over time, rows and columns.
            reward_tokens: ids of `REWARD_TOKENS`.
        """
        embedded_LD = self.model.get_input_embeddings()(tokens_L)
        video: Any = self.model.visual(patches_PD, grid_thw=torch.tensor([grid], device=tokens_L.device))
        features = getattr(video, "pooler_output", video)
        is_video = (tokens_L == self.video_token)[:, None].expand_as(embedded_LD)
        embedded_LD = embedded_LD.masked_scatter(is_video, features.to(embedded_LD.dtype))
        hidden = self.model.language_model(inputs_embeds=embedded_LD[None], use_cache=False).last_hidden_state[0]
        at_tokens = self.rm_head(hidden)[torch.isin(tokens_L, reward_tokens)]
        scores: Tensor = at_tokens.diagonal() if at_tokens.shape[1] == len(REWARD_TOKENS) else at_tokens[:, 0]
        return scores


def count_frames(frames: int, rate: float) -> int:
    """Return how many frames of a clip are rated, an even number.

    Args:
        frames: frames of the clip.
        rate: frames a second of the clip.
    """
    most = min(MAX_FRAMES, frames) // TEMPORAL * TEMPORAL
    wanted = min(max(frames / rate * FRAMES_PER_SECOND, MIN_FRAMES), most)
    return min(round(wanted / TEMPORAL) * TEMPORAL, frames)


def rated_size(height: int, width: int) -> tuple[int, int]:
    """Return the size of rated frames: multiples of 28 pixels, between `MIN_PIXELS` and `MAX_PIXELS`."""
    unit = PATCH * MERGED
    rows, columns = (max(unit, round(side / unit) * unit) for side in (height, width))
    if rows * columns > MAX_PIXELS:
        factor = math.sqrt(height * width / MAX_PIXELS)
        return math.floor(height / factor / unit) * unit, math.floor(width / factor / unit) * unit
    if rows * columns < MIN_PIXELS:
        factor = math.sqrt(MIN_PIXELS / (height * width))
        return math.ceil(height * factor / unit) * unit, math.ceil(width * factor / unit) * unit
    return rows, columns


def prepare_frames(frames_FHW3: Tensor) -> Tensor:
    """Return frames (F, 3, H, W) as the network takes them: resized (bicubic, to whole values) and normalized.

    Args:
        frames_FHW3: uint8.
    """
    images = frames_FHW3.movedim(-1, 1).float()
    size = rated_size(*images.shape[-2:])
    if size != tuple(images.shape[-2:]):
        images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
        images = images.clamp(0, 255).round()
    shape = (1, 3, 1, 1)
    scaled = images / 255
    return (scaled - scaled.new_tensor(MEAN).view(shape)) / scaled.new_tensor(STD).view(shape)


def patchify(images_FCHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Return patches (P, C * 2 * 14 * 14) in Qwen2-VL's order, and their grid: time, rows, columns."""
    if len(images_FCHW) % TEMPORAL:
        images_FCHW = torch.cat([images_FCHW, images_FCHW[-1:]])
    frames, channels, height, width = images_FCHW.shape
    grid = frames // TEMPORAL, height // PATCH, width // PATCH
    blocks = images_FCHW.reshape(
        grid[0], TEMPORAL, channels, grid[1] // MERGED, MERGED, PATCH, grid[2] // MERGED, MERGED, PATCH
    )
    ordered = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(math.prod(grid), channels * TEMPORAL * PATCH * PATCH), grid


def chat_text(template: str, prompt: str, grid: tuple[int, int, int]) -> str:
    """Return the text of the chat.

    Args:
        template: published instruction with ``{text_prompt}``.
        prompt: the video's prompt.
        grid: of the patches.
    """
    tokens = VIDEO_TOKEN * (math.prod(grid) // MERGED**2)
    return CHAT.format(video=tokens, text=template.replace("{text_prompt}", prompt))


def plain_weights(stored: Mapping[str, Tensor], lora_scale: float) -> dict[str, Tensor]:
    """Return the weights of `VideoReward` from a checkpoint of the published trainer.

    Adapters are merged, fully trained modules replace the original ones, names are those of today's transformers.

    Args:
        stored: parameter -> tensor, as peft names them.
        lora_scale: ``lora_alpha / lora_r``.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        plain = name.removeprefix("base_model.model.")
        if ".lora_" in plain or ".original_module." in plain or plain.startswith("lm_head."):
            continue
        plain = plain.replace(".modules_to_save.default.", ".")
        if ".base_layer." in plain:
            plain = plain.replace(".base_layer.", ".")
            factors = [stored.get(name.replace("base_layer.weight", f"lora_{side}.default.weight")) for side in "BA"]
            if factors[0] is not None and factors[1] is not None:
                tensor = tensor.float() + lora_scale * (factors[0].float() @ factors[1].float())
        for pattern, replacement in _OLD_NAMES:
            plain = pattern.sub(replacement, plain)
        weights[plain] = tensor
    return weights
