"""Cameras in other conventions against what those projects' documents define, written out by hand."""

from types import SimpleNamespace

import pytest
import torch

import headfields as hf
from headfields.interop import cameras
from headfields.interop.cameras import PyTorch3DCameras, SmplifyCamera

SIZE = (40, 60)


def tilted(count: int = 3, dtype: torch.dtype = torch.float64) -> hf.Camera:
    """Cameras from several sides, with two focal lengths and an off-center principal point."""
    eye = torch.tensor([[0.3, 0.2, 1.2], [-0.9, 0.1, 0.7], [0.2, -0.6, 1.0]], dtype=dtype)[:count]
    camera = hf.Camera.look_at(eye, torch.zeros_like(eye), size=SIZE, focal=80)
    lens = torch.tensor([[80.0, 0, 33.5], [0, 76.0, 17.25], [0, 0, 1]], dtype=dtype)
    return camera.replace(intrinsics=lens.expand(count, 3, 3))


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    return 0.15 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def project(camera: hf.Camera, points: torch.Tensor) -> torch.Tensor:
    """Pixels (C, N, 2), or (N, 2) of one camera."""
    return camera.project(points.expand(*camera.world_to_camera.shape[:-2], *points.shape[-2:]))[0]


def same(first: hf.Camera, second: hf.Camera, points: torch.Tensor) -> bool:
    pixels = [project(camera, points) for camera in (first, second)]
    return first.size == second.size and bool((pixels[0] - pixels[1]).abs().max() < 1e-6)


def test_opengl_axes_there_and_back(points):
    camera = tilted()
    matrix = hf.interop.to_opengl(camera)
    # a point along the camera's -z axis is on the optical axis, and its y axis is up
    ahead = matrix @ torch.tensor([0.0, 0.0, -1.0, 1.0], dtype=torch.float64)
    pixels, depth = camera.project(ahead[:, None, :3])
    assert torch.allclose(pixels[:, 0], camera.intrinsics[:, :2, 2]) and torch.allclose(depth, torch.ones_like(depth))
    assert bool((matrix[:, 1, 1] > 0).all())  # upright cameras in a world with y up
    assert same(hf.interop.from_opengl(matrix, camera.intrinsics, SIZE), camera, points)


def test_gsplat_has_this_convention(points):
    camera = tilted()
    views, lens, width, height = hf.interop.to_gsplat(camera)
    local = points @ views[:, :3, :3].transpose(1, 2) + views[:, None, :3, 3]  # gsplat's world_to_cam and pinhole
    pixels = local @ lens.transpose(1, 2)
    assert torch.allclose(pixels[..., :2] / pixels[..., 2:], project(camera, points))
    assert same(hf.interop.from_gsplat(views, lens, width, height), camera, points) and (height, width) == SIZE
    assert hf.interop.to_gsplat(camera[0])[0].shape == (1, 4, 4)


def nerfstudio_ray(cameras: cameras.NerfstudioCameras, index: int, y: float, x: float) -> torch.Tensor:
    """A ray's direction as nerfstudio generates it: (x - cx) / fx, -(y - cy) / fy, -1, turned by the pose."""
    local = torch.stack([(x - cameras.cx[index, 0]) / cameras.fx[index, 0],
                         -(y - cameras.cy[index, 0]) / cameras.fy[index, 0], cameras.fx.new_tensor(-1.0)])  # fmt: skip
    return torch.nn.functional.normalize(cameras.camera_to_worlds[index, :, :3] @ local, dim=-1)


