"""Texture coordinates for templates that have none."""

from headfields.ops.unwrap import unwrap
from headfields.records import Template


def unwrap_template(template: Template, margin: float | int = 1 / 64, detail: float | int = 0.5) -> Template:
    """The template with texture coordinates: its own, or those of `headfields.ops.unwrap` if it has none.

    Args:
        template: a template with or without texture coordinates.
        margin, detail: options as in `headfields.ops.unwrap`.

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
    uv, uv_faces = unwrap(template.canonical_vertices, template.faces, margin, detail)
    return template.replace(uv=uv, uv_faces=uv_faces)
