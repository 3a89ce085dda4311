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
from humo.training.config import ComputeConfig, Recipe, Stage
from humo.training.distillation import distillation_of
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.trainable import AUXILIARY_HEADS, add_lora, freeze_except, parameter_names
from humo.training.training_model import TrainingModel


@dataclass(frozen=True)
class StageModel:
    """A training model that is ready for a stage.

    Args:
        model: the model.
        master_weights: name -> float32 master weight of every weight that any stage of the recipe trains; the model's
            own weight if it computes in float32.
        trained_weights: name -> weight of the model that this stage trains.
    """

    model: TrainingModel
    master_weights: Mapping[str, Tensor]
    trained_weights: Mapping[str, Tensor]


def build_stage_model(
    encoders: FrozenEncoders, recipe: Recipe, stage: Stage, saved: Mapping[str, Tensor], group: ProcessGroup
) -> StageModel:
    """Build the training model of a stage.

    Args:
        encoders: source of the network to start from.
        recipe: the run.
        stage: the stage, one of the recipe's.
        saved: name -> weight of a checkpoint. Weights that it lacks are initialized from the recipe's seed.
        group: all processes of the run.

    Raises:
        CheckpointError: a saved weight does not fit the network.
    """
    dtype: torch.dtype = getattr(torch, recipe.compute.dtype)
    uses_lora = recipe.lora is not None
    transformer = encoders.build_network(recipe.seed)
    if recipe.data.continuation_prob > 0:
        transformer.register_to_config(continuation=True)
    if recipe.distill is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            transformer.enable_guidance_embedding(asdict(distillation_of(recipe.distill, encoders.preset)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.lora is not None:
            groups = {name for any_stage in recipe.stages for name in any_stage.train if name not in AUXILIARY_HEADS}
            add_lora(transformer, sorted(groups), recipe.lora)
        model = TrainingModel(transformer)
    _load_weights(model, saved)
    ever_trained = {
        name for any_stage in recipe.stages for name in parameter_names(model, any_stage.train, lora=uses_lora)
    }
    trained = parameter_names(model, stage.train, lora=uses_lora)
    freeze_except(model, trained)
    model.active_heads = stage.train
    set_attention_backend(transformer, recipe.compute.attention_backend)
    if recipe.compute.compile:
        compile_blocks(transformer)
    if recipe.compute.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    model.to(group.device)
    master_weights: dict[str, Tensor] = {}
    if group.size > 1 and recipe.compute.fsdp:
        shard(model, dtype)
    elif dtype is not torch.float32:
        master_weights = {
            name: nn.Parameter(weight.detach().clone()) for name, weight in _select(model, ever_trained).items()
        }
        cast_blocks(transformer, dtype)
    weights = _select(model, ever_trained)
    return StageModel(model.train(), master_weights or weights, {name: weights[name] for name in trained})


def set_attention_backend(transformer: HuMoTransformer3DModel, name: str) -> None:
    """Set the network's attention backend.

    Args:
        transformer: the network.
        name: diffusers' name of the backend.

    Raises:
        RequestError: diffusers has no backend of that name.
    """
    if name == ComputeConfig().attention_backend:
        return
    try:
        transformer.set_attention_backend(name)
    except ValueError as error:
        raise RequestError(
            "compute.attention_backend", f"{name!r}: {error}", "give another backend, or remove the field"
        ) from error


def compile_blocks(transformer: HuMoTransformer3DModel) -> None:
    """Compile each block before and after its last norm; `capture_activations` reads the input of that norm."""
    block: Any
    for block in transformer.blocks:
        block.attention_layers = torch.compile(block.attention_layers)
        block.feed_forward = torch.compile(block.feed_forward)


def _select(model: TrainingModel, names: set[str]) -> dict[str, Tensor]:
    """Return the weights of these names, in the model's order."""
    return {name: weight for name, weight in model.named_parameters() if name in names}


@torch.no_grad()
def _load_weights(model: TrainingModel, saved: Mapping[str, Tensor]) -> None:
    """Copy saved weights into the model."""
    weights = dict(model.named_parameters())
    for name, tensor in saved.items():
        if name not in weights or weights[name].shape != tensor.shape:
            problem = f"{name} does not fit this network"
            raise CheckpointError("checkpoint", problem, "resume with the model that the run started with")
        weights[name].copy_(tensor)


def cast_blocks(transformer: HuMoTransformer3DModel, dtype: torch.dtype) -> None:
    """Cast the blocks' weights to a dtype as inference does; norms, small layers and LoRA stay float32."""
    in_float32 = transformer._keep_in_fp32_modules
    for name, weight in transformer.named_parameters():
        modules = name.split(".")
        if "lora_A" not in modules and "lora_B" not in modules and not any(module in in_float32 for module in modules):
            weight.data = weight.data.to(dtype)
