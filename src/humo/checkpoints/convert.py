"""Converts released and ComfyUI weights into a model folder, and a model folder back to the published names."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.checkpoints.architecture import AutoencoderStructure, SpeechStructure, TextStructure, TransformerStructure
from humo.checkpoints.casting import dtype_word
from humo.checkpoints.conversion_plan import Dropped, PartPlan, plan_part
from humo.checkpoints.discovery import FEATURE_FILE, TOKENIZER_FILES, Findings, Found, Ignored, find_parts
from humo.checkpoints.formats.writer import SHARD_BYTES, new_folder, write_json, write_weights
from humo.checkpoints.keymap import Naming
from humo.checkpoints.layout import (
    FEATURE_FOLDER,
    MODEL_INDEX,
    OWN_QUANTISATION,
    QUANTISATION,
    SCHEDULER_FOLDER,
    TOKENIZER_FOLDER,
    WRITTEN,
    feature_config,
    library_version,
    model_index,
    place_of,
    scheduler_config,
    tokenizer_config,
)
from humo.checkpoints.signatures import Part
from humo.errors import CheckpointError, RequestError, StorageError, did_you_mean
from humo.presets import PRESETS

SourcePath = str | os.PathLike[str]


Progress = Callable[[str, int, int], None]
"""Hears of a part's name, the bytes done and the bytes in total."""


@dataclass(frozen=True, slots=True)
class ConvertedPart:
    """One part that was written.

    Args:
        part: its folder's name in our layout.
        source: the file or index it came from.
        files: the weights files, relative to the destination.
        tensors: how many.
        bytes: their size.
        dtypes: element types written -> number of tensors, in the safetensors format's words.
    """

    part: str
    source: Path
    files: tuple[Path, ...]
    tensors: int
    bytes: int
    dtypes: dict[str, int]


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What a conversion did.

    Args:
        destination: the folder that was made.
        naming: under which names its tensors are.
        preset: the family, if the transformer was among the sources.
        parts: what was converted.
        dropped: every tensor that was not, and why.
        ignored: every file that was not, and why.
        notes: what else a person should know.
    """

    destination: Path
    naming: Naming
    preset: str | None
    parts: tuple[ConvertedPart, ...]
    dropped: tuple[Dropped, ...]
    ignored: tuple[Ignored, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size in bytes of all weights written."""
        return sum(part.bytes for part in self.parts)

    def dropped_by_reason(self) -> dict[str, int]:
        """Reason -> number of tensors, the most frequent first."""
        return dict(Counter(dropped.reason for dropped in self.dropped).most_common())


def convert(
    source: SourcePath | Sequence[SourcePath],
    destination: SourcePath,
    *,
    family: str | None = None,
    naming: str = Naming.OURS,
    dtype: str | None = None,
    head_width: int | None = None,
    keep_quantised: bool = False,
    overwrite: bool = False,
    shard_bytes: int | None = SHARD_BYTES,
    progress: Progress = lambda part, done_bytes, total_bytes: None,
) -> ConversionReport:
    """Convert all parts of a model that lie under a source.

    The source's own layout is found out, so our folder is a source as well: to be written under the published names,
    or once more in another type. A few pieces of 32 MiB are in memory at a time, whatever the size of the files.

    Args:
        source: a folder, a file, or several of them; a transformer's file that is named itself is taken before the
            transformer in a folder, of which then the other parts are taken.
        destination: the folder to make.
        family: ``humo-17b`` or ``humo-1.7b``, if the source holds both.
        naming: ``ours`` for a model folder, ``published`` for the released names and tree (in safetensors).
        dtype: ``bf16``, ``fp16`` or ``fp32`` for all weights; nothing keeps what is stored, and makes bf16 of what is
            quantised.
        head_width: channels of one of the transformer's attention heads, if it is not 128 and no configuration tells.
        keep_quantised: the matrices of the transformer's blocks stay as they are quantised (GGUF, fp8 and its scales),
            in the file and in memory.
        overwrite: replace a model folder that is there.
        shard_bytes: largest weights file in bytes; None for one file a part.
        progress: called with a part's name, bytes done and bytes in total.

    Returns:
        what was written, dropped and ignored.

    Raises:
        CheckpointError: the source lacks what it should hold, is damaged, or is another model.
        StorageError: the destination is there already, cannot be written, or does not fit on the disk.
        RequestError: no such dtype, family or naming; or weights to stay quantised under the published names.
    """
    if naming not in set(Naming):
        raise RequestError("naming", f"{naming!r} is not a layout", did_you_mean(naming, Naming))
    if family is not None and family not in PRESETS:
        raise RequestError("family", f"{family!r} is not a known family", did_you_mean(family, PRESETS))
    if keep_quantised and naming != Naming.OURS:
        problem = "is for a model folder, and this is to be the published layout"
        raise RequestError("keep_quantised", problem, "leave one of the two out")
    word = dtype_word(dtype)
    sources = [Path(path) for path in ([source] if isinstance(source, str | os.PathLike) else source)]
    target = Path(destination)
    _refuse_overlap(sources, target)
    findings = find_parts(sources, skipped=target)
    plans = _choose(findings, Naming(naming), word, head_width, keep_quantised, family, sources)
    _check_fit(plans)
    _check_prediction(plans, Naming(naming))
    notes = _notes(findings, plans, Naming(naming), keep_quantised)
    with new_folder(target, sum(plan.bytes for plan in plans), overwrite, WRITTEN) as folder:
        parts = tuple(_write_part(folder, plan, Naming(naming), shard_bytes, progress) for plan in plans)
        _write_companions(folder, findings, plans, Naming(naming))
    return ConversionReport(
        destination=target,
        naming=Naming(naming),
        preset=_family(plans),
        parts=parts,
        dropped=tuple(dropped for plan in plans for dropped in plan.dropped),
        ignored=tuple(findings.ignored),
        notes=notes,
    )


