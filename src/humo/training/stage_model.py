"""The learner of a stage: built, given the weights it goes on with, frozen where it is not trained, put in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from humo.distributed.fsdp import shard
from humo.distributed.process_group import ProcessGroup
from humo.errors import CheckpointError, RequestError
from humo.model.transformer import HuMoTransformer3DModel
from humo.training.config import Compute, Recipe, Stage
from humo.training.distillation import student_of
from humo.training.frozen_encoders import Encoders
from humo.training.trainable import HEADS, add_low_rank, tensor_names, train_only
from humo.training.training_model import Learner


@dataclass(frozen=True)
class Trainee:
    """A learner ready for a stage.

    Args:
        learner: computes.
        masters: every weight that any stage of the recipe trains, in float32; the learner's own where it has it so.
        trained: those that this stage trains, as the learner has them.
    """

    learner: Learner
    masters: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]


def prepare(
    encoders: Encoders, recipe: Recipe, stage: Stage, saved: Mapping[str, Tensor], here: ProcessGroup
) -> Trainee:
    """The learner of a stage.

    Args:
        encoders: of the recipe; they give the network to start from.
        recipe, stage: what is trained, and how precisely it computes.
        saved: weights of a checkpoint, by name; those that are missing begin anew, in the same way every time.
        here: this process among all.

    Raises:
        CheckpointError: the saved weights are of another network.
    """
    precision: torch.dtype = getattr(torch, recipe.compute.precision)
    low_rank = recipe.lora is not None
    transformer = encoders.network(recipe.seed)
    if recipe.data.continued > 0:
        transformer.register_to_config(continues=True)
    if recipe.distill is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            transformer.become_student(asdict(student_of(recipe.distill, encoders.preset)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.lora is not None:
            every = {part for one in recipe.stages for part in one.train if part not in HEADS}
            add_low_rank(transformer, sorted(every), recipe.lora)
        learner = Learner(transformer)
    _load(learner, saved)
    ever = {name for one in recipe.stages for name in tensor_names(learner, one.train, low_rank=low_rank)}
    now = tensor_names(learner, stage.train, low_rank=low_rank)
    train_only(learner, now)
    learner.asked = stage.train
    choose_attention(transformer, recipe.compute.attention)
    if recipe.compute.compile:
        compile_blocks(transformer)
    if recipe.compute.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    learner.to(here.device)
    masters: dict[str, Tensor] = {}
    if here.size > 1 and recipe.compute.shard:
        shard(learner, precision)
    elif precision is not torch.float32:
        masters = {name: nn.Parameter(weight.detach().clone()) for name, weight in _named(learner, ever).items()}
        lower(transformer, precision)
    weights = _named(learner, ever)
    return Trainee(learner.train(), masters or weights, {name: weights[name] for name in now})


def choose_attention(transformer: HuMoTransformer3DModel, name: str) -> None:
    """Let a network attend by one of diffusers' kernels.

    Raises:
        RequestError: there is none of that name.
    """
    if name == Compute().attention:
        return
    try:
        transformer.set_attention_backend(name)
    except ValueError as error:
        raise RequestError("compute.attention", str(error), "name another, or leave it out") from error


def compile_blocks(transformer: HuMoTransformer3DModel) -> None:
    """Compile what a block does before and after its last norm, at which `focus.listening` listens."""
    block: Any
    for block in transformer.blocks:
        block.attend = torch.compile(block.attend)
        block.feed = torch.compile(block.feed)


def _named(learner: Learner, names: set[str]) -> dict[str, Tensor]:
    """Weights by name, in the learner's order."""
    return {name: weight for name, weight in learner.named_parameters() if name in names}


@torch.no_grad()
def _load(learner: Learner, saved: Mapping[str, Tensor]) -> None:
    there = dict(learner.named_parameters())
    for name, tensor in saved.items():
        if name not in there or there[name].shape != tensor.shape:
            raise CheckpointError("checkpoint", f"{name} does not fit this network", "resume with the same model")
        there[name].copy_(tensor)


def lower(transformer: HuMoTransformer3DModel, precision: torch.dtype) -> None:
    """Store the blocks' weights in a precision, as inference does: norms, small layers and additions stay float32."""
    kept = transformer._keep_in_fp32_modules
    for name, weight in transformer.named_parameters():
        words = name.split(".")
        if "lora_A" not in words and "lora_B" not in words and not any(word in kept for word in words):
            weight.data = weight.data.to(precision)
