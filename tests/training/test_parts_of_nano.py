"""The trainers of the parts: a linear start that is what it says, losses that fall, runs that go on bit for bit."""

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
from humo.training import train_text_encoder
from humo.training.autoencoder_data import read_piece
from humo.training.checkpoint import finished
from humo.training.component_config import AutoencoderLoss, AutoencoderRecipe, TextRecipe
from humo.training.config import Data
from humo.training.dataset import read_attributes, read_words, scan
from humo.training.metrics_log import read_journal
from humo.training.muon import Muon
from humo.training.recipe_file import parse_recipe, parse_table
from humo.training.train_autoencoder import Components, LeastSquares, fidelity, losses, train_autoencoder
from humo.training.train_text_encoder import make_tokenizer, train_text
from tests.training.made_up import FRAMES, SIDE, values

SMALL = {"base_dim": 4, "z_dim": 6, "dim_mult": [1, 2, 2]}


def of_vae(dataset: Path, output: Path, **changes: Any) -> AutoencoderRecipe:
    plain = {
        "output": str(output),
        "network": SMALL,
        "data": {"folder": str(dataset)},
        "frames": 5,
        "crop": 16,
        "steps": 4,
        "batch": 2,
        "warmup": 0,
        "loss": {"face": 1.0, "mouth": 2.0, "eyes": 1.0, "noise": 0.1},
        "tensorboard": False,
    }
    return parse_table(plain | changes, AutoencoderRecipe)


def of_text(dataset: Path, output: Path, **changes: Any) -> TextRecipe:
    plain = {
        "output": str(output),
        "network": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        "data": {"folder": str(dataset)},
        "attributes": ["kind"],
        "steps": 4,
        "batch": 2,
        "warmup": 0,
        "tensorboard": False,
    }
    return parse_table(plain | changes, TextRecipe)


@pytest.fixture
def told(own_dataset: Path) -> Path:
    """A dataset that says of each clip whether its number is odd."""
    rows = {"id": [f"clip{n}" for n in range(6)], "kind": [("even", "odd")[n % 2] for n in range(6)]}
    pyarrow.parquet.write_table(pyarrow.table(rows), own_dataset / "truth" / "attributes.parquet")
    return own_dataset


def small(**changes: Any) -> ShortcutAutoencoder:
    torch.manual_seed(0)
    made: ShortcutAutoencoder = ShortcutAutoencoder(
        **(SMALL | {"latents_mean": [0.0] * 6, "latents_std": [1.0] * 6} | changes)
    )
    made.eval()
    return made


# -- the autoencoder --------------------------------------------------------------------------------------------------


def test_blocks_go_there_and_back() -> None:
    video = torch.randn(2, 3, 9, 16, 24)
    blocks = to_blocks(video)
    assert blocks.shape == (2, 3, 2, 3, 768)
    assert torch.allclose(from_blocks(blocks), video, atol=1e-6)


def test_patches_are_joined_as_diffusers_cuts_them() -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    from humo.model.autoencoder import _unpatch

    video = torch.randn(1, 3, 2, 8, 12)
    assert _unpatch(patchify(video, 2)).equal(video)


def test_it_is_causal_and_of_wans_geometry() -> None:
    vae, video = small(), torch.rand(1, 3, 9, 16, 16) * 2 - 1
    with torch.no_grad():
        whole = vae.encode(video).latent_dist.mode()
        start = vae.encode(video[:, :, :5]).latent_dist.mode()
        assert whole.shape == (1, 6, 3, 2, 2)
        assert torch.allclose(whole[:, :, :2], start, atol=1e-5)
        assert vae.decode(whole).sample.shape == video.shape


