"""``humo data``: datasets from raw videos, and rendered people to train on and to measure with."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from humo.cli import data_build
from humo.cli.exit_codes import DONE
from humo.cli.options import Parser, parse_integer, parse_number
from humo.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.synthetic.speech.synthesis import Engine

SUMMARY = "build a dataset from videos, or render talking people to train on"

KINDS = {
    "build": "build a dataset from videos, folders, lists or manifests; an interrupted run resumes",
    "refilter": "apply other thresholds to the stored scores of a dataset, without decoding",
    "check": "check a dataset: files, tables, captions, copies, splits",
    "render": "render clips of people who do not exist, with audio, captions and ground truth",
    "captions": "write the captions and attributes of such clips without rendering them, for a text encoder",
}
"""Kinds of data, by the argument after ``humo data``."""

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that keep each process to one thread."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """Checked options; see `add_options` for each."""

    clips: int
    seed: int
    size: int
    frames: int
    takes: int | None
    identities: int
    supersample: int
    workers: int
    silent_fraction: float
    closeup: float
    articulation: float


def add_options(parser: Parser) -> None:
    """Add the options of ``humo data``."""
    parser.usage = (
        "humo data build INPUT... OUT [options] | refilter OUT | check FOLDER | {render,captions} FOLDER --clips N"
    )
    kinds = "; ".join(f"{name}: {text}" for name, text in KINDS.items())
    parser.add_argument("kind", metavar="{build,refilter,check,render,captions}", help=kinds)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="build: inputs, then the output; others: one folder")
    data_build.add_options(parser)
    _add_render_options(parser)
    text = "processes of one thread each (default: one per core); build --ray: workers in the cluster"
    parser.add_argument("--workers", metavar="N", help=text)


def _add_render_options(parser: Parser) -> None:
    """Add the options of ``render`` and ``captions``."""
    group = parser.add_argument_group("render, captions")
    group.add_argument("--clips", metavar="N", help="number of clips in the end (1 to 1000000)")
    group.add_argument("--seed", default="0", metavar="S", help="seed of everything (default 0)")
    group.add_argument("--size", default="96", metavar="N", help="width and height in pixels, even (default 96)")
    group.add_argument("--frames", metavar="N", help="frames per clip, 25 a second, 4k + 1 (default 41; of a take 1)")
    text = "write shards of takes instead of clips, with N takes of each person in either of two looks; "
    text += "--clips then counts people. Setting a person up costs more than drawing one"
    group.add_argument("--frames-per-look", metavar="N", help=text)
    group.add_argument("--sizes", metavar="WxH,...", help="sizes of shards in turn, instead of --size: 96x128,96x96")
    group.add_argument("--people-per-shard", default="64", metavar="N", help="people in each shard (default 64)")
    group.add_argument("--speeches", default="600", metavar="N", help="speeches that shards share (default 600)")
    group.add_argument("--double-every", default="0", metavar="N", help="every Nth shard at twice its size (0: none)")
    group.add_argument("--split", default="all", metavar="SPLIT", help="train, test, test-seen or all (default all)")
    text = "fraction of clips without audio (default 0.2)"
    group.add_argument("--silent-fraction", default="0.2", metavar="X", help=text)
    text = "number of identities; a sixth is held out for the test split (default 2400)"
    group.add_argument("--identities", default="2400", metavar="N", help=text)
    text = "tighter framing and more frontal poses, 0 to 1 (default 0)"
    group.add_argument("--closeup", default="0", metavar="X", help=text)
    text = "amplitude of mouth movement, 0.5 to 2 (default 1)"
    group.add_argument("--articulation", default="1", metavar="X", help=text)
    group.add_argument("--supersample", default="2", metavar="N", help="samples per pixel and axis (default 2)")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo data``.

    Returns:
        the exit code.
    """
    if options.kind not in KINDS:
        raise RequestError("data", f"{options.kind!r} is unknown", did_you_mean(options.kind, KINDS))
    options.paths += rest  # paths after options
    if options.kind in data_build.ACTIONS:
        return data_build.ACTIONS[options.kind](options, console)
    folder = data_build.one_path(options)
    if options.clips is None:
        raise RequestError("--clips", "is missing", f"humo data {options.kind} {folder} --clips 100")
    settings = _parse(options)
    for name in ONE_THREAD:  # read by the libraries of this process and of those it starts
        os.environ[name] = "1"
    from humo.synthetic.clip_plan import SPLITS
    from humo.synthetic.corpus import check_packages

    if options.split not in (*SPLITS, "all"):
        raise RequestError("--split", f"{options.split!r} is unknown", did_you_mean(options.split, (*SPLITS, "all")))
    check_packages()
    if settings.takes is not None:
        return _write_shards(options, settings, console)
    return _write_clips(options, settings, console)


