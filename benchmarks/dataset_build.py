"""Measure ``humo data build`` on videos with known contents, and print a table: promise, bound, measured.

    python -m benchmarks.dataset_build                    # 1,000 rendered clips; hours on two cores
    python -m benchmarks.dataset_build --clips 60         # a quick look
    python -m benchmarks.dataset_build --only cuts,sync   # some promises; the rest of the work is kept in FOLDER

The clips are rendered, joined into videos with known cuts, dissolves, shifted and wrong audio, noise, text, copies,
damage, variable frame rates, turned frames and two audio tracks, and built. Each part of the work is done once and kept
in FOLDER. Times are CPU times, so that other programs on the machine change little.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from humo.data.appearance import unpack
from humo.data.build_recipe import ReferenceConfig
from humo.data.report import COSTS
from tests.data.caption_endpoint import VOCABULARY, fail_every_tenth, serve
from tests.data.raw_set import Matched, compose, match, read_truth
from tests.data.raw_videos import ShotLibrary

ROOT = Path(__file__).resolve().parents[1]

RECIPE = """
[shots]
min_frames = 77
[video]
lines = 160
[thresholds]
min_lines = 96
[captions]
text = "A person who does not exist talks to the camera in front of a plain background, from the shoulders up."
"""

RENDERED = {"size": 160, "frames": 109, "supersample": 1, "closeup": 0.8, "articulation": 1.5, "silent-fraction": 0.05}
"""Options of the rendered clips."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table.

    Args:
        promise: what is promised.
        bound: the number that it has to reach.
        measured: the number that it reached.
        holds: whether it does; None where there is nothing to compare.
    """

    promise: str
    bound: str
    measured: str
    holds: bool | None


class Work:
    """Folders and results of the benchmark.

    Args:
        folder: where everything is kept.
        clips: number of rendered clips.
        workers: processes.
        kills: runs that are killed at a random moment.
    """

    def __init__(self, folder: Path, clips: int, workers: int, kills: int = 20) -> None:
        self.folder, self.clips, self.workers, self.kills = folder, clips, workers, kills
        self.videos, self.truth, self.out = folder / "videos", folder / "truth.json", folder / "out"
        self.recipe = folder / "build.toml"

    def prepare(self) -> None:
        """Render and join the clips, where that is not done yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(RECIPE)
        shots = self.folder / "shots"
        options = [f"--{name}={value}" for name, value in RENDERED.items()]
        identities = f"--identities={max(12, self.clips // 6)}"
        self.humo("data", "render", str(shots), f"--clips={self.clips}", "--seed=5", identities, *options)
        if not self.truth.exists():
            shutil.rmtree(self.videos, ignore_errors=True)
            compose(ShotLibrary(shots), self.videos)

    def humo(self, *arguments: str, check: bool = True) -> float:
        """Run a command; return its CPU seconds with all its children."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "humo", *arguments, "--quiet"], check=check, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def build(self, out: Path, *more: str, videos: Path | None = None) -> float:
        """Build a dataset; return the CPU seconds."""
        arguments = ["data", "build", str(videos or self.videos), str(out), "--recipe", str(self.recipe)]
        return self.humo(*arguments, *(more or ("--workers", str(self.workers))))

    def built(self) -> Path:
        """Return the finished dataset; the CPU seconds of its build are kept beside it."""
        if not (self.out / "report.json").exists():
            seconds = self.build(self.out)
            (self.folder / "seconds.json").write_text(json.dumps(seconds))
        return self.out

    def rows(self, name: str = "scores.parquet") -> list[dict[str, Any]]:
        """Return a table of the finished dataset."""
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(self.built() / name).to_pylist()
        return rows

    def matched(self) -> list[Matched]:
        """Return the clips of the dataset with the shots that they are from, without short ones."""
        return [each for each in match(self.rows(), self.truth) if each.row["reason"] != "short-shot"]


def checksums(folder: Path) -> dict[str, str]:
    """Return the checksums of all published files, except for CPU times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "work" not in path.parts)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != COSTS
    }


