"""Cache of encoded clips: latents, text embeddings and audio rows of each clip, computed once.

The name of a file is the digest of everything that its contents depend on: the clip's files, the encoder's weights and
the settings. So a change leads to a new file, and unchanged files are used again. Clips that cannot be read are
reported.

Shape suffixes: C latent channels, F latent frames, H, W latent size, h, w token grid, T audio rows (25 a second), N
audio bands, D width, L text positions, S side of a mask, M values of the mouth curve. All frames are at 25 a second.
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
from humo.geometry import FRAMES_PER_SECOND, PATCH, SPATIAL_STRIDE, TEMPORAL_STRIDE, Geometry
from humo.media.audio import load_audio
from humo.media.face_identity import EMBEDDING_SIZE, FaceIdentity
from humo.media.image import load_image, to_pixels
from humo.media.video import has_audio
from humo.model.seeding import seeded_generator
from humo.progress import Progress
from humo.training.config import Recipe
from humo.training.dataset import BadClip, ClipFiles, GroundTruth, read_training_clip, read_truth
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.preprocessing import (
    augment_reference,
    center_crop_box,
    cut_out_faces,
    nearest_size,
    resize_and_center_crop,
)
from humo.training.tensor_files import FileDigests, digest, read_tensors, read_values, write_tensors

CACHE_VERSION = 3
"""Version of the files' contents; files of another version are not used."""

CACHE_DTYPE = torch.float16
"""Data type of the cached tensors, whose values are about 1."""

LOWER_FACE = (0.55, 0.95)
"""Range of a face's height, as fractions from the top, in which its mouth is assumed."""
MIDDLE_FACE = (0.22, 0.78)
"""Range of a face's width in which its mouth is assumed."""

