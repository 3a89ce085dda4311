"""Decisions from scores: plans of clips, rules, copies, references, splits."""

from __future__ import annotations

import base64
from itertools import pairwise

import numpy as np
import pytest

from humo.data.build_recipe import BuildRecipe, parse_build_recipe
from humo.data.planning import known_source, plan_clips, units
from humo.data.selection import COPY, NO_PARTNER, Entry, Portrait, select, vector
from humo.data.sources import Source
from humo.data.tasks import Values
from humo.data.thresholds import CLIP_RULES, RULES, failures
from humo.errors import HuMoError

FACTS: Values = {
    "sha256": "aa", "origin": [0, 1], "seconds": 40.0, "rate": 25.0, "width": 640, "height": 480,
    "audio_tracks": 1, "language": "",
}  # fmt: skip
RECIPE = BuildRecipe()
GOOD: Values = {
    "held": 0.0, "face_rate": 1.0, "several_rate": 0.0, "face_height": 0.3, "frontal_rate": 1.0, "speech_rate": 0.9,
    "background_quality": 3.5, "luminance": 100.0, "motion": 0.01, "sharpness": 0.8, "text": 0.0, "sync": 0.8,
    "sync_margin": 0.6, "offset_left": 0, "identity_spread": 0.2,
}  # fmt: skip


def _scan(cuts: list[int], transitions: list[list[int]], end: int = 1000) -> Values:
    faces = [[number, 1, 0.4] for number in range(0, end, 5)]
    return {"cuts": cuts, "transitions": transitions, "faces": faces, "end": end}


def _spans(*scans: Values, facts: Values = FACTS) -> list[tuple[int, int]]:
    known = known_source(Source("a.mp4"), facts)
    return [(clip.first, clip.first + clip.count) for clip in plan_clips(known, scans, RECIPE) if not clip.reason]


def test_no_clip_reaches_into_a_cut_or_a_transition() -> None:
    spans = _spans(_scan([300, 700], [[500, 512]]))
    for start, end in spans:
        assert (end - start) % 4 == 1
        assert RECIPE.shots.min_frames <= end - start <= RECIPE.shots.max_frames
        assert all(not start < cut < end for cut in (300, 700))
        assert end <= 500 - RECIPE.shots.trim_frames - 3 or start > 512 + RECIPE.shots.trim_frames + 3
        assert all(abs(edge - cut) >= RECIPE.shots.trim_frames for edge in (start, end) for cut in (300, 700))


def test_a_long_shot_gives_several_clips_that_do_not_overlap() -> None:
    spans = _spans(_scan([], []))
    assert len(spans) == 5
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_parts_of_a_source_give_the_same_clips_as_the_whole() -> None:
    whole = _scan([300, 700], [[500, 512]])
    first = {**_scan([300], [[500, 512]], end=520), "faces": whole["faces"][:104]}
    second = {**_scan([700], []), "faces": whole["faces"][104:]}
    assert _spans(first, second) == _spans(whole)


def test_a_source_is_divided_into_equal_parts_of_ten_minutes_at_most() -> None:
    known = known_source(Source("a.mp4"), {**FACTS, "seconds": 1500.0})
    parts = [*units(known, 600.0)]
    assert [part.count for part in parts] == [12500, 12500, 12500]
    assert parts[1].first == 12500


def test_the_name_of_a_clip_depends_on_the_stages_and_not_on_thresholds() -> None:
    known = known_source(Source("a.mp4"), FACTS)
    names = [
        next(plan_clips(known, [_scan([], [])], parse_build_recipe(recipe))).name
        for recipe in ({}, {"thresholds": {"min_sync": 0.1}}, {"video": {"lines": 720}})
    ]
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 32


@pytest.mark.parametrize("rule", CLIP_RULES, ids=lambda rule: rule.bound)
def test_each_rule_rejects_by_its_own_score(rule: object) -> None:
    from humo.data.thresholds import Rule

    assert isinstance(rule, Rule)
    recipe = parse_build_recipe({"thresholds": {rule.bound: getattr(RECIPE.thresholds, rule.bound) or 2.0}})
    bound = getattr(recipe.thresholds, rule.bound)
    worse = bound - 0.01 if rule.bound.startswith("min_") else bound + 1
    assert not failures(GOOD, recipe.thresholds, "talking")
    assert rule in failures({**GOOD, rule.score: worse}, recipe.thresholds, "talking")
    assert rule in failures({**GOOD, rule.score: None}, recipe.thresholds, "talking")
    off = parse_build_recipe({"thresholds": {rule.bound: "off"}})
    assert rule not in failures({**GOOD, rule.score: worse}, off.thresholds, "talking")


def test_every_threshold_belongs_to_a_rule() -> None:
    assert {rule.bound for rule in RULES} == set(type(RECIPE.thresholds).model_fields)


