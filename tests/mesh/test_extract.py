"""Meshes of fields: of avatars whose surface is known, posed and canonical, with normals, colors and gradients."""

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Chain, Static, SurfaceCanonicalizer
from headfields.encoders import HashGrid, RegionGate
from headfields.mesh import extract
from headfields.mesh.extract import gradient_normals, on_surface
from headfields.mesh.field_source import FieldSource
from headfields.parts import Decoder, Encoder, Renderer
from headfields.records import FieldValues, HeadState
from headfields.renderers import UniformSampler, VolumeRenderer
from tests.ops.test_marching_cubes import BOX, assert_closed_manifold
from tests.shapes import uv_sphere
from tests.tables import table

VERTICES, FACES = uv_sphere(16, 24, radius=0.1)
STATE = HeadState(vertices=VERTICES[None])


class Place(Encoder):
    """The points themselves, and whether the face is known."""

    width = 3

    def forward(self, canonical, prepared):
        return canonical.points


class Ball(Decoder):
    """A ball: its signed distance, or a density that falls off around it; colored by place and direction."""

    def __init__(self, gives: str = "distance", radius: float = 0.09) -> None:
        super().__init__()
        self.gives, self.radius = gives, radius

    def forward(self, features, canonical, prepared, color=True):
        distance = features.own.norm(dim=-1) - self.radius
        rgb = 0.5 + 0.5 * canonical.directions if color else None
        if self.gives == "distance":
            return FieldValues(rgb=rgb, distance=distance)
        return FieldValues(rgb=rgb, density=280 * torch.sigmoid(-distance / 0.002))


class Anything(Renderer):
    takes = ("density", "distance")

    def forward(self, rays, field, background):
        raise AssertionError("extraction renders no rays")


def avatar(deformer, gives: str = "distance") -> Avatar:
    return Avatar(deformer=deformer, encoder=Place(), decoder=Ball(gives), renderer=Anything())


def surface() -> SurfaceCanonicalizer:
    return SurfaceCanonicalizer(VERTICES, FACES, shell=0.03)


@pytest.mark.parametrize("gives", ["distance", "density"])
def test_a_ball(gives):
    body = avatar(Static(BOX * 0.12), gives).train()
    mesh = extract(body.field(STATE), resolution=64, progress=False)
    assert_closed_manifold(mesh.faces, len(mesh.vertices))
    outward = torch.nn.functional.normalize(mesh.vertices, dim=-1)
    assert (mesh.vertices.norm(dim=-1) - 0.09).abs().max() < 2e-4
    assert (mesh.normals * outward).sum(-1).min() > (0.99999 if gives == "distance" else 0.97)
    torch.testing.assert_close(mesh.colors, 0.5 - 0.5 * mesh.normals, atol=1e-5, rtol=0)  # seen from above
    assert body.training and not mesh.vertices.requires_grad


def test_posed_and_canonical():
    """A head that has moved and turned: its surface has too in posed space, and not in canonical space."""
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    away = torch.tensor([0.05, 0.02, -0.03])
    states = HeadState(vertices=torch.stack([VERTICES, VERTICES @ turn.T + away]))
    for deformer in (surface(), Chain(surface(), Static(BOX))):
        field = avatar(deformer).field(states)
        posed = extract(field, resolution=40, frame=1, closed=False, largest=True, progress=False)
        assert len(posed.faces) and ((posed.vertices - away).norm(dim=-1) - 0.09).abs().max() < 2e-3
        canonical = extract(
            field, resolution=40, frame=1, space="canonical", closed=False, largest=True, progress=False
        )
        assert len(canonical.faces) and (canonical.vertices.norm(dim=-1) - 0.09).abs().max() < 2e-3


def test_what_is_deep_inside_is_solid():
    field = avatar(surface()).field(STATE)
    hollow = extract(field, resolution=48, progress=False)
    assert int(hollow.components().max()) == 1  # the field is not defined deep inside, so there is an inner wall
    solid = extract(field, resolution=48, solid=0.02, progress=False)
    assert_closed_manifold(solid.faces, len(solid.vertices))
    assert int(solid.components().max()) == 0 and (solid.vertices.norm(dim=-1) - 0.09).abs().max() < 1e-3
    assert len(extract(field, resolution=48, largest=True, progress=False).faces) == len(solid.faces)


def test_an_avatar_of_real_parts():
    """Random weights: some surface is found in both spaces, and parts that read faces get them."""
    body = Avatar(
        deformer=surface(),
        encoder=HashGrid(levels=3, features=2, log2_table_size=10, base_resolution=4, finest_resolution=32),
        condition=RegionGate("expression", faces=torch.zeros(len(FACES), dtype=torch.bool), width=4),
        decoder=NeRFDecoder(hidden=16),
        renderer=VolumeRenderer(sampler=UniformSampler(8)),
    )
    state = HeadState(vertices=VERTICES[None], expression=torch.zeros(1, 4))
    for space in ("posed", "canonical"):
        with torch.no_grad():
            values = FieldSource(body.field(state), space, level=0.0).values(
                VERTICES * torch.linspace(0.8, 1.2, len(VERTICES))[:, None]
            )
        level = float(-values.median())
        mesh = extract(body.field(state), resolution=24, level=level, space=space, progress=False)
        assert len(mesh.faces) and mesh.colors.min() >= 0 and mesh.colors.max() <= 1
        assert mesh.normals.norm(dim=-1).sub(1).abs().max() < 1e-4


