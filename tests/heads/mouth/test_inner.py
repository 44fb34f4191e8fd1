"""The inside of the mouth: geometry, motion, extension of heads and templates, errors."""

from collections import Counter

import pytest
import torch

import headfields as hf
from headfields.heads import inner_mouth
from headfields.heads.mouth.border import mouth_loop
from headfields.heads.mouth.inner import FLAME_INNER_LIPS, InnerMouth
from headfields.ops.mesh_topology import boundary_loops
from headfields.ops.triangle_bvh import TriangleBVH

JAW = 2


@pytest.fixture(scope="module")
def mouth(head):
    return inner_mouth(head.template_vertices, head.faces, skull=head.weights[:, 1], jaw=head.weights[:, JAW])


def open_by(angle):
    pose = torch.zeros(1, 5, 3)
    pose[0, JAW, 0] = angle
    return pose


def piercing(vertices, faces, own):
    """How many edges of the inside go through a face, or of the skin through the inside; corners they share apart."""
    tree = TriangleBVH(faces, vertices)
    inside = torch.arange(len(faces)) >= own
    found = 0
    for mask in (inside, ~inside):
        edges = faces[mask][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(1).values.unique(dim=0)
        a, b = vertices[edges].unbind(1)
        length = (b - a).norm(dim=1)
        along = (b - a) / length[:, None].clamp_min(1e-9)
        hit = tree.raycast(a + 1e-5 * along, along)
        face = hit.face.clamp_min(0)
        met = (hit.face >= 0) & (hit.distance < length - 2e-5)
        met &= ~(faces[face][:, :, None] == edges[:, None, :]).any(2).any(1)
        found += int((met & (inside[face] | mask[-1])).sum())
    return found


def normals(vertices, faces):
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def test_the_mesh_is_closed_and_oriented_around_the_mouth(head, mouth):
    directed = Counter(edge for a, b, c in mouth.faces.tolist() for edge in ((a, b), (b, c), (c, a)))
    assert max(directed.values()) == 1
    before = {tuple(sorted(loop.tolist())) for loop in boundary_loops(head.faces)}
    after = {tuple(sorted(loop.tolist())) for loop in boundary_loops(mouth.faces)}
    assert before - after == {tuple(sorted(mouth.loop.tolist()))} and after < before
    assert torch.equal(mouth.faces[: mouth.face_count], head.faces)
    assert mouth.faces.unique().tolist() == list(range(mouth.vertex_count + len(mouth.index)))


def test_without_the_back_wall_one_border_is_left(head):
    mouth = inner_mouth(head.template_vertices, head.faces, rows=3, back=False, teeth=False)
    assert len(mouth.index) == 3 * 48 and len(mouth.part) == 3 * 48 * 2
    last = set(range(len(head.template_vertices) + 96, len(head.template_vertices) + 144))
    assert any(set(loop.tolist()) == last for loop in boundary_loops(mouth.faces))


def test_no_rows_close_the_mouth_as_it_is(head):
    mouth = inner_mouth(head.template_vertices, head.faces, rows=0, teeth=False)
    assert mouth.index.shape == (0,) and len(mouth.part) == 46
    vertices = head.template_vertices.clone().requires_grad_()
    mouth.extend(vertices).sum().backward()
    assert torch.equal(vertices.grad, torch.ones_like(vertices))
    assert len(boundary_loops(mouth.faces)) == len(boundary_loops(head.faces)) - 1


@pytest.mark.parametrize("angle", [0.0, 0.1, 0.25, 0.45])
def test_nothing_pierces_anything_from_closed_to_wide_open(head, mouth, angle):
    vertices = mouth.extend(head(pose=open_by(angle)).vertices[0])
    assert piercing(vertices, mouth.faces, mouth.face_count) == 0


def test_piercing_is_seen(head, mouth):
    vertices = mouth.extend(head.template_vertices)
    teeth = mouth.faces[mouth.face_count :][mouth.part == 1].unique()
    vertices[teeth, 2] += 0.012
    assert piercing(vertices, mouth.faces, mouth.face_count) > 20


def test_the_cavity_is_seen_from_within_and_teeth_from_without(head, mouth):
    for angle in (0.0, 0.4):
        vertices = mouth.extend(head(pose=open_by(angle)).vertices[0])
        added, part = mouth.faces[mouth.face_count :], mouth.part
        own = mouth.vertex_count
        heart = vertices[own : own + 7 * 48].reshape(7, 48, 3)[1:5].mean((0, 1))
        bag = added[part == 0]
        inward = (normals(vertices, bag) * (heart - vertices[bag].mean(1))).sum(1)
        assert (inward[(bag >= own).all(1)] > 0).all()
        for number in (1, 2):
            piece = vertices[added[part == number]]
            volume = (torch.linalg.cross(piece[:, 0], piece[:, 1]) * piece[:, 2]).sum() / 6
            assert 1e-7 < volume < 3e-6  # 0.1 to 3 ml


def test_upper_teeth_keep_to_the_skull_and_lower_ones_to_the_jaw(head, mouth):
    state = head(pose=open_by(0.4))
    rest, posed = mouth.extend(head.template_vertices), mouth.extend(state.vertices[0])
    for number, joint in ((1, 1), (2, JAW)):
        pick = mouth.faces[mouth.face_count :][mouth.part == number].unique()
        moved = rest[pick] @ state.joint_transforms[0, joint, :3, :3].T + state.joint_transforms[0, joint, :3, 3]
        # not exactly: weights of 0.98 count as rigid, and pose correctives move the skin that is followed
        assert (moved - posed[pick]).norm(dim=1).max() < 1e-3
    guessed = inner_mouth(head.template_vertices, head.faces).extend(state.vertices[0])
    assert (guessed - posed).norm(dim=1).max() < 1.5e-3


def test_extending_is_affine_in_the_mesh(head, mouth):
    vertices = head(expression=head.expression(smile_left=0.7), pose=open_by(0.2)).vertices[0].double()
    turn = hf.ops.rotation_matrices(torch.tensor([0.3, -0.5, 0.2], dtype=torch.float64)) * 1.3
    shift = torch.tensor([0.1, -0.2, 0.4], dtype=torch.float64)
    moved = mouth.extend(vertices @ turn.T + shift)
    assert torch.allclose(moved, mouth.extend(vertices) @ turn.T + shift, atol=3e-6)
    rows = mouth.matrix()
    assert torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-5)
    added = mouth.extend(vertices)[len(vertices) :]
    assert torch.allclose(rows.double() @ vertices, added, atol=1e-6)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2), (0,)])
