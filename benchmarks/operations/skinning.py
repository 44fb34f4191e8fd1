"""Parametric heads: shape, expression, pose correctives, joints, linear blend skinning."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import headfields as hf
from benchmarks.case import OURS, Case, Contestant, Maker, Settings
from benchmarks.peers import need

TITLE = "Skinning"
TEXT = """The procedural head, in FLAME's format: 300 shape and 100 expression components, 5 joints. Coefficients and
pose of a batch to its vertices; backward to all of them. smplx is its function `lbs` on the same arrays. Difference: of
vertices, meters, or of the gradients."""


def cases(settings: Settings) -> Iterator[Case]:
    head = hf.synthetic.procedural_head().to(settings.device)
    for backward in (False, True):
        label = "forward, backward" if backward else "forward"
        for heads in settings.pick((1, 8, 32, 128), (1, 8)):
            size = {"heads": heads, "vertices": len(head.template_vertices)}
            yield Case(label, size, "heads", heads, _contestants(head, heads, backward))


def _contestants(head: Any, heads: int, backward: bool) -> dict[str, Maker]:
    device = head.template_vertices.device
    generator = torch.Generator().manual_seed(0)
    shape, expression = (torch.randn(heads, width, generator=generator).to(device) for width in (300, 100))
    pose = (0.2 * torch.randn(heads, 5, 3, generator=generator)).to(device)
    grad = torch.randn(heads, len(head.template_vertices), 3, generator=generator).to(device)

    def contestant(name: str, function: Any, inputs: list[Tensor]) -> Contestant:
        def both() -> Any:
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in inputs]
                return torch.autograd.grad(function(*leaves), leaves, grad)

        return Contestant(name, both if backward else lambda: function(*inputs), _numbers)

    def ours() -> Contestant:
        def function(shape: Tensor, expression: Tensor, pose: Tensor) -> Tensor:
            return head(shape=shape, expression=expression, pose=pose).vertices

        return contestant(OURS, function, [shape, expression, pose])

    def theirs() -> Contestant:
        lbs = need("smplx.lbs").lbs
        basis = torch.cat([head.shape_basis, head.expression_basis]).permute(1, 2, 0).contiguous()
        correctives = head.pose_basis.reshape(36, -1).contiguous()
        parents = torch.tensor(head.parents, device=device)

        def function(betas: Tensor, pose: Tensor) -> Tensor:
            return lbs(
                betas, pose, head.template_vertices[None], basis, correctives, head.joint_regressor, parents,
                head.weights,
            )[0]  # fmt: skip

        return contestant("smplx", function, [torch.cat([shape, expression], 1), pose.reshape(heads, -1)])

    return {OURS: ours, "smplx": theirs}


def _numbers(answer: Any) -> np.ndarray:
    """Vertices, or gradients: those of all coefficients before the pose's."""
    if isinstance(answer, Tensor):
        return answer.cpu().numpy().reshape(-1)
    *coefficients, pose = answer
    parts = (torch.cat(coefficients, 1), pose)
    return torch.cat([part.reshape(-1) for part in parts]).cpu().numpy()
