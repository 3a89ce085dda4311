"""Batches from shards of rendered people (`humo.synthetic.shards`), encoded as they are drawn; the folder may grow.

Takes are kept as pixels: the autoencoder's linear code costs less than reading latents would, mirrored pictures cost
nothing, and the same shards serve whatever the encoders become. The bank of speeches is encoded once.

Every draw follows from the seed, the step and the sample's place in the batch, and from which shards were there.

Shape suffixes: B batch, C latent channels, F latent frames, H, W size (of pixels or latents), h, w token grid,
T frames, N bands, D width. Pixels are in [-1, 1].
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from humo.conditioning.audio import audio_windows, encode_audio, null_audio_windows
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
    SPEECH_FRAMES,
    SPEECHES,
    ShardConfig,
    open_arrays,
    read_config,
    read_speeches,
    read_values,
    rendering_processes,
    shard_numbers,
)
from humo.training.autoencoder_data import upper
from humo.training.auxiliary_heads import MOUTH_VALUES
from humo.training.collate import Batch, Bucket, Collator, Decks, audio_share
from humo.training.config import Data, Render, Stage
from humo.training.flow_matching import draw_level
from humo.training.frozen_encoders import Encoders
from humo.training.latent_cache import Progress, lower_middle, on_tokens, per_latent, shrink
from humo.training.preprocessing import NEARER, cut_out
from humo.training.tensor_files import Digests, digest, read_tensors, write_tensors

REFRESH_STEPS = 64
"""Steps after which the folder is looked at again."""

PAST_PROB = 0.7
"""Of samples from the midst of a speech, those that are given what was said before, as later windows of a clip are."""

WAIT_SECONDS = 2.0
"""Between two looks at a folder that has too few shards yet."""

CAPTIONS_AT_ONCE = 8

SPEECHES_A_FILE = 25
"""Encoded between two files: a run that is stopped meanwhile goes on from the last."""

LEAST_DEVIATION = 1e-3

_PIXELS = 127.5


@dataclass(frozen=True, slots=True)
class Shard:
    """An open shard.

    Args:
        number: its number.
        file: mapped into memory.
        size: (width, height) that its pictures stand for.
        takes, frames: how many takes, and the length of each.
        looks: ``captions`` and ``attributes`` of each look.
    """

    number: int
    file: Any
    size: tuple[int, int]
    takes: int
    frames: int
    looks: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class TakeSpec:
    """A place in a step's batch: its take, whether it has audio, and what its draws follow from."""

    shard: Shard
    take: int
    has_audio: bool
    key: tuple[object, ...]


def is_shard_folder(data: Data) -> bool:
    """Whether training data are shards, or will be."""
    return data.render is not None or (Path(data.folder) / CONFIG).is_file()


