"""Encodes every clip once: pictures, words and sound, each in a file named by what it is made from.

A file's name is the digest of the clip's contents, of the encoder's weights and of every setting that counts: whatever
changes is encoded anew, and nothing else is. A clip that cannot be read is named and left out.

Shape suffixes: C latent channels, F latent frames, H, W latent size, h, w token grid, T audio rows (25 a second),
N bands, D width, L text positions. Frames are 25 a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from humo.conditioning.audio import encode_audio
from humo.conditioning.image import encode_blank, encode_references, encode_video
from humo.conditioning.text import encode_text
from humo.errors import CheckpointError, MediaError
from humo.geometry import FRAMES_PER_SECOND, PATCH, SPATIAL_STRIDE, TEMPORAL_STRIDE, Geometry, frames_of_samples
from humo.media.audio import load_audio
from humo.media.face_identity import EMBEDDING_SIZE, FaceIdentity
from humo.media.image import load_image, to_pixels
from humo.media.video import has_audio, read_video
from humo.model.seeding import seeded_generator
from humo.training.config import Recipe
from humo.training.dataset import Bad, ClipFiles, Truth, read_truth
from humo.training.fitting import at_rate, cover, crop_box, nearest_size
from humo.training.frozen_encoders import Encoders
from humo.training.preprocessing import faces, views
from humo.training.tensor_files import Digests, digest, read_tensors, read_values, write_tensors

VERSION = 2  # of the files' contents; another one is encoded anew
STORED = torch.float16  # of unit size and read as they are: its step is 1/1000 of them

LOWER_FACE = (0.55, 0.95)  # share of the face's height in which a mouth lies, from the top
MIDDLE_FACE = (0.22, 0.78)  # share of its width

Progress = Callable[[str, int, int], None]
Encoded = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors, and what their file's header says."""
Encode = Callable[[ClipFiles], Encoded]


@dataclass(frozen=True, slots=True)
class Entry:
    """A cached clip.

    Args:
        name: its ID.
        paths: of its files: pictures, words, sound and, if they count, views and person.
        size: (width, height) in pixels.
        frames: length of each piece.
        starts: first frame of each piece, in frames of the clip.
        pieces: their number; mirrored ones come after the others.
        captions: the caption and its paraphrases.
        hears: whether it has a sound.
        views: of its reference.
        faces: its own, cut out.
    """

    name: str
    paths: tuple[Path, ...]
    size: tuple[int, int]
    frames: int
    starts: tuple[int, ...]
    pieces: int
    captions: int
    hears: bool
    views: int = 1
    faces: int = 0