@pytest.mark.parametrize("frames", [1, 9])
def test_convolutions_that_add_nothing_are_not_run(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """The same latents and pixels, to the bit; those that are trained run, whatever they add."""
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
        monkeypatch.setattr(autoencoder, "adds_nothing", lambda last: False)
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


def test_the_first_step_sees_principal_components() -> None:
    """Videos of two patterns: two components say everything, and the convolutions add nothing yet."""
    patterns = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)) / 4
    weights = torch.randn(40, 2, generator=torch.Generator().manual_seed(2))
    videos = torch.einsum("bk,kcthw->bcthw", weights, patterns)
    clips = torch.cat([videos.mean(dim=2, keepdim=True), videos], dim=2)
    components = Components(6)
    components.see(clips, torch.ones(40, 5, 8, 8), torch.Generator().manual_seed(0))
    vae = small()
    components.put_into(vae)
    with torch.no_grad():
        again = vae.reconstruct(vae.encode(clips).latent_dist.mode())
    assert torch.allclose(again[:, :, 1:], videos, atol=1e-3)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_channels_are_as_alike_as_the_whitening_says(whitening: float) -> None:
    """Blocks of two directions, one nine times as strong as the other in variance."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(768, 2, generator=generator)).Q
    strength = torch.randn(900, 2, generator=generator) * torch.tensor([3.0, 1.0])
    blocks = (strength @ basis.T).view(100, 1, 3, 3, 768)
    videos = from_blocks(blocks, begins=False).clamp(-1, 1)
    components = Components(2, whitening)
    components.see(torch.cat([videos[:, :, :1], videos], dim=2), torch.ones(100, 5, 24, 24), generator)
    vae = small(z_dim=2)
    components.put_into(vae)
    with torch.no_grad():
        latents = vae.linear_encoder(to_blocks(torch.cat([videos[:, :, :1], videos], dim=2))[:, 1:]).flatten(0, 3)
    ratio = float(latents[:, 0].std() / latents[:, 1].std())
    assert ratio == pytest.approx(3.0 ** (1 - whitening), rel=0.25)


def test_neighbours_tell_what_a_latent_alone_does_not() -> None:
    """A pattern in the second block that only the first block's latent tells: least squares finds it there."""
    torch.manual_seed(0)
    told, shown = torch.randn(2, 3, 8, 8) / 4
    amount = torch.randn(60, 1, 1, 1, 1)
    left = (amount * told[:, None]).expand(-1, 3, 5, 8, 8)
    video = torch.cat([left, (amount * shown[:, None]).expand(-1, 3, 5, 8, 8)], dim=4)
    vae = small()
    vae.linear_encoder.weight.data.zero_()
    vae.linear_encoder.weight.data[0] = told[:, None].expand(3, 4, 8, 8).flatten()
    vae.linear_encoder.bias.data.zero_()
    back = LeastSquares(vae)
    back.see(video, torch.ones(60, 5, 8, 16))
    back.put_into_decoder()
    nn.init.zeros_(vae.decoder.conv_out.weight)
    nn.init.zeros_(vae.decoder.conv_out.bias)
    with torch.no_grad():
        latents = vae.linear_encoder(to_blocks(video)).movedim(-1, 1)
        assert torch.allclose(vae.reconstruct(latents)[..., 8:], video[..., 8:], atol=0.1)


def test_its_tensors_are_known_by_name_and_shape(tmp_path: Path) -> None:
    vae = small(decoder_base_dim=8)
    shapes = {name: tuple(weight.shape) for name, weight in vae.state_dict().items()}
    architecture = infer_autoencoder(shapes, vae.config)
    assert isinstance(architecture, ShortcutArchitecture)
    assert {name.diffusers: name.shape for name in tensor_names(architecture)} == shapes
    vae.save_pretrained(str(tmp_path / "vae"))
    assert isinstance(open_autoencoder(str(tmp_path / "vae")), ShortcutAutoencoder)