def test_batches(head, mouth, batch):
    vertices = head.template_vertices.expand(*batch, -1, -1)
    extended = mouth.extend(vertices)
    assert extended.shape == (*batch, mouth.vertex_count + len(mouth.index), 3)
    assert torch.equal(extended[..., : mouth.vertex_count, :], vertices)


def patch():
    """A face of 9 x 9 vertices, bent in both directions, with a hole of 8 in its middle; float64."""
    x, y = torch.meshgrid(torch.linspace(-0.06, 0.06, 9), torch.linspace(-0.06, 0.06, 9), indexing="xy")
    vertices = torch.stack([x, y, 0.09 - 9 * x**2 - 7 * y**2], -1).reshape(-1, 3).double()
    index = torch.arange(81).reshape(9, 9)
    a, b, c, d = (part.reshape(-1) for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    faces = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    faces = faces[~(faces == 40).any(1)]
    inside = faces[:, :, None] == index[3:6, 3:6].reshape(-1)
    return vertices, faces[~inside.any(2).all(1)]


def test_any_mesh_with_a_hole_and_derivatives(unchecked):
    vertices, faces = patch()
    loop = mouth_loop(faces, vertices)
    assert len(loop) == 8
    above, below = ((vertices[:, 1] * sign > 0.02).double() for sign in (1, -1))
    kind = {"corners": (39, 41), "rows": 2, "depth": 0.02, "teeth": False, "skull": above, "jaw": below}
    mouth = inner_mouth(vertices, faces, loop.flip(0), **kind)
    assert mouth.index.shape == (16,) and mouth.frames.dtype == torch.float64
    values = vertices[None].clone().requires_grad_()
    assert torch.autograd.gradcheck(mouth.extend, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(mouth.extend, values, fast_mode=True)
    compiled = torch.compile(mouth.extend, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(values), mouth.extend(values))
    assert mouth.extend(vertices)[81:, 2].max() < vertices[loop, 2].max()


def test_the_upper_lip_is_found_by_orientation(head, mouth):
    at = head.template_vertices[mouth.loop]
    left = int(at[:, 0].argmax())
    assert int(at[:, 0].argmin()) == 0 and at[1:left, 1].mean() > at[left + 1 :, 1].mean()
    crossed = head.template_vertices.clone()
    crossed[mouth.loop[1:left], 1] -= 0.006  # the upper lip below the lower one
    again = inner_mouth(crossed, head.faces, skull=head.weights[:, 1], jaw=head.weights[:, JAW])
    assert torch.equal(again.loop, mouth.loop)
    other = inner_mouth(
        head.template_vertices, head.faces, corners=(int(mouth.loop[2]), int(mouth.loop[left - 1])), teeth=False
    )
    assert other.loop[0] == mouth.loop[2]


def flame_topology(head):
    """The procedural head with 32 vertices around the mouth, numbered as FLAME's, among 5,023."""
    ring = inner_mouth(head.template_vertices, head.faces).loop.tolist()
    upper, lower = FLAME_INNER_LIPS
    named = [*upper, *lower[-2:0:-1]]
    kept = [ring[round(i * 24 / 18)] for i in range(19)] + [ring[24 + round(i * 24 / 14)] for i in range(1, 14)]
    faces = head.faces.clone()
    nearest = kept[0]
    for vertex in ring:  # the others are merged with the one before them
        nearest = vertex if vertex in kept else nearest
        faces[head.faces == vertex] = nearest
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    order = torch.full((len(head.template_vertices),), -1)
    order[kept] = torch.tensor(named)
    free = torch.tensor(sorted(set(range(5023)) - set(named)))
    rest = (order < 0).nonzero()[:, 0]
    order[rest] = free[: len(rest)]
    vertices = torch.zeros(5023, 3)
    vertices[order] = head.template_vertices
    return vertices, order[faces], named


def test_flame_by_index(head):
    vertices, faces, named = flame_topology(head)
    assert len(set(named)) == 32
    mouth = inner_mouth(vertices, faces)
    assert mouth.loop.tolist() == named
    assert not any(set(loop.tolist()) & set(named) for loop in boundary_loops(mouth.faces))
    # The table is what finds it: when the head looks sideways, its mouth does not cross x = 0.
    turned = vertices[:, [2, 1, 0]] * torch.tensor([1.0, 1.0, -1.0])
    assert (turned[named, 0] > 0).all()
    share = [(vertices[:, 1] > -0.04).float(), ((vertices[:, 1] < -0.08) & (vertices[:, 2] > 0.05)).float()]
    assert inner_mouth(turned, faces, skull=share[0], jaw=share[1]).loop.tolist() == named


def test_a_template_is_extended(head, mouth):
    template = head.template()
    extended = mouth.extend_template(template)
    count = mouth.face_count
    assert extended.face_count == count == template.face_count < len(template.faces)
    assert torch.equal(extended.canonical_vertices, mouth.extend(template.canonical_vertices))
    for name in ("mouth", "face", "inner_mouth"):
        assert extended.regions[name][count:].all()
    assert not extended.regions["eyes"][count:].any()
    assert torch.equal(extended.regions["teeth"][count:], mouth.part > 0)
    assert torch.equal(extended.regions["eyes"][:count], template.regions["eyes"][:count])
    uv, at = extended.uv, extended.uv_faces
    assert uv.min() >= 0 and uv.max() <= 1 and torch.equal(uv[: len(template.uv)], template.uv)
    a, b, c = uv[at[count:]].unbind(1)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert (area > 0).all() and area.sum() / 2 > 0.004
    low, high = uv[at[count:]].reshape(-1, 2).aminmax(dim=0)
    middle = uv[at[:count]].mean(1)
    assert not ((middle > low) & (middle < high)).all(1).any()
    bare = mouth.extend_template(template.replace(uv=None, uv_faces=None))
    assert bare.uv is None and bare.uv_faces is None


def test_other_charts_shrink_where_there_is_no_room(mouth):
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    full = torch.tensor([[0, 1, 2], [0, 2, 3]])
    faces = full[torch.arange(mouth.face_count) % 2]
    grown, at = mouth.extend_uv(uv, faces)
    assert torch.allclose(grown[:4], uv * 5 / 6)
    placed = grown[at[mouth.face_count :]]
    assert placed.min() > 5 / 6 and placed.max() <= 1
    kept, _ = mouth.extend_uv(uv * 0.8, faces)
    assert torch.equal(kept[:4], uv * 0.8)


def test_an_extended_flame_head(head, mouth):
    extended = mouth.extend_head(head)
    generator = torch.Generator().manual_seed(3)
    shape, expression = torch.randn(2, 20, generator=generator), 0.3 * torch.randn(2, 20, generator=generator)
    still, longer = head(shape=shape, expression=expression), extended(shape=shape, expression=expression)
    assert torch.allclose(longer.vertices, mouth.extend(still.vertices), atol=2e-5)  # linear: exact up to rounding
    pose = open_by(0.35)
    pose[0, 1, 1] = 0.3
    posed, wanted = extended(pose=pose).vertices[0], mouth.extend(head(pose=pose).vertices[0])
    apart = (posed - wanted).norm(dim=1)
    assert torch.allclose(posed[: mouth.vertex_count], head(pose=pose).vertices[0], atol=1e-6)
    assert apart.max() < 3e-3 and apart[mouth.faces[mouth.face_count :][mouth.part > 0].unique()].max() < 1e-3
    assert torch.allclose(extended.weights.sum(1), torch.ones(len(extended.weights)), atol=1e-5)
    assert extended.weights.min() >= 0
    template = extended.template()
    assert len(template.canonical_vertices) == len(extended.template_vertices) and template.uv is not None
    assert template.regions["teeth"].sum() == (mouth.part > 0).sum()
    assert torch.equal(extended.landmarks(longer.vertices), head.landmarks(longer.vertices[:, : mouth.vertex_count]))
    assert len(head.faces) == mouth.face_count  # the head given is as it was


def test_an_extended_blendshape_head(head):
    rig = hf.heads.BlendshapeHead(head.template_vertices, head.faces, head.expression_basis[:5])
    mouth = inner_mouth(rig.template_vertices, rig.faces)
    extended = mouth.extend_head(rig)
    weights = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        extended(expression=weights).vertices, mouth.extend(rig(expression=weights).vertices), atol=2e-5
    )


def test_errors_name_the_remedy(head, mouth, unchecked):
    vertices, faces = head.template_vertices, head.faces
    with pytest.raises(ValueError, match="an inside of the mouth already"):
        inner_mouth(mouth.extend(vertices), mouth.faces, jaw=mouth.extend(head.weights)[:, JAW])
    with pytest.raises(ValueError, match="not an open border"):
        inner_mouth(vertices, faces, torch.arange(5))
    with pytest.raises(ValueError, match="corners"):
        inner_mouth(vertices, faces, corners=(0, 1))
    with pytest.raises(ValueError, match="expected meters"):
        inner_mouth(vertices * 1000, faces)
    with pytest.raises(ValueError, match="rows >= 0 and depth > 0"):
        inner_mouth(vertices, faces, rows=-1)
    with pytest.raises(ValueError, match="pass jaw="):
        inner_mouth(vertices, faces, jaw=torch.zeros(len(vertices)), loop=mouth.loop)
    with pytest.raises(ValueError, match="jaw has shape"):
        inner_mouth(vertices, faces, jaw=torch.zeros(3), loop=mouth.loop)
    with pytest.raises(ValueError, match="inner_mouth: vertices has shape"):
        inner_mouth(vertices[:, :2], faces)
    with pytest.raises(ValueError, match="an extended mesh has"):
        mouth.extend(mouth.extend(vertices))
    with pytest.raises(TypeError, match="vertices"):
        mouth.extend(faces)
    with pytest.raises(ValueError, match="differ from those that the mouth was made for"):
        mouth.extend_template(hf.Template(vertices, faces.flip(1)))
    rig = hf.heads.BlendshapeHead(vertices, faces.flip(1), head.expression_basis[:1])
    with pytest.raises(ValueError, match="the head's faces differ from those"):
        mouth.extend_head(rig)
    with pytest.raises(TypeError, match="expected a FlameHead"):
        mouth.extend_head(torch.nn.Linear(1, 1))


def test_it_moves_between_dtypes(head, mouth):
    assert isinstance(mouth.to("cpu"), InnerMouth)
    assert mouth.extend(head.template_vertices.double()).dtype == torch.float64
