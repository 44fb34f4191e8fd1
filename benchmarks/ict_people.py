"""A blendshape rig of people to train a prior on, from a capture's blendshapes, without the captured subject.

`python -m benchmarks.ict_people CAPTURE/blendshapes.npz --out people.npz`

The template of a capture's `blendshapes.npz` is its subject's neutral face, so that the mean of people drawn around it
would be the subject. Here the template is displaced by random identity coefficients, drawn as any person's are: the
subject is then one of the people who can be drawn, as far from the mean as others.

In a decimated mesh, some vertices of the lips move with the wrong lip and stick out of an open mouth like fangs. Where
a vertex near the lips follows the jaw unlike all of its neighbors, all of its expressions become the neighbors' mean.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from headfields.heads import BlendshapeHead
from headfields.mesh import Mesh
from headfields.viz import draw_mesh, save_image, side_by_side, view_camera

INNER_LIPS = range(60, 68)
NEAR = 0.02
"""Meters from an inner-lip landmark within which vertices are mended."""
UNLIKE = 0.35
"""Fraction of the jaw's largest displacement by which a vertex may differ from its neighbors' mean."""


def mend_lips(
    template: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    expression: Float[np.ndarray, "e v 3"],
    jaw: int,
    marks: Int[np.ndarray, " l"],
) -> tuple[Float[np.ndarray, "e v 3"], int]:
    """The expressions with mended lip vertices, and the number of mended vertices."""
    rings: list[set[int]] = [set() for _ in template]
    for a, b, c in faces.tolist():
        rings[a] |= {b, c}
        rings[b] |= {a, c}
        rings[c] |= {a, b}
    distance = np.linalg.norm(template[:, None] - template[marks[list(INNER_LIPS)]], axis=-1).min(axis=1)
    near = [v for v in np.flatnonzero(distance < NEAR).tolist() if rings[v]]
    out = expression.copy()
    limit = UNLIKE * np.linalg.norm(expression[jaw], axis=-1).max()
    mended = 0
    for _ in range(len(near)):
        means = np.stack([out[jaw, list(rings[v])].mean(axis=0) for v in near])
        difference = np.linalg.norm(out[jaw, near] - means, axis=-1)
        worst = int(difference.argmax())
        if difference[worst] < limit:
            break
        out[:, near[worst]] = out[:, list(rings[near[worst]])].mean(axis=1)
        mended += 1
    return out, mended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blendshapes", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the mean's offset from the subject")
    arguments = parser.parse_args()
    with np.load(arguments.blendshapes, allow_pickle=False) as file:
        arrays = dict(file)
    template, basis = arrays["template"].astype(np.float32), arrays["identity"].astype(np.float32)
    coefficients = np.clip(np.random.default_rng(arguments.seed).normal(size=len(basis)), -2, 2).astype(np.float32)
    names = arrays["expression_names"].tolist()
    mean = template + np.einsum("i,ivc->vc", coefficients, basis)
    expression, mended = mend_lips(
        template, arrays["faces"], arrays["expression"].astype(np.float32), names.index("jawOpen"), arrays["landmarks"]
    )
    np.savez_compressed(arguments.out, **(arrays | {"template": mean, "expression": expression}))
    print(f"the mean is {1e3 * np.linalg.norm(mean - template, axis=-1).mean():.1f} mm from the subject's neutral face")
    print(f"{mended} vertices of the lips mended; wrote {arguments.out}")
    head = BlendshapeHead.from_file(arguments.out)
    weights = torch.zeros(2, len(names))
    weights[1, names.index("jawOpen")] = 0.6
    posed = head(expression=weights).vertices
    views = [draw_mesh(Mesh(v, head.faces), view_camera(v, yaw, size=384)) for v in posed for yaw in (0.0, 40.0)]
    save_image(arguments.out.with_suffix(".png"), side_by_side(views))


if __name__ == "__main__":
    main()
