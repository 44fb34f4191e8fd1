"""Blendshapes of the eyelids, which metrical-tracker and Pixel3DMM add to FLAME's posed mesh."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.data.image_files import exists
from headfields.files.arrays import load_npy
from headfields.heads.skinned import SkinnedHead

__all__ = ["Lids", "read_eyelids"]

_FILES = ("l_eyelid.npy", "r_eyelid.npy")
"""Names under which metrical-tracker's repository has the left and the right one."""
_LARGEST = 10.0
"""Largest weight of a lid."""


def read_eyelids(op: str, paths: Sequence[Path | str], head: SkinnedHead) -> Float[Tensor, "2 v 3"]:
    """Displacements at weight 1, meters, of the left and the right lid.

    Args:
        op: the caller, for messages.
        paths: the two files, the left lid's first.
        head: the head that they are of.

    Raises:
        CaptureError: there are not two, or a file holds anything but finite numbers (V, 3).
    """
    if len(paths) != 2:
        raise CaptureError(f"{op}: eyelids has {len(paths)} files; expected two, {' and '.join(_FILES)}")
    shape = tuple(head.template_vertices.shape)
    arrays = []
    for path in paths:
        if not exists(Path(path)):
            raise CaptureError(f"{op}: eyelids: {path} is no file; copy it from the tracker's repository")
        array = load_npy(path, CaptureError)
        if array.dtype.kind not in "fiu" or array.shape != shape or not np.isfinite(array).all():
            raise CaptureError(
                f"{op}: eyelids: {path} has shape {array.shape}; expected finite numbers {shape}, one displacement a "
                "vertex of the head"
            )
        arrays.append(torch.from_numpy(array.astype(np.float32)).to(head.template_vertices))
    return torch.stack(arrays)


def _find_eyelids(folders: Sequence[Path]) -> tuple[Path, Path] | None:
    """The two files in the first folder that has either."""
    for place in folders:
        paths = place / _FILES[0], place / _FILES[1]
        if exists(paths[0]) or exists(paths[1]):
            return paths
    return None


class Lids:
    """What the weights of the eyelids' blendshapes add to each frame's posed mesh.

    Args:
        head: the head.
        weights: (2,) of each frame, by the name of its file: the left lid's first.
        given: the two files; None: those in the first of `folders` that has them.
        folders: folders to look in.
        report: gets a warning where lids move and there are no blendshapes.

    Raises:
        CaptureError: a file does not fit the head, or a weight is huge.
    """

    def __init__(
        self,
        head: SkinnedHead,
        weights: Mapping[str, Float[Tensor, "2"]],
        given: Sequence[Path | str] | None,
        folders: Sequence[Path],
        report: list[str],
    ) -> None:
        paths = _find_eyelids(folders) if given is None else given
        self._weights = list(weights.values())
        self._shapes = None if paths is None else read_eyelids("load_capture", paths, head)
        for name, weight in weights.items():
            if weight.abs().max() > _LARGEST:
                raise CaptureError(f"{name}: flame.eyelids is {weight.tolist()}; expected weights, 1 for a closed lid")
        largest = max(float(weight.abs().max()) for weight in weights.values())
        if self._shapes is None and largest > 0:
            report.append(
                f"warning: frames move the eyelids (weights up to {largest:.2f}), and there are no "
                f"{' and '.join(_FILES)}: lids do not close. Copy them from the tracker's repository into "
                f"{folders[0]}, or pass eyelids"
            )

    def weights(self, index: int) -> Float[Tensor, "2"]:
        """Those of a frame, the left lid's first."""
        return self._weights[index]

    def displacement(self, index: int) -> dict[str, Tensor]:
        """The entry `displacement` (1, V, 3) of `FlameFrames`' arguments, if there is any."""
        if self._shapes is None:
            return {}
        weights = self._weights[index].to(self._shapes)
        return {"displacement": torch.einsum("l,lvc->vc", weights, self._shapes)[None]}
