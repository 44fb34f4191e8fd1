"""A capture of a painted ball that swells with its expression, and INSTA on it, both as small as they can be."""

import torch

from headfields.avatar.avatar import Avatar
from headfields.losses.color import HuberColor
from headfields.losses.silhouette import OpacityLoss
from headfields.losses.surface import DepthPrior
from headfields.models import insta
from headfields.records import Camera, HeadState, Template
from headfields.training import Trainer
from tests.shapes import uv_sphere
from tests.training.fakes import FakeCapture

RADIUS, FAR = 0.1, 0.6


class BallCapture(FakeCapture):
    """Twelve frames of the ball, 32 x 32 pixels."""

    name = "ball"

    def __init__(self, frames: int = 12) -> None:
        super().__init__(frames, (32, 32))
        vertices, faces = uv_sphere(8, 12, RADIUS)
        low = vertices[faces].mean(dim=1)[:, 1] < 0
        self.template = Template(vertices, faces, {"mouth": low, "face": ~low})
        self._vertices = vertices * (1 + 0.1 * self._expression)[:, :, None]

    def state(self, frames: torch.Tensor) -> HeadState:
        return HeadState(self._vertices[frames], expression=self._expression[frames], frame_id=torch.as_tensor(frames))

    def camera(self, frames: torch.Tensor) -> Camera:
        matrix = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        matrix[2, 3] = FAR
        intrinsics = torch.tensor([[64.0, 0, 16], [0, 64.0, 16], [0, 0, 1]])
        return Camera(matrix.expand(len(frames), 4, 4), intrinsics.expand(len(frames), 3, 3), self.size)

    def image(self, frame: int) -> torch.Tensor:
        y, x = torch.meshgrid(*[(torch.arange(32) - 15.5) / 64 * FAR / RADIUS] * 2, indexing="ij")
        alpha = ((x**2 + y**2) < (1 + 0.1 * float(self._expression[frame])) ** 2).float()
        green = self._expression[frame].expand(32, 32)
        return torch.stack([0.6 + 0.3 * x.sin(), green, 0.5 + 0.4 * y.sin(), alpha], dim=-1)


def ball_trainer(rays: int = 512, avatar: Avatar | None = None, **options) -> Trainer:
    """INSTA on the ball. Few levels, and an eps that keeps Adam from amplifying rounding errors."""
    torch.manual_seed(0)
    capture = BallCapture()
    if avatar is None:
        avatar = insta(
            capture.template, expression_width=1, levels=4, log2_table_size=10, finest_resolution=64,
            grid_resolution=16, step=0.01,
        )  # fmt: skip
    options = {
        "rays_per_step": rays, "frames_per_step": 3, "learning_rate": 1e-2, "network_learning_rate": 1e-3,
        "bar": False, "device": "cpu", "seed": 0, **options,
    }  # fmt: skip
    losses = [HuberColor(region_weight=1), OpacityLoss(0.1), DepthPrior(start=20)]
    return Trainer(avatar, capture, losses, **options)
