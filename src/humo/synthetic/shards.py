"""Render shards of short takes of many people, from which the built-in model learns faces before it learns clips.

Preparing a person (hair, shadows) takes far longer than rendering one frame, so each preparation gives several takes:
runs of one or more frames of a speech. Each person has two appearances, and each is the reference image of the other.

    shards.json                  the configuration; all shards of a folder have the same one
    speeches.safetensors         the speeches that all people share, with the motion of a face for each
    shard-NNNNN.safetensors      `ShardConfig.people_per_shard` people, see `ShardFolder.render_shard`

Shards are written atomically, so that training can read the folder while it grows. Several processes divide the
shards by number and need no communication.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from humo.errors import CheckpointError, DependencyError, HuMoError, StorageError
from humo.files import atomic_write, os_error_text
from humo.geometry import SAMPLES_PER_FRAME
from humo.media.face_identity import EMBEDDING_SIZE, FaceIdentity
from humo.synthetic import make_clip
from humo.synthetic.captions import compose_captions
from humo.synthetic.clip_plan import ClipPlan, CorpusConfig, Split, clip_split, plan_clip, split_identities
from humo.synthetic.corpus import check_packages, start_worker
from humo.synthetic.person.appearance import Appearance
from humo.synthetic.person.identity import Person
from humo.synthetic.person.mouth_curve import mouth_curve
from humo.synthetic.render.render import render_clip
from humo.synthetic.speech.face_track import FaceTrack
from humo.synthetic.speech.synthesis import Engine, find_voice
from humo.synthetic.speech.visemes import animate_face

LOOKS = 2
"""Appearances of each person; each is the reference of the other."""

SPEECH_FRAMES = 41
"""Frames of each speech of the bank."""

CONFIG, SPEECHES, SHARDS = "shards.json", "speeches.safetensors", "shard-*.safetensors"

LOWEST_PRIORITY = 19
POLL_SECONDS = 0.5
"""Time between two checks of the files that the processes have written."""

_META = "humo"  # entry of a file's header with the values as JSON
_INT16 = 32767

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """Everything that determines the shards of a folder, except their number.

    Args:
        seed: seed of all random choices.
        sizes: (width, height) of the shards in turn; a size that is listed twice is used twice as often.
        takes: takes of each appearance.
        take_frames: frames of each take, 4k + 1.
        double_every: every Nth shard is rendered at twice its size, for a decoder that outputs more pixels than were
            encoded; 0 for none.
        speeches: number of speeches in the bank.
        split: split of people and voices, ``train`` or ``test``.
        people: number of identities.
        people_per_shard: number of people of a shard.
        closeness: as `CorpusConfig.closeup`.
        engines, articulation, supersample: as in `CorpusConfig`.
    """

    seed: int = 0
    sizes: tuple[tuple[int, int], ...] = ((96, 96),)
    takes: int = 8
    take_frames: int = 1
    double_every: int = 0
    speeches: int = 600
    split: Split = "train"
    people: int = 24_000
    people_per_shard: int = 64
    engines: tuple[Engine, ...] = ("espeak", "hibari")
    closeness: float = 0.0
    articulation: float = 1.0
    supersample: int = 2

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ShardConfig:
        """Create a configuration from fields by name, as JSON stores them."""
        sizes = tuple((int(width), int(height)) for width, height in values["sizes"])
        return cls(**{**values, "sizes": sizes, "engines": tuple(values["engines"])})

    def corpus(self, purpose: int = 0) -> CorpusConfig:
        """Return the corpus whose clip plans determine people and speeches; each purpose has another corpus."""
        return CorpusConfig(
            seed=2 * self.seed + purpose,
            frames=SPEECH_FRAMES,
            silent_fraction=0.0,
            identities=self.people,
            engines=self.engines,
            closeup=self.closeness,
            articulation=self.articulation,
        )

    def size(self, shard: int) -> tuple[int, int]:
        """Return the nominal width and height of a shard's images."""
        return self.sizes[shard % len(self.sizes)]

    def is_double(self, shard: int) -> bool:
        """Return whether a shard is rendered at twice its nominal size."""
        return self.double_every > 0 and shard % self.double_every == self.double_every - 1


