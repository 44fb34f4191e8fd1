"""Rigged upper bodies of random people, and templates of somebody else to track them with."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.rigging.rigged_template import RiggedTemplate, triangle_landmarks
from headfields.ops.skinning import blend_shapes
from headfields.synthetic.body.model import procedural_body
from headfields.synthetic.body.texture import procedural_body_texture

__all__ = ["procedural_rig"]

_SKINS = ((0.80, 0.60, 0.50), (0.62, 0.43, 0.33), (0.72, 0.53, 0.42), (0.85, 0.68, 0.58))
_SHIRTS = ((0.30, 0.38, 0.48), (0.45, 0.20, 0.20), (0.24, 0.36, 0.26), (0.52, 0.50, 0.44))
_MIX = 0.2
"""Share of every other expression in an expression of another basis, before normalization."""


def procedural_rig(identity: int | None = None, basis: int | None = None, resolution: int = 512) -> RiggedTemplate:
    """A rig of the procedural body with a texture: SMPL-X's joints, the procedural head's expressions and landmarks.

    Args:
        identity: seed of the body's and head's shape, and of skin and shirt; None: the mean body.
        basis: seed of another expression basis: each expression has another strength, some of all others, and a
            strength that varies over the face, so that its span is another one. None: the procedural head's.
        resolution: side of the texture in texels.

    Returns:
        The rig. People of the same arguments are the same.

    Raises:
        ValueError: a seed is negative.
    """
    if min(identity or 0, basis or 0) < 0:
        raise ValueError(f"procedural_rig: identity is {identity} and basis {basis}; expected at least 0, or None")
    body = procedural_body()
    rest, number = body.template_vertices, 0 if identity is None else identity + 1
    if identity is not None:
        random = np.random.default_rng([identity, 31])
        coefficients = np.clip(random.normal(size=body.shape_count), -1.5, 1.5)
        coefficients[len(body.shape_names) :] = 0
        rest = rest + blend_shapes(torch.from_numpy(coefficients).float()[None], body.shape_basis)[0]
    expressions = body.expression_basis
    if basis is not None:
        expressions = _other_basis(expressions, rest, len(body.expression_names), basis)
    assert body.landmark_faces is not None and body.landmark_barycentric is not None
    texture = procedural_body_texture(
        resolution, _SKINS[number % len(_SKINS)], _SHIRTS[number % len(_SHIRTS)], seed=20 * number
    )
    return RiggedTemplate(
        template=rest, faces=body.faces, shape_basis=body.shape_basis[:0], expression_basis=expressions,
        pose_basis=body.pose_basis, joint_regressor=body.joint_regressor, weights=body.weights, parents=body.parents,
        landmarks=triangle_landmarks(body.landmark_faces, body.landmark_barycentric), uv=body.uv,
        uv_faces=body.uv_faces, regions=body.regions, expression_names=body.expression_names,
        texture=torch.from_numpy(np.ascontiguousarray(texture)).float().clamp(0, 1),
    )  # fmt: skip


def _other_basis(
    basis: Float[Tensor, "e v 3"], rest: Float[Tensor, "v 3"], named: int, seed: int
) -> Float[Tensor, "e v 3"]:
    """The first `named` directions mixed, each with a strength that varies over the head."""
    random = np.random.default_rng([seed, 32])
    mix = np.diag(random.uniform(0.75, 1.25, named)) + _MIX * random.normal(size=(named, named)) / named**0.5
    waves = torch.from_numpy(random.normal(size=(named, 3))).float()
    phase = torch.from_numpy(random.uniform(0, 2 * np.pi, named)).float()
    strength = 1 + 0.3 * torch.sin(40 * (rest @ waves.T) + phase).T  # (E, V); some fifteen centimeters a wave
    out = basis.clone()
    out[:named] = torch.einsum("ef,fvc->evc", torch.from_numpy(mix).float(), basis[:named]) * strength[..., None]
    return out
