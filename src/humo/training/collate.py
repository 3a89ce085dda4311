"""Which samples make up a step, and what is drawn for each: words, piece, conditions kept, noise level and noise.

Everything random follows from the recipe's seed, the step and the sample's place in the step's batch. So a step is the
same however many processes share it, and after a restart; only the decks' positions are state.

Shape suffixes: B batch, C latent channels, L latent frames of the sequence, F of the video, H, W latent size,
h, w token grid, T frames a latent frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from humo.conditioning.audio import audio_windows, null_audio_windows
from humo.conditioning.conditions import Conditions, stack
from humo.errors import RequestError
from humo.geometry import PATCH, TEMPORAL_STRIDE, Geometry
from humo.media.face_identity import EMBEDDING_SIZE
from humo.model.reference import with_references, without_references
from humo.model.seeding import seeded_generator
from humo.presets import ReferenceInjection
from humo.training.auxiliary_heads import MOUTH_VALUES
from humo.training.config import Kept, Loss, Stage
from humo.training.flow_matching import draw_level
from humo.training.latent_cache import Entry, face_name, load, view_name

Bucket = tuple[int, int, int]
"""Width and height in pixels, and frames: clips of one batch are of one bucket."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a step's batch: its clip, whether it hears, and the words its draws follow from."""

    entry: Entry
    hears: bool
    words: tuple[object, ...]


@dataclass(frozen=True)
class Batch:
    """What one pass trains on.

    Args:
        data: clean video latents (B, C, F, H, W).
        conditions: some of them already switched off, as drawn.
        noise: (B, C, L, H, W).
        level: noise levels 0..1, (B,).
        known: video latent frames at the beginning that are shown nearly clean and not asked for, (B,).
        known_level: how noisy those are, (B,).
        face, area: shares of each token on a face and on a mouth, (B, F, h, w), zeros where not known.
        mouth: true curve (B, F, T, 3), each value of unit deviation, NaN where not known or not heard.
        identity: face embedding (B, 128) of unit deviation, NaN where not known or the picture is not seen.
        kept: of each sample, the conditions that are not switched off.
        scales: (B, 3) that a student is told.
        eyes: as ``area``, at the height of the eyes; None where not known.
    """

    data: Tensor
    conditions: Conditions
    noise: Tensor
    level: Tensor
    known: Tensor
    known_level: Tensor
    face: Tensor
    area: Tensor
    mouth: Tensor
    identity: Tensor
    kept: tuple[str, ...]
    scales: Tensor | None = None
    eyes: Tensor | None = None

    @property
    def is_known(self) -> Tensor:
        """Which video latent frames are known, (B, F)."""
        return torch.arange(self.data.shape[2]) < self.known[:, None]

    @property
    def levels(self) -> Tensor:
        """Noise level of each video latent frame, (B, F)."""
        return torch.where(self.is_known, self.known_level[:, None], self.level[:, None])

    def weight(self, loss: Loss) -> Tensor | None:
        """Weights of the places of the video latents, (B, F, H, W); None where all are alike."""
        if not loss.face and not loss.mouth and not loss.eyes and not self.known.any():
            return None
        weight = 1 + loss.face * self.face + loss.mouth * self.area
        if self.eyes is not None:
            weight = weight + loss.eyes * self.eyes
        weight = torch.where(self.is_known[:, :, None, None], 0.0, weight)
        return F.interpolate(weight, scale_factor=PATCH[1:], mode="nearest")


class Decks:
    """Endless shuffled decks of clips, one a pool: each clip comes once before any comes again.

    Args:
        seed: of the shuffling.
        drawn: pool -> cards drawn so far, of an earlier run.
    """

    def __init__(self, seed: int, drawn: Mapping[str, int] | None = None) -> None:
        self._seed = seed
        self.drawn: dict[str, int] = dict(drawn or {})
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def draw(self, pool: str, size: int) -> int:
        """The next card of a pool of ``size`` clips."""
        count = self.drawn.get(pool, 0)
        self.drawn[pool] = count + 1
        epoch, position = divmod(count, size)
        if self._orders.get(pool, (-1, []))[0] != epoch:
            generator = seeded_generator(self._seed, "deck", pool, epoch)
            self._orders[pool] = epoch, torch.randperm(size, generator=generator).tolist()
        return self._orders[pool][1][position]