def test_a_run_learns_and_writes_what_inference_reads(dataset: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    small().save_pretrained(str(tmp_path / "start"))
    changes = {"folder": str(tmp_path / "start"), "gentle": 1.0, "optimiser": {"ema": 0.9}}
    asked = of_vae(dataset, tmp_path / "out", steps=80, learning_rate=5e-3, **changes)
    made = train_autoencoder(asked, note=notes.append)
    clips = scan(asked.data).clips[""]
    assert fidelity(open_autoencoder(str(made)), clips) > fidelity(small(), clips) + 2
    config: Any = open_autoencoder(str(made)).config
    assert len(set(config.latents_std)) == 1, "one deviation for all"
    assert "dB on people never seen" in notes[-1]


def test_a_resumed_run_repeats_the_losses(dataset: Path, tmp_path: Path) -> None:
    asked = of_vae(dataset, tmp_path / "whole", checkpoints={"minutes": 0, "keep": 9}, optimiser={"muon": False})
    train_autoencoder(asked)
    whole = [row["loss"] for row in read_journal(tmp_path / "whole")]
    short = asked.model_copy(update={"output": str(tmp_path / "parts"), "steps": 2, "schedule": "constant"})
    train_autoencoder(short)
    with pytest.raises(RequestError, match="holds a run already"):
        train_autoencoder(short)
    train_autoencoder(short.model_copy(update={"steps": 4}), resume=True)
    constant = asked.model_copy(update={"output": str(tmp_path / "constant"), "schedule": "constant"})
    train_autoencoder(constant)
    assert [row["loss"] for row in read_journal(tmp_path / "parts")] == [
        row["loss"] for row in read_journal(tmp_path / "constant")
    ]
    assert len(whole) == 4
    assert len(finished(tmp_path / "whole" / "checkpoints")) == 4


def test_the_decoder_alone_leaves_the_latents_alone(dataset: Path, tmp_path: Path) -> None:
    start = train_autoencoder(of_vae(dataset, tmp_path / "start"))
    made = train_autoencoder(of_vae(dataset, tmp_path / "more", folder=str(start), trains="decoder"))
    before, after = open_autoencoder(str(start)).state_dict(), open_autoencoder(str(made)).state_dict()
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"decoder", "post_quant_conv", "linear_decoder"}


def test_a_place_that_weighs_more_counts_more() -> None:
    vae, video = small(), torch.rand(1, 3, 5, 16, 16) * 2 - 1
    even = torch.ones(1, 5, 16, 16)
    with torch.no_grad():
        again = vae.reconstruct(vae.encode(video).latent_dist.mode())
    half = even.clone()
    half[..., :8] = 0
    loss = AutoencoderLoss(square=0, gradient=0, kl=0)
    vae.encoder.conv_out.weight.data.zero_()
    quiet = losses(vae, video, half, loss, seeded_generator(0))[1]
    expected = losses(vae, video, even, loss, seeded_generator(0))[1]
    assert not torch.isclose(quiet, expected)
    assert again.shape == video.shape


def test_pieces_are_cut_where_their_masks_are(dataset: Path) -> None:
    clip = scan(AutoencoderRecipe(output="x", data={"folder": str(dataset)}).data).clips[""][0]  # type: ignore[arg-type]
    whole = read_piece(clip, AutoencoderLoss(face=1.0))
    assert whole.video.shape == (3, FRAMES, SIDE, SIDE)
    assert np.unique(whole.weight[:, :16, :16]).tolist() == [2.0]
    assert np.unique(whole.weight[:, 16:]).tolist() == [1.0]
    one = read_piece(clip, AutoencoderLoss(face=1.0), 5, 16, seeded_generator("a"))
    assert one.video.shape == (3, 5, 16, 16)
    assert one.weight.shape == (5, 16, 16)


def test_clips_that_are_too_small_are_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"clip\d.mp4 is smaller than 5 frames of 64 pixels"):
        train_autoencoder(of_vae(dataset, tmp_path / "out", crop=64))


# -- the text encoder -------------------------------------------------------------------------------------------------


def test_a_text_encoder_learns_to_tell(told: Path, tmp_path: Path) -> None:
    asked = of_text(told, tmp_path / "out", steps=120, batch=6, learning_rate=1e-2, guess=0.0, optimiser={"ema": 0.9})
    notes: list[str] = []
    train_text(asked, note=notes.append)
    rows = read_journal(tmp_path / "out")
    assert np.mean([row["loss"] for row in rows[-5:]]) < 0.8 * rows[0]["loss"]
    assert notes[-1].startswith("told from captions: kind ")
    from transformers import AutoTokenizer, UMT5EncoderModel

    tokenizer: Any = AutoTokenizer.from_pretrained(str(tmp_path / "out" / "tokenizer"))
    encoder: Any = UMT5EncoderModel.from_pretrained(str(tmp_path / "out" / "text_encoder"))
    embedded = encode_text(["a person number 3 speaks"], tokenizer, encoder, 96, torch.device("cpu"))
    assert embedded.shape[2] == 16
    assert embedded.isfinite().all()