def test_a_function_with_its_own_colors():
    mesh = extract(
        lambda points: points[:, :2].norm(dim=-1).maximum(points[:, 2].abs()) - 0.6, BOX, 32,
        colors=lambda points, normals: points * 0 + 0.25, normals="mesh", progress=False,
    )  # fmt: skip
    assert mesh.colors.eq(0.25).all() and mesh.normals.isfinite().all()
    assert extract(lambda points: points.norm(dim=-1), BOX, 8, level=-1.0, progress=False).vertices.shape == (0, 3)


def test_gradient_normals_fall_back():
    points = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0.0, 0, 2.0]])
    other = torch.tensor([[0.0, 1, 0]]).expand(3, 3)

    def function(points):
        return torch.where(points[:, 2] > 1, torch.inf, points.square().sum(-1))

    assert gradient_normals(function, points, other, chunk=2).equal(torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 1, 0]]))
    assert gradient_normals(function, points[:0], other[:0]).shape == (0, 3)


def test_on_surface_has_the_implicit_gradient():
    """By finite differences: extract again with a little more of each parameter, along a ray."""
    parameters = torch.tensor([0.6, 0.3, 2.0], dtype=torch.float64, requires_grad=True)

    def values(points, p):
        return points.norm(dim=-1) - p[0] - 0.1 * torch.sin(p[2] * points[:, 0] + p[1])

    directions = torch.nn.functional.normalize(torch.randn(6, 3, dtype=torch.float64), dim=-1)

    def radius(p):
        """Where each ray from the middle leaves the body, by bisection."""
        low, high = torch.zeros(6, dtype=torch.float64), torch.full((6,), 2.0, dtype=torch.float64)
        for _ in range(60):
            middle = 0.5 * (low + high)
            inside = values(middle[:, None] * directions, p) < 0
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return low

    with torch.no_grad():
        points = radius(parameters)[:, None] * directions
    found = on_surface(lambda x: values(x, parameters), points)
    assert (found - points).abs().max() < 1e-12
    slope = torch.autograd.functional.jacobian(lambda x: values(x, parameters.detach()).sum(), points)
    for row in range(6):
        (gradient,) = torch.autograd.grad(found[row] @ slope[row], parameters, retain_graph=True)
        # Along the ray the surface moves by the normal's movement over its cosine with the ray.
        wanted = []
        for k in range(3):
            step = torch.zeros(3, dtype=torch.float64)
            step[k] = 1e-6
            with torch.no_grad():
                change = (radius(parameters + step) - radius(parameters - step))[row] / 2e-6
            wanted.append(change * (directions[row] @ slope[row]))
        torch.testing.assert_close(gradient, torch.stack(wanted), atol=1e-7, rtol=1e-6)


def test_on_surface_reaches_weights_and_level():
    network = torch.nn.Linear(3, 1)
    level = torch.tensor(0.1, requires_grad=True)
    points = torch.randn(10, 3)
    found = on_surface(lambda x: network(x)[:, 0], points, level)
    torch.testing.assert_close(network(found)[:, 0], torch.full((10,), 0.1), atol=1e-5, rtol=0)
    gradients = torch.autograd.grad(found.sum(), [network.weight, network.bias, level])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    flat = on_surface(lambda x: (x * 0).sum(-1) + network.bias, points)
    assert flat.equal(points) and torch.autograd.grad(flat.sum(), network.bias)[0].eq(0).all()


@table(
    ("change", "words"),
    [
        ({"space": "rest"}, "space is 'rest'"),
        ({"frame": 1}, "frame is 1"),
        ({"normals": "smooth"}, "normals is 'smooth'"),
        ({"colors": lambda points, normals: points}, "colors is a function"),
        ({"solid": 0.01}, "solid is 0.01"),
        ({"source": lambda points: points[:, 0]}, "bounds is None"),
        ({"source": lambda points: points[:, 0], "bounds": BOX, "space": "canonical"}, "apply to a headfields.Field"),
    ],
)
def test_errors(unchecked, change, words):
    arguments = {"source": avatar(Static(BOX * 0.12)).field(STATE), "resolution": 8, "progress": False} | change
    with pytest.raises(ValueError, match=words):
        extract(**arguments)


def test_undefined_points_are_infinite():
    source = FieldSource(avatar(surface()).field(STATE))
    values = source.values(torch.tensor([[0.095, 0.0, 0.0], [0.0, 0.0, 0.0], [0.2, 0.0, 0.0]]))
    assert values[0].isfinite() and values[1:].eq(torch.inf).all()
    assert source.lipschitz == 1.0 and source.level == 0.0
    assert FieldSource(avatar(surface(), "density").field(STATE)).level == 140.0
