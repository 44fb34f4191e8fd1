"""Shading of samples before compositing: spherical-harmonics light and a camera's affine color map."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.part_base import Part
from headfields.records import Rays
from headfields.records.device_copy import send_numbers
from headfields.records.precision import full_precision


class Shading(Part):
    """Changes the colors of samples, given their normals and rays; subclasses define `forward`."""

    rate_group = "lighting"

    def forward(
        self, rgb: Float[Tensor, "m 3"], normals: Float[Tensor, "m 3"], ray: Int[Tensor, " m"], rays: Rays
    ) -> Float[Tensor, "m 3"]:
        """The shaded colors (M, 3), not clamped to [0, 1]; M = 0 is legal.

        Args:
            rgb: (M, 3) of the field, sRGB in [0, 1].
            normals: (M, 3) unit normals in posed space.
            ray: (M,) the ray of each sample.
            rays: the N rays.
        """
        raise NotImplementedError


_FIRST = (2 * math.pi / 3) * math.sqrt(3 / (4 * math.pi))
_SECOND = math.sqrt(5 / (12 * math.pi))
_FACTORS = (1 / math.sqrt(4 * math.pi), *[_FIRST] * 3, *[3 * math.pi / 4 * _SECOND] * 3,
            3 * math.pi / 8 * _SECOND, math.pi / 8 * math.sqrt(5 / (4 * math.pi)))  # fmt: skip


def sh_basis(normals: Float[Tensor, "m 3"]) -> Float[Tensor, "m 9"]:
    """The nine basis functions (M, 9) of `sh_irradiance` at unit normals (M, 3)."""
    x, y, z = normals.unbind(dim=-1)
    basis = [torch.ones_like(x), x, y, z, x * y, x * z, y * z, x.square() - y.square(), 3 * z.square() - 1]
    return torch.stack(basis, dim=-1) * send_numbers(_FACTORS, normals.dtype, normals.device)


def sh_irradiance(normals: Float[Tensor, "m 3"], coefficients: Float[Tensor, "9 c"]) -> Float[Tensor, "m c"]:
    """Irradiance of distant light, in spherical harmonics of order 3, at unit normals.

    Differentiable to any order in both.

    >>> import math, torch
    >>> white = torch.zeros(9, 1)
    >>> white[0] = math.sqrt(4 * math.pi)
    >>> sh_irradiance(torch.tensor([[0.0, 0.0, -1.0]]), white).round(decimals=4)
    tensor([[1.]])

    Args:
        normals: (M, 3) in the frame of the light.
        coefficients: (9, C); the first alone, √(4π), is 1 whatever the normal.
    """
    with full_precision(normals):
        return sh_basis(normals) @ coefficients


class SHLighting(Shading):
    """Distant light fixed to the camera: spherical harmonics of order 3, nine coefficients per channel.

    The color of a sample is multiplied by the irradiance at its normal, turned into the camera's frame (OpenCV axes:
    x right, y down, z forward). It starts as 1 for all normals. Colors are multiplied in sRGB, as in the released
    code of MonoNPHM, which is not physical.

    Differentiable to any order in colors, normals, rotations and coefficients.

    Raises:
        ValueError: in `forward`, if the rays have no `camera_rotation`.

    Source: MonoNPHM (Giebenhain et al. 2024), released code; Ramamoorthi and Hanrahan 2001, "An efficient
    representation for irradiance environment maps", for the constants.
    """

    def __init__(self) -> None:
        super().__init__()
        start = torch.zeros(9, 3)
        start[0] = math.sqrt(4 * math.pi)
        self.coefficients = nn.Parameter(start)

    def shading(self, normals: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """The factor (M, 3) of each channel at unit normals (M, 3) in the camera's frame."""
        return sh_irradiance(normals, self.coefficients)

    def forward(
        self, rgb: Float[Tensor, "m 3"], normals: Float[Tensor, "m 3"], ray: Int[Tensor, " m"], rays: Rays
    ) -> Float[Tensor, "m 3"]:
        if rays.camera_rotation is None:
            raise ValueError(
                "SHLighting: the rays have no camera_rotation, in whose frame the light is; Camera.rays fills it, or "
                "pass Rays(..., camera_rotation=world_to_camera[:, :3, :3])"
            )
        turned = (rays.camera_rotation.index_select(0, ray) * normals[..., None, :]).sum(-1)
        return rgb * self.shading(turned)


class ColorAffine(Shading):
    """Affine color map of a camera, the same for all samples: c · A + b, with a (3, 3) matrix and an offset.

    Starts as the identity. It is applied to samples, so the background is unchanged; on an opaque ray it is the affine
    map of the rendered color.

    Differentiable to any order in colors, matrix and offset.

    Source: MonoNPHM (Giebenhain et al. 2024), released code, where colors are in [-1, 1]: the same family of maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(3))
        self.offset = nn.Parameter(torch.zeros(3))

    def forward(
        self, rgb: Float[Tensor, "m 3"], normals: Float[Tensor, "m 3"], ray: Int[Tensor, " m"], rays: Rays
    ) -> Float[Tensor, "m 3"]:
        with full_precision(rgb):
            return rgb @ self.matrix + self.offset
