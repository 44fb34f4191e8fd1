"""The records that parts exchange: frozen dataclasses of tensors.

One convention inside the library: meters, radians, float32; y up, face toward +z; cameras are world-to-camera with
OpenCV axes (x right, y down, z forward) and pixel intrinsics. Readers convert on the way in.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Int64, Integer
from torch import Tensor

R = TypeVar("R", bound="Record")


class Record:
    """Base class of records: `.to(...)`, `.detach()`, `.replace(...)`, and indexing along the leading axis."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def map(self: R, function: Any) -> R:
        """A copy with `function` applied to every tensor, in mappings and nested records too."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, Record):
                return value.map(function)
            if isinstance(value, Mapping):
                return {key: apply(entry) for key, entry in value.items()}
            return value

        return dataclasses.replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def to(self: R, device: torch.device | str) -> R:
        """A copy on the given device."""
        return self.map(lambda tensor: tensor.to(device))

    def detach(self: R) -> R:
        """A copy detached from the autograd graph."""
        return self.map(lambda tensor: tensor.detach())

    def replace(self: R, **changes: Any) -> R:
        """A copy with some fields changed; the shape checks run again."""
        return dataclasses.replace(self, **changes)

    def require(self, *names: str) -> list[Tensor]:
        """The tensors of the optional fields `names`, which the caller requires.

        Raises:
            ValueError: one of them is None.
        """
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"{type(self).__name__}: {name} is None; the part that gave it does not fill it")
        return [getattr(self, name) for name in names]

    def __getitem__(self: R, index: Any) -> R:
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        if isinstance(index, Tensor) and index.ndim == 1 and index.dtype == torch.long:
            return self.map(lambda tensor: tensor.index_select(0, index))  # three times as fast, backward too
        return self.map(lambda tensor: tensor[index])

    def _check(self, **patterns: tuple[str, Tensor | None]) -> None:
        """Each pattern is space-separated axis names or sizes; equal names must have equal sizes across fields."""
        sizes: dict[str, tuple[int, str]] = {}
        for name, (pattern, tensor) in patterns.items():
            if tensor is None:
                continue
            axes = pattern.split()
            record = type(self).__name__
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{record}: {name} is a {type(tensor).__name__}; pass a torch.Tensor")
            shape = tuple(tensor.shape)
            if len(shape) != len(axes):
                raise ValueError(f"{record}: {name} has shape {shape}; expected ({', '.join(axes)})")
            for axis, size in zip(axes, shape, strict=True):
                if axis.isdigit():
                    if size != int(axis):
                        raise ValueError(f"{record}: {name} has shape {shape}; expected ({', '.join(axes)})")
                elif sizes.setdefault(axis, (size, name))[0] != size:
                    raise ValueError(
                        f"{record}: {name} has shape {shape}, so {axis} = {size}, "
                        f"but {sizes[axis][1]} has {axis} = {sizes[axis][0]}; the two must agree"
                    )


@dataclass(frozen=True)
class HeadState(Record):
    """B frames of one head: the posed mesh and the parameters that drive it.

    >>> import torch
    >>> state = HeadState(torch.zeros(2, 5, 3), expression=torch.zeros(2, 10))
    >>> len(state), state[1].expression.shape
    (2, torch.Size([1, 10]))

    Attributes:
        vertices: (B, V, 3) posed vertices, meters, head frame of the capture.
        expression: (B, E) expression coefficients.
        pose: (B, J, 3) axis-angle joint rotations, radians.
        joint_transforms: (B, J, 4, 4) rest-to-posed transforms of the joints.
        codes: named latents, each (B, C).
        frame_id: (B,) the index of each frame in its capture, for latent tables; heads and retargeting leave it out.
        identity, sequence: (B,) the number of each frame's person and recording, for latent tables over several.
    """

    vertices: Float[Tensor, "b v 3"]
    expression: Float[Tensor, "b e"] | None = None
    pose: Float[Tensor, "b j 3"] | None = None
    joint_transforms: Float[Tensor, "b j 4 4"] | None = None
    codes: Mapping[str, Float[Tensor, "b c"]] = field(default_factory=dict)
    frame_id: Int64[Tensor, " b"] | None = None
    identity: Int64[Tensor, " b"] | None = None
    sequence: Int64[Tensor, " b"] | None = None

    def __post_init__(self) -> None:
        self._check(
            vertices=("B V 3", self.vertices),
            expression=("B E", self.expression),
            pose=("B J 3", self.pose),
            joint_transforms=("B J 4 4", self.joint_transforms),
            frame_id=("B", self.frame_id),
            identity=("B", self.identity),
            sequence=("B", self.sequence),
            **{f"codes[{key!r}]": (f"B {key}_width", value) for key, value in self.codes.items()},
        )

    def __len__(self) -> int:
        return self.vertices.shape[0]

    def need(self, part: str, name: str, width: int | None = None) -> Tensor:
        """The field (or code) called `name`.

        Args:
            part: the name of the part that needs it, for the message.
            name: of the field, or the code.
            width: of the code, for the message, if the part knows it.

        Raises:
            ValueError: the state lacks it; the message names the part that needs it and the source of the field.
        """
        own = [f.name for f in fields(self) if f.name != "codes"]
        value = self.codes[name] if name in self.codes else getattr(self, name) if name in own else None
        if value is None:
            have = [field for field in own if getattr(self, field) is not None]
            source = (
                "A head model (headfields.heads) or a capture (headfields.data.load_capture) fills expression, pose "
                "and joint_transforms; a capture fills frame_id"
                if name in own
                else f"It is a code: a table fills it, headfields.Avatar(..., codes={{{name!r}: "
                f"headfields.networks.LatentTable(len(capture), {width or 'width'})}}), or the state carries it, "
                f"state.replace(codes={{{name!r}: ...}}), (B, {width or 'width'})"
            )
            raise ValueError(f"{part} needs {name!r} of the HeadState, which has {have + sorted(self.codes)}. {source}")
        return value


@dataclass(frozen=True)
class Camera(Record):
    """One pinhole camera, or a batch of them.

    Attributes:
        world_to_camera: (..., 4, 4) rigid transform, OpenCV axes (x right, y down, z forward), meters.
        intrinsics: (..., 3, 3) in pixels; the center of the first pixel is (0.5, 0.5).
        size: (height, width) in pixels.
    """

    world_to_camera: Float[Tensor, "*batch 4 4"]
    intrinsics: Float[Tensor, "*batch 3 3"]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        for name, tensor, side in (("world_to_camera", self.world_to_camera, 4), ("intrinsics", self.intrinsics, 3)):
            if tensor.shape[-2:] != (side, side):
                raise ValueError(f"Camera: {name} has shape {tuple(tensor.shape)}; expected (..., {side}, {side})")

    def __len__(self) -> int:
        return self.world_to_camera.shape[0]

    @property
    def center(self) -> Float[Tensor, "*batch 3"]:
        """Camera center in world space."""
        rotation, translation = self.world_to_camera[..., :3, :3], self.world_to_camera[..., :3, 3]
        return -(rotation.transpose(-1, -2) @ translation[..., None])[..., 0]

    def project(
        self, points: Float[Tensor, "*batch n 3"]
    ) -> tuple[Float[Tensor, "*batch n 2"], Float[Tensor, "*batch n"]]:
        """World points to pixels (x right, y down) and depth along the optical axis, in meters.

        >>> import torch
        >>> camera = Camera(torch.eye(4), torch.tensor([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]), (48, 64))
        >>> camera.project(torch.tensor([[0.1, 0.0, 2.0]]))
        (tensor([[37., 24.]]), tensor([2.]))
        """
        local = points @ self.world_to_camera[..., :3, :3].transpose(-1, -2) + self.world_to_camera[..., None, :3, 3]
        image = local @ self.intrinsics.transpose(-1, -2)
        return image[..., :2] / image[..., 2:], local[..., 2]

    def scaled(self, factor: float) -> "Camera":
        """The camera of the same image, resized by `factor`."""
        height, width = round(self.size[0] * factor), round(self.size[1] * factor)
        scale = torch.tensor([width / self.size[1], height / self.size[0], 1.0]).to(self.intrinsics)
        return Camera(self.world_to_camera, self.intrinsics * scale[:, None], (height, width))

    def rays(self, pixels: Int[Tensor, "n 2"] | None = None, frame: Int[Tensor, " n"] | None = None) -> "Rays":
        """Rays through pixel centers.

        >>> import torch
        >>> camera = Camera(torch.eye(4), torch.tensor([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]), (48, 64))
        >>> len(camera.rays()), camera.rays(torch.tensor([[24, 32]])).directions.round(decimals=3)
        (3072, tensor([[0.0050, 0.0050, 1.0000]]))

        Args:
            pixels: (N, 2) integer (row, column); all of the image in row-major order if None (one camera only).
            frame: (N,) each ray's camera of the batch and row of the state; 0 if None.

        Returns:
            Rays with unit directions in world space.
        """
        device = self.world_to_camera.device
        pose = self.world_to_camera.reshape(-1, 4, 4)
        intrinsics = self.intrinsics.reshape(-1, 3, 3).expand(pose.shape[0], 3, 3)
        if pixels is None:
            if pose.shape[0] != 1:
                raise ValueError(f"Camera.rays: pixels is None with {pose.shape[0]} cameras; index one, camera[0]")
            height, width = self.size
            grid = torch.meshgrid(
                torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
            )
            pixels = torch.stack(grid, dim=-1).reshape(-1, 2)
        if frame is None:
            frame = torch.zeros(pixels.shape[0], dtype=torch.long, device=device)
        center = pixels.flip(-1).to(pose.dtype) + 0.5
        homogeneous = torch.cat([center, torch.ones_like(center[:, :1])], dim=-1)
        inverse_intrinsics = torch.linalg.inv(intrinsics)
        local = (inverse_intrinsics[frame] @ homogeneous[..., None])[..., 0]
        camera_to_world = pose[:, :3, :3].transpose(-1, -2)
        directions = (camera_to_world[frame] @ local[..., None])[..., 0]
        centers = -(camera_to_world @ pose[:, :3, 3:])[..., 0]
        directions = torch.nn.functional.normalize(directions, dim=-1)
        return Rays(centers[frame], directions, frame, pose[:, :3, :3][frame])


@dataclass(frozen=True)
class Rays(Record):
    """N rays.

    Attributes:
        origins: (N, 3) in world space, meters.
        directions: (N, 3) unit directions in world space.
        frame: (N,) the row of the state that each ray sees.
        camera_rotation: (N, 3, 3) world to camera, OpenCV axes, for light that is fixed to the camera; `Camera.rays`
            fills it.
    """

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    frame: Int[Tensor, " n"]
    camera_rotation: Float[Tensor, "n 3 3"] | None = None

    def __post_init__(self) -> None:
        self._check(
            origins=("N 3", self.origins), directions=("N 3", self.directions), frame=("N", self.frame),
            camera_rotation=("N 3 3", self.camera_rotation),
        )  # fmt: skip

    def __len__(self) -> int:
        return self.origins.shape[0]


@dataclass(frozen=True)
class Canonical(Record):
    """M points in canonical space, as a deformer gives them.

    Attributes:
        points: (M, 3) canonical positions, meters.
        directions: (M, 3) unit viewing directions in canonical space.
        posed_points: (M, 3) the posed positions that they are the images of, meters.
        frame: (M,) row of the state of each point.
        valid: (M,) False where the deformer is undefined; such points are empty space.
        face: (M,) nearest triangle, -1 where the deformer has none.
        barycentric: (M, 3) barycentric coordinates on it.
        distance: (M,) distance to it in posed space, meters.
        ambient: (M, A) hyper-coordinates; A = 0 for most deformers.
    """

    points: Float[Tensor, "m 3"]
    directions: Float[Tensor, "m 3"]
    posed_points: Float[Tensor, "m 3"]
    frame: Int[Tensor, " m"]
    valid: Bool[Tensor, " m"]
    face: Int[Tensor, " m"] | None = None
    barycentric: Float[Tensor, "m 3"] | None = None
    distance: Float[Tensor, " m"] | None = None
    ambient: Float[Tensor, "m a"] | None = None

    def __post_init__(self) -> None:
        self._check(
            points=("M 3", self.points), directions=("M 3", self.directions), posed_points=("M 3", self.posed_points),
            frame=("M", self.frame), valid=("M", self.valid), face=("M", self.face),
            barycentric=("M 3", self.barycentric), distance=("M", self.distance), ambient=("M A", self.ambient),
        )  # fmt: skip

    def __len__(self) -> int:
        return self.points.shape[0]


@dataclass(frozen=True)
class Correction(Record):
    """A learned correction within a deformer at M points, for losses that keep it small or stiff.

    Attributes:
        before: (M, 3) the points before the correction, meters.
        after: (M, 3) the points after it.
        jacobian: (M, 3, 3) derivative of `after` by `before`, if requested.
    """

    before: Float[Tensor, "m 3"]
    after: Float[Tensor, "m 3"]
    jacobian: Float[Tensor, "m 3 3"] | None = None

    def __post_init__(self) -> None:
        self._check(before=("M 3", self.before), after=("M 3", self.after), jacobian=("M 3 3", self.jacobian))


@dataclass(frozen=True)
class Inverse(Record):
    """Posed positions of N canonical points, from `headfields.deformers.invert`.

    Attributes:
        points: (N, 3) in posed space, meters. Points whose search did not converge hold its best
            iterate, without a gradient.
        converged: (N,) whether the deformer maps them to the canonical points within the tolerance.
        residual: (N,) distance between the canonical points and where the deformer maps `points`, meters.
    """

    points: Float[Tensor, "n 3"]
    converged: Bool[Tensor, " n"]
    residual: Float[Tensor, " n"]

    def __post_init__(self) -> None:
        self._check(points=("N 3", self.points), converged=("N", self.converged), residual=("N", self.residual))


@dataclass(frozen=True)
class Samples(Record):
    """M packed samples along N rays, sorted by ray and then by distance; M = 0 is legal.

    Attributes:
        ray: (M,) index of each sample's ray.
        start, end: (M,) begin and end of its interval along the unit direction, meters.
    """

    ray: Int[Tensor, " m"]
    start: Float[Tensor, " m"]
    end: Float[Tensor, " m"]

    def __post_init__(self) -> None:
        self._check(ray=("M", self.ray), start=("M", self.start), end=("M", self.end))

    def __len__(self) -> int:
        return self.ray.shape[0]

    @property
    def middle(self) -> Float[Tensor, " m"]:
        """Distance of each interval's midpoint."""
        return 0.5 * (self.start + self.end)