Encoded = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors of a file, and the values of its header."""
Encode = Callable[[ClipFiles], Encoded]


@dataclass(frozen=True, slots=True)
class CachedClip:
    """An encoded clip.

    Args:
        name: ID of the clip.
        paths: its files in the cache.
        size: (width, height) in pixels.
        frames: number of frames of each segment.
        starts: first frame of each segment in the clip.
        segments: number of segments; flipped segments follow the others.
        captions: number of captions, paraphrases included.
        has_audio: whether the clip has audio.
        reference_augmentations: number of augmentations of its reference image, the image itself included.
        self_references: number of faces that are cut out of the clip itself.
    """

    name: str
    paths: tuple[Path, ...]
    size: tuple[int, int]
    frames: int
    starts: tuple[int, ...]
    segments: int
    captions: int
    has_audio: bool
    reference_augmentations: int = 1
    self_references: int = 0


class LatentCache:
    """Encoded clips of a recipe.

    Args:
        recipe: the run; its data settings and its stages' lengths decide what is encoded.
        encoders: frozen components that encode.
    """

    def __init__(self, recipe: Recipe, encoders: FrozenEncoders) -> None:
        self.folder, self.data, self.encoders = recipe.cache, recipe.data, encoders
        self.lengths = tuple(sorted({frames for stage in recipe.stages for frames in stage.frames}))
        self.bands = encoders.audio_bands
        self.text_length = encoders.text_length
        self._blanks: dict[tuple[int, int, int], Tensor] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._digests = FileDigests(self.folder / "digests.json")

        def weights(*names: str) -> list[str]:
            return [self._digests.of(encoders.folder(name)) for name in names]

        segmentation = (self.data.resolutions, self.data.segments_per_clip, self.data.horizontal_flip, self.lengths)
        self._kinds: dict[str, tuple[str, Encode]] = {
            "video": (digest(CACHE_VERSION, *weights("vae"), *segmentation), self._encode_video),
            "captions": (
                digest(CACHE_VERSION, *weights("text_encoder", "tokenizer"), self.text_length, encoders.dtype),
                self._encode_captions,
            ),
            "audio": (
                digest(CACHE_VERSION, *weights("audio_encoder", "feature_extractor"), self.bands),
                self._encode_audio,
            ),
        }
        if self.data.reference_augmentations > 1:
            self._kinds["reference_augmentations"] = (
                digest(CACHE_VERSION, *weights("vae"), self.data.resolutions, self.data.reference_augmentations),
                self._encode_reference_augmentations,
            )
        if self.data.self_reference_prob > 0:
            self._kinds["self_references"] = (
                digest(CACHE_VERSION, *weights("vae"), self.data.resolutions),
                self._encode_self_references,
            )
        if any("identity" in stage.train for stage in recipe.stages):
            self._kinds["identity"] = digest(CACHE_VERSION), self._encode_identity
            self._identity = FaceIdentity()

    def encode_missing(self, clips: Sequence[ClipFiles], progress: Progress) -> tuple[list[CachedClip], list[BadClip]]:
        """Encode the clips that are not in the cache.

        Args:
            clips: files of the clips.
            progress: called with ("encode", done, total).

        Returns:
            encoded clips and bad clips, each in the order of ``clips``.

        Raises:
            StorageError: the disk is full; files that are written stay.
        """
        entries, bad = [], []
        for number, clip in enumerate(clips):
            progress("encode", number, len(clips))
            try:
                entries.append(self._encode_clip(clip))
            except MediaError as error:
                bad.append(BadClip(clip.name, f"{error.field}: {error.problem}"))
        progress("encode", len(clips), len(clips))
        self._digests.save()
        return entries, bad

    def _encode_clip(self, clip: ClipFiles) -> CachedClip:
        """Encode a clip as far as it is not in the cache."""
        files = [clip.video, clip.reference, *([clip.truth] if clip.truth is not None else [])]
        try:
            video, reference, *truth = map(self._digests.of, files)
        except OSError as error:
            problem = f"a file of clip {clip.name!r} cannot be read ({error.strerror})"
            raise MediaError("file", problem, "check its permissions") from error
        samples = load_clip_audio(clip)
        sources = {
            "video": (video, reference, *truth),
            "captions": clip.captions,
            "audio": ("" if samples is None else hashlib.sha256(samples.tobytes()).hexdigest(),),
            "reference_augmentations": (reference,),
            "self_references": (video, *truth),
            "identity": (reference,),
        }
        paths: list[Path] = []
        values: dict[str, Any] = {}
        for kind, (settings, encode) in self._kinds.items():
            key = digest(settings, *sources[kind])
            path = self.folder / kind / key[:2] / f"{key}.safetensors"
            header = _read_or_remove(path)
            if header is None:
                tensors, header = encode(clip)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_tensors(path, {name: tensor.to("cpu", CACHE_DTYPE) for name, tensor in tensors.items()}, header)
            paths.append(path)
            values |= header
        return _as_cached_clip(clip.name, tuple(paths), values)

    def _encode_video(self, clip: ClipFiles) -> Encoded:
        """Encode the clip's segments and its reference image; add masks and mouth curve of each segment."""
        vae, device = self.encoders.vae, self.encoders.device
        frames = read_training_clip(clip).frames
        length = max((length for length in self.lengths if length <= len(frames)), default=0)
        if not length:
            problem = f"has {len(frames)} frames at {FRAMES_PER_SECOND} a second, fewer than {self.lengths[0]}"
            raise MediaError("video", problem, "use longer clips, or lower the stages' frames")
        size = nearest_size(frames.shape[2], frames.shape[1], self.data.resolutions)
        pixels = torch.from_numpy(
            np.stack([to_pixels(resize_and_center_crop(frame, size)) for frame in frames], axis=1)
        )
        starts = even_starts(len(frames) - length, self.data.segments_per_clip)
        truth = _read_ground_truth(clip, frames.shape, size, len(frames))
        reference = load_image(clip.reference, field="reference image")
        tensors = {"reference": encode_references([reference], vae, *size, device)[0]}
        segments = [(start, False) for start in starts]
        segments += [(start, True) for start in starts] if self.data.horizontal_flip else []
        for number, (start, flipped) in enumerate(segments):
            segment = pixels[None, :, start : start + length].to(device, vae.dtype)
            with torch.no_grad():
                tensors[f"latents.{number}"] = encode_video(segment.flip(-1) if flipped else segment, vae)[0]
            for name, values in truth.items():
                if values.ndim == 2:  # the mouth curve, which flipping does not change
                    tensors[f"{name}.{number}"] = curve_of_latent_frames(values[start : start + length])
                else:
                    grid = masks_of_latent_frames(values[start : start + length])
                    tensors[f"{name}.{number}"] = grid.flip(-1) if flipped else grid
        return tensors, {"size": size, "frames": length, "starts": starts, "segments": len(segments)}

    def _encode_captions(self, clip: ClipFiles) -> Encoded:
        """Encode the caption and its paraphrases."""
        embeddings = {f"text.{number}": self._encode_text(caption)[0] for number, caption in enumerate(clip.captions)}
        return embeddings, {"captions": len(clip.captions)}

    def _encode_audio(self, clip: ClipFiles) -> Encoded:
        """Encode the audio, if the clip has any."""
        samples, encoders = load_clip_audio(clip), self.encoders
        if samples is None:
            return {"rows": torch.zeros(0)}, {"has_audio": False}
        rows = encode_audio(samples, encoders.feature_extractor, encoders.audio_encoder, self.bands)
        return {"rows": rows}, {"has_audio": True}

    def _encode_reference_augmentations(self, clip: ClipFiles) -> Encoded:
        """Encode the augmentations of the reference image in every resolution that a clip may have."""
        encoders = self.encoders
        images = augment_reference(
            load_image(clip.reference, field="reference image"), self.data.reference_augmentations
        )
        latents = {
            augmentation_key(size, number): encode_references([image], encoders.vae, *size, encoders.device)[0]
            for size in self.data.resolutions
            for number, image in enumerate(images)
        }
        return latents, {"reference_augmentations": len(images)}

    def _encode_self_references(self, clip: ClipFiles) -> Encoded:
        """Encode faces that are cut out of the clip itself; none if it has no face masks."""
        truth = GroundTruth() if clip.truth is None else read_truth(clip.truth)
        if truth.face is None:
            return {"own": torch.zeros(0)}, {"self_references": 0}
        frames, encoders = read_training_clip(clip).frames, self.encoders
        _check_length(clip, len(truth.face), len(frames))
        size = nearest_size(frames.shape[2], frames.shape[1], self.data.resolutions)
        images = cut_out_faces(
            frames, truth.face, seeded_generator("faces", clip.name)
        )  # the string decides the numbers
        latents = {
            self_reference_key(number): encode_references([image], encoders.vae, *size, encoders.device)[0]
            for number, image in enumerate(images)
        }
        return latents, {"self_references": len(images)}

    def _encode_identity(self, clip: ClipFiles) -> Encoded:
        """Compute the face embedding of the reference image; NaN if no face is detected."""
        embedding = self._identity.embed(np.asarray(load_image(clip.reference, field="reference image")))
        unknown = torch.full((EMBEDDING_SIZE,), torch.nan)
        return {"identity": unknown if embedding is None else torch.from_numpy(embedding)}, {}

    def _encode_text(self, text: str) -> Tensor:
        """Encode a text, (1, L, D)."""
        encoders = self.encoders
        return encode_text([text], encoders.tokenizer, encoders.text_encoder, self.text_length, encoders.device)

    def blank_latents(self, geometry: Geometry) -> Tensor:
        """Return latents (1, C, L, H, W) of a mid-gray video as long as the sequence; they are computed once a size."""
        size = (geometry.latent_frames, geometry.latent_height, geometry.latent_width)
        if size not in self._blanks:
            self._blanks[size] = encode_blank(*size, self.encoders.vae, self.encoders.device).float().cpu()
        return self._blanks[size]

    def null_text(self) -> Tensor:
        """Return embeddings (1, L, D) of the family's negative prompt."""
        prompt = self.encoders.preset.negative_prompt
        path = self.folder / f"null_text-{digest(self._kinds['captions'][0], prompt)[:16]}.safetensors"
        if not path.is_file():
            write_tensors(path, {"text": self._encode_text(prompt).to("cpu", CACHE_DTYPE)})
        return read_tensors(path)["text"].float()


