"""Density control of Gaussians: clone, split, prune and opacity reset (3D Gaussian Splatting, GaussianAvatars).

The other choice is `headfields.training.MCMC`. Both change the number of Gaussians while they train, as callbacks of
the trainer, and keep the optimizer's moments in step.
"""

import base64
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.losses.base import check_positive
from headfields.networks.gaussians import Gaussians
from headfields.ops.rotations import rotation_from_quaternion
from headfields.parts import Deformer
from headfields.training.processes import Processes

__all__ = ["DensityControl", "check_moments", "float_values", "gaussians_of", "step_generator", "world_sizes"]

_SHRINK = 1.6
"""What the scales of a Gaussian that is split are divided by (3DGS, section 5.2)."""
_LATE = ("step_size",)
"""Moments of an optimizer that do not start at zero, so that a new row has no start for them."""


class DensityControl:
    """A callback of `Trainer` that adds Gaussians where the image asks for more, and drops those that show nothing.

    Every `every` steps, after `start` and before `stop`:

    1. Gaussians whose screen-space gradient, averaged over the steps in which they were drawn, is at least `gradient`
       are cloned if their largest standard deviation is at most `size`, else split in two: children are drawn from the
       Gaussian itself and have 1/1.6 of its scales. All children inherit the parent's triangle, color and opacity.
    2. Gaussians of opacity below `least_opacity` are dropped, and, once opacities have been reset, those larger than
       `largest` or, on screen, than `largest_radius`. A triangle that has Gaussians keeps its most opaque one, or, as
       in GaussianAvatars' released code, all that it would lose if it lost all.

    Every `reset_every` steps opacities are cut to `reset_opacity`. Neither happens once the share `until` of the run is
    done: clones double an opacity, children are drawn at random, and what follows has to mend both. Where `most`
    Gaussians would be exceeded, those with the largest gradients grow. New rows and reset opacities start with moments
    of zero; the others keep theirs.

    The defaults are those of 3D Gaussian Splatting (Kerbl et al. 2023, section 5.2 and its released code), but for the
    sizes, whose unit there is the extent of the cameras (0.01 and 0.1 of it): 3 mm and 30 mm, a hundredth and a tenth
    of a head of 30 cm, and `most`, are our own choice. The released code also drops Gaussians of a radius above 20
    pixels once opacities have been reset (`largest_radius=20`); that is left out by default, because pixels are no size
    of a head. GaussianAvatars (Qian et al. 2024, section 3.3: children are bound as their parent, every triangle keeps
    one) trains 600,000 steps with start=10_000, stop=600_000, every=2_000 and reset_every=60_000. Clones stay
    where their original is, as in the released code; children are drawn around their parent in canonical space.

    Deterministic: random numbers depend on `seed` and the step alone. A resumed run equals an unbroken one. Several
    processes add up what each has drawn, in every step, and so decide alike.

    Args:
        start, stop, every: the steps after which it acts; `stop` is the first after which it no longer does. A run that
            ends soon after a reset ends transparent: give it a `stop` or `until`.
        until: share of the run, by steps or minutes, after which it no longer acts; 1: all of it.
        gradient: threshold of the gradient by the projected center, in the unit of the published one: half an image a
            unit, of the loss of one image.
        absolute: read the sum of the magnitudes over pixels (AbsGS, Ye et al. 2024, whose threshold is 0.0008) instead.
        size: meters.
        largest: meters; None drops none.
        largest_radius: radius on screen, three standard deviations, pixels, the largest since the last call; None drops
            none.
        least_opacity: in [0, 1].
        reset_every: steps; None never resets.
        reset_opacity: in (0, 1].
        most: number of Gaussians that is not exceeded by growing.
        keep_bound: what a triangle keeps of Gaussians that would all be dropped: "most_opaque"; "all", as in
            GaussianAvatars' released code (scene/gaussian_model.py, `prune_points`); None: nothing.
        seed: of the children's places.

    Attributes:
        last: what the last call did: "cloned", "split", "pruned", "count".

    Raises:
        ValueError: an argument is out of range. Later: the avatar has no Gaussians, or the capture has other sizes.
        TypeError: later: an optimizer whose moments are not rows of the parameters, or do not start at zero.
    """

    def __init__(
        self,
        *,
        start: int = 500,
        stop: int = 15_000,
        every: int = 100,
        until: float | int = 1.0,
        gradient: float | int = 2e-4,
        absolute: bool = False,
        size: float | int = 0.003,
        largest: float | int | None = 0.03,
        largest_radius: float | int | None = None,
        least_opacity: float | int = 0.005,
        reset_every: int | None = 3000,
        reset_opacity: float | int = 0.01,
        most: int = 100_000,
        keep_bound: Literal["most_opaque", "all"] | None = "most_opaque",
        seed: int = 0,
    ) -> None:
        check_positive("DensityControl", every=every, gradient=gradient, size=size, most=most)
        if start < 0 or stop < start:
            raise ValueError(f"DensityControl: start is {start} and stop {stop}; expected 0 <= start <= stop")
        if not 0 < until <= 1:
            raise ValueError(f"DensityControl: until is {until}; expected a share of the run, in (0, 1]")
        if largest is not None:
            check_positive("DensityControl", largest=largest)
        if largest_radius is not None:
            check_positive("DensityControl", largest_radius=largest_radius)
        if keep_bound not in ("most_opaque", "all", None):
            raise ValueError(f"DensityControl: keep_bound is {keep_bound!r}; expected 'most_opaque', 'all' or None")
        if reset_every is not None:
            check_positive("DensityControl", reset_every=reset_every)
        if not 0 <= least_opacity < 1 or not 0 < reset_opacity <= 1:
            raise ValueError(
                f"DensityControl: least_opacity is {least_opacity} and reset_opacity {reset_opacity}; expected "
                "opacities"
            )
        self.start, self.stop, self.every, self.until, self.seed = start, stop, every, until, seed
        self.gradient, self.absolute, self.size, self.largest = gradient, absolute, size, largest
        self.least_opacity, self.reset_every, self.reset_opacity = least_opacity, reset_every, reset_opacity
        self.most, self.keep_bound, self.largest_radius = most, keep_bound, largest_radius
        self.last: dict[str, int] = {}
        self._sum: Tensor | None = None
        self._drawn: Tensor | None = None
        self._sizes = torch.zeros(0)
        self._radii: Tensor | None = None

    def on_start(self, trainer: Any) -> None:
        """Checks the trainer, and has the renderer keep what it reads."""
        gaussians = gaussians_of("DensityControl", trainer)
        if self.absolute:
            trainer.avatar.renderer.absolute = True
        if self._sum is not None and len(self._sum) != len(gaussians):
            raise ValueError(
                f"DensityControl: its statistics are of {len(self._sum)} Gaussians, and the avatar has "
                f"{len(gaussians)}; they belong to another run"
            )

        self._allocate(gaussians)

    def phase(self, step: int) -> bool:
        """What of the step `on_launch` depends on: see `Callback`."""
        return step < self.stop

    def on_launch(self, trainer: Any, rendering: Any, taken: Bool[Tensor, ""], step: int) -> None:
        """Adds the step's gradients, of all processes, if the optimizer has taken it."""
        if step < self.stop:
            self._add(rendering, taken, trainer.processes)

    def on_step(self, trainer: Any, outcome: Any) -> None:
        """Acts where it is due."""
        step, gaussians = trainer.progress.step, trainer.avatar.gaussians
        if outcome.not_finite or step >= self.stop or trainer.fraction > self.until:
            return
        if step > self.start and step % self.every == 0:
            check_moments("DensityControl", trainer.optimizer, gaussians)
            was_reset = self.reset_every is not None and step > self.reset_every
            generator = step_generator(self.seed, step)
            self._refine(gaussians, trainer.avatar.deformer, trainer.optimizer, was_reset, generator)
            trainer.resized()
        if self.reset_every is not None and step % self.reset_every == 0:
            self._reset(gaussians, trainer.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """The sums of gradients since the last time it acted."""
        if self._sum is None or self._drawn is None:
            return {}
        state = {"gradient": _text(self._sum), "drawn": _text(self._drawn)}
        return state if self._radii is None else {**state, "radii": _text(self._radii)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict()`."""
        self._sum = self._drawn = self._radii = None
        if "radii" in state:
            self._radii = float_values(state["radii"], "radii")
        if state:
            self._sum, self._drawn = (float_values(state.get(name), name) for name in ("gradient", "drawn"))
            if len(self._sum) != len(self._drawn) or (self._radii is not None and len(self._radii) != len(self._sum)):
                raise ValueError("DensityControl: its statistics are of different numbers of Gaussians")

    def _allocate(self, gaussians: Gaussians) -> None:
        """The sums, zero where there are none yet, on the device of the Gaussians; a step adds to these tensors."""
        device = gaussians.position.device
        if self._sum is None or self._drawn is None:
            self._sum = torch.zeros(len(gaussians), device=device)
            self._drawn = torch.zeros_like(self._sum)
        self._sum, self._drawn = self._sum.to(device), self._drawn.to(device)
        self._sizes = torch.zeros_like(self._sum)
        if self.largest_radius is not None:
            self._radii = torch.zeros_like(self._sum) if self._radii is None else self._radii.to(device)

    @torch.no_grad()
    def _add(self, rendering: Any, taken: Bool[Tensor, ""], processes: Processes) -> None:
        assert self._sum is not None and self._drawn is not None
        sizes = processes.maximum(world_sizes(rendering))
        self._sizes.copy_(torch.where(taken, sizes, self._sizes))
        if self._radii is not None:
            radii = processes.maximum(rendering.rasterized.radii.amax(0).to(self._radii))
            self._radii.copy_(torch.where(taken, torch.maximum(radii, self._radii), self._radii))
        means2d_offset = rendering.means2d_absgrad if self.absolute else rendering.means2d_offset
        grad = None if means2d_offset is None else means2d_offset.grad  # None: nothing was drawn
        if grad is None and not processes.several:
            return
        height, width = rendering.opacity.shape[-2:]
        frames: Any = len(rendering.rasterized.radii)
        if processes.several:
            frames = processes.sum(self._sum.new_tensor(float(frames)))
        if grad is None:
            length, drawn = torch.zeros_like(self._sum), torch.zeros_like(self._drawn)
        else:
            # 3DGS differentiates by coordinates in [-1, 1], and the loss of one image; here of the mean over frames.
            across, down = (0.5 * side * frames for side in (width, height))
            is_drawn = (rendering.rasterized.radii > 0) & taken
            lengths = torch.hypot(grad[..., 0] * across, grad[..., 1] * down)
            length, drawn = torch.where(is_drawn, lengths, 0.0).sum(0).float(), is_drawn.sum(0)
        self._sum += processes.sum(length)
        self._drawn += processes.sum(drawn.to(self._drawn))

    @torch.no_grad()
    def _refine(
        self,
        gaussians: Gaussians,
        deformer: Deformer,
        optimizer: torch.optim.Optimizer,
        was_reset: bool,
        generator: torch.Generator,
    ) -> None:
        assert self._sum is not None and self._drawn is not None
        count, device, sizes = len(gaussians), gaussians.position.device, self._sizes
        mean = self._sum / self._drawn.clamp_min(1)
        grows = mean >= self.gradient
        room = max(self.most - count, 0)
        if int(grows.sum()) > room:
            best = mean.masked_fill(~grows, -1.0).argsort(descending=True, stable=True)[:room]
            grows = torch.zeros_like(grows).index_fill_(0, best, True)
        splits = grows & (sizes > self.size)
        clones, parents = (grows & ~splits).nonzero()[:, 0], splits.nonzero()[:, 0]
        index = torch.cat([(~splits).nonzero()[:, 0], clones, parents, parents])
        old = count - len(parents)
        fresh = torch.arange(len(index), device=device) >= old
        child = torch.arange(len(index), device=device) >= old + len(clones)
        position, log_scale = gaussians.position[index], gaussians.log_scale[index]
        draws = torch.randn(2, len(parents), 3, generator=generator).to(position)
        position[child] = _children(gaussians, deformer, parents, draws).flatten(0, 1)
        log_scale[child] -= math.log(_SHRINK)
        sizes = torch.where(child, sizes[index] / _SHRINK, sizes[index])
        opacity = gaussians.opacity_logit[index].sigmoid()
        drop = opacity < self.least_opacity
        if was_reset and self.largest is not None:
            drop |= sizes > self.largest
        if was_reset and self.largest_radius is not None and self._radii is not None:
            drop |= (self._radii[index] > self.largest_radius) & ~fresh  # new ones have not been drawn yet
        if self.keep_bound is not None:
            drop &= ~_last_ones(gaussians.face[index], opacity, drop, self.keep_bound == "all")
        kept = (~drop).nonzero()[:, 0]
        gaussians.take(index[kept], fresh[kept], optimizer, position=position[kept], log_scale=log_scale[kept])
        self.last = {
            "cloned": len(clones), "split": len(parents), "pruned": int(drop.sum()), "count": len(gaussians),
        }  # fmt: skip
        self._sum = self._drawn = self._radii = None
        self._allocate(gaussians)

    @torch.no_grad()
    def _reset(self, gaussians: Gaussians, optimizer: torch.optim.Optimizer) -> None:
        if self.reset_opacity == 1:
            return
        gaussians.opacity_logit.clamp_(max=math.log(self.reset_opacity / (1 - self.reset_opacity)))
        for moment in optimizer.state.get(gaussians.opacity_logit, {}).values():
            if isinstance(moment, Tensor) and moment.shape == gaussians.opacity_logit.shape:
                moment.zero_()


def _children(
    gaussians: Gaussians, deformer: Deformer, parents: Int[Tensor, " p"], draws: Float[Tensor, "2 p 3"]
) -> Float[Tensor, "2 p 3"]:
    """Positions, in the coordinates of the deformer, at these numbers of standard deviations from their parents. Those
    coordinates may be no lengths (`EmbeddedBinding`), so places are found in canonical space."""
    face = gaussians.face[parents]
    rest = deformer.rest(gaussians().map(lambda tensor: tensor.detach()[parents]), face)
    shift = (rotation_from_quaternion(rest.quaternions) @ (rest.scales * draws)[..., None])[..., 0]
    places = (deformer.attach(rest.replace(means=rest.means + own), face)[0].means for own in shift)
    return torch.stack(list(places))


def _last_ones(
    face: Tensor, opacity: Float[Tensor, " n"], drop: Bool[Tensor, " n"], all_of_them: bool
) -> Bool[Tensor, " n"]:
    """All Gaussians, or the most opaque one (of equal ones the first), of each triangle that would lose all of its."""
    kept = torch.zeros_like(drop)
    bound = face >= 0
    if not bool((drop & bound).any()):
        return kept
    alive = torch.zeros(int(face.max()) + 1, dtype=torch.bool, device=face.device)
    alive[face[bound & ~drop]] = True
    losing = (bound & drop).nonzero()[:, 0]
    losing = losing[~alive[face[losing]]]
    if all_of_them:
        kept[losing] = True
        return kept
    order = losing[opacity[losing].argsort(descending=True, stable=True)]
    order = order[face[order].argsort(stable=True)]  # by triangle, and in it by opacity
    faces = face[order]
    first = torch.ones_like(faces, dtype=torch.bool)
    first[1:] = faces[1:] != faces[:-1]
    kept[order[first]] = True
    return kept


def gaussians_of(owner: str, trainer: Any) -> Gaussians:
    """The Gaussians of the trainer's avatar, which a callback changes.

    Raises:
        ValueError: it has none.
    """
    gaussians = getattr(trainer.avatar, "gaussians", None)
    if not isinstance(gaussians, Gaussians):
        raise ValueError(
            f"{owner}: the avatar, a {type(trainer.avatar).__name__}, has no Gaussians; it changes those of a "
            "headfields.SplatAvatar"
        )
    check_moments(owner, trainer.optimizer, gaussians)
    return gaussians


def check_moments(owner: str, optimizer: torch.optim.Optimizer, gaussians: Gaussians) -> None:
    """Raises TypeError for an optimizer whose state cannot follow rows that come and go."""
    for name, parameter in gaussians.named_parameters():
        for key, moment in optimizer.state.get(parameter, {}).items():
            if not isinstance(moment, Tensor) or not moment.ndim:
                continue
            if moment.shape != parameter.shape or key in _LATE:
                why = "does not start at zero" if key in _LATE else f"has shape {tuple(moment.shape)}"
                raise TypeError(
                    f"{owner}: {type(optimizer).__name__} keeps {key!r} of {name} {tuple(parameter.shape)}, which "
                    f"{why}, so it cannot follow Gaussians that come and go; use one with a moment for each number, as "
                    "Adam"
                )


def step_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers that depend on a seed and a step alone (PyTorch's generator reads 32 bits of its seed)."""
    return torch.Generator().manual_seed((seed * 2_654_435_761 + step) % 2**32)


def world_sizes(rendering: Any) -> Float[Tensor, " n"]:
    """The largest standard deviation (N,) of each Gaussian over axes and frames of a rendering, meters."""
    largest = rendering.splats.scales.detach().amax(dim=-1)
    return largest if largest.ndim == 1 else largest.amax(0)


def _text(values: Float[Tensor, " n"]) -> str:
    """float32 numbers as text, to the bit: what the state of a callback may hold."""
    return base64.b64encode(values.detach().float().cpu().numpy().tobytes()).decode()


def float_values(text: Any, name: str) -> Float[Tensor, " n"]:
    """The float32 numbers of a text in a callback's state.

    Raises:
        ValueError: it is none.
    """
    try:
        values = torch.from_numpy(np.frombuffer(base64.b64decode(text, validate=True), np.float32).copy())
    except (TypeError, ValueError) as error:
        raise ValueError(f"DensityControl: {name} of its state is no text of float32 numbers") from error
    if not bool(values.isfinite().all()):
        raise ValueError(f"DensityControl: {name} of its state has numbers that are not finite")
    return values
