"""``humo generate``: generate one video."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.batch import output_folder, run_rows
from humo.cli.exit_codes import DONE, INTERRUPTED
from humo.cli.options import (
    Parser,
    add_config_option,
    add_request_options,
    given_fields,
    parse_integer,
    read_config,
)
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.cli.report import Report
    from humo.jobs.generate import PreparedJob
    from humo.jobs.request_files import RequestFile
    from humo.plan import GenerationPlan
    from humo.presets import Preset

MAX_COUNT = 1000

SUMMARY = "generate one video from a prompt, reference images and an audio track"


def add_options(parser: Parser) -> None:
    """Add the options of ``humo generate``."""
    parser.usage = (
        "humo generate --prompt TEXT [--image FILE ...] [--audio FILE] [options] [--config FILE [key=value ...]]"
    )
    source = parser.add_argument_group("source of the request", "options below replace what these files set")
    source.add_argument("--replay", metavar="FILE", help="generate a video again from the record in it or its .json")
    add_config_option(source)
    parser.add_argument("--dry-run", action="store_true", help="print what would be generated; load no model")
    parser.add_argument("--overwrite", action="store_true", help="replace the video if it exists")
    parser.add_argument(
        "--count", default="1", metavar="N", help="number of variations; each has the next seed and a numbered file"
    )
    parser.add_argument("--preview", action="store_true", help="write a playable preview while the video is generated")
    parallel = parser.add_argument_group("one clip on several GPUs", "run under torchrun --no-python")
    text = "processes for guidance passes and for context parallelism: auto, or two numbers, as 2x4"
    parallel.add_argument("--parallel", metavar="CFGxCP", help=text)
    text = "shard the weights of the network and the text encoder (FSDP2), if no GPU holds them whole"
    parallel.add_argument("--fsdp", action="store_true", help=text)
    add_request_options(parser)


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo generate``.

    Returns:
        the exit code.
    """
    from humo.jobs.generate import build_request, merge_fields, prepare_job, preview_path

    overrides = given_fields(options)
    if options.replay is not None and options.config is not None:
        raise RequestError("--replay", "cannot be combined with --config", "drop one of them")
    config = read_config(options.config, rest, console)
    if config.items is not None and "prompt" not in overrides:
        if "output" in overrides:
            problem = f"names one video, but {config.items.name} lists several"
            raise RequestError("--output", problem, "drop it, and set generation.output.dir=FOLDER")
        return run_rows(config.items, merge_fields(config.fields, overrides), config.output_folder, options, console)
    base = _base_fields(config, options.replay, overrides, console)
    count = parse_integer("--count", options.count, 1, MAX_COUNT)
    fields = merge_fields(base, overrides)
    if fields.get("seed") == "random" and "WORLD_SIZE" in os.environ:
        raise RequestError("seed", "'random' differs between processes", "give a number")
    request = build_request(fields)
    preset = _preset_of_missing(request.model) if options.dry_run else None
    jobs = [prepare_job(request, preset=preset)]
    plan = jobs[0].plan
    for number in range(1, count):
        jobs.append(prepare_job(build_request(fields | _variation(plan, number)), preset=preset))
    if count > 1:
        jobs[0] = prepare_job(build_request(fields | _variation(plan, 0)), preset=preset)
    if config.family not in (None, plan.preset.name):
        console.note(f"the configuration is for {config.family}, but the model folder holds {plan.preset.name}")
    for note in plan.notes:
        # a note on a field that the record repeats was printed when the video was first generated
        if options.replay is None or note.split()[0] not in base.keys() - overrides.keys():
            console.note(note)
    if options.dry_run:
        if preset is not None:
            name = plan.request.model
            console.note(f"{name} is not installed; run `humo models get {name}`, or `humo plan --model {name}`")
        console.result(*_describe_run(plan, is_installed=preset is None), kind="plan")
        return DONE
    for job in jobs:
        _check_new(Path(job.plan.request.output), options, console)
    if options.preview:
        console.note(f"a preview can be played from {preview_path(Path(plan.request.output))} until the video is done")
    return _generate(jobs, options, console)


def _preset_of_missing(name: str | None) -> Preset | None:
    """Return the preset of a released model that is not installed; None for any other model."""
    from humo.checkpoints.hubs.catalog import CATALOG
    from humo.checkpoints.model_folder import find_model_folder
    from humo.presets import find_preset

    if name is None or name not in CATALOG or find_model_folder(name).is_dir():
        return None
    return find_preset(CATALOG[name].family)


