"""Convert released and ComfyUI weights to a model folder, and a model folder back to the published names."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from humo.checkpoints.architecture import (
    AutoencoderArchitecture,
    SpeechEncoderArchitecture,
    TextEncoderArchitecture,
    TransformerArchitecture,
)
from humo.checkpoints.casting import parse_dtype
from humo.checkpoints.contents import ContentCheck
from humo.checkpoints.conversion_plan import ComponentPlan, Dropped, plan_component
from humo.checkpoints.discovery import (
    FEATURE_FILE,
    TOKENIZER_FILES,
    DiscoveredComponent,
    Discovery,
    Ignored,
    discover_components,
)
from humo.checkpoints.formats.writer import SHARD_BYTES, TensorToWrite, write_json, write_weights
from humo.checkpoints.keymap import Naming
from humo.checkpoints.layout import (
    FEATURE_FOLDER,
    FILES,
    HUMO_QUANTIZATION,
    MODEL_INDEX,
    QUANTIZATION_CONFIG,
    SCHEDULER_FOLDER,
    TOKENIZER_FOLDER,
    WRITTEN_NAMES,
    component_path,
    feature_config,
    library_version,
    model_index,
    scheduler_config,
    tokenizer_config,
)
from humo.checkpoints.signatures import ComponentName
from humo.errors import CheckpointError, RequestError, StorageError, did_you_mean
from humo.files import new_folder
from humo.presets import PRESETS
from humo.progress import Progress

SourcePath = str | os.PathLike[str]
"""Path of a file or folder to convert."""


class ConversionOptions(TypedDict, total=False):
    """Options of `convert`.

    Args:
        family: ``humo-17b`` or ``humo-1.7b``, if the source holds both.
        naming: ``diffusers`` (default) for a model folder, ``published`` for the released names and tree (in
            safetensors).
        dtype: ``bf16``, ``fp16`` or ``fp32`` for all weights; None keeps the stored type, and writes quantized weights
            in bf16.
        head_dim: channels of one of the transformer's attention heads, if it is not 128 and no configuration gives it.
        keep_quantized: keep the matrices of the transformer's blocks quantized (GGUF, fp8 and its scales), in the file
            and in memory.
        shard_bytes: largest weights file (default 5 GB); None for one file for each component.
        link: leave the weights in their files, quantized as they are, and let the model folder point to them.
    """

    family: str | None
    naming: str
    dtype: str | None
    head_dim: int | None
    keep_quantized: bool
    shard_bytes: int | None
    link: bool


@dataclass(frozen=True, slots=True)
class ConvertedComponent:
    """A component that was written.

    Args:
        component: its folder in the diffusers layout.
        source: the file or index it came from.
        files: the weights files, relative to the destination; the source where it is linked.
        tensors: number of tensors.
        bytes: their size.
        dtypes: element type as the safetensors format names it -> number of tensors.
    """

    component: str
    source: Path
    files: tuple[Path, ...]
    tensors: int
    bytes: int
    dtypes: dict[str, int]


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """Result of a conversion.

    Args:
        destination: the folder that was created.
        naming: names of its tensors.
        preset: the family, if the transformer was among the sources.
        components: what was converted.
        dropped: every tensor that was not converted, and why.
        ignored: every file that was not converted, and why.
        notes: further remarks for people.
    """

    destination: Path
    naming: Naming
    preset: str | None
    components: tuple[ConvertedComponent, ...]
    dropped: tuple[Dropped, ...]
    ignored: tuple[Ignored, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all weights written."""
        return sum(component.bytes for component in self.components)

    def dropped_by_reason(self) -> dict[str, int]:
        """Return reason -> number of tensors, the most frequent first."""
        return dict(Counter(dropped.reason for dropped in self.dropped).most_common())


