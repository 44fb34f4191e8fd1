"""Lens distortion: cameras with OpenCV's two models."""

import math

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.apps.tracking.pose_from_landmarks import landmark_pose
from headfields.records import Camera
from headfields.records.lens import distort, undistort
from tests.data.tiny import blob
from tests.tables import table

RADIAL = torch.tensor([-0.28, 0.11, 0.004, -0.003, -0.02], dtype=torch.float64)
FISHEYE = torch.tensor([0.05, -0.02, 0.006, -0.001], dtype=torch.float64)
LENSES = {"radial-tangential": RADIAL, "fisheye": FISHEYE}
INTRINSICS = torch.tensor([[70.0, 0, 33], [0, 72, 22], [0, 0, 1]], dtype=torch.float64)


def camera(lens, size=(48, 64), near=1.0):
    eye = near * torch.tensor([0.2, 0.1, 1.0], dtype=torch.float64)
    return Camera(Camera.look_at(eye, (0, 0, 0), size=size, fov=30).world_to_camera, INTRINSICS, size, lens)


def points(count=40):
    return 0.4 * (torch.rand(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5)


@pytest.fixture(params=list(LENSES))
def lens(request):
    return LENSES[request.param]


def test_pixels_are_opencvs(lens):
    cv2 = pytest.importorskip("cv2", reason="OpenCV, the oracle of this test, is not installed")
    view = camera(lens)
    matrix = view.world_to_camera.numpy()
    rotation, shift = cv2.Rodrigues(matrix[:3, :3])[0], matrix[:3, 3]
    if len(lens) == 5:
        expected = cv2.projectPoints(points().numpy(), rotation, shift, INTRINSICS.numpy(), lens.numpy())[0]
    else:
        expected = cv2.fisheye.projectPoints(
            points().numpy()[:, None], rotation, shift, INTRINSICS.numpy(), lens.numpy()
        )[0]
    pixels, depth = view.project(points())
    assert np.abs(pixels.numpy() - expected.reshape(-1, 2)).max() < 1e-9
    assert torch.equal(depth, view.replace(distortion=None).project(points())[1])
    assert (pixels - view.replace(distortion=None).project(points())[0]).abs().max() > 0.05


def test_a_formula_written_out(lens):
    x, y, z = 0.3, -0.2, 0.8
    u, v = distort(torch.tensor([x, y, z], dtype=torch.float64), lens).tolist()
    a, b = x / z, y / z
    r2 = a * a + b * b
    if len(lens) == 5:
        k1, k2, p1, p2, k3 = lens.tolist()
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        expected = (
            a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a * a),
            b * radial + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b,
        )
    else:
        angle = math.atan(math.sqrt(r2))
        bent = angle + sum(k * angle ** (3 + 2 * i) for i, k in enumerate(lens.tolist()))
        expected = (a * bent / math.sqrt(r2), b * bent / math.sqrt(r2))
    assert (u, v) == pytest.approx(expected, abs=1e-14)


def test_the_inverse_leads_back(lens):
    plane = torch.tensor([[0.0, 0.0], [1e-9, 0.0], [0.3, -0.4], [0.05, 0.05], [-0.6, 0.4]], dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        directions = torch.nn.functional.pad(plane, (0, 1), value=1.0).to(dtype)
        back, valid = undistort(distort(directions, lens.to(dtype)), lens.to(dtype))
        assert valid.all()
        assert (back[:, :2] / back[:, 2:] - plane.to(dtype)).abs().max() < tolerance


def test_a_fisheye_sees_behind_its_image_plane():
    lens = torch.zeros(4, dtype=torch.float64)
    side = distort(torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64), lens)
    assert float(side[0]) == pytest.approx(math.pi - math.atan(2.0))
    back, valid = undistort(side, lens)
    assert valid and float(back[2]) < 0 and float(back[0] / back[2]) == pytest.approx(-2.0)


