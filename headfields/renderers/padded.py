"""Samples in buffers of a fixed size, whose number is known to the device alone.

The number of samples of a step depends on the scene. A host that makes tensors of that size waits for the device to
tell it, and a step whose sizes change cannot be captured as a CUDA graph. Here the sizes are fixed beforehand: the
samples are the first rows of a buffer, and the rows behind them, the padding, repeat samples that there are. Padding
belongs to no ray of the rendering, and no gradient reaches it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from headfields.ops.compositing import composite
from headfields.records import Canonical, Samples
from headfields.records.device_copy import send_numbers

Drawn = TypeVar("Drawn")

ROWS_PER_RAY = 64
"""Padding is composited as further rays of so many rows, so that no thread of a kernel gets all of it. Own choice."""

HEADROOM, SHRINK, GRANULE = 1.25, 0.75, 1024
"""A new size is the need times HEADROOM, a multiple of GRANULE; one below SHRINK of the old size replaces that. Own
choice: growing copies nothing, and a smaller size saves the time of the rows that stay empty."""


NAMES = ("marched", "samples", "visible")
"""The buffers of a step that marches: along the rays; at valid points; those that the camera sees."""


class Buffers:
    """Sizes of the buffers that a sampler and its renderer fill in a step, and what they need, by name.

    A buffer without a size gets one at its next use, for which the host waits. What does not fit is left out of the
    rendering and counted, never cut without a word: whoever sets `VolumeRenderer.sample_buffers` reads `needed`, and
    takes no step where `overflow()` is true.

    Args:
        device: device of the counts.
        names: the buffers, in the order in which a step fills them; each has what the one before it leaves over.

    Attributes:
        names: as above.
        rows: the sizes.
        needed: (B,) int64: the samples of the last call, those without room among them, in the order of `names`.
    """

    def __init__(self, device: torch.device, names: Sequence[str] = NAMES) -> None:
        self.names = tuple(names)
        self.rows: dict[str, int] = {}
        self.needed = torch.zeros(len(self.names), dtype=torch.long, device=device)
        self._limits = torch.zeros_like(self.needed)

    def size(self, name: str, count: Callable[[], Tensor]) -> int:
        """The size of a buffer; `count` gives the number of samples where it has none yet."""
        if name not in self.rows:
            self.resize({**self.rows, name: _rows_for(int(count()))})
        return self.rows[name]

    def resize(self, rows: Mapping[str, int]) -> None:
        """Sets all sizes; a buffer without one gets it at its next use."""
        self.rows = dict(rows)
        limits = [self.rows.get(name, 0) for name in self.names]
        self._limits.copy_(send_numbers(limits, torch.long, self.needed.device))

    def note(self, name: str, needed: Int[Tensor, ""]) -> None:
        """Counts the samples of a call."""
        self.needed[self.names.index(name)].copy_(needed)

    def overflow(self) -> Bool[Tensor, ""]:
        """Whether the last call had more samples than room."""
        return (self.needed > self._limits).any()

    def fit(self, most: Mapping[str, int]) -> bool:
        """Fits the sizes to the largest numbers of samples of the last calls; whether one has changed.

        What follows a buffer that overflowed has not had all of its samples: it gets a new size at its next use.
        """
        rows = dict(self.rows)
        for place, name in enumerate(self.names):
            if name not in rows or name not in most:
                continue
            overflows, fitting = most[name] > rows[name], _rows_for(most[name])
            if overflows or fitting < SHRINK * rows[name]:
                rows[name] = fitting
            if overflows:
                for later in self.names[place + 1 :]:
                    rows.pop(later, None)
        changed = rows != self.rows
        if changed:
            self.resize(rows)
        return changed


def _rows_for(samples: int) -> int:
    return max(-(-int(samples * HEADROOM) // GRANULE), 1) * GRANULE


@dataclass(frozen=True)
class PaddedSamples(Samples):
    """C rows, of which the first are the samples of N rays and the others padding.

    Attributes:
        offsets: (N + 1,) the rays' first samples; the last one is the number of samples.
        is_sample: (C,) False for padding.
    """

    offsets: Int[Tensor, " offsets"]
    is_sample: Bool[Tensor, " m"]

    @classmethod
    def of(cls, samples: Samples, offsets: Int[Tensor, " offsets"]) -> "PaddedSamples":
        """C rows with the offsets of those that are samples."""
        is_sample = torch.arange(len(samples), device=offsets.device) < offsets[-1]
        return cls(samples.ray, samples.start, samples.end, offsets, is_sample)

    @property
    def count(self) -> Int[Tensor, ""]:
        """The number of samples, on the device."""
        return self.offsets[-1]

    def packing(self) -> Int[Tensor, " more"]:
        """Offsets of all C rows: those of the N rays, and of further ones that have the padding."""
        rows = len(self)
        further = torch.arange(ROWS_PER_RAY, rows + ROWS_PER_RAY, ROWS_PER_RAY, device=self.ray.device)
        return torch.cat([self.offsets, (self.count + further).clamp_max(rows)])

    def __getitem__(self, index: object) -> "PaddedSamples":
        raise TypeError("PaddedSamples cannot be indexed: its rays' offsets would be wrong; use `compact`")


def compact(
    samples: PaddedSamples, canonical: Canonical, mask: Bool[Tensor, " m"], buffers: Buffers, name: str
) -> tuple[PaddedSamples, Canonical]:
    """The samples where the mask is true and their canonical points, as `compact_rows`."""
    kept, index = compact_rows(samples, mask, buffers, name)
    return kept, canonical[index]


def compact_rows(
    samples: PaddedSamples, mask: Bool[Tensor, " m"], buffers: Buffers, name: str
) -> tuple[PaddedSamples, Int[Tensor, " kept"]]:
    """The samples where the mask is true, in order, in the buffer `name`, and the row of each; padding repeats them in
    turn.

    Without any, all rows are padding, in the place of the first one.
    """
    mask = mask & samples.is_sample
    rank = mask.cumsum(0)
    needed = rank[-1]
    rows = buffers.size(name, lambda: needed)
    buffers.note(name, needed)
    row = torch.arange(rows, device=mask.device)
    slot = torch.where(mask, rank - 1, rows).clamp_max(rows)
    place = row.new_zeros(rows + 1).scatter_(0, slot, torch.arange(len(mask), device=mask.device))
    count = needed.clamp_max(rows)
    index = place[row % count.clamp_min(1)]
    is_sample = row < count
    start, end = samples.start[index], samples.end[index]
    kept = PaddedSamples(
        ray=samples.ray[index], start=start, end=torch.where(is_sample, end, start),
        offsets=pad(rank, (1, 0))[samples.offsets].clamp_max(rows), is_sample=is_sample,
    )  # fmt: skip
    return kept, index


def between_edges(
    edges: Float[Tensor, "n edges"], mask: Bool[Tensor, "n intervals"], buffers: Buffers, name: str
) -> PaddedSamples:
    """The intervals between neighboring edges of N rays where the mask is true, in the buffer `name`."""
    rays, count = mask.shape
    ray = torch.arange(rays, device=edges.device)[:, None].expand(-1, count).reshape(-1)
    offsets = torch.arange(rays + 1, device=edges.device) * count
    every = PaddedSamples.of(Samples(ray, edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1)), offsets)
    return compact_rows(every, mask.reshape(-1), buffers, name)[0]


class ImageBuffers:
    """The buffers of the pieces of an image, kept from image to image: the host waits once for each image.

    Args:
        names: those of each piece's `Buffers`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._buffers: dict[Any, Buffers] = {}

    def draw(
        self, pieces: Sequence[slice], device: torch.device, draw: Callable[[slice, Buffers], Drawn]
    ) -> list[Drawn]:
        """Draws each piece into its buffers, those of an image before; pieces that overflow are drawn once more.

        A piece that is drawn for the first time gets its sizes then, for which the host waits.
        """
        used = []
        for place, piece in enumerate(pieces):
            key = place, piece.stop - piece.start, device
            if key not in self._buffers:
                self._buffers[key] = Buffers(device, self._names)
            used.append(self._buffers[key])
        drawn = [draw(piece, buffers) for piece, buffers in zip(pieces, used, strict=True)]
        needed = torch.stack([buffers.needed for buffers in used]).tolist() if used else []
        for place, (buffers, counts) in enumerate(zip(used, needed, strict=True)):
            most = dict(zip(self._names, counts, strict=True))
            overflows = any(most[name] > rows for name, rows in buffers.rows.items())
            buffers.fit(most)
            if overflows:
                drawn[place] = draw(pieces[place], buffers)
        return drawn


def finite_without_samples(samples: PaddedSamples, canonical: Canonical) -> Canonical:
    """The points as they are, or all at the origin where none is a sample.

    The only rows then are of points that are not valid, maybe not finite, and zero times that is no gradient.
    """
    none = samples.count == 0
    return canonical.map(lambda tensor: tensor.masked_fill(none, 0))


def composite_padded(
    weights: Float[Tensor, " m"], rgb: Float[Tensor, "m 3"], samples: PaddedSamples, packing: Int[Tensor, " more"],
    background: Float[Tensor, "n 3"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, " n"]]:  # fmt: skip
    """`headfields.ops.composite` of the N rays, without those of the padding; `packing` is `samples.packing()`."""
    rays = len(background)
    color, opacity, depth = composite(weights, rgb, samples, len(packing) - 1, offsets=packing)
    color, opacity, depth = color[:rays], opacity[:rays], depth[:rays]
    return torch.addcmul(color, 1 - opacity[:, None], background.to(color.dtype)), opacity, depth
