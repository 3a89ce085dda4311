"""Measure videos: one after another or in several processes, each result stored as soon as it is complete.

A rerun measures only what is missing: a video that changed, a metric that is new or has another protocol. A video that
cannot be read, or whose measurement ends its process, is recorded as invalid and does not stop the others.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from humo.analysis.weights import check_weights, missing_files, weights_checksum
from humo.errors import CheckpointError, DependencyError, HuMoError, RequestError
from humo.evaluation.case_sources import CaseSet, Video
from humo.evaluation.cases import CASES_FILE, write_cases
from humo.evaluation.context import CaseContext
from humo.evaluation.metric import Metric, NotApplicableError, Status
from humo.evaluation.results import (
    DESCRIPTION,
    FORMAT,
    TIMING,
    Score,
    VideoResult,
    describe_metric,
    input_checksums,
    make_score,
    read_result,
    result_path,
    write_json,
    write_result,
    write_tables,
)
from humo.synthetic.corpus import start_worker

Progress = Callable[[int, int], None]
OnProblem = Callable[[str, str], None]
"""Called with the name of a video or metric, and what is wrong."""


@dataclass(frozen=True)
class Selection:
    """Metrics of a run.

    Args:
        metrics: those that can be measured on this machine.
        unavailable: metric -> why it cannot.
        checksums: name of weights -> SHA-256.
    """

    metrics: tuple[Metric, ...]
    unavailable: Mapping[str, str]
    checksums: Mapping[str, str]


@dataclass(frozen=True)
class RunReport:
    """Counts of a run.

    Args:
        videos: measured or already complete.
        measured: videos that were measured in this run.
        valid: scores with a value.
        invalid: scores without a value although the case has what the metric needs.
        missing: ids of cases without a video.
        unavailable: metric -> why it was not measured.
        reason: the most frequent reason of scores without a value.
    """

    videos: int
    measured: int
    valid: int
    invalid: int
    missing: tuple[str, ...]
    unavailable: Mapping[str, str]
    reason: str


def check_available(metrics: Sequence[Metric]) -> Selection:
    """Separate the metrics whose weights are missing, or have another checksum than published."""
    checksums: dict[str, str] = {}
    unavailable: dict[str, str] = {}
    available = []
    for metric in metrics:
        lacking = [name for name in metric.weights if missing_files(name)]
        if lacking:
            command = f"run `humo evaluate weights get {metric.name}`"
            unavailable[metric.name] = f"its weights are missing ({', '.join(lacking)}); {command}"
            continue
        try:
            for name in metric.weights:
                check_weights(name)
                checksums[name] = weights_checksum(name)
        except CheckpointError as error:
            unavailable[metric.name] = str(error)
        else:
            available.append(metric)
    return Selection(tuple(available), unavailable, checksums)


def run_evaluation(
    source: CaseSet,
    videos: Sequence[Video],
    selection: Selection,
    folder: Path,
    *,
    label: str,
    workers: int = 1,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
    on_problem: OnProblem = lambda name, text: None,
) -> RunReport:
    """Measure videos and write all files of an evaluation.

    Args:
        source: the cases.
        videos: their videos.
        selection: metrics.
        folder: created if it does not exist; an earlier evaluation in it is continued.
        label: name for people, such as the model's.
        workers: number of processes with one thread each.
        device: torch device of the networks.
        progress: called with the number of finished videos and of all.
        on_problem: called for each video that cannot be measured at all.

    Raises:
        RequestError: there is no video, or no metric can be measured.
        StorageError: the folder cannot be written.
    """
    if not videos:
        raise RequestError("SOURCE", "none of its cases has a video", "name the folder of the videos: --videos FOLDER")
    if not selection.metrics:
        name, why = next(iter(selection.unavailable.items()))
        raise RequestError(name, why, "or choose --suite offline")
    hashes = {metric.name: metric.protocol_hash(selection.checksums) for metric in selection.metrics}
    pending = _pending(videos, selection.metrics, hashes, folder)
    done = len(videos) - len(pending)
    _describe(source, videos, selection, folder, label)
    progress(done, len(videos))
    tasks = [_Task(video, metrics, hashes, folder, device) for video, metrics in pending]
    for result in _run_tasks(tasks, workers):
        done += 1
        problems = {score.reason for score in result.scores.values() if score.status == Status.INVALID}
        if len(problems) == 1 and all(score.value is None for score in result.scores.values()):
            on_problem(result.name, problems.pop())
        progress(done, len(videos))
    paths = [result_path(folder, video.name) for video in videos]
    stored = [one for path in paths if (one := read_result(path)) is not None]
    current = [replace(one, scores={name: one.scores[name] for name in hashes if name in one.scores}) for one in stored]
    write_tables(folder, current)
    scores = [score for result in current for score in result.scores.values()]
    statuses = Counter(score.status for score in scores)
    reasons = Counter(score.reason for score in scores if score.value is None).most_common(1)
    with_video = {video.case.id for video in videos}
    return RunReport(
        videos=len(videos),
        measured=len(pending),
        valid=statuses[Status.VALID],
        invalid=statuses[Status.INVALID],
        missing=tuple(case.id for case in source.cases if case.id not in with_video),
        unavailable=selection.unavailable,
        reason=reasons[0][0] if reasons else "",
    )


@dataclass(frozen=True)
class _Task:
    """One video to measure."""

    video: Video
    metrics: tuple[Metric, ...]
    hashes: Mapping[str, str]
    folder: Path
    device: str


def _describe(source: CaseSet, videos: Sequence[Video], selection: Selection, folder: Path, label: str) -> None:
    """Write what the evaluation consists of."""
    with_video = {video.case.id for video in videos}
    description = {
        "format": FORMAT,
        "label": label,
        "source": source.kind,
        "metrics": {metric.name: describe_metric(metric, selection.checksums) for metric in selection.metrics},
        "unavailable": dict(selection.unavailable),
        "videos": [video.name for video in videos],
        "missing": [case.id for case in source.cases if case.id not in with_video],
    }
    write_cases(source.cases, folder / CASES_FILE)
    write_json(folder / DESCRIPTION, description)


def _pending(
    videos: Sequence[Video], metrics: Sequence[Metric], hashes: Mapping[str, str], folder: Path
) -> list[tuple[Video, tuple[Metric, ...]]]:
    """Return the videos that have metrics still to be measured, and these metrics."""
    pending = []
    for video in videos:
        stored = read_result(result_path(folder, video.name))
        scores = stored.scores if stored is not None and dict(stored.inputs) == input_checksums(video) else {}
        lacking = tuple(
            metric
            for metric in metrics
            if (score := scores.get(metric.name)) is None
            or score.protocol != hashes[metric.name]
            or score.status == Status.UNAVAILABLE
        )
        if lacking:
            pending.append((video, lacking))
    return pending


def _run_tasks(tasks: Sequence[_Task], workers: int) -> Iterator[VideoResult]:
    """Measure videos in processes of their own and yield each result.

    A process that dies (a crash in a decoder, lack of memory) loses the videos in hand. Each of them gets a second try
    in a process of its own.
    """
    lost: list[_Task] = []
    for task, result in _run_pool(tasks, workers):
        if result is None:
            lost.append(task)
        else:
            yield result
    for task in lost:
        for _, result in _run_pool([task], 1):
            yield _record_death(task) if result is None else result


def _run_pool(tasks: Sequence[_Task], workers: int) -> Iterator[tuple[_Task, VideoResult | None]]:
    """Run tasks in processes; yield None for those that were lost with a process, and continue with new processes."""
    queue = list(tasks)
    while queue:
        context = multiprocessing.get_context("spawn")
        lifeline, parent_end = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(min(workers, len(queue)), context, initializer=start_worker, initargs=(lifeline,))
        running: dict[Future[VideoResult], _Task] = {}
        broken = False
        try:
            while running or (queue and not broken):
                while queue and not broken and len(running) < workers:
                    task = queue.pop(0)
                    running[pool.submit(_measure, task)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    try:
                        yield task, future.result()
                    except BrokenProcessPool:
                        broken = True
                        yield task, None
        finally:
            parent_end.close()  # ends every worker
            pool.shutdown(wait=True, cancel_futures=True)


def _record_death(task: _Task) -> VideoResult:
    """Store that measuring a video ends the process."""
    reason = "measuring it ends the process: a crash in the decoder, or too little memory"
    scores = {metric.name: Score(Status.INVALID, task.hashes[metric.name], reason=reason) for metric in task.metrics}
    result = _merge(task, scores)
    write_result(task.folder, result)
    return result


def _measure(task: _Task) -> VideoResult:
    """Measure a video in a worker process, and store the result."""
    import torch

    torch.set_num_threads(1)
    context = CaseContext(task.video.case, task.video.path, task.device)
    scores: dict[str, Score] = {}
    seconds: dict[str, float] = {}
    for metric in task.metrics:
        start = time.perf_counter()
        scores[metric.name] = measure_one(metric, context, task.hashes[metric.name])
        seconds[metric.name] = round(time.perf_counter() - start, 3)
    result = _merge(task, scores)
    write_result(task.folder, result)
    _log_timing(task, seconds)
    return result


def measure_one(metric: Metric, context: CaseContext, protocol_hash: str) -> Score:
    """Measure one metric; whatever goes wrong becomes a score without a value, and its reason."""
    lacking = [str(need) for need in sorted(metric.needs) if context.case.lacks(need)]
    if lacking:
        return Score(Status.NOT_APPLICABLE, protocol_hash, reason=f"the case has no {' and no '.join(lacking)}")
    try:
        return make_score(metric.measure(context, metric.protocol), protocol_hash)
    except NotApplicableError as error:
        return Score(Status.NOT_APPLICABLE, protocol_hash, reason=str(error))
    except (CheckpointError, DependencyError) as error:
        return Score(Status.UNAVAILABLE, protocol_hash, reason=str(error))
    except HuMoError as error:
        return Score(Status.INVALID, protocol_hash, reason=str(error))
    except Exception as error:  # noqa: BLE001 - one metric of one video stops no other
        return Score(Status.INVALID, protocol_hash, reason=f"{type(error).__name__}: {error}")


def _merge(task: _Task, scores: Mapping[str, Score]) -> VideoResult:
    """Return the result of a video, with what was measured of it before."""
    video, inputs = task.video, input_checksums(task.video)
    stored = read_result(result_path(task.folder, video.name))
    before = stored.scores if stored is not None and dict(stored.inputs) == inputs else {}
    relative = Path(os.path.relpath(video.path, task.folder)).as_posix()
    return VideoResult(video.name, video.case.id, video.seed, relative, inputs, {**before, **scores})


def _log_timing(task: _Task, seconds: Mapping[str, float]) -> None:
    """Append the seconds of a video's metrics to the log, in one write."""
    row: dict[str, Any] = {"video": task.video.name, "seconds": dict(seconds), "device": task.device}
    with (task.folder / TIMING).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
