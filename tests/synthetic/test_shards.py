"""Shards of takes: their contents, their dependence on the configuration alone, and folders that grow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from humo.cli import main as cli
from humo.errors import StorageError
from humo.synthetic import shards
from humo.synthetic.clip_plan import split_identities
from humo.synthetic.person.appearance import Appearance
from humo.synthetic.person.identity import Person
from humo.synthetic.render.render import render_clip
from humo.synthetic.shards import ShardFolder, open_arrays, read_config, read_values, render_shards
from humo.synthetic.speech.face_track import FaceTrack
from tests.small_shards import SMALL_SHARDS

CONFIG = dataclasses.replace(SMALL_SHARDS, sizes=((32, 48), (48, 32)))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two shards, the second at twice its size."""
    folder = tmp_path_factory.mktemp("shards")
    names = [path.name for path in render_shards(folder, CONFIG, shards=2)]
    assert names == ["shard-00000.safetensors", "shard-00001.safetensors"]
    return folder


@pytest.mark.parametrize(("number", "size", "scale"), [(0, (32, 48), 1), (1, (48, 32), 2)])
def test_a_shard_has_the_documented_arrays(rendered: Path, number: int, size: tuple[int, int], scale: int) -> None:
    with open_arrays(rendered / f"shard-{number:05}.safetensors") as file:
        arrays, values = {name: file.get_tensor(name) for name in file.keys()}, read_values(file)  # noqa: SIM118
    width, height = (scale * side for side in size)
    assert values["size"] == list(size)
    assert arrays["frames"].shape == (8, 5, height, width, 3)
    assert arrays["face"].shape == (8, 1, 5, height, -(-width // 8))
    assert arrays["mouth"].shape == (8, 1, 5, 3)
    assert arrays["reference"].shape == (4, height, width, 3)
    assert arrays["identity"].shape == (2, 128)
    assert arrays["look"].ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (arrays["start"] <= shards.SPEECH_FRAMES - 5).all()
    people = [appearance["person"] for appearance in values["looks"]]
    assert people == [2 * number, 2 * number, 2 * number + 1, 2 * number + 1]
    first, second = (values["looks"][appearance]["attributes"] for appearance in (0, 1))
    assert first["hair_style"] == second["hair_style"]
    assert first["clothes"] != second["clothes"]
    face = np.unpackbits(arrays["face"][:, 0], axis=-1, count=width).mean()
    assert 0.1 < face < 0.7


def test_the_same_configuration_gives_the_same_bytes(rendered: Path, tmp_path: Path) -> None:
    """The bytes are also the same if another process renders every second shard."""
    paths = list(render_shards(tmp_path, CONFIG, shards=2, worker=1, workers=2))
    assert [path.name for path in paths] == ["shard-00001.safetensors"]
    assert paths[0].read_bytes() == (rendered / paths[0].name).read_bytes()


def test_a_folder_has_shards_of_one_configuration(rendered: Path) -> None:
    assert read_config(rendered) == CONFIG
    with pytest.raises(StorageError, match="takes"):
        ShardFolder(rendered, dataclasses.replace(CONFIG, takes=3))
    with pytest.raises(StorageError, match="holds no shards"):
        read_config(rendered.parent)


def test_the_oldest_shards_are_deleted_if_few_are_kept(tmp_path: Path) -> None:
    small = dataclasses.replace(CONFIG, sizes=((32, 32),), takes=1, take_frames=1, double_every=0)
    endless = render_shards(tmp_path, small, keep=2)
    names = [next(endless).name for _ in range(4)]
    assert names == [f"shard-{number:05}.safetensors" for number in range(4)]
    assert shards.shard_numbers(tmp_path) == [1, 2, 3]  # it goes when the next one is asked for
    resumed = render_shards(tmp_path, small, keep=2)
    assert next(resumed).name == "shard-00004.safetensors"


def test_every_identity_is_used_before_one_repeats(tmp_path: Path) -> None:
    few = dataclasses.replace(CONFIG, people=12)
    folder, people = ShardFolder(tmp_path, few), split_identities(few.corpus(), "train")
    plans = [folder._plan(turn) for turn in range(2 * len(people))]
    assert [plan.person for plan in plans] == [*people, *people]
    assert plans[0].appearance_seed != plans[len(people)].appearance_seed


def test_the_height_determines_the_framing_of_a_rectangular_image() -> None:
    """The head has the same height in landscape as in a square of that height, and it is centered."""
    person = Person.from_seed(4)
    appearance = dataclasses.replace(Appearance.from_seed(person, 5), offset=0.0)
    heights = {}
    for size in ((48, 48), (64, 48), (48, 64)):
        frames, masks = render_clip(person, appearance, FaceTrack.at_rest(1), size, 1)
        assert frames.shape == (1, size[1], size[0], 3)
        rows, columns = np.flatnonzero(masks[0].any(axis=1)), np.flatnonzero(masks[0].any(axis=0))
        heights[size] = np.ptp(rows) + 1
        assert abs((columns[0] + columns[-1]) / 2 - (size[0] - 1) / 2) < 0.2 * size[0]
    assert abs(heights[64, 48] - heights[48, 48]) <= 1
    assert heights[48, 64] / heights[48, 48] == pytest.approx(4 / 3, rel=0.1)


def test_the_command_renders_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "render", str(tmp_path / "people"), "--frames-per-look", "1", "--clips", "2", "--seed", "3"]
    arguments += [
        "--sizes",
        "32x48,32x32",
        "--supersample",
        "1",
        "--identities",
        "60",
        "--workers",
        "1",
        "--speeches",
        "20",
    ]
    assert cli.main(arguments) == 0
    assert "1 shards written" in capsys.readouterr().out
    config = read_config(tmp_path / "people")
    assert (config.sizes, config.takes, config.take_frames) == (((32, 48), (32, 32)), 1, 1)
    assert cli.main(arguments) == 0
    assert "0 shards written, 1 existed" in capsys.readouterr().out
    assert cli.main([*arguments[:2], str(tmp_path / "people"), *arguments[3:], "--frames", "5"]) == 2


def test_captions_have_no_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "captions", str(tmp_path / "captions"), "--frames-per-look", "1", "--clips", "2"]
    assert cli.main(arguments) == 2
    assert "--frames-per-look: applies to rendered people only" in capsys.readouterr().err