@dataclass(frozen=True, slots=True, eq=False)
class Speeches:
    """A bank of S speeches of `SPEECH_FRAMES` frames.

    Args:
        audio: (S, samples) int16 at 16 kHz.
        units, head, gaze: (S, F, ...), as in a `FaceTrack`.
        values: ``gender``, ``mood``, ``voice`` and ``text`` of each speech.
    """

    audio: NDArray[np.int16]
    units: NDArray[np.float32]
    head: NDArray[np.float32]
    gaze: NDArray[np.float32]
    values: list[dict[str, str]]

    def draw(self, gender: str, random: np.random.Generator) -> int:
        """Draw the number of a speech with a voice of the given gender."""
        fitting = [number for number, one in enumerate(self.values) if one["gender"] == gender]
        return fitting[int(random.integers(len(fitting)))]

    def track(self, number: int, frames: NDArray[np.int64]) -> FaceTrack:
        """Return the motion of a face in some frames of a speech."""
        return FaceTrack(self.units[number, frames], self.head[number, frames], self.gaze[number, frames])


class ShardFolder:
    """A folder that shards are written to.

    Args:
        folder: created if it does not exist.
        config: configuration of the shards.

    Raises:
        StorageError: the folder holds shards of another configuration, or is not writable.
    """

    def __init__(self, folder: Path, config: ShardConfig) -> None:
        self.folder, self.config = folder, config
        path, expected = folder / CONFIG, asdict(config)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.is_file():
                with atomic_write(path, "FOLDER") as part:
                    part.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
            stored = asdict(read_config(folder))
        except OSError as error:
            raise StorageError(
                "FOLDER", f"{str(folder)!r} cannot be used ({os_error_text(error)})", "use another folder"
            ) from error
        if changed := [name for name in expected if stored[name] != expected[name]]:
            problem = f"{str(folder)!r} holds shards of another configuration ({', '.join(changed)})"
            raise StorageError("FOLDER", problem, "use a new folder")
        self._indices: list[int] = []

    @cached_property
    def speeches(self) -> Speeches:
        """Return the bank of speeches; the first process that needs it writes it."""
        path = self.folder / SPEECHES
        if not path.is_file():
            write_arrays(path, *render_speeches(self.config))
        return read_speeches(path)

    @cached_property
    def _identity(self) -> FaceIdentity:
        return FaceIdentity()

    def path(self, shard: int) -> Path:
        """Return the path of a shard."""
        return self.folder / SHARDS.replace("*", f"{shard:05}")

    def render(self, shard: int, progress: Callable[[], None] = lambda: None) -> Path:
        """Render one shard and write it.

        Args:
            shard: number of the shard.
            progress: called after each person.
        """
        path = self.path(shard)
        write_arrays(path, *self.render_shard(shard, progress))
        return path

    def render_shard(self, shard: int, progress: Callable[[], None]) -> tuple[Arrays, dict[str, Any]]:
        """Render the arrays and values of a shard: N takes of T frames, P people in a frame (always 1), G appearances.

            frames      (N, T, H, W, 3) uint8; H and W are twice ``size`` in double shards
            face        (N, P, T, H, ceil(W / 8)) uint8: masks packed along the last axis
            mouth       (N, P, T, 3) float32: jaw, closure, pucker
            look        (N, P) int32: number of the appearance; 2 k and 2 k + 1 belong to person k of the shard
            start       (N,) int32: first frame in the speech of the appearance
            speech      (G,) int32: number in the bank of speeches
            reference   (G, H, W, 3) uint8: the appearance with the face at rest
            identity    (G / 2, 128) float32: face embedding of the first reference; NaN where no face was detected

        The values are ``size``, and for each appearance ``person``, ``captions`` (the second one is anonymous) and
        ``attributes``.
        """
        config, people = self.config, []
        each = config.people_per_shard
        for person in range(shard * each, (shard + 1) * each):
            people.append(self._render_person(self._plan(person), config.size(shard), config.is_double(shard)))
            progress()
        appearances = [appearance for one in people for appearance in one]
        takes = len(appearances) * config.takes
        arrays = {
            name: np.concatenate([arrays[name] for arrays, _ in appearances])
            for name in ("frames", "face", "mouth", "start", "speech", "reference")
        }
        arrays["look"] = np.repeat(np.arange(len(appearances), dtype=np.int32), config.takes).reshape(takes, 1)
        arrays["identity"] = np.stack([self._embed(first["reference"][0]) for (first, _), *_ in people])
        return arrays, {"size": config.size(shard), "looks": [values for _, values in appearances]}

    def _plan(self, number: int) -> ClipPlan:
        """Plan the person of a number: every identity of the split once, then each in another appearance, and so on."""
        corpus = self.config.corpus()
        index = self._indices[-1] + 1 if self._indices else 0
        while len(self._indices) <= number:
            if clip_split(corpus.seed, index) == self.config.split:
                self._indices.append(index)
            index += 1
        identities = split_identities(corpus, self.config.split)
        return plan_clip(corpus, self._indices[number], identities[number % len(identities)])

    def _render_person(
        self, plan: ClipPlan, size: tuple[int, int], is_double: bool
    ) -> list[tuple[Arrays, dict[str, Any]]]:
        """Render each appearance of a person."""
        person = Person.from_seed(plan.person_seed)
        random = np.random.default_rng((plan.track_seed, 0x7A4E))
        seeds = (plan.appearance_seed, plan.reference_seed)
        appearances = [Appearance.from_seed(person, seed).closer(self.config.closeness) for seed in seeds]
        return [self._render_appearance(person, one, plan, random, size, is_double) for one in appearances]

    def _render_appearance(
        self,
        person: Person,
        appearance: Appearance,
        plan: ClipPlan,
        random: np.random.Generator,
        size: tuple[int, int],
        is_double: bool,
    ) -> tuple[Arrays, dict[str, Any]]:
        config = self.config
        number = self.speeches.draw(person.sex, random)
        starts = np.sort(random.permutation(SPEECH_FRAMES - config.take_frames + 1)[: config.takes])
        frames = (starts[:, None] + np.arange(config.take_frames)).ravel()
        moving, reference = self.speeches.track(number, frames), make_clip.reference_track(appearance.seed)
        track = FaceTrack(
            *(np.concatenate([getattr(moving, name), getattr(reference, name)]) for name in ("units", "head", "gaze"))
        )
        rendered = (2 * size[0], 2 * size[1]) if is_double else size
        images, masks = render_clip(person, appearance, track, rendered, config.supersample)
        shape = (len(starts), config.take_frames)
        speech = self.speeches.values[number]
        attributes = {**person.attributes, **appearance.attributes, "mood": speech["mood"], "speech": "talking"}
        captions = compose_captions(attributes, int(random.integers(2**31)))
        packed = np.packbits(masks[:-1], axis=-1)
        return {
            "frames": images[:-1].reshape(*shape, *images.shape[1:]),
            "face": packed.reshape(len(starts), 1, config.take_frames, *packed.shape[1:]),
            "mouth": mouth_curve(person, moving).astype(np.float32).reshape(len(starts), 1, config.take_frames, 3),
            "start": starts.astype(np.int32),
            "speech": np.asarray([number], np.int32),
            "reference": images[-1:],
        }, {
            "person": plan.person,
            "attributes": {name.replace(" ", "_"): value for name, value in attributes.items()},
            "captions": [captions.caption, captions.anonymous, *captions.paraphrases],
        }  # fmt: skip

    def _embed(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embedding of a face; NaN if no face is detected or the face detector is not installed."""
        try:
            embedding = self._identity.embed(image)
        except DependencyError:
            embedding = None
        return np.full(EMBEDDING_SIZE, np.nan, np.float32) if embedding is None else embedding.astype(np.float32)


def render_shards(
    folder: Path,
    config: ShardConfig,
    *,
    shards: int | None = None,
    worker: int = 0,
    workers: int = 1,
    keep: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Path]:
    """Render the missing shards of a folder, and yield the path of each one written.

    Args:
        folder: folder of shards.
        config: configuration of the shards.
        shards: number of shards in the folder at the end; None continues without end.
        worker, workers: this process renders the shards whose number modulo ``workers`` is ``worker``.
        keep: number of this process's newest shards that are kept; older ones are deleted, and numbers continue from
            the last. None keeps all.
        progress: called with the finished people and all people of the current shard.

    Raises:
        DependencyError: a package is missing.
        StorageError: the folder is not writable.
    """
    target = ShardFolder(folder, config)
    number = worker
    if keep is not None:
        existing = [shard for shard in shard_numbers(folder) if shard % workers == worker]
        number = max(existing, default=worker - workers) + workers
    while shards is None or number < shards:
        if not target.path(number).is_file():
            done = 0

            def count() -> None:
                nonlocal done
                done += 1
                progress(done, config.people_per_shard)

            yield target.render(number, count)
        if keep is not None:
            own = [shard for shard in shard_numbers(folder) if shard % workers == worker]
            for shard in own[:-keep]:
                target.path(shard).unlink(missing_ok=True)
        number += workers


@contextmanager
def rendering_processes(
    folder: Path, config: ShardConfig, workers: int, *, shards: int | None = None, keep: int | None = None
) -> Iterator[list[SpawnProcess]]:
    """Run processes that fill a folder while the block runs; at its end they are stopped.

    The processes have the lowest priority and one thread each. Unfinished shards leave no files.

    Args:
        folder, config, shards, keep: as for `render_shards`.
        workers: number of processes.

    Yields:
        The processes. A process that fails prints its error and exits with a code other than 0.
    """
    context = multiprocessing.get_context("spawn")
    lifeline, parent_end = context.Pipe(duplex=False)
    started: list[SpawnProcess] = []
    try:
        for worker in range(workers):
            task = (lifeline, folder, config, worker, workers, shards, keep)
            started.append(context.Process(target=_render_process, args=task, daemon=True))
            started[-1].start()
        yield started
    finally:
        parent_end.close()
        for process in started:
            process.join()
        for unfinished in folder.glob(".*.part"):
            unfinished.unlink(missing_ok=True)


def _render_process(
    lifeline: Connection,
    folder: Path,
    config: ShardConfig,
    worker: int,
    workers: int,
    shards: int | None,
    keep: int | None,
) -> None:
    start_worker(lifeline)
    os.nice(LOWEST_PRIORITY)
    try:
        for _ in render_shards(folder, config, shards=shards, worker=worker, workers=workers, keep=keep):
            pass
    except HuMoError as error:
        print(f"humo: rendering: {error}", file=sys.stderr)
        sys.exit(1)


def write_shards(
    folder: Path,
    config: ShardConfig,
    *,
    shards: int,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Render the first shards of a configuration; existing shards are kept.

    Args:
        folder: created if it does not exist.
        config: configuration of the shards.
        shards: number of shards in the folder at the end.
        workers: number of processes with one thread each; 1 renders in this process.
        progress: called with the number of existing shards and of all shards.

    Returns:
        Number of shards that were rendered.

    Raises:
        DependencyError: a package is missing.
        StorageError: the folder is not writable, or a process failed.
    """
    check_packages()
    target = ShardFolder(folder, config)

    def count() -> int:
        return sum(target.path(number).is_file() for number in range(shards))

    before = count()
    progress(before, shards)
    if workers == 1 or shards - before < 2:
        for _ in render_shards(folder, config, shards=shards):
            progress(count(), shards)
        return shards - before
    _ = target.speeches  # once, rather than by every process
    with rendering_processes(folder, config, workers, shards=shards) as processes:
        while any(process.is_alive() for process in processes):
            time.sleep(POLL_SECONDS)
            progress(count(), shards)
    if count() < shards:
        raise StorageError("--workers", "a worker process failed or was killed", "read its error above and run again")
    return shards - before


def shard_numbers(folder: Path) -> list[int]:
    """Return the numbers of the existing shards, in order."""
    return sorted(int(path.stem.partition("-")[2]) for path in folder.glob(SHARDS))


def render_speeches(config: ShardConfig) -> tuple[Arrays, dict[str, Any]]:
    """Render the bank of speeches of a configuration: arrays and values as in `Speeches`."""
    corpus, index = config.corpus(purpose=1), 0
    audio: list[NDArray[np.int16]] = []
    tracks: list[FaceTrack] = []
    values: list[dict[str, str]] = []
    while len(values) < config.speeches:
        if clip_split(corpus.seed, index) == config.split:
            plan = plan_clip(corpus, index)
            samples, phonemes = make_clip.speak_clip(plan, SPEECH_FRAMES)
            tracks.append(
                animate_face(
                    phonemes,
                    samples,
                    SPEECH_FRAMES,
                    plan.track_seed,
                    mood=plan.mood,
                    articulation=config.articulation,
                    calm=config.closeness,
                )
            )
            audio.append(np.rint(np.clip(samples, -1, 1) * _INT16).astype(np.int16))
            gender = find_voice(plan.voice).gender
            values.append({"gender": gender, "mood": plan.mood, "voice": plan.voice, "text": plan.text})
        index += 1
    assert audio[0].shape == (SPEECH_FRAMES * SAMPLES_PER_FRAME,)
    arrays = {name: np.stack([getattr(one, name) for one in tracks]) for name in ("units", "head", "gaze")}
    return {"audio": np.stack(audio), **arrays}, {"speeches": values}


def read_speeches(path: Path) -> Speeches:
    """Read a bank of speeches.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    with open_arrays(path) as file:
        values = json.loads(file.metadata()[_META])["speeches"]
        audio, units, head, gaze = (file.get_tensor(name) for name in ("audio", "units", "head", "gaze"))
        return Speeches(audio, units, head, gaze, values)


def read_config(folder: Path) -> ShardConfig:
    """Read the configuration of a folder of shards.

    Raises:
        StorageError: the folder holds no shards.
    """
    try:
        return ShardConfig.from_dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            "FOLDER", f"{str(folder)!r} holds no shards ({os_error_text(error)})", "use another folder"
        ) from error


def open_arrays(path: Path, framework: str = "numpy") -> Any:
    """Open a file of arrays without reading them.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return safe_open(path, framework)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            str(path), f"cannot be read ({os_error_text(error)})", "delete it and run again"
        ) from error


def read_values(file: Any) -> dict[str, Any]:
    """Return the values in the header of an open file of arrays."""
    values: dict[str, Any] = json.loads((file.metadata() or {}).get(_META, "{}"))
    return values


def write_arrays(path: Path, arrays: Arrays, values: dict[str, Any]) -> None:
    """Write arrays, and JSON values beside them, atomically.

    Raises:
        StorageError: the disk is full or not writable.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_write(path, "FOLDER") as part:
        try:
            save_file(whole, part, metadata={_META: json.dumps(values)})
            with part.open("rb") as file:
                os.fsync(file.fileno())
        except (OSError, SafetensorError) as error:
            problem = f"{str(path)!r} cannot be written ({os_error_text(error)})"
            raise StorageError("FOLDER", problem, "free some space or choose another disk") from error
