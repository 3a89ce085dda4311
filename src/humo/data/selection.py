"""Decisions that need more than one clip: copies, reference images from other shots, people, splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.data.appearance import color_overlap
from humo.data.build_recipe import BuildRecipe, checksum
from humo.data.clip_files import PORTRAIT, SUBJECT
from humo.geometry import FRAMES_PER_SECOND
from humo.media.face_identity import EMBEDDING_SIZE

BAND_BYTES = 2
"""Bytes of a hash that two clips share to be compared at all: 16 of 512 bits in the same place."""

UNIFORM_BANDS = frozenset((0, 0xFFFF))
"""Bands of evenly lit areas, which say nothing."""

MAX_COMPARED = 64
"""Clips with the same band that a clip is compared with."""

MIN_LOUDNESS_CORRELATION = 0.5
"""Correlation of the loudness of two clips below which they are no copies: one scene may look the same for hours."""

NO_PARTNER, COPY = "no-partner", "copy"
"""Reasons of rejection that are decided here."""

UNFIT_REFERENCES = frozenset(
    ("no-face", "several-faces", "small-face", "turned", "dark", "bright", "blurred", "text", "unstable-identity")
)
"""Reasons why a clip is no reference for others either."""

LINK_DISTANCE = 0.3
"""Distance of mean embeddings below which people of two groups count as one, for the split."""


@dataclass(slots=True)
class Entry:
    """A scored clip.

    Args:
        name: identifier.
        group, source: which group and source it is from.
        shot: number of its shot in the source.
        first, count: frames.
        reasons: why it is rejected, in the order of the funnel; empty if it passes.
        written: whether its file exists.
        view: how large its reference image shows the face.
        reference_side: side of its reference image in pixels.
        embedding: of its person, as float16; None without a face.
        hashes: difference hashes.
        loudness: curve of its loudness.
        named: references that a manifest names, by their number and side in pixels.
        reference: name of what its reference image is taken from.
        person: number of the person in the group.
        split: split of the dataset.
    """

    name: str
    group: str
    source: int
    shot: int
    first: int
    count: int
    reasons: tuple[str, ...]
    written: bool
    view: float
    reference_side: int
    embedding: bytes | None
    hashes: bytes
    loudness: bytes
    named: tuple[tuple[int, int], ...] = ()
    reference: str = ""
    person: str = ""
    split: str = ""

    @property
    def passes(self) -> bool:
        """Return whether nothing speaks against the clip so far."""
        return not self.reasons


def vector(entry: Entry) -> NDArray[np.float32]:
    """Return the embedding of an entry that has one."""
    return np.frombuffer(entry.embedding or b"", np.float16).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Pair:
    """A clip and an image that may be its reference.

    Args:
        clip, reference: names; a reference is a clip, ``portrait/ID`` or ``subject/ID-NUMBER``.
        distance: of the embeddings; None for one that a manifest names.
        overlap: of the colors outside the faces; None likewise.
        gap_seconds: time between both in one source; None for two sources.
        rank: 0 for the reference that is used.
    """

    clip: str
    reference: str
    distance: float | None
    overlap: float | None
    gap_seconds: float | None
    rank: int


@dataclass(frozen=True, slots=True)
class Portrait:
    """An image of the library of portraits."""

    name: str
    embedding: NDArray[np.float16]
    colors: str


@dataclass(slots=True)
class Selection:
    """Results: pairs by clip, and for each copy the clip that is kept."""

    pairs: list[Pair] = field(default_factory=list)
    copies: dict[str, str] = field(default_factory=dict)


ColorsOf = Callable[[str], str]
"""Returns the stored colors of a clip by its name."""


def select(
    entries: Sequence[Entry], recipe: BuildRecipe, colors_of: ColorsOf, portraits: Sequence[Portrait] = ()
) -> Selection:
    """Mark copies, choose references, and divide into splits; entries are changed.

    Args:
        entries: all scored clips, in the order of their names.
        recipe: its tables ``selection`` and ``reference``.
        colors_of: for the comparison of scenes.
        portraits: further references.
    """
    selection = Selection()
    for copy, kept in _copies([entry for entry in entries if entry.passes], recipe.selection.max_copy_bits):
        copy.reasons = (COPY,)
        selection.copies[copy.name] = kept.name
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.group].append(entry)
    for name in sorted(groups):
        group = groups[name]
        _name_people(group, recipe.reference.max_distance)
        if recipe.source.kind == "subject":
            selection.pairs += _take_named_references(group)
        else:
            selection.pairs += _choose_references(group, recipe, colors_of, portraits)
    _split([entry for entry in entries if entry.passes], recipe.selection.test_fraction)
    return selection


def _copies(entries: Sequence[Entry], max_bits: float) -> Iterator[tuple[Entry, Entry]]:
    """Yield each copy with the clip that is kept: the one whose face is largest, then the first by name."""
    similar: dict[int, set[int]] = defaultdict(set)
    for a, b in _similar_pairs(entries, max_bits):
        similar[a].add(b)
        similar[b].add(a)
    kept: set[int] = set()
    for number in sorted(similar, key=lambda at: (-entries[at].view, entries[at].name)):
        originals = similar[number] & kept
        if originals:
            yield entries[number], entries[min(originals, key=lambda at: (-entries[at].view, entries[at].name))]
        else:
            kept.add(number)


def _similar_pairs(entries: Sequence[Entry], max_bits: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs of clips that are copies.

    Only clips that share a band of their hashes are compared. Bands are compared one after another by sorting, which
    takes a few bytes a clip.
    """
    numbers = np.array([number for number, entry in enumerate(entries) if entry.hashes], np.int64)
    if len(numbers) < 2:
        return
    hashes = np.stack([np.frombuffer(entries[number].hashes, np.uint8) for number in numbers])
    for band in hashes.reshape(len(numbers), -1, BAND_BYTES).transpose(1, 0, 2):
        values = np.ascontiguousarray(band).view(np.uint16).ravel()
        order = np.argsort(values, kind="stable")
        edges = np.flatnonzero(np.diff(values[order], prepend=-1, append=-1).astype(bool))
        for start, end in pairwise(edges):
            if end - start < 2 or values[order[start]] in UNIFORM_BANDS:
                continue
            for at in range(start, end - 1):
                others = order[at + 1 : min(end, at + 1 + MAX_COMPARED)]
                bits = np.bitwise_count(hashes[others] ^ hashes[order[at]]).sum(axis=1) / (8 * hashes.shape[1])
                for other in others[bits <= max_bits]:
                    a, b = int(numbers[order[at]]), int(numbers[other])
                    if _differ_in_origin(entries[a], entries[b]) and _same_loudness(entries[a], entries[b]):
                        yield a, b


