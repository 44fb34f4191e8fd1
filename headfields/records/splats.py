"""Gaussians in posed space, as a rasterizer draws them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from headfields.records.base import Record


@dataclass(frozen=True)
class Splats(Record):
    """N anisotropic Gaussians of one frame, or of each of B frames (leading axis B).

    A Gaussian's density is o exp(-d² / 2) at d standard deviations from its mean, with o its opacity. Its covariance is
    R S² Rᵀ: R the rotation of its quaternion, S = diag(scales). In posed space lengths are meters; attached to a mesh,
    they are in the units of `headfields.Deformer.pose`.

    Attributes:
        means: (..., N, 3) centers.
        quaternions: (..., N, 4) rotations (w, x, y, z), of any length but zero.
        scales: (..., N, 3) standard deviations along the axes, not negative.
        opacities: (..., N) in [0, 1].
        colors: (..., N, 3) sRGB, the same from all sides; or harmonics instead.
        harmonics: (..., N, K, 3) coefficients of real spherical harmonics of degree 0 to 3, K = 1, 4, 9 or 16, of color
            less 0.5, by the viewing direction in posed space.
        barycentric: (..., N, 3) the point of its triangle that each is attached to, for deformers whose coordinates
            begin there; None: no such point.

    Raises:
        ValueError: neither or both of colors and harmonics are given; or K is another number.
    """

    means: Float[Tensor, "*batch n 3"]
    quaternions: Float[Tensor, "*batch n 4"]
    scales: Float[Tensor, "*batch n 3"]
    opacities: Float[Tensor, "*batch n"]
    colors: Float[Tensor, "*batch n 3"] | None = None
    harmonics: Float[Tensor, "*batch n k 3"] | None = None
    barycentric: Float[Tensor, "*batch n 3"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.colors is None) == (self.harmonics is None):
            raise ValueError("Splats: colors and harmonics are two forms of one thing; pass one of them")
        if self.harmonics is not None and self.harmonics.shape[-2] not in (1, 4, 9, 16):
            raise ValueError(
                f"Splats: harmonics has shape {tuple(self.harmonics.shape)}; expected (..., N, K, 3) with K = 1, 4, 9 "
                "or 16 coefficients, of degree 0, 1, 2 or 3"
            )

    @property
    def count(self) -> int:
        """N, the number of Gaussians."""
        return self.means.shape[-2]

    def placed(
        self, means: Float[Tensor, "*b n 3"], quaternions: Float[Tensor, "... n 4"], scales: Float[Tensor, "... n 3"]
    ) -> "Splats":
        """The Gaussians elsewhere, with their opacities, colors and points of attachment; these get the leading axes of
        the means."""
        lead = means.shape[:-2]

        def expanded(tensor: Tensor | None, axes: int) -> Tensor | None:
            if tensor is None:
                return None
            if lead == (1,) and tensor.ndim == axes:  # the gradient of `expand` is a sum, also over one row
                return tensor[None]
            return tensor.expand(*lead, *tensor.shape[tensor.ndim - axes :])

        opacities = expanded(self.opacities, 1)
        assert opacities is not None
        return Splats(
            means, quaternions.expand(*lead, -1, -1), scales.expand(*lead, -1, -1), opacities,
            expanded(self.colors, 2), expanded(self.harmonics, 3), expanded(self.barycentric, 2),
        )  # fmt: skip