def buckets_of(entries: Sequence[Entry], stage: Stage) -> dict[Bucket, list[Entry]]:
    """The clips of each bucket of a stage.

    Raises:
        RequestError: no clip is long enough, or the stage wants sound and none has any.
    """
    found: dict[Bucket, list[Entry]] = {}
    for entry in entries:
        for frames in stage.frames:
            if frames <= entry.frames:
                found.setdefault((*entry.size, frames), []).append(entry)
    if not found:
        raise RequestError(f"stage {stage.name!r}", f"no clip has {stage.frames[0]} frames", "ask for fewer frames")
    if max(stage.audio_share) > 0 and not any(entry.hears for entries in found.values() for entry in entries):
        raise RequestError(f"stage {stage.name!r}", "wants audio samples, and no clip has a sound", "set audio_share")
    return dict(sorted(found.items()))


def audio_share(stage: Stage, step: int) -> float:
    """Share of samples that hear, at a step from 0 on."""
    start, end = stage.audio_share
    return start + (end - start) * (step / max(1, stage.steps - 1))


def draw_step(
    buckets: Mapping[Bucket, Sequence[Entry]], decks: Decks, stage: Stage, step: int, *words: object
) -> tuple[Bucket, list[Slot]]:
    """The bucket of a step, drawn by the number of its clips, and the slots of its batch.

    Args:
        buckets: of the stage.
        decks: drawn from; they move on.
        stage: whose step it is.
        step: from 0 on.
        words: that all draws follow from (seed, stage), the step apart.
    """
    generator = seeded_generator(*words, step, "bucket")
    sizes = torch.tensor([float(len(entries)) for entries in buckets.values()])
    bucket = list(buckets)[int(torch.multinomial(sizes, 1, generator=generator))]
    every = buckets[bucket]
    heard = [entry for entry in every if entry.hears]
    slots = []
    for number, chance in enumerate(torch.rand(stage.batch, generator=generator).tolist()):
        hears = bool(heard) and chance < audio_share(stage, step)
        pool = heard if hears else every
        card = decks.draw(f"{bucket}{' heard' if hears else ''}", len(pool))
        slots.append(Slot(pool[card], hears, (*words, step, number)))
    return bucket, slots


MOST_KNOWN = 3
"""Latent frames at the beginning that a sample knows at most: a still, and eight frames."""

KNOWN_LEVEL = 0.2
"""Noise level of known latent frames at most: those to go on from in sampling are not quite clean either."""


