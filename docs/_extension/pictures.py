"""Pictures of parts that a second draws: `python docs/_extension/pictures.py` writes them to docs/images/parts."""

import math
from pathlib import Path

import torch
from PIL import Image

import headfields as hf
from headfields.viz.images import to_uint8

FOLDER = Path(__file__).resolve().parents[1] / "images" / "parts"
COLORS = torch.tensor([[0.75, 0.75, 0.75], [0.25, 0.5, 0.85], [0.9, 0.45, 0.2], [0.3, 0.7, 0.4], [0.3, 0.7, 0.4]])
"""Of the joints: root, neck, jaw, eyes."""


def main() -> None:
    head = hf.synthetic.procedural_head()
    save("skinning", skinning(head))
    save("uv", uv(head))


def skinning(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """The weights of the joints as colors, at rest, with the jaw open, and with the neck turned."""
    pose = torch.zeros(3, 5, 3)
    pose[1:, 2, 0] = math.radians(18)
    pose[2, 1, 1] = math.radians(35)
    look = head.weights @ COLORS
    return [hf.viz.draw_mesh(hf.Mesh(each, head.faces), "front", look, size=240) for each in head(pose=pose).vertices]


def uv(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """A posed head by its displacement from rest, the same in its map, and the head from the map."""
    rasterizer = hf.ops.UVRasterizer(head.faces, head.uv, head.uv_faces, resolution=(240, 240))
    pose = torch.zeros(1, 5, 3)
    pose[0, 2, 0] = math.radians(18)
    posed = head(pose=pose).vertices
    colors = 0.5 + (posed - head.template_vertices) / 0.08
    maps = rasterizer.vertices_to_map(colors)
    mesh = hf.Mesh(posed[0], head.faces)
    back = rasterizer.map_to_vertices(maps)[0]
    drawn = [hf.viz.draw_mesh(mesh, "front", look.clamp(0, 1), size=240) for look in (colors[0], back)]
    return [drawn[0], maps[0].permute(1, 2, 0).clamp(0, 1), drawn[1]]


def save(name: str, pictures: list[torch.Tensor]) -> None:
    Image.fromarray(to_uint8(torch.cat(pictures, dim=1))).save(FOLDER / f"{name}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