@dataclass(frozen=True)
class Features(Record):
    """Features of M points: a row per point, and rows that many points share.

    Values that depend on the frame alone are few rows; a network computes their part of its first layer once per row
    (`headfields.ops.mlp`) rather than once per point. Decoders without use for that call `joined`.

        >>> import torch
        >>> features = Features(torch.zeros(5, 32), shared=torch.ones(2, 16), index=torch.tensor([0, 1, 1, 0, 0]))
        >>> features.width, features.joined().shape
        (48, torch.Size([5, 48]))

    Attributes:
        own: (M, W) features of each point.
        shared: (K, S) rows that points share; None: there are none.
        index: (M,) which row of `shared` each point has; given with it.
    """

    own: Float[Tensor, "m w"]
    shared: Float[Tensor, "k s"] | None = None
    index: Int[Tensor, " m"] | None = None

    def __post_init__(self) -> None:
        self._check(own=("M W", self.own), shared=("K S", self.shared), index=("M", self.index))
        if (self.shared is None) != (self.index is None):
            raise ValueError("Features: shared and index belong together; pass both or neither")

    def __len__(self) -> int:
        return self.own.shape[0]

    def __getitem__(self, index: Any) -> "Features":
        return Features(self.own[index], self.shared, None if self.index is None else self.index[index])

    @property
    def width(self) -> int:
        """W + S, the number of features of a point."""
        return self.own.shape[1] + (0 if self.shared is None else self.shared.shape[1])

    def joined(self) -> Float[Tensor, "m ws"]:
        """(M, W + S): the features of each point, its shared row last."""
        if self.shared is None:
            return self.own
        return torch.cat([self.own, self.shared[self.index]], dim=-1)


