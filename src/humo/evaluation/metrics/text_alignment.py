"""Text alignment (TVA) by VideoReward's head on Qwen2-VL-2B, without its normalization of scores."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from humo.analysis.networks import video_reward as reward
from humo.analysis.weights import load_weights, weights_file
from humo.errors import CheckpointError
from humo.evaluation.context import CaseContext
from humo.evaluation.metric import Direction, Measurement, Metric, Need, Protocol
from humo.geometry import FRAMES_PER_SECOND

WEIGHTS = "videoreward"
MODEL, MODEL_CONFIG, CONFIG, TOKENIZER, TEMPLATES = range(5)
"""Numbers of the files of these weights."""

TEMPLATE = "DETAILED_PROMPT_WITH_SPECIAL_TOKEN"
"""Name of the instruction in the published ``prompt_template.py``."""


@dataclass(frozen=True, eq=False)
class _Judge:
    """The loaded network with its tokenizer and instruction."""

    network: reward.VideoReward
    tokenizer: Any
    template: str
    reward_tokens: tuple[int, ...]


@torch.inference_mode()
def measure(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the score of text alignment."""
    judge = _judge(context.device)
    count = reward.count_frames(len(context.frames), float(FRAMES_PER_SECOND))
    if count < 2:
        return Measurement(None, f"the video has {len(context.frames)} frames, fewer than 2")
    numbers = np.linspace(0, len(context.frames) - 1, count).round().astype(int)
    images = reward.prepare_frames(torch.from_numpy(context.frames[numbers]))
    patches, grid = reward.patchify(images)
    tokens = judge.tokenizer.encode(reward.chat_text(judge.template, context.case.prompt, grid)).ids
    scores = judge.network(
        torch.tensor(tokens, device=context.device),
        patches.to(context.device),
        grid,
        torch.tensor(judge.reward_tokens, device=context.device),
    ).tolist()
    details = {"visual_quality": scores[0], "motion_quality": scores[1]}
    return Measurement(scores[2], frames=count, details=details)


@cache
def _judge(device: str) -> _Judge:
    from tokenizers import Tokenizer
    from transformers import Qwen2VLConfig

    settings = json.loads(weights_file(WEIGHTS, MODEL_CONFIG).read_text(encoding="utf-8"))
    config = Qwen2VLConfig(**json.loads(weights_file(WEIGHTS, CONFIG).read_text(encoding="utf-8")))
    tokenizer = Tokenizer.from_file(str(weights_file(WEIGHTS, TOKENIZER)))
    tokenizer.add_special_tokens(list(reward.REWARD_TOKENS))
    lora = settings["peft_lora_config"]
    rank = lora["lora_r"] ** (0.5 if lora.get("use_rslora") else 1)
    weights = reward.plain_weights(load_weights(WEIGHTS), lora["lora_alpha"] / rank)
    config.text_config.vocab_size = len(weights["model.language_model.embed_tokens.weight"])
    network = reward.VideoReward(config, int(settings["model_config"]["output_dim"]))
    missing = network.load_state_dict(weights, strict=False).missing_keys
    if missing:
        problem = f"the weights have no {missing[0]!r}"
        raise CheckpointError(WEIGHTS, problem, f"run `humo evaluate weights get {WEIGHTS}` again")
    identifiers = tuple(one for token in reward.REWARD_TOKENS if (one := tokenizer.token_to_id(token)) is not None)
    template = read_template(weights_file(WEIGHTS, TEMPLATES))
    return _Judge(network.eval().to(device), tokenizer, template, identifiers)


def read_template(path: Path) -> str:
    """Return the published instruction from the source file that defines it; the file is parsed and not run.

    Raises:
        CheckpointError: it has no such text.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise CheckpointError(
            WEIGHTS, f"{path.name!r} cannot be read ({error})", "delete it and get it again"
        ) from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(one, ast.Name) and one.id == TEMPLATE for one in node.targets
        ):
            value = ast.literal_eval(node.value)
            if isinstance(value, str) and all(token in value for token in reward.REWARD_TOKENS):
                return value
    raise CheckpointError(WEIGHTS, f"{path.name!r} has no text {TEMPLATE}", "delete it and get it again")


METRICS = (
    Metric(
        "tva.videoreward",
        1,
        "text alignment by VideoReward, not normalized",
        Direction.UP,
        {
            "network": "Qwen2-VL-2B with VideoReward's LoRA and head, float32",
            "instruction": "detailed_special",
            "input": "2 frames a second, at least 4, bicubic with antialiasing, at most 200704 pixels",
            "aggregation": "score of the third reward token",
        },
        measure,
        frozenset({Need.PROMPT}),
        (WEIGHTS,),
    ),
)
"""Metrics of this module."""
