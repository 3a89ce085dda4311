"""Sockets, widgets, schemas and nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

# The arguments of inputs and outputs have ComfyUI's names and order; what the nodes do not use is left out at the end.


class Input:
    """A socket."""

    io_type: ClassVar[str] = ""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
    ) -> None:
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.lazy = lazy

    def get_io_type(self) -> str:
        """Types that may be linked to it."""
        return self.io_type

    def as_dict(self) -> dict[str, Any]:
        """Settings for the interface in the browser, without those that are None."""
        return {name: value for name, value in vars(self).items() if name != "id" and value is not None}


class WidgetInput(Input):
    """A socket that can be filled in on the node."""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: Any = None,
    ) -> None:
        super().__init__(id, display_name, optional, tooltip, lazy)
        self.default = default


class Output:
    """An output socket."""

    io_type: ClassVar[str] = ""

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        self.id = id
        self.display_name = display_name
        self.tooltip = tooltip
        self.is_output_list = is_output_list


class ComfyTypeIO:
    """A type of values, with its sockets."""

    io_type: ClassVar[str] = ""
    Input: ClassVar[type[Input]] = Input
    Output: ClassVar[type[Output]] = Output


def Custom(io_type: str) -> type[ComfyTypeIO]:  # noqa: N802 - ComfyUI's name
    """A type of an extension's own."""
    named = {"io_type": io_type}
    parts = {"Input": type("Input", (Input,), named), "Output": type("Output", (Output,), named)}
    return type("CustomComfyType", (ComfyTypeIO,), named | parts)


Image = Custom("IMAGE")
Audio = Custom("AUDIO")
Latent = Custom("LATENT")
Video = Custom("VIDEO")


class Boolean(ComfyTypeIO):
    """Yes or no."""

    io_type = "BOOLEAN"

    class Input(WidgetInput):
        """A switch."""

        io_type = "BOOLEAN"

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: bool | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, default)


class Int(ComfyTypeIO):
    """Whole numbers."""

    io_type = "INT"

    class Input(WidgetInput):
        """A number field."""

        io_type = "INT"

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: int | None = None,
            min: int | None = None,
            max: int | None = None,
            step: int | None = None,
            control_after_generate: bool | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, default)
            self.min = min
            self.max = max
            self.step = step
            self.control_after_generate = control_after_generate


class Float(ComfyTypeIO):
    """Numbers."""

    io_type = "FLOAT"

    class Input(WidgetInput):
        """A number field."""

        io_type = "FLOAT"

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: float | None = None,
            min: float | None = None,
            max: float | None = None,
            step: float | None = None,
            round: float | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, default)
            self.min = min
            self.max = max
            self.step = step
            self.round = round

    class Output(Output):
        """A number."""

        io_type = "FLOAT"


class String(ComfyTypeIO):
    """Text."""

    io_type = "STRING"

    class Input(WidgetInput):
        """A text field."""

        io_type = "STRING"

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            multiline: bool = False,
            placeholder: str | None = None,
            default: str | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, default)
            self.multiline = multiline
            self.placeholder = placeholder


class Combo(ComfyTypeIO):
    """One of a list."""

    io_type = "COMBO"

    class Input(WidgetInput):
        """A menu."""

        io_type = "COMBO"

        def __init__(
            self,
            id: str,
            options: list[str] | None = None,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: str | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, default)
            self.options = options


@dataclass
class Schema:
    """Name, inputs and outputs of a node."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False

    def validate(self) -> None:
        """Refuse a name that is there twice, an output's that is an input's included."""
        names = [*(one.id for one in self.inputs), *(one.id for one in self.outputs)]
        if len(set(names)) != len(names):
            raise ValueError(f"Ids must be unique, and there are {names}")

    def finalize(self) -> None:
        """Name the outputs that have no name."""
        for place, output in enumerate(self.outputs):
            if output.id is None:
                output.id = f"_{place}_{output.io_type}_"


class NodeOutput:
    """Results of a node, in the order of its outputs."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The values, or None if there are none."""
        return self.args if self.args else None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class ComfyNode(ABC):
    """The base of nodes. They are never kept: all their methods are the class's."""

    @classmethod
    @abstractmethod
    def define_schema(cls) -> Schema:
        """Return the schema of the node."""

    @classmethod
    @abstractmethod
    def execute(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        """Run the node. ComfyUI writes ``**kwargs`` alone, which no node's own arguments could fulfil."""

    @classmethod
    def validate_inputs(cls, *args: Any, **kwargs: Any) -> bool | str:
        """True, or what is wrong with what is filled in."""
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a value that is equal as long as the last result holds."""
        raise NotImplementedError

    @classmethod
    def GET_SCHEMA(cls) -> Schema:  # noqa: N802 - ComfyUI's name
        """The checked schema."""
        schema = cls.define_schema()
        schema.finalize()
        schema.validate()
        return schema
