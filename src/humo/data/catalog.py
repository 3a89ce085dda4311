"""Everything that is known of the clips of a folder, from its journal: one pass over sources, scans and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from humo.data.build_recipe import BuildRecipe, checksum
from humo.data.journal import Journal
from humo.data.planning import STAGE_VERSIONS, KnownSource, PlannedClip, Unit, plan_clips, units
from humo.data.sources import Source
from humo.data.tasks import Values
from humo.data.thresholds import FACE_RULES, SOURCE_RULES, failures, scan_thresholds

DUPLICATE_FILE = "duplicate-file"
"""Reason of a source with the contents of another one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A clip with the number of its source, and its line in the journal.

    Args:
        source: number of the source.
        clip: the plan.
        reasons: why it is not scored; empty if it is to be scored.
        line: its line of the stage ``score``; None if it has none.
    """

    source: int
    clip: PlannedClip
    reasons: tuple[str, ...]
    line: Values | None


class Catalog:
    """Clips of a folder.

    Args:
        sources: sources, and the keys of their inventories.
        journal: journal of the folder.
        recipe: the recipe.
    """

    def __init__(self, sources: Sequence[tuple[Source, str]], journal: Journal, recipe: BuildRecipe) -> None:
        from humo.data.folder import known_sources

        self.journal, self.recipe = journal, recipe
        self.sources = known_sources(sources, self._facts)
        self.reasons = [*self._source_reasons()]

    def _facts(self, key: str) -> Values | None:
        line = self.journal.get("inventory", key)
        return None if line is None else line.get("result")

    def _source_reasons(self) -> Iterator[str]:
        """Yield why each source is not used; empty if it is."""
        known_contents: set[str] = set()
        for known in self.sources:
            broken = failures(known.scores(), self.recipe.thresholds, self.recipe.source.kind, SOURCE_RULES)
            reason = broken[0].reason if broken else ""
            if known.identity in known_contents:
                reason = DUPLICATE_FILE
            known_contents.add(known.identity)
            yield reason

    def used_sources(self) -> Iterator[tuple[int, KnownSource]]:
        """Yield the number and the source of each one that is used."""
        for number, known in enumerate(self.sources):
            if not self.reasons[number]:
                yield number, known

    def units(self, known: KnownSource) -> Iterator[tuple[Unit, str]]:
        """Yield the parts of a source, with the keys of their scans."""
        shots = self.recipe.shots.model_dump(mode="json")
        for unit in units(known, self.recipe.source.unit_seconds):
            identity = (known.sha256, known.origin, unit.first, unit.count, known.crop, shots)
            yield unit, checksum("scan", STAGE_VERSIONS["scan"], *identity)

    def candidates(self) -> Iterator[Candidate]:
        """Yield every clip, source by source."""
        kind = self.recipe.source.kind
        for number, known in self.used_sources():
            lines = [self.journal.get("scan", key) for _, key in self.units(known)]
            scans = [line["result"] for line in lines if line is not None and "result" in line]
            bounds = scan_thresholds(self.recipe.for_language(known.language))
            for clip in plan_clips(known, scans, self.recipe):
                line = self.journal.get("score", clip.name)
                reasons: tuple[str, ...] = (clip.reason,) if clip.reason else ()
                if not reasons and line is None:
                    reasons = tuple(rule.reason for rule in failures(clip.scan, bounds, kind, FACE_RULES))
                yield Candidate(number, clip, reasons, line)

    def clip_reasons(self, candidate: Candidate) -> tuple[str, ...]:
        """Return why a clip is rejected by its own scores, in the order of the funnel, each reason once."""
        if candidate.reasons:
            return tuple(dict.fromkeys(candidate.reasons))
        result = (candidate.line or {}).get("result")
        if result is None:
            return ("broken" if candidate.line else "not-scored",)
        bounds = self.recipe.for_language(self.sources[candidate.source].language)
        rules = failures(result["scores"], bounds, self.recipe.source.kind)
        return tuple(dict.fromkeys(rule.reason for rule in rules))

    def thresholds_of(self, number: int) -> dict[str, Any]:
        """Return the thresholds for the clips of a source as plain values."""
        return self.recipe.for_language(self.sources[number].language).model_dump(mode="json")
