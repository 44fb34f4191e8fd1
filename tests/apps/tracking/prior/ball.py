"""A colored ball with two numbers each of geometry, appearance and expression code, and recordings of it."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.apps.priors.code_statistics import CodeStatistics
from headfields.apps.tracking import PriorTrackingOptions
from headfields.apps.tracking.prior.head import PriorHead, TrackingPrior
from headfields.apps.tracking.prior.landmarks import LandmarkPoints
from headfields.apps.tracking.prior.pose import head_camera
from headfields.avatar.avatar import Avatar
from headfields.encoders import Coordinates
from headfields.ops.ray_box import ray_sphere
from headfields.parts import Decoder, Deformer
from headfields.records import Camera, Canonical, Features, FieldValues, HeadState, Rays
from headfields.renderers import ScheduledSharpness, SurfaceRenderer, SurfaceSampler, UnclampedAlpha
from headfields.renderers.lighting import ColorAffine, SHLighting

REACH = 0.14


class Mouth(Deformer):
    """Moves the lower front down by the first number of the code, and its sides outward by the second."""

    needs = ("expression_code",)
    code_widths: ClassVar = {"expression_code": 2}

    box: Tensor
    place: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("box", torch.tensor([[-REACH] * 3, [REACH] * 3]))
        self.register_buffer("place", torch.tensor([0.0, -0.06, 0.07]))

    def bounds(self) -> Float[Tensor, "2 3"]:
        return self.box

    def prepare(self, state: HeadState) -> Float[Tensor, "b 2"]:
        return state.need("Mouth", "expression_code")

    def posed_bounds(self, prepared: Float[Tensor, "b 2"]) -> Float[Tensor, "2 3"]:
        return self.bounds()

    def near_far(self, rays: Rays, prepared: Float[Tensor, "b 2"]) -> tuple[Tensor, Tensor]:
        return ray_sphere(rays, self.box.mean(dim=0), REACH)

    def forward(
        self,
        points: Float[Tensor, "m 3"],
        directions: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        prepared: Float[Tensor, "b 2"],
    ) -> Canonical:
        low = torch.exp(-((points - self.place) / 0.05).square().sum(dim=1))
        code = prepared.index_select(0, frame)
        zero = torch.zeros_like(low)
        offset = torch.stack([-0.3 * low * code[:, 1] * points[:, 0], 0.02 * low * code[:, 0], zero], dim=1)
        return Canonical(
            points + offset, directions, points, frame, valid=points.norm(dim=1) <= REACH, ambient=points[:, :0]
        )


class Ball(Decoder):
    """A ball of radius 0.1 (1 + 0.1 g₀), 1 + 0.2 g₁ times as high; the appearance code is the phases of its stripes."""

    gives = "distance"
    needs = ("geometry", "appearance")
    code_widths: ClassVar = {"geometry": 2, "appearance": 2}

    def build(self, width: int, bounds: Tensor | None = None) -> None:
        assert width == 0

    def prepare(self, state: HeadState) -> tuple[Tensor, Tensor]:
        return state.codes["geometry"], state.codes["appearance"]

    def forward(
        self, features: Features, canonical: Canonical, prepared: tuple[Tensor, Tensor], color: bool = True
    ) -> FieldValues:
        shape, paint = (code.index_select(0, canonical.frame) for code in prepared)
        one = torch.ones_like(shape[:, 0])
        squeezed = canonical.points / torch.stack([one, 1 + 0.2 * shape[:, 1], one], dim=1)
        distance = squeezed.norm(dim=1) - 0.1 * (1 + 0.1 * shape[:, 0])
        values = FieldValues(distance=distance, geometry=torch.cat([canonical.points, paint], dim=1))
        return values.replace(rgb=self.color(values, canonical, prepared)) if color else values

    def color(self, values: FieldValues, canonical: Canonical, prepared: tuple[Tensor, Tensor]) -> Tensor:
        x, y, z, first, second = values.require("geometry")[0].unbind(dim=1)
        return 0.5 + 0.35 * torch.stack(
            [torch.sin(40 * x + first), torch.sin(50 * y + 20 * z + second), torch.sin(35 * (x + y) + first - second)],
            1,
        )


def ball_prior(landmarks: bool = True) -> TrackingPrior:
    """The ball, with codes of mean 0 and standard deviation 1, and landmarks on its front."""
    renderer = SurfaceRenderer(
        SurfaceSampler(16, 16), UnclampedAlpha(ScheduledSharpness()), lighting=[SHLighting(), ColorAffine()]
    )
    avatar = Avatar(Mouth(), Coordinates(points=False), Ball(), renderer)
    names = {"geometry": 2, "appearance": 2, "expression_code": 2}
    codes = {name: CodeStatistics(torch.zeros(width), torch.eye(width)) for name, width in names.items()}
    return TrackingPrior(avatar, codes, ball_landmarks() if landmarks else None)


def ball_landmarks() -> LandmarkPoints:
    """68 points on the front of the mean ball, in a spiral from its foremost point."""
    turn = torch.arange(68) * 2.399963
    away = 1.2 * ((torch.arange(68) + 0.5) / 68).sqrt()
    points = 0.1 * torch.stack([away.sin() * turn.cos(), away.sin() * turn.sin(), away.cos()], dim=1)
    return LandmarkPoints.near(points, torch.zeros(0, 3))


def _one(camera: Camera) -> Camera:
    return Camera(camera.world_to_camera[0], camera.intrinsics[0], camera.size)


class BallRecording:
    """Frames of one ball with known codes, poses and light, rendered by the model itself."""

    name = "ball"

    def __init__(self, frames: int = 3, size: int = 48, shape: tuple[float, float] = (0.0, 0.0)) -> None:
        self.size = (size, size)
        self.frame_names = [f"{frame:05d}" for frame in range(frames)]
        time = torch.arange(frames) / 6
        self.codes = {
            "geometry": torch.tensor(shape).expand(frames, 2),
            "appearance": torch.tensor([0.6, -0.5]).expand(frames, 2),
            "expression_code": torch.stack([0.8 * torch.cos(3 * time), 0.8 * torch.sin(3 * time)], dim=1),
        }
        self.rotation = torch.stack([0.08 * torch.sin(2 * time), 0.1 + 0.2 * time, 0.05 * time], dim=1)
        self.translation = torch.stack([0.004 * time, -0.003 * time, 0.004 + 0 * time], dim=1)
        self.prior = ball_prior()
        self.head = PriorHead(self.prior, 1.0, 48, 48)
        self.head.sharpen(0.8)
        with torch.no_grad():
            self.head.light.coefficients[2] = -0.4
            self.head.light.coefficients[1] = 0.3
        self.matrix = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        self.matrix[2, 3] = 0.6
        self._images: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.frame_names)

    def state(self, frame: int) -> HeadState:
        return HeadState(torch.zeros(1, 0, 3), codes={name: code[frame][None] for name, code in self.codes.items()})

    def camera(self, frames: object) -> Camera:
        count, side = len(list(frames)), self.size[0]
        intrinsics = torch.tensor([[1.8 * side, 0, side / 2], [0, 1.8 * side, side / 2], [0, 0, 1]])
        return Camera(self.matrix.expand(count, 4, 4), intrinsics.expand(count, 3, 3), self.size)

    def true_camera(self, frame: int) -> Camera:
        return head_camera(_one(self.camera([frame])), self.rotation[frame], self.translation[frame])

    def image(self, frame: int) -> Tensor:
        if frame not in self._images:
            seen = self.head.picture(self.true_camera(frame), self.state(frame))
            alpha = seen.opacity[..., None]
            straight = (seen.rgb - (1 - alpha)) / alpha.clamp_min(1e-3)
            self._images[frame] = torch.cat([straight, alpha], dim=-1).clamp(0, 1)
        return self._images[frame]

    def label(self, frame: int) -> None:
        return None

    def landmarks(self, frame: int) -> Tensor:
        field = self.head.avatar.field(self.state(frame))
        return self.true_camera(frame).project(self.head.posed_landmarks(field).points)[0]


def tiny_options(**changes: object) -> PriorTrackingOptions:
    from dataclasses import replace

    from headfields.apps.tracking.prior.options import EnergyWeights, Stage1, SteppedRate, WeightSchedule

    falling = (40, 50)
    stage = Stage1(
        steps=60, spread=1.0, sharpen_every=10, sharpen_every_later=20, geometry=SteppedRate(0.05, falling),
        appearance=SteppedRate(0.05, falling), expression=SteppedRate(0.05, falling),
        rotation=SteppedRate(0.01, falling), translation=SteppedRate(0.005, falling),
        light=SteppedRate(0.02, falling), affine=SteppedRate(1e-3),
        weights=EnergyWeights(
            color=40.0, geometry_global=0.1, appearance_global=0.1, likely=0.0, first_expression=0.1, expression=0.1,
            landmarks=WeightSchedule(((0, 200.0), (25, 100.0), (50, 40.0))),  # few of the ball's are emphasized
        ),
    )  # fmt: skip
    return replace(
        PriorTrackingOptions(stage1=stage, rays=120, coarse=12, fine=10, band=0.01, roots=2, image_height=48), **changes
    )
