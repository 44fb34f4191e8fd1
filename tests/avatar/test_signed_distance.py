"""`Field.signed_distance`: gradients through the deformer, and what differentiates them in turn, over backends."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder, NeuSDecoder
from headfields.deformers import Static, SurfaceCanonicalizer
from headfields.encoders import Frequency, HashGrid
from headfields.parts import Field
from headfields.records import HeadState
from headfields.renderers import SurfaceRenderer, UniformSampler, VolumeRenderer
from tests.backends import BACKENDS, running_on
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
BOX = torch.tensor([[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]])


def small_grid(interpolation: str = "linear") -> HashGrid:
    """Entries large enough that they bend the sphere the decoder starts from."""
    return HashGrid(2, 2, 8, 4, 8, interpolation=interpolation, initial=0.5)  # type: ignore[arg-type]


def made(deformer: str = "static", encoder: object = None, hidden: int = 16) -> Avatar:
    torch.manual_seed(0)
    parts = {"static": lambda: Static(BOX), "surface": lambda: SurfaceCanonicalizer(VERTICES, FACES)}
    avatar = Avatar(
        parts[deformer](), encoder or small_grid(), NeuSDecoder(hidden=hidden, geometry_width=4),
        SurfaceRenderer(UniformSampler(8)),
    )  # fmt: skip
    with torch.no_grad():  # the grid counts from the start, so that its derivatives are worth a look
        avatar.decoder.distance_network[0].weight[:, 3:] += 0.2 * torch.randn(hidden, avatar.encoder.width)
    return avatar


def state() -> HeadState:
    stretch = torch.tensor([1.1, 0.9, 1.0])
    return HeadState(torch.stack([VERTICES, VERTICES * stretch + 0.01]))


def cloud(count: int) -> tuple[Tensor, Tensor]:
    points = 0.1 * torch.nn.functional.normalize(torch.randn(count, 3), dim=-1) * (0.9 + 0.2 * torch.rand(count, 1))
    return points, torch.arange(count) % 2


@pytest.mark.parametrize("deformer", ["static", "surface"])
def test_the_gradient_is_by_the_posed_point(deformer: str) -> None:
    """Against central differences of the distance itself, through the canonicalizer; all but kinks of the map agree."""
    field = made(deformer, Frequency(bands=2)).field(state())
    points, frame = cloud(300)
    _, values = field.signed_distance(points, frame)
    step, slopes = 2e-4, []
    for axis in torch.eye(3):
        ahead, behind = (field.signed_distance(points + sign * step * axis, frame)[1] for sign in (1, -1))
        slopes.append((ahead.distance - behind.distance) / (2 * step))
    wanted = torch.stack(slopes, dim=-1)
    error = (values.gradient - wanted).norm(dim=-1)
    assert float(error.median()) < 2e-3 and float((error < 0.02).float().mean()) > 0.9
    torch.testing.assert_close(values.normal, torch.nn.functional.normalize(values.gradient, dim=-1))
    turned = (values.canonical_normal - values.normal).norm(dim=-1).mean()
    assert (turned < 1e-6) == (deformer == "static")


def test_autocast_leaves_the_gradient_through_geometry_in_full_precision() -> None:
    """The decoder's distance network is in float32 under autocast, so the whole derivative is."""
    avatar, (points, frame) = made("surface", Frequency(bands=2)), cloud(50)
    exact = avatar.field(state()).signed_distance(points, frame)[1]
    with torch.autocast("cpu", torch.bfloat16):
        values = avatar.field(state()).signed_distance(points, frame)[1]
    torch.testing.assert_close(values.distance, exact.distance, rtol=0, atol=0)
    torch.testing.assert_close(values.gradient, exact.gradient, rtol=1e-5, atol=1e-6)


def test_without_gradients_it_gives_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headfields.avatar.avatar._CHUNK", 40)
    avatar = made("surface")
    points, frame = cloud(100)
    canonical, wanted = avatar.field(state()).signed_distance(points, frame, color=True)
    with torch.no_grad():
        where, found = avatar.field(state()).signed_distance(points, frame, color=True)
    assert wanted.gradient.requires_grad and wanted.rgb.requires_grad
    for name, value in vars(found).items():
        if value is not None:
            assert not value.requires_grad
            torch.testing.assert_close(value, getattr(wanted, name).detach())
    torch.testing.assert_close(where.points, canonical.points.detach())
    assert not where.points.requires_grad


def test_colors_come_with_it_later_or_at_canonical_points() -> None:
    field = made("surface").field(state())
    points, frame = cloud(50)
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    canonical, values = field.signed_distance(points, frame, directions, color=True)
    at, bare = field.signed_distance(points, frame, directions)
    assert bare.rgb is None
    torch.testing.assert_close(field.color(bare, at).rgb, values.rgb)
    with torch.no_grad():
        decoded = field.decode(canonical.detach())
    torch.testing.assert_close(decoded.rgb, values.rgb.detach())
    torch.testing.assert_close(field.color(bare.replace(canonical_normal=None), canonical).rgb, values.rgb)
    decoded = field.decode(canonical)
    decoded.rgb.sum().backward()
    assert bool(field.avatar.encoder.table.grad.any())


