"""One request from its fields to a finished video: the same steps for the command line, a batch, a server.

    plan = prepare(build_request(fields))          cheap: every input is looked at, nothing is loaded
    result = run(plan, engine=Engine())            load, encode, denoise, decode, write

No torch until `run`.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.errors import DependencyError, MediaError, RequestError
from humo.geometry import FRAMES_PER_SECOND, frames_of_samples
from humo.jobs.engine import Engine
from humo.jobs.replay import make_record
from humo.media.provenance import content_digest, watermark_payload
from humo.presets import Preset
from humo.progress import Event, ProgressCallback, never_stop, no_progress
from humo.request import GenerateRequest, GenerationPlan, parse_request, resolve

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from humo.inference.long_video import WindowCache
    from humo.inference.window_cache import DiskWindowCache
    from humo.media.audio import AudioTrack

    Frame = npt.NDArray[np.uint8]

AUDIO_LENGTH = -1  # frames: the published word for the whole sound
VIDEO_SUFFIX = ".mp4"
LENGTH_FIELDS = {"frames", "seconds"}
"""Two words for one thing: whichever is nearer to the user outdoes the other."""


@dataclass(frozen=True, slots=True)
class Result:
    """A finished video.

    Args:
        path: the file.
        frames, seconds: its length.
        width, height: pixels.
        bytes: its size.
        seed: what it was made from.
        timings: seconds spent in each phase.
    """

    path: Path
    frames: int
    seconds: float
    width: int
    height: int
    bytes: int
    seed: int
    timings: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        return {**asdict(self), "path": str(self.path)}


def merge_fields(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request, those of ``above`` in place of those of ``below``."""
    kept = {
        name: value for name, value in below.items() if not (name in LENGTH_FIELDS and LENGTH_FIELDS & above.keys())
    }
    return {**kept, **above}


def build_request(fields: Mapping[str, Any]) -> GenerateRequest:
    """A checked request from plain fields, ``frames: -1`` (as long as the sound) measured.

    Raises:
        RequestError: a field at fault.
        MediaError: the sound whose length is asked for cannot be read.
    """
    if str(fields.get("frames", "")).strip() != str(AUDIO_LENGTH):
        return parse_request(fields)
    request = parse_request({**fields, "frames": None})
    if request.audio is None:
        raise RequestError("frames", "-1 means as long as the sound, and there is no sound", "give audio")
    return request.model_copy(update={"frames": max(1, frames_of_samples(_samples(request.audio)))})


def prepare_job(request: GenerateRequest) -> GenerationPlan:
    """Look at everything a request names, and settle what it leaves open, before anything costs time.

    Raises:
        HuMoError: the first thing that would keep the video from being made.
    """
    preset = preset_of(request)
    mode = request.mode or "TIA"
    images = request.images if "I" in mode else ()
    audio = request.audio if "A" in mode else None
    for path in images:
        _check_image(path)
    plan = resolve(request, preset, None if audio is None else _samples(audio))
    if plan.request.vocal_separator is not None:
        _check_separator(plan.request.vocal_separator)
    _check_output(plan)
    return plan


def preset_of(request: GenerateRequest) -> Preset:
    """The family of the model folder a request names.

    Raises:
        CheckpointError: it is not a model folder.
    """
    from humo.checkpoints.model_folder import find_model_folder, open_model_folder

    return open_model_folder(find_model_folder(request.model)).preset