def load_clip_audio(clip: ClipFiles) -> NDArray[np.float32] | None:
    """Return the audio of a clip, (samples,) at 16 kHz; None if it has none or less than two frames of it.

    Raises:
        MediaError: the audio cannot be read.
    """
    if not has_audio(clip.video, field="video"):
        return None
    track = read_training_clip(clip).audio
    if track is None or track.seconds * FRAMES_PER_SECOND < 2:
        return None
    return load_audio((track.samples, track.sample_rate), field="audio")


def _read_or_remove(path: Path) -> dict[str, Any] | None:
    """Return the values of a file's header; None if there is no file. A damaged file is deleted."""
    if not path.is_file():
        return None
    try:
        return read_values(path)
    except CheckpointError:
        path.unlink()
        return None


def _as_cached_clip(name: str, paths: tuple[Path, ...], values: dict[str, Any]) -> CachedClip:
    """Build an encoded clip from the values of its files' headers."""
    width, height = values["size"]
    return CachedClip(
        name,
        paths,
        (width, height),
        values["frames"],
        tuple(values["starts"]),
        values["segments"],
        values["captions"],
        values["has_audio"],
        values.get("reference_augmentations", 1),
        values.get("self_references", 0),
    )


def load_tensors(clip: CachedClip, names: Iterable[str]) -> dict[str, Tensor]:
    """Load tensors of an encoded clip in float32; names that it lacks are left out."""
    requested = tuple(names)
    return {name: tensor.float() for path in clip.paths for name, tensor in read_tensors(path, requested).items()}