def convert(
    source: SourcePath | Sequence[SourcePath],
    destination: SourcePath,
    *,
    overwrite: bool = False,
    progress: Progress = lambda component, done_bytes, total_bytes: None,
    **options: Unpack[ConversionOptions],
) -> ConversionReport:
    """Convert all components of a model that the sources contain.

    The layout of the sources is detected. A model folder is a source as well: convert it to write it under the
    published names, or in another type. A few chunks of 32 MiB are in memory at a time, whatever the size of the
    files.

    Args:
        source: a folder, a file, or several of them. A transformer file that is named itself replaces the transformer
            of a folder.
        destination: the folder to create.
        overwrite: replace a model folder that exists.
        progress: called with a component's name, bytes done and bytes in total.
        options: see `ConversionOptions`.

    Raises:
        CheckpointError: the source is incomplete, damaged, or another model.
        StorageError: the destination exists already, cannot be written, or does not fit on the disk.
        RequestError: dtype, family or naming is unknown; or weights would stay quantized under the published names.
    """
    link = options.get("link", False)
    if link:
        options = {**options, "keep_quantized": True}
    naming, element_type = _check_options(options)
    sources = [Path(path) for path in ([source] if isinstance(source, str | os.PathLike) else source)]
    target = Path(destination)
    _refuse_overlap(sources, target)
    discovery = discover_components(sources, skipped_folder=target)
    plans = _plan_components(discovery, naming, element_type, options, sources)
    _check_fit(plans)
    _check_prediction(plans, naming)
    notes = _notes(discovery, plans, naming, options)
    shard_bytes = options.get("shard_bytes", SHARD_BYTES)
    with new_folder(target, 0 if link else sum(plan.bytes for plan in plans), overwrite, WRITTEN_NAMES) as folder:
        links = {str(plan.component): _link_weights(folder, target, plan) for plan in plans} if link else {}
        checks = [ContentCheck(str(plan.weights.path)) for plan in plans]
        components = tuple(
            _write_component(folder, plan, naming, shard_bytes, progress, check.watch, links)
            for plan, check in zip(plans, checks, strict=True)
        )
        zeros = tuple(note for check in checks if (note := check.finish()) is not None)
        _write_companions(folder, discovery, plans, naming, links)
    return ConversionReport(
        destination=target,
        naming=naming,
        preset=_family(plans),
        components=components,
        dropped=tuple(dropped for plan in plans for dropped in plan.dropped),
        ignored=tuple(discovery.ignored),
        notes=notes + zeros,
    )


def _check_options(options: ConversionOptions) -> tuple[Naming, str | None]:
    """Return the layout, and the safetensors name of the type to write, or raise RequestError."""
    naming, family = options.get("naming", Naming.DIFFUSERS), options.get("family")
    if naming not in set(Naming):
        raise RequestError("naming", f"{naming!r} is not a layout", did_you_mean(naming, Naming))
    if family is not None and family not in PRESETS:
        raise RequestError("family", f"{family!r} is not a known family", did_you_mean(family, PRESETS))
    if options.get("keep_quantized") and naming != Naming.DIFFUSERS:
        problem = "cannot be combined with the published layout, which has no quantized weights"
        raise RequestError("keep_quantized", problem, "drop --keep-quantized, or use --to diffusers")
    return Naming(naming), parse_dtype(options.get("dtype"))


def _refuse_overlap(sources: Sequence[Path], target: Path) -> None:
    """Raise StorageError if the destination contains a source, which would be read and replaced at once."""
    for source in sources:
        if target.resolve() in (source.resolve(), *source.resolve().parents) and target.exists():
            raise StorageError(str(target), f"contains the source {source}", "choose another destination")


def _plan_components(
    discovery: Discovery, naming: Naming, dtype: str | None, options: ConversionOptions, sources: Sequence[Path]
) -> list[ComponentPlan]:
    """Return one plan for each component; the family decides between two transformers."""
    family, head_dim = options.get("family"), options.get("head_dim")
    keep_quantized = options.get("keep_quantized", False)
    source_names = ", ".join(str(source) for source in sources)
    plans: list[ComponentPlan] = []
    for component in ComponentName:
        planned: list[ComponentPlan] = []
        failed: CheckpointError | None = None
        for discovered in _discovered_as(discovery, component):
            try:
                planned.append(plan_component(discovered, naming, dtype, head_dim, keep_quantized))
            except CheckpointError as error:
                discovery.ignored.append(Ignored(discovered.weights.path, error.problem))
                failed = failed or error
        refused = failed or discovery.refused.get(component) or discovery.refused.get(None)
        if component is ComponentName.TRANSFORMER and failed and family is None:
            raise failed  # the other family must not replace it
        if component is ComponentName.TRANSFORMER and planned:
            planned = _select_family(planned, family, source_names, discovery, refused)
        if len(planned) > 1:
            files = " and ".join(str(plan.weights.path) for plan in planned[:2])
            problem = f"contains the {component} more than once: {files}"
            raise CheckpointError(source_names, problem, "give the files to convert instead of their folder")
        if not planned and refused:
            raise refused
        plans += planned
    if not plans:
        raise CheckpointError(source_names, "has no weights of HuMo", "give the downloaded folder or a weights file")
    return plans


