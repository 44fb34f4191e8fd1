"""Texture coordinates for templates that have none, and how much of free features a map of them can hold."""

from collections.abc import Mapping

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.ops.unwrap import unwrap
from headfields.ops.uv import UVRasterizer
from headfields.records import Template

FEATURE_WEIGHTS = {"mouth": 6.0, "eyes": 6.0}
"""Weights of regions for maps of features: `variance_lost` at mouth and eyes chose them among 1 to 8."""

_PROBES = 64
_RIDGE = 1e-6  # what needs texels of more than a thousand times the features' size counts as lost


def unwrap_template(
    template: Template,
    margin: float | int = 1 / 64,
    detail: float | int = 0.5,
    weights: Mapping[str, float | int] | None = None,
) -> Template:
    """The template with texture coordinates: its own, or those of `headfields.ops.unwrap` if it has none.

    Args:
        template: a template with or without texture coordinates.
        margin, detail: options as in `headfields.ops.unwrap`.
        weights: factors on the room of faces by the name of their region, those of all its regions multiplied; names
            that the template lacks have no effect. None: the same for all. `FEATURE_WEIGHTS` are for maps of features.

    Returns:
        A template with `uv` and `uv_faces`. Save it, or an avatar built on it: a network trained on one UV map does not
        work on another.

    Raises:
        ValueError: as `headfields.ops.unwrap`.

    >>> import headfields as hf
    >>> head = hf.synthetic.procedural_head()
    >>> template = hf.mesh.unwrap_template(hf.Template(head.template_vertices, head.faces))
    >>> template.uv_faces.shape == head.faces.shape
    True
    """
    if template.uv is not None and template.uv_faces is not None:
        return template
    factors = None
    if weights is not None:
        factors = torch.ones(len(template.faces), dtype=torch.float64)
        for name, factor in weights.items():
            if name in template.regions:
                factors[template.regions[name].cpu()] *= factor
    uv, uv_faces = unwrap(template.canonical_vertices, template.faces, margin, detail, factors)
    return template.replace(uv=uv, uv_faces=uv_faces)


def variance_lost(template: Template, resolution: int | tuple[int, int]) -> Float[Tensor, " v"]:
    """The share of the variance of free vertex features that a map over the texture coordinates cannot hold.

    The map is what `UVDisplacementFeatures` samples: texels, looked up bilinearly at the vertices. Here the texels are
    free too, and fitted by least squares to features that are independent normal numbers at each vertex. What remains
    is lost to any network over that map, whatever its size: 0 where each vertex has texels of its own, 1 where many
    share one. It is estimated with 64 features, for regions to about a hundredth.

    Args:
        template: with texture coordinates.
        resolution: (H, W) of the map in texels, or one number for both.

    Returns:
        (V,) in [0, 1] up to the estimate's spread; its mean over the vertices of a region is that region's share.

    Raises:
        ValueError: the template has no texture coordinates, or as `UVRasterizer`.

    >>> import torch, headfields as hf
    >>> from headfields.mesh.unwrapping import unwrap_template, variance_lost
    >>> head = hf.synthetic.procedural_head()
    >>> template = hf.Template(head.template_vertices, head.faces, regions={"mouth": head.regions["mouth"]})
    >>> mouth = template.faces[template.regions["mouth"]].unique()
    >>> lost = variance_lost(unwrap_template(template), 64)[mouth].mean()
    >>> kept = variance_lost(unwrap_template(template, weights={"mouth": 6}), 64)[mouth].mean()
    >>> bool(kept < lost - 0.1)
    True
    """
    if template.uv is None or template.uv_faces is None:
        raise ValueError(
            "variance_lost: the template has no texture coordinates; headfields.mesh.unwrap_template(template) makes "
            "them"
        )
    count = len(template.canonical_vertices)
    rasterizer = UVRasterizer(template.faces, template.uv, template.uv_faces, resolution, 0.0, count)
    lookup = rasterizer.lookup_matrix()
    gram = lookup @ lookup.T + _RIDGE * scipy.sparse.identity(count)
    probes = np.random.default_rng(0).standard_normal((count, _PROBES))
    remaining = _RIDGE * scipy.sparse.linalg.splu(gram.tocsc()).solve(probes) if count else probes
    return torch.from_numpy((remaining**2).mean(axis=1)).float()