def test_a_tokenizer_reads_back_what_it_was_made_from() -> None:
    texts = ["A woman in a red coat speaks.", "A man in a blue coat is silent."]
    tokenizer = make_tokenizer(texts, 100)
    for text in texts:
        ids = tokenizer(text).input_ids
        assert ids[-1] == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert 2 not in tokenizer("a red man").input_ids


def test_attributes_that_are_not_there_are_named(told: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no column 'colour'"):
        train_text(of_text(told, tmp_path / "out", attributes=["colour"]))
    clips = scan(of_text(told, tmp_path / "out").data).clips[""]
    assert read_attributes(of_text(told, tmp_path).data, clips, ["kind"])["clip3"] == ("odd",)


def test_no_split_is_all_of_them(told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = told / "truth" / "attributes.parquet"
    table = pyarrow.parquet.read_table(path)
    splits = pyarrow.array([*["train"] * (len(table) - 1), "test"])
    pyarrow.parquet.write_table(table.append_column("split", splits), path)
    seen: list[str] = []

    def listen(texts: Sequence[str], vocabulary: int) -> Any:
        seen.extend(texts)
        return make_tokenizer(texts, vocabulary)

    monkeypatch.setattr(train_text_encoder, "make_tokenizer", listen)
    train_text(of_text(told, tmp_path / "out", data={"folder": str(told), "split": None}, batch=6, steps=1))
    assert sorted(text for text in seen if text.startswith("a person")) == [
        f"a person number {number} speaks" for number in range(len(table))
    ]


def test_words_are_read_without_their_videos(told: Path) -> None:
    shutil.rmtree(told / "video")
    plain = Data(folder=str(told))
    [three] = [clip for clip in read_words(plain, ["kind"])[""] if clip.name == "clip3"]
    assert three.attributes == ("odd",)
    assert len(three.captions) > 1
    table = pyarrow.parquet.read_table(told / "video_caption.parquet")
    pyarrow.parquet.write_table(table.slice(1), told / "video_caption.parquet")
    with pytest.raises(RequestError, match="has no row for clip clip0"):
        read_words(plain, ["kind"])


def test_the_heads_of_a_new_text_encoder_look_near(told: Path, tmp_path: Path) -> None:
    train_text(of_text(told, tmp_path / "out", steps=1, learning_rate=1e-6))
    weights = load_file(tmp_path / "out" / "text_encoder" / "model.safetensors")
    [table] = [weight for name, weight in weights.items() if "relative_attention_bias" in name]
    left, right = table[:16], table[16:]
    assert (left[:8, 0].diff() < 0).all()
    assert (right[:8, 0].diff() < 0).all()  # the first head looks to both sides,
    assert right[8, 1] < left[8, 1] - 5  # the second to the left


# -- Muon -------------------------------------------------------------------------------------------------------------


def test_muon_wants_whole_matrices(dataset: Path, tmp_path: Path) -> None:
    plain = values(dataset, tmp_path, tmp_path / "out", optimiser={"muon": True})
    with pytest.raises(RequestError, match=r"set compute.shard = false"):
        parse_recipe(plain)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (24, 24)])
def test_muon_is_torchs_own_in_bfloat16(shape: tuple[int, int]) -> None:
    """To the bit; and in float32 as near to it as bfloat16 is exact."""
    start, *gradients = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    rate, decay = 1e-2, 0.1
    ends: list[torch.Tensor] = []
    for make in (
        lambda weight: torch.optim.Muon([weight], lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        lambda weight: Muon([weight], rate, decay, torch.bfloat16),
        lambda weight: Muon([weight], rate, decay),
    ):
        weight = nn.Parameter(start.clone())
        optimiser = make(weight)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimiser.step()
        ends.append(weight.detach())
    theirs, same, finer = ends
    assert same.equal(theirs)
    assert (finer - theirs).abs().max() < 0.02 * (theirs - start).abs().max()