def test_no_points() -> None:
    avatar = made("surface")
    for graph in (True, False):
        with torch.set_grad_enabled(graph):
            canonical, values = avatar.field(state()).signed_distance(*(x[:0] for x in cloud(2)), color=True)
        assert len(canonical) == 0 and values.gradient.shape == (0, 3) and values.rgb.shape == (0, 3)
        assert values.distance.requires_grad == graph


def test_a_density_is_refused() -> None:
    avatar = Avatar(Static(BOX), small_grid(), NeRFDecoder(), VolumeRenderer(UniformSampler(4)))
    with pytest.raises(ValueError, match=r"Field.signed_distance: NeRFDecoder gives density"):
        avatar.field(state()).signed_distance(*cloud(3))


def eikonal(field: Field, points: Tensor, frame: Tensor) -> Tensor:
    _, values = field.signed_distance(points, frame)
    return ((values.gradient.norm(dim=-1) - 1).square() + values.normal[:, 0] * values.distance).sum()


def gradients(avatar: Avatar, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    avatar = avatar.to(device=device, dtype=dtype)
    given = state().map(lambda x: x.to(device=device, dtype=dtype))
    points, frame = cloud(60)
    points = points.to(device=device, dtype=dtype).requires_grad_()
    loss = eikonal(avatar.field(given), points, frame.to(device))
    parameters = [avatar.encoder.table, *avatar.decoder.distance_network.parameters()]
    return [g.double().cpu() for g in torch.autograd.grad(loss, [points, *parameters])]


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_eikonal_loss_trains_table_and_network_on_every_backend(backend: str, interpolation: str) -> None:
    """Second derivatives in float32 on the backend, against float64."""
    wanted = gradients(made(encoder=small_grid(interpolation)), torch.device("cpu"), torch.float64)
    with running_on(backend) as device:
        found = gradients(made(encoder=small_grid(interpolation)), device, torch.float32)
    for ours, theirs in zip(found, wanted, strict=True):
        scale = float(theirs.abs().max())
        assert scale > 0
        torch.testing.assert_close(ours, theirs, atol=3e-3 * scale, rtol=1e-2)


@pytest.mark.parametrize("backend", ["native", "warp"])
def test_second_derivatives_against_finite_differences(backend: str) -> None:
    """The derivative of the eikonal loss along random directions of all parameters, in float64."""
    with running_on(backend):
        avatar = made(encoder=small_grid("smoothstep"), hidden=8).double()
        given, (points, frame) = state().map(lambda x: x.double()), cloud(20)
        parameters = [avatar.encoder.table, *avatar.decoder.distance_network.parameters()]
        parameters = [p for p in parameters if p.requires_grad]
        found = torch.autograd.grad(eikonal(avatar.field(given), points.double(), frame), parameters)
        for _ in range(3):
            directions = [torch.randn_like(p) for p in parameters]
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    for p, d in zip(parameters, directions, strict=True):
                        p += sign * 1e-6 * d
                values.append(eikonal(avatar.field(given), points.double(), frame).item())
                with torch.no_grad():
                    for p, d in zip(parameters, directions, strict=True):
                        p -= sign * 1e-6 * d
            slope = sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True))
            assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-6)


def test_gradients_reach_the_mesh_through_the_canonicalizer() -> None:
    """An eikonal loss by the vertices, against a difference: second derivatives of the warp itself."""
    avatar, vertices = made("surface", Frequency(bands=2)), state().vertices
    points = 1.03 * vertices[0, FACES].mean(dim=1)  # over the middles of faces, so that none changes its nearest
    frame = torch.zeros(len(points), dtype=torch.long)
    direction = torch.zeros_like(vertices)
    direction[0] = VERTICES * torch.tensor([1.0, -0.5, 0.3])
    leaf = vertices.clone().requires_grad_()
    (found,) = torch.autograd.grad(eikonal(avatar.field(HeadState(leaf)), points, frame), leaf)
    ahead, behind = (
        eikonal(avatar.field(HeadState(vertices + sign * 1e-3 * direction)), points, frame).item() for sign in (1, -1)
    )
    assert float((found * direction).sum()) == pytest.approx((ahead - behind) / 2e-3, rel=0.02)


def test_forward_mode_has_the_tangents_of_reverse_mode() -> None:
    """Along the points: the distance changes by its gradient, and the gradient by its own reverse derivative."""
    field = made(encoder=small_grid("smoothstep")).field(state())
    points, frame = cloud(5)
    along = torch.randn(5, 3)
    with forward_ad.dual_level():
        _, values = field.signed_distance(forward_ad.make_dual(points, along), frame)
        distance, gradient = (forward_ad.unpack_dual(each).tangent for each in (values.distance, values.gradient))
    leaf = points.clone().requires_grad_()
    _, truth = field.signed_distance(leaf, frame)
    torch.testing.assert_close(distance, (truth.gradient * along).sum(-1), rtol=1e-3, atol=1e-4)
    (turned,) = torch.autograd.grad((truth.gradient * along).sum(), leaf)  # the Hessian is symmetric
    torch.testing.assert_close(gradient, turned, rtol=1e-3, atol=1e-3)
