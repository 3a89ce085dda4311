"""A dressed person as one mesh, ready to be posed: skin, hair, clothes, eyes, mouth and glasses together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from humo.synthetic.person.base_mesh import Floats, Indices, base_mesh, floats, target
from humo.synthetic.person.body import neutral
from humo.synthetic.person.glasses import frame
from humo.synthetic.person.hair import STYLES, beard_cover, grow, scalp_cover, strands
from humo.synthetic.person.identity import Person
from humo.synthetic.render import materials as m
from humo.synthetic.render.kernels import CUT, SOLID, STRANDS, TWO_SIDED, vertex_normals

_CLOTH_LIFT = {"turtleneck": 0.05, "hoodie": 0.09, "suit": 0.05}  # decimetres above the base mesh's tights
_USUAL_LIFT = 0.03
_HIDDEN_BELOW, _HIDDEN_BESIDE = 4.9, 1.6  # canonical decimetres: skin there is always under clothes


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """One person in one set of clothes, N vertices: the base mesh's, then those of hair and glasses.

    Args:
        base: (V, 3) the base mesh's vertices at rest, decimetres.
        source: (N - V,) base vertex each further one follows, -1 for the head as a whole.
        offset: (N - V, 3) displacement from it, or position.
        head: (N,) share of the head's rotation.
        triangles: (T, 3).
        kinds, materials: (T,) how and of what each triangle is drawn.
        fuzz: (T, 3) ragged edge, thinning and fineness of hair.
        fields: (N, 3) cover and strand coordinates.
        attributes: (N, ATTRIBUTES) as `materials` names them; ambient and key visibility are 1.
        shade: (N,) brightness of hair by depth.
        outer: (N,) the vertex whose light each one takes: the outermost shell lights the roots below it.
        neck: (3,) the point around which the head turns.
        middle: (3,) middle of the head; half: half its height, decimetres.
    """

    base: Floats
    source: Indices
    offset: Floats
    head: Floats
    triangles: Indices
    kinds: Indices
    materials: Indices
    fuzz: Floats
    fields: Floats
    attributes: Floats
    shade: Floats
    outer: Indices
    neck: Floats
    middle: Floats
    half: float


@lru_cache(maxsize=16)
def figure(person: Person, clothes: str) -> Figure:
    """Build a person in one kind of clothes.

    Args:
        person: who.
        clothes: one of `appearance.CLOTHES`.
    """
    mesh, base = base_mesh(), neutral(person).copy()
    cloth = np.unique(mesh.surfaces["cloth"])
    base[cloth] += vertex_normals(base, mesh.surfaces["cloth"])[cloth] * _CLOTH_LIFT.get(clothes, _USUAL_LIFT)
    _seat_mouth(base)
    cover, tight = scalp_cover(person), STYLES[person.hair_style].tight
    beard = beard_cover(person)
    attributes = np.zeros((len(base), m.ATTRIBUTES), np.float32)
    attributes[:, : m.Z + 1] = mesh.rest
    attributes[:, m.LIPS], attributes[:, m.INNER] = mesh.masks["lips"], mesh.masks["inner_mouth"]
    attributes[:, m.LASH] = _lash_line()
    attributes[:, m.COVER], attributes[:, m.BEARDED] = cover, beard
    attributes[:, m.OPEN : m.LIT + 1] = 1
    attributes[:, m.ACROSS : m.ALONG + 1] = strands(mesh.rest, person.parting, tight)
    attributes[cloth, m.COVER] = neckline(clothes, mesh.rest[cloth])
    for ball in mesh.eyeballs:
        low, high = base[ball].min(0), base[ball].max(0)
        attributes[ball, m.LIPS : m.INNER + 1] = (base[ball] - (low + high) / 2) / ((high - low).max() / 2)
    skin = mesh.surfaces["skin"]
    corners = mesh.rest[skin]
    skin = skin[(corners[:, :, 1].max(1) > _HIDDEN_BELOW) & (np.abs(corners[:, :, 0]).min(1) < _HIDDEN_BESIDE)]
    no_fuzz = np.zeros((0, 3), np.float32)
    parts = [
        (skin, SOLID, m.SKIN, no_fuzz),
        (mesh.surfaces["cloth"], CUT, m.CLOTH, no_fuzz),
        (mesh.surfaces["eyes"], SOLID, m.EYE, no_fuzz),
        (mesh.surfaces["teeth"], TWO_SIDED, m.TEETH, no_fuzz),
        (mesh.surfaces["tongue"], TWO_SIDED, m.TONGUE, no_fuzz),
    ]
    source, offset, more, shade = [], [], [], [np.ones(len(base), np.float32)]
    count, outer = len(base), [np.arange(len(base), dtype=np.int32)]
    for lock in grow(person, base):
        is_beard = bool((lock.source >= 0).all() and lock.canonical[:, 1].max() < 7.6)
        extra = np.zeros((len(lock.source), m.ATTRIBUTES), np.float32)
        extra[:, : m.Z + 1] = lock.canonical
        extra[:, m.OPEN : m.LIT + 1] = 1
        extra[:, m.COVER] = lock.cover
        extra[:, m.ACROSS : m.ALONG + 1] = strands(lock.canonical, person.parting, tight) * (
            np.float32(2.5) if is_beard else np.float32(1.0)
        )
        source.append(lock.source)
        offset.append(lock.offset)
        more.append(extra)
        shade.append(lock.shade)
        outer.append(lock.outer + count)
        parts.append((lock.triangles + count, STRANDS, m.BEARD if is_beard else m.HAIR, lock.fuzz))
        count += len(lock.source)
    if person.glasses != "none":
        points, triangles = frame(person.glasses, base)
        extra = np.zeros((len(points), m.ATTRIBUTES), np.float32)
        extra[:, : m.Z + 1] = points
        extra[:, m.OPEN : m.LIT + 1] = 1
        source.append(np.full(len(points), -1, np.int32))
        offset.append(points)
        more.append(extra)
        shade.append(np.ones(len(points), np.float32))
        outer.append(np.arange(count, count + len(points), dtype=np.int32))
        parts.append((triangles + count, TWO_SIDED, m.FRAME, no_fuzz))
    follows = np.concatenate([np.zeros(0, np.int32), *source]).astype(np.int32)
    table = np.concatenate([attributes, *more])
    skull = base[np.unique(mesh.surfaces["skin"])]
    skull = skull[mesh.head[np.unique(mesh.surfaces["skin"])] > 0.9]
    low, high = skull.min(0), skull.max(0)
    return Figure(
        base=base,
        source=follows,
        offset=np.concatenate([np.zeros((0, 3), np.float32), *offset]).astype(np.float32),
        head=np.concatenate([mesh.head, np.where(follows >= 0, mesh.head[follows], 1)]).astype(np.float32),
        triangles=np.concatenate([part[0] for part in parts]).astype(np.int32),
        kinds=np.concatenate([np.full(len(part[0]), part[1]) for part in parts]).astype(np.int32),
        materials=np.concatenate([np.full(len(part[0]), part[2]) for part in parts]).astype(np.int32),
        fuzz=np.concatenate([part[3] if len(part[3]) else np.zeros((len(part[0]), 3), np.float32) for part in parts]),
        fields=np.ascontiguousarray(table[:, [m.COVER, m.ACROSS, m.ALONG]]),
        attributes=table,
        outer=np.concatenate(outer).astype(np.int32),
        shade=np.concatenate(shade).astype(np.float32),
        neck=base[mesh.neck].mean(0),
        middle=((low + high) / 2).astype(np.float32),
        half=float(high[1] - low[1]) / 2,
    )


def neckline(clothes: str, canonical: Floats) -> Floats:
    """How far below the neckline (N,) points (N, 3) of the clothes lie, canonical decimetres; negative is cut away."""
    side, y = np.abs(canonical[:, 0]), canonical[:, 1]
    front = np.clip((canonical[:, 2] + 0.1) / 0.6, 0, 1)
    before, behind = {
        "T-shirt": (5.56 + 0.40 * side, 5.80 + 0.15 * side),
        "V-neck sweater": (np.minimum(5.02 + 1.30 * side, 5.85), 5.82 + 0.10 * side),
        "turtleneck": (6.12 + 0 * side, 6.12 + 0 * side),
        "collared shirt": (np.minimum(5.36 + 1.55 * side, 5.98), 6.02 + 0 * side),
        "suit": (np.minimum(5.52 + 1.55 * side, 5.98), 6.02 + 0 * side),
        "hoodie": (5.62 + 0.35 * side, 5.98 + 0 * side),
    }[clothes]
    line: Floats = (front * before + (1 - front) * behind - y).astype(np.float32)
    return line


def _seat_mouth(base: Floats) -> None:
    """Move teeth and tongue of a mesh (V, 3), in place, to where an open mouth shows them and a closed one does not."""
    mesh = base_mesh()
    teeth, tongue = np.unique(mesh.surfaces["teeth"]), np.unique(mesh.surfaces["tongue"])
    base[teeth, 2] -= 0.10
    base[teeth, 1] -= 0.03
    base[tongue] -= floats((0, 0.085, 0.13))


@lru_cache(maxsize=1)
def _lash_line() -> Floats:
    """Nearness (V,) of the skin to the upper lids' margins: what moves most when the eyes close."""
    total = np.zeros(len(base_mesh().rest), np.float32)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        moved = np.abs(target(name)[:, 1])
        total = np.maximum(total, moved / moved.max())
    return floats(np.clip((total - 0.80) / 0.18, 0, 1))
