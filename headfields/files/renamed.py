"""Names in files that earlier versions wrote (classes, arguments, tensors), and what they are called now.

Saved avatars, priors and checkpoints hold the names of the version that wrote them. `headfields.runs.disk_names` has
the names in configurations and logs of run folders.
"""

from collections.abc import Container, Mapping

from torch import Tensor

CLASSES: dict[str, str] = {
    "anchors.prediction.Anchors": "networks.anchors.Anchors",
    "codes.LatentTable": "networks.latent_table.LatentTable",
    "decoders.blended_colour.BlendedColour": "decoders.blended_color.BlendedColor",
    "decoders.lighting.ColourAffine": "renderers.lighting.ColorAffine",
    "decoders.lighting.SHLighting": "renderers.lighting.SHLighting",
    "deformers.basis.BlendCoefficients": "networks.field_basis.BlendCoefficients",
    "deformers.skinning_roots.SkinningRoots": "deformers.skinning.SkinningRoots",
    "deformers.skinning_roots.WeightFieldSkinning": "deformers.skinning.WeightFieldSkinning",
    "encoders.colour_fields.ColourFields": "encoders.color_fields.ColorFields",
    "priors.rows.CodeTable": "priors.code_table.CodeTable",
}
"""`Part`s in version 0.1.0 and now: module and class, without the leading name of the package."""

ARGUMENTS: dict[str, dict[str, str]] = {
    "decoders.anchored.AnchoredDecoder": {"neighbours": "neighbors"},
    "decoders.nerf.NeRFDecoder": {"colour_layers": "color_layers"},
    "decoders.neus.NeuSDecoder": {"colour_layers": "color_layers", "centre": "center"},
    "decoders.radiance_head.RadianceHead": {"colour_layers": "color_layers"},
    "encoders.vertex_features.VertexFeatures": {"neighbours": "neighbors"},
    "networks.anchors.Anchors": {"centre": "center"},
}
"""Arguments of constructors in version 0.1.0 and now, by the `Part` they belong to, called as in `CLASSES` now."""

TENSORS: list[tuple[str, str]] = [
    ("centre", "center"),
    ("colour_network", "color_network"),
    ("neighbour_network", "neighbor_network"),
]
"""Renamed parts of tensors' keys (whole names between dots) in version 0.1.0 and now, applied in this order."""


def part(name: str) -> str:
    """The dotted name of a `Part` now, from its name in a file.

    >>> part("mine.Encoder")
    'mine.Encoder'
    """
    package, _, rest = name.partition(".")
    return f"{package}.{CLASSES.get(rest, rest)}" if package == "headfields" else name


def argument(part_name: str, name: str) -> str:
    """The name of an argument now, of the part whose dotted name now is `part_name`."""
    return ARGUMENTS.get(part_name.removeprefix("headfields."), {}).get(name, name)


def tensor(name: str) -> str:
    """The key of a tensor now, from its key in a file of version 0.1.0.

    >>> tensor("encoder.centre")
    'encoder.center'
    """
    key = f".{name}."
    for old, new in TENSORS:
        key = key.replace(f".{old}.", f".{new}.")
    return key[1:-1]


def state(saved: Mapping[str, Tensor], known: Container[str]) -> dict[str, Tensor]:
    """A state dict by the names of now, from one in a file.

    Args:
        saved: tensors by their names in the file.
        known: the names that the module has now. A saved name that is known stays: a user's own part may have a buffer
            whose name the library has given up.
    """
    return {key if key in known else tensor(key): value for key, value in saved.items()}
