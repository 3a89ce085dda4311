"""Reading and encoding of a corpus: bad clips are named and left out, or keep the run from starting."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from humo.errors import HuMoError, MediaError, RequestError
from humo.media.face_identity import EMBEDDING_SIZE
from humo.presets import ReferenceInjection
from humo.training.collate import MAX_PREFIX_FRAMES, MAX_PREFIX_NOISE_LEVEL, Collator
from humo.training.config import DataConfig, LossConfig, Recipe
from humo.training.dataset import clips_of_split, read_truth, scan_corpus
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.latent_cache import (
    LatentCache,
    augmentation_key,
    curve_of_latent_frames,
    estimate_mouth_mask,
    even_starts,
    load_tensors,
    masks_of_latent_frames,
    self_reference_key,
)
from humo.training.preprocessing import (
    SELF_REFERENCES_PER_CLIP,
    augment_reference,
    cut_out_faces,
    nearest_size,
)
from humo.training.sampler import SampleSpec
from humo.training.train import train
from tests.training.small_dataset import FRAMES, SIDE, recipe, write_clip


def test_a_complete_folder_is_read(dataset: Path) -> None:
    folder = scan_corpus(DataConfig(folder=str(dataset)))
    clips = clips_of_split(folder, "train")
    assert [clip.name for clip in clips] == [f"clip{number}" for number in range(6)]
    assert clips[2].captions == ("a person number 2 speaks", "number 2", "somebody")
    assert not folder.bad


def test_columns_can_be_given_and_wrong_ones_are_refused(dataset: Path) -> None:
    assert clips_of_split(
        scan_corpus(DataConfig(folder=str(dataset), name_column="video", caption_column="text")), None
    )
    with pytest.raises(
        RequestError, match=r"data.caption_column: video_caption.parquet has no column 'txt'; choose among"
    ):
        scan_corpus(DataConfig(folder=str(dataset), caption_column="txt"))


def test_missing_and_mismatched_files_are_named(own_dataset: Path) -> None:
    (own_dataset / "reference_image" / "clip1.png").unlink()
    (own_dataset / "reference_image" / "clip2.png").rename(own_dataset / "reference_image" / "clipX.png")
    write_clip(own_dataset / "video" / "new.mp4", np.random.default_rng(1), None)
    (own_dataset / "reference_image" / "new.png").write_bytes(b"x")
    problems = {clip.name: clip.problem for clip in scan_corpus(DataConfig(folder=str(own_dataset))).bad}
    assert problems == {
        "clipX": "has a reference image, but no video in video/",
        "clip1": "has no reference image in reference_image/",
        "clip2": "has no reference image in reference_image/",
        "new": "has no caption in video_caption.parquet",
    }


def test_splits_are_kept_apart(own_dataset: Path) -> None:
    rows = {"name": [f"clip{number}" for number in range(5)], "split": ["train"] * 4 + ["test"]}
    pyarrow.parquet.write_table(pyarrow.table(rows), own_dataset / "truth" / "attributes.parquet")
    folder = scan_corpus(DataConfig(folder=str(own_dataset)))
    assert [clip.name for clip in clips_of_split(folder, "train")] == ["clip0", "clip1", "clip2", "clip3", "clip5"]
    assert [clip.name for clip in folder.clips["test"]] == ["clip4"]


@pytest.mark.parametrize("name", ["video", "video_caption.parquet"])
def test_a_folder_of_another_layout_is_refused(own_dataset: Path, name: str) -> None:
    (own_dataset / name).rename(own_dataset / "elsewhere")
    with pytest.raises(HuMoError, match=f"has no .*{name}"):
        scan_corpus(DataConfig(folder=str(own_dataset)))


def test_broken_clips_are_left_out_and_named(own_dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    (own_dataset / "video" / "clip1.mp4").write_bytes(b"not a video")
    (own_dataset / "truth" / "clip2.npz").write_bytes(b"PK not a zip")
    write_clip(own_dataset / "video" / "clip3.mp4", np.random.default_rng(1), None, frames=4)
    (own_dataset / "reference_image" / "clip4.png").write_bytes(b"\x89PNG")
    notes: list[str] = []
    settings = recipe(own_dataset, tiny_model_folder, tmp_path / "out")
    with pytest.raises(MediaError, match=r"4 of 6 clips are bad, more than 5%: clip1 \(video: "):
        train(settings, note=notes.append)
    assert [note.split(": ")[1] for note in notes] == ["clip1", "clip2", "clip3", "clip4"]
    assert "has 4 frames at 25 a second, fewer than 9" in notes[2]
    assert not (tmp_path / "out" / "checkpoints").exists()
    allowed = settings.model_copy(update={"data": settings.data.model_copy(update={"max_bad_fraction": 0.7})})
    train(allowed)
    assert (tmp_path / "out" / "bad_clips.tsv").read_text().count("\n") == 4


def test_clips_of_several_folders_are_one_corpus(own_dataset: Path, dataset: Path) -> None:
    (own_dataset / "reference_image" / "clip3.png").unlink()
    corpus = scan_corpus(DataConfig(folder=str(dataset), extra_folders=(str(own_dataset),)))
    names = [clip.name for clip in clips_of_split(corpus, None)]
    assert names == [f"clip{number}" for number in range(6)] + [f"clips-clip{number}" for number in (0, 1, 2, 4, 5)]
    assert [one.name for one in corpus.bad] == ["clips-clip3"]


def test_cached_files_are_addressed_by_content(own_dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    settings = recipe(own_dataset, tiny_model_folder, tmp_path / "out")
    clips = clips_of_split(scan_corpus(settings.data), None)

    def fill() -> dict[str, list[tuple[Path, int]]]:
        cache = LatentCache(settings, FrozenEncoders(settings.model))
        cached, bad = cache.encode_missing(clips, lambda name, done, total: None)
        assert not bad
        return {clip.name: [(path, path.stat().st_mtime_ns) for path in clip.paths] for clip in cached}

    first = fill()
    assert fill() == first, "nothing is encoded twice"
    first["clip3"][0][0].write_bytes(b"broken")
    write_clip(own_dataset / "video" / "clip0.mp4", np.random.default_rng(7), 300)
    second = fill()
    assert {name for name in first if first[name] != second[name]} == {"clip0", "clip3"}
    assert second["clip3"][0][0] == first["clip3"][0][0], "a damaged file is written again"
    assert second["clip3"][1:] == first["clip3"][1:], "captions and audio are unchanged"
    assert second["clip0"][1] == first["clip0"][1], "another video has the same captions"


def test_a_reference_has_several_augmentations(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Each has latents of its own; the first one is the image itself."""
    data = {"folder": str(dataset), "resolutions": [[SIDE, SIDE], [2 * SIDE, SIDE]]}
    settings = recipe(dataset, tiny_model_folder, tmp_path / "out", data=data | {"reference_augmentations": 4})
    cache = LatentCache(settings, FrozenEncoders(settings.model))
    clip = cache.encode_missing(clips_of_split(scan_corpus(settings.data), None)[:1], lambda name, done, total: None)[
        0
    ][0]
    cached = load_tensors(clip, ["reference", *(augmentation_key((SIDE, SIDE), number) for number in range(4))])
    plain = cached.pop("reference")
    assert cached[augmentation_key((SIDE, SIDE), 0)].equal(plain)
    assert all(not one.equal(other) for one, other in itertools.combinations(cached.values(), 2))
    assert load_tensors(clip, [augmentation_key((2 * SIDE, SIDE), 3)])
    image = Image.new("RGB", (100, 200))
    assert [view.size for view in augment_reference(image, 3)] == [(100, 200), (100, 200), (84, 170)]


