"""Cases are read from folders, job files, corpora and public benchmarks; what is wrong is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from humo.errors import RequestError
from humo.evaluation.case_sources import find_videos, read_source
from humo.evaluation.cases import Case, read_cases, write_cases
from humo.evaluation.metric import Need


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_folder_has_prompts_references_and_audio_beside_its_videos(tmp_path: Path) -> None:
    touch(tmp_path / "a_seed0.mp4", tmp_path / "a_seed1.mp4", tmp_path / "b.mp4", tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("A man talks.\n", encoding="utf-8")
    touch(tmp_path / "a.png", tmp_path / "a_1.jpg", tmp_path / "b_2.webp", tmp_path / ".hidden.mp4")
    source = read_source(tmp_path)
    first, second = source.cases
    assert (first.id, first.prompt, first.audio) == ("a", "A man talks.", tmp_path / "a.wav")
    assert [path.name for path in first.references] == ["a.png", "a_1.jpg"]
    assert [path.name for path in second.references] == ["b_2.webp"]
    videos, missing = find_videos(source, source.videos)
    assert [(video.name, video.seed) for video in videos] == [("a_seed0", 0), ("a_seed1", 1), ("b", None)]
    assert missing == []
    assert [video.name for video in find_videos(source, source.videos, seeds=1)[0]] == ["a_seed0", "b"]


def test_cases_survive_writing_and_reading(tmp_path: Path) -> None:
    case = Case(
        "x",
        "edit",
        "A woman waves.",
        (tmp_path / "images" / "a.png", tmp_path / "b.png"),
        (1,),
        tmp_path / "a.wav",
        person="p",
        boxes=((0.0, 0.0, 0.5, 1.0),),
        attributes={"glasses": "round"},
        request={"frames": 25},
    )
    write_cases([case], tmp_path / "cases.jsonl")
    (reread,) = read_cases(tmp_path / "cases.jsonl")
    assert reread == case
    assert reread.person_reference == tmp_path / "images" / "a.png"
    assert not reread.lacks(Need.REFERENCE)
    assert reread.lacks(Need.TRUTH)
    stored = json.loads((tmp_path / "cases.jsonl").read_text())
    assert stored["references"] == ["images/a.png", "b.png"]
    videos, missing = find_videos(read_source(tmp_path), tmp_path)
    assert (videos, [one.id for one in missing]) == ([], ["x"])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", r"cases: line 1 of cases.jsonl is not JSON .*; correct that line"),
        ('{"prompt": "a"}', r"cases: line 1 of cases.jsonl has no id; give an object"),
        ('{"id": "a", "noise": "b"}', r"cases: line 1 of cases.jsonl has the field 'noise'; known are attributes, "),
        ('{"id": "a"}\n{"id": "a"}', r"id: 'a' occurs twice in cases.jsonl; give each case a name of its own"),
        ('{"id": "a/b"}', r"id: 'a/b' in cases.jsonl cannot name a file; use letters"),
        ("\n", r"cases: cases.jsonl has no cases; give a file"),
    ],
)
def test_a_wrong_line_is_named(text: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=error):
        read_source(tmp_path)


def test_a_job_file_names_cases_and_their_videos(tmp_path: Path) -> None:
    jobs = {
        "woman": {"prompt": "A woman talks.", "img_paths": ["w.png"], "audio_path": "w.wav"},
        "two": {"prompt": "Two people.", "images": ["w.png", "m.png"], "output": "videos/2.mp4", "frames": 25},
    }
    touch(tmp_path / "w.png", tmp_path / "m.png", tmp_path / "w.wav")
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    touch(tmp_path / "woman_seed666666.mp4", tmp_path / "videos" / "2.mp4")
    source = read_source(tmp_path / "jobs.json")
    assert [case.prompt for case in source.cases] == ["A woman talks.", "Two people."]
    assert source.cases[0].audio == tmp_path / "w.wav"
    assert source.cases[1].request == {"frames": 25}
    videos, missing = find_videos(source, tmp_path)
    assert [video.path.name for video in videos] == ["woman_seed666666.mp4", "2.mp4"]
    assert missing == []


def test_a_rendered_corpus_gives_its_test_clips_with_ground_truth(corpus: Path) -> None:
    source = read_source(corpus)
    assert [case.category for case in source.cases] == ["seen"] * 3 + ["unseen"] * 3
    for case in source.cases:
        assert case.truth is not None
        assert case.person_reference is not None
        assert case.attributes["glasses"] in ("none", "round", "square")
        assert case.person_reference not in case.gallery
        assert 1 <= len(case.gallery) <= 5
    videos, missing = find_videos(source, source.videos)
    assert len(videos) == 6
    assert not missing
    limited = read_source(corpus, 3).cases
    assert [case.category for case in limited] == ["seen", "seen", "unseen"]


def test_mochabench_is_read_from_the_users_download(tmp_path: Path) -> None:
    folder = tmp_path / "benchmark"
    rows = 'idx_in_category,category,context_id,prompt\n1,1p_emotion,1_man,"""A man, sad."""\n'
    touch(folder / "speeches" / "1p_emotion" / "1_man_speech.wav")
    touch(folder / "first-frames-from-mocha-generation" / "1p_emotion" / "1_man.png")
    touch(tmp_path / "mocha-generation" / "1p_emotion" / "1_man.mp4")
    (folder / "benchmark.csv").write_text(rows, encoding="utf-8")
    source = read_source(tmp_path)
    (case,) = source.cases
    assert (source.kind, case.id, case.prompt) == ("MoChaBench", "1p_emotion-1_man", "A man, sad.")
    assert case.speech == case.audio == folder / "speeches" / "1p_emotion" / "1_man_speech.wav"
    assert [video.path for video in find_videos(source, source.videos)[0]] == [
        tmp_path / "mocha-generation" / "1p_emotion" / "1_man.mp4"
    ]


def test_opens2v_is_read_from_the_users_download(tmp_path: Path) -> None:
    items = {
        "humanobj_3": {
            "prompt": "A woman with a vase.",
            "img_paths": ["Images/obj/vase/1.png", "Images/singlehuman/crop_woman/7.png"],
            "class_label": ["Vase", "Woman"],
        }
    }
    (tmp_path / "Human-Domain_Eval.json").write_text(json.dumps(items), encoding="utf-8")
    (case,) = read_source(tmp_path).cases
    assert case.category == "humanobj"
    assert case.objects == (0,)
    assert case.person_reference == tmp_path / "Images/singlehuman/crop_woman/7.png"


def test_what_is_no_source_is_refused_with_the_kinds_that_are(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"SOURCE: there is no .*; give a folder of videos"):
        read_source(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"has no cases; known are a folder with cases.jsonl, a corpus of humo data"):
        read_source(tmp_path / "empty")
