"""Cameras in the conventions of other libraries, as plain tensors: neither direction needs the library.

`headfields.Camera` is world-to-camera with OpenCV axes (x right, y down, z forward) and intrinsics in pixels, the
center of the first pixel at (0.5, 0.5). World axes are not turned: a scene with z up stays one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating
from headfields.records import Camera, Record
from headfields.records.opengl_axes import flip_y_z

__all__ = [
    "NerfstudioCameras",
    "PyTorch3DCameras",
    "SmplifyCamera",
    "from_gsplat",
    "from_nerfstudio",
    "from_opengl",
    "from_pytorch3d",
    "from_smplify",
    "from_weak_perspective",
    "refuse_skew",
    "single_camera",
    "to_clip",
    "to_gsplat",
    "to_nerfstudio",
    "to_opengl",
    "to_pytorch3d",
    "to_smplify",
]

_SKEW = 1e-4
"""Pixels of skew over the focal length, below which a lens counts as having none."""


def _flip_x_y(world_to_camera: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 4 4"]:
    """Between OpenCV's axes and PyTorch3D's (x left, y up, z forward)."""
    return world_to_camera * world_to_camera.new_tensor([-1.0, -1.0, 1.0, 1.0])[:, None]


def refuse_skew(op: str, camera: Camera) -> None:
    """Refuses a lens with distortion, or whose pixel axes are not at right angles, for conventions without either.

    Args:
        op: the function, for the message.
        camera: of any batch shape.

    Raises:
        DistortedCameraError: the camera has distortion.
        ValueError: some camera's intrinsics have an entry (0, 1) or (1, 0) that is not 0.
    """
    camera.require_pinhole(op)
    lens = camera.intrinsics.detach()
    skew = torch.maximum(lens[..., 0, 1].abs(), lens[..., 1, 0].abs()) / lens[..., 0, 0]
    if skew.numel() and float(skew.max()) > _SKEW:
        raise ValueError(
            f"{op}: camera.intrinsics has a skew of {float(skew.max()):.2g} focal lengths, which the other convention "
            "cannot hold; undistort the images, or set intrinsics[..., 0, 1] to 0"
        )


def single_camera(op: str, camera: Camera) -> Camera:
    """The one camera, without a batch axis.

    Args:
        op: the function, for the message.
        camera: one, or a batch of one.

    Raises:
        DistortedCameraError: it has distortion.
        ValueError: there are several.
    """
    if camera.world_to_camera.numel() != 16:
        raise ValueError(f"{op}: camera is a batch of {tuple(camera.world_to_camera.shape[:-2])}; index one, camera[0]")
    return camera.require_pinhole(op).map(lambda tensor: tensor.reshape(tensor.shape[-2:]))


def _lens(focal_x: Tensor, focal_y: Tensor, center_x: Tensor, center_y: Tensor) -> Float[Tensor, "*batch 3 3"]:
    focal_x, focal_y, center_x, center_y = torch.broadcast_tensors(focal_x, focal_y, center_x, center_y)
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    rows = [(focal_x, zero, center_x), (zero, focal_y, center_y), (zero, zero, one)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def to_opengl(camera: Camera) -> Float[Tensor, "*batch 4 4"]:
    """Camera-to-world matrices with OpenGL axes (x right, y up, z backward): Blender, trimesh, pyrender, glTF, NeRF.

    Args:
        camera: of any batch shape.

    Returns:
        (..., 4, 4), meters. Differentiable.

    >>> import headfields as hf
    >>> camera = hf.Camera.look_at((0, 0, 1.5), (0, 0, 0), size=(48, 64), fov=20)
    >>> hf.interop.to_opengl(camera)[:3, 3].tolist()  # where it stands
    [0.0, 0.0, 1.5]
    """
    return flip_y_z(torch.linalg.inv(camera.world_to_camera))


def from_opengl(
    camera_to_world: Float[Tensor, "*batch 4 4"], intrinsics: Float[Tensor, "*batch 3 3"], size: tuple[int, int]
) -> Camera:
    """A `Camera` of camera-to-world matrices with OpenGL axes; see `to_opengl`.

    Args:
        camera_to_world: (..., 4, 4), rigid, meters.
        intrinsics: (..., 3, 3) pixels, the center of the first pixel at (0.5, 0.5), or one (3, 3) for all.
        size: (height, width) in pixels.

    Raises:
        TypeError, ValueError: as `Camera`.

    Differentiable.
    """
    check_floating("from_opengl", "camera_to_world", camera_to_world)
    return Camera(torch.linalg.inv(flip_y_z(camera_to_world)), intrinsics, size)


def to_clip(camera: Camera, near: float | int = 0.01, far: float | int = 100.0) -> Float[Tensor, "*batch 4 4"]:
    """OpenGL's matrices from the world to clip space, as nvdiffrast and any rasterizer take them.

    Of a point's (x, y, z, w) there, x / w and y / w are -1 to 1 from left to right and from the image's bottom to its
    top; z / w is -1 at `near` and 1 at `far`. An image whose first row is its lowest (nvdiffrast's) is `image.flip(0)`
    of one of this library. Skew is kept.

    Args:
        camera: of any batch shape.
        near, far: distances along the optical axis, meters.

    Returns:
        (..., 4, 4), for column vectors. Differentiable.

    Raises:
        ValueError: near is not positive, or far not beyond it.

    >>> import torch, headfields as hf
    >>> camera = hf.Camera.look_at((0, 0, 1.0), (0, 0, 0), size=(100, 100), focal=100)
    >>> point = hf.interop.cameras.to_clip(camera) @ torch.tensor([0.25, 0.5, 0.0, 1.0])
    >>> (point / point[3])[:2].tolist()  # a quarter of the image to the right, at the top
    [0.5, 1.0]
    """
    if not 0 < near < far < float("inf"):
        raise ValueError(f"to_clip: near is {near} and far {far}; expected 0 < near < far, in meters")
    height, width = camera.size
    lens = camera.require_pinhole("to_clip").intrinsics.to(camera.world_to_camera)
    zero, one = torch.zeros_like(lens[..., 0, 0]), torch.ones_like(lens[..., 0, 0])
    depth = (far + near) / (far - near)
    rows = [
        (2 / width * lens[..., 0, 0], 2 / width * lens[..., 0, 1], 2 / width * lens[..., 0, 2] - 1, zero),
        (-2 / height * lens[..., 1, 0], -2 / height * lens[..., 1, 1], 1 - 2 / height * lens[..., 1, 2], zero),
        (zero, zero, depth * one, -2 * far * near / (far - near) * one),
        (zero, zero, one, zero),
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2) @ camera.world_to_camera


def to_gsplat(camera: Camera) -> tuple[Float[Tensor, "c 4 4"], Float[Tensor, "c 3 3"], int, int]:
    """The arguments viewmats, Ks, width and height of gsplat.rasterization, which has this library's convention.

    Args:
        camera: C cameras, or one without a batch axis, which becomes C = 1.

    Returns:
        (C, 4, 4) world-to-camera with OpenCV axes, (C, 3, 3) pixels, and the two sides in pixels. Differentiable.
    """
    pose = camera.require_pinhole("to_gsplat").world_to_camera.reshape(-1, 4, 4)
    lens = camera.intrinsics.reshape(-1, 3, 3)
    return pose, lens, camera.size[1], camera.size[0]


def from_gsplat(viewmats: Float[Tensor, "*c 4 4"], Ks: Float[Tensor, "*c 3 3"], width: int, height: int) -> Camera:
    """A `Camera` of the arguments of `gsplat.rasterization`.

    Args:
        viewmats: (C, 4, 4) world-to-camera, OpenCV axes.
        Ks: (C, 3, 3) intrinsics, pixels.
        width, height: of the images, pixels.

    Raises:
        TypeError, ValueError: as `Camera`.
    """
    return Camera(viewmats, Ks, (height, width))


@dataclass(frozen=True)
class NerfstudioCameras(Record):
    """The arguments of `nerfstudio.cameras.cameras.Cameras` for N pinhole cameras.

    Attributes:
        camera_to_worlds: (N, 3, 4) OpenGL axes.
        fx, fy, cx, cy: (N, 1) pixels, the center of the first pixel at (0.5, 0.5).
        width, height: (N, 1) pixels.
    """

    camera_to_worlds: Float[Tensor, "n 3 4"]
    fx: Float[Tensor, "n 1"]
    fy: Float[Tensor, "n 1"]
    cx: Float[Tensor, "n 1"]
    cy: Float[Tensor, "n 1"]
    width: Int[Tensor, "n 1"]
    height: Int[Tensor, "n 1"]


def to_nerfstudio(camera: Camera) -> NerfstudioCameras:
    """The arguments of nerfstudio's `Cameras`: `Cameras(**vars(to_nerfstudio(camera)))`.

    The world stays as it is, y up and in meters; nerfstudio's data parsers turn it to z up, center and rescale it, and
    keep what they did in `dataparser_transforms.json`.

    Args:
        camera: N cameras, or one without a batch axis.

    Raises:
        ValueError: the lens has skew.

    Differentiable.
    """
    refuse_skew("to_nerfstudio", camera)
    lens = camera.intrinsics.reshape(-1, 3, 3)
    pose = to_opengl(camera).reshape(-1, 4, 4)[:, :3]
    height, width = (torch.full((len(pose), 1), side, device=pose.device) for side in camera.size)
    return NerfstudioCameras(
        pose, lens[:, :1, 0], lens[:, 1:2, 1], lens[:, :1, 2], lens[:, 1:2, 2], width=width, height=height
    )


def from_nerfstudio(
    cameras: NerfstudioCameras,
    transform: Float[Tensor, "3 4"] | None = None,
    scale: float | int = 1.0,
) -> Camera:
    """A `Camera` of nerfstudio's `Cameras` of one size, or of anything with its attributes.

    Args:
        cameras: N pinhole cameras without distortion.
        transform: (3, 4) `transform` of `dataparser_transforms.json`, which is undone. None: the world stays turned.
        scale: its `scale`, undone too.

    Raises:
        ValueError: the sizes of the images differ, or the scale is not positive.

    Differentiable.
    """
    sizes = torch.cat([cameras.height.reshape(-1, 1), cameras.width.reshape(-1, 1)], dim=1).unique(dim=0)
    if len(sizes) != 1:
        raise ValueError(f"from_nerfstudio: images have {len(sizes)} sizes; a Camera has one: pass the cameras of each")
    if not 0 < scale < float("inf"):
        raise ValueError(f"from_nerfstudio: scale is {scale}; expected a positive number")
    pose = torch.nn.functional.pad(cameras.camera_to_worlds, (0, 0, 0, 1))
    pose = torch.cat([pose[..., :3, :], pose.new_tensor([0.0, 0, 0, 1]).expand(*pose.shape[:-2], 1, 4)], dim=-2)
    if scale != 1.0:
        pose = torch.cat([pose[..., :3], torch.cat([pose[..., :3, 3:] / scale, pose[..., 3:, 3:]], dim=-2)], dim=-1)
    if transform is not None:
        last = transform.new_tensor([[0.0, 0, 0, 1]])
        pose = torch.linalg.inv(torch.cat([transform, last])).to(pose) @ pose
    lens = _lens(cameras.fx[..., 0], cameras.fy[..., 0], cameras.cx[..., 0], cameras.cy[..., 0])
    height, width = sizes[0].tolist()
    return from_opengl(pose, lens.to(pose), (height, width))


@dataclass(frozen=True)
class PyTorch3DCameras(Record):
    """The arguments of `pytorch3d.renderer.PerspectiveCameras` in screen space (`in_ndc=False`).

    Attributes:
        R: (N, 3, 3) rotation that acts on row vectors, x left, y up, z forward.
        T: (N, 3) translation, meters.
        focal_length: (N, 2) pixels.
        principal_point: (N, 2) pixels, x right, y down.
        image_size: (N, 2) height and width.
    """

    R: Float[Tensor, "n 3 3"]
    T: Float[Tensor, "n 3"]
    focal_length: Float[Tensor, "n 2"]
    principal_point: Float[Tensor, "n 2"]
    image_size: Float[Tensor, "n 2"]


def to_pytorch3d(camera: Camera) -> PyTorch3DCameras:
    """The arguments of PyTorch3D's `PerspectiveCameras`; `headfields.interop.pytorch3d.to_camera` makes the object.

    Args:
        camera: N cameras, or one without a batch axis.

    Raises:
        ValueError: the lens has skew.

    Differentiable. Source: PyTorch3D, docs/notes/cameras.md (axes x left, y up; rows).

    >>> import torch, headfields as hf
    >>> camera = hf.Camera.look_at((0, 0, 1.5), (0, 0, 0), size=(48, 64), focal=100)
    >>> other = hf.interop.to_pytorch3d(camera)
    >>> local = torch.tensor([0.1, 0.0, 0.0]) @ other.R[0] + other.T[0]
    >>> [round(x, 3) + 0.0 for x in local.tolist()]  # x is left, z is forward
    [-0.1, 0.0, 1.5]
    """
    refuse_skew("to_pytorch3d", camera)
    pose, lens = camera.world_to_camera.reshape(-1, 4, 4), camera.intrinsics.reshape(-1, 3, 3)
    pose = _flip_x_y(pose)
    focal = torch.stack([lens[:, 0, 0], lens[:, 1, 1]], dim=-1)
    size = lens.new_tensor(camera.size).expand(len(pose), 2)
    return PyTorch3DCameras(pose[:, :3, :3].transpose(1, 2), pose[:, :3, 3], focal, lens[:, :2, 2], size)


def from_pytorch3d(cameras: PyTorch3DCameras, in_ndc: bool = False) -> Camera:
    """A `Camera` of PyTorch3D's parameters, or of anything with their names.

    Args:
        cameras: N cameras of one image size.
        in_ndc: whether focal length and principal point are in PyTorch3D's normalized coordinates, in which the shorter
            side reaches from -1 to 1, x left and y up.

    Raises:
        ValueError: image sizes differ.

    Differentiable.
    """
    sizes = cameras.image_size.reshape(-1, 2).unique(dim=0)
    if len(sizes) != 1:
        raise ValueError(f"from_pytorch3d: images have {len(sizes)} sizes; a Camera has one: pass the cameras of each")
    focal, center = cameras.focal_length, cameras.principal_point
    height, width = (round(side) for side in sizes[0].tolist())
    if focal.ndim == 1:  # one focal length for both axes
        focal = focal[:, None].expand(-1, 2)
    if in_ndc:
        half = min(height, width) / 2
        focal = focal * half
        center = center.new_tensor([width / 2, height / 2]) - center * half
    count = len(cameras.R)
    pose = torch.cat([cameras.R.transpose(1, 2), cameras.T[:, :, None]], dim=-1)
    pose = torch.cat([pose, pose.new_tensor([0.0, 0, 0, 1]).expand(count, 1, 4)], dim=1)
    lens = _lens(focal[:, 0], focal[:, 1], center[:, 0], center[:, 1]).expand(count, 3, 3)
    return Camera(_flip_x_y(pose), lens.to(pose), (height, width))


@dataclass(frozen=True)
class SmplifyCamera(Record):
    """The camera of SMPLify-X and its followers, which fit smplx models to images.

    Attributes:
        rotation: (N, 3, 3) world to camera, OpenCV axes.
        translation: (N, 3) meters.
        focal: (N, 2) pixels.
        center: (N, 2) pixels.
    """

    rotation: Float[Tensor, "n 3 3"]
    translation: Float[Tensor, "n 3"]
    focal: Float[Tensor, "n 2"]
    center: Float[Tensor, "n 2"]


def to_smplify(camera: Camera) -> SmplifyCamera:
    """Rotation, translation, focal length and center of the camera that SMPLify-X fits smplx models with.

    Axes are OpenCV's. Its bodies turn by `global_orient` to stand upright before a camera without rotation, where this
    library keeps y up in the world and has the half turn in the camera.

    Raises:
        ValueError: the lens has skew.

    Differentiable.
    """
    refuse_skew("to_smplify", camera)
    pose, lens = camera.world_to_camera.reshape(-1, 4, 4), camera.intrinsics.reshape(-1, 3, 3)
    focal = torch.stack([lens[:, 0, 0], lens[:, 1, 1]], dim=-1)
    return SmplifyCamera(pose[:, :3, :3], pose[:, :3, 3], focal, lens[:, :2, 2])


def from_smplify(camera: SmplifyCamera, size: tuple[int, int]) -> Camera:
    """A `Camera` of one of SMPLify-X.

    Args:
        camera: N cameras.
        size: (height, width) in pixels.

    Differentiable.
    """
    pose = torch.cat([camera.rotation, camera.translation[:, :, None]], dim=-1)
    pose = torch.cat([pose, pose.new_tensor([0.0, 0, 0, 1]).expand(len(pose), 1, 4)], dim=1)
    focal, center = camera.focal, camera.center
    return Camera(pose, _lens(focal[:, 0], focal[:, 1], center[:, 0], center[:, 1]).to(pose), size)


def from_weak_perspective(
    parameters: Float[Tensor, "n 3"], size: tuple[int, int], focal: float | int = 5000.0
) -> Camera:
    """The perspective camera that stands for a weak-perspective one, as regressors of FLAME (DECA, EMOCA) predict it.

    They give a scale and a shift of an orthographic image whose sides reach from -1 to 1, of a model with y up:
    s (x + t). A long lens at the distance 2 f / (s · side) shows nearly the same: exactly so at the depth of the
    origin, and elsewhere within the depth's share of that distance.

    Args:
        parameters: (N, 3) scale, shift to the right and shift upward, in the model's units (meters).
        size: (height, width) in pixels, square.
        focal: pixels; 5000 is the usual choice.

    Returns:
        N cameras that look at the model from +z, y up.

    Raises:
        ValueError: the size is not square, a scale is not positive, or the focal length is not.

    Differentiable.
    """
    height, width = size
    if height != width:
        raise ValueError(f"from_weak_perspective: size is {size}; these models see square crops: pass the crop's side")
    if not 0 < focal < float("inf"):
        raise ValueError(f"from_weak_perspective: focal is {focal}; expected a positive number of pixels")
    scale, right, up = parameters.unbind(-1)
    if bool((scale.detach() <= 0).any()):
        raise ValueError(f"from_weak_perspective: the smallest scale is {float(scale.min()):.3g}; expected above 0")
    shift = torch.stack([right, -up, 2 * focal / (scale * width)], dim=-1)
    turn = flip_y_z(torch.eye(3).to(parameters)).expand(len(parameters), 3, 3)
    lens = _lens(*(parameters.new_tensor(value) for value in (focal, focal, width / 2, height / 2)))
    center = lens[:2, 2].expand(len(parameters), 2)
    return from_smplify(SmplifyCamera(turn, shift, center.new_full((len(parameters), 2), focal), center), size)
