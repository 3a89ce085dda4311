"""Construction of a stage's training model: its network, loaded weights, frozen weights, dtype and device."""

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
    """A training model that is ready for a stage.

    Args:
        learner: the model.
        masters: name -> float32 master weight of every weight that any stage of the recipe trains; the model's own
            weight if it computes in float32.
        trained: name -> weight of the model that this stage trains.
    """

    learner: Learner
    masters: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]


def prepare(
    encoders: Encoders, recipe: Recipe, stage: Stage, saved: Mapping[str, Tensor], here: ProcessGroup
) -> Trainee:
    """Build the training model of a stage.

    Args:
        encoders: source of the network to start from.
        recipe: the run.
        stage: the stage, one of the recipe's.
        saved: name -> weight of a checkpoint. Weights that it lacks are initialized from the recipe's seed.
        here: all processes of the run.

    Raises:
        CheckpointError: a saved weight does not fit the network.
    """
    precision: torch.dtype = getattr(torch, recipe.compute.precision)
    uses_lora = recipe.lora is not None
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
            groups = {group for any_stage in recipe.stages for group in any_stage.train if group not in HEADS}
            add_low_rank(transformer, sorted(groups), recipe.lora)
        learner = Learner(transformer)
    _load(learner, saved)
    ever_trained = {
        name for any_stage in recipe.stages for name in tensor_names(learner, any_stage.train, low_rank=uses_lora)
    }
    trained = tensor_names(learner, stage.train, low_rank=uses_lora)
    train_only(learner, trained)
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
        masters = {
            name: nn.Parameter(weight.detach().clone()) for name, weight in _named(learner, ever_trained).items()
        }
        lower(transformer, precision)
    weights = _named(learner, ever_trained)
    return Trainee(learner.train(), masters or weights, {name: weights[name] for name in trained})


def choose_attention(transformer: HuMoTransformer3DModel, name: str) -> None:
    """Set the network's attention backend.

    Args:
        transformer: the network.
        name: diffusers' name of the backend.

    Raises:
        RequestError: diffusers has no backend of that name.
    """
    if name == Compute().attention:
        return
    try:
        transformer.set_attention_backend(name)
    except ValueError as error:
        raise RequestError(
            "compute.attention", f"{name!r}: {error}", "give another backend, or remove the field"
        ) from error


def compile_blocks(transformer: HuMoTransformer3DModel) -> None:
    """Compile each block before and after its last norm; `capture_activations` reads the input of that norm."""
    block: Any
    for block in transformer.blocks:
        block.attend = torch.compile(block.attend)
        block.feed = torch.compile(block.feed)


def _named(learner: Learner, names: set[str]) -> dict[str, Tensor]:
    """Return the weights of these names, in the model's order."""
    return {name: weight for name, weight in learner.named_parameters() if name in names}


@torch.no_grad()
def _load(learner: Learner, saved: Mapping[str, Tensor]) -> None:
    """Copy saved weights into the model."""
    weights = dict(learner.named_parameters())
    for name, tensor in saved.items():
        if name not in weights or weights[name].shape != tensor.shape:
            problem = f"{name} does not fit this network"
            raise CheckpointError("checkpoint", problem, "resume with the model that the run started with")
        weights[name].copy_(tensor)


def lower(transformer: HuMoTransformer3DModel, precision: torch.dtype) -> None:
    """Cast the blocks' weights to a dtype as inference does; norms, small layers and LoRA stay float32."""
    in_float32 = transformer._keep_in_fp32_modules
    for name, weight in transformer.named_parameters():
        modules = name.split(".")
        if "lora_A" not in modules and "lora_B" not in modules and not any(one in in_float32 for one in modules):
            weight.data = weight.data.to(precision)
