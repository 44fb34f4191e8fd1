"""What maps over texture coordinates can hold of free vertex features, by layout, size and region.

`python -m benchmarks.uv_capacity --capture DIR`

Three layouts: the template's own (where it has one), that of `hf.ops.unwrap`, and that with most of the map for mouth
and eyes. Of each, the share of variance lost (`headfields.mesh.unwrapping.variance_lost`) at the tracked vertices and
at the anchors of MonoAvatar's CPU sizes, in percent, in face, mouth and eyes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import headfields as hf
from headfields.mesh.unwrapping import FEATURE_WEIGHTS, unwrap_template, variance_lost
from headfields.models.monoavatar import SIZES

REGIONS = ("face", "mouth", "eyes")


def lost(template: hf.Template, resolution: int) -> str:
    """The share lost in each region that the template has, in percent."""
    share = variance_lost(template, resolution)
    regions = [name for name in REGIONS if name in template.regions]
    return " / ".join(f"{100 * share[template.faces[template.regions[name]].unique()].mean():.0f}" for name in regions)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--capture", type=Path, help="folder of a capture; none: the drawn head")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 192, 256])
    options = parser.parse_args(arguments)
    if options.capture:
        template = hf.data.load_capture(options.capture, mouth="auto").template
    else:
        template = hf.synthetic.procedural_head().template()
    bare = template.replace(uv=None, uv_faces=None)
    layouts = {"unwrapped": unwrap_template(bare), "weighted": unwrap_template(bare, weights=FEATURE_WEIGHTS)}
    if template.uv is not None:
        layouts = {"its own": template, **layouts}
    region = torch.stack([template.regions[name] for name in ("mouth", "eyes")]).any(0)
    print(f"percent lost at {' / '.join(REGIONS)}")
    for name, layout in layouts.items():
        anchors = hf.mesh.subdivide(layout, region, **SIZES["cpu"]["edges"]).template
        for kind, mesh in (("vertices", layout), ("anchors", anchors)):
            cells = ", ".join(f"{size}²: {lost(mesh, size)}" for size in options.sizes)
            print(f"{name}, {len(mesh.canonical_vertices):,} {kind}: {cells}")


if __name__ == "__main__":
    main()