def test_a_language_may_have_thresholds_of_its_own() -> None:
    recipe = parse_build_recipe({"languages": {"zh": {"min_sync": 0.4}}})
    assert recipe.for_language("zh").min_sync == 0.4
    assert recipe.for_language("en").min_sync == RECIPE.thresholds.min_sync


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"shots": {"min_frames": 98}}, "shots"),
        ({"shots": {"min_frames": 241, "max_frames": 97}}, "shots"),
        ({"languages": {"zh": {"sync": 1}}}, "recipe"),
        ({"threshold": {}}, "threshold"),
        ({"thresholds": {"min_snyc": 1}}, "thresholds.min_snyc"),
        ({"thresholds": {"min_sync": "high"}}, "thresholds.min_sync"),
        ({"thresholds": {"min_face_rate": 1.5}}, "thresholds.min_face_rate"),
        ({"thresholds": {"min_luminance": 220}}, "thresholds"),
        ({"languages": {"zh": {"min_luminance": 220}}}, "recipe"),
        ({"languages": {"zh": {"min_sync": 3}}}, "recipe"),
        ({"reference": {"min_distance": 0.5}}, "reference"),
        ({"captions": {"min_words": 200}}, "captions"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(values: Values, field: str) -> None:
    with pytest.raises(HuMoError) as caught:
        parse_build_recipe(values)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def _entry(name: str, *, person: int = 0, source: int = 0, shot: int = 0, colors: int = 0, **changes: object) -> Entry:
    random = np.random.default_rng(person)
    embedding = random.normal(size=128)
    embedding *= 1.0 / np.linalg.norm(embedding)
    noise = np.random.default_rng(int.from_bytes(name.encode()[:4], "big")).normal(size=128)
    embedding += 0.1 * noise / np.linalg.norm(noise)
    values: dict[str, object] = {
        "name": name, "group": f"g{source}", "source": source, "shot": shot, "first": 1000 * shot, "count": 101,
        "reasons": (), "written": True, "view": 0.4, "reference_side": 256,
        "embedding": embedding.astype(np.float16).tobytes(),
        "hashes": np.random.default_rng(1000 * person + colors).bytes(64),
        "loudness": np.random.default_rng(1000 * person + colors).bytes(64),
    }  # fmt: skip
    return Entry(**(values | changes))  # type: ignore[arg-type]


def _colors(*looks: int) -> dict[int, str]:
    packed = {}
    for colors in looks:
        values = np.zeros(1024, np.uint8)
        values[colors * 10 : colors * 10 + 10] = 80
        packed[colors] = base64.b64encode(values.tobytes()).decode()
    return packed


LOOKS = _colors(0, 1, 2, 3)


def test_a_reference_shows_the_same_person_in_another_shot_with_another_look() -> None:
    entries = [
        _entry("a", colors=0),
        _entry("b", colors=0),  # the same shot
        _entry("c", shot=1, colors=0),  # another shot that looks the same
        _entry("d", shot=2, colors=1),
        _entry("e", person=1, shot=3, colors=2),
    ]
    looks = {"a": 0, "b": 3, "c": 0, "d": 1, "e": 2}
    entries[1].hashes = bytes(range(64))
    entries[2].hashes = bytes(reversed(range(64)))
    selection = select(entries, RECIPE, lambda name: LOOKS[looks[name]])
    by_name = {entry.name: entry for entry in entries}
    assert by_name["a"].reference == "d"
    assert by_name["e"].reasons == (NO_PARTNER,)
    shots = {entry.name: (entry.source, entry.shot) for entry in entries}
    assert all(shots[pair.clip] != shots[pair.reference] for pair in selection.pairs)
    assert all(pair.overlap is not None and pair.overlap <= RECIPE.reference.max_overlap for pair in selection.pairs)


def test_a_portrait_serves_where_no_other_shot_does() -> None:
    entry = _entry("a")
    noisy = (vector(entry) + 0.01).astype(np.float16)
    portraits = [Portrait("p", noisy, LOOKS[1]), Portrait("q", -noisy, LOOKS[1])]
    select([entry], RECIPE, lambda name: LOOKS[0], portraits)
    assert entry.reference == "portrait/p"


def test_of_two_copies_the_one_with_the_larger_face_is_kept() -> None:
    original, copy = _entry("a", view=0.3), _entry("b", source=1, view=0.5)
    flipped = bytearray(original.hashes)
    flipped[3] ^= 1
    copy.hashes = bytes(flipped)
    other = _entry("c", source=2, person=5)
    selection = select([original, copy, other], parse_build_recipe({"reference": {"mode": "same-clip"}}), lambda _: "")
    assert original.reasons == (COPY,)
    assert copy.passes
    assert other.passes
    assert selection.copies == {"a": "b"}


def test_clips_that_look_the_same_but_speak_differently_are_no_copies() -> None:
    one, two = _entry("a"), _entry("b", source=1)
    two.loudness = np.random.default_rng(77).bytes(64)
    select([one, two], parse_build_recipe({"reference": {"mode": "same-clip"}}), lambda _: "")
    assert one.passes
    assert two.passes


def test_no_person_and_no_source_is_in_two_splits() -> None:
    entries = [
        _entry(f"{source}-{number}", person=source // 2, source=source, shot=number, colors=50 * source + number)
        for source in range(40)
        for number in range(3)
    ]
    recipe = parse_build_recipe({"reference": {"mode": "same-clip"}, "selection": {"test_fraction": 0.25}})
    select(entries, recipe, lambda _: "")
    for sources_per_person in (1, 2):
        splits: dict[int, set[str]] = {}
        for entry in entries:
            splits.setdefault(entry.source // sources_per_person, set()).add(entry.split)
        assert all(len(each) == 1 for each in splits.values())
    assert 0.15 * len(entries) <= sum(entry.split == "test" for entry in entries) <= 0.25 * len(entries)
