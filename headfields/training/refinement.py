"""Fitting a held-out frame's pose and codes to its image, so that misalignment can be told from quality.

A tracker is a millimeter off, and a sharp avatar pays for that in PSNR as a blurred one does not. Here the avatar is
frozen, and what the tracker has said of one frame is corrected by gradient descent on the frame's own pixels. Figures
found so use the test image: they measure what the avatar knows of the head, not how well it predicts the frame.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from headfields.metrics import image as metrics
from headfields.ops.rigid import rigid_transform
from headfields.ops.rotations import axis_angle, rotation_matrices
from headfields.ops.skinning import blend_shapes
from headfields.parts import Rendering
from headfields.records import Camera, HeadState
from headfields.training.frames import choose_frames, device_of, ground_truth

__all__ = ["Refinement", "correct_pose", "refine_frame"]

_DEPTH = 3.0  # how much longer steps along the optical axis are: the image says less about it, trackers err more in it
_FALL = 0.05  # what the rates end at
_DELTA = 0.1  # of the Huber loss, in units of color


@dataclass(frozen=True)
class Refinement:
    """One frame as its image has it.

    Attributes:
        camera: the corrected camera, one.
        state: the corrected state, one frame.
        rotation: angle of the correction of the pose, degrees.
        translation: how far the head's middle moved in the camera's frame, millimeters.
        psnr_before, psnr_after: of the whole image over `refine_frame`'s background, dB.
        rendering: the image (H, W, ...) after.
        seconds: that it took, without the two images for the figures.
        left_out: what was asked for and could not be refined, and why.
    """

    camera: Camera
    state: HeadState
    rotation: float
    translation: float
    psnr_before: float
    psnr_after: float
    rendering: Rendering
    seconds: float
    left_out: tuple[str, ...] = field(default=())


def correct_pose(
    camera: Camera, turn: Float[Tensor, "3"], shift: Float[Tensor, "3"], center: Float[Tensor, "3"]
) -> Camera:
    """A camera (4, 4) that sees the head turned about its own middle and shifted, both along the camera's axes.

    x_camera → exp(turn) (x_camera − c) + c + shift, where c is `center` in the camera's frame. About the head's middle
    a turn moves the head's image little, so that neither has to make up for the other.

    Args:
        camera: one camera.
        turn: (3,) axis-angle, radians.
        shift: (3,) meters.
        center: (3,) the head's middle, world space, meters.

    Differentiable to any order.
    """
    view = camera.world_to_camera
    rotation = rotation_matrices(turn)
    pivot = view[:3, :3] @ center + view[:3, 3]
    return camera.replace(world_to_camera=rigid_transform(rotation, pivot - rotation @ pivot + shift) @ view)


def refine_frame(
    avatar: Any,
    capture: Any,
    frame: int,
    camera: Camera | None = None,
    state: HeadState | None = None,
    pose: bool = True,
    expression: bool = False,
    codes: bool = True,
    basis: Float[Tensor, "e v 3"] | None = None,
    steps: int = 60,
    rays: int = 1024,
    pose_rate: float = 5e-4,
    expression_rate: float = 0.02,
    code_rate: float = 0.01,
    background: float | int = 1.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    psnr_before: float | None = None,
) -> Refinement:
    """Fits one frame's head pose, and what is asked for beside it, to the frame's image; the avatar stays as it is.

    Adam (β 0.9, 0.99), `steps` steps on `rays` random pixels each among those whose rays come near the head; the rates
    fall exponentially to a twentieth. The loss is Huber's (δ = 0.1) on color over `background`. The pose is corrected
    by `correct_pose`; a step turns the head by about `pose_rate` meters at its surface and shifts it by as much, three
    times that along the optical axis. If the image does not come out better, the frame is given back as it was.

    Args:
        avatar: a trained `headfields.Avatar`.
        capture: whose image is fitted.
        frame: index of the frame.
        camera, state: where to begin, one camera and one frame; the capture's if left out.
        pose: whether to correct the head's pose.
        expression: whether to correct the expression coefficients, and the vertices with them. For that the relation
            between the two must be known and linear: `basis`, or the `expression` of `blendshapes.npz` in the
            capture's folder, if it explains the capture's meshes.
        codes: whether to correct the latent codes of the state, where it has any.
        basis: (E, V, 3) meters that the vertices move by with each coefficient.
        steps: of the optimizer.
        rays: a step.
        pose_rate: meters.
        expression_rate, code_rate: in the units of coefficients and codes.
        background: gray in [0, 1] behind both sides.
        seed: of the pixels.
        device: where the avatar is; that of its parameters if None.
        psnr_before: of the frame as it is, if known already, which saves an image.

    Returns:
        A `Refinement`; its camera and state are detached. Gradients, mode and `requires_grad` of the avatar are left as
        they were.

    Raises:
        ValueError: the frame is not in the capture, steps or rays are below 1, or a basis does not fit the state.

    Where samples lie along the rays is not differentiated, nor which triangle is nearest; the points at the samples'
    middles are, through whatever deformer, encoder and decoder there is. Our own choice (MonoAvatar, Bai et al. 2023,
    drops its error-correction warp at test time and names the misalignment that is left).
    """
    if steps < 1 or rays < 1:
        raise ValueError(f"refine_frame: steps is {steps} and rays {rays}; both must be at least 1")
    frame = choose_frames(capture, "all", [frame])[0]
    device = device_of(avatar) if device is None else torch.device(device)
    index = torch.tensor([frame])
    camera = (capture.camera(index) if camera is None else camera).to(device)
    camera = camera if camera.world_to_camera.dim() == 2 else camera[0]
    camera = Camera(camera.world_to_camera.reshape(4, 4), camera.intrinsics.reshape(3, 3), camera.size).detach()
    state = (capture.state(index) if state is None else state).to(device).detach()
    truth, _ = ground_truth(capture, frame, background, device)
    if psnr_before is None:
        psnr_before = _psnr(avatar.render(camera, state, background), truth)
    began = time.perf_counter()
    free = _Free(camera, state, capture, pose, expression, codes, basis)
    rates = {"pose": pose_rate, "expression": expression_rate, "codes": code_rate}
    if free.groups:
        with _frozen(avatar):
            _descend(avatar, free, truth, background, steps, rays, rates, seed)
    found, changed = free.now()
    found, changed = found.detach(), changed.detach()
    seconds = time.perf_counter() - began
    rendering = avatar.render(found, changed, background)
    psnr_after = _psnr(rendering, truth)
    if not psnr_after > psnr_before:  # not a number, too, where descent went astray
        found, changed, psnr_after = camera, state, psnr_before
        rendering = avatar.render(found, changed, background)
    degrees, millimeters = _moved(camera, found, free.center)
    return Refinement(
        found, changed, degrees, millimeters, psnr_before, psnr_after, rendering, seconds, tuple(free.left_out)
    )


class _Free:
    """What is free to move, as parameters that start at 0, and what it makes of the frame."""

    def __init__(
        self,
        camera: Camera,
        state: HeadState,
        capture: Any,
        pose: bool,
        expression: bool,
        codes: bool,
        basis: Tensor | None,
    ) -> None:
        self.camera, self.state = camera, state
        vertices = state.vertices[0]
        self.center = vertices.mean(0)
        self.radius = torch.linalg.vector_norm(vertices - self.center, dim=-1).square().mean().sqrt().clamp_min(1e-6)
        self.left_out: list[str] = []
        self.basis: Tensor | None = None
        self.groups: dict[str, list[nn.Parameter]] = {}
        if pose:
            self.groups["pose"] = [nn.Parameter(vertices.new_zeros(3)) for _ in range(2)]
        if expression:
            self.basis = self._basis(capture, basis)
        if self.basis is not None and state.expression is not None:
            self.groups["expression"] = [nn.Parameter(torch.zeros_like(state.expression))]
        if codes and state.codes:
            self.groups["codes"] = [nn.Parameter(torch.zeros_like(code)) for code in state.codes.values()]

    @property
    def mesh_moves(self) -> bool:
        """Whether the state changes, so that the field has to be prepared anew for each step."""
        return bool({"expression", "codes"} & set(self.groups))

    def now(self) -> tuple[Camera, HeadState]:
        camera, state = self.camera, self.state
        if "pose" in self.groups:
            turn, shift = self.groups["pose"]
            camera = correct_pose(camera, turn / self.radius, shift * shift.new_tensor([1, 1, _DEPTH]), self.center)
        if "expression" in self.groups and self.basis is not None and state.expression is not None:
            (change,) = self.groups["expression"]
            state = state.replace(
                vertices=state.vertices + blend_shapes(change, self.basis), expression=state.expression + change
            )
        if "codes" in self.groups:
            changed = zip(state.codes.items(), self.groups["codes"], strict=True)
            state = state.replace(codes={name: code + change for (name, code), change in changed})
        return camera, state

    def _basis(self, capture: Any, basis: Tensor | None) -> Tensor | None:
        state = self.state
        if state.expression is None:
            self.left_out.append("expression: the capture has no coefficients")
            return None
        if basis is not None:
            wanted = (state.expression.shape[1], state.vertices.shape[1], 3)
            if basis.shape != wanted:
                raise ValueError(
                    f"refine_frame: basis has shape {tuple(basis.shape)}; expected {wanted} for the state's "
                    f"{wanted[0]} coefficients and {wanted[1]} vertices"
                )
            return basis.to(state.vertices)
        from headfields.data.expression_basis import expression_basis

        found, why = expression_basis(capture)
        if found is None:
            self.left_out.append(f"expression: {why}")
            return None
        return found.to(state.vertices)


def _descend(
    avatar: Any,
    free: _Free,
    truth: Float[Tensor, "h w 3"],
    background: float | int,
    steps: int,
    rays: int,
    rates: Mapping[str, float],
    seed: int,
) -> None:
    """Moves the parameters of `free`."""
    generator = torch.Generator().manual_seed(seed)
    width = free.camera.size[1]
    with torch.no_grad():
        prepared = avatar.field(free.state)
        near, far = prepared.near_far(free.camera.rays())
        inside = (near < far).nonzero()[:, 0].cpu()
    if not len(inside):
        return
    optimizer = torch.optim.Adam(
        [{"params": group, "lr": rates[name]} for name, group in free.groups.items()], betas=(0.9, 0.99)
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, _FALL ** (1 / steps))
    colors = truth.reshape(-1, 3)
    behind = truth.new_full((1, 3), float(background))
    for _ in range(steps):
        chosen = inside[torch.randint(len(inside), (rays,), generator=generator)].to(truth.device)
        camera, state = free.now()
        pixels = torch.stack([torch.div(chosen, width, rounding_mode="floor"), chosen % width], dim=-1)
        here = avatar.field(state) if free.mesh_moves else prepared
        rendering = avatar.renderer(camera.rays(pixels), here, behind.expand(rays, 3))
        loss = functional.huber_loss(rendering.rgb, colors[chosen], delta=_DELTA) / _DELTA
        optimizer.zero_grad(set_to_none=True)
        if not loss.requires_grad:  # no sample anywhere
            continue
        loss.backward()
        optimizer.step()
        schedule.step()


@contextlib.contextmanager
def _frozen(avatar: nn.Module) -> Iterator[None]:
    """In evaluation mode, no parameter of it learning; with gradients for the rest, also where the caller has none."""
    training = avatar.training
    learning = [p for p in avatar.parameters() if p.requires_grad]
    avatar.eval()
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        avatar.train(training)


def _psnr(rendering: Rendering, truth: Float[Tensor, "h w 3"]) -> float:
    value = metrics.psnr(rendering.rgb.clamp(0, 1), truth)
    return math.nan if value is None else value


def _moved(before: Camera, after: Camera, center: Float[Tensor, "3"]) -> tuple[float, float]:
    """Degrees and millimeters between two poses."""
    change = after.world_to_camera.double() @ torch.linalg.inv(before.world_to_camera.double())
    place = [view[:3, :3] @ center + view[:3, 3] for view in (before.world_to_camera, after.world_to_camera)]
    angle = torch.linalg.vector_norm(axis_angle(change[:3, :3]))
    return float(torch.rad2deg(angle)), 1000 * float((place[1] - place[0]).norm())
