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
from safetensors.torch import load_file, save_file

from humo import HuMoPipeline
from humo.checkpoints.model_folder import BUILTIN_MODEL
from humo.errors import CheckpointError, HuMoError, MediaError, RequestError
from humo.guidance import MODES, Mode
from humo.inference.inputs import GenerationInputs
from humo.jobs.generate import build_request, prepare_job
from humo.jobs.replay import weights_fingerprint
from humo.media import audio as media_audio
from humo.media.watermark import detect_watermark
from humo.model import attention_backends
from humo.model.caches import is_compiled
from humo.presets import HUMO_NANO
from humo.request import GenerateRequest
from tests.comfyui.executor import EXAMPLES, LINK, Comfy, load_audio, load_image, saved_bytes
from tests.comfyui_files import save_comfyui_models
from tests.tiny import save_tiny_model

PROMPT = "A woman speaks by the sea."
SHORT: dict[str, Any] = {"frames": 5, "steps": 2}


Decoded = tuple[torch.Tensor, Any, float]


def sample(comfy: Comfy, model: HuMoPipeline, inputs: Mode = "T", negative: str = "", **settings: Any) -> Any:
    """Return LATENT and AUDIO from the example's image and audio, as far as `inputs` has their letters."""
    inputs_by_name: dict[str, Any] = {
        "model": model,
        "prompt": PROMPT,
        "negative_prompt": negative,
        **SHORT,
        **settings,
    }
    if "I" in inputs and "image_1" not in inputs_by_name:
        inputs_by_name["image_1"] = load_image("woman.png")
    if "A" in inputs and "audio" not in inputs_by_name:
        inputs_by_name["audio"] = load_audio("woman.wav")
    return comfy.run("HuMo_Sampler", **inputs_by_name)


def decode(comfy: Comfy, model: HuMoPipeline, sampled: Any, **settings: Any) -> Decoded:
    """Return IMAGE, the audio of VIDEO, and the frame rate."""
    latent, audio = sampled
    images, video, rate = comfy.run("HuMo_Decode", model=model, latent=latent, audio=audio, **settings)
    components = video.get_components()
    assert components.images is images
    assert components.frame_rate == rate
    return images, components.audio, rate


def requests(monkeypatch: pytest.MonkeyPatch) -> list[GenerateRequest]:
    """Return a list that the resolved requests of later runs are appended to."""
    sent: list[GenerateRequest] = []
    generate = HuMoPipeline.generate_latents

    def record(self: HuMoPipeline, inputs: GenerationInputs, *arguments: Any) -> torch.Tensor:
        sent.append(inputs.plan.request)
        return generate(self, inputs, *arguments)

    monkeypatch.setattr(HuMoPipeline, "generate_latents", record)
    return sent


