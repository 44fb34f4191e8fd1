"""Error-correction warp of MonoAvatar: a learned rigid motion per point and frame that absorbs tracking errors."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headfields.networks.latent_table import LatentTable
from headfields.networks.mlp import MLP, hidden_layers
from headfields.ops.few_rows import few_rows
from headfields.ops.frequency import frequency_encoding, frequency_window
from headfields.ops.mlp_tangents import mlp_tangents
from headfields.ops.ray_box import ray_box
from headfields.ops.rotations import left_jacobian, rotation_from_log_quaternion
from headfields.parts import Correction, Deformer
from headfields.records import Canonical, HeadState, Rays
from headfields.records.device_copy import any_directions

_HEADS = ("rotation", "center", "translation")
_OUTPUT_SPREAD = 1e-4


@dataclass(frozen=True)
class FrameCodes:
    """Codes of the frames, and weights of the encoding's bands, from `ErrorWarp.prepare` while the warp is on."""

    codes: Float[Tensor, "b width"]  # of a centered warp: less the mean of all that training has used
    window: Float[Tensor, " bands"]


class ErrorWarp(Deformer):
    """A learned rigid motion at each point of each training frame: q' = R(q + c) - c + t.

    R, c and t are outputs of a network of the point (encoded coarse to fine) and a code of its frame. The warp absorbs
    tracking errors, which would otherwise blur the avatar. It is exactly the identity in evaluation mode and before
    step `start`, and nearly so (some tenths of a millimeter) when it starts. All points are valid: compose it with a
    deformer that bounds the head, `Chain(NearSurface(...), ErrorWarp(...))`. Alone or first, it samples rays through
    its box.

    The formula is the paper's, sign for sign: the rotation is about -c. Coordinates, c and t are in half sides of the
    box, so that the unit is about the size of a head in every scene. Directions rotate with R; the paper does not say.

    Args:
        box: (2, 3) corners of the space that points come from, meters: `bounds()` of the deformer before it.
        frames: number of frame codes: `len(capture)`, because `HeadState.frame_id` indexes all frames of the capture.
        code_width: width of a frame's code; like `code_std` our own choice.
        code_std: initial standard deviation of the codes.
        bands: octaves of the point's encoding, after the coordinates themselves.
        hidden: units of all hidden layers.
        layers: hidden layers of the trunk.
        head_layers: hidden layers of each of the three heads (rotation, center, translation).
        start: the first training step with a warp.
        coarse_to_fine: steps, from step 0 on, over which the bands fade in one after the other (`frequency_window`);
            0: all are on from the start.
        centered: hold the warp's mean over the training frames at zero. Rotation, center and translation are then
            linear in a frame's code less the mean code of the frames that training has drawn, with coefficients that
            the network computes from the point alone: their mean over these frames is exactly zero at every point, and
            that of the motion up to second order. Otherwise (as in the paper) the code is an input of the network, and
            the warp may contain a motion that all frames share, which rendering without it then lacks. Our own
            variant.

    The trainer sets the step with `at_step`, and a buffer keeps it. For a short run, shorten `start` and
    `coarse_to_fine` in proportion. The learning rate of the warp and its codes is the trainer's
    `learning_rates={"warp": ...}`; its losses are `headfields.losses.Elastic` and `WarpMagnitude`.

    Differentiable in points, directions and parameters to second order, except at the kinks of the ReLUs.

    Raises:
        ValueError: an argument is out of range; in training, a state without `frame_id`.
        IndexError: if a training frame has no code.

    Source: MonoAvatar (Bai et al. 2023), section 3.1 and supplement; Nerfies (Park et al. 2021), section 3.
    """

    corrects = True
    follows_head = False
    rate_group = "warp"
    merged_over_processes: tuple[str, ...] = ()
    box: Tensor
    step: Tensor
    drawn: Tensor

    def __init__(
        self,
        box: Float[Tensor, "2 3"],
        frames: int,
        code_width: int = 8,
        code_std: float | int = 0.1,
        bands: int = 6,
        hidden: int = 128,
        layers: int = 5,
        head_layers: int = 2,
        start: int = 5_000,
        coarse_to_fine: int = 80_000,
        centered: bool = False,
    ) -> None:
        super().__init__()
        if box.shape != (2, 3) or not bool((box[1] > box[0]).all()):
            raise ValueError(f"ErrorWarp: box is {box.tolist()}; expected a minimum below a maximum corner, (2, 3)")
        for name, value, least in (
            ("bands", bands, 0), ("hidden", hidden, 1), ("layers", layers, 1), ("head_layers", head_layers, 0),
            ("start", start, 0), ("coarse_to_fine", coarse_to_fine, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"ErrorWarp: {name} is {value}; it must be at least {least}")
        self.register_buffer("box", box.detach().float().clone())
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.bands = bands
        self.start = start
        self._note(0)
        self.coarse_to_fine = coarse_to_fine
        self.codes = LatentTable(frames, code_width, code_std)
        self.centered = centered
        if centered:
            self.register_buffer("drawn", torch.zeros(frames, dtype=torch.bool))
            self.merged_over_processes = ("drawn",)
        inputs, outputs = (0, 3 * code_width) if centered else (code_width, 3)
        self.trunk = MLP(3 * (2 * bands + 1) + inputs, *hidden_layers(hidden, layers), bias=True)
        self.heads = nn.ModuleDict(
            {name: MLP(hidden, *hidden_layers(hidden, head_layers), outputs, bias=True) for name in _HEADS}
        )
        nn.init.kaiming_uniform_(self.trunk[-1].weight, nonlinearity="relu")  # type: ignore[arg-type]  # a ReLU follows
        for head in self.heads.values():
            nn.init.uniform_(head[-1].weight, -_OUTPUT_SPREAD, _OUTPUT_SPREAD)  # type: ignore[index]

    def extra_repr(self) -> str:
        return f"bands={self.bands}, start={self.start}, coarse_to_fine={self.coarse_to_fine}, step={int(self.step)}"

    def at_step(self, step: int) -> None:
        self.step.fill_(step)
        self._note(step)

    @property
    def _is_on(self) -> bool:
        """Whether the step has come. A GPU is waited for only where something else than `at_step` has set the step."""
        tensor, version = self._noted
        if tensor is not self.step or version != self.step._version:
            self._note(int(self.step))
        return self._on

    def _note(self, step: int) -> None:
        self._on, self._noted = step >= self.start, (self.step, self.step._version)

    def bounds(self) -> Float[Tensor, "2 3"]:
        return self.box

    def posed_bounds(self, prepared: FrameCodes | None) -> Float[Tensor, "2 3"]:
        return self.box

    def near_far(self, rays: Rays, prepared: FrameCodes | None) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        return ray_box(rays, self.box)

    def prepare(self, state: HeadState) -> FrameCodes | None:
        """The codes of the frames, or None while the warp is off; training requires `frame_id` from step 0 on."""
        if not self.training:
            return None
        index = state.need("ErrorWarp", "frame_id")
        codes = self.codes(index)
        if self.centered:
            if torch.is_grad_enabled():
                self.drawn[index] = True
            used = self.drawn[:, None].to(codes)
            codes = codes - (used * self.codes.table).sum(dim=0) / used.sum().clamp_min(1)
        return FrameCodes(codes, self.window().to(codes)) if self._is_on else None

    def window(self) -> Float[Tensor, " bands"]:
        """Weight of each band of the encoding at the current step, in [0, 1]."""
        if not self.coarse_to_fine:
            return frequency_window(self.bands, 1.0, device=self.step.device)
        progress = (self.step / self.coarse_to_fine).clamp_max(1.0)
        return frequency_window(self.bands, progress, device=self.step.device)

    def forward(
        self,
        points: Float[Tensor, "m 3"],
        directions: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        prepared: FrameCodes | None,
    ) -> Canonical:
        moved, turned = points, directions
        if prepared is not None:
            unit, encoded = self._encoded(points, prepared)
            condition = () if self.centered else (prepared.codes, frame)
            trunk = functional.relu(self.trunk(encoded, *condition))
            log, center, shift = (self._of_frame(self.heads[name](trunk), prepared, frame) for name in _HEADS)
            rotation = rotation_from_log_quaternion(log)
            # as a step from the point, so that rounding does not move points that the warp leaves in place
            arm = unit + center
            moved = points + self._scale() * ((rotation @ arm[..., None])[..., 0] - arm + shift)
            turned = (rotation @ directions[..., None])[..., 0]
        valid = torch.ones(len(points), dtype=torch.bool, device=points.device)
        return Canonical(points=moved, directions=turned, posed_points=points, frame=frame, valid=valid)

    def jacobian(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: FrameCodes | None
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 3"]]:
        """The warped points, and the exact derivative of each by its own point: J[m, i, j] = ∂q'ᵢ / ∂qⱼ.

        In forward mode: three tangents of each point go through the networks with it (`mlp_tangents`). Four times the
        products of `forward`, so losses compute it at a subset of the samples.

        Args:
            points: (M, 3), meters.
            frame: (M,) each point's row of the state.
            prepared: the result of `prepare`.

        Differentiable to second order in points and parameters.
        """
        identity = torch.eye(3, dtype=points.dtype, device=points.device)
        if prepared is None:
            return points, identity.expand(len(points), 3, 3)
        unit, encoded = self._encoded(points, prepared)
        x, tangents = encoded, self._slopes(encoded)
        if not self.centered:
            x = torch.cat([encoded, few_rows(prepared.codes, frame)], dim=-1)
            tangents = functional.pad(tangents, (0, prepared.codes.shape[1]))
        trunk, trunk_slopes = mlp_tangents(x, tangents, *_layers(self.trunk), relu_last=True)
        values, slopes = zip(
            *(mlp_tangents(trunk, trunk_slopes, *_layers(self.heads[name])) for name in _HEADS), strict=True
        )
        log, center, shift = (self._of_frame(value, prepared, frame) for value in values)  # (M, 3)
        log_slopes, center_slopes, shift_slopes = (self._of_frame(s, prepared, frame) for s in slopes)  # 3 tangents
        arm = unit + center
        arm_slopes = identity + center_slopes
        rotation = rotation_from_log_quaternion(log)
        turned = (rotation @ arm[..., None])[..., 0]
        spin = 2 * log_slopes @ left_jacobian(2 * log).mT  # the rotation's angular velocity along each tangent
        by_tangent = torch.linalg.cross(spin, turned[:, None].expand_as(spin)) + arm_slopes @ rotation.mT
        jacobian = (by_tangent - center_slopes + shift_slopes).mT
        return points + self._scale() * (turned - arm + shift), jacobian

    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Any, jacobians: bool = False
    ) -> list[Correction]:
        if prepared is None:
            return []
        if jacobians:
            return [Correction(points, *self.jacobian(points, frame, prepared))]
        directions = any_directions(points)
        return [Correction(points, self(points, directions, frame, prepared).points)]

    def _of_frame(self, output: Tensor, prepared: FrameCodes, frame: Tensor) -> Tensor:
        """A head's output (M, ..., 3) for each point's frame: of a centered warp, the product with the frame's code."""
        if not self.centered:
            return output
        width = prepared.codes.shape[1]
        code = few_rows(prepared.codes, frame).reshape(len(frame), *[1] * (output.ndim - 1), width)
        return (output.unflatten(-1, (3, width)) * code).sum(-1)

    def _scale(self) -> Tensor:
        return (self.box[1] - self.box[0]).max() / 2

    def _encoded(self, points: Tensor, prepared: FrameCodes) -> tuple[Tensor, Tensor]:
        """The points in half sides of the box, and their encoding with the bands' current weights."""
        unit = (points - self.box.mean(dim=0)) / self._scale()
        return unit, frequency_encoding(unit, self.bands, weights=prepared.window)

    def _slopes(self, encoded: Tensor) -> Tensor:
        """(M, 3, width): the derivative of the encoding by each coordinate, on which only a third of it depends."""
        waves = encoded[:, 3:].unflatten(-1, (self.bands, 2, 3))
        rate = torch.pi * 2.0 ** torch.arange(self.bands, device=encoded.device, dtype=encoded.dtype)
        # d/dx of w sin(f x) is f w cos(f x), and of w cos(f x) it is -f w sin(f x)
        slopes = torch.stack((waves[:, :, 1], -waves[:, :, 0]), dim=2) * rate[:, None, None]
        slopes = torch.cat((torch.ones_like(encoded[:, :3]), slopes.flatten(1)), dim=-1)
        coordinate = torch.arange(slopes.shape[1], device=encoded.device) % 3
        own = coordinate == torch.arange(3, device=encoded.device)[:, None]
        return torch.where(own, slopes[:, None], 0.0)


def _layers(network: Any) -> tuple[list[Tensor], list[Tensor]]:
    linears = list(network)[::2]
    return [linear.weight for linear in linears], [linear.bias for linear in linears]