def test_rays_meet_the_points_whose_pixels_they_leave(lens):
    view = camera(lens)
    rays = view.rays()
    assert torch.allclose(rays.directions.norm(dim=1), torch.ones(48 * 64, dtype=torch.float64))
    pixels = view.project(rays.origins + 0.7 * rays.directions)[0].reshape(48, 64, 2)
    assert (pixels[7, 50] - torch.tensor([50.5, 7.5])).abs().max() < 1e-9
    grid = torch.stack(torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij"), dim=-1).flip(-1) + 0.5
    assert (pixels - grid).abs().max() < 1e-6
    batch = Camera.stack([view, view.replace(distortion=0.5 * lens)])
    one = batch.rays(torch.tensor([[0, 0], [0, 0]]), torch.tensor([0, 1]))
    assert torch.allclose(one.directions[0], rays.directions[0])
    assert (one.directions[1] - rays.directions[0]).abs().max() > 1e-4


def test_gradients_reach_points_intrinsics_and_coefficients(lens):
    view = camera(lens)

    def pixels(where, matrix, numbers):
        return view.replace(intrinsics=matrix, distortion=numbers).project(where)[0]

    def directions(matrix, numbers):
        rays = view.replace(intrinsics=matrix, distortion=numbers).rays(torch.tensor([[3, 60], [24, 31], [40, 2]]))
        return rays.directions

    inputs = [value.clone().requires_grad_() for value in (points(4), INTRINSICS, lens)]
    assert torch.autograd.gradcheck(pixels, inputs) and torch.autograd.gradcheck(directions, inputs[1:])
    assert torch.autograd.gradgradcheck(pixels, inputs, fast_mode=True) and torch.autograd.gradgradcheck(
        directions, inputs[1:], fast_mode=True
    )


@pytest.mark.parametrize("place", [(0.0, 0.0, 1.0), (1e-6, 0.0, 1.0), (0.0995, 0.0, 1.0), (0.1005, 0.0, 1.0)])
def test_derivatives_are_finite_on_the_axis_and_smooth_where_series_end(lens, place):
    where = torch.tensor([place], dtype=torch.float64, requires_grad=True)
    numbers = lens.clone().requires_grad_()
    assert torch.autograd.gradcheck(distort, (where, numbers))
    image = distort(where, numbers).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, k: undistort(p, k)[0], (image, numbers))


def test_no_points_are_legal(lens):
    view = camera(lens)
    empty = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    view.project(empty)[0].sum().backward()
    assert empty.grad.shape == (0, 3) and len(view.rays(torch.zeros(0, 2, dtype=torch.long))) == 0


def test_records_carry_the_lens(lens, tmp_path):
    view = camera(lens)
    many = Camera.stack([view, view, view])
    assert many.distortion.shape == (3, len(lens)) and many[1].distortion.shape == (1, len(lens))
    assert Camera.cat([many, many[:1]]).distortion.shape == (4, len(lens))
    assert torch.utils.data.default_collate([view, view]).distortion.shape == (2, len(lens))
    assert Camera(many.world_to_camera, INTRINSICS, (48, 64), lens).distortion.shape == (3, len(lens))
    assert many.to("cpu").detach().distortion.shape == (3, len(lens)) and "distortion" in repr(many)
    with pytest.raises(ValueError, match=r"distortion is None in record"):
        Camera.cat([many, many.replace(distortion=None)])
    half = view.scaled(0.5)
    assert torch.allclose(half.project(points())[0] * 2, view.project(points())[0])
    torch.save(many, tmp_path / "camera.pt")
    again = torch.load(tmp_path / "camera.pt", weights_only=False)
    assert torch.equal(again.distortion, many.distortion)
    turned = view.orbited(torch.zeros(3, dtype=torch.float64), 20)
    assert torch.equal(turned.distortion, lens)


@table("shape", [(), (3,), (8,), (2, 5), (5, 1)])
def test_other_numbers_of_coefficients_are_refused(shape):
    with pytest.raises((ValueError, TypeError), match="distortion"):
        camera(torch.zeros(shape, dtype=torch.float64))


def test_values_that_cannot_be_are_named(lens):
    for number in (math.nan, math.inf):
        broken = lens.clone()
        broken[1] = number
        with pytest.raises(ValueError, match=r"distortion holds .*finite"):
            camera(broken)
    with pytest.raises(TypeError, match="distortion"):
        camera(torch.zeros(5, dtype=torch.long))
    folded = torch.tensor([-3.0, 0, 0, 0, 0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"Camera.rays: distortion .* has no inverse at \d+ of 3072 pixels"):
        camera(folded).rays()
    with pytest.raises(ValueError, match="no inverse"):
        camera(torch.tensor([-2.0, 0, 0, 0], dtype=torch.float64)).rays()


def test_rasterizers_refuse_distortion(lens):
    view = camera(lens).map(lambda tensor: tensor.float())
    vertices, faces = blob()
    with pytest.raises(
        hf.records.DistortedCameraError, match=r"MeshRenderer: camera has lens distortion.*undistort_image"
    ):
        hf.renderers.MeshRenderer(faces)(vertices, view)
    with pytest.raises(hf.records.DistortedCameraError, match="rasterize_gaussians: camera has lens distortion"):
        hf.ops.rasterize_gaussians(
            torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1, 3), torch.ones(1), torch.ones(1, 3), view
        )
    with pytest.raises(hf.records.DistortedCameraError, match="landmark_pose"):
        landmark_pose(vertices[:9], vertices[:9, :2], view)