def apart(images: torch.Tensor, expected: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Check that frames differ by one level at most, and return the share of values that differ."""
    difference = np.abs(saved_bytes(images).astype(int) - expected.astype(int))
    assert difference.max() <= 1
    return float((difference > 0).mean())


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

    images, audio, rate = decode(comfy, model, sample(comfy, model, mode, **settings), watermark=False)
    assert images.dtype == torch.float32
    assert images.shape == (5, 112, 80, 3)
    assert 0.0 <= float(images.min()) < float(images.max()) <= 1.0
    # decoded in other chunks, and from LATENT's form, which may round differently
    assert apart(images, expected) < 1e-4
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
    assert apart(images, np.stack([np.asarray(frame) for frame in expected_frames])) < 1e-4


def test_shown_values_are_those_of_the_preset_and_inputs_that_are_left_out_as_well(
    comfy: Comfy, model: HuMoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = requests(monkeypatch)
    table = comfy.inputs("HuMo_Sampler")["preset"].as_dict()["humo"]["humo-nano-teacher"]
    filled = sample(comfy, model, "TIA", **{**table, "preset": "humo-nano-teacher", "seed": 0, "steps": 1})
    left_out = sample(comfy, model, "TIA", steps=1)
    named = sample(comfy, model, "TIA", preset="humo-nano-teacher", steps=1)
    assert sent[0] == sent[1] == sent[2]
    assert filled[0]["samples"].equal(left_out[0]["samples"])
    assert named[0]["samples"].equal(left_out[0]["samples"])
    request = sent[0]
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
        {"frames": 9},
        {"mode": "TA"},
        {"width": 16},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_every_setting_reaches_the_request_also_zero(
    setting: dict[str, Any], comfy: Comfy, model: HuMoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    [sent] = [requests(monkeypatch)]
    sample(comfy, model, "TIA", **{"steps": 1, **setting})
    [(name, value)] = setting.items()
    assert getattr(sent[0], name) == value


def test_latents_are_those_that_comfyuis_autoencoder_decodes(comfy: Comfy, model: HuMoPipeline) -> None:
    latent, _ = sample(comfy, model, "T", steps=1)
    generated = model(PROMPT, num_frames=5, num_inference_steps=1, output_type="latent").frames
    mean, deviation = (
        torch.tensor(model.vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std")
    )
    assert torch.allclose(latent["samples"], generated * deviation + mean, atol=1e-5)
    images, _, _ = decode(comfy, model, ({"samples": latent["samples"]}, None), watermark=False)
    assert images.equal(decode(comfy, model, (latent, None), watermark=False)[0])


# -- images and audio ----------------------------------------------------------------------------------------------


def test_images_keep_their_order_across_batches_and_sockets_and_are_fitted_by_the_encoder(
    comfy: Comfy, model: HuMoPipeline
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 30, 50, 3), dtype=np.uint8)
    batch = torch.from_numpy(pixels.astype(np.float32) / 255)
    frames, _, _ = decode(
        comfy, model, sample(comfy, model, "TI", image_1=batch[:2], image_3=batch[2:]), watermark=False
    )
    expected_frames = model(
        PROMPT, images=[Image.fromarray(image) for image in pixels], num_frames=5, num_inference_steps=2
    ).frames[0]
    assert apart(frames, np.stack([np.asarray(frame) for frame in expected_frames])) < 1e-4


def test_transparency_is_laid_over_white(comfy: Comfy) -> None:
    [image] = importlib.import_module("comfyui.values").from_images(torch.zeros(1, 4, 4, 4), "image_1")
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_values_a_little_outside_of_0_to_1_are_clipped(comfy: Comfy) -> None:
    upscaled = torch.full((1, 4, 4, 3), 1.02)
    upscaled[..., 0] = -0.03
    [image] = importlib.import_module("comfyui.values").from_images(upscaled, "image_1")
    assert image.getpixel((0, 0)) == (0, 255, 255)


def test_stereo_audio_is_mixed_for_the_model_and_kept_for_the_video(comfy: Comfy, model: HuMoPipeline) -> None:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 44_100)).astype(np.float32)
    audio = {"waveform": torch.from_numpy(samples)[None], "sample_rate": 44_100}
    sampled = sample(comfy, model, "TA", audio=audio, steps=1)
    expected = model(PROMPT, audio=(samples, 44_100), num_frames=5, num_inference_steps=1, output_type="latent").frames
    normalized = importlib.import_module("comfyui.values").from_latent(sampled[0], model)
    assert torch.allclose(normalized, expected, atol=1e-5)
    _, track, _ = decode(comfy, model, sampled)
    assert track["sample_rate"] == 44_100
    assert np.array_equal(track["waveform"][0].numpy(), samples[:, : 44_100 // 5])


def test_audio_shorter_than_the_clip_is_padded_with_silence(comfy: Comfy, model: HuMoPipeline) -> None:
    audio = {"waveform": torch.full((1, 1, 1600), 0.25), "sample_rate": 16_000}
    _, track, _ = decode(comfy, model, sample(comfy, model, "TA", audio=audio, steps=1))
    assert np.array_equal(
        track["waveform"][0].numpy(), media_audio.load_audio_track((np.full(1600, 0.25), 16_000), seconds=0.2).samples
    )
    assert track["waveform"][0, 0, 1600:].abs().max() == 0


def test_audio_that_the_mode_does_not_use_is_not_in_the_clip(comfy: Comfy, model: HuMoPipeline) -> None:
    latent, track = sample(comfy, model, "TIA", mode="TI", steps=1)
    assert track is None
    assert latent["samples"].equal(sample(comfy, model, "TI", steps=1)[0]["samples"])


# -- watermark, progress, cancelling, models ---------------------------------------------------------------------------


def test_frames_have_the_watermark_unless_it_is_disabled(comfy: Comfy, model: HuMoPipeline) -> None:
    sampled = sample(comfy, model, "TIA")
    marked, _, _ = decode(comfy, model, sampled)
    unmarked, _, _ = decode(comfy, model, sampled, watermark=False)
    payload = importlib.import_module("comfyui.nodes").latent_watermark
    assert detect_watermark(iter(saved_bytes(marked))).payload == payload(sampled[0])
    assert detect_watermark(iter(saved_bytes(unmarked))).payload is None
    assert (marked - unmarked).abs().max() <= 20 / 255
    assert payload(sample(comfy, model, "TIA", seed=1)[0]) != payload(sampled[0])


def test_the_progress_bar_shows_encoding_steps_and_decoding(
    comfy: Comfy, model: HuMoPipeline, bar_values: list[tuple[float, float]]
) -> None:
    sampled = sample(comfy, model, "TIA", steps=3)
    assert bar_values == [*((done, 3) for done in range(4)), *((done, 3) for done in range(4))]
    bar_values.clear()
    decode(comfy, model, sampled)
    assert bar_values == [(0, 1), (1, 1)]


@pytest.mark.parametrize(("method", "count"), [("Auto", 3), ("NoPreviews", 0)])
def test_each_step_has_a_preview_where_the_user_wants_them(
    comfy: Comfy, model: HuMoPipeline, method: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, utils = importlib.import_module("comfy.cli_args"), importlib.import_module("comfy.utils")
    monkeypatch.setattr(arguments.args, "preview_method", arguments.LatentPreviewMethod[method])
    utils.PREVIEWS.clear()
    sample(comfy, model, "TIA", steps=3)
    assert len(utils.PREVIEWS) == count
    for kind, image, side in utils.PREVIEWS:
        assert (kind, image.size, side) == ("JPEG", (96, 96), 512)
        assert np.asarray(image).std() > 1


def test_a_cancelled_run_ends_before_its_next_step(
    comfy: Comfy, model: HuMoPipeline, bar_values: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    management = importlib.import_module("comfy.model_management")
    utils = importlib.import_module("comfy.utils")
    stopped: type[BaseException] = management.InterruptProcessingException

    def press_cancel(_: Any, value: float, total: float, preview: Any = None) -> None:
        bar_values.append((value, total))
        management.interrupt_current_processing((value, total) == (1, 9))

    monkeypatch.setattr(utils.ProgressBar, "update_absolute", press_cancel)
    with pytest.raises(stopped):
        sample(comfy, model, steps=9)
    assert bar_values.pop() == (1, 9)
    sample(comfy, model, steps=1)  # the next run is not cancelled


def test_nodes_keep_no_state(comfy: Comfy, model: HuMoPipeline) -> None:
    before = {node_id: dict(vars(node)) for node_id, node in comfy.nodes.items()}
    first = sample(comfy, model, "TIA", steps=1)
    decode(comfy, model, first)
    assert {node_id: dict(vars(node)) for node_id, node in comfy.nodes.items()} == before
    assert first[0]["samples"].equal(sample(comfy, model, "TIA", steps=1)[0]["samples"])


def test_a_model_folder_of_another_family_is_loaded(comfy: Comfy, tiny_model_folder_17b: Any) -> None:
    inputs_by_name = {"model": str(tiny_model_folder_17b), "device": "cpu", "dtype": "bfloat16"}
    assert comfy.check("HuMo_LoadModel", **inputs_by_name) == []
    (pipeline,) = comfy.run("HuMo_LoadModel", **inputs_by_name)
    assert pipeline.preset.name == "humo-17b"
    assert pipeline.transformer.dtype == torch.bfloat16


@pytest.fixture
def comfy_files(comfy: Comfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's folder of models with a HuMo network and its companions."""
    paths = importlib.import_module("folder_paths").folder_names_and_paths
    models = save_comfyui_models(tmp_path / "models")
    (models / "loras").mkdir()
    for name in ("diffusion_models", "text_encoders", "audio_encoders", "vae"):
        monkeypatch.setitem(paths, name, ([str(models / name), str(models / "unet")], {".safetensors"}))
    monkeypatch.setenv("HUMO_MODELS", str(tmp_path / "humo"))
    return models


def test_files_of_comfyuis_folders_are_offered_and_read_where_they_are(comfy: Comfy, comfy_files: Path) -> None:
    (comfy_files / "diffusion_models" / "sub").mkdir()
    (comfy_files / "diffusion_models" / "sub" / "other.gguf").write_bytes(b"GGUF")
    choices = vars(comfy.inputs("HuMo_LoadModel")["model"])["options"]
    assert choices == ["humo-nano", "humo-nano-teacher", "humo_1.7B_fp16.safetensors", "sub/other.gguf"]
    assert comfy.inputs("HuMo_LoadModel")["model"].as_dict()["humo"]["humo_1.7B_fp16.safetensors"] == "humo-1.7b"
    chosen = {"model": "humo_1.7B_fp16.safetensors", "text_encoder": "auto", "vae": "wan_2.1_vae.safetensors"}
    assert comfy.check("HuMo_LoadModel", **chosen) == []
    (pipeline,) = comfy.run("HuMo_LoadModel", **chosen, device="cpu")
    assert pipeline.preset.name == "humo-1.7b"
    node = comfy.nodes["HuMo_LoadModel"]
    before = node.fingerprint_inputs(**chosen)
    assert node.fingerprint_inputs(**chosen) == before
    network = comfy_files / "diffusion_models" / "humo_1.7B_fp16.safetensors"
    save_file({**load_file(network)}, network, metadata={"another": "file"})
    assert node.fingerprint_inputs(**chosen) != before


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"model": "sub/x.gguf"}, "model: 'sub/x.gguf' is not in ComfyUI's folder diffusion_models; known are humo"),
        ({"vae": "wan_2.1_vea.safetensors"}, "vae: 'wan_2.1_vea.safetensors' is not in ComfyUI's folder vae; did you"),
        ({"vae": "missing"}, "vae: 'missing' is not in ComfyUI's folder vae"),
    ],
)
def test_a_file_that_is_not_there_is_one_error_before_anything_runs(
    chosen: dict[str, str], message: str, comfy: Comfy, comfy_files: Path
) -> None:
    (line,) = comfy.check("HuMo_LoadModel", **{"model": "humo_1.7B_fp16.safetensors", **chosen})
    assert line.startswith(message)


