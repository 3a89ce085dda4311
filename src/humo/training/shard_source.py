"""Batches of takes from shards of rendered people (`humo.synthetic.shards`), which are encoded when they are drawn.

Takes are stored as pixels. Encoding them takes less time than reading latents would, flipped frames need no storage,
and the same shards serve any encoders. Further shards may be added to the folder during training.

All random numbers are derived from the seed, the step and the position in the batch, and from the shards that exist.

Shape suffixes: B batch, C latent channels, F latent frames, L text positions, H, W size (of pixels or latents), h, w
token grid, T frames, N audio bands, D width. Pixels are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from humo.conditioning.audio import audio_windows, null_audio_windows
from humo.conditioning.conditions import Conditions
from humo.conditioning.image import encode_video
from humo.conditioning.text import encode_text
from humo.distributed.process_group import ProcessGroup
from humo.errors import RequestError
from humo.geometry import AUDIO_LEAD, PATCH, TEMPORAL_STRIDE, Geometry
from humo.media.face_identity import EMBEDDING_SIZE
from humo.model.reference import with_references, without_references
from humo.model.seeding import seeded_generator
from humo.presets import ReferenceInjection
from humo.synthetic.shards import (
    CONFIG,
    LOOKS,
    SHARDS,
    open_arrays,
    read_values,
    shard_numbers,
)
from humo.training.autoencoder_data import estimate_eye_mask
from humo.training.auxiliary_heads import MOUTH_VALUES
from humo.training.collate import Batch, Collator
from humo.training.config import DataConfig, Stage
from humo.training.flow_matching import draw_noise_level
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.latent_cache import (
    curve_of_latent_frames,
    estimate_mouth_mask,
    mask_to_grid,
    masks_of_latent_frames,
)
from humo.training.preprocessing import ZOOM_BOX, cut_out_face
from humo.training.sampler import Bucket, ShuffledSampler, audio_prob

REFRESH_STEPS = 64
"""Number of steps after which the folder is listed again."""

PAST_PROB = 0.7
"""Probability that a sample's first audio window contains the speech before the take, as in later windows of a clip."""

CAPTIONS_PER_PASS = 8
"""Number of captions of similar length that are encoded at once."""


@dataclass(frozen=True, slots=True)
class Shard:
    """An open shard.

    Args:
        number: number of the shard.
        file: file that is mapped into memory.
        size: (width, height) of training; the stored frames have this size or twice this size.
        takes, frames: number of takes, and number of frames of each.
        looks: ``captions`` and ``attributes`` of each outfit of a person.
    """

    number: int
    file: Any
    size: tuple[int, int]
    takes: int
    frames: int
    looks: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class TakeSpec:
    """A sample of a batch before its tensors are loaded.

    Args:
        shard, take: the shard, and the index of the take in it.
        has_audio: whether the sample is conditioned on audio.
        key: key of the sample's random numbers.
    """

    shard: Shard
    take: int
    has_audio: bool
    key: tuple[object, ...]


def is_shard_folder(data: DataConfig) -> bool:
    """Return whether the training data are shards, or will be rendered as shards."""
    return data.render is not None or (Path(data.folder) / CONFIG).is_file()


