"""``humo generate``: generate one video."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.batch import output_folder, run_rows
from humo.cli.exit_codes import DONE
from humo.cli.options import Parser, add_config_option, add_request_options, given_fields, read_config
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.jobs.generate import PreparedJob
    from humo.jobs.request_files import RequestFile

SUMMARY = "generate one video from a prompt, reference images and an audio track"


def add_options(parser: Parser) -> None:
    """Add the options of ``humo generate``."""
    parser.usage = "humo generate --model FOLDER --prompt TEXT [options] [--config FILE [key=value ...]]"
    source = parser.add_argument_group("source of the request", "options below replace what these files set")
    source.add_argument("--replay", metavar="FILE", help="generate a video again from the record in it or its .json")
    add_config_option(source)
    parser.add_argument("--dry-run", action="store_true", help="print what would be generated; load no model")
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
    from humo.cli.report import describe_plan
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
    job = prepare_job(build_request(merge_fields(base, overrides)))
    plan = job.plan
    if config.family not in (None, plan.preset.name):
        console.note(f"the configuration is for {config.family}, but the model folder holds {plan.preset.name}")
    for note in plan.notes:
        # a note on a field that the record repeats was printed when the video was first generated
        if options.replay is None or note.split()[0] not in base.keys() - overrides.keys():
            console.note(note)
    if options.dry_run:
        console.result(*describe_plan(plan), kind="plan")
        return DONE
    if options.preview:
        console.note(f"a preview can be played from {preview_path(Path(plan.request.output))} until the video is done")
    return _generate(job, options, console)


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


def _generate(job: PreparedJob, options: argparse.Namespace, console: Quiet) -> int:
    """Generate the video in this process, or together with other processes."""
    from humo.cli.report import describe_result
    from humo.jobs.engine import Engine
    from humo.jobs.generate import generate

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if options.parallel is not None:
        if processes == 1:
            remedy = "run `torchrun --no-python --nproc-per-node N humo generate ...` with N above 1"
            raise RequestError("--parallel", "needs several processes, but one is running", remedy)
        return _generate_in_parallel(job, options, console)
    if options.fsdp:
        raise RequestError("--fsdp", "needs several processes", "add --parallel auto, and run under torchrun")
    if processes > 1:
        raise RequestError("--parallel", "is missing, but torchrun started several processes", "add --parallel auto")
    engine = Engine(note=console.note)
    result = generate(job, engine=engine, callback=console.progress, preview=options.preview)
    console.result(*describe_result(result))
    return DONE


def _generate_in_parallel(job: PreparedJob, options: argparse.Namespace, console: Quiet) -> int:
    """Compute this rank's share of a video; the main rank writes and reports it."""
    from humo.cli.report import describe_result
    from humo.distributed.parallel_generation import ParallelGeneration
    from humo.distributed.process_group import process_group
    from humo.jobs.engine import Engine
    from humo.jobs.generate import generate, generate_as_worker_rank

    with process_group(job.plan.request.device) as group:
        engine = Engine(ParallelGeneration(group, options.parallel, fsdp=options.fsdp), console.note)
        if not group.is_main:
            generate_as_worker_rank(job, engine=engine)
            return DONE
        result = generate(job, engine=engine, callback=console.progress, preview=options.preview)
    console.result(*describe_result(result))
    return DONE
