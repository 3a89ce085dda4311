"""Build a dressed person as one mesh, ready to be posed: skin, hair, clothes, eyes, mouth and glasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from humo.synthetic.person.base_mesh import Floats, Indices, as_float32, base_mesh, morph_target
from humo.synthetic.person.body import neutral_mesh
from humo.synthetic.person.glasses import glasses_mesh
from humo.synthetic.person.hair import STYLES, HairGeometry, beard_cover, build_hair, scalp_cover, strand_coordinates
from humo.synthetic.person.identity import Person
from humo.synthetic.render import materials as m
from humo.synthetic.render.kernels import CUT, SOLID, STRANDS, TWO_SIDED, RasterMesh, vertex_normals

_CLOTHES_OFFSETS = {"turtleneck": 0.05, "hoodie": 0.09, "suit": 0.05}  # decimeters above the base mesh's tights
_DEFAULT_CLOTHES_OFFSET = 0.03
_VISIBLE_ABOVE_Y, _VISIBLE_WITHIN_X = 4.9, 1.6  # canonical decimeters: other skin is always under clothes
_BEARD_BELOW_Y = 7.6  # canonical decimeters: hair that lies below and follows the skin is a beard
_BEARD_FINENESS = 2.5  # strands of a beard against those of hair


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """One person in one set of clothes with N vertices: those of the base mesh, then those of hair and glasses.

    Args:
        base: (V, 3) vertices of the base mesh at rest, decimeters.
        parents: (N - V,) base vertex that each further vertex follows, -1 for the head as a whole.
        offset: (N - V, 3) displacement from the parent, or position where there is none.
        head_weights: (N,) fraction of the head's rotation that a vertex takes.
        triangles: (T, 3).
        materials: (T,) material of each triangle.
        raster_mesh: the triangles as the rasterizer draws them.
        attributes: (N, NUM_ATTRIBUTES) as `materials` names them; visibility of ambient and key light is 1.
        shade: (N,) brightness of hair by depth.
        outermost: (N,) the vertex whose light each vertex takes: the outermost shell lights the roots below it.
        neck: (3,) the point around which the head rotates.
        head_center: (3,) center of the head.
        head_half_height: half of the height of the head, decimeters.
    """

    base: Floats
    parents: Indices
    offset: Floats
    head_weights: Floats
    triangles: Indices
    materials: Indices
    raster_mesh: RasterMesh
    attributes: Floats
    shade: Floats
    outermost: Indices
    neck: Floats
    head_center: Floats
    head_half_height: float


@dataclass(slots=True)
class _Builder:
    """Collects the vertices of hair and glasses, and the triangles of all parts.

    Args:
        count: number of vertices so far.
    """

    count: int
    parents: list[Indices] = field(default_factory=list)
    offset: list[Floats] = field(default_factory=list)
    attributes: list[Floats] = field(default_factory=list)
    shade: list[Floats] = field(default_factory=list)
    outermost: list[Indices] = field(default_factory=list)
    triangles: list[tuple[Indices, int, int, Floats | None]] = field(default_factory=list)

    def add_hair(self, hair: HairGeometry, person: Person) -> None:
        """Add one piece of hair or beard."""
        is_beard = bool((hair.parents >= 0).all() and hair.canonical[:, 1].max() < _BEARD_BELOW_Y)
        attributes = np.zeros((len(hair.parents), m.NUM_ATTRIBUTES), np.float32)
        attributes[:, : m.A_Z + 1] = hair.canonical
        attributes[:, m.A_AMBIENT : m.A_KEY_LIGHT + 1] = 1
        attributes[:, m.A_COVER] = hair.cover
        fineness = np.float32(_BEARD_FINENESS) if is_beard else np.float32(1.0)
        curly = STYLES[person.hair_style].is_curly
        strands = strand_coordinates(hair.canonical, person.parting, curly)
        attributes[:, m.A_ACROSS : m.A_ALONG + 1] = strands * fineness
        material = m.BEARD if is_beard else m.HAIR
        self.triangles.append((hair.triangles + self.count, STRANDS, material, hair.strand_shape))
        self._add_vertices(hair.parents, hair.offset, attributes, hair.shade, hair.outermost)

    def add_glasses(self, points: Floats, triangles: Indices) -> None:
        """Add the frame of glasses, which follows the head."""
        attributes = np.zeros((len(points), m.NUM_ATTRIBUTES), np.float32)
        attributes[:, : m.A_Z + 1] = points
        attributes[:, m.A_AMBIENT : m.A_KEY_LIGHT + 1] = 1
        self.triangles.append((triangles + self.count, TWO_SIDED, m.FRAME, None))
        no_parent = np.full(len(points), -1, np.int32)
        unshaded, own_light = np.ones(len(points), np.float32), np.arange(len(points), dtype=np.int32)
        self._add_vertices(no_parent, points, attributes, unshaded, own_light)

    def _add_vertices(
        self, parents: Indices, offset: Floats, attributes: Floats, shade: Floats, outermost: Indices
    ) -> None:
        self.parents.append(parents)
        self.offset.append(offset)
        self.attributes.append(attributes)
        self.shade.append(shade)
        self.outermost.append(outermost + self.count)
        self.count += len(parents)


@lru_cache(maxsize=16)
def build_figure(person: Person, clothes: str) -> Figure:
    """Build a person in one kind of clothes.

    Args:
        person: the identity.
        clothes: one of `appearance.CLOTHES`.
    """
    mesh, base = base_mesh(), neutral_mesh(person).copy()
    cloth = np.unique(mesh.surfaces["cloth"])
    offset = _CLOTHES_OFFSETS.get(clothes, _DEFAULT_CLOTHES_OFFSET)
    base[cloth] += vertex_normals(base, mesh.surfaces["cloth"])[cloth] * offset
    _move_mouth_interior(base)
    builder = _Builder(len(base))
    builder.attributes.append(_base_attributes(person, clothes, base))
    builder.shade.append(np.ones(len(base), np.float32))
    builder.outermost.append(np.arange(len(base), dtype=np.int32))
    builder.triangles += [
        (_visible_skin(), SOLID, m.SKIN, None),
        (mesh.surfaces["cloth"], CUT, m.CLOTH, None),
        (mesh.surfaces["eyes"], SOLID, m.EYE, None),
        (mesh.surfaces["teeth"], TWO_SIDED, m.TEETH, None),
        (mesh.surfaces["tongue"], TWO_SIDED, m.TONGUE, None),
    ]
    for hair in build_hair(person, base):
        builder.add_hair(hair, person)
    if person.glasses != "none":
        builder.add_glasses(*glasses_mesh(person.glasses, base))
    return _assemble(base, builder)


def _assemble(base: Floats, builder: _Builder) -> Figure:
    """Join the collected parts into a figure."""
    mesh, parts = base_mesh(), builder.triangles
    parents = np.concatenate([np.zeros(0, np.int32), *builder.parents]).astype(np.int32)
    attributes = np.concatenate(builder.attributes)
    triangles = np.concatenate([part[0] for part in parts]).astype(np.int32)
    no_strands = [np.zeros((len(part[0]), 3), np.float32) for part in parts]
    shapes = [empty if part[3] is None else part[3] for part, empty in zip(parts, no_strands, strict=True)]
    skin = np.unique(mesh.surfaces["skin"])
    skull = base[skin][mesh.head_weights[skin] > 0.9]
    low, high = skull.min(0), skull.max(0)
    return Figure(
        base=base,
        parents=parents,
        offset=np.concatenate([np.zeros((0, 3), np.float32), *builder.offset]).astype(np.float32),
        head_weights=np.concatenate([mesh.head_weights, np.where(parents >= 0, mesh.head_weights[parents], 1)]).astype(
            np.float32
        ),
        triangles=triangles,
        materials=np.concatenate([np.full(len(part[0]), part[2]) for part in parts]).astype(np.int32),
        raster_mesh=RasterMesh(
            triangles=triangles,
            draw_modes=np.concatenate([np.full(len(part[0]), part[1]) for part in parts]).astype(np.int32),
            strand_shape=np.concatenate(shapes),
            cut_fields=np.ascontiguousarray(attributes[:, [m.A_COVER, m.A_ACROSS, m.A_ALONG]]),
        ),
        attributes=attributes,
        shade=np.concatenate(builder.shade).astype(np.float32),
        outermost=np.concatenate(builder.outermost).astype(np.int32),
        neck=base[mesh.neck].mean(0),
        head_center=((low + high) / 2).astype(np.float32),
        head_half_height=float(high[1] - low[1]) / 2,
    )


def _base_attributes(person: Person, clothes: str, base: Floats) -> Floats:
    """Return the attributes (V, NUM_ATTRIBUTES) of the base mesh's vertices."""
    mesh = base_mesh()
    cloth = np.unique(mesh.surfaces["cloth"])
    attributes = np.zeros((len(base), m.NUM_ATTRIBUTES), np.float32)
    attributes[:, : m.A_Z + 1] = mesh.rest
    attributes[:, m.A_LIPS], attributes[:, m.A_INNER_MOUTH] = mesh.masks["lips"], mesh.masks["inner_mouth"]
    attributes[:, m.A_LASH] = _lash_line()
    attributes[:, m.A_COVER], attributes[:, m.A_BEARD] = scalp_cover(person), beard_cover(person)
    attributes[:, m.A_AMBIENT : m.A_KEY_LIGHT + 1] = 1
    strands = strand_coordinates(mesh.rest, person.parting, STYLES[person.hair_style].is_curly)
    attributes[:, m.A_ACROSS : m.A_ALONG + 1] = strands
    attributes[cloth, m.A_COVER] = neckline(clothes, mesh.rest[cloth])
    for ball in mesh.eyeballs:
        low, high = base[ball].min(0), base[ball].max(0)
        directions = (base[ball] - (low + high) / 2) / ((high - low).max() / 2)
        attributes[ball, m.A_LIPS : m.A_INNER_MOUTH + 1] = directions
    return attributes