def test_a_cut_out_face_shows_nothing_else_of_its_clip() -> None:
    """Shifted, scaled and flipped on a plain color, each differently."""
    frames = np.zeros((9, 80, 80, 3), np.uint8)
    frames[..., 0] = 255  # red all over, and the face half red, half blue
    frames[:, 20:60, 40:60] = (0, 0, 255)
    masks = np.zeros((9, 40, 40), bool)
    masks[:, 10:30, 10:30] = True
    faces = [np.asarray(one).astype(int) for one in cut_out_faces(frames, masks, torch.Generator().manual_seed(0))]
    repeated = [np.asarray(one).astype(int) for one in cut_out_faces(frames, masks, torch.Generator().manual_seed(0))]
    assert len(faces) == SELF_REFERENCES_PER_CLIP
    assert all((one == other).all() for one, other in zip(faces, repeated, strict=True))
    assert all((one != other).any() for one, other in itertools.combinations(faces, 2))
    for face in faces:
        plain = np.abs(face - face[0, 0]).sum(axis=-1) < 3
        red = np.abs(face - (255, 0, 0)).sum(axis=-1) < 30
        blue = np.abs(face - (0, 0, 255)).sum(axis=-1) < 30
        assert 0.3 < plain.mean() < 0.9, "a face fills a quarter of the frame, and a little around it"
        assert min(red.mean(), blue.mean()) > 0.08


