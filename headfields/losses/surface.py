"""Losses on the surface: Eikonal, and priors that keep depth or signed distance near the tracked mesh."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from headfields.data.labels import labels_of
from headfields.losses.base import check_positive, check_rays, field_of, in_regions, mean_over_rays, samples_of, zero_of
from headfields.parts import Rendering
from headfields.records import PixelBatch


@dataclass(frozen=True)
class Eikonal:
    """Keeps the gradient of a signed distance at length 1: the mean over samples of (‖∇f‖ - 1)², ∇ by posed points.

    Source: Gropp et al. 2020, "Implicit Geometric Regularization", equation 2; at the samples of the rays as in NeuS
    (Wang et al. 2021, equation 15). The option of further random points is our own choice.

    Attributes:
        weight: factor of the loss in the total (NeuS: 0.1).
        elsewhere: number of further points per step, uniform in the box around the posed head, where samplers that cull
            empty space place few samples.
        name: column in the log.

    Raises:
        ValueError: elsewhere is negative; when called, the rendering is not of a signed distance, or with `elsewhere`
            not in training mode.
    """

    weight: float | int = 0.1
    elsewhere: int = 0
    name: str = "eikonal"

    def __post_init__(self) -> None:
        if self.elsewhere < 0:
            raise ValueError(f"Eikonal: elsewhere is {self.elsewhere}; expected 0 or more points")

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; its gradients are second derivatives of the networks."""
        check_rays(self.name, rendering, batch)
        gradient = rendering.gradient
        if gradient is None:
            raise ValueError(f"{self.name} loss: the rendering has no gradients; render with a SurfaceRenderer")
        if self.elsewhere:
            canonical, _ = samples_of(self.name, rendering)
            field, like = field_of(self.name, rendering), canonical.points
            low, high = field.posed_bounds()
            points = low + torch.rand(self.elsewhere, 3, dtype=like.dtype, device=like.device) * (high - low)
            frame = torch.randint(len(field.state), (self.elsewhere,), device=like.device)
            mapped, values = field.signed_distance(points, frame)
            (elsewhere,) = values.require("gradient")
            gradient = torch.cat([gradient, elsewhere[mapped.valid]])
        length = (gradient.square().sum(dim=-1) + 1e-12).sqrt()  # has derivatives at 0
        return (length - 1).square().sum() / max(len(gradient), 1)


@dataclass(frozen=True)
class DepthPrior:
    """L1 between the expected depth along each ray and the depth of the tracked mesh (INSTA, released code).

    |rendering.depth - batch.depth · batch.depth_scale| in meters, summed over the rays that see a region of the mesh,
    divided by all N rays. Those rays have a label of one of the `regions`, a matte of at least `min_alpha` and a depth
    above 0. Captures render the depth of frames without depth maps from the tracked mesh. A batch without labels adds
    nothing, because hair and clothes off the mesh are not known then; `Trainer` warns of it.

    Attributes:
        regions: those that the mesh models, keys of `headfields.data.labels.REGION_LABELS`; hair, hat and cloth are
            not.
        min_alpha: matte below which a pixel is background.
        start: the first step with the term. The expected depth of a ray that is still half transparent falls far
            short, and the nearest minimum is to make all of space opaque, from which training does not recover:
            measured with a learning rate of 0.01. The released code, with a sixth of that rate, has the term from
            the start.
        weight: factor of the loss in the total.
        name: column in the log.

    Raises:
        ValueError: there is no such region.
    """

    regions: tuple[str, ...] = ("face", "mouth", "eyes", "ears", "neck")
    min_alpha: float | int = 0.001
    start: int = 500
    weight: float | int = 1.25
    name: str = "depth"

    def __post_init__(self) -> None:
        labels_of(*self.regions)

    def phase(self, step: int) -> bool:
        """What of the step the loss depends on: see `Loss`."""
        return step >= self.start

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss in meters; gradients flow to `rendering.depth`."""
        check_rays(self.name, rendering, batch)
        if not isinstance(batch, PixelBatch):
            raise ValueError(
                f"{self.name} loss: the batch is of whole images, which have no depth; it is for avatars that are "
                "rendered ray by ray, so leave it out"
            )
        if step < self.start or batch.depth is None or batch.depth_scale is None or batch.label is None:
            return rendering.depth.sum() * 0
        mask = in_regions(batch.label, *self.regions) & (batch.alpha >= self.min_alpha) & (batch.depth > 0)
        target = batch.depth * batch.depth_scale
        difference = torch.where(mask, rendering.depth - target, 0.0)  # before abs: a NaN depth outside has no gradient
        return mean_over_rays(difference.abs(), batch)


@dataclass(frozen=True, eq=False)
class SurfacePrior:
    """Draws a signed distance to the tracked mesh early in training, as `DepthPrior` does a density. Our own choice.

    At random points of the posed meshes of a step: the mean |distance| in centimeters, plus `normals` times the mean of
    1 - cos of the angle between the field's and the mesh's normal. It falls linearly to 0, so that hair, teeth and
    tracking errors follow the images in the end.

    Attributes:
        faces: (F, 3) the mesh's triangles, counter-clockwise from outside; all equally likely.
        samples: number of points per step.
        normals: weight of the term on normals.
        until: the step from which it is 0.
        weight: factor of the loss in the total.
        name: column in the log.

    Raises:
        ValueError: samples or until is not positive; when called, the rendering is not in training mode.
    """

    faces: Int[Tensor, "f 3"]
    samples: int = 1024
    normals: float | int = 0.1
    until: int = 500
    weight: float | int = 1.0
    name: str = "mesh"

    def __post_init__(self) -> None:
        check_positive("SurfacePrior", samples=self.samples, until=self.until)

    def phase(self, step: int) -> int:
        """What of the step the loss depends on: see `Loss`."""
        return min(step, self.until)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; it trains the geometry alone."""
        check_rays(self.name, rendering, batch)
        if step >= self.until:
            return zero_of(rendering)
        samples_of(self.name, rendering)
        field = field_of(self.name, rendering)
        vertices = field.state.vertices.detach()
        faces, device = self.faces.to(vertices.device), vertices.device
        frame = torch.randint(len(vertices), (self.samples,), device=device)
        corners = vertices[frame[:, None], faces[torch.randint(len(faces), (self.samples,), device=device)]]
        barycentric = torch.rand(self.samples, 3, device=device).clamp_min(1e-6).log()
        points = (corners * (barycentric / barycentric.sum(dim=-1, keepdim=True))[..., None]).sum(dim=1)
        mesh_normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        mesh_normal = functional.normalize(mesh_normal, dim=-1)
        mapped, values = field.signed_distance(points, frame)
        distance, normal = values.require("distance", "normal")
        error = 100 * distance.abs() + self.normals * (1 - (normal * mesh_normal).sum(dim=-1))
        error = torch.where(mapped.valid, error, 0.0).sum() / self.samples
        return error * (1 - step / self.until)
