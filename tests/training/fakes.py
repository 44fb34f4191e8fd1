"""A capture of a colored disc and an avatar that can learn it: the smallest things the trainer accepts."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from headfields.parts import Rendering
from headfields.records import Camera, HeadState, PixelBatch, Rays, Template


class FakeCapture:
    """Twelve frames of a disc whose color follows the expression, seen by a fixed camera."""

    name = "disc"
    expression_width = 1
    warnings = ()
    skinning = None

    def __init__(self, frames: int = 12, size: tuple[int, int] = (24, 20)) -> None:
        self.size = size
        order = torch.arange(frames)
        self.splits = {"train": order[:-4], "test": order[-4:], "val": order[-2:], "all": order}
        vertices = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]])
        self.template = Template(vertices, torch.tensor([[0, 1, 2]]))
        self._vertices = vertices.expand(frames, 3, 3)
        self._expression = torch.linspace(0, 1, frames)[:, None]

    def __len__(self) -> int:
        return len(self._expression)

    def state(self, frames: torch.Tensor) -> HeadState:
        return HeadState(self._vertices[frames], expression=self._expression[frames], frame_id=torch.as_tensor(frames))

    def camera(self, frames: torch.Tensor) -> Camera:
        height, width = self.size
        matrix = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        matrix[2, 3] = 1.0
        intrinsics = torch.tensor([[30.0, 0, width / 2], [0, 30.0, height / 2], [0, 0, 1]])
        count = len(frames)
        return Camera(matrix.expand(count, 4, 4), intrinsics.expand(count, 3, 3), self.size)

    def image(self, frame: int) -> torch.Tensor:
        height, width = self.size
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        alpha = ((x**2 + y**2) < 0.6).float()
        green = self._expression[frame].expand(height, width)
        return torch.stack([0.8 + 0.1 * x, green, 0.5 + 0.2 * y, alpha], dim=-1)

    def label(self, frame: int) -> torch.Tensor:
        return torch.where(self.image(frame)[..., 3] > 0.5, 140, 0).to(torch.uint8)

    def landmarks(self, frame: int) -> None:
        return None

    def sample_pixels(self, frames, count, generator, background="random"):
        images = torch.stack([self.image(int(frame)) for frame in frames])
        labels = torch.stack([self.label(int(frame)) for frame in frames])
        row = torch.randint(len(frames), (count,), generator=generator)
        pixel = torch.stack([torch.randint(side, (count,), generator=generator) for side in self.size], dim=-1)
        rays = self.camera(frames).rays(pixel, row)
        rgba, label = images[row, pixel[:, 0], pixel[:, 1]], labels[row, pixel[:, 0], pixel[:, 1]]
        behind = (
            torch.rand(count, 3, generator=generator) if background == "random" else torch.full((count, 3), background)
        )
        depth = torch.where(label > 0, 1.0, 0.0)
        return PixelBatch(rays, rgba[:, :3], rgba[:, 3], behind, label.long(), depth, torch.ones(count)), frames


class FakeAvatar(nn.Module):
    """Looks color, opacity and depth up by the direction of the ray, in a small table behind a small network."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, width) * 0.1)
        self.network = nn.Sequential(nn.Linear(width + 4, 32), nn.ReLU(), nn.Linear(32, 5))
        self.register_buffer("occupancy", torch.zeros(8))
        self.width = width
        self.seen: list[tuple[int, int]] = []

    def update(self, state: HeadState, step: int) -> None:
        self.seen.append((len(state), step))
        self.occupancy.mul_(0.95).add_(torch.rand(8))

    def forward(self, rays: Rays, state: HeadState, background: torch.Tensor) -> Rendering:
        cell = ((rays.directions[:, :2] + 0.5).clamp(0, 0.99) * 4).long()
        features = self.table[cell[:, 0] * 4 + cell[:, 1]]
        jitter = 1e-3 * torch.rand_like(rays.directions) if self.training else 0.0
        out = self.network(torch.cat([features, rays.directions + jitter, state.expression[rays.frame]], dim=-1))
        opacity = out[:, 3].sigmoid()
        rgb = out[:, :3].sigmoid() * opacity[:, None] + background * (1 - opacity[:, None])
        return Rendering(rgb=rgb, opacity=opacity, depth=out[:, 4].exp())

    @torch.no_grad()
    def render(self, camera: Camera, state: HeadState, background=1.0, chunk: int = 16384) -> Rendering:
        rays = camera.rays()
        flat = self(rays, state, torch.full((len(rays), 3), float(background)))
        height, width = camera.size
        return Rendering(
            rgb=flat.rgb.view(height, width, 3),
            opacity=flat.opacity.view(height, width),
            depth=flat.depth.view(height, width),
        )

    def save(self, path: Path | str) -> None:
        save_file(self.state_dict(), path, {"width": json.dumps(self.width)})

    @classmethod
    def load(cls, path: Path | str) -> "FakeAvatar":
        with safe_open(path, framework="pt") as file:
            avatar = cls(json.loads(file.metadata()["width"]))
            avatar.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        return avatar
