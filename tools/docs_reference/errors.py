"""Generate the page of errors: every message with its remedy, grouped by what the user was doing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from humo.errors import HuMoError
from tools.docs_reference.markdown import plain
from tools.docs_reference.messages import Message, messages

GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "The command line": (
        "Arguments and options of every command.",
        ("cli",),
    ),
    "A request": (
        "Fields of a request, wherever it comes from: options, job files, HTTP, the web page, Python.",
        (
            "request",
            "plan",
            "presets",
            "request_presets",
            "jobs.generate",
            "jobs.engine",
            "inference.inputs",
            "environment",
            "runtime.device",
        ),
    ),
    "Reading images, audio and video": (
        "`‹field›` is the field or option that named the file, such as `images` or `--audio`.",
        ("files", "media", "conditioning"),
    ),
    "Writing the video": (
        "A failed job leaves no incomplete file behind.",
        ("media.video", "media.credentials", "inference.window_cache"),
    ),
    "Request files, batches, replay": (
        "`--config`, `humo batch`, and generating a video again from its own metadata.",
        ("config_files", "jobs", "distributed.ray_cluster"),
    ),
    "Memory and several GPUs": (
        "`--offload`, `--quantize`, and the options for several processes under torchrun.",
        ("cli.plan", "runtime", "distributed", "inference.predictor", "model"),
    ),
    "Models": (
        "`--model` and `humo models`: model folders, downloads, checksums.",
        (
            "checkpoints.model_folder",
            "checkpoints.manifest",
            "checkpoints.hubs",
            "checkpoints.comfyui",
            "inference.pipeline",
            "cli.models",
        ),
    ),
    "Converting weights": (
        "`humo convert` and `humo models import`. [Formats that can be read](../conversion.md).",
        ("checkpoints", "quantization"),
    ),
    "LoRA": (
        "`--lora`, `humo models` for LoRAs, and `pipe.load_lora_weights`.",
        (
            "inference.lora",
            "inference.lora_file",
            "inference.lora_keys",
            "inference.adapters",
            "checkpoints.lora_store",
            "jobs.loras",
            "cli.model_loras",
        ),
    ),
    "The service and the web page": (
        "Starting the service (`humo serve`, `humo ui`), and its error responses. Over HTTP the message is "
        "`error.message`; the [HTTP reference](http.md) lists the codes.",
        ("cli.serve", "server"),
    ),
    "Rendering training data": (
        "`humo data render` and `humo data captions`.",
        ("cli.data", "synthetic"),
    ),
    "Datasets from videos": (
        "`humo data build`, `refilter` and `check`. A faulty video is put aside with its message; the others continue.",
        ("cli.data_build", "data"),
    ),
    "Training": (
        "`humo train`. Fields are those of the recipe; `stages.0.frames` is `frames` of the first stage.",
        ("cli.train", "training"),
    ),
    "Evaluation": (
        "`humo evaluate`.",
        ("cli.evaluate", "cli.metric_weights", "evaluation", "analysis", "media.face_identity"),
    ),
    "Checks": (
        "`humo verify`, and what `humo doctor` reports.",
        ("cli.verify", "cli.doctor"),
    ),
}
"""Section title -> its introduction, and the modules or packages whose messages it lists.

A module belongs to the section that has the longest matching name: `media.video` goes before `media`.
"""

HEAD = f"""# Errors

Every error that a user can correct is one line: the field at fault, what is wrong with it, what to do.

```text
humo: width: '90' is not allowed; allowed: a whole number, 16 to 8192, a multiple of 16
```

On the command line the exit code is then 2 ([exit codes](../command-line.md#exit-codes)). With `--json` the line is
split into `field`, `problem` and `remedy`. Over HTTP it is `error.message`, and `error.param` is the field. In Python
it is a `humo.{HuMoError.__name__}` with the attributes `field`, `problem` and `remedy`. A line that starts with
`failed:` reports a bug or a fault of the machine: `--debug` prints the traceback, and `humo doctor` checks the
installation.

The tables below list every message. `‹word›` stands for a value that is filled in.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: a message and what to do."""

    message: str
    remedy: str


def page() -> str:
    """Return the page in Markdown.

    Raises:
        LookupError: a module's messages belong to no section.
    """
    by_title: dict[str, list[Message]] = {title: [] for title in GROUPS}
    for message in messages():
        by_title[_section_of(message.module)].append(message)
    parts = [HEAD]
    for title, (introduction, _) in GROUPS.items():
        rows = dict.fromkeys(row for message in by_title[title] for row in _rows(message))
        table = "".join(f"| {row.message} | {row.remedy} |\n" for row in rows)
        parts.append(f"## {title}\n\n{introduction}\n\n| message | what to do |\n|---|---|\n{table}")
    return "\n".join(parts)


def _section_of(module: str) -> str:
    """Return the title of the section that lists a module's messages."""
    matches = [
        (len(name), title)
        for title, (_, names) in GROUPS.items()
        for name in names
        if f"{module}.".startswith(f"{name}.")
    ]
    if not matches:
        raise LookupError(f"{__file__}: add {module} to GROUPS")
    return max(matches)[1]


def _rows(message: Message) -> list[Row]:
    """Return a row for each variant of the problem; remedies share a cell unless each problem has its own."""
    fields = " or ".join(f"**{plain(field)}**" for field in message.field)
    remedies = [plain(one) for one in message.remedy]
    if len(remedies) != len(message.problem):
        remedies = ["<br>or: ".join(remedies)] * len(message.problem)
    pairs = zip(message.problem, remedies, strict=True)
    return [Row(f"{fields}: {plain(problem)}", remedy) for problem, remedy in pairs]
