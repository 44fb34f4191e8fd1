"""NeuS's decoder: it starts as a sphere, and its color sees what it should."""

import pytest
import torch
from torch.nn.functional import normalize

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeuSDecoder
from headfields.deformers import Static
from headfields.encoders import Frequency, HashGrid
from headfields.records import Canonical, Features, FieldValues, HeadState
from headfields.renderers import SurfaceRenderer, UniformSampler

BOX = torch.tensor([[-0.10, -0.14, -0.12], [0.14, 0.18, 0.12]])
MIDDLE = torch.tensor([0.02, 0.02, 0.0])
STATE = HeadState(torch.zeros(1, 0, 3))
ENCODERS = {
    "coordinates": lambda: Frequency(bands=0),
    "sines": lambda: Frequency(bands=6),
    "hash grid": lambda: HashGrid(levels=4, log2_table_size=10, base_resolution=4, finest_resolution=32),
}
SIZES = {
    "small": {"hidden": 32, "layers": 1},
    "default": {},
    "published": {"hidden": 256, "layers": 8, "skip": 4, "geometry_width": 256, "color_layers": 4},
}


def avatar(encoder: str = "hash grid", **options: object) -> Avatar:
    torch.manual_seed(0)
    return Avatar(Static(BOX), ENCODERS[encoder](), NeuSDecoder(**options), SurfaceRenderer(UniformSampler(8)))  # type: ignore[arg-type]


def canonical(points: torch.Tensor) -> Canonical:
    m = len(points)
    return Canonical(points, normalize(torch.ones(m, 3), dim=-1), points, torch.zeros(m, dtype=torch.long),
                     torch.ones(m, dtype=torch.bool))  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_starts_as_a_sphere(encoder: str, size: str) -> None:
    made = avatar(encoder, radius=0.09, **SIZES[size])
    points = BOX[0] + torch.rand(500, 3) * (BOX[1] - BOX[0])
    with torch.no_grad():
        _, values = made.field(STATE).signed_distance(points, torch.zeros(500, dtype=torch.long))
    assert values.distance is not None and values.gradient is not None and values.normal is not None
    outward = points - MIDDLE
    error = values.distance - (outward.norm(dim=-1) - 0.09)
    assert float(error.abs().mean()) < 0.003 and float(error.abs().max()) < 0.02
    off_center = outward.norm(dim=-1) > 0.03
    assert float((values.normal * normalize(outward, dim=-1)).sum(-1)[off_center].mean()) > 0.98
    assert float((values.gradient.norm(dim=-1)[off_center] - 1).abs().mean()) < 0.1


def test_radius_and_center_are_meters() -> None:
    center = torch.tensor([0.0, 0.05, 0.03])
    field = avatar(radius=0.05, center=center).field(STATE)
    points = center + 0.05 * normalize(torch.randn(200, 3), dim=-1)
    with torch.no_grad():
        _, values = field.signed_distance(points, torch.zeros(200, dtype=torch.long))
    assert float(values.distance.abs().mean()) < 0.003
    default = avatar()
    assert default.decoder.radius == pytest.approx(float((BOX[1] - BOX[0]).norm()) / 8)


def test_color_sees_normal_and_direction_and_the_distance_neither() -> None:
    made = avatar()
    at = canonical(0.1 * torch.randn(6, 3))
    values = made.decoder(Features(made.encoder(at, None)), at, None)
    assert values.rgb is None and values.geometry is not None
    one, other = normalize(torch.randn(2, 6, 3), dim=-1).unbind(0)

    def color(decoder: NeuSDecoder, directions: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        return decoder.color(values.replace(canonical_normal=normals), at.replace(directions=directions), None)

    assert not torch.allclose(color(made.decoder, one, one), color(made.decoder, one, other))
    assert not torch.allclose(color(made.decoder, one, one), color(made.decoder, other, one))
    flat = avatar(direction_bands=0).decoder
    torch.testing.assert_close(color(flat, one, one), color(flat, other, one))


def test_no_points_keep_a_gradient() -> None:
    made, at = avatar(), canonical(torch.zeros(0, 3))
    values = made.decoder(Features(made.encoder(at, None)), at, None)
    rgb = made.decoder.color(values.replace(canonical_normal=at.directions), at, None)
    (values.distance.sum() + rgb.sum()).backward()
    assert rgb.shape == (0, 3) and all(parameter.grad is not None for parameter in made.decoder.parameters())


def test_under_autocast_the_distance_stays_exact() -> None:
    made, at = avatar(), canonical(0.1 * torch.randn(50, 3))
    features = Features(made.encoder(at, None))
    exact = made.decoder(features, at, None).distance
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(made.decoder(features, at, None).distance, exact)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden=0"),
        ({"layers": 2, "skip": 2}, "skip is 2"),
        ({"radius": 0.0}, "radius is 0.0 m"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        NeuSDecoder(**options)
    with pytest.raises(ValueError, match="radius is None outside an Avatar"):
        NeuSDecoder().build(3)
    made = avatar()
    with pytest.raises(ValueError, match=r"NeuSDecoder\.color: .*canonical_normal is None"):
        made.decoder.color(FieldValues(geometry=torch.zeros(1, 19)), canonical(torch.zeros(1, 3)), None)