def _refuse_overlap(sources: Sequence[Path], target: Path) -> None:
    """A destination that holds a source would be read and replaced at once."""
    for source in sources:
        if target.resolve() in (source.resolve(), *source.resolve().parents) and target.exists():
            raise StorageError(str(target), f"holds the source {source}", "choose another destination")


def _choose(
    findings: Findings,
    naming: Naming,
    dtype: str | None,
    head_width: int | None,
    keep_quantised: bool,
    family: str | None,
    sources: Sequence[Path],
) -> list[PartPlan]:
    """One plan a part; the family decides between two transformers."""
    where = ", ".join(str(source) for source in sources)
    plans: list[PartPlan] = []
    for part in Part:
        planned: list[PartPlan] = []
        failed: CheckpointError | None = None
        for found in _found_of(findings, part):
            try:
                planned.append(plan_part(found, naming, dtype, head_width, keep_quantised))
            except CheckpointError as error:
                findings.ignored.append(Ignored(found.weights.path, error.problem))
                failed = failed or error
        refused = failed or findings.refused.get(part) or findings.refused.get(None)
        if part is Part.TRANSFORMER and failed and family is None:
            raise failed  # never the other family in its stead
        if part is Part.TRANSFORMER and planned:
            planned = _of_family(planned, family, where, findings, refused)
        if len(planned) > 1:
            files = " and ".join(str(plan.weights.path) for plan in planned[:2])
            raise CheckpointError(where, f"holds the {part} more than once: {files}", "give the files themselves")
        if not planned and refused:
            raise refused
        plans += planned
    if not plans:
        raise CheckpointError(where, "holds no weights of HuMo", "give the downloaded folder or a weights file")
    return plans


def _found_of(findings: Findings, part: Part) -> list[Found]:
    """What was found of a part; of the transformer, files that were named themselves before those of folders."""
    found = [one for one in findings.found if one.part is part]
    named = [one for one in found if one.named]
    if part is not Part.TRANSFORMER or not named:
        return found
    for one in found:
        if not one.named:
            findings.ignored.append(Ignored(one.weights.path, "another transformer was named itself"))
    return named


def _of_family(
    planned: list[PartPlan], family: str | None, where: str, findings: Findings, refused: CheckpointError | None
) -> list[PartPlan]:
    """The transformers of the family that was asked for, or of the only one there is."""
    families = sorted({plan.family or "" for plan in planned})
    if family is None and len(families) > 1:
        raise CheckpointError(where, f"holds {' and '.join(families)}", "choose one as the family (--family)")
    chosen = [plan for plan in planned if family in (None, plan.family)]
    if not chosen:
        raise refused or CheckpointError(where, f"holds {families[0]}, not {family}", "choose the family that is there")
    for plan in planned:
        if plan not in chosen:
            findings.ignored.append(Ignored(plan.weights.path, f"of the other family, {plan.family}"))
    return chosen


def _family(plans: Sequence[PartPlan]) -> str | None:
    return next((plan.family for plan in plans if plan.family), None)


def _check_fit(plans: Sequence[PartPlan]) -> None:
    """The encoders must speak in the widths that the transformer hears."""
    transformer = next((plan.structure for plan in plans if isinstance(plan.structure, TransformerStructure)), None)
    if transformer is None:
        return
    for plan in plans:
        match plan.structure:
            case TextStructure(d_model=width):
                expected = transformer.text_dim
            case SpeechStructure(d_model=width):
                expected = transformer.audio_width
            case AutoencoderStructure(z_dim=width):
                expected = transformer.out_channels
            case _:
                continue
        if width != expected:
            problem = f"gives {width} channels where this transformer takes {expected}"
            raise CheckpointError(str(plan.weights.path), problem, "take the parts of one model")


def _check_prediction(plans: Sequence[PartPlan], naming: Naming) -> None:
    """The published files have no place for what a network predicts or is told, and their readers do not ask."""
    for plan in plans:
        if naming is Naming.PUBLISHED and plan.hints.get("student"):
            problem = "is a student, and the published layout knows networks that are guided"
            raise CheckpointError(str(plan.weights.path), problem, "keep it as a model folder")
        told = plan.hints.get("prediction", "velocity") if plan.part is Part.TRANSFORMER else "velocity"
        if naming is Naming.PUBLISHED and told != "velocity":
            problem = f"predicts {told}, and the published layout knows networks that predict velocity"
            raise CheckpointError(str(plan.weights.path), problem, "keep it as a model folder")