@dataclass(frozen=True)
class FieldValues(Record):
    """Output of a decoder at M points: a density or a signed distance, and color.

    Attributes:
        rgb: (M, 3) sRGB in [0, 1].
        density: (M,) in 1/m.
        distance: (M,) signed distance to the surface, meters, negative inside.
        gradient: (M, 3) derivative of the distance by the posed point, dimensionless; of length 1 in a true distance.
        normal: (M, 3) the gradient, normalized: unit normals in posed space.
        canonical_normal: (M, 3) the normalized derivative of the distance by the canonical point.
        geometry: (M, G) input of `Decoder.color`, of a decoder that can compute the color later.
    """

    rgb: Float[Tensor, "m 3"] | None = None
    density: Float[Tensor, " m"] | None = None
    distance: Float[Tensor, " m"] | None = None
    gradient: Float[Tensor, "m 3"] | None = None
    normal: Float[Tensor, "m 3"] | None = None
    canonical_normal: Float[Tensor, "m 3"] | None = None
    geometry: Float[Tensor, "m g"] | None = None

    def __post_init__(self) -> None:
        self._check(
            rgb=("M 3", self.rgb), density=("M", self.density), distance=("M", self.distance),
            gradient=("M 3", self.gradient), normal=("M 3", self.normal),
            canonical_normal=("M 3", self.canonical_normal), geometry=("M G", self.geometry),
        )  # fmt: skip


