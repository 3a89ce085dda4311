"""Many requests one after another: all are checked first, finished ones are skipped, a bad one stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from humo.errors import RequestError
from humo.jobs.engine import Engine
from humo.jobs.generate import (
    VIDEO_SUFFIX,
    PreparedJob,
    Result,
    build_request,
    generate,
    merge_fields,
    prepare_job,
    read_preset,
)
from humo.jobs.published_files import item_output
from humo.jobs.replay import same_request
from humo.jobs.request_files import Row
from humo.progress import ProgressCallback, no_progress

Status = Literal["generated", "skipped", "failed", "ready"]

NONE_FAILED, ALL_FAILED, SOME_FAILED = 0, 1, 3
"""Exit codes of a batch."""

MAX_INPUT_BYTES = 2 * 2**30
"""Bytes of decoded inputs that a batch keeps between checking its rows and generating them. The inputs of rows beyond
that are decoded a second time when their turn comes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a row.

    Args:
        row: the row.
        status: ``generated``; ``skipped`` as its video exists; ``failed``; or, in a dry run, ``ready``.
        output: its video, where that is known.
        result: of a row that was generated.
        error: of a row that failed.
    """

    row: Row
    status: Status
    output: Path | None = None
    result: Result | None = None
    error: Exception | None = None


OnOutcome = Callable[[Outcome], None]
PreparedRows = Sequence[tuple[Row, PreparedJob]]
RunRows = Callable[[PreparedRows], Iterable[Outcome]]
"""Generates the videos of rows and yields the outcome of each."""


def run_batch(
    rows: Iterable[Row],
    *,
    defaults: Mapping[str, Any],
    run_rows: RunRows,
    output_folder: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    on_outcome: OnOutcome = lambda outcome: None,
    on_notes: Callable[[Row, Sequence[str]], None] = lambda row, notes: None,
) -> list[Outcome]:
    """Generate the video of every row.

    A row is skipped if its video exists and has the same request. A row whose video exists and has another request
    fails, unless ``overwrite``.

    Args:
        rows: from a batch file.
        defaults: fields of a request for rows that do not set them.
        run_rows: is called with the rows to generate, grouped by model.
        output_folder: where videos are written; by default the current folder.
        overwrite: generate every row, even if its video exists.
        dry_run: check every row, generate none.
        on_outcome: is called with each row's outcome as soon as it is known.
        on_notes: is called with each row to generate and the notes of its plan.

    Returns:
        the outcomes, in the rows' order.
    """
    outcomes: dict[int, Outcome] = {}

    def finish(outcome: Outcome) -> None:
        outcomes[outcome.row.number] = outcome
        on_outcome(outcome)

    groups: dict[tuple[str | None, str, str], list[tuple[Row, PreparedJob]]] = {}
    outputs: dict[Path, Row] = {}
    kept_bytes = 0
    for row in rows:
        try:
            job, is_done = prepare_row(row, defaults, output_folder, overwrite, outputs)
        except Exception as error:  # noqa: BLE001 - a row that cannot even be checked stops no other
            finish(Outcome(row, "failed", error=error))
            continue
        request = job.plan.request
        if is_done:
            finish(Outcome(row, "skipped", Path(request.output)))
            continue
        on_notes(row, job.plan.notes)
        if dry_run:
            finish(Outcome(row, "ready", Path(request.output)))
            continue
        kept_bytes += 0 if job.inputs is None else job.inputs.num_bytes
        if kept_bytes > MAX_INPUT_BYTES:
            job = PreparedJob(job.plan)
        groups.setdefault((request.model, request.device, request.dtype), []).append((row, job))
    for outcome in run_rows([pair for pairs in groups.values() for pair in pairs]):
        finish(outcome)
    return [outcomes[number] for number in sorted(outcomes)]


def run_locally(
    engine: Engine,
    callback: ProgressCallback = no_progress,
    on_start: Callable[[Row], None] = lambda row: None,
) -> RunRows:
    """Return a function that generates rows one after another in this process.

    Args:
        engine: keeps the model between rows.
        callback: is called with the progress within a row.
        on_start: is called with a row when its generation starts.
    """

    def run(rows: PreparedRows) -> Iterator[Outcome]:
        for row, job in rows:
            output = Path(job.plan.request.output)
            on_start(row)
            try:
                yield Outcome(row, "generated", output, generate(job, engine=engine, callback=callback))
            except Exception as error:  # noqa: BLE001 - whatever fails in one row, the next may succeed
                yield Outcome(row, "failed", output, error=error)

    return run


def prepare_row(
    row: Row, defaults: Mapping[str, Any], output_folder: Path | None, overwrite: bool, outputs: dict[Path, Row]
) -> tuple[PreparedJob, bool]:
    """Return the job of a row, and whether its video exists already.

    Args:
        row, defaults, output_folder, overwrite: as for `run_batch`.
        outputs: videos of the rows before -> their rows; this row's is added.

    Raises:
        HuMoError: the row is wrong.
    """
    if row.problem is not None:
        raise row.problem
    fields = merge_fields(defaults, row.fields)
    row_output = row.fields.get("output")
    request = build_request({**fields, "output": "out.mp4" if row_output is None else row_output})
    if row_output is None:
        seed = request.seed if request.seed is not None else read_preset(request).seed
        name = item_output(row.name, seed) if row.published else row.name + VIDEO_SUFFIX
    else:
        name = str(row_output)
    output = Path(name) if output_folder is None else output_folder / name
    if output_folder is not None and not output.resolve().is_relative_to(output_folder.resolve()):
        raise RequestError("output", f"{name!r} is outside the output folder", f"give a name inside {output_folder}")
    first = outputs.setdefault(output.resolve(), row)
    if first is not row:
        raise RequestError("output", f"{str(output)!r} is the output of row {first.number} too", "give another name")
    job = prepare_job(request.model_copy(update={"output": str(output)}))
    if output.exists() and not overwrite:
        if same_request(output, job.plan):
            return job, True
        problem = f"{str(output)!r} exists and has another request"
        raise RequestError("output", problem, "add --overwrite, or move the file")
    return job, False


def exit_code(outcomes: list[Outcome]) -> int:
    """Return 0 if no row failed, 1 if all did, 3 if some did."""
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed == 0:
        return NONE_FAILED
    return ALL_FAILED if failed == len(outcomes) else SOME_FAILED