def augmentation_key(size: tuple[int, int], number: int) -> str:
    """Return the name of the tensor that holds an augmentation of the reference image."""
    return f"view.{size[0]}x{size[1]}.{number}"


def self_reference_key(number: int) -> str:
    """Return the name of the tensor that holds a face cut out of the clip itself."""
    return f"own.{number}"


def even_starts(spare: int, count: int) -> list[int]:
    """Return ``count`` evenly spaced whole numbers from 0 to ``spare``, without duplicates."""
    if count == 1:
        return [0]
    return sorted({round(spare * index / (count - 1)) for index in range(count)})


def _read_ground_truth(clip: ClipFiles, shape: Sequence[int], size: tuple[int, int], frames: int) -> dict[str, Tensor]:
    """Return the ground truth that the clip has: masks ``face`` and ``area`` (F, h, w), curve ``mouth`` (F, 3)."""
    truth = GroundTruth() if clip.truth is None else read_truth(clip.truth)
    arrays: dict[str, Tensor] = {}
    area = truth.mouth_area
    if area is None and truth.face is not None:
        area = estimate_mouth_mask(truth.face)
    cell = SPATIAL_STRIDE * PATCH[1]
    grid = (size[1] // cell, size[0] // cell)
    for name, mask in (("face", truth.face), ("area", area)):
        if mask is not None:
            _check_length(clip, len(mask), frames)
            box = center_crop_box(shape[2], shape[1], size)
            arrays[name] = mask_to_grid(mask[:frames], box, (shape[2], shape[1]), grid)
    if truth.mouth is not None:
        _check_length(clip, len(truth.mouth), frames)
        arrays["mouth"] = torch.from_numpy(truth.mouth[:frames])
    return arrays


def _check_length(clip: ClipFiles, truth_frames: int, frames: int) -> None:
    """Raise if the ground truth is shorter than the video."""
    if truth_frames < frames:
        problem = f"has {truth_frames} frames, fewer than the {frames} of {clip.video.name}"
        raise MediaError("truth", problem, "render or download it again")


def estimate_mouth_mask(face: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Estimate the mouth masks of face masks (F, S, S): the lower middle of each face."""
    area = np.zeros_like(face)
    for frame, mask in enumerate(face):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            top, left, high, wide = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
            down = slice(top + int(high * LOWER_FACE[0]), top + int(np.ceil(high * LOWER_FACE[1])))
            across = slice(left + int(wide * MIDDLE_FACE[0]), left + int(np.ceil(wide * MIDDLE_FACE[1])))
            area[frame, down, across] = mask[down, across]
    return area


def mask_to_grid(
    mask: NDArray[np.bool_],
    box: tuple[float, float, float, float],
    frame_size: tuple[int, int],
    grid: tuple[int, int],
) -> Tensor:
    """Return the fraction of each grid cell that a mask covers, (F, h, w), 0..1.

    Args:
        mask: (F, S, S), over the whole frame at any resolution.
        box: part of the frame that the grid covers: left, top, right, bottom in pixels.
        frame_size: width and height of the frame.
        grid: rows and columns.
    """
    across, down = mask.shape[2] / frame_size[0], mask.shape[1] / frame_size[1]
    left, top, right, bottom = (
        round(end * scale) for end, scale in zip(box, (across, down, across, down), strict=True)
    )
    cropped = torch.from_numpy(mask[:, top:bottom, left:right].astype(np.float32))
    return F.adaptive_avg_pool2d(cropped[:, None], grid)[:, 0]


def masks_of_latent_frames(mask_Fhw: Tensor) -> Tensor:
    """Convert masks of 4k + 1 frames to k + 1 latent frames: the first frame, then means of four frames."""
    rest = mask_Fhw[1:].unflatten(0, (-1, TEMPORAL_STRIDE)).mean(dim=1) if len(mask_Fhw) > 1 else mask_Fhw[1:]
    return torch.cat([mask_Fhw[:1], rest])


def curve_of_latent_frames(curve_FM: Tensor) -> Tensor:
    """Convert a curve of 4k + 1 frames to latent frames, (k + 1, 4, M); the first has one value and three NaN."""
    first = curve_FM.new_full((TEMPORAL_STRIDE - 1, *curve_FM.shape[1:]), float("nan"))
    frames: Tensor = torch.cat([first, curve_FM]).unflatten(0, (-1, TEMPORAL_STRIDE))
    return frames
