"""Rewrite the table of packages in docs/architecture.md from the tree.

python -m tools.module_table
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
SOURCE = ROOT / "src" / "humo"
HEAD = "| package | purpose | modules |\n|---|---|---|\n"
PURPOSES = {
    "cli": "the command `humo`, one file a command",
    "server": "HTTP service, workers, web page",
    "data": "datasets from raw videos: stages, engine, report",
    "evaluation": "metrics, cases, runner, statistics, report; the open benchmark",
    "training": "recipes, data, losses, loop, distillation",
    "jobs": "from a request to a file; batches; replay",
    "distributed": "process group, one clip on several GPUs, FSDP, Ray",
    "runtime": "device, precision, estimated memory, placement, offloading",
    "inference": "from inputs to frames; long video; LoRA",
    "analysis": "measurements of videos: faces, lip sync, stability",
    "checkpoints": "conversion, model folders, file formats, downloads",
    "conditioning": "text, images and audio to `Conditions`",
    "synthetic": "rendered talking people",
    "quantization": "GGUF and fp8 types, packing, unpacking, layers",
    "model": "the network",
    "media": "images, audio, videos; provenance",
}
"""Package -> its purpose, in the order of the layers."""


def modules(folder: Path) -> str:
    """Return the modules of a folder, each in backticks."""
    return " ".join(f"`{path.stem}`" for path in sorted(folder.glob("[!_]*.py")))


def table() -> str:
    """Return the table: a row for each package, and one for the root."""
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    if packages != PURPOSES.keys():
        raise LookupError(f"PURPOSES: {sorted(packages ^ PURPOSES.keys())} differ from the tree; change PURPOSES")
    rows = []
    for name, purpose in PURPOSES.items():
        folders = sorted(path.parent for path in (SOURCE / name).glob("*/__init__.py"))
        groups = [modules(SOURCE / name), *(f"{folder.name}/: {modules(folder)}" for folder in folders)]
        rows.append(f"| `{name}/` | {purpose} | {'; '.join(group for group in groups if group)} |\n")
    return "".join([*rows, f"| root | the vocabulary | {modules(SOURCE)} |\n"])


def updated(page: str) -> str:
    """Return a page with its table replaced."""
    before, after = page.split(HEAD)
    return before + HEAD + table() + after[after.index("\n\n") + 1 :]


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