def test_a_network_without_a_companion_is_one_error_before_anything_runs(comfy: Comfy, comfy_files: Path) -> None:
    next((comfy_files / "vae").iterdir()).unlink()
    (line,) = comfy.check("HuMo_LoadModel", model="humo_1.7B_fp16.safetensors")
    assert line.startswith("vae: is needed beside humo_1.7B_fp16.safetensors, and ComfyUI's folder vae has none; ")


def test_latents_must_be_decoded_by_the_model_that_generated_them(
    comfy: Comfy, model: HuMoPipeline, tiny_model_folder: Any
) -> None:
    (other,) = comfy.run("HuMo_LoadModel", model=str(tiny_model_folder), device="cpu")
    latent, _ = sample(comfy, model, steps=1)
    with pytest.raises(RequestError, match=r"^model: is HuMo-1\.7B, and the latents come from humo-nano; connect"):
        decode(comfy, other, (latent, None))
    with pytest.raises(RequestError, match=r"^latent: has the shape \(1, 48, .*, and the model decodes \(1, 16,"):
        decode(comfy, other, ({"samples": latent["samples"]}, None))


def test_a_model_is_reloaded_when_the_weights_in_its_folder_change(comfy: Comfy, tiny_model_folder: Any) -> None:
    node = comfy.nodes["HuMo_LoadModel"]
    embedded = node.fingerprint_inputs(model="humo-nano", device="auto", dtype="auto")
    assert embedded == weights_fingerprint(BUILTIN_MODEL)
    assert embedded != node.fingerprint_inputs(model=str(tiny_model_folder), device="auto", dtype="auto")


