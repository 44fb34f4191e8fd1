"""Several captures as one: of one person in several recordings, or of several people on one mesh."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from headfields.data.capture import Capture
from headfields.data.frame_indices import Frames, frame_index, frame_indices
from headfields.records import Camera, HeadState, PixelBatch, Template

_OPTIONAL = ("label", "depth", "depth_scale")
"""Fields of a `PixelBatch` that a capture may lack."""
_JOINTS = ("pose", "joint_transforms")
"""Fields of a state that captures of one head model may lack or have."""


class JoinedCaptures:
    """Captures one after the other, for a `Trainer` and `evaluate`: frame i of the second is frame len(first) + i.

    States carry what latent tables look up: `frame_id` counts the frames of all captures, `sequence` is the number of
    the frame's capture, and `identity` that of its person. Each split has that of all captures.

    Args:
        captures: one or more, whose meshes have the same vertices in the same order, and whose expression has the same
            width. Sizes of images may differ.
        identities: the number of the person in each capture; all are one person, 0, if None.

    Attributes:
        captures: the captures.
        identities: the number of each one's person.
        name: their names, joined by "+".
        size: (height, width) of the first capture's images.
        splits: for each split's name its frames, in the numbers of all frames.

    Raises:
        ValueError: there is no capture, not one identity for each, or the states do not fit each other.
    """

    def __init__(self, captures: Iterable[Capture], identities: Sequence[int] | None = None) -> None:
        self.captures = tuple(captures)
        self.identities = (0,) * len(self.captures) if identities is None else tuple(identities)
        if not self.captures or len(self.identities) != len(self.captures) or min(self.identities) < 0:
            raise ValueError(
                f"JoinedCaptures: {len(self.captures)} captures and identities {self.identities}; expected at least "
                "one capture, and a number of a person, from 0, for each"
            )
        self.name = "+".join(capture.name for capture in self.captures)
        self.size = self.captures[0].size
        self.expression_width = self.captures[0].expression_width
        self._ends = list(itertools.accumulate(len(capture) for capture in self.captures))
        self._starts = [0, *self._ends[:-1]]
        self.splits: dict[str, Int64[Tensor, " n"]] = {}
        for start, capture in zip(self._starts, self.captures, strict=True):
            for split, frames in capture.splits.items():
                empty = torch.zeros(0, dtype=torch.long)
                self.splits[split] = torch.cat([self.splits.get(split, empty), frames + start])
        self._check_states()

    def __len__(self) -> int:
        return self._ends[-1]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{key} {len(value)}" for key, value in self.splits.items())
        return f"JoinedCaptures({self.name!r}, frames: {sizes})"

    @property
    def template(self) -> Template:
        """The template of the first capture, whose canonical mesh an avatar of all of them may have."""
        return self.captures[0].template

    @property
    def warnings(self) -> list[str]:
        """The warnings of all captures, each with its capture's name."""
        return [f"{capture.name}: {line}" for capture in self.captures for line in capture.warnings]

    def state(self, frames: Frames) -> HeadState:
        """The states of B frames, with `frame_id`, `sequence` and `identity`; with joints if all captures have them.

        Raises:
            TypeError, IndexError: a frame is no integer, or out of range.
            CaptureError: a mesh or expression file cannot be read.
        """
        parts, order = [], []
        for number, rows, own in self._by_capture(frames):
            state = self.captures[number].state(own)
            count = len(state)
            parts.append(
                state.replace(
                    frame_id=torch.tensor(own, dtype=torch.long) + self._starts[number],
                    sequence=torch.full((count,), number),
                    identity=torch.full((count,), self.identities[number]),
                )
            )
            order += rows
        parts = [self._common(part) for part in parts]
        return HeadState.cat(parts or [self._empty()])[torch.tensor(order, dtype=torch.long).argsort()]

    def _empty(self) -> HeadState:
        return self._common(self.captures[0].state([]))

    def _common(self, state: HeadState) -> HeadState:
        """The state with what all captures have."""
        codes = {name: code for name, code in state.codes.items() if name in self._codes}
        return state.replace(**dict.fromkeys(self._left_out), codes=codes)

    def camera(self, frames: Frames) -> Camera:
        """The B cameras of B frames.

        Raises:
            TypeError, IndexError, CaptureError: as `Capture.camera`.
            ValueError: the images of the frames' captures differ in size; ask for one capture's frames at a time.
        """
        parts, order = [], []
        for number, rows, own in self._by_capture(frames):
            parts.append(self.captures[number].camera(own))
            order += rows
        return Camera.cat(parts or [self.captures[0].camera([])])[torch.tensor(order, dtype=torch.long).argsort()]

    def decode_ahead(self, stop: Callable[[], bool]) -> None:
        """As `Capture.decode_ahead`, of all captures."""
        for capture in self.captures:
            capture.decode_ahead(stop)

    def image(self, frame: int) -> Float[Tensor, "h w 4"]:
        """Color and matte of a frame, straight alpha, sRGB in [0, 1]."""
        capture, own = self._one(frame)
        return capture.image(own)

    def label(self, frame: int) -> UInt8[Tensor, "h w"] | None:
        """Segmentation labels of a frame, or None if its capture has none."""
        capture, own = self._one(frame)
        return capture.label(own)

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Depth of the tracked mesh, meters, 0 where there is none; see `Capture.depth`."""
        capture, own = self._one(frame)
        return capture.depth(own)

    def landmarks(self, frame: int) -> Float[Tensor, "68 2"] | None:
        """68 landmarks of a frame in pixels, NaN where unknown; None if the frame has none."""
        capture, own = self._one(frame)
        return capture.landmarks(own)

    def pixels(self, frame: int, background: float | int = 1.0) -> PixelBatch:
        """Every pixel of a frame in row-major order, over a gray `background` in [0, 1]; `rays.frame` is 0."""
        capture, own = self._one(frame)
        return capture.pixels(own, background)

    def sample_pixels(
        self,
        frames: Frames,
        count: int,
        generator: torch.Generator,
        background: Literal["random", "white", "black"] = "random",
        weights: Mapping[int | str, float | int] | None = None,
    ) -> tuple[PixelBatch, Int64[Tensor, " b"]]:
        """Pixels drawn over B frames, by capture as `Capture.sample_pixels` draws them; each frame is as likely.

        Args:
            frames: see `Capture.frame_indices`; as for all methods on several frames.
            count: N, number of pixels; 0 is legal.
            generator: a CPU generator; the same state gives the same batch.
            background: behind the foreground; `"random"` draws a color for each pixel.
            weights: sampling weights of pixels by label or region, among those of one capture.

        Returns:
            The batch, and `frames` ordered by capture, which its `rays.frame` indexes, for `state(...)`. Labels and
            depths are left out unless all captures have them.

        Raises:
            TypeError, IndexError, ValueError, CaptureError: as `Capture.sample_pixels`.
        """

        def sample(capture: Capture, own: list[int], share: int) -> PixelBatch:
            return capture.sample_pixels(own, share, generator, background, weights)[0]

        return self._sampled(sample, frames, count, generator)

    def sample_patches(
        self,
        frames: Frames,
        count: int,
        side: int,
        generator: torch.Generator,
        background: Literal["random", "white", "black"] = "random",
    ) -> tuple[PixelBatch, Int64[Tensor, " b"]]:
        """Square patches over B frames, by capture as `Capture.sample_patches` draws them; each frame is as likely.

        Args:
            frames: (B,) frame indices.
            count: P, number of patches; 0 is legal.
            side: S, their side in pixels.
            generator: a CPU generator; the same state gives the same batch.
            background: behind the foreground; `"random"` draws a color for each patch.

        Returns:
            The batch, and `frames` ordered by capture, as `sample_pixels`.

        Raises:
            IndexError, ValueError, CaptureError: as `Capture.sample_patches`.
        """

        def sample(capture: Capture, own: list[int], share: int) -> PixelBatch:
            return capture.sample_patches(own, share, side, generator, background)[0]

        return self._sampled(sample, frames, count, generator)

    def _sampled(
        self,
        sample: Callable[[Capture, list[int], int], PixelBatch],
        frames: Frames,
        count: int,
        generator: torch.Generator,
    ) -> tuple[PixelBatch, Int64[Tensor, " b"]]:
        """Batches of the captures that have some of the frames, joined, and the frames in their order."""
        groups = self._by_capture(frames)
        if not groups:
            return sample(self.captures[0], [], count), torch.zeros(0, dtype=torch.long)
        owners = torch.tensor([at for at, (_, rows, _) in enumerate(groups) for _ in rows])
        drawn = owners[torch.randint(len(owners), (max(count, 0),), generator=generator)]
        counts = drawn.bincount(minlength=len(groups)).tolist()
        batches, used, row = [], [], 0
        for (number, rows, own), share in zip(groups, counts, strict=True):
            batch = sample(self.captures[number], own, share)
            batches.append(batch.replace(rays=batch.rays.replace(frame=batch.rays.frame + row)))
            used += [self._starts[number] + frame for frame in own]
            row += len(rows)
        lacking = [name for name in _OPTIONAL if any(getattr(batch, name) is None for batch in batches)]
        batches = [batch.replace(**dict.fromkeys(lacking)) for batch in batches]
        return PixelBatch.cat(batches), torch.tensor(used, dtype=torch.long)

    def _by_capture(self, frames: Frames) -> list[tuple[int, list[int], list[int]]]:
        """For each capture that has some of B frames: its number, their rows among the B, their numbers in it."""
        numbers = frame_indices(frames, len(self), f"JoinedCaptures {self.name!r}")
        groups = []
        for number, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            rows = [row for row, frame in enumerate(numbers) if start <= frame < end]
            if rows:
                groups.append((number, rows, [numbers[row] - start for row in rows]))
        return groups

    def _one(self, frame: int) -> tuple[Capture, int]:
        frame = frame_index(frame, len(self), f"JoinedCaptures {self.name!r}")
        ((number, _, (own,)),) = self._by_capture(frame)
        return self.captures[number], own

    def _check_states(self) -> None:
        def shapes_of(state: HeadState) -> dict[str, tuple[int, ...]]:
            return {name: tuple(value.shape[1:]) for name, value in vars(state).items() if isinstance(value, Tensor)}

        states = [capture.state([0]) for capture in self.captures]
        self._left_out = [name for name in _JOINTS if any(getattr(state, name) is None for state in states)]
        self._codes = set(states[0].codes).intersection(*(state.codes for state in states))
        shapes = [shapes_of(state.replace(**dict.fromkeys(self._left_out))) for state in states]
        for capture, shape in zip(self.captures, shapes, strict=True):
            if shape != shapes[0]:
                raise ValueError(
                    f"JoinedCaptures: states of {capture.name!r} have the shapes {shape}, and those of "
                    f"{self.captures[0].name!r} {shapes[0]}; all need the same mesh, expression and joints"
                )
