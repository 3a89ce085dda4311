"""Job files and batch files of every kind give the same fields."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from humo.errors import RequestError
from humo.jobs.request_files import read_request_file, read_rows

FIELDS = {"prompt": "a man speaks", "width": 64, "images": ["a.png", "b.png"], "scale_text": 6.5}
AS_TEXT = {
    "job.json": json.dumps(FIELDS),
    "job.toml": 'prompt = "a man speaks"\nwidth = 64\nimages = ["a.png", "b.png"]\nscale_text = 6.5',
    "job.yaml": "prompt: a man speaks\nwidth: 64\nimages: [a.png, b.png]\nscale_text: 6.5",
    "job.yml": "\ufeffprompt: a man speaks\nwidth: 64\nimages: [a.png, b.png]\nscale_text: 6.5\nseed: null",
}
ROWS_AS_TEXT = {
    "rows.json": json.dumps([{"name": "one", **FIELDS}, {"prompt": "two"}]),
    "rows.jsonl": json.dumps({"name": "one", **FIELDS}) + "\n\n" + json.dumps({"prompt": "two"}) + "\n",
    "rows.csv": "name,prompt,width,images,scale_text\none,a man speaks,64,a.png; b.png,6.5\n,two,,,\n",
    "rows.yaml": "- {name: one, prompt: a man speaks, width: 64, images: [a.png, b.png], scale_text: 6.5}\n"
    "- prompt: two",
    "rows.toml": f'[[job]]\nname = "one"\n{AS_TEXT["job.toml"]}\n[[job]]\nprompt = "two"',
}


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", AS_TEXT)
def test_a_job_file_of_each_kind_gives_its_fields(tmp_path: Path, name: str) -> None:
    assert read_request_file(put(tmp_path, name, AS_TEXT[name])).fields == FIELDS


def test_overrides_lie_over_a_job_file_of_ours_too(tmp_path: Path) -> None:
    path = put(tmp_path, "job.toml", AS_TEXT["job.toml"])
    assert read_request_file(path, ["width=96", "seed=3"]).fields == {**FIELDS, "width": 96, "seed": 3}


def test_an_unknown_field_of_a_job_file_is_named_with_the_file_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"job\.yaml: widht: .*did you mean 'width'"):
        read_request_file(put(tmp_path, "job.yaml", "widht: 64"))


def test_a_batch_file_given_as_a_job_file_is_sent_to_batch(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="humo batch"):
        read_request_file(put(tmp_path, "job.json", '{"one": {"prompt": "a"}, "two": {"prompt": "b"}}'))


@pytest.mark.parametrize("name", ROWS_AS_TEXT)
def test_a_batch_file_of_each_kind_gives_its_rows(tmp_path: Path, name: str) -> None:
    first, second = read_rows(put(tmp_path, name, ROWS_AS_TEXT[name]))
    assert (first.number, first.name, second.number, second.name) == (1, "one", 2, "rows_0002")
    expected = {
        key: str(value) if name.endswith(".csv") and key != "images" else value for key, value in FIELDS.items()
    }
    assert first.fields == expected
    assert second.fields == {"prompt": "two"}


def test_a_published_item_is_known_by_its_words(tmp_path: Path) -> None:
    items = {"case_1": {"prompt": '"A_man"', "img_paths": ["a.png"], "audio_path": "a.wav"}, "two": {"prompt": "a_b"}}
    first, second = read_rows(put(tmp_path, "test_case.json", json.dumps(items)))
    assert (first.name, first.published) == ("case_1", True)
    assert first.fields == {"prompt": "A man", "images": ["a.png"], "audio": "a.wav"}
    assert (second.fields, second.published) == ({"prompt": "a_b"}, False)


def test_inputs_are_looked_for_in_the_current_folder_then_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    put(tmp_path / "here", "both.png", "1")
    put(tmp_path / "there", "both.png", "2")
    put(tmp_path / "there", "only.wav", "3")
    monkeypatch.chdir(tmp_path / "here")
    text = 'images = ["both.png", "none.png"]\naudio = "only.wav"\nprompt = "a"'
    fields = read_request_file(put(tmp_path / "there", "job.toml", text)).fields
    assert fields["images"] == ["both.png", "none.png"]
    assert Path(fields["audio"]) == tmp_path / "there" / "only.wav"


def test_a_row_that_is_wrong_as_a_whole_does_not_stop_the_others(tmp_path: Path) -> None:
    text = '{"prompt": "one"}\n{"prompt": \n[1]\n{"name": "../up", "prompt": "x"}\n{"prompt": "five"}'
    rows = read_rows(put(tmp_path, "rows.jsonl", text))
    assert [row.problem is None for row in rows] == [True, False, False, False, True]
    assert "not JSON" in str(rows[1].problem)
    assert "not a table" in str(rows[2].problem)
    assert "cannot name a file" in str(rows[3].problem)


def test_a_line_of_jsonl_ends_at_the_newline_alone(tmp_path: Path) -> None:
    prompt = "a\u2028b\u2029c\u0085d"
    rows = read_rows(put(tmp_path, "rows.jsonl", f'{{"prompt": "{prompt}"}}\n{{"prompt": "two"}}\n'))
    assert [row.fields for row in rows] == [{"prompt": prompt}, {"prompt": "two"}]


def test_yaml_may_merge_a_table_and_outdo_its_names(tmp_path: Path) -> None:
    text = "- &base {prompt: a, seed: 1}\n- {<<: *base, seed: 2}\n"
    assert [row.fields["seed"] for row in read_rows(put(tmp_path, "rows.yaml", text))] == [1, 2]


def test_a_cell_beyond_the_header_is_a_field_nobody_knows(tmp_path: Path) -> None:
    (row,) = read_rows(put(tmp_path, "rows.csv", "prompt,seed\nhello,1,2\n"))
    assert row.fields == {"prompt": "hello", "seed": "1", "column 3": "2"}


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("rows.json", "[", "not JSON"),
        ("rows.json", "[]", "no rows"),
        ("rows.json", "3", "no rows"),
        ("rows.json", "", "not JSON"),
        ("rows.json", "[" * 100_000, "nested too deeply"),
        ("rows.json", '{"a": {"prompt": "x"}, "a": {"prompt": "y"}}', "'a' occurs twice"),
        ("rows.yaml", "a: [", "not YAML"),
        ("rows.yaml", "a: {prompt: x}\na: {prompt: y}", "'a' occurs twice"),
        ("rows.yaml", "", "no rows"),
        ("rows.yaml", "!!python/object/apply:os.getcwd []", "not YAML"),
        ("rows.toml", "a = ", "not TOML"),
        ("rows.csv", "a,a\n1,2", "same name"),
        ("rows.csv", 'prompt\n"never closed', "not CSV"),
        ("rows.csv", "", "no rows"),
        ("rows.xlsx", "", "not a supported file type"),
        ("rows", "", "not a supported file type"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused_in_one_line(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as caught:
        read_rows(put(tmp_path, name, text))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        read_rows(tmp_path / "none.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(RequestError, match="is a folder"):
        read_rows(tmp_path / "folder.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="UTF-8"):
        read_rows(tmp_path / "bytes.json")
