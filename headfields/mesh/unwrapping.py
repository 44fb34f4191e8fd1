"""Templates that come without texture coordinates."""

from headfields.ops.unwrap import unwrap
from headfields.records import Template


def unwrapped(template: Template, margin: float | int = 1 / 64, detail: float | int = 0.5) -> Template:
    """The template with texture coordinates: its own, or if it has none, those of `headfields.ops.unwrap`.

    Args:
        template: any.
        margin, detail: see `headfields.ops.unwrap`.

    Returns:
        A template with `uv` and `uv_faces`. Save it, or the avatar that stands on it: a network trained on a map is of
        no use on another.

    Raises:
        ValueError: as `headfields.ops.unwrap`.
    """
    if template.uv is not None and template.uv_faces is not None:
        return template
    uv, uv_faces = unwrap(template.canonical_vertices, template.faces, margin, detail)
    return template.replace(uv=uv, uv_faces=uv_faces)
