"""Names in files that earlier versions wrote (classes, arguments, tensors), and what they are called now.

The one place for them: saved avatars, priors and checkpoints hold the names of the version that wrote them.
"""

CLASSES: dict[str, str] = {
    "headfields.anchors.prediction.Anchors": "headfields.networks.anchors.Anchors",
    "headfields.codes.LatentTable": "headfields.networks.latent_table.LatentTable",
    "headfields.decoders.blended_colour.BlendedColour": "headfields.decoders.blended_color.BlendedColor",
    "headfields.decoders.lighting.ColourAffine": "headfields.renderers.lighting.ColorAffine",
    "headfields.decoders.lighting.SHLighting": "headfields.renderers.lighting.SHLighting",
    "headfields.deformers.basis.BlendCoefficients": "headfields.networks.field_basis.BlendCoefficients",
    "headfields.deformers.skinning_roots.SkinningRoots": "headfields.deformers.skinning.SkinningRoots",
    "headfields.deformers.skinning_roots.WeightFieldSkinning": "headfields.deformers.skinning.WeightFieldSkinning",
    "headfields.encoders.colour_fields.ColourFields": "headfields.encoders.color_fields.ColorFields",
    "headfields.priors.rows.CodeTable": "headfields.priors.code_table.CodeTable",
}
"""Dotted names of `Part`s in version 0.1.0, and their names now."""

ARGUMENTS: dict[str, dict[str, str]] = {
    "headfields.decoders.anchored.AnchoredDecoder": {"neighbours": "neighbors"},
    "headfields.decoders.nerf.NeRFDecoder": {"colour_layers": "color_layers"},
    "headfields.decoders.neus.NeuSDecoder": {"colour_layers": "color_layers", "centre": "center"},
    "headfields.decoders.radiance_head.RadianceHead": {"colour_layers": "color_layers"},
    "headfields.encoders.vertex_features.VertexFeatures": {"neighbours": "neighbors"},
    "headfields.networks.anchors.Anchors": {"centre": "center"},
}
"""For a `Part`, by its dotted name now: old names of arguments of its constructor, and their names now."""

TENSORS: list[tuple[str, str]] = [
    ("centre", "center"),
    ("colour_network", "color_network"),
    ("neighbour_network", "neighbor_network"),
]
"""Parts of tensors' keys, whole names between dots, that were renamed: old and new, in the order they are applied."""


def part(name: str) -> str:
    """The dotted name of a `Part` now, from its name in a file.

    >>> part("mine.Encoder")
    'mine.Encoder'
    """
    return CLASSES.get(name, name)


def argument(part_name: str, name: str) -> str:
    """The name of an argument now, of the part called `part_name` now."""
    return ARGUMENTS.get(part_name, {}).get(name, name)


def tensor(name: str) -> str:
    """The key of a tensor in a state dict now, from its key in a file."""
    key = f".{name}."
    for old, new in TENSORS:
        key = key.replace(f".{old}.", f".{new}.")
    return key[1:-1]