def _describe_run(plan: GenerationPlan, *, is_installed: bool) -> Report:
    """Describe a plan with the device, the memory and the time that it needs here."""
    from humo.cli.report import describe_plan
    from humo.jobs.engine import Engine
    from humo.jobs.timing_history import expected_seconds

    engine = Engine()
    if not is_installed:
        return describe_plan(plan)
    plan = engine.resolve_runtime(plan)
    return describe_plan(plan, engine.estimate_memory(plan), expected_seconds(plan))


def _variation(plan: GenerationPlan, number: int) -> dict[str, Any]:
    """Return the fields of a variation: its seed, and its file, ``out-2.mp4`` for the second of ``out.mp4``."""
    assert plan.request.seed is not None
    output = Path(plan.request.output)
    name = str(output.with_name(f"{output.stem}-{number + 1}{output.suffix}"))
    return {"seed": plan.request.seed + number, "output": name}


def _check_new(output: Path, options: argparse.Namespace, console: Quiet) -> None:
    """Refuse to replace a video, unless that is asked for; on a terminal, ask.

    Raises:
        RequestError: the video exists.
    """
    if options.overwrite or not output.exists() or os.environ.get("RANK", "0") != "0":
        return
    if sys.stdin.isatty() and sys.stderr.isatty() and not options.json and not options.quiet:
        console.close()
        print(f"{output} exists. Replace it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise RequestError("output", f"{str(output)!r} exists", "give another --output, or add --overwrite")


def _base_fields(config: RequestFile, replay: str | None, overrides: dict[str, Any], console: Quiet) -> dict[str, Any]:
    """Return the fields of the request that ``--config`` or ``--replay`` sets."""
    if replay is not None:
        from humo.jobs.replay import read_request

        fields = read_request(Path(replay), overrides)
        if "output" not in overrides:
            console.note(f"the video is written to {fields['output']}")
        return fields
    fields = dict(config.fields)
    if config.output_folder is not None:
        fields["output"] = str(output_folder(config.output_folder) / "out.mp4")
    return fields


def _generate(jobs: list[PreparedJob], options: argparse.Namespace, console: Quiet) -> int:
    """Generate the videos in this process, or together with other processes."""
    from humo.cli.report import describe_result, describe_start
    from humo.jobs.engine import Engine
    from humo.jobs.generate import generate

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if options.parallel is not None:
        if processes == 1:
            remedy = "run `torchrun --no-python --nproc-per-node N humo generate ...` with N above 1"
            raise RequestError("--parallel", "needs several processes, but one is running", remedy)
        return _generate_in_parallel(jobs, options, console)
    if options.fsdp:
        raise RequestError("--fsdp", "needs several processes", "add --parallel auto, and run under torchrun")
    if processes > 1:
        raise RequestError("--parallel", "is missing, but torchrun started several processes", "add --parallel auto")
    engine = Engine(note=console.note)
    for job in jobs:
        console.start(*describe_start(job.plan))
        try:
            result = generate(job, engine=engine, callback=console.progress, preview=options.preview)
        except KeyboardInterrupt:
            console.error(_interruption(job.plan))
            return INTERRUPTED
        console.result(*describe_result(result))
    return DONE


def _interruption(plan: GenerationPlan) -> str:
    """Return the message after an interruption: what is kept."""
    from humo.jobs.generate import window_folder

    kept = len(list(window_folder(Path(plan.request.output)).glob("*.safetensors")))
    if kept == 0:
        return "interrupted; no unfinished file was left behind"
    return (
        f"interrupted; {kept} of {len(plan.windows)} windows are finished and kept: the same command resumes from there"
    )


def _generate_in_parallel(jobs: list[PreparedJob], options: argparse.Namespace, console: Quiet) -> int:
    """Compute this rank's share of the videos; the main rank writes and reports them."""
    from humo.cli.report import describe_result
    from humo.distributed.parallel_generation import ParallelGeneration
    from humo.distributed.process_group import process_group
    from humo.jobs.engine import Engine
    from humo.jobs.generate import generate, generate_as_worker_rank

    with process_group(jobs[0].plan.request.device) as group:
        engine = Engine(ParallelGeneration(group, options.parallel, fsdp=options.fsdp), console.note)
        for job in jobs:
            if group.is_main:
                result = generate(job, engine=engine, callback=console.progress, preview=options.preview)
                console.result(*describe_result(result))
            else:
                generate_as_worker_rank(job, engine=engine)
    return DONE