def _notes(findings: Findings, plans: Sequence[PartPlan], naming: Naming, keep_quantised: bool) -> tuple[str, ...]:
    notes = [
        f"{plan.part}: {plan.unscaled_fp8} fp8 weights came without a scale and were taken as they are"
        for plan in plans
        if plan.unscaled_fp8
    ]
    if keep_quantised and not any(plan.kept for plan in plans):
        notes.append("nothing among the sources is quantised in a way that can be kept")
    parts = {plan.part for plan in plans}
    missing = [str(part) for part in Part if part not in parts]
    if naming is Naming.OURS and Part.TEXT_ENCODER in parts and findings.tokenizer is None:
        missing += [] if _embedded_pieces(plans) else ["tokenizer"]
    if missing:
        notes.append(f"not among the sources: {', '.join(missing)}; convert again with their files as further sources")
    if naming is Naming.PUBLISHED and Part.AUDIO_ENCODER in parts:
        notes.append("whisper-large-v3 holds the encoder alone: its decoder is not kept in a model folder")
    return tuple(notes)


def _write_part(
    folder: Path,
    plan: PartPlan,
    naming: Naming,
    shard_bytes: int | None,
    progress: Progress,
) -> ConvertedPart:
    """Weights and configuration of one part."""
    place = place_of(plan.part, naming, plan.family)
    done = 0

    def written(count: int) -> None:
        nonlocal done
        done += count
        progress(str(plan.part), done, plan.bytes)

    limit = shard_bytes if place.sharded else None
    files = write_weights(folder / place.folder, place.stem, plan.outputs, limit, written)
    if (config := _config(plan, naming)) is not None:
        write_json(folder / place.folder / "config.json", config)
    return ConvertedPart(
        part=str(plan.part),
        source=plan.weights.path,
        files=tuple(path.relative_to(folder) for path in files),
        tensors=len(plan.outputs),
        bytes=plan.bytes,
        dtypes=dict(Counter(output.tensor.dtype for output in plan.outputs)),
    )


def _config(plan: PartPlan, naming: Naming) -> dict[str, Any] | None:
    """What lies beside the weights: the measured sizes over whatever else the source's own configuration says."""
    structure = plan.structure
    if naming is Naming.PUBLISHED:
        if isinstance(structure, TransformerStructure):
            return structure.published_config()
        if not isinstance(structure, SpeechStructure):
            return None
    measured = structure.config()
    strangers = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "_diffusers_version", QUANTISATION}
    kept = {} if {"num_heads", "dim"} <= plan.hints.keys() else plan.hints
    config = {key: value for key, value in kept.items() if key not in strangers} | measured
    if plan.part in (Part.TRANSFORMER, Part.AUTOENCODER):
        config["_diffusers_version"] = library_version("diffusers")
    if plan.kept:
        config[QUANTISATION] = OWN_QUANTISATION
    if naming is Naming.PUBLISHED and isinstance(structure, SpeechStructure):
        config["architectures"] = ["WhisperForConditionalGeneration"]
    return config


def _write_companions(folder: Path, findings: Findings, plans: Sequence[PartPlan], naming: Naming) -> None:
    """Tokenizer, feature extractor, sampler, and the index of all: what has no weights."""
    tokenizer = folder / TOKENIZER_FOLDER[naming]
    if findings.tokenizer is not None:
        tokenizer.mkdir(parents=True)
        for name in TOKENIZER_FILES:
            if (findings.tokenizer / name).is_file():
                shutil.copyfile(findings.tokenizer / name, tokenizer / name)
    elif pieces := _embedded_pieces(plans):
        tokenizer.mkdir(parents=True)
        (tokenizer / "spiece.model").write_bytes(pieces)
        write_json(tokenizer / "tokenizer_config.json", tokenizer_config())
    speech = next((plan.structure for plan in plans if isinstance(plan.structure, SpeechStructure)), None)
    features = folder / FEATURE_FOLDER[naming] / FEATURE_FILE
    if findings.feature_config is not None:
        features.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(findings.feature_config, features)
    elif speech is not None:
        write_json(features, feature_config(speech.num_mel_bins))
    family = _family(plans)
    if naming is Naming.OURS and family is not None:
        write_json(folder / SCHEDULER_FOLDER / "scheduler_config.json", scheduler_config())
        write_json(folder / MODEL_INDEX, model_index(family))


def _embedded_pieces(plans: Sequence[PartPlan]) -> bytes:
    """The sentence pieces that ComfyUI keeps inside its umT5 files."""
    for plan in plans:
        if plan.part is Part.TEXT_ENCODER and "spiece_model" in plan.weights.tensors:
            return b"".join(bytes(chunk) for chunk in plan.weights.chunks("spiece_model"))
    return b""
