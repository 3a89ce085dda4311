"""Many requests one after another: all looked at first, finished ones skipped, a bad one stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from humo.errors import RequestError
from humo.jobs.engine import Engine
from humo.jobs.generate import VIDEO_SUFFIX, Result, build_request, generate, merge_fields, prepare_job, preset_of
from humo.jobs.published_files import item_output
from humo.jobs.replay import same_request
from humo.jobs.request_files import Row
from humo.progress import ProgressCallback, no_progress
from humo.request import GenerationPlan

Status = Literal["made", "skipped", "failed", "ready"]

NONE_FAILED, ALL_FAILED, SOME_FAILED = 0, 1, 3
"""Exit codes of a batch."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row.

    Args:
        row: the row.
        status: made, skipped as its video was there, failed, or (nothing being made) ready.
        output: its video, where that is known.
        result: of a row that was made.
        error: of a row that failed.
    """

    row: Row
    status: Status
    output: Path | None = None
    result: Result | None = None
    error: Exception | None = None


OnOutcome = Callable[[Outcome], None]
PlannedRows = Sequence[tuple[Row, GenerationPlan]]
RunRows = Callable[[PlannedRows], Iterable[Outcome]]
"""Makes the videos of rows, and tells what became of each."""


def run_batch(
    rows: Iterable[Row],
    *,
    defaults: Mapping[str, Any],
    output_folder: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    make: RunRows,
    report: OnOutcome = lambda outcome: None,
    announce: Callable[[Row, Sequence[str]], None] = lambda row, notes: None,
) -> list[Outcome]:
    """Make the video of every row.

    A row whose video is there and was made from the same request is skipped; one whose video is there and was made
    from another is a failed row, unless ``overwrite``.

    Args:
        rows: from a batch file.
        defaults: fields of a request, for rows that do not say otherwise.
        output_folder: where videos go; by default the current folder.
        overwrite: make every row anew.
        dry_run: look at every row, make none.
        make: given the rows that are to be made, those of one model one after another.
        report: told of each row's outcome, as soon as it is known.
        announce: told of each row that is to be made, and what is worth saying of it.

    Returns:
        the outcomes, in the rows' order.
    """
    outcomes: dict[int, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.row.number] = outcome
        report(outcome)

    work: dict[tuple[str | None, str, str], list[tuple[Row, GenerationPlan]]] = {}
    outputs: dict[Path, Row] = {}
    for row in rows:
        try:
            plan, is_made = plan_row(row, defaults, output_folder, overwrite, outputs)
        except Exception as error:  # noqa: BLE001 - a row that cannot even be looked at stops no other
            settle(Outcome(row, "failed", error=error))
            continue
        if is_made:
            settle(Outcome(row, "skipped", Path(plan.request.output)))
            continue
        announce(row, plan.notes)
        if dry_run:
            settle(Outcome(row, "ready", Path(plan.request.output)))
        else:
            request = plan.request
            work.setdefault((request.model, request.device, request.dtype), []).append((row, plan))
    for outcome in make([pair for pairs in work.values() for pair in pairs]):
        settle(outcome)
    return [outcomes[number] for number in sorted(outcomes)]


def run_locally(
    engine: Engine, listener: ProgressCallback = no_progress, begin: Callable[[Row], None] = lambda row: None
) -> RunRows:
    """Makes one video after another, in this process.

    Args:
        engine: keeps the model between rows.
        listener: told of the progress within a row.
        begin: told of a row when its making begins.
    """

    def make(work: PlannedRows) -> Iterator[Outcome]:
        for row, plan in work:
            output = Path(plan.request.output)
            begin(row)
            try:
                yield Outcome(row, "made", output, generate(plan, engine=engine, listener=listener))
            except Exception as error:  # noqa: BLE001 - whatever fails in one row, the next may succeed
                yield Outcome(row, "failed", output, error=error)

    return make


def plan_row(
    row: Row, defaults: Mapping[str, Any], output_folder: Path | None, overwrite: bool, outputs: dict[Path, Row]
) -> tuple[GenerationPlan, bool]:
    """The plan of a row, and whether its video is there already.

    Args:
        row, defaults, output_folder, overwrite: as `run_batch`.
        outputs: videos of the rows before, with their rows; this row's is added.

    Raises:
        HuMoError: what is wrong with the row.
    """
    if row.problem is not None:
        raise row.problem
    fields = merge_fields(defaults, row.fields)
    given = row.fields.get("output")
    request = build_request({**fields, "output": "out.mp4" if given is None else given})
    if given is None:
        seed = request.seed if request.seed is not None else preset_of(request).seed
        name = item_output(row.name, seed) if row.published else row.name + VIDEO_SUFFIX
    else:
        name = str(given)
    output = Path(name) if output_folder is None else output_folder / name
    earlier = outputs.setdefault(output.resolve(), row)
    if earlier is not row:
        raise RequestError("output", f"{str(output)!r} is that of row {earlier.number}, too", "name it otherwise")
    plan = prepare_job(request.model_copy(update={"output": str(output)}))
    if output.exists() and not overwrite:
        if same_request(output, plan):
            return plan, True
        raise RequestError("output", f"{str(output)!r} is there and was made otherwise", "give --overwrite, or move it")
    return plan, False


def exit_code(outcomes: list[Outcome]) -> int:
    """0 if no row failed, 1 if all did, 3 if some did."""
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed == 0:
        return NONE_FAILED
    return ALL_FAILED if failed == len(outcomes) else SOME_FAILED