class ShardFolderReader:
    """Open shards of a folder to which shards are added meanwhile.

    Args:
        folder: folder of shards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[int, Shard] = {}

    def refresh(self, group: ProcessGroup) -> None:
        """List the folder again; all processes get the same shards."""
        numbers = group.gather(shard_numbers(self.folder))[0]
        for number in self.shards.keys() - numbers:
            del self.shards[number]
        for number in numbers:
            if number not in self.shards:
                self.shards[number] = self._open(number)
        self.shards = dict(sorted(self.shards.items()))

    def _open(self, number: int) -> Shard:
        """Open a shard."""
        file = open_arrays(self.folder / SHARDS.replace("*", f"{number:05}"), "pt")
        values = read_values(file)
        takes, frames = file.get_slice("frames").get_shape()[:2]
        width, height = values["size"]
        return Shard(number, file, (width, height), takes, frames, values["looks"])

    def buckets(self, stage: Stage) -> dict[Bucket, list[Shard]]:
        """Return the shards of each bucket of a stage.

        Raises:
            RequestError: no shard has takes that are long enough.
        """
        buckets: dict[Bucket, list[Shard]] = {}
        for shard in self.shards.values():
            for frames in stage.frames:
                if frames <= shard.frames:
                    buckets.setdefault((*shard.size, frames), []).append(shard)
        if not buckets:
            problem = f"no shard in {str(self.folder)!r} has takes of {stage.frames[0]} frames"
            raise RequestError(f"stage {stage.name!r}", problem, "lower frames, or render longer takes")
        return dict(sorted(buckets.items()))


class ShardSource:
    """Shards as a source of batches.

    Args:
        reader: open shards.
        stage: the stage.
        collate: collator of the stage; it draws conditions, noise levels and prefixes.
        encoders: autoencoder and text encoder.
        audio_rows: audio rows of the speeches, (S, T, N, D).
        data: data settings of the recipe.
        group: all processes of the run.
    """

    def __init__(
        self,
        reader: ShardFolderReader,
        stage: Stage,
        collate: Collator,
        encoders: FrozenEncoders,
        audio_rows: Tensor,
        data: DataConfig,
        group: ProcessGroup,
    ) -> None:
        self._reader, self._collate, self._encoders = reader, collate, encoders
        self._audio_rows, self._data, self._group = audio_rows, data, group
        self._buckets = reader.buckets(stage)

    def draw(self, sampler: ShuffledSampler, stage: Stage, step: int, *key: object) -> tuple[Bucket, list[TakeSpec]]:
        """Draw the bucket of a step in proportion to its number of takes, and the takes of its batch.

        Args:
            sampler: not used; takes are drawn independently, since there are so many.
            stage: the stage.
            step: index of the step in the stage.
            key: key of the random numbers besides the step: seed and index of the stage.
        """
        if step % REFRESH_STEPS == 0:
            self._reader.refresh(self._group)
            self._buckets = self._reader.buckets(stage)
        generator = seeded_generator(*key, step, "takes")
        counts = torch.tensor([float(sum(shard.takes for shard in shards)) for shards in self._buckets.values()])
        bucket = list(self._buckets)[int(torch.multinomial(counts, 1, generator=generator))]
        shards = self._buckets[bucket]
        specs = []
        for number in range(stage.batch_size):
            shard = shards[int(torch.randint(len(shards), (), generator=generator))]
            take = int(torch.randint(shard.takes, (), generator=generator))
            has_audio = float(torch.rand((), generator=generator)) < audio_prob(stage, step)
            specs.append(TakeSpec(shard, take, has_audio, (*key, step, number)))
        return bucket, specs

    @torch.no_grad()
    def __call__(self, bucket: Bucket, specs: Sequence[TakeSpec]) -> Batch:
        """Return the batch of some takes."""
        geometry = Geometry(*bucket, references=1)
        rows = [self._sample(geometry, spec) for spec in specs]
        stacked = {name: torch.stack([row[name] for row, _, _ in rows]) for name in rows[0][0]}
        kept = tuple(kept for _, kept, _ in rows)
        pixels, references = stacked["pixels"], stacked.pop("reference")
        encoders = self._encoders
        data = encode_video(pixels.to(encoders.device), encoders.vae).float().cpu()
        reference = encode_video(references.to(encoders.device), encoders.vae).float().cpu()
        text = self._encode_captions([caption for *_, caption in rows])
        blank = (
            self._collate.blank_latents(geometry)
            if self._collate.injection is ReferenceInjection.CHANNEL_CONCAT
            else None
        )
        blank = None if blank is None else blank.expand(len(specs), -1, -1, -1, -1)
        conditions = Conditions(
            text=text,
            null_text=self._collate.null_text.expand(len(specs), -1, -1),
            image=with_references(self._collate.injection, reference, blank),
            null_image=without_references(self._collate.injection, reference, blank),
            audio=stacked.pop("audio"),
        )
        keep = {
            name: torch.tensor([letter in letters for letters in kept])
            for name, letter in (("text", "T"), ("image", "I"), ("audio", "A"))
        }
        return Batch(data=data, conditions=conditions.keep(**keep), kept_conditions=kept, **stacked)

    def _encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Encode captions, (B, L, D), in groups of similar length, because their lengths differ up to tenfold."""
        encoders, order = self._encoders, sorted(range(len(captions)), key=lambda number: len(captions[number]))
        embeddings: dict[int, Tensor] = {}
        for start in range(0, len(order), CAPTIONS_PER_PASS):
            numbers = order[start : start + CAPTIONS_PER_PASS]
            texts = [captions[number] for number in numbers]
            encoded = encode_text(
                texts, encoders.tokenizer, encoders.text_encoder, encoders.text_length, encoders.device
            )
            embeddings |= dict(zip(numbers, encoded.float().cpu(), strict=True))
        length = max(len(embedding) for embedding in embeddings.values())
        padded = [F.pad(embedding, (0, 0, 0, length - len(embedding))) for _, embedding in sorted(embeddings.items())]
        return torch.stack(padded)

    def _sample(self, geometry: Geometry, spec: TakeSpec) -> tuple[dict[str, Tensor], str, str]:
        """Return a take's tensors, the conditions that are kept, and its caption.

        The order of the draws decides the random numbers.
        """
        generator, shard, collate = seeded_generator(*spec.key), spec.shard, self._collate
        chance, which, other, flip, past = torch.rand(5, generator=generator).tolist()
        file, take = shard.file, slice(spec.take, spec.take + 1)
        is_flipped = self._data.horizontal_flip and flip < 0.5
        look_index = int(file.get_slice("look")[take][0, 0])  # word kept: stored array
        frames = np.ascontiguousarray(file.get_slice("frames")[take][0, : geometry.frames].numpy())
        packed = file.get_slice("face")[take][0, :, : geometry.frames].numpy()
        unpacked = np.unpackbits(packed, axis=-1, count=frames.shape[2]).astype(np.bool_)
        faces = np.logical_or.reduce(unpacked, axis=0)
        captions, caption = shard.looks[look_index]["captions"], 0
        if chance < collate.paraphrase_prob and len(captions) > 1:
            caption = 1 + int(other * (len(captions) - 1))
        kept = collate.choose_conditions(which)
        level = draw_noise_level(collate.loss, generator)
        noise = torch.randn(geometry.latent_shape(len(self._encoders.vae.config.latents_mean)), generator=generator)
        prefix_frames, prefix_level = collate.draw_prefix(geometry.video_latent_frames, generator)
        reference = self._reference(shard, look_index, frames, faces, geometry, generator)
        pixels, masks = to_pixels(frames, geometry), _token_masks(faces, geometry)
        if is_flipped:
            pixels, masks = pixels.flip(-1), {name: mask.flip(-1) for name, mask in masks.items()}
        audio = self._audio(spec, look_index, geometry, past)
        tensors = {
            "pixels": pixels,
            "reference": reference,
            "audio": audio,
            "noise": noise,
            "noise_level": torch.tensor(level),
            "prefix_frames": torch.tensor(prefix_frames),
            "prefix_noise_level": torch.tensor(prefix_level),
            **masks,
        }
        has_curve = bool(audio.any()) and "A" in kept
        return tensors | self._targets(spec, look_index, geometry, has_curve, "I" in kept), kept, captions[caption]

    def _targets(
        self, spec: TakeSpec, look_index: int, geometry: Geometry, has_curve: bool, has_identity: bool
    ) -> dict[str, Tensor]:
        """Return mouth curve and face embedding of a take, NaN where they are not targets."""
        file, take, collate = spec.shard.file, slice(spec.take, spec.take + 1), self._collate
        curve = torch.full((geometry.video_latent_frames, TEMPORAL_STRIDE, MOUTH_VALUES), torch.nan)
        if has_curve:
            true = curve_of_latent_frames(file.get_slice("mouth")[take][0, 0, : geometry.frames])
            curve = (true - collate.mouth_statistics[0]) / collate.mouth_statistics[1]
        identity = torch.full((EMBEDDING_SIZE,), torch.nan)
        if has_identity:
            true = file.get_slice("identity")[look_index // LOOKS : look_index // LOOKS + 1][0]
            identity = (true - collate.identity_statistics[0]) / collate.identity_statistics[1]
        return {"mouth_curve": curve, "identity": identity}

    def _audio(self, spec: TakeSpec, look_index: int, geometry: Geometry, chance: float) -> Tensor:
        """Return the audio windows (F, W, N, D) of a take; null windows if it has no audio."""
        file = spec.shard.file
        speech = int(file.get_slice("speech")[look_index : look_index + 1][0])
        if not spec.has_audio or speech >= len(self._audio_rows):
            return null_audio_windows(geometry.latent_frames, *self._audio_rows.shape[2:])
        start = int(file.get_slice("start")[spec.take : spec.take + 1][0])
        rows = self._audio_rows[speech].float()
        windows = audio_windows(rows[start:], geometry.video_latent_frames, geometry.reference_slots)
        if chance < PAST_PROB:  # without this, the first window's lead is silent, as at the start of a clip
            lead = rows[max(0, start - AUDIO_LEAD) : start]
            windows[0, AUDIO_LEAD - len(lead) : AUDIO_LEAD] = lead
        return windows

    def _reference(
        self,
        shard: Shard,
        look_index: int,
        frames: NDArray[np.uint8],
        faces: NDArray[np.bool_],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> Tensor:
        """Draw the reference image of a take: its own face, or the person in another outfit, (3, 1, H, W)."""
        own, still, augmentation, which = torch.rand(4, generator=generator).tolist()
        if own < self._data.self_reference_prob:
            number = int(which * len(frames))
            face = np.array(cut_out_face(frames[number], faces[number], generator))
            return to_pixels(face[None], geometry)
        other_look = LOOKS * (look_index // LOOKS) + (look_index + 1) % LOOKS
        if still < self._data.still_reference_prob:
            image = shard.file.get_slice("reference")[other_look : other_look + 1][0].numpy()
        else:
            takes_per_look = shard.takes // len(shard.looks)
            take = other_look * takes_per_look + int(which * takes_per_look)
            image = shard.file.get_slice("frames")[take : take + 1][0, 0].numpy()
        # as `augment_reference`: 0 the image itself, 1 flipped, 2 zoomed, 3 zoomed and flipped
        number = int(augmentation * self._data.reference_augmentations)
        pixels = to_pixels(np.ascontiguousarray(image)[None], geometry, ZOOM_BOX if number >= 2 else None)
        return pixels.flip(-1) if number % 2 else pixels


def _token_masks(faces: NDArray[np.bool_], geometry: Geometry) -> dict[str, Tensor]:
    """Return masks of face, mouth and eyes on the token grid, (F, h, w), for face masks of all frames."""
    grid = (geometry.latent_height // PATCH[1], geometry.latent_width // PATCH[2])
    size = (faces.shape[2], faces.shape[1])
    masks = {"face_mask": faces, "mouth_mask": estimate_mouth_mask(faces), "eye_mask": estimate_eye_mask(faces)}
    return {name: masks_of_latent_frames(mask_to_grid(mask, (0, 0, *size), size, grid)) for name, mask in masks.items()}


def to_pixels(
    frames: NDArray[np.uint8], geometry: Geometry, box: tuple[float, float, float, float] | None = None
) -> Tensor:
    """Convert rendered frames to pixels (3, T, H, W) of a geometry's size.

    Args:
        frames: (T, H, W, 3), of the geometry's size or twice that size.
        geometry: the size.
        box: part of the frame to show: left, top, right, bottom as fractions. By default the whole frame.
    """
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    size = (geometry.height, geometry.width)
    if box is not None:
        height, width = pixels.shape[2:]
        left, top, right, bottom = (round(end * side) for end, side in zip(box, (width, height) * 2, strict=True))
        pixels = F.interpolate(pixels[:, :, top:bottom, left:right], size, mode="bicubic", antialias=True).clamp(-1, 1)
    elif pixels.shape[2:] != size:
        pixels = F.avg_pool2d(pixels, pixels.shape[2] // size[0])
    return pixels.movedim(1, 0)
