"""``humo data build`` and ``humo data refilter``: from sources to a dataset, resumable at any moment.

Inventory, scan and score run on a pool of workers and leave their results in the journal. Everything after that
(thresholds, copies, references, captions, splits, tables, report) is computed from the journal.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from humo.analysis.weights import check_weights
from humo.data.build_recipe import BuildRecipe, checksum
from humo.data.captions import Endpoint, check_address
from humo.data.catalog import Catalog
from humo.data.clip_files import clip_file
from humo.data.engine import LocalPool, Pool, run_tasks
from humo.data.finish import Finished, finish, portrait_keys
from humo.data.folder import open_folder, read_folder_recipe, read_sources, write_sources
from humo.data.journal import Journal
from humo.data.planning import STAGE_VERSIONS
from humo.data.remote_files import is_remote, remote_info
from humo.data.sources import Inputs, Source, find_sources
from humo.data.tasks import Outcome, Task, Values
from humo.errors import MediaError, StorageError
from humo.files import SPARE_BYTES
from humo.progress import Note, Progress

SECONDS_PER_BYTE = 2e-8
"""Expected CPU seconds of the inventory, per byte of a source."""

SCAN_SECONDS_PER_FRAME = 0.02
"""Expected CPU seconds of a scan, per frame."""

SCORE_SECONDS_PER_FRAME, SCORE_SECONDS = 0.15, 15.0
"""Expected CPU seconds of a clip's scores: per frame, and for loading the networks."""

BYTES_PER_CLIP_SECOND, BYTES_PER_CLIP = 150_000, 400_000
"""Estimated bytes of a clip at 480 lines: per second, and for its reference image and thumbnail."""


JUDGE_WEIGHTS: dict[str, tuple[str, ...]] = {"mesh": (), "syncnet": ("syncnet_v2", "sfd_face")}
"""Value of ``sync.judge`` in a recipe -> published weights that it needs; `humo.analysis.weights` has them."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run.

    Args:
        folder: the output.
        inputs: videos, folders, lists, manifests.
        recipe: the recipe; None for that of the folder, or the default one.
        workers: processes on this machine.
        ray: address of a Ray cluster, or ``local``; None for processes on this machine.
        captions: endpoint's address and model; None for none.
        retry: try quarantined items again.
    """

    folder: Path
    inputs: tuple[str, ...]
    recipe: BuildRecipe | None = None
    workers: int | None = None
    ray: str | None = None
    captions: tuple[str, str] | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """Sources of a run: counts and sizes, before anything is decoded."""

    sources: int
    missing_rows: int
    bytes: int


def estimate(options: Options) -> Estimate:
    """List the sources of a run, without writing anything.

    Raises:
        HuMoError: the inputs or the recipe are wrong.
    """
    _, inputs = _plan(options)
    paths = {source.path for source in inputs.sources}
    return Estimate(len(inputs.sources), len(inputs.missing), sum(_size_and_time(path)[0] for path in paths))


def build(options: Options, progress: Progress, note: Note) -> Finished:
    """Build a dataset, or continue to.

    Raises:
        HuMoError: the inputs, the recipe or the folder are wrong, or the disk is full. What was finished is kept.
    """
    planned, inputs = _plan(options)
    if inputs.missing:
        note(f"rows without a file: {len(inputs.missing)}, such as {inputs.missing[0].path!r}")
    for name in JUDGE_WEIGHTS[planned.sync.judge]:
        check_weights(name)
    if options.captions is not None:
        check_address(options.captions[0])
    _check_space(options.folder, SPARE_BYTES)
    with (
        open_folder(options.folder, options.recipe, create=True) as recipe,
        closing(Journal(options.folder)) as journal,
    ):
        run = _Run(options, recipe, journal, progress, note)
        with closing(open_pool(options, recipe)) as pool:
            sources = run.inventory(inputs, pool)
            catalog = Catalog(sources, journal, recipe)
            run.note_share("inventory", sum(1 for _ in catalog.used_sources()), len(sources), "sources")
            _check_space(options.folder, run.needed_bytes(catalog), note)
            run.scan(catalog, pool)
            run.score(catalog, pool)
            run.references(catalog, pool)
        return finish(options.folder, catalog, inputs.missing, sources, run.endpoint(), progress, note)


def _plan(options: Options) -> tuple[BuildRecipe, Inputs]:
    """Return recipe and sources of a run, after the checks that need no work."""
    for path in options.inputs:
        _check_apart(path, options.folder)
    recipe = options.recipe or read_folder_recipe(options.folder) or BuildRecipe()
    return recipe, find_sources(options.inputs, recipe.source.prefixes, images=recipe.source.kind == "subject")