@dataclass(frozen=True)
class Collator:
    """Turns slots into batches.

    Args:
        entry: how references enter.
        loss: how noise levels are drawn.
        keep: conditions kept together -> share of samples.
        paraphrases: share of samples that read one.
        own_faces: share of samples whose picture is cut out of the clip itself.
        continued: share of samples whose first latent frames are known.
        no_text: (1, L, D), of the negative prompt.
        blank: latents of a mid-grey video of a geometry; for ``CHANNELS``.
        audio: (bands, width) of the audio rows.
        mouth, identity: means and deviations, (2, ...), that are taken out of them.
    """

    entry: ReferenceInjection
    loss: Loss
    keep: Mapping[Kept, float]
    paraphrases: float
    own_faces: float
    continued: float
    no_text: Tensor
    blank: Callable[[Geometry], Tensor]
    audio: tuple[int, int]
    mouth: Tensor
    identity: Tensor

    def __call__(self, bucket: Bucket, slots: Sequence[Slot], level: float | None = None) -> Batch:
        """The batch of some slots.

        Args:
            bucket: that they are of.
            slots: one or more.
            level: noise level of all; drawn by default, and then conditions are dropped as drawn, too.
        """
        geometry = Geometry(*bucket, references=1)
        rows = [self._one(geometry, slot, level) for slot in slots]
        conditions = stack([conditions for conditions, _, _ in rows])
        kept = tuple(kept for _, kept, _ in rows)
        switches = {
            name: torch.tensor([letter in one for one in kept])
            for name, letter in (("text", "T"), ("image", "I"), ("audio", "A"))
        }
        tensors = {name: torch.stack([found[name] for _, _, found in rows]) for name in rows[0][2]}
        return Batch(conditions=conditions.keep(**switches), kept=kept, **tensors)

    def _one(self, geometry: Geometry, slot: Slot, level: float | None) -> tuple[Conditions, str, dict[str, Tensor]]:
        """A slot's conditions (a batch of one), those kept, and its other tensors."""
        generator, entry, frames = seeded_generator(*slot.words), slot.entry, geometry.video_latent_frames
        chance, which, other = torch.rand(3, generator=generator).tolist()
        piece = int(torch.randint(entry.pieces, (), generator=generator))
        words = 0
        if chance < self.paraphrases and entry.captions > 1:
            words = 1 + int(other * (entry.captions - 1))
        kept = self.kept(which) if level is None else "TIA"
        drawn = draw_level(self.loss, generator)
        reference = self._reference(entry, generator) if level is None else "reference"
        names = (reference, "rows", "identity", f"text.{words}", *(f"{name}.{piece}" for name in PER_PIECE))
        found = load(entry, names)
        latents = found[f"latents.{piece}"][:, :frames]
        noise = torch.randn(geometry.latent_shape(latents.shape[0]), generator=generator)
        known, known_level = self.known(frames, generator) if level is None else (0, 0.0)
        if slot.hears:
            start = entry.starts[piece % len(entry.starts)]
            audio = audio_windows(found["rows"][start:], frames, geometry.reference_slots)
        else:
            audio = null_audio_windows(geometry.latent_frames, *self.audio)
        blank = self.blank(geometry) if self.entry is ReferenceInjection.CHANNEL_CONCAT else None
        shown = found[reference][None]
        conditions = Conditions(
            text=found[f"text.{words}"][None],
            null_text=self.no_text,
            image=with_references(self.entry, shown, blank),
            null_image=without_references(self.entry, shown, blank),
            audio=audio[None],
        )
        grid = (geometry.latent_height // PATCH[1], geometry.latent_width // PATCH[2])
        unknown = torch.zeros(frames, *grid)
        curve = found.get(f"mouth.{piece}")
        heard = slot.hears and "A" in kept and curve is not None
        person = torch.full((EMBEDDING_SIZE,), torch.nan)
        if "I" in kept and "identity" in found:
            person = (found["identity"] - self.identity[0]) / self.identity[1]
        unheard = torch.full((frames, TEMPORAL_STRIDE, MOUTH_VALUES), float("nan"))
        return conditions, kept, {
            "data": latents,
            "noise": noise,
            "level": torch.tensor(drawn if level is None else level),
            "known": torch.tensor(known),
            "known_level": torch.tensor(known_level),
            "face": found.get(f"face.{piece}", unknown)[:frames],
            "area": found.get(f"area.{piece}", unknown)[:frames],
            "mouth": (curve[:frames] - self.mouth[0]) / self.mouth[1] if heard and curve is not None else unheard,
            "identity": person,
        }  # fmt: skip

    def _reference(self, entry: Entry, generator: torch.Generator) -> str:
        """Which picture of the person a sample sees."""
        if entry.faces and float(torch.rand((), generator=generator)) < self.own_faces:
            return face_name(int(torch.randint(entry.faces, (), generator=generator)))
        if entry.views > 1:
            return view_name(entry.size, int(torch.randint(entry.views, (), generator=generator)))
        return "reference"

    def known(self, frames: int, generator: torch.Generator) -> tuple[int, float]:
        """How many of a sample's first latent frames are known, and how noisy they are."""
        chance, count, noisy = torch.rand(3, generator=generator).tolist()
        if chance >= self.continued or frames < 2:
            return 0, 0.0
        return 1 + int(count * min(MOST_KNOWN, frames - 1)), noisy * KNOWN_LEVEL

    def kept(self, chance: float) -> str:
        """The conditions kept at a place 0..1 of the table."""
        below = 0.0
        for kept, share in self.keep.items():
            below += share
            if chance < below:
                return kept
        return list(self.keep)[-1]  # shares add up to 1 but for rounding


@dataclass(frozen=True)
class Samples:
    """Encoded clips as a source of batches.

    Args:
        buckets: of the stage.
        collate: makes the batches.
    """

    buckets: Mapping[Bucket, Sequence[Entry]]
    collate: Collator

    def draw(self, decks: Decks, stage: Stage, step: int, *words: object) -> tuple[Bucket, list[Slot]]:
        """The bucket of a step, and the slots of its batch, as `draw_step`."""
        return draw_step(self.buckets, decks, stage, step, *words)

    def __call__(self, bucket: Bucket, slots: Sequence[Slot]) -> Batch:
        """The batch of some slots."""
        return self.collate(bucket, slots)


MEASURED = 500
"""Clips from which the mean and deviation of a truth are taken."""

LEAST_DEVIATION = 1e-3
"""What it is divided by at least."""


def statistics(entries: Sequence[Entry], name: str, values: int) -> Tensor:
    """Means and deviations (2, ``values``) of a truth over the first clips that have it; 0 and 1 if none has."""
    found = [load(entry, [name]).get(name) for entry in entries[:MEASURED]]
    known = [one.view(-1, values) for one in found if one is not None]
    rows = torch.cat([*known, torch.zeros(0, values)])
    rows = rows[~rows.isnan().any(dim=1)]
    if len(rows) < 2:
        return torch.stack([torch.zeros(values), torch.ones(values)])
    return torch.stack([rows.mean(dim=0), rows.std(dim=0).clamp(min=LEAST_DEVIATION)])


PER_PIECE = ("latents", "face", "area", "mouth")
"""Tensors that an entry holds once for each piece."""
