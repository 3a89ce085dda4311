"""From a run to what others load: the averaged weights as a network, a model folder or a LoRA file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from humo.checkpoints.formats.writer import new_folder
from humo.checkpoints.layout import COMPONENTS, MODEL_INDEX
from humo.distributed.fsdp import full_state_dict
from humo.distributed.process_group import ProcessGroup
from humo.inference.lora import distillation_tensors
from humo.inference.pipeline import HuMoPipeline
from humo.model.transformer import HuMoTransformer3DModel
from humo.presets import read_distillation
from humo.training.config import Recipe
from humo.training.frozen_encoders import Encoders
from humo.training.optimizer import Average
from humo.training.stage_model import Trainee
from humo.training.trainable import HEADS, add_low_rank

_PREFIX = "transformer."


def averaged_network(
    trainee: Trainee, average: Average, recipe: Recipe, here: ProcessGroup
) -> HuMoTransformer3DModel | None:
    """A network of its own with the averaged weights, in float32; None but in the first process. All must ask."""
    own = dict(trainee.learner.named_parameters()) | dict(average.weights)
    weights: dict[str, Tensor] = full_state_dict(
        {name: weight for name, weight in own.items() if name.startswith(_PREFIX)}, here
    )
    if not here.is_main:
        return None
    config = dict(trainee.learner.transformer.config)
    config.pop("_use_default_values", None)  # what the folder did not say: copied, it would be a default again
    with torch.random.fork_rng(devices=[]):  # of the first weights, which are replaced
        network: HuMoTransformer3DModel = HuMoTransformer3DModel.from_config(config)
        if recipe.lora is not None:
            every = {part for stage in recipe.stages for part in stage.train if part not in HEADS}
            add_low_rank(network, sorted(every), recipe.lora)
    network.load_state_dict({name.removeprefix(_PREFIX): weight.float() for name, weight in weights.items()})
    network.eval().requires_grad_(False)
    return network


def export_model(encoders: Encoders, network: HuMoTransformer3DModel, folder: Path) -> None:
    """Write a model folder: the network and its frozen parts; training's own heads stay behind.

    Raises:
        StorageError: the disk is full, or the folder holds something else.
    """
    bytes_needed = sum(weight.nbytes for weight in network.parameters())
    with new_folder(folder, bytes_needed, True, frozenset({*COMPONENTS, MODEL_INDEX})) as part:
        encoders.pipeline(network).save_pretrained(str(part))


def export_lora(encoders: Encoders, network: HuMoTransformer3DModel, folder: Path) -> None:
    """Write the low-rank additions, as `HuMoPipeline.load_lora_weights` reads them.

    Raises:
        StorageError: the disk is full, or the folder holds something else.
    """
    from peft import get_peft_model_state_dict

    layers = get_peft_model_state_dict(network)
    student = read_distillation(network.config)
    if student is not None and network.scale_embedder is not None:
        told = distillation_tensors(student, network.scale_embedder.state_dict())
        layers |= {key.removeprefix("transformer."): tensor for key, tensor in told.items()}
    bytes_needed = sum(weight.nbytes for weight in layers.values())
    with new_folder(folder, bytes_needed, True, frozenset({"pytorch_lora_weights.safetensors"})) as part:
        HuMoPipeline.save_lora_weights(str(part), transformer_lora_layers=layers)
