"""The nodes with a built-in model generate the same frames as the command line and the Python API."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from humo import HuMoPipeline
from humo.checkpoints.model_folder import BUILTIN_MODEL
from humo.errors import CheckpointError, HuMoError, MediaError, RequestError
from humo.guidance import MODES, Mode
from humo.inference.inputs import GenerationInputs
from humo.jobs.generate import build_request, prepare_job
from humo.jobs.replay import weights_fingerprint
from humo.media import audio as media_audio
from humo.media.watermark import detect_watermark
from humo.presets import HUMO_NANO
from tests.comfyui.executor import EXAMPLES, LINK, Comfy, load_audio, load_image, saved_bytes

PROMPT = "A woman speaks by the sea."
SHORT: dict[str, Any] = {"frames": 5, "steps": 2}


def sample(comfy: Comfy, model: HuMoPipeline, inputs: Mode = "T", negative: str = "", **settings: Any) -> Any:
    """Return HUMO_LATENTS from the example's image and audio, as far as `inputs` has their letters."""
    (text,) = comfy.run("HuMo_Text", prompt=PROMPT, negative_prompt=negative)
    inputs_by_name: dict[str, Any] = {"model": model, "text": text, **SHORT, **settings}
    if "I" in inputs and "images" not in inputs_by_name:
        (inputs_by_name["images"],) = comfy.run("HuMo_Images", image_1=load_image("woman.png"))
    if "A" in inputs and "audio" not in inputs_by_name:
        (inputs_by_name["audio"],) = comfy.run("HuMo_Audio", audio=load_audio("woman.wav"))
    (latents,) = comfy.run("HuMo_Sampler", **inputs_by_name)
    return latents


def decode(comfy: Comfy, model: HuMoPipeline, latents: Any, **settings: Any) -> tuple[torch.Tensor, Any, float]:
    """Return IMAGE, AUDIO and the frame rate."""
    images, audio, rate = comfy.run("HuMo_Decode", model=model, latents=latents, **settings)
    return images, audio, rate