def generate(
    plan: GenerationPlan,
    *,
    engine: Engine,
    listener: ProgressCallback = no_progress,
    keep_paths: bool = True,
    is_enough: Callable[[], bool] = never_stop,
    windows: Path | None = None,
    preview: bool = False,
) -> Result:
    """Make the video of a plan.

    Args:
        plan: from `prepare`.
        engine: keeps the model between runs.
        listener: told of the progress of each phase.
        keep_paths: the record tells where its files lie, not only their names.
        is_enough: asked after each step; once it is, the video is what it has come to by then.
        windows: folder for the finished windows of a long clip, from which a run that was stopped goes on; by default
            beside the video (`window_folder`), and gone when that is there.
        preview: beside the video (`preview_path`), too, while it is made.

    Raises:
        HuMoError: an input, the weights, the device or the output is at fault; nothing half-written is left, but for
            the finished windows of a long clip.
    """
    from humo.environment import identity_folder
    from humo.media.credentials import open_identity, sign_video
    from humo.media.provenance import to_metadata, write_sidecar
    from humo.media.video import write_video
    from humo.media.watermark import embed_watermark
    from humo.runtime.device import gc_paused

    with gc_paused():  # torch comes with it
        from humo.inference.window_cache import DiskWindowCache
    request, geometry = plan.request, plan.geometry
    assert request.seed is not None
    watch = PhaseTimer(listener)
    identity = open_identity(identity_folder()) if request.provenance else None
    settled = engine.resolve_runtime(plan)
    record = make_record(settled, keep_paths=keep_paths)
    output = Path(request.output)
    made_from = f"{content_digest(record)} {settled.request.device} {settled.request.dtype}"
    shelf = DiskWindowCache(windows or window_folder(output), made_from)
    frames, track = _start(settled, engine, watch, is_enough, shelf)
    # the first frame is there before the file is opened: no unfinished file lies about while the model works
    frames = chain([next(frames)], frames)
    if identity is not None:
        frames = embed_watermark(frames, watermark_payload(record))

    def seal(part: Path) -> None:
        if identity is not None:
            statement = {"model": record.model, "preset": record.preset, "watermark": watermark_payload(record)}
            sign_video(part, identity, output.name, statement, version=record.code_version)

    written = write_video(
        output,
        watch.counted(frames, geometry.frames),
        width=geometry.width,
        height=geometry.height,
        frames_per_second=FRAMES_PER_SECOND,
        track=track,
        metadata=to_metadata(replace(record, timings=watch.timings)),
        seal=seal,
        preview=preview_path(output) if preview else None,
    )
    shelf.clear()
    if request.sidecar:
        write_sidecar(output.with_suffix(".json"), replace(record, timings=watch.timings))
    return Result(
        path=output,
        frames=written,
        seconds=written / FRAMES_PER_SECOND,
        width=geometry.width,
        height=geometry.height,
        bytes=output.stat().st_size,
        seed=request.seed,
        timings=watch.timings,
    )


def generate_as_worker_rank(plan: GenerationPlan, *, engine: Engine) -> None:
    """Do this rank's part of a video that the first rank writes.

    Args:
        plan, engine: as in `run`; the engine has a crew.
    """
    frames, _ = _start(engine.resolve_runtime(plan), engine, PhaseTimer(no_progress), never_stop, None)
    for _ in frames:
        pass


def _start(
    plan: GenerationPlan,
    engine: Engine,
    watch: PhaseTimer,
    is_enough: Callable[[], bool],
    shelf: DiskWindowCache | None,
) -> tuple[Iterator[Frame], AudioTrack | None]:
    """The frames of a settled plan as they are made, and the sound of the video."""
    from humo.checkpoints.model_folder import find_model_folder
    from humo.inference.long_video import NO_WINDOW_CACHE

    request = plan.request
    images, sound, track = load_inputs(plan)
    pipeline = engine.pipeline(
        find_model_folder(request.model), request.device, request.dtype, request.placement, watch
    )
    kept: WindowCache = NO_WINDOW_CACHE if shelf is None else shelf
    if engine.crew is not None:
        engine.crew.configure(pipeline, plan)
        kept = engine.crew.window_cache(kept)
    return pipeline.generate_frames(
        plan, images=images, sound=sound, listener=watch, is_enough=is_enough, shelf=kept
    ), track


def window_folder(output: Path) -> Path:
    """The folder beside a video that keeps finished windows while it is made."""
    return output.with_name(f".{output.name}.windows")


def preview_path(output: Path) -> Path:
    """The video beside a video that shows what is finished of it."""
    return output.with_name(f"{output.stem}.preview{output.suffix}")


