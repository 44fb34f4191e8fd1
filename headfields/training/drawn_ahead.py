"""The next step's batch, drawn in a thread while the host launches the present step and the GPU computes.

A GPU needs some milliseconds for a step; to draw its pixels and to read its frames takes the host as long, and
much longer where the frames are not in memory yet. The thread draws with a copy of the run's generator, which moves
on as the batch is taken: whoever looks at the generator between two steps, as a checkpoint does, finds it where the
plain loop would have it, and the same seed gives the same batches.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

__all__ = ["DrawnAhead", "decoding_ahead"]

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class _Ahead(Generic[Drawn]):
    rays: int
    source: tuple[Any, ...]
    before: torch.Tensor  # the run's generator, when the draw began
    generator: torch.Generator
    future: Future[Drawn]


class DrawnAhead(Generic[Drawn]):
    """Draws what `draw(rays, generator)` gives, one step ahead; use it within a `with` block.

    Args:
        draw: called from one thread at a time.
        source: what the draw depends on besides its arguments: of another object, it is drawn anew.
    """

    def __init__(
        self, draw: Callable[[int, torch.Generator], Drawn], source: Callable[[], tuple[Any, ...]] = tuple
    ) -> None:
        self._draw, self._source = draw, source
        self._next: _Ahead[Drawn] | None = None

    def __enter__(self) -> "DrawnAhead[Drawn]":
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        return self

    def __exit__(self, *error: Any) -> None:
        self._next = None
        self._pool.shutdown(cancel_futures=True)

    def start(self, rays: int, generator: torch.Generator) -> None:
        """Begins to draw what the next `take` asks for, if it asks for as many rays."""
        own = generator.clone_state()
        future = self._pool.submit(self._draw, rays, own)
        self._next = _Ahead(rays, self._source(), generator.get_state(), own, future)

    def take(self, rays: int, generator: torch.Generator) -> Drawn:
        """What `draw(rays, generator)` gives, and leaves of the generator.

        Raises:
            Exception: as `draw`.
        """
        ahead, self._next = self._next, None
        if ahead is not None:
            same = all(a is b for a, b in zip(ahead.source, self._source(), strict=True))
            if same and ahead.rays == rays and torch.equal(ahead.before, generator.get_state()):
                drawn = ahead.future.result()
                generator.set_state(ahead.generator.get_state())
                return drawn
            ahead.future.exception()  # one draw at a time, whatever became of that
        return self._draw(rays, generator)


@contextlib.contextmanager
def decoding_ahead(capture: Any) -> Iterator[None]:
    """Within the block a thread decodes a capture's training frames, for the first steps to find them in memory."""
    decode, over = getattr(capture, "decode_ahead", None), threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="decoding") as pool:
        if decode is not None:
            pool.submit(decode, over.is_set)
        try:
            yield
        finally:
            over.set()
