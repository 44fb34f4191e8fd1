"""An avatar's images: backgrounds, precision, cameras that do not see the head, and values that are not finite."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Static, SurfaceCanonicalizer
from headfields.encoders import HashGrid
from headfields.parts import Decoder, Deformer
from headfields.records import Camera, Canonical, Features, FieldValues, HeadState
from headfields.renderers import OccupancySampler, UniformSampler, VolumeRenderer
from tests.shapes import uv_sphere
from tests.tables import table

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
BOX = torch.tensor([[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]])
STATE = HeadState(VERTICES[None])
CAMERA = Camera.orbit((0, 0, 0), 0.6, yaw=35, pitch=10, size=(6, 8), fov=30)


def avatar(deformer: Deformer | None = None, sampler: Any = None) -> Avatar:
    return Avatar(
        deformer=deformer or SurfaceCanonicalizer(VERTICES, FACES),
        encoder=HashGrid(levels=2, log2_table_size=8, base_resolution=4, finest_resolution=8),
        decoder=NeRFDecoder(hidden=8, density_bias=3.0),
        renderer=VolumeRenderer(sampler=sampler or UniformSampler(8)),
    )


@pytest.fixture
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("views", "frames"), [(4, 4), (1, 4), (4, 1)])
def test_a_batch_is_its_images(views: int, frames: int) -> None:
    model, shift = avatar(), torch.linspace(0, 0.02, frames)[:, None, None]
    cameras = Camera.stack([Camera.orbit((0, 0, 0), 0.6, yaw=20 * i, size=(6, 8), fov=30) for i in range(views)])
    states = HeadState(VERTICES + shift)
    batch = model.render(cameras if views > 1 else cameras[0], states, background=torch.rand(4, 6, 8, 3).zero_())
    assert batch.rgb.shape == (4, 6, 8, 3) and batch.depth.shape == (4, 6, 8)
    for i in range(4):
        one = model.render(cameras[i % views], states[i % frames], background=0.0)
        assert torch.equal(batch.rgb[i], one.rgb) and torch.equal(batch.opacity[i], one.opacity)


def test_batches_that_do_not_fit_are_refused() -> None:
    model, states = avatar(), HeadState(VERTICES.expand(2, -1, -1))
    cameras = Camera.stack([CAMERA, CAMERA, CAMERA])
    with pytest.raises(ValueError, match="camera has 3 views and state 2 frames"):
        model.render(cameras, states)
    with pytest.raises(ValueError, match="background has 3 images; expected 2"):
        model.render(CAMERA, states, background=torch.zeros(3, 6, 8, 3))
    with pytest.raises(ValueError, match="state has 0 frames"):
        model.render(CAMERA, states[:0])


# ---------------------------------------------------------------- backgrounds


def test_an_image_stands_behind_the_head(unchecked: None) -> None:
    model, image = avatar(), torch.rand(6, 8, 3)
    black, novel = model.render(CAMERA, STATE, background=0.0), model.render(CAMERA, STATE, background=image, chunk=20)
    torch.testing.assert_close(novel.rgb, black.rgb + (1 - black.opacity)[..., None] * image)
    for same in (image.numpy(), image.double()):
        assert torch.equal(model.render(CAMERA, STATE, background=same).rgb, model.render(CAMERA, STATE, image).rgb)
    gray = model.render(CAMERA, STATE, background=0.25).rgb
    for same in (torch.tensor(0.25), torch.tensor([0.25]), [0.25, 0.25, 0.25], np.full(3, 0.25)):
        assert torch.equal(model.render(CAMERA, STATE, background=same).rgb, gray)  # type: ignore[arg-type]


@table(
    ("background", "error", "message"),
    [
        (255, ValueError, r"background is 255; expected sRGB in \[0, 1\]: divide 8-bit values by 255"),
        (torch.tensor([200.0, 10, 0]), ValueError, "background holds 0 to 200; .* divide 8-bit values by 255"),
        (-0.5, ValueError, "background is -0.5"),
        ("white", TypeError, "background is 'white'; expected a number, or a tensor or array"),
        (None, TypeError, "background is None; expected a number"),
        (torch.full((6, 8, 3), torch.nan), ValueError, "background holds nan to nan"),
        (torch.ones(6, 8, 3, dtype=torch.uint8), TypeError, "background has dtype torch.uint8; .* by 255"),
        (
            torch.ones(8, 6, 3),
            ValueError,
            r"background has shape \(8, 6, 3\); expected .* \(6, 8, 3\)",
        ),
        (torch.ones(6, 8, 4), ValueError, r"background has shape \(6, 8, 4\)"),
        (torch.ones(48, 3), ValueError, r"background has shape \(48, 3\)"),
    ],
)
def test_what_is_no_background_is_refused(
    background: Any, error: type[Exception], message: str, unchecked: None
) -> None:
    with pytest.raises(error, match=rf"Avatar.render: {message}"):
        avatar().render(CAMERA, STATE, background=background)


@pytest.mark.parametrize(
    ("background", "error", "message"),
    [
        (torch.ones(6, 8, 3), ValueError, r"background has shape \(6, 8, 3\); expected \(48, 3\).*reshape\(-1, 3\)"),
        (torch.ones(47, 3), ValueError, r"background has shape \(47, 3\)"),
        (torch.ones(48, 3).long(), TypeError, "background is of torch.int64"),
        (1.0, TypeError, "background is of float"),
    ],
)
def test_rays_need_a_background_each(background: Any, error: type[Exception], message: str, unchecked: None) -> None:
    with pytest.raises(error, match=f"Avatar: {message}"):
        avatar()(CAMERA.rays(), STATE, background)


# ---------------------------------------------------------------- precision and size


def test_a_float64_camera_renders_what_a_float32_one_does(unchecked: None) -> None:
    model = avatar()
    double = CAMERA.map(lambda tensor: tensor.double())
    image = model.render(double, STATE).rgb
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, model.render(CAMERA, STATE).rgb, atol=1e-4, rtol=0)
    with pytest.raises(TypeError, match=r"rays.origins has dtype torch.float64 and state.vertices torch.float32"):
        model(double.rays(), STATE, torch.ones(48, 3))


def test_under_autocast_only_networks_lose_precision(unchecked: None) -> None:
    model = avatar()
    full = model.render(CAMERA, STATE)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.render(CAMERA, STATE)
    for name in ("rgb", "opacity", "depth"):
        value, expected = getattr(low, name), getattr(full, name)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, atol=2e-2, rtol=0)
    hit = full.opacity > 0.9
    assert bool(hit.any())
    assert float((low.depth - full.depth)[hit].abs().max()) < 2e-3, "of 0.5 m, bfloat16 alone would be off by 2 mm"


def test_an_image_without_pixels_is_legal() -> None:
    image = avatar().render(Camera(CAMERA.world_to_camera, CAMERA.intrinsics, (0, 8)), STATE)
    assert image.rgb.shape == (0, 8, 3) and image.opacity.shape == (0, 8)


# ---------------------------------------------------------------- cameras


def test_a_camera_to_world_matrix_is_noticed() -> None:
    side = Camera.orbit((0, 0, 0), 0.6, yaw=70, size=(6, 8), fov=30)
    inverse = side.replace(world_to_camera=torch.linalg.inv(side.world_to_camera))
    with pytest.warns(UserWarning, match=r"inside it with the inverse of camera.world_to_camera.* torch.linalg.inv"):
        image = avatar().render(inverse, STATE)
    assert float(image.opacity.max()) == 0


@pytest.mark.parametrize(
    "camera",
    [
        CAMERA,
        Camera.orbit((0, 0, 0), 0.05, size=(6, 8), fov=30),  # within the head
        Camera.look_at((0.3, 0.1, 0.6), (2, 0.1, 0.6), size=(6, 8), fov=30),  # past it
        Camera.orbit((0.1, 0, 0), 0.6, yaw=35, size=(6, 8), fov=10),  # its rim
    ],
)
def test_legal_cameras_give_no_warning(camera: Camera, no_warning: None) -> None:
    avatar().render(camera, STATE)


# ---------------------------------------------------------------- values that are not finite, units


@pytest.mark.parametrize("sampler", [UniformSampler(8), OccupancySampler(step=0.02)])
@pytest.mark.parametrize("name", ["origins", "directions"])
def test_rays_that_are_not_finite_are_no_empty_space(name: str, sampler: Any) -> None:
    rays = CAMERA.rays()
    broken = rays.replace(**{name: getattr(rays, name).index_fill(0, torch.tensor([3, 5]), torch.nan)})
    with pytest.raises(ValueError, match=rf"Avatar: rays.{name} is not finite \(NaN or infinity\) in 2 of 48 rays"):
        avatar(sampler=sampler)(broken, STATE, torch.ones(48, 3))


def test_vertices_of_a_state_are_finite_and_in_meters() -> None:
    with pytest.raises(ValueError, match=r"Avatar.render: state.vertices holds 1 of .* vertices that are not finite"):
        avatar().render(CAMERA, HeadState(VERTICES[None].index_fill(1, torch.tensor([4]), torch.nan)))
    with pytest.raises(ValueError, match=r"Avatar.render: state.vertices extends over 200 m; .* millimeters"):
        avatar().render(CAMERA, HeadState(VERTICES[None] * 1000))
    assert avatar(Static(BOX)).render(CAMERA, HeadState(torch.zeros(1, 0, 3))).rgb.shape == (6, 8, 3)


class Holes(Static):
    """Maps some points to NaN, and says so or not."""

    def __init__(self, box: torch.Tensor, says: bool) -> None:
        super().__init__(box)
        self.says = says

    def forward(self, points: Any, directions: Any, frame: Any, prepared: Any) -> Canonical:
        canonical = super().forward(points, directions, frame, prepared)
        hole = points[:, 0] > 0
        moved = torch.where(hole[:, None], torch.nan, canonical.points)
        return canonical.replace(points=moved, valid=canonical.valid & ~(hole & self.says))


def test_canonical_points_that_are_not_finite_name_the_deformer() -> None:
    assert bool(avatar(Holes(BOX, True)).render(CAMERA, STATE).rgb.isfinite().all())
    with pytest.raises(ValueError, match=r"Holes: canonical.points is not finite .* that are valid; mark .*valid"):
        avatar(Holes(BOX, False)).render(CAMERA, STATE)
    with pytest.raises(ValueError, match=r"Holes: canonical.points is not finite"):
        avatar(Holes(BOX, False))(CAMERA.rays(), STATE, torch.ones(48, 3))


class Uniform(Decoder):
    """One density everywhere, of a decoder that is wrong."""

    gives = "density"

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, features: Features, canonical: Canonical, prepared: Any, color: bool = True) -> FieldValues:
        count = len(canonical)
        return FieldValues(density=torch.full((count,), self.value), rgb=torch.full((count, 3), 0.5))


@pytest.mark.parametrize("sampler", [UniformSampler(8), OccupancySampler(step=0.02)])
def test_densities_that_are_none_are_no_empty_space(sampler: Any) -> None:
    model = avatar(Static(BOX), sampler)
    with pytest.raises(ValueError, match="weights_from_density: a density is negative"):
        model.replace(decoder=Uniform(-50.0)).render(CAMERA, STATE)
    assert bool(model.replace(decoder=Uniform(torch.nan)).render(CAMERA, STATE).rgb.isnan().any())