# -- equal to the other entry points -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_frames_and_audio_equal_those_of_a_job(mode: Mode, comfy: Comfy, model: HuMoPipeline, tmp_path: Path) -> None:
    settings = {**SHORT, "seed": 7, "width": 80, "height": 112, "scale_text": 4.5, "shift": 3.0}
    files = {"images": str(EXAMPLES / "woman.png"), "audio": str(EXAMPLES / "woman.wav")}
    letters = {"images": "I", "audio": "A"}
    paths = {name: path for name, path in files.items() if letters[name] in mode}
    fields = {"model": "humo-nano-teacher", "prompt": PROMPT, "output": str(tmp_path / "out.mp4")}
    job = prepare_job(build_request(fields | settings | paths))
    assert job.inputs is not None
    track = job.inputs.video_audio(job.plan.geometry.seconds)
    samples = job.inputs.network_audio(None)
    expected = np.stack(list(model.generate_frames(GenerationInputs(job.plan, job.inputs.images, samples))))

    latents = sample(comfy, model, mode, **settings)
    images, audio, rate = decode(comfy, model, latents, watermark=False)
    assert latents.plan.request.mode == mode
    assert images.dtype == torch.float32
    assert images.shape == (5, 112, 80, 3)
    assert 0.0 <= float(images.min()) < float(images.max()) <= 1.0
    # decoded in other chunks, which may round differently
    apart = np.abs(saved_bytes(images).astype(int) - expected.astype(int))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-4
    assert rate == 25.0
    assert isinstance(rate, float)
    if track is None:
        assert audio is None
    else:
        assert audio["sample_rate"] == track.sample_rate
        assert audio["waveform"].shape == (1, 1, track.sample_rate // 5)
        assert np.array_equal(audio["waveform"][0].numpy(), track.samples)


def test_frames_equal_those_of_the_python_api(comfy: Comfy, model: HuMoPipeline) -> None:
    images, _, _ = decode(comfy, model, sample(comfy, model, "TIA", seed=3, negative="blur"), watermark=False)
    expected_frames = model(
        PROMPT,
        images=EXAMPLES / "woman.png",
        audio=EXAMPLES / "woman.wav",
        negative_prompt="blur",
        num_frames=5,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
    ).frames[0]
    assert np.array_equal(saved_bytes(images), np.stack([np.asarray(frame) for frame in expected_frames]))


def test_open_settings_have_the_presets_defaults(comfy: Comfy, model: HuMoPipeline) -> None:
    empty = {
        name: vars(one)["default"] for name, one in comfy.inputs("HuMo_Sampler").items() if hasattr(one, "default")
    }
    left_open = sample(comfy, model, "TIA", **{**empty, "frames": 5, "steps": 1})
    left_out = sample(comfy, model, "TIA", steps=1)
    request = left_open.plan.request
    assert request == left_out.plan.request
    assert left_open.samples.equal(left_out.samples)
    assert (request.width, request.height, request.shift, request.seed) == (96, 96, HUMO_NANO.shift, HUMO_NANO.seed)
    assert (request.scale_text, request.scale_audio) == (HUMO_NANO.scales.text, HUMO_NANO.scales.audio)
    assert (request.scale_image, request.mode) == (HUMO_NANO.scales.image, "TIA")


@pytest.mark.parametrize(
    "setting",
    [
        {"seed": 0},
        {"scale_text": 0.0},
        {"scale_audio": 0.0},
        {"scale_image": 0.0},
        {"switch_timestep": 0.0},
        {"shift": 0.1},
        {"seconds": 0.2, "frames": 0},
        {"mode": "TA"},
        {"width": 16},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_every_setting_reaches_the_request_also_zero(
    setting: dict[str, Any], comfy: Comfy, model: HuMoPipeline
) -> None:
    request = sample(comfy, model, "TIA", **{"steps": 1, **setting}).plan.request
    for name, value in setting.items():
        expected = {"seconds": None, "frames": 5}.get(name, value)
        assert getattr(request, name) == expected


def test_without_a_length_a_clip_is_as_long_as_its_audio(comfy: Comfy, model: HuMoPipeline) -> None:
    audio = {"waveform": 0.1 * torch.randn(1, 1, 640 * 9), "sample_rate": 16_000}
    (audio,) = comfy.run("HuMo_Audio", audio=audio)
    assert sample(comfy, model, "TA", audio=audio, frames=0, steps=1).plan.request.frames == 9


def test_a_length_beyond_the_trained_one_is_made_in_windows_and_said(
    comfy: Comfy, model: HuMoPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    latents = sample(comfy, model, "T", frames=29, steps=1, width=16, height=16, overlap=4)
    assert latents.samples.shape[2] == 8
    assert "29 frames are generated in 2 windows of 25, each sharing 4 with the next" in caplog.text


# -- images and audio ----------------------------------------------------------------------------------------------


def test_images_keep_their_order_and_size_across_batches_sockets_and_nodes(comfy: Comfy) -> None:
    shades = [torch.full((1, 4, 6, 3), value / 255) for value in range(5)]
    (earlier,) = comfy.run("HuMo_Images", image_1=shades[0])
    (images,) = comfy.run(
        "HuMo_Images", image_1=torch.cat(shades[1:3]), image_3=shades[4], image_2=shades[3], earlier=earlier
    )
    assert [image.getpixel((0, 0))[0] for image in images] == [0, 1, 2, 3, 4]
    assert {image.size for image in images} == {(6, 4)}


def test_images_of_any_shape_are_fitted_by_the_encoder(comfy: Comfy, model: HuMoPipeline) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 30, 50, 3), dtype=np.uint8)
    batch = torch.from_numpy(pixels.astype(np.float32) / 255)
    (images,) = comfy.run("HuMo_Images", image_1=batch)
    frames, _, _ = decode(comfy, model, sample(comfy, model, "TI", images=images), watermark=False)
    expected_frames = model(
        PROMPT, images=[Image.fromarray(image) for image in pixels], num_frames=5, num_inference_steps=2
    ).frames[0]
    assert np.array_equal(saved_bytes(frames), np.stack([np.asarray(frame) for frame in expected_frames]))


def test_transparency_is_laid_over_white(comfy: Comfy) -> None:
    (images,) = comfy.run("HuMo_Images", image_1=torch.zeros(1, 4, 4, 4))
    assert images[0].getpixel((0, 0)) == (255, 255, 255)


def test_stereo_audio_is_mixed_for_the_model_and_kept_for_the_video(comfy: Comfy, model: HuMoPipeline) -> None:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 44_100)).astype(np.float32)
    (audio,) = comfy.run("HuMo_Audio", audio={"waveform": torch.from_numpy(samples)[None], "sample_rate": 44_100})
    assert np.array_equal(audio.mono_16k, media_audio.load_audio((samples, 44_100)))
    latents = sample(comfy, model, "TA", audio=audio, steps=1)
    expected_frames = model(
        PROMPT, audio=(samples, 44_100), num_frames=5, num_inference_steps=1, output_type="latent"
    ).frames
    assert latents.samples.equal(expected_frames)
    _, audio, _ = decode(comfy, model, latents)
    assert audio["sample_rate"] == 44_100
    assert np.array_equal(audio["waveform"][0].numpy(), samples[:, : 44_100 // 5])


def test_audio_shorter_than_the_clip_is_padded_with_silence(comfy: Comfy, model: HuMoPipeline) -> None:
    audio = {"waveform": torch.full((1, 1, 1600), 0.25), "sample_rate": 16_000}
    (audio,) = comfy.run("HuMo_Audio", audio=audio)
    _, track, _ = decode(comfy, model, sample(comfy, model, "TA", audio=audio, steps=1))
    assert np.array_equal(
        track["waveform"][0].numpy(), media_audio.load_audio_track((np.full(1600, 0.25), 16_000), seconds=0.2).samples
    )
    assert track["waveform"][0, 0, 1600:].abs().max() == 0


def test_audio_that_the_mode_does_not_use_is_not_in_the_clip(comfy: Comfy, model: HuMoPipeline) -> None:
    latents = sample(comfy, model, "TIA", mode="TI", steps=1)
    assert latents.track is None
    assert latents.samples.equal(sample(comfy, model, "TI", steps=1).samples)


# -- watermark, progress, cancelling, models ---------------------------------------------------------------------------


def test_frames_have_the_watermark_unless_it_is_disabled(comfy: Comfy, model: HuMoPipeline) -> None:
    latents = sample(comfy, model, "TIA")
    marked, _, _ = decode(comfy, model, latents)
    unmarked, _, _ = decode(comfy, model, latents, watermark=False)
    number = importlib.import_module("comfyui.nodes").latents_watermark(latents)
    assert detect_watermark(iter(saved_bytes(marked))).payload == number
    assert detect_watermark(iter(saved_bytes(unmarked))).payload is None
    assert (marked - unmarked).abs().max() <= 20 / 255
    other = sample(comfy, model, "TIA", seed=1)
    assert importlib.import_module("comfyui.nodes").latents_watermark(other) != number


def test_the_progress_bar_shows_encoding_steps_and_decoding(
    comfy: Comfy, model: HuMoPipeline, bar_values: list[tuple[float, float]]
) -> None:
    latents = sample(comfy, model, "TIA", steps=3)
    assert bar_values == [*((done, 3) for done in range(4)), *((done, 3) for done in range(4))]
    bar_values.clear()
    decode(comfy, model, latents)
    assert bar_values == [(0, 1), (1, 1)]


def test_a_cancelled_run_ends_before_its_next_step(
    comfy: Comfy, model: HuMoPipeline, bar_values: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    management = importlib.import_module("comfy.model_management")
    latest = importlib.import_module("comfy_api.latest")
    stopped: type[BaseException] = management.InterruptProcessingException

    def press_cancel(_: Any, value: float, max_value: float) -> None:
        bar_values.append((value, max_value))
        management.interrupt_current_processing((value, max_value) == (1, 9))

    monkeypatch.setattr(latest._Execution, "set_progress", press_cancel)
    with pytest.raises(stopped):
        sample(comfy, model, steps=9)
    assert bar_values.pop() == (1, 9)
    sample(comfy, model, steps=1)  # the next run is not cancelled


def test_nodes_keep_no_state(comfy: Comfy, model: HuMoPipeline) -> None:
    before = {node_id: dict(vars(node)) for node_id, node in comfy.nodes.items()}
    first = sample(comfy, model, "TIA", steps=1)
    decode(comfy, model, first)
    assert {node_id: dict(vars(node)) for node_id, node in comfy.nodes.items()} == before
    assert first.samples.equal(sample(comfy, model, "TIA", steps=1).samples)


def test_a_model_folder_of_another_family_is_loaded(comfy: Comfy, tiny_model_folder_17b: Any) -> None:
    inputs_by_name = {"model": str(tiny_model_folder_17b), "device": "cpu", "dtype": "bfloat16"}
    assert comfy.check("HuMo_LoadModel", **inputs_by_name) == []
    (pipeline,) = comfy.run("HuMo_LoadModel", **inputs_by_name)
    assert pipeline.preset.name == "humo-17b"
    assert pipeline.transformer.dtype == torch.bfloat16


def test_latents_must_be_decoded_by_the_model_that_generated_them(
    comfy: Comfy, model: HuMoPipeline, tiny_model_folder: Any
) -> None:
    (other,) = comfy.run("HuMo_LoadModel", model=str(tiny_model_folder), device="cpu")
    with pytest.raises(RequestError, match=r"^model: is HuMo-1\.7B, and the latents come from HuMo nano; connect"):
        decode(comfy, other, sample(comfy, model, steps=1))


def test_a_model_is_reloaded_when_the_weights_in_its_folder_change(comfy: Comfy, tiny_model_folder: Any) -> None:
    node = comfy.nodes["HuMo_LoadModel"]
    embedded = node.fingerprint_inputs(model="", device="auto", dtype="auto")
    assert embedded == weights_fingerprint(BUILTIN_MODEL)
    assert embedded != node.fingerprint_inputs(model=str(tiny_model_folder), device="auto", dtype="auto")


# -- errors are one line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node_id", "values", "message"),
    [
        ("HuMo_LoadModel", {"model": "nowhere"}, "nowhere"),
        ("HuMo_LoadModel", {"dtype": "int3"}, "dtype"),
        ("HuMo_Text", {"prompt": ""}, "prompt: '' is not allowed"),
        ("HuMo_Text", {}, "prompt"),
        ("HuMo_Sampler", {"width": 40}, "width: 40 is not allowed; allowed: a whole number, 16 to 8192"),
        ("HuMo_Sampler", {"height": 8208}, "height: 8208 is not allowed"),
        ("HuMo_Sampler", {"frames": 5, "seconds": 0.2}, "give frames or seconds, not both"),
        ("HuMo_Sampler", {"seconds": 0.02}, "seconds: 0.02 is not allowed"),
        ("HuMo_Sampler", {"steps": 1001}, "steps: 1001 bigger"),
        ("HuMo_Sampler", {"scale_text": -1.5}, "scale_text: -1.5 smaller"),
        ("HuMo_Sampler", {"mode": "I"}, "mode: 'I' not in"),
    ],
)
def test_wrong_values_are_reported_before_anything_runs(
    node_id: str, values: dict[str, Any], message: str, comfy: Comfy
) -> None:
    if node_id == "HuMo_Sampler":
        values = {"model": LINK, "text": LINK, **values}
    (line,) = comfy.check(node_id, **values)
    assert message in line
    assert "\n" not in line


def test_linked_values_are_not_checked_before_they_exist(comfy: Comfy) -> None:
    assert comfy.check("HuMo_Text", prompt=LINK) == []
    assert comfy.check("HuMo_LoadModel", model=LINK) == []
    sizes = dict.fromkeys(["width", "height", "frames", "seconds"], LINK)
    assert comfy.check("HuMo_Sampler", model=LINK, text=LINK, **sizes) == []


def _scale_between(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, scale_text=-0.5)


def _linked_width(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, width=40)


def _mode_without_input(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, mode="TIA")


def _empty_prompt(comfy: Comfy, model: HuMoPipeline) -> None:
    comfy.run("HuMo_Text", prompt=" ")


def _too_short_audio(comfy: Comfy, model: HuMoPipeline) -> None:
    (audio,) = comfy.run("HuMo_Audio", audio={"waveform": torch.zeros(1, 1, 600), "sample_rate": 16_000})
    sample(comfy, model, audio=audio)


def _two_audio_clips(comfy: Comfy, model: HuMoPipeline) -> None:
    comfy.run("HuMo_Audio", audio={"waveform": torch.zeros(2, 1, 600), "sample_rate": 16_000})


def _audio_with_nan(comfy: Comfy, model: HuMoPipeline) -> None:
    comfy.run("HuMo_Audio", audio={"waveform": torch.full((1, 1, 600), math.nan), "sample_rate": 16_000})


def _image_above_one(comfy: Comfy, model: HuMoPipeline) -> None:
    comfy.run("HuMo_Images", image_1=torch.ones(1, 4, 4, 3), image_2=torch.full((1, 4, 4, 3), 1.5))


def _empty_image_batch(comfy: Comfy, model: HuMoPipeline) -> None:
    comfy.run("HuMo_Images", image_1=torch.ones(0, 4, 4, 3))


def _missing_model(comfy: Comfy, model: HuMoPipeline) -> None:
    comfy.run("HuMo_LoadModel", model="nowhere")


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (_scale_between, RequestError, "scale_text: -0.5 is not allowed; allowed: a number, 0 to 50"),
        (_linked_width, RequestError, "width: 40 is not allowed"),
        (_mode_without_input, RequestError, "mode: TIA needs images"),
        (_empty_prompt, RequestError, "prompt: ' ' is not allowed"),
        (_too_short_audio, RequestError, "audio: is shorter than one frame"),
        (_two_audio_clips, MediaError, "audio: has the shape (2, 1, 600)"),
        (_audio_with_nan, MediaError, "audio: the given array has samples that are not numbers"),
        (_image_above_one, MediaError, "image_2[0]: the given array has values 1.5..1.5"),
        (_empty_image_batch, MediaError, "image_1: has the shape (0, 4, 4, 3)"),
        (_missing_model, CheckpointError, "nowhere"),
    ],
)
def test_errors_of_a_run_are_one_line(
    wrong: Callable[[Comfy, HuMoPipeline], None], kind: type[HuMoError], message: str, comfy: Comfy, model: HuMoPipeline
) -> None:
    with pytest.raises(kind) as caught:
        wrong(comfy, model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
