"""One request from its fields to a finished video: the same steps for the command line, a batch and a server.

    job = prepare_job(build_request(fields))       decode the inputs, make the plan, check the output; no model yet
    result = generate(job, engine=Engine())        load the model, encode, denoise, decode, write

Torch is imported by `generate` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.errors import MediaError, RequestError
from humo.geometry import FRAMES_PER_SECOND, frames_to_hold
from humo.jobs.engine import Engine
from humo.jobs.inputs import JobInputs, check_separator, load_inputs
from humo.jobs.loras import locate_loras, preset_with_loras
from humo.jobs.phase_timer import PhaseTimer
from humo.jobs.replay import make_record
from humo.jobs.timing_history import expected_seconds, record_seconds
from humo.media.provenance import content_digest, to_metadata, watermark_payload, write_sidecar
from humo.plan import GenerationPlan, resolve
from humo.presets import Preset
from humo.progress import Event, ProgressCallback, never_stop, no_progress
from humo.request import GenerateRequest, parse_request

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from humo.inference.window_cache import DiskWindowCache, WindowCache

    Frame = npt.NDArray[np.uint8]

AUDIO_LENGTH = -1
"""Value of ``frames`` for a clip as long as its audio, as in the published configuration."""

VIDEO_SUFFIX = ".mp4"

LENGTH_FIELDS = {"frames", "seconds"}
"""Fields that both set the length; the one given nearer to the user wins."""


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job that has been checked and can be run.

    Args:
        plan: what to generate.
        inputs: the decoded input files; without them `generate` decodes the files of the plan.
    """

    plan: GenerationPlan
    inputs: JobInputs | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A finished video.

    Args:
        path: the file.
        frames, seconds: its length.
        width, height: pixels.
        bytes: its size.
        seed: seed of the initial noise.
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
        """Return the values as JSON types."""
        return {**asdict(self), "path": str(self.path)}


