"""Build hair and beards: where they grow, how thick they are, and the shells that they are drawn with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.synthetic.person.base_mesh import Floats, Indices, as_float32, base_mesh
from humo.synthetic.person.identity import Person
from humo.synthetic.render.kernels import vertex_normals

Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Style:
    """Shape of a hair style.

    Args:
        thickness: thickness of the hair on the scalp, decimeters; 0 is painted on the skin.
        top: factor on the thickness at the crown.
        curl: depth of the bumps as a fraction of the thickness.
        layers: number of shells between skin and surface.
        thinning: fraction of the outermost shell that is thinned out.
        is_curly: True for curls instead of long strands.
        hairline: front hairline, see `_HAIRLINES`.
        loose_length: length of loose hair below the chin, decimeters; None for no loose hair.
        wave: amplitude of the waves of loose hair, decimeters.
        ellipsoids: buns and tails as (center relative to the crown, radii), decimeters.
    """

    thickness: float
    top: float = 1.0
    curl: float = 0.15
    layers: int = 2
    thinning: float = 0.0
    is_curly: bool = False
    hairline: str = "usual"
    loose_length: float | None = None
    wave: float = 0.0
    ellipsoids: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = ()


STYLES: dict[str, Style] = {
    "short": Style(0.15, top=1.7),
    "crew cut": Style(0.055, top=2.2, thinning=0.35, layers=3),
    "buzz cut": Style(0.022, thinning=0.45, layers=2),
    "bald": Style(0.0),
    "receding": Style(0.09, hairline="receding", thinning=0.3),
    "curly": Style(0.24, top=1.25, curl=0.55, layers=4, thinning=0.42, is_curly=True),
    "afro": Style(0.52, curl=0.16, layers=5, thinning=0.46, is_curly=True),
    "bob": Style(0.13, top=1.3, hairline="parted", loose_length=-0.1),
    "fringe": Style(0.13, top=1.2, hairline="fringe", loose_length=0.05),
    "long": Style(0.10, top=1.3, hairline="parted", loose_length=2.2),
    "wavy": Style(0.15, top=1.3, hairline="parted", loose_length=1.7, wave=0.07, curl=0.3),
    "bun": Style(0.055, ellipsoids=(((0.0, 0.12, -0.35), (0.36, 0.32, 0.36)),)),
    "ponytail": Style(
        0.06, ellipsoids=(((0.0, -0.35, -1.15), (0.24, 0.24, 0.28)), ((0.25, -1.15, -1.25), (0.26, 0.85, 0.24)))
    ),
}
_ANGLES = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.1, 3.2)  # radians around the head, 0 is the front
_HAIRLINES = {  # canonical height in decimeters at these angles
    "usual": (8.00, 8.03, 8.00, 7.62, 7.16, 7.42, 6.95, 6.5, 6.35),
    "receding": (8.18, 8.33, 8.20, 7.72, 7.25, 7.42, 6.95, 6.5, 6.35),
    "parted": (8.16, 7.98, 7.78, 7.42, 7.10, 7.42, 6.95, 6.5, 6.35),
    "fringe": (7.64, 7.62, 7.52, 7.30, 7.15, 7.40, 6.95, 6.5, 6.35),
}
_BEARD_SHELLS = (0.02, 0.045, 0.07)  # decimeters above the skin
_CROWN = (0.0, 8.3, 0.25)


@dataclass(frozen=True, slots=True, eq=False)
class HairGeometry:
    """Triangles of hair that are attached to the base mesh.

    Args:
        parents: (N,) base vertex that each new vertex follows, -1 for the head as a whole.
        offset: (N, 3) displacement from the parent, or position where there is none; decimeters.
        canonical: (N, 3) canonical coordinates, which determine the texture.
        triangles: (T, 3) among the new vertices.
        strand_shape: (T, 3) as in `kernels.RasterMesh`.
        cover: (N,) growth, positive where there is hair.
        shade: (N,) brightness; deeper layers are darker.
        outermost: (N,) the new vertex that lies outermost above each; it determines the light.
    """

    parents: Indices
    offset: Floats
    canonical: Floats
    triangles: Indices
    strand_shape: Floats
    cover: Floats
    shade: Floats
    outermost: Indices


def scalp_cover(person: Person) -> Floats:
    """Return the height (V,) above the hairline in canonical decimeters, negative where no hair grows."""
    mesh = base_mesh()
    x, y, z = mesh.rest.T
    kind = STYLES[person.hair_style].hairline
    center = person.parting if kind == "parted" else 0.0
    around = np.arctan2(np.abs(x - center * np.clip(z, 0, 1)), z - 0.35)
    line = np.interp(around, _ANGLES, _HAIRLINES[kind]) + person.hairline * (around < 1)
    notch = 0.09 * np.exp(-(((x - person.parting) / 0.14) ** 2)) * (z > 0.6) if person.parting else 0.0
    uneven = 0.025 * np.sin(9 * around * np.sign(x) + person.seed % 89) * (around < 1.1)
    cover = y - line - uneven - notch * (kind == "usual")
    cover[(y < 6.1) | (mesh.masks["ears"] > 0.3)] = -1
    return as_float32(cover)


def beard_cover(person: Person) -> Floats:
    """Return the density (V,) of the beard in [0, 1], soft at its edges."""
    mesh = base_mesh()
    x, y, z = np.abs(mesh.rest[:, 0]), mesh.rest[:, 1], mesh.rest[:, 2]
    bare = (1 - np.clip(1.6 * mesh.masks["lips"], 0, 1)) * (1 - mesh.masks["inner_mouth"])
    bare *= mesh.masks["ears"] < 0.2
    cheek = np.interp(z, (0.45, 0.7, 0.95, 1.2, 1.38, 1.5), (7.28, 7.16, 6.80, 6.63, 6.60, 6.70))
    chin = _smoothstep(0.09, -0.06, y - cheek) * _smoothstep(6.02, 6.14, y) * _smoothstep(0.42, 0.62, z)
    lip = (
        _smoothstep(6.82, 6.76, y + 0.35 * np.maximum(x - 0.1, 0))
        * _smoothstep(6.56, 6.64, y)
        * _smoothstep(0.37, 0.27, x)
    )
    lip *= _smoothstep(1.2, 1.3, z)
    around = (
        _smoothstep(0.42, 0.30, x + 0.12 * np.maximum(y - 6.6, 0))
        * _smoothstep(6.72, 6.55, y)
        * _smoothstep(6.05, 6.18, y)
    )
    around *= _smoothstep(1.0, 1.15, z)
    density = {
        "none": np.zeros_like(x),
        "stubble": 0.9 * np.maximum(chin, lip),
        "moustache": lip,
        "goatee": np.maximum(lip, around),
        "full beard": np.maximum(chin, np.maximum(lip, around)),
    }[person.beard]
    return as_float32(density * bare)


def _smoothstep(low: float, high: float, value: Numbers) -> Floats:
    t = np.clip((value - low) / (high - low), 0, 1)
    return as_float32(t * t * (3 - 2 * t))


def strand_coordinates(canonical: Floats, parting: float = 0.0, is_curly: bool = False) -> Floats:
    """Return coordinates (N, 2) across and along the strands, which run from the crown downward and outward."""
    x, y, z = canonical[:, 0] - parting, canonical[:, 1], canonical[:, 2] - _CROWN[2]
    along = (5.0 if is_curly else 0.6) * y - (3.0 if is_curly else 0.25) * z
    return np.stack([np.arctan2(x, z + 1e-6) * 0.9, along], 1).astype(np.float32)


def build_hair(person: Person, points: Floats) -> list[HairGeometry]:
    """Build all hair of a person.

    Args:
        person: the identity.
        points: (V, 3) the person at rest.
    """
    mesh, style = base_mesh(), STYLES[person.hair_style]
    normals = vertex_normals(points, mesh.surfaces["skin"])
    pieces = []
    cover = scalp_cover(person)
    if style.thickness:
        bumps = _surface_bumps(mesh.rest, person.seed)
        crown = 1 + (style.top - 1) * _smoothstep(7.7, 8.35, mesh.rest[:, 1])
        rise = _smoothstep(-0.03, 0.42 + 0.3 * style.thickness, cover)
        height = style.thickness * crown * (1 + style.curl * bumps) * rise
        edge, fineness = (0.16, 34.0) if style.hairline == "fringe" else (0.10, 90.0)
        out = _outward_directions(mesh.rest, normals) if style.is_curly else normals
        pieces.append(_shells(cover, height, out, style.layers, style.thinning, edge, 0.004, fineness))
    beard = beard_cover(person)
    if person.beard not in ("none", "stubble"):
        depth = np.full(len(beard), _BEARD_SHELLS[-1], np.float32) * _smoothstep(0.1, 0.9, beard)
        pieces.append(_shells(beard - 0.35, depth, normals, len(_BEARD_SHELLS), 0.55, 0.5, 0.003, 110.0))
    if style.loose_length is not None:
        pieces.append(_loose_hair(person, style, points))
    if style.ellipsoids:
        crown = points[np.argmax(np.where(mesh.head_weights > 0.9, points[:, 1], -9))] * as_float32((0, 1, 1))
        pieces.extend(_ellipsoid(crown + as_float32(center), as_float32(radii)) for center, radii in style.ellipsoids)
    return pieces


def _outward_directions(canonical: Floats, normals: Floats) -> Floats:
    """Return directions (V, 3) away from the center of the skull for thick hair; unlike normals, they do not cross."""
    ray = canonical - as_float32((0.0, 7.55, 0.45))
    ray = ray / np.sqrt((ray * ray).sum(1, keepdims=True)) + 0.35 * normals
    away: Floats = (ray / np.sqrt((ray * ray).sum(1, keepdims=True))).astype(np.float32)
    return away


def _surface_bumps(canonical: Floats, seed: int) -> Floats:
    """Return soft bumps (N,) in [-1, 1] over the scalp, different for every seed."""
    x, y, z = canonical.T
    a = (seed % 97) * 0.7
    wave = np.sin(7 * x + a) * np.sin(6 * z + 2 * a) * np.sin(5 * y) + 0.5 * np.sin(13 * x - a) * np.sin(12 * z + a)
    return as_float32(wave / 1.5)


def _shells(
    cover: Floats,
    height: Floats,
    normals: Floats,
    layers: int,
    thinning: float,
    edge: float,
    root: float,
    fineness: float,
) -> HairGeometry:
    """Return shells over the skin; outer shells are thinner."""
    mesh = base_mesh()
    skin = mesh.surfaces["skin"]
    triangles = skin[cover[skin].max(1) > -edge]
    used = np.unique(triangles)
    new_index = np.zeros(len(cover), np.int32)
    new_index[used] = np.arange(len(used))
    parts = [1 - 0.55 * (1 - (k + 1) / layers) for k in range(layers)] if layers > 2 else [0.5, 1.0]
    return HairGeometry(
        parents=np.tile(used, layers).astype(np.int32),
        offset=np.concatenate([normals[used] * (root + part * height[used])[:, None] for part in parts]),
        canonical=np.tile(mesh.rest[used], (layers, 1)),
        triangles=np.concatenate([new_index[triangles] + k * len(used) for k in range(layers)]).astype(np.int32),
        strand_shape=np.repeat(as_float32([(edge, thinning * part**2, fineness) for part in parts]), len(triangles), 0),
        cover=np.tile(cover[used], layers),
        shade=np.repeat(as_float32([0.62 + 0.38 * part for part in parts]), len(used)),
        outermost=np.tile(np.arange(len(used)) + (layers - 1) * len(used), layers).astype(np.int32),
    )


def _loose_hair(person: Person, style: Style, points: Floats) -> HairGeometry:
    """Return loose hair: the base mesh's hair surface, open around the face and cut to length."""
    mesh = base_mesh()
    triangles = mesh.surfaces["hair"]
    used = np.unique(triangles)
    new_index = np.zeros(len(points), np.int32)
    new_index[used] = np.arange(len(used))
    rest = mesh.rest[used]
    x, y, z = rest.T
    assert style.loose_length is not None
    opening = np.sqrt((x / 0.84) ** 2 + (np.maximum(y - 7.1, (y - 7.1) * 0.35) / 1.12) ** 2) - 1
    cover = np.maximum(0.75 * opening, 0.9 * (0.62 - z))
    end = 6.1 - style.loose_length
    near_face = (rest[new_index[triangles], 1].mean(1) > end + 0.6)[:, None]
    cover = np.minimum(cover, 0.8 * (y - end))
    offset = np.zeros_like(rest)
    wave = style.wave * np.sin(9 * y + 3 * np.sign(x)) * _smoothstep(7.6, 6.6, y)
    offset[:, 0] = wave * np.sign(x)
    offset[:, 2] = wave * 0.6 - 0.05
    return HairGeometry(
        parents=used.astype(np.int32),
        offset=offset.astype(np.float32),
        canonical=rest,
        triangles=new_index[triangles],
        strand_shape=np.where(near_face, as_float32([(0.06, 0.0, 80.0)]), as_float32([(0.16, 0.0, 34.0)])),
        cover=cover.astype(np.float32),
        shade=np.ones(len(used), np.float32),
        outermost=np.arange(len(used), dtype=np.int32),
    )


def _ellipsoid(center: Floats, radii: Floats) -> HairGeometry:
    """Return an ellipsoid of hair that follows the head."""
    rows, columns = 10, 16
    polar, around = np.meshgrid(
        np.linspace(0, np.pi, rows), np.linspace(0, 2 * np.pi, columns, endpoint=False), indexing="ij"
    )
    unit = np.stack([np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)], -1)
    unit = unit.reshape(-1, 3).astype(np.float32)
    triangles = []
    for i in range(rows - 1):
        for j in range(columns):
            a, b = i * columns + j, i * columns + (j + 1) % columns
            triangles += [(a, a + columns, b), (b, a + columns, b + columns)]
    points = center + unit * radii
    return HairGeometry(
        parents=np.full(len(unit), -1, np.int32),
        offset=points.astype(np.float32),
        canonical=points.astype(np.float32),
        triangles=np.array(triangles, np.int32),
        strand_shape=np.tile(as_float32([(0.1, 0.0, 34.0)]), (len(triangles), 1)),
        cover=np.ones(len(unit), np.float32),
        shade=np.ones(len(unit), np.float32),
        outermost=np.arange(len(unit), dtype=np.int32),
    )