def share(part: int, whole: int) -> str:
    """Return a fraction as counts and percent."""
    return f"{part} of {whole} ({part / whole:.2%})" if whole else "none"


def measure_cuts(work: Work) -> Iterator[Line]:
    """Yield whether every cut and dissolve was found, and no clip holds one."""
    truths = {truth["name"]: truth for truth in read_truth(work.truth) if not truth["broken"]}
    scans = _scans(work)
    cuts = dissolves = cuts_found = dissolves_found = 0
    for name, truth in truths.items():
        edges = scans.get(name, [])
        for before, after in zip(truth["shots"], truth["shots"][1:], strict=False):
            hits = any(before["end"] - 3 <= edge <= after["start"] + 3 for edge in edges)
            if after["transition"]:
                dissolves, dissolves_found = dissolves + 1, dissolves_found + hits
            else:
                cuts, cuts_found = cuts + 1, cuts_found + hits
    yield Line("hard cuts found", "all", share(cuts_found, cuts), cuts_found == cuts)
    yield Line("dissolves found", "all", share(dissolves_found, dissolves), dissolves_found == dissolves)
    matched = work.matched()
    inside = sum(each.inside for each in matched)
    yield Line("clips without a cut in them", "all", share(inside, len(matched)), inside == len(matched))


def _scans(work: Work) -> dict[str, list[int]]:
    """Return the frames at which each video was cut."""
    edges: dict[str, list[int]] = {}
    for line in (work.built() / "work" / "journal.jsonl").read_text().splitlines():
        values = json.loads(line)
        if values["stage"] == "scan" and "result" in values:
            name = Path(values["item"].rpartition(" from ")[0]).name
            result = values["result"]
            edges.setdefault(name, []).extend([*result["cuts"], *(e for span in result["transitions"] for e in span)])
    return edges


def measure_sync(work: Work) -> Iterator[Line]:
    """Yield how well shifted, right and wrong audio were distinguished."""
    speaking = [each for each in work.matched() if each.inside and each.row["sync"] is not None]
    shifted = [each for each in speaking if each.shot.shift and not each.shot.fault]
    near = sum(abs(each.row["offset"] + each.shot.shift) <= 1 for each in shifted)
    yield Line("shifted clips within one frame", "all", share(near, len(shifted)), near == len(shifted))
    rejected = {"out-of-sync", "offset"}
    wrong = [each for each in speaking if each.shot.fault == "voice-over"]
    caught = sum(bool(rejected.intersection(each.row["reasons"])) for each in wrong)
    yield Line("wrong audio rejected", "99 %", share(caught, len(wrong)), caught >= 0.99 * len(wrong))
    right = [each for each in speaking if each.shot.fault == ""]
    kept = sum(not rejected.intersection(each.row["reasons"]) for each in right)
    yield Line("right audio kept", "97 %", share(kept, len(right)), kept >= 0.97 * len(right))


def measure_quality(work: Work) -> Iterator[Line]:
    """Yield how the other faults were found."""
    matched = [each for each in work.matched() if each.inside]
    for fault, reason in (("text", "text"), ("two", "several-faces"), ("still", "static"), ("silent", "silent")):
        faulty = [each for each in matched if each.shot.fault == fault]
        hits = sum(reason in each.row["reasons"] for each in faulty)
        others = [each for each in matched if each.shot.fault != fault]
        false = sum(reason in each.row["reasons"] for each in others)
        yield Line(f"{fault}: rejected", "95 %", share(hits, len(faulty)), hits >= 0.95 * len(faulty))
        yield Line(f"{fault}: others rejected so", "1 %", share(false, len(others)), false <= 0.01 * len(others))
    rated = [each for each in matched if each.row["background_quality"] is not None]
    noise = [each.row["background_quality"] for each in rated if each.shot.fault == "noise"]
    clean = [each.row["background_quality"] for each in rated if not each.shot.fault]
    if noise and clean:
        text = f"{np.median(noise):.2f}, {np.median(clean):.2f} without"
        yield Line("DNSMOS background with noise of 0 to 10 dB", "", text, None)
    copied = {each.shot.copy_of for each in matched if each.shot.copy_of}
    involved = [each for each in matched if each.shot.clip in copied]
    passing = [each for each in involved if each.row["reason"] in ("", "copy", "no-partner", "waits-for-caption")]
    pairs = {each.shot.clip for each in passing if sum(other.shot.clip == each.shot.clip for other in passing) > 1}
    marked = {each.shot.clip for each in passing if each.row["reason"] == "copy"}
    text = share(len(marked & pairs), len(pairs))
    yield Line("copies found, of clips that pass otherwise", "all", text, marked >= pairs)
    false = sum(each.row["reason"] == "copy" and each.shot.clip not in copied for each in matched)
    yield Line("clips taken for copies that are none", "none", str(false), not false)