def test_images_are_undistorted(lens):
    """An image of the directions that its pixels see becomes that of the pinhole camera."""
    view = camera(lens).map(lambda tensor: tensor.float())
    straight = view.replace(distortion=None)
    seen, expected = (each.rays().directions.reshape(48, 64, 3) for each in (view, straight))
    back = hf.ops.undistort.undistort_image(seen, view)
    inside = back.norm(dim=-1) > 0.5
    assert inside[10:-10, 10:-10].all()
    assert (back - expected)[10:-10, 10:-10].abs().max() < 1e-4 < (seen - expected)[10:-10, 10:-10].abs().max() / 50
    mesh = hf.Mesh(*blob())
    near = camera(lens, near=0.5).map(lambda tensor: tensor.float())
    drawn, flat = (hf.viz.draw_mesh(mesh, each) for each in (near, near.replace(distortion=None)))
    assert (drawn - flat).abs().max() > 0.2  # ray casting draws through the lens
    row = torch.arange(48.0)[:, None, None].expand(48, 64, 1).contiguous()
    assert set(hf.ops.undistort.undistort_image(row, view, "nearest").unique().tolist()) <= set(range(48))
    pixels = view.project(mesh.vertices)[0]
    expected = view.replace(distortion=None).project(mesh.vertices)[0]
    assert (hf.ops.undistort.undistort_pixels(pixels, view) - expected).abs().max() < 1e-3
    assert hf.ops.undistort.undistort_pixels(torch.tensor([[torch.nan, 3.0]]), view).isnan().all()


def test_undistorted_images_and_points_are_opencvs(lens):
    """OpenCV counts pixels from the center of the first, and interpolates at 32nds of a pixel."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV, the oracle of this test, is not installed")
    view = camera(lens, (96, 128))
    view = view.replace(intrinsics=torch.tensor([[140.0, 0, 66], [0, 144, 44], [0, 0, 1]], dtype=torch.float64))
    y, x = torch.meshgrid(torch.linspace(0, 9, 96), torch.linspace(0, 12, 128), indexing="ij")
    image = torch.stack([x.sin() * y.cos(), (0.7 * x + y).sin(), (x - y).cos()], dim=-1) / 2 + 0.5
    matrix, numbers = view.intrinsics.numpy(), lens.numpy()
    corner = matrix.copy()
    corner[:2, 2] -= 0.5
    points = np.random.default_rng(0).uniform([5, 5], [120, 90], (50, 2))[:, None]
    if len(lens) == 5:
        expected = cv2.undistort(image.numpy(), corner, numbers)
        moved = cv2.undistortPoints(points, matrix, numbers, None, matrix)
    else:
        expected = cv2.fisheye.undistortImage(image.numpy(), corner, numbers, Knew=corner)
        moved = cv2.fisheye.undistortPoints(points, matrix, numbers, None, matrix)
    ours = hf.ops.undistort.undistort_image(image.double(), view).numpy()
    inside = (slice(4, -4), slice(4, -4))
    assert np.abs(ours - expected)[inside].max() < 5e-3 < np.abs(image.numpy() - expected)[inside].max() / 10
    assert (
        np.abs(hf.ops.undistort.undistort_pixels(torch.from_numpy(points[:, 0]), view).numpy() - moved[:, 0]).max()
        < 2e-3
    )


def test_wrong_arguments_of_undistortion_are_named(lens):
    view = camera(lens).map(lambda tensor: tensor.float())
    with pytest.raises(ValueError, match="has no distortion"):
        hf.ops.undistort.undistort_image(torch.zeros(48, 64, 3), view.replace(distortion=None))
    with pytest.raises(ValueError, match="batch of 2"):
        hf.ops.undistort.undistort_image(torch.zeros(48, 64, 3), Camera.stack([view, view]))
    with pytest.raises(ValueError, match=r"image has shape \(64, 48, 3\)"):
        hf.ops.undistort.undistort_image(torch.zeros(64, 48, 3), view)
    with pytest.raises(TypeError, match="image"):
        hf.ops.undistort.undistort_image(torch.zeros(48, 64, 3, dtype=torch.uint8), view)
    with pytest.raises((ValueError, TypeError), match="mode"):  # the annotations' checker comes first in tests
        hf.ops.undistort.undistort_image(torch.zeros(48, 64, 3), view, "cubic")


def test_other_libraries_conventions_refuse_distortion(lens):
    view = camera(lens)
    for convert in (
        hf.interop.to_gsplat,
        hf.interop.cameras.to_clip,
        hf.interop.to_nerfstudio,
        hf.interop.to_pytorch3d,
    ):
        with pytest.raises(hf.records.DistortedCameraError, match=convert.__name__):
            convert(view)
