"""The light of a recording: one set of spherical harmonics that stays with the camera, from all frames so far."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.records import Record
from headfields.renderers.lighting import SHLighting, sh_basis

__all__ = ["LightSums", "fitted_light"]

_RIDGE = 0.02
"""Of pixels: how much a light that is the same from everywhere counts beside what was seen."""


@dataclass(frozen=True)
class LightSums(Record):
    """Normal equations of the light, summed over frames, so that a run that goes on has what an unbroken one has.

    Attributes:
        matrix: (3, 9, 9) by channel. vector: (3, 9). count: () frames.
    """

    matrix: Float[Tensor, "3 9 9"]
    vector: Float[Tensor, "3 9"]
    count: Float[Tensor, ""]

    @classmethod
    def empty(cls) -> "LightSums":
        """Of no frames."""
        return cls(torch.zeros(3, 9, 9), torch.zeros(3, 9), torch.zeros(()))

    def coefficients(self) -> Float[Tensor, "9 3"]:
        """The light: as `SHLighting` has it; 1 from everywhere where nothing has been seen."""
        flat = SHLighting().coefficients.detach().T.double()  # (3, 9)
        weights = torch.ones(9, dtype=torch.float64) * _RIDGE
        weights[0] *= 0.05  # how bright all is may differ
        ridge = torch.diag(weights)
        solved = torch.linalg.solve(self.matrix.double() + ridge, self.vector.double() + flat @ ridge)
        return solved.T.float()

    def added(
        self, albedo: Float[Tensor, "m 3"], normals: Float[Tensor, "m 3"], seen: Float[Tensor, "m 3"],
        light: Float[Tensor, "9 3"], scale: float,
    ) -> "LightSums":  # fmt: skip
        """The sums with a frame's pixels, each weighed by how well the light that is there explains it.

        Args:
            albedo: (M, 3) the texture's colors. normals: (M, 3) in the camera's frame. seen: (M, 3) colors.
            light: (9, 3) to weigh by. scale: where Geman and McClure's function bends.
        """
        if not len(albedo):
            return self
        basis = sh_basis(normals)
        residual = (albedo * (basis @ light) - seen).square().sum(1)
        weight = (scale**2 / (scale**2 + residual)).square() / len(albedo)
        rows = albedo.T[..., None] * basis  # (3, M, 9)
        weighed = rows * weight[:, None]
        return LightSums(
            self.matrix + weighed.mT @ rows, self.vector + (weighed.mT @ seen.T[..., None])[..., 0], self.count + 1
        )


def fitted_light(
    sums: LightSums, albedo: Float[Tensor, "m 3"], normals: Float[Tensor, "m 3"], seen: Float[Tensor, "m 3"],
    scale: float,
) -> LightSums:  # fmt: skip
    """The sums with a frame's pixels, whose weights are found with the light that they give.

    Args:
        sums: of the frames before. albedo, normals, seen, scale: as `LightSums.added`.
    """
    found = sums
    light = sums.coefficients()
    for wider in (4.0, 2.0, 1.0, 1.0) if not float(sums.count) else (1.0, 1.0):
        found = sums.added(albedo, normals, seen, light, wider * scale)
        light = found.coefficients()
    return found
