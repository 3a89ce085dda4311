"""LoRAs of a job: their files are found and compared with the network before weights are loaded. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from humo.checkpoints.architecture import Architecture, TransformerArchitecture
from humo.checkpoints.lora_store import DISTILLED_PREFIX, find_lora, open_lora, read_lora_distillation
from humo.errors import CheckpointError
from humo.inference.lora_keys import match_keys
from humo.loras import LoraChoice, parse_lora
from humo.plan import GenerationPlan
from humo.presets import Preset
from humo.request import GenerateRequest


def locate_loras(
    plan: GenerationPlan, network: Architecture, served: Mapping[str, str] | None = None
) -> GenerationPlan:
    """Return the plan with absolute paths for its LoRAs, and a note for each reason why tensors are ignored.

    Args:
        plan: resolved; its LoRAs are files or names.
        network: sizes of the network that they change.
        served: as for `find_lora`.

    Raises:
        CheckpointError: a file is missing, damaged, or for another network.
    """
    notes, located = list(plan.notes), []
    for choice in map(parse_lora, plan.request.loras):
        path = find_lora(choice.name, served)
        located.append(str(LoraChoice(str(path), choice.strength)))
        notes += check_lora(path, network)
    if len({parse_lora(lora).name for lora in located}) < len(located):
        raise CheckpointError("loras", "the same file is given twice", "give it once, with the sum of the strengths")
    request = plan.request.model_copy(update={"loras": tuple(located)})
    return replace(plan, request=request, notes=tuple(notes))


def check_lora(path: Path, network: Architecture) -> list[str]:
    """Check that a LoRA fits a network; return a line for each reason why tensors are ignored.

    Raises:
        CheckpointError: the file is damaged, or for another network.
    """
    assert isinstance(network, TransformerArchitecture)
    tensors = open_lora(path).tensors
    shapes = {name: tensor.shape for name, tensor in tensors.items() if not name.startswith(DISTILLED_PREFIX)}
    return match_keys(shapes, network, name=path.name).describe_ignored(path.name)


def strengths_of(request: GenerateRequest) -> dict[Path, float]:
    """Return file -> strength of each LoRA of a request that `locate_loras` resolved."""
    return {Path(choice.name): choice.strength for choice in map(parse_lora, request.loras)}


def preset_with_loras(preset: Preset, loras: tuple[str, ...], served: Mapping[str, str] | None = None) -> Preset:
    """Return the preset of a network with LoRAs: one of `humo train distill` brings its distillation.

    Args:
        preset: of the model folder.
        loras: of the request.
        served: as for `find_lora`.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    for choice in map(parse_lora, loras):
        preset = preset.distilled(read_lora_distillation(find_lora(choice.name, served)))
    return preset