def _differ_in_origin(a: Entry, b: Entry) -> bool:
    """Return whether two clips are from different shots: pieces of one shot look the same."""
    return a.source != b.source or a.shot != b.shot


def _same_loudness(a: Entry, b: Entry) -> bool:
    one, two = (np.frombuffer(each.loudness, np.uint8).astype(np.float64) for each in (a, b))
    if not len(one) or not len(two) or not one.std() or not two.std():
        return True
    return float(np.corrcoef(one, two)[0, 1]) >= MIN_LOUDNESS_CORRELATION


def _name_people(group: list[Entry], max_distance: float) -> None:
    """Give the entries of a group the same ``person`` where their faces are connected by small distances."""
    known = [entry for entry in group if entry.embedding is not None]
    if not known:
        return
    matrix = np.stack([vector(entry) for entry in known])
    component = np.arange(len(known))
    for number in range(len(known)):
        near = np.flatnonzero(np.linalg.norm(matrix - matrix[number], axis=1) <= max_distance)
        lowest = component[near].min()
        for old in np.unique(component[near]):
            component[component == old] = lowest
    for number, entry in enumerate(known):
        entry.person = checksum("person", known[int(component[number])].name)


def _choose_references(
    group: list[Entry], recipe: BuildRecipe, colors_of: ColorsOf, portraits: Sequence[Portrait]
) -> Iterator[Pair]:
    """Yield the references of each clip of a group, the best one first; clips without one are rejected."""
    config = recipe.reference
    if config.mode == "same-clip":
        for entry in (each for each in group if each.passes):
            entry.reference = entry.name
            yield Pair(entry.name, entry.name, 0.0, 1.0, 0.0, 0)
        return
    offers = [
        each
        for each in group
        if each.embedding is not None
        and each.reference_side >= config.min_side
        and not UNFIT_REFERENCES.intersection(each.reasons)
    ]
    matrix = np.stack([vector(each) for each in offers]) if offers else np.zeros((0, EMBEDDING_SIZE), np.float32)
    for entry in (each for each in group if each.passes):
        if entry.embedding is None:
            entry.reasons = (NO_PARTNER,)
            continue
        offered = [*_other_shots(entry, offers, matrix, recipe, colors_of)]
        if len(offered) < config.candidates:
            offered += _matching_portraits(entry, portraits, recipe, colors_of)
        for rank, (name, distance, overlap, gap) in enumerate(offered[: config.candidates]):
            yield Pair(entry.name, name, round(distance, 4), round(overlap, 4), gap, rank)
        if offered:
            entry.reference = offered[0][0]
        else:
            entry.reasons = (NO_PARTNER,)


