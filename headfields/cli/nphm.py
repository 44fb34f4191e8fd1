"""NPHM's folders for `headfields train-prior`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headfields.apps.priors.scans.nphm import NphmScans, read_nphm
from headfields.cli.errors import CommandError
from headfields.files.arrays import load_npy
from headfields.files.reading import read_json

_MIRRORED = 0.01
"""Meters by which two mirrored anchors may differ."""


def nphm_scans(options: dict[str, Any], held_out: int) -> tuple[NphmScans, NphmScans | None]:
    """The scans to train on, and those of the last `held_out` people.

    Args:
        options: `nphm`, `nphm_data`, `nphm_anchors` and, optionally, `nphm_neutrals`: paths.
        held_out: number of people.
    """
    anchors = torch.from_numpy(_anchor_vertices(Path(options["nphm_anchors"])))
    neutrals = _neutrals(options.get("nphm_neutrals"))

    def read(people: list[int] | None) -> NphmScans:
        return read_nphm(options["nphm"], neutrals, options["nphm_data"], anchors, people)

    scans = read(None)
    numbers = [int(name) for name in scans.people]
    if not 0 <= held_out < len(numbers):
        raise CommandError(
            f"--held-out is {held_out}, and there are {len(numbers)} people; expected 0 to {len(numbers) - 1}"
        )
    if not held_out:
        return scans, None
    return read(numbers[:-held_out]), read(numbers[-held_out:])


def symmetric_pairs(mean: Tensor) -> int:
    """Number of leading pairs of anchors (A, 3) that mirror each other in x; NPHM orders left, right, left, right, ...

    Raises:
        CommandError: an anchor after the pairs does not lie in the middle.

    >>> import torch
    >>> symmetric_pairs(torch.tensor([[0.05, 0.0, 0.1], [-0.05, 0.0, 0.1], [0.0, 0.1, 0.0]]))
    1
    """
    flip = mean.new_tensor([-1.0, 1.0, 1.0])
    pairs = 0
    while 2 * pairs + 1 < len(mean):
        first, second = mean[2 * pairs], mean[2 * pairs + 1]
        if (first - second * flip).norm() > _MIRRORED or first[0].abs() < _MIRRORED / 2:
            break
        pairs += 1
    offsets = mean[2 * pairs :, 0].abs()
    if len(offsets) and float(offsets.max()) > _MIRRORED:
        raise CommandError(
            f"--nphm-anchors: {pairs} pairs of mirrored anchors are followed by one that is "
            f"{1e3 * float(offsets.max()):.0f} mm off the middle; expected pairs (left, right, left, right, ...) and "
            "then those of the middle"
        )
    return pairs


def _anchor_vertices(path: Path) -> np.ndarray:
    try:
        numbers = load_npy(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"--nphm-anchors {path}: cannot be read ({error})") from error
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not len(numbers):
        raise CommandError(
            f"--nphm-anchors {path}: has dtype {numbers.dtype} and shape {numbers.shape}; expected (A,) vertex "
            "numbers, as in lm_inds_65.npy of MonoNPHM's code"
        )
    return numbers.astype(np.int64)


def _neutrals(path: str | None) -> dict[int, int] | None:
    """The neutral expression of each person, from a JSON object of numbers."""
    if path is None:
        return None
    try:
        return {int(person): int(expression) for person, expression in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CommandError(f'--nphm-neutrals {path}: expected JSON like {{"17": 0, "18": 4}} ({error})') from error
