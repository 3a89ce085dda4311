"""Export of the averaged weights of a run: as a network, a model folder or a LoRA file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from humo.checkpoints.layout import COMPONENTS, MODEL_INDEX
from humo.distributed.fsdp import full_state_dict
from humo.distributed.process_group import ProcessGroup
from humo.files import new_folder
from humo.inference.lora import distillation_tensors
from humo.inference.pipeline import HuMoPipeline
from humo.model.transformer import HuMoTransformer3DModel
from humo.presets import read_distillation
from humo.training.config import Recipe
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.optimizer import EMA
from humo.training.stage_model import StageModel
from humo.training.trainable import AUXILIARY_HEADS, add_lora

_PREFIX = "transformer."


def export_network(
    stage_model: StageModel, ema: EMA, recipe: Recipe, group: ProcessGroup
) -> HuMoTransformer3DModel | None:
    """Return a new network with the averaged weights in float32; None in all but the main process.

    Every process must call it.
    """
    model = stage_model.model
    local = {
        name: weight
        for name, weight in (dict(model.named_parameters()) | dict(ema.weights)).items()
        if name.startswith(_PREFIX)
    }
    weights: dict[str, Tensor] = full_state_dict(local, group)
    if not group.is_main:
        return None
    config = dict(model.transformer.config)
    # these names are of values to take from the defaults; here they would replace the configuration's values
    config.pop("_use_default_values", None)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and then replaced
        network: HuMoTransformer3DModel = HuMoTransformer3DModel.from_config(config)
        if recipe.lora is not None:
            groups = {name for stage in recipe.stages for name in stage.train if name not in AUXILIARY_HEADS}
            add_lora(network, sorted(groups), recipe.lora)
    network.load_state_dict({name.removeprefix(_PREFIX): weight.float() for name, weight in weights.items()})
    network.eval().requires_grad_(False)
    return network


def export_model(encoders: FrozenEncoders, network: HuMoTransformer3DModel, folder: Path) -> None:
    """Write a model folder with the network and its frozen components; auxiliary heads are left out.

    Raises:
        StorageError: the disk is full, or the folder contains other files.
    """
    bytes_needed = sum(weight.nbytes for weight in network.parameters())
    with new_folder(folder, bytes_needed, True, frozenset({*COMPONENTS, MODEL_INDEX})) as partial:
        encoders.build_pipeline(network).save_pretrained(str(partial))


def export_lora(encoders: FrozenEncoders, network: HuMoTransformer3DModel, folder: Path) -> None:
    """Write the LoRA weights in the format of `HuMoPipeline.load_lora_weights`.

    Raises:
        StorageError: the disk is full, or the folder contains other files.
    """
    from peft import get_peft_model_state_dict

    layers = get_peft_model_state_dict(network)
    student = read_distillation(network.config)
    if student is not None and network.guidance_embedder is not None:
        tensors = distillation_tensors(student, network.guidance_embedder.state_dict())
        layers |= {key.removeprefix("transformer."): tensor for key, tensor in tensors.items()}
    bytes_needed = sum(weight.nbytes for weight in layers.values())
    with new_folder(folder, bytes_needed, True, frozenset({"pytorch_lora_weights.safetensors"})) as partial:
        HuMoPipeline.save_lora_weights(str(partial), transformer_lora_layers=layers)
