"""Metrics are values: unique names, protocols that hash, weights and suites that exist."""

from __future__ import annotations

import json
import pickle

import pytest

from humo.analysis.weights import WEIGHTS
from humo.evaluation.metric import ALL_FRAMES, Metric, spaced_frames
from humo.evaluation.metrics.judge import judge_metric
from humo.evaluation.registry import METRICS, SUITES, select_metrics

CHECKSUMS = dict.fromkeys(WEIGHTS, "0" * 64)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_a_metric_is_complete(metric: Metric) -> None:
    assert metric.summary[0].islower() or metric.summary.startswith("SyncNet")
    assert json.loads(json.dumps(dict(metric.protocol))) == dict(metric.protocol)
    assert set(metric.weights) <= WEIGHTS.keys()
    assert "frames" in metric.protocol or "attribute" in metric.protocol or metric.name == "tva.videoreward"
    restored = pickle.loads(pickle.dumps(metric))  # noqa: S301 - metrics travel to processes
    assert restored.protocol_hash(CHECKSUMS) == metric.protocol_hash(CHECKSUMS)


def test_hashes_differ_between_metrics_and_change_with_what_decides_a_value() -> None:
    hashes = {metric.protocol_hash(CHECKSUMS) for metric in METRICS.values()}
    assert len(hashes) == len(METRICS)
    metric = METRICS["iqa.musiq_spaq"]
    other_weights = {**CHECKSUMS, "musiq_spaq": "1" * 64}
    changed = [metric.with_frames(16).protocol_hash(CHECKSUMS), metric.protocol_hash(other_weights)]
    assert len({metric.protocol_hash(CHECKSUMS), *changed}) == 3


def test_the_number_of_frames_changes_only_metrics_of_all_frames() -> None:
    chosen = {metric.name: metric for metric in select_metrics("all", frames=16)}
    for name, metric in METRICS.items():
        expected = 16 if metric.protocol.get("frames") == ALL_FRAMES else metric.protocol.get("frames")
        assert chosen[name].protocol.get("frames") == expected


def test_suites_name_metrics_that_exist() -> None:
    for suite in SUITES.values():
        assert set(suite.metrics) <= METRICS.keys()
        assert len(set(suite.metrics)) == len(suite.metrics)
    assert not any(METRICS[name].weights for name in SUITES["offline"].metrics)


def test_a_judge_is_in_the_name_of_its_metric() -> None:
    metric = judge_metric("http://127.0.0.1:8000/v1/", "Qwen/Qwen2.5-VL-7B")
    assert metric.name == "structure.qwen-qwen2.5-vl-7b.v1"
    other = judge_metric("http://127.0.0.1:9000/v1", "Qwen/Qwen2.5-VL-7B")
    assert metric.protocol_hash({}) == other.protocol_hash({}), "the address does not decide a value"
    assert select_metrics("offline", ["motion"], judge=("http://x/v1", "m"))[-1].name == "structure.m.v1"


def test_spaced_frames_include_both_ends() -> None:
    assert spaced_frames(97, 4).tolist() == [0, 32, 64, 96]
    assert spaced_frames(3, 8).tolist() == [0, 1, 2]
    assert spaced_frames(5, ALL_FRAMES).tolist() == [0, 1, 2, 3, 4]
