"""How far ARKit's shapes are from the truth on a head that gets them by deformation transfer.

`python -m benchmarks.shape_transfer [HEAD.npz ...]`: each head (the procedural one, and blendshape heads with ARKit's
names, such as ICT-FaceKit's) gives its shapes to itself, cut differently: the front's triangles in three, the vertices
in another order, without expressions, seen neither with its mouth open nor with its eyes shut. The truth on the new
mesh is known. Printed are, for each shape over all vertices of the skin, eyeballs apart: its largest displacement, and
mean, 95 % and maximum of the distance from the truth, in millimeters.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.driving.shape_transfer import arkit_shapes, shaped_surface, transferred_shapes
from headfields.apps.faces.arkit import ARKIT_NAMES
from headfields.apps.retargeting.sources import surface_of_head
from headfields.heads.blendshapes import BlendshapeHead
from headfields.synthetic import procedural_head
from headfields.synthetic.head.arkit import procedural_arkit


@dataclass(frozen=True)
class CutHead:
    """A head cut finer.

    Attributes:
        head: its mesh, with no expression of its own.
        truth: (52, W, 3) the shapes on it, meters.
        skin: (N,) its vertices that are not of eyeballs.
    """

    head: BlendshapeHead
    truth: Float[Tensor, "52 w 3"]
    skin: Int[Tensor, " n"]


def cut_head(head: Any, shapes: Float[Tensor, "52 v 3"], seed: int = 0) -> CutHead:
    """A head whose front triangles are cut in three, in another order of vertices."""
    surface = surface_of_head(head)
    rest, faces = surface.neutral, head.faces
    front = rest[faces][..., 2].mean(-1) > rest[:, 2].mean()
    a, b, c = faces[front].T
    center = len(rest) + torch.arange(len(a))
    finer = [torch.stack(corners, -1) for corners in ((a, b, center), (b, c, center), (c, a, center))]
    order = torch.randperm(len(rest) + len(a), generator=torch.Generator().manual_seed(seed))
    place = order.argsort()

    def on(values: Tensor) -> Tensor:
        return torch.cat([values, values[..., faces[front], :].mean(-2)], -2)[..., order, :]

    marks = None if surface.landmarks is None else place[surface.landmarks]
    finer_faces = place[torch.cat([faces[~front], *finer])]
    finer_head = BlendshapeHead(on(rest), finer_faces, torch.zeros(0, len(order), 3), landmarks=marks)
    eyes = torch.zeros(len(order), dtype=torch.bool)
    for ball in surface_of_head(finer_head).eyeballs:
        eyes[ball.vertices] = True
    used = finer_faces.flatten().unique()
    return CutHead(finer_head, on(shapes), used[~eyes[used]])


def transfer_error(
    head: Any, cut: CutHead, shapes: Float[Tensor, "52 v 3"], has: Bool[Tensor, "52"]
) -> Float[Tensor, "n s"]:
    """Distances (shapes that the head has, skin) from the truth, meters."""
    carried = transferred_shapes(head, shapes[has], cut.head, shaped_surface(head, shapes))
    return (carried - cut.truth[has]).norm(dim=-1)[:, cut.skin]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", type=Path, nargs="*", metavar="HEAD.npz")
    given = parser.parse_args()
    procedural = procedural_head()
    heads = [("procedural head", procedural, *arkit_shapes(procedural, procedural_arkit()))]
    for path in given.heads:
        read = BlendshapeHead.from_file(path)
        heads.append((path.name, read, *arkit_shapes(read)))
    for name, head, shapes, has in heads:
        cut = cut_head(head, shapes)
        error = 1e3 * transfer_error(head, cut, shapes, has)
        size = 1e3 * cut.truth[has].norm(dim=-1)[:, cut.skin].amax(1)
        names = [shape for shape, given in zip(ARKIT_NAMES, has.tolist(), strict=True) if given]
        print(f"{name}: {len(names)} shapes, {len(cut.skin)} vertices of skin")
        print(f"{'':20} {'size':>7} {'mean':>7} {'95 %':>7} {'max':>7}")
        for row in error.amax(1).argsort(descending=True).tolist():
            each = error[row]
            print(f"{names[row]:20} {size[row]:7.2f} {each.mean():7.3f} {each.quantile(0.95):7.3f} {each.max():7.3f}")
        worst = error.quantile(0.95, 1).max()
        print(f"{'all':20} {size.max():7.2f} {error.mean():7.3f} {worst:7.3f} {error.max():7.3f}")


if __name__ == "__main__":
    with torch.no_grad():
        main()