def test_nerfstudio_rays_and_undoing_its_normalization(points):
    camera = tilted()
    cameras = hf.interop.to_nerfstudio(camera)
    ours = camera.rays(torch.tensor([[7, 31]]), torch.tensor([2])).directions[0]
    assert torch.allclose(nerfstudio_ray(cameras, 2, 7.5, 31.5), ours)
    assert same(hf.interop.from_nerfstudio(cameras), camera, points)
    # what the data parser does: turn and shift, then rescale
    turn = hf.ops.rotation_matrices(torch.tensor([0.3, -1.1, 0.4], dtype=torch.float64))
    transform = torch.cat([turn, torch.tensor([[0.1], [0.2], [-0.3]], dtype=torch.float64)], dim=1)
    moved = torch.nn.functional.pad(cameras.camera_to_worlds, (0, 0, 0, 1))
    moved[:, 3, 3] = 1
    moved = (transform @ moved)[:, :3]
    moved = torch.cat([moved[..., :3], 2.5 * moved[..., 3:]], dim=-1)
    back = hf.interop.from_nerfstudio(cameras.replace(camera_to_worlds=moved), transform, 2.5)
    assert same(back, camera, points)
    two = cameras.replace(width=cameras.width + torch.tensor([[0], [1], [0]]))
    with pytest.raises(ValueError, match="2 sizes"):
        hf.interop.from_nerfstudio(two)
    with pytest.raises(ValueError, match="scale is 0"):
        hf.interop.from_nerfstudio(cameras, scale=0)


def test_pytorch3d_screen_and_ndc(points):
    camera = tilted()
    cameras = hf.interop.to_pytorch3d(camera)
    local = points @ cameras.R + cameras.T[:, None]  # rows
    # PyTorch3D's notes: normalized x is left and y up, the shorter side reaches from -1 to 1, (0, 0) is the center
    half, size = min(SIZE) / 2, torch.tensor([SIZE[1], SIZE[0]], dtype=torch.float64)
    focal, center = cameras.focal_length / half, -(cameras.principal_point - size / 2) / half
    ndc = focal[:, None] * local[..., :2] / local[..., 2:] + center[:, None]
    screen = size / 2 - ndc * half
    assert torch.allclose(screen, project(camera, points))
    assert same(hf.interop.from_pytorch3d(cameras), camera, points)
    normalized = PyTorch3DCameras(cameras.R, cameras.T, focal, center, cameras.image_size)
    assert same(hf.interop.from_pytorch3d(normalized, in_ndc=True), camera, points)
    stand_in = SimpleNamespace(**vars(normalized), in_ndc=lambda: True)  # what PerspectiveCameras offers
    assert same(hf.interop.pytorch3d.from_camera(stand_in), camera, points)
    with pytest.raises(TypeError, match="without an image_size"):
        hf.interop.pytorch3d.from_camera(SimpleNamespace(image_size=None))


def test_smplify_and_weak_perspective(points):
    camera = tilted()
    fitted = hf.interop.cameras.to_smplify(camera)
    local = points @ fitted.rotation.transpose(1, 2) + fitted.translation[:, None]
    pixels = fitted.focal[:, None] * local[..., :2] / local[..., 2:] + fitted.center[:, None]
    assert torch.allclose(pixels, project(camera, points))
    assert isinstance(fitted, SmplifyCamera) and same(hf.interop.cameras.from_smplify(fitted, SIZE), camera, points)
    parameters = torch.tensor([[8.0, 0.01, -0.02], [6.0, 0.0, 0.03]], dtype=torch.float64)
    weak = hf.interop.cameras.from_weak_perspective(parameters, (224, 224), focal=50000.0)
    flat = parameters[:, :1, None] * (points[None, :, :2] + parameters[:, None, 1:])  # DECA's orthographic projection
    expected = 112 + 112 * flat * torch.tensor([1.0, -1.0])
    depth = points[:, 2].abs()[:, None] / weak.world_to_camera[:, None, 2:3, 3]  # of the distance, 1 % at most
    assert depth.max() < 0.02 and bool(
        ((project(weak, points) - expected).abs() <= 1.03 * depth * (expected - 112).abs() + 1e-9).all()
    )
    middle = project(weak, torch.zeros(1, 3, dtype=torch.float64))[:, 0]
    origin = 112 + 112 * parameters[:, :1] * parameters[:, 1:] * torch.tensor([1.0, -1.0])
    assert torch.allclose(middle, origin)
    for wrong, size, reason in ((parameters, (224, 200), "square"), (-parameters, (224, 224), "above 0")):
        with pytest.raises(ValueError, match=reason):
            hf.interop.cameras.from_weak_perspective(wrong, size)
    with pytest.raises(ValueError, match="focal is nan"):
        hf.interop.cameras.from_weak_perspective(parameters, (224, 224), float("nan"))