class Cache:
    """The encoded clips of a recipe.

    Args:
        recipe: its data, sizes and lengths count.
        encoders: that encode them.
    """

    def __init__(self, recipe: Recipe, encoders: Encoders) -> None:
        self.folder, self.data, self.encoders = recipe.cache, recipe.data, encoders
        self.lengths = tuple(sorted({frames for stage in recipe.stages for frames in stage.frames}))
        self.bands = encoders.audio_bands
        self.text_length = encoders.text_length
        self._blanks: dict[tuple[int, int, int], Tensor] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._digests = Digests(self.folder / "digests.json")

        def of(*names: str) -> list[str]:
            return [self._digests.of(encoders.folder(name)) for name in names]

        cut = (self.data.sizes, self.data.windows, self.data.mirror, self.lengths)
        self._kinds: dict[str, tuple[str, Encode]] = {
            "pictures": (digest(VERSION, *of("vae"), *cut), self._pictures),
            "words": (
                digest(VERSION, *of("text_encoder", "tokenizer"), self.text_length, encoders.dtype),
                self._words,
            ),
            "sound": (digest(VERSION, *of("audio_encoder", "feature_extractor"), self.bands), self._sound),
        }
        if self.data.views > 1:
            self._kinds["views"] = digest(VERSION, *of("vae"), self.data.sizes, self.data.views), self._views
        if self.data.own_faces > 0:
            self._kinds["faces"] = digest(VERSION, *of("vae"), self.data.sizes), self._faces
        if any("identity" in stage.train for stage in recipe.stages):
            self._kinds["person"] = digest(VERSION), self._person
            self._identity = FaceIdentity()

    def fill(self, clips: Sequence[ClipFiles], progress: Progress) -> tuple[list[Entry], list[Bad]]:
        """Encode what is not there yet.

        Args:
            clips: of the dataset.
            progress: told ("encode", clips done, of how many).

        Returns:
            the usable clips and the others, in their order.

        Raises:
            StorageError: the disk is full; what is encoded stays.
        """
        entries, bad = [], []
        for number, clip in enumerate(clips):
            progress("encode", number, len(clips))
            try:
                entries.append(self._entry(clip))
            except MediaError as error:
                bad.append(Bad(clip.name, f"{error.field}: {error.problem}"))
        progress("encode", len(clips), len(clips))
        self._digests.save()
        return entries, bad

    def _entry(self, clip: ClipFiles) -> Entry:
        files = [clip.video, clip.reference, *([clip.truth] if clip.truth is not None else [])]
        try:
            video, reference, *others = map(self._digests.of, files)
        except OSError as error:
            raise MediaError("file", f"cannot be read ({error.strerror})", "check it") from error
        sound = heard(clip)
        made_from = {
            "pictures": (video, reference, *others),
            "words": clip.captions,
            "sound": ("" if sound is None else hashlib.sha256(sound.tobytes()).hexdigest(),),
            "views": (reference,),
            "faces": (video, *others),
            "person": (reference,),
        }
        paths: list[Path] = []
        values: dict[str, Any] = {}
        for kind, (settings, encode) in self._kinds.items():
            key = digest(settings, *made_from[kind])
            path = self.folder / kind / key[:2] / f"{key}.safetensors"
            found = _read_or_remove(path)
            if found is None:
                tensors, found = encode(clip)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_tensors(path, {name: tensor.to("cpu", STORED) for name, tensor in tensors.items()}, found)
            paths.append(path)
            values |= found
        return _as_entry(clip.name, tuple(paths), values)

    def _pictures(self, clip: ClipFiles) -> Encoded:
        """Latents of the clip's pieces and of the reference, and masks and mouth curve."""
        vae, device = self.encoders.vae, self.encoders.device
        shown = read_video(clip.video, field="video")
        frames = at_rate(shown.frames, shown.frames_per_second)
        length = max((length for length in self.lengths if length <= len(frames)), default=0)
        if not length:
            problem = f"has {len(frames)} frames at {FRAMES_PER_SECOND} a second, and {self.lengths[0]} are needed"
            raise MediaError("video", problem, "give longer clips")
        size = nearest_size(frames.shape[2], frames.shape[1], self.data.sizes)
        pixels = torch.from_numpy(np.stack([to_pixels(cover(frame, size)) for frame in frames], axis=1))
        starts = spread(len(frames) - length, self.data.windows)
        masks = _masks(clip, frames.shape, size, len(frames))
        picture = load_image(clip.reference, field="reference picture")
        tensors = {"reference": encode_references([picture], vae, *size, device)[0]}
        pieces = [(start, False) for start in starts]
        pieces += [(start, True) for start in starts] if self.data.mirror else []
        for number, (start, mirrored) in enumerate(pieces):
            piece = pixels[None, :, start : start + length].to(device, vae.dtype)
            with torch.no_grad():
                tensors[f"latents.{number}"] = encode_video(piece.flip(-1) if mirrored else piece, vae)[0]
            for name, mask in masks.items():
                if mask.ndim == 2:  # the mouth curve, the same in a mirror
                    tensors[f"{name}.{number}"] = per_latent(mask[start : start + length])
                else:
                    grid = on_tokens(mask[start : start + length])
                    tensors[f"{name}.{number}"] = grid.flip(-1) if mirrored else grid
        return tensors, {"size": size, "frames": length, "starts": starts, "pieces": len(pieces)}

    def _words(self, clip: ClipFiles) -> Encoded:
        """Embeddings of the caption and its paraphrases."""
        return {f"text.{number}": self._text(words)[0] for number, words in enumerate(clip.captions)}, {
            "captions": len(clip.captions)
        }

    def _sound(self, clip: ClipFiles) -> Encoded:
        """Audio rows, if the clip can be heard."""
        sound, one = heard(clip), self.encoders
        if sound is None:
            return {"rows": torch.zeros(0)}, {"hears": False}
        return {"rows": encode_audio(sound, one.feature_extractor, one.audio_encoder, self.bands)}, {"hears": True}

    def _views(self, clip: ClipFiles) -> Encoded:
        """Latents of the reference in other views, for every size that a clip may have."""
        seen, one = views(load_image(clip.reference, field="reference picture"), self.data.views), self.encoders
        names = {view_name(size, number): (view, size) for size in self.data.sizes for number, view in enumerate(seen)}
        found = {name: encode_references([view], one.vae, *size, one.device)[0] for name, (view, size) in names.items()}
        return found, {"views": len(seen)}

    def _faces(self, clip: ClipFiles) -> Encoded:
        """Latents of the clip's own faces, cut out; none where its masks are not known."""
        truth = Truth() if clip.truth is None else read_truth(clip.truth)
        if truth.face is None:
            return {"own": torch.zeros(0)}, {"faces": 0}
        shown = read_video(clip.video, field="video")
        frames, one = at_rate(shown.frames, shown.frames_per_second), self.encoders
        _check_length(clip, len(truth.face), len(frames))
        size = nearest_size(frames.shape[2], frames.shape[1], self.data.sizes)
        found = faces(frames, truth.face, seeded_generator("faces", clip.name))
        seen = {
            face_name(number): encode_references([picture], one.vae, *size, one.device)[0]
            for number, picture in enumerate(found)
        }
        return seen, {"faces": len(found)}

    def _person(self, clip: ClipFiles) -> Encoded:
        """The reference's face embedding; NaN where no face is found."""
        told = self._identity.embed(np.asarray(load_image(clip.reference, field="reference picture")))
        return {"identity": torch.full((EMBEDDING_SIZE,), torch.nan) if told is None else torch.from_numpy(told)}, {}

    def _text(self, words: str) -> Tensor:
        one = self.encoders
        return encode_text([words], one.tokenizer, one.text_encoder, self.text_length, one.device)

    def blank(self, geometry: Geometry) -> Tensor:
        """Latents (1, C, L, H, W) of a mid-grey video as long as the sequence; each that was made is kept."""
        size = (geometry.latent_frames, geometry.latent_height, geometry.latent_width)
        if size not in self._blanks:
            self._blanks[size] = encode_blank(*size, self.encoders.vae, self.encoders.device).float().cpu()
        return self._blanks[size]

    def no_text(self) -> Tensor:
        """Embeddings (1, L, D) of the family's negative prompt."""
        words = self.encoders.preset.negative_prompt
        path = self.folder / f"no_text-{digest(self._kinds['words'][0], words)[:16]}.safetensors"
        if not path.is_file():
            write_tensors(path, {"text": self._text(words).to("cpu", STORED)})
        return read_tensors(path)["text"].float()


