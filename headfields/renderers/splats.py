"""Renders Gaussians: the rasterizer, with the background and the conventions of a `Rendering`."""

from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.rasterize_gaussians import Backend, rasterize_gaussians
from headfields.ops.ray_length import ray_length
from headfields.part_base import Part
from headfields.parts import Rendering
from headfields.records import Camera, Splats
from headfields.renderers.padded import Buffers


class SplatRenderer(Part):
    """Draws Gaussians in posed space with `headfields.ops.rasterize_gaussians`.

    Args:
        antialiased: whether Gaussians smaller than a pixel fade instead of growing; see
            `headfields.ops.rasterize_gaussians`. An avatar that is to be drawn at other sizes than it was trained at
            needs it.
        near: meters; Gaussians nearer to the camera are not drawn.
        low_pass: what is added to the variance of a Gaussian on screen, pixels². A pixel that averages over its square
            has 1/12 of its own; 3DGS adds 0.3, which blurs hair and outlines, and below 0.1 thin Gaussians flicker.
        backend: whose kernels blend, as in `headfields.ops.rasterize_gaussians`: `"gsplat"` needs that package and
            CUDA, and its lists of tiles have no fixed size, so that a training step is not captured as a graph.

    Attributes:
        absolute: whether renderings in training mode have `means2d_absgrad`, for density control; not saved.
        sample_buffers: size of the lists of Gaussians by tile in a training step, so that a GPU is not waited for and
            its graph can be captured; None, the default: as long as they are. `Trainer` sets it.

    Raises:
        ValueError: near is not positive, low_pass negative, or backend another.
    """

    absolute: bool = False
    buffer_names = ("tiles",)
    """The one buffer: pairs of a Gaussian and a tile of the image."""
    sample_buffers: Buffers | None = None

    def __init__(
        self, antialiased: bool = False, near: float = 0.01, low_pass: float = 0.3, backend: Backend = "headfields"
    ) -> None:
        super().__init__()
        if not near > 0:
            raise ValueError(f"SplatRenderer: near is {near} m; expected a positive distance")
        if not low_pass >= 0:
            raise ValueError(f"SplatRenderer: low_pass is {low_pass}; expected 0 pixels² or more (3DGS: 0.3)")
        if backend not in get_args(Backend):
            raise ValueError(f"SplatRenderer: backend is {backend!r}; expected one of {', '.join(get_args(Backend))}")
        self.antialiased = antialiased
        self.near = near
        self.low_pass = low_pass
        self.backend: Backend = backend

    @property
    def takes_buffers(self) -> bool:
        """Whether the lists of Gaussians by tile can have a fixed size."""
        return self.backend != "gsplat"

    def extra_repr(self) -> str:
        own = f"antialiased={self.antialiased}, near={self.near} m, low_pass={self.low_pass} px²"
        return own if self.backend == "headfields" else f"{own}, backend={self.backend!r}"

    def forward(
        self, splats: Splats, camera: Camera, background: Float[Tensor, "3"] | Float[Tensor, "b h w 3"]
    ) -> Rendering:
        """Images of B cameras.

        Args:
            splats: (B, N, ...) in posed space, meters.
            camera: B cameras of one size.
            background: (3,), or (B, H, W, 3), sRGB in [0, 1].

        Returns:
            A `Rendering` of (B, H, W, ...), with `splats`; in training mode also `rasterized`, and with gradients
            enabled `means2d_offset` (B, N, 2), which after the backward pass has the gradient by the projected centers.
        """
        colors = splats.harmonics if splats.colors is None else splats.colors
        assert colors is not None
        means2d_offset = absolute = None
        if self.training and torch.is_grad_enabled():
            means2d_offset = splats.means.new_zeros(*splats.means.shape[:-1], 2, requires_grad=True)
            absolute = torch.zeros_like(means2d_offset, requires_grad=True) if self.absolute else None
        buffers = self.sample_buffers if self.training else None
        result = rasterize_gaussians(
            splats.means, splats.quaternions, splats.scales, splats.opacities, colors, camera, background,
            harmonics=splats.colors is None, antialiased=self.antialiased, near=self.near, low_pass=self.low_pass,
            means2d_offset=means2d_offset, means2d_absgrad=absolute, max_tile_entries=0 if buffers is None else
            buffers.rows.get("tiles", 0), count_pixels=self.training, backend=self.backend,
        )  # fmt: skip
        if buffers is not None:
            buffers.size("tiles", lambda: result.entries)
            buffers.note("tiles", result.entries)
        lens = camera.intrinsics.reshape(-1, 3, 3).to(result.depth)
        return Rendering(
            rgb=result.color, opacity=result.opacity, depth=result.depth * ray_length(lens, *camera.size),
            normal=result.normal, splats=splats, rasterized=result if self.training else None,
            means2d_offset=means2d_offset, means2d_absgrad=absolute,
        )  # fmt: skip
