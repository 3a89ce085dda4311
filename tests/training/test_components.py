"""Training of components: the linear start, losses that fall, resumed runs that repeat the losses bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from humo.checkpoints.architecture import ShortcutArchitecture, infer_autoencoder
from humo.checkpoints.keymap import tensor_names
from humo.conditioning.text import encode_text
from humo.errors import MediaError, RequestError
from humo.model import autoencoder
from humo.model.autoencoder import ShortcutAutoencoder, from_blocks, open_autoencoder, to_blocks
from humo.model.seeding import seeded_generator
from humo.training import train_text_encoder as text_encoder_training
from humo.training.autoencoder_data import read_segment
from humo.training.checkpoint import finished_checkpoints
from humo.training.component_config import AutoencoderLoss, AutoencoderRecipe, TextEncoderRecipe
from humo.training.config import DataConfig
from humo.training.dataset import read_attributes, read_captioned_clips, scan_corpus
from humo.training.metrics_log import read_log
from humo.training.muon import Muon
from humo.training.recipe_file import parse_recipe, parse_table
from humo.training.train_autoencoder import (
    LinearDecoderFit,
    PrincipalComponents,
    autoencoder_losses,
    reconstruction_psnr,
    train_autoencoder,
)
from humo.training.train_text_encoder import train_text_encoder, train_tokenizer
from tests.training.small_dataset import FRAMES, SIDE, values

SMALL = {"base_dim": 4, "z_dim": 6, "dim_mult": [1, 2, 2]}


def vae_recipe(dataset: Path, output: Path, **changes: Any) -> AutoencoderRecipe:
    plain = {
        "output": str(output),
        "network": SMALL,
        "data": {"folder": str(dataset)},
        "frames": 5,
        "crop": 16,
        "steps": 4,
        "batch_size": 2,
        "warmup_steps": 0,
        "loss": {"face": 1.0, "mouth": 2.0, "eyes": 1.0, "noise": 0.1},
        "tensorboard": False,
    }
    return parse_table(plain | changes, AutoencoderRecipe)


def text_recipe(dataset: Path, output: Path, **changes: Any) -> TextEncoderRecipe:
    plain = {
        "output": str(output),
        "network": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        "data": {"folder": str(dataset)},
        "attributes": ["kind"],
        "steps": 4,
        "batch_size": 2,
        "warmup_steps": 0,
        "tensorboard": False,
    }
    return parse_table(plain | changes, TextEncoderRecipe)


@pytest.fixture
def with_attributes(own_dataset: Path) -> Path:
    """Return a dataset with an attribute: whether a clip's number is odd."""
    rows = {"id": [f"clip{n}" for n in range(6)], "kind": [("even", "odd")[n % 2] for n in range(6)]}
    pyarrow.parquet.write_table(pyarrow.table(rows), own_dataset / "truth" / "attributes.parquet")
    return own_dataset


def small(**changes: Any) -> ShortcutAutoencoder:
    torch.manual_seed(0)
    network: ShortcutAutoencoder = ShortcutAutoencoder(
        **(SMALL | {"latents_mean": [0.0] * 6, "latents_std": [1.0] * 6} | changes)
    )
    network.eval()
    return network


# -- the autoencoder --------------------------------------------------------------------------------------------------


def test_pixel_blocks_are_split_and_merged_without_loss() -> None:
    video = torch.randn(2, 3, 9, 16, 24)
    blocks = to_blocks(video)
    assert blocks.shape == (2, 3, 2, 3, 768)
    assert torch.allclose(from_blocks(blocks), video, atol=1e-6)


def test_unpatching_inverts_patching_of_diffusers() -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    from humo.model.autoencoder import _unpatch

    video = torch.randn(1, 3, 2, 8, 12)
    assert _unpatch(patchify(video, 2)).equal(video)


def test_the_autoencoder_is_causal_and_has_the_geometry_of_wan() -> None:
    vae, video = small(), torch.rand(1, 3, 9, 16, 16) * 2 - 1
    with torch.no_grad():
        whole = vae.encode(video).latent_dist.mode()
        start = vae.encode(video[:, :, :5]).latent_dist.mode()
        assert whole.shape == (1, 6, 3, 2, 2)
        assert torch.allclose(whole[:, :, :2], start, atol=1e-5)
        assert vae.decode(whole).sample.shape == video.shape