def heard(clip: ClipFiles) -> NDArray[np.float32] | None:
    """The sound of a clip, (samples,) at 16 kHz; None if it has none that is as long as a frame.

    Raises:
        MediaError: it cannot be read.
    """
    if not has_audio(clip.video, field="video"):
        return None
    sound = load_audio(clip.video, field="sound")
    return sound if frames_of_samples(len(sound)) > 1 else None


def _read_or_remove(path: Path) -> dict[str, Any] | None:
    """What a file's header says; a damaged file goes, to be made again."""
    if not path.is_file():
        return None
    try:
        return read_values(path)
    except CheckpointError:
        path.unlink()
        return None


def _as_entry(name: str, paths: tuple[Path, ...], values: dict[str, Any]) -> Entry:
    width, height = values["size"]
    starts = tuple(values["starts"])
    pieces, captions, hears = values["pieces"], values["captions"], values["hears"]
    seen, own = values.get("views", 1), values.get("faces", 0)
    return Entry(name, paths, (width, height), values["frames"], starts, pieces, captions, hears, seen, own)


def load(entry: Entry, names: Iterable[str]) -> dict[str, Tensor]:
    """Some of an entry's tensors, in float32; those it does not have are left out."""
    wanted = tuple(names)
    return {name: one.float() for path in entry.paths for name, one in read_tensors(path, wanted).items()}