def test_a_reference_can_be_cut_out_of_the_clip_itself(
    own_dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """With the given probability; without face masks the reference image is used."""
    (own_dataset / "truth" / "clip1.npz").unlink()
    data = {"folder": str(own_dataset), "resolutions": [[SIDE, SIDE]], "self_reference_prob": 1.0}
    settings = recipe(own_dataset, tiny_model_folder, tmp_path / "out", data=data)
    cache = LatentCache(settings, FrozenEncoders(settings.model))
    with_masks, without = cache.encode_missing(
        clips_of_split(scan_corpus(settings.data), None)[:2], lambda name, done, total: None
    )[0]
    assert (with_masks.self_references, without.self_references) == (SELF_REFERENCES_PER_CLIP, 0)
    collate = replace(collator(settings, cache), self_reference_prob=1.0)
    own = [
        load_tensors(with_masks, [self_reference_key(number)])[self_reference_key(number)]
        for number in range(SELF_REFERENCES_PER_CLIP)
    ]
    for clip, known in ((with_masks, own), (without, [load_tensors(without, ["reference"])["reference"]])):
        batch = collate((SIDE, SIDE, FRAMES), [SampleSpec(clip, False, ("sample", number)) for number in range(12)])
        augmentations = [
            next(k for k, one in enumerate(known) if one.allclose(image[:, -1:], atol=1e-3))
            for image in batch.conditions.image
        ]
        assert set(augmentations) == set(range(len(known)))


def collator(settings: Recipe, cache: LatentCache) -> Collator:
    """Return a collator that keeps all conditions and augments nothing."""
    return Collator(
        injection=ReferenceInjection.FRAME_REPLACE,
        loss=settings.loss,
        condition_probs={"TIA": 1.0},
        paraphrase_prob=0.0,
        self_reference_prob=0.0,
        continuation_prob=0.0,
        null_text=cache.null_text(),
        blank_latents=cache.blank_latents,
        audio_shape=(cache.bands, FrozenEncoders(settings.model).audio_width),
        mouth_statistics=torch.tensor([[0.0], [1.0]]).expand(2, 3),
        identity_statistics=torch.tensor([[0.0], [1.0]]).expand(2, EMBEDDING_SIZE),
    )


def test_a_sample_can_have_prefix_latent_frames(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """They are almost without noise and have no loss."""
    settings = recipe(dataset, tiny_model_folder, tmp_path / "out")
    cache = LatentCache(settings, FrozenEncoders(settings.model))
    clip = cache.encode_missing(clips_of_split(scan_corpus(settings.data), None)[:1], lambda name, done, total: None)[
        0
    ][0]
    bucket = (SIDE, SIDE, max(settings.stages[0].frames))
    specs = [SampleSpec(clip, False, ("sample", number)) for number in range(40)]
    plain = collator(settings, cache)
    continued = replace(plain, continuation_prob=0.5)
    batch = continued(bucket, specs)
    latents = batch.data.shape[2]
    assert latents > 2
    assert set(batch.prefix_frames.tolist()) == set(range(min(MAX_PREFIX_FRAMES, latents - 1) + 1))
    assert 10 < (batch.prefix_frames > 0).sum() < 30
    weight = batch.loss_weights(LossConfig())
    assert weight is not None
    for number, known in enumerate(batch.prefix_frames.tolist()):
        levels = batch.frame_noise_levels[number]
        assert (levels[:known] <= MAX_PREFIX_NOISE_LEVEL).all()
        assert (levels[known:] == batch.noise_level[number]).all()
        assert not weight[number, :known].any()
        assert (weight[number, known:] == 1).all()
    without = plain(bucket, specs)
    assert not without.prefix_frames.any()
    assert without.loss_weights(LossConfig()) is None
    assert without.noise.equal(batch.noise), "the other draws are the same"
    assert without.noise_level.equal(batch.noise_level)
    assert not continued(bucket, specs, 0.5).prefix_frames.any(), "validation has no prefix"


def test_a_cached_clip_has_every_segment(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    settings = recipe(
        dataset,
        tiny_model_folder,
        tmp_path / "out",
        data={"folder": str(dataset), "resolutions": [[SIDE, SIDE]], "segments_per_clip": 2, "horizontal_flip": True},
    )
    cache = LatentCache(settings, FrozenEncoders(settings.model))
    clips, _ = cache.encode_missing(clips_of_split(scan_corpus(settings.data), None), lambda name, done, total: None)
    clip = clips[3]
    assert (clip.starts, clip.frames, clip.segments, clip.captions, clip.has_audio) == ((0, 4), 9, 4, 3, True)
    assert not clips[5].has_audio
    cached = load_tensors(clip, ["latents.0", "latents.3", "face.0", "face.2", "area.1", "mouth.1", "rows", "text.2"])
    assert cached["latents.3"].shape == (16, 3, 4, 4)
    assert cached["face.0"].shape == (3, 2, 2)
    assert cached["face.2"].equal(cached["face.0"].flip(-1))
    assert cached["mouth.1"].shape == (3, 4, 3)
    truth = read_truth(dataset / "truth" / "clip3.npz")
    assert truth.mouth is not None
    np.testing.assert_allclose(cached["mouth.1"][1:].reshape(-1, 3), truth.mouth[5:13], atol=1e-3)
    assert cached["rows"].shape == (FRAMES, 5, 16)


def test_masks_sizes_and_frame_rates() -> None:
    import torch

    assert nearest_size(1920, 1080, [(480, 832), (832, 480)]) == (832, 480)
    assert even_starts(10, 3) == [0, 5, 10]
    assert even_starts(1, 4) == [0, 1]
    masks = torch.arange(9.0).view(9, 1, 1)
    assert masks_of_latent_frames(masks).flatten().tolist() == [0, 2.5, 6.5]
    curve = curve_of_latent_frames(torch.arange(5.0)[:, None])
    assert curve[0].isnan().sum() == 3
    assert curve[1].flatten().tolist() == [1, 2, 3, 4]
    face = np.zeros((1, 20, 20), bool)
    face[0, 0:10, 5:15] = True
    area = estimate_mouth_mask(face)[0]
    assert np.flatnonzero(area.any(axis=1)).tolist() == [5, 6, 7, 8, 9]
    assert np.flatnonzero(area.any(axis=0)).tolist() == [7, 8, 9, 10, 11, 12]