@pytest.mark.parametrize("frames", [1, 9])
def test_convolutions_whose_output_is_zero_are_skipped(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """Latents and pixels stay the same bit for bit; with gradients, the convolutions run in any case."""
    vae, video = small(), torch.rand(1, 3, frames, 16, 32) * 2 - 1
    for last in (vae.encoder.conv_out, vae.decoder.conv_out):
        nn.init.zeros_(last.weight)
        nn.init.normal_(last.bias)
    runs: list[nn.Module] = []
    for part in (vae.encoder, vae.decoder):
        part.register_forward_hook(lambda part, *_: runs.append(part))
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        pixels = vae.reconstruct(latents)
        assert not runs
        monkeypatch.setattr(autoencoder, "is_zero", lambda last: False)
        assert vae.encode(video).latent_dist.mode().equal(latents)
        assert vae.reconstruct(latents).equal(pixels)
        assert set(runs) == {vae.encoder, vae.decoder}
    monkeypatch.undo()
    runs.clear()
    vae.reconstruct(latents)
    assert vae.decoder in runs
    nn.init.normal_(vae.decoder.conv_out.weight)
    with torch.no_grad():
        assert not vae.reconstruct(latents).equal(pixels)


def test_the_linear_start_has_principal_components() -> None:
    """Two components reconstruct videos of two patterns, and the output of the convolutions is zero."""
    patterns = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)) / 4
    weights = torch.randn(40, 2, generator=torch.Generator().manual_seed(2))
    videos = torch.einsum("bk,kcthw->bcthw", weights, patterns)
    clips = torch.cat([videos.mean(dim=2, keepdim=True), videos], dim=2)
    components = PrincipalComponents(6)
    components.update(clips, torch.ones(40, 5, 8, 8), torch.Generator().manual_seed(0))
    vae = small()
    components.initialize(vae)
    with torch.no_grad():
        decoded = vae.reconstruct(vae.encode(clips).latent_dist.mode())
    assert torch.allclose(decoded[:, :, 1:], videos, atol=1e-3)


def test_whitening_makes_the_channels_alike() -> None:
    """The ratio of two channels' deviations is that of their components to the power 1 - whitening."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(768, 2, generator=generator)).Q
    strength = torch.randn(900, 2, generator=generator) * torch.tensor([4.0, 1.0])
    video = from_blocks((strength @ basis.T).view(100, 1, 3, 3, 768), is_start=False)
    video = torch.cat([video[:, :, :1], video], dim=2)
    ratios = []
    for whitening in (0.0, 0.5, 1.0):
        components = PrincipalComponents(2, whitening)
        components.update(video, torch.ones(100, 5, 24, 24), torch.Generator().manual_seed(1))
        vae = small(z_dim=2)
        components.initialize(vae)
        with torch.no_grad():
            latents = vae.linear_encoder(to_blocks(video)).flatten(0, 3)
        ratios.append(float(latents[:, 0].std() / latents[:, 1].std()))
    assert ratios[0] > 1.2
    assert ratios[1] == pytest.approx(ratios[0] ** 0.5, rel=0.01)
    assert ratios[2] == pytest.approx(1.0, rel=0.2)


def test_the_linear_decoder_uses_neighboring_latents() -> None:
    """Least squares recovers a pattern of the second block that only the first block's latent encodes."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 8, 8) / 4
    amount = torch.randn(60, 1, 1, 1, 1)
    left = (amount * first[:, None]).expand(-1, 3, 5, 8, 8)
    video = torch.cat([left, (amount * second[:, None]).expand(-1, 3, 5, 8, 8)], dim=4)
    vae = small()
    vae.linear_encoder.weight.data.zero_()
    vae.linear_encoder.weight.data[0] = first[:, None].expand(3, 4, 8, 8).flatten()
    vae.linear_encoder.bias.data.zero_()
    back = LinearDecoderFit(vae)
    back.update(video, torch.ones(60, 5, 8, 16))
    back.initialize_decoder()
    nn.init.zeros_(vae.decoder.conv_out.weight)
    nn.init.zeros_(vae.decoder.conv_out.bias)
    with torch.no_grad():
        latents = vae.linear_encoder(to_blocks(video)).movedim(-1, 1)
        assert torch.allclose(vae.reconstruct(latents)[..., 8:], video[..., 8:], atol=0.1)


def test_its_tensors_have_known_names_and_shapes(tmp_path: Path) -> None:
    vae = small(decoder_base_dim=8)
    shapes = {name: tuple(weight.shape) for name, weight in vae.state_dict().items()}
    architecture = infer_autoencoder(shapes, vae.config)
    assert isinstance(architecture, ShortcutArchitecture)
    assert {name.diffusers: name.shape for name in tensor_names(architecture)} == shapes
    vae.save_pretrained(str(tmp_path / "vae"))
    assert isinstance(open_autoencoder(str(tmp_path / "vae")), ShortcutAutoencoder)