def _discovered_as(discovery: Discovery, component: ComponentName) -> list[DiscoveredComponent]:
    """Return the discovered components of a name; transformer files that the user named replace those of folders."""
    discovered = [one for one in discovery.components if one.component is component]
    named_by_user = [one for one in discovered if one.named_by_user]
    if component is not ComponentName.TRANSFORMER or not named_by_user:
        return discovered
    for one in discovered:
        if not one.named_by_user:
            discovery.ignored.append(Ignored(one.weights.path, "another transformer file was named as a source"))
    return named_by_user


def _select_family(
    planned: list[ComponentPlan],
    family: str | None,
    source_names: str,
    discovery: Discovery,
    refused: CheckpointError | None,
) -> list[ComponentPlan]:
    """Return the transformers of the family that the options name, or of the only one."""
    families = sorted({plan.family or "" for plan in planned})
    if family is None and len(families) > 1:
        problem = f"contains both {' and '.join(families)}"
        raise CheckpointError(source_names, problem, "choose one with --family")
    chosen = [plan for plan in planned if family in (None, plan.family)]
    if not chosen:
        problem = f"contains {families[0]}, not {family}"
        raise refused or CheckpointError(source_names, problem, f"use --family {families[0]}")
    for plan in planned:
        if plan not in chosen:
            discovery.ignored.append(Ignored(plan.weights.path, f"of the other family, {plan.family}"))
    return chosen


def _family(plans: Sequence[ComponentPlan]) -> str | None:
    return next((plan.family for plan in plans if plan.family), None)


def _check_fit(plans: Sequence[ComponentPlan]) -> None:
    """Raise CheckpointError unless the encoders give the widths that the transformer takes."""
    transformer = next(
        (plan.architecture for plan in plans if isinstance(plan.architecture, TransformerArchitecture)), None
    )
    if transformer is None:
        return
    for plan in plans:
        match plan.architecture:
            case TextEncoderArchitecture(d_model=width):
                expected = transformer.text_dim
            case SpeechEncoderArchitecture(d_model=width):
                expected = transformer.audio_width
            case AutoencoderArchitecture(z_dim=width):
                expected = transformer.out_channels
            case _:
                continue
        if width != expected:
            problem = f"has {width} channels, but this transformer takes {expected}"
            raise CheckpointError(str(plan.weights.path), problem, "take all components from one model")


def _check_prediction(plans: Sequence[ComponentPlan], naming: Naming) -> None:
    """Raise CheckpointError for networks that the published layout cannot represent.

    Programs that read the published layout would use such a network wrongly.
    """
    for plan in plans:
        if naming is Naming.PUBLISHED and plan.config_hints.get("distillation"):
            problem = "is a distilled network, which the published layout cannot represent"
            raise CheckpointError(str(plan.weights.path), problem, "use --to diffusers")
        predicted = (
            plan.config_hints.get("prediction", "velocity")
            if plan.component is ComponentName.TRANSFORMER
            else "velocity"
        )
        if naming is Naming.PUBLISHED and predicted != "velocity":
            problem = f"predicts {predicted!r}, but networks in the published layout predict velocity"
            raise CheckpointError(str(plan.weights.path), problem, "use --to diffusers")


def _notes(
    discovery: Discovery, plans: Sequence[ComponentPlan], naming: Naming, options: ConversionOptions
) -> tuple[str, ...]:
    link = options.get("link", False)
    notes = [
        f"{plan.component}: {plan.unscaled_fp8} fp8 weights have no scale and were converted without one"
        for plan in plans
        if plan.unscaled_fp8 and not link
    ]
    if options.get("keep_quantized") and not link and not any(plan.kept_quantized for plan in plans):
        notes.append("the sources have no quantized weights that can be kept")
    components = {plan.component for plan in plans}
    missing = [str(component) for component in ComponentName if component not in components]
    if naming is Naming.DIFFUSERS and ComponentName.TEXT_ENCODER in components and discovery.tokenizer is None:
        missing += [] if _embedded_pieces(plans) else ["tokenizer"]
    if missing:
        notes.append(f"not among the sources: {', '.join(missing)}; convert again with their files as further sources")
    if naming is Naming.PUBLISHED and ComponentName.AUDIO_ENCODER in components:
        notes.append("whisper-large-v3 has only the encoder: a model folder does not contain the decoder")
    return tuple(notes)


