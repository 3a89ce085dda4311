"""Application of LoRAs: forward hooks compute their changes beside the layers of a network at every pass.

The network's own weights do not change, so LoRAs work on quantized, offloaded and streamed weights too, and removing
one restores the network exactly. No module is replaced and no parameter is renamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from humo.errors import RequestError, did_you_mean
from humo.inference.lora_file import LayerChange, LoraFile
from humo.quantization.linear import QuantizedLinear

TABLE = "scale_shift_table"
"""Name of the modulation table of a block and of the head; the module has an attribute for its change."""


@dataclass(eq=False)
class _Adapter:
    """A loaded LoRA and its strength."""

    file: LoraFile
    strength: float = 1.0


class LoraAdapters:
    """LoRAs of one network, by name.

    Args:
        network: linear layers may be quantized, blocks may be streamed or offloaded.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._adapters: dict[str, _Adapter] = {}
        self._handles: list[RemovableHandle] = []
        self._changed: list[Any] = []  # modules
        self._tables: list[Any] = []
        self._enabled = True
        self._fused: dict[str, Tensor] = {}  # parameters as they were before fusing
        self.call_scale = 1.0
        """Multiplies every strength, for one call."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the loaded LoRAs, in the order of loading."""
        return tuple(self._adapters)

    @property
    def strengths(self) -> Mapping[str, float]:
        """Name -> strength of each LoRA whose strength is not zero."""
        return {name: adapter.strength for name, adapter in self._adapters.items() if adapter.strength}

    def add(self, name: str, file: LoraFile, strength: float = 1.0) -> None:
        """Load a LoRA under a name; it replaces a loaded LoRA of that name."""
        self._adapters[name] = _Adapter(file, strength)
        self._attach()

    def remove(self, name: str) -> None:
        """Remove a LoRA.

        Raises:
            RequestError: the name is not loaded.
        """
        del self._adapters[self._known(name)]
        self._attach()

    def clear(self) -> None:
        """Remove all LoRAs."""
        self._adapters.clear()
        self._attach()

    def set_strengths(self, strengths: Mapping[str, float]) -> None:
        """Set the strength of each LoRA; those that are not named become inactive.

        Raises:
            RequestError: a name is not loaded.
        """
        for name in strengths:
            self._known(name)
        for name, adapter in self._adapters.items():
            adapter.strength = float(strengths.get(name, 0.0))
        self._attach()

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        """Multiply every strength by ``scale`` inside the ``with`` block."""
        before, self.call_scale = self.call_scale, self.call_scale * scale
        self._attach_tables()
        try:
            yield
        finally:
            self.call_scale = before
            self._attach_tables()

    @property
    def enabled(self) -> bool:
        """True if the LoRAs are active."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = value
        self._attach()

    def fuse(self, scale: float = 1.0, *, check: bool = False, names: Sequence[str] | None = None) -> None:
        """Add the LoRAs to the network's parameters.

        Args:
            scale: multiplies every strength.
            check: refuse a result that is not finite.
            names: LoRAs to fuse; by default the active ones.

        Raises:
            RequestError: a name is unknown, a weight is quantized or not in memory, or a result is not finite.
        """
        self.unfuse()
        if names is not None:
            self.set_strengths({name: self._adapters[self._known(name)].strength or 1.0 for name in names})
        parameters = dict(self._network.named_parameters())
        fused: dict[str, Tensor] = {}
        with self.scaled(scale):
            for name in sorted(self.changed_parameters()):
                parameter = parameters[name]
                if not parameter.is_floating_point() or parameter.is_meta:
                    problem = f"{name} is quantized or not in memory"
                    raise RequestError("fuse_lora", problem, "use the LoRA without fuse_lora, which costs little")
                value = self.merged(name, parameter.data)
                if check and not bool(torch.isfinite(value).all()):
                    raise RequestError("fuse_lora", f"{name} would not be finite", "lower the strength")
                fused[name] = value.to(parameter.dtype)
        for name, value in fused.items():
            self._fused[name] = parameters[name].data
            parameters[name].data = value
        self._attach()

    def unfuse(self) -> None:
        """Restore the original parameters."""
        parameters = dict(self._network.named_parameters())
        for name, value in self._fused.items():
            parameters[name].data = value.to(parameters[name].device)
        self._fused = {}
        self._attach()

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """Return a parameter with the changes of all active LoRAs added, float32.

        Args:
            name: of the parameter.
            weight: value of the parameter.
        """
        total = weight.float()
        layer = name.removesuffix(".weight")
        for adapter, strength in self._active():
            change = adapter.file.layers.get(layer) if name.endswith(".weight") else None
            if change is not None:
                total = total + strength * _matrix_change(change, weight)
            if name in adapter.file.parameters:
                total = total + strength * adapter.file.parameters[name].to(weight.device)
        return total

    def changed_parameters(self) -> set[str]:
        """Return the names of all parameters that a LoRA changes."""
        files = [adapter.file for adapter, _ in self._active()]
        return {f"{layer}.weight" for file in files for layer in file.layers} | {
            name for file in files for name in file.parameters
        }

    def _known(self, name: str) -> str:
        if name not in self._adapters:
            remedy = did_you_mean(name, self._adapters) if self._adapters else "load it with load_lora_weights"
            raise RequestError("lora", f"{name!r} is not loaded", remedy)
        return name

    def _active(self) -> list[tuple[_Adapter, float]]:
        if not self._enabled or self._fused:
            return []
        adapters = self._adapters.values()
        return [(adapter, adapter.strength * self.call_scale) for adapter in adapters if adapter.strength]

    def _attach(self) -> None:
        """Set the changes of all active LoRAs on the modules that they change."""
        for handle in self._handles:
            handle.remove()
        for module in self._changed:
            module.lora_changes = ()
        self._handles, self._changed = [], []
        self._attach_tables()
        device = self._device
        changes: dict[str, list[_Change]] = {}
        for adapter, _ in self._active():
            for layer, change in adapter.file.layers.items():
                changes.setdefault(layer, []).append(_LayerChange(self, adapter, change, device))
            for name, added in adapter.file.parameters.items():
                owner, _, kind = name.rpartition(".")
                module = self._network.get_submodule(owner)
                if kind == TABLE:
                    continue
                if isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm):
                    changes.setdefault(owner, []).append(_ParameterChange(self, adapter, added, device, kind))
                else:
                    self._swap(module, kind, adapter, added)
        for name, of_module in changes.items():
            changed: Any = self._network.get_submodule(name)
            accept_changes(changed)
            changed.lora_changes = tuple(of_module)
            self._changed.append(changed)

    @property
    def _device(self) -> torch.device:
        """Device that the network computes on, where the changes are stored.

        Where all weights are on the meta device (loaded for each layer, or without numbers), changes stay as they are.
        """
        weights = (one for one in self._network.parameters() if not one.is_meta)
        changes = (one for adapter in self._adapters.values() for one in adapter.file.tensors())
        return next((one.device for one in chain(weights, changes)), torch.device("cpu"))

    def _swap(self, module: nn.Module, kind: str, adapter: _Adapter, change: Tensor) -> None:
        """Register hooks that change a parameter of a convolution during its forward pass."""
        own: list[Tensor] = []

        def before(module: nn.Module, _: Any) -> None:
            parameter = getattr(module, kind)
            own.append(parameter.data)
            strength = adapter.strength * self.call_scale
            parameter.data = (own[-1].float() + strength * change.to(own[-1].device)).to(own[-1].dtype)

        def after(module: nn.Module, *_: Any) -> None:
            getattr(module, kind).data = own.pop()

        self._handles.append(module.register_forward_pre_hook(before))
        self._handles.append(module.register_forward_hook(after, always_call=True))

    def _attach_tables(self) -> None:
        """Set the change of each modulation table on its module."""
        for changed in self._tables:
            changed.scale_shift_change = None
        self._tables = []
        for adapter, strength in self._active():
            for name, change in adapter.file.parameters.items():
                owner, _, kind = name.rpartition(".")
                if kind == TABLE:
                    module: Any = self._network.get_submodule(owner)
                    before, added = module.scale_shift_change, (strength * change).to(self._device)
                    module.scale_shift_change = added if before is None else before + added
                    self._tables.append(module)


class _Change(Protocol):
    """Change of the output of one module by one LoRA."""

    @property
    def strength(self) -> float:
        """Strength of the LoRA in this call."""

    def of_output(self, module: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return the change of ``output``, which the module computed from ``x``, at strength 1."""


