"""Two evaluations are compared on equal inputs and protocols; missing values are counted and never stand as 0."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import same_model

from humo.cli.main import main
from humo.errors import RequestError
from humo.evaluation.comparison import NOT_DISTINGUISHABLE, compare, rank_cases, summarize, summary_values
from humo.evaluation.results import DESCRIPTION, read_evaluation, write_json, write_result
from tests.evaluation.evaluations import write_evaluation

RANDOM = np.random.default_rng(7)
LEVEL = RANDOM.normal(0.5, 0.1, 24)
NOISE = RANDOM.normal(0, 0.02, (3, 24))


def test_a_better_model_is_called_better_whatever_the_direction(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", {"mouth_jaw_corr": list(LEVEL), "id_dlib": list(LEVEL)})
    second = {"mouth_jaw_corr": list(LEVEL + 0.2 + NOISE[0]), "id_dlib": list(LEVEL - 0.2 + NOISE[1])}
    comparison = compare(read_evaluation(first), read_evaluation(write_evaluation(tmp_path / "b", second)))
    assert {one.metric: one.verdict for one in comparison.metrics} == {"mouth_jaw_corr": "better", "id_dlib": "better"}
    by_name = {one.metric: one for one in comparison.metrics}
    up, down = by_name["mouth_jaw_corr"], by_name["id_dlib"]
    assert up.difference.mean == pytest.approx(0.2, abs=0.02)
    assert down.difference.mean == pytest.approx(-0.2, abs=0.02)
    assert up.difference.clusters == 12
    assert up.p >= up.difference.p


def test_metrics_without_a_direction_differ_and_offsets_count_by_their_size(tmp_path: Path) -> None:
    offsets = [3.0, -3.0] * 12
    first = write_evaluation(tmp_path / "a", {"motion": list(LEVEL), "av_offset": offsets})
    second = {"motion": list(LEVEL + 0.3 + NOISE[0]), "av_offset": [0.0] * 24}
    comparison = compare(read_evaluation(first), read_evaluation(write_evaluation(tmp_path / "b", second)))
    assert {one.metric: one.verdict for one in comparison.metrics} == {"motion": "different", "av_offset": "better"}


def test_a_model_against_itself_is_not_distinguishable(tmp_path: Path) -> None:
    values = {"mouth_jaw_corr": list(LEVEL + NOISE[0])}
    first = write_evaluation(tmp_path / "a", values)
    second = write_evaluation(tmp_path / "b", {"mouth_jaw_corr": list(LEVEL + NOISE[1])})
    (one,) = compare(read_evaluation(first), read_evaluation(second)).metrics
    assert one.verdict == NOT_DISTINGUISHABLE
    assert one.difference.pairs_needed is not None
    assert one.difference.pairs_needed > 24


def test_missing_values_are_left_out_of_both_or_count_as_the_worst(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", {"mouth_jaw_corr": list(LEVEL)})
    better = [None if number < 8 else float(value) for number, value in enumerate(LEVEL + 0.01)]
    second = write_evaluation(tmp_path / "b", {"mouth_jaw_corr": better})
    (one,) = compare(read_evaluation(first), read_evaluation(second)).metrics
    assert one.invalid == (0, 8)
    assert one.difference.cases == 16
    assert one.difference.mean == pytest.approx(0.01)
    assert one.worst_case.cases == 24
    assert one.worst_case.mean < 0, "without a face the model is not better"
    summary = summarize(read_evaluation(second), "mouth_jaw_corr")
    assert (summary.valid, summary.invalid) == (16, 8)
    assert summary.estimate is not None
    assert summary.estimate.mean == pytest.approx(float(np.mean(LEVEL[8:])) + 0.01)
    assert summary.reasons == {"no face is detected": 8}


def test_other_protocols_are_never_compared(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", {"motion": list(LEVEL)})
    same = write_evaluation(tmp_path / "b", {"motion": list(LEVEL)})
    description = json.loads((same / "evaluation.json").read_text())
    description["metrics"]["motion"]["hash"] = "0" * 12
    (same / "evaluation.json").write_text(json.dumps(description))
    with pytest.raises(
        RequestError, match=r"motion: the protocols differ \(\w+ and 0{12}\), so it is not compared; run"
    ):
        compare(read_evaluation(first), read_evaluation(same))


def test_cases_with_other_inputs_are_left_out(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", {"motion": list(LEVEL)})
    other = dict.fromkeys(range(20), "Another prompt.")
    second = write_evaluation(tmp_path / "b", {"motion": list(LEVEL + 1)}, prompts=other)
    comparison = compare(read_evaluation(first), read_evaluation(second))
    assert (comparison.cases, len(comparison.other_inputs)) == (4, 20)
    third = write_evaluation(tmp_path / "c", {"motion": list(LEVEL)}, prompts=dict.fromkeys(range(24), "Other."))
    with pytest.raises(
        RequestError, match=r"OUT_B: .* has no case with the inputs of .*; compare evaluations of the same"
    ):
        compare(read_evaluation(first), read_evaluation(third))


def test_cases_are_ranked_by_their_difference(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", {"motion": [1.0, 1.0, 1.0, None]})
    second = write_evaluation(tmp_path / "b", {"motion": [1.5, 3.0, 0.5, 2.0]})
    ranked = rank_cases(read_evaluation(first), read_evaluation(second), "motion")
    assert ranked == [("c01", 2.0), ("c00", 0.5), ("c02", -0.5)]


def test_the_command_prints_words_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_evaluation(tmp_path / "a", {"mouth_jaw_corr": list(LEVEL)}, label="one")
    second = write_evaluation(tmp_path / "b", {"mouth_jaw_corr": list(LEVEL + NOISE[2])}, label="two")
    assert main(["evaluate", "compare", str(first), str(second)]) == 0
    text = capsys.readouterr().out
    assert "two minus one, 24 cases" in text
    assert "not distinguishable" in text
    assert main(["evaluate", "compare", str(first), str(second), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["metrics"][0]["metric"] == "mouth_jaw_corr"
    assert main(["evaluate", "compare", str(first)]) == 2
    assert "OUT_A OUT_B: 1 paths are given, not 2; humo evaluate compare OUT_A OUT_B" in capsys.readouterr().err
    assert main(["evaluate", "compare", str(first), str(tmp_path)]) == 2
    assert "holds no evaluation; run `humo evaluate run SOURCE OUT` first" in capsys.readouterr().err


def test_summaries_are_json(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", {"motion": list(LEVEL)})
    values = json.loads(json.dumps(summary_values(read_evaluation(folder)), allow_nan=False))
    assert values["metrics"]["motion"]["estimate"]["cases"] == 24


@pytest.mark.parametrize("differs", [False, True], ids=["equal seeds", "one seed differs"])
def test_halves_of_a_models_seeds_are_compared(differs: bool, tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", {"motion": list(LEVEL)})
    random = np.random.default_rng(5)
    names = []
    for result in read_evaluation(folder).results:
        score = result.scores["motion"]
        assert score.value is not None
        for seed in (0, 1):
            value = score.value + float(random.normal(0, 0.02)) + (seed if differs else 0)
            names.append(f"{result.case}_seed{seed}")
            scores = {"motion": replace(score, value=value)}
            write_result(folder, replace(result, name=names[-1], seed=seed, scores=scores))
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    write_json(folder / DESCRIPTION, {**description, "videos": names})
    halves = same_model.split_seeds(read_evaluation(folder), np.random.default_rng(0))
    assert [len(half.results) for half in halves] == [24, 24]
    assert {result.name for half in halves for result in half.results} == set(names)
    counts = same_model.main([str(folder), "--draws", "20", "--json", str(tmp_path / "same.json")])
    assert counts == json.loads((tmp_path / "same.json").read_text(encoding="utf-8"))
    assert counts["metrics"]["motion"] >= 0.9, "seeds are drawn at random, so that a seed favors neither side"


def test_one_seed_cannot_be_halved(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", {"motion": list(LEVEL)})
    with pytest.raises(SystemExit, match="each case needs two seeds or more"):
        same_model.main([str(folder)])