class PhaseTimer:
    """Passes events on, and counts the seconds that each phase takes.

    The time before an event belongs to the event's phase: of frames that are decoded and written in turns, each
    phase gets its own share.
    """

    def __init__(self, listener: ProgressCallback) -> None:
        self._listener = listener
        self._spent: dict[str, float] = {}
        self._last = time.perf_counter()

    @property
    def timings(self) -> dict[str, float]:
        """Seconds spent in each phase so far."""
        return {phase: round(seconds, 3) for phase, seconds in self._spent.items()}

    def __call__(self, event: Event) -> None:
        """Take the time, then tell the listener."""
        self._take(event)
        self._listener(event)

    def counted(self, frames: Iterable[Frame], total: int) -> Iterator[Frame]:
        """The frames, with an event of the phase ``write`` after each second of them."""
        self(Event("write", 0, total))
        for done, frame in enumerate(frames, 1):
            yield frame
            event = Event("write", done, total)
            self._take(event)
            if done % FRAMES_PER_SECOND == 0 or done == total:
                self._listener(event)

    def _take(self, event: Event) -> None:
        now = time.perf_counter()
        if event.done > 0:
            self._spent[event.phase] = self._spent.get(event.phase, 0.0) + now - self._last
        self._last = now


def load_inputs(plan: GenerationPlan) -> tuple[list[Image], npt.NDArray[np.float32] | None, AudioTrack | None]:
    """The images, the audio that the model follows (separated from music if asked), and the audio of the video."""
    from humo.media.audio import load_audio, load_audio_track
    from humo.media.image import load_image

    request = plan.request
    images = [load_image(path, field="images") for path in request.images]
    if request.audio is None:
        return images, None, None
    track = load_audio_track(request.audio, seconds=plan.geometry.seconds)
    if request.vocal_separator is None:
        return images, load_audio(request.audio, field="audio"), track
    return images, _voice(request.audio, request.vocal_separator), track


def _check_output(plan: GenerationPlan) -> None:
    from humo.media.video import check_writable, estimate_video_bytes

    request, geometry = plan.request, plan.geometry
    output = Path(request.output)
    inputs = [*request.images, request.audio, request.vocal_separator]
    if any(path and output.exists() and output.samefile(path) for path in inputs):
        raise RequestError("output", f"{request.output!r} is one of the inputs", "name another file")
    needed = estimate_video_bytes(geometry.width, geometry.height, geometry.frames)
    check_writable(output, bytes_needed=needed, field="output")
    if request.sidecar:
        _check_sidecar(output.with_suffix(".json"))


def _check_sidecar(path: Path) -> None:
    """A record may take the place of a record, and of nothing else."""
    from humo.media.provenance import read_record

    if path.exists():
        try:
            read_record(path)
        except MediaError as error:
            problem = f"{str(path)!r} is there and is not the record of a video"
            raise RequestError("sidecar", problem, "move it, or name the video otherwise") from error


def _check_image(path: str) -> None:
    from humo.media.image import load_image

    load_image(path, field="images")


def _samples(path: str) -> int:
    """Length of a sound file in samples at 16 kHz."""
    from humo.media.audio import probe_audio

    return probe_audio(path, field="audio").num_samples


def _check_separator(path: str) -> None:
    from humo.files import check_file

    check_file(Path(path), "vocal_separator")
    if importlib.util.find_spec("onnxruntime") is None:
        raise DependencyError(
            "vocal_separator", "needs onnxruntime, and it is not installed", "pip install humo-video[vocals]"
        )


def _voice(audio: str, separator: str) -> npt.NDArray[np.float32]:
    """The voice in a sound file, mono at 16 kHz."""
    from humo.conditioning.vocal_separation import VocalSeparator
    from humo.media.audio import load_audio, load_audio_track, probe_audio

    track = load_audio_track(audio, seconds=probe_audio(audio).seconds)
    voice = VocalSeparator(separator).separate(track.samples, track.sample_rate)
    return load_audio((voice, track.sample_rate), field="audio")
