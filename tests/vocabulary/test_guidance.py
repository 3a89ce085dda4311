"""Each ladder equals the published formula; passes without weight are skipped."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from humo.guidance import (
    CONSTANT,
    MODES,
    SPEEDS,
    TIME_ADAPTIVE,
    TWO_PASSES,
    Guidance,
    GuidanceReuse,
    GuidanceScales,
    GuidanceStep,
    GuidanceTable,
    Ladder,
    Mode,
    Rung,
    constant,
    pass_weights,
)
from humo.presets import HUMO_1_7B, HUMO_17B
from humo.schedule import published_schedule

V = Callable[[str], Tensor]  # conditions that are on -> what the network predicts; the letters in the order T, I, A
Formula = Callable[[V, float, float, float], Tensor]  # v, text, image and audio scale -> guided velocity


def predictions() -> V:
    """Return eight random tensors."""
    generator = torch.Generator().manual_seed(7)
    known = {
        on: torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
        for on in ("", "T", "I", "A", "TI", "TA", "IA", "TIA")
    }
    return known.__getitem__


def climb(ladder: Ladder, v: V) -> Tensor:
    """Return the weighted sum of the passes."""
    total = torch.zeros_like(v(""))
    for rung, weight in pass_weights(ladder):
        total += weight * v(rung.keep)
    return total


FORMULAS: dict[tuple[str, str, str], Formula] = {
    ("17B", "TIA", "early"): lambda v, t, i, a: a * (v("TIA") - v("TI")) + t * (v("TI") - v("I")) + v("I"),
    ("17B", "TIA", "late"): lambda v, t, i, a: a * (v("TIA") - v("TI")) + (t - 2) * (v("TI") - v("")) + v(""),
    ("17B", "TI", "early"): lambda v, t, i, a: t * (v("TI") - v("I")) + v("I"),
    ("17B", "TI", "late"): lambda v, t, i, a: (t - 2) * (v("TI") - v("")) + v(""),
    ("17B", "TA", "early"): lambda v, t, i, a: a * (v("TA") - v("T")) + t * (v("T") - v("")) + v(""),
    ("17B", "TA", "late"): lambda v, t, i, a: a * (v("TA") - v("T")) + t * (v("T") - v("")) + v(""),
    ("17B", "T", "early"): lambda v, t, i, a: t * (v("T") - v("")) + v(""),
    ("17B", "T", "late"): lambda v, t, i, a: t * (v("T") - v("")) + v(""),
    ("1.7B", "TIA", "early"): lambda v, t, i, a: (
        i * (v("TIA") - v("TA")) + a * (v("TA") - v("T")) + t * (v("T") - v("")) + v("")
    ),
    ("1.7B", "TA", "early"): lambda v, t, i, a: a * (v("TA") - v("T")) + t * (v("T") - v("")) + v(""),
    ("1.7B", "TI", "early"): lambda v, t, i, a: i * (v("TI") - v("T")) + t * (v("T") - v("")) + v(""),
    ("1.7B", "T", "early"): lambda v, t, i, a: t * (v("T") - v("")) + v(""),
}
FORMULAS |= {(family, mode, "late"): f for (family, mode, _), f in FORMULAS.items() if family == "1.7B"}
TABLES: dict[str, GuidanceTable] = {"17B": TIME_ADAPTIVE, "1.7B": CONSTANT}
TIMESTEPS = {"early": (981.0, 980.0001, 999.0), "late": (980.0, 979.0, 1.0)}
SCALES = [(5.0, 4.0, 5.5), (7.5, 4.0, 7.5), (7.0, 4.0, 7.5), (1.0, 1.0, 1.0), (2.0, 0.0, 2.0), (0.3, 9.1, 0.0)]


@pytest.mark.parametrize(("text", "image", "audio"), SCALES)
@pytest.mark.parametrize(("family", "mode", "phase"), FORMULAS)
def test_a_ladder_is_the_published_formula(
    family: str, mode: str, phase: str, text: float, image: float, audio: float
) -> None:
    guidance = TABLES[family][mode](GuidanceScales(text=text, audio=audio, image=image))  # type: ignore[index]
    v = predictions()
    unguided = family == "17B" and "I" in mode and (text, audio if "A" in mode else 1.0) == (1.0, 1.0)
    expected = v(mode) if unguided else FORMULAS[family, mode, phase](v, text, image, audio)
    for timestep in TIMESTEPS[phase]:
        torch.testing.assert_close(climb(guidance.at(timestep), v), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("table", [*TABLES.values(), TWO_PASSES])
def test_with_all_scales_one_each_step_runs_one_pass(table: GuidanceTable, mode: Mode) -> None:
    guidance = table[mode](GuidanceScales(text=1.0, audio=1.0, image=1.0))
    assert guidance.passes(published_schedule(6, 8.0).timesteps) == 6
    assert [rung.keep for rung, _ in pass_weights(guidance.at(500.0))] == [mode]


@pytest.mark.parametrize("mode", MODES)
def test_comfyuis_guidance_has_one_pass_with_all_conditions_and_one_with_none(mode: Mode) -> None:
    v = predictions()
    guided = climb(TWO_PASSES[mode](GuidanceScales(text=4.0, audio=9.0, image=9.0)).at(500.0), v)
    torch.testing.assert_close(guided, v("") + 4.0 * (v(mode) - v("")), rtol=0, atol=1e-12)


def test_every_mode_of_both_families_has_a_formula_above() -> None:
    assert set(FORMULAS) == {(family, mode, phase) for family in TABLES for mode in MODES for phase in TIMESTEPS}


@given(switch=st.floats(0, 1000))
def test_the_early_ladder_applies_strictly_above_the_switch(switch: float) -> None:
    guidance = TIME_ADAPTIVE["TIA"](GuidanceScales(text=5.0, audio=5.5, switch_timestep=switch))
    assert guidance.at(switch) is guidance.late
    assert guidance.at(switch + 0.5) is guidance.early
    assert guidance.early != guidance.late


scales = st.floats(0, 50)
ladders = st.lists(st.tuples(st.sampled_from(["", "T", "I", "TI", "TA", "TIA"]), scales), min_size=1, max_size=6).map(
    lambda rungs: tuple(Rung(keep, scale) for keep, scale in rungs)
)


@given(ladder=ladders)
def test_the_weights_of_any_ladder_add_up_to_one(ladder: Ladder) -> None:
    weighted = pass_weights(ladder)
    assert sum(weight for _, weight in weighted) == pytest.approx(1.0, abs=1e-9)
    assert all(weight != 0 for _, weight in weighted)


@given(ladder=ladders)
def test_the_weighted_sum_equals_the_ladder_step_by_step(ladder: Ladder) -> None:
    v = predictions()
    total = v(ladder[0].keep).clone()
    for below, rung in pairwise(ladder):
        total += rung.scale * (v(rung.keep) - v(below.keep))
    torch.testing.assert_close(climb(ladder, v), total, rtol=0, atol=1e-9)


def test_a_rung_has_the_conditions_of_its_letters() -> None:
    assert [(rung.text, rung.image, rung.audio) for rung in (Rung(""), Rung("T"), Rung("TA"), Rung("TIA"))] == [
        (False, False, False),
        (True, False, False),
        (True, False, True),
        (True, True, True),
    ]


def kept(ladder: Ladder) -> list[str]:
    """Return the passes that run."""
    return [rung.keep for rung, _ in pass_weights(ladder)]


def test_the_published_scales_of_the_small_family_save_a_pass() -> None:
    guidance = HUMO_1_7B.guidance
    assert kept(guidance["TIA"](HUMO_1_7B.scales).late) == ["", "TA", "TIA"]
    assert kept(guidance["TA"](HUMO_1_7B.scales).late) == ["", "TA"]
    script = GuidanceScales(text=7.0, audio=7.5, image=4.0)  # of the published scripts
    assert kept(guidance["TIA"](script).late) == ["", "T", "TA", "TIA"]
    assert kept(guidance["TA"](script).late) == ["", "T", "TA"]


def test_the_large_family_takes_three_passes_a_step() -> None:
    for mode in ("TIA", "TA"):
        guidance = HUMO_17B.guidance[mode](HUMO_17B.scales)
        assert len(kept(guidance.early)) == len(kept(guidance.late)) == 3


def test_scales_of_one_take_a_single_pass() -> None:
    guidance = CONSTANT["TIA"](GuidanceScales(text=1.0, audio=1.0, image=1.0))
    assert kept(guidance.early) == ["TIA"]


def test_passes_are_counted_over_the_timesteps_of_a_run() -> None:
    run = published_schedule(50, 5.0).timesteps
    assert HUMO_1_7B.guidance["TIA"](HUMO_1_7B.scales).passes(run) == 3 * 50
    assert HUMO_17B.guidance["TIA"](HUMO_17B.scales).passes(run) == 3 * 50
    adaptive = Guidance(early=(Rung("I"), Rung("TI", 5.0)), late=(Rung("TI"),), switch_timestep=980.0)
    early = sum(timestep > 980 for timestep in run)
    assert 0 < early < 50
    assert adaptive.passes(run) == 2 * early + (50 - early)
    assert constant(Rung("T")).passes(run) == 50


def test_faster_speeds_run_only_the_last_pass_in_some_steps() -> None:
    ladder = (Rung(""), Rung("T", 2.0), Rung("TA", 3.0))
    guidance = constant(*ladder)
    turns = guidance.plan_steps([900, 800, 700, 600, 500], GuidanceReuse(steps=1, guidance_above_timestep=600.0))
    alone = ((Rung("TA", 3.0), 1.0),)
    whole = tuple(pass_weights(ladder))
    assert turns == [
        GuidanceStep(whole),
        GuidanceStep(alone, reuse_difference=True),
        GuidanceStep(whole),
        GuidanceStep(alone),
        GuidanceStep(alone),
    ]
    assert guidance.passes([900, 800, 700, 600, 500], GuidanceReuse(steps=1, guidance_above_timestep=600.0)) == 9
    assert [turn.rungs for turn in guidance.plan_steps([900, 100])] == [whole, whole]


def test_a_guidance_difference_is_not_reused_with_another_ladder() -> None:
    early, late = (Rung("I"), Rung("TI", 5.0)), (Rung(""), Rung("TI", 3.0))
    turns = Guidance(early, late, 750.0).plan_steps([900, 800, 700, 600], GuidanceReuse(steps=3))
    assert [turn.reuse_difference for turn in turns] == [False, True, False, True]


def test_a_ladder_whose_last_pass_has_no_weight_skips_no_pass() -> None:
    guidance = constant(Rung(""), Rung("T", 2.0), Rung("TA", 0.0))
    turns = guidance.plan_steps([900, 800, 10], SPEEDS["fast"])
    assert all(len(turn.rungs) == 2 and not turn.reuse_difference for turn in turns)