def test_a_trained_autoencoder_has_a_higher_psnr_and_loads(dataset: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    small().save_pretrained(str(tmp_path / "start"))
    changes = {"folder": str(tmp_path / "start"), "pixel_layer_lr_scale": 1.0, "optimizer": {"ema_decay": 0.9}}
    recipe = vae_recipe(dataset, tmp_path / "out", steps=80, learning_rate=5e-3, **changes)
    folder = train_autoencoder(recipe, note=notes.append)
    clips = scan_corpus(recipe.data).clips[""]
    assert reconstruction_psnr(open_autoencoder(str(folder)), clips) > reconstruction_psnr(small(), clips) + 2
    config: Any = open_autoencoder(str(folder)).config
    assert len(set(config.latents_std)) == 1, "one standard deviation for all channels"
    assert "dB on held-out people" in notes[-1]


def test_a_resumed_run_repeats_the_losses(dataset: Path, tmp_path: Path) -> None:
    recipe = vae_recipe(
        dataset, tmp_path / "whole", checkpoints={"every_minutes": 0, "keep_last": 9}, optimizer={"muon": False}
    )
    train_autoencoder(recipe)
    whole = [row["loss"] for row in read_log(tmp_path / "whole")]
    short = recipe.model_copy(update={"output": str(tmp_path / "parts"), "steps": 2, "lr_scheduler": "constant"})
    train_autoencoder(short)
    with pytest.raises(RequestError, match="already has a checkpoint"):
        train_autoencoder(short)
    train_autoencoder(short.model_copy(update={"steps": 4}), resume=True)
    constant = recipe.model_copy(update={"output": str(tmp_path / "constant"), "lr_scheduler": "constant"})
    train_autoencoder(constant)
    assert [row["loss"] for row in read_log(tmp_path / "parts")] == [
        row["loss"] for row in read_log(tmp_path / "constant")
    ]
    assert len(whole) == 4
    assert len(finished_checkpoints(tmp_path / "whole" / "checkpoints")) == 4


def test_training_the_decoder_alone_keeps_the_latents(dataset: Path, tmp_path: Path) -> None:
    start = train_autoencoder(vae_recipe(dataset, tmp_path / "start"))
    trained = train_autoencoder(vae_recipe(dataset, tmp_path / "more", folder=str(start), trainable="decoder"))
    before, after = open_autoencoder(str(start)).state_dict(), open_autoencoder(str(trained)).state_dict()
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"decoder", "post_quant_conv", "linear_decoder"}


def test_loss_weights_change_the_loss() -> None:
    vae, video = small(), torch.rand(1, 3, 5, 16, 16) * 2 - 1
    even = torch.ones(1, 5, 16, 16)
    with torch.no_grad():
        decoded = vae.reconstruct(vae.encode(video).latent_dist.mode())
    half = even.clone()
    half[..., :8] = 0
    loss = AutoencoderLoss(square=0, gradient=0, kl=0)
    vae.encoder.conv_out.weight.data.zero_()
    quiet = autoencoder_losses(vae, video, half, loss, seeded_generator(0))[1]
    expected = autoencoder_losses(vae, video, even, loss, seeded_generator(0))[1]
    assert not torch.isclose(quiet, expected)
    assert decoded.shape == video.shape


def test_segments_and_their_loss_weights_are_cropped_alike(dataset: Path) -> None:
    clip = scan_corpus(AutoencoderRecipe(output="x", data={"folder": str(dataset)}).data).clips[""][0]  # type: ignore[arg-type]
    whole = read_segment(clip, AutoencoderLoss(face=1.0))
    assert whole.video.shape == (3, FRAMES, SIDE, SIDE)
    assert np.unique(whole.weight[:, :16, :16]).tolist() == [2.0]
    assert np.unique(whole.weight[:, 16:]).tolist() == [1.0]
    one = read_segment(clip, AutoencoderLoss(face=1.0), 5, 16, seeded_generator("a"))
    assert one.video.shape == (3, 5, 16, 16)
    assert one.weight.shape == (5, 16, 16)


def test_clips_that_are_too_small_are_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"clip\d.mp4 is smaller than 5 frames of 64 pixels"):
        train_autoencoder(vae_recipe(dataset, tmp_path / "out", crop=64))


# -- the text encoder -------------------------------------------------------------------------------------------------


def test_a_text_encoder_learns_attributes(with_attributes: Path, tmp_path: Path) -> None:
    recipe = text_recipe(
        with_attributes,
        tmp_path / "out",
        steps=120,
        batch_size=6,
        learning_rate=1e-2,
        mask_prob=0.0,
        optimizer={"ema_decay": 0.9},
    )
    notes: list[str] = []
    train_text_encoder(recipe, note=notes.append)
    rows = read_log(tmp_path / "out")
    assert np.mean([row["loss"] for row in rows[-5:]]) < 0.8 * rows[0]["loss"]
    assert notes[-1].startswith("accuracy: kind ")
    from transformers import AutoTokenizer, UMT5EncoderModel

    tokenizer: Any = AutoTokenizer.from_pretrained(str(tmp_path / "out" / "tokenizer"))
    encoder: Any = UMT5EncoderModel.from_pretrained(str(tmp_path / "out" / "text_encoder"))
    embedded = encode_text(["a person number 3 speaks"], tokenizer, encoder, 96, torch.device("cpu"))
    assert embedded.shape[2] == 16
    assert embedded.isfinite().all()