class _ParameterChange:
    """Change of a bias, or of the scale of a norm, on the device that the network computes on."""

    def __init__(
        self, adapters: LoraAdapters, adapter: _Adapter, added: Tensor, device: torch.device, kind: str
    ) -> None:
        self._adapters, self._adapter = adapters, adapter
        self._added, self._kind = added.to(device), kind

    @property
    def strength(self) -> float:
        return self._adapter.strength * self._adapters.call_scale

    def of_output(self, module: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return the bias, or the normalized input times the change of its scale."""
        added = self._added.to(output.device)
        if self._kind == "bias":
            return added.to(output.dtype)
        if isinstance(module, nn.RMSNorm):
            return F.rms_norm(x.float(), module.normalized_shape, added, module.eps).to(output.dtype)
        return F.layer_norm(x.float(), module.normalized_shape, added, None, module.eps).to(output.dtype)


class _LayerChange:
    """Change of a linear layer's matrix, with its factors on the device that the network computes on."""

    def __init__(self, adapters: LoraAdapters, adapter: _Adapter, change: LayerChange, device: torch.device) -> None:
        self._adapters, self._adapter = adapters, adapter
        self._delta = change.delta.to(device)
        self._magnitude = None if change.magnitude is None else change.magnitude.to(device)
        self._ratio: Tensor | None = None  # of DoRA: magnitude / norm

    @property
    def strength(self) -> float:
        return self._adapter.strength * self._adapters.call_scale

    def of_output(self, module: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return the product of the change with the input."""
        if self._magnitude is None:
            return self._delta.apply(x)
        return self._decomposed(module, x, output)

    def _decomposed(self, module: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return DoRA's change of the output.

        The changed matrix is scaled so that its rows or columns have the file's norms; the layer's own output is
        subtracted.
        """
        assert self._magnitude is not None
        if self._ratio is None:
            weight = _dense_weight(module) + self._delta.matrix()
            self._ratio = self._magnitude / weight.norm(dim=1 if self._magnitude.shape[1] == 1 else 0, keepdim=True)
        bias = 0 if module.bias is None else module.bias.to(output.dtype)
        own = output - bias
        ratio = self._ratio.to(output.dtype)
        if ratio.shape[1] == 1:
            return (own + self._delta.apply(x)) * ratio.T - own
        scaled = x * ratio
        product: Tensor = type(module).forward(module, scaled)
        return product - bias + self._delta.apply(scaled) - own


def accept_changes(module: Any) -> None:
    """Let a module add its ``lora_changes`` to its output: the hook stays, so that a compiled network has it, too."""
    if not hasattr(module, "lora_changes"):
        module.lora_changes = ()
        module.register_forward_hook(_add_changes)


def _add_changes(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return the output of a module with the changes of its LoRAs; it is changed in place where nothing needs it."""
    changes: tuple[_Change, ...] = module.lora_changes
    total = output
    for change in changes:
        added = change.of_output(module, args[0].to(output.dtype), output)
        in_place = not torch.is_grad_enabled() and (total is not output or len(changes) == 1)
        total = total.add_(added, alpha=change.strength) if in_place else total.add(added, alpha=change.strength)
    return total


def _dense_weight(layer: nn.Linear) -> Tensor:
    """Return the weight matrix of a linear layer in float32, dequantized if needed."""
    return layer.dequantized_weight(torch.float32) if isinstance(layer, QuantizedLinear) else layer.weight.float()


def _matrix_change(change: LayerChange, weight: Tensor) -> Tensor:
    """Return the change of a weight matrix (out, in), float32."""
    delta = change.delta.to(weight.device).matrix()
    if change.magnitude is None:
        return delta
    total = weight.float() + delta
    magnitude = change.magnitude.to(weight.device)
    norm = total.norm(dim=1 if magnitude.shape[1] == 1 else 0, keepdim=True)
    changed: Tensor = total * magnitude / norm
    return changed - weight.float()