# -- errors are one line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node_id", "values", "message"),
    [
        ("HuMo_LoadModel", {"model": "nowhere"}, "nowhere"),
        ("HuMo_LoadModel", {"dtype": "int3"}, "dtype: 'int3' is not known"),
        ("HuMo_Sampler", {"prompt": ""}, "prompt: '' is not allowed"),
        ("HuMo_Sampler", {"width": 40}, "width: 40 is not allowed; allowed: a whole number, 16 to 8192"),
        ("HuMo_Sampler", {"height": 8208}, "height: 8208 is not allowed"),
        ("HuMo_Sampler", {"frames": -1}, "frames: -1 is not allowed"),
        ("HuMo_Sampler", {"steps": 1001}, "steps: 1001 is not allowed"),
        ("HuMo_Sampler", {"steps": 0}, "steps: 0 is not allowed"),
        ("HuMo_Sampler", {"scale_text": -0.5}, "scale_text: -0.5 is not allowed; allowed: a number, 0 to 50"),
        ("HuMo_Sampler", {"overlap": 10}, "overlap: 10 is not allowed"),
        ("HuMo_Sampler", {"overlap": 24}, "overlap: 24 frames leave no new frames in windows of 25; use at most 20"),
        ("HuMo_Sampler", {"window": 24}, "window: 24 frames are not 4k + 1"),
        ("HuMo_Sampler", {"window": 97}, "window: 97 frames are more than HuMo nano supports"),
        ("HuMo_Sampler", {"mode": "I"}, "mode: 'I' is not known"),
        ("HuMo_Sampler", {"mode": "TIA"}, "mode: TIA needs images, and there are none"),
        ("HuMo_Sampler", {"mode": "TIA", "image_2": LINK}, "mode: TIA needs audio, and there are none"),
        ("HuMo_Sampler", {"preset": "humo-18b"}, "preset: 'humo-18b' is not known; did you mean 'humo-1"),
    ],
)
def test_wrong_values_are_reported_once_and_before_anything_runs(
    node_id: str, values: dict[str, Any], message: str, comfy: Comfy
) -> None:
    defaults = {name: vars(one)["default"] for name, one in comfy.inputs(node_id).items() if hasattr(one, "default")}
    if node_id == "HuMo_Sampler":
        defaults |= {"model": LINK, "prompt": PROMPT}
    (line,) = comfy.check(node_id, **{**defaults, **values})
    assert message in line
    assert "\n" not in line