def _visible_skin() -> Indices:
    """Return the triangles of skin that clothes do not always hide."""
    mesh = base_mesh()
    skin = mesh.surfaces["skin"]
    corners = mesh.rest[skin]
    is_visible = (corners[:, :, 1].max(1) > _VISIBLE_ABOVE_Y) & (np.abs(corners[:, :, 0]).min(1) < _VISIBLE_WITHIN_X)
    visible: Indices = skin[is_visible]
    return visible


def neckline(clothes: str, canonical: Floats) -> Floats:
    """Return how far (N,) below the neckline points (N, 3) of the clothes lie, in canonical decimeters.

    Points with a negative value are cut away.
    """
    side, y = np.abs(canonical[:, 0]), canonical[:, 1]
    front = np.clip((canonical[:, 2] + 0.1) / 0.6, 0, 1)
    front_line, back_line = {
        "T-shirt": (5.56 + 0.40 * side, 5.80 + 0.15 * side),
        "V-neck sweater": (np.minimum(5.02 + 1.30 * side, 5.85), 5.82 + 0.10 * side),
        "turtleneck": (6.12 + 0 * side, 6.12 + 0 * side),
        "collared shirt": (np.minimum(5.36 + 1.55 * side, 5.98), 6.02 + 0 * side),
        "suit": (np.minimum(5.52 + 1.55 * side, 5.98), 6.02 + 0 * side),
        "hoodie": (5.62 + 0.35 * side, 5.98 + 0 * side),
    }[clothes]
    depth: Floats = (front * front_line + (1 - front) * back_line - y).astype(np.float32)
    return depth


def _move_mouth_interior(base: Floats) -> None:
    """Move teeth and tongue of a mesh (V, 3), in place, so that an open mouth shows them and a closed one does not."""
    mesh = base_mesh()
    teeth, tongue = np.unique(mesh.surfaces["teeth"]), np.unique(mesh.surfaces["tongue"])
    base[teeth, 2] -= 0.10
    base[teeth, 1] -= 0.03
    base[tongue] -= as_float32((0, 0.085, 0.13))


@lru_cache(maxsize=1)
def _lash_line() -> Floats:
    """Return the nearness (V,) of the skin to the edges of the upper lids, which move most when the eyes close."""
    nearness = np.zeros(len(base_mesh().rest), np.float32)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        moved = np.abs(morph_target(name)[:, 1])
        nearness = np.maximum(nearness, moved / moved.max())
    return as_float32(np.clip((nearness - 0.80) / 0.18, 0, 1))