def measure_identity(work: Work) -> Iterator[Line]:
    """Yield precision and recall of pairs of one person at the recipe's distance, and whether shots differ."""
    people = {each.row["id"]: each.shot.person for each in work.matched() if each.inside and each.shot.fault != "two"}
    vectors: dict[str, Any] = {}
    for line in (work.built() / "work" / "journal.jsonl").read_text().splitlines():
        values = json.loads(line)
        if values["stage"] == "score" and values["key"] in people and "result" in values:
            packed = values["result"]["scores"]["embedding"]
            if packed:
                vectors[values["key"]] = unpack(packed, np.float16).astype(np.float32)
    names = sorted(vectors)
    matrix = np.stack([vectors[name] for name in names])
    same = np.equal.outer([people[name] for name in names], [people[name] for name in names])
    distances = np.linalg.norm(matrix[:, None] - matrix[None], axis=-1)
    upper = np.triu(np.ones_like(same), 1).astype(bool)
    for bound in (0.30, 0.35, 0.40):
        accepted = (distances <= bound) & upper
        precision = (accepted & same).sum() / max(1, accepted.sum())
        recall = (accepted & same).sum() / max(1, (same & upper).sum())
        text = f"precision {precision:.4f}, recall {recall:.4f} ({int(accepted.sum())} pairs)"
        is_default = bound == ReferenceConfig().max_distance
        holds = bool(precision >= 0.998 and recall >= 0.99) if is_default else None
        yield Line(f"all pairs of clips at distance {bound}", "precision .998 at recall .99", text, holds)
    rows = {row["id"]: row for row in work.rows()}
    shots = {each.row["id"]: (Path(each.row["source"]).name, each.shot.start) for each in work.matched()}
    pairs = [pair for pair in work.rows("pairs.parquet") if pair["reference"] in rows]
    true = sum(people.get(pair["id"]) == people.get(pair["reference"]) for pair in pairs)
    yield Line("references of the same person", "99.8 %", share(true, len(pairs)), true >= 0.998 * len(pairs))
    apart = sum(shots[pair["id"]] != shots[pair["reference"]] for pair in pairs)
    yield Line("references from another shot", "all", share(apart, len(pairs)), apart == len(pairs))


def measure_broken(work: Work) -> Iterator[Line]:
    """Yield whether all broken files are quarantined and no good one is; sources must not have changed."""
    truths = read_truth(work.truth)
    broken = {truth["name"] for truth in truths if truth["broken"]}
    rows = work.rows("quarantine.parquet")
    named = {Path(row["item"].rpartition(" from ")[0] or row["item"]).name for row in rows if row["reason"]}
    yield Line("broken files in quarantine", "all", share(len(broken & named), len(broken)), broken <= named)
    yield Line("good files in quarantine", "none", str(len(named - broken)), not named - broken)
    sums = {Path(row["source"]).name: row["sha256"] for row in work.rows("sources.parquet")}
    changed = [
        path.name
        for path in work.videos.iterdir()
        if path.name in sums and hashlib.sha256(path.read_bytes()).hexdigest() != sums[path.name]
    ]
    yield Line("sources changed", "none", str(len(changed)), not changed)


