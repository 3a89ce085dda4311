"""LoRA methods of the pipeline, as in diffusers: load, activate, scale, fuse and unload LoRAs of any key naming.

`humo.inference.lora_file` reads the files, `humo.inference.adapters` applies them to the network.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import WanLoraLoaderMixin
from safetensors import SafetensorError
from torch import Tensor

from humo.checkpoints.architecture import TransformerArchitecture
from humo.checkpoints.lora_store import DISTILLATION_KEY, DISTILLED_PREFIX
from humo.errors import CheckpointError, RequestError
from humo.inference.adapters import LoraAdapters
from humo.inference.execution import Execution
from humo.inference.lora_file import LoraFile, read_lora
from humo.model.upstream import fetch_lora
from humo.presets import SCALE_NAMES, Distillation

logger = logging.getLogger(__name__)


def distillation_tensors(distillation: Distillation, embedder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a distilled LoRA other than low-rank factors, by key.

    Args:
        distillation: steps, shift and scales that it was distilled for.
        embedder: weights of the transformer's ``guidance_embedder``.
    """
    ends = [end for name in SCALE_NAMES for end in distillation.scales[name]]
    settings = torch.tensor([float(distillation.steps), distillation.shift, *ends])
    return {
        DISTILLED_PREFIX + name: tensor.detach().cpu()
        for name, tensor in {**embedder, DISTILLATION_KEY: settings}.items()
    }


