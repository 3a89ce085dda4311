"""``humo generate``: one video."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from humo.cli.batch import output_folder, run_rows
from humo.cli.exit_codes import DONE
from humo.cli.options import Parser, add_config_option, add_request_options, given_fields, read_config
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.request import GenerationPlan

SUMMARY = "make one video from words, pictures and a sound"


def add_options(parser: Parser) -> None:
    """Add the options of ``humo generate``."""
    parser.usage = "humo generate --model FOLDER --prompt TEXT [options] [--config FILE [key=value ...]]"
    source = parser.add_argument_group("where the request comes from; options outdo both")
    source.add_argument("--replay", metavar="FILE", help="a video made before, or its .json: make it again")
    add_config_option(source)
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and load nothing")
    parser.add_argument("--preview", action="store_true", help="show what is finished of the video while it is made")
    together = parser.add_argument_group("one clip on several GPUs, under torchrun --no-python")
    text = "which passes and places of the frame the processes divide: auto, or numbers of processes, as 2x4"
    together.add_argument("--parallel", metavar="CFGxCP", help=text)
    text = "the weights of the network and the text encoder are divided, too: for those that fit no GPU whole"
    together.add_argument("--fsdp", action="store_true", help=text)
    add_request_options(parser)


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo generate``.

    Returns:
        the exit code.
    """
    from humo.cli.report import describe_plan, describe_result
    from humo.jobs.engine import Engine
    from humo.jobs.generate import build_request, generate, merge_fields, prepare_job, preview_path

    given = given_fields(options)
    if options.replay is not None and options.config is not None:
        raise RequestError("--replay", "and --config cannot both be given", "give one, and options for the rest")
    job = read_config(options.config, rest, console)
    if job.items is not None and "prompt" not in given:
        if "output" in given:
            raise RequestError("--output", f"names one video, and {job.items.name} asks for several", "set output.dir")
        return run_rows(job.items, merge_fields(job.fields, given), job.output_folder, options, console)
    below = dict(job.fields)
    if job.output_folder is not None:
        below["output"] = str(output_folder(job.output_folder) / "out.mp4")
    if options.replay is not None:
        from humo.jobs.replay import read_request

        below = read_request(Path(options.replay), given)
        if "output" not in given:
            console.note(f"the video is written to {below['output']}")
    plan = prepare_job(build_request(merge_fields(below, given)))
    _compare_family(job.family, plan.preset.name, console)
    for note in plan.notes:
        # of what a record repeats, nobody needs to hear again
        if options.replay is None or note.split()[0] not in below.keys() - given.keys():
            console.note(note)
    if options.dry_run:
        console.result(*describe_plan(plan), kind="plan")
        return DONE
    if options.preview:
        console.note(f"what is finished can be played from {preview_path(Path(plan.request.output))} while it is made")
    if options.parallel is not None:
        return _generate_together(plan, options, console)
    if options.fsdp:
        raise RequestError("--fsdp", "is for several processes", "add --parallel auto, under torchrun")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError("--parallel", "is missing, and there are several processes", "add --parallel auto")
    console.result(
        *describe_result(
            generate(plan, engine=Engine(note=console.note), listener=console.progress, preview=options.preview)
        )
    )
    return DONE


def _generate_together(plan: GenerationPlan, options: argparse.Namespace, console: Quiet) -> int:
    """As one of several ranks; the first one writes the video and tells of it."""
    from humo.cli.report import describe_result
    from humo.distributed.parallel_generation import ParallelGeneration
    from humo.distributed.process_group import process_group
    from humo.jobs.engine import Engine
    from humo.jobs.generate import generate, generate_as_worker_rank

    with process_group(plan.request.device) as group:
        engine = Engine(ParallelGeneration(group, options.parallel, fsdp=options.fsdp), console.note)
        if not group.is_main:
            generate_as_worker_rank(plan, engine=engine)
            return DONE
        made = generate(plan, engine=engine, listener=console.progress, preview=options.preview)
    console.result(*describe_result(made))
    return DONE


def _compare_family(wanted: str | None, found: str, console: Quiet) -> None:
    if wanted not in (None, found):
        console.note(f"the configuration was written for {wanted}, and the model folder holds {found}")
