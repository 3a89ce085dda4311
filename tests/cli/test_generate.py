"""One request through the command: generated, reported, recorded, replayed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from humo.cli.options import REPEATABLE
from humo.jobs.engine import Engine
from humo.jobs.generate import build_request, generate, prepare_job
from humo.media.audio import load_audio_track
from humo.media.provenance import read_record
from humo.media.video import read_video
from humo.request import GenerateRequest
from tests.cli.conftest import SMALL, Humo, write_audio

INPUTS = ["--prompt", "a man speaks", "--image", "face.png", "--audio", "a.wav"]


def frames(path: str | Path) -> np.ndarray:
    return read_video(Path(path)).frames


def test_a_video_is_generated_from_prompt_image_and_audio(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    completed = humo("generate", "--model", tiny_model_folder, *INPUTS, *SMALL, "--sidecar", "--json")
    assert (completed.code, completed.err) == (0, "")
    clip = read_video(desk / "out.mp4")
    assert clip.frames.shape == (5, 64, 96, 3)
    assert clip.frames_per_second == 25
    assert clip.track is not None
    (result,) = completed.only("result")
    assert (result["path"], result["frames"], result["seconds"]) == ("out.mp4", 5, 0.2)
    assert list(result["timings"]) == ["load", "encode", "denoise", "decode", "write"]
    steps = [event for event in completed.only("progress") if event["phase"] == "denoise"]
    assert [(event["done"], event["total"]) for event in steps] == [(0, 1), (1, 1)]
    shares = [event["fraction"] for event in completed.only("progress")]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert "seconds_left" in steps[-1]
    assert sorted(path.name for path in desk.iterdir()) == ["a.wav", "face.png", "out.json", "out.mp4"]


def test_the_record_says_how_it_was_made(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    humo("generate", "--model", tiny_model_folder, *INPUTS, *SMALL, "--sidecar", "--quiet")
    record, beside = read_record(Path("out.mp4")), read_record(Path("out.json"))
    assert record.preset == "humo-1.7b"
    assert record.request["seed"] == 666666
    assert record.request["images"] == [str(desk / "face.png")]
    assert record.geometry["frames"] == 5
    assert set(record.inputs) == {str(desk / "face.png"), str(desk / "a.wav")}
    assert {"torch", "diffusers", "transformers", "weights"} <= record.environment.keys()
    assert (record.environment["device"], record.environment["dtype"]) == ("cpu", "float32")
    assert record.timings.keys() == {"load", "encode", "denoise", "decode"}
    assert beside.timings.keys() == {*record.timings, "write"}
    assert (beside.request, beside.inputs) == (record.request, record.inputs)


def test_it_is_made_again_frame_for_frame_from_elsewhere(
    humo: Humo, desk: Path, tiny_model_folder_17b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*INPUTS, "--width", 96, "--height", 64, "--frames", 13, "--steps", 2, "--seed", 7]
    assert humo("generate", "--model", tiny_model_folder_17b, *options, "--sidecar").code == 0
    (desk / "elsewhere").mkdir()
    monkeypatch.chdir(desk / "elsewhere")
    for source in ("../out.mp4", "../out.json"):
        result = humo("generate", "--replay", source, "--output", "again.mp4", "--overwrite", "--json")
        assert result.code == 0
        assert np.array_equal(frames("again.mp4"), frames(desk / "out.mp4"))
        assert not result.only("note")
    assert humo("generate", "--replay", "../out.mp4", "--seed", 8, "--output", "other.mp4").code == 0
    assert not np.array_equal(frames("other.mp4"), frames(desk / "out.mp4"))


def test_made_again_without_a_name_it_does_not_replace_the_first(
    humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    humo("generate", "--model", tiny_model_folder, *INPUTS, *SMALL)
    result = humo("generate", "--replay", "out.mp4")
    assert result.code == 0
    assert "out-again.mp4" in result.err
    assert np.array_equal(frames("out-again.mp4"), frames("out.mp4"))


def test_what_changed_since_must_be_given_again(
    humo: Humo, desk: Path, tiny_model_folder: Path, tiny_model_folder_17b: Path
) -> None:
    model = shutil.copytree(tiny_model_folder, desk / "model")
    humo("generate", "--model", model, *INPUTS, *SMALL)
    write_audio(desk / "a.wav", seconds=1.0, pitch=300.0)
    changed = humo("generate", "--replay", "out.mp4")
    assert changed.code == 2
    assert "a.wav' has changed since" in changed.err
    assert humo("generate", "--replay", "out.mp4", "--audio", "a.wav", "--dry-run").code == 0
    (desk / "face.png").unlink()
    gone = humo("generate", "--replay", "out.mp4", "--audio", "a.wav")
    assert (gone.code, "face.png'" in gone.err, "--image" in gone.err) == (2, True, True)
    shutil.rmtree(model)
    shutil.copytree(tiny_model_folder_17b, model)
    (desk / "b.png").write_bytes((desk / "out.mp4").read_bytes())
    other = humo("generate", "--replay", "out.mp4", "--audio", "a.wav", "--image", "face.png")
    assert (other.code, "other weights" in other.err) == (2, True)


def test_the_length_in_seconds_outdoes_the_recorded_frames(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    humo("generate", "--model", tiny_model_folder, *INPUTS, *SMALL)
    result = humo("generate", "--replay", "out.mp4", "--seconds", "0.36", "--dry-run", "--json")
    assert result.only("plan")[0]["geometry"]["frames"] == 9


def test_a_dry_run_says_what_would_be_made(humo: Humo, desk: Path, tiny_model_folder_17b: Path) -> None:
    options = ["--model", tiny_model_folder_17b, *INPUTS, "--steps", "4", "--dry-run"]
    result = humo("generate", *options, "--json")
    (plan,) = result.only("plan")
    assert plan["request"]["mode"] == "TIA"
    assert plan["geometry"] | {"latent_frames": 8, "audio_windows": 7, "frames": 25} == plan["geometry"]
    assert plan["geometry"]["tokens"] == 8 * 30 * 52
    assert plan["passes"] == {"steps": 4, "per_step": [3], "total": 12}
    table = humo("generate", *options)
    assert "3 a step, 12 in total" in table.out
    assert all(len(line.split("  ")) >= 2 for line in table.out.splitlines())
    assert sorted(path.name for path in desk.iterdir()) == ["a.wav", "face.png"]


def test_a_dry_run_of_a_published_model_needs_no_download(humo: Humo, desk: Path) -> None:
    result = humo("generate", "--model", "humo-17b", *INPUTS, "--dry-run")
    assert result.code == 0
    assert "humo-17b is not installed; run `humo models get humo-17b`" in result.err
    assert "832" in result.out
    assert humo("generate", "--model", "humo-17b", *INPUTS).code == 2


def test_a_dry_run_leaves_no_folder_and_a_run_makes_it(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    arguments = ["generate", "--model", tiny_model_folder, "--prompt", "a", *SMALL, "--output", "new/folder/a.mp4"]
    assert humo(*arguments, "--dry-run").code == 0
    assert not Path("new").exists()
    for _ in range(2):  # a record takes the place of a record
        assert humo(*arguments, "--sidecar", "--overwrite").code == 0
    assert sorted(path.name for path in Path("new/folder").iterdir()) == ["a.json", "a.mp4"]


def test_notes_are_said_and_quiet_is_quiet(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    options = ["generate", "--model", tiny_model_folder, "--prompt", "a", "--frames", "7", "--dry-run"]
    result = humo(*options)
    assert result.err == "note: 7 frames became 5: the model makes 4k + 1\n"
    assert humo(*options, "--json").only("note") == [
        {"event": "note", "text": "7 frames became 5: the model makes 4k + 1"}
    ]
    quiet = humo("generate", "--model", tiny_model_folder, "--prompt", "a", *SMALL, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_a_log_gets_plain_lines_and_a_result(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    result = humo("generate", "--model", tiny_model_folder, "--prompt", "a", *SMALL)
    start, *lines = result.err.splitlines()
    assert start.startswith("out.mp4: 5 frames, 96x64, 1 steps, seed 666666, ")
    assert [line.split()[1] for line in lines] == ["load", "load", "encode", "denoise", "decode", "write"]
    shares = [int(line.split()[0].removesuffix("%")) for line in lines]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 100)
    assert result.out.startswith("out.mp4: 5 frames, 0.2 s, 96x64, ")


def test_a_job_file_gives_the_fields_and_options_outdo_it(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    (desk / "job.toml").write_text('prompt = "a"\nframes = 9\nsteps = 3\nimages = "face.png"\n')
    result = humo(
        *("generate", "--config", "job.toml", "seed=5", "--model", tiny_model_folder),
        *("--seconds", "0.2", "--dry-run", "--json"),
    )
    (plan,) = result.only("plan")
    assert (plan["request"]["seed"], plan["request"]["steps"], plan["geometry"]["frames"]) == (5, 3, 5)
    assert plan["request"]["images"] == ["face.png"]


def test_a_clip_is_as_long_as_its_audio_by_default_and_by_the_published_minus_one(
    humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    write_audio(desk / "long.wav", seconds=6.0)
    options = ["--model", tiny_model_folder, "--prompt", "a", "--audio", "long.wav", "--dry-run", "--json"]
    geometry = [
        humo("generate", *options, *more).only("plan")[0]["geometry"]["frames"] for more in ([], ["--frames", "-1"])
    ]
    assert geometry == [153, 153]  # 150 frames of audio


def test_the_audio_of_the_result_is_the_given_one(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    humo("generate", "--model", tiny_model_folder, *INPUTS, *SMALL)
    in_video = load_audio_track("out.mp4", seconds=0.2).samples[0]
    source = load_audio_track("a.wav", seconds=0.2).samples[0]
    assert np.corrcoef(in_video[800:2400], source[800:2400])[0, 1] > 0.95


def test_the_engine_keeps_one_model_and_loads_another_when_asked(
    desk: Path, tiny_model_folder: Path, tiny_model_folder_17b: Path
) -> None:
    engine = Engine()
    pipelines = []
    fields = {"prompt": "a", "width": 96, "height": 64, "frames": 5, "steps": 1, "output": "a.mp4"}
    for model in (tiny_model_folder, tiny_model_folder, tiny_model_folder_17b, tiny_model_folder):
        job = prepare_job(build_request({**fields, "model": str(model)}))
        assert generate(job, engine=engine).frames == 5
        pipelines.append(engine.pipeline(engine.resolve_runtime(job.plan).request))
    assert pipelines[0] is pipelines[1]
    assert len({id(pipeline) for pipeline in pipelines}) == 3


def test_inputs_are_read_as_the_plan_uses_them(desk: Path, tiny_model_folder: Path) -> None:
    fields = {"prompt": "a", "model": str(tiny_model_folder), "images": "face.png", "audio": "a.wav", "mode": "TA"}
    job = prepare_job(build_request({**fields, "frames": 5}))
    assert job.inputs is not None
    assert job.inputs.images == ()
    samples = job.inputs.network_audio(None)
    assert samples is not None
    assert samples.shape == (16_000,)
    track = job.inputs.video_audio(job.plan.geometry.seconds)
    assert track is not None
    assert track.seconds == pytest.approx(0.2)


def silencer(path: Path) -> Path:
    """A vocal separator's network that finds no voice in anything."""
    shape = [1, 4, 3072, 256]
    spectrogram = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("in", "out")]
    nothing = onnx.helper.make_tensor("nothing", onnx.TensorProto.FLOAT, [1], [0.0])
    node = onnx.helper.make_node("Mul", ["in", "nothing"], ["out"])
    graph = onnx.helper.make_graph([node], "silencer", spectrogram[:1], spectrogram[1:], [nothing])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_the_network_follows_the_vocals_alone_and_the_video_keeps_the_whole_audio(
    desk: Path, tiny_model_folder: Path
) -> None:
    fields = {
        "prompt": "a",
        "model": str(tiny_model_folder),
        "audio": "a.wav",
        "vocal_separator": str(silencer(desk / "v.onnx")),
    }
    job = prepare_job(build_request(fields))
    assert job.inputs is not None
    vocals = job.inputs.network_audio(job.plan.request.vocal_separator)
    track = job.inputs.video_audio(job.plan.geometry.seconds)
    assert vocals is not None
    assert track is not None
    assert np.abs(vocals).max() < 1e-3
    assert np.abs(track.samples).max() > 0.2


