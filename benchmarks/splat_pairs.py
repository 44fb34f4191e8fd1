"""What the rasterizer of a GPU has to add up, counted on the CPU: `python -m benchmarks.splat_pairs`.

Of the scene of `benchmarks.operations.splat`: pairs of a Gaussian and a pixel that are tested, by bounding boxes and by
the tiles that an ellipse reaches; pairs that draw; and atomic additions of a step whose loss is of colors, where each
pixel adds its own, and where 32 threads add up what they have for a Gaussian first. No GPU is needed.
"""

import argparse

import torch

from benchmarks.operations.splat import Scene
from headfields.ops import _rasterize_warp, dispatch
from headfields.ops._rasterize_warp import TILE
from headfields.ops.reference.rasterize_gaussians import LEAST_ALPHA, MOST_ALPHA

LEAST_LIGHT = 1e-5
"""As in `headfields.ops.kernels.splat_tiles`, which is Warp's to import."""
NUMBERS = 9
"""Numbers of a pair's gradient: center, conic, opacity and color."""
GROUP = 32


def count(gaussians: int, side: int) -> dict[str, int]:
    """The counts, of an image of side x side pixels, a multiple of a tile's."""
    scene = Scene(gaussians, side, "cpu")
    means, quaternions, scales, opacities, _ = (tensor[None] for tensor in scene.inputs)
    lens = (scene.camera.world_to_camera.reshape(-1, 4, 4), scene.camera.intrinsics.reshape(-1, 3, 3))
    rows = torch.ops.headfields.splat_project(
        means, quaternions, scales, opacities, *lens, side, side, 0.01, 0.3, False
    )[0]
    with dispatch.use_cpu_backend("warp"):
        starts, members, _ = _rasterize_warp._lists(rows, rows.new_empty(0, 0, 0), side, side, 0)
    result = {"tested by boxes": TILE**2 * _in_boxes(rows[0], side), "tested": 0, "drawn": 0, "groups": 0}
    pixel, across = torch.arange(TILE**2), side // TILE
    for tile, (first, last) in enumerate(zip(starts[0].tolist(), starts[0, 1:].tolist(), strict=False)):
        row = rows[0, members[first:last].long()]
        x = (tile % across) * TILE + pixel % TILE + 0.5 - row[:, 0:1]
        y = (tile // across) * TILE + pixel // TILE + 0.5 - row[:, 1:2]
        power = -0.5 * (row[:, 2:3] * x * x + row[:, 4:5] * y * y) - row[:, 3:4] * x * y
        alpha = row[:, 5:6] * power.exp()
        through = torch.cumprod(1 - torch.where(alpha >= LEAST_ALPHA, alpha.clamp_max(MOST_ALPHA), 0.0), 0)
        before = torch.cat([torch.ones_like(through[:1]), through[:-1]])[: len(row)]
        drawn = (alpha >= LEAST_ALPHA) & (before > LEAST_LIGHT)
        result["tested"] += drawn.numel()
        result["drawn"] += int(drawn.sum())
        result["groups"] += int(drawn.unflatten(1, (-1, GROUP)).any(-1).sum())
    each = {"additions, each pixel": NUMBERS * result["drawn"], "additions": NUMBERS * result["groups"]}
    return result | each


def _in_boxes(rows: torch.Tensor, side: int) -> int:
    """Entries of lists that hold all Gaussians whose bounding box touches the tile."""
    rows = rows[(rows[:, 5] >= LEAST_ALPHA) & (rows[:, 2] > 0) & rows[:, 6].isfinite()].double()
    determinant = rows[:, 2] * rows[:, 4] - rows[:, 3] ** 2
    reach = 2 * (rows[:, 5] / LEAST_ALPHA).log() / determinant
    total = torch.ones(len(rows), dtype=torch.long)
    for center, spread in ((rows[:, 0], rows[:, 4]), (rows[:, 1], rows[:, 2])):
        half = (reach * spread).sqrt()
        low, high = ((center - 0.5 + sign * half).clamp(0, side - 1) for sign in (-1, 1))
        seen = (center - 0.5 + half >= 0) & (center - 0.5 - half <= side - 1)
        total *= torch.where(seen, high.long() // TILE - low.long() // TILE + 1, 0)
    return int(total.sum())


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.splat_pairs", description=__doc__)
    parser.add_argument("--gaussians", type=int, default=80_000)
    parser.add_argument("--side", type=int, default=512, help=f"of the image, a multiple of {TILE} pixels")
    options = parser.parse_args()
    if options.side % TILE or options.gaussians < 1:
        parser.error(
            f"--side is {options.side} and --gaussians {options.gaussians}; a multiple of {TILE}, and 1 or more"
        )
    for name, number in count(options.gaussians, options.side).items():
        print(f"{name}: {number:,}")


if __name__ == "__main__":
    main()