def _parse(options: argparse.Namespace) -> _Settings:
    """Check the numbers among the options."""
    takes = options.frames_per_look and parse_integer("--frames-per-look", options.frames_per_look, 1, 41)
    default_frames, max_frames = ("41", 1001) if takes is None else ("1", 41)
    settings = _Settings(
        clips=parse_integer("--clips", options.clips, 1, 1_000_000),
        seed=parse_integer("--seed", options.seed, 0, 2**63 - 1),
        size=parse_integer("--size", options.size, 32, 1024),
        takes=takes,
        frames=parse_integer("--frames", options.frames or default_frames, 1, max_frames),
        identities=parse_integer("--identities", options.identities, 6, 1_000_000),
        supersample=parse_integer("--supersample", options.supersample, 1, 4),
        workers=parse_integer("--workers", options.workers or str(os.cpu_count() or 1), 1, 256),
        silent_fraction=parse_number("--silent-fraction", options.silent_fraction, 0, 1),
        closeup=parse_number("--closeup", options.closeup, 0, 1),
        articulation=parse_number("--articulation", options.articulation, 0.5, 2),
    )
    size, frames = settings.size, settings.frames
    if size % 2:
        raise RequestError("--size", f"{size} is odd, but H.264 needs an even size", f"give {size + 1}")
    if frames % 4 != 1:
        below = frames - (frames - 1) % 4
        raise RequestError("--frames", f"{frames} is not 4k + 1", f"give {below} or {below + 4}")
    return settings


def _installed_engines(console: Quiet) -> tuple[Engine, ...]:
    """Return the installed speech synthesizers, and note if the better one is missing."""
    from humo.synthetic.clip_plan import CorpusConfig
    from humo.synthetic.speech.synthesis import installed_voices

    installed = {voice.engine for voice in installed_voices()}
    if "hibari" not in installed:
        console.note(
            "hibari-tts is not installed, so espeak-ng speaks all clips; pip install 'humo-video[synthetic]' for both"
        )
    return tuple(engine for engine in CorpusConfig().engines if engine in installed)


def _write_clips(options: argparse.Namespace, settings: _Settings, console: Quiet) -> int:
    """Write clips, or their captions alone, and report them."""
    from humo.synthetic.clip_plan import CorpusConfig
    from humo.synthetic.corpus import write_captions, write_corpus

    config = CorpusConfig(
        settings.seed,
        settings.size,
        settings.frames,
        settings.silent_fraction,
        settings.supersample,
        settings.identities,
        _installed_engines(console),
        settings.closeup,
        settings.articulation,
    )
    folder = data_build.one_path(options)

    def progress(done: int, total: int) -> None:
        console.step("clips", done, total)

    if options.kind == "captions":
        report = write_captions(folder, config, clips=settings.clips, progress=progress)
    else:
        split = None if options.split == "all" else options.split
        report = write_corpus(
            folder, config, clips=settings.clips, split=split, workers=settings.workers, progress=progress
        )
    splits = ", ".join(f"{count} {name}" for name, count in sorted(report.splits.items()))
    text = f"{report.folder}: {report.written} clips written, {report.existed} existed; in total {splits}"
    values = {"folder": str(report.folder), "written": report.written, "existed": report.existed}
    console.result(text, {**values, "splits": report.splits})
    return DONE


def _write_shards(options: argparse.Namespace, settings: _Settings, console: Quiet) -> int:
    """Render shards of takes and report them."""
    from humo.synthetic.shards import ShardConfig, write_shards

    if options.kind == "captions":
        raise RequestError("--frames-per-look", "applies to rendered people only", "drop it, or use humo data render")
    assert settings.takes is not None
    config = ShardConfig(
        seed=settings.seed,
        sizes=_parse_sizes(options.sizes) if options.sizes else ((settings.size, settings.size),),
        takes=settings.takes,
        take_frames=settings.frames,
        double_every=parse_integer("--double-every", options.double_every, 0, 1_000_000),
        people_per_shard=parse_integer("--people-per-shard", options.people_per_shard, 1, 10_000),
        speeches=parse_integer("--speeches", options.speeches, 20, 100_000),
        split="train" if options.split == "all" else options.split,
        people=settings.identities,
        engines=_installed_engines(console),
        closeness=settings.closeup,
        articulation=settings.articulation,
        supersample=settings.supersample,
    )
    folder, shards = data_build.one_path(options), -(-settings.clips // config.people_per_shard)
    written = write_shards(
        folder,
        config,
        shards=shards,
        workers=settings.workers,
        progress=lambda done, total: console.step("shards", done, total),
    )
    existed, people = shards - written, shards * config.people_per_shard
    text = f"{folder}: {written} shards written, {existed} existed; in total {people} people"
    console.result(text, {"folder": str(folder), "written": written, "existed": existed})
    return DONE


def _parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Parse widths and heights like ``96x128,96x96``."""
    sizes = []
    for size in text.split(","):
        width, _, height = size.partition("x")
        sizes.append((parse_integer("--sizes", width, 32, 1024), parse_integer("--sizes", height, 32, 1024)))
    return tuple(sizes)