class ShardFolderReader:
    """A folder of shards that are read while others are written.

    Args:
        folder: of shards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[int, Shard] = {}

    def refresh(self, group: ProcessGroup) -> None:
        """See what is there by now, all processes the same."""
        numbers = group.gather(shard_numbers(self.folder))[0]
        for number in self.shards.keys() - numbers:
            del self.shards[number]
        for number in numbers:
            if number not in self.shards:
                self.shards[number] = self._open(number)
        self.shards = dict(sorted(self.shards.items()))

    def _open(self, number: int) -> Shard:
        file = open_arrays(self.folder / SHARDS.replace("*", f"{number:05}"), "pt")
        values = read_values(file)
        takes, frames = file.get_slice("frames").get_shape()[:2]
        width, height = values["size"]
        return Shard(number, file, (width, height), takes, frames, values["looks"])

    def buckets(self, stage: Stage) -> dict[Bucket, list[Shard]]:
        """The shards of each bucket of a stage.

        Raises:
            RequestError: no shard has takes that are long enough.
        """
        found: dict[Bucket, list[Shard]] = {}
        for shard in self.shards.values():
            for frames in stage.frames:
                if frames <= shard.frames:
                    found.setdefault((*shard.size, frames), []).append(shard)
        if not found:
            problem = f"no shard in {str(self.folder)!r} has takes of {stage.frames[0]} frames"
            raise RequestError(f"stage {stage.name!r}", problem, "ask for fewer frames, or render longer takes")
        return dict(sorted(found.items()))


class ShardSource:
    """Shards as a source of batches.

    Args:
        reader: of the folder.
        stage: whose batches they are.
        collate: says how conditions are kept, noise levels drawn, statistics taken out.
        encoders: autoencoder and text encoder.
        audio_rows: (S, T, N, D) encoder rows of the bank of speeches.
        data: of the recipe.
        group: processes that share the training.
    """

    def __init__(
        self,
        reader: ShardFolderReader,
        stage: Stage,
        collate: Collator,
        encoders: Encoders,
        audio_rows: Tensor,
        data: Data,
        group: ProcessGroup,
    ) -> None:
        self._reader, self._collate, self._encoders = reader, collate, encoders
        self._audio_rows, self._data, self._group = audio_rows, data, group
        self._buckets = reader.buckets(stage)

    def draw(self, decks: Decks, stage: Stage, step: int, *key: object) -> tuple[Bucket, list[TakeSpec]]:
        """The bucket of a step, drawn by the number of its takes, and the takes of its batch.

        Args:
            decks: not used: of so many takes each is drawn evenly.
            stage, step: whose step it is.
            key: that all draws follow from (seed, stage), the step apart.
        """
        if step % REFRESH_STEPS == 0:
            self._reader.refresh(self._group)
            self._buckets = self._reader.buckets(stage)
        generator = seeded_generator(*key, step, "takes")
        counts = torch.tensor([float(sum(one.takes for one in shards)) for shards in self._buckets.values()])
        bucket = list(self._buckets)[int(torch.multinomial(counts, 1, generator=generator))]
        shards = self._buckets[bucket]
        specs = []
        for number in range(stage.batch):
            shard = shards[int(torch.randint(len(shards), (), generator=generator))]
            take = int(torch.randint(shard.takes, (), generator=generator))
            has_audio = float(torch.rand((), generator=generator)) < audio_share(stage, step)
            specs.append(TakeSpec(shard, take, has_audio, (*key, step, number)))
        return bucket, specs

    @torch.no_grad()
    def __call__(self, bucket: Bucket, specs: Sequence[TakeSpec]) -> Batch:
        """The batch of some takes."""
        geometry = Geometry(*bucket, references=1)
        rows = [self._sample(geometry, spec) for spec in specs]
        stacked = {name: torch.stack([row[name] for row, _, _ in rows]) for name in rows[0][0]}
        kept = tuple(kept for _, kept, _ in rows)
        pixels, references = stacked.pop("pixels"), stacked.pop("reference")
        one = self._encoders
        data = encode_video(pixels.to(one.device), one.vae).float().cpu()
        reference = encode_video(references.to(one.device), one.vae).float().cpu()
        text = self._encode_captions([caption for *_, caption in rows])
        blank = self._collate.blank(geometry) if self._collate.entry is ReferenceInjection.CHANNEL_CONCAT else None
        blank = None if blank is None else blank.expand(len(specs), -1, -1, -1, -1)
        conditions = Conditions(
            text=text,
            null_text=self._collate.no_text.expand(len(specs), -1, -1),
            image=with_references(self._collate.entry, reference, blank),
            null_image=without_references(self._collate.entry, reference, blank),
            audio=stacked.pop("audio"),
        )
        keep = {
            name: torch.tensor([letter in one for one in kept])
            for name, letter in (("text", "T"), ("image", "I"), ("audio", "A"))
        }
        return Batch(data=data, conditions=conditions.keep(**keep), kept=kept, **stacked)

    def _encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (B, L, D), those of like length together, since captions differ tenfold in theirs."""
        one, order = self._encoders, sorted(range(len(captions)), key=lambda number: len(captions[number]))
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), CAPTIONS_AT_ONCE):
            numbers = order[start : start + CAPTIONS_AT_ONCE]
            texts = [captions[number] for number in numbers]
            text = encode_text(texts, one.tokenizer, one.text_encoder, one.text_length, one.device)
            found |= dict(zip(numbers, text.float().cpu(), strict=True))
        length = max(text.shape[0] for text in found.values())
        return torch.stack([F.pad(found[number], (0, 0, 0, length - len(found[number]))) for number in sorted(found)])

    def _sample(self, geometry: Geometry, spec: TakeSpec) -> tuple[dict[str, Tensor], str, str]:
        """A take's tensors, the conditions kept, and its words."""
        generator, shard, collate = seeded_generator(*spec.key), spec.shard, self._collate
        chance, which, other, mirrored, past = torch.rand(5, generator=generator).tolist()
        frames, latent_frames = geometry.frames, geometry.video_latent_frames
        file, take = shard.file, slice(spec.take, spec.take + 1)
        is_mirrored = self._data.mirror and mirrored < 0.5
        look = int(file.get_slice("look")[take][0, 0])
        shown = np.ascontiguousarray(file.get_slice("frames")[take][0, :frames].numpy())
        width = shown.shape[2]
        packed = file.get_slice("face")[take][0, :, :frames].numpy()
        faces = np.logical_or.reduce(np.unpackbits(packed, axis=-1, count=width).astype(np.bool_), axis=0)
        captions = shard.looks[look]["captions"]
        number = 0
        if chance < collate.paraphrases and len(captions) > 1:
            number = 1 + int(other * (len(captions) - 1))
        kept = collate.kept(which)
        level = draw_level(collate.loss, generator)
        noise = torch.randn(geometry.latent_shape(len(self._encoders.vae.config.latents_mean)), generator=generator)
        known, known_level = collate.known(latent_frames, generator)
        reference = self._reference(shard, look, shown, faces, geometry, generator)
        grid = (geometry.latent_height // PATCH[1], geometry.latent_width // PATCH[2])
        masks = {"face": faces, "area": lower_middle(faces), "eyes": upper(faces)}
        whole = (0, 0, faces.shape[2], faces.shape[1])
        places = {
            name: on_tokens(shrink(mask, whole, (faces.shape[2], faces.shape[1]), grid)) for name, mask in masks.items()
        }
        pixels = to_pixels(shown, geometry)
        if is_mirrored:
            pixels, places = pixels.flip(-1), {name: mask.flip(-1) for name, mask in places.items()}
        audio = self._audio(spec, look, geometry, past)
        curve = per_latent(file.get_slice("mouth")[take][0, 0, :frames])
        return {
            "pixels": pixels,
            "reference": reference,
            "audio": audio,
            "noise": noise,
            "level": torch.tensor(level),
            "known": torch.tensor(known),
            "known_level": torch.tensor(known_level),
            **places,
            "mouth": (
                (curve - collate.mouth[0]) / collate.mouth[1]
                if bool(audio.any()) and "A" in kept
                else torch.full((latent_frames, TEMPORAL_STRIDE, MOUTH_VALUES), torch.nan)
            ),
            "identity": (
                (file.get_slice("identity")[look // LOOKS : look // LOOKS + 1][0] - collate.identity[0])
                / collate.identity[1]
                if "I" in kept
                else torch.full((EMBEDDING_SIZE,), torch.nan)
            ),
        }, kept, captions[number]  # fmt: skip

    def _audio(self, spec: TakeSpec, look: int, geometry: Geometry, chance: float) -> Tensor:
        """The windows (F, W, N, D) that the latent frames of a take are given."""
        file = spec.shard.file
        speech = int(file.get_slice("speech")[look : look + 1][0])
        if not spec.has_audio or speech >= len(self._audio_rows):
            return null_audio_windows(geometry.latent_frames, *self._audio_rows.shape[2:])
        start = int(file.get_slice("start")[spec.take : spec.take + 1][0])
        rows = self._audio_rows[speech].float()
        windows = audio_windows(rows[start:], geometry.video_latent_frames, geometry.reference_slots)
        if chance < PAST_PROB:  # the first window's lead is silence only where a clip begins
            lead = rows[max(0, start - AUDIO_LEAD) : start]
            windows[0, AUDIO_LEAD - len(lead) : AUDIO_LEAD] = lead
        return windows

    def _reference(
        self,
        shard: Shard,
        look: int,
        shown: NDArray[np.uint8],
        faces: NDArray[np.bool_],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> Tensor:
        """The picture of the person that a sample is given, (3, 1, H, W)."""
        own, still, view, which = torch.rand(4, generator=generator).tolist()
        if own < self._data.own_faces:
            picture = np.array(cut_out(shown[int(which * len(shown))], faces[int(which * len(shown))], generator))
            return to_pixels(picture[None], geometry)
        other = LOOKS * (look // LOOKS) + (look + 1) % LOOKS
        if still < self._data.still_references:
            picture = shard.file.get_slice("reference")[other : other + 1][0].numpy()
        else:
            each = shard.takes // len(shard.looks)
            take = other * each + int(which * each)
            picture = shard.file.get_slice("frames")[take : take + 1][0, 0].numpy()
        number = int(view * self._data.views)  # as `views`: as it is, mirrored, nearer, both
        pixels = to_pixels(np.ascontiguousarray(picture)[None], geometry, NEARER if number >= 2 else None)
        return pixels.flip(-1) if number % 2 else pixels


def to_pixels(
    frames: NDArray[np.uint8], geometry: Geometry, box: tuple[float, float, float, float] | None = None
) -> Tensor:
    """Frames (T, H, W, 3) at once or twice the geometry's size -> (3, T, H, W) at that size.

    Args:
        frames: as rendered.
        geometry: the size.
        box: the part to show: left, top, right, bottom in shares of the picture. By default all.
    """
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / _PIXELS - 1
    size = (geometry.height, geometry.width)
    if box is not None:
        height, width = pixels.shape[2:]
        left, top, right, bottom = (round(end * side) for end, side in zip(box, (width, height) * 2, strict=True))
        pixels = F.interpolate(pixels[:, :, top:bottom, left:right], size, mode="bicubic", antialias=True).clamp(-1, 1)
    elif pixels.shape[2:] != size:
        pixels = F.avg_pool2d(pixels, pixels.shape[2] // size[0])
    return pixels.movedim(1, 0)


# -- what a run begins with -------------------------------------------------------------------------------------------


def encode_speeches(
    folder: Path, encoders: Encoders, cache: Path, progress: Progress, most: int | None = None
) -> Tensor:
    """Encoder rows (S, T, N, D) of a folder's bank of speeches, float16; kept in the cache.

    Args:
        folder: of shards.
        encoders: with the audio encoder.
        cache: a folder.
        progress: told ("audio", speeches done, of how many).
        most: of the speeches, the first so many alone, rounded up to whole files.
    """
    digests = Digests(cache / "digests.json")
    parts = (digests.of(encoders.folder(name)) for name in ("audio_encoder", "feature_extractor"))
    key = digest(*parts, encoders.audio_bands, digests.of(folder / SPEECHES))
    folder_of_rows = cache / f"speeches-{key[:16]}"
    folder_of_rows.mkdir(parents=True, exist_ok=True)
    speeches, chunks = read_speeches(folder / SPEECHES), []
    count = min(len(speeches.audio), len(speeches.audio) if most is None else most)
    for start in range(0, count, SPEECHES_A_FILE):
        path = folder_of_rows / f"{start:05}.safetensors"
        if not path.is_file():
            rows = []
            for number, audio in enumerate(speeches.audio[start : start + SPEECHES_A_FILE], start):
                progress("audio", number, count)
                samples = audio.astype(np.float32) / np.iinfo(np.int16).max
                one = encode_audio(samples, encoders.feature_extractor, encoders.audio_encoder, encoders.audio_bands)
                rows.append(F.pad(one.cpu(), (0, 0, 0, 0, 0, SPEECH_FRAMES - len(one))).half())
            write_tensors(path, {"rows": torch.stack(rows)})
        chunks.append(read_tensors(path)["rows"])
    return torch.cat(chunks)


def shard_statistics(reader: ShardFolderReader, cache: Path) -> tuple[Tensor, Tensor]:
    """Means and deviations (2, ...) of mouth curves and of face embeddings, of the first shard; kept in the cache."""
    path = cache / "shard-statistics.safetensors"
    if not path.is_file():
        file = next(iter(reader.shards.values())).file
        mouth, identity = file.get_tensor("mouth").view(-1, MOUTH_VALUES), file.get_tensor("identity")
        cache.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"mouth": _statistics(mouth), "identity": _statistics(identity)})
    found = read_tensors(path)
    return found["mouth"], found["identity"]


def _statistics(rows: Tensor) -> Tensor:
    rows = rows[~rows.isnan().any(dim=1)]
    if len(rows) < 2:
        return torch.stack([torch.zeros(rows.shape[1]), torch.ones(rows.shape[1])])
    return torch.stack([rows.mean(dim=0), rows.std(dim=0).clamp(min=LEAST_DEVIATION)])


@contextmanager
def rendering(data: Data, group: ProcessGroup, progress: Progress) -> Iterator[None]:
    """Within the block, shards are rendered beside the training if the recipe asks for it.

    Args:
        data: of the recipe.
        group: the first of its processes renders.
        progress: told ("render", shards there, of how many) until there are enough to begin.

    Raises:
        RequestError: a worker ended before there was anything to train on.
    """
    settings, folder = data.render, Path(data.folder)
    with ExitStack() as stack:
        if settings is not None and group.is_main:
            processes = stack.enter_context(
                rendering_processes(folder, shard_config(settings), settings.workers, keep=settings.keep)
            )
            while (there := len(shard_numbers(folder))) < settings.begin:
                progress("render", there, settings.begin)
                if any(not process.is_alive() for process in processes):
                    raise RequestError("data.render", "a rendering process ended", "see what it wrote above")
                time.sleep(WAIT_SECONDS)
        group.barrier()
        yield


def shard_config(settings: Render) -> ShardConfig:
    """What the shards of a recipe hold."""
    return ShardConfig(
        seed=settings.seed,
        sizes=settings.sizes,
        takes=settings.takes,
        take_frames=settings.take_frames,
        double_every=settings.double_every,
        speeches=settings.speeches,
        people=settings.identities,
        people_per_shard=settings.people_per_shard,
        closeness=settings.closeness,
        articulation=settings.articulation,
    )


def check_shards(data: Data, stages: Sequence[Stage]) -> dict[str, Any]:
    """What there is to train on, as far as it can be known before anything is rendered.

    Raises:
        RequestError: the takes are too short for a stage.
        StorageError: the folder holds no shards.
    """
    folder = Path(data.folder)
    config = shard_config(data.render) if data.render is not None else read_config(folder)
    for stage in stages:
        if stage.frames[0] > config.take_frames:
            problem = f"wants {stage.frames[0]} frames, and takes have {config.take_frames}"
            raise RequestError(f"stage {stage.name!r}", problem, "ask for fewer frames, or render longer takes")
    return {"shards": len(shard_numbers(folder)), "takes": config.takes, "take_frames": config.take_frames}