def test_the_weights_of_a_text_encoder_follow_from_the_seed(with_attributes: Path, tmp_path: Path) -> None:
    losses = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)  # the state of torch's own generator does not matter
        train_text_encoder(text_recipe(with_attributes, tmp_path / str(number), seed=seed, steps=2))
        losses.append([row["loss"] for row in read_log(tmp_path / str(number))])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_tokenizer_reproduces_its_training_texts() -> None:
    texts = ["A woman in a red coat speaks.", "A man in a blue coat is silent."]
    tokenizer = train_tokenizer(texts, 100)
    for text in texts:
        ids = tokenizer(text).input_ids
        assert ids[-1] == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert 2 not in tokenizer("a red man").input_ids


def test_missing_attributes_are_named(with_attributes: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no column 'color'"):
        train_text_encoder(text_recipe(with_attributes, tmp_path / "out", attributes=["color"]))
    clips = scan_corpus(text_recipe(with_attributes, tmp_path / "out").data).clips[""]
    assert read_attributes(text_recipe(with_attributes, tmp_path).data, clips, ["kind"])["clip3"] == ("odd",)


def test_without_a_split_all_clips_are_used(
    with_attributes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_attributes / "truth" / "attributes.parquet"
    table = pyarrow.parquet.read_table(path)
    splits = pyarrow.array([*["train"] * (len(table) - 1), "test"])
    pyarrow.parquet.write_table(table.append_column("split", splits), path)
    recorded: list[str] = []

    def record(texts: Sequence[str], vocab_size: int) -> Any:
        recorded.extend(texts)
        return train_tokenizer(texts, vocab_size)

    monkeypatch.setattr(text_encoder_training, "train_tokenizer", record)
    train_text_encoder(
        text_recipe(
            with_attributes,
            tmp_path / "out",
            data={"folder": str(with_attributes), "split": None},
            batch_size=6,
            steps=1,
        )
    )
    assert sorted(text for text in recorded if text.startswith("a person")) == [
        f"a person number {number} speaks" for number in range(len(table))
    ]


def test_captions_are_read_without_videos(with_attributes: Path) -> None:
    shutil.rmtree(with_attributes / "video")
    plain = DataConfig(folder=str(with_attributes))
    [three] = [clip for clip in read_captioned_clips(plain, ["kind"])[""] if clip.name == "clip3"]
    assert three.attributes == ("odd",)
    assert len(three.captions) > 1
    table = pyarrow.parquet.read_table(with_attributes / "video_caption.parquet")
    pyarrow.parquet.write_table(table.slice(1), with_attributes / "video_caption.parquet")
    with pytest.raises(RequestError, match="has no row for clip clip0"):
        read_captioned_clips(plain, ["kind"])


def test_attention_of_a_new_text_encoder_is_local(with_attributes: Path, tmp_path: Path) -> None:
    train_text_encoder(text_recipe(with_attributes, tmp_path / "out", steps=1, learning_rate=1e-6))
    weights = load_file(tmp_path / "out" / "text_encoder" / "model.safetensors")
    [table] = [weight for name, weight in weights.items() if "relative_attention_bias" in name]
    left, right = table[:16], table[16:]
    assert (left[:8, 0].diff() < 0).all()
    assert (right[:8, 0].diff() < 0).all()  # the first head attends to both sides,
    assert right[8, 1] < left[8, 1] - 5  # the second to the left


# -- Muon -------------------------------------------------------------------------------------------------------------


def test_muon_refuses_sharded_weights(dataset: Path, tmp_path: Path) -> None:
    plain = values(dataset, tmp_path, tmp_path / "out", optimizer={"muon": True})
    with pytest.raises(RequestError, match=r"set compute.fsdp = false"):
        parse_recipe(plain)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (24, 24)])
def test_muon_equals_that_of_torch_in_bfloat16(shape: tuple[int, int]) -> None:
    """Bit for bit in bfloat16; in float32 up to the precision of bfloat16."""
    start, *gradients = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    rate, decay = 1e-2, 0.1
    ends: list[torch.Tensor] = []
    for make in (
        lambda weight: torch.optim.Muon([weight], lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        lambda weight: Muon([weight], rate, decay, torch.bfloat16),
        lambda weight: Muon([weight], rate, decay),
    ):
        weight = nn.Parameter(start.clone())
        optimizer = make(weight)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach())
    theirs, same, finer = ends
    assert same.equal(theirs)
    assert (finer - theirs).abs().max() < 0.02 * (theirs - start).abs().max()
