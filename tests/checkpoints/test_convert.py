"""The released tree becomes a model folder and comes back bit for bit; what is left out is accounted for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from humo.checkpoints.architecture import SpeechEncoderArchitecture
from humo.checkpoints.convert import convert
from humo.checkpoints.keymap import tensor_names
from humo.errors import CheckpointError, HuMoError, RequestError, StorageError
from tests.checkpoints import released

FAMILIES = ("humo-17b", "humo-1.7b")


def load(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    """All tensors of a part, from one file or its shards."""
    files = sorted(folder.glob(f"{stem}*.safetensors"))
    assert files
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(left[name].dtype == right[name].dtype for name in right)
    assert all(torch.equal(left[name], right[name]) for name in right)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=FAMILIES)
def converted(request: pytest.FixtureRequest, released_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("converted") / request.param
    convert(released_tree, folder, family=request.param, head_dim=released.HEAD_WIDTH)
    return folder


def test_a_converted_tree_comes_back_bit_for_bit_under_the_released_names(converted: Path, tmp_path: Path) -> None:
    report = convert(converted, tmp_path / "back", naming="published")
    back = tmp_path / "back"
    family = json.loads((converted / "model_index.json").read_text())["preset"]
    folder, stem = {"humo-17b": ("HuMo/HuMo-17B", "humo"), "humo-1.7b": ("HuMo/HuMo-1.7B", "ema")}[family]
    speech = {name: tensor for name, tensor in released.speech_weights().items() if "decoder" not in name}
    assert_equal(load(back / folder, stem), released.transformer_weights(family))
    assert_equal(load(back / "Wan2.1-T2V-1.3B", "Wan2.1_VAE"), released.autoencoder_weights())
    assert_equal(load(back / "Wan2.1-T2V-1.3B", "models_t5_umt5-xxl-enc-bf16"), released.text_weights())
    assert_equal(load(back / "whisper-large-v3", "model"), speech)
    assert report.dropped == ()
    assert report.ignored == ()
    assert not list(back.rglob("*.pth"))


def test_ours_to_published_to_ours_is_the_same_folder_byte_for_byte(converted: Path, tmp_path: Path) -> None:
    convert(converted, tmp_path / "published", naming="published")
    convert(tmp_path / "published", tmp_path / "ours")
    before, after = files_of(converted), files_of(tmp_path / "ours")
    config = "audio_encoder/config.json"
    assert json.loads(before.pop(config)) == json.loads(after.pop(config))
    assert before == after


def test_the_model_folder_is_laid_out_as_diffusers_does(converted: Path) -> None:
    index = json.loads((converted / "model_index.json").read_text())
    assert index["_class_name"] == "HuMoPipeline"
    assert index["transformer"] == ["humo.model.transformer", "HuMoTransformer3DModel"]
    assert {path.name for path in converted.iterdir()} == {*index} - {
        "_class_name",
        "_diffusers_version",
        "preset",
    } | {"model_index.json"}
    assert (converted / "tokenizer" / "spiece.model").read_bytes() == released.sentence_pieces()
    assert json.loads((converted / "feature_extractor" / "preprocessor_config.json").read_text())["feature_size"] == 128
    assert set(load(converted / "audio_encoder", "model")) >= {"layers.0.self_attn.q_proj.weight", "conv1.weight"}


def test_averaged_weights_are_taken_and_every_training_extra_is_listed(released_tree: Path, tmp_path: Path) -> None:
    report = convert(released_tree / "HuMo" / "HuMo-1.7B" / "ema.pth", tmp_path / "out", head_dim=24)
    reasons = {dropped.name: dropped.reason for dropped in report.dropped}
    count = len(released.transformer_weights("humo-1.7b"))
    assert reasons["ema.blocks.2.mask_predictor.0.weight"].startswith("used in training only")
    assert reasons["ema.num_updates"] == "bookkeeping of training"
    assert reasons["step"] == "a value, not a tensor"
    assert reasons["optimizer.state.0.exp_avg"].startswith("state of the training")
    assert sum("averaged" in reason for reason in reasons.values()) == count
    assert report.components[0].tensors == count
    assert report.preset == "humo-1.7b"


def test_each_file_that_is_not_needed_is_listed_with_the_reason(released_tree: Path, tmp_path: Path) -> None:
    report = convert(released_tree, tmp_path / "out", family="humo-17b", head_dim=released.HEAD_WIDTH)
    ignored = {item.path.name: item.reason for item in report.ignored}
    assert ignored["zero_vae_129frame.pt"].startswith("latents of an empty video")
    assert ignored["Kim_Vocal_2.onnx"].startswith("the vocal separator")
    assert ignored["diffusion_pytorch_model.safetensors"] == "is Wan2.1 without HuMo's audio layers"
    assert ignored["pytorch_model.bin"].startswith("the same weights")
    assert ignored["model.fp32-00001-of-00002.safetensors"] == "the same weights in float32"
    assert ignored["ema.pth"] == "of the other family, humo-1.7b"
    assert report.dropped_by_reason() == {"Whisper's decoder is not used": 2}
    assert report.notes == ()


def test_two_families_in_one_tree_need_a_choice(released_tree: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"contains both humo-1\.7b and humo-17b; choose one with --family"):
        convert(released_tree, tmp_path / "out", head_dim=24)


def test_the_family_that_is_not_there_is_an_error(released_tree: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"contains humo-17b, not humo-1\.7b; use --family humo-17b"):
        convert(released_tree / "HuMo" / "HuMo-17B", tmp_path / "out", family="humo-1.7b")


@pytest.mark.parametrize(("argument", "value"), [("family", "humo-17"), ("dtype", "bf15"), ("naming", "diffuser")])
def test_an_unknown_value_of_an_option_gets_the_nearest_as_remedy(
    argument: str, value: str, released_tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="did you mean"):
        convert(released_tree, tmp_path / "out", **{argument: value})  # type: ignore[arg-type]


def test_an_error_in_one_family_is_reported_and_the_other_is_not_taken(released_tree: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ema\.pth: weights cannot divide 96 channels into heads of 128"):
        convert(released_tree, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"ema\.pth: weights cannot divide"):
        convert(released_tree, tmp_path / "out", family="humo-1.7b")


def test_parts_may_come_from_files_that_lie_apart(released_tree: Path, tmp_path: Path) -> None:
    wan = released_tree / "Wan2.1-T2V-1.3B"
    report = convert([wan / "Wan2.1_VAE.pth", released_tree / "HuMo" / "HuMo-17B"], tmp_path / "out")
    assert [component.component for component in report.components] == ["transformer", "vae"]
    assert report.notes == (
        "not among the sources: text_encoder, audio_encoder; convert again with their files as further sources",
    )


def test_a_single_part_needs_no_family_and_makes_no_model_index(released_tree: Path, tmp_path: Path) -> None:
    report = convert(released_tree / "whisper-large-v3" / "model.safetensors", tmp_path / "out")
    assert report.preset is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audio_encoder", "feature_extractor"]


def test_another_type_is_written_only_when_it_is_asked_for(released_tree: Path, tmp_path: Path) -> None:
    as_stored = convert(released_tree, tmp_path / "stored", family="humo-17b")
    assert [component.dtypes for component in as_stored.components] == [
        {"F32": 140},
        {"F32": 194},
        {"BF16": 32},
        {"F16": 487},
    ]
    report = convert(tmp_path / "stored", tmp_path / "asked", dtype="bf16")
    assert all(set(component.dtypes) == {"BF16"} for component in report.components)
    wanted = {name: tensor.bfloat16() for name, tensor in load(tmp_path / "stored" / "vae", "diffusion").items()}
    assert_equal(load(tmp_path / "asked" / "vae", "diffusion"), wanted)


def test_large_weights_are_split_with_an_index_and_read_back(converted: Path, tmp_path: Path) -> None:
    report = convert(converted, tmp_path / "split", shard_bytes=400_000)
    transformer = report.components[0]
    assert len(transformer.files) > 3
    assert all((tmp_path / "split" / file).stat().st_size < 450_000 for file in transformer.files)
    index = json.loads((tmp_path / "split/transformer/diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == transformer.bytes
    assert set(index["weight_map"].values()) == {file.name for file in transformer.files}
    stem = "diffusion_pytorch_model"
    assert_equal(load(tmp_path / "split" / "transformer", stem), load(converted / "transformer", stem))


def test_progress_ends_at_the_size_of_each_part(released_tree: Path, tmp_path: Path) -> None:
    reported: dict[str, list[tuple[int, int]]] = {}

    def progress(component: str, done_bytes: int, total_bytes: int) -> None:
        reported.setdefault(component, []).append((done_bytes, total_bytes))

    report = convert(released_tree, tmp_path / "out", family="humo-1.7b", head_dim=24, progress=progress)
    assert list(reported) == ["transformer", "vae", "text_encoder", "audio_encoder"]
    assert {component: steps[-1] for component, steps in reported.items()} == {
        component.component: (component.bytes, component.bytes) for component in report.components
    }
    assert all(steps == sorted(steps) for steps in reported.values())


@pytest.mark.parametrize("change", ["missing", "strange", "shape"])
def test_every_tensor_must_be_there_known_and_of_the_implied_shape(change: str, golden: Path, tmp_path: Path) -> None:
    weights = released.transformer_weights("humo-17b")
    key = "blocks.1.self_attn.norm_q.weight"
    if change == "missing":
        del weights[key]
    elif change == "strange":
        weights["blocks.1.novelty.weight"] = torch.ones(3)
    else:
        weights[key] = torch.ones(95)
    save_file(weights, tmp_path / "humo.safetensors")
    expected = {
        "missing": rf"lacks {key}",
        "strange": r"has tensors that the model does not have: blocks\.1\.novelty\.weight",
        "shape": r"of shape \(95,\), not \(96,\)",
    }
    with pytest.raises(CheckpointError, match=expected[change]):
        convert(tmp_path / "humo.safetensors", tmp_path / "out", head_dim=24)
    assert not (tmp_path / "out").exists()


def test_a_width_that_does_not_divide_into_heads_asks_for_their_width(golden: Path, tmp_path: Path) -> None:
    save_file(released.transformer_weights("humo-17b"), tmp_path / "humo.safetensors")
    with pytest.raises(CheckpointError, match="give the width of a head"):
        convert(tmp_path / "humo.safetensors", tmp_path / "out")


def test_encoders_of_another_width_do_not_fit_the_transformer(released_tree: Path, tmp_path: Path) -> None:
    architecture = SpeechEncoderArchitecture(48, 2, 2, 64, 128, 1500)
    other = released.fill({name.diffusers: name.shape for name in tensor_names(architecture)})
    save_file(other, tmp_path / "speech.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(architecture.config()))
    with pytest.raises(CheckpointError, match="has 48 channels, but this transformer takes 32"):
        convert([released_tree / "HuMo" / "HuMo-17B", tmp_path / "speech.safetensors"], tmp_path / "out")


def test_a_network_that_predicts_the_sample_is_not_written_in_the_published_layout(
    converted: Path, tmp_path: Path
) -> None:
    shutil.copytree(converted / "transformer", tmp_path / "in" / "transformer")
    path = tmp_path / "in" / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction": "sample"}))
    convert(tmp_path / "in", tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "transformer" / "config.json").read_text())["prediction"] == "sample"
    with pytest.raises(
        CheckpointError, match="predicts 'sample', but networks in the published layout predict velocity"
    ):
        convert(tmp_path / "in", tmp_path / "theirs", naming="published")
    assert not (tmp_path / "theirs").exists()


def test_the_same_part_twice_is_an_error_that_names_both(released_tree: Path, tmp_path: Path) -> None:
    shutil.copyfile(released_tree / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth", tmp_path / "again.pth")
    with pytest.raises(CheckpointError, match=r"more than once: .*Wan2\.1_VAE\.pth and .*again\.pth"):
        convert([released_tree / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth", tmp_path], tmp_path / "out")


def test_a_folder_that_is_there_is_replaced_only_on_demand(released_tree: Path, tmp_path: Path) -> None:
    source, out = released_tree / "whisper-large-v3", tmp_path / "out"
    convert(source, out)
    with pytest.raises(StorageError, match="is not empty"):
        convert(source, out)
    (out / "audio_encoder" / "stale").write_text("")
    convert(source, out, overwrite=True)
    assert not (out / "audio_encoder" / "stale").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_folder_with_anything_of_the_users_is_never_replaced(released_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"contains 'thesis\.txt'"):
        convert(released_tree / "whisper-large-v3", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_destination_that_holds_the_source_is_refused(converted: Path) -> None:
    with pytest.raises(StorageError, match="contains the source"):
        convert(converted, converted, overwrite=True)
    assert (converted / "model_index.json").is_file()


def test_a_failure_half_way_leaves_nothing_behind(
    released_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(component: str, done_bytes: int, total_bytes: int) -> None:
        if component == "vae":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(released_tree, tmp_path / "out", family="humo-17b", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_is_noticed_before_anything_is_written(
    released_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(StorageError, match="are free"):
        convert(released_tree, tmp_path / "out", family="humo-17b")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_there_or_holds_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HuMoError, match="has no weights of HuMo"):
        convert(tmp_path / "empty", tmp_path / "out")


def test_a_folder_made_inside_its_source_is_not_read_the_next_time(released_tree: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(released_tree / "whisper-large-v3", source / "whisper-large-v3")
    convert(source, source / "out")
    report = convert(source, source / "out", overwrite=True)
    assert len(report.components) == 1
