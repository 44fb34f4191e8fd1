"""Losses on fields of signed distances, and the checks that all losses share; public in `headfields.losses`."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from headfields.records import Canonical, PixelBatch, Rendering


@dataclass(frozen=True)
class Eikonal:
    """Keeps the gradient of a signed distance at length 1: the mean over samples of (‖∇f‖ - 1)², ∇ by posed points.

    Source: Gropp et al. 2020, "Implicit Geometric Regularization", equation 2; at the samples of the rays as in NeuS
    (Wang et al. 2021, equation 15). Further random points are our own choice.

    Attributes:
        weight: what the trainer multiplies the loss with (NeuS: 0.1).
        elsewhere: so many further points a step, uniform in the box around the posed head, where samplers that cull
            empty space seldom look.
        name: column in the log.

    Raises:
        ValueError: elsewhere is negative; when called, the rendering is of no field of distances, or with `elsewhere`
            not in training mode.
    """

    weight: float | int = 0.1
    elsewhere: int = 0
    name: str = "eikonal"

    def __post_init__(self) -> None:
        if self.elsewhere < 0:
            raise ValueError(f"Eikonal: elsewhere is {self.elsewhere}; expected 0 or more points")

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; it trains the networks through second derivatives."""
        check_rays(self.name, rendering, batch)
        gradient = rendering.gradient
        if gradient is None:
            raise ValueError(f"{self.name} loss: the rendering has no gradients; render with a SurfaceRenderer")
        if self.elsewhere:
            canonical, _ = samples_of(self.name, rendering)
            (low, high), field, like = rendering.field.posed_bounds(), rendering.field, canonical.points
            points = low + torch.rand(self.elsewhere, 3, dtype=like.dtype, device=like.device) * (high - low)
            frame = torch.randint(len(field.state), (self.elsewhere,), device=like.device)
            where, values = field.signed_distance(points, frame)
            gradient = torch.cat([gradient, values.gradient[where.valid]])
        length = (gradient.square().sum(dim=-1) + 1e-12).sqrt()  # has derivatives at 0
        return (length - 1).square().sum() / max(len(gradient), 1)


@dataclass(frozen=True)
class SoftJaccard:
    """One minus the overlap of opacity and matte: s (1 - (I + s) / (U + s)), I = Σ o a, U = Σ (o + a - o a) over rays.

    Beside `OpacityLoss` it counts a missed pixel of a small head as much as one of a large head.

    Attributes:
        smooth: s, in rays (MonoNPHM: 5).
        weight: what the trainer multiplies the loss with (MonoNPHM's tracker: 25, then 10).
        name: column in the log.

    Raises:
        ValueError: smooth is not positive.

    Source: MonoNPHM (Giebenhain et al. 2024), released code.
    """

    smooth: float | int = 5.0
    weight: float | int = 1.0
    name: str = "silhouette"

    def __post_init__(self) -> None:
        check_more_than_0("SoftJaccard", smooth=self.smooth)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss, from 0 to s; gradients flow to `rendering.opacity`."""
        check_rays(self.name, rendering, batch)
        both = (rendering.opacity * batch.alpha).sum()
        either = rendering.opacity.sum() + batch.alpha.sum() - both
        return self.smooth * (1 - (both + self.smooth) / (either + self.smooth))


@dataclass(frozen=True, eq=False)
class SurfacePrior:
    """Draws the surface to the tracked mesh while training is young: what `DepthPrior` is to a density.

    At random points of the posed meshes of a step: the mean |distance| in centimeters, plus `normals` times the mean of
    1 - cos of the angle between the field's and the mesh's normal. It falls linearly to 0, so that hair, teeth, and
    what tracking got wrong are the images' to say. Our own choice.

    Attributes:
        faces: (F, 3) the mesh's triangles, counter-clockwise from outside; each is as likely as any other.
        samples: points a step.
        normals: weight of the normals' part.
        until: the step from which it is 0.
        weight: what the trainer multiplies the loss with.
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
        check_more_than_0("SurfacePrior", samples=self.samples, until=self.until)

    def __call__(self, rendering: Rendering, batch: PixelBatch, step: int) -> Float[Tensor, ""]:
        """The loss; it trains the shape alone."""
        check_rays(self.name, rendering, batch)
        if step >= self.until:
            return rendering.opacity.sum() * 0
        samples_of(self.name, rendering)
        field, vertices = rendering.field, rendering.field.state.vertices.detach()
        faces, device = self.faces.to(vertices.device), vertices.device
        frame = torch.randint(len(vertices), (self.samples,), device=device)
        corners = vertices[frame[:, None], faces[torch.randint(len(faces), (self.samples,), device=device)]]
        share = torch.rand(self.samples, 3, device=device).clamp_min(1e-6).log()
        points = (corners * (share / share.sum(dim=-1, keepdim=True))[..., None]).sum(dim=1)
        outward = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        outward = functional.normalize(outward, dim=-1)
        where, values = field.signed_distance(points, frame)
        miss = 100 * values.distance.abs() + self.normals * (1 - (values.normal * outward).sum(dim=-1))
        miss = torch.where(where.valid, miss, 0.0).sum() / self.samples
        return miss * (1 - step / self.until)


def samples_of(name: str, rendering: Rendering) -> tuple[Canonical, Tensor]:
    """The samples of a rendering in training mode, and their weights, without graphs."""
    if rendering.canonical is None or rendering.weights is None or rendering.field is None:
        raise ValueError(
            f"{name} loss: the rendering has no canonical samples; an avatar keeps them in training mode "
            "(avatar.train()), where corrections are on"
        )
    return rendering.canonical.detach(), rendering.weights.detach()


def check_more_than_0(loss: str, **values: float | int) -> None:
    """Each of a loss's settings must be positive; the error names the loss, the setting and its value."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{loss}: {name} is {value}; expected more than 0")


def check_rays(name: str, rendering: Rendering, batch: PixelBatch) -> None:
    """A silent broadcast between (N, 3) and an image would give a wrong loss, so the ray counts must agree."""
    if rendering.opacity.shape != batch.alpha.shape:
        raise ValueError(
            f"{name} loss: rendering.opacity has shape {tuple(rendering.opacity.shape)} and batch.alpha has shape "
            f"{tuple(batch.alpha.shape)}; render the rays of this batch (batch.rays), all of them"
        )