def start(*arguments: object, **settings: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "humo", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_half_written(desk: Path, tiny_model_folder: Path, kind: signal.Signals) -> None:
    arguments = ["generate", "--model", tiny_model_folder, *INPUTS, "--width", 96, "--height", 64, "--steps", 1000]
    process = start(*arguments, "--json", cwd=desk)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("phase") == "denoise" and event["done"] > 2:
            break
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].startswith("humo: interrupted")
    assert "Traceback" not in err
    assert sorted(path.name for path in desk.iterdir()) == ["a.wav", "face.png"]


def test_a_dry_run_reads_headers_and_no_weights(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    folder = shutil.copytree(tiny_model_folder, desk / "model")
    for path in folder.rglob("*.safetensors"):
        with path.open("r+b") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
            file.seek(header)
            file.write(b"\xff" * (path.stat().st_size - header))  # NaN
    result = humo("generate", "--model", folder, *INPUTS, *SMALL, "--dry-run", "--json")
    assert result.code == 0
    (plan,) = result.only("plan")
    assert plan["memory"]["host"] > 10**8
    assert plan["request"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "most"),
    # a request's options are those of its pydantic model, whose making alone takes a quarter of a second or more
    [(["--help"], 0.5), (["--version"], 0.5), (["convert", "--help"], 0.5), (["generate", "--help"], 1.0)],
)
def test_help_is_fast_and_loads_nothing_heavy(arguments: list[str], most: float) -> None:
    script = (
        "import sys; from humo.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'av', 'rich', 'PIL', 'transformers'} & set(sys.modules);"
        "sys.exit(9 if heavy else code)"
    )
    times = []
    for _ in range(3):
        begun = os.times()
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        ended = os.times()
        spent = (ended.children_user - begun.children_user) + (ended.children_system - begun.children_system)
        times.append(spent)
        assert done.returncode == 0, done.stderr
    assert min(times) < most  # seconds of the processor, which other programs do not lengthen much
    assert "humo" in done.stdout


def test_help_names_every_field_with_its_range_and_published_defaults(humo: Humo) -> None:
    result = humo("generate", "--help")
    text = " ".join(result.out.split())
    for field in GenerateRequest.model_fields:
        assert f"--{REPEATABLE.get(field, field).replace('_', '-')} " in text or f"--{field.replace('_', '-')}," in text
    assert "16 to 8192, a multiple of 16; default 832" in text
    assert "default 5 (HuMo-17B), 7.5 (HuMo-1.7B)" in text
    assert "default 666666" in text


def test_a_write_that_fails_leaves_the_old_video(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    if os.geteuid() == 0:
        target = Path("/proc/humo.mp4")
    else:
        (desk / "locked").mkdir(mode=0o500)
        target = desk / "locked" / "humo.mp4"
    result = humo("generate", "--model", tiny_model_folder, "--prompt", "a", *SMALL, "--output", target)
    assert result.code == 2
    assert result.err.startswith("humo: output: ")
