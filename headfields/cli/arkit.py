"""`headfields arkit`: ARKit's 52 shapes for a head that lacks them."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from headfields.cli.argument_types import OptionalFile
from headfields.cli.errors import CommandError
from headfields.cli.view import load_head


def arkit(
    head: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="HEAD.npz")],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.json|FILE.npz")],
    source: Annotated[str, tyro.conf.arg(metavar="HEAD.npz|procedural")] = "procedural",
    source_arkit: OptionalFile = None,
) -> None:
    """Give a head ARKit's 52 shapes: `headfields arkit FLAME.npz --out mapping.json`.

    Carries the shapes of a head that has them over by deformation transfer; nothing is mapped by hand. A .json says
    what each is made of by the head's own expressions, jaw and eyes, in the least-squares sense: for --arkit of view,
    render and export. An .npz is a blendshape head with the transferred shapes themselves, without joints.

    Args:
        head: The head that lacks them: FLAME, SMPL-X, a rigged scan or blendshapes.
        out: File to write.
        source: A head that has them by name (ICT-FaceKit's blendshapes); or the procedural head, whose 50 are coarse.
        source_arkit: JSON of the source's own names, where it has others.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from headfields.apps.driving import shape_transfer
    from headfields.apps.export.arkit import read_mapping
    from headfields.apps.faces.arkit import ARKIT_NAMES
    from headfields.files.arrays import save_arrays
    from headfields.synthetic import procedural_head
    from headfields.synthetic.head.arkit import procedural_arkit

    if out.suffix.lower() not in (".json", ".npz"):
        raise CommandError(f"--out is {out}; expected a file that ends in .json (a mapping) or .npz (a head)")
    target = load_head(head)
    mapping = None if source_arkit is None else read_mapping(source_arkit)
    if source == "procedural":
        giver, mapping = procedural_head(), mapping or procedural_arkit()
    else:
        giver = load_head(Path(source))
    shapes, has = shape_transfer.arkit_shapes(giver, mapping)
    print(f"{int(has.sum())} of 52 shapes are carried over ...", file=sys.stderr)
    moved = torch.zeros(len(shapes), len(target.template_vertices))[..., None].repeat(1, 1, 3)
    surface = shape_transfer.shaped_surface(giver, shapes)
    moved[has] = shape_transfer.transferred_shapes(giver, shapes[has], target, surface)
    if out.suffix.lower() == ".npz":
        with torch.no_grad():
            neutral = target().vertices[0]
        arrays = {"template": neutral, "faces": target.faces, "expression": moved}
        named = {name: tensor.numpy() for name, tensor in arrays.items()}
        save_arrays(out, {**named, "expression_names": np.array(ARKIT_NAMES)})
        print(f"{out}: {len(neutral)} vertices, 52 shapes")
        return
    mapped = shape_transfer.mapping_of_shapes(
        target, moved, has, lambda rows: tqdm(rows, unit="shape", file=sys.stderr)
    )
    left = {name: mapped.errors[name] / max(mapped.sizes[name], 1e-9) for name in mapped.errors}
    for name in sorted(left, key=lambda each: -left[each])[:5]:
        print(
            f"{name}: {1e3 * mapped.errors[name]:.2f} mm of {1e3 * mapped.sizes[name]:.2f} mm are left", file=sys.stderr
        )
    print(f"{shape_transfer.write_mapping(out, mapped)}: {len(mapped.recipes)} shapes")