def _check_apart(path: str, folder: Path) -> None:
    """Refuse an output inside an input folder, or the reverse: the next run would take its own clips for videos."""
    if is_remote(path):
        return
    source, output = Path(path).resolve(), folder.resolve()
    if source.is_dir() and output.is_relative_to(source):
        problem = f"{str(folder)!r} is in the input {path!r}, so its clips would become inputs of the next run"
        raise StorageError("OUT", problem, "choose a folder outside of the inputs")
    if source.is_relative_to(output):
        raise StorageError("OUT", f"{str(folder)!r} contains the input {path!r}", "choose another folder")


def refilter(folder: Path, recipe: BuildRecipe | None, progress: Progress, note: Note) -> Finished:
    """Apply thresholds, copies, references and splits again to stored scores; no video is decoded.

    Raises:
        HuMoError: the folder holds no dataset, or the recipe has other stages.
    """
    with open_folder(folder, recipe, create=False) as used, closing(Journal(folder)) as journal:
        sources, missing = read_sources(folder)
        return finish(folder, Catalog(sources, journal, used), missing, sources, None, progress, note)


def open_pool(options: Options, recipe: BuildRecipe) -> Pool:
    """Return the workers of a run."""
    limits = recipe.limits.as_limits()
    if options.ray is not None:
        from humo.data.ray_pool import RayPool

        return RayPool(options.ray, options.workers, limits, options.folder)
    return LocalPool(options.workers or os.cpu_count() or 1, limits)


