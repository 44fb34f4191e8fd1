"""Inverse skinning of posed points to canonical space: share found, accuracy and speed."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import headfields as hf
from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from headfields.deformers import InverseSkinning, WeightFieldSkinning
from headfields.deformers.skinning import SkinningRoots
from headfields.deformers.skinning_weights import SkinningWeights

TITLE = "Inverse skinning"
TEXT = """The procedural head, in FLAME's format (5 joints), with jaw, neck and expression at random, and points within
1 cm of its canonical surface that a field of weights (cells of 1 cm) skins. They are given back to the three inverses:
*headfields* takes the weights of the nearest triangle, *weight field* those of the field in one pass, *roots* solves
for them from each joint, by Broyden's method. The note says of how many points the way back was found, and the median
and 99th percentile of how far it leads from where the point was. It is the field that skinned them, so *roots* alone
can be exact: the others show what their shortcut costs. Backward is to the points and the joints."""


def cases(settings: Settings) -> Iterator[Case]:
    scene = _Scene(settings.device)
    for backward in (False, True):
        label = "forward, backward" if backward else "forward"
        for count in settings.pick((2_000, 20_000, 100_000), (1_000,)):
            yield Case(label, {"points": count, "frames": 4}, "points", count, scene.contestants(count, backward))


class _Scene:
    def __init__(self, device: str) -> None:
        self.head = hf.synthetic.procedural_head().to(device)
        generator = torch.Generator().manual_seed(0)
        pose = (0.1 * torch.randn(4, 5, 3, generator=generator)).to(device)
        pose[:, 2, 0] = torch.linspace(0.0, 0.4, 4, device=device)
        expression = (0.5 * torch.randn(4, 20, generator=generator)).to(device)
        with torch.no_grad():
            self.state = self.head(expression=expression, pose=pose)
        mesh = (self.head.template_vertices, self.head.faces)
        self.field = SkinningWeights(*mesh, self.head.weights, cell=0.01, learned=False).to(device)
        self.deformers: dict[str, Any] = {
            OURS: InverseSkinning(*mesh, self.head.weights),
            "weight field": WeightFieldSkinning(self.field),
            "roots": SkinningRoots(self.field),
        }
        self.deformers = {name: deformer.to(device) for name, deformer in self.deformers.items()}

    def contestants(self, count: int, backward: bool) -> dict[str, Maker]:
        generator = torch.Generator().manual_seed(1)
        vertices = self.head.template_vertices
        index = torch.randint(len(vertices), (count,), generator=generator)
        offset = 0.005 * torch.randn(count, 3, generator=generator).clamp(-2, 2)
        canonical = vertices[index.to(vertices.device)] + offset.to(vertices)
        frame = (torch.arange(count) % 4).to(vertices.device)
        roots = self.deformers["roots"]
        with torch.no_grad():
            posed = roots.pose_points(canonical, frame, roots.prepare(self.state))[0]
        return {
            name: lambda name=name: self._contestant(name, posed, canonical, frame, backward)  # type: ignore[misc]
            for name in self.deformers
        }

    def _contestant(
        self, name: str, posed: Tensor, canonical: Tensor, frame: Tensor, backward: bool
    ) -> Contestant:  # fmt: skip
        deformer, directions = self.deformers[name], torch.zeros_like(posed) + posed.new_tensor([0.0, 0.0, -1.0])

        def canonicalize(points: Tensor, transforms: Tensor) -> Any:
            prepared = deformer.prepare(self.state.replace(joint_transforms=transforms))
            return deformer(points, directions, frame, prepared)

        def forward() -> Any:
            with torch.no_grad():
                return canonicalize(posed, self.state.joint_transforms)

        def both() -> Any:
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in (posed, self.state.joint_transforms)]
                return torch.autograd.grad(canonicalize(*leaves).points.sum(), leaves)

        out = forward()
        off = (out.points - canonical).norm(dim=-1)[out.valid].double().cpu() * 1e3
        middle, most = (off.quantile(off.new_tensor([0.5, 0.99]))).tolist() if len(off) else (0.0, 0.0)
        share = 100 * float(out.valid.float().mean())
        note = f"{share:.2f} % found; {middle:.3f} mm median, {most:.3f} mm at 99 %"
        return Contestant(name, both if backward else forward, note=note)