def _take_named_references(group: list[Entry]) -> Iterator[Pair]:
    """Yield the references that a manifest names for each clip, the largest one first; without one it is rejected."""
    for entry in (each for each in group if each.passes):
        order = sorted(entry.named, key=lambda each: (-each[1], each[0]))
        for rank, (number, _) in enumerate(order):
            name = f"{SUBJECT}{entry.name}-{number}"
            entry.reference = entry.reference or name
            yield Pair(entry.name, name, None, None, None, rank)
        if not order:
            entry.reasons = (NO_PARTNER,)


Offer = tuple[str, float, float, float | None]


def _other_shots(
    entry: Entry, offers: Sequence[Entry], matrix: NDArray[np.float32], recipe: BuildRecipe, colors_of: ColorsOf
) -> Iterator[Offer]:
    """Yield the clips of other shots with the same person and another look, the largest face first."""
    config = recipe.reference
    distances = np.linalg.norm(matrix - vector(entry), axis=1)
    near = np.flatnonzero(distances <= config.max_distance).tolist()
    order = sorted(near, key=lambda at: (-offers[at].view, offers[at].name))
    count = 0
    for at in order:
        offer, distance = offers[at], float(distances[at])
        same_source = offer.source == entry.source
        gap = _gap_seconds(entry, offer) if same_source else None
        if (same_source and offer.shot == entry.shot) or distance < config.min_distance:
            continue
        if gap is not None and gap < config.min_gap_seconds:
            continue
        overlap = color_overlap(colors_of(entry.name), colors_of(offer.name))
        if overlap <= config.max_overlap:
            yield offer.name, distance, overlap, gap
            count += 1
            if count == config.candidates:
                return


def _gap_seconds(a: Entry, b: Entry) -> float:
    between = max(a.first, b.first) - min(a.first + a.count, b.first + b.count)
    return round(max(0, between) / FRAMES_PER_SECOND, 2)


def _matching_portraits(
    entry: Entry, portraits: Sequence[Portrait], recipe: BuildRecipe, colors_of: ColorsOf
) -> Iterator[Offer]:
    """Yield the portraits of the same person, the nearest one first."""
    config = recipe.reference
    if not portraits:
        return
    matrix = np.stack([portrait.embedding for portrait in portraits]).astype(np.float32)
    distances = np.linalg.norm(matrix - vector(entry), axis=1)
    for at in np.argsort(distances, kind="stable"):
        distance = float(distances[at])
        if not config.min_distance <= distance <= config.max_distance:
            continue
        overlap = color_overlap(colors_of(entry.name), portraits[at].colors)
        if overlap <= config.max_overlap:
            yield f"{PORTRAIT}{portraits[at].name}", distance, overlap, None


def _split(entries: Sequence[Entry], test_fraction: float) -> None:
    """Divide the clips: no group and no person is in both splits.

    Components of connected groups and people are taken for the test split in the order of a checksum, as long as they
    fit. One huge component, in which everybody is connected with everybody, stays in the training split.
    """
    components = _components(entries)
    wanted = round(test_fraction * len(entries))
    taken = 0
    for members in sorted(components, key=lambda each: checksum("split", min(entry.name for entry in each))):
        is_test = 0 < len(members) <= wanted - taken
        taken += len(members) if is_test else 0
        for entry in members:
            entry.split = "test" if is_test else "train"


def _components(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the entries by connected groups: groups with a person in common are connected."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    people: dict[tuple[str, str], list[NDArray[Any]]] = defaultdict(list)
    for entry in entries:
        groups[entry.group].append(entry)
        if entry.embedding is not None:
            people[entry.group, entry.person].append(vector(entry))
    parents = {name: name for name in groups}
    keys = sorted(people)
    if keys:
        means = np.stack([np.mean(people[key], axis=0) for key in keys])
        for number, (group, _) in enumerate(keys):
            near = np.flatnonzero(np.linalg.norm(means[number + 1 :] - means[number], axis=1) <= LINK_DISTANCE)
            for other in near:
                _join(parents, group, keys[number + 1 + int(other)][0])
    components: dict[str, list[Entry]] = defaultdict(list)
    for name in sorted(groups):
        components[_root(parents, name)] += groups[name]
    return list(components.values())


def _root(parents: dict[str, str], name: str) -> str:
    while parents[name] != name:
        parents[name] = parents[parents[name]]
        name = parents[name]
    return name


def _join(parents: dict[str, str], a: str, b: str) -> None:
    low, high = sorted((_root(parents, a), _root(parents, b)))
    parents[high] = low


def accepted(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries that pass."""
    return [entry for entry in entries if entry.passes]
