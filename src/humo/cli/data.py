"""``humo data``: a folder of rendered talking people to train on and to measure with, or of words about such."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from humo.cli.options import Parser, parse_integer, parse_number
from humo.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.synthetic.shards import ShardConfig

SUMMARY = "make a folder of clips to train on: rendered people that never lived"

KINDS = {
    "render": "render people that never lived",
    "captions": "write what would be said of them, and render nothing; for a text encoder",
}
"""What there is to make, by the word after ``humo data``."""

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that keep each process to one thread."""


def add_options(parser: Parser) -> None:
    """The options of ``humo data``."""
    parser.usage = "humo data {render,captions} FOLDER --clips N [--seed S] [options]"
    parser.add_argument(
        "kind", metavar="{render,captions}", help="; ".join(f"{name}: {does}" for name, does in KINDS.items())
    )
    parser.add_argument("folder", metavar="FOLDER", help="where it goes; a run that was stopped goes on from there")
    parser.add_argument("--clips", required=True, metavar="N", help="how many shall be there in the end (1 to 1000000)")
    parser.add_argument("--seed", default="0", metavar="S", help="decides everything (default 0)")
    parser.add_argument("--size", default="96", metavar="N", help="pixels of width and height, even (default 96)")
    parser.add_argument("--frames", metavar="N", help="of a clip, 25 a second, 4k + 1 (default 41; of a take 1)")
    parser.add_argument(
        "--frames-per-look",
        metavar="N",
        help="write shards of takes in place of clips: so many of every person in either of two looks, since setting a "
        "person up costs more than drawing one; --clips then counts people",
    )
    parser.add_argument("--sizes", metavar="WxH,...", help="of shards in turn, in place of --size: 96x128,96x96")
    parser.add_argument("--people-per-shard", default="64", metavar="N", help="in each file of shards (default 64)")
    parser.add_argument("--speeches", default="600", metavar="N", help="that the people of shards share (default 600)")
    parser.add_argument("--double-every", default="0", metavar="N", help="every Nth shard at twice its size (0: none)")
    parser.add_argument("--split", default="all", metavar="WORD", help="train, test, test-seen or all (default all)")
    parser.add_argument("--silent-fraction", default="0.2", metavar="X", help="of clips without sound (default 0.2)")
    parser.add_argument(
        "--identities", default="2400", metavar="N", help="identities, a sixth for tests (default 2400)"
    )
    parser.add_argument("--closeup", default="0", metavar="X", help="framing tighter and poses more frontal (0 to 1)")
    parser.add_argument("--articulation", default="1", metavar="X", help="how wide mouths move (0.5 to 2, default 1)")
    parser.add_argument("--supersample", default="2", metavar="N", help="samples a pixel and axis (default 2)")
    parser.add_argument("--workers", metavar="N", help="processes of one thread each (default: one a core)")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Make the corpus, with a progress bar.

    Returns:
        the exit code.
    """
    if options.kind not in KINDS:
        raise RequestError("data", f"{options.kind!r} is not known", did_you_mean(options.kind, KINDS))
    if rest:
        raise RequestError(rest[0], "is not an option of humo data", "see humo data --help")
    cores = os.cpu_count() or 1
    clips = parse_integer("--clips", options.clips, 1, 1_000_000)
    seed = parse_integer("--seed", options.seed, 0, 2**63 - 1)
    size = parse_integer("--size", options.size, 32, 1024)
    takes = (
        None if options.frames_per_look is None else parse_integer("--frames-per-look", options.frames_per_look, 1, 41)
    )
    frames = parse_integer(
        "--frames", options.frames or ("41" if takes is None else "1"), 1, 1001 if takes is None else 41
    )
    people = parse_integer("--identities", options.identities, 6, 1_000_000)
    supersample = parse_integer("--supersample", options.supersample, 1, 4)
    workers = cores if options.workers is None else parse_integer("--workers", options.workers, 1, 256)
    silent_share = parse_number("--silent-fraction", options.silent_fraction, 0, 1)
    closeness = parse_number("--closeup", options.closeup, 0, 1)
    articulation = parse_number("--articulation", options.articulation, 0.5, 2)
    if size % 2:
        raise RequestError("--size", f"{size} is odd, and the video's pixels come in pairs", f"give {size + 1}")
    if frames % 4 != 1:
        near = frames - (frames - 1) % 4
        raise RequestError("--frames", f"{frames} is not 4k + 1", f"give {near} or {near + 4}")

    for name in ONE_THREAD:  # read by the libraries of this process and of those it starts
        os.environ[name] = "1"
    from humo.synthetic.clip_plan import SPLITS, Recipe
    from humo.synthetic.corpus import check_packages, write_corpus, write_words
    from humo.synthetic.speech.synthesis import installed_voices

    if options.split not in (*SPLITS, "all"):
        raise RequestError("--split", f"{options.split!r} is not known", did_you_mean(options.split, (*SPLITS, "all")))
    check_packages()
    there = {voice.engine for voice in installed_voices()}
    engines = tuple(engine for engine in Recipe().engines if engine in there)
    if "hibari" not in engines:
        console.note(
            "hibari-tts is not installed: espeak-ng alone speaks; pip install 'humo-video[synthetic]' for both"
        )
    if takes is not None:
        from humo.synthetic.shards import ShardConfig

        if options.kind == "words":
            raise RequestError("--frames-per-look", "is for rendered people", "leave it out")
        config = ShardConfig(
            seed=seed,
            sizes=_sizes(options.sizes) if options.sizes else ((size, size),),
            takes=takes,
            take_frames=frames,
            double_every=parse_integer("--double-every", options.double_every, 0, 1_000_000),
            speeches=parse_integer("--speeches", options.speeches, 20, 100_000),
            split="train" if options.split == "all" else options.split,
            people=people,
            engines=engines,
            closeness=closeness,
            articulation=articulation,
            supersample=supersample,
        )
        return _write_shards(Path(options.folder), config, clips, workers, console)
    recipe = Recipe(seed, size, frames, silent_share, supersample, people, engines, closeness, articulation)
    folder = Path(options.folder)

    def progress(done: int, total: int) -> None:
        console.step("clips", done, total)

    if options.kind == "captions":
        report = write_words(folder, recipe, clips=clips, progress=progress)
    else:
        split = None if options.split == "all" else options.split
        report = write_corpus(folder, recipe, clips=clips, split=split, workers=workers, progress=progress)
    splits = ", ".join(f"{count} {name}" for name, count in sorted(report.splits.items()))
    text = f"{report.folder}: {report.made} clips made, {report.were_there} were there; in all {splits}"
    values = {"folder": str(report.folder), "made": report.made, "were_there": report.were_there}
    console.result(text, {**values, "splits": report.splits})
    return 0


def _sizes(words: str) -> tuple[tuple[int, int], ...]:
    """Widths and heights, as ``96x128,96x96``."""
    sizes = []
    for word in words.split(","):
        width, _, height = word.partition("x")
        sizes.append((parse_integer("--sizes", width, 32, 1024), parse_integer("--sizes", height, 32, 1024)))
    return tuple(sizes)


def _write_shards(folder: Path, config: ShardConfig, people: int, workers: int, console: Quiet) -> int:
    """Render shards of takes, with a progress bar."""
    from humo.synthetic.shards import write_shards

    each = config.people_per_shard
    shards = -(-people // each)
    made = write_shards(
        folder,
        config,
        shards=shards,
        workers=workers,
        progress=lambda done, total: console.step("shards", done, total),
    )
    text = f"{folder}: {made} shards rendered, {shards - made} were there; {shards * each} people in all"
    console.result(text, {"folder": str(folder), "made": made, "were_there": shards - made})
    return 0