def measure_throughput(work: Work) -> Iterator[Line]:
    """Yield what the build costs beyond its stages, and the scan beyond decoding and detection."""
    out = work.built()
    costs = json.loads((out / COSTS).read_text())
    total = json.loads((work.folder / "seconds.json").read_text())
    stages = costs["inventory"] + costs["scan"] + sum(each for name, each in costs.items() if name.startswith("score"))
    text = f"{stages / total:.1%} ({total:.0f} CPU s, {stages:.0f} of them in stages)"
    yield Line("share of CPU time that is spent in stages", "90 %", text, stages >= 0.9 * total)
    bare, frames = _bare_seconds(work)
    scan = (costs["inventory"] + costs["scan"]) * frames / _scanned_frames(work)
    text = f"{bare / scan:.1%} ({bare / frames * 1000:.2f} of {scan / frames * 1000:.2f} ms a frame)"
    yield Line("inventory to faces, against bare decoding and detection", "85 %", text, bare >= 0.85 * scan)


def _scanned_frames(work: Work) -> int:
    return sum(round(row["seconds"] * 25) for row in work.rows("sources.parquet"))


def _bare_seconds(work: Work, count: int = 8) -> tuple[float, int]:
    """Return the CPU seconds of decoding some videos and detecting faces in every fifth frame, and their frames."""
    from fractions import Fraction

    from humo.analysis.face_boxes import FaceBoxes
    from humo.media.audio import open_media
    from humo.media.clip_reader import Grid, Span

    detector, frames = FaceBoxes(), 0
    detector.detect(np.zeros((64, 64, 3), np.uint8))
    good = [truth["name"] for truth in read_truth(work.truth) if not truth["broken"]]
    start = time.process_time()
    for name in good[-count:]:
        with open_media(work.videos / name, "source") as container:
            for decoded, repeats in Grid(Span(Fraction(0))).frames(container):
                if frames % 5 == 0:
                    detector.detect(np.asarray(decoded.to_ndarray(format="rgb24"), np.uint8))
                frames += repeats
    return time.process_time() - start, frames


