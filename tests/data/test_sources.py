"""Sources: folders, lists, and the manifests of published datasets as they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from humo.data.remote_files import local_copy
from humo.data.sources import MissingRow, Source, find_sources
from humo.data.tables import write_table
from humo.errors import DependencyError, HuMoError, MediaError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.mp4").write_bytes(name.encode())
    (folder / "notes.txt").write_text("no video")
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        names = list(rows[0])
        lines = [",".join(f'"{row[name]}"' for name in names) for row in rows]
        path.write_text("\n".join([",".join(names), *lines]) + "\n")
    else:
        write_table(path, dict.fromkeys(rows[0], "text"), rows)
    return path


def _names(sources: tuple[Source, ...]) -> list[str]:
    return [Path(source.path).name for source in sources]


def test_a_folder_gives_its_videos_by_name(videos: Path) -> None:
    assert _names(find_sources([str(videos)], {}).sources) == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_list_names_paths_beside_it(videos: Path) -> None:
    listing = videos / "some.txt"
    listing.write_text("# chosen\nb.mp4\n\nmissing.mp4\n")
    inputs = find_sources([str(listing)], {})
    assert _names(inputs.sources) == ["b.mp4"]
    assert inputs.missing == (MissingRow("some.txt", "missing.mp4"),)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["path", "video", "video_path", "file_name"])
def test_a_table_of_any_format_gives_paths_and_captions(column: str, suffix: str, videos: Path) -> None:
    manifest = _write(videos / f"metadata{suffix}", [{column: "a.mp4", "prompt": "A man talks."}])
    (source,) = find_sources([str(manifest)], {}).sources
    assert (Path(source.path).name, source.caption) == ("a.mp4", "A man talks.")


@pytest.mark.parametrize(
    ("row", "span"),
    [
        ({"start": 1.5, "end": 4}, (1.5, 4.0)),
        ({"start_time": "0:01:02.5", "end_time": "0:01:10"}, (62.5, 70.0)),
        ({"timestamp": "['0:00:01.000', '0:00:09.5']"}, (1.0, 9.5)),
        ({"timestamp": ["0:00:01", "0:00:09"]}, (1.0, 9.0)),
    ],
)
def test_a_row_may_name_a_part_of_a_video(row: dict[str, Any], span: tuple[float, float], videos: Path) -> None:
    manifest = _write(videos / "parts.jsonl", [{"path": "a.mp4", **row}])
    (source,) = find_sources([str(manifest)], {}).sources
    assert (source.start, source.end) == span


def test_the_longest_prefix_that_fits_is_replaced(videos: Path) -> None:
    manifest = _write(videos.parent / "rows.jsonl", [{"path": "/old/deep/a.mp4"}, {"path": "/old/x.mp4"}])
    inputs = find_sources([str(manifest)], {"/old/": "/nowhere/", "/old/deep/": f"{videos}/"})
    assert _names(inputs.sources) == ["a.mp4"]
    assert [row.path for row in inputs.missing] == ["/nowhere/x.mp4"]


def test_clips_of_one_video_of_openhumanvid_are_a_group(videos: Path) -> None:
    stem = "ab" * 32
    for span in ("000010_000120", "000300_000420"):
        (videos / f"{stem}_{span}.mp4").write_bytes(b"x")
    groups = {source.group for source in find_sources([str(videos)], {}).sources if stem in source.path}
    assert groups == {stem}


def test_opens2v_rows_name_frames_crops_and_captions(videos: Path) -> None:
    rows = {
        "key": {
            "metadata": {"path": "a.mp4", "face_cut": [10, 90], "crop": [0, 1280, 40, 680], "face_cap_qwen": "A cook."},
            "annotation": {},
        }
    }
    manifest = videos / "total_part1.json"
    manifest.write_text(json.dumps(rows))
    (source,) = find_sources([str(manifest)], {}).sources
    assert (source.frames, source.crop, source.caption) == ((10, 90), (0.0, 40.0, 1280.0, 680.0), "A cook.")


def test_phantom_data_rows_name_references_in_other_clips(videos: Path) -> None:
    pair = {
        "a red mug": {
            "obj_from_tgt_video": [],
            "refer_result": [{"vid": "b", "frame_idx": 0.25, "bbox": [1, 2, 30, 40]}],
        }
    }
    manifest = videos / "pairs.jsonl"
    manifest.write_text(json.dumps({"vid": "a", "video_caption": "A red mug.", "cross_pair": pair}) + "\n")
    (source,) = find_sources([str(manifest)], {}).sources
    (reference,) = source.references
    assert Path(source.path).name == "a.mp4"
    assert Path(reference["path"]).name == "b.mp4"
    assert (reference["instant"], reference["box"], reference["phrase"]) == (0.25, [1.0, 2.0, 30.0, 40.0], "a red mug")


def test_a_dataset_in_humosets_layout_gives_its_videos_with_their_captions(videos: Path) -> None:
    videos.rename(videos.parent / "video")
    _write(videos.parent / "video_caption.parquet", [{"id": "a", "caption": "A man."}, {"id": "gone", "caption": "x"}])
    inputs = find_sources([str(videos.parent)], {})
    assert [(Path(each.path).name, each.caption) for each in inputs.sources] == [("a.mp4", "A man.")]
    assert len(inputs.missing) == 1


def test_addresses_are_listed_by_their_file_system(videos: Path) -> None:
    inputs = find_sources([f"file://{videos}"], {})
    assert _names(inputs.sources) == ["a.mp4", "b.mp4", "c.mp4"]
    assert all(source.path.startswith("file://") for source in inputs.sources)


@pytest.mark.parametrize("name", ["rows.csv", "names.txt"])
def test_a_manifest_at_an_address_names_files_beside_it(name: str, videos: Path) -> None:
    (videos / "rows.csv").write_text("path,caption\na.mp4,hello\n")
    (videos / "names.txt").write_text("# a list\na.mp4\n")
    (source,) = find_sources([f"file://{videos}/{name}"], {}).sources
    assert source.path == f"file://{videos}/a.mp4"
    assert source.caption == ("hello" if name == "rows.csv" else "")


def test_a_remote_file_that_changed_is_copied_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humo.data.remote_files.CACHE", tmp_path / "cache")
    file = tmp_path / "a.mp4"
    for contents in (b"first", b"second"):
        file.write_bytes(contents)
        with local_copy(f"file://{file}") as copy:
            assert copy.read_bytes() == contents


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("file:///nowhere/a.mp4", "there is no file 'file:///nowhere/a.mp4'"),
        ("file:///nowhere", "no video in"),
        ("nosuch://a/b", "no address that can be read"),
    ],
)
def test_a_wrong_address_is_named(address: str, message: str) -> None:
    with pytest.raises(HuMoError, match=message) as caught:
        find_sources([address], {})
    assert "\n" not in str(caught.value)


def test_a_store_that_fails_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no\nroute")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.find", fail)
    with pytest.raises(MediaError, match="RuntimeError: no route"):
        find_sources(["file:///data"], {})


def test_without_fsspec_an_address_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DependencyError, match="fsspec is not installed"):
        find_sources(["s3://bucket/videos"], {})


def test_a_source_survives_being_stored(videos: Path) -> None:
    source = Source("a.mp4", 1.0, 2.0, (3, 4), (0.0, 0.1, 1.0, 0.9), "x", "g", "en", "CC0", ({"path": "b"},), "n")
    assert Source.from_dict(json.loads(json.dumps(source.as_dict()))) == source


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("none.jsonl", '{"caption": "x"}\n', "row 1 has no path"),
        ("bad.jsonl", "{\n", "line 1 is not JSON"),
        ("time.jsonl", '{"path": "a.mp4", "start": "soon"}\n', "'soon'"),
        ("list.txt", "", "no video in"),
    ],
)
def test_a_wrong_manifest_is_refused_in_one_line(name: str, contents: str, message: str, videos: Path) -> None:
    (videos / name).write_text(contents)
    with pytest.raises(HuMoError, match=message) as caught:
        find_sources([str(videos / name)], {})
    assert "\n" not in str(caught.value)


def test_an_input_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(HuMoError, match="there is no file or folder"):
        find_sources([str(tmp_path / "nowhere")], {})