def _link_weights(folder: Path, target: Path, plan: ComponentPlan) -> str:
    """Create a symbolic link to a component's file, and return the path that the index names.

    Args:
        folder: the folder to write into.
        target: its final name.
        plan: of the component.

    Returns:
        the link; or the file, if it is an index of several or the file system has no links.
    """
    source = Path(os.path.abspath(plan.weights.path))
    link = folder / str(plan.component) / source.name
    inside = source.is_relative_to(Path(os.path.abspath(target.parent)))
    try:
        if source.suffix == ".json":
            return str(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        # relative within the folder of all models, which can be moved as a whole
        link.symlink_to(os.path.relpath(source, target / str(plan.component)) if inside else source)
    except OSError:
        return str(source)
    return f"{plan.component}/{source.name}"


def _write_component(
    folder: Path,
    plan: ComponentPlan,
    naming: Naming,
    shard_bytes: int | None,
    progress: Progress,
    watch: Callable[[TensorToWrite], TensorToWrite],
    links: Mapping[str, str],
) -> ConvertedComponent:
    """Write configuration and, unless they are linked, weights; ``watch`` wraps each tensor that is written."""
    location = component_path(plan.component, naming, plan.family)
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress(str(plan.component), done, plan.bytes)

    limit = shard_bytes if location.sharded else None
    files: tuple[Path, ...] = (plan.weights.path,)
    if str(plan.component) not in links:
        outputs = [watch(output) for output in plan.outputs]
        written = write_weights(folder / location.folder, location.stem, outputs, limit, on_bytes)
        files = tuple(path.relative_to(folder) for path in written)
    if (config := _config(plan, naming)) is not None:
        write_json(folder / location.folder / "config.json", config)
    return ConvertedComponent(
        component=str(plan.component),
        source=plan.weights.path,
        files=files,
        tensors=len(plan.outputs),
        bytes=plan.bytes,
        dtypes=dict(Counter(output.tensor.dtype for output in plan.outputs)),
    )


def _config(plan: ComponentPlan, naming: Naming) -> dict[str, Any] | None:
    """Return the configuration of a component: inferred sizes, and the other keys of the source's configuration."""
    architecture = plan.architecture
    if naming is Naming.PUBLISHED:
        if isinstance(architecture, TransformerArchitecture):
            return architecture.published_config()
        if not isinstance(architecture, SpeechEncoderArchitecture):
            return None
    inferred = architecture.config()
    dropped_keys = {
        "_name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "_diffusers_version",
        QUANTIZATION_CONFIG,
    }
    source_config = {} if {"num_heads", "dim"} <= plan.config_hints.keys() else plan.config_hints
    config = {key: value for key, value in source_config.items() if key not in dropped_keys} | inferred
    if plan.component in (ComponentName.TRANSFORMER, ComponentName.AUTOENCODER):
        config["_diffusers_version"] = library_version("diffusers")
    if plan.kept_quantized:
        config[QUANTIZATION_CONFIG] = HUMO_QUANTIZATION
    if naming is Naming.PUBLISHED and isinstance(architecture, SpeechEncoderArchitecture):
        config["architectures"] = ["WhisperForConditionalGeneration"]
    return config


def _write_companions(
    folder: Path, discovery: Discovery, plans: Sequence[ComponentPlan], naming: Naming, links: Mapping[str, str]
) -> None:
    """Write tokenizer, feature extractor, scheduler and index, which have no weights."""
    tokenizer = folder / TOKENIZER_FOLDER[naming]
    if discovery.tokenizer is not None:
        tokenizer.mkdir(parents=True)
        for name in TOKENIZER_FILES:
            if (discovery.tokenizer / name).is_file():
                shutil.copyfile(discovery.tokenizer / name, tokenizer / name)
    elif pieces := _embedded_pieces(plans):
        tokenizer.mkdir(parents=True)
        (tokenizer / "spiece.model").write_bytes(pieces)
        write_json(tokenizer / "tokenizer_config.json", tokenizer_config())
    audio_encoder = next(
        (plan.architecture for plan in plans if isinstance(plan.architecture, SpeechEncoderArchitecture)), None
    )
    features = folder / FEATURE_FOLDER[naming] / FEATURE_FILE
    if discovery.feature_config is not None:
        features.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(discovery.feature_config, features)
    elif audio_encoder is not None:
        write_json(features, feature_config(audio_encoder.num_mel_bins))
    family = _family(plans)
    if naming is Naming.DIFFUSERS and family is not None:
        write_json(folder / SCHEDULER_FOLDER / "scheduler_config.json", scheduler_config())
        write_json(folder / MODEL_INDEX, model_index(family) | ({FILES: dict(links)} if links else {}))


def _embedded_pieces(plans: Sequence[ComponentPlan]) -> bytes:
    """Return the sentence pieces that ComfyUI stores in its umT5 files."""
    for plan in plans:
        if plan.component is ComponentName.TEXT_ENCODER and "spiece_model" in plan.weights.tensors:
            return b"".join(bytes(chunk) for chunk in plan.weights.chunks("spiece_model"))
    return b""
