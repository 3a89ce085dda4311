"""The page of errors: every message with its remedy, by what the user was doing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reference.markdown import plain
from reference.messages import Message, messages

GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "The command line": (
        "Words and options, at every command.",
        ("cli", "options"),
    ),
    "A request": (
        "Its fields, at every door: options, job files, HTTP, the page, Python.",
        ("request", "jobs", "engine", "clips", "presets", "runtime"),
    ),
    "Pictures, sounds and videos that are read": (
        "`‹field›` is the one that named the file: `images`, `audio`, `--from`, FILE ...",
        ("media.files", "media.image", "media.audio", "media.provenance", "conditioning.vocals"),
    ),
    "Writing the video, and its marks": (
        "Nothing half-written is left.",
        ("media.video", "media.credentials", "shelf"),
    ),
    "Job files, batches, making again": (
        "`--config`, `humo batch`, `--from`.",
        ("textfiles", "jobfiles", "published", "batch", "raybatch", "raycluster", "replay"),
    ),
    "Memory, and several processes": (
        "`humo plan`, `--placement`; `--parallel` and `--shard` under torchrun.",
        ("plancli", "placements", "streaming", "ranks", "velocity", "model.caches"),
    ),
    "Models": (
        "`--model`, `humo models`: folders, downloads, sums.",
        (
            "checkpoints.hub",
            "checkpoints.manifest",
            "checkpoints.download",
            "checkpoints.huggingface",
            "checkpoints.modelscope",
            "modelscli",
        ),
    ),
    "Converting weights": (
        "`humo convert`, `humo models import`. [What is read](../conversion.md).",
        (
            "checkpoints.convert",
            "checkpoints.discovery",
            "checkpoints.reading",
            "checkpoints.gguf",
            "checkpoints.plan",
            "checkpoints.structure",
            "checkpoints.casting",
            "checkpoints.writing",
        ),
    ),
    "LoRA": ("`pipe.load_lora_weights`.", ("lora",)),
    "The service and its page": (
        "Starting it (`humo serve`, `humo ui`), and what its clients are told. Over HTTP, a message of this page is "
        "`error.message`; [its reference](http.md) has the codes.",
        (
            "servecli",
            "server.run",
            "server.store",
            "server.ledger",
            "server.keys",
            "server.guard",
            "server.app",
            "server.wire",
            "server.service",
            "server.intake",
            "server.remote",
            "server.page",
            "server.pageguard",
            "server.uploads",
            "server.cluster",
        ),
    ),
    "Making data": (
        "`humo data`. FOLDER is the one that was named.",
        (
            "datacli",
            "synthetic.corpus",
            "synthetic.clip",
            "synthetic.speech",
            "synthetic.neural",
            "synthetic.render",
            "synthetic.mesh",
            "synthetic.compiled",
        ),
    ),
    "Training": (
        "`humo train`. Fields are those of the recipe: `stages.0.frames` is that of the first stage.",
        (
            "traincli",
            "training.recipefile",
            "training.config",
            "training.partconfig",
            "training.dataset",
            "training.cache",
            "training.encoders",
            "training.parts",
            "training.network",
            "training.batches",
            "training.walks",
            "training.optimise",
            "training.train",
            "training.part",
            "training.autoencoder",
            "training.state",
            "training.store",
            "training.journal",
        ),
    ),
    "Measuring": (
        "`humo evaluate`.",
        ("evaluatecli", "evaluation.clip", "evaluation.nano", "evaluation.mesh", "faces"),
    ),
    "Looking": (
        "`humo verify`, and what `humo doctor` finds.",
        ("verifycli", "doctorcli", "doctor"),
    ),
}
"""Title -> what is said of it, and the modules whose messages stand there, in their order."""

HEAD = """# Errors

Everything that you can put right is told in one line: what is at fault, what is wrong with it, what to do.

```text
humo: width: '90' is not allowed; allowed: a whole number, 16 to 8192, a multiple of 16
```

At the command the exit code is then 2 ([exit codes](../command-line.md#exit-codes)); with `--json` the parts come apart
(`field`, `problem`, `remedy`); over HTTP the line is `error.message`, and `error.param` the field; in Python it is a
`humo.HumoError` with `field`, `problem` and `remedy`. Whatever says `failed:` is a fault of this program or of the
machine: `--debug` shows more, and `humo doctor` looks at the installation.

Below stands every message there is. `‹word›` stands for what was given or found.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What is said, and what to do."""

    said: str
    remedy: str


def page() -> str:
    """The page, in Markdown.

    Raises:
        LookupError: a module's messages are in no group.
    """
    by_module: dict[str, list[Message]] = {}
    for message in messages():
        by_module.setdefault(message.module, []).append(message)
    grouped = {module for _, members in GROUPS.values() for module in members}
    if strays := by_module.keys() - grouped:
        raise LookupError(f"say in reference/errors.py where the messages of {', '.join(sorted(strays))} belong")
    if empty := grouped - by_module.keys():
        raise LookupError(f"there are no messages in {', '.join(sorted(empty))}: take it out of reference/errors.py")
    parts = [HEAD]
    for title, (about, members) in GROUPS.items():
        rows = dict.fromkeys(row for module in members for message in by_module[module] for row in _rows(message))
        lines = [f"| {row.said} | {row.remedy} |" for row in rows]
        parts.append(f"## {title}\n\n{about}\n\n| what it says | what to do |\n|---|---|\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _rows(message: Message) -> list[Row]:
    """A row for each reading of what is wrong; several of what to do stand in one, unless each has its own."""
    fields = " or ".join(f"**{plain(field)}**" for field in message.field)
    remedies = [plain(one) for one in message.remedy]
    if len(remedies) != len(message.problem):
        remedies = ["<br>or: ".join(remedies)] * len(message.problem)
    pairs = zip(message.problem, remedies, strict=True)
    return [Row(f"{fields}: {plain(problem)}", remedy) for problem, remedy in pairs]