def test_linked_values_are_not_checked_before_they_exist(comfy: Comfy) -> None:
    assert comfy.check("HuMo_LoadModel", model=LINK) == []
    linked = dict.fromkeys(["prompt", "width", "height", "frames", "window", "preset", "mode"], LINK)
    assert comfy.check("HuMo_Sampler", model=LINK, **linked) == []


def _linked_scale(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, scale_text=-0.5)


def _linked_width(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, width=40)


def _mode_without_input(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, mode="TIA")


def _preset_of_another_model(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, preset="humo-17b")


def _too_short_audio(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, audio={"waveform": torch.zeros(1, 1, 600), "sample_rate": 16_000})


def _two_audio_clips(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, audio={"waveform": torch.zeros(2, 1, 600), "sample_rate": 16_000})


def _audio_with_nan(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, audio={"waveform": torch.full((1, 1, 600), math.nan), "sample_rate": 16_000})


def _image_with_nan(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, image_1=torch.ones(1, 4, 4, 3), image_2=torch.full((1, 4, 4, 3), math.nan))


def _empty_image_batch(comfy: Comfy, model: HuMoPipeline) -> None:
    sample(comfy, model, image_1=torch.ones(0, 4, 4, 3))


def _missing_model(comfy: Comfy, model: HuMoPipeline) -> None:
    comfy.run("HuMo_LoadModel", model="nowhere")


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (_linked_scale, RequestError, "scale_text: -0.5 is not allowed; allowed: a number, 0 to 50"),
        (_linked_width, RequestError, "width: 40 is not allowed"),
        (_mode_without_input, RequestError, "mode: TIA needs images"),
        (_preset_of_another_model, RequestError, "preset: 'humo-17b' is not of the model, which is HuMo nano"),
        (_too_short_audio, RequestError, "audio: is shorter than one frame"),
        (_two_audio_clips, MediaError, "audio: has the shape (2, 1, 600)"),
        (_audio_with_nan, MediaError, "audio: the given array has samples that are not numbers"),
        (_image_with_nan, MediaError, "image_2[0]: the given array has values nan..nan"),
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