@dataclass(frozen=True)
class PixelBatch(Record):
    """N training pixels: their rays and the values of the capture there.

    Attributes:
        rays: the N rays; `rays.frame` indexes the state given with the batch.
        rgb: (N, 3) straight (not premultiplied) sRGB color in [0, 1].
        alpha: (N,) matte in [0, 1].
        background: (N, 3) the color behind both the rendering and the target.
        label: (N,) integer segmentation label, if the capture has them.
        depth: (N,) z-depth of the tracked mesh along the optical axis in meters, 0 off the mesh.
        depth_scale: (N,) length of ray per unit of z-depth, so depth * depth_scale is a distance along the ray.
    """

    rays: Rays
    rgb: Float[Tensor, "n 3"]
    alpha: Float[Tensor, " n"]
    background: Float[Tensor, "n 3"]
    label: Integer[Tensor, " n"] | None = None
    depth: Float[Tensor, " n"] | None = None
    depth_scale: Float[Tensor, " n"] | None = None

    @property
    def target(self) -> Float[Tensor, "n 3"]:
        """The color over the background."""
        return self.rgb * self.alpha[:, None] + self.background * (1 - self.alpha[:, None])

    def __len__(self) -> int:
        return self.alpha.shape[0]


@dataclass(frozen=True)
class Template(Record):
    """The mesh that an avatar is built on.

    Attributes:
        canonical_vertices: (V, 3) canonical positions, meters, y up, face toward +z.
        faces: (F, 3) int64 vertex indices, counter-clockwise from outside, the mouth cavity closed.
        regions: named (F,) boolean face masks; presets use `"mouth"`, `"eyes"` and `"face"` if they are there.
        uv, uv_faces: (T, 2) texture coordinates, v up, and (F, 3) indices into them.
        face_count: number of `faces` that belong to the tracked mesh; the rest close the mouth.
    """

    canonical_vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    regions: Mapping[str, Bool[Tensor, " f"]] = field(default_factory=dict)
    uv: Float[Tensor, "t 2"] | None = None
    uv_faces: Int[Tensor, "f 3"] | None = None
    face_count: int | None = None

    def __post_init__(self) -> None:
        self._check(
            canonical_vertices=("V 3", self.canonical_vertices),
            faces=("F 3", self.faces),
            uv=("T 2", self.uv),
            uv_faces=("F 3", self.uv_faces),
            **{f"regions[{key!r}]": ("F", value) for key, value in self.regions.items()},
        )
