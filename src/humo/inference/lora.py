"""LoRA files under any of their namings, loaded into the pipeline the way diffusers' users load them.

Wan's and HuMo's LoRAs come under the published names (with ComfyUI's or no prefix), under the published names with
underscores (kohya, musubi), and under diffusers' own. All but the last are renamed here; audio layers included.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.loaders import WanLoraLoaderMixin
from safetensors import SafetensorError
from torch import Tensor

from humo.checkpoints.architecture import TransformerArchitecture
from humo.checkpoints.keymap import tensor_names
from humo.errors import CheckpointError
from humo.model.upstream import fetch_lora
from humo.presets import SCALE_NAMES, Distillation

DISTILLED_PREFIX = "transformer.scale_embedder."
"""How the keys begin of what a distilled LoRA brings besides low-rank additions."""

DISTILLATION_KEY = "learned"
"""Key of a tensor (8,) after `DISTILLED_PREFIX`: steps, shift, then the lowest and the highest of each scale."""

logger = logging.getLogger(__name__)

_PREFIXES = ("diffusion_model.", "model.diffusion_model.", "base_model.model.", "lora_unet_")
_PARTS = {
    "lora_A.weight": "lora_A.weight",
    "lora_down.weight": "lora_A.weight",
    "lora_B.weight": "lora_B.weight",
    "lora_up.weight": "lora_B.weight",
    "lora_B.bias": "lora_B.bias",
    "diff_b": "lora_B.bias",
    "alpha": "alpha",
}
_KEY = re.compile(rf"(.+?)\.({'|'.join(map(re.escape, _PARTS))})")
_ABSENT = {
    r"(k_img|v_img|norm_k_img|img_emb)": "HuMo has no image encoder branch",
    r"norm.*\.(diff|diff_b)$": "a change of a norm's weights is not a LoRA",
    r"\.diff$": "a change of whole weights is not a LoRA",
}


def rename_lora(
    state: Mapping[str, Tensor], architecture: TransformerArchitecture
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A LoRA's tensors under our names, its alphas multiplied in, and what was left out with the reason.

    Args:
        state: tensors of the file.
        structure: of the transformer it goes into.

    Raises:
        CheckpointError: a key belongs to no layer of this transformer.
    """
    if all(key.startswith("transformer.") for key in state):
        return dict(state), {}
    layers = {
        name.published.removesuffix(".weight"): name.diffusers.removesuffix(".weight")
        for name in tensor_names(architecture)
    }
    layers |= {published.replace(".", "_"): ours for published, ours in layers.items()}
    layers |= {ours: ours for ours in list(layers.values())}
    named: dict[str, dict[str, Tensor]] = {}
    dropped: dict[str, str] = {}
    for key, tensor in state.items():
        bare = key.replace(".default.", ".")  # peft's name for an unnamed adapter
        for prefix in _PREFIXES:
            bare = bare.removeprefix(prefix)
        reason = next((why for pattern, why in _ABSENT.items() if re.search(pattern, bare)), None)
        match = _KEY.fullmatch(bare)
        if reason is not None:
            dropped[key] = reason
        elif match is None or match[1] not in layers:
            raise CheckpointError(key, "belongs to no layer of this transformer", "give a LoRA of HuMo or of Wan2.1")
        else:
            named.setdefault(layers[match[1]], {})[_PARTS[match[2]]] = tensor
    renamed: dict[str, Tensor] = {}
    for layer, parts in named.items():
        if not {"lora_A.weight", "lora_B.weight"} <= parts.keys():
            dropped[layer] = "there is a bias and no LoRA beside it"
            continue
        if (alpha := parts.pop("alpha", None)) is not None:
            down = parts["lora_A.weight"]
            parts["lora_A.weight"] = (down.float() * (float(alpha) / down.shape[0])).to(down.dtype)
        renamed |= {f"transformer.{layer}.{part}": tensor for part, tensor in parts.items()}
    if not renamed:
        raise CheckpointError("LoRA", "holds no layer of this transformer", "give a LoRA of HuMo or of Wan2.1")
    return renamed, dropped


def distillation_tensors(student: Distillation, embedder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the LoRA of a student holds besides low-rank additions, by key.

    Args:
        student: what it learned.
        embedder: weights of the transformer's ``scale_embedder``.
    """
    ends = [end for name in SCALE_NAMES for end in student.scales[name]]
    learned = torch.tensor([float(student.steps), student.shift, *ends])
    return {
        DISTILLED_PREFIX + name: tensor.detach().cpu()
        for name, tensor in {**embedder, DISTILLATION_KEY: learned}.items()
    }


class HuMoLoraLoaderMixin(WanLoraLoaderMixin):
    """diffusers' LoRA methods (load, save, fuse, set and delete adapters), for files of any naming."""

    _lora_loadable_modules = ["transformer"]
    _taught = False
    """A LoRA made a student of the network."""

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | dict[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA from a safetensors file, a folder or a repository, or from its tensors.

        Args and further keywords as diffusers'. Pickled files are refused.

        Raises:
            CheckpointError: it cannot be read, or does not belong to this transformer.
        """
        where = {
            name: kwargs.pop(name, None)
            for name in ("cache_dir", "proxies", "local_files_only", "token", "revision", "subfolder", "weight_name")
        }
        source = pretrained_model_name_or_path_or_dict
        try:
            state, _ = fetch_lora(
                source,
                use_safetensors=True,
                force_download=kwargs.pop("force_download", False),
                user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
                allow_pickle=False,
                **where,
            )
        except (OSError, ValueError, SafetensorError) as failure:
            raise CheckpointError(
                f"LoRA {source}", f"cannot be read: {failure}", "give a .safetensors file"
            ) from failure
        names = TransformerArchitecture.__dataclass_fields__.keys() & self.transformer.config.keys()
        config = {name: self.transformer.config[name] for name in names}
        taught = [key for key in state if key.startswith(DISTILLED_PREFIX)]
        student = {key.removeprefix(DISTILLED_PREFIX): state.pop(key) for key in taught}
        config["patch_size"] = tuple(config["patch_size"])
        renamed, dropped = rename_lora(state, TransformerArchitecture(**config))
        for key, reason in dropped.items():
            logger.warning("LoRA: %s is not used: %s", key, reason)
        super().load_lora_weights(renamed, adapter_name, hotswap, **kwargs)
        if student:
            self._become(student)

    def _become(self, student: dict[str, Tensor]) -> None:
        """The network is the student that its LoRA makes of it, and is told the scales."""
        steps, shift, *ends = student.pop(DISTILLATION_KEY).tolist()
        scales = dict(zip(SCALE_NAMES, zip(ends[::2], ends[1::2], strict=True), strict=True))
        self.transformer.become_student({"steps": int(steps), "shift": shift, "scales": scales})
        self.transformer.scale_embedder.load_state_dict({name: weight.float() for name, weight in student.items()})
        self.transformer.scale_embedder.to(self.transformer.device)
        self._taught = True

    def unload_lora_weights(self) -> None:
        """Take the LoRA away, and with it what a student learned."""
        super().unload_lora_weights()
        if self._taught:
            self.transformer.forget_student()
            self._taught = False

    @classmethod
    def _maybe_expand_t2v_lora_for_i2v(cls, transformer: Any, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """HuMo has no image encoder branch to fill up."""
        return state_dict