# -- memory and speed --------------------------------------------------------------------------------------------------


def test_settings_change_memory_and_kernels_and_not_the_frames(
    comfy: Comfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_model(tmp_path / "models" / "small", "humo-1.7b")
    monkeypatch.setenv("HUMO_MODELS", str(folder.parent))
    (plain,) = comfy.run("HuMo_LoadModel", model="small", device="cpu")
    values = {"tile": 128, "resident_blocks": 1, "attention": "sdpa", "compile": False}
    assert comfy.check("HuMo_Settings", **values) == []
    (settings,) = comfy.run("HuMo_Settings", **values)
    (disk,) = comfy.run("HuMo_LoadModel", model="small", device="cpu", offload="disk", settings=settings)
    assert disk.vae.use_tiling
    assert disk.vae.tile_sample_min_height == 128
    assert disk.execution.streamed is not None
    assert not plain.vae.use_tiling
    size: dict[str, Any] = {"width": 176, "height": 144, "steps": 1}
    expected, _, _ = decode(comfy, plain, sample(comfy, plain, "TIA", **size), watermark=False)
    frames, _, _ = decode(comfy, disk, sample(comfy, disk, "TIA", **size), watermark=False)
    apart(frames, saved_bytes(expected))


@pytest.mark.filterwarnings("ignore")  # those of the compiler's own code
def test_compile_and_attention_reach_the_network(comfy: Comfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model(tmp_path / "models" / "small", "humo-1.7b")
    monkeypatch.setenv("HUMO_MODELS", str(folder.parent))
    before = torch.get_float32_matmul_precision()
    (settings,) = comfy.run("HuMo_Settings", compile=True)
    (compiled,) = comfy.run("HuMo_LoadModel", model="small", device="cpu", settings=settings)
    (plain,) = comfy.run("HuMo_LoadModel", model="small", device="cpu")
    assert is_compiled(compiled.transformer)
    assert not is_compiled(plain.transformer)
    assert torch.get_float32_matmul_precision() == before, "a setting of the process stays"
    monkeypatch.setattr(attention_backends, "is_installed", lambda name: True)
    with pytest.raises(RequestError, match="attention: 'flash' needs an NVIDIA GPU, and the device is cpu; use"):
        comfy.run("HuMo_LoadModel", model="small", device="cpu", settings={"attention": "flash"})


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"tile": 24}, "tile: 24 is not allowed; allowed: a whole number, 0 to 8192, a multiple of 16"),
        ({"resident_blocks": -1}, "resident_blocks: -1 is not allowed; allowed: a whole number, 0 to 1000"),
        ({"attention": "flesh"}, "attention: 'flesh' is not known; did you mean 'flash'?"),
        ({"compile": "maybe"}, "compile: 'maybe' is not allowed; allowed: yes or no"),
        (
            {"attention": "sage"},
            "attention: 'sage' is not installed, or its version is not supported; install sageattention, "
            "or use --attention sdpa",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_runs(comfy: Comfy, settings: dict[str, Any], line: str) -> None:
    assert comfy.check("HuMo_Settings", **settings) == [line]


@pytest.mark.parametrize(
    ("offload", "settings", "line"),
    [
        ("auto", {"tile": 16}, "tile: 16 pixels leave nothing of a tile"),
        ("none", {"resident_blocks": 2}, "resident_blocks: 2 has no effect with offload 'none', which streams no"),
        ("auto", {"resident_blocks": 2}, "resident_blocks: 2 has no effect with offload 'auto', which streams no"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_before_it_is_loaded(
    comfy: Comfy, monkeypatch: pytest.MonkeyPatch, offload: str, settings: dict[str, Any], line: str
) -> None:
    def loaded(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(HuMoPipeline, "from_pretrained", loaded)
    with pytest.raises(RequestError, match=line):
        comfy.run("HuMo_LoadModel", model="humo-nano", device="cpu", offload=offload, settings=settings)