def measure_kills(work: Work) -> Iterator[Line]:
    """Yield what runs lose that are killed at random moments, workers and parents in turn."""
    out = work.folder / "killed"
    shutil.rmtree(out, ignore_errors=True)
    arguments = ["data", "build", str(work.videos), str(out), "--recipe", str(work.recipe), "--quiet"]
    command = [sys.executable, "-m", "humo", *arguments, "--workers", str(work.workers)]
    draw = random.Random(0)
    kills = 0
    units = len((work.built() / "work" / "journal.jsonl").read_text().splitlines())
    run = subprocess.Popen(command, cwd=ROOT)
    while kills < work.kills:
        wanted = _lines(out) + draw.randint(1, max(1, 2 * units // (3 * work.kills)))
        while run.poll() is None and _lines(out) < wanted:
            time.sleep(0.05)
        if run.poll() is not None:
            break
        children = [*_children(run.pid)]
        victim = run.pid if kills % 2 == 0 or not children else draw.choice(children)
        os.kill(victim, signal.SIGKILL)
        kills += 1
        if victim == run.pid:
            run.wait()
            run = subprocess.Popen(command, cwd=ROOT)
    if run.wait():
        raise SystemExit(f"the run after {kills} kills ended with code {run.returncode}")
    lines = [json.loads(line) for line in (out / "work" / "journal.jsonl").read_text().splitlines()]
    keys = [(line["stage"], line["key"]) for line in lines]
    twice = len(keys) - len(set(keys))
    yield Line(f"units recorded twice after {kills} kills", "none", str(twice), not twice)
    equal = checksums(out) == checksums(work.built())
    yield Line("outputs after the kills", "byte-identical", "equal" if equal else "differ", equal)


def _lines(out: Path) -> int:
    path = out / "work" / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _children(process: int) -> Iterator[int]:
    import psutil

    for child in psutil.Process(process).children():
        yield child.pid


def measure_repetition(work: Work) -> Iterator[Line]:
    """Yield whether a second run, other workers and Ray give the same bytes."""
    before, journal = checksums(work.built()), _lines(work.out)
    work.build(work.out)
    same = checksums(work.out) == before and _lines(work.out) == journal
    yield Line("a second run: units done again, files changed", "none", "none" if same else "some", same)
    runs: dict[str, tuple[str, ...]] = {"1 worker": ("--workers", "1"), "2 workers": ("--workers", "2")}
    runs["Ray on this machine"] = ("--ray", "local", "--workers", "2")
    for name, options in runs.items():
        out = work.folder / name.replace(" ", "-")
        work.build(out, *options)
        equal = checksums(out) == before
        yield Line(f"outputs with {name}", "byte-identical", "equal" if equal else "differ", equal)


def measure_growth(work: Work) -> Iterator[Line]:
    """Yield how time and the parent's memory grow from one set to four copies of it with other checksums."""
    results = []
    for factor in (1, 4):
        videos = work.folder / f"growth-{factor}"
        if not videos.exists():
            _multiply(work.videos, videos, factor)
        out = work.folder / f"grown-{factor}"
        shutil.rmtree(out, ignore_errors=True)
        seconds, peak = _measured_build(work, videos, out)
        clips = pyarrow.parquet.read_metadata(out / "scores.parquet").num_rows
        results.append((seconds, peak, clips))
    (one, low, few), (four, high, many) = results
    yield Line("CPU time, four times the clips", "x 4.0 +- 0.3", f"x {four / one:.2f}", abs(four / one - 4) <= 0.3)
    growth = (high - low) / 2**20 / max(1, many - few) * 1000
    yield Line("the parent's memory, for 1,000 clips more", "1 MB", f"{growth:.2f} MB ({many} clips)", growth <= 1)


def _multiply(source: Path, target: Path, factor: int) -> None:
    """Write each video several times; bytes that players ignore give each one another checksum."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        for number in range(factor):
            extra = (8 + 8).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big") if path.suffix == ".mp4" else b""
            if path.suffix == ".mp4" or number == 0:
                (target / f"{path.stem}-{number}{path.suffix}").write_bytes(path.read_bytes() + extra)


def _measured_build(work: Work, videos: Path, out: Path) -> tuple[float, int]:
    """Return CPU seconds of a build, and the peak of its parent's memory in bytes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["data", "build", str(videos), str(out), "--recipe", str(work.recipe), "--quiet"]
    code = (
        "import resource, sys; from humo.cli.main import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *arguments, "--workers", str(work.workers)]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, int(printed.split()[-1])


def measure_trainer(work: Work) -> Iterator[Line]:
    """Yield whether the trainer reads the dataset: the check, a published recipe, and ten steps of the small one."""
    from humo.checkpoints.model_folder import BUILTIN_MODEL
    from humo.training.config import DataConfig
    from humo.training.dataset import scan_corpus

    captioned = work.folder / "failing"  # where every clip has a caption of its own
    if not captioned.exists():
        list(measure_captions(work))
    check = subprocess.run([sys.executable, "-m", "humo", "data", "check", str(captioned)], cwd=ROOT, check=False)
    yield Line("humo data check", "clean", "clean" if check.returncode == 0 else "problems", check.returncode == 0)
    corpus = scan_corpus(DataConfig(folder=str(work.out), resolutions=((832, 480), (480, 832))))
    yield Line("clips that the trainer refuses", "none", str(len(corpus.bad)), not corpus.bad)
    run = work.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    parts = ("vae", "text_encoder", "tokenizer", "audio_encoder", "feature_extractor")
    settings = [f"data.folder={work.out}", f"output={run}", "data.max_clips=8"]
    settings += [f"stages.{number}.steps=5" for number in range(2)]
    settings += [f"model.{part}={BUILTIN_MODEL / part}" for part in parts]
    command = [sys.executable, "-m", "humo", "train", "recipes/nano.toml", *settings, "--quiet"]
    done = subprocess.run(command, cwd=ROOT, check=False)
    yield Line("ten steps of training", "run", "ran" if done.returncode == 0 else "failed", done.returncode == 0)


def measure_captions(work: Work) -> Iterator[Line]:
    """Yield whether all clips get a caption from an endpoint that fails, and whether one that repeats is stopped."""
    text = RECIPE[: RECIPE.index("[captions]")] + "[captions]\ntimeout_seconds = 1\n"
    recipe = work.folder / "captions.toml"
    recipe.write_text(text)
    for name, reply in (("failing", fail_every_tenth), ("repeating", lambda handler, _: handler.answer(VOCABULARY))):
        out = work.folder / name
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(work.built(), out)
        work.humo("data", "refilter", str(out), "--recipe", str(recipe))
        with serve(reply) as (url, requests):
            work.humo(
                "data", "build", str(work.videos), str(out), "--captions", url, "--caption-model", "m", check=False
            )
        if name == "failing":
            done, wanted = (json.loads((each / "report.json").read_text())["accepted"] for each in (out, work.out))
            text = f"{share(done, wanted)}, {len(requests)} calls"
            yield Line("clips captioned, 10 % of the calls failing", "all", text, done == wanted)
        else:
            yield Line("calls until a repeated caption is noticed", "100", str(len(requests)), len(requests) <= 100)


def measure_poison(work: Work) -> Iterator[Line]:
    """Yield whether items that crash, hang and use up memory are left out after two tries, and others are not."""
    videos, out, recipe = (work.folder / name for name in ("poison", "poisoned", "poison.toml"))
    for folder in (videos, out):
        shutil.rmtree(folder, ignore_errors=True)
    videos.mkdir()
    good = [Path(row["source"]) for row in work.rows("sources.parquet")][:3]
    for path in good:
        shutil.copy(path, videos / path.name)
    poisons = ("crash", "hang", "hog")
    for name in poisons:
        shutil.copy(good[0], videos / f"{name}{good[0].suffix}")
    limits = "[limits]\nbase_seconds = 3\nmemory_gb = 1\n"
    recipe.write_text(f"[thresholds]\nmin_lines = 5000\n{limits}")
    code = (
        "import sys; from humo.cli.main import main; from humo.data.child_process import ChildProcess;"
        "ChildProcess.command = (sys.executable, '-m', 'tests.data.faulty_process'); sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["data", "build", str(videos), str(out), "--recipe", str(recipe), "--quiet"]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True)
    rows = pyarrow.parquet.read_table(out / "quarantine.parquet").to_pylist()
    tries = {Path(row["item"]).stem: row["tries"] for row in rows}
    text = ", ".join(f"{name} {tries.get(name)}" for name in poisons)
    yield Line("tries of an item that crashes, hangs, uses up memory", "2", text, tries == dict.fromkeys(poisons, 2))
    others = pyarrow.parquet.read_metadata(out / "sources.parquet").num_rows
    yield Line("other items, of three", "all", str(others), others == len(good))


MEASURES: dict[str, Callable[[Work], Iterator[Line]]] = {
    "cuts": measure_cuts,
    "sync": measure_sync,
    "quality": measure_quality,
    "identity": measure_identity,
    "broken": measure_broken,
    "throughput": measure_throughput,
    "kills": measure_kills,
    "repetition": measure_repetition,
    "growth": measure_growth,
    "captions": measure_captions,
    "poison": measure_poison,
    "trainer": measure_trainer,
}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return 1 if a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("output/dataset-build"), help="where everything is kept")
    parser.add_argument("--clips", type=int, default=1000, help="rendered clips (default 1000)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--kills", type=int, default=20, help="runs that are killed (default 20)")
    parser.add_argument("--only", default=",".join(MEASURES), help="promises, separated by commas")
    options = parser.parse_args(argv)
    work = Work(options.folder.absolute(), options.clips, options.workers, options.kills)
    work.prepare()
    lines = []
    for name in options.only.split(","):
        for line in MEASURES[name](work):
            mark = {True: "yes", False: "NO", None: ""}[line.holds]
            print(f"| {line.promise} | {line.bound} | {line.measured} | {mark} |", flush=True)
            lines.append(line)
    return 0 if all(line.holds is not False for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
