"""Recipe of ``humo data build``: what each stage does, and the thresholds that are applied to its scores afterwards.

Stored scores depend on the tables of stages, and on nothing else. Thresholds, pairing, captions and splits can change
without decoding anything: ``humo data refilter``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from humo.data.tasks import Limits, Values
from humo.errors import RequestError
from humo.training.config import Fraction, RecipeTable
from humo.training.recipe_file import parse_table, read_table

Seconds = Annotated[float, Field(ge=0.0)]


class SourceConfig(RecipeTable):
    """Sources and units of work.

    Args:
        prefixes: beginning of a path in a manifest -> what stands for it here; the longest one that fits is replaced.
        kind: ``talking``: one person who speaks; ``subject``: any subject, silent or not, with the references that a
            manifest names, for the first training stage.
        unit_seconds: longest part of a source that is one unit of work.
    """

    prefixes: Mapping[str, str] = Field(default_factory=dict)
    kind: Literal["talking", "subject"] = "talking"
    unit_seconds: float = Field(default=600.0, ge=10.0, le=600.0)


class ShotConfig(RecipeTable):
    """Shots, and their division into clips.

    Args:
        detector_threshold: of PySceneDetect's adaptive detector, in units of the changes around a frame.
        second_look: shots whose ends differ are looked at again with TransNetV2, for dissolves and fades.
        ends_differ: difference of the mean images at both ends of a shot, 0..1, from which on there is a second look.
        transition_score: TransNetV2's score, 0..1, of a transition.
        trim_frames: frames left out at both ends of a shot.
        min_frames, max_frames: length of a clip, 4k + 1. A longer shot gives several clips.
    """

    detector_threshold: float = Field(default=3.0, gt=0.0)
    second_look: bool = True
    ends_differ: Fraction = 0.06
    transition_score: Fraction = 0.3
    trim_frames: int = Field(default=4, ge=0, le=25)
    min_frames: int = Field(default=97, ge=25)
    max_frames: int = Field(default=241, ge=25)

    @model_validator(mode="after")
    def _lengths_fit(self) -> ShotConfig:
        for name in ("min_frames", "max_frames"):
            if (value := getattr(self, name)) % 4 != 1:
                raise ValueError(f"{name} is {value}, not 4k + 1; give {value - (value - 1) % 4}")
        _check_order(self, "frames")
        return self


class SyncConfig(RecipeTable):
    """Comparison of lips and audio.

    Args:
        judge: ``mesh`` compares a face mesh with the jaw that the audio implies; ``syncnet`` uses SyncNet's weights.
        max_offset: frames of 40 ms by which the audio may be early or late; it is moved by that offset.
    """

    judge: Literal["mesh", "syncnet"] = "mesh"
    max_offset: int = Field(default=6, ge=0, le=15)


class VideoConfig(RecipeTable):
    """Clips as they are written.

    Args:
        lines: shorter side of a clip in pixels; smaller sources keep their size.
        crf: x264's rate factor.
        sample_rate: of the clip's audio in Hz.
    """

    lines: int = Field(default=480, ge=64, multiple_of=2)
    crf: int = Field(default=18, ge=0, le=40)
    sample_rate: Literal[16000, 48000] = 16000


def _check_order(table: RecipeTable, *names: str) -> None:
    """Refuse a table whose ``min_`` is above its ``max_``, of one of the names: nothing could pass."""
    for name in names:
        low, high = getattr(table, f"min_{name}"), getattr(table, f"max_{name}")
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_{name} = {low:g} is above max_{name} = {high:g}, so nothing passes; exchange them")


def _off_as_none(value: Any) -> Any:
    """Return None for ``"off"``: TOML has no value for nothing."""
    if isinstance(value, str) and value != "off":
        raise ValueError(f'{value!r} is no number; give a number, or "off" for no bound')
    return None if value == "off" else value


Bound = Annotated[float | None, BeforeValidator(_off_as_none)]
Positive = Annotated[Seconds | None, BeforeValidator(_off_as_none)]
Share = Annotated[Fraction | None, BeforeValidator(_off_as_none)]
Luminance = Annotated[Annotated[float, Field(ge=0.0, le=255.0)] | None, BeforeValidator(_off_as_none)]
Quality = Annotated[Annotated[float, Field(ge=1.0, le=5.0)] | None, BeforeValidator(_off_as_none)]
Correlation = Annotated[Annotated[float, Field(ge=-1.0, le=1.0)] | None, BeforeValidator(_off_as_none)]


class Thresholds(RecipeTable):
    """Bounds of the scores; ``"off"`` applies none. `humo.data.thresholds.RULES` says which score each belongs to."""

    min_seconds: Positive = 4.0
    min_lines: Positive = 360
    min_rate: Positive = 10.0
    max_rate: Positive = 120.0
    min_audio_tracks: Positive = 1
    max_held: Share = 0.1
    min_face_rate: Share = 0.95
    max_several_rate: Share = 0.05
    min_face_height: Share = 0.133
    min_frontal_rate: Share = 0.8
    min_speech_rate: Share = 0.5
    min_background_quality: Quality = None
    min_luminance: Luminance = 10.0
    max_luminance: Luminance = 210.0
    min_sharpness: Positive = 0.1
    min_motion: Share = 0.0002
    max_motion: Share = 0.3
    max_text: Share = 0.002
    min_sync: Correlation = 0.55
    min_sync_margin: Positive = 0.2
    min_sync_confidence: Positive = 3.0
    max_offset_left: Positive = 1
    max_identity_spread: Positive = 0.45

    @model_validator(mode="after")
    def _something_can_pass(self) -> Thresholds:
        _check_order(self, "luminance", "motion", "rate")
        return self


class ReferenceConfig(RecipeTable):
    """Reference images of clips.

    Args:
        mode: ``cross-shot``: another shot of the same group; ``same-clip``: the clip itself.
        portraits: folder of portraits that may serve as references, too.
        min_gap_seconds: time between clip and reference in one source.
        max_distance: largest distance of dlib's embeddings: the same person.
        min_distance: smallest one: not the same image.
        max_overlap: largest similarity of the colors around the face, 0..1: not the same scene and clothes.
        min_side: side of the reference in pixels.
        candidates: further references that ``pairs.parquet`` lists for each clip.
    """

    mode: Literal["cross-shot", "same-clip"] = "cross-shot"
    portraits: str | None = None
    min_gap_seconds: Seconds = 0.0
    max_distance: float = Field(default=0.3, gt=0.0)
    min_distance: float = Field(default=0.02, ge=0.0)
    max_overlap: Fraction = 0.85
    min_side: int = Field(default=64, ge=16)
    candidates: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _something_can_pass(self) -> ReferenceConfig:
        _check_order(self, "distance")
        return self


class CaptionConfig(RecipeTable):
    """Captions of clips.

    Args:
        text: caption of clips that get no other; empty lets them wait.
        frames: images that are sent with a request.
        side: longer side of these images in pixels.
        in_flight: requests at a time.
        timeout_seconds: for one request.
        tries: requests for one clip.
        min_words, max_words: length of a caption that is accepted.
        max_repeated: largest fraction of clips that may share a caption.
    """

    text: str = ""
    frames: int = Field(default=8, ge=1, le=32)
    side: int = Field(default=384, ge=64)
    in_flight: int = Field(default=8, ge=1, le=256)
    timeout_seconds: float = Field(default=60.0, gt=0.0)
    tries: int = Field(default=6, ge=1)
    min_words: int = Field(default=15, ge=1)
    max_words: int = Field(default=120, ge=1)
    max_repeated: Fraction = 0.02

    @model_validator(mode="after")
    def _something_can_pass(self) -> CaptionConfig:
        _check_order(self, "words")
        return self


class SelectionConfig(RecipeTable):
    """Copies and splits.

    Args:
        max_copy_bits: fraction of differing bits of the difference hashes below which two clips are copies.
        test_fraction: fraction of clips in the split ``test``; no person and no source is in both splits.
    """

    max_copy_bits: Fraction = 0.10
    test_fraction: Fraction = 0.02


class LimitConfig(RecipeTable):
    """Limits of one unit of work; see `humo.data.tasks.Limits`."""

    base_seconds: float = Field(default=30.0, gt=0.0)
    seconds_factor: float = Field(default=4.0, ge=0.0)
    wall_factor: float = Field(default=4.0, ge=1.0)
    memory_gb: float = Field(default=6.0, ge=1.0)
    tries: int = Field(default=2, ge=1)

    def as_limits(self) -> Limits:
        """Return the limits of a task."""
        memory = round(self.memory_gb * 2**30)
        return Limits(self.base_seconds, self.seconds_factor, self.wall_factor, memory, self.tries)


class BuildRecipe(RecipeTable):
    """Everything that determines a dataset, besides its sources.

    Args:
        languages: language -> thresholds that differ for clips of this language.
    """

    source: SourceConfig = SourceConfig()
    shots: ShotConfig = ShotConfig()
    sync: SyncConfig = SyncConfig()
    video: VideoConfig = VideoConfig()
    thresholds: Thresholds = Thresholds()
    languages: Mapping[str, Mapping[str, Bound]] = Field(default_factory=dict)
    reference: ReferenceConfig = ReferenceConfig()
    captions: CaptionConfig = CaptionConfig()
    selection: SelectionConfig = SelectionConfig()
    limits: LimitConfig = LimitConfig()

    @model_validator(mode="after")
    def _languages_have_known_thresholds(self) -> BuildRecipe:
        for language, bounds in self.languages.items():
            try:
                parse_table(self.thresholds.model_dump() | dict(bounds), Thresholds)
            except RequestError as error:
                field = f"languages.{language}" + (f".{error.field}" if error.field in bounds else "")
                raise ValueError(f"{field} {error.problem}; {error.remedy}") from None
        return self

    def for_language(self, language: str) -> Thresholds:
        """Return the thresholds for clips of a language."""
        changes = self.languages.get(language)
        return self.thresholds if changes is None else self.thresholds.model_copy(update=dict(changes))

    def stage_settings(self) -> Values:
        """Return the tables that stored scores depend on."""
        tables = self.model_dump(mode="json")
        return {name: tables[name] for name in STAGE_TABLES}


STAGE_TABLES = ("source", "shots", "sync", "video")
"""Tables that stored scores depend on; a folder keeps them."""


def read_build_recipe(path: Path) -> BuildRecipe:
    """Read and validate a recipe.

    Raises:
        RequestError: a field is wrong; the first such field is named.
    """
    return read_table(path, BuildRecipe)


def parse_build_recipe(values: Mapping[str, Any]) -> BuildRecipe:
    """Validate a recipe that is given as plain values."""
    return parse_table(values, BuildRecipe)


def checksum(*values: Any) -> str:
    """Return 32 hexadecimal digits that identify plain values."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