class HuMoLoraLoaderMixin(WanLoraLoaderMixin):
    """diffusers' LoRA methods, for files of every kind and naming, on plain, quantized and streamed networks."""

    _lora_loadable_modules = ["transformer"]
    execution: Execution
    _distilled_by: str | None = None
    """Name of the distilled LoRA that is loaded, or None."""

    @property
    def lora_adapters(self) -> LoraAdapters:
        """The LoRAs of the transformer."""
        transformer: Any = self.transformer
        adapters: LoraAdapters | None = transformer.__dict__.get("_lora_adapters")
        if adapters is None:
            adapters = transformer.__dict__["_lora_adapters"] = LoraAdapters(transformer)
        return adapters

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA from a safetensors file, a folder or a repository, or from its tensors, at strength 1.

        Pickled files are refused. A file that does not fit leaves the pipeline as it was.

        Args:
            pretrained_model_name_or_path_or_dict: as in diffusers.
            adapter_name: its name; by default ``default_0``, ``default_1`` and so on.
            hotswap: replace the loaded LoRA of this name.
            kwargs: as in diffusers (``weight_name``, ``subfolder``, ``token``, ...).

        Raises:
            CheckpointError: the file cannot be read, or is not for this transformer.
            RequestError: the name is taken and ``hotswap`` is not set, or no LoRA of that name is loaded to replace.
        """
        file, label = self._load(pretrained_model_name_or_path_or_dict, adapter_name, hotswap, kwargs)
        for line in file.layout.describe_ignored(label):
            logger.warning("%s", line)

    def _load(
        self, source: str | Path | dict[str, Tensor], adapter_name: str | None, hotswap: bool, kwargs: dict[str, Any]
    ) -> tuple[LoraFile, str]:
        """Load a LoRA as `load_lora_weights`; return its contents, and the name of the file."""
        label = "LoRA" if isinstance(source, dict) else str(kwargs.get("weight_name") or Path(source).name)
        names = self.lora_adapters.names
        adapter_name = adapter_name or next(
            f"default_{n}" for n in range(len(names) + 1) if f"default_{n}" not in names
        )
        if hotswap != (adapter_name in names):
            problem = "is not loaded" if hotswap else "is loaded already"
            remedy = "load it without hotswap" if hotswap else "choose another adapter_name, or set hotswap=True"
            raise RequestError("adapter_name", f"{adapter_name!r} {problem}", remedy)
        state, config = _fetch(source, kwargs)
        of_distillation = [key for key in state if key.startswith(DISTILLED_PREFIX)]
        distilled = {key.removeprefix(DISTILLED_PREFIX): state[key] for key in of_distillation}
        plain = {key: tensor for key, tensor in state.items() if key not in of_distillation}
        file = read_lora(plain, self.transformer_architecture, name=label, config=config)
        if distilled:
            try:
                self._apply_distillation(distilled)
            except (RuntimeError, ValueError, KeyError) as error:
                self._forget_distillation()
                problem = f"has a guidance embedder that does not fit ({error})"
                raise CheckpointError(label, problem, "distill it again with humo train") from error
            self._distilled_by = adapter_name
        self.lora_adapters.add(adapter_name, file)
        return file, label

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Set the active LoRAs and their strengths; the others become inactive.

        Args:
            adapter_names: names under which the LoRAs were loaded.
            adapter_weights: one strength for all, or one for each; 1 by default.

        Raises:
            RequestError: a name is unknown, or there are not as many strengths as names.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = 1.0 if adapter_weights is None else adapter_weights
        values = [float(weights)] * len(names) if isinstance(weights, int | float) else [*map(float, weights)]
        if len(values) != len(names):
            problem = f"{len(values)} strengths do not fit {len(names)} LoRAs"
            raise RequestError("adapter_weights", problem, "give one per LoRA")
        self.lora_adapters.set_strengths(dict(zip(names, values, strict=True)))

    def use_loras(self, strengths: Mapping[Path, float]) -> None:
        """Make these files the loaded LoRAs. Files that are loaded already, and did not change, are not read again.

        Tensors that a file has and the network lacks are ignored without a warning: a plan has notes about them.

        Args:
            strengths: safetensors file -> strength.

        Raises:
            CheckpointError: a file cannot be read, or is not for this transformer; the LoRAs are then as before.
        """
        wanted = {_file_version(path): path for path in strengths}
        new = [name for name in wanted if name not in self.lora_adapters.names]
        try:
            for name in new:
                self._load(wanted[name], name, hotswap=False, kwargs={})
        except CheckpointError:
            self.delete_adapters([name for name in new if name in self.lora_adapters.names])
            raise
        self.delete_adapters([name for name in self.lora_adapters.names if name not in wanted])
        self.lora_adapters.set_strengths({name: strengths[path] for name, path in wanted.items()})

    def get_active_adapters(self) -> list[str]:
        """Return the names of the active LoRAs."""
        return list(self.lora_adapters.strengths)

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Return the names of the loaded LoRAs for each component that has any."""
        return {"transformer": list(self.lora_adapters.names)} if self.lora_adapters.names else {}

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Remove LoRAs.

        Raises:
            RequestError: a name is unknown.
        """
        for name in [adapter_names] if isinstance(adapter_names, str) else list(adapter_names):
            self.lora_adapters.remove(name)
            if name == self._distilled_by:
                self._forget_distillation()

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs."""
        self.lora_adapters.clear()
        if self._distilled_by is not None:
            self._forget_distillation()

    def disable_lora(self) -> None:
        """Deactivate all LoRAs; `enable_lora` activates them again with their strengths."""
        self.lora_adapters.enabled = False

    def enable_lora(self) -> None:
        """Activate the LoRAs again."""
        self.lora_adapters.enabled = True

    @contextmanager
    def scaled_loras(self, attention_kwargs: Mapping[str, Any] | None) -> Iterator[None]:
        """Multiply every LoRA's strength by ``attention_kwargs["scale"]`` inside the block, as in diffusers."""
        with self.lora_adapters.scaled(float((attention_kwargs or {}).get("scale", 1.0))):
            yield

    def fuse_lora(
        self,
        components: Sequence[str] = ("transformer",),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
        **_: Any,
    ) -> None:
        """Add the LoRAs to the network's weights; `unfuse_lora` restores the original weights.

        Args:
            components: as in diffusers; only the transformer has LoRAs.
            lora_scale: multiplies every strength.
            safe_fusing: check first that the result has no NaN or infinite value.
            adapter_names: LoRAs to fuse; by default the active ones.

        Raises:
            RequestError: the weights are quantized, offloaded or streamed, or a result is not finite.
        """
        if self.execution.streamed is not None:  # a copy of the original weights would take the place of the fused
            problem = "cannot change weights that are offloaded or streamed"
            raise RequestError("fuse_lora", problem, "use the LoRA without fuse_lora, which costs little")
        self.lora_adapters.fuse(lora_scale, check=safe_fusing, names=adapter_names)

    def unfuse_lora(self, components: Sequence[str] = ("transformer",), **_: Any) -> None:
        """Restore the weights from before `fuse_lora`."""
        self.lora_adapters.unfuse()

    @property
    def transformer_architecture(self) -> TransformerArchitecture:
        """Sizes of the transformer."""
        config = self.transformer.config
        names = TransformerArchitecture.__dataclass_fields__.keys() & config.keys()
        values = {name: config[name] for name in names}
        return TransformerArchitecture(**(values | {"patch_size": tuple(values["patch_size"])}))

    def _apply_distillation(self, tensors: dict[str, Tensor]) -> None:
        """Add the guidance embedder of a distilled LoRA, so that the network takes guidance scales as inputs."""
        steps, shift, *ends = tensors.pop(DISTILLATION_KEY).tolist()
        scales = dict(zip(SCALE_NAMES, zip(ends[::2], ends[1::2], strict=True), strict=True))
        self.transformer.enable_guidance_embedding({"steps": int(steps), "shift": shift, "scales": scales})
        self.transformer.guidance_embedder.load_state_dict({name: weight.float() for name, weight in tensors.items()})
        self.transformer.guidance_embedder.to(self.transformer.device)

    def _forget_distillation(self) -> None:
        self.transformer.disable_guidance_embedding()
        self._distilled_by = None


def _file_version(path: Path) -> str:
    """Return a name for a file with its present content."""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _fetch(source: str | Path | dict[str, Tensor], kwargs: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a LoRA's tensors and the adapter configuration of its header.

    Raises:
        CheckpointError: the file cannot be read.
    """
    names = ("cache_dir", "proxies", "local_files_only", "token", "revision", "subfolder", "weight_name")
    try:
        state, config = fetch_lora(
            source if isinstance(source, dict) else str(source),
            use_safetensors=True,
            force_download=kwargs.get("force_download", False),
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            allow_pickle=False,
            **{name: kwargs.get(name) for name in names},
        )
    except (OSError, ValueError, SafetensorError) as failure:
        raise CheckpointError(f"LoRA {source}", f"cannot be read: {failure}", "give a .safetensors file") from failure
    return state, config or {}
