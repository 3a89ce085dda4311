"""Hair and beards: where they grow, how thick, and the shells and locks they are drawn with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from humo.synthetic.kernels import vertex_normals
from humo.synthetic.mesh import Floats, Indices, base_mesh
from humo.synthetic.person import Person


@dataclass(frozen=True, slots=True)
class Style:
    """How a hair style is built.

    Args:
        thickness: of the hair on the scalp, decimetres; 0 is painted on.
        top: factor on the thickness at the crown.
        curl: depth of the bumps, as a share of the thickness.
        layers: shells between skin and surface.
        fuzz: share of the outermost shell that is thinned out.
        hairline: front hairline, see `_HAIRLINES`.
        drape: how far loose hair falls below the chin, decimetres; None: there is none.
        wave: amplitude of the loose hair's waves, decimetres.
        balls: locks as ellipsoids: centre relative to the crown, radii; decimetres.
    """

    thickness: float
    top: float = 1.0
    curl: float = 0.15
    layers: int = 2
    fuzz: float = 0.15
    hairline: str = "usual"
    drape: float | None = None
    wave: float = 0.0
    balls: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = ()


STYLES: dict[str, Style] = {
    "short": Style(0.15, top=1.7),
    "crew cut": Style(0.055, top=2.2, fuzz=0.35, layers=3),
    "buzz cut": Style(0.022, fuzz=0.45, layers=2),
    "bald": Style(0.0),
    "receding": Style(0.09, hairline="receding", fuzz=0.3),
    "curly": Style(0.27, top=1.25, curl=0.9, layers=3, fuzz=0.35),
    "afro": Style(0.55, curl=0.35, layers=4, fuzz=0.5),
    "bob": Style(0.13, top=1.3, drape=-0.1),
    "fringe": Style(0.13, top=1.2, hairline="fringe", drape=0.05),
    "long": Style(0.10, top=1.3, drape=2.2),
    "wavy": Style(0.15, top=1.3, drape=1.7, wave=0.07, curl=0.3),
    "bun": Style(0.055, balls=(((0.0, 0.12, -0.35), (0.36, 0.32, 0.36)),)),
    "ponytail": Style(
        0.06, balls=(((0.0, -0.35, -1.15), (0.24, 0.24, 0.28)), ((0.25, -1.15, -1.25), (0.26, 0.85, 0.24)))
    ),
}
_ANGLES = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.1, 3.2)  # radians around the head, 0 is the front
_HAIRLINES = {  # canonical height in decimetres at those angles
    "usual": (8.0, 7.98, 7.88, 7.46, 7.22, 7.42, 6.95, 6.5, 6.35),
    "receding": (8.18, 8.33, 8.20, 7.72, 7.25, 7.42, 6.95, 6.5, 6.35),
    "fringe": (7.64, 7.62, 7.52, 7.30, 7.15, 7.40, 6.95, 6.5, 6.35),
}
_BEARD_SHELLS = (0.02, 0.045, 0.07)  # decimetres above the skin
_CROWN = (0.0, 8.3, 0.25)


@dataclass(frozen=True, slots=True, eq=False)
class Locks:
    """Additional geometry, tied to the base mesh.

    Args:
        source: (N,) base vertex that each new vertex follows, -1 for the head as a whole.
        offset: (N, 3) displacement from it (or position, where the source is -1), decimetres.
        canonical: (N, 3) where it is painted from.
        triangles: (T, 3) among the new vertices.
        fuzz: (T, 2) edge and thinning of each triangle.
        cover: (N,) growth, positive where there is hair.
        shade: (N,) brightness that deeper layers lose.
    """

    source: Indices
    offset: Floats
    canonical: Floats
    triangles: Indices
    fuzz: Floats
    cover: Floats
    shade: Floats


def scalp_cover(person: Person) -> Floats:
    """Height (V,) above the hairline in canonical decimetres, negative where no hair grows."""
    mesh = base_mesh()
    x, y, z = mesh.rest.T
    line = np.interp(np.arctan2(np.abs(x), z - 0.35), _ANGLES, _HAIRLINES[STYLES[person.hair_style].hairline])
    cover = y - line
    cover[(y < 6.1) | (mesh.masks["ears"] > 0.3)] = -1
    return cover.astype(np.float32)


def beard_cover(person: Person) -> Floats:
    """Density (V,) of the beard in [0, 1], soft at its edges."""
    mesh = base_mesh()
    x, y, z = np.abs(mesh.rest[:, 0]), mesh.rest[:, 1], mesh.rest[:, 2]
    bare = (1 - np.clip(1.6 * mesh.masks["lips"], 0, 1)) * (1 - mesh.masks["inner_mouth"])
    bare *= mesh.masks["ears"] < 0.2
    cheek = np.interp(z, (0.45, 0.7, 0.95, 1.2, 1.38, 1.5), (7.28, 7.16, 6.80, 6.63, 6.60, 6.70))
    chin = _ramp(0.09, -0.06, y - cheek) * _ramp(6.02, 6.14, y) * _ramp(0.42, 0.62, z)
    lip = _ramp(6.82, 6.76, y + 0.35 * np.maximum(x - 0.1, 0)) * _ramp(6.56, 6.64, y) * _ramp(0.37, 0.27, x)
    lip *= _ramp(1.2, 1.3, z)
    around = _ramp(0.42, 0.30, x + 0.12 * np.maximum(y - 6.6, 0)) * _ramp(6.72, 6.55, y) * _ramp(6.05, 6.18, y)
    around *= _ramp(1.0, 1.15, z)
    density = {
        "none": np.zeros_like(x),
        "stubble": 0.9 * np.maximum(chin, lip),
        "moustache": lip,
        "goatee": np.maximum(lip, around),
        "full beard": np.maximum(chin, np.maximum(lip, around)),
    }[person.beard]
    return (density * bare).astype(np.float32)


def _ramp(low: float, high: float, value: Floats) -> Floats:
    t = np.clip((value - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def strands(canonical: Floats, parting: float = 0.0) -> Floats:
    """Coordinates (N, 2) across and along the strands, which run from the crown downward and outward."""
    x, y, z = canonical[:, 0] - parting, canonical[:, 1], canonical[:, 2] - _CROWN[2]
    return np.stack([np.arctan2(x, z + 1e-6) * 0.9, 0.6 * y - 0.25 * z], 1).astype(np.float32)


def grow(person: Person, points: Floats) -> list[Locks]:
    """All hair of a person as geometry.

    Args:
        person: who.
        points: (V, 3) the person at rest.
    """
    mesh, style = base_mesh(), STYLES[person.hair_style]
    normals = vertex_normals(points, mesh.surfaces["skin"])
    locks = []
    cover = scalp_cover(person)
    if style.thickness:
        wild = _bumps(mesh.rest, person.seed)
        crown = 1 + (style.top - 1) * _ramp(7.7, 8.35, mesh.rest[:, 1])
        rise = _ramp(-0.03, 0.22 + 0.3 * style.thickness, cover)
        height = style.thickness * crown * (1 + style.curl * wild) * rise
        locks.append(_shells(cover, height, normals, style.layers, style.fuzz, 0.14, 0.004))
    beard = beard_cover(person)
    if person.beard not in ("none", "stubble"):
        depth = np.full(len(beard), _BEARD_SHELLS[-1], np.float32) * _ramp(0.1, 0.9, beard)
        locks.append(_shells(beard - 0.35, depth, normals, len(_BEARD_SHELLS), 0.5, 0.5, 0.003))
    if style.drape is not None:
        locks.append(_drape(person, style, points))
    if style.balls:
        crown_at = points[np.argmax(np.where(mesh.head > 0.9, points[:, 1], -9))] * np.float32((0, 1, 1))
        locks.extend(_ball(crown_at + np.float32(centre), np.float32(radii)) for centre, radii in style.balls)
    return locks


def _bumps(canonical: Floats, seed: int) -> Floats:
    """Soft bumps (N,) in [-1, 1] over the scalp, other ones for every seed."""
    x, y, z = canonical.T
    a = (seed % 97) * 0.7
    wave = np.sin(7 * x + a) * np.sin(6 * z + 2 * a) * np.sin(5 * y) + 0.5 * np.sin(13 * x - a) * np.sin(12 * z + a)
    return (wave / 1.5).astype(np.float32)


def _shells(
    cover: Floats, height: Floats, normals: Floats, layers: int, thinning: float, edge: float, root: float
) -> Locks:
    """Shells over the skin, thinner the farther out."""
    mesh = base_mesh()
    skin = mesh.surfaces["skin"]
    triangles = skin[cover[skin].max(1) > -edge]
    used = np.unique(triangles)
    place = np.zeros(len(cover), np.int32)
    place[used] = np.arange(len(used))
    parts = [(k + 1) / layers for k in range(layers)]
    return Locks(
        source=np.tile(used, layers).astype(np.int32),
        offset=np.concatenate([normals[used] * (root + part * height[used])[:, None] for part in parts]),
        canonical=np.tile(mesh.rest[used], (layers, 1)),
        triangles=np.concatenate([place[triangles] + k * len(used) for k in range(layers)]).astype(np.int32),
        fuzz=np.repeat(np.float32([(edge, thinning * part**2) for part in parts]), len(triangles), 0),
        cover=np.tile(cover[used], layers),
        shade=np.repeat(np.float32([0.72 + 0.28 * part for part in parts]), len(used)),
    )


def _drape(person: Person, style: Style, points: Floats) -> Locks:
    """Loose hair: the base mesh's hair surface, open around the face and cut to length."""
    mesh = base_mesh()
    triangles = mesh.surfaces["hair"]
    used = np.unique(triangles)
    place = np.zeros(len(points), np.int32)
    place[used] = np.arange(len(used))
    rest = mesh.rest[used]
    x, y, z = rest.T
    assert style.drape is not None
    opening = np.sqrt((x / 0.84) ** 2 + (np.maximum(y - 7.1, (y - 7.1) * 0.35) / 0.92) ** 2) - 1
    cover = np.maximum(0.75 * opening, 0.9 * (0.62 - z))
    end = 6.1 - style.drape
    cover = np.minimum(cover, 0.8 * (y - end))
    offset = np.zeros_like(rest)
    wave = style.wave * np.sin(9 * y + 3 * np.sign(x)) * _ramp(7.6, 6.6, y)
    offset[:, 0] = wave * np.sign(x)
    offset[:, 2] = wave * 0.6 - 0.05
    return Locks(
        source=used.astype(np.int32),
        offset=offset.astype(np.float32),
        canonical=rest,
        triangles=place[triangles],
        fuzz=np.tile(np.float32([(0.12, 0.0)]), (len(triangles), 1)),
        cover=cover.astype(np.float32),
        shade=np.ones(len(used), np.float32),
    )


def _ball(centre: Floats, radii: Floats) -> Locks:
    """An ellipsoid of hair that follows the head."""
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
    points = centre + unit * radii
    return Locks(
        source=np.full(len(unit), -1, np.int32),
        offset=points.astype(np.float32),
        canonical=points.astype(np.float32),
        triangles=np.array(triangles, np.int32),
        fuzz=np.tile(np.float32([(0.1, 0.0)]), (len(triangles), 1)),
        cover=np.ones(len(unit), np.float32),
        shade=np.ones(len(unit), np.float32),
    )