def merge_fields(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a request, those of ``overrides`` in place of those of ``base``."""
    length_is_given = not LENGTH_FIELDS.isdisjoint(overrides)
    kept = {name: value for name, value in base.items() if not (name in LENGTH_FIELDS and length_is_given)}
    return {**kept, **overrides}


def build_request(fields: Mapping[str, Any]) -> GenerateRequest:
    """Return a checked request from plain fields; ``frames: -1`` means as long as the audio.

    Raises:
        RequestError: a field is wrong.
        MediaError: the audio file cannot be read.
    """
    if str(fields.get("frames", "")).strip() != str(AUDIO_LENGTH):
        return parse_request(fields)
    request = parse_request({**fields, "frames": None})
    if request.audio is None:
        raise RequestError("frames", "-1 means as long as the audio, and no audio is given", "add --audio FILE")
    if "A" in (request.mode or "TIA"):
        return request  # the length of a clip with audio is that of the audio unless another is given
    from humo.media.audio import probe_audio

    frames = frames_to_hold(probe_audio(request.audio, field="audio").num_samples)
    return request.model_copy(update={"frames": frames})


def prepare_job(
    request: GenerateRequest, loras: Mapping[str, str] | None = None, preset: Preset | None = None
) -> PreparedJob:
    """Decode the input files of a request, make its plan and check its output, without loading a model.

    Args:
        request: what to generate.
        loras: name -> file of the only LoRAs that the request may use; by default any file and installed LoRA.
        preset: of a model that is not installed, for a job that is planned and not run; its LoRAs are not opened.

    Raises:
        HuMoError: the first thing that would keep the video from being generated.
    """
    if preset is None:
        read_preset(request, loras)  # a wrong model folder is reported before files are decoded
    inputs = load_inputs(request)
    plan = plan_job(request, inputs.num_audio_samples, loras, preset)
    if inputs.is_silent:
        plan = replace(plan, notes=(*plan.notes, "audio: is silent; the mouth will not follow anything"))
    return PreparedJob(plan, inputs)


def plan_job(
    request: GenerateRequest,
    num_audio_samples: int | None,
    loras: Mapping[str, str] | None = None,
    preset: Preset | None = None,
) -> GenerationPlan:
    """Make the plan of a request and check its output, without opening image or audio files.

    Args:
        request: what to generate.
        num_audio_samples: length of the audio in samples at 16 kHz, if the mode uses audio.
        loras, preset: as for `prepare_job`.

    Raises:
        HuMoError: the first thing that would keep the video from being generated.
    """
    from humo.checkpoints.model_folder import find_model_folder, open_model_folder

    plan = resolve(request, preset or read_preset(request, loras), num_audio_samples)
    if plan.request.loras and preset is None:
        model = open_model_folder(find_model_folder(request.model))
        plan = locate_loras(plan, model.architectures["transformer"], loras)
    if plan.request.vocal_separator is not None:
        check_separator(plan.request.vocal_separator)
    check_output(plan)
    return plan


def read_preset(request: GenerateRequest, loras: Mapping[str, str] | None = None) -> Preset:
    """Return the preset of the model folder and the LoRAs that a request names. Args as `prepare_job`.

    Raises:
        CheckpointError: it is not a model folder, or a LoRA is missing or damaged.
    """
    from humo.checkpoints.model_folder import find_model_folder, open_model_folder

    preset = open_model_folder(find_model_folder(request.model)).preset
    return preset_with_loras(preset, request.loras, loras)


def generate(
    job: PreparedJob,
    *,
    engine: Engine,
    callback: ProgressCallback = no_progress,
    keep_paths: bool = True,
    should_stop: Callable[[], bool] = never_stop,
    check_stopped: Callable[[], None] | None = None,
    windows: Path | None = None,
    preview: bool = False,
) -> Result:
    """Generate the video of a job.

    Args:
        job: from `prepare_job`.
        engine: keeps the model between jobs.
        callback: is called with the progress of each phase.
        keep_paths: record the full paths of the input files, not only their names.
        should_stop: is called after each step; if it returns true, the video is finished from what there is.
        check_stopped: is called inside the steps as well; an exception that it raises ends the job at once.
        windows: folder for the finished windows of a long clip, from which an interrupted job resumes. By default it
            is beside the video (`window_folder`); it is removed when the video is finished.
        preview: write a playable preview beside the video (`preview_path`) while it is generated.

    Raises:
        HuMoError: an input, the weights, the device or the output is wrong. Nothing unfinished is left behind, except
            for the finished windows of a long clip.
    """
    timer = PhaseTimer(callback)
    timer(Event("load", 0, 1))  # libraries are loaded, too
    from humo.environment import identity_folder
    from humo.media.credentials import open_identity, sign_record
    from humo.media.video import VideoFormat, write_video
    from humo.media.watermark import embed_watermark
    from humo.runtime.device import gc_paused

    with gc_paused():  # it imports torch
        from humo.inference.window_cache import DiskWindowCache
    identity = open_identity(identity_folder()) if job.plan.request.provenance else None
    plan = engine.resolve_runtime(job.plan)
    timer.expect(expected_seconds(plan))
    request, geometry = plan.request, plan.geometry
    inputs = job.inputs or load_inputs(request)
    record = make_record(plan, keep_paths=keep_paths)
    output = Path(request.output)
    key = f"{content_digest(record)} {request.device} {request.dtype}"
    window_cache = DiskWindowCache(windows or window_folder(output), key)
    if finished := window_cache.num_finished:
        engine.note(f"{finished} of {len(plan.windows)} windows were finished before; generation resumes from there")
    frames = _start(PreparedJob(plan, inputs), engine, timer, should_stop, window_cache, check_stopped)
    frames = chain([next(frames)], frames)  # no unfinished file exists before the first frame
    if identity is not None:
        frames = embed_watermark(frames, watermark_payload(record))
    num_frames = write_video(
        output,
        timer.time_frames(frames, geometry.frames),
        VideoFormat(geometry.width, geometry.height, FRAMES_PER_SECOND),
        track=inputs.video_audio(geometry.seconds),
        metadata=to_metadata(replace(record, timings=timer.timings)),
        sign_file=lambda path: sign_record(path, identity, output.name, record),
        preview=preview_path(output) if preview else None,
    )
    window_cache.clear()
    record_seconds(plan, timer.timings)
    if request.sidecar:
        write_sidecar(output.with_suffix(".json"), replace(record, timings=timer.timings))
    return _result(plan, num_frames, timer.timings)


def _result(plan: GenerationPlan, num_frames: int, timings: dict[str, float]) -> Result:
    request, geometry, output = plan.request, plan.geometry, Path(plan.request.output)
    assert request.seed is not None
    return Result(
        path=output,
        frames=num_frames,
        seconds=num_frames / FRAMES_PER_SECOND,
        width=geometry.width,
        height=geometry.height,
        bytes=output.stat().st_size,
        seed=request.seed,
        timings=timings,
    )


def generate_as_worker_rank(job: PreparedJob, *, engine: Engine) -> None:
    """Compute this rank's share of a video that the main rank writes.

    Args:
        job, engine: as for `generate`; the engine has a `ParallelGeneration`.
    """
    plan = engine.resolve_runtime(job.plan)
    inputs = job.inputs or load_inputs(plan.request)
    for _ in _start(PreparedJob(plan, inputs), engine, PhaseTimer(no_progress), never_stop, None):
        pass


def _start(
    job: PreparedJob,
    engine: Engine,
    timer: PhaseTimer,
    should_stop: Callable[[], bool],
    disk_cache: DiskWindowCache | None,
    check_stopped: Callable[[], None] | None = None,
) -> Iterator[Frame]:
    """Load the pipeline and return the frames (H, W, 3) of a job, generated one by one."""
    from humo.inference.inputs import GenerationInputs
    from humo.inference.interruption import interruptible
    from humo.inference.window_cache import NO_WINDOW_CACHE

    plan, inputs, request = job.plan, job.inputs, job.plan.request
    assert inputs is not None
    samples = inputs.network_audio(request.vocal_separator)
    pipeline = engine.pipeline(request)
    timer(Event("load", 1, 1))
    window_cache: WindowCache = NO_WINDOW_CACHE if disk_cache is None else disk_cache
    if engine.parallel is not None:
        window_cache = engine.parallel.window_cache(window_cache)
    frames = pipeline.generate_frames(
        GenerationInputs(plan, inputs.images, samples),
        callback=timer,
        should_stop=should_stop,
        window_cache=window_cache,
        execution=engine.execution(pipeline, plan),
    )
    return frames if check_stopped is None else interruptible(frames, pipeline, check_stopped)


def window_folder(output: Path) -> Path:
    """Return the folder beside a video that keeps finished windows while it is generated."""
    return output.with_name(f".{output.name}.windows")


def preview_path(output: Path) -> Path:
    """Return the path of the preview beside a video."""
    return output.with_name(f"{output.stem}.preview{output.suffix}")


def check_output(plan: GenerationPlan) -> None:
    """Refuse an output that cannot be written, or that would replace an input.

    Raises:
        RequestError: the output is one of the inputs, or the sidecar would replace another file.
        StorageError: the output cannot be written.
    """
    from humo.media.video import check_writable, estimate_video_bytes

    request, geometry = plan.request, plan.geometry
    output = Path(request.output)
    inputs = [*request.images, request.audio, request.vocal_separator]
    if any(path and output.exists() and output.samefile(path) for path in inputs):
        raise RequestError("output", f"{request.output!r} is one of the inputs", "give another file name")
    needed = estimate_video_bytes(geometry.width, geometry.height, geometry.frames)
    check_writable(output, bytes_needed=needed, field="output")
    if request.sidecar:
        _check_sidecar(output.with_suffix(".json"))


def _check_sidecar(path: Path) -> None:
    """Refuse a sidecar that would replace a file other than a generation record."""
    from humo.media.provenance import read_record

    if path.exists():
        try:
            read_record(path)
        except MediaError as error:
            problem = f"{str(path)!r} exists and is not a generation record"
            raise RequestError("sidecar", problem, "move that file, or give another --output") from error
