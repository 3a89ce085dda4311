"""Rules that turn scores into decisions. They are applied after scoring, so that other bounds need no decoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from humo.data.build_recipe import Thresholds

Kind = Literal["talking", "subject"]
BOTH: frozenset[Kind] = frozenset({"talking", "subject"})
TALKING: frozenset[Kind] = frozenset({"talking"})


@dataclass(frozen=True, slots=True)
class Rule:
    """A bound of a score.

    Args:
        stage: stage that the score is from.
        reason: why an item is rejected by this rule.
        score: name of the score.
        bound: field of `Thresholds`; ``min_`` or ``max_`` says which side is allowed.
        kinds: kinds of datasets to which it applies.
    """

    stage: str
    reason: str
    score: str
    bound: str
    kinds: frozenset[Kind] = TALKING

    def allows(self, scores: Mapping[str, Any], thresholds: Thresholds) -> bool:
        """Return whether the scores satisfy the rule.

        A score that could not be measured is None, and does not. A score that an item cannot have, such as the motion
        of an image, is left out, and does.
        """
        bound = getattr(thresholds, self.bound)
        if bound is None or self.score not in scores:
            return True
        value = scores[self.score]
        if value is None:
            return False
        return bool(value >= bound if self.bound.startswith("min_") else value <= bound)


SOURCE_RULES = (
    Rule("inventory", "short", "seconds", "min_seconds", BOTH),
    Rule("inventory", "small", "lines", "min_lines", BOTH),
    Rule("inventory", "frame-rate", "rate", "min_rate", BOTH),
    Rule("inventory", "frame-rate", "rate", "max_rate", BOTH),
    Rule("inventory", "no-audio", "audio_tracks", "min_audio_tracks"),
)
"""Rules for sources."""

FACE_RULES = (
    Rule("people", "no-face", "face_rate", "min_face_rate"),
    Rule("people", "several-faces", "several_rate", "max_several_rate"),
    Rule("people", "small-face", "face_height", "min_face_height"),
)
"""Rules for clips that the stage ``scan`` can apply to every fifth frame already."""

CLIP_RULES = (
    Rule("clip", "frozen", "held", "max_held", BOTH),
    *FACE_RULES,
    Rule("people", "turned", "frontal_rate", "min_frontal_rate"),
    Rule("speech", "silent", "speech_rate", "min_speech_rate"),
    Rule("speech", "noisy", "background_quality", "min_background_quality"),
    Rule("quality", "dark", "luminance", "min_luminance", BOTH),
    Rule("quality", "bright", "luminance", "max_luminance", BOTH),
    Rule("quality", "blurred", "sharpness", "min_sharpness"),
    Rule("quality", "static", "motion", "min_motion", BOTH),
    Rule("quality", "jitter", "motion", "max_motion", BOTH),
    Rule("quality", "text", "text", "max_text", BOTH),
    Rule("sync", "out-of-sync", "sync", "min_sync"),
    Rule("sync", "out-of-sync", "sync_margin", "min_sync_margin"),
    Rule("sync", "out-of-sync", "sync_confidence", "min_sync_confidence"),
    Rule("sync", "offset", "offset_left", "max_offset_left"),
    Rule("identity", "unstable-identity", "identity_spread", "max_identity_spread"),
)
"""Rules for clips, in the order of the funnel."""

RULES = SOURCE_RULES + CLIP_RULES

SCAN_TOLERANCE = 0.15
"""Slack of face rates that are measured in every fifth frame only; the clip is measured again in full."""


def failures(
    scores: Mapping[str, Any], thresholds: Thresholds, kind: Kind, rules: Iterable[Rule] = CLIP_RULES
) -> list[Rule]:
    """Return the rules that scores violate, in the order of the funnel."""
    return [rule for rule in rules if kind in rule.kinds and not rule.allows(scores, thresholds)]


def scan_thresholds(thresholds: Thresholds) -> Thresholds:
    """Return the thresholds that decide after the stage ``scan`` whether a clip is scored at all."""
    changes: dict[str, float] = {}
    if thresholds.min_face_rate is not None:
        changes["min_face_rate"] = thresholds.min_face_rate - SCAN_TOLERANCE
    if thresholds.max_several_rate is not None:
        changes["max_several_rate"] = thresholds.max_several_rate + SCAN_TOLERANCE
    if thresholds.min_face_height is not None:
        changes["min_face_height"] = thresholds.min_face_height * (1 - SCAN_TOLERANCE)
    return thresholds.model_copy(update=changes)