def view_name(size: tuple[int, int], number: int) -> str:
    """Of a view's latents in an entry."""
    return f"view.{size[0]}x{size[1]}.{number}"


def face_name(number: int) -> str:
    """Of the latents of one of the clip's own faces in an entry."""
    return f"own.{number}"


def spread(spare: int, count: int) -> list[int]:
    """``count`` starts evenly over 0..spare; fewer where there is no room for so many."""
    if count == 1:
        return [0]
    return sorted({round(spare * index / (count - 1)) for index in range(count)})


def _masks(clip: ClipFiles, shape: Sequence[int], size: tuple[int, int], frames: int) -> dict[str, Tensor]:
    """Face and mouth on the token grid of every frame (F, h, w), and the mouth curve (F, 3), where they are known."""
    truth = Truth() if clip.truth is None else read_truth(clip.truth)
    found: dict[str, Tensor] = {}
    area = truth.mouth_area
    if area is None and truth.face is not None:
        area = lower_middle(truth.face)
    cell = SPATIAL_STRIDE * PATCH[1]
    grid = (size[1] // cell, size[0] // cell)
    for name, mask in (("face", truth.face), ("area", area)):
        if mask is not None:
            _check_length(clip, len(mask), frames)
            box = crop_box(shape[2], shape[1], size)
            found[name] = shrink(mask[:frames], box, (shape[2], shape[1]), grid)
    if truth.mouth is not None:
        _check_length(clip, len(truth.mouth), frames)
        found["mouth"] = torch.from_numpy(truth.mouth[:frames])
    return found


def _check_length(clip: ClipFiles, told: int, frames: int) -> None:
    if told < frames:
        raise MediaError("truth", f"is {told} frames long, and {clip.video.name} {frames}", "write it again")


def lower_middle(face: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the mouth of each face mask (F, S, S) lies, as far as its outline tells."""
    area = np.zeros_like(face)
    for frame, mask in enumerate(face):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            top, left, high, wide = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
            down = slice(top + int(high * LOWER_FACE[0]), top + int(np.ceil(high * LOWER_FACE[1])))
            across = slice(left + int(wide * MIDDLE_FACE[0]), left + int(np.ceil(wide * MIDDLE_FACE[1])))
            area[frame, down, across] = mask[down, across]
    return area


def shrink(
    mask: NDArray[np.bool_],
    box: tuple[float, float, float, float],
    picture: tuple[int, int],
    grid: tuple[int, int],
) -> Tensor:
    """Share of each cell of a grid that a mask covers, (F, h, w), 0..1.

    Args:
        mask: (F, S, S), over the whole picture at any resolution.
        box: part of the picture that the grid covers, in the picture's pixels.
        picture: its width and height.
        grid: rows and columns.
    """
    across, down = mask.shape[2] / picture[0], mask.shape[1] / picture[1]
    left, top, right, bottom = (
        round(end * scale) for end, scale in zip(box, (across, down, across, down), strict=True)
    )
    part = torch.from_numpy(mask[:, top:bottom, left:right].astype(np.float32))
    return F.adaptive_avg_pool2d(part[:, None], grid)[:, 0]


def on_tokens(mask_Fhw: Tensor) -> Tensor:
    """Masks of 4k + 1 frames -> of k + 1 latent frames: the first alone, then means of four."""
    rest = mask_Fhw[1:].unflatten(0, (-1, TEMPORAL_STRIDE)).mean(dim=1) if len(mask_Fhw) > 1 else mask_Fhw[1:]
    return torch.cat([mask_Fhw[:1], rest])


def per_latent(curve_FM: Tensor) -> Tensor:
    """A curve of 4k + 1 frames -> (k + 1, 4, M): those of each latent frame; the first has its last place alone."""
    first = curve_FM.new_full((TEMPORAL_STRIDE - 1, *curve_FM.shape[1:]), float("nan"))
    frames: Tensor = torch.cat([first, curve_FM]).unflatten(0, (-1, TEMPORAL_STRIDE))
    return frames
