"""The convolutional decoder: pieces of a video, training on predicted latents, resumed runs, metrics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from humo import HuMoPipeline
from humo.errors import RequestError
from humo.model.autoencoder import ShortcutAutoencoder, StreamingDecoder, open_autoencoder
from humo.synthetic.shards import render_shards
from humo.training.component_config import DecoderRecipe
from humo.training.metrics_log import read_log
from humo.training.recipe_file import parse_table
from humo.training.train_decoder import LOSS_NAMES, block_edges, train_decoder, with_decoder
from tests.small_shards import SMALL_SHARDS

WIDTHS = (8, 8, 8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of square takes."""
    folder = tmp_path_factory.mktemp("people")
    config = replace(SMALL_SHARDS, sizes=((32, 32),), double_every=0)
    assert len(list(render_shards(folder, config, shards=1))) == 1
    return folder


@pytest.fixture(scope="module")
def linear_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder whose convolutions have no effect."""
    torch.manual_seed(0)
    vae = ShortcutAutoencoder(
        base_dim=8, decoder_base_dim=8, z_dim=16, latents_mean=[0.1] * 16, latents_std=[1.5] * 16, deblocking=(0.1, 0.2)
    )
    for layer in (vae.encoder.conv_out, vae.decoder.conv_out):
        torch.nn.init.zeros_(layer.weight)
    folder = tmp_path_factory.mktemp("vae")
    vae.save_pretrained(str(folder))
    return folder


def decoder_recipe(shards: Path, model: Path, vae: Path, output: Path, **changes: Any) -> DecoderRecipe:
    plain: dict[str, Any] = {
        "output": str(output),
        "model": {"folder": str(model), "vae": str(vae)},
        "data": {"folder": str(shards), "horizontal_flip": True},
        "steps": 4,
        "batch_size": 2,
        "widths": WIDTHS,
        "discriminator_width": 4,
        "frames": [1, 5],
        "warmup_steps": 0,
        "lr_scheduler": "constant",
        "loss": {"adversarial_start": 2, "mouth": 1.0},
        "tensorboard": False,
    }
    return parse_table(plain | changes, DecoderRecipe)


def test_a_video_decoded_in_pieces_is_the_same() -> None:
    vae = ShortcutAutoencoder(base_dim=4, decoder_base_dim=4, z_dim=8, decoder_widths=WIDTHS).eval()
    torch.manual_seed(0)
    assert vae.convolutional_decoder is not None
    for weight in vae.convolutional_decoder.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    latents = torch.randn(1, 8, 5, 4, 6)
    with torch.no_grad():
        whole = StreamingDecoder(vae)(latents)
        decoder = StreamingDecoder(vae)
        pieces = torch.cat([decoder(piece) for piece in latents.split([1, 3, 1], dim=2)], dim=2)
    assert whole.shape == (1, 3, 17, 32, 48)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)


def test_a_new_decoder_changes_neither_latents_nor_pixels(linear_vae: Path, tmp_path: Path) -> None:
    old: Any = open_autoencoder(str(linear_vae))
    new = with_decoder(old, decoder_recipe(tmp_path, tmp_path, linear_vae, tmp_path))
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = old.encode(video).latent_dist.mode()
        assert new.encode(video).latent_dist.mode().equal(latents)
        torch.testing.assert_close(new.reconstruct(latents), old.reconstruct(latents), rtol=0, atol=1e-6)
    assert new.num_parameters() < old.num_parameters()


def test_training_moves_the_decoder_alone_and_a_resumed_run_repeats_the_losses(
    shards: Path, linear_vae: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    whole = decoder_recipe(shards, tiny_model_folder, linear_vae, tmp_path / "whole")
    folder = train_decoder(whole)
    rows = read_log(tmp_path / "whole")
    assert [row["loss_discriminator"] > 0 for row in rows] == [False, False, True, True]
    stopped = tmp_path / "stopped"
    train_decoder(decoder_recipe(shards, tiny_model_folder, linear_vae, stopped, steps=2))
    train_decoder(decoder_recipe(shards, tiny_model_folder, linear_vae, stopped), resume=True)
    for name in LOSS_NAMES:
        assert [row[name] for row in read_log(stopped)] == [row[name] for row in rows]
    old, new = open_autoencoder(str(linear_vae)).state_dict(), open_autoencoder(str(folder)).state_dict()
    for name in ("linear_encoder.weight", "linear_decoder.weight", "linear_decoder.bias"):
        assert new[name].equal(old[name])
    assert new["convolutional_decoder.conv_out.weight"].any()
    assert set(json.loads((tmp_path / "whole" / "metrics.json").read_text())) == {
        "absolute_error",
        "sharpness",
        "block_edges",
    }


def test_the_error_goes_down(shards: Path, linear_vae: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"loss": {"adversarial": 0.0}, "frames": [1], "steps": 60, "learning_rate": 1e-2}
    changes["noise_levels"] = [0.0, 0.05]  # the network is not trained
    train_decoder(decoder_recipe(shards, tiny_model_folder, linear_vae, tmp_path, **changes))
    errors = [row["loss_absolute"] for row in read_log(tmp_path)]
    assert sum(errors[-8:]) < 0.8 * sum(errors[:8])


def test_the_autoencoder_with_its_decoder_is_a_component_of_the_pipeline(
    shards: Path, linear_vae: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = train_decoder(decoder_recipe(shards, tiny_model_folder, linear_vae, tmp_path, steps=1))
    vae: Any = open_autoencoder(str(folder))
    pipe = HuMoPipeline.from_pretrained(str(tiny_model_folder), vae=vae)
    assert pipe.vae.convolutional_decoder is not None


def test_steps_at_borders_of_tokens_are_measured() -> None:
    torch.manual_seed(0)
    video = torch.rand(2, 3, 1, 64, 48)
    assert block_edges(video) == pytest.approx(1.0, abs=0.05)
    offsets = torch.rand(2, 3, 1, 4, 3).repeat_interleave(16, dim=3).repeat_interleave(16, dim=4)
    assert block_edges(offsets * 0.5 + video * 0.1) > 3


def test_an_autoencoder_without_a_linear_decoder_is_an_error(
    shards: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    recipe = decoder_recipe(shards, tiny_model_folder, tiny_model_folder / "vae", tmp_path)
    with pytest.raises(RequestError, match=r"model.vae: .*AutoencoderKLWan.*ShortcutAutoencoder"):
        train_decoder(recipe)
