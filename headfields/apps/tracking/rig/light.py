"""The light of a recording: one set of spherical harmonics in camera space, by least squares over all frames so far."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.records import Record
from headfields.renderers.lighting import SHLighting, sh_basis

__all__ = ["LightSums", "fitted_light"]

_RIDGE = 0.02
"""Weight of the regularization toward white ambient light, relative to a frame's pixels."""


@dataclass(frozen=True)
class LightSums(Record):
    """Normal equations of the light, summed over frames; kept with each fit, so that a resumed run has the same light.

    Attributes:
        matrix: (3, 9, 9) by channel.
        vector: (3, 9) by channel.
        count: () number of frames.
    """

    matrix: Float[Tensor, "3 9 9"]
    vector: Float[Tensor, "3 9"]
    count: Float[Tensor, ""]

    @classmethod
    def empty(cls) -> "LightSums":
        """The sums over no frames."""
        return cls(torch.zeros(3, 9, 9), torch.zeros(3, 9), torch.zeros(()))

    def coefficients(self) -> Float[Tensor, "9 3"]:
        """The light (9, 3), as in `SHLighting`; white ambient light where the sums do not determine it."""
        ambient = SHLighting().coefficients.detach().T.double()  # (3, 9)
        weights = torch.ones(9, dtype=torch.float64) * _RIDGE
        weights[0] *= 0.05  # brightness is hardly regularized
        ridge = torch.diag(weights)
        solved = torch.linalg.solve(self.matrix.double() + ridge, self.vector.double() + ambient @ ridge)
        return solved.T.float()

    def added(
        self, albedo: Float[Tensor, "m 3"], normals: Float[Tensor, "m 3"], colors: Float[Tensor, "m 3"],
        light: Float[Tensor, "9 3"], scale: float,
    ) -> "LightSums":  # fmt: skip
        """The sums plus a frame's pixels, with robust weights under a given light.

        Args:
            albedo: (M, 3) of the texture.
            normals: (M, 3) in camera space.
            colors: (M, 3) of the image.
            light: (9, 3) that the weights are computed with.
            scale: scale of Geman and McClure's function.
        """
        if not len(albedo):
            return self
        basis = sh_basis(normals)
        residual = (albedo * (basis @ light) - colors).square().sum(1)
        weight = (scale**2 / (scale**2 + residual)).square() / len(albedo)
        rows = albedo.T[..., None] * basis  # (3, M, 9)
        weighted = rows * weight[:, None]
        return LightSums(
            self.matrix + weighted.mT @ rows, self.vector + (weighted.mT @ colors.T[..., None])[..., 0], self.count + 1
        )


def fitted_light(
    sums: LightSums, albedo: Float[Tensor, "m 3"], normals: Float[Tensor, "m 3"], colors: Float[Tensor, "m 3"],
    scale: float,
) -> LightSums:  # fmt: skip
    """The sums plus a frame's pixels, with weights iterated together with the light.

    Args:
        sums: sums of the previous frames.
        albedo, normals, colors, scale: arguments of `LightSums.added`.
    """
    fitted = sums
    light = sums.coefficients()
    for wider in (4.0, 2.0, 1.0, 1.0) if not float(sums.count) else (1.0, 1.0):
        fitted = sums.added(albedo, normals, colors, light, wider * scale)
        light = fitted.coefficients()
    return fitted