def test_trimesh_cameras(points):
    import trimesh

    camera = hf.Camera.orbit((0, 0, 0), 1.2, yaw=30, pitch=20, size=SIZE, focal=90)
    view, place = hf.interop.trimesh.to_camera(camera)
    scene = trimesh.Scene(camera=view, camera_transform=place)
    local = points @ torch.linalg.inv(torch.tensor(scene.camera_transform))[:3, :3].T
    local = local + torch.linalg.inv(torch.tensor(scene.camera_transform))[:3, 3]
    homogeneous = local * torch.tensor([1.0, -1.0, -1.0]) @ torch.from_numpy(scene.camera.K).double().T
    pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    assert (pixels - project(camera, points.float())).abs().max() < 1e-3 and tuple(view.resolution) == (60, 40)
    back = hf.interop.trimesh.from_camera(view, place)
    assert (project(back, points.float()) - project(camera, points.float())).abs().max() < 1e-3
    with pytest.raises(ValueError, match="principal point is"):
        hf.interop.trimesh.to_camera(tilted()[0])
    with pytest.raises(ValueError, match="index one"):
        hf.interop.trimesh.to_camera(tilted())


def test_clip_space_of_rasterizers(points):
    camera = tilted()
    camera = camera.replace(intrinsics=camera.intrinsics + torch.tensor([[0.0, 2, 0], [0, 0, 0], [0, 0, 0]]))
    matrix = hf.interop.cameras.to_clip(camera, near=0.5, far=2.0)
    clip = torch.cat([points, torch.ones_like(points[:, :1])], dim=1) @ matrix.transpose(1, 2)
    ndc = clip[..., :3] / clip[..., 3:]
    pixels = torch.stack([(ndc[..., 0] + 1) * SIZE[1] / 2, (1 - ndc[..., 1]) * SIZE[0] / 2], dim=-1)
    assert torch.allclose(pixels, project(camera, points)) and bool((clip[..., 3] > 0).all())
    ends = torch.tensor([[0.0, 0, 0.5, 1], [0, 0, 2.0, 1]], dtype=torch.float64)
    here = camera.replace(world_to_camera=torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
    depth = ends @ hf.interop.cameras.to_clip(here, 0.5, 2.0)[0].T
    assert torch.allclose(depth[:, 2] / depth[:, 3], torch.tensor([-1.0, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="near is 2"):
        hf.interop.cameras.to_clip(camera, 2, 1)


def test_skew_is_refused_by_name():
    camera = tilted()
    skewed = camera.replace(intrinsics=camera.intrinsics + torch.tensor([[0.0, 2, 0], [0, 0, 0], [0, 0, 0]]))
    for convert in (hf.interop.to_nerfstudio, hf.interop.to_pytorch3d, hf.interop.cameras.to_smplify):
        with pytest.raises(ValueError, match=r"skew of 0\.02"):
            convert(skewed)


def test_no_camera_is_legal():
    none = tilted(3)[:0]
    assert hf.interop.to_nerfstudio(none).camera_to_worlds.shape == (0, 3, 4)
    assert len(hf.interop.cameras.from_smplify(hf.interop.cameras.to_smplify(none), SIZE)) == 0
    assert len(hf.interop.to_pytorch3d(none).T) == 0


def test_conventions_are_differentiable(points):
    camera = tilted()
    pose = camera.world_to_camera.clone().requires_grad_()
    back = hf.interop.from_pytorch3d(hf.interop.to_pytorch3d(camera.replace(world_to_camera=pose)))
    project(back, points).sum().backward()
    assert pose.grad is not None and bool(pose.grad[:, :3].abs().sum() > 0)


def test_missing_libraries_say_how_to_get_them(monkeypatch):
    import importlib

    def missing(name: str) -> None:
        raise ImportError(f"This is a placeholder for {name}")  # as PyPI's kaolin does

    cameras = tilted()
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"to_camera needs kaolin.*placeholder for kaolin.*nvidia-kaolin\.s3"):
        hf.interop.kaolin.to_camera(cameras)
    with pytest.raises(ModuleNotFoundError, match="pip install open3d"):
        hf.interop.open3d.to_camera(cameras[0])
    with pytest.raises(ModuleNotFoundError, match=r"facebookresearch/pytorch3d"):
        hf.interop.pytorch3d.to_camera(cameras)
