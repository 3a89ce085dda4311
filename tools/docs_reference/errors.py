"""The page of errors: every message with its remedy, by what the user was doing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tools.docs_reference.markdown import plain
from tools.docs_reference.messages import Message, messages

GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "The command line": (
        "Words and options, at every command.",
        ("cli.main", "cli.options"),
    ),
    "A request": (
        "Its fields, at every door: options, job files, HTTP, the page, Python.",
        ("request", "jobs.generate", "jobs.engine", "inference.inputs", "presets", "runtime.device"),
    ),
    "Pictures, sounds and videos that are read": (
        "`‹field›` is the one that named the file: `images`, `audio`, `--from`, FILE ...",
        ("files", "media.image", "media.audio", "media.provenance", "conditioning.vocal_separation"),
    ),
    "Writing the video, and its marks": (
        "Nothing half-written is left.",
        ("media.video", "media.credentials", "inference.window_cache"),
    ),
    "Job files, batches, making again": (
        "`--config`, `humo batch`, `--from`.",
        (
            "config_files",
            "jobs.request_files",
            "jobs.published_files",
            "jobs.batch",
            "jobs.ray_batch",
            "distributed.ray_cluster",
            "jobs.replay",
        ),
    ),
    "Memory, and several processes": (
        "`humo plan`, `--placement`; `--parallel` and `--shard` under torchrun.",
        (
            "cli.plan",
            "runtime.placement",
            "runtime.block_streaming",
            "distributed.process_group",
            "inference.predictor",
            "model.caches",
        ),
    ),
    "Models": (
        "`--model`, `humo models`: folders, downloads, sums.",
        (
            "checkpoints.model_folder",
            "checkpoints.manifest",
            "checkpoints.hubs.download",
            "checkpoints.hubs.huggingface",
            "checkpoints.hubs.modelscope",
            "cli.models",
        ),
    ),
    "Converting weights": (
        "`humo convert`, `humo models import`. [What is read](../conversion.md).",
        (
            "checkpoints.convert",
            "checkpoints.discovery",
            "checkpoints.formats.open",
            "checkpoints.formats.gguf_file",
            "checkpoints.conversion_plan",
            "checkpoints.architecture",
            "checkpoints.casting",
            "checkpoints.formats.writer",
        ),
    ),
    "LoRA": ("`pipe.load_lora_weights`.", ("inference.lora",)),
    "The service and its page": (
        "Starting it (`humo serve`, `humo ui`), and what its clients are told. Over HTTP, a message of this page is "
        "`error.message`; [its reference](http.md) has the codes.",
        (
            "cli.serve",
            "server.serve",
            "server.file_store",
            "server.job_queue",
            "server.api_keys",
            "server.middleware",
            "server.app",
            "server.schemas",
            "server.service",
            "server.upload_sanitizer",
            "server.url_fetch",
            "server.webui.page",
            "server.webui.gradio_proxy",
            "server.webui.uploads",
            "server.ray_workers",
        ),
    ),
    "Making data": (
        "`humo data`. FOLDER is the one that was named.",
        (
            "cli.data",
            "synthetic.corpus",
            "synthetic.make_clip",
            "synthetic.speech.synthesis",
            "synthetic.speech.hibari",
            "synthetic.render.render",
            "synthetic.person.base_mesh",
            "synthetic.render.jit",
        ),
    ),
    "Training": (
        "`humo train`. Fields are those of the recipe: `stages.0.frames` is that of the first stage.",
        (
            "cli.train",
            "training.recipe_file",
            "training.config",
            "training.component_config",
            "training.dataset",
            "training.latent_cache",
            "training.frozen_encoders",
            "training.trainable",
            "training.stage_model",
            "training.collate",
            "training.distillation",
            "training.optimizer",
            "training.train",
            "training.loop",
            "training.train_autoencoder",
            "training.checkpoint",
            "training.tensor_files",
            "training.metrics_log",
        ),
    ),
    "Measuring": (
        "`humo evaluate`.",
        (
            "cli.evaluate",
            "evaluation.single_video",
            "evaluation.benchmark",
            "evaluation.face_mesh",
            "media.face_identity",
        ),
    ),
    "Looking": (
        "`humo verify`, and what `humo doctor` finds.",
        ("cli.verify", "cli.doctor", "cli.checks"),
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
`humo.HuMoError` with `field`, `problem` and `remedy`. Whatever says `failed:` is a fault of this program or of the
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
        raise LookupError(f"{__file__}: add {', '.join(sorted(strays))} to GROUPS")
    if empty := grouped - by_module.keys():
        raise LookupError(f"{__file__}: {', '.join(sorted(empty))} has no messages; remove it from GROUPS")
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