@dataclass(slots=True)
class _Run:
    """The stages of one run."""

    options: Options
    recipe: BuildRecipe
    journal: Journal
    progress: Progress
    note: Note
    _done: int = field(default=0, init=False)

    def inventory(self, inputs: Inputs, pool: Pool) -> list[tuple[Source, str]]:
        """Inspect all sources; return them with the keys of their results."""
        keys = {path: _inventory_key(path) for path in sorted({source.path for source in inputs.sources})}
        tasks = [
            Task("inventory", key, path, {"path": path}, _size_and_time(path)[0] * SECONDS_PER_BYTE)
            for path, key in keys.items()
        ]
        self._run("inventory", tasks, pool, len(tasks))
        sources = [(source, keys[source.path]) for source in inputs.sources]
        write_sources(self.options.folder, sources, inputs.missing)
        return sources

    def scan(self, catalog: Catalog, pool: Pool) -> None:
        """Find shots and faces in all parts of all sources, the longest parts first."""
        shots = self.recipe.shots.model_dump(mode="json")
        tasks = []
        for _, known in catalog.used_sources():
            for unit, key in catalog.units(known):
                place: Values = {"path": known.source.path, "origin": known.origin, "crop": known.crop, "shots": shots}
                payload = {**place, "first": unit.first, "count": unit.count}
                item = f"{known.source.path} from {unit.first / 25:.0f} s on"
                tasks.append(Task("scan", key, item, payload, unit.count * SCAN_SECONDS_PER_FRAME))
        tasks.sort(key=lambda task: (-task.seconds, task.key))
        self._run("scan", tasks, pool, len(tasks))

    def score(self, catalog: Catalog, pool: Pool) -> None:
        """Score all clips that the scan did not rule out."""
        planned = [not each.reasons for each in catalog.candidates()]
        self.note_share("scan", sum(planned), len(planned), "clips")
        self._run("score", self._score_tasks(catalog), pool, sum(planned))
        passing = sum(not catalog.clip_reasons(each) for each in catalog.candidates())
        self.note_share("score", passing, sum(planned), "clips")

    def note_share(self, stage: str, kept: int, total: int, units: str) -> None:
        """Note how many sources or clips a stage leaves."""
        share = f" ({kept / total:.0%})" if total else ""
        self.note(f"{stage}: {kept} of {total} {units} kept{share}")

    def _score_tasks(self, catalog: Catalog) -> Iterator[Task]:
        """Yield a task for each clip without scores, and for each that passes and has no file."""
        tables = self.recipe.stage_settings()
        for each in catalog.candidates():
            if each.reasons:
                continue
            known, clip = catalog.sources[each.source], each.clip
            payload = {
                "path": known.source.path, "origin": known.origin, "crop": known.crop, "first": clip.first,
                "count": clip.count, "id": clip.name, "kind": self.recipe.source.kind, "sync": tables["sync"],
                "video": tables["video"], "thresholds": catalog.thresholds_of(each.source),
                "folder": str(self.options.folder.absolute()),
            }  # fmt: skip
            item = f"{known.source.path} from {clip.first / 25:.2f} s on"
            seconds = clip.count * SCORE_SECONDS_PER_FRAME + SCORE_SECONDS
            unwritten = not catalog.clip_reasons(each) and not clip_file(self.options.folder, clip.name).is_file()
            yield Task("score", clip.name, item, payload | {"again": unwritten}, seconds)

    def references(self, catalog: Catalog, pool: Pool) -> None:
        """Describe portraits, and cut out the references that manifests name."""
        folder = str(self.options.folder.absolute())
        portraits = [
            Task("portrait", key, str(path), {"path": str(path), "folder": folder, "id": key}, SCORE_SECONDS)
            for path, key in portrait_keys(self.recipe)
        ]
        if portraits:
            self._run("portrait", portraits, pool, len(portraits))
        if self.recipe.source.kind == "subject":
            cut_outs = [*self._reference_tasks(catalog, folder)]
            self._run("reference", cut_outs, pool, len(cut_outs))

    def _reference_tasks(self, catalog: Catalog, folder: str) -> Iterator[Task]:
        for each in catalog.candidates():
            source = catalog.sources[each.source].source
            if source.references and not catalog.clip_reasons(each):
                payload = {"id": each.clip.name, "folder": folder, "references": list(source.references)}
                yield Task("reference", each.clip.name, source.path, payload, SCORE_SECONDS * len(source.references))

    def endpoint(self) -> Endpoint | None:
        """Return the endpoint for captions."""
        if self.options.captions is None:
            return None
        return Endpoint(*self.options.captions, self.recipe.captions)

    def needed_bytes(self, catalog: Catalog) -> int:
        """Return an estimate of what the dataset takes if every second of the sources is kept."""
        seconds = sum(known.seconds for _, known in catalog.used_sources())
        clips = seconds * 25 / self.recipe.shots.min_frames
        scale = (self.recipe.video.lines / 480) ** 2
        return SPARE_BYTES + round(scale * (seconds * BYTES_PER_CLIP_SECOND + clips * BYTES_PER_CLIP))

    def _run(self, stage: str, tasks: Iterable[Task], pool: Pool, total: int) -> None:
        """Run the tasks of a stage that have no result yet."""
        self._done = 0
        self.progress(stage, 0, total)
        run_tasks(self._unfinished(stage, tasks, total), pool, self._keep(stage, total), self.recipe.limits.as_limits())
        self.progress(stage, total, total)

    def _unfinished(self, stage: str, tasks: Iterable[Task], total: int) -> Iterator[Task]:
        for task in tasks:
            line = self.journal.get(stage, task.key)
            retried = self.options.retry and line is not None and "fault" in line
            if line is None or retried or task.payload.get("again"):
                yield task
            else:
                self._done += 1

    def _keep(self, stage: str, total: int) -> Callable[[Task, Outcome], None]:
        def keep(task: Task, outcome: Outcome) -> None:
            values: Values = {"item": task.item, "cpu_seconds": outcome.cpu_seconds}
            if outcome.ending == "done":
                values["result"] = outcome.result
            else:
                fault = {"ending": outcome.ending, "reason": outcome.reason, "tries": outcome.tries}
                values["fault"] = fault | {"last_words": outcome.last_words}
                self.note(f"{stage}: {task.item} is left out: {outcome.reason}")
            self.journal.add(stage, task.key, values)
            self._done += 1
            if self._done < total:
                self.progress(stage, self._done, total)

        return keep


def _size_and_time(path: str) -> tuple[int, Any]:
    """Return the size of a source and what changes with its contents; zeros where the inventory will say why."""
    try:
        if is_remote(path):
            return remote_info(path)
        state = os.stat(path)
    except (MediaError, OSError):
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _inventory_key(path: str) -> str:
    return checksum("inventory", STAGE_VERSIONS["inventory"], path, *_size_and_time(path))


def _check_space(folder: Path, needed: int, note: Note | None = None) -> None:
    """Refuse to begin on a full disk; with ``note``, say so if the disk may become full."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return
    problem = f"{str(folder)!r} has {free / 1e6:.0f} MB free"
    if note is not None:
        note(f"{problem}; if everything is kept, the dataset takes about {needed / 1e6:.0f} MB")
        return
    remedy = "free disk space, or choose another disk"
    raise StorageError("OUT", f"{problem}, and at least {needed / 1e6:.0f} MB are needed", remedy)
