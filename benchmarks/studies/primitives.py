"""Avatars of `primitives.toml`: a deformer, an encoder and a decoder, by name; all else is shared."""

from typing import Any

import torch

import headfields as hf
from headfields.deformers import (
    Blendfield,
    Chain,
    InverseSkinning,
    NearSurface,
    SurfaceCanonicalizer,
    WeightFieldSkinning,
)
from headfields.deformers.skinning_weights import SkinningWeights
from headfields.encoders import HashGrid, RegionGate, UVDisplacementFeatures, VertexFeatures
from headfields.encoders.vertex_tables import CodeFeatures
from headfields.losses import Eikonal, SurfacePrior
from headfields.mesh.unwrapping import FEATURE_WEIGHTS
from headfields.networks.field_basis import BlendCoefficients
from headfields.renderers import NeuSAlpha, ScheduledSharpness, SurfaceRenderer, VolumeRenderer
from headfields.training.preset_losses import blendfield_losses


def avatar(capture: Any, deformer: str, encoder: str, decoder: str) -> hf.Avatar:
    """The composition of three names of the study."""
    template = capture.template
    coarse = deformer_of(deformer, capture)
    fixed = None if deformer == "none" else template.canonical_vertices  # anchors of features, in the deformer's space
    condition = None
    if encoder == "hash grid":
        features: hf.Encoder = HashGrid(12, 4, 15, base_resolution=16, finest_resolution=512)
        if deformer != "none":  # without a surface to which a point belongs, nothing says which points are the mouth
            condition = RegionGate("expression", template.regions["mouth"], width=min(64, capture.expression_width))
    elif encoder == "UV CNN":
        # `variance_lost` of this map: 0 at the mouth, 0.01 at the eyes, 0.04 of the face (64²: 0.40, 0.51, 0.54),
        # so that the row compares encoders and not the room of a map.
        unwrapped = hf.mesh.unwrap_template(template, weights=FEATURE_WEIGHTS)
        source = UVDisplacementFeatures(unwrapped, width=16, channels=(8, 16, 32), resolution=128)
        features = VertexFeatures(source, 4, fixed, bands=6, hidden=64, layers=2, merged_layers=1)
    else:
        codes = CodeFeatures(len(template.canonical_vertices), {"expression": capture.expression_width}, width=16)
        features = VertexFeatures(codes, 4, fixed, bands=6, hidden=64, layers=2, merged_layers=1)
    sampler = hf.renderers.OccupancySampler("posed", 64, 0.003, warmup=48)
    if decoder == "NeuS":
        sharpness = ScheduledSharpness(300.0, 2400.0, growth=2.0**0.5, every=60)
        head: hf.Decoder = hf.decoders.NeuSDecoder(hidden=64, layers=2, radius=0.1)
        renderer: hf.Renderer = SurfaceRenderer(sampler, NeuSAlpha(sharpness))
    else:
        head, renderer = hf.decoders.NeRFDecoder(hidden=64, direction_degree=4), VolumeRenderer(sampler)
    return hf.Avatar(
        deformer=coarse, encoder=features, condition=condition, decoder=head, renderer=renderer, template=template
    )  # fmt: skip


def deformer_of(name: str, capture: Any) -> hf.Deformer:
    """A deformer of the study."""
    template = capture.template
    mesh = template.canonical_vertices, template.faces
    if name == "none":
        return NearSurface(*mesh)
    if name in ("triangle skinning", "field skinning"):
        weights = hf.synthetic.procedural_head().weights
        if len(weights) != len(mesh[0]):
            raise ValueError(f"skinning weights are of {len(weights)} vertices; the capture's mesh has {len(mesh[0])}")
        return InverseSkinning(*mesh, weights) if name == "triangle skinning" else WeightFieldSkinning(
            SkinningWeights(*mesh, weights, learned=False)
        )  # fmt: skip
    name, _, blended = name.partition(" + ")
    scaling: Any = name.removeprefix("surface").strip() or "none"
    surface = SurfaceCanonicalizer(*mesh, scaling=scaling, blended_faces=template.regions.get("face"))
    if not blended:
        return surface
    width = min(64, capture.expression_width)
    return Chain(surface, Blendfield(surface.bounds(), BlendCoefficients({"expression": width}, fields=8)))


def regularizers(avatar: Any) -> list[Any]:
    """What a distance and a blendfield need beside the recipe's losses."""
    found: list[Any] = blendfield_losses(avatar)
    if getattr(avatar.decoder, "gives", "") == "distance":
        # Faces where the tracked mesh is the surface: not the eyeballs, mostly hidden, nor the closed mouth.
        regions, faces = avatar.template.regions, avatar.template.faces
        inner = torch.stack([regions[name] for name in ("eyes", "mouth") if name in regions]).any(0)
        found += [Eikonal(weight=0.5), SurfacePrior(faces[~inner])]
    return found
